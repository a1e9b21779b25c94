//! Responses as bytes, written behind whatever the output buffer holds already (T-4: in order).
//! Lives here: status line, the few headers there are (T-12, M-3, E-10, T-15), `Date`, interim answers.
//! Not here: what a body says (handlers, `fault`), when bytes leave (`conn`).
//! Always true: between [`begin`] and [`finish`] only the body is appended. It is rendered straight
//! behind its head; [`finish`] then writes its length into the gap that [`begin`] left.

use super::json_out;
use super::request::{Framing, Head, Version};
use crate::exchange::Sink;
use crate::fault::Fault;

/// `Content-Type` of every JSON body, exactly (M-3).
pub const JSON: &str = "application/json";
/// `Content-Type` of the metrics in text form (H-4).
pub const METRICS_TEXT: &str = "text/plain; version=0.0.4";
/// `Content-Type` of event streams, exactly (M-3).
pub const EVENT_STREAM: &str = "text/event-stream";
/// The interim answer that asks for the body (T-5).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Digits left free for `Content-Length`: bodies below 10 GB.
const LENGTH_DIGITS: usize = 10;
/// The free place. White space before a value is legal, and nothing else has to move.
const LENGTH_GAP: &[u8; LENGTH_DIGITS] = b"          ";

/// What becomes of the connection behind a response, as its `Connection` header tells the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persist {
    /// HTTP/1.1 stays open without a word.
    Open,
    /// HTTP/1.0 stays open because both sides said `keep-alive`.
    OpenV10,
    /// Closed once the response is out.
    Close,
}

impl Persist {
    /// What the client of `head` asked for.
    pub fn asked_by(head: &Head<'_>) -> Persist {
        match (head.keep_alive, head.version) {
            (true, Version::V11 | Version::V20) => Persist::Open,
            (true, Version::V10) => Persist::OpenV10,
            (false, _) => Persist::Close,
        }
    }
}

/// Where a response being written has its length and its body: offsets in the output buffer, which
/// must not be drained before [`finish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a response without its length never ends"]
pub struct Mark {
    start: usize,
    length_end: usize,
    body_start: usize,
}

impl Mark {
    /// Where the response starts in the output buffer: truncated to here, it was never begun.
    pub fn start(&self) -> usize {
        self.start
    }

    /// Where the body starts in the output buffer.
    pub fn body_start(&self) -> usize {
        self.body_start
    }
}

/// Writes the head of a response with the given status, media type and date; append the body, then
/// call [`finish`].
pub fn begin(out: &mut Vec<u8>, status: u16, media: &str, date: &[u8; DATE_BYTES], persist: Persist) -> Mark {
    begin_with(out, status, media, date, persist, |_| {})
}

/// Patches the length of the body behind `mark` into its head. For HEAD (`omit_body`) the length
/// stays and the body goes (T-13).
pub fn finish(out: &mut Vec<u8>, mark: Mark, omit_body: bool) {
    let body_bytes = out.len() - mark.body_start;
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(body_bytes).as_bytes();
    assert!(digits.len() <= LENGTH_DIGITS, "a body of {body_bytes} bytes");
    out[mark.length_end - digits.len()..mark.length_end].copy_from_slice(digits);
    if omit_body {
        out.truncate(mark.body_start);
    }
}

/// Writes a whole error answer: head, `Retry-After` (E-10), `Allow` (T-15), envelope (E-2).
pub fn write_fault(
    out: &mut Vec<u8>,
    fault: &Fault,
    date: &[u8; DATE_BYTES],
    persist: Persist,
    omit_body: bool,
) {
    let mark = begin_with(out, fault.status(), JSON, date, persist, |out| {
        if let Some(seconds) = fault.retry_after_seconds() {
            out.extend_from_slice(b"Retry-After: ");
            json_out::write_u64(out, seconds);
            out.extend_from_slice(b"\r\n");
        }
        if let Some(allow) = fault.allow() {
            push_header(out, "Allow", allow);
        }
    });
    fault.render(out);
    finish(out, mark, omit_body);
}

/// Writes the answer to a head that could not be parsed: empty body, close (T-7, T-8).
pub fn write_framing(out: &mut Vec<u8>, framing: Framing, date: &[u8; DATE_BYTES]) {
    push_status(out, framing.status());
    out.extend_from_slice(b"Content-Length: 0\r\n");
    push_shared(out, date, Persist::Close);
    out.extend_from_slice(b"\r\n");
}

