//! The part of the log that is still in memory: a mirror of the files, chunk by chunk. It is the
//! commit buffer and, until sealing, the one copy that readers are served from.

use super::frame::{RecordsEntry, split_entry};
use crate::ids::Lsn;
use crate::limits::CHUNK_BYTES;
use crate::mem::{Chunk, ChunkPages};
use std::collections::VecDeque;

/// Chunks of consecutive numbers (`lsn / CHUNK_BYTES`), oldest first.
pub struct Chunks {
    /// Number of the first chunk in `list`.
    base: u64,
    /// `None` where the log has no bytes: the rest of a file after a restart.
    list: VecDeque<Option<Chunk>>,
    /// Released chunks that nobody reads any more, for reuse.
    spare: Vec<Chunk>,
    /// Released chunks that a write or a job still holds.
    leaving: Vec<Chunk>,
    /// Chunks made since the last [`Chunks::take_fresh`].
    fresh: Vec<Chunk>,
    /// Chunks that were made only when they were needed.
    late: u64,
    limit: usize,
}

/// Once so much of the newest chunk is used, more follow soon.
const AHEAD_FROM: usize = CHUNK_BYTES / 8;
/// So many spare ones are enough at first. Each that came late makes it one more, up to the other number.
const AHEAD: usize = 2;
const AHEAD_MOST: usize = 8;

impl Chunks {
    /// No chunks yet; the first will have number `base`. `limit` bounds what is admitted.
    pub fn new(base: u64, limit: usize) -> Chunks {
        Chunks {
            base,
            list: VecDeque::new(),
            spare: Vec::new(),
            leaving: Vec::new(),
            fresh: Vec::new(),
            late: 0,
            limit,
        }
    }

    /// Number of the oldest chunk.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Number after the newest chunk.
    pub fn end(&self) -> u64 {
        self.base + self.list.len() as u64
    }

    /// Chunks held, including released ones that are still being read.
    pub fn held(&self) -> usize {
        self.list.iter().flatten().count() + self.leaving.len()
    }

    /// Whether a new batch may start. A batch that started may go beyond the limit, so memory is
    /// bounded by the limit plus the largest request body.
    pub fn has_room(&self) -> bool {
        self.held() < self.limit
    }

    /// Bound on chunks held.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The chunk of that number.
    pub fn get(&self, number: u64) -> Option<&Chunk> {
        self.list.get(number.checked_sub(self.base)? as usize)?.as_ref()
    }

    /// Adds an empty chunk behind the newest.
    pub fn push(&mut self) -> Chunk {
        let chunk = self.spare.pop().unwrap_or_else(|| {
            let chunk = Chunk::zeroed();
            self.fresh.push(chunk.clone());
            self.late += 1;
            chunk
        });
        self.list.push_back(Some(chunk.clone()));
        chunk
    }

    /// How many more chunks should be made aside, now that `used` bytes of the newest are taken: finding memory for
    /// one holds a core up for a time that can be seen in the latency of requests.
    pub fn wanted(&self, used: usize) -> usize {
        if used < AHEAD_FROM {
            return 0;
        }
        (AHEAD + self.late as usize).min(AHEAD_MOST).saturating_sub(self.spare.len())
    }

    /// Takes one that was made aside.
    pub fn add_spare(&mut self, pages: ChunkPages) {
        let chunk = Chunk::of(pages);
        self.fresh.push(chunk.clone());
        self.spare.push(chunk);
    }

    /// Chunks so far that were made only when they were needed.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Makes `number` the next one to be pushed; what lies between stays empty.
    pub fn skip_to(&mut self, number: u64) {
        assert!(number >= self.end());
        if self.list.is_empty() {
            self.base = number;
        }
        while self.end() < number {
            self.list.push_back(None);
        }
    }

    /// Gives up chunks from `number` on, in which recovery found nothing.
    pub fn truncate(&mut self, number: u64) {
        self.list.truncate(number.saturating_sub(self.base) as usize);
    }

    /// Chunks made since the last call, to be registered with the ring.
    pub fn take_fresh(&mut self) -> Vec<Chunk> {
        std::mem::take(&mut self.fresh)
    }

    /// Gives up chunks below `number`.
    pub fn release_below(&mut self, number: u64) {
        while self.base < number {
            let Some(chunk) = self.list.pop_front() else {
                self.base = number;
                break;
            };
            self.leaving.extend(chunk);
            self.base += 1;
        }
        self.collect();
    }

    /// Moves released chunks that nobody holds any more to the spare ones.
    pub fn collect(&mut self) {
        let mut at = 0;
        while at < self.leaving.len() {
            if self.leaving[at].is_unshared() {
                let mut chunk = self.leaving.swap_remove(at);
                if self.spare.len() < self.limit {
                    chunk.reset();
                    self.spare.push(chunk);
                }
            } else {
                at += 1;
            }
        }
    }

    /// The records entry at `lsn`, which the index points to.
    pub fn records(&self, lsn: Lsn) -> RecordsEntry<'_> {
        records_at(self.get(lsn.0 / CHUNK_BYTES as u64).expect("an indexed entry is in memory"), lsn)
    }
}

/// The records entry at `lsn` in its chunk. What is indexed was encoded here or checked by recovery.
pub fn records_at(chunk: &Chunk, lsn: Lsn) -> RecordsEntry<'_> {
    let bytes = chunk.bytes((lsn.0 % CHUNK_BYTES as u64) as usize, chunk.frozen());
    let (_, body, _) = split_entry(bytes).expect("an indexed entry is whole");
    RecordsEntry::decode(body).expect("an indexed entry is sound")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_made_aside_are_taken_first_and_late_ones_make_more_wanted() {
        let mut chunks = Chunks::new(0, 8);
        assert_eq!((chunks.wanted(AHEAD_FROM - 1), chunks.wanted(AHEAD_FROM)), (0, AHEAD));
        drop(chunks.push());
        assert_eq!((chunks.late(), chunks.take_fresh().len()), (1, 1));
        assert_eq!(chunks.wanted(CHUNK_BYTES), AHEAD + 1);
        for _ in 0..AHEAD + 1 {
            chunks.add_spare(ChunkPages::touched());
        }
        assert_eq!(
            (chunks.wanted(CHUNK_BYTES), chunks.take_fresh().len()),
            (0, AHEAD + 1),
            "to be registered"
        );
        let made = chunks.push();
        assert_eq!((chunks.late(), chunks.take_fresh().len(), chunks.wanted(CHUNK_BYTES)), (1, 0, 1));
        assert_eq!(made.as_ptr() as usize % CHUNK_BYTES, 0, "a huge page, if there is one");
        made.freeze(CHUNK_BYTES);
        assert!(made.bytes(0, CHUNK_BYTES).iter().all(|byte| *byte == 0));
        for _ in 0..100 {
            drop(chunks.push());
        }
        assert_eq!(chunks.wanted(CHUNK_BYTES), AHEAD_MOST);
    }
}
