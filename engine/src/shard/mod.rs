//! All state of one core: its topics and its log. Every change to a topic happens in this folder.
//! Lives here: the shard itself, publication in log order, driving the log.
//! By file: [`topics`] (settings, state, age), [`append`], [`read`], [`delete`], [`retain`] (what caps and
//! age push out), [`queue`], [`routers`] and [`forward`] (copies); [`seal`] with [`seal_job`] (memory to
//! segments), [`checkpoints`], [`load`] (segments to
//! memory); [`recover`] with [`replay`]; [`export`] (a recovered shard taken apart);
//! [`audit`] (one read from end to end).
//! Not here: bytes on disk (`wal`, `segment`, `checkpoint`), sockets, JSON, the clock.
//!
//! The shard never waits. An operation ends at once with an outcome and the block its answer must wait
//! for ([`Wait`]), with a refusal, or with [`No::Load`]/[`No::Busy`]: ask again later, nothing changed.

mod append;
mod audit;
mod checkpoints;
mod delete;
mod export;
mod forward;
mod load;
mod queue;
mod read;
pub mod recover;
mod replay;
mod retain;
mod routers;
mod seal;
mod seal_job;
mod topics;

pub use append::{AppendRequest, Appended};
pub use audit::{AuditFault, Audited};
use delete::TagHits;
pub use delete::{DeleteRequest, Deleted, Deletion, TagMatch};
pub use export::Exported;
pub use forward::{ForwardRequest, Forwarded, PumpRead};
pub use queue::{Claimed, Claimer, Job, Named, Pulse, QueueCounts, Settled};
pub use read::{NodeFilter, ReadOutcome, ReadRequest, Tombstone, TombstoneReason};
pub use routers::Link;
pub use seal::JobDone;

use crate::cache::{BlockCache, CacheStats, Files};
use crate::config::TopicConfig;
use crate::disk::{Done, Io, Jobs};
use crate::error::{EngineError, No};
use crate::event::Record;
use crate::ids::{Lsn, Millis, SegmentId, TopicId};
use crate::limits::CHUNK_BYTES;
use crate::mem::{Chunk, ChunkPages};
use crate::queue::Grant;
use crate::quota::Quota;
use crate::router::LinkState;
use crate::sabotage::{self, Bug};
use crate::topic::{Hidden, Loss, Topic, Totals};
use crate::wal::Wait;
use crate::wal::log::Log;
use ahash::AHashMap;
use routers::{Links, Registry};
use seal::Sealing;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

/// Settings of a shard. Sizes are per shard.
#[derive(Clone, Debug)]
pub struct ShardSettings {
    /// This shard's number.
    pub shard: u16,
    /// How many there are.
    pub shards: u16,
    /// Layout generation: grows whenever the number of shards changes.
    pub layout: u64,
    /// Id of the data directory; also the seed of its hashes.
    pub directory: u64,
    /// Size of a log file.
    pub file_bytes: u64,
    /// Memory for records that are not sealed yet.
    pub hot_bytes: u64,
    /// Memory for sealed blocks.
    pub cache_bytes: u64,
    /// Group commits in flight.
    pub commits_in_flight: usize,
    /// Records in one sealed block at most.
    pub segment_max_events: u32,
    /// Bytes of one segment file, about.
    pub segment_max_bytes: u64,
    /// Age at which records are sealed, 0 = never for age alone.
    pub segment_max_age_ms: u64,
    /// Log bytes kept beyond what recovery needs.
    pub wal_keep_bytes: u64,
}

impl ShardSettings {
    /// The shard's directory below the data directory.
    pub fn dir(&self) -> String {
        shard_dir(self.layout, self.shard)
    }
}

/// Directory of a shard in a layout.
pub fn shard_dir(layout: u64, shard: u16) -> String {
    format!("shards/{layout:08x}-{shard:03}")
}

/// Layout and shard of a directory's name below `shards`, if it is one of ours.
pub fn parse_shard_dir(name: &str) -> Option<(u64, u16)> {
    let (layout, shard) = name.split_once('-')?;
    let (layout, shard) = (u64::from_str_radix(layout, 16).ok()?, shard.parse().ok()?);
    (shard_dir(layout, shard).strip_prefix("shards/") == Some(name)).then_some((layout, shard))
}

