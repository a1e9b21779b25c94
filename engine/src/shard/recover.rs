//! Starting a shard from its directory: the newest checkpoint, then the log after it.
//!
//! The log is read chunk by chunk into the very memory that will serve readers, so recovery needs no
//! more of it than the run before did. Each block is judged by one table:
//!
//! | at the expected place | then |
//! |---|---|
//! | a valid block of the expected number, epoch, place and chain | it is replayed |
//! | anything else, and the next file opens a later epoch at that number | an earlier recovery cut here: go on there |
//! | anything else at or below a block known durable (checkpoint, or `synced_through` of a later valid block) | damage: refuse to start, naming file, offset and seqs at risk (I-94) |
//! | anything else | a torn tail: cut and reported (I-93) |
//!
//! A later valid block is not by itself a sign of damage: several commits are in flight at once, and
//! unsynced ones may reach the disk in any order. None of what is cut was acknowledged as synced.

use super::seal::{Sealing, SegmentInfo};
use super::{Eviction, Shard, ShardSettings, TopicRef};
use crate::cache::{BlockCache, Files};
use crate::checkpoint::{self, CheckpointError, Loaded};
use crate::config::TopicConfig;
use crate::disk::{Io, Jobs, OpenMode};
use crate::error::{DiskError, FormatError};
use crate::ids::{Lsn, Millis, TopicId};
use crate::index::SealedBlock;
use crate::limits::{BLOCK_BYTES, CHUNK_BYTES, RECORD_BYTES_MAX};
use crate::mem::{AlignedBuf, Chunk};
use crate::quota::Quota;
use crate::topic::{Loss, Remembered, Topic};
use crate::wal::chunks::Chunks;
use crate::wal::files;
use crate::wal::format::{BLOCK_HEADER_BYTES, BlockHeader, FileHeader, SKIP, UNKNOWN_BLOCK};
use crate::wal::frame::{Kind, RecordsEntry, RecordsHeader, split_entry};
use crate::wal::log::{FrameRef, Log, LogStart};
use ahash::AHashMap;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

/// The largest block fits half the cache: with less, a read would never find what it loaded.
const CACHE_BYTES_MIN: usize = 4 * RECORD_BYTES_MAX;
/// Segment files a shard keeps open.
const OPEN_FILES_MAX: usize = 512;

