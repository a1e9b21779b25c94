//! Looking up topics for the subscriptions of a WebSocket, at one owner after another.

use super::{Resolved, Service};
use crate::message::{Answer, Caller, Op, Origin};

/// Topics that are being looked up.
struct Resolving {
    origin: Origin,
    topics: Vec<Box<str>>,
    found: Resolved,
    /// Places of the topics that each core owns; those before `core` are looked up.
    places: Vec<Vec<usize>>,
    core: usize,
}

impl Service {
    /// Looks topics up; the answer, [`Answer::Resolved`] in their order or a refusal, comes later.
    pub(crate) fn resolve_topics(&mut self, caller: Caller, topics: Vec<Box<str>>) {
        let mut places = vec![Vec::new(); self.cores()];
        for (place, topic) in topics.iter().enumerate() {
            places[self.owner(topic)].push(place);
        }
        let found = vec![None; topics.len()];
        let origin = Origin { core: self.core, caller };
        self.resolve_on(Box::new(Resolving { origin, topics, found, places, core: 0 }));
    }

    fn resolve_on(&mut self, mut resolving: Box<Resolving>) {
        while resolving.places.get(resolving.core).is_some_and(Vec::is_empty) {
            resolving.core += 1;
        }
        let Some(places) = resolving.places.get(resolving.core) else {
            return self.answer(resolving.origin, Answer::Resolved(resolving.found));
        };
        let topics = places.iter().map(|place| resolving.topics[*place].clone()).collect();
        self.ask(resolving.core, Op::Resolve { topics }, move |service, answer| match answer {
            Answer::Resolved(found) => {
                let places = std::mem::take(&mut resolving.places[resolving.core]);
                for (place, found) in places.into_iter().zip(found) {
                    resolving.found[place] = found;
                }
                resolving.core += 1;
                service.resolve_on(resolving);
            }
            refusal => service.answer(resolving.origin, refusal),
        });
    }
}
