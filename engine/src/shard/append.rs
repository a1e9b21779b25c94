//! Appending a batch (§4): every check before the first byte, then marks and records as one log batch.

use super::delete::earliest_in_order;
use super::topics::append_room;
use super::{Effect, Shard, TopicRef};
use crate::config::{Class, Discard, TopicConfig, is_topic_name};
use crate::error::{EngineError, No};
use crate::event::{Batch, RecordSpan};
use crate::ids::{Lsn, Millis};
use crate::limits::{CHUNK_BYTES, SEQ_RESERVE};
use crate::sabotage::{self, Bug};
use crate::topic::{Remembered, Topic};
use crate::wal::Wait;
use crate::wal::frame::{Kind, Piece, PieceOf};
use crate::wal::log::{FrameRef, Log};

/// An append as it arrives at the owner. The edge has checked W-11…W-17.
#[derive(Clone, Copy)]
pub struct AppendRequest<'a> {
    /// Topic name as sent.
    pub topic: &'a [u8],
    /// The records.
    pub batch: Batch<'a>,
    /// Idempotency key (U-1).
    pub key: Option<&'a [u8]>,
    /// Create permission (W-21).
    pub create: Option<bool>,
    /// Settings for a topic that this call creates.
    pub config: Option<&'a TopicConfig>,
}

/// Marks of a clean stop that are put in one turn: far less than a chunk.
const MARKS_PER_TURN: usize = 4096;

/// The outcome of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The topic.
    pub topic: TopicRef,
    /// Seq of the first record; the rest follow (W-2).
    pub first_seq: u64,
    /// Records of the batch.
    pub count: u32,
    /// Whether the call created the topic.
    pub created: bool,
    /// Whether an earlier write with the same key was found (U-3); then the seqs are that one's.
    pub deduped: bool,
    /// Class at the moment of the write.
    pub class: Class,
    /// When the answer may leave.
    pub wait: Wait,
}

impl Appended {
    /// Seq of the last record; also the head right after this batch.
    pub fn last_seq(&self) -> u64 {
        self.first_seq + u64::from(self.count) - 1
    }
}

impl Shard {
    /// Appends a batch, or finds that it was appended before. On a refusal nothing has changed (I-36).
    pub fn append(&mut self, request: &AppendRequest<'_>, now: Millis) -> Result<Appended, No> {
        let records = request.batch.records;
        assert!(!records.is_empty(), "the edge refuses empty batches");
        let bytes: u64 = records.iter().map(RecordSpan::counted_bytes).sum();
        let hash = request.key.map(|key| self.key_hash(key));
        match self.names.get(request.topic) {
            Some(slot) => self.append_to(*slot, request, bytes, hash, now),
            None => self.append_creating(request, bytes, hash, now),
        }
    }

    /// Idempotency keys are kept as a 128-bit hash seeded by the data directory's secret id, so a
    /// client can neither guess nor construct a collision.
    pub(super) fn key_hash(&self, key: &[u8]) -> u128 {
        xxhash_rust::xxh3::xxh3_128_with_seed(key, self.settings.directory)
    }

    fn append_creating(
        &mut self,
        request: &AppendRequest<'_>,
        bytes: u64,
        hash: Option<u128>,
        now: Millis,
    ) -> Result<Appended, No> {
        let permitted = request.create.unwrap_or(request.config.is_none_or(|config| config.auto_create));
        if !permitted {
            return Err(No::Refused(EngineError::TopicMissing, self.find(request.topic).1));
        }
        if !is_topic_name(request.topic) {
            return Err(EngineError::NameInvalid.into());
        }
        let config = request.config.cloned().unwrap_or_default();
        config.check(request.topic)?;
        self.may_write(append_room(request.batch.body.len()))?;
        self.take_topic_place()?;
        // From here on the place is given back, so a refused write leaves no topic (W-34).
        let fits = check_reject(&config, request.batch.records.len() as u64, bytes, 0, 0, 0, 1)
            .and_then(|()| self.check_heap(&config))
            .and_then(|()| self.take_bytes(bytes));
        if let Err(no) = fits {
            self.quota.give_topic();
            return Err(no);
        }
        let ephemeral = config.class == Class::Ephemeral;
        let slot = self.create(request.topic, config, ephemeral);
        // Nothing is stored yet, but a batch larger than a cap pushes out its own front (W-33).
        let eviction = self.plan_eviction(self.topic(slot), 0, request.batch.records);
        let eviction = eviction.expect("an empty topic needs no disk");
        Ok(Appended { created: true, ..self.write(slot, request, bytes, hash, eviction, true, now) })
    }

