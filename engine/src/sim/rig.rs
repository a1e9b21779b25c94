//! The shards of one data directory on one simulated disk, with clock, turns and waits.
//! Lives here: what a server's cores do around their shards, seeded. Not here: what is right.

use super::{Stop, Violation};
use crate::config::TopicConfig;
use crate::disk::sim::{Crash, SimDisk};
use crate::disk::{Disk, Done, Io, Op, Tag};
use crate::error::{DiskError, EngineError, No};
use crate::event::{Batch, Record, RecordSpan, Span};
use crate::ids::{RouterId, SegmentId, TopicId};
use crate::layout::{FreshLayout, Layout, collect_garbage, open_layout};
use crate::queue::{LeaseToken, StoredJob};
use crate::quota::Quota;
use crate::rng::Rng;
use crate::shard::recover::recover;
use crate::shard::{
    AppendRequest, Appended, DeleteRequest, Deleted, ForwardRequest, Forwarded, LoadId, QueueCounts,
    ReadOutcome, ReadRequest, Shard, ShardSettings, TagMatch, TombstoneReason, TopicRef, owner_of,
};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Turns after which something that should end is taken to hang.
const TURNS_MAX: usize = 20_000;
/// Turns without an end after which time passes where nothing else does.
const IDLE_TURNS: usize = 20;
/// Turns after which somebody makes room on a full disk.
const FULL_TURNS: usize = 200;
/// A client went away, of which the shard knows nothing.
pub(super) const GAVE_UP: EngineError = EngineError::NoLogFile(DiskError(libc::ETIMEDOUT));
/// Where the number of a shard stands in the tags of its disk operations.
const SHARD_SHIFT: u32 = 56;

pub(super) type Outcome<T> = Result<T, Stop>;

/// A record with its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rec {
    pub(super) data: Vec<u8>,
    pub(super) meta: Option<Vec<u8>>,
    pub(super) tag: Option<Vec<u8>>,
    pub(super) node: Option<Vec<u8>>,
}

impl Rec {
    pub(super) fn bytes(&self) -> u64 {
        (self.data.len() + self.meta.as_ref().map_or(0, Vec::len)) as u64
    }
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) seq: u64,
    pub(super) ts: i64,
    pub(super) rec: Rec,
    pub(super) hops: u8,
    pub(super) counted_bytes: u64,
}

/// A topic's state as it was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) config: TopicConfig,
    pub(super) head: u64,
    pub(super) floors: [u64; 3],
    pub(super) earliest: u64,
    pub(super) count: u64,
    pub(super) bytes: u64,
    pub(super) queue: Option<QueueCounts>,
}

/// What a router brings.
#[derive(Clone, Debug)]
pub(super) struct Bring {
    pub(super) router: RouterId,
    pub(super) dest: TopicId,
    pub(super) from: u64,
    pub(super) through: Vec<u64>,
    pub(super) end: u64,
    pub(super) vacant: u64,
    pub(super) hops: u8,
    pub(super) records: Vec<Rec>,
}

/// What an append asks for beyond topic and records.
#[derive(Clone, Copy, Default)]
pub(super) struct Ask<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) create: Option<bool>,
    pub(super) config: Option<&'a TopicConfig>,
}

/// Gaps of source trims that a reader was told of.
pub(super) type Gaps = Vec<(u64, u64)>;

/// All that a topic shows: the first page's outcome, records, gaps of trims.
pub(super) type Pages = (ReadOutcome, Vec<Seen>, Gaps);

pub(super) struct Rig {
    pub(super) disk: SimDisk,
    pub(super) fresh: FreshLayout,
    pub(super) layout: Option<Layout>,
    /// All but what the layout says.
    pub(super) settings: ShardSettings,
    pub(super) quota_bytes: u64,
    pub(super) quota: Arc<Quota>,
    /// None while nothing is open.
    pub(super) shards: Vec<Shard>,
    /// The wall clock.
    pub(super) now: i64,
    /// What the last start had to say.
    pub(super) notes: Vec<String>,
    /// Before which block the last start cut each shard's log.
    pub(super) cuts: Vec<Option<u64>>,
    /// Segments and checkpoints of runs that are over.
    pub(super) past: [u64; 2],
    now_us: u64,
    rng: Rng,
    outgoing: Vec<(Tag, Op)>,
    done: Vec<Done>,
    loaded: Vec<(usize, LoadId, Result<(), String>)>,
}

