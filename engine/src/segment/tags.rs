//! Tag sections: which seqs of a stretch of a run carry which tag. The builder collects while blocks
//! are written and is emptied into a section when it has grown to its bound, so a run has as many
//! sections as its tags need, one after the other in seq. The bytes are in [`format`](super::format).

use super::format::{PART_HEADER_BYTES, TAGS_TARGET_BYTES, put_varint, take_varint};
use crate::aside::Effort;
use crate::error::FormatError;
use crate::mem::AlignedBuf;
use std::collections::BTreeMap;

/// Stored bytes of a tag besides the tag itself and its seqs: offset, three lengths.
const TAG_FIXED_BYTES: usize = 4 + 2 + 4 + 4;

/// Tags of the records written since the last section. Sorted all along: a sort at the end would
/// hold the core for milliseconds.
#[derive(Debug, Default)]
pub(super) struct TagsBuilder {
    tags: BTreeMap<Box<[u8]>, Seqs>,
    bytes: usize,
    first_seq: u64,
    last_seq: u64,
}

#[derive(Debug, Default)]
struct Seqs {
    count: u32,
    last: u64,
    deltas: Vec<u8>,
}

/// A section's body and what its header and place say.
pub(super) struct Section {
    pub(super) body: Vec<u8>,
    pub(super) tag_count: u32,
    pub(super) first_seq: u64,
    pub(super) last_seq: u64,
}

impl TagsBuilder {
    /// Notes a record's tag; seqs ascend.
    pub(super) fn add(&mut self, tag: &[u8], seq: u64) {
        if self.tags.is_empty() {
            self.first_seq = seq;
        }
        self.last_seq = seq;
        if !self.tags.contains_key(tag) {
            self.bytes += TAG_FIXED_BYTES + tag.len();
            self.tags.insert(tag.into(), Seqs { last: self.first_seq, ..Seqs::default() });
        }
        let seqs = self.tags.get_mut(tag).expect("just made sure of");
        let before = seqs.deltas.len();
        put_varint(&mut seqs.deltas, seq - seqs.last);
        self.bytes += seqs.deltas.len() - before;
        seqs.count += 1;
        seqs.last = seq;
    }

    /// Whether it is time for a section.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= TAGS_TARGET_BYTES
    }

    /// Turns what was collected into a section and starts anew; `None` if there is nothing.
    pub(super) async fn take(&mut self, effort: &mut Effort) -> Option<Section> {
        let TagsBuilder { tags, bytes, first_seq, last_seq } = std::mem::take(self);
        if tags.is_empty() {
            return None;
        }
        let tag_count = tags.len();
        let mut body = Vec::with_capacity(bytes);
        body.resize(tag_count * 4, 0);
        for (index, (tag, seqs)) in tags.into_iter().enumerate() {
            let at = body.len();
            body[index * 4..index * 4 + 4].copy_from_slice(&(at as u32).to_le_bytes());
            body.extend_from_slice(&(tag.len() as u16).to_le_bytes());
            body.extend_from_slice(&seqs.count.to_le_bytes());
            body.extend_from_slice(&(seqs.deltas.len() as u32).to_le_bytes());
            body.extend_from_slice(&tag);
            body.extend_from_slice(&seqs.deltas);
            // Freeing a tree's node costs more than copying its few bytes.
            effort.spend(body.len() - at + 64).await;
        }
        assert_eq!(body.len(), bytes);
        Some(Section { body, tag_count: tag_count as u32, first_seq, last_seq })
    }
}

/// A tag section in memory, its checksum verified.
#[derive(Debug)]
pub struct TagSection {
    buf: AlignedBuf,
    /// Where in the buffer the section starts.
    start: usize,
    body_bytes: usize,
    tag_count: usize,
    first_seq: u64,
    last_seq: u64,
}

