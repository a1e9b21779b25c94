//! HTTP/1.1: heads, bodies, and both one after the other on a connection.

use runelog_net::http::chunked::{ChunkError, Decoder};
use runelog_net::http::query;
use runelog_net::http::request::{BodyFraming, Framing, Head, HeadScanner, Limits, Parsed, is_json_media};
use runelog_net::http::request::{TARGET_BYTES_MAX, parse_head};
use runelog_net::route::{Routed, route};

use crate::input::{Input, cuts};

const SMALL: Limits = Limits { head_bytes_max: 90, target_bytes_max: 30 };

/// `limits and cuts, head and more`.
pub(crate) fn head(input: &[u8]) {
    let mut input = Input::new(input);
    let mode = input.byte();
    let bytes = input.rest();
    let limits = if mode & 1 == 0 { Limits::default() } else { SMALL };
    let whole = parse_head(bytes, &limits);
    for ends in [cuts(bytes.len(), mode >> 1), cuts(bytes.len(), 0)] {
        let mut scanner = HeadScanner::new();
        let first = ends.iter().map(|end| scanner.parse(&bytes[..*end], &limits));
        let verdict = first.into_iter().find(|parsed| *parsed != Parsed::NeedMore);
        // A refusal may come only when its line ends; a head never waits.
        let line = [bytes, b"\n"].concat();
        let verdict = match (verdict, whole) {
            (Some(verdict), _) => verdict,
            (None, Parsed::Bad(_)) => scanner.parse(&line, &limits),
            (None, _) => scanner.parse(bytes, &limits),
        };
        assert_eq!(verdict, whole, "T-7: the cut decides");
    }
    if whole != Parsed::NeedMore {
        let more = [bytes, b"\r\n\r\n x"].concat();
        // By its text: the slices of both lie in different memory.
        assert_eq!(
            format!("{:?}", parse_head(&more, &limits)),
            format!("{whole:?}"),
            "T-7: what follows decides"
        );
    }
    if let Parsed::Head(head) = whole {
        inspect(&head, bytes, &limits);
    }
}

fn inspect(head: &Head<'_>, bytes: &[u8], limits: &Limits) {
    assert!(head.head_bytes <= bytes.len().min(limits.head_bytes_max), "T-8");
    assert!(head.target.len() <= limits.target_bytes_max.min(TARGET_BYTES_MAX), "T-8");
    let own = &bytes[..head.head_bytes];
    assert!(own.ends_with(b"\n"), "a head ends with a line");
    let inside = own.as_ptr_range();
    let key = head.idempotency_key.map(str::as_bytes);
    let fields = [head.content_type, head.authorization, key, head.accept, head.last_event_id];
    let parts = fields.into_iter().flatten().chain([head.target, head.path, head.query]);
    for part in parts.filter(|part| !part.is_empty()) {
        let part = part.as_ptr_range();
        assert!(inside.start <= part.start && part.end <= inside.end, "a part of another input");
    }
    assert!(!head.path.contains(&b'?') && !head.path.contains(&b'#') && !head.query.contains(&b'#'), "T-22");
    is_json_media(head.content_type);
    assert!((1..=1000).contains(&query::page_size(head.query)), "G-1");
    if let Routed::To(found) = route(head.method, head.path)
        && let Some(name) = found.topic()
    {
        assert!(!name.raw().contains(&b'/'), "T-20: a name holds no raw separator");
        let _ = name.decode(&mut Vec::new());
    }
}

/// What came of a connection's bytes.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Head(String),
    Body(Vec<u8>),
    Refused(Framing),
    BodyRefused(ChunkError),
}

/// A connection, as far as framing goes: one request after the other, each with its body.
#[derive(Default)]
struct Connection {
    kept: Vec<u8>,
    scanner: HeadScanner,
    body: Option<BodyFraming>,
    decoder: Decoder,
    decoded: Vec<u8>,
    events: Vec<Event>,
    ended: bool,
}

impl Connection {
    fn push(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        while !self.ended && self.step() {}
    }

    /// Whether there may be more to do with what is there.
    fn step(&mut self) -> bool {
        match self.body {
            None => match self.scanner.parse(&self.kept, &Limits::default()) {
                Parsed::NeedMore => false,
                Parsed::Bad(why) => {
                    self.events.push(Event::Refused(why));
                    self.ended = true;
                    false
                }
                Parsed::Head(head) => {
                    let (body, head_bytes) = (head.body, head.head_bytes);
                    self.events.push(Event::Head(format!("{head:?}")));
                    self.kept.drain(..head_bytes);
                    (self.scanner, self.body) = (HeadScanner::new(), Some(body));
                    (self.decoder, self.decoded) = (Decoder::new(), Vec::new());
                    true
                }
            },
            Some(BodyFraming::None) => self.body_ends(Vec::new()),
            Some(BodyFraming::Length(bytes)) => match usize::try_from(bytes) {
                Ok(bytes) if bytes <= self.kept.len() => {
                    let body = self.kept.drain(..bytes).collect();
                    self.body_ends(body)
                }
                _ => false,
            },
            Some(BodyFraming::Chunked) => match self.decoder.push(&self.kept, &mut self.decoded) {
                Ok(progress) => {
                    self.kept.drain(..progress.consumed);
                    let body = std::mem::take(&mut self.decoded);
                    if progress.done {
                        return self.body_ends(body);
                    }
                    self.decoded = body;
                    false
                }
                Err(error) => {
                    self.events.push(Event::BodyRefused(error));
                    self.ended = true;
                    false
                }
            },
        }
    }

