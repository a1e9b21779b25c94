//! A server for tests: speaks just enough HTTP/1.1, answers as it is told, and breaks off where asked.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What came in.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Method and target.
    pub(crate) line: String,
    /// The body.
    pub(crate) body: String,
}

/// What goes out.
pub(crate) enum Reply {
    /// A status and a JSON body.
    Json(u16, String),
    /// The same, but the connection closes in the middle of the body.
    Half(u16, String),
    /// The connection closes without an answer.
    Close,
}

type Handler = Box<dyn FnMut(&Request) -> Reply + Send>;

/// A running fake; it ends with the test process.
pub(crate) struct Fake {
    /// `http://127.0.0.1:port`
    pub(crate) url: String,
    connections: Arc<AtomicUsize>,
}

impl Fake {
    /// Answers every request with what `handler` says; one at a time, over all connections.
    pub(crate) fn start(handler: impl FnMut(&Request) -> Reply + Send + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("a bound listener"));
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let handler: Arc<Mutex<Handler>> = Arc::new(Mutex::new(Box::new(handler)));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                let handler = handler.clone();
                std::thread::spawn(move || serve(stream.expect("a connection"), &handler));
            }
        });
        Fake { url, connections }
    }

    /// How many connections were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn serve(mut stream: TcpStream, handler: &Mutex<Handler>) {
    let mut input = BufReader::new(stream.try_clone().expect("a second handle"));
    while let Some(request) = read(&mut input) {
        let (status, body, cut) = match (handler.lock().expect("no handler panicked"))(&request) {
            Reply::Json(status, body) => (status, body, false),
            Reply::Half(status, body) => (status, body, true),
            Reply::Close => return,
        };
        let sent = if cut { body.len() / 2 } else { body.len() };
        let head = format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nRetry-After: 0\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(head.as_bytes()).is_err() || stream.write_all(&body.as_bytes()[..sent]).is_err() {
            return;
        }
        if cut {
            return;
        }
    }
}

fn read(input: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    if input.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut length = 0;
    loop {
        let mut header = String::new();
        input.read_line(&mut header).ok()?;
        let Some((name, value)) = header.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().expect("a length");
        }
        assert!(!name.eq_ignore_ascii_case("transfer-encoding"), "the fake reads lengths only");
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body).ok()?;
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_string();
    Some(Request { line, body: String::from_utf8(body).expect("UTF-8") })
}
