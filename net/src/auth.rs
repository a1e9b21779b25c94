//! Who asks and what they may do (§12): the configured keys, and the one that a request came with.
//! Lives here: the grammar of `RUNELOG_API_KEYS`, recognising a bearer, scopes, prefixes.
//! Not here: which request needs which scope (`route`), caps per key (`caps`).
//! Always true: of a secret only its SHA-256 digest is kept, nothing here prints either, and how long a
//! comparison takes tells nothing of the keys (A-3).

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use crate::fault::Fault;
use crate::limits::API_KEYS_MAX;

/// A set of scopes. They do not imply one another (A-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Any valid key has these.
    pub const NONE: Scopes = Scopes(0);
    /// State, lists, diff, watch, metrics.
    pub const READ: Scopes = Scopes(1);
    /// Append, ack, nack, extend.
    pub const WRITE: Scopes = Scopes(2);
    /// Claim and work.
    pub const READ_WRITE: Scopes = Scopes(3);
    /// Deleting topics, routers and records.
    pub const DELETE: Scopes = Scopes(4);
    /// PUT, and `config` in a write.
    pub const ADMIN: Scopes = Scopes(8);
    /// All of them.
    pub const ALL: Scopes = Scopes(15);

    const fn and(self, other: Scopes) -> Scopes {
        Scopes(self.0 | other.0)
    }

    /// Whether all of `wanted` are among these.
    pub const fn cover(self, wanted: Scopes) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// For messages: what is missing of `wanted`.
    const fn first_missing(self, wanted: Scopes) -> &'static str {
        match wanted.0 & !self.0 {
            missing if missing & Scopes::READ.0 != 0 => "read",
            missing if missing & Scopes::WRITE.0 != 0 => "write",
            missing if missing & Scopes::DELETE.0 != 0 => "delete",
            _ => "admin",
        }
    }

    fn of_word(word: &str) -> Option<Scopes> {
        Some(match word.to_ascii_lowercase().as_str() {
            "read" | "r" => Scopes::READ,
            "write" | "w" => Scopes::WRITE,
            "rw" => Scopes::READ_WRITE,
            "delete" | "del" | "d" => Scopes::DELETE,
            "admin" | "a" => Scopes::ADMIN,
            _ => return None,
        })
    }
}

/// One configured key, without its secret.
#[derive(PartialEq, Eq)]
struct Key {
    index: u32,
    digest: [u8; 32],
    scopes: Scopes,
    /// Empty: any name.
    prefixes: Box<[Box<[u8]>]>,
}

/// All configured keys; without any, everyone may do everything (A-1).
#[derive(Default, PartialEq, Eq)]
pub struct Keys {
    keys: Vec<Arc<Key>>,
}

/// Cores get a copy each, whose counts of users are then not shared by all of them.
impl Clone for Keys {
    fn clone(&self) -> Keys {
        let copy = |key: &Arc<Key>| {
            Arc::new(Key {
                index: key.index,
                digest: key.digest,
                scopes: key.scopes,
                prefixes: key.prefixes.clone(),
            })
        };
        Keys { keys: self.keys.iter().map(copy).collect() }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.keys.len())
    }
}

/// Why a list of keys is refused (A-5). Names the place of an entry, never what stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysError {
    /// Number of the entry, from 1, empty ones not counted.
    entry: usize,
    what: &'static str,
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "entry {} of the API keys {}", self.entry, self.what)
    }
}

impl Keys {
    /// Reads `secret[:scopes[:prefixes]]`, several with commas between them. Whoever holds the text wipes
    /// it afterwards.
    pub fn parse(text: &str) -> Result<Keys, KeysError> {
        let mut keys: Vec<Key> = Vec::new();
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        for (number, entry) in entries.enumerate() {
            let key = Key::parse(entry).map_err(|what| KeysError { entry: number + 1, what })?;
            // Of the same secret the last entry counts (A-4).
            keys.retain(|other| other.digest != key.digest);
            if keys.len() == API_KEYS_MAX {
                return Err(KeysError { entry: number + 1, what: "is one too many" });
            }
            keys.push(key);
        }
        let number = |(index, key)| Arc::new(Key { index: index as u32, ..key });
        Ok(Keys { keys: keys.into_iter().enumerate().map(number).collect() })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Whether requests need a key.
    pub fn is_on(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Who sent this `Authorization`. `token` is the `?token=` of the paths that honour one; a bearer in
    /// the header, right or wrong, takes its place (A-14).
    pub fn identify(&self, authorization: Option<&[u8]>, token: Option<&[u8]>) -> Result<Access, Fault> {
        if !self.is_on() {
            return Ok(Access::EVERYTHING);
        }
        let bearer = match authorization.and_then(bearer) {
            Some(secret) => Some(secret),
            None => token,
        };
        let key = bearer.and_then(|secret| self.find(secret));
        key.map(|key| Access(Who::Key(key.clone()))).ok_or_else(Fault::unauthorized)
    }

    /// Looks at every key to the end, whichever matches.
    fn find(&self, secret: &[u8]) -> Option<&Arc<Key>> {
        const NOBODY: u32 = u32::MAX;
        let digest: [u8; 32] = Sha256::digest(secret).into();
        let mut found = NOBODY;
        for key in &self.keys {
            found.conditional_assign(&key.index, key.digest.ct_eq(&digest));
        }
        (found != NOBODY).then(|| &self.keys[found as usize])
    }
}

/// The secret of an `Authorization` with the scheme `Bearer`, spelled so (A-2); empty if there is none.
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let rest = authorization.strip_prefix(b"Bearer")?;
    match rest.first() {
        Some(b' ') | None => Some(rest.trim_ascii()),
        Some(_) => None,
    }
}

impl Key {
    fn parse(entry: &str) -> Result<Key, &'static str> {
        let mut parts = entry.splitn(3, ':');
        // The header's token is trimmed, so a secret with white space around it would match nothing.
        let secret = parts.next().unwrap_or_default().trim();
        let scopes = parts.next();
        let prefixes = parts.next();
        if secret.is_empty() {
            return Err("has an empty secret");
        }
        let scopes = match (scopes, prefixes) {
            (None, _) | (Some(""), Some(_)) => Scopes::ALL,
            (Some(words), _) => {
                let words = words.split('+').filter(|word| !word.is_empty());
                let unknown =
                    "has an unknown scope; known are read, write, delete, admin, r, w, d, del, a, rw";
                words
                    .map(|word| Scopes::of_word(word).ok_or(unknown))
                    .try_fold(Scopes::NONE, |sum, scopes| scopes.map(|scopes| sum.and(scopes)))?
            }
        };
        // Also `secret:` alone: a template whose scopes came out empty must not give them all.
        if scopes == Scopes::NONE {
            return Err("has a scope field that names no scope");
        }
        let prefixes = prefixes.unwrap_or_default().split('|').filter(|prefix| !prefix.is_empty());
        Ok(Key {
            index: 0,
            digest: Sha256::digest(secret).into(),
            scopes,
            prefixes: prefixes.map(|prefix| prefix.as_bytes().into()).collect(),
        })
    }
}

