//! Describing the shard: when a checkpoint may be written, what it says, and what may go afterwards.
//! Why it is done this way is said in [`seal`](super::seal).

use super::seal::{JobDone, RETRY_MS, SegmentInfo, Waiting};
use super::{Shard, TopicRef};
use crate::checkpoint::{self, CheckpointHead, Edit, TopicState};
use crate::disk::Op;
use crate::ids::{Lsn, Millis, SegmentId};
use crate::limits::CHUNK_BYTES;
use crate::queue::StoredJob;
use crate::sabotage::{self, Bug};
use crate::segment::{self, SegmentMeta};
use crate::topic::{Loss, Remembered, is_within};
use ahash::AHashMap;

impl Shard {
    /// Describes the topics as they are shown now; the checkpoint is written when that is durable.
    pub(super) fn snapshot(&mut self, now: Millis, clean: bool) {
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
                edits.extend(checkpoint::job_edits(found.id, &self.describe_jobs(found.slot)));
            }
        }
        self.describe_routers(full, &mut edits);
        let mut removed = std::mem::take(&mut self.sealing.removable);
        for segment in std::mem::take(&mut self.sealing.added) {
            let SegmentMeta { id, file_bytes, runs } = segment;
            // A full checkpoint takes nothing back: what was dead before it could be named is not.
            if full && removed.contains(&id) {
                continue;
            }
            // Not always a new one: after a lost checkpoint all are described again.
            let shared = self.sealing.segments.get(&id).is_some_and(|info| info.shared);
            edits.push(Edit::AddSegment { id, file_bytes, shared });
            edits.extend(runs.into_iter().map(|run| Edit::AddRun(id, run)));
        }
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
            let window_ms = self.topic(*slot).config.idempotency_window_ms;
            if is_within(outcome.ts, now, window_ms) && !sabotage::is(Bug::ForgetKeys) {
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
        let through = described.max(self.control_block).max(self.routers_wait().0);
        self.sealing.waiting = Some(Waiting { head, edits, removed, through });
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
            if last < frame.first_seq || sabotage::is(Bug::DescribeEphemeral) {
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
            reserved: topic.reserved.through().max(topic.shown.head),
            floor_cap: floor(Loss::Cap),
            floor_ttl: floor(Loss::Ttl),
            floor_source: floor(Loss::Source),
            count,
            bytes,
            // What lies above the shown head is on its way, and may still be lost.
            vacant: vacant.iter_through(topic.shown.head).collect(),
            trims: topic.trims.iter_through(topic.shown.head).collect(),
            deleted: topic.deleted.iter().filter(|_| !sabotage::is(Bug::ForgetDeletes)).collect(),
            last_write_ts: topic.last_write_ts.unwrap_or(0),
        }
    }

    /// What a checkpoint keeps of a queue's jobs: nothing unless leases are durable (I-84, I-85). Unlike
    /// the rest it is told as ordered, not as shown: entries behind the described block say it again.
    pub(super) fn describe_jobs(&self, slot: u32) -> Vec<StoredJob> {
        let topic = self.topic(slot);
        match &topic.queue {
            Some(queue) if topic.config.leases_durable && !sabotage::is(Bug::ForgetLeases) => {
                queue.all_stored()
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn checkpoint_when_durable(&mut self, now_us: u64) {
        let waiting = self.sealing.waiting.as_ref().expect("asked only then");
        if !self.log.is_durable(waiting.through) {
            if self.log.failed().is_some() {
                self.sealing.waiting = None; // no checkpoint over a log that failed
                return;
            }
            self.log.sync_soon(now_us);
            return;
        }
        let Waiting { head, edits, removed, .. } = self.sealing.waiting.take().expect("just seen");
        self.sealing.checkpointing = true;
        let (io, dir) = (self.io.clone(), self.settings.dir());
        self.jobs.add(async move {
            let result = checkpoint::write_checkpoint(&io, &dir, &head, &edits).await;
            JobDone::Checkpointed { head, result: result.map_err(|error| error.to_string()), removed }
        });
    }

    pub(super) fn on_checkpoint(
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
        self.describe_all_routers_again();
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
                    Some(run) => run.blocks.push(block.meta),
                    None => of_segment.push(segment::Run {
                        topic: topic.id,
                        blocks: vec![block.meta],
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
        let newest = self.sealing.checkpoint;
        let mut head = self.checkpoint_head(now);
        self.jobs.add(async move {
            let result = async {
                let loaded = checkpoint::load(&io, &dir).await.map_err(|error| error.to_string())?;
                let loaded = loaded.ok_or_else(|| "the chain is gone".to_owned())?;
                // An older one would do for a start, which has the log for the rest. Here the next delta would
                // rest on it, and what the unreadable one said would be said by nobody.
                if loaded.head.number != newest {
                    return Err(format!("its newest part cannot be read: {:?}", loaded.skipped));
                }
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
    pub(super) fn recycle_files(&mut self) {
        let keep = self.settings.wal_keep_bytes;
        let limit = self.sealing.previous_log_start.min(self.sealing.log_start).0.saturating_sub(keep);
        let limit = match sabotage::is(Bug::RecycleTooEarly) {
            true => self.log.committed_chunks_end() * CHUNK_BYTES as u64,
            false => limit,
        };
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
    pub(super) fn remove_files(&mut self, segments: Vec<SegmentId>) {
        let mut numbers = checkpoint::plan_retention(&self.sealing.existing);
        self.sealing.existing.retain(|(number, _)| !numbers.contains(number));
        numbers.append(&mut self.sealing.stale);
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
}
