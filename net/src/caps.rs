//! Caps that hold over all cores besides topics and bytes (§13): watch sessions, streams, and per key
//! requests in flight and streams.
//! Lives here: a counter each, and the guards that give back what was taken however a request ends.
//! Not here: topics and bytes (`engine::quota`), routers, which one core counts.
//! Always true: what is held never exceeds a cap, also while cores race (L-2).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::auth::Access;
use crate::fault::Fault;

/// One capped count. On a cache line of its own: every core writes it.
#[derive(Debug)]
#[repr(align(64))]
pub struct Cap {
    max: u64,
    held: AtomicU64,
}

impl Cap {
    /// At most `max`, 0 = unlimited (L-1).
    fn new(max: u64) -> Arc<Cap> {
        Arc::new(Cap { max, held: AtomicU64::new(0) })
    }

    /// How many are held now.
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Takes one, if there is one left.
    fn take(self: &Arc<Cap>) -> Option<Hold> {
        let more = |held: u64| (self.max == 0 || held < self.max).then(|| held + 1);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Hold(self.clone()))
    }
}

/// One taken of a cap; dropped, it is given back.
#[derive(Debug)]
pub struct Hold(Arc<Cap>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One stream: of all, and of its key's.
#[derive(Debug)]
pub struct StreamHold {
    _of_all: Hold,
    _of_key: Option<Hold>,
}

/// The caps, 0 = unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapSettings {
    /// `RUNELOG_MAX_ROUTERS`.
    pub max_routers: u64,
    /// `RUNELOG_MAX_WATCH_SESSIONS`.
    pub max_watch_sessions: u64,
    /// `RUNELOG_MAX_SSE_CONNECTIONS`.
    pub max_streams: u64,
    /// `RUNELOG_MAX_SSE_CONNECTIONS_PER_KEY`.
    pub max_streams_per_key: u64,
    /// `RUNELOG_MAX_INFLIGHT_PER_KEY`.
    pub max_in_flight_per_key: u64,
}

/// All of them, shared by the cores.
#[derive(Debug)]
pub struct Caps {
    sessions: Arc<Cap>,
    streams: Arc<Cap>,
    /// By index of the key; empty with authentication off (L-5).
    keys: Box<[KeyCaps]>,
}

#[derive(Debug)]
struct KeyCaps {
    in_flight: Arc<Cap>,
    streams: Arc<Cap>,
}

impl Caps {
    /// For so many keys.
    pub fn new(settings: &CapSettings, keys: usize) -> Caps {
        let of_key = |_| KeyCaps {
            in_flight: Cap::new(settings.max_in_flight_per_key),
            streams: Cap::new(settings.max_streams_per_key),
        };
        Caps {
            sessions: Cap::new(settings.max_watch_sessions),
            streams: Cap::new(settings.max_streams),
            keys: (0..keys).map(of_key).collect(),
        }
    }

    /// Watch sessions that exist.
    pub fn sessions(&self) -> u64 {
        self.sessions.held()
    }

    /// Open streams of every kind.
    pub fn streams(&self) -> u64 {
        self.streams.held()
    }

    /// A place for a new watch session.
    pub fn session(&self) -> Result<Hold, Fault> {
        self.sessions.take().ok_or_else(|| Fault::quota("max_watch_sessions", self.sessions.max))
    }

    /// A place for a request in flight (L-6); nothing is counted with authentication off.
    pub fn in_flight(&self, access: &Access) -> Result<Option<Hold>, Fault> {
        let Some(key) = access.key() else { return Ok(None) };
        self.keys[key as usize].in_flight.take().map(Some).ok_or_else(Fault::throttled)
    }

    /// A place for a stream (L-4); `access` is of the key it is charged to (L-5).
    pub fn stream(&self, access: &Access) -> Result<StreamHold, Fault> {
        let of_all = self.streams.take().ok_or_else(Fault::throttled)?;
        let of_key = match access.key() {
            // On refusal `of_all` gives its place back.
            Some(key) => Some(self.keys[key as usize].streams.take().ok_or_else(Fault::throttled)?),
            None => None,
        };
        Ok(StreamHold { _of_all: of_all, _of_key: of_key })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Keys;

    fn caps(max: u64, keys: usize) -> Caps {
        let settings = CapSettings {
            max_routers: max,
            max_watch_sessions: max,
            max_streams: max,
            max_streams_per_key: 1,
            max_in_flight_per_key: max,
        };
        Caps::new(&settings, keys)
    }

    fn access(number: u32) -> Access {
        let keys = Keys::parse("k0,k1").expect("two keys");
        keys.identify(Some(format!("Bearer k{number}").as_bytes()), None).expect("known")
    }

    #[test]
    fn what_is_taken_comes_back_when_its_guard_goes() {
        let caps = caps(2, 2);
        let (one, two) = (caps.session().expect("L-2"), caps.session().expect("L-2"));
        assert_eq!(caps.session().err(), Some(Fault::quota("max_watch_sessions", 2)), "L-2");
        drop(one);
        assert_eq!(caps.sessions(), 1, "L-2");
        assert!(caps.session().is_ok(), "L-2");
        drop(two);
        assert_eq!(caps.sessions(), 0);
    }

    #[test]
    fn keys_have_caps_of_their_own() {
        let caps = caps(2, 2);
        let (k0, k1) = (access(0), access(1));
        let stream = caps.stream(&k0).expect("L-4");
        assert_eq!(caps.stream(&k0).err(), Some(Fault::throttled()), "L-4: one a key");
        assert_eq!(caps.streams(), 1, "L-4: a refused stream holds nothing");
        let other = caps.stream(&k1).expect("L-5");
        assert!(caps.stream(&Access::EVERYTHING).is_err(), "L-4: two of all");
        drop(stream);
        let open = caps.stream(&Access::EVERYTHING).expect("L-5: no key, no cap of a key");
        drop((other, open));
        assert_eq!(caps.streams(), 0, "L-4");

        let held = [caps.in_flight(&k0), caps.in_flight(&k0)];
        assert_eq!(caps.in_flight(&k0).err(), Some(Fault::throttled()), "L-6");
        assert!(caps.in_flight(&k1).is_ok(), "L-6: another key");
        assert!(caps.in_flight(&Access::EVERYTHING).expect("L-5").is_none(), "L-5");
        drop(held);
        assert!(caps.in_flight(&k0).is_ok(), "L-6");
    }

    #[test]
    fn zero_is_unlimited() {
        let caps = Caps::new(&CapSettings::default(), 1);
        let held: Vec<_> = (0..1000).map(|_| (caps.session(), caps.stream(&access(0)))).collect();
        assert!(held.iter().all(|(session, stream)| session.is_ok() && stream.is_ok()), "L-1");
        assert_eq!((caps.sessions(), caps.streams()), (1000, 1000), "counted all the same");
    }

    #[test]
    fn racing_threads_never_hold_more_than_the_cap() {
        let caps = Arc::new(caps(3, 1));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let caps = caps.clone();
                std::thread::spawn(move || {
                    let mut taken = 0;
                    for _ in 0..20_000 {
                        if let Ok(hold) = caps.session() {
                            assert!(caps.sessions() <= 3, "L-2");
                            taken += 1;
                            drop(hold);
                        }
                    }
                    taken
                })
            })
            .collect();
        let taken: u32 = threads.into_iter().map(|thread| thread.join().expect("L-2")).sum();
        assert!(taken > 0 && caps.sessions() == 0, "L-2");
    }
}
