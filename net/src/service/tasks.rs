//! Work of this core that goes on with answers from owners, its own shard among them.
//! Lives here: asking, and what is to be done with each answer. Not here: what such work is about.

use super::{Handled, Service};
use crate::limits::TASK_ANSWERS_PER_TURN_MAX;
use crate::message::{Answer, Caller, Message, Op, Origin};
use ahash::AHashMap;
use std::collections::VecDeque;

/// What goes on with an answer.
type Then = Box<dyn FnOnce(&mut Service, Answer)>;

/// What the service has asked and not heard yet.
#[derive(Default)]
pub(super) struct Tasks {
    next: u64,
    waiting: AHashMap<u64, Then>,
    answers: VecDeque<(u64, Answer)>,
}

impl Tasks {
    pub(super) fn answered(&mut self, id: u64, answer: Answer) {
        self.answers.push_back((id, answer));
    }

    pub(super) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl Service {
    /// Runs an operation on the shard of `core`; `then` gets its answer, in this turn or a later one,
    /// exactly once. Not for hot paths, and bounded by whoever begins the work: nothing is refused here.
    pub(crate) fn ask(&mut self, core: usize, op: Op, then: impl FnOnce(&mut Service, Answer) + 'static) {
        let id = self.tasks.next;
        self.tasks.next += 1;
        self.tasks.waiting.insert(id, Box::new(then));
        let caller = Caller::Task(id);
        if core != self.core {
            self.outbox.push_back((core, Message::Request { caller, op }));
            return;
        }
        let ran = self.run(op);
        if let Handled::Now(answer) = self.put_down(Origin { core, caller }, ran) {
            self.tasks.answered(id, answer);
        }
    }

    /// Answers who asked for something that spans cores.
    pub(crate) fn answer(&mut self, origin: Origin, answer: Answer) {
        self.deliver_later(origin, answer);
    }

    /// Goes on with what was answered.
    pub(super) fn run_tasks(&mut self) {
        for _ in 0..TASK_ANSWERS_PER_TURN_MAX {
            let Some((id, answer)) = self.tasks.answers.pop_front() else { break };
            let then = self.tasks.waiting.remove(&id).expect("each is answered once");
            then(self, answer);
        }
    }
}
