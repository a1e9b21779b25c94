//! Load on a server, with what it used: the daemon, and the bare loop that is its ceiling. Lives here: the
//! one place that knows the generator of `bench`. Not here: which rates are tried (`knee`), what limits.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::bench::drive::{Pace, drive};
use crate::bench::measure::{Measure, Point};
use crate::bench::modes::Append;
use crate::bench::probe::Probe;
use crate::bench::server::Server;
use crate::bench::wire::Wire;
use crate::client::Client;

use super::facts::Root;
use super::usage::{Counters, Usage, Wal};

/// What a topic of the load keeps at most, in parts of what the server holds in memory: more than that, so
/// that sealing is part of the load, and little enough for every disk.
const KEPT_OF_MEMORY: u64 = 4;
/// Topics of the load.
const TOPICS: usize = 16;
/// What the bare loop answers: as much as the daemon does to an append.
const ANSWER: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length:        150\r\n\r\n";
const ANSWER_BODY_BYTES: usize = 150;
/// Connections on which nothing came for so long have no answer under way.
const QUIET: Duration = Duration::from_millis(300);
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// One kind of load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    pub(crate) class: String,
    pub(crate) batch: usize,
    pub(crate) record_bytes: usize,
    pub(crate) connections: usize,
}

impl Shape {
    pub(crate) fn new(class: &str, batch: usize, record_bytes: usize) -> Shape {
        // Small requests need many at a time to fill commits; of large ones a few do.
        let connections = if batch * record_bytes < 4096 { 64 } else { 16 };
        Shape { class: class.to_owned(), batch, record_bytes, connections }
    }

    /// In words.
    pub(crate) fn text(&self) -> String {
        format!("{}, {} x {} B", self.class, self.batch, self.record_bytes)
    }

    fn topics(&self, count: usize) -> Vec<String> {
        let name = |index| format!("tune-{}-{}-{}-{index:02}", self.class, self.batch, self.record_bytes);
        (0..count).map(name).collect()
    }
}

/// What is asked how fast, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Requests a second; none: as fast as answers come.
    pub(crate) rate: Option<f64>,
    pub(crate) warm_up: Duration,
    pub(crate) duration: Duration,
}

/// A server under load.
pub(crate) struct Bed<'a> {
    server: Server,
    client: Client,
    wire: Wire,
    /// The load that the connections are for, and the number of the first of them.
    connected: Option<(Shape, usize)>,
    root: &'a Root,
    /// Name of the disk below the data directory.
    disk: Option<&'a str>,
    shards: usize,
    hot_bytes: u64,
    raw: bool,
}

