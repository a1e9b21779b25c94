//! What a connection speaks, found out from its first bytes (T-1), and what the worker's loop needs of it
//! whatever that is.

use crate::conn::{Conn, Next, Shared};
use crate::h2::{H2, PREFACE};
use crate::message::Answer;
use crate::service::Service;
use crate::streams::Ending;
use crate::ws::Socket;

/// A connection. HTTP/1.1 lies here as it is: it is the usual one.
#[allow(clippy::large_enum_variant, reason = "the usual one is not behind a pointer")]
pub(crate) enum Carrier {
    /// Nothing came yet, or the beginning of what HTTP/2 begins with.
    New(New),
    /// HTTP/1.1.
    H1(Conn),
    /// HTTP/2.
    H2(Box<H2>),
    /// A WebSocket, which was HTTP/1.1 before.
    Ws(Box<Socket>),
}

/// Bytes that may become the preface of HTTP/2.
pub(crate) struct New {
    kept: Vec<u8>,
    since_ms: u64,
    peer_finished: bool,
}

/// What a connection's deadline comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// It has more time.
    Stays,
    /// Its time is over.
    Close,
    /// Something is to be sent: [`Carrier::resume`].
    Resume,
}

impl Carrier {
    pub(crate) fn new(shared: &Shared) -> Carrier {
        Carrier::New(New { kept: Vec::new(), since_ms: shared.edge.steady_ms, peer_finished: false })
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
        match self {
            Carrier::H1(conn) => match conn.receive(id, bytes, out, service, shared) {
                Next::Upgrade => self.upgrade(id, out, service, shared),
                next => next,
            },
            Carrier::H2(conn) => conn.receive(id, bytes, out, service, shared),
            Carrier::Ws(conn) => conn.receive(id, bytes, out, service, shared),
            Carrier::New(_) => self.receive_first(id, bytes, out, service, shared),
        }
    }

    #[cold]
    fn receive_first(
        &mut self,
        id: u64,
        bytes: &[u8],
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) -> Next {
        let Carrier::New(new) = self else { unreachable!("asked for") };
        let kept = std::mem::take(&mut new.kept);
        let joined;
        let first = if kept.is_empty() {
            bytes
        } else {
            joined = [&kept, bytes].concat();
            &joined
        };
        if first.starts_with(PREFACE) {
            *self = Carrier::H2(Box::new(H2::new(shared)));
        } else if PREFACE.starts_with(first) {
            new.kept = first.to_vec(); // fewer bytes than the preface has
            return Next::Wait;
        } else {
            *self = Carrier::H1(Conn::new(shared, new.since_ms));
        }
        self.receive(id, first, out, service, shared)
    }

    #[cold]
    fn upgrade(&mut self, id: u64, out: &mut Vec<u8>, service: &mut Service, shared: &mut Shared) -> Next {
        let Carrier::H1(conn) = self else { unreachable!("it told so") };
        let (upgrade, rest) = conn.take_upgrade();
        let (paused, finished) = (conn.paused, conn.peer_finished);
        let mut socket = Socket::new(id, upgrade, shared);
        socket.paused = paused;
        if finished {
            socket.peer_finished();
        }
        *self = Carrier::Ws(Box::new(socket));
        self.receive(id, &rest, out, service, shared)
    }

    /// Goes on after an answer, or when there is room for more output.
    pub(crate) fn resume(
        &mut self,
        id: u64,
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) -> Next {
        match self {
            Carrier::H1(conn) => match conn.resume(id, out, service, shared) {
                Next::Upgrade => self.upgrade(id, out, service, shared),
                next => next,
            },
            Carrier::H2(conn) => conn.resume(id, out, service, shared),
            Carrier::Ws(conn) => conn.resume(id, out, service, shared),
            Carrier::New(_) => Next::Wait,
        }
    }

    /// An answer came for a request; [`Carrier::resume`] follows.
    pub(crate) fn on_answer(
        &mut self,
        id: u64,
        stream: u32,
        answer: Answer,
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &mut Shared,
    ) {
        match self {
            Carrier::H1(conn) => conn.on_answer(answer, out, service, shared),
            Carrier::H2(conn) => conn.on_answer(id, stream, answer, service, shared),
            Carrier::Ws(conn) => conn.on_answer(id, answer, out, service, shared),
            Carrier::New(_) => {}
        }
    }

    /// Whether nothing can go on before an answer.
    pub(crate) fn is_waiting(&self) -> bool {
        match self {
            Carrier::H1(conn) => conn.is_waiting(),
            Carrier::Ws(conn) => conn.is_waiting(),
            Carrier::H2(_) | Carrier::New(_) => false,
        }
    }

    /// The client sends nothing more; [`Carrier::resume`] follows.
    pub(crate) fn peer_finished(&mut self) {
        match self {
            Carrier::H1(conn) => conn.peer_finished = true,
            Carrier::H2(conn) => conn.peer_finished(),
            Carrier::Ws(conn) => conn.peer_finished(),
            Carrier::New(new) => new.peer_finished = true,
        }
    }

    /// Whether everything was answered and the connection should go.
    pub(crate) fn wants_close(&self) -> bool {
        match self {
            Carrier::H1(conn) => conn.wants_close(),
            Carrier::H2(conn) => conn.wants_close(),
            Carrier::Ws(conn) => conn.wants_close(),
            Carrier::New(new) => new.peer_finished,
        }
    }

