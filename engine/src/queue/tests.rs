//! The table beside a plain model: a map from seq to everything the rules say of a job.

use super::*;
use crate::rng::Rng;
use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq)]
enum Is {
    Ready,
    Leased { node: u8, token: u128, deadline: Millis, holder: u64 },
    Delayed { until: Millis },
    Moving,
}

#[derive(Clone, Debug)]
struct Modelled {
    is: Is,
    deliveries: u32,
}

/// A lease whose job somebody else removed.
type Ghost = (u8, u128, Millis);

#[derive(Default)]
struct Model {
    /// Live jobs that nobody is removing.
    jobs: BTreeMap<Seq, Modelled>,
    /// Removals on their way, oldest first: what each job was, and the ghost it becomes.
    leaving: Vec<BTreeMap<Seq, (Is, Option<Ghost>)>>,
    ghosts: BTreeMap<Seq, Ghost>,
    fresh: Seq,
}

impl Model {
    fn notice(&mut self, now: Millis) {
        for job in self.jobs.values_mut() {
            match job.is {
                Is::Leased { deadline, .. } if now > deadline => job.is = Is::Ready,
                Is::Delayed { until } if now >= until => job.is = Is::Ready,
                _ => {}
            }
        }
        for (_, ghost) in self.leaving.iter_mut().flat_map(|batch| batch.values_mut()) {
            if ghost.is_some_and(|(_, _, deadline)| now > deadline) {
                *ghost = None;
            }
        }
        self.ghosts.retain(|_, (_, _, deadline)| now <= *deadline);
    }

    fn remove(&mut self, seqs: &[Seq], acked: bool) {
        let mut batch = BTreeMap::new();
        for seq in seqs {
            let Some(job) = self.jobs.remove(seq) else { continue };
            let ghost = match job.is {
                Is::Leased { node, token, deadline, .. } if !acked => Some((node, token, deadline)),
                _ => None,
            };
            batch.insert(*seq, (job.is, ghost));
        }
        self.leaving.push(batch);
    }

    /// The oldest removal is committed.
    fn commit(&mut self) -> Vec<Seq> {
        if self.leaving.is_empty() {
            return Vec::new();
        }
        let batch = self.leaving.remove(0);
        let seqs = batch.keys().copied().collect();
        for (seq, (_, ghost)) in batch {
            if let Some(ghost) = ghost {
                self.ghosts.insert(seq, ghost);
            }
        }
        seqs
    }

    fn held(&self) -> Held {
        let now = self.jobs.values().map(|job| &job.is);
        let all = now.chain(self.leaving.iter().flat_map(|batch| batch.values().map(|(is, _)| is)));
        let mut held = Held::default();
        for is in all {
            held.leased += u64::from(matches!(is, Is::Leased { .. }));
            held.delayed += u64::from(matches!(is, Is::Delayed { .. }));
        }
        held
    }

    fn ack(&mut self, seq: Seq, by: u8, fence: Option<u128>) -> Acked {
        let ours = |node: u8, token: u128| node == by && fence.is_none_or(|fence| fence == token);
        match self.jobs.get(&seq).map(|job| &job.is) {
            Some(Is::Leased { node, token, .. }) if ours(*node, *token) => {
                self.remove(&[seq], true);
                return Acked::Delete { bytes: 10, volatile: false };
            }
            _ => {}
        }
        for batch in &mut self.leaving {
            if let Some((_, ghost)) = batch.get_mut(&seq)
                && ghost.is_some_and(|(node, token, _)| ours(node, token))
            {
                *ghost = None;
                return Acked::Gone;
            }
        }
        match self.ghosts.get(&seq) {
            Some((node, token, _)) if ours(*node, *token) => {
                self.ghosts.remove(&seq);
                Acked::Gone
            }
            _ => Acked::No,
        }
    }
}

fn name(node: u8) -> Rc<[u8]> {
    Rc::from(&[b'w', b'0' + node][..])
}

