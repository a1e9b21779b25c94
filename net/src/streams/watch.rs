//! The event stream of a watch session (§8.2): items of its topics as events, in order, each with its id.
//! Lives here: what follows from an item for the session, and how events look. Not here: credit, heartbeats,
//! connections ([`streams`](super)).

use super::id_line::IdLine;
use super::session::OpenSession;
use crate::feed::{FeedItem, FeedRead};
use crate::handlers::diff::reason_name;
use crate::http::json_out::{write_str, write_u64};
use runelog_engine::shard::Tombstone;

/// The first block (V-3, Q-70).
pub(crate) const RETRY: &[u8] = b"retry: 2000\n\n";
/// What is sent after silence (V-40).
pub(crate) const HEARTBEAT: &[u8] = b": hb\n\n";

/// What a stream does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Wait,
    /// The topic of this place is to be watched now.
    Open(usize),
    /// All topics are gone (V-32).
    End,
    /// Something cannot be read (I-98).
    Fail,
}

/// How far a topic is on this connection.
#[derive(Clone, Copy, Default)]
struct Place {
    /// Was read on this connection (V-20).
    read: bool,
    /// Was drained to its head, or is gone (V-11).
    drained: bool,
}

/// See the module's text.
pub(crate) struct WatchStream {
    session: OpenSession,
    id: IdLine,
    places: Box<[Place]>,
    /// Topics up to this one are, or were, watched.
    opened: usize,
    gone: usize,
}

impl WatchStream {
    /// A stream that resumes where the session stands, or before: `last_event_id` can only move it back
    /// (V-52).
    pub(crate) fn new(session: OpenSession, last_event_id: Option<&[u8]>) -> WatchStream {
        if let Some(text) = last_event_id {
            let names = session.topics.iter().map(|topic| &*topic.name);
            for (topic, given) in session.topics.iter().zip(super::id_line::decode(text, names)) {
                if let Some(given) = given.filter(|given| *given < topic.cursor()) {
                    topic.set_cursor(given);
                }
            }
        }
        let id = IdLine::new(session.topics.iter().map(|topic| (&*topic.name, topic.cursor())));
        let places = vec![Place::default(); session.topics.len()].into_boxed_slice();
        WatchStream { session, id, places, opened: 0, gone: 0 }
    }

    /// What comes first: the topics are opened one after another (V-11), and without any there is nothing
    /// to wait for (S-3).
    pub(crate) fn start(&mut self, out: &mut Vec<u8>) -> Next {
        out.extend_from_slice(RETRY);
        self.open_next()
    }

    pub(crate) fn session(&self) -> &super::session::Session {
        &self.session
    }

    /// The stream is over at that time, for its session.
    pub(crate) fn close(&mut self, now_ms: u64) {
        self.session.closed_ms = now_ms;
    }

    /// Where watching a topic begins.
    pub(crate) fn cursor(&self, place: usize) -> u64 {
        self.id.cursor(place)
    }

    /// SH-3: the last event.
    pub(crate) fn shutdown(&mut self, out: &mut Vec<u8>) {
        self.begin(out, b"error");
        out.extend_from_slice(
            b"{\"code\":\"server_shutting_down\",\"message\":\"the server is stopping; connect again\"}\n\n",
        );
    }

    /// Writes what an item says.
    pub(crate) fn on_item(&mut self, place: usize, item: &FeedItem, out: &mut Vec<u8>) -> Next {
        match item {
            FeedItem::Read(read) => self.on_read(place, read, out),
            FeedItem::Deleted => {
                self.begin(out, b"topic-deleted");
                self.topic(place, out);
                out.extend_from_slice(b",\"head_seq\":0,\"reason\":\"deleted\"}\n\n");
                self.gone += 1;
                let drained = std::mem::replace(&mut self.places[place].drained, true);
                match self.gone == self.places.len() {
                    true => Next::End,
                    false if !drained => self.open_next(),
                    false => Next::Wait,
                }
            }
            FeedItem::Failed => Next::Fail,
            FeedItem::Jobs(_) => unreachable!("a watch asks for no jobs"),
        }
    }

    fn on_read(&mut self, place: usize, read: &FeedRead, out: &mut Vec<u8>) -> Next {
        let first = !std::mem::replace(&mut self.places[place].read, true);
        if let Some(gap) = &read.tombstone {
            self.id.set(place, gap.gap_to);
            self.begin(out, b"tombstone");
            self.topic(place, out);
            write_gap(gap, first, out);
        }
        self.id.set(place, read.to_seq);
        // Produced is what counts, whether the client gets it or not (V-51).
        self.session.topics[place].set_cursor(read.to_seq);
        if !read.record.is_empty() {
            self.begin(out, b"record");
            out.push(b'{');
            write_line(&read.record, read.has_line_ends, out);
            out.extend_from_slice(b"}\n\n");
        }
        if !read.caught_up() {
            return Next::Wait;
        }
        let drained = std::mem::replace(&mut self.places[place].drained, true);
        if read.has_news() || !drained {
            self.begin(out, b"caught-up");
            self.topic(place, out);
            out.extend_from_slice(b",\"head_seq\":");
            write_u64(out, read.head_seq);
            out.extend_from_slice(b"}\n\n");
        }
        if drained { Next::Wait } else { self.open_next() }
    }

    fn open_next(&mut self) -> Next {
        let place = self.opened;
        if place == self.places.len() {
            return if self.gone == self.places.len() { Next::End } else { Next::Wait };
        }
        self.opened += 1;
        Next::Open(place)
    }

    /// The lines before an event's data (V-10).
    fn begin(&self, out: &mut Vec<u8>, event: &[u8]) {
        out.extend_from_slice(b"id: ");
        out.extend_from_slice(self.id.text());
        out.extend_from_slice(b"\nevent: ");
        out.extend_from_slice(event);
        out.extend_from_slice(b"\ndata: ");
    }

    fn topic(&self, place: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"topic\":");
        write_str(out, &self.session.topics[place].name);
    }
}

/// V-20: whatever the cause, a gap before the first record of a topic is a cursor that was too old.
fn write_gap(gap: &Tombstone, first: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"reason\":\"");
    let reason = if first { "from_seq_too_old" } else { reason_name(gap.reason) };
    out.extend_from_slice(reason.as_bytes());
    out.push(b'"');
    for (member, number) in [
        (&b",\"gap_from\":"[..], gap.gap_from),
        (b",\"gap_to\":", gap.gap_to),
        (b",\"earliest_seq\":", gap.earliest_seq),
        (b",\"head_seq\":", gap.head_seq),
    ] {
        out.extend_from_slice(member);
        write_u64(out, number);
    }
    out.extend_from_slice(b"}\n\n");
}

/// Appends JSON as a part of one line (V-4). Line ends can only stand between its tokens.
pub(crate) fn write_line(json: &[u8], has_line_ends: bool, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(json);
    if has_line_ends {
        for byte in out[start..].iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')) {
            *byte = b' ';
        }
    }
}

#[cfg(test)]
mod tests;
