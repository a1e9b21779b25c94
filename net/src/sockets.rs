//! All sockets of one core over its ring: bytes and connections, no HTTP.
//! Lives here: accepting, receiving into provided buffers, sending, holding back, closing.
//! Not here: what bytes mean, deadlines of requests (`timers` in the worker), other cores (`mesh`).
//!
//! One turn of the worker's loop (see `examples/raw_server.rs`):
//! ```text
//! ring.enter(wait)                           // submits everything, collects everything
//! while ring.next_completion():              // by owner: sockets, mesh, disk
//!     sockets.on_completion() -> Event       // parse in place, write answers to `output`, give back
//! sockets.turn(ring, now)                    // sends outputs, re-arms, ends lingering connections
//! ```
//! Always true:
//! - a connection gets exactly one `Closed`, as its last event, and its descriptor is closed then:
//!   after every operation on it has ended, so that no operation meets a reused descriptor;
//! - at most one receive and one send of a connection are in the ring;
//! - a connection that neither sends nor has something to send holds no buffer.
//!
//! Descriptors must be blocking ones (`O_NONBLOCK` makes io_uring answer `EAGAIN` instead of waiting).

use crate::limits::{
    CLOSE_DRAIN_MS, CLOSE_FLUSH_MS, CONNECTIONS_MAX, RECV_BUFFER_BYTES, RECV_BUFFERS, SENDS_PER_TURN_MAX,
    STARVED_PER_TURN_MAX,
};
use crate::slab::Slab;
use crate::timers::Wheel;
use runelog_engine::disk::ring::{Cqe, Ring};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

mod accept;
mod buffers;
mod conn;
mod ops;
mod output;
mod react;

use accept::{Listeners, Outcome};
use buffers::Buffers;
use conn::{Conn, Phase, Recv};
use ops::Op;
use output::Pool;

/// Names a connection of one core until its [`Event::Closed`].
pub use crate::slab::Key as ConnId;
pub use accept::ListenerId;
pub use buffers::RecvBuf;
pub use ops::OWNER;

/// The connections; their ids fit into the kernel's `user_data`.
type Conns = Slab<Conn, { ops::GENERATION_MASK }>;

const CQE_F_BUFFER: u32 = 1;
const CQE_F_MORE: u32 = 2;
const CQE_BUFFER_SHIFT: u32 = 16;

/// What happened on the sockets.
#[derive(Debug)]
pub enum Event {
    /// A client connected: [`Sockets::adopt`] it here, send it to another core, or drop it.
    Accepted {
        /// Where it connected.
        listener: ListenerId,
        /// The connection; closed when dropped.
        fd: OwnedFd,
    },
    /// No more clients come from this listener. `errno` is zero after [`Sockets::stop_listening`].
    ListenerEnded {
        /// Which one.
        listener: ListenerId,
        /// Why.
        errno: i32,
    },
    /// Bytes came. Give the buffer back before the turn ends.
    Received {
        /// From whom.
        conn: ConnId,
        /// See [`Sockets::bytes`].
        buf: RecvBuf,
    },
    /// The client sends nothing more (it may still read): answer what was asked, then close. From now
    /// on only a send finds out that the client is gone.
    PeerFinished {
        /// Which client.
        conn: ConnId,
    },
    /// A send ended; [`Sockets::output_backlog`] became smaller.
    SendDone {
        /// Which connection.
        conn: ConnId,
    },
    /// The last event of a connection.
    Closed {
        /// From now on stale.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
}

/// Why a connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// [`Sockets::close`].
    Asked,
    /// [`Sockets::close_after_flush`], and everything was sent.
    Flushed,
    /// The kernel's error number; `ETIMEDOUT` also when the client did not take its last answer.
    Failed(i32),
}

/// Counters of one core's sockets, for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Connections adopted.
    pub adopted: u64,
    /// Receives that found no free buffer and were armed again later.
    pub starved: u64,
    /// Accepts that the kernel refused.
    pub accept_errors: u64,
    /// Bytes received, thrown away ones included.
    pub received_bytes: u64,
    /// Sends submitted.
    pub sends: u64,
}

