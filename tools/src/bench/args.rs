//! The command line of `runelog bench`, and the points that it asks for. Lives here: [`BenchArgs`] and
//! refusals. Not here: what a point does.

use std::path::PathBuf;

use super::config::{Config, Mode, Subject};
use super::fanout::Follow;
use super::mixed::Mix;
use super::modes::From;
use super::point::cold_fill_min;
use super::report::Files;
use super::server::all_cpus;

/// A point shorter than this says little, and is marked.
pub(crate) const SECONDS_MIN: u64 = 10;
/// Records of one append that a server takes.
const BATCH_MAX: usize = 10_000;

/// Measure a server: appends, reads, fan-out, queues, and how far it is from what the machine could do.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Without --url every point gets a fresh server of this program on an empty data directory. On a machine
with few CPUs keep the two apart with --server-cpus and --cpus. Lists give one point for each combination:
--rate 10000,20000 or --connections 1,4,16 is a sweep, whose latencies the report draws over the rate; those
of other lists (--batch, --bytes, --topics, --readers) it draws over the size, with the records/s.

Examples:
  runelog bench append --server-cpus 0 --cpus 1
  runelog bench append --batch 100 --bytes 100 --connections 16 --class disk,fsync
  runelog bench append --rate 20000,40000,80000 --html rates.html     latency at fixed rates (open loop)
  runelog bench read --from head --limit 1000
  runelog bench read --from cold --limit 100 --fill 5000000
  runelog bench fanout --readers 100 --rate 1000 --follow sse,ws
  runelog bench queue --connections 50 --batch 8 --class disk --bytes 100 --fill 10000000
  runelog bench mixed --mix append=70,read=20,claim=5,push=5
  runelog bench ceiling --server-cpus 0 --cpus 1 --repeat 5           beside bare loops, in turn
  runelog bench suite --server-cpus 0 --cpus 1 --repeat 5 --json suite.json --html suite.html")]
pub(crate) struct BenchArgs {
    /// What to measure
    #[arg(value_enum)]
    pub(super) what: What,
    /// A server that runs; its topics bench-… are used. Without it a fresh one is started for each point
    #[arg(long)]
    url: Option<String>,
    /// Durability classes
    #[arg(long, value_delimiter = ',', default_value = "fsync", value_parser = ["ephemeral", "memory", "disk", "fsync"])]
    class: Vec<String>,
    /// Connections; of a fanout those that write
    #[arg(short, long, value_delimiter = ',', default_value = "64")]
    connections: Vec<usize>,
    /// Topics
    #[arg(short, long, value_delimiter = ',', default_value = "16")]
    topics: Vec<usize>,
    /// Records in a request; jobs in a claim
    #[arg(short, long, value_delimiter = ',', default_value = "1")]
    batch: Vec<usize>,
    /// Bytes of a record's data
    #[arg(long, value_delimiter = ',', default_value = "200")]
    bytes: Vec<usize>,
    /// Requests (fanout: writes) a second (open loop); without it as fast as answers come
    #[arg(long, value_delimiter = ',')]
    rate: Vec<f64>,
    /// append, read, mixed: how unevenly topics are picked: 0 evenly, 1 like words of a language (Zipf)
    #[arg(long, default_value_t = 0.0)]
    skew: f64,
    /// append, fanout, mixed: routers from each topic, each to a topic of its own
    #[arg(long, default_value_t = 0)]
    routers: usize,
    /// append: each connection goes to the port of one core, and to topics that it owns (see --shard-ports)
    #[arg(long)]
    own_ports: bool,
    /// read: where reads begin
    #[arg(long, value_enum, value_delimiter = ',', default_value = "head")]
    from: Vec<From>,
    /// read: records asked for at once
    #[arg(long, default_value_t = 1000)]
    limit: u64,
    /// read, queue, mixed: records put in before; for queues more than will be claimed
    #[arg(long, default_value_t = 1_000_000)]
    fill: u64,
    /// fanout: readers, spread over the topics
    #[arg(long, value_delimiter = ',', default_value = "100")]
    readers: Vec<usize>,
    /// fanout: how readers follow
    #[arg(long, value_enum, value_delimiter = ',', default_value = "sse")]
    follow: Vec<Follow>,
    /// mixed: weights of append, read (at the head), catchup (from the start), claim (with its ack), push (of a job)
    #[arg(long, value_name = "KIND=WEIGHT,…", default_value = "append=80,read=20")]
    mix: Mix,
    /// Seconds of a point
    #[arg(long, default_value_t = SECONDS_MIN)]
    seconds: u64,
    /// Seconds before it that do not count; 0 with --quick only
    #[arg(long, default_value_t = 5)]
    warm_up: u64,
    /// Runs of each point, in turn; medians are shown
    #[arg(long, default_value_t = 1)]
    pub(super) repeat: usize,
    /// Allow points shorter than 10 s and no warm-up, and say so in the result
    #[arg(long)]
    quick: bool,
    /// CPUs of the generator
    #[arg(long, value_delimiter = ',')]
    pub(super) cpus: Vec<usize>,
    /// CPUs of the servers that are started; as many cores as there are
    #[arg(long, value_delimiter = ',')]
    server_cpus: Vec<usize>,
    /// A further flag of `runelog serve` for those, such as --server-flag=--hot-bytes=1073741824
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    server_flag: Vec<String>,
    /// Where their data directories are made
    #[arg(long, default_value = ".")]
    pub(super) dir: PathBuf,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the results as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write a page with tables and curves, which needs no other file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum What {
    /// Appends
    Append,
    /// Reads with diff
    Read,
    /// Writes and how long they take to each of many readers
    Fanout,
    /// Claim and ack
    Queue,
    /// Several kinds of requests by weight
    Mixed,
    /// Appends, in turn with bare loops that do the same without a server behind
    Ceiling,
    /// The project's own table of figures; sizes are given
    Suite,
}

impl BenchArgs {
    /// Whether the results are stamped.
    pub(super) fn quick(&self) -> bool {
        self.quick
    }

