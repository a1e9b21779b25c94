//! The client side is `h2`'s own, over the same bytes in memory, polled by hand.

use super::PREFACE;
use super::conn::{Event, H2Conn};
use super::pipe::Pipe;
use crate::limits::{
    H2_PING_EVERY_MS, H2_PING_TIMEOUT_MS, H2_STALLED_MS, H2_STREAM_WINDOW_BYTES, OUTPUT_BACKLOG_BYTES_MAX,
};
use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Request, Response, StatusCode};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

const BODY_BYTES_MAX: u64 = 3 << 20;

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// A client and the connection under test, joined by two vectors.
struct Rig {
    server: H2Conn,
    client: Connection<Pipe, Bytes>,
    send: SendRequest<Bytes>,
    pipe: Pipe,
    events: Vec<Event>,
    now_ms: u64,
    /// The client's side ended with this.
    client_end: Option<Result<(), h2::Error>>,
    /// Bytes the server sent so far.
    sent_bytes: usize,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(&Builder::new())
    }

    fn with(builder: &Builder) -> Rig {
        let pipe = Pipe::new(usize::MAX);
        let mut handshake = Box::pin(builder.handshake::<_, Bytes>(pipe.clone()));
        let Poll::Ready(Ok((send, client))) = poll(&mut handshake) else { panic!("it only writes") };
        let server = H2Conn::new(BODY_BYTES_MAX, 0);
        let (events, client_end) = (Vec::new(), None);
        let mut rig = Rig { server, client, send, pipe, events, now_ms: 0, client_end, sent_bytes: 0 };
        rig.turn();
        rig
    }

    /// Moves bytes until neither side has any.
    fn turn(&mut self) {
        loop {
            self.poll_client();
            let mut to_server = Vec::new();
            self.pipe.swap_output(&mut to_server);
            let mut to_client = Vec::new();
            // In pieces, so that nothing depends on where one read ends.
            for piece in to_server.chunks(7_001) {
                self.server.push(piece, self.now_ms);
                self.server.drive(&mut to_client, self.now_ms);
            }
            self.server.drive(&mut to_client, self.now_ms);
            self.events.extend(std::iter::from_fn(|| self.server.next_event()));
            self.sent_bytes += to_client.len();
            self.pipe.push(&to_client);
            if to_server.is_empty() && to_client.is_empty() {
                break;
            }
        }
    }

    fn poll_client(&mut self) {
        if self.client_end.is_none()
            && let Poll::Ready(end) = poll(&mut self.client)
        {
            self.client_end = Some(end);
        }
    }

    fn request(&mut self, request: Request<()>, over: bool) -> (ResponseFuture, SendStream<Bytes>) {
        assert!(matches!(self.send.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))));
        self.send.send_request(request, over).unwrap()
    }

    fn get(&mut self) -> ResponseFuture {
        let (response, _) = self.request(get(), true);
        self.turn();
        response
    }

    fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

fn get() -> Request<()> {
    Request::get("http://localhost/v0/health?a=b").header("accept", "x").body(()).unwrap()
}

fn post() -> Request<()> {
    Request::post("http://localhost/v0/topics/t").body(()).unwrap()
}

fn answer(status: StatusCode) -> Response<()> {
    Response::builder().status(status).header("content-type", "application/json").body(()).unwrap()
}

fn whole(response: &mut ResponseFuture) -> Response<RecvStream> {
    match poll(response) {
        Poll::Ready(response) => response.unwrap(),
        Poll::Pending => panic!("no answer yet"),
    }
}

/// What came of a body so far, and whether that is all.
fn read(body: &mut RecvStream) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    loop {
        match body.poll_data(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => return (bytes, false),
            Poll::Ready(None) => return (bytes, true),
            Poll::Ready(Some(chunk)) => {
                let chunk = chunk.unwrap();
                body.flow_control().release_capacity(chunk.len()).unwrap();
                bytes.extend_from_slice(&chunk);
            }
        }
    }
}

