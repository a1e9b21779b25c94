//! Queues on a whole shard: random calls beside a plain model, over stops, kills and power losses; then
//! histories cut at any disk operation. `RUNELOG_SEED` and `RUNELOG_SEEDS` as for `model`.

mod common;

use common::{Ask, Outcome, Rec, Rig, Stop, env, named, settings};
use runelog_engine::config::{Class, TopicConfig, TopicType};
use runelog_engine::disk::sim::Crash;
use runelog_engine::error::EngineError;
use runelog_engine::queue::LeaseToken;
use runelog_engine::rng::Rng;
use runelog_engine::shard::{Claimer, Named, QueueCounts, Settled};
use std::collections::{BTreeMap, BTreeSet, HashSet};

const QUEUE: &str = "q";

#[derive(Clone, Debug, PartialEq)]
struct Got {
    seq: u64,
    claimer: usize,
    token: LeaseToken,
    deadline: i64,
    deliveries: u32,
}

fn config(class: Class, leases_durable: bool) -> TopicConfig {
    TopicConfig { kind: TopicType::Queue, class, leases_durable, ..TopicConfig::default() }
}

struct Claim {
    got: Vec<Got>,
    counts: QueueCounts,
    dead: Vec<u64>,
    wait: u64,
}

fn claim(rig: &mut Rig, claimers: &[Claimer<'_>], divert: bool) -> Outcome<Claim> {
    rig.repeat(|shard, now| {
        let mut got = Vec::new();
        let claimed = shard.claim(QUEUE.as_bytes(), claimers, divert, now, |claimer, job| {
            let (seq, deadline, deliveries) = (job.record.seq, job.deadline, job.deliveries);
            got.push(Got { seq, claimer, token: job.token, deadline, deliveries });
        })?;
        assert_eq!(got.len() as u32, claimed.count);
        Ok(Claim { got, counts: claimed.counts, dead: claimed.dead, wait: claimed.wait.0 })
    })
}

fn by(node: &str, max: u32, lease_ms: u64, holder: u64) -> Claimer<'_> {
    Claimer { node: node.as_bytes(), max, lease_ms: Some(lease_ms), holder }
}

fn named_job(seq: u64, token: Option<LeaseToken>) -> Named {
    Named { seq, fence: token.map(Some) }
}

fn ack(rig: &mut Rig, node: &str, jobs: &[Named]) -> Outcome<(Settled, Vec<u64>)> {
    rig.repeat(|shard, now| {
        let mut skipped = Vec::new();
        let settled = shard.ack(QUEUE.as_bytes(), node.as_bytes(), jobs, now, &mut skipped)?;
        Ok((settled, skipped))
    })
}

fn counts(rig: &mut Rig) -> Outcome<(QueueCounts, u64)> {
    rig.repeat(|shard, now| {
        let (view, _) = shard.state(QUEUE.as_bytes(), false, now)?;
        Ok((view.queue.expect("a queue"), view.totals.count))
    })
}

fn live(rig: &mut Rig) -> Outcome<BTreeSet<u64>> {
    Ok(rig.read_all(QUEUE)?.1.into_iter().map(|seen| seen.seq).collect())
}

#[derive(Clone, Debug, PartialEq)]
enum Is {
    Ready,
    Leased { node: usize, token: LeaseToken, deadline: i64, holder: u64 },
    Delayed { until: i64 },
}

#[derive(Clone, Debug)]
struct Job {
    is: Is,
    deliveries: u32,
}

const NODES: [&str; 3] = ["w0", "w1", "w2"];

/// Everything is waited for, so the model is exact at every step.
struct Model {
    rig: Rig,
    rng: Rng,
    config: TopicConfig,
    jobs: BTreeMap<u64, Job>,
    /// Removed while leased: node, token, deadline.
    ghosts: BTreeMap<u64, (usize, LeaseToken, i64)>,
    tokens: HashSet<LeaseToken>,
    dead_lettered: u64,
    /// Large jobs were written.
    large: bool,
}

