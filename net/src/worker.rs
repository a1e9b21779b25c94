//! The loop of one core: it owns the ring, the disk, the sockets, the connections and the service with
//! its shard. Everything that happens on the core happens in one of its turns.
//!
//! It runs as the only task of a glommio executor pinned to the core, and parks in its own ring rather
//! than in the executor's: whatever can wake it (sockets, log, other cores) completes there, and the wait
//! is bounded, so that no lost wake-up can hold a request back. It never yields to the executor: glommio
//! 0.9 goes to sleep with a runnable task when its preemption timer has fired before the first task of a
//! round, which is the rule for a task that works in long turns; yielding every 10 ms was seen to stop a
//! core for good. A second task on these executors needs another way to get its turns.

use crate::auth::Keys;
use crate::carrier::{Carrier, Due};
use crate::conn::{INPUT_PAUSE_BYTES, Next, Shared};
use crate::exchange::Edge;
use crate::http::response::DateCache;
use crate::limits::{H2_PING_EVERY_MS, OUTPUT_BACKLOG_BYTES_MAX};
use crate::memory::Supply;
use crate::mesh;
use crate::service::Service;
use crate::service::start::{Linked, Word};
use crate::sockets::{self, ConnId, Event, ListenerId, RecvBuf, Sockets};
use crate::streams::{Ending, Host, Hosts, StreamNews, Streams};
use crate::sys::wall_clock_ms;
use crate::timers::Wheel;
use runelog_engine::disk::ring::{OWNER_DISK, Ring};
use runelog_engine::disk::uring::UringDisk;
use runelog_engine::disk::{Done, Op, Tag};
use runelog_engine::error::{EngineError, No};
use runelog_engine::ids::Seq;
use runelog_engine::router::RouterDef;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Longest sleep of an idle core.
const IDLE: Duration = Duration::from_millis(100);
/// Longest sleep while anything is in flight: the heartbeat that no lost wake-up outlives.
const HEARTBEAT: Duration = Duration::from_millis(10);
/// After the stop signal connections get this long (SH-4).
const STOP_MS: u64 = 10_000;
/// …and then the last checkpoint this long. More than connections get: a disk that others keep busy is no
/// failure, and a stop that waited is status 0 (SH-1).
const CHECKPOINT_MS: u64 = 25_000;

/// What the cores share while they stop.
#[derive(Default)]
pub(crate) struct Stop {
    /// Set once by the signal.
    pub(crate) asked: AtomicBool,
    /// Cores without a request in progress.
    pub(crate) drained: AtomicUsize,
    /// Cores whose log failed, for the exit status.
    pub(crate) failed: AtomicUsize,
}

/// See the module's text.
pub(crate) struct Worker {
    pub(crate) ring: Ring,
    pub(crate) disk: UringDisk,
    pub(crate) sockets: Sockets,
    pub(crate) service: Service,
    pub(crate) memory: Supply,
    pub(crate) stop: Arc<Stop>,
    /// Listening sockets, on the core that accepts for all.
    pub(crate) listeners: Vec<OwnedFd>,
    /// Those whose connections stay on this core.
    pub(crate) own_listeners: Vec<OwnedFd>,
    /// See [`Options::shard_ports`](crate::server::Options::shard_ports).
    pub(crate) shard_ports: Option<u16>,
    pub(crate) max_body_bytes: u64,
    pub(crate) keys: Keys,
    pub(crate) probe_auth: bool,
    pub(crate) heartbeat_ms_min: u64,
    pub(crate) origin: Instant,
}

/// The parts of a running core that are not in [`Worker`].
struct Running {
    conns: Vec<Option<(ConnId, Carrier)>>,
    streams: Streams,
    /// Connections that go on because of what their streams did in this turn.
    moved: Vec<ConnId>,
    deadlines: Wheel<ConnId>,
    shared: Shared,
    dates: DateCache,
    listening: Vec<ListenerId>,
    /// Those of them whose connections stay here.
    own: Vec<ListenerId>,
    next_core: usize,
    events: Vec<Event>,
    done: Vec<Done>,
    outgoing: Vec<(Tag, Op)>,
    touched: Vec<ConnId>,
    /// The operator knows that chunks are written without registration.
    told_plain: bool,
}

