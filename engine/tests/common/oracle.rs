//! A plain model of topics, driven beside a shard: every operation goes to both and the answers are
//! compared; after a crash, what is there must be what some prefix of the history left, and at least
//! what was acknowledged by the class of each operation (I-50…I-58).

use super::model::{Link, Observed, Stored, Topic, agrees, brief, check_record};
use super::{Ask, Outcome, Rec, Rig, Stop, env};
use runelog_engine::config::{Class, Discard, TopicConfig};
use runelog_engine::disk::sim::Crash;
use runelog_engine::error::EngineError;
use runelog_engine::ids::RouterId;
use runelog_engine::shard::{ReadRequest, TagMatch, Tombstone, TombstoneReason};
use runelog_engine::verify::Summary;
use std::collections::BTreeMap;
use std::rc::Rc;

/// How much an acknowledgement is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    Nothing,
    Kill,
    PowerLoss,
}

fn strength(class: Class) -> Strength {
    match class {
        Class::Ephemeral | Class::Memory => Strength::Nothing,
        Class::Disk => Strength::Kill,
        Class::Fsync => Strength::PowerLoss,
    }
}

struct Step {
    name: String,
    /// Acknowledged when this block is committed.
    wait: u64,
    strength: Strength,
    what: String,
    after: Option<Topic>,
}

/// A shard and the model beside it.
pub struct World {
    pub rig: Rig,
    pub topics: BTreeMap<String, Topic>,
    /// What the last start showed; `None` where there was no such topic.
    base: BTreeMap<String, Topic>,
    steps: Vec<Step>,
    instances: u64,
    serial: u64,
    pub verified: u64,
    /// The test has damaged something: a crash may leave a disk that is not whole.
    pub flawed: bool,
    /// What was said of the disk after the crash.
    judged: Option<Summary>,
}

impl World {
    pub fn new(rig: Rig) -> World {
        World {
            rig,
            topics: BTreeMap::new(),
            base: BTreeMap::new(),
            steps: Vec::new(),
            instances: 0,
            serial: 0,
            verified: 0,
            flawed: false,
            judged: None,
        }
    }

    /// A record with contents that no other has.
    pub fn rec(&mut self, bytes: usize) -> Rec {
        self.serial += 1;
        let mut data = format!("{:08}", self.serial).into_bytes();
        while data.len() < bytes {
            let more = (bytes - data.len()).min(data.len());
            data.extend_from_within(..more);
        }
        Rec::new(data)
    }

    fn note(&mut self, name: &str, wait: u64, strength: Strength, what: impl Into<String>) {
        let after = self.topics.get(name).cloned();
        self.steps.push(Step { name: name.to_owned(), wait, strength, what: what.into(), after });
    }

    /// Whatever looks at a topic lets it expire; the mark may survive a crash, or not.
    fn expire(&mut self, name: &str) {
        let now = self.rig.now;
        let Some(topic) = self.topics.get_mut(name) else { return };
        let before = topic.floor();
        topic.expire(now);
        if topic.floor() != before {
            self.note(name, 0, Strength::Nothing, "expiry");
        }
    }