    /// Where the results go.
    pub(super) fn files(&self) -> Files {
        Files { json: self.json.clone(), csv: self.csv.clone(), html: self.html.clone() }
    }

    /// What all points have in common.
    pub(super) fn base(&self) -> Config {
        Config {
            mode: match self.what {
                What::Append | What::Ceiling | What::Suite => Mode::Append,
                What::Read => Mode::Read,
                What::Fanout => Mode::Fanout,
                What::Queue => Mode::Queue,
                What::Mixed => Mode::Mixed,
            },
            subject: self.url.clone().map_or(Subject::Fresh, Subject::Url),
            skew: self.skew,
            routers: self.routers,
            own_ports: self.own_ports,
            limit: self.limit,
            fill: self.fill,
            mix: self.mix.clone(),
            warm_up_seconds: self.warm_up,
            seconds: self.seconds,
            generator_cpus: if self.cpus.is_empty() { all_cpus() } else { self.cpus.clone() },
            server_cpus: if self.server_cpus.is_empty() { all_cpus() } else { self.server_cpus.clone() },
            server_flags: self.server_flag.clone(),
            dir: self.dir.clone(),
            ..Config::default()
        }
    }

    /// Every point that is asked for, or why this makes no sense.
    pub(super) fn points(&self) -> Result<Vec<Config>, String> {
        self.check()?;
        let mut points = vec![self.base()];
        vary(&mut points, &self.class, |config, class| config.class = class);
        vary(&mut points, &self.topics, |config, topics| config.topics = topics);
        vary(&mut points, &self.batch, |config, batch| config.batch = batch);
        vary(&mut points, &self.bytes, |config, bytes| config.record_bytes = bytes);
        match self.what {
            What::Read => vary(&mut points, &self.from, |config, from| config.from = from),
            What::Fanout => {
                vary(&mut points, &self.follow, |config, follow| config.follow = follow);
                vary(&mut points, &self.readers, |config, readers| config.readers = readers);
            }
            _ => {}
        }
        vary(&mut points, &self.connections, |config, connections| config.connections = connections);
        if !self.rate.is_empty() {
            vary(&mut points, &self.rate, |config, rate| config.rate = Some(rate));
        }
        for point in points.iter().filter(|point| point.mode == Mode::Read && point.from == From::Cold) {
            let least = cold_fill_min(point);
            if self.url.is_some() {
                return Err("cold reads need a server of their own, with little memory: no --url".into());
            }
            if point.fill < least {
                return Err(format!("cold reads need --fill {least} at least, or all of it stays in memory"));
            }
        }
        Ok(points)
    }

