//! Routers in the simulation, and the mesh that carries what they bring from the shard of a source to that of
//! a dest: delayed and interleaved by the seed, in order for each pair of shards.
//! Lives here: what a server does around links (see the README, "What the caller of routers must do").
//! Not here: what a dest makes of copies (`world`).

use super::Stop;
use super::plan;
use super::rig::{Bring, Outcome, Rec, broken, seen_of};
use super::world::{Strength, World};
use crate::error::EngineError;
use crate::ids::RouterId;
use crate::router::RouterDef;
use crate::shard::{PumpRead, TagMatch};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Hops after which a record is copied no further.
const HOPS_MAX: u8 = 8;
/// Rounds after which copies that still move are taken to run in a circle.
const FLOW_MAX: usize = 2_000;

/// Copies on their way.
#[derive(Default)]
pub(super) struct Mesh {
    /// By shard of the source and of the dest.
    lanes: BTreeMap<(usize, usize), VecDeque<Bring>>,
    /// Routers that wait for an answer: each has one forward at a time.
    waiting: BTreeSet<RouterId>,
}

impl Mesh {
    pub(super) fn clear(&mut self) {
        self.lanes.clear();
        self.waiting.clear();
    }
}

impl World {
    fn router(&self, number: u64) -> Option<RouterDef> {
        let all = &self.routers.now;
        let at = number as usize % all.len().max(1);
        all.values().nth(at).cloned()
    }

    fn with_style(def: RouterDef, style: u64) -> RouterDef {
        let tag = || plan::TAGS[(style >> 4) as usize % plan::TAGS.len()].as_bytes().to_vec();
        let filter = match style >> 3 & 1 {
            0 => None,
            _ if style >> 6 & 1 == 1 => Some(TagMatch::Eq(tag())),
            _ => Some(TagMatch::Prefix(tag())),
        };
        RouterDef { preserve_node: style & 1 != 0, preserve_tag: style & 2 != 0, filter, ..def }
    }

    /// Whether the shards that keep registry and link can be written to.
    fn can_route(&mut self, dest: &str) -> bool {
        let home = self.rig.home(dest);
        !self.rig.is_halted(0) && !self.rig.is_halted(home)
    }

    fn put_router(&mut self, def: RouterDef) -> Outcome<()> {
        let wait = self.rig.repeat(0, |shard, _| shard.put_router(def.clone()))?;
        self.routers.now.insert(def.id, def);
        self.routers.steps.push((wait.0, self.routers.now.clone()));
        self.rig.wait(0, wait.0)
    }

    pub(super) fn route(&mut self, source: u64, dest: u64, style: u64) -> Outcome<()> {
        let (source, dest) = (self.setup.name(source), self.setup.name(dest));
        // Routers lead upwards in the names, so that none closes a circle.
        if source >= dest || !self.topics.contains_key(&source) || !self.topics.contains_key(&dest) {
            return Ok(());
        }
        let same = |def: &RouterDef| (&*def.source, &*def.dest) == (source.as_str(), dest.as_str());
        if self.routers.now.values().any(same) || !self.can_route(&dest) {
            return Ok(());
        }
        // Both topics and the position must be durable before the router is.
        self.rig.settle()?;
        if self.rig.is_halted(self.rig.home(&source)) || !self.can_route(&dest) {
            return Ok(());
        }
        let (Some(source_ref), Some(dest_ref)) = (self.rig.find(&source), self.rig.find(&dest)) else {
            return Err(broken("I-41", format!("{source} or {dest} is not there")));
        };
        let id = self.rig.shards[0].next_router_id();
        let start = self.topics[&source].head;
        let def = RouterDef {
            id,
            name: format!("{source}-{dest}").into(),
            source: source.as_str().into(),
            source_id: source_ref.id,
            dest: dest.as_str().into(),
            dest_id: dest_ref.id,
            preserve_node: true,
            preserve_tag: true,
            filter: None,
            allow_cycle: false,
            exactly_once: style >> 2 & 1 == 1,
            start,
        };
        self.put_router(Self::with_style(def, style))?;
        self.report.routers += 1;
        self.open_link(id, &dest, start)
    }

    fn open_link(&mut self, router: RouterId, dest: &str, start: u64) -> Outcome<()> {
        let home = self.rig.home(dest);
        let dest_id = self.routers.now[&router].dest_id;
        let link = self.rig.repeat(home, |shard, _| shard.open_link(router, dest_id, start))?;
        if (link.position, link.forwarded_total, link.epoch) != (start, 0, 0) {
            return Err(broken("I-60", format!("a new router begins at {link:?}, not at {start}")));
        }
        let link = super::model::Link { position: start, total: 0, logged: None };
        self.topics.get_mut(dest).expect("it exists").links.insert(router, link);
        self.note(dest, 0, Strength::Nothing, "link");
        Ok(())
    }

