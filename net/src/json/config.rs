//! The topic configuration object of a request (§2): what was given, and what it comes to.
//! Lives here: its types, defaults, clamps (CF-1, CF-5), and the check of `dead_letter`.
//! Not here: comparing with a stored configuration (CF-3), and its stored form (`engine::config`).

use std::fmt;
use std::marker::PhantomData;

use runelog_engine::config::{Class, Discard, TopicConfig, TopicType, is_topic_name};
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

use super::fault::{BodyError, Fault, Why};
use super::reader::Reader;
use super::scan;

/// Bounds of `lease_ms`; a value outside is moved to the nearer one, visibly.
pub const LEASE_MS: std::ops::RangeInclusive<u64> = 100..=86_400_000;
/// Upper bound of `claim_jitter_ms`; a larger value is moved to it, visibly.
pub const CLAIM_JITTER_MS_MAX: u64 = 5000;

/// A configuration as given: absent members are none, `null` counts as absent where J-6 says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct ConfigRequest {
    /// `type`.
    #[serde(rename = "type", deserialize_with = "word")]
    pub kind: Option<TopicType>,
    /// `ttl_ms`.
    #[serde(deserialize_with = "count")]
    pub ttl_ms: Option<u64>,
    /// `cap_records`.
    #[serde(deserialize_with = "count")]
    pub cap_records: Option<u64>,
    /// `cap_bytes`.
    #[serde(deserialize_with = "count")]
    pub cap_bytes: Option<u64>,
    /// `discard`.
    #[serde(deserialize_with = "word")]
    pub discard: Option<Discard>,
    /// `durable`.
    #[serde(deserialize_with = "flag")]
    pub durable: Option<bool>,
    /// `durability`; wins over `durable` (CF-5).
    #[serde(deserialize_with = "word_or_null")]
    pub durability: Option<Class>,
    /// `priority`, as given.
    #[serde(deserialize_with = "priority")]
    pub priority: Option<i32>,
    /// `auto_priority`.
    #[serde(deserialize_with = "flag")]
    pub auto_priority: Option<bool>,
    /// `auto_create`.
    #[serde(deserialize_with = "flag")]
    pub auto_create: Option<bool>,
    /// `idempotency_window_ms`.
    #[serde(deserialize_with = "count")]
    pub idempotency_window_ms: Option<u64>,
    /// `dedupe_node`.
    #[serde(deserialize_with = "flag")]
    pub dedupe_node: Option<bool>,
    /// `lease_ms`, before the clamp.
    #[serde(deserialize_with = "count")]
    pub lease_ms: Option<u64>,
    /// `claim_jitter_ms`, before the clamp.
    #[serde(deserialize_with = "count")]
    pub claim_jitter_ms: Option<u64>,
    /// `max_deliveries`.
    #[serde(deserialize_with = "count")]
    pub max_deliveries: Option<u64>,
    /// `dead_letter`, not yet checked.
    pub dead_letter: Option<String>,
    /// `leases_durable`.
    #[serde(deserialize_with = "flag")]
    pub leases_durable: Option<bool>,
}

/// What is wrong with a `dead_letter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeadLetterError {
    /// Not a topic name: `400 invalid_request` with `{"dead_letter": name}` as its detail.
    Name(String),
    /// A queue naming itself: `400 invalid_request` without detail.
    Itself,
}

/// Reads the body of a PUT (§3.1); an empty one means `{}`.
pub fn parse_config(body: &[u8]) -> Result<ConfigRequest, BodyError> {
    if body.is_empty() {
        return Ok(ConfigRequest::default());
    }
    scan::validate(body)?;
    ConfigRequest::from_checked(body.trim_ascii_start())
}

impl ConfigRequest {
    /// Reads the members from `text`, which `scan` has found to be one JSON value.
    pub(super) fn from_checked(text: &[u8]) -> Result<ConfigRequest, BodyError> {
        // serde would take an array as a struct's fields in order (J-2).
        if text.first() != Some(&b'{') {
            return Err(Fault::new(0, Why::Type("an object")).into());
        }
        // simd-json unescapes in place, hence the copy. What it refuses, serde_json decides: it takes
        // integers of any length in members we ignore, and words its refusals better.
        simd_json::serde::from_slice(&mut text.to_vec()).or_else(|_| {
            serde_json::from_slice(text)
                .map_err(|error| faulty_member(text).unwrap_or_else(|| error_of("configuration", &error)))
        })
    }

    /// Defaults for what is missing (CF-1), the class from its two members (CF-5), and the clamps.
    pub fn normalise(self) -> TopicConfig {
        let absent = TopicConfig::default();
        let class = match (self.durability, self.durable) {
            (Some(class), _) => class,
            (None, Some(true)) => Class::Fsync,
            (None, Some(false) | None) => Class::Disk,
        };
        TopicConfig {
            kind: self.kind.unwrap_or(absent.kind),
            ttl_ms: self.ttl_ms.unwrap_or(absent.ttl_ms),
            cap_records: self.cap_records.unwrap_or(absent.cap_records),
            cap_bytes: self.cap_bytes.unwrap_or(absent.cap_bytes),
            discard: self.discard.unwrap_or(absent.discard),
            class,
            priority: self.priority,
            auto_priority: self.auto_priority.unwrap_or(absent.auto_priority),
            auto_create: self.auto_create.unwrap_or(absent.auto_create),
            idempotency_window_ms: self.idempotency_window_ms.unwrap_or(absent.idempotency_window_ms),
            dedupe_node: self.dedupe_node.unwrap_or(absent.dedupe_node),
            lease_ms: self.lease_ms.unwrap_or(absent.lease_ms).clamp(*LEASE_MS.start(), *LEASE_MS.end()),
            claim_jitter_ms: self.claim_jitter_ms.unwrap_or(absent.claim_jitter_ms).min(CLAIM_JITTER_MS_MAX),
            max_deliveries: self.max_deliveries.unwrap_or(absent.max_deliveries),
            dead_letter: self.dead_letter,
            leases_durable: self.leases_durable.unwrap_or(absent.leases_durable),
        }
    }

