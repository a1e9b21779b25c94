//! Entries of a batch as bytes: what the log's blocks and the segments' blocks are filled with.
//! Pure; the block around them is [`format`](super::format).
//!
//! A *batch* is one or more entries, the last flagged [`LAST`]; recovery applies a batch whole or not
//! at all (I-55), so appends, deletes, marks and configuration changes that belong together survive
//! together. All numbers little-endian, nothing padded. Unknown kinds are refused, never skipped (I-99).
//!
//! ```text
//! entry       at  bytes  field
//!              0      4  body_bytes
//!              4      1  kind: 1 records, 2 delete, 3 topic, 4 drop, 5 reserve, 6 floor,
//!                        7 link, 8 router, 9 router drop, 10 trim, 11 lease;
//!                        12…15 kept for cursors, keyed state, spells
//!              5      1  flags: 1 last entry of its batch
//!              6      2  zero
//!              8         body
//!
//! records      0      8  topic
//!              8      8  first_seq of this entry
//!             16      8  batch_first_seq: a large batch is cut into several entries
//!             24      8  ts
//!             32      4  count of records in this entry
//!             36      4  batch_count
//!             40      4  records_bytes
//!             44      4  counted_bytes (J-23) of this entry
//!             48      2  key_bytes: idempotency key, in the first entry of its batch only
//!             50      1  flags: 1 has a key
//!             51      5  zero
//!             56         key, records, skip table
//!
//! record       0      4  data_bytes
//!              4      2  meta_bytes
//!              6      2  tag_bytes
//!              8      1  node_bytes
//!              9      1  flags: 1 has meta, 2 has tag, 4 has node
//!             10      1  router hops
//!             11      1  zero
//!             12         data, meta, tag, node
//! ```
//!
//! The skip table holds the offset of every 64th record after the first (`(count - 1) / 64` of four
//! bytes each, from the start of the records), so a reader enters a batch of 10 000 without walking it.

use super::bytes::{u16_at, u32_at, u64_at};
use crate::error::FormatError;
use crate::event::{Batch, Record};
use crate::ids::TopicId;

/// Bytes before an entry's body.
pub const ENTRY_HEADER_BYTES: usize = 8;
/// Fixed bytes of a records entry's body.
pub const RECORDS_HEADER_BYTES: usize = 56;
/// Fixed bytes of a record.
pub const RECORD_HEADER_BYTES: usize = 12;
/// A skip table entry for every this many records.
pub const SKIP_EVERY: usize = 64;
/// Entry flag: the last of its batch.
pub const LAST: u8 = 1;

/// Kind of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Appended records.
    Records = 1,
    /// Deleted seq ranges.
    Delete = 2,
    /// A topic created or reconfigured.
    Topic = 3,
    /// A topic deleted.
    Drop = 4,
    /// Seqs reserved ahead (I-58).
    Reserve = 5,
    /// Loss through a cap or age.
    Floor = 6,
    /// How far a router has come (I-60).
    Link = 7,
    /// A router created or replaced.
    Router = 8,
    /// Routers deleted.
    RouterDrop = 9,
    /// Seqs left vacant for what a router's source lost (I-68).
    Trim = 10,
    /// What jobs of a queue are doing (I-85).
    Lease = 11,
}

impl Kind {
    fn of(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Records,
            2 => Kind::Delete,
            3 => Kind::Topic,
            4 => Kind::Drop,
            5 => Kind::Reserve,
            6 => Kind::Floor,
            7 => Kind::Link,
            8 => Kind::Router,
            9 => Kind::RouterDrop,
            10 => Kind::Trim,
            11 => Kind::Lease,
            _ => return None,
        })
    }
}

/// An entry's header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// What the body is.
    pub kind: Kind,
    /// Whether the batch ends with this entry.
    pub last: bool,
    /// Bytes of the body.
    pub body_bytes: usize,
}

