//! Queues in the simulation: claims and what their holders say, beside the model.
//! Everything is at rest before a call and waited for after it, so the model is exact; a cut falls into the
//! waits.

use super::Stop;
use super::model::{Is, Job};
use super::rig::{Ask, GAVE_UP, Outcome, Rec, broken, seen_of};
use super::world::{Strength, World, strength};
use crate::config::TopicType;
use crate::error::EngineError;
use crate::queue::LeaseToken;
use crate::shard::{Claimer, Named, QueueCounts, Settled};

/// What a claim gave for one job: seq, claimer, token, deadline, deliveries.
type Got = (u64, usize, LeaseToken, i64, u32);

fn node(number: u64) -> &'static str {
    ["w0", "w1", "w2"][number as usize % 3]
}

impl World {
    /// Lets everything come to rest and brings the model of a queue up to date; false: there is none.
    fn at_rest(&mut self, name: &str) -> Outcome<bool> {
        if self.is_halted(name)?
            || self.topics.get(name).is_none_or(|topic| topic.config.kind != TopicType::Queue)
        {
            return Ok(false);
        }
        self.rig.settle()?;
        self.expire(name);
        let now = self.rig.now;
        self.topics.get_mut(name).expect("just seen").notice(now);
        Ok(true)
    }

    /// What a call did to leases: a step that a crash keeps if leases are durable.
    fn note_jobs(&mut self, name: &str, wait: u64, what: String) -> Outcome<()> {
        let config = &self.topics[name].config;
        let strength = if config.leases_durable { strength(config.class) } else { Strength::Nothing };
        self.note(name, wait, strength, what);
        self.rig.wait(self.rig.home(name), wait)
    }

    fn counts_are(&self, name: &str, counts: QueueCounts) -> Outcome<()> {
        let expected = self.topics[name].counts();
        match counts == expected {
            true => Ok(()),
            false => Err(broken("I-88", format!("{name}: {counts:?} instead of {expected:?}"))),
        }
    }

    pub(super) fn claim(
        &mut self,
        name: &str,
        first_node: u64,
        claimers: u64,
        max: u64,
        lease: u64,
        holder: u64,
    ) -> Outcome<()> {
        if !self.at_rest(name)? {
            return Ok(());
        }
        let many = claimers.clamp(1, 3);
        let (max, lease_ms) = (max.clamp(1, 1000) as u32, 100 + lease);
        let asks: Vec<(&str, u32)> = (0..many).map(|index| (node(first_node + index), max)).collect();
        let mut divert = true;
        let (got, counts, wait) = loop {
            let claimers: Vec<Claimer<'_>> = asks
                .iter()
                .map(|(node, max)| Claimer {
                    node: node.as_bytes(),
                    max: *max,
                    lease_ms: Some(lease_ms),
                    holder,
                })
                .collect();
            let (home, topic) = (self.rig.home(name), name.as_bytes());
            let (claimed, got) = self.rig.repeat(home, |shard, now| {
                let mut got: Vec<Got> = Vec::new();
                let claimed = shard.claim(topic, &claimers, divert, now, |claimer, job| {
                    got.push((job.record.seq, claimer, job.token, job.deadline, job.deliveries));
                })?;
                Ok((claimed, got))
            })?;
            if claimed.dead.is_empty() {
                break (got, claimed.counts, claimed.wait.0);
            }
            divert = self.divert(name, &claimed.dead)?;
            // Waiting for the copies took time: leases have ended meanwhile.
            if !self.at_rest(name)? {
                return Ok(());
            }
        };
        let now = self.rig.now;
        let topic = self.topics.get_mut(name).expect("a queue");
        let limit = match (&topic.config.dead_letter, topic.config.max_deliveries) {
            (Some(_), max) if max > 0 => max as u32,
            _ => u32::MAX,
        };
        // one job each in turn until demand or supply ends.
        let able = topic.ready().into_iter().filter(|(_, deliveries)| *deliveries < limit);
        let demand = max as usize * asks.len();
        let mut expected: Vec<(u64, usize, u32)> = able
            .take(demand)
            .enumerate()
            .map(|(index, (seq, deliveries))| (seq, index % asks.len(), deliveries + 1))
            .collect();
        let seen: Vec<(u64, usize, u32)> =
            got.iter().map(|(seq, by, _, _, times)| (*seq, *by, *times)).collect();
        // Sealed jobs larger than the cache come in several claims.
        if topic.is_large && !seen.is_empty() && seen.len() < expected.len() {
            expected.truncate(seen.len());
        }
        if seen != expected {
            return Err(broken("I-81", format!("{name}: claimed {seen:?} instead of {expected:?}")));
        }
        for (seq, by, token, deadline, deliveries) in got {
            if !self.tokens.insert(token) {
                return Err(broken("I-86", format!("{token:?} of {name}/{seq} was issued before")));
            }
            if deadline != now + lease_ms as i64 {
                return Err(broken("I-80", format!("{name}/{seq} is leased until {deadline}")));
            }
            let is = Is::Leased { node: asks[by].0.to_owned(), token, at: deadline + 1, holder };
            let logged = if holder == 0 { is.clone() } else { Is::Ready };
            topic.jobs.insert(seq, Job { is, logged, deliveries, is_back: false });
        }
        self.report.claims += seen.len() as u64;
        self.counts_are(name, counts)?;
        self.note_jobs(name, wait, format!("claim of {}", seen.len()))
    }

