//! A small server over `Sockets` in a thread of its own, and clients of `std::net`.

#![allow(dead_code, reason = "each test binary uses its part")]

use runelog_engine::disk::ring::Ring;
use runelog_net::limits::OUTPUT_BACKLOG_BYTES_MAX;
use runelog_net::sockets::{CloseReason, ConnId, Counters, Event, ListenerId, OWNER, Sockets};
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the server does with received bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Sends them back; holds a client back whose answers pile up.
    Echo,
    /// Counts them, and receives only while `Shared::go`.
    Count,
    /// Answers the first ones with this many bytes and leaves the connection open.
    Answer(usize),
    /// The same, and closes after the answer.
    AnswerAndClose(usize),
    /// Closes at once.
    HangUp,
}

#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) stop: AtomicBool,
    pub(crate) go: AtomicBool,
    pub(crate) received: AtomicU64,
    pub(crate) backlog_max: AtomicUsize,
    pub(crate) closed: AtomicU64,
    pub(crate) accept_errors: AtomicU64,
}

pub(crate) struct Report {
    pub(crate) counters: Counters,
    pub(crate) reasons: Vec<CloseReason>,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) shared: Arc<Shared>,
    thread: Option<JoinHandle<Report>>,
}

impl Server {
    pub(crate) fn start(mode: Mode, buffers: u16, buffer_bytes: usize) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread =
            std::thread::spawn(move || Core::new(listener, mode, buffers, buffer_bytes, theirs).run());
        Server { address, shared, thread: Some(thread) }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }

    pub(crate) fn stop(mut self) -> Report {
        self.shared.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Waits until something holds; the patience is for slow machines and only ends a broken run.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{what}: did not happen");
}

struct Core {
    ring: Ring,
    sockets: Sockets,
    listener: Option<ListenerId>,
    mode: Mode,
    shared: Arc<Shared>,
    live: HashSet<ConnId>,
    paused: HashSet<ConnId>,
    finished: HashSet<ConnId>,
    reasons: Vec<CloseReason>,
}

impl Core {
    fn new(listener: TcpListener, mode: Mode, buffers: u16, bytes: usize, shared: Arc<Shared>) -> Core {
        let mut ring = Ring::new(64).unwrap(); // small, so that the queue also runs full
        let mut sockets = Sockets::with_buffers(&ring, 0, buffers, bytes).unwrap();
        let listener = Some(sockets.listen(&mut ring, listener.into()));
        let (live, paused, finished) = Default::default();
        Core { ring, sockets, listener, mode, shared, live, paused, finished, reasons: Vec::new() }
    }

