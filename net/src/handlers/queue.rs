//! Claim, ack, nack and extend (§10) as JSON objects without their end, and the copy of a job that goes
//! to the dead-letter topic.

use super::diff::text;
use crate::http::json_out::{write_i64, write_str, write_u64};
use crate::json::meta::put_members;
use crate::json::queue::LeaseToken;
use crate::message::AppendOp;
use runelog_engine::event::{Record, RecordSpan, Span};
use runelog_engine::ids::{Millis, Seq};
use runelog_engine::shard::{Job, Named, QueueCounts};

/// The front of a claim's answer, up to its first job.
pub(crate) fn begin_claimed(out: &mut Vec<u8>, topic: &str) {
    out.extend_from_slice(b"{\"topic\":");
    write_str(out, topic);
    out.extend_from_slice(b",\"claimed\":[");
}

/// A job in the shape of Q-11.
pub(crate) fn render_job(out: &mut Vec<u8>, job: &Job<'_>) {
    out.push(b'{');
    render_job_members(out, job);
    out.push(b'}');
}

/// A job as an event of a work stream (Q-71). White space between the tokens of a payload may end lines,
/// which an event must not (V-4).
pub(crate) fn render_event(out: &mut Vec<u8>, topic: &str, job: &Job<'_>) {
    out.extend_from_slice(b"id: ");
    write_u64(out, job.record.seq);
    out.extend_from_slice(b"\nevent: job\ndata: {\"topic\":");
    let start = out.len();
    write_str(out, topic);
    out.push(b',');
    render_job_members(out, job);
    for byte in out[start..].iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
    out.extend_from_slice(b"}\n\n");
}

/// Its members, without the braces.
fn render_job_members(out: &mut Vec<u8>, job: &Job<'_>) {
    let record = job.record;
    out.reserve(record.data.len() + record.meta.map_or(0, <[u8]>::len) + 192);
    out.extend_from_slice(b"\"$seq\":");
    write_u64(out, record.seq);
    out.extend_from_slice(b",\"lease_id\":\"");
    LeaseToken::from(job.token).render(out);
    out.extend_from_slice(b"\",\"deadline\":");
    write_i64(out, job.deadline);
    out.extend_from_slice(b",\"$ts\":");
    write_i64(out, record.ts);
    if let Some(tag) = record.tag {
        out.extend_from_slice(b",\"$tag\":");
        write_str(out, text(tag));
    }
    out.extend_from_slice(b",\"deliveries\":");
    write_u64(out, u64::from(job.deliveries));
    out.extend_from_slice(b",\"data\":");
    out.extend_from_slice(record.data);
    if let Some(meta) = record.meta {
        out.extend_from_slice(b",\"meta\":");
        out.extend_from_slice(meta);
    }
}

/// The rest of a claim's answer (Q-10).
pub(crate) fn end_claimed(out: &mut Vec<u8>, count: u32, counts: &QueueCounts) {
    out.extend_from_slice(b"],\"count\":");
    write_u64(out, u64::from(count));
    out.extend_from_slice(b",\"ready\":");
    write_u64(out, counts.ready);
}

/// Ack and nack (Q-40, Q-51); `done` names the first number.
pub(crate) fn render_settled(
    out: &mut Vec<u8>,
    topic: &str,
    done: (&str, u32),
    skipped: &[Seq],
    counts: &QueueCounts,
) {
    begin_settled(out, topic, done, skipped);
    out.extend_from_slice(b",\"ready\":");
    write_u64(out, counts.ready);
    out.extend_from_slice(b",\"in_flight\":");
    write_u64(out, counts.in_flight);
}

/// Extend (Q-56). What was not skipped is, in order, what was extended.
pub(crate) fn render_extended(
    out: &mut Vec<u8>,
    topic: &str,
    extended: u32,
    named: &[Named],
    skipped: &[Seq],
    deadline: Millis,
) {
    begin_settled(out, topic, ("extended", extended), skipped);
    out.extend_from_slice(b",\"deadlines\":{");
    let mut skipped = skipped.iter().peekable();
    let mut seqs: Vec<Seq> = named
        .iter()
        .map(|named| named.seq)
        .filter(|seq| skipped.next_if(|skipped| *skipped == seq).is_none())
        .collect();
    // A seq named twice is one member.
    seqs.sort_unstable();
    seqs.dedup();
    for (index, seq) in seqs.into_iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"\"" } else { b",\"" });
        write_u64(out, seq);
        out.extend_from_slice(b"\":");
        write_i64(out, deadline);
    }
    out.push(b'}');
}

