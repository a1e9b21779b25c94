//! A reader of event streams (§8.2, §10.7): the blocks of a stream from the bytes of its body, whatever
//! carried them, and that body over HTTP/1.1. It is strict: what no stream may send fails every test.

use crate::harness::{Answer, Client, PATIENCE, Server};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A block of a stream, which an empty line ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Block {
    /// `retry: …`, alone.
    Retry(u64),
    /// A line that begins with a colon, without it.
    Comment(String),
    Event(Event),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) id: Option<String>,
    pub(crate) data: Value,
    /// `data` as it came.
    pub(crate) text: String,
}

impl Event {
    pub(crate) fn topic(&self) -> &str {
        self.data["topic"].as_str().unwrap_or_else(|| panic!("a topic: {self:?}"))
    }

    pub(crate) fn u64(&self, name: &str) -> u64 {
        self.data[name].as_u64().unwrap_or_else(|| panic!("{name} in {self:?}"))
    }

    /// The cursors of every topic that the id holds (V-50).
    pub(crate) fn cursors(&self) -> BTreeMap<String, u64> {
        let id = self.id.as_deref().unwrap_or_else(|| panic!("V-10: an id: {self:?}"));
        let bytes = from_base64url(id).unwrap_or_else(|| panic!("V-50: {id}"));
        serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("V-50: {error}: {id}"))
    }

    /// The cursor of this event's topic.
    pub(crate) fn cursor(&self) -> u64 {
        self.cursors()[self.topic()]
    }

    /// The seqs of the records.
    pub(crate) fn seqs(&self) -> Vec<u64> {
        let records = self.data["records"].as_array().unwrap_or_else(|| panic!("records: {self:?}"));
        records.iter().map(|record| record["$seq"].as_u64().expect("a seq")).collect()
    }

    /// What holds for every event of a stream: members, and how they hang together.
    fn check(&self) {
        let members: Vec<&str> = match self.kind.as_str() {
            "record" => vec!["topic", "from_seq", "to_seq", "head_seq", "records"],
            "tombstone" => vec!["topic", "reason", "gap_from", "gap_to", "earliest_seq", "head_seq"],
            "caught-up" => vec!["topic", "head_seq"],
            "topic-deleted" => vec!["topic", "head_seq", "reason"],
            "job" | "error" => return,
            other => panic!("V-16: an event {other}"),
        };
        let data = self.data.as_object().unwrap_or_else(|| panic!("V-4: an object: {self:?}"));
        assert_eq!(data.len(), members.len(), "§8.2 members: {self:?}");
        assert!(members.iter().all(|name| data.contains_key(*name)), "§8.2 members: {self:?}");
        let cursor = self.cursor();
        match self.kind.as_str() {
            "record" => {
                let (from, to, head) = (self.u64("from_seq"), self.u64("to_seq"), self.u64("head_seq"));
                let seqs = self.seqs();
                assert!(!seqs.is_empty(), "V-14: {self:?}");
                assert!(seqs.is_sorted_by(|one, next| one < next), "D-2: {self:?}");
                // A cursor of another life of the topic may be above everything (V-12, D-15).
                assert!(from < seqs[0] || from > head, "V-12: {self:?}");
                assert!(seqs[seqs.len() - 1] <= to && to <= head, "V-12: {self:?}");
                assert_eq!(cursor, to, "V-50: {self:?}");
            }
            "tombstone" => {
                // V-21: the cursor is behind the gap already. Where the gap is the whole of a recreated
                // topic (D-15) reading goes on inside it, and a cursor at its end would lose records.
                let is_all = self.u64("gap_from") == 1 && self.u64("gap_to") == self.u64("head_seq");
                let (end, is_behind) = (self.u64("gap_to"), cursor <= self.u64("gap_to"));
                assert!(cursor == end || (is_all && is_behind), "V-21: {self:?}");
            }
            "caught-up" => assert_eq!(cursor, self.u64("head_seq"), "D-4: {self:?}"),
            _ => assert_eq!(self.u64("head_seq"), 0, "§8.2: {self:?}"),
        }
    }
}

/// Blocks from the bytes of a body.
#[derive(Default)]
pub(crate) struct Blocks {
    bytes: Vec<u8>,
    count: u64,
}

