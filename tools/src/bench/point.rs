//! One point, from a server's start to its numbers: [`point`]. Lives here: what has to be there before, and
//! which work is driven. Not here: how it is driven (`drive`, `fanout`), what the numbers say (`outcome`).

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::client::{self, Client};

use super::answer::{Answers, Keep, last_member};
use super::config::{Config, Mode, Subject};
use super::drive::{Pace, Work, drive};
use super::fanout::{Follow, Writes, fan_out, opening};
use super::fill::fill;
use super::host::load_average;
use super::measure::{Measure, Point};
use super::mixed::Mixed;
use super::modes::{Append, From, Key, Queue, Read, topic_names};
use super::outcome::{Known, Outcome};
use super::probe::Probe;
use super::raw_log::disk_ceiling;
use super::server::{Server, pin};
use super::wire::Wire;

/// Memory of a server of which cold reads are measured: as little as it takes.
const COLD_HOT_BYTES: u64 = 16 << 20;
const COLD_CACHE_BYTES: u64 = 1 << 20;

/// Where a point runs.
struct Target {
    server: Option<Server>,
    address: SocketAddr,
    client: Client,
}

/// Measures one point, on a server of its own unless it names one.
pub(crate) fn point(config: &Config) -> Result<Outcome, String> {
    let load_average = load_average();
    let (point, known) = match config.subject {
        Subject::Fresh | Subject::Url(_) => daemon(config)?,
        Subject::RawEcho | Subject::RawLog => raw_server(config)?,
        Subject::RawDisk => raw_disk(config)?,
    };
    Ok(Outcome::judge(config.clone(), point, known, load_average))
}

type Found = (Point, Known);

/// The flags of a server: those that were asked for, and what cold reads need.
fn server_flags(config: &Config) -> Vec<String> {
    let mut flags = config.server_flags.clone();
    if config.mode == Mode::Read && config.from == From::Cold {
        flags.push(format!("--hot-bytes={COLD_HOT_BYTES}"));
        flags.push(format!("--cache-bytes={COLD_CACHE_BYTES}"));
    }
    flags
}

/// How many records cold reads need at least, so that the older half of them is no longer in memory.
pub(crate) fn cold_fill_min(config: &Config) -> u64 {
    let memory = (COLD_HOT_BYTES + COLD_CACHE_BYTES) * config.server_cpus.len() as u64;
    4 * memory / config.record_bytes.max(1) as u64
}

fn target(config: &Config) -> Result<Target, String> {
    if let Subject::Url(url) = &config.subject {
        let host = url.trim_start_matches("http://").trim_end_matches('/');
        let mut addresses = host.to_socket_addrs().map_err(|error| format!("{url}: {error}"))?;
        let address = addresses.next().ok_or_else(|| format!("{url} has no address"))?;
        return Ok(Target { server: None, address, client: Client::new(url)? });
    }
    let server = Server::start(&config.dir, &config.server_cpus, &server_flags(config))?;
    let (address, url) = (server.address, format!("http://{}", server.address));
    Ok(Target { server: Some(server), address, client: Client::new(&url)? })
}

impl Target {
    /// Makes topics, and the routers from them.
    fn create(&self, topics: &[String], config: &Config, kind: &str) -> Result<(), String> {
        for topic in topics {
            let body = format!("{{\"durability\":\"{}\",\"type\":\"{kind}\"}}", config.class);
            self.put(&format!("/v0/topics/{topic}"), &body)?;
            for index in 0..config.routers {
                let body = format!("{{\"source\":\"{topic}\",\"dest\":\"{topic}-copy-{index}\"}}");
                self.put(&format!("/v0/routers/{topic}-{index}"), &body)?;
            }
        }
        Ok(())
    }

    fn put(&self, path: &str, body: &str) -> Result<(), String> {
        let answer = self.client.put(path, body.as_bytes())?;
        if answer.status < 300 { Ok(()) } else { Err(answer.complaint()) }
    }

    fn heads(&self, topics: &[String]) -> Result<Vec<u64>, String> {
        let head = |topic| {
            let answer = self.client.get(&format!("/v0/topics/{topic}"))?;
            last_member(&answer.body, "\"head_seq\":").ok_or_else(|| answer.complaint())
        };
        topics.iter().map(head).collect()
    }

    /// The topics of each core, as places in the list, by the address of its own port.
    fn own_ports(&self, topics: &[String]) -> Result<BTreeMap<SocketAddr, Vec<usize>>, String> {
        let mut cores: BTreeMap<SocketAddr, Vec<usize>> = BTreeMap::new();
        for (place, topic) in topics.iter().enumerate() {
            let answer = self.client.get(&format!("/v0/shards?topic={topic}"))?;
            let told: serde_json::Value =
                serde_json::from_slice(&answer.body).map_err(|_| answer.complaint())?;
            let port = told["shards"][0]["port"].as_u64().and_then(|port| u16::try_from(port).ok());
            let port = port.ok_or("--own-ports needs a server with shard_ports")?;
            cores.entry(SocketAddr::new(self.address.ip(), port)).or_default().push(place);
        }
        Ok(cores)
    }

