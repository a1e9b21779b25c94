//! `runelog inspect`: what a data directory holds, past damage, without changing anything.
//! Lives here: the options, and what is gathered from where. In `report`: the result as data. In `show`:
//! the result as tables. Not here: whether a start would succeed ([`verify`](crate::verify)).
//!
//! It takes no lock and may look while a server runs; what the server removes meanwhile is not damage.

mod report;
mod show;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use runelog_engine::checkpoint::{self, Loaded};
use runelog_engine::config::Class;
use runelog_engine::disk::read_only::ReadOnly;
use runelog_engine::disk::{Io, OpenMode, io::block_on};
use runelog_engine::event::Record;
use runelog_engine::ids::{SegmentId, TopicId};
use runelog_engine::layout::{Layout, SHARDS_DIR, read_layout};
use runelog_engine::queue::JobState;
use runelog_engine::segment;
use runelog_engine::shard::parse_shard_dir;
use runelog_engine::verify::log::{Block, LogVerdict, walk_log};
use runelog_engine::wal::walk::{self, Entry};

use crate::look::{StdDisk, files_below};
use report::{
    BlockReport, CheckpointReport, EntryReport, LayoutReport, LogFileReport, RecordReport, Report,
    SegmentReport, ShardReport, TopicReport, Totals,
};

/// Show what a data directory holds and whether it is whole; changes nothing.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(after_help = "\
The server may run meanwhile, or have crashed. Exit status: 0 if nothing is damaged (a torn tail is
not), 1 if something is.

Examples:
  runelog inspect ./runelog-data
  runelog inspect ./runelog-data --topic orders --entries
  runelog inspect ./runelog-data --topic orders --records
  runelog inspect ./runelog-data --json")]
pub(crate) struct InspectArgs {
    /// The data directory
    data_dir: PathBuf,
    /// Only this topic's entries, records and numbers
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// The topic's stored records too, deleted ones among them
    #[arg(long, requires = "topic")]
    records: bool,
    /// The blocks of the log too
    #[arg(long)]
    blocks: bool,
    /// The entries of those blocks too
    #[arg(long)]
    entries: bool,
    /// Read the footers of segments only, not the records
    #[arg(long)]
    quick: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Inspects and prints.
pub(crate) fn run(args: &InspectArgs) -> ExitCode {
    if !args.data_dir.is_dir() {
        eprintln!("runelog: {} is not a directory", args.data_dir.display());
        return ExitCode::FAILURE;
    }
    // A running server moves things about while we look: damage is what is seen twice.
    let mut report = inspect(args);
    for _ in 0..2 {
        if report.damage.is_empty() {
            break;
        }
        let again = inspect(args);
        let seen_twice = again.damage == report.damage;
        report = again;
        if seen_twice {
            break;
        }
    }
    let text = match args.json {
        true => serde_json::to_string(&report).expect("plain data") + "\n",
        false => show::text(&report),
    };
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("runelog: cannot write: {error}");
            ExitCode::FAILURE
        }
        _ if report.damage.is_empty() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Looks once.
fn inspect(args: &InspectArgs) -> Report {
    let mut look = Look {
        args,
        root: &args.data_dir,
        disk: files_below(args.data_dir.clone()),
        io: Io::default(),
        report: Report { data_dir: args.data_dir.display().to_string(), ..Report::default() },
        topics: BTreeMap::new(),
        named: BTreeMap::new(),
    };
    let layout = look.layout();
    look.shards(layout.as_ref());
    look.segments();
    let mut topics: Vec<TopicReport> = look.topics.into_values().collect();
    topics.retain(|topic| args.topic.as_ref().is_none_or(|name| *name == topic.name));
    topics.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    look.report.topics = topics;
    look.report.records.sort_by_key(|record| record.seq);
    look.report
}

struct Look<'a> {
    args: &'a InspectArgs,
    root: &'a Path,
    disk: ReadOnly<StdDisk>,
    io: Io,
    report: Report,
    topics: BTreeMap<TopicId, TopicReport>,
    /// Shards of the layout whose newest checkpoint names the segment.
    named: BTreeMap<SegmentId, BTreeSet<u16>>,
}

