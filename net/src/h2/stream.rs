//! One stream of an HTTP/2 connection: a request on its way in, its answer on its way out.
//! Lives here: the body as it comes, the bytes that wait for the client's window.
//! Not here: which streams there are, and when they are looked at (`conn`).

use super::wake::StreamWake;
use crate::limits::{H2_DISCARD_BYTES_MAX, H2_STALLED_MS};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::request::Parts;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// A body may take this long to come…
const BODY_MS: u64 = 60_000;
/// …and longer if it comes at this rate at least.
const BODY_BYTES_PER_MS: u64 = 16;

/// What is done with the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taking {
    /// Nobody has asked yet: the client's window holds it back.
    Nothing,
    Collecting,
    /// Nobody wants it (T-16): it is let through, so that a client that sends before it reads gets to
    /// its answer.
    Discarding {
        bytes: usize,
    },
    /// There is no more.
    Over,
}

enum Sending {
    /// No answer yet.
    Awaited(SendResponse<Bytes>),
    /// The head is out. `last`: no more bytes will be added.
    Body { stream: SendStream<Bytes>, last: bool },
    /// `h2` has everything.
    Done,
}

/// A body that came in one frame is used where it lies.
pub(crate) enum Body {
    One(Bytes),
    Collected(Vec<u8>),
}

impl std::ops::Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Body::One(bytes) => bytes,
            Body::Collected(bytes) => bytes,
        }
    }
}

/// What looking at a stream came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Came {
    /// The body is whole.
    pub(super) whole: bool,
    /// It is larger than allowed; the rest is let through.
    pub(super) too_large: bool,
    /// Everything that was to be sent is with `h2`, and more may be added.
    pub(super) drained: bool,
    /// The client gave the stream up, or it broke a rule.
    pub(super) gone: bool,
    /// Bytes of the body kept since it was last looked at; negative when let go.
    pub(super) collected_bytes: i64,
}

pub(super) struct Stream {
    /// Until it is taken.
    pub(super) parts: Option<Box<Parts>>,
    recv: RecvStream,
    taking: Taking,
    body: Body,
    sending: Sending,
    /// On its way, then what was added behind it.
    queue: Bytes,
    next: Vec<u8>,
    wake: Arc<StreamWake>,
    waker: Waker,
    since_ms: u64,
    /// When the client last took something of the answer.
    moved_ms: u64,
}

impl Stream {
    pub(super) fn new(
        parts: Parts,
        recv: RecvStream,
        send: SendResponse<Bytes>,
        wake: Arc<StreamWake>,
        now_ms: u64,
    ) -> Stream {
        Stream {
            parts: Some(Box::new(parts)),
            taking: if recv.is_end_stream() { Taking::Over } else { Taking::Nothing },
            recv,
            body: Body::Collected(Vec::new()),
            sending: Sending::Awaited(send),
            queue: Bytes::new(),
            next: Vec::new(),
            waker: wake.waker(),
            wake,
            since_ms: now_ms,
            moved_ms: now_ms,
        }
    }

    /// Whether the request came with a body that is not whole yet.
    pub(super) fn awaits_body(&self) -> bool {
        self.taking != Taking::Over
    }

    /// From now on the body is kept.
    pub(super) fn collect(&mut self) {
        if self.taking == Taking::Nothing {
            self.taking = Taking::Collecting;
        }
    }

    /// What was kept of the body is let go, and no more of it is. Returns how many bytes that were.
    pub(super) fn discard(&mut self) -> u64 {
        if self.taking != Taking::Over {
            self.taking = Taking::Discarding { bytes: 0 };
        }
        self.take_body().len() as u64
    }

    /// What was kept of the body.
    pub(super) fn take_body(&mut self) -> Body {
        std::mem::replace(&mut self.body, Body::Collected(Vec::new()))
    }

    /// Asks the client to go on with the body (T-5).
    pub(super) fn send_continue(&mut self) {
        if let Sending::Awaited(send) = &mut self.sending {
            let mut head = http::Response::new(());
            *head.status_mut() = http::StatusCode::CONTINUE;
            let _ = send.send_informational(head); // refused only if the stream is gone, which is told
        }
    }

    /// Sends the head of the answer. Without `more` and without a body that ends the stream.
    pub(super) fn respond(&mut self, head: http::Response<()>, body: Vec<u8>, more: bool, now_ms: u64) {
        let Sending::Awaited(send) = &mut self.sending else { return };
        let over = body.is_empty() && !more;
        self.sending = match send.send_response(head, over) {
            Ok(stream) if !over => Sending::Body { stream, last: !more },
            _ => Sending::Done,
        };
        self.queue = Bytes::from(body);
        self.moved_ms = now_ms;
        self.flush(now_ms);
    }

    /// Where the bytes of a body that is sent as it comes are appended; [`Stream::flush`] follows.
    pub(super) fn output(&mut self) -> Option<&mut Vec<u8>> {
        match &self.sending {
            Sending::Body { last: false, .. } => Some(&mut self.next),
            _ => None,
        }
    }

    /// Such a body ends here.
    pub(super) fn finish(&mut self, now_ms: u64) {
        if let Sending::Body { last, .. } = &mut self.sending {
            *last = true;
            self.flush(now_ms);
        }
    }

    pub(super) fn reset(&mut self, reason: Reason) {
        match &mut self.sending {
            Sending::Awaited(send) => send.send_reset(reason),
            Sending::Body { stream, .. } => stream.send_reset(reason),
            Sending::Done => {}
        }
        self.sending = Sending::Done;
        self.taking = Taking::Over;
    }

