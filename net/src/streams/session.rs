//! A watch session: what is watched, how, and how far its streams have come (§8.1).

use crate::auth::Access;
use crate::http::base64;
use crate::json::watch::Delivery;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Characters of a session's name behind `wid_`.
const WID_DIGITS: usize = 22;

/// The name of a session without its `wid_`: 128 random bits in base64 (S-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Wid(u128);

impl Wid {
    pub(crate) fn of(random: u128) -> Wid {
        Wid(random)
    }

    /// `None`: no session ever had this name.
    pub(crate) fn parse(text: &[u8]) -> Option<Wid> {
        let digits = text.strip_prefix(b"wid_").filter(|digits| digits.len() == WID_DIGITS)?;
        let mut bytes = Vec::with_capacity(16);
        base64::decode(digits, &mut bytes)?;
        Some(Wid(u128::from_be_bytes(bytes.try_into().ok()?)))
    }

    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"wid_");
        base64::encode(&self.0.to_be_bytes(), out);
    }

    /// The core that keeps the session.
    pub(crate) fn home(self, cores: usize) -> usize {
        (self.0 % cores as u128) as usize
    }
}

/// A topic of a session.
pub(crate) struct SessionTopic {
    pub(crate) name: Box<str>,
    /// Behind the last batch that any of the session's streams produced (V-51).
    cursor: AtomicU64,
}

impl SessionTopic {
    pub(crate) fn new(name: Box<str>, cursor: u64) -> SessionTopic {
        SessionTopic { name, cursor: AtomicU64::new(cursor) }
    }

    pub(crate) fn cursor(&self) -> u64 {
        self.cursor.load(Ordering::Relaxed)
    }

    pub(crate) fn set_cursor(&self, cursor: u64) {
        self.cursor.store(cursor, Ordering::Relaxed);
    }
}

/// See the module's text. Shared by its home core and the cores of its streams; several streams of one
/// session each move the cursors (V-55).
pub(crate) struct Session {
    /// In ascending order of names (V-11).
    pub(crate) topics: Box<[SessionTopic]>,
    pub(crate) options: Arc<Delivery>,
    pub(crate) heartbeat_ms: u64,
    /// Whose it is, and whom its streams are charged to (L-5).
    pub(crate) access: Access,
    open_streams: AtomicU32,
    /// Steady clock: the last creation, opening or closing (S-6).
    touched_ms: AtomicU64,
}

impl Session {
    pub(crate) fn new(
        topics: Box<[SessionTopic]>,
        options: Arc<Delivery>,
        heartbeat_ms: u64,
        access: Access,
        now_ms: u64,
    ) -> Session {
        debug_assert!(topics.is_sorted_by(|a, b| a.name < b.name));
        Session {
            topics,
            options,
            heartbeat_ms,
            access,
            open_streams: AtomicU32::new(0),
            touched_ms: AtomicU64::new(now_ms),
        }
    }

    /// How long no stream has been open; `None` while one is.
    pub(crate) fn idle_ms(&self, now_ms: u64) -> Option<u64> {
        let idle = self.open_streams.load(Ordering::Acquire) == 0;
        idle.then(|| now_ms.saturating_sub(self.touched_ms.load(Ordering::Relaxed)))
    }

    /// A stream is open until the result is dropped. Called by the home core, so that the session cannot
    /// go between being found and being opened.
    pub(crate) fn open(self: &Arc<Session>, now_ms: u64) -> OpenSession {
        self.open_streams.fetch_add(1, Ordering::Relaxed);
        self.touched_ms.store(now_ms, Ordering::Relaxed);
        OpenSession { session: self.clone(), closed_ms: now_ms }
    }
}

/// A session with a stream on it.
pub(crate) struct OpenSession {
    session: Arc<Session>,
    /// When it counts as closed.
    pub(crate) closed_ms: u64,
}

impl std::ops::Deref for OpenSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.session.touched_ms.fetch_max(self.closed_ms, Ordering::Relaxed);
        self.session.open_streams.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_22_characters_and_only_its_own_spelling_is_known() {
        for random in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef] {
            let wid = Wid::of(random);
            let mut text = Vec::new();
            wid.write(&mut text);
            assert_eq!(text.len(), 26, "S-2");
            assert_eq!(Wid::parse(&text), Some(wid), "S-2");
            assert_eq!(Wid::parse(&text[..25]), None, "S-2");
            assert_eq!(Wid::parse(&text[4..]), None, "S-2");
        }
        // The last character has four bits that say nothing.
        assert_eq!(Wid::parse(b"wid_AAAAAAAAAAAAAAAAAAAAAB"), None, "S-2");
        assert_eq!(Wid::parse(b"wid_AAAAAAAAAAAAAAAAAAAA=="), None, "S-2");
    }

    #[test]
    fn a_session_is_idle_from_its_last_creation_opening_or_closing() {
        let options = Delivery {
            nodes: Default::default(),
            limit: 1,
            max_batch_bytes: 1,
            include_data: true,
            include_tags: false,
            include_meta: true,
        };
        let session =
            Arc::new(Session::new(Box::default(), Arc::new(options), 1000, Access::EVERYTHING, 100));
        assert_eq!(session.idle_ms(150), Some(50), "S-6");
        let (mut first, second) = (session.open(200), session.open(300));
        drop(second);
        assert_eq!(session.idle_ms(900), None, "S-6");
        first.closed_ms = 800;
        drop(first);
        assert_eq!(session.idle_ms(900), Some(100), "S-6");
    }
}