    /// Appends; the refusal if it is one that the rules demand.
    pub fn append(&mut self, name: &str, records: &[Rec], ask: Ask<'_>) -> Outcome<Option<EngineError>> {
        let now = self.rig.now;
        let count = records.len() as u64;
        let bytes: u64 = records.iter().map(Rec::bytes).sum();
        if let Some(topic) = self.topics.get(name) {
            let found = ask.key.and_then(|key| topic.keys.get(key)).copied();
            let window = topic.config.idempotency_window_ms;
            if let Some((first, count, _)) = found.filter(|found| (now - found.2) as u64 <= window) {
                let answer = self.rig.append(name, records, ask)?;
                assert!(answer.deduped, "U-3, I-72: key {:?} of {name} was forgotten", ask.key);
                assert_eq!((answer.first_seq, answer.count, answer.created), (first, count, false), "U-3");
                return Ok(None);
            }
            self.expire(name);
            let topic = &self.topics[name];
            let config = topic.config.clone();
            if config.discard == Discard::Reject {
                let over = |cap: u64, amount: u64| cap != 0 && amount > cap;
                let expected = if over(config.cap_bytes, bytes) || over(config.cap_records, count) {
                    Some(EngineError::BatchOverCap)
                } else if over(config.cap_records, topic.count() + count)
                    || over(config.cap_bytes, topic.bytes() + bytes)
                {
                    Some(EngineError::TopicFull {
                        cap_records: config.cap_records,
                        cap_bytes: config.cap_bytes,
                        head_seq: topic.head,
                        earliest_seq: topic.earliest(),
                    })
                } else {
                    None
                };
                if let Some(mut expected) = expected {
                    let mut refusal = match self.rig.append(name, records, ask) {
                        Err(Stop::Refused(error)) => error,
                        Err(stop) => return Err(stop),
                        Ok(answer) => panic!("W-30, W-31: {name} took {answer:?} instead of {expected:?}"),
                    };
                    // The first live position may not be published yet.
                    if let EngineError::TopicFull { earliest_seq, .. } = &mut refusal {
                        let shown = *earliest_seq;
                        if let EngineError::TopicFull { earliest_seq, .. } = &mut expected {
                            assert!(shown <= *earliest_seq, "{name}: {refusal:?}");
                            *earliest_seq = 0;
                        }
                        if let EngineError::TopicFull { earliest_seq, .. } = &mut refusal {
                            *earliest_seq = 0;
                        }
                    }
                    assert_eq!(refusal, expected, "W-30, W-31: {name}");
                    return Ok(Some(refusal));
                }
            }
        } else {
            self.instances += 1;
            let config = ask.config.cloned().unwrap_or_default();
            let over = |cap: u64, amount: u64| cap != 0 && amount > cap;
            let too_large = config.discard == Discard::Reject
                && (over(config.cap_bytes, bytes) || over(config.cap_records, count));
            let topic = Topic::new(self.instances, config);
            let answer = match self.rig.append(name, records, ask) {
                // W-30, W-34: and no topic is left.
                Err(Stop::Refused(error @ EngineError::BatchOverCap)) if too_large => return Ok(Some(error)),
                other => other?,
            };
            assert!(!too_large, "W-30: {name}");
            self.topics.insert(name.to_owned(), topic);
            self.take(name, records, &answer, ask, true, now);
            return Ok(None);
        }
        let answer = self.rig.append(name, records, ask)?;
        self.take(name, records, &answer, ask, false, now);
        Ok(None)
    }

    fn take(
        &mut self,
        name: &str,
        records: &[Rec],
        answer: &runelog_engine::shard::Appended,
        ask: Ask<'_>,
        created: bool,
        now: i64,
    ) {
        let topic = self.topics.get_mut(name).expect("just made sure");
        assert_eq!(answer.first_seq, topic.head + 1, "I-1, I-2, I-3: first seq in {name}");
        assert_eq!((answer.count as usize, answer.created, answer.deduped), (records.len(), created, false));
        let heap = topic.config.class == Class::Ephemeral;
        for rec in records {
            topic.head += 1;
            topic.live.insert(topic.head, Rc::new(Stored { rec: rec.clone(), ts: now, heap }));
        }
        if heap {
            topic.heap_seen = true;
        } else {
            topic.logged_head = topic.head;
        }
        if let Some(key) = ask.key {
            topic.keys.insert(key.to_vec(), (answer.first_seq, answer.count, now));
        }
        topic.evict();
        let strength = strength(topic.config.class);
        let what = format!("append {}..={}", answer.first_seq, answer.last_seq());
        self.note(name, answer.wait.0, strength, what);
    }

