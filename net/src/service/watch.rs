//! The owner's side of watching (§8, §9): who stands at which topic, and one rendered item for all that
//! stand at the same place.
//! Lives here: watchers, their windows, when a topic is looked at for them, what a look comes to.
//! Not here: streams and connections ([`streams`](crate::streams)), how an item looks on the wire.
//!
//! No news are missed (I-46): each watched topic has a version that grows with every publication, and a
//! watcher remembers the version at which it had read to the head. Whatever held a watcher up meanwhile
//! (a load, a commit, its window), the two then differ, and it is looked at again.
//!
//! A publication looks at all watchers of its topic in one sweep; those that were held up, opened or have
//! more to read are looked at one by one. Both are bounded a turn, and topics take turns. A watcher
//! without room in its window is passed over and costs nothing until its stream gives credit (V-16).

use crate::feed::{Feed, FeedItem, OpenWatch, WatchCommand};
use crate::handlers::feed;
use crate::json::watch::Delivery;
use crate::limits::{FEED_BYTES_PER_TURN_MAX, FEED_RENDERS_PER_TOPIC_MAX, FEED_RENDERS_PER_TURN_MAX};
use crate::slab::{Key, Slab};
use ahash::AHashMap;
use runelog_engine::error::{EngineError, No};
use runelog_engine::ids::Millis;
use runelog_engine::shard::{LoadId, Shard, TopicRef};
use runelog_engine::wal::Wait;
use std::collections::VecDeque;
use std::sync::Arc;

/// One reader of one topic.
struct Watcher {
    core: usize,
    token: u64,
    topic: Key,
    /// Where it is in [`Watched::all`].
    place: usize,
    options: Arc<Delivery>,
    cursor: u64,
    /// Version of the topic when it had read to the head; 0 if it has more to read.
    seen: u64,
    /// It was not told anything yet.
    fresh: bool,
    /// The last look that read for it.
    look: u64,
    /// Waits for a load or a commit.
    away: bool,
    in_flight_bytes: u64,
    window_bytes: u64,
}

/// A topic that somebody watches.
struct Watched {
    name: Box<str>,
    topic: TopicRef,
    /// Grows with each publication; the first is 1.
    version: u64,
    all: Vec<Key>,
    /// To be looked at one by one; may hold stale keys.
    single: VecDeque<Key>,
    /// A sweep over `all` goes on here.
    sweep: Option<usize>,
    /// Another publication came during the sweep.
    sweep_again: bool,
    /// Is in [`Watchers::due`] or [`Watchers::later`].
    queued: bool,
}

/// What reading for one place came to, for all that stand there.
enum Found {
    Item { item: Arc<FeedItem>, wait: Wait },
    Load(LoadId),
    Busy,
}

/// A place that was read in this look.
struct Rendered {
    options: Arc<Delivery>,
    cursor: u64,
    found: Found,
    /// Who gets it, by core.
    tokens: Vec<Vec<u64>>,
    /// The same as keys, where they wait.
    keys: Vec<Key>,
}

/// An item that leaves when its block is committed.
struct Held {
    wait: Wait,
    item: Arc<FeedItem>,
    tokens: Vec<Vec<u64>>,
    /// Watchers that go on then.
    keys: Vec<Key>,
}

/// What is left of a turn.
struct Budget {
    renders: usize,
    bytes: u64,
}

/// See the module's text.
pub(super) struct Watchers {
    cores: usize,
    watchers: Slab<Watcher>,
    topics: Slab<Watched>,
    by_token: AHashMap<(usize, u64), Key>,
    by_topic: AHashMap<TopicRef, Key>,
    /// Each set of options once, with the number of its watchers: equal ones have the same address.
    options: AHashMap<Arc<Delivery>, usize>,
    /// Topics with somebody to look at.
    due: VecDeque<Key>,
    /// Topics that the shard was too busy for: again next turn, without hurry.
    later: Vec<Key>,
    loading: AHashMap<LoadId, Vec<Key>>,
    held: VecDeque<Held>,
    /// What the turn has for streams, by core.
    out: Vec<(usize, Feed)>,
    scratch: Vec<u8>,
    /// Number of the look at work, and what it has read.
    look: u64,
    rendered: Vec<Rendered>,
    /// Somebody has more to read than this look gave.
    more: bool,
}

