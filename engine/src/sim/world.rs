//! The shards and the model side by side: every operation goes to both, and the answers are compared.
//! Lives here: the state of both, and which operation is whose. In `topics`: what happens to topics and records;
//! `jobs`: queues; `mesh`: routers; `verify`: looks at everything, crashes and starts.

use super::mesh::Mesh;
use super::model::Topic;
use super::op::Op;
use super::plan::{self, Setup};
use super::rig::{Ask, Outcome, Rec, Rig, broken};
use super::{Report, Stop, Violation};
use crate::config::Class;
use crate::disk::sim::Crash;
use crate::error::EngineError;
use crate::ids::RouterId;
use crate::queue::LeaseToken;
use crate::router::RouterDef;
use crate::shard::{ReadRequest, TagMatch};
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
    pub(super) instances: u64,
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
    pub(super) fn has_cause(&self, error: &EngineError) -> bool {
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
                self.rig.pass(ms);
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
            self.rig.pass(self.setup.segment_max_age_ms + 1);
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
}