impl Worker {
    fn steady_us(&self) -> u64 {
        self.origin.elapsed().as_micros() as u64
    }

    /// Answers the first thread before there is anything to serve.
    pub(crate) fn prepare(&mut self, word: Word) {
        match word {
            Word::Look(stored, reply) => _ = reply.send(self.service.look_at_routers(&stored)),
            Word::Link(alive, reply) => _ = reply.send(self.link_routers(&alive)),
            Word::Routers(routes, max) => self.service.begin_routers(&routes, max),
            Word::Serve { .. } => unreachable!("that is what this prepares for"),
        }
    }

    /// Puts the places of routers right and makes that durable. A disk that has no room for it keeps the start
    /// waiting, not the operator: what is wrong is told, and it goes on when there is room.
    fn link_routers(&mut self, alive: &[(RouterDef, Seq)]) -> Result<Vec<Linked>, String> {
        let (mut outgoing, mut done) = (Vec::new(), Vec::new());
        let mut linked = None;
        loop {
            let steady_us = self.steady_us();
            match &linked {
                // A log that has just started takes a moment for its first file.
                None => match self.service.link_routers(alive) {
                    Ok(result) => linked = Some(result),
                    Err(No::Refused(EngineError::NoLogFile(_), _))
                        if !self.stop.asked.load(Ordering::Relaxed) => {}
                    Err(No::Refused(error, _)) => return Err(not_linked(&error)),
                    Err(No::Busy | No::Load(_)) => {}
                },
                Some((_, wait)) if *wait <= self.service.shard.committed() => break,
                Some(_) => {}
            }
            if let Some(error) = self.service.shard.halted() {
                return Err(not_linked(&error));
            }
            self.service.shard.turn(wall_clock_ms(), steady_us);
            self.tell_notices();
            for chunk in self.service.shard.take_fresh_chunks() {
                self.disk.register_chunk(&self.ring, &chunk);
            }
            self.service.shard.io().take_outgoing(&mut outgoing);
            outgoing.drain(..).for_each(|(tag, op)| self.disk.submit(&mut self.ring, tag, op));
            self.ring.enter(Some(Duration::from_millis(1)));
            while let Some(cqe) = self.ring.next_completion() {
                match cqe.owner() {
                    OWNER_DISK => self.disk.on_completion(&mut self.ring, cqe, &mut done),
                    mesh::OWNER => self.service.mesh.on_completion(&mut self.ring, cqe),
                    other => unreachable!("nobody owns completions of {other} yet"),
                }
            }
            done.drain(..).for_each(|done| self.service.shard.on_done(done, steady_us));
        }
        Ok(linked.map(|(linked, _)| linked).unwrap_or_default())
    }

    fn tell_notices(&mut self) {
        for notice in self.service.shard.take_notices() {
            match notice.severe {
                true => tracing::error!(core = self.service.core, "{}", notice.text),
                false => tracing::info!(core = self.service.core, "{}", notice.text),
            }
        }
    }

