//! What happens behind the appends: log files made ready and recycled, memory sealed into segments,
//! checkpoints, sealed blocks loaded. All of it runs as jobs beside the commit path and in bounded
//! pieces; nothing here makes an append wait, unless memory runs out faster than the disk can take it.
//!
//! A *seal* takes the oldest committed chunks of the log, writes their live records to segments, and
//! then lets the chunks go. It is always followed by a *checkpoint*, which names the segments, and after
//! which log files below the **previous** checkpoint's start are recycled: were the newest checkpoint
//! unreadable, the one before it and the log would give the same state (I-95).
//!
//! A checkpoint describes the topics as shown, that is as of the last committed block, and is written
//! only once that block is durable. Recovery replays from the seal's end: blocks up to the described one
//! only re-enter the index, later ones are applied.

use super::{LoadId, Notice, Shard, TopicRef};
use crate::cache::BlockKey;
use crate::checkpoint::{self, CheckpointHead, Edit, TopicState};
use crate::disk::{Io, Op};
use crate::error::DiskError;
use crate::event::Record;
use crate::ids::{Lsn, Millis, SegmentId, TopicId};
use crate::index::SealedBlock;
use crate::limits::CHUNK_BYTES;
use crate::mem::Chunk;
use crate::ranges::RangeSet;
use crate::segment::{self, CachedBlock, SegmentError, SegmentMeta, SegmentWriter};
use crate::topic::{Loss, Remembered, is_within};
use crate::wal::chunks::records_at;
use crate::wal::files;
use crate::wal::frame::{ENTRY_HEADER_BYTES, RecordsEntry};
use crate::wal::log::{FrameRef, LogFile};
use ahash::AHashMap;
use std::collections::VecDeque;

/// A topic with this much in one seal gets a segment of its own.
const OWN_SEGMENT_BYTES: u64 = 4 << 20;
/// After a failed seal or checkpoint (a full disk, say) the next try comes this much later.
const RETRY_MS: i64 = 1000;
/// Outstanding `disk`-class data is synced this often (semantics §5: within one second).
const SYNC_EVERY_MS: i64 = 400;

/// The outcome of a background job.
pub enum JobDone {
    /// A log file is ready.
    FilePrepared {
        /// The slot it was to have.
        slot: u32,
        /// Whether there was a file in it.
        recycled: bool,
        /// The file.
        result: Result<LogFile, DiskError>,
    },
    /// Segments were written for everything below `upto`.
    Sealed {
        /// End of what was sealed.
        upto: Lsn,
        /// The topics that had entries there, whether or not any record was still alive.
        topics: Vec<TopicRef>,
        /// The segments, their directory entries synced.
        result: Result<Vec<SegmentMeta>, String>,
    },
    /// A checkpoint was written, or the chain was merged into one.
    Checkpointed {
        /// What it said of itself.
        head: CheckpointHead,
        /// Its size.
        result: Result<u64, String>,
        /// Segments it no longer names.
        removed: Vec<SegmentId>,
    },
    /// Blocks were read.
    Loaded {
        /// For whom.
        id: LoadId,
        /// The verified blocks.
        result: Result<Vec<(BlockKey, CachedBlock)>, String>,
    },
    /// Files nobody needs were removed.
    Removed,
}

pub(super) struct SegmentInfo {
    pub(super) file_bytes: u64,
    /// Other shards may hold topics in it too (after a change of the number of shards): removed at
    /// start only.
    pub(super) shared: bool,
    pub(super) live_blocks: u64,
}

/// A checkpoint waiting for the log to be durable.
struct Waiting {
    head: CheckpointHead,
    edits: Vec<Edit>,
    removed: Vec<SegmentId>,
}

