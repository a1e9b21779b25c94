//! Listening sockets of one core: accepting, resting after errors, ending.

use super::ConnId;
use super::ops::{self, Op};
use crate::limits::{ACCEPT_RETRY_MS, LISTENERS_MAX};
use runelog_engine::disk::ring::Ring;
use std::os::fd::{AsRawFd, OwnedFd};

/// Names a listening socket of one core, in the order of [`Sockets::listen`](super::Sockets::listen).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(pub(super) u32);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Armed,
    /// Accepting failed for want of something; from the first turn on, until the given time.
    Resting {
        until_ms: Option<u64>,
    },
    Stopping,
    Ended,
}

struct Listener {
    fd: Option<OwnedFd>,
    state: State,
}

/// What an accept completion means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Accepted(i32),
    Nothing,
    /// No more connections come; zero after a stop that was asked for.
    Ended(i32),
}

#[derive(Default)]
pub(super) struct Listeners {
    listeners: Vec<Listener>,
    /// Accepts refused by the kernel, for metrics.
    pub(super) errors: u64,
}

fn op_id(listener: ListenerId) -> ConnId {
    ConnId { index: listener.0, generation: 0 }
}

impl Listeners {
    pub(super) fn add(&mut self, ring: &mut Ring, fd: OwnedFd) -> ListenerId {
        assert!(self.listeners.len() < LISTENERS_MAX, "too many listeners");
        let id = ListenerId(self.listeners.len() as u32);
        ops::accept(ring, fd.as_raw_fd(), op_id(id));
        self.listeners.push(Listener { fd: Some(fd), state: State::Armed });
        id
    }

    /// True when it ended here and now, because nothing was armed.
    pub(super) fn stop(&mut self, ring: &mut Ring, id: ListenerId) -> bool {
        let listener = &mut self.listeners[id.0 as usize];
        match listener.state {
            State::Armed => {
                ops::cancel(ring, Op::Accept, op_id(id));
                listener.state = State::Stopping;
                false
            }
            State::Resting { .. } => {
                *listener = Listener { fd: None, state: State::Ended };
                true
            }
            State::Stopping | State::Ended => false,
        }
    }

    pub(super) fn on_completion(
        &mut self,
        ring: &mut Ring,
        index: u32,
        result: i32,
        more: bool,
    ) -> (ListenerId, Outcome) {
        let id = ListenerId(index);
        (id, self.judge(ring, id, result, more))
    }

    fn judge(&mut self, ring: &mut Ring, id: ListenerId, result: i32, more: bool) -> Outcome {
        let listener = &mut self.listeners[id.0 as usize];
        if result < 0 {
            self.errors += u64::from(result != -libc::ECANCELED);
        }
        if more {
            return if result >= 0 { Outcome::Accepted(result) } else { Outcome::Nothing };
        }
        if listener.state == State::Stopping {
            if result >= 0 {
                // The last connection came with the last completion: it is accepted, and the end
                // is told by one more, of an entry that the kernel refuses or the cancel finds.
                ops::accept(ring, listener.raw_fd(), op_id(id));
                ops::cancel(ring, Op::Accept, op_id(id));
                return Outcome::Accepted(result);
            }
            *listener = Listener { fd: None, state: State::Ended };
            return Outcome::Ended(0);
        }
        match -result {
            ..=0 => {
                ops::accept(ring, listener.raw_fd(), op_id(id));
                Outcome::Accepted(result)
            }
            // The client gave up while it was queued.
            libc::ECONNABORTED | libc::EINTR => {
                ops::accept(ring, listener.raw_fd(), op_id(id));
                Outcome::Nothing
            }
            // Not a listening socket, or no multishot accept: trying again changes nothing.
            errno @ (libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP) => {
                *listener = Listener { fd: None, state: State::Ended };
                Outcome::Ended(errno)
            }
            // EMFILE, ENFILE, ENOBUFS, ENOMEM, and errors of the network passed on by accept(2).
            _ => {
                listener.state = State::Resting { until_ms: None };
                Outcome::Nothing
            }
        }
    }

    /// Accepts again where the rest is over.
    pub(super) fn turn(&mut self, ring: &mut Ring, now_ms: u64) {
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            match listener.state {
                State::Resting { until_ms: None } => {
                    listener.state = State::Resting { until_ms: Some(now_ms + ACCEPT_RETRY_MS) };
                }
                State::Resting { until_ms: Some(until_ms) } if until_ms <= now_ms => {
                    ops::accept(ring, listener.raw_fd(), op_id(ListenerId(index as u32)));
                    listener.state = State::Armed;
                }
                _ => {}
            }
        }
    }

    pub(super) fn next_wake_ms(&self) -> Option<u64> {
        let until = self.listeners.iter().filter_map(|listener| match listener.state {
            State::Resting { until_ms } => until_ms,
            _ => None,
        });
        until.min()
    }

    pub(super) fn any_armed(&self) -> bool {
        self.listeners.iter().any(|listener| matches!(listener.state, State::Armed | State::Stopping))
    }
}

impl Listener {
    fn raw_fd(&self) -> i32 {
        self.fd.as_ref().expect("a listener that has not ended").as_raw_fd()
    }
}
