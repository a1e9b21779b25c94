//! Many readers of the same records: how long from the begin of a write to each delivery, and how many
//! deliveries a second. Readers follow by SSE (a session each) or by WebSocket.

use std::time::Duration;

use memchr::memmem;

use super::answer::{Answers, Keep, number_at};
use super::drive::due;
use super::measure::Measure;
use super::modes::{Key, post};
use super::wire::{Happened, Wire};

/// What precedes the time in a record: when its write began, in nanoseconds of the generator's clock.
const STAMP: &[u8] = b"\"t\":";

/// How readers follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Follow {
    /// Server-sent events
    Sse,
    /// WebSocket
    Ws,
}

/// What opens a stream: the bytes a reader sends.
pub(crate) fn opening(follow: Follow, topic: &str, stream_url: &str, key: &Key) -> Vec<u8> {
    match follow {
        Follow::Sse => {
            format!("GET {stream_url} HTTP/1.1\r\nHost: bench\r\n{key}Accept: text/event-stream\r\n\r\n")
                .into_bytes()
        }
        Follow::Ws => {
            let mut bytes = format!(
                "GET /v0/ws HTTP/1.1\r\nHost: bench\r\n{key}Connection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            .into_bytes();
            let command = format!("{{\"op\":\"subscribe\",\"topic\":\"{topic}\",\"tail\":true}}");
            // One masked text frame; a mask of zeros leaves the text as it is.
            assert!(command.len() < 65_536, "a command of a name");
            bytes.extend_from_slice(&[0x81, 0x80 | 126]);
            bytes.extend_from_slice(&(command.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(command.as_bytes());
            bytes
        }
    }
}

/// Finds the stamps in a stream, however it is cut.
#[derive(Default)]
struct Stamps {
    carry: Vec<u8>,
    /// Of those that were told, in nanoseconds.
    newest: u64,
}

/// Writes of the first `until` that a reader still waits for at the end: those to its topic that are newer
/// than the newest that it got. Topics are written to in turn, and readers spread over them in turn.
fn missing(
    until: u64,
    topics: usize,
    reader: usize,
    is_newer: impl Fn(u64) -> bool,
) -> impl Iterator<Item = u64> {
    let of_its_topic = move |meant: &u64| *meant as usize % topics == reader % topics;
    (0..until).rev().take_while(move |meant| is_newer(*meant)).filter(of_its_topic)
}

impl Stamps {
    fn newest(&self) -> Duration {
        Duration::from_nanos(self.newest)
    }

    fn push(&mut self, bytes: &[u8], mut tell: impl FnMut(u64)) {
        let mut joined = std::mem::take(&mut self.carry);
        let hay = match joined.is_empty() {
            true => bytes,
            false => {
                joined.extend_from_slice(bytes);
                &joined
            }
        };
        let mut at = 0;
        while let Some(found) = memmem::find(&hay[at..], STAMP) {
            let start = at + found + STAMP.len();
            let digits = hay[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            if start + digits == hay.len() {
                self.carry = hay[at + found..].to_vec();
                return;
            }
            let stamp = number_at(hay, start).unwrap_or(0);
            self.newest = self.newest.max(stamp);
            tell(stamp);
            at = start + digits;
        }
        // The begin of a stamp may be at the end.
        let begun = (1..STAMP.len()).rev().find(|len| hay.ends_with(&STAMP[..*len])).unwrap_or(0);
        self.carry.extend_from_slice(&hay[hay.len() - begun..]);
    }
}

/// What is written, and how fast.
pub(crate) struct Writes<'a> {
    /// Number of the first writing connection.
    pub(crate) first: usize,
    /// How many there are: as many writes may be under way.
    pub(crate) connections: usize,
    pub(crate) topics: &'a [String],
    /// Writes a second over all topics.
    pub(crate) per_second: f64,
    /// Records in each.
    pub(crate) batch: usize,
    pub(crate) record_bytes: usize,
}

/// Runs one point. Deliveries are the records; the latency is that of each delivery.
pub(crate) fn fan_out(
    wire: &mut Wire,
    readers: std::ops::Range<usize>,
    writes: &Writes<'_>,
    mut measure: Measure,
    mut progress: impl FnMut(Duration, Duration, u64),
) -> Result<Measure, String> {
    let mut stamps: Vec<Stamps> = readers.clone().map(|_| Stamps::default()).collect();
    let mut answers: Vec<Answers> = (0..writes.connections).map(|_| Answers::new(Keep::Tail)).collect();
    let mut idle: Vec<usize> = (0..writes.connections).collect();
    let began = wire.now();
    let due = |meant| due(began, meant, writes.per_second);
    let (mut meant, mut noticed, mut told) = (0_u64, 0_u64, began);
    loop {
        let now = wire.now();
        if measure.is_over(now) {
            let until = (noticed..).find(|meant| due(*meant) >= measure.ends()).expect("time goes on");
            for (index, stamps) in stamps.iter().enumerate() {
                for meant in missing(until, writes.topics.len(), index, |meant| due(meant) > stamps.newest())
                {
                    (0..writes.batch).for_each(|_| measure.unanswered(None, due(meant)));
                }
            }
            return Ok(measure);
        }
        if now - told >= Duration::from_secs(1) {
            told = now;
            progress(now - began, now, measure.records());
        }
        let before = noticed;
        while due(noticed) <= now {
            measure.slip(due(noticed), now);
            noticed += 1;
        }
        while meant < noticed {
            // Without a free connection it is late, and says so by its stamp.
            let Some(connection) = idle.pop() else { break };
            let topic = &writes.topics[meant as usize % writes.topics.len()];
            let record = |_| {
                let text = format!("{{\"data\":{{\"t\":{},\"p\":\"", due(meant).as_nanos());
                let pad = writes.record_bytes.saturating_sub(text.len() - 8 + 2);
                format!("{text}{}\"}}}}", "x".repeat(pad))
            };
            let records: Vec<String> = (0..writes.batch).map(record).collect();
            let path = format!("/v0/topics/{topic}?return_seqs=false");
            let request = post(&path, &format!("{{\"records\":[{}]}}", records.join(",")));
            let out = wire.out(writes.first + connection).ok_or("the server closed a writer")?;
            out.extend_from_slice(&request);
            meant += 1;
        }
        measure.waited(now, (noticed - before).min(noticed - meant));
        let wait = due(noticed).saturating_sub(now).min(measure.ends() - now);
        let mut trouble = None;
        wire.turn(Some(wait.max(Duration::from_micros(20))), |now, number, happened| {
            let Happened::Bytes(bytes, _) = happened else {
                trouble = Some("the server closed a connection".to_owned());
                return;
            };
            if readers.contains(&number) {
                stamps[number - readers.start].push(bytes, |stamp| {
                    measure.delivery(Duration::from_nanos(stamp), now);
                });
            } else if let Some(reader) = answers.get_mut(number.wrapping_sub(writes.first)) {
                let pushed = reader.push(bytes, |status, _| {
                    idle.push(number - writes.first);
                    measure.written(now);
                    if !(200..300).contains(&status) {
                        trouble = Some(format!("a write was answered {status}"));
                    }
                });
                trouble = trouble.take().or(pushed.err().map(str::to_owned));
            }
        });
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_found_however_the_stream_is_cut() {
        let text = b"1a\r\nid: eyJ\ndata: {\"records\":[{\"data\":{\"t\":12345,\"p\":\"\"}},{\"data\":{\"t\":6,\"p\"\"t\":7}";
        for cut in 1..text.len() {
            let (mut stamps, mut seen) = (Stamps::default(), Vec::new());
            text.chunks(cut).for_each(|piece| stamps.push(piece, |stamp| seen.push(stamp)));
            assert_eq!(seen, [12345, 6, 7], "pieces of {cut}");
            assert_eq!(stamps.newest(), Duration::from_nanos(12345));
        }
    }

    #[test]
    fn a_reader_waits_for_the_writes_to_its_topic_that_are_newer_than_what_it_got() {
        // writes, topics, reader, the newest that it got
        for (until, topics, reader, newest, expected) in [
            (10, 1, 0, Some(7), vec![9, 8]),
            (10, 1, 0, Some(9), vec![]),
            (10, 3, 1, Some(4), vec![7]),
            (10, 3, 4, Some(4), vec![7]), // the second of that topic
            (10, 3, 0, Some(3), vec![9, 6]),
            (10, 3, 2, None, vec![8, 5, 2]),
            (0, 3, 0, None, vec![]),
        ] {
            let is_newer = |meant| newest.is_none_or(|newest| meant > newest);
            let found: Vec<u64> = missing(until, topics, reader, is_newer).collect();
            assert_eq!(found, expected, "reader {reader} of {topics} topics, who got {newest:?}");
        }
    }

    #[test]
    fn a_key_is_in_the_head_of_what_opens_a_stream() {
        for follow in [Follow::Sse, Follow::Ws] {
            let head = |key| {
                let bytes = opening(follow, "t", "/v0/watch/s", &Key(key));
                let end = memmem::find(&bytes, b"\r\n\r\n").expect("a head");
                String::from_utf8(bytes[..end].to_vec()).expect("text")
            };
            assert!(head(Some("Bearer k")).contains("\r\nAuthorization: Bearer k\r\n"), "{follow:?}");
            assert!(!head(None).contains("Authorization"), "{follow:?}");
        }
    }
}
