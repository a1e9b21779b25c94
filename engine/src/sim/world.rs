//! The shards and the model side by side: every operation goes to both, and the answers are compared.
//! Lives here: what happens to topics and records. In `jobs`: queues; `mesh`: routers; `verify`: looks at
//! everything, crashes and starts.

use super::mesh::Mesh;
use super::model::Topic;
use super::op::Op;
use super::plan::{self, Setup};
use super::rig::{Ask, Bring, Outcome, Rec, Rig, broken};
use super::{Report, Stop, Violation};
use crate::config::{Class, Discard, TopicConfig};
use crate::disk::sim::Crash;
use crate::error::EngineError;
use crate::ids::RouterId;
use crate::queue::LeaseToken;
use crate::router::RouterDef;
use crate::shard::{Appended, ReadRequest, TagMatch};
use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

/// Crashes that one operation may end in.
const CRASHES_MAX: usize = 4;

/// How much an acknowledgement is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Strength {
    Nothing,
    Kill,
    PowerLoss,
}

pub(super) fn strength(class: Class) -> Strength {
    match class {
        Class::Ephemeral | Class::Memory => Strength::Nothing,
        Class::Disk => Strength::Kill,
        Class::Fsync => Strength::PowerLoss,
    }
}

/// What an operation left of a topic.
pub(super) struct Step {
    /// Acknowledged when this block of the topic's shard is committed.
    pub(super) wait: u64,
    pub(super) strength: Strength,
    pub(super) what: String,
    pub(super) after: Option<Rc<Topic>>,
}

/// A topic since the last start.
#[derive(Default)]
pub(super) struct Past {
    /// What that start showed; `None`: there was no such topic.
    pub(super) base: Option<Rc<Topic>>,
    pub(super) steps: Vec<Step>,
}

/// The registry of routers since the last start.
#[derive(Default)]
pub(super) struct Registry {
    pub(super) base: BTreeMap<RouterId, RouterDef>,
    /// Block of the first shard, and what was in force from there on.
    pub(super) steps: Vec<(u64, BTreeMap<RouterId, RouterDef>)>,
    pub(super) now: BTreeMap<RouterId, RouterDef>,
}

pub(super) struct World {
    pub(super) rig: Rig,
    pub(super) setup: Setup,
    pub(super) report: Report,
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) pasts: BTreeMap<String, Past>,
    pub(super) routers: Registry,
    pub(super) mesh: Mesh,
    /// All lease tokens that were ever issued (I-86).
    pub(super) tokens: HashSet<LeaseToken>,
    /// How a cut that was asked for ends.
    pub(super) cut_as: Crash,
    /// The disk was told to fail, or to be full, and that may still show.
    pub(super) is_faulty: bool,
    /// Operations of the disk that had failed at the last start.
    pub(super) failed_before: u64,
    /// Syncs that had failed when the machine was started last.
    pub(super) failed_syncs: u64,
    /// A flip ended the history.
    pub(super) is_over: bool,
    instances: u64,
    serial: u64,
}

impl World {
    pub(super) fn new(rig: Rig, setup: Setup) -> World {
        World {
            rig,
            setup,
            report: Report::default(),
            topics: BTreeMap::new(),
            pasts: BTreeMap::new(),
            routers: Registry::default(),
            mesh: Mesh::default(),
            tokens: HashSet::new(),
            cut_as: Crash::Kill,
            is_faulty: false,
            failed_before: 0,
            failed_syncs: 0,
            is_over: false,
            instances: 0,
            serial: 0,
        }
    }

