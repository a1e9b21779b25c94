//! Caps and age: what a write or an access pushes out of a topic, computed exactly before anything is
//! written. Evictions are by prefix (I-32) and travel as floor marks in the log, so that replay never
//! re-derives them from a configuration that may have changed since (I-24).

use super::{Effect, Eviction, Shard};
use crate::config::{Class, Discard};
use crate::error::No;
use crate::event::{Record, RecordSpan};
use crate::ids::Millis;
use crate::index::{SealedBlock, Source, Wanted};
use crate::topic::{Loss, Planned, Topic, is_within};
use std::ops::ControlFlow;

/// See [`Shard::plan_hiding`].
#[derive(Default)]
pub(super) struct Hiding {
    /// For each delete on its way: records and bytes of it that expired.
    deletes: Vec<(u64, u64)>,
}

/// An eviction that cannot be worked out yet.
#[derive(Debug)]
pub(super) struct Blocked {
    no: No,
    so_far: Option<Box<Planned>>,
}

impl Shard {
    /// Calls `visit` for every record of `from..=to` in seq order, deleted ones included.
    pub(super) fn walk(
        &self,
        topic: &Topic,
        from: u64,
        to: u64,
        mut visit: impl FnMut(&Record<'_>) -> ControlFlow<()>,
    ) -> Result<(), No> {
        let mut at = from;
        while at <= to {
            let Some(source) = topic.index.at_or_after(at) else { break };
            let (first, last) = source.range();
            if first > to {
                break;
            }
            match source {
                Source::Hot(frame) => {
                    let entry = topic.index.entry(frame, &self.log.chunks);
                    for record in entry.records_from(at) {
                        let record = record.expect("entries in memory are sound");
                        if record.seq > to || visit(&record).is_break() {
                            return Ok(());
                        }
                    }
                }
                Source::Sealed(block) => {
                    let Some(cached) = self.cache.borrow_mut().get(&block.key()) else {
                        return Err(No::Load(Wanted::Blocks(vec![block.clone()])));
                    };
                    for record in cached.records_from(at) {
                        let record = record.map_err(|error| self.unreadable(block, &error.to_string()))?;
                        if record.seq > to || visit(&record).is_break() {
                            return Ok(());
                        }
                    }
                }
            }
            at = last + 1;
        }
        Ok(())
    }

    /// What must go so that the caps hold after `spans` were added, `vacant` seqs (which count for nothing)
    /// before them, or `None` if nothing must.
    ///
    /// Where sealed blocks must be read first, the plan so far comes with the refusal: see
    /// [`Shard::keep_plan`].
    pub(super) fn plan_eviction(
        &self,
        topic: &Topic,
        vacant: u64,
        spans: &[RecordSpan],
    ) -> Result<Option<Eviction>, Blocked> {
        let config = &topic.config;
        if config.discard != Discard::Old || (config.cap_records == 0 && config.cap_bytes == 0) {
            return Ok(None);
        }
        let floor = topic.ordered.floor();
        let first = topic.ordered.head + vacant + 1;
        let added = spans.len() as u64;
        let window = match config.cap_records {
            0 => 0,
            cap if added > cap => first - 1 + added - cap,
            cap => topic.window_floor(topic.ordered.head, cap - added),
        };
        let excess = match config.cap_bytes {
            0 => 0,
            cap => {
                let added: u64 = spans.iter().map(RecordSpan::counted_bytes).sum();
                (topic.ordered.bytes + added).saturating_sub(cap)
            }
        };
        if window <= floor && excess == 0 {
            return Ok(None);
        }
        if topic.delete_at_work {
            return Err(Blocked { no: No::Busy, so_far: None });
        }
        // An earlier try's plan is the beginning of this one if it aimed no further and nothing was lost
        // or deleted since.
        let planned = topic.planned.as_deref().filter(|planned| {
            planned.losses == topic.losses && planned.window <= window && planned.excess <= excess
        });
        let mut gone = planned.map_or(Eviction::none(Loss::Cap, floor), |planned| planned.gone);
        if let Err(no) = self.evict_stored(topic, window, excess, &mut gone) {
            let so_far = Some(Box::new(Planned { losses: topic.losses, window, excess, gone }));
            return Err(Blocked { no, so_far });
        }
        // A batch larger than the cap pushes out its own front (W-33, CF-12).
        for (index, span) in spans.iter().enumerate() {
            let seq = first + index as u64;
            if seq > window && gone.bytes >= excess {
                break;
            }
            gone.take(seq, 1, span.counted_bytes(), config.class == Class::Ephemeral);
        }
        gone.seq = gone.seq.max(window);
        Ok((gone.seq > floor).then_some(gone))
    }

    /// Remembers how far a plan came before it needed sealed blocks. A plan that must read more blocks
    /// than the cache holds would otherwise ask for the first again when it comes to the last.
    pub(super) fn keep_plan(&mut self, slot: u32, blocked: Blocked) -> No {
        self.topic_mut(slot).planned = blocked.so_far;
        blocked.no
    }

    /// Adds stored live records to `gone`, oldest first, while they lie at or below `window` or fewer
    /// than `excess` bytes are gone. Whole entries and blocks without a hole count as one.
    fn evict_stored(&self, topic: &Topic, window: u64, excess: u64, gone: &mut Eviction) -> Result<(), No> {
        let head = topic.ordered.head;
        let mut at = gone.seq + 1;
        while at <= head && (at <= window || gone.bytes < excess) {
            let Some(source) = topic.index.at_or_after(at) else { break };
            let ((first, last), heap) = (source.range(), source.is_heap());
            if first > window && gone.bytes >= excess {
                break;
            }
            let (count, bytes) = source.tally();
            let whole = first >= at
                && (last <= window || gone.bytes + bytes <= excess)
                && !topic.has_deleted_in_order(first, last);
            if whole {
                gone.take(last, count, bytes, heap);
            } else {
                self.walk(topic, at, last, |record| {
                    if record.seq > window && gone.bytes >= excess {
                        return ControlFlow::Break(());
                    }
                    if !topic.is_deleted_in_order(record.seq) {
                        gone.take(record.seq, 1, record.counted_bytes(), heap);
                    }
                    ControlFlow::Continue(())
                })?;
                if last > window && gone.bytes >= excess {
                    break;
                }
            }
            at = last + 1;
        }
        Ok(())
    }

    /// What has outlived `ttl_ms` by now (CF-10), or `None`. Only shown records can have.
    ///
    /// With it comes what stands in the way of the rest, if anything: what is over so far goes at once,
    /// so that an expiry over many blocks advances, however few of them fit the cache.
    pub(super) fn plan_expiry(&self, topic: &Topic, now: Millis) -> (Option<Eviction>, Result<(), No>) {
        let ttl_ms = topic.config.ttl_ms;
        if ttl_ms == 0 {
            return (None, Ok(()));
        }
        let mut rest = Ok(());
        let floor = topic.ordered.floor();
        let mut gone = Eviction::none(Loss::Ttl, floor);
        let mut at = floor + 1;
        while at <= topic.shown.head {
            let Some(source) = topic.index.at_or_after(at) else { break };
            let ((first, last), heap) = (source.range(), source.is_heap());
            let (oldest, newest) = source.times();
            if is_within(oldest, now, ttl_ms) || last > topic.shown.head {
                break;
            }
            if topic.delete_at_work {
                rest = Err(No::Busy);
                break;
            }
            let all = !is_within(newest, now, ttl_ms);
            if all && first >= at && !topic.has_deleted_in_order(first, last) {
                let (count, bytes) = source.tally();
                gone.take(last, count, bytes, heap);
            } else {
                let mut stopped = false;
                rest = self.walk(topic, at, last, |record| {
                    if is_within(record.ts, now, ttl_ms) {
                        stopped = true;
                        return ControlFlow::Break(());
                    }
                    if !topic.is_deleted_in_order(record.seq) {
                        gone.take(record.seq, 1, record.counted_bytes(), heap);
                    }
                    ControlFlow::Continue(())
                });
                if stopped || rest.is_err() {
                    break;
                }
            }
            at = last + 1;
        }
        ((gone.seq > floor).then_some(gone), rest)
    }

    /// Works out what [`Shard::hide`] will hide: every shown record above what is hidden already and
    /// up to `through`, in all and for each delete of the topic that is still on its way.
    pub(super) fn plan_hiding(&self, slot: u32, through: u64) -> Result<Hiding, No> {
        let topic = self.topic(slot);
        let mut hiding = Hiding::default();
        if topic.pending_effects == 0 {
            return Ok(hiding); // the eviction will be shown at once, or is the only thing under way
        }
        let from = topic.shown.floor().max(topic.hidden.through) + 1;
        for pending in self.effects.iter().filter(|pending| pending.id == topic.id) {
            let Effect::Deleted { ranges, .. } = &pending.effect else { continue };
            let mut part = (0, 0);
            for (first, last) in ranges.iter().filter(|(first, last)| *first <= through && *last >= from) {
                self.walk(topic, from.max(*first), through.min(*last), |record| {
                    part = (part.0 + 1, part.1 + record.counted_bytes());
                    ControlFlow::Continue(())
                })?;
            }
            hiding.deletes.push(part);
        }
        Ok(hiding)
    }

    /// Takes expired records out of every reader's sight before their mark is committed.
    pub(super) fn hide(&mut self, slot: u32, through: u64, hiding: Hiding, block: u64) {
        let topic = self.topics[slot as usize].as_mut().expect("a used slot");
        if topic.shown.floor() >= through {
            return; // shown already
        }
        // Of what is on its way, evictions lie wholly below; deletes as far as was worked out.
        let (mut count, mut bytes) = (0, 0);
        let mut deletes = hiding.deletes.iter();
        for pending in self.effects.iter_mut().filter(|pending| pending.id == topic.id) {
            match &mut pending.effect {
                Effect::Appended { .. } | Effect::Linked(_) => {}
                Effect::Evicted(gone) => {
                    if gone.seq > topic.hidden.through {
                        count += gone.count;
                        bytes += gone.bytes;
                    }
                }
                Effect::Deleted { hidden, .. } => {
                    let (more, more_bytes) = deletes.next().copied().unwrap_or_default();
                    hidden.count += more;
                    hidden.bytes += more_bytes;
                    count += more;
                    bytes += more_bytes;
                }
            }
        }
        topic.hidden.through = through;
        topic.hidden.count += count;
        topic.hidden.bytes += bytes;
        topic.hidden.block = block;
        // They count no more, and with them neither do the jobs that they are.
        if let Some(queue) = &mut topic.queue {
            queue.remove_through(through);
        }
    }

    pub(super) fn unreadable(&self, block: &SealedBlock, why: &str) -> No {
        crate::error::EngineError::Unreadable(format!(
            "segment {:016x}, offset {}, seqs {}..={}: {why}",
            block.segment.0, block.meta.offset, block.meta.first_seq, block.meta.last_seq
        ))
        .into()
    }
}

impl Eviction {
    fn none(loss: Loss, floor: u64) -> Eviction {
        Eviction { loss, seq: floor, count: 0, bytes: 0, logged_count: 0, logged_bytes: 0 }
    }

    fn take(&mut self, seq: u64, count: u64, bytes: u64, heap: bool) {
        self.seq = seq;
        self.count += count;
        self.bytes += bytes;
        if !heap {
            self.logged_count += count;
            self.logged_bytes += bytes;
        }
    }
}
