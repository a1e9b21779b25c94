//! What cores ask one another about routers.

use super::copies::Copies;
use super::graph::Route;
use super::registry::ListQuery;
use crate::auth::Access;
use crate::json::router::RouterRequest;
use runelog_engine::ids::{RouterId, Seq, TopicId};
use runelog_engine::router::RouterDef;
use std::sync::Arc;

/// A request to the core of shard 0, where all routers are known.
pub(crate) enum RegistryOp {
    /// §7.1
    Put { name: Box<str>, request: Box<RouterRequest> },
    ///
    Get { name: Box<str>, access: Access },
    ///
    Delete { name: Box<str>, access: Access },
    /// §7.3
    List { query: Box<ListQuery>, access: Access },
    /// §3.4: a topic goes with its routers.
    DeleteTopic { topic: Box<str>, if_empty: bool },
}

/// A step of such a request, or of forwarding, at the core that owns what it is about.
pub(crate) enum RouterOp {
    /// The topic of that name; with `create`, made with the default configuration if it is missing.
    FindTopic { topic: Box<str>, create: bool },
    /// Takes back a topic that a refused PUT made, unless somebody uses it already.
    UndoTopic { topic: Box<str>, id: TopicId },
    /// Makes a definition durable; one without a number gets one.
    Store(Box<RouterDef>),
    /// Makes deletions durable.
    Forget(Vec<RouterId>),
    /// At the owner of the dest: a place for the router's position.
    OpenLink { router: RouterId, dest: TopicId, start: Seq },
    /// At the owner of the dest: where the router stands is made durable, before its options change what
    /// it passes over.
    LogPosition(RouterId),
    /// At the owner of the dest.
    CloseLink(RouterId),
    /// Everywhere: the router is there, or has new options. Its pump goes on.
    Install(Arc<Route>),
    /// Everywhere: the router is gone.
    Remove(RouterId),
    /// At the owner of the source: sends nothing more until `Install`. Answered when nothing is under way.
    Pause(RouterId),
    /// At the owner of the source: forwards everything that is there now, as far as dest takes it.
    Advance(RouterId),
    /// At the owner of a topic: what is on its way to it is awaited.
    Settle(Box<str>),
    /// At the owner of the dest.
    Forward(Box<ForwardOp>),
}

/// Copies on their way. Routers that make the same ones share them.
pub(crate) struct ForwardOp {
    pub(crate) router: RouterId,
    pub(crate) dest: TopicId,
    pub(crate) copies: Arc<Copies>,
}

/// Answers to [`RouterOp`]s.
pub(crate) enum RouterAnswer {
    Done,
    Topic(Option<FoundTopic>),
    Dropped(bool),
    Stored(RouterId),
    Linked { position: Seq, forwarded_total: u64, epoch: u32 },
    Forwarded(Result<Arrived, NotForwarded>),
}

/// A topic at its owner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoundTopic {
    pub(crate) id: TopicId,
    pub(crate) head: Seq,
    pub(crate) created: bool,
}

/// Where a router stands after a forward; committed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub(crate) position: Seq,
    pub(crate) forwarded_total: u64,
    pub(crate) taken: u32,
    /// The dest takes no more.
    pub(crate) full: bool,
}

/// Why nothing was copied.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NotForwarded {
    /// The router stands elsewhere.
    Moved(Seq),
    /// There is no such link or dest any more.
    Gone,
}