    /// Moves jobs that were delivered too often (I-83): copied, waited for, and only then removed. False:
    /// they could not be copied.
    fn divert(&mut self, name: &str, dead: &[u64]) -> Outcome<bool> {
        let home = self.rig.home(name);
        let queue = &self.topics[name];
        let wrong = |seq: &&u64| {
            queue.jobs.get(seq).is_none_or(|job| {
                job.is != Is::Ready || u64::from(job.deliveries) < queue.config.max_deliveries
            })
        };
        if let Some(seq) = dead.iter().find(wrong) {
            return Err(broken("I-83", format!("{name}/{seq} is no dead letter: {:?}", queue.jobs.get(seq))));
        }
        let topic = self.rig.find(name).expect("a queue");
        let letters = self.setup.dead_letters();
        for seq in dead {
            let found = self.rig.repeat(home, |shard, _| {
                let mut rec = Rec::default();
                let found = shard.dead_letter(topic, *seq, |record| rec = seen_of(record).rec)?;
                Ok(found.then_some(rec))
            })?;
            let Some(rec) = found else {
                return Err(broken("I-83", format!("{name}/{seq} is gone while it moves")));
            };
            let config = self.setup.config(1, &letters);
            let ask = Ask { create: Some(true), config: Some(&config), key: None };
            let there = self.rig.home(&letters);
            let copied = match self.append(&letters, &[rec], ask) {
                Ok(Some(answer)) => self.rig.wait(there, answer.wait.0),
                Ok(None) => Err(Stop::Refused(EngineError::LogFull)),
                Err(stop) => Err(stop),
            };
            match copied {
                Ok(()) => {}
                Err(Stop::Refused(_)) => {
                    self.rig.shards[home].dead_letters_failed(topic, dead);
                    return Ok(false);
                }
                Err(stop) => return Err(stop),
            }
        }
        let wait = self.rig.repeat(home, |shard, _| shard.dead_letters_done(topic, dead))?;
        let queue = self.topics.get_mut(name).expect("a queue");
        for seq in dead {
            queue.remove(*seq);
        }
        queue.dead_lettered += dead.len() as u64;
        let strength = strength(queue.config.class);
        self.report.dead_letters += dead.len() as u64;
        self.note(name, wait.0, strength, format!("{} dead letters", dead.len()));
        self.rig.wait(home, wait.0)?;
        self.rig.settle()?;
        Ok(true)
    }

    /// Jobs as a worker names them: known ones from the `first` on, or any.
    pub(super) fn named(&self, name: &str, first: u64, jobs: u64, fence: u64) -> Vec<Named> {
        let Some(topic) = self.topics.get(name) else { return Vec::new() };
        let mut known: Vec<u64> = topic.jobs.keys().chain(topic.ghosts.keys()).copied().collect();
        known.sort_unstable();
        let fenced = |seq: u64| {
            let token = match (topic.jobs.get(&seq).map(|job| &job.is), topic.ghosts.get(&seq)) {
                (Some(Is::Leased { token, .. }), _) | (_, Some((_, token, _))) => *token,
                _ => LeaseToken(u128::from(seq)),
            };
            match fence % 3 {
                0 => None,
                1 => Some(Some(token)),
                _ => Some(Some(LeaseToken(token.0 ^ 1))),
            }
        };
        let many = jobs.clamp(1, 20);
        (0..many)
            .map(|index| match known.len() as u64 {
                0 => topic.head.saturating_sub(index),
                len => known[((first + index) % len) as usize],
            })
            .map(|seq| Named { seq, fence: fenced(seq) })
            .collect()
    }

    pub(super) fn ack(&mut self, name: &str, by: u64, named: &[Named]) -> Outcome<()> {
        let done = self.settle_jobs(name, by, named, Verb::Ack)?;
        self.report.acks += done;
        Ok(())
    }

    pub(super) fn nack(&mut self, name: &str, by: u64, named: &[Named], delay_ms: u64) -> Outcome<()> {
        self.settle_jobs(name, by, named, Verb::Nack { delay_ms }).map(drop)
    }

