//! The source's side of routers (§7.4): reading what is new, sending it to the owners of the dests, one run
//! a router at a time.
//! Lives here: when a source is visited and in which order, retries, who waits for a router to arrive.
//! Not here: what is copied (`routers::copies`), how it is stored (the engine), readers (`settle`).
//!
//! Forwarding never delays a write of the source (R-30, I-48): while clients write, it gets a share of the
//! core's time and of the log's bytes, which twenty copies of each record would fill many times over; what
//! nobody else wants otherwise. Only what a reader waits for goes first. A source is visited [`FORWARD_DELAY_MS`] after its first record that had no turn yet, or at once when
//! somebody waits at a dest. Sources take turns by rounds, those of higher effective priority first (PR-3).
//!
//! A router whose dest takes nothing rests, and tries again with one record at a time until it flows: so a
//! full dest costs little, and delays nobody else (I-69).

use super::Service;
use crate::handlers::topics::effective_priority;
use crate::limits::{
    FORWARD_BYTES_MAX, FORWARD_DELAY_MS, FORWARD_FAULT_MS_MAX, FORWARD_RECORDS_MAX, FORWARD_RETRY_MS,
};
use crate::message::{Answer, Op, Origin};
use crate::routers::copies::{Copier, Copies};
use crate::routers::graph::{Route, SourceMark};
use crate::routers::message::{Arrived, ForwardOp, NotForwarded, RouterAnswer, RouterOp};
use crate::timers::{TimerId, Wheel};
use ahash::AHashMap;
use runelog_engine::error::{EngineError, No};
use runelog_engine::ids::{RouterId, Seq, TopicId};
use runelog_engine::shard::{LoadId, Shard, TopicRef};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Of the core's time, one part in so many is for copies while there are requests…
const SHARE: u64 = 12;
/// …and in so many, once copies have been behind for [`BEHIND_MS`].
const SHARE_BEHIND: u64 = 3;
const BEHIND_MS: u64 = 10_000;
/// While clients write, one byte is copied for so many of theirs, or one for one once copies are behind…
const BYTE_SHARE: u64 = 10;
/// …and so many a millisecond in any case: no disk notices these, and a slow writer's routers keep up.
const BYTES_PER_MS: u64 = 8 << 10;
/// What is saved up of that at most.
const BYTE_CREDIT_MAX: i64 = FORWARD_BYTES_MAX as i64;
/// Clients count as writing for so long after a write.
const WRITING_MS: u64 = 20;
/// What is saved up of that share at most.
const CREDIT_US_MAX: i64 = 4_000;
/// For copies in one turn, when the core had nothing else to do: a request that comes meanwhile waits so long.
const IDLE_SLICE_US: i64 = 500;
/// For copies in one turn that readers wait for.
const URGENT_US_MAX: u128 = 2_000;

/// Counters, all since start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PumpStats {
    /// Copies that arrived.
    pub(crate) copies: u64,
    /// Records that no copy can be made of.
    pub(crate) oversized: u64,
    /// Forwards or reads that failed; each is tried again.
    pub(crate) failed: u64,
}

/// A router of a source of this core.
struct Pump {
    route: Arc<Route>,
    position: Seq,
    in_flight: bool,
    /// Sends nothing until its new options come.
    paused: bool,
    /// Its source or dest is: nothing more comes of it.
    gone: bool,
    /// Until then it does not try again.
    rest: Option<TimerId>,
    /// Failures in a row.
    failures: u32,
    /// Of the next run; small while the dest is full.
    records_max: usize,
    waiters: Vec<Waiter>,
    pausing: Vec<Origin>,
}

/// Somebody who waits until a router has arrived, or cannot.
struct Waiter {
    origin: Origin,
    target: Seq,
    /// A forward was sent since.
    tried: bool,
}

/// Where a source stands in line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Queued {
    No,
    Timer(TimerId),
    Ready,
    Urgent,
}

