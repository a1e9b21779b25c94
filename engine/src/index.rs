//! From seq to place: where a topic's records lie. Sealed blocks on disk, entries in the log's memory,
//! and, for class `ephemeral`, entries on heap pages that are never written.

use crate::cache::BlockKey;
use crate::ids::{Lsn, SegmentId, TopicId};
use crate::sabotage::{self, Bug};
use crate::segment::{BlockMeta, Run, TagPlace};
use crate::shard::TagMatch;
use crate::wal::chunks::Chunks;
use crate::wal::frame::{RecordsEntry, split_entry};
use crate::wal::log::FrameRef;
use std::collections::VecDeque;

/// Set in a [`FrameRef`]'s lsn when the entry is on a heap page: page number × 2²⁴ + offset.
const HEAP: u64 = 1 << 63;
const PAGE_SHIFT: u32 = 24;
/// A new page is started when the current one holds this much.
const PAGE_BYTES: usize = 64 << 10;

/// A block of a sealed file that holds records of the topic.
#[derive(Clone, Debug, PartialEq)]
pub struct SealedBlock {
    /// Whose records.
    pub topic: TopicId,
    /// Which file.
    pub segment: SegmentId,
    /// Where in it, and what.
    pub meta: BlockMeta,
}

impl SealedBlock {
    /// Its key in the cache.
    pub fn key(&self) -> BlockKey {
        if sabotage::is(Bug::StaleCache) {
            return (SegmentId(0), self.meta.offset);
        }
        (self.segment, self.meta.offset)
    }
}

/// A sorted list of tags in a sealed file, with the seqs of the topic's records that carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagRun {
    /// Whose records.
    pub topic: TopicId,
    /// Which file.
    pub segment: SegmentId,
    /// Where in it, and for which seqs.
    pub place: TagPlace,
}

/// What must come from disk before an operation can go on.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// These blocks, the first of them for sure.
    Blocks(Vec<SealedBlock>),
    /// What a list of tags says about a predicate.
    Tags(TagRun, TagMatch),
}

/// What lies next at or after a seq.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// An entry in memory.
    Hot(&'a FrameRef),
    /// A block on disk.
    Sealed(&'a SealedBlock),
}

impl Source<'_> {
    /// First and last seq of it.
    pub fn range(&self) -> (u64, u64) {
        match self {
            Source::Hot(frame) => (frame.first_seq, frame.last_seq()),
            Source::Sealed(block) => (block.meta.first_seq, block.meta.last_seq),
        }
    }

    /// Records and bytes (J-23) in it.
    pub fn tally(&self) -> (u64, u64) {
        match self {
            Source::Hot(frame) => (u64::from(frame.count), u64::from(frame.counted_bytes)),
            Source::Sealed(block) => (u64::from(block.meta.count), block.meta.counted_bytes),
        }
    }

    /// Whether only memory holds it (class `ephemeral`): the log does not count it.
    pub fn is_heap(&self) -> bool {
        matches!(self, Source::Hot(frame) if frame.lsn.0 & HEAP != 0)
    }

    /// Oldest and newest commit time in it.
    pub fn times(&self) -> (i64, i64) {
        match self {
            Source::Hot(frame) => (frame.ts, frame.ts),
            Source::Sealed(block) => (block.meta.first_ts, block.meta.last_ts),
        }
    }
}

/// See the module's text. Both lists ascend in seq and do not overlap; sealed blocks may lie between
/// hot entries only where a topic changed its class to or from `ephemeral`.
#[derive(Debug, Default)]
pub struct Index {
    sealed: VecDeque<SealedBlock>,
    /// Lists of tags for the sealed blocks, by segment and then by seq.
    tags: Vec<TagRun>,
    hot: VecDeque<FrameRef>,
    pages: VecDeque<Vec<u8>>,
    first_page: u64,
    heap_bytes: u64,
}

