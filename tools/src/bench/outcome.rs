//! A point with everything that is needed to judge it. Lives here: the judgement, in words: what limited it,
//! and what makes it doubtful. Not here: how it is shown (`report`, `html`).

use std::fmt::Write as _;

use serde::Serialize;

use super::config::{Config, Mode, Subject};
use super::measure::Point;
use super::modes::From;

/// A generator that is busier may be what was measured.
const GENERATOR_CPU_MAX: f64 = 0.9;
/// Of CPUs that are busier nothing is left.
const CPU_FULL: f64 = 0.95;
/// Requests under way for each core of the server, with which its disk need not wait for requests: two commits
/// on their way, as the log has, and as many requests that are read or answered meanwhile.
const UNDER_WAY_MIN: f64 = 4.0;
/// Requests of an open loop shall leave at their time, but for this.
const SLIP_US_MAX: f64 = 1000.0;
/// An open loop has kept its rate if it answered this much of it.
const RATE_KEPT: f64 = 0.99;
/// Of the claims so many may find nothing.
const CLAIMS_EMPTY_MAX: f64 = 0.001;
/// Of what an open loop was to bring so much may be outstanding at the end.
const UNANSWERED_MAX: f64 = 0.01;

/// What was measured, and how it came out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    #[serde(flatten)]
    pub(crate) config: Config,
    pub(crate) point: Point,
    /// CPU time of the server for each answer, in microseconds.
    pub(crate) server_cpu_us_per_request: Option<f64>,
    #[serde(flatten)]
    pub(crate) server: Known,
    /// Of the machine, before the point.
    pub(crate) load_average: String,
    /// The resource that was used up, as far as these numbers tell.
    pub(crate) limited_by: &'static str,
    /// What makes the numbers doubtful.
    pub(crate) warnings: Vec<String>,
}

/// What is known of a server beside what was counted.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Known {
    #[serde(rename = "server_resident_bytes")]
    pub(crate) resident_bytes: Option<u64>,
    #[serde(rename = "server_version")]
    pub(crate) version: Option<String>,
    /// As `serve --check` tells them, or why that is not known; none of a bare loop. In a report only the lines
    /// that the first server's do not have.
    #[serde(rename = "server_settings")]
    pub(crate) settings: String,
}