struct Source {
    topic: TopicRef,
    mark: Arc<SourceMark>,
    pumps: Vec<Pump>,
    /// A visit that was broken off goes on here.
    next: usize,
    queued: Queued,
    /// Waits for sealed blocks.
    loading: bool,
}

enum Later {
    Visit(TopicId),
    EndRest(RouterId),
}

/// What one router's turn came to.
enum Step {
    /// Go on with the next router.
    Next,
    /// The source cannot be read at the moment.
    Stop,
}

/// See the module's text.
pub(super) struct Pumps {
    sources: AHashMap<TopicId, Source>,
    by_router: AHashMap<RouterId, TopicId>,
    wheel: Wheel<Later>,
    /// Somebody waits for these.
    urgent: VecDeque<TopicId>,
    /// The round under way, and the next one. May hold sources that were visited meanwhile.
    round: VecDeque<TopicId>,
    ready: Vec<TopicId>,
    loading: AHashMap<LoadId, TopicId>,
    credit_us: i64,
    byte_credit: i64,
    counted_us: u64,
    /// Bytes that clients appended since the credits were last counted, and when they did last.
    appended_bytes: u64,
    appended_ms: u64,
    behind_since_ms: Option<u64>,
    /// The server stops: nothing is put off.
    draining: bool,
    /// Readers that wait for a router.
    waiting: usize,
    stats: PumpStats,
}

