//! The state of one connection, and its receive.

use super::CloseReason;
use super::ConnId;
use super::ops::{self, Op};
use super::output::Output;
use crate::timers::TimerId;
use runelog_engine::disk::ring::Ring;
use std::os::fd::{AsRawFd, OwnedFd};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Sends what is left; what comes in is thrown away.
    Flushing,
    /// Everything is sent and the client knows it; what still comes in is thrown away.
    Draining,
    /// Waits for its operations to end.
    Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Recv {
    Idle,
    Armed,
    /// Armed, and its cancellation is on the way.
    Cancelled,
    /// No provided buffer was free; it is in the queue of the starved.
    Starved,
    /// The client finished.
    Ended,
}

pub(super) struct Conn {
    pub(super) fd: OwnedFd,
    pub(super) phase: Phase,
    pub(super) recv: Recv,
    pub(super) paused: bool,
    /// Is in the list of connections to flush.
    pub(super) dirty: bool,
    /// Operations whose last completion has not come.
    pub(super) ops: u8,
    pub(super) output: Output,
    /// Bytes thrown away since closing began.
    pub(super) drained: usize,
    pub(super) timer: Option<TimerId>,
    pub(super) reason: CloseReason,
}

impl Conn {
    /// A connection with nothing in the ring yet.
    pub(super) fn new(fd: OwnedFd) -> Conn {
        set_nodelay(&fd);
        Conn {
            fd,
            phase: Phase::Open,
            recv: Recv::Idle,
            paused: false,
            dirty: false,
            ops: 0,
            output: Output::default(),
            drained: 0,
            timer: None,
            reason: CloseReason::Asked,
        }
    }

    /// Arms the receive if nothing speaks against it.
    pub(super) fn arm_recv(&mut self, ring: &mut Ring, id: ConnId) {
        if self.recv == Recv::Idle && !self.paused && self.phase != Phase::Closing {
            self.recv = Recv::Armed;
            self.ops += 1;
            ops::recv(ring, self.fd.as_raw_fd(), id);
        }
    }

    /// Cancels an armed receive; its end comes as a completion of the receive itself.
    pub(super) fn cancel_recv(&mut self, ring: &mut Ring, id: ConnId) {
        match self.recv {
            Recv::Armed => {
                self.recv = Recv::Cancelled;
                self.ops += 1;
                ops::cancel(ring, Op::Recv, id);
            }
            Recv::Starved => self.recv = Recv::Idle,
            Recv::Idle | Recv::Cancelled | Recv::Ended => {}
        }
    }
}

fn set_nodelay(fd: &OwnedFd) {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is one int, which outlives the call. Failure (not TCP) does no harm.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as u32,
        );
    }
}
