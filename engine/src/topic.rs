//! One topic: its numbers, what is gone from it, where its records are, and the keys it remembers.
//!
//! Every number exists twice. *Ordered* is what the log will say once everything handed to it is
//! committed: the next write builds on it. *Shown* is what is committed: the only thing readers see
//! (I-40). Effects move from one to the other in log order, at the commit of their block.

use crate::config::{TopicConfig, TopicType};
use crate::ids::{Millis, RouterId, TopicId};
use crate::index::Index;
use crate::limits::VACANT_RANGES_KEPT;
use crate::queue::Queue;
use crate::ranges::RangeSet;
use crate::reserved::Reserved;
use crate::sabotage::{self, Bug};
use crate::shard::Eviction;
use ahash::AHashMap;
use std::collections::VecDeque;
use std::rc::Rc;

/// Why a floor stands where it does (D-14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Loss {
    /// `cap_records` or `cap_bytes`.
    Cap = 0,
    /// `ttl_ms`.
    Ttl = 1,
    /// A router's source lost records before their turn (I-68).
    Source = 2,
}

/// Records that are over by age while the mark that says so is still on its way to disk: readers
/// must not see them (CF-10), but a checkpoint still describes them, since replay will meet the mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// Highest of them, 0 if there are none.
    pub through: u64,
    /// How many of those that are shown.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Answers that rest on their absence wait for this block.
    pub block: u64,
}

/// One consistent set of a topic's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Highest seq.
    pub head: u64,
    /// Highest seq lost, by reason; indexed by [`Loss`].
    pub floors: [u64; 3],
    /// Live records.
    pub count: u64,
    /// Their bytes (J-23).
    pub bytes: u64,
}

impl Totals {
    /// Highest lost seq, `F` (semantics §2).
    pub fn floor(&self) -> u64 {
        self.floors[0].max(self.floors[1]).max(self.floors[2])
    }
}

/// The outcome of a write that carried an idempotency key (U-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// First seq of the batch.
    pub first_seq: u64,
    /// Its records.
    pub count: u32,
    /// When it was committed.
    pub ts: Millis,
    /// The block it was committed in, 0 when long ago.
    pub block: u64,
}

/// Idempotency keys of one topic, by a 128-bit hash seeded per data directory.
#[derive(Debug, Default)]
pub struct Dedup {
    map: AHashMap<u128, Remembered>,
    /// In order of insertion, for forgetting.
    order: VecDeque<(Millis, u128)>,
}

impl Dedup {
    /// What was remembered under the key, if it is still inside the window (U-8).
    pub fn get(&self, hash: u128, now: Millis, window_ms: u64) -> Option<Remembered> {
        let found = *self.map.get(&hash)?;
        is_within(found.ts, now, window_ms).then_some(found)
    }

    /// Remembers an outcome, and forgets a few that are over.
    pub fn insert(&mut self, hash: u128, outcome: Remembered, now: Millis, window_ms: u64) {
        for _ in 0..4 {
            match self.order.front() {
                Some((ts, _)) if !is_within(*ts, now, window_ms) => {
                    let (ts, old) = self.order.pop_front().expect("just seen");
                    // The key may have been used again since.
                    if self.map.get(&old).is_some_and(|found| found.ts == ts) {
                        self.map.remove(&old);
                    }
                }
                _ => break,
            }
        }
        self.map.insert(hash, outcome);
        self.order.push_back((outcome.ts, hash));
    }

    /// Keys inside the window, in order of insertion.
    pub fn live(&self, now: Millis, window_ms: u64) -> impl Iterator<Item = (u128, Remembered)> + '_ {
        self.order.iter().filter_map(move |(ts, hash)| {
            let found = *self.map.get(hash)?;
            (found.ts == *ts && is_within(*ts, now, window_ms)).then_some((*hash, found))
        })
    }

    /// Keys held, in order of insertion.
    pub fn all(&self) -> impl Iterator<Item = (u128, Remembered)> + '_ {
        self.order.iter().filter_map(|(ts, hash)| {
            let found = *self.map.get(hash)?;
            (found.ts == *ts).then_some((*hash, found))
        })
    }

    /// Number of keys held.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether no key is held.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

/// `now − then ≤ window`, where a window of 2⁶³ or more is longer than any clock (U-8, CF-7).
pub fn is_within(then: Millis, now: Millis, window_ms: u64) -> bool {
    match i64::try_from(window_ms) {
        Ok(window) => now.saturating_sub(then) <= window,
        Err(_) => true,
    }
}

