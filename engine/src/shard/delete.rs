//! Deleting records (§6). A delete is fixed when it is ordered to the seqs that were shown then,
//! is worked out in bounded steps, and takes effect as one batch that lists the deleted ranges: replay
//! never matches tags again (I-29).

use super::topics::SMALL_ENTRY_ROOM;
use super::{Effect, Shard, TopicRef};
use crate::config::Class;
use crate::error::{EngineError, No};
use crate::ids::Millis;
use crate::index::{SealedBlock, Source, TagRun, Wanted};
use crate::sabotage::{self, Bug};
use crate::topic::{Hidden, Topic};
use crate::wal::Wait;
use crate::wal::frame::Kind;
use std::ops::ControlFlow;
use std::rc::Rc;

/// Records examined in one step.
const STEP_RECORDS: u64 = 32_768;
/// Ranges in one log entry; more go to further entries of the same batch.
const RANGES_PER_ENTRY: usize = 50_000;

/// A tag predicate (§6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagMatch {
    /// The tag equals this.
    Eq(Vec<u8>),
    /// The tag starts with this.
    Prefix(Vec<u8>),
}

impl TagMatch {
    /// Whether a record's tag matches; untagged records never do.
    pub fn matches(&self, tag: Option<&[u8]>) -> bool {
        match (self, tag) {
            (_, None) => false,
            (TagMatch::Eq(wanted), Some(tag)) => tag == wanted,
            (TagMatch::Prefix(prefix), Some(tag)) => tag.starts_with(prefix),
        }
    }
}

/// What a list of tags says about the predicate of the delete at work.
pub(super) struct TagHits {
    pub(super) run: TagRun,
    /// Seqs that match, ascending.
    pub(super) seqs: Vec<u64>,
}

/// Which records to delete; the edge has made sure that at least one selector is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRequest {
    /// Seqs below this.
    pub before_seq: Option<u64>,
    /// Tags that match.
    pub matcher: Option<TagMatch>,
}

/// A delete at work.
#[derive(Debug)]
pub struct Deletion {
    topic: TopicRef,
    /// Last seq that may go.
    through: u64,
    matcher: Option<TagMatch>,
    /// Next seq to look at.
    at: u64,
    ranges: Vec<(u64, u64)>,
    count: u64,
    bytes: u64,
    /// Those that the log knows: replay counts them out again, and never saw the others.
    logged_count: u64,
    logged_bytes: u64,
    /// The last of them.
    logged_through: u64,
}

/// The outcome of a delete: the topic right after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// Live records removed.
    pub deleted: u64,
    /// First live position.
    pub earliest_seq: u64,
    /// Head.
    pub head_seq: u64,
    /// Live records left.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the answer may leave.
    pub wait: Wait,
}

impl Shard {
    /// Orders a delete. It must be driven by [`Shard::delete_step`] to its end, or given up with
    /// [`Shard::delete_abandon`]; until then evictions of the topic wait.
    pub fn delete_start(
        &mut self,
        name: &[u8],
        request: &DeleteRequest,
        now: Millis,
    ) -> Result<Deletion, No> {
        let slot = self.slot_of(name)?;
        self.expire(slot, now)?;
        if self.topic(slot).config.class != Class::Ephemeral {
            self.may_write(SMALL_ENTRY_ROOM)?;
        }
        let topic = self.topic_mut(slot);
        if topic.delete_at_work {
            return Err(No::Busy);
        }
        topic.delete_at_work = true;
        let before = request.before_seq.unwrap_or(u64::MAX);
        Ok(Deletion {
            through: topic.shown.head.min(before.saturating_sub(1)),
            matcher: request.matcher.clone(),
            at: topic.ordered.floor() + 1,
            ..Deletion::of(TopicRef { slot, id: topic.id })
        })
    }

