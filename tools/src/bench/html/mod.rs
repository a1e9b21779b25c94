//! The report for people: one page without scripts, fonts or files of others. Lives here: tables and what is
//! drawn. Not here: how lines are drawn (`svg`).

mod svg;

use std::fmt::Write as _;

use super::config::Config;
use super::outcome::Outcome;
use super::report::{Finding, Report};
use svg::{Axis, COLOURS, Line, Scale, chart};

const STYLE: &str = "
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 112rem; padding: 0 1rem; color: #1b1b1b; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .5rem; text-align: right; vertical-align: top }
th { font-weight: 600; background: #f5f5f5 } td { white-space: nowrap }
th:first-child, td:first-child, .facts td { text-align: left } td:first-child, .facts td, .warning { white-space: normal }
td:first-child { min-width: 16rem }
.bars td:last-child { white-space: normal; text-align: left; min-width: 14rem }
.quick { background: #b00020; color: #fff; padding: .6rem 1rem; font-weight: 600 }
.warning { color: #9a3b00 } .met { color: #00703c; font-weight: 600 } .missed { color: #b00020; font-weight: 600 }
.wide { overflow-x: auto } svg { width: 100%; max-width: 900px; height: auto; font-size: 12px; fill: #333 }
.grid { stroke: #e3e3e3; stroke-width: 1 } .key { display: inline-block; margin-right: 1.2rem }
.key span { display: inline-block; width: 1.2rem; height: .2rem; margin-right: .4rem; vertical-align: middle }
pre { background: #f5f5f5; padding: .6rem; white-space: pre-wrap; font-size: 13px }
";

/// Text that stands for itself in HTML, inside quotes too.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // A terminal's codes, say; XML has no way to write them.
            char if char.is_control() && char != '\n' && char != '\t' => out.push('\u{fffd}'),
            char => out.push(char),
        }
    }
    out
}

/// The whole page. It is well-formed XML, too.
pub(super) fn page(report: &Report) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta name=\"viewport\" content=\"width=device-width\"/>\n<title>runelog bench</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>runelog bench, {}</h1>\n",
        escape(&report.taken_at)
    );
    if report.quick {
        out += "<p class=\"quick\">--quick: points were allowed to be shorter than 10 s. Not to be quoted.</p>\n";
    }
    let _ = writeln!(out, "<pre>{}</pre>", escape(&report.command));
    if !report.findings.is_empty() {
        findings(&mut out, &report.findings);
    }
    let medians = report.medians();
    let repeated = medians.len() < report.points.len();
    out += if repeated { "<h2>Points (the median run of each)</h2>\n" } else { "<h2>Points</h2>\n" };
    points(&mut out, &medians);
    parts(&mut out, &medians);
    charts(&mut out, &medians);
    if repeated {
        out += "<h2>Every run</h2>\n";
        points(&mut out, &report.points);
    }
    machine(&mut out, report, &medians);
    out + "</body>\n</html>\n"
}

fn row(out: &mut String, tag: &str, cells: &[String]) {
    out.push_str("<tr>");
    for cell in cells {
        let _ = write!(out, "<{tag}>{cell}</{tag}>");
    }
    out.push_str("</tr>\n");
}

fn head(out: &mut String, names: &[&str]) {
    row(out, "th", &names.iter().map(|name| escape(name)).collect::<Vec<_>>());
}

fn findings(out: &mut String, findings: &[Finding]) {
    out.push_str("<h2>Against the bars</h2>\n<div class=\"wide\"><table class=\"bars\">\n");
    head(
        out,
        &["Work", "Median", "Runs", "Bar", "", "Raw ceiling", "Of it", "Limited by", "What would move it"],
    );
    for finding in findings {
        let runs: Vec<String> = finding.runs.iter().map(|run| number(*run)).collect();
        let verdict = match finding.met {
            Some(true) => "<span class=\"met\">reached</span>",
            Some(false) => "<span class=\"missed\">missed</span>",
            None => "",
        };
        let ceiling = finding.ceiling.map_or(String::new(), number);
        let share = finding.of_ceiling.map_or(String::new(), |share| format!("{:.0} %", share * 100.0));
        row(
            out,
            "td",
            &[
                escape(&finding.work),
                escape(&format!("{} {}", number(finding.median), finding.unit)),
                runs.join("<br/>"),
                escape(&finding.bar_text(number)),
                verdict.to_owned(),
                ceiling,
                share,
                escape(&finding.limited_by),
                escape(&finding.next),
            ],
        );
    }
    out.push_str("</table></div>\n");
}

fn points(out: &mut String, outcomes: &[Outcome]) {
    out.push_str("<div class=\"wide\"><table>\n");
    let names = [
        "Point",
        "requests/s",
        "records/s",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "p99.99",
        "max",
        "unanswered",
        "refused",
        "server CPU",
        "its busiest thread",
        "µs CPU/req",
        "generator",
        "slip p99",
        "disk read, written",
        "load",
        "limited by",
    ];
    head(out, &names);
    for outcome in outcomes {
        let Outcome { point, .. } = outcome;
        let latency = &point.latency_us;
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        let refused: Vec<String> =
            point.refused.iter().map(|(status, count)| format!("{count} x {status}")).collect();
        let moved = point.server_read_bytes.zip(point.server_write_bytes);
        let mib = |bytes: u64| number(bytes as f64 / f64::from(1 << 20));
        let mut cells = vec![
            escape(&outcome.config.title()),
            number(point.requests_per_second),
            number(point.records_per_second),
        ];
        let percentiles = [latency.p50, latency.p90, latency.p99, latency.p999, latency.p9999, latency.max];
        cells.extend(percentiles.map(time));
        cells.extend([
            number(point.unanswered as f64),
            escape(&refused.join(", ")),
            point.server_cpu.map_or("unknown".into(), percent),
            point.server_thread_cpu.map_or("unknown".into(), percent),
            outcome.server_cpu_us_per_request.map_or("unknown".into(), number),
            percent(point.generator_cpu),
            point.slip_us.map_or(String::new(), |slip| time(slip.p99)),
            moved.map_or("unknown".into(), |(read, written)| format!("{}, {} MiB", mib(read), mib(written))),
            escape(outcome.load_average.split(' ').next().unwrap_or("")),
            escape(outcome.limited_by),
        ]);
        row(out, "td", &cells);
        for warning in &outcome.warnings {
            let _ = writeln!(
                out,
                "<tr><td class=\"warning\" colspan=\"{}\">{}</td></tr>",
                names.len(),
                escape(warning)
            );
        }
    }
    out.push_str("</table></div>\n");
}

/// The kinds of requests of mixed loads.
fn parts(out: &mut String, outcomes: &[Outcome]) {
    for outcome in outcomes.iter().filter(|outcome| !outcome.point.parts.is_empty()) {
        let _ = writeln!(out, "<h2>By kind: {}</h2>\n<table>", escape(&outcome.config.title()));
        head(out, &["Kind", "requests/s", "records/s", "p50", "p90", "p99", "p99.9", "p99.99", "max"]);
        for part in outcome.point.parts.iter().filter(|part| part.requests_per_second > 0.0) {
            let latency = &part.latency_us;
            let mut cells =
                vec![escape(part.name), number(part.requests_per_second), number(part.records_per_second)];
            let percentiles =
                [latency.p50, latency.p90, latency.p99, latency.p999, latency.p9999, latency.max];
            cells.extend(percentiles.map(time));
            row(out, "td", &cells);
        }
        out.push_str("</table>\n");
    }
}

fn charts(out: &mut String, outcomes: &[Outcome]) {
    let latency = Axis { name: "latency", scale: Scale::Log, label: time };
    let of_each = |pick: fn(&Outcome) -> Vec<(f64, f64)>| -> Vec<Line> {
        outcomes.iter().map(|outcome| Line { name: outcome.config.title(), points: pick(outcome) }).collect()
    };
    let quantile = Axis { name: "share of the answers, %", scale: Scale::Quantile, label: percentile };
    let curves = of_each(|outcome| outcome.point.latency_curve.clone());
    figure(out, "Latency by percentile", quantile, latency, &curves);
    let second = Axis { name: "second", scale: Scale::Linear, label: number };
    let records = Axis { name: "records/s", scale: Scale::Linear, label: number };
    let by_second = of_each(|outcome| {
        outcome
            .point
            .by_second
            .iter()
            .enumerate()
            .map(|(second, records)| (second as f64 + 1.0, *records as f64))
            .collect()
    });
    figure(out, "Records in each second", second, records, &by_second);
    let rate = Axis { name: "requests/s that were answered", scale: Scale::Linear, label: number };
    for (name, lines) in sweeps(outcomes) {
        figure(out, &format!("Latency over rate: {name}"), rate, latency, &lines);
    }
    for size in SIZES {
        let x = Axis { name: size.name, scale: Scale::Log, label: number };
        let throughput = size.lines(outcomes, |outcome| outcome.point.records_per_second);
        if throughput.is_empty() {
            continue;
        }
        figure(out, &format!("Records/s over {}", size.name), x, records, &throughput);
        let p99 = size.lines(outcomes, |outcome| outcome.point.latency_us.p99);
        figure(out, &format!("p99 over {}", size.name), x, latency, &p99);
    }
}

/// A size of which a sweep may have several values.
struct Size {
    name: &'static str,
    of: fn(&mut Config) -> &mut usize,
    /// How a name says that it is 0, and what it says instead.
    unnamed: (&'static str, &'static str),
}

const SIZES: [Size; 5] = [
    Size { name: "records in a request", of: |config| &mut config.batch, unnamed: (", 0 x ", ", n x ") },
    Size { name: "bytes of a record", of: |config| &mut config.record_bytes, unnamed: (" x 0 B", " x n B") },
    Size { name: "connections", of: |config| &mut config.connections, unnamed: (", 0 connections", "") },
    Size { name: "topics", of: |config| &mut config.topics, unnamed: (", 0 topics", "") },
    Size { name: "readers", of: |config| &mut config.readers, unnamed: (", 0 readers", "") },
];

impl Size {
    /// A line for all points that differ in this size only, if there are at least two of them.
    fn lines(&self, outcomes: &[Outcome], pick: fn(&Outcome) -> f64) -> Vec<Line> {
        let mut lines: Vec<Line> = Vec::new();
        for outcome in outcomes {
            let mut config = outcome.config.clone();
            let size = std::mem::take((self.of)(&mut config));
            let name = config.title().replace(self.unnamed.0, self.unnamed.1);
            let at = (size as f64, pick(outcome));
            match lines.iter_mut().find(|line| line.name == name) {
                Some(line) => line.points.push(at),
                None => lines.push(Line { name, points: vec![at] }),
            }
        }
        lines.retain(|line| line.points.len() > 1);
        lines.iter_mut().for_each(|line| line.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
        lines
    }
}

/// Points that differ in rate or connections only: how latency grows with what is asked.
fn sweeps(outcomes: &[Outcome]) -> Vec<(String, Vec<Line>)> {
    let mut groups: Vec<(String, Vec<&Outcome>)> = Vec::new();
    for outcome in outcomes {
        let mut config = outcome.config.clone();
        (config.rate, config.connections) = (None, 0);
        let name = config.series().replace(", 0 connections", "");
        match groups.iter_mut().find(|(other, _)| *other == name) {
            Some((_, group)) => group.push(outcome),
            None => groups.push((name, vec![outcome])),
        }
    }
    let sweep = |(name, mut group): (String, Vec<&Outcome>)| {
        group.sort_by(|a, b| a.point.requests_per_second.total_cmp(&b.point.requests_per_second));
        let line = |line: &str, pick: fn(&Outcome) -> f64| Line {
            name: line.to_owned(),
            points: group.iter().map(|outcome| (outcome.point.requests_per_second, pick(outcome))).collect(),
        };
        let lines = vec![
            line("p50", |outcome| outcome.point.latency_us.p50),
            line("p99", |outcome| outcome.point.latency_us.p99),
            line("p99.9", |outcome| outcome.point.latency_us.p999),
        ];
        (name, lines)
    };
    groups.into_iter().filter(|(_, group)| group.len() > 1).map(sweep).collect()
}

fn figure(out: &mut String, title: &str, x: Axis, y: Axis, lines: &[Line]) {
    let shown = &lines[..lines.len().min(COLOURS.len())];
    let _ = writeln!(out, "<h2>{}</h2>", escape(title));
    out.push_str(&chart(x, y, shown));
    out.push_str("<p>");
    for (line, colour) in shown.iter().zip(COLOURS) {
        let name = escape(&line.name);
        let _ = write!(out, "<span class=\"key\"><span style=\"background:{colour}\"></span>{name}</span>");
    }
    if lines.len() > shown.len() {
        let _ = write!(out, "and {} more, which are in the table only", lines.len() - shown.len());
    }
    out.push_str("</p>\n");
}

fn machine(out: &mut String, report: &Report, medians: &[Outcome]) {
    let (host, disk) = (&report.host, &report.host.disk);
    let cpus = |cpus: &[usize]| cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    out.push_str("<h2>Taken on</h2>\n<table class=\"facts\">\n");
    for (name, value) in [
        ("Program", format!("runelog {}, build {}", report.version, report.build)),
        ("Kernel", host.kernel.clone()),
        ("CPU", format!("{} x {}", host.cpus, host.cpu_model)),
        ("Governor", host.cpu_governor.clone()),
        ("CPUs of the generator", cpus(&report.generator_cpus)),
        ("CPUs of the servers", cpus(&report.server_cpus)),
        ("Memory", format!("{} MiB", host.memory_bytes >> 20)),
        ("Load average before", host.load_average.clone()),
        ("File system", format!("{} ({})", host.file_system, host.mount_options)),
        ("Disk", format!("{}: {} ({})", disk.device, disk.model, disk.driver)),
        ("Scheduler", disk.scheduler.clone()),
        ("Rotational", disk.rotational.clone()),
        ("Logical block", format!("{} bytes", disk.logical_block_bytes)),
        ("Write cache", disk.write_cache.clone()),
        ("Power-loss protection", disk.power_loss_protection.clone()),
    ] {
        row(out, "td", &[escape(name), escape(&value)]);
    }
    out.push_str("</table>\n<h2>Settings of the server</h2>\n");
    let _ = writeln!(out, "<pre>{}</pre>", escape(&report.server_settings));
    for outcome in medians.iter().filter(|outcome| !outcome.server.settings.is_empty()) {
        let (title, settings) = (escape(&outcome.config.title()), escape(&outcome.server.settings));
        let _ = writeln!(out, "<p>But of: {title}</p>\n<pre>{settings}</pre>");
    }
}

/// A number with as many digits as say something, thousands apart.
fn number(value: f64) -> String {
    if value.abs() < 10.0 {
        let text = format!("{value:.2}");
        return text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && !out.ends_with('-') {
            out.push('\u{a0}');
        }
        out.push(digit);
    }
    out
}

/// Microseconds in the unit that suits them.
fn time(us: f64) -> String {
    match us {
        _ if us < 1000.0 => format!("{} µs", number(us)),
        _ if us < 1_000_000.0 => format!("{} ms", number(us / 1000.0)),
        _ => format!("{} s", number(us / 1_000_000.0)),
    }
}

/// A quantile in percent, with all its nines.
fn percentile(quantile: f64) -> String {
    let text = format!("{:.6}", quantile * 100.0);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests;
