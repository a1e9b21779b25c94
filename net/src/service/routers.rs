//! Routers coming, changing and going, and topics that take routers with them: work that spans cores, begun
//! and ended on the core of shard 0, which knows all routers (the *directory*).
//! Lives here: the steps of each request and their order, what is taken back when one is refused.
//! Not here: the checks (`routers::registry`), moving copies (`pump`).
//!
//! Changes of routers, and deletions of topics that have some, go one after another, so a check holds until
//! its request ends. Other topics are deleted beside them, but not under a PUT that names them.
//!
//! Order against crashes: topics exist before the definition that names their instances is durable, and a
//! topic is durably gone before its routers are. So the start may find definitions of topics that are gone,
//! and forgets them (I-70, TD-5); never the other way round.

use super::pump::Pumps;
use super::settle::Settles;
use super::{Ran, Service};
use crate::auth::Access;
use crate::fault::Fault;
use crate::handlers::topics;
use crate::json::router::RouterRequest;
use crate::limits::REGISTRY_QUEUE_MAX;
use crate::message::{Answer, Op, Origin};
use crate::metrics::RouterReport;
use crate::routers::graph::{Graph, Progress, Route, SourceMark};
use crate::routers::message::{FoundTopic, RegistryOp, RouterAnswer, RouterOp};
use crate::routers::registry::{ListQuery, Registry};
use crate::routers::render;
use runelog_engine::ids::RouterId;
use runelog_engine::router::RouterDef;
use runelog_engine::wal::Wait;
use std::collections::VecDeque;
use std::sync::Arc;

/// Where the directory is.
pub(crate) const REGISTRY_CORE: usize = 0;

/// What a core knows and does about routers.
pub(super) struct Routing {
    pub(super) graph: Graph,
    pub(super) pumps: Pumps,
    pub(super) settles: Settles,
    /// When watched topics are looked through again.
    pub(super) watched_again_ms: u64,
    /// On one core only.
    pub(super) directory: Option<Box<Directory>>,
}

impl Routing {
    pub(super) fn new(steady_ms: u64) -> Routing {
        Routing {
            graph: Graph::default(),
            pumps: Pumps::new(steady_ms),
            settles: Settles::default(),
            watched_again_ms: 0,
            directory: None,
        }
    }

    pub(super) fn report(&self) -> RouterReport {
        RouterReport {
            routers: self.directory.as_ref().map_or(0, |directory| directory.registry.len() as u64),
            stalled: self.pumps.stalled(),
            pumps: self.pumps.stats(),
        }
    }
}

/// All routers of the server, and the requests about them.
pub(super) struct Directory {
    registry: Registry,
    queue: VecDeque<(Origin, RegistryOp)>,
    /// One is at work.
    busy: bool,
    /// Topics that the PUT at work names.
    named: Vec<Box<str>>,
    /// Topics that are being deleted beside the queue.
    dropping: Vec<Box<str>>,
}

impl Directory {
    pub(super) fn new(registry: Registry) -> Directory {
        Directory { registry, queue: VecDeque::new(), busy: false, named: Vec::new(), dropping: Vec::new() }
    }
}

/// A PUT on its way.
struct Put {
    origin: Origin,
    name: Box<str>,
    request: Box<RouterRequest>,
    source: Option<FoundTopic>,
    dest: Option<FoundTopic>,
}

type Then<T> = Box<dyn FnOnce(&mut Service, T)>;

impl Service {
    fn directory(&mut self) -> &mut Directory {
        self.routing.directory.as_mut().expect("asked on the core that has it")
    }

    /// Runs a request about routers.
    pub(super) fn run_registry(&mut self, op: RegistryOp) -> Ran {
        match op {
            RegistryOp::List { query, access } => self.list_routers(&query, &access),
            RegistryOp::Get { name, access } => self.get_router(&name, &access),
            change => Ran::Task(Box::new(move |service, origin| service.queue_change(origin, change))),
        }
    }

    /// no router is advanced.
    fn list_routers(&mut self, query: &ListQuery, access: &Access) -> Ran {
        let permitted = |def: &RouterDef| permits_all(access, def);
        let (page, more) = self.directory().registry.page(query, permitted);
        let mut json = Vec::with_capacity(64 + 160 * page.len());
        let routes = page.iter().filter_map(|def| self.routing.graph.get(def.id)).map(|route| &**route);
        render::render_list(&mut json, routes, more);
        Ran::Answer(Answer::Body { status: 200, json, scanned: None }, Wait::default())
    }

