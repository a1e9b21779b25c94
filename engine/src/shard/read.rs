//! Reading after a cursor (§5): one moment of one topic, rendered by the caller's visitor.

use super::{Shard, TopicRef};
use crate::error::No;
use crate::event::Record;
use crate::ids::Millis;
use crate::index::{SealedBlock, Source, Wanted};
use crate::ranges::RangeSet;
use crate::topic::{Loss, Topic};
use crate::wal::Wait;

/// Records examined by one read at most, so that a filter that rejects millions cannot hold the core;
/// the answer is then not caught up and the reader comes back (D-4).
const EXAMINED_MAX: u64 = 65_536;
/// Sealed blocks loaded beyond what this read needs, for a reader that follows.
const READAHEAD_BLOCKS: usize = 4;

/// Tells nodes whose records a reader does not want.
pub type NodeFilter<'a> = &'a dyn Fn(&[u8]) -> bool;

/// A read, its numbers already clamped (§5).
#[derive(Clone, Copy)]
pub struct ReadRequest<'a> {
    /// Deliver seqs above this.
    pub from_seq: u64,
    /// Records delivered at most.
    pub limit: u32,
    /// Bytes (J-23) delivered at most, but always one record (D-6).
    pub max_bytes: u64,
    /// Tells nodes whose records are passed over (D-7); `None` passes over none.
    pub skip_node: Option<NodeFilter<'a>>,
}

impl std::fmt::Debug for ReadRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ReadRequest { from_seq, limit, max_bytes, skip_node } = self;
        let filtered = if skip_node.is_some() { ", filtered" } else { "" };
        write!(f, "from {from_seq}, {limit} records, {max_bytes} bytes{filtered}")
    }
}

/// Why records are missing (D-14, D-15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TombstoneReason {
    /// Evicted by a cap.
    Cap,
    /// Expired.
    Ttl,
    /// Both.
    Mixed,
    /// A router's source lost them.
    SourceTrim,
    /// The cursor is beyond the head.
    Recreated,
}

/// A gap, in band (D-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// First missing seq.
    pub gap_from: u64,
    /// Last missing seq.
    pub gap_to: u64,
    /// Why.
    pub reason: TombstoneReason,
    /// First seq not covered.
    pub earliest_seq: u64,
    /// Head at the time.
    pub head_seq: u64,
}

/// What a read found, besides the records that went to the visitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOutcome {
    /// The topic.
    pub topic: TopicRef,
    /// The last examined seq (D-3).
    pub next_from_seq: u64,
    /// Head.
    pub head_seq: u64,
    /// First live position.
    pub earliest_seq: u64,
    /// Records given to the visitor.
    pub delivered: u32,
    /// Delivered plus filtered (§1.9).
    pub examined: u64,
    /// A gap.
    pub tombstone: Option<Tombstone>,
    /// When the answer may leave.
    pub wait: Wait,
}

impl ReadOutcome {
    /// D-4.
    pub fn caught_up(&self) -> bool {
        self.next_from_seq == self.head_seq
    }
}

