//! A whole data directory on a simulated disk: its shards, one driven after the other, and what their
//! clients would see.

use super::super::{Collected, FreshLayout, Layout, LayoutReport, collect_garbage, open_layout};
use crate::config::TopicConfig;
use crate::disk::sim::{Crash, SimDisk};
use crate::disk::{Disk, Io};
use crate::error::No;
use crate::event::{Batch, RecordSpan, Span};
use crate::ids::{RouterId, SegmentId, TopicId};
use crate::limits::CHUNK_BYTES;
use crate::queue::LeaseToken;
use crate::quota::Quota;
use crate::router::RouterDef;
use crate::shard::recover::{RecoverError, recover};
use crate::shard::{
    AppendRequest, Appended, Claimer, DeleteRequest, ForwardRequest, Named, ReadOutcome, ReadRequest, Shard,
    ShardSettings, TagMatch, TombstoneReason, owner_of,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) const FRESH: FreshLayout = FreshLayout { directory: 77, file_bytes: CHUNK_BYTES as u64 };
const AGE_MS: i64 = 1000;

/// A record: seq, time, data, tag.
pub(super) type Found = (u64, i64, Vec<u8>, Option<Vec<u8>>);

/// What a client sees of a topic.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) id: TopicId,
    config: TopicConfig,
    pub(super) head: u64,
    pub(super) floors: [u64; 3],
    earliest: u64,
    pub(super) count: u64,
    bytes: u64,
    gap: Option<(u64, u64)>,
    /// Gaps that source trims left.
    trims: Vec<(u64, u64)>,
    pub(super) records: Vec<Found>,
}

/// Dest, position, total and epoch of each router.
type Links = BTreeMap<RouterId, (TopicId, u64, u64, u32)>;

pub(super) type Answers = BTreeMap<String, Seen>;

/// An open data directory.
pub(super) struct Rig {
    pub(super) disk: SimDisk,
    pub(super) layout: Layout,
    pub(super) report: LayoutReport,
    pub(super) notes: Vec<String>,
    pub(super) shards: Vec<Shard>,
    pub(super) now: i64,
    pub(super) now_us: u64,
    /// Outcomes by topic and key.
    pub(super) keys: BTreeMap<(String, String), (u64, u32)>,
}

/// Opens a directory, or says why not; the disk comes back either way. `None`: the disk was cut.
pub(super) fn open_only(
    disk: &mut SimDisk,
    shards: u16,
) -> Option<Result<(Layout, LayoutReport), RecoverError>> {
    let io = Io::default();
    disk.block_on(&io, open_layout(&io, FRESH, shards))
}

impl Rig {
    pub(super) fn open(mut disk: SimDisk, shards: u16, now: i64) -> Rig {
        let (layout, report) = open_only(&mut disk, shards).expect("not cut").expect("opens");
        let mut rig = Rig {
            disk,
            layout,
            report,
            notes: Vec::new(),
            shards: Vec::new(),
            now,
            now_us: 0,
            keys: BTreeMap::new(),
        };
        let quota = Arc::new(Quota::default());
        for shard in 0..layout.shards {
            let io = Io::default();
            let settings = ShardSettings { segment_max_age_ms: AGE_MS as u64, ..layout.settings_of(shard) };
            let recovered = rig.disk.block_on(&io, recover(&io, settings, quota.clone(), now, |_| {}));
            let (shard, report) = recovered.expect("not cut").expect("recovers");
            rig.notes.extend(report.notes);
            rig.shards.push(shard);
        }
        rig
    }

    pub(super) fn collect(&mut self) -> Collected {
        let used: BTreeSet<SegmentId> = self.shards.iter().flat_map(Shard::segments_in_use).collect();
        let io = Io::default();
        self.disk.block_on(&io, collect_garbage(&io, &self.layout, &used)).unwrap().unwrap()
    }

    /// Which shard holds a topic.
    pub(super) fn home(&self, topic: &str) -> usize {
        usize::from(owner_of(topic.as_bytes(), self.layout.directory, self.layout.shards))
    }

    /// Turns a shard until nothing is on its way.
    pub(super) fn settle(&mut self, shard: usize) {
        let (shard, disk) = (&mut self.shards[shard], &mut self.disk);
        let (mut outgoing, mut done) = (Vec::new(), Vec::new());
        loop {
            self.now_us += 50;
            shard.turn(self.now, self.now_us);
            shard.take_fresh_chunks();
            shard.io().take_outgoing(&mut outgoing);
            if outgoing.is_empty() && disk.in_flight() == 0 && !shard.has_work() {
                return;
            }
            outgoing.drain(..).for_each(|(tag, op)| disk.submit(tag, op));
            disk.wait();
            disk.poll(&mut done);
            done.drain(..).for_each(|done| shard.on_done(done, self.now_us));
        }
    }

