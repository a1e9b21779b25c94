//! A request head from bytes: request line, the few header fields that matter, body framing.
//! Lives here: what T-3, T-6, T-7, T-8 and T-17 say about a head, and M-1's look at its media type.
//! Not here: which paths exist (`route`), what a query means (`http::query`), bytes of a body
//! (`http::chunked`), deadlines (`conn`).
//! Always true: the verdict on an input never changes when more bytes arrive; until there is one, the
//! answer is [`Parsed::NeedMore`]. So a client that dribbles is judged like one that sends at once.

use std::mem::MaybeUninit;

use memchr::{memchr, memchr3, memrchr};

/// The longest request target, in bytes (T-8).
pub const TARGET_BYTES_MAX: usize = 65_534;
/// The most header fields of a request (T-8).
pub const HEADERS_MAX: usize = 100;
/// Head bytes, empty lines before it included. T-8 leaves the number free; this leaves room for the
/// longest target beside 100 fields of almost 2 KiB each.
pub const HEAD_BYTES_MAX: usize = 256 << 10;
/// Below this many bytes a head is tried on every call; above, only when a line ended or the input
/// doubled, so that a client sending byte by byte costs linear work.
const ALWAYS_TRY_BYTES: usize = 512;

const _: () = assert!(HEAD_BYTES_MAX > TARGET_BYTES_MAX + HEADERS_MAX * 1024);

/// A request method. Names are case-sensitive: `get` is [`Method::Other`] (T-14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`, served wherever GET is (T-13)
    Head,
    /// `PUT`
    Put,
    /// `POST`
    Post,
    /// `DELETE`
    Delete,
    /// `OPTIONS`
    Options,
    /// `PATCH`
    Patch,
    /// `TRACE`
    Trace,
    /// `CONNECT`
    Connect,
    /// Any other token
    Other,
}

impl Method {
    pub(crate) fn from_token(token: &str) -> Method {
        match token {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "PUT" => Method::Put,
            "POST" => Method::Post,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            "PATCH" => Method::Patch,
            "TRACE" => Method::Trace,
            "CONNECT" => Method::Connect,
            _ => Method::Other,
        }
    }
}

/// The HTTP version of a request; any other is a framing error (T-7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `HTTP/1.0`
    V10,
    /// `HTTP/1.1`
    V11,
    /// HTTP/2 (T-1); never in a request line
    V20,
}

/// How the body behind a head is delimited (T-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// No length and no coding: there is no body.
    None,
    /// `Content-Length`; zero is possible.
    Length(u64),
    /// `Transfer-Encoding` ending in `chunked`; it wins over any `Content-Length`.
    Chunked,
}

/// Why a head is refused. Each answer has an empty body and closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// 400: not HTTP/1.x as T-7 wants it
    Malformed,
    /// 414: the target is longer than [`TARGET_BYTES_MAX`]
    TargetTooLong,
    /// 431: too many header fields, or too many bytes of them
    HeadTooLarge,
}

impl Framing {
    /// The status that answers it.
    pub const fn status(self) -> u16 {
        match self {
            Framing::Malformed => 400,
            Framing::TargetTooLong => 414,
            Framing::HeadTooLarge => 431,
        }
    }
}

/// Bounds of a head. [`Limits::default`] is what the server uses; tests shrink it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes up to and with the empty line that ends the head.
    pub head_bytes_max: usize,
    /// Bytes of the raw target.
    pub target_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { head_bytes_max: HEAD_BYTES_MAX, target_bytes_max: TARGET_BYTES_MAX }
    }
}

/// What a whole head says. Every slice borrows the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// The method.
    pub method: Method,
    /// The target as sent: not decoded, fragment and authority still in it. For logs only.
    pub target: &'a [u8],
    /// The path of the target, raw. Empty for a target without one, `*` for the asterisk form: neither
    /// is a path this server knows (T-21).
    pub path: &'a [u8],
    /// The query behind `?`, raw, without a fragment; empty when there is none.
    pub query: &'a [u8],
    /// The version.
    pub version: Version,
    /// Whether the client lets the connection be used again after this request.
    pub keep_alive: bool,
    /// How the body is delimited.
    pub body: BodyFraming,
    /// `Expect: 100-continue` on HTTP/1.1 with a body to come (T-5).
    pub expect_continue: bool,
    /// `Content-Type`, first occurrence (T-17).
    pub content_type: Option<&'a [u8]>,
    /// `Authorization`, first occurrence (T-17).
    pub authorization: Option<&'a [u8]>,
    /// `Idempotency-Key`, first occurrence (T-17); absent when that one is not visible ASCII (U-1).
    /// The empty key is a key (U-2).
    pub idempotency_key: Option<&'a str>,
    /// `Accept`, first occurrence.
    pub accept: Option<&'a [u8]>,
    /// `Last-Event-ID`, first occurrence (V-52).
    pub last_event_id: Option<&'a [u8]>,
    /// Bytes of the input that the head took; the body starts there.
    pub head_bytes: usize,
}

