//! Which routers there are, as every core knows it, and how far each has come.
//!
//! A router joins two cores: that of its source reads and sends, that of its dest stores. A reader of the
//! dest must know whether copies are on their way, and mostly none are: so how far source and router
//! are is shared as two numbers, and only a reader that finds them apart asks anybody.
//! Lives here: those numbers, the graph over topic names, ancestors of a topic.
//! Not here: who moves copies (`service::pump`), who waits for them (`service::settle`).

use crate::limits::ROUTER_HOPS_MAX;
use ahash::AHashMap;
use runelog_engine::ids::{RouterId, Seq};
use runelog_engine::router::RouterDef;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Head of a topic that routers copy from. Moved by its owner before anything that rests on the new head
/// is answered, so whoever hears of a write finds it here.
#[derive(Debug, Default)]
pub(crate) struct SourceMark(AtomicU64);

impl SourceMark {
    pub(crate) fn get(&self) -> Seq {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self, head: Seq) {
        self.0.store(head, Ordering::Release);
    }
}

/// How far a router is. Moved by the owner of its source, when the owner of its dest has said that the
/// copies are committed; kept when the router's options change.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    position: AtomicU64,
    forwarded_total: AtomicU64,
    /// Somebody waits at the dest until then (steady clock): copies go out at once.
    eager_until_ms: AtomicU64,
    /// The dest takes nothing at the moment.
    stalled: AtomicBool,
}

impl Progress {
    pub(crate) fn new(position: Seq, forwarded_total: u64) -> Progress {
        let (position, forwarded_total) = (AtomicU64::new(position), AtomicU64::new(forwarded_total));
        Progress { position, forwarded_total, ..Progress::default() }
    }

    /// Everything of the source up to here had its turn, and what was copied shows in the dest.
    pub(crate) fn position(&self) -> Seq {
        self.position.load(Ordering::Acquire)
    }

    ///
    pub(crate) fn forwarded_total(&self) -> u64 {
        self.forwarded_total.load(Ordering::Acquire)
    }

    /// The total goes first: a router that is seen to have arrived has its total.
    pub(crate) fn set(&self, position: Seq, forwarded_total: u64) {
        self.forwarded_total.store(forwarded_total, Ordering::Release);
        self.position.store(position, Ordering::Release);
    }

    pub(crate) fn be_eager_until(&self, steady_ms: u64) {
        self.eager_until_ms.fetch_max(steady_ms, Ordering::Relaxed);
    }

    pub(crate) fn is_eager(&self, steady_ms: u64) -> bool {
        self.eager_until_ms.load(Ordering::Relaxed) >= steady_ms
    }

    pub(crate) fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }
}

/// A router as all cores know it. New options make a new one that shares the numbers.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) def: RouterDef,
    pub(crate) source_core: usize,
    pub(crate) dest_core: usize,
    pub(crate) source: Arc<SourceMark>,
    pub(crate) progress: Arc<Progress>,
    /// Tells copies of seqs that the source used twice apart (I-66).
    pub(crate) epoch: u32,
}

impl Route {
    /// Whether something of the source has not had its turn.
    pub(crate) fn is_behind(&self) -> bool {
        self.progress.position() < self.source.get()
    }
}

/// See the module's text.
#[derive(Default)]
pub(crate) struct Graph {
    routes: AHashMap<RouterId, Arc<Route>>,
    /// By dest. All routers into a topic come from one source.
    feeds: AHashMap<Box<str>, Vec<Arc<Route>>>,
}

impl Graph {
    pub(crate) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    pub(crate) fn get(&self, router: RouterId) -> Option<&Arc<Route>> {
        self.routes.get(&router)
    }

    /// Adds a router or takes its new options.
    pub(crate) fn insert(&mut self, route: Arc<Route>) {
        let feed = match self.feeds.get_mut(&route.def.dest) {
            Some(feed) => feed,
            None => self.feeds.entry(route.def.dest.clone()).or_default(),
        };
        match feed.iter_mut().find(|other| other.def.id == route.def.id) {
            Some(old) => *old = route.clone(),
            None => feed.push(route.clone()),
        }
        self.routes.insert(route.def.id, route);
    }

    pub(crate) fn remove(&mut self, router: RouterId) -> Option<Arc<Route>> {
        let route = self.routes.remove(&router)?;
        if let Some(feed) = self.feeds.get_mut(&route.def.dest) {
            feed.retain(|other| other.def.id != router);
            if feed.is_empty() {
                self.feeds.remove(&route.def.dest);
            }
        }
        Some(route)
    }

    /// The routers into a topic, then those into their source, and so on, as far up as a record can come
    /// from. A cycle comes by more than once, as its records do.
    pub(crate) fn ancestors<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a [Arc<Route>]> {
        let mut at = Some(topic);
        std::iter::from_fn(move || {
            let feed = self.feeds.get(at?)?;
            at = feed.first().map(|route| &*route.def.source);
            Some(feed.as_slice())
        })
        .take(usize::from(ROUTER_HOPS_MAX))
    }

