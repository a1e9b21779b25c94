//! A shard under reconstruction: what the checkpoint said, then every whole batch of the log after it.
//! Which blocks count is decided in [`recover`](super::recover); here they take effect.

use super::recover::{RecoverError, RecoveryReport, Start, Survey, Tail};
use super::routers::{Links, Registry};
use super::seal::{Sealing, SegmentInfo};
use super::{Eviction, Shard, ShardSettings, TopicRef};
use crate::cache::{BlockCache, Files};
use crate::checkpoint::Loaded;
use crate::config::{TopicConfig, is_topic_name};
use crate::disk::{Io, Jobs};
use crate::error::FormatError;
use crate::ids::{Lsn, Millis, RouterId, TopicId};
use crate::limits::{CHUNK_BYTES, RECORD_BYTES_MAX};
use crate::mem::Chunk;
use crate::queue::entry::decode_jobs;
use crate::queue::{Queue, StoredJob};
use crate::quota::Quota;
use crate::reserved::Reserved;
use crate::router::{LinkState, RouterDef};
use crate::sabotage::{self, Bug};
use crate::topic::{Loss, Remembered, Topic};
use crate::wal::chunks::Chunks;
use crate::wal::format::BlockHeader;
use crate::wal::frame::{Kind, RecordsEntry, RecordsHeader, split_entry};
use crate::wal::log::{FrameRef, Log, LogStart};
use ahash::AHashMap;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

/// The largest block fits half the cache: with less, a read would never find what it loaded.
const CACHE_BYTES_MIN: usize = 4 * RECORD_BYTES_MAX;
/// Segment files a shard keeps open.
const OPEN_FILES_MAX: usize = 512;

/// One entry of a batch that is being read.
enum Entry {
    Records { header: RecordsHeader, key: Option<Vec<u8>>, lsn: Lsn },
    Delete { topic: TopicId, count: u64, bytes: u64, ranges: Vec<(u64, u64)> },
    Topic { id: TopicId, head: u64, name: Rc<[u8]>, config: TopicConfig },
    Drop(TopicId),
    Reserve { topic: TopicId, through: u64 },
    Floor { topic: TopicId, gone: Eviction },
    Trim { topic: TopicId, first: u64, last: u64 },
    Link { state: LinkState, is_gone: bool },
    Router(RouterDef),
    RouterDrop(Vec<RouterId>),
    Lease { topic: TopicId, jobs: Vec<StoredJob> },
}