impl EntryHeader {
    /// The header as bytes.
    pub fn encode(&self) -> [u8; ENTRY_HEADER_BYTES] {
        let mut out = [0; ENTRY_HEADER_BYTES];
        out[..4].copy_from_slice(&(self.body_bytes as u32).to_le_bytes());
        out[4] = self.kind as u8;
        out[5] = if self.last { LAST } else { 0 };
        out
    }
}

/// Splits the first entry off `bytes`: its header, its body, and what follows.
pub fn split_entry(bytes: &[u8]) -> Result<(EntryHeader, &[u8], &[u8]), FormatError> {
    let bad = || FormatError::new("log entry");
    if bytes.len() < ENTRY_HEADER_BYTES {
        return Err(bad());
    }
    let body_bytes = u32_at(bytes, 0) as usize;
    let kind = Kind::of(bytes[4]).ok_or_else(bad)?;
    let rest = &bytes[ENTRY_HEADER_BYTES..];
    if bytes[5] & !LAST != 0 || bytes[6] != 0 || bytes[7] != 0 || body_bytes > rest.len() {
        return Err(bad());
    }
    let (body, after) = rest.split_at(body_bytes);
    Ok((EntryHeader { kind, last: bytes[5] & LAST != 0, body_bytes }, body, after))
}

/// The fixed part of a records entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordsHeader {
    /// Whose records.
    pub topic: TopicId,
    /// Seq of the first record of this entry.
    pub first_seq: u64,
    /// Seq of the first record of the batch it was committed in.
    pub batch_first_seq: u64,
    /// Commit time (W-5).
    pub ts: i64,
    /// Records in this entry.
    pub count: u32,
    /// Records in the whole batch.
    pub batch_count: u32,
    /// Bytes of the records area.
    pub records_bytes: u32,
    /// Sum of `data` + `meta` (J-23).
    pub counted_bytes: u32,
    /// Bytes of the idempotency key, if the entry carries one.
    pub key_bytes: Option<u16>,
}

impl RecordsHeader {
    /// The header as bytes.
    pub fn encode(&self) -> [u8; RECORDS_HEADER_BYTES] {
        let mut out = [0; RECORDS_HEADER_BYTES];
        out[0..8].copy_from_slice(&self.topic.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.first_seq.to_le_bytes());
        out[16..24].copy_from_slice(&self.batch_first_seq.to_le_bytes());
        out[24..32].copy_from_slice(&self.ts.to_le_bytes());
        out[32..36].copy_from_slice(&self.count.to_le_bytes());
        out[36..40].copy_from_slice(&self.batch_count.to_le_bytes());
        out[40..44].copy_from_slice(&self.records_bytes.to_le_bytes());
        out[44..48].copy_from_slice(&self.counted_bytes.to_le_bytes());
        out[48..50].copy_from_slice(&self.key_bytes.unwrap_or(0).to_le_bytes());
        out[50] = self.key_bytes.is_some() as u8;
        out
    }

    /// Seq of the last record of this entry.
    pub fn last_seq(&self) -> u64 {
        self.first_seq + u64::from(self.count) - 1
    }

    /// Bytes of the whole entry: its header, this header, key, records and skip table.
    pub fn entry_bytes(&self) -> usize {
        ENTRY_HEADER_BYTES
            + RECORDS_HEADER_BYTES
            + usize::from(self.key_bytes.unwrap_or(0))
            + self.records_bytes as usize
            + skip_entries(self.count as usize) * 4
    }
}

/// Entries of the skip table for `count` records.
pub fn skip_entries(count: usize) -> usize {
    count.saturating_sub(1) / SKIP_EVERY
}

/// A records entry's body, checked as a whole shape; records are decoded while walking.
#[derive(Clone, Copy, Debug)]
pub struct RecordsEntry<'a> {
    /// The fixed part.
    pub header: RecordsHeader,
    /// The idempotency key.
    pub key: Option<&'a [u8]>,
    records: &'a [u8],
    skips: &'a [u8],
}