    /// Whether something that was written before now may still be on its way to a topic.
    pub(crate) fn is_behind(&self, topic: &str) -> bool {
        self.ancestors(topic).flatten().any(|route| route.is_behind())
    }

    /// Whether nothing is on its way anywhere, but for what a full dest holds up. True only if no source
    /// moved while this looked: a copy that arrives meanwhile may have further to go.
    pub(crate) fn is_quiet(&self) -> bool {
        let heads = || self.routes.values().map(|route| route.source.get()).fold(0, u64::wrapping_add);
        let before = heads();
        self.routes.values().all(|route| !route.is_behind() || route.progress.is_stalled())
            && heads() == before
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use runelog_engine::ids::TopicId;

    pub(crate) fn def(id: u64, source: &str, dest: &str) -> RouterDef {
        RouterDef {
            id: RouterId(id),
            name: format!("{source}->{dest}").into(),
            source: source.into(),
            source_id: TopicId(1),
            dest: dest.into(),
            dest_id: TopicId(2),
            preserve_node: true,
            preserve_tag: true,
            filter: None,
            allow_cycle: false,
            exactly_once: false,
            start: 0,
        }
    }

    fn route(id: u64, source: &str, dest: &str, mark: &Arc<SourceMark>) -> Arc<Route> {
        Arc::new(Route {
            def: def(id, source, dest),
            source_core: 0,
            dest_core: 0,
            source: mark.clone(),
            progress: Arc::default(),
            epoch: 0,
        })
    }

    fn levels(graph: &Graph, topic: &str) -> Vec<Vec<u64>> {
        graph.ancestors(topic).map(|level| level.iter().map(|route| route.def.id.0).collect()).collect()
    }

    #[test]
    fn a_topic_is_behind_if_any_of_its_ancestors_is() {
        let marks: Vec<Arc<SourceMark>> = (0..3).map(|_| Arc::default()).collect();
        let mut graph = Graph::default();
        assert!(graph.is_empty());
        let a_to_b = route(1, "a", "b", &marks[0]);
        for route in [
            a_to_b.clone(),
            route(2, "a", "b", &marks[0]),
            route(3, "b", "c", &marks[1]),
            route(4, "x", "y", &marks[2]),
        ] {
            graph.insert(route);
        }
        assert_eq!(levels(&graph, "c"), [vec![3], vec![1, 2]], "R-30");
        assert_eq!(levels(&graph, "a"), Vec::<Vec<u64>>::new());
        let behind = |graph: &Graph| ["a", "b", "c", "y"].map(|topic| graph.is_behind(topic));
        assert_eq!((behind(&graph), graph.is_quiet()), ([false; 4], true));
        marks[0].set(5);
        assert_eq!(behind(&graph), [false, true, true, false], "R-30 through a chain");
        a_to_b.progress.set(5, 5);
        assert_eq!(behind(&graph), [false, true, true, false], "the other router of the same source");
        assert!(!graph.is_quiet());
        graph.get(RouterId(2)).unwrap().progress.set_stalled(true);
        assert!(graph.is_quiet(), "SH-5: a full dest ends the drain");
        graph.remove(RouterId(2));
        assert_eq!(behind(&graph), [false; 4]);
        marks[1].set(1);
        assert_eq!(behind(&graph), [false, false, true, false]);
    }

    #[test]
    fn a_cycle_is_followed_as_far_as_its_records_go() {
        let marks: Vec<Arc<SourceMark>> = (0..2).map(|_| Arc::default()).collect();
        let mut graph = Graph::default();
        graph.insert(route(1, "a", "b", &marks[0]));
        graph.insert(route(2, "b", "a", &marks[1]));
        let turns: Vec<Vec<u64>> = (0..8).map(|at| vec![2 - at % 2]).collect();
        assert_eq!(levels(&graph, "a"), turns, "R-12");
    }

    #[test]
    fn new_options_keep_the_numbers() {
        let mark = Arc::default();
        let mut graph = Graph::default();
        let old = route(1, "a", "b", &mark);
        graph.insert(old.clone());
        old.progress.set(7, 3);
        let def = RouterDef { preserve_tag: false, ..def(1, "a", "b") };
        graph.insert(Arc::new(Route {
            def,
            source_core: 0,
            dest_core: 0,
            source: mark,
            progress: old.progress.clone(),
            epoch: 0,
        }));
        let new = graph.get(RouterId(1)).unwrap();
        assert_eq!((new.progress.position(), new.progress.forwarded_total()), (7, 3), "R-6");
        assert!(!graph.ancestors("b").next().unwrap()[0].def.preserve_tag, "R-2");
        assert_eq!(levels(&graph, "b"), [vec![1]]);
    }
}