    fn append_to(
        &mut self,
        slot: u32,
        request: &AppendRequest<'_>,
        bytes: u64,
        hash: Option<u128>,
        now: Millis,
    ) -> Result<Appended, No> {
        let records = request.batch.records;
        let topic = self.topic(slot);
        let control = Wait(topic.control_block);
        if let (Some(hash), Some(dedup)) = (hash, &topic.dedup)
            && let Some(first) = dedup.get(hash, now, topic.config.idempotency_window_ms)
        {
            return Ok(Appended {
                topic: TopicRef { slot, id: topic.id },
                first_seq: first.first_seq,
                count: first.count,
                created: false,
                deduped: true,
                class: topic.config.class,
                wait: Wait(first.block).max(control),
            });
        }
        let expiry = self.expire(slot, now)?;
        let topic = self.topic(slot);
        if topic.config.discard == Discard::Reject {
            let ordered = &topic.ordered;
            check_reject(
                &topic.config,
                records.len() as u64,
                bytes,
                ordered.count,
                ordered.bytes,
                ordered.head,
                earliest_in_order(topic),
            )
            .map_err(|no| match no {
                // What fills the topic may still be on its way: the refusal waits for it.
                No::Refused(error, _) => No::Refused(error, expiry.max(Wait(self.log.entry_block()))),
                other => other,
            })?;
        }
        let eviction = match self.plan_eviction(topic, 0, records) {
            Ok(eviction) => eviction,
            Err(blocked) => return Err(self.keep_plan(slot, blocked)),
        };
        self.may_write(append_room(request.batch.body.len()))?;
        self.check_heap(&self.topic(slot).config)?;
        self.take_bytes(bytes)?;
        Ok(self.write(slot, request, bytes, hash, eviction, false, now))
    }

    fn take_bytes(&self, bytes: u64) -> Result<(), No> {
        match self.quota.take_bytes(bytes) {
            true => Ok(()),
            false => Err(EngineError::QuotaFull { max: self.quota.max_bytes() }.into()),
        }
    }

    /// Records of class `ephemeral` live in memory only; they get as much of it as the log does.
    pub(super) fn check_heap(&self, config: &TopicConfig) -> Result<(), No> {
        match config.class == Class::Ephemeral && self.heap_bytes >= self.settings.hot_bytes {
            true => Err(EngineError::LogFull.into()),
            false => Ok(()),
        }
    }

    /// Writes the batch; nothing can be refused any more.
    #[allow(clippy::too_many_arguments)]
    fn write(
        &mut self,
        slot: u32,
        request: &AppendRequest<'_>,
        bytes: u64,
        hash: Option<u128>,
        eviction: Option<super::Eviction>,
        created: bool,
        now: Millis,
    ) -> Appended {
        let count = request.batch.records.len() as u32;
        let topic = self.topics[slot as usize].as_ref().expect("a used slot");
        let (id, class, control_block) = (topic.id, topic.config.class, topic.control_block);
        let first_seq = topic.ordered.head + 1;
        let last_seq = topic.ordered.head + u64::from(count);
        let to =
            PieceOf { topic: id, batch_first_seq: first_seq, ts: now, key: request.key, hops: 0, last: true };
        let block = if class == Class::Ephemeral {
            self.write_heap(slot, &request.batch, &PieceOf { key: None, ..to });
            match eviction.filter(|gone| gone.logged_count > 0) {
                // It pushes out records that the log still holds.
                Some(gone) => {
                    self.log_floor(slot, gone, true, false);
                    self.log.entry_block()
                }
                None => control_block,
            }
        } else {
            let reserving = self.reserve(slot, last_seq);
            if let Some(gone) = eviction.filter(|_| !sabotage::is(Bug::EvictionUnlogged)) {
                self.log_floor(slot, gone, false, false);
            }
            self.write_log(slot, &request.batch, &to, class == Class::Fsync || reserving || created);
            self.log.entry_block()
        };
        let topic = self.topics[slot as usize].as_mut().expect("a used slot");
        topic.ordered.head = last_seq;
        topic.ordered.count += u64::from(count);
        topic.ordered.bytes += bytes;
        topic.last_write_ts = Some(now);
        if let Some(hash) = hash {
            let outcome = Remembered { first_seq, count, ts: now, block };
            let window_ms = topic.config.idempotency_window_ms;
            topic.dedup.get_or_insert_default().insert(hash, outcome, now, window_ms);
            self.sealing.new_keys.push((id, hash, outcome));
        }
        let effect = Effect::Appended { last_seq, count: u64::from(count), bytes };
        let mut wait = self.enqueue(slot, id, block, effect);
        if let Some(gone) = eviction {
            wait = wait.max(self.order_eviction(slot, gone, block));
        }
        Appended {
            topic: TopicRef { slot, id },
            first_seq,
            count,
            created,
            deduped: false,
            class,
            wait: Wait(wait.max(control_block)),
        }
    }

    /// Makes sure that a `disk` topic's seqs up to `last_seq` are reserved by a mark that is durable before
    /// the batch commits (I-58). The next mark goes out long before it is needed and is synced beside the
    /// appends, as late as it may be, so that in an even stream none of them waits for a sync and one sync serves
    /// many topics. Returns whether this one must.
    pub(super) fn reserve(&mut self, slot: u32, last_seq: u64) -> bool {
        let topic = self.topics[slot as usize].as_mut().expect("a used slot");
        if topic.config.class != Class::Disk {
            return false;
        }
        if topic.reserved.mark_is_due(last_seq) {
            put_mark(&mut self.log, topic, last_seq + SEQ_RESERVE, false);
        }
        let covered = topic.reserved.covers(last_seq, |block| self.log.is_durable(block));
        if let Some(block) = topic.reserved.sync_is_due(last_seq) {
            self.log.sync_through(block);
        }
        !covered && !sabotage::is(Bug::ReserveUnsynced)
    }

