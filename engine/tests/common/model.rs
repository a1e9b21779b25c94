//! The plain model of one topic, and whether a topic shows a state of it.

use super::{Rec, Seen, Shown};
use runelog_engine::config::{Discard, TopicConfig};
use runelog_engine::ids::RouterId;
use runelog_engine::shard::{Tombstone, TombstoneReason};
use std::collections::BTreeMap;
use std::rc::Rc;

#[derive(Debug)]
pub struct Stored {
    pub rec: Rec,
    pub ts: i64,
    /// Accepted under class `ephemeral`: not there after a restart.
    pub heap: bool,
}

/// How far a router has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub position: u64,
    pub total: u64,
    /// The same as far as the log knows for sure; `None`: it may know of no such link.
    pub logged: Option<(u64, u64)>,
}

#[derive(Clone, Debug)]
pub struct Topic {
    pub instance: u64,
    pub config: TopicConfig,
    pub head: u64,
    /// By cap, by age.
    pub floors: [u64; 2],
    pub live: BTreeMap<u64, Rc<Stored>>,
    pub vacant: Vec<(u64, u64)>,
    /// Those of them that stand for what a source lost, merged.
    pub trims: Vec<(u64, u64)>,
    pub links: BTreeMap<RouterId, Link>,
    /// First seq, count, time.
    pub keys: BTreeMap<Vec<u8>, (u64, u32, i64)>,
    /// The head as far as the log knows it.
    pub logged_head: u64,
    /// Something happened under class `ephemeral`.
    pub heap_seen: bool,
}

impl Topic {
    pub fn new(instance: u64, config: TopicConfig) -> Topic {
        Topic {
            instance,
            config,
            head: 0,
            floors: [0; 2],
            live: BTreeMap::new(),
            vacant: Vec::new(),
            trims: Vec::new(),
            links: BTreeMap::new(),
            keys: BTreeMap::new(),
            logged_head: 0,
            heap_seen: false,
        }
    }

    pub fn floor(&self) -> u64 {
        self.floors[0].max(self.floors[1])
    }

    pub fn earliest(&self) -> u64 {
        self.live.keys().next().copied().unwrap_or(self.head + 1)
    }

    pub fn bytes(&self) -> u64 {
        self.live.values().map(|stored| stored.rec.bytes()).sum()
    }

    pub fn count(&self) -> u64 {
        self.live.len() as u64
    }

    /// CF-10: strictly older than the limit, oldest first (I-32).
    pub fn expire(&mut self, now: i64) {
        let ttl = self.config.ttl_ms;
        while let Some((seq, stored)) = self.live.first_key_value() {
            if ttl == 0 || (now - stored.ts) as u64 <= ttl {
                break;
            }
            self.floors[1] = self.floors[1].max(*seq);
            self.live.pop_first();
        }
    }

    /// CF-11, CF-12.
    pub fn evict(&mut self) {
        let config = &self.config;
        if config.discard == Discard::Reject {
            return;
        }
        let window = match config.cap_records {
            0 => 0,
            cap => self.window(cap),
        };
        let (mut bytes, mut gone) = (self.bytes(), window);
        while let Some((seq, stored)) = self.live.first_key_value() {
            if *seq > window && (config.cap_bytes == 0 || bytes <= config.cap_bytes) {
                break;
            }
            bytes -= stored.rec.bytes();
            gone = gone.max(*seq);
            self.live.pop_first();
        }
        if gone > self.floor() {
            self.floors[0] = gone;
        }
    }

    /// `head − cap`, vacant seqs not counted (I-33).
    pub fn window(&self, cap: u64) -> u64 {
        let (mut left, mut seq) = (cap, self.head);
        while seq > 0 {
            if let Some((first, _)) = self.vacant.iter().find(|(a, b)| (*a..=*b).contains(&seq)) {
                seq = first - 1;
                continue;
            }
            if left == 0 {
                return seq;
            }
            left -= 1;
            seq -= 1;
        }
        0
    }

    /// The gaps that a reader from `from` on must hear of besides the floor (I-68).
    pub fn gaps(&self, from: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let from = from.max(self.floor());
        let above = self.trims.iter().filter(move |(_, last)| *last > from);
        above.map(move |(first, last)| (*first.max(&(from + 1)), *last))
    }

    pub fn tombstone(&self, from: u64) -> Option<Tombstone> {
        let (head_seq, floor) = (self.head, self.floor());
        if from > head_seq {
            let reason = TombstoneReason::Recreated;
            let earliest_seq = self.earliest();
            return Some(Tombstone { gap_from: 1, gap_to: head_seq, reason, earliest_seq, head_seq });
        }
        let reason = match (self.floors[0] > from, self.floors[1] > from) {
            (true, true) => TombstoneReason::Mixed,
            (true, false) => TombstoneReason::Cap,
            (false, true) => TombstoneReason::Ttl,
            (false, false) => return None,
        };
        Some(Tombstone { gap_from: from + 1, gap_to: floor, reason, earliest_seq: floor + 1, head_seq })
    }

