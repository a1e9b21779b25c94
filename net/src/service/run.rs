//! Running one operation on this core's shard: what each comes to, nothing about what then waits.

use super::entry::append_answer;
use super::polls::{empty_read, waits};
use super::{Ran, Service, refused};
use crate::handlers::{diff, fault_of, topics};
use crate::message::{Answer, AppendOp, DeleteOp, DiffOp, ListEntry, Op};
use crate::metrics::ShardReport;
use crate::routers::message::RouterAnswer;
use runelog_engine::error::{EngineError, No};
use runelog_engine::event::Batch;
use runelog_engine::shard::AppendRequest;
use runelog_engine::wal::Wait;
use std::time::Instant;

impl Service {
    /// Runs an operation on this core's shard as it is.
    pub(super) fn run_here(&mut self, op: Op) -> Ran {
        let now = self.now;
        match op {
            Op::Append(op) => self.run_append(op),
            Op::RefuseAppend { topic, if_created, otherwise } => {
                let (found, wait) = self.shard.find(topic.as_bytes());
                let fault = if found.is_none() { if_created } else { otherwise };
                Ran::Answer(Answer::Fault(fault, None), wait)
            }
            Op::Diff(op) => self.run_diff(op),
            Op::Delete(op) => self.run_delete(op),
            Op::CheckQueue { topic } => match self.shard.queue_config(topic.as_bytes()) {
                Ok(_) => Ran::Answer(Answer::Queue, self.shard.find(topic.as_bytes()).1),
                Err(no) => refused(no, &topic.clone(), || Op::CheckQueue { topic }),
            },
            Op::Claim(op) => self.run_claim(op),
            Op::Settle(op) => self.run_settle(op),
            Op::DeadLetter { topic, name, seq } => self.run_dead_letter(topic, name, seq),
            Op::DeadLettersDone { topic, seqs } => self.run_dead_letters_done(topic, seqs),
            Op::PutTopic { topic, config } => {
                match self.shard.put(topic.as_bytes(), (*config).clone(), now) {
                    Ok((created, wait)) => {
                        let mut json = Vec::with_capacity(640);
                        topics::render_put(&mut json, &topic, &config, created);
                        let status = if created { 201 } else { 200 };
                        Ran::Answer(Answer::Body { status, json, scanned: None }, wait)
                    }
                    Err(no) => refused(no, &topic.clone(), || Op::PutTopic { topic, config }),
                }
            }
            Op::GetTopic { topic, touch } => match self.shard.state(topic.as_bytes(), touch, now) {
                Ok((view, wait)) => {
                    let mut json = Vec::with_capacity(1024);
                    topics::render_state(&mut json, &view, now);
                    Ran::Answer(Answer::Body { status: 200, json, scanned: None }, wait)
                }
                Err(no) => refused(no, &topic.clone(), || Op::GetTopic { topic, touch }),
            },
            Op::DropTopic { topic, if_empty } => {
                let (instance, _) = self.shard.find(topic.as_bytes());
                match self.shard.drop_topic(topic.as_bytes(), if_empty, now) {
                    Ok((deleted, wait)) => {
                        if let Some(instance) = instance {
                            self.watchers.dropped(instance, wait);
                            self.works.touch(instance);
                        }
                        Ran::Answer(Answer::Router(RouterAnswer::Dropped(deleted)), wait)
                    }
                    Err(no) => refused(no, &topic.clone(), || Op::DropTopic { topic, if_empty }),
                }
            }
            Op::List(op) => {
                let mut entries = Vec::new();
                let after = op.after.as_deref();
                let mut wait = Wait::default();
                for prefix in &op.prefixes {
                    let limit = op.limit - entries.len();
                    let result = self.shard.list(prefix, after, limit, op.touch, now, |view| {
                        let mut json = Vec::with_capacity(160);
                        topics::render_entry(&mut json, &view, now);
                        entries.push(ListEntry { name: view.name.into(), json });
                    });
                    match result {
                        Ok(listed) => wait = wait.max(listed),
                        Err(no) => return refused(no, "", || Op::List(op)),
                    }
                }
                Ran::Answer(Answer::ListPart(entries), wait)
            }
            Op::Resolve { topics } => {
                let (mut found, mut wait) = (Vec::with_capacity(topics.len()), Wait::default());
                for topic in &topics {
                    let (numbers, rests_on) = match self.shard.state(topic.as_bytes(), false, now) {
                        Ok((view, rests_on)) => (Some((view.totals.head, view.earliest)), rests_on),
                        Err(No::Refused(EngineError::TopicMissing, rests_on)) => (None, rests_on),
                        Err(no) => return refused(no, &topic.clone(), || Op::Resolve { topics }),
                    };
                    found.push(numbers);
                    wait = wait.max(rests_on);
                }
                Ran::Answer(Answer::Resolved(found), wait)
            }
            Op::OpenSession { wid, access } => Ran::Answer(self.find_session(wid, &access), Wait::default()),
            Op::Report => {
                self.shard.notice_queues(now);
                let (mesh, routers) = (self.mesh.counters(), self.routing.report());
                let report = ShardReport::take(&mut self.shard, &self.counters, mesh, &self.caps, routers);
                Ran::Answer(Answer::ReportPart(Box::new(report)), Wait::default())
            }
            Op::Registry(op) => self.run_registry(*op),
            Op::Router(op) => self.run_router(op),
        }
    }