impl Outcome {
    /// Draws conclusions from a point.
    pub(crate) fn judge(config: Config, point: Point, server: Known, load_average: String) -> Outcome {
        let per_request = |cpu: f64| cpu * 1e6 / point.requests_per_second;
        Outcome {
            server_cpu_us_per_request: point.server_cpu.filter(|_| point.requests > 0).map(per_request),
            limited_by: limit(&config, &point),
            warnings: warnings(&config, &point),
            config,
            point,
            server,
            load_average,
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let Outcome { config, point, .. } = self;
        let latency = &point.latency_us;
        let mut line = format!(
            "{:<14} {:<9} {:>5} conn {:>4} topics {:>5} x {:<7} {:>10.0} req/s {:>10.0} rec/s  p50 {:>7.0}  p99 {:>7.0}  p99.9 {:>7.0}  p99.99 {:>7.0}  max {:>8.0} us",
            config.name(),
            config.class,
            config.connections,
            config.topics,
            config.batch,
            format!("{} B", config.record_bytes),
            point.requests_per_second,
            point.records_per_second,
            latency.p50,
            latency.p99,
            latency.p999,
            latency.p9999,
            latency.max,
        );
        if let Some(rate) = config.rate {
            let _ = write!(line, "  at {rate}/s");
        }
        if let Some(cpu) = point.server_cpu {
            let _ = write!(line, "  server {:.0} % CPU", cpu * 100.0);
        }
        let _ = write!(line, "  generator {:.0} %  limit: {}", point.generator_cpu * 100.0, self.limited_by);
        for (status, count) in &point.refused {
            let _ = write!(line, "  {count} x {status}");
        }
        line
    }
}

/// What was used up, as far as these numbers show. The first that holds:
/// 1. The rate that was asked for was kept: nothing was used up.
/// 2. `generator`: its CPU.
/// 3. `server CPU`: all its cores. `one server core`: a thread of it, which is a core's. `CPUs that server and
///    generator share`: neither has a CPU full, both together have.
/// 4. `latency of few connections`: too few requests are under way to keep anything busy. Each waits for a
///    round trip, and where its class says so for the disk.
/// 5. `disk`, which shows by what was not used up: of a server whose CPU is known, where enough requests wait
///    for the disk, as cold reads do, and writes of each class but `ephemeral`.
/// 6. `unknown`.
fn limit(config: &Config, point: &Point) -> &'static str {
    let Config { server_cpus, generator_cpus, .. } = config;
    let rate_kept = config.rate.is_some_and(|rate| {
        // Of a fan-out the writes are kept to a rate, and they are its requests.
        point.requests_per_second >= rate * RATE_KEPT
    });
    let full = |used: Option<f64>, cpus: usize| used.is_some_and(|used| used >= CPU_FULL * cpus as f64);
    let generator_only = generator_cpus.iter().filter(|cpu| !server_cpus.contains(cpu)).count();
    let shared = generator_only < generator_cpus.len();
    let both = point.server_cpu.map(|cpu| cpu + point.generator_cpu);
    // Cores that have topics.
    let cores = match config.subject {
        Subject::Url(_) => 1, // at least
        _ => server_cpus.len().min(config.topics),
    };
    let enough = |under_way: f64| under_way >= UNDER_WAY_MIN * cores as f64;
    let connections = config.connections as f64;
    let disk_shows = point.server_cpu.is_some() && enough(writes_under_way(config, point));
    match () {
        () if config.subject == Subject::RawDisk => "disk",
        () if rate_kept => "the rate that was asked for",
        () if point.generator_cpu > GENERATOR_CPU_MAX => "generator",
        () if full(point.server_cpu, server_cpus.len()) => "server CPU",
        () if full(point.server_thread_cpu, 1) => "one server core",
        () if shared && full(both, server_cpus.len() + generator_only) => {
            "CPUs that server and generator share"
        }
        () if !enough(connections) => "latency of few connections",
        () if config.mode == Mode::Read && config.from == From::Cold => "disk (reads)",
        () if config.subject == Subject::RawEcho => "unknown",
        () if disk_shows && config.class == "fsync" => "disk (writes and syncs)",
        () if disk_shows && config.class != "ephemeral" => "disk (writes)",
        () => "unknown",
    }
}

/// Writes that are under way at a time: all connections, or in a mixed load those whose request is one. That is
/// their rate times their latency, which in an open loop has the wait for a connection in it.
fn writes_under_way(config: &Config, point: &Point) -> f64 {
    let connections = config.connections as f64;
    match config.mode {
        Mode::Append | Mode::Queue | Mode::Fanout => connections,
        Mode::Read => 0.0,
        Mode::Mixed => {
            let writes = point.parts.iter().filter(|part| !matches!(part.name, "read" | "catchup"));
            let under_way = writes.map(|part| part.requests_per_second * part.latency_us.mean / 1e6);
            under_way.sum::<f64>().min(connections)
        }
    }
}

