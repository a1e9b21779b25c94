//! A coarse timer wheel: insert, cancel and expire in constant time, whatever the number of timers.
//! Pure: the time comes in. A timer never fires early, and at most one tick (10 ms) plus the caller's
//! own delay late. Not here: what a timer means.
//!
//! Four levels of 64 slots: a slot of level 0 is one tick, of level 1 64 ticks, and so on (46 hours in
//! all; a later deadline waits in the last slot and is sorted in again). When the wheel reaches a slot
//! of a higher level, that slot's timers move down; a timer moves at most three times.

use crate::limits::TICK_MS;

const LEVELS: usize = 4;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Farthest a timer may lie ahead without landing in the slot the wheel stands in.
const REACH_TICKS: u64 = ((SLOTS - 1) as u64) << (SLOT_BITS * (LEVELS as u32 - 1));
const NONE: u32 = u32::MAX;
/// List of timers that are due and not yet taken; the others are `level * SLOTS + slot`.
const DUE: usize = LEVELS * SLOTS;

/// Names a timer until it fired or was cancelled; stale afterwards, and then without effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

struct Entry<T> {
    generation: u32,
    list: u16,
    tick: u64,
    previous: u32,
    next: u32,
    value: Option<T>,
}

/// The timers of one core. `T` says what is to be done.
pub struct Wheel<T> {
    /// Everything at or before this tick is in the list of due timers.
    tick: u64,
    /// Heads of the lists; the list of due timers is taken from its tail, so that it is in order.
    heads: [u32; LEVELS * SLOTS + 1],
    due_tail: u32,
    /// One bit a slot that has timers.
    occupied: [u64; LEVELS],
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

impl<T> Wheel<T> {
    /// An empty wheel standing at `now_ms`.
    pub fn new(now_ms: u64) -> Wheel<T> {
        Wheel {
            tick: now_ms / TICK_MS,
            heads: [NONE; LEVELS * SLOTS + 1],
            due_tail: NONE,
            occupied: [0; LEVELS],
            entries: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Timers not yet taken or cancelled.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether there is no timer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets a timer. One whose time is over is due at the next [`Wheel::next_due`].
    pub fn insert(&mut self, deadline_ms: u64, value: T) -> TimerId {
        let index = self.free.pop().unwrap_or_else(|| {
            let value = None;
            self.entries.push(Entry { generation: 0, list: 0, tick: 0, previous: NONE, next: NONE, value });
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[index as usize];
        entry.tick = deadline_ms.div_ceil(TICK_MS);
        entry.value = Some(value);
        let generation = entry.generation;
        self.place(index);
        TimerId { index, generation }
    }

    /// Takes a timer back before it fired; `None` when it already did.
    pub fn cancel(&mut self, id: TimerId) -> Option<T> {
        let entry = self.entries.get(id.index as usize)?;
        if entry.generation != id.generation || entry.value.is_none() {
            return None;
        }
        self.unlink(id.index);
        self.release(id.index)
    }

    /// The next timer whose time has come, in order of ticks; call until `None`.
    pub fn next_due(&mut self, now_ms: u64) -> Option<T> {
        let now_tick = now_ms / TICK_MS;
        while self.due_tail == NONE {
            let (tick, list) = match self.next_slot() {
                Some((tick, list)) if tick <= now_tick => (tick, list),
                _ => {
                    self.tick = self.tick.max(now_tick);
                    return None;
                }
            };
            self.tick = tick;
            let mut index = std::mem::replace(&mut self.heads[list], NONE);
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
            while index != NONE {
                let next = self.entries[index as usize].next;
                self.place(index);
                index = next;
            }
        }
        let index = self.due_tail;
        self.unlink(index);
        self.release(index)
    }

    /// When [`Wheel::next_due`] has something to do at the earliest: what a sleep may last to. May be
    /// before the first deadline, never after it.
    pub fn next_wake_ms(&self) -> Option<u64> {
        if self.due_tail != NONE {
            return Some(self.tick * TICK_MS);
        }
        self.next_slot().map(|(tick, _)| tick * TICK_MS)
    }

    /// The first tick at which a slot must be looked at, and that slot's list.
    fn next_slot(&self) -> Option<(u64, usize)> {
        let mut first: Option<(u64, usize)> = None;
        for level in 0..LEVELS {
            let occupied = self.occupied[level];
            if occupied == 0 {
                continue;
            }
            let shift = SLOT_BITS * level as u32;
            let here = (self.tick >> shift) as u32 & (SLOTS as u32 - 1);
            let ahead = occupied.rotate_right(here).trailing_zeros() as u64;
            let tick = ((self.tick >> shift) + ahead) << shift;
            let slot = (here as usize + ahead as usize) % SLOTS;
            // At equal ticks the higher level first: its timers may belong to this very tick.
            if first.is_none_or(|(earliest, _)| tick <= earliest) {
                first = Some((tick, level * SLOTS + slot));
            }
        }
        first
    }

    /// Links an entry into the slot of its tick as seen from the present one.
    fn place(&mut self, index: u32) {
        let entry_tick = self.entries[index as usize].tick;
        let list = if entry_tick <= self.tick {
            DUE
        } else {
            let tick = entry_tick.min(self.tick + REACH_TICKS);
            let highest_bit = 63 - (tick ^ self.tick).leading_zeros();
            let level = ((highest_bit / SLOT_BITS) as usize).min(LEVELS - 1);
            let slot = (tick >> (SLOT_BITS * level as u32)) as usize % SLOTS;
            self.occupied[level] |= 1 << slot;
            level * SLOTS + slot
        };
        let head = self.heads[list];
        let entry = &mut self.entries[index as usize];
        (entry.list, entry.previous, entry.next) = (list as u16, NONE, head);
        self.heads[list] = index;
        if head != NONE {
            self.entries[head as usize].previous = index;
        } else if list == DUE {
            self.due_tail = index;
        }
    }

    fn unlink(&mut self, index: u32) {
        let entry = &self.entries[index as usize];
        let (list, previous, next) = (entry.list as usize, entry.previous, entry.next);
        if next != NONE {
            self.entries[next as usize].previous = previous;
        } else if list == DUE {
            self.due_tail = previous;
        }
        if previous != NONE {
            self.entries[previous as usize].next = next;
            return;
        }
        self.heads[list] = next;
        if next == NONE && list != DUE {
            self.occupied[list / SLOTS] &= !(1 << (list % SLOTS));
        }
    }

    fn release(&mut self, index: u32) -> Option<T> {
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(index);
        entry.value.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// splitmix64: a printed seed replays the run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (z ^ (z >> 31)) % bound
        }
    }

    #[test]
    fn random_histories_fire_what_a_sorted_map_fires() {
        for seed in 0..200 {
            let mut random = Random(seed);
            let mut now_ms = random.below(1 << 40);
            let mut wheel = Wheel::new(now_ms);
            let mut model = BTreeMap::new(); // key → (deadline tick, id)
            for key in 0..2000_u64 {
                match random.below(10) {
                    0..5 => {
                        let bits = random.below(34); // up to half a year: beyond the wheel's reach
                        let deadline_ms = now_ms + random.below(1 << bits);
                        let id = wheel.insert(deadline_ms, key);
                        model.insert(key, (deadline_ms.div_ceil(TICK_MS), id));
                    }
                    5..7 => {
                        let Some((&victim, &(_, id))) = model.range(random.below(key + 1)..).next() else {
                            continue;
                        };
                        assert_eq!(wheel.cancel(id), Some(victim), "seed {seed}");
                        assert_eq!(wheel.cancel(id), None, "seed {seed}: cancelled twice");
                        model.remove(&victim);
                    }
                    _ => {
                        let bits = random.below(32);
                        now_ms += random.below(1 << bits);
                        let mut last_tick = 0;
                        while let Some(fired) = wheel.next_due(now_ms) {
                            let (tick, id) = model.remove(&fired).expect("fired once");
                            assert!(tick <= now_ms / TICK_MS, "seed {seed}: early");
                            assert!(tick >= last_tick || last_tick == 0, "seed {seed}: out of order");
                            assert_eq!(wheel.cancel(id), None, "seed {seed}: cancelled after firing");
                            last_tick = tick;
                        }
                        let late = model.values().find(|(tick, _)| *tick <= now_ms / TICK_MS);
                        assert!(late.is_none(), "seed {seed}: {late:?} did not fire at {now_ms}");
                    }
                }
                assert_eq!(wheel.len(), model.len());
                let first_tick = model.values().map(|(tick, _)| *tick).min();
                match (wheel.next_wake_ms(), first_tick) {
                    (None, None) => {}
                    (Some(wake_ms), Some(tick)) => {
                        assert!(wake_ms <= tick.max(now_ms / TICK_MS) * TICK_MS, "seed {seed}: oversleeps");
                    }
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn sleeping_to_the_next_wake_reaches_every_deadline() {
        let mut wheel = Wheel::new(0);
        for deadline_ms in [0, 1, 640, 41_000, 2_700_000, 170_000_000, 400_000_000] {
            wheel.insert(deadline_ms, deadline_ms);
        }
        let (mut fired, mut wakes) = (Vec::new(), 0);
        while let Some(wake_ms) = wheel.next_wake_ms() {
            wakes += 1;
            while let Some(deadline_ms) = wheel.next_due(wake_ms) {
                assert_eq!(wake_ms, deadline_ms.next_multiple_of(TICK_MS));
                fired.push(deadline_ms);
            }
        }
        assert_eq!(fired, [0, 1, 640, 41_000, 2_700_000, 170_000_000, 400_000_000]);
        assert!(wakes < 7 * LEVELS + 64, "{wakes} wakes");
    }
}