/// The shard that owns a topic, by a hash that does not depend on build or processor: xxh3 with the
/// directory's seed, then a multiply-shift onto the number of shards.
pub fn owner_of(name: &[u8], directory: u64, shards: u16) -> u16 {
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(name, directory);
    ((u128::from(hash) * u128::from(shards)) >> 64) as u16
}

/// Names a topic instance of this shard; stale ones are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TopicRef {
    /// Index in the shard.
    pub slot: u32,
    /// The instance that was there.
    pub id: TopicId,
}

/// What leaves a topic's front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Eviction {
    loss: Loss,
    /// The new floor.
    seq: u64,
    /// Live records that go.
    count: u64,
    /// Their bytes.
    bytes: u64,
    /// Those of them that the log knows: replay counts them out again, and never saw the others.
    logged_count: u64,
    /// Their bytes.
    logged_bytes: u64,
}

/// What becomes visible when a block commits.
enum Effect {
    Appended { last_seq: u64, count: u64, bytes: u64 },
    Evicted(Eviction),
    Deleted { ranges: Rc<[(u64, u64)]>, count: u64, bytes: u64, hidden: Hidden },
    Linked(LinkState),
}

struct Pending {
    block: u64,
    slot: u32,
    id: TopicId,
    effect: Effect,
}

/// A topic as one moment shows it.
#[derive(Clone, Debug)]
pub struct TopicView<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// Its settings.
    pub config: &'a TopicConfig,
    /// Shown numbers.
    pub totals: Totals,
    /// First live position (I-20).
    pub earliest: u64,
    /// Last write since start.
    pub last_write_ts: Option<Millis>,
    /// Last read since start.
    pub last_read_ts: Option<Millis>,
    /// Last consumption (PR-2).
    pub last_consumed_ts: Option<Millis>,
    /// Its jobs, if it is a queue.
    pub queue: Option<QueueCounts>,
}

/// Numbers of a shard, for metrics.
#[derive(Clone, Debug, Default)]
pub struct ShardGauges {
    /// Topics by class, in the order of [`Class`].
    pub by_class: [u64; 4],
    /// Live records.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Queue topics.
    pub queues: u64,
    /// Leased jobs of all of them.
    pub leases: u64,
    /// Bytes of log held in memory.
    pub hot_bytes: u64,
    /// Sealed files in use.
    pub segments: u64,
    /// Checkpoints written since start.
    pub checkpoints: u64,
    /// Log chunks that were made only when they were needed, since start.
    pub chunks_late: u64,
}

/// See the module's text.
pub struct Shard {
    settings: ShardSettings,
    io: Io,
    quota: Arc<Quota>,
    /// The log: settings of its own, counters, the chunks.
    pub log: Log,
    /// Sealed blocks in memory.
    pub cache: RefCell<BlockCache>,
    files: Files,
    jobs: Jobs<JobDone>,
    names: AHashMap<Rc<[u8]>, u32>,
    /// Names in order, for lists.
    sorted: BTreeMap<Rc<[u8]>, u32>,
    topics: Vec<Option<Topic>>,
    free_slots: Vec<u32>,
    by_id: AHashMap<TopicId, u32>,
    next_topic: u64,
    effects: VecDeque<Pending>,
    /// Names whose deletion is on its way to disk: an answer "absent" rests on it.
    dropping: AHashMap<Rc<[u8]>, u64>,
    /// Newest block with a change of any topic's existence or settings.
    control_block: u64,
    published: Vec<TopicRef>,
    heap_bytes: u64,
    sealing: Sealing,
    /// Definitions of routers, in shard 0.
    registry: Registry,
    /// How far routers have come that copy into topics of this shard.
    links: Links,
    /// Results of [`Shard::load`].
    loaded: Vec<(LoadId, Result<(), String>)>,
    /// What the operator should read.
    notices: Vec<Notice>,
    next_load: u64,
    /// Low half of the next lease's token.
    next_lease: u64,
    queue_scratch: QueueScratch,
    /// Blocks that a load still waits for, and why it failed if its first block did.
    loading: AHashMap<LoadId, (usize, Option<String>)>,
    /// For the delete at work on a topic: what the list of tags it is at says.
    tag_hits: AHashMap<TopicId, TagHits>,
    scratch: Vec<u8>,
    outcomes: Vec<JobDone>,
}