impl Rig {
    pub(super) fn new(seed: u64, fresh: FreshLayout, settings: ShardSettings, quota_bytes: u64) -> Rig {
        Rig {
            disk: SimDisk::new(seed),
            fresh,
            layout: None,
            settings,
            quota_bytes,
            quota: Arc::new(Quota::new(0, 0)),
            shards: Vec::new(),
            now: 1_000_000,
            notes: Vec::new(),
            cuts: Vec::new(),
            past: [0; 2],
            now_us: 0,
            rng: Rng::new(seed ^ 0x0f0f),
            outgoing: Vec::new(),
            done: Vec::new(),
            loaded: Vec::new(),
        }
    }

    /// Opens the directory with `count` shards, in the order in which a server does.
    pub(super) fn open(&mut self, count: u16) -> Outcome<()> {
        let io = Io::default();
        let opening = open_layout(&io, self.fresh, count);
        let (layout, report) = self.disk.block_on(&io, opening).ok_or(Stop::Cut)?.map_err(Stop::Recover)?;
        let quota = Arc::new(Quota::new(0, self.quota_bytes));
        let mut shards: Vec<Shard> = Vec::new();
        self.notes = report.notes;
        self.cuts.clear();
        for shard in 0..layout.shards {
            let io = Io::default();
            let Layout { directory, file_bytes, generation, shards: count } = layout;
            let shared = ShardSettings {
                shard,
                shards: count,
                layout: generation,
                directory,
                ..self.settings.clone()
            };
            let settings = ShardSettings { file_bytes, ..shared };
            let recovering = recover(&io, settings, quota.clone(), self.now, |_| ());
            let recovered = self.disk.block_on(&io, recovering);
            let (shard, report) = recovered.ok_or(Stop::Cut)?.map_err(Stop::Recover)?;
            self.notes.extend(report.notes);
            self.cuts.push(report.cut_before);
            shards.push(shard);
        }
        let used: BTreeSet<SegmentId> = shards.iter().flat_map(Shard::segments_in_use).collect();
        let io = Io::default();
        let collecting = collect_garbage(&io, &layout, &used);
        self.disk.block_on(&io, collecting).ok_or(Stop::Cut)?.map_err(Stop::Recover)?;
        (self.layout, self.quota, self.shards) = (Some(layout), quota, shards);
        Ok(())
    }

    /// The shard of a topic's name.
    pub(super) fn home(&self, name: &str) -> usize {
        usize::from(owner_of(name.as_bytes(), self.fresh.directory, self.shards.len() as u16))
    }

    pub(super) fn is_halted(&self, shard: usize) -> bool {
        self.shards.get(shard).is_some_and(|shard| shard.halted().is_some())
    }

    /// Every block up to this one is committed, for each shard.
    pub(super) fn committed(&self) -> Vec<u64> {
        self.shards.iter().map(|shard| shard.committed().0).collect()
    }

    /// One turn of every core and some completions; with `wait` at least one, if any is to come.
    pub(super) fn step(&mut self, wait: bool) -> Outcome<()> {
        self.now_us += 50;
        let count = self.shards.len();
        let first = if count > 1 { self.rng.index(count) } else { 0 };
        for index in (first..count).chain(0..first) {
            let shard = &mut self.shards[index];
            shard.turn(self.now, self.now_us);
            let _ = shard.take_fresh_chunks();
            shard.io().take_outgoing(&mut self.outgoing);
            for (tag, op) in self.outgoing.drain(..) {
                self.disk.submit(Tag(tag.0 | (index as u64) << SHARD_SHIFT), op);
            }
        }
        if self.disk.is_cut() {
            return Err(Stop::Cut);
        }
        if wait {
            self.disk.wait();
        }
        self.disk.poll(&mut self.done);
        for mut done in self.done.drain(..) {
            let index = (done.tag.0 >> SHARD_SHIFT) as usize;
            done.tag = Tag(done.tag.0 & ((1 << SHARD_SHIFT) - 1));
            self.shards[index].on_done(done, self.now_us);
        }
        let mut loaded = Vec::new();
        for (index, shard) in self.shards.iter_mut().enumerate() {
            shard.take_loaded(&mut loaded);
            self.loaded.extend(loaded.drain(..).map(|(id, result)| (index, id, result)));
        }
        Ok(())
    }

