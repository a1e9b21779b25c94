//! Loading: the newest checkpoint whose whole chain holds. A chain is applied while it is read, and
//! thrown away as a whole if any byte of it does not hold.

use super::format::{
    FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, FrameKind, HeaderFault, Piece, Totals,
    decode_head, take_piece,
};
use super::{
    CheckpointError, CheckpointHead, Dedup, Edit, Name, TopicState, file_name, job_edits, parse_name,
};
use crate::aside::Effort;
use crate::disk::{FileId, Io, OpenMode};
use crate::error::{DiskError, FormatError};
use crate::ids::{RouterId, SegmentId, TopicId};
use crate::limits::BLOCK_BYTES;
use crate::mem::AlignedBuf;
use crate::queue::StoredJob;
use crate::router::{LinkState, RouterDef};
use crate::segment::Run;
use crate::segment::format::is_sound;
use crc32c::crc32c;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;

/// A segment as of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentState {
    /// Bytes of its file.
    pub file_bytes: u64,
    /// Whether topics share it.
    pub shared: bool,
}

/// What a checkpoint and those below it came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The newest checkpoint's head. The caller must see that the log reaches back to its
    /// `log_start`: if newer checkpoints were skipped it may not.
    pub head: CheckpointHead,
    /// The topics.
    pub topics: BTreeMap<TopicId, TopicState>,
    /// The segments.
    pub segments: BTreeMap<SegmentId, SegmentState>,
    /// The runs of topics that were not dropped, by segment and topic.
    pub runs: Vec<(SegmentId, Run)>,
    /// The keys, by topic and hash. Some may have expired.
    pub dedup: Vec<Dedup>,
    /// The routers.
    pub routers: BTreeMap<RouterId, RouterDef>,
    /// How far routers have come, of those whose dest was not dropped.
    pub links: BTreeMap<RouterId, LinkState>,
    /// What jobs of queues are doing.
    pub leases: BTreeMap<TopicId, Vec<StoredJob>>,
    /// Numbers used, from the full one to the newest.
    pub chain: Vec<u64>,
    /// Names of newer checkpoints that were not used, and why.
    pub skipped: Vec<(String, String)>,
    /// Highest number that exists, used or not: the next one goes above.
    pub highest: u64,
}

impl Loaded {
    /// The same state as the edits of one full checkpoint, without keys that `is_live` lets go.
    pub fn into_edits(self, is_live: impl Fn(&TopicState, &Dedup) -> bool) -> Vec<Edit> {
        let mut edits = Vec::new();
        let mut runs: BTreeMap<SegmentId, Vec<Run>> = BTreeMap::new();
        for (id, run) in self.runs {
            runs.entry(id).or_default().push(run);
        }
        for (id, SegmentState { file_bytes, shared }) in self.segments {
            edits.push(Edit::AddSegment { id, file_bytes, shared });
            edits.extend(runs.remove(&id).into_iter().flatten().map(|run| Edit::AddRun(id, run)));
        }
        let live = |key: &Dedup| self.topics.get(&key.topic).is_some_and(|topic| is_live(topic, key));
        let keys: Vec<Edit> =
            self.dedup.iter().filter(|key| live(key)).map(|key| Edit::Dedup(*key)).collect();
        // Topics first: runs, keys and jobs are theirs.
        let mut all: Vec<Edit> = self.topics.into_values().map(Edit::Topic).collect();
        all.extend(self.leases.iter().flat_map(|(topic, jobs)| job_edits(*topic, jobs)));
        all.extend(edits);
        all.extend(keys);
        all.extend(self.routers.into_values().map(Edit::Router));
        all.extend(self.links.into_values().map(Edit::Link));
        all
    }
}

/// Loads the newest usable checkpoint of `dir`; `None` if there never was one.
pub async fn load(io: &Io, dir: &str) -> Result<Option<Loaded>, CheckpointError> {
    let names = io.list(dir).await;
    let names = names.map_err(|error| CheckpointError::Disk { path: dir.to_owned(), error })?;
    let mut numbers: BTreeSet<u64> = BTreeSet::new();
    for (name, _) in &names {
        if let Name::Checkpoint(number) = parse_name(name) {
            numbers.insert(number);
        }
    }
    let Some(&highest) = numbers.last() else { return Ok(None) };
    let mut bad: BTreeMap<u64, Fault> = BTreeMap::new();
    let mut skipped = Vec::new();
    for &candidate in numbers.iter().rev() {
        match load_chain(io, dir, candidate, &numbers, &mut bad).await {
            Ok(loaded) => return Ok(Some(Loaded { skipped, highest, ..loaded })),
            Err(at) => {
                let fault = &bad[&at];
                let reason = match at == candidate {
                    true => fault.to_string(),
                    false => format!("rests on {}, which is {fault}", file_name(at)),
                };
                skipped.push((file_name(candidate), reason));
            }
        }
    }
    Err(CheckpointError::NoneValid { skipped })
}