/// Lists that one claim after the other uses.
#[derive(Default)]
struct QueueScratch {
    seqs: Vec<u64>,
    grants: Vec<Grant>,
}

/// Something for the log of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether the operator must act.
    pub severe: bool,
    /// What happened, naming files.
    pub text: String,
}

/// Names a [`Shard::load`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoadId(pub u64);

impl Shard {
    /// The settings it runs with.
    pub fn settings(&self) -> &ShardSettings {
        &self.settings
    }

    /// The queue of disk operations; the caller moves them to a disk and brings completions back.
    pub fn io(&self) -> &Io {
        &self.io
    }

    /// Log chunks made since the last call, to be registered with the ring. Must be called regularly:
    /// what is not taken is not reused.
    pub fn take_fresh_chunks(&mut self) -> Vec<Chunk> {
        self.log.chunks.take_fresh()
    }

    /// How many log chunks the caller should make aside now, on another thread, for [`Shard::add_chunk`]. Without any
    /// all goes on; the shard makes one itself when it needs it.
    pub fn chunks_wanted(&self) -> usize {
        self.log.chunks_wanted()
    }

    /// Takes a log chunk that was made aside.
    pub fn add_chunk(&mut self, pages: ChunkPages) {
        self.log.chunks.add_spare(pages);
    }

    /// Takes a completion of an operation from [`Shard::io`].
    pub fn on_done(&mut self, done: Done, now_us: u64) {
        if let Err(done) = self.io.complete(done) {
            // Neither awaited nor the log's: a job that was dropped.
            let _ = self.log.on_done(done, now_us);
        }
    }

    /// One turn: runs jobs, publishes what committed, sends what may go to the log. Call after
    /// operations and completions; `now` is the wall clock, `now_us` any steady clock.
    pub fn turn(&mut self, now: Millis, now_us: u64) {
        self.publish();
        if !self.jobs.is_empty() {
            let mut outcomes = std::mem::take(&mut self.outcomes);
            self.jobs.run(&mut outcomes);
            for outcome in outcomes.drain(..) {
                self.on_job(outcome, now);
            }
            self.outcomes = outcomes;
        }
        self.seal_if_due(now, now_us);
        self.log.flush(now_us);
    }

    /// Sends what was put into the log since [`Shard::turn`]: before the core sleeps, for nothing wakes it for that.
    pub fn flush(&mut self, now_us: u64) {
        self.log.flush(now_us);
    }

