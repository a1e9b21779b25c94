//! What the tests of whole shards share: a [`Rig`] that runs a shard on a simulated disk by a seed, and
//! in [`oracle`] a plain [`model`] of topics beside it.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test crate uses its part of it")]

pub mod judge;
pub mod model;
pub mod oracle;

use runelog_engine::config::TopicConfig;
use runelog_engine::disk::sim::{Crash, SimDisk};
use runelog_engine::disk::{Disk, Done, Io, Op, Tag};
use runelog_engine::error::{EngineError, No};
use runelog_engine::event::{Batch, Record, RecordSpan, Span};
use runelog_engine::ids::{RouterId, TopicId};
use runelog_engine::quota::Quota;
use runelog_engine::rng::Rng;
use runelog_engine::router::RouterDef;
use runelog_engine::shard::recover::{RecoverError, RecoveryReport, recover};
use runelog_engine::shard::{
    AppendRequest, Appended, DeleteRequest, Deleted, ForwardRequest, Forwarded, LoadId, PumpRead,
    ReadOutcome, ReadRequest, Shard, ShardSettings, TagMatch, TombstoneReason,
};
use std::sync::Arc;

/// Turns after which a test gives up waiting.
const TURNS_MAX: usize = 20_000;

/// Why an operation of the rig has no outcome.
#[derive(Debug)]
pub enum Stop {
    /// The disk was cut: crash it and open again.
    Cut,
    /// The shard refuses.
    Refused(EngineError),
    /// The shard does not start.
    Recover(RecoverError),
}

impl Stop {
    /// The refusal, where nothing else is possible.
    pub fn refusal(self) -> EngineError {
        match self {
            Stop::Refused(error) => error,
            other => panic!("{other:?}"),
        }
    }
}

/// First and last seqs of what sources lost.
pub type Gaps = Vec<(u64, u64)>;

pub type Outcome<T> = Result<T, Stop>;

/// A record with its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rec {
    pub data: Vec<u8>,
    pub meta: Option<Vec<u8>>,
    pub tag: Option<Vec<u8>>,
    pub node: Option<Vec<u8>>,
}

impl Rec {
    pub fn new(data: impl Into<Vec<u8>>) -> Rec {
        Rec { data: data.into(), ..Rec::default() }
    }

    pub fn tagged(data: impl Into<Vec<u8>>, tag: &str) -> Rec {
        Rec { tag: Some(tag.into()), ..Rec::new(data) }
    }

    pub fn bytes(&self) -> u64 {
        (self.data.len() + self.meta.as_ref().map_or(0, Vec::len)) as u64
    }
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub seq: u64,
    pub ts: i64,
    pub rec: Rec,
    pub counted_bytes: u64,
}

/// A topic's state as it was shown.
#[derive(Clone, Debug)]
pub struct Shown {
    pub name: Vec<u8>,
    pub config: TopicConfig,
    pub head: u64,
    pub floors: [u64; 3],
    pub earliest: u64,
    pub count: u64,
    pub bytes: u64,
}

/// What a router brings, with copies as records.
#[derive(Clone, Debug, Default)]
pub struct Bring {
    pub router: RouterId,
    pub dest: TopicId,
    pub from: u64,
    pub through: Vec<u64>,
    pub end: u64,
    pub vacant: u64,
    pub hops: u8,
}

/// Records in the form that requests have.
pub fn lay_out(records: &[Rec]) -> (Vec<u8>, Vec<u8>, Vec<RecordSpan>) {
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

/// What an append asks for beyond topic and records.
#[derive(Clone, Copy, Default)]
pub struct Ask<'a> {
    pub key: Option<&'a [u8]>,
    pub create: Option<bool>,
    pub config: Option<&'a TopicConfig>,
}

