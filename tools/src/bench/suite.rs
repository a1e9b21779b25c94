//! `runelog bench suite`: the figures by which this project judges itself, each beside what a bare loop does
//! in the same run. Lives here: which loads, which bars.

use std::collections::BTreeSet;

use super::Bench;
use super::ceiling::{ECHO_SHARE, raw};
use super::config::{Config, Mode, Subject};
use super::fanout::Follow;
use super::modes::From;
use super::outcome::Outcome;
use super::point::cold_fill_min;
use super::report::{Bar, Finding, median};

/// The loads of the table.
struct Loads {
    /// Single records, synced, and the bare loops beside.
    single: Config,
    single_echo: Config,
    single_log: Config,
    /// The same without waiting for the disk.
    memory: Config,
    /// Batches, synced and only written.
    batch: Config,
    batch_log: Config,
    batch_disk: Config,
    batch_disk_log: Config,
    /// The same single records on every CPU, into one topic and into many.
    one_topic: Config,
    many_topics: Config,
    diff: Config,
    sse: Config,
    others: Vec<Other>,
}

/// More jobs than a server hands out in a second.
const JOBS_A_SECOND: u64 = 500_000;

/// A load without a bar, for what the others do not show.
struct Other {
    work: &'static str,
    config: Config,
    unit: &'static str,
    figure: fn(&Outcome) -> f64,
}

fn requests(outcome: &Outcome) -> f64 {
    outcome.point.requests_per_second
}

fn records(outcome: &Outcome) -> f64 {
    outcome.point.records_per_second
}

fn p99_ms(outcome: &Outcome) -> f64 {
    outcome.point.latency_us.p99 / 1000.0
}

/// Without bars: the fan-out without the disk, the other way to follow, queues, several kinds at once, and reads
/// that come from the disk.
fn others(single: &Config, sse: &Config) -> Vec<Other> {
    let other = |work, config, unit, figure| Other { work, config, unit, figure };
    let disk = Config { class: "disk".into(), ..single.clone() };
    let queue = Config {
        mode: Mode::Queue,
        connections: 50,
        batch: 8,
        record_bytes: 100,
        fill: JOBS_A_SECOND * (single.warm_up_seconds + single.seconds),
        ..disk.clone()
    };
    let mix = "append=70,read=20,claim=5,push=5".parse().expect("a mix");
    let mixed = Config { mode: Mode::Mixed, mix, ..disk };
    let cold = Config { mode: Mode::Read, from: From::Cold, limit: 100, connections: 16, ..single.clone() };
    let fill = cold_fill_min(&cold);
    vec![
        other("SSE, class memory, p99", Config { class: "memory".into(), ..sse.clone() }, "ms", p99_ms),
        other("WebSocket, class disk, p99", Config { follow: Follow::Ws, ..sse.clone() }, "ms", p99_ms),
        other("queue, disk, claim and ack of 8, 50 connections, 16 queues", queue, "jobs/s", records),
        other("mixed, disk, 64 connections, 16 topics", mixed, "requests/s", requests),
        other("cold reads of 100 records", Config { fill, ..cold }, "records/s", records),
    ]
}

impl Loads {
    fn of(base: &Config, cpus: &[usize]) -> Result<Loads, String> {
        let single = Config { connections: 64, topics: 16, batch: 1, record_bytes: 200, ..base.clone() };
        let batch = Config { connections: 16, batch: 100, record_bytes: 100, ..single.clone() };
        let batch_disk = Config { class: "disk".into(), ..batch.clone() };
        let many_topics = Config { server_cpus: cpus.to_vec(), ..single.clone() };
        let diff = Config { mode: Mode::Read, from: From::Head, limit: 1000, fill: 100_000, ..batch.clone() };
        let sse = Config {
            mode: Mode::Fanout,
            class: "disk".into(),
            connections: 16,
            topics: 1,
            readers: 100,
            rate: Some(1000.0),
            ..single.clone()
        };
        Ok(Loads {
            single_echo: raw(&single, Subject::RawEcho)?,
            single_log: raw(&single, Subject::RawLog)?,
            memory: Config { class: "memory".into(), ..single.clone() },
            batch_log: raw(&batch, Subject::RawLog)?,
            batch_disk_log: raw(&batch_disk, Subject::RawLog)?,
            one_topic: Config { topics: 1, ..many_topics.clone() },
            many_topics,
            diff,
            others: others(&single, &sse),
            sse,
            single,
            batch,
            batch_disk,
        })
    }

