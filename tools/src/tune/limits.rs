//! What keeps a server from more: judged from what was used up, with the numbers that say so. Lives here:
//! the judgement. Not here: the counters (`usage`).

use serde::{Deserialize, Serialize};

use super::usage::Usage;

/// A core, or a thread, that is busier has nothing left: the rest goes into waking up and waiting.
const CORE_FULL: f64 = 0.9;
const GENERATOR_FULL: f64 = 0.9;
const MACHINE_FULL: f64 = 0.95;
/// Cores taken by other processes from which on they are what fills the machine. The kernel's own work for
/// sockets and disk is in it, too, and takes less.
pub(crate) const OTHERS_MUCH: f64 = 0.5;
/// Commits in flight, and connections in use, as parts of what there may be.
const OCCUPIED: f64 = 0.75;
/// Bytes a second, as a part of what the device was measured to take.
const BANDWIDTH_FULL: f64 = 0.75;
/// Above this part of a core's time the bare network costs what the server costs.
const NETWORK_MOST: f64 = 0.5;

/// A resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Resource {
    /// What asks, not what is asked: the server can do more.
    Generator,
    /// CPU of a core of the server, in its own code and in the kernel.
    ServerCore,
    /// The same, and most of it goes into sockets.
    NetworkStack,
    /// All CPUs of the machine, which server and generator share.
    Machine,
    /// Processes that have nothing to do with it.
    Others,
    /// Bytes a second of the log device.
    LogBandwidth,
    /// How long a synced write takes, with as many in flight as may be.
    LogLatency,
    /// Every connection waits for an answer: more connections would do more.
    Connections,
    /// Nothing is used up: single slow moments make the p99.
    Tail,
}

impl Resource {
    /// In words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Resource::Generator => "generator (the server can do more)",
            Resource::ServerCore => "server CPU core",
            Resource::NetworkStack => "network stack on the server's core",
            Resource::Machine => "all CPUs of the machine",
            Resource::Others => "other processes on this machine",
            Resource::LogBandwidth => "log device bandwidth",
            Resource::LogLatency => "log device sync latency",
            Resource::Connections => "number of connections",
            Resource::Tail => "single slow moments (nothing is used up)",
        }
    }
}

/// What a judgement needs beside [`Usage`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Context {
    pub(crate) requests_per_second: f64,
    pub(crate) mean_latency_us: f64,
    pub(crate) connections: usize,
    pub(crate) shards: usize,
    pub(crate) commits_in_flight: usize,
    /// CPU time of the bare echo server for each request; none: not measured.
    pub(crate) echo_us: Option<f64>,
    /// The most bytes a second that synced writes reached; none: not measured.
    pub(crate) log_bandwidth: Option<f64>,
    /// p50 and p99 of a synced write of the mean size, by the device alone; none: not measured.
    pub(crate) device_us: Option<(f64, f64)>,
}

/// What a point was limited by.
#[derive(Clone, Debug)]
pub(crate) struct Judgement {
    /// The first resource that is used up; [`Resource::Tail`] if none is.
    pub(crate) limit: Resource,
    /// The resource that is used up most, though not wholly perhaps, and its share.
    pub(crate) nearest: (Resource, f64),
    /// The numbers behind it.
    pub(crate) evidence: String,
}

