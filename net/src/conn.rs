//! One HTTP/1.1 connection: from bytes to requests, one at a time, and answers back in order (T-4).
//! Lives here: heads, bodies, what is skipped, `Expect`, deadlines.
//! Not here: sockets, what a request means (`exchange`), other connections.
//!
//! A request that is whole in one received buffer is parsed and split where it lies. Only one that
//! comes in pieces is collected first, and its memory grows with what arrived, never with what a header
//! announced.

use crate::exchange::{Edge, Exchange, Progress};
use crate::fault::Fault;
use crate::http::chunked::Decoder;
use crate::http::request::{BodyFraming, Head, HeadScanner, Limits, Parsed, Version, parse_head};
use crate::http::response::{self, DATE_BYTES, H1Sink, Persist};
use crate::limits::{BODIES_BYTES_MAX, OUTPUT_BACKLOG_BYTES_MAX};
use crate::message::{Answer, Caller};
use crate::service::Service;
use crate::streams::Ending;
use crate::ws::{self, Upgrade};

/// A connection may be idle, or send a head, this long (T-10).
pub(crate) const HEAD_MS: u64 = 60_000;
/// A body must come at this rate at least, after a first minute.
const BODY_BYTES_PER_MS: u64 = 16;
/// An answer must be taken at some rate: a client that takes nothing for this long is closed.
const STALLED_MS: u64 = 60_000;
/// Bytes of pipelined requests kept while one is in progress; then receiving pauses.
pub(crate) const INPUT_PAUSE_BYTES: usize = 256 << 10;

/// Where a connection becomes a WebSocket.
const WEB_SOCKET_PATH: &[u8] = b"/v0/ws";

/// What a core's connections share.
pub(crate) struct Shared {
    /// What requests share, whatever carries them.
    pub(crate) edge: Edge,
    pub(crate) limits: Limits,
    pub(crate) date: [u8; DATE_BYTES],
    /// The server is stopping: connections close after their answer.
    pub(crate) stopping: bool,
    /// Bytes of bodies that the connections are collecting.
    pub(crate) body_bytes: u64,
}

enum Phase {
    Head,
    /// Collecting a body; the head is kept to be read again.
    Body {
        head: Vec<u8>,
        body: Vec<u8>,
        left: Left,
        since_ms: u64,
    },
    /// Throwing a body away that nobody reads (T-16).
    Skip {
        left: Left,
        sink: Vec<u8>,
    },
    /// A request is in progress.
    Waiting,
    /// It was the last request: the connection is to become a WebSocket.
    Upgraded(Box<Upgrade>),
    /// Its answer is a stream, which ends with the connection or [`Conn::end_stream`].
    Streaming,
    /// Nothing more is read.
    Closing,
}

enum Left {
    Length(u64),
    Chunked(Box<Decoder>),
}

/// What follows from processing input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// More bytes, or an answer, are needed.
    Wait,
    /// Close when everything is sent.
    Close,
    /// The connection becomes a WebSocket: [`Conn::take_upgrade`].
    Upgrade,
}

/// See the module's text.
pub(crate) struct Conn {
    phase: Phase,
    scanner: HeadScanner,
    /// Received and not processed; from `input_at` on.
    input: Vec<u8>,
    input_at: usize,
    exchange: Exchange,
    persist: Persist,
    version: Version,
    /// A body to be thrown away once the answer in progress is out.
    skip_after: Option<Left>,
    /// Bytes that were to be sent when [`Conn::gets_more_time`] was last asked.
    backlog: usize,
    /// What this connection has in [`Shared::body_bytes`].
    collected: u64,
    /// Steady clock: closed when nothing came of it until then.
    pub(crate) deadline_ms: u64,
    pub(crate) paused: bool,
    pub(crate) peer_finished: bool,
}

impl Conn {
    /// Of a client that connected at `since_ms`.
    pub(crate) fn new(shared: &Shared, since_ms: u64) -> Conn {
        Conn {
            phase: Phase::Head,
            scanner: HeadScanner::new(),
            input: Vec::new(),
            input_at: 0,
            exchange: Exchange::new(shared.edge.started),
            persist: Persist::Open,
            version: Version::V11,
            skip_after: None,
            backlog: 0,
            collected: 0,
            deadline_ms: since_ms + HEAD_MS,
            paused: false,
            peer_finished: false,
        }
    }