    fn version(&self) -> Option<String> {
        let answer = self.client.get("/v0/health").ok()?;
        let health: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
        Some(health["version"].as_str()?.to_owned())
    }

    /// Opens the readers' streams.
    fn follow(&self, wire: &mut Wire, topics: &[String], config: &Config) -> Result<Range<usize>, String> {
        let first = wire.connect(self.address, config.readers).map_err(|error| error.to_string())?;
        for index in 0..config.readers {
            let topic = &topics[index % topics.len()];
            let mut stream_url = String::new();
            if config.follow == Follow::Sse {
                let body = format!("{{\"topics\":{{\"{topic}\":{{\"tail\":true}}}},\"limit\":1000}}");
                let answer = self.client.post("/v0/watch", body.as_bytes())?;
                let session: serde_json::Value =
                    serde_json::from_slice(&answer.body).map_err(|_| answer.complaint())?;
                stream_url = session["stream_url"].as_str().ok_or_else(|| answer.complaint())?.to_owned();
            }
            let opening = opening(config.follow, topic, &stream_url, &Key(client::bearer()));
            wire.out(first + index).ok_or("the server closed a connection")?.extend_from_slice(&opening);
        }
        Ok(first..first + config.readers)
    }
}

fn new_wire() -> Result<Wire, String> {
    Wire::new().map_err(|error| format!("io_uring: {error}"))
}

