//! The owner's side of a core: operations on its shard, from its own connections and from other cores,
//! and everything that has to wait: for a commit, for sealed blocks, for room in the log, for news.
//! Lives here: waiting answers, messages, the order of a turn. By file: `entry` (from a connection to the
//! owner), `run` (one operation), `polls`, `watch`, `sessions`, `subscribe`, `queue`, `work`, `routers` with
//! `router_ops`, `pump`, `settle` and `start`, `tasks`. Not here: sockets, HTTP heads (`conn`), what an
//! operation does (`handlers`).
//!
//! Waiting never blocks: an answer that must wait is put down with the block it waits for; an operation
//! that must be asked again is put down whole. Both are bounded.

mod entry;
mod polls;
mod pump;
mod queue;
mod router_ops;
mod routers;
mod run;
mod sessions;
mod settle;
pub(crate) mod start;
mod subscribe;
mod tasks;
mod watch;
mod work;

use crate::caps::Caps;
use crate::fault::Fault;
use crate::feed::{Feed, WatchCommand};
use crate::handlers::fault_of;
use crate::limits::{BUSY_MAX, BUSY_MS_MAX, MESH_PER_TURN_MAX};
use crate::mesh::Mesh;
use crate::message::{Answer, AppendAnswer, AppendOp, Caller, DiffOp, Message, Op, Origin};
use crate::metrics::CoreCounters;
use crate::timers::Wheel;
use ahash::AHashMap;
use polls::{EmptyRead, Poll};
pub(crate) use pump::PumpStats;
use queue::Queues;
pub(crate) use routers::REGISTRY_CORE;
use routers::Routing;
use runelog_engine::error::{EngineError, No};
use runelog_engine::ids::Millis;
use runelog_engine::index::Wanted;
use runelog_engine::shard::{LoadId, Shard, TopicRef, owner_of};
use runelog_engine::wal::Wait;
pub(crate) use sessions::Resolved;
use sessions::Sessions;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use tasks::Tasks;
use watch::Watchers;
use work::Works;

/// An answer that leaves when its block is committed.
struct Held {
    wait: Wait,
    origin: Origin,
    answer: Answer,
    since: Instant,
}

/// An operation that the log, or a delete at work, has no room for yet.
struct Waiting {
    origin: Origin,
    op: Op,
    since_ms: u64,
}

/// Begins something that spans cores, for who asked.
type Begin = Box<dyn FnOnce(&mut Service, Origin)>;

/// What running an operation came to.
enum Ran {
    Answer(Answer, Wait),
    /// Ask again when this is loaded.
    Load(Op, Wanted),
    /// Ask again after progress.
    Busy(Op),
    /// A piece is done; go on in the next turn.
    More(Op),
    /// Wait for the topic.
    Poll(Box<DiffOp>, EmptyRead),
    /// It spans cores: this goes on with it and answers in the end ([`Service::answer`]).
    Task(Begin),
    /// Run it once what is on its way to its topic has arrived.
    Settle(Op),
}

/// See the module's text.
pub(crate) struct Service {
    pub(crate) core: usize,
    pub(crate) shard: Shard,
    pub(crate) mesh: Mesh<Message>,
    pub(crate) counters: CoreCounters,
    /// What all cores hold together.
    pub(crate) caps: Arc<Caps>,
    directory: u64,
    cores: u16,
    /// Wall clock of this turn.
    now: Millis,
    /// Steady clock of this turn.
    steady_ms: u64,
    held: VecDeque<Held>,
    loading: AHashMap<LoadId, (Origin, Op)>,
    busy: VecDeque<Waiting>,
    /// One of them needs no event to go on.
    step_again: bool,
    polls: AHashMap<u64, Poll>,
    next_poll: u64,
    waiters: AHashMap<TopicRef, Vec<u64>>,
    /// Deadlines of long-polls.
    wheel: Wheel<u64>,
    /// Answers for requests of this core: connection and stream of it.
    pub(crate) answers: VecDeque<(u64, u32, Answer)>,
    tasks: Tasks,
    queues: Queues,
    works: Works,
    /// Connections handed over by another core.
    pub(crate) adopted: Vec<std::os::fd::OwnedFd>,
    /// Messages that found a full mesh.
    outbox: VecDeque<(usize, Message)>,
    /// Carriers of forwarded appends, for reuse.
    #[allow(clippy::vec_box)] // the boxes travel, and are what is reused
    carriers: Vec<Box<AppendOp>>,
    published: Vec<TopicRef>,
    sessions: Sessions,
    watchers: Watchers,
    /// What streams of this core are told; the worker takes it every turn.
    pub(crate) feeds: VecDeque<Feed>,
    routing: Routing,
    loaded: Vec<(LoadId, Result<(), String>)>,
}

