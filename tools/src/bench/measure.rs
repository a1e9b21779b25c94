//! What a point of a benchmark came to: latencies, counts, refusals. A point begins after its warm-up;
//! what is answered inside it counts, whenever it was asked for: a server that cannot keep up with a fixed
//! rate answers late, and that is what its latencies have to say. What is due before the end and not answered
//! by then counts with the latency that it has had so far, apart from the answers: a stall at the end is no
//! shorter than one before.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::probe::{Probe, Sample};

/// Longest latency that is told apart.
const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// Counts and latencies while they grow.
pub(crate) struct Measure {
    begins: Duration,
    ends: Duration,
    all: Tally,
    /// Of a mixed load: each kind of request apart.
    parts: Vec<(&'static str, Tally)>,
    bytes: u64,
    refused: BTreeMap<String, u64>,
    unanswered: u64,
    /// Records by second.
    seconds: Vec<u64>,
    /// Open loop: how long after its time the generator noticed that a request was due.
    slip_ns: Histogram<u64>,
    /// Open loop: requests that were due while every connection was waiting for an answer.
    waited: u64,
    probe: Probe,
    at_begin: Option<Sample>,
}

struct Tally {
    latency_ns: Histogram<u64>,
    requests: u64,
    records: u64,
    empty: u64,
}

/// A finished point.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Point {
    /// Seconds it lasted.
    pub(crate) seconds: f64,
    /// Answers counted.
    pub(crate) requests: u64,
    /// Records (or jobs, or deliveries) in them.
    pub(crate) records: u64,
    /// Payload bytes of them, as far as the mode knows.
    pub(crate) bytes: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) records_per_second: f64,
    /// Latencies in microseconds by percentile.
    pub(crate) latency_us: Latency,
    /// The whole distribution: pairs of a quantile and its latency in microseconds.
    pub(crate) latency_curve: Vec<(f64, f64)>,
    /// Answers counted that held nothing: of claims, those that got no job.
    pub(crate) empty: u64,
    /// Requests (or deliveries) that were due before the end and not there by then. Not among the answers; their
    /// latency so far is in the distribution.
    pub(crate) unanswered: u64,
    /// Answers that are not 2xx, by status.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Records in each second: a drift shows here.
    pub(crate) by_second: Vec<u64>,
    /// Of a mixed load: each kind of request.
    pub(crate) parts: Vec<Part>,
    /// CPU seconds of the generator a second: near 1, it is what was measured.
    pub(crate) generator_cpu: f64,
    /// Open loop: how late the generator itself was, in microseconds.
    pub(crate) slip_us: Option<Latency>,
    /// Open loop: requests that were due while every connection was waiting for an answer. Their latency has
    /// that in it.
    pub(crate) waited_for_connection: u64,
    /// CPU seconds of the server a second.
    pub(crate) server_cpu: Option<f64>,
    /// The same of its busiest thread.
    pub(crate) server_thread_cpu: Option<f64>,
    /// Bytes that the server had from its block device, none of them from a cache.
    pub(crate) server_read_bytes: Option<u64>,
    /// Bytes that it sent there.
    pub(crate) server_write_bytes: Option<u64>,
}

/// One kind of request in a mixed load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) requests: u64,
    /// As of the point.
    pub(crate) empty: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) records_per_second: f64,
    pub(crate) latency_us: Latency,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) p9999: f64,
    pub(crate) max: f64,
    pub(crate) mean: f64,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("sound bounds")
}

impl Latency {
    fn of(ns: &Histogram<u64>) -> Latency {
        if ns.is_empty() {
            return Latency::default();
        }
        let at = |quantile| ns.value_at_quantile(quantile) as f64 / 1000.0;
        Latency {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: ns.max() as f64 / 1000.0,
            mean: ns.mean() / 1000.0,
        }
    }
}