impl Shard {
    /// Reads. `visit` gets each delivered record in order; after [`No::Load`] what it made is void.
    pub fn read(
        &mut self,
        name: &[u8],
        request: &ReadRequest<'_>,
        now: Millis,
        visit: impl FnMut(&Record<'_>),
    ) -> Result<ReadOutcome, No> {
        let slot = self.slot_of(name)?;
        let expiry = self.expire(slot, now)?;
        let topic = self.topic_mut(slot);
        topic.last_read_ts = Some(now);
        topic.last_consumed_ts = Some(now);
        let wait = expiry.max(Wait(topic.control_block));
        let mut outcome = self.scan(slot, request, true, visit)?;
        outcome.wait = wait;
        Ok(outcome)
    }

    /// `tells_trims`: what a source lost is told, in its place; else it is passed like any vacant seq.
    pub(super) fn scan(
        &self,
        slot: u32,
        request: &ReadRequest<'_>,
        tells_trims: bool,
        mut visit: impl FnMut(&Record<'_>),
    ) -> Result<ReadOutcome, No> {
        let topic = self.topic(slot);
        let visible = topic.visible();
        let (head, floor) = (visible.head, visible.floor());
        let tombstone = tombstone(topic, request.from_seq);
        let cursor = if request.from_seq > head { 0 } else { request.from_seq };
        let start = cursor.max(floor);
        let skip_node = request.skip_node.filter(|_| topic.config.dedupe_node);
        let mut out = ReadOutcome {
            topic: TopicRef { slot, id: topic.id },
            next_from_seq: start,
            head_seq: head,
            earliest_seq: topic.earliest_visible(),
            delivered: 0,
            examined: 0,
            tombstone,
            wait: Wait::default(),
        };
        let mut bytes = 0;
        let mut sealed_bytes = 0;
        let mut at = start + 1;
        let mut trims = Trims::new(topic, start, tells_trims);
        // Whether the read ends with this record.
        let mut give =
            |record: &Record<'_>, trims: &mut Trims<'_>, out: &mut ReadOutcome, bytes: &mut u64| {
                if trims.stop_before(record.seq, out) {
                    return true;
                }
                match offer(topic, record, request, skip_node, out, bytes) {
                    Offer::Deliver => visit(record),
                    Offer::Pass => {}
                    Offer::Stop => return true,
                }
                out.delivered == request.limit || out.examined == EXAMINED_MAX
            };
        'sources: while at <= head {
            if let Some((_, last)) = topic.deleted.covering(at) {
                out.next_from_seq = last.min(head);
                at = last + 1;
                continue;
            }
            let next = topic.index.at_or_after(at).filter(|source| source.range().0 <= head);
            let Some(source) = next else {
                // Only vacant seqs are left.
                if !trims.stop_before(head + 1, &mut out) {
                    out.next_from_seq = head;
                }
                break;
            };
            let last = source.range().1;
            match source {
                Source::Hot(frame) => {
                    let entry = topic.index.entry(frame, &self.log.chunks);
                    for record in entry.records_from(at) {
                        let record = record.expect("entries in memory are sound");
                        if give(&record, &mut trims, &mut out, &mut bytes) {
                            break 'sources;
                        }
                    }
                }
                Source::Sealed(block) => {
                    let found = self.cache.borrow_mut().get(&block.key());
                    sealed_bytes += u64::from(block.meta.bytes);
                    let Some(found) = found else {
                        // What was passed may have to leave the cache for what comes: then the reader
                        // gets what there is and comes back, or it would load in circles.
                        let crowded = sealed_bytes > self.cache.borrow().working_set_bytes();
                        if crowded && out.next_from_seq > start {
                            break 'sources;
                        }
                        let wanted = self.wanted_blocks(topic, at, &out, request, bytes);
                        return Err(No::Load(Wanted::Blocks(wanted)));
                    };
                    for record in found.records_from(at) {
                        let record = record.map_err(|error| self.unreadable(block, &error.to_string()))?;
                        if give(&record, &mut trims, &mut out, &mut bytes) {
                            break 'sources;
                        }
                    }
                    out.next_from_seq = last.min(head);
                }
            }
            at = last + 1;
        }
        Ok(out)
    }

    /// The sealed blocks that this read will probably want, from `at` on, and a few more.
    fn wanted_blocks(
        &self,
        topic: &Topic,
        at: u64,
        so_far: &ReadOutcome,
        request: &ReadRequest<'_>,
        bytes: u64,
    ) -> Vec<SealedBlock> {
        let mut records = u64::from(request.limit - so_far.delivered);
        let mut bytes = request.max_bytes.saturating_sub(bytes);
        let mut beyond = READAHEAD_BLOCKS;
        let mut cache = self.cache.borrow_mut();
        let mut room = cache.working_set_bytes();
        let mut wanted = Vec::new();
        for block in topic.index.sealed_from(at) {
            if records == 0 || bytes == 0 {
                if beyond == 0 {
                    break;
                }
                beyond -= 1;
            }
            if !wanted.is_empty() && u64::from(block.meta.bytes) > room {
                break;
            }
            room = room.saturating_sub(u64::from(block.meta.bytes));
            if wanted.is_empty() || cache.get(&block.key()).is_none() {
                wanted.push(block.clone());
            }
            let above = block.meta.last_seq - at.max(block.meta.first_seq) + 1;
            records = records.saturating_sub(above.min(u64::from(block.meta.count)));
            bytes = bytes.saturating_sub(block.meta.counted_bytes);
        }
        wanted
    }
}

/// The vacant seqs that a reader must hear of (I-68). A gap is told before anything behind it, and records
/// below it are not in the same answer: whoever resets at a tombstone would lose them.
struct Trims<'a> {
    ranges: &'a RangeSet,
    /// First and last seq of the next one.
    next: (u64, u64),
}