/// The shard under reconstruction.
pub(super) struct Replay {
    topics: BTreeMap<TopicId, Topic>,
    routers: BTreeMap<RouterId, RouterDef>,
    links: BTreeMap<RouterId, LinkState>,
    /// Gone since the checkpoint: the next one must say so.
    dropped_routers: Vec<RouterId>,
    gone_links: Vec<RouterId>,
    loaded: Option<Loaded>,
    /// Keys of the log, to be remembered once hashing is possible.
    keys: Vec<(TopicId, Vec<u8>, Remembered)>,
    batch: Vec<Entry>,
    chunks: Chunks,
    chunk_blocks: Vec<(u64, u64)>,
    touched: VecDeque<(u64, TopicId)>,
    changed: Vec<TopicId>,
    dropped: Vec<TopicId>,
    next_topic: u64,
    /// Ids below were given away when the checkpoint was described.
    described_topics: u64,
    described: u64,
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, FormatError> {
    let slice = bytes.get(at..at + 8).ok_or(FormatError::new("log entry"))?;
    Ok(u64::from_le_bytes(slice.try_into().expect("eight bytes")))
}

/// More cannot go than there was: the log contradicts itself, or the checkpoint below it.
fn take_away(topic: &mut Topic, count: u64, bytes: u64) -> Result<(), FormatError> {
    let left = (topic.shown.count.checked_sub(count), topic.shown.bytes.checked_sub(bytes));
    let (Some(count), Some(bytes)) = left else {
        return Err(FormatError::new("loss of records that were not there"));
    };
    (topic.shown.count, topic.shown.bytes) = (count, bytes);
    Ok(())
}

impl Replay {
    pub(super) fn new(
        settings: ShardSettings,
        mut loaded: Option<Loaded>,
        start: Lsn,
    ) -> Result<Replay, RecoverError> {
        let (mut topics, mut routers, mut links) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        if let Some(loaded) = &mut loaded {
            routers = std::mem::take(&mut loaded.routers);
            links = std::mem::take(&mut loaded.links);
            for (id, state) in std::mem::take(&mut loaded.topics) {
                let mut topic = Topic::new(id, Rc::from(state.name), state.config);
                topic.shown.head = state.head;
                topic.shown.floors = [state.floor_cap, state.floor_ttl, state.floor_source];
                topic.shown.count = state.count;
                topic.shown.bytes = state.bytes;
                topic.ordered = topic.shown;
                topic.reserved = Reserved::recovered(state.reserved);
                topic.vacant = state.vacant.into_iter().collect();
                topic.deleted = state.deleted.into_iter().collect();
                topic.trims = state.trims.into_iter().collect();
                topics.insert(id, topic);
            }
            for (id, jobs) in std::mem::take(&mut loaded.leases) {
                let queue = topics.get_mut(&id).and_then(|topic| topic.queue.as_mut());
                if let Some(queue) = queue {
                    jobs.into_iter().for_each(|job| queue.restore(job));
                }
            }
            for (segment, run) in std::mem::take(&mut loaded.runs) {
                if let Some(topic) = topics.get_mut(&run.topic) {
                    topic.index.add_run(segment, run);
                }
            }
        }
        let limit = (settings.hot_bytes / CHUNK_BYTES as u64).max(4) as usize;
        Ok(Replay {
            topics,
            routers,
            links,
            dropped_routers: Vec::new(),
            gone_links: Vec::new(),
            next_topic: loaded.as_ref().map_or(1, |loaded| loaded.head.next_topic),
            described_topics: loaded.as_ref().map_or(1, |loaded| loaded.head.next_topic),
            described: loaded.as_ref().map_or(0, |loaded| loaded.head.described_block),
            loaded,
            keys: Vec::new(),
            batch: Vec::new(),
            chunks: Chunks::new(start.0 / CHUNK_BYTES as u64, limit),
            chunk_blocks: Vec::new(),
            touched: VecDeque::new(),
            changed: Vec::new(),
            dropped: Vec::new(),
        })
    }

    pub(super) fn name_of(&self, id: TopicId) -> String {
        match self.topics.get(&id) {
            Some(topic) => format!("{:?}", String::from_utf8_lossy(&topic.name)),
            None => format!("#{:x}", id.0),
        }
    }

    /// Head of a topic as far as the log was replayed.
    pub(super) fn head_of(&self, id: TopicId) -> Option<u64> {
        self.topics.get(&id).map(|topic| topic.shown.head)
    }

    pub(super) fn push_chunk(&mut self, number: u64, first_block: u64) -> Chunk {
        self.chunks.skip_to(number);
        self.chunk_blocks.push((number, first_block));
        self.chunks.push()
    }

    /// A run ended: what it left of an unfinished batch is void.
    pub(super) fn end_epoch(&mut self) {
        self.batch.clear();
    }

