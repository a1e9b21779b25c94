//! The checkpoint file as bytes. Pure.
//!
//! A file is frames back to back, then zeros to the end of the 4 KiB block. The first frame is the
//! head, the last the trailer, between them are edits. All numbers little-endian, checksums crc32c.
//!
//! ```text
//! frame      at  bytes  field
//!             0      4  magic "RCKP"
//!             4      2  version: the whole file's
//!             6      1  kind: 1 head, 2 edits, 3 trailer
//!             7      1  zero
//!             8      4  body_bytes
//!            12      4  index of the frame in the file
//!            16      8  number of the checkpoint
//!            24      4  body_crc
//!            28      4  header_crc, over bytes 0..28: checked before body_bytes is trusted
//!            32         body
//!
//! head        0      8  number
//!             8      8  base
//!            16      2  shard
//!            18      2  shards
//!            20     56  layout, log_start, next_block, described_block, epoch, next_topic, next_segment
//!            76      8  at_ms
//!            84      1  flags: 1 has a base, 2 clean
//!
//! trailer     0      8  edit_count: pieces in the file
//!             8      8  body_bytes of all frames before
//!            16      4  frames before
//!            20      4  crc of all frame headers before, which carry the checksums of their bodies
//!
//! piece       0      1  kind: 1 topic, 2 more ranges of the topic before, 3 drop, 4 segment, 5 run,
//!                       6 more of the run before, 7 remove segment, 8 key, 9 router, 10 router drop,
//!                       11 link, 12 link gone, 13 trims of the topic before, 14 jobs
//!             1      4  body_bytes
//!             5         body
//!   topic               8 id, 8 each: head, reserved, floor_cap, floor_ttl, floor_source, count,
//!                       bytes, last_write_ts; 2 name_bytes, name, config (`config`), ranges
//!   more ranges         8 id, ranges
//!   ranges              4 vacant_count, 4 deleted_count, then 8 first and 8 last seq each
//!   drop                8 id
//!   segment             8 id, 8 file_bytes, 1 shared: 0 no, 1 yes
//!   run, more           8 segment, run as in `segment::format`
//!   remove segment      8 id
//!   key                 8 topic, 16 key_hash, 8 first_seq, 8 ts, 4 count
//!   router              as in `router`
//!   router drop         8 id
//!   link                as in `router`
//!   link gone           8 id
//!   trims               8 topic, 4 count, then 8 first and 8 last seq each
//!   jobs                8 topic, then for each: 8 seq, 1 state: 0 ready, 1 leased, 2 delayed,
//!                       4 deliveries, 4 bytes, 8 at, 16 token, 1 node_bytes, node
//! ```
//!
//! An edit is one piece, or several if it is large: a piece never exceeds a frame.

use super::{CheckpointHead, Dedup, Edit, JOBS_PER_EDIT_MAX, TopicState};
use crate::config::{TopicConfig, is_topic_name};
use crate::error::FormatError;
use crate::ids::{Lsn, RouterId, SegmentId, TopicId};
use crate::limits::{FILTER_BYTES_MAX, NAME_BYTES_MAX, NODE_BYTES_MAX};
use crate::queue::{JobState, LeaseToken, StoredJob};
use crate::router::{LinkState, RouterDef};
use crate::segment::Run;
use crate::segment::format::{Cursor, is_sound, put_run, take_run};
use crc32c::crc32c;

/// Version of the file format.
pub const VERSION: u16 = 1;
/// Bytes of a frame before its body.
pub const FRAME_HEADER_BYTES: usize = 32;
/// Largest body of a frame.
pub const FRAME_BODY_BYTES_MAX: usize = (256 << 10) - FRAME_HEADER_BYTES;
/// Bytes of a piece before its body.
pub const PIECE_HEADER_BYTES: usize = 5;
/// Ranges, and blocks or tag sections, in one piece.
pub const PIECE_ITEMS_MAX: usize = 1024;

const MAGIC: &[u8; 4] = b"RCKP";
const HEAD_BYTES: usize = 85;
/// Bytes of a job without its node.
const JOB_BYTES: usize = 42;
const TRAILER_BYTES: usize = 24;

// A full piece of a run, and of a topic whose configuration is as large as its form allows.
const _: () = assert!(PIECE_HEADER_BYTES + 24 + PIECE_ITEMS_MAX * (57 + 28) < FRAME_BODY_BYTES_MAX);
const _: () =
    assert!(PIECE_HEADER_BYTES + 90 + 2 * (u16::MAX as usize) + PIECE_ITEMS_MAX * 32 < FRAME_BODY_BYTES_MAX);