/// The beginning of an eviction, for a later try that aims as far or further.
#[derive(Debug)]
pub(crate) struct Planned {
    /// [`Topic::losses`] when it was made.
    pub(crate) losses: u64,
    /// Floor that `cap_records` asked for.
    pub(crate) window: u64,
    /// Bytes that `cap_bytes` asked to go.
    pub(crate) excess: u64,
    /// What goes so far.
    pub(crate) gone: Eviction,
}

/// See the module's text.
#[derive(Debug)]
pub struct Topic {
    /// Its instance.
    pub id: TopicId,
    /// Its name.
    pub name: Rc<[u8]>,
    /// Its settings; in force for everything ordered from now on.
    pub config: TopicConfig,
    /// Numbers including what is on its way to disk.
    pub ordered: Totals,
    /// Numbers that readers see.
    pub shown: Totals,
    /// What of it is over by age, though the mark is not committed.
    pub hidden: Hidden,
    /// Seqs that were promised never to be reused (I-58).
    pub reserved: Reserved,
    /// Seqs that never belonged to a record (I-33); some lie below the floor. Those above the shown head
    /// are on their way to disk.
    pub vacant: RangeSet,
    /// Those of them, above the floor, that stand for what a router's source lost (I-68).
    pub trims: RangeSet,
    /// Deleted seqs above the floor, as readers see it.
    pub deleted: RangeSet,
    /// Deletions ordered but not shown yet, oldest first.
    pub deleting: VecDeque<Rc<[(u64, u64)]>>,
    /// Where the records are.
    pub index: Index,
    /// Routers that copy into it and stand somewhere.
    pub links: Vec<RouterId>,
    /// What was left of the head at the last start; a topic made since lost nothing (I-66).
    pub recovered_head: u64,
    /// Idempotency keys, if any were used.
    pub dedup: Option<Box<Dedup>>,
    /// Its jobs that were handed out, if it is a queue.
    pub queue: Option<Box<Queue>>,
    /// Block of the last change of settings (or of creation): answers about the topic wait for it.
    pub control_block: u64,
    /// Last write since start (TS-6).
    pub last_write_ts: Option<Millis>,
    /// Last read since start.
    pub last_read_ts: Option<Millis>,
    /// Last consumption, for priority (PR-2).
    pub last_consumed_ts: Option<Millis>,
    /// A delete that takes several steps is at work; evictions wait for it.
    pub delete_at_work: bool,
    /// Grows with every loss and delete: a plan made before one is void.
    pub losses: u64,
    /// An eviction that waits for sealed blocks, worked out so far.
    pub(crate) planned: Option<Box<Planned>>,
    /// Effects ordered and not shown yet.
    pub pending_effects: u32,
    /// Changed since the last checkpoint.
    pub changed: bool,
    /// Number of the newest log chunk that holds an entry of this topic.
    pub newest_chunk: u64,
}

impl Topic {
    /// A fresh topic (TS-5).
    pub fn new(id: TopicId, name: Rc<[u8]>, config: TopicConfig) -> Topic {
        Topic {
            id,
            name,
            queue: (config.kind == TopicType::Queue).then(Box::default),
            config,
            ordered: Totals::default(),
            shown: Totals::default(),
            hidden: Hidden::default(),
            reserved: Reserved::default(),
            vacant: RangeSet::default(),
            trims: RangeSet::default(),
            deleted: RangeSet::default(),
            deleting: VecDeque::new(),
            index: Index::default(),
            links: Vec::new(),
            recovered_head: u64::MAX,
            dedup: None,
            control_block: 0,
            last_write_ts: None,
            last_read_ts: None,
            last_consumed_ts: None,
            delete_at_work: false,
            losses: 0,
            planned: None,
            pending_effects: 0,
            changed: false,
            newest_chunk: u64::MAX,
        }
    }

    /// Smallest live seq as readers see it, or `head + 1` (I-20): every seq above the floor is live,
    /// deleted or vacant.
    pub fn earliest(&self) -> u64 {
        self.first_live(self.shown.floor())
    }

    /// [`Topic::shown`] without what is over by age.
    pub fn visible(&self) -> Totals {
        let mut totals = self.shown;
        let floor = &mut totals.floors[Loss::Ttl as usize];
        *floor = (*floor).max(self.hidden.through);
        totals.count -= self.hidden.count;
        totals.bytes -= self.hidden.bytes;
        totals
    }

    /// [`Topic::earliest`] without what is over by age.
    pub fn earliest_visible(&self) -> u64 {
        self.first_live(self.shown.floor().max(self.hidden.through))
    }

