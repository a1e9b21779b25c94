//! Copies: what a router brings into its dest, and what it reads from its source.
//!
//! [`Shard::forward`] is an append by a router: caps, age and quota are those of the dest, the
//! copies become durable as its class asks, and the router's new position is in the same batch of the log:
//! they survive together, or not at all (I-60, I-62). What the source lost before its turn becomes vacant
//! seqs before the copies, a *trim* (R-36, I-68).

use super::topics::append_room;
use super::{Effect, ReadRequest, Shard, TopicRef};
use crate::config::{Class, Discard};
use crate::error::{EngineError, No};
use crate::event::{Batch, Record, RecordSpan};
use crate::ids::{Millis, RouterId, Seq, TopicId};
use crate::limits::{META_BYTES_MAX, NODE_BYTES_MAX, RECORD_BYTES_MAX, TAG_BYTES_MAX};
use crate::sabotage::{self, Bug};
use crate::topic::Topic;
use crate::wal::Wait;
use crate::wal::frame::{Kind, PieceOf};

/// What a router brings.
#[derive(Clone, Copy)]
pub struct ForwardRequest<'a> {
    /// Which router.
    pub router: RouterId,
    /// The instance of its dest.
    pub dest: TopicId,
    /// Where the router stood when the source was read.
    pub from: Seq,
    /// For each record the position behind it: seqs of the source, ascending.
    pub through: &'a [Seq],
    /// The position behind all that was read, records that are not copied included.
    pub end: Seq,
    /// Records that the source lost above `from`: vacant seqs before the first copy.
    pub vacant: u64,
    /// Hops of the copies; at least 1.
    pub hops: u8,
    /// The copies; none if only the position moves.
    pub batch: Batch<'a>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// The dest.
    pub topic: TopicRef,
    /// Where the router stands now.
    pub position: Seq,
    /// Records taken, from the front.
    pub taken: u32,
    /// Copies and vacancies so far.
    pub forwarded_total: u64,
    /// Not all was taken: the dest is full, or the quota is used up. The rest is tried again when there
    /// may be room.
    pub full: bool,
    /// When an answer that shows the copies may leave.
    pub wait: Wait,
}

/// What a router reads of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PumpRead {
    /// The last seq looked at: the position behind what was visited.
    pub next: Seq,
    /// Head of the source.
    pub head: Seq,
    /// Records lost above `from` before their turn. Seqs that never held a record are not counted.
    pub lost: u64,
}