    /// after everything on its way has arrived.
    fn get_router(&mut self, name: &str, access: &Access) -> Ran {
        let found = self.directory().registry.get(name).map(|def| def.id);
        let Some(route) = found.and_then(|id| self.routing.graph.get(id)).cloned() else {
            return refused(Fault::router_not_found(name));
        };
        if !permits_all(access, &route.def) {
            return refused(not_permitted());
        }
        Ran::Task(Box::new(move |service, origin| {
            let settle = Op::Router(RouterOp::Settle(route.def.dest.clone()));
            service.ask(route.dest_core, settle, move |service, answer| {
                if let Answer::Fault(..) = answer {
                    return service.answer(origin, answer);
                }
                let mut json = Vec::with_capacity(256);
                let total = route.progress.forwarded_total();
                render::render_router(&mut json, &route.def, None, Some(total));
                service.answer(origin, Answer::Body { status: 200, json, scanned: None });
            });
        }))
    }

    /// Puts a change in line, or begins it.
    fn queue_change(&mut self, origin: Origin, op: RegistryOp) {
        let directory = self.directory();
        match op {
            RegistryOp::DeleteTopic { topic, if_empty }
                if !directory.registry.touches(&topic) && !directory.named.contains(&topic) =>
            {
                directory.dropping.push(topic.clone());
                self.drop_topic(topic.clone(), if_empty, move |service, dropped| {
                    service.answer(origin, topic_dropped(&topic, dropped, &[]));
                    let dropping = &mut service.directory().dropping;
                    if let Some(at) = dropping.iter().position(|other| *other == topic) {
                        dropping.swap_remove(at);
                    }
                    service.next_change();
                });
            }
            op if directory.queue.len() >= REGISTRY_QUEUE_MAX => {
                drop(op);
                self.answer(origin, Answer::Fault(Box::new(Fault::throttled()), None));
            }
            op => {
                directory.queue.push_back((origin, op));
                self.next_change();
            }
        }
    }

    /// Begins the next change, if none is at work.
    fn next_change(&mut self) {
        let directory = self.directory();
        if directory.busy {
            return;
        }
        if let Some((_, RegistryOp::Put { request, .. })) = directory.queue.front()
            && directory.dropping.iter().any(|topic| *topic == request.source || *topic == request.dest)
        {
            return; // the end of that deletion comes by here
        }
        let Some((origin, op)) = directory.queue.pop_front() else { return };
        directory.busy = true;
        match op {
            RegistryOp::Put { name, request } => {
                directory.named = vec![request.source.clone(), request.dest.clone()];
                self.put_router(Put { origin, name, request, source: None, dest: None });
            }
            RegistryOp::Delete { name, access } => self.delete_router(origin, &name, &access),
            RegistryOp::DeleteTopic { topic, if_empty } => self.delete_topic(origin, topic, if_empty),
            RegistryOp::Get { .. } | RegistryOp::List { .. } => unreachable!("answered at once"),
        }
    }

    /// Ends the change at work with its answer.
    fn end_change(&mut self, origin: Origin, answer: Answer) {
        self.answer(origin, answer);
        let directory = self.directory();
        directory.busy = false;
        directory.named.clear();
        self.next_change();
    }

    fn refuse_change(&mut self, origin: Origin, fault: Box<Fault>) {
        self.end_change(origin, Answer::Fault(fault, None));
    }

    // PUT

    /// Looks both topics up, dest first, as the checks want it (§7.1).
    fn put_router(&mut self, put: Put) {
        let dest = put.request.dest.clone();
        self.find_topic(dest, false, move |service, found| match found {
            Ok(None) if !put.request.create_dest => {
                service.refuse_change(put.origin, Box::new(Fault::topic_not_found(&put.request.dest)));
            }
            Ok(dest) => {
                let source = put.request.source.clone();
                service.find_topic(source, false, move |service, found| match found {
                    Ok(source) => service.put_checked(Put { source, dest, ..put }),
                    Err(fault) => service.refuse_change(put.origin, fault),
                });
            }
            Err(fault) => service.refuse_change(put.origin, fault),
        });
    }

