//! The log of one shard, file by file: where its blocks end, and whether that is an end, a torn tail or
//! damage, by the rules of recovery (I-93, I-94).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use runelog_engine::checkpoint::CheckpointHead;
use runelog_engine::limits::{BLOCK_BYTES, CHUNK_BYTES};
use runelog_engine::wal::files;
use runelog_engine::wal::format::{BlockHeader, FileHeader, UNKNOWN_BLOCK};
use runelog_engine::wal::walk::{Gap, Place, walk_chunk};

use super::report::LogFileReport;

/// A whole block, on its way to whoever looks into it.
pub(super) struct Block<'a> {
    pub(super) file: u64,
    pub(super) name: &'a str,
    pub(super) offset: u64,
    pub(super) header: BlockHeader,
    pub(super) payload: &'a [u8],
    pub(super) after_gap: bool,
}

/// What was found.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) files: Vec<LogFileReport>,
    pub(super) notes: Vec<String>,
    pub(super) damage: Vec<String>,
}

/// A place where the next block was expected and not found.
struct Open {
    file: usize,
    offset: u64,
    /// Its number, if it is known.
    expected: Option<u64>,
    why: String,
    /// Something was written there.
    dirty: bool,
    /// Whole blocks behind it.
    later: u64,
    /// One of them says that this one was durable.
    durable: bool,
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
    dir: &'a str,
    /// The newest checkpoint that holds.
    head: Option<&'a CheckpointHead>,
    outcome: Outcome,
    chain: Option<Chain>,
}

/// Walks the log files in `root`/`dir`, oldest first.
pub(super) fn inspect(
    root: &Path,
    dir: &str,
    names: &[(String, u64)],
    head: Option<&CheckpointHead>,
    visit: &mut dyn FnMut(Block<'_>),
) -> Outcome {
    let mut walk = Walk { dir, head, outcome: Outcome::default(), chain: None };
    let mut headed: Vec<(FileHeader, usize, File)> = Vec::new();
    for (name, bytes) in names {
        let Some(slot) = files::slot_of(name) else { continue };
        let index = walk.outcome.files.len();
        let mut report = LogFileReport { name: name.clone(), slot, ..LogFileReport::default() };
        match read_header(&root.join(dir).join(name)) {
            Ok((file, Ok(Some(header)))) if *bytes >= header.file_bytes => {
                (report.number, report.epoch) = (Some(header.number), Some(header.epoch));
                headed.push((header, index, file));
            }
            Ok((_, Ok(_))) => report.state = "unfinished",
            Ok((file, Err(why))) => {
                report.gap = Some(why.clone());
                report.state = "unfinished";
                // Torn while it was prepared, and empty; unless blocks follow it.
                if has_block(&file) {
                    report.state = "damaged";
                    walk.outcome.damage.push(format!("{dir}/{name}: {why}, and valid blocks follow it"));
                }
            }
            Err(error) => {
                report.state = "unreadable";
                walk.outcome.damage.push(format!("{dir}/{name}: {error}"));
            }
        }
        if report.state == "unfinished" && report.gap.is_none() && *bytes > 0 {
            report.state = "spare";
        }
        walk.outcome.files.push(report);
    }
    headed.sort_by_key(|(header, _, _)| (header.number, header.epoch));
    for at in 0..headed.len() {
        let (header, index, file) = &headed[at];
        // A recycled file may leave two of one number: the later epoch has it.
        if headed.get(at + 1).is_some_and(|(next, _, _)| next.number == header.number) {
            walk.outcome.files[*index].state = "spare";
            continue;
        }
        walk.begin_file(header, *index);
        if let Err(error) = walk.walk_file(header, *index, file, visit) {
            let name = &walk.outcome.files[*index].name;
            walk.outcome.damage.push(format!("{dir}/{name}: {error}"));
        }
        let name = &walk.outcome.files[*index].name;
        if read_header(&root.join(dir).join(name)).ok().and_then(|(_, now)| now.ok()) != Some(Some(*header)) {
            // A running server has put it to new use while we read.
            walk.outcome.files[*index].state = "recycled";
            walk.chain = None;
        }
    }
    walk.end();
    walk.outcome
}

fn read_header(path: &Path) -> io::Result<(File, Result<Option<FileHeader>, String>)> {
    let file = File::open(path)?;
    let mut block = [0; BLOCK_BYTES];
    let filled = read_full(&file, &mut block, 0)?;
    let header = FileHeader::decode(&block[..filled]).map_err(|error| error.to_string());
    Ok((file, if filled < BLOCK_BYTES { Ok(None) } else { header }))
}

fn has_block(file: &File) -> bool {
    let mut bytes = vec![0; CHUNK_BYTES];
    let filled = read_full(file, &mut bytes, BLOCK_BYTES as u64).unwrap_or(0);
    BlockHeader::decode(&bytes[..filled]).is_ok()
}

fn read_full(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match file.read_at(&mut buf[filled..], offset + filled as u64)? {
            0 => break,
            bytes => filled += bytes,
        }
    }
    Ok(filled)
}

