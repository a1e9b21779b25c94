//! Answers that never end by themselves: the event streams of a core's connections.
//! Lives here: which streams there are, what they watch, their heartbeats, the credit they give back.
//! By file: [`watch`] (the events of a session), [`session`], [`id_line`] (ids of events), [`work`] (jobs),
//! [`socket`] (the subscriptions of a WebSocket).
//! Not here: who publishes what (`service::watch`), framing and sockets ([`Hosts`]).
//!
//! A stream writes its blocks into memory that the core's streams share, and hands them at once to the
//! connection that hosts it; it holds no output of its own. What a connection has not sent yet is bounded
//! by the windows of the stream's watchers: credit goes back to the owners only while its backlog is small.
//!
//! Idle streams cost one timer each, which fires once a heartbeat: output does not touch it, the timer
//! looks when the last output was.

pub(crate) mod id_line;
pub(crate) mod session;
mod socket;
pub(crate) mod watch;
pub(crate) mod work;

use crate::caps::StreamHold;
use crate::feed::{Feed, FeedItem, OpenWatch, OpenWork, WatchCommand};
use crate::json::watch::Delivery;
use crate::limits::{FEED_BACKLOG_BYTES, FEED_WINDOW_BYTES, FEED_WINDOW_BYTES_MIN, WORK_HEARTBEAT_MS};
use crate::service::Service;
use crate::slab::{Key, Slab};
use crate::timers::Wheel;
use ahash::AHashMap;
#[cfg(feature = "fuzzing")]
pub(crate) use id_line::{IdLine, decode as decode_id};
use session::OpenSession;
pub(crate) use socket::SocketCommand;
use socket::SocketStream;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use watch::{Next, WatchStream};
use work::{WorkRequest, WorkStream};

/// A request whose answer is a stream: where its bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    /// [`ConnId`](crate::sockets::ConnId) as bits.
    pub(crate) conn: u64,
    /// Stream of an HTTP/2 connection, 0 on HTTP/1.1.
    pub(crate) stream: u32,
}

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Nothing more is to be said.
    Done,
    /// What was to be said cannot be read (I-98).
    Failed,
}

/// The connections of a core, as far as streams need them.
pub(crate) trait Hosts {
    /// Hands bytes of a stream to its connection, which frames them.
    fn write(&mut self, host: Host, bytes: &[u8]);
    /// Bytes that the client has not taken yet.
    fn backlog(&self, host: Host) -> usize;
    /// Ends the stream's answer behind what was written.
    fn end(&mut self, host: Host, ending: Ending);
}

/// What a stream begins with.
pub(crate) enum Opening {
    /// `GET /v0/watch/{wid}`.
    Watch {
        session: OpenSession,
        /// `Last-Event-ID`.
        last_event_id: Option<Box<[u8]>>,
        /// Its place among all streams (L-4).
        hold: StreamHold,
    },
    /// `GET /v0/topics/{topic}/work`.
    Work {
        request: WorkRequest,
        /// Its place among all streams (L-4).
        hold: StreamHold,
    },
    /// A WebSocket, without subscriptions at first.
    Socket {
        /// To be kept at their number.
        subscriptions: Arc<AtomicUsize>,
        /// Its place among all streams (WS-3).
        hold: StreamHold,
    },
}

/// What connections tell the streams of their core.
pub(crate) enum StreamNews {
    /// The head is written: the stream begins.
    Opened(Box<Opening>),
    /// A WebSocket wants other subscriptions.
    Socket(SocketCommand),
    /// What was to be sent has become less.
    Drained,
    /// The client wants nothing more.
    Gone,
}

enum Kind {
    Watch(WatchStream),
    Work { stream: WorkStream, request: Option<WorkRequest> },
    Socket(SocketStream),
}

/// The heartbeat of a stream that has none (WS-6).
const NO_HEARTBEAT_MS: u64 = u64::MAX;

impl Kind {
    fn start(&mut self, out: &mut Vec<u8>) -> Next {
        match self {
            Kind::Watch(watch) => watch.start(out),
            Kind::Work { stream, .. } => stream.start(out),
            Kind::Socket(_) => Next::Wait,
        }
    }

    fn on_item(&mut self, place: usize, item: &FeedItem, out: &mut Vec<u8>) -> Next {
        match self {
            Kind::Watch(watch) => watch.on_item(place, item, out),
            Kind::Work { stream, .. } => stream.on_item(item, out),
            Kind::Socket(socket) => {
                socket.on_item(place, item, out);
                Next::Wait
            }
        }
    }