impl<'a> RecordsEntry<'a> {
    /// Reads the body of a records entry. The shape is checked here; a record that reaches beyond
    /// its area ends the walk with an error there.
    pub fn decode(body: &'a [u8]) -> Result<RecordsEntry<'a>, FormatError> {
        let bad = || FormatError::new("records entry");
        if body.len() < RECORDS_HEADER_BYTES {
            return Err(bad());
        }
        let key_bytes = u16_at(body, 48);
        let header = RecordsHeader {
            topic: TopicId(u64_at(body, 0)),
            first_seq: u64_at(body, 8),
            batch_first_seq: u64_at(body, 16),
            ts: u64_at(body, 24) as i64,
            count: u32_at(body, 32),
            batch_count: u32_at(body, 36),
            records_bytes: u32_at(body, 40),
            counted_bytes: u32_at(body, 44),
            key_bytes: (body[50] & 1 != 0).then_some(key_bytes),
        };
        let key_end = RECORDS_HEADER_BYTES + usize::from(key_bytes);
        let records_end = key_end + header.records_bytes as usize;
        let skips_end = records_end + skip_entries(header.count as usize) * 4;
        let sound = header.count > 0
            && header.first_seq > 0
            && header.first_seq.checked_add(u64::from(header.count)).is_some()
            && skips_end == body.len();
        if !sound {
            return Err(bad());
        }
        Ok(RecordsEntry {
            header,
            key: header.key_bytes.is_some().then(|| &body[RECORDS_HEADER_BYTES..key_end]),
            records: &body[key_end..records_end],
            skips: &body[records_end..skips_end],
        })
    }

    /// Walks the records from `from_seq` (or the first, if that is above) to the end of the entry.
    pub fn records_from(&self, from_seq: u64) -> Records<'a> {
        let mut skipped = from_seq.saturating_sub(self.header.first_seq).min(u64::from(self.header.count));
        let mut at = 0;
        let table_entry = skipped as usize / SKIP_EVERY;
        if table_entry > 0 && table_entry <= self.skips.len() / 4 {
            at = u32_at(self.skips, (table_entry - 1) * 4) as usize;
            skipped -= (table_entry * SKIP_EVERY) as u64;
        } else if table_entry > 0 {
            // Only past the end: the entry has no record at or above `from_seq`.
            at = self.records.len();
            skipped = 0;
        }
        let start = from_seq.max(self.header.first_seq);
        let mut records = Records {
            bytes: self.records,
            at,
            seq: start - skipped,
            left: (self.header.last_seq() + 1).saturating_sub(start - skipped) as u32,
            ts: self.header.ts,
        };
        for _ in 0..skipped {
            records.next();
        }
        records
    }
}

/// Iterator over the records of an entry. Ends early with an error if the bytes do not hold.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
    seq: u64,
    left: u32,
    ts: i64,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, FormatError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let bytes = self.bytes;
        let Some(head) = bytes.get(self.at..self.at + RECORD_HEADER_BYTES) else {
            self.left = 0;
            return Some(Err(FormatError::new("record")));
        };
        let data_bytes = u32_at(head, 0) as usize;
        let meta_bytes = usize::from(u16_at(head, 4));
        let tag_bytes = usize::from(u16_at(head, 6));
        let node_bytes = usize::from(head[8]);
        let flags = head[9];
        let data = self.at + RECORD_HEADER_BYTES;
        let meta = data + data_bytes;
        let tag = meta + meta_bytes;
        let node = tag + tag_bytes;
        let end = node + node_bytes;
        if end > bytes.len() {
            self.left = 0;
            return Some(Err(FormatError::new("record")));
        }
        let record = Record {
            seq: self.seq,
            ts: self.ts,
            data: &bytes[data..meta],
            meta: (flags & 1 != 0).then(|| &bytes[meta..tag]),
            tag: (flags & 2 != 0).then(|| &bytes[tag..node]),
            node: (flags & 4 != 0).then(|| &bytes[node..end]),
            hops: head[10],
        };
        self.at = end;
        self.seq += 1;
        self.left -= 1;
        Some(Ok(record))
    }
}

