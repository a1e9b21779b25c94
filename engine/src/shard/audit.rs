//! A recovered shard read from end to end as its readers would: for whoever judges a data directory.
//! Lives here: which records a read cannot get, and whether what a topic says of itself (its count, its
//! bytes, its head) is what a full read finds. Not here: files that no read needs (`verify`).

use super::Shard;
use super::read::ReadRequest;
use crate::error::No;
use crate::event::Record;
use crate::ids::{SegmentId, TopicId};
use crate::index::{SealedBlock, TagRun, Wanted};
use crate::segment;
use crate::topic::Topic;

/// Records and bytes of one read: bounds what a walk that has to begin again repeats.
const STEP_RECORDS: u32 = 10_000;
const STEP_BYTES: u64 = 4 << 20;

/// Something that a reader would meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditFault {
    /// Stored bytes that do not hold, or cannot be had: a read of these seqs fails (I-98).
    Unreadable {
        /// The file.
        segment: SegmentId,
        /// Where in it.
        offset: u64,
        /// Whose records.
        topic: TopicId,
        /// First seq at risk.
        first_seq: u64,
        /// Last seq at risk.
        last_seq: u64,
        /// A list of tags: reads succeed, deletes by tag fail.
        is_tag_list: bool,
        /// In words.
        why: String,
    },
    /// A topic that is not what it says of itself.
    Numbers {
        /// Which topic.
        topic: TopicId,
        /// In words.
        why: String,
    },
}

impl AuditFault {
    /// Takes in the fault that follows, if it is the same one again: a file that cannot be opened has it
    /// for each of its blocks.
    pub fn absorb(&mut self, next: &AuditFault) -> bool {
        match (self, next) {
            (
                AuditFault::Unreadable { segment, topic, last_seq, is_tag_list, why, .. },
                AuditFault::Unreadable {
                    segment: next_segment,
                    topic: next_topic,
                    last_seq: next_last,
                    is_tag_list: next_is_list,
                    why: next_why,
                    ..
                },
            ) if (&*segment, &*topic, &*is_tag_list, &*why)
                == (next_segment, next_topic, next_is_list, next_why) =>
            {
                *last_seq = *next_last;
                true
            }
            _ => false,
        }
    }
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audited {
    /// Topics.
    pub topics: u64,
    /// Live records that could be read.
    pub records: u64,
    /// Their bytes (J-23).
    pub bytes: u64,
}

/// The sums of a walk over one topic.
#[derive(Clone, Copy, Default)]
struct Tally {
    count: u64,
    bytes: u64,
    /// The seq that comes next if nothing is missing.
    next: u64,
    /// A seq that is neither live, nor deleted, nor vacant.
    hole: Option<u64>,
    /// A part of it could not be read.
    is_partial: bool,
}

impl Tally {
    fn take(&mut self, topic: &Topic, record: &Record<'_>) {
        self.pass(topic, record.seq);
        self.next = record.seq + 1;
        self.count += 1;
        self.bytes += record.counted_bytes();
    }

    /// Goes on to `seq`: what lies before it must be deleted or vacant.
    fn pass(&mut self, topic: &Topic, seq: u64) {
        while self.next < seq {
            let hole = topic.deleted.covering(self.next).or_else(|| topic.vacant.covering(self.next));
            match hole {
                Some((_, last)) => self.next = last + 1,
                None => {
                    self.hole.get_or_insert(self.next);
                    self.next = seq;
                }
            }
        }
    }
}

impl Shard {
    /// Reads every topic whole. Of a shard that was just recovered; nothing of it changes.
    pub async fn audit(&self, mut tell: impl FnMut(AuditFault)) -> Audited {
        let mut audited = Audited::default();
        for slot in 0..self.topics.len() as u32 {
            let Some(topic) = &self.topics[slot as usize] else { continue };
            let tally = self.walk_topic(slot, topic, &mut tell).await;
            audited.topics += 1;
            audited.records += tally.count;
            audited.bytes += tally.bytes;
            for list in topic.index.tag_lists() {
                if let Err(why) = self.read_tag_list(list).await {
                    let TagRun { topic, segment, place } = *list;
                    let (first_seq, last_seq) = (place.first_seq, place.last_seq);
                    let (offset, is_tag_list) = (place.offset, true);
                    let unreadable = AuditFault::Unreadable {
                        segment,
                        offset,
                        topic,
                        first_seq,
                        last_seq,
                        is_tag_list,
                        why,
                    };
                    tell(unreadable);
                }
            }
        }
        audited
    }