    /// Whether a request is in progress.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting)
    }

    /// Whether its output belongs to a stream.
    pub(crate) fn is_streaming(&self) -> bool {
        matches!(self.phase, Phase::Streaming)
    }

    /// Whether the connection is between requests.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Head) && self.input_at == self.input.len()
    }

    /// Bytes kept for later.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.input.len() - self.input_at
    }

    /// Takes received bytes, after any that are kept.
    pub(crate) fn receive(
        &mut self,
        id: u64,
        bytes: &[u8],
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) -> Next {
        if self.input_at == self.input.len() {
            self.input.clear();
            self.input_at = 0;
            let (used, next) = self.process(id, bytes, out, service, shared);
            self.input.extend_from_slice(&bytes[used..]);
            return next;
        }
        self.input.extend_from_slice(bytes);
        self.resume(id, out, service, shared)
    }

    /// Goes on with bytes that were kept.
    pub(crate) fn resume(
        &mut self,
        id: u64,
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) -> Next {
        let input = std::mem::take(&mut self.input);
        let (used, next) = self.process(id, &input[self.input_at..], out, service, shared);
        self.input = input;
        self.input_at += used;
        if self.input_at == self.input.len() {
            self.input_at = 0;
            match self.input.capacity() > INPUT_PAUSE_BYTES {
                true => self.input = Vec::new(),
                false => self.input.clear(),
            }
        } else if self.input_at > INPUT_PAUSE_BYTES {
            self.input.drain(..self.input_at);
            self.input_at = 0;
        }
        next
    }

    /// Handles as many requests as it can; returns how many bytes it is done with.
    fn process(
        &mut self,
        id: u64,
        input: &[u8],
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) -> (usize, Next) {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            match &mut self.phase {
                Phase::Waiting | Phase::Streaming => return (at, Next::Wait),
                Phase::Upgraded(_) => return (at, Next::Upgrade),
                Phase::Closing => return (input.len(), Next::Close),
                Phase::Head => {
                    if rest.is_empty() || out.len() > OUTPUT_BACKLOG_BYTES_MAX {
                        return (at, Next::Wait);
                    }
                    match self.scanner.parse(rest, &shared.limits) {
                        // The rest of this head will never come.
                        Parsed::NeedMore if self.peer_finished => return (at, Next::Close),
                        Parsed::NeedMore => return (at, Next::Wait),
                        Parsed::Bad(framing) => {
                            service.counters.count_status(framing.status());
                            response::write_framing(out, framing, &shared.date);
                            self.phase = Phase::Closing;
                        }
                        Parsed::Head(head) => {
                            self.scanner = HeadScanner::new();
                            at += head.head_bytes;
                            let body = &input[at..];
                            at += self.begin(id, &head, &rest[..head.head_bytes], body, out, service, shared);
                        }
                    }
                }
                Phase::Body { body, left, since_ms, .. } => {
                    if rest.is_empty() && self.peer_finished {
                        let fault = Fault::invalid_request("the connection ended inside the body");
                        self.refuse_and_close(&fault, out, service, shared);
                        continue;
                    }
                    if rest.is_empty() {
                        return (at, Next::Wait);
                    }
                    let whole = match left {
                        Left::Length(bytes) => {
                            let take = (*bytes).min(rest.len() as u64) as usize;
                            body.extend_from_slice(&rest[..take]);
                            *bytes -= take as u64;
                            at += take;
                            *bytes == 0
                        }
                        Left::Chunked(decoder) => match decoder.push(rest, body) {
                            Ok(progress) => {
                                at += progress.consumed;
                                progress.done
                            }
                            Err(_) => {
                                let fault =
                                    Fault::invalid_request("the chunked body breaks off or is malformed");
                                self.refuse_and_close(&fault, out, service, shared);
                                continue;
                            }
                        },
                    };
                    let grown = body.len() as u64 - self.collected;
                    self.collected += grown;
                    shared.body_bytes += grown;
                    if shared.body_bytes > BODIES_BYTES_MAX && shared.body_bytes > self.collected {
                        // Others hold the memory: this one is told to come again.
                        self.refuse_and_close(&Fault::throttled(), out, service, shared);
                        continue;
                    }
                    if body.len() as u64 > shared.edge.max_body_bytes {
                        let fault = Fault::payload_too_large(shared.edge.max_body_bytes);
                        self.refuse_and_close(&fault, out, service, shared);
                        continue;
                    }
                    self.deadline_ms = *since_ms + HEAD_MS + body.len() as u64 / BODY_BYTES_PER_MS;
                    if whole {
                        let Phase::Body { head, body, .. } = std::mem::replace(&mut self.phase, Phase::Head)
                        else {
                            unreachable!("just matched")
                        };
                        let Parsed::Head(head) = parse_head(&head, &shared.limits) else {
                            unreachable!("it was parsed before")
                        };
                        self.give_back(shared);
                        self.handle(id, &head, &body, out, service, shared);
                    }
                }
                Phase::Skip { left, sink } => {
                    if rest.is_empty() {
                        return (at, Next::Wait);
                    }
                    let whole = match left {
                        Left::Length(bytes) => {
                            let take = (*bytes).min(rest.len() as u64) as usize;
                            *bytes -= take as u64;
                            at += take;
                            *bytes == 0
                        }
                        Left::Chunked(decoder) => match decoder.push(rest, sink) {
                            Ok(progress) => {
                                sink.clear();
                                at += progress.consumed;
                                progress.done
                            }
                            Err(_) => {
                                self.phase = Phase::Closing;
                                continue;
                            }
                        },
                    };
                    self.deadline_ms = shared.edge.steady_ms + HEAD_MS;
                    if whole {
                        self.phase = Phase::Head;
                    }
                }
            }
        }
    }

    /// A head is there. Returns how many bytes of `after` are used.
    #[allow(clippy::too_many_arguments)]
    fn begin(
        &mut self,
        id: u64,
        head: &Head<'_>,
        head_bytes: &[u8],
        after: &[u8],
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) -> usize {
        self.persist = if shared.stopping { Persist::Close } else { Persist::asked_by(head) };
        self.version = head.version;
        let takes_body = match self.exchange.begin(head, service, &shared.edge) {
            Ok(takes_body) => takes_body,
            Err(fault) => {
                if head.expect_continue {
                    // The client may send its body or not: nobody could tell what follows.
                    self.persist = Persist::Close;
                }
                self.refuse(&fault, out, service, shared);
                self.settle(shared);
                self.skip_body(head);
                return 0;
            }
        };
        if head.path == WEB_SOCKET_PATH && !takes_body {
            self.upgrade(head, head_bytes, out, service, shared);
            return 0;
        }
        if !takes_body {
            if head.expect_continue {
                self.persist = Persist::Close;
            }
            self.handle(id, head, &[], out, service, shared);
            self.skip_body(head);
            return 0;
        }
        match head.body {
            BodyFraming::None | BodyFraming::Length(0) => {
                self.handle(id, head, &[], out, service, shared);
                0
            }
            BodyFraming::Length(bytes) if bytes > shared.edge.max_body_bytes => {
                let fault = Fault::payload_too_large(shared.edge.max_body_bytes);
                self.refuse_and_close(&fault, out, service, shared);
                0
            }
            BodyFraming::Length(bytes) if bytes <= after.len() as u64 => {
                ask_for_body(head, out);
                self.handle(id, head, &after[..bytes as usize], out, service, shared);
                bytes as usize
            }
            framing => {
                ask_for_body(head, out);
                let left = match framing {
                    BodyFraming::Length(bytes) => Left::Length(bytes),
                    _ => Left::Chunked(Box::default()),
                };
                self.deadline_ms = shared.edge.steady_ms + HEAD_MS;
                self.phase = Phase::Body {
                    head: head_bytes.to_vec(),
                    body: Vec::new(),
                    left,
                    since_ms: shared.edge.steady_ms,
                };
                0
            }
        }
    }

    /// A whole request.
    fn handle(
        &mut self,
        id: u64,
        head: &Head<'_>,
        body: &[u8],
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) {
        self.phase = Phase::Head;
        self.deadline_ms = shared.edge.steady_ms + HEAD_MS;
        let caller = Caller::Request { conn: id, stream: 0 };
        let mut sink = H1Sink::new(out, &shared.date, self.persist, self.version);
        let progress = self.exchange.handle(caller, head, body, &mut sink, service, &mut shared.edge);
        self.progressed(progress, shared);
    }

    /// Grants a WebSocket, or says why not (WS-1, WS-2).
    fn upgrade(
        &mut self,
        head: &Head<'_>,
        head_bytes: &[u8],
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &Shared,
    ) {
        let start = out.len();
        let granted = match head.body {
            BodyFraming::None | BodyFraming::Length(0) => ws::accept(head_bytes, out, &shared.date),
            _ => Err("a request for a WebSocket has no body".into()),
        };
        match granted.map_err(Fault::invalid_request).and_then(|()| self.exchange.upgrade(service)) {
            Ok(upgrade) => self.phase = Phase::Upgraded(Box::new(upgrade)),
            Err(fault) => {
                out.truncate(start);
                if head.expect_continue {
                    self.persist = Persist::Close;
                }
                self.refuse(&fault, out, service, shared);
                self.settle(shared);
                self.skip_body(head);
            }
        }
    }

    /// After [`Next::Upgrade`]: what the WebSocket begins with, and the bytes that came behind its request.
    pub(crate) fn take_upgrade(&mut self) -> (Upgrade, Vec<u8>) {
        let Phase::Upgraded(upgrade) = std::mem::replace(&mut self.phase, Phase::Closing) else {
            unreachable!("told so")
        };
        (*upgrade, self.input.split_off(self.input_at))
    }

    fn progressed(&mut self, progress: Progress, shared: &Shared) {
        self.phase = match progress {
            Progress::Done => return self.settle(shared),
            Progress::Later => Phase::Waiting,
            Progress::Stream => Phase::Streaming,
        };
        // No answer is too late, and a client may take a stream as slowly as it likes (V-16).
        self.deadline_ms = u64::MAX;
    }

    /// Passes on what a stream has to say.
    pub(crate) fn write_stream(&self, bytes: &[u8], out: &mut Vec<u8>) {
        match self.version {
            Version::V10 => out.extend_from_slice(bytes),
            _ => response::push_chunk(out, bytes),
        }
    }

    /// The stream is over.
    pub(crate) fn end_stream(&mut self, ending: Ending, out: &mut Vec<u8>, shared: &Shared) {
        if self.version == Version::V11 {
            out.extend_from_slice(response::LAST_CHUNK);
        }
        self.settle(shared);
        if self.version == Version::V10 || ending == Ending::Failed {
            self.phase = Phase::Closing;
        }
    }

    /// An answer came for the request in progress.
    pub(crate) fn on_answer(
        &mut self,
        answer: Answer,
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) {
        if !self.is_waiting() {
            return; // the connection moved on: it failed meanwhile
        }
        let mut sink = H1Sink::new(out, &shared.date, self.persist, self.version);
        let progress = self.exchange.on_answer(answer, &mut sink, service, &mut shared.edge);
        self.progressed(progress, shared);
    }

    /// The answer is written; what comes next?
    fn settle(&mut self, shared: &Shared) {
        self.deadline_ms = shared.edge.steady_ms + HEAD_MS;
        self.phase = match self.skip_after.take() {
            _ if self.persist == Persist::Close || shared.stopping => Phase::Closing,
            Some(left) => Phase::Skip { left, sink: Vec::new() },
            None => Phase::Head,
        };
    }

    /// Whether everything was answered and the connection should go.
    pub(crate) fn wants_close(&self) -> bool {
        matches!(self.phase, Phase::Closing)
            || self.peer_finished && !self.is_waiting() && !matches!(self.phase, Phase::Head)
            || self.peer_finished && self.is_idle()
    }

    /// Answers the request that is being read.
    fn refuse(&mut self, fault: &Fault, out: &mut Vec<u8>, service: &mut Service, shared: &Shared) {
        let mut sink = H1Sink::new(out, &shared.date, self.persist, self.version);
        self.exchange.refuse(fault, &mut sink, service);
    }

    /// The unread body of `head` is passed over once its answer is out.
    fn skip_body(&mut self, head: &Head<'_>) {
        let left = match head.body {
            BodyFraming::None | BodyFraming::Length(0) => return,
            BodyFraming::Length(bytes) => Left::Length(bytes),
            BodyFraming::Chunked => Left::Chunked(Box::default()),
        };
        match self.phase {
            Phase::Head => self.phase = Phase::Skip { left, sink: Vec::new() },
            Phase::Waiting | Phase::Streaming => self.skip_after = Some(left),
            _ => {}
        }
    }

    fn refuse_and_close(
        &mut self,
        fault: &Fault,
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) {
        self.give_back(shared);
        self.persist = Persist::Close;
        self.refuse(fault, out, service, shared);
        self.phase = Phase::Closing;
    }

    /// What was collected of a body is let go, or will be in this call; the connection may also be gone.
    pub(crate) fn give_back(&mut self, shared: &mut Shared) {
        shared.body_bytes -= std::mem::take(&mut self.collected);
    }

    /// At its deadline: whether the client took some of its answers since it was last asked, and so gets
    /// more time. `backlog` is what is still to be sent.
    pub(crate) fn gets_more_time(&mut self, backlog: usize, steady_ms: u64) -> bool {
        let progress = backlog > 0 && backlog != self.backlog;
        self.backlog = backlog;
        if progress {
            self.deadline_ms = steady_ms + STALLED_MS;
        }
        progress
    }
}

/// The interim answer, also to a client that did not wait for it: T-5 makes no difference, and so the
/// answers do not depend on how the request was cut.
fn ask_for_body(head: &Head<'_>, out: &mut Vec<u8>) {
    if head.expect_continue {
        out.extend_from_slice(response::CONTINUE);
    }
}