/// The verdict on the input so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// Not a whole head yet, and nothing wrong so far.
    NeedMore,
    /// A whole head.
    Head(Head<'a>),
    /// Refused: answer, close.
    Bad(Framing),
}

/// Remembers, between calls on the growing input of one connection, what was looked at already. Make
/// a new one for each request; the input must start at the same byte on every call.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScanner {
    start: usize,    // empty lines before the request line end here
    searched: usize, // every line end below was seen
    tried: usize,    // input length at the last attempt
}

impl HeadScanner {
    /// A scanner for a new request.
    pub fn new() -> HeadScanner {
        HeadScanner::default()
    }

    /// Judges the input, if anything that could change the verdict arrived since the last call. A
    /// refusal may be noticed only when its line ends; a whole head is always noticed at once.
    pub fn parse<'a>(&mut self, input: &'a [u8], limits: &Limits) -> Parsed<'a> {
        let head = &input[..input.len().min(limits.head_bytes_max)];
        self.start += empty_lines(&head[self.start..]);
        let from = self.searched.max(self.start).min(head.len());
        let line_ended = memchr(b'\n', &head[from..]).is_some();
        self.searched = head.len();
        let due = line_ended
            || head.len() - self.start <= ALWAYS_TRY_BYTES
            || head.len() >= 2 * self.tried
            || head.len() == limits.head_bytes_max;
        if !due {
            return Parsed::NeedMore;
        }
        self.tried = head.len();
        parse_at(head, self.start, limits)
    }
}

/// Judges an input in one go; [`HeadScanner::parse`] is the one to call on a growing input.
pub fn parse_head<'a>(input: &'a [u8], limits: &Limits) -> Parsed<'a> {
    HeadScanner::new().parse(input, limits)
}

/// Whether a `Content-Type` value announces JSON: a prefix test behind leading white space (M-1).
pub fn is_json_media(value: Option<&[u8]>) -> bool {
    value.is_some_and(|value| value.trim_ascii_start().starts_with(b"application/json"))
}

/// Parses `head`, which is already cut at the ceiling and starts its request line at `start`.
fn parse_at<'a>(head: &'a [u8], start: usize, limits: &Limits) -> Parsed<'a> {
    let text = &head[start..];
    if text.len() > limits.target_bytes_max && target_overflows(text, limits.target_bytes_max) {
        return Parsed::Bad(Framing::TargetTooLong);
    }
    let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let outcome = request.parse_with_uninit_headers(text, &mut fields);
    // The target comes before the fields, so it is judged before whatever is wrong with them: else a
    // client that sends slowly could see another status than one that sends at once.
    let Some(split) = request.path.map_or(Some(SplitTarget::EMPTY), |target| split_target(target.as_bytes()))
    else {
        return Parsed::Bad(Framing::Malformed);
    };
    let text_bytes = match outcome {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) if head.len() >= limits.head_bytes_max => {
            return Parsed::Bad(Framing::HeadTooLarge);
        }
        Ok(httparse::Status::Partial) => return Parsed::NeedMore,
        Err(httparse::Error::TooManyHeaders) => return Parsed::Bad(Framing::HeadTooLarge),
        Err(_) => return Parsed::Bad(Framing::Malformed),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Parsed::Bad(Framing::Malformed);
    };
    let version = if minor == 0 { Version::V10 } else { Version::V11 };
    let Ok(fields) = Fields::collect(request.headers, version) else {
        return Parsed::Bad(Framing::Malformed);
    };
    let body = match (fields.chunked, fields.length) {
        (true, _) => BodyFraming::Chunked,
        (false, Some(length)) => BodyFraming::Length(length),
        (false, None) => BodyFraming::None,
    };
    let body_follows = !matches!(body, BodyFraming::None | BodyFraming::Length(0));
    Parsed::Head(Head {
        method: Method::from_token(method),
        target: target.as_bytes(),
        path: split.path,
        query: split.query,
        version,
        keep_alive: !fields.close && (version == Version::V11 || fields.keep_alive),
        body,
        expect_continue: fields.expect && body_follows && version == Version::V11,
        content_type: fields.content_type,
        authorization: fields.authorization,
        idempotency_key: fields.idempotency_key.and_then(visible_ascii),
        accept: fields.accept,
        last_event_id: fields.last_event_id,
        head_bytes: start + text_bytes,
    })
}

/// Bytes of the whole empty lines that `text` starts with. RFC 9112 asks servers to skip them.
fn empty_lines(text: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match &text[at..] {
            [b'\n', ..] => at += 1,
            [b'\r', b'\n', ..] => at += 2,
            _ => return at,
        }
    }
}

/// Whether `text` starts with a method, a space, and more than `bytes_max` bytes of target, possibly
/// still growing. Anything that is no target byte before that point is left to the parser, a 400.
#[cold]
fn target_overflows(text: &[u8], bytes_max: usize) -> bool {
    let Some(method_bytes) = memchr(b' ', text) else { return false };
    let Some(target) = text[method_bytes + 1..].get(..=bytes_max) else { return false };
    method_bytes > 0
        && text[..method_bytes].iter().all(|&byte| is_token(byte))
        && target.iter().all(|&byte| byte > b' ' && byte != 0x7f)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

struct SplitTarget<'a> {
    path: &'a [u8],
    query: &'a [u8],
}

