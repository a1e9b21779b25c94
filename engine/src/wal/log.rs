//! The log writer of one shard: entries into the open block, blocks to disk, commits in order.
//! Lives here: group commit, blocks in flight, syncs, rotation through prepared files.
//! Not here: what entries mean ([`shard`](crate::shard)), reading a log back ([`recover`](super::recover)).
//! Always true: a block counts as committed only when it and every block before it reached what
//! they asked for (a completed write, or a completed sync); a failed write or sync is final.
//!
//! **Batching.** [`Log::flush`] is called once per turn of the loop. With fewer than
//! `commits_in_flight` blocks on their way, whatever is in the open block goes out at once, so an idle
//! log adds no delay; otherwise the block keeps filling and goes out when one completes.
//!
//! **Syncs.** A block with an entry that needs a sync is written with `RWF_DSYNC`, which covers the
//! block's own bytes only. If blocks before it were written without, it becomes a *barrier*: it
//! commits after an fdatasync issued when everything before it was written (I-56).

use super::chunks::Chunks;
use super::format::{BLOCK_HEADER_BYTES, BlockHeader, FileHeader, SKIP, UNKNOWN_BLOCK, stored_bytes};
use super::frame::{ENTRY_HEADER_BYTES, EntryHeader, Kind, Piece, PieceOf, Sink};
use crate::disk::{Done, FileId, Io, Op, Tag};
use crate::error::DiskError;
use crate::event::Batch;
use crate::ids::Lsn;
use crate::limits::{BLOCK_BYTES, CHUNK_BYTES};
use crate::mem::Chunk;
use crate::sabotage::{self, Bug};
use std::collections::VecDeque;

/// A block is closed when it holds this much, though a commit slot may not be free yet.
const GROUP_BYTES_MAX: usize = 1 << 20;

/// What the log must know at its start.
#[derive(Clone, Copy, Debug)]
pub struct LogStart {
    /// Shard number, stamped into blocks.
    pub shard: u16,
    /// This run.
    pub epoch: u64,
    /// Number of the first block to write.
    pub next_block: u64,
    /// Header checksum of the block before.
    pub prev_crc: u32,
    /// File the first block goes to.
    pub file_number: u64,
    /// Size of every log file; a multiple of the chunk size.
    pub file_bytes: u64,
    /// Group commits in flight.
    pub in_flight_max: usize,
}

/// A log file ready to take blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogFile {
    /// Its place in the log.
    pub number: u64,
    /// Its place in the directory (`wal-<slot>.log`).
    pub slot: u32,
    /// Its handle.
    pub file: FileId,
}

/// Where a records entry lies, and what it holds: an element of a topic's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef {
    /// Place of the entry header.
    pub lsn: Lsn,
    /// First seq.
    pub first_seq: u64,
    /// Records.
    pub count: u32,
    /// Sum of `data` + `meta`.
    pub counted_bytes: u32,
    /// Commit time.
    pub ts: i64,
}

impl FrameRef {
    /// Last seq.
    pub fn last_seq(&self) -> u64 {
        self.first_seq + u64::from(self.count) - 1
    }
}

/// Counters of the log, for metrics. All since start.
#[derive(Clone, Debug, Default)]
pub struct LogStats {
    /// Durable frames: appends of clients, deletes, changes of topics and routers (H-8).
    pub frames: u64,
    /// Batches of copies that routers made; not among the frames (I-61).
    pub copies: u64,
    /// Bookkeeping entries: reservations, floors, positions of routers, trims, leases.
    pub marks: u64,
    /// Blocks written.
    pub blocks: u64,
    /// Syncs completed (synced block writes and fdatasyncs).
    pub fsyncs: u64,
    /// Microseconds in those.
    pub fsync_us: u64,
    /// Syncs that took at most 50, 100, 250, 500, 1000, 5000, 10000, 50000, 100000 µs, or longer.
    pub fsync_buckets: [u64; 10],
    /// Bytes written to log files.
    pub bytes_written: u64,
    /// Changes to the next file.
    pub rotations: u64,
    /// Batches that met a full log and had to wait.
    pub submit_full: u64,
    /// Most blocks ever closed or in flight.
    pub depth_peak: usize,
}

/// Upper bounds of [`LogStats::fsync_buckets`] in µs; the last bucket has none.
pub const FSYNC_BOUNDS_US: [u64; 9] = [50, 100, 250, 500, 1000, 5000, 10_000, 50_000, 100_000];

