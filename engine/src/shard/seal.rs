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

use super::delete::TagHits;
use super::seal_job::{Item, SealJob};
use super::{LoadId, Notice, Shard, TopicRef};
use crate::cache::BlockKey;
use crate::checkpoint::{CheckpointHead, Edit};
use crate::error::DiskError;
use crate::ids::{Lsn, Millis, SegmentId, TopicId};
use crate::index::TagRun;
use crate::limits::CHUNK_BYTES;
use crate::segment::{self, CachedBlock, SegmentError, SegmentMeta};
use crate::topic::Remembered;
use crate::wal::files;
use crate::wal::log::{FrameRef, LogFile};
use ahash::AHashMap;
use std::collections::VecDeque;

/// After a failed seal or checkpoint (a full disk, say) the next try comes this much later.
pub(super) const RETRY_MS: i64 = 1000;
/// Data of class `disk` is synced when it is as old as this (semantics §5: within one second; an idle core looks
/// every 100 ms). Not sooner: writes that come during a sync wait for the drive, and readers with them.
const SYNC_AGE_US: u64 = 700_000;
/// A log that did not grow for this long leaves the disk to the filling of its next file.
const FILL_IDLE_US: u64 = 5_000;

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
    /// A block was read.
    Loaded {
        /// For whom.
        id: LoadId,
        /// Whether it is the one asked for, or read ahead.
        first: bool,
        /// Its place.
        key: BlockKey,
        /// The verified block.
        result: Result<Box<CachedBlock>, String>,
    },
    /// A list of tags was asked.
    TagsFound {
        /// For whom.
        id: LoadId,
        /// Which list.
        run: TagRun,
        /// Seqs that match, ascending.
        result: Result<Vec<u64>, String>,
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
pub(super) struct Waiting {
    pub(super) head: CheckpointHead,
    pub(super) edits: Vec<Edit>,
    pub(super) removed: Vec<SegmentId>,
    /// Block that must be durable before it is written. Control operations are described as ordered: were one
    /// lost, the checkpoint would put in force what was refused (I-50).
    pub(super) through: u64,
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
    pub(super) added: Vec<SegmentMeta>,
    /// Segments without a live block.
    pub(super) removable: Vec<SegmentId>,
    pub(super) next_segment: u64,
    /// Everything below is in segments.
    pub(super) sealed_to: Lsn,
    /// Number of the first block at `sealed_to`.
    pub(super) log_start_block: u64,
    /// When the chunk after `sealed_to` got its first entry.
    pub(super) oldest_since: Option<Millis>,
    pub(super) next_slot: u32,
    /// Slots of recycled files.
    pub(super) free_slots: Vec<u32>,
    /// The slot of the only file that tells the newest epoch: not recycled before a file of this run is ready,
    /// except on a full disk.
    pub(super) witness_slot: Option<u32>,
    pub(super) preparing: bool,
    /// How far that file may be filled, and where the log ended when it last grew, by the steady clock.
    pub(super) pace: files::Pace,
    grown: (Lsn, u64),
    /// What a batch that waits needs of the log files.
    pub(super) wanted_room: u64,
    /// Why the next log file could not be made ready, until one is.
    pub(super) no_file: Option<DiskError>,
    pub(super) sealing: bool,
    pub(super) waiting: Option<Waiting>,
    pub(super) checkpointing: bool,
    /// A checkpoint failed: the next one describes everything and builds on none.
    pub(super) lost: bool,
    /// Number of the last checkpoint, 0 if none.
    pub(super) checkpoint: u64,
    /// Highest number in use, whether or not that one can be read.
    pub(super) highest: u64,
    /// Log files of earlier runs that are still needed, as number and slot.
    pub(super) old_files: Vec<(u64, u32)>,
    /// Its chain: numbers with their bases.
    pub(super) existing: Vec<(u64, Option<u64>)>,
    /// Checkpoints that the start did not use: older ones, and damaged ones.
    pub(super) stale: Vec<u64>,
    pub(super) chain_len: usize,
    pub(super) full_bytes: u64,
    pub(super) delta_bytes: u64,
    /// Where replay from the last checkpoint starts, and from the one before.
    pub(super) log_start: Lsn,
    pub(super) previous_log_start: Lsn,
    pub(super) checkpoints: u64,
    pub(super) retry_at: Millis,
    /// Apart from that of seals: a seal that fails must not keep a log file from being made.
    file_retry_at: Millis,
    /// A clean stop was asked for: 1 asked, 2 its checkpoint is under way, 3 written.
    pub(super) stopping: u8,
    pub(super) now: Millis,
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
            witness_slot: None,
            preparing: false,
            pace: files::Pace::default(),
            grown: (Lsn(0), 0),
            wanted_room: 0,
            no_file: None,
            sealing: false,
            waiting: None,
            checkpointing: false,
            lost: false,
            checkpoint: 0,
            highest: 0,
            old_files: Vec::new(),
            existing: Vec::new(),
            stale: Vec::new(),
            chain_len: 0,
            full_bytes: 0,
            delta_bytes: 0,
            log_start: sealed_to,
            previous_log_start: sealed_to,
            checkpoints: 0,
            retry_at: 0,
            file_retry_at: 0,
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

impl Shard {
    /// Starts whatever is due. Called every turn; cheap when nothing is.
    pub(super) fn seal_if_due(&mut self, now: Millis, now_us: u64) {
        self.sealing.now = now;
        self.log.chunks.collect();
        if self.log.file_room() >= self.sealing.wanted_room {
            self.sealing.wanted_room = 0;
        }
        if !self.sealing.preparing
            && self.log.failed().is_none()
            && !is_put_off(self.sealing.file_retry_at, now)
            && let Some(number) = self.log.wanted_file(self.sealing.wanted_room)
        {
            self.prepare_file(number);
        }
        if self.sealing.preparing {
            self.pace_filling(now_us);
        }
        self.log.sync_what_is_older(SYNC_AGE_US, now_us);
        if self.sealing.waiting.is_some() {
            self.checkpoint_when_durable(now_us);
            return;
        }
        if self.sealing.sealing || self.sealing.checkpointing || is_put_off(self.sealing.retry_at, now) {
            return;
        }
        if self.sealing.stopping == 1 {
            if !self.log.is_busy() && self.effects.is_empty() && !self.mark_unlogged_heads() {
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

    /// A file is filled twice as fast as the one before it is used, and at full speed when nobody writes or
    /// somebody waits.
    fn pace_filling(&mut self, now_us: u64) {
        if self.log.end() != self.sealing.grown.0 {
            self.sealing.grown = (self.log.end(), now_us);
        }
        let is_idle = now_us.saturating_sub(self.sealing.grown.1) >= FILL_IDLE_US;
        let allowed = match is_idle || self.sealing.wanted_room > 0 || !self.log.has_file() {
            true => u64::MAX,
            false => {
                let file_bytes = self.settings.file_bytes;
                file_bytes / 8 + 2 * file_bytes.saturating_sub(self.log.file_room())
            }
        };
        self.sealing.pace.allow(allowed);
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
        let job = files::prepare(
            self.io.clone(),
            self.settings.dir(),
            slot,
            header,
            recycled,
            self.sealing.pace.clone(),
        );
        self.jobs.add(async move { JobDone::FilePrepared { slot, recycled, result: job.await } });
    }

    pub(super) fn on_job(&mut self, done: JobDone, now: Millis) {
        match done {
            JobDone::FilePrepared { slot, recycled, result } => {
                self.sealing.preparing = false;
                self.sealing.no_file = result.as_ref().err().copied();
                match result {
                    Ok(file) => {
                        self.log.add_file(file);
                        self.sealing.free_slots.extend(self.sealing.witness_slot.take());
                    }
                    Err(error) => {
                        // The next try takes the same slot, or each would leave one more behind.
                        match recycled {
                            true => self.sealing.free_slots.push(slot),
                            false => self.sealing.next_slot = slot,
                        }
                        if error.0 == libc::ENOSPC {
                            // Without any file nothing can be deleted either. Its header lies in one sector, which
                            // drives write whole or not at all.
                            self.sealing.free_slots.extend(self.sealing.witness_slot.take());
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
            JobDone::Loaded { id, first, key, result } => self.on_loaded(id, first, key, result),
            JobDone::TagsFound { id, run, result } => {
                let result = result.map(|seqs| drop(self.tag_hits.insert(run.topic, TagHits { run, seqs })));
                self.loaded.push((id, result));
            }
            JobDone::Removed => {}
        }
    }

    pub(super) fn notice(&mut self, severe: bool, text: String) {
        self.notices.push(Notice { severe, text });
    }

    /// Puts sealed blocks in the place of log entries and lets the memory go.
    fn install(&mut self, upto: Lsn, topics: &[TopicRef], segments: Vec<SegmentMeta>) {
        let mut runs: AHashMap<TopicId, Vec<(SegmentId, segment::Run)>> = AHashMap::new();
        for segment in &segments {
            let live_blocks = segment.runs.iter().map(|run| run.blocks.len() as u64).sum();
            let info = SegmentInfo { file_bytes: segment.file_bytes, shared: false, live_blocks };
            self.sealing.segments.insert(segment.id, info);
            for run in &segment.runs {
                runs.entry(run.topic).or_default().push((segment.id, run.clone()));
            }
        }
        for found in topics {
            let of_topic = runs.remove(&found.id).unwrap_or_default();
            let topic = self.topics[found.slot as usize].as_mut().filter(|topic| topic.id == found.id);
            let Some(topic) = topic else {
                for (segment, run) in of_topic {
                    run.blocks.iter().for_each(|_| self.sealing.release(segment));
                }
                continue;
            };
            topic.index.install(upto, of_topic);
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

/// Whether a next try at `retry_at` is still to come. A clock that was set back does not put it off for long.
fn is_put_off(retry_at: Millis, now: Millis) -> bool {
    (retry_at - RETRY_MS..retry_at).contains(&now)
}
