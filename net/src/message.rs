//! What travels between cores: an operation to the core that owns its topic, and the answer back.
//! The same two types serve requests that stay on their core and have to wait.

use crate::auth::Access;
use crate::fault::Fault;
use crate::feed::{Feed, WatchCommand};
use crate::json::control::DiffRequest;
use crate::metrics::ShardReport;
use crate::routers::message::{RegistryOp, RouterAnswer, RouterOp};
use crate::service::Resolved;
use crate::streams::Opening;
use crate::streams::session::{OpenSession, Wid};
use runelog_engine::config::TopicConfig;
use runelog_engine::event::RecordSpan;
use runelog_engine::ids::Seq;
use runelog_engine::shard::{Claimer, DeleteRequest, Deletion, Named, TopicRef};
use std::os::fd::OwnedFd;

/// An operation for the owner of a topic, owning everything it needs.
pub(crate) enum Op {
    Append(Box<AppendOp>),
    /// An append that is refused for one reason or, before that, another: W-10 comes first, and only the
    /// owner knows whether it applies.
    RefuseAppend {
        topic: Box<str>,
        if_created: Box<Fault>,
        otherwise: Box<Fault>,
    },
    Diff(Box<DiffOp>),
    Delete(Box<DeleteOp>),
    PutTopic {
        topic: Box<str>,
        config: Box<TopicConfig>,
    },
    GetTopic {
        topic: Box<str>,
        touch: bool,
    },
    DropTopic {
        topic: Box<str>,
        if_empty: bool,
    },
    /// Whether it is a queue.
    CheckQueue {
        topic: Box<str>,
    },
    Claim(Box<ClaimOp>),
    Settle(Box<SettleOp>),
    /// Makes the copy of a job that goes to the dead-letter topic.
    DeadLetter {
        topic: TopicRef,
        name: Box<str>,
        seq: Seq,
    },
    /// Those copies are safe.
    DeadLettersDone {
        topic: TopicRef,
        seqs: Vec<Seq>,
    },
    /// To every shard; the asking core merges.
    List(Box<ListOp>),
    /// To every shard.
    Report,
    /// Head and earliest seq of these topics, without touching them.
    Resolve {
        topics: Vec<Box<str>>,
    },
    /// To the home core of a session: a stream is to be opened by whoever has this key.
    OpenSession {
        wid: Wid,
        access: Access,
    },
    /// To the core that knows all routers.
    Registry(Box<RegistryOp>),
    Router(RouterOp),
}

/// An append with its body; the vectors go back with the answer, to be used again.
#[derive(Default)]
pub(crate) struct AppendOp {
    pub(crate) topic: String,
    pub(crate) body: Vec<u8>,
    pub(crate) side: Vec<u8>,
    pub(crate) records: Vec<RecordSpan>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) create: Option<bool>,
    pub(crate) config: Option<Box<TopicConfig>>,
    /// The answer if it would create the topic: its configuration is not permitted to who asks (W-10).
    pub(crate) if_created: Option<Box<Fault>>,
}

pub(crate) struct DiffOp {
    pub(crate) topic: Box<str>,
    pub(crate) request: DiffRequest,
}

pub(crate) struct DeleteOp {
    pub(crate) topic: Box<str>,
    pub(crate) request: DeleteRequest,
    /// Set once the owner has ordered it.
    pub(crate) deletion: Option<Deletion>,
}

/// One who asks for jobs.
#[derive(Debug)]
pub(crate) struct Claimant {
    pub(crate) node: Box<str>,
    pub(crate) max: u32,
    pub(crate) lease_ms: Option<u64>,
    /// The stream that will hold them, 0 for a claim.
    pub(crate) holder: u64,
}

impl Claimant {
    pub(crate) fn claimer(&self) -> Claimer<'_> {
        let Claimant { node, max, lease_ms, holder } = self;
        Claimer { node: node.as_bytes(), max: *max, lease_ms: *lease_ms, holder: *holder }
    }
}

