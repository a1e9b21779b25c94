//! What was found, for people. Lives here: text. Not here: JSON, which is the profile itself.

use std::fmt::Write as _;

use super::checks::{Check, Verdict};
use super::disk::{DiskResult, SyncPoint};
use super::facts::Facts;
use super::json::SplitPoint;
use super::profile::{Change, Profile};
use super::server::{Cell, NetResult, ServerResult, Trial};

/// The machine, in a line.
pub(crate) fn machine(facts: &Facts) -> String {
    let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    let disk = facts.disk.as_ref().map_or("no block device".to_owned(), |disk| {
        format!("{} ({}), write cache {}", disk.name, known(&disk.model), known(&disk.write_cache))
    });
    format!(
        "{} x {}{}, {}, Linux {}, {} on {disk}",
        facts.cpus_online,
        known(&facts.cpu_model),
        if facts.virtual_machine { " (virtual)" } else { "" },
        super::checks::bytes_text(facts.memory_bytes.unwrap_or(0)),
        known(&facts.kernel),
        known(&facts.file_system),
    )
}

/// Everything that is in a profile.
pub(crate) fn text(profile: &Profile) -> String {
    let mut out = format!("{}\n", machine(&profile.facts));
    if profile.quick {
        out.push_str("QUICK: points are too short to be quoted.\n");
    }
    if !profile.checks.is_empty() {
        checks(&profile.checks, &mut out);
    }
    if let Some(result) = &profile.disk {
        disk(result, &mut out);
    }
    if let Some(result) = &profile.net {
        net(result, &mut out);
    }
    if let Some(points) = &profile.json {
        json(points, &mut out);
    }
    if let Some(result) = &profile.server {
        server(result, &mut out);
    }
    if profile.quick {
        out.push_str("\nQUICK: points were too short to be quoted.\n");
    }
    out
}

fn checks(checks: &[Check], out: &mut String) {
    out.push_str("\nHost\n");
    for check in checks {
        let mark = match check.verdict {
            Verdict::Good => "ok",
            Verdict::Unknown => "?",
            Verdict::Improve => "could be better",
            Verdict::Bad => "BAD",
        };
        let _ = writeln!(out, "  {:<19} {mark:<16} {}", check.name, check.found);
        if !check.why.is_empty() {
            let _ = writeln!(out, "  {:<36} {}", "", check.why);
        }
        if !check.fix.is_empty() {
            let _ = writeln!(out, "  {:<36} do: {}", "", check.fix);
        }
    }
}

