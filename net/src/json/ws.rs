//! The commands of a WebSocket (§9) as values.
//! Lives here: which command a message is, its members and defaults; what is `invalid_json` (WS-20) and
//! what is not.
//! Not here: frames, scopes and prefixes, subscriptions, and what a publish does (`write` reads it).

use std::collections::BTreeMap;

use super::control::DIFF_BYTES_DEFAULT;
use super::fault::{BodyError, Fault};
use super::reader::{Reader, each_member};
use super::watch::{Delivery, Start, TopicMap};
use super::write::{WriteHead, WriteScratch, parse_write};
use runelog_engine::limits::DIFF_RECORDS_MAX;

/// Names of one `unsubscribe` at most.
pub const UNSUBSCRIBE_NAMES_MAX: usize = 10_000;

/// A command with the bytes of its `request_id` as they were sent: any JSON value, `null` if absent.
#[derive(Debug)]
pub struct Command<'a> {
    /// To be echoed (WS-8).
    pub request_id: &'a [u8],
    /// What to do.
    pub action: Action,
}

/// What a command asks for.
#[derive(Debug)]
pub enum Action {
    /// `subscribe`.
    Subscribe(SubscribeRequest),
    /// `unsubscribe`: the names as given, those of the array first.
    Unsubscribe(Vec<Box<str>>),
    /// `publish`; its records are in the scratch, its spans point into the message.
    Publish(PublishRequest),
    /// `ping`.
    Ping,
}

/// A `subscribe`, with defaults and clamps applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscribeRequest {
    /// In ascending order of names; 1…256.
    pub topics: BTreeMap<Box<str>, Start>,
    /// What the frames carry.
    pub delivery: Delivery,
    /// Unknown topics are dropped (WS-24).
    pub lenient: bool,
}

/// A `publish` without its records.
#[derive(Debug)]
pub struct PublishRequest {
    /// Where to.
    pub topic: Box<str>,
    /// Whether the ack lists the seqs.
    pub return_seqs: bool,
    /// The write; its limits are not judged yet (`WriteHead::check_limits`), because scopes come first.
    pub write: WriteHead,
}

/// Why a message is no command that can be carried out.
#[derive(Debug, PartialEq, Eq)]
pub enum CommandError<'a> {
    /// `invalid_json`, with `request_id` null even if one was sent (WS-20).
    InvalidJson(BodyError),
    /// Readable, but refused: the code of the error over HTTP, without its detail (WS-21).
    Refused {
        /// To be echoed.
        request_id: &'a [u8],
        /// What is wrong.
        error: BodyError,
    },
}

impl From<BodyError> for CommandError<'_> {
    fn from(error: BodyError) -> Self {
        CommandError::InvalidJson(error)
    }
}

/// Reads a text message. The scratch gets the records of a publish.
pub fn parse_command<'a>(
    message: &'a [u8],
    scratch: &mut WriteScratch,
) -> Result<Command<'a>, CommandError<'a>> {
    let outline = Outline::read(message)?;
    let request_id = outline.request_id.unwrap_or(b"null");
    let action = match outline.op {
        Some(Op::Subscribe) => subscribe(message)?,
        Some(Op::Unsubscribe) => unsubscribe(message)?,
        Some(Op::Publish) => Ok(publish(message, &outline, scratch)?),
        Some(Op::Ping) => Ok(Action::Ping),
        None => return Err(BodyError::invalid("`op` is missing").into()),
    };
    match action {
        Ok(action) => Ok(Command { request_id, action }),
        Err(error) => Err(CommandError::Refused { request_id, error }),
    }
}

#[derive(Clone, Copy)]
enum Op {
    Subscribe,
    Unsubscribe,
    Publish,
    Ping,
}

const OPS: [(&str, Op); 4] = [
    ("subscribe", Op::Subscribe),
    ("unsubscribe", Op::Unsubscribe),
    ("publish", Op::Publish),
    ("ping", Op::Ping),
];

/// What decides how the rest is read, and the members of a publish that are not those of a write: a
/// publish would otherwise be walked three times. The first pass has checked the whole text.
#[derive(Default)]
struct Outline<'a> {
    op: Option<Op>,
    request_id: Option<&'a [u8]>,
    topic: Option<(usize, usize)>,
    return_seqs: Option<(usize, usize)>,
}