    /// Serves until the stop is complete.
    pub(crate) fn run(mut self) {
        let mut running = Running {
            conns: Vec::new(),
            streams: Streams::new(self.service.cores(), self.steady_us() / 1000),
            moved: Vec::new(),
            deadlines: Wheel::new(self.steady_us() / 1000),
            shared: Shared {
                edge: Edge {
                    max_body_bytes: self.max_body_bytes,
                    keys: std::mem::take(&mut self.keys),
                    probe_auth: self.probe_auth,
                    shard_ports: self.shard_ports,
                    heartbeat_ms_min: self.heartbeat_ms_min,
                    scratch: Default::default(),
                    steady_ms: 0,
                    news: Vec::new(),
                    started: Instant::now(),
                },
                limits: Default::default(),
                date: [b' '; 29],
                stopping: false,
                body_bytes: 0,
            },
            dates: DateCache::new(),
            listening: Vec::new(),
            own: Vec::new(),
            next_core: 0,
            events: Vec::new(),
            done: Vec::new(),
            outgoing: Vec::new(),
            touched: Vec::new(),
            told_plain: false,
        };
        for listener in std::mem::take(&mut self.listeners) {
            running.listening.push(self.sockets.listen(&mut self.ring, listener));
        }
        for listener in std::mem::take(&mut self.own_listeners) {
            running.own.push(self.sockets.listen(&mut self.ring, listener));
        }
        running.listening.extend_from_slice(&running.own);
        let mut stopping_since = None;
        let mut drained = false;
        let mut ending = None;
        loop {
            let steady_us = self.steady_us();
            let steady_ms = steady_us / 1000;
            let now = wall_clock_ms();
            running.shared.edge.steady_ms = steady_ms;
            running.shared.edge.started = Instant::now();
            running.shared.date = *running.dates.at((now / 1000) as u64);

            // First of all: everything in this turn goes by its clocks.
            self.service.set_clocks(now, steady_ms);
            running.streams.set_clock(steady_ms);
            let is_idle = running.events.is_empty();
            self.take_events(&mut running);
            let received = self.service.receive();
            for fd in std::mem::take(&mut self.service.adopted) {
                self.adopt(fd, &mut running);
            }
            self.service.counters.connections = self.sockets.connections() as u64;
            self.service.counters.ring_enters = self.ring.enters();
            self.service.counters.polls = self.service.poll_count() as u64;
            self.service.turn(steady_us, is_idle && !received);
            self.take_answers(&mut running);
            self.run_streams(&mut running);
            self.expire(&mut running);
            self.drive_disk(&mut running);
            self.tell_notices();

            if stopping_since.is_none() && self.stop.asked.load(Ordering::Relaxed) {
                stopping_since = Some(steady_ms);
                self.begin_stop(&mut running);
            }
            if let Some(since) = stopping_since {
                let over = steady_ms - since >= STOP_MS;
                if over {
                    self.sockets.close_all(&mut self.ring);
                }
                let quiet = self.service.is_quiet() && self.sockets.connections() == 0;
                if !drained && (quiet || over) {
                    drained = true;
                    self.stop.drained.fetch_add(1, Ordering::SeqCst);
                }
                self.service.drain_routers();
                if drained
                    && ending.is_none()
                    && self.stop.drained.load(Ordering::SeqCst) == self.service.cores()
                    // Nobody writes any more: what is still on its way comes to an end.
                    && (over || self.service.routers_are_quiet())
                {
                    ending = Some(steady_ms);
                    self.service.shard.begin_stop();
                }
                if let Some(ending) = ending {
                    let stopped = self.service.shard.is_stopped();
                    // A full disk takes no checkpoint; what was acknowledged is in the log.
                    let stuck = !stopped && steady_ms - ending >= CHECKPOINT_MS;
                    if stuck || stopped && self.service.shard.halted().is_some() {
                        self.stop.failed.fetch_add(1, Ordering::SeqCst);
                    }
                    if stuck || stopped {
                        break;
                    }
                }
            }

            let more = self.sockets.turn(&mut self.ring, steady_ms);
            self.service.mesh.ring_doorbells(&mut self.ring);
            let busy = more
                || !running.shared.edge.news.is_empty()
                || self.service.has_work()
                || self.service.shard.io().has_outgoing();
            let wait = (!busy && self.service.mesh.prepare_sleep())
                .then(|| self.sleep_for(&running, steady_ms, stopping_since.is_some()));
            debug_assert!(wait.is_none() || !self.service.shard.log.could_flush(), "sleeps on a commit");
            self.ring.enter(wait);
            self.service.mesh.woke();
            self.reap(&mut running);
        }
        let _ = self.sockets.finish(&self.ring);
        // Operations may still be under way if the disk is stuck: their buffers stay until the process ends.
        std::mem::forget(self.disk);
    }

    fn sleep_for(&self, running: &Running, steady_ms: u64, stopping: bool) -> Duration {
        let cap = match stopping || self.service.is_waiting() || self.disk.in_flight() > 0 {
            true => HEARTBEAT,
            false => IDLE,
        };
        let wakes = [
            running.deadlines.next_wake_ms(),
            running.streams.next_wake_ms(),
            self.sockets.next_wake_ms(),
            self.service.next_wake_ms(),
        ];
        let next = wakes
            .into_iter()
            .flatten()
            .min()
            .map(|wake| Duration::from_millis(wake.saturating_sub(steady_ms)));
        next.map_or(cap, |next| next.min(cap))
    }