    /// Does one operation. A cut and a refusal that has its cause are dealt with here.
    pub(super) fn apply(&mut self, op: &Op) -> Outcome<()> {
        self.report.operations += 1;
        let halted = self.halted();
        let mut outcome = self.perform(op);
        for _ in 0..CRASHES_MAX {
            outcome = match outcome {
                Err(Stop::Cut) => {
                    self.report.cuts += 1;
                    self.crash_and_start(self.cut_as, 0, 0)
                }
                // Its log failed in the middle: what was shown then is neither before nor after. The next start
                // tells; what is shown meanwhile has rules of its own.
                Err(Stop::Broken(Violation { rule, .. }))
                    if self.is_faulty
                        && self.halted() > halted
                        && !matches!(rule.as_str(), "I-44" | "I-45") =>
                {
                    self.report.interrupted += 1;
                    self.crash_and_start(Crash::Kill, 0, 0)
                }
                Err(Stop::Refused(error)) if self.has_cause(&error) => {
                    self.report.refusals += 1;
                    Ok(())
                }
                other => {
                    outcome = other;
                    break;
                }
            }
        }
        match outcome {
            // Nothing was damaged: what cannot be read was acknowledged, and is lost.
            Err(Stop::Refused(EngineError::Unreadable(why))) => Err(broken("I-51", format!("lost: {why}"))),
            Err(Stop::Refused(error)) => Err(broken("I-36", format!("refused without a cause: {error:?}"))),
            other => other,
        }
    }

    /// How many shards' logs have failed.
    pub(super) fn halted(&self) -> usize {
        (0..self.rig.shards.len()).filter(|shard| self.rig.is_halted(*shard)).count()
    }

    /// Whether something that happened explains a refusal that the model does not work out.
    fn has_cause(&self, error: &EngineError) -> bool {
        match error {
            EngineError::LogFull => true,
            // What a failed log took and never committed still counts until the next start.
            EngineError::QuotaFull { .. } => self.halted() > 0,
            EngineError::NoLogFile(_) | EngineError::Halted(_) | EngineError::Unreadable(_) => self.is_faulty,
            _ => false,
        }
    }