    /// Whether `dead_letter` may stand in the configuration of `topic_name`: a legal name, and on a
    /// queue not its own (CF-6). Apart from the parse because W-24 ignores it on existing topics.
    pub fn check_dead_letter(&self, topic_name: &[u8]) -> Result<(), DeadLetterError> {
        match &self.dead_letter {
            Some(name) if !is_topic_name(name.as_bytes()) => Err(DeadLetterError::Name(name.clone())),
            Some(name) if self.kind == Some(TopicType::Queue) && name.as_bytes() == topic_name => {
                Err(DeadLetterError::Itself)
            }
            _ => Ok(()),
        }
    }
}

/// The first member that cannot be read even alone: serde's errors tell a place, not a name.
#[cold]
fn faulty_member(text: &[u8]) -> Option<BodyError> {
    let mut reader = Reader::new(text);
    reader.open_object().ok()?;
    while let Ok(Some(name)) = reader.next_member() {
        let (start, end) = reader.skip().ok()?;
        let quoted = &text[name.start - 1..=name.end];
        let alone = [b"{", quoted, b":", &text[start..end], b"}"].concat();
        if let Err(error) = serde_json::from_slice::<ConfigRequest>(&alone) {
            let name = String::from_utf8_lossy(&text[name.start..name.end]);
            return Some(error_of(&format!("`{name}`"), &error));
        }
    }
    None
}

/// Without serde's "at line 1 column 2", which would be a place in a part of the body.
fn error_of(what: &str, error: &serde_json::Error) -> BodyError {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    BodyError::Invalid(format!("{what}: {message}"))
}

/// An enumeration spelled as lower-case words (J-7).
trait Word: Copy + 'static {
    const EXPECTED: &'static str;
    const WORDS: &'static [(&'static str, Self)];
}

impl Word for TopicType {
    const EXPECTED: &'static str = "\"log\" or \"queue\"";
    const WORDS: &'static [(&'static str, Self)] = &[("log", TopicType::Log), ("queue", TopicType::Queue)];
}

impl Word for Discard {
    const EXPECTED: &'static str = "\"old\" or \"reject\"";
    const WORDS: &'static [(&'static str, Self)] = &[("old", Discard::Old), ("reject", Discard::Reject)];
}

impl Word for Class {
    const EXPECTED: &'static str = "\"ephemeral\", \"memory\", \"disk\", \"fsync\" or null";
    const WORDS: &'static [(&'static str, Self)] = &[
        ("ephemeral", Class::Ephemeral),
        ("memory", Class::Memory),
        ("disk", Class::Disk),
        ("fsync", Class::Fsync),
    ];
}

// Visitors of our own where serde's are too kind: its enums take {"log":null} for "log". All ask for
// "any" type, so that the text decides what it is and no reader converts on our behalf.

struct WordVisitor<T> {
    null_is_absent: bool,
    kind: PhantomData<T>,
}

impl<T: Word> Visitor<'_> for WordVisitor<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Option<T>, E> {
        let found = T::WORDS.iter().find(|(word, _)| *word == text);
        found.map(|&(_, value)| Some(value)).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_unit<E: Error>(self) -> Result<Option<T>, E> {
        if self.null_is_absent { Ok(None) } else { Err(E::invalid_type(Unexpected::Unit, &self)) }
    }
}

fn word<'de, D: Deserializer<'de>, T: Word>(from: D) -> Result<Option<T>, D::Error> {
    from.deserialize_any(WordVisitor { null_is_absent: false, kind: PhantomData })
}

fn word_or_null<'de, D: Deserializer<'de>, T: Word>(from: D) -> Result<Option<T>, D::Error> {
    from.deserialize_any(WordVisitor { null_is_absent: true, kind: PhantomData })
}

fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<Option<bool>, D::Error> {
    bool::deserialize(from).map(Some)
}

struct CountVisitor;

impl Visitor<'_> for CountVisitor {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer from 0 to 18446744073709551615")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Option<u64>, E> {
        Ok(Some(value))
    }
}

fn count<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    from.deserialize_any(CountVisitor)
}

struct PriorityVisitor;

impl Visitor<'_> for PriorityVisitor {
    type Value = Option<i32>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer from -2147483648 to 2147483647 or null")
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Option<i32>, E> {
        let small = i32::try_from(value);
        small.map(Some).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Option<i32>, E> {
        // simd-json alone brings a `-0` here; serde_json calls it a float, and both must agree.
        let small = i32::try_from(value).ok().filter(|&value| value != 0);
        small.map(Some).ok_or_else(|| E::invalid_value(Unexpected::Signed(value), &self))
    }

    fn visit_unit<E: Error>(self) -> Result<Option<i32>, E> {
        Ok(None)
    }
}

fn priority<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i32>, D::Error> {
    from.deserialize_any(PriorityVisitor)
}
