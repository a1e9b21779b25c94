//! What a core keeps of sealed data: blocks in memory, and open files.
//!
//! The block cache is 2Q: a block enters a queue of newcomers and leaves it in order of arrival,
//! however often it was read meanwhile; its key is remembered. Only a block that is wanted again
//! *after* that enters the main part, a clock. So one reader catching up, who reads each block many
//! times in a row and then never again, passes through the newcomers and leaves the rest alone.

use crate::disk::{FileId, Io, OpenMode};
use crate::error::DiskError;
use crate::ids::SegmentId;
use crate::segment::{self, CachedBlock};
use ahash::{AHashMap, AHashSet};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Newcomers get at least one part in this many of the cache.
const NEWCOMERS_SHARE: usize = 4;
/// Keys remembered for each block that is in the cache.
const GHOSTS_PER_BLOCK: usize = 1;
/// Kept besides a block's buffer: slot, key in a queue, reference counts. Estimated.
const SLOT_BYTES: usize = 192;

/// A block's place: segment and offset in it.
pub type BlockKey = (SegmentId, u64);

/// Verified blocks in memory, bounded in bytes. A block that somebody holds is not evicted, since that
/// would free nothing.
#[derive(Debug)]
pub struct BlockCache {
    bytes_max: usize,
    bytes: usize,
    newcomer_bytes: usize,
    slots: AHashMap<BlockKey, Slot>,
    newcomers: VecDeque<BlockKey>,
    /// The clock; its hand is at the front.
    main: VecDeque<BlockKey>,
    /// Keys that left the newcomers, oldest first, and the same as a set.
    ghosts: VecDeque<BlockKey>,
    ghost_set: AHashSet<BlockKey>,
    stats: CacheStats,
}

#[derive(Debug)]
struct Slot {
    block: Rc<CachedBlock>,
    bytes: usize,
    in_main: bool,
    /// Main only: read since the hand last passed.
    touched: bool,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Blocks found.
    pub hits: u64,
    /// Blocks not found.
    pub misses: u64,
    /// Blocks evicted to make room.
    pub evictions: u64,
    /// Blocks not kept, because all the rest was in use or they are larger than the cache.
    pub refusals: u64,
}

impl BlockCache {
    /// A cache of at most `bytes_max` bytes, everything counted.
    pub fn new(bytes_max: usize) -> BlockCache {
        BlockCache {
            bytes_max,
            bytes: 0,
            newcomer_bytes: 0,
            slots: AHashMap::new(),
            newcomers: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            ghost_set: AHashSet::new(),
            stats: CacheStats::default(),
        }
    }

    /// The block, if it is here. It stays in memory as long as the answer is held.
    pub fn get(&mut self, key: &BlockKey) -> Option<Rc<CachedBlock>> {
        match self.slots.get_mut(key) {
            Some(slot) => {
                slot.touched = true;
                self.stats.hits += 1;
                Some(slot.block.clone())
            }
            None => {
                self.stats.misses += 1;
                None
            }
        }
    }

    /// Takes a block in, as far as there is room or room can be made, and gives it back for use. If
    /// somebody else was faster, theirs is given back.
    pub fn insert(&mut self, key: BlockKey, block: CachedBlock) -> Rc<CachedBlock> {
        if let Some(slot) = self.slots.get(&key) {
            return slot.block.clone();
        }
        let bytes = block.mem_bytes() + SLOT_BYTES;
        let block = Rc::new(block);
        if bytes > self.bytes_max || !self.make_room(bytes) {
            self.stats.refusals += 1;
            return block;
        }
        // Its place in the queue stays: searching for it would cost more than a ghost too few.
        let in_main = self.ghost_set.remove(&key);
        if in_main {
            self.main.push_back(key);
        } else {
            self.newcomers.push_back(key);
            self.newcomer_bytes += bytes;
        }
        self.bytes += bytes;
        self.slots.insert(key, Slot { block: block.clone(), bytes, in_main, touched: false });
        block
    }

    /// Blocks of at most so many bytes together are surely in the cache at once, if nobody else loads.
    pub fn working_set_bytes(&self) -> u64 {
        self.bytes_max as u64 / 2
    }

    /// Forgets all blocks of a segment that is no more.
    pub fn remove_segment(&mut self, id: SegmentId) {
        let (bytes, newcomer_bytes) = (&mut self.bytes, &mut self.newcomer_bytes);
        self.slots.retain(|key, slot| {
            let keep = key.0 != id;
            if !keep {
                *bytes -= slot.bytes;
                *newcomer_bytes -= if slot.in_main { 0 } else { slot.bytes };
            }
            keep
        });
        for queue in [&mut self.newcomers, &mut self.main, &mut self.ghosts] {
            queue.retain(|key| key.0 != id);
        }
        self.ghost_set.retain(|key| key.0 != id);
    }

