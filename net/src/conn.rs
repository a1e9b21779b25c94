//! One HTTP/1.1 connection: from bytes to requests, one at a time, and answers back in order (T-4).
//! Lives here: heads, bodies, what is skipped, `Expect`, deadlines, the order of checks (B-1).
//! Not here: sockets, what an operation does (`service`), other connections.
//!
//! A request that is whole in one received buffer is parsed and split where it lies. Only one that
//! comes in pieces is collected first, and its memory grows with what arrived, never with what a header
//! announced.

mod answers;

use crate::fault::Fault;
use crate::http::chunked::Decoder;
use crate::http::cursor;
use crate::http::json_out::write_u64;
use crate::http::query;
use crate::http::request::{
    BodyFraming, Head, HeadScanner, Limits, Method, Parsed, is_json_media, parse_head,
};
use crate::http::response::{self, DATE_BYTES, JSON, Persist};
use crate::json::BodyError;
use crate::json::config::parse_config;
use crate::json::control::{parse_delete, parse_diff};
use crate::json::write::{WriteScratch, parse_write};
use crate::limits::{BODIES_BYTES_MAX, OUTPUT_BACKLOG_BYTES_MAX};
use crate::message::{DeleteOp, ListEntry, ListOp, Op};
use crate::metrics::ShardReport;
use crate::route::{Route, Routed, route};
use crate::service::{Handled, Service};
use runelog_engine::limits::BATCH_RECORDS_MAX;
use runelog_engine::shard::AppendRequest;
use std::time::Instant;

/// A connection may be idle, or send a head, this long (T-10).
const HEAD_MS: u64 = 60_000;
/// A body must come at this rate at least, after a first minute.
const BODY_BYTES_PER_MS: u64 = 16;
/// An answer must be taken at some rate: a client that takes nothing for this long is closed.
const STALLED_MS: u64 = 60_000;
/// Bytes of pipelined requests kept while one is in progress; then receiving pauses.
pub(crate) const INPUT_PAUSE_BYTES: usize = 256 << 10;

/// What a core's connections share.
pub(crate) struct Shared {
    /// Largest body (L-8); 0 refuses every non-empty one.
    pub(crate) max_body_bytes: u64,
    pub(crate) scratch: WriteScratch,
    pub(crate) limits: Limits,
    pub(crate) date: [u8; DATE_BYTES],
    pub(crate) steady_ms: u64,
    pub(crate) started: Instant,
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
    Waiting(Pending),
    /// Nothing more is read.
    Closing,
}

enum Left {
    Length(u64),
    Chunked(Box<Decoder>),
}

/// What the answer in progress is made of.
enum Pending {
    /// One answer.
    One,
    /// One part from each core. All are waited for even if one is a refusal, so that no part can be
    /// taken for one of the next request.
    Parts { left: usize, parts: Parts, refused: Option<Box<Fault>> },
}

/// Parts collected so far, and what they are for.
enum Parts {
    List { entries: Vec<ListEntry>, page_size: usize },
    Metrics { reports: Vec<ShardReport>, json: bool },
    Ready { reports: Vec<ShardReport> },
}

/// What follows from processing input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// More bytes, or an answer, are needed.
    Wait,
    /// Close when everything is sent.
    Close,
}

/// See the module's text.
pub(crate) struct Conn {
    phase: Phase,
    scanner: HeadScanner,
    /// Received and not processed; from `input_at` on.
    input: Vec<u8>,
    input_at: usize,
    topic: String,
    persist: Persist,
    omit_body: bool,
    return_seqs: bool,
    /// A body to be thrown away once the answer in progress is out.
    skip_after: Option<Left>,
    /// Bytes that were to be sent when [`Conn::gets_more_time`] was last asked.
    backlog: usize,
    /// What this connection has in [`Shared::body_bytes`].
    collected: u64,
    began: Instant,
    /// Steady clock: closed when nothing came of it until then.
    pub(crate) deadline_ms: u64,
    pub(crate) paused: bool,
    pub(crate) peer_finished: bool,
}

impl Conn {
    pub(crate) fn new(shared: &Shared) -> Conn {
        Conn {
            phase: Phase::Head,
            scanner: HeadScanner::new(),
            input: Vec::new(),
            input_at: 0,
            topic: String::new(),
            persist: Persist::Open,
            omit_body: false,
            return_seqs: true,
            skip_after: None,
            backlog: 0,
            collected: 0,
            began: shared.started,
            deadline_ms: shared.steady_ms + HEAD_MS,
            paused: false,
            peer_finished: false,
        }
    }