    fn run(mut self) -> Report {
        let start = Instant::now();
        let mut stopping = false;
        loop {
            if self.shared.stop.load(Relaxed) {
                if !stopping {
                    stopping = true;
                    let listener = self.listener.unwrap();
                    if self.sockets.stop_listening(&mut self.ring, listener) {
                        self.listener = None;
                    }
                }
                self.sockets.close_all(&mut self.ring);
                if self.listener.is_none() && self.sockets.connections() == 0 {
                    break;
                }
            }
            if self.mode == Mode::Count && self.shared.go.load(Relaxed) {
                for conn in self.paused.drain() {
                    self.sockets.resume(&mut self.ring, conn);
                }
            }
            assert_eq!(self.sockets.buffers_lent(), 0);
            let more = self.sockets.turn(&mut self.ring, start.elapsed().as_millis() as u64);
            self.ring.enter((!more).then_some(Duration::from_millis(5)));
            while let Some(cqe) = self.ring.next_completion() {
                assert_eq!(cqe.owner(), OWNER);
                if let Some(event) = self.sockets.on_completion(&mut self.ring, cqe) {
                    self.on_event(event);
                }
            }
            self.shared.accept_errors.store(self.sockets.counters().accept_errors, Relaxed);
        }
        assert!(self.live.is_empty(), "no Closed for {:?}", self.live);
        let report = Report { counters: self.sockets.counters(), reasons: self.reasons };
        assert!(self.sockets.finish(&self.ring).is_ok());
        report
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Accepted { fd, .. } => {
                let conn = self.sockets.adopt(&mut self.ring, fd).unwrap();
                assert!(self.live.insert(conn));
            }
            Event::ListenerEnded { errno, .. } => {
                assert_eq!(errno, 0);
                self.listener = None;
            }
            Event::Received { conn, buf } => {
                assert!(self.live.contains(&conn));
                self.shared.received.fetch_add(buf.len() as u64, Relaxed);
                match self.mode {
                    Mode::Echo => {
                        let (bytes, output) = self.sockets.bytes_and_output(&buf, conn).unwrap();
                        output.extend_from_slice(bytes);
                    }
                    Mode::Count => {
                        if !self.shared.go.load(Relaxed) && self.paused.insert(conn) {
                            self.sockets.pause(&mut self.ring, conn);
                        }
                    }
                    Mode::Answer(bytes) | Mode::AnswerAndClose(bytes) => {
                        if self.paused.insert(conn) {
                            self.sockets.output(conn).unwrap().extend((0..bytes).map(pattern));
                        }
                    }
                    Mode::HangUp => self.sockets.close(&mut self.ring, conn),
                }
                self.sockets.give_back(buf);
                if matches!(self.mode, Mode::AnswerAndClose(_)) {
                    self.sockets.close_after_flush(&mut self.ring, conn);
                    assert!(self.sockets.output(conn).is_none(), "closing");
                }
                let backlog = self.sockets.output_backlog(conn);
                self.shared.backlog_max.fetch_max(backlog, Relaxed);
                if self.mode == Mode::Echo && backlog > OUTPUT_BACKLOG_BYTES_MAX && self.paused.insert(conn) {
                    self.sockets.pause(&mut self.ring, conn);
                }
            }
            Event::PeerFinished { conn } => {
                assert!(self.live.contains(&conn) && self.finished.insert(conn), "finished twice");
                if !matches!(self.mode, Mode::Answer(_)) {
                    self.sockets.close_after_flush(&mut self.ring, conn);
                }
            }
            Event::SendDone { conn } => {
                assert!(self.live.contains(&conn));
                let small = self.sockets.output_backlog(conn) < OUTPUT_BACKLOG_BYTES_MAX / 2;
                if self.mode == Mode::Echo && small && self.paused.remove(&conn) {
                    self.sockets.resume(&mut self.ring, conn);
                }
            }
            Event::Closed { conn, reason } => {
                assert!(self.live.remove(&conn), "closed twice");
                self.paused.remove(&conn);
                self.finished.remove(&conn);
                self.reasons.push(reason);
                self.shared.closed.fetch_add(1, Relaxed);
                // A stale id has no effect.
                assert!(self.sockets.output(conn).is_none());
                self.sockets.flush(&mut self.ring, conn);
                self.sockets.pause(&mut self.ring, conn);
                self.sockets.resume(&mut self.ring, conn);
                self.sockets.close(&mut self.ring, conn);
                self.sockets.close_after_flush(&mut self.ring, conn);
            }
        }
    }
}

/// The byte at a place of the test data: no short period, so that lost or swapped parts show.
pub(crate) fn pattern(index: usize) -> u8 {
    (index.wrapping_mul(0x9e37_79b9) >> 13) as u8
}

pub(crate) fn data(bytes: usize, offset: usize) -> Vec<u8> {
    (offset..offset + bytes).map(pattern).collect()
}

/// Sends while another thread reads the same amount back.
pub(crate) fn echo(client: &TcpStream, bytes: &[u8]) {
    std::thread::scope(|scope| {
        scope.spawn(|| (&*client).write_all(bytes).unwrap());
        let mut back = vec![0; bytes.len()];
        (&*client).read_exact(&mut back).unwrap();
        assert!(back == bytes, "{} bytes came back changed", bytes.len());
    });
}

/// Closes with a reset.
pub(crate) fn reset(client: TcpStream) {
    use std::os::fd::AsRawFd;
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option's value outlives the call.
    let result = unsafe {
        libc::setsockopt(
            client.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as u32,
        )
    };
    assert_eq!(result, 0);
}

/// Finishes sending and reads to the end.
pub(crate) fn read_rest(mut client: TcpStream) -> Vec<u8> {
    client.shutdown(Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    rest
}