    pub(super) fn extend(&mut self, name: &str, by: u64, named: &[Named], lease: u64) -> Outcome<()> {
        self.settle_jobs(name, by, named, Verb::Extend { lease_ms: 100 + lease }).map(drop)
    }

    fn settle_jobs(&mut self, name: &str, by: u64, named: &[Named], verb: Verb) -> Outcome<u64> {
        if named.is_empty() || !self.at_rest(name)? {
            return Ok(0);
        }
        let (by, home, now) = (node(by), self.rig.home(name), self.rig.now);
        let outcome = self.rig.repeat(home, |shard, now| {
            let (mut skipped, topic, by) = (Vec::new(), name.as_bytes(), by.as_bytes());
            let settled = match verb {
                Verb::Ack => shard.ack(topic, by, named, now, &mut skipped)?,
                Verb::Nack { delay_ms } => shard.nack(topic, by, named, delay_ms, now, &mut skipped)?,
                Verb::Extend { lease_ms } => shard.extend(topic, by, named, lease_ms, now, &mut skipped)?.0,
            };
            Ok((settled, skipped))
        });
        let topic = self.topics.get_mut(name).expect("a queue");
        let (settled, skipped): (Settled, Vec<u64>) = match outcome {
            // the shard could not store it, and hands the jobs out again.
            Err(Stop::Refused(error)) if matches!(verb, Verb::Ack) && error != GAVE_UP => {
                for Named { seq, fence } in named {
                    if topic.holds(*seq, by, *fence) {
                        let job = topic.jobs.get_mut(seq).expect("it is held");
                        (job.is, job.is_back) = (Is::Ready, true);
                    }
                }
                // Nothing is logged; a checkpoint may say it.
                self.note(name, 0, Strength::Nothing, "ack refused");
                return Err(Stop::Refused(error));
            }
            outcome => outcome?,
        };
        let mut expected = Vec::new();
        for Named { seq, fence } in named {
            let held = topic.holds(*seq, by, *fence);
            let job = topic.jobs.get_mut(seq).filter(|_| held);
            match (verb, job) {
                (Verb::Ack, Some(_)) => {
                    topic.remove(*seq);
                    topic.ghosts.remove(seq);
                }
                (Verb::Ack, None) => {
                    let ours = topic.ghosts.get(seq).is_some_and(|(node, token, _)| {
                        node == by && fence.is_none_or(|fence| fence == Some(*token))
                    });
                    match ours {
                        true => drop(topic.ghosts.remove(seq)),
                        false => expected.push(*seq),
                    }
                }
                (Verb::Nack { delay_ms }, Some(job)) => {
                    job.is =
                        if delay_ms == 0 { Is::Ready } else { Is::Delayed { at: now + delay_ms as i64 } };
                    job.logged = job.is.clone();
                }
                (Verb::Extend { lease_ms }, Some(job)) => {
                    if let Is::Leased { at, holder, .. } = &mut job.is {
                        *at = now + lease_ms as i64 + 1;
                        job.logged = if *holder == 0 { job.is.clone() } else { Is::Ready };
                    }
                }
                (_, None) => expected.push(*seq),
            }
        }
        if skipped != expected {
            let what = format!("{name}: {verb:?} of {named:?} by {by} skipped {skipped:?}");
            return Err(broken("I-82", format!("{what} instead of {expected:?}")));
        }
        self.counts_are(name, settled.counts)?;
        let what = format!("{verb:?} of {}", settled.done);
        match verb {
            Verb::Ack => {
                let strength = strength(self.topics[name].config.class);
                self.note(name, settled.wait.0, strength, what);
                self.rig.wait(home, settled.wait.0)?;
            }
            _ => self.note_jobs(name, settled.wait.0, what)?,
        }
        Ok(u64::from(settled.done))
    }

    pub(super) fn release(&mut self, name: &str, holder: u64) -> Outcome<()> {
        if holder == 0 || !self.at_rest(name)? {
            return Ok(());
        }
        // Looks at no record, so nothing becomes too old by it; the model has just said so.
        self.rig.state(name)?;
        let (home, topic) = (self.rig.home(name), self.rig.find(name).expect("a queue"));
        self.rig.shards[home].release(topic, holder);
        for job in self.topics.get_mut(name).expect("a queue").jobs.values_mut() {
            if matches!(job.is, Is::Leased { holder: by, .. } if by == holder) {
                job.is = Is::Ready;
            }
        }
        Ok(())
    }
}

/// What holders say of their jobs.
#[derive(Clone, Copy, Debug)]
enum Verb {
    Ack,
    Nack { delay_ms: u64 },
    Extend { lease_ms: u64 },
}