/// Small sizes, so that everything happens within a test.
pub fn settings() -> ShardSettings {
    ShardSettings {
        shard: 0,
        shards: 1,
        layout: 1,
        directory: 0x5eed,
        file_bytes: 4 << 20,
        hot_bytes: 8 << 20,
        cache_bytes: 1 << 20,
        commits_in_flight: 2,
        segment_max_events: 16,
        segment_max_bytes: 4 << 20,
        segment_max_age_ms: 300,
        wal_keep_bytes: 0,
    }
}

/// A shard, its disk and its clock.
pub struct Rig {
    pub disk: SimDisk,
    pub settings: ShardSettings,
    pub quota_bytes: u64,
    pub quota_topics: u64,
    pub quota: Arc<Quota>,
    pub shard: Option<Shard>,
    pub report: RecoveryReport,
    /// The wall clock.
    pub now: i64,
    now_us: u64,
    rng: Rng,
    outgoing: Vec<(Tag, Op)>,
    done: Vec<Done>,
    loaded: Vec<(LoadId, Result<(), String>)>,
}

impl Rig {
    /// A rig with an empty disk; not yet open.
    pub fn new(seed: u64, settings: ShardSettings) -> Rig {
        Rig {
            disk: SimDisk::new(seed),
            settings,
            quota_bytes: 0,
            quota_topics: 0,
            quota: Arc::new(Quota::new(0, 0)),
            shard: None,
            report: RecoveryReport::default(),
            now: 1_000_000,
            now_us: 0,
            rng: Rng::new(seed ^ 0x0f0f),
            outgoing: Vec::new(),
            done: Vec::new(),
            loaded: Vec::new(),
        }
    }

    /// A rig that is open.
    pub fn open_new(seed: u64) -> Rig {
        let mut rig = Rig::new(seed, settings());
        rig.open().expect("an empty directory");
        rig
    }

    /// Recovers the shard from the disk.
    pub fn open(&mut self) -> Outcome<()> {
        assert!(self.shard.is_none());
        let io = Io::default();
        let dir = self.settings.dir();
        let making = async {
            for (made, in_dir) in [("segments", ""), ("shards", ""), (&dir[..], "shards")] {
                io.make_dir(made).await?;
                io.sync_dir(in_dir).await?;
            }
            Ok::<(), runelog_engine::error::DiskError>(())
        };
        let made = self.disk.block_on(&io, making).ok_or(Stop::Cut)?;
        made.map_err(|error| Stop::Refused(EngineError::Halted(error)))?;
        self.quota = Arc::new(Quota::new(self.quota_topics, self.quota_bytes));
        let recovering = recover(&io, self.settings.clone(), self.quota.clone(), self.now, |_| ());
        let (shard, report) = self.disk.block_on(&io, recovering).ok_or(Stop::Cut)?.map_err(Stop::Recover)?;
        (self.shard, self.report) = (Some(shard), report);
        Ok(())
    }

    pub fn shard(&mut self) -> &mut Shard {
        self.shard.as_mut().expect("the rig is open")
    }

    /// Every block up to this one is committed.
    pub fn committed(&self) -> u64 {
        self.shard.as_ref().map_or(0, |shard| shard.committed().0)
    }

    /// One turn of the loop and some completions; with `wait` at least one, if any is to come.
    pub fn step(&mut self, wait: bool) -> Outcome<()> {
        self.now_us += 50;
        let shard = self.shard.as_mut().expect("the rig is open");
        shard.turn(self.now, self.now_us);
        let _ = shard.take_fresh_chunks();
        shard.io().take_outgoing(&mut self.outgoing);
        self.outgoing.drain(..).for_each(|(tag, op)| self.disk.submit(tag, op));
        if self.disk.is_cut() {
            return Err(Stop::Cut);
        }
        if wait {
            self.disk.wait();
        }
        self.disk.poll(&mut self.done);
        for done in self.done.drain(..) {
            shard.on_done(done, self.now_us);
        }
        shard.take_loaded(&mut self.loaded);
        Ok(())
    }