    /// Applies the batches that end in this block.
    pub(super) fn block(
        &mut self,
        chunk: &Chunk,
        chunk_start: u64,
        payload: usize,
        payload_bytes: usize,
        block: &BlockHeader,
        report: &mut RecoveryReport,
    ) -> Result<(), FormatError> {
        let mut rest = chunk.bytes(payload, payload + payload_bytes);
        while !rest.is_empty() {
            let lsn = Lsn(chunk_start + (payload + payload_bytes - rest.len()) as u64);
            let (entry, body, after) = split_entry(rest)?;
            let decoded = match entry.kind {
                Kind::Records => {
                    let records = RecordsEntry::decode(body)?;
                    report.records += u64::from(records.header.count);
                    Entry::Records { header: records.header, key: records.key.map(<[u8]>::to_vec), lsn }
                }
                Kind::Delete => {
                    let ranges = body.get(24..).unwrap_or(&[]).chunks_exact(16);
                    let ranges: Vec<(u64, u64)> = ranges
                        .map(|range| Ok((u64_at(range, 0)?, u64_at(range, 8)?)))
                        .collect::<Result<_, FormatError>>()?;
                    if ranges.iter().any(|(first, last)| first > last) {
                        return Err(FormatError::new("delete entry"));
                    }
                    let (count, bytes) = (u64_at(body, 8)?, u64_at(body, 16)?);
                    Entry::Delete { topic: TopicId(u64_at(body, 0)?), count, bytes, ranges }
                }
                Kind::Topic => {
                    let bad = || FormatError::new("topic entry");
                    let name_bytes = body.get(16..18).ok_or_else(bad)?;
                    let name_end = 18 + usize::from(u16::from_le_bytes([name_bytes[0], name_bytes[1]]));
                    let name = body.get(18..name_end).filter(|name| is_topic_name(name)).ok_or_else(bad)?;
                    let (config, _) = TopicConfig::decode(&body[name_end..])?;
                    Entry::Topic {
                        id: TopicId(u64_at(body, 0)?),
                        head: u64_at(body, 8)?,
                        name: name.into(),
                        config,
                    }
                }
                Kind::Drop => Entry::Drop(TopicId(u64_at(body, 0)?)),
                Kind::Reserve => {
                    Entry::Reserve { topic: TopicId(u64_at(body, 0)?), through: u64_at(body, 8)? }
                }
                Kind::Lease => {
                    let (topic, jobs) = decode_jobs(body)?;
                    Entry::Lease { topic, jobs }
                }
                Kind::Floor => {
                    let loss = match u64_at(body, 8)? {
                        0 => Loss::Cap,
                        1 => Loss::Ttl,
                        2 => Loss::Source,
                        _ => return Err(FormatError::new("floor entry")),
                    };
                    let (seq, count, bytes) = (u64_at(body, 16)?, u64_at(body, 24)?, u64_at(body, 32)?);
                    Entry::Floor {
                        topic: TopicId(u64_at(body, 0)?),
                        gone: Eviction { loss, seq, count, bytes, logged_count: count, logged_bytes: bytes },
                    }
                }
                Kind::Trim => {
                    let (first, last) = (u64_at(body, 8)?, u64_at(body, 16)?);
                    if first == 0 || first > last {
                        return Err(FormatError::new("trim entry"));
                    }
                    Entry::Trim { topic: TopicId(u64_at(body, 0)?), first, last }
                }
                Kind::Link => {
                    let (state, is_gone) = LinkState::decode(body)?;
                    Entry::Link { state, is_gone }
                }
                Kind::Router => Entry::Router(RouterDef::decode(body)?),
                Kind::RouterDrop => {
                    let ids = body.chunks_exact(8).map(|id| Ok(RouterId(u64_at(id, 0)?)));
                    Entry::RouterDrop(ids.collect::<Result<_, FormatError>>()?)
                }
            };
            self.batch.push(decoded);
            if entry.last || sabotage::is(Bug::HalfBatch) {
                self.apply(block.number)?;
            }
            rest = after;
        }
        Ok(())
    }