impl<'a> Bed<'a> {
    /// Starts the daemon below `dir` on `cpus`, one shard each.
    pub(crate) fn daemon(
        dir: &Path,
        cpus: &[usize],
        root: &'a Root,
        disk: Option<&'a str>,
        settings: &[(&str, u64)],
    ) -> Result<Bed<'a>, String> {
        let mut flags: Vec<String> =
            settings.iter().map(|(name, value)| format!("--{}={value}", name.replace('_', "-"))).collect();
        flags.extend([format!("--shards={}", cpus.len()), "--log=warn".into()]);
        let hot = settings.iter().find(|(name, _)| *name == "hot_bytes");
        let hot_bytes = hot.map_or(256 << 20, |(_, bytes)| *bytes);
        let server = Server::start(dir, cpus, &flags)?;
        Bed::of(server, root, disk, cpus.len(), hot_bytes, false)
    }

    /// Starts the bare loop that answers requests of `shape`.
    pub(crate) fn echo(dir: &Path, cpus: &[usize], root: &'a Root, shape: &Shape) -> Result<Bed<'a>, String> {
        let request = Append::new(&shape.topics(1), shape.batch, shape.record_bytes, 0.0).request_bytes();
        let answer = format!("{ANSWER}{}", " ".repeat(ANSWER_BODY_BYTES));
        let server = Server::start_raw(dir, cpus, request, answer.as_bytes(), None)?;
        Bed::of(server, root, None, cpus.len(), 0, true)
    }

    fn of(
        server: Server,
        root: &'a Root,
        disk: Option<&'a str>,
        shards: usize,
        hot_bytes: u64,
        raw: bool,
    ) -> Result<Bed<'a>, String> {
        let client = Client::new(&format!("http://{}", server.address))?;
        let wire = Wire::new().map_err(|error| format!("io_uring: {error}"))?;
        Ok(Bed { server, client, wire, connected: None, root, disk, shards, hot_bytes, raw })
    }

    /// Shards of the server.
    pub(crate) fn shards(&self) -> usize {
        self.shards
    }

    /// Makes the topics of a load.
    pub(crate) fn prepare(&self, shape: &Shape) -> Result<(), String> {
        let cap_bytes = KEPT_OF_MEMORY * self.hot_bytes * self.shards as u64 / TOPICS as u64;
        for topic in shape.topics(TOPICS) {
            self.put(&topic, &format!("{{\"durability\":\"{}\",\"cap_bytes\":{cap_bytes}}}", shape.class))?;
        }
        Ok(())
    }

    /// Lets the records of a load go.
    pub(crate) fn clear(&self, shape: &Shape) -> Result<(), String> {
        for topic in shape.topics(TOPICS) {
            self.put(&topic, &format!("{{\"durability\":\"{}\",\"cap_records\":1}}", shape.class))?;
        }
        Ok(())
    }

    fn put(&self, topic: &str, config: &str) -> Result<(), String> {
        let answer = self.client.put(&format!("/v0/topics/{topic}"), config.as_bytes())?;
        if answer.status < 300 { Ok(()) } else { Err(answer.complaint()) }
    }

    fn wal(&self) -> Result<Wal, String> {
        if self.raw {
            return Ok(Wal::default());
        }
        let answer = self.client.get("/v0/metrics")?;
        let text = String::from_utf8_lossy(&answer.body);
        Wal::parse(&text)
            .ok_or_else(|| format!("the server's metrics lack counters of the log: {}", answer.complaint()))
    }

    /// Takes one point. What was used is that of the warm-up, too: the load is the same.
    pub(crate) fn point(&mut self, shape: &Shape, plan: &Plan) -> Result<(Point, Usage), String> {
        let topics = shape.topics(if self.raw { 1 } else { TOPICS });
        let mut work = Append::new(&topics, shape.batch, shape.record_bytes, 0.0);
        let first = self.connect(shape)?;
        let pace = plan.rate.map_or(Pace::Closed, Pace::Open);
        let before = Counters::read(self.root, self.server.pid(), self.disk, self.wal()?);
        let began = Instant::now();
        let measure = Measure::new(self.wire.now(), plan.warm_up, plan.duration, &[], Probe::default());
        let measure =
            drive(&mut self.wire, first, shape.connections, &mut work, pace, measure, |_, _, _| {})?;
        let seconds = began.elapsed().as_secs_f64();
        let after = Counters::read(self.root, self.server.pid(), self.disk, self.wal()?);
        self.settle();
        Ok((measure.finish(), after.since(&before, seconds)))
    }

    /// Connections for a load: those that it had before, for a server closes those that rest for long.
    fn connect(&mut self, shape: &Shape) -> Result<usize, String> {
        match &self.connected {
            Some((connected, first)) if connected == shape => Ok(*first),
            _ => {
                let address = self.server.address;
                let first = self.wire.connect(address, shape.connections);
                let first = first.map_err(|error| format!("{address}: {error}"))?;
                self.connected = Some((shape.clone(), first));
                Ok(first)
            }
        }
    }

    /// Waits until the last answers are there: they must not count as those of the next point.
    fn settle(&mut self) {
        let began = Instant::now();
        let mut last = began;
        while last.elapsed() < QUIET && began.elapsed() < SETTLE_MAX {
            self.wire.turn(Some(QUIET), |_, _, _| last = Instant::now());
        }
    }
}