    /// Turns until nothing is under way.
    pub fn settle(&mut self) -> Outcome<()> {
        for _ in 0..TURNS_MAX {
            self.step(true)?;
            let shard = self.shard.as_ref().expect("open");
            let quiet = !shard.has_work() && !shard.log.is_busy() && !shard.io().has_outgoing();
            if shard.log.failed().is_some() || quiet && self.disk.in_flight() == 0 {
                // Once more: publishes what came last, and starts what became due.
                self.step(false)?;
                let shard = self.shard.as_ref().expect("open");
                if !shard.has_work() && self.disk.in_flight() == 0 {
                    return Ok(());
                }
            } else if !shard.has_work() && self.disk.in_flight() == 0 {
                self.advance(50); // a log file that could not be made is tried again after a while
            }
        }
        panic!("the shard does not come to rest");
    }

    /// Turns until a block is committed.
    pub fn wait(&mut self, block: u64) -> Outcome<()> {
        for _ in 0..TURNS_MAX {
            if self.committed() >= block {
                self.step(false)?; // and published
                return Ok(());
            }
            self.step(true)?;
            if self.committed() < block
                && let Some(error) = self.shard().halted()
            {
                return Err(Stop::Refused(error));
            }
        }
        panic!("block {block} is never committed");
    }

    /// Lets time pass, by both clocks; the wall clock can be set back.
    pub fn advance(&mut self, ms: i64) {
        self.now += ms;
        self.now_us += ms.max(0) as u64 * 1000;
    }

    /// Ends the shard as a crash would.
    pub fn crash(&mut self, kind: Crash) {
        self.shard = None;
        self.outgoing.clear();
        self.done.clear();
        self.loaded.clear();
        self.disk.crash(kind);
    }

    /// A clean stop and all that follows from it.
    pub fn stop(&mut self) -> Outcome<()> {
        self.shard().begin_stop();
        for _ in 0..TURNS_MAX {
            self.step(true)?;
            if self.shard().is_stopped() {
                return Ok(());
            }
        }
        panic!("the shard does not stop");
    }

    /// Repeats an operation until it ends in an outcome or a refusal, loading what it asks for.
    pub fn repeat<T>(&mut self, mut operation: impl FnMut(&mut Shard, i64) -> Result<T, No>) -> Outcome<T> {
        let mut obstacle = String::new();
        for _ in 0..TURNS_MAX {
            let now = self.now;
            match operation(self.shard(), now) {
                Ok(outcome) => return Ok(outcome),
                Err(No::Refused(error, _)) => return Err(Stop::Refused(error)),
                Err(No::Busy) => {
                    obstacle = "busy".to_owned();
                    self.step(true)?
                }
                Err(No::Load(blocks)) => {
                    obstacle = format!("wants {blocks:?}");
                    let id = self.shard().load(blocks);
                    self.await_load(id)?;
                }
            }
        }
        panic!("an operation that never ends: {obstacle}");
    }

    fn await_load(&mut self, id: LoadId) -> Outcome<()> {
        for _ in 0..TURNS_MAX {
            if let Some(at) = self.loaded.iter().position(|(other, _)| *other == id) {
                let (_, result) = self.loaded.swap_remove(at);
                return result.map_err(|text| Stop::Refused(EngineError::Unreadable(text)));
            }
            self.step(true)?;
        }
        panic!("a load that never ends");
    }

    pub fn append(&mut self, topic: &str, records: &[Rec], ask: Ask<'_>) -> Outcome<Appended> {
        let (body, side, spans) = lay_out(records);
        let request = AppendRequest {
            topic: topic.as_bytes(),
            batch: Batch { body: &body, side: &side, records: &spans },
            key: ask.key,
            create: ask.create,
            config: ask.config,
        };
        self.repeat(|shard, now| shard.append(&request, now))
    }

    /// Appends and waits for the acknowledgement.
    pub fn append_and_wait(&mut self, topic: &str, records: &[Rec]) -> Outcome<Appended> {
        let appended = self.append(topic, records, Ask::default())?;
        self.wait(appended.wait.0)?;
        Ok(appended)
    }

