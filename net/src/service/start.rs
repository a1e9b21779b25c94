//! Routers at the start of the server: what was stored of them on every core, held against one another
//! before the first request.
//!
//! A definition is in the log of shard 0, its topics and its place in those of their owners, and a crash may
//! have cut each at another moment. So all cores say what they have; then definitions whose topics are gone
//! are forgotten (I-70), places without a definition too, and a place above what its source recovered is set
//! back (I-66). All of that is durable before anybody can write: a second crash finds it done.

use super::Service;
use super::routers::{Directory, REGISTRY_CORE};
use crate::routers::graph::{Progress, Route, SourceMark};
use crate::routers::registry::Registry;
use ahash::{AHashMap, AHashSet};
use runelog_engine::error::No;
use runelog_engine::ids::{RouterId, Seq};
use runelog_engine::router::RouterDef;
use runelog_engine::shard::owner_of;
use runelog_engine::wal::Wait;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

/// What the first thread tells a core between its recovery and its work.
pub(crate) enum Word {
    /// Say what is there of these routers.
    Look(Arc<Vec<RouterDef>>, Sender<Vec<Found>>),
    /// Hold places against what the sources recovered, and forget what has no definition.
    Link(Arc<Vec<(RouterDef, Seq)>>, Sender<Result<Vec<Linked>, String>>),
    /// These are in force.
    Routers(Arc<Vec<Arc<Route>>>, u64),
    /// Serve: connections of these go to all cores in turn, of those to this one.
    Serve { shared: Vec<OwnedFd>, own: Vec<OwnedFd> },
}

/// What a core has of a router.
pub(crate) enum Found {
    /// Its source: what of it was recovered, and its head.
    Source(RouterId, Seq, Seq),
    /// Its dest.
    Dest(RouterId),
}

/// A router's place.
pub(crate) struct Linked {
    router: RouterId,
    position: Seq,
    forwarded_total: u64,
    epoch: u32,
}

/// Brings the cores together; returns how many routers are in force.
pub(crate) fn join(
    cores: &[Sender<Word>],
    directory: u64,
    stored: Vec<RouterDef>,
    max_routers: u64,
) -> Result<usize, String> {
    let stored = Arc::new(stored);
    let (mut sources, mut dests) = (AHashMap::new(), AHashSet::new());
    for found in ask(cores, |reply| Word::Look(stored.clone(), reply))?.into_iter().flatten() {
        match found {
            Found::Source(router, recovered, head) => _ = sources.insert(router, (recovered, head)),
            Found::Dest(router) => _ = dests.insert(router),
        }
    }
    let alive = stored.iter().filter(|def| dests.contains(&def.id)).filter_map(|def| {
        let (recovered, _) = sources.get(&def.id)?;
        Some((def.clone(), *recovered))
    });
    let alive: Arc<Vec<(RouterDef, Seq)>> = Arc::new(alive.collect());
    if alive.len() < stored.len() {
        tracing::info!(routers = stored.len() - alive.len(), "forgot routers whose topics are gone");
    }
    let mut links = AHashMap::new();
    for linked in ask(cores, |reply| Word::Link(alive.clone(), reply))? {
        links.extend(linked?.into_iter().map(|link| (link.router, link)));
    }
    let mut marks = AHashMap::new();
    let mut routes = Vec::with_capacity(alive.len());
    for (def, _) in alive.iter() {
        let link = links.get(&def.id).ok_or_else(|| format!("no place of router {}", def.name))?;
        let mark: &Arc<SourceMark> = marks.entry(def.source_id).or_default();
        mark.set(sources[&def.id].1);
        let owner = |topic: &str| usize::from(owner_of(topic.as_bytes(), directory, cores.len() as u16));
        routes.push(Arc::new(Route {
            source_core: owner(&def.source),
            dest_core: owner(&def.dest),
            source: mark.clone(),
            progress: Arc::new(Progress::new(link.position, link.forwarded_total)),
            epoch: link.epoch,
            def: def.clone(),
        }));
    }
    let count = routes.len();
    let routes = Arc::new(routes);
    for core in cores {
        core.send(Word::Routers(routes.clone(), max_routers)).map_err(|_| ENDED.to_owned())?;
    }
    Ok(count)
}

const ENDED: &str = "a core ended while it started";

/// Asks every core the same, and waits for all answers.
fn ask<T>(cores: &[Sender<Word>], make: impl Fn(Sender<T>) -> Word) -> Result<Vec<T>, String> {
    let replies: Vec<Receiver<T>> = cores
        .iter()
        .map(|core| {
            let (reply, answer) = channel();
            core.send(make(reply)).map(|()| answer).map_err(|_| ENDED.to_owned())
        })
        .collect::<Result<_, _>>()?;
    replies.into_iter().map(|reply| reply.recv().map_err(|_| ENDED.to_owned())).collect()
}

impl Service {
    /// What of these routers is here.
    pub(crate) fn look_at_routers(&self, stored: &[RouterDef]) -> Vec<Found> {
        let mut found = Vec::new();
        for def in stored {
            let source = self.shard.find_id(def.source_id);
            if let Some(topic) = source.filter(|_| self.owner(&def.source) == self.core)
                && let Some(recovered) = self.shard.recovered_head(topic)
            {
                let head = self.shard.peek(topic).map_or(0, |view| view.totals.head);
                found.push(Found::Source(def.id, recovered, head));
            }
            if self.owner(&def.dest) == self.core && self.shard.find_id(def.dest_id).is_some() {
                found.push(Found::Dest(def.id));
            }
        }
        found
    }

    /// Puts the places of routers right; what was changed is durable when the returned block is.
    pub(crate) fn link_routers(&mut self, alive: &[(RouterDef, Seq)]) -> Result<(Vec<Linked>, Wait), No> {
        let known: AHashSet<RouterId> = alive.iter().map(|(def, _)| def.id).collect();
        let stray: Vec<RouterId> =
            self.shard.links().map(|(router, _)| router).filter(|router| !known.contains(router)).collect();
        if !stray.is_empty() {
            self.shard.may_close_links()?; // that they are closed shall be in the log
            stray.into_iter().for_each(|router| self.shard.close_link(router));
        }
        let mut wait = Wait::default();
        if self.core == REGISTRY_CORE {
            let gone: Vec<RouterId> =
                self.shard.routers().map(|def| def.id).filter(|router| !known.contains(router)).collect();
            wait = wait.max(self.shard.drop_routers(&gone)?);
        }
        let mut linked = Vec::new();
        for (def, recovered) in alive {
            if self.owner(&def.dest) != self.core {
                continue;
            }
            self.shard.open_link(def.id, def.dest_id, def.start.min(*recovered))?;
            let link = self.shard.rewind_link(def.id, *recovered)?;
            wait = wait.max(link.wait);
            linked.push(Linked {
                router: def.id,
                position: link.position,
                forwarded_total: link.forwarded_total,
                epoch: link.epoch,
            });
        }
        Ok((linked, wait))
    }

    /// Takes the routers in force.
    pub(crate) fn begin_routers(&mut self, routes: &[Arc<Route>], max_routers: u64) {
        for route in routes {
            self.routing.graph.insert(route.clone());
            if route.source_core == self.core {
                self.routing.pumps.install(route.clone(), &self.shard, self.steady_ms);
            }
        }
        if self.core == REGISTRY_CORE {
            let defs = routes.iter().map(|route| Arc::new(route.def.clone()));
            self.routing.directory = Some(Box::new(Directory::new(Registry::new(max_routers, defs))));
        }
    }
}
