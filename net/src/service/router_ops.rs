//! The steps of routers' requests and of forwarding, each at the core that owns what it is about.

use super::{Ran, Service, refused};
use crate::message::{Answer, Op};
use crate::routers::message::{Arrived, ForwardOp, FoundTopic, NotForwarded, RouterAnswer, RouterOp};
use runelog_engine::config::TopicConfig;
use runelog_engine::error::{EngineError, No};
use runelog_engine::ids::RouterId;
use runelog_engine::router::RouterDef;
use runelog_engine::shard::ForwardRequest;
use runelog_engine::wal::Wait;

impl Service {
    pub(super) fn run_router(&mut self, op: RouterOp) -> Ran {
        match op {
            RouterOp::FindTopic { topic, create } => self.find_or_create(topic, create),
            RouterOp::UndoTopic { topic, id } => {
                let is_same = self.shard.find(topic.as_bytes()).0.is_some_and(|found| found.id == id);
                if !is_same {
                    return done(Wait::default());
                }
                match self.shard.drop_topic(topic.as_bytes(), true, self.now) {
                    Ok((_, wait)) => done(wait),
                    // Somebody writes to it already: it stays.
                    Err(No::Refused(EngineError::NotEmpty { .. }, wait)) => done(wait),
                    Err(no) => refused(no, &topic.clone(), || Op::Router(RouterOp::UndoTopic { topic, id })),
                }
            }
            RouterOp::Store(def) => self.store(def),
            RouterOp::Forget(routers) => match self.shard.drop_routers(&routers) {
                Ok(wait) => done(wait),
                Err(no) => refused(no, "", || Op::Router(RouterOp::Forget(routers))),
            },
            RouterOp::OpenLink { router, dest, start } => match self.shard.open_link(router, dest, start) {
                Ok(link) => {
                    let (position, forwarded_total, epoch) =
                        (link.position, link.forwarded_total, link.epoch);
                    answer(RouterAnswer::Linked { position, forwarded_total, epoch }, link.wait)
                }
                Err(no) => refused(no, "", || Op::Router(RouterOp::OpenLink { router, dest, start })),
            },
            RouterOp::LogPosition(router) => match self.shard.log_position(router) {
                Ok(wait) => done(wait),
                Err(no) => refused(no, "", || Op::Router(RouterOp::LogPosition(router))),
            },
            RouterOp::CloseLink(router) => {
                self.shard.close_link(router);
                done(Wait::default())
            }
            RouterOp::Install(route) => {
                self.routing.graph.insert(route.clone());
                if route.source_core == self.core {
                    self.routing.pumps.install(route, &self.shard, self.steady_ms);
                }
                done(Wait::default())
            }
            RouterOp::Remove(router) => {
                self.remove_route(router);
                done(Wait::default())
            }
            RouterOp::Pause(router) => self.task(move |service, origin| service.pause(router, origin)),
            RouterOp::Advance(router) => self.task(move |service, origin| service.advance(router, origin)),
            // It was settled on the way here.
            RouterOp::Settle(_) => done(Wait::default()),
            RouterOp::Forward(op) => self.run_forward(op),
        }
    }

    fn task(&self, begin: impl FnOnce(&mut Service, crate::message::Origin) + 'static) -> Ran {
        Ran::Task(Box::new(begin))
    }

    fn find_or_create(&mut self, topic: Box<str>, create: bool) -> Ran {
        let (found, mut wait) = self.shard.find(topic.as_bytes());
        let mut created = false;
        if found.is_none() && create {
            match self.shard.put(topic.as_bytes(), TopicConfig::default(), self.now) {
                Ok((made, committed)) => (created, wait) = (made, committed),
                Err(no) => {
                    return refused(no, &topic.clone(), || Op::Router(RouterOp::FindTopic { topic, create }));
                }
            }
        }
        let found = self.shard.find(topic.as_bytes()).0.and_then(|found| {
            let head = self.shard.peek(found)?.totals.head;
            Some(FoundTopic { id: found.id, head, created })
        });
        answer(RouterAnswer::Topic(found), wait)
    }

    fn store(&mut self, mut def: Box<RouterDef>) -> Ran {
        if def.id == RouterId(0) {
            def.id = self.shard.next_router_id();
        }
        match self.shard.put_router((*def).clone()) {
            Ok(wait) => answer(RouterAnswer::Stored(def.id), wait),
            Err(no) => refused(no, "", || Op::Router(RouterOp::Store(def))),
        }
    }

    fn run_forward(&mut self, op: Box<ForwardOp>) -> Ran {
        let ForwardOp { router, dest, copies } = &*op;
        let request = ForwardRequest {
            router: *router,
            dest: *dest,
            from: copies.from,
            through: &copies.through,
            end: copies.end,
            vacant: copies.vacant,
            hops: copies.hops,
            batch: copies.batch(),
        };
        match self.shard.forward(&request, self.now) {
            Ok(forwarded) => {
                let arrived = Arrived {
                    position: forwarded.position,
                    forwarded_total: forwarded.forwarded_total,
                    taken: forwarded.taken,
                    full: forwarded.full,
                };
                answer(RouterAnswer::Forwarded(Ok(arrived)), forwarded.wait)
            }
            Err(No::Refused(EngineError::LinkMoved { position }, wait)) => {
                answer(RouterAnswer::Forwarded(Err(NotForwarded::Moved(position))), wait)
            }
            Err(No::Refused(EngineError::LinkMissing | EngineError::TopicMissing, wait)) => {
                answer(RouterAnswer::Forwarded(Err(NotForwarded::Gone)), wait)
            }
            Err(no) => refused(no, "", || Op::Router(RouterOp::Forward(op))),
        }
    }
}

fn answer(answer: RouterAnswer, wait: Wait) -> Ran {
    Ran::Answer(Answer::Router(answer), wait)
}

fn done(wait: Wait) -> Ran {
    answer(RouterAnswer::Done, wait)
}
