//! All sockets of one core over its ring: bytes and connections, no HTTP.
//! Lives here: accepting, receiving into provided buffers, sending, holding back, closing.
//! Not here: what bytes mean, deadlines of requests (`timers` in the worker), other cores (`mesh`).
//!
//! One turn of the worker's loop (see `examples/raw_server.rs`):
//! ```text
//! ring.enter(wait)                           // submits everything, collects everything
//! while ring.next_completion():              // by owner: sockets, mesh, disk
//!     sockets.on_completion() -> Event       // parse in place, write answers to `output`, give back
//! sockets.turn(ring, now)                    // sends all outputs, re-arms, ends lingering connections
//! ```
//! Always true:
//! - a connection gets exactly one `Closed`, as its last event, and its descriptor is closed then:
//!   after every operation on it has ended, so that no operation meets a reused descriptor;
//! - at most one receive and one send of a connection are in the ring;
//! - a connection that neither sends nor has something to send holds no buffer.
//!
//! Descriptors must be blocking ones (`O_NONBLOCK` makes io_uring answer `EAGAIN` instead of waiting).

use crate::limits::{
    CLOSE_DRAIN_BYTES_MAX, CLOSE_DRAIN_MS, CLOSE_FLUSH_MS, CONNECTIONS_MAX, RECV_BUFFER_BYTES, RECV_BUFFERS,
    STARVED_PER_TURN_MAX,
};
use crate::timers::{TimerId, Wheel};
use runelog_engine::disk::ring::{Cqe, Ring};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

mod accept;
mod buffers;
mod ops;
mod output;
mod slab;

use accept::{Listeners, Outcome};
use buffers::Buffers;
use ops::Op;
use output::{Output, Pool, Sent};
use slab::Slab;

pub use accept::ListenerId;
pub use buffers::RecvBuf;
pub use ops::OWNER;
pub use slab::ConnId;

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
    /// The client sends nothing more (it may still read): answer what was asked, then close.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Sends what is left; what comes in is thrown away.
    Flushing,
    /// Everything is sent and the client knows it; what still comes in is thrown away.
    Draining,
    /// Waits for its operations to end.
    Closing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recv {
    Idle,
    Armed,
    /// Armed, and its cancellation is on the way.
    Cancelled,
    /// No provided buffer was free; it is in the queue of the starved.
    Starved,
    /// The client finished.
    Ended,
}

struct Conn {
    fd: OwnedFd,
    phase: Phase,
    recv: Recv,
    paused: bool,
    /// Is in the list of connections to flush.
    dirty: bool,
    /// Operations whose last completion has not come.
    ops: u8,
    output: Output,
    /// Bytes thrown away since closing began.
    drained: usize,
    timer: Option<TimerId>,
    reason: CloseReason,
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
    conns: Slab<Conn>,
    buffers: Buffers,
    pool: Pool,
    dirty: Vec<ConnId>,
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
            conns: Slab::new(),
            buffers: Buffers::register(ring, count, bytes)?,
            pool: Pool::default(),
            dirty: Vec::new(),
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
        set_nodelay(&fd);
        let conn = Conn {
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
        };
        let id = self.conns.insert(conn);
        self.counters.adopted += 1;
        self.arm_recv(ring, id);
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

