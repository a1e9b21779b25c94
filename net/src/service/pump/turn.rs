//! A core's turn of copies: which source next, one run a router, and what becomes of each.

use super::{Later, Queued, Step, URGENT_US_MAX, Waiter};
use crate::limits::{FORWARD_BYTES_MAX, FORWARD_FAULT_MS_MAX, FORWARD_RECORDS_MAX, FORWARD_RETRY_MS};
use crate::message::{Answer, Op, Origin};
use crate::routers::copies::{Copier, Copies};
use crate::routers::graph::Route;
use crate::routers::message::{Arrived, ForwardOp, NotForwarded, RouterAnswer, RouterOp};
use crate::service::Service;
use runelog_engine::error::{EngineError, No};
use runelog_engine::ids::{RouterId, Seq, TopicId};
use runelog_engine::shard::{LoadId, TopicRef};
use std::sync::Arc;
use std::time::Instant;

impl Service {
    /// Takes in what was published since the last call, before any answer that rests on it leaves.
    pub(in crate::service) fn note_published(&mut self) {
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
    pub(in crate::service) fn turn_pumps(&mut self, steady_us: u64, is_idle: bool) {
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
    pub(in crate::service) fn pump_loaded(&mut self, load: LoadId, result: &Result<(), String>) -> bool {
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
    pub(in crate::service) fn advance(&mut self, router: RouterId, origin: Origin) {
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
    pub(in crate::service) fn pause(&mut self, router: RouterId, origin: Origin) {
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
    pub(in crate::service) fn remove_route(&mut self, router: RouterId) {
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