const _: () =
    assert!(PIECE_HEADER_BYTES + 8 + JOBS_PER_EDIT_MAX * (JOB_BYTES + NODE_BYTES_MAX) < FRAME_BODY_BYTES_MAX);

const _: () = assert!(PIECE_HEADER_BYTES + 64 + 3 * NAME_BYTES_MAX + FILTER_BYTES_MAX < FRAME_BODY_BYTES_MAX);

/// Kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// The first.
    Head = 1,
    /// Pieces.
    Edits = 2,
    /// The last.
    Trailer = 3,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the body is.
    pub kind: FrameKind,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// Which frame of the file.
    pub index: u32,
    /// Of which checkpoint.
    pub number: u64,
    /// Checksum of the body.
    pub body_crc: u32,
}

/// Why a frame header is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// Checksum, magic or contents do not hold.
    Damaged,
    /// Whole, but of a version this program does not know (I-99).
    Version(u16),
}

impl FrameHeader {
    /// The header as bytes.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0; FRAME_HEADER_BYTES];
        out[0..4].copy_from_slice(MAGIC);
        out[4..6].copy_from_slice(&VERSION.to_le_bytes());
        out[6] = self.kind as u8;
        out[8..12].copy_from_slice(&self.body_bytes.to_le_bytes());
        out[12..16].copy_from_slice(&self.index.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..28].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32c(&out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header whose checksum holds and whose body is within its bound.
    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<FrameHeader, HeaderFault> {
        if bytes[..4] != *MAGIC || crc32c(&bytes[..28]).to_le_bytes() != bytes[28..] {
            return Err(HeaderFault::Damaged);
        }
        let mut cursor = Cursor(&bytes[4..]);
        let version = cursor.u16().expect("inside the header");
        if version != VERSION {
            return Err(HeaderFault::Version(version));
        }
        let mut read = || {
            let kind = match cursor.u16()? {
                1 => FrameKind::Head,
                2 => FrameKind::Edits,
                3 => FrameKind::Trailer,
                _ => return None,
            };
            let body_bytes = cursor.u32().filter(|&bytes| bytes as usize <= FRAME_BODY_BYTES_MAX)?;
            let (index, number, body_crc) = (cursor.u32()?, cursor.u64()?, cursor.u32()?);
            Some(FrameHeader { kind, body_bytes, index, number, body_crc })
        };
        read().ok_or(HeaderFault::Damaged)
    }
}

/// The head's body.
pub fn encode_head(head: &CheckpointHead) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES);
    out.extend_from_slice(&head.number.to_le_bytes());
    out.extend_from_slice(&head.base.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&head.shard.to_le_bytes());
    out.extend_from_slice(&head.shards.to_le_bytes());
    let numbers = [
        head.layout,
        head.log_start.0,
        head.next_block,
        head.described_block,
        head.epoch,
        head.next_topic,
        head.next_segment,
    ];
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&head.at_ms.to_le_bytes());
    out.push(head.base.is_some() as u8 | (head.clean as u8) << 1);
    assert_eq!(out.len(), HEAD_BYTES);
    out
}

/// Reads a head's body.
pub fn decode_head(body: &[u8]) -> Result<CheckpointHead, FormatError> {
    let mut cursor = Cursor(body);
    let mut read = || {
        let (number, base) = (cursor.u64()?, cursor.u64()?);
        let mut head = CheckpointHead {
            number,
            base: None,
            shard: cursor.u16()?,
            shards: cursor.u16()?,
            layout: cursor.u64()?,
            log_start: Lsn(cursor.u64()?),
            next_block: cursor.u64()?,
            described_block: cursor.u64()?,
            epoch: cursor.u64()?,
            next_topic: cursor.u64()?,
            next_segment: cursor.u64()?,
            at_ms: cursor.i64()?,
            clean: false,
        };
        let flags = cursor.u8().filter(|flags| flags & !3 == 0)?;
        head.base = (flags & 1 != 0).then_some(base);
        head.clean = flags & 2 != 0;
        (cursor.0.is_empty() && head.base.is_none_or(|base| base < number)).then_some(head)
    };
    read().ok_or_else(|| FormatError::new("checkpoint head"))
}

/// What the trailer says of the frames before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Pieces.
    pub pieces: u64,
    /// Bytes of their bodies.
    pub body_bytes: u64,
    /// Frames.
    pub frames: u32,
    /// Checksum of their headers.
    pub headers_crc: u32,
}