impl Look<'_> {
    fn wait<T>(&mut self, future: impl Future<Output = T>) -> T {
        block_on(&self.io, &mut self.disk, future)
    }

    fn list(&mut self, path: &str) -> Vec<(String, u64)> {
        let io = self.io.clone();
        match self.wait(io.list(path)) {
            Ok(names) => names,
            Err(error) => {
                self.report.damage.push(format!("{path}: {error}"));
                Vec::new()
            }
        }
    }

    fn layout(&mut self) -> Option<Layout> {
        let io = self.io.clone();
        match self.wait(read_layout(&io)) {
            Ok(Some(layout)) => {
                self.report.layout = Some(LayoutReport {
                    directory: format!("{:016x}", layout.directory),
                    generation: layout.generation,
                    shards: layout.shards,
                    file_bytes: layout.file_bytes,
                });
                Some(layout)
            }
            Ok(None) => {
                self.report
                    .damage
                    .push("there is no file layout: no data directory, or a damaged one".into());
                None
            }
            Err(error) => {
                self.report.damage.push(error.to_string());
                None
            }
        }
    }

    fn shards(&mut self, layout: Option<&Layout>) {
        let io = self.io.clone();
        let dirs = self.wait(io.list_dirs(SHARDS_DIR)).unwrap_or_default();
        let mut left: BTreeSet<u16> = layout.map_or(0..0, |layout| 0..layout.shards).collect();
        for name in dirs {
            let Some((generation, shard)) = parse_shard_dir(&name) else { continue };
            let ours = |layout: &Layout| generation == layout.generation && shard < layout.shards;
            let current = layout.is_none_or(ours);
            left.retain(|wanted| !(current && *wanted == shard));
            self.shard(&format!("{SHARDS_DIR}/{name}"), shard, current);
        }
        for shard in left {
            self.report.damage.push(format!("the directory of shard {shard} is missing"));
        }
    }

    fn shard(&mut self, dir: &str, shard: u16, current: bool) {
        let names = self.list(dir);
        let mut report = ShardReport {
            dir: dir.to_owned(),
            shard,
            current,
            checkpoints: Vec::new(),
            log: Vec::new(),
            blocks: Vec::new(),
            entries: Vec::new(),
        };
        let newest = self.checkpoints(dir, &names, &mut report);
        if let (Some(loaded), true) = (&newest, current) {
            for id in loaded.segments.keys() {
                self.named.entry(*id).or_default().insert(shard);
            }
            for state in loaded.topics.values() {
                self.topics.insert(
                    state.id,
                    TopicReport {
                        name: String::from_utf8_lossy(&state.name).into_owned(),
                        id: format!("{:016x}", state.id.0),
                        shard,
                        class: class(state.config.class),
                        head: state.head,
                        floor_cap: state.floor_cap,
                        floor_ttl: state.floor_ttl,
                        floor_source: state.floor_source,
                        count: state.count,
                        bytes: state.bytes,
                        ..TopicReport::default()
                    },
                );
            }
        }
        let head = newest.as_ref().map(|loaded| loaded.head);
        // Blocks are looked into as they are read: the walk borrows the disk meanwhile, not what is found.
        let mut damage = Vec::new();
        let outcome = {
            let Look { args, io, disk, report: found, topics, .. } = self;
            let mut into = Gather { args, found, topics };
            let mut visit = |block: Block<'_>| {
                let adds = head.is_none_or(|head| block.header.number > head.described_block);
                if let Err(why) = into.block(&block, shard, current && adds && !block.after_gap, &mut report)
                {
                    damage.push(format!("{dir}/{}, offset {}: {why}", block.name, block.offset));
                }
            };
            block_on(io, disk, walk_log(io, dir, &names, head.as_ref(), &mut visit))
        };
        report.log = outcome.files.into_iter().map(LogFileReport::from).collect();
        for finding in outcome.findings {
            let place = match (&finding.name, finding.offset) {
                (None, _) => dir.to_owned(),
                (Some(name), None) => format!("{dir}/{name}"),
                (Some(name), Some(offset)) => format!("{dir}/{name}, offset {offset}"),
            };
            let text = format!("{place}: {}", finding.what);
            match finding.verdict {
                LogVerdict::Torn => self.report.notes.push(text),
                LogVerdict::Damage | LogVerdict::Short | LogVerdict::Version => damage.push(text),
            }
        }
        match current {
            true => self.report.damage.extend(damage),
            // What is left over is not missed.
            false => self.report.notes.extend(damage),
        }
        self.report.shards.push(report);
    }

    /// All checkpoints; returns the newest that holds.
    fn checkpoints(
        &mut self,
        dir: &str,
        names: &[(String, u64)],
        report: &mut ShardReport,
    ) -> Option<Loaded> {
        let mut newest = None;
        for (name, _) in names {
            let checkpoint::Name::Checkpoint(number) = checkpoint::parse_name(name) else { continue };
            let io = self.io.clone();
            let loaded = self.wait(checkpoint::load_one(&io, dir, number));
            let (fault, loaded) = match loaded {
                Ok(loaded) => (None, Some(loaded)),
                Err(_) if !self.root.join(dir).join(name).exists() => continue, // removed meanwhile
                Err(fault) => {
                    let text = format!("{dir}/{name} cannot be used: {fault}");
                    match report.current {
                        true => self.report.damage.push(text),
                        false => self.report.notes.push(text),
                    }
                    (Some(fault.why), None)
                }
            };
            let of = |what: fn(&Loaded) -> u64| loaded.as_ref().map(what);
            report.checkpoints.push(CheckpointReport {
                number,
                fault,
                base: loaded.as_ref().and_then(|loaded| loaded.head.base),
                topics: of(|loaded| loaded.topics.len() as u64).map(|count| count as usize),
                segments: of(|loaded| loaded.segments.len() as u64).map(|count| count as usize),
                keys: of(|loaded| loaded.dedup.len() as u64).map(|count| count as usize),
                log_start: of(|loaded| loaded.head.log_start.0),
                described_block: of(|loaded| loaded.head.described_block),
                clean: loaded.as_ref().map(|loaded| loaded.head.clean),
                at_ms: loaded.as_ref().map(|loaded| loaded.head.at_ms),
            });
            newest = loaded.or(newest); // names are sorted
        }
        newest
    }

    fn segments(&mut self) {
        let mut missing: BTreeSet<SegmentId> = self.named.keys().copied().collect();
        for (name, bytes) in self.list(segment::DIR) {
            let segment::Name::Segment(id) = segment::parse_name(&name) else { continue };
            missing.remove(&id);
            self.segment(id, bytes);
        }
        for id in missing {
            self.report.damage.push(format!("{} is missing", segment::path(id)));
        }
    }

    fn segment(&mut self, id: SegmentId, bytes: u64) {
        let io = self.io.clone();
        let found = match self.args.quick {
            true => self.wait(segment::read_footer(&io, id)),
            false => self.wait(segment::verify(&io, id)),
        };
        let mut report = SegmentReport {
            id: format!("{:016x}", id.0),
            file_bytes: bytes,
            runs: 0,
            blocks: 0,
            records: 0,
            named_by: self.named.get(&id).map_or(0, BTreeSet::len),
            state: "ok".to_owned(),
        };
        let meta = match found {
            Ok(meta) => Some(meta),
            Err(_) if !self.root.join(segment::path(id)).exists() => return, // removed meanwhile
            Err(error) => {
                report.state = error.to_string();
                match report.named_by {
                    0 => self.report.notes.push(format!("{error} (no shard needs it)")),
                    _ => self.report.damage.push(error.to_string()),
                }
                // What can still be told.
                self.wait(segment::read_footer(&io, id)).ok()
            }
        };
        if let Some(meta) = &meta {
            report.runs = meta.runs.len();
            for run in &meta.runs {
                report.blocks += run.blocks.len();
                report.records += run.blocks.iter().map(|block| u64::from(block.count)).sum::<u64>();
                let Some(topic) = self.topics.get(&run.topic) else { continue };
                if self.args.records && self.args.topic.as_deref() == Some(&topic.name) {
                    let name = topic.name.clone();
                    self.segment_records(id, run, &name);
                }
            }
        }
        let Totals { segments, file_bytes, runs, blocks, records } = &mut self.report.totals;
        *segments += 1;
        *file_bytes += bytes;
        *runs += report.runs;
        *blocks += report.blocks;
        *records += report.records;
        self.report.segments.push(report);
    }

    fn segment_records(&mut self, id: SegmentId, run: &segment::Run, name: &str) {
        let io = self.io.clone();
        let path = segment::path(id);
        let Ok(file) = self.wait(io.open(&path, OpenMode::Read)) else { return };
        for meta in &run.blocks {
            // One that does not hold was told already.
            let Ok(block) = self.wait(segment::read_block(&io, file, id, run.topic, meta)) else { continue };
            for record in block.records_from(0).flatten() {
                self.report.records.push(record_report(name, &record, &path));
            }
        }
        self.wait(io.close(file));
    }
}

