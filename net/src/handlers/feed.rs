//! One read of a topic for those who watch it (§8, §9): rendered once, shared by all watchers that stand
//! at its cursor with its options.

use super::diff::{Shown, render_record};
use crate::feed::FeedRead;
use crate::http::json_out::{write_str, write_u64};
use crate::json::watch::Delivery;
use runelog_engine::error::No;
use runelog_engine::ids::Millis;
use runelog_engine::shard::{ReadOutcome, ReadRequest, Shard};

/// Reads from `from_seq`. `scratch` is memory for use again.
pub(crate) fn render(
    shard: &mut Shard,
    topic: &str,
    from_seq: u64,
    options: &Delivery,
    now: Millis,
    scratch: &mut Vec<u8>,
) -> Result<(ReadOutcome, FeedRead), No> {
    scratch.clear();
    let skip = |node: &[u8]| options.nodes.contains(Some(node));
    let request = ReadRequest {
        from_seq,
        limit: options.limit,
        max_bytes: options.max_batch_bytes,
        skip_node: if options.nodes.is_empty() { None } else { Some(&skip) },
    };
    let Delivery { include_data: data, include_tags: tags, include_meta: meta, .. } = *options;
    let outcome = shard.read(topic.as_bytes(), &request, now, |record| {
        if !scratch.is_empty() {
            scratch.push(b',');
        }
        render_record(scratch, record, Shown { data, tags, meta });
    })?;
    let read = FeedRead {
        tombstone: outcome.tombstone.map(Box::new),
        record: event(topic, from_seq, &outcome, scratch),
        has_line_ends: memchr::memchr2(b'\n', b'\r', scratch).is_some(),
        to_seq: outcome.next_from_seq,
        head_seq: outcome.head_seq,
    };
    Ok((outcome, read))
}

/// V-12: `from_seq` is where the read started, also across a gap.
fn event(topic: &str, from_seq: u64, outcome: &ReadOutcome, records: &[u8]) -> Box<[u8]> {
    if outcome.delivered == 0 {
        return Box::default();
    }
    let mut out = Vec::with_capacity(records.len() + topic.len() + 128);
    out.extend_from_slice(b"\"topic\":");
    write_str(&mut out, topic);
    for (member, number) in [
        (&b",\"from_seq\":"[..], from_seq),
        (b",\"to_seq\":", outcome.next_from_seq),
        (b",\"head_seq\":", outcome.head_seq),
    ] {
        out.extend_from_slice(member);
        write_u64(&mut out, number);
    }
    out.extend_from_slice(b",\"records\":[");
    out.extend_from_slice(records);
    out.push(b']');
    out.into_boxed_slice()
}