#[test]
fn the_preface_is_what_clients_send_first() {
    let pipe = Pipe::new(usize::MAX);
    let mut handshake = Box::pin(Builder::new().handshake::<_, Bytes>(pipe.clone()));
    assert!(poll(&mut handshake).is_ready());
    let mut sent = Vec::new();
    pipe.swap_output(&mut sent);
    assert!(sent.starts_with(PREFACE), "T-1");
}

#[test]
fn a_request_is_given_out_and_answered() {
    let mut rig = Rig::new();
    let mut response = rig.get();
    assert_eq!(rig.take_events(), [Event::Head(1)], "T-1");
    let head = rig.server.take_head(1).unwrap();
    assert_eq!((head.method.as_str(), head.uri.path(), head.uri.query()), ("GET", "/v0/health", Some("a=b")));
    assert_eq!(head.headers["accept"], "x");
    assert!(rig.server.take_head(1).is_none(), "once");
    assert!(!rig.server.awaits_body(1));
    rig.server.respond(1, answer(StatusCode::OK), b"{}".to_vec(), false);
    rig.server.answered();
    assert!(rig.server.wants_drive());
    rig.turn();
    let response = whole(&mut response);
    assert_eq!(response.status(), 200);
    assert_eq!(read(&mut response.into_body()), (b"{}".to_vec(), true));
    assert_eq!((rig.server.streams(), rig.take_events()), (0, vec![]));
}

#[test]
fn a_body_is_collected_when_it_is_asked_for() {
    // bytes, and whether they come in one frame
    for (bytes, at_once) in [(5, true), (100_000, false), (BODY_BYTES_MAX as usize, false)] {
        let mut rig = Rig::new();
        let (_response, mut body) = rig.request(post(), false);
        rig.turn();
        assert_eq!(rig.take_events(), [Event::Head(1)]);
        let data: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
        body.send_data(Bytes::from(data.clone()), true).unwrap();
        rig.turn();
        assert!(rig.take_events().is_empty(), "nobody asked");
        assert_eq!(rig.server.collected_bytes(), 0);
        rig.server.collect(1, false);
        rig.turn();
        assert_eq!(rig.take_events(), [Event::Body(1)], "{bytes} {at_once}");
        assert_eq!(rig.server.collected_bytes(), bytes as u64);
        assert_eq!(*rig.server.take_body(1), *data, "{bytes}");
        assert_eq!(rig.server.collected_bytes(), 0);
    }
}

#[test]
fn a_body_above_the_limit_is_told_of_and_let_through() {
    let mut rig = Rig::new();
    let (mut response, mut body) = rig.request(post(), false);
    rig.turn();
    rig.server.collect(1, false);
    body.send_data(Bytes::from(vec![b'x'; BODY_BYTES_MAX as usize + 1]), true).unwrap();
    rig.turn();
    assert_eq!(rig.take_events(), [Event::Head(1), Event::TooLarge(1)], "L-8");
    assert_eq!(rig.server.collected_bytes(), 0);
    rig.server.respond(1, answer(StatusCode::PAYLOAD_TOO_LARGE), b"no".to_vec(), false);
    rig.turn();
    assert_eq!(whole(&mut response).status(), 413);
    assert_eq!(rig.server.streams(), 0, "the client sent it all");
}

#[test]
fn an_unread_body_does_not_hold_the_answer_back() {
    let mut rig = Rig::new();
    let (mut response, mut body) = rig.request(post(), false);
    rig.turn();
    rig.server.respond(1, answer(StatusCode::NOT_FOUND), b"no".to_vec(), false);
    rig.server.discard(1);
    // Several windows of it.
    body.send_data(Bytes::from(vec![b'x'; 5 * H2_STREAM_WINDOW_BYTES as usize]), true).unwrap();
    rig.turn();
    let response = whole(&mut response);
    assert_eq!(response.status(), 404, "T-16");
    assert_eq!(read(&mut response.into_body()), (b"no".to_vec(), true));
    assert_eq!(rig.server.streams(), 0);
}

