//! Queues (§10 of the HTTP contract): handing jobs out, and what their holders say of them.
//! Lives here: deleting acknowledged jobs, logging durable leases; finding jobs is in [`pick`].
//! Not here: who holds what ([`queue`](crate::queue)), windows of claimers, copying to a dead-letter topic.
//!
//! A claim is at once in force here; with durable leases its answer waits for the entry that says so. An
//! ack is a delete (§6) and waits like one.

mod pick;

use super::delete::Deletion;
use super::topics::SMALL_ENTRY_ROOM;
use super::{Shard, ShardSettings, TopicRef};
use crate::config::{Class, TopicConfig, TopicType};
use crate::error::{EngineError, No};
use crate::event::Record;
use crate::ids::{Millis, Seq};
use crate::limits::{CLAIM_BYTES_MAX, CLAIM_JOBS_MAX, DELAY_MS_MAX, LEASE_MS_MAX, LEASE_MS_MIN};
use crate::queue::entry::{JOB_BYTES, encode_jobs};
use crate::queue::{Acked, Grant, LeaseToken, Queue, StoredJob, Terms};
use crate::sabotage::{self, Bug};
use crate::topic::Topic;
use crate::wal::Wait;
use crate::wal::frame::Kind;
use pick::Pass;
use std::rc::Rc;

/// Who claims.
#[derive(Clone, Copy, Debug)]
pub struct Claimer<'a> {
    /// The worker.
    pub node: &'a [u8],
    /// Jobs wanted; clamped to 1…1000.
    pub max: u32,
    /// How long; the topic's default if none, clamped.
    pub lease_ms: Option<u64>,
    /// The stream that will hold the leases, 0 for a claim.
    pub holder: u64,
}

/// A job handed out.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// Its record.
    pub record: &'a Record<'a>,
    /// Names the lease.
    pub token: LeaseToken,
    /// It is over after this.
    pub deadline: Millis,
    /// Hand-outs, with this one.
    pub deliveries: u32,
}

/// The numbers of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// Live jobs that are neither leased nor delayed.
    pub ready: u64,
    /// Live jobs with an unexpired lease.
    pub in_flight: u64,
    /// Jobs moved away since start.
    pub dead_lettered: u64,
}

/// The outcome of a claim.
#[derive(Debug)]
pub struct Claimed {
    /// The topic.
    pub topic: TopicRef,
    /// Jobs handed out, over all claimers.
    pub count: u32,
    /// The queue after it.
    pub counts: QueueCounts,
    /// Not empty: nothing was handed out, these jobs must be copied to the dead-letter topic first
    /// . Each ends with [`Shard::dead_letters_done`] or [`Shard::dead_letters_failed`].
    pub dead: Vec<Seq>,
    /// When the answer may leave.
    pub wait: Wait,
}

/// A job named by an ack, nack or extend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Which.
    pub seq: Seq,
    /// The lease it must be under: `None` is any, `Some(None)` is none that ever was.
    pub fence: Option<Option<LeaseToken>>,
}

/// The outcome of an ack, nack or extend.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// The topic.
    pub topic: TopicRef,
    /// Jobs acted on.
    pub done: u32,
    /// The queue after it.
    pub counts: QueueCounts,
    /// Its class at that moment.
    pub class: Class,
    /// When the answer may leave.
    pub wait: Wait,
}

/// What a queue has for those who wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// Jobs that can be claimed.
    pub ready: u64,
    /// Time alone can make further ones ready: something is leased or delayed.
    pub changes_by_itself: bool,
    /// The queue's window.
    pub jitter_ms: u64,
}

impl Shard {
    /// The topic of a queue operation and its settings, before anything else is looked at (§10.2, §10.3).
    pub fn queue_config(&self, name: &[u8]) -> Result<(TopicRef, &TopicConfig), No> {
        let slot = self.slot_of(name)?;
        let topic = self.topic(slot);
        match topic.config.kind {
            TopicType::Queue => Ok((TopicRef { slot, id: topic.id }, &topic.config)),
            TopicType::Log => Err(No::Refused(EngineError::NotAQueue, Wait(topic.control_block))),
        }
    }