    fn settle_all(&mut self) {
        (0..self.shards.len()).for_each(|shard| self.settle(shard));
    }

    /// Time passes until everything written so far is in segments.
    pub(super) fn seal(&mut self) {
        for _ in 0..4 {
            self.now += AGE_MS + 1;
            self.settle_all();
        }
    }

    pub(super) fn put(&mut self, topic: &str, config: TopicConfig) {
        let home = self.home(topic);
        self.retry(home, |shard, now| shard.put(topic.as_bytes(), config.clone(), now));
    }

    /// Appends `count` records; every third has a tag.
    pub(super) fn append(&mut self, topic: &str, count: u32, key: Option<&str>) -> Appended {
        self.now += 1;
        let home = self.home(topic);
        let (mut body, mut records) = (Vec::new(), Vec::new());
        let tag = Span::body(0, 3);
        body.extend_from_slice(b"tag");
        for index in 0..count {
            let data = format!("\"{topic} {} {index}\"", self.now);
            let span = Span::body(body.len(), data.len());
            body.extend_from_slice(data.as_bytes());
            let tag = if index % 3 == 0 { tag } else { Span::ABSENT };
            records.push(RecordSpan { data: span, tag, ..RecordSpan::default() });
        }
        let request = AppendRequest {
            topic: topic.as_bytes(),
            batch: Batch { body: &body, side: &[], records: &records },
            key: key.map(str::as_bytes),
            create: None,
            config: None,
        };
        let appended = self.retry(home, |shard, now| shard.append(&request, now));
        if let Some(key) = key {
            let outcome = (appended.first_seq, appended.count);
            self.keys.insert((topic.to_owned(), key.to_owned()), outcome);
        }
        appended
    }

    pub(super) fn delete(&mut self, topic: &str, before_seq: Option<u64>, tag: Option<&str>) -> u64 {
        let home = self.home(topic);
        let matcher = tag.map(|tag| TagMatch::Eq(tag.as_bytes().to_vec()));
        let request = DeleteRequest { before_seq, matcher };
        let mut deletion = self.shards[home].delete_start(topic.as_bytes(), &request, self.now).unwrap();
        let deleted = self.retry(home, |shard, _| shard.delete_step(&mut deletion));
        deleted.expect("small enough for one step").deleted
    }

    /// Makes a router into `dest`, and lets it bring `count` copies behind `vacant` lost records.
    pub(super) fn route(&mut self, dest: &str, vacant: u64, count: u64) -> RouterId {
        let home = self.home(dest);
        let dest_id = self.shards[home].find(dest.as_bytes()).0.unwrap().id;
        let known = self.shards[0].routers().find(|def| def.dest_id == dest_id).map(|def| def.id);
        let id = known.unwrap_or_else(|| self.shards[0].next_router_id());
        let def = RouterDef {
            id,
            name: format!("->{dest}").into(),
            source: "from".into(),
            source_id: TopicId(1),
            dest: dest.into(),
            dest_id,
            preserve_node: true,
            preserve_tag: true,
            filter: None,
            allow_cycle: false,
            exactly_once: false,
            start: 7,
        };
        self.retry(0, |shard, _| shard.put_router(def.clone()));
        self.settle(0);
        let from = self.shards[home].open_link(id, dest_id, 7).unwrap().position;
        let records: Vec<_> =
            (0..count).map(|_| RecordSpan { data: Span::body(0, 3), ..Default::default() }).collect();
        let through: Vec<u64> = (1..=count).map(|index| from + vacant + index).collect();
        let request = ForwardRequest {
            router: id,
            dest: dest_id,
            from,
            through: &through,
            end: from + vacant + count,
            vacant,
            hops: 1,
            batch: Batch { body: b"\"c\"", side: &[], records: &records },
        };
        let forwarded = self.retry(home, |shard, now| shard.forward(&request, now));
        assert!(!forwarded.full, "{dest}");
        id
    }

    /// The registry, and each router's dest, position, total and epoch.
    pub(super) fn routers(&self) -> (Vec<RouterDef>, Links) {
        for shard in &self.shards[1..] {
            assert_eq!(shard.routers().count(), 0, "the registry is the first shard's");
        }
        let mut links = BTreeMap::new();
        for (home, shard) in self.shards.iter().enumerate() {
            for (router, link) in shard.links() {
                assert!(shard.find_id(link.dest).is_some(), "a link lives with its dest, not in {home}");
                let state = (link.dest, link.position, link.forwarded_total, link.epoch);
                assert!(links.insert(router, state).is_none(), "{router:?} twice");
            }
        }
        (self.shards[0].routers().cloned().collect(), links)
    }

