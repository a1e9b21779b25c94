//! A plain model of one topic: what must be there, as maps and lists, without log, memory or disk.
//! Lives here: records, floors, gaps, jobs, and whether what a shard shows agrees with them.
//! Not here: the order of operations and what of them survives a crash (`world`, `verify`).

use super::rig::{Rec, Seen, Shown};
use crate::config::{Class, Discard, TopicConfig};
use crate::ids::RouterId;
use crate::queue::{JobState, LeaseToken, StoredJob};
use crate::shard::{QueueCounts, ReadRequest, Tombstone, TombstoneReason};
use std::collections::BTreeMap;
use std::rc::Rc;

/// A record.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) rec: Rec,
    pub(super) ts: i64,
    pub(super) hops: u8,
    /// Accepted under class `ephemeral`: not there after a restart.
    pub(super) heap: bool,
}

/// How far a router has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) position: u64,
    pub(super) total: u64,
    /// The same as far as the log knows for sure; `None`: it may know of no such link.
    pub(super) logged: Option<(u64, u64)>,
}

/// What a job is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Is {
    Ready,
    /// Until `at`, which is one past the deadline.
    Leased {
        node: String,
        token: LeaseToken,
        at: i64,
        holder: u64,
    },
    Delayed {
        at: i64,
    },
}

/// A job that was handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) is: Is,
    /// As the log last heard of it.
    pub(super) logged: Is,
    pub(super) deliveries: u32,
    /// It was handed back without a word in the log, which a checkpoint may say.
    pub(super) is_back: bool,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub(super) instance: u64,
    pub(super) config: TopicConfig,
    pub(super) head: u64,
    /// By cap, by age.
    pub(super) floors: [u64; 2],
    pub(super) live: BTreeMap<u64, Rc<Stored>>,
    pub(super) bytes: u64,
    pub(super) vacant: Vec<(u64, u64)>,
    /// Those of them that stand for what a source lost, merged.
    pub(super) trims: Vec<(u64, u64)>,
    pub(super) links: BTreeMap<RouterId, Link>,
    /// First seq, count, time.
    pub(super) keys: BTreeMap<Vec<u8>, (u64, u32, i64)>,
    /// Jobs that were handed out, of a queue.
    pub(super) jobs: BTreeMap<u64, Job>,
    /// Jobs that went while they were leased: node, token, end.
    pub(super) ghosts: BTreeMap<u64, (String, LeaseToken, i64)>,
    pub(super) dead_lettered: u64,
    /// The head as far as the log knows it.
    pub(super) logged_head: u64,
    /// When something was over by age last: a crash may take the mark, and only the clock keeps it away.
    pub(super) expired_at: i64,
    /// The highest head that seqs were reserved for by what a crash has taken.
    pub(super) reach: u64,
    /// Something happened under class `ephemeral`.
    pub(super) heap_seen: bool,
    /// Records of a size that not all of them fit the cache.
    pub(super) is_large: bool,
}

/// What a topic shows.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) shown: Shown,
    pub(super) tombstone: Option<Tombstone>,
    pub(super) records: Vec<Seen>,
    /// Gaps of source trims.
    pub(super) gaps: Vec<(u64, u64)>,
    /// Position and total of routers.
    pub(super) links: BTreeMap<RouterId, (u64, u64)>,
    pub(super) jobs: Vec<StoredJob>,
    /// Leases that outlived their jobs: seq, worker, token, end.
    pub(super) outlived: Vec<(u64, Vec<u8>, LeaseToken, i64)>,
    /// Seqs that never held a record, by the shard's own account.
    pub(super) vacant: Vec<(u64, u64)>,
}

/// What a read must deliver.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) seqs: Vec<u64>,
    pub(super) next: u64,
    pub(super) examined: u64,
    pub(super) tombstone: Option<Tombstone>,
}

/// Seqs above `from` up to `through` that lie in none of these ranges.
fn held_within(vacant: &[(u64, u64)], from: u64, through: u64) -> u64 {
    let mut held = through.saturating_sub(from);
    for (first, last) in vacant {
        let (first, last) = ((*first).max(from + 1), (*last).min(through));
        held -= (last + 1).saturating_sub(first);
    }
    held
}

