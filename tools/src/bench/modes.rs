//! The kinds of work that are requests and answers: appends, reads, queue cycles.

use std::fmt;
use std::time::Duration;

use memchr::memmem;

use crate::client;

use super::answer::{Keep, last_member, number_at};
use super::drive::Work;
use super::pick::Picker;

/// Names of the topics that a benchmark uses, all of one length, so that requests are too.
pub(crate) fn topic_names(kind: &str, class: &str, count: usize) -> Vec<String> {
    let digits = count.saturating_sub(1).to_string().len();
    (0..count).map(|index| format!("bench-{kind}-{class}-{index:0digits$}")).collect()
}

/// A whole POST request.
pub(crate) fn post(path: &str, body: &str) -> Vec<u8> {
    let (key, length) = (Key(client::bearer()), body.len());
    format!("POST {path} HTTP/1.1\r\nHost: bench\r\n{key}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// The line of a head that has the key: what `Authorization` says. Nothing without a key.
pub(crate) struct Key(pub(crate) Option<&'static str>);

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |bearer| write!(out, "Authorization: {bearer}\r\n"))
    }
}

/// `data` of a record: JSON text of exactly `bytes` bytes (at least 14 for one-digit numbers).
pub(crate) fn data_of(bytes: usize, number: usize) -> String {
    let text = format!("{{\"n\":{number},\"p\":\"");
    let pad = bytes.saturating_sub(text.len() + 2);
    format!("{text}{}\"}}", "x".repeat(pad))
}

/// Appends batches of equal records.
pub(crate) struct Append {
    requests: Vec<Vec<u8>>,
    /// Topics that a connection picks from, by its number modulo theirs.
    groups: Vec<(Vec<usize>, Picker)>,
    skew: f64,
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
            groups: vec![((0..topics.len()).collect(), Picker::zipf(topics.len(), skew))],
            skew,
            batch: batch as u64,
            bytes: (batch * record_bytes) as u64,
        }
    }

    /// Each connection keeps to one of these groups of topics, the first to the first and so on around.
    pub(crate) fn grouped(self, groups: impl Iterator<Item = Vec<usize>>) -> Append {
        let skew = self.skew;
        let groups = groups.map(|topics| {
            let picker = Picker::zipf(topics.len(), skew);
            (topics, picker)
        });
        Append { groups: groups.collect(), ..self }
    }

    /// Bytes of each request, which are equal.
    pub(crate) fn request_bytes(&self) -> usize {
        self.requests[0].len()
    }
}

impl Work for Append {
    const KEEP: Keep = Keep::Tail;

    fn ask(&mut self, number: usize, _: Duration, out: &mut Vec<u8>) {
        let at = number % self.groups.len();
        let (topics, picker) = &mut self.groups[at];
        out.extend_from_slice(&self.requests[topics[picker.pick()]]);
    }

    fn answered(&mut self, _: usize, _: &[u8]) -> Option<(u64, u64)> {
        Some((self.batch, self.bytes))
    }
}

/// Where reads begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum From {
    /// At the last records, which are in memory
    Head,
    /// From the beginning to the head, then again
    Start,
    /// At places spread over the whole topic
    Anywhere,
    /// At places that are sealed and in no cache, neither the server's nor the system's
    Cold,
}

/// Reads with `diff`.
pub(crate) struct Read {
    topics: Vec<String>,
    heads: Vec<u64>,
    /// By connection: topic and cursor.
    cursors: Vec<(usize, u64)>,
    /// By connection: the topic that was asked last.
    asked: Vec<usize>,
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
            asked: vec![0; connections],
            cursors: (0..connections).map(|index| (index % topics.len(), 0)).collect(),
            topics: topics.to_vec(),
            heads,
            from,
            limit,
            picker: Picker::zipf(topics.len(), skew),
        }
    }
}

impl Work for Read {
    const KEEP: Keep = Keep::Tail;

    fn ask(&mut self, number: usize, _: Duration, out: &mut Vec<u8>) {
        let (topic, cursor) = match self.from {
            From::Start => self.cursors[number],
            From::Head => {
                let topic = self.picker.pick();
                (topic, self.heads[topic].saturating_sub(self.limit))
            }
            From::Anywhere | From::Cold => {
                let topic = self.picker.pick();
                // The younger half may still be in memory.
                let end = if self.from == From::Cold { self.heads[topic] / 2 } else { self.heads[topic] };
                (topic, self.picker.below(end.saturating_sub(self.limit).max(1)))
            }
        };
        self.asked[number] = topic;
        let body = format!("{{\"from_seq\":{cursor},\"limit\":{},\"max_batch_bytes\":8388608}}", self.limit);
        out.extend_from_slice(&post(&format!("/v0/topics/{}/diff", self.topics[topic]), &body));
    }

    fn answered(&mut self, number: usize, body: &[u8]) -> Option<(u64, u64)> {
        let next = last_member(body, "\"next_from_seq\":").unwrap_or(0);
        let scanned = last_member(body, "\"records_scanned\":").unwrap_or(0);
        let (topic, cursor) = &mut self.cursors[number];
        // In a mixed load topics grow: their heads move on.
        if let Some(head) = last_member(body, "\"head_seq\":") {
            self.heads[self.asked[number]] = head;
        }
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

impl Queue {
    /// Whether a connection has jobs that it has not acknowledged.
    pub(crate) fn holds(&self, number: usize) -> bool {
        !self.states[number].claimed.is_empty()
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
                // Nothing to do in this queue: the cycle is over, and worth nothing, which is counted.
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
    fn requests_are_of_one_length_whatever_their_topic() {
        let topics = topic_names("append", "disk", 101);
        assert_eq!((&*topics[7], &*topics[100]), ("bench-append-disk-007", "bench-append-disk-100"));
        let append = Append::new(&topics, 3, 50, 0.0);
        assert!(append.requests.iter().all(|request| request.len() == append.request_bytes()));
    }

    /// The seq that a request of `read` begins at, in a topic with `head` records.
    fn begins(from: From, head: u64, limit: u64, requests: usize) -> Vec<u64> {
        let mut read = Read::new(&["t".into()], vec![head], 1, from, limit, 0.0);
        let ask = |_| {
            let mut out = Vec::new();
            read.ask(0, Duration::ZERO, &mut out);
            let next = last_member(&out, "\"from_seq\":").expect("a cursor") + limit;
            let body = format!(
                "{{\"next_from_seq\":{},\"head_seq\":{head},\"records_scanned\":{limit}}}",
                next.min(head)
            );
            assert_eq!(read.answered(0, body.as_bytes()), Some((limit, 0)));
            next - limit
        };
        (0..requests).map(ask).collect()
    }

    #[test]
    fn reads_begin_where_they_are_asked_to() {
        assert_eq!(begins(From::Head, 1000, 100, 3), [900, 900, 900]);
        assert_eq!(begins(From::Start, 250, 100, 5), [0, 100, 200, 0, 100]);
        let anywhere = begins(From::Anywhere, 1000, 100, 500);
        assert!(anywhere.iter().all(|seq| *seq < 900) && anywhere.iter().any(|seq| *seq > 800));
        let cold = begins(From::Cold, 1000, 100, 500);
        assert!(cold.iter().all(|seq| *seq < 400) && cold.iter().any(|seq| *seq > 350));
    }

    #[test]
    fn records_have_the_size_that_was_asked_for() {
        for bytes in [12, 100, 200, 1000] {
            let data = data_of(bytes, 7);
            assert_eq!(data.len(), bytes.max(14), "{data}");
            serde_json::from_str::<serde_json::Value>(&data).expect("JSON");
        }
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
