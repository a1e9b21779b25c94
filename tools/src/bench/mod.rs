//! `runelog bench`: what a server does on this machine. Lives here: the command line, and a run as a list
//! of points. By file: [`wire`] (the generator's io_uring loop), [`answer`] (HTTP answers), [`drive`]
//! (closed and open loops), [`modes`] and [`fanout`] (what is asked), [`measure`], [`server`], [`host`],
//! [`report`].

mod answer;
mod drive;
mod fanout;
mod host;
mod measure;
mod modes;
mod report;
mod server;
mod wire;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use crate::client::Client;
use answer::last_member;
use drive::{Pace, drive};
use fanout::{Follow, Writes, fan_out, opening};
use host::Host;
use measure::{Measure, Point};
use modes::{Append, From, Queue, Read, data_of, topic_name};
use report::{Report, Row};
use server::{Server, pin};
use wire::Wire;

/// A point shorter than this says little, and is marked.
const SECONDS_MIN: u64 = 10;

/// Measure a server: appends, reads, fan-out, queues.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Without --url every point gets a fresh server of this program on an empty data directory. On a machine
with few CPUs keep the two apart with --server-cpus and --cpus.

Examples:
  runelog bench append --server-cpus 0 --cpus 1
  runelog bench append --batch 100 --bytes 100 --connections 16 --class disk,fsync
  runelog bench append --rate 20000,40000,80000        latency at fixed rates (open loop)
  runelog bench read --from head --limit 1000
  runelog bench fanout --readers 100 --rate 1000
  runelog bench queue --connections 50 --batch 8 --class disk")]
pub(crate) struct BenchArgs {
    /// What to measure
    #[arg(value_enum)]
    mode: Mode,
    /// A server that runs; its topics bench-… are used. Without it a fresh one is started for each point
    #[arg(long)]
    url: Option<String>,
    /// Durability classes, one point each
    #[arg(long, value_delimiter = ',', default_value = "fsync", value_parser = ["ephemeral", "memory", "disk", "fsync"])]
    class: Vec<String>,
    /// Connections; of a fanout those that write
    #[arg(short, long, default_value_t = 64)]
    connections: usize,
    /// Topics
    #[arg(short, long, default_value_t = 16)]
    topics: usize,
    /// Records in a request; jobs in a claim
    #[arg(short, long, default_value_t = 1)]
    batch: usize,
    /// Bytes of a record's data
    #[arg(long, default_value_t = 200)]
    bytes: usize,
    /// Requests (fanout: writes) a second, one point each (open loop); without it as fast as answers come
    #[arg(long, value_delimiter = ',')]
    rate: Vec<f64>,
    /// 0 picks topics evenly, 1 like words of a language
    #[arg(long, default_value_t = 0.0)]
    skew: f64,
    /// append: routers from each topic, each to a topic of its own
    #[arg(long, default_value_t = 0)]
    routers: usize,
    /// read: where reads begin
    #[arg(long, value_enum, default_value = "head")]
    from: From,
    /// read: records asked for at once
    #[arg(long, default_value_t = 1000)]
    limit: u64,
    /// read, queue: records put in before
    #[arg(long, default_value_t = 1_000_000)]
    fill: u64,
    /// fanout: readers, spread over the topics
    #[arg(long, default_value_t = 100)]
    readers: usize,
    /// fanout: how readers follow
    #[arg(long, value_enum, default_value = "sse")]
    follow: Follow,
    /// Seconds of a point
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds before it that do not count
    #[arg(long, default_value_t = 5)]
    warm_up: u64,
    /// Points of each kind; the table shows their median
    #[arg(long, default_value_t = 1)]
    repeat: usize,
    /// Allow points shorter than 10 s, and say so in the result
    #[arg(long)]
    quick: bool,
    /// CPUs of the generator
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// CPUs of the servers that are started; as many cores as there are
    #[arg(long, value_delimiter = ',')]
    server_cpus: Vec<usize>,
    /// A further flag of `runelog serve` for those, such as --server-flag=--hot-bytes=1073741824
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    server_flag: Vec<String>,
    /// Where their data directories are made
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Write the results as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the results as CSV
    #[arg(long)]
    csv: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// Appends
    Append,
    /// Reads with diff
    Read,
    /// Writes and how long they take to each of many readers
    Fanout,
    /// Claim and ack
    Queue,
}

/// Where a point runs.
struct Target {
    server: Option<Server>,
    address: SocketAddr,
    client: Client,
}

