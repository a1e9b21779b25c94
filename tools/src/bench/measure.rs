//! What a point of a benchmark came to: latencies, counts, refusals. A point begins after its warm-up;
//! what is answered inside it counts, whenever it was asked for: a server that cannot keep up with a fixed
//! rate answers late, and that is what its latencies have to say.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart.
const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// Counts and latencies while they grow.
pub(crate) struct Measure {
    begins: Duration,
    ends: Duration,
    latency_ns: Histogram<u64>,
    requests: u64,
    records: u64,
    bytes: u64,
    refused: BTreeMap<String, u64>,
    /// Records by second.
    seconds: Vec<u64>,
}

/// A finished point.
#[derive(Clone, Debug, Serialize)]
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
    /// Answers that are not 2xx, by status.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Records in each second: a drift shows here.
    pub(crate) by_second: Vec<u64>,
}

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) p9999: f64,
    pub(crate) max: f64,
    pub(crate) mean: f64,
}

impl Measure {
    /// A point that begins after `warm_up` from `now` and lasts `duration`.
    pub(crate) fn new(now: Duration, warm_up: Duration, duration: Duration) -> Measure {
        let begins = now + warm_up;
        Measure {
            begins,
            ends: begins + duration,
            latency_ns: Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("sound bounds"),
            requests: 0,
            records: 0,
            bytes: 0,
            refused: BTreeMap::new(),
            seconds: vec![0; duration.as_secs_f64().ceil() as usize],
        }
    }

    /// Whether the point is over.
    pub(crate) fn is_over(&self, now: Duration) -> bool {
        now >= self.ends
    }

    /// When it is over.
    pub(crate) fn ends(&self) -> Duration {
        self.ends
    }

    /// Records so far.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }

    fn counts(&self, now: Duration) -> bool {
        now >= self.begins && now < self.ends
    }

    /// An answer: `since` is when it was asked for, or meant to be.
    pub(crate) fn answer(&mut self, since: Duration, now: Duration, records: u64, bytes: u64) {
        if !self.counts(now) {
            return;
        }
        self.latency(since, now);
        self.requests += 1;
        self.count(now, records, bytes);
    }

    /// A refusal; it has a latency too.
    pub(crate) fn refusal(&mut self, since: Duration, now: Duration, status: u16) {
        if self.counts(now) {
            self.latency(since, now);
            *self.refused.entry(status.to_string()).or_default() += 1;
        }
    }

    /// One latency, of something that is counted apart.
    pub(crate) fn latency(&mut self, since: Duration, now: Duration) {
        if self.counts(now) {
            self.latency_ns.saturating_record((now - since).as_nanos() as u64);
        }
    }

    /// Records that came, whenever they were asked for.
    pub(crate) fn count(&mut self, now: Duration, records: u64, bytes: u64) {
        if self.counts(now) {
            self.records += records;
            self.bytes += bytes;
            self.seconds[(now - self.begins).as_secs() as usize] += records;
        }
    }

    pub(crate) fn finish(self) -> Point {
        let seconds = (self.ends - self.begins).as_secs_f64();
        let at = |quantile| self.latency_ns.value_at_quantile(quantile) as f64 / 1000.0;
        Point {
            seconds,
            requests: self.requests,
            records: self.records,
            bytes: self.bytes,
            requests_per_second: self.requests as f64 / seconds,
            records_per_second: self.records as f64 / seconds,
            latency_us: match self.latency_ns.is_empty() {
                true => Latency::default(),
                false => Latency {
                    p50: at(0.5),
                    p90: at(0.9),
                    p99: at(0.99),
                    p999: at(0.999),
                    p9999: at(0.9999),
                    max: self.latency_ns.max() as f64 / 1000.0,
                    mean: self.latency_ns.mean() / 1000.0,
                },
            },
            refused: self.refused,
            by_second: self.seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_inside_the_point_counts() {
        let ms = Duration::from_millis;
        let mut measure = Measure::new(ms(1000), ms(500), ms(2000));
        measure.answer(ms(1400), ms(1499), 10, 1); // answered in the warm-up
        measure.answer(ms(1600), ms(1700), 10, 1);
        measure.answer(ms(3400), ms(3450), 20, 1);
        measure.answer(ms(3400), ms(3500), 10, 1); // answered after the end
        measure.refusal(ms(2000), ms(2001), 429);
        assert!(!measure.is_over(ms(3499)) && measure.is_over(ms(3500)));
        let point = measure.finish();
        assert_eq!((point.requests, point.records, point.by_second), (2, 30, vec![10, 20]));
        assert_eq!(point.refused["429"], 1);
        assert!(point.latency_us.max >= 100_000.0 && point.latency_us.max < 100_200.0);
        assert_eq!(point.records_per_second, 15.0);
    }
}