    /// Gives a topic a router that stands at `start`, unless it has one.
    pub fn open_link(&mut self, name: &str, start: u64) -> Outcome<RouterId> {
        if let Some(router) = self.topics[name].links.keys().next() {
            return Ok(*router);
        }
        let dest = self.rig.id_of(name);
        let router = self.rig.make_router(name, dest, start)?;
        let link = self.rig.shard().open_link(router, dest, start).expect("its dest is there");
        assert_eq!((link.position, link.forwarded_total, link.epoch), (start, 0, 0), "R-31");
        let link = Link { position: start, total: 0, logged: None };
        self.topics.get_mut(name).expect("it exists").links.insert(router, link);
        self.note(name, 0, Strength::Nothing, "link");
        Ok(router)
    }

    pub fn close_link(&mut self, name: &str) {
        let Some((router, _)) = self.topics.get_mut(name).and_then(|topic| topic.links.pop_first()) else {
            return;
        };
        self.rig.shard().close_link(router);
        assert!(self.rig.shard().link(router).is_none());
        self.note(name, 0, Strength::Nothing, "link closed");
    }

    /// A router brings copies: `steps` says how far behind the one before each record lies in the source,
    /// `vacant` records were lost before the first, and the source was looked at for `more` behind the last.
    pub fn forward(&mut self, name: &str, vacant: u64, steps: &[(u64, Rec)], more: u64) -> Outcome<()> {
        let router = self.open_link(name, 5)?;
        self.expire(name);
        let now = self.rig.now;
        let dest = self.rig.id_of(name);
        let topic = &self.topics[name];
        let link = topic.links[&router];
        let mut at = link.position + vacant;
        let mut through = Vec::new();
        for (step, _) in steps {
            at += step;
            through.push(at);
        }
        let records: Vec<Rec> = steps.iter().map(|(_, rec)| rec.clone()).collect();
        let bring =
            super::Bring { router, dest, from: link.position, through, end: at + more, vacant, hops: 1 };
        // the longest front that fits.
        let config = topic.config.clone();
        let (mut count, mut bytes) = (topic.count(), topic.bytes());
        let fits = |rec: &&Rec| {
            (count, bytes) = (count + 1, bytes + rec.bytes());
            config.discard == Discard::Old
                || (config.cap_records == 0 || count <= config.cap_records)
                    && (config.cap_bytes == 0 || bytes <= config.cap_bytes)
        };
        let taken = records.iter().take_while(fits).count();
        let stalled = taken == 0 && !records.is_empty();
        let counted = if stalled { 0 } else { vacant + taken as u64 };
        let expected = match taken {
            _ if taken == records.len() => bring.end,
            0 => bring.from,
            _ => bring.through[taken - 1],
        };
        let answer = self.rig.forward(&bring, &records)?;
        assert_eq!(
            (answer.taken as usize, answer.full, answer.position, answer.forwarded_total),
            (taken, taken < records.len(), expected, link.total + counted),
            "R-35, R-36, R-37: {name} {bring:?}"
        );
        let topic = self.topics.get_mut(name).expect("it exists");
        let link = topic.links.get_mut(&router).expect("it exists");
        (link.position, link.total) = (answer.position, answer.forwarded_total);
        let heap = config.class == Class::Ephemeral;
        if !heap && counted > 0 {
            link.logged = Some((link.position, link.total));
        }
        if counted > 0 {
            if vacant > 0 {
                let gap = (topic.head + 1, topic.head + vacant);
                topic.vacant.push(gap);
                match topic.trims.last_mut() {
                    Some((_, last)) if *last + 1 == gap.0 => *last = gap.1,
                    _ => topic.trims.push(gap),
                }
                topic.head += vacant;
            }
            for rec in &records[..taken] {
                topic.head += 1;
                topic.live.insert(topic.head, Rc::new(Stored { rec: rec.clone(), ts: now, heap }));
            }
            match heap {
                true => topic.heap_seen = true,
                false => topic.logged_head = topic.head,
            }
            topic.evict();
        }
        // What only moves the position is no promise.
        let strength = if counted > 0 { strength(topic.config.class) } else { Strength::Nothing };
        self.note(name, answer.wait.0, strength, format!("forward of {taken} behind {vacant}"));
        Ok(())
    }