/// The sockets of one core. End it with [`Sockets::finish`]; dropped earlier, it leaks the memory that
/// the kernel may still use.
pub struct Sockets {
    listeners: Listeners,
    conns: Conns,
    buffers: Buffers,
    pool: Pool,
    /// Have output that was not sent yet, in the order in which it came.
    dirty: VecDeque<ConnId>,
    starved: VecDeque<ConnId>,
    /// Began to flush or drain since the last turn, which knows the time and sets their timers.
    untimed: Vec<ConnId>,
    timers: Wheel<ConnId>,
    counters: Counters,
}

impl Sockets {
    /// The sockets of the core that owns `ring`; one per ring.
    pub fn new(ring: &Ring, now_ms: u64) -> io::Result<Sockets> {
        Sockets::with_buffers(ring, now_ms, RECV_BUFFERS, RECV_BUFFER_BYTES)
    }

    /// With other receive buffers than those of [`limits`](crate::limits).
    pub fn with_buffers(ring: &Ring, now_ms: u64, count: u16, bytes: usize) -> io::Result<Sockets> {
        Ok(Sockets {
            listeners: Listeners::default(),
            conns: Conns::default(),
            buffers: Buffers::register(ring, count, bytes)?,
            pool: Pool::default(),
            dirty: VecDeque::new(),
            starved: VecDeque::new(),
            untimed: Vec::new(),
            timers: Wheel::new(now_ms),
            counters: Counters::default(),
        })
    }

    /// Accepts from a listening socket until [`Sockets::stop_listening`].
    pub fn listen(&mut self, ring: &mut Ring, listener: OwnedFd) -> ListenerId {
        self.listeners.add(ring, listener)
    }

    /// Stops accepting and closes the listening socket; `ListenerEnded` follows, unless this returns
    /// true: then it has ended already. Connections that were accepted meanwhile come before it.
    pub fn stop_listening(&mut self, ring: &mut Ring, listener: ListenerId) -> bool {
        self.listeners.stop(ring, listener)
    }

    /// Takes a connected socket and starts to receive. Gives it back when the core is full.
    pub fn adopt(&mut self, ring: &mut Ring, fd: OwnedFd) -> Result<ConnId, OwnedFd> {
        if self.conns.len() >= CONNECTIONS_MAX {
            return Err(fd);
        }
        let id = self.conns.insert(Conn::new(fd));
        let conn = self.conns.get_mut(id).expect("just inserted");
        conn.arm_recv(ring, id);
        self.counters.adopted += 1;
        Ok(id)
    }

    /// Connections that had no `Closed` yet.
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// See [`Counters`].
    pub fn counters(&self) -> Counters {
        Counters { accept_errors: self.listeners.errors, ..self.counters }
    }

    /// Receive buffers that were not given back yet; zero between turns.
    pub fn buffers_lent(&self) -> usize {
        self.buffers.lent()
    }

    /// The received bytes, in place.
    pub fn bytes(&self, buf: &RecvBuf) -> &[u8] {
        self.buffers.bytes(buf)
    }

    /// The received bytes and the output of a connection at once, to answer while reading. `None` when
    /// the connection takes no more output.
    pub fn bytes_and_output(&mut self, buf: &RecvBuf, conn: ConnId) -> Option<(&[u8], &mut Vec<u8>)> {
        let output = open_output(&mut self.conns, &mut self.pool, &mut self.dirty, conn)?;
        Some((self.buffers.bytes(buf), output))
    }

    /// Lets the kernel fill the buffer again.
    pub fn give_back(&mut self, buf: RecvBuf) {
        self.buffers.give_back(buf);
    }