impl Topic {
    pub(super) fn new(instance: u64, config: TopicConfig) -> Topic {
        Topic {
            instance,
            heap_seen: config.class == Class::Ephemeral,
            config,
            head: 0,
            floors: [0; 2],
            live: BTreeMap::new(),
            bytes: 0,
            vacant: Vec::new(),
            trims: Vec::new(),
            links: BTreeMap::new(),
            keys: BTreeMap::new(),
            jobs: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            dead_lettered: 0,
            logged_head: 0,
            expired_at: 0,
            reach: 0,
            is_large: false,
        }
    }

    pub(super) fn floor(&self) -> u64 {
        self.floors[0].max(self.floors[1])
    }

    pub(super) fn earliest(&self) -> u64 {
        self.live.keys().next().copied().unwrap_or(self.head + 1)
    }

    pub(super) fn count(&self) -> u64 {
        self.live.len() as u64
    }

    /// A record at the head.
    pub(super) fn push(&mut self, rec: Rec, ts: i64, hops: u8) {
        self.head += 1;
        self.bytes += rec.bytes();
        self.is_large |= rec.bytes() > 20_000;
        let heap = self.config.class == Class::Ephemeral;
        self.live.insert(self.head, Rc::new(Stored { rec, ts, hops, heap }));
        match heap {
            true => self.heap_seen = true,
            false => self.logged_head = self.head,
        }
    }

    /// Seqs that stand for what a source lost.
    pub(super) fn push_vacant(&mut self, count: u64) {
        if count == 0 {
            return;
        }
        let gap = (self.head + 1, self.head + count);
        self.vacant.push(gap);
        match self.trims.last_mut() {
            Some((_, last)) if *last + 1 == gap.0 => *last = gap.1,
            _ => self.trims.push(gap),
        }
        self.head += count;
        match self.config.class == Class::Ephemeral {
            true => self.heap_seen = true,
            false => self.logged_head = self.head,
        }
    }

    /// Takes a record away.
    pub(super) fn remove(&mut self, seq: u64) {
        if let Some(stored) = self.live.remove(&seq) {
            self.bytes -= stored.rec.bytes();
            if let Some(Job { is: Is::Leased { node, token, at, .. }, .. }) = self.jobs.remove(&seq) {
                self.ghosts.insert(seq, (node, token, at));
            }
        }
    }

    /// CF-10: strictly older than the limit, oldest first (I-31, I-32).
    pub(super) fn expire(&mut self, now: i64) {
        let ttl = self.config.ttl_ms as i64;
        while let Some((&seq, stored)) = self.live.first_key_value() {
            if ttl == 0 || now - stored.ts <= ttl {
                break;
            }
            self.floors[1] = self.floors[1].max(seq);
            self.remove(seq);
            self.expired_at = now;
        }
    }

    /// CF-11, CF-12.
    pub(super) fn evict(&mut self) {
        let (cap_records, cap_bytes) = (self.config.cap_records, self.config.cap_bytes);
        if self.config.discard == Discard::Reject {
            return;
        }
        let window = if cap_records == 0 { 0 } else { self.window(cap_records) };
        let mut gone = window;
        while let Some((&seq, _)) = self.live.first_key_value() {
            if seq > window && (cap_bytes == 0 || self.bytes <= cap_bytes) {
                break;
            }
            gone = gone.max(seq);
            self.remove(seq);
        }
        if gone > self.floor() {
            self.floors[0] = gone;
        }
    }

