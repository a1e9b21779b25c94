//! An HTTP/2 client with prior knowledge (T-1): the protocol is that of the `h2` crate. It blocks: the
//! connection moves only while somebody waits here for something.

use crate::harness::{Answer, PATIENCE, Server};
use crate::sse::{Block, Blocks, Event};
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use std::future::Future;
use std::io::Cursor;
use std::rc::Rc;
use tokio::runtime::Runtime;

type Body = Cursor<Vec<u8>>;

/// A connection.
pub(crate) struct H2 {
    runtime: Rc<Runtime>,
    requests: SendRequest<Body>,
}

/// A request whose answer has not been waited for.
pub(crate) struct Pending {
    runtime: Rc<Runtime>,
    answer: ResponseFuture,
    /// Given up together with the request.
    _body: SendStream<Body>,
}

impl Server {
    /// A connection that takes in as much as comes.
    pub(crate) fn http2(&self) -> H2 {
        self.http2_with(1 << 24, 1 << 24)
    }

    /// A connection with windows of so many bytes, for each stream and for all of them.
    pub(crate) fn http2_with(&self, stream_bytes: u32, connection_bytes: u32) -> H2 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let address = self.addr;
        let requests = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.expect("the server listens");
            stream.set_nodelay(true).expect("no delay");
            let mut builder = Builder::new();
            builder.initial_window_size(stream_bytes).initial_connection_window_size(connection_bytes);
            let (requests, connection) = builder.handshake(stream).await.expect("T-1: HTTP/2");
            tokio::spawn(async move {
                let _ = connection.await;
            });
            requests
        });
        H2 { runtime: Rc::new(runtime), requests }
    }
}

/// Waits, but not forever.
fn wait<T>(runtime: &Runtime, what: &str, future: impl Future<Output = T>) -> T {
    let timed = runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await });
    timed.unwrap_or_else(|_| panic!("nothing came: {what}"))
}

impl H2 {
    /// Sends a request. The body goes out while answers are waited for.
    pub(crate) fn start(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Pending {
        let mut request = http::Request::builder().method(method).uri(format!("http://test{target}"));
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let mut requests =
            wait(&self.runtime, "T-10: a free stream", self.requests.clone().ready()).expect("T-1: open");
        let (answer, mut stream) = requests
            .send_request(request, body.is_empty())
            .unwrap_or_else(|error| panic!("{target}: {error}"));
        if !body.is_empty() {
            stream.send_data(Cursor::new(body.to_vec()), true).expect("T-1: the body is taken");
        }
        Pending { runtime: self.runtime.clone(), answer, _body: stream }
    }

    pub(crate) fn call(&mut self, method: &str, target: &str, body: &str) -> Answer {
        let answer = self.start(method, target, &[], body.as_bytes()).answer(target);
        answer.check(target);
        answer
    }

    pub(crate) fn get(&mut self, target: &str) -> Answer {
        self.call("GET", target, "")
    }

    /// Opens an event stream and takes its first block.
    pub(crate) fn stream(&mut self, target: &str) -> H2Sse {
        let (head, body) = self.start("GET", target, &[], b"").head(target);
        assert_eq!(head.status, 200, "V-2 {target}");
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-store"),
            ("x-accel-buffering", "no"),
        ] {
            assert_eq!(head.header(name), Some(value), "V-2");
        }
        let mut sse =
            H2Sse { runtime: self.runtime.clone(), body, blocks: Blocks::default(), is_over: false };
        assert_eq!(sse.block(), Some(Block::Retry(2000)), "V-3");
        sse
    }

    /// The next bytes of a body of this connection; none at its end.
    pub(crate) fn more(&mut self, body: &mut RecvStream) -> Option<Vec<u8>> {
        more(&self.runtime, body)
    }

    /// How many streams the server lets be open at once.
    pub(crate) fn streams_max(&mut self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Waits until the server has ended the connection.
    pub(crate) fn wait_for_end(&mut self) {
        let runtime = self.runtime.clone();
        wait(&runtime, "SH-2: the end of the connection", async {
            loop {
                match self.requests.clone().ready().await {
                    Err(_) => return,
                    Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                }
            }
        });
    }
}

impl Pending {
    /// Status and headers, and a body to be read.
    pub(crate) fn head(self, what: &str) -> (Answer, RecvStream) {
        let answer = wait(&self.runtime, what, self.answer);
        let answer = answer.unwrap_or_else(|error| panic!("T-1 {what}: {error}"));
        let status = answer.status().as_u16();
        let headers = answer.headers().iter();
        let headers: Vec<(String, String)> = headers
            .map(|(name, value)| (name.as_str().to_owned(), value.to_str().expect("ASCII").to_owned()))
            .collect();
        // These belong to a connection of HTTP/1.1 (RFC 9113, 8.2.2).
        for absent in ["connection", "transfer-encoding", "keep-alive", "upgrade"] {
            assert!(headers.iter().all(|(name, _)| name != absent), "T-1 {what}: {absent}");
        }
        (Answer { status, headers, body: Vec::new() }, answer.into_body())
    }

    pub(crate) fn answer(self, what: &str) -> Answer {
        let runtime = self.runtime.clone();
        let (mut answer, mut body) = self.head(what);
        while let Some(bytes) = more(&runtime, &mut body) {
            answer.body.extend(bytes);
        }
        answer
    }
}

/// The next bytes of a body, with their room given back; none at its end.
fn more(runtime: &Runtime, body: &mut RecvStream) -> Option<Vec<u8>> {
    let bytes = wait(runtime, "a body", body.data())?.unwrap_or_else(|error| panic!("T-1: a body: {error}"));
    body.flow_control().release_capacity(bytes.len()).expect("room to give back");
    Some(bytes.to_vec())
}

/// An event stream over HTTP/2. Dropped, it is reset.
pub(crate) struct H2Sse {
    runtime: Rc<Runtime>,
    body: RecvStream,
    blocks: Blocks,
    is_over: bool,
}

impl H2Sse {
    pub(crate) fn block(&mut self) -> Option<Block> {
        loop {
            if let Some(block) = self.blocks.next() {
                return Some(block);
            }
            if self.is_over {
                assert!(!self.blocks.is_torn(), "V-4: the stream ended inside a block");
                return None;
            }
            match more(&self.runtime, &mut self.body) {
                Some(bytes) => self.blocks.push(&bytes),
                None => self.is_over = true,
            }
        }
    }

    pub(crate) fn event(&mut self) -> Event {
        loop {
            match self.block() {
                Some(Block::Event(event)) => return event,
                Some(Block::Comment(_)) => {}
                other => panic!("an event, not {other:?}"),
            }
        }
    }

    /// The next event, which is of this kind and topic.
    pub(crate) fn expect(&mut self, kind: &str, topic: &str) -> Event {
        let event = self.event();
        assert_eq!((event.kind.as_str(), event.topic()), (kind, topic), "{event:?}");
        event
    }
}
