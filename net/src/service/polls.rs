//! Long-polls (§5.2): reads that found nothing and wait for their topic, or their time.

use super::{Handled, Ran, Service};
use crate::fault::Fault;
use crate::json::control::DiffRequest;
use crate::limits::POLLS_MAX;
use crate::message::{Answer, DiffOp, Op, Origin};
use crate::timers::TimerId;
use runelog_engine::shard::{ReadOutcome, TopicRef};
use runelog_engine::wal::Wait;

/// A long-poll: a read that found nothing and waits for the topic (§5.2).
pub(super) struct Poll {
    origin: Origin,
    op: Box<DiffOp>,
    read: EmptyRead,
    timer: TimerId,
}

/// The first read of a long-poll, whose answer the timeout brings (D-22).
pub(super) struct EmptyRead {
    topic: TopicRef,
    head: u64,
    json: Vec<u8>,
    scanned: u64,
    /// When that answer may leave.
    wait: Wait,
}

impl Service {
    /// Puts a read down until news or its time.
    pub(super) fn park_poll(&mut self, origin: Origin, op: Box<DiffOp>, read: EmptyRead) -> Handled {
        if self.polls.len() >= POLLS_MAX {
            return self.deliver(origin, Answer::Fault(Box::new(Fault::throttled()), None));
        }
        let id = self.next_poll;
        self.next_poll += 1;
        let until_ms = self.steady_ms + u64::from(op.request.wait_ms);
        let timer = self.wheel.insert(until_ms, id);
        self.be_eager(&op.topic, until_ms);
        self.waiters.entry(read.topic).or_default().push(id);
        self.polls.insert(id, Poll { origin, op, read, timer });
        Handled::Later
    }

    /// Runs long-polls again whose topic got records (D-21).
    pub(super) fn wake_polls(&mut self) {
        let mut published = std::mem::take(&mut self.published);
        self.watchers.published(&published);
        self.works.published(&published);
        if !self.waiters.is_empty() {
            for topic in &published {
                for id in self.waiters.remove(topic).unwrap_or_default() {
                    self.wake_poll(id);
                }
            }
        }
        published.clear();
        // What the woken ones made.
        published.append(&mut self.published);
        self.published = published;
    }

    fn wake_poll(&mut self, id: u64) {
        let Some(poll) = self.polls.remove(&id) else { return };
        let Poll { origin, mut op, read: first, timer } = poll;
        if self.is_behind(&op.topic) {
            op.request.wait_ms = 0;
            self.wheel.cancel(timer);
            return self.later(origin, Ran::Settle(Op::Diff(op)));
        }
        let mut ran = self.run_diff(op);
        match ran {
            // The news were those that the first read had seen already: `ephemeral` records are
            // published at once, and told of a little later.
            Ran::Poll(op, again) if again.head == first.head => {
                self.waiters.entry(first.topic).or_default().push(id);
                self.polls.insert(id, Poll { origin, op, read: first, timer });
                return;
            }
            // Nothing for this reader; the second read answers all the same.
            Ran::Poll(_, again) => {
                let EmptyRead { json, scanned, wait, .. } = again;
                ran = Ran::Answer(Answer::Body { status: 200, json, scanned: Some(scanned) }, wait);
            }
            Ran::Load(Op::Diff(ref mut op), _) | Ran::Busy(Op::Diff(ref mut op)) => op.request.wait_ms = 0,
            _ => {}
        }
        self.wheel.cancel(timer);
        self.later(origin, ran);
    }

    pub(super) fn expire_polls(&mut self, steady_ms: u64) {
        while let Some(id) = self.wheel.next_due(steady_ms) {
            let Some(poll) = self.polls.remove(&id) else { continue };
            let Poll { origin, read: EmptyRead { topic, json, scanned, wait, .. }, .. } = poll;
            if let Some(waiters) = self.waiters.get_mut(&topic) {
                waiters.retain(|other| *other != id);
                if waiters.is_empty() {
                    self.waiters.remove(&topic);
                }
            }
            let answer = Answer::Body { status: 200, json, scanned: Some(scanned) };
            self.later(origin, Ran::Answer(answer, wait));
        }
    }

    /// Long-polls that wait here.
    pub(crate) fn poll_count(&self) -> usize {
        self.polls.len()
    }
}

/// D-20.
pub(super) fn waits(request: &DiffRequest, outcome: &ReadOutcome) -> bool {
    request.wait_ms > 0 && outcome.caught_up() && outcome.delivered == 0 && outcome.tombstone.is_none()
}

pub(super) fn empty_read(outcome: &ReadOutcome, json: Vec<u8>) -> EmptyRead {
    EmptyRead {
        topic: outcome.topic,
        head: outcome.head_seq,
        json,
        scanned: outcome.examined,
        wait: outcome.wait,
    }
}