    fn perform(&mut self, op: &Op) -> Outcome<()> {
        match *op {
            Op::Append { topic, records, bytes, style, key, config } => {
                let name = self.setup.name(topic);
                let config = self.setup.config(config, &name);
                let class = self.topics.get(&name).map_or(config.class, |topic| topic.config.class);
                let records = self.recs(records.clamp(1, 200), bytes.min(900_000), style);
                // Keys of class `ephemeral` are nobody's promise after a restart (I-72).
                let key = (key > 0 && class != Class::Ephemeral).then(|| format!("{name}{key}").into_bytes());
                let ask = Ask { key: key.as_deref(), create: Some(true), config: Some(&config) };
                self.append(&name, &records, ask).map(drop)
            }
            Op::Delete { topic, back, tag } => {
                let name = self.setup.name(topic);
                let head = self.topics.get(&name).map_or(0, |topic| topic.head);
                let before = (back > 0).then(|| (head + 2).saturating_sub(back));
                let text = plan::TAGS[tag as usize % plan::TAGS.len()].as_bytes().to_vec();
                let matcher = match tag {
                    0 if before.is_some() => None,
                    _ if tag % 2 == 1 => Some(TagMatch::Prefix(text)),
                    _ => Some(TagMatch::Eq(text)),
                };
                self.delete(&name, before, matcher)
            }
            Op::Put { topic, config } => {
                let name = self.setup.name(topic);
                let same = self.topics.get(&name).filter(|_| config == 0).map(|topic| topic.config.clone());
                let config = same.unwrap_or_else(|| self.setup.config(config, &name));
                self.put(&name, &config)
            }
            Op::Drop { topic, if_empty } => {
                self.drop_with_routers(&self.setup.name(topic), if_empty % 2 == 1)
            }
            Op::Read { topic, back, limit, bytes, skip } => {
                self.rig.settle()?;
                let name = self.setup.name(topic);
                let head = self.topics.get(&name).map_or(0, |topic| topic.head);
                let nodes: Vec<&[u8]> = (0..3)
                    .filter(|bit| skip >> bit & 1 == 1)
                    .map(|bit| plan::NODES[bit].as_bytes())
                    .collect();
                let skips = |node: &[u8]| nodes.contains(&node);
                let request = ReadRequest {
                    from_seq: (head + 1).saturating_sub(back),
                    limit: limit.clamp(1, 1000) as u32,
                    max_bytes: if bytes == 0 { 1 << 20 } else { bytes },
                    skip_node: if nodes.is_empty() { None } else { Some(&skips) },
                };
                self.read(&name, &request)
            }
            Op::Check {} => self.check(),
            Op::Advance { ms } => {
                // Time passes only while nothing is under way, so that the model knows what is shown.
                self.rig.settle()?;
                self.rig.now += ms as i64;
                Ok(())
            }
            Op::Rewind { ms } => {
                self.rig.settle()?;
                let now = self.rig.now;
                let ends = self.topics.values().map(|topic| topic.no_earlier_than(now));
                self.rig.now = (now - ms as i64).max(ends.max().unwrap_or(0)).max(1);
                Ok(())
            }
            Op::Turn { count } => (0..count.min(200)).try_for_each(|_| self.rig.step(count % 2 == 1)),
            Op::Settle {} => self.rig.settle(),
            Op::Seal {} => self.seal(),
            Op::Route { source, dest, style } => self.route(source, dest, style),
            Op::Reroute { router, style } => self.reroute(router, style),
            Op::Unroute { router } => self.unroute(router),
            Op::Pump { router, records } => self.pump(router, records),
            Op::Deliver { count } => self.deliver(count),
            Op::Flow {} => self.flow(),
            Op::Claim { topic, node, claimers, max, lease, holder } => {
                self.claim(&self.setup.name(topic), node, claimers, max, lease, holder)
            }
            Op::Ack { topic, node, first, jobs, fence } => {
                let named = self.named(&self.setup.name(topic), first, jobs, fence);
                self.ack(&self.setup.name(topic), node, &named)
            }
            Op::Nack { topic, node, first, jobs, fence, delay } => {
                let named = self.named(&self.setup.name(topic), first, jobs, fence);
                self.nack(&self.setup.name(topic), node, &named, delay)
            }
            Op::Extend { topic, node, first, jobs, fence, lease } => {
                let named = self.named(&self.setup.name(topic), first, jobs, fence);
                self.extend(&self.setup.name(topic), node, &named, lease)
            }
            Op::Release { topic, holder } => self.release(&self.setup.name(topic), holder),
            Op::Stop { shards, cuts } => self.stop_and_start(shards, cuts),
            Op::Kill { shards, cuts } => self.crash_and_start(Crash::Kill, shards, cuts),
            Op::PowerLoss { shards, cuts } => self.crash_and_start(Crash::PowerLoss, shards, cuts),
            Op::Cut { count, power } => {
                self.cut_as = if power == 1 { Crash::PowerLoss } else { Crash::Kill };
                self.rig.disk.cut_after(count.max(1));
                Ok(())
            }
            Op::FailWrite { nth } => self.fault(|disk| disk.fail_nth_write(nth)),
            Op::FailSync { nth } => self.fault(|disk| disk.fail_nth_sync(nth)),
            Op::FailRead { nth } => self.fault(|disk| disk.fail_nth_read(nth)),
            Op::FailName { nth } => self.fault(|disk| disk.fail_nth_name(nth)),
            Op::Full { kib } => self.fault(|disk| disk.full_after_bytes(kib << 10)),
            Op::Room {} => {
                self.rig.disk.lift_full();
                Ok(())
            }
            Op::Flip { file, byte, bit } => self.flip(file, byte, bit),
        }
    }

    fn fault(&mut self, order: impl FnOnce(&mut crate::disk::sim::SimDisk)) -> Outcome<()> {
        order(&mut self.rig.disk);
        self.is_faulty = true;
        self.report.faults += 1;
        Ok(())
    }

    fn seal(&mut self) -> Outcome<()> {
        for _ in 0..3 {
            self.rig.settle()?;
            self.rig.now += self.setup.segment_max_age_ms as i64 + 1;
        }
        self.rig.settle()
    }