    /// the place is made durable before the options change.
    pub(super) fn reroute(&mut self, number: u64, style: u64) -> Outcome<()> {
        let Some(def) = self.router(number) else { return Ok(()) };
        let dest = def.dest.to_string();
        if !self.can_route(&dest) {
            return Ok(());
        }
        let home = self.rig.home(&dest);
        let wait = self.rig.repeat(home, |shard, _| shard.log_position(def.id))?;
        let link = self.topics.get_mut(&dest).and_then(|topic| topic.links.get_mut(&def.id));
        let Some(link) = link else {
            return Err(broken("I-62", format!("{def:?} has no link in the model")));
        };
        link.logged = Some((link.position, link.total));
        self.note(&dest, wait.0, Strength::PowerLoss, "place");
        self.rig.wait(home, wait.0)?;
        self.put_router(Self::with_style(def, style))
    }

    pub(super) fn unroute(&mut self, number: u64) -> Outcome<()> {
        let Some(def) = self.router(number) else { return Ok(()) };
        match self.can_route(&def.dest) {
            true => self.drop_routers(&[def]),
            false => Ok(()),
        }
    }

    fn drop_routers(&mut self, defs: &[RouterDef]) -> Outcome<()> {
        if defs.is_empty() {
            return Ok(());
        }
        let ids: Vec<RouterId> = defs.iter().map(|def| def.id).collect();
        let wait = self.rig.repeat(0, |shard, _| shard.drop_routers(&ids))?;
        ids.iter().for_each(|id| drop(self.routers.now.remove(id)));
        self.routers.steps.push((wait.0, self.routers.now.clone()));
        self.rig.wait(0, wait.0)?;
        for def in defs {
            let home = self.rig.home(&def.dest);
            self.rig.shards[home].close_link(def.id);
            let topic = self.topics.get_mut(&*def.dest);
            if topic.is_some_and(|topic| topic.links.remove(&def.id).is_some()) {
                self.note(&def.dest, 0, Strength::Nothing, "link closed");
            }
        }
        Ok(())
    }

    /// A topic goes with the routers that lead from or to it.
    pub(super) fn drop_with_routers(&mut self, name: &str, if_empty: bool) -> Outcome<()> {
        if if_empty {
            self.expire(name);
        }
        let stays = if_empty && self.topics.get(name).is_some_and(|topic| topic.count() > 0);
        if !stays {
            let touched = self.routers.now.values().filter(|def| &*def.source == name || &*def.dest == name);
            let touched: Vec<RouterDef> = touched.cloned().collect();
            if !touched.is_empty() && self.rig.is_halted(0) {
                return Ok(());
            }
            self.drop_routers(&touched)?;
        }
        self.drop_topic(name, if_empty)
    }

