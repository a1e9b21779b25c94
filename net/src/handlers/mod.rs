//! What the owner of a topic does for each operation: engine calls in, JSON out. A file a resource.
//! Not here: connections, waiting ([`service`](crate::service)), HTTP heads.

pub(crate) mod append;
pub(crate) mod diff;
pub(crate) mod feed;
pub(crate) mod queue;
pub(crate) mod topics;

use crate::fault::Fault;
use runelog_engine::config::TopicType;
use runelog_engine::error::EngineError;

/// An engine's refusal as the client sees it (§1.7). HTTP is decided here, once.
pub(crate) fn fault_of(error: &EngineError, topic: &str) -> Fault {
    match error {
        EngineError::TopicMissing => Fault::topic_not_found(topic),
        EngineError::NameInvalid => Fault::invalid_request(format!(
            "{topic:?} is not a topic name: 1 to 255 of A-Z a-z 0-9 . _ : - beginning with a letter or digit"
        )),
        EngineError::DeadLetterInvalid(name) => Fault::invalid_dead_letter(name),
        EngineError::DeadLetterSelf => {
            Fault::invalid_request("`dead_letter` must name another topic than the queue itself")
        }
        EngineError::NotAQueue => Fault::not_a_queue(topic),
        EngineError::TypeConflict { existing, requested } => {
            Fault::topic_type_change(topic, type_name(*existing), type_name(*requested))
        }
        EngineError::TopicCap { max } => Fault::quota("max_topics", *max),
        EngineError::BatchOverCap => {
            Fault::record_too_large("the batch is larger than the whole cap of this topic, which rejects")
        }
        EngineError::TopicFull { cap_records, cap_bytes, head_seq, earliest_seq } => {
            Fault::topic_full(topic, *cap_records, *cap_bytes, *head_seq, *earliest_seq)
        }
        EngineError::QuotaFull { max } => Fault::quota("max_total_bytes", *max),
        EngineError::NotEmpty { count } => Fault::topic_not_empty(topic, *count),
        EngineError::RouterInvalid(why) => {
            Fault::invalid_request(format!("the router cannot be kept: {why}"))
        }
        EngineError::LinkMissing | EngineError::LinkMoved { .. } => {
            Fault::internal("a router's place in its source changed meanwhile".to_owned())
        }
        EngineError::LogFull => Fault::throttled(),
        EngineError::NoLogFile(error) => Fault::no_room(format!(
            "no log file for more writes could be made ({error}); nothing was taken, try again when there is room"
        )),
        EngineError::Halted(error) => Fault::internal(format!(
            "this core's log takes no more writes after a failed write or sync ({error}); reads go on, a restart recovers"
        )),
        EngineError::Unreadable(place) => Fault::internal(format!("stored data cannot be read: {place}")),
    }
}

pub(crate) fn type_name(kind: TopicType) -> &'static str {
    match kind {
        TopicType::Log => "log",
        TopicType::Queue => "queue",
    }
}
