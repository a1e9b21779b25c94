//! Work streams at the owner of their queue (§10.7): who wants how many jobs, and when to look for some.
//! Lives here: the streams of a queue, their windows, their turns. Not here: the claim itself (`queue`),
//! connections ([`streams`](crate::streams)), who holds which job (the engine, by the stream's number).
//!
//! A queue is *looked at* when jobs may have become ready or a stream may have room: after a publication,
//! an ack, a nack, an extend, a claim, credit, a stream that ended, and every [`WORK_CHECK_MS`] while
//! anything of it is leased or delayed. A look that finds ready jobs and a stream with room claims for all
//! such streams at once, and is the only claim of streams of that queue until it ends.

use super::Service;
use crate::auth::Access;
use crate::feed::{Feed, FeedItem, OpenWork};
use crate::limits::{CLAIM_WINDOW_JOBS_MAX, WORK_CHECK_MS};
use crate::message::{Answer, Caller, ClaimOp, Claimant, Op, Origin};
use crate::streams::Opening;
use crate::streams::work::WorkRequest;
use crate::timers::Wheel;
use ahash::AHashMap;
use runelog_engine::shard::TopicRef;
use std::sync::Arc;

/// One stream.
struct Worker {
    core: usize,
    token: u64,
    topic: TopicRef,
    node: Box<str>,
    max: u32,
    lease_ms: Option<u64>,
    in_flight_bytes: u64,
    window_bytes: u64,
}

/// A queue with streams.
struct Staffed {
    name: Box<str>,
    /// Its streams; the first is the next to be served first.
    workers: Vec<u64>,
    /// To be looked at.
    due: bool,
    /// A claim for its streams is under way.
    claiming: bool,
    /// Something happened since that began.
    again: bool,
    /// It has a timer.
    timed: bool,
}

/// See the module's text.
pub(super) struct Works {
    workers: AHashMap<u64, Worker>,
    by_token: AHashMap<(usize, u64), u64>,
    by_topic: AHashMap<TopicRef, Staffed>,
    due: Vec<TopicRef>,
    checks: Wheel<TopicRef>,
    /// Number of the next stream; never 0, never used again.
    next: u64,
}

impl Works {
    pub(super) fn new(steady_ms: u64) -> Works {
        Works {
            workers: AHashMap::new(),
            by_token: AHashMap::new(),
            by_topic: AHashMap::new(),
            due: Vec::new(),
            checks: Wheel::new(steady_ms),
            next: 1,
        }
    }

    /// When the next check is due.
    pub(super) fn next_wake_ms(&self) -> Option<u64> {
        self.checks.next_wake_ms()
    }

    /// Whether the next turn has something to do.
    pub(super) fn has_work(&self) -> bool {
        !self.due.is_empty()
    }

    /// Names of the queues that have streams.
    pub(super) fn topics(&self) -> impl Iterator<Item = &str> {
        self.by_topic.values().map(|staffed| &*staffed.name)
    }

    /// Something happened to a queue that may let a stream have a job.
    pub(super) fn touch(&mut self, topic: TopicRef) {
        if let Some(staffed) = self.by_topic.get_mut(&topic)
            && !std::mem::replace(&mut staffed.due, true)
        {
            self.due.push(topic);
        }
    }

    /// The same for topics with news.
    pub(super) fn published(&mut self, topics: &[TopicRef]) {
        if !self.by_topic.is_empty() {
            topics.iter().for_each(|topic| self.touch(*topic));
        }
    }

    /// Bytes that streams of `core` have passed on.
    pub(super) fn credit(&mut self, core: usize, credits: &[(u64, u64)]) {
        if self.workers.is_empty() {
            return;
        }
        for (token, bytes) in credits {
            let Some(id) = self.by_token.get(&(core, *token)) else { continue };
            let worker = self.workers.get_mut(id).expect("listed streams exist");
            worker.in_flight_bytes = worker.in_flight_bytes.saturating_sub(*bytes);
            let topic = worker.topic;
            self.touch(topic);
        }
    }