impl Pumps {
    pub(super) fn new(steady_ms: u64) -> Pumps {
        Pumps {
            sources: AHashMap::new(),
            by_router: AHashMap::new(),
            wheel: Wheel::new(steady_ms),
            urgent: VecDeque::new(),
            round: VecDeque::new(),
            ready: Vec::new(),
            loading: AHashMap::new(),
            credit_us: 0,
            byte_credit: 0,
            counted_us: 0,
            appended_bytes: 0,
            appended_ms: 0,
            behind_since_ms: None,
            draining: false,
            waiting: 0,
            stats: PumpStats::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    pub(super) fn stats(&self) -> PumpStats {
        self.stats
    }

    /// Routers of this core's sources whose dest takes nothing.
    pub(super) fn stalled(&self) -> u64 {
        let pumps = self.sources.values().flat_map(|source| &source.pumps);
        pumps.filter(|pump| pump.route.progress.is_stalled()).count() as u64
    }

    /// Whether the next turn has something to do.
    pub(super) fn has_work(&self) -> bool {
        !self.urgent.is_empty() || self.has_credit() && self.has_ready()
    }

    fn has_credit(&self) -> bool {
        self.credit_us > 0 && self.byte_credit > 0
    }

    /// A client appended so much.
    #[inline]
    pub(super) fn on_append(&mut self, bytes: usize) {
        self.appended_bytes += bytes as u64;
    }

    fn has_ready(&self) -> bool {
        !self.round.is_empty() || !self.ready.is_empty()
    }

    /// When a turn is due at the latest.
    pub(super) fn next_wake_ms(&self, steady_ms: u64) -> Option<u64> {
        match self.has_ready() {
            true => Some(steady_ms + 1), // for its share of the time
            false => self.wheel.next_wake_ms(),
        }
    }

    /// Adds a router, or takes its new options and goes on with it.
    pub(super) fn install(&mut self, route: Arc<Route>, shard: &Shard, steady_ms: u64) {
        let id = route.def.source_id;
        let Some(topic) = shard.find_id(id) else { return };
        let head = shard.peek(topic).map_or(0, |view| view.totals.head);
        route.source.set(head.max(route.source.get()));
        let source = self.sources.entry(id).or_insert_with(|| Source {
            topic,
            mark: route.source.clone(),
            pumps: Vec::new(),
            next: 0,
            queued: Queued::No,
            loading: false,
        });
        self.by_router.insert(route.def.id, id);
        match source.pumps.iter_mut().find(|pump| pump.route.def.id == route.def.id) {
            Some(pump) => {
                pump.route = route;
                pump.paused = false;
                if !pump.waiters.is_empty() {
                    return self.hurry(id);
                }
            }
            None => source.pumps.push(Pump {
                position: route.progress.position(),
                route,
                in_flight: false,
                paused: false,
                gone: false,
                rest: None,
                failures: 0,
                records_max: FORWARD_RECORDS_MAX,
                waiters: Vec::new(),
                pausing: Vec::new(),
            }),
        }
        self.schedule(id, steady_ms);
    }

    /// Takes a router out; returns who waited for it.
    fn remove(&mut self, router: RouterId) -> Vec<Origin> {
        let Some(id) = self.by_router.remove(&router) else { return Vec::new() };
        let Some(source) = self.sources.get_mut(&id) else { return Vec::new() };
        let Some(at) = source.pumps.iter().position(|pump| pump.route.def.id == router) else {
            return Vec::new();
        };
        let pump = source.pumps.swap_remove(at);
        self.waiting -= pump.waiters.len();
        if let Some(timer) = pump.rest {
            self.wheel.cancel(timer);
        }
        if source.pumps.is_empty() {
            if let Queued::Timer(timer) = source.queued {
                self.wheel.cancel(timer);
            }
            self.sources.remove(&id);
        }
        pump.waiters.into_iter().map(|waiter| waiter.origin).chain(pump.pausing).collect()
    }

    fn find(&mut self, router: RouterId) -> Option<(TopicId, &mut Pump)> {
        let id = *self.by_router.get(&router)?;
        let pumps = &mut self.sources.get_mut(&id)?.pumps;
        Some((id, pumps.iter_mut().find(|pump| pump.route.def.id == router)?))
    }

    /// A topic got records: if it is a source, its mark moves and it is visited soon.
    fn published(&mut self, topic: TopicRef, shard: &Shard, steady_ms: u64) {
        let Some(source) = self.sources.get(&topic.id) else { return };
        let Some(view) = shard.peek(topic) else { return };
        source.mark.set(view.totals.head);
        self.schedule(topic.id, steady_ms);
    }

    /// Puts a source in line if one of its routers has something to do.
    fn schedule(&mut self, id: TopicId, steady_ms: u64) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        if source.loading || !matches!(source.queued, Queued::No | Queued::Timer(_)) {
            return;
        }
        let head = source.mark.get();
        let mut has_work = false;
        let mut at_once = self.draining;
        for pump in source.pumps.iter().filter(|pump| pump.can_send(head)) {
            has_work = true;
            at_once |=
                head - pump.position > FORWARD_RECORDS_MAX as u64 || pump.route.progress.is_eager(steady_ms);
        }
        match (source.queued, at_once && has_work) {
            (Queued::Timer(timer), true) => {
                self.wheel.cancel(timer);
                source.queued = Queued::Ready;
                self.ready.push(id);
            }
            (Queued::No, true) => {
                source.queued = Queued::Ready;
                self.ready.push(id);
            }
            (Queued::No, false) if has_work => {
                source.queued =
                    Queued::Timer(self.wheel.insert(steady_ms + FORWARD_DELAY_MS, Later::Visit(id)));
            }
            _ => {}
        }
    }

    /// Puts a source in front: somebody waits.
    fn hurry(&mut self, id: TopicId) {
        let Some(source) = self.sources.get_mut(&id) else { return };
        if source.loading || source.queued == Queued::Urgent {
            return;
        }
        if let Queued::Timer(timer) = source.queued {
            self.wheel.cancel(timer);
        }
        source.queued = Queued::Urgent;
        source.next = 0;
        self.urgent.push_back(id);
    }

    /// Sources whose time has come.
    fn expire(&mut self, steady_ms: u64) {
        while let Some(later) = self.wheel.next_due(steady_ms) {
            match later {
                Later::Visit(id) => {
                    if let Some(source) = self.sources.get_mut(&id) {
                        source.queued = Queued::Ready;
                        self.ready.push(id);
                    }
                }
                Later::EndRest(router) => {
                    let Some((id, pump)) = self.find(router) else { continue };
                    pump.rest = None;
                    if let Some(source) = self.sources.get_mut(&id)
                        && !source.loading
                        && matches!(source.queued, Queued::No | Queued::Timer(_))
                    {
                        if let Queued::Timer(timer) = source.queued {
                            self.wheel.cancel(timer);
                        }
                        source.queued = Queued::Ready;
                        self.ready.push(id);
                    }
                }
            }
        }
    }

    /// The next source to visit within the turn's allowance, and whether somebody waits for it.
    fn next_visit(&mut self, urgent: bool, shard: &Shard, now: i64) -> Option<TopicId> {
        if urgent {
            return self.urgent.pop_front();
        }
        loop {
            if self.round.is_empty() {
                if self.ready.is_empty() {
                    return None;
                }
                let mut round: Vec<(i64, TopicId)> = self
                    .ready
                    .drain(..)
                    .map(|id| {
                        let topic = self.sources.get(&id).map(|source| source.topic);
                        let view = topic.and_then(|topic| shard.peek(topic));
                        (view.map_or(0, |view| effective_priority(&view, now)), id)
                    })
                    .collect();
                round.sort_by_key(|(priority, _)| -priority);
                self.round.extend(round.into_iter().map(|(_, id)| id));
            }
            let id = self.round.pop_front()?;
            if self.sources.get(&id).is_some_and(|source| source.queued == Queued::Ready) {
                return Some(id);
            }
        }
    }

    /// What copies may take of this turn.
    fn earn(&mut self, steady_us: u64, is_idle: bool) {
        let behind = self.behind_since_ms.is_some_and(|since| steady_us / 1000 - since > BEHIND_MS);
        let share = if behind { SHARE_BEHIND } else { SHARE };
        let passed_us = steady_us.saturating_sub(self.counted_us);
        self.counted_us = steady_us;
        self.credit_us = (self.credit_us + (passed_us / share) as i64).min(CREDIT_US_MAX);
        // What readers wait for has the rest of the core and of the log to itself.
        let is_free = self.waiting == 0;
        if is_idle && is_free || self.draining {
            self.credit_us = self.credit_us.max(IDLE_SLICE_US);
        }
        let appended_bytes = std::mem::take(&mut self.appended_bytes);
        if appended_bytes > 0 {
            self.appended_ms = steady_us / 1000;
        }
        let byte_share = if behind { 1 } else { BYTE_SHARE };
        let earned = appended_bytes / byte_share + passed_us.min(1_000_000) * BYTES_PER_MS / 1000;
        self.byte_credit = (self.byte_credit + earned as i64).min(BYTE_CREDIT_MAX);
        let is_writing = steady_us / 1000 <= self.appended_ms + WRITING_MS;
        if self.draining || is_free && !is_writing {
            self.byte_credit = BYTE_CREDIT_MAX;
        }
    }
}

impl Pump {
    fn can_send(&self, head: Seq) -> bool {
        let stays = self.in_flight || self.paused || self.gone || self.rest.is_some();
        self.position < head && !stays
    }
}

impl Service {
    /// Takes in what was published since the last call, before any answer that rests on it leaves.
    pub(super) fn note_published(&mut self) {
        let start = self.published.len();
        self.shard.take_published(&mut self.published);
        let pumps = &mut self.routing.pumps;
        if !pumps.is_empty() {
            for topic in &self.published[start..] {
                pumps.published(*topic, &self.shard, self.steady_ms);
            }
        }
    }

