//! POST `/v0/topics/{topic}/diff` (§5): records rendered straight from the stored frames.

use crate::http::json_out::{write_bool, write_i64, write_str, write_u64};
use crate::json::control::DiffRequest;
use runelog_engine::error::No;
use runelog_engine::event::Record;
use runelog_engine::ids::Millis;
use runelog_engine::shard::{ReadOutcome, ReadRequest, Shard, TombstoneReason};

/// Reads and renders an object without its end. On a refusal `out` is as it was.
pub(crate) fn render(
    shard: &mut Shard,
    topic: &str,
    request: &DiffRequest,
    now: Millis,
    out: &mut Vec<u8>,
) -> Result<ReadOutcome, No> {
    let start = out.len();
    out.extend_from_slice(b"{\"topic\":");
    write_str(out, topic);
    out.extend_from_slice(b",\"records\":[");
    let records_start = out.len();
    let skip = |node: &[u8]| request.nodes.contains(Some(node));
    let read = ReadRequest {
        from_seq: request.from_seq,
        limit: request.limit,
        max_bytes: request.max_batch_bytes,
        skip_node: if request.nodes.is_empty() { None } else { Some(&skip) },
    };
    let (tags, meta) = (request.include_tags, request.include_meta);
    let result = shard.read(topic.as_bytes(), &read, now, |record| {
        if out.len() != records_start {
            out.push(b',');
        }
        render_record(out, record, Shown { data: true, tags, meta });
    });
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(no) => {
            out.truncate(start);
            return Err(no);
        }
    };
    out.extend_from_slice(b"],\"next_from_seq\":");
    write_u64(out, outcome.next_from_seq);
    out.extend_from_slice(b",\"head_seq\":");
    write_u64(out, outcome.head_seq);
    out.extend_from_slice(b",\"earliest_seq\":");
    write_u64(out, outcome.earliest_seq);
    out.extend_from_slice(b",\"caught_up\":");
    write_bool(out, outcome.caught_up());
    out.extend_from_slice(b",\"lag\":");
    write_u64(out, outcome.head_seq - outcome.next_from_seq);
    out.extend_from_slice(b",\"tombstone\":");
    match &outcome.tombstone {
        None => out.extend_from_slice(b"null"),
        Some(gap) => {
            out.extend_from_slice(b"{\"gap_from\":");
            write_u64(out, gap.gap_from);
            out.extend_from_slice(b",\"gap_to\":");
            write_u64(out, gap.gap_to);
            out.extend_from_slice(b",\"reason\":\"");
            out.extend_from_slice(reason_name(gap.reason).as_bytes());
            out.extend_from_slice(b"\",\"missed_estimate\":");
            // D-15: on an empty topic this says 1 although nothing is missing; clients know it so.
            write_u64(out, if gap.gap_to == 0 { 1 } else { gap.gap_to - gap.gap_from + 1 });
            out.extend_from_slice(b",\"earliest_seq\":");
            write_u64(out, gap.earliest_seq);
            out.extend_from_slice(b",\"head_seq\":");
            write_u64(out, gap.head_seq);
            out.push(b'}');
        }
    }
    Ok(outcome)
}

/// Which optional members of a record a reader wants to see.
#[derive(Clone, Copy)]
pub(crate) struct Shown {
    pub(crate) data: bool,
    pub(crate) tags: bool,
    pub(crate) meta: bool,
}

/// A record in the shape of §5: `data` and `meta` verbatim (J-21).
#[inline]
pub(crate) fn render_record(out: &mut Vec<u8>, record: &Record<'_>, shown: Shown) {
    out.reserve(record.data.len() + record.meta.map_or(0, <[u8]>::len) + 64);
    out.extend_from_slice(b"{\"$seq\":");
    write_u64(out, record.seq);
    out.extend_from_slice(b",\"$ts\":");
    write_i64(out, record.ts);
    if let Some(node) = record.node {
        out.extend_from_slice(b",\"$node\":");
        write_str(out, text(node));
    }
    if let Some(tag) = record.tag.filter(|_| shown.tags) {
        out.extend_from_slice(b",\"$tag\":");
        write_str(out, text(tag));
    }
    if shown.data {
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(record.data);
    }
    if let Some(value) = record.meta.filter(|_| shown.meta) {
        out.extend_from_slice(b",\"meta\":");
        out.extend_from_slice(value);
    }
    out.push(b'}');
}

/// Tags and nodes were UTF-8 when they were accepted, and their checksum held since.
pub(super) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("\u{fffd}")
}

pub(crate) fn reason_name(reason: TombstoneReason) -> &'static str {
    match reason {
        TombstoneReason::Cap => "cap",
        TombstoneReason::Ttl => "ttl",
        TombstoneReason::Mixed => "mixed",
        TombstoneReason::SourceTrim => "source_trim",
        TombstoneReason::Recreated => "recreated",
    }
}
