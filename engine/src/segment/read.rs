//! Reading segments. Nothing leaves this module whose checksum, place and owner were not checked
//! first (I-98): of a block that does not hold, not even the records before the damage are served.

use super::format::{
    BlockMeta, End, Frame, FrameFault, PART_HEADER_BYTES, PartHeader, PartKind, Run, SegmentMeta, TagPlace,
    take_run,
};
use super::tags::TagSection;
use super::{AtRisk, SegmentError, path};
use crate::aside::{BREATH_BYTES, Effort};
use crate::disk::{FileId, Io, OpenMode};
use crate::error::FormatError;
use crate::event::Record;
use crate::ids::{SegmentId, TopicId};
use crate::limits::BLOCK_BYTES;
use crate::mem::AlignedBuf;
use crate::wal::frame::{ENTRY_HEADER_BYTES, Kind, RecordsEntry, split_entry};
use crc32c::{crc32c, crc32c_append};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A block in memory, verified. It keeps the buffer it was read into.
#[derive(Debug)]
pub struct CachedBlock {
    buf: AlignedBuf,
    /// Where in the buffer the entries start and end.
    start: usize,
    end: usize,
    topic: TopicId,
    meta: BlockMeta,
}

impl CachedBlock {
    /// Whose records.
    pub fn topic(&self) -> TopicId {
        self.topic
    }

    /// What it holds.
    pub fn meta(&self) -> &BlockMeta {
        &self.meta
    }

    /// Bytes of memory, which are more than the block's own: reads are aligned.
    pub fn mem_bytes(&self) -> usize {
        self.buf.len()
    }

    /// Its entries in seq order.
    pub fn entries(&self) -> Entries<'_> {
        Entries { rest: &self.buf[self.start..self.end] }
    }

    /// Its records at or above `from_seq`, in seq order. An error ends the walk.
    pub fn records_from(&self, from_seq: u64) -> impl Iterator<Item = Result<Record<'_>, FormatError>> {
        self.entries()
            .skip_while(move |entry| entry.header.last_seq() < from_seq)
            .flat_map(move |entry| entry.records_from(from_seq))
    }

    /// Checks that the entries are what `meta` says, so that walking them cannot fail. The times too: a file
    /// of another data directory may have the same ids, seqs and sizes.
    fn check(&self) -> Option<()> {
        let (mut last, mut count, mut counted_bytes) = (0, 0u64, 0);
        let mut last_ts = i64::MIN;
        let mut rest = &self.buf[self.start..self.end];
        while !rest.is_empty() {
            let (head, body, after) = split_entry(rest).ok()?;
            let header = RecordsEntry::decode(body).ok()?.header;
            let (first_seq, first_ts) = (self.meta.first_seq, self.meta.first_ts);
            let first_expected = last > 0 || (header.first_seq, header.ts) == (first_seq, first_ts);
            if head.kind != Kind::Records
                || header.topic != self.topic
                || header.first_seq <= last
                || !first_expected
            {
                return None;
            }
            last = header.last_seq();
            last_ts = last_ts.max(header.ts);
            count += u64::from(header.count);
            counted_bytes += u64::from(header.counted_bytes);
            rest = after;
        }
        let meta = &self.meta;
        ((last, last_ts) == (meta.last_seq, meta.last_ts)
            && count == u64::from(meta.count)
            && counted_bytes == meta.counted_bytes)
            .then_some(())
    }
}

#[cfg(test)]
impl CachedBlock {
    /// An empty block that takes this much memory.
    pub(crate) fn sized(mem_bytes: usize) -> CachedBlock {
        let meta = BlockMeta {
            offset: 0,
            bytes: 0,
            first_seq: 1,
            last_seq: 1,
            count: 0,
            counted_bytes: 0,
            first_ts: 0,
            last_ts: 0,
            has_tags: false,
        };
        CachedBlock { buf: AlignedBuf::zeroed(mem_bytes), start: 0, end: 0, topic: TopicId(0), meta }
    }
}