    /// Collects all completions before anything is done about them.
    fn reap(&mut self, running: &mut Running) {
        while let Some(cqe) = self.ring.next_completion() {
            match cqe.owner() {
                OWNER_DISK => self.disk.on_completion(&mut self.ring, cqe, &mut running.done),
                sockets::OWNER => running.events.extend(self.sockets.on_completion(&mut self.ring, cqe)),
                mesh::OWNER => self.service.mesh.on_completion(&mut self.ring, cqe),
                other => unreachable!("nobody owns completions of {other}"),
            }
        }
        let steady_us = self.steady_us();
        for done in running.done.drain(..) {
            self.service.shard.on_done(done, steady_us);
        }
    }

    /// Moves the shard's operations to the disk.
    fn drive_disk(&mut self, running: &mut Running) {
        self.memory.turn(&mut self.service.shard);
        // What operations that were tried again, or streams, put into the log after its turn.
        self.service.shard.flush(self.steady_us());
        for chunk in self.service.shard.take_fresh_chunks() {
            if !self.disk.register_chunk(&self.ring, &chunk) && !running.told_plain {
                // Found out only here, long after the line about the device at start.
                running.told_plain = true;
                tracing::warn!(core = self.service.core, "log device: {}", self.disk.features());
            }
        }
        self.service.shard.io().take_outgoing(&mut running.outgoing);
        for (tag, op) in running.outgoing.drain(..) {
            self.disk.submit(&mut self.ring, tag, op);
        }
    }

    fn take_events(&mut self, running: &mut Running) {
        let mut events = std::mem::take(&mut running.events);
        for event in events.drain(..) {
            match event {
                Event::Accepted { listener, fd } if running.own.contains(&listener) => {
                    self.adopt(fd, running)
                }
                Event::Accepted { fd, .. } => self.place(fd, running),
                Event::Received { conn, buf } => self.received(conn, buf, running),
                Event::PeerFinished { conn } => {
                    if let Some(state) = running.conn(conn) {
                        state.peer_finished();
                        running.touched.push(conn);
                    }
                }
                Event::SendDone { conn } => running.touched.push(conn),
                Event::Closed { conn, .. } => {
                    let Running { conns, shared, streams, .. } = &mut *running;
                    let slot = conns.get_mut(conn.index());
                    let slot = slot.and_then(|slot| slot.take_if(|(id, _)| *id == conn));
                    if let Some((_, mut state)) = slot {
                        state.give_back(shared);
                        for stream in state.streams() {
                            streams.close(Host { conn: conn.to_bits(), stream }, &mut self.service);
                        }
                    }
                }
                Event::ListenerEnded { errno, .. } => {
                    if errno != 0 {
                        tracing::error!(errno, "a listener ended");
                    }
                }
            }
        }
        running.events = events;
        let mut touched = std::mem::take(&mut running.touched);
        for conn in touched.drain(..) {
            self.go_on(conn, running);
        }
        running.touched = touched;
    }

    /// Spreads connections evenly over the cores.
    fn place(&mut self, fd: OwnedFd, running: &mut Running) {
        let cores = self.service.cores();
        running.next_core = (running.next_core + 1) % cores;
        let core = running.next_core;
        let mine = match core == self.service.core {
            true => Some(fd),
            false => self.service.hand_over(core, fd),
        };
        if let Some(fd) = mine {
            self.adopt(fd, running);
        }
    }

    fn adopt(&mut self, fd: OwnedFd, running: &mut Running) {
        if running.shared.stopping {
            return;
        }
        let Ok(id) = self.sockets.adopt(&mut self.ring, fd) else { return };
        if running.conns.len() <= id.index() {
            running.conns.resize_with(id.index() + 1, || None);
        }
        let conn = Carrier::new(&running.shared);
        // Looked at earlier than its deadline: it may turn out to be one that is pinged.
        let steady_ms = running.shared.edge.steady_ms;
        running.deadlines.insert(conn.deadline_ms().min(steady_ms + H2_PING_EVERY_MS), id);
        running.conns[id.index()] = Some((id, conn));
    }