impl Model {
    /// What is over by now, and what retention or deletes took.
    fn look(&mut self) -> Outcome<()> {
        let live = live(&mut self.rig)?;
        let now = self.rig.now;
        let gone: Vec<u64> = self.jobs.keys().copied().filter(|seq| !live.contains(seq)).collect();
        for seq in gone {
            if let Some(Job { is: Is::Leased { node, token, deadline, .. }, .. }) = self.jobs.remove(&seq) {
                self.ghosts.insert(seq, (node, token, deadline));
            }
        }
        self.ghosts.retain(|_, (_, _, deadline)| now <= *deadline);
        for job in self.jobs.values_mut() {
            match job.is {
                Is::Leased { deadline, .. } if now > deadline => job.is = Is::Ready,
                Is::Delayed { until } if now >= until => job.is = Is::Ready,
                _ => {}
            }
        }
        for seq in live {
            self.jobs.entry(seq).or_insert(Job { is: Is::Ready, deliveries: 0 });
        }
        let (counts, count) = counts(&mut self.rig)?;
        assert_eq!((counts, count), (self.counts(), self.jobs.len() as u64), "Q-80, I-88");
        Ok(())
    }

    fn counts(&self) -> QueueCounts {
        let all = |which: fn(&Is) -> bool| self.jobs.values().filter(|job| which(&job.is)).count() as u64;
        QueueCounts {
            ready: all(|is| *is == Is::Ready),
            in_flight: all(|is| matches!(is, Is::Leased { .. })),
            dead_lettered: self.dead_lettered,
        }
    }

    /// Ready jobs in the order of Q-2, with their deliveries.
    fn ready(&self) -> Vec<(u64, u32)> {
        let ready = self.jobs.iter().filter(|(_, job)| job.is == Is::Ready);
        let (returned, fresh): (Vec<_>, Vec<_>) =
            ready.map(|(seq, job)| (*seq, job.deliveries)).partition(|(_, deliveries)| *deliveries > 0);
        returned.into_iter().chain(fresh).collect()
    }

    fn claim(&mut self) -> Outcome<()> {
        let many = 1 + self.rng.index(3);
        let lease_ms = 100 + self.rng.below(400);
        let asks: Vec<(usize, u32, u64)> =
            (0..many).map(|_| (self.rng.index(3), 1 + self.rng.below(6) as u32, self.rng.below(3))).collect();
        let claimers: Vec<_> =
            asks.iter().map(|(node, max, holder)| by(NODES[*node], *max, lease_ms, *holder)).collect();
        self.look()?;
        let claimed = loop {
            let claimed = claim(&mut self.rig, &claimers, true)?;
            if claimed.dead.is_empty() {
                break claimed;
            }
            self.divert(&claimed.dead)?;
        };
        self.rig.wait(claimed.wait)?;
        let limit = match (&self.config.dead_letter, self.config.max_deliveries) {
            (Some(_), max) if max > 0 => max as u32,
            _ => u32::MAX,
        };
        // one job each in turn until demand or supply ends.
        let mut left: Vec<u32> = asks.iter().map(|(_, max, _)| *max).collect();
        let (mut turn, mut expected) = (0, Vec::new());
        for (seq, deliveries) in self.ready().into_iter().filter(|(_, deliveries)| *deliveries < limit) {
            if left.iter().all(|left| *left == 0) {
                break;
            }
            while left[turn % many] == 0 {
                turn += 1;
            }
            expected.push((seq, turn % many, deliveries + 1));
            left[turn % many] -= 1;
            turn += 1;
        }
        let seen: Vec<_> = claimed.got.iter().map(|got| (got.seq, got.claimer, got.deliveries)).collect();
        // Sealed jobs larger than the cache come in several claims.
        let crowded = seen.len() < expected.len() && !seen.is_empty() && self.large;
        expected.truncate(if crowded { seen.len() } else { expected.len() });
        assert_eq!(seen, expected, "Q-2, Q-3, Q-15");
        for got in claimed.got {
            assert!(self.tokens.insert(got.token), "I-86: {:?} was issued before", got.token);
            assert_eq!(got.deadline, self.rig.now + lease_ms as i64, "Q-12");
            let (node, _, holder) = asks[got.claimer];
            let job = self.jobs.get_mut(&got.seq).expect("a ready job");
            job.deliveries = got.deliveries;
            job.is = Is::Leased { node, token: got.token, deadline: got.deadline, holder };
        }
        assert_eq!(claimed.counts, self.counts(), "Q-14");
        Ok(())
    }