/// Writes the head of an answer that has no length: in chunks, or to a client of HTTP/1.0 until the
/// connection closes (V-2).
pub fn begin_stream(out: &mut Vec<u8>, date: &[u8; DATE_BYTES], persist: Persist, version: Version) {
    push_status(out, 200);
    push_header(out, "Content-Type", EVENT_STREAM);
    push_header(out, "Cache-Control", "no-store");
    push_header(out, "X-Accel-Buffering", "no");
    if version == Version::V11 {
        push_header(out, "Transfer-Encoding", "chunked");
    }
    push_shared(out, date, if version == Version::V11 { persist } else { Persist::Close });
    out.extend_from_slice(b"\r\n");
}

/// Writes a chunk of such an answer.
pub fn push_chunk(out: &mut Vec<u8>, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.reserve(bytes.len() + 12);
    let mut size = *b"00000000\r\n";
    for (index, digit) in size[..8].iter_mut().enumerate() {
        *digit = HEX[bytes.len() >> (28 - 4 * index) & 15];
    }
    let leading = (bytes.len() as u32 | 1).leading_zeros() as usize / 4;
    out.extend_from_slice(&size[leading..]);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// The chunk that ends such an answer.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

fn begin_with(
    out: &mut Vec<u8>,
    status: u16,
    media: &str,
    date: &[u8; DATE_BYTES],
    persist: Persist,
    more_headers: impl FnOnce(&mut Vec<u8>),
) -> Mark {
    let start = out.len();
    push_status(out, status);
    push_header(out, "Content-Type", media);
    out.extend_from_slice(b"Content-Length: ");
    out.extend_from_slice(LENGTH_GAP);
    let length_end = out.len();
    out.extend_from_slice(b"\r\n");
    push_shared(out, date, persist);
    more_headers(out);
    out.extend_from_slice(b"\r\n");
    Mark { start, length_end, body_start: out.len() }
}

fn push_header(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn push_shared(out: &mut Vec<u8>, date: &[u8; DATE_BYTES], persist: Persist) {
    out.extend_from_slice(b"Date: ");
    out.extend_from_slice(date);
    out.extend_from_slice(match persist {
        Persist::Open => b"\r\n",
        Persist::OpenV10 => b"\r\nConnection: keep-alive\r\n",
        Persist::Close => b"\r\nConnection: close\r\n",
    });
}

/// Whole lines, so that the usual ones cost one copy.
fn push_status(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(match status {
        200 => b"HTTP/1.1 200 OK\r\n",
        201 => b"HTTP/1.1 201 Created\r\n",
        400 => b"HTTP/1.1 400 Bad Request\r\n",
        401 => b"HTTP/1.1 401 Unauthorized\r\n",
        403 => b"HTTP/1.1 403 Forbidden\r\n",
        404 => b"HTTP/1.1 404 Not Found\r\n",
        405 => b"HTTP/1.1 405 Method Not Allowed\r\n",
        406 => b"HTTP/1.1 406 Not Acceptable\r\n",
        409 => b"HTTP/1.1 409 Conflict\r\n",
        413 => b"HTTP/1.1 413 Payload Too Large\r\n",
        414 => b"HTTP/1.1 414 URI Too Long\r\n",
        415 => b"HTTP/1.1 415 Unsupported Media Type\r\n",
        422 => b"HTTP/1.1 422 Unprocessable Entity\r\n",
        429 => b"HTTP/1.1 429 Too Many Requests\r\n",
        431 => b"HTTP/1.1 431 Request Header Fields Too Large\r\n",
        500 => b"HTTP/1.1 500 Internal Server Error\r\n",
        503 => b"HTTP/1.1 503 Service Unavailable\r\n",
        _ => unreachable!("no answer has status {status}"),
    });
}

/// The answer to one HTTP/1.1 request, written into a connection's output.
pub(crate) struct H1Sink<'a> {
    out: &'a mut Vec<u8>,
    date: &'a [u8; DATE_BYTES],
    persist: Persist,
    version: Version,
    mark: Option<Mark>,
}

impl<'a> H1Sink<'a> {
    pub(crate) fn new(
        out: &'a mut Vec<u8>,
        date: &'a [u8; DATE_BYTES],
        persist: Persist,
        version: Version,
    ) -> H1Sink<'a> {
        H1Sink { out, date, persist, version, mark: None }
    }
}

