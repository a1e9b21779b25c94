//! The judge of a data directory: whether a start would succeed, whether every read would, and whether
//! what neither needs (an older checkpoint, a footer) is whole too. It changes nothing.
//! Lives here: the order of looking, and what each finding weighs. In [`log`]: the log files. Whether a
//! shard starts is asked of recovery itself ([`recover`]), on a disk that keeps nothing
//! ([`disk::read_only`](crate::disk::read_only)); whether its records can be read, of the same code that
//! serves readers ([`Shard::audit`]). So what is said here and what a start does cannot differ.
//!
//! In memory at once: one shard as its own start would have it (the log since the last checkpoint, the
//! places of sealed blocks), one open segment, and the names of topics.

pub mod log;

use crate::checkpoint::{self, CheckpointHead, Loaded};
use crate::disk::Io;
use crate::error::DiskError;
use crate::ids::{Millis, SegmentId, TopicId};
use crate::layout::{self, Layout, SHARDS_DIR};
use crate::limits::BLOCK_BYTES;
use crate::quota::Quota;
use crate::segment::{self, Run, SegmentError};
use crate::shard::recover::{RecoverError, recover};
use crate::shard::{AuditFault, Audited, Shard, shard_dir};
use crate::wal::frame::{Kind, RecordsEntry, RecordsHeader, split_entry};
use crate::wal::walk;
use log::{LogFinding, LogVerdict, walk_log};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Harmless: the trace of a crash, a file that the next start removes.
    Note,
    /// It could not be judged: another format version, or no permission.
    Unjudged,
    /// Damage of what neither a start nor a read needs: what could have stood in for other damage.
    Spare,
    /// Damage that a read or a delete meets (I-98), or numbers that are not what a read finds.
    Read,
    /// A start goes on, without what may have been there.
    Loss,
    /// A start is refused (SU-5, I-94).
    Start,
}

/// Records that a finding puts at risk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Risk {
    /// The topic's name, or `#` and its id if that is all that is known.
    pub topic: String,
    /// First seq.
    pub first_seq: u64,
    /// Last seq.
    pub last_seq: u64,
}

/// Something that is to be said of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub weight: Weight,
    /// Path in the data directory.
    pub file: String,
    /// Where in it, if it is about a place.
    pub offset: Option<u64>,
    /// In words.
    pub what: String,
    /// Which records.
    pub at_risk: Vec<Risk>,
}

/// What was looked at, and the sum of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Shards whose start succeeded.
    pub shards: u64,
    /// Blocks of the log that a start replays.
    pub log_blocks: u64,
    /// Segments that were read whole.
    pub segments: u64,
    /// What readers of all topics get.
    pub read: Audited,
    /// Findings of each weight, by `Weight as usize`.
    pub findings: [u64; 6],
}

impl Summary {
    /// How many findings weigh so much.
    pub fn count(&self, weight: Weight) -> u64 {
        self.findings[weight as usize]
    }

    /// The heaviest finding; a note if there is none.
    pub fn heaviest(&self) -> Weight {
        let all = [Weight::Start, Weight::Loss, Weight::Read, Weight::Spare, Weight::Unjudged];
        all.into_iter().find(|weight| self.count(*weight) > 0).unwrap_or(Weight::Note)
    }

    /// Whether everything is as it was written.
    pub fn is_whole(&self) -> bool {
        self.heaviest() == Weight::Note
    }
}

/// Judges a whole data directory. Each finding goes to `tell` as it is made.
pub async fn verify(io: &Io, tell: impl FnMut(Finding)) -> Summary {
    let mut judge = Judge {
        io,
        tell,
        summary: Summary::default(),
        names: BTreeMap::new(),
        in_use: BTreeSet::new(),
        told: BTreeSet::new(),
    };
    let layout = judge.layout().await;
    if let Some(layout) = &layout {
        for shard in 0..layout.shards {
            judge.shard(layout, shard).await;
        }
    }
    judge.pool(layout.is_some()).await;
    judge.leftovers(layout.as_ref()).await;
    judge.summary
}

