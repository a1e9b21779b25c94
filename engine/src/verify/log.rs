//! The log of one shard, file by file: where its blocks end, and whether that is an end, a torn tail or
//! damage, by the rules of recovery (I-93, I-94). Recovery reads only what the newest checkpoint leaves to
//! be read; here the files before that are looked at too, which an older checkpoint would need.

use super::seqs_of;
use crate::checkpoint::CheckpointHead;
use crate::disk::{FileId, Io, OpenMode};
use crate::error::DiskError;
use crate::ids::TopicId;
use crate::limits::{BLOCK_BYTES, CHUNK_BYTES};
use crate::mem::AlignedBuf;
use crate::wal::files;
use crate::wal::format::{BLOCK_HEADER_BYTES, BlockHeader, FileHeader, UNKNOWN_BLOCK, is_unknown_version};
use crate::wal::walk::{Gap, Place, walk_chunk};
use std::collections::BTreeMap;

/// A whole block, on its way to whoever looks into it.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// Number of its file.
    pub file: u64,
    /// Name of its file.
    pub name: &'a str,
    /// Where in the file.
    pub offset: u64,
    /// Its header.
    pub header: BlockHeader,
    /// Its entries.
    pub payload: &'a [u8],
    /// It lies behind a place that does not hold: recovery would not see it.
    pub after_gap: bool,
}

/// A log file as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFile {
    /// Its name.
    pub name: String,
    /// The slot that the name stands for.
    pub slot: u32,
    /// Its place in the log, if it has a header.
    pub number: Option<u64>,
    /// The run that prepared it.
    pub epoch: Option<u64>,
    /// Its first and last blocks before any gap.
    pub first_block: Option<u64>,
    /// See `first_block`.
    pub last_block: Option<u64>,
    /// How many.
    pub blocks: u64,
    /// Bytes of their entries.
    pub payload_bytes: u64,
    /// Where the blocks end, if not with the file.
    pub gap_offset: Option<u64>,
    /// What is there instead.
    pub gap: Option<String>,
    /// Whole blocks behind that.
    pub blocks_after: u64,
    /// `full`, `end` (of the log), `empty`, `torn tail`, `cut` (by a recovery), `damaged`, `behind a gap`,
    /// `spare`, `unfinished`, `recycled`, `unreadable`.
    pub state: &'static str,
}

/// What is to be said of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogVerdict {
    /// Something durable does not hold.
    Damage,
    /// The file ends early: what may have been behind its end has left no trace.
    Short,
    /// A format version that this program does not know.
    Version,
    /// A trace of an unfinished write.
    Torn,
}

/// A place worth a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFinding {
    /// What kind of word.
    pub verdict: LogVerdict,
    /// Name of the file; none if one is missing.
    pub name: Option<String>,
    /// Number of the file, if it is known.
    pub number: Option<u64>,
    /// Where in it.
    pub offset: Option<u64>,
    /// In words.
    pub what: String,
    /// First and last seqs in whole blocks that a log without this place would not reach.
    pub at_risk: BTreeMap<TopicId, (u64, u64)>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct LogOutcome {
    /// Every log file, in order of names.
    pub files: Vec<LogFile>,
    /// What is to be said.
    pub findings: Vec<LogFinding>,
}

impl LogOutcome {
    fn say(
        &mut self,
        verdict: LogVerdict,
        file: usize,
        offset: Option<u64>,
        what: String,
    ) -> &mut LogFinding {
        let LogFile { name, number, .. } = &self.files[file];
        let (name, number) = (Some(name.clone()), *number);
        self.findings.push(LogFinding { verdict, name, number, offset, what, at_risk: BTreeMap::new() });
        self.findings.last_mut().expect("just pushed")
    }

    /// Something that should be there is not. Unless it is in a file that nobody here can read.
    fn missing(&mut self, number: Option<u64>, what: String) {
        if self.findings.iter().any(|finding| finding.verdict == LogVerdict::Version) {
            return;
        }
        let (verdict, at_risk) = (LogVerdict::Damage, BTreeMap::new());
        self.findings.push(LogFinding { verdict, name: None, number, offset: None, what, at_risk });
    }
}

/// A place where the next block was expected and not found.
struct Open {
    file: usize,
    offset: u64,
    /// Its number, if it is known.
    expected: Option<u64>,
    why: Why,
    /// Whole blocks behind it.
    later: u64,
    /// One of them says that this one was durable.
    durable: bool,
    at_risk: BTreeMap<TopicId, (u64, u64)>,
}

/// What is there instead of the expected block.
enum Why {
    Gap(Gap),
    Other(String),
}

impl Why {
    /// Whether something was written there.
    fn is_dirty(&self) -> bool {
        match self {
            Why::Gap(gap) => matches!(gap, Gap::Header | Gap::Payload | Gap::Version),
            Why::Other(_) => true,
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::Gap(gap) => gap.fmt(f),
            Why::Other(text) => f.write_str(text),
        }
    }
}

