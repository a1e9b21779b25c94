//! The log device by itself: how long a synced write of a log block takes, by size, depth and kind of file,
//! and how fast the device reads. Through the engine's own disk, so that it is what the server would get.

use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use runelog_engine::disk::ring::Ring;
use runelog_engine::disk::uring::{DiskSettings, UringDisk};
use runelog_engine::disk::{Done, FileId, Op, OpenMode, Tag};
use runelog_engine::limits::CHUNK_BYTES;
use runelog_engine::mem::{AlignedBuf, Chunk};
use serde::{Deserialize, Serialize};

/// Size of the file: far more than any cache of the kernel's block layer would merge, little enough to be
/// zero-filled in a moment.
const FILE_BYTES: u64 = 64 << 20;
/// Sizes and depths tried on every kind of file.
const SIZES: [u32; 4] = [4 << 10, 16 << 10, 64 << 10, 256 << 10];
const DEPTHS: [usize; 3] = [1, 2, 4];
const FILE: &str = "log-device";

/// How synced writes of one kind went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SyncPoint {
    pub(crate) block_bytes: u32,
    pub(crate) depth: usize,
    /// `O_DIRECT`, or through the page cache.
    pub(crate) direct: bool,
    /// Zero-filled before, or only reserved.
    pub(crate) zero_filled: bool,
    pub(crate) syncs_per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
}

impl SyncPoint {
    /// Path and file, in words.
    pub(crate) fn kind(&self) -> String {
        kind_text(self.direct, self.zero_filled)
    }
}

fn kind_text(direct: bool, zero_filled: bool) -> String {
    let path = if direct { "O_DIRECT" } else { "page cache" };
    format!("{path}, {}", if zero_filled { "zero-filled" } else { "reserved" })
}

/// What the device can do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DiskResult {
    pub(crate) syncs: Vec<SyncPoint>,
    /// Log blocks of the largest size written without a sync, as those of `disk` topics are, and one sync at the
    /// end; 0 in a profile that is older.
    #[serde(default)]
    pub(crate) write_bytes_per_second: f64,
    /// Sequential reads of 1 MiB with two in flight; with `O_DIRECT` where the file system has it.
    pub(crate) read_bytes_per_second: f64,
    /// Writing zeros ahead, as for a new log file.
    pub(crate) fill_bytes_per_second: f64,
}

impl DiskResult {
    /// The point of a zero-filled file, direct where possible, with this depth and at least this size.
    pub(crate) fn sync_of(&self, bytes: u32, depth: usize) -> Option<&SyncPoint> {
        let mut points: Vec<&SyncPoint> = self.of_log().filter(|point| point.depth == depth).collect();
        points.sort_by_key(|point| point.block_bytes);
        points.iter().copied().find(|point| point.block_bytes >= bytes).or(points.last().copied())
    }

    /// Points of files as those of the log are: zero-filled, and direct where possible.
    fn of_log(&self) -> impl Iterator<Item = &SyncPoint> {
        let direct = self.syncs.iter().any(|point| point.direct);
        self.syncs.iter().filter(move |point| point.zero_filled && point.direct == direct)
    }

    /// The most bytes a second that writes reached: synced ones, or others too if the class syncs few.
    pub(crate) fn bandwidth(&self, class: &str) -> f64 {
        let synced = self.of_log().map(|point| point.bytes_per_second).fold(0.0, f64::max);
        match class {
            "fsync" => synced,
            _ => synced.max(self.write_bytes_per_second),
        }
    }
}

/// How many points [`measure`] takes, reading and filling included: what its time is spent on.
pub(crate) const POINTS: u32 = 4 * (SIZES.len() * DEPTHS.len()) as u32 + 3;

/// Measures in the existing directory `dir`, about `each` a point. `tell` hears what is measured; an error
/// ends it.
pub(crate) fn measure(
    dir: &Path,
    each: Duration,
    mut tell: impl FnMut(&str) -> Result<(), String>,
) -> Result<DiskResult, String> {
    let mut result = DiskResult::default();
    let mut device = Device::open(dir, true)?;
    let direct = device.direct;
    tell("zero-filling")?;
    result.fill_bytes_per_second = device.fill(each)?;
    device.synced(true, each, &mut result.syncs, &mut tell)?;
    tell("writes without syncs")?;
    let many = WriteKind { block_bytes: 256 << 10, depth: 4, zero_filled: true, sync: false };
    result.write_bytes_per_second = device.writes(many, each)?.bytes_per_second;
    tell("reading")?;
    result.read_bytes_per_second = device.reads(each)?;
    device.synced(false, each, &mut result.syncs, &mut tell)?;
    device.close()?;
    if direct {
        let mut device = Device::open(dir, false)?;
        device.fill(Duration::ZERO)?;
        device.synced(true, each, &mut result.syncs, &mut tell)?;
        device.synced(false, each, &mut result.syncs, &mut tell)?;
        device.close()?;
    }
    Ok(result)
}