/// What limits, and the numbers behind it.
pub(crate) fn judge(usage: &Usage, context: &Context) -> Judgement {
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    // Little's law: how many were under way at a time, of those that may be.
    let commits = usage.syncs_per_second * usage.sync_us / 1e6;
    let commits = commits / (context.shards * context.commits_in_flight).max(1) as f64;
    let connections =
        context.requests_per_second * context.mean_latency_us / 1e6 / context.connections.max(1) as f64;
    let bandwidth = context.log_bandwidth.map(|most| usage.log_bytes_per_second / most.max(1.0));
    let network = context.echo_us.map(|us| context.requests_per_second * us / 1e6 / usage.server.max(1e-9));
    let evidence = format!(
        "busiest server core {} ({} of it in the kernel), generator {}, machine {}{}{}; {} of {} commits in flight at {:.0} us a sync{}; log {:.0} MB/s{}; connections in use {}{}",
        percent(usage.core),
        percent(usage.core_in_kernel),
        percent(usage.generator),
        percent(usage.machine),
        if usage.others > 0.1 {
            format!(", other processes {:.1} cores", usage.others)
        } else {
            String::new()
        },
        if usage.stolen > 0.01 { format!(" ({} stolen)", percent(usage.stolen)) } else { String::new() },
        percent(commits),
        context.shards * context.commits_in_flight,
        usage.sync_us,
        context.device_us.map_or(String::new(), |(p50, p99)| {
            format!(" (the device alone: p50 {p50:.0}, p99 {p99:.0} us)")
        }),
        usage.log_bytes_per_second / 1e6,
        bandwidth.map_or(String::new(), |share| format!(" ({} of the device)", percent(share))),
        percent(connections.min(1.0)),
        usage.disk_busy.map_or(String::new(), |busy| format!("; disk busy {}", percent(busy))),
    );
    let network_most = network.is_some_and(|share| share >= NETWORK_MOST);
    let core = if network_most { Resource::NetworkStack } else { Resource::ServerCore };
    let machine = if usage.others >= OTHERS_MUCH { Resource::Others } else { Resource::Machine };
    // In the order in which they explain each other.
    let resources = [
        (Resource::Generator, usage.generator, GENERATOR_FULL),
        (core, usage.core, CORE_FULL),
        (machine, usage.machine, MACHINE_FULL),
        (Resource::LogBandwidth, bandwidth.unwrap_or(0.0), BANDWIDTH_FULL),
        (Resource::LogLatency, commits, OCCUPIED),
        (Resource::Connections, connections, OCCUPIED),
    ];
    let full = resources.iter().find(|(_, share, full)| share >= full);
    let by_room = |a: &&(_, f64, f64), b: &&(_, f64, f64)| (a.1 / a.2).total_cmp(&(b.1 / b.2));
    let nearest = full.or(resources.iter().max_by(by_room)).map(|(resource, share, _)| (*resource, *share));
    Judgement {
        limit: full.map_or(Resource::Tail, |(resource, ..)| *resource),
        nearest: nearest.expect("one of several"),
        evidence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resource_that_is_used_up_is_named() {
        let context = Context {
            requests_per_second: 50_000.0,
            mean_latency_us: 500.0,
            connections: 64,
            shards: 1,
            commits_in_flight: 2,
            echo_us: Some(4.0),
            log_bandwidth: Some(1e9),
            device_us: None,
        };
        let calm = Usage {
            core: 0.6,
            server: 0.6,
            generator: 0.5,
            machine: 0.6,
            syncs_per_second: 5_000.0,
            sync_us: 150.0,
            log_bytes_per_second: 1e8,
            ..Usage::default()
        };
        let table = [
            (calm.clone(), context, Resource::Tail),
            (Usage { generator: 0.95, core: 0.99, ..calm.clone() }, context, Resource::Generator),
            (Usage { core: 0.95, server: 0.95, ..calm.clone() }, context, Resource::ServerCore),
            // 50 000 requests at 10 us are half a core.
            (
                Usage { core: 0.95, server: 0.95, ..calm.clone() },
                Context { echo_us: Some(10.0), ..context },
                Resource::NetworkStack,
            ),
            (
                Usage { core: 0.95, server: 0.95, ..calm.clone() },
                Context { echo_us: None, ..context },
                Resource::ServerCore,
            ),
            (Usage { machine: 0.99, ..calm.clone() }, context, Resource::Machine),
            (Usage { machine: 0.99, others: 0.7, ..calm.clone() }, context, Resource::Others),
            (Usage { log_bytes_per_second: 8e8, ..calm.clone() }, context, Resource::LogBandwidth),
            (
                Usage { log_bytes_per_second: 8e8, ..calm.clone() },
                Context { log_bandwidth: None, ..context },
                Resource::Tail,
            ),
            // 5 000 syncs of 320 us keep 1.6 of 2 under way.
            (Usage { sync_us: 320.0, ..calm.clone() }, context, Resource::LogLatency),
            (Usage { sync_us: 320.0, ..calm.clone() }, Context { shards: 2, ..context }, Resource::Tail),
            // 50 000 requests of 1 ms keep 50 of 64 connections waiting.
            (calm.clone(), Context { mean_latency_us: 1000.0, ..context }, Resource::Connections),
        ];
        for (index, (usage, context, expected)) in table.into_iter().enumerate() {
            let judged = judge(&usage, &context);
            assert_eq!(judged.limit, expected, "row {index}: {}", judged.evidence);
            assert!(expected == Resource::Tail || judged.nearest.0 == expected, "row {index}");
        }
    }

    #[test]
    fn the_nearest_limit_is_told_where_none_is_reached() {
        let usage = Usage { core: 0.6, generator: 0.5, machine: 0.5, ..Usage::default() };
        let of = |usage: &Usage, context: &Context| judge(usage, context).nearest;
        assert_eq!(of(&usage, &Context::default()), (Resource::ServerCore, 0.6));
        // 60 % of 75 are nearer than 60 % of 90.
        let context = Context { log_bandwidth: Some(1e9), ..Context::default() };
        let usage = Usage { log_bytes_per_second: 6e8, ..usage };
        assert_eq!(of(&usage, &context), (Resource::LogBandwidth, 0.6));
    }

    #[test]
    fn the_evidence_has_the_numbers() {
        let usage =
            Usage { core: 0.42, generator: 0.31, sync_us: 123.0, disk_busy: Some(0.77), ..Usage::default() };
        let context = Context { device_us: Some((81.0, 345.0)), ..Context::default() };
        let evidence = judge(&usage, &context).evidence;
        for part in ["42 %", "31 %", "123 us", "p50 81, p99 345 us", "disk busy 77 %"] {
            assert!(evidence.contains(part), "{part}: {evidence}");
        }
    }
}