    /// Hands jobs out: one each in turn until what is asked for or what is there ends. `visit`
    /// gets each with the index of its claimer, ascending in seq; after [`No::Load`] what it made is void.
    ///
    /// `divert`: jobs that were delivered often enough are asked to be moved; without, they are
    /// passed over.
    pub fn claim(
        &mut self,
        name: &[u8],
        claimers: &[Claimer<'_>],
        divert: bool,
        now: Millis,
        mut visit: impl FnMut(usize, &Job<'_>),
    ) -> Result<Claimed, No> {
        let topic = self.queue_config(name)?.0;
        let slot = topic.slot;
        let expiry = self.expire(slot, now)?;
        let wanted: u64 = claimers.iter().map(|claimer| u64::from(claimer.clamped_max())).sum();
        self.may_lease(slot, wanted)?;
        self.notice_queue(slot, now);
        let wait = expiry.max(Wait(self.topic(slot).control_block));
        let config = &self.topic(slot).config;
        let lease_ms = config.lease_ms;
        let limit = match config.max_deliveries {
            0 => u64::MAX,
            _ if config.dead_letter.is_none() => u64::MAX,
            max => max,
        };
        let mut seqs = std::mem::take(&mut self.queue_scratch.seqs);
        seqs.clear();
        let dead = self.returned_jobs(slot, wanted, limit, divert, &mut seqs);
        if !dead.is_empty() {
            self.queue_scratch.seqs = seqs;
            let queue = self.queue_mut(slot);
            let dead: Vec<Seq> = dead.into_iter().filter(|seq| queue.begin_move(*seq)).collect();
            if sabotage::is(Bug::DeadLetterEarly) {
                let _ = self.dead_letters_done(topic, &dead);
            }
            return Ok(Claimed { topic, count: 0, counts: self.counts(slot), dead, wait });
        }
        let terms: Vec<Terms> = claimers.iter().map(|claimer| claimer.terms(lease_ms, now)).collect();
        let mut pass = Pass {
            next_token: self.next_token(),
            grants: std::mem::take(&mut self.queue_scratch.grants),
            turns: claimers.iter().map(Claimer::clamped_max).zip(0..).collect(),
            bytes_left: CLAIM_BYTES_MAX,
            fresh: self.topic(slot).queue.as_ref().expect("a queue").fresh,
        };
        let found = self.pick(slot, &seqs, &mut pass, &terms, &mut visit);
        seqs.clear();
        self.queue_scratch.seqs = seqs;
        if let Err(no) = found {
            if pass.grants.is_empty() {
                // What was passed is not looked at again, or two blocks that do not fit the cache
                // together would be loaded in turns.
                self.queue_mut(slot).fresh = pass.fresh;
            }
            pass.grants.clear();
            self.queue_scratch.grants = pass.grants;
            return Err(no);
        }
        self.next_lease += pass.grants.len() as u64;
        let queue = self.queue_mut(slot);
        queue.fresh = pass.fresh;
        for grant in &pass.grants {
            queue.lease(grant, &terms[grant.claimer as usize]);
        }
        let logged = self.log_grants(slot, &pass.grants, &terms);
        let count = pass.grants.len() as u32;
        pass.grants.clear();
        self.queue_scratch.grants = pass.grants;
        Ok(Claimed { topic, count, counts: self.counts(slot), dead: Vec::new(), wait: wait.max(logged) })
    }

    /// A token must not be issued before this run of the log is known on disk, or the next run could
    /// take the same number and issue it again (I-86). Durable leases need room in the log besides.
    fn may_lease(&mut self, slot: u32, jobs: u64) -> Result<(), No> {
        if !self.log.has_file() {
            return Err(match self.sealing.no_file {
                Some(error) => EngineError::NoLogFile(error).into(),
                None => No::Busy,
            });
        }
        match self.topic(slot).config.leases_durable {
            true => self.may_write(SMALL_ENTRY_ROOM + 2 * jobs * JOB_BYTES as u64),
            false => Ok(()),
        }
    }

    /// Unique over all shards and runs of a data directory, without a word in the log: layout, shard and
    /// epoch of the log, then a counter.
    fn next_token(&self) -> u128 {
        let epoch = u32::try_from(self.log.epoch()).expect("a shard starts less than 2^32 times");
        if sabotage::is(Bug::TokensFromOne) {
            return u128::from(self.next_lease);
        }
        let ShardSettings { layout, shard, .. } = self.settings;
        let run = layout << 40 | u64::from(shard) << 32 | u64::from(epoch);
        u128::from(run) << 64 | u128::from(self.next_lease)
    }

    /// Notices leases that are over, and a log that ended.
    pub(super) fn notice_queue(&mut self, slot: u32, now: Millis) {
        let ended = self.log.failed().is_some();
        let queue = self.queue_mut(slot);
        if ended {
            queue.nothing_leaves();
        }
        queue.notice(now);
    }

    /// Notices in every queue what is over, for numbers over all of them.
    pub fn notice_queues(&mut self, now: Millis) {
        self.topics
            .iter_mut()
            .flatten()
            .filter_map(|topic| topic.queue.as_mut())
            .for_each(|queue| queue.notice(now));
    }

    fn queue_mut(&mut self, slot: u32) -> &mut Queue {
        self.topic_mut(slot).queue.as_mut().expect("a queue")
    }

    fn counts(&self, slot: u32) -> QueueCounts {
        queue_counts(self.topic(slot)).expect("a queue")
    }

    /// The holder is done with these jobs: they are deleted. `skipped` gets the others.
    pub fn ack(
        &mut self,
        name: &[u8],
        node: &[u8],
        named: &[Named],
        now: Millis,
        skipped: &mut Vec<Seq>,
    ) -> Result<Settled, No> {
        let topic = self.queue_config(name)?.0;
        let slot = topic.slot;
        let wait = self.expire(slot, now)?.max(Wait(self.topic(slot).control_block));
        self.notice_queue(slot, now);
        if let Err(no) = self.may_remove(slot) {
            if matches!(no, No::Refused(..)) {
                let queue = self.queue_mut(slot);
                for Named { seq, fence } in named.iter().filter(|named| named.fence != Some(None)) {
                    queue.abandon(*seq, node, fence.flatten());
                }
            }
            return Err(no);
        }
        skipped.clear();
        let queue = self.queue_mut(slot);
        let mut leaving: Vec<(Seq, u32, bool)> = Vec::with_capacity(named.len());
        let mut gone = 0;
        for Named { seq, fence } in named {
            let acked = match fence {
                Some(None) => Acked::No,
                _ => queue.ack(*seq, node, fence.flatten()),
            };
            match acked {
                Acked::No => skipped.push(*seq),
                Acked::Delete { bytes, volatile } => leaving.push((*seq, bytes, volatile)),
                Acked::Gone => gone += 1,
            }
        }
        let done = leaving.len() as u32 + gone;
        let deleted = self.remove_jobs(topic, leaving);
        // A job that somebody else deleted is gone for good when that delete is. So is one that is skipped because
        // an ack of it is on its way: who hears of that must not hear of a job that a crash brings back.
        let is_told = gone > 0 || !skipped.is_empty();
        let wait = match is_told {
            true => wait.max(deleted).max(self.last_effect(topic)),
            false => wait.max(deleted),
        };
        let counts = if done > 0 || is_told { self.counts_in_order(slot) } else { self.counts(slot) };
        Ok(Settled { topic, done, counts, class: self.topic(slot).config.class, wait })
    }

    /// Whether jobs may be deleted now.
    fn may_remove(&mut self, slot: u32) -> Result<(), No> {
        let topic = self.topic(slot);
        if topic.delete_at_work {
            return Err(No::Busy); // it has counted what it will delete
        }
        // Even if only memory holds these jobs, older ones of the queue may be in the log.
        self.may_write(SMALL_ENTRY_ROOM)
    }

    /// Deletes jobs, each its seq, its bytes, and whether only memory holds it.
    fn remove_jobs(&mut self, topic: TopicRef, mut jobs: Vec<(Seq, u32, bool)>) -> Wait {
        if jobs.is_empty() {
            return Wait::default();
        }
        if !jobs.is_sorted() {
            jobs.sort_unstable();
        }
        let mut deletion = Deletion::of(topic);
        for (seq, bytes, volatile) in jobs {
            deletion.take(seq, seq, 1, u64::from(bytes), volatile);
        }
        Wait(self.order_deletion(&mut deletion))
    }

    /// The block of the last effect of the topic on its way.
    fn last_effect(&self, topic: TopicRef) -> Wait {
        let last = self.effects.iter().rev().find(|pending| pending.id == topic.id);
        Wait(last.map_or(0, |pending| pending.block))
    }

    fn counts_in_order(&self, slot: u32) -> QueueCounts {
        let topic = self.topic(slot);
        let queue = topic.queue.as_ref().expect("a queue");
        let held = queue.counts_in_order();
        QueueCounts {
            ready: topic.ordered.count - held.leased - held.delayed,
            in_flight: held.leased,
            dead_lettered: queue.dead_lettered,
        }
    }

    /// The holder gives these jobs back. `skipped` gets the others.
    #[allow(clippy::too_many_arguments)]
    pub fn nack(
        &mut self,
        name: &[u8],
        node: &[u8],
        named: &[Named],
        delay_ms: u64,
        now: Millis,
        skipped: &mut Vec<Seq>,
    ) -> Result<Settled, No> {
        let delay_ms = delay_ms.min(DELAY_MS_MAX);
        let ready_at = (delay_ms > 0).then(|| now.saturating_add(delay_ms as i64));
        self.settle(name, named, now, skipped, |queue, seq, token| queue.nack(seq, node, token, ready_at))
    }

    /// The holder keeps these jobs for longer, or for less: until `deadline`. `skipped` gets the
    /// others.
    #[allow(clippy::too_many_arguments)]
    pub fn extend(
        &mut self,
        name: &[u8],
        node: &[u8],
        named: &[Named],
        lease_ms: u64,
        now: Millis,
        skipped: &mut Vec<Seq>,
    ) -> Result<(Settled, Millis), No> {
        let deadline = deadline(lease_ms, now);
        let at = deadline.saturating_add(1);
        let settled =
            self.settle(name, named, now, skipped, |queue, seq, token| queue.extend(seq, node, token, at))?;
        Ok((settled, deadline))
    }

    /// What nack and extend have in common.
    fn settle(
        &mut self,
        name: &[u8],
        named: &[Named],
        now: Millis,
        skipped: &mut Vec<Seq>,
        act: impl Fn(&mut Queue, Seq, Option<LeaseToken>) -> bool,
    ) -> Result<Settled, No> {
        let topic = self.queue_config(name)?.0;
        let slot = topic.slot;
        let wait = self.expire(slot, now)?.max(Wait(self.topic(slot).control_block));
        self.may_lease(slot, named.len() as u64)?;
        self.notice_queue(slot, now);
        skipped.clear();
        let queue = self.queue_mut(slot);
        let mut done = Vec::with_capacity(named.len());
        for Named { seq, fence } in named {
            match *fence != Some(None) && act(queue, *seq, fence.flatten()) {
                true => done.push(*seq),
                false => skipped.push(*seq),
            }
        }
        let logged = self.log_jobs(slot, &done);
        // As for an ack: a job may be skipped because it is being deleted.
        let (wait, counts) = match skipped.is_empty() {
            true => (wait, self.counts(slot)),
            false => (wait.max(self.last_effect(topic)), self.counts_in_order(slot)),
        };
        let class = self.topic(slot).config.class;
        Ok(Settled { topic, done: done.len() as u32, counts, class, wait: wait.max(logged) })
    }

    /// Leases that a stream holds now, after those that are over were noticed; `None`: the topic is no
    /// more.
    pub fn held_by(&mut self, topic: TopicRef, holder: u64, now: Millis) -> Option<u32> {
        self.alive_queue(topic)?;
        self.notice_queue(topic.slot, now);
        Some(self.queue_mut(topic.slot).held_by(holder))
    }

    /// What there is for streams, after what is over was noticed; `None`: the topic is no more.
    pub fn queue_pulse(&mut self, topic: TopicRef, now: Millis) -> Option<Pulse> {
        self.alive_queue(topic)?;
        self.notice_queue(topic.slot, now);
        let found = self.topic(topic.slot);
        let held = found.queue.as_ref()?.counts();
        Some(Pulse {
            ready: found.visible().count - held.leased - held.delayed,
            changes_by_itself: held.leased + held.delayed > 0,
            jitter_ms: found.config.claim_jitter_ms,
        })
    }

    /// A stream ended: what it held is ready at once. The log was never told that it held them.
    pub fn release(&mut self, topic: TopicRef, holder: u64) {
        if let Some(queue) = self.alive_queue(topic) {
            queue.release(holder);
        }
    }

    /// What this queue knows of jobs that were handed out, as a checkpoint would say it if leases were
    /// durable; for simulation.
    pub(crate) fn known_jobs(&self, topic: TopicRef) -> Vec<StoredJob> {
        let queue = self.alive(topic).and_then(|found| found.queue.as_ref());
        queue.map_or(Vec::new(), |queue| queue.all_stored())
    }

    /// [`Queue::outlived`] of a topic; for simulation.
    pub(crate) fn outlived_leases(&self, topic: TopicRef) -> Vec<(Seq, Vec<u8>, LeaseToken, Millis)> {
        let queue = self.alive(topic).and_then(|found| found.queue.as_ref());
        let found = queue.into_iter().flat_map(|queue| queue.outlived());
        found.map(|(seq, node, token, at)| (seq, node.to_vec(), token, at)).collect()
    }

    /// Ranges of seqs that never held a record, those above the floor among them; for simulation.
    pub(crate) fn vacant_seqs(&self, topic: TopicRef) -> Vec<(u64, u64)> {
        self.alive(topic).map_or(Vec::new(), |found| found.vacant.iter().collect())
    }

    fn alive_queue(&mut self, topic: TopicRef) -> Option<&mut Queue> {
        let found = self.topics.get_mut(topic.slot as usize)?.as_mut()?;
        found.queue.as_mut().filter(|_| found.id == topic.id).map(|queue| &mut **queue)
    }

    /// Shows a job that is to be moved; `false`: it is gone by now.
    pub fn dead_letter(
        &self,
        topic: TopicRef,
        seq: Seq,
        mut visit: impl FnMut(&Record<'_>),
    ) -> Result<bool, No> {
        let Some(found) = self.alive(topic) else { return Ok(false) };
        let moving = found.queue.as_ref().is_some_and(|queue| queue.is_moving(seq));
        if moving {
            self.walk(found, seq, seq, |record| {
                visit(record);
                std::ops::ControlFlow::Break(())
            })?;
        }
        Ok(moving)
    }

    /// The copies of these jobs are safe: they are deleted here and counted.
    pub fn dead_letters_done(&mut self, topic: TopicRef, seqs: &[Seq]) -> Result<Wait, No> {
        if self.alive_queue(topic).is_none() {
            return Err(EngineError::TopicMissing.into());
        }
        self.may_remove(topic.slot)?;
        let queue = self.queue_mut(topic.slot);
        let done = |seq: &Seq| queue.move_done(*seq).map(|(bytes, volatile)| (*seq, bytes, volatile));
        let jobs = seqs.iter().filter_map(done).collect();
        Ok(self.remove_jobs(topic, jobs))
    }

    /// These jobs could not be copied and stay.
    pub fn dead_letters_failed(&mut self, topic: TopicRef, seqs: &[Seq]) {
        if let Some(queue) = self.alive_queue(topic) {
            seqs.iter().for_each(|seq| queue.move_failed(*seq));
        }
    }

    /// Logs what a claim did, one entry for each claimer.
    fn log_grants(&mut self, slot: u32, grants: &[Grant], terms: &[Terms]) -> Wait {
        if !self.topic(slot).config.leases_durable || grants.is_empty() {
            return Wait::default();
        }
        match terms.len() {
            1 => self.log_jobs(slot, &grants.iter().map(|grant| grant.seq).collect::<Vec<_>>()),
            // Jobs of one claimer go into one entry: they share its name.
            _ => {
                let mut seqs: Vec<(u32, Seq)> =
                    grants.iter().map(|grant| (grant.claimer, grant.seq)).collect();
                seqs.sort_unstable();
                self.log_jobs(slot, &seqs.into_iter().map(|(_, seq)| seq).collect::<Vec<_>>())
            }
        }
    }

    /// Logs what these jobs are doing now, if leases of the queue are durable. One batch; an entry for
    /// each run of jobs that share state, time and holder.
    fn log_jobs(&mut self, slot: u32, seqs: &[Seq]) -> Wait {
        let topic = self.topic(slot);
        if !topic.config.leases_durable {
            return Wait::default();
        }
        let (id, sync) = (topic.id, topic.config.class == Class::Fsync);
        let queue = topic.queue.as_ref().expect("a queue");
        let jobs: Vec<StoredJob> = seqs.iter().filter_map(|seq| queue.stored(*seq)).collect();
        if jobs.is_empty() {
            return Wait::default();
        }
        let alike = |a: &StoredJob, b: &StoredJob| (a.state, a.at, &a.node) == (b.state, b.at, &b.node);
        let mut body = std::mem::take(&mut self.scratch);
        let mut left = jobs.len();
        for group in jobs.chunk_by(alike).flat_map(|group| group.chunks(CLAIM_JOBS_MAX as usize)) {
            left -= group.len();
            body.clear();
            encode_jobs(id, group, &mut body);
            self.log.put_entry(Kind::Lease, &body, left == 0, sync);
        }
        self.scratch = body;
        self.mark_changed(slot);
        Wait(self.log.entry_block())
    }
}

impl Claimer<'_> {
    fn clamped_max(&self) -> u32 {
        self.max.clamp(1, CLAIM_JOBS_MAX)
    }

    fn terms(&self, lease_ms: u64, now: Millis) -> Terms {
        let at = deadline(self.lease_ms.unwrap_or(lease_ms), now).saturating_add(1);
        Terms { node: Rc::from(self.node), at, holder: self.holder }
    }
}

fn deadline(lease_ms: u64, now: Millis) -> Millis {
    now.saturating_add(lease_ms.clamp(LEASE_MS_MIN, LEASE_MS_MAX) as i64)
}

/// What readers see of a queue; `None` for a log.
pub(super) fn queue_counts(topic: &Topic) -> Option<QueueCounts> {
    let queue = topic.queue.as_ref()?;
    let held = queue.counts();
    Some(QueueCounts {
        ready: topic.visible().count - held.leased - held.delayed,
        in_flight: held.leased,
        dead_lettered: queue.dead_lettered,
    })
}