    pub fn put(&mut self, name: &str, config: &TopicConfig) -> Outcome<()> {
        let now = self.rig.now;
        let changes = self.topics.get(name).is_none_or(|topic| topic.config != *config);
        let (created, wait) = self.rig.put(name, config)?;
        assert_eq!(created, !self.topics.contains_key(name), "TP-1: {name}");
        if created {
            self.instances += 1;
            self.topics.insert(name.to_owned(), Topic::new(self.instances, config.clone()));
        } else if changes {
            let topic = self.topics.get_mut(name).expect("it exists");
            topic.config = config.clone();
            topic.evict();
            topic.logged_head = topic.head;
            topic.heap_seen |= config.class == Class::Ephemeral;
            self.note(name, wait, Strength::PowerLoss, "put");
            self.topics.get_mut(name).expect("it exists").expire(now);
            self.note(name, 0, Strength::Nothing, "expiry after put");
            return Ok(());
        }
        self.note(name, wait, Strength::PowerLoss, "put");
        Ok(())
    }

    pub fn drop_topic(&mut self, name: &str, if_empty: bool) -> Outcome<()> {
        if if_empty {
            self.expire(name);
        }
        let full = if_empty && self.topics.get(name).is_some_and(|topic| topic.count() > 0);
        match self.rig.drop_topic(name, if_empty) {
            Err(Stop::Refused(EngineError::NotEmpty { count })) if full => {
                assert_eq!(count, self.topics[name].count(), "TD-3: {name}");
                Ok(())
            }
            Err(stop) => Err(stop),
            Ok((dropped, wait)) => {
                assert!(!full, "TD-3: {name} was not empty");
                assert_eq!(dropped, self.topics.remove(name).is_some(), "TD-2: {name}");
                self.note(name, wait, Strength::PowerLoss, "drop");
                Ok(())
            }
        }
    }

    pub fn delete(&mut self, name: &str, before: Option<u64>, matcher: Option<TagMatch>) -> Outcome<()> {
        if !self.topics.contains_key(name) {
            let refused = self.rig.delete(name, before, matcher);
            assert!(matches!(refused, Err(Stop::Refused(EngineError::TopicMissing) | Stop::Cut)), "X-2");
            return refused.map(drop).or_else(|stop| match stop {
                Stop::Cut => Err(stop),
                _ => Ok(()),
            });
        }
        self.expire(name);
        let (shown_head, deleted) = self.rig.delete(name, before, matcher.clone())?;
        let topic = self.topics.get_mut(name).expect("it exists");
        let through = shown_head.min(before.unwrap_or(u64::MAX).saturating_sub(1));
        let chosen = |stored: &Stored| matcher.as_ref().is_none_or(|m| m.matches(stored.rec.tag.as_deref()));
        let gone: Vec<u64> =
            topic.live.range(..=through).filter(|(_, stored)| chosen(stored)).map(|(seq, _)| *seq).collect();
        gone.iter().for_each(|seq| drop(topic.live.remove(seq)));
        let expected = (gone.len() as u64, topic.earliest(), topic.head, topic.count(), topic.bytes());
        let answer = (deleted.deleted, deleted.earliest_seq, deleted.head_seq, deleted.count, deleted.bytes);
        assert_eq!(answer, expected, "X-4…X-7: {name}, below {before:?}, {matcher:?}");
        let strength = strength(topic.config.class);
        self.note(name, deleted.wait.0, strength, format!("delete of {}", gone.len()));
        Ok(())
    }