    /// A router in the registry, durable: only then its id is its own for good.
    pub fn make_router(&mut self, dest: &str, dest_id: TopicId, start: u64) -> Outcome<RouterId> {
        let id = self.shard().next_router_id();
        let def = RouterDef {
            id,
            name: format!("r{}", id.0).into(),
            source: "elsewhere".into(),
            source_id: TopicId(u64::MAX),
            dest: dest.into(),
            dest_id,
            preserve_node: true,
            preserve_tag: id.0.is_multiple_of(2),
            filter: Some(TagMatch::Prefix(format!("{start}:").into_bytes())),
            allow_cycle: false,
            exactly_once: id.0.is_multiple_of(3),
            start,
        };
        let wait = self.repeat(|shard, _| shard.put_router(def.clone()))?;
        self.wait(wait.0)?;
        Ok(id)
    }

    /// Brings copies.
    pub fn forward(&mut self, bring: &Bring, records: &[Rec]) -> Outcome<Forwarded> {
        let (body, side, spans) = lay_out(records);
        let Bring { router, dest, from, end, vacant, hops, .. } = *bring;
        let batch = Batch { body: &body, side: &side, records: &spans };
        let through = &bring.through;
        let request = ForwardRequest { router, dest, from, through, end, vacant, hops, batch };
        self.repeat(|shard, now| shard.forward(&request, now))
    }

    /// Reads as a router does: what it found, and each record with its hops.
    pub fn pump(&mut self, topic: &str, from: u64, records: u32) -> Outcome<(PumpRead, Vec<(Seen, u8)>)> {
        self.repeat(|shard, now| {
            let source = shard.find(topic.as_bytes()).0.ok_or(EngineError::TopicMissing)?;
            let mut seen = Vec::new();
            let visit = |record: &Record<'_>| seen.push((seen_of(record), record.hops));
            let read = shard.pump_read(source, from, records, 1 << 20, now, visit)?;
            Ok((read, seen))
        })
    }

    /// Id of a topic that exists.
    pub fn id_of(&mut self, topic: &str) -> TopicId {
        self.shard().find(topic.as_bytes()).0.expect("a topic").id
    }

    pub fn put(&mut self, topic: &str, config: &TopicConfig) -> Outcome<(bool, u64)> {
        self.repeat(|shard, now| shard.put(topic.as_bytes(), config.clone(), now))
            .map(|(created, wait)| (created, wait.0))
    }

    pub fn drop_topic(&mut self, topic: &str, if_empty: bool) -> Outcome<(bool, u64)> {
        self.repeat(|shard, now| shard.drop_topic(topic.as_bytes(), if_empty, now))
            .map(|(dropped, wait)| (dropped, wait.0))
    }

    pub fn delete(
        &mut self,
        topic: &str,
        before_seq: Option<u64>,
        matcher: Option<TagMatch>,
    ) -> Outcome<(u64, Deleted)> {
        let request = DeleteRequest { before_seq, matcher };
        let (head, mut deletion) = self.repeat(|shard, now| {
            // What is shown now is what may go.
            let head = shard.state(topic.as_bytes(), false, now)?.0.totals.head;
            Ok((head, shard.delete_start(topic.as_bytes(), &request, now)?))
        })?;
        loop {
            let step = self.repeat(|shard, _| match shard.delete_step(&mut deletion) {
                Err(no @ No::Refused(..)) => {
                    shard.delete_abandon(&deletion);
                    Err(no)
                }
                other => other,
            })?;
            match step {
                Some(deleted) => return Ok((head, deleted)),
                None => self.step(false)?,
            }
        }
    }

    pub fn read(&mut self, topic: &str, request: &ReadRequest<'_>) -> Outcome<(ReadOutcome, Vec<Seen>)> {
        self.repeat(|shard, now| {
            let mut seen = Vec::new();
            let outcome = shard.read(topic.as_bytes(), request, now, |record| {
                seen.push(seen_of(record));
            })?;
            Ok((outcome, seen))
        })
    }

