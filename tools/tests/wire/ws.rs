//! A WebSocket client (§9): the protocol is that of `tungstenite`, the members of each frame are checked here.

use crate::harness::{PATIENCE, Server};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::net::TcpStream;
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

/// A connection. Deliveries and replies may come in either order (WS-27), so each is kept for who asks.
pub(crate) struct Ws {
    pub(crate) socket: WebSocket<TcpStream>,
    deliveries: VecDeque<Value>,
    replies: VecDeque<Value>,
}

impl Server {
    pub(crate) fn websocket(&self) -> Ws {
        self.websocket_with(None).unwrap_or_else(|status| panic!("WS-1: {status}"))
    }

    /// Connects with a key, or tells the status of the refusal.
    pub(crate) fn websocket_with(&self, key: Option<&str>) -> Result<Ws, u16> {
        let mut request = format!("ws://{}/v0/ws", self.addr).into_client_request().expect("a request");
        if let Some(key) = key {
            request.headers_mut().insert("authorization", format!("Bearer {key}").parse().expect("a header"));
        }
        let stream = TcpStream::connect(self.addr).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        let config = WebSocketConfig::default().max_frame_size(None).max_message_size(None);
        match tungstenite::client::client_with_config(request, stream, Some(config)) {
            Ok((socket, answer)) => {
                assert!(!answer.headers().contains_key("sec-websocket-protocol"), "WS-1");
                Ok(Ws { socket, deliveries: VecDeque::new(), replies: VecDeque::new() })
            }
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                Err(answer.status().as_u16())
            }
            Err(error) => panic!("WS-1: {error}"),
        }
    }
}

impl Ws {
    pub(crate) fn send(&mut self, command: &Value) {
        self.send_text(&command.to_string());
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).expect("the server takes messages");
    }

    /// A command and its reply.
    pub(crate) fn ask(&mut self, command: &Value) -> Value {
        self.send(command);
        self.reply()
    }

    pub(crate) fn reply(&mut self) -> Value {
        loop {
            if let Some(reply) = self.replies.pop_front() {
                return reply;
            }
            self.receive();
        }
    }

    pub(crate) fn delivery(&mut self) -> Value {
        loop {
            if let Some(delivery) = self.deliveries.pop_front() {
                return delivery;
            }
            self.receive();
        }
    }

    fn receive(&mut self) {
        let frame = match self.socket.read().expect("a message") {
            Message::Text(text) => text,
            other => panic!("WS-4 WS-6: {other:?}"),
        };
        let frame: Value =
            serde_json::from_str(&frame).unwrap_or_else(|error| panic!("WS-4: {error}: {frame}"));
        let is_delivery = check(&frame);
        let queue = if is_delivery { &mut self.deliveries } else { &mut self.replies };
        queue.push_back(frame);
    }

    /// The next delivery, which is of this kind and topic.
    pub(crate) fn expect(&mut self, op: &str, topic: &str) -> Value {
        let delivery = self.delivery();
        assert_eq!((&delivery["op"], &delivery["topic"]), (&json!(op), &json!(topic)), "{delivery}");
        delivery
    }

    pub(crate) fn expect_records(&mut self, topic: &str, seqs: impl IntoIterator<Item = u64>) -> Value {
        let delivery = self.expect("record", topic);
        assert_eq!(seqs_of(&delivery), seqs.into_iter().collect::<Vec<u64>>(), "{delivery}");
        delivery
    }

    /// An `error` with this code.
    pub(crate) fn expect_fault(&mut self, request_id: &Value, code: &str, what: &str) {
        let reply = self.reply();
        let shown = (&reply["op"], &reply["request_id"], &reply["code"]);
        assert_eq!(shown, (&json!("error"), request_id, &json!(code)), "{what}: {reply}");
    }
}

pub(crate) fn seqs_of(delivery: &Value) -> Vec<u64> {
    let records = delivery["records"].as_array().unwrap_or_else(|| panic!("records: {delivery}"));
    records.iter().map(|record| record["$seq"].as_u64().expect("a seq")).collect()
}

/// Exactly the members of its kind; whether it is a delivery.
fn check(frame: &Value) -> bool {
    let (is_delivery, members): (bool, &[&str]) = match frame["op"].as_str().unwrap_or_default() {
        "subscribed" | "unsubscribed" => (false, &["request_id", "topics"]),
        "ack" => (
            false,
            &[
                "request_id",
                "topic",
                "first_seq",
                "last_seq",
                "seqs",
                "head_seq",
                "count",
                "created",
                "deduped",
                "performance",
            ],
        ),
        "pong" => (false, &["request_id"]),
        "error" if frame.get("request_id").is_some() => (false, &["request_id", "code", "message"]),
        "error" => (false, &["code", "message"]),
        "record" => (true, &["topic", "from_seq", "to_seq", "head_seq", "records"]),
        "tombstone" => (true, &["topic", "reason", "gap_from", "gap_to", "earliest_seq", "head_seq"]),
        "caught_up" => (true, &["topic", "head_seq"]),
        "topic_deleted" => (true, &["topic", "head_seq", "reason"]),
        other => panic!("§9: {other}: {frame}"),
    };
    let object = frame.as_object().expect("WS-4: an object");
    assert_eq!(object.len(), members.len() + 1, "§9 members: {frame}");
    assert!(members.iter().all(|name| object.contains_key(*name)), "§9 members: {frame}");
    is_delivery
}