    /// Reads at a cursor and compares with what §5 demands. Everything must have settled.
    pub fn read(&mut self, name: &str, request: &ReadRequest<'_>) -> Outcome<()> {
        if !self.topics.contains_key(name) {
            let refused = self.rig.read(name, request);
            assert!(matches!(refused, Err(Stop::Refused(EngineError::TopicMissing) | Stop::Cut)), "D-1");
            return refused.map(drop).or_else(|stop| match stop {
                Stop::Cut => Err(stop),
                _ => Ok(()),
            });
        }
        self.expire(name);
        let (outcome, seen) = self.rig.read(name, request)?;
        let topic = &self.topics[name];
        let from = request.from_seq;
        let cursor = if from > topic.head { 0 } else { from };
        let start = cursor.max(topic.floor());
        let (mut next, mut bytes, mut examined) = (topic.head.max(start), 0, 0);
        let mut expected = Vec::new();
        let filters = topic.config.dedupe_node;
        let mut tombstone = topic.tombstone(from);
        let mut gaps = topic.gaps(cursor).peekable();
        // Whether the read ends before the next gap below `seq`; the first gap is told if nothing was.
        let mut stops = |seq: u64, delivered: bool| {
            while let Some(gap) = gaps.next_if(|gap| gap.0 < seq) {
                if delivered || tombstone.is_some() {
                    return Some(gap.0 - 1);
                }
                tombstone = Some(Tombstone {
                    gap_from: gap.0,
                    gap_to: gap.1,
                    reason: TombstoneReason::SourceTrim,
                    earliest_seq: gap.1 + 1,
                    head_seq: topic.head,
                });
            }
            None
        };
        let mut is_over = false;
        for (seq, stored) in topic.live.range(start + 1..) {
            if let Some(last) = stops(*seq, !expected.is_empty()) {
                (next, is_over) = (last, true);
                break;
            }
            if filters
                && stored
                    .rec
                    .node
                    .as_ref()
                    .is_some_and(|node| request.skip_node.is_some_and(|skip| skip(node)))
            {
                examined += 1;
                continue;
            }
            bytes += stored.rec.bytes();
            if !expected.is_empty() && bytes > request.max_bytes {
                (next, is_over) = (seq - 1, true);
                break;
            }
            examined += 1;
            expected.push(*seq);
            if expected.len() == request.limit as usize {
                (next, is_over) = (*seq, true);
                break;
            }
        }
        if !is_over && let Some(last) = stops(topic.head + 1, !expected.is_empty()) {
            next = last;
        }
        let what = format!("{name} {request:?}");
        let seqs: Vec<u64> = seen.iter().map(|seen| seen.seq).collect();
        assert_eq!(seqs, expected, "D-2, D-5…D-8: {what}");
        for seen in &seen {
            check_record(topic, seen, &what);
        }
        assert_eq!(outcome.tombstone, tombstone, "D-12…D-16, I-68: {what}");
        assert_eq!(outcome.next_from_seq, next, "D-3: {what}");
        assert_eq!(outcome.examined, examined, "§1.9: {what}");
        assert_eq!(
            (outcome.head_seq, outcome.earliest_seq, outcome.delivered as usize),
            (topic.head, topic.earliest(), expected.len()),
            "D-11: {what}"
        );
        Ok(())
    }

    /// Lets everything settle and compares every topic with the model.
    pub fn check(&mut self) -> Outcome<()> {
        self.rig.settle()?;
        let names: Vec<String> = self.topics.keys().cloned().collect();
        for name in &names {
            self.expire(name);
        }
        let observed = self.observe()?;
        let found: Vec<&String> = observed.keys().collect();
        assert_eq!(found, names.iter().collect::<Vec<_>>(), "topics");
        for (name, observed) in &observed {
            let topic = &self.topics[name];
            if let Err(why) = agrees(topic, observed, true) {
                panic!("{name}: {why}\nmodel {}\nshown {:?}", brief(topic), observed.shown);
            }
        }
        if self.rig.quota_bytes > 0 {
            let bytes: u64 = self.topics.values().map(Topic::bytes).sum();
            assert_eq!(self.rig.quota.bytes(), bytes, "I-105");
            assert_eq!(self.rig.quota.topics(), self.topics.len() as u64, "L-2");
        }
        Ok(())
    }