/// Why a shard does not start (SU-5).
#[derive(Debug)]
pub enum RecoverError {
    /// The disk failed.
    Disk {
        /// Where.
        path: String,
        /// What the system said.
        error: DiskError,
    },
    /// Something durable is unreadable (I-94).
    Damage(String),
    /// Files of another data directory, another format version, or another shape.
    Foreign(String),
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoverError::Disk { path, error } => write!(f, "{path}: {error}"),
            RecoverError::Damage(text) | RecoverError::Foreign(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for RecoverError {}

/// What recovery found, for the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Blocks replayed.
    pub blocks: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Records in them.
    pub records: u64,
    /// What was cut, where and why; checkpoints that were passed over.
    pub notes: Vec<String>,
}

/// A log file found in the directory.
#[derive(Clone, Copy, Debug)]
struct Found {
    slot: u32,
    header: FileHeader,
}

/// Recovers a shard, or starts an empty one. Directories must exist. `progress` hears bytes replayed.
pub async fn recover(
    io: &Io,
    settings: ShardSettings,
    quota: Arc<Quota>,
    now: Millis,
    mut progress: impl FnMut(u64),
) -> Result<(Shard, RecoveryReport), RecoverError> {
    let dir = settings.dir();
    let mut report = RecoveryReport::default();
    let survey = survey(io, &settings).await?;
    let loaded = match checkpoint::load(io, &dir).await {
        Ok(loaded) => loaded,
        Err(CheckpointError::NoneValid { skipped }) if survey.files.contains_key(&FIRST_FILE) => {
            // The log still reaches back to the beginning: it alone gives the same state (I-95).
            report.notes.extend(skipped.iter().map(|(name, why)| format!("{dir}/{name} passed over: {why}")));
            None
        }
        Err(CheckpointError::Disk { path, error }) => return Err(RecoverError::Disk { path, error }),
        Err(error) => return Err(RecoverError::Damage(format!("{dir}: {error}"))),
    };
    let start = match &loaded {
        Some(loaded) => {
            report
                .notes
                .extend(loaded.skipped.iter().map(|(name, why)| format!("{dir}/{name} passed over: {why}")));
            let head = &loaded.head;
            if head.shard != settings.shard
                || head.shards != settings.shards
                || head.layout != settings.layout
            {
                return Err(RecoverError::Foreign(format!(
                    "{dir}: its checkpoint is of shard {} of {}, layout {}",
                    head.shard, head.shards, head.layout
                )));
            }
            Start { lsn: head.log_start, block: head.next_block, described: head.described_block }
        }
        None => {
            Start { lsn: Lsn(FIRST_FILE * settings.file_bytes + BLOCK_BYTES as u64), block: 1, described: 0 }
        }
    };
    let mut replay = Replay::new(settings.clone(), loaded, start.lsn)?;
    let tail = scan(io, &settings, &survey, start, &mut replay, &mut report, &mut progress).await?;
    // Log files whose making was cut off are used again: their names must be durable by then.
    io.sync_dir(&dir).await.map_err(|error| RecoverError::Disk { path: dir.clone(), error })?;
    let shard = replay.finish(io, settings, quota, &survey, start, tail, now)?;
    Ok((shard, report))
}

/// Number of the first log file of a shard; lsn 0 stays unused.
const FIRST_FILE: u64 = 1;

#[derive(Clone, Copy)]
struct Start {
    lsn: Lsn,
    block: u64,
    described: u64,
}

/// Where the log ended.
struct Tail {
    next_block: u64,
    prev_crc: u32,
    /// Last file with an accepted block, or the one before the first.
    last_file: u64,
}

struct Survey {
    /// Usable files by number.
    files: BTreeMap<u64, Found>,
    /// Complete files whose place in the log is free.
    spare: Vec<u32>,
    /// Files with an unreadable header.
    damaged: Vec<(u32, String)>,
    next_slot: u32,
    epoch: u64,
}

/// Reads the headers of all log files.
async fn survey(io: &Io, settings: &ShardSettings) -> Result<Survey, RecoverError> {
    let dir = settings.dir();
    let disk = |path: &str, error| RecoverError::Disk { path: path.to_owned(), error };
    let names = io.list(&dir).await.map_err(|error| disk(&dir, error))?;
    let mut survey =
        Survey { files: BTreeMap::new(), spare: Vec::new(), damaged: Vec::new(), next_slot: 0, epoch: 0 };
    let mut buf = AlignedBuf::zeroed(BLOCK_BYTES);
    for (name, bytes) in names {
        let path = format!("{dir}/{name}");
        if name.ends_with(".new") {
            io.remove(&path).await.map_err(|error| disk(&path, error))?;
            continue;
        }
        let Some(slot) = files::slot_of(&name) else { continue };
        survey.next_slot = survey.next_slot.max(slot + 1);
        let file = io.open(&path, OpenMode::Read).await.map_err(|error| disk(&path, error))?;
        let (filled, length) = io.read(file, 0, buf).await.map_err(|error| disk(&path, error))?;
        buf = filled;
        io.close(file).await;
        if bytes < settings.file_bytes {
            // Only a file that is complete gets a header: with one, it was cut short by someone else, and
            // there may be blocks in it that are nowhere else (I-94).
            if buf[..length].iter().any(|byte| *byte != 0) {
                return Err(RecoverError::Damage(format!(
                    "{path} has {bytes} bytes instead of {}: it was cut short after it was in use; restore \
                     it, or move it away knowingly",
                    settings.file_bytes
                )));
            }
            // Its preparation never ended; it will be filled from the start.
            io.remove(&path).await.map_err(|error| disk(&path, error))?;
            continue;
        }
        match FileHeader::decode(&buf) {
            Ok(None) => survey.spare.push(slot),
            Err(error) => survey.damaged.push((slot, format!("{path}: {error}"))),
            Ok(Some(header)) => {
                if header.directory != settings.directory
                    || header.shard != settings.shard
                    || header.file_bytes != settings.file_bytes
                {
                    return Err(RecoverError::Foreign(format!(
                        "{path} belongs to shard {} of data directory {:016x} with log files of {} bytes",
                        header.shard, header.directory, header.file_bytes
                    )));
                }
                survey.epoch = survey.epoch.max(header.epoch);
                let found = Found { slot, header };
                // A recycled file may leave two of one number: the later epoch has it.
                match survey.files.insert(header.number, found) {
                    Some(other) if other.header.epoch > header.epoch => {
                        survey.spare.push(slot);
                        survey.files.insert(header.number, other);
                    }
                    Some(other) => survey.spare.push(other.slot),
                    None => {}
                }
            }
        }
    }
    Ok(survey)
}

/// Reads the log from its start, handing every whole batch to `replay`.
async fn scan(
    io: &Io,
    settings: &ShardSettings,
    survey: &Survey,
    start: Start,
    replay: &mut Replay,
    report: &mut RecoveryReport,
    progress: &mut impl FnMut(u64),
) -> Result<Tail, RecoverError> {
    let file_bytes = settings.file_bytes;
    let mut number = start.lsn.0 / file_bytes;
    // A start in the middle of a file has blocks before it: that file must not be begun again.
    let in_first_chunk = start.lsn.0 % file_bytes < CHUNK_BYTES as u64;
    let last_file = if in_first_chunk { number.saturating_sub(1) } else { number };
    let mut tail = Tail { next_block: start.block, prev_crc: 0, last_file };
    let mut at = start.lsn.0;
    let mut chain_known = false;
    let mut epoch = None;
    loop {
        let Some(found) = survey.files.get(&number) else {
            let missing = format!("{}/wal file number {number}", settings.dir());
            judge_missing(io, settings, survey, number, &tail, start, missing).await?;
            break;
        };
        let header = found.header;
        if header.first_block != UNKNOWN_BLOCK && epoch.is_some_and(|epoch| header.epoch > epoch) {
            if header.first_block != tail.next_block {
                // A later run began elsewhere: what this one wrote from here on is missing.
                return Err(RecoverError::Damage(format!(
                    "{}: begins with block {}, but the log before it ends at block {}",
                    files::path(&settings.dir(), found.slot),
                    header.first_block,
                    tail.next_block - 1
                )));
            }
            replay.end_epoch();
            // A run that started behind a checkpoint may not have seen the block before its first: what
            // it chained to stands in its file header.
            tail.prev_crc = header.prev_crc;
        }
        epoch = Some(header.epoch);
        let path = files::path(&settings.dir(), found.slot);
        let disk = |error| RecoverError::Disk { path: path.clone(), error };
        let file = io.open(&path, OpenMode::Read).await.map_err(disk)?;
        let file_start = number * file_bytes;
        at = at.max(file_start + BLOCK_BYTES as u64);
        let end = file_start + file_bytes;
        let mut stopped = None;
        while at < end && stopped.is_none() {
            let chunk_number = at / CHUNK_BYTES as u64;
            let chunk = replay.push_chunk(chunk_number, tail.next_block);
            let chunk_start = chunk_number * CHUNK_BYTES as u64;
            let read = io.read_chunk(file, chunk_start - file_start, chunk.clone(), CHUNK_BYTES as u32).await;
            let filled = read.map_err(disk)?;
            chunk.freeze(filled);
            let mut offset = (at - chunk_start) as usize;
            loop {
                let expected = Expected {
                    shard: settings.shard,
                    epoch: header.epoch,
                    number: tail.next_block,
                    lsn: chunk_start + offset as u64,
                    prev_crc: chain_known.then_some(tail.prev_crc),
                };
                let bytes = chunk.bytes(offset.min(filled), filled);
                let Some((block, crc)) = expected.judge(bytes) else {
                    stopped = Some(chunk_start + offset as u64);
                    break;
                };
                let payload = offset + BLOCK_HEADER_BYTES;
                replay
                    .block(&chunk, chunk_start, payload, block.payload_bytes as usize, &block, report)
                    .map_err(|error| {
                        RecoverError::Foreign(format!("{path}, offset {}: {error}", block.lsn - file_start))
                    })?;
                report.blocks += 1;
                report.bytes += block.stored_bytes() as u64;
                tail = Tail { next_block: block.number + 1, prev_crc: crc, last_file: number };
                chain_known = true;
                offset += block.stored_bytes();
                if block.flags & SKIP != 0 || offset == CHUNK_BYTES {
                    break;
                }
            }
            progress(report.bytes);
            at = chunk_start + CHUNK_BYTES as u64;
        }
        if let Some(place) = stopped {
            let next = survey.files.get(&(number + 1));
            let cut_before = next.is_some_and(|next| {
                next.header.epoch > header.epoch && next.header.first_block == tail.next_block
            });
            if !cut_before {
                let torn = look_ahead(io, settings, survey, number, place, &tail, start, replay).await;
                report.notes.extend(torn?);
                io.sync(file).await.map_err(disk)?;
                io.close(file).await;
                break;
            }
            chain_known = true;
        }
        // A killed process leaves blocks that were written and never synced. The next run counts them
        // as durable and writes after them, so they must be.
        io.sync(file).await.map_err(disk)?;
        io.close(file).await;
        number += 1;
        at = number * file_bytes;
    }
    Ok(tail)
}

struct Expected {
    shard: u16,
    epoch: u64,
    number: u64,
    lsn: u64,
    prev_crc: Option<u32>,
}

impl Expected {
    /// The block at the front of `bytes`, if it is whole and the one expected.
    fn judge(&self, bytes: &[u8]) -> Option<(BlockHeader, u32)> {
        let (block, crc) = whole_block(bytes)?;
        let fits = block.shard == self.shard
            && block.epoch == self.epoch
            && block.number == self.number
            && block.lsn == self.lsn
            && self.prev_crc.is_none_or(|prev| prev == block.prev_crc);
        fits.then_some((block, crc))
    }
}

/// A block whose header and payload hold.
fn whole_block(bytes: &[u8]) -> Option<(BlockHeader, u32)> {
    let (block, crc) = BlockHeader::decode(bytes).ok()?;
    let payload = bytes.get(BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + block.payload_bytes as usize)?;
    (crc32c::crc32c(payload) == block.payload_crc).then_some((block, crc))
}

/// A file of the log is not there. Fine where the log simply ends; damage where it must go on.
async fn judge_missing(
    io: &Io,
    settings: &ShardSettings,
    survey: &Survey,
    number: u64,
    tail: &Tail,
    start: Start,
    missing: String,
) -> Result<(), RecoverError> {
    let refuse = |why: String| Err(RecoverError::Damage(format!("{missing} is missing: {why}")));
    if tail.next_block <= start.described {
        return refuse(format!("the checkpoint needs the log up to block {}", start.described));
    }
    if let Some((later, _)) = survey.files.range(number + 1..).next() {
        return refuse(format!("file number {later} of the same log is there"));
    }
    // A header torn while the file was being prepared is harmless, unless blocks follow it.
    for (slot, text) in &survey.damaged {
        let path = files::path(&settings.dir(), *slot);
        let disk = |error| RecoverError::Disk { path: path.clone(), error };
        let file = io.open(&path, OpenMode::Read).await.map_err(disk)?;
        let buf = AlignedBuf::zeroed(CHUNK_BYTES);
        let (buf, filled) = io.read(file, BLOCK_BYTES as u64, buf).await.map_err(disk)?;
        io.close(file).await;
        if let Some((block, _)) = whole_block(&buf[..filled]) {
            if block.number >= tail.next_block && block.lsn / settings.file_bytes >= number {
                return refuse(format!("{text}, and valid blocks follow it"));
            }
        }
    }
    Ok(())
}

/// After an unreadable block: damage, or the torn end of the log? Returns the note for the operator.
#[allow(clippy::too_many_arguments)]
async fn look_ahead(
    io: &Io,
    settings: &ShardSettings,
    survey: &Survey,
    file_number: u64,
    place: u64,
    tail: &Tail,
    start: Start,
    replay: &Replay,
) -> Result<Option<String>, RecoverError> {
    let file_bytes = settings.file_bytes;
    let epoch = survey.files[&file_number].header.epoch;
    let here = files::path(&settings.dir(), survey.files[&file_number].slot);
    let offset = place - file_number * file_bytes;
    let mut later = 0u64;
    let mut durable = start.described >= tail.next_block;
    let mut at_risk: BTreeMap<TopicId, (u64, u64)> = BTreeMap::new();
    let mut anything = false;
    for (number, found) in survey.files.range(file_number..) {
        if found.header.epoch != epoch {
            continue;
        }
        let path = files::path(&settings.dir(), found.slot);
        let disk = |error| RecoverError::Disk { path: path.clone(), error };
        let file = io.open(&path, OpenMode::Read).await.map_err(disk)?;
        let mut at = if *number == file_number { offset } else { BLOCK_BYTES as u64 };
        let mut buf = AlignedBuf::zeroed(2 * CHUNK_BYTES);
        while at < file_bytes {
            let (filled_buf, filled) = io.read(file, at, buf).await.map_err(disk)?;
            buf = filled_buf;
            let mut inside = 0;
            while inside < CHUNK_BYTES && inside < filled {
                let bytes = &buf[inside..filled];
                let lsn = number * file_bytes + at + inside as u64;
                anything |= *number == file_number && inside < BLOCK_BYTES && at == offset && bytes[0] != 0;
                match whole_block(bytes) {
                    Some((block, _))
                        if block.epoch == epoch && block.lsn == lsn && block.number > tail.next_block =>
                    {
                        later += 1;
                        durable |= block.synced_through >= tail.next_block;
                        let payload = BLOCK_HEADER_BYTES..BLOCK_HEADER_BYTES + block.payload_bytes as usize;
                        seqs_of(&bytes[payload], &mut at_risk);
                        inside += block.stored_bytes();
                    }
                    _ => inside += BLOCK_BYTES,
                }
            }
            at += inside.max(BLOCK_BYTES) as u64;
        }
        io.close(file).await;
    }
    if durable {
        let mut text = format!(
            "{here}, offset {offset}: block {} is unreadable although it was durable; {later} valid blocks follow it.",
            tail.next_block
        );
        for (topic, (first, last)) in at_risk.iter().take(20) {
            let name = replay.name_of(*topic);
            text.push_str(&format!(" Topic {name}: seqs {first}..={last} are at risk."));
        }
        text.push_str(" Starting would lose acknowledged data silently; look with `runelog inspect`, restore the file, or move it away knowingly.");
        return Err(RecoverError::Damage(text));
    }
    Ok((anything || later > 0).then(|| {
        format!(
            "{here}, offset {offset}: cut a torn tail before block {} ({later} later blocks were never synced)",
            tail.next_block
        )
    }))
}

/// Notes the seqs of records entries in a payload.
fn seqs_of(mut payload: &[u8], seqs: &mut BTreeMap<TopicId, (u64, u64)>) {
    while let Ok((entry, body, rest)) = split_entry(payload) {
        if entry.kind == Kind::Records {
            if let Ok(records) = RecordsEntry::decode(body) {
                let RecordsHeader { topic, first_seq, .. } = records.header;
                let range = seqs.entry(topic).or_insert((first_seq, first_seq));
                range.0 = range.0.min(first_seq);
                range.1 = range.1.max(records.header.last_seq());
            }
        }
        payload = rest;
    }
}

/// One entry of a batch that is being read.
enum Entry {
    Records { header: RecordsHeader, key: Option<Vec<u8>>, lsn: Lsn },
    Delete { topic: TopicId, count: u64, bytes: u64, ranges: Vec<(u64, u64)> },
    Topic { id: TopicId, head: u64, name: Rc<[u8]>, config: TopicConfig },
    Drop(TopicId),
    Reserve { topic: TopicId, through: u64 },
    Floor { topic: TopicId, gone: Eviction },
}

/// The shard under reconstruction.
struct Replay {
    topics: BTreeMap<TopicId, Topic>,
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

impl Replay {
    fn new(settings: ShardSettings, mut loaded: Option<Loaded>, start: Lsn) -> Result<Replay, RecoverError> {
        let mut topics = BTreeMap::new();
        if let Some(loaded) = &mut loaded {
            for (id, state) in std::mem::take(&mut loaded.topics) {
                let mut topic = Topic::new(id, Rc::from(state.name), state.config);
                topic.shown.head = state.head;
                topic.shown.floors = [state.floor_cap, state.floor_ttl, state.floor_source];
                topic.shown.count = state.count;
                topic.shown.bytes = state.bytes;
                topic.ordered = topic.shown;
                topic.reserved = state.reserved;
                topic.vacant = state.vacant.into_iter().collect();
                topic.deleted = state.deleted.into_iter().collect();
                topics.insert(id, topic);
            }
            for (segment, run) in std::mem::take(&mut loaded.runs) {
                if let Some(topic) = topics.get_mut(&run.topic) {
                    let blocks =
                        run.blocks.into_iter().map(|meta| SealedBlock { topic: run.topic, segment, meta });
                    topic.index.add_sealed(blocks);
                }
            }
        }
        let limit = (settings.hot_bytes / CHUNK_BYTES as u64).max(4) as usize;
        Ok(Replay {
            topics,
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

    fn name_of(&self, id: TopicId) -> String {
        match self.topics.get(&id) {
            Some(topic) => format!("{:?}", String::from_utf8_lossy(&topic.name)),
            None => format!("#{:x}", id.0),
        }
    }

    fn push_chunk(&mut self, number: u64, first_block: u64) -> Chunk {
        self.chunks.skip_to(number);
        self.chunk_blocks.push((number, first_block));
        self.chunks.push()
    }

    /// A run ended: what it left of an unfinished batch is void.
    fn end_epoch(&mut self) {
        self.batch.clear();
    }

    /// Applies the batches that end in this block.
    fn block(
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
                    Entry::Delete {
                        topic: TopicId(u64_at(body, 0)?),
                        count: u64_at(body, 8)?,
                        bytes: u64_at(body, 16)?,
                        ranges: ranges
                            .map(|range| Ok((u64_at(range, 0)?, u64_at(range, 8)?)))
                            .collect::<Result<_, FormatError>>()?,
                    }
                }
                Kind::Topic => {
                    let bad = || FormatError::new("topic entry");
                    let name_bytes = body.get(16..18).ok_or_else(bad)?;
                    let name_end = 18 + usize::from(u16::from_le_bytes([name_bytes[0], name_bytes[1]]));
                    let name = body.get(18..name_end).ok_or_else(bad)?;
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
            };
            self.batch.push(decoded);
            if entry.last {
                self.apply(block.number);
            }
            rest = after;
        }
        Ok(())
    }

    /// Applies a whole batch that ended in `block`.
    fn apply(&mut self, block: u64) {
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
                    // Seqs given away without frames (class `ephemeral`) leave a silent gap (I-57).
                    if *head > topic.shown.head {
                        topic.vacant.insert(topic.shown.head + 1, *head);
                        topic.shown.head = *head;
                    }
                    self.changed.push(*id);
                }
                Entry::Reserve { topic, through } if !described => {
                    if let Some(topic) = self.topics.get_mut(topic) {
                        topic.reserved = topic.reserved.max(*through);
                    }
                }
                Entry::Records { header, key, lsn } => {
                    self.index_records(header, key.as_deref(), *lsn, described)
                }
                _ => {}
            }
        }
        if described {
            return;
        }
        for entry in batch {
            match entry {
                Entry::Delete { topic: id, count, bytes, ranges } => {
                    if let Some(topic) = self.topics.get_mut(&id) {
                        ranges.into_iter().for_each(|(first, last)| topic.deleted.insert(first, last));
                        topic.shown.count -= count;
                        topic.shown.bytes -= bytes;
                        self.changed.push(id);
                    }
                }
                Entry::Floor { topic: id, gone } => {
                    if let Some(topic) = self.topics.get_mut(&id) {
                        let floor = &mut topic.shown.floors[gone.loss as usize];
                        *floor = (*floor).max(gone.seq);
                        topic.shown.count -= gone.count;
                        topic.shown.bytes -= gone.bytes;
                        self.changed.push(id);
                    }
                }
                Entry::Drop(id) => {
                    self.topics.remove(&id);
                    self.dropped.push(id);
                }
                Entry::Topic { .. } | Entry::Reserve { .. } | Entry::Records { .. } => {}
            }
        }
    }

