//! A point with everything that is needed to judge it. Lives here: the judgement, in words: what limited it,
//! and what makes it doubtful. Not here: how it is shown (`report`, `html`).

use std::fmt::Write as _;

use serde::Serialize;

use super::config::{Config, Mode, Subject};
use super::measure::Point;
use super::modes::From;

/// A generator that is busier may be what was measured.
const GENERATOR_CPU_MAX: f64 = 0.9;
/// A server that is busier has no CPU left.
const SERVER_CPU_FULL: f64 = 0.95;
/// Requests of an open loop shall leave at their time, but for this.
const SLIP_US_MAX: f64 = 1000.0;
/// An open loop has kept its rate if it answered this much of it.
const RATE_KEPT: f64 = 0.99;

/// What was measured, and how it came out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    #[serde(flatten)]
    pub(crate) config: Config,
    pub(crate) point: Point,
    /// CPU time of the server for each answer, in microseconds.
    pub(crate) server_cpu_us_per_request: Option<f64>,
    pub(crate) server_resident_bytes: Option<u64>,
    pub(crate) server_version: Option<String>,
    /// Of the machine, before the point.
    pub(crate) load_average: String,
    /// The resource that was used up, as far as these numbers tell.
    pub(crate) limited_by: &'static str,
    /// What makes the numbers doubtful.
    pub(crate) warnings: Vec<String>,
}

impl Outcome {
    /// Draws conclusions from a point.
    pub(crate) fn judge(
        config: Config,
        point: Point,
        server_resident_bytes: Option<u64>,
        load_average: String,
        server_version: Option<String>,
    ) -> Outcome {
        let per_request = |cpu: f64| cpu * 1e6 / point.requests_per_second;
        Outcome {
            server_cpu_us_per_request: point.server_cpu.filter(|_| point.requests > 0).map(per_request),
            limited_by: limit(&config, &point),
            warnings: warnings(&config, &point),
            config,
            point,
            server_resident_bytes,
            server_version,
            load_average,
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let Outcome { config, point, .. } = self;
        let latency = &point.latency_us;
        let mut line = format!(
            "{:<14} {:<9} {:>5} conn {:>4} topics {:>5} x {:<7} {:>10.0} req/s {:>10.0} rec/s  p50 {:>7.0}  p99 {:>7.0}  p99.9 {:>7.0}  max {:>8.0} us",
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

/// What was used up. Only what the numbers show: a disk shows by what was not.
fn limit(config: &Config, point: &Point) -> &'static str {
    let server_full = SERVER_CPU_FULL * config.server_cpus.len() as f64;
    let rate_kept = config.rate.is_some_and(|rate| {
        // Of a fan-out the writes are kept to a rate, and they are its requests.
        point.requests_per_second >= rate * RATE_KEPT
    });
    let writes = match config.mode {
        Mode::Append | Mode::Queue | Mode::Fanout => true,
        Mode::Mixed => config.mix.writes(),
        Mode::Read => false,
    };
    match () {
        () if config.subject == Subject::RawDisk => "disk",
        () if rate_kept => "the rate that was asked for",
        () if config.subject != Subject::RawDisk && point.generator_cpu > GENERATOR_CPU_MAX => "generator",
        () if point.server_cpu.is_some_and(|cpu| cpu >= server_full) => "server CPU",
        () if config.mode == Mode::Read && config.from == From::Cold => "disk (reads)",
        () if config.subject == Subject::RawEcho => "round trips",
        () if writes && matches!(config.class.as_str(), "fsync") => "disk (writes and syncs)",
        () if writes && matches!(config.class.as_str(), "disk" | "memory") => "disk (writes)",
        () => "round trips",
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
            ..Point::default()
        };
        (Config { server_cpus: vec![0], ..Config::default() }, point)
    }

    fn told(config: Config, point: Point) -> (&'static str, String) {
        let outcome = Outcome::judge(config, point, None, String::new(), None);
        let warnings = outcome.warnings.into_iter().filter(|warning| !warning.contains("release build"));
        (outcome.limited_by, warnings.collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn a_sound_point_has_a_limit_and_no_warning() {
        let (config, point) = sound();
        let outcome = Outcome::judge(config.clone(), point.clone(), None, String::new(), None);
        assert_eq!(outcome.server_cpu_us_per_request, Some(80.0));
        assert_eq!(told(config, point), ("disk (writes and syncs)", String::new()));
    }

    #[test]
    fn each_doubt_is_told() {
        let slip = |p99| super::super::measure::Latency { p99, ..Default::default() };
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