    fn first_live(&self, floor: u64) -> u64 {
        let mut seq = floor + 1;
        while seq <= self.shown.head {
            let hole = self.deleted.covering(seq).or_else(|| self.vacant.covering(seq));
            match hole {
                Some((_, last)) => seq = last + 1,
                None => return seq,
            }
        }
        self.shown.head + 1
    }

    /// Forgets what a floor has passed.
    pub fn prune(&mut self, floor: u64) {
        self.deleted.prune_through(floor);
        self.trims.prune_through(floor);
        // What never was is no loss, and routers that come late must be able to tell.
        if self.vacant.len() > VACANT_RANGES_KEPT {
            self.vacant.prune_through(floor);
        }
    }

    /// Whether a seq above the floor is deleted, counting deletions on their way.
    pub fn is_deleted_in_order(&self, seq: u64) -> bool {
        self.deleted.contains(seq)
            || self.deleting.iter().any(|ranges| {
                let at = ranges.partition_point(|(_, last)| *last < seq);
                ranges.get(at).is_some_and(|(first, _)| *first <= seq)
            })
    }

    /// Whether any seq of `first..=last` is deleted, counting deletions on their way.
    pub fn has_deleted_in_order(&self, first: u64, last: u64) -> bool {
        self.deleted.intersects(first, last)
            || self.deleting.iter().any(|ranges| {
                let at = ranges.partition_point(|(_, end)| *end < first);
                ranges.get(at).is_some_and(|(start, _)| *start <= last)
            })
    }

    /// Where `cap_records` puts the floor for a head of `head`: the newest `cap` seqs stay, vacant
    /// ones not counted (CF-11, I-33).
    pub fn window_floor(&self, head: u64, cap: u64) -> u64 {
        let (mut left, mut top) = (cap, head);
        if sabotage::is(Bug::CountPadding) {
            return head.saturating_sub(cap);
        }
        for (first, last) in self.vacant.iter().rev() {
            if first > top {
                continue;
            }
            let last = last.min(top);
            let used = top - last;
            // A vacancy right below the window was never lost: the floor stays below it (I-23, I-58).
            if used > left {
                break;
            }
            left -= used;
            top = first - 1;
        }
        top.saturating_sub(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic() -> Topic {
        Topic::new(TopicId(1), Rc::from(&b"t"[..]), TopicConfig::default())
    }

    #[test]
    fn vacant_seqs_do_not_occupy_the_window() {
        // I-33: rule, vacancies, head, cap, floor
        for (vacant, head, cap, floor) in [
            (vec![], 10, 4, 6),
            (vec![], 3, 4, 0),
            (vec![(51, 1074)], 1074, 100, 0),
            (vec![(51, 1074)], 1075, 51, 0),
            (vec![(51, 1074)], 1075, 50, 1),
            (vec![(51, 1074)], 1075, 1, 50),
            (vec![(3, 4), (7, 8)], 10, 4, 2),
            (vec![(3, 4), (7, 8)], 10, 5, 1),
        ] {
            let mut topic = topic();
            topic.vacant = vacant.iter().copied().collect();
            assert_eq!(topic.window_floor(head, cap), floor, "{vacant:?} {head} {cap}");
        }
    }

    #[test]
    fn earliest_is_the_smallest_live_seq() {
        let mut topic = topic();
        topic.shown.head = 10;
        assert_eq!(topic.earliest(), 1);
        topic.deleted.insert(1, 2);
        topic.vacant.insert(3, 5);
        topic.deleted.insert(6, 6);
        assert_eq!(topic.earliest(), 7);
        topic.shown.floors[Loss::Cap as usize] = 8;
        assert_eq!(topic.earliest(), 9);
        topic.deleted.insert(7, 10);
        assert_eq!(topic.earliest(), 11);
    }

    #[test]
    fn keys_are_forgotten_after_their_window() {
        // U-8: `now − first > window` is over, equality is not; a huge window never is (CF-7).
        for (window, age, hit) in
            [(5, 5, true), (5, 6, false), (0, 0, true), (0, 1, false), (u64::MAX, 1 << 50, true)]
        {
            let mut dedup = Dedup::default();
            dedup.insert(7, Remembered { first_seq: 1, count: 2, ts: 100, block: 0 }, 100, window);
            assert_eq!(dedup.get(7, 100 + age, window).is_some(), hit, "{window} {age}");
        }
        let mut dedup = Dedup::default();
        for at in 0..1000 {
            dedup.insert(at as u128, Remembered { first_seq: 1, count: 1, ts: at, block: 0 }, at, 10);
        }
        assert!(dedup.len() < 20, "expired keys leave as new ones come: {}", dedup.len());
    }
}