/// Q-1…, I-80, I-82, I-88: random calls give what the model gives, and the
/// numbers agree after each.
#[test]
fn the_table_does_what_the_model_does() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let (mut queue, mut model) = (Queue::default(), Model { fresh: 1, ..Model::default() });
        let (mut now, mut tokens) = (1000, 1u128);
        for step in 0..600 {
            let at = || format!("seed {seed}, step {step}");
            now += rng.below(30) as Millis - 2; // the clock may step back
            queue.notice(now);
            model.notice(now);
            let expected: Vec<(Seq, u32)> = model
                .jobs
                .iter()
                .filter(|(_, job)| job.is == Is::Ready)
                .map(|(seq, job)| (*seq, job.deliveries))
                .collect();
            assert_eq!(queue.returned().collect::<Vec<_>>(), expected, "{}", at());
            let seq = 1 + rng.below(model.fresh.max(2) - 1);
            let node = rng.below(3) as u8;
            let fence = match (rng.below(3), model.jobs.get(&seq).map(|job| &job.is)) {
                (0, _) => Some(1 + u128::from(rng.below(tokens as u64))),
                (1, Some(Is::Leased { token, .. })) => Some(*token),
                _ => None,
            };
            let token = fence.map(LeaseToken);
            let leased_to = |model: &Model| match model.jobs.get(&seq).map(|job| &job.is) {
                Some(Is::Leased { node: by, token, .. }) => {
                    *by == node && fence.is_none_or(|fence| fence == *token)
                }
                _ => false,
            };
            match rng.below(12) {
                0..=3 => {
                    let returned = expected.first().filter(|_| rng.below(2) == 0).map(|(seq, _)| *seq);
                    let seq = returned.unwrap_or_else(|| {
                        model.fresh += 1;
                        model.fresh - 1
                    });
                    let deadline = now + rng.below(60) as Millis;
                    let holder = rng.below(3);
                    tokens += 1;
                    let grant =
                        Grant { seq, bytes: 10, volatile: false, token: LeaseToken(tokens), claimer: 0 };
                    let job = model.jobs.entry(seq).or_insert(Modelled { is: Is::Ready, deliveries: 0 });
                    job.deliveries += 1;
                    job.is = Is::Leased { node, token: tokens, deadline, holder };
                    let terms = Terms { node: name(node), at: deadline + 1, holder };
                    assert_eq!(queue.lease(&grant, &terms), job.deliveries, "{}", at());
                }
                4 | 5 => {
                    assert_eq!(queue.ack(seq, &name(node), token), model.ack(seq, node, fence), "{}", at())
                }
                6 => {
                    let delay = rng.below(2) * rng.below(50);
                    let until = now + delay as Millis;
                    let ready_at = (delay > 0).then_some(until);
                    let held = leased_to(&model);
                    assert_eq!(queue.nack(seq, &name(node), token, ready_at), held, "{}", at());
                    if held {
                        let is = if delay > 0 { Is::Delayed { until } } else { Is::Ready };
                        model.jobs.get_mut(&seq).expect("held").is = is;
                    }
                }
                7 => {
                    let until = now + rng.below(80) as Millis;
                    let held = leased_to(&model);
                    assert_eq!(queue.extend(seq, &name(node), token, until + 1), held, "{}", at());
                    if let Some(Is::Leased { deadline, .. }) =
                        model.jobs.get_mut(&seq).filter(|_| held).map(|job| &mut job.is)
                    {
                        *deadline = until;
                    }
                }
                8 => {
                    let last = seq + rng.below(4);
                    queue.leave(seq, last);
                    model.remove(&(seq..=last).collect::<Vec<_>>(), false);
                }
                9 => {
                    for seq in model.commit() {
                        queue.remove(seq, seq);
                    }
                }
                10 => {
                    let holder = 1 + rng.below(2);
                    queue.release(holder);
                    for job in model.jobs.values_mut() {
                        if matches!(job.is, Is::Leased { holder: by, .. } if by == holder) {
                            job.is = Is::Ready;
                        }
                    }
                }
                _ => {
                    if let Some((seq, _)) = expected.first() {
                        assert!(queue.begin_move(*seq));
                        model.jobs.get_mut(seq).expect("ready").is = Is::Moving;
                    }
                    let moving: Vec<Seq> = model
                        .jobs
                        .iter()
                        .filter(|(_, job)| job.is == Is::Moving)
                        .map(|(seq, _)| *seq)
                        .collect();
                    for seq in moving {
                        match rng.below(3) {
                            0 => {
                                queue.move_failed(seq);
                                model.jobs.get_mut(&seq).expect("moving").is = Is::Ready;
                            }
                            1 => {
                                assert_eq!(queue.move_done(seq), Some((10, false)), "{}", at());
                                model.remove(&[seq], true);
                            }
                            _ => {}
                        }
                    }
                }
            }
            assert_eq!(queue.counts(), model.held(), "{}", at());
            for holder in 1..3 {
                let held = model
                    .jobs
                    .values()
                    .filter(|job| matches!(job.is, Is::Leased { holder: by, .. } if by == holder))
                    .count();
                assert_eq!(queue.held_by(holder) as usize, held, "{}", at());
            }
        }
        assert!(queue.timers.len() <= 2 * queue.known() + SLACK + 1, "timers are cleaned");
        while !model.leaving.is_empty() {
            model.commit().into_iter().for_each(|seq| queue.remove(seq, seq));
        }
        queue.remove_through(model.fresh);
        queue.notice(Millis::MAX);
        assert_eq!((queue.counts(), queue.known()), (Held::default(), 0), "seed {seed}: nothing is left");
    }
}

/// I-85, I-90: what is stored makes the same table again, in whatever order it came.
#[test]
fn a_table_is_restored_from_what_is_stored() {
    let mut queue = Queue::default();
    let grant = |seq, volatile| Grant { seq, bytes: 5, volatile, token: LeaseToken(seq.into()), claimer: 0 };
    let terms = |holder| Terms { node: name(1), at: 100, holder };
    queue.lease(&grant(1, false), &terms(0));
    queue.lease(&grant(2, false), &terms(0));
    queue.lease(&grant(3, false), &terms(7));
    queue.lease(&grant(4, true), &terms(0));
    queue.lease(&grant(5, false), &terms(0));
    assert!(queue.nack(2, &name(1), None, Some(50)));
    assert_eq!(queue.ack(5, &name(1), None), Acked::Delete { bytes: 5, volatile: false });
    let stored = queue.all_stored();
    let seen: Vec<(Seq, JobState)> = stored.iter().map(|job| (job.seq, job.state)).collect();
    // A stream's lease ends with the process; what only memory holds is not kept; an ack that is
    // not durable leaves the lease.
    let expected =
        [(1, JobState::Leased), (2, JobState::Delayed), (3, JobState::Ready), (5, JobState::Leased)];
    assert_eq!(seen, expected);
    let mut again = Queue::default();
    for job in stored.iter().rev().chain(&stored) {
        again.restore(job.clone());
    }
    assert_eq!(again.all_stored(), stored);
    assert_eq!(again.counts(), Held { leased: 2, delayed: 1 });
    again.notice(100);
    assert_eq!(again.returned().map(|(seq, _)| seq).collect::<Vec<_>>(), [1, 2, 3, 5]);
}