struct Closed {
    number: u64,
    lsn: u64,
    bytes: u32,
    flags: u16,
    payload_bytes: u32,
    payload_crc: u32,
    sync: bool,
}

struct Flight {
    number: u64,
    lsn: u64,
    tag: Tag,
    written: bool,
    /// Written with `RWF_DSYNC`.
    synced_write: bool,
    /// Commits only after an fdatasync.
    barrier: bool,
    file: FileId,
    submitted_us: u64,
}

struct Syncing {
    waiting: Vec<Tag>,
    /// Blocks up to this one are durable when all answered.
    through: u64,
    submitted_us: u64,
}

/// See the module's text.
pub struct Log {
    io: Io,
    start: LogStart,
    /// The log in memory.
    pub chunks: Chunks,
    /// Counters.
    pub stats: LogStats,
    open_chunk: Chunk,
    open_number: u64,
    /// Where the open block begins in its chunk, and where its next entry goes.
    open_start: usize,
    open_end: usize,
    open_sync: bool,
    entry_block: u64,
    /// Block of the last entry that somebody was or will be promised: any but a mark of evictions.
    promised_block: u64,
    /// First block of each chunk that may still be sealed, oldest first.
    chunk_blocks: VecDeque<(u64, u64)>,
    /// Chunk of the first entry of the batch that is being put.
    batch_chunk: Option<u64>,
    /// Batches over several chunks that are not committed: first chunk, last block.
    spanning: VecDeque<(u64, u64)>,
    next_block: u64,
    prev_crc: u32,
    closed: VecDeque<Closed>,
    flights: VecDeque<Flight>,
    files: VecDeque<LogFile>,
    committed: u64,
    synced: u64,
    /// What the last block that was sent says of `synced`.
    synced_told: u64,
    /// Files with completed or submitted writes that no issued sync covers.
    dirty: Vec<FileId>,
    /// When the oldest of those writes was submitted.
    dirty_since_us: u64,
    syncing: Option<Syncing>,
    /// The oldest and the newest block that somebody wants durable soon, though nobody waits for it.
    wanted: Option<(u64, u64)>,
    failed: Option<DiskError>,
}

impl Log {
    /// A log that goes on after recovery. `chunks` holds what recovery kept in memory.
    pub fn new(io: Io, start: LogStart, mut chunks: Chunks) -> Log {
        assert!(start.file_bytes.is_multiple_of(CHUNK_BYTES as u64));
        let open_number = start.file_number * start.file_bytes / CHUNK_BYTES as u64;
        chunks.skip_to(open_number);
        let open_chunk = chunks.push();
        let committed = start.next_block - 1;
        Log {
            io,
            start,
            chunks,
            stats: LogStats::default(),
            open_chunk,
            open_number,
            open_start: BLOCK_BYTES,
            open_end: BLOCK_BYTES + BLOCK_HEADER_BYTES,
            open_sync: false,
            entry_block: committed,
            promised_block: committed,
            chunk_blocks: VecDeque::from([(open_number, start.next_block)]),
            batch_chunk: None,
            spanning: VecDeque::new(),
            next_block: start.next_block,
            prev_crc: start.prev_crc,
            closed: VecDeque::new(),
            flights: VecDeque::new(),
            files: VecDeque::new(),
            committed,
            synced: committed,
            synced_told: committed,
            dirty: Vec::new(),
            dirty_since_us: 0,
            syncing: None,
            wanted: None,
            failed: None,
        }
    }

    /// Number of the block that holds the last entry put.
    pub fn entry_block(&self) -> u64 {
        self.entry_block
    }

    /// Every block up to this one reached its commit point, in order.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Recovery sees from the log itself that every block up to this one was durable: cutting it off would be
    /// damage, not a torn tail (I-93, I-94). Behind it, blocks that were on their way together look alike.
    pub fn synced_told(&self) -> u64 {
        self.synced_told
    }

    /// The error that ended this log's writes, if one did (I-45).
    pub fn failed(&self) -> Option<DiskError> {
        self.failed
    }

    /// Blocks closed or in flight.
    pub fn depth(&self) -> usize {
        self.closed.len() + self.flights.len()
    }

    /// Group commits on their way to the disk.
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Whether anything waits for a completion or a flush.
    pub fn is_busy(&self) -> bool {
        !self.flights.is_empty() || !self.closed.is_empty() || !self.open_is_empty() || self.syncing.is_some()
    }