/// The distribution as steps that get finer towards its end, where it is interesting.
fn curve(ns: &Histogram<u64>) -> Vec<(f64, f64)> {
    if ns.is_empty() {
        return Vec::new();
    }
    let steps = ns.iter_quantiles(5);
    steps
        .map(|step| (step.quantile_iterated_to(), step.value_iterated_to().min(ns.max()) as f64 / 1000.0))
        .collect()
}

impl Tally {
    fn new() -> Tally {
        Tally { latency_ns: histogram(), requests: 0, records: 0, empty: 0 }
    }

    fn answer(&mut self, latency: Duration, records: u64) {
        self.latency(latency);
        self.requests += 1;
        self.records += records;
        self.empty += u64::from(records == 0);
    }

    fn latency(&mut self, latency: Duration) {
        self.latency_ns.saturating_record(latency.as_nanos() as u64);
    }
}

impl Measure {
    /// A point that begins after `warm_up` from `now` and lasts `duration`. `parts` are the kinds of
    /// requests of a mixed load.
    pub(crate) fn new(
        now: Duration,
        warm_up: Duration,
        duration: Duration,
        parts: &[&'static str],
        probe: Probe,
    ) -> Measure {
        let begins = now + warm_up;
        Measure {
            begins,
            ends: begins + duration,
            all: Tally::new(),
            parts: parts.iter().map(|name| (*name, Tally::new())).collect(),
            bytes: 0,
            refused: BTreeMap::new(),
            unanswered: 0,
            seconds: vec![0; duration.as_secs_f64().ceil() as usize],
            slip_ns: histogram(),
            waited: 0,
            probe,
            at_begin: None,
        }
    }

    /// Whether the point is over. Asked in every turn: counters of processes are read at its begin.
    pub(crate) fn is_over(&mut self, now: Duration) -> bool {
        if now >= self.begins && self.at_begin.is_none() {
            self.at_begin = Some(self.probe.look());
        }
        now >= self.ends
    }

    /// When it is over.
    pub(crate) fn ends(&self) -> Duration {
        self.ends
    }

    /// Records so far.
    pub(crate) fn records(&self) -> u64 {
        self.all.records
    }

    /// How many answers took longer.
    #[cfg(test)]
    pub(crate) fn slower_than(&self, latency: Duration) -> u64 {
        self.all.latency_ns.count_between(latency.as_nanos() as u64, LATENCY_NS_MAX)
    }

    fn counts(&self, now: Duration) -> bool {
        now >= self.begins && now < self.ends
    }

    /// An answer: `since` is when it was asked for, or meant to be; `part` is its kind in a mixed load.
    pub(crate) fn answer(&mut self, part: usize, since: Duration, now: Duration, records: u64, bytes: u64) {
        if now >= self.ends {
            return self.unanswered(Some(part), since);
        }
        if !self.counts(now) {
            return;
        }
        self.all.answer(now.saturating_sub(since), records);
        if let Some((_, tally)) = self.parts.get_mut(part) {
            tally.answer(now.saturating_sub(since), records);
        }
        self.bytes += bytes;
        self.seconds[(now - self.begins).as_secs() as usize] += records;
    }

    /// What was asked for, or meant to be, at `since`, and is not answered at the end; `part` is its kind in a
    /// mixed load, if that was drawn already.
    pub(crate) fn unanswered(&mut self, part: Option<usize>, since: Duration) {
        if since >= self.ends {
            return; // due after the end
        }
        self.unanswered += 1;
        self.all.latency(self.ends - since);
        if let Some((_, tally)) = part.and_then(|part| self.parts.get_mut(part)) {
            tally.latency(self.ends - since);
        }
    }

    /// A refusal; it has a latency too.
    pub(crate) fn refusal(&mut self, since: Duration, now: Duration, status: u16) {
        if now >= self.ends {
            self.unanswered(None, since);
        } else if self.counts(now) {
            self.all.latency(now.saturating_sub(since));
            *self.refused.entry(status.to_string()).or_default() += 1;
        }
    }

    /// A record that was delivered to one who waited for it.
    pub(crate) fn delivery(&mut self, since: Duration, now: Duration) {
        if now >= self.ends {
            self.unanswered(None, since);
        } else if self.counts(now) {
            self.all.latency(now.saturating_sub(since));
            self.all.records += 1;
            self.seconds[(now - self.begins).as_secs() as usize] += 1;
        }
    }

    /// A write whose records are counted where they are delivered.
    pub(crate) fn written(&mut self, now: Duration) {
        self.all.requests += u64::from(self.counts(now));
    }

    /// The generator noticed that a request was due.
    pub(crate) fn slip(&mut self, due: Duration, now: Duration) {
        if self.counts(now) {
            self.slip_ns.saturating_record(now.saturating_sub(due).as_nanos() as u64);
        }
    }

    /// So many requests found every connection waiting for an answer.
    pub(crate) fn waited(&mut self, now: Duration, requests: u64) {
        if self.counts(now) {
            self.waited += requests;
        }
    }

    /// The point, once it is over; on the thread that drove it.
    pub(crate) fn finish(self) -> Point {
        let seconds = (self.ends - self.begins).as_secs_f64();
        let (before, after) = (self.at_begin.unwrap_or_default(), self.probe.look());
        let used = |before: Option<Duration>, after: Option<Duration>| {
            Some(after?.saturating_sub(before?).as_secs_f64() / seconds)
        };
        let moved = |before: Option<u64>, after: Option<u64>| Some(after?.saturating_sub(before?));
        let part = |(name, tally): &(&'static str, Tally)| Part {
            name,
            requests: tally.requests,
            empty: tally.empty,
            requests_per_second: tally.requests as f64 / seconds,
            records_per_second: tally.records as f64 / seconds,
            latency_us: Latency::of(&tally.latency_ns),
        };
        Point {
            seconds,
            requests: self.all.requests,
            records: self.all.records,
            bytes: self.bytes,
            requests_per_second: self.all.requests as f64 / seconds,
            records_per_second: self.all.records as f64 / seconds,
            latency_us: Latency::of(&self.all.latency_ns),
            latency_curve: curve(&self.all.latency_ns),
            empty: self.all.empty,
            unanswered: self.unanswered,
            refused: self.refused,
            by_second: self.seconds,
            parts: self.parts.iter().map(part).collect(),
            generator_cpu: used(Some(before.generator_cpu), Some(after.generator_cpu)).unwrap_or(0.0),
            slip_us: (!self.slip_ns.is_empty()).then(|| Latency::of(&self.slip_ns)),
            waited_for_connection: self.waited,
            server_cpu: used(before.server_cpu, after.server_cpu),
            server_thread_cpu: used(Some(Duration::ZERO), after.busiest_thread_since(&before)),
            server_read_bytes: moved(before.server_read_bytes, after.server_read_bytes),
            server_write_bytes: moved(before.server_write_bytes, after.server_write_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn only_what_lies_inside_the_point_counts() {
        let mut measure = Measure::new(ms(1000), ms(500), ms(2000), &[], Probe::default());
        measure.answer(0, ms(1400), ms(1499), 10, 1); // answered in the warm-up
        measure.answer(0, ms(1600), ms(1700), 10, 1);
        measure.answer(0, ms(3400), ms(3450), 20, 1);
        measure.refusal(ms(2000), ms(2001), 429);
        assert!(!measure.is_over(ms(3499)) && measure.is_over(ms(3500)));
        let point = measure.finish();
        assert_eq!((point.requests, point.records, point.by_second), (2, 30, vec![10, 20]));
        assert_eq!((point.refused["429"], point.unanswered), (1, 0));
        assert!(point.latency_us.max >= 100_000.0 && point.latency_us.max < 100_200.0);
        assert_eq!(point.records_per_second, 15.0);
    }

    /// What is due before the end counts up to the end: as a latency, not as an answer.
    #[test]
    fn what_is_unanswered_at_the_end_has_the_latency_so_far() {
        type Tell = fn(&mut Measure);
        let table: [(Tell, u64, f64); 6] = [
            (|measure| measure.unanswered(None, ms(600)), 1, 400.0),
            (|measure| measure.unanswered(None, ms(1000)), 0, 0.0), // due at the end
            (|measure| measure.answer(0, ms(700), ms(1005), 10, 1), 1, 300.0),
            (|measure| measure.refusal(ms(800), ms(1005), 429), 1, 200.0),
            (|measure| measure.delivery(ms(900), ms(1005)), 1, 100.0),
            (|measure| measure.answer(0, ms(1001), ms(1005), 10, 1), 0, 0.0),
        ];
        for (row, (tell, unanswered, latency_ms)) in table.into_iter().enumerate() {
            let mut measure = Measure::new(ms(0), ms(0), ms(1000), &["append"], Probe::default());
            tell(&mut measure);
            let point = measure.finish();
            assert_eq!((point.unanswered, point.requests, point.records), (unanswered, 0, 0), "row {row}");
            assert!(point.refused.is_empty() && point.by_second == [0], "row {row}");
            let max = point.latency_us.max / 1000.0;
            assert!((max - latency_ms).abs() <= latency_ms / 1000.0, "row {row}: {max}");
        }
    }

    /// A percentile is a value that so many are at or below; values are kept to three digits.
    #[test]
    fn percentiles_are_those_of_the_values_put_in() {
        let mut measure = Measure::new(ms(0), ms(0), ms(100_000), &[], Probe::default());
        for us in 1..=100_000 {
            measure.answer(0, ms(0), Duration::from_micros(us), 1, 0);
        }
        let point = measure.finish();
        let near = |value: f64, exact: f64| (value - exact).abs() <= exact / 1000.0;
        let Latency { p50, p90, p99, p999, p9999, max, mean } = point.latency_us;
        for (value, exact) in [
            (p50, 50_000.0),
            (p90, 90_000.0),
            (p99, 99_000.0),
            (p999, 99_900.0),
            (p9999, 99_990.0),
            (max, 100_000.0),
            (mean, 50_000.5),
        ] {
            assert!(near(value, exact), "{value} for {exact}");
        }
        let curve = &point.latency_curve;
        assert!(curve.is_sorted() && curve.last().is_some_and(|(at, us)| *at == 1.0 && near(*us, max)));
        for (quantile, us) in curve {
            assert!(*us >= quantile * 100_000.0 * 0.999, "{us} us at {quantile}");
        }
    }

    #[test]
    fn kinds_of_a_mixed_load_are_told_apart_and_together() {
        let mut measure = Measure::new(ms(0), ms(0), ms(1000), &["append", "read"], Probe::default());
        measure.answer(0, ms(1), ms(2), 10, 0);
        measure.answer(1, ms(1), ms(51), 1000, 0);
        measure.answer(1, ms(1), ms(101), 1000, 0);
        measure.answer(1, ms(1), ms(2), 0, 0);
        let point = measure.finish();
        assert_eq!((point.requests, point.records, point.empty), (4, 2010, 1));
        let told: Vec<_> = point
            .parts
            .iter()
            .map(|part| (part.name, part.requests, part.empty, part.records_per_second))
            .collect();
        assert_eq!(told, [("append", 1, 0, 10.0), ("read", 3, 1, 2000.0)]);
        assert!(point.parts[0].latency_us.max < 2_000.0 && point.parts[1].latency_us.max > 99_000.0);
    }

    #[test]
    fn nothing_measured_is_zero_and_no_panic() {
        let point = Measure::new(ms(0), ms(0), ms(1000), &[], Probe::default()).finish();
        assert_eq!((point.latency_us, point.latency_curve.len()), (Latency::default(), 0));
        assert_eq!((point.slip_us, point.server_cpu), (None, None));
    }
}
