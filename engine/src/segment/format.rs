//! The segment file as bytes: sealed records of one topic, or of many (a *pack*). Pure.
//!
//! A file is a header block, then blocks and tag sections back to back in the order of their runs,
//! the footer, zeros to the end of its block, and a trailer block. All numbers little-endian. Every
//! checksum is crc32c. A changed row is a new [`VERSION`] (and a new magic of its part).
//!
//! ```text
//! part      at  bytes  field
//! header     0      8  magic "RUNESEG\x01"        (one block; also the shape of the trailer)
//!            8      2  version
//!           10      6  zero
//!           16      8  segment id
//!           24      8  file_bytes: whole file, so a cut or grown file shows
//!           32      8  footer_offset
//!           40      8  footer_bytes
//!           48      4  footer_crc
//!           52      4  run_count
//!           56         zero
//!         4092      4  crc of all before
//! trailer            the same with magic "RUNESEG\x02"; the header is written last, so either
//!                    alone tells the other
//!
//! block      0      4  magic "RBK1"
//!            4      4  body_bytes
//!            8      8  segment id: a block of another file is no block of this one
//!           16      8  topic
//!           24      8  first_seq
//!           32      4  count of records
//!           36      4  body_crc
//!           40      4  zero
//!           44      4  header_crc, over bytes 0..44: checked before body_bytes is trusted
//!           48         records entries as in `wal::frame`, ascending seqs
//!
//! tags       0      4  magic "RTG1"
//!            4      4  body_bytes
//!            8      8  segment id
//!           16      8  topic
//!           24      8  first_seq: the first delta of each tag counts from here
//!           32      4  tag_count
//!           36      4  body_crc
//!           40      4  zero
//!           44      4  header_crc, over bytes 0..44
//!           48         tag_count offsets of four bytes, from the start of the body; then per tag,
//!                      sorted: 2 tag_bytes, 4 seq_count, 4 seqs_bytes, the tag, seqs as LEB128 deltas
//!
//! footer               run_count runs, ascending topics
//! run        0      8  topic
//!            8      4  block_count
//!           12      4  section_count
//!           16         blocks, sections
//!   block    0      8  offset in the file
//!            8      4  bytes, header included
//!           12      4  count of records
//!           16      8  first_seq
//!           24      8  last_seq
//!           32      8  counted_bytes (J-23)
//!           40      8  first_ts
//!           48      8  last_ts
//!           56      1  flags: 1 some record has a tag
//!   section  0      8  offset in the file
//!            8      4  bytes, header included
//!           12      8  first_seq with a tag
//!           20      8  last_seq with a tag
//! ```

use crate::error::FormatError;
use crate::ids::{SegmentId, TopicId};
use crate::limits::{BLOCK_BYTES, CHUNK_BYTES};
use crate::mem::AlignedBuf;
use crate::wal::frame::{ENTRY_HEADER_BYTES, RECORDS_HEADER_BYTES};
use crc32c::crc32c;

/// Version of the file format.
pub const VERSION: u16 = 1;
/// A block is closed when it reaches about this size: what one small read loads.
pub const BLOCK_TARGET_BYTES: usize = 64 << 10;
/// Bytes before a block's or a tag section's body.
pub const PART_HEADER_BYTES: usize = 48;
/// Largest body of a block or tag section: the largest record in an entry of its own fits with ease,
/// and so does a tag section, which is cut at [`TAGS_TARGET_BYTES`].
pub const PART_BODY_BYTES_MAX: usize = 2 * CHUNK_BYTES;
/// A tag section is cut when it reaches about this size. Bounds the writer's memory.
pub const TAGS_TARGET_BYTES: usize = 512 << 10;
/// Stored bytes of a [`Run`] before its blocks.
pub const RUN_HEADER_BYTES: usize = 16;
/// Stored bytes of a [`BlockMeta`].
pub const BLOCK_META_BYTES: usize = 57;
/// Stored bytes of a [`TagPlace`].
pub const TAG_PLACE_BYTES: usize = 28;

const HEADER_MAGIC: &[u8; 8] = b"RUNESEG\x01";
const TRAILER_MAGIC: &[u8; 8] = b"RUNESEG\x02";
const SEAL_AT: usize = BLOCK_BYTES - 4;

// An entry of one largest record fits a block's body, with room for what a tag section overshoots.
const _: () = assert!(CHUNK_BYTES + ENTRY_HEADER_BYTES + RECORDS_HEADER_BYTES < PART_BODY_BYTES_MAX);
const _: () = assert!(8 * TAGS_TARGET_BYTES <= PART_BODY_BYTES_MAX);

