//! Results for programs, and what a run as a whole found. Lives here: JSON, CSV, medians, findings. Not here:
//! the page for people (`html`).

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::host::Host;
use super::html;
use super::outcome::Outcome;

/// Everything a run found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) version: &'static str,
    /// Tells programs of one version apart: a hash of this one.
    pub(crate) build: String,
    /// Points were allowed to be too short: not to be quoted.
    pub(crate) quick: bool,
    /// UTC.
    pub(crate) taken_at: String,
    /// As it was given.
    pub(crate) command: String,
    pub(crate) host: Host,
    pub(crate) generator_cpus: Vec<usize>,
    pub(crate) server_cpus: Vec<usize>,
    /// What `serve --check` says of the first server that is started, or why that is not known; where others
    /// differ, their points say how.
    pub(crate) server_settings: String,
    pub(crate) findings: Vec<Finding>,
    pub(crate) points: Vec<Outcome>,
}

/// A figure that a run was made for: a median, beside its bar and its ceiling.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) work: String,
    pub(crate) unit: &'static str,
    pub(crate) median: f64,
    /// What the median is of.
    pub(crate) runs: Vec<f64>,
    pub(crate) bar: Option<Bar>,
    pub(crate) met: Option<bool>,
    /// What a bare loop reached, in the same unit.
    pub(crate) ceiling: Option<f64>,
    pub(crate) of_ceiling: Option<f64>,
    pub(crate) limited_by: String,
    /// What would move it.
    pub(crate) next: String,
}

/// A number to reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bar {
    /// As much or more.
    AtLeast(f64),
    /// As much or less.
    AtMost(f64),
}

impl Finding {
    /// The median of runs, held against its bar.
    pub(crate) fn new(work: &str, unit: &'static str, runs: Vec<f64>, bar: Option<Bar>) -> Finding {
        let median = median(&runs);
        let met = bar.map(|bar| match bar {
            Bar::AtLeast(least) => median >= least,
            Bar::AtMost(most) => median <= most,
        });
        let (work, next, limited_by) = (work.to_owned(), String::new(), String::new());
        Finding { work, unit, median, runs, bar, met, ceiling: None, of_ceiling: None, limited_by, next }
    }

    /// The same beside what a bare loop reached.
    pub(crate) fn below(mut self, ceiling: f64) -> Finding {
        self.ceiling = Some(ceiling);
        self.of_ceiling = Some(self.median / ceiling);
        self
    }

    /// The same with what limited it, and so what would move it.
    pub(crate) fn limited_by(mut self, limit: &str) -> Finding {
        self.limited_by = limit.to_owned();
        self.next = match limit {
            "server CPU" => "less work for each request, or more cores",
            "one server core" => "topics spread over more cores, or less work for each request",
            "CPUs that server and generator share" => "CPUs of their own: --server-cpus, --cpus",
            "disk (writes and syncs)" => {
                "a drive that syncs faster; larger batches, or more connections, to share a sync"
            }
            "disk (writes)" => "a drive that writes faster",
            "disk (reads)" => "a drive that reads faster, or a larger block cache",
            "generator" => "a generator on CPUs of its own, or on another machine",
            "latency of few connections" => "more connections, or larger batches",
            _ => "",
        }
        .to_owned();
        self
    }

    /// The bar in words, its number as `text` has it.
    pub(crate) fn bar_text(&self, text: impl Fn(f64) -> String) -> String {
        match self.bar {
            Some(Bar::AtLeast(least)) => format!("≥ {}", text(least)),
            Some(Bar::AtMost(most)) => format!("≤ {}", text(most)),
            None => String::new(),
        }
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let digits = if self.median < 100.0 { 2 } else { 0 };
        let mut line = format!("{:<58} {:>12.digits$} {}", self.work, self.median, self.unit);
        if let Some(met) = self.met {
            let verdict = if met { "reached" } else { "MISSED" };
            let _ = write!(line, "  bar {}: {verdict}", self.bar_text(|number| format!("{number:.0}")));
        }
        if let (Some(ceiling), Some(share)) = (self.ceiling, self.of_ceiling) {
            let _ = write!(line, "  raw ceiling {ceiling:.0}: {:.0} % of it", share * 100.0);
        }
        if !self.limited_by.is_empty() {
            let _ = write!(line, "  limit: {}", self.limited_by);
        }
        line
    }
}