    /// Records with contents that no others have.
    fn recs(&mut self, count: u64, bytes: u64, style: u64) -> Vec<Rec> {
        let rec = |index: u64| {
            self.serial += 1;
            let serial = self.serial;
            let mut data = format!("{serial:08}").into_bytes();
            while data.len() < bytes as usize {
                let more = (bytes as usize - data.len()).min(data.len());
                data.extend_from_within(..more);
            }
            let has = |bit: u64| style & bit != 0 && (index + serial).is_multiple_of(3);
            Rec {
                data,
                meta: has(1).then(|| b"{\"m\":1}".to_vec()),
                tag: (style & 2 != 0 && !serial.is_multiple_of(3))
                    .then(|| plan::TAGS[(serial / 3) as usize % plan::TAGS.len()].into()),
                node: has(4).then(|| plan::NODES[(serial / 3) as usize % plan::NODES.len()].into()),
            }
        };
        (0..count).map(rec).collect()
    }

    /// The topic as it is now is what an operation left, which counts when `wait` is committed.
    pub(super) fn note(&mut self, name: &str, wait: u64, strength: Strength, what: impl Into<String>) {
        let after = self.topics.get(name).cloned().map(Rc::new);
        let past = self.pasts.entry(name.to_owned()).or_default();
        past.steps.push(Step { wait, strength, what: what.into(), after });
    }

    /// Whatever looks at a topic lets it expire; the mark may survive a crash, or not.
    pub(super) fn expire(&mut self, name: &str) {
        let now = self.rig.now;
        let Some(topic) = self.topics.get_mut(name) else { return };
        let before = topic.floor();
        topic.expire(now);
        if topic.floor() != before {
            self.note(name, 0, Strength::Nothing, "expiry");
        }
    }

    /// Whether the quota takes so many bytes more; without one it takes all.
    pub(super) fn quota_room(&self) -> u64 {
        match self.rig.quota_bytes {
            0 => u64::MAX,
            max => max.saturating_sub(self.topics.values().map(|topic| topic.bytes).sum()),
        }
    }

    /// Whether writes to a topic are refused because its log ended; then it is seen that they are (I-45).
    pub(super) fn is_halted(&mut self, name: &str) -> Outcome<bool> {
        let home = self.rig.home(name);
        if !self.rig.is_halted(home) {
            return Ok(false);
        }
        if self.topics.get(name).is_some_and(|topic| topic.config.class > Class::Ephemeral) {
            let rec = Rec { data: b"0".to_vec(), ..Rec::default() };
            match self.rig.append(name, &[rec], Ask::default()) {
                Ok(taken) => return Err(broken("I-45", format!("{name} took {taken:?} after a failure"))),
                Err(Stop::Refused(_)) => self.report.refusals += 1,
                Err(stop) => return Err(stop),
            }
        }
        Ok(true)
    }

    /// What an append of these records must be refused with.
    fn refusal(
        &self,
        config: &TopicConfig,
        topic: Option<&Topic>,
        count: u64,
        bytes: u64,
    ) -> Option<EngineError> {
        let over = |cap: u64, amount: u64| cap != 0 && amount > cap;
        if config.discard == Discard::Reject {
            if over(config.cap_bytes, bytes) || over(config.cap_records, count) {
                return Some(EngineError::BatchOverCap);
            }
            let (held, held_bytes) = topic.map_or((0, 0), |topic| (topic.count(), topic.bytes));
            if over(config.cap_records, held + count) || over(config.cap_bytes, held_bytes + bytes) {
                return Some(EngineError::TopicFull {
                    cap_records: config.cap_records,
                    cap_bytes: config.cap_bytes,
                    head_seq: topic.map_or(0, |topic| topic.head),
                    earliest_seq: topic.map_or(1, Topic::earliest),
                });
            }
        }
        (bytes > self.quota_room() && self.halted() == 0)
            .then_some(EngineError::QuotaFull { max: self.rig.quota_bytes })
    }