    fn put_checked(&mut self, put: Put) {
        let registry = &self.directory().registry;
        if let Err(fault) = registry.check(&put.name, &put.request) {
            return self.refuse_change(put.origin, Box::new(fault));
        }
        let existing = registry.get(&put.name).map(|def| def.id);
        match existing.and_then(|id| self.routing.graph.get(id)).cloned() {
            Some(route) => self.update_router(put, route),
            None => self.create_missing(put),
        }
    }

    /// dest first; what this call made goes again if the call is refused.
    fn create_missing(&mut self, put: Put) {
        let (missing, is_dest) = match (&put.dest, &put.source) {
            (None, _) => (put.request.dest.clone(), true),
            (_, None) => (put.request.source.clone(), false),
            _ => return self.store_router(put),
        };
        self.find_topic(missing, true, move |service, found| match found {
            Ok(Some(found)) if is_dest => service.create_missing(Put { dest: Some(found), ..put }),
            Ok(Some(found)) => service.create_missing(Put { source: Some(found), ..put }),
            Ok(None) => service.undo_put(put, Box::new(Fault::internal("a topic could not be made"))),
            Err(fault) => service.undo_put(put, fault),
        });
    }

    /// Takes back what a refused PUT made.
    fn undo_put(&mut self, put: Put, fault: Box<Fault>) {
        let made = [(&put.request.source, put.source), (&put.request.dest, put.dest)];
        let undo = made.into_iter().filter_map(|(topic, found)| {
            let id = found.filter(|found| found.created)?.id;
            let op = RouterOp::UndoTopic { topic: topic.clone(), id };
            Some((self.owner(topic), op))
        });
        let undo = undo.collect();
        self.ask_each(undo, Box::new(move |service, _| service.refuse_change(put.origin, fault)));
    }

    /// Makes the definition durable, then a place for its position.
    fn store_router(&mut self, put: Put) {
        let (source, dest) = (put.source.expect("found or made"), put.dest.expect("found or made"));
        let request = &put.request;
        let def = RouterDef {
            id: RouterId(0),
            name: put.name.clone(),
            source: request.source.clone(),
            source_id: source.id,
            dest: request.dest.clone(),
            dest_id: dest.id,
            preserve_node: request.preserve_node,
            preserve_tag: request.preserve_tag,
            filter: request.filter.clone(),
            allow_cycle: request.allow_cycle,
            exactly_once: request.exactly_once,
            start: source.head,
        };
        let store = Op::Router(RouterOp::Store(Box::new(def.clone())));
        self.ask(REGISTRY_CORE, store, move |service, answer| match answer {
            Answer::Router(RouterAnswer::Stored(id)) => service.open_link(put, RouterDef { id, ..def }),
            answer => service.undo_put(put, fault_in(answer)),
        });
    }

    fn open_link(&mut self, put: Put, def: RouterDef) {
        let (router, dest, start) = (def.id, def.dest_id, def.start);
        let open = Op::Router(RouterOp::OpenLink { router, dest, start });
        self.ask(self.owner(&def.dest), open, move |service, answer| match answer {
            Answer::Router(RouterAnswer::Linked { position, forwarded_total, epoch }) => {
                let route = Route {
                    source_core: service.owner(&def.source),
                    dest_core: service.owner(&def.dest),
                    source: service.mark_of(&def),
                    progress: Arc::new(Progress::new(position, forwarded_total)),
                    epoch,
                    def,
                };
                service.install(put, Arc::new(route), true);
            }
            answer => {
                let forget = vec![(REGISTRY_CORE, RouterOp::Forget(vec![def.id]))];
                let fault = fault_in(answer);
                service.ask_each(forget, Box::new(move |service, _| service.undo_put(put, fault)));
            }
        });
    }

    /// All routers of a source share its mark.
    fn mark_of(&mut self, def: &RouterDef) -> Arc<SourceMark> {
        let siblings = self.directory().registry.touching(&def.source);
        let sibling = siblings.iter().find(|sibling| sibling.source_id == def.source_id);
        match sibling.and_then(|sibling| self.routing.graph.get(sibling.id)) {
            Some(route) => route.source.clone(),
            None => Arc::default(),
        }
    }

