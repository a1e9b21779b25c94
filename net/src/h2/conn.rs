//! One HTTP/2 connection.

use super::pipe::Pipe;
use super::stream::{Body, Stream};
use super::wake::{Ready, StreamWake};
use crate::http::request::HEADERS_MAX;
use crate::limits::{
    H2_CONNECTION_WINDOW_BYTES, H2_HEADER_LIST_BYTES_MAX, H2_PING_EVERY_MS, H2_PING_TIMEOUT_MS,
    H2_STREAM_WINDOW_BYTES, H2_STREAMS_MAX, H2_UNANSWERED_MAX, OUTPUT_BACKLOG_BYTES_MAX,
};
use ahash::AHashMap;
use bytes::Bytes;
use h2::server::{Builder, Connection, Handshake, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::request::Parts;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// A client has this long to begin (T-10).
const HANDSHAKE_MS: u64 = 60_000;

/// What happened on a connection. The number is the stream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A request's head is there; its body, if any, waits to be asked for.
    Head(u32),
    /// The body that was asked for is whole.
    Body(u32),
    /// It is larger than allowed.
    TooLarge(u32),
    /// Everything that was to be sent on this stream is on its way, and more may be added.
    Drained(u32),
    /// The stream ended before its answer did.
    Gone(u32),
}

enum State {
    Handshaking(Pin<Box<Handshake<Pipe, Bytes>>>),
    Open {
        connection: Box<Connection<Pipe, Bytes>>,
        pings: Option<PingPong>,
    },
    /// What is in the output is all there will be.
    Ended,
}

/// See the module's text.
pub(crate) struct H2Conn {
    pipe: Pipe,
    state: State,
    ready: Arc<Ready>,
    waker: Waker,
    streams: AHashMap<u32, Stream>,
    events: VecDeque<Event>,
    /// Streams to look at; kept for its memory.
    due: Vec<u32>,
    /// Requests given out and not answered, those included whose stream is gone.
    unanswered: usize,
    body_bytes_max: u64,
    collected_bytes: u64,
    /// Bytes of answers that clients' windows hold back.
    backlog_bytes: usize,
    now_ms: u64,
    since_ms: u64,
    heard_ms: u64,
    pinged_ms: Option<u64>,
    stopping: bool,
}