    /// Turns until nothing is under way.
    pub(super) fn settle(&mut self) -> Outcome<()> {
        for turn in 0..TURNS_MAX {
            self.step(true)?;
            self.pass_idle_time(turn);
            if self.is_quiet() {
                // Once more: publishes what came last, and starts what became due.
                self.step(false)?;
                if self.is_quiet() {
                    return Ok(());
                }
            }
        }
        Err(hangs("the shards do not come to rest"))
    }

    /// Time passes, by both clocks.
    pub(super) fn pass(&mut self, ms: u64) {
        self.now += ms as i64;
        self.now_us += ms * 1000;
    }

    /// While nothing is under way only the clocks can help, and on a disk that stays full an operator.
    fn pass_idle_time(&mut self, turn: usize) {
        if turn < IDLE_TURNS || self.disk.in_flight() > 0 {
            return;
        }
        self.pass(50);
        if turn >= FULL_TURNS {
            self.disk.lift_full();
        }
    }

    fn is_quiet(&self) -> bool {
        let rests = |shard: &Shard| {
            let log_rests = shard.log.failed().is_some() || !shard.log.is_busy();
            !shard.has_work() && log_rests && !shard.io().has_outgoing()
        };
        self.disk.in_flight() == 0 && self.shards.iter().all(rests)
    }

    /// Turns until a block is committed and published.
    pub(super) fn wait(&mut self, shard: usize, block: u64) -> Outcome<()> {
        for turn in 0..TURNS_MAX {
            self.pass_idle_time(turn);
            if self.shards[shard].committed().0 >= block {
                return self.step(false);
            }
            self.step(true)?;
            if self.shards[shard].committed().0 < block
                && let Some(error) = self.shards[shard].halted()
            {
                return Err(Stop::Refused(error));
            }
        }
        Err(hangs(&format!("block {block} of shard {shard} is never committed")))
    }

    /// Ends the process.
    pub(super) fn crash(&mut self, kind: Crash) {
        for shard in self.shards.drain(..) {
            let gauges = shard.gauges();
            self.past[0] += gauges.segments;
            self.past[1] += gauges.checkpoints;
        }
        self.outgoing.clear();
        self.done.clear();
        self.loaded.clear();
        self.disk.crash(kind);
    }

    /// A clean stop of all shards.
    pub(super) fn stop(&mut self) -> Outcome<()> {
        self.shards.iter_mut().for_each(Shard::begin_stop);
        for turn in 0..TURNS_MAX {
            self.step(true)?;
            self.pass_idle_time(turn);
            if self.shards.iter().all(Shard::is_stopped) {
                return Ok(());
            }
        }
        Err(hangs("the shards do not stop"))
    }

    /// Repeats an operation until it ends in an outcome or a refusal, loading what it asks for. A client gives
    /// up where the log has no file to go on in and nothing is under way.
    pub(super) fn repeat<T>(
        &mut self,
        shard: usize,
        mut operation: impl FnMut(&mut Shard, i64) -> Result<T, No>,
    ) -> Outcome<T> {
        let mut obstacle = String::new();
        let mut idle = 0;
        for _ in 0..TURNS_MAX {
            let now = self.now;
            match operation(&mut self.shards[shard], now) {
                Ok(outcome) => return Ok(outcome),
                Err(No::Refused(error, _)) => return Err(Stop::Refused(error)),
                Err(No::Busy) => {
                    "busy".clone_into(&mut obstacle);
                    self.step(true)?;
                    if self.disk.in_flight() == 0 {
                        // Only the steady clock: by the other one the operation has its time.
                        (idle, self.now_us) = (idle + 1, self.now_us + 50_000);
                    }
                    if idle > FULL_TURNS {
                        return Err(Stop::Refused(GAVE_UP));
                    }
                }
                Err(No::Load(blocks)) => {
                    obstacle = format!("wants {blocks:?}");
                    let id = self.shards[shard].load(blocks);
                    self.await_load(shard, id)?;
                }
            }
        }
        Err(hangs(&format!("an operation never ends: {obstacle}")))
    }

    fn await_load(&mut self, shard: usize, id: LoadId) -> Outcome<()> {
        for _ in 0..TURNS_MAX {
            if let Some(at) = self.loaded.iter().position(|(of, other, _)| (*of, *other) == (shard, id)) {
                let (_, _, result) = self.loaded.swap_remove(at);
                return result.map_err(|text| Stop::Refused(EngineError::Unreadable(text)));
            }
            self.step(true)?;
        }
        Err(hangs("a load never ends"))
    }

