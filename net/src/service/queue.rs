//! Queues at their owner (§10): claims, windows of claimers, moves to a dead-letter topic.
//! Lives here: what a claim does before and after the shard hands jobs out. Not here: which jobs those
//! are (the engine), JSON (`handlers::queue`).

use super::{Ran, Service, refused};
use crate::exchange::body_fault;
use crate::fault::Fault;
use crate::handlers::queue::{
    begin_claimed, dead_letter_copy, end_claimed, render_event, render_extended, render_job, render_settled,
};
use crate::json::queue::check_worker;
use crate::limits::{CLAIM_WINDOW_JOBS_MAX, CLAIMS_WAITING_MAX, MOVES_PER_CLAIM_MAX};
use crate::message::{Answer, ClaimOp, Claimant, Op, Origin, SettleOp, Verdict};
use crate::timers::Wheel;
use ahash::AHashMap;
use runelog_engine::config::Class;
use runelog_engine::error::No;
use runelog_engine::ids::Seq;
use runelog_engine::shard::{Claimer, TopicRef};
use runelog_engine::wal::Wait;

/// Claims that wait for the end of their window.
pub(super) struct Window {
    topic: Box<str>,
    members: Vec<(Origin, Claimant)>,
    /// What they want together.
    jobs: u64,
}

/// Jobs of one claim on their way to the dead-letter topic.
struct Moves {
    origin: Origin,
    op: Box<ClaimOp>,
    topic: TopicRef,
    /// Not decided yet.
    left: usize,
    copied: Vec<Seq>,
}

/// What the owner keeps of queues besides the jobs.
pub(super) struct Queues {
    windows: AHashMap<TopicRef, Window>,
    /// When windows end.
    wheel: Wheel<TopicRef>,
    /// Claims in all windows.
    waiting: usize,
    moves: AHashMap<u64, Moves>,
    next_move: u64,
    skipped: Vec<Seq>,
}

impl Queues {
    pub(super) fn new(steady_ms: u64) -> Queues {
        Queues {
            windows: AHashMap::new(),
            wheel: Wheel::new(steady_ms),
            waiting: 0,
            moves: AHashMap::new(),
            next_move: 0,
            skipped: Vec::new(),
        }
    }

    /// When the next window ends.
    pub(super) fn next_wake_ms(&self) -> Option<u64> {
        self.wheel.next_wake_ms()
    }

    /// Whether no claim waits.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting == 0
    }
}