    fn received(&mut self, id: ConnId, buf: RecvBuf, running: &mut Running) {
        let Running { conns, shared, .. } = running;
        if let Some(Some((found, conn))) = conns.get_mut(id.index())
            && *found == id
            && let Some((bytes, out)) = self.sockets.bytes_and_output(&buf, id)
        {
            let next = guarded(|| conn.receive(id.to_bits(), bytes, out, &mut self.service, shared));
            self.settle(id, next, running);
        }
        self.sockets.give_back(buf);
    }

    /// Goes on with a connection whose answer left or whose output drained.
    fn go_on(&mut self, id: ConnId, running: &mut Running) {
        let Running { conns, shared, streams, .. } = running;
        let Some(Some((found, conn))) = conns.get_mut(id.index()) else { return };
        if *found != id {
            return;
        }
        if conn.is_socket() {
            let host = Host { conn: id.to_bits(), stream: 0 };
            shared.edge.news.push((host, StreamNews::Drained));
        }
        if conn.is_waiting() {
            return;
        }
        if conn.is_streaming() {
            let host = Host { conn: id.to_bits(), stream: 0 };
            match conn.stream_is_left() {
                true => {
                    streams.close(host, &mut self.service);
                    self.sockets.close_after_flush(&mut self.ring, id);
                }
                false => shared.edge.news.push((host, StreamNews::Drained)),
            }
            return;
        }
        if self.sockets.output_backlog(id) > OUTPUT_BACKLOG_BYTES_MAX {
            return;
        }
        let Some(out) = self.sockets.output(id) else { return };
        let next = guarded(|| conn.resume(id.to_bits(), out, &mut self.service, shared));
        self.settle(id, next, running);
    }

    /// Closes, pauses or resumes as the connection's state asks for.
    fn settle(&mut self, id: ConnId, next: Next, running: &mut Running) {
        let Some(conn) = running.conn(id) else { return };
        if next == Next::Close || conn.wants_close() {
            self.sockets.close_after_flush(&mut self.ring, id);
            return;
        }
        let full = conn.kept_bytes() > INPUT_PAUSE_BYTES;
        if conn.set_paused(full) {
            match full {
                true => self.sockets.pause(&mut self.ring, id),
                false => self.sockets.resume(&mut self.ring, id),
            }
        }
    }

    fn take_answers(&mut self, running: &mut Running) {
        // Connections that go on may be answered at once, so this ends only when all is quiet; each
        // round handles one request of a connection, and input is bounded.
        while let Some((conn, stream, answer)) = self.service.answers.pop_front() {
            let id = ConnId::from_bits(conn);
            let Running { conns, shared, .. } = running;
            let found = conns.get_mut(id.index()).and_then(Option::as_mut).filter(|(found, _)| *found == id);
            let (Some((_, conn)), Some(out)) = (found, self.sockets.output(id)) else { continue };
            conn.on_answer(id.to_bits(), stream, answer, out, &mut self.service, shared);
            self.go_on(id, running);
        }
    }

    /// Begins streams, and brings what is new to those that are open.
    fn run_streams(&mut self, running: &mut Running) {
        let mut news = std::mem::take(&mut running.shared.edge.news);
        let Running { conns, shared, streams, moved, .. } = &mut *running;
        let mut hosts = Carriers { conns, sockets: &mut self.sockets, shared, moved };
        for (host, news) in news.drain(..) {
            // A connection may have gone in the turn that it told this in: nobody would close its stream.
            if hosts.is_there(host) {
                streams.on_news(host, news, &mut self.service, &mut hosts);
            }
        }
        while let Some(feed) = self.service.feeds.pop_front() {
            guarded(|| streams.on_feed(&feed, &mut self.service, &mut hosts));
        }
        if shared.stopping {
            streams.shutdown(&mut self.service, &mut hosts);
        }
        streams.turn(&mut self.service, &mut hosts);
        running.shared.edge.news = news; // keeps its memory
        let mut moved = std::mem::take(&mut running.moved);
        for id in moved.drain(..) {
            self.go_on(id, running);
        }
        running.moved = moved;
    }