    /// Applies a whole batch that ended in `block`.
    fn apply(&mut self, block: u64) -> Result<(), FormatError> {
        let described = block <= self.described;
        let batch = std::mem::take(&mut self.batch);
        for entry in &batch {
            match entry {
                Entry::Topic { id, head, name, config } if !described => {
                    // Known to the checkpoint and not in it: dropped, and the checkpoint knew before
                    // the drop was committed. Its id never comes back.
                    if (id.0 & u64::from(u32::MAX)) < self.described_topics && !self.topics.contains_key(id) {
                        continue;
                    }
                    self.next_topic = self.next_topic.max((id.0 & u64::from(u32::MAX)) + 1);
                    let topic = self
                        .topics
                        .entry(*id)
                        .or_insert_with(|| Topic::new(*id, name.clone(), config.clone()));
                    topic.config = config.clone();
                    // What happens to its jobs from here on is not logged: what was is void (I-84).
                    if !config.leases_durable
                        && let Some(queue) = &mut topic.queue
                    {
                        **queue = Queue::default();
                    }
                    // Seqs given away without frames (class `ephemeral`) leave a silent gap (I-57).
                    if *head > topic.shown.head {
                        topic.vacant.insert(topic.shown.head + 1, *head);
                        topic.shown.head = *head;
                    }
                    self.changed.push(*id);
                }
                Entry::Reserve { topic, through } if !described => {
                    if let Some(topic) = self.topics.get_mut(topic) {
                        topic.reserved = Reserved::recovered(topic.reserved.through().max(*through));
                    }
                }
                Entry::Trim { topic, first, last } if !described => {
                    if let Some(topic) = self.topics.get_mut(topic) {
                        if *first > topic.shown.head + 1 {
                            topic.vacant.insert(topic.shown.head + 1, first - 1);
                        }
                        topic.vacant.insert(*first, *last);
                        topic.trims.insert(*first, *last);
                        topic.shown.head = *last;
                        self.changed.push(topic.id);
                    }
                }
                Entry::Records { header, key, lsn } => {
                    self.index_records(header, key.as_deref(), *lsn, described)
                }
                _ => {}
            }
        }
        if described {
            return Ok(());
        }
        for entry in batch {
            match entry {
                Entry::Delete { topic: id, count, bytes, ranges } => {
                    if let Some(topic) = self.topics.get_mut(&id) {
                        for (first, last) in ranges {
                            topic.deleted.insert(first, last);
                            if let Some(queue) = &mut topic.queue {
                                queue.remove(first, last);
                            }
                        }
                        take_away(topic, count, bytes)?;
                        self.changed.push(id);
                    }
                }
                Entry::Floor { topic: id, gone } => {
                    if let Some(topic) = self.topics.get_mut(&id) {
                        let floor = &mut topic.shown.floors[gone.loss as usize];
                        *floor = (*floor).max(gone.seq);
                        if let Some(queue) = &mut topic.queue {
                            queue.remove_through(gone.seq);
                        }
                        take_away(topic, gone.count, gone.bytes)?;
                        self.changed.push(id);
                    }
                }
                Entry::Drop(id) => {
                    self.topics.remove(&id);
                    self.dropped.push(id);
                }
                Entry::Link { state, is_gone: false } => drop(self.links.insert(state.router, state)),
                Entry::Link { state, is_gone: true } => {
                    self.links.remove(&state.router);
                    self.gone_links.push(state.router);
                }
                Entry::Router(def) => {
                    // Topics and routers share a counter.
                    self.next_topic = self.next_topic.max((def.id.0 & u64::from(u32::MAX)) + 1);
                    self.routers.insert(def.id, def);
                }
                Entry::RouterDrop(ids) => {
                    ids.iter().for_each(|id| drop(self.routers.remove(id)));
                    self.dropped_routers.extend(ids);
                }
                Entry::Lease { topic: id, jobs } => {
                    if let Some(topic) = self.topics.get_mut(&id)
                        && let Some(queue) = &mut topic.queue
                    {
                        jobs.into_iter().for_each(|job| queue.restore(job));
                        self.changed.push(id);
                    }
                }
                Entry::Topic { .. } | Entry::Reserve { .. } | Entry::Trim { .. } | Entry::Records { .. } => {}
            }
        }
        Ok(())
    }