    /// Whether a request is in progress.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting(_))
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
                Phase::Waiting(_) => return (at, Next::Wait),
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
                    if body.len() as u64 > shared.max_body_bytes {
                        let fault = Fault::payload_too_large(shared.max_body_bytes);
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
                    self.deadline_ms = shared.steady_ms + HEAD_MS;
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
        self.omit_body = head.method == Method::Head;
        self.began = shared.started;
        let target = match route(head.method, head.path) {
            Routed::To(target) => target,
            Routed::NotFound => return self.refuse_unread(Fault::not_found(), head, out, service, shared),
            Routed::MethodNotAllowed(allow) => {
                return self.refuse_unread(Fault::method_not_allowed(allow), head, out, service, shared);
            }
        };
        if let Some(segment) = target.topic() {
            let mut scratch = Vec::new(); // allocates for escaped names only
            match segment.decode(&mut scratch) {
                Ok(name) => {
                    self.topic.clear();
                    self.topic.push_str(name);
                }
                Err(bad) => return self.refuse_unread(bad.fault(), head, out, service, shared),
            }
        }
        if !target.takes_body() {
            if head.expect_continue {
                self.persist = Persist::Close; // as in `refuse_unread`
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
            BodyFraming::Length(bytes) if bytes > shared.max_body_bytes => {
                let fault = Fault::payload_too_large(shared.max_body_bytes);
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
                self.deadline_ms = shared.steady_ms + HEAD_MS;
                self.phase = Phase::Body {
                    head: head_bytes.to_vec(),
                    body: Vec::new(),
                    left,
                    since_ms: shared.steady_ms,
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
        let Routed::To(target) = route(head.method, head.path) else { unreachable!("routed before") };
        service.counters.requests += 1;
        self.phase = Phase::Head;
        self.deadline_ms = shared.steady_ms + HEAD_MS;
        let handled = self.dispatch(id, head, &target, body, out, service, shared);
        match handled {
            Ok(Some(Handled::Now(answer))) => self.answer(answer, out, service, shared),
            Ok(Some(Handled::Later)) => {
                if !self.is_waiting() {
                    self.phase = Phase::Waiting(Pending::One);
                }
                self.deadline_ms = u64::MAX;
            }
            Ok(None) => self.settle(shared),
            Err(fault) => {
                self.write_fault(&fault, out, service, shared);
                self.settle(shared);
            }
        }
    }

    /// `Ok(None)`: the answer was written.
    #[allow(clippy::too_many_arguments)]
    fn dispatch(
        &mut self,
        id: u64,
        head: &Head<'_>,
        target: &Route<'_>,
        body: &[u8],
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) -> Result<Option<Handled>, Fault> {
        let json = || match is_json_media(head.content_type) {
            true => Ok(()),
            false => Err(Fault::unsupported_media_type()),
        };
        let handled = match target {
            Route::Append(_) => {
                json()?;
                let Shared { scratch, .. } = shared;
                let write = parse_write(body, scratch).map_err(|error| body_fault(&error))?;
                let header_key = head.idempotency_key.map(str::as_bytes);
                write.check_limits(header_key).map_err(|error| body_fault(&error))?;
                self.return_seqs = query::query_bool(head.query, "return_seqs", true);
                let config = write.config.map(|config| config.normalise());
                let batch = scratch.batch(body);
                let key = write.idempotency_key.of(batch.body, batch.side).or(header_key);
                let request = AppendRequest {
                    topic: self.topic.as_bytes(),
                    batch,
                    key,
                    create: write.create,
                    config: config.as_ref(),
                };
                service.append(id, &self.topic, &request)
            }
            Route::Diff(_) => {
                if !body.is_empty() {
                    json()?;
                }
                let request = parse_diff(body).map_err(|error| body_fault(&error))?;
                let mark = response::begin(out, 200, JSON, &shared.date, self.persist);
                match service.diff(id, &self.topic, request, out) {
                    Ok(scanned) => {
                        self.end_object(out, Some(scanned));
                        response::finish(out, mark, self.omit_body);
                        service.counters.count_status(200);
                        return Ok(None);
                    }
                    Err(handled) => {
                        out.truncate(mark.start());
                        handled
                    }
                }
            }
            Route::DeleteRecords(_) => {
                json()?;
                let request = parse_delete(body).map_err(|error| body_fault(&error))?;
                let op = DeleteOp { topic: self.topic.as_str().into(), request, deletion: None };
                service.operate(id, &self.topic, Op::Delete(Box::new(op)))
            }
            Route::PutTopic(_) => {
                let request = match body.is_empty() {
                    true => Default::default(),
                    false => {
                        json()?;
                        parse_config(body).map_err(|error| body_fault(&error))?
                    }
                };
                let config = Box::new(request.normalise());
                service.operate(id, &self.topic, Op::PutTopic { topic: self.topic.as_str().into(), config })
            }
            Route::GetTopic(_) => {
                let touch = query::query_bool(head.query, "touch", true);
                service.operate(id, &self.topic, Op::GetTopic { topic: self.topic.as_str().into(), touch })
            }
            Route::DeleteTopic(_) => {
                let if_empty = query::query_bool(head.query, "if_empty", false);
                let op = Op::DropTopic { topic: self.topic.as_str().into(), if_empty };
                service.operate(id, &self.topic, op)
            }
            Route::ListTopics => {
                let page_size = query::page_size(head.query);
                let cursor = query::query_str(head.query, "cursor").unwrap_or_default();
                let mut scratch = Vec::new();
                let after = cursor::decode(&cursor, &mut scratch)
                    .map_err(|_| Fault::invalid_request("`cursor` is not one that this server gave out"))?
                    .map(|name| name.as_bytes().to_vec());
                let prefix = query::query_str(head.query, "prefix").unwrap_or_default();
                let op = ListOp {
                    prefix: prefix.as_bytes().to_vec(),
                    after,
                    limit: page_size + 1,
                    touch: query::query_bool(head.query, "touch", false),
                };
                self.wait_for_parts(service, Parts::List { entries: Vec::new(), page_size });
                service.operate_everywhere(id, || Op::List(Box::new(op.clone())));
                Handled::Later
            }
            Route::Metrics => {
                let json = head
                    .accept
                    .is_some_and(|accept| accept.windows(16).any(|window| window == b"application/json"));
                self.wait_for_parts(service, Parts::Metrics { reports: Vec::new(), json });
                service.operate_everywhere(id, || Op::Report);
                Handled::Later
            }
            Route::Health => {
                let mark = response::begin(out, 200, JSON, &shared.date, self.persist);
                out.extend_from_slice(b"{\"status\":\"ok\",\"version\":\"");
                out.extend_from_slice(env!("CARGO_PKG_VERSION").as_bytes());
                out.extend_from_slice(b"\",\"uptime_ms\":");
                write_u64(out, shared.steady_ms);
                out.push(b'}');
                response::finish(out, mark, self.omit_body);
                service.counters.count_status(200);
                return Ok(None);
            }
            Route::Ready => {
                self.wait_for_parts(service, Parts::Ready { reports: Vec::new() });
                service.operate_everywhere(id, || Op::Report);
                Handled::Later
            }
        };
        Ok(Some(handled))
    }

    fn wait_for_parts(&mut self, service: &Service, parts: Parts) {
        self.phase = Phase::Waiting(Pending::Parts { left: service.cores(), parts, refused: None });
    }

    /// Answers without having read the body (T-5), which is then thrown away; a client that waits for
    /// a `100` may send it or not, so its connection ends.
    fn refuse_unread(
        &mut self,
        fault: Fault,
        head: &Head<'_>,
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &Shared,
    ) -> usize {
        service.counters.requests += 1;
        if head.expect_continue {
            self.persist = Persist::Close;
        }
        self.write_fault(&fault, out, service, shared);
        self.settle(shared);
        self.skip_body(head);
        0
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
            Phase::Waiting(_) => self.skip_after = Some(left),
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
        self.write_fault(fault, out, service, shared);
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

fn body_fault(error: &BodyError) -> Fault {
    match error {
        BodyError::BatchTooLarge => Fault::batch_too_large(BATCH_RECORDS_MAX),
        BodyError::RecordTooLarge(_) => Fault::record_too_large(error.to_string()),
        BodyError::Invalid(_) => Fault::invalid_request(error.to_string()),
    }
}
