//! The generator's own loop: connections on one io_uring of its own, so that the server is what is
//! measured. Lives here: connecting, sending, what came. Not here: what is sent and what it means.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use runelog_engine::disk::ring::Ring;
use runelog_net::sockets::{self, ConnId, Event, Sockets};

/// Entries of the ring: more operations than this wait for the next turn.
const RING_ENTRIES: u32 = 4096;

/// Connections by number, in the order in which they were opened.
pub(crate) struct Wire {
    ring: Ring,
    sockets: Sockets,
    origin: Instant,
    conns: Vec<ConnId>,
    /// Numbers by the index of their [`ConnId`].
    numbers: Vec<u32>,
    events: Vec<Event>,
}

/// What happened on a connection.
pub(crate) enum Happened<'a> {
    /// Bytes came; what is appended to the output is sent in this turn.
    Bytes(&'a [u8], &'a mut Vec<u8>),
    /// The server closed it, or it failed.
    Gone,
}

impl Wire {
    pub(crate) fn new() -> io::Result<Wire> {
        // Timers of a thread may fire 50 us late to save wake-ups, which is long for one that keeps a rate.
        // SAFETY: a number for this thread. If it fails, the slip that is measured says so.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
        let ring = Ring::new(RING_ENTRIES)?;
        let sockets = Sockets::with_buffers(&ring, 0, 1024, 64 << 10)?;
        let origin = Instant::now();
        Ok(Wire { ring, sockets, origin, conns: Vec::new(), numbers: Vec::new(), events: Vec::new() })
    }

    /// Opens `count` more connections and returns the number of the first.
    pub(crate) fn connect(&mut self, address: SocketAddr, count: usize) -> io::Result<usize> {
        let first = self.conns.len();
        for _ in 0..count {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            let full = |_| io::Error::other("more connections than the generator has room for");
            let id = self.sockets.adopt(&mut self.ring, stream.into()).map_err(full)?;
            if self.numbers.len() <= id.index() {
                self.numbers.resize(id.index() + 1, u32::MAX);
            }
            self.numbers[id.index()] = self.conns.len() as u32;
            self.conns.push(id);
        }
        Ok(first)
    }

    /// Time since the loop was made.
    pub(crate) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// What is sent in the next turn; `None` once the connection is gone.
    pub(crate) fn out(&mut self, number: usize) -> Option<&mut Vec<u8>> {
        self.sockets.output(self.conns[number])
    }

    /// One turn: sends, waits at most `wait` for something to happen, and tells it with the time after the
    /// wait. One look at the clock for all: reading it for each answer costs as much as counting it.
    pub(crate) fn turn(
        &mut self,
        wait: Option<Duration>,
        mut tell: impl FnMut(Duration, usize, Happened<'_>),
    ) {
        let now_ms = self.origin.elapsed().as_millis() as u64;
        let more = self.sockets.turn(&mut self.ring, now_ms);
        self.ring.enter(wait.filter(|_| !more));
        while let Some(cqe) = self.ring.next_completion() {
            debug_assert_eq!(cqe.owner(), sockets::OWNER);
            self.events.extend(self.sockets.on_completion(&mut self.ring, cqe));
        }
        let now = self.origin.elapsed();
        let numbers = &self.numbers;
        let number = |conn: ConnId| numbers[conn.index()] as usize;
        for event in self.events.drain(..) {
            match event {
                Event::Received { conn, buf } => {
                    if let Some((bytes, out)) = self.sockets.bytes_and_output(&buf, conn) {
                        tell(now, number(conn), Happened::Bytes(bytes, out));
                    }
                    self.sockets.give_back(buf);
                }
                Event::PeerFinished { conn } => {
                    tell(now, number(conn), Happened::Gone);
                    self.sockets.close(&mut self.ring, conn);
                }
                Event::Closed { conn, .. } => tell(now, number(conn), Happened::Gone),
                Event::SendDone { .. } | Event::Accepted { .. } | Event::ListenerEnded { .. } => {}
            }
        }
    }
}
