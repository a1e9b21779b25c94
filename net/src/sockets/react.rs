//! What the sockets do when an operation ended, and how a connection comes to its end.

use super::conn::{Phase, Recv};
use super::ops::{self, Op};
use super::output::Sent;
use super::{CloseReason, ConnId, Event, Outcome, RecvBuf, Sockets};
use crate::limits::CLOSE_DRAIN_BYTES_MAX;
use runelog_engine::disk::ring::Ring;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

impl Sockets {
    pub(super) fn on_accept(
        &mut self,
        ring: &mut Ring,
        index: u32,
        result: i32,
        more: bool,
    ) -> Option<Event> {
        match self.listeners.on_completion(ring, index, result, more) {
            (listener, Outcome::Accepted(fd)) => {
                // SAFETY: the kernel just made this descriptor for this completion; no one else has it.
                let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                Some(Event::Accepted { listener, fd })
            }
            (listener, Outcome::Ended(errno)) => Some(Event::ListenerEnded { listener, errno }),
            (_, Outcome::Nothing) => None,
        }
    }

    pub(super) fn on_recv(
        &mut self,
        ring: &mut Ring,
        id: ConnId,
        result: i32,
        more: bool,
        buf: Option<RecvBuf>,
    ) -> Option<Event> {
        let conn = self.conns.get_mut(id)?;
        if !more {
            conn.recv = Recv::Idle;
        }
        let buf = match buf {
            Some(buf) if result > 0 => {
                self.counters.received_bytes += result as u64;
                if conn.phase == Phase::Open {
                    conn.arm_recv(ring, id);
                    return Some(Event::Received { conn: id, buf });
                }
                Some(buf)
            }
            buf => buf,
        };
        if let Some(buf) = buf {
            self.buffers.give_back(buf);
        }
        match -result {
            ..0 => self.on_discarded(ring, id, result as usize),
            0 => self.on_peer_finished(ring, id),
            libc::ENOBUFS => {
                self.counters.starved += 1;
                if conn.phase != Phase::Closing {
                    conn.recv = Recv::Starved;
                    self.starved.push_back(id);
                }
                self.closed_if_ended(id)
            }
            // Paused, closing, or resumed before the cancellation ended.
            libc::ECANCELED | libc::EINTR => {
                conn.arm_recv(ring, id);
                self.closed_if_ended(id)
            }
            errno => self.fail(ring, id, errno),
        }
    }

    /// Bytes came that no one wants any more.
    pub(super) fn on_discarded(&mut self, ring: &mut Ring, id: ConnId, bytes: usize) -> Option<Event> {
        let conn = self.conns.get_mut(id)?;
        conn.drained += bytes;
        if conn.drained <= CLOSE_DRAIN_BYTES_MAX {
            conn.arm_recv(ring, id);
            return self.closed_if_ended(id);
        }
        match conn.phase {
            // The answer goes out first; TCP holds the client back meanwhile.
            Phase::Flushing if !conn.paused => {
                conn.paused = true;
                conn.cancel_recv(ring, id);
                None
            }
            Phase::Draining => {
                self.begin_closing(ring, id, CloseReason::Flushed);
                self.closed_if_ended(id)
            }
            _ => self.closed_if_ended(id),
        }
    }

    pub(super) fn on_peer_finished(&mut self, ring: &mut Ring, id: ConnId) -> Option<Event> {
        let conn = self.conns.get_mut(id)?;
        conn.recv = Recv::Ended;
        match conn.phase {
            Phase::Open => Some(Event::PeerFinished { conn: id }),
            Phase::Flushing => None,
            Phase::Draining => {
                self.begin_closing(ring, id, CloseReason::Flushed);
                self.closed_if_ended(id)
            }
            Phase::Closing => self.closed_if_ended(id),
        }
    }

    pub(super) fn on_send(&mut self, ring: &mut Ring, id: ConnId, result: i32) -> Option<Event> {
        let conn = self.conns.get_mut(id)?;
        let closing = conn.phase == Phase::Closing;
        let fd = conn.fd.as_raw_fd();
        let sent = conn.output.on_sent(ring, &mut self.pool, fd, id, result, closing);
        if closing {
            return self.closed_if_ended(id);
        }
        if conn.output.in_flight() {
            conn.ops += 1;
            self.counters.sends += 1;
        }
        match sent {
            Sent::Continues => None,
            Sent::Failed(errno) => self.fail(ring, id, errno),
            Sent::BufferDone if conn.phase == Phase::Flushing => {
                if conn.output.backlog() == 0 {
                    self.drain(ring, id);
                }
                self.closed_if_ended(id)
            }
            Sent::BufferDone => Some(Event::SendDone { conn: id }),
        }
    }

    pub(super) fn fail(&mut self, ring: &mut Ring, id: ConnId, errno: i32) -> Option<Event> {
        self.begin_closing(ring, id, CloseReason::Failed(errno));
        self.closed_if_ended(id)
    }

    /// Everything is sent. True when the connection is closing now.
    pub(super) fn drain(&mut self, ring: &mut Ring, id: ConnId) -> bool {
        let Some(conn) = self.conns.get_mut(id) else { return false };
        // SAFETY: a plain system call on a descriptor we own. An error means that the client is gone,
        // which the receive tells.
        unsafe { libc::shutdown(conn.fd.as_raw_fd(), libc::SHUT_WR) };
        if conn.recv == Recv::Ended || conn.drained > CLOSE_DRAIN_BYTES_MAX {
            return self.begin_closing(ring, id, CloseReason::Flushed);
        }
        conn.phase = Phase::Draining;
        conn.paused = false;
        self.untimed.push(id);
        conn.arm_recv(ring, id);
        false
    }

    /// Cancels what is in the ring. False when the connection was closing already.
    pub(super) fn begin_closing(&mut self, ring: &mut Ring, id: ConnId, reason: CloseReason) -> bool {
        let Some(conn) = self.conns.get_mut(id) else { return false };
        if conn.phase == Phase::Closing {
            return false;
        }
        conn.phase = Phase::Closing;
        conn.reason = reason;
        if let Some(timer) = conn.timer.take() {
            self.timers.cancel(timer);
        }
        conn.cancel_recv(ring, id);
        if conn.output.in_flight() {
            conn.ops += 1;
            ops::cancel(ring, Op::Send, id);
        }
        true
    }

    /// A closing connection with nothing in the ring gets a completion, for its `Closed` to come with.
    pub(super) fn step_if_idle(&mut self, ring: &mut Ring, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.ops == 0 {
            conn.ops += 1;
            ops::step(ring, id);
        }
    }

    /// Removes a closing connection whose operations have all ended; this closes its descriptor.
    pub(super) fn closed_if_ended(&mut self, id: ConnId) -> Option<Event> {
        let conn = self.conns.get(id)?;
        if conn.phase != Phase::Closing || conn.ops > 0 {
            return None;
        }
        let mut conn = self.conns.remove(id)?;
        conn.output.recycle(&mut self.pool);
        Some(Event::Closed { conn: id, reason: conn.reason })
    }
}