    /// One bounded step. `Ok(None)`: more to do, call again in a later turn.
    pub fn delete_step(&mut self, deletion: &mut Deletion) -> Result<Option<Deleted>, No> {
        let slot = deletion.topic.slot;
        let alive = self.topics[slot as usize].as_ref().is_some_and(|topic| topic.id == deletion.topic.id);
        if !alive {
            return Err(EngineError::TopicMissing.into());
        }
        let mut examined = 0;
        while deletion.at <= deletion.through {
            if examined >= STEP_RECORDS {
                return Ok(None);
            }
            let topic = self.topic(slot);
            let Some(source) = topic.index.at_or_after(deletion.at) else { break };
            let ((first, last), heap) = (source.range(), source.is_heap());
            if first > deletion.through {
                break;
            }
            if let (Source::Sealed(block), Some(matcher)) = (source, &deletion.matcher) {
                let mut at = deletion.at;
                let hit = self.next_hit(topic, block, &mut at, matcher);
                // What a list has ruled out stays ruled out: only one list is in memory at a time.
                deletion.at = at;
                if !hit? {
                    deletion.at = last + 1;
                    examined += 1;
                    continue;
                }
            }
            let (count, bytes) = source.tally();
            let whole = deletion.matcher.is_none()
                && first >= deletion.at
                && last <= deletion.through
                && count == last - first + 1
                && !topic.has_deleted_in_order(first, last);
            if whole {
                deletion.take(first, last, count, bytes, heap);
                deletion.at = last + 1;
                examined += 1;
                continue;
            }
            let (from, to) = (deletion.at, last.min(deletion.through));
            // Until the walk of this source succeeded nothing of it is taken: it may ask for a load.
            let mut found = Vec::new();
            self.walk(topic, from, to, |record| {
                examined += 1;
                let selected = deletion.matcher.as_ref().is_none_or(|matcher| matcher.matches(record.tag));
                if selected && !topic.is_deleted_in_order(record.seq) {
                    found.push((record.seq, record.counted_bytes()));
                }
                ControlFlow::Continue(())
            })?;
            for (seq, bytes) in found {
                deletion.take(seq, seq, 1, bytes, heap);
            }
            deletion.at = to + 1;
        }
        // What only memory holds goes without the log, but in order: not behind a mark that has no place in it.
        let topic = self.topic(slot);
        if deletion.is_logged(topic.config.class) || topic.pending_effects > 0 {
            self.may_write(deletion.room())?;
        }
        Ok(Some(self.delete_finish(deletion)))
    }

    /// Moves `at` to the first seq at or above it in a sealed block that may match, by the segment's
    /// lists of tags; `false` if there is none, so that the block need not be read.
    fn next_hit(
        &self,
        topic: &Topic,
        block: &SealedBlock,
        at: &mut u64,
        matcher: &TagMatch,
    ) -> Result<bool, No> {
        if !block.meta.has_tags {
            return Ok(false);
        }
        if !topic.index.has_tag_lists(block.segment) {
            return Ok(true); // lists are lost after a failed checkpoint: look at the records
        }
        *at = block.meta.first_seq.max(*at);
        while let Some(run) = topic.index.tags_at_or_after(block.segment, *at) {
            if run.place.first_seq > block.meta.last_seq {
                break;
            }
            let Some(hits) = self.tag_hits.get(&topic.id).filter(|hits| hits.run == *run) else {
                return Err(No::Load(Wanted::Tags(*run, matcher.clone())));
            };
            let next = hits.seqs.partition_point(|seq| *seq < *at);
            if let Some(seq) = hits.seqs.get(next) {
                *at = (*seq).max(*at);
                return Ok(*seq <= block.meta.last_seq);
            }
            *at = run.place.last_seq + 1;
        }
        Ok(false)
    }

    /// Gives up a delete that ended in a refusal or whose client is gone.
    pub fn delete_abandon(&mut self, deletion: &Deletion) {
        let topic = self.topics[deletion.topic.slot as usize].as_mut();
        if let Some(topic) = topic.filter(|topic| topic.id == deletion.topic.id) {
            topic.delete_at_work = false;
        }
        self.tag_hits.remove(&deletion.topic.id);
    }

    fn delete_finish(&mut self, deletion: &mut Deletion) -> Deleted {
        let TopicRef { slot, id } = deletion.topic;
        self.tag_hits.remove(&id);
        self.topic_mut(slot).delete_at_work = false;
        let count = deletion.count;
        let block = match deletion.ranges.is_empty() {
            true => self.topic(slot).control_block,
            false => self.order_deletion(deletion),
        };
        let topic = self.topic(slot);
        // Nothing deleted: the answer still shows numbers that may rest on appends on their way.
        let pending = self.effects.iter().rev().find(|pending| pending.id == id);
        let wait = Wait(pending.map_or(block, |pending| pending.block.max(block)));
        Deleted {
            deleted: count,
            earliest_seq: earliest_in_order(topic),
            head_seq: topic.ordered.head,
            count: topic.ordered.count,
            bytes: topic.ordered.bytes,
            wait,
        }
    }