    /// What the owner does with jobs that were delivered too often: Q-60…Q-64.
    fn divert(&mut self, dead: &[u64]) -> Outcome<()> {
        for seq in dead {
            let job = &self.jobs[seq];
            assert!(job.is == Is::Ready && u64::from(job.deliveries) >= self.config.max_deliveries);
        }
        let topic = self.rig.shard().find(QUEUE.as_bytes()).0.expect("the queue");
        if self.rng.chance(1, 3) {
            // In the way of this claim no more, until the next.
            self.config.max_deliveries += 1;
            self.rig.shard().dead_letters_failed(topic, dead);
            let (_, block) = self.rig.put(QUEUE, &self.config.clone())?;
            return self.rig.wait(block);
        }
        let shown = counts(&mut self.rig)?.0;
        assert_eq!(shown, self.counts(), "what is being moved counts as ready");
        for seq in dead {
            let found = self.rig.repeat(|shard, _| {
                let mut data = Vec::new();
                let found = shard.dead_letter(topic, *seq, |record| data = record.data.to_vec())?;
                Ok(found.then_some(data))
            })?;
            self.rig.append_and_wait("dead", &[Rec::new(found.expect("it is there"))])?;
        }
        let wait = self.rig.repeat(|shard, _| shard.dead_letters_done(topic, dead))?;
        self.rig.wait(wait.0)?;
        for seq in dead {
            self.jobs.remove(seq);
        }
        self.dead_lettered += dead.len() as u64;
        Ok(())
    }

    /// A few jobs as a worker might name them: its own, others', with and without a token.
    fn some_jobs(&mut self, node: usize) -> Vec<Named> {
        let head = self.jobs.last_key_value().map_or(1, |(seq, _)| *seq + 1);
        let known: Vec<(u64, LeaseToken)> = self
            .jobs
            .iter()
            .filter_map(|(seq, job)| match job.is {
                Is::Leased { node: by, token, .. } if by == node => Some((*seq, token)),
                _ => None,
            })
            .chain(self.ghosts.iter().map(|(seq, (_, token, _))| (*seq, *token)))
            .collect();
        let all: Vec<LeaseToken> = self.tokens.iter().copied().collect();
        (0..1 + self.rng.below(5))
            .map(|_| match self.rng.below(4) {
                0 => named_job(self.rng.below(head + 1), None),
                1 if !all.is_empty() => {
                    named_job(self.rng.below(head + 1), Some(all[self.rng.index(all.len())]))
                }
                _ if known.is_empty() => named_job(0, None),
                other => {
                    let (seq, token) = known[self.rng.index(known.len())];
                    named_job(seq, (other == 2).then_some(token))
                }
            })
            .collect()
    }

    /// whether the job is leased to exactly this worker, under that token.
    fn holds(&self, node: usize, named: &Named) -> bool {
        match self.jobs.get(&named.seq).map(|job| &job.is) {
            Some(Is::Leased { node: by, token, .. }) => {
                *by == node && named.fence.is_none_or(|fence| fence == Some(*token))
            }
            _ => false,
        }
    }