    /// All that a topic shows, page by page, and the first page's outcome.
    pub fn read_all(&mut self, topic: &str) -> Outcome<(ReadOutcome, Vec<Seen>)> {
        self.read_gaps(topic).map(|(first, all, _)| (first, all))
    }

    /// The same, and all that the reader was told of vacancies of routers (I-68).
    pub fn read_gaps(&mut self, topic: &str) -> Outcome<(ReadOutcome, Vec<Seen>, Gaps)> {
        let mut gaps = Vec::new();
        let limit = 1 + self.rng.below(60) as u32;
        let max_bytes = 1 + self.rng.below(3 << 20);
        let mut request = ReadRequest { from_seq: 0, limit, max_bytes, skip_node: None };
        let (first, mut all) = self.read(topic, &request)?;
        let mut last = first;
        let mut note = |outcome: &ReadOutcome, seen: &[Seen], before: u64| {
            let Some(gap) = outcome.tombstone.filter(|gap| gap.reason == TombstoneReason::SourceTrim) else {
                return;
            };
            assert!(before < gap.gap_from && gap.gap_to >= gap.gap_from, "D-16: {gap:?} after {before}");
            let next = seen.first().map_or(u64::MAX, |seen| seen.seq);
            assert!(gap.gap_to < next, "I-68: {gap:?} hides {next}");
            assert_eq!(gap.earliest_seq, gap.gap_to + 1, "§5.1");
            gaps.push((gap.gap_from, gap.gap_to));
        };
        note(&first, &all, 0);
        while !last.caught_up() {
            request.from_seq = last.next_from_seq;
            let (outcome, seen) = self.read(topic, &request)?;
            assert!(outcome.next_from_seq > last.next_from_seq, "a reader stands still: {outcome:?}");
            note(&outcome, &seen, request.from_seq);
            all.extend(seen);
            last = outcome;
        }
        Ok((first, all, gaps))
    }

    pub fn state(&mut self, topic: &str) -> Outcome<Shown> {
        self.repeat(|shard, now| {
            let (view, _) = shard.state(topic.as_bytes(), false, now)?;
            Ok(shown(&view))
        })
    }

    pub fn list(&mut self) -> Outcome<Vec<Shown>> {
        self.repeat(|shard, now| {
            let mut all = Vec::new();
            shard.list(b"", None, usize::MAX, false, now, |view| all.push(shown(&view)))?;
            Ok(all)
        })
    }

    /// Paths of the log files with an accepted header, by file number.
    pub fn log_files(&self) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        for (path, _) in self.disk.files() {
            if !path.contains("/wal-") {
                continue;
            }
            let bytes = self.disk.contents(&path).expect("listed");
            if let Ok(Some(header)) = runelog_engine::wal::format::FileHeader::decode(bytes) {
                found.push((header.number, path));
            }
        }
        found.sort();
        found
    }
}

fn seen_of(record: &Record<'_>) -> Seen {
    Seen {
        seq: record.seq,
        ts: record.ts,
        rec: Rec {
            data: record.data.to_vec(),
            meta: record.meta.map(<[u8]>::to_vec),
            tag: record.tag.map(<[u8]>::to_vec),
            node: record.node.map(<[u8]>::to_vec),
        },
        counted_bytes: record.counted_bytes(),
    }
}

fn shown(view: &runelog_engine::shard::TopicView<'_>) -> Shown {
    Shown {
        name: view.name.to_vec(),
        config: view.config.clone(),
        head: view.totals.head,
        floors: view.totals.floors,
        earliest: view.earliest,
        count: view.totals.count,
        bytes: view.totals.bytes,
    }
}

/// A number from the environment.
pub fn env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Runs one case and says which it was if it panics.
pub fn named<T>(what: &str, case: impl FnOnce() -> T) -> T {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(case)) {
        Ok(value) => value,
        Err(cause) => {
            eprintln!("--- failed: {what}");
            std::panic::resume_unwind(cause)
        }
    }
}