    /// Place of the next entry: everything below is in closed blocks or in the open one.
    pub fn end(&self) -> Lsn {
        Lsn(self.open_number * CHUNK_BYTES as u64 + self.open_end as u64)
    }

    fn open_is_empty(&self) -> bool {
        self.open_end == self.open_start + BLOCK_HEADER_BYTES
    }

    /// Whether a batch may start now.
    pub fn has_room(&self) -> bool {
        self.chunks.has_room()
    }

    /// Whether any log file is ready.
    pub fn has_file(&self) -> bool {
        !self.files.is_empty()
    }

    /// Bytes that still go into the log files that are ready.
    pub fn file_room(&self) -> u64 {
        self.files_end().saturating_sub(self.end().0)
    }

    fn files_end(&self) -> u64 {
        self.files.back().map_or(self.start.file_number, |file| file.number + 1) * self.start.file_bytes
    }

    /// The last block put, if all that has a place in a log file is committed, and what has none is only marks
    /// of evictions: blocks of chunks behind the files.
    pub fn only_marks_through(&self) -> Option<u64> {
        let (end, chunks) = (self.files_end(), self.chunk_blocks.iter().rev());
        let behind = chunks.take_while(|(number, _)| number * CHUNK_BYTES as u64 >= end);
        let (_, first) = behind.last()?;
        let placed = first - 1;
        (placed <= self.committed && self.promised_block <= self.committed).then_some(self.entry_block)
    }

    /// Writes a small entry. `sync`: its block must be synced to commit. `mark`: counted apart.
    pub fn put_entry(&mut self, kind: Kind, body: &[u8], last: bool, sync: bool) {
        let bytes = ENTRY_HEADER_BYTES + body.len();
        if CHUNK_BYTES - self.open_end < bytes {
            self.close_block(true);
        }
        match kind {
            Kind::Reserve | Kind::Floor | Kind::Link | Kind::Trim | Kind::Lease => self.stats.marks += 1,
            Kind::Records | Kind::Delete | Kind::Topic | Kind::Drop | Kind::Router | Kind::RouterDrop => {
                self.stats.frames += 1
            }
        }
        self.open_sync |= sync;
        let header = EntryHeader { kind, last, body_bytes: body.len() };
        self.put(&header.encode());
        self.put(body);
        self.seal_entry(last);
        // Where one comes with a promise, the entry of that says so.
        if kind != Kind::Floor {
            self.promised_block = self.entry_block;
        }
    }

    /// Writes a batch's records, as one entry or as several where a chunk ends; hands each entry's
    /// place to `index`. The batch (with marks put before it) ends with the last of them.
    pub fn put_records(
        &mut self,
        batch: &Batch<'_>,
        to: &PieceOf<'_>,
        sync: bool,
        mut index: impl FnMut(FrameRef),
    ) {
        match to.hops {
            0 => self.stats.frames += 1,
            _ => self.stats.copies += 1,
        }
        let mut start = 0;
        while start < batch.records.len() {
            let key = if start == 0 { to.key } else { None };
            let key_bytes = key.map_or(0, <[u8]>::len);
            let piece = Piece::cut(batch, start, key_bytes, CHUNK_BYTES - self.open_end);
            if piece.end == start {
                assert!(self.open_end > 2 * BLOCK_BYTES, "a record always fits an empty chunk");
                self.close_block(true);
                continue;
            }
            self.open_sync |= sync;
            index(FrameRef {
                lsn: self.end(),
                first_seq: to.batch_first_seq + start as u64,
                count: (piece.end - start) as u32,
                counted_bytes: piece.counted_bytes as u32,
                ts: to.ts,
            });
            let last = to.last && piece.end == batch.records.len();
            piece.put(self, batch, &PieceOf { key, last, ..*to });
            self.seal_entry(last);
            self.promised_block = self.entry_block;
            start = piece.end;
        }
    }

    /// The entry just written is final; a block that grew large is closed.
    fn seal_entry(&mut self, last: bool) {
        self.open_chunk.freeze(self.open_end);
        self.entry_block = self.next_block;
        let first_chunk = *self.batch_chunk.get_or_insert(self.open_number);
        if last {
            self.batch_chunk = None;
            if first_chunk != self.open_number {
                self.spanning.push_back((first_chunk, self.entry_block));
            }
        }
        if self.open_end - self.open_start >= GROUP_BYTES_MAX {
            self.close_block(false);
        }
    }

