//! Results for people and for programs.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::host::Host;
use super::measure::Point;
use super::median;

/// Everything a run found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) version: &'static str,
    /// Points were allowed to be too short: not to be quoted.
    pub(crate) quick: bool,
    pub(crate) host: Host,
    pub(crate) rows: Vec<Row>,
}

/// One point and what it was of.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) mode: String,
    pub(crate) class: String,
    pub(crate) connections: usize,
    pub(crate) topics: usize,
    pub(crate) batch: usize,
    pub(crate) record_bytes: usize,
    /// Requests a second that were meant; none in a closed loop.
    pub(crate) rate: Option<f64>,
    /// CPU seconds of the server a second, warm-up included.
    pub(crate) server_cpu: Option<f64>,
    pub(crate) server_resident_bytes: Option<u64>,
    pub(crate) point: Point,
}

impl Row {
    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let Row { point, .. } = self;
        let latency = &point.latency_us;
        let mut line = format!(
            "{:<7} {:<9} {:>5} conn {:>4} topics {:>5} x {:<6} {:>10.0} req/s {:>10.0} rec/s  p50 {:>7.0}  p99 {:>7.0}  p99.9 {:>7.0}  max {:>8.0} us",
            self.mode,
            self.class,
            self.connections,
            self.topics,
            self.batch,
            format!("{} B", self.record_bytes),
            point.requests_per_second,
            point.records_per_second,
            latency.p50,
            latency.p99,
            latency.p999,
            latency.max,
        );
        if let Some(rate) = self.rate {
            let _ = write!(line, "  at {rate}/s");
        }
        if let Some(cpu) = self.server_cpu {
            let _ = write!(line, "  server {:.0} % CPU", cpu * 100.0);
        }
        for (status, count) in &point.refused {
            let _ = write!(line, "  {count} x {status}");
        }
        line
    }

    fn is_of_kind(&self, other: &Row) -> bool {
        (&self.mode, &self.class, self.rate) == (&other.mode, &other.class, other.rate)
    }
}

impl Report {
    pub(crate) fn new(host: Host, quick: bool) -> Report {
        Report { version: env!("CARGO_PKG_VERSION"), quick, host, rows: Vec::new() }
    }

    /// The middle point of each kind.
    pub(crate) fn medians(&self) -> Vec<Row> {
        let mut medians: Vec<Row> = Vec::new();
        for row in &self.rows {
            if medians.iter().any(|other| other.is_of_kind(row)) {
                continue;
            }
            let points = self.rows.iter().filter(|other| other.is_of_kind(row));
            medians.push(Row { point: median(points.map(|row| row.point.clone()).collect()), ..row.clone() });
        }
        medians
    }

    /// Writes the files that were asked for.
    pub(crate) fn write(&self, json: Option<&Path>, csv: Option<&Path>) -> Result<(), String> {
        let put = |path: &Path, text: String| {
            fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
        };
        if let Some(path) = json {
            put(path, serde_json::to_string_pretty(self).expect("plain data") + "\n")?;
        }
        csv.map_or(Ok(()), |path| put(path, self.csv()))
    }

    fn csv(&self) -> String {
        let mut out = String::from(
            "mode,class,connections,topics,batch,record_bytes,rate,seconds,requests_per_second,records_per_second,p50_us,p90_us,p99_us,p99.9_us,p99.99_us,max_us,server_cpu,refused,quick\n",
        );
        for row in &self.rows {
            let Row { point, .. } = row;
            let latency = &point.latency_us;
            let optional = |number: Option<f64>| number.map_or(String::new(), |number| number.to_string());
            let _ = writeln!(
                out,
                "{},{},{},{},{},{},{},{},{:.1},{:.1},{},{},{},{},{},{},{},{},{}",
                row.mode,
                row.class,
                row.connections,
                row.topics,
                row.batch,
                row.record_bytes,
                optional(row.rate),
                point.seconds,
                point.requests_per_second,
                point.records_per_second,
                latency.p50,
                latency.p90,
                latency.p99,
                latency.p999,
                latency.p9999,
                latency.max,
                optional(row.server_cpu),
                point.refused.values().sum::<u64>(),
                self.quick
            );
        }
        out
    }
}