/// State of the work behind the appends.
pub(super) struct Sealing {
    /// Topics changed since the last checkpoint.
    pub(super) changed: Vec<TopicRef>,
    /// Topics dropped since.
    pub(super) dropped: Vec<TopicId>,
    /// Idempotency keys used since.
    pub(super) new_keys: Vec<(TopicId, u128, Remembered)>,
    /// Which topics have entries in which chunk, in order of chunks.
    pub(super) touched: VecDeque<(u64, TopicRef)>,
    pub(super) segments: AHashMap<SegmentId, SegmentInfo>,
    /// Segments added since the last checkpoint.
    added: Vec<SegmentMeta>,
    /// Segments without a live block.
    removable: Vec<SegmentId>,
    pub(super) next_segment: u64,
    /// Everything below is in segments.
    pub(super) sealed_to: Lsn,
    /// Number of the first block at `sealed_to`.
    pub(super) log_start_block: u64,
    /// When the chunk after `sealed_to` got its first entry.
    oldest_since: Option<Millis>,
    pub(super) next_slot: u32,
    /// Slots of recycled files.
    pub(super) free_slots: Vec<u32>,
    preparing: bool,
    /// Why the next log file could not be made ready, until one is.
    pub(super) no_file: Option<DiskError>,
    sealing: bool,
    waiting: Option<Waiting>,
    checkpointing: bool,
    /// A checkpoint failed: the next one describes everything and builds on none.
    lost: bool,
    /// Number of the last checkpoint, 0 if none.
    pub(super) checkpoint: u64,
    /// Highest number in use, whether or not that one can be read.
    pub(super) highest: u64,
    /// Log files of earlier runs that are still needed, as number and slot.
    pub(super) old_files: Vec<(u64, u32)>,
    /// Its chain: numbers with their bases.
    pub(super) existing: Vec<(u64, Option<u64>)>,
    pub(super) chain_len: usize,
    pub(super) full_bytes: u64,
    delta_bytes: u64,
    /// Where replay from the last checkpoint starts, and from the one before.
    pub(super) log_start: Lsn,
    pub(super) previous_log_start: Lsn,
    pub(super) checkpoints: u64,
    retry_at: Millis,
    /// Apart from that of seals: a seal that fails must not keep a log file from being made.
    file_retry_at: Millis,
    last_sync: Millis,
    /// A clean stop was asked for: 1 asked, 2 its checkpoint is under way, 3 written.
    stopping: u8,
    now: Millis,
}

impl Sealing {
    pub(super) fn new(sealed_to: Lsn) -> Sealing {
        Sealing {
            changed: Vec::new(),
            dropped: Vec::new(),
            new_keys: Vec::new(),
            touched: VecDeque::new(),
            segments: AHashMap::new(),
            added: Vec::new(),
            removable: Vec::new(),
            next_segment: 1,
            sealed_to,
            log_start_block: 1,
            oldest_since: None,
            next_slot: 0,
            free_slots: Vec::new(),
            preparing: false,
            no_file: None,
            sealing: false,
            waiting: None,
            checkpointing: false,
            lost: false,
            checkpoint: 0,
            highest: 0,
            old_files: Vec::new(),
            existing: Vec::new(),
            chain_len: 0,
            full_bytes: 0,
            delta_bytes: 0,
            log_start: sealed_to,
            previous_log_start: sealed_to,
            checkpoints: 0,
            retry_at: 0,
            file_retry_at: 0,
            last_sync: 0,
            stopping: 0,
            now: 0,
        }
    }

    /// A block of a topic is no longer needed.
    pub(super) fn release(&mut self, id: SegmentId) {
        let info = self.segments.get_mut(&id).expect("blocks lie in known segments");
        info.live_blocks -= 1;
        if info.live_blocks == 0 {
            self.mark_removable(id);
        }
    }

    /// Nothing alive is in the segment any more. Shared ones are left to the next start, which sees
    /// what every shard needs.
    pub(super) fn mark_removable(&mut self, id: SegmentId) {
        self.removable.push(id);
    }
}

/// What a seal takes of one topic.
struct Item {
    topic: TopicRef,
    frames: Vec<FrameRef>,
    bytes: u64,
    /// Seqs up to here are dead.
    dead_through: u64,
    /// So are these.
    deleted: RangeSet,
    /// A block must not span these seqs: other records lie between, elsewhere.
    cuts: Vec<u64>,
}

