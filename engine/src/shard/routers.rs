//! Routers: the registry of what they are, kept by shard 0, and the links that say how far each has come,
//! kept by the shard of its dest.
//! Lives here: both tables, how they get into the log and into checkpoints.
//! Not here: the copies (`forward`), which records to copy and when (the caller).
//!
//! A link moves in the batch of the copies it stands for. A position that moves over records nobody copies
//! is logged now and then only: a crash sets it back a little, and the router looks at them once more.

use super::topics::SMALL_ENTRY_ROOM;
use super::{Effect, Shard};
use crate::checkpoint::Edit;
use crate::error::{EngineError, No};
use crate::ids::{RouterId, Seq, TopicId};
use crate::limits::{POSITION_UNLOGGED_MAX, ROUTERS_PER_ENTRY};
use crate::router::{LINK_BYTES, LinkState, RouterDef};
use crate::sabotage::{self, Bug};
use crate::wal::Wait;
use crate::wal::frame::Kind;
use ahash::AHashMap;
use std::collections::BTreeMap;

/// The definitions, and what of them the next checkpoint must say.
#[derive(Default)]
pub(super) struct Registry {
    routers: BTreeMap<RouterId, RouterDef>,
    changed: Vec<RouterId>,
    dropped: Vec<RouterId>,
    /// Newest block with a change.
    block: u64,
}

/// How far a router has come, counting what is on its way to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The topic that holds its copies.
    pub dest: TopicId,
    /// The last seq of the source that had its turn.
    pub position: Seq,
    /// Copies delivered, and vacancies in their place.
    pub forwarded_total: u64,
    /// Grows when the position was set back (I-66).
    pub epoch: u32,
    /// Whether the position was held against what the source recovered; if not, call
    /// [`Shard::rewind_link`] before the first forward.
    pub is_checked: bool,
    /// When an answer that shows it may leave.
    pub wait: Wait,
}

struct Held {
    /// Including what is on its way to disk.
    ordered: LinkState,
    /// As committed: what a checkpoint says.
    shown: LinkState,
    /// Position that the log knows.
    logged: Seq,
    /// Block of the newest change.
    block: u64,
    is_checked: bool,
    /// Since the last checkpoint.
    is_changed: bool,
}

/// The links of this shard, and what of them the next checkpoint must say.
#[derive(Default)]
pub(super) struct Links {
    held: AHashMap<RouterId, Held>,
    changed: Vec<RouterId>,
    gone: Vec<RouterId>,
}

impl Shard {
    /// An id for a router that is about to be put. Once the put is durable it is never given away again;
    /// so the router's link is opened only then.
    pub fn next_router_id(&mut self) -> RouterId {
        // Topics and routers share a counter: checkpoints keep it.
        let id = self.id_prefix() | self.next_topic;
        self.next_topic += 1;
        RouterId(id)
    }

    /// Puts a router into the registry, or replaces the one of that id. The answer waits for a sync
    /// like that of any control operation (I-50). For shard 0 only.
    pub fn put_router(&mut self, def: RouterDef) -> Result<Wait, No> {
        def.check()?;
        self.may_write(SMALL_ENTRY_ROOM)?;
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        def.encode(&mut body);
        self.log.put_entry(Kind::Router, &body, true, true);
        self.scratch = body;
        self.registry.block = self.log.entry_block();
        self.registry.changed.push(def.id);
        self.registry.routers.insert(def.id, def);
        Ok(Wait(self.registry.block))
    }

    /// Takes routers out of the registry, all or none of them; those that are not there do not matter
    ///
    pub fn drop_routers(&mut self, ids: &[RouterId]) -> Result<Wait, No> {
        if !ids.iter().any(|id| self.registry.routers.contains_key(id)) {
            return Ok(self.routers_wait());
        }
        self.may_write(SMALL_ENTRY_ROOM)?;
        let mut body = std::mem::take(&mut self.scratch);
        let pieces = ids.chunks(ROUTERS_PER_ENTRY).count();
        for (index, piece) in ids.chunks(ROUTERS_PER_ENTRY).enumerate() {
            body.clear();
            piece.iter().for_each(|id| body.extend_from_slice(&id.0.to_le_bytes()));
            self.log.put_entry(Kind::RouterDrop, &body, index + 1 == pieces, true);
        }
        self.scratch = body;
        self.registry.block = self.log.entry_block();
        for id in ids {
            if self.registry.routers.remove(id).is_some() {
                self.registry.dropped.push(*id);
            }
        }
        Ok(Wait(self.registry.block))
    }

    /// The routers in force, in order of their making; answers about them wait for
    /// [`Shard::routers_wait`].
    pub fn routers(&self) -> impl Iterator<Item = &RouterDef> {
        self.registry.routers.values()
    }

    /// When an answer that rests on the registry may leave.
    pub fn routers_wait(&self) -> Wait {
        Wait(self.registry.block)
    }

