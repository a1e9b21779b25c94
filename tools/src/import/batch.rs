//! From records to request bodies: bounded by count and bytes, each with its idempotency key.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::items::Item;

/// A request body is at most this long, so that it passes any sensible body limit of a server.
pub(crate) const BATCH_BYTES_MAX: usize = 8 << 20;
/// Room for everything in a body that is not a record: key, creation, brackets.
const FRAME_BYTES_MAX: usize = 1024;
const HEAD: &[u8] = b"{\"records\":[";

const _: () = assert!(runelog_engine::limits::RECORD_BYTES_MAX + 4096 + FRAME_BYTES_MAX < BATCH_BYTES_MAX);

/// One write, complete but for the end of its body: whether it may create the topic is known late.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    /// The body up to where members other than `records` and the key follow.
    pub(crate) body: Vec<u8>,
    /// How many records it has.
    pub(crate) records: u64,
    /// Bytes of their data.
    pub(crate) data_bytes: u64,
    /// Number of its first item in the input.
    pub(crate) first: u64,
    /// Number of its last item in the input.
    pub(crate) last: u64,
}

/// Collects records into batches.
pub(crate) struct Batcher {
    /// Hash of the absolute path: with ordinal and content the identity of a batch, so that the same
    /// import started again finds what it already wrote.
    source: u64,
    records_max: u64,
    ordinal: u64,
    batch: Batch,
}

impl Batcher {
    /// For the input named `source`.
    pub(crate) fn new(source: &Path, records_max: u64) -> Self {
        let source = xxh3_64(source.as_os_str().as_encoded_bytes());
        Batcher { source, records_max, ordinal: 0, batch: empty() }
    }

    /// Adds a record; gives the batch that had no room left for it, if there was one.
    pub(crate) fn push(&mut self, item: &Item<'_>) -> Option<Batch> {
        let cost = item.data.len() + item.tag.map_or(0, str::len) + r#",{"data":,"tag":}"#.len();
        let full = self.batch.records == self.records_max
            || self.batch.body.len() + cost + FRAME_BYTES_MAX > BATCH_BYTES_MAX;
        let done = if full { self.take() } else { None };
        let Batch { body, records, data_bytes, first, last } = &mut self.batch;
        if *records == 0 {
            *first = item.number;
        } else {
            body.push(b',');
        }
        body.extend_from_slice(b"{\"data\":");
        body.extend_from_slice(item.data.as_bytes());
        if let Some(tag) = item.tag {
            body.extend_from_slice(b",\"tag\":");
            body.extend_from_slice(tag.as_bytes());
        }
        body.push(b'}');
        *records += 1;
        *data_bytes += item.data.len() as u64;
        *last = item.number;
        done
    }

    /// The batch at hand, unless it is empty.
    pub(crate) fn take(&mut self) -> Option<Batch> {
        if self.batch.records == 0 {
            return None;
        }
        let mut batch = std::mem::replace(&mut self.batch, empty());
        let key = format!(
            "import:{:016x}:{}:{:016x}",
            self.source,
            self.ordinal,
            xxh3_64(&batch.body[HEAD.len()..])
        );
        batch.body.extend_from_slice(format!("],\"idempotency_key\":\"{key}\"").as_bytes());
        self.ordinal += 1;
        Some(batch)
    }
}

fn empty() -> Batch {
    Batch { body: HEAD.to_vec(), records: 0, data_bytes: 0, first: 0, last: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(records_max: u64, data: &[&str]) -> Vec<Batch> {
        let mut batcher = Batcher::new(Path::new("/a"), records_max);
        let mut out = Vec::new();
        for (index, data) in data.iter().enumerate() {
            out.extend(batcher.push(&Item { number: index as u64 + 1, data, tag: None }));
        }
        out.extend(batcher.take());
        assert_eq!(batcher.take(), None);
        out
    }

    #[test]
    fn a_batch_ends_at_its_count_or_at_its_bytes() {
        let million = format!("\"{}\"", "x".repeat(1_000_000));
        let table = [
            // records at most, data, records of each batch
            (2, vec!["1"; 5], vec![2, 2, 1]),
            (5, vec!["1"; 5], vec![5]),
            (1, vec!["1"; 2], vec![1, 1]),
            (9, vec![], vec![]),
            (1000, vec![million.as_str(); 20], vec![8, 8, 4]),
        ];
        for (records_max, data, wanted) in table {
            let found = batches(records_max, &data);
            assert_eq!(found.iter().map(|batch| batch.records).collect::<Vec<_>>(), wanted);
            assert!(found.iter().all(|batch| batch.body.len() < BATCH_BYTES_MAX));
            let mut next = 1;
            for batch in &found {
                assert_eq!((batch.first, batch.last), (next, next + batch.records - 1));
                next += batch.records;
            }
        }
    }

    #[test]
    fn a_body_is_json_and_its_key_is_its_identity() {
        let mut batcher = Batcher::new(Path::new("/a"), 10);
        assert_eq!(batcher.push(&Item { number: 1, data: "{ \"x\":1}", tag: Some("\"t\"") }), None);
        batcher.push(&Item { number: 2, data: "null", tag: None });
        let batch = batcher.take().expect("two records");
        let body = String::from_utf8([&batch.body[..], b"}"].concat()).expect("UTF-8");
        assert!(body.starts_with(
            r#"{"records":[{"data":{ "x":1},"tag":"t"},{"data":null}],"idempotency_key":"import:"#
        ));
        serde_json::from_str::<serde_json::Value>(&body).expect("JSON");
        // Path, ordinal and content each change the key; nothing else does.
        let key = |path: &str, data: &[&str], index: usize| {
            let mut batcher = Batcher::new(Path::new(path), 1);
            let mut out: Vec<Batch> =
                data.iter().filter_map(|data| batcher.push(&Item { number: 1, data, tag: None })).collect();
            out.extend(batcher.take());
            let body = String::from_utf8(out[index].body.clone()).expect("UTF-8");
            body.split_once("\"idempotency_key\":").expect("a key").1.to_string()
        };
        assert_eq!(key("/a", &["1"], 0), key("/a", &["1", "2"], 0));
        assert_ne!(key("/a", &["1"], 0), key("/b", &["1"], 0));
        assert_ne!(key("/a", &["1", "1"], 0), key("/a", &["1", "1"], 1));
        assert_ne!(key("/a", &["1"], 0), key("/a", &["2"], 0));
        assert!(key("/a", &["1"], 0).len() < 256);
    }
}