impl Shard {
    /// Starts whatever is due. Called every turn; cheap when nothing is.
    pub(super) fn seal_if_due(&mut self, now: Millis, now_us: u64) {
        self.sealing.now = now;
        self.log.chunks.collect();
        if !self.sealing.preparing && self.log.failed().is_none() && now >= self.sealing.file_retry_at {
            if let Some(number) = self.log.wanted_file() {
                self.prepare_file(number);
            }
        }
        if now - self.sealing.last_sync >= SYNC_EVERY_MS {
            self.sealing.last_sync = now;
            self.log.sync_soon(now_us);
        }
        if self.sealing.waiting.is_some() {
            self.checkpoint_when_durable(now_us);
            return;
        }
        if self.sealing.sealing || self.sealing.checkpointing || now < self.sealing.retry_at {
            return;
        }
        if self.sealing.stopping == 1 {
            if !self.log.is_busy() && self.effects.is_empty() {
                self.sealing.stopping = 2;
                self.snapshot(now, true);
            }
            return;
        }
        if self.sealing.stopping > 1 {
            return; // nothing may follow the clean checkpoint in the log
        }
        if let Some(upto) = self.due(now) {
            self.seal(upto);
        }
    }

    /// The chunk number up to which should be sealed now, if any.
    fn due(&mut self, now: Millis) -> Option<u64> {
        let base = self.log.chunks.base();
        let end = self.log.committed_chunks_end().max(base);
        if self.sealing.oldest_since.is_none() && self.sealing.touched.front().is_some() {
            self.sealing.oldest_since = Some(now);
        }
        let full = self.log.chunks.held() > self.log.chunks.limit() / 2;
        let max_age = self.settings.segment_max_age_ms;
        let old = max_age != 0
            && self
                .sealing
                .oldest_since
                .is_some_and(|since| now - since > max_age.min(i64::MAX as u64) as i64);
        if old && end == base && !self.log.is_busy() {
            // Too little was written to fill a chunk: end it, so that it can be sealed.
            self.log.end_chunk();
            return None;
        }
        if end == base || !(full || old) {
            return None;
        }
        let most = (self.settings.segment_max_bytes / CHUNK_BYTES as u64).clamp(1, 64);
        Some(end.min(base + most))
    }

    fn seal(&mut self, upto_chunk: u64) {
        let upto = Lsn(upto_chunk * CHUNK_BYTES as u64);
        let (topics, items) = self.take_items(upto_chunk);
        let ids = self.settings.layout << 48 | u64::from(self.settings.shard) << 40;
        let job = self.seal_job(upto_chunk, ids, self.sealing.next_segment);
        // Every segment takes at least one topic, so this many ids are enough.
        self.sealing.next_segment += items.len() as u64 * 2 + upto_chunk - self.log.chunks.base() + 1;
        self.sealing.sealing = true;
        self.jobs.add(async move {
            let result = job.run(items).await.map_err(|error| error.to_string());
            JobDone::Sealed { upto, topics, result }
        });
    }

    /// Seals all that the log holds, at once: of a shard that was recovered and is taken apart.
    pub(super) async fn seal_everything(&mut self, ids: u64) -> Result<Vec<SegmentMeta>, SegmentError> {
        let upto_chunk = self.log.committed_chunks_end();
        let (_, items) = self.take_items(upto_chunk);
        self.seal_job(upto_chunk, ids, 1).run(items).await
    }

    /// The topics with entries in the chunks below, and what a seal takes of them.
    fn take_items(&mut self, upto_chunk: u64) -> (Vec<TopicRef>, Vec<Item>) {
        let upto = Lsn(upto_chunk * CHUNK_BYTES as u64);
        let mut topics = Vec::new();
        while self.sealing.touched.front().is_some_and(|(chunk, _)| *chunk < upto_chunk) {
            topics.push(self.sealing.touched.pop_front().expect("just seen").1);
        }
        topics.sort_by_key(|topic| topic.id);
        topics.dedup();
        let mut items = Vec::new();
        for found in &topics {
            let Some(topic) = self.topics[found.slot as usize].as_ref().filter(|t| t.id == found.id) else {
                continue;
            };
            let frames: Vec<FrameRef> = topic.index.log_frames_below(upto).copied().collect();
            let (Some(first), Some(last)) = (frames.first(), frames.last()) else { continue };
            let deleted = topic
                .deleted
                .iter()
                .filter(|(start, end)| *end >= first.first_seq && *start <= last.last_seq());
            items.push(Item {
                topic: *found,
                bytes: frames.iter().map(|frame| u64::from(frame.counted_bytes)).sum(),
                dead_through: topic.earliest() - 1,
                deleted: deleted.collect(),
                cuts: topic.index.heap_frames().map(|frame| frame.first_seq).collect(),
                frames,
            });
        }
        (topics, items)
    }