    /// Tells every core, then answers.
    fn install(&mut self, put: Put, route: Arc<Route>, created: bool) {
        let cores = (0..self.cores()).map(|core| (core, RouterOp::Install(route.clone()))).collect();
        self.ask_each(
            cores,
            Box::new(move |service, _| {
                service.directory().registry.insert(Arc::new(route.def.clone()));
                let mut json = Vec::with_capacity(256);
                render::render_router(&mut json, &route.def, Some(created), None);
                let status = if created { 201 } else { 200 };
                service.end_change(put.origin, Answer::Body { status, json, scanned: None });
            }),
        );
    }

    /// what is there was written under the old options and goes by them; from where the router then
    /// stands, the new ones hold. That place is durable before they are, or a crash could bring back
    /// records that the old filter had passed over.
    fn update_router(&mut self, put: Put, old: Arc<Route>) {
        let request = &put.request;
        let def = RouterDef {
            preserve_node: request.preserve_node,
            preserve_tag: request.preserve_tag,
            filter: request.filter.clone(),
            allow_cycle: request.allow_cycle,
            exactly_once: request.exactly_once,
            ..old.def.clone()
        };
        if def == old.def {
            return self.install(put, old, false);
        }
        let id = def.id;
        let steps = vec![
            (old.source_core, RouterOp::Advance(id)),
            (old.source_core, RouterOp::Pause(id)),
            (old.dest_core, RouterOp::LogPosition(id)),
            (REGISTRY_CORE, RouterOp::Store(Box::new(def.clone()))),
        ];
        self.ask_each(
            steps,
            Box::new(move |service, result| match result {
                Ok(()) => {
                    let route = Route {
                        def,
                        source_core: old.source_core,
                        dest_core: old.dest_core,
                        source: old.source.clone(),
                        progress: old.progress.clone(),
                        epoch: old.epoch,
                    };
                    service.install(put, Arc::new(route), false);
                }
                Err(fault) => {
                    // It goes on as it was.
                    let resume = vec![(old.source_core, RouterOp::Install(old.clone()))];
                    service.ask_each(
                        resume,
                        Box::new(move |service, _| service.refuse_change(put.origin, fault)),
                    );
                }
            }),
        );
    }

    // DELETE

    /// What was written before goes to the dest first, as far as it takes it.
    fn delete_router(&mut self, origin: Origin, name: &str, access: &Access) {
        let def = self.directory().registry.get(name).cloned();
        if def.as_ref().is_some_and(|def| !permits_all(access, def)) {
            return self.refuse_change(origin, Box::new(not_permitted()));
        }
        let mut json = Vec::with_capacity(128);
        render::render_deleted(&mut json, name, def.is_some());
        let answer = Answer::Body { status: 200, json, scanned: None };
        let Some(def) = def else { return self.end_change(origin, answer) };
        let steps = vec![
            (self.owner(&def.source), RouterOp::Advance(def.id)),
            (REGISTRY_CORE, RouterOp::Forget(vec![def.id])),
        ];
        self.ask_each(
            steps,
            Box::new(move |service, result| match result {
                Ok(()) => service.remove_routers(
                    vec![def],
                    Box::new(move |service, ()| service.end_change(origin, answer)),
                ),
                Err(fault) => service.refuse_change(origin, fault),
            }),
        );
    }

    /// Takes routers out everywhere: nothing is sent or taken for them any more.
    fn remove_routers(&mut self, defs: Vec<Arc<RouterDef>>, then: Then<()>) {
        let mut steps = Vec::with_capacity(defs.len() * (self.cores() + 1));
        for def in &defs {
            steps.push((self.owner(&def.dest), RouterOp::CloseLink(def.id)));
            steps.extend((0..self.cores()).map(|core| (core, RouterOp::Remove(def.id))));
        }
        self.ask_each(
            steps,
            Box::new(move |service, _| {
                for def in &defs {
                    service.directory().registry.remove(&def.name);
                }
                then(service, ());
            }),
        );
    }

    /// TD-1: a topic with its routers. What was written to it goes to its dests first.
    fn delete_topic(&mut self, origin: Origin, topic: Box<str>, if_empty: bool) {
        let defs = self.directory().registry.touching(&topic);
        let advance = defs.iter().filter(|def| def.source == topic);
        let advance = advance.map(|def| (self.owner(&topic), RouterOp::Advance(def.id))).collect();
        self.ask_each(
            advance,
            Box::new(move |service, _| {
                service.drop_topic(topic.clone(), if_empty, move |service, dropped| {
                    service.routers_follow(origin, topic, defs, dropped);
                });
            }),
        );
    }

