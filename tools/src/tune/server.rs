//! The network stack by itself and the whole server under load: trials of settings, then the knee of each
//! kind of load. Lives here: what is run in which order, and how long. Not here: a point (`load`), which
//! rate is tried (`knee`), what limits (`limits`).

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::bench::measure::Point;

use super::disk::DiskResult;
use super::facts::Root;
use super::knee::search;
use super::limits::{Context, Judgement, OTHERS_MUCH, Resource, judge};
use super::load::{Bed, Plan, Shape};
use super::usage::Usage;

/// A rate is held if so much of it was answered in its time.
const KEPT: f64 = 0.98;
/// A setting is worth a change from its default if it gives so much more.
const WORTH: f64 = 1.05;
/// The default of `commits_in_flight`, and what is tried.
const COMMITS_DEFAULT: u64 = 2;
const COMMITS_TRIED: [u64; 3] = [1, 2, 4];

/// How long things take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Seconds before a point that do not count.
    pub(crate) warm_up: f64,
    pub(crate) point: f64,
    /// A fresh server makes its log files meanwhile.
    pub(crate) first_warm_up: f64,
    /// Closed loop before the search, warm-up and point each.
    pub(crate) probe: f64,
    pub(crate) steps: usize,
}

impl Times {
    /// Seconds of a trial of a setting.
    fn trial(&self) -> f64 {
        self.first_warm_up + self.point + 2.0
    }

    /// Seconds at most of [`echo`].
    pub(crate) fn echo_seconds(&self) -> f64 {
        self.warm_up + self.point + 1.0
    }

    /// Seconds at most of [`measure`].
    pub(crate) fn server_seconds(&self, shapes: usize, shard_trials: usize) -> f64 {
        let cell = 2.0 * self.probe + self.steps as f64 * (self.warm_up + self.point + 0.5) + 1.0;
        let trials = (COMMITS_TRIED.len() + shard_trials) as f64;
        trials * self.trial() + self.first_warm_up + 2.0 + shapes as f64 * cell
    }
}

/// Which CPUs are whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cpus {
    pub(crate) server: Vec<usize>,
    pub(crate) generator: Vec<usize>,
}

impl Cpus {
    /// One for the generator, the rest (as many as a quota leaves) for the server. The generator gets the
    /// one that takes the disk's interrupts, if it is one: they would slow down a shard, and it has time.
    pub(crate) fn share(allowed: &[usize], usable: usize, disk_irq: Option<usize>) -> Cpus {
        let Some(last) = allowed.last().filter(|_| allowed.len() > 1) else {
            return Cpus { server: allowed.to_vec(), generator: allowed.to_vec() };
        };
        let generator = disk_irq.filter(|cpu| allowed.contains(cpu)).unwrap_or(*last);
        let rest = allowed.iter().copied().filter(|cpu| *cpu != generator);
        Cpus { server: rest.take(usable.saturating_sub(1).max(1)).collect(), generator: vec![generator] }
    }
}

/// The bare loop under the load of single small appends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NetResult {
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// CPU time of the server for each request.
    pub(crate) server_us: f64,
    /// Share of its core that the generator used.
    pub(crate) generator: f64,
}

/// A value of a setting and what it gives, closed loop.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) value: u64,
    pub(crate) records_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Cores that other processes used meanwhile.
    pub(crate) others: f64,
}

/// The capacity for one kind of load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) shape: Shape,
    /// The highest rate that was held; 0 if none was.
    pub(crate) records_per_second: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// What a closed loop reached, whatever its latency.
    pub(crate) closed_records_per_second: f64,
    /// Rates in the order in which they were tried.
    pub(crate) steps: Vec<Tried>,
    /// What kept the next rate from being held, if one was not.
    pub(crate) limit: Option<Resource>,
    pub(crate) evidence: String,
    /// At the rate that was held.
    pub(crate) usage: Usage,
}

