//! What connections of this core ask: run here, or sent to the owner of the topic.
//! Lives here: the borrowed path of appends and reads, carriers for those that travel. Not here: what
//! becomes of an operation that has to wait ([`super`]).

use super::polls::{empty_read, waits};
use super::{Handled, REGISTRY_CORE, Ran, Service, refused};
use crate::fault::Fault;
use crate::handlers::{diff, fault_of};
use crate::json::control::DiffRequest;
use crate::message::{Answer, AppendAnswer, AppendOp, Caller, DiffOp, Message, Op, Origin};
use crate::routers::message::RegistryOp;
use runelog_engine::config::Class;
use runelog_engine::error::No;
use runelog_engine::shard::{AppendRequest, Appended};
use std::time::Instant;

impl Service {
    /// Runs an append on behalf of a local connection, here or at its owner. The batch is borrowed:
    /// on the usual path nothing is copied but the records into the log.
    /// `if_created` refuses it where it would create the topic.
    pub(crate) fn append(
        &mut self,
        caller: Caller,
        topic: &str,
        request: &AppendRequest<'_>,
        if_created: Option<Box<Fault>>,
    ) -> Handled {
        let owner = self.owner(topic);
        if owner != self.core || if_created.is_some() {
            let mut op = self.carry(topic, request);
            op.if_created = if_created;
            return self.operate(caller, topic, Op::Append(op));
        }
        let since = Instant::now();
        let origin = Origin { core: self.core, caller };
        match self.shard.append(request, self.now) {
            Ok(outcome) => {
                self.routing.pumps.on_append(request.batch.body.len());
                let answer = append_answer(&outcome, since);
                self.finish(origin, Answer::Append(answer, None), outcome.wait)
            }
            Err(No::Refused(error, wait)) => {
                let fault = Box::new(fault_of(&error, topic));
                self.finish(origin, Answer::Fault(fault, None), wait)
            }
            Err(No::Busy) => {
                let op = Op::Append(self.carry(topic, request));
                self.put_down(origin, Ran::Busy(op))
            }
            Err(No::Load(blocks)) => {
                let op = Op::Append(self.carry(topic, request));
                self.put_down(origin, Ran::Load(op, blocks))
            }
        }
    }

    /// An append that owns its bytes, in a used carrier if there is one.
    fn carry(&mut self, topic: &str, request: &AppendRequest<'_>) -> Box<AppendOp> {
        let mut op = self.carriers.pop().unwrap_or_default();
        op.topic.clear();
        op.topic.push_str(topic);
        op.body.clear();
        op.body.extend_from_slice(request.batch.body);
        op.side.clear();
        op.side.extend_from_slice(request.batch.side);
        op.records.clear();
        op.records.extend_from_slice(request.batch.records);
        op.key = request.key.map(<[u8]>::to_vec);
        op.create = request.create;
        op.config = request.config.map(|config| Box::new(config.clone()));
        op.if_created = None;
        op
    }

    /// Keeps a carrier for the next append that needs one.
    pub(crate) fn reuse(&mut self, carrier: Option<Box<AppendOp>>) {
        let kept = self.carriers.len() < 64;
        self.carriers.extend(carrier.filter(|carrier| kept && carrier.body.capacity() <= 256 << 10));
    }

    /// Reads on behalf of a local connection. Where the owner is this core and nothing has to wait, the
    /// object is rendered into `out`, and the records scanned are returned.
    pub(crate) fn diff(
        &mut self,
        caller: Caller,
        topic: &str,
        request: DiffRequest,
        out: &mut Vec<u8>,
    ) -> Result<u64, Handled> {
        let owner = self.owner(topic);
        let boxed = |request| Box::new(DiffOp { topic: topic.into(), request });
        if owner != self.core {
            return Err(self.forward(caller, owner, Op::Diff(boxed(request))));
        }
        let origin = Origin { core: self.core, caller };
        if self.is_behind(topic) {
            return Err(self.put_down(origin, Ran::Settle(Op::Diff(boxed(request)))));
        }
        let start = out.len();
        match diff::render(&mut self.shard, topic, &request, self.now, out) {
            Ok(outcome) => {
                let waits = waits(&request, &outcome);
                if !waits && outcome.wait <= self.shard.committed() {
                    return Ok(outcome.examined);
                }
                let json = out.split_off(start);
                let ran = match waits {
                    true => Ran::Poll(boxed(request), empty_read(&outcome, json)),
                    false => Ran::Answer(
                        Answer::Body { status: 200, json, scanned: Some(outcome.examined) },
                        outcome.wait,
                    ),
                };
                Err(self.put_down(origin, ran))
            }
            Err(no) => {
                let ran = refused(no, topic, || Op::Diff(boxed(request)));
                Err(self.put_down(origin, ran))
            }
        }
    }

    /// Runs an operation on behalf of a local connection, here or at its owner.
    pub(crate) fn operate(&mut self, caller: Caller, topic: &str, op: Op) -> Handled {
        self.operate_at(caller, self.owner(topic), op)
    }

    /// Runs a request about routers, or one that may take routers with it.
    pub(crate) fn operate_registry(&mut self, caller: Caller, op: RegistryOp) -> Handled {
        self.operate_at(caller, REGISTRY_CORE, Op::Registry(Box::new(op)))
    }

    fn operate_at(&mut self, caller: Caller, owner: usize, op: Op) -> Handled {
        match owner == self.core {
            true => {
                let ran = self.run(op);
                self.put_down(Origin { core: self.core, caller }, ran)
            }
            false => self.forward(caller, owner, op),
        }
    }

    /// Sends an operation to every core, this one included; the answers come one by one.
    pub(crate) fn operate_everywhere(&mut self, caller: Caller, make: impl Fn() -> Op) {
        for core in 0..self.cores() {
            if core == self.core {
                let ran = self.run(make());
                if let Handled::Now(answer) = self.put_down(Origin { core, caller }, ran) {
                    self.hand_out(caller, answer);
                }
            } else {
                // A part of a whole: it waits in the outbox rather than failing the rest.
                self.outbox.push_back((core, Message::Request { caller, op: make() }));
            }
        }
    }

    pub(super) fn forward(&mut self, caller: Caller, owner: usize, op: Op) -> Handled {
        self.counters.forwarded += 1;
        match self.mesh.try_send(owner, Message::Request { caller, op }) {
            Ok(()) => Handled::Later,
            Err(_) => {
                self.counters.mesh_full += 1;
                Handled::Now(Answer::Fault(Box::new(Fault::throttled()), None))
            }
        }
    }
}

pub(super) fn append_answer(outcome: &Appended, since: Instant) -> AppendAnswer {
    AppendAnswer {
        first_seq: outcome.first_seq,
        count: outcome.count,
        created: outcome.created,
        deduped: outcome.deduped,
        synced: outcome.class == Class::Fsync,
        append_ns: since.elapsed().as_nanos() as u64,
        commit_ns: 0,
    }
}