/// The middle value; of an even number the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count => (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0,
    }
}

/// Where results are written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    pub(crate) json: Option<PathBuf>,
    pub(crate) csv: Option<PathBuf>,
    pub(crate) html: Option<PathBuf>,
}

impl Report {
    /// A report of no points yet, of a run that begins now.
    pub(crate) fn new(dir: &Path, quick: bool) -> Report {
        let program = std::env::current_exe().and_then(fs::read).unwrap_or_default();
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Report {
            version: env!("CARGO_PKG_VERSION"),
            build: format!("{:016x}, {profile}", xxhash_rust::xxh3::xxh3_64(&program)),
            quick,
            taken_at: utc(now),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            host: Host::look(dir),
            generator_cpus: super::server::all_cpus(),
            server_cpus: Vec::new(),
            server_settings: String::new(),
            findings: Vec::new(),
            points: Vec::new(),
        }
    }

    /// Takes a point.
    pub(crate) fn take(&mut self, mut outcome: Outcome) {
        if self.server_settings.is_empty() {
            self.server_settings = outcome.server.settings.clone();
        }
        let first: Vec<&str> = self.server_settings.lines().collect();
        // Each server has a directory of its own, and that says nothing.
        let differs = |line: &&str| !first.contains(line) && !line.starts_with("data_dir ");
        let lines: Vec<&str> = outcome.server.settings.lines().filter(differs).collect();
        outcome.server.settings = lines.join("\n");
        self.points.push(outcome);
    }

    /// Of each point its median run, in the order in which they were begun: by records a second, or where a
    /// rate was given by the p99, for then the records are given too. Of an even number the worse of the two
    /// in the middle: a median is a run that was, with all its numbers.
    pub(crate) fn medians(&self) -> Vec<Outcome> {
        let mut medians: Vec<Outcome> = Vec::new();
        for outcome in &self.points {
            let title = outcome.config.title();
            if medians.iter().any(|other| other.config.title() == title) {
                continue;
            }
            let mut runs: Vec<&Outcome> =
                self.points.iter().filter(|other| other.config.title() == title).collect();
            let merit = |outcome: &Outcome| match outcome.config.rate {
                Some(_) => -outcome.point.latency_us.p99,
                None => outcome.point.records_per_second,
            };
            runs.sort_by(|a, b| merit(a).total_cmp(&merit(b)));
            medians.push(runs[(runs.len() - 1) / 2].clone());
        }
        medians
    }

    /// Writes the files that were asked for. Each is whole after every point: a run may be long.
    pub(crate) fn write(&self, files: &Files) -> Result<(), String> {
        let put = |path: &Path, text: String| {
            fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
        };
        if let Some(path) = &files.json {
            put(path, serde_json::to_string_pretty(self).expect("plain data") + "\n")?;
        }
        if let Some(path) = &files.csv {
            put(path, self.csv())?;
        }
        files.html.as_deref().map_or(Ok(()), |path| put(path, html::page(self)))
    }