    /// Every load once: on a server that has all CPUs anyway, `many_topics` is `single`.
    fn all(&self) -> Vec<Config> {
        let all = [
            &self.single,
            &self.single_echo,
            &self.single_log,
            &self.memory,
            &self.batch,
            &self.batch_log,
            &self.batch_disk,
            &self.batch_disk_log,
            &self.one_topic,
            &self.many_topics,
            &self.diff,
            &self.sse,
        ];
        let others = self.others.iter().map(|other| &other.config);
        let mut titles = BTreeSet::new();
        all.into_iter().chain(others).filter(|config| titles.insert(config.title())).cloned().collect()
    }
}

/// Runs all loads in turn, on the CPUs of `base` or, where a line says so, on all `cpus`, and then says how far they are from their bars.
pub(super) fn run(bench: &mut Bench, base: &Config, cpus: &[usize], repeat: usize) -> Result<(), String> {
    let loads = Loads::of(base, cpus)?;
    bench.in_turn(&loads.all(), repeat)?;
    findings(bench, &loads).into_iter().for_each(|finding| bench.find(finding));
    Ok(())
}

fn findings(bench: &Bench, loads: &Loads) -> Vec<Finding> {
    let of = |config, pick: fn(&Outcome) -> f64| bench.runs(config, pick);
    let limit = |config| bench.limit(config);
    let (single, hot) = (&loads.single, &loads.one_topic);
    // Each run of one topic beside the run of many in the same round.
    let shares: Vec<f64> = of(hot, requests)
        .iter()
        .zip(of(&loads.many_topics, requests))
        .map(|(one, many)| 100.0 * one / many)
        .collect();
    let least = |bar| Some(Bar::AtLeast(bar));
    let most = |bar| Some(Bar::AtMost(bar));
    let echo = median(&of(&loads.single_echo, requests));
    let ceiling = |config| median(&of(config, records));
    let mut found = vec![
        Finding::new(
            "append, fsync, 1 x 200 B, 64 connections, 16 topics",
            "records/s",
            of(single, records),
            least(1e5),
        )
        .below(ceiling(&loads.single_log))
        .limited_by(limit(single)),
        Finding::new("  its p99", "ms", of(single, p99_ms), most(2.0)).limited_by(limit(single)),
        Finding::new(
            "append, fsync, 100 x 100 B, 16 connections",
            "records/s",
            of(&loads.batch, records),
            least(3e6),
        )
        .below(ceiling(&loads.batch_log))
        .limited_by(limit(&loads.batch)),
        Finding::new("append, disk, the same", "records/s", of(&loads.batch_disk, records), least(3.5e6))
            .below(ceiling(&loads.batch_disk_log))
            .limited_by(limit(&loads.batch_disk)),
        Finding::new("one hot topic on all CPUs, beside 16 topics", "%", shares, least(80.0))
            .limited_by(limit(hot)),
        Finding::new("diff of 1000 x 100 B, hot", "records/s", of(&loads.diff, records), least(8e6))
            .limited_by(limit(&loads.diff)),
        Finding::new("SSE, 100 watchers, 1000 writes/s, p99", "ms", of(&loads.sse, p99_ms), most(1.0))
            .limited_by(limit(&loads.sse)),
        Finding::new(
            "server CPU for each single-record durable append",
            "us",
            of(single, |outcome| outcome.server_cpu_us_per_request.unwrap_or(f64::NAN)),
            most(8.0),
        )
        .limited_by(limit(single)),
        Finding::new(
            "single appends beside the raw ceiling",
            "requests/s",
            of(single, requests),
            least(ECHO_SHARE * echo),
        )
        .below(echo)
        .limited_by(limit(single)),
        Finding::new("  without the disk: class memory", "requests/s", of(&loads.memory, requests), None)
            .below(echo)
            .limited_by(limit(&loads.memory)),
    ];
    found.extend(loads.others.iter().map(|Other { work, config, unit, figure }| {
        Finding::new(work, unit, of(config, *figure), None).limited_by(limit(config))
    }));
    found
}

#[cfg(test)]
mod tests {
    use super::super::measure::{Latency, Point};
    use super::super::outcome::Known;
    use super::super::report::Report;
    use super::*;

