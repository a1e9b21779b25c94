//! Starting a shard from its directory: the newest checkpoint, then the log after it.
//!
//! The log is read chunk by chunk into the very memory that will serve readers, so recovery needs no
//! more of it than the run before did. Each block is judged by one table:
//!
//! | at the expected place | then |
//! |---|---|
//! | a valid block of the expected number, epoch, place and chain | it is replayed |
//! | anything else, and the next file opens a later epoch at that number | an earlier recovery cut here: go on there |
//! | anything else at or below a block known durable (checkpoint, `synced_through` of a later valid block, or a later run that began behind it) | damage: refuse to start, naming file, offset and seqs at risk (I-94) |
//! | anything else | a torn tail: cut and reported (I-93) |
//!
//! A later valid block is not by itself a sign of damage: several commits are in flight at once, and
//! unsynced ones may reach the disk in any order. None of what is cut was acknowledged as synced.

use super::replay::Replay;
use super::{Shard, ShardSettings};
use crate::checkpoint::{self, CheckpointError};
use crate::disk::{Io, OpenMode};
use crate::error::DiskError;
use crate::ids::{Lsn, Millis, TopicId};
use crate::limits::{BLOCK_BYTES, CHUNK_BYTES};
use crate::mem::AlignedBuf;
use crate::quota::Quota;
use crate::sabotage::{self, Bug};
use crate::verify::seqs_of;
use crate::wal::files;
use crate::wal::format::{
    BLOCK_HEADER_BYTES, BlockHeader, FileHeader, SKIP, UNKNOWN_BLOCK, is_unknown_version,
};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

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
    /// A block of the log that was durable is unreadable (I-94).
    DamagedBlock {
        /// The log file, in the data directory.
        path: String,
        /// Where in it the block begins.
        offset: u64,
        /// What is known of it, and what to do.
        what: String,
    },
    /// Files of another data directory, or of another shape.
    Foreign(String),
    /// Whole, and of a format version that this program does not know (I-99).
    Version(String),
}

impl fmt::Display for RecoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoverError::Disk { path, error } => write!(f, "{path}: {error}"),
            RecoverError::DamagedBlock { path, offset, what } => write!(f, "{path}, offset {offset}: {what}"),
            RecoverError::Damage(text) | RecoverError::Foreign(text) | RecoverError::Version(text) => {
                f.write_str(text)
            }
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
    /// The log was cut before this block: the torn end of unfinished writes (I-93).
    pub cut_before: Option<u64>,
    /// What was cut, where and why; checkpoints that were passed over.
    pub notes: Vec<String>,
}

