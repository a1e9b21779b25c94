//! What passes between the owner of a topic and the streams that watch it: what a watcher is told, and the
//! commands back. What it wants to see is a [`Delivery`].
//! Lives here: the types only. The owner's side is `service::watch`, the streams' `streams`.
//!
//! A watcher *stands*: after an item its cursor moves and it waits for more without another message, as
//! long as the bytes it was sent and has not given back as credit stay below its window. An item is
//! rendered once for all watchers with equal options and cursor, and shared.

use crate::json::watch::Delivery;
use crate::streams::work::WorkRequest;
use runelog_engine::shard::Tombstone;
use std::sync::Arc;

/// What a watcher is told. It moves the watcher's cursor to [`FeedItem::to_seq`].
#[derive(Debug)]
pub(crate) enum FeedItem {
    /// One read of the topic.
    Read(FeedRead),
    /// Jobs for a work stream, as the events that it sends (§10.7).
    Jobs(Box<[u8]>),
    /// The topic is gone: the watcher is closed (V-30).
    Deleted,
    /// Stored bytes could not be read, or the log failed under the read: the watcher is closed, its
    /// cursor stays (I-98).
    Failed,
}

/// What one read found.
#[derive(Debug)]
pub(crate) struct FeedRead {
    /// A gap that comes before the records; its true reason (WS-31).
    pub(crate) tombstone: Option<Box<Tombstone>>,
    /// The members of a `record` event from `"topic":` on, without braces; empty if no record was found.
    pub(crate) record: Box<[u8]>,
    /// There are line ends between the tokens of a payload: an event stream must not send them (V-4).
    pub(crate) has_line_ends: bool,
    /// The cursor behind it: the last examined seq.
    pub(crate) to_seq: u64,
    pub(crate) head_seq: u64,
}

impl FeedRead {
    /// Whether it drained the topic to its head.
    pub(crate) fn caught_up(&self) -> bool {
        self.to_seq == self.head_seq
    }

    /// Whether there is something to be said besides the cursor (V-14).
    pub(crate) fn has_news(&self) -> bool {
        self.tombstone.is_some() || !self.record.is_empty()
    }
}

/// What an item counts toward its watcher's window besides its record: tombstone, `caught-up`, id.
const ITEM_OVERHEAD_BYTES: u64 = 256;

impl FeedItem {
    /// What the item counts toward its watcher's window, for both sides.
    pub(crate) fn window_bytes(&self) -> u64 {
        match self {
            FeedItem::Read(read) => read.record.len() as u64 + ITEM_OVERHEAD_BYTES,
            FeedItem::Jobs(events) => events.len() as u64 + ITEM_OVERHEAD_BYTES,
            FeedItem::Deleted | FeedItem::Failed => ITEM_OVERHEAD_BYTES,
        }
    }
}

/// An item on its way to the streams of one core.
pub(crate) struct Feed {
    /// Tokens of [`WatchCommand::Open`].
    pub(crate) watchers: Vec<u64>,
    pub(crate) item: Arc<FeedItem>,
}

/// What a stream tells the owner of a topic.
pub(crate) enum WatchCommand {
    /// A watcher begins to stand. It gets at least one item.
    Open(Box<OpenWatch>),
    /// A work stream begins to wait for jobs.
    Work(Box<OpenWork>),
    /// Bytes that watchers have passed on.
    Credit(Vec<(u64, u64)>),
    /// Watchers that want nothing more; items on their way may still come.
    Close(Vec<u64>),
}

/// See [`WatchCommand::Open`].
pub(crate) struct OpenWatch {
    /// Names the watcher, for the core that opens it. Never used twice by one core.
    pub(crate) token: u64,
    pub(crate) topic: Box<str>,
    pub(crate) from_seq: u64,
    pub(crate) options: Arc<Delivery>,
    /// Nothing is sent while so many bytes are on their way.
    pub(crate) window_bytes: u64,
}

/// See [`WatchCommand::Work`].
pub(crate) struct OpenWork {
    /// Names the stream, like a watcher.
    pub(crate) token: u64,
    pub(crate) request: WorkRequest,
    /// Nothing is sent while so many bytes are on their way.
    pub(crate) window_bytes: u64,
}
