//! Topics coming, changing and going (§3), their state and their list; what age and caps do to one when
//! it is looked at.

use super::{Effect, Eviction, Shard, TopicRef, TopicView, view};
use crate::config::{Class, TopicConfig};
use crate::error::{EngineError, No};
use crate::ids::{Millis, TopicId};
use crate::limits::CHUNK_BYTES;
use crate::sabotage::{self, Bug};
use crate::topic::Topic;
use crate::wal::Wait;
use crate::wal::frame::Kind;
use std::rc::Rc;

/// Room in the log for anything but an append. Less than [`append_room`], so that what may free some of
/// a full disk (deletes, drops, smaller caps) is taken when appends no longer are.
pub(super) const SMALL_ENTRY_ROOM: u64 = CHUNK_BYTES as u64 / 2;

/// Room in the log for an append: twice the body for its frames and for the ends of chunks left empty.
pub(super) fn append_room(body_bytes: usize) -> u64 {
    (CHUNK_BYTES + 2 * body_bytes) as u64
}

impl Shard {
    /// Creates or reconfigures (§3.1). Returns whether it was created, and what the answer waits for.
    pub fn put(&mut self, name: &[u8], config: TopicConfig, now: Millis) -> Result<(bool, Wait), No> {
        let existing = self.names.get(name).copied();
        if existing.is_none() && !crate::config::is_topic_name(name) {
            return Err(EngineError::NameInvalid.into());
        }
        config.check(name)?;
        if let Some(slot) = existing {
            let topic = self.topic(slot);
            if topic.config.kind != config.kind {
                let error = EngineError::TypeConflict { existing: topic.config.kind, requested: config.kind };
                return Err(No::Refused(error, Wait(topic.control_block)));
            }
            if topic.config == config {
                // It changes nothing (TP-3), but like any control operation it is a barrier: what was
                // acknowledged before must be safe when it is (I-56).
                let control_block = topic.control_block;
                if self.log.is_durable(self.log.entry_block()) {
                    return Ok((false, Wait(control_block)));
                }
                self.may_write(SMALL_ENTRY_ROOM)?;
                self.put_topic_entry(slot, true);
                return Ok((false, Wait(self.log.entry_block())));
            }
        }
        self.may_write(SMALL_ENTRY_ROOM)?;
        let Some(slot) = existing else {
            self.take_topic_place()?;
            let slot = self.create(name, config, true);
            return Ok((true, Wait(self.topic(slot).control_block)));
        };
        // Under the new settings only: what has outlived the old age limit and was not noticed yet is no
        // loss if the limit goes (CF-10); tightening takes effect here (CF-14).
        let old = std::mem::replace(&mut self.topic_mut(slot).config, config);
        let plan = self.plan_eviction(self.topic(slot), 0, &[]);
        let plan = match plan {
            Ok(plan) => plan,
            Err(blocked) => {
                // Nothing goes on account of a PUT that is not ordered yet: a crash could take it back.
                self.topic_mut(slot).config = old;
                return Err(self.keep_plan(slot, blocked));
            }
        };
        self.put_topic_entry(slot, plan.is_none());
        if let Some(gone) = plan {
            // The batch ends here: it is durable when this entry's block is.
            self.log_floor(slot, gone, true, true);
        }
        let block = self.log.entry_block();
        self.topic_mut(slot).control_block = block;
        self.control_block = block;
        if let Some(gone) = plan {
            self.order_eviction(slot, gone, block);
        }
        // A tightened age limit takes effect here too, if no disk is needed to tell; else at the next
        // access.
        let _ = self.expire(slot, now);
        Ok((false, Wait(self.log.entry_block())))
    }

    /// Refuses when the log takes nothing any more, or nothing right now.
    ///
    /// `room`: what must fit the log files at hand, because what is put into the log without a place in a
    /// file gets no answer until there is one, and on a full disk that is never.
    pub(super) fn may_write(&mut self, room: u64) -> Result<(), No> {
        if let Some(error) = self.log.failed() {
            return Err(EngineError::Halted(error).into());
        }
        if self.log.file_room() < room {
            if let Some(error) = self.sealing.no_file {
                return Err(EngineError::NoLogFile(error).into());
            }
            // As many files as it takes are made meanwhile, the very first one after a start among them.
            self.sealing.wanted_room = self.sealing.wanted_room.max(room);
            return Err(No::Busy);
        }
        if !self.log.has_room() {
            return Err(No::Busy);
        }
        Ok(())
    }