    pub(super) fn append(&mut self, topic: &str, records: &[Rec], ask: Ask<'_>) -> Outcome<Appended> {
        let (body, side, spans) = lay_out(records);
        let request = AppendRequest {
            topic: topic.as_bytes(),
            batch: Batch { body: &body, side: &side, records: &spans },
            key: ask.key,
            create: ask.create,
            config: ask.config,
        };
        self.repeat(self.home(topic), |shard, now| shard.append(&request, now))
    }

    pub(super) fn forward(&mut self, shard: usize, bring: &Bring) -> Outcome<Forwarded> {
        let (body, side, spans) = lay_out(&bring.records);
        let Bring { router, dest, from, end, vacant, hops, .. } = *bring;
        let batch = Batch { body: &body, side: &side, records: &spans };
        let through = &bring.through;
        let request = ForwardRequest { router, dest, from, through, end, vacant, hops, batch };
        self.repeat(shard, |shard, now| shard.forward(&request, now))
    }

    /// The topic of that name, if there is one.
    pub(super) fn find(&self, topic: &str) -> Option<TopicRef> {
        self.shards[self.home(topic)].find(topic.as_bytes()).0
    }

    pub(super) fn put(&mut self, topic: &str, config: &TopicConfig) -> Outcome<(bool, u64)> {
        let home = self.home(topic);
        let put = self.repeat(home, |shard, now| shard.put(topic.as_bytes(), config.clone(), now))?;
        Ok((put.0, put.1.0))
    }

    pub(super) fn drop_topic(&mut self, topic: &str, if_empty: bool) -> Outcome<(bool, u64)> {
        let home = self.home(topic);
        let dropped = self.repeat(home, |shard, now| shard.drop_topic(topic.as_bytes(), if_empty, now))?;
        Ok((dropped.0, dropped.1.0))
    }

    /// The head that was shown when the delete was ordered, and its outcome.
    pub(super) fn delete(
        &mut self,
        topic: &str,
        before_seq: Option<u64>,
        matcher: Option<TagMatch>,
    ) -> Outcome<(u64, Deleted)> {
        let request = DeleteRequest { before_seq, matcher };
        let home = self.home(topic);
        let (head, mut deletion) = self.repeat(home, |shard, now| {
            let head = shard.state(topic.as_bytes(), false, now)?.0.totals.head;
            Ok((head, shard.delete_start(topic.as_bytes(), &request, now)?))
        })?;
        loop {
            let step = self.repeat(home, |shard, _| shard.delete_step(&mut deletion));
            match step {
                Ok(Some(deleted)) => return Ok((head, deleted)),
                Ok(None) => self.step(false)?,
                Err(stop) => {
                    if let Some(shard) =
                        self.shards.get_mut(home).filter(|_| matches!(stop, Stop::Refused(_)))
                    {
                        shard.delete_abandon(&deletion);
                    }
                    return Err(stop);
                }
            }
        }
    }

    pub(super) fn read(
        &mut self,
        topic: &str,
        request: &ReadRequest<'_>,
    ) -> Outcome<(ReadOutcome, Vec<Seen>)> {
        self.repeat(self.home(topic), |shard, now| {
            let mut seen = Vec::new();
            let outcome = shard.read(topic.as_bytes(), request, now, |record| seen.push(seen_of(record)))?;
            Ok((outcome, seen))
        })
    }

    /// All that a topic shows, page by page.
    pub(super) fn read_all(&mut self, topic: &str) -> Outcome<Pages> {
        let mut gaps = Vec::new();
        let limit = 1 + self.rng.below(400) as u32;
        let max_bytes = 1 + self.rng.below(3 << 20);
        let mut request = ReadRequest { from_seq: 0, limit, max_bytes, skip_node: None };
        let (first, mut all) = self.read(topic, &request)?;
        let mut last = first;
        note_gap(&mut gaps, &first, &all, 0)?;
        while !last.caught_up() {
            request.from_seq = last.next_from_seq;
            let (outcome, seen) = self.read(topic, &request)?;
            if outcome.next_from_seq <= last.next_from_seq {
                return Err(broken("D-3", format!("a reader of {topic} stands still: {outcome:?}")));
            }
            note_gap(&mut gaps, &outcome, &seen, request.from_seq)?;
            all.extend(seen);
            last = outcome;
        }
        Ok((first, all, gaps))
    }

