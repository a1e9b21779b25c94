//! Every way the engine says no.

use crate::config::TopicType;
use crate::index::Wanted;
use crate::wal::Wait;
use std::fmt;

/// Stored bytes that do not decode. Says which kind of thing was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError {
    what: &'static str,
}

impl FormatError {
    /// An error about the named kind of thing.
    pub fn new(what: &'static str) -> Self {
        FormatError { what }
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "undecodable {}", self.what)
    }
}

impl std::error::Error for FormatError {}

/// A disk operation that failed, with the system's error number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskError(pub i32);

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

impl std::error::Error for DiskError {}

/// Every refusal of an operation. Nothing was changed by an operation that ends in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineError {
    /// No topic of that name, and none was created.
    TopicMissing,
    /// The name breaks NM-1 where a topic would be created.
    NameInvalid,
    /// `dead_letter` is not a legal topic name; carries it.
    DeadLetterInvalid(String),
    /// A queue's `dead_letter` names the queue itself.
    DeadLetterSelf,
    /// A PUT would change the type (CF-3).
    TypeConflict {
        /// What the topic is.
        existing: TopicType,
        /// What the PUT asked for.
        requested: TopicType,
    },
    /// A queue operation on a log.
    NotAQueue,
    /// `max_topics` reached (L-2).
    TopicCap {
        /// The cap.
        max: u64,
    },
    /// A batch larger than the whole cap of a `reject` topic (W-30).
    BatchOverCap,
    /// A full `reject` topic (W-31).
    TopicFull {
        /// Its cap, 0 = off.
        cap_records: u64,
        /// Its cap, 0 = off.
        cap_bytes: u64,
        /// Its head.
        head_seq: u64,
        /// Its first live position.
        earliest_seq: u64,
    },
    /// `max_total_bytes` reached (W-32).
    QuotaFull {
        /// The cap.
        max: u64,
    },
    /// `?if_empty` on a topic that is not (TD-3).
    NotEmpty {
        /// Live records.
        count: u64,
    },
    /// A router that cannot be stored; says why.
    RouterInvalid(&'static str),
    /// No link of that router: its dest is gone, or it never came here.
    LinkMissing,
    /// A forward that does not begin where the router stands: nothing was copied, ask the source again.
    LinkMoved {
        /// Where it stands.
        position: u64,
    },
    /// The log cannot take more right now (PR-5).
    LogFull,
    /// The disk has no room for another log file; what is at hand does not hold this as well.
    NoLogFile(DiskError),
    /// A write or sync of this shard's log failed: it takes nothing more until restart (I-45).
    Halted(DiskError),
    /// Stored bytes cannot be read or fail their checksum (I-98); names file and place.
    Unreadable(String),
}

/// Why an operation did not happen.
#[derive(Debug)]
pub enum No {
    /// It is refused; the answer leaves when the log has committed what the refusal rests on.
    Refused(EngineError, Wait),
    /// This must come from disk first: load it and ask again.
    Load(Wanted),
    /// Something else on the topic or a full log is in the way: ask again after progress.
    Busy,
}

impl From<EngineError> for No {
    fn from(error: EngineError) -> Self {
        No::Refused(error, Wait::default())
    }
}