    /// Forgets a stream; its queue and its number.
    fn remove(&mut self, core: usize, token: u64) -> Option<(TopicRef, u64)> {
        let id = self.by_token.remove(&(core, token))?;
        let topic = self.workers.remove(&id).expect("listed streams exist").topic;
        let staffed = self.by_topic.get_mut(&topic).expect("a stream's queue is listed");
        staffed.workers.retain(|other| *other != id);
        // While it is looked at, or has a timer, it stays; without streams that ends.
        if staffed.workers.is_empty() && !staffed.due && !staffed.claiming && !staffed.timed {
            self.by_topic.remove(&topic);
        }
        Some((topic, id))
    }
}

impl Service {
    /// Opens a stream on a queue; the answer comes later. `opens` is false for HEAD (T-13).
    pub(crate) fn open_work_stream(
        &mut self,
        caller: Caller,
        request: WorkRequest,
        access: Access,
        opens: bool,
    ) {
        let origin = Origin { core: self.core, caller };
        let check = Op::CheckQueue { topic: request.topic.clone() };
        self.ask(self.owner(&request.topic), check, move |service, answer| {
            let answer = match answer {
                Answer::Queue if !opens => Answer::Stream(None),
                Answer::Queue => match service.caps.stream(&access) {
                    Ok(hold) => Answer::Stream(Some(Box::new(Opening::Work { request, hold }))),
                    Err(fault) => Answer::Fault(Box::new(fault), None),
                },
                refusal => refusal,
            };
            service.answer(origin, answer);
        });
    }

    /// A stream of `core` begins.
    pub(super) fn open_work(&mut self, core: usize, open: OpenWork) {
        let OpenWork { token, request, window_bytes } = open;
        let WorkRequest { topic: name, node, max, lease_ms } = request;
        let Ok((topic, _)) = self.shard.queue_config(name.as_bytes()) else {
            // Dropped since it was asked for.
            return self.feed(core, token, FeedItem::Deleted);
        };
        let works = &mut self.works;
        let id = works.next;
        works.next += 1;
        let worker = Worker { core, token, topic, node, max, lease_ms, in_flight_bytes: 0, window_bytes };
        works.workers.insert(id, worker);
        works.by_token.insert((core, token), id);
        let staffed = works.by_topic.entry(topic).or_insert_with(|| Staffed {
            name,
            workers: Vec::new(),
            due: false,
            claiming: false,
            again: false,
            timed: false,
        });
        staffed.workers.push(id);
        works.touch(topic);
    }

    /// Streams of `core` ended: what they hold is ready at once.
    pub(super) fn close_works(&mut self, core: usize, tokens: &[u64]) {
        for token in tokens {
            if let Some((topic, id)) = self.works.remove(core, *token) {
                self.shard.release(topic, id);
                self.works.touch(topic);
            }
        }
    }

    /// Looks at queues for their streams.
    pub(super) fn run_works(&mut self) {
        while let Some(topic) = self.works.checks.next_due(self.steady_ms) {
            if let Some(staffed) = self.works.by_topic.get_mut(&topic) {
                staffed.timed = false;
                self.works.touch(topic);
            }
        }
        // What becomes due meanwhile has its turn in the next one.
        for topic in std::mem::take(&mut self.works.due) {
            self.look_for_jobs(topic);
        }
    }

    fn look_for_jobs(&mut self, topic: TopicRef) {
        let Some(staffed) = self.works.by_topic.get_mut(&topic) else { return };
        staffed.due = false;
        if staffed.claiming {
            staffed.again = true;
            return;
        }
        if staffed.workers.is_empty() {
            if !staffed.timed {
                self.works.by_topic.remove(&topic);
            }
            return;
        }
        let Some(pulse) = self.shard.queue_pulse(topic, self.now) else {
            return self.close_queue(topic);
        };
        if pulse.changes_by_itself && !staffed.timed {
            staffed.timed = true;
            self.works.checks.insert(self.steady_ms + WORK_CHECK_MS, topic);
        }
        if pulse.ready == 0 {
            return;
        }
        if pulse.jitter_ms > 0 {
            let name = staffed.name.clone();
            self.open_window(topic, pulse.jitter_ms, name);
            return;
        }
        let claimants = self.work_claimants(topic);
        if !claimants.is_empty() {
            self.claim_for_works(topic, claimants);
        }
    }