impl Totals {
    /// Counts a frame in.
    pub fn add(&mut self, header: &[u8; FRAME_HEADER_BYTES], body_bytes: usize) {
        self.frames += 1;
        self.body_bytes += body_bytes as u64;
        self.headers_crc = crc32c::crc32c_append(self.headers_crc, header);
    }

    /// The trailer's body.
    pub fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut out = [0; TRAILER_BYTES];
        out[..8].copy_from_slice(&self.pieces.to_le_bytes());
        out[8..16].copy_from_slice(&self.body_bytes.to_le_bytes());
        out[16..20].copy_from_slice(&self.frames.to_le_bytes());
        out[20..].copy_from_slice(&self.headers_crc.to_le_bytes());
        out
    }
}

/// An edit, or a part of a large one, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one at a time, on its way from a file into the tables")]
pub enum Piece {
    /// An edit, or the first part of one.
    Edit(Edit),
    /// Further vacant and deleted ranges of the topic that came last.
    MoreRanges(TopicId, Ranges, Ranges),
    /// Further blocks and sections of the run that came last.
    MoreRun(SegmentId, Run),
    /// Trims of the topic that came last.
    Trims(TopicId, Ranges),
}

/// Inclusive ranges of seqs.
pub type Ranges = Vec<(u64, u64)>;

/// Hands the stored pieces of an edit to `put`, each by itself.
pub fn encode_edit(edit: &Edit, piece: &mut Vec<u8>, mut put: impl FnMut(&[u8])) {
    let mut send = |kind: u8, fill: &dyn Fn(&mut Vec<u8>)| {
        piece.clear();
        piece.extend_from_slice(&[kind, 0, 0, 0, 0]);
        fill(piece);
        let body_bytes = piece.len() - PIECE_HEADER_BYTES;
        piece[1..PIECE_HEADER_BYTES].copy_from_slice(&(body_bytes as u32).to_le_bytes());
        put(piece);
    };
    match edit {
        Edit::Topic(state) => {
            for (index, (vacant, deleted)) in parts(&state.vacant, &state.deleted).enumerate() {
                let ranges = |out: &mut Vec<u8>| put_ranges(out, vacant, deleted);
                if index == 0 {
                    send(1, &|out| {
                        put_topic(out, state);
                        ranges(out);
                    });
                } else {
                    send(2, &|out| {
                        out.extend_from_slice(&state.id.0.to_le_bytes());
                        ranges(out);
                    });
                }
            }
            for trims in state.trims.chunks(PIECE_ITEMS_MAX) {
                send(13, &|out| {
                    out.extend_from_slice(&state.id.0.to_le_bytes());
                    out.extend_from_slice(&(trims.len() as u32).to_le_bytes());
                    trims.iter().for_each(|range| put_range(out, *range));
                });
            }
        }
        Edit::Drop(id) => send(3, &|out| out.extend_from_slice(&id.0.to_le_bytes())),
        Edit::AddSegment { id, file_bytes, shared } => send(4, &|out| {
            out.extend_from_slice(&id.0.to_le_bytes());
            out.extend_from_slice(&file_bytes.to_le_bytes());
            out.push(*shared as u8);
        }),
        Edit::AddRun(segment, run) => {
            assert!(is_sound(run), "a run that could not be read back: {run:?}");
            for (index, (blocks, tags)) in parts(&run.blocks, &run.tags).enumerate() {
                send(if index == 0 { 5 } else { 6 }, &|out| {
                    out.extend_from_slice(&segment.0.to_le_bytes());
                    put_run(out, run.topic, blocks, tags);
                });
            }
        }
        Edit::RemoveSegment(id) => send(7, &|out| out.extend_from_slice(&id.0.to_le_bytes())),
        Edit::Dedup(dedup) => send(8, &|out| {
            out.extend_from_slice(&dedup.topic.0.to_le_bytes());
            out.extend_from_slice(&dedup.key_hash.to_le_bytes());
            out.extend_from_slice(&dedup.first_seq.to_le_bytes());
            out.extend_from_slice(&dedup.ts.to_le_bytes());
            out.extend_from_slice(&dedup.count.to_le_bytes());
        }),
        Edit::Router(def) => send(9, &|out| def.encode(out)),
        Edit::RouterDrop(id) => send(10, &|out| out.extend_from_slice(&id.0.to_le_bytes())),
        Edit::Link(link) => send(11, &|out| link.encode(false, out)),
        Edit::LinkGone(id) => send(12, &|out| out.extend_from_slice(&id.0.to_le_bytes())),
        Edit::Leases(topic, jobs) => send(14, &|out| {
            out.extend_from_slice(&topic.0.to_le_bytes());
            jobs.iter().for_each(|job| put_job(out, job));
        }),
    }
}