/// Writes of one kind.
#[derive(Clone, Copy)]
struct WriteKind {
    block_bytes: u32,
    depth: usize,
    zero_filled: bool,
    /// Each synced, or all of them at the end.
    sync: bool,
}

/// One file, and the ring it is reached through.
struct Device {
    disk: UringDisk,
    ring: Ring,
    file: FileId,
    direct: bool,
    next: u64,
}

impl Device {
    fn open(dir: &Path, o_direct: bool) -> Result<Device, String> {
        let failed = |error: std::io::Error| format!("the log device: {error}");
        let mut ring = Ring::new(64).map_err(failed)?;
        let settings = DiskSettings { o_direct, ..DiskSettings::default() };
        let disk = UringDisk::new(dir, &mut ring, settings).map_err(failed)?;
        let direct = disk.features().o_direct;
        let mut device = Device { disk, ring, file: FileId(0), direct, next: 0 };
        device.make_file()?;
        Ok(device)
    }

    fn make_file(&mut self) -> Result<(), String> {
        self.run(Op::Remove { path: FILE.into() })?;
        let opened = self.run(Op::Open { path: FILE.into(), mode: OpenMode::ReadWrite })?;
        self.file = FileId(opened.result.expect("checked") as u32);
        Ok(())
    }

    fn close(mut self) -> Result<(), String> {
        self.run(Op::Close { file: self.file })?;
        self.run(Op::Remove { path: FILE.into() }).map(drop)
    }

    /// Every size at every depth: in the file as it is, which is zero-filled, or each in a new one that is only
    /// reserved, for what was written once is as good as filled.
    fn synced(
        &mut self,
        zero_filled: bool,
        each: Duration,
        points: &mut Vec<SyncPoint>,
        tell: &mut impl FnMut(&str) -> Result<(), String>,
    ) -> Result<(), String> {
        for block_bytes in SIZES {
            for depth in DEPTHS {
                let kind = kind_text(self.direct, zero_filled);
                tell(&format!("syncs of {} KiB, {depth} in flight, {kind}", block_bytes >> 10))?;
                if !zero_filled {
                    self.run(Op::Close { file: self.file })?;
                    self.make_file()?;
                    self.reserve()?;
                }
                points.push(self.writes(WriteKind { block_bytes, depth, zero_filled, sync: true }, each)?);
            }
        }
        Ok(())
    }

    fn submit(&mut self, op: Op) -> Tag {
        self.next += 1;
        self.disk.submit(&mut self.ring, Tag(self.next), op);
        Tag(self.next)
    }

    /// Waits until something completed.
    fn wait(&mut self, done: &mut Vec<Done>) -> Result<(), String> {
        while done.is_empty() {
            self.ring.enter(Some(Duration::from_secs(1)));
            while let Some(cqe) = self.ring.next_completion() {
                self.disk.on_completion(&mut self.ring, cqe, done);
            }
        }
        match done.iter().find_map(|done| done.result.err()) {
            None => Ok(()),
            Some(error) => {
                // Those in flight hold memory of ours.
                while self.disk.in_flight() > 0 {
                    self.ring.enter(Some(Duration::from_secs(1)));
                    while let Some(cqe) = self.ring.next_completion() {
                        self.disk.on_completion(&mut self.ring, cqe, done);
                    }
                }
                Err(format!("the log device: {}", std::io::Error::from_raw_os_error(error.0)))
            }
        }
    }

    fn run(&mut self, op: Op) -> Result<Done, String> {
        self.submit(op);
        let mut done = Vec::new();
        self.wait(&mut done)?;
        Ok(done.pop().expect("waited for"))
    }

    fn reserve(&mut self) -> Result<(), String> {
        self.run(Op::Allocate { file: self.file, bytes: FILE_BYTES })?;
        self.run(Op::Sync { file: self.file }).map(drop)
    }

    /// Writes zeros over the whole file, and again until the time is over; returns bytes a second.
    fn fill(&mut self, at_least: Duration) -> Result<f64, String> {
        self.reserve()?;
        let mut buf = Some(AlignedBuf::zeroed(1 << 20));
        let began = Instant::now();
        let (mut at, mut written) = (0_u64, 0_u64);
        while at < FILE_BYTES || began.elapsed() < at_least {
            let op = Op::Write {
                file: self.file,
                offset: at % FILE_BYTES,
                buf: buf.take().expect("came back"),
                len: 1 << 20,
            };
            buf = self.run(op)?.buf;
            at += 1 << 20;
            written += 1 << 20;
        }
        self.run(Op::Sync { file: self.file })?;
        Ok(written as f64 / began.elapsed().as_secs_f64())
    }