impl Service {
    pub(super) fn run_claim(&mut self, mut op: Box<ClaimOp>) -> Ran {
        let (topic, jitter_ms) = match self.shard.queue_config(op.topic.as_bytes()) {
            Ok((topic, _)) if op.of.is_some_and(|of| of != topic) => {
                let fault = Box::new(Fault::topic_not_found(&op.topic));
                return Ran::Answer(Answer::Fault(fault, None), self.shard.committed());
            }
            Ok((topic, config)) => (topic, config.claim_jitter_ms),
            Err(no) => return self.claim_refused(no, op),
        };
        if !op.admitted {
            // Only now: an absent topic and a log come first (§10.2).
            if let Some(fault) = op.claimants.iter().find_map(|claimant| check_worker(&claimant.node).err()) {
                let fault = Box::new(body_fault(&fault));
                return Ran::Answer(Answer::Fault(fault, None), self.shard.committed());
            }
            op.admitted = true;
            if jitter_ms > 0 {
                return Ran::Task(Box::new(move |service, origin| {
                    service.join_window(topic, jitter_ms, origin, *op);
                }));
            }
        }
        let claimers: Vec<Claimer<'_>> = op.claimants.iter().map(Claimant::claimer).collect();
        let mut parts: Vec<(Vec<u8>, u32)> = Vec::with_capacity(claimers.len());
        for claimer in &claimers {
            let mut json = Vec::new();
            if claimer.holder == 0 {
                json.reserve(512);
                begin_claimed(&mut json, &op.topic);
            }
            parts.push((json, 0));
        }
        let divert = op.moved < MOVES_PER_CLAIM_MAX;
        let claimed = self.shard.claim(op.topic.as_bytes(), &claimers, divert, self.now, |claimer, job| {
            let (json, count) = &mut parts[claimer];
            if claimers[claimer].holder != 0 {
                return render_event(json, &op.topic, job);
            }
            if *count > 0 {
                json.push(b',');
            }
            *count += 1;
            render_job(json, job);
        });
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(no) => return self.claim_refused(no, op),
        };
        if !claimed.dead.is_empty() {
            return Ran::Task(Box::new(move |service, origin| {
                service.begin_moves(origin, op, claimed.topic, claimed.dead);
            }));
        }
        self.end_claim(&op);
        let wait = claimed.wait;
        for ((json, count), claimer) in parts.iter_mut().zip(&claimers) {
            if claimer.holder == 0 {
                end_claimed(json, *count, &claimed.counts);
            }
        }
        if claimed.count > 0 && !op.windowed {
            self.works.touch(claimed.topic); // its leases will be over one day
        }
        let mut parts = parts.into_iter().map(|(json, _)| json);
        let answer = match op.windowed {
            true => Answer::Claims(parts.collect()),
            false => Answer::Body { status: 200, json: parts.next().expect("one claimer"), scanned: None },
        };
        Ran::Answer(answer, wait)
    }

    fn claim_refused(&mut self, no: No, op: Box<ClaimOp>) -> Ran {
        if matches!(no, No::Refused(..)) {
            self.end_claim(&op);
        }
        refused(no, &op.topic.clone(), || Op::Claim(op))
    }

    /// The claim is over: what could not be moved may be met by the next one.
    pub(super) fn end_claim(&mut self, op: &ClaimOp) {
        if let Some(topic) = op.topic_ref {
            self.shard.dead_letters_failed(topic, &op.failed);
        }
    }

    /// The first claimer opens a window, the others wait for its end with it.
    fn join_window(&mut self, topic: TopicRef, jitter_ms: u64, origin: Origin, op: ClaimOp) {
        let ClaimOp { topic: name, claimants, .. } = op;
        let claimant = claimants.into_iter().next().expect("one claimer");
        let wanted = u64::from(claimant.max.max(1));
        let queues = &mut self.queues;
        let crowded =
            queues.windows.get(&topic).is_some_and(|window| window.jobs + wanted > CLAIM_WINDOW_JOBS_MAX);
        if crowded || queues.waiting >= CLAIMS_WAITING_MAX {
            return self.deliver_later(origin, Answer::Fault(Box::new(Fault::throttled()), None));
        }
        queues.waiting += 1;
        let window = self.open_window(topic, jitter_ms, name);
        window.jobs += wanted;
        window.members.push((origin, claimant));
    }

    /// The window of a queue that is open; streams with room take part in it without being named.
    pub(super) fn open_window(&mut self, topic: TopicRef, jitter_ms: u64, name: Box<str>) -> &mut Window {
        let Queues { windows, wheel, .. } = &mut self.queues;
        windows.entry(topic).or_insert_with(|| {
            wheel.insert(self.steady_ms + jitter_ms, topic);
            Window { topic: name, members: Vec::new(), jobs: 0 }
        })
    }

    /// Serves windows whose time is over, each in one pass.
    pub(super) fn end_windows(&mut self) {
        while let Some(topic) = self.queues.wheel.next_due(self.steady_ms) {
            let Some(window) = self.queues.windows.remove(&topic) else { continue };
            self.queues.waiting -= window.members.len();
            let (origins, mut claimants): (Vec<Origin>, Vec<Claimant>) = window.members.into_iter().unzip();
            let streams = self.work_claimants(topic);
            let holders: Vec<u64> = streams.iter().map(|claimant| claimant.holder).collect();
            if !holders.is_empty() {
                self.works_claim(topic);
            }
            claimants.extend(streams);
            if claimants.is_empty() {
                continue;
            }
            let op = ClaimOp::of_window(topic, window.topic, claimants);
            self.ask(self.core, Op::Claim(Box::new(op)), move |service, answer| {
                let mut parts = match answer {
                    Answer::Claims(parts) => parts,
                    Answer::Fault(fault, _) => {
                        for origin in origins {
                            service.deliver_later(origin, Answer::Fault(fault.clone(), None));
                        }
                        if !holders.is_empty() {
                            service.end_works_claim(topic, &holders, Vec::new());
                        }
                        return;
                    }
                    _ => unreachable!("a window is answered with claims"),
                };
                let of_streams = parts.split_off(origins.len());
                for (origin, json) in origins.into_iter().zip(parts) {
                    service.deliver_later(origin, Answer::Body { status: 200, json, scanned: None });
                }
                if !holders.is_empty() {
                    service.end_works_claim(topic, &holders, of_streams);
                }
            });
        }
    }

    /// Copies jobs that were delivered too often to the dead-letter topic, then goes on with the claim.
    /// A job is deleted here only when its copy is committed there.
    fn begin_moves(&mut self, origin: Origin, mut op: Box<ClaimOp>, topic: TopicRef, dead: Vec<Seq>) {
        op.topic_ref = Some(topic);
        op.moved += dead.len();
        let id = self.queues.next_move;
        self.queues.next_move += 1;
        let name = op.topic.clone();
        let moves = Moves { origin, op, topic, left: dead.len(), copied: Vec::new() };
        self.queues.moves.insert(id, moves);
        for seq in dead {
            let op = Op::DeadLetter { topic, name: name.clone(), seq };
            self.ask(self.core, op, move |service, answer| service.copy_dead_letter(id, seq, answer));
        }
    }

    /// Reads a job that is to be moved.
    pub(super) fn run_dead_letter(&mut self, topic: TopicRef, name: Box<str>, seq: Seq) -> Ran {
        // The settings may have changed since: without a dead-letter topic the job stays.
        let target = match self.shard.queue_config(name.as_bytes()) {
            Ok((found, config)) if found == topic => {
                config.dead_letter.clone().map(|dead_letter| (dead_letter, config.max_deliveries))
            }
            _ => None,
        };
        let Some((dead_letter, m)) = target else {
            return Ran::Answer(Answer::DeadLetter(None), Wait::default());
        };
        let mut copy = None;
        let found = self.shard.dead_letter(topic, seq, |record| {
            copy = Some(dead_letter_copy(&name, &dead_letter, m, record));
        });
        match found {
            Ok(_) => Ran::Answer(Answer::DeadLetter(copy), Wait::default()),
            Err(no) => refused(no, "", || Op::DeadLetter { topic, name, seq }),
        }
    }

    fn copy_dead_letter(&mut self, id: u64, seq: Seq, answer: Answer) {
        let Answer::DeadLetter(Some(copy)) = answer else { return self.moved(id, seq, false) };
        let owner = self.owner(&copy.topic);
        self.ask(owner, Op::Append(copy), move |service, answer| {
            let safe = match answer {
                Answer::Append(_, carrier) => {
                    service.reuse(carrier);
                    true
                }
                _ => false, // it stays and is tried again by a later claim
            };
            service.moved(id, seq, safe);
        });
    }

    fn moved(&mut self, id: u64, seq: Seq, safe: bool) {
        let moves = self.queues.moves.get_mut(&id).expect("moves end once");
        moves.left -= 1;
        match safe {
            true => moves.copied.push(seq),
            false => moves.op.failed.push(seq),
        }
        if moves.left > 0 {
            return;
        }
        let Moves { origin, mut op, topic, copied, .. } = self.queues.moves.remove(&id).expect("just seen");
        if copied.is_empty() {
            let ran = self.run_here(Op::Claim(op)); // it was settled when it came
            return self.later(origin, ran);
        }
        let done = Op::DeadLettersDone { topic, seqs: copied.clone() };
        self.ask(self.core, done, move |service, answer| {
            if matches!(answer, Answer::Fault(..)) {
                op.failed.extend(copied); // they may come twice, never not at all
            }
            let ran = service.run_here(Op::Claim(op));
            service.later(origin, ran);
        });
    }

    pub(super) fn run_dead_letters_done(&mut self, topic: TopicRef, seqs: Vec<Seq>) -> Ran {
        match self.shard.dead_letters_done(topic, &seqs) {
            Ok(wait) => Ran::Answer(Answer::DeadLetter(None), wait),
            Err(no) => refused(no, "", || Op::DeadLettersDone { topic, seqs }),
        }
    }

    pub(super) fn run_settle(&mut self, op: Box<SettleOp>) -> Ran {
        let mut skipped = std::mem::take(&mut self.queues.skipped);
        let ran = self.settle(op, &mut skipped);
        self.queues.skipped = skipped;
        ran
    }

    fn settle(&mut self, op: Box<SettleOp>, skipped: &mut Vec<Seq>) -> Ran {
        let SettleOp { topic, node, named, verdict } = &*op;
        let (name, worker, now) = (topic.as_bytes(), node.as_bytes(), self.now);
        let mut json = Vec::with_capacity(192);
        let result = match *verdict {
            Verdict::Ack => self.shard.ack(name, worker, named, now, skipped).inspect(|settled| {
                render_settled(&mut json, topic, ("acked", settled.done), skipped, &settled.counts);
            }),
            Verdict::Nack { delay_ms } => {
                self.shard.nack(name, worker, named, delay_ms, now, skipped).inspect(|settled| {
                    render_settled(&mut json, topic, ("nacked", settled.done), skipped, &settled.counts);
                })
            }
            Verdict::Extend { lease_ms } => {
                let extended = self.shard.extend(name, worker, named, lease_ms, now, skipped);
                extended.map(|(settled, deadline)| {
                    render_extended(&mut json, topic, settled.done, named, skipped, deadline);
                    settled
                })
            }
        };
        match result {
            Ok(settled) => {
                self.works.touch(settled.topic);
                let synced = *verdict == Verdict::Ack && settled.class == Class::Fsync && settled.done > 0;
                let answer = match synced {
                    true => Answer::Synced { json, commit_ns: 0 },
                    false => Answer::Body { status: 200, json, scanned: None },
                };
                Ran::Answer(answer, settled.wait)
            }
            Err(no) => refused(no, &op.topic.clone(), || Op::Settle(op)),
        }
    }
}