    fn seal_job(&self, upto_chunk: u64, ids: u64, next_segment: u64) -> SealJob {
        let base = self.log.chunks.base();
        SealJob {
            io: self.io.clone(),
            chunks: (base..upto_chunk).map(|number| self.log.chunks.get(number).cloned()).collect(),
            base,
            ids,
            next_segment,
            events_max: self.settings.segment_max_events,
            bytes_max: self.settings.segment_max_bytes,
        }
    }

    fn prepare_file(&mut self, number: u64) {
        self.sealing.preparing = true;
        let (slot, recycled) = match self.sealing.free_slots.pop() {
            Some(slot) => (slot, true),
            None => {
                self.sealing.next_slot += 1;
                (self.sealing.next_slot - 1, false)
            }
        };
        let header = self.log.header_for(number, self.settings.directory);
        let job = files::prepare(self.io.clone(), self.settings.dir(), slot, header, recycled);
        self.jobs.add(async move { JobDone::FilePrepared { slot, recycled, result: job.await } });
    }

    pub(super) fn on_job(&mut self, done: JobDone, now: Millis) {
        match done {
            JobDone::FilePrepared { slot, recycled, result } => {
                self.sealing.preparing = false;
                self.sealing.no_file = result.as_ref().err().copied();
                match result {
                    Ok(file) => self.log.add_file(file),
                    Err(error) => {
                        // The next try takes the same slot, or each would leave one more behind.
                        match recycled {
                            true => self.sealing.free_slots.push(slot),
                            false => self.sealing.next_slot = slot,
                        }
                        self.sealing.file_retry_at = now + RETRY_MS;
                        self.notice(true, format!("a log file could not be prepared: {error}"));
                    }
                }
            }
            JobDone::Sealed { upto, topics, result } => {
                self.sealing.sealing = false;
                match result {
                    Ok(segments) => {
                        self.install(upto, &topics, segments);
                        self.snapshot(now, false);
                    }
                    Err(error) => {
                        let chunk = self.log.chunks.base();
                        for topic in topics.into_iter().rev() {
                            self.sealing.touched.push_front((chunk, topic));
                        }
                        self.sealing.retry_at = now + RETRY_MS;
                        self.notice(true, format!("sealing failed, will be tried again: {error}"));
                    }
                }
            }
            JobDone::Checkpointed { head, result, removed } => self.on_checkpoint(head, result, removed, now),
            JobDone::Loaded { id, result } => {
                let result = result.map(|blocks| {
                    let mut cache = self.cache.borrow_mut();
                    for (key, block) in blocks {
                        cache.insert(key, block);
                    }
                });
                self.loaded.push((id, result));
            }
            JobDone::Removed => {}
        }
    }

    fn notice(&mut self, severe: bool, text: String) {
        self.notices.push(Notice { severe, text });
    }

    /// Puts sealed blocks in the place of log entries and lets the memory go.
    fn install(&mut self, upto: Lsn, topics: &[TopicRef], segments: Vec<SegmentMeta>) {
        let mut blocks: AHashMap<TopicId, Vec<SealedBlock>> = AHashMap::new();
        for segment in &segments {
            let live_blocks = segment.runs.iter().map(|run| run.blocks.len() as u64).sum();
            let info = SegmentInfo { file_bytes: segment.file_bytes, shared: false, live_blocks };
            self.sealing.segments.insert(segment.id, info);
            for run in &segment.runs {
                let of_run = run.blocks.iter().map(|meta| SealedBlock {
                    topic: run.topic,
                    segment: segment.id,
                    meta: *meta,
                });
                blocks.entry(run.topic).or_default().extend(of_run);
            }
        }
        for found in topics {
            let of_topic = blocks.remove(&found.id).unwrap_or_default();
            let topic = self.topics[found.slot as usize].as_mut().filter(|topic| topic.id == found.id);
            let Some(topic) = topic else {
                of_topic.iter().for_each(|block| self.sealing.release(block.segment));
                continue;
            };
            topic.index.install(upto, of_topic.into_iter());
            let dead = topic.earliest() - 1;
            let sealing = &mut self.sealing;
            topic.index.drop_through(dead, |block| sealing.release(block.segment));
        }
        self.sealing.added.extend(segments);
        self.sealing.sealed_to = upto;
        self.sealing.log_start_block = self.log.first_block_in(upto.0 / CHUNK_BYTES as u64);
        self.sealing.oldest_since = None;
        self.log.chunks.release_below(upto.0 / CHUNK_BYTES as u64);
    }

