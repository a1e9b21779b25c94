//! Finding the jobs that a claim hands out: first those that came back, then those that were never
//! delivered. Nothing is changed here, so that a claim that must load blocks first is asked again.

use super::Job;
use crate::error::No;
use crate::event::Record;
use crate::ids::Seq;
use crate::index::{SealedBlock, Source, Wanted};
use crate::limits::{DEAD_LETTERS_AT_ONCE, QUEUE_KNOWN_MAX};
use crate::queue::{Grant, LeaseToken, Queue, Terms};
use crate::shard::Shard;
use crate::topic::Topic;
use std::collections::VecDeque;

/// Records and holes looked at by one claim at most.
const EXAMINED_MAX: u64 = 65_536;
/// Sealed blocks loaded beyond the one that a claim needs.
const READAHEAD_BLOCKS: usize = 4;

impl Shard {
    /// Returned jobs that a claim of `wanted` would hand out, into `seqs`; those among them that were
    /// delivered `limit` times are told apart. Without `divert` those are passed over: jobs behind
    /// them must not wait for a dead-letter topic that takes none.
    pub(super) fn returned_jobs(
        &self,
        slot: u32,
        wanted: u64,
        limit: u64,
        divert: bool,
        seqs: &mut Vec<Seq>,
    ) -> Vec<Seq> {
        let mut dead = Vec::new();
        let queue = self.topic(slot).queue.as_ref().expect("a queue");
        for (seq, deliveries) in queue.returned().take(EXAMINED_MAX as usize) {
            if seqs.len() as u64 == wanted || dead.len() == DEAD_LETTERS_AT_ONCE {
                break;
            }
            match u64::from(deliveries) >= limit {
                true if divert => dead.push(seq),
                true => {}
                false => seqs.push(seq),
            }
        }
        dead
    }

    /// Picks and shows jobs; changes nothing.
    pub(super) fn pick(
        &self,
        slot: u32,
        returned: &[Seq],
        pass: &mut Pass,
        terms: &[Terms],
        visit: &mut impl FnMut(usize, &Job<'_>),
    ) -> Result<(), No> {
        let topic = self.topic(slot);
        let queue = topic.queue.as_ref().expect("a queue");
        let mut room = Room { left: self.cache.borrow().working_set_bytes(), last: None, wanted: Vec::new() };
        let mut crowded = false;
        for seq in returned {
            if pass.is_full() {
                break;
            }
            let deliveries = queue.deliveries(*seq);
            let mut offer = |record: &Record<'_>, volatile| {
                // Once a block is missing nothing is handed out: it is only found out what else is.
                pass.offer(record, volatile, deliveries, terms, visit)
            };
            let source = topic.index.at_or_after(*seq).expect("a live job has a record");
            match source {
                Source::Hot(frame) => {
                    let entry = topic.index.entry(frame, &self.log.chunks);
                    let record = entry.records_from(*seq).next().expect("an entry reaches its last seq");
                    offer(&record.expect("entries in memory are sound"), source.is_heap());
                }
                Source::Sealed(block) => {
                    if !room.take(block) {
                        crowded = true;
                        break;
                    }
                    let Some(found) = self.cache.borrow_mut().get(&block.key()) else {
                        room.wanted.push(block.clone());
                        continue;
                    };
                    let record = found.records_from(*seq).next().expect("a block reaches its last seq");
                    offer(&record.map_err(|error| self.unreadable(block, &error.to_string()))?, false);
                }
            }
        }
        room.wanted.dedup();
        if !room.wanted.is_empty() {
            return Err(No::Load(Wanted::Blocks(room.wanted)));
        }
        match crowded {
            true => Ok(()),
            false => self.pick_fresh(topic, queue, pass, &mut room, terms, visit),
        }
    }

