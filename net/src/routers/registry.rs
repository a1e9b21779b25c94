//! All routers of the server by name, and the graph that they make over topics. Kept on the core of shard
//! 0, where router and topic deletions go one after another.
//! Lives here: what a PUT is checked against (§7.1), lists (§7.3), which routers touch a topic (TD-1).
//! Not here: whether topics exist, logs, other cores.
//! Always true: all routers into one topic come from one source (R-10), so a topic has one line of
//! ancestors, and looking for a cycle is walking up that line.

use crate::fault::Fault;
use crate::json::router::RouterRequest;
use ahash::{AHashMap, AHashSet};
use runelog_engine::router::RouterDef;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// See the module's text.
pub(crate) struct Registry {
    /// 0 = no limit.
    max_routers: u64,
    routers: BTreeMap<Box<str>, Arc<RouterDef>>,
    /// By topic, the names of the routers that have it as source or dest.
    touching: AHashMap<Box<str>, BTreeSet<Box<str>>>,
    /// By dest, the source of all routers into it, and their number.
    feeds: AHashMap<Box<str>, (Box<str>, usize)>,
}

/// Which routers a list wants (§7.3).
#[derive(Clone, Debug, Default)]
pub(crate) struct ListQuery {
    pub(crate) prefix: Box<str>,
    /// Only names after this one.
    pub(crate) after: Option<Box<str>>,
    pub(crate) source: Option<Box<str>>,
    pub(crate) dest: Option<Box<str>>,
    pub(crate) page_size: usize,
}

impl Registry {
    /// What was in force when the server stopped.
    pub(crate) fn new(max_routers: u64, routers: impl IntoIterator<Item = Arc<RouterDef>>) -> Registry {
        let mut registry = Registry {
            max_routers,
            routers: BTreeMap::new(),
            touching: AHashMap::new(),
            feeds: AHashMap::new(),
        };
        routers.into_iter().for_each(|def| registry.insert(def));
        registry
    }