    /// Where answers are appended; sent by [`Sockets::turn`], in the order in which they began. `None` when the
    /// connection is gone or closing.
    pub fn output(&mut self, conn: ConnId) -> Option<&mut Vec<u8>> {
        open_output(&mut self.conns, &mut self.pool, &mut self.dirty, conn)
    }

    /// Bytes not yet taken by the kernel. Above
    /// [`OUTPUT_BACKLOG_BYTES_MAX`](crate::limits::OUTPUT_BACKLOG_BYTES_MAX) stop parsing and
    /// [`Sockets::pause`]; go on at `SendDone`.
    pub fn output_backlog(&self, conn: ConnId) -> usize {
        self.conns.get(conn).map_or(0, |conn| conn.output.backlog())
    }

    /// Sends a connection's output now rather than in [`Sockets::turn`]; without effect while a send is
    /// in flight, which the rest follows by itself.
    pub fn flush(&mut self, ring: &mut Ring, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.phase != Phase::Closing && conn.output.flush(ring, conn.fd.as_raw_fd(), id) {
            conn.ops += 1;
            self.counters.sends += 1;
        }
    }

    /// Stops receiving, so that the client's bytes stay in the kernel and TCP holds the client back.
    /// What the kernel has already put into buffers still comes as `Received`, and `PeerFinished` may.
    pub fn pause(&mut self, ring: &mut Ring, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.phase != Phase::Open || conn.paused {
            return;
        }
        conn.paused = true;
        conn.cancel_recv(ring, id);
    }

    /// Receives again after [`Sockets::pause`].
    pub fn resume(&mut self, ring: &mut Ring, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.phase == Phase::Open && conn.paused {
            conn.paused = false;
            conn.arm_recv(ring, id); // while the cancellation is on the way: when it has ended
        }
    }

    /// Sends what is in the output, tells the client that nothing follows, throws away what it still
    /// sends (for a bounded time and amount, so that it reads the answer and not a reset), and closes.
    pub fn close_after_flush(&mut self, ring: &mut Ring, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.phase != Phase::Open {
            return;
        }
        conn.phase = Phase::Flushing;
        self.flush(ring, id);
        let flushed = self.conns.get(id).is_some_and(|conn| conn.output.backlog() == 0);
        if !flushed {
            self.untimed.push(id);
        } else if self.drain(ring, id) {
            self.step_if_idle(ring, id);
        }
    }

    /// Closes now: what was not sent is lost, the client may see a reset. `Closed` follows.
    pub fn close(&mut self, ring: &mut Ring, id: ConnId) {
        if self.begin_closing(ring, id, CloseReason::Asked) {
            self.step_if_idle(ring, id);
        }
    }

    /// [`Sockets::close`] for every connection, at the end of the process's patience.
    pub fn close_all(&mut self, ring: &mut Ring) {
        for id in self.conns.keys() {
            self.close(ring, id);
        }
    }

    /// [`Sockets::close_after_flush`] for every connection.
    pub fn close_all_after_flush(&mut self, ring: &mut Ring) {
        for id in self.conns.keys() {
            self.close_after_flush(ring, id);
        }
    }

    /// Ends the sockets of a core once all connections are closed and all listeners ended; gives them
    /// back otherwise.
    pub fn finish(mut self, ring: &Ring) -> Result<(), Box<Sockets>> {
        if self.conns.len() > 0 || self.listeners.any_armed() || self.buffers.unregister(ring).is_err() {
            return Err(Box::new(self));
        }
        Ok(())
    }

    /// Once a turn, after the completions and before `ring.enter`: sends outputs, arms what rested, ends what
    /// lingered too long. True when something still waits to be sent or armed: then the next `enter` must
    /// not wait.
    pub fn turn(&mut self, ring: &mut Ring, now_ms: u64) -> bool {
        self.flush_dirty(ring);
        self.expire(ring, now_ms);
        self.listeners.turn(ring, now_ms);
        self.arm_starved(ring);
        !self.dirty.is_empty() || !self.starved.is_empty() && self.buffers.free() > 0
    }