#[test]
fn a_client_that_waits_for_it_is_asked_for_its_body() {
    let mut rig = Rig::new();
    let (mut response, _body) = rig.request(post(), false);
    rig.turn();
    rig.server.collect(1, true);
    rig.turn();
    let information = response.poll_informational(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(Some(Ok(information))) = information else { panic!("T-5 no interim answer") };
    assert_eq!(information.status(), 100, "T-5");
}

#[test]
fn what_the_window_does_not_take_is_kept_and_follows() {
    let mut rig = Rig::with(Builder::new().initial_window_size(1000));
    let mut response = rig.get();
    let data: Vec<u8> = (0..300_000u32).map(|at| at as u8).collect();
    rig.server.respond(1, answer(StatusCode::OK), data.clone(), false);
    rig.turn();
    assert_eq!(rig.server.backlog(1), data.len() - 1000);
    assert_eq!(rig.server.backlog_bytes(), data.len() - 1000);
    let mut body = whole(&mut response).into_body();
    let mut got = Vec::new();
    loop {
        let (bytes, over) = read(&mut body);
        got.extend_from_slice(&bytes);
        if over {
            break;
        }
        rig.turn();
    }
    assert_eq!(got, data);
    assert_eq!((rig.server.backlog_bytes(), rig.server.streams()), (0, 0));
}

#[test]
fn what_the_socket_does_not_take_is_kept_and_follows() {
    let window = (4 * OUTPUT_BACKLOG_BYTES_MAX) as u32;
    let mut rig =
        Rig::with(Builder::new().initial_window_size(window).initial_connection_window_size(window));
    let mut response = rig.get();
    let data = vec![b'y'; 3 * OUTPUT_BACKLOG_BYTES_MAX];
    rig.server.respond(1, answer(StatusCode::OK), data.clone(), false);
    let mut out = Vec::new();
    rig.server.drive(&mut out, 0);
    rig.server.drive(&mut out, 0);
    assert!(out.len() < OUTPUT_BACKLOG_BYTES_MAX + (64 << 10), "{} bytes", out.len());
    rig.pipe.push(&out);
    rig.turn();
    let mut body = whole(&mut response).into_body();
    let mut got = Vec::new();
    loop {
        let (bytes, over) = read(&mut body);
        got.extend_from_slice(&bytes);
        if over {
            break;
        }
        rig.turn();
    }
    assert_eq!(got.len(), data.len());
}

#[test]
fn a_body_may_be_sent_as_it_comes() {
    let mut rig = Rig::with(Builder::new().initial_window_size(10));
    let mut response = rig.get();
    rig.server.respond(1, answer(StatusCode::OK), b"retry".to_vec(), true);
    rig.turn();
    let mut body = whole(&mut response).into_body();
    assert_eq!(read(&mut body), (b"retry".to_vec(), false));
    rig.turn();
    rig.take_events();
    rig.server.write(1, |out| out.extend_from_slice(b"first "));
    rig.server.write(1, |out| out.extend_from_slice(b"second "));
    rig.turn();
    assert_eq!(read(&mut body), (b"first seco".to_vec(), false));
    assert!(rig.server.backlog(1) > 0);
    assert!(rig.take_events().is_empty());
    rig.turn();
    assert_eq!(rig.take_events(), [Event::Drained(1)]);
    assert_eq!(read(&mut body), (b"nd ".to_vec(), false));
    rig.server.finish(1);
    rig.turn();
    assert_eq!(read(&mut body), (vec![], true));
    assert_eq!(rig.server.streams(), 0);
}

#[test]
fn a_stream_that_the_client_gives_up_is_told_of_once() {
    // What the server had done by then.
    for done in ["nothing", "collecting", "streaming"] {
        let mut rig = Rig::new();
        let (response, mut body) = rig.request(post(), false);
        rig.turn();
        match done {
            "collecting" => {
                rig.server.collect(1, false);
                body.send_data(Bytes::from_static(b"half"), false).unwrap();
            }
            "streaming" => rig.server.respond(1, answer(StatusCode::OK), vec![], true),
            _ => {}
        }
        rig.turn();
        body.send_reset(h2::Reason::CANCEL);
        drop(response);
        rig.turn();
        assert_eq!(rig.take_events(), [Event::Head(1), Event::Gone(1)], "{done}");
        assert_eq!((rig.server.streams(), rig.server.collected_bytes()), (0, 0), "{done}");
        // What comes later for it comes to nothing.
        rig.server.respond(1, answer(StatusCode::OK), b"late".to_vec(), false);
        rig.server.write(1, |_| panic!("{done}"));
        rig.turn();
        assert!(rig.take_events().is_empty() && rig.client_end.is_none(), "{done}");
    }
}

#[test]
fn the_end_of_the_connection_ends_its_streams() {
    let mut rig = Rig::new();
    let _first = rig.get();
    let _second = rig.get();
    rig.take_events();
    rig.server.peer_finished();
    rig.server.drive(&mut Vec::new(), 0);
    let mut gone: Vec<Event> = std::iter::from_fn(|| rig.server.next_event()).collect();
    gone.sort_by_key(|event| matches!(event, Event::Gone(3)));
    assert_eq!(gone, [Event::Gone(1), Event::Gone(3)]);
    assert!(rig.server.is_ended());
}

#[test]
fn bytes_that_are_not_http2_end_the_connection() {
    let mut rig = Rig::new();
    let _response = rig.get();
    rig.server.push(b"GET / HTTP/1.1\r\n\r\n", 0);
    let mut out = Vec::new();
    rig.server.drive(&mut out, 0);
    assert!(rig.server.is_ended());
    assert_eq!(out[3], 7, "a GOAWAY says why");
}

#[test]
fn streams_that_are_reset_at_once_end_the_connection() {
    let mut rig = Rig::new();
    // All in one read, as an attacker sends them.
    for _ in 0..100 {
        if !matches!(rig.send.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))) {
            break;
        }
        let (_, mut body) = rig.send.send_request(post(), false).unwrap();
        rig.poll_client();
        body.send_reset(h2::Reason::CANCEL);
        rig.poll_client();
    }
    rig.turn();
    assert!(rig.server.is_ended());
    let end = rig.client_end.expect("the server ended it").unwrap_err();
    assert_eq!(end.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
}

