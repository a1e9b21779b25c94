//! Doors for the fuzzer (`tools/fuzz`) to what nobody else outside this crate may use. Only with the feature
//! `fuzzing`, which the server is never built with.

use crate::streams::{IdLine, decode_id};
use crate::ws::{Framing, Incoming};

/// The frames of one WebSocket.
pub struct Frames(Framing);

impl Default for Frames {
    fn default() -> Frames {
        Frames::new()
    }
}

impl Frames {
    /// Of a new connection.
    pub fn new() -> Frames {
        Frames(Framing::new())
    }

    /// Takes received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.push(bytes);
    }

    /// The next message: `Text` with the text, `Binary` or `End`. What is sent is appended to `out`.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Option<String> {
        self.0.next(out).map(|incoming| match incoming {
            Incoming::Text(text) => format!("Text {}", text.as_str()),
            Incoming::Binary => "Binary".into(),
            Incoming::End => "End".into(),
        })
    }
}

/// The id of an event stream whose topics, by ascending names, stood at these cursors and then moved.
pub fn event_id<'a>(topics: impl Iterator<Item = (&'a str, u64)> + Clone, moves: &[(usize, u64)]) -> Vec<u8> {
    let mut id = IdLine::new(topics);
    moves.iter().for_each(|(topic, cursor)| id.set(*topic, *cursor));
    id.text().to_vec()
}

/// The cursors that a `Last-Event-ID` has for topics.
pub fn decode_event_id(text: &[u8], names: &[&str]) -> Vec<Option<u64>> {
    decode_id(text, names.iter().copied()).collect()
}

/// Panics unless SSE2 and the plain code see the same in every 64 bytes of a text.
pub fn check_lanes(body: &[u8]) {
    crate::json::check_lanes(body);
}