impl Blocks {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Whether a block has begun and not ended.
    pub(crate) fn is_torn(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The next whole block.
    pub(crate) fn next(&mut self) -> Option<Block> {
        let end = self.bytes.windows(2).position(|two| two == b"\n\n")?;
        let bytes: Vec<u8> = self.bytes.drain(..end + 2).collect();
        let text = std::str::from_utf8(&bytes[..end]).expect("V-4: UTF-8");
        assert!(!text.contains('\r'), "V-4: {text:?}");
        let block = parse(text);
        // V-3: the first block says when to come back, and no other does.
        assert_eq!(matches!(block, Block::Retry(2000)), self.count == 0, "V-3: {block:?}");
        self.count += 1;
        Some(block)
    }
}

fn parse(text: &str) -> Block {
    if let Some(comment) = text.strip_prefix(':') {
        assert!(!comment.contains('\n'), "V-40: {text:?}");
        return Block::Comment(comment.to_owned());
    }
    if let Some(wait) = text.strip_prefix("retry:") {
        return Block::Retry(wait.trim().parse().unwrap_or_else(|_| panic!("V-3: {text:?}")));
    }
    let (mut id, mut kind, mut data) = (None, None, None);
    for line in text.split('\n') {
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("V-4: {line:?}"));
        let value = value.strip_prefix(' ').unwrap_or(value);
        let field = match name {
            "id" => &mut id,
            "event" => &mut kind,
            "data" => &mut data,
            _ => panic!("V-4: {line:?}"),
        };
        assert!(field.replace(value.to_owned()).is_none(), "V-4: {name} twice: {text:?}");
    }
    let text = data.unwrap_or_else(|| panic!("V-4: no data: {text:?}"));
    let data = serde_json::from_str(&text).unwrap_or_else(|error| panic!("V-4: {error}: {text}"));
    let event = Event { kind: kind.expect("V-4: event:"), id, data, text };
    event.check();
    Block::Event(event)
}

/// A stream over HTTP/1.1.
pub(crate) struct Sse {
    client: Client,
    raw: Vec<u8>,
    blocks: Blocks,
    is_chunked: bool,
    is_over: bool,
}

impl Server {
    /// Opens the stream of a new session.
    pub(crate) fn watch(&self, body: &Value) -> Sse {
        self.stream(&self.session(body))
    }

    /// A new session: where its stream is.
    pub(crate) fn session(&self, body: &Value) -> String {
        let answer = self.connect().call("POST", "/v0/watch", &body.to_string());
        assert_eq!(answer.status, 200, "S-1: {}", answer.text());
        answer.member("stream_url").as_str().expect("S-1").to_owned()
    }

    /// Opens a stream and takes its first block.
    pub(crate) fn stream(&self, target: &str) -> Sse {
        self.stream_with(target, "").unwrap_or_else(|answer| panic!("{target}: {answer:?}"))
    }

    /// The same with headers of the caller; or the refusal.
    pub(crate) fn stream_with(&self, target: &str, headers: &str) -> Result<Sse, Answer> {
        Sse::open(self.connect(), &format!("GET {target} HTTP/1.1\r\nHost: test\r\n{headers}\r\n"))
    }
}

impl Sse {
    /// Sends a request that asks for a stream.
    pub(crate) fn open(mut client: Client, request: &str) -> Result<Sse, Answer> {
        client.send(request);
        let mut head = client.answer_head();
        if head.status != 200 {
            let bytes: usize = head.header("content-length").expect("a length").parse().expect("a number");
            while head.body.len() < bytes {
                let more = client.more();
                assert!(!more.is_empty(), "closed inside a body");
                head.body.extend(more);
            }
            head.check("a stream");
            return Err(head);
        }
        assert_eq!(head.header("content-type"), Some("text/event-stream"), "V-2 M-3");
        assert_eq!(head.header("cache-control"), Some("no-store"), "V-2");
        assert_eq!(head.header("x-accel-buffering"), Some("no"), "V-2");
        assert_eq!(head.header("content-length"), None, "V-2");
        head.check("a stream");
        let is_chunked = head.header("transfer-encoding").is_some_and(|coding| coding == "chunked");
        let blocks = Blocks::default();
        let mut sse = Sse { client, raw: Vec::new(), blocks, is_chunked, is_over: false };
        assert_eq!(sse.block(), Some(Block::Retry(2000)), "V-3");
        Ok(sse)
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.is_chunked
    }