    /// The streams of a queue that have room, as claimers: whoever was first is last the next time.
    pub(super) fn work_claimants(&mut self, topic: TopicRef) -> Vec<Claimant> {
        let Service { works, shard, now, .. } = self;
        let Some(staffed) = works.by_topic.get_mut(&topic) else { return Vec::new() };
        if staffed.claiming {
            return Vec::new();
        }
        let mut claimants = Vec::new();
        let (mut wanted, mut looked_at) = (0, 0);
        for id in &staffed.workers {
            if wanted >= CLAIM_WINDOW_JOBS_MAX {
                break; // the others are first the next time
            }
            looked_at += 1;
            let worker = &works.workers[id];
            let held = shard.held_by(topic, *id, *now).unwrap_or(worker.max);
            let room = worker.max.saturating_sub(held);
            if room > 0 && worker.in_flight_bytes < worker.window_bytes {
                let (node, lease_ms) = (worker.node.clone(), worker.lease_ms);
                claimants.push(Claimant { node, max: room, lease_ms, holder: *id });
                wanted += u64::from(room);
            }
        }
        let all = looked_at == staffed.workers.len();
        if !claimants.is_empty() {
            staffed.workers.rotate_left(if all { 1 } else { looked_at });
        }
        claimants
    }

    fn claim_for_works(&mut self, topic: TopicRef, claimants: Vec<Claimant>) {
        let holders: Vec<u64> = claimants.iter().map(|claimant| claimant.holder).collect();
        let name = self.works_claim(topic);
        let op = ClaimOp::of_window(topic, name, claimants);
        self.ask(self.core, Op::Claim(Box::new(op)), move |service, answer| {
            // A refusal (a full log, say) is no end: the next event or check looks again.
            let parts = if let Answer::Claims(parts) = answer { parts } else { Vec::new() };
            service.end_works_claim(topic, &holders, parts);
        });
    }

    /// Notes that streams of the queue are being served, and names it.
    pub(super) fn works_claim(&mut self, topic: TopicRef) -> Box<str> {
        let staffed = self.works.by_topic.get_mut(&topic).expect("it has streams");
        staffed.claiming = true;
        staffed.name.clone()
    }

    /// The claim for streams of a queue is over: each gets its part. Looks again if that gave anything or
    /// something happened meanwhile; jobs that nobody can get (a full dead-letter topic) wait for the check.
    pub(super) fn end_works_claim(&mut self, topic: TopicRef, holders: &[u64], parts: Vec<Vec<u8>>) {
        let gave = parts.iter().any(|blocks| !blocks.is_empty());
        for (holder, blocks) in holders.iter().zip(parts) {
            self.push_jobs(topic, *holder, blocks);
        }
        if let Some(staffed) = self.works.by_topic.get_mut(&topic) {
            staffed.claiming = false;
            let look = gave | std::mem::take(&mut staffed.again);
            if !std::mem::replace(&mut staffed.timed, true) {
                // Leases were given, or the claim failed: in both cases it is time for a check then.
                self.works.checks.insert(self.steady_ms + WORK_CHECK_MS, topic);
            }
            if look {
                self.works.touch(topic);
            }
        }
    }

    /// Brings jobs to the stream that they were claimed for, or gives them back if it has ended.
    fn push_jobs(&mut self, topic: TopicRef, holder: u64, blocks: Vec<u8>) {
        let Some(worker) = self.works.workers.get_mut(&holder) else {
            self.shard.release(topic, holder);
            return;
        };
        if blocks.is_empty() {
            return;
        }
        let item = FeedItem::Jobs(blocks.into_boxed_slice());
        worker.in_flight_bytes += item.window_bytes();
        let (core, token) = (worker.core, worker.token);
        self.feed(core, token, item);
    }

    /// The queue is gone.
    fn close_queue(&mut self, topic: TopicRef) {
        let Some(staffed) = self.works.by_topic.get_mut(&topic) else { return };
        for id in std::mem::take(&mut staffed.workers) {
            let worker = self.works.workers.remove(&id).expect("listed streams exist");
            self.works.by_token.remove(&(worker.core, worker.token));
            self.feed(worker.core, worker.token, FeedItem::Deleted);
        }
        self.works.by_topic.remove(&topic);
    }

    fn feed(&mut self, core: usize, token: u64, item: FeedItem) {
        let feed = Feed { watchers: vec![token], item: Arc::new(item) };
        self.send_feed(core, feed);
    }
}