/// Where a block is and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockMeta {
    /// Offset in the file; not aligned.
    pub offset: u64,
    /// Bytes of the block, its header included.
    pub bytes: u32,
    /// Seq of its first record.
    pub first_seq: u64,
    /// Seq of its last record.
    pub last_seq: u64,
    /// Records in it; fewer than the seqs it spans where records were deleted.
    pub count: u32,
    /// Sum of `data` + `meta` of its records (J-23).
    pub counted_bytes: u64,
    /// Commit time of its first record.
    pub first_ts: i64,
    /// Latest commit time in it.
    pub last_ts: i64,
    /// Whether any of its records has a tag.
    pub has_tags: bool,
}

/// Where a tag section is and which seqs it speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagPlace {
    /// Offset in the file; not aligned.
    pub offset: u64,
    /// Bytes of the section, its header included.
    pub bytes: u32,
    /// First seq in it.
    pub first_seq: u64,
    /// Last seq in it.
    pub last_seq: u64,
}

/// The blocks of one topic in one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Whose records.
    pub topic: TopicId,
    /// Its blocks, ascending in seq and offset; at least one.
    pub blocks: Vec<BlockMeta>,
    /// Its tag sections, ascending in seq; none if no record has a tag.
    pub tags: Vec<TagPlace>,
}

/// What a segment file holds: its footer, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentMeta {
    /// Which segment.
    pub id: SegmentId,
    /// Bytes of the whole file.
    pub file_bytes: u64,
    /// Its runs, ascending in topic.
    pub runs: Vec<Run>,
}

/// Little-endian numbers off the front of a slice, never beyond its end.
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        Some(self.bytes(1)?[0])
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.bytes(2)?.try_into().expect("two bytes")))
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().expect("four bytes")))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().expect("eight bytes")))
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        Some(self.u64()? as i64)
    }

    /// A count of things of at least `each` bytes; `None` if they cannot all be in the rest. So memory
    /// for them may be reserved.
    pub(crate) fn count(&mut self, each: usize) -> Option<usize> {
        let count = self.u32()? as usize;
        (count <= self.0.len() / each.max(1)).then_some(count)
    }
}

/// What the header block and the trailer block say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which segment.
    pub id: SegmentId,
    /// Bytes of the whole file.
    pub file_bytes: u64,
    /// Where the footer starts.
    pub footer_offset: u64,
    /// Its length.
    pub footer_bytes: u64,
    /// Its checksum.
    pub footer_crc: u32,
    /// Runs in it.
    pub run_count: u32,
}

/// Which end of the file a [`Frame`] block is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The first block.
    Header,
    /// The last block.
    Trailer,
}

/// Why a [`Frame`] block is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// Checksum, magic or contents do not hold.
    Damaged,
    /// Whole, but of a version this program does not know (I-99).
    Version(u16),
}

impl Frame {
    /// The block for one end of the file.
    pub fn encode(&self, end: End) -> AlignedBuf {
        let mut out = AlignedBuf::zeroed(BLOCK_BYTES);
        out[0..8].copy_from_slice(if end == End::Header { HEADER_MAGIC } else { TRAILER_MAGIC });
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.id.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.file_bytes.to_le_bytes());
        out[32..40].copy_from_slice(&self.footer_offset.to_le_bytes());
        out[40..48].copy_from_slice(&self.footer_bytes.to_le_bytes());
        out[48..52].copy_from_slice(&self.footer_crc.to_le_bytes());
        out[52..56].copy_from_slice(&self.run_count.to_le_bytes());
        let crc = crc32c(&out[..SEAL_AT]);
        out[SEAL_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the block of one end. The numbers are consistent with each other when this succeeds.
    pub fn decode(block: &[u8], end: End) -> Result<Frame, FrameFault> {
        let damaged = FrameFault::Damaged;
        if block.len() != BLOCK_BYTES || crc32c(&block[..SEAL_AT]).to_le_bytes() != block[SEAL_AT..] {
            return Err(damaged);
        }
        if &block[..8] != if end == End::Header { HEADER_MAGIC } else { TRAILER_MAGIC } {
            return Err(damaged);
        }
        let mut cursor = Cursor(&block[8..]);
        let mut read = || {
            let version = cursor.u16()?;
            cursor.bytes(6)?;
            let frame = Frame {
                id: SegmentId(cursor.u64()?),
                file_bytes: cursor.u64()?,
                footer_offset: cursor.u64()?,
                footer_bytes: cursor.u64()?,
                footer_crc: cursor.u32()?,
                run_count: cursor.u32()?,
            };
            Some((version, frame))
        };
        let (version, frame) = read().ok_or(damaged)?;
        if version != VERSION {
            return Err(FrameFault::Version(version));
        }
        let block = BLOCK_BYTES as u64;
        let footer_end = frame.footer_offset.checked_add(frame.footer_bytes).ok_or(damaged)?;
        let trailer_at = footer_end.checked_next_multiple_of(block).ok_or(damaged)?;
        let sound = frame.footer_offset >= block && trailer_at.checked_add(block) == Some(frame.file_bytes);
        if sound { Ok(frame) } else { Err(damaged) }
    }
}

/// Kind of a part with a header of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// A block of records.
    Block,
    /// A tag section.
    Tags,
}