/// What became of a request at its connection's core.
pub(crate) enum Handled {
    /// The answer is there.
    Now(Answer),
    /// It comes through [`Service::answers`].
    Later,
}

impl Service {
    pub(crate) fn new(
        core: usize,
        shard: Shard,
        mesh: Mesh<Message>,
        caps: Arc<Caps>,
        steady_ms: u64,
    ) -> Service {
        let settings = shard.settings();
        let cores = usize::from(settings.shards);
        Service {
            core,
            directory: settings.directory,
            cores: settings.shards,
            shard,
            mesh,
            counters: CoreCounters::default(),
            caps,
            now: 0,
            steady_ms,
            held: VecDeque::new(),
            loading: AHashMap::new(),
            busy: VecDeque::new(),
            step_again: false,
            polls: AHashMap::new(),
            next_poll: 0,
            waiters: AHashMap::new(),
            wheel: Wheel::new(steady_ms),
            answers: VecDeque::new(),
            tasks: Tasks::default(),
            queues: Queues::new(steady_ms),
            works: Works::new(steady_ms),
            adopted: Vec::new(),
            outbox: VecDeque::new(),
            carriers: Vec::new(),
            published: Vec::new(),
            sessions: Sessions::new(steady_ms),
            watchers: Watchers::new(cores),
            feeds: VecDeque::new(),
            routing: Routing::new(steady_ms),
            loaded: Vec::new(),
        }
    }

    /// Cores of the server.
    pub(crate) fn cores(&self) -> usize {
        usize::from(self.cores)
    }

    /// The core that owns a topic.
    pub(crate) fn owner(&self, topic: &str) -> usize {
        usize::from(owner_of(topic.as_bytes(), self.directory, self.cores))
    }

    /// An answer leaves now or is held until its block is committed.
    fn finish(&mut self, origin: Origin, answer: Answer, wait: Wait) -> Handled {
        if wait <= self.shard.committed() {
            // What is answered at once may have been published at once.
            self.note_published();
            return self.deliver(origin, answer);
        }
        if let Some(error) = self.shard.halted() {
            let fault = Box::new(fault_of(&error, ""));
            return self.deliver(origin, Answer::Fault(fault, None));
        }
        let held = Held { wait, origin, answer, since: Instant::now() };
        // Almost always the newest block; answers that rest on older ones go before.
        let at = self.held.iter().rposition(|other| other.wait <= wait).map_or(0, |at| at + 1);
        if at == self.held.len() {
            self.held.push_back(held);
        } else {
            self.held.insert(at, held);
        }
        Handled::Later
    }

    /// Hands an answer to its connection's core.
    fn deliver(&mut self, origin: Origin, answer: Answer) -> Handled {
        if origin.core == self.core {
            return Handled::Now(answer);
        }
        // Bounded: a connection has one request at a time.
        self.send(origin.core, Message::Answer { caller: origin.caller, answer });
        Handled::Later
    }

    /// Brings an answer to who asked on this core.
    fn hand_out(&mut self, caller: Caller, answer: Answer) {
        match caller {
            Caller::Request { conn, stream } => self.answers.push_back((conn, stream, answer)),
            Caller::Task(id) => self.tasks.answered(id, answer),
        }
    }

    /// Sends what must arrive, and in order; for what is bounded where it comes from.
    fn send(&mut self, core: usize, message: Message) {
        if !self.outbox.is_empty() {
            self.outbox.push_back((core, message));
        } else if let Err(message) = self.mesh.try_send(core, message) {
            self.outbox.push_back((core, message));
        }
    }

    /// A stream of this core tells the owner of a topic something. Bounded by the number of streams and by
    /// their windows.
    pub(crate) fn watch(&mut self, owner: usize, command: WatchCommand) {
        match owner == self.core {
            true => self.on_watch(owner, command),
            false => self.send(owner, Message::Watch(command)),
        }
    }

    /// What a stream of `core` tells this core. Watchers and work streams have tokens of one kind.
    fn on_watch(&mut self, core: usize, command: WatchCommand) {
        match command {
            WatchCommand::Work(open) => {
                self.hurry_copies(&open.request.topic);
                return self.open_work(core, *open);
            }
            WatchCommand::Credit(ref credits) => self.works.credit(core, credits),
            WatchCommand::Close(ref tokens) => {
                self.close_works(core, tokens);
                self.give_up_watching(core, tokens);
            }
            WatchCommand::Open(open) => return self.watch_settled(core, open),
        }
        self.watchers.command(core, command, &self.shard);
    }

    /// Brings an item to its streams. Bounded by their windows.
    fn send_feed(&mut self, core: usize, feed: Feed) {
        match core == self.core {
            true => self.feeds.push_back(feed),
            false => self.send(core, Message::Feed(feed)),
        }
    }