/// Where what blocks of the log say is gathered.
struct Gather<'a> {
    args: &'a InspectArgs,
    found: &'a mut Report,
    topics: &'a mut BTreeMap<TopicId, TopicReport>,
}

impl Gather<'_> {
    /// Looks into a block of the log. `adds`: it says something that the checkpoint does not.
    fn block(
        &mut self,
        block: &Block<'_>,
        shard: u16,
        adds: bool,
        report: &mut ShardReport,
    ) -> Result<(), String> {
        let (mut count, mut fault) = (0, Ok(()));
        for item in walk::entries(block.payload) {
            let (entry, last) = match item {
                Ok(item) => item,
                Err(error) => {
                    fault = Err(error.to_string());
                    break;
                }
            };
            count += 1;
            // Of the registry of routers, if of no topic.
            let id = entry.topic().unwrap_or_default();
            if adds {
                self.add(shard, id, &entry);
            }
            if let (Entry::Topic { name, .. }, false) = (&entry, self.topics.contains_key(&id)) {
                // Known by name only: the checkpoint has dropped it, or it is left over.
                self.topics.insert(id, unknown(shard, id, name, true));
            }
            let name =
                self.topics.get(&id).map_or_else(|| format!("#{:x}", id.0), |topic| topic.name.clone());
            if self.args.topic.as_ref().is_some_and(|wanted| *wanted != name) {
                continue;
            }
            if self.args.entries {
                report.entries.push(entry_report(block.header.number, &entry, &name, last));
            }
            if let (Entry::Records(records), true) = (&entry, self.args.records) {
                for record in records.records_from(0).flatten() {
                    self.found.records.push(record_report(&name, &record, block.name));
                }
            }
        }
        if self.args.blocks {
            report.blocks.push(BlockReport {
                file: block.file,
                offset: block.offset,
                number: block.header.number,
                payload_bytes: block.header.payload_bytes,
                synced_through: block.header.synced_through,
                entries: count,
                after_gap: block.after_gap,
            });
        }
        fault
    }

    /// What an entry adds to the summary of its topic.
    fn add(&mut self, shard: u16, id: TopicId, entry: &Entry<'_>) {
        match entry {
            Entry::Topic { name, config, .. } => {
                let topic = self.topics.entry(id).or_insert_with(|| unknown(shard, id, name, false));
                topic.class = class(config.class);
            }
            Entry::Records(records) => {
                if let Some(topic) = self.topics.get_mut(&id) {
                    topic.log_first_seq.get_or_insert(records.header.first_seq);
                    topic.log_last_seq = Some(records.header.last_seq());
                    topic.log_records += u64::from(records.header.count);
                }
            }
            Entry::Drop(_) => {
                if let Some(topic) = self.topics.get_mut(&id) {
                    topic.dropped = true;
                }
            }
            Entry::Delete { .. }
            | Entry::Reserve { .. }
            | Entry::Floor { .. }
            | Entry::Trim { .. }
            | Entry::Lease { .. }
            | Entry::Link { .. }
            | Entry::Router(_)
            | Entry::RouterDrop(_) => {}
        }
    }
}