fn begin_settled(out: &mut Vec<u8>, topic: &str, (name, done): (&str, u32), skipped: &[Seq]) {
    out.extend_from_slice(b"{\"topic\":");
    write_str(out, topic);
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    write_u64(out, u64::from(done));
    out.extend_from_slice(b",\"skipped\":[");
    for (index, seq) in skipped.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_u64(out, *seq);
    }
    out.push(b']');
}

/// The copy of a job for the dead-letter topic (Q-61, Q-62): data, tag and node as they are, and `meta`
/// with where it comes from. A missing topic is created with default settings.
pub(crate) fn dead_letter_copy(queue: &str, dead_letter: &str, m: u64, record: &Record<'_>) -> Box<AppendOp> {
    let mut op =
        Box::new(AppendOp { topic: dead_letter.to_owned(), create: Some(true), ..AppendOp::default() });
    op.body.extend_from_slice(record.data);
    let members = [
        ("$dead_letter_from", queue.to_owned()),
        ("$dead_letter_deliveries", m.to_string()),
        ("$dead_letter_src_seq", record.seq.to_string()),
    ];
    put_members(&mut op.body, record.meta, &members);
    let mut aside = |bytes: Option<&[u8]>| {
        bytes.map_or(Span::ABSENT, |bytes| {
            op.side.extend_from_slice(bytes);
            Span::side(op.side.len() - bytes.len(), bytes.len())
        })
    };
    let (tag, node) = (aside(record.tag), aside(record.node));
    let data = Span::body(0, record.data.len());
    let meta = Span::body(record.data.len(), op.body.len() - record.data.len());
    op.records.push(RecordSpan { data, meta, tag, node });
    op
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_keeps_everything_and_says_where_it_comes_from() {
        let record = Record {
            seq: 7,
            ts: 5,
            data: b"[1]",
            meta: Some(b"{\"a\":1}"),
            tag: Some(b"red"),
            node: Some(b"n"),
            hops: 0,
        };
        let op = dead_letter_copy("q", "dead", 3, &record);
        let copy = op.records[0];
        let part = |span: Span| std::str::from_utf8(span.of(&op.body, &op.side).expect("there")).unwrap();
        assert_eq!(part(copy.data), "[1]", "Q-61");
        let meta =
            r#"{"a":1,"$dead_letter_from":"q","$dead_letter_deliveries":"3","$dead_letter_src_seq":"7"}"#;
        assert_eq!(part(copy.meta), meta, "Q-61");
        assert_eq!((part(copy.tag), part(copy.node)), ("red", "n"), "Q-61");
        assert_eq!((op.topic.as_str(), op.create), ("dead", Some(true)), "Q-62");
        let bare = Record { meta: None, tag: None, node: None, ..record };
        let op = dead_letter_copy("q", "dead", 3, &bare);
        assert!(!op.records[0].tag.is_present() && !op.records[0].node.is_present());
    }

    #[test]
    fn an_event_is_one_line_whatever_its_payload() {
        let record = Record {
            seq: 42,
            ts: 5,
            data: b"{\n\"a\":\r\n1}",
            meta: None,
            tag: Some(b"t"),
            node: None,
            hops: 0,
        };
        let token = runelog_engine::queue::LeaseToken(1 << 64 | 0x2d);
        let mut out = Vec::new();
        render_event(&mut out, "q", &Job { record: &record, token, deadline: 9, deliveries: 1 });
        let expected = "id: 42\nevent: job\ndata: {\"topic\":\"q\",\"$seq\":42,\
            \"lease_id\":\"lease_0000000000000001000000000000002d\",\"deadline\":9,\"$ts\":5,\"$tag\":\"t\",\
            \"deliveries\":1,\"data\":{ \"a\":  1}}\n\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected, "Q-71");
    }

    #[test]
    fn extended_jobs_are_told_once_each() {
        let named = [5, 9, 5, 7].map(|seq| Named { seq, fence: None });
        let mut out = Vec::new();
        render_extended(&mut out, "q", 3, &named, &[9], 1234);
        let text = String::from_utf8(out).unwrap();
        let expected = r#"{"topic":"q","extended":3,"skipped":[9],"deadlines":{"5":1234,"7":1234}"#;
        assert_eq!(text, expected, "Q-56");
    }
}