/// A rate that was tried, and what limits there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tried {
    /// Asked for.
    pub(crate) requests_per_second: f64,
    pub(crate) p99_us: f64,
    pub(crate) held: bool,
    /// Where it was not held, what is used up; else what comes nearest to that.
    pub(crate) limit: Resource,
    /// How much of it is in use, of 1; none for what has no share.
    pub(crate) used: Option<f64>,
}

/// The whole server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ServerResult {
    pub(crate) p99_ms: f64,
    /// Seconds of a point, and rates tried for each row at most; 0 in a profile that is older.
    #[serde(default)]
    pub(crate) seconds: f64,
    #[serde(default)]
    pub(crate) steps: usize,
    pub(crate) server_cpus: Vec<usize>,
    pub(crate) generator_cpus: Vec<usize>,
    pub(crate) commits_in_flight: Vec<Trial>,
    /// With that many shards; where all CPUs are used, the generator shares them.
    pub(crate) shards: Vec<Trial>,
    pub(crate) table: Vec<Cell>,
}

impl ServerResult {
    /// Cores that other processes used meanwhile, at most; none if that is too little to matter.
    pub(crate) fn disturbed(&self) -> Option<f64> {
        let trials = self.commits_in_flight.iter().chain(&self.shards).map(|trial| trial.others);
        let most = trials.chain(self.table.iter().map(|cell| cell.usage.others)).fold(0.0, f64::max);
        (most >= OTHERS_MUCH).then_some(most)
    }
}

/// Where and how.
pub(crate) struct Setup<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) root: &'a Root,
    pub(crate) disk: Option<&'a str>,
    pub(crate) cpus: &'a Cpus,
    pub(crate) all_cpus: &'a [usize],
    pub(crate) times: Times,
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Measures the bare loop.
pub(crate) fn echo(setup: &Setup<'_>) -> Result<NetResult, String> {
    let shape = Shape::new("fsync", 1, 200);
    let mut bed = Bed::echo(setup.dir, &setup.cpus.server[..1], setup.root, &shape)?;
    let Times { warm_up, point, .. } = setup.times;
    let plan = Plan { rate: None, warm_up: seconds(warm_up), duration: seconds(point) };
    let (point, usage) = bed.point(&shape, &plan)?;
    Ok(NetResult {
        requests_per_second: point.requests_per_second,
        p50_us: point.latency_us.p50,
        p99_us: point.latency_us.p99,
        server_us: usage.server * 1e6 / point.requests_per_second.max(1.0),
        generator: usage.generator,
    })
}

/// Measures the server: settings first, then each shape with the best of them.
pub(crate) fn measure(
    setup: &Setup<'_>,
    shapes: &[Shape],
    p99_ms: f64,
    net: Option<&NetResult>,
    disk: Option<&DiskResult>,
    tell: &mut dyn FnMut(&str),
) -> Result<ServerResult, String> {
    let Setup { dir, root, cpus, times, .. } = *setup;
    let mut result = ServerResult {
        p99_ms,
        seconds: times.point,
        steps: times.steps,
        server_cpus: cpus.server.clone(),
        generator_cpus: cpus.generator.clone(),
        ..ServerResult::default()
    };
    for value in COMMITS_TRIED {
        tell(&format!("trying commits_in_flight = {value}"));
        result.commits_in_flight.push(trial(setup, &cpus.server, value, value)?);
    }
    let commits = best(&result.commits_in_flight, COMMITS_DEFAULT);
    for tried in shard_trials(cpus, setup.all_cpus) {
        tell(&format!("trying shards = {}", tried.len()));
        result.shards.push(trial(setup, tried, commits, tried.len() as u64)?);
    }
    tell("warming up the server of the table");
    let mut bed = Bed::daemon(dir, &cpus.server, root, setup.disk, &[("commits_in_flight", commits)])?;
    let first =
        shapes.iter().max_by_key(|shape| shape.batch * shape.record_bytes).ok_or("no kind of load")?;
    bed.prepare(first)?;
    bed.point(first, &Plan { rate: None, warm_up: Duration::ZERO, duration: seconds(times.first_warm_up) })?;
    bed.clear(first)?;
    for shape in shapes {
        let context = Context {
            connections: shape.connections,
            shards: bed.shards(),
            commits_in_flight: commits as usize,
            echo_us: net.map(|net| net.server_us),
            log_bandwidth: disk.map(|disk| disk.bandwidth(&shape.class)),
            ..Context::default()
        };
        result.table.push(cell(&mut bed, shape, p99_ms, times, (context, disk), tell)?);
    }
    Ok(result)
}