    /// Picks jobs that were never delivered, in seq order.
    fn pick_fresh(
        &self,
        topic: &Topic,
        queue: &Queue,
        pass: &mut Pass,
        room: &mut Room,
        terms: &[Terms],
        visit: &mut impl FnMut(usize, &Job<'_>),
    ) -> Result<(), No> {
        let head = topic.visible().head;
        let mut at = pass.fresh.max(topic.ordered.floor() + 1);
        let leaving = topic.deleting.iter().any(|ranges| ranges.last().is_some_and(|(_, last)| *last >= at));
        let mut known = queue.known();
        // Only after a recovery can a job that was never delivered lie below one that was: it waits for
        // the next claim, so that entries ascend.
        let above = pass.grants.last().map_or(0, |grant| grant.seq);
        let mut examined = 0;
        while at <= head && !pass.is_full() {
            examined += 1;
            if examined > EXAMINED_MAX {
                break;
            }
            pass.fresh = at;
            if let Some((_, last)) = topic.deleted.covering(at) {
                at = last + 1;
                continue;
            }
            let source = topic.index.at_or_after(at).filter(|source| source.range().0 <= head);
            let Some(source) = source else {
                at = head + 1; // only vacant seqs are left
                break;
            };
            let last = source.range().1.min(head);
            // Whether the walk goes on.
            let mut give = |record: &Record<'_>, at: &mut Seq, pass: &mut Pass| {
                if record.seq > head || pass.is_full() || known >= QUEUE_KNOWN_MAX {
                    return false;
                }
                examined += 1;
                let gone = topic.deleted.contains(record.seq)
                    || leaving && topic.is_deleted_in_order(record.seq)
                    || record.seq <= queue.recovered_through && queue.knows(record.seq);
                if !gone && record.seq < above {
                    return false;
                }
                *at = record.seq + 1;
                if !gone {
                    pass.offer(record, source.is_heap(), 0, terms, visit);
                    known += 1;
                }
                true
            };
            let mut whole = true;
            match source {
                Source::Hot(frame) => {
                    let entry = topic.index.entry(frame, &self.log.chunks);
                    for record in entry.records_from(at) {
                        whole &= give(&record.expect("entries in memory are sound"), &mut at, pass);
                        if !whole {
                            break;
                        }
                    }
                }
                Source::Sealed(block) => {
                    if !room.take(block) && !pass.grants.is_empty() {
                        break;
                    }
                    let Some(found) = self.cache.borrow_mut().get(&block.key()) else {
                        pass.fresh = at;
                        return Err(No::Load(Wanted::Blocks(room.ahead(topic, at))));
                    };
                    for record in found.records_from(at) {
                        let record = record.map_err(|error| self.unreadable(block, &error.to_string()))?;
                        whole &= give(&record, &mut at, pass);
                        if !whole {
                            break;
                        }
                    }
                }
            }
            if !whole {
                break;
            }
            at = last + 1;
        }
        pass.fresh = at;
        Ok(())
    }
}

/// Picking jobs: what was found, and whose turn it is.
pub(super) struct Pass {
    pub(super) next_token: u128,
    pub(super) grants: Vec<Grant>,
    /// Claimers that want more, and how much; the first is next.
    pub(super) turns: VecDeque<(u32, u32)>,
    /// What may still be handed out.
    pub(super) bytes_left: u64,
    /// The queue's, once this is done.
    pub(super) fresh: Seq,
}

impl Pass {
    pub(super) fn is_full(&self) -> bool {
        self.bytes_left == 0 || self.turns.is_empty()
    }

    /// Gives the job to the next claimer that wants one.
    fn offer(
        &mut self,
        record: &Record<'_>,
        volatile: bool,
        deliveries: u32,
        terms: &[Terms],
        visit: &mut impl FnMut(usize, &Job<'_>),
    ) {
        let (left, claimer) = self.turns.pop_front().expect("somebody wants more");
        if left > 1 {
            self.turns.push_back((left - 1, claimer));
        }
        self.bytes_left = self.bytes_left.saturating_sub(record.counted_bytes());
        let token = LeaseToken(self.next_token);
        self.next_token += 1;
        let bytes = record.counted_bytes() as u32;
        self.grants.push(Grant { seq: record.seq, bytes, volatile, token, claimer });
        let claimer = claimer as usize;
        let (deadline, deliveries) = (terms[claimer].at - 1, deliveries.saturating_add(1));
        visit(claimer, &Job { record, token, deadline, deliveries });
    }
}

/// What a claim may still load. What it passed must stay in the cache until it is done, or it would
/// load in circles; so it hands out what there is.
struct Room {
    left: u64,
    last: Option<crate::cache::BlockKey>,
    wanted: Vec<SealedBlock>,
}

impl Room {
    fn take(&mut self, block: &SealedBlock) -> bool {
        if self.last == Some(block.key()) {
            return true;
        }
        let bytes = u64::from(block.meta.bytes);
        let fits = bytes <= self.left || self.last.is_none();
        if fits {
            self.last = Some(block.key());
            self.left = self.left.saturating_sub(bytes);
        }
        fits
    }

    /// The block at `at` and a few that follow it.
    fn ahead(&mut self, topic: &Topic, at: Seq) -> Vec<SealedBlock> {
        let mut blocks: Vec<SealedBlock> = Vec::new();
        for block in topic.index.sealed_from(at).take(1 + READAHEAD_BLOCKS) {
            if !blocks.is_empty() && !self.take(block) {
                break;
            }
            blocks.push(block.clone());
        }
        blocks
    }
}
