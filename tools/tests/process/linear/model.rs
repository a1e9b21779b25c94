//! One topic, as the contract has it: one operation after another, each whole.
//! Lives here: head, live records, floor, keys, and what a kill may take. Leases are in [`super::jobs`].
//!
//! Time is not ordered here. A claim says at what time it was made; of any other operation only the clocks at
//! its ends are known, and whether a lease was over is decided for every moment between.

use std::collections::{BTreeMap, VecDeque};

use super::checker::Model;
use super::history::{Answer, Ask, Op, Record};
use super::jobs::Jobs;

/// Recovery may skip so many seqs (I-58).
const RESERVED_MAX: u64 = 1024;

/// A topic's settings, as far as they matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) class: &'static str,
    pub(crate) queue: bool,
    pub(crate) leases_durable: bool,
    pub(crate) cap: Cap,
}

/// What a number of records leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cap {
    None,
    /// The oldest go.
    Old(u64),
    /// The write is refused.
    Reject(u64),
}

impl Settings {
    /// As a body of `PUT`.
    pub(crate) fn json(&self) -> String {
        let kind = if self.queue { "queue" } else { "log" };
        let (cap, discard) = match self.cap {
            Cap::None => (0, "old"),
            Cap::Old(cap) => (cap, "old"),
            Cap::Reject(cap) => (cap, "reject"),
        };
        format!(
            "{{\"type\":\"{kind}\",\"durability\":\"{}\",\"leases_durable\":{},\"cap_records\":{cap},\
             \"discard\":\"{discard}\",\"idempotency_window_ms\":86400000}}",
            self.class, self.leases_durable
        )
    }
}

/// The topic after some operations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Topic {
    head: u64,
    floor: u64,
    live: BTreeMap<u64, Record>,
    /// Seqs that were given to records, live or deleted, above the floor: what a cap counts (CF-11, I-33).
    window: VecDeque<u64>,
    /// What the first write with a key was answered (U-3).
    keys: BTreeMap<u64, (u64, u64, u64)>,
    jobs: Jobs,
}

impl Topic {
    fn earliest(&self) -> u64 {
        self.live.keys().next().copied().unwrap_or(self.head + 1)
    }

    fn count(&self) -> u64 {
        self.live.len() as u64
    }

    fn append(&mut self, ask: (u64, u64, u8, Option<u64>), cap: Cap) -> Answer {
        let (write, count, tag, key) = ask;
        if let Some((first, last, head)) = key.and_then(|key| self.keys.get(&key)).copied() {
            return Answer::Appended { first, last, head, deduped: true };
        }
        if matches!(cap, Cap::Reject(cap) if self.count() + count > cap) {
            return Answer::Full { head: self.head, earliest: self.earliest() };
        }
        let first = self.head + 1;
        for index in 0..count {
            self.head += 1;
            self.live.insert(self.head, Record { data: write + index, tag });
            self.window.push_back(self.head);
        }
        if let Cap::Old(cap) = cap {
            while self.window.len() as u64 > cap {
                self.floor = self.window.pop_front().expect("not empty");
                self.live.remove(&self.floor);
            }
        }
        let head = self.head;
        key.map(|key| self.keys.insert(key, (first, head, head)));
        Answer::Appended { first, last: head, head, deduped: false }
    }

    fn read(&self, from: u64, limit: u64) -> Answer {
        let (head, earliest) = (self.head, self.earliest());
        let mut gap = (from < self.floor).then_some((from + 1, self.floor));
        let mut at = from;
        if from > head {
            (gap, at) = (Some((1, head)), 0);
        }
        let after = self.live.range(at + 1..).map(|(seq, record)| (*seq, *record));
        let records: Vec<_> = after.take(limit as usize).collect();
        let next = match records.last() {
            Some((last, _)) if records.len() as u64 == limit => *last,
            _ => head,
        };
        Answer::Read { records, next, head, earliest, gap }
    }

