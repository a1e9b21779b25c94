//! The jobs of a queue that were ever handed out: who holds which, until when, and which came back.
//! Pure: seqs, times and names of workers; no log, no records.
//!
//! A job that was never delivered takes no memory here. The shard finds those by walking the topic from
//! [`Queue::fresh`] on; everything it hands out is noted here until it leaves the topic.
//!
//! Every job is counted in one place. While a removal (an ack, a delete, an eviction) is on its way to
//! disk the job is *leaving*: nobody gets it any more, yet readers still see it, so it still counts as
//! what it was ([`Queue::counts`]), and the sum is exact at every instant (I-88).

pub mod entry;

use crate::ids::{Millis, Seq};
use crate::sabotage::{self, Bug};
use ahash::AHashMap;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::rc::Rc;

/// Lists that forget lazily are cleaned when they hold this much more than twice what is alive.
const SLACK: usize = 64;

/// Names one hand-out for ever (I-86): the run of the shard in the high half, a counter in the low one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseToken(pub u128);

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum JobState {
    /// It came back and waits for the next claim.
    Ready = 0,
    /// A worker holds it.
    Leased = 1,
    /// It came back with a delay.
    Delayed = 2,
    /// It is being copied to the dead-letter topic; counts as ready, but nobody gets it.
    Moving = 3,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Here,
    /// Its removal is on its way to disk.
    Leaving,
    /// Removed by somebody else while its holder works on it: the holder's ack still counts.
    Gone,
}

#[derive(Clone, Debug)]
struct Job {
    token: LeaseToken,
    node: Rc<[u8]>,
    /// When the lease is over (one past its deadline, Q-1) or the delay has elapsed.
    at: Millis,
    /// The stream that holds it, 0 for a claim.
    holder: u64,
    deliveries: u32,
    bytes: u32,
    state: JobState,
    presence: Presence,
    /// Its lease ended while it is leaving: no ack counts any more.
    settled: bool,
    volatile: bool,
}

/// What the log and checkpoints keep of a job, when leases are durable (I-85).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredJob {
    /// Which.
    pub seq: Seq,
    /// What it was doing; never [`JobState::Moving`].
    pub state: JobState,
    /// Hand-outs so far.
    pub deliveries: u32,
    /// What it counts toward `bytes`.
    pub bytes: u32,
    /// When that ends, 0 for a ready one.
    pub at: Millis,
    /// The lease.
    pub token: LeaseToken,
    /// Its holder.
    pub node: Vec<u8>,
}

/// A job about to be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which.
    pub seq: Seq,
    /// What it counts toward `bytes`.
    pub bytes: u32,
    /// Only memory holds it (class `ephemeral`).
    pub volatile: bool,
    /// The lease it gets.
    pub token: LeaseToken,
    /// For which of the claimers.
    pub claimer: u32,
}

/// Who gets a job, and for how long.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The worker.
    pub node: Rc<[u8]>,
    /// When the lease is over: one past the deadline.
    pub at: Millis,
    /// The stream that holds it, 0 for a claim.
    pub holder: u64,
}

/// A lease that its holder gave up by an ack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    /// Skipped: not leased, over, or to somebody else.
    No,
    /// The job is to be deleted.
    Delete {
        /// What it counts toward `bytes`.
        bytes: u32,
        /// Only memory holds it.
        volatile: bool,
    },
    /// It was deleted meanwhile.
    Gone,
}

/// The numbers of a queue, without the ready ones: those are `count` less these two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Leased.
    pub leased: u64,
    /// Delayed.
    pub delayed: u64,
}

