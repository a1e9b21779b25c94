//! The body of a watch session (§8.1) as a value, and what a stream delivers of each topic (also §9).
//! Lives here: its members, defaults and clamps, the `topics` map.
//! Not here: sessions, prefixes, which topics exist.

use std::collections::BTreeMap;

use super::control::{DIFF_RECORDS_DEFAULT, NodeSet, bytes_limit, node_set, records_limit};
use super::fault::{BodyError, Fault};
use super::reader::{Reader, Wrong, each_member, members};

/// Topics of a session, or of one `subscribe`, at most (L-9).
pub const WATCH_TOPICS_MAX: usize = 256;
/// Byte budget of an event when the session names none.
const EVENT_BYTES_DEFAULT: u64 = 262_144;
const HEARTBEAT_MS_DEFAULT: u64 = 15_000;
/// Shortest and longest `heartbeat_ms`; tests may lower the first.
pub const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 1_000..=60_000;

/// What a stream delivers of a topic, and in which portions. Two watchers with equal ones that stand at
/// the same seq get the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Delivery {
    /// Nodes whose records are dropped (D-7).
    pub nodes: NodeSet,
    /// Records of one event at most, 1…1000.
    pub limit: u32,
    /// Byte budget of one event, 1…8 388 608.
    pub max_batch_bytes: u64,
    /// Whether records carry `data`.
    pub include_data: bool,
    /// Whether records carry `$tag`.
    pub include_tags: bool,
    /// Whether records carry `meta`.
    pub include_meta: bool,
}

impl Delivery {
    /// Everything but tags, of every node, in portions of `limit` and `max_batch_bytes`.
    pub(super) fn plain(limit: u32, max_batch_bytes: u64) -> Delivery {
        Delivery {
            nodes: NodeSet::default(),
            limit,
            max_batch_bytes,
            include_data: true,
            include_tags: false,
            include_meta: true,
        }
    }

    /// Reads the member of that name, which is one of a delivery.
    pub(super) fn take(&mut self, reader: &mut Reader<'_>, member: &str) -> Result<(), Fault> {
        match member {
            "node" => self.nodes = node_set(reader)?,
            "limit" => self.limit = records_limit(reader)?,
            "max_batch_bytes" => self.max_batch_bytes = bytes_limit(reader)?,
            "include_data" => self.include_data = reader.boolean()?,
            "include_tags" => self.include_tags = reader.boolean()?,
            "include_meta" => self.include_meta = reader.boolean()?,
            _ => unreachable!("not a member of a delivery"),
        }
        Ok(())
    }
}

/// Where a topic is begun: `tail` wins over `from_seq`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Exclusive lower bound.
    pub from_seq: u64,
    /// Begin at the head instead.
    pub tail: bool,
}

/// The topics of a session, by name. More than [`WATCH_TOPICS_MAX`] are only counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicMap {
    topics: BTreeMap<Box<str>, Start>,
    too_many: bool,
}

impl TopicMap {
    /// Whether no topic is named.
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// The topics in ascending order of their names (V-11), refused if there are none or too many.
    pub fn checked(self) -> Result<BTreeMap<Box<str>, Start>, BodyError> {
        if self.topics.is_empty() {
            return Err(BodyError::invalid("`topics` must name at least one topic"));
        }
        if self.too_many {
            return Err(BodyError::invalid(format!("at most {WATCH_TOPICS_MAX} topics may be named")));
        }
        Ok(self.topics)
    }

    /// Adds a topic unless it is there (WS-23).
    pub(super) fn add(&mut self, name: Box<str>, start: Start) {
        if !self.topics.contains_key(&name) {
            self.set(name, start);
        }
    }

    fn set(&mut self, name: Box<str>, start: Start) {
        if self.topics.len() == WATCH_TOPICS_MAX && !self.topics.contains_key(&name) {
            self.too_many = true;
            return;
        }
        self.topics.insert(name, start);
    }

    /// Reads the map; of a name given twice the last occurrence counts (J-4).
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<TopicMap, Wrong> {
        let mut map = TopicMap::default();
        reader.open_object()?;
        while let Some(name) = reader.next_member()? {
            let name = String::from_utf8_lossy(&reader.owned(name)).into();
            let mut start = Start::default();
            if reader.peek() != b'{' {
                return Err(reader.mistyped("an object of topics, each with an object of options").into());
            }
            members(reader, &["from_seq", "tail"], |reader, member| {
                match member {
                    "from_seq" => start.from_seq = reader.u64()?,
                    _ => start.tail = reader.boolean()?,
                }
                Ok(())
            })?;
            map.set(name, start);
        }
        Ok(map)
    }
}

/// The body of a watch, with defaults and clamps applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRequest {
    /// In ascending order of names; 1…256.
    pub topics: BTreeMap<Box<str>, Start>,
    /// What the events carry.
    pub delivery: Delivery,
    /// Silence after which a comment is sent.
    pub heartbeat_ms: u64,
}

/// Reads the body of a watch. `heartbeat_ms_min` is the start of [`HEARTBEAT_MS`] but in tests.
pub fn parse_watch(body: &[u8], heartbeat_ms_min: u64) -> Result<WatchRequest, BodyError> {
    let mut topics = None;
    let mut delivery = Delivery::plain(DIFF_RECORDS_DEFAULT, EVENT_BYTES_DEFAULT);
    let mut heartbeat_ms = HEARTBEAT_MS_DEFAULT;
    each_member(body, &MEMBERS, |reader, member| {
        match member {
            "topics" => topics = Some(TopicMap::read(reader)?),
            "heartbeat_ms" => {
                heartbeat_ms = reader.u64()?.clamp(heartbeat_ms_min, *HEARTBEAT_MS.end());
            }
            "consistency" => {
                reader.word(&[("eventual", ()), ("strong", ())], "\"eventual\" or \"strong\"")?;
            }
            other => delivery.take(reader, other)?,
        }
        Ok(())
    })?;
    let topics = topics.ok_or_else(|| BodyError::invalid("`topics` is missing"))?.checked()?;
    Ok(WatchRequest { topics, delivery, heartbeat_ms })
}

const MEMBERS: [&str; 9] = [
    "topics",
    "heartbeat_ms",
    "consistency",
    "node",
    "limit",
    "max_batch_bytes",
    "include_data",
    "include_tags",
    "include_meta",
];

#[cfg(test)]
mod tests;