    fn check(&self) -> Result<(), String> {
        if self.seconds < SECONDS_MIN && !self.quick {
            return Err(format!(
                "a point of {} s says little: at least {SECONDS_MIN}, or --quick",
                self.seconds
            ));
        }
        if self.warm_up == 0 && !self.quick {
            return Err(
                "a fresh server makes its log files in its first seconds: --warm-up 1 at least, or --quick"
                    .into(),
            );
        }
        let counts = [&self.connections, &self.topics, &self.batch, &self.bytes, &self.readers];
        let sound = counts.iter().all(|list| list.iter().all(|count| *count > 0));
        if !sound || self.seconds == 0 || self.repeat == 0 || self.limit == 0 || self.fill == 0 {
            return Err(
                "connections, topics, batch, bytes, readers, limit, fill, seconds and repeat are at least 1"
                    .into(),
            );
        }
        if self.batch.iter().any(|batch| *batch > BATCH_MAX) {
            return Err(format!("batch is at most {BATCH_MAX}"));
        }
        if !self.rate.iter().all(|rate| rate.is_finite() && *rate > 0.0) {
            return Err("a rate is a number above 0".into());
        }
        if !self.skew.is_finite() || self.skew < 0.0 {
            return Err("skew is 0 or more".into());
        }
        if self.skew != 0.0 && matches!(self.what, What::Fanout | What::Queue) {
            return Err("--skew is for appends, reads and mixed loads: a fanout writes to its topics in turn, and each connection of a queue keeps to its own while there are jobs".into());
        }
        if self.routers != 0 && matches!(self.what, What::Read | What::Queue) {
            return Err("--routers is for loads that append: append, fanout, mixed, ceiling".into());
        }
        if self.what == What::Suite && (self.skew != 0.0 || self.routers != 0) {
            return Err("the loads of the suite are given: no --skew, no --routers".into());
        }
        if self.own_ports && self.what != What::Append {
            return Err("--own-ports is for appends".into());
        }
        if self.what == What::Fanout && self.rate.is_empty() {
            return Err("fanout needs --rate: writes a second".into());
        }
        let own = matches!(self.what, What::Ceiling | What::Suite);
        if own && (self.url.is_some() || !self.rate.is_empty()) {
            return Err("ceiling and suite start servers of their own, and ask as fast as they can: no --url, no --rate".into());
        }
        if self.url.is_some() && !self.server_flag.is_empty() {
            return Err("--server-flag is for servers that are started, not for --url".into());
        }
        let known = all_cpus();
        match self.cpus.iter().chain(&self.server_cpus).find(|cpu| !known.contains(cpu)) {
            Some(cpu) => Err(format!("CPU {cpu} is none of those that this process may use: {known:?}")),
            None => Ok(()),
        }
    }
}

/// Each of the points with each of the values.
fn vary<T: Clone>(points: &mut Vec<Config>, values: &[T], set: impl Fn(&mut Config, T)) {
    let each = points.iter().flat_map(|point| {
        let set = &set;
        values.iter().map(move |value| {
            let mut point = point.clone();
            set(&mut point, value.clone());
            point
        })
    });
    *points = each.collect();
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn points(line: &str) -> Result<Vec<Config>, String> {
        let words = std::iter::once("bench").chain(line.split(' '));
        Line::try_parse_from(words).map_err(|error| error.to_string())?.bench.points()
    }

    #[test]
    fn lists_give_a_point_for_each_combination() {
        let found = points("append --class disk,fsync --connections 1,4 --rate 100,200").expect("points");
        let told: Vec<_> =
            found.iter().map(|point| (&*point.class, point.connections, point.rate.unwrap_or(0.0))).collect();
        assert_eq!(told[..3], [("disk", 1, 100.0), ("disk", 1, 200.0), ("disk", 4, 100.0)]);
        assert_eq!((told.len(), told[7]), (8, ("fsync", 4, 200.0)));
        let found = points("fanout --rate 5 --follow sse,ws --readers 1,2").expect("points");
        assert_eq!(found.len(), 4);
        assert_eq!((found[2].follow, found[2].readers), (Follow::Ws, 1));
        assert_eq!(points("append").expect("a point").len(), 1);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_reason() {
        for (line, reason) in [
            ("append --seconds 9", "--quick"),
            ("append --seconds 0 --quick", "at least 1"),
            ("append --connections 0", "at least 1"),
            ("append --topics 0", "at least 1"),
            ("append --bytes 0", "at least 1"),
            ("append --repeat 0", "at least 1"),
            ("append --batch 10001", "at most 10000"),
            ("append --rate 0", "above 0"),
            ("append --rate=100,-1", "above 0"),
            ("append --rate inf", "above 0"),
            ("append --skew=-1", "0 or more"),
            ("append --warm-up 0", "--warm-up 1 at least"),
            ("fanout --rate 5 --skew 1", "--skew is for"),
            ("queue --skew 0.5", "--skew is for"),
            ("read --routers 1", "--routers is for"),
            ("queue --routers 1", "--routers is for"),
            ("suite --skew 1", "no --skew"),
            ("suite --routers 1", "no --routers"),
            ("append --class raft", "possible values"),
            ("append --cpus 9999", "CPU 9999"),
            ("append --server-cpus 9999", "CPU 9999"),
            ("append --url http://127.0.0.1:1 --server-flag=--x", "--server-flag"),
            ("read --own-ports", "for appends"),
            ("fanout", "--rate"),
            ("mixed --mix append=0", "all weights are 0"),
            ("mixed --mix write=1", "none of append"),
            ("read --from cold --url http://127.0.0.1:1", "no --url"),
            ("read --from cold --fill 1000", "--fill"),
            ("ceiling --rate 5", "no --rate"),
            ("suite --url http://127.0.0.1:1", "no --url"),
        ] {
            let refusal = points(line).expect_err(line);
            assert!(refusal.contains(reason), "{line}: {refusal}");
        }
        for line in [
            "append --seconds 9 --warm-up 0 --quick",
            "mixed --skew 1 --routers 2",
            "read --skew 1",
            "fanout --rate 5 --routers 2",
            "ceiling --skew 1 --routers 2",
        ] {
            assert!(points(line).is_ok(), "{line}");
        }
    }
}