    /// The turn of copies. `is_idle`: the core has nothing else to do.
    pub(super) fn turn_pumps(&mut self, steady_us: u64, is_idle: bool) {
        if self.routing.pumps.is_empty() {
            return;
        }
        self.routing.pumps.expire(self.steady_ms);
        self.routing.pumps.earn(steady_us, is_idle);
        let began = Instant::now();
        while began.elapsed().as_micros() < URGENT_US_MAX && self.visit_next(true, || false) {}
        let (began, credit_us) = (Instant::now(), self.routing.pumps.credit_us);
        let spent_us = || began.elapsed().as_micros() as i64;
        while self.routing.pumps.byte_credit > 0
            && spent_us() < credit_us
            && self.visit_next(false, || spent_us() >= credit_us)
        {}
        let pumps = &mut self.routing.pumps;
        pumps.credit_us -= spent_us();
        match pumps.has_ready() {
            true => _ = pumps.behind_since_ms.get_or_insert(self.steady_ms),
            false => pumps.behind_since_ms = None,
        }
    }

    /// Visits the next source, if there is one: a run for each of its routers. `is_over` ends the visit
    /// early; it goes on in the next turn.
    fn visit_next(&mut self, urgent: bool, is_over: impl Fn() -> bool) -> bool {
        let Some(id) = self.routing.pumps.next_visit(urgent, &self.shard, self.now) else { return false };
        // Routers that stand at the same place share what was read, within this turn.
        let mut shared = None;
        loop {
            let Some(source) = self.routing.pumps.sources.get_mut(&id) else { return true };
            let at = source.next;
            if at >= source.pumps.len() {
                source.next = 0;
                source.queued = Queued::No;
                break;
            }
            source.next += 1;
            if let Step::Stop = self.step(id, at, urgent, &mut shared) {
                if let Some(source) = self.routing.pumps.sources.get_mut(&id) {
                    source.next = 0;
                    source.queued = Queued::No;
                }
                return true;
            }
            if is_over() || !urgent && self.routing.pumps.byte_credit <= 0 {
                self.routing.pumps.round.push_front(id);
                return false;
            }
        }
        self.routing.pumps.schedule(id, self.steady_ms);
        true
    }