impl SplitTarget<'_> {
    const EMPTY: SplitTarget<'static> = SplitTarget { path: b"", query: b"" };
}

/// Path and query of a target in origin, absolute, asterisk or authority form; none of those, or an
/// illegal raw character, is a framing error. `httparse` has seen to controls, spaces, DEL and UTF-8.
fn split_target(target: &[u8]) -> Option<SplitTarget<'_>> {
    let whole = &target[..memchr(b'#', target).unwrap_or(target.len())]; // T-22: the fragment goes
    let local = match whole.first() {
        Some(b'/') => whole,
        Some(_) if whole == b"*" => whole,
        Some(_) => behind_authority(whole)?,
        None => return None,
    };
    let (path, query) = match memchr(b'?', local) {
        Some(at) => (&local[..at], &local[at + 1..]),
        None => (local, &b""[..]),
    };
    // The WHATWG sets, less what clients are known to send raw (`"{}` in a path, `{}^` in a query).
    if memchr3(b'<', b'>', b'`', path).is_some() || memchr3(b'<', b'>', b'"', query).is_some() {
        return None;
    }
    Some(SplitTarget { path, query })
}

/// What follows the authority of `scheme://authority/…` (T-3), or of a bare `authority`.
fn behind_authority(target: &[u8]) -> Option<&[u8]> {
    let scheme_bytes =
        target.iter().take_while(|&&b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)).count();
    let (rest, bare) = match target[scheme_bytes..].strip_prefix(b"://") {
        Some(rest) if scheme_bytes > 0 => (rest, false),
        _ => (target, true),
    };
    let authority_bytes = memchr::memchr2(b'/', b'?', rest).unwrap_or(rest.len());
    let (authority, local) = rest.split_at(authority_bytes);
    if authority.is_empty() || memchr3(b'<', b'>', b'`', authority).is_some() {
        return None;
    }
    // `v0/health` is neither an authority nor a path.
    (!bare || local.is_empty()).then_some(local)
}

/// The header fields that matter, gathered in one pass.
#[derive(Default)]
struct Fields<'a> {
    length: Option<u64>,
    coded: bool,   // a Transfer-Encoding field was there
    chunked: bool, // and the last coding of the last one is `chunked`
    close: bool,
    keep_alive: bool,
    expect: bool,
    content_type: Option<&'a [u8]>,
    authorization: Option<&'a [u8]>,
    idempotency_key: Option<&'a [u8]>,
    accept: Option<&'a [u8]>,
    last_event_id: Option<&'a [u8]>,
}

struct BadFraming;

impl<'a> Fields<'a> {
    fn collect(headers: &[httparse::Header<'a>], version: Version) -> Result<Fields<'a>, BadFraming> {
        let mut fields = Fields::default();
        for header in headers {
            fields.take(header.name.as_bytes(), header.value)?;
        }
        // A message of 1.0 with a coding is faulty (RFC 9112 §6.1): a proxy in front would have seen
        // another end of the body than we do.
        if fields.coded && (!fields.chunked || version == Version::V10) {
            return Err(BadFraming);
        }
        Ok(fields)
    }

    /// The length of a name is a cheap first filter: most fields fall through at once.
    fn take(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), BadFraming> {
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        match name.len() {
            6 if is(b"accept") => self.accept = self.accept.or(Some(value)),
            6 if is(b"expect") => self.expect = value.eq_ignore_ascii_case(b"100-continue"),
            10 if is(b"connection") => {
                for token in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            12 if is(b"content-type") => self.content_type = self.content_type.or(Some(value)),
            13 if is(b"last-event-id") => self.last_event_id = self.last_event_id.or(Some(value)),
            13 if is(b"authorization") => self.authorization = self.authorization.or(Some(value)),
            14 if is(b"content-length") => {
                let length = decimal(value).ok_or(BadFraming)?;
                if self.length.is_some_and(|earlier| earlier != length) {
                    return Err(BadFraming);
                }
                self.length = Some(length);
            }
            15 if is(b"idempotency-key") => self.idempotency_key = self.idempotency_key.or(Some(value)),
            17 if is(b"transfer-encoding") => {
                self.coded = true;
                let last = memrchr(b',', value).map_or(0, |comma| comma + 1);
                self.chunked = value[last..].trim_ascii().eq_ignore_ascii_case(b"chunked");
            }
            _ => {}
        }
        Ok(())
    }
}

/// Digits only: `parse` would take `+24`, and a sign is a framing error (T-7).
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |sum, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

/// The value as text, if it is visible ASCII with inner spaces and tabs at most (U-1).
pub(crate) fn visible_ascii(value: &[u8]) -> Option<&str> {
    let visible = value.iter().all(|&byte| matches!(byte, b'\t' | b' '..=b'~'));
    if visible { std::str::from_utf8(value).ok() } else { None }
}

#[cfg(test)]
mod tests;