    /// Closes the open block if it holds anything, so that everything put so far belongs to blocks
    /// up to the returned number.
    pub fn cut(&mut self) -> u64 {
        if !self.open_is_empty() {
            self.close_block(false);
        }
        self.next_block - 1
    }

    fn close_block(&mut self, skip: bool) {
        let payload = self.open_start + BLOCK_HEADER_BYTES..self.open_end;
        if self.open_is_empty() {
            self.open_chunk.freeze(self.open_end);
        }
        let stored = stored_bytes(payload.len());
        let end = self.open_start + stored;
        self.open_chunk.zero(self.open_end, end);
        self.open_chunk.freeze(end);
        self.closed.push_back(Closed {
            number: self.next_block,
            lsn: self.open_number * CHUNK_BYTES as u64 + self.open_start as u64,
            bytes: stored as u32,
            flags: if skip { SKIP } else { 0 },
            payload_bytes: payload.len() as u32,
            payload_crc: crc32c::crc32c(self.open_chunk.bytes(payload.start, payload.end)),
            sync: self.open_sync && !sabotage::is(Bug::AckBeforeSync),
        });
        self.stats.depth_peak = self.stats.depth_peak.max(self.depth());
        self.next_block += 1;
        self.open_sync = false;
        if skip || end == CHUNK_BYTES {
            self.open_chunk = self.chunks.push();
            self.open_number += 1;
            let chunks_per_file = self.start.file_bytes / CHUNK_BYTES as u64;
            let opens_file = self.open_number.is_multiple_of(chunks_per_file);
            self.stats.rotations += u64::from(opens_file);
            self.open_start = if opens_file { BLOCK_BYTES } else { 0 };
            self.chunk_blocks.push_back((self.open_number, self.next_block));
        } else {
            self.open_start = end;
        }
        self.open_end = self.open_start + BLOCK_HEADER_BYTES;
    }

    /// Block `number` should become durable soon: a sync goes out once it is committed. No block waits for it.
    pub fn sync_through(&mut self, number: u64) {
        let (oldest, newest) = self.wanted.unwrap_or((number, number));
        self.wanted = Some((oldest.min(number), newest.max(number)));
    }

    /// One sync for all that was wanted until now. It does not wait for the newest: in a stream of wishes that
    /// one is always on its way.
    fn sync_wanted(&mut self, now_us: u64) {
        let Some((oldest, newest)) = self.wanted.filter(|(oldest, _)| *oldest <= self.committed) else {
            return;
        };
        if self.synced >= newest {
            self.wanted = None;
        } else if self.synced >= oldest {
            self.wanted = Some((self.synced + 1, newest));
        } else if self.syncing.is_none() {
            self.wanted = (newest > self.committed).then_some((self.committed + 1, newest));
            self.sync_soon(now_us);
        }
    }

    /// See [`Chunks::wanted`].
    pub fn chunks_wanted(&self) -> usize {
        self.chunks.wanted(self.open_end)
    }

    /// Whether [`Log::flush`] would send something: nobody may sleep then.
    pub fn could_flush(&self) -> bool {
        let next = match self.closed.front() {
            Some(block) => block.lsn,
            None if self.open_is_empty() => return false,
            None => self.open_number * CHUNK_BYTES as u64,
        };
        self.may_send() && self.file_at(next).is_some()
    }

    fn may_send(&self) -> bool {
        self.failed.is_none() && self.flights.len() < self.start.in_flight_max
    }

    /// The file that has this place of the log; none while it is still being prepared.
    fn file_at(&self, lsn: u64) -> Option<FileId> {
        let number = lsn / self.start.file_bytes;
        self.files.iter().find(|file| file.number == number).map(|file| file.file)
    }