    fn run_append(&mut self, mut op: Box<AppendOp>) -> Ran {
        if op.if_created.is_some()
            && let (None, wait) = self.shard.find(op.topic.as_bytes())
        {
            let fault = op.if_created.take().expect("just seen");
            return Ran::Answer(Answer::Fault(fault, Some(op)), wait);
        }
        let since = Instant::now();
        let request = AppendRequest {
            topic: op.topic.as_bytes(),
            batch: Batch { body: &op.body, side: &op.side, records: &op.records },
            key: op.key.as_deref(),
            create: op.create,
            config: op.config.as_deref(),
        };
        match self.shard.append(&request, self.now) {
            Ok(outcome) => {
                self.routing.pumps.on_append(op.body.len());
                let answer = append_answer(&outcome, since);
                Ran::Answer(Answer::Append(answer, Some(op)), outcome.wait)
            }
            Err(No::Refused(error, wait)) => {
                let fault = Box::new(fault_of(&error, &op.topic));
                Ran::Answer(Answer::Fault(fault, Some(op)), wait)
            }
            Err(No::Busy) => Ran::Busy(Op::Append(op)),
            Err(No::Load(blocks)) => Ran::Load(Op::Append(op), blocks),
        }
    }

    pub(super) fn run_diff(&mut self, op: Box<DiffOp>) -> Ran {
        let mut json = Vec::with_capacity(512);
        match diff::render(&mut self.shard, &op.topic, &op.request, self.now, &mut json) {
            Ok(outcome) => {
                let scanned = Some(outcome.examined);
                match waits(&op.request, &outcome) {
                    true => Ran::Poll(op, empty_read(&outcome, json)),
                    false => Ran::Answer(Answer::Body { status: 200, json, scanned }, outcome.wait),
                }
            }
            Err(no) => refused(no, &op.topic.clone(), || Op::Diff(op)),
        }
    }

    fn run_delete(&mut self, mut op: Box<DeleteOp>) -> Ran {
        if op.deletion.is_none() {
            match self.shard.delete_start(op.topic.as_bytes(), &op.request, self.now) {
                Ok(deletion) => op.deletion = Some(deletion),
                Err(no) => return refused(no, &op.topic.clone(), || Op::Delete(op)),
            }
        }
        let deletion = op.deletion.as_mut().expect("just set");
        match self.shard.delete_step(deletion) {
            Ok(Some(outcome)) => {
                if let (Some(topic), _) = self.shard.find(op.topic.as_bytes()) {
                    self.works.touch(topic); // a stream that held a deleted job has room
                }
                let mut json = Vec::with_capacity(192);
                topics::render_deleted(&mut json, &op.topic, &outcome);
                Ran::Answer(Answer::Body { status: 200, json, scanned: None }, outcome.wait)
            }
            Ok(None) => Ran::More(Op::Delete(op)),
            Err(No::Refused(error, wait)) => {
                self.shard.delete_abandon(deletion);
                Ran::Answer(Answer::Fault(Box::new(fault_of(&error, &op.topic)), None), wait)
            }
            Err(No::Load(blocks)) => Ran::Load(Op::Delete(op), blocks),
            Err(No::Busy) => Ran::Busy(Op::Delete(op)),
        }
    }
}
