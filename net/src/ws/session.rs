//! One WebSocket: commands in, one after another (WS-7), and their answers. What its subscriptions bring
//! comes from [`streams`](crate::streams) between them.

use super::framing::{Framing, Incoming, push_text};
use crate::auth::{Access, Scopes};
use crate::caps::StreamHold;
use crate::conn::{Next, Shared};
use crate::exchange::body_fault;
use crate::fault::Fault;
use crate::handlers::append::{self, Seqs};
use crate::http::json_out::{write_str, write_u64};
use crate::json::watch::Start;
use crate::json::ws::{Action, Command, CommandError, PublishRequest, SubscribeRequest, parse_command};
use crate::limits::{BODIES_BYTES_MAX, OUTPUT_BACKLOG_BYTES_MAX, WS_SUBSCRIPTIONS_MAX};
use crate::message::{Answer, AppendAnswer, Caller};
use crate::service::{Handled, Resolved, Service};
use crate::streams::{Host, Opening, SocketCommand, StreamNews};
use runelog_engine::shard::AppendRequest;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// What a connection that becomes a WebSocket brings along.
pub(crate) struct Upgrade {
    pub(crate) access: Access,
    /// Its place among all streams (WS-3).
    pub(crate) hold: StreamHold,
}

/// A command that waits for its answer.
struct Waiting {
    /// As it was sent (WS-8).
    request_id: Box<[u8]>,
    what: What,
    began: Instant,
}

enum What {
    Publish { topic: Box<str>, return_seqs: bool },
    Subscribe(SubscribeRequest),
}

/// See the module's text.
pub(crate) struct Socket {
    framing: Framing,
    access: Access,
    waiting: Option<Waiting>,
    /// Kept by its stream.
    subscriptions: Arc<AtomicUsize>,
    /// What this connection has in [`Shared::body_bytes`].
    counted_bytes: u64,
    frame: Vec<u8>,
    /// No more commands are taken.
    stopping: bool,
    over: bool,
    pub(crate) paused: bool,
}

impl Socket {
    /// The `101` is written.
    pub(crate) fn new(id: u64, upgrade: Upgrade, shared: &mut Shared) -> Socket {
        let subscriptions = Arc::<AtomicUsize>::default();
        let opening = Opening::Socket { subscriptions: subscriptions.clone(), hold: upgrade.hold };
        shared.edge.news.push((Host { conn: id, stream: 0 }, StreamNews::Opened(Box::new(opening))));
        Socket {
            framing: Framing::new(),
            access: upgrade.access,
            waiting: None,
            subscriptions,
            counted_bytes: 0,
            frame: Vec::new(),
            stopping: false,
            over: false,
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
        self.framing.push(bytes);
        self.resume(id, out, service, shared)
    }

    /// Goes on with what was received.
    pub(crate) fn resume(
        &mut self,
        id: u64,
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) -> Next {
        while self.waiting.is_none() && !self.over && out.len() <= OUTPUT_BACKLOG_BYTES_MAX {
            if self.stopping {
                self.framing.close_away(out);
                self.over = true;
                break;
            }
            match self.framing.next(out) {
                None => break,
                Some(Incoming::Text(text)) => self.command(id, text.as_bytes(), out, service, shared),
                Some(Incoming::Binary) => self.send(
                    &[b"{\"op\":\"error\",\"code\":\"unsupported_message\",\
                        \"message\":\"commands are text messages\"}"],
                    out,
                ),
                Some(Incoming::End) => self.over = true,
            }
        }
        self.count_bytes(shared);
        if shared.body_bytes > BODIES_BYTES_MAX && shared.body_bytes > self.counted_bytes && self.is_large() {
            // Others hold the memory.
            self.framing.close_again(out);
            self.over = true;
        }
        match self.over {
            true => Next::Close,
            false => Next::Wait,
        }
    }

    /// Whether the connection is over but for what is to be sent.
    pub(crate) fn wants_close(&self) -> bool {
        self.over
    }

    /// Whether nothing can go on before an answer.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// The client sends nothing more, not even a close: it is gone.
    pub(crate) fn peer_finished(&mut self) {
        self.over = true;
    }

    /// Bytes received that no message was made of.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.framing.kept_bytes()
    }

    /// Passes on messages of its stream.
    pub(crate) fn write_stream(&self, frames: &[u8], out: &mut Vec<u8>) {
        if self.framing.is_open() {
            out.extend_from_slice(frames);
        }
    }

    /// Its stream is over: the server stops. The command that is at work is answered; [`Socket::resume`]
    /// follows.
    pub(crate) fn end_stream(&mut self) {
        self.stopping = true;
    }