    /// A line for each point.
    pub(crate) fn csv(&self) -> String {
        let mut out = String::from(
            "point,class,connections,readers,topics,batch,record_bytes,rate,skew,routers,limit,fill,seconds,requests_per_second,records_per_second,p50_us,p90_us,p99_us,p99.9_us,p99.99_us,max_us,server_cpu,server_thread_cpu,server_cpu_us_per_request,generator_cpu,slip_p99_us,empty,unanswered,refused,limited_by,warnings,quick,version,server_version,taken_at,kernel,cpu,cpus,file_system,load_average\n",
        );
        for outcome in &self.points {
            let Outcome { config, point, server_cpu_us_per_request, limited_by, warnings, .. } = outcome;
            let latency = &point.latency_us;
            let optional = |number: Option<f64>| number.map_or(String::new(), |number| number.to_string());
            let fields = [
                quoted(&config.name()),
                config.class.clone(),
                config.connections.to_string(),
                config.readers.to_string(),
                config.topics.to_string(),
                config.batch.to_string(),
                config.record_bytes.to_string(),
                optional(config.rate),
                config.skew.to_string(),
                config.routers.to_string(),
                config.limit.to_string(),
                config.fill.to_string(),
                point.seconds.to_string(),
                format!("{:.1}", point.requests_per_second),
                format!("{:.1}", point.records_per_second),
                latency.p50.to_string(),
                latency.p90.to_string(),
                latency.p99.to_string(),
                latency.p999.to_string(),
                latency.p9999.to_string(),
                latency.max.to_string(),
                optional(point.server_cpu),
                optional(point.server_thread_cpu),
                optional(*server_cpu_us_per_request),
                point.generator_cpu.to_string(),
                optional(point.slip_us.map(|slip| slip.p99)),
                point.empty.to_string(),
                point.unanswered.to_string(),
                point.refused.values().sum::<u64>().to_string(),
                quoted(limited_by),
                quoted(&warnings.join("; ")),
                self.quick.to_string(),
                self.version.to_owned(),
                quoted(outcome.server.version.as_deref().unwrap_or("")),
                self.taken_at.clone(),
                quoted(&self.host.kernel),
                quoted(&self.host.cpu_model),
                self.host.cpus.to_string(),
                quoted(&self.host.file_system),
                quoted(&outcome.load_average),
            ];
            out.push_str(&fields.join(","));
            out.push('\n');
        }
        out
    }
}

