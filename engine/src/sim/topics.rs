//! Topics and records: appends, copies, settings, drops, deletes and reads, each done by the shard and worked
//! out by the model. Not here: what counts after a crash (`verify`).

use super::Stop;
use super::model::Topic;
use super::rig::{Ask, Bring, Outcome, Rec, broken};
use super::world::{Strength, World, strength};
use crate::config::{Class, Discard, TopicConfig};
use crate::error::EngineError;
use crate::shard::{Appended, ReadRequest, TagMatch};

impl World {
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

    pub(super) fn delete(
        &mut self,
        name: &str,
        before: Option<u64>,
        matcher: Option<TagMatch>,
    ) -> Outcome<()> {
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
    pub(super) fn read(&mut self, name: &str, request: &ReadRequest<'_>) -> Outcome<()> {
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
