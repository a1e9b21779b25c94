//! Readers of a router's dest wait here until what is on its way to it has arrived.
//! Lives here: who waits for which topic, the order in which ancestors are asked. Not here: how it arrives
//! (`pump`), what is read then (`run`).
//!
//! Mostly nothing is on its way, which two shared numbers tell ([`graph`](crate::routers::graph)). Else the
//! owners of the sources are asked to advance their routers, those farthest up first: so that what they
//! bring is there when the next ones are asked. No more than [`ROUTER_HOPS_MAX`](crate::limits) levels, so
//! this ends in cycles too, after as many rounds as their records make.
//!
//! Readers of one topic share the way: those that come while it is under way may have written after it
//! began, and go on the next one together.

use super::{Ran, Service};
use crate::fault::Fault;
use crate::feed::{OpenWatch, WatchCommand};
use crate::limits::POLLS_MAX;
use crate::message::{Answer, Op, Origin};
use crate::routers::graph::Route;
use crate::routers::message::RouterOp;
use ahash::{AHashMap, AHashSet};
use runelog_engine::wal::Wait;
use std::sync::Arc;

/// How often watched topics are looked through for dests.
const WATCHED_MS: u64 = 1_000;

/// A topic whose ancestors are being asked.
struct Settling {
    /// Those that are still to be asked, the nearest first.
    levels: Vec<Vec<Arc<Route>>>,
    /// Answers that are still to come from the level at work.
    left: usize,
    /// Who waits for this.
    now: Vec<(Origin, Op)>,
    /// Who came since it began.
    next: Vec<(Origin, Op)>,
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Settles {
    topics: AHashMap<Box<str>, Settling>,
    waiting: usize,
    /// Watchers that begin to stand when their topic is settled: core and token.
    opening: AHashSet<(usize, u64)>,
}

impl Settles {
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting > 0
    }
}

impl Op {
    /// The topic whose records or numbers the answer shows, so that copies on their way to it come first.
    fn shows(&self) -> Option<&str> {
        match self {
            Op::Diff(op) => Some(&op.topic),
            Op::Claim(op) => Some(&op.topic),
            Op::GetTopic { topic, .. } | Op::Router(RouterOp::Settle(topic)) => Some(topic),
            _ => None,
        }
    }
}

impl Service {
    /// Runs an operation on this core's shard, once what is on its way to its topic has arrived.
    pub(super) fn run(&mut self, op: Op) -> Ran {
        match op.shows() {
            Some(topic) if self.is_behind(topic) => Ran::Settle(op),
            _ => self.run_here(op),
        }
    }

    /// Whether copies are on their way to a topic.
    pub(super) fn is_behind(&self, topic: &str) -> bool {
        !self.routing.graph.is_empty() && self.routing.graph.is_behind(topic)
    }

    /// Somebody waits for news of a topic: copies for it are sent without delay until then.
    pub(super) fn be_eager(&self, topic: &str, until_ms: u64) {
        if !self.routing.graph.is_empty() {
            let ancestors = self.routing.graph.ancestors(topic).flatten();
            ancestors.for_each(|route| route.progress.be_eager_until(until_ms));
        }
    }

    /// A work stream takes from a topic: what is on its way comes now, and what follows without delay.
    pub(super) fn hurry_copies(&mut self, topic: &str) {
        self.be_eager(topic, self.steady_ms + 2 * WATCHED_MS);
        if self.is_behind(topic) {
            self.ask(self.core, Op::Router(RouterOp::Settle(topic.into())), |_, _| {});
        }
    }