/// A claim, or all claims of a window.
#[derive(Debug, Default)]
pub(crate) struct ClaimOp {
    pub(crate) topic: Box<str>,
    pub(crate) claimants: Vec<Claimant>,
    /// It was checked, and its window is over.
    pub(crate) admitted: bool,
    /// It is answered with [`Answer::Claims`].
    pub(crate) windowed: bool,
    /// Jobs that it met and that were to be moved.
    pub(crate) moved: usize,
    /// Those that could not be.
    pub(crate) failed: Vec<Seq>,
    /// Where.
    pub(crate) topic_ref: Option<TopicRef>,
    /// The instance that it is for, if only that one will do.
    pub(crate) of: Option<TopicRef>,
}

impl ClaimOp {
    /// The claim at the end of a window, or of streams.
    pub(crate) fn of_window(of: TopicRef, topic: Box<str>, claimants: Vec<Claimant>) -> ClaimOp {
        ClaimOp { topic, claimants, admitted: true, windowed: true, of: Some(of), ..ClaimOp::default() }
    }
}

/// An ack, nack or extend.
pub(crate) struct SettleOp {
    pub(crate) topic: Box<str>,
    pub(crate) node: Box<str>,
    pub(crate) named: Vec<Named>,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Ack,
    Nack { delay_ms: u64 },
    Extend { lease_ms: u64 },
}

#[derive(Clone)]
pub(crate) struct ListOp {
    /// Ascending, none inside another.
    pub(crate) prefixes: Vec<Vec<u8>>,
    pub(crate) after: Option<Vec<u8>>,
    pub(crate) limit: usize,
    pub(crate) touch: bool,
}

/// The outcome of an append, rendered by the core that has the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AppendAnswer {
    pub(crate) first_seq: u64,
    pub(crate) count: u32,
    pub(crate) created: bool,
    pub(crate) deduped: bool,
    pub(crate) synced: bool,
    /// Time to hand the batch to the log.
    pub(crate) append_ns: u64,
    /// Time from there to the commit.
    pub(crate) commit_ns: u64,
}

/// A name with its list entry as JSON.
pub(crate) struct ListEntry {
    pub(crate) name: Box<[u8]>,
    pub(crate) json: Vec<u8>,
}

/// An answer on its way to its connection.
pub(crate) enum Answer {
    /// With the carrier of a forwarded append, for reuse.
    Append(AppendAnswer, Option<Box<AppendOp>>),
    /// A JSON object without its end: `performance` and the closing brace follow. `scanned` is a
    /// member of `performance`.
    Body {
        status: u16,
        json: Vec<u8>,
        scanned: Option<u64>,
    },
    /// An acknowledgement of jobs that waited for a sync: a body, and how long (P-2).
    Synced {
        json: Vec<u8>,
        commit_ns: u64,
    },
    /// It is a queue.
    Queue,
    /// The parts of a window's claimers, each an object without its end.
    Claims(Vec<Vec<u8>>),
    /// A copy for the dead-letter topic; `None`: there is nothing to be copied.
    DeadLetter(Option<Box<AppendOp>>),
    Fault(Box<Fault>, Option<Box<AppendOp>>),
    ListPart(Vec<ListEntry>),
    ReportPart(Box<ShardReport>),
    Resolved(Resolved),
    Session(OpenSession),
    /// The head of a stream; what follows it, unless only the head was asked for.
    Stream(Option<Box<Opening>>),
    /// To the service itself.
    Router(RouterAnswer),
}

/// What one core sends another.
pub(crate) enum Message {
    Request {
        caller: Caller,
        op: Op,
    },
    Answer {
        caller: Caller,
        answer: Answer,
    },
    /// A connection accepted elsewhere.
    Adopt(OwnedFd),
    /// From a stream to the owner of a topic.
    Watch(WatchCommand),
    /// From the owner of a topic to streams.
    Feed(Feed),
}

/// Who asked, on its core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Caller {
    /// A request of a connection.
    Request {
        /// [`ConnId`](crate::sockets::ConnId) as bits.
        conn: u64,
        /// Stream of an HTTP/2 connection, 0 on HTTP/1.1.
        stream: u32,
    },
    /// The service itself, for something that spans cores ([`Service::ask`](crate::service::Service::ask)).
    Task(u64),
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) core: usize,
    pub(crate) caller: Caller,
}