fn class(class: Class) -> String {
    format!("{class:?}").to_lowercase()
}

/// A topic that no checkpoint describes.
fn unknown(shard: u16, id: TopicId, name: &[u8], dropped: bool) -> TopicReport {
    let name = String::from_utf8_lossy(name).into_owned();
    TopicReport { name, id: format!("{:016x}", id.0), shard, dropped, ..TopicReport::default() }
}

fn entry_report(block: u64, entry: &Entry<'_>, topic: &str, last: bool) -> EntryReport {
    let mut report = EntryReport {
        block,
        kind: "",
        topic: topic.to_owned(),
        first_seq: None,
        last_seq: None,
        ts: None,
        bytes: 0,
        last,
    };
    let (kind, first, to, bytes) = match entry {
        Entry::Records(records) => {
            report.ts = Some(records.header.ts);
            let header = &records.header;
            ("records", Some(header.first_seq), Some(header.last_seq()), u64::from(header.counted_bytes))
        }
        Entry::Delete { bytes, ranges, .. } => {
            let (first, last) = (ranges.first().map(|range| range.0), ranges.last().map(|range| range.1));
            ("delete", first, last, *bytes)
        }
        Entry::Topic { head, .. } => ("topic", None, Some(*head), 0),
        Entry::Drop(_) => ("drop", None, None, 0),
        Entry::Reserve { through, .. } => ("reserve", None, Some(*through), 0),
        Entry::Floor { loss, seq, bytes, .. } => (
            ["floor: cap", "floor: age", "floor: source"].get(*loss as usize).copied().unwrap_or("floor"),
            None,
            Some(*seq),
            *bytes,
        ),
        Entry::Trim { first, last, .. } => ("trim", Some(*first), Some(*last), 0),
        // Its seqs are the source's.
        Entry::Link { state, is_gone: false } => ("link", None, Some(state.position), 0),
        Entry::Link { is_gone: true, .. } => ("link gone", None, None, 0),
        Entry::Router(_) => ("router", None, None, 0),
        Entry::RouterDrop(_) => ("router drop", None, None, 0),
        Entry::Lease { jobs, .. } => {
            let kind = match jobs.first().map(|job| job.state) {
                Some(JobState::Leased) => "lease",
                Some(JobState::Delayed) => "lease: delayed",
                _ => "lease: ready",
            };
            (kind, jobs.first().map(|job| job.seq), jobs.last().map(|job| job.seq), 0)
        }
    };
    EntryReport { kind, first_seq: first, last_seq: to, bytes, ..report }
}

fn record_report(topic: &str, record: &Record<'_>, from: &str) -> RecordReport {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    RecordReport {
        topic: topic.to_owned(),
        seq: record.seq,
        ts: record.ts,
        tag: record.tag.map(text),
        node: record.node.map(text),
        data: text(record.data),
        meta: record.meta.map(text),
        from: from.to_owned(),
    }
}
