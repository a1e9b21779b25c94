//! One simulated file: its bytes as reads see them, and what of them a power loss may take back.
//! The unit is the sector. A sector that was written and not synced keeps its earlier versions; the
//! medium holds one of them, or the current one, and a power loss shows which.

use crate::limits::CHUNK_BYTES;
use crate::rng::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: usize = 512;
/// A file that grows beyond this is taken for a log file, which is filled with zeros in small pieces up to some
/// multiple of a chunk: memory for a whole chunk at once saves moving it for every piece.
const GROWTH_BYTES: usize = CHUNK_BYTES / 4;
/// A version that only a later write of the same sector can make obsolete, no sync.
const UNSYNCABLE: u64 = u64::MAX;

type Sector = [u8; SECTOR_BYTES];

/// Time is a count of completed operations, given by the caller.
#[derive(Clone, Debug, Default)]
pub(super) struct SimFile {
    /// Shared with forks of the disk until one of them writes.
    data: Arc<Vec<u8>>,
    /// The length that is sure to survive.
    durable_len: usize,
    /// Versions of unsynced sectors, oldest first, each with the time it was replaced.
    earlier: BTreeMap<usize, Vec<(u64, Box<Sector>)>>,
    /// Reads fail.
    pub(super) unreadable: bool,
}

impl SimFile {
    pub(super) fn data(&self) -> &[u8] {
        &self.data
    }

    pub(super) fn flip_bit(&mut self, byte: usize, bit: u8) {
        Arc::make_mut(&mut self.data)[byte] ^= 1 << bit;
    }

    /// Overwrites `offset..`, growing the file; undone by a power loss unless synced.
    pub(super) fn write(&mut self, now: u64, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        for at in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let (from, to) = (offset.max(at * SECTOR_BYTES), end.min((at + 1) * SECTOR_BYTES));
            if !self.reads_as(from, &bytes[from - offset..to - offset]) || self.earlier.contains_key(&at) {
                self.keep_version(now, at);
            }
        }
        self.grow(end);
        Arc::make_mut(&mut self.data)[offset..end].copy_from_slice(bytes);
    }

    /// What was written there is durable, and the file reaches at least so far.
    pub(super) fn make_durable(&mut self, offset: usize, len: usize) {
        let sectors = offset / SECTOR_BYTES..(offset + len).div_ceil(SECTOR_BYTES);
        let inside: Vec<usize> = self.earlier.range(sectors).map(|(&at, _)| at).collect();
        inside.iter().for_each(|at| drop(self.earlier.remove(at)));
        self.durable_len = self.durable_len.max(offset + len);
    }

    /// Reserves space that reads as zero.
    pub(super) fn grow(&mut self, len: usize) {
        let len = self.data.len().max(len);
        let data = Arc::make_mut(&mut self.data);
        if len > GROWTH_BYTES {
            data.reserve_exact(len.next_multiple_of(CHUNK_BYTES) - data.len());
        }
        data.resize(len, 0);
    }

    /// Empties the file; a power loss may bring contents and length back.
    pub(super) fn empty(&mut self, now: u64) {
        for at in 0..self.data.len().div_ceil(SECTOR_BYTES) {
            self.keep_version(now, at);
        }
        Arc::make_mut(&mut self.data).clear();
    }

    /// A sync that began at `began`, when the file had `len` bytes, has succeeded.
    pub(super) fn synced(&mut self, began: u64, len: usize) {
        self.durable_len = len;
        self.earlier.retain(|_, versions| {
            if let Some(last) = versions.iter().rposition(|(replaced, _)| *replaced <= began) {
                versions.drain(..=last);
            }
            !versions.is_empty()
        });
    }

    /// A sync has failed: the system forgets that anything was unsynced. Some sectors show their old
    /// bytes again, the others only pretend to be stored, and no later sync will help them.
    pub(super) fn sync_failed(&mut self, rng: &mut Rng) {
        for (&at, versions) in &mut self.earlier {
            versions.iter_mut().for_each(|(replaced, _)| *replaced = UNSYNCABLE);
            if rng.chance(1, 4) {
                let old = &versions[rng.index(versions.len())].1;
                put_sector(&mut self.data, at, old);
            }
        }
    }

    /// A write has failed: each of its sectors is new, old, or neither.
    pub(super) fn write_failed(&mut self, now: u64, offset: usize, bytes: &[u8], rng: &mut Rng) {
        for (i, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let mut garbage = [0; SECTOR_BYTES];
            rng.fill(&mut garbage);
            match rng.below(3) {
                0 => self.write(now, offset + i * SECTOR_BYTES, sector),
                1 => self.write(now, offset + i * SECTOR_BYTES, &garbage[..sector.len()]),
                _ => {}
            }
        }
    }

    /// A write is cut off: each of its sectors has happened or not.
    pub(super) fn write_torn(&mut self, now: u64, offset: usize, bytes: &[u8], rng: &mut Rng) {
        for (i, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            if rng.chance(1, 2) {
                self.write(now, offset + i * SECTOR_BYTES, sector);
            }
        }
    }

    /// Power returns: whatever was not durable has survived or not, each sector by itself.
    pub(super) fn lose_power(&mut self, rng: &mut Rng) {
        let (low, high) = (self.durable_len.min(self.data.len()), self.durable_len.max(self.data.len()));
        let between = ((high - low) / SECTOR_BYTES) as u64;
        let len = match rng.below(3) {
            0 => self.durable_len,
            1 => self.data.len(),
            _ => low + rng.below(between + 1) as usize * SECTOR_BYTES,
        };
        Arc::make_mut(&mut self.data).resize(len, 0);
        // Sometimes all or nothing survives, which even chances would hardly ever show.
        let odds = [0, 1, 2, 3, 4][rng.index(5)];
        for (at, versions) in std::mem::take(&mut self.earlier) {
            if !rng.chance(odds, 4) {
                put_sector(&mut self.data, at, &versions[rng.index(versions.len())].1);
            }
        }
        self.durable_len = len;
    }

    /// For tests: the file ends here, durably.
    pub(super) fn truncate(&mut self, len: usize) {
        Arc::make_mut(&mut self.data).truncate(len);
        self.durable_len = self.data.len();
        self.earlier.retain(|&at, _| at * SECTOR_BYTES < len);
    }

    /// Whether `offset..` holds these bytes, or would once the file reaches so far: a write of them changes
    /// nothing that a power loss could take back, but for the length.
    fn reads_as(&self, offset: usize, bytes: &[u8]) -> bool {
        let start = self.data.len().min(offset);
        let end = self.data.len().min(offset + bytes.len());
        let (stored, beyond) = bytes.split_at(end - start);
        self.data[start..end] == *stored && beyond.iter().all(|&byte| byte == 0)
    }

    fn keep_version(&mut self, now: u64, at: usize) {
        let mut sector = Box::new([0; SECTOR_BYTES]);
        let start = self.data.len().min(at * SECTOR_BYTES);
        let end = self.data.len().min(start + SECTOR_BYTES);
        sector[..end - start].copy_from_slice(&self.data[start..end]);
        self.earlier.entry(at).or_default().push((now, sector));
    }
}

/// Replaces the part of a sector that lies inside the file.
fn put_sector(data: &mut Arc<Vec<u8>>, at: usize, sector: &Sector) {
    let data = Arc::make_mut(data);
    let start = data.len().min(at * SECTOR_BYTES);
    let end = data.len().min(start + SECTOR_BYTES);
    data[start..end].copy_from_slice(&sector[..end - start]);
}
