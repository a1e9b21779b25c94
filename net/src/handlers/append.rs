//! POST `/v0/topics/{topic}`: the outcome of an append as JSON (§4).

use crate::http::json_out::{write_bool, write_ms, write_str, write_u64};
use crate::message::AppendAnswer;

/// Whether an answer lists the seqs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seqs {
    /// All of them.
    Listed,
    /// The member is not there.
    Absent,
    /// The member is `null` (§9).
    Null,
}

/// Renders the body. Nothing is allocated but what `out` may need to grow.
pub(crate) fn render(
    out: &mut Vec<u8>,
    topic: &str,
    answer: &AppendAnswer,
    return_seqs: bool,
    total_ns: u64,
) {
    out.push(b'{');
    let seqs = if return_seqs { Seqs::Listed } else { Seqs::Absent };
    render_members(out, topic, answer, seqs, total_ns);
    out.push(b'}');
}

/// Renders the members of the body, without braces.
pub(crate) fn render_members(
    out: &mut Vec<u8>,
    topic: &str,
    answer: &AppendAnswer,
    seqs: Seqs,
    total_ns: u64,
) {
    let last_seq = answer.first_seq + u64::from(answer.count) - 1;
    out.extend_from_slice(b"\"topic\":");
    write_str(out, topic);
    out.extend_from_slice(b",\"first_seq\":");
    write_u64(out, answer.first_seq);
    out.extend_from_slice(b",\"last_seq\":");
    write_u64(out, last_seq);
    match seqs {
        Seqs::Listed => {
            out.extend_from_slice(b",\"seqs\":[");
            for seq in answer.first_seq..=last_seq {
                if seq != answer.first_seq {
                    out.push(b',');
                }
                write_u64(out, seq);
            }
            out.push(b']');
        }
        Seqs::Absent => {}
        Seqs::Null => out.extend_from_slice(b",\"seqs\":null"),
    }
    // The head right after this batch is its last seq (W-2): batches of a topic become visible one
    // by one, in order.
    out.extend_from_slice(b",\"head_seq\":");
    write_u64(out, last_seq);
    out.extend_from_slice(b",\"count\":");
    write_u64(out, u64::from(answer.count));
    out.extend_from_slice(b",\"created\":");
    write_bool(out, answer.created);
    out.extend_from_slice(b",\"deduped\":");
    write_bool(out, answer.deduped);
    out.extend_from_slice(b",\"performance\":{\"server_total_ms\":");
    write_ms(out, total_ns);
    if !answer.deduped {
        out.extend_from_slice(b",\"wal_append_ms\":");
        write_ms(out, answer.append_ns);
        out.extend_from_slice(b",\"fsync_ms\":");
        // At least a microsecond, which is what three decimals can show: above zero for `fsync` (P-2).
        write_ms(out, if answer.synced { answer.commit_ns.max(1000) } else { 0 });
    }
    out.push(b'}');
}