    fn settle(&mut self) -> Outcome<()> {
        self.look()?;
        let node = self.rng.index(3);
        let jobs = self.some_jobs(node);
        let mut expected = Vec::new();
        let (what, delay_ms) = (self.rng.below(4), self.rng.below(2) * self.rng.below(300));
        let lease_ms = 100 + self.rng.below(300);
        let (settled, skipped) = match what {
            0 | 1 => ack(&mut self.rig, NODES[node], &jobs)?,
            _ => self.rig.repeat(|shard, now| {
                let (mut skipped, name) = (Vec::new(), QUEUE.as_bytes());
                let node = NODES[node].as_bytes();
                let settled = match what {
                    2 => shard.nack(name, node, &jobs, delay_ms, now, &mut skipped)?,
                    _ => shard.extend(name, node, &jobs, lease_ms, now, &mut skipped)?.0,
                };
                Ok((settled, skipped))
            })?,
        };
        let now = self.rig.now;
        for named in &jobs {
            let held = self.holds(node, named);
            match what {
                0 | 1 if held => drop(self.jobs.remove(&named.seq)),
                2 if held => {
                    let is = match delay_ms {
                        0 => Is::Ready,
                        _ => Is::Delayed { until: now + delay_ms as i64 },
                    };
                    self.jobs.get_mut(&named.seq).expect("held").is = is;
                }
                3 if held => {
                    if let Is::Leased { deadline, .. } = &mut self.jobs.get_mut(&named.seq).expect("held").is
                    {
                        *deadline = now + lease_ms as i64;
                    }
                }
                0 | 1 => {
                    let ours = self.ghosts.get(&named.seq).is_some_and(|(by, token, _)| {
                        *by == node && named.fence.is_none_or(|fence| fence == Some(*token))
                    });
                    match ours {
                        true => drop(self.ghosts.remove(&named.seq)),
                        false => expected.push(named.seq),
                    }
                }
                _ => expected.push(named.seq),
            }
        }
        assert_eq!(skipped, expected, "Q-31");
        assert_eq!(settled.done as usize, jobs.len() - expected.len(), "Q-31, Q-56");
        assert_eq!(settled.counts, self.counts(), "Q-40, Q-51");
        self.rig.wait(settled.wait.0)
    }

    fn restart(&mut self) -> Outcome<()> {
        match if self.config.class == Class::Memory { 0 } else { self.rng.below(3) } {
            0 => {
                self.rig.stop()?;
                self.rig.crash(Crash::Kill);
            }
            1 if self.config.class == Class::Fsync => self.rig.crash(Crash::PowerLoss),
            _ => self.rig.crash(Crash::Kill),
        }
        self.rig.open()?;
        self.ghosts.clear();
        if self.config.class == Class::Ephemeral {
            self.jobs.clear();
        }
        self.dead_lettered = 0;
        for job in self.jobs.values_mut() {
            match (&job.is, self.config.leases_durable) {
                (_, false) => *job = Job { is: Is::Ready, deliveries: 0 }, // I-84
                (Is::Leased { holder: 1.., .. }, true) => job.is = Is::Ready, // its stream ended
                _ => {}                                                    // I-85
            }
        }
        self.look()
    }

    fn act(&mut self) -> Outcome<()> {
        match self.rng.below(20) {
            0..=3 => {
                let size = if self.rng.chance(1, 40) { 700_000 } else { 20 };
                let count = 1 + self.rng.index(6);
                self.large |= size > 20;
                self.rig.append_and_wait(QUEUE, &vec![Rec::new(vec![b'7'; size]); count])?;
            }
            4..=8 => self.claim()?,
            9..=13 => self.settle()?,
            14 => {
                let head = self.jobs.last_key_value().map_or(1, |(seq, _)| *seq);
                let below = head.saturating_sub(self.rng.below(12));
                let (_, deleted) = self.rig.delete(QUEUE, Some(below), None)?;
                self.rig.wait(deleted.wait.0)?;
            }
            15 => {
                let topic = self.rig.shard().find(QUEUE.as_bytes()).0.expect("the queue");
                let holder = 1 + self.rng.below(2);
                self.look()?;
                self.rig.shard().release(topic, holder);
                for job in self.jobs.values_mut() {
                    if matches!(job.is, Is::Leased { holder: by, .. } if by == holder) {
                        job.is = Is::Ready;
                    }
                }
            }
            16 | 17 => self.rig.advance(self.rng.below(200) as i64),
            18 => self.rig.settle()?,
            _ => self.restart()?,
        }
        self.look()
    }
}

