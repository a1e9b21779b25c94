//! How far the seqs of a `disk` topic are promised never to be used twice (I-58). A promise is a mark in the
//! log; it holds once the mark is durable. Not here: writing marks ([`shard`](crate::shard)).

use crate::limits::SEQ_RESERVE;

/// Marks on their way to the disk that a topic knows one by one: as many as it makes in the time of a few syncs.
const WAITING_MAX: usize = 6;

/// A mark on its way to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    through: u64,
    block: u64,
}

/// See the module's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reserved {
    /// Seqs up to here have a mark in the log.
    through: u64,
    /// Seqs up to here have a durable one.
    durable: u64,
    /// Marks that were not durable when last looked at, oldest first; of more than fit, the last is the newest.
    waiting: [Mark; WAITING_MAX],
    waiting_len: usize,
}

impl Reserved {
    /// What a recovery found: durable all of it.
    pub fn recovered(through: u64) -> Reserved {
        Reserved { through, durable: through, ..Reserved::default() }
    }

    /// The highest seq that any mark names.
    pub fn through(&self) -> u64 {
        self.through
    }

    /// Whether a write that ends at `last_seq` should bring a mark: often, because a mark is small and each sync
    /// should find a fresh one of every topic.
    pub fn mark_is_due(&self, last_seq: u64) -> bool {
        last_seq + SEQ_RESERVE / 8 * 7 > self.through
    }

    /// The block that should be synced now if a write that ended at `last_seq` is not to be followed by one
    /// that must wait: of what one mark promises, three eighths are left.
    pub fn sync_is_due(&self, last_seq: u64) -> Option<u64> {
        let is_due = self.waiting_len > 0 && last_seq + SEQ_RESERVE / 8 * 3 > self.durable;
        is_due.then_some(self.waiting[0].block)
    }

    /// A mark through this seq is in the log, in this block.
    pub fn marked(&mut self, through: u64, block: u64) {
        debug_assert!(through > self.through, "marks go forward");
        self.through = through;
        self.waiting_len = (self.waiting_len + 1).min(WAITING_MAX);
        self.waiting[self.waiting_len - 1] = Mark { through, block };
    }

    /// Whether a durable mark covers the seq; `is_durable` tells it of a block. If not, the write that uses
    /// it must be synced with everything before it.
    pub fn covers(&mut self, seq: u64, is_durable: impl Fn(u64) -> bool) -> bool {
        let waiting = &self.waiting[..self.waiting_len];
        let durable = waiting.iter().take_while(|mark| is_durable(mark.block)).count();
        if durable > 0 {
            self.durable = waiting[durable - 1].through;
            self.waiting.copy_within(durable..self.waiting_len, 0);
            self.waiting_len -= durable;
        }
        seq <= self.durable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seq_is_covered_once_its_mark_is_durable() {
        // I-58: last seq, durable block, whether a mark is due, whether the write must not wait, which block
        // should be synced
        let table = [
            (1, 0, true, false, Some(10)),
            (2, 0, false, false, Some(10)), // mark 1 is on its way
            (2, 10, false, true, None),
            (129, 10, false, true, None),
            (130, 10, true, true, None), // early, in block 20: mark 1 still covers it
            (258, 10, false, true, None),
            (259, 10, true, true, None), // block 30
            (641, 10, true, true, None), // block 40: three eighths of mark 1 are left
            (642, 10, false, true, Some(20)),
            (770, 30, true, true, None), // block 50; marks 2 and 3 cover it
            (899, 30, true, true, None), // block 60
            (900, 30, false, true, Some(40)),
            (1283, 30, true, true, Some(40)),   // block 70
            (1284, 30, false, false, Some(40)), // beyond mark 3, and mark 4 is not durable
            (1284, 70, false, true, None),
        ];
        let mut reserved = Reserved::default();
        let mut block = 0;
        for (last_seq, durable, due, covered, sync) in table {
            assert_eq!(reserved.mark_is_due(last_seq), due, "{last_seq}");
            if due {
                block += 10;
                reserved.marked(last_seq + SEQ_RESERVE, block);
            }
            assert_eq!(reserved.covers(last_seq, |block| block <= durable), covered, "{last_seq}");
            assert_eq!(reserved.sync_is_due(last_seq), sync, "{last_seq}");
        }
    }

    #[test]
    fn of_marks_that_follow_each_other_faster_than_syncs_the_oldest_and_the_newest_are_known() {
        let mut reserved = Reserved::default();
        (1..=9).for_each(|n| reserved.marked(n * 1000, n));
        assert!(reserved.covers(3000, |block| block <= 3));
        assert!(!reserved.covers(3001, |block| block <= 3));
        assert!(!reserved.covers(5001, |block| block <= 8), "the newest took the place of marks 6, 7 and 8");
        assert!(reserved.covers(9000, |block| block <= 9));
    }
}