    /// Writes one after the other through the file, `depth` at a time.
    fn writes(&mut self, kind: WriteKind, time: Duration) -> Result<SyncPoint, String> {
        let WriteKind { block_bytes, depth, zero_filled, sync } = kind;
        let chunk = Chunk::zeroed();
        // Not zeros: a drive may pass those over.
        let noise: Vec<u8> =
            (0..CHUNK_BYTES as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
        chunk.write(0, &noise);
        chunk.freeze(CHUNK_BYTES);
        self.disk.register_chunk(&self.ring, &chunk);
        let mut latency_us = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("sound bounds");
        let mut since = std::collections::HashMap::new();
        let (mut done, mut offset, mut syncs) = (Vec::new(), 0_u64, 0_u64);
        let began = Instant::now();
        // A file that is only reserved must not be written twice: the second time it is as good as filled.
        let whole = |offset: u64| !zero_filled && offset + u64::from(block_bytes) > FILE_BYTES;
        loop {
            while since.len() < depth && began.elapsed() < time && !whole(offset) {
                let at = offset % FILE_BYTES;
                let start = (at % CHUNK_BYTES as u64) as u32;
                let op = Op::WriteChunk {
                    file: self.file,
                    offset: at,
                    chunk: chunk.clone(),
                    start,
                    len: block_bytes,
                    sync,
                };
                let asked = Instant::now();
                since.insert(self.submit(op), asked);
                offset += u64::from(block_bytes);
            }
            if since.is_empty() {
                break;
            }
            self.wait(&mut done)?;
            for done in done.drain(..) {
                let asked = since.remove(&done.tag).expect("asked once");
                latency_us.saturating_record(asked.elapsed().as_micros() as u64);
                syncs += 1;
            }
        }
        if !sync {
            self.run(Op::Sync { file: self.file })?;
        }
        let seconds = began.elapsed().as_secs_f64();
        self.disk.unregister_chunk(&self.ring, &chunk);
        Ok(SyncPoint {
            block_bytes,
            depth,
            direct: self.direct,
            zero_filled,
            syncs_per_second: syncs as f64 / seconds,
            bytes_per_second: syncs as f64 * f64::from(block_bytes) / seconds,
            p50_us: latency_us.value_at_quantile(0.5) as f64,
            p99_us: latency_us.value_at_quantile(0.99) as f64,
            max_us: latency_us.max() as f64,
        })
    }

    /// Reads the file from its begin, over and over.
    fn reads(&mut self, time: Duration) -> Result<f64, String> {
        let mut idle = vec![AlignedBuf::zeroed(1 << 20), AlignedBuf::zeroed(1 << 20)];
        let (mut done, mut at, mut bytes, mut busy) = (Vec::new(), 0_u64, 0_u64, 0);
        let began = Instant::now();
        loop {
            while began.elapsed() < time {
                let Some(buf) = idle.pop() else { break };
                self.submit(Op::Read { file: self.file, offset: at % FILE_BYTES, buf });
                (at, busy) = (at + (1 << 20), busy + 1);
            }
            if busy == 0 {
                return Ok(bytes as f64 / began.elapsed().as_secs_f64());
            }
            self.wait(&mut done)?;
            for done in done.drain(..) {
                bytes += done.result.expect("checked");
                idle.extend(done.buf);
                busy -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_point_is_taken_and_the_file_goes() {
        let dir = std::env::temp_dir().join(format!("runelog-tune-disk-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let mut steps = 0;
        let result = measure(&dir, Duration::from_millis(10), |_| {
            steps += 1;
            Ok(())
        })
        .expect("measured");
        assert_eq!(std::fs::read_dir(&dir).expect("there").count(), 0, "nothing is left");
        std::fs::remove_dir(&dir).expect("empty");
        assert!(steps <= POINTS, "{steps} steps");
        let of = |bytes, depth| result.sync_of(bytes, depth).expect("measured").block_bytes;
        assert_eq!((of(1, 1), of(4097, 2), of(1 << 30, 4)), (4 << 10, 16 << 10, 256 << 10));
        assert!(
            result.syncs.iter().all(|point| point.syncs_per_second > 0.0 && point.max_us >= point.p50_us)
        );
        // All sizes and depths, of each kind of file once.
        let mut kinds = std::collections::BTreeMap::<_, u32>::new();
        result.syncs.iter().for_each(|point| *kinds.entry(point.kind()).or_default() += 1);
        let direct = result.syncs.iter().any(|point| point.direct);
        assert_eq!(kinds.len(), if direct { 4 } else { 2 }, "{kinds:?}");
        assert!(kinds.values().all(|points| *points == (SIZES.len() * DEPTHS.len()) as u32), "{kinds:?}");
        assert!(result.bandwidth("fsync") > 0.0);
        assert!(result.write_bytes_per_second > 0.0);
        assert_eq!(result.bandwidth("disk"), result.bandwidth("fsync").max(result.write_bytes_per_second));
        assert!(result.read_bytes_per_second > 0.0 && result.fill_bytes_per_second > 0.0);
    }

    #[test]
    fn one_who_wants_to_stop_is_heard() {
        let dir = std::env::temp_dir().join(format!("runelog-tune-stop-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let result = measure(&dir, Duration::from_millis(10), |_| Err("stopped".into()));
        assert_eq!(result, Err("stopped".into()));
        std::fs::remove_dir_all(&dir).expect("there");
    }
}
