//! Queues on a whole shard: histories cut at any disk operation, and single properties. Random histories beside a
//! model are the simulator's (`sim.rs`). `RUNELOG_SEED` and `RUNELOG_SEEDS` choose the seeds.

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
        Ok(Claim { got, wait: claimed.wait.0 })
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
fn who_hears_that_a_job_is_skipped_for_an_ack_on_its_way_waits_for_that_ack() {
    // I-87, Q-33: found by a recorded history (`tools/tests/process/linear.rs`) in which a second ack was told at
    // once that the job is not leased any more, and that it still counts as leased.
    let mut rig = queue_of(3, &config(Class::Fsync, false), 3);
    let got = claim_all(&mut rig);
    let job = [named_job(got[0].seq, Some(got[0].token))];
    let (first, skipped) = ack(&mut rig, "other", &job).unwrap();
    assert!(skipped.is_empty() && first.wait.0 > rig.committed(), "it is not committed yet");
    let (again, skipped) = ack(&mut rig, "other", &job).unwrap();
    assert_eq!((again.done, skipped, again.counts), (0, vec![got[0].seq], first.counts));
    assert!(again.wait >= first.wait, "{again:?}");
    let nacked = rig.repeat(|shard, now| {
        let mut skipped = Vec::new();
        let settled = shard.nack(QUEUE.as_bytes(), b"other", &job, 0, now, &mut skipped)?;
        Ok((settled, skipped))
    });
    let (nacked, skipped) = nacked.unwrap();
    assert_eq!((nacked.done, skipped, nacked.counts), (0, vec![got[0].seq], first.counts));
    assert!(nacked.wait >= first.wait, "{nacked:?}");
    rig.wait(first.wait.0).unwrap();
    let (later, _) = ack(&mut rig, "other", &job).unwrap();
    assert_eq!(
        (later.counts, later.wait.0 <= rig.committed()),
        (first.counts, true),
        "nothing is on its way"
    );
}

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

/// The next run must not begin the one log file of this run again: if it fails in the middle of that, nothing tells
/// this run's epoch any more.
#[test]
fn no_token_comes_twice_though_a_start_fails_at_its_first_file() {
    for seed in 0..env("RUNELOG_SEEDS", 12) {
        named(&format!("seed {seed}"), || {
            let mut rig = queue_of(seed, &config(Class::Fsync, false), 3);
            let mut tokens = HashSet::new();
            let mut take = |rig: &mut Rig| {
                let got = claim(rig, &[by("w", 1, 60_000, 0)], false).unwrap();
                assert!(got.got.iter().all(|got| tokens.insert(got.token)), "I-86: {:?}", got.got);
            };
            rig.crash(Crash::Kill);
            rig.open().unwrap();
            take(&mut rig); // as soon as there is a first file
            rig.crash(Crash::Kill);
            rig.open().unwrap();
            rig.disk.fail_nth_write(1);
            (0..40).try_for_each(|_| rig.step(true)).unwrap();
            rig.crash(Crash::Kill);
            rig.open().unwrap();
            take(&mut rig);
        });
    }
}