/// Why a checkpoint cannot be used, for tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// In words.
    pub why: String,
    /// It is whole as far as it was looked at; one that it rests on is not there.
    pub is_base_missing: bool,
    /// It, or one that it rests on, is of a format version that this program does not know (I-99).
    pub is_version: bool,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// Loads one checkpoint and what it rests on, or says why that cannot be used: for tools, which want to
/// know of each.
pub async fn load_one(io: &Io, dir: &str, number: u64) -> Result<Loaded, Unusable> {
    let unlisted =
        |error| Unusable { why: format!("{dir}: {error}"), is_base_missing: false, is_version: false };
    let names = io.list(dir).await.map_err(unlisted)?;
    let numbers = names.iter().filter_map(|(name, _)| match parse_name(name) {
        Name::Checkpoint(number) => Some(number),
        _ => None,
    });
    let mut bad = BTreeMap::new();
    load_chain(io, dir, number, &numbers.collect(), &mut bad).await.map_err(|at| {
        let (fault, is_base) = (&bad[&at], at != number);
        Unusable {
            why: match is_base {
                false => fault.to_string(),
                true => format!("rests on {}, which is {fault}", file_name(at)),
            },
            is_base_missing: is_base && matches!(fault, Fault::Missing),
            is_version: matches!(fault, Fault::Version(_)),
        }
    })
}

/// Why a checkpoint file cannot be used.
#[derive(Clone, Debug)]
enum Fault {
    Missing,
    Unreadable(DiskError),
    Version(u16),
    Damaged { what: &'static str, offset: u64 },
    Refused { why: String, offset: u64 },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Missing => write!(f, "missing"),
            Fault::Unreadable(error) => write!(f, "unreadable: {error}"),
            Fault::Version(version) => write!(f, "of format version {version}, which is not known"),
            Fault::Damaged { what, offset } => write!(f, "damaged: {what} at offset {offset}"),
            Fault::Refused { why, offset } => write!(f, "refused: {why} in the frame at offset {offset}"),
        }
    }
}

/// Loads `newest` and all it rests on. On failure the number at fault, which is now in `bad`.
async fn load_chain(
    io: &Io,
    dir: &str,
    newest: u64,
    numbers: &BTreeSet<u64>,
    bad: &mut BTreeMap<u64, Fault>,
) -> Result<Loaded, u64> {
    let mut heads: Vec<CheckpointHead> = Vec::new();
    let mut next = Some(newest);
    while let Some(number) = next {
        if bad.contains_key(&number) {
            return Err(number);
        }
        let result = match numbers.contains(&number) {
            true => read_head(io, dir, number).await,
            false => Err(Fault::Missing),
        };
        match result {
            Ok(head) => {
                heads.push(head);
                next = head.base; // lower than `number`, so this ends
            }
            Err(fault) => {
                bad.insert(number, fault);
                return Err(number);
            }
        }
    }
    let mut state = State::default();
    for head in heads.iter().rev() {
        if let Err(fault) = apply_file(io, dir, head, &mut state).await {
            bad.insert(head.number, fault);
            return Err(head.number);
        }
    }
    let State { topics, segments, mut runs, mut dedup, leases, routers, mut links, dropped } = state;
    runs.retain(|(_, topic), _| !dropped.contains(topic));
    dedup.retain(|(topic, _), _| !dropped.contains(topic));
    links.retain(|_, link| !dropped.contains(&link.dest));
    Ok(Loaded {
        head: heads[0],
        topics,
        segments,
        runs: runs.into_iter().map(|((segment, _), run)| (segment, run)).collect(),
        dedup: dedup.into_values().collect(),
        routers,
        links,
        leases,
        chain: heads.iter().rev().map(|head| head.number).collect(),
        skipped: Vec::new(),
        highest: newest,
    })
}

async fn read_head(io: &Io, dir: &str, number: u64) -> Result<CheckpointHead, Fault> {
    with_file(io, dir, number, async |file| {
        let mut frames = Frames::new(io, file, number);
        frames.head().await
    })
    .await
}

