//! How far the seqs of a `disk` topic are promised never to be used twice (I-58). A promise is a mark in the
//! log; it holds once the mark is durable. Not here: writing marks ([`shard`](crate::shard)).

use crate::limits::SEQ_RESERVE;

/// A mark on its way to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// The oldest mark that was not durable when last looked at, and the newest, if it is another.
    waiting: [Option<Mark>; 2],
}

impl Reserved {
    /// What a recovery found: durable all of it.
    pub fn recovered(through: u64) -> Reserved {
        Reserved { through, durable: through, waiting: [None; 2] }
    }

    /// The highest seq that any mark names.
    pub fn through(&self) -> u64 {
        self.through
    }

    /// Whether a write that ends at `last_seq` should bring a mark: long before it is needed, so that one sync
    /// makes those of many topics durable.
    pub fn mark_is_due(&self, last_seq: u64) -> bool {
        last_seq + SEQ_RESERVE / 4 * 3 > self.through
    }

    /// The block that should be synced now if a write that ended at `last_seq` is not to be followed by one
    /// that must wait: half of what is durably promised is used.
    pub fn sync_is_due(&self, last_seq: u64) -> Option<u64> {
        self.waiting[0].filter(|_| last_seq + SEQ_RESERVE / 2 > self.durable).map(|mark| mark.block)
    }

    /// A mark through this seq is in the log, in this block.
    pub fn marked(&mut self, through: u64, block: u64) {
        debug_assert!(through > self.through, "marks go forward");
        self.through = through;
        let place = usize::from(self.waiting[0].is_some());
        self.waiting[place] = Some(Mark { through, block });
    }

    /// Whether a durable mark covers the seq; `is_durable` tells it of a block. If not, the write that uses
    /// it must be synced with everything before it.
    pub fn covers(&mut self, seq: u64, is_durable: impl Fn(u64) -> bool) -> bool {
        while let Some(mark) = self.waiting[0].filter(|mark| is_durable(mark.block)) {
            self.durable = mark.through;
            self.waiting = [self.waiting[1], None];
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
            (257, 10, false, true, None),
            (258, 10, true, true, None), // early, in block 20: mark 1 still covers it
            (513, 10, false, true, None),
            (514, 10, false, true, Some(20)),
            (515, 10, true, true, Some(20)),    // block 30
            (1025, 10, true, true, Some(20)),   // block 40, in the place of the one before
            (1026, 10, false, false, Some(20)), // beyond mark 1, and mark 2 is not durable
            (1027, 20, false, true, Some(40)),
            (1300, 20, true, false, Some(40)), // beyond mark 2
            (1301, 40, false, true, None),
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
    fn marks_that_follow_each_other_faster_than_syncs_still_end_up_durable() {
        let mut reserved = Reserved::default();
        (1..=5).for_each(|n| reserved.marked(n * 1000, n));
        assert!(reserved.covers(1000, |block| block <= 3), "the oldest is never forgotten");
        assert!(!reserved.covers(1001, |block| block <= 4));
        assert!(reserved.covers(5000, |block| block <= 5));
    }
}