#[test]
fn what_was_given_up_counts_until_it_is_answered() {
    let mut rig = Rig::new();
    let mut refused = None;
    for sent in 0..3_000 {
        let (mut response, mut body) = rig.request(post(), false);
        rig.turn();
        if let Poll::Ready(Err(error)) = poll(&mut response) {
            refused = Some((sent, error.reason()));
            break;
        }
        body.send_reset(h2::Reason::CANCEL);
        rig.turn();
    }
    assert_eq!(refused, Some((2_048, Some(h2::Reason::REFUSED_STREAM))));
    rig.server.answered();
    let (mut response, _body) = rig.request(post(), false);
    rig.turn();
    assert!(poll(&mut response).is_pending(), "there is room for one more");
}

#[test]
fn header_bombs_are_refused() {
    let table = [
        // rule, how many fields, their bytes
        ("T-8 fields", 101, 1),
        ("T-8 bytes", 50, 8 << 10),
    ];
    for (rule, fields, bytes) in table {
        let mut rig = Rig::new();
        let mut request = Request::get("http://localhost/v0/health");
        for field in 0..fields {
            request = request.header(format!("x-{field}"), "v".repeat(bytes));
        }
        let (mut response, _) = rig.request(request.body(()).unwrap(), true);
        rig.turn();
        assert_eq!(whole(&mut response).status(), 431, "{rule}");
        assert!(rig.take_events().is_empty(), "{rule}");
        let _second = rig.get();
        assert_eq!(rig.take_events(), [Event::Head(3)], "{rule}: the connection goes on");
    }
}