impl Watchers {
    pub(super) fn new(cores: usize) -> Watchers {
        Watchers {
            cores,
            watchers: Slab::default(),
            topics: Slab::default(),
            by_token: AHashMap::new(),
            by_topic: AHashMap::new(),
            options: AHashMap::new(),
            due: VecDeque::new(),
            later: Vec::new(),
            loading: AHashMap::new(),
            held: VecDeque::new(),
            out: Vec::new(),
            scratch: Vec::new(),
            look: 0,
            rendered: Vec::new(),
            more: false,
        }
    }

    /// Whether the next turn has something to do.
    pub(super) fn has_work(&self) -> bool {
        !self.due.is_empty()
    }

    /// Whether something is on its way that no completion may announce.
    pub(super) fn is_waiting(&self) -> bool {
        !self.later.is_empty() || !self.held.is_empty() || !self.loading.is_empty()
    }

    /// Names of the topics that somebody watches.
    pub(super) fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.values().map(|watched| &*watched.name)
    }

    /// A stream of `core` wants something.
    pub(super) fn command(&mut self, core: usize, command: WatchCommand, shard: &Shard) {
        match command {
            WatchCommand::Open(open) => self.open(core, *open, shard),
            WatchCommand::Work(_) => unreachable!("not for watchers"),
            WatchCommand::Credit(credits) => {
                for (token, bytes) in credits {
                    self.credit(core, token, bytes);
                }
            }
            WatchCommand::Close(tokens) => {
                for token in tokens {
                    if let Some(key) = self.by_token.get(&(core, token)) {
                        self.remove(*key);
                    }
                }
            }
        }
    }

    fn open(&mut self, core: usize, open: OpenWatch, shard: &Shard) {
        let OpenWatch { token, topic: name, from_seq, options, window_bytes } = open;
        let (found, wait) = shard.find(name.as_bytes());
        let Some(topic) = found else {
            let mut tokens = vec![Vec::new(); self.cores];
            tokens[core].push(token);
            return self.hold(Held { wait, item: Arc::new(FeedItem::Deleted), tokens, keys: Vec::new() });
        };
        let topics = &mut self.topics;
        let watched = *self.by_topic.entry(topic).or_insert_with(|| {
            topics.insert(Watched {
                name,
                topic,
                version: 1,
                all: Vec::new(),
                single: VecDeque::new(),
                sweep: None,
                sweep_again: false,
                queued: false,
            })
        });
        let (options, users) = match self.options.get_key_value(&options) {
            Some((known, users)) => (known.clone(), *users),
            None => (options, 0),
        };
        self.options.insert(options.clone(), users + 1);
        let topic = self.topics.get_mut(watched).expect("just found or made");
        let key = self.watchers.insert(Watcher {
            core,
            token,
            topic: watched,
            place: topic.all.len(),
            options,
            cursor: from_seq,
            seen: 0,
            fresh: true,
            look: 0,
            away: false,
            in_flight_bytes: 0,
            window_bytes,
        });
        topic.all.push(key);
        self.by_token.insert((core, token), key);
        self.look_again(key);
    }

    fn credit(&mut self, core: usize, token: u64, bytes: u64) {
        let Some(key) = self.by_token.get(&(core, token)).copied() else { return };
        let Some(watcher) = self.watchers.get_mut(key) else { return };
        let was_full = watcher.in_flight_bytes >= watcher.window_bytes;
        watcher.in_flight_bytes = watcher.in_flight_bytes.saturating_sub(bytes);
        if was_full {
            self.look_again(key);
        }
    }

    /// Puts a watcher down to be looked at on its own, if there may be news for it.
    fn look_again(&mut self, key: Key) {
        let Some(watcher) = self.watchers.get(key) else { return };
        let topic = self.topics.get_mut(watcher.topic).expect("its topic outlives a watcher");
        if watcher.is_due(topic.version) {
            topic.single.push_back(key);
            queue(&mut self.due, topic, watcher.topic);
        }
    }

    fn remove(&mut self, key: Key) {
        let Some(watcher) = self.watchers.remove(key) else { return };
        self.by_token.remove(&(watcher.core, watcher.token));
        match self.options.get_mut(&watcher.options) {
            Some(users) if *users > 1 => *users -= 1,
            _ => {
                self.options.remove(&watcher.options);
            }
        }
        let topic = self.topics.get_mut(watcher.topic).expect("its topic outlives a watcher");
        topic.all.swap_remove(watcher.place);
        if let Some(moved) = topic.all.get(watcher.place).copied() {
            self.watchers.get_mut(moved).expect("listed watchers exist").place = watcher.place;
            if topic.sweep.is_some() {
                topic.single.push_back(moved); // it may have moved to where the sweep has been
            }
        }
        if topic.all.is_empty() {
            self.by_topic.remove(&topic.topic);
            self.topics.remove(watcher.topic);
        }
    }

    /// Records of these topics were published.
    pub(super) fn published(&mut self, topics: &[TopicRef]) {
        if self.by_topic.is_empty() {
            return;
        }
        for topic in topics {
            let Some(key) = self.by_topic.get(topic) else { continue };
            let watched = self.topics.get_mut(*key).expect("listed topics exist");
            watched.version += 1;
            match watched.sweep {
                None => watched.sweep = Some(0),
                Some(_) => watched.sweep_again = true,
            }
            queue(&mut self.due, watched, *key);
        }
    }

    /// A topic was dropped; that is certain once `wait` is committed. Its watchers are told at once (V-30,
    /// TD-6), which is final for them, whatever becomes of the name (V-31).
    pub(super) fn dropped(&mut self, topic: TopicRef, wait: Wait) {
        let Some(key) = self.by_topic.get(&topic).copied() else { return };
        self.close_topic(key, wait);
    }

    fn close_topic(&mut self, key: Key, wait: Wait) {
        let Some(watched) = self.topics.get_mut(key) else { return };
        let mut tokens = vec![Vec::new(); self.cores];
        for key in std::mem::take(&mut watched.single).into_iter().chain(watched.all.clone()) {
            if let Some(watcher) = self.watchers.get(key) {
                tokens[watcher.core].push(watcher.token);
                self.remove(key);
            }
        }
        self.hold(Held { wait, item: Arc::new(FeedItem::Deleted), tokens, keys: Vec::new() });
    }

    /// Whether that load was for watchers here; then they go on.
    pub(super) fn loaded(&mut self, id: LoadId, result: &Result<(), String>) -> bool {
        let Some(keys) = self.loading.remove(&id) else { return false };
        match result {
            Ok(()) => self.wake(keys),
            Err(_) => self.fail(keys),
        }
        true
    }

    fn wake(&mut self, keys: Vec<Key>) {
        for key in keys {
            if let Some(watcher) = self.watchers.get_mut(key) {
                watcher.away = false;
                self.look_again(key);
            }
        }
    }

    /// I-98: closes without moving cursors.
    fn fail(&mut self, keys: Vec<Key>) {
        let mut tokens = vec![Vec::new(); self.cores];
        for key in keys {
            if let Some(watcher) = self.watchers.get(key) {
                tokens[watcher.core].push(watcher.token);
                self.remove(key);
            }
        }
        self.send(&Arc::new(FeedItem::Failed), tokens);
    }

    fn send(&mut self, item: &Arc<FeedItem>, tokens: Vec<Vec<u64>>) {
        for (core, watchers) in tokens.into_iter().enumerate() {
            if !watchers.is_empty() {
                self.out.push((core, Feed { watchers, item: item.clone() }));
            }
        }
    }

    /// Keeps an item until its block is committed; in the order of blocks, like answers.
    fn hold(&mut self, held: Held) {
        let at = self.held.iter().rposition(|other| other.wait <= held.wait).map_or(0, |at| at + 1);
        self.held.insert(at, held);
    }

    fn release(&mut self, shard: &Shard) {
        let committed = shard.committed();
        while self.held.front().is_some_and(|held| held.wait <= committed) {
            let Held { item, tokens, keys, .. } = self.held.pop_front().expect("just seen");
            self.send(&item, tokens);
            self.wake(keys);
        }
        if !self.held.is_empty() && shard.halted().is_some() {
            // What these items rest on will never be certain.
            for Held { tokens, keys, .. } in std::mem::take(&mut self.held) {
                keys.into_iter().for_each(|key| self.remove(key));
                self.send(&Arc::new(FeedItem::Failed), tokens);
            }
        }
    }

    /// Looks at what is due, and returns what there is for streams.
    pub(super) fn turn(&mut self, shard: &mut Shard, now: Millis) -> std::vec::Drain<'_, (usize, Feed)> {
        for key in std::mem::take(&mut self.later) {
            self.due.push_back(key);
        }
        if !self.held.is_empty() {
            self.release(shard);
        }
        let mut budget = Budget { renders: FEED_RENDERS_PER_TURN_MAX, bytes: FEED_BYTES_PER_TURN_MAX };
        for _ in 0..self.due.len() {
            if budget.is_spent() {
                break;
            }
            let key = self.due.pop_front().expect("as many as counted");
            self.look(key, &mut budget, shard, now);
        }
        // What rests on nothing that is still to be committed leaves in this very turn.
        if !self.held.is_empty() {
            self.release(shard);
        }
        self.out.drain(..)
    }

    /// Looks at one topic's watchers.
    fn look(&mut self, key: Key, budget: &mut Budget, shard: &mut Shard, now: Millis) {
        let Some(watched) = self.topics.get_mut(key) else { return };
        watched.queued = false;
        self.look += 1;
        self.more = false;
        // A topic that routers fill is settled before it is shown: what their sources had
        // acknowledged becomes a publication of its own, and with it another look.
        let renders_before = budget.renders;
        let may_render = |budget: &Budget| {
            !budget.is_spent() && renders_before - budget.renders < FEED_RENDERS_PER_TOPIC_MAX
        };
        let mut complete = true;
        while let Some(watched) = self.topics.get_mut(key)
            && let Some(place) = watched.sweep
        {
            let Some(watcher) = watched.all.get(place).copied() else {
                let again = std::mem::take(&mut watched.sweep_again);
                watched.sweep = again.then_some(0);
                continue;
            };
            if !may_render(budget) {
                complete = false;
                break;
            }
            watched.sweep = Some(place + 1);
            self.serve(watcher, budget, shard, now);
        }
        let singles = self.topics.get(key).map_or(0, |watched| watched.single.len());
        for _ in 0..singles {
            if !may_render(budget) {
                complete = false;
                break;
            }
            let Some(watcher) = self.topics.get_mut(key).and_then(|watched| watched.single.pop_front())
            else {
                break;
            };
            self.serve(watcher, budget, shard, now);
        }
        let busy = self.hand_out(shard);
        let Some(watched) = self.topics.get_mut(key) else { return };
        if watched.queued || complete && watched.single.is_empty() {
            return;
        }
        watched.queued = true;
        match busy && complete && !self.more {
            true => self.later.push(key),
            false => self.due.push_back(key),
        }
    }

    /// Reads for one watcher, unless another that stands at its place was read for already.
    fn serve(&mut self, key: Key, budget: &mut Budget, shard: &mut Shard, now: Millis) {
        let Some(watcher) = self.watchers.get_mut(key) else { return };
        let watched = self.topics.get_mut(watcher.topic).expect("its topic outlives a watcher");
        if !watcher.is_due(watched.version) {
            return;
        }
        // Once a look: items leave in the order in which their places were read first, which for two items
        // of one watcher may be the wrong one.
        if watcher.look == self.look {
            self.more = true;
            return watched.single.push_back(key);
        }
        watcher.look = self.look;
        let here = |other: &Rendered| {
            other.cursor == watcher.cursor && Arc::ptr_eq(&other.options, &watcher.options)
        };
        let at = self.rendered.iter().rposition(here).unwrap_or_else(|| {
            let found = read(shard, watched, watcher, now, &mut self.scratch);
            budget.renders = budget.renders.saturating_sub(1);
            if let Found::Item { item, .. } = &found {
                budget.bytes = budget.bytes.saturating_sub(item.window_bytes());
            }
            self.rendered.push(Rendered {
                options: watcher.options.clone(),
                cursor: watcher.cursor,
                found,
                tokens: vec![Vec::new(); self.cores],
                keys: Vec::new(),
            });
            self.rendered.len() - 1
        });
        let rendered = &mut self.rendered[at];
        let (item, wait) = match &rendered.found {
            Found::Item { item, wait } => (item, *wait),
            Found::Load(_) => {
                watcher.away = true;
                return rendered.keys.push(key);
            }
            Found::Busy => {
                watcher.look = 0; // nothing was read
                return watched.single.push_back(key);
            }
        };
        if let FeedItem::Read(read) = &**item {
            watcher.seen = if read.caught_up() { watched.version } else { 0 };
            if !watcher.fresh && !read.has_news() && read.to_seq == watcher.cursor {
                return; // the news were those it had read already
            }
            watcher.cursor = read.to_seq;
        }
        watcher.fresh = false;
        watcher.in_flight_bytes += item.window_bytes();
        rendered.tokens[watcher.core].push(watcher.token);
        if wait > shard.committed() || !matches!(**item, FeedItem::Read(_)) {
            watcher.away = true;
            rendered.keys.push(key);
        } else if watcher.is_due(watched.version) {
            self.more = true;
            watched.single.push_back(key);
        }
    }

    /// Sends, holds or puts down what a look has read. Returns whether something has to be asked again.
    fn hand_out(&mut self, shard: &Shard) -> bool {
        let mut busy = false;
        let mut all = std::mem::take(&mut self.rendered);
        for Rendered { found, tokens, keys, .. } in all.drain(..) {
            match found {
                Found::Busy => busy = true,
                Found::Load(id) => {
                    self.loading.insert(id, keys);
                }
                Found::Item { item, wait } => {
                    let stays = matches!(*item, FeedItem::Read(_));
                    if stays && wait <= shard.committed() {
                        debug_assert!(keys.is_empty(), "nothing is committed during a look");
                        self.send(&item, tokens);
                        continue;
                    }
                    if !stays {
                        keys.iter().for_each(|key| self.remove(*key));
                    }
                    self.hold(Held { wait, item, tokens, keys });
                }
            }
        }
        self.rendered = all; // keeps its memory
        busy
    }
}