    /// Before the checkpoint of a clean stop: heads of `ephemeral` topics, which no entry of the log tells, get
    /// marks, so that the log alone would give them too, were that checkpoint damaged (I-59, I-95). In pieces;
    /// returns whether there is more to do or to wait for.
    pub(super) fn mark_unlogged_heads(&mut self) -> bool {
        let untold = |topic: &Topic| {
            topic.config.class == Class::Ephemeral && topic.shown.head > topic.reserved.through()
        };
        if !self.topics.iter().flatten().any(untold) {
            return false;
        }
        if self.sealing.no_file.is_some() {
            return false; // a full disk: the checkpoint alone tells, if it can be written at all
        }
        if self.log.file_room() < CHUNK_BYTES as u64 {
            self.sealing.wanted_room = self.sealing.wanted_room.max(CHUNK_BYTES as u64);
            return true;
        }
        for topic in self.topics.iter_mut().flatten().filter(|topic| untold(topic)).take(MARKS_PER_TURN) {
            put_mark(&mut self.log, topic, topic.shown.head, true);
        }
        true
    }

    pub(super) fn write_log(&mut self, slot: u32, batch: &Batch<'_>, to: &PieceOf<'_>, sync: bool) {
        let topic = self.topics[slot as usize].as_mut().expect("a used slot");
        let sealing = &mut self.sealing;
        self.log.put_records(batch, to, sync, |frame| {
            let chunk = frame.lsn.0 / CHUNK_BYTES as u64;
            if topic.newest_chunk != chunk {
                topic.newest_chunk = chunk;
                sealing.touched.push_back((chunk, TopicRef { slot, id: topic.id }));
            }
            topic.index.push_hot(frame);
        });
    }

    pub(super) fn write_heap(&mut self, slot: u32, batch: &Batch<'_>, to: &PieceOf<'_>) {
        let topic = self.topics[slot as usize].as_mut().expect("a used slot");
        let before = topic.index.heap_bytes();
        let mut start = 0;
        while start < batch.records.len() {
            // One piece per chunk's worth, so that an entry stays as small as in the log.
            let piece = Piece::cut(batch, start, 0, CHUNK_BYTES / 2 + crate::limits::RECORD_BYTES_MAX / 2);
            let frame = FrameRef {
                lsn: Lsn(0),
                first_seq: to.batch_first_seq + start as u64,
                count: (piece.end - start) as u32,
                counted_bytes: piece.counted_bytes as u32,
                ts: to.ts,
            };
            topic.index.push_heap(frame, |page| piece.put(page, batch, to));
            start = piece.end;
        }
        self.heap_bytes += topic.index.heap_bytes() - before;
    }

    /// Remembers a key at recovery; `logged`: it came from the log, so the next checkpoint names it.
    pub(super) fn remember_hash(
        &mut self,
        slot: u32,
        hash: u128,
        outcome: Remembered,
        now: Millis,
        logged: bool,
    ) {
        let topic = self.topic_mut(slot);
        let (id, window_ms) = (topic.id, topic.config.idempotency_window_ms);
        topic.dedup.get_or_insert_default().insert(hash, outcome, now, window_ms);
        if logged {
            self.sealing.new_keys.push((id, hash, outcome));
        }
    }
}

/// A mark that seqs through this one are given away (I-58).
fn put_mark(log: &mut Log, topic: &mut Topic, through: u64, last: bool) {
    let mut body = [0; 16];
    body[..8].copy_from_slice(&topic.id.0.to_le_bytes());
    body[8..].copy_from_slice(&through.to_le_bytes());
    log.put_entry(Kind::Reserve, &body, last, false);
    topic.reserved.marked(through, log.entry_block());
}

/// W-30 and W-31: what a `reject` topic takes. Live records and bytes only (I-35).
fn check_reject(
    config: &TopicConfig,
    records: u64,
    bytes: u64,
    live_records: u64,
    live_bytes: u64,
    head_seq: u64,
    earliest_seq: u64,
) -> Result<(), No> {
    if config.discard != Discard::Reject {
        return Ok(());
    }
    let over = |cap: u64, amount: u64| cap != 0 && amount > cap;
    if over(config.cap_bytes, bytes) || over(config.cap_records, records) {
        return Err(EngineError::BatchOverCap.into());
    }
    if over(config.cap_records, live_records + records) || over(config.cap_bytes, live_bytes + bytes) {
        let (cap_records, cap_bytes) = (config.cap_records, config.cap_bytes);
        return Err(EngineError::TopicFull { cap_records, cap_bytes, head_seq, earliest_seq }.into());
    }
    Ok(())
}