/// Cuts two lists into parts small enough for a piece; at least one.
fn parts<'a, A, B>(a: &'a [A], b: &'a [B]) -> impl Iterator<Item = (&'a [A], &'a [B])> {
    let count = a.len().max(b.len()).div_ceil(PIECE_ITEMS_MAX).max(1);
    (0..count).map(move |index| (part(a, index), part(b, index)))
}

fn part<T>(list: &[T], index: usize) -> &[T] {
    let start = (index * PIECE_ITEMS_MAX).min(list.len());
    &list[start..(start + PIECE_ITEMS_MAX).min(list.len())]
}

fn put_topic(out: &mut Vec<u8>, state: &TopicState) {
    assert!(is_topic_name(&state.name), "a topic without a legal name could not be read back");
    let numbers = [
        state.id.0,
        state.head,
        state.reserved,
        state.floor_cap,
        state.floor_ttl,
        state.floor_source,
        state.count,
        state.bytes,
        state.last_write_ts as u64,
    ];
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&(state.name.len() as u16).to_le_bytes());
    out.extend_from_slice(&state.name);
    state.config.encode(out);
}

fn put_ranges(out: &mut Vec<u8>, vacant: &[(u64, u64)], deleted: &[(u64, u64)]) {
    out.extend_from_slice(&(vacant.len() as u32).to_le_bytes());
    out.extend_from_slice(&(deleted.len() as u32).to_le_bytes());
    vacant.iter().chain(deleted).for_each(|range| put_range(out, *range));
}

fn put_range(out: &mut Vec<u8>, (first, last): (u64, u64)) {
    assert!(first <= last, "an inclusive range has a seq");
    out.extend_from_slice(&first.to_le_bytes());
    out.extend_from_slice(&last.to_le_bytes());
}

/// Takes a piece off the front of a frame's body. Unknown kinds are refused (I-99).
pub fn take_piece(bytes: &mut &[u8]) -> Result<Piece, FormatError> {
    let mut cursor = Cursor(bytes);
    let kind = cursor.u8().ok_or_else(|| FormatError::new("checkpoint edit"))?;
    let body = cursor.u32().and_then(|body_bytes| cursor.bytes(body_bytes as usize));
    let body = body.ok_or_else(|| FormatError::new("checkpoint edit"))?;
    *bytes = cursor.0;
    let mut cursor = Cursor(body);
    let piece = match kind {
        1 => read_topic(&mut cursor).map(|state| Piece::Edit(Edit::Topic(state))),
        2 => read_more_ranges(&mut cursor),
        3 => cursor.u64().map(|id| Piece::Edit(Edit::Drop(TopicId(id)))),
        4 => read_segment(&mut cursor),
        5 => read_run(&mut cursor).map(|(segment, run)| Piece::Edit(Edit::AddRun(segment, run))),
        6 => read_run(&mut cursor).map(|(segment, run)| Piece::MoreRun(segment, run)),
        7 => cursor.u64().map(|id| Piece::Edit(Edit::RemoveSegment(SegmentId(id)))),
        8 => read_dedup(&mut cursor).map(|dedup| Piece::Edit(Edit::Dedup(dedup))),
        9 => RouterDef::decode(take_all(&mut cursor)).ok().map(|def| Piece::Edit(Edit::Router(def))),
        10 => cursor.u64().map(|id| Piece::Edit(Edit::RouterDrop(RouterId(id)))),
        11 => match LinkState::decode(take_all(&mut cursor)) {
            Ok((link, false)) => Some(Piece::Edit(Edit::Link(link))),
            _ => None,
        },
        12 => cursor.u64().map(|id| Piece::Edit(Edit::LinkGone(RouterId(id)))),
        13 => read_trims(&mut cursor),
        14 => read_jobs(&mut cursor).map(|(topic, jobs)| Piece::Edit(Edit::Leases(topic, jobs))),
        _ => return Err(FormatError::new("checkpoint edit of an unknown kind")),
    };
    piece.filter(|_| cursor.0.is_empty()).ok_or_else(|| FormatError::new("checkpoint edit"))
}

fn take_all<'a>(cursor: &mut Cursor<'a>) -> &'a [u8] {
    std::mem::take(&mut cursor.0)
}