    /// Tells watchers what is new for them.
    fn feed_watchers(&mut self) {
        let Service { watchers, shard, outbox, mesh, feeds, now, core, .. } = self;
        for (to, feed) in watchers.turn(shard, *now) {
            let message = match to == *core {
                true => {
                    feeds.push_back(feed);
                    continue;
                }
                false => Message::Feed(feed),
            };
            // Bounded by the windows of the watchers.
            match outbox.is_empty() {
                true => outbox.extend(mesh.try_send(to, message).err().map(|message| (to, message))),
                false => outbox.push_back((to, message)),
            }
        }
    }

    /// Delivers outside of a request's own call.
    fn deliver_later(&mut self, origin: Origin, answer: Answer) {
        if let Handled::Now(answer) = self.deliver(origin, answer) {
            self.hand_out(origin.caller, answer);
        }
    }

    /// Deals with what running an operation came to.
    fn put_down(&mut self, origin: Origin, ran: Ran) -> Handled {
        match ran {
            Ran::Answer(answer, wait) => self.finish(origin, answer, wait),
            Ran::Load(op, blocks) => {
                self.counters.cold_reads += 1;
                let id = self.shard.load(blocks);
                self.loading.insert(id, (origin, op));
                Handled::Later
            }
            Ran::Busy(op) => {
                if self.busy.len() >= BUSY_MAX {
                    self.abandon(&op);
                    return self.deliver(origin, Answer::Fault(Box::new(Fault::throttled()), None));
                }
                self.shard.log.stats.submit_full += 1;
                self.busy.push_back(Waiting { origin, op, since_ms: self.steady_ms });
                Handled::Later
            }
            Ran::More(op) => {
                self.step_again = true;
                self.busy.push_back(Waiting { origin, op, since_ms: self.steady_ms });
                Handled::Later
            }
            Ran::Task(begin) => {
                begin(self, origin);
                Handled::Later
            }
            Ran::Settle(op) => {
                self.settle_first(origin, op);
                Handled::Later
            }
            Ran::Poll(op, read) => self.park_poll(origin, op, read),
        }
    }

    /// Takes what other cores sent. Returns whether a client's request was among it.
    pub(crate) fn receive(&mut self) -> bool {
        let mut requested = false;
        for _ in 0..MESH_PER_TURN_MAX {
            let Some((core, message)) = self.mesh.receive() else { break };
            match message {
                Message::Request { caller, op } => {
                    requested |= matches!(caller, Caller::Request { .. });
                    let ran = self.run(op);
                    self.put_down(Origin { core, caller }, ran);
                }
                Message::Answer { caller, answer } => self.hand_out(caller, answer),
                Message::Adopt(fd) => self.adopted.push(fd),
                Message::Watch(command) => self.on_watch(core, command),
                Message::Feed(feed) => self.feeds.push_back(feed),
            }
        }
        requested
    }

    /// Hands a connection to another core; gives it back if that core takes no more.
    pub(crate) fn hand_over(
        &mut self,
        core: usize,
        fd: std::os::fd::OwnedFd,
    ) -> Option<std::os::fd::OwnedFd> {
        match self.mesh.try_send(core, Message::Adopt(fd)) {
            Err(Message::Adopt(fd)) => Some(fd),
            _ => None,
        }
    }

    /// The clocks of the turn that begins. What a request is stamped with and how long it waits counts
    /// from here, not from before the core slept.
    pub(crate) fn set_clocks(&mut self, now: Millis, steady_ms: u64) {
        self.now = now;
        self.steady_ms = steady_ms;
    }

    /// One turn: the shard's, then everything that it set free.
    /// `is_idle`: nothing else was there to do.
    pub(crate) fn turn(&mut self, steady_us: u64, is_idle: bool) {
        // Before the shard's turn, which sends what they put into the log.
        self.run_tasks();
        self.hurry_watched();
        self.turn_pumps(steady_us, is_idle);
        self.shard.turn(self.now, steady_us);
        self.note_published();
        self.release();
        self.wake_polls();
        self.expire_polls(self.steady_ms);
        self.retry_loaded();
        self.retry_busy();
        self.reclaim_sessions();
        self.end_windows();
        self.run_works();
        self.feed_watchers();
        while let Some((core, message)) = self.outbox.pop_front() {
            if let Err(message) = self.mesh.try_send(core, message) {
                self.outbox.push_front((core, message));
                break;
            }
        }
    }

