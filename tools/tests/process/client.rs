//! HTTP/1.1 on one keep-alive connection, and the few questions that the tests ask.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Nothing may take longer than this, a long-poll included.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self}"))
    }

    /// The body of an answer that must be a success.
    pub(crate) fn good(self) -> Value {
        assert!(matches!(self.status, 200 | 201), "{self}");
        self.json()
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(600)]);
        write!(f, "status {}: {body}", self.status)
    }
}

/// A whole topic as one reader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) head: u64,
    pub(crate) earliest: u64,
    pub(crate) count: u64,
    pub(crate) bytes: u64,
    /// Where the first read's tombstone ends, 0 if it had none.
    pub(crate) floor: u64,
    pub(crate) records: Vec<Got>,
}

/// A record as delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) seq: u64,
    pub(crate) ts: i64,
    pub(crate) data: String,
    pub(crate) tag: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) meta: Option<String>,
}

impl Got {
    pub(crate) fn bytes(&self) -> u64 {
        (self.data.len() + self.meta.as_ref().map_or(0, String::len)) as u64
    }
}

#[derive(Deserialize)]
struct Diff<'a> {
    #[serde(borrow)]
    records: Vec<Record<'a>>,
    next_from_seq: u64,
    head_seq: u64,
    earliest_seq: u64,
    caught_up: bool,
    tombstone: Option<Tombstone>,
}

#[derive(Deserialize)]
struct Tombstone {
    gap_to: u64,
    reason: String,
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(rename = "$seq")]
    seq: u64,
    #[serde(rename = "$ts")]
    ts: i64,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(rename = "$tag")]
    tag: Option<String>,
    #[serde(rename = "$node")]
    node: Option<String>,
    #[serde(borrow)]
    meta: Option<&'a RawValue>,
}

impl Record<'_> {
    fn to_got(&self) -> Got {
        Got {
            seq: self.seq,
            ts: self.ts,
            data: self.data.get().to_owned(),
            tag: self.tag.clone(),
            node: self.node.clone(),
            meta: self.meta.map(|meta| meta.get().to_owned()),
        }
    }
}

impl Client {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client { stream: BufReader::with_capacity(64 << 10, stream) })
    }

    /// One request. An error means that the connection ended without a whole answer; silence is a
    /// failure of the test.
    pub(crate) fn call(&mut self, method: &str, path: &str, body: &str) -> io::Result<Reply> {
        let outcome = self.send(method, path, body).and_then(|()| self.receive());
        if let Err(error) = &outcome {
            let silent = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            assert!(!silent, "no answer to {method} {path} for {PATIENCE:?}");
        }
        outcome
    }

    /// Sends a request without waiting for its answer.
    pub(crate) fn send(&mut self, method: &str, path: &str, body: &str) -> io::Result<()> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())
    }

    /// Reads the next answer.
    pub(crate) fn receive(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        let next = |stream: &mut BufReader<TcpStream>, line: &mut String| {
            line.clear();
            match stream.read_line(line)? {
                0 => Err(ErrorKind::UnexpectedEof.into()),
                _ => io::Result::Ok(()),
            }
        };
        next(&mut self.stream, &mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {line:?}"));
        let mut length = None;
        loop {
            next(&mut self.stream, &mut line)?;
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = Some(value.trim().parse::<usize>().expect("a length"));
            }
        }
        let mut body = vec![0; length.expect("every answer has a length")];
        self.stream.read_exact(&mut body)?;
        Ok(Reply { status, body })
    }

    /// Reads a topic from `from` to its end; `None` if there is none of that name.
    pub(crate) fn read_all(&mut self, topic: &str, from: u64) -> io::Result<Option<View>> {
        let mut view = View::default();
        let mut at = from;
        let path = format!("/v0/topics/{topic}/diff");
        loop {
            let ask = format!(
                "{{\"from_seq\":{at},\"limit\":1000,\"max_batch_bytes\":8388608,\"include_tags\":true}}"
            );
            let reply = self.call("POST", &path, &ask)?;
            if reply.status == 404 {
                return Ok(None);
            }
            assert_eq!(reply.status, 200, "{reply}");
            let diff: Diff<'_> = serde_json::from_slice(&reply.body).expect("a diff");
            // A gap that a router's source left is no floor: older records stay live below it (I-68).
            if let Some(tombstone) = diff.tombstone.filter(|tombstone| tombstone.reason != "source_trim") {
                view.floor = view.floor.max(tombstone.gap_to);
            }
            for record in &diff.records {
                let last = view.records.last().map_or(at, |last: &Got| last.seq);
                assert!(record.seq > last && record.seq <= diff.head_seq, "{topic}: seqs must ascend");
                view.records.push(record.to_got());
            }
            view.head = diff.head_seq;
            view.earliest = diff.earliest_seq;
            if diff.caught_up {
                return Ok(Some(view));
            }
            assert!(diff.next_from_seq > at, "{topic}: a read must get on");
            at = diff.next_from_seq;
        }
    }

    /// One read after `from`, waiting if there is nothing. The topic exists.
    pub(crate) fn read_some(
        &mut self,
        topic: &str,
        from: u64,
        limit: u64,
        wait_ms: u64,
    ) -> io::Result<Vec<Got>> {
        let ask =
            format!("{{\"from_seq\":{from},\"limit\":{limit},\"wait_ms\":{wait_ms},\"include_tags\":true}}");
        let reply = self.call("POST", &format!("/v0/topics/{topic}/diff"), &ask)?;
        assert_eq!(reply.status, 200, "{reply}");
        let diff: Diff<'_> = serde_json::from_slice(&reply.body).expect("a diff");
        Ok(diff.records.iter().map(Record::to_got).collect())
    }

    /// A topic at rest: its state and a complete read agree (I-8, I-20, I-21), and that is the view.
    pub(crate) fn view(&mut self, topic: &str) -> io::Result<Option<View>> {
        let state = self.call("GET", &format!("/v0/topics/{topic}?touch=false"), "")?;
        let Some(mut view) = self.read_all(topic, 0)? else {
            assert_eq!(state.status, 404, "{state}");
            return Ok(None);
        };
        let state = state.good();
        let number = |name: &str| state[name].as_u64().unwrap_or_else(|| panic!("{name} in {state}"));
        assert_eq!(number("head_seq"), view.head, "{topic}: head");
        assert_eq!(number("earliest_seq"), view.earliest, "{topic}: earliest");
        view.count = number("count");
        view.bytes = number("bytes");
        assert_eq!(view.count, view.records.len() as u64, "{topic}: count is what a read delivers (I-8)");
        assert_eq!(view.bytes, view.records.iter().map(Got::bytes).sum::<u64>(), "{topic}: bytes (I-8)");
        let first = view.records.first().map_or(view.head + 1, |record| record.seq);
        assert_eq!(view.earliest, first, "{topic}: earliest is the first live seq (I-20)");
        assert!(view.floor < view.earliest, "{topic}: floor below earliest (I-21)");
        Ok(Some(view))
    }
}