fn measure(config: &Config, now: Duration, parts: &[&'static str], server: Option<&Server>) -> Measure {
    let seconds = Duration::from_secs;
    let probe = Probe { server: server.map(Server::pid) };
    Measure::new(now, seconds(config.warm_up_seconds), seconds(config.seconds), parts, probe)
}

/// Drives work on connections of its own.
fn requests<W: Work>(
    wire: &mut Wire,
    address: SocketAddr,
    config: &Config,
    server: Option<&Server>,
    work: W,
) -> Result<Measure, String> {
    requests_to(wire, &[address], config, server, work)
}

/// The same, the first connection to the first address and so on around.
fn requests_to<W: Work>(
    wire: &mut Wire,
    addresses: &[SocketAddr],
    config: &Config,
    server: Option<&Server>,
    mut work: W,
) -> Result<Measure, String> {
    let connect = |index: usize| {
        let address = addresses[index % addresses.len()];
        wire.connect(address, 1).map_err(|error| format!("{address}: {error}"))
    };
    let connected: Vec<usize> = (0..config.connections).map(connect).collect::<Result<_, _>>()?;
    let first = *connected.first().ok_or("no connections")?;
    let pace = config.rate.map_or(Pace::Closed, Pace::Open);
    let measure = measure(config, wire.now(), W::PARTS, server);
    drive(wire, first, config.connections, &mut work, pace, measure, Progress::new(config).teller())
}

fn daemon(config: &Config) -> Result<Found, String> {
    let target = target(config)?;
    let Config { connections, batch, record_bytes, skew, limit, .. } = *config;
    let topics =
        topic_names(if config.mode == Mode::Queue { "queue" } else { "log" }, &config.class, config.topics);
    target.create(&topics, config, if config.mode == Mode::Queue { "queue" } else { "log" })?;
    let mut wire = new_wire()?;
    let server = target.server.as_ref();
    // Asked before the load begins.
    let settings = match &config.subject {
        Subject::Url(url) => format!("not known: {url} was running already"),
        _ => server.map(Server::settings).unwrap_or_default(),
    };
    let append = |topics: &[String]| Append::new(topics, batch, record_bytes, skew);
    let read = |topics: &[String], from| {
        target.heads(topics).map(|heads| Read::new(topics, heads, connections, from, limit, skew))
    };
    if matches!(config.mode, Mode::Read | Mode::Queue | Mode::Mixed) {
        fill(&mut wire, target.address, &topics, config.fill, record_bytes)?;
    }
    let finished = match config.mode {
        Mode::Append if config.own_ports => {
            let cores = target.own_ports(&topics)?;
            let addresses: Vec<SocketAddr> = cores.keys().copied().collect();
            let work = append(&topics).grouped(cores.into_values());
            requests_to(&mut wire, &addresses, config, server, work)?
        }
        Mode::Append => requests(&mut wire, target.address, config, server, append(&topics))?,
        Mode::Read => {
            if config.from == From::Cold {
                server.ok_or("cold reads need a server of their own")?.drop_pages();
            }
            requests(&mut wire, target.address, config, server, read(&topics, config.from)?)?
        }
        Mode::Queue => {
            let work = Queue::new(&topics, connections, batch as u64);
            requests(&mut wire, target.address, config, server, work)?
        }
        Mode::Mixed => {
            let queues = topic_names("queue", &config.class, config.topics);
            if config.mix.has_queues() {
                target.create(&queues, &Config { routers: 0, ..config.clone() }, "queue")?;
                fill(&mut wire, target.address, &queues, config.fill, record_bytes)?;
            }
            let reads = (read(&topics, From::Head)?, read(&topics, From::Start)?);
            let appends = (append(&topics), append(&queues));
            let queue = Queue::new(&queues, connections, batch as u64);
            let work = Mixed::new(&config.mix, connections, appends, reads, queue);
            requests(&mut wire, target.address, config, server, work)?
        }
        Mode::Fanout => {
            let first = wire.connect(target.address, connections).map_err(|error| error.to_string())?;
            let readers = target.follow(&mut wire, &topics, config)?;
            let writes = Writes {
                first,
                connections,
                topics: &topics,
                per_second: config.rate.ok_or("a fan-out needs a rate: writes a second")?,
                batch,
                record_bytes,
            };
            let measure = measure(config, wire.now(), &[], server);
            fan_out(&mut wire, readers, &writes, measure, Progress::new(config).teller())?
        }
    };
    let (resident_bytes, version) = (server.and_then(Server::resident_bytes), target.version());
    Ok((finished.finish(), Known { resident_bytes, version, settings }))
}

fn raw_append(config: &Config) -> Append {
    let topics = topic_names("log", &config.class, config.topics);
    Append::new(&topics, config.batch, config.record_bytes, config.skew)
}

fn raw_server(config: &Config) -> Result<Found, String> {
    let work = raw_append(config);
    let log = (config.subject == Subject::RawLog).then_some(config.class == "fsync");
    let server =
        Server::start_raw(&config.dir, &config.server_cpus, work.request_bytes(), &config.raw_answer, log)?;
    let mut wire = new_wire()?;
    let finished = requests(&mut wire, server.address, config, Some(&server), work)?;
    Ok((finished.finish(), Known { resident_bytes: server.resident_bytes(), ..Known::default() }))
}

/// The disk, written from one CPU of the server's.
fn raw_disk(config: &Config) -> Result<Found, String> {
    let mut request = Vec::new();
    raw_append(config).ask(0, Duration::ZERO, &mut request);
    let (records, bytes) = (config.batch as u64, (config.batch * config.record_bytes) as u64);
    let run = || {
        pin(&config.server_cpus[..1])?;
        let measure = |now| measure(config, now, &[], None);
        disk_ceiling(&config.dir, config.class == "fsync", &request, (records, bytes), measure)
            .map(Measure::finish)
    };
    let finished = std::thread::scope(|scope| scope.spawn(run).join().expect("no panic in the loop"));
    let mut point = finished.map_err(|error| format!("{}: {error}", config.dir.display()))?;
    // The thread that writes is the subject here.
    point.server_cpu = Some(std::mem::take(&mut point.generator_cpu));
    Ok((point, Known::default()))
}

/// What the daemon answers to one request of this point, to the byte: what its ceiling answers.
pub(crate) fn recorded_answer(config: &Config) -> Result<Arc<[u8]>, String> {
    let target = target(config)?;
    let topics = topic_names("log", &config.class, config.topics);
    target.create(&topics[..1], config, "log")?;
    let (mut request, mut answer) = (Vec::new(), Vec::new());
    Append::new(&topics[..1], config.batch, config.record_bytes, 0.0).ask(0, Duration::ZERO, &mut request);
    let failed = |error: std::io::Error| format!("{}: {error}", target.address);
    let mut stream = TcpStream::connect(target.address).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(failed)?;
    stream.write_all(&request).map_err(failed)?;
    let (mut answers, mut seen, mut room) = (Answers::new(Keep::All), None, [0; 4096]);
    while seen.is_none() {
        let here = stream.read(&mut room).map_err(failed)?;
        if here == 0 {
            return Err("the server closed the connection".to_owned());
        }
        answer.extend_from_slice(&room[..here]);
        answers.push(&room[..here], |status, _| seen = Some(status))?;
    }
    match seen {
        Some(200..300) => Ok(answer.into()),
        _ => Err(format!("an append was answered {}", String::from_utf8_lossy(&answer))),
    }
}

/// The line that says how far a point is, on a terminal.
struct Progress {
    shown: bool,
    warm_up: Duration,
    seconds: u64,
}

impl Progress {
    fn new(config: &Config) -> Progress {
        let warm_up = Duration::from_secs(config.warm_up_seconds);
        Progress { shown: std::io::stderr().is_terminal(), warm_up, seconds: config.seconds }
    }

    /// Is told the time and the records so far, about once a second.
    fn teller(self) -> impl FnMut(Duration, Duration, u64) {
        let (mut told_at, mut told) = (Duration::ZERO, 0);
        move |since: Duration, now: Duration, records: u64| {
            if !self.shown {
                return;
            }
            let rate = (records - told) as f64 / (now - told_at).as_secs_f64();
            let passed = since.saturating_sub(self.warm_up).as_secs();
            let line = match since < self.warm_up {
                true => "warming up".to_owned(),
                false => format!("{passed} of {} s, {rate:.0} records/s", self.seconds),
            };
            eprint!("\r{line:<50}\r");
            (told_at, told) = (now, records);
        }
    }
}