    async fn walk_topic(&self, slot: u32, topic: &Topic, tell: &mut impl FnMut(AuditFault)) -> Tally {
        let visible = topic.visible();
        let mut at = visible.floor();
        let mut tally = Tally { next: at + 1, ..Tally::default() };
        while at < visible.head {
            let request =
                ReadRequest { from_seq: at, limit: STEP_RECORDS, max_bytes: STEP_BYTES, skip_node: None };
            let mut step = tally;
            match self.scan(slot, &request, false, |record| step.take(topic, record)) {
                Ok(outcome) => {
                    assert!(outcome.next_from_seq > at, "a read gets on");
                    (tally, at) = (step, outcome.next_from_seq);
                }
                Err(No::Load(Wanted::Blocks(blocks))) => {
                    for (index, block) in blocks.iter().enumerate() {
                        match self.read_sealed(block).await {
                            Ok(()) => {}
                            // What was read ahead is asked for again when it is needed.
                            Err(_) if index > 0 => break,
                            Err(why) => {
                                tally.is_partial = true;
                                at = at.max(block.meta.last_seq);
                                tell(AuditFault::Unreadable {
                                    segment: block.segment,
                                    offset: block.meta.offset,
                                    topic: topic.id,
                                    first_seq: block.meta.first_seq,
                                    last_seq: block.meta.last_seq,
                                    is_tag_list: false,
                                    why,
                                });
                                break;
                            }
                        }
                    }
                }
                Err(no) => {
                    let why = format!("seqs above {at} cannot be read: {no:?}");
                    tell(AuditFault::Numbers { topic: topic.id, why });
                    return tally;
                }
            }
        }
        if tally.is_partial {
            return tally; // the sums are of a part
        }
        tally.pass(topic, visible.head + 1);
        let mut wrong = |why: String| tell(AuditFault::Numbers { topic: topic.id, why });
        if let Some(seq) = tally.hole {
            wrong(format!("seq {seq} is neither stored nor deleted nor vacant"));
        }
        if (tally.count, tally.bytes) != (visible.count, visible.bytes) {
            wrong(format!(
                "it says it has {} records of {} bytes, and has {} of {}",
                visible.count, visible.bytes, tally.count, tally.bytes
            ));
        }
        if let Some(beyond) = topic.index.at_or_after(visible.head + 1) {
            wrong(format!("its head is {}, and there are seqs up to {}", visible.head, beyond.range().1));
        }
        tally
    }

    /// Brings a block into the cache.
    async fn read_sealed(&self, block: &SealedBlock) -> Result<(), String> {
        let lease = self.files.get(&self.io, block.segment).await;
        let lease = lease.map_err(|error| format!("{}: {error}", segment::path(block.segment)))?;
        let read = segment::read_block(&self.io, lease.file(), block.segment, block.topic, &block.meta).await;
        let read = read.map_err(|error| error.to_string())?;
        self.cache.borrow_mut().insert(block.key(), read);
        Ok(())
    }

    async fn read_tag_list(&self, list: &TagRun) -> Result<(), String> {
        let path = segment::path(list.segment);
        let lease =
            self.files.get(&self.io, list.segment).await.map_err(|error| format!("{path}: {error}"))?;
        let read = segment::read_tags(&self.io, lease.file(), list.segment, list.topic, &list.place).await;
        let section = read.map_err(|error| error.to_string())?;
        section.check().map_err(|error| format!("{path}: {error}"))
    }
}