    /// The state as a restart leaves it: without what only memory held.
    pub fn without_heap(&self) -> Topic {
        let mut topic = self.clone();
        for (seq, _) in self.live.iter().filter(|(_, stored)| stored.heap) {
            topic.live.remove(seq);
            topic.vacant.push((*seq, *seq));
        }
        topic
    }
}

/// What a topic shows.
pub struct Observed {
    pub shown: Shown,
    pub tombstone: Option<Tombstone>,
    pub records: Vec<Seen>,
    /// Gaps of source trims.
    pub gaps: Vec<(u64, u64)>,
    /// Position and total of routers.
    pub links: BTreeMap<RouterId, (u64, u64)>,
}

pub fn check_record(topic: &Topic, seen: &Seen, what: &str) {
    let stored = topic.live.get(&seen.seq).unwrap_or_else(|| panic!("seq {} is not live: {what}", seen.seq));
    assert_eq!(seen.ts, stored.ts, "W-5, I-5: seq {} of {what}", seen.seq);
    assert!(seen.rec == stored.rec, "I-5, I-97: seq {} of {what} has other contents", seen.seq);
    assert_eq!(seen.counted_bytes, stored.rec.bytes(), "J-23: seq {} of {what}", seen.seq);
}

/// Whether a topic shows this state; `exact`: the head too, and everything in memory.
pub fn agrees(topic: &Topic, observed: &Observed, exact: bool) -> Result<(), String> {
    let Observed { shown, tombstone, records, gaps, links } = observed;
    if shown.config != topic.config {
        return Err(format!("configuration {:?} instead of {:?}", shown.config, topic.config));
    }
    let seqs: Vec<u64> = records.iter().map(|seen| seen.seq).collect();
    let expected: Vec<u64> = topic.live.keys().copied().collect();
    if seqs != expected {
        return Err(format!("seqs {} instead of {}", ranges(&seqs), ranges(&expected)));
    }
    for seen in records {
        let stored = &topic.live[&seen.seq];
        if seen.ts != stored.ts || seen.rec != stored.rec {
            return Err(format!("seq {} has other contents", seen.seq));
        }
    }
    if exact && shown.head != topic.head {
        return Err(format!("head {} instead of {}", shown.head, topic.head));
    }
    if shown.head < topic.logged_head || shown.head > topic.head + 1024 {
        return Err(format!("head {}, given away {}…{}", shown.head, topic.logged_head, topic.head));
    }
    for (router, link) in &topic.links {
        let found = links.get(router).copied();
        let within = match (found, link.logged) {
            (Some(found), _) if exact => found == (link.position, link.total),
            // A position that moved without copies may be set back by a crash.
            (Some((position, total)), Some(least)) => {
                (least.0..=link.position).contains(&position) && (least.1..=link.total).contains(&total)
            }
            (Some((position, total)), None) => position <= link.position && total <= link.total,
            (None, logged) => logged.is_none() && !exact,
        };
        if !within {
            return Err(format!("link {router:?} at {found:?} instead of {link:?}"));
        }
    }
    if exact && links.len() != topic.links.len() {
        return Err(format!("links {links:?} instead of {:?}", topic.links));
    }
    if exact || !topic.heap_seen {
        let expected: Vec<(u64, u64)> = topic.gaps(0).collect();
        if *gaps != expected {
            return Err(format!("gaps {gaps:?} instead of {expected:?}"));
        }
        let mut topic = topic.clone();
        topic.head = shown.head;
        if *tombstone != topic.tombstone(0) {
            return Err(format!("{tombstone:?} instead of {:?}", topic.tombstone(0)));
        }
    } else if shown.floors.iter().any(|floor| *floor > topic.floor()) {
        return Err(format!("floors {:?} above {:?}", shown.floors, topic.floors));
    }
    Ok(())
}

pub fn brief(topic: &Topic) -> String {
    let seqs: Vec<u64> = topic.live.keys().copied().collect();
    format!("head {}, floors {:?}, live {}", topic.head, topic.floors, ranges(&seqs))
}

pub fn ranges(seqs: &[u64]) -> String {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for seq in seqs {
        match out.last_mut() {
            Some((_, end)) if *end + 1 == *seq => *end = *seq,
            _ => out.push((*seq, *seq)),
        }
    }
    format!("{out:?}")
}