    /// Bytes kept for later.
    pub(crate) fn kept_bytes(&self) -> usize {
        match self {
            Carrier::H1(conn) => conn.kept_bytes(),
            Carrier::H2(conn) => conn.kept_bytes(),
            Carrier::Ws(conn) => conn.kept_bytes(),
            Carrier::New(new) => new.kept.len(),
        }
    }

    /// Remembers whether receiving is paused; true when that is news.
    pub(crate) fn set_paused(&mut self, paused: bool) -> bool {
        let known = match self {
            Carrier::H1(conn) => &mut conn.paused,
            Carrier::H2(conn) => &mut conn.paused,
            Carrier::Ws(conn) => &mut conn.paused,
            Carrier::New(_) => return false,
        };
        std::mem::replace(known, paused) != paused
    }

    /// When [`Carrier::on_deadline`] is due; it may move.
    pub(crate) fn deadline_ms(&self) -> u64 {
        match self {
            Carrier::H1(conn) => conn.deadline_ms,
            Carrier::H2(conn) => conn.deadline_ms(),
            Carrier::Ws(_) => u64::MAX, // WS-9: a client may take its time
            Carrier::New(new) => new.since_ms + crate::conn::HEAD_MS,
        }
    }

    /// Called now and then, and when the deadline has come. `backlog` is what is still to be sent.
    pub(crate) fn on_deadline(&mut self, backlog: usize, steady_ms: u64) -> Due {
        let over = self.deadline_ms() <= steady_ms;
        match self {
            Carrier::H1(conn) => match over && !conn.gets_more_time(backlog, steady_ms) {
                true => Due::Close,
                false => Due::Stays,
            },
            Carrier::H2(conn) => match conn.on_deadline(steady_ms) {
                true => Due::Resume,
                false => Due::Close,
            },
            Carrier::Ws(_) => Due::Stays,
            Carrier::New(_) if over => Due::Close,
            Carrier::New(_) => Due::Stays,
        }
    }

    /// The server stops (SH-2). Whether the connection is idle and closes now; [`Carrier::resume`]
    /// follows otherwise.
    pub(crate) fn begin_stop(&mut self) -> bool {
        match self {
            Carrier::H1(conn) => conn.is_idle(),
            Carrier::H2(conn) => {
                conn.begin_stop();
                false
            }
            Carrier::Ws(_) => false, // its stream tells it
            Carrier::New(_) => true,
        }
    }

    /// Whether all that its output is for is one stream.
    pub(crate) fn is_streaming(&self) -> bool {
        matches!(self, Carrier::H1(conn) if conn.is_streaming())
    }

    /// Whether it carries a stream beside the answers to commands.
    pub(crate) fn is_socket(&self) -> bool {
        matches!(self, Carrier::Ws(_))
    }

    /// Whether what streams write is framed only when it goes on.
    pub(crate) fn gathers(&self) -> bool {
        matches!(self, Carrier::H2(_))
    }

    /// Whether the client has finished sending in the middle of a stream: whoever reads one and will never
    /// ask for anything again is most likely gone.
    pub(crate) fn stream_is_left(&self) -> bool {
        matches!(self, Carrier::H1(conn) if conn.is_streaming() && conn.peer_finished)
    }

    /// Passes on what a stream has to say; [`Carrier::resume`] follows for HTTP/2.
    pub(crate) fn write_stream(&mut self, stream: u32, bytes: &[u8], out: &mut Vec<u8>) {
        match self {
            Carrier::H1(conn) => conn.write_stream(bytes, out),
            Carrier::H2(conn) => conn.write_stream(stream, bytes),
            Carrier::Ws(conn) => conn.write_stream(bytes, out),
            Carrier::New(_) => {}
        }
    }

    /// Bytes of a stream that the client has not taken, `backlog` being those of the connection.
    pub(crate) fn stream_backlog(&self, stream: u32, backlog: usize) -> usize {
        match self {
            // What is with the protocol is bounded by what the client allowed.
            Carrier::H2(conn) => conn.stream_backlog(stream),
            _ => backlog,
        }
    }

    /// A stream is over; [`Carrier::resume`] follows.
    pub(crate) fn end_stream(&mut self, stream: u32, ending: Ending, out: &mut Vec<u8>, shared: &Shared) {
        match self {
            Carrier::H1(conn) => conn.end_stream(ending, out, shared),
            Carrier::H2(conn) => conn.end_stream(stream),
            Carrier::Ws(conn) => conn.end_stream(),
            Carrier::New(_) => {}
        }
    }

    /// The streams that this connection carries.
    pub(crate) fn streams(&self) -> Vec<u32> {
        match self {
            Carrier::H1(conn) if conn.is_streaming() => vec![0],
            Carrier::H2(conn) => conn.streaming(),
            Carrier::Ws(_) => vec![0],
            _ => Vec::new(),
        }
    }

    /// The connection is gone.
    pub(crate) fn give_back(&mut self, shared: &mut Shared) {
        match self {
            Carrier::H1(conn) => conn.give_back(shared),
            Carrier::H2(conn) => conn.give_back(shared),
            Carrier::Ws(conn) => conn.give_back(shared),
            Carrier::New(_) => {}
        }
    }
}