    /// A topic is gone, or was not: its routers are forgotten.
    fn routers_follow(
        &mut self,
        origin: Origin,
        topic: Box<str>,
        defs: Vec<Arc<RouterDef>>,
        dropped: Result<bool, Box<Fault>>,
    ) {
        if dropped.is_err() || defs.is_empty() {
            return self.end_change(origin, topic_dropped(&topic, dropped, &[]));
        }
        let forget = RouterOp::Forget(defs.iter().map(|def| def.id).collect());
        self.ask_each(
            vec![(REGISTRY_CORE, forget)],
            Box::new(move |service, forgotten| {
                // Even if the log of this core failed: the topic is gone, and the next start sees to them.
                let answer = topic_dropped(&topic, forgotten.and(dropped), &defs);
                service.remove_routers(defs, Box::new(move |service, ()| service.end_change(origin, answer)));
            }),
        );
    }

    /// Deletes a topic at its owner.
    fn drop_topic(
        &mut self,
        topic: Box<str>,
        if_empty: bool,
        then: impl FnOnce(&mut Service, Result<bool, Box<Fault>>) + 'static,
    ) {
        let owner = self.owner(&topic);
        self.ask(owner, Op::DropTopic { topic, if_empty }, move |service, answer| {
            let dropped = match answer {
                Answer::Router(RouterAnswer::Dropped(dropped)) => Ok(dropped),
                answer => Err(fault_in(answer)),
            };
            then(service, dropped);
        });
    }

    // Asking

    /// The topic of that name at its owner; with `create`, made if it is missing.
    fn find_topic(
        &mut self,
        topic: Box<str>,
        create: bool,
        then: impl FnOnce(&mut Service, Result<Option<FoundTopic>, Box<Fault>>) + 'static,
    ) {
        let owner = self.owner(&topic);
        let find = Op::Router(RouterOp::FindTopic { topic, create });
        self.ask(owner, find, move |service, answer| {
            let found = match answer {
                Answer::Router(RouterAnswer::Topic(found)) => Ok(found),
                answer => Err(fault_in(answer)),
            };
            then(service, found);
        });
    }

    /// Takes steps one after another, up to the first that fails.
    fn ask_each(&mut self, steps: Vec<(usize, RouterOp)>, then: Then<Result<(), Box<Fault>>>) {
        self.ask_next(steps.into_iter(), then);
    }

    fn ask_next(
        &mut self,
        mut steps: std::vec::IntoIter<(usize, RouterOp)>,
        then: Then<Result<(), Box<Fault>>>,
    ) {
        let Some((core, op)) = steps.next() else { return then(self, Ok(())) };
        self.ask(core, Op::Router(op), move |service, answer| match answer {
            Answer::Router(_) => service.ask_next(steps, then),
            answer => then(service, Err(fault_in(answer))),
        });
    }
}

/// The answer to a topic's deletion (TD-1).
fn topic_dropped(topic: &str, dropped: Result<bool, Box<Fault>>, removed: &[Arc<RouterDef>]) -> Answer {
    match dropped {
        Ok(deleted) => {
            let mut json = Vec::with_capacity(128);
            topics::render_drop(&mut json, topic, deleted, removed.iter().map(|def| &*def.name));
            Answer::Body { status: 200, json, scanned: None }
        }
        Err(fault) => Answer::Fault(fault, None),
    }
}

fn permits_all(access: &Access, def: &RouterDef) -> bool {
    [&def.name, &def.source, &def.dest].iter().all(|name| access.permits(name.as_bytes()))
}

/// A-10(d). Which of the names it is, is not told: they are not the asker's to know.
fn not_permitted() -> Fault {
    Fault::forbidden("the key does not cover this router, its source and its dest")
}

fn refused(fault: Fault) -> Ran {
    Ran::Answer(Answer::Fault(Box::new(fault), None), Wait::default())
}

/// What is wrong, in an answer that is not the one asked for.
fn fault_in(answer: Answer) -> Box<Fault> {
    match answer {
        Answer::Fault(fault, _) => fault,
        _ => unreachable!("every question has its kind of answer"),
    }
}