    /// The next block; none when the stream has ended.
    pub(crate) fn block(&mut self) -> Option<Block> {
        loop {
            if let Some(block) = self.blocks.next() {
                return Some(block);
            }
            if self.is_over {
                assert!(!self.blocks.is_torn(), "V-4: the stream ended inside a block");
                return None;
            }
            let more = self.client.more();
            if more.is_empty() {
                assert!(!self.is_chunked, "V-32: the connection broke before the last chunk");
                self.is_over = true;
            } else if self.is_chunked {
                self.raw.extend(more);
                self.take_chunks();
            } else {
                self.blocks.push(&more);
            }
        }
    }

    fn take_chunks(&mut self) {
        while let Some(line) = self.raw.windows(2).position(|two| two == b"\r\n") {
            let size = std::str::from_utf8(&self.raw[..line]).expect("ASCII");
            let bytes =
                usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("V-2: a chunk of {size:?}"));
            if self.raw.len() < line + 2 + bytes + 2 {
                return;
            }
            let chunk = &self.raw[line + 2..line + 2 + bytes];
            assert_eq!(&self.raw[line + 2 + bytes..line + 4 + bytes], b"\r\n", "V-2: the end of a chunk");
            self.blocks.push(chunk);
            self.raw.drain(..line + 4 + bytes);
            if bytes == 0 {
                assert!(self.raw.is_empty(), "V-2: bytes behind the last chunk");
                self.is_over = true;
            }
        }
    }

    /// The next event of a stream that has not ended; heartbeats are passed over.
    pub(crate) fn event(&mut self) -> Event {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.block() {
                Some(Block::Event(event)) => return event,
                Some(Block::Comment(text)) => {
                    assert!(format!(":{text}").contains(": hb"), "V-40: {text:?}");
                    assert!(Instant::now() < deadline, "nothing but heartbeats");
                }
                other => panic!("an event, not {other:?}"),
            }
        }
    }

    /// The next event, which is of this kind and topic.
    pub(crate) fn expect(&mut self, kind: &str, topic: &str) -> Event {
        let event = self.event();
        assert_eq!((event.kind.as_str(), event.topic()), (kind, topic), "{event:?}");
        event
    }

    /// The next event is a batch of exactly these seqs.
    pub(crate) fn expect_records(&mut self, topic: &str, seqs: impl IntoIterator<Item = u64>) -> Event {
        let event = self.expect("record", topic);
        assert_eq!(event.seqs(), seqs.into_iter().collect::<Vec<u64>>(), "{event:?}");
        event
    }

    /// Everything up to the `caught-up` that shows this head.
    pub(crate) fn until_caught_up(&mut self, topic: &str, head: u64) -> Vec<Event> {
        let mut seen = Vec::new();
        loop {
            let event = self.event();
            let is_last =
                event.kind == "caught-up" && event.topic() == topic && event.u64("head_seq") >= head;
            seen.push(event);
            if is_last {
                return seen;
            }
        }
    }

    /// The server has ended the stream, properly.
    pub(crate) fn assert_ended(&mut self, why: &str) {
        loop {
            match self.block() {
                None => return,
                Some(Block::Comment(_)) => {}
                other => panic!("{why}: the stream goes on with {other:?}"),
            }
        }
    }
}

/// Asks again until it is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A number of the metrics.
pub(crate) fn gauge(client: &mut Client, name: &str) -> u64 {
    client.send("GET /v0/metrics HTTP/1.1\r\nAccept: application/json\r\n\r\n");
    client.answer().u64(name)
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Base64url without padding.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let word = (0..3).fold(0, |word, at| word << 8 | u32::from(three.get(at).copied().unwrap_or(0)));
        for at in 0..=three.len() {
            out.push(char::from(ALPHABET[(word >> (18 - 6 * at) & 63) as usize]));
        }
    }
    out
}

/// The bytes of a canonical base64url text without padding.
pub(crate) fn from_base64url(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut word, mut bits) = (0_u32, 0);
    for byte in text.bytes() {
        let six = ALPHABET.iter().position(|known| *known == byte)?;
        word = (word << 6 | six as u32) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
        }
    }
    (base64url(&out) == text).then_some(out)
}

#[test]
fn ids_are_written_and_read_as_base64url() {
    for (bytes, text) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("??>>", "Pz8-Pg")] {
        assert_eq!(base64url(bytes.as_bytes()), text);
        assert_eq!(from_base64url(text).as_deref(), Some(bytes.as_bytes()), "{text}");
    }
    assert!(["Zg==", "Zh", "Z", "Pz8+Pg"].iter().all(|text| from_base64url(text).is_none()));
}