    fn shutdown(&mut self, out: &mut Vec<u8>) {
        match self {
            Kind::Watch(watch) => watch.shutdown(out),
            Kind::Work { stream, .. } => stream.shutdown(out),
            Kind::Socket(_) => SocketStream::shutdown(out),
        }
    }
}

struct Stream {
    host: Host,
    kind: Kind,
    heartbeat_ms: u64,
    last_output_ms: u64,
    subs: Vec<Key>,
    /// Watchers with enough to give back to make a message worth it.
    creditable: Vec<Key>,
    _hold: StreamHold,
}

/// A watcher at the owner of a topic, seen from its stream. Its key is the watcher's token.
struct Sub {
    stream: Key,
    /// Which of the stream's topics it is.
    place: usize,
    owner: usize,
    window_bytes: u64,
    /// Bytes that came and were not given back.
    owed_bytes: u64,
}

/// See the module's text.
pub(crate) struct Streams {
    streams: Slab<Stream>,
    by_host: AHashMap<Host, Key>,
    subs: Slab<Sub>,
    heartbeats: Wheel<Key>,
    steady_ms: u64,
    scratch: Vec<u8>,
    /// What owners get this turn, by core.
    credits: Vec<Vec<(u64, u64)>>,
}

impl Streams {
    pub(crate) fn new(cores: usize, steady_ms: u64) -> Streams {
        Streams {
            streams: Slab::default(),
            by_host: AHashMap::new(),
            subs: Slab::default(),
            heartbeats: Wheel::new(steady_ms),
            steady_ms,
            scratch: Vec::new(),
            credits: vec![Vec::new(); cores],
        }
    }

    /// What follows goes by this clock.
    pub(crate) fn set_clock(&mut self, steady_ms: u64) {
        self.steady_ms = steady_ms;
    }

    /// When the next heartbeat may be due.
    pub(crate) fn next_wake_ms(&self) -> Option<u64> {
        self.heartbeats.next_wake_ms()
    }

    /// Takes what a connection tells.
    pub(crate) fn on_news(
        &mut self,
        host: Host,
        news: StreamNews,
        service: &mut Service,
        hosts: &mut impl Hosts,
    ) {
        match news {
            StreamNews::Opened(opening) => self.open(host, *opening, service, hosts),
            StreamNews::Socket(command) => self.command(host, command, service),
            StreamNews::Drained => self.drained(host, hosts),
            StreamNews::Gone => self.close(host, service),
        }
    }

    fn open(&mut self, host: Host, opening: Opening, service: &mut Service, hosts: &mut impl Hosts) {
        let (mut kind, heartbeat_ms, hold) = match opening {
            Opening::Watch { session, last_event_id, hold } => {
                let heartbeat_ms = session.heartbeat_ms;
                (Kind::Watch(WatchStream::new(session, last_event_id.as_deref())), heartbeat_ms, hold)
            }
            Opening::Work { request, hold } => {
                let stream = WorkStream::new(request.topic.clone());
                (Kind::Work { stream, request: Some(request) }, WORK_HEARTBEAT_MS, hold)
            }
            Opening::Socket { subscriptions, hold } => {
                (Kind::Socket(SocketStream::new(subscriptions)), NO_HEARTBEAT_MS, hold)
            }
        };
        self.scratch.clear();
        let next = kind.start(&mut self.scratch);
        hosts.write(host, &self.scratch);
        let key = self.streams.insert(Stream {
            host,
            kind,
            heartbeat_ms,
            last_output_ms: self.steady_ms,
            subs: Vec::new(),
            creditable: Vec::new(),
            _hold: hold,
        });
        self.by_host.insert(host, key);
        if heartbeat_ms != NO_HEARTBEAT_MS {
            self.heartbeats.insert(self.steady_ms + heartbeat_ms, key);
        }
        self.go_on(key, next, service, hosts);
    }

    fn go_on(&mut self, key: Key, next: Next, service: &mut Service, hosts: &mut impl Hosts) {
        match next {
            Next::Wait => {}
            Next::Open(place) => self.watch_topic(key, place, service),
            Next::End => self.end(key, Ending::Done, service, hosts),
            Next::Fail => self.end(key, Ending::Failed, service, hosts),
        }
    }

