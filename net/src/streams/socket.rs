//! What a WebSocket is told of the topics it subscribed to (§9): items as frames, in order.
//! Lives here: its subscriptions, and how an item looks. Not here: commands (`ws`), credit
//! ([`streams`](super)).

use crate::feed::{FeedItem, FeedRead};
use crate::handlers::diff::reason_name;
use crate::http::json_out::{write_str, write_u64};
use crate::json::watch::Delivery;
use crate::slab::Key;
use crate::ws::push_text;
use ahash::AHashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a connection wants of its subscriptions.
pub(crate) enum SocketCommand {
    /// Topics with where to begin, and what to deliver of them.
    Subscribe { topics: Vec<(Box<str>, u64)>, options: Arc<Delivery> },
    /// Topics of which nothing more is wanted; unknown ones too (WS-26).
    Unsubscribe(Vec<Box<str>>),
}

struct Subscription {
    topic: Box<str>,
    /// Its watcher.
    watcher: Key,
    /// Was drained to its head.
    drained: bool,
}

/// See the module's text.
pub(crate) struct SocketStream {
    /// By place.
    subscriptions: Vec<Option<Subscription>>,
    free: Vec<usize>,
    by_topic: AHashMap<Box<str>, usize>,
    /// How many there are, for the connection.
    count: Arc<AtomicUsize>,
    frame: Vec<u8>,
}

impl SocketStream {
    pub(crate) fn new(count: Arc<AtomicUsize>) -> SocketStream {
        SocketStream {
            subscriptions: Vec::new(),
            free: Vec::new(),
            by_topic: AHashMap::new(),
            count,
            frame: Vec::new(),
        }
    }

    /// How many topics are subscribed to.
    pub(crate) fn count(&self) -> usize {
        self.by_topic.len()
    }

    /// A place for a topic that is not subscribed to; [`SocketStream::fill`] follows.
    pub(crate) fn free_place(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.subscriptions.push(None);
            self.subscriptions.len() - 1
        })
    }

    /// What comes from that watcher comes as items of this place.
    pub(crate) fn fill(&mut self, place: usize, topic: Box<str>, watcher: Key) {
        self.by_topic.insert(topic.clone(), place);
        self.subscriptions[place] = Some(Subscription { topic, watcher, drained: false });
        self.counted();
    }

    /// Ends a subscription; returns its watcher.
    pub(crate) fn remove(&mut self, topic: &str) -> Option<Key> {
        let place = self.by_topic.remove(topic)?;
        self.counted();
        self.free.push(place);
        self.subscriptions[place].take().map(|subscription| subscription.watcher)
    }

    fn counted(&self) {
        self.count.store(self.by_topic.len(), Ordering::Relaxed);
    }

    /// SH-3: the last message but the answers to commands that are at work.
    pub(crate) fn shutdown(out: &mut Vec<u8>) {
        push_text(
            &[b"{\"op\":\"error\",\"code\":\"server_shutting_down\",\
                \"message\":\"the server is stopping; connect again\"}"],
            out,
        );
    }

    /// Writes what an item says.
    pub(crate) fn on_item(&mut self, place: usize, item: &FeedItem, out: &mut Vec<u8>) {
        let Some(subscription) = self.subscriptions.get_mut(place).and_then(Option::as_mut) else { return };
        let mut frame = std::mem::take(&mut self.frame);
        match item {
            FeedItem::Read(read) => subscription.on_read(read, &mut frame, out),
            FeedItem::Deleted => {
                begin(b"topic_deleted", &subscription.topic, &mut frame);
                push_text(&[&frame, b",\"head_seq\":0,\"reason\":\"deleted\"}"], out);
            }
            FeedItem::Jobs(_) => unreachable!("it never asks for work"),
            FeedItem::Failed => {
                // I-98: nothing is passed over; the client learns that it is not told any more.
                frame.clear();
                let message = format!("topic {} cannot be read; its subscription ended", subscription.topic);
                frame.extend_from_slice(
                    b"{\"op\":\"error\",\"request_id\":null,\"code\":\"internal\",\"message\":",
                );
                write_str(&mut frame, &message);
                push_text(&[&frame, b"}"], out);
            }
        }
        if !matches!(item, FeedItem::Read(_)) {
            let topic = subscription.topic.clone();
            self.remove(&topic); // WS-33
        }
        self.frame = frame;
    }
}

impl Subscription {
    fn on_read(&mut self, read: &FeedRead, frame: &mut Vec<u8>, out: &mut Vec<u8>) {
        if let Some(gap) = &read.tombstone {
            begin(b"tombstone", &self.topic, frame);
            frame.extend_from_slice(b",\"reason\":\"");
            frame.extend_from_slice(reason_name(gap.reason).as_bytes()); // WS-31
            frame.push(b'"');
            for (member, number) in [
                (&b",\"gap_from\":"[..], gap.gap_from),
                (b",\"gap_to\":", gap.gap_to),
                (b",\"earliest_seq\":", gap.earliest_seq),
                (b",\"head_seq\":", gap.head_seq),
            ] {
                frame.extend_from_slice(member);
                write_u64(frame, number);
            }
            push_text(&[frame, b"}"], out);
        }
        if !read.record.is_empty() {
            push_text(&[b"{\"op\":\"record\",", &read.record, b"}"], out);
        }
        if !read.caught_up() {
            return;
        }
        let drained = std::mem::replace(&mut self.drained, true);
        if read.has_news() || !drained {
            begin(b"caught_up", &self.topic, frame);
            frame.extend_from_slice(b",\"head_seq\":");
            write_u64(frame, read.head_seq);
            push_text(&[frame, b"}"], out);
        }
    }
}

fn begin(op: &[u8], topic: &str, frame: &mut Vec<u8>) {
    frame.clear();
    for part in [&b"{\"op\":\""[..], op, b"\",\"topic\":"] {
        frame.extend_from_slice(part);
    }
    write_str(frame, topic);
}

#[cfg(test)]
mod tests;