    /// Appends; `None` if that was refused, as the rules demand.
    pub(super) fn append(&mut self, name: &str, records: &[Rec], ask: Ask<'_>) -> Outcome<Option<Appended>> {
        if self.is_halted(name)? {
            return Ok(None);
        }
        let now = self.rig.now;
        if let Some(topic) = self.topics.get(name) {
            let found = ask.key.and_then(|key| topic.keys.get(key)).copied();
            let window = topic.config.idempotency_window_ms as i64;
            if let Some((first, count, _)) = found.filter(|found| now - found.2 <= window) {
                let answer = self.rig.append(name, records, ask)?;
                if !answer.deduped {
                    return Err(broken("I-72", format!("key {:?} of {name} was forgotten", ask.key)));
                }
                self.report.deduped += 1;
                if (answer.first_seq, answer.count, answer.created) != (first, count, false) {
                    return Err(broken("I-72", format!("{answer:?} instead of {count} from {first}")));
                }
                return Ok(Some(answer));
            }
        }
        // A retry by key looks at no record.
        self.expire(name);
        let bytes: u64 = records.iter().map(Rec::bytes).sum();
        let existing = self.topics.get(name);
        let config =
            existing.map_or_else(|| ask.config.cloned().unwrap_or_default(), |topic| topic.config.clone());
        let refusal = self.refusal(&config, existing, records.len() as u64, bytes);
        let mut answer = self.rig.append(name, records, ask);
        if refusal.is_none() && matches!(answer, Err(Stop::Refused(EngineError::QuotaFull { .. }))) {
            // What has expired counts until somebody looks (I-105): retries by key do not.
            for name in self.rig.list()? {
                self.expire(&name);
                self.rig.state(&name)?;
            }
            answer = self.rig.append(name, records, ask);
        }
        let answer = match (answer, refusal) {
            (Ok(answer), None) => answer,
            (Ok(answer), Some(refusal)) => {
                return Err(broken("I-35", format!("{name} took {answer:?} instead of {refusal:?}")));
            }
            (Err(Stop::Refused(error)), Some(refusal)) if refuses_alike(&error, &refusal) => {
                self.report.refusals += 1;
                return Ok(None);
            }
            (Err(Stop::Refused(error)), _) if !self.has_cause(&error) => {
                return Err(broken("I-36", format!("{name} refused {error:?}")));
            }
            (Err(stop), _) => return Err(stop),
        };
        let created = !self.topics.contains_key(name);
        if created {
            self.instances += 1;
            self.topics.insert(name.to_owned(), Topic::new(self.instances, config));
        }
        let topic = self.topics.get_mut(name).expect("just made sure");
        let expected = (topic.head + 1, records.len() as u32, created, false);
        if (answer.first_seq, answer.count, answer.created, answer.deduped) != expected {
            let rule = if answer.deduped { "I-70" } else { "I-2" };
            return Err(broken(rule, format!("{name}: {answer:?} instead of {expected:?}")));
        }
        records.iter().for_each(|rec| topic.push(rec.clone(), now, 0));
        if let Some(key) = ask.key {
            topic.keys.insert(key.to_vec(), (answer.first_seq, answer.count, now));
        }
        topic.evict();
        let strength = strength(topic.config.class);
        self.report.records += records.len() as u64;
        self.note(
            name,
            answer.wait.0,
            strength,
            format!("append {}..={}", answer.first_seq, answer.last_seq()),
        );
        Ok(Some(answer))
    }

