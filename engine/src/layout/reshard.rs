//! Another number of shards: topics get new homes, records stay where they are.
//!
//! The old layout is only read. Every shard of it is recovered, one after the other; what only its log
//! holds is sealed into segments; then each new shard gets a directory with one full checkpoint. All of
//! that is synced before the file `layout` is replaced, so a crash leaves the old layout or the new
//! one, whole; and the old log files stay until every new shard was recovered
//! ([`collect_garbage`](super::collect_garbage)).
//!
//! In memory at once: the log of one old shard, and the topics and block places of all, which is less
//! than serving them takes.

use super::{GENERATION_MAX, Layout, disk, make_shard_dirs, write_layout};
use crate::checkpoint::{self, CheckpointError, CheckpointHead, Dedup, Edit, TopicState};
use crate::disk::Io;
use crate::ids::{Lsn, Millis, SegmentId, TopicId};
use crate::limits::BLOCK_BYTES;
use crate::queue::StoredJob;
use crate::quota::Quota;
use crate::router::{LinkState, RouterDef};
use crate::segment::Run;
use crate::shard::recover::{RecoverError, recover};
use crate::shard::{Exported, owner_of, shard_dir};
use ahash::AHashMap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Number of the first log file of a shard with a past. Not 1: a log that begins with file 1 may do
/// without a checkpoint (I-95), this one never.
const FIRST_FILE: u64 = 2;
/// The shard that keeps the definitions of routers.
const REGISTRY: usize = 0;
/// The low bits of a segment's id, which count.
const COUNTER: u64 = (1 << 40) - 1;

/// What a new shard will hold.
#[derive(Default)]
struct Part {
    topics: Vec<TopicState>,
    runs: BTreeMap<SegmentId, Vec<Run>>,
    keys: Vec<Dedup>,
    routers: Vec<RouterDef>,
    links: Vec<LinkState>,
    jobs: Vec<(TopicId, Vec<StoredJob>)>,
}

/// Makes a layout of `shards` shards from `old` and switches to it.
pub(super) async fn reshard(
    io: &Io,
    old: &Layout,
    shards: u16,
    notes: &mut Vec<String>,
) -> Result<Layout, RecoverError> {
    let new = Layout { generation: old.generation + 1, shards, ..*old };
    if new.generation > GENERATION_MAX {
        let text =
            format!("the number of shards was changed {GENERATION_MAX} times and stays {}", old.shards);
        return Err(RecoverError::Foreign(text));
    }
    let mut parts: Vec<Part> = (0..shards).map(|_| Part::default()).collect();
    let mut file_bytes = BTreeMap::new();
    let mut at_ms = 0;
    for shard in 0..old.shards {
        // No time passes here: what is over is seen to be over by the new shard. Nor is anything counted.
        let (settings, quota) = (old.settings_of(shard), Arc::new(Quota::default()));
        let (recovered, report) = recover(io, settings, quota, Millis::MIN, |_| {}).await?;
        notes.extend(report.notes);
        let ids = new.generation << 48 | u64::from(shard) << 40;
        let mut exported = recovered.export(ids).await?;
        file_bytes.append(&mut exported.file_bytes);
        at_ms = at_ms.max(exported.at_ms);
        distribute(exported, &new, &mut parts);
    }
    let made = file_bytes.keys().filter(|id| id.0 >> 48 == new.generation);
    let next_segment = made.map(|id| (id.0 & COUNTER) + 1).max().unwrap_or(1);
    let mut holders: BTreeMap<SegmentId, u16> = BTreeMap::new();
    for id in parts.iter().flat_map(|part| part.runs.keys()) {
        *holders.entry(*id).or_default() += 1;
    }
    make_shard_dirs(io, &new).await?;
    for (shard, part) in parts.into_iter().enumerate() {
        let head = CheckpointHead {
            number: 1,
            base: None,
            shard: shard as u16,
            shards,
            layout: new.generation,
            log_start: Lsn(FIRST_FILE * new.file_bytes + BLOCK_BYTES as u64),
            next_block: 1,
            described_block: 0,
            epoch: 0,
            next_topic: 1,
            next_segment,
            clean: true,
            at_ms,
        };
        let segment = |id| Edit::AddSegment { id, file_bytes: file_bytes[&id], shared: holders[&id] > 1 };
        let runs = part.runs.into_iter().flat_map(|(id, runs)| {
            std::iter::once(segment(id)).chain(runs.into_iter().map(move |run| Edit::AddRun(id, run)))
        });
        let topics = part.topics.into_iter().map(Edit::Topic);
        let jobs = part.jobs.iter().flat_map(|(topic, jobs)| checkpoint::job_edits(*topic, jobs));
        let routers = part.routers.into_iter().map(Edit::Router);
        let edits =
            topics.chain(jobs).chain(runs).chain(part.keys.into_iter().map(Edit::Dedup)).chain(routers);
        let edits = edits.chain(part.links.into_iter().map(Edit::Link));
        let dir = shard_dir(new.generation, shard as u16);
        let written = checkpoint::write_checkpoint(io, &dir, &head, edits).await;
        written.map_err(|error| match error {
            CheckpointError::Disk { path, error } => disk(&path, error),
            error => RecoverError::Damage(error.to_string()),
        })?;
    }
    write_layout(io, &new).await?;
    Ok(new)
}

/// Gives each topic, with its runs, keys and links, to the shard that owns it in `new`; the registry of
/// routers to the first.
fn distribute(exported: Exported, new: &Layout, parts: &mut [Part]) {
    let mut homes: AHashMap<TopicId, usize> = AHashMap::new();
    for topic in exported.topics {
        let home = usize::from(owner_of(&topic.name, new.directory, new.shards));
        homes.insert(topic.id, home);
        parts[home].topics.push(topic);
    }
    for (id, run) in exported.runs {
        if let Some(home) = homes.get(&run.topic) {
            parts[*home].runs.entry(id).or_default().push(run);
        }
    }
    for (id, jobs) in exported.jobs {
        parts[homes[&id]].jobs.push((id, jobs));
    }
    for key in exported.keys {
        parts[homes[&key.topic]].keys.push(key);
    }
    // A router's place moves with the topic that holds its copies: both are in one log (I-60).
    for link in exported.links {
        if let Some(home) = homes.get(&link.dest) {
            parts[*home].links.push(link);
        }
    }
    parts[REGISTRY].routers.extend(exported.routers);
}