/// Q-1…Q-64, I-80…I-88: what is answered is what the model says, with durable leases and without, over
/// stops, kills and power losses, under caps and age limits, with jobs in memory and in segments.
#[test]
fn a_queue_does_what_the_model_does() {
    let first = env("RUNELOG_SEED", 1);
    for seed in first..first + env("RUNELOG_SEEDS", 40) {
        named(&format!("RUNELOG_SEED={seed} RUNELOG_SEEDS=1"), || {
            let mut rng = Rng::new(seed);
            let class = [Class::Disk, Class::Fsync, Class::Memory, Class::Ephemeral][rng.index(4)];
            let mut config = config(class, rng.chance(1, 2));
            if rng.chance(1, 3) {
                config.cap_records = 12;
            }
            if rng.chance(1, 4) {
                config.ttl_ms = 900;
            }
            if rng.chance(1, 2) {
                (config.max_deliveries, config.dead_letter) = (2, Some("dead".to_owned()));
            }
            let mut rig = Rig::open_new(seed);
            let (_, block) = rig.put(QUEUE, &config).expect("a queue");
            rig.wait(block).expect("made");
            let (jobs, ghosts, tokens) = (BTreeMap::new(), BTreeMap::new(), HashSet::new());
            let mut model = Model { rig, rng, config, jobs, ghosts, tokens, dead_lettered: 0, large: false };
            for _ in 0..250 {
                model.act().expect("no refusal");
            }
        });
    }
}

/// What a client knows of a job when the machine ends.
#[derive(Clone, Debug, Default)]
struct Known {
    /// An ack or delete was sent.
    removal_sent: bool,
    /// It was acknowledged.
    removed: bool,
    /// The last lease, if it was acknowledged and nothing else was sent about it since.
    lease: Option<(LeaseToken, i64)>,
}

/// A history in which answers are not waited for, until the disk is cut.
struct Cut {
    rig: Rig,
    rng: Rng,
    jobs: BTreeMap<u64, Known>,
    /// Blocks that answers wait for, and what they say: the seqs of an append, ack or claim.
    waiting: Vec<(u64, What)>,
    leases: BTreeMap<u64, (LeaseToken, i64)>,
    tokens: HashSet<LeaseToken>,
}

enum What {
    Appended(u64, u64),
    Acked(Vec<u64>),
    Claimed(Vec<(u64, LeaseToken, i64)>),
}

impl Cut {
    fn hear(&mut self) {
        let committed = self.rig.committed();
        let (heard, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(block, _)| *block <= committed);
        self.waiting = waiting;
        for (_, what) in heard {
            match what {
                What::Appended(first, last) => {
                    self.jobs.extend((first..=last).map(|seq| (seq, Known::default())));
                }
                What::Acked(seqs) => {
                    for seq in seqs {
                        self.jobs.get_mut(&seq).expect("it was claimed").removed = true;
                    }
                }
                What::Claimed(got) => {
                    for (seq, token, deadline) in got {
                        if self.leases.get(&seq).is_some_and(|lease| lease.0 == token) {
                            self.jobs.entry(seq).or_default().lease = Some((token, deadline));
                        }
                    }
                }
            }
        }
    }

