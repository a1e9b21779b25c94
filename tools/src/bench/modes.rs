//! The kinds of work that are requests and answers: appends, reads, queue cycles.

use std::time::Duration;

use memchr::memmem;

use super::answer::{Keep, last_member, number_at};
use super::drive::Work;

/// Names of the topics that a benchmark uses.
pub(crate) fn topic_name(class: &str, index: usize) -> String {
    format!("bench-{class}-{index}")
}

/// A whole POST request.
pub(crate) fn post(path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// `data` of a record: JSON text of exactly `bytes` bytes (at least 14 for one-digit numbers).
pub(crate) fn data_of(bytes: usize, number: usize) -> String {
    let text = format!("{{\"n\":{number},\"p\":\"");
    let pad = bytes.saturating_sub(text.len() + 2);
    format!("{text}{}\"}}", "x".repeat(pad))
}

/// Picks topics evenly, or with the skew of many real loads: a Zipf distribution.
pub(crate) struct Picker {
    /// Upper bounds of each topic's share, of 2^32.
    bounds: Vec<u64>,
    state: u64,
}

impl Picker {
    pub(crate) fn new(topics: usize, skew: f64) -> Picker {
        let weight = |index: usize| 1.0 / (index as f64 + 1.0).powf(skew);
        let total: f64 = (0..topics).map(weight).sum();
        let mut sum = 0.0;
        let bounds = (0..topics).map(|index| {
            sum += weight(index);
            (sum / total * 4_294_967_296.0) as u64
        });
        Picker { bounds: bounds.collect(), state: 0x9e37_79b9_7f4a_7c15 }
    }

    pub(crate) fn pick(&mut self) -> usize {
        // xorshift: which topic is next must cost nothing.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let draw = self.state >> 32;
        self.bounds.partition_point(|bound| *bound <= draw).min(self.bounds.len() - 1)
    }
}

/// Appends batches of equal records.
pub(crate) struct Append {
    requests: Vec<Vec<u8>>,
    picker: Picker,
    batch: u64,
    bytes: u64,
}

impl Append {
    pub(crate) fn new(topics: &[String], batch: usize, record_bytes: usize, skew: f64) -> Append {
        let records: Vec<String> =
            (0..batch).map(|number| format!("{{\"data\":{}}}", data_of(record_bytes, number))).collect();
        let body = format!("{{\"records\":[{}]}}", records.join(","));
        let requests = topics.iter().map(|topic| {
            // The seqs of a batch are known from its first: nobody needs them written out.
            post(&format!("/v0/topics/{topic}?return_seqs=false"), &body)
        });
        Append {
            requests: requests.collect(),
            picker: Picker::new(topics.len(), skew),
            batch: batch as u64,
            bytes: (batch * record_bytes) as u64,
        }
    }
}

impl Work for Append {
    const KEEP: Keep = Keep::Tail;

    fn ask(&mut self, _: usize, _: Duration, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.requests[self.picker.pick()]);
    }

    fn answered(&mut self, _: usize, _: &[u8]) -> Option<(u64, u64)> {
        Some((self.batch, self.bytes))
    }
}

/// Where reads begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum From {
    /// At the last records, which are in memory
    Head,
    /// From the beginning to the head, then again
    Start,
    /// At places spread over the whole topic
    Anywhere,
}

/// Reads with `diff`.
pub(crate) struct Read {
    topics: Vec<String>,
    heads: Vec<u64>,
    /// By connection: topic and cursor.
    cursors: Vec<(usize, u64)>,
    from: From,
    limit: u64,
    picker: Picker,
}

impl Read {
    pub(crate) fn new(
        topics: &[String],
        heads: Vec<u64>,
        connections: usize,
        from: From,
        limit: u64,
        skew: f64,
    ) -> Read {
        Read {
            cursors: (0..connections).map(|index| (index % topics.len(), 0)).collect(),
            topics: topics.to_vec(),
            heads,
            from,
            limit,
            picker: Picker::new(topics.len(), skew),
        }
    }
}

impl Work for Read {
    const KEEP: Keep = Keep::Tail;

    fn ask(&mut self, number: usize, now: Duration, out: &mut Vec<u8>) {
        let (topic, cursor) = match self.from {
            From::Start => self.cursors[number],
            From::Head => {
                let topic = self.picker.pick();
                (topic, self.heads[topic].saturating_sub(self.limit))
            }
            From::Anywhere => {
                let topic = self.picker.pick();
                let span = self.heads[topic].saturating_sub(self.limit).max(1);
                (topic, (now.as_nanos() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) % span)
            }
        };
        let body = format!("{{\"from_seq\":{cursor},\"limit\":{},\"max_batch_bytes\":8388608}}", self.limit);
        out.extend_from_slice(&post(&format!("/v0/topics/{}/diff", self.topics[topic]), &body));
    }

