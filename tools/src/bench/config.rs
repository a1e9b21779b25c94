//! What one point of a benchmark is: a plain value, complete, and written with its result. Lives here: its
//! fields and how it is named. Not here: where they come from (`args`), what they do (`point`).

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::fanout::Follow;
use super::mixed::Mix;
use super::modes::From;
use super::server::all_cpus;

/// What is asked of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// Appends.
    Append,
    /// Reads with diff.
    Read,
    /// Writes, and how long they take to each of many readers.
    Fanout,
    /// Claim and ack.
    Queue,
    /// Several kinds by weight.
    Mixed,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Subject {
    /// A fresh daemon on an empty data directory.
    Fresh,
    /// A server that runs already.
    Url(String),
    /// The ceiling: a bare loop that receives and answers.
    RawEcho,
    /// The same, and what it receives goes to a file before the answer.
    RawLog,
    /// The disk alone: blocks of requests written from memory.
    RawDisk,
}

/// A point.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Config {
    pub(crate) mode: Mode,
    pub(crate) subject: Subject,
    /// Durability class of the topics.
    pub(crate) class: String,
    /// Connections that ask; of a fan-out those that write.
    pub(crate) connections: usize,
    pub(crate) topics: usize,
    /// Records in an append, jobs in a claim.
    pub(crate) batch: usize,
    /// Bytes of a record's data.
    pub(crate) record_bytes: usize,
    /// Requests a second (open loop); none: as fast as answers come (closed loop).
    pub(crate) rate: Option<f64>,
    /// Exponent of the Zipf distribution by which topics are picked.
    pub(crate) skew: f64,
    /// Routers from each topic.
    pub(crate) routers: usize,
    /// Appends go to the own ports of the cores that own their topics.
    pub(crate) own_ports: bool,
    pub(crate) from: From,
    /// Records that a read asks for.
    pub(crate) limit: u64,
    /// Records put in before reads and queues.
    pub(crate) fill: u64,
    /// Readers of a fan-out.
    pub(crate) readers: usize,
    pub(crate) follow: Follow,
    pub(crate) mix: Mix,
    pub(crate) warm_up_seconds: u64,
    pub(crate) seconds: u64,
    /// CPUs of the generator.
    pub(crate) generator_cpus: Vec<usize>,
    /// CPUs of a server that is started; one shard on each.
    pub(crate) server_cpus: Vec<usize>,
    /// Its further flags.
    pub(crate) server_flags: Vec<String>,
    /// Where its data directory is made.
    pub(crate) dir: PathBuf,
    /// What the raw servers answer.
    #[serde(skip)]
    pub(crate) raw_answer: Arc<[u8]>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            mode: Mode::Append,
            subject: Subject::Fresh,
            class: "fsync".to_owned(),
            connections: 64,
            topics: 16,
            batch: 1,
            record_bytes: 200,
            rate: None,
            skew: 0.0,
            routers: 0,
            own_ports: false,
            from: From::Head,
            limit: 1000,
            fill: 1_000_000,
            readers: 100,
            follow: Follow::Sse,
            mix: "append=80,read=20".parse().expect("a mix"),
            warm_up_seconds: 5,
            seconds: 10,
            generator_cpus: all_cpus(),
            server_cpus: all_cpus(),
            server_flags: Vec::new(),
            dir: PathBuf::from("."),
            raw_answer: Arc::default(),
        }
    }
}

impl Config {
    /// The name of what is measured, without the sizes.
    pub(crate) fn name(&self) -> String {
        match (&self.subject, self.mode) {
            (Subject::RawEcho, _) => "raw echo".to_owned(),
            (Subject::RawLog, _) => "raw log".to_owned(),
            (Subject::RawDisk, _) => "raw disk".to_owned(),
            (_, Mode::Append) => "append".to_owned(),
            (_, Mode::Read) => format!("read {}", lower(&self.from)),
            (_, Mode::Fanout) => format!("fanout {}", lower(&self.follow)),
            (_, Mode::Queue) => "queue".to_owned(),
            (_, Mode::Mixed) => format!("mixed {}", self.mix),
        }
    }

    /// Everything that tells points of one run apart, but the rate.
    pub(crate) fn series(&self) -> String {
        let mut text = format!("{}, {}, {} connections", self.name(), self.class, self.connections);
        if self.mode == Mode::Fanout {
            let _ = write!(text, ", {} readers", self.readers);
        }
        let _ = write!(text, ", {} topics, {} x {} B", self.topics, self.batch, self.record_bytes);
        if self.mode == Mode::Read {
            let _ = write!(text, ", {} a read", self.limit);
        }
        if self.skew != 0.0 {
            let _ = write!(text, ", skew {}", self.skew);
        }
        if self.routers > 0 {
            let _ = write!(text, ", {} routers", self.routers);
        }
        if self.own_ports {
            text.push_str(", own ports");
        }
        if self.subject == Subject::Fresh {
            let _ = write!(text, ", {} server CPUs", self.server_cpus.len());
        }
        text
    }

    /// The same with the rate: equal for repetitions of one point.
    pub(crate) fn title(&self) -> String {
        self.rate.map_or_else(|| self.series(), |rate| format!("{}, at {rate}/s", self.series()))
    }

    /// Whether answers come from a loop that is no daemon.
    pub(crate) fn is_raw(&self) -> bool {
        matches!(self.subject, Subject::RawEcho | Subject::RawLog | Subject::RawDisk)
    }
}

fn lower(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}