    pub(super) fn state(&mut self, topic: &str) -> Outcome<Shown> {
        self.repeat(self.home(topic), |shard, now| {
            let (view, _) = shard.state(topic.as_bytes(), false, now)?;
            Ok(Shown {
                config: view.config.clone(),
                head: view.totals.head,
                floors: view.totals.floors,
                earliest: view.earliest,
                count: view.totals.count,
                bytes: view.totals.bytes,
                queue: view.queue,
            })
        })
    }

    /// What the shard knows of a queue's jobs.
    pub(super) fn jobs(&self, topic: &str) -> Vec<StoredJob> {
        let found = self.find(topic);
        found.map_or(Vec::new(), |found| self.shards[self.home(topic)].known_jobs(found))
    }

    /// Leases of a queue that outlived their jobs: seq, worker, token, end.
    pub(super) fn outlived(&self, topic: &str) -> Vec<(u64, Vec<u8>, LeaseToken, i64)> {
        let found = self.find(topic);
        found.map_or(Vec::new(), |found| self.shards[self.home(topic)].outlived_leases(found))
    }

    /// Seqs of a topic that never held a record, as the shard has them.
    pub(super) fn vacant(&self, topic: &str) -> Vec<(u64, u64)> {
        let found = self.find(topic);
        found.map_or(Vec::new(), |found| self.shards[self.home(topic)].vacant_seqs(found))
    }

    /// Names of all topics, of all shards.
    pub(super) fn list(&mut self) -> Outcome<Vec<String>> {
        let mut all = Vec::new();
        for home in 0..self.shards.len() {
            let names = self.repeat(home, |shard, now| {
                let mut names = Vec::new();
                let visit = |view: crate::shard::TopicView<'_>| {
                    names.push(String::from_utf8_lossy(view.name).into_owned());
                };
                shard.list(b"", None, usize::MAX, false, now, visit)?;
                Ok(names)
            })?;
            if let Some(lost) = names.iter().find(|name| self.home(name) != home) {
                return Err(broken("I-92", format!("{lost} is in shard {home}")));
            }
            all.extend(names);
        }
        all.sort();
        Ok(all)
    }
}

/// A gap that a page told of must lie between its cursor and its first record.
fn note_gap(gaps: &mut Gaps, outcome: &ReadOutcome, seen: &[Seen], before: u64) -> Outcome<()> {
    let Some(gap) = outcome.tombstone.filter(|gap| gap.reason == TombstoneReason::SourceTrim) else {
        return Ok(());
    };
    let next = seen.first().map_or(u64::MAX, |seen| seen.seq);
    let sound = before < gap.gap_from && gap.gap_from <= gap.gap_to && gap.gap_to < next;
    if !sound || gap.earliest_seq != gap.gap_to + 1 {
        return Err(broken("I-68", format!("{gap:?} after {before}, before {next}")));
    }
    gaps.push((gap.gap_from, gap.gap_to));
    Ok(())
}

/// Records in the form that requests have.
fn lay_out(records: &[Rec]) -> (Vec<u8>, Vec<u8>, Vec<RecordSpan>) {
    let (mut body, mut side, mut spans) = (Vec::new(), Vec::new(), Vec::new());
    for rec in records {
        let mut put = |bytes: &[u8]| {
            body.extend_from_slice(bytes);
            Span::body(body.len() - bytes.len(), bytes.len())
        };
        let data = put(&rec.data);
        let meta = rec.meta.as_deref().map_or(Span::ABSENT, &mut put);
        let mut aside = |bytes: &[u8]| {
            side.extend_from_slice(bytes);
            Span::side(side.len() - bytes.len(), bytes.len())
        };
        let tag = rec.tag.as_deref().map_or(Span::ABSENT, &mut aside);
        let node = rec.node.as_deref().map_or(Span::ABSENT, &mut aside);
        spans.push(RecordSpan { data, meta, tag, node });
    }
    (body, side, spans)
}

pub(super) fn seen_of(record: &Record<'_>) -> Seen {
    Seen {
        seq: record.seq,
        ts: record.ts,
        rec: Rec {
            data: record.data.to_vec(),
            meta: record.meta.map(<[u8]>::to_vec),
            tag: record.tag.map(<[u8]>::to_vec),
            node: record.node.map(<[u8]>::to_vec),
        },
        hops: record.hops,
        counted_bytes: record.counted_bytes(),
    }
}

pub(super) fn broken(rule: &str, message: String) -> Stop {
    Stop::Broken(Violation { rule: rule.to_owned(), message })
}

fn hangs(what: &str) -> Stop {
    broken("hang", what.to_owned())
}