    /// Whether jobs are under way.
    pub fn has_work(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// Whether a job has computation left that no completion will wake: turn again at once.
    pub fn is_runnable(&self) -> bool {
        self.jobs.is_runnable()
    }

    /// Applies the effects of committed blocks, in log order.
    fn publish(&mut self) {
        let mut committed = self.log.committed();
        if sabotage::is(Bug::PublishBeforeCommit) {
            committed = u64::MAX;
        }
        while self.effects.front().is_some_and(|pending| pending.block <= committed) {
            let pending = self.effects.pop_front().expect("just seen");
            if let Some(topic) = self.topics[pending.slot as usize].as_mut()
                && topic.id == pending.id
            {
                topic.pending_effects -= 1;
            }
            self.apply(pending.slot, pending.id, pending.effect);
        }
        if !self.dropping.is_empty() {
            self.dropping.retain(|_, block| *block > committed);
        }
    }

    /// Makes an effect visible now, if its block is committed and no earlier effect of the topic
    /// waits, or else in its turn. Returns the block that an answer about it waits for.
    fn enqueue(&mut self, slot: u32, id: TopicId, block: u64, effect: Effect) -> u64 {
        if block <= self.log.committed() && self.topic(slot).pending_effects == 0 {
            self.apply(slot, id, effect);
            return block;
        }
        let block = self.effects.back().map_or(block, |last| last.block.max(block));
        self.topic_mut(slot).pending_effects += 1;
        self.effects.push_back(Pending { block, slot, id, effect });
        block
    }

    fn apply(&mut self, slot: u32, id: TopicId, effect: Effect) {
        let Some(topic) = self.topics[slot as usize].as_mut().filter(|topic| topic.id == id) else {
            return; // dropped since
        };
        if let Effect::Linked(state) = effect {
            self.links.show(state);
            return;
        }
        if !topic.changed {
            topic.changed = true;
            self.sealing.changed.push(TopicRef { slot, id });
        }
        match effect {
            Effect::Appended { last_seq, count, bytes } => {
                topic.shown.head = last_seq;
                topic.shown.count += count;
                topic.shown.bytes += bytes;
                self.published.push(TopicRef { slot, id });
                return;
            }
            Effect::Evicted(gone) => {
                if gone.seq <= topic.hidden.through {
                    topic.hidden.count -= gone.count;
                    topic.hidden.bytes -= gone.bytes;
                }
                let floor = &mut topic.shown.floors[gone.loss as usize];
                *floor = (*floor).max(gone.seq);
                topic.shown.count -= gone.count;
                topic.shown.bytes -= gone.bytes;
                if let Some(queue) = &mut topic.queue {
                    queue.remove_through(gone.seq);
                }
                let floor = topic.shown.floor();
                if topic.hidden.through <= floor {
                    assert_eq!((topic.hidden.count, topic.hidden.bytes), (0, 0), "hidden twice or never");
                    topic.hidden = Hidden::default();
                }
                topic.prune(floor);
            }
            Effect::Deleted { ranges, count, bytes, hidden } => {
                topic.hidden.count -= hidden.count;
                topic.hidden.bytes -= hidden.bytes;
                for (first, last) in ranges.iter() {
                    topic.deleted.insert(*first, *last);
                }
                if let Some(queue) = &mut topic.queue {
                    ranges.iter().for_each(|(first, last)| queue.remove(*first, *last));
                }
                topic.deleting.pop_front();
                topic.shown.count -= count;
                topic.shown.bytes -= bytes;
            }
            Effect::Linked(_) => unreachable!("shown above"),
        }
        let dead = topic.earliest() - 1;
        let heap_before = topic.index.heap_bytes();
        let sealing = &mut self.sealing;
        topic.index.drop_through(dead, |block| sealing.release(block.segment));
        self.heap_bytes -= heap_before - topic.index.heap_bytes();
    }

    /// Topics with newly published records since the last call, possibly repeated.
    pub fn take_published(&mut self, out: &mut Vec<TopicRef>) {
        out.append(&mut self.published);
    }

    /// Answers that wait for a block up to this one may leave: it is committed. Or it has no place in the log,
    /// because no file for it can be made, and holds but marks of what is over by age: nobody knows how long a
    /// reader would wait then, and those records are out of sight (PR-5). So this can go back, too.
    pub fn committed(&self) -> Wait {
        let marks = self.sealing.no_file.and_then(|_| self.log.only_marks_through());
        Wait(marks.unwrap_or(self.log.committed()))
    }

    /// Whether the log took its last write (I-45): waiting answers beyond [`Shard::committed`] fail.
    pub fn halted(&self) -> Option<EngineError> {
        self.log.failed().map(EngineError::Halted)
    }

    /// The topic of that name, and the block that answers about it (or its absence) wait for.
    pub fn find(&self, name: &[u8]) -> (Option<TopicRef>, Wait) {
        match self.names.get(name) {
            Some(slot) => {
                let topic = self.topics[*slot as usize].as_ref().expect("named topics exist");
                (Some(TopicRef { slot: *slot, id: topic.id }), Wait(topic.control_block))
            }
            None => (None, Wait(self.dropping.get(name).copied().unwrap_or(0))),
        }
    }

    /// The slot of a topic, or the refusal that it is absent.
    fn slot_of(&self, name: &[u8]) -> Result<u32, No> {
        match self.find(name) {
            (Some(found), _) => Ok(found.slot),
            (None, wait) => Err(No::Refused(EngineError::TopicMissing, wait)),
        }
    }

    fn topic(&self, slot: u32) -> &Topic {
        self.topics[slot as usize].as_ref().expect("a used slot")
    }

    fn topic_mut(&mut self, slot: u32) -> &mut Topic {
        self.topics[slot as usize].as_mut().expect("a used slot")
    }

    /// A topic as it shows, without retention and without a trace.
    pub fn peek(&self, topic: TopicRef) -> Option<TopicView<'_>> {
        self.alive(topic).map(view)
    }