    /// A router reads its source and sends what it found. Returns whether anything is on its way.
    fn pump_one(&mut self, def: &RouterDef, most: u64) -> Outcome<bool> {
        if self.mesh.waiting.contains(&def.id) {
            return Ok(true);
        }
        let (source, dest) = (def.source.to_string(), def.dest.to_string());
        let home = self.rig.home(&source);
        if self.rig.is_halted(home) || !self.can_route(&dest) {
            return Ok(false);
        }
        let Some(link) = self.topics.get(&dest).and_then(|topic| topic.links.get(&def.id)).copied() else {
            return Err(broken("I-62", format!("{} has no link in the model", def.name)));
        };
        self.rig.settle()?;
        self.expire(&source);
        let Some(source_ref) = self.rig.find(&source) else {
            return Err(broken("I-60", format!("{} reads {source}, which is not there", def.name)));
        };
        let from = link.position;
        let (read, seen) = self.rig.repeat(home, |shard, now| {
            let mut seen = Vec::new();
            let most = most.clamp(1, 500) as u32;
            let read =
                shard.pump_read(source_ref, from, most, 1 << 20, now, |record| seen.push(seen_of(record)))?;
            Ok((read, seen))
        })?;
        let topic = &self.topics[&source];
        let PumpRead { next, head, lost } = read;
        let live = topic.live.range(from + 1..).map(|(seq, _)| *seq).take(seen.len());
        let gone = topic.lost_within(from, topic.floor().max(from));
        let unseen = topic.live.range(from + 1..).nth(seen.len()).map_or(topic.head, |(seq, _)| seq - 1);
        let fits = head == topic.head && next <= unseen.max(from) && (from >= head || lost == gone);
        if !fits || !seen.iter().map(|seen| seen.seq).eq(live) {
            let what = format!("{}: {read:?} above {from}, with {} records", def.name, seen.len());
            return Err(broken("I-62", format!("{what}; the source: {}, {gone} gone", topic.brief())));
        }
        for seen in &seen {
            topic.check_record(seen).map_err(|(rule, text)| broken(rule, format!("{source}: {text}")))?;
        }
        if next == from {
            return Ok(false);
        }
        let epoch = self.rig.shards[self.rig.home(&dest)].link(def.id).map_or(0, |link| link.epoch);
        let mut bring = Bring {
            router: def.id,
            dest: def.dest_id,
            from,
            through: Vec::new(),
            end: next,
            vacant: lost,
            hops: 1,
            records: Vec::new(),
        };
        for seen in &seen {
            let passes = def.filter.as_ref().is_none_or(|filter| filter.matches(seen.rec.tag.as_deref()));
            if !passes || seen.hops >= HOPS_MAX {
                continue;
            }
            if bring.records.is_empty() {
                bring.hops = seen.hops + 1;
            } else if bring.hops != seen.hops + 1 {
                bring.end = seen.seq - 1; // the others go with the next one
                break;
            }
            let Rec { data, meta, tag, node } = seen.rec.clone();
            let once =
                || format!("{{\"key\":\"{}:{}:{epoch}:{}\"}}", def.name, def.id.0, seen.seq).into_bytes();
            bring.records.push(Rec {
                data,
                meta: if def.exactly_once { Some(once()) } else { meta },
                tag: tag.filter(|_| def.preserve_tag),
                node: node.filter(|_| def.preserve_node),
            });
            bring.through.push(seen.seq);
        }
        self.mesh.waiting.insert(def.id);
        self.mesh.lanes.entry((home, self.rig.home(&dest))).or_default().push_back(bring);
        Ok(true)
    }

    pub(super) fn pump(&mut self, number: u64, records: u64) -> Outcome<()> {
        match self.router(number) {
            Some(def) => self.pump_one(&def, records).map(drop),
            None => Ok(()),
        }
    }

    /// Messages arrive, each from one of the lanes.
    pub(super) fn deliver(&mut self, count: u64) -> Outcome<()> {
        for index in 0..count.clamp(1, 50) {
            let lanes: Vec<(usize, usize)> = self.mesh.lanes.keys().copied().collect();
            if lanes.is_empty() {
                return Ok(());
            }
            self.deliver_from(lanes[(index + count) as usize % lanes.len()])?;
        }
        Ok(())
    }

    /// The first message of a lane arrives. Returns whether its router moved.
    fn deliver_from(&mut self, lane: (usize, usize)) -> Outcome<bool> {
        let queue = self.mesh.lanes.get_mut(&lane).expect("a lane");
        let bring = queue.pop_front().expect("lanes are never empty");
        if queue.is_empty() {
            self.mesh.lanes.remove(&lane);
        }
        self.mesh.waiting.remove(&bring.router);
        self.report.messages += 1;
        if self.rig.is_halted(lane.1) {
            return Ok(false);
        }
        let mut dests = self.topics.iter().filter(|(_, topic)| topic.links.contains_key(&bring.router));
        let dest = dests.next().map(|(name, topic)| (name.clone(), topic.links[&bring.router].position));
        let dest = dest.filter(|(_, position)| *position == bring.from);
        let Some((name, from)) = dest else {
            // Router or dest went meanwhile, or another one has its place.
            return match self.rig.forward(lane.1, &bring) {
                Err(Stop::Refused(
                    EngineError::LinkMissing | EngineError::TopicMissing | EngineError::LinkMoved { .. },
                )) => Ok(false),
                Ok(taken) => Err(broken("I-60", format!("{taken:?} for a router that is gone"))),
                Err(stop) => Err(stop),
            };
        };
        Ok(self.forward(&name, &bring)? != from)
    }