pub(crate) fn run(args: &BenchArgs) -> Result<(), String> {
    if args.seconds < SECONDS_MIN && !args.quick {
        return Err(format!("a point of {} s says little: at least {SECONDS_MIN}, or --quick", args.seconds));
    }
    let sound =
        args.connections > 0 && args.topics > 0 && args.batch > 0 && args.seconds > 0 && args.repeat > 0;
    if !sound || args.batch > 10_000 {
        return Err("connections, topics, batch (at most 10000), seconds and repeat are at least 1".into());
    }
    if args.mode == Mode::Fanout && args.rate.is_empty() {
        return Err("fanout needs --rate: writes a second".into());
    }
    if !args.cpus.is_empty() {
        pin(&args.cpus).map_err(|error| format!("--cpus: {error}"))?;
    }
    let mut report = Report::new(Host::look(&args.dir), args.quick || args.seconds < SECONDS_MIN);
    println!("{}", report.host.line());
    let paces: Vec<Option<f64>> = match args.rate.is_empty() {
        true => vec![None],
        false => args.rate.iter().copied().map(Some).collect(),
    };
    for class in &args.class {
        for rate in &paces {
            for _ in 0..args.repeat {
                let row = point(args, class, *rate)?;
                println!("{}", row.line());
                report.rows.push(row);
            }
        }
    }
    if args.repeat > 1 {
        println!("medians:");
        report.medians().iter().for_each(|row| println!("{}", row.line()));
    }
    report.write(args.json.as_deref(), args.csv.as_deref())
}

/// One point on a server of its own, or on the one of `--url`.
fn point(args: &BenchArgs, class: &str, rate: Option<f64>) -> Result<Row, String> {
    let target = target(args)?;
    let topics: Vec<String> = (0..args.topics).map(|index| topic_name(class, index)).collect();
    let kind = if args.mode == Mode::Queue { "queue" } else { "log" };
    for topic in &topics {
        let config = format!("{{\"durability\":\"{class}\",\"type\":\"{kind}\"}}");
        let answer = target.client.put(&format!("/v0/topics/{topic}"), config.as_bytes())?;
        if answer.status >= 300 {
            return Err(answer.complaint());
        }
    }
    for (index, topic) in topics.iter().flat_map(|topic| (0..args.routers).map(move |index| (index, topic))) {
        let router = format!("{{\"source\":\"{topic}\",\"dest\":\"{topic}-copy-{index}\"}}");
        let answer = target.client.put(&format!("/v0/routers/{topic}-{index}"), router.as_bytes())?;
        if answer.status >= 300 {
            return Err(answer.complaint());
        }
    }
    let mut wire = Wire::new().map_err(|error| format!("io_uring: {error}"))?;
    let failed = |error: std::io::Error| format!("{}: {error}", target.address);
    let pace = rate.map_or(Pace::Closed, Pace::Open);
    if matches!(args.mode, Mode::Read | Mode::Queue) {
        fill(&mut wire, &target, &topics, args)?;
    }
    let first = wire.connect(target.address, args.connections).map_err(failed)?;
    let (warm_up, duration) = (Duration::from_secs(args.warm_up), Duration::from_secs(args.seconds));
    let measure = |wire: &Wire| Measure::new(wire.now(), warm_up, duration);
    let (mut told_at, mut told) = (Duration::ZERO, 0);
    let progress = |now: Duration, records: u64| {
        let seconds = (now - told_at).as_secs_f64();
        eprint!("\r{:>12.0} a second ", (records - told) as f64 / seconds);
        (told_at, told) = (now, records);
    };
    let cpu_before = target.server.as_ref().and_then(Server::cpu);
    let began = wire.now();
    let count = args.connections;
    let finished = match args.mode {
        Mode::Append => {
            let mut work = Append::new(&topics, args.batch, args.bytes, args.skew);
            let measure = measure(&wire);
            drive(&mut wire, first, count, &mut work, pace, measure, progress)?
        }
        Mode::Read => {
            let heads =
                topics.iter().map(|topic| head_of(&target.client, topic)).collect::<Result<_, _>>()?;
            let mut work = Read::new(&topics, heads, count, args.from, args.limit, args.skew);
            let measure = measure(&wire);
            drive(&mut wire, first, count, &mut work, pace, measure, progress)?
        }
        Mode::Queue => {
            let mut work = Queue::new(&topics, count, args.batch as u64);
            let measure = measure(&wire);
            drive(&mut wire, first, count, &mut work, pace, measure, progress)?
        }
        Mode::Fanout => {
            let readers = follow(&mut wire, &target, &topics, args)?;
            let writes = Writes {
                first,
                connections: count,
                topics: &topics,
                per_second: rate.expect("checked"),
                batch: args.batch,
                record_bytes: args.bytes,
            };
            let measure = measure(&wire);
            fan_out(&mut wire, readers, &writes, measure, progress)?
        }
    };
    eprint!("\r                          \r");
    let busy = cpu_before.zip(target.server.as_ref().and_then(Server::cpu));
    let elapsed = (wire.now() - began).as_secs_f64();
    Ok(Row {
        mode: format!("{:?}", args.mode).to_lowercase(),
        class: class.to_owned(),
        connections: if args.mode == Mode::Fanout { args.readers } else { count },
        topics: args.topics,
        batch: args.batch,
        record_bytes: args.bytes,
        rate,
        server_cpu: busy.map(|(before, after)| (after - before).as_secs_f64() / elapsed),
        server_resident_bytes: target.server.as_ref().and_then(Server::resident_bytes),
        point: finished.finish(),
    })
}

