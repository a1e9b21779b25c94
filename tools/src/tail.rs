//! `runelog tail`: the records of a topic as lines on standard output.

use std::io::{self, Write};
use std::time::Duration;

use runelog_engine::config::is_topic_name;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::client::{Answer, Client, persist};

/// How long a read that once worked is tried again: a restart of the server fits in.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest wait the server grants (L-9).
const WAIT_MS: u64 = 30_000;
/// Records asked for at once: the most the server gives (L-9).
const LIMIT: u64 = 1000;

/// Print the records of a topic, one a line.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Records lost to a cap or to age are told on stderr. Ctrl-C ends it.

Examples:
  runelog tail events                      the last 10 records
  runelog tail events --from 0 --data-only everything, as it was appended
  runelog tail events -n 0 --follow        what comes from now on")]
pub(crate) struct TailArgs {
    /// Topic to read
    topic: String,
    /// Print the records after this seq (0 = from the start)
    #[arg(long, value_name = "SEQ", conflicts_with = "last")]
    from: Option<u64>,
    /// Begin this many seqs before the end
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    last: u64,
    /// Wait for more at the end
    #[arg(short, long)]
    follow: bool,
    /// The server; if it wants a key, put that into the variable RUNELOG_KEY
    #[arg(long, default_value = "http://127.0.0.1:4000")]
    url: String,
    /// Print tags too
    #[arg(long)]
    tags: bool,
    /// Print the data alone
    #[arg(long)]
    data_only: bool,
    /// Print each record byte for byte, though one with line breaks inside is then several lines
    #[arg(long)]
    raw: bool,
}

#[derive(Deserialize)]
struct State {
    head_seq: u64,
}

#[derive(Deserialize)]
struct Diff<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
    next_from_seq: u64,
    caught_up: bool,
    tombstone: Option<Tombstone>,
}

#[derive(Deserialize)]
struct Tombstone {
    gap_from: u64,
    gap_to: u64,
    reason: String,
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Prints until the end, or, following, until it is interrupted.
pub(crate) fn run(args: &TailArgs) -> Result<(), String> {
    let mut told = |words: &str| eprintln!("runelog: {words}");
    print(args, &mut io::stdout().lock(), &mut told)
}

fn print(args: &TailArgs, out: &mut impl Write, told: &mut dyn FnMut(&str)) -> Result<(), String> {
    if !is_topic_name(args.topic.as_bytes()) {
        return Err(format!("{:?} is not a topic name", args.topic));
    }
    let client = Client::new(&args.url)?;
    let mut from = match args.from {
        Some(from) => from,
        None => {
            let answer = good(client.get(&format!("/v0/topics/{}", args.topic))?)?;
            let State { head_seq } = parse(&answer.body)?;
            head_seq.saturating_sub(args.last)
        }
    };
    let path = format!("/v0/topics/{}/diff", args.topic);
    // The first read fails at once, so that a wrong address is told; later ones outlast a restart.
    let mut patience = Duration::ZERO;
    loop {
        let wait_ms = if args.follow { WAIT_MS } else { 0 };
        let body = format!(
            "{{\"from_seq\":{from},\"limit\":{LIMIT},\"include_tags\":{},\"wait_ms\":{wait_ms}}}",
            args.tags
        );
        let waiting = |why: &str| {
            if !patience.is_zero() {
                eprintln!("runelog: {why}");
            }
        };
        let answer = good(persist(patience, &waiting, || client.post(&path, body.as_bytes()))?)?;
        patience = PATIENCE;
        let diff: Diff<'_> = parse(&answer.body)?;
        if let Some(tombstone) = &diff.tombstone {
            told(&tombstone.words(from));
        }
        match print_records(args, &diff, out) {
            // Whoever read the lines has enough of them.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            outcome => outcome.map_err(|error| format!("cannot write: {error}"))?,
        }
        let stands_still = diff.records.is_empty() && diff.next_from_seq == from;
        if !args.follow && (diff.caught_up || stands_still) {
            return Ok(());
        }
        from = diff.next_from_seq;
    }
}

fn good(answer: Answer) -> Result<Answer, String> {
    if answer.status == 200 { Ok(answer) } else { Err(answer.complaint()) }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the answer is not understood: {error}"))
}

fn print_records(args: &TailArgs, diff: &Diff<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut lines = Vec::new();
    for record in &diff.records {
        let text = if args.data_only {
            serde_json::from_str::<Record<'_>>(record.get()).map_err(io::Error::other)?.data.get()
        } else {
            record.get()
        };
        // Almost every record is one line as it is, and then stays as it is.
        if args.raw || !text.contains(['\n', '\r']) {
            lines.extend_from_slice(text.as_bytes());
        } else {
            compact(text.as_bytes(), &mut lines);
        }
        lines.push(b'\n');
    }
    out.write_all(&lines)?;
    out.flush()
}

/// Appends valid JSON without the white space between its tokens.
fn compact(json: &[u8], out: &mut Vec<u8>) {
    let (mut in_string, mut escaped) = (false, false);
    for &byte in json {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = byte == b'"';
        }
        out.push(byte);
    }
}

impl Tombstone {
    fn words(&self, from: u64) -> String {
        let Tombstone { gap_from, gap_to, reason } = self;
        let why = match reason.as_str() {
            "recreated" => {
                return format!(
                    "the topic ends at seq {gap_to}, before {from}: it was deleted and created again; reading \
                     it from its start"
                );
            }
            "cap" => "the topic's cap",
            "ttl" => "their age",
            "mixed" => "the topic's cap and their age",
            "source_trim" => "a trim of the source topic",
            other => other,
        };
        format!("records {gap_from} to {gap_to} are gone, lost to {why}")
    }
}

#[cfg(test)]
#[path = "tail_tests.rs"]
mod tests;