    /// Bytes of memory in use.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Blocks in memory.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no block.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Counters since the start.
    pub fn stats(&self) -> CacheStats {
        self.stats
    }

    /// Evicts until `bytes` more fit; false if too much is in use.
    fn make_room(&mut self, bytes: usize) -> bool {
        while self.bytes + bytes > self.bytes_max {
            let newcomers_first = self.newcomer_bytes > self.bytes_max / NEWCOMERS_SHARE;
            // Newcomers may take their share; above it they make way first.
            let evicted = newcomers_first && self.evict_newcomer();
            if !evicted && !self.evict_main() && !self.evict_newcomer() {
                return false;
            }
        }
        true
    }

    fn evict_newcomer(&mut self) -> bool {
        for _ in 0..self.newcomers.len() {
            let key = self.newcomers.pop_front().expect("counted");
            if Rc::strong_count(&self.slots[&key].block) > 1 {
                self.newcomers.push_back(key);
                continue;
            }
            self.drop_slot(&key);
            self.ghosts.push_back(key);
            self.ghost_set.insert(key);
            let ghosts_max = (self.slots.len() * GHOSTS_PER_BLOCK).max(1);
            while self.ghosts.len() > ghosts_max {
                let oldest = self.ghosts.pop_front().expect("counted");
                self.ghost_set.remove(&oldest);
            }
            return true;
        }
        false
    }

    fn evict_main(&mut self) -> bool {
        // Twice around: the first time may only take the marks away.
        for _ in 0..2 * self.main.len() {
            let key = self.main.pop_front().expect("counted");
            let slot = self.slots.get_mut(&key).expect("what is queued is here");
            let touched = std::mem::take(&mut slot.touched);
            if touched || Rc::strong_count(&slot.block) > 1 {
                self.main.push_back(key);
                continue;
            }
            self.drop_slot(&key);
            return true;
        }
        false
    }

    fn drop_slot(&mut self, key: &BlockKey) {
        let slot = self.slots.remove(key).expect("what is queued is here");
        self.bytes -= slot.bytes;
        self.newcomer_bytes -= if slot.in_main { 0 } else { slot.bytes };
        self.stats.evictions += 1;
    }
}

/// Open segment files of one core. Clones share them.
///
/// At most `open_max` stay open; above that only files that are in use, of which there are no more
/// than reads under way.
#[derive(Clone)]
pub struct Files(Rc<RefCell<OpenFiles>>);

struct OpenFiles {
    open_max: usize,
    clock: u64,
    open: AHashMap<SegmentId, Entry>,
    /// No longer to be found, closed once nobody uses them.
    doomed: Vec<Rc<OpenFile>>,
}

struct Entry {
    file: Rc<OpenFile>,
    used_at: u64,
}

#[derive(Debug)]
struct OpenFile(FileId);

/// An open file in use: it is not closed while this is held, which must be until all operations on it
/// have completed.
#[derive(Clone, Debug)]
pub struct FileLease(Rc<OpenFile>);

impl FileLease {
    /// The file.
    pub fn file(&self) -> FileId {
        self.0.0
    }
}

impl Files {
    /// Keeps at most `open_max` files open that are not in use.
    pub fn new(open_max: usize) -> Files {
        let open = AHashMap::new();
        Files(Rc::new(RefCell::new(OpenFiles { open_max, clock: 0, open, doomed: Vec::new() })))
    }

    /// The file of a segment, opened if it is not yet.
    pub async fn get(&self, io: &Io, id: SegmentId) -> Result<FileLease, DiskError> {
        if let Some(lease) = self.0.borrow_mut().lease(id) {
            return Ok(lease);
        }
        let file = io.open(&segment::path(id), OpenMode::Read).await?;
        // Somebody else may have opened it meanwhile: theirs is used, ours is closed. Cheaper than
        // to let one wait for the other, and no wake-up can be missed.
        let (lease, duplicate) = self.0.borrow_mut().admit(id, file);
        if let Some(duplicate) = duplicate {
            io.close(duplicate).await;
        }
        self.sweep(io).await;
        Ok(lease)
    }

    /// Forgets a segment that is no more; its file is closed now, or when its last reader is done and
    /// another call comes.
    pub async fn forget(&self, io: &Io, id: SegmentId) {
        self.0.borrow_mut().doom(|other| other == id);
        self.sweep(io).await;
    }