#[derive(Debug, Default)]
struct Holder {
    held: u32,
    /// Granted to it; some may be over.
    seqs: Vec<Seq>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Queue {
    jobs: AHashMap<Seq, Job>,
    returned: BTreeSet<Seq>,
    timers: BinaryHeap<Reverse<(Millis, Seq)>>,
    /// Jobs from here on were never handed out, those up to [`Queue::recovered_through`] excepted.
    pub fresh: Seq,
    /// After a recovery jobs up to here may be known although [`Queue::fresh`] is below them.
    pub recovered_through: Seq,
    /// Jobs moved away since start.
    pub dead_lettered: u64,
    here: Held,
    leaving: Held,
    /// Everything up to here has left.
    pruned: Seq,
    holders: AHashMap<u64, Holder>,
    nobody: Rc<[u8]>,
    /// The log has ended, and everything that was leaving stays.
    ended: bool,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue {
            jobs: AHashMap::new(),
            returned: BTreeSet::new(),
            timers: BinaryHeap::new(),
            fresh: 1,
            recovered_through: 0,
            dead_lettered: 0,
            here: Held::default(),
            leaving: Held::default(),
            pruned: 0,
            holders: AHashMap::new(),
            nobody: Rc::from(&b""[..]),
            ended: false,
        }
    }
}

impl Queue {
    /// Jobs known here: what takes memory.
    pub fn known(&self) -> usize {
        self.jobs.len()
    }

    /// Whether a job is known, in whatever state.
    pub fn knows(&self, seq: Seq) -> bool {
        self.jobs.contains_key(&seq)
    }

    /// Leased and delayed jobs as readers see them.
    pub fn counts(&self) -> Held {
        Held {
            leased: self.here.leased + self.leaving.leased,
            delayed: self.here.delayed + self.leaving.delayed,
        }
    }

    /// The same once all removals on their way are committed.
    pub fn counts_in_order(&self) -> Held {
        self.here
    }

    /// Hand-outs of a job so far.
    pub fn deliveries(&self, seq: Seq) -> u32 {
        self.jobs.get(&seq).map_or(0, |job| job.deliveries)
    }

    /// Whether a job is being copied away.
    pub fn is_moving(&self, seq: Seq) -> bool {
        self.jobs.get(&seq).is_some_and(|job| job.state == JobState::Moving)
    }

