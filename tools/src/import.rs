//! `runelog import`: a file of any size into a topic, in bounded memory, to be started again at will.
//! Lives here: the options, the topic's check, progress and summary.
//! Not here: reading (`items`, `walk`), bodies and keys (`batch`), the wire (`send`).

mod batch;
mod items;
mod send;
#[cfg(test)]
mod tests;
mod walk;

use std::cell::Cell;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use runelog_engine::config::is_topic_name;
use runelog_engine::limits::BATCH_RECORDS_MAX;

use crate::client::{Client, persist};
use batch::{Batch, Batcher};
use items::{Format, Pick};
use send::{Tally, Target};
use walk::Pointer;

/// The window of a topic that an import creates: a week to come back and finish it.
const WINDOW_MS: u64 = 7 * 24 * 3_600_000;
/// A window below this gets a warning.
const WINDOW_MS_SHORT: u64 = 24 * 3_600_000;
/// Without a terminal, a line of progress this often.
const LINE_SECONDS: u64 = 5;

/// Put a file of JSON records into a topic.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
NDJSON: each line is a record; blank lines are skipped. JSON: the items of the array at
--data-pointer are records (a top-level value that is no array is one record). Data is stored
byte for byte as it stands in the file. A record that does not parse ends the import with its
number; the batches before it stay.

An import that was interrupted is finished by running the same command again: batches that are
already there are skipped, as long as the topic's idempotency window lasts. The file, its path
and --batch must be the same (standard input counts as one and the same file). A topic that is created gets a window of 7 days.

Examples:
  runelog import events.ndjson --topic events --tag-pointer /type
  runelog import twitter.json --topic tweets --data-pointer /statuses --class fsync
  zcat old.ndjson.gz | runelog import - --topic old")]
pub(crate) struct ImportArgs {
    /// File to read, or - for standard input
    file: PathBuf,
    /// Topic to append to; created if it is absent
    #[arg(long, value_name = "TOPIC")]
    topic: String,
    /// JSON pointer (RFC 6901): to the data in each NDJSON line, or to the array in a JSON document
    #[arg(long, value_name = "POINTER", default_value = "", hide_default_value = true)]
    data_pointer: Pointer,
    /// JSON pointer to the tag, a string, in each line or item; none there means no tag
    #[arg(long, value_name = "POINTER")]
    tag_pointer: Option<Pointer>,
    /// Layout of the file; without it .json means json and anything else ndjson
    #[arg(long)]
    format: Option<Format>,
    /// The server; if it wants a key, put that into the variable RUNELOG_KEY
    #[arg(long, default_value = "http://127.0.0.1:4000")]
    url: String,
    /// Records of one write at most; a write also ends at 8 MiB
    #[arg(long, value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u64).range(1..=BATCH_RECORDS_MAX as u64))]
    batch: u64,
    /// Durability of the topic if this creates it
    #[arg(long, value_enum)]
    class: Option<Class>,
    /// Read the file this many times over, as new records each time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    repeat: u64,
    /// Writes in flight; more than one is faster and gives up the order between batches
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    connections: u16,
    /// How long a write is tried again while the server is away or overloaded
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    retry_seconds: u64,
}

/// A durability class as the API spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Class {
    /// Answered when the disk has it
    Fsync,
    /// Answered when the operating system has it
    Disk,
    /// Answered like disk, without its promises over a crash
    Memory,
    /// Never written to disk
    Ephemeral,
}

impl Class {
    fn name(self) -> &'static str {
        match self {
            Class::Fsync => "fsync",
            Class::Disk => "disk",
            Class::Memory => "memory",
            Class::Ephemeral => "ephemeral",
        }
    }
}

/// Runs an import and prints its summary.
pub(crate) fn run(args: &ImportArgs) -> Result<(), String> {
    let started = Instant::now();
    let (tally, outcome) = import(args)?;
    let summary = summary(&args.topic, &tally, started.elapsed());
    match outcome {
        Ok(()) => {
            println!("{summary}");
            Ok(())
        }
        Err(why) => Err(format!(
            "{why}\nrunelog: stopped before the end; {summary}\n\
             runelog: the same command run again skips what is there and goes on"
        )),
    }
}

/// The import without its words: what was done, and what ended it early. The outer error means that
/// nothing was tried.
fn import(args: &ImportArgs) -> Result<(Tally, Result<(), String>), String> {
    if !is_topic_name(args.topic.as_bytes()) {
        return Err(format!("{:?} is not a topic name", args.topic));
    }
    let source = Source::new(args)?;
    let format = args.format.unwrap_or_else(|| format_of(&args.file));
    let bar = progress(source.bytes.map(|bytes| bytes * args.repeat));
    let patience = Duration::from_secs(args.retry_seconds);
    let target = Target {
        url: &args.url,
        topic: &args.topic,
        patience,
        connections: args.connections.into(),
        config: config_if_absent(args, patience)?,
        word: items::word(format),
    };
    let pick = Pick { data: args.data_pointer.clone(), tag: args.tag_pointer.clone() };
    let progress = Progress { bar: &bar, told: Cell::new(Instant::now()), read: Cell::new(0) };
    let outcome = send::run(&target, &bar, |send| {
        let mut batcher = Batcher::new(&source.name, args.batch);
        let mut send = |batch: Batch| {
            progress.show();
            send(batch)
        };
        for _ in 0..args.repeat {
            let input = Counted { input: source.open()?, read: &progress.read };
            // A bad record ends it here, and the batch begun before it is not sent: once the record is
            // mended, a full batch with another key would bring that part a second time.
            items::read(input, format, &pick, |item| batcher.push(&item).map_or(Ok(()), &mut send))?;
        }
        batcher.take().map_or(Ok(()), &mut send)
    });
    bar.finish_and_clear();
    Ok(outcome)
}