impl Shard {
    /// Appends copies and moves the router's position, or what of both fits.
    ///
    /// Refused are a router without a link ([`EngineError::LinkMissing`]), one that stands elsewhere
    /// ([`EngineError::LinkMoved`]), a dest that is gone ([`EngineError::TopicMissing`]), and what no copy
    /// can be ([`EngineError::RouterInvalid`]). A refusal has changed nothing.
    pub fn forward(&mut self, request: &ForwardRequest<'_>, now: Millis) -> Result<Forwarded, No> {
        let (mut link, logged) = self.held_link(request.router)?;
        if link.dest != request.dest {
            return Err(EngineError::TopicMissing.into());
        }
        let slot = self.slot_of_link(&link)?;
        if link.position != request.from {
            return Err(EngineError::LinkMoved { position: link.position }.into());
        }
        let records = request.batch.records;
        let head = request.last_seq(self.topic(slot).ordered.head)?;
        let expiry = self.expire(slot, now)?;
        let topic = self.topic(slot);
        let id = topic.id;
        let mut taken = fitting(topic, records);
        if topic.config.class == Class::Ephemeral && self.check_heap(&topic.config).is_err() {
            taken = 0;
        }
        let nothing = |position, full, wait| Forwarded {
            topic: TopicRef { slot, id },
            position,
            taken: 0,
            forwarded_total: link.forwarded_total,
            full,
            wait,
        };
        if taken == 0 && !records.is_empty() {
            // Vacancies wait with the records behind them: a stalled router would add to them each time.
            return Ok(nothing(request.from, true, expiry));
        }
        if records.is_empty() && request.vacant == 0 {
            let moved = self.mark_position(request.router, request.from, request.end)?;
            return Ok(nothing(moved.position, false, moved.wait.max(expiry)));
        }
        let mut eviction = match self.plan_eviction(topic, request.vacant, &records[..taken]) {
            Ok(eviction) => eviction,
            Err(blocked) => return Err(self.keep_plan(slot, blocked)),
        };
        self.may_write(append_room(request.batch.body.len()))?;
        let (within, bytes) = self.take_quota(&records[..taken]);
        if within < taken {
            if within == 0 {
                return Ok(nothing(request.from, true, expiry));
            }
            taken = within;
            eviction = match self.plan_eviction(self.topic(slot), request.vacant, &records[..taken]) {
                Ok(eviction) => eviction,
                Err(blocked) => {
                    self.quota.give_bytes(bytes);
                    return Err(self.keep_plan(slot, blocked));
                }
            };
        }
        // Nothing can be refused any more.
        let full = taken < records.len();
        link.position = if full { request.through[taken - 1] } else { request.end };
        link.forwarded_total += request.vacant + taken as u64;
        let last_seq = head - (records.len() - taken) as u64;
        let batch = Batch { records: &records[..taken], ..request.batch };
        let topic = self.topic(slot);
        let (class, control_block) = (topic.config.class, topic.control_block);
        let first_seq = topic.ordered.head + request.vacant + 1;
        let to = PieceOf {
            topic: id,
            batch_first_seq: first_seq,
            ts: now,
            key: None,
            hops: request.hops.max(1),
            last: true,
        };
        let mut is_logged = true;
        let block = if class == Class::Ephemeral {
            // The copies are gone after a restart; whether the position says so is a matter of work saved.
            is_logged = self.logs_position(logged, link.position);
            let floor = eviction.filter(|gone| gone.logged_count > 0);
            if is_logged {
                self.log_link(&link, floor.is_none(), false);
            }
            if let Some(gone) = floor {
                self.log_floor(slot, gone, true, false);
            }
            if !batch.records.is_empty() {
                self.write_heap(slot, &batch, &to);
            }
            if is_logged || floor.is_some() { self.log.entry_block() } else { control_block }
        } else {
            if !sabotage::is(Bug::PlaceUnlogged) {
                self.log_link(&link, false, false);
            }
            let reserving = self.reserve(slot, last_seq);
            if let Some(gone) = eviction {
                self.log_floor(slot, gone, false, false);
            }
            let sync = class == Class::Fsync || reserving;
            if request.vacant > 0 {
                self.log_trim(id, first_seq - request.vacant, first_seq - 1, taken == 0, sync);
            }
            if !batch.records.is_empty() {
                self.write_log(slot, &batch, &to, sync);
            }
            self.log.entry_block()
        };
        let topic = self.topic_mut(slot);
        if request.vacant > 0 {
            topic.vacant.insert(first_seq - request.vacant, first_seq - 1);
            if !sabotage::is(Bug::TrimUntold) {
                topic.trims.insert(first_seq - request.vacant, first_seq - 1);
            }
        }
        topic.ordered.head = last_seq;
        topic.ordered.count += taken as u64;
        topic.ordered.bytes += bytes;
        topic.last_write_ts = Some(now);
        self.order_link(slot, link, block, is_logged);
        let mut wait =
            self.enqueue(slot, id, block, Effect::Appended { last_seq, count: taken as u64, bytes });
        if let Some(gone) = eviction {
            wait = wait.max(self.order_eviction(slot, gone, block));
        }
        Ok(Forwarded {
            topic: TopicRef { slot, id },
            position: link.position,
            taken: taken as u32,
            forwarded_total: link.forwarded_total,
            full,
            wait: Wait(wait.max(control_block)),
        })
    }

