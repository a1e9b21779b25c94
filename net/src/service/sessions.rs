//! Watch sessions (§8.1): made by the core that was asked, kept by the home core of their names, found
//! there when a stream opens.
//! Lives here: creating, keeping, finding, reclaiming. Not here: what a stream does (`streams`).

use super::Service;
use crate::auth::Access;
use crate::caps::Hold;
use crate::fault::Fault;
use crate::http::json_out::{write_str, write_u64};
use crate::json::watch::{Start, WatchRequest};
use crate::limits::SESSION_IDLE_MS;
use crate::message::{Answer, Caller, Op, Origin};
use crate::streams::Opening;
use crate::streams::session::{Session, SessionTopic, Wid};
use crate::sys::random_u64;
use crate::timers::Wheel;
use ahash::AHashMap;
use std::sync::Arc;

struct Kept {
    session: Arc<Session>,
    _hold: Hold,
}

/// The sessions whose home this core is.
pub(super) struct Sessions {
    by_wid: AHashMap<Wid, Kept>,
    /// When to look at one again: each has one entry.
    checks: Wheel<Wid>,
}

/// What owners say of the topics of a session: head and earliest seq, if there is one.
pub(crate) type Resolved = Vec<Option<(u64, u64)>>;

/// A session being made: its topics are looked up at one owner after another.
struct Creating {
    origin: Origin,
    request: WatchRequest,
    access: Access,
    lenient: bool,
    /// Head and earliest seq, by the order of the request's topics.
    found: Resolved,
    /// Places of the topics that each core owns; those before `core` are looked up.
    places: Vec<Vec<usize>>,
    core: usize,
}

impl Sessions {
    pub(super) fn new(steady_ms: u64) -> Sessions {
        Sessions { by_wid: AHashMap::new(), checks: Wheel::new(steady_ms) }
    }

    fn keep(&mut self, wid: Wid, session: Arc<Session>, hold: Hold, steady_ms: u64) {
        self.by_wid.insert(wid, Kept { session, _hold: hold });
        self.checks.insert(steady_ms + SESSION_IDLE_MS, wid);
    }

    /// S-6: sooner than asked for, which nobody can tell from a session that was reclaimed in time.
    fn reclaim(&mut self, steady_ms: u64) {
        while let Some(wid) = self.checks.next_due(steady_ms) {
            let Some(kept) = self.by_wid.get(&wid) else { continue };
            let left_ms = match kept.session.idle_ms(steady_ms) {
                Some(idle_ms) => SESSION_IDLE_MS.saturating_sub(idle_ms),
                None => SESSION_IDLE_MS,
            };
            match left_ms {
                0 => {
                    self.by_wid.remove(&wid);
                }
                _ => {
                    self.checks.insert(steady_ms + left_ms, wid);
                }
            }
        }
    }
}

impl Service {
    /// Makes a session; the answer comes later.
    pub(crate) fn create_session(
        &mut self,
        caller: Caller,
        request: WatchRequest,
        access: Access,
        lenient: bool,
    ) {
        let mut places = vec![Vec::new(); self.cores()];
        for (place, topic) in request.topics.keys().enumerate() {
            places[self.owner(topic)].push(place);
        }
        let found = vec![None; request.topics.len()];
        let origin = Origin { core: self.core, caller };
        let creating = Creating { origin, request, access, lenient, found, places, core: 0 };
        self.resolve(Box::new(creating));
    }

    fn resolve(&mut self, mut creating: Box<Creating>) {
        while creating.places.get(creating.core).is_some_and(Vec::is_empty) {
            creating.core += 1;
        }
        let Some(places) = creating.places.get(creating.core) else {
            let origin = creating.origin;
            let answer = match self.finish_session(*creating) {
                Ok(json) => Answer::Body { status: 200, json, scanned: None },
                Err(fault) => Answer::Fault(Box::new(fault), None),
            };
            return self.answer(origin, answer);
        };
        let names: Vec<Box<str>> = creating.request.topics.keys().cloned().collect();
        let topics = places.iter().map(|place| names[*place].clone()).collect();
        self.ask(creating.core, Op::Resolve { topics }, move |service, answer| match answer {
            Answer::Resolved(found) => {
                let places = std::mem::take(&mut creating.places[creating.core]);
                for (place, found) in places.into_iter().zip(found) {
                    creating.found[place] = found;
                }
                creating.core += 1;
                service.resolve(creating);
            }
            refusal => service.answer(creating.origin, refusal),
        });
    }