/// Sets of CPUs that are compared.
pub(crate) fn shard_trials<'a>(cpus: &'a Cpus, all: &'a [usize]) -> Vec<&'a [usize]> {
    match cpus.server.len() < all.len() {
        true => vec![&cpus.server, all],
        false => Vec::new(),
    }
}

/// A fresh server with a setting, as fast as it can.
fn trial(setup: &Setup<'_>, cpus: &[usize], commits: u64, value: u64) -> Result<Trial, String> {
    let shape = Shape::new("fsync", 1, 200);
    let settings = [("commits_in_flight", commits)];
    let mut bed = Bed::daemon(setup.dir, cpus, setup.root, setup.disk, &settings)?;
    bed.prepare(&shape)?;
    let Times { first_warm_up, point, .. } = setup.times;
    let plan = Plan { rate: None, warm_up: seconds(first_warm_up), duration: seconds(point) };
    let (point, usage) = bed.point(&shape, &plan)?;
    Ok(Trial {
        others: usage.others,
        value,
        records_per_second: point.records_per_second,
        p50_us: point.latency_us.p50,
        p99_us: point.latency_us.p99,
    })
}

/// The value that gives most; the default unless another gives clearly more.
pub(crate) fn best(trials: &[Trial], default: u64) -> u64 {
    let of_default = trials.iter().find(|trial| trial.value == default);
    let most = trials.iter().max_by(|a, b| a.records_per_second.total_cmp(&b.records_per_second));
    match (most, of_default) {
        (Some(most), Some(usual)) if most.records_per_second < usual.records_per_second * WORTH => default,
        (Some(most), _) => most.value,
        (None, _) => default,
    }
}

/// Whether a point held its rate: all of it was answered, in time, with nothing refused.
fn held(point: &Point, rate: f64, p99_ms: f64) -> bool {
    point.refused.is_empty()
        && point.requests_per_second >= rate * KEPT
        && point.latency_us.p99 <= p99_ms * 1000.0
}