    /// Reads what a router has not seen yet: live records above `from`, up to `records` of them and about
    /// `bytes` (J-23), but always one. Nobody has consumed anything by that. After [`No::Load`] what
    /// `visit` made is void.
    pub fn pump_read(
        &mut self,
        source: TopicRef,
        from: Seq,
        records: u32,
        bytes: u64,
        now: Millis,
        visit: impl FnMut(&Record<'_>),
    ) -> Result<PumpRead, No> {
        let slot = source.slot;
        let is_there = self.topics.get(slot as usize).and_then(Option::as_ref);
        if is_there.is_none_or(|topic| topic.id != source.id) {
            return Err(EngineError::TopicMissing.into());
        }
        self.expire(slot, now)?;
        let topic = self.topic(slot);
        let visible = topic.visible();
        let (head, floor) = (visible.head, visible.floor());
        if from >= head {
            return Ok(PumpRead { next: from, head, lost: 0 });
        }
        let gone = floor.saturating_sub(from);
        let lost = gone - topic.vacant.count_within(from + 1, floor).min(gone);
        let request =
            ReadRequest { from_seq: from, limit: records.max(1), max_bytes: bytes, skip_node: None };
        let outcome = self.scan(slot, &request, false, visit)?;
        Ok(PumpRead { next: outcome.next_from_seq, head, lost })
    }

    /// What of a topic's head survived the last start: a router's position above it is of records that are
    /// gone (I-66). `Seq::MAX` for topics made since.
    pub fn recovered_head(&self, topic: TopicRef) -> Option<Seq> {
        let found = self.topics.get(topic.slot as usize)?.as_ref()?;
        (found.id == topic.id).then_some(found.recovered_head)
    }

    /// The topic of that id, if it is one of this shard's.
    pub fn find_id(&self, id: TopicId) -> Option<TopicRef> {
        self.by_id.get(&id).map(|slot| TopicRef { slot: *slot, id })
    }

    /// Takes quota for as many records as it holds, from the front.
    fn take_quota(&self, records: &[RecordSpan]) -> (usize, u64) {
        let mut taken = records.len();
        let mut bytes: u64 = records.iter().map(RecordSpan::counted_bytes).sum();
        while taken > 0 && !self.quota.take_bytes(bytes) {
            let room = self.quota.max_bytes().saturating_sub(self.quota.bytes());
            // At least one less, so that this ends although others take room meanwhile.
            loop {
                taken -= 1;
                bytes -= records[taken].counted_bytes();
                if taken == 0 || bytes <= room {
                    break;
                }
            }
        }
        (taken, bytes)
    }

    /// Logs vacant seqs of a source trim. Body: topic, first, last.
    fn log_trim(&mut self, id: TopicId, first: Seq, last: Seq, last_entry: bool, sync: bool) {
        let mut body = [0; 24];
        for (at, number) in [id.0, first, last].into_iter().enumerate() {
            body[at * 8..at * 8 + 8].copy_from_slice(&number.to_le_bytes());
        }
        self.log.put_entry(Kind::Trim, &body, last_entry, sync);
    }
}

impl ForwardRequest<'_> {
    /// The dest's head if all of it is taken, after a look at its shape.
    fn last_seq(&self, head: Seq) -> Result<Seq, No> {
        let records = self.batch.records;
        let ascending =
            self.through.iter().try_fold(self.from, |before, seq| (*seq > before).then_some(*seq));
        if self.through.len() != records.len() || ascending.is_none_or(|last| self.end < last) {
            return Err(EngineError::RouterInvalid("positions do not fit the records").into());
        }
        let storable = records.iter().all(|record| {
            record.data.is_present()
                && record.counted_bytes() <= RECORD_BYTES_MAX as u64
                && record.meta.len() <= META_BYTES_MAX
                && record.tag.len() <= TAG_BYTES_MAX
                && record.node.len() <= NODE_BYTES_MAX
        });
        if !storable {
            return Err(EngineError::RouterInvalid("a copy is larger than a record may be").into());
        }
        let last_seq = head.checked_add(self.vacant).and_then(|seq| seq.checked_add(records.len() as u64));
        // Room is left above for what is reserved, and for a long life.
        last_seq
            .filter(|seq| *seq < u64::MAX / 2)
            .ok_or_else(|| EngineError::RouterInvalid("more vacant seqs than there are").into())
    }
}

/// How many records a topic takes, from the front: all, unless it is a `reject` topic.
fn fitting(topic: &Topic, records: &[RecordSpan]) -> usize {
    let config = &topic.config;
    if config.discard != Discard::Reject {
        return records.len();
    }
    let (mut count, mut bytes) = (topic.ordered.count, topic.ordered.bytes);
    let fits = |record: &&RecordSpan| {
        count += 1;
        bytes += record.counted_bytes();
        (config.cap_records == 0 || count <= config.cap_records)
            && (config.cap_bytes == 0 || bytes <= config.cap_bytes)
    };
    records.iter().take_while(fits).count()
}