/// Header of a block or of a tag section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartHeader {
    /// Bytes of the body.
    pub body_bytes: u32,
    /// Which file it belongs to.
    pub segment: SegmentId,
    /// Whose records.
    pub topic: TopicId,
    /// Seq of its first record.
    pub first_seq: u64,
    /// Records of a block, tags of a section.
    pub count: u32,
    /// Checksum of the body.
    pub body_crc: u32,
}

impl PartHeader {
    /// The header as bytes.
    pub fn encode(&self, kind: PartKind) -> [u8; PART_HEADER_BYTES] {
        let mut out = [0; PART_HEADER_BYTES];
        out[0..4].copy_from_slice(magic(kind));
        out[4..8].copy_from_slice(&self.body_bytes.to_le_bytes());
        out[8..16].copy_from_slice(&self.segment.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.topic.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_seq.to_le_bytes());
        out[32..36].copy_from_slice(&self.count.to_le_bytes());
        out[36..40].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32c(&out[..44]);
        out[44..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header whose checksum holds.
    pub fn decode(bytes: &[u8], kind: PartKind) -> Result<PartHeader, FormatError> {
        let bad = || FormatError::new("segment block header");
        let bytes = bytes.get(..PART_HEADER_BYTES).ok_or_else(bad)?;
        if bytes[..4] != *magic(kind) || crc32c(&bytes[..44]).to_le_bytes() != bytes[44..] {
            return Err(bad());
        }
        let mut cursor = Cursor(&bytes[4..]);
        let mut read = || {
            Some(PartHeader {
                body_bytes: cursor.u32()?,
                segment: SegmentId(cursor.u64()?),
                topic: TopicId(cursor.u64()?),
                first_seq: cursor.u64()?,
                count: cursor.u32()?,
                body_crc: cursor.u32()?,
            })
        };
        read().ok_or_else(bad)
    }
}

fn magic(kind: PartKind) -> &'static [u8; 4] {
    match kind {
        PartKind::Block => b"RBK1",
        PartKind::Tags => b"RTG1",
    }
}

/// Appends the stored form of a run made of these blocks and sections.
pub fn put_run(out: &mut Vec<u8>, topic: TopicId, blocks: &[BlockMeta], tags: &[TagPlace]) {
    out.extend_from_slice(&topic.0.to_le_bytes());
    out.extend_from_slice(&(blocks.len() as u32).to_le_bytes());
    out.extend_from_slice(&(tags.len() as u32).to_le_bytes());
    for block in blocks {
        out.extend_from_slice(&block.offset.to_le_bytes());
        out.extend_from_slice(&block.bytes.to_le_bytes());
        out.extend_from_slice(&block.count.to_le_bytes());
        out.extend_from_slice(&block.first_seq.to_le_bytes());
        out.extend_from_slice(&block.last_seq.to_le_bytes());
        out.extend_from_slice(&block.counted_bytes.to_le_bytes());
        out.extend_from_slice(&block.first_ts.to_le_bytes());
        out.extend_from_slice(&block.last_ts.to_le_bytes());
        out.push(block.has_tags as u8);
    }
    for place in tags {
        out.extend_from_slice(&place.offset.to_le_bytes());
        out.extend_from_slice(&place.bytes.to_le_bytes());
        out.extend_from_slice(&place.first_seq.to_le_bytes());
        out.extend_from_slice(&place.last_seq.to_le_bytes());
    }
}

/// Takes a run off the front of `bytes`. Its blocks are plausible and ascend, its sections too.
pub fn take_run(bytes: &mut &[u8]) -> Result<Run, FormatError> {
    let mut cursor = Cursor(bytes);
    let run = read_run(&mut cursor).filter(is_sound).ok_or_else(|| FormatError::new("segment run"))?;
    *bytes = cursor.0;
    Ok(run)
}

fn read_run(cursor: &mut Cursor<'_>) -> Option<Run> {
    let topic = TopicId(cursor.u64()?);
    let block_count = cursor.count(BLOCK_META_BYTES)?;
    let section_count = cursor.count(TAG_PLACE_BYTES)?;
    let mut blocks = Vec::with_capacity(block_count);
    for _ in 0..block_count {
        let (offset, bytes, count) = (cursor.u64()?, cursor.u32()?, cursor.u32()?);
        blocks.push(BlockMeta {
            offset,
            bytes,
            count,
            first_seq: cursor.u64()?,
            last_seq: cursor.u64()?,
            counted_bytes: cursor.u64()?,
            first_ts: cursor.i64()?,
            last_ts: cursor.i64()?,
            has_tags: match cursor.u8()? {
                0 => false,
                1 => true,
                _ => return None,
            },
        });
    }
    let mut tags = Vec::with_capacity(section_count);
    for _ in 0..section_count {
        tags.push(TagPlace {
            offset: cursor.u64()?,
            bytes: cursor.u32()?,
            first_seq: cursor.u64()?,
            last_seq: cursor.u64()?,
        });
    }
    Some(Run { topic, blocks, tags })
}

/// Whether blocks and sections are plausible and ascend.
pub(crate) fn is_sound(run: &Run) -> bool {
    let plausible = |offset: u64, bytes: u32, first_seq: u64, last_seq: u64| {
        offset >= BLOCK_BYTES as u64
            && offset.checked_add(u64::from(bytes)).is_some()
            && bytes as usize > PART_HEADER_BYTES
            && bytes as usize <= PART_HEADER_BYTES + PART_BODY_BYTES_MAX
            && 0 < first_seq
            && first_seq <= last_seq
    };
    run.blocks.iter().all(|block| {
        plausible(block.offset, block.bytes, block.first_seq, block.last_seq)
            && block.count > 0
            && u64::from(block.count) - 1 <= block.last_seq - block.first_seq
    }) && run.tags.iter().all(|place| plausible(place.offset, place.bytes, place.first_seq, place.last_seq))
        && run
            .blocks
            .is_sorted_by(|a, b| a.last_seq < b.first_seq && a.offset + u64::from(a.bytes) <= b.offset)
        && run.tags.is_sorted_by(|a, b| a.last_seq < b.first_seq && a.offset + u64::from(a.bytes) <= b.offset)
}

/// Appends a number as LEB128.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a LEB128 number off the front.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_survive_and_never_overflow() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            assert_eq!(take_varint(&mut &bytes[..]), Some(number));
            assert_eq!(take_varint(&mut &bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(take_varint(&mut &[0xff; 9][..]), None);
        assert_eq!(take_varint(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2][..]), None);
    }