fn cell(
    bed: &mut Bed<'_>,
    shape: &Shape,
    p99_ms: f64,
    times: Times,
    (context, disk): (Context, Option<&DiskResult>),
    tell: &mut dyn FnMut(&str),
) -> Result<Cell, String> {
    tell(&format!("{}: closed loop", shape.text()));
    bed.prepare(shape)?;
    let probe = Plan { rate: None, warm_up: seconds(times.probe), duration: seconds(times.probe) };
    let (closed, _) = bed.point(shape, &probe)?;
    let judged = |point: &Point, usage: &Usage| {
        let block_bytes = usage.log_bytes_per_second / usage.commits_per_second.max(1.0);
        let alone = disk.and_then(|disk| disk.sync_of(block_bytes as u32, context.commits_in_flight));
        let context = Context {
            device_us: alone.map(|point| (point.p50_us, point.p99_us)),
            requests_per_second: point.requests_per_second,
            mean_latency_us: point.latency_us.mean,
            ..context
        };
        judge(usage, &context)
    };
    let knee = search(closed.requests_per_second, times.steps, |rate| {
        tell(&format!("{}: {rate:.0} requests/s", shape.text()));
        let plan = Plan { rate: Some(rate), warm_up: seconds(times.warm_up), duration: seconds(times.point) };
        let (point, usage) = bed.point(shape, &plan)?;
        let judgement = judged(&point, &usage);
        Ok((held(&point, rate, p99_ms), (point, usage, judgement)))
    })?;
    bed.clear(shape)?;
    let steps = knee.steps.iter().map(|step| {
        let (point, _, Judgement { limit, nearest: (nearest, share), .. }) = &step.found;
        let (limit, used) = match step.held || *limit != Resource::Tail {
            true => (*nearest, Some(*share)),
            false => (*limit, None),
        };
        Tried { requests_per_second: step.rate, p99_us: point.latency_us.p99, held: step.held, limit, used }
    });
    let (broke, held) = (knee.broke(), knee.held());
    let (point, usage) = held.map(|step| (step.found.0.clone(), step.found.1.clone())).unwrap_or_default();
    Ok(Cell {
        shape: shape.clone(),
        records_per_second: point.records_per_second,
        requests_per_second: point.requests_per_second,
        p50_us: point.latency_us.p50,
        p99_us: point.latency_us.p99,
        closed_records_per_second: closed.records_per_second,
        steps: steps.collect(),
        limit: broke.map(|step| step.found.2.limit),
        evidence: broke.or(held).map_or(String::new(), |step| step.found.2.evidence.clone()),
        usage,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_shared_out() {
        let table = [
            (vec![0], 1, None, vec![0], vec![0]),
            (vec![0, 1], 2, None, vec![0], vec![1]),
            (vec![0, 1], 2, Some(0), vec![1], vec![0]),
            (vec![2, 3, 4, 5], 4, Some(9), vec![2, 3, 4], vec![5]),
            (vec![0, 1, 2, 3], 2, None, vec![0], vec![3]), // a quota of two
            (vec![0, 1, 2, 3], 1, None, vec![0], vec![3]),
        ];
        for (allowed, usable, irq, server, generator) in table {
            let cpus = Cpus::share(&allowed, usable, irq);
            assert_eq!(cpus, Cpus { server, generator }, "{allowed:?} {usable} {irq:?}");
        }
    }

    #[test]
    fn the_default_stays_unless_another_value_is_clearly_better() {
        let trial = |value, records_per_second| Trial {
            value,
            records_per_second,
            p50_us: 0.0,
            p99_us: 0.0,
            others: 0.0,
        };
        let table = [
            (vec![trial(1, 90.0), trial(2, 100.0), trial(4, 104.0)], 2),
            (vec![trial(1, 90.0), trial(2, 100.0), trial(4, 110.0)], 4),
            (vec![trial(1, 120.0), trial(2, 100.0), trial(4, 110.0)], 1),
            (vec![], 2),
        ];
        for (trials, expected) in table {
            assert_eq!(best(&trials, 2), expected, "{trials:?}");
        }
    }

    #[test]
    fn a_machine_that_was_not_quiet_is_told() {
        let trial = |others| Trial { value: 1, records_per_second: 1.0, p50_us: 0.0, p99_us: 0.0, others };
        let result =
            |others| ServerResult { shards: vec![trial(0.1), trial(others)], ..ServerResult::default() };
        assert_eq!((result(0.4).disturbed(), result(1.5).disturbed()), (None, Some(1.5)));
    }

    #[test]
    fn a_rate_is_held_when_it_is_answered_in_time_and_nothing_is_refused() {
        let point = |requests_per_second, p99: f64, refused| {
            let mut point = Point { requests_per_second, ..Point::default() };
            point.latency_us.p99 = p99;
            if refused {
                point.refused.insert("429".into(), 1);
            }
            point
        };
        assert!(held(&point(99.0, 5_000.0, false), 100.0, 5.0));
        assert!(!held(&point(97.0, 5_000.0, false), 100.0, 5.0), "too few");
        assert!(!held(&point(100.0, 5_001.0, false), 100.0, 5.0), "too late");
        assert!(!held(&point(100.0, 1_000.0, true), 100.0, 5.0), "refused");
    }
}