    /// The topic, if it is still the one that was meant.
    fn alive(&self, topic: TopicRef) -> Option<&Topic> {
        self.topics.get(topic.slot as usize)?.as_ref().filter(|found| found.id == topic.id)
    }

    /// Topics of this shard.
    pub fn topic_count(&self) -> usize {
        self.names.len()
    }

    /// What happened since the last call that an operator should know.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Numbers for metrics; walks all topics.
    pub fn gauges(&self) -> ShardGauges {
        let mut gauges = ShardGauges {
            hot_bytes: (self.log.chunks.held() * CHUNK_BYTES) as u64,
            segments: self.sealing.segments.len() as u64,
            checkpoints: self.sealing.checkpoints,
            chunks_late: self.log.chunks.late(),
            ..Default::default()
        };
        for topic in self.topics.iter().flatten() {
            gauges.by_class[topic.config.class as usize] += 1;
            gauges.records += topic.shown.count;
            gauges.bytes += topic.shown.bytes;
            if let Some(queue) = &topic.queue {
                gauges.queues += 1;
                gauges.leases += queue.counts().leased;
            }
        }
        gauges
    }

    /// Shows up to `limit` topics in name order, as they are.
    pub fn visit_topics(&self, limit: usize, mut visit: impl FnMut(TopicView<'_>)) {
        self.sorted.values().take(limit).for_each(|slot| visit(view(self.topic(*slot))));
    }

    /// Hits and misses of the block cache.
    pub fn cache_stats(&self) -> CacheStats {
        self.cache.borrow().stats()
    }

    /// The segments that this shard's topics need, for clearing the pool at start.
    pub fn segments_in_use(&self) -> impl Iterator<Item = SegmentId> + '_ {
        self.sealing.segments.keys().copied()
    }

    /// All topics by id, with their names.
    pub fn topic_names(&self) -> impl Iterator<Item = (TopicId, &[u8])> {
        self.topics.iter().flatten().map(|topic| (topic.id, &topic.name[..]))
    }

    /// Blocks loaded since the last call, for operations that ended in [`No::Load`].
    pub fn take_loaded(&mut self, out: &mut Vec<(LoadId, Result<(), String>)>) {
        out.append(&mut self.loaded);
    }

    /// A record walk over everything a topic holds, for tests and tools: seq order, live or not.
    pub fn visit_all(&self, name: &[u8], mut visit: impl FnMut(&Record<'_>)) -> Result<(), No> {
        let slot = self.slot_of(name)?;
        self.walk(self.topic(slot), 1, u64::MAX - 1, |record| {
            visit(record);
            std::ops::ControlFlow::Continue(())
        })
    }

    /// The log position that the oldest unsealed entry of any topic needs.
    pub fn lowest_lsn(&self) -> Option<Lsn> {
        self.topics.iter().flatten().filter_map(|topic| topic.index.lowest_lsn()).min()
    }
}

fn view(topic: &Topic) -> TopicView<'_> {
    TopicView {
        name: &topic.name,
        config: &topic.config,
        totals: topic.visible(),
        earliest: topic.earliest_visible(),
        last_write_ts: topic.last_write_ts,
        last_read_ts: topic.last_read_ts,
        last_consumed_ts: topic.last_consumed_ts,
        queue: queue::queue_counts(topic),
    }
}