fn disk(result: &DiskResult, out: &mut String) {
    out.push_str("\nLog device: synced writes; syncs/s, and microseconds of each (p50, p99)\n");
    let mut kinds: Vec<String> = Vec::new();
    let mut rows: Vec<(u32, usize)> = Vec::new();
    for point in &result.syncs {
        if !kinds.contains(&point.kind()) {
            kinds.push(point.kind());
        }
        let row = (point.block_bytes, point.depth);
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    let heads = kinds.iter().fold(String::new(), |line, kind| format!("{line} |{kind:>25}"));
    let _ = writeln!(out, "  {:>8} {:>9}{heads}", "block", "in flight");
    for (block_bytes, depth) in rows {
        let _ = write!(out, "  {:>8} {depth:>9}", format!("{} KiB", block_bytes >> 10));
        for kind in &kinds {
            let of_cell = |point: &&SyncPoint| {
                (point.block_bytes, point.depth) == (block_bytes, depth) && point.kind() == *kind
            };
            let _ = match result.syncs.iter().find(of_cell) {
                Some(point) => {
                    let SyncPoint { syncs_per_second, p50_us, p99_us, .. } = point;
                    write!(out, " |{syncs_per_second:>9.0} {p50_us:>7.0} {p99_us:>7.0}")
                }
                None => write!(out, " |{:>25}", ""),
            };
        }
        out.push('\n');
    }
    let _ = writeln!(
        out,
        "  writes without syncs {:.0} MB/s, sequential read {:.0} MB/s, zero-filling {:.0} MB/s",
        result.write_bytes_per_second / 1e6,
        result.read_bytes_per_second / 1e6,
        result.fill_bytes_per_second / 1e6
    );
}

fn net(result: &NetResult, out: &mut String) {
    let _ = writeln!(
        out,
        "\nNetwork stack: a bare loop that answers requests as long as a single append, over loopback\n  {:.0} requests/s, p50 {:.0} us, p99 {:.0} us, {:.2} us CPU a request (generator {:.0} %)",
        result.requests_per_second,
        result.p50_us,
        result.p99_us,
        result.server_us,
        result.generator * 100.0
    );
}

fn json(points: &[SplitPoint], out: &mut String) {
    out.push_str("\nJSON splitting, one core\n");
    for point in points {
        let _ = writeln!(
            out,
            "  records of {:>5} B {:>6.2} GB/s {:>11.0} records/s",
            point.record_bytes,
            point.bytes_per_second / 1e9,
            point.records_per_second
        );
    }
}

fn trials(name: &str, trials: &[Trial], out: &mut String) {
    for trial in trials {
        let _ = writeln!(
            out,
            "  {name} = {}: {:.0} records/s, p50 {:.0} us, p99 {:.0} us",
            trial.value, trial.records_per_second, trial.p50_us, trial.p99_us
        );
    }
}

fn server(result: &ServerResult, out: &mut String) {
    let _ = writeln!(
        out,
        "\nServer: settings, closed loop, single records of 200 B, class fsync\n  server on CPUs {:?}, generator on {:?}",
        result.server_cpus, result.generator_cpus
    );
    if let Some(cores) = result.disturbed() {
        let _ = writeln!(
            out,
            "  NOT QUIET: other processes used up to {cores:.1} cores meanwhile; these numbers are theirs, too"
        );
    }
    trials("commits_in_flight", &result.commits_in_flight, out);
    trials("shards", &result.shards, out);
    if result.table.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "\nCapacity with {} shard(s): the highest rate with p99 <= {} ms (open loop), and what kept more from being held\n  {:<6} {:>6} {:>7} {:>5} {:>11} {:>11} {:>8} {:>8} {:>12}  limit",
        result.server_cpus.len(),
        result.p99_ms,
        "class",
        "batch",
        "record",
        "conn",
        "records/s",
        "requests/s",
        "p50 us",
        "p99 us",
        "closed loop"
    );
    for cell in &result.table {
        row(cell, out);
    }
}

fn row(cell: &Cell, out: &mut String) {
    let limit = match cell.limit {
        Some(limit) => limit.words(),
        None => "not reached: more steps (--steps) would tell",
    };
    let _ = writeln!(
        out,
        "  {:<6} {:>6} {:>7} {:>5} {:>11.0} {:>11.0} {:>8.0} {:>8.0} {:>12.0}  {limit}",
        cell.shape.class,
        cell.shape.batch,
        format!("{} B", cell.shape.record_bytes),
        cell.shape.connections,
        cell.records_per_second,
        cell.requests_per_second,
        cell.p50_us,
        cell.p99_us,
        cell.closed_records_per_second,
    );
    for step in &cell.steps {
        let used = step.used.map_or(String::new(), |used| format!(", {:.0} % of it in use", used * 100.0));
        let _ = writeln!(
            out,
            "         {:>9.0} requests/s {:<8} p99 {:>7.1} ms; {} {}{used}",
            step.requests_per_second,
            if step.held { "held" } else { "not held" },
            step.p99_us / 1000.0,
            if step.held { "nearest limit:" } else { "limit:" },
            step.limit.words(),
        );
    }
    let _ = writeln!(out, "         {}", cell.evidence);
}

/// What changed since a profile was saved.
pub(crate) fn changes(changes: &[Change]) -> String {
    let mut out = String::new();
    for change in changes {
        let mark = if change.worse { "WORSE" } else { "changed" };
        let _ = writeln!(out, "  {mark:<8} {}: was {}, is {}", change.what, change.was, change.is);
    }
    if changes.is_empty() {
        out.push_str("  nothing has changed beyond its tolerance\n");
    }
    out
}
