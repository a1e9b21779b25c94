//! The bodies of reads and deletes (§5, §6) as values that are valid once and for all.
//! Lives here: their members, defaults and clamps, and the tag predicate (also of routers, §7).
//! Not here: what a read or a delete does.
//! Walked by hand with `reader`: a `diff` is as frequent as a read, and has a handful of members.

use runelog_engine::limits::{DIFF_BYTES_MAX, DIFF_RECORDS_MAX};
pub use runelog_engine::shard::{DeleteRequest, TagMatch};

use super::fault::{BodyError, Fault, Why};
use super::reader::{Reader, each_member};

pub use super::config::{ConfigRequest, DeadLetterError, parse_config};

/// Records a `diff` delivers when it names no `limit`, or 0.
pub const DIFF_RECORDS_DEFAULT: u32 = 256;
/// Byte budget of a `diff` that names none, or 0.
pub const DIFF_BYTES_DEFAULT: u64 = 1 << 20;
/// Longest wait of a `diff`.
pub const WAIT_MS_MAX: u32 = 30_000;

/// The body of a read, with defaults and clamps applied (§5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiffRequest {
    /// Exclusive lower bound.
    pub from_seq: u64,
    /// Records to deliver at most, 1…1000.
    pub limit: u32,
    /// Nodes whose records are dropped (D-7).
    pub nodes: NodeSet,
    /// Whether records carry `$tag`.
    pub include_tags: bool,
    /// Whether records carry `meta`.
    pub include_meta: bool,
    /// Long-poll time, at most 30 000.
    pub wait_ms: u32,
    /// Byte budget, 1…8 388 608.
    pub max_batch_bytes: u64,
}

impl Default for DiffRequest {
    fn default() -> Self {
        DiffRequest {
            from_seq: 0,
            limit: DIFF_RECORDS_DEFAULT,
            nodes: NodeSet::default(),
            include_tags: false,
            include_meta: true,
            wait_ms: 0,
            max_batch_bytes: DIFF_BYTES_DEFAULT,
        }
    }
}

/// A node filter. Empty filters nothing; `""` is a node like any other (D-7).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeSet {
    /// Sorted, so that a long list sent by a client cannot make every record slow.
    names: Vec<Vec<u8>>,
}

impl NodeSet {
    /// Whether it filters nothing.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether records of `node` are dropped; a record without node never is.
    pub fn contains(&self, node: Option<&[u8]>) -> bool {
        let Some(node) = node else { return false };
        self.names.binary_search_by(|name| name.as_slice().cmp(node)).is_ok()
    }
}

/// The short form: a trailing `*` makes a prefix, everything else is literal.
fn short(mut pattern: Vec<u8>) -> TagMatch {
    match pattern.pop_if(|last| *last == b'*') {
        Some(_) => TagMatch::Prefix(pattern),
        None => TagMatch::Eq(pattern),
    }
}

/// Reads the body of a `diff`; an empty one means `{}`.
pub fn parse_diff(body: &[u8]) -> Result<DiffRequest, BodyError> {
    let mut request = DiffRequest::default();
    if body.is_empty() {
        return Ok(request);
    }
    each_member(body, &DIFF_MEMBERS, |reader, member| {
        match member {
            "from_seq" => request.from_seq = reader.u64()?,
            "limit" => request.limit = records_limit(reader)?,
            "node" => request.nodes = node_set(reader)?,
            "include_tags" => request.include_tags = reader.boolean()?,
            "include_meta" => request.include_meta = reader.boolean()?,
            "wait_ms" => request.wait_ms = reader.u32()?.min(WAIT_MS_MAX),
            "max_batch_bytes" => request.max_batch_bytes = bytes_limit(reader)?,
            _ => unreachable!("not in DIFF_MEMBERS"),
        }
        Ok(())
    })?;
    Ok(request)
}

const DIFF_MEMBERS: [&str; 7] =
    ["from_seq", "limit", "node", "include_tags", "include_meta", "wait_ms", "max_batch_bytes"];

/// Reads the body of a delete. One without a selector is refused, and so is an empty one.
pub fn parse_delete(body: &[u8]) -> Result<DeleteRequest, BodyError> {
    let mut request = DeleteRequest { before_seq: None, matcher: None };
    each_member(body, &["before_seq", "match"], |reader, member| {
        let absent = reader.null()?;
        match member {
            _ if absent => {}
            "before_seq" => request.before_seq = Some(reader.u64()?),
            _ => request.matcher = Some(tag_match(reader)?),
        }
        Ok(())
    })?;
    if request.before_seq.is_none() && request.matcher.is_none() {
        return Err(BodyError::invalid("a delete needs `before_seq` or `match`"));
    }
    Ok(request)
}

/// A `limit`: 0 means the default of a diff, more than the maximum the maximum.
pub(super) fn records_limit(reader: &mut Reader<'_>) -> Result<u32, Fault> {
    Ok(match reader.u32()? {
        0 => DIFF_RECORDS_DEFAULT,
        limit => limit.min(DIFF_RECORDS_MAX),
    })
}

/// A `max_batch_bytes`: 0 means the default of a diff, more than the maximum the maximum.
pub(super) fn bytes_limit(reader: &mut Reader<'_>) -> Result<u64, Fault> {
    Ok(match reader.u64()? {
        0 => DIFF_BYTES_DEFAULT,
        bytes => bytes.min(DIFF_BYTES_MAX),
    })
}

/// A string, an array of strings, or `null` for none (J-6).
pub(super) fn node_set(reader: &mut Reader<'_>) -> Result<NodeSet, Fault> {
    let mut names = Vec::new();
    match reader.peek() {
        b'n' => {
            reader.null()?;
        }
        b'"' => names.push(reader.string().map(|text| reader.owned(text))?),
        b'[' => {
            reader.open_array()?;
            while reader.next_element()? {
                names.push(reader.string().map(|text| reader.owned(text))?);
            }
            names.sort_unstable();
            names.dedup();
        }
        _ => return Err(reader.mistyped("a string, an array of strings or null")),
    }
    Ok(NodeSet { names })
}

/// The predicate forms of §6.
pub(super) fn tag_match(reader: &mut Reader<'_>) -> Result<TagMatch, Fault> {
    const FORMS: Why =
        Why::Type("\"tag\", \"prefix*\", [\"tag\",\"Eq\",text] or [\"tag\",\"Glob\",\"prefix*\"]");
    let wrong = Fault::new(reader.at(), FORMS);
    if reader.peek() == b'"' {
        let text = reader.string()?;
        return Ok(short(reader.owned(text)));
    }
    if reader.peek() != b'[' {
        reader.skip()?;
        return Err(wrong);
    }
    reader.open_array()?;
    let mut parts: [Vec<u8>; 3] = Default::default();
    let mut count = 0;
    while reader.next_element()? {
        if count == parts.len() || reader.peek() != b'"' {
            return Err(wrong);
        }
        let text = reader.string()?;
        parts[count] = reader.owned(text);
        count += 1;
    }
    let [field, operator, pattern] = parts;
    match (count, field.as_slice(), operator.as_slice()) {
        (3, b"tag", b"Eq") => Ok(TagMatch::Eq(pattern)),
        (3, b"tag", b"Glob") => match short(pattern) {
            prefix @ TagMatch::Prefix(_) => Ok(prefix),
            TagMatch::Eq(_) => Err(wrong),
        },
        _ => Err(wrong),
    }
}

#[cfg(test)]
mod tests;