    fn index_records(&mut self, header: &RecordsHeader, key: Option<&[u8]>, lsn: Lsn, described: bool) {
        let Some(topic) = self.topics.get_mut(&header.topic) else {
            return; // dropped later, as the checkpoint knows
        };
        if sabotage::is(Bug::GapEndsReplay) && !described && header.first_seq != topic.shown.head + 1 {
            return;
        }
        let frame = FrameRef {
            lsn,
            first_seq: header.first_seq,
            count: header.count,
            counted_bytes: header.counted_bytes,
            ts: header.ts,
        };
        topic.index.push_hot(frame);
        let chunk = lsn.0 / CHUNK_BYTES as u64;
        if topic.newest_chunk != chunk {
            topic.newest_chunk = chunk;
            self.touched.push_back((chunk, header.topic));
        }
        if let Some(key) = key {
            let outcome = Remembered {
                first_seq: header.batch_first_seq,
                count: header.batch_count,
                ts: header.ts,
                block: 0,
            };
            self.keys.push((header.topic, key.to_vec(), outcome));
        }
        if described {
            return;
        }
        if header.first_seq > topic.shown.head + 1 {
            topic.vacant.insert(topic.shown.head + 1, header.first_seq - 1);
        }
        topic.shown.head = header.last_seq();
        topic.shown.count += u64::from(header.count);
        topic.shown.bytes += u64::from(header.counted_bytes);
        self.changed.push(header.topic);
    }