/// What a request may do. Travels with it, and with what it leaves behind (sessions, operations).
#[derive(Clone)]
pub struct Access(Who);

#[derive(Clone)]
enum Who {
    Everyone,
    Key(Arc<Key>),
    Nobody,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Who::Everyone => f.write_str("everyone"),
            Who::Key(key) => write!(f, "key {}", key.index),
            Who::Nobody => f.write_str("nobody"),
        }
    }
}

impl Access {
    /// What everyone has where authentication is off (A-1).
    pub const EVERYTHING: Access = Access(Who::Everyone);
    /// Without a valid key, where something else than a missing key decides (A-11).
    pub const NOTHING: Access = Access(Who::Nobody);

    /// Which key it is, none with authentication off or without one. Of one start: a restart numbers anew.
    pub fn key(&self) -> Option<u32> {
        match &self.0 {
            Who::Key(key) => Some(key.index),
            Who::Everyone | Who::Nobody => None,
        }
    }

    fn scopes(&self) -> Scopes {
        match &self.0 {
            Who::Everyone => Scopes::ALL,
            Who::Key(key) => key.scopes,
            Who::Nobody => Scopes::NONE,
        }
    }

    /// Whether it has all of these scopes.
    pub fn has(&self, scopes: Scopes) -> bool {
        self.scopes().cover(scopes)
    }

    /// Refuses unless it has all of these scopes (A-6).
    pub fn needs(&self, scopes: Scopes) -> Result<(), Fault> {
        if self.has(scopes) {
            return Ok(());
        }
        let missing = self.scopes().first_missing(scopes);
        Err(Fault::forbidden(format!("the key lacks the scope {missing}")))
    }

    /// Whether a name begins with one of its prefixes (A-10).
    pub fn permits(&self, name: &[u8]) -> bool {
        match &self.0 {
            Who::Everyone => true,
            Who::Key(key) => {
                key.prefixes.is_empty() || key.prefixes.iter().any(|prefix| name.starts_with(prefix))
            }
            Who::Nobody => false,
        }
    }

    /// What is permitted of the names that begin with `prefix`, as prefixes that do not overlap, in
    /// ascending order: what a list has to walk (TL-4).
    pub fn ranges(&self, prefix: &[u8]) -> Vec<Vec<u8>> {
        let prefixes = match &self.0 {
            Who::Key(key) if !key.prefixes.is_empty() => &key.prefixes,
            Who::Everyone | Who::Key(_) => return vec![prefix.to_vec()],
            Who::Nobody => return Vec::new(),
        };
        let inside = |own: &[u8]| match (prefix.starts_with(own), own.starts_with(prefix)) {
            (true, _) => Some(prefix.to_vec()),
            (false, true) => Some(own.to_vec()),
            (false, false) => None,
        };
        let mut ranges: Vec<_> = prefixes.iter().filter_map(|own| inside(own)).collect();
        ranges.sort_unstable();
        // One that begins like the last kept one is inside of it.
        ranges.dedup_by(|next, kept| next.starts_with(kept));
        ranges
    }

    /// Why the configuration of a write may not create `topic`, if so: only `admin` may give one (W-10),
    /// and a `dead_letter` is a topic named in a body (A-10(f)). Whether it is created the owner knows.
    pub fn denies_config(&self, topic: &str, dead_letter: Option<&str>) -> Option<Box<Fault>> {
        if !self.has(Scopes::ADMIN) {
            return Some(Box::new(Fault::forbidden_topic(topic)));
        }
        dead_letter.and_then(|name| self.needs_topic(name).err()).map(Box::new)
    }

    /// Refuses a topic named in a body unless it is permitted; the answer names it (§1.7).
    pub fn needs_topic(&self, name: &str) -> Result<(), Fault> {
        if self.permits(name.as_bytes()) { Ok(()) } else { Err(Fault::forbidden_topic(name)) }
    }
}

#[cfg(test)]
mod tests;