impl<'a> Outline<'a> {
    fn read(message: &'a [u8]) -> Result<Outline<'a>, BodyError> {
        let mut outline = Outline::default();
        each_member(message, &["op", "request_id", "topic", "return_seqs"], |reader, member| {
            if member == "op" {
                let wanted = "\"subscribe\", \"unsubscribe\", \"publish\" or \"ping\"";
                outline.op = Some(reader.word(&OPS, wanted)?);
                return Ok(());
            }
            let place = reader.skip()?;
            match member {
                "request_id" => outline.request_id = Some(&message[place.0..place.1]),
                "topic" => outline.topic = Some(place),
                _ => outline.return_seqs = Some(place),
            }
            Ok(())
        })?;
        Ok(outline)
    }
}

/// The outer error is of the text, the inner one of what it asks for.
type Judged = Result<Result<Action, BodyError>, BodyError>;

fn subscribe(message: &[u8]) -> Judged {
    let mut topic = None;
    let mut topics = TopicMap::default();
    let mut start = Start::default();
    let mut lenient = false;
    let mut delivery = Delivery::plain(DIFF_RECORDS_MAX, DIFF_BYTES_DEFAULT);
    each_member(message, &SUBSCRIBE_MEMBERS, |reader, member| {
        match member {
            "topic" => topic = optional_text(reader)?,
            "topics" => topics = TopicMap::read(reader)?,
            "from_seq" => start.from_seq = reader.u64()?,
            "tail" => start.tail = reader.boolean()?,
            "lenient" => lenient = reader.boolean()?,
            other => delivery.take(reader, other)?,
        }
        Ok(())
    })?;
    if let Some(topic) = topic {
        topics.add(topic, start);
    }
    if topics.is_empty() {
        return Ok(Err(BodyError::invalid("a subscribe needs `topic` or `topics`")));
    }
    let request = topics.checked().map(|topics| SubscribeRequest { topics, delivery, lenient });
    Ok(request.map(Action::Subscribe))
}

const SUBSCRIBE_MEMBERS: [&str; 11] = [
    "topic",
    "topics",
    "from_seq",
    "tail",
    "lenient",
    "node",
    "limit",
    "max_batch_bytes",
    "include_data",
    "include_tags",
    "include_meta",
];

fn unsubscribe(message: &[u8]) -> Judged {
    let mut topic = None;
    let mut names = Vec::new();
    let mut too_many = false;
    each_member(message, &["topic", "topics"], |reader, member| {
        if member == "topic" {
            topic = optional_text(reader)?;
            return Ok(());
        }
        reader.open_array()?;
        while reader.next_element()? {
            if reader.peek() != b'"' {
                return Err(reader.mistyped("an array of strings").into());
            }
            let name = reader.text()?;
            too_many |= names.len() == UNSUBSCRIBE_NAMES_MAX;
            if !too_many {
                names.push(name);
            }
        }
        Ok(())
    })?;
    names.extend(topic);
    if names.is_empty() {
        return Ok(Err(BodyError::invalid("an unsubscribe needs `topic` or `topics`")));
    }
    if too_many || names.len() > UNSUBSCRIBE_NAMES_MAX {
        return Ok(Err(BodyError::invalid(format!("at most {UNSUBSCRIBE_NAMES_MAX} topics may be named"))));
    }
    Ok(Ok(Action::Unsubscribe(names)))
}

fn publish(message: &[u8], outline: &Outline<'_>, scratch: &mut WriteScratch) -> Result<Action, BodyError> {
    let topic = outline.topic.map_or(Ok(None), |at| value(message, at, "topic", optional_text))?;
    let topic = topic.ok_or_else(|| BodyError::invalid("`topic` is missing"))?;
    let return_seqs =
        outline.return_seqs.map_or(Ok(true), |at| value(message, at, "return_seqs", Reader::boolean))?;
    let write = parse_write(message, scratch)?;
    Ok(Action::Publish(PublishRequest { topic, return_seqs, write }))
}

/// Reads the value of `member` at a place that the outline has noted.
fn value<'a, T>(
    message: &'a [u8],
    (start, end): (usize, usize),
    member: &str,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, Fault>,
) -> Result<T, BodyError> {
    let found = read(&mut Reader::new(&message[start..end]));
    found.map_err(|fault| Fault { at: fault.at + start as u32, ..fault }.within(member))
}

/// A string, or `null` for none (J-6).
fn optional_text(reader: &mut Reader<'_>) -> Result<Option<Box<str>>, Fault> {
    if reader.null()? {
        return Ok(None);
    }
    if reader.peek() != b'"' {
        return Err(reader.mistyped("a string or null"));
    }
    reader.text().map(Some)
}

#[cfg(test)]
mod tests;