/// Iterator over the entries of a block.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = RecordsEntry<'a>;

    #[inline]
    fn next(&mut self) -> Option<RecordsEntry<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        let (head, body, after) = split_entry(self.rest).expect("checked when the block was read");
        debug_assert_eq!(self.rest.len() - after.len(), ENTRY_HEADER_BYTES + head.body_bytes);
        self.rest = after;
        Some(RecordsEntry::decode(body).expect("checked when the block was read"))
    }
}

/// Reads and verifies a block of `topic` in the open segment `id`.
pub async fn read_block(
    io: &Io,
    file: FileId,
    id: SegmentId,
    topic: TopicId,
    meta: &BlockMeta,
) -> Result<CachedBlock, SegmentError> {
    let place = Place { id, topic, offset: meta.offset, bytes: meta.bytes };
    let risk = AtRisk { topic, first_seq: meta.first_seq, last_seq: meta.last_seq };
    let (buf, start, header) = read_part(io, file, place, PartKind::Block, risk).await?;
    let end = start + meta.bytes as usize;
    let block = CachedBlock { buf, start: start + PART_HEADER_BYTES, end, topic, meta: *meta };
    if header.count != meta.count || block.check().is_none() {
        return Err(damaged(id, meta.offset, "block", Some(risk)));
    }
    Ok(block)
}

/// Reads and verifies a tag section of `topic` in the open segment `id`.
pub async fn read_tags(
    io: &Io,
    file: FileId,
    id: SegmentId,
    topic: TopicId,
    at: &TagPlace,
) -> Result<TagSection, SegmentError> {
    let place = Place { id, topic, offset: at.offset, bytes: at.bytes };
    let risk = AtRisk { topic, first_seq: at.first_seq, last_seq: at.last_seq };
    let (buf, start, header) = read_part(io, file, place, PartKind::Tags, risk).await?;
    TagSection::new(buf, start, header.body_bytes as usize, header.count, (at.first_seq, at.last_seq))
        .map_err(|_| damaged(id, at.offset, "tag section", Some(risk)))
}

/// Where a part is and whose it must be.
struct Place {
    id: SegmentId,
    topic: TopicId,
    offset: u64,
    bytes: u32,
}

/// Reads a part: header, owner, place and checksum hold. Gives the buffer and where the part starts.
async fn read_part(
    io: &Io,
    file: FileId,
    place: Place,
    kind: PartKind,
    risk: AtRisk,
) -> Result<(AlignedBuf, usize, PartHeader), SegmentError> {
    let Place { id, topic, offset, bytes } = place;
    let what = if kind == PartKind::Block { "block" } else { "tag section" };
    let bad = || damaged(id, offset, what, Some(risk));
    let (buf, start) = read_range(io, file, id, offset, bytes as usize).await?.ok_or_else(bad)?;
    let part = &buf[start..start + bytes as usize];
    let header = PartHeader::decode(part, kind).map_err(|_| bad())?;
    let body = &part[PART_HEADER_BYTES..];
    let ours = header.body_bytes as usize == body.len()
        && header.segment == id
        && header.topic == topic
        && header.first_seq == risk.first_seq;
    if !ours || crc32c(body) != header.body_crc {
        return Err(bad());
    }
    Ok((buf, start, header))
}

/// Reads the footer of a segment: for verification, inspection, and recovery without a checkpoint.
pub async fn read_footer(io: &Io, id: SegmentId) -> Result<SegmentMeta, SegmentError> {
    with_file(io, id, async |file| footer(io, file, id).await).await
}

/// Reads a whole segment and checks all of it, every record too. Gives what its footer says, or the first
/// fault.
pub async fn verify(io: &Io, id: SegmentId) -> Result<SegmentMeta, SegmentError> {
    let mut first = None;
    let meta = examine(io, id, |fault| first = first.take().or(Some(fault))).await;
    match first {
        Some(fault) => Err(fault),
        None => Ok(meta.expect("without a fault the footer was read")),
    }
}