    /// All topics are looked up.
    fn finish_session(&mut self, creating: Creating) -> Result<Vec<u8>, Fault> {
        let Creating { request, access, lenient, found, .. } = creating;
        let WatchRequest { topics, delivery, heartbeat_ms } = request;
        let mut json = Vec::with_capacity(160 + topics.len() * 64);
        let mut watched = Vec::new();
        for ((name, start), found) in topics.into_iter().zip(found) {
            let Some((head, earliest)) = found else {
                match lenient {
                    true => continue, // S-3
                    false => return Err(Fault::topic_not_found(&name)),
                }
            };
            let Start { from_seq, tail } = start;
            let from_seq = if tail { head } else { from_seq };
            json.push(if watched.is_empty() { b'{' } else { b',' });
            write_str(&mut json, &name);
            for (member, number) in [
                (&b":{\"from_seq\":"[..], from_seq),
                (b",\"head_seq\":", head),
                (b",\"earliest_seq\":", earliest),
            ] {
                json.extend_from_slice(member);
                write_u64(&mut json, number);
            }
            json.push(b'}');
            watched.push(SessionTopic::new(name, from_seq));
        }
        json.extend_from_slice(if watched.is_empty() { b"{}" } else { b"}" });
        let hold = self.caps.session()?;
        let session = Session::new(watched.into(), Arc::new(delivery), heartbeat_ms, access, self.steady_ms);
        // Of this core's own: then it need not be sent anywhere to be kept.
        let wid = loop {
            let wid = Wid::of(u128::from(random_u64()) << 64 | u128::from(random_u64()));
            if wid.home(self.cores()) == self.core {
                break wid;
            }
        };
        self.sessions.keep(wid, Arc::new(session), hold, self.steady_ms);
        let mut out = Vec::with_capacity(json.len() + 128);
        for member in [&b"{\"wid\":\""[..], b"\",\"stream_url\":\"/v0/watch/"] {
            out.extend_from_slice(member);
            wid.write(&mut out);
        }
        out.extend_from_slice(b"\",\"session_ttl_ms\":");
        write_u64(&mut out, SESSION_IDLE_MS);
        out.extend_from_slice(b",\"topics\":");
        out.extend_from_slice(&json);
        Ok(out)
    }

    /// Opens a stream on a session; the answer comes later. `opens` is false for HEAD (T-13).
    pub(crate) fn open_session(
        &mut self,
        caller: Caller,
        wid: Wid,
        access: Access,
        last_event_id: Option<Box<[u8]>>,
        opens: bool,
    ) {
        let origin = Origin { core: self.core, caller };
        self.ask(wid.home(self.cores()), Op::OpenSession { wid, access }, move |service, answer| {
            let answer = match answer {
                Answer::Session(_) if !opens => Answer::Stream(None),
                Answer::Session(session) => match service.caps.stream(&session.access) {
                    Ok(hold) => {
                        Answer::Stream(Some(Box::new(Opening::Watch { session, last_event_id, hold })))
                    }
                    Err(fault) => Answer::Fault(Box::new(fault), None),
                },
                refusal => refusal,
            };
            service.answer(origin, answer);
        });
    }

    /// At the home core: finds a session for the key that made it.
    pub(super) fn find_session(&mut self, wid: Wid, access: &Access) -> Answer {
        self.sessions.reclaim(self.steady_ms);
        let Some(kept) = self.sessions.by_wid.get(&wid) else {
            return Answer::Fault(Box::new(Fault::not_found()), None);
        };
        match access.key() == kept.session.access.key() {
            true => Answer::Session(kept.session.open(self.steady_ms)),
            false => Answer::Fault(Box::new(Fault::unauthorized()), None),
        }
    }

    pub(super) fn reclaim_sessions(&mut self) {
        self.sessions.reclaim(self.steady_ms);
    }
}