    pub(super) fn take_topic_place(&self) -> Result<(), No> {
        match self.quota.take_topic() {
            true => Ok(()),
            false => Err(EngineError::TopicCap { max: self.quota.max_topics() }.into()),
        }
    }

    /// Adds a topic and logs it; the batch ends with it if `last`. The name is legal and free, and a
    /// place was taken.
    pub(super) fn create(&mut self, name: &[u8], config: TopicConfig, last: bool) -> u32 {
        let id = TopicId(self.id_prefix() | self.next_topic);
        self.next_topic += 1;
        let slot = self.insert(Topic::new(id, Rc::from(name), config));
        self.put_topic_entry(slot, last);
        let block = self.log.entry_block();
        self.topic_mut(slot).control_block = block;
        self.control_block = block;
        slot
    }

    /// Puts a topic into the shard's tables.
    pub(super) fn insert(&mut self, topic: Topic) -> u32 {
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.topics.push(None);
            self.topics.len() as u32 - 1
        });
        self.names.insert(topic.name.clone(), slot);
        self.sorted.insert(topic.name.clone(), slot);
        self.by_id.insert(topic.id, slot);
        self.sealing.changed.push(TopicRef { slot, id: topic.id });
        self.topics[slot as usize] = Some(Topic { changed: true, ..topic });
        slot
    }

    /// Logs a topic's settings. Body: topic, head, name length (2), name, configuration.
    pub(super) fn put_topic_entry(&mut self, slot: u32, last: bool) {
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        let topic = self.topics[slot as usize].as_ref().expect("a used slot");
        body.extend_from_slice(&topic.id.0.to_le_bytes());
        body.extend_from_slice(&topic.ordered.head.to_le_bytes());
        body.extend_from_slice(&(topic.name.len() as u16).to_le_bytes());
        body.extend_from_slice(&topic.name);
        topic.config.encode(&mut body);
        self.log.put_entry(Kind::Topic, &body, last, !sabotage::is(Bug::ConfigUnsynced));
        self.scratch = body;
        self.mark_changed(slot);
    }

    pub(super) fn mark_changed(&mut self, slot: u32) {
        let topic = self.topics[slot as usize].as_mut().expect("a used slot");
        if !topic.changed {
            topic.changed = true;
            self.sealing.changed.push(TopicRef { slot, id: topic.id });
        }
    }

    /// Logs an eviction. Body: topic, loss, floor, count, bytes.
    pub(super) fn log_floor(&mut self, slot: u32, gone: Eviction, last: bool, sync: bool) {
        let id = self.topic(slot).id;
        let mut body = [0; 40];
        let numbers = [id.0, gone.loss as u64, gone.seq, gone.logged_count, gone.logged_bytes];
        for (at, number) in numbers.into_iter().enumerate() {
            body[at * 8..at * 8 + 8].copy_from_slice(&number.to_le_bytes());
        }
        self.log.put_entry(Kind::Floor, &body, last, sync);
    }

    /// Counts an eviction in, to be shown when `block` commits.
    pub(super) fn order_eviction(&mut self, slot: u32, gone: Eviction, block: u64) -> u64 {
        let topic = self.topics[slot as usize].as_mut().expect("a used slot");
        let floor = &mut topic.ordered.floors[gone.loss as usize];
        *floor = (*floor).max(gone.seq);
        topic.losses += 1;
        topic.planned = None;
        topic.ordered.count -= gone.count;
        topic.ordered.bytes -= gone.bytes;
        if let Some(queue) = &mut topic.queue {
            queue.leave_through(gone.seq);
        }
        let id = topic.id;
        self.quota.give_bytes(gone.bytes);
        self.enqueue(slot, id, block, Effect::Evicted(gone))
    }

    /// Applies the age limit: what is noticed here is gone for good, so the mark is on its way before
    /// any answer that shows it (I-24). Returns what such an answer waits for: no longer than the log has, or
    /// can be given, a place for the mark ([`Shard::committed`]).
    pub(super) fn expire(&mut self, slot: u32, now: Millis) -> Result<Wait, No> {
        let topic = self.topic(slot);
        let control = Wait(topic.control_block).max(Wait(topic.hidden.block));
        if topic.config.ttl_ms == 0 {
            return Ok(control);
        }
        let (gone, rest) = self.plan_expiry(topic, now);
        let Some(gone) = gone else {
            return rest.map(|()| control);
        };
        let hidden = self.plan_hiding(slot, gone.seq)?;
        // A halted log takes no mark; the records are over all the same. What only memory holds needs
        // none.
        let mut block = topic.control_block;
        let logged = topic.config.class != Class::Ephemeral || gone.logged_count > 0;
        let halted = self.log.failed().is_some();
        if logged && !halted && !sabotage::is(Bug::ExpiryUnlogged) {
            self.log_floor(slot, gone, true, false);
            block = self.log.entry_block();
        }
        let block = self.order_eviction(slot, gone, block);
        self.hide(slot, gone.seq, hidden, if halted { control.0 } else { block });
        rest.map(|()| if halted { control } else { Wait(block).max(control) })
    }

    /// Deletes a topic (§3.4). `None`: there was none.
    pub fn drop_topic(&mut self, name: &[u8], if_empty: bool, now: Millis) -> Result<(bool, Wait), No> {
        let (Some(found), wait) = self.find(name) else {
            return Ok((false, self.find(name).1));
        };
        let slot = found.slot;
        if if_empty {
            self.expire(slot, now)?;
            let count = self.topic(slot).ordered.count;
            if count > 0 {
                let last = self.effects.iter().rev().find(|pending| pending.id == found.id);
                let wait = Wait(last.map_or(wait.0, |pending| pending.block.max(wait.0)));
                return Err(No::Refused(EngineError::NotEmpty { count }, wait));
            }
        }
        self.may_write(SMALL_ENTRY_ROOM)?;
        self.log.put_entry(Kind::Drop, &found.id.0.to_le_bytes(), true, true);
        let block = self.log.entry_block();
        let topic = self.forget(slot);
        self.quota.give_topic();
        if !sabotage::is(Bug::KeepQuota) {
            self.quota.give_bytes(topic.ordered.bytes);
        }
        self.dropping.insert(topic.name.clone(), block);
        self.control_block = block;
        Ok((true, Wait(block)))
    }

    /// Takes a topic out of the shard's tables and lets go of its blocks.
    pub(super) fn forget(&mut self, slot: u32) -> Topic {
        let topic = self.topics[slot as usize].take().expect("a used slot");
        self.names.remove(&topic.name);
        self.sorted.remove(&topic.name);
        self.by_id.remove(&topic.id);
        self.free_slots.push(slot);
        self.heap_bytes -= topic.index.heap_bytes();
        for block in topic.index.sealed() {
            self.sealing.release(block.segment);
        }
        self.sealing.dropped.push(topic.id);
        self.tag_hits.remove(&topic.id);
        self.links.forget(&topic.links);
        topic
    }

    /// State of a topic (§3.2), after retention; `touch` counts as consumption (TS-2).
    pub fn state(&mut self, name: &[u8], touch: bool, now: Millis) -> Result<(TopicView<'_>, Wait), No> {
        let slot = self.slot_of(name)?;
        let wait = self.expire(slot, now)?;
        if self.topic(slot).queue.is_some() {
            self.notice_queue(slot, now);
        }
        if touch {
            let topic = self.topic_mut(slot);
            topic.last_read_ts = Some(now);
            topic.last_consumed_ts = Some(now);
        }
        let topic = self.topic(slot);
        Ok((view(topic), wait.max(Wait(topic.control_block))))
    }

    /// Up to `limit` topics in name order after `after`, of those that begin with `prefix`; retention
    /// is applied where it needs no disk (TL-3). `touch` counts as consumption only (TL-2).
    pub fn list(
        &mut self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        touch: bool,
        now: Millis,
        mut visit: impl FnMut(TopicView<'_>),
    ) -> Result<Wait, No> {
        use std::ops::Bound;
        let start: Rc<[u8]> = Rc::from(after.filter(|after| *after >= prefix).unwrap_or(prefix));
        let bound = match after {
            Some(after) if after >= prefix => Bound::Excluded(start),
            _ => Bound::Included(start),
        };
        let slots: Vec<u32> = self
            .sorted
            .range((bound, Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(prefix))
            .take(limit)
            .map(|(_, slot)| *slot)
            .collect();
        let mut wait = Wait(self.control_block);
        for slot in &slots {
            wait = wait.max(self.expire(*slot, now)?);
        }
        for slot in slots {
            if touch {
                self.topic_mut(slot).last_consumed_ts = Some(now);
            }
            visit(view(self.topic(slot)));
        }
        Ok(wait)
    }
}
