//! Who must be woken: one flag a core, and the argument that no wake-up is lost.
//!
//! ```text
//! sender                                   sleeper
//! S1  push the message                     T1  sleeping = true
//! S2  fence(SeqCst)                        T2  fence(SeqCst)
//! S3  if sleeping.swap(false): ring        T3  all queues empty? wait for the doorbell
//! ```
//! Take the last announcement T1 before a wait. The two fences have one total order. If S2 comes first,
//! the push S1 happens before T3, which finds the queue not empty, and the sleeper does not wait. If T2
//! comes first, S3 sees T1 or what was written to the flag later: `true`, and it rings; or `false` by
//! another sender's swap, who then rings, after T1; or `false` by the sleeper itself, whose wait is
//! over. A doorbell that comes before the wait is not lost: it is a completion in the ring, and a wait
//! returns at once while one is there. (That is why completions are collected after `woke` and not
//! between announcement and wait: a collected doorbell wakes no one.)
//!
//! The flag is swapped, so of many senders one rings; the plain load before it keeps the line shared
//! while the target is awake.

use std::sync::atomic::{AtomicBool, Ordering, fence};

/// On a cache line of its own: its core writes it twice a turn.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Sleep {
    sleeping: AtomicBool,
}

impl Sleep {
    /// T1, T2. The caller looks at its queues next.
    pub(super) fn announce(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The sleeper looks at its queues after this, before it announces again.
    pub(super) fn woke(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// S3: whether the caller has to ring. After [`publish`].
    pub(super) fn must_wake(&self) -> bool {
        self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::Relaxed)
    }
}

/// S2, once for all messages and targets of a turn.
pub(super) fn publish() {
    fence(Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    //! Every interleaving of two senders and a sleeper on a machine whose plain stores wait in a store
    //! buffer (x86's reordering: the one that loses wake-ups), one message each.

    use std::collections::HashSet;

    #[derive(Clone, Copy, PartialEq, Eq, Hash)]
    struct Machine {
        /// Program counters of the senders; 9 is the end.
        sender: [u8; 2],
        /// Of the sleeper.
        sleeper: u8,
        /// Queues in memory, and pushes still in the senders' store buffers.
        queue: [bool; 2],
        push_buffered: [bool; 2],
        sleeping: bool,
        /// The sleeper's store of the flag, still in its buffer.
        flag_buffered: Option<bool>,
        doorbell: bool,
        taken: [bool; 2],
    }

    /// All states reachable in one step.
    fn steps(m: Machine, fences: bool) -> Vec<Machine> {
        let mut next = Vec::new();
        for i in 0..2 {
            if m.push_buffered[i] {
                let mut n = m;
                n.push_buffered[i] = false;
                n.queue[i] = true;
                next.push(n);
            }
            let mut n = m;
            match m.sender[i] {
                0 => {
                    n.push_buffered[i] = true;
                    n.sender[i] = 1;
                }
                1 if fences && m.push_buffered[i] => continue, // the fence waits for the buffer
                1 => n.sender[i] = 2,
                2 => n.sender[i] = if m.sleeping { 3 } else { 9 }, // the plain load
                3 if m.push_buffered[i] => continue,               // a swap drains the buffer
                3 => {
                    n.sender[i] = if m.sleeping { 4 } else { 9 };
                    n.sleeping = false;
                }
                4 => {
                    n.doorbell = true;
                    n.sender[i] = 9;
                }
                _ => continue,
            }
            next.push(n);
        }
        if let Some(flag) = m.flag_buffered {
            next.push(Machine { sleeping: flag, flag_buffered: None, ..m });
        }
        let mut n = m;
        match m.sleeper {
            0 if m.flag_buffered.is_some() => return next,
            0 => {
                n.flag_buffered = Some(true);
                n.sleeper = 1;
            }
            1 if fences && m.flag_buffered.is_some() => return next,
            1 => n.sleeper = 2,
            2 => n.sleeper = if m.queue[0] { 5 } else { 3 },
            3 => n.sleeper = if m.queue[1] { 5 } else { 4 },
            // Waits: goes on with a completion only.
            4 if !m.doorbell => return next,
            4 => {
                n.doorbell = false;
                n.sleeper = 5;
            }
            5 if m.flag_buffered.is_some() => return next,
            5 => {
                n.flag_buffered = Some(false);
                n.sleeper = 6;
            }
            // Takes what is there, one queue after the other, and goes to sleep again.
            6 | 7 => {
                let i = m.sleeper as usize - 6;
                n.taken[i] |= m.queue[i];
                n.queue[i] = false;
                n.sleeper = if m.sleeper == 6 { 7 } else { 0 };
            }
            _ => unreachable!(),
        }
        next.push(n);
        next
    }

    /// Whether some interleaving ends with the sleeper waiting for ever and a message not taken.
    fn can_lose(fences: bool) -> bool {
        let start = Machine {
            sender: [0; 2],
            sleeper: 0,
            queue: [false; 2],
            push_buffered: [false; 2],
            sleeping: false,
            flag_buffered: None,
            doorbell: false,
            taken: [false; 2],
        };
        let (mut seen, mut open) = (HashSet::from([start]), vec![start]);
        while let Some(state) = open.pop() {
            let next = steps(state, fences);
            if next.is_empty() && state.taken != [true; 2] {
                return true;
            }
            open.extend(next.into_iter().filter(|state| seen.insert(*state)));
        }
        assert!(seen.len() > 500, "explored only {} states", seen.len());
        false
    }

    #[test]
    fn no_interleaving_loses_a_wake_up_and_without_the_fences_one_does() {
        assert!(!can_lose(true));
        assert!(can_lose(false));
    }
}