    /// Describes the topics as they are shown now; the checkpoint is written when that is durable.
    fn snapshot(&mut self, now: Millis, clean: bool) {
        let mut edits = Vec::new();
        let full = std::mem::take(&mut self.sealing.lost) || self.sealing.checkpoint == 0;
        for id in std::mem::take(&mut self.sealing.dropped) {
            if !full {
                edits.push(Edit::Drop(id));
            }
        }
        for found in std::mem::take(&mut self.sealing.changed) {
            let topic = self.topics[found.slot as usize].as_mut().filter(|topic| topic.id == found.id);
            if let Some(topic) = topic {
                topic.changed = false;
                let state = self.describe(found.slot);
                edits.push(Edit::Topic(state));
            }
        }
        for segment in std::mem::take(&mut self.sealing.added) {
            let SegmentMeta { id, file_bytes, runs } = segment;
            // Not always a new one: after a lost checkpoint all are described again.
            let shared = self.sealing.segments.get(&id).is_some_and(|info| info.shared);
            edits.push(Edit::AddSegment { id, file_bytes, shared });
            edits.extend(runs.into_iter().map(|run| Edit::AddRun(id, run)));
        }
        let mut removed = std::mem::take(&mut self.sealing.removable);
        for id in &removed {
            self.cache.borrow_mut().remove_segment(*id);
            if !full {
                edits.push(Edit::RemoveSegment(*id));
            }
        }
        // Files that other shards may need are left to the next start, which sees what all need.
        removed.retain(|id| self.sealing.segments.remove(id).is_some_and(|info| !info.shared));
        let described = self.log.committed();
        for (topic, key_hash, outcome) in std::mem::take(&mut self.sealing.new_keys) {
            if outcome.block > described {
                // Its batch may still be lost, and then the key must be unknown (I-72).
                self.sealing.new_keys.push((topic, key_hash, outcome));
                continue;
            }
            let Some(slot) = self.by_id.get(&topic) else { continue };
            if is_within(outcome.ts, now, self.topic(*slot).config.idempotency_window_ms) {
                let Remembered { first_seq, count, ts, .. } = outcome;
                edits.push(Edit::Dedup(checkpoint::Dedup { topic, key_hash, first_seq, count, ts }));
            }
        }
        self.sealing.highest += 1;
        let head = CheckpointHead {
            number: self.sealing.highest,
            base: (!full).then_some(self.sealing.checkpoint),
            log_start: self.sealing.sealed_to,
            clean,
            ..self.checkpoint_head(now)
        };
        self.sealing.waiting = Some(Waiting { head, edits, removed });
    }

    fn checkpoint_head(&self, now: Millis) -> CheckpointHead {
        CheckpointHead {
            number: 0,
            base: None,
            shard: self.settings.shard,
            shards: self.settings.shards,
            layout: self.settings.layout,
            log_start: self.sealing.log_start,
            next_block: self.sealing.log_start_block,
            described_block: self.log.committed(),
            epoch: self.log.epoch(),
            next_topic: self.next_topic,
            next_segment: self.sealing.next_segment,
            clean: false,
            at_ms: now,
        }
    }

    /// A topic as a checkpoint describes it: as shown, without what only memory holds.
    pub(super) fn describe(&self, slot: u32) -> TopicState {
        let topic = self.topic(slot);
        let mut vacant = topic.vacant.clone();
        let (mut count, mut bytes) = (topic.shown.count, topic.shown.bytes);
        let dead = topic.earliest() - 1;
        for frame in topic.index.heap_frames() {
            // Records of class `ephemeral` do not return: a silent gap (I-57, I-59).
            let last = frame.last_seq().min(topic.shown.head);
            if last < frame.first_seq {
                continue;
            }
            for record in topic.index.entry(frame, &self.log.chunks).records_from(dead + 1).flatten() {
                if record.seq <= last && !topic.deleted.contains(record.seq) {
                    count -= 1;
                    bytes -= record.counted_bytes();
                }
            }
            vacant.insert(frame.first_seq, last);
        }
        let floor = |loss: Loss| topic.shown.floors[loss as usize];
        TopicState {
            id: topic.id,
            name: topic.name.to_vec(),
            config: topic.config.clone(),
            head: topic.shown.head,
            reserved: topic.reserved.max(topic.shown.head),
            floor_cap: floor(Loss::Cap),
            floor_ttl: floor(Loss::Ttl),
            floor_source: floor(Loss::Source),
            count,
            bytes,
            vacant: vacant.iter().collect(),
            deleted: topic.deleted.iter().collect(),
            last_write_ts: topic.last_write_ts.unwrap_or(0),
        }
    }