    /// The shard, ready to go on in a fresh file and a new epoch.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn finish(
        mut self,
        io: &Io,
        settings: ShardSettings,
        quota: Arc<Quota>,
        survey: &Survey,
        start: Start,
        tail: Tail,
        now: Millis,
    ) -> Result<Shard, RecoverError> {
        let head = self.loaded.as_ref().map(|loaded| loaded.head);
        let clean = head.is_some_and(|head| head.clean && tail.next_block == head.described_block + 1);
        let epoch = survey.epoch.max(head.map_or(0, |head| head.epoch)) + 1;
        let file_number = tail.last_file + 1;
        let log_start = LogStart {
            shard: settings.shard,
            epoch,
            next_block: tail.next_block,
            prev_crc: tail.prev_crc,
            file_number,
            file_bytes: settings.file_bytes,
            in_flight_max: settings.commits_in_flight,
        };
        let open_chunk = file_number * settings.file_bytes / CHUNK_BYTES as u64;
        // The file where the log ended may hold no block yet: then it is made anew.
        self.chunks.truncate(open_chunk);
        self.chunk_blocks.retain(|(chunk, _)| *chunk < open_chunk);
        let mut log = Log::new(io.clone(), log_start, self.chunks);
        log.set_recovered_chunks(std::mem::take(&mut self.chunk_blocks));
        let mut sealing = Sealing::new(start.lsn);
        sealing.log_start_block = start.block;
        sealing.next_slot = survey.next_slot;
        sealing.free_slots = survey.spare.clone();
        let usable = survey.damaged.iter().filter(|(_, _, short)| !short);
        sealing.free_slots.extend(usable.map(|(slot, ..)| *slot));
        let first_needed = start.lsn.0 / settings.file_bytes;
        for (number, found) in survey.files.iter().filter(|(_, found)| !found.short) {
            match *number < file_number {
                true => sealing.old_files.push((*number, found.slot)),
                false => sealing.free_slots.push(found.slot),
            }
        }
        debug_assert!(first_needed <= file_number);
        let witness = survey.only_witness(head.map_or(0, |head| head.epoch));
        if let Some(at) = sealing.free_slots.iter().position(|slot| Some(*slot) == witness) {
            sealing.witness_slot = Some(sealing.free_slots.remove(at));
        }
        if let Some(loaded) = &self.loaded {
            sealing.checkpoint = loaded.head.number;
            sealing.highest = loaded.highest;
            sealing.next_segment = loaded.head.next_segment;
            sealing.chain_len = loaded.chain.len();
            let mut base = None;
            for number in &loaded.chain {
                sealing.existing.push((*number, base));
                base = Some(*number);
            }
            // The others go when the next checkpoint is written: then two can be loaded again.
            sealing.stale = survey.checkpoints.clone();
            sealing.stale.retain(|number| !loaded.chain.contains(number));
            for (id, state) in &loaded.segments {
                let info = SegmentInfo { file_bytes: state.file_bytes, shared: state.shared, live_blocks: 0 };
                sealing.segments.insert(*id, info);
            }
        }
        sealing.dropped = self.dropped;
        let mut shard = Shard {
            io: io.clone(),
            quota: quota.clone(),
            log,
            cache: RefCell::new(BlockCache::new((settings.cache_bytes as usize).max(CACHE_BYTES_MIN))),
            files: Files::new(OPEN_FILES_MAX),
            jobs: Jobs::default(),
            names: AHashMap::new(),
            sorted: BTreeMap::new(),
            topics: Vec::new(),
            free_slots: Vec::new(),
            by_id: AHashMap::new(),
            next_topic: self.next_topic,
            effects: VecDeque::new(),
            dropping: AHashMap::new(),
            control_block: 0,
            published: Vec::new(),
            heap_bytes: 0,
            sealing,
            registry: Registry::recovered(self.routers, self.dropped_routers),
            links: Links::recovered(self.gone_links),
            loaded: Vec::new(),
            notices: Vec::new(),
            next_load: 0,
            next_lease: 1,
            queue_scratch: Default::default(),
            loading: AHashMap::new(),
            tag_hits: AHashMap::new(),
            scratch: Vec::new(),
            outcomes: Vec::new(),
            settings,
        };
        // All blocks are counted before the first is let go: a pack is shared by several topics.
        for block in self.topics.values().flat_map(|topic| topic.index.sealed()) {
            let known = shard.sealing.segments.get_mut(&block.segment);
            known.expect("runs lie in known segments").live_blocks += 1;
        }
        let unused = shard.sealing.segments.iter().filter(|(_, info)| info.live_blocks == 0);
        let unused: Vec<_> = unused.map(|(id, _)| *id).collect();
        unused.into_iter().for_each(|id| shard.sealing.mark_removable(id));
        let mut bytes = 0;
        for (_, mut topic) in std::mem::take(&mut self.topics) {
            // Seqs promised and not found stay vacant for ever (I-58), unless the stop was clean.
            let promised = topic.reserved.through();
            if promised > topic.shown.head && !clean && !sabotage::is(Bug::ReuseSeqs) {
                topic.vacant.insert(topic.shown.head + 1, promised);
                topic.shown.head = promised;
            }
            topic.reserved = Reserved::recovered(topic.shown.head);
            let floor = topic.shown.floor();
            if floor > topic.shown.head {
                topic.shown.head = floor;
            }
            topic.recovered_head = topic.shown.head;
            topic.prune(floor);
            topic.ordered = topic.shown;
            if let Some(mut queue) = topic.queue.take() {
                let head = topic.shown.head;
                queue.keep_live(|seq| {
                    topic.config.leases_durable
                        && (floor + 1..=head).contains(&seq)
                        && !topic.deleted.contains(seq)
                        && !topic.vacant.contains(seq)
                });
                topic.queue = Some(queue);
            }
            let sealing = &mut shard.sealing;
            let dead = topic.earliest() - 1;
            topic.index.drop_through(dead, |block| sealing.release(block.segment));
            bytes += topic.ordered.bytes;
            shard.insert(topic);
        }
        // A link whose dest is gone went with it.
        for state in std::mem::take(&mut self.links).into_values() {
            if let Some(slot) = shard.by_id.get(&state.dest).copied() {
                shard.topic_mut(slot).links.push(state.router);
                shard.links.insert_recovered(state);
            }
        }
        quota.add_recovered(shard.topic_count() as u64, bytes);
        for (chunk, id) in self.touched {
            if let Some(slot) = shard.by_id.get(&id) {
                shard.sealing.touched.push_back((chunk, TopicRef { slot: *slot, id }));
            }
        }
        for key in self.loaded.into_iter().flat_map(|loaded| loaded.dedup) {
            if let Some(slot) = shard.by_id.get(&key.topic).copied() {
                let outcome = Remembered { first_seq: key.first_seq, count: key.count, ts: key.ts, block: 0 };
                shard.remember_hash(slot, key.key_hash, outcome, now, false);
            }
        }
        for (id, key, outcome) in self.keys {
            if let Some(slot) = shard.by_id.get(&id).copied() {
                let hash = shard.key_hash(&key);
                shard.remember_hash(slot, hash, outcome, now, true);
            }
        }
        Ok(shard)
    }
}