    /// Closes everything that is not in use.
    pub async fn close_all(&self, io: &Io) {
        self.0.borrow_mut().doom(|_| true);
        self.sweep(io).await;
    }

    /// Files that are open.
    pub fn open_count(&self) -> usize {
        let files = self.0.borrow();
        files.open.len() + files.doomed.len()
    }

    /// Closes what is doomed or too much, and not in use.
    async fn sweep(&self, io: &Io) {
        let closable = self.0.borrow_mut().take_closable();
        for file in closable {
            io.close(file).await;
        }
    }
}

impl OpenFiles {
    fn lease(&mut self, id: SegmentId) -> Option<FileLease> {
        self.clock += 1;
        let entry = self.open.get_mut(&id)?;
        entry.used_at = self.clock;
        Some(FileLease(entry.file.clone()))
    }

    fn admit(&mut self, id: SegmentId, file: FileId) -> (FileLease, Option<FileId>) {
        if let Some(lease) = self.lease(id) {
            return (lease, Some(file));
        }
        let file = Rc::new(OpenFile(file));
        self.open.insert(id, Entry { file: file.clone(), used_at: self.clock });
        (FileLease(file), None)
    }

    fn doom(&mut self, which: impl Fn(SegmentId) -> bool) {
        let mut doomed: Vec<_> = self.open.extract_if(|id, _| which(*id)).collect();
        doomed.sort_unstable_by_key(|(id, _)| *id); // a map's order is no one's to rely on
        self.doomed.extend(doomed.into_iter().map(|(_, entry)| entry.file));
    }