impl Sink for H1Sink<'_> {
    fn begin(&mut self, status: u16, media: &'static str) {
        self.mark = Some(begin(self.out, status, media, self.date, self.persist));
    }

    fn body(&mut self) -> &mut Vec<u8> {
        self.out
    }

    fn finish(&mut self, omit_body: bool) {
        finish(self.out, self.mark.take().expect("begun"), omit_body);
    }

    fn cancel(&mut self) {
        self.out.truncate(self.mark.take().expect("begun").start());
    }

    fn begin_stream(&mut self, _omit_body: bool) {
        begin_stream(self.out, self.date, self.persist, self.version);
    }

    fn fault(&mut self, fault: &Fault, omit_body: bool) {
        write_fault(self.out, fault, self.date, self.persist, omit_body);
    }
}

/// Bytes of an IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT`.
pub const DATE_BYTES: usize = 29;

/// The `Date` of a core (T-12), formatted at most once a second.
#[derive(Clone, Debug)]
pub struct DateCache {
    unix_seconds: u64,
    text: [u8; DATE_BYTES],
}

impl Default for DateCache {
    fn default() -> DateCache {
        DateCache::new()
    }
}

impl DateCache {
    /// A cache that holds the epoch.
    pub fn new() -> DateCache {
        DateCache { unix_seconds: 0, text: *b"Thu, 01 Jan 1970 00:00:00 GMT" }
    }

    /// The date of a second. Years beyond 9999 have no such form; they keep the last four digits.
    pub fn at(&mut self, unix_seconds: u64) -> &[u8; DATE_BYTES] {
        if self.unix_seconds != unix_seconds {
            self.unix_seconds = unix_seconds;
            self.text = imf_fixdate(unix_seconds);
        }
        &self.text
    }
}

fn imf_fixdate(unix_seconds: u64) -> [u8; DATE_BYTES] {
    const WEEKDAYS: &[u8; 21] = b"ThuFriSatSunMonTueWed"; // the epoch was a Thursday
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let (days, second) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    let weekday = (days % 7) as usize * 3;
    text[..3].copy_from_slice(&WEEKDAYS[weekday..weekday + 3]);
    put_two(&mut text, 5, day);
    let month = (month as usize - 1) * 3;
    text[8..11].copy_from_slice(&MONTHS[month..month + 3]);
    put_two(&mut text, 12, year / 100);
    put_two(&mut text, 14, year);
    put_two(&mut text, 17, second / 3600);
    put_two(&mut text, 20, second / 60 % 60);
    put_two(&mut text, 23, second % 60);
    text
}

fn put_two(text: &mut [u8; DATE_BYTES], at: usize, value: u64) {
    text[at] = b'0' + (value / 10 % 10) as u8;
    text[at + 1] = b'0' + (value % 10) as u8;
}