/// A log file found in the directory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) slot: u32,
    pub(super) header: FileHeader,
    /// Somebody cut it: what is left is read, but it is not used again.
    pub(super) short: bool,
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
    let mut survey = survey(io, &settings).await?;
    report.notes.append(&mut survey.notes);
    let (loaded, skipped) = match checkpoint::load(io, &dir).await {
        Ok(mut loaded) => {
            let skipped = loaded.as_mut().map(|loaded| std::mem::take(&mut loaded.skipped));
            (loaded, skipped.unwrap_or_default())
        }
        Err(CheckpointError::NoneValid { skipped }) if survey.files.contains_key(&FIRST_FILE) => {
            // The log still reaches back to the beginning: it alone gives the same state (I-95).
            (None, skipped)
        }
        Err(CheckpointError::Disk { path, error }) => return Err(RecoverError::Disk { path, error }),
        Err(error) => return Err(RecoverError::Damage(format!("{dir}: {error}"))),
    };
    let passed_over = |(name, why): &(String, String)| format!("{dir}/{name} passed over: {why}");
    report.notes.extend(skipped.iter().map(passed_over));
    let start = match &loaded {
        Some(loaded) => {
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
    // What a short file has lost leaves no trace behind it, so its length is the only thing to tell (I-93).
    let needed = survey.files.range(start.lsn.0 / settings.file_bytes..);
    report.notes.extend(needed.filter(|(_, found)| found.short).map(|(_, found)| {
        let path = files::path(&dir, found.slot);
        format!("{path} was cut short by someone: the log goes on without what may have been behind its end")
    }));
    let mut replay = Replay::new(settings.clone(), loaded, start.lsn)?;
    let tail = scan(io, &settings, &survey, start, &mut replay, &mut report, &mut progress).await?;
    // What was passed over may be readable to the next start, and would bring back a state that this run has
    // left behind, with segments that are gone by then.
    for (name, _) in skipped {
        let path = format!("{dir}/{name}");
        io.remove(&path).await.map_err(|error| RecoverError::Disk { path, error })?;
        let name = checkpoint::parse_name(&name);
        survey.checkpoints.retain(|number| name != checkpoint::Name::Checkpoint(*number));
    }
    // Log files whose making was cut off are used again: their names must be durable by then.
    io.sync_dir(&dir).await.map_err(|error| RecoverError::Disk { path: dir.clone(), error })?;
    let shard = replay.finish(io, settings, quota, &survey, start, tail, now)?;
    Ok((shard, report))
}

/// Number of the first log file of a shard; lsn 0 stays unused.
pub(super) const FIRST_FILE: u64 = 1;

#[derive(Clone, Copy)]
pub(super) struct Start {
    pub(super) lsn: Lsn,
    pub(super) block: u64,
    pub(super) described: u64,
}

/// Where the log ended.
pub(super) struct Tail {
    pub(super) next_block: u64,
    pub(super) prev_crc: u32,
    /// Last file with an accepted block, or the one before the first.
    pub(super) last_file: u64,
}

pub(super) struct Survey {
    /// Usable files by number.
    pub(super) files: BTreeMap<u64, Found>,
    /// Complete files whose place in the log is free.
    pub(super) spare: Vec<u32>,
    /// Files with an unreadable header, and whether they are short.
    pub(super) damaged: Vec<(u32, String, bool)>,
    /// Numbers of all checkpoint files.
    pub(super) checkpoints: Vec<u64>,
    pub(super) next_slot: u32,
    pub(super) epoch: u64,
    /// Files that were removed, for the operator.
    notes: Vec<String>,
}

impl Survey {
    /// The slot of the file that alone tells the newest epoch. Beginning it again is no single step: cut off in the
    /// middle it tells none, and the next run would take an epoch, with its lease tokens, for the second time
    /// (I-86). `described`: the checkpoint's epoch, told by that as well.
    pub(super) fn only_witness(&self, described: u64) -> Option<u32> {
        let mut newest = self.files.values().filter(|found| found.header.epoch == self.epoch);
        let only = newest.next().filter(|_| newest.next().is_none() && described < self.epoch);
        only.map(|found| found.slot)
    }
}

/// Reads the headers of all log files.
async fn survey(io: &Io, settings: &ShardSettings) -> Result<Survey, RecoverError> {
    let dir = settings.dir();
    let disk = |path: &str, error| RecoverError::Disk { path: path.to_owned(), error };
    let names = io.list(&dir).await.map_err(|error| disk(&dir, error))?;
    let mut survey = Survey {
        files: BTreeMap::new(),
        spare: Vec::new(),
        damaged: Vec::new(),
        checkpoints: Vec::new(),
        next_slot: 0,
        epoch: 0,
        notes: Vec::new(),
    };
    let mut buf = AlignedBuf::zeroed(BLOCK_BYTES);
    for (name, bytes) in names {
        let path = format!("{dir}/{name}");
        if name.ends_with(".new") {
            io.remove(&path).await.map_err(|error| disk(&path, error))?;
            continue;
        }
        if let checkpoint::Name::Checkpoint(number) = checkpoint::parse_name(&name) {
            survey.checkpoints.push(number);
        }
        let Some(slot) = files::slot_of(&name) else { continue };
        survey.next_slot = survey.next_slot.max(slot + 1);
        let file = io.open(&path, OpenMode::Read).await.map_err(|error| disk(&path, error))?;
        let (filled, read) = io.read(file, 0, buf).await.map_err(|error| disk(&path, error))?;
        buf = filled;
        io.close(file).await;
        let short = bytes < settings.file_bytes;
        match FileHeader::decode(&buf[..read]) {
            Ok(None) if short => {
                // Its preparation never ended: it has no header and is made again.
                io.remove(&path).await.map_err(|error| disk(&path, error))?;
            }
            Err(_) if read < BLOCK_HEADER_BYTES => {
                // So it may be here, too. But somebody may have emptied it, and it may have been the last.
                survey.notes.push(format!(
                    "{path} is of {bytes} bytes: removed, the log goes on without what may have been in it"
                ));
                io.remove(&path).await.map_err(|error| disk(&path, error))?;
            }
            Err(error) if is_unknown_version(&error) => {
                return Err(RecoverError::Version(format!("{path}: {error}")));
            }
            Ok(None) => survey.spare.push(slot),
            Err(error) => survey.damaged.push((slot, format!("{path}: {error}"), short)),
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
                let mut found = Found { slot, header, short };
                // A recycled file may leave two of one number: the later epoch has it.
                if let Some(other) = survey.files.remove(&header.number) {
                    let spare;
                    (found, spare) = choose(io, settings, found, other).await?;
                    if !spare.short {
                        survey.spare.push(spare.slot);
                    }
                }
                survey.files.insert(header.number, found);
            }
        }
    }
    Ok(survey)
}

/// Of two files with one place in the log: the one that has it, and the other. In one epoch a file that
/// could not be made ready may leave its header to another one, but only one of them takes blocks: a copy
/// that somebody made must not stand in for what was written since.
async fn choose(
    io: &Io,
    settings: &ShardSettings,
    one: Found,
    other: Found,
) -> Result<(Found, Found), RecoverError> {
    if one.header.epoch != other.header.epoch {
        return Ok(if one.header.epoch > other.header.epoch { (one, other) } else { (other, one) });
    }
    let dir = settings.dir();
    let mut has_blocks = [false; 2];
    for (found, has) in [&one, &other].into_iter().zip(&mut has_blocks) {
        let (buf, filled) = read_front(io, settings, found.slot, CHUNK_BYTES).await?;
        let first = found.header.number * settings.file_bytes + BLOCK_BYTES as u64;
        *has = whole_block(&buf[..filled])
            .is_some_and(|(block, _)| (block.epoch, block.lsn) == (found.header.epoch, first));
    }
    match has_blocks {
        [true, true] => Err(RecoverError::Damage(format!(
            "{} and {} both claim to be file number {} of the log: one is a copy, move it away",
            files::path(&dir, one.slot),
            files::path(&dir, other.slot),
            one.header.number
        ))),
        [true, false] => Ok((one, other)),
        [false, _] => Ok((other, one)),
    }
}