impl Watcher {
    /// Whether it is to be looked at, its topic being at that version.
    fn is_due(&self, version: u64) -> bool {
        !self.away && self.seen != version && self.in_flight_bytes < self.window_bytes
    }
}

impl Budget {
    fn is_spent(&self) -> bool {
        self.renders == 0 || self.bytes == 0
    }
}

fn queue(due: &mut VecDeque<Key>, watched: &mut Watched, key: Key) {
    if !watched.queued {
        watched.queued = true;
        due.push_back(key);
    }
}

/// One read at a watcher's place.
fn read(
    shard: &mut Shard,
    watched: &Watched,
    watcher: &Watcher,
    now: Millis,
    scratch: &mut Vec<u8>,
) -> Found {
    let gone = |item, wait| Found::Item { item: Arc::new(item), wait };
    match feed::render(shard, &watched.name, watcher.cursor, &watcher.options, now, scratch) {
        // Another instance of the name: this one is gone (V-31).
        Ok((outcome, _)) if outcome.topic != watched.topic => gone(FeedItem::Deleted, outcome.wait),
        Ok((outcome, read)) => Found::Item { item: Arc::new(FeedItem::Read(read)), wait: outcome.wait },
        Err(No::Load(wanted)) => Found::Load(shard.load(wanted)),
        Err(No::Busy) => Found::Busy,
        Err(No::Refused(EngineError::TopicMissing, wait)) => gone(FeedItem::Deleted, wait),
        Err(No::Refused(_, wait)) => gone(FeedItem::Failed, wait),
    }
}

#[cfg(test)]
mod tests;