fn read_topic(cursor: &mut Cursor<'_>) -> Option<TopicState> {
    let id = TopicId(cursor.u64()?);
    let (head, reserved) = (cursor.u64()?, cursor.u64()?);
    let (floor_cap, floor_ttl, floor_source) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
    let (count, bytes, last_write_ts) = (cursor.u64()?, cursor.u64()?, cursor.i64()?);
    let name_bytes = cursor.u16()?;
    let name = cursor.bytes(name_bytes.into()).filter(|name| is_topic_name(name))?.to_vec();
    let (config, config_bytes) = TopicConfig::decode(cursor.0).ok()?;
    cursor.bytes(config_bytes)?;
    let (vacant, deleted) = read_ranges(cursor)?;
    Some(TopicState {
        id,
        name,
        config,
        head,
        reserved,
        floor_cap,
        floor_ttl,
        floor_source,
        count,
        bytes,
        vacant,
        deleted,
        trims: Vec::new(),
        last_write_ts,
    })
}

fn read_more_ranges(cursor: &mut Cursor<'_>) -> Option<Piece> {
    let id = TopicId(cursor.u64()?);
    let (vacant, deleted) = read_ranges(cursor)?;
    Some(Piece::MoreRanges(id, vacant, deleted))
}

fn read_ranges(cursor: &mut Cursor<'_>) -> Option<(Ranges, Ranges)> {
    let (vacant_count, deleted_count) = (cursor.u32()? as usize, cursor.u32()? as usize);
    Some((take_ranges(cursor, vacant_count)?, take_ranges(cursor, deleted_count)?))
}

fn read_trims(cursor: &mut Cursor<'_>) -> Option<Piece> {
    let (id, count) = (TopicId(cursor.u64()?), cursor.u32()? as usize);
    Some(Piece::Trims(id, take_ranges(cursor, count)?))
}

fn take_ranges(cursor: &mut Cursor<'_>, count: usize) -> Option<Ranges> {
    if count > cursor.0.len() / 16 {
        return None; // before anything is allocated for them
    }
    let mut ranges = Vec::with_capacity(count);
    for _ in 0..count {
        let (first, last) = (cursor.u64()?, cursor.u64()?);
        if first > last {
            return None;
        }
        ranges.push((first, last));
    }
    Some(ranges)
}

fn read_segment(cursor: &mut Cursor<'_>) -> Option<Piece> {
    let (id, file_bytes) = (SegmentId(cursor.u64()?), cursor.u64()?);
    let shared = match cursor.u8()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    Some(Piece::Edit(Edit::AddSegment { id, file_bytes, shared }))
}

fn read_run(cursor: &mut Cursor<'_>) -> Option<(SegmentId, Run)> {
    let segment = SegmentId(cursor.u64()?);
    let run = take_run(&mut cursor.0).ok()?;
    Some((segment, run))
}

fn put_job(out: &mut Vec<u8>, job: &StoredJob) {
    out.extend_from_slice(&job.seq.to_le_bytes());
    out.push(job.state as u8);
    out.extend_from_slice(&job.deliveries.to_le_bytes());
    out.extend_from_slice(&job.bytes.to_le_bytes());
    out.extend_from_slice(&job.at.to_le_bytes());
    out.extend_from_slice(&job.token.0.to_le_bytes());
    assert!(job.node.len() <= NODE_BYTES_MAX, "a worker's name is bounded");
    out.push(job.node.len() as u8);
    out.extend_from_slice(&job.node);
}

fn read_jobs(cursor: &mut Cursor<'_>) -> Option<(TopicId, Vec<StoredJob>)> {
    let topic = TopicId(cursor.u64()?);
    let mut jobs = Vec::new();
    while !cursor.0.is_empty() {
        let seq = cursor.u64()?;
        let state = match cursor.u8()? {
            0 => JobState::Ready,
            1 => JobState::Leased,
            2 => JobState::Delayed,
            _ => return None,
        };
        let (deliveries, bytes, at) = (cursor.u32()?, cursor.u32()?, cursor.i64()?);
        let token = u128::from_le_bytes(cursor.bytes(16)?.try_into().expect("sixteen bytes"));
        let node_bytes = usize::from(cursor.u8()?);
        let node = cursor.bytes(node_bytes).filter(|node| node.len() <= NODE_BYTES_MAX)?.to_vec();
        jobs.push(StoredJob { seq, state, deliveries, bytes, at, token: LeaseToken(token), node });
    }
    Some((topic, jobs))
}

fn read_dedup(cursor: &mut Cursor<'_>) -> Option<Dedup> {
    let topic = TopicId(cursor.u64()?);
    let key_hash = u128::from_le_bytes(cursor.bytes(16)?.try_into().expect("sixteen bytes"));
    let (first_seq, ts) = (cursor.u64()?, cursor.i64()?);
    Some(Dedup { topic, key_hash, first_seq, count: cursor.u32()?, ts })
}