fn warnings(config: &Config, point: &Point) -> Vec<String> {
    let mut warnings = Vec::new();
    if cfg!(debug_assertions) {
        warnings.push("not a release build".to_owned());
    }
    if point.generator_cpu > GENERATOR_CPU_MAX {
        warnings.push(format!(
            "the generator used {:.0} % of its CPU: it may be what was measured",
            point.generator_cpu * 100.0
        ));
    }
    if let Some(slip) = point.slip_us.filter(|slip| slip.p99 > SLIP_US_MAX) {
        let (p99, max) = (slip.p99, slip.max);
        warnings
            .push(format!("the schedule slipped: requests left p99 {p99:.0} us, at most {max:.0} us late"));
    }
    if let Some(rate) = config.rate.filter(|rate| point.requests_per_second < rate * RATE_KEPT) {
        let reached = point.requests_per_second;
        warnings
            .push(format!("{reached:.0} of {rate} requests/s were answered: latencies grow with the time"));
    }
    let due = point.requests + point.waited_for_connection;
    if point.waited_for_connection * 100 > due {
        let waited = point.waited_for_connection;
        warnings.push(format!("{waited} requests were due while every connection waited for an answer"));
    }
    let (expected, answered) = match config.mode {
        Mode::Fanout => ("deliveries", point.records),
        _ => ("requests", point.requests),
    };
    // At the end of a closed loop every connection waits for an answer.
    if config.rate.is_some() && point.unanswered as f64 > UNANSWERED_MAX * answered as f64 {
        let unanswered = point.unanswered;
        warnings.push(format!(
            "{unanswered} {expected} were due and not there at the end: their latencies are those so far"
        ));
    }
    let claims = match config.mode {
        Mode::Queue => Some((point.requests, point.empty)),
        Mode::Mixed => {
            let part = point.parts.iter().find(|part| part.name == "claim");
            part.map(|part| (part.requests, part.empty))
        }
        _ => None,
    };
    if let Some((claims, empty)) = claims
        && empty as f64 > CLAIMS_EMPTY_MAX * claims as f64
    {
        warnings.push(format!(
            "the queues ran dry: {empty} of {claims} claims got no job, and the figures are in part those of empty answers: raise --fill"
        ));
    }
    let refused: u64 = point.refused.values().sum();
    if refused > 0 {
        warnings.push(format!("{refused} requests were refused"));
    }
    if point.requests == 0 {
        warnings.push("nothing was answered".to_owned());
    }
    if config.mode == Mode::Fanout && !config.is_raw() {
        // What was written in the last moments is delivered after the end, and what was before, at the begin.
        let each = (config.batch * config.readers) as f64 / config.topics as f64;
        let expected = point.requests as f64 * each;
        if (point.records as f64) < 0.98 * expected {
            let missing = expected - point.records as f64;
            warnings.push(format!("{missing:.0} of {expected:.0} deliveries are missing"));
        }
    }
    if config.mode == Mode::Read && config.from == From::Cold {
        let asked = point.records * config.record_bytes as u64;
        match point.server_read_bytes {
            Some(read) if read * 2 >= asked => {}
            Some(read) => warnings.push(format!("not cold: of {asked} bytes the disk gave {read}")),
            None => warnings.push("whether the reads were cold is not known".to_owned()),
        }
    }
    warnings
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::measure::{Latency, Part};
    use super::*;

    /// A point that nothing can be said against.
    pub(crate) fn sound() -> (Config, Point) {
        let point = Point {
            seconds: 10.0,
            requests: 100_000,
            records: 100_000,
            requests_per_second: 10_000.0,
            records_per_second: 10_000.0,
            generator_cpu: 0.5,
            server_cpu: Some(0.8),
            server_thread_cpu: Some(0.7),
            ..Point::default()
        };
        (Config { server_cpus: vec![0], generator_cpus: vec![1], ..Config::default() }, point)
    }

    fn told(config: Config, point: Point) -> (&'static str, String) {
        let outcome = Outcome::judge(config, point, Known::default(), String::new());
        let warnings = outcome.warnings.into_iter().filter(|warning| !warning.contains("release build"));
        (outcome.limited_by, warnings.collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn a_sound_point_has_a_limit_and_no_warning() {
        let (config, point) = sound();
        let outcome = Outcome::judge(config.clone(), point.clone(), Known::default(), String::new());
        assert_eq!(outcome.server_cpu_us_per_request, Some(80.0));
        assert_eq!(told(config, point), ("disk (writes and syncs)", String::new()));
    }

    /// A row for each clause of the rule, and for each way in which `disk` would be a guess.
    #[test]
    fn a_limit_is_named_only_where_the_numbers_show_it() {
        fn part(name: &'static str, requests_per_second: f64, mean: f64) -> Part {
            let latency_us = Latency { mean, ..Latency::default() };
            Part { name, requests: 1000, empty: 0, requests_per_second, records_per_second: 0.0, latency_us }
        }
        type Change = fn(&mut Config, &mut Point);
        let table: [(Change, &str); 21] = [
            (|_, _| {}, "disk (writes and syncs)"),
            (|config, _| config.class = "disk".into(), "disk (writes)"),
            (|config, _| config.class = "memory".into(), "disk (writes)"),
            (|config, _| config.class = "ephemeral".into(), "unknown"),
            (|config, _| config.mode = Mode::Read, "unknown"),
            (|config, _| config.subject = Subject::RawEcho, "unknown"),
            (|config, _| config.subject = Subject::RawDisk, "disk"),
            (|_, point| point.generator_cpu = 0.91, "generator"),
            (|_, point| point.server_cpu = Some(0.96), "server CPU"),
            // Half of two cores, which is all of one.
            (
                |config, point| {
                    config.server_cpus = vec![0, 2];
                    point.server_thread_cpu = Some(0.95);
                },
                "one server core",
            ),
            // 0.8 + 0.5 of one CPU would be too much, of two it is not.
            (|config, _| config.generator_cpus = vec![0, 1], "disk (writes and syncs)"),
            (
                |config, point| {
                    (config.server_cpus, config.generator_cpus) = (vec![0, 1], vec![0, 1]);
                    (point.server_cpu, point.generator_cpu) = (Some(1.2), 0.75);
                },
                "CPUs that server and generator share",
            ),
            (|config, _| config.connections = 4, "disk (writes and syncs)"),
            (|config, _| config.connections = 3, "latency of few connections"),
            (
                |config, _| (config.connections, config.server_cpus) = (7, vec![0, 2]),
                "latency of few connections",
            ),
            // All of them to one topic, which is one core's.
            (
                |config, _| (config.connections, config.server_cpus, config.topics) = (7, vec![0, 2], 1),
                "disk (writes and syncs)",
            ),
            // The CPU of a server that runs elsewhere is not known.
            (
                |config, point| {
                    config.subject = Subject::Url("http://10.0.0.1:4000".into());
                    (point.server_cpu, point.server_thread_cpu) = (None, None);
                },
                "unknown",
            ),
            (
                |config, point| {
                    (config.subject, config.connections) = (Subject::Url("http://10.0.0.1:4000".into()), 1);
                    (point.server_cpu, point.server_thread_cpu) = (None, None);
                },
                "latency of few connections",
            ),
            // 64 connections, of which 10 are in a write, or 2.
            (
                |config, point| {
                    config.mode = Mode::Mixed;
                    point.parts = vec![part("append", 10_000.0, 1000.0), part("read", 54_000.0, 1000.0)];
                },
                "disk (writes and syncs)",
            ),
            (
                |config, point| {
                    config.mode = Mode::Mixed;
                    point.parts = vec![part("append", 2_000.0, 1000.0), part("read", 62_000.0, 1000.0)];
                },
                "unknown",
            ),
            (
                |config, point| (config.rate, point.server_cpu) = (Some(10_000.0), Some(0.96)),
                "the rate that was asked for",
            ),
        ];
        for (row, (change, expected)) in table.into_iter().enumerate() {
            let (mut config, mut point) = sound();
            change(&mut config, &mut point);
            assert_eq!(told(config, point).0, expected, "row {row}");
        }
    }

    #[test]
    fn queues_that_ran_dry_are_told_from_one_claim_in_a_thousand() {
        for (empty, is_told) in [(100, false), (101, true)] {
            let (mut config, mut point) = sound();
            (config.mode, point.empty) = (Mode::Queue, empty);
            let warnings = told(config.clone(), point.clone()).1;
            assert_eq!(
                warnings.contains(&format!("{empty} of 100000 claims got no job")),
                is_told,
                "{warnings}"
            );
            // In a mixed load only claims count: a read may find nothing.
            (config.mode, point.empty) = (Mode::Mixed, 50_000);
            let part = |name, requests, empty| Part {
                name,
                requests,
                empty,
                requests_per_second: 0.0,
                records_per_second: 0.0,
                latency_us: Latency::default(),
            };
            point.parts = vec![part("read", 50_000, 49_000), part("claim", 100_000, empty)];
            assert_eq!(told(config.clone(), point.clone()).1.contains("raise --fill"), is_told);
            config.mode = Mode::Read;
            assert_eq!(told(config, point).1, "");
        }
    }

    #[test]
    fn what_is_outstanding_at_the_end_is_told_of_an_open_loop() {
        for (rate, mode, unanswered, warning) in [
            (Some(10_000.0), Mode::Append, 1_000, ""),
            (Some(10_000.0), Mode::Append, 1_001, "1001 requests were due"),
            (Some(10_000.0), Mode::Fanout, 100_001, "100001 deliveries were due"),
            (None, Mode::Append, 1_001, ""),
        ] {
            let (config, point) = sound();
            let config = Config { rate, mode, topics: 1, ..config };
            let records = if mode == Mode::Fanout { 10_000_000 } else { point.records };
            let warnings = told(config, Point { unanswered, records, ..point }).1;
            assert_eq!(
                (warnings.is_empty(), warnings.contains(warning)),
                (warning.is_empty(), true),
                "{warnings}"
            );
        }
    }

    #[test]
    fn each_doubt_is_told() {
        let slip = |p99| Latency { p99, ..Latency::default() };
        type Change = fn(&mut Config, &mut Point);
        let table: [(Change, &str, &str); 9] = [
            (|_, point| point.generator_cpu = 0.91, "generator", "the generator used 91 %"),
            (|_, point| point.server_cpu = Some(0.96), "server CPU", ""),
            (|config, _| config.rate = Some(10_000.0), "the rate that was asked for", ""),
            (
                |config, _| config.rate = Some(10_200.0),
                "disk (writes and syncs)",
                "10000 of 10200 requests/s",
            ),
            (
                |_, point| point.waited_for_connection = 2_000,
                "disk (writes and syncs)",
                "2000 requests were due",
            ),
            (
                |_, point| point.refused = [("429".to_owned(), 3)].into(),
                "disk (writes and syncs)",
                "3 requests were refused",
            ),
            (|config, _| config.mode = Mode::Fanout, "disk (writes and syncs)", "deliveries are missing"),
            (
                |config, point| {
                    (config.mode, config.from) = (Mode::Read, From::Cold);
                    point.server_read_bytes = Some(9_999_999);
                },
                "disk (reads)",
                "not cold",
            ),
            (
                |config, point| {
                    (config.mode, config.from) = (Mode::Read, From::Cold);
                    point.server_read_bytes = Some(10_000_000);
                },
                "disk (reads)",
                "",
            ),
        ];
        for (change, limit, warning) in table {
            let (mut config, mut point) = sound();
            change(&mut config, &mut point);
            let (found, warnings) = told(config, point);
            assert_eq!(found, limit);
            assert_eq!(warnings.is_empty(), warning.is_empty(), "{warnings}");
            assert!(warnings.contains(warning), "{warnings}");
        }
        let (config, mut point) = sound();
        point.slip_us = Some(slip(900.0));
        assert_eq!(told(config.clone(), point.clone()).1, "");
        point.slip_us = Some(slip(1100.0));
        assert!(told(config, point).1.contains("the schedule slipped"));
    }
}