impl H2Conn {
    pub(crate) fn new(body_bytes_max: u64, now_ms: u64) -> H2Conn {
        let pipe = Pipe::new(OUTPUT_BACKLOG_BYTES_MAX);
        let handshake = Builder::new()
            .initial_window_size(H2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(H2_STREAMS_MAX)
            .max_header_list_size(H2_HEADER_LIST_BYTES_MAX)
            .handshake(pipe.clone());
        let ready = Arc::<Ready>::default();
        H2Conn {
            pipe,
            state: State::Handshaking(Box::pin(handshake)),
            waker: Waker::from(Arc::clone(&ready)),
            ready,
            streams: AHashMap::new(),
            events: VecDeque::new(),
            due: Vec::new(),
            unanswered: 0,
            body_bytes_max,
            collected_bytes: 0,
            backlog_bytes: 0,
            now_ms,
            since_ms: now_ms,
            heard_ms: now_ms,
            pinged_ms: None,
            stopping: false,
        }
    }

    /// Takes received bytes; [`H2Conn::drive`] follows.
    pub(crate) fn push(&mut self, bytes: &[u8], now_ms: u64) {
        self.heard_ms = now_ms;
        self.pinged_ms = None;
        self.pipe.push(bytes);
    }

    /// The client sends nothing more: to HTTP/2 that is the end of the connection.
    pub(crate) fn peer_finished(&mut self) {
        self.pipe.end();
    }

    /// Does what can be done with the bytes that came, the answers that were given and the room in `out`.
    pub(crate) fn drive(&mut self, out: &mut Vec<u8>, now_ms: u64) {
        self.now_ms = now_ms;
        self.pipe.swap_output(out);
        // Ends: the input is what it is, `out` takes a bounded amount, and a stream is looked at again
        // only when one of these moved it.
        loop {
            self.ready.take_connection();
            self.poll_connection();
            self.poll_streams();
            if !self.ready.connection() || self.is_ended() {
                break;
            }
        }
        self.pipe.swap_output(out);
    }

    /// Whether an answer, or bytes of one, wait for [`H2Conn::drive`].
    pub(crate) fn wants_drive(&self) -> bool {
        self.ready.connection() && !self.is_ended()
    }

    /// The next event.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn poll_connection(&mut self) {
        let waker = self.waker.clone();
        let mut context = Context::from_waker(&waker);
        if let State::Handshaking(handshake) = &mut self.state {
            match handshake.as_mut().poll(&mut context) {
                Poll::Pending => return,
                Poll::Ready(Err(_)) => return self.end(),
                Poll::Ready(Ok(mut connection)) => {
                    let pings = connection.ping_pong();
                    self.state = State::Open { connection: Box::new(connection), pings };
                }
            }
        }
        loop {
            let State::Open { connection, .. } = &mut self.state else { return };
            match connection.poll_accept(&mut context) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok((request, send)))) => self.accept(request, send),
                // It said why to the client, if that was ours to say.
                Poll::Ready(Some(Err(_)) | None) => return self.end(),
            }
        }
    }

    fn accept(&mut self, request: http::Request<RecvStream>, mut send: SendResponse<Bytes>) {
        let number = send.stream_id().as_u32();
        let (parts, recv) = request.into_parts();
        if self.unanswered >= H2_UNANSWERED_MAX || self.stopping {
            send.send_reset(Reason::REFUSED_STREAM);
            return;
        }
        if parts.headers.len() > HEADERS_MAX {
            // T-8, but the connection stays: another stream cannot be mistaken for the rest of this one.
            let mut head = http::Response::new(());
            *head.status_mut() = http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            let _ = send.send_response(head, true);
            return;
        }
        self.unanswered += 1;
        let wake = StreamWake::new(number, &self.ready);
        self.streams.insert(number, Stream::new(parts, recv, send, wake, self.now_ms));
        self.events.push_back(Event::Head(number));
        self.poll_stream(number); // so that its wakers are in place
    }

    fn poll_streams(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.ready.take_streams(&mut due);
        for number in due.drain(..) {
            self.poll_stream(number);
        }
        self.due = due;
    }

    fn poll_stream(&mut self, number: u32) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let backlog = stream.backlog();
        let came = stream.poll(self.body_bytes_max, self.now_ms);
        self.backlog_bytes = self.backlog_bytes - backlog + stream.backlog();
        self.collected_bytes = self.collected_bytes.wrapping_add_signed(came.collected_bytes);
        if came.gone {
            self.abandon(number);
            return;
        }
        let events = [
            (came.whole, Event::Body(number)),
            (came.too_large, Event::TooLarge(number)),
            (came.drained, Event::Drained(number)),
        ];
        self.events.extend(events.into_iter().filter(|(happened, _)| *happened).map(|(_, event)| event));
        self.sweep(number);
    }

    /// Forgets a stream that is through.
    fn sweep(&mut self, number: u32) {
        if self.streams.get(&number).is_some_and(Stream::is_over) {
            self.forget(number);
        }
    }

    fn forget(&mut self, number: u32) {
        if let Some(mut stream) = self.streams.remove(&number) {
            self.collected_bytes -= stream.discard();
            self.backlog_bytes -= stream.backlog();
        }
    }

    /// A stream ended early.
    fn abandon(&mut self, number: u32) {
        self.forget(number);
        self.events.push_back(Event::Gone(number));
    }

    fn end(&mut self) {
        self.state = State::Ended;
        let numbers: Vec<u32> = self.streams.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.abandon(number));
    }

    /// Whether the connection is over: close it when everything is sent.
    pub(crate) fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// The head of a request, once. `None` when the stream is gone meanwhile.
    pub(crate) fn take_head(&mut self, number: u32) -> Option<Box<Parts>> {
        self.streams.get_mut(&number)?.parts.take()
    }

    /// Whether the stream is open.
    pub(crate) fn is_there(&self, number: u32) -> bool {
        self.streams.contains_key(&number)
    }

    /// Whether a body is still to come.
    pub(crate) fn awaits_body(&self, number: u32) -> bool {
        self.streams.get(&number).is_some_and(Stream::awaits_body)
    }

    /// What was collected of a body: all of it after [`Event::Body`].
    pub(crate) fn take_body(&mut self, number: u32) -> Body {
        let body = self.streams.get_mut(&number).map_or(Body::Collected(Vec::new()), Stream::take_body);
        self.collected_bytes -= body.len() as u64;
        body
    }

    /// Collects the body; [`Event::Body`] or [`Event::TooLarge`] follows.
    pub(crate) fn collect(&mut self, number: u32, ask: bool) {
        if let Some(stream) = self.streams.get_mut(&number) {
            if ask {
                stream.send_continue();
            }
            stream.collect();
            self.poll_stream(number);
        }
    }

    /// The body is not wanted, or not any longer.
    pub(crate) fn discard(&mut self, number: u32) {
        if let Some(stream) = self.streams.get_mut(&number) {
            self.collected_bytes -= stream.discard();
            self.poll_stream(number);
        }
    }

    /// Answers a request, with all of the body or, with `more`, the beginning of one. Nothing happens if
    /// the stream is gone.
    pub(crate) fn respond(&mut self, number: u32, head: http::Response<()>, body: Vec<u8>, more: bool) {
        let now_ms = self.now_ms;
        self.send(number, |stream| stream.respond(head, body, more, now_ms));
    }

    /// Adds to the body of an answer that was begun with `more`, and sends it as far as the client takes
    /// it. Nothing happens if the stream is gone.
    pub(crate) fn write(&mut self, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
        let now_ms = self.now_ms;
        self.send(number, |stream| {
            if let Some(output) = stream.output() {
                write(output);
                stream.flush(now_ms);
            }
        });
    }

    /// Ends such a body.
    pub(crate) fn finish(&mut self, number: u32) {
        let now_ms = self.now_ms;
        self.send(number, |stream| stream.finish(now_ms));
    }

    fn send(&mut self, number: u32, send: impl FnOnce(&mut Stream)) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let backlog = stream.backlog();
        send(stream);
        self.backlog_bytes = self.backlog_bytes - backlog + stream.backlog();
        self.sweep(number);
    }

    /// Bytes of an answer that the client's window holds back.
    pub(crate) fn backlog(&self, number: u32) -> usize {
        self.streams.get(&number).map_or(0, Stream::backlog)
    }

    /// Those of all answers.
    pub(crate) fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }

    /// A request that was given out needs nothing more of this connection, whether its stream is still
    /// there or not. Once for each [`Event::Head`].
    pub(crate) fn answered(&mut self) {
        self.unanswered -= 1;
    }

    /// Streams that are not through.
    #[cfg(test)]
    pub(crate) fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Received bytes that wait for room in the output.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.pipe.kept_bytes()
    }

    /// Bytes of bodies that are collected here.
    pub(crate) fn collected_bytes(&self) -> u64 {
        self.collected_bytes
    }

    /// Takes no new streams: they are refused, which tells a client that it may ask elsewhere.
    ///
    /// The GOAWAY comes last, from [`H2Conn::end_if_idle`]: there are clients that take nothing more of
    /// what is on its way once they have seen one.
    pub(crate) fn begin_stop(&mut self) {
        self.stopping = true;
        if matches!(self.state, State::Handshaking(_)) {
            self.end();
        }
    }

    /// Ends when nothing is in progress, after [`H2Conn::begin_stop`]; true if [`H2Conn::drive`] is to
    /// follow.
    pub(crate) fn end_if_idle(&mut self) -> bool {
        let State::Open { connection, .. } = &mut self.state else { return false };
        let idle = self.unanswered == 0 && self.streams.is_empty() && !connection.has_streams();
        if idle {
            connection.abrupt_shutdown(Reason::NO_ERROR);
        }
        idle
    }

    /// When [`H2Conn::on_deadline`] is due.
    pub(crate) fn deadline_ms(&self) -> u64 {
        match (&self.state, self.pinged_ms) {
            (State::Handshaking(_), _) => self.since_ms + HANDSHAKE_MS,
            (_, Some(pinged_ms)) => pinged_ms + H2_PING_TIMEOUT_MS,
            (_, None) => self.heard_ms + H2_PING_EVERY_MS,
        }
    }

    /// Pings a silent client and gives up streams that take too long. False: the client is gone, or never
    /// was; otherwise [`H2Conn::drive`] follows.
    pub(crate) fn on_deadline(&mut self, now_ms: u64) -> bool {
        self.now_ms = now_ms;
        let overdue: Vec<u32> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.is_overdue(now_ms))
            .map(|(number, _)| *number)
            .collect();
        for number in overdue {
            if let Some(stream) = self.streams.get_mut(&number) {
                stream.reset(Reason::CANCEL);
            }
            self.abandon(number);
        }
        if now_ms < self.deadline_ms() {
            return true;
        }
        match &mut self.state {
            State::Handshaking(_) => false,
            State::Ended => true,
            State::Open { pings, .. } => {
                if self.pinged_ms.is_some() {
                    return false;
                }
                self.pinged_ms = Some(now_ms);
                if let Some(pings) = pings {
                    // Takes the last pong; where that is still to come, its ping serves for this one.
                    let _ = pings.poll_pong(&mut Context::from_waker(&self.waker));
                    let _ = pings.send_ping(Ping::opaque());
                }
                true
            }
        }
    }
}