    /// Sends what may go. Once per turn of the loop at least, and before the core sleeps.
    pub fn flush(&mut self, now_us: u64) {
        self.sync_wanted(now_us);
        while self.may_send() {
            if self.closed.is_empty() {
                if self.open_is_empty() {
                    return;
                }
                self.close_block(false);
            }
            let next = self.closed.front().expect("just made sure").lsn;
            let Some(file) = self.file_at(next) else { return };
            let block = self.closed.pop_front().expect("just seen");
            let chunk = self.chunks.get(block.lsn / CHUNK_BYTES as u64).expect("unsent blocks stay").clone();
            let start = (block.lsn % CHUNK_BYTES as u64) as u32;
            // Only now, so that it tells of every sync until now: a recovery that finds this block knows that
            // what lies below that mark was durable (I-94).
            self.synced_told = self.synced;
            let header = BlockHeader {
                flags: block.flags,
                shard: self.start.shard,
                payload_bytes: block.payload_bytes,
                epoch: self.start.epoch,
                number: block.number,
                lsn: block.lsn,
                synced_through: self.synced_told,
                prev_crc: self.prev_crc,
                payload_crc: block.payload_crc,
            };
            let (bytes, crc) = header.encode();
            chunk.patch_header(start as usize, &bytes);
            self.prev_crc = crc;
            let clean = self.dirty.is_empty() && self.syncing.is_none() || sabotage::is(Bug::SkipBarrier);
            let synced_write = block.sync && clean;
            let tag = self.io.submit(Op::WriteChunk {
                file,
                offset: block.lsn % self.start.file_bytes,
                chunk,
                start,
                len: block.bytes,
                sync: synced_write,
            });
            self.stats.blocks += 1;
            self.stats.bytes_written += u64::from(block.bytes);
            if !synced_write {
                self.note_dirty(file, now_us);
            }
            self.flights.push_back(Flight {
                number: block.number,
                lsn: block.lsn,
                tag,
                written: false,
                synced_write,
                barrier: block.sync && !clean,
                file,
                submitted_us: now_us,
            });
        }
    }