    /// How far a router has come, if one of this shard's topics is its dest.
    pub fn link(&self, router: RouterId) -> Option<Link> {
        self.links.held.get(&router).map(Held::link)
    }

    /// All links. After a start those of routers that are not in the registry are to be closed: the crash
    /// may have come between the two shards.
    pub fn links(&self) -> impl Iterator<Item = (RouterId, Link)> {
        self.links.held.iter().map(|(router, held)| (*router, held.link()))
    }

    /// The link of a router: the stored one, or a new one at `start`, which must not lie above what the
    /// source recovered ([`Shard::recovered_head`]) if the router is older than this process.
    pub fn open_link(&mut self, router: RouterId, dest: TopicId, start: Seq) -> Result<Link, No> {
        if let Some(held) = self.links.held.get(&router).filter(|held| held.ordered.dest == dest) {
            return Ok(held.link());
        }
        let Some(slot) = self.by_id.get(&dest).copied() else {
            return Err(EngineError::TopicMissing.into());
        };
        self.close_link(router);
        let state = LinkState { router, dest, position: start, forwarded_total: 0, epoch: 0 };
        let link = self.links.insert(state, true).link();
        self.topic_mut(slot).links.push(router);
        Ok(link)
    }

    /// Holds a stored position against the head that the source recovered: if it lies above, the source
    /// lost a tail that was copied, and uses its seqs again (I-66). Then the position moves back to
    /// `recovered`, and the epoch tells the new records from the old ones.
    ///
    /// Done once after a start, and durable before the source takes a write: a second crash must not find
    /// the old position and a source that has grown past it. (`disk` and `fsync` sources give no seq away
    /// twice, so theirs are never above.)
    pub fn rewind_link(&mut self, router: RouterId, recovered: Seq) -> Result<Link, No> {
        let held = self.links.held.get(&router).ok_or(EngineError::LinkMissing)?;
        let mut state = held.ordered;
        if state.position > recovered && !sabotage::is(Bug::NoRewind) {
            let slot = self.slot_of_link(&state)?;
            self.may_write(SMALL_ENTRY_ROOM)?;
            state.position = recovered;
            state.epoch += 1;
            self.log_link(&state, true, true);
            let block = self.log.entry_block();
            self.order_link(slot, state, block, true);
        }
        let held = self.links.held.get_mut(&router).expect("just seen");
        held.is_checked = true;
        Ok(held.link())
    }

    /// Moves a position from `from` to `position` over records that nobody copies.
    pub fn mark_position(&mut self, router: RouterId, from: Seq, position: Seq) -> Result<Link, No> {
        let held = self.links.held.get(&router).ok_or(EngineError::LinkMissing)?;
        let mut state = held.ordered;
        let logged = held.logged;
        if state.position != from {
            return Err(EngineError::LinkMoved { position: state.position }.into());
        }
        let slot = self.slot_of_link(&state)?;
        state.position = position.max(from);
        let logs = self.logs_position(logged, state.position);
        let block = if logs {
            self.log_link(&state, true, false);
            self.log.entry_block()
        } else {
            self.topic(slot).control_block
        };
        self.order_link(slot, state, block, logs);
        Ok(self.link(router).expect("just moved"))
    }

    /// Makes the place where a router stands durable, also if no copies say it: before its options change
    /// what it passes over.
    pub fn log_position(&mut self, router: RouterId) -> Result<Wait, No> {
        let held = self.links.held.get(&router).ok_or(EngineError::LinkMissing)?;
        let state = held.ordered;
        let slot = self.slot_of_link(&state)?;
        self.may_write(SMALL_ENTRY_ROOM)?;
        self.log_link(&state, true, true);
        let block = self.log.entry_block();
        self.order_link(slot, state, block, true);
        Ok(Wait(block))
    }

    /// Whether a position that moves without copies is logged now. If the log takes nothing, later.
    pub(super) fn logs_position(&mut self, logged: Seq, position: Seq) -> bool {
        position.saturating_sub(logged) >= POSITION_UNLOGGED_MAX && self.may_write(SMALL_ENTRY_ROOM).is_ok()
    }

    /// Whether [`Shard::close_link`] can say it in the log now.
    pub fn may_close_links(&mut self) -> Result<(), No> {
        self.may_write(SMALL_ENTRY_ROOM)
    }

    /// Forgets a router's place: the router is gone.
    pub fn close_link(&mut self, router: RouterId) {
        let Some(held) = self.links.held.remove(&router) else { return };
        self.links.gone.push(router);
        if let Some(slot) = self.by_id.get(&held.ordered.dest).copied() {
            self.topic_mut(slot).links.retain(|other| *other != router);
        }
        // If it cannot be said now, the link returns after a crash, and is closed at that start.
        if self.may_write(SMALL_ENTRY_ROOM).is_ok() {
            let mut body = Vec::with_capacity(LINK_BYTES);
            held.ordered.encode(true, &mut body);
            self.log.put_entry(Kind::Link, &body, true, false);
        }
    }