    /// Lets answers go whose blocks are committed.
    fn release(&mut self) {
        let committed = self.shard.committed();
        while self.held.front().is_some_and(|held| held.wait <= committed) {
            let mut held = self.held.pop_front().expect("just seen");
            match &mut held.answer {
                Answer::Append(AppendAnswer { commit_ns, .. }, _) | Answer::Synced { commit_ns, .. } => {
                    *commit_ns = held.since.elapsed().as_nanos() as u64;
                }
                _ => {}
            }
            self.deliver_later(held.origin, held.answer);
        }
        if !self.held.is_empty()
            && let Some(error) = self.shard.halted()
        {
            // I-44: outcome unknown across a restart.
            for held in std::mem::take(&mut self.held) {
                let fault = Box::new(fault_of(&error, ""));
                self.deliver_later(held.origin, Answer::Fault(fault, None));
            }
        }
    }

    fn retry_loaded(&mut self) {
        let mut loaded = std::mem::take(&mut self.loaded);
        self.shard.take_loaded(&mut loaded);
        for (id, result) in loaded.drain(..) {
            if self.watchers.loaded(id, &result) || self.pump_loaded(id, &result) {
                continue;
            }
            let Some((origin, op)) = self.loading.remove(&id) else { continue };
            let ran = match result {
                // Its topic was settled when it was run first.
                Ok(()) => self.run_here(op),
                Err(why) => {
                    self.abandon(&op);
                    let fault = Box::new(fault_of(&EngineError::Unreadable(why), ""));
                    Ran::Answer(Answer::Fault(fault, None), Wait::default())
                }
            };
            self.later(origin, ran);
        }
        self.loaded = loaded;
    }

    fn retry_busy(&mut self) {
        self.step_again = false;
        // Each once a turn and in order: one that a delete holds up must not hold that delete up.
        for _ in 0..self.busy.len() {
            let Some(Waiting { origin, op, since_ms }) = self.busy.pop_front() else { break };
            let op = match self.run_here(op) {
                Ran::More(op) => {
                    self.step_again = true;
                    self.busy.push_back(Waiting { origin, op, since_ms });
                    continue;
                }
                Ran::Busy(op) => op,
                ran => {
                    self.later(origin, ran);
                    continue;
                }
            };
            let fault = match self.shard.halted() {
                Some(error) => fault_of(&error, ""),
                None if self.steady_ms - since_ms > BUSY_MS_MAX => Fault::throttled(),
                None => {
                    self.busy.push_back(Waiting { origin, op, since_ms });
                    continue;
                }
            };
            self.abandon(&op);
            self.deliver_later(origin, Answer::Fault(Box::new(fault), None));
        }
    }

    /// An operation ends without having run to its end.
    fn abandon(&mut self, op: &Op) {
        match op {
            Op::Delete(delete) => {
                if let Some(deletion) = &delete.deletion {
                    self.shard.delete_abandon(deletion);
                }
            }
            Op::Claim(claim) => self.end_claim(claim),
            _ => {}
        }
    }

    fn later(&mut self, origin: Origin, ran: Ran) {
        if let Handled::Now(answer) = self.put_down(origin, ran) {
            self.hand_out(origin.caller, answer);
        }
    }

    /// Whether something is on its way that a completion may not announce: do not sleep long.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.held.is_empty()
            || !self.busy.is_empty()
            || !self.outbox.is_empty()
            || !self.loading.is_empty()
            || self.tasks.is_waiting()
            || self.watchers.is_waiting()
            || self.routing.settles.is_waiting()
            || self.shard.log.is_busy()
    }

    /// Whether the next turn has work to do already.
    pub(crate) fn has_work(&self) -> bool {
        !self.answers.is_empty()
            || self.step_again
            || self.tasks.has_answers()
            || self.watchers.has_work()
            || self.works.has_work()
            || !self.feeds.is_empty()
            || self.routing.pumps.has_work()
            || self.shard.is_runnable()
    }

    /// When the next long-poll ends, or copies are due.
    pub(crate) fn next_wake_ms(&self) -> Option<u64> {
        let wakes = [self.wheel.next_wake_ms(), self.queues.next_wake_ms(), self.works.next_wake_ms()];
        let pumps = self.routing.pumps.next_wake_ms(self.steady_ms);
        wakes.into_iter().flatten().chain(pumps).min()
    }

    /// Whether no request is in progress here.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.is_waiting() && self.polls.is_empty() && self.queues.is_quiet() && self.answers.is_empty()
    }
}

/// Turns an engine's "no" into what becomes of the operation.
fn refused(no: No, topic: &str, op: impl FnOnce() -> Op) -> Ran {
    match no {
        No::Refused(error, wait) => Ran::Answer(Answer::Fault(Box::new(fault_of(&error, topic)), None), wait),
        No::Load(blocks) => Ran::Load(op(), blocks),
        No::Busy => Ran::Busy(op()),
    }
}