    /// When [`Sockets::turn`] has something to do at the latest.
    pub fn next_wake_ms(&self) -> Option<u64> {
        let wakes = [self.timers.next_wake_ms(), self.listeners.next_wake_ms()];
        wakes.into_iter().flatten().min()
    }

    /// Takes in a completion whose owner is [`OWNER`].
    pub fn on_completion(&mut self, ring: &mut Ring, cqe: Cqe) -> Option<Event> {
        let (op, id) = ops::decode(cqe.user_data);
        let more = cqe.flags & CQE_F_MORE != 0;
        match op {
            Op::Accept => return self.on_accept(ring, id.index, cqe.result, more),
            Op::AcceptCancel => return None,
            Op::Recv | Op::Send | Op::Step => {}
        }
        let buf = (cqe.flags & CQE_F_BUFFER != 0).then(|| {
            let buffer_id = (cqe.flags >> CQE_BUFFER_SHIFT) as u16;
            self.buffers.lend(buffer_id, cqe.result.max(0) as u32)
        });
        // A connection outlives its operations.
        let conn = self.conns.get_mut(id).expect("a completion of a connection that is gone");
        if !more {
            conn.ops -= 1;
        }
        match op {
            Op::Recv => self.on_recv(ring, id, cqe.result, more, buf),
            Op::Send => self.on_send(ring, id, cqe.result),
            _ => self.closed_if_ended(id),
        }
    }

    fn arm_starved(&mut self, ring: &mut Ring) {
        let budget = self.starved.len().min(self.buffers.free().max(STARVED_PER_TURN_MAX));
        if self.buffers.free() == 0 {
            return; // the caller holds them all
        }
        for _ in 0..budget {
            let Some(id) = self.starved.pop_front() else { return };
            if let Some(conn) = self.conns.get_mut(id)
                && conn.recv == Recv::Starved
            {
                conn.recv = Recv::Idle;
                conn.arm_recv(ring, id);
            }
        }
    }

    fn flush_dirty(&mut self, ring: &mut Ring) {
        let before = self.counters.sends;
        while self.counters.sends - before < SENDS_PER_TURN_MAX as u64
            && let Some(id) = self.dirty.pop_front()
        {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.dirty = false;
                conn.output.trim(&mut self.pool);
                self.flush(ring, id);
            }
        }
    }

    fn expire(&mut self, ring: &mut Ring, now_ms: u64) {
        while let Some(id) = self.timers.next_due(now_ms) {
            let Some(conn) = self.conns.get_mut(id) else { continue };
            conn.timer = None;
            let reason = match conn.phase {
                Phase::Draining => CloseReason::Flushed,
                _ => CloseReason::Failed(libc::ETIMEDOUT),
            };
            if self.begin_closing(ring, id, reason) {
                self.step_if_idle(ring, id);
            }
        }
        let mut untimed = std::mem::take(&mut self.untimed);
        for id in untimed.drain(..) {
            let Some(conn) = self.conns.get_mut(id) else { continue };
            let wait_ms = match conn.phase {
                Phase::Flushing => CLOSE_FLUSH_MS,
                Phase::Draining => CLOSE_DRAIN_MS,
                Phase::Open | Phase::Closing => continue,
            };
            if let Some(timer) = conn.timer.replace(self.timers.insert(now_ms + wait_ms, id)) {
                self.timers.cancel(timer);
            }
        }
        self.untimed = untimed;
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.conns.values_mut().for_each(|conn| conn.output.abandon());
    }
}

fn open_output<'a>(
    conns: &'a mut Conns,
    pool: &mut Pool,
    dirty: &mut VecDeque<ConnId>,
    id: ConnId,
) -> Option<&'a mut Vec<u8>> {
    let conn = conns.get_mut(id)?;
    if conn.phase != Phase::Open {
        return None;
    }
    if !conn.dirty {
        conn.dirty = true;
        dirty.push_back(id);
    }
    Some(conn.output.next(pool))
}