/// The first `bytes` of a log file behind its header, with how many there were.
async fn read_front(
    io: &Io,
    settings: &ShardSettings,
    slot: u32,
    bytes: usize,
) -> Result<(AlignedBuf, usize), RecoverError> {
    let path = files::path(&settings.dir(), slot);
    let disk = |error| RecoverError::Disk { path: path.clone(), error };
    let file = io.open(&path, OpenMode::Read).await.map_err(disk)?;
    let read = io.read(file, BLOCK_BYTES as u64, AlignedBuf::zeroed(bytes)).await;
    io.close(file).await;
    read.map_err(disk)
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
                    if let Err(error) = BlockHeader::decode(bytes)
                        && is_unknown_version(&error)
                    {
                        let place = chunk_start + offset as u64 - file_start;
                        let text = format!("{path}, offset {place}: {error}");
                        return Err(RecoverError::Version(text));
                    }
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
                judge_damaged(io, settings, survey, number + 1, &tail).await?;
                let torn = look_ahead(io, settings, survey, number, place, &tail, start, replay).await;
                if let Some(note) = torn? {
                    report.cut_before = Some(tail.next_block);
                    report.notes.push(note);
                }
                if !sabotage::is(Bug::RecoveredUnsynced) {
                    io.sync(file).await.map_err(disk)?;
                }
                io.close(file).await;
                break;
            }
            chain_known = true;
        }
        // A killed process leaves blocks that were written and never synced. The next run counts them
        // as durable and writes after them, so they must be.
        if !sabotage::is(Bug::RecoveredUnsynced) {
            io.sync(file).await.map_err(disk)?;
        }
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
    (crc32c::crc32c(payload) == block.payload_crc || sabotage::is(Bug::TrustPayload)).then_some((block, crc))
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
    judge_damaged(io, settings, survey, number, tail).await
}

/// The log ends before file `number`. A header torn while a file was being prepared is harmless, unless blocks
/// follow it that belong there.
async fn judge_damaged(
    io: &Io,
    settings: &ShardSettings,
    survey: &Survey,
    number: u64,
    tail: &Tail,
) -> Result<(), RecoverError> {
    for (slot, text, _) in &survey.damaged {
        let (buf, filled) = read_front(io, settings, *slot, CHUNK_BYTES).await?;
        if let Some((block, _)) = whole_block(&buf[..filled])
            && block.number >= tail.next_block
            && block.lsn / settings.file_bytes >= number
        {
            return Err(RecoverError::Damage(format!(
                "{text}, and valid blocks follow it, from block {} on",
                block.number
            )));
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
        if found.header.epoch < epoch {
            continue;
        }
        if found.header.epoch > epoch {
            // A later run began behind what the one before had left, and saw to it that this was durable.
            let FileHeader { first_block, .. } = found.header;
            durable |= first_block != UNKNOWN_BLOCK && first_block > tail.next_block;
            let (buf, filled) = read_front(io, settings, found.slot, BLOCK_BYTES).await?;
            if let Ok((block, _)) = BlockHeader::decode(&buf[..filled])
                && block.epoch == found.header.epoch
                && block.number > tail.next_block
            {
                (later, durable) = (later + 1, true);
            }
            continue;
        }
        let path = files::path(&settings.dir(), found.slot);
        let disk = |error| RecoverError::Disk { path: path.clone(), error };
        let file = io.open(&path, OpenMode::Read).await.map_err(disk)?;
        let mut at = if *number == file_number { offset } else { BLOCK_BYTES as u64 };
        // No block reaches beyond its file.
        let mut buf = AlignedBuf::zeroed((2 * CHUNK_BYTES).min(file_bytes as usize));
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
    if durable && !sabotage::is(Bug::TornTailInside) {
        let mut what = format!(
            "block {} is unreadable although it was durable; {later} valid blocks follow it.",
            tail.next_block
        );
        for (topic, (first, last)) in at_risk.iter().take(20) {
            let name = replay.name_of(*topic);
            // What lies between was in the block itself.
            let first = replay.head_of(*topic).map_or(*first, |head| (head + 1).min(*first));
            what.push_str(&format!(" Topic {name}: seqs {first}..={last} are at risk."));
        }
        what.push_str(" Starting would lose acknowledged data silently; look with `runelog inspect`, restore the file, or move it away knowingly.");
        return Err(RecoverError::DamagedBlock { path: here, offset, what });
    }
    Ok((anything || later > 0).then(|| {
        format!(
            "{here}, offset {offset}: cut a torn tail before block {} ({later} later blocks were never synced)",
            tail.next_block
        )
    }))
}