    fn act(&mut self) -> Outcome<()> {
        self.hear();
        match self.rng.below(10) {
            0..=2 => {
                let size = if self.rng.chance(1, 20) { 900_000 } else { 30 };
                let count = 1 + self.rng.index(5);
                let done =
                    self.rig.append(QUEUE, &vec![Rec::new(vec![b'7'; size]); count], Ask::default())?;
                self.waiting.push((done.wait.0, What::Appended(done.first_seq, done.last_seq())));
            }
            3..=5 => {
                let max = 1 + self.rng.below(4) as u32;
                let claimed = claim(&mut self.rig, &[by("w", max, 5000, 0)], false)?;
                let mut got = Vec::new();
                for job in claimed.got {
                    assert!(self.tokens.insert(job.token), "I-86: {:?}", job.token);
                    self.leases.insert(job.seq, (job.token, job.deadline));
                    self.jobs.entry(job.seq).or_default().lease = None;
                    got.push((job.seq, job.token, job.deadline));
                }
                self.waiting.push((claimed.wait, What::Claimed(got)));
            }
            6 | 7 => {
                let held: Vec<u64> = self.leases.keys().copied().collect();
                let Some(seq) = held.get(self.rng.index(held.len().max(1))).copied() else { return Ok(()) };
                let (token, _) = self.leases[&seq];
                let known = self.jobs.entry(seq).or_default();
                (known.removal_sent, known.lease) = (true, None);
                let (settled, skipped) = ack(&mut self.rig, "w", &[named_job(seq, Some(token))])?;
                if skipped.is_empty() {
                    self.leases.remove(&seq);
                    self.waiting.push((settled.wait.0, What::Acked(vec![seq])));
                } else {
                    // It was over: nothing was done.
                    self.jobs.get_mut(&seq).expect("just there").removal_sent = false;
                    self.leases.remove(&seq);
                }
            }
            8 => {
                self.rig.advance(self.rng.below(1500) as i64);
                self.rig.step(true)?;
            }
            _ => self.rig.settle()?,
        }
        self.rig.step(false)
    }
}

/// I-52, I-81, I-84…I-87, I-90: whatever is cut off wherever, an acknowledged ack is in force, every other
/// job is handed out again, durable leases hold, and no token comes twice.
#[test]
fn a_queue_survives_a_cut_anywhere() {
    let first = env("RUNELOG_SEED", 1);
    for seed in first..first + env("RUNELOG_SEEDS", 60) {
        named(&format!("RUNELOG_SEED={seed} RUNELOG_SEEDS=1"), || {
            let mut rng = Rng::new(seed ^ 0xabc);
            let durable = rng.chance(1, 2);
            let class = if rng.chance(1, 2) { Class::Fsync } else { Class::Disk };
            let kind = if rng.chance(1, 2) { Crash::PowerLoss } else { Crash::Kill };
            let mut rig = Rig::open_new(seed);
            let (_, block) = rig.put(QUEUE, &config(class, durable)).expect("a queue");
            rig.wait(block).expect("made");
            let (jobs, leases, tokens) = (BTreeMap::new(), BTreeMap::new(), HashSet::new());
            let mut cut = Cut { rig, rng, jobs, waiting: Vec::new(), leases, tokens };
            for life in 0..3 {
                let operations = cut.rng.below(120);
                cut.rig.disk.cut_after(operations);
                while let Ok(()) = cut.act() {}
                cut.rig.disk.cut_after(u64::MAX / 2);
                cut.hear();
                cut.rig.crash(kind);
                let all_kept = kind == Crash::Kill || class == Class::Fsync;
                after_a_cut(&mut cut, durable, all_kept, life);
            }
        });
    }
}