impl TagSection {
    /// Takes over a buffer with a section whose header and checksum were verified.
    pub(super) fn new(
        buf: AlignedBuf,
        start: usize,
        body_bytes: usize,
        tag_count: u32,
        seqs: (u64, u64),
    ) -> Result<TagSection, FormatError> {
        let tag_count = tag_count as usize;
        if tag_count > body_bytes / TAG_FIXED_BYTES {
            return Err(FormatError::new("tag section"));
        }
        Ok(TagSection { buf, start, body_bytes, tag_count, first_seq: seqs.0, last_seq: seqs.1 })
    }

    /// Distinct tags.
    pub fn tag_count(&self) -> usize {
        self.tag_count
    }

    /// Bytes of memory.
    pub fn mem_bytes(&self) -> usize {
        self.buf.len()
    }

    /// Seqs of the records with exactly this tag, ascending.
    pub fn tags_eq(&self, tag: &[u8]) -> Result<Vec<u64>, FormatError> {
        let mut out = Vec::new();
        let index = self.lower_bound(tag)?;
        if index < self.tag_count {
            let (found, count, deltas) = self.tag(index)?;
            if found == tag {
                self.decode(count, deltas, &mut out)?;
            }
        }
        Ok(out)
    }

    /// Seqs of the records whose tag starts with `prefix`, ascending. A record without a tag has no
    /// prefix, not even the empty one.
    pub fn tags_prefix(&self, prefix: &[u8]) -> Result<Vec<u64>, FormatError> {
        let mut out = Vec::new();
        for index in self.lower_bound(prefix)?..self.tag_count {
            let (found, count, deltas) = self.tag(index)?;
            if !found.starts_with(prefix) {
                break;
            }
            self.decode(count, deltas, &mut out)?;
        }
        out.sort_unstable();
        Ok(out)
    }

    /// Walks everything: every tag is above the one before, every seq decodes.
    pub fn check(&self) -> Result<(), FormatError> {
        self.walk(|_, _| ())
    }

    /// The same, and hands out each tag with its seqs, ascending.
    pub fn walk(&self, mut visit: impl FnMut(&[u8], &[u64])) -> Result<(), FormatError> {
        let mut before: Option<&[u8]> = None;
        let mut seqs = Vec::new();
        for index in 0..self.tag_count {
            let (tag, count, deltas) = self.tag(index)?;
            if before.is_some_and(|before| before >= tag) {
                return Err(FormatError::new("tag section"));
            }
            before = Some(tag);
            seqs.clear();
            self.decode(count, deltas, &mut seqs)?;
            visit(tag, &seqs);
        }
        Ok(())
    }

    /// Index of the first tag that is not below `tag`.
    fn lower_bound(&self, tag: &[u8]) -> Result<usize, FormatError> {
        let (mut low, mut high) = (0, self.tag_count);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.tag(middle)?.0 < tag {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    fn tag(&self, index: usize) -> Result<(&[u8], u32, &[u8]), FormatError> {
        let start = self.start + PART_HEADER_BYTES;
        let body = &self.buf[start..start + self.body_bytes];
        let read = || {
            let at = u32::from_le_bytes(body[index * 4..index * 4 + 4].try_into().expect("four bytes"));
            let mut cursor = super::format::Cursor(body.get(at as usize..)?);
            let (tag_bytes, count, deltas_bytes) = (cursor.u16()?, cursor.u32()?, cursor.u32()?);
            Some((cursor.bytes(tag_bytes.into())?, count, cursor.bytes(deltas_bytes as usize)?))
        };
        read().ok_or_else(|| FormatError::new("tag section"))
    }

    fn decode(&self, count: u32, mut deltas: &[u8], out: &mut Vec<u64>) -> Result<(), FormatError> {
        let bad = || FormatError::new("tag section");
        let mut seq = self.first_seq;
        if count as usize > deltas.len() {
            return Err(bad());
        }
        for index in 0..count {
            let delta = take_varint(&mut deltas).ok_or_else(bad)?;
            seq = seq.checked_add(delta).filter(|&seq| seq <= self.last_seq).ok_or_else(bad)?;
            if delta == 0 && index > 0 {
                return Err(bad());
            }
            out.push(seq);
        }
        if deltas.is_empty() { Ok(()) } else { Err(bad()) }
    }
}