    pub(crate) fn len(&self) -> usize {
        self.routers.len()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<RouterDef>> {
        self.routers.get(name)
    }

    /// Whether a topic is source or dest of any router.
    pub(crate) fn touches(&self, topic: &str) -> bool {
        self.touching.contains_key(topic)
    }

    /// The routers that go with a topic, in ascending order of names (TD-1).
    pub(crate) fn touching(&self, topic: &str) -> Vec<Arc<RouterDef>> {
        let names = self.touching.get(topic).into_iter().flatten();
        names.map(|name| self.routers[name].clone()).collect()
    }

    /// The checks of a PUT from fan-in on, in their order (§7.1).
    pub(crate) fn check(&self, name: &str, request: &RouterRequest) -> Result<(), Fault> {
        let (source, dest) = (&*request.source, &*request.dest);
        let existing = self.routers.get(name);
        if let Some((other, count)) = self.feeds.get(dest)
            && **other != *source
        {
            let own = usize::from(existing.is_some_and(|own| &*own.dest == dest));
            if *count > own {
                return Err(Fault::router_fan_in(dest));
            }
        }
        match existing {
            Some(own) if (&*own.source, &*own.dest) != (source, dest) => {
                return Err(Fault::router_repoint(name, &own.source, &own.dest));
            }
            Some(_) => {} // an update is never counted (L-3)
            None if self.max_routers != 0 && self.routers.len() as u64 >= self.max_routers => {
                return Err(Fault::quota("max_routers", self.max_routers));
            }
            None => {}
        }
        match self.cycle(source, dest).filter(|_| !request.allow_cycle) {
            Some(cycle) => Err(Fault::router_cycle(cycle)),
            None => Ok(()),
        }
    }

    /// The topics of the cycle that a router from `source` to `dest` closes, from `source` back to it.
    fn cycle(&self, source: &str, dest: &str) -> Option<Vec<Box<str>>> {
        let mut upwards: Vec<Box<str>> = vec![source.into()];
        let mut seen = AHashSet::from([source]);
        let mut at = source;
        while at != dest {
            let (above, _) = self.feeds.get(at)?;
            // A cycle that was allowed, and that this router has no part in.
            if !seen.insert(above) {
                return None;
            }
            upwards.push(above.clone());
            at = above;
        }
        upwards.push(source.into());
        upwards.reverse();
        Some(upwards)
    }

    /// Adds a router or takes its new options.
    pub(crate) fn insert(&mut self, def: Arc<RouterDef>) {
        let known = self.routers.insert(def.name.clone(), def.clone());
        if let Some(old) = known {
            debug_assert_eq!((&old.source, &old.dest), (&def.source, &def.dest), "R-3");
            return;
        }
        for topic in [&def.source, &def.dest] {
            self.touching.entry(topic.clone()).or_default().insert(def.name.clone());
        }
        let feed = self.feeds.entry(def.dest.clone()).or_insert_with(|| (def.source.clone(), 0));
        debug_assert_eq!(feed.0, def.source, "R-10");
        feed.1 += 1;
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Arc<RouterDef>> {
        let def = self.routers.remove(name)?;
        for topic in [&def.source, &def.dest] {
            if let Some(names) = self.touching.get_mut(topic) {
                names.remove(name);
                if names.is_empty() {
                    self.touching.remove(topic);
                }
            }
        }
        if let Some((_, count)) = self.feeds.get_mut(&def.dest) {
            *count -= 1;
            if *count == 0 {
                self.feeds.remove(&def.dest);
            }
        }
        Some(def)
    }

    /// A page of a list in order of names (G-1), and whether more match behind it (G-2). `permitted` tells
    /// what the asking key may see (R-26).
    pub(crate) fn page(
        &self,
        query: &ListQuery,
        permitted: impl Fn(&RouterDef) -> bool,
    ) -> (Vec<Arc<RouterDef>>, bool) {
        let start = match &query.after {
            Some(after) if **after >= *query.prefix => Bound::Excluded(&**after),
            _ => Bound::Included(&*query.prefix),
        };
        let is =
            |wanted: &Option<Box<str>>, name: &str| wanted.as_deref().is_none_or(|wanted| wanted == name);
        let mut matching = self
            .routers
            .range::<str, _>((start, Bound::Unbounded))
            .map(|(_, def)| def)
            .take_while(|def| def.name.starts_with(&*query.prefix))
            .filter(|def| is(&query.source, &def.source) && is(&query.dest, &def.dest) && permitted(def));
        let page = matching.by_ref().take(query.page_size).cloned().collect();
        (page, matching.next().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Code, Detail};

    fn def(name: &str, source: &str, dest: &str) -> Arc<RouterDef> {
        let def = crate::routers::graph::tests::def(1, source, dest);
        Arc::new(RouterDef { name: name.into(), allow_cycle: true, ..def })
    }

    fn request(source: &str, dest: &str, allow_cycle: bool) -> RouterRequest {
        RouterRequest {
            source: source.into(),
            dest: dest.into(),
            preserve_node: true,
            preserve_tag: true,
            create_dest: true,
            filter: None,
            allow_cycle,
            exactly_once: false,
        }
    }

    /// Routers by name, source, dest.
    fn registry(max_routers: u64, routers: &[(&str, &str, &str)]) -> Registry {
        Registry::new(max_routers, routers.iter().map(|(name, source, dest)| def(name, source, dest)))
    }

    #[test]
    fn the_first_check_that_fails_answers() {
        let chain = [("ab", "a", "b"), ("bc", "b", "c"), ("cd", "c", "d")];
        let ring = [("ab", "a", "b"), ("ba", "b", "a"), ("bc", "b", "c")];
        let cycle = |topics: &[&str]| {
            let cycle = topics.iter().map(|topic| Box::from(*topic)).collect();
            Err((Code::RouterCycle, Detail::Cycle { cycle }))
        };
        let fan_in =
            |topic: &str| Err((Code::TopicExistsIncompatible, Detail::FanIn { topic: topic.into() }));
        let repoint = |router: &str, source: &str, dest: &str| {
            let (existing_source, existing_dest) = (source.into(), dest.into());
            let detail = Detail::Repoint { router: router.into(), existing_source, existing_dest };
            Err((Code::TopicExistsIncompatible, detail))
        };
        let capped = Err((Code::Throttled, Detail::Quota { limit: "max_routers", max: 3 }));
        type Row<'a> = (
            &'a str,
            u64,
            &'a [(&'a str, &'a str, &'a str)],
            (&'a str, &'a str, &'a str, bool),
            Result<(), (Code, Detail)>,
        );
        let table: [Row<'_>; 21] = [
            // rule, max_routers, routers, the new one (name, source, dest, allow_cycle), outcome
            ("R-1", 0, &[], ("r", "a", "b", false), Ok(())),
            ("R-1 update", 0, &chain, ("ab", "a", "b", false), Ok(())),
            ("R-10 another source", 0, &chain, ("r", "x", "b", false), fan_in("b")),
            ("R-10 same source", 0, &chain, ("r", "a", "b", false), Ok(())),
            ("R-10 before R-3", 0, &chain, ("bc", "x", "b", false), fan_in("b")),
            ("R-10 own edge only", 0, &chain, ("ab", "x", "b", false), repoint("ab", "a", "b")),
            (
                "R-10 own edge and a twin",
                0,
                &[("1", "a", "b"), ("2", "a", "b")],
                ("1", "x", "b", false),
                fan_in("b"),
            ),
            ("R-3 other dest", 0, &chain, ("ab", "a", "x", false), repoint("ab", "a", "b")),
            ("R-3 other source", 0, &chain, ("ab", "x", "y", false), repoint("ab", "a", "b")),
            ("R-3 before L-2", 3, &chain, ("ab", "a", "x", false), repoint("ab", "a", "b")),
            ("L-2", 3, &chain, ("r", "x", "y", false), capped.clone()),
            ("L-2 below the cap", 4, &chain, ("r", "x", "y", false), Ok(())),
            ("L-3", 3, &chain, ("ab", "a", "b", false), Ok(())),
            ("L-2 before R-11", 3, &chain, ("r", "d", "a", false), capped),
            ("R-11", 0, &chain, ("r", "d", "a", false), cycle(&["d", "a", "b", "c", "d"])),
            ("R-11 two topics", 0, &chain, ("r", "b", "a", false), cycle(&["b", "a", "b"])),
            ("R-11 no way back", 0, &chain, ("r", "a", "x", false), Ok(())),
            ("R-12", 0, &chain, ("r", "d", "a", true), Ok(())),
            ("R-11 on update", 0, &ring, ("ba", "b", "a", false), cycle(&["b", "a", "b"])),
            ("R-11 beside a cycle", 0, &ring, ("r", "c", "d", false), Ok(())),
            ("R-11 below a cycle", 0, &ring, ("bc", "b", "c", false), Ok(())),
        ];
        for (rule, max, routers, (name, source, dest, allow_cycle), outcome) in table {
            let checked = registry(max, routers).check(name, &request(source, dest, allow_cycle));
            let checked = checked.map_err(|fault| (fault.code(), fault.detail().clone()));
            assert_eq!(checked, outcome, "{rule}");
        }
    }

    #[test]
    fn a_topic_takes_its_routers_with_it_in_order_of_names() {
        let mut registry =
            registry(0, &[("z", "a", "b"), ("m", "b", "c"), ("a", "b", "d"), ("other", "c", "e")]);
        let names = |registry: &Registry, topic: &str| -> Vec<String> {
            registry.touching(topic).iter().map(|def| def.name.to_string()).collect()
        };
        assert_eq!(names(&registry, "b"), ["a", "m", "z"], "TD-1 R-22");
        assert_eq!(names(&registry, "c"), ["m", "other"], "TD-1");
        assert!(!registry.touches("x") && names(&registry, "x").is_empty(), "TD-2");
        for name in ["a", "m", "z"] {
            assert!(registry.remove(name).is_some() && registry.get(name).is_none(), "{name}");
        }
        assert!(registry.remove("a").is_none(), "R-21");
        assert!(!registry.touches("b") && registry.touches("c"));
        assert_eq!(registry.len(), 1);
        // Its dest is free for another source, and the edge closes no cycle any more.
        assert_eq!(registry.check("r", &request("e", "b", false)), Ok(()), "R-10 R-11");
    }

    #[test]
    fn an_update_counts_once() {
        let mut registry = registry(0, &[("r", "a", "b")]);
        registry.insert(def("r", "a", "b"));
        assert_eq!(registry.len(), 1);
        registry.remove("r");
        assert_eq!(registry.check("r", &request("x", "b", false)), Ok(()), "R-10");
        assert!(!registry.touches("a") && !registry.touches("b"));
    }

    #[test]
    fn lists_are_pages_in_order_of_names() {
        let registry = registry(
            0,
            &[("b", "s", "1"), ("a", "s", "2"), ("ab", "t", "3"), ("c>", "t", "4"), ("aa", "t", "5")],
        );
        type Row<'a> =
            (&'a str, &'a str, Option<&'a str>, Option<&'a str>, Option<&'a str>, usize, &'a [&'a str], bool);
        let table: [Row<'_>; 12] = [
            // rule, prefix, after, source, dest, page size, names, more
            ("G-1", "", None, None, None, 100, &["a", "aa", "ab", "b", "c>"], false),
            ("G-2", "", None, None, None, 2, &["a", "aa"], true),
            ("G-2", "", Some("aa"), None, None, 3, &["ab", "b", "c>"], false),
            ("G-3 entry gone", "", Some("aaa"), None, None, 1, &["ab"], true),
            ("G-5", "a", None, None, None, 100, &["a", "aa", "ab"], false),
            ("G-5", "a", Some("a"), None, None, 1, &["aa"], true),
            ("G-5 cursor before", "b", Some("a"), None, None, 9, &["b"], false),
            ("G-5 cursor behind", "a", Some("b"), None, None, 9, &[], false),
            ("7.3 source", "", None, Some("t"), None, 2, &["aa", "ab"], true),
            ("7.3 source", "", Some("ab"), Some("t"), None, 2, &["c>"], false),
            ("7.3 dest", "", None, None, Some("1"), 9, &["b"], false),
            ("7.3 both", "", None, Some("s"), Some("3"), 9, &[], false),
        ];
        let text = |text: Option<&str>| text.map(Box::<str>::from);
        for (rule, prefix, after, source, dest, page_size, names, more) in table {
            let (after, source, dest) = (text(after), text(source), text(dest));
            let query = ListQuery { prefix: prefix.into(), after, source, dest, page_size };
            let (page, rest) = registry.page(&query, |_| true);
            let found: Vec<&str> = page.iter().map(|def| &*def.name).collect();
            assert_eq!((found.as_slice(), rest), (names, more), "{rule}");
        }
        let query = ListQuery { page_size: 1, ..Default::default() };
        let (page, more) = registry.page(&query, |def| &*def.source == "t" && &*def.dest != "4");
        assert_eq!((&*page[0].name, more), ("aa", true), "R-26: what is not permitted is not counted");
    }
}