/// A field of CSV that may hold commas or quotes.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// Seconds since 1970 as a date and a time.
fn utc(seconds: u64) -> String {
    let (mut days, time) = (seconds / 86_400, seconds % 86_400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute) = (time / 3600, time / 60 % 60);
    format!("{year}-{:02}-{:02} {hour:02}:{minute:02} UTC", month + 1, days + 1)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::outcome::Known;
    use super::super::outcome::tests::sound;
    use super::*;

    /// A report of one sound point for each of these records a second.
    pub(crate) fn report(quick: bool, rates: &[f64]) -> Report {
        let mut report = Report::new(Path::new("."), quick);
        for rate in rates {
            let (config, mut point) = sound();
            point.records_per_second = *rate;
            let known = Known { version: Some("0.1".into()), ..Known::default() };
            report.take(Outcome::judge(config, point, known, "0.5 0.4 0.3 1/100 7".into()));
        }
        report
    }

    #[test]
    fn medians_are_the_middle_run() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
        let medians = report(false, &[30.0, 10.0, 20.0, 50.0, 40.0]).medians();
        assert_eq!((medians.len(), medians[0].point.records_per_second), (1, 30.0));
    }

    /// Closed loop by records a second, open loop by p99; of an even number the worse of the two in the middle.
    #[test]
    fn a_median_run_is_chosen_by_what_its_loop_leaves_open() {
        // rate, (records a second, p99) of the runs, the p99 of the median
        let table: [(_, &[(f64, f64)], f64); 4] = [
            (None, &[(10.0, 3.0), (20.0, 1.0), (30.0, 2.0)], 1.0),
            (None, &[(40.0, 4.0), (10.0, 3.0), (20.0, 1.0), (30.0, 2.0)], 1.0),
            (Some(20.0), &[(10.0, 3.0), (20.0, 1.0), (30.0, 2.0)], 2.0),
            (Some(20.0), &[(10.0, 3.0), (20.0, 1.0), (30.0, 2.0), (5.0, 4.0)], 3.0),
        ];
        for (rate, runs, p99) in table {
            let mut report = report(false, &vec![0.0; runs.len()]);
            for (outcome, run) in report.points.iter_mut().zip(runs) {
                outcome.config.rate = rate;
                (outcome.point.records_per_second, outcome.point.latency_us.p99) = *run;
            }
            let medians = report.medians();
            assert_eq!((medians.len(), medians[0].point.latency_us.p99), (1, p99), "{rate:?} {runs:?}");
        }
    }

    #[test]
    fn settings_are_told_once_and_where_they_differ_with_their_point() {
        let mut report = report(false, &[]);
        for (settings, differing) in [
            ("data_dir = \"0\"\nshards = 0  # default, 1 here\nhot_bytes = 9", ""),
            ("data_dir = \"1\"\nshards = 0  # default, 1 here\nhot_bytes = 9", ""),
            ("", ""), // a bare loop
            (
                "data_dir = \"3\"\nshards = 0  # default, 2 here\nhot_bytes = 1",
                "shards = 0  # default, 2 here\nhot_bytes = 1",
            ),
        ] {
            let (config, point) = sound();
            let known = Known { settings: settings.into(), ..Known::default() };
            report.take(Outcome::judge(config, point, known, String::new()));
            assert_eq!(report.points.last().expect("a point").server.settings, differing);
        }
        assert!(report.server_settings.starts_with("data_dir = \"0\""));
    }

    #[test]
    fn different_rates_are_different_points() {
        let mut report = report(false, &[10.0, 20.0]);
        report.points[1].config.rate = Some(5.0);
        assert_eq!(report.medians().len(), 2);
    }

    #[test]
    fn a_bar_is_reached_or_missed() {
        let met = |bar| Finding::new("w", "/s", vec![9.0, 10.0, 11.0], Some(bar)).met;
        assert_eq!((met(Bar::AtLeast(10.0)), met(Bar::AtLeast(10.1))), (Some(true), Some(false)));
        assert_eq!((met(Bar::AtMost(10.0)), met(Bar::AtMost(9.9))), (Some(true), Some(false)));
        let finding = Finding::new("w", "/s", vec![13.0], None).below(20.0).limited_by("server CPU");
        assert_eq!((finding.of_ceiling, finding.met), (Some(0.65), None));
        assert!(finding.line().contains("65 % of it") && !finding.next.is_empty());
    }

    #[test]
    fn every_line_of_csv_has_every_field() {
        let mut report = report(true, &[10.0]);
        report.points[0].warnings = vec!["a, \"b\"".into()];
        (report.points[0].config.routers, report.points[0].config.skew) = (3, 0.5);
        let csv = report.csv();
        let (head, line) = csv.trim_end().split_once('\n').expect("two lines");
        let (mut values, mut inside) = (vec![String::new()], false);
        for char in line.chars() {
            match char {
                '"' => inside = !inside, // a quote inside is two
                ',' if !inside => values.push(String::new()),
                char => values.last_mut().expect("a value").push(char),
            }
        }
        assert_eq!(head.split(',').count(), values.len());
        let value = |name| &*values[head.split(',').position(|other| other == name).expect(name)];
        for (name, expected) in [
            ("quick", "true"),
            ("warnings", "a, b"),
            ("point", "append"),
            ("records_per_second", "10.0"),
            ("server_cpu_us_per_request", "80"),
            ("server_thread_cpu", "0.7"),
            ("skew", "0.5"),
            ("routers", "3"),
            ("limit", "1000"),
            ("fill", "1000000"),
            ("version", report.version),
            ("server_version", "0.1"),
            ("kernel", &report.host.kernel),
            ("cpu", &report.host.cpu_model),
            ("file_system", &report.host.file_system),
            ("load_average", "0.5 0.4 0.3 1/100 7"),
        ] {
            assert_eq!(value(name), expected, "{name}");
        }
    }

    #[test]
    fn json_carries_machine_settings_and_the_stamp() {
        let value = serde_json::to_value(report(true, &[10.0])).expect("plain data");
        assert_eq!(value["quick"], true);
        for path in [
            "/host/kernel",
            "/host/cpu_model",
            "/host/cpu_governor",
            "/host/file_system",
            "/host/mount_options",
            "/host/disk/model",
            "/host/disk/power_loss_protection",
            "/server_settings",
            "/version",
            "/build",
            "/points/0/load_average",
            "/points/0/limited_by",
            "/points/0/server_version",
            "/points/0/server_settings",
            "/points/0/point/unanswered",
            "/points/0/mode",
            "/points/0/point/latency_us/p9999",
        ] {
            assert!(value.pointer(path).is_some(), "{path}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_795_880_000, "2026-11-28 15:33 UTC"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }
}