impl Walk<'_> {
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
                    self.outcome.damage.push(format!(
                        "{}: log file number {missing} is missing, number {} is there",
                        self.dir, header.number
                    ));
                }
                self.resolve();
                self.chain = None;
            } else if header.epoch > chain.epoch && header.first_block != UNKNOWN_BLOCK {
                let expected = chain.open.as_ref().map_or(chain.expected, |open| open.expected);
                if expected.is_some_and(|expected| expected != header.first_block) {
                    self.outcome.damage.push(format!(
                        "{}/{}: begins with block {}, but the log before it ends before block {}",
                        self.dir,
                        self.outcome.files[index].name,
                        header.first_block,
                        expected.unwrap_or(0)
                    ));
                } else if let Some(open) = chain.open.take() {
                    // A recovery cut here and went on in this file.
                    let report = &mut self.outcome.files[open.file];
                    report.state = if open.dirty || open.later > 0 { "cut" } else { "end" };
                    (report.gap, report.gap_offset) = (Some(open.why), Some(open.offset));
                    report.blocks_after = open.later;
                }
                self.resolve();
                self.chain = None;
            }
        } else if header.number > needed && self.outcome.files.iter().all(|file| file.number != Some(needed))
        {
            self.outcome.damage.push(format!("{}: log file number {needed} is missing", self.dir));
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

    fn walk_file(
        &mut self,
        header: &FileHeader,
        index: usize,
        file: &File,
        visit: &mut dyn FnMut(Block<'_>),
    ) -> io::Result<()> {
        let mut bytes = vec![0; CHUNK_BYTES];
        let name = self.outcome.files[index].name.clone();
        let chain = self.chain.as_mut().expect("begun");
        self.outcome.files[index].state = "full";
        let mut at = 0;
        while at < header.file_bytes {
            let filled = read_full(file, &mut bytes, at)?;
            for place in walk_chunk(header, &bytes[..filled], at) {
                let open = |offset, why: String, dirty| Open {
                    file: index,
                    offset,
                    expected: chain.expected,
                    why,
                    dirty,
                    later: 0,
                    durable: false,
                };
                match place {
                    Place::Gap { offset, why } if chain.open.is_none() => {
                        let dirty = matches!(why, Gap::Header | Gap::Payload);
                        chain.open = Some(open(offset, why.to_string(), dirty));
                    }
                    Place::Gap { .. } => {}
                    Place::Block { offset, header: block, crc, payload } => {
                        if chain.open.is_none() {
                            let number = chain.expected.unwrap_or(block.number);
                            if block.number != number {
                                let why = format!("block {}, where {number} was expected", block.number);
                                chain.open = Some(open(offset, why, true));
                            } else if chain.prev_crc.is_some_and(|prev| prev != block.prev_crc) {
                                let why = format!("block {number}, which does not follow the one before it");
                                chain.open = Some(open(offset, why, true));
                            }
                        }
                        let report = &mut self.outcome.files[index];
                        let after_gap = match &mut chain.open {
                            Some(open) => {
                                open.later += 1;
                                open.durable |=
                                    open.expected.is_some_and(|expected| block.synced_through >= expected);
                                true
                            }
                            None => {
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
        let report = &mut self.outcome.files[open.file];
        let needed = self.head.is_some_and(|head| {
            open.expected.is_some_and(|expected| (head.next_block..=head.described_block).contains(&expected))
        });
        let expected = open.expected.map_or("the first block".to_owned(), |number| format!("block {number}"));
        let place = format!("{}/{}, offset {}", self.dir, report.name, open.offset);
        if open.durable || needed {
            report.state = "damaged";
            self.outcome.damage.push(format!(
                "{place}: {expected} does not hold although it was durable: {} is there; {} valid blocks \
                 follow it",
                open.why, open.later
            ));
        } else if open.dirty || open.later > 0 {
            report.state = "torn tail";
            self.outcome.notes.push(format!(
                "{place}: the log ends before {expected}, torn: {} is there; {} later blocks, never synced",
                open.why, open.later
            ));
        } else {
            report.state = "end";
        }
        (report.gap, report.gap_offset) = (Some(open.why), Some(open.offset));
        report.blocks_after = open.later;
    }

    fn end(&mut self) {
        let ends = self.chain.as_ref().and_then(|chain| match &chain.open {
            Some(open) => open.expected,
            None => chain.expected,
        });
        let damaged = self.outcome.damage.len();
        self.resolve();
        let Some(head) = self.head else { return };
        let needs = head.described_block >= head.next_block;
        if needs && ends.unwrap_or(0) <= head.described_block && self.outcome.damage.len() == damaged {
            self.outcome.damage.push(format!(
                "{}: the checkpoint needs the log up to block {}, it ends before block {}",
                self.dir,
                head.described_block,
                ends.map_or("any".to_owned(), |number| number.to_string())
            ));
        }
    }
}