/// Reads a whole segment past its faults, each of which goes to `tell`: records, tag lists, and whether
/// these name exactly the tags of those. Gives what the footer says, if that holds.
pub async fn examine(io: &Io, id: SegmentId, mut tell: impl FnMut(SegmentError)) -> Option<SegmentMeta> {
    let read = with_file(io, id, async |file| {
        let meta = footer(io, file, id).await?;
        let mut effort = Effort::default();
        for run in &meta.runs {
            examine_run(io, file, id, run, &mut effort, &mut tell).await;
        }
        Ok(meta)
    });
    let read = read.await;
    read.map_err(tell).ok()
}

async fn examine_run(
    io: &Io,
    file: FileId,
    id: SegmentId,
    run: &Run,
    effort: &mut Effort,
    tell: &mut impl FnMut(SegmentError),
) {
    // Sums over tags and seqs: equal if the lists say what the records say, whatever their order.
    let (mut carried, mut listed, mut is_whole) = (0u64, 0u64, true);
    for block in &run.blocks {
        let risk = AtRisk { topic: run.topic, first_seq: block.first_seq, last_seq: block.last_seq };
        match read_block(io, file, id, run.topic, block).await {
            Ok(cached) => match tag_sum(&cached) {
                Some(sum) => carried = carried.wrapping_add(sum),
                None => (is_whole, _) = (false, tell(damaged(id, block.offset, "record", Some(risk)))),
            },
            Err(fault) => (is_whole, _) = (false, tell(fault)),
        }
        effort.spend(block.bytes as usize).await;
    }
    for place in &run.tags {
        let risk = AtRisk { topic: run.topic, first_seq: place.first_seq, last_seq: place.last_seq };
        let checked = read_tags(io, file, id, run.topic, place).await.and_then(|section| {
            let add = |tag: &[u8], seqs: &[u64]| {
                listed = seqs.iter().fold(listed, |sum, seq| sum.wrapping_add(xxh3_64_with_seed(tag, *seq)));
            };
            section.walk(add).map_err(|_| damaged(id, place.offset, "tag section", Some(risk)))
        });
        if let Err(fault) = checked {
            is_whole = false;
            tell(fault);
        }
        effort.spend(place.bytes as usize).await;
    }
    if is_whole && carried != listed {
        let (first, last) = (&run.blocks[0], &run.blocks[run.blocks.len() - 1]);
        let risk = AtRisk { topic: run.topic, first_seq: first.first_seq, last_seq: last.last_seq };
        tell(damaged(id, first.offset, "run, whose tag lists are not those of its records,", Some(risk)));
    }
}

/// The sum over the tags of a block's records; `None` if a record does not hold, or has a tag although
/// none has.
fn tag_sum(block: &CachedBlock) -> Option<u64> {
    let (mut sum, mut has_tags) = (0u64, false);
    for record in block.records_from(0) {
        let record = record.ok()?;
        if let Some(tag) = record.tag {
            has_tags = true;
            sum = sum.wrapping_add(xxh3_64_with_seed(tag, record.seq));
        }
    }
    (has_tags == block.meta().has_tags).then_some(sum)
}

async fn with_file<T>(
    io: &Io,
    id: SegmentId,
    read: impl AsyncFnOnce(FileId) -> Result<T, SegmentError>,
) -> Result<T, SegmentError> {
    let opened = io.open(&path(id), OpenMode::Read).await;
    let file = opened.map_err(|error| SegmentError::Disk { file: path(id), error })?;
    let result = read(file).await;
    io.close(file).await;
    result
}