    fn body_ends(&mut self, body: Vec<u8>) -> bool {
        self.body = None;
        self.events.push(Event::Body(body));
        true
    }
}

/// `cuts, what a client sends`.
pub(crate) fn requests(input: &[u8]) {
    let mut input = Input::new(input);
    let seed = input.byte();
    let bytes = input.rest();
    let mut whole = Connection::default();
    whole.push(bytes);
    let mut cut = Connection::default();
    let mut at = 0;
    for end in cuts(bytes.len(), seed) {
        cut.push(&bytes[at..end]);
        at = end;
    }
    // A refusal may come only when its line ends.
    for connection in [&mut whole, &mut cut] {
        connection.push(b"\n");
    }
    assert_eq!(cut.events, whole.events, "T-6, T-7");
    assert_eq!(cut.ended, whole.ended, "T-6, T-7");
    // What came behind an end is nobody's.
    if !whole.ended {
        assert_eq!((cut.kept, cut.decoded), (whole.kept, whole.decoded), "T-6, T-7");
    }
}

/// `mode, …`: a body as it comes, or sizes and a body to be encoded.
pub(crate) fn chunked(input: &[u8]) {
    let mut input = Input::new(input);
    let mode = input.byte();
    if mode & 1 == 0 {
        return decode(input.rest(), mode >> 1);
    }
    // Encoded by us, with all that a sender may add.
    let sizes = input.piece();
    let body = input.rest();
    let (mut encoded, mut at) = (Vec::new(), 0);
    for size in sizes.iter().map(|size| usize::from(*size)).chain([body.len()]) {
        let chunk = &body[at..(at + size).min(body.len())];
        at += chunk.len();
        if chunk.is_empty() {
            continue; // would end the body
        }
        let blank = if size % 3 == 0 { " \t" } else { "" };
        let extension = if size % 5 == 0 { ";a=\"b;\"" } else { "" };
        encoded.extend_from_slice(
            format!("{:0w$x}{blank}{extension}\r\n", chunk.len(), w = size % 7).as_bytes(),
        );
        encoded.extend_from_slice(chunk);
        encoded.extend_from_slice(b"\r\n");
    }
    let trailer = if mode & 2 == 0 { "" } else { "Sum: 1\r\n" };
    encoded.extend_from_slice(format!("0\r\n{trailer}\r\nGET").as_bytes());
    let mut out = Vec::new();
    let progress = Decoder::new().push(&encoded, &mut out).expect("T-6: a body by the book");
    assert!(progress.done && progress.consumed == encoded.len() - 3, "T-6: the end is found");
    assert_eq!(out, body, "T-6");
    decode(&encoded, mode >> 2);
}

fn decode(bytes: &[u8], seed: u8) {
    let feed = |ends: &[usize]| {
        let (mut decoder, mut out, mut at) = (Decoder::new(), Vec::new(), 0);
        for end in ends {
            match decoder.push(&bytes[at..*end], &mut out) {
                Ok(progress) if progress.done => return (Ok((at + progress.consumed, true)), out),
                Ok(progress) => assert_eq!(progress.consumed, end - at, "short of the end, all is taken"),
                Err(error) => return (Err(error), out),
            }
            at = *end;
        }
        (Ok((at, decoder.is_done())), out)
    };
    let whole = feed(&[bytes.len()]);
    assert!(whole.1.len() <= bytes.len(), "T-6: more than came");
    assert_eq!(feed(&cuts(bytes.len(), seed)), whole, "T-6: the cut decides");
    let plain = plainly(bytes);
    match whole {
        (Ok((end, true)), body) => assert_eq!(plain, Some((body, end)), "T-6"),
        _ => assert_eq!(plain, None, "T-6: a whole body is refused, or not seen to end"),
    }
}

/// A whole body read line by line from all of its bytes; none if it is not one. The bounds of lines are
/// those of `chunked`.
fn plainly(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    use runelog_net::http::chunked::{SIZE_LINE_BYTES_MAX, TRAILER_BYTES_MAX};
    let line_at = |at: usize| {
        let rest = bytes.get(at..)?;
        let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'))?;
        rest[end..].starts_with(b"\r\n").then(|| (&rest[..end], at + end + 2))
    };
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let (line, next) = line_at(at)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (number, rest) = line.split_at(digits);
        let rest = rest.trim_ascii_start_blank();
        if digits == 0 || line.len() + 1 > SIZE_LINE_BYTES_MAX || !(rest.is_empty() || rest[0] == b';') {
            return None;
        }
        let size = u64::from_str_radix(std::str::from_utf8(number).ok()?, 16).ok()?;
        at = next;
        if size == 0 {
            break;
        }
        let end = usize::try_from(size).ok()?.checked_add(at)?;
        body.extend_from_slice(bytes.get(at..end)?);
        if bytes.get(end..end + 2)? != b"\r\n" {
            return None;
        }
        at = end + 2;
    }
    let mut trailer_bytes = 0;
    loop {
        let (line, next) = line_at(at)?;
        at = next;
        if line.is_empty() {
            return Some((body, at));
        }
        trailer_bytes += line.len() + 1; // as `chunked` counts: with the CR, without the LF
        if trailer_bytes > TRAILER_BYTES_MAX {
            return None;
        }
    }
}

trait Blank {
    fn trim_ascii_start_blank(&self) -> &[u8];
}

impl Blank for [u8] {
    /// Without the spaces and tabs it begins with.
    fn trim_ascii_start_blank(&self) -> &[u8] {
        let blank = self.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        &self[blank..]
    }
}