    fn watch_topic(&mut self, key: Key, place: usize, service: &mut Service) {
        let watch = match self.streams.get_mut(key).map(|stream| &mut stream.kind) {
            Some(Kind::Watch(watch)) => watch,
            Some(Kind::Work { request, .. }) => {
                let request = request.take().expect("work is asked for once");
                return self.ask_for_work(key, request, service);
            }
            Some(Kind::Socket(_)) | None => return,
        };
        let session = watch.session();
        let (topic, options) = (session.topics[place].name.clone(), session.options.clone());
        let window_bytes = window_bytes(session.topics.len());
        let from_seq = watch.cursor(place);
        self.subscribe(key, place, &topic, from_seq, options, window_bytes, service);
    }

    /// Opens a watcher for a stream; its items come as those of `place`. Returns its key.
    #[allow(clippy::too_many_arguments)]
    fn subscribe(
        &mut self,
        stream: Key,
        place: usize,
        topic: &str,
        from_seq: u64,
        options: Arc<Delivery>,
        window_bytes: u64,
        service: &mut Service,
    ) -> Key {
        let owner = service.owner(topic);
        let sub = self.subs.insert(Sub { stream, place, owner, window_bytes, owed_bytes: 0 });
        self.streams.get_mut(stream).expect("a stream that watches exists").subs.push(sub);
        let open = OpenWatch { token: sub.to_bits(), topic: topic.into(), from_seq, options, window_bytes };
        service.watch(owner, WatchCommand::Open(Box::new(open)));
        sub
    }

    /// Tells the owner of a queue that a stream waits for jobs.
    fn ask_for_work(&mut self, stream: Key, request: WorkRequest, service: &mut Service) {
        let (owner, window_bytes) = (service.owner(&request.topic), window_bytes(1));
        let sub = self.subs.insert(Sub { stream, place: 0, owner, window_bytes, owed_bytes: 0 });
        self.streams.get_mut(stream).expect("it was just opened").subs.push(sub);
        let open = OpenWork { token: sub.to_bits(), request, window_bytes };
        service.watch(owner, WatchCommand::Work(Box::new(open)));
    }

    /// Does what a WebSocket wants. One that is gone, or stops, wants nothing.
    fn command(&mut self, host: Host, command: SocketCommand, service: &mut Service) {
        let Some(key) = self.by_host.get(&host).copied() else { return };
        match command {
            SocketCommand::Subscribe { topics, options } => {
                for (topic, from_seq) in topics {
                    self.unsubscribe(key, &topic, service); // WS-25
                    let Some(socket) = self.socket(key) else { return };
                    let place = socket.free_place();
                    let window_bytes = window_bytes(socket.count() + 1);
                    let sub =
                        self.subscribe(key, place, &topic, from_seq, options.clone(), window_bytes, service);
                    self.socket(key).expect("just seen").fill(place, topic, sub);
                }
            }
            SocketCommand::Unsubscribe(topics) => {
                for topic in topics {
                    self.unsubscribe(key, &topic, service);
                }
            }
        }
    }

    fn unsubscribe(&mut self, key: Key, topic: &str, service: &mut Service) {
        let Some(sub) = self.socket(key).and_then(|socket| socket.remove(topic)) else { return };
        let owner = self.subs.get(sub).map(|sub| sub.owner);
        self.forget(sub);
        if let Some(owner) = owner {
            service.watch(owner, WatchCommand::Close(vec![sub.to_bits()]));
        }
    }

    fn socket(&mut self, key: Key) -> Option<&mut SocketStream> {
        match &mut self.streams.get_mut(key)?.kind {
            Kind::Socket(socket) => Some(socket),
            Kind::Watch(_) | Kind::Work { .. } => None,
        }
    }

    /// Forgets a watcher that its owner has closed.
    fn forget(&mut self, sub: Key) {
        if let Some(found) = self.subs.remove(sub)
            && let Some(stream) = self.streams.get_mut(found.stream)
        {
            stream.subs.retain(|other| *other != sub);
        }
    }