    /// Takes a completion that belongs to the log, or gives it back.
    pub fn on_done(&mut self, done: Done, now_us: u64) -> Option<Done> {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.tag == done.tag) {
            flight.written = true;
            if flight.synced_write {
                self.stats.count_sync(now_us.saturating_sub(flight.submitted_us));
            }
        } else if let Some(syncing) = self.syncing.as_mut().filter(|s| s.waiting.contains(&done.tag)) {
            syncing.waiting.retain(|tag| *tag != done.tag);
            if done.result.is_err() && sabotage::is(Bug::RetryFailedSync) {
                let again = self.files.iter().map(|file| self.io.submit(Op::Sync { file: file.file }));
                syncing.waiting.extend(again);
                return None;
            }
            if syncing.waiting.is_empty() && done.result.is_ok() && self.failed.is_none() {
                self.synced = self.synced.max(syncing.through);
                self.stats.count_sync(now_us.saturating_sub(syncing.submitted_us));
                self.syncing = None;
            }
        } else {
            return Some(done);
        }
        if let Err(error) = done.result {
            self.failed.get_or_insert(error);
        }
        self.advance(now_us);
        None
    }

    /// Commits what is through, in order.
    fn advance(&mut self, now_us: u64) {
        while self.failed.is_none() && self.flights.front().is_some_and(|front| front.written) {
            let front = &self.flights[0];
            if front.barrier && self.synced < front.number {
                if self.syncing.is_none() {
                    self.issue_sync(front.number, now_us);
                }
                return;
            }
            if front.synced_write {
                self.synced = front.number;
            }
            self.committed = front.number;
            self.flights.pop_front();
            while self.spanning.front().is_some_and(|(_, last_block)| *last_block <= self.committed) {
                self.spanning.pop_front();
            }
        }
    }

    fn note_dirty(&mut self, file: FileId, since_us: u64) {
        if self.dirty.is_empty() {
            self.dirty_since_us = since_us;
        }
        if !self.dirty.contains(&file) {
            self.dirty.push(file);
        }
    }

    /// Syncs every dirty file; blocks up to `through` were all written.
    fn issue_sync(&mut self, through: u64, now_us: u64) {
        let waiting: Vec<Tag> =
            self.dirty.iter().map(|file| self.io.submit(Op::Sync { file: *file })).collect();
        // What is on its way now may miss this sync.
        self.dirty.clear();
        for at in 0..self.flights.len() {
            let Flight { synced_write, number, file, submitted_us, .. } = self.flights[at];
            if !synced_write && number > through {
                self.note_dirty(file, submitted_us);
            }
        }
        if waiting.is_empty() {
            self.synced = self.synced.max(through);
        } else {
            self.syncing = Some(Syncing { waiting, through, submitted_us: now_us });
        }
    }

    /// [`Log::sync_soon`], if anything was submitted this long ago and no sync that was asked for since has it.
    pub fn sync_what_is_older(&mut self, age_us: u64, now_us: u64) {
        if now_us.saturating_sub(self.dirty_since_us) >= age_us {
            self.sync_soon(now_us);
        }
    }

    /// Starts a sync of everything committed, if something is not durable yet and no sync is on its
    /// way. Blocks that need no sync commit meanwhile.
    pub fn sync_soon(&mut self, now_us: u64) {
        if self.failed.is_none() && self.syncing.is_none() && !self.dirty.is_empty() {
            self.issue_sync(self.committed, now_us);
        }
    }

    /// Whether blocks up to `number` are known durable.
    pub fn is_durable(&self, number: u64) -> bool {
        self.synced >= number
    }

    /// This run.
    pub fn epoch(&self) -> u64 {
        self.start.epoch
    }

    /// Ends the open chunk, so that what is in it can be sealed.
    pub fn end_chunk(&mut self) {
        self.close_block(true);
    }

    /// Number of the first block in a chunk; chunks before it are forgotten.
    pub fn first_block_in(&mut self, chunk: u64) -> u64 {
        while self.chunk_blocks.front().is_some_and(|(number, _)| *number < chunk) {
            self.chunk_blocks.pop_front();
        }
        self.chunk_blocks.front().expect("the open chunk is always there").1
    }

    /// Tells the first blocks of chunks that recovery kept, oldest first.
    pub fn set_recovered_chunks(&mut self, recovered: Vec<(u64, u64)>) {
        for entry in recovered.into_iter().rev() {
            self.chunk_blocks.push_front(entry);
        }
    }

    /// The header for a file of this log.
    pub fn header_for(&self, number: u64, directory: u64) -> FileHeader {
        let LogStart { shard, file_bytes, epoch, .. } = self.start;
        let first = number == self.start.file_number;
        FileHeader {
            shard,
            directory,
            number,
            file_bytes,
            epoch,
            first_block: if first { self.start.next_block } else { UNKNOWN_BLOCK },
            prev_crc: if first { self.start.prev_crc } else { 0 },
        }
    }

    /// Number of the file that should be prepared next: one beyond the file that the open block is in,
    /// and as many as a batch that wants `room` bytes needs.
    pub fn wanted_file(&self, room: u64) -> Option<u64> {
        let newest = self.files.back().map_or(self.start.file_number, |file| file.number + 1);
        let open_file = self.open_number * CHUNK_BYTES as u64 / self.start.file_bytes;
        (newest <= open_file + 1 || self.file_room() < room).then_some(newest)
    }

    /// Adds a prepared file. Numbers come in order.
    pub fn add_file(&mut self, file: LogFile) {
        let expected = self.files.back().map_or(self.start.file_number, |file| file.number + 1);
        assert_eq!(file.number, expected, "files are prepared in order");
        self.files.push_back(file);
    }

    /// Takes out files that lie wholly below `lsn`: the log no longer needs them.
    pub fn retire_files_below(&mut self, lsn: Lsn) -> Vec<LogFile> {
        let mut retired = Vec::new();
        while let Some(front) = self.files.front() {
            let busy = self.flights.iter().any(|flight| flight.file == front.file)
                || self.dirty.contains(&front.file)
                || self.syncing.is_some();
            if (front.number + 1) * self.start.file_bytes > lsn.0 || busy || self.files.len() == 1 {
                break;
            }
            retired.extend(self.files.pop_front());
        }
        retired
    }

    /// Every batch that begins in a chunk below this number is committed as a whole: what may be sealed.
    /// A part of a batch must not outlive the rest (I-55).
    pub fn committed_chunks_end(&self) -> u64 {
        let oldest = self.flights.front().map(|flight| flight.lsn);
        let oldest = oldest.or_else(|| self.closed.front().map(|block| block.lsn));
        let end = oldest.map_or(self.open_number, |lsn| lsn / CHUNK_BYTES as u64);
        self.spanning.front().map_or(end, |(first_chunk, _)| end.min(*first_chunk))
    }
}

impl LogStats {
    fn count_sync(&mut self, took_us: u64) {
        self.fsyncs += 1;
        self.fsync_us += took_us;
        let bucket = FSYNC_BOUNDS_US.iter().position(|bound| took_us <= *bound);
        self.fsync_buckets[bucket.unwrap_or(FSYNC_BOUNDS_US.len())] += 1;
    }
}

impl Sink for Log {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.open_chunk.write(self.open_end, bytes);
        self.open_end += bytes.len();
    }
}