    #[test]
    fn a_run_survives_its_stored_form_and_refuses_nonsense() {
        let block = |offset, first_seq, last_seq| BlockMeta {
            offset,
            bytes: 1000,
            first_seq,
            last_seq,
            count: 2,
            counted_bytes: 77,
            first_ts: -3,
            last_ts: 9,
            has_tags: true,
        };
        let tags = vec![TagPlace { offset: 9000, bytes: 99, first_seq: 2, last_seq: 8 }];
        let run = Run { topic: TopicId(5), blocks: vec![block(4096, 1, 4), block(6000, 6, 9)], tags };
        let stored = |run: &Run| {
            let mut out = Vec::new();
            put_run(&mut out, run.topic, &run.blocks, &run.tags);
            out
        };
        let bytes = stored(&run);
        let mut rest = &bytes[..];
        assert_eq!(take_run(&mut rest), Ok(run.clone()));
        assert!(rest.is_empty());
        for cut in 0..bytes.len() {
            assert!(take_run(&mut &bytes[..cut]).is_err(), "cut at {cut}");
        }
        type Spoil = fn(&mut Run);
        let nonsense: [(&str, Spoil); 6] = [
            ("overlapping seqs", |run| run.blocks[1].first_seq = 4),
            ("overlapping bytes", |run| run.blocks[1].offset = 5000),
            ("inside the header block", |run| run.blocks[0].offset = 0),
            ("more records than seqs", |run| run.blocks[0].count = 5),
            ("larger than a block may be", |run| run.blocks[1].bytes = u32::MAX),
            ("seq 0", |run| run.tags[0].first_seq = 0),
        ];
        for (what, spoil) in nonsense {
            let mut spoiled = run.clone();
            spoil(&mut spoiled);
            assert!(take_run(&mut &stored(&spoiled)[..]).is_err(), "{what}");
        }
    }
}
