//! `runelog verify`: whether a data directory is whole, by the engine's own judge, without changing it.
//! Lives here: the options, the lock, and how the verdict is told. Not here: the judging
//! (`runelog_engine::verify`); what is in a directory ([`inspect`](crate::inspect)).

#[cfg(test)]
mod tests;

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use runelog_engine::disk::{Io, io::block_on};
use runelog_engine::verify::{Finding, Summary, Weight, verify};
use runelog_net::server::LOCK_FILE;
use serde::Serialize;

use crate::look::files_below;

/// Findings that are kept for the one JSON object; the others are only counted.
const JSON_FINDINGS_MAX: usize = 10_000;
/// Topics at risk that a line names.
const RISKS_SHOWN: usize = 8;

/// Judge a data directory whose server has stopped or crashed; changes nothing.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(after_help = "\
What a start would do is asked of the server's own recovery, on a disk that keeps nothing, and every
record is read as a reader would get it; then the rest of each needed file is checked too. It takes the
memory of a start of the largest core, and reads sealed data twice.

A line for each finding says what it means:
  START    a start is refused
  LOSS     a start goes on without what may have been there
  READ     a read, or a delete by tag, fails; or a topic is not what it says of itself
  SPARE    nothing is lost; damaged is what could have stood in for other damage
  unknown  it could not be judged: another format version, or no permission
  note     harmless: the trace of a crash, or what the next start removes

Exit status: 0 whole, 1 damaged, 2 it could not be judged, 3 a server runs on it (stop it, or look with
`runelog inspect`).

Examples:
  runelog verify ./runelog-data
  runelog verify ./runelog-data --json")]
pub(crate) struct VerifyArgs {
    /// The data directory
    data_dir: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Whole,
    Damaged,
    NotJudged,
    Served,
}

impl Verdict {
    fn of(summary: &Summary) -> Verdict {
        match summary.heaviest() {
            Weight::Note => Verdict::Whole,
            Weight::Unjudged => Verdict::NotJudged,
            Weight::Spare | Weight::Read | Weight::Loss | Weight::Start => Verdict::Damaged,
        }
    }

    fn exit(self) -> ExitCode {
        ExitCode::from(match self {
            Verdict::Whole => 0,
            Verdict::Damaged => 1,
            Verdict::NotJudged => 2,
            Verdict::Served => 3,
        })
    }
}

#[derive(Debug, Serialize)]
struct JsonFinding {
    weight: &'static str,
    file: String,
    offset: Option<u64>,
    what: String,
    at_risk: Vec<JsonRisk>,
}

#[derive(Debug, Serialize)]
struct JsonRisk {
    topic: String,
    first_seq: u64,
    last_seq: u64,
}

#[derive(Debug, Serialize)]
struct JsonReport {
    data_dir: String,
    verdict: Verdict,
    /// Whether a start would succeed, if that is known.
    starts: Option<bool>,
    /// In words.
    says: String,
    shards: u64,
    log_blocks: u64,
    segments: u64,
    topics: u64,
    records: u64,
    bytes: u64,
    findings: Vec<JsonFinding>,
    /// Findings beyond those.
    findings_left_out: u64,
}

/// Judges and prints.
pub(crate) fn run(args: &VerifyArgs) -> ExitCode {
    let mut out = io::stdout().lock();
    let (verdict, failed) = judge(args, &mut out);
    match failed.and_then(|()| out.flush()) {
        // Whoever closed the pipe has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            eprintln!("runelog: cannot write: {error}");
            Verdict::NotJudged.exit()
        }
        _ => verdict.exit(),
    }
}