    /// The connection is gone.
    pub(crate) fn give_back(&mut self, shared: &mut Shared) {
        shared.body_bytes -= std::mem::take(&mut self.counted_bytes);
    }

    /// Whether it holds more of a message than the connection's own buffers would.
    fn is_large(&self) -> bool {
        self.counted_bytes > crate::conn::INPUT_PAUSE_BYTES as u64
    }

    fn count_bytes(&mut self, shared: &mut Shared) {
        let bytes = self.framing.partial_bytes() as u64;
        shared.body_bytes = shared.body_bytes - self.counted_bytes + bytes;
        self.counted_bytes = bytes;
    }

    fn command(
        &mut self,
        id: u64,
        message: &[u8],
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) {
        let caller = Caller::Request { conn: id, stream: 0 };
        match parse_command(message, &mut shared.edge.scratch) {
            Err(CommandError::InvalidJson(error)) => {
                self.error(b"null", "invalid_json", &error.to_string(), out);
            }
            Err(CommandError::Refused { request_id, error }) => {
                self.refuse(request_id, &body_fault(&error), out, service);
            }
            Ok(Command { request_id, action }) => {
                let done = match action {
                    Action::Ping => {
                        self.send(&[b"{\"op\":\"pong\",\"request_id\":", request_id, b"}"], out);
                        Ok(())
                    }
                    Action::Unsubscribe(names) => self.unsubscribe(id, request_id, names, out, shared),
                    Action::Subscribe(request) => {
                        self.subscribe(caller, request_id, request, service, shared)
                    }
                    Action::Publish(request) => {
                        self.publish(caller, request_id, request, message, out, service, shared)
                    }
                };
                if let Err(fault) = done {
                    self.refuse(request_id, &fault, out, service);
                }
            }
        }
    }

    fn unsubscribe(
        &mut self,
        id: u64,
        request_id: &[u8],
        names: Vec<Box<str>>,
        out: &mut Vec<u8>,
        shared: &mut Shared,
    ) -> Result<(), Fault> {
        // No scope is needed, but the names of others are not even spoken of (WS-22).
        names.iter().try_for_each(|topic| self.access.needs_topic(topic))?;
        let mut frame = self.begin(b"unsubscribed", request_id);
        frame.extend_from_slice(b",\"topics\":[");
        for (at, name) in names.iter().enumerate() {
            if at > 0 {
                frame.push(b',');
            }
            write_str(&mut frame, name);
        }
        self.end(frame, b"]}", out);
        let host = Host { conn: id, stream: 0 };
        shared.edge.news.push((host, StreamNews::Socket(SocketCommand::Unsubscribe(names))));
        Ok(())
    }