    /// Where answers are appended; sent by the next [`Sockets::turn`]. `None` when the connection is
    /// gone or closing.
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
        cancel_recv(ring, id, conn);
    }

    /// Receives again after [`Sockets::pause`].
    pub fn resume(&mut self, ring: &mut Ring, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.phase == Phase::Open && conn.paused {
            conn.paused = false;
            self.arm_recv(ring, id); // while the cancellation is on the way: when it has ended
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
        for id in self.conns.ids() {
            self.close(ring, id);
        }
    }

    /// [`Sockets::close_after_flush`] for every connection.
    pub fn close_all_after_flush(&mut self, ring: &mut Ring) {
        for id in self.conns.ids() {
            self.close_after_flush(ring, id);
        }
    }

    /// Ends the sockets of a core once all connections are closed and all listeners ended; gives them
    /// back otherwise.
    pub fn finish(mut self, ring: &Ring) -> Result<(), Sockets> {
        if self.conns.len() > 0 || self.listeners.any_armed() || self.buffers.unregister(ring).is_err() {
            return Err(self);
        }
        Ok(())
    }

    /// Once a turn, after the completions and before `ring.enter`: sends the outputs, arms what rested,
    /// ends what lingered too long. True when something still waits to be armed: then the next `enter`
    /// must not wait.
    pub fn turn(&mut self, ring: &mut Ring, now_ms: u64) -> bool {
        self.flush_dirty(ring);
        self.expire(ring, now_ms);
        self.listeners.turn(ring, now_ms);
        self.arm_starved(ring);
        !self.starved.is_empty() && self.buffers.free() > 0
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

    fn on_accept(&mut self, ring: &mut Ring, index: u32, result: i32, more: bool) -> Option<Event> {
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

    fn on_recv(
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
                    self.arm_recv(ring, id);
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
                self.arm_recv(ring, id);
                self.closed_if_ended(id)
            }
            errno => self.fail(ring, id, errno),
        }
    }

    /// Bytes came that no one wants any more.
    fn on_discarded(&mut self, ring: &mut Ring, id: ConnId, bytes: usize) -> Option<Event> {
        let conn = self.conns.get_mut(id)?;
        conn.drained += bytes;
        if conn.drained <= CLOSE_DRAIN_BYTES_MAX {
            self.arm_recv(ring, id);
            return self.closed_if_ended(id);
        }
        match conn.phase {
            // The answer goes out first; TCP holds the client back meanwhile.
            Phase::Flushing if !conn.paused => {
                conn.paused = true;
                cancel_recv(ring, id, conn);
                None
            }
            Phase::Draining => {
                self.begin_closing(ring, id, CloseReason::Flushed);
                self.closed_if_ended(id)
            }
            _ => self.closed_if_ended(id),
        }
    }

    fn on_peer_finished(&mut self, ring: &mut Ring, id: ConnId) -> Option<Event> {
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

    fn on_send(&mut self, ring: &mut Ring, id: ConnId, result: i32) -> Option<Event> {
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

    fn fail(&mut self, ring: &mut Ring, id: ConnId, errno: i32) -> Option<Event> {
        self.begin_closing(ring, id, CloseReason::Failed(errno));
        self.closed_if_ended(id)
    }

    /// Everything is sent. True when the connection is closing now.
    fn drain(&mut self, ring: &mut Ring, id: ConnId) -> bool {
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
        self.arm_recv(ring, id);
        false
    }

    /// Cancels what is in the ring. False when the connection was closing already.
    fn begin_closing(&mut self, ring: &mut Ring, id: ConnId, reason: CloseReason) -> bool {
        let Some(conn) = self.conns.get_mut(id) else { return false };
        if conn.phase == Phase::Closing {
            return false;
        }
        conn.phase = Phase::Closing;
        conn.reason = reason;
        if let Some(timer) = conn.timer.take() {
            self.timers.cancel(timer);
        }
        cancel_recv(ring, id, conn);
        if conn.output.in_flight() {
            conn.ops += 1;
            ops::cancel(ring, Op::Send, id);
        }
        true
    }

    /// A closing connection with nothing in the ring gets a completion, for its `Closed` to come with.
    fn step_if_idle(&mut self, ring: &mut Ring, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.ops == 0 {
            conn.ops += 1;
            ops::step(ring, id);
        }
    }

    /// Removes a closing connection whose operations have all ended; this closes its descriptor.
    fn closed_if_ended(&mut self, id: ConnId) -> Option<Event> {
        let conn = self.conns.get(id)?;
        if conn.phase != Phase::Closing || conn.ops > 0 {
            return None;
        }
        let mut conn = self.conns.remove(id)?;
        conn.output.recycle(&mut self.pool);
        Some(Event::Closed { conn: id, reason: conn.reason })
    }

    /// Arms the receive if nothing speaks against it.
    fn arm_recv(&mut self, ring: &mut Ring, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.recv == Recv::Idle && !conn.paused && conn.phase != Phase::Closing {
            conn.recv = Recv::Armed;
            conn.ops += 1;
            ops::recv(ring, conn.fd.as_raw_fd(), id);
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
                self.arm_recv(ring, id);
            }
        }
    }

    fn flush_dirty(&mut self, ring: &mut Ring) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.dirty = false;
                conn.output.trim(&mut self.pool);
                self.flush(ring, id);
            }
        }
        self.dirty = dirty; // keeps its memory
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
    conns: &'a mut Slab<Conn>,
    pool: &mut Pool,
    dirty: &mut Vec<ConnId>,
    id: ConnId,
) -> Option<&'a mut Vec<u8>> {
    let conn = conns.get_mut(id)?;
    if conn.phase != Phase::Open {
        return None;
    }
    if !conn.dirty {
        conn.dirty = true;
        dirty.push(id);
    }
    Some(conn.output.next(pool))
}

/// Cancels an armed receive; its end comes as a completion of the receive itself.
fn cancel_recv(ring: &mut Ring, id: ConnId, conn: &mut Conn) {
    match conn.recv {
        Recv::Armed => {
            conn.recv = Recv::Cancelled;
            conn.ops += 1;
            ops::cancel(ring, Op::Recv, id);
        }
        Recv::Starved => conn.recv = Recv::Idle,
        Recv::Idle | Recv::Cancelled | Recv::Ended => {}
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