const NO_TRIM: (u64, u64) = (u64::MAX, u64::MAX);

impl<'a> Trims<'a> {
    fn new(topic: &'a Topic, start: u64, tells_trims: bool) -> Trims<'a> {
        let ranges = &topic.trims;
        let next = if tells_trims { ranges.at_or_after(start + 1) } else { None };
        Trims { ranges, next: next.unwrap_or(NO_TRIM) }
    }

    /// Comes to a live seq, or to the end: tells what lies before it, or whether the read ends before that.
    #[inline]
    fn stop_before(&mut self, seq: u64, out: &mut ReadOutcome) -> bool {
        seq > self.next.0 && self.meet(seq, out)
    }

    fn meet(&mut self, seq: u64, out: &mut ReadOutcome) -> bool {
        let head_seq = out.head_seq;
        while self.next.0 < seq.min(head_seq + 1) {
            let (first, last) = (self.next.0, self.next.1.min(head_seq));
            if out.delivered > 0 || out.tombstone.is_some() {
                out.next_from_seq = out.next_from_seq.max(first - 1);
                return true; // D-16
            }
            out.tombstone = Some(Tombstone {
                gap_from: first.max(out.next_from_seq + 1),
                gap_to: last,
                reason: TombstoneReason::SourceTrim,
                earliest_seq: last + 1,
                head_seq,
            });
            out.next_from_seq = last;
            self.next = self.ranges.at_or_after(last + 1).unwrap_or(NO_TRIM);
        }
        false
    }
}

enum Offer {
    Deliver,
    Pass,
    Stop,
}

/// Decides about the next record and moves the cursor over it. Deleted and filtered ones pass.
#[inline]
fn offer(
    topic: &Topic,
    record: &Record<'_>,
    request: &ReadRequest<'_>,
    skip_node: Option<NodeFilter<'_>>,
    out: &mut ReadOutcome,
    bytes: &mut u64,
) -> Offer {
    if record.seq > out.head_seq {
        out.next_from_seq = out.head_seq;
        return Offer::Stop;
    }
    if !topic.deleted.is_empty() && topic.deleted.contains(record.seq) {
        out.next_from_seq = record.seq;
        return Offer::Pass;
    }
    if skip_node.is_some_and(|skip| record.node.is_some_and(skip)) {
        out.examined += 1;
        out.next_from_seq = record.seq;
        return Offer::Pass;
    }
    let size = record.counted_bytes();
    if out.delivered > 0 && *bytes + size > request.max_bytes {
        out.next_from_seq = record.seq - 1;
        return Offer::Stop;
    }
    *bytes += size;
    out.delivered += 1;
    out.examined += 1;
    out.next_from_seq = record.seq;
    Offer::Deliver
}

/// D-12…D-16.
fn tombstone(topic: &Topic, from_seq: u64) -> Option<Tombstone> {
    let shown = &topic.visible();
    let head_seq = shown.head;
    if from_seq > head_seq {
        return Some(Tombstone {
            gap_from: 1,
            gap_to: head_seq,
            reason: TombstoneReason::Recreated,
            earliest_seq: topic.earliest_visible(),
            head_seq,
        });
    }
    let floor = shown.floor();
    if from_seq >= floor {
        return None;
    }
    let gap_from = from_seq + 1;
    let reached = |loss: Loss| shown.floors[loss as usize] >= gap_from;
    let reason = match (reached(Loss::Cap), reached(Loss::Ttl)) {
        (true, true) => TombstoneReason::Mixed,
        (true, false) => TombstoneReason::Cap,
        (false, true) => TombstoneReason::Ttl,
        (false, false) => TombstoneReason::SourceTrim,
    };
    Some(Tombstone { gap_from, gap_to: floor, reason, earliest_seq: floor + 1, head_seq })
}