#[test]
fn a_stop_lets_requests_in_progress_end_and_refuses_others() {
    let mut rig = Rig::new();
    let mut response = rig.get();
    rig.server.begin_stop();
    assert!(!rig.server.end_if_idle(), "SH-2");
    rig.turn();
    let mut late = rig.get();
    let Poll::Ready(Err(refused)) = poll(&mut late) else { panic!("SH-2") };
    assert_eq!(refused.reason(), Some(h2::Reason::REFUSED_STREAM), "SH-2");
    assert!(!rig.server.is_ended(), "SH-2");
    rig.server.respond(1, answer(StatusCode::OK), b"last".to_vec(), false);
    rig.server.answered();
    assert!(!rig.server.end_if_idle(), "SH-2 nothing was sent yet");
    rig.turn();
    assert_eq!(read(&mut whole(&mut response).into_body()), (b"last".to_vec(), true), "SH-2 it is all there");
    assert!(rig.server.end_if_idle(), "SH-2");
    rig.turn();
    assert!(rig.server.is_ended(), "SH-2");
    assert!(matches!(rig.client_end, Some(Ok(()))), "{:?}", rig.client_end);
}

#[test]
fn an_idle_connection_ends_at_a_stop() {
    let mut rig = Rig::new();
    rig.server.begin_stop();
    assert!(rig.server.end_if_idle(), "SH-2");
    let mut out = Vec::new();
    rig.server.drive(&mut out, 0);
    assert!(rig.server.is_ended(), "SH-2 whether the client reads or not");
    rig.pipe.push(&out);
    rig.poll_client();
    assert!(matches!(rig.client_end, Some(Ok(()))), "{:?}", rig.client_end);
}

#[test]
fn a_silent_client_is_pinged_and_then_given_up() {
    let mut rig = Rig::new();
    assert_eq!(rig.server.deadline_ms(), H2_PING_EVERY_MS, "T-10");
    rig.now_ms = H2_PING_EVERY_MS;
    assert!(rig.server.on_deadline(rig.now_ms));
    rig.turn(); // it answers
    assert_eq!(rig.server.deadline_ms(), 2 * H2_PING_EVERY_MS, "T-10");
    rig.now_ms = 2 * H2_PING_EVERY_MS;
    assert!(rig.server.on_deadline(rig.now_ms));
    let mut out = Vec::new();
    rig.server.drive(&mut out, rig.now_ms);
    assert_eq!(out[3], 6, "T-10 a PING");
    assert_eq!(rig.server.deadline_ms(), rig.now_ms + H2_PING_TIMEOUT_MS, "T-10");
    assert!(rig.server.on_deadline(rig.now_ms + H2_PING_TIMEOUT_MS - 1), "T-10");
    assert!(!rig.server.on_deadline(rig.now_ms + H2_PING_TIMEOUT_MS), "T-10");
}

#[test]
fn a_client_that_takes_nothing_of_its_answer_loses_it() {
    // whether the answer is whole, and whether it is given up
    for (more, given_up) in [(false, true), (true, false)] {
        let mut rig = Rig::with(Builder::new().initial_window_size(10));
        let _response = rig.get();
        rig.take_events();
        rig.server.respond(1, answer(StatusCode::OK), vec![b'z'; 100], more);
        rig.turn();
        assert!(rig.server.on_deadline(H2_STALLED_MS), "V-16");
        rig.turn();
        assert!(rig.take_events().is_empty());
        rig.server.on_deadline(H2_STALLED_MS + 1);
        rig.now_ms = H2_STALLED_MS + 1;
        rig.turn();
        assert_eq!(rig.take_events() == [Event::Gone(1)], given_up, "V-16 {more}");
        assert_eq!(rig.server.backlog_bytes() == 0, given_up);
    }
}

#[test]
fn a_body_must_come_in_its_time() {
    let mut rig = Rig::new();
    let (mut response, mut body) = rig.request(post(), false);
    rig.turn();
    rig.server.collect(1, false);
    body.send_data(Bytes::from(vec![0; 16_000]), false).unwrap();
    rig.turn();
    rig.take_events();
    rig.now_ms = 61_000; // a minute, and one second for the bytes that came
    rig.server.on_deadline(rig.now_ms);
    rig.turn();
    assert!(rig.take_events().is_empty());
    rig.now_ms += 1;
    rig.server.on_deadline(rig.now_ms);
    rig.turn();
    assert_eq!(rig.take_events(), [Event::Gone(1)]);
    assert_eq!(rig.server.collected_bytes(), 0);
    let Poll::Ready(Err(error)) = poll(&mut response) else { panic!("it was reset") };
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
}