    fn take_closable(&mut self) -> Vec<FileId> {
        let mut closable = Vec::new();
        self.doomed.retain(|file| {
            let used = Rc::strong_count(file) > 1;
            if !used {
                closable.push(file.0);
            }
            used
        });
        while self.open.len() > self.open_max {
            let idle = self.open.iter().filter(|(_, entry)| Rc::strong_count(&entry.file) == 1);
            let Some((&oldest, _)) = idle.min_by_key(|(_, entry)| entry.used_at) else { break };
            closable.push(self.open.remove(&oldest).expect("just found").file.0);
        }
        closable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Jobs;
    use crate::test_disk::{Rng, TestDisk};

    fn key(segment: u64, offset: u64) -> BlockKey {
        (SegmentId(segment), offset)
    }

    #[test]
    fn the_bound_holds_whatever_is_held_inserted_and_removed() {
        for seed in 1..20 {
            let mut rng = Rng(seed);
            let bytes_max = 20_000 + rng.below(400_000) as usize;
            let mut cache = BlockCache::new(bytes_max);
            let mut held: Vec<(BlockKey, Rc<CachedBlock>)> = Vec::new();
            for _ in 0..5000 {
                let key = key(rng.below(5), rng.below(60));
                match rng.below(20) {
                    0..10 => {
                        if let Some(block) = cache.get(&key) {
                            held.push((key, block));
                        }
                    }
                    10..17 => {
                        let block = CachedBlock::sized(4096 << rng.below(6));
                        held.push((key, cache.insert(key, block)));
                    }
                    17 if rng.below(20) == 0 => {
                        cache.remove_segment(key.0);
                        assert!((0..60).all(|offset| cache.get(&(key.0, offset)).is_none()));
                        held.retain(|(other, _)| other.0 != key.0);
                    }
                    _ => held.truncate(rng.below(8) as usize),
                }
                let counted: usize = cache.slots.values().map(|slot| slot.bytes).sum();
                let new: usize = cache.slots.values().filter(|slot| !slot.in_main).map(|s| s.bytes).sum();
                assert_eq!((cache.bytes(), cache.newcomer_bytes), (counted, new), "seed {seed}");
                assert!(cache.bytes() <= bytes_max, "seed {seed}");
                assert_eq!(cache.newcomers.len() + cache.main.len(), cache.len(), "seed {seed}");
                assert!(cache.ghosts.len() <= 1000, "seed {seed}");
                for (key, block) in &held {
                    // A block that is held stays the one that is found, unless it was never kept.
                    if let Some(slot) = cache.slots.get(key).filter(|_| Rc::strong_count(block) > 1) {
                        assert!(held.iter().any(|(k, b)| k == key && Rc::ptr_eq(b, &slot.block)));
                    }
                }
            }
            assert!(cache.stats().hits > 0 && cache.stats().misses > 0 && cache.stats().evictions > 0);
        }
    }

    #[test]
    fn held_blocks_stay_and_what_does_not_fit_beside_them_is_not_kept() {
        let mut cache = BlockCache::new(3 * (4096 + SLOT_BYTES));
        let held: Vec<_> = (0..3).map(|at| cache.insert(key(1, at), CachedBlock::sized(4096))).collect();
        cache.insert(key(1, 3), CachedBlock::sized(4096));
        assert!(cache.get(&key(1, 3)).is_none());
        assert!((0..3).all(|at| Rc::ptr_eq(&cache.get(&key(1, at)).unwrap(), &held[at as usize])));
        drop(held);
        cache.insert(key(1, 4), CachedBlock::sized(4096));
        assert!(cache.get(&key(1, 4)).is_some() && cache.get(&key(1, 0)).is_none());
        cache.insert(key(1, 5), CachedBlock::sized(1 << 20));
        assert_eq!((cache.stats().refusals, cache.len()), (2, 3), "larger than the cache");
    }

    #[test]
    fn a_reader_catching_up_does_not_flush_what_is_read_again_and_again() {
        let block = || CachedBlock::sized(4096);
        let mut cache = BlockCache::new(100 * (4096 + SLOT_BYTES));
        let mut misses = 0;
        for round in 0..200 {
            for hot in 0..40 {
                if cache.get(&key(1, hot)).is_none() {
                    misses += u64::from(round >= 20);
                    cache.insert(key(1, hot), block());
                }
            }
            // The scan reads each of its blocks ten times before it goes on.
            for at in 0..50 {
                let scanned = key(2, round * 50 + at);
                assert!(cache.get(&scanned).is_none());
                cache.insert(scanned, block());
                assert!((0..9).all(|_| cache.get(&scanned).is_some()));
            }
        }
        assert_eq!(misses, 0, "of {} reads of hot blocks", 180 * 40);
    }

    fn disk_with_segments(count: u64) -> TestDisk {
        let mut disk = TestDisk::default();
        for id in 0..count {
            disk.mem.files.insert(segment::path(SegmentId(id)), Vec::new());
        }
        disk
    }

    #[test]
    fn open_files_are_bounded_and_those_in_use_stay_open() {
        let mut disk = disk_with_segments(10);
        let (io, files) = (disk.io.clone(), Files::new(3));
        let first = disk.run(files.get(&io, SegmentId(0))).unwrap();
        for id in 1..10 {
            drop(disk.run(files.get(&io, SegmentId(id))).unwrap());
            // The lease just given counts as in use.
            assert!(disk.mem.open_count() <= 3, "after {id}");
        }
        assert_eq!(disk.run(files.get(&io, SegmentId(0))).unwrap().file(), first.file());
        let before = disk.mem.asked.len();
        for id in [8, 9, 8] {
            disk.run(files.get(&io, SegmentId(id))).unwrap();
        }
        assert_eq!(disk.mem.asked.len(), before, "the latest are still open");
        disk.run(files.forget(&io, SegmentId(0)));
        assert!(disk.mem.asked.iter().all(|asked| !asked.starts_with("close segments/0000000000000000")));
        drop(first);
        disk.run(files.close_all(&io));
        assert_eq!((disk.mem.open_count(), files.open_count()), (0, 0));
        assert!(disk.run(files.get(&io, SegmentId(99))).is_err());
    }

    #[test]
    fn two_who_open_the_same_segment_at_once_share_one_file() {
        let mut disk = disk_with_segments(1);
        let (io, files) = (disk.io.clone(), Files::new(3));
        let mut jobs = Jobs::default();
        for _ in 0..2 {
            let (io, files) = (io.clone(), files.clone());
            jobs.add(async move { files.get(&io, SegmentId(0)).await.unwrap() });
        }
        let leases = disk.run(std::future::poll_fn(|_| {
            let mut leases = Vec::new();
            jobs.run(&mut leases);
            done_when(&mut jobs, leases)
        }));
        assert_eq!(disk.mem.asked.iter().filter(|asked| asked.starts_with("open")).count(), 2);
        assert_eq!((disk.mem.open_count(), files.open_count()), (1, 1));
        assert!(leases.windows(2).all(|pair| pair[0].file() == pair[1].file()));
    }

    fn done_when<T>(jobs: &mut Jobs<T>, leases: Vec<T>) -> std::task::Poll<Vec<T>> {
        if jobs.is_empty() { std::task::Poll::Ready(leases) } else { std::task::Poll::Pending }
    }
}
