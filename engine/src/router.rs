//! Routers as they are stored: what one is, and how far it has come. Pure; who keeps them, and when they
//! change, is decided in [`shard`](crate::shard).
//!
//! A definition is a row of the registry, which shard 0 keeps. A link is one router's place in its source,
//! kept by the shard of its dest: it moves in the same log batch as the copies it stands for, so that no
//! crash parts them (I-60, I-62).
//!
//! ```text
//! definition  0     32  router, source topic, dest topic, start: eight bytes each
//!            32      1  flags: 1 keeps nodes, 2 keeps tags, 4 may close a cycle, 8 exactly once,
//!                       16 has a filter, 32 the filter is a prefix
//!            33     10  bytes of name, of source, of dest: two each; of filter: four
//!            43         name, source, dest, filter
//!
//! link        0     32  router, dest topic, position, forwarded_total: eight bytes each
//!            32      4  epoch
//!            36      1  flags: 1 the router is gone
//! ```

use crate::error::{EngineError, FormatError};
use crate::ids::{RouterId, Seq, TopicId};
use crate::limits::{FILTER_BYTES_MAX, NAME_BYTES_MAX};
use crate::segment::format::Cursor;
use crate::shard::TagMatch;

/// Bytes of a definition before its strings.
const DEF_BYTES: usize = 43;
/// Bytes of a stored link.
pub(crate) const LINK_BYTES: usize = 37;

/// A router (§7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterDef {
    /// Its instance: deleted and made again it is another one.
    pub id: RouterId,
    /// Its name (NM-2).
    pub name: Box<str>,
    /// What it copies from.
    pub source: Box<str>,
    /// The instance of that: a recreated topic is another source (I-70).
    pub source_id: TopicId,
    /// What it copies into.
    pub dest: Box<str>,
    /// The instance of that.
    pub dest_id: TopicId,
    /// Copy nodes.
    pub preserve_node: bool,
    /// Copy tags.
    pub preserve_tag: bool,
    /// Which records to copy (R-34); `None` copies all.
    pub filter: Option<TagMatch>,
    /// May close a cycle (R-12).
    pub allow_cycle: bool,
    /// The `exactly_once` guarantee (R-40).
    pub exactly_once: bool,
    /// Head of the source at creation: only records above it are copied (R-31).
    pub start: Seq,
}

impl RouterDef {
    /// Whether it can be stored. The edge checks names; what it cannot know is how long a filter may be.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let names = [&self.name, &self.source, &self.dest];
        if names.iter().any(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
            return Err(EngineError::RouterInvalid("a name is empty or too long"));
        }
        match &self.filter {
            Some(TagMatch::Eq(tag) | TagMatch::Prefix(tag)) if tag.len() > FILTER_BYTES_MAX => {
                Err(EngineError::RouterInvalid("the filter is too long"))
            }
            _ => Ok(()),
        }
    }

    /// Appends the stored form.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for number in [self.id.0, self.source_id.0, self.dest_id.0, self.start] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let (filter, kind): (&[u8], u8) = match &self.filter {
            None => (&[], 0),
            Some(TagMatch::Eq(tag)) => (tag, 16),
            Some(TagMatch::Prefix(tag)) => (tag, 48),
        };
        out.push(
            self.preserve_node as u8
                | (self.preserve_tag as u8) << 1
                | (self.allow_cycle as u8) << 2
                | (self.exactly_once as u8) << 3
                | kind,
        );
        let strings = [self.name.as_bytes(), self.source.as_bytes(), self.dest.as_bytes()];
        strings.iter().for_each(|string| out.extend_from_slice(&(string.len() as u16).to_le_bytes()));
        out.extend_from_slice(&(filter.len() as u32).to_le_bytes());
        strings.iter().for_each(|string| out.extend_from_slice(string));
        out.extend_from_slice(filter);
    }

    /// Reads the stored form, which fills `bytes`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<RouterDef, FormatError> {
        let mut cursor = Cursor(bytes);
        let mut read = || {
            let [id, source_id, dest_id, start] =
                [cursor.u64()?, cursor.u64()?, cursor.u64()?, cursor.u64()?];
            let flags = cursor.u8().filter(|flags| flags & !63 == 0 && flags & 48 != 32)?;
            let lengths = [cursor.u16()?, cursor.u16()?, cursor.u16()?];
            let filter_bytes = cursor.u32()? as usize;
            let mut string = |bytes: u16| {
                let text = std::str::from_utf8(cursor.bytes(bytes.into())?).ok()?;
                Some(Box::<str>::from(text))
            };
            let [name, source, dest] = [string(lengths[0])?, string(lengths[1])?, string(lengths[2])?];
            let tag = cursor.bytes(filter_bytes)?.to_vec();
            if !cursor.0.is_empty() || flags & 16 == 0 && !tag.is_empty() {
                return None;
            }
            Some(RouterDef {
                id: RouterId(id),
                name,
                source,
                source_id: TopicId(source_id),
                dest,
                dest_id: TopicId(dest_id),
                preserve_node: flags & 1 != 0,
                preserve_tag: flags & 2 != 0,
                filter: match flags & 48 {
                    0 => None,
                    16 => Some(TagMatch::Eq(tag)),
                    _ => Some(TagMatch::Prefix(tag)),
                },
                allow_cycle: flags & 4 != 0,
                exactly_once: flags & 8 != 0,
                start,
            })
        };
        read().ok_or_else(|| FormatError::new("router"))
    }
}