    /// Logs what was worked out and counts it out, to be shown when it is committed. Returns the block
    /// that an answer waits for. Room in the log was made sure of.
    pub(super) fn order_deletion(&mut self, deletion: &mut Deletion) -> u64 {
        let TopicRef { slot, id } = deletion.topic;
        let (count, bytes) = (deletion.count, deletion.bytes);
        let ranges: Rc<[(u64, u64)]> = std::mem::take(&mut deletion.ranges).into();
        let topic = self.topic_mut(slot);
        let class = topic.config.class;
        let mut block = topic.control_block;
        topic.losses += 1;
        topic.ordered.count -= count;
        topic.ordered.bytes -= bytes;
        topic.deleting.push_back(ranges.clone());
        if let Some(queue) = &mut topic.queue {
            ranges.iter().for_each(|(first, last)| queue.leave(*first, *last));
        }
        let is_ack = topic.queue.is_some();
        let forgotten = sabotage::is(if is_ack { Bug::AckUnlogged } else { Bug::DeleteUnlogged });
        if deletion.is_logged(class) && !forgotten {
            self.log_delete(deletion, &ranges, class == Class::Fsync);
            block = self.log.entry_block();
        }
        self.quota.give_bytes(bytes);
        self.enqueue(slot, id, block, Effect::Deleted { ranges, count, bytes, hidden: Hidden::default() })
    }

    /// Body: topic, records, bytes (both in the first entry only), then first and last of each range.
    fn log_delete(&mut self, deletion: &Deletion, ranges: &[(u64, u64)], sync: bool) {
        let mut body = std::mem::take(&mut self.scratch);
        // Seqs of class `ephemeral` above the last logged record may be given away again after a
        // crash: replay must not know them as deleted.
        let class = self.topic(deletion.topic.slot).config.class;
        let through = if class == Class::Ephemeral { deletion.logged_through } else { u64::MAX };
        let ranges = &ranges[..ranges.partition_point(|(first, _)| *first <= through)];
        let pieces = ranges.chunks(RANGES_PER_ENTRY).count();
        for (index, piece) in ranges.chunks(RANGES_PER_ENTRY).enumerate() {
            body.clear();
            let first = index == 0;
            let (count, bytes) = if first { (deletion.logged_count, deletion.logged_bytes) } else { (0, 0) };
            for number in [deletion.topic.id.0, count, bytes] {
                body.extend_from_slice(&number.to_le_bytes());
            }
            for (first, last) in piece {
                body.extend_from_slice(&first.to_le_bytes());
                body.extend_from_slice(&last.min(&through).to_le_bytes());
            }
            self.log.put_entry(Kind::Delete, &body, index + 1 == pieces, sync);
        }
        self.scratch = body;
    }
}

impl Deletion {
    /// Of nothing yet.
    pub(super) fn of(topic: TopicRef) -> Deletion {
        Deletion {
            topic,
            through: 0,
            matcher: None,
            at: 0,
            ranges: Vec::new(),
            count: 0,
            bytes: 0,
            logged_count: 0,
            logged_bytes: 0,
            logged_through: 0,
        }
    }

    /// Room for its entries in the log, and what they leave empty at the ends of chunks.
    fn room(&self) -> u64 {
        SMALL_ENTRY_ROOM + 2 * 16 * self.ranges.len() as u64
    }

    /// Whether it leaves a trace in the log.
    fn is_logged(&self, class: Class) -> bool {
        class != Class::Ephemeral || self.logged_count > 0
    }

    pub(super) fn take(&mut self, first: u64, last: u64, count: u64, bytes: u64, heap: bool) {
        self.count += count;
        self.bytes += bytes;
        if !heap {
            self.logged_count += count;
            self.logged_bytes += bytes;
            self.logged_through = last;
        }
        match self.ranges.last_mut() {
            Some((_, end)) if *end + 1 == first => *end = last,
            _ => self.ranges.push((first, last)),
        }
    }
}

/// [`Topic::earliest`] once everything on its way is committed.
pub(super) fn earliest_in_order(topic: &Topic) -> u64 {
    let mut seq = topic.ordered.floor() + 1;
    while seq <= topic.ordered.head {
        let hole = topic.deleted.covering(seq).or_else(|| topic.vacant.covering(seq)).or_else(|| {
            topic.deleting.iter().find_map(|ranges| {
                let at = ranges.partition_point(|(_, last)| *last < seq);
                ranges.get(at).copied().filter(|(first, _)| *first <= seq)
            })
        });
        match hole {
            Some((_, last)) => seq = last + 1,
            None => return seq,
        }
    }
    topic.ordered.head + 1
}