    /// Everything that is shown, read twice over: as state and record by record.
    pub fn observe(&mut self) -> Outcome<BTreeMap<String, Observed>> {
        let mut observed = BTreeMap::new();
        for listed in self.rig.list()? {
            let name = String::from_utf8(listed.name).expect("names are ASCII");
            let (first, records, gaps) = self.rig.read_gaps(&name)?;
            let shown = self.rig.state(&name)?;
            let bytes: u64 = records.iter().map(|seen| seen.counted_bytes).sum();
            let tally = (records.len() as u64, bytes);
            assert_eq!((shown.count, shown.bytes), tally, "I-8: {name}, {shown:?}");
            let earliest = records.first().map_or(shown.head + 1, |seen| seen.seq);
            assert_eq!(shown.earliest, earliest, "I-20: {name}, {shown:?}");
            let floor = shown.floors.iter().copied().max().expect("three");
            assert!(floor < shown.earliest && shown.earliest <= shown.head + 1, "I-21: {name}, {shown:?}");
            let tombstone = first.tombstone.filter(|gap| gap.reason != TombstoneReason::SourceTrim);
            assert_eq!(tombstone.map_or(0, |gap| gap.gap_to), floor, "I-22: {name}");
            let dest = self.rig.id_of(&name);
            let links = self.rig.shard().links().filter(|(_, link)| link.dest == dest);
            let links = links.map(|(router, link)| (router, (link.position, link.forwarded_total))).collect();
            observed.insert(name, Observed { shown, tombstone, records, gaps, links });
        }
        Ok(observed)
    }

    /// The end by `kind`, without a new start.
    pub fn crash(&mut self, kind: Crash) -> u64 {
        let committed = self.rig.committed();
        self.rig.crash(kind);
        // A judge reads everything: with crashes by the thousand some are enough.
        let is_judged = !self.flawed && self.rig.disk.completed().is_multiple_of(env("RUNELOG_JUDGE", 7));
        self.judged = is_judged.then(|| self.rig.judge_whole());
        committed
    }

    /// A clean stop and a new start: everything is as it was (I-59).
    pub fn restart(&mut self) -> Outcome<()> {
        let names: Vec<String> = self.topics.keys().cloned().collect();
        self.rig.stop()?;
        // Until the process ends it may turn a few times more.
        (0..4).try_for_each(|_| self.rig.step(true))?;
        self.rig.crash(Crash::PowerLoss);
        self.rig.judge_whole();
        self.rig.open()?;
        for name in &names {
            let topic = self.topics.get_mut(name).expect("a name of it");
            *topic = topic.without_heap();
        }
        self.check()?; // links and totals among them
        self.rebase();
        Ok(())
    }

