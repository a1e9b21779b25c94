//! The requests of one HTTP/2 connection: as many at once as it has streams, each an
//! [`Exchange`](crate::exchange::Exchange) of its own.

use super::answer::H2Sink;
use super::conn::{Event, H2Conn};
use crate::conn::{Next, Shared};
use crate::exchange::{Exchange, Progress};
use crate::fault::Fault;
use crate::http::request::{BodyFraming, Head, Method, Version, visible_ascii};
use crate::limits::{BODIES_BYTES_MAX, OUTPUT_BACKLOG_BYTES_MAX};
use crate::message::{Answer, Caller};
use crate::service::Service;
use crate::streams::{Host, StreamNews};
use ahash::AHashMap;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::request::Parts;
use std::collections::VecDeque;

/// A request in progress. Where its stream is gone, it stays until what it asked for is answered: what is
/// given up all the time must not come for free.
struct Request {
    exchange: Exchange,
    /// Its head, while its body comes.
    collecting: Option<Box<Parts>>,
    /// Its answer is a stream that has begun.
    streaming: bool,
}

/// See the module's text.
pub(crate) struct H2 {
    conn: H2Conn,
    requests: AHashMap<u32, Request>,
    /// Requests that wait until the client takes answers.
    held: VecDeque<Event>,
    /// What this connection has in [`Shared::body_bytes`].
    counted_bytes: u64,
    pub(crate) paused: bool,
}

impl H2 {
    pub(crate) fn new(shared: &Shared) -> H2 {
        H2 {
            conn: H2Conn::new(shared.edge.max_body_bytes, shared.edge.steady_ms),
            requests: AHashMap::new(),
            held: VecDeque::new(),
            counted_bytes: 0,
            paused: false,
        }
    }

    /// Takes received bytes.
    pub(crate) fn receive(
        &mut self,
        id: u64,
        bytes: &[u8],
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) -> Next {
        self.conn.push(bytes, shared.edge.steady_ms);
        self.resume(id, out, service, shared)
    }

    /// Goes on after an answer, or when there is room for more output.
    pub(crate) fn resume(
        &mut self,
        id: u64,
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) -> Next {
        loop {
            self.conn.drive(out, shared.edge.steady_ms);
            self.count_bodies(service, shared);
            self.take_events(id, out.len(), service, shared);
            let ends = shared.stopping && self.conn.end_if_idle();
            if !ends && !self.conn.wants_drive() {
                break;
            }
        }
        match self.wants_close() {
            true => Next::Close,
            false => Next::Wait,
        }
    }

    /// An answer came for the request of a stream; [`H2::resume`] follows.
    pub(crate) fn on_answer(
        &mut self,
        id: u64,
        stream: u32,
        answer: Answer,
        service: &mut Service,
        shared: &mut Shared,
    ) {
        let Some(request) = self.requests.get_mut(&stream) else { return };
        let mut sink = H2Sink::new(&mut self.conn, stream, &shared.date);
        let progress = request.exchange.on_answer(answer, &mut sink, service, &mut shared.edge);
        self.progressed(id, stream, progress, shared);
    }

    fn progressed(&mut self, id: u64, stream: u32, progress: Progress, shared: &mut Shared) {
        match progress {
            Progress::Done => self.end(stream),
            Progress::Later => {}
            Progress::Stream if !self.conn.is_there(stream) => {
                // Given up before it began: nobody else would end it.
                shared.edge.news.push((Host { conn: id, stream }, StreamNews::Gone));
                self.end(stream);
            }
            Progress::Stream => {
                if let Some(request) = self.requests.get_mut(&stream) {
                    request.streaming = true;
                }
            }
        }
    }

    /// Passes on what a stream has to say; [`H2::resume`] follows.
    pub(crate) fn write_stream(&mut self, stream: u32, bytes: &[u8]) {
        self.conn.write(stream, |output| output.extend_from_slice(bytes));
    }

    /// Bytes of a stream that the client's window holds back.
    pub(crate) fn stream_backlog(&self, stream: u32) -> usize {
        self.conn.backlog(stream)
    }

    /// A stream is over; [`H2::resume`] follows.
    pub(crate) fn end_stream(&mut self, stream: u32) {
        self.conn.finish(stream);
        self.end(stream);
    }