    /// One router's turn; `urgent`: only if somebody waits for it.
    fn step(
        &mut self,
        id: TopicId,
        at: usize,
        urgent: bool,
        shared: &mut Option<(Arc<Route>, usize, Arc<Copies>)>,
    ) -> Step {
        let pumps = &mut self.routing.pumps;
        let Some(source) = pumps.sources.get_mut(&id) else { return Step::Stop };
        let (topic, head) = (source.topic, source.mark.get());
        let Some(pump) = source.pumps.get(at) else { return Step::Next };
        if !pump.can_send(head) || urgent && pump.waiters.is_empty() {
            return Step::Next;
        }
        let (route, from, max) = (pump.route.clone(), pump.position, pump.records_max);
        let copies = match shared {
            Some((other, other_max, copies))
                if copies.from == from && *other_max == max && Copier::makes_the_same(other, &route) =>
            {
                copies.clone()
            }
            _ => match self.read_copies(topic, &route, from, max) {
                Ok(copies) => {
                    let copies = Arc::new(copies);
                    *shared = Some((route.clone(), max, copies.clone()));
                    copies
                }
                Err(no) => return self.not_read(id, no),
            },
        };
        let Some(pump) = self.routing.pumps.sources.get_mut(&id).and_then(|source| source.pumps.get_mut(at))
        else {
            return Step::Stop;
        };
        pump.in_flight = true;
        pump.waiters.iter_mut().for_each(|waiter| waiter.tried = true);
        self.routing.pumps.byte_credit -= copies.bytes() as i64;
        let (router, oversized) = (route.def.id, copies.oversized);
        let op = ForwardOp { router, dest: route.def.dest_id, copies };
        self.ask(route.dest_core, Op::Router(RouterOp::Forward(Box::new(op))), move |service, answer| {
            service.forwarded(router, oversized, answer);
        });
        Step::Next
    }

    fn read_copies(&mut self, topic: TopicRef, route: &Route, from: Seq, max: usize) -> Result<Copies, No> {
        let mut copier = Copier::new(route, from, max);
        let read =
            self.shard.pump_read(topic, from, max as u32, FORWARD_BYTES_MAX as u64, self.now, |record| {
                copier.take(record);
            })?;
        Ok(copier.finish(read.next, read.lost))
    }

