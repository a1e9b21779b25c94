//! Caps that hold over all cores (§13): topics and retained bytes. Two counters shared by the shards,
//! the only state that is; each is one atomic number, exact under concurrency (L-2, I-105).

use std::sync::atomic::{AtomicU64, Ordering};

/// See the module's text. A cap of 0 means unlimited (L-1).
#[derive(Debug, Default)]
pub struct Quota {
    max_topics: u64,
    max_bytes: u64,
    topics: AtomicU64,
    bytes: AtomicU64,
}

impl Quota {
    /// Caps, 0 = unlimited.
    pub fn new(max_topics: u64, max_bytes: u64) -> Quota {
        Quota { max_topics, max_bytes, ..Quota::default() }
    }

    /// The cap on topics.
    pub fn max_topics(&self) -> u64 {
        self.max_topics
    }

    /// The cap on bytes.
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Topics of all shards.
    pub fn topics(&self) -> u64 {
        self.topics.load(Ordering::Relaxed)
    }

    /// Bytes of all shards; 0 without a cap, since then nothing is counted.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Takes a place for a topic, if there is one.
    pub fn take_topic(&self) -> bool {
        take(&self.topics, 1, self.max_topics)
    }

    /// Counts what recovery found, whatever the cap (I-107).
    pub fn add_recovered(&self, topics: u64, bytes: u64) {
        self.topics.fetch_add(topics, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives a topic's place back.
    pub fn give_topic(&self) {
        self.topics.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes room for a batch, if the total stays within the cap (L-7).
    pub fn take_bytes(&self, bytes: u64) -> bool {
        self.max_bytes == 0 || take(&self.bytes, bytes, self.max_bytes)
    }

    /// Gives room back. Without a cap nothing is counted, so nothing is shared on the hot path.
    pub fn give_bytes(&self, bytes: u64) {
        if self.max_bytes != 0 && bytes != 0 {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

fn take(counter: &AtomicU64, amount: u64, max: u64) -> bool {
    let more = |now: u64| now.checked_add(amount).filter(|sum| max == 0 || *sum <= max);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}