async fn apply_file(io: &Io, dir: &str, head: &CheckpointHead, state: &mut State) -> Result<(), Fault> {
    with_file(io, dir, head.number, async |file| {
        let mut frames = Frames::new(io, file, head.number);
        if frames.head().await? != *head {
            return Err(Fault::Damaged { what: "head", offset: 0 });
        }
        let mut effort = Effort::default();
        loop {
            let (kind, body, offset) = frames.next().await?;
            match kind {
                FrameKind::Head => return Err(Fault::Damaged { what: "second head", offset }),
                FrameKind::Trailer => return frames.end(&body, offset).await,
                FrameKind::Edits => {
                    let mut rest = &body[..];
                    while !rest.is_empty() {
                        let before = rest.len();
                        let refused = |error: FormatError| Fault::Refused { why: error.to_string(), offset };
                        let piece = take_piece(&mut rest).map_err(refused)?;
                        frames.totals.pieces += 1;
                        let wrong = |why: &str| Fault::Refused { why: why.to_owned(), offset };
                        state.apply(piece).map_err(wrong)?;
                        effort.spend(before - rest.len()).await;
                    }
                }
            }
        }
    })
    .await
}

async fn with_file<T>(
    io: &Io,
    dir: &str,
    number: u64,
    read: impl AsyncFnOnce(FileId) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let path = format!("{dir}/{}", file_name(number));
    let file = io.open(&path, OpenMode::Read).await.map_err(Fault::Unreadable)?;
    let result = read(file).await;
    io.close(file).await;
    result
}

/// The frames of a file, one after the other, with a bounded part of it in memory.
struct Frames<'a> {
    io: &'a Io,
    file: FileId,
    number: u64,
    /// Bytes read and not yet used, from `used` on.
    window: Vec<u8>,
    used: usize,
    /// Offset in the file behind the window.
    read_to: u64,
    /// What the trailer must say.
    totals: Totals,
}