/// Judges, telling it to `out`; whether that could be written is told apart.
fn judge(args: &VerifyArgs, out: &mut dyn Write) -> (Verdict, io::Result<()>) {
    let mut written = Ok(());
    let mut line = |text: String| {
        if written.is_ok() {
            written = writeln!(out, "{text}");
        }
    };
    let (mut kept, mut left_out) = (Vec::new(), 0);
    let mut summary = Summary::default();
    let (verdict, says) = match keep_servers_away(&args.data_dir) {
        Err((verdict, why)) => (verdict, why),
        Ok(_lock) => {
            let io = Io::default();
            let mut disk = files_below(args.data_dir.clone());
            let tell = |finding: Finding| match args.json {
                false => line(text_of(&finding)),
                true if kept.len() == JSON_FINDINGS_MAX => left_out += 1,
                true => kept.push(json_of(finding)),
            };
            summary = block_on(&io, &mut disk, verify(&io, tell));
            (Verdict::of(&summary), says(&summary))
        }
    };
    if !args.json {
        let Summary { shards, log_blocks, segments, read, .. } = summary;
        if verdict != Verdict::Served {
            line(format!(
                "checked: {shards} shards, {log_blocks} blocks of the log, {segments} segments; {} topics, {} live \
                 records of {} bytes",
                read.topics, read.records, read.bytes
            ));
        }
        line(says);
        return (verdict, written);
    }
    let starts = match verdict {
        Verdict::Served => None,
        _ if summary.count(Weight::Start) > 0 => Some(false),
        _ if summary.count(Weight::Unjudged) > 0 => None,
        _ => Some(true),
    };
    let report = JsonReport {
        data_dir: args.data_dir.display().to_string(),
        verdict,
        starts,
        says,
        shards: summary.shards,
        log_blocks: summary.log_blocks,
        segments: summary.segments,
        topics: summary.read.topics,
        records: summary.read.records,
        bytes: summary.read.bytes,
        findings: kept,
        findings_left_out: left_out,
    };
    line(serde_json::to_string(&report).expect("plain data"));
    (verdict, written)
}

/// Holds the lock of the directory for reading, if it has one: no server starts meanwhile, and other
/// judges may look. Nothing is created.
fn keep_servers_away(data_dir: &Path) -> Result<Option<File>, (Verdict, String)> {
    let unjudged = |why: String| (Verdict::NotJudged, format!("not judged: {}: {why}", data_dir.display()));
    if !data_dir.is_dir() {
        return Err(unjudged("not a directory".to_owned()));
    }
    let file = match File::open(data_dir.join(LOCK_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unjudged(format!("{LOCK_FILE}: {error}"))),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let why = format!("not judged: a server runs on {}, which changes it", data_dir.display());
            Err((Verdict::Served, why))
        }
        Err(TryLockError::Error(error)) => Err(unjudged(format!("{LOCK_FILE}: {error}"))),
    }
}

fn says(summary: &Summary) -> String {
    let [_, unjudged, spare, read, loss, start] = summary.findings;
    let mut parts = Vec::new();
    let mut part = |count: u64, text: &str| {
        if count > 0 {
            parts.push(format!("{text} ({count})"));
        }
    };
    part(start, "a start is refused");
    part(loss, "a start goes on without what may have been there");
    part(read, "reads fail");
    part(spare, "what nothing needs at present is damaged");
    part(unjudged, "some of it could not be judged");
    match Verdict::of(summary) {
        Verdict::Whole => "whole: a start succeeds, and every record and tag list can be read".to_owned(),
        Verdict::NotJudged => format!("not judged: {}", parts.join("; ")),
        Verdict::Damaged | Verdict::Served => {
            if start + loss + read == 0 {
                parts.insert(0, "a start succeeds and loses nothing".to_owned());
            }
            format!("damaged: {}", parts.join("; "))
        }
    }
}

fn word(weight: Weight) -> &'static str {
    match weight {
        Weight::Note => "note",
        Weight::Unjudged => "unknown",
        Weight::Spare => "SPARE",
        Weight::Read => "READ",
        Weight::Loss => "LOSS",
        Weight::Start => "START",
    }
}

fn text_of(finding: &Finding) -> String {
    let Finding { weight, file, offset, what, at_risk } = finding;
    let mut text = format!("{:<7}  {file}", word(*weight));
    if let Some(offset) = offset {
        text.push_str(&format!(", offset {offset}"));
    }
    text.push_str(&format!(": {what}"));
    let shown: Vec<String> = at_risk
        .iter()
        .take(RISKS_SHOWN)
        .map(|risk| format!("{:?} seqs {}..={}", risk.topic, risk.first_seq, risk.last_seq))
        .collect();
    if !shown.is_empty() {
        text.push_str(&format!("; at risk: {}", shown.join(", ")));
    }
    if at_risk.len() > RISKS_SHOWN {
        text.push_str(&format!(" and {} more topics", at_risk.len() - RISKS_SHOWN));
    }
    text
}

fn json_of(finding: Finding) -> JsonFinding {
    let Finding { weight, file, offset, what, at_risk } = finding;
    let at_risk = at_risk.into_iter().map(|risk| JsonRisk {
        topic: risk.topic,
        first_seq: risk.first_seq,
        last_seq: risk.last_seq,
    });
    JsonFinding { weight: word(weight), file, offset, what, at_risk: at_risk.collect() }
}