    /// Everything that can be copied is; then every router stands at the head of its source, or before a dest
    /// that is full (I-62, I-69).
    pub(super) fn flow(&mut self) -> Outcome<()> {
        for _ in 0..FLOW_MAX {
            let mut moved = false;
            let mut stalled = BTreeSet::new();
            for def in self.routers.now.values().cloned().collect::<Vec<_>>() {
                self.pump_one(&def, 500)?;
            }
            while let Some((lane, queue)) = self.mesh.lanes.iter().next() {
                let (lane, router) = (*lane, queue[0].router);
                match self.deliver_from(lane)? {
                    true => moved = true,
                    false => drop(stalled.insert(router)),
                }
            }
            if moved {
                continue;
            }
            for def in self.routers.now.values() {
                let (Some(source), Some(dest)) = (self.topics.get(&*def.source), self.topics.get(&*def.dest))
                else {
                    continue;
                };
                let homes = [&def.source, &def.dest].map(|name| self.rig.is_halted(self.rig.home(name)));
                let position = dest.links.get(&def.id).map(|link| link.position);
                let is_there = position.is_some_and(|position| position >= source.head);
                if !is_there
                    && !stalled.contains(&def.id)
                    && homes == [false, false]
                    && !self.rig.is_halted(0)
                {
                    let what = format!("{} stands at {position:?} of {}", def.name, source.head);
                    return Err(broken("I-62", what));
                }
            }
            return Ok(());
        }
        Err(broken("hang", "copies run in a circle".to_owned()))
    }

    /// What a server does with routers before it serves (I-66): those of topics that are gone go, links
    /// without a router are closed, and each place is held against what its source recovered.
    pub(super) fn check_links(&mut self) -> Outcome<()> {
        let is_there =
            |world: &World, name: &str, id| world.rig.find(name).is_some_and(|found| found.id == id);
        let gone = self.routers.now.values().filter(|def| {
            !is_there(self, &def.source, def.source_id) || !is_there(self, &def.dest, def.dest_id)
        });
        let gone: Vec<RouterDef> = gone.cloned().collect();
        self.drop_routers(&gone)?;
        for home in 0..self.rig.shards.len() {
            let links: Vec<RouterId> = self.rig.shards[home].links().map(|(router, _)| router).collect();
            for router in links.into_iter().collect::<BTreeSet<_>>() {
                if self.routers.now.contains_key(&router) {
                    continue;
                }
                self.rig.shards[home].close_link(router);
                let dests = self.topics.iter_mut();
                let closed =
                    dests.filter_map(|(name, topic)| topic.links.remove(&router).map(|_| name.clone()));
                for name in closed.collect::<Vec<_>>() {
                    self.note(&name, 0, Strength::Nothing, "link closed");
                }
            }
        }
        for def in self.routers.now.values().cloned().collect::<Vec<_>>() {
            self.check_link(&def)?;
        }
        Ok(())
    }

    fn check_link(&mut self, def: &RouterDef) -> Outcome<()> {
        let (source, dest) = (def.source.to_string(), def.dest.to_string());
        let found = self.rig.find(&source).expect("just seen");
        let recovered = self.rig.shards[self.rig.home(&source)].recovered_head(found).expect("it is there");
        let head = self.topics[&source].head;
        if recovered > head {
            return Err(broken("I-66", format!("{source} recovered {recovered}, and its head is {head}")));
        }
        let home = self.rig.home(&dest);
        let known = self.topics[&dest].links.get(&def.id).copied();
        let start = def.start.min(recovered);
        let opened = self.rig.repeat(home, |shard, _| shard.open_link(def.id, def.dest_id, start))?;
        let before = known.map_or((start, 0), |link| (link.position, link.total));
        if (opened.position, opened.forwarded_total) != before {
            return Err(broken("I-62", format!("{} is opened at {opened:?}, not at {before:?}", def.name)));
        }
        let kept = self.rig.repeat(home, |shard, _| shard.rewind_link(def.id, recovered))?;
        if kept.position != before.0.min(recovered) || !kept.is_checked {
            return Err(broken("I-66", format!("{} stands at {kept:?}, {recovered} recovered", def.name)));
        }
        let logged = known.and_then(|link| link.logged).filter(|_| kept.position == before.0);
        let logged = if kept.position < before.0 { Some((kept.position, before.1)) } else { logged };
        let link = super::model::Link { position: kept.position, total: before.1, logged };
        self.topics.get_mut(&dest).expect("just seen").links.insert(def.id, link);
        let strength = if kept.position < before.0 { Strength::PowerLoss } else { Strength::Nothing };
        self.report.rewinds += u64::from(kept.position < before.0);
        self.note(&dest, kept.wait.0, strength, "link checked");
        self.rig.wait(home, kept.wait.0)
    }
}