async fn footer(io: &Io, file: FileId, id: SegmentId) -> Result<SegmentMeta, SegmentError> {
    let header = read_end(io, file, id, 0, End::Header).await?;
    let trailer_at = header.file_bytes - BLOCK_BYTES as u64;
    let trailer = read_end(io, file, id, trailer_at, End::Trailer).await?;
    if trailer != header {
        return Err(damaged(id, trailer_at, "trailer", None));
    }
    // One block beyond the end: a file that has grown is not what was synced.
    let past = io.read(file, header.file_bytes, AlignedBuf::zeroed(BLOCK_BYTES)).await;
    if past.map_err(|error| SegmentError::Disk { file: path(id), error })?.1 != 0 {
        return Err(damaged(id, header.file_bytes, "end of file", None));
    }

    let Frame { file_bytes, footer_offset, footer_bytes, footer_crc, run_count, .. } = header;
    let bad = || damaged(id, footer_offset, "footer", None);
    // Memory for it may be reserved: the trailer was found where the header says, behind it.
    let region = (trailer_at - footer_offset) as usize;
    let (buf, start) = read_range(io, file, id, footer_offset, region).await?.ok_or_else(bad)?;
    let (footer, padding) = buf[start..start + region].split_at(footer_bytes as usize);
    let (mut effort, mut crc) = (Effort::default(), 0);
    for piece in footer.chunks(BREATH_BYTES) {
        crc = crc32c_append(crc, piece);
        effort.spend(piece.len()).await;
    }
    if crc != footer_crc || padding.iter().any(|&byte| byte != 0) {
        return Err(bad());
    }
    let mut runs: Vec<Run> = Vec::new();
    let (mut rest, mut at) = (footer, BLOCK_BYTES as u64);
    while !rest.is_empty() {
        let before = rest.len();
        let run = take_run(&mut rest).map_err(|_| bad())?;
        let ascends = runs.last().is_none_or(|last| last.topic < run.topic);
        if !ascends || run.blocks.is_empty() || !tiles(&run, &mut at) {
            return Err(bad());
        }
        runs.push(run);
        effort.spend(before - rest.len()).await;
    }
    if at != footer_offset || runs.len() != run_count as usize {
        return Err(bad());
    }
    Ok(SegmentMeta { id, file_bytes, runs })
}

/// Whether the parts of a run follow one another without a gap from `at`, which is moved behind them.
fn tiles(run: &Run, at: &mut u64) -> bool {
    let (mut blocks, mut tags) = (run.blocks.iter().peekable(), run.tags.iter().peekable());
    loop {
        if let Some(block) = blocks.next_if(|block| block.offset == *at) {
            *at += u64::from(block.bytes);
        } else if let Some(place) = tags.next_if(|place| place.offset == *at) {
            *at += u64::from(place.bytes);
        } else {
            return blocks.peek().is_none() && tags.peek().is_none();
        }
    }
}

async fn read_end(
    io: &Io,
    file: FileId,
    id: SegmentId,
    offset: u64,
    end: End,
) -> Result<Frame, SegmentError> {
    let what = if end == End::Header { "header" } else { "trailer" };
    let bad = || damaged(id, offset, what, None);
    let (buf, start) = read_range(io, file, id, offset, BLOCK_BYTES).await?.ok_or_else(bad)?;
    let frame = Frame::decode(&buf[start..start + BLOCK_BYTES], end).map_err(|fault| match fault {
        FrameFault::Damaged => bad(),
        FrameFault::Version(version) => SegmentError::Version { file: path(id), version },
    })?;
    if frame.id == id { Ok(frame) } else { Err(bad()) }
}

/// Reads `bytes` at an unaligned offset; the buffer and where in it they start. `None` if the file
/// ends before.
async fn read_range(
    io: &Io,
    file: FileId,
    id: SegmentId,
    offset: u64,
    bytes: usize,
) -> Result<Option<(AlignedBuf, usize)>, SegmentError> {
    let start = (offset % BLOCK_BYTES as u64) as usize;
    let buf = AlignedBuf::zeroed(start + bytes);
    let read = io.read(file, offset - start as u64, buf).await;
    let (buf, got) = read.map_err(|error| SegmentError::Disk { file: path(id), error })?;
    Ok((got >= start + bytes).then_some((buf, start)))
}

fn damaged(id: SegmentId, offset: u64, what: &'static str, at_risk: Option<AtRisk>) -> SegmentError {
    SegmentError::Damaged { file: path(id), offset, what, at_risk }
}