    /// A source could not be read.
    fn not_read(&mut self, id: TopicId, no: No) -> Step {
        match no {
            No::Load(wanted) => {
                self.counters.cold_reads += 1;
                let load = self.shard.load(wanted);
                self.routing.pumps.loading.insert(load, id);
                if let Some(source) = self.routing.pumps.sources.get_mut(&id) {
                    source.loading = true;
                }
            }
            // Its routers go with it; until then there is nothing to read.
            No::Refused(EngineError::TopicMissing, _) => self.source_failed(id, false),
            No::Refused(..) | No::Busy => self.source_failed(id, true),
        }
        Step::Stop
    }

    /// Blocks came for a source. Whether the load was one of ours.
    pub(super) fn pump_loaded(&mut self, load: LoadId, result: &Result<(), String>) -> bool {
        let Some(id) = self.routing.pumps.loading.remove(&load) else { return false };
        let Some(source) = self.routing.pumps.sources.get_mut(&id) else { return true };
        source.loading = false;
        if let Err(why) = result {
            tracing::error!(core = self.core, "a router's source cannot be read: {why}");
            self.source_failed(id, true);
        } else if source.pumps.iter().any(|pump| !pump.waiters.is_empty()) {
            self.routing.pumps.hurry(id);
        } else if source.queued == Queued::No {
            source.queued = Queued::Ready;
            self.routing.pumps.ready.push(id);
        }
        true
    }

    /// All routers of a source rest; whoever waits reads what there is.
    fn source_failed(&mut self, id: TopicId, again: bool) {
        let Some(source) = self.routing.pumps.sources.get(&id) else { return };
        let routers: Vec<RouterId> = source.pumps.iter().map(|pump| pump.route.def.id).collect();
        for router in routers {
            match again {
                true => self.failed(router),
                false => self.give_up(router),
            }
        }
    }

    /// A forward was answered.
    fn forwarded(&mut self, router: RouterId, oversized: u64, answer: Answer) {
        let Some((id, pump)) = self.routing.pumps.find(router) else { return };
        pump.in_flight = false;
        let mut rest_ms = None;
        match answer {
            Answer::Router(RouterAnswer::Forwarded(Ok(arrived))) => {
                let Arrived { position, forwarded_total, taken, full } = arrived;
                pump.position = position;
                pump.failures = 0;
                pump.records_max = match full {
                    true => 1,
                    false => (pump.records_max * 4).min(FORWARD_RECORDS_MAX),
                };
                let progress = &pump.route.progress;
                progress.set(position, forwarded_total);
                progress.set_stalled(full);
                rest_ms = full.then_some(FORWARD_RETRY_MS);
                let stats = &mut self.routing.pumps.stats;
                stats.copies += u64::from(taken);
                stats.oversized += if full { 0 } else { oversized };
            }
            Answer::Router(RouterAnswer::Forwarded(Err(NotForwarded::Moved(position))))
                if position != pump.position =>
            {
                pump.position = position;
                pump.route.progress.set(position, pump.route.progress.forwarded_total());
            }
            Answer::Router(RouterAnswer::Forwarded(Err(NotForwarded::Gone))) => {
                self.give_up(router);
                return;
            }
            _ => {
                self.failed(router);
                return;
            }
        }
        if let Some(rest_ms) = rest_ms {
            self.rest(router, rest_ms);
        }
        self.tell_waiters(router, rest_ms.is_some());
        self.go_on(id);
    }

    /// The dest or the source is gone: nothing more comes of this router.
    fn give_up(&mut self, router: RouterId) {
        if let Some((_, pump)) = self.routing.pumps.find(router) {
            pump.gone = true;
            pump.route.progress.set_stalled(true);
            pump.waiters.iter_mut().for_each(|waiter| waiter.tried = true);
        }
        self.tell_waiters(router, true);
    }

    /// Something is wrong that may pass: try again, ever more rarely.
    fn failed(&mut self, router: RouterId) {
        self.routing.pumps.stats.failed += 1;
        let Some((_, pump)) = self.routing.pumps.find(router) else { return };
        pump.waiters.iter_mut().for_each(|waiter| waiter.tried = true);
        let rest_ms = (FORWARD_RETRY_MS << pump.failures.min(10)).min(FORWARD_FAULT_MS_MAX);
        pump.failures += 1;
        self.rest(router, rest_ms);
        self.tell_waiters(router, true);
    }