    /// After a start: what is there must be what a prefix of the history left, long enough for what was
    /// acknowledged up to block `committed`. The model goes on from there.
    pub fn verify(&mut self, kind: Crash, committed: u64) -> Outcome<()> {
        if let Some(judged) = self.judged.take() {
            let start = (self.rig.quota.topics(), self.rig.quota.bytes());
            assert_eq!((judged.read.topics, judged.read.bytes), start, "a start has what was judged");
        }
        let needed = if kind == Crash::Kill { Strength::Kill } else { Strength::PowerLoss };
        let mut observed = self.observe()?;
        let mut names: Vec<String> = self.base.keys().chain(observed.keys()).cloned().collect();
        names.extend(self.steps.iter().map(|step| step.name.clone()));
        names.sort();
        names.dedup();
        let now = self.rig.now;
        let mut after = BTreeMap::new();
        for name in names {
            let steps: Vec<&Step> = self.steps.iter().filter(|step| step.name == name).collect();
            let surely = |step: &&Step| step.strength >= needed && step.wait <= committed;
            let least = steps.iter().rposition(surely).map_or(0, |at| at + 1);
            let mut states = vec![("start", self.base.get(&name))];
            states.extend(steps.iter().map(|step| (step.what.as_str(), step.after.as_ref())));
            let observed = observed.remove(&name);
            let mut why = String::new();
            let mut found = None;
            for (at, (what, state)) in states.iter().enumerate().skip(least).rev() {
                let verdict = match (state, &observed) {
                    (None, None) => Ok(None),
                    (Some(state), Some(observed)) => {
                        let mut state = state.without_heap();
                        state.expire(now);
                        agrees(&state, observed, false).map(|()| Some(state))
                    }
                    (None, Some(_)) => Err("it is there".to_owned()),
                    (Some(_), None) => Err("it is not there".to_owned()),
                };
                match verdict {
                    Ok(state) => {
                        found = Some(state);
                        break;
                    }
                    Err(text) => why.push_str(&format!("\n  after {at} ({what}): {text}")),
                }
            }
            let Some(found) = found else {
                let shown = observed.as_ref().map(|observed| &observed.shown);
                let seqs: Option<Vec<u64>> =
                    observed.as_ref().map(|o| o.records.iter().map(|seen| seen.seq).collect());
                for (at, step) in steps.iter().enumerate() {
                    let class = step.after.as_ref().map(|topic| topic.config.class);
                    let live = step.after.as_ref().map(brief);
                    eprintln!("  step {}: {} in block {}, {class:?}, {live:?}", at + 1, step.what, step.wait);
                }
                panic!(
                    "I-50…I-56: {name} after {kind:?}, committed {committed}, step {least} was sure:{why}\n{shown:?}\n{seqs:?}"
                );
            };
            let (Some(mut state), Some(observed)) = (found, observed) else { continue };
            // I-58: whatever was acknowledged keeps its seq to itself.
            for step in steps.iter().filter(|step| step.strength >= Strength::Kill && step.wait <= committed)
            {
                if let Some(then) = step.after.as_ref().filter(|then| then.instance == state.instance) {
                    assert!(observed.shown.head >= then.logged_head, "I-58: {name}: {:?}", observed.shown);
                }
            }
            if observed.shown.head > state.head {
                state.vacant.push((state.head + 1, observed.shown.head));
            }
            state.head = observed.shown.head;
            state.logged_head = state.head;
            for (router, (position, total)) in &observed.links {
                let Some(link) = state.links.get_mut(router) else {
                    self.rig.shard().close_link(*router); // its end was not durable
                    continue;
                };
                *link = Link { position: *position, total: *total, logged: Some((*position, *total)) };
                // The source, which is of this model, lost nothing.
                let found = self.rig.shard().link(*router).expect("just seen");
                assert!(!found.is_checked, "I-66: a start makes every position doubtful");
                let kept = self.rig.shard().rewind_link(*router, u64::MAX).expect("it is there");
                assert_eq!((kept.position, kept.is_checked), (*position, true));
            }
            if state.heap_seen {
                state.trims = observed.gaps.clone(); // as much of them as a log or checkpoint knew
            }
            state.links.retain(|router, _| observed.links.contains_key(router));
            after.insert(name, state);
        }
        self.topics = after;
        self.rebase();
        self.verified += 1;
        Ok(())
    }

    fn rebase(&mut self) {
        self.base = self.topics.clone();
        self.steps.clear();
    }

    /// Crash, start, compare; then drop topics of which the model cannot know how much of their window
    /// is vacant.
    pub fn crash_and_verify(&mut self, kind: Crash) -> Outcome<()> {
        let committed = self.crash(kind);
        self.rig.open()?;
        self.verify(kind, committed)?;
        self.forget_unclear()
    }

    pub fn forget_unclear(&mut self) -> Outcome<()> {
        let unclear: Vec<String> =
            self.topics.iter().filter(|(_, topic)| topic.heap_seen).map(|(name, _)| name.clone()).collect();
        for name in unclear {
            self.drop_topic(&name, false)?;
        }
        Ok(())
    }
}
