//! A batch of records on its way in, and one record on its way out. Payloads are opaque bytes.
//!
//! The edge that parsed the request keeps its body and hands over spans into it, so a record's bytes
//! are copied once: from the body straight into the commit buffer.

/// A byte range of a request body, or of the side buffer that holds unescaped strings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Span {
    start: u32,
    len: u32,
}

/// Set in `start` when the span points into the side buffer.
const SIDE: u32 = 1 << 31;

impl Span {
    /// No value at all; differs from an empty one (W-35).
    pub const ABSENT: Span = Span { start: u32::MAX, len: 0 };

    /// A range of the body. `start + len` must be below 2 GiB (bodies are bounded far below).
    pub fn body(start: usize, len: usize) -> Span {
        assert!(start + len < SIDE as usize);
        Span { start: start as u32, len: len as u32 }
    }

    /// A range of the side buffer.
    pub fn side(start: usize, len: usize) -> Span {
        assert!(start + len < SIDE as usize - 1);
        Span { start: start as u32 | SIDE, len: len as u32 }
    }

    /// Whether there is a value.
    pub fn is_present(self) -> bool {
        self.start != u32::MAX
    }

    /// Length in bytes; 0 when absent.
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// Whether the value is absent or has no bytes.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The bytes, from the buffer the span points into.
    pub fn of<'a>(self, body: &'a [u8], side: &'a [u8]) -> Option<&'a [u8]> {
        if !self.is_present() {
            return None;
        }
        let start = (self.start & !SIDE) as usize;
        let from = if self.start & SIDE == 0 { body } else { side };
        Some(&from[start..start + self.len as usize])
    }
}

impl Default for Span {
    fn default() -> Self {
        Span::ABSENT
    }
}

impl std::fmt::Debug for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.is_present() {
            false => write!(f, "absent"),
            true if self.start & SIDE != 0 => write!(f, "side {}+{}", self.start & !SIDE, self.len),
            true => write!(f, "body {}+{}", self.start, self.len),
        }
    }
}

/// One record of a batch, as spans. `data` is always present; limits were checked by the edge
/// (W-14…W-16), the engine asserts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordSpan {
    /// The JSON text of `data`, verbatim (J-21). Always a body span.
    pub data: Span,
    /// The JSON text of `meta`, verbatim, or absent. Always a body span.
    pub meta: Span,
    /// The decoded tag, or absent.
    pub tag: Span,
    /// The decoded node after the batch default was applied (W-35), or absent.
    pub node: Span,
}

impl RecordSpan {
    /// What the record counts toward limits and `bytes` (J-23).
    pub fn counted_bytes(&self) -> u64 {
        (self.data.len() + self.meta.len()) as u64
    }
}

/// The records of one append, borrowed from the request that carries them.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    /// The request body that body spans point into.
    pub body: &'a [u8],
    /// Unescaped strings that side spans point into.
    pub side: &'a [u8],
    /// The records, in order; 1…10 000 (W-11, W-12).
    pub records: &'a [RecordSpan],
}

/// One stored record, borrowed from the log or from a cached block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number.
    pub seq: u64,
    /// Commit time of its batch (W-5).
    pub ts: i64,
    /// JSON text of `data`.
    pub data: &'a [u8],
    /// JSON text of `meta`.
    pub meta: Option<&'a [u8]>,
    /// Tag, UTF-8.
    pub tag: Option<&'a [u8]>,
    /// Node, UTF-8.
    pub node: Option<&'a [u8]>,
    /// Router hops so far.
    pub hops: u8,
}

impl Record<'_> {
    /// What the record counts toward limits and `bytes` (J-23).
    pub fn counted_bytes(&self) -> u64 {
        (self.data.len() + self.meta.map_or(0, <[u8]>::len)) as u64
    }
}