    /// `head − cap`, vacant seqs not counted (I-33).
    fn window(&self, cap: u64) -> u64 {
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

    /// Seqs up to here and above `from` that held a record once.
    pub(super) fn lost_within(&self, from: u64, through: u64) -> u64 {
        held_within(&self.vacant, from, through)
    }

    /// Whether as many seqs have held records as the shard says. What is gone shows nothing else, so two states
    /// may look alike of which one has a record, with its key, that the other has not.
    pub(super) fn held_as_many(&self, observed: &Observed) -> bool {
        let floor = self.floor();
        self.lost_within(floor, self.head) == held_within(&observed.vacant, floor, self.head)
    }

    /// The gaps that a reader from `from` on must hear of besides the floor (I-68).
    fn gaps(&self, from: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let from = from.max(self.floor());
        let above = self.trims.iter().filter(move |(_, last)| *last > from);
        above.map(move |(first, last)| (*first.max(&(from + 1)), *last))
    }

    fn tombstone(&self, from: u64) -> Option<Tombstone> {
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

    /// What a read delivers (§5).
    pub(super) fn page(&self, request: &ReadRequest<'_>) -> Page {
        let from = request.from_seq;
        let cursor = if from > self.head { 0 } else { from };
        let start = cursor.max(self.floor());
        let (mut next, mut bytes, mut examined) = (self.head.max(start), 0, 0);
        let mut seqs: Vec<u64> = Vec::new();
        let mut tombstone = self.tombstone(from);
        let mut gaps = self.gaps(cursor).peekable();
        // Whether the read ends before the next gap below `seq`; the first gap is told if nothing was.
        let mut stops = |seq: u64, delivered: bool| {
            while let Some(gap) = gaps.next_if(|gap| gap.0 < seq) {
                if delivered || tombstone.is_some() {
                    return Some(gap.0 - 1);
                }
                tombstone = Some(Tombstone {
                    gap_from: gap.0,
                    gap_to: gap.1,
                    reason: TombstoneReason::SourceTrim,
                    earliest_seq: gap.1 + 1,
                    head_seq: self.head,
                });
            }
            None
        };
        let skips = |stored: &Stored| {
            let node = stored.rec.node.as_ref();
            self.config.dedupe_node
                && node.is_some_and(|node| request.skip_node.is_some_and(|skip| skip(node)))
        };
        let mut is_over = false;
        for (&seq, stored) in self.live.range(start + 1..) {
            if let Some(last) = stops(seq, !seqs.is_empty()) {
                (next, is_over) = (last, true);
                break;
            }
            if skips(stored) {
                examined += 1;
                continue;
            }
            bytes += stored.rec.bytes();
            if !seqs.is_empty() && bytes > request.max_bytes {
                (next, is_over) = (seq - 1, true);
                break;
            }
            examined += 1;
            seqs.push(seq);
            if seqs.len() == request.limit as usize {
                (next, is_over) = (seq, true);
                break;
            }
        }
        if !is_over && let Some(last) = stops(self.head + 1, !seqs.is_empty()) {
            next = last;
        }
        Page { seqs, next, examined, tombstone }
    }

    /// The state as a restart leaves it: without what only memory held.
    pub(super) fn restarted(&self) -> Topic {
        let mut topic = self.clone();
        for (seq, stored) in self.live.iter().filter(|(_, stored)| stored.heap) {
            topic.live.remove(seq);
            topic.bytes -= stored.rec.bytes();
            topic.vacant.push((*seq, *seq));
        }
        topic.ghosts.clear();
        topic.dead_lettered = 0;
        if !self.config.leases_durable {
            topic.jobs.clear(); // I-84
        }
        topic.jobs.retain(|seq, _| topic.live.contains_key(seq));
        for job in topic.jobs.values_mut() {
            job.is = job.logged.clone();
        }
        topic
    }

    /// How far back the clock may be set from `now`, so that nothing is over that was not noticed and would not
    /// be over then: the end of a lease or delay, of a record, of a key.
    pub(super) fn no_earlier_than(&self, now: i64) -> i64 {
        let states = self.jobs.values().flat_map(|job| [&job.is, &job.logged]);
        let jobs = states.filter_map(|is| match *is {
            Is::Leased { at, .. } | Is::Delayed { at } => Some(at),
            Is::Ready => None,
        });
        let ttl = self.config.ttl_ms as i64;
        let records = self.live.values().filter(|_| ttl > 0).map(|stored| stored.ts + ttl + 1);
        // Nor behind a record: a sealed block is judged by the time of its first one, so what was written after
        // the clock was set back may outlive its limit by as much.
        let newest = self.live.values().map(|stored| stored.ts).max();
        let window = self.config.idempotency_window_ms as i64;
        let keys = self.keys.values().map(|(_, _, ts)| ts + window + 1);
        jobs.chain(records)
            .chain(keys)
            .chain(newest)
            .chain([self.expired_at])
            .filter(|end| *end <= now)
            .max()
            .unwrap_or(0)
    }

    /// Leases and delays that are over.
    pub(super) fn notice(&mut self, now: i64) {
        self.ghosts.retain(|_, (_, _, at)| now < *at);
        for job in self.jobs.values_mut() {
            match job.is {
                Is::Leased { at, .. } | Is::Delayed { at } if now >= at => job.is = Is::Ready,
                _ => {}
            }
        }
    }

    pub(super) fn counts(&self) -> QueueCounts {
        let all = |which: fn(&Is) -> bool| self.jobs.values().filter(|job| which(&job.is)).count() as u64;
        let in_flight = all(|is| matches!(is, Is::Leased { .. }));
        let delayed = all(|is| matches!(is, Is::Delayed { .. }));
        QueueCounts {
            ready: self.count() - in_flight - delayed,
            in_flight,
            dead_lettered: self.dead_lettered,
        }
    }

    /// Ready jobs with their deliveries in the order of Q-2: those that came back, then the others.
    pub(super) fn ready(&self) -> Vec<(u64, u32)> {
        let back = self.jobs.iter().filter(|(_, job)| job.is == Is::Ready);
        let back: Vec<(u64, u32)> = back.map(|(seq, job)| (*seq, job.deliveries)).collect();
        let fresh = self.live.keys().filter(|seq| !self.jobs.contains_key(seq)).map(|seq| (*seq, 0));
        back.into_iter().chain(fresh).collect()
    }

    /// Whether a job is leased to exactly this worker, under that token.
    pub(super) fn holds(&self, seq: u64, by: &str, fence: Option<Option<LeaseToken>>) -> bool {
        match self.jobs.get(&seq).map(|job| &job.is) {
            Some(Is::Leased { node, token, .. }) => {
                node == by && fence.is_none_or(|fence| fence == Some(*token))
            }
            _ => false,
        }
    }

    /// A record as it was read, beside the one that was written.
    pub(super) fn check_record(&self, seen: &Seen) -> Result<(), (&'static str, String)> {
        let Some(stored) = self.live.get(&seen.seq) else {
            return Err(("I-24", format!("seq {} is not live", seen.seq)));
        };
        let same = seen.rec == stored.rec && seen.ts == stored.ts && seen.hops == stored.hops;
        if !same || seen.counted_bytes != stored.rec.bytes() {
            return Err(("I-5", format!("seq {} has other contents", seen.seq)));
        }
        Ok(())
    }

    /// Whether a topic shows this state; `exact`: the head too, and everything in memory.
    pub(super) fn agrees(&self, observed: &Observed, exact: bool) -> Result<(), (&'static str, String)> {
        let Observed { shown, tombstone, records, gaps, links, jobs, .. } = observed;
        if shown.config != self.config {
            return Err(("I-50", format!("configuration {:?} instead of {:?}", shown.config, self.config)));
        }
        if !records.iter().map(|seen| seen.seq).eq(self.live.keys().copied()) {
            let seqs: Vec<u64> = records.iter().map(|seen| seen.seq).collect();
            let expected: Vec<u64> = self.live.keys().copied().collect();
            let rule = if seqs.iter().any(|seq| !self.live.contains_key(seq)) { "I-24" } else { "I-51" };
            return Err((rule, format!("seqs {} instead of {}", ranges(&seqs), ranges(&expected))));
        }
        records.iter().try_for_each(|seen| self.check_record(seen))?;
        if exact && shown.head != self.head {
            return Err(("I-59", format!("head {} instead of {}", shown.head, self.head)));
        }
        if shown.head < self.logged_head || shown.head > self.head.max(self.reach) + 1024 {
            return Err((
                "I-58",
                format!("head {}, given away {}…{}", shown.head, self.logged_head, self.head),
            ));
        }
        self.links_agree(links, exact)?;
        if exact || !self.heap_seen {
            let expected: Vec<(u64, u64)> = self.gaps(0).collect();
            if *gaps != expected {
                return Err(("I-68", format!("gaps {gaps:?} instead of {expected:?}")));
            }
            let mut expected = self.tombstone(0);
            if let Some(expected) = &mut expected {
                expected.head_seq = shown.head;
            }
            if *tombstone != expected {
                return Err(("I-25", format!("{tombstone:?} instead of {expected:?}")));
            }
        } else if shown.floors.iter().any(|floor| *floor > self.floor()) {
            return Err(("I-25", format!("floors {:?} above {:?}", shown.floors, self.floors)));
        }
        self.jobs_agree(shown.queue, jobs)
    }

    fn links_agree(
        &self,
        links: &BTreeMap<RouterId, (u64, u64)>,
        exact: bool,
    ) -> Result<(), (&'static str, String)> {
        for (router, link) in &self.links {
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
                return Err(("I-62", format!("link {router:?} at {found:?} instead of {link:?}")));
            }
        }
        if exact && links.len() != self.links.len() {
            return Err(("I-60", format!("links {links:?} instead of {:?}", self.links)));
        }
        Ok(())
    }

    fn jobs_agree(
        &self,
        shown: Option<QueueCounts>,
        known: &[StoredJob],
    ) -> Result<(), (&'static str, String)> {
        let Some(shown) = shown else { return Ok(()) };
        if self.heap_seen {
            return Ok(()); // what only memory holds is in no list
        }
        for found in known {
            let Some(job) = self.jobs.get(&found.seq) else {
                return Err(("I-84", format!("job {found:?} was never handed out")));
            };
            let fits = job.deliveries == found.deliveries
                && (is_as(found, &job.is)
                    || is_as(found, &job.logged)
                    || job.is_back && found.state == JobState::Ready);
            if !fits {
                return Err(("I-85", format!("job {found:?} instead of {job:?}")));
            }
        }
        if let Some(seq) = self.jobs.keys().find(|seq| known.iter().all(|found| found.seq != **seq)) {
            return Err(("I-85", format!("job {seq} was handed out, which is forgotten")));
        }
        let held = |state| known.iter().filter(|job| job.state == state).count() as u64;
        let ready = self.count() - shown.in_flight - held(JobState::Delayed);
        if shown.ready != ready || shown.dead_lettered != self.dead_lettered {
            return Err(("I-88", format!("{shown:?} of {} jobs", self.count())));
        }
        Ok(())
    }

    /// Takes over what a restart left of leases, where two answers were right.
    pub(super) fn adopt_jobs(&mut self, known: &[StoredJob]) {
        for found in known {
            if let Some(job) = self.jobs.get_mut(&found.seq)
                && !is_as(found, &job.is)
            {
                job.is = job.logged.clone();
            }
            if let Some(job) = self.jobs.get_mut(&found.seq)
                && !is_as(found, &job.is)
            {
                job.is = Is::Ready;
            }
        }
    }

    /// Takes the leases that outlived their jobs as the shard has them: whether the removal of a job, or its last
    /// hand-out, was durable shows in nothing else once it is gone.
    pub(super) fn adopt_outlived(&mut self, found: &[(u64, Vec<u8>, LeaseToken, i64)]) {
        let text = |node: &[u8]| String::from_utf8_lossy(node).into_owned();
        let ghosts = found.iter().map(|(seq, node, token, at)| (*seq, (text(node), *token, *at)));
        self.ghosts = ghosts.collect();
    }

    pub(super) fn brief(&self) -> String {
        let seqs: Vec<u64> = self.live.keys().copied().collect();
        format!(
            "head {}, floors {:?}, live {}, links {:?}",
            self.head,
            self.floors,
            ranges(&seqs),
            self.links
        )
    }
}

/// Whether what is kept of a job says this. Leases of streams are kept as ready ones.
fn is_as(found: &StoredJob, is: &Is) -> bool {
    match is {
        Is::Leased { node, token, at, holder: 0 } => {
            (found.state, found.at, found.token) == (JobState::Leased, *at, *token)
                && found.node == node.as_bytes()
        }
        Is::Delayed { at } => (found.state, found.at) == (JobState::Delayed, *at),
        Is::Leased { .. } | Is::Ready => found.state == JobState::Ready,
    }
}

pub(super) fn ranges(seqs: &[u64]) -> String {
    let mut out: Vec<(u64, u64)> = Vec::new();
    for seq in seqs {
        match out.last_mut() {
            Some((_, end)) if *end + 1 == *seq => *end = *seq,
            _ => out.push((*seq, *seq)),
        }
    }
    format!("{out:?}")
}