    /// Jobs that came back, in the order in which they are handed out, with their deliveries.
    pub fn returned(&self) -> impl Iterator<Item = (Seq, u32)> + '_ {
        self.returned.iter().map(|seq| (*seq, self.jobs[seq].deliveries))
    }

    /// Notices leases and delays that are over.
    pub fn notice(&mut self, now: Millis) {
        let now = if sabotage::is(Bug::LeaseOverEarly) { now.saturating_add(50) } else { now };
        while let Some(Reverse((at, seq))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            let Some(job) = self.jobs.get_mut(&seq).filter(|job| job.at == at) else { continue };
            match (job.state, job.presence) {
                (JobState::Leased, Presence::Here) => self.give_back(seq, None),
                (JobState::Delayed, Presence::Here) => {
                    job.state = JobState::Ready;
                    self.here.delayed -= 1;
                    self.returned.insert(seq);
                }
                (JobState::Leased, Presence::Leaving) => job.settled = true,
                (_, Presence::Gone) => drop(self.jobs.remove(&seq)),
                _ => {}
            }
        }
    }

    /// Hands a job out.
    pub fn lease(&mut self, grant: &Grant, terms: &Terms) -> u32 {
        let job = self.jobs.entry(grant.seq).or_insert_with(|| Job {
            token: grant.token,
            node: terms.node.clone(),
            at: terms.at,
            holder: 0,
            deliveries: 0,
            bytes: grant.bytes,
            state: JobState::Ready,
            presence: Presence::Here,
            settled: false,
            volatile: grant.volatile,
        });
        let ready = job.state == JobState::Ready && job.presence == Presence::Here;
        assert!(ready, "seq {} is not ready to be leased: {job:?}", grant.seq);
        if job.deliveries > 0 {
            self.returned.remove(&grant.seq);
        }
        job.deliveries = job.deliveries.saturating_add(1);
        job.state = JobState::Leased;
        job.token = grant.token;
        job.node = terms.node.clone();
        job.at = terms.at;
        job.holder = terms.holder;
        let deliveries = job.deliveries;
        self.here.leased += 1;
        if terms.holder != 0 {
            let holder = self.holders.entry(terms.holder).or_default();
            holder.held += 1;
            holder.seqs.push(grant.seq);
            if holder.seqs.len() > 2 * holder.held as usize + SLACK {
                let jobs = &self.jobs;
                holder.seqs.sort_unstable();
                holder.seqs.dedup();
                holder.seqs.retain(|seq| is_held_by(jobs.get(seq), terms.holder));
            }
        }
        self.set_timer(terms.at, grant.seq);
        deliveries
    }

    fn set_timer(&mut self, at: Millis, seq: Seq) {
        self.timers.push(Reverse((at, seq)));
        if self.timers.len() <= 2 * self.jobs.len() + SLACK {
            return;
        }
        let jobs = &self.jobs;
        let waits = |job: &Job| matches!(job.state, JobState::Leased | JobState::Delayed);
        let mut timers = std::mem::take(&mut self.timers).into_vec();
        timers.retain(|Reverse((at, seq))| jobs.get(seq).is_some_and(|job| job.at == *at && waits(job)));
        if timers.len() > jobs.len() {
            // A lease that was moved away and back has its timer twice.
            timers.sort_unstable();
            timers.dedup();
        }
        self.timers = BinaryHeap::from(timers);
    }

    /// The job that `node` may act on: leased to it, not over, and under that token if one is named
    /// . Expiry was noticed before.
    fn held(&mut self, seq: Seq, node: &[u8], token: Option<LeaseToken>) -> Option<&mut Job> {
        self.jobs.get_mut(&seq).filter(|job| {
            job.state == JobState::Leased
                && !job.settled
                && *job.node == *node
                && token.is_none_or(|token| job.token == token)
        })
    }

    /// Ends a lease because the job is done. What is to be deleted is leaving from here on.
    pub fn ack(&mut self, seq: Seq, node: &[u8], token: Option<LeaseToken>) -> Acked {
        let Some(job) = self.held(seq, node, token) else { return Acked::No };
        job.settled = true;
        let (presence, bytes, volatile) = (job.presence, job.bytes, job.volatile);
        match presence {
            Presence::Here => {
                self.leave_one(seq);
                Acked::Delete { bytes, volatile }
            }
            Presence::Leaving => Acked::Gone,
            Presence::Gone => {
                self.jobs.remove(&seq);
                Acked::Gone
            }
        }
    }

    /// Ends a lease without success: ready again, at once or at `ready_at`. False: skipped.
    pub fn nack(
        &mut self,
        seq: Seq,
        node: &[u8],
        token: Option<LeaseToken>,
        ready_at: Option<Millis>,
    ) -> bool {
        let held = self.held(seq, node, token).is_some_and(|job| job.presence == Presence::Here);
        if held {
            self.give_back(seq, ready_at);
        }
        held
    }

    /// Moves the end of a lease to `at` (one past the new deadline). False: skipped.
    pub fn extend(&mut self, seq: Seq, node: &[u8], token: Option<LeaseToken>, at: Millis) -> bool {
        match self.held(seq, node, token).filter(|job| job.presence == Presence::Here) {
            Some(job) => {
                let moved = job.at != at;
                job.at = at;
                if moved {
                    self.set_timer(at, seq);
                }
                true
            }
            None => false,
        }
    }

    /// Ends the lease whatever its holder says: its ack could not be stored.
    pub fn abandon(&mut self, seq: Seq, node: &[u8], token: Option<LeaseToken>) {
        self.nack(seq, node, token, None);
    }

    /// Leases that a stream holds.
    pub fn held_by(&self, holder: u64) -> u32 {
        self.holders.get(&holder).map_or(0, |holder| holder.held)
    }

    /// Ends all leases of a stream.
    pub fn release(&mut self, holder: u64) {
        let Some(found) = self.holders.remove(&holder) else { return };
        for seq in found.seqs {
            if is_held_by(self.jobs.get(&seq), holder) {
                self.give_back(seq, None);
            }
        }
    }

    /// A leased job that is here becomes ready, or delayed.
    fn give_back(&mut self, seq: Seq, ready_at: Option<Millis>) {
        let job = self.jobs.get_mut(&seq).expect("a leased job");
        let holder = std::mem::take(&mut job.holder);
        job.node = self.nobody.clone();
        self.here.leased -= 1;
        match ready_at {
            None => {
                job.state = JobState::Ready;
                self.returned.insert(seq);
            }
            Some(at) => {
                job.state = JobState::Delayed;
                job.at = at;
                self.here.delayed += 1;
                self.set_timer(at, seq);
            }
        }
        self.let_go(holder);
    }

    fn let_go(&mut self, holder: u64) {
        if holder != 0
            && let Some(found) = self.holders.get_mut(&holder)
        {
            found.held -= 1;
            if found.held == 0 {
                self.holders.remove(&holder);
            }
        }
    }

    /// Takes a returned job out of everybody's reach while it is copied away. False: it is not there.
    pub fn begin_move(&mut self, seq: Seq) -> bool {
        let found = self.returned.remove(&seq);
        if found {
            self.jobs.get_mut(&seq).expect("returned jobs are known").state = JobState::Moving;
        }
        found
    }

    /// The copy could not be made.
    pub fn move_failed(&mut self, seq: Seq) {
        if let Some(job) = self.jobs.get_mut(&seq).filter(|job| job.state == JobState::Moving) {
            job.state = JobState::Ready;
            if job.presence == Presence::Here {
                self.returned.insert(seq);
            }
        }
    }

    /// The copy is safe: bytes of the job, which is leaving from here on, and whether only memory holds
    /// it. `None`: it is gone already.
    pub fn move_done(&mut self, seq: Seq) -> Option<(u32, bool)> {
        let job = self.jobs.get(&seq)?;
        if job.state != JobState::Moving || job.presence != Presence::Here {
            return None;
        }
        let found = (job.bytes, job.volatile);
        self.leave_one(seq);
        self.dead_lettered += 1;
        Some(found)
    }

    /// Jobs up to here are on their way out.
    pub fn leave_through(&mut self, last: Seq) {
        if last > self.pruned {
            self.leave(self.pruned + 1, last);
        }
    }

    /// Jobs of this range are on their way out.
    pub fn leave(&mut self, first: Seq, last: Seq) {
        self.each_in(first, last, Self::leave_one);
    }

    fn leave_one(&mut self, seq: Seq) {
        let Some(job) = self.jobs.get_mut(&seq).filter(|job| job.presence == Presence::Here) else { return };
        job.presence = Presence::Leaving;
        let mut holder = 0;
        match job.state {
            JobState::Ready => drop(self.returned.remove(&seq)),
            JobState::Moving => {}
            JobState::Leased => {
                holder = std::mem::take(&mut job.holder);
                self.here.leased -= 1;
                self.leaving.leased += 1;
            }
            JobState::Delayed => {
                self.here.delayed -= 1;
                self.leaving.delayed += 1;
            }
        }
        self.let_go(holder);
    }

    /// Jobs of this range are no longer there.
    pub fn remove(&mut self, first: Seq, last: Seq) {
        self.each_in(first, last, Self::remove_one);
    }

    /// Jobs up to here are no longer there.
    pub fn remove_through(&mut self, last: Seq) {
        if last > self.pruned {
            let first = std::mem::replace(&mut self.pruned, last) + 1;
            self.remove(first, last);
        }
    }

    fn remove_one(&mut self, seq: Seq) {
        self.leave_one(seq);
        let Some(job) = self.jobs.get_mut(&seq).filter(|job| job.presence == Presence::Leaving) else {
            return;
        };
        match job.state {
            JobState::Leased => self.leaving.leased -= 1,
            JobState::Delayed => self.leaving.delayed -= 1,
            JobState::Ready | JobState::Moving => {}
        }
        match job.state == JobState::Leased && !job.settled {
            true => job.presence = Presence::Gone,
            false => drop(self.jobs.remove(&seq)),
        }
    }

    /// Visits known jobs of a range, by whichever way is shorter.
    fn each_in(&mut self, first: Seq, last: Seq, mut visit: impl FnMut(&mut Self, Seq)) {
        if self.jobs.is_empty() {
            return;
        }
        if last - first < self.jobs.len() as u64 {
            (first..=last).for_each(|seq| visit(self, seq));
        } else {
            let found: Vec<Seq> =
                self.jobs.keys().copied().filter(|seq| (first..=last).contains(seq)).collect();
            found.into_iter().for_each(|seq| visit(self, seq));
        }
    }

    /// The log takes nothing any more: what was leaving stays, and is ready again.
    pub fn nothing_leaves(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return; // nothing began to leave since
        }
        for (seq, job) in self.jobs.iter_mut().filter(|(_, job)| job.presence == Presence::Leaving) {
            job.presence = Presence::Here;
            job.state = JobState::Ready;
            job.settled = false;
            job.node = self.nobody.clone();
            self.returned.insert(*seq);
        }
        self.leaving = Held::default();
    }

    /// What is to be kept of a job, or `None` if nothing is: only memory holds it, or it is gone.
    ///
    /// A lease of a stream ends with its connection, so with the process: only the delivery is
    /// kept. A job that is leaving is kept as it was: its removal may not survive.
    pub fn stored(&self, seq: Seq) -> Option<StoredJob> {
        let job = self.jobs.get(&seq).filter(|job| !job.volatile && job.presence != Presence::Gone)?;
        let waits = match job.state {
            JobState::Leased => job.holder == 0,
            JobState::Delayed => true,
            JobState::Ready | JobState::Moving => false,
        };
        let none = StoredJob {
            seq,
            state: JobState::Ready,
            deliveries: job.deliveries,
            bytes: job.bytes,
            at: 0,
            token: LeaseToken::default(),
            node: Vec::new(),
        };
        Some(match waits {
            true => {
                StoredJob { state: job.state, at: job.at, token: job.token, node: job.node.to_vec(), ..none }
            }
            false => none,
        })
    }

    /// All that is to be kept, in order of seqs.
    pub fn all_stored(&self) -> Vec<StoredJob> {
        let mut all: Vec<StoredJob> = self.jobs.keys().filter_map(|seq| self.stored(*seq)).collect();
        all.sort_unstable_by_key(|job| job.seq);
        all
    }

    /// Leases whose jobs somebody else removed, or removes just now: an ack of such a one still counts. For
    /// simulation. Seq, holder, token, and when the lease is over.
    pub fn outlived(&self) -> impl Iterator<Item = (Seq, &[u8], LeaseToken, Millis)> {
        let held =
            |job: &Job| job.presence != Presence::Here && job.state == JobState::Leased && !job.settled;
        let found = self.jobs.iter().filter(move |(_, job)| held(job));
        found.map(|(seq, job)| (*seq, &*job.node, job.token, job.at))
    }

    /// Takes up what was kept of a job, in the place of what is known of it.
    pub fn restore(&mut self, stored: StoredJob) {
        let seq = stored.seq;
        if let Some(old) = self.jobs.remove(&seq).filter(|old| old.presence == Presence::Here) {
            match old.state {
                JobState::Leased => self.here.leased -= 1,
                JobState::Delayed => self.here.delayed -= 1,
                JobState::Ready | JobState::Moving => drop(self.returned.remove(&seq)),
            }
        }
        let node = if stored.node.is_empty() { self.nobody.clone() } else { Rc::from(stored.node) };
        let job = Job {
            token: stored.token,
            node,
            at: stored.at,
            holder: 0,
            deliveries: stored.deliveries,
            bytes: stored.bytes,
            state: stored.state,
            presence: Presence::Here,
            settled: false,
            volatile: false,
        };
        self.jobs.insert(seq, job);
        self.recovered_through = self.recovered_through.max(seq);
        match stored.state {
            JobState::Leased => self.here.leased += 1,
            JobState::Delayed => self.here.delayed += 1,
            JobState::Ready | JobState::Moving => drop(self.returned.insert(seq)),
        }
        if matches!(stored.state, JobState::Leased | JobState::Delayed) {
            self.set_timer(stored.at, seq);
        }
    }

    /// After a recovery: drops what is no live job, and every ghost.
    pub fn keep_live(&mut self, is_live: impl Fn(Seq) -> bool) {
        let over: Vec<Seq> = self.jobs.keys().copied().filter(|seq| !is_live(*seq)).collect();
        for seq in over {
            self.remove_one(seq);
        }
        self.jobs.retain(|_, job| job.presence == Presence::Here);
    }
}

fn is_held_by(job: Option<&Job>, holder: u64) -> bool {
    job.is_some_and(|job| {
        job.holder == holder && job.state == JobState::Leased && job.presence == Presence::Here
    })
}

#[cfg(test)]
#[path = "queue/tests.rs"]
mod tests;