    /// Requests whose answers are streams.
    pub(crate) fn streaming(&self) -> Vec<u32> {
        self.requests.iter().filter(|(_, request)| request.streaming).map(|(stream, _)| *stream).collect()
    }

    /// The client sends nothing more; [`H2::resume`] follows.
    pub(crate) fn peer_finished(&mut self) {
        self.conn.peer_finished();
    }

    /// Whether the connection is over but for what is to be sent.
    pub(crate) fn wants_close(&self) -> bool {
        self.conn.is_ended()
    }

    /// Bytes received that wait for room in the output.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.conn.kept_bytes()
    }

    /// When [`H2::on_deadline`] is due.
    pub(crate) fn deadline_ms(&self) -> u64 {
        self.conn.deadline_ms()
    }

    /// Whether the client is still there, as far as can be known; [`H2::resume`] follows.
    pub(crate) fn on_deadline(&mut self, steady_ms: u64) -> bool {
        self.conn.on_deadline(steady_ms)
    }

    /// SH-2: requests in progress are answered, further ones refused; [`H2::resume`]
    /// follows.
    pub(crate) fn begin_stop(&mut self) {
        self.conn.begin_stop();
    }

    /// The connection is gone.
    pub(crate) fn give_back(&mut self, shared: &mut Shared) {
        shared.body_bytes -= std::mem::take(&mut self.counted_bytes);
    }

    fn take_events(&mut self, id: u64, output_bytes: usize, service: &mut Service, shared: &mut Shared) {
        let full = |conn: &H2Conn| {
            conn.backlog_bytes() > OUTPUT_BACKLOG_BYTES_MAX || output_bytes > OUTPUT_BACKLOG_BYTES_MAX
        };
        while !full(&self.conn)
            && let Some(event) = self.held.pop_front()
        {
            self.on_event(id, event, service, shared);
        }
        while let Some(event) = self.conn.next_event() {
            match event {
                Event::Head(_) | Event::Body(_) if full(&self.conn) => self.held.push_back(event),
                _ => self.on_event(id, event, service, shared),
            }
        }
    }

    fn on_event(&mut self, id: u64, event: Event, service: &mut Service, shared: &mut Shared) {
        match event {
            Event::Head(stream) => match self.conn.take_head(stream) {
                Some(parts) => self.begin(id, stream, parts, service, shared),
                None => self.conn.answered(), // given up before anybody looked at it
            },
            Event::Body(stream) => {
                let Some(request) = self.requests.get_mut(&stream) else { return };
                let parts = request.collecting.take().expect("a body is asked for once");
                let body = self.conn.take_body(stream);
                self.handle(id, stream, &parts, &body, service, shared);
            }
            Event::TooLarge(stream) => {
                let fault = Fault::payload_too_large(shared.edge.max_body_bytes);
                self.refuse(stream, &fault, service, shared);
            }
            Event::Drained(stream) => {
                shared.edge.news.push((Host { conn: id, stream }, StreamNews::Drained));
            }
            Event::Gone(stream) => {
                if self.requests.get(&stream).is_some_and(|request| request.streaming) {
                    shared.edge.news.push((Host { conn: id, stream }, StreamNews::Gone));
                    self.end(stream);
                } else if self.requests.get(&stream).is_some_and(|request| request.collecting.is_some()) {
                    self.end(stream);
                }
            }
        }
    }

    fn begin(&mut self, id: u64, stream: u32, parts: Box<Parts>, service: &mut Service, shared: &mut Shared) {
        let framing = framing(&parts, self.conn.awaits_body(stream));
        let head = head_of(&parts, framing);
        let expects = head.expect_continue;
        let mut exchange = Exchange::new(shared.edge.started);
        let begun = exchange.begin(&head, service, &shared.edge);
        let mut request = Request { exchange, collecting: None, streaming: false };
        match begun {
            Ok(true) if framing != BodyFraming::None => {
                request.collecting = Some(parts);
                self.requests.insert(stream, request);
                match framing {
                    BodyFraming::Length(bytes) if bytes > shared.edge.max_body_bytes => {
                        let fault = Fault::payload_too_large(shared.edge.max_body_bytes);
                        self.refuse(stream, &fault, service, shared);
                    }
                    _ => self.conn.collect(stream, expects),
                }
            }
            Ok(_) => {
                self.requests.insert(stream, request);
                self.handle(id, stream, &parts, &[], service, shared);
                self.conn.discard(stream); // T-16
            }
            Err(fault) => {
                self.requests.insert(stream, request);
                self.refuse(stream, &fault, service, shared);
            }
        }
    }

    /// A whole request.
    fn handle(
        &mut self,
        id: u64,
        stream: u32,
        parts: &Parts,
        body: &[u8],
        service: &mut Service,
        shared: &mut Shared,
    ) {
        let Some(request) = self.requests.get_mut(&stream) else { return };
        let caller = Caller::Request { conn: id, stream };
        let head = head_of(parts, BodyFraming::Length(body.len() as u64));
        let mut sink = H2Sink::new(&mut self.conn, stream, &shared.date);
        let progress = request.exchange.handle(caller, &head, body, &mut sink, service, &mut shared.edge);
        self.progressed(id, stream, progress, shared);
    }

    /// Answers a request that goes no further; what comes of its body is thrown away.
    fn refuse(&mut self, stream: u32, fault: &Fault, service: &mut Service, shared: &Shared) {
        let Some(request) = self.requests.get_mut(&stream) else { return };
        let mut sink = H2Sink::new(&mut self.conn, stream, &shared.date);
        request.exchange.refuse(fault, &mut sink, service);
        self.end(stream);
        self.conn.discard(stream);
    }

    fn end(&mut self, stream: u32) {
        if self.requests.remove(&stream).is_some() {
            self.conn.answered();
        }
    }

    /// Keeps what all connections collect within bounds.
    fn count_bodies(&mut self, service: &mut Service, shared: &mut Shared) {
        let collected_bytes = self.conn.collected_bytes();
        shared.body_bytes = shared.body_bytes - self.counted_bytes + collected_bytes;
        self.counted_bytes = collected_bytes;
        if shared.body_bytes <= BODIES_BYTES_MAX || collected_bytes == 0 {
            return;
        }
        // One alone may be larger than all: the others are told to come again.
        let mut collecting: Vec<u32> = self
            .requests
            .iter()
            .filter(|(_, request)| request.collecting.is_some())
            .map(|(stream, _)| *stream)
            .collect();
        if shared.body_bytes == collected_bytes {
            collecting.pop();
        }
        for stream in collecting {
            self.refuse(stream, &Fault::throttled(), service, shared);
        }
        let left_bytes = self.conn.collected_bytes();
        shared.body_bytes = shared.body_bytes - self.counted_bytes + left_bytes;
        self.counted_bytes = left_bytes;
    }
}

