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

mod turn;

use crate::handlers::topics::effective_priority;
use crate::limits::{FORWARD_BYTES_MAX, FORWARD_DELAY_MS, FORWARD_RECORDS_MAX};
use crate::message::Origin;
use crate::routers::graph::{Route, SourceMark};
use crate::timers::{TimerId, Wheel};
use ahash::AHashMap;
use runelog_engine::ids::{RouterId, Seq, TopicId};
use runelog_engine::shard::{LoadId, Shard, TopicRef};
use std::collections::VecDeque;
use std::sync::Arc;

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