    /// Deletes up to `through`, the head at which it was ordered.
    fn delete(&mut self, before: Option<u64>, tag: Option<u8>, through: u64) -> Answer {
        let selected = |seq: u64, record: Record| {
            seq <= through
                && before.is_none_or(|before| seq < before)
                && tag.is_none_or(|tag| record.tag == tag)
        };
        let had = self.count();
        let jobs = &mut self.jobs;
        self.live.retain(|seq, record| {
            let gone = selected(*seq, *record);
            if gone {
                jobs.deleted(*seq);
            }
            !gone
        });
        let (head, earliest, count) = (self.head, self.earliest(), self.count());
        Answer::Deleted { deleted: had - count, head, earliest, count }
    }
}

impl Model for Settings {
    type State = Topic;
    type Op = Op;

    fn start(&self) -> Topic {
        Topic::default()
    }

    fn after(&self, state: &Topic, op: &Op) -> Vec<Topic> {
        let mut next = state.clone();
        let answer = match op.ask {
            Ask::Append { write, count, tag, key } => next.append((write, count, tag, key), self.cap),
            Ask::Read { from, limit, .. } => next.read(from, limit),
            Ask::Delete { before, tag } => {
                let outcome = |through| {
                    let mut next = state.clone();
                    let answer = next.delete(before, tag, through);
                    op.answer.as_ref().is_none_or(|seen| *seen == answer).then_some(next)
                };
                let heads = op.beside.head_before.min(state.head)..=state.head;
                let mut outcomes: Vec<_> = heads.filter_map(outcome).collect();
                outcomes.dedup();
                return outcomes;
            }
            Ask::State => {
                let (head, earliest, count) = (next.head, next.earliest(), next.count());
                let queue = match &op.answer {
                    Some(Answer::State { queue: Some(counts), .. }) if self.queue => {
                        if !next.jobs.may_count(op, &next.live, *counts) {
                            return Vec::new();
                        }
                        Some(*counts)
                    }
                    _ => None,
                };
                Answer::State { head, earliest, count, queue }
            }
            Ask::Claim { .. } | Ask::Ack { .. } | Ask::Nack { .. } | Ask::Extend { .. } => {
                let outcomes = state.jobs.after(op, &state.live);
                let whole = |(jobs, acked): (Jobs, Vec<u64>)| {
                    let mut next = Topic { jobs, ..state.clone() };
                    next.live.retain(|seq, _| !acked.contains(seq));
                    next
                };
                return outcomes.into_iter().map(whole).collect();
            }
            Ask::Crash => {
                let Some(Answer::Recovered { head }) = op.answer else { return Vec::new() };
                if head < state.head || head > state.head + RESERVED_MAX {
                    return Vec::new();
                }
                next.head = head;
                let jobs = next.jobs.crashed(self.leases_durable);
                return jobs.into_iter().map(|jobs| Topic { jobs, ..next.clone() }).collect();
            }
        };
        match &op.answer {
            Some(seen) if *seen != answer => Vec::new(),
            _ => vec![next],
        }
    }

    fn is_read(&self, op: &Op) -> bool {
        match (&op.ask, &op.answer) {
            (Ask::Read { .. } | Ask::State, _) => true,
            (_, Some(Answer::Full { .. } | Answer::Appended { deduped: true, .. })) => true,
            (_, Some(Answer::Claimed { jobs, .. })) => jobs.is_empty(),
            (Ask::Ack { jobs, .. } | Ask::Nack { jobs, .. }, Some(Answer::Settled { skipped, .. }))
            | (Ask::Extend { jobs, .. }, Some(Answer::Extended { skipped, .. })) => {
                skipped.len() == jobs.len()
            }
            _ => false,
        }
    }

    fn unanswered(&self, op: &Op) -> Op {
        match op.ask {
            // Of a recovery nothing but its head is known, and it is no operation that may not have been.
            Ask::Crash => op.clone(),
            _ => Op { answer: None, ..op.clone() },
        }
    }
}