impl Index {
    /// The entry or block with the lowest seqs that reaches `seq` or beyond.
    pub fn at_or_after(&self, seq: u64) -> Option<Source<'_>> {
        let hot = self.hot.get(self.hot.partition_point(|frame| frame.last_seq() < seq));
        let sealed = self.sealed.get(self.sealed.partition_point(|block| block.meta.last_seq < seq));
        match (hot, sealed) {
            (Some(frame), Some(block)) if frame.first_seq < block.meta.first_seq => Some(Source::Hot(frame)),
            (_, Some(block)) => Some(Source::Sealed(block)),
            (Some(frame), None) => Some(Source::Hot(frame)),
            (None, None) => None,
        }
    }

    /// Sealed blocks from the one that reaches `seq`, for readahead.
    pub fn sealed_from(&self, seq: u64) -> impl Iterator<Item = &SealedBlock> {
        let at = self.sealed.partition_point(|block| block.meta.last_seq < seq);
        self.sealed.range(at..)
    }

    /// The entry of a hot frame.
    #[inline]
    pub fn entry<'a>(&'a self, frame: &FrameRef, chunks: &'a Chunks) -> RecordsEntry<'a> {
        if frame.lsn.0 & HEAP == 0 {
            return chunks.records(frame.lsn);
        }
        let place = frame.lsn.0 & !HEAP;
        let page = &self.pages[((place >> PAGE_SHIFT) - self.first_page) as usize];
        let bytes = &page[(place & ((1 << PAGE_SHIFT) - 1)) as usize..];
        let (_, body, _) = split_entry(bytes).expect("a heap entry is whole");
        RecordsEntry::decode(body).expect("a heap entry is sound")
    }

    /// Adds an entry that the log holds.
    pub fn push_hot(&mut self, frame: FrameRef) {
        debug_assert!(self.hot.back().is_none_or(|last| last.last_seq() < frame.first_seq));
        self.hot.push_back(frame);
    }

    /// Adds an entry that `encode` appends to a heap page.
    pub fn push_heap(&mut self, mut frame: FrameRef, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.pages.back().is_none_or(|page| page.len() >= PAGE_BYTES) {
            self.pages.push_back(Vec::new());
        }
        let number = self.first_page + self.pages.len() as u64 - 1;
        let page = self.pages.back_mut().expect("just made sure");
        frame.lsn = Lsn(HEAP | number << PAGE_SHIFT | page.len() as u64);
        let before = page.len();
        encode(page);
        self.heap_bytes += (page.len() - before) as u64;
        self.hot.push_back(frame);
    }

    /// Bytes on heap pages.
    pub fn heap_bytes(&self) -> u64 {
        self.heap_bytes
    }

    /// Seq ranges that only heap pages hold, with their tallies: gone at a restart.
    pub fn heap_frames(&self) -> impl Iterator<Item = &FrameRef> {
        self.hot.iter().filter(|frame| frame.lsn.0 & HEAP != 0)
    }

    /// Log entries below `lsn`: what a seal takes, in seq order. Positions ascend with seqs, so this
    /// looks at no more than it gives, but for heap entries between.
    pub fn log_frames_below(&self, lsn: Lsn) -> impl Iterator<Item = &FrameRef> {
        self.hot
            .iter()
            .take_while(move |frame| frame.lsn < lsn || frame.lsn.0 & HEAP != 0)
            .filter(|frame| frame.lsn.0 & HEAP == 0)
    }

    /// The lowest log position that a hot entry needs.
    pub fn lowest_lsn(&self) -> Option<Lsn> {
        self.hot.iter().map(|frame| frame.lsn).find(|lsn| lsn.0 & HEAP == 0)
    }

    /// Replaces log entries below `lsn` by the runs they were sealed into.
    pub fn install(&mut self, lsn: Lsn, runs: Vec<(SegmentId, Run)>) {
        if self.pages.is_empty() {
            while self.hot.front().is_some_and(|frame| frame.lsn < lsn) {
                self.hot.pop_front();
            }
        } else {
            self.hot.retain(|frame| frame.lsn >= lsn);
        }
        runs.into_iter().for_each(|(segment, run)| self.add_run(segment, run));
    }

    /// Adds sealed blocks, wherever they belong in seq order.
    fn add_sealed(&mut self, blocks: impl Iterator<Item = SealedBlock>) {
        let mut sorted = true;
        for block in blocks {
            sorted &= self.sealed.back().is_none_or(|last| last.meta.last_seq < block.meta.first_seq);
            self.sealed.push_back(block);
        }
        if !sorted {
            self.sealed.make_contiguous().sort_by_key(|block| block.meta.first_seq);
        }
    }

    /// Adds a run of a sealed file: its blocks and its lists of tags.
    pub fn add_run(&mut self, segment: SegmentId, run: Run) {
        let Run { topic, blocks, tags } = run;
        self.tags.extend(tags.into_iter().map(|place| TagRun { topic, segment, place }));
        self.tags.sort_by_key(|tags| (tags.segment, tags.place.first_seq));
        self.add_sealed(blocks.into_iter().map(|meta| SealedBlock { topic, segment, meta }));
    }

    /// Whether the segment has lists of tags for this topic.
    pub fn has_tag_lists(&self, segment: SegmentId) -> bool {
        let at = self.tags.partition_point(|tags| tags.segment < segment);
        self.tags.get(at).is_some_and(|tags| tags.segment == segment)
    }

    /// The list of tags of a segment that reaches `seq` or is the next one above.
    pub fn tags_at_or_after(&self, segment: SegmentId, seq: u64) -> Option<&TagRun> {
        let at = self.tags.partition_point(|tags| (tags.segment, tags.place.last_seq) < (segment, seq));
        self.tags.get(at).filter(|tags| tags.segment == segment)
    }

    /// All lists of tags, by segment and then by seq.
    pub fn tag_lists(&self) -> impl Iterator<Item = &TagRun> {
        self.tags.iter()
    }

    /// Forgets what lies wholly at or below `seq`; hands each forgotten block to `released`.
    pub fn drop_through(&mut self, seq: u64, mut released: impl FnMut(SealedBlock)) {
        if self.sealed.front().is_some_and(|block| block.meta.last_seq <= seq) {
            self.tags.retain(|tags| tags.place.last_seq > seq);
        }
        while self.sealed.front().is_some_and(|block| block.meta.last_seq <= seq) {
            released(self.sealed.pop_front().expect("just seen"));
        }
        let mut heap_gone = false;
        while self.hot.front().is_some_and(|frame| frame.last_seq() <= seq) {
            let frame = self.hot.pop_front().expect("just seen");
            heap_gone |= frame.lsn.0 & HEAP != 0;
        }
        if heap_gone {
            let oldest = self.heap_frames().next().map(|frame| (frame.lsn.0 & !HEAP) >> PAGE_SHIFT);
            let newest = self.first_page + self.pages.len() as u64;
            while self.first_page < oldest.unwrap_or(newest) {
                let page = self.pages.pop_front().expect("pages up to the newest");
                self.heap_bytes -= page.len() as u64;
                self.first_page += 1;
            }
        }
    }

    /// All sealed blocks, lowest first.
    pub fn sealed(&self) -> impl Iterator<Item = &SealedBlock> {
        self.sealed.iter()
    }
}
