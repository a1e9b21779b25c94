//! How fast bodies of appends are split into spans, by size of record: one core, no network, no log.

use std::hint::black_box;
use std::time::{Duration, Instant};

use runelog_net::json::write::{WriteScratch, parse_write};
use serde::{Deserialize, Serialize};

/// Records of these sizes, in bodies of about this many bytes: as much as fits the caches of a core, as a
/// body that has just been received does.
const SIZES: [usize; 4] = [100, 200, 1_000, 10_000];
const BODY_BYTES: usize = 64 << 10;

/// How many points [`measure`] takes.
pub(crate) const POINTS: u32 = SIZES.len() as u32;

/// A size and its speed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SplitPoint {
    pub(crate) record_bytes: usize,
    pub(crate) bytes_per_second: f64,
    pub(crate) records_per_second: f64,
}

/// Measures, `each` a size.
pub(crate) fn measure(
    each: Duration,
    mut tell: impl FnMut(&str) -> Result<(), String>,
) -> Result<Vec<SplitPoint>, String> {
    let point = |record_bytes: usize| {
        tell(&format!("splitting records of {record_bytes} B"))?;
        let count = (BODY_BYTES / record_bytes).max(1);
        let body = body(count, record_bytes);
        let mut scratch = WriteScratch::default();
        let (mut rounds, began) = (0_u64, Instant::now());
        while began.elapsed() < each {
            // The clock is looked at once in a while: looking costs as much as a small body.
            for _ in 0..16 {
                parse_write(black_box(&body), &mut scratch).map_err(|_| "a legal body was refused")?;
                black_box(scratch.records.len());
                rounds += 1;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        assert_eq!(scratch.records.len(), count, "every record is found");
        Ok(SplitPoint {
            record_bytes,
            bytes_per_second: rounds as f64 * body.len() as f64 / seconds,
            records_per_second: rounds as f64 * count as f64 / seconds,
        })
    };
    SIZES.into_iter().map(point).collect()
}

/// A body of records with members of several types, as events have them: many tokens, not one long string.
fn body(count: usize, record_bytes: usize) -> Vec<u8> {
    let member = |at: usize| match at % 4 {
        0 => format!("\"id{at}\":{}", 1_000_000 + at * 7919),
        1 => format!("\"kind{at}\":\"order.created\""),
        2 => format!("\"price{at}\":19.{:02}", at % 100),
        _ => format!("\"ok{at}\":true"),
    };
    let mut data = String::from("{");
    let mut at = 0;
    while data.len() + 48 < record_bytes {
        data += &member(at);
        data.push(',');
        at += 1;
    }
    data += "\"rest\":\"";
    let rest = record_bytes.saturating_sub(data.len() + 2);
    data += &"x".repeat(rest);
    data += "\"}";
    let record = format!("{{\"data\":{data}}}");
    format!("{{\"records\":[{}]}}", vec![record; count].join(",")).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_legal_json_with_records_of_the_size() {
        for size in SIZES {
            let value: serde_json::Value = serde_json::from_slice(&body(3, size)).expect("JSON");
            assert_eq!(value["records"].as_array().map(Vec::len), Some(3));
            let bytes = body(2, size).len() - body(1, size).len();
            assert_eq!(bytes, size + "{\"data\":},".len(), "{size}");
        }
    }

    #[test]
    fn every_size_has_a_point() {
        let points = measure(Duration::from_millis(2), |_| Ok(())).expect("measured");
        assert_eq!(points.iter().map(|point| point.record_bytes).collect::<Vec<_>>(), SIZES);
        assert!(points.iter().all(|point| point.bytes_per_second > 0.0 && point.records_per_second > 0.0));
        assert_eq!(measure(Duration::ZERO, |_| Err("stopped".into())), Err("stopped".into()));
    }
}