fn format_of(file: &Path) -> Format {
    match file.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("json") => Format::Json,
        _ => Format::Ndjson,
    }
}

/// The configuration to create the topic with, or `None` if it is there; then what it has is judged.
fn config_if_absent(args: &ImportArgs, patience: Duration) -> Result<Option<String>, String> {
    #[derive(serde::Deserialize)]
    struct State {
        config: Config,
    }
    #[derive(serde::Deserialize)]
    struct Config {
        durability: String,
        idempotency_window_ms: u64,
    }
    let client = Client::new(&args.url)?;
    let path = format!("/v0/topics/{}?touch=false", args.topic);
    let told = |why: &str| eprintln!("runelog: {why}");
    let answer = persist(patience, &told, || client.get(&path))?;
    match answer.status {
        200 => {}
        404 => {
            let class = args.class.map(|class| format!(",\"durability\":\"{}\"", class.name()));
            let class = class.unwrap_or_default();
            return Ok(Some(format!("{{\"idempotency_window_ms\":{WINDOW_MS}{class}}}")));
        }
        _ => return Err(answer.complaint()),
    }
    let State { config } = serde_json::from_slice(&answer.body)
        .map_err(|error| format!("the answer is not a topic's state: {error}"))?;
    if config.idempotency_window_ms < WINDOW_MS_SHORT {
        told(&format!(
            "the idempotency window of {} is {} s: started again later than that, this import would append \
             its records a second time",
            args.topic,
            config.idempotency_window_ms / 1000
        ));
    }
    if let Some(class) = args.class.filter(|class| class.name() != config.durability) {
        let (topic, has, asked) = (&args.topic, &config.durability, class.name());
        told(&format!("{topic} exists and stays {has}; --class {asked} is for a topic that is created"));
    }
    Ok(None)
}

/// The input: a file that can be read again, or standard input.
struct Source {
    path: Option<PathBuf>,
    /// What batches are keyed by: the absolute path, or `-`.
    name: PathBuf,
    bytes: Option<u64>,
}

impl Source {
    fn new(args: &ImportArgs) -> Result<Source, String> {
        if args.file == Path::new("-") {
            if args.repeat > 1 {
                return Err("standard input cannot be read again, as --repeat asks".into());
            }
            return Ok(Source { path: None, name: "-".into(), bytes: None });
        }
        let no = |error: io::Error| format!("cannot read {}: {error}", args.file.display());
        let name = args.file.canonicalize().map_err(no)?;
        let about = name.metadata().map_err(no)?;
        if about.is_dir() {
            return Err(format!("{} is a directory", args.file.display()));
        }
        // A pipe by name has no size and cannot be read again, which `open` will tell.
        let bytes = about.is_file().then_some(about.len());
        Ok(Source { path: Some(name.clone()), name, bytes })
    }

    fn open(&self) -> Result<Box<dyn Read>, String> {
        let Some(path) = &self.path else { return Ok(Box::new(io::stdin().lock())) };
        let file = File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Ok(Box::new(file))
    }
}

/// Counts what was read, for the progress.
struct Counted<'c, R> {
    input: R,
    read: &'c Cell<u64>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.input.read(buffer)?;
        self.read.set(self.read.get() + bytes as u64);
        Ok(bytes)
    }
}

/// A bar on a terminal, a line now and then elsewhere; both on stderr.
struct Progress<'b> {
    bar: &'b ProgressBar,
    told: Cell<Instant>,
    read: Cell<u64>,
}

impl Progress<'_> {
    fn show(&self) {
        self.bar.set_position(self.read.get());
        if !io::stderr().is_terminal() && self.told.get().elapsed().as_secs() >= LINE_SECONDS {
            self.told.set(Instant::now());
            let of = self.bar.length().map(|all| format!(" of {}", HumanBytes(all))).unwrap_or_default();
            eprintln!("runelog: read {}{of}", HumanBytes(self.read.get()));
        }
    }
}

fn progress(bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match bytes {
        Some(bytes) => (
            ProgressBar::new(bytes),
            "{wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} to go",
        ),
        None => (ProgressBar::no_length(), "{spinner} {binary_bytes}, {binary_bytes_per_sec}, {elapsed}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template parses"))
}

fn summary(topic: &str, tally: &Tally, elapsed: Duration) -> String {
    let Tally { sent, skipped, data_bytes, seqs } = tally;
    let seconds = elapsed.as_secs_f64();
    let range = seqs.map_or(String::new(), |(first, last)| format!(", seqs {first} to {last}"));
    let rate = (*sent as f64 / seconds.max(0.001)) as u64;
    format!(
        "{topic}: {} records sent, {} skipped as already there{range}, {} of data in {seconds:.2} s, {} \
         records/s",
        HumanCount(*sent),
        HumanCount(*skipped),
        HumanBytes(*data_bytes),
        HumanCount(rate)
    )
}