/// A target for encoding: the open commit block, or a buffer.
pub trait Sink {
    /// Appends bytes. Room was made sure of before.
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Bytes a record takes in a records area.
#[inline]
pub fn record_bytes(data: usize, meta: usize, tag: usize, node: usize) -> usize {
    RECORD_HEADER_BYTES + data + meta + tag + node
}

/// Encodes one record.
#[inline]
pub fn put_record(out: &mut impl Sink, record: &Record<'_>) {
    let (meta, tag, node) =
        (record.meta.unwrap_or(&[]), record.tag.unwrap_or(&[]), record.node.unwrap_or(&[]));
    let mut head = [0; RECORD_HEADER_BYTES];
    head[0..4].copy_from_slice(&(record.data.len() as u32).to_le_bytes());
    head[4..6].copy_from_slice(&(meta.len() as u16).to_le_bytes());
    head[6..8].copy_from_slice(&(tag.len() as u16).to_le_bytes());
    head[8] = node.len() as u8;
    head[9] =
        record.meta.is_some() as u8 | (record.tag.is_some() as u8) << 1 | (record.node.is_some() as u8) << 2;
    head[10] = record.hops;
    out.put(&head);
    out.put(record.data);
    if !meta.is_empty() {
        out.put(meta);
    }
    if !tag.is_empty() {
        out.put(tag);
    }
    if !node.is_empty() {
        out.put(node);
    }
}

/// A piece of a batch that becomes one records entry: which records, and how large it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index of the first record.
    pub start: usize,
    /// Index after the last record.
    pub end: usize,
    /// Bytes of the records area.
    pub records_bytes: usize,
    /// Sum of `data` + `meta`.
    pub counted_bytes: u64,
}

impl Piece {
    /// The longest piece of `batch` from record `start` whose entry (with a key of `key_bytes`)
    /// takes at most `room` bytes; empty if not even one record fits.
    pub fn cut(batch: &Batch<'_>, start: usize, key_bytes: usize, room: usize) -> Piece {
        let mut piece = Piece { start, end: start, records_bytes: 0, counted_bytes: 0 };
        let fixed = ENTRY_HEADER_BYTES + RECORDS_HEADER_BYTES + key_bytes;
        for record in &batch.records[start..] {
            let bytes =
                record_bytes(record.data.len(), record.meta.len(), record.tag.len(), record.node.len());
            let count = piece.end - start + 1;
            if fixed + piece.records_bytes + bytes + skip_entries(count) * 4 > room {
                break;
            }
            piece.end += 1;
            piece.records_bytes += bytes;
            piece.counted_bytes += record.counted_bytes();
        }
        piece
    }

    /// Encodes the piece as an entry. `header.count`, `records_bytes`, `counted_bytes` are the
    /// piece's; the rest comes from the caller.
    pub fn put(&self, out: &mut impl Sink, batch: &Batch<'_>, to: &PieceOf<'_>) {
        let header = RecordsHeader {
            topic: to.topic,
            first_seq: to.batch_first_seq + self.start as u64,
            batch_first_seq: to.batch_first_seq,
            ts: to.ts,
            count: (self.end - self.start) as u32,
            batch_count: batch.records.len() as u32,
            records_bytes: self.records_bytes as u32,
            counted_bytes: self.counted_bytes as u32,
            key_bytes: to.key.map(|key| key.len() as u16),
        };
        let body_bytes = header.entry_bytes() - ENTRY_HEADER_BYTES;
        out.put(&EntryHeader { kind: Kind::Records, last: to.last, body_bytes }.encode());
        out.put(&header.encode());
        if let Some(key) = to.key {
            out.put(key);
        }
        for (seq, span) in (header.first_seq..).zip(&batch.records[self.start..self.end]) {
            let of = |span: crate::event::Span| span.of(batch.body, batch.side);
            let record = Record {
                seq,
                ts: to.ts,
                data: of(span.data).expect("data is present"),
                meta: of(span.meta),
                tag: of(span.tag),
                node: of(span.node),
                hops: to.hops,
            };
            put_record(out, &record);
        }
        let mut offset = 0u32;
        for (index, span) in batch.records[self.start..self.end].iter().enumerate() {
            if index > 0 && index % SKIP_EVERY == 0 {
                out.put(&offset.to_le_bytes());
            }
            offset += record_bytes(span.data.len(), span.meta.len(), span.tag.len(), span.node.len()) as u32;
        }
    }
}