    fn answered(&mut self, number: usize, body: &[u8]) -> Option<(u64, u64)> {
        let next = last_member(body, "\"next_from_seq\":").unwrap_or(0);
        let scanned = last_member(body, "\"records_scanned\":").unwrap_or(0);
        let (topic, cursor) = &mut self.cursors[number];
        *cursor = if next >= self.heads[*topic] { 0 } else { next };
        Some((scanned, 0))
    }
}

/// Claims jobs and acknowledges them; a cycle is one latency.
pub(crate) struct Queue {
    topics: Vec<String>,
    max: u64,
    /// By connection: topic, and whether its claim is in flight (else its ack).
    states: Vec<Cycle>,
}

#[derive(Default)]
struct Cycle {
    topic: usize,
    claimed: Vec<u64>,
}

impl Queue {
    pub(crate) fn new(topics: &[String], connections: usize, max: u64) -> Queue {
        let states = (0..connections).map(|index| Cycle { topic: index % topics.len(), claimed: Vec::new() });
        Queue { topics: topics.to_vec(), max, states: states.collect() }
    }
}

impl Work for Queue {
    const KEEP: Keep = Keep::All;

    fn ask(&mut self, number: usize, _: Duration, out: &mut Vec<u8>) {
        let state = &self.states[number];
        let topic = &self.topics[state.topic];
        if state.claimed.is_empty() {
            let body = format!("{{\"node\":\"w{number}\",\"max\":{}}}", self.max);
            out.extend_from_slice(&post(&format!("/v0/topics/{topic}/claim"), &body));
        } else {
            let seqs: Vec<String> = state.claimed.iter().map(u64::to_string).collect();
            let body = format!("{{\"node\":\"w{number}\",\"seqs\":[{}]}}", seqs.join(","));
            out.extend_from_slice(&post(&format!("/v0/topics/{topic}/ack"), &body));
        }
    }

    fn answered(&mut self, number: usize, body: &[u8]) -> Option<(u64, u64)> {
        let topics = self.topics.len();
        let state = &mut self.states[number];
        if state.claimed.is_empty() {
            let seqs = memmem::find_iter(body, b"{\"$seq\":").filter_map(|at| number_at(body, at + 8));
            state.claimed.extend(seqs);
            if state.claimed.is_empty() {
                // Nothing to do in this queue: the cycle is over, and worth nothing.
                state.topic = (state.topic + 1) % topics;
                return Some((0, 0));
            }
            return None;
        }
        state.claimed.clear();
        Some((last_member(body, "\"acked\":").unwrap_or(0), 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_size_that_was_asked_for() {
        for bytes in [12, 100, 200, 1000] {
            let data = data_of(bytes, 7);
            assert_eq!(data.len(), bytes.max(14), "{data}");
            serde_json::from_str::<serde_json::Value>(&data).expect("JSON");
        }
    }

    #[test]
    fn topics_are_picked_evenly_or_with_a_skew() {
        let count = |skew: f64| {
            let mut picker = Picker::new(4, skew);
            let mut counts = [0; 4];
            (0..40_000).for_each(|_| counts[picker.pick()] += 1);
            counts
        };
        assert!(count(0.0).iter().all(|count| (9_000..11_000).contains(count)), "{:?}", count(0.0));
        let skewed = count(1.0); // shares 12/25, 6/25, 4/25, 3/25
        assert!((18_000..20_500).contains(&skewed[0]) && (4_300..5_300).contains(&skewed[3]), "{skewed:?}");
    }

    #[test]
    fn a_cycle_is_a_claim_and_its_ack() {
        let mut queue = Queue::new(&["q".into()], 1, 8);
        let mut out = Vec::new();
        queue.ask(0, Duration::ZERO, &mut out);
        assert!(memmem::find(&out, b"POST /v0/topics/q/claim ").is_some());
        let claimed = b"{\"topic\":\"q\",\"claimed\":[{\"$seq\":41,\"data\":{\"a\":1}},{\"$seq\":42,\"data\":2}],\"count\":2}";
        assert_eq!(queue.answered(0, claimed), None);
        out.clear();
        queue.ask(0, Duration::ZERO, &mut out);
        assert!(out.ends_with(b"\"seqs\":[41,42]}") && memmem::find(&out, b"/ack ").is_some());
        assert_eq!(queue.answered(0, b"{\"topic\":\"q\",\"acked\":2,\"skipped\":[]}"), Some((2, 0)));
        out.clear();
        queue.ask(0, Duration::ZERO, &mut out);
        assert_eq!(queue.answered(0, b"{\"claimed\":[],\"count\":0}"), Some((0, 0)));
    }
}