    /// Claims jobs for `lease_ms`, and waits until that is in force.
    pub(super) fn claim(
        &mut self,
        queue: &str,
        node: &str,
        max: u32,
        lease_ms: u64,
    ) -> Vec<(u64, LeaseToken)> {
        let home = self.home(queue);
        let claimer = Claimer { node: node.as_bytes(), max, lease_ms: Some(lease_ms), holder: 0 };
        let got = self.retry(home, |shard, now| {
            let mut got = Vec::new();
            shard.claim(queue.as_bytes(), &[claimer], false, now, |_, job| {
                got.push((job.record.seq, job.token));
            })?;
            Ok(got)
        });
        self.settle(home);
        got
    }

    /// Acks a job under a lease: how many were.
    pub(super) fn ack(&mut self, queue: &str, node: &str, seq: u64, token: LeaseToken) -> u32 {
        let home = self.home(queue);
        let named = [Named { seq, fence: Some(Some(token)) }];
        let (queue, node) = (queue.as_bytes(), node.as_bytes());
        let done = self.retry(home, |shard, now| shard.ack(queue, node, &named, now, &mut Vec::new()));
        self.settle(home);
        done.done
    }

    pub(super) fn drop_topic(&mut self, topic: &str) {
        let home = self.home(topic);
        self.retry(home, |shard, now| shard.drop_topic(topic.as_bytes(), false, now));
    }

    /// Does it again after what it asked for was loaded.
    fn retry<T>(&mut self, home: usize, mut act: impl FnMut(&mut Shard, i64) -> Result<T, No>) -> T {
        for _ in 0..1000 {
            match act(&mut self.shards[home], self.now) {
                Ok(outcome) => return outcome,
                Err(No::Load(blocks)) => drop(self.shards[home].load(blocks)),
                Err(No::Busy) => {}
                Err(No::Refused(error, _)) => panic!("refused: {error:?}"),
            }
            self.settle(home);
        }
        panic!("never ends");
    }

    /// Everything a client can see.
    pub(super) fn answers(&mut self) -> Answers {
        let mut answers = Answers::new();
        for home in 0..self.shards.len() {
            self.settle(home);
            let mut names = Vec::new();
            let now = self.now;
            let visit = |view: crate::shard::TopicView<'_>| {
                names.push(String::from_utf8(view.name.to_vec()).unwrap());
            };
            self.shards[home].list(b"", None, usize::MAX, false, now, visit).unwrap();
            for name in names {
                assert_eq!(self.home(&name), home, "{name} is where it is looked for");
                answers.insert(name.clone(), self.see(home, &name));
            }
        }
        answers
    }

    fn see(&mut self, home: usize, name: &str) -> Seen {
        let (mut records, mut gap, mut from_seq) = (Vec::new(), None, 0);
        let mut trims = Vec::new();
        loop {
            let request = ReadRequest { from_seq, limit: 100, max_bytes: u64::MAX, skip_node: None };
            let (outcome, found): (ReadOutcome, Vec<_>) = self.retry(home, |shard, now| {
                let mut found = Vec::new();
                let outcome = shard.read(name.as_bytes(), &request, now, |record| {
                    let tag = record.tag.map(<[u8]>::to_vec);
                    found.push((record.seq, record.ts, record.data.to_vec(), tag));
                })?;
                Ok((outcome, found))
            });
            records.extend(found);
            let trimmed = outcome.tombstone.filter(|gone| gone.reason == TombstoneReason::SourceTrim);
            trims.extend(trimmed.map(|gone| (gone.gap_from, gone.gap_to)));
            gap = gap.or(outcome.tombstone.map(|gone| (gone.gap_from, gone.gap_to)));
            from_seq = outcome.next_from_seq;
            if outcome.caught_up() {
                break;
            }
        }
        let id = self.shards[home].find(name.as_bytes()).0.unwrap().id;
        let (view, _) = self.shards[home].state(name.as_bytes(), false, self.now).unwrap();
        Seen {
            id,
            config: view.config.clone(),
            head: view.totals.head,
            floors: view.totals.floors,
            earliest: view.earliest,
            count: view.totals.count,
            bytes: view.totals.bytes,
            gap,
            trims,
            records,
        }
    }

    /// Every remembered key gives its first outcome (U-3).
    pub(super) fn check_keys(&mut self) {
        for ((topic, key), outcome) in self.keys.clone() {
            let again = self.append(&topic, 1, Some(&key));
            assert!(again.deduped, "{topic} {key} was written already");
            assert_eq!((again.first_seq, again.count), outcome, "{topic} {key}");
        }
    }

    /// An orderly stop; the disk as the next start finds it.
    pub(super) fn stop(mut self) -> SimDisk {
        for shard in 0..self.shards.len() {
            self.settle(shard);
            self.shards[shard].begin_stop();
            while !self.shards[shard].is_stopped() {
                self.now += AGE_MS;
                self.settle(shard);
            }
        }
        self.disk
    }

    /// No stop at all.
    pub(super) fn crash(mut self, kind: Crash) -> SimDisk {
        self.disk.crash(kind);
        self.disk
    }
}
