//! A topic's configuration (§2 of the HTTP contract), normalised, and its stored form.

use crate::error::{EngineError, FormatError};

/// Log or queue; never changes within an instance (CF-3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TopicType {
    /// Append-only log.
    #[default]
    Log,
    /// A log whose records are jobs.
    Queue,
}

/// What happens when a cap is hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Discard {
    /// Evict the oldest (CF-11, CF-12).
    #[default]
    Old,
    /// Refuse the write (CF-13).
    Reject,
}

/// Durability class: when a write is committed, published and acknowledged (I-40, semantics §5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Accepted in memory; no log frame.
    Ephemeral,
    /// Handed to the operating system, answered at submission.
    Memory,
    /// The log write completed: a kill loses nothing.
    #[default]
    Disk,
    /// Covered by a completed sync.
    Fsync,
}

/// All settings of a topic. `durable` is derived: `class == Fsync` (CF-5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// Log or queue.
    pub kind: TopicType,
    /// Age limit in ms, 0 = off (CF-10).
    pub ttl_ms: u64,
    /// Window of newest seqs, 0 = off (CF-11).
    pub cap_records: u64,
    /// Retained bytes, 0 = off (CF-12).
    pub cap_bytes: u64,
    /// Policy at a cap.
    pub discard: Discard,
    /// Commit class.
    pub class: Class,
    /// Fixed priority or none.
    pub priority: Option<i32>,
    /// Priority from recency (PR-1).
    pub auto_priority: bool,
    /// Consulted only for the config carried by a creating write (W-21).
    pub auto_create: bool,
    /// Dedup window in ms (U-3).
    pub idempotency_window_ms: u64,
    /// False turns node filtering off for reads (D-7).
    pub dedupe_node: bool,
    /// Default lease in ms, clamped to 100…86 400 000.
    pub lease_ms: u64,
    /// Claim window in ms, clamped to at most 5000.
    pub claim_jitter_ms: u64,
    /// Deliveries before dead-lettering, 0 = off.
    pub max_deliveries: u64,
    /// Dead-letter topic.
    pub dead_letter: Option<String>,
    /// Whether leases survive restarts (I-85).
    pub leases_durable: bool,
}

impl Default for TopicConfig {
    fn default() -> Self {
        TopicConfig {
            kind: TopicType::Log,
            ttl_ms: 0,
            cap_records: 0,
            cap_bytes: 0,
            discard: Discard::Old,
            class: Class::Disk,
            priority: None,
            auto_priority: true,
            auto_create: true,
            idempotency_window_ms: 120_000,
            dedupe_node: true,
            lease_ms: 30_000,
            claim_jitter_ms: 0,
            max_deliveries: 0,
            dead_letter: None,
            leases_durable: false,
        }
    }
}

/// Stored form: this many fixed bytes, then the dead-letter name.
///
/// ```text
///   at  bytes  field
///    0      1  kind: 0 log, 1 queue
///    1      1  discard: 0 old, 1 reject
///    2      1  class: 0 ephemeral, 1 memory, 2 disk, 3 fsync
///    3      1  flags: 1 auto_priority, 2 auto_create, 4 dedupe_node, 8 leases_durable,
///              16 has priority, 32 has dead_letter
///    4      4  priority
///    8     56  ttl_ms, cap_records, cap_bytes, idempotency_window_ms, lease_ms, claim_jitter_ms,
///              max_deliveries, eight bytes each
///   64      2  dead_letter length, then its bytes
/// ```
const FIXED_BYTES: usize = 66;

impl TopicConfig {
    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = self.auto_priority as u8
            | (self.auto_create as u8) << 1
            | (self.dedupe_node as u8) << 2
            | (self.leases_durable as u8) << 3
            | (self.priority.is_some() as u8) << 4
            | (self.dead_letter.is_some() as u8) << 5;
        out.extend_from_slice(&[self.kind as u8, self.discard as u8, self.class as u8, flags]);
        out.extend_from_slice(&self.priority.unwrap_or(0).to_le_bytes());
        for number in [
            self.ttl_ms,
            self.cap_records,
            self.cap_bytes,
            self.idempotency_window_ms,
            self.lease_ms,
            self.claim_jitter_ms,
            self.max_deliveries,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let name = self.dead_letter.as_deref().unwrap_or("").as_bytes();
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(name);
    }

