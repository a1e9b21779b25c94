//! The answer to a request that came over HTTP/2.

use super::conn::H2Conn;
use crate::exchange::Sink;
use crate::fault::Fault;
use crate::http::response::{DATE_BYTES, EVENT_STREAM, JSON};
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};

/// Most answers fit without growing.
const BODY_BYTES: usize = 512;

/// Collects the answer to the request of one stream. If the stream is gone, that comes to nothing.
pub(super) struct H2Sink<'a> {
    conn: &'a mut H2Conn,
    stream: u32,
    date: &'a [u8; DATE_BYTES],
    begun: Option<(u16, &'static str)>,
    body: Vec<u8>,
}

impl<'a> H2Sink<'a> {
    pub(super) fn new(conn: &'a mut H2Conn, stream: u32, date: &'a [u8; DATE_BYTES]) -> H2Sink<'a> {
        H2Sink { conn, stream, date, begun: None, body: Vec::new() }
    }

    fn head(&self, status: u16, media: &'static str) -> Response<()> {
        let mut head = Response::new(());
        *head.status_mut() = StatusCode::from_u16(status).expect("one of ours");
        let headers = head.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
        headers.insert(DATE, HeaderValue::from_bytes(self.date).expect("visible ASCII"));
        head
    }

    fn send(&mut self, mut head: Response<()>, omit_body: bool) {
        let mut body = std::mem::take(&mut self.body);
        head.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        if omit_body {
            body.clear(); // T-13
        }
        self.conn.respond(self.stream, head, body, false);
    }
}

impl Sink for H2Sink<'_> {
    fn begin(&mut self, status: u16, media: &'static str) {
        self.begun = Some((status, media));
        self.body = Vec::with_capacity(BODY_BYTES);
    }

    fn body(&mut self) -> &mut Vec<u8> {
        &mut self.body
    }

    fn finish(&mut self, omit_body: bool) {
        let (status, media) = self.begun.take().expect("begun");
        let head = self.head(status, media);
        self.send(head, omit_body);
    }

    fn cancel(&mut self) {
        self.begun = None;
        self.body.clear();
    }

    fn begin_stream(&mut self, omit_body: bool) {
        let mut head = self.head(200, EVENT_STREAM);
        head.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        head.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
        self.conn.respond(self.stream, head, Vec::new(), !omit_body);
    }

    fn fault(&mut self, fault: &Fault, omit_body: bool) {
        let mut head = self.head(fault.status(), JSON);
        if let Some(seconds) = fault.retry_after_seconds() {
            head.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = fault.allow() {
            head.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        self.body.clear();
        fault.render(&mut self.body);
        self.send(head, omit_body);
    }
}