fn target(args: &BenchArgs) -> Result<Target, String> {
    if let Some(url) = &args.url {
        let host = url.trim_start_matches("http://").trim_end_matches('/');
        let mut addresses = host.to_socket_addrs().map_err(|error| format!("{url}: {error}"))?;
        let address = addresses.next().ok_or_else(|| format!("{url} has no address"))?;
        return Ok(Target { server: None, address, client: Client::new(url)? });
    }
    let all: Vec<usize> = (0..std::thread::available_parallelism().map_or(1, |count| count.get())).collect();
    let cpus = if args.server_cpus.is_empty() { &all } else { &args.server_cpus };
    let server = Server::start(&args.dir, cpus, &args.server_flag)?;
    let (address, url) = (server.address, format!("http://{}", server.address));
    Ok(Target { server: Some(server), address, client: Client::new(&url)? })
}

/// Puts records into the topics, evenly.
fn fill(wire: &mut Wire, target: &Target, topics: &[String], args: &BenchArgs) -> Result<(), String> {
    let batch = 1000.min(args.fill.max(1)) as usize;
    let record = format!("{{\"data\":{}}}", data_of(args.bytes, 0));
    let body = format!("{{\"records\":[{}]}}", vec![record; batch].join(","));
    let first = wire.connect(target.address, topics.len()).map_err(|error| error.to_string())?;
    let each = args.fill.div_ceil((batch * topics.len()) as u64);
    let mut left = vec![each; topics.len()];
    let mut readers: Vec<answer::Answers> =
        topics.iter().map(|_| answer::Answers::new(answer::Keep::Tail)).collect();
    let request =
        |index: usize| modes::post(&format!("/v0/topics/{}?return_seqs=false", topics[index]), &body);
    for index in 0..topics.len() {
        wire.out(first + index).ok_or("the server closed a connection")?.extend_from_slice(&request(index));
    }
    let mut trouble = None;
    while trouble.is_none() && left.iter().any(|left| *left > 0) {
        wire.turn(Some(Duration::from_millis(100)), |_, number, happened| {
            let Some(index) = number.checked_sub(first).filter(|index| *index < left.len()) else { return };
            let wire::Happened::Bytes(bytes, out) = happened else {
                trouble = Some("the server closed a connection".to_owned());
                return;
            };
            let pushed = readers[index].push(bytes, |status, _| {
                // A full log asks to come again.
                left[index] -= u64::from(status < 300);
                if status >= 300 && status != 429 {
                    trouble = Some(format!("filling was answered {status}"));
                }
                if left[index] > 0 {
                    out.extend_from_slice(&request(index));
                }
            });
            trouble = trouble.take().or(pushed.err().map(str::to_owned));
        });
    }
    trouble.map_or(Ok(()), Err)
}

fn head_of(client: &Client, topic: &str) -> Result<u64, String> {
    let answer = client.get(&format!("/v0/topics/{topic}"))?;
    last_member(&answer.body, "\"head_seq\":").ok_or_else(|| answer.complaint())
}

/// Opens the readers' streams.
fn follow(
    wire: &mut Wire,
    target: &Target,
    topics: &[String],
    args: &BenchArgs,
) -> Result<std::ops::Range<usize>, String> {
    let first = wire.connect(target.address, args.readers).map_err(|error| error.to_string())?;
    for index in 0..args.readers {
        let topic = &topics[index % topics.len()];
        let mut stream_url = String::new();
        if args.follow == Follow::Sse {
            let body = format!("{{\"topics\":{{\"{topic}\":{{\"tail\":true}}}},\"limit\":1000}}");
            let answer = target.client.post("/v0/watch", body.as_bytes())?;
            let session: serde_json::Value =
                serde_json::from_slice(&answer.body).map_err(|_| answer.complaint())?;
            stream_url = session["stream_url"].as_str().ok_or_else(|| answer.complaint())?.to_owned();
        }
        let opening = opening(args.follow, topic, &stream_url);
        wire.out(first + index).ok_or("the server closed a connection")?.extend_from_slice(&opening);
    }
    Ok(first..first + args.readers)
}

/// The middle one of several points of one kind, by records a second.
fn median(mut points: Vec<Point>) -> Point {
    points.sort_by(|a, b| a.records_per_second.total_cmp(&b.records_per_second));
    points.swap_remove(points.len() / 2)
}