    /// The loads of a server on CPU 0, beside one on all of these.
    fn loads(cpus: &[usize]) -> Loads {
        let base = Config { server_cpus: vec![0], ..Config::default() };
        let single = Config { topics: 16, ..base.clone() };
        let batch = Config { connections: 16, batch: 100, record_bytes: 100, ..base.clone() };
        let raw = |config: &Config, subject| Config { subject, ..config.clone() };
        let batch_disk = Config { class: "disk".into(), ..batch.clone() };
        let many_topics = Config { server_cpus: cpus.to_vec(), ..single.clone() };
        let sse = Config { mode: Mode::Fanout, rate: Some(1000.0), ..single.clone() };
        Loads {
            single_echo: raw(&single, Subject::RawEcho),
            single_log: raw(&single, Subject::RawLog),
            memory: Config { class: "memory".into(), ..single.clone() },
            batch_log: raw(&batch, Subject::RawLog),
            batch_disk_log: raw(&batch_disk, Subject::RawLog),
            one_topic: Config { topics: 1, ..many_topics.clone() },
            diff: Config { mode: Mode::Read, ..batch.clone() },
            others: others(&single, &sse),
            sse,
            single,
            batch,
            batch_disk,
            many_topics,
        }
    }

    #[test]
    fn loads_are_told_apart_by_their_titles() {
        let titles: BTreeSet<String> = loads(&[0, 1]).all().iter().map(Config::title).collect();
        assert_eq!(titles.len(), 12 + 5, "{titles:?}");
    }

    /// Measured twice under one title, each run of one topic would be held against the wrong run of many.
    #[test]
    fn on_all_cpus_anyway_the_first_load_is_that_of_many_topics() {
        let loads = loads(&[0]);
        let mut bench = Bench::on(Report::new(std::path::Path::new("."), true), Default::default());
        for round in [1.0, 2.0, 4.0] {
            for config in loads.all() {
                // One topic gets 90, 80 and 60 % of what many get.
                let share = if config.topics == 1 { 1.0 - round / 10.0 } else { 1.0 };
                let point = Point { requests_per_second: 1000.0 * round * share, ..Point::default() };
                bench.report.take(Outcome::judge(config, point, Known::default(), String::new()));
            }
        }
        assert_eq!(bench.report.points.len(), 3 * (11 + 5));
        let found = findings(&bench, &loads);
        let shares = &found[4].runs;
        assert!(
            shares.iter().zip([90.0, 80.0, 60.0]).all(|(share, expected)| (share - expected).abs() < 1e-9)
        );
        assert_eq!((shares.len(), found[0].runs.len()), (3, 3), "{shares:?}");
    }

    /// Every figure comes from the load, and the ceiling, that its line names.
    #[test]
    fn figures_are_medians_of_their_own_loads() {
        let loads = loads(&[0, 1]);
        let mut bench = Bench::on(Report::new(std::path::Path::new("."), true), Default::default());
        for round in [1.0, 3.0, 2.0] {
            for (index, config) in loads.all().into_iter().enumerate() {
                let rate = 1000.0 * (index as f64 + 1.0) * round;
                let latency_us = Latency { p99: 500.0 * round, ..Latency::default() };
                let point = Point {
                    requests: 1,
                    requests_per_second: rate,
                    records_per_second: 10.0 * rate,
                    latency_us,
                    server_cpu: Some(0.02),
                    ..Point::default()
                };
                bench.report.take(Outcome::judge(config, point, Known::default(), String::new()));
            }
        }
        let found = findings(&bench, &loads);
        let told: Vec<_> =
            found.iter().map(|finding| (finding.median, finding.ceiling, finding.met)).collect();
        // By the place of each load: the fourth is the first without the disk.
        let expected = [
            (20_000.0, Some(60_000.0), Some(false)),
            (1.0, None, Some(true)),
            (100_000.0, Some(120_000.0), Some(false)),
            (140_000.0, Some(160_000.0), Some(false)),
            (100.0 * 9.0 / 10.0, None, Some(true)),
            (220_000.0, None, Some(false)),
            (1.0, None, Some(true)),
            (10.0, None, Some(false)),
            (2000.0, Some(4000.0), Some(false)),
            (8000.0, Some(4000.0), None),
            // Milliseconds, jobs, requests, records.
            (1.0, None, None),
            (1.0, None, None),
            (300_000.0, None, None),
            (32_000.0, None, None),
            (340_000.0, None, None),
        ];
        assert_eq!(told.len(), expected.len());
        for ((median, ceiling, met), expected) in told.into_iter().zip(expected) {
            assert!((median - expected.0).abs() < 1e-6, "{median} for {expected:?}");
            assert_eq!((ceiling, met), (expected.1, expected.2));
        }
    }
}
