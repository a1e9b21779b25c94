//! Sealed data on its way into memory: blocks for readers, evictions and deletes, lists of tags for
//! deletes. Each block is a job of its own, so that those of one operation are read at the same time.

use super::delete::TagMatch;
use super::seal::JobDone;
use super::{LoadId, Shard};
use crate::cache::BlockKey;
use crate::index::{TagRun, Wanted};
use crate::segment::{self, CachedBlock};

impl Shard {
    /// Loads sealed blocks for an operation that ended in [`No::Load`](crate::error::No::Load); the
    /// result comes with [`Shard::take_loaded`].
    pub fn load(&mut self, wanted: Wanted) -> LoadId {
        let id = LoadId(self.next_load);
        self.next_load += 1;
        let blocks = match wanted {
            Wanted::Blocks(blocks) => blocks,
            Wanted::Tags(run, matcher) => {
                self.load_tags(id, run, matcher);
                return id;
            }
        };
        assert!(!blocks.is_empty(), "a load is of something");
        self.loading.insert(id, (blocks.len(), None));
        // Each block is a job, so that they are read at the same time.
        for (index, block) in blocks.into_iter().enumerate() {
            let (io, files) = (self.io.clone(), self.files.clone());
            self.jobs.add(async move {
                let result = match files.get(&io, block.segment).await {
                    Err(error) => Err(format!("{}: {error}", segment::path(block.segment))),
                    Ok(lease) => {
                        segment::read_block(&io, lease.file(), block.segment, block.topic, &block.meta)
                            .await
                            .map_err(|error| error.to_string())
                    }
                };
                JobDone::Loaded { id, first: index == 0, key: block.key(), result: result.map(Box::new) }
            });
        }
        id
    }

    /// Asks a list of tags which seqs match.
    fn load_tags(&mut self, id: LoadId, run: TagRun, matcher: TagMatch) {
        let (io, files) = (self.io.clone(), self.files.clone());
        self.jobs.add(async move {
            let result = async {
                let path = segment::path(run.segment);
                let lease = files.get(&io, run.segment).await.map_err(|error| format!("{path}: {error}"))?;
                let section = segment::read_tags(&io, lease.file(), run.segment, run.topic, &run.place).await;
                let section = section.map_err(|error| error.to_string())?;
                let seqs = match &matcher {
                    TagMatch::Eq(tag) => section.tags_eq(tag),
                    TagMatch::Prefix(prefix) => section.tags_prefix(prefix),
                };
                seqs.map_err(|error| format!("{path}: {error}"))
            };
            let result = result.await;
            JobDone::TagsFound { id, run, result }
        });
    }

    /// A block of a load came. Only the first block is needed for sure; the others are read ahead, and
    /// one that is damaged must not keep a reader from those before it (I-98).
    pub(super) fn on_loaded(
        &mut self,
        id: LoadId,
        first: bool,
        key: BlockKey,
        result: Result<Box<CachedBlock>, String>,
    ) {
        let (left, failed) = self.loading.get_mut(&id).expect("a load under way");
        *left -= 1;
        match result {
            Ok(block) => drop(self.cache.borrow_mut().insert(key, *block)),
            Err(why) if first => *failed = Some(why),
            Err(_) => {}
        }
        if *left == 0 {
            let (_, failed) = self.loading.remove(&id).expect("just seen");
            self.loaded.push((id, failed.map_or(Ok(()), Err)));
        }
    }
}