    fn checkpoint_when_durable(&mut self, now_us: u64) {
        let waiting = self.sealing.waiting.as_ref().expect("asked only then");
        let described = waiting.head.described_block;
        if !self.log.is_durable(described) {
            if self.log.failed().is_some() {
                self.sealing.waiting = None; // no checkpoint over a log that failed
                return;
            }
            self.log.sync_soon(now_us);
            return;
        }
        let Waiting { head, edits, removed } = self.sealing.waiting.take().expect("just seen");
        self.sealing.checkpointing = true;
        let (io, dir) = (self.io.clone(), self.settings.dir());
        self.jobs.add(async move {
            let result = checkpoint::write_checkpoint(&io, &dir, &head, &edits).await;
            JobDone::Checkpointed { head, result: result.map_err(|error| error.to_string()), removed }
        });
    }

    fn on_checkpoint(
        &mut self,
        head: CheckpointHead,
        result: Result<u64, String>,
        removed: Vec<SegmentId>,
        now: Millis,
    ) {
        self.sealing.checkpointing = false;
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(error) => {
                self.sealing.retry_at = now + RETRY_MS;
                self.notice(true, format!("a checkpoint could not be written, will be tried again: {error}"));
                self.describe_everything_again(removed);
                return;
            }
        };
        let sealing = &mut self.sealing;
        sealing.checkpoints += 1;
        sealing.checkpoint = head.number;
        sealing.existing.push((head.number, head.base));
        if sealing.log_start != head.log_start {
            sealing.previous_log_start = sealing.log_start;
            sealing.log_start = head.log_start;
        }
        match head.base {
            None => (sealing.full_bytes, sealing.delta_bytes, sealing.chain_len) = (bytes, 0, 1),
            Some(_) => {
                sealing.delta_bytes += bytes;
                sealing.chain_len += 1;
            }
        }
        if sealing.stopping == 2 {
            sealing.stopping = 3;
        }
        self.recycle_files();
        self.remove_files(removed);
        let sealing = &self.sealing;
        if sealing.stopping == 0
            && checkpoint::should_be_full(sealing.chain_len, sealing.delta_bytes, sealing.full_bytes)
        {
            self.merge_chain(now);
        }
    }

    /// After a failed checkpoint its edits are lost; the next one says everything of what changed by
    /// describing every topic, segment and key again. (Rare: a full disk.)
    fn describe_everything_again(&mut self, removed: Vec<SegmentId>) {
        self.sealing.stopping = self.sealing.stopping.min(1);
        self.sealing.lost = true;
        self.sealing.added.clear();
        self.sealing.new_keys.clear();
        for id in removed {
            // Files stay until a checkpoint without them is written; they are named by none.
            let info = SegmentInfo { file_bytes: 0, shared: false, live_blocks: 0 };
            self.sealing.segments.insert(id, info);
            self.sealing.removable.push(id);
        }
        let mut runs: AHashMap<SegmentId, Vec<segment::Run>> = AHashMap::new();
        for slot in 0..self.topics.len() as u32 {
            let Some(topic) = self.topics[slot as usize].as_mut() else { continue };
            if !topic.changed {
                topic.changed = true;
                self.sealing.changed.push(TopicRef { slot, id: topic.id });
            }
            for block in topic.index.sealed() {
                let of_segment = runs.entry(block.segment).or_default();
                match of_segment.last_mut().filter(|run| run.topic == topic.id) {
                    Some(run) => run.blocks.push(block.meta.clone()),
                    None => of_segment.push(segment::Run {
                        topic: topic.id,
                        blocks: vec![block.meta.clone()],
                        tags: Vec::new(),
                    }),
                }
            }
            if let Some(dedup) = &topic.dedup {
                let window_ms = topic.config.idempotency_window_ms;
                let keys =
                    dedup.live(self.sealing.now, window_ms).map(|(hash, found)| (topic.id, hash, found));
                self.sealing.new_keys.extend(keys);
            }
        }
        for (id, runs) in runs {
            let file_bytes = self.sealing.segments[&id].file_bytes;
            self.sealing.added.push(SegmentMeta { id, file_bytes, runs });
        }
    }

    /// Rewrites the chain of checkpoints as one, from the files alone.
    fn merge_chain(&mut self, now: Millis) {
        self.sealing.checkpointing = true;
        let (io, dir) = (self.io.clone(), self.settings.dir());
        self.sealing.highest += 1;
        let number = self.sealing.highest;
        let mut head = self.checkpoint_head(now);
        self.jobs.add(async move {
            let result = async {
                let loaded = checkpoint::load(&io, &dir).await.map_err(|error| error.to_string())?;
                let loaded = loaded.ok_or_else(|| "the chain is gone".to_owned())?;
                head = CheckpointHead { number, base: None, ..loaded.head };
                let edits = loaded
                    .into_edits(|topic, key| is_within(key.ts, now, topic.config.idempotency_window_ms));
                checkpoint::write_checkpoint(&io, &dir, &head, &edits)
                    .await
                    .map_err(|error| error.to_string())
            };
            let result = result.await;
            JobDone::Checkpointed { head, result, removed: Vec::new() }
        });
    }

    /// Gives log files back that neither of the last two checkpoints needs.
    fn recycle_files(&mut self) {
        let keep = self.settings.wal_keep_bytes;
        let limit = self.sealing.previous_log_start.min(self.sealing.log_start).0.saturating_sub(keep);
        let file_bytes = self.settings.file_bytes;
        let sealing = &mut self.sealing;
        sealing.old_files.retain(|(number, slot)| {
            let needed = (number + 1) * file_bytes > limit;
            if !needed {
                sealing.free_slots.push(*slot);
            }
            needed
        });
        for file in self.log.retire_files_below(Lsn(limit)) {
            self.io.submit(Op::Close { file: file.file });
            self.sealing.free_slots.push(file.slot);
        }
    }

    /// Removes segments that no checkpoint names and checkpoints that no start needs.
    fn remove_files(&mut self, segments: Vec<SegmentId>) {
        let numbers = checkpoint::plan_retention(&self.sealing.existing);
        self.sealing.existing.retain(|(number, _)| !numbers.contains(number));
        if segments.is_empty() && numbers.is_empty() {
            return;
        }
        let (io, files, dir) = (self.io.clone(), self.files.clone(), self.settings.dir());
        self.jobs.add(async move {
            // What cannot be removed now is removed at the next start.
            for id in segments {
                files.forget(&io, id).await;
                let _ = io.remove(&segment::path(id)).await;
            }
            for number in numbers {
                let _ = io.remove(&format!("{dir}/{}", checkpoint::file_name(number))).await;
            }
            JobDone::Removed
        });
    }

    /// Loads sealed blocks for an operation that ended in [`No::Load`](crate::error::No::Load); the
    /// result comes with [`Shard::take_loaded`].
    pub fn load(&mut self, blocks: Vec<SealedBlock>) -> LoadId {
        let id = LoadId(self.next_load);
        self.next_load += 1;
        let (io, files) = (self.io.clone(), self.files.clone());
        self.jobs.add(async move {
            let mut loaded = Vec::with_capacity(blocks.len());
            for block in blocks {
                let lease = match files.get(&io, block.segment).await {
                    Ok(lease) => lease,
                    Err(error) => {
                        let text = format!("{}: {error}", segment::path(block.segment));
                        let result = if loaded.is_empty() { Err(text) } else { Ok(loaded) };
                        return JobDone::Loaded { id, result };
                    }
                };
                match segment::read_block(&io, lease.file(), block.segment, block.topic, &block.meta).await {
                    Ok(found) => loaded.push((block.key(), found)),
                    // Only the first block is needed for sure. The others are read ahead, and one that
                    // is damaged must not keep a reader from those before it (I-98).
                    Err(_) if !loaded.is_empty() => break,
                    Err(error) => return JobDone::Loaded { id, result: Err(error.to_string()) },
                }
            }
            JobDone::Loaded { id, result: Ok(loaded) }
        });
        id
    }

    /// Begins a clean stop (SH-5): when everything is committed a checkpoint marked clean is written.
    /// No operation may follow. [`Shard::is_stopped`] tells when it is done.
    pub fn begin_stop(&mut self) {
        self.sealing.stopping = self.sealing.stopping.max(1);
        self.sealing.retry_at = 0;
    }

    /// Whether the clean stop is complete, or impossible because the log failed.
    pub fn is_stopped(&self) -> bool {
        self.sealing.stopping == 3 || self.sealing.stopping > 0 && self.log.failed().is_some()
    }
}