/// Year, month and day of a day since the epoch (Hinnant's `civil_from_days`): years start in March,
/// so that the leap day is the last one, and 400 of them are a fixed number of days.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // days since 0000-03-01
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::{Limits, Parsed, parse_head};

    fn date() -> [u8; DATE_BYTES] {
        *DateCache::new().at(784_111_777)
    }

    fn text(out: &[u8]) -> &str {
        std::str::from_utf8(out).unwrap()
    }

    #[test]
    fn a_body_follows_its_head_and_head_requests_keep_the_length() {
        let heads = [
            // rule, persist, what it adds
            ("T-4", Persist::Open, ""),
            ("T-3", Persist::OpenV10, "Connection: keep-alive\r\n"),
            ("T-7", Persist::Close, "Connection: close\r\n"),
        ];
        for (rule, persist, connection) in heads {
            for omit_body in [false, true] {
                let mut out = b"earlier".to_vec();
                let mark = begin(&mut out, 201, JSON, &date(), persist);
                out.extend_from_slice(b"{\"a\":1}");
                finish(&mut out, mark, omit_body);
                let body = if omit_body { "" } else { "{\"a\":1}" };
                let expected = format!(
                    "earlierHTTP/1.1 201 Created\r\nContent-Type: application/json\r\n\
                     Content-Length: {:>10}\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n{connection}\r\n{body}",
                    7
                );
                assert_eq!(text(&out), expected, "{rule} M-3 T-12 T-13");
                assert_eq!(mark.body_start() + if omit_body { 0 } else { 7 }, out.len(), "{rule}");
            }
        }
    }

    #[test]
    fn every_response_parses_with_its_length() {
        for body_bytes in [0usize, 9, 10, 12_345] {
            let mut out = Vec::new();
            let mark = begin(&mut out, 200, METRICS_TEXT, &date(), Persist::Open);
            out.resize(out.len() + body_bytes, b'x');
            finish(&mut out, mark, false);
            let mut headers = [httparse::EMPTY_HEADER; 8];
            let mut response = httparse::Response::new(&mut headers);
            assert_eq!(response.parse(&out), Ok(httparse::Status::Complete(mark.body_start())));
            let names: Vec<_> = response.headers.iter().map(|header| header.name).collect();
            assert_eq!(names, ["Content-Type", "Content-Length", "Date"], "T-12");
            assert_eq!(response.headers[1].value, body_bytes.to_string().as_bytes());
        }
    }

    #[test]
    fn a_stream_is_chunked_or_runs_until_close() {
        let mut out = Vec::new();
        begin_stream(&mut out, &date(), Persist::Open, Version::V11);
        for bytes in [1usize, 15, 16, 4096, 70_000] {
            let start = out.len();
            push_chunk(&mut out, &vec![b'x'; bytes]);
            let size = format!("{bytes:x}\r\n");
            assert_eq!(&out[start..start + size.len()], size.as_bytes(), "V-2");
            assert_eq!(out.len() - start, size.len() + bytes + 2, "V-2");
        }
        assert!(text(&out).starts_with(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
             X-Accel-Buffering: no\r\nTransfer-Encoding: chunked\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n"
        ));
        let mut old = Vec::new();
        begin_stream(&mut old, &date(), Persist::OpenV10, Version::V10);
        assert!(text(&old).ends_with("GMT\r\nConnection: close\r\n\r\n"), "V-2");
        assert!(!text(&old).contains("chunked"), "V-2");
    }

    #[test]
    fn framing_errors_have_an_empty_body_and_close() {
        let table = [
            ("T-7", Framing::Malformed, "400 Bad Request"),
            ("T-8", Framing::TargetTooLong, "414 URI Too Long"),
            ("T-8", Framing::HeadTooLarge, "431 Request Header Fields Too Large"),
        ];
        for (rule, framing, status) in table {
            let mut out = Vec::new();
            write_framing(&mut out, framing, &date());
            let expected = format!(
                "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\
                 Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nConnection: close\r\n\r\n"
            );
            assert_eq!(text(&out), expected, "{rule}");
        }
    }

    #[test]
    fn a_fault_is_written_whole() {
        let table = [
            // rule, fault, its headers
            ("E-2", Fault::not_found(), ""),
            ("E-10", Fault::throttled(), "Retry-After: 1\r\n"),
            ("E-10", Fault::not_ready(0.5), "Retry-After: 1\r\n"),
            ("T-15", Fault::method_not_allowed("GET, HEAD"), "Allow: GET, HEAD\r\n"),
        ];
        for (rule, fault, headers) in table {
            let (mut out, mut body) = (Vec::new(), Vec::new());
            write_fault(&mut out, &fault, &date(), Persist::Open, false);
            fault.render(&mut body);
            let behind_date = format!("GMT\r\n{headers}\r\n{}", text(&body));
            assert!(text(&out).starts_with(&format!("HTTP/1.1 {} ", fault.status())), "{rule}");
            assert!(text(&out).ends_with(&behind_date), "{rule} {}", text(&out));
            let length = format!("{}\r\nDate", body.len());
            assert!(text(&out).contains(&length), "{rule} {}", text(&out));
            write_fault(&mut out, &fault, &date(), Persist::Open, true);
            assert!(text(&out).ends_with(&format!("GMT\r\n{headers}\r\n")), "T-13 {rule}");
        }
    }

    #[test]
    fn the_connection_does_what_the_client_asked_for() {
        let table = [
            ("T-3", "GET / HTTP/1.1\r\n\r\n", Persist::Open),
            ("T-3", "GET / HTTP/1.0\r\n\r\n", Persist::Close),
            ("T-3", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Persist::OpenV10),
            ("T-3", "GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", Persist::Close),
        ];
        for (rule, input, persist) in table {
            let Parsed::Head(head) = parse_head(input.as_bytes(), &Limits::default()) else {
                panic!("{input}")
            };
            assert_eq!(Persist::asked_by(&head), persist, "{rule} {input}");
        }
    }

    #[test]
    fn dates_are_the_ones_of_the_calendar() {
        let table = [
            // rule, unix seconds, `date -u -d @…`
            ("T-12", 0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("T-12", 784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("T-12 leap", 951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            ("T-12", 951_868_799, "Tue, 29 Feb 2000 23:59:59 GMT"),
            ("T-12", 1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            ("T-12 no leap", 4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            ("T-12", 253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ];
        let mut cache = DateCache::new();
        for (rule, unix_seconds, expected) in table {
            assert_eq!(text(cache.at(unix_seconds)), expected, "{rule}");
            assert_eq!(text(cache.at(unix_seconds)), expected, "{rule}");
        }
    }
}