    /// A stream of `core` watches a topic: its first read has what is on its way by now, and what
    /// follows comes without delay.
    pub(super) fn watch_settled(&mut self, core: usize, open: Box<OpenWatch>) {
        self.be_eager(&open.topic, self.steady_ms + 2 * WATCHED_MS);
        if !self.is_behind(&open.topic) {
            return self.watchers.command(core, WatchCommand::Open(open), &self.shard);
        }
        let watcher = (core, open.token);
        self.routing.settles.opening.insert(watcher);
        let settle = Op::Router(RouterOp::Settle(open.topic.clone()));
        self.ask(self.core, settle, move |service, _| {
            if service.routing.settles.opening.remove(&watcher) {
                service.watchers.command(core, WatchCommand::Open(open), &service.shard);
            }
        });
    }

    /// Streams have ended: those of their watchers that do not stand yet never will.
    pub(super) fn give_up_watching(&mut self, core: usize, tokens: &[u64]) {
        if !self.routing.settles.opening.is_empty() {
            for token in tokens {
                self.routing.settles.opening.remove(&(core, *token));
            }
        }
    }

    /// Now and then: copies for watched topics go on coming without delay.
    pub(super) fn hurry_watched(&mut self) {
        if self.routing.graph.is_empty() || self.steady_ms < self.routing.watched_again_ms {
            return;
        }
        self.routing.watched_again_ms = self.steady_ms + WATCHED_MS;
        for topic in self.watchers.topics().chain(self.works.topics()) {
            self.be_eager(topic, self.steady_ms + 2 * WATCHED_MS);
        }
    }

    /// Puts an operation down until its topic is settled.
    pub(super) fn settle_first(&mut self, origin: Origin, op: Op) {
        let settles = &mut self.routing.settles;
        if settles.waiting >= POLLS_MAX {
            let fault = Box::new(Fault::throttled());
            return self.later(origin, Ran::Answer(Answer::Fault(fault, None), Wait::default()));
        }
        settles.waiting += 1;
        let topic: Box<str> = op.shows().expect("only what shows a topic waits").into();
        match settles.topics.get_mut(&topic) {
            Some(settling) => settling.next.push((origin, op)),
            None => self.begin_settling(topic, vec![(origin, op)]),
        }
    }

    fn begin_settling(&mut self, topic: Box<str>, now: Vec<(Origin, Op)>) {
        let mut levels: Vec<Vec<Arc<Route>>> =
            self.routing.graph.ancestors(&topic).map(<[Arc<Route>]>::to_vec).collect();
        // What is above everything that lags has nothing to bring.
        let lagging = levels.iter().rposition(|level| level.iter().any(|route| route.is_behind()));
        levels.truncate(lagging.map_or(0, |at| at + 1));
        let settling = Settling { levels, left: 0, now, next: Vec::new() };
        self.routing.settles.topics.insert(topic.clone(), settling);
        self.settle_level(topic);
    }

    /// Asks the highest level that is left; when there is none, whoever waits reads.
    fn settle_level(&mut self, topic: Box<str>) {
        loop {
            let Some(settling) = self.routing.settles.topics.get_mut(&topic) else { return };
            let Some(mut level) = settling.levels.pop() else { break };
            level.retain(|route| route.is_behind());
            if level.is_empty() {
                continue;
            }
            settling.left = level.len();
            for route in level {
                let (topic, advance) = (topic.clone(), RouterOp::Advance(route.def.id));
                // Whatever became of it: the reader sees what there is.
                self.ask(route.source_core, Op::Router(advance), |service, _| service.settled_one(topic));
            }
            return;
        }
        let Some(Settling { now, next, .. }) = self.routing.settles.topics.remove(&topic) else { return };
        self.routing.settles.waiting -= now.len();
        for (origin, op) in now {
            let ran = self.run_here(op);
            self.later(origin, ran);
        }
        match self.routing.settles.topics.get_mut(&topic) {
            Some(settling) => settling.next.extend(next),
            None if !next.is_empty() => self.begin_settling(topic, next),
            None => {}
        }
    }

    fn settled_one(&mut self, topic: Box<str>) {
        let Some(settling) = self.routing.settles.topics.get_mut(&topic) else { return };
        settling.left -= 1;
        if settling.left == 0 {
            self.settle_level(topic);
        }
    }
}