    fn subscribe(
        &mut self,
        caller: Caller,
        request_id: &[u8],
        request: SubscribeRequest,
        service: &mut Service,
        shared: &Shared,
    ) -> Result<(), Fault> {
        self.access.needs(Scopes::READ)?;
        request.topics.keys().try_for_each(|topic| self.access.needs_topic(topic))?;
        if self.subscriptions.load(Ordering::Relaxed) + request.topics.len() > WS_SUBSCRIPTIONS_MAX {
            return Err(Fault::throttled());
        }
        service.resolve_topics(caller, request.topics.keys().cloned().collect());
        self.wait(request_id, What::Subscribe(request), shared.edge.started);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    fn publish(
        &mut self,
        caller: Caller,
        request_id: &[u8],
        request: PublishRequest,
        message: &[u8],
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) -> Result<(), Fault> {
        let PublishRequest { topic, return_seqs, write } = request;
        self.access.needs(Scopes::WRITE)?;
        if let Some(config) = &write.config {
            self.access.needs(Scopes::ADMIN)?;
            config.dead_letter.as_deref().map_or(Ok(()), |name| self.access.needs_topic(name))?;
        }
        self.access.needs_topic(&topic)?;
        if message.len() as u64 > shared.edge.max_body_bytes {
            return Err(Fault::payload_too_large(shared.edge.max_body_bytes));
        }
        write.check_limits(None).map_err(|error| body_fault(&error))?;
        let config = write.config.map(|config| config.normalise());
        let batch = shared.edge.scratch.batch(message);
        let key = write.idempotency_key.of(batch.body, batch.side);
        let append = AppendRequest {
            topic: topic.as_bytes(),
            batch,
            key,
            create: write.create,
            config: config.as_ref(),
        };
        let handled = service.append(caller, &topic, &append, None);
        self.wait(request_id, What::Publish { topic, return_seqs }, shared.edge.started);
        if let Handled::Now(answer) = handled {
            let Caller::Request { conn, .. } = caller else { unreachable!("made so") };
            self.on_answer(conn, answer, out, service, shared);
        }
        Ok(())
    }

    fn wait(&mut self, request_id: &[u8], what: What, began: Instant) {
        self.waiting = Some(Waiting { request_id: request_id.into(), what, began });
    }

    /// The answer to the command that is at work; [`Socket::resume`] follows.
    pub(crate) fn on_answer(
        &mut self,
        id: u64,
        answer: Answer,
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) {
        let Some(Waiting { request_id, what, began }) = self.waiting.take() else { return };
        match (what, answer) {
            (_, Answer::Fault(fault, carrier)) => {
                self.refuse(&request_id, &fault, out, service);
                service.reuse(carrier);
            }
            (What::Publish { topic, return_seqs }, Answer::Append(answer, carrier)) => {
                self.ack(&request_id, &topic, &answer, return_seqs, began, out);
                service.reuse(carrier);
            }
            (What::Subscribe(request), Answer::Resolved(found)) => {
                match subscribed(self.begin(b"subscribed", &request_id), request, found) {
                    Ok((frame, command)) => {
                        self.end(frame, b"}", out);
                        shared.edge.news.push((Host { conn: id, stream: 0 }, StreamNews::Socket(command)));
                    }
                    Err(fault) => self.refuse(&request_id, &fault, out, service),
                }
            }
            _ => unreachable!("no answer to what was asked"),
        }
    }

    fn ack(
        &mut self,
        request_id: &[u8],
        topic: &str,
        answer: &AppendAnswer,
        return_seqs: bool,
        began: Instant,
        out: &mut Vec<u8>,
    ) {
        let mut frame = self.begin(b"ack", request_id);
        frame.push(b',');
        let seqs = if return_seqs { Seqs::Listed } else { Seqs::Null };
        append::render_members(&mut frame, topic, answer, seqs, began.elapsed().as_nanos() as u64);
        self.end(frame, b"}", out);
    }

    /// WS-21: the codes of HTTP, without detail.
    fn refuse(&mut self, request_id: &[u8], fault: &Fault, out: &mut Vec<u8>, service: &mut Service) {
        service.counters.count_refusal(fault);
        self.error(request_id, fault.code().name(), fault.message(), out);
    }

    fn error(&mut self, request_id: &[u8], code: &str, message: &str, out: &mut Vec<u8>) {
        let mut frame = self.begin(b"error", request_id);
        frame.extend_from_slice(b",\"code\":");
        write_str(&mut frame, code);
        frame.extend_from_slice(b",\"message\":");
        write_str(&mut frame, message);
        self.end(frame, b"}", out);
    }

    /// The beginning of an answer, in memory that [`Socket::end`] takes back.
    fn begin(&mut self, op: &[u8], request_id: &[u8]) -> Vec<u8> {
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        for part in [&b"{\"op\":\""[..], op, b"\",\"request_id\":", request_id] {
            frame.extend_from_slice(part);
        }
        frame
    }

    fn end(&mut self, frame: Vec<u8>, rest: &[u8], out: &mut Vec<u8>) {
        self.send(&[&frame, rest], out);
        self.frame = frame;
        self.frame.clear();
        self.frame.shrink_to(crate::limits::WS_READ_BUFFER_BYTES);
    }

    fn send(&self, parts: &[&[u8]], out: &mut Vec<u8>) {
        if self.framing.is_open() {
            push_text(parts, out);
        }
    }
}

/// The answer to a `subscribe` without its end, and what follows from it.
fn subscribed(
    mut frame: Vec<u8>,
    request: SubscribeRequest,
    found: Resolved,
) -> Result<(Vec<u8>, SocketCommand), Fault> {
    frame.extend_from_slice(b",\"topics\":{");
    let mut topics = Vec::with_capacity(found.len());
    for ((name, start), found) in request.topics.into_iter().zip(found) {
        let Some((head_seq, earliest_seq)) = found else {
            match request.lenient {
                true => continue,
                false => return Err(Fault::topic_not_found(&name)), // WS-24
            }
        };
        let Start { from_seq, tail } = start;
        let from_seq = if tail { head_seq } else { from_seq };
        if !topics.is_empty() {
            frame.push(b',');
        }
        write_str(&mut frame, &name);
        for (member, number) in [
            (&b":{\"from_seq\":"[..], from_seq),
            (b",\"head_seq\":", head_seq),
            (b",\"earliest_seq\":", earliest_seq),
        ] {
            frame.extend_from_slice(member);
            write_u64(&mut frame, number);
        }
        frame.push(b'}');
        topics.push((name, from_seq));
    }
    frame.push(b'}');
    Ok((frame, SocketCommand::Subscribe { topics, options: Arc::new(request.delivery) }))
}