    /// Bytes that wait for the client.
    pub(super) fn backlog(&self) -> usize {
        self.queue.len() + self.next.len()
    }

    /// Whether there is nothing left to do but what `h2` does.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.sending, Sending::Done) && self.taking == Taking::Over
    }

    /// Whether the answer is with `h2` as a whole.
    pub(super) fn is_answered(&self) -> bool {
        matches!(self.sending, Sending::Done)
    }

    /// Hands over as much of the answer as the client's window takes.
    pub(super) fn flush(&mut self, now_ms: u64) {
        let Sending::Body { stream, last } = &mut self.sending else { return };
        let mut context = Context::from_waker(&self.waker);
        loop {
            if self.queue.is_empty() {
                self.queue = Bytes::from(std::mem::take(&mut self.next));
            }
            if self.queue.is_empty() {
                if *last {
                    let _ = stream.send_data(Bytes::new(), true);
                    self.sending = Sending::Done;
                }
                return;
            }
            stream.reserve_capacity(self.queue.len());
            let capacity = stream.capacity();
            if capacity == 0 {
                match stream.poll_capacity(&mut context) {
                    Poll::Ready(Some(Ok(_))) if stream.capacity() > 0 => continue,
                    // Asked again, so that the waker is in its place.
                    Poll::Ready(Some(Ok(_))) => match stream.poll_capacity(&mut context) {
                        Poll::Ready(Some(Ok(_))) if stream.capacity() > 0 => continue,
                        _ => return,
                    },
                    // The stream is gone, which `poll` finds.
                    Poll::Ready(Some(Err(_)) | None) | Poll::Pending => return,
                }
            }
            let chunk = self.queue.split_to(capacity.min(self.queue.len()));
            let end = *last && self.queue.is_empty() && self.next.is_empty();
            self.moved_ms = now_ms;
            if stream.send_data(chunk, end).is_err() || end {
                self.queue = Bytes::new();
                self.next = Vec::new();
                self.sending = Sending::Done;
                return;
            }
        }
    }

    /// Looks at everything that may have happened to the stream.
    pub(super) fn poll(&mut self, body_bytes_max: u64, now_ms: u64) -> Came {
        self.wake.clear();
        let mut came = Came::default();
        self.poll_body(body_bytes_max, &mut came);
        let backlog = self.backlog();
        self.flush(now_ms);
        came.drained = backlog > 0 && self.backlog() == 0 && !self.is_answered();
        let mut context = Context::from_waker(&self.waker);
        let reset = match &mut self.sending {
            Sending::Awaited(send) => send.poll_reset(&mut context),
            Sending::Body { stream, .. } => stream.poll_reset(&mut context),
            Sending::Done => Poll::Pending,
        };
        came.gone |= reset.is_ready();
        came
    }

    fn poll_body(&mut self, body_bytes_max: u64, came: &mut Came) {
        let waker = self.waker.clone();
        let mut context = Context::from_waker(&waker);
        while matches!(self.taking, Taking::Collecting | Taking::Discarding { .. }) {
            let chunk = match self.recv.poll_data(&mut context) {
                Poll::Pending => return,
                Poll::Ready(Some(Ok(chunk))) => chunk,
                Poll::Ready(None) => {
                    came.whole = self.taking == Taking::Collecting;
                    self.taking = Taking::Over;
                    return;
                }
                Poll::Ready(Some(Err(_))) => {
                    came.gone = !self.is_answered();
                    self.taking = Taking::Over;
                    return;
                }
            };
            // Its memory is ours now; the window is open again.
            let _ = self.recv.flow_control().release_capacity(chunk.len());
            if let Taking::Discarding { bytes } = &mut self.taking {
                *bytes += chunk.len();
                if *bytes > H2_DISCARD_BYTES_MAX && self.is_answered() {
                    self.taking = Taking::Over; // dropped with the stream, which tells the client
                    return;
                }
            } else if (self.body.len() + chunk.len()) as u64 > body_bytes_max {
                came.collected_bytes -= self.discard() as i64;
                came.too_large = true;
            } else {
                came.collected_bytes += chunk.len() as i64;
                self.keep(chunk);
            }
        }
    }

    fn keep(&mut self, chunk: Bytes) {
        match &mut self.body {
            Body::Collected(bytes) if bytes.is_empty() && self.recv.is_end_stream() => {
                self.body = Body::One(chunk);
            }
            // Copied: a small piece would keep the whole buffer alive that it came in.
            Body::Collected(bytes) => bytes.extend_from_slice(&chunk),
            Body::One(_) => unreachable!("nothing follows the last frame"),
        }
    }

    /// Whether the client takes too long: with its body, or with an answer that is whole.
    pub(super) fn is_overdue(&self, now_ms: u64) -> bool {
        let sending = match &self.sending {
            Sending::Body { last: true, .. } => now_ms > self.moved_ms + H2_STALLED_MS,
            _ => false,
        };
        let taking = match self.taking {
            Taking::Collecting => {
                now_ms > self.since_ms + BODY_MS + self.body.len() as u64 / BODY_BYTES_PER_MS
            }
            Taking::Discarding { .. } => self.is_answered() && now_ms > self.moved_ms + BODY_MS,
            Taking::Nothing | Taking::Over => false,
        };
        sending || taking
    }
}