    fn expire(&mut self, running: &mut Running) {
        let steady_ms = running.shared.edge.steady_ms;
        while let Some(id) = running.deadlines.next_due(steady_ms) {
            let backlog = self.sockets.output_backlog(id);
            let Some(conn) = running.conn(id) else { continue };
            let due = conn.on_deadline(backlog, steady_ms);
            // Never at once again, whatever the deadline says.
            let deadline_ms = conn.deadline_ms().clamp(steady_ms + 1_000, steady_ms + 60_000);
            match due {
                Due::Stays => {}
                Due::Resume => self.go_on(id, running),
                Due::Close => {
                    self.sockets.close(&mut self.ring, id);
                    continue;
                }
            }
            running.deadlines.insert(deadline_ms, id);
        }
    }

    /// SH-2: no new connections, idle ones close, the others after their answer.
    fn begin_stop(&mut self, running: &mut Running) {
        running.shared.stopping = true;
        for listener in std::mem::take(&mut running.listening) {
            self.sockets.stop_listening(&mut self.ring, listener);
        }
        let conns: Vec<(ConnId, bool)> =
            running.conns.iter_mut().flatten().map(|(id, conn)| (*id, conn.begin_stop())).collect();
        for (id, idle) in conns {
            match idle {
                true => self.sockets.close_after_flush(&mut self.ring, id),
                false => self.go_on(id, running),
            }
        }
    }
}

/// The connections of the core as streams see them.
struct Carriers<'a> {
    conns: &'a mut Vec<Option<(ConnId, Carrier)>>,
    sockets: &'a mut Sockets,
    shared: &'a Shared,
    moved: &'a mut Vec<ConnId>,
}

impl Carriers<'_> {
    fn is_there(&self, host: Host) -> bool {
        let id = ConnId::from_bits(host.conn);
        self.conns.get(id.index()).is_some_and(|slot| slot.as_ref().is_some_and(|(found, _)| *found == id))
    }

    fn move_on(&mut self, host: Host) {
        let id = ConnId::from_bits(host.conn);
        if self.moved.last() != Some(&id) {
            self.moved.push(id);
        }
    }

    fn conn(&mut self, host: Host) -> Option<(&mut Carrier, &mut Vec<u8>)> {
        let id = ConnId::from_bits(host.conn);
        let (found, conn) = self.conns.get_mut(id.index())?.as_mut()?;
        let out = self.sockets.output(id)?;
        (*found == id).then_some((conn, out))
    }
}

impl Hosts for Carriers<'_> {
    fn write(&mut self, host: Host, bytes: &[u8]) {
        if let Some((conn, out)) = self.conn(host) {
            conn.write_stream(host.stream, bytes, out);
            if conn.gathers() {
                self.move_on(host);
            }
        }
    }

    fn backlog(&self, host: Host) -> usize {
        let id = ConnId::from_bits(host.conn);
        let found = self.conns.get(id.index()).and_then(Option::as_ref).filter(|(found, _)| *found == id);
        found.map_or(0, |(_, conn)| conn.stream_backlog(host.stream, self.sockets.output_backlog(id)))
    }

    fn end(&mut self, host: Host, ending: Ending) {
        let shared = self.shared;
        if let Some((conn, out)) = self.conn(host) {
            conn.end_stream(host.stream, ending, out, shared);
            self.move_on(host);
        }
    }
}

impl Running {
    fn conn(&mut self, id: ConnId) -> Option<&mut Carrier> {
        let (found, conn) = self.conns.get_mut(id.index())?.as_mut()?;
        (*found == id).then_some(conn)
    }
}

/// Why a start ends at its routers: what it puts right of them must be durable before they go on (I-66, I-70).
fn not_linked(error: &EngineError) -> String {
    match error {
        EngineError::NoLogFile(error) | EngineError::Halted(error) => {
            format!("what the start changed of routers cannot be written to the log: {error}")
        }
        other => format!("{other:?}"),
    }
}

/// A panic while a request is handled may have left the shard half changed: better no process than a
/// wrong one. The log holds everything that was acknowledged.
fn guarded<T>(work: impl FnOnce() -> T) -> T {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(_) => {
            tracing::error!("a defect in handling a request; stopping before anything wrong is written");
            std::process::abort();
        }
    }
}