    fn rest(&mut self, router: RouterId, ms: u64) {
        let until_ms = self.steady_ms + ms;
        let timer = self.routing.pumps.wheel.insert(until_ms, Later::EndRest(router));
        let old = self.routing.pumps.find(router).and_then(|(_, pump)| pump.rest.replace(timer));
        if let Some(old) = old {
            self.routing.pumps.wheel.cancel(old);
        }
    }

    /// Answers who has what they waited for. `cannot`: nothing more can be had at the moment.
    fn tell_waiters(&mut self, router: RouterId, cannot: bool) {
        let Some((_, pump)) = self.routing.pumps.find(router) else { return };
        let position = pump.position;
        let waiters = pump.waiters.len();
        let mut told: Vec<Origin> = Vec::new();
        pump.waiters.retain(|waiter| {
            let over = waiter.target <= position || cannot && waiter.tried;
            if over {
                told.push(waiter.origin);
            }
            !over
        });
        let left = pump.waiters.len();
        if !pump.in_flight {
            told.append(&mut pump.pausing);
        }
        self.routing.pumps.waiting -= waiters - left;
        for origin in told {
            self.answer(origin, Answer::Router(RouterAnswer::Done));
        }
    }

    /// Puts a source in line again after a forward.
    fn go_on(&mut self, id: TopicId) {
        let pumps = &mut self.routing.pumps;
        let waited = pumps.sources.get(&id).is_some_and(|source| {
            let head = source.mark.get();
            source.pumps.iter().any(|pump| pump.can_send(head) && !pump.waiters.is_empty())
        });
        match waited {
            true => pumps.hurry(id),
            false => pumps.schedule(id, self.steady_ms),
        }
    }

    /// Brings a router to where its source is now, as far as its dest takes it; then answers.
    pub(super) fn advance(&mut self, router: RouterId, origin: Origin) {
        self.note_published();
        let Some((id, pump)) = self.routing.pumps.find(router) else {
            return self.answer(origin, Answer::Router(RouterAnswer::Done));
        };
        let target = pump.route.source.get();
        if pump.position >= target || pump.gone {
            return self.answer(origin, Answer::Router(RouterAnswer::Done));
        }
        pump.waiters.push(Waiter { origin, target, tried: false });
        let rest = pump.rest.take();
        self.routing.pumps.waiting += 1;
        if let Some(timer) = rest {
            self.routing.pumps.wheel.cancel(timer);
        }
        self.go_on(id);
    }

    /// Sends nothing more for a router until it is installed again; answers when nothing is under way.
    pub(super) fn pause(&mut self, router: RouterId, origin: Origin) {
        match self.routing.pumps.find(router) {
            Some((_, pump)) => {
                pump.paused = true;
                pump.pausing.push(origin);
                self.tell_waiters(router, false);
            }
            None => self.answer(origin, Answer::Router(RouterAnswer::Done)),
        }
    }

    /// Takes a router out, here and of the graph.
    pub(super) fn remove_route(&mut self, router: RouterId) {
        self.routing.graph.remove(router);
        for origin in self.routing.pumps.remove(router) {
            self.answer(origin, Answer::Router(RouterAnswer::Done));
        }
    }

    /// The server stops: copies go out without delay (SH-5).
    pub(crate) fn drain_routers(&mut self) {
        let steady_ms = self.steady_ms;
        let pumps = &mut self.routing.pumps;
        if !pumps.draining {
            pumps.draining = true;
            let sources: Vec<TopicId> = pumps.sources.keys().copied().collect();
            sources.into_iter().for_each(|id| pumps.schedule(id, steady_ms));
        }
    }

    /// Whether no copy is on its way anywhere, but for what full dests hold up.
    pub(crate) fn routers_are_quiet(&self) -> bool {
        self.routing.graph.is_quiet()
    }
}
