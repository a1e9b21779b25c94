//! Caps and age: what a write or an access pushes out of a topic, computed exactly before anything is
//! written. Evictions are by prefix (I-32) and travel as floor marks in the log, so that replay never
//! re-derives them from a configuration that may have changed since (I-24).

use super::{Eviction, Shard};
use crate::config::Discard;
use crate::error::No;
use crate::event::{Record, RecordSpan};
use crate::ids::Millis;
use crate::index::{SealedBlock, Source};
use crate::topic::{Loss, Topic, is_within};
use std::ops::ControlFlow;

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
                        return Err(No::Load(vec![block.clone()]));
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

    /// What must go so that the caps hold after `spans` were added, or `None` if nothing must.
    pub(super) fn plan_eviction(&self, topic: &Topic, spans: &[RecordSpan]) -> Result<Option<Eviction>, No> {
        let config = &topic.config;
        if config.discard != Discard::Old || (config.cap_records == 0 && config.cap_bytes == 0) {
            return Ok(None);
        }
        let floor = topic.ordered.floor();
        let head = topic.ordered.head + spans.len() as u64;
        let window = match config.cap_records {
            0 => 0,
            cap => topic.window_floor(head, cap),
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
            return Err(No::Busy);
        }
        let mut gone = Eviction { loss: Loss::Cap, seq: floor, count: 0, bytes: 0 };
        self.evict_stored(topic, window, excess, &mut gone)?;
        // A batch larger than the cap pushes out its own front (W-33, CF-12).
        for (index, span) in spans.iter().enumerate() {
            let seq = topic.ordered.head + 1 + index as u64;
            if seq > window && gone.bytes >= excess {
                break;
            }
            gone.take(seq, 1, span.counted_bytes());
        }
        gone.seq = gone.seq.max(window);
        Ok((gone.seq > floor).then_some(gone))
    }

    /// Adds stored live records to `gone`, oldest first, while they lie at or below `window` or fewer
    /// than `excess` bytes are gone. Whole entries and blocks without a hole count as one.
    fn evict_stored(&self, topic: &Topic, window: u64, excess: u64, gone: &mut Eviction) -> Result<(), No> {
        let head = topic.ordered.head;
        let mut at = gone.seq + 1;
        while at <= head && (at <= window || gone.bytes < excess) {
            let Some(source) = topic.index.at_or_after(at) else { break };
            let (first, last) = source.range();
            if first > window && gone.bytes >= excess {
                break;
            }
            let (count, bytes) = source.tally();
            let whole = first >= at
                && (last <= window || gone.bytes + bytes <= excess)
                && !topic.has_deleted_in_order(first, last);
            if whole {
                gone.take(last, count, bytes);
            } else {
                self.walk(topic, at, last, |record| {
                    if record.seq > window && gone.bytes >= excess {
                        return ControlFlow::Break(());
                    }
                    if !topic.is_deleted_in_order(record.seq) {
                        gone.take(record.seq, 1, record.counted_bytes());
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
    pub(super) fn plan_expiry(&self, topic: &Topic, now: Millis) -> Result<Option<Eviction>, No> {
        let ttl_ms = topic.config.ttl_ms;
        if ttl_ms == 0 {
            return Ok(None);
        }
        let floor = topic.ordered.floor();
        let mut gone = Eviction { loss: Loss::Ttl, seq: floor, count: 0, bytes: 0 };
        let mut at = floor + 1;
        while at <= topic.shown.head {
            let Some(source) = topic.index.at_or_after(at) else { break };
            let (first, last) = source.range();
            let (oldest, newest) = source.times();
            if is_within(oldest, now, ttl_ms) || last > topic.shown.head {
                break;
            }
            if topic.delete_at_work {
                return Err(No::Busy);
            }
            let all = !is_within(newest, now, ttl_ms);
            if all && first >= at && !topic.has_deleted_in_order(first, last) {
                let (count, bytes) = source.tally();
                gone.take(last, count, bytes);
            } else {
                let mut stopped = false;
                self.walk(topic, at, last, |record| {
                    if is_within(record.ts, now, ttl_ms) {
                        stopped = true;
                        return ControlFlow::Break(());
                    }
                    if !topic.is_deleted_in_order(record.seq) {
                        gone.take(record.seq, 1, record.counted_bytes());
                    }
                    ControlFlow::Continue(())
                })?;
                if stopped {
                    break;
                }
            }
            at = last + 1;
        }
        Ok((gone.seq > floor).then_some(gone))
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
    fn take(&mut self, seq: u64, count: u64, bytes: u64) {
        self.seq = seq;
        self.count += count;
        self.bytes += bytes;
    }
}