    /// A router's copies arrive.
    pub(super) fn forward(&mut self, name: &str, bring: &Bring) -> Outcome<u64> {
        self.expire(name);
        let now = self.rig.now;
        let topic = &self.topics[name];
        let link = topic.links[&bring.router];
        let config = topic.config.clone();
        let (mut count, mut bytes, mut room) = (topic.count(), topic.bytes, self.quota_room());
        let fits = |rec: &&Rec| {
            (count, bytes) = (count + 1, bytes + rec.bytes());
            let within = room >= rec.bytes();
            room = room.saturating_sub(rec.bytes());
            within
                && (config.discard == Discard::Old
                    || (config.cap_records == 0 || count <= config.cap_records)
                        && (config.cap_bytes == 0 || bytes <= config.cap_bytes))
        };
        let taken = bring.records.iter().take_while(fits).count();
        let stalled = taken == 0 && !bring.records.is_empty();
        let counted = if stalled { 0 } else { bring.vacant + taken as u64 };
        let position = match taken {
            _ if taken == bring.records.len() => bring.end,
            0 => bring.from,
            _ => bring.through[taken - 1],
        };
        let home = self.rig.home(name);
        let answer = self.rig.forward(home, bring)?;
        let found = (answer.taken as usize, answer.full, answer.position, answer.forwarded_total);
        let expected = (taken, taken < bring.records.len(), position, link.total + counted);
        if answer.taken == 0 && config.class == Class::Ephemeral && !bring.records.is_empty() {
            return Ok(answer.position); // its memory is used up
        }
        if found != expected {
            return Err(broken("I-60", format!("{name}: {found:?} instead of {expected:?} for {bring:?}")));
        }
        let heap = config.class == Class::Ephemeral;
        let topic = self.topics.get_mut(name).expect("it exists");
        let link = topic.links.get_mut(&bring.router).expect("it exists");
        (link.position, link.total) = (answer.position, answer.forwarded_total);
        if !heap && counted > 0 {
            link.logged = Some((link.position, link.total));
        }
        if counted > 0 {
            topic.push_vacant(bring.vacant);
            bring.records[..taken].iter().for_each(|rec| topic.push(rec.clone(), now, bring.hops));
            topic.evict();
        }
        self.report.copies += taken as u64;
        // What only moves the position is no promise.
        let strength = if counted > 0 { strength(config.class) } else { Strength::Nothing };
        self.note(name, answer.wait.0, strength, format!("{taken} copies behind {}", bring.vacant));
        Ok(answer.position)
    }

    pub(super) fn put(&mut self, name: &str, config: &TopicConfig) -> Outcome<()> {
        if self.is_halted(name)? {
            return Ok(());
        }
        let changes = self.topics.get(name).is_none_or(|topic| topic.config != *config);
        let (created, wait) = self.rig.put(name, config)?;
        if created == self.topics.contains_key(name) {
            return Err(broken("I-50", format!("put of {name} created: {created}")));
        }
        if created {
            self.instances += 1;
            self.topics.insert(name.to_owned(), Topic::new(self.instances, config.clone()));
        } else if changes {
            let now = self.rig.now;
            let topic = self.topics.get_mut(name).expect("it exists");
            topic.config = config.clone();
            topic.evict();
            topic.logged_head = topic.head;
            topic.heap_seen |= config.class == Class::Ephemeral;
            self.note(name, wait, Strength::PowerLoss, "put");
            self.topics.get_mut(name).expect("it exists").expire(now);
            self.note(name, 0, Strength::Nothing, "expiry after put");
            // Where the disk would have to tell, a tightened age limit waits for the next access (CF-14): this.
            return self.rig.state(name).map(drop);
        }
        self.note(name, wait, Strength::PowerLoss, "put");
        Ok(())
    }

    pub(super) fn drop_topic(&mut self, name: &str, if_empty: bool) -> Outcome<()> {
        if self.is_halted(name)? {
            return Ok(());
        }
        if if_empty {
            self.expire(name);
        }
        let full = if_empty && self.topics.get(name).is_some_and(|topic| topic.count() > 0);
        match self.rig.drop_topic(name, if_empty) {
            Err(Stop::Refused(EngineError::NotEmpty { count })) if full => {
                let expected = self.topics[name].count();
                match count == expected {
                    true => Ok(()),
                    false => Err(broken("I-8", format!("{name} holds {count}, not {expected}"))),
                }
            }
            Err(stop) => Err(stop),
            Ok((dropped, _)) if full || dropped != self.topics.contains_key(name) => {
                Err(broken("I-50", format!("drop of {name}, if_empty {if_empty}: {dropped}")))
            }
            Ok((_, wait)) => {
                self.topics.remove(name);
                self.note(name, wait, Strength::PowerLoss, "drop");
                Ok(())
            }
        }
    }