/// What a [`Piece`] belongs to.
#[derive(Clone, Copy, Debug)]
pub struct PieceOf<'a> {
    /// The topic.
    pub topic: TopicId,
    /// First seq of the whole batch.
    pub batch_first_seq: u64,
    /// Commit time.
    pub ts: i64,
    /// Idempotency key, for the first piece only.
    pub key: Option<&'a [u8]>,
    /// Router hops of the records (R-12): 0 for what a client wrote, more for copies.
    pub hops: u8,
    /// Whether the batch ends with this entry.
    pub last: bool,
}

/// Encodes live records of one topic, contiguous in seq and of one batch, as an entry: what sealing
/// and compaction do where an entry is only partly alive. `records` must not be empty.
pub fn put_records(out: &mut Vec<u8>, header: &RecordsHeader, records: &[Record<'_>]) {
    let start = out.len();
    out.extend_from_slice(&[0; ENTRY_HEADER_BYTES + RECORDS_HEADER_BYTES]);
    let area = out.len();
    let mut counted_bytes = 0;
    let mut skips: Vec<u32> = Vec::with_capacity(skip_entries(records.len()));
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.seq, records[0].seq + index as u64, "records of an entry are contiguous");
        if index > 0 && index % SKIP_EVERY == 0 {
            skips.push((out.len() - area) as u32);
        }
        counted_bytes += record.counted_bytes();
        put_record(out, record);
    }
    let header = RecordsHeader {
        first_seq: records[0].seq,
        count: records.len() as u32,
        records_bytes: (out.len() - area) as u32,
        counted_bytes: counted_bytes as u32,
        key_bytes: None,
        ..*header
    };
    for skip in skips {
        out.extend_from_slice(&skip.to_le_bytes());
    }
    let body_bytes = out.len() - start - ENTRY_HEADER_BYTES;
    let entry = EntryHeader { kind: Kind::Records, last: true, body_bytes };
    out[start..start + ENTRY_HEADER_BYTES].copy_from_slice(&entry.encode());
    out[start + ENTRY_HEADER_BYTES..area].copy_from_slice(&header.encode());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{RecordSpan, Span};

    fn batch_of(count: usize) -> (Vec<u8>, Vec<RecordSpan>) {
        let mut body = Vec::new();
        let mut spans = Vec::new();
        for index in 0..count {
            let mut put = |text: String| {
                let start = body.len();
                body.extend_from_slice(text.as_bytes());
                Span::body(start, text.len())
            };
            let mut span = RecordSpan { data: put(format!("{{\"n\":{index}}}")), ..Default::default() };
            if index % 2 == 0 {
                span.meta = put(format!("\"m{index}\""));
            }
            if index % 3 == 0 {
                span.tag = put(format!("t{index}"));
            }
            if index % 5 == 0 {
                span.node = put(String::new());
            }
            spans.push(span);
        }
        (body, spans)
    }

    #[test]
    fn a_batch_survives_any_cutting_and_any_entry_point() {
        for count in [1, 2, 63, 64, 65, 128, 129, 1000] {
            let (body, spans) = batch_of(count);
            let batch = Batch { body: &body, side: &[], records: &spans };
            for room in [usize::MAX, 4000, 300] {
                let mut out = Vec::new();
                let mut start = 0;
                while start < count {
                    let key = (start == 0).then_some(&b"key"[..]);
                    let piece = Piece::cut(&batch, start, 3, room);
                    assert!(piece.end > start, "a record fits {room}");
                    let last = piece.end == count;
                    let before = out.len();
                    let to = PieceOf { topic: TopicId(7), batch_first_seq: 11, ts: 5, key, hops: 0, last };
                    piece.put(&mut out, &batch, &to);
                    assert!(out.len() - before <= room);
                    start = piece.end;
                }
                let (mut rest, mut seq) = (&out[..], 11);
                while !rest.is_empty() {
                    let (entry, body_part, after) = split_entry(rest).unwrap();
                    let records = RecordsEntry::decode(body_part).unwrap();
                    assert_eq!(records.header.entry_bytes(), ENTRY_HEADER_BYTES + entry.body_bytes);
                    assert_eq!(entry.last, after.is_empty());
                    assert_eq!(records.key, (seq == 11).then_some(&b"key"[..]));
                    let mut counted = 0;
                    for from in seq..=records.header.last_seq() + 1 {
                        let mut expected = from;
                        for record in records.records_from(from) {
                            let record = record.unwrap();
                            let span = &spans[(record.seq - 11) as usize];
                            assert_eq!(record.seq, expected);
                            assert_eq!(Some(record.data), span.data.of(&body, &[]));
                            assert_eq!(record.meta, span.meta.of(&body, &[]));
                            assert_eq!(record.tag, span.tag.of(&body, &[]));
                            assert_eq!(record.node, span.node.of(&body, &[]));
                            counted += if from == seq { record.counted_bytes() } else { 0 };
                            expected += 1;
                        }
                        assert_eq!(expected, records.header.last_seq() + 1, "from {from}");
                    }
                    assert_eq!(counted, u64::from(records.header.counted_bytes));
                    seq = records.header.last_seq() + 1;
                    rest = after;
                }
                assert_eq!(seq, 11 + count as u64);
            }
        }
    }

    #[test]
    fn rewritten_records_read_like_the_original() {
        let (body, spans) = batch_of(200);
        let batch = Batch { body: &body, side: &[], records: &spans };
        let mut out = Vec::new();
        let piece = Piece::cut(&batch, 0, 0, usize::MAX);
        piece.put(
            &mut out,
            &batch,
            &PieceOf { topic: TopicId(1), batch_first_seq: 1, ts: 9, key: None, hops: 0, last: true },
        );
        let (_, entry, _) = split_entry(&out).unwrap();
        let original = RecordsEntry::decode(entry).unwrap();
        let some: Vec<Record<'_>> = original.records_from(50).map(Result::unwrap).take(130).collect();
        let mut rewritten = Vec::new();
        put_records(&mut rewritten, &original.header, &some);
        let (_, entry, rest) = split_entry(&rewritten).unwrap();
        assert!(rest.is_empty());
        let copy = RecordsEntry::decode(entry).unwrap();
        assert_eq!((copy.header.first_seq, copy.header.batch_first_seq, copy.header.count), (50, 1, 130));
        assert!(copy.records_from(0).map(Result::unwrap).eq(some.iter().copied()));
        assert_eq!(copy.records_from(150).next(), Some(Ok(some[100])));
    }

    #[test]
    fn cut_or_changed_entries_never_panic() {
        let (body, spans) = batch_of(70);
        let batch = Batch { body: &body, side: &[], records: &spans };
        let mut out = Vec::new();
        let piece = Piece::cut(&batch, 0, 0, usize::MAX);
        piece.put(
            &mut out,
            &batch,
            &PieceOf { topic: TopicId(1), batch_first_seq: 1, ts: 9, key: None, hops: 0, last: true },
        );
        for at in 0..out.len() {
            assert!(split_entry(&out[..at]).is_err());
            for bit in 0..8 {
                let mut changed = out.clone();
                changed[at] ^= 1 << bit;
                if let Ok((_, entry, _)) = split_entry(&changed)
                    && let Ok(records) = RecordsEntry::decode(entry)
                {
                    records.records_from(40).for_each(drop);
                }
            }
        }
    }
}