    /// Brings one item to all streams of this core that it is for.
    pub(crate) fn on_feed(&mut self, feed: &Feed, service: &mut Service, hosts: &mut impl Hosts) {
        let bytes = feed.item.window_bytes();
        let closes = matches!(*feed.item, FeedItem::Deleted | FeedItem::Failed);
        for token in &feed.watchers {
            let sub_key = Key::from_bits(*token);
            let Some(sub) = self.subs.get_mut(sub_key) else { continue };
            let (key, place) = (sub.stream, sub.place);
            let stream = self.streams.get_mut(key).expect("a watcher's stream exists");
            if !closes {
                sub.owed_bytes += bytes;
                // Listed once: when the threshold is crossed.
                let least = sub.window_bytes / 2;
                if sub.owed_bytes >= least && sub.owed_bytes - bytes < least {
                    stream.creditable.push(sub_key);
                }
            }
            self.scratch.clear();
            let next = stream.kind.on_item(place, &feed.item, &mut self.scratch);
            if !self.scratch.is_empty() {
                stream.last_output_ms = self.steady_ms;
                hosts.write(stream.host, &self.scratch);
            }
            if !stream.creditable.is_empty() && hosts.backlog(stream.host) < FEED_BACKLOG_BYTES {
                give_credit(stream, &mut self.subs, &mut self.credits);
            }
            if closes {
                self.forget(sub_key);
            }
            self.go_on(key, next, service, hosts);
        }
    }

    /// The connection of a stream has sent something.
    fn drained(&mut self, host: Host, hosts: &impl Hosts) {
        let Some(stream) = self.by_host.get(&host).and_then(|key| self.streams.get_mut(*key)) else { return };
        if !stream.creditable.is_empty() && hosts.backlog(host) < FEED_BACKLOG_BYTES {
            give_credit(stream, &mut self.subs, &mut self.credits);
        }
    }

    /// Once a turn, behind everything else: heartbeats that are due, and the credit of the turn.
    pub(crate) fn turn(&mut self, service: &mut Service, hosts: &mut impl Hosts) {
        let steady_ms = self.steady_ms;
        while let Some(key) = self.heartbeats.next_due(steady_ms) {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            // Silence is what a client hears: bytes that wait to be sent will break it themselves.
            if steady_ms - stream.last_output_ms >= stream.heartbeat_ms {
                if hosts.backlog(stream.host) == 0 {
                    hosts.write(stream.host, watch::HEARTBEAT);
                }
                stream.last_output_ms = steady_ms;
            }
            self.heartbeats.insert(stream.last_output_ms + stream.heartbeat_ms, key);
        }
        for (owner, credits) in self.credits.iter_mut().enumerate() {
            if !credits.is_empty() {
                service.watch(owner, WatchCommand::Credit(std::mem::take(credits)));
            }
        }
    }

    /// SH-3: every stream says that the server stops, and ends.
    pub(crate) fn shutdown(&mut self, service: &mut Service, hosts: &mut impl Hosts) {
        for key in self.streams.keys() {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            self.scratch.clear();
            stream.kind.shutdown(&mut self.scratch);
            hosts.write(stream.host, &self.scratch);
            self.end(key, Ending::Done, service, hosts);
        }
    }

    fn end(&mut self, key: Key, ending: Ending, service: &mut Service, hosts: &mut impl Hosts) {
        let Some(host) = self.streams.get(key).map(|stream| stream.host) else { return };
        hosts.end(host, ending);
        self.close(host, service);
    }

    /// The connection, or that stream of it, is gone.
    pub(crate) fn close(&mut self, host: Host, service: &mut Service) {
        let Some(key) = self.by_host.remove(&host) else { return };
        let Some(mut stream) = self.streams.remove(key) else { return };
        if let Kind::Watch(watch) = &mut stream.kind {
            watch.close(self.steady_ms);
        }
        let mut closed: Vec<Vec<u64>> = vec![Vec::new(); self.credits.len()];
        for sub in stream.subs {
            if let Some(found) = self.subs.remove(sub) {
                closed[found.owner].push(sub.to_bits());
            }
        }
        for (owner, tokens) in closed.into_iter().enumerate() {
            if !tokens.is_empty() {
                service.watch(owner, WatchCommand::Close(tokens));
            }
        }
    }
}

/// Lets the owners of a stream's topics send more.
fn give_credit(stream: &mut Stream, subs: &mut Slab<Sub>, credits: &mut [Vec<(u64, u64)>]) {
    for key in stream.creditable.drain(..) {
        if let Some(sub) = subs.get_mut(key) {
            credits[sub.owner].push((key.to_bits(), std::mem::take(&mut sub.owed_bytes)));
        }
    }
}

/// The window of each topic of a stream: together they bound what a client that does not read costs.
fn window_bytes(topics: usize) -> u64 {
    (FEED_WINDOW_BYTES / topics.max(1) as u64).max(FEED_WINDOW_BYTES_MIN)
}