/// The end of the log so far.
struct Chain {
    file_number: u64,
    epoch: u64,
    expected: Option<u64>,
    prev_crc: Option<u32>,
    open: Option<Open>,
}

struct Walk<'a> {
    io: &'a Io,
    dir: &'a str,
    /// The newest checkpoint that holds.
    head: Option<&'a CheckpointHead>,
    outcome: LogOutcome,
    chain: Option<Chain>,
    /// First and last seqs of topics in the blocks that hold.
    read: BTreeMap<TopicId, (u64, u64)>,
}

/// Walks the log files of a shard's directory, oldest first. `names` are what is in it; `head` is of the
/// newest checkpoint that holds.
pub async fn walk_log(
    io: &Io,
    dir: &str,
    names: &[(String, u64)],
    head: Option<&CheckpointHead>,
    visit: &mut dyn FnMut(Block<'_>),
) -> LogOutcome {
    let mut walk = Walk { io, dir, head, outcome: LogOutcome::default(), chain: None, read: BTreeMap::new() };
    let mut headed = walk.headers(names).await;
    headed.sort_by_key(|(header, has_blocks, _)| (header.number, header.epoch, *has_blocks));
    let headed: Vec<(FileHeader, usize)> =
        headed.into_iter().map(|(header, _, index)| (header, index)).collect();
    for at in 0..headed.len() {
        let (header, index) = &headed[at];
        // A recycled file may leave two of one number: the later epoch has it.
        if headed.get(at + 1).is_some_and(|(next, _)| next.number == header.number) {
            walk.outcome.files[*index].state = "spare";
            continue;
        }
        walk.begin_file(header, *index);
        let path = format!("{dir}/{}", walk.outcome.files[*index].name);
        let read = match io.open(&path, OpenMode::Read).await {
            Ok(file) => {
                let read = walk.walk_file(header, *index, file, visit).await;
                io.close(file).await;
                read
            }
            Err(error) => Err(error),
        };
        if let Err(error) = read {
            walk.outcome.files[*index].state = "unreadable";
            walk.outcome.say(LogVerdict::Damage, *index, None, error.to_string());
        }
        if !matches!(read_header(io, &path).await, Ok((_, Ok(Some(now)))) if now == *header) {
            // A running server has put it to new use while we read.
            walk.outcome.files[*index].state = "recycled";
            walk.chain = None;
        }
    }
    walk.end();
    walk.outcome
}

type Header = Result<Option<FileHeader>, crate::error::FormatError>;

/// The header of a file and how many bytes of its block are there.
async fn read_header(io: &Io, path: &str) -> Result<(usize, Header), DiskError> {
    let file = io.open(path, OpenMode::Read).await?;
    let read = io.read(file, 0, AlignedBuf::zeroed(BLOCK_BYTES)).await;
    io.close(file).await;
    let (block, filled) = read?;
    Ok((filled, FileHeader::decode(&block[..filled])))
}

async fn has_block(io: &Io, path: &str) -> bool {
    let Ok(file) = io.open(path, OpenMode::Read).await else { return false };
    let read = io.read(file, BLOCK_BYTES as u64, AlignedBuf::zeroed(CHUNK_BYTES)).await;
    io.close(file).await;
    read.is_ok_and(|(bytes, filled)| BlockHeader::decode(&bytes[..filled]).is_ok())
}

/// Whether the first block of the file's present use is there.
async fn has_block_of(io: &Io, path: &str, header: &FileHeader) -> bool {
    let Ok(file) = io.open(path, OpenMode::Read).await else { return false };
    let read = io.read(file, 0, AlignedBuf::zeroed(CHUNK_BYTES)).await;
    io.close(file).await;
    let Ok((bytes, filled)) = read else { return false };
    matches!(walk_chunk(header, &bytes[..filled], 0).first(), Some(Place::Block { offset, .. })
        if *offset == BLOCK_BYTES as u64)
}

impl Walk<'_> {
    /// Reads the headers of all files; those that have one, with their places in the outcome.
    /// Between them: whether a file has blocks, if it is not the only one with its place.
    async fn headers(&mut self, names: &[(String, u64)]) -> Vec<(FileHeader, bool, usize)> {
        let mut headed: Vec<(FileHeader, bool, usize)> = Vec::new();
        for (name, bytes) in names {
            let Some(slot) = files::slot_of(name) else { continue };
            let index = self.outcome.files.len();
            self.outcome.files.push(LogFile { name: name.clone(), slot, ..LogFile::default() });
            let path = format!("{}/{name}", self.dir);
            let report = &mut self.outcome.files[index];
            match read_header(self.io, &path).await {
                Ok((_, Ok(Some(header)))) => {
                    (report.number, report.epoch) = (Some(header.number), Some(header.epoch));
                    headed.push((header, false, index));
                    if *bytes < header.file_bytes {
                        let what = format!(
                            "the file was cut to {bytes} of {} bytes: the log goes on without what may \
                             have been behind its end",
                            header.file_bytes
                        );
                        self.outcome.say(LogVerdict::Short, index, Some(*bytes), what);
                    }
                }
                // Its making never ended.
                Ok((filled, Ok(None))) => report.state = if filled == 0 { "unfinished" } else { "spare" },
                Ok((filled, Err(error))) => {
                    report.gap = Some(error.to_string());
                    report.state = "unfinished";
                    if is_unknown_version(&error) {
                        self.outcome.say(LogVerdict::Version, index, Some(0), error.to_string());
                    } else if has_block(self.io, &path).await {
                        report.state = "damaged";
                        let what = format!("{error}, and valid blocks follow it");
                        self.outcome.say(LogVerdict::Damage, index, Some(0), what);
                    } else {
                        // Torn while it was prepared, or damaged, and empty: it is used again.
                        let what = match filled {
                            0..BLOCK_HEADER_BYTES => {
                                format!("the file is of {bytes} bytes, as if never made")
                            }
                            _ => format!("{error}, and no blocks behind it"),
                        };
                        self.outcome.say(LogVerdict::Torn, index, Some(0), what);
                    }
                }
                Err(error) => {
                    report.state = "unreadable";
                    self.outcome.say(LogVerdict::Damage, index, None, error.to_string());
                }
            }
        }
        let place = |header: &FileHeader| (header.number, header.epoch);
        for at in 0..headed.len() {
            let twins = headed.iter().filter(|(other, ..)| place(other) == place(&headed[at].0)).count();
            if twins > 1 {
                let path = format!("{}/{}", self.dir, self.outcome.files[headed[at].2].name);
                headed[at].1 = has_block_of(self.io, &path, &headed[at].0).await;
            }
        }
        headed
    }

    /// Number of the file that replay begins with.
    fn first_needed(&self, file_bytes: u64) -> u64 {
        self.head.map_or(1, |head| head.log_start.0 / file_bytes)
    }

    fn begin_file(&mut self, header: &FileHeader, index: usize) {
        let needed = self.first_needed(header.file_bytes);
        if let Some(chain) = &mut self.chain {
            if header.number != chain.file_number + 1 {
                let missing = chain.file_number + 1;
                if missing >= needed {
                    let what =
                        format!("log file number {missing} is missing, number {} is there", header.number);
                    self.outcome.missing(Some(missing), what);
                }
                self.resolve();
                self.chain = None;
            } else if header.epoch > chain.epoch && header.first_block != UNKNOWN_BLOCK {
                let expected = chain.open.as_ref().map_or(chain.expected, |open| open.expected);
                if expected.is_some_and(|expected| expected != header.first_block) {
                    let what = format!(
                        "begins with block {}, but the log before it ends before block {}",
                        header.first_block,
                        expected.unwrap_or(0)
                    );
                    self.outcome.say(LogVerdict::Damage, index, Some(0), what);
                } else if let Some(open) = chain.open.take() {
                    // A recovery cut here and went on in this file.
                    let report = &mut self.outcome.files[open.file];
                    report.state = if open.why.is_dirty() || open.later > 0 { "cut" } else { "end" };
                    (report.gap, report.gap_offset) = (Some(open.why.to_string()), Some(open.offset));
                    report.blocks_after = open.later;
                }
                self.resolve();
                self.chain = None;
            }
        } else if header.number > needed && self.outcome.files.iter().all(|file| file.number != Some(needed))
        {
            self.outcome.missing(Some(needed), format!("log file number {needed} is missing"));
        }
        let known = header.first_block != UNKNOWN_BLOCK;
        let chain = self.chain.get_or_insert(Chain {
            file_number: header.number,
            epoch: header.epoch,
            expected: known.then_some(header.first_block),
            prev_crc: known.then_some(header.prev_crc),
            open: None,
        });
        (chain.file_number, chain.epoch) = (header.number, header.epoch);
    }

    async fn walk_file(
        &mut self,
        header: &FileHeader,
        index: usize,
        file: FileId,
        visit: &mut dyn FnMut(Block<'_>),
    ) -> Result<(), DiskError> {
        let name = self.outcome.files[index].name.clone();
        let chain = self.chain.as_mut().expect("begun");
        self.outcome.files[index].state = "full";
        let mut buf = AlignedBuf::zeroed(CHUNK_BYTES);
        let mut at = 0;
        while at < header.file_bytes {
            let (bytes, filled) = self.io.read(file, at, buf).await?;
            buf = bytes;
            for place in walk_chunk(header, &buf[..filled], at) {
                let open = |offset, why: Why| Open {
                    file: index,
                    offset,
                    expected: chain.expected,
                    why,
                    later: 0,
                    durable: false,
                    at_risk: BTreeMap::new(),
                };
                match place {
                    Place::Gap { offset, why } if chain.open.is_none() => {
                        chain.open = Some(open(offset, Why::Gap(why)));
                    }
                    Place::Gap { .. } => {}
                    Place::Block { offset, header: block, crc, payload } => {
                        if chain.open.is_none() {
                            let number = chain.expected.unwrap_or(block.number);
                            if block.number != number {
                                let why = format!("block {}, where {number} was expected", block.number);
                                chain.open = Some(open(offset, Why::Other(why)));
                            } else if chain.prev_crc.is_some_and(|prev| prev != block.prev_crc) {
                                let why = format!("block {number}, which does not follow the one before it");
                                chain.open = Some(open(offset, Why::Other(why)));
                            }
                        }
                        let report = &mut self.outcome.files[index];
                        let after_gap = match &mut chain.open {
                            Some(open) => {
                                open.later += 1;
                                // Where a chain begins no number is known: it is at least the one before.
                                open.expected = open.expected.or(block.number.checked_sub(1));
                                open.durable |=
                                    open.expected.is_some_and(|expected| block.synced_through >= expected);
                                seqs_of(payload, &mut open.at_risk);
                                true
                            }
                            None => {
                                seqs_of(payload, &mut self.read);
                                report.first_block.get_or_insert(block.number);
                                report.last_block = Some(block.number);
                                report.blocks += 1;
                                report.payload_bytes += payload.len() as u64;
                                (chain.expected, chain.prev_crc) = (Some(block.number + 1), Some(crc));
                                false
                            }
                        };
                        let file = header.number;
                        visit(Block { file, name: &name, offset, header: block, payload, after_gap });
                    }
                }
            }
            at += CHUNK_BYTES as u64;
        }
        if self.outcome.files[index].blocks == 0 {
            // Ready for the next blocks; or blocks are here that the log does not reach.
            let behind = chain.open.as_ref().is_some_and(|open| open.later > 0);
            self.outcome.files[index].state = if behind { "behind a gap" } else { "empty" };
        }
        Ok(())
    }

    /// Judges the place where the log ended.
    fn resolve(&mut self) {
        let Some(open) = self.chain.as_mut().and_then(|chain| chain.open.take()) else { return };
        let needed = self.head.is_some_and(|head| {
            open.expected.is_some_and(|expected| (head.next_block..=head.described_block).contains(&expected))
        });
        let expected = open.expected.map_or("the first block".to_owned(), |number| format!("block {number}"));
        let report = &mut self.outcome.files[open.file];
        (report.gap, report.gap_offset) = (Some(open.why.to_string()), Some(open.offset));
        report.blocks_after = open.later;
        let (file, offset, why, later) = (open.file, Some(open.offset), &open.why, open.later);
        let (verdict, what) = if matches!(why, Why::Gap(Gap::Version)) {
            report.state = "damaged";
            (LogVerdict::Version, format!("{why} where {expected} should be"))
        } else if open.durable || needed {
            report.state = "damaged";
            let what = format!(
                "{expected} does not hold although it was durable: {why} is there; {later} valid blocks \
                 follow it"
            );
            (LogVerdict::Damage, what)
        } else if why.is_dirty() || later > 0 {
            report.state = "torn tail";
            let what = format!(
                "the log ends before {expected}, torn: {why} is there; {later} later blocks, never synced"
            );
            (LogVerdict::Torn, what)
        } else {
            report.state = "end";
            return;
        };
        let mut at_risk = open.at_risk;
        for (topic, (first, _)) in &mut at_risk {
            // What lies between was in the place that does not hold.
            let before = self.read.get(topic).map_or(u64::MAX, |(_, last)| last + 1);
            *first = before.min(*first);
        }
        self.outcome.say(verdict, file, offset, what).at_risk = at_risk;
    }

    fn end(&mut self) {
        let ends = self.chain.as_ref().and_then(|chain| match &chain.open {
            Some(open) => open.expected,
            None => chain.expected,
        });
        let is_damage = |finding: &&LogFinding| finding.verdict == LogVerdict::Damage;
        let damaged = self.outcome.findings.iter().filter(is_damage).count();
        self.resolve();
        let Some(head) = self.head else { return };
        let needs = head.described_block >= head.next_block;
        let told = self.outcome.findings.iter().filter(is_damage).count() > damaged;
        if needs && ends.unwrap_or(0) <= head.described_block && !told {
            let what = format!(
                "the checkpoint needs the log up to block {}, it ends before block {}",
                head.described_block,
                ends.map_or("any".to_owned(), |number| number.to_string())
            );
            self.outcome.missing(None, what);
        }
    }
}