/// How far a router has come, as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Which router.
    pub router: RouterId,
    /// The topic that holds its copies.
    pub dest: TopicId,
    /// The last seq of the source that had its turn.
    pub position: Seq,
    /// Copies delivered, and vacancies in their place (R-36, R-37).
    pub forwarded_total: u64,
    /// Grows when the position was set back: seqs of the source from there on are used a second time
    /// (I-66).
    pub epoch: u32,
}

impl LinkState {
    /// Appends the stored form; `is_gone`: the router is.
    pub(crate) fn encode(&self, is_gone: bool, out: &mut Vec<u8>) {
        for number in [self.router.0, self.dest.0, self.position, self.forwarded_total] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.push(is_gone as u8);
    }

    /// Reads the stored form, which fills `bytes`, and whether the router is gone.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(LinkState, bool), FormatError> {
        let mut cursor = Cursor(bytes);
        let mut read = || {
            let (router, dest) = (RouterId(cursor.u64()?), TopicId(cursor.u64()?));
            let (position, forwarded_total, epoch) = (cursor.u64()?, cursor.u64()?, cursor.u32()?);
            let flags = cursor.u8().filter(|flags| flags & !1 == 0)?;
            let link = LinkState { router, dest, position, forwarded_total, epoch };
            cursor.0.is_empty().then_some((link, flags & 1 != 0))
        };
        read().ok_or_else(|| FormatError::new("link of a router"))
    }
}

const _: () = assert!(LINK_BYTES == 4 * 8 + 4 + 1 && DEF_BYTES == 4 * 8 + 1 + 3 * 2 + 4);

#[cfg(test)]
mod tests {
    use super::*;

    fn def(filter: Option<TagMatch>) -> RouterDef {
        RouterDef {
            id: RouterId(7),
            name: "a->b".into(),
            source: "a".into(),
            source_id: TopicId(1 << 40),
            dest: "b".into(),
            dest_id: TopicId(2),
            preserve_node: true,
            preserve_tag: false,
            filter,
            allow_cycle: false,
            exactly_once: true,
            start: u64::MAX,
        }
    }

    #[test]
    fn what_is_stored_is_read_back_and_nothing_else_is() {
        // I-9, I-99: every length that is not the right one, and every flag nobody set, is refused.
        let filters = [None, Some(TagMatch::Eq(Vec::new())), Some(TagMatch::Prefix(b"sale:".to_vec()))];
        for filter in filters {
            let def = def(filter);
            let mut bytes = Vec::new();
            def.encode(&mut bytes);
            assert_eq!(RouterDef::decode(&bytes).as_ref(), Ok(&def));
            for end in 0..bytes.len() {
                assert!(RouterDef::decode(&bytes[..end]).is_err(), "cut at {end}");
            }
            bytes[32] |= 64;
            assert!(RouterDef::decode(&bytes).is_err());
        }
        let link = LinkState {
            router: RouterId(7),
            dest: TopicId(2),
            position: u64::MAX,
            forwarded_total: 3,
            epoch: 1,
        };
        for gone in [false, true] {
            let mut bytes = Vec::new();
            link.encode(gone, &mut bytes);
            assert_eq!((bytes.len(), LinkState::decode(&bytes)), (LINK_BYTES, Ok((link, gone))));
            assert!(LinkState::decode(&bytes[..LINK_BYTES - 1]).is_err());
            bytes[36] = 2;
            assert!(LinkState::decode(&bytes).is_err());
        }
    }
}