struct Judge<'a, T> {
    io: &'a Io,
    tell: T,
    summary: Summary,
    names: BTreeMap<TopicId, String>,
    /// Segments that some shard needs.
    in_use: BTreeSet<SegmentId>,
    /// Places in segments that were told already, because a reader needs them.
    told: BTreeSet<(SegmentId, u64)>,
}

/// Whether a refusal is about the place of this finding.
fn is_named(dir: &str, finding: &LogFinding, error: &RecoverError) -> bool {
    let (Some(name), Some(offset)) = (&finding.name, finding.offset) else { return false };
    finding.verdict == LogVerdict::Damage
        && matches!(error, RecoverError::DamagedBlock { path, offset: at, .. }
            if *at == offset && *path == format!("{dir}/{name}"))
}

impl<T: FnMut(Finding)> Judge<'_, T> {
    fn say(&mut self, weight: Weight, file: impl Into<String>, offset: Option<u64>, what: impl Into<String>) {
        self.say_at_risk(weight, file, offset, what, Vec::new());
    }

    fn say_at_risk(
        &mut self,
        weight: Weight,
        file: impl Into<String>,
        offset: Option<u64>,
        what: impl Into<String>,
        at_risk: Vec<Risk>,
    ) {
        self.summary.findings[weight as usize] += 1;
        (self.tell)(Finding { weight, file: file.into(), offset, what: what.into(), at_risk });
    }

    fn risk(&self, topic: TopicId, first_seq: u64, last_seq: u64) -> Risk {
        let name = self.names.get(&topic).cloned();
        Risk { topic: name.unwrap_or_else(|| format!("#{:x}", topic.0)), first_seq, last_seq }
    }

    /// A start would end here.
    fn refused(&mut self, file: &str, error: &RecoverError) {
        let weight = match error {
            RecoverError::Version(_) => Weight::Unjudged,
            RecoverError::Disk { error, .. } if is_permission(*error) => Weight::Unjudged,
            RecoverError::Disk { .. }
            | RecoverError::Damage(_)
            | RecoverError::DamagedBlock { .. }
            | RecoverError::Foreign(_) => Weight::Start,
        };
        self.say(weight, file, None, format!("a start is refused: {error}"));
    }

    async fn list(&mut self, dir: &str) -> Vec<(String, u64)> {
        match self.io.list(dir).await {
            Ok(names) => names,
            Err(error) => {
                let weight = if is_permission(error) { Weight::Unjudged } else { Weight::Start };
                self.say(weight, dir, None, error.to_string());
                Vec::new()
            }
        }
    }

    /// As [`layout::open_layout`] does before it opens a shard.
    async fn layout(&mut self) -> Option<Layout> {
        match layout::read_layout(self.io).await {
            Ok(Some(layout)) => {
                if let Err(error) = layout::check_directories(self.io, &layout).await {
                    self.refused(SHARDS_DIR, &error);
                }
                Some(layout)
            }
            Ok(None) => {
                match layout::refuse_what_looks_like_ours(self.io).await {
                    Ok(()) => self.say(Weight::Unjudged, layout::FILE, None, "no data directory of Runelog"),
                    Err(error) => self.refused(layout::FILE, &error),
                }
                None
            }
            Err(error) => {
                self.refused(layout::FILE, &error);
                None
            }
        }
    }

    async fn shard(&mut self, layout: &Layout, shard: u16) {
        let dir = shard_dir(layout.generation, shard);
        let names = self.list(&dir).await;
        let head = self.checkpoints(&dir, &names).await;
        if let Ok(Some(loaded)) = checkpoint::load(self.io, &dir).await {
            self.learn(loaded.topics.values().map(|state| (state.id, &state.name[..])));
        }
        // Topics that no checkpoint knows have their names in the log.
        let mut named = Vec::new();
        let mut visit = |block: log::Block<'_>| {
            for (entry, _) in walk::entries(block.payload).flatten() {
                if let walk::Entry::Topic { id, name, .. } = entry {
                    named.push((id, name.to_vec()));
                }
            }
        };
        let log = walk_log(self.io, &dir, &names, head.as_ref(), &mut visit).await;
        self.learn(named.iter().map(|(id, name)| (*id, &name[..])));
        let settings = layout.settings_of(shard);
        // No time passes: what is over by age is still there.
        let recovered = recover(self.io, settings, Arc::new(Quota::default()), Millis::MIN, |_| {}).await;
        let (starts, mut untold) = (recovered.is_ok(), None);
        match recovered {
            Ok((shard, report)) => {
                self.summary.shards += 1;
                self.summary.log_blocks += report.blocks;
                self.audit(&shard).await;
                drop(shard);
                self.manifest(&dir).await;
            }
            // The place that a start stops at is told once, with what the walk knows of it.
            Err(error) => match log.findings.iter().any(|finding| is_named(&dir, finding, &error)) {
                true => untold = Some(error),
                false => self.refused(&dir, &error),
            },
        }
        let refusals = self.summary.count(Weight::Start);
        // Without a checkpoint the log is read from its first file.
        let start = head.map_or(layout.file_bytes, |head| head.log_start.0);
        for finding in log.findings {
            // A header is needed with any part of its file; and what a short file lacks reaches to its end.
            let place = |number: u64| match finding.offset.unwrap_or(0) {
                offset if offset >= BLOCK_BYTES as u64 && finding.verdict != LogVerdict::Short => {
                    number * layout.file_bytes + offset
                }
                _ => (number + 1) * layout.file_bytes - 1,
            };
            let is_read = finding.number.is_none_or(|number| place(number) >= start);
            self.log_finding(&dir, finding, starts, is_read);
        }
        if let Some(error) = untold.filter(|_| self.summary.count(Weight::Start) == refusals) {
            self.refused(&dir, &error);
        }
        for (name, bytes) in names {
            if layout::is_leftover(&name) {
                let what =
                    format!("{bytes} bytes of a file that was not finished; the next start removes it");
                self.say(Weight::Note, format!("{dir}/{name}"), None, what);
            } else if !layout::is_shards_file(&name) {
                self.say(Weight::Note, format!("{dir}/{name}"), None, "none of Runelog's files");
            }
        }
    }

    fn learn<'n>(&mut self, topics: impl Iterator<Item = (TopicId, &'n [u8])>) {
        let names = topics.map(|(id, name)| (id, String::from_utf8_lossy(name).into_owned()));
        self.names.extend(names);
    }

    /// All checkpoints of a shard, newest first; the head of the newest that holds.
    async fn checkpoints(&mut self, dir: &str, names: &[(String, u64)]) -> Option<CheckpointHead> {
        let mut usable = Vec::new();
        for (name, _) in names.iter().rev() {
            let checkpoint::Name::Checkpoint(number) = checkpoint::parse_name(name) else { continue };
            match checkpoint::load_one(self.io, dir, number).await {
                Ok(loaded) => usable.push(loaded.head),
                // What is older than the newest two that hold is on its way out, the eldest first.
                Err(fault) if fault.is_base_missing && usable.len() >= 2 => {
                    let what = format!("no longer needed, and {fault}; the next checkpoint removes it");
                    self.say(Weight::Note, format!("{dir}/{name}"), None, what);
                }
                Err(fault) => {
                    let weight = if fault.is_version { Weight::Unjudged } else { Weight::Spare };
                    let what = format!("the checkpoint cannot be used: {fault}");
                    self.say(weight, format!("{dir}/{name}"), None, what);
                }
            }
        }
        usable.first().copied()
    }

    fn log_finding(&mut self, dir: &str, finding: LogFinding, starts: bool, is_read: bool) {
        let LogFinding { verdict, name, number, offset, what, at_risk } = finding;
        let (weight, more) = match verdict {
            LogVerdict::Torn => (Weight::Note, ""),
            LogVerdict::Version => (Weight::Unjudged, ""),
            _ if !is_read => (Weight::Spare, " (no start reads it)"),
            LogVerdict::Damage if !starts => (Weight::Start, ""),
            LogVerdict::Damage if number.is_none() => (Weight::Spare, " (no start reads it)"),
            LogVerdict::Short | LogVerdict::Damage => (Weight::Loss, ""),
        };
        let at_risk = at_risk.into_iter().map(|(topic, (first, last))| self.risk(topic, first, last));
        let at_risk = at_risk.collect();
        let file = name.map_or(dir.to_owned(), |name| format!("{dir}/{name}"));
        self.say_at_risk(weight, file, offset, format!("{what}{more}"), at_risk);
    }

    /// Reads every topic of a shard.
    async fn audit(&mut self, shard: &Shard) {
        self.learn(shard.topic_names());
        self.in_use.extend(shard.segments_in_use());
        let mut faults: Vec<AuditFault> = Vec::new();
        let merge = |fault: AuditFault| match faults.last_mut().is_some_and(|last| last.absorb(&fault)) {
            true => {}
            false => faults.push(fault),
        };
        let Audited { topics, records, bytes } = shard.audit(merge).await;
        let read = &mut self.summary.read;
        read.topics += topics;
        read.records += records;
        read.bytes += bytes;
        for fault in faults {
            match fault {
                AuditFault::Unreadable { segment, offset, topic, first_seq, last_seq, is_tag_list, why } => {
                    self.told.insert((segment, offset));
                    let then = if is_tag_list { "deletes by tag fail" } else { "reads fail" };
                    let at_risk = vec![self.risk(topic, first_seq, last_seq)];
                    let what = format!("{then}: {why}");
                    self.say_at_risk(Weight::Read, segment::path(segment), Some(offset), what, at_risk);
                }
                AuditFault::Numbers { topic, why } => {
                    let name = self.risk(topic, 0, 0).topic;
                    self.say(Weight::Read, SHARDS_DIR, None, format!("topic {name}: {why}"));
                }
            }
        }
    }

    /// What a shard's checkpoint says of its segments against their footers.
    async fn manifest(&mut self, dir: &str) {
        let Ok(Some(loaded)) = checkpoint::load(self.io, dir).await else { return };
        let Loaded { segments, runs, head, .. } = loaded;
        let file = format!("{dir}/{}", checkpoint::file_name(head.number));
        let mut runs: BTreeMap<SegmentId, Vec<Run>> =
            runs.into_iter().fold(BTreeMap::new(), |mut all, (id, run)| {
                all.entry(id).or_insert_with(Vec::new).push(run);
                all
            });
        for (id, state) in segments {
            let path = segment::path(id);
            let meta = match segment::read_footer(self.io, id).await {
                Ok(meta) => meta,
                Err(SegmentError::Disk { error: DiskError(libc::ENOENT), .. }) => {
                    // If something in it were alive, a read would have said so.
                    let is_told = self.told.iter().any(|(told, _)| *told == id);
                    if !is_told && self.in_use.contains(&id) {
                        let what = "the segment is missing, and nothing in it is alive";
                        self.say(Weight::Spare, path, None, what);
                    }
                    continue;
                }
                Err(_) => continue, // told with the pool
            };
            if meta.file_bytes != state.file_bytes {
                let what = format!("{path} is of {} bytes, and not of {}", meta.file_bytes, state.file_bytes);
                self.say(Weight::Spare, &file, None, what);
            }
            for run in runs.remove(&id).unwrap_or_default() {
                if !meta.runs.contains(&run) {
                    let (first, last) = (run.blocks.first(), run.blocks.last());
                    let first_seq = first.map_or(0, |block| block.first_seq);
                    let risk = self.risk(run.topic, first_seq, last.map_or(0, |block| block.last_seq));
                    let what = format!("what it says of {path} is not what that says");
                    self.say_at_risk(Weight::Spare, &file, None, what, vec![risk]);
                }
            }
        }
    }

    /// Every segment that is needed, read whole; the others are garbage.
    async fn pool(&mut self, is_owned: bool) {
        for (name, bytes) in self.list(segment::DIR).await {
            let path = format!("{}/{name}", segment::DIR);
            let id = match segment::parse_name(&name) {
                segment::Name::Segment(id) => id,
                segment::Name::Leftover => {
                    let what = format!(
                        "{bytes} bytes of a segment that was not finished; the next start removes it"
                    );
                    self.say(Weight::Note, path, None, what);
                    continue;
                }
                segment::Name::Unknown => {
                    self.say(Weight::Note, path, None, "none of Runelog's files");
                    continue;
                }
            };
            let is_complete = self.summary.count(Weight::Start) + self.summary.count(Weight::Unjudged) == 0;
            if is_owned && is_complete && !self.in_use.contains(&id) {
                let what = format!("{bytes} bytes that no shard needs; the next start removes the file");
                self.say(Weight::Note, path, None, what);
                continue;
            }
            let mut faults = Vec::new();
            segment::examine(self.io, id, |fault| faults.push(fault)).await;
            self.summary.segments += 1;
            for fault in faults {
                self.segment_fault(id, &path, fault);
            }
        }
    }

    fn segment_fault(&mut self, id: SegmentId, path: &str, fault: SegmentError) {
        match fault {
            SegmentError::Damaged { offset, .. } if self.told.contains(&(id, offset)) => {}
            SegmentError::Damaged { offset, what, at_risk, .. } => {
                let at_risk = at_risk.map(|risk| self.risk(risk.topic, risk.first_seq, risk.last_seq));
                let what = match &at_risk {
                    Some(_) => format!("damaged {what}, of records that no read needs any more"),
                    None => format!("damaged {what}, which no start and no read needs"),
                };
                self.say_at_risk(Weight::Spare, path, Some(offset), what, at_risk.into_iter().collect());
            }
            SegmentError::Version { version, .. } => {
                let what = format!("a segment of format version {version}, which is not known");
                self.say(Weight::Unjudged, path, Some(0), what);
            }
            SegmentError::Disk { error, .. } => {
                let weight = if is_permission(error) { Weight::Unjudged } else { Weight::Spare };
                self.say(weight, path, None, error.to_string());
            }
            SegmentError::Entry(error) => self.say(Weight::Spare, path, None, error.to_string()),
        }
    }

    /// Directories of other layouts: an attempt that never came to be, or one that is over.
    async fn leftovers(&mut self, layout: Option<&Layout>) {
        let Some(layout) = layout else { return };
        match layout::shard_dirs(self.io).await {
            Ok(dirs) => {
                for (dir, generation, shard) in dirs {
                    if generation != layout.generation || shard >= layout.shards {
                        let what = "left over from another number of shards; the next start removes it";
                        self.say(Weight::Note, dir, None, what);
                    }
                }
            }
            Err(error) => self.refused(SHARDS_DIR, &error),
        }
        let aside = format!("{}{}", layout::FILE, crate::aside::ASIDE_SUFFIX);
        for (name, _) in self.list("").await {
            if name == aside {
                self.say(Weight::Note, name, None, "a file that was not finished; the next start removes it");
            }
        }
    }
}

/// Whether it is we who may not look.
fn is_permission(error: DiskError) -> bool {
    matches!(error, DiskError(libc::EACCES | libc::EPERM | libc::EMFILE | libc::ENFILE))
}

/// Notes the seqs of records entries in a payload.
pub(crate) fn seqs_of(mut payload: &[u8], seqs: &mut BTreeMap<TopicId, (u64, u64)>) {
    while let Ok((entry, body, rest)) = split_entry(payload) {
        if entry.kind == Kind::Records
            && let Ok(records) = RecordsEntry::decode(body)
        {
            let RecordsHeader { topic, first_seq, .. } = records.header;
            let range = seqs.entry(topic).or_insert((first_seq, first_seq));
            range.0 = range.0.min(first_seq);
            range.1 = range.1.max(records.header.last_seq());
        }
        payload = rest;
    }
}