fn after_a_cut(cut: &mut Cut, durable: bool, all_kept: bool, life: u64) {
    // Twice the same (I-90).
    let mut again = Rig::new(life, settings());
    again.disk = cut.rig.disk.fork();
    again.now = cut.rig.now;
    again.open().expect("recovers");
    cut.rig.open().expect("recovers");
    assert_eq!(live(&mut again).expect("reads"), live(&mut cut.rig).expect("reads"), "I-90");
    assert_eq!(counts(&mut again).expect("reads"), counts(&mut cut.rig).expect("reads"), "I-90");
    let live = live(&mut cut.rig).expect("reads");
    let now = cut.rig.now;
    for (seq, known) in &cut.jobs {
        if all_kept {
            assert!(!known.removed || !live.contains(seq), "I-52, I-87: {seq} came back");
            assert!(known.removal_sent || live.contains(seq), "I-51: {seq} is lost");
        }
    }
    // Nobody gets what is leased (I-85), everybody the rest (I-81, I-84).
    let held: BTreeMap<u64, LeaseToken> = cut
        .jobs
        .iter()
        .filter(|_| durable && all_kept)
        .filter_map(|(seq, known)| {
            known.lease.filter(|(_, deadline)| now <= *deadline).map(|(token, _)| (*seq, token))
        })
        .collect();
    let got = claim_all(&mut again);
    for job in &got {
        assert!(!held.contains_key(&job.seq), "I-85: {} is leased", job.seq);
        assert!(!cut.tokens.contains(&job.token), "I-86: {:?} again", job.token);
    }
    if !durable {
        let all: Vec<u64> = got.iter().map(|job| job.seq).collect();
        assert_eq!(all, live.iter().copied().collect::<Vec<_>>(), "I-84");
        assert!(got.iter().all(|job| job.deliveries == 1), "I-84");
    }
    for (seq, token) in &held {
        let (_, skipped) = ack(&mut again, "w", &[named_job(*seq, Some(*token))]).expect("acks");
        assert!(skipped.is_empty(), "I-85: its holder cannot ack {seq}");
    }
    again.advance(10_000);
    let mut all: BTreeSet<u64> = claim_all(&mut again).iter().map(|job| job.seq).collect();
    all.extend(held.keys());
    assert_eq!(all, live, "I-81: every job is handed out in the end");
    // What the client knew is what there is now.
    cut.waiting.clear();
    cut.jobs.retain(|seq, _| live.contains(seq));
    for seq in live {
        let known = cut.jobs.entry(seq).or_default();
        (known.removal_sent, known.removed) = (false, false);
        if !held.contains_key(&seq) {
            known.lease = None;
        }
    }
    cut.leases.retain(|seq, lease| held.get(seq) == Some(&lease.0));
}

/// Until nothing more comes: large jobs come in several claims.
fn claim_all(rig: &mut Rig) -> Vec<Got> {
    let mut all = Vec::new();
    loop {
        let claimed = claim(rig, &[by("other", 1000, 1000, 0)], false).expect("claims");
        if claimed.got.is_empty() {
            return all;
        }
        all.extend(claimed.got);
    }
}

fn queue_of(seed: u64, config: &TopicConfig, jobs: usize) -> Rig {
    let mut rig = Rig::open_new(seed);
    let (_, block) = rig.put(QUEUE, config).expect("a queue");
    rig.wait(block).expect("made");
    rig.append_and_wait(QUEUE, &vec![Rec::new("1"); jobs]).expect("jobs");
    rig
}

/// an ack that cannot be stored leaves the job ready, at once and for everybody; so does one that
/// was on its way.
#[test]
fn jobs_whose_ack_was_not_stored_are_ready_again() {
    let mut rig = queue_of(1, &config(Class::Fsync, false), 3);
    rig.settle().expect("rest");
    let got = claim(&mut rig, &[by("w", 2, 60_000, 0)], true).expect("claims").got;
    rig.disk.fail_nth_write(1);
    let first = ack(&mut rig, "w", &[named_job(got[0].seq, None)]).expect("it is on its way").0;
    assert!(rig.wait(first.wait.0).is_err(), "the write fails");
    let refused = ack(&mut rig, "w", &[named_job(got[1].seq, None)]);
    assert!(matches!(refused, Err(Stop::Refused(EngineError::Halted(_)))));
    let (shown, count) = counts(&mut rig).expect("reads go on");
    assert_eq!((shown.ready, shown.in_flight, count), (3, 0, 3));
    let again = claim(&mut rig, &[by("v", 9, 1000, 0)], true).expect("claims").got;
    assert_eq!(
        again.iter().map(|job| (job.seq, job.deliveries)).collect::<Vec<_>>(),
        [(1, 2), (2, 2), (3, 1)]
    );
}