impl<'a> Frames<'a> {
    fn new(io: &'a Io, file: FileId, number: u64) -> Frames<'a> {
        Frames { io, file, number, window: Vec::new(), used: 0, read_to: 0, totals: Totals::default() }
    }

    async fn head(&mut self) -> Result<CheckpointHead, Fault> {
        let (kind, body, offset) = self.next().await?;
        let head = decode_head(&body).ok().filter(|head| head.number == self.number);
        head.filter(|_| kind == FrameKind::Head).ok_or(Fault::Damaged { what: "head", offset })
    }

    /// The next frame: kind, body, offset in the file.
    async fn next(&mut self) -> Result<(FrameKind, Vec<u8>, u64), Fault> {
        let offset = self.offset();
        let cut = Fault::Damaged { what: "end, the file is cut", offset };
        let damaged = |what| Fault::Damaged { what, offset };
        if !self.fill(FRAME_HEADER_BYTES).await? {
            return Err(cut);
        }
        let header_bytes: [u8; FRAME_HEADER_BYTES] =
            self.window[self.used..self.used + FRAME_HEADER_BYTES].try_into().expect("just filled");
        let header = FrameHeader::decode(&header_bytes).map_err(|fault| match fault {
            HeaderFault::Damaged => damaged("frame header"),
            HeaderFault::Version(version) => Fault::Version(version),
        })?;
        if header.number != self.number || header.index != self.totals.frames {
            return Err(damaged("frame, it belongs elsewhere"));
        }
        self.used += FRAME_HEADER_BYTES;
        let body_bytes = header.body_bytes as usize;
        assert!(body_bytes <= FRAME_BODY_BYTES_MAX, "the header was checked");
        if !self.fill(body_bytes).await? {
            return Err(cut);
        }
        let body = self.window[self.used..self.used + body_bytes].to_vec();
        if crc32c(&body) != header.body_crc {
            return Err(damaged("frame"));
        }
        self.used += body_bytes;
        if header.kind != FrameKind::Trailer {
            self.totals.add(&header_bytes, body_bytes);
        }
        Ok((header.kind, body, offset))
    }

    /// After the trailer: it speaks of these frames, and only zeros to the end of its block follow.
    async fn end(&mut self, trailer: &[u8], offset: u64) -> Result<(), Fault> {
        if trailer != self.totals.encode() {
            return Err(Fault::Damaged { what: "trailer", offset });
        }
        let end = self.offset();
        let padding = (end.next_multiple_of(BLOCK_BYTES as u64) - end) as usize;
        let zeros = self.fill(padding).await? && !self.fill(padding + 1).await?;
        if !zeros || self.window[self.used..].iter().any(|&byte| byte != 0) {
            return Err(Fault::Damaged { what: "padding", offset: end });
        }
        Ok(())
    }

    fn offset(&self) -> u64 {
        self.read_to - (self.window.len() - self.used) as u64
    }

    /// Reads on until `bytes` are there; false if the file ends before.
    async fn fill(&mut self, bytes: usize) -> Result<bool, Fault> {
        while self.window.len() - self.used < bytes {
            // A read that ended inside a block was the last one.
            if !self.read_to.is_multiple_of(BLOCK_BYTES as u64) {
                return Ok(false);
            }
            self.window.drain(..self.used);
            self.used = 0;
            let read = self.io.read(self.file, self.read_to, AlignedBuf::zeroed(READ_BYTES)).await;
            let (buf, got) = read.map_err(Fault::Unreadable)?;
            if got == 0 {
                return Ok(false);
            }
            self.window.extend_from_slice(&buf[..got]);
            self.read_to += got as u64;
        }
        Ok(true)
    }
}

/// The sum of the edits so far.
#[derive(Default)]
struct State {
    topics: BTreeMap<TopicId, TopicState>,
    segments: BTreeMap<SegmentId, SegmentState>,
    runs: BTreeMap<(SegmentId, TopicId), Run>,
    dedup: BTreeMap<(TopicId, u128), Dedup>,
    routers: BTreeMap<RouterId, RouterDef>,
    links: BTreeMap<RouterId, LinkState>,
    leases: BTreeMap<TopicId, Vec<StoredJob>>,
    dropped: BTreeSet<TopicId>,
}

impl State {
    fn apply(&mut self, piece: Piece) -> Result<(), &'static str> {
        match piece {
            Piece::Edit(Edit::Topic(state)) => {
                if self.dropped.contains(&state.id) {
                    return Err("a dropped topic that comes back");
                }
                self.leases.remove(&state.id);
                self.topics.insert(state.id, state);
            }
            Piece::Edit(Edit::Leases(id, jobs)) => {
                if !self.topics.contains_key(&id) {
                    return Err("jobs of an unknown topic");
                }
                self.leases.entry(id).or_default().extend(jobs);
            }
            Piece::MoreRanges(id, vacant, deleted) => {
                let state = self.topics.get_mut(&id).ok_or("ranges of an unknown topic")?;
                state.vacant.extend(vacant);
                state.deleted.extend(deleted);
            }
            Piece::Edit(Edit::Drop(id)) => {
                self.topics.remove(&id);
                self.leases.remove(&id);
                self.dropped.insert(id);
            }
            Piece::Edit(Edit::AddSegment { id, file_bytes, shared }) => {
                if self.segments.insert(id, SegmentState { file_bytes, shared }).is_some() {
                    return Err("a segment that is there already");
                }
            }
            Piece::Edit(Edit::AddRun(segment, run)) => {
                if !self.segments.contains_key(&segment) {
                    return Err("a run of an unknown segment");
                }
                if self.runs.insert((segment, run.topic), run).is_some() {
                    return Err("a run that is there already");
                }
            }
            Piece::MoreRun(segment, more) => {
                let run = self.runs.get_mut(&(segment, more.topic)).ok_or("more of an unknown run")?;
                let (blocks, tags) = (run.blocks.len(), run.tags.len());
                run.blocks.extend(more.blocks);
                run.tags.extend(more.tags);
                // Both parts are sound; what may not be is where they meet.
                let seam = Run {
                    topic: run.topic,
                    blocks: run.blocks[blocks.saturating_sub(1)..].iter().take(2).copied().collect(),
                    tags: run.tags[tags.saturating_sub(1)..].iter().take(2).copied().collect(),
                };
                if !is_sound(&seam) {
                    return Err("more of a run, out of order");
                }
            }
            Piece::Edit(Edit::RemoveSegment(id)) => {
                if self.segments.remove(&id).is_none() {
                    return Err("the end of an unknown segment");
                }
                let runs = self.runs.range((id, TopicId(0))..=(id, TopicId(u64::MAX)));
                let gone: Vec<_> = runs.map(|(key, _)| *key).collect();
                for key in gone {
                    self.runs.remove(&key);
                }
            }
            Piece::Edit(Edit::Dedup(dedup)) => {
                self.dedup.insert((dedup.topic, dedup.key_hash), dedup);
            }
            Piece::Trims(id, trims) => {
                self.topics.get_mut(&id).ok_or("trims of an unknown topic")?.trims.extend(trims);
            }
            Piece::Edit(Edit::Router(def)) => drop(self.routers.insert(def.id, def)),
            Piece::Edit(Edit::RouterDrop(id)) => drop(self.routers.remove(&id)),
            Piece::Edit(Edit::Link(link)) => drop(self.links.insert(link.router, link)),
            Piece::Edit(Edit::LinkGone(id)) => drop(self.links.remove(&id)),
        }
        Ok(())
    }
}
