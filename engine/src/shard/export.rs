//! A recovered shard taken apart: all it knows, as a checkpoint would say it. For a change of the number
//! of shards, where its topics get new homes.

use super::Shard;
use super::recover::RecoverError;
use crate::checkpoint::{self, CheckpointError, Dedup, TopicState};
use crate::ids::{Millis, SegmentId, TopicId};
use crate::queue::StoredJob;
use crate::router::{LinkState, RouterDef};
use crate::sabotage::{self, Bug};
use crate::segment::{self, Run, SegmentError, SegmentMeta};
use crate::topic::Remembered;
use std::collections::BTreeMap;

/// What a shard held.
#[derive(Clone, Debug, Default)]
pub struct Exported {
    /// Its topics.
    pub topics: Vec<TopicState>,
    /// Idempotency keys; some may be over.
    pub keys: Vec<Dedup>,
    /// The routers it kept the definitions of.
    pub routers: Vec<RouterDef>,
    /// How far routers have come that copy into its topics.
    pub links: Vec<LinkState>,
    /// What jobs of queues with durable leases are doing.
    pub jobs: Vec<(TopicId, Vec<StoredJob>)>,
    /// Where the records are.
    pub runs: Vec<(SegmentId, Run)>,
    /// Bytes of the files of those.
    pub file_bytes: BTreeMap<SegmentId, u64>,
    /// When its last checkpoint was written, 0 if none was.
    pub at_ms: Millis,
}

impl Shard {
    /// Seals what only the log holds into new segments, whose ids have `ids` as their high bits, and
    /// tells everything. The shard's own directory is not changed. Of a shard that was just recovered.
    pub async fn export(mut self, ids: u64) -> Result<Exported, RecoverError> {
        assert!(self.jobs.is_empty() && !self.log.is_busy(), "nothing has happened since recovery");
        let mut exported = Exported::default();
        // From the checkpoint, not from the index: that one forgets tag sections.
        let dir = self.settings.dir();
        let loaded = match checkpoint::load(&self.io, &dir).await {
            Ok(loaded) => loaded,
            Err(CheckpointError::NoneValid { .. }) => None, // recovery saw that the log alone is enough
            Err(CheckpointError::Disk { path, error }) => return Err(RecoverError::Disk { path, error }),
        };
        let number = loaded.as_ref().and_then(|loaded| loaded.chain.last().copied()).unwrap_or(0);
        if number != self.sealing.checkpoint {
            // A read that failed once has kept recovery from it: this shard is of another state.
            return Err(RecoverError::Damage(format!(
                "{dir}: checkpoint {number} could not be read a moment ago, and can be now: start again"
            )));
        }
        exported.at_ms = loaded.as_ref().map_or(0, |loaded| loaded.head.at_ms);
        for (segment, run) in loaded.into_iter().flat_map(|loaded| loaded.runs) {
            let Some(slot) = self.by_id.get(&run.topic) else { continue };
            let dead = self.topic(*slot).earliest() - 1;
            if run.blocks.last().is_some_and(|block| block.last_seq > dead) {
                exported.file_bytes.insert(segment, self.sealing.segments[&segment].file_bytes);
                exported.runs.push((segment, run));
            }
        }
        for SegmentMeta { id, file_bytes, runs } in self.seal_everything(ids).await.map_err(not_sealed)? {
            if sabotage::is(Bug::ReshardForgetsLog) {
                break;
            }
            exported.file_bytes.insert(id, file_bytes);
            exported.runs.extend(runs.into_iter().map(|run| (id, run)));
        }
        for slot in 0..self.topics.len() as u32 {
            let Some(topic) = &self.topics[slot as usize] else { continue };
            for (key_hash, found) in topic.dedup.iter().flat_map(|dedup| dedup.all()) {
                let Remembered { first_seq, count, ts, .. } = found;
                exported.keys.push(Dedup { topic: topic.id, key_hash, first_seq, count, ts });
            }
            exported.jobs.push((topic.id, self.describe_jobs(slot)));
            exported.topics.push(self.describe(slot));
        }
        exported.routers.extend(self.routers().cloned());
        exported.links.extend(self.links.states());
        Ok(exported)
    }
}

fn not_sealed(error: SegmentError) -> RecoverError {
    match error {
        SegmentError::Disk { file, error } => RecoverError::Disk { path: file, error },
        error => RecoverError::Damage(format!("{}: {error}", segment::DIR)),
    }
}