    /// The state that a forward or a mark builds on.
    pub(super) fn held_link(&self, router: RouterId) -> Result<(LinkState, Seq), No> {
        let held = self.links.held.get(&router).ok_or(EngineError::LinkMissing)?;
        Ok((held.ordered, held.logged))
    }

    /// The slot of a link's dest.
    pub(super) fn slot_of_link(&self, state: &LinkState) -> Result<u32, No> {
        self.by_id.get(&state.dest).copied().ok_or_else(|| EngineError::TopicMissing.into())
    }

    pub(super) fn log_link(&mut self, state: &LinkState, last: bool, sync: bool) {
        let mut body = std::mem::take(&mut self.scratch);
        body.clear();
        state.encode(false, &mut body);
        self.log.put_entry(Kind::Link, &body, last, sync);
        self.scratch = body;
    }

    /// Moves a link, to be shown when `block` commits.
    pub(super) fn order_link(&mut self, slot: u32, state: LinkState, block: u64, is_logged: bool) {
        let block = self.enqueue(slot, state.dest, block, Effect::Linked(state));
        let held = self.links.held.get_mut(&state.router).expect("a link that moves is there");
        held.ordered = state;
        held.block = block;
        if is_logged {
            held.logged = state.position;
        }
    }

    /// The high bits of ids that this shard gives away.
    pub(super) fn id_prefix(&self) -> u64 {
        self.settings.layout << 40 | u64::from(self.settings.shard) << 32
    }

    /// Says in a checkpoint what changed; `full`: it builds on none.
    pub(super) fn describe_routers(&mut self, full: bool, edits: &mut Vec<Edit>) {
        let Registry { routers, changed, dropped, .. } = &mut self.registry;
        let Links { held, changed: moved, gone } = &mut self.links;
        if !full {
            edits.extend(dropped.iter().map(|id| Edit::RouterDrop(*id)));
            edits.extend(gone.iter().map(|id| Edit::LinkGone(*id)));
        }
        dropped.clear();
        gone.clear();
        edits.extend(changed.drain(..).filter_map(|id| routers.get(&id)).cloned().map(Edit::Router));
        for router in moved.drain(..) {
            if let Some(held) = held.get_mut(&router).filter(|held| held.is_changed) {
                held.is_changed = false;
                edits.push(Edit::Link(held.shown));
            }
        }
    }

    /// After a checkpoint was lost: the next one says all of it.
    pub(super) fn describe_all_routers_again(&mut self) {
        self.registry.changed = self.registry.routers.keys().copied().collect();
        self.links.changed = self.links.held.keys().copied().collect();
        self.links.held.values_mut().for_each(|held| held.is_changed = true);
    }
}

impl Registry {
    /// What recovery found; `dropped`: what the log had gone, and the checkpoint before it may still have.
    pub(super) fn recovered(routers: BTreeMap<RouterId, RouterDef>, dropped: Vec<RouterId>) -> Registry {
        Registry { changed: routers.keys().copied().collect(), routers, dropped, block: 0 }
    }
}

impl Held {
    fn link(&self) -> Link {
        let LinkState { dest, position, forwarded_total, epoch, .. } = self.ordered;
        let wait = Wait(self.block);
        Link { dest, position, forwarded_total, epoch, is_checked: self.is_checked, wait }
    }
}

impl Links {
    /// An empty table; `gone`: as with [`Registry::recovered`].
    pub(super) fn recovered(gone: Vec<RouterId>) -> Links {
        Links { gone, ..Links::default() }
    }

    /// Adds a link; `is_checked`: its position is known not to lie above what the source recovered.
    fn insert(&mut self, state: LinkState, is_checked: bool) -> &Held {
        let held = Held {
            ordered: state,
            shown: state,
            logged: state.position,
            block: 0,
            is_checked,
            is_changed: true,
        };
        self.changed.push(state.router);
        self.held.entry(state.router).insert_entry(held).into_mut()
    }

    /// Adds a link that recovery found.
    pub(super) fn insert_recovered(&mut self, state: LinkState) {
        self.insert(state, false);
    }

    /// Shows a link that committed, unless the router is gone meanwhile.
    pub(super) fn show(&mut self, state: LinkState) {
        let Some(held) = self.held.get_mut(&state.router).filter(|held| held.shown.dest == state.dest) else {
            return;
        };
        held.shown = state;
        if !held.is_changed {
            held.is_changed = true;
            self.changed.push(state.router);
        }
    }

    /// Forgets links of a topic that is dropped; the log and checkpoints know by the drop.
    pub(super) fn forget(&mut self, routers: &[RouterId]) {
        for router in routers {
            self.held.remove(router);
        }
    }

    /// All of them, as shown.
    pub(super) fn states(&self) -> impl Iterator<Item = LinkState> {
        self.held.values().map(|held| held.shown)
    }
}
