//! The log of the ceiling: bytes one after the other in a zero-filled file, in blocks as large as what came
//! while two were on their way, with `O_DIRECT` and, if wanted, `RWF_DSYNC`. At its end it begins anew, as a
//! server does that uses its log files again. Lives here: blocks and writes, and [`disk_ceiling`], the log
//! without any network.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use io_uring::{opcode, types};
use runelog_engine::disk::ring::Ring;
use runelog_engine::mem::AlignedBuf;

use super::measure::Measure;
use super::raw::{KIND_BITS, WRITTEN, Waiting};

/// Size of the file: more than a drive's cache of recent blocks, little enough to be zero-filled at once.
const FILE_BYTES: usize = 256 << 20;
/// A block at most, as the daemon's.
const BLOCK_BYTES_MAX: usize = 1 << 20;
/// Room in a buffer: of requests that came while both blocks were on their way, all must fit.
const BUFFER_BYTES: usize = 64 << 20;
/// What `O_DIRECT` writes in.
const GRAIN: usize = 4096;
/// Blocks on their way at once, as the daemon's.
const IN_FLIGHT: usize = 2;

/// An open log.
pub(super) struct RawLog {
    file: File,
    sync: bool,
    /// Where the next block goes.
    at: usize,
    /// What came since the last block.
    filling: Block,
    flights: [Option<Block>; IN_FLIGHT],
    spare: Vec<Block>,
}

struct Block {
    buffer: AlignedBuf,
    used: usize,
    waiting: Waiting,
}

impl Block {
    fn new() -> Block {
        Block { buffer: AlignedBuf::zeroed(BUFFER_BYTES), used: 0, waiting: Waiting::new() }
    }
}

impl RawLog {
    /// A new log, zero-filled: writes then change no sizes and no maps of the file system.
    pub(super) fn create(path: &Path, sync: bool) -> io::Result<RawLog> {
        let open = |flags| OpenOptions::new().create(true).write(true).custom_flags(flags).open(path);
        // A file system without O_DIRECT gives what it has.
        let mut file = open(libc::O_DIRECT).or_else(|_| open(0))?;
        let zeros = AlignedBuf::zeroed(BLOCK_BYTES_MAX);
        // SAFETY: the buffer has this many bytes, all set.
        let bytes = unsafe { std::slice::from_raw_parts(zeros.as_ptr(), BLOCK_BYTES_MAX) };
        for _ in 0..FILE_BYTES / BLOCK_BYTES_MAX {
            file.write_all(bytes)?;
        }
        file.sync_all()?;
        let flights = [const { None }; IN_FLIGHT];
        Ok(RawLog {
            file,
            sync,
            at: 0,
            filling: Block::new(),
            flights,
            spare: vec![Block::new(), Block::new()],
        })
    }

    /// Takes a request of a connection, to be told by [`RawLog::written`].
    pub(super) fn append(&mut self, request: &[u8], conn: usize) {
        let Block { buffer, used, waiting } = &mut self.filling;
        assert!(*used + request.len() <= BUFFER_BYTES, "more requests than connections");
        // SAFETY: the buffer has room, as was just asserted, and no write of it is in flight.
        unsafe { buffer.as_mut_ptr().add(*used).copy_from_nonoverlapping(request.as_ptr(), request.len()) };
        *used += request.len();
        waiting.push_back(conn);
    }

    /// Sends what there is, unless enough is on its way.
    pub(super) fn flush(&mut self, ring: &mut Ring) {
        let Some(slot) = self.flights.iter().position(Option::is_none) else { return };
        if self.filling.used == 0 {
            return;
        }
        let next = self.spare.pop().expect("a buffer for each block in flight");
        let block = std::mem::replace(&mut self.filling, next);
        let bytes = block.used.next_multiple_of(GRAIN);
        if self.at + bytes > FILE_BYTES {
            self.at = 0;
        }
        let entry = opcode::Write::new(types::Fd(self.file.as_raw_fd()), block.buffer.as_ptr(), bytes as u32)
            .offset(self.at as u64)
            .rw_flags(if self.sync { libc::RWF_DSYNC } else { 0 })
            .build()
            .user_data((slot as u64) << KIND_BITS | WRITTEN);
        self.at += bytes;
        self.flights[slot] = Some(block);
        // SAFETY: the buffer stays in `flights`, untouched, until its completion.
        unsafe { ring.push(&entry) };
    }

    /// A block is written: who waited for it.
    pub(super) fn written(&mut self, slot: usize, result: i32) -> io::Result<Waiting> {
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        let mut block = self.flights[slot].take().expect("a block in flight");
        if (result as usize) < block.used {
            return Err(io::Error::other("a short write"));
        }
        block.used = 0;
        let waiting = std::mem::take(&mut block.waiting);
        self.spare.push(block);
        Ok(waiting)
    }
}

/// Appends a request as fast as blocks of up to 1 MiB come back, without any network; each answer of
/// `measure` is one request. Ends with the measure.
pub(super) fn disk_ceiling(
    dir: &Path,
    sync: bool,
    request: &[u8],
    (records, bytes): (u64, u64),
    mut measure: impl FnMut(Duration) -> Measure,
) -> io::Result<Measure> {
    let path = dir.join(format!("runelog-bench-{}.raw", std::process::id()));
    let log = RawLog::create(&path, sync);
    // The file has no name from here on: whatever happens, nothing stays behind.
    fs::remove_file(&path)?;
    let mut log = log?;
    let mut ring = Ring::new(64)?;
    let origin = std::time::Instant::now();
    let mut measure = measure(origin.elapsed());
    let mut since = [Duration::ZERO; IN_FLIGHT];
    let each = (BLOCK_BYTES_MAX / request.len()).max(1);
    loop {
        let now = origin.elapsed();
        if measure.is_over(now) {
            return Ok(measure);
        }
        while let Some(slot) = log.flights.iter().position(Option::is_none) {
            (0..each).for_each(|index| log.append(request, index));
            since[slot] = origin.elapsed();
            log.flush(&mut ring);
        }
        ring.enter(Some(Duration::from_millis(10)));
        while let Some(cqe) = ring.next_completion() {
            let slot = (cqe.user_data >> KIND_BITS) as usize;
            let (now, written) = (origin.elapsed(), log.written(slot, cqe.result)?);
            for _ in written {
                measure.answer(0, since[slot], now, records, bytes);
            }
        }
    }
}