    fn index_records(&mut self, header: &RecordsHeader, key: Option<&[u8]>, lsn: Lsn, described: bool) {
        let Some(topic) = self.topics.get_mut(&header.topic) else {
            return; // dropped later, as the checkpoint knows
        };
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
    fn finish(
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
        let file_number = tail.last_file.max(FIRST_FILE - 1) + 1;
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
        sealing.free_slots.extend(survey.damaged.iter().map(|(slot, _)| *slot));
        let first_needed = start.lsn.0 / settings.file_bytes;
        for (number, found) in &survey.files {
            match *number < file_number {
                true => sealing.old_files.push((*number, found.slot)),
                false => sealing.free_slots.push(found.slot),
            }
        }
        debug_assert!(first_needed <= file_number);
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
            loaded: Vec::new(),
            notices: Vec::new(),
            next_load: 0,
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
            if topic.reserved > topic.shown.head && !clean {
                topic.vacant.insert(topic.shown.head + 1, topic.reserved);
                topic.shown.head = topic.reserved;
            }
            topic.reserved = topic.shown.head;
            let floor = topic.shown.floor();
            if floor > topic.shown.head {
                topic.shown.head = floor;
            }
            topic.deleted.prune_through(floor);
            topic.vacant.prune_through(floor);
            topic.ordered = topic.shown;
            let sealing = &mut shard.sealing;
            let dead = topic.earliest() - 1;
            topic.index.drop_through(dead, |block| sealing.release(block.segment));
            bytes += topic.ordered.bytes;
            shard.insert(topic);
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