/// CF-4 for `leases_durable`: off, the next start knows no lease; on again, what was off stays forgotten,
/// and no job is lost for it (I-81).
#[test]
fn leases_follow_the_setting_they_were_made_under() {
    let mut rig = queue_of(2, &config(Class::Disk, true), 4);
    let put = |rig: &mut Rig, durable| {
        let (_, block) = rig.put(QUEUE, &config(Class::Disk, durable)).expect("a change");
        rig.wait(block).expect("in force");
    };
    let hold = |rig: &mut Rig, max| {
        let claimed = claim(rig, &[by("w", max, 60_000, 0)], true).expect("claims");
        rig.wait(claimed.wait).expect("granted");
        claimed.got
    };
    let first = hold(&mut rig, 1)[0].clone();
    put(&mut rig, false);
    assert_eq!(counts(&mut rig).expect("reads").0.in_flight, 1, "what is held stays held");
    let second = hold(&mut rig, 1)[0].clone();
    put(&mut rig, true);
    let third = hold(&mut rig, 1)[0].clone();
    rig.crash(Crash::Kill);
    rig.open().expect("recovers");
    let fences = [(first, false), (second, false), (third, true)]
        .map(|(got, held)| (named_job(got.seq, Some(got.token)), held));
    for (named, held) in fences {
        let skipped = ack(&mut rig, "w", &[named]).expect("acks").1;
        assert_eq!(skipped.is_empty(), held, "seq {}", named.seq);
    }
    assert_eq!(hold(&mut rig, 9).iter().map(|job| job.seq).collect::<Vec<_>>(), [1, 2, 4]);
}

/// I-70: a queue made again has no jobs, no leases and no counts of the old one.
#[test]
fn a_queue_made_again_knows_nothing_of_the_old_one() {
    let durable = config(Class::Disk, true);
    let mut rig = queue_of(3, &durable, 2);
    let old = claim(&mut rig, &[by("w", 2, 60_000, 0)], true).expect("claims");
    rig.wait(old.wait).expect("granted");
    let (_, block) = rig.drop_topic(QUEUE, false).expect("drops");
    rig.wait(block).expect("dropped");
    let (_, block) = rig.put(QUEUE, &durable).expect("a queue");
    rig.wait(block).expect("made");
    rig.append_and_wait(QUEUE, &[Rec::new("1"), Rec::new("2")]).expect("jobs");
    for kill in [false, true] {
        if kill {
            rig.crash(Crash::Kill);
            rig.open().expect("recovers");
        }
        let stale = old.got.iter().map(|got| named_job(got.seq, Some(got.token))).collect::<Vec<_>>();
        assert_eq!(ack(&mut rig, "w", &stale).expect("acks").1, [1, 2], "stale leases match nothing");
        let shown = counts(&mut rig).expect("reads").0;
        assert_eq!((shown.ready, shown.in_flight), (2, 0));
    }
    let new = claim(&mut rig, &[by("w", 2, 60_000, 0)], true).expect("claims");
    assert!(new.got.iter().all(|got| got.deliveries == 1));
    assert!(new.got.iter().zip(&old.got).all(|(new, old)| new.token != old.token), "I-86");
}

/// I-40: a job can be claimed only when its write is committed.
#[test]
fn what_is_not_committed_is_not_handed_out() {
    let mut rig = queue_of(4, &config(Class::Fsync, false), 1);
    rig.settle().expect("rest");
    let on_its_way = rig.append(QUEUE, &[Rec::new("2")], Ask::default()).expect("taken");
    let claimed = claim(&mut rig, &[by("w", 9, 1000, 0)], true).expect("claims");
    assert_eq!(claimed.got.len(), 1);
    rig.wait(on_its_way.wait.0).expect("committed");
    assert_eq!(claim(&mut rig, &[by("w", 9, 1000, 0)], true).expect("claims").got.len(), 1);
}