struct SealJob {
    io: Io,
    chunks: Vec<Option<Chunk>>,
    base: u64,
    /// High bits of this shard's segment ids.
    ids: u64,
    next_segment: u64,
    events_max: u32,
    bytes_max: u64,
}

impl SealJob {
    async fn run(mut self, items: Vec<Item>) -> Result<Vec<SegmentMeta>, SegmentError> {
        let (mut segments, mut writer) = (Vec::new(), None);
        match self.write(items, &mut segments, &mut writer).await {
            Ok(()) => Ok(segments),
            Err(error) => {
                // The next try makes all of them anew: on a full disk none may be left behind.
                if let Some(begun) = writer {
                    begun.abandon().await;
                }
                for segment in segments {
                    let _ = self.io.remove(&segment::path(segment.id)).await;
                }
                Err(error)
            }
        }
    }

    async fn write(
        &mut self,
        mut items: Vec<Item>,
        segments: &mut Vec<SegmentMeta>,
        writer: &mut Option<SegmentWriter>,
    ) -> Result<(), SegmentError> {
        // Big topics first, each in a file of its own; what remains shares packs.
        items.sort_by_key(|item| (item.bytes < OWN_SEGMENT_BYTES, item.topic.id));
        for item in &items {
            let own = item.bytes >= OWN_SEGMENT_BYTES;
            if let Some(full) = writer.take_if(|writer| own || writer.bytes() >= self.bytes_max) {
                segments.push(full.finish().await?);
            }
            self.write_item(item, writer).await?;
            if own {
                if let Some(full) = writer.take() {
                    segments.push(full.finish().await?);
                }
            }
        }
        if let Some(last) = writer.take() {
            segments.push(last.finish().await?);
        }
        if !segments.is_empty() {
            let failed = |error| SegmentError::Disk { file: segment::DIR.to_owned(), error };
            self.io.sync_dir(segment::DIR).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn write_item(
        &mut self,
        item: &Item,
        writer: &mut Option<SegmentWriter>,
    ) -> Result<(), SegmentError> {
        let mut begun = false;
        let mut last_seq = 0;
        for frame in &item.frames {
            if frame.last_seq() <= item.dead_through {
                continue;
            }
            let place = (frame.lsn.0 / CHUNK_BYTES as u64 - self.base) as usize;
            let chunk = self.chunks[place].clone().expect("entries lie in chunks");
            let entry = records_at(&chunk, frame.lsn);
            let partly = frame.first_seq <= item.dead_through
                || item.deleted.intersects(frame.first_seq, frame.last_seq());
            let live: Vec<Record<'_>> = match partly {
                true => entry
                    .records_from(item.dead_through + 1)
                    .flatten()
                    .filter(|record| !item.deleted.contains(record.seq))
                    .collect(),
                false => Vec::new(),
            };
            if partly && live.is_empty() {
                continue;
            }
            if writer.is_none() {
                let id = SegmentId(self.ids | self.next_segment);
                self.next_segment += 1;
                *writer = Some(SegmentWriter::create(&self.io, id, self.events_max).await?);
            }
            let out = writer.as_mut().expect("just made sure");
            if !begun {
                out.begin_run(item.topic.id).await?;
                begun = true;
            } else if item.cuts.iter().any(|cut| (last_seq..frame.first_seq).contains(cut)) {
                out.cut_block().await?;
            }
            last_seq = frame.last_seq();
            if partly {
                out.push_records(&entry.header, &live).await?;
            } else {
                out.push_entry(whole_entry(&chunk, frame, &entry), true).await?;
            }
        }
        Ok(())
    }
}

/// The bytes of an entry, its header included.
fn whole_entry<'a>(chunk: &'a Chunk, frame: &FrameRef, entry: &RecordsEntry<'_>) -> &'a [u8] {
    let start = (frame.lsn.0 % CHUNK_BYTES as u64) as usize;
    let bytes = entry.header.entry_bytes();
    debug_assert!(bytes > ENTRY_HEADER_BYTES);
    chunk.bytes(start, start + bytes)
}