    /// Reads the stored form from the front of `bytes`; returns it and its length.
    pub fn decode(bytes: &[u8]) -> Result<(TopicConfig, usize), FormatError> {
        let bad = || FormatError::new("topic configuration");
        let fixed = bytes.get(..FIXED_BYTES).ok_or_else(bad)?;
        let number = |at: usize| u64::from_le_bytes(fixed[at..at + 8].try_into().expect("eight bytes"));
        let flags = fixed[3];
        let name_bytes = u16::from_le_bytes([fixed[64], fixed[65]]) as usize;
        let name = bytes.get(FIXED_BYTES..FIXED_BYTES + name_bytes).ok_or_else(bad)?;
        let config = TopicConfig {
            kind: match fixed[0] {
                0 => TopicType::Log,
                1 => TopicType::Queue,
                _ => return Err(bad()),
            },
            discard: match fixed[1] {
                0 => Discard::Old,
                1 => Discard::Reject,
                _ => return Err(bad()),
            },
            class: match fixed[2] {
                0 => Class::Ephemeral,
                1 => Class::Memory,
                2 => Class::Disk,
                3 => Class::Fsync,
                _ => return Err(bad()),
            },
            auto_priority: flags & 1 != 0,
            auto_create: flags & 2 != 0,
            dedupe_node: flags & 4 != 0,
            leases_durable: flags & 8 != 0,
            priority: (flags & 16 != 0)
                .then(|| i32::from_le_bytes(fixed[4..8].try_into().expect("four bytes"))),
            ttl_ms: number(8),
            cap_records: number(16),
            cap_bytes: number(24),
            idempotency_window_ms: number(32),
            lease_ms: number(40),
            claim_jitter_ms: number(48),
            max_deliveries: number(56),
            dead_letter: if flags & 32 != 0 {
                Some(String::from_utf8(name.to_vec()).map_err(|_| bad())?)
            } else {
                None
            },
        };
        Ok((config, FIXED_BYTES + name_bytes))
    }

    /// Refuses a `dead_letter` that could never work: an illegal name, or a queue's own (§2). Only
    /// where the configuration is about to come into force (W-24).
    pub fn check(&self, own_name: &[u8]) -> Result<(), EngineError> {
        let Some(dead_letter) = &self.dead_letter else {
            return Ok(());
        };
        if !is_topic_name(dead_letter.as_bytes()) {
            return Err(EngineError::DeadLetterInvalid(dead_letter.clone()));
        }
        if self.kind == TopicType::Queue && dead_letter.as_bytes() == own_name {
            return Err(EngineError::DeadLetterSelf);
        }
        Ok(())
    }

    /// Whether the class is `fsync` (the `durable` member of responses, CF-5).
    pub fn durable(&self) -> bool {
        self.class == Class::Fsync
    }
}

/// Whether `name` is a legal topic name: `[A-Za-z0-9][A-Za-z0-9._:-]{0,254}` (NM-1).
pub fn is_topic_name(name: &[u8]) -> bool {
    matches!(name.first(), Some(b) if b.is_ascii_alphanumeric())
        && name.len() <= crate::limits::NAME_BYTES_MAX
        && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_survives_its_stored_form() {
        let all = TopicConfig {
            kind: TopicType::Queue,
            ttl_ms: u64::MAX,
            cap_records: 1,
            cap_bytes: 2,
            discard: Discard::Reject,
            class: Class::Fsync,
            priority: Some(-7),
            auto_priority: false,
            auto_create: false,
            idempotency_window_ms: 3,
            dedupe_node: false,
            lease_ms: 100,
            claim_jitter_ms: 5000,
            max_deliveries: 9,
            dead_letter: Some("dead".into()),
            leases_durable: true,
        };
        for config in [TopicConfig::default(), all] {
            let mut bytes = Vec::new();
            config.encode(&mut bytes);
            assert_eq!(TopicConfig::decode(&bytes), Ok((config, bytes.len())));
            for cut in 0..bytes.len() {
                assert!(TopicConfig::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
    }

    #[test]
    fn topic_names_follow_nm_1() {
        let long = "a".repeat(255);
        for (name, legal) in [
            ("a", true),
            ("9.a_b:c-d", true),
            (long.as_str(), true),
            ("", false),
            (".a", false),
            ("a/b", false),
            ("a>b", false),
            ("é", false),
        ] {
            assert_eq!(is_topic_name(name.as_bytes()), legal, "{name}");
        }
        assert!(!is_topic_name("a".repeat(256).as_bytes()));
    }
}