/// How much of a body comes, as far as it was told.
fn framing(parts: &Parts, awaits_body: bool) -> BodyFraming {
    // `h2` holds the body against its length, so a field that is no number is not met here.
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    match (awaits_body, length) {
        (false, _) => BodyFraming::None,
        (true, Some(bytes)) => BodyFraming::Length(bytes),
        (true, None) => BodyFraming::Chunked,
    }
}

fn head_of(parts: &Parts, body: BodyFraming) -> Head<'_> {
    let field = |name| parts.headers.get(name).map(http::HeaderValue::as_bytes); // T-17: the first
    let target = parts.uri.path_and_query();
    Head {
        method: Method::from_token(parts.method.as_str()),
        target: target.map_or(b"", |target| target.as_str().as_bytes()),
        path: target.map_or(b"", |target| target.path().as_bytes()),
        query: target.and_then(|target| target.query()).unwrap_or_default().as_bytes(),
        version: Version::V20,
        keep_alive: true,
        body,
        expect_continue: body != BodyFraming::None
            && field(EXPECT).is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue")),
        content_type: field(CONTENT_TYPE),
        authorization: field(AUTHORIZATION),
        idempotency_key: parts
            .headers
            .get("idempotency-key")
            .and_then(|value| visible_ascii(value.as_bytes())),
        accept: field(ACCEPT),
        last_event_id: parts.headers.get("last-event-id").map(http::HeaderValue::as_bytes),
        head_bytes: 0,
    }
}