    fn delete(&mut self, name: &str, before: Option<u64>, matcher: Option<TagMatch>) -> Outcome<()> {
        if self.is_halted(name)? {
            return Ok(());
        }
        if !self.topics.contains_key(name) {
            return absent(name, self.rig.delete(name, before, matcher));
        }
        self.expire(name);
        let now = self.rig.now;
        self.topics.get_mut(name).expect("it exists").notice(now);
        let (shown_head, deleted) = self.rig.delete(name, before, matcher.clone())?;
        let topic = self.topics.get_mut(name).expect("it exists");
        let through = shown_head.min(before.unwrap_or(u64::MAX).saturating_sub(1));
        let chosen = |tag: Option<&[u8]>| matcher.as_ref().is_none_or(|matcher| matcher.matches(tag));
        let gone: Vec<u64> = topic
            .live
            .range(..=through)
            .filter(|(_, stored)| chosen(stored.rec.tag.as_deref()))
            .map(|(seq, _)| *seq)
            .collect();
        gone.iter().for_each(|seq| topic.remove(*seq));
        let expected = (gone.len() as u64, topic.earliest(), topic.head, topic.count(), topic.bytes);
        let answer = (deleted.deleted, deleted.earliest_seq, deleted.head_seq, deleted.count, deleted.bytes);
        if answer != expected {
            let what = format!("below {before:?}, {matcher:?}");
            return Err(broken("I-27", format!("{name}: {answer:?} instead of {expected:?}, {what}")));
        }
        let strength = strength(topic.config.class);
        self.report.deleted += gone.len() as u64;
        self.note(name, deleted.wait.0, strength, format!("delete of {}", gone.len()));
        Ok(())
    }

    /// Reads at a cursor and compares with what §5 demands. Everything must have settled.
    fn read(&mut self, name: &str, request: &ReadRequest<'_>) -> Outcome<()> {
        if self.rig.is_halted(self.rig.home(name)) {
            return Ok(()); // what is shown of it is checked at the next start
        }
        if !self.topics.contains_key(name) {
            return absent(name, self.rig.read(name, request));
        }
        self.expire(name);
        let (outcome, seen) = self.rig.read(name, request)?;
        let topic = &self.topics[name];
        let expected = topic.page(request);
        let what = || format!("{name}, {request:?}: {outcome:?} instead of {expected:?}");
        if !seen.iter().map(|seen| seen.seq).eq(expected.seqs.iter().copied()) {
            return Err(broken("I-26", what()));
        }
        for seen in &seen {
            topic.check_record(seen).map_err(|(rule, text)| broken(rule, format!("{name}: {text}")))?;
        }
        if outcome.tombstone != expected.tombstone {
            return Err(broken("I-22", what()));
        }
        if (outcome.next_from_seq, outcome.examined) != (expected.next, expected.examined) {
            return Err(broken("I-42", what()));
        }
        let numbers = (outcome.head_seq, outcome.earliest_seq, outcome.delivered as usize);
        if numbers != (topic.head, topic.earliest(), expected.seqs.len()) {
            return Err(broken("I-47", what()));
        }
        self.report.reads += 1;
        Ok(())
    }
}

/// An absent topic is answered as such.
fn absent<T: std::fmt::Debug>(name: &str, answer: Outcome<T>) -> Outcome<()> {
    match answer {
        Err(Stop::Refused(EngineError::TopicMissing)) => Ok(()),
        Ok(answer) => Err(broken("I-70", format!("{name} does not exist, and answers {answer:?}"))),
        Err(stop) => Err(stop),
    }
}

/// Whether two refusals are the same, but for the first live position, which may not be published yet.
fn refuses_alike(error: &EngineError, expected: &EngineError) -> bool {
    match (error, expected) {
        (
            EngineError::TopicFull { cap_records, cap_bytes, head_seq, earliest_seq },
            EngineError::TopicFull {
                cap_records: records,
                cap_bytes: bytes,
                head_seq: head,
                earliest_seq: earliest,
            },
        ) => (cap_records, cap_bytes, head_seq) == (records, bytes, head) && earliest_seq <= earliest,
        _ => error == expected,
    }
}
