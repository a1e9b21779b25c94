//! The `meta` of an `exactly_once` copy (R-41): what it is a copy of, added to what the record had.
//! Lives here: where the member goes, text to text. Not here: limits of the result (R-42, whoever copies).
//! Always true: what the record had is kept byte for byte, but for an origin of an earlier copy, which is
//! replaced (J-21).

use super::reader::Reader;
use super::write::META_MEMBERS_MAX;
use crate::http::json_out::{write_str, write_u64};
use runelog_engine::ids::{RouterId, Seq, TopicId};

const MEMBER: &[u8] = b"_topics_router";

/// Which record of which life of which source, and through which router.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyOf<'a> {
    pub(crate) router: &'a str,
    pub(crate) router_id: RouterId,
    pub(crate) source: &'a str,
    pub(crate) source_id: TopicId,
    /// Grows when seqs of the source are used a second time (I-66).
    pub(crate) epoch: u32,
    pub(crate) seq: Seq,
}

impl CopyOf<'_> {
    /// `router:<name>:<router's number>:<source's number>:<epoch>:<seq>`. The router's number is in it
    /// because a router of the same name may be made again after its source lost a tail: without it, the
    /// key of a copy of the lost record could be that of another one's (I-67).
    fn write_key(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"router:");
        out.extend_from_slice(self.router.as_bytes()); // NM-2 leaves nothing to escape
        for number in [self.router_id.0, self.source_id.0, u64::from(self.epoch), self.seq] {
            out.push(b':');
            write_u64(out, number);
        }
        out.push(b'"');
    }

    /// `"_topics_router":{…}`.
    fn write_member(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"_topics_router\":{\"idempotency_key\":");
        self.write_key(out);
        out.extend_from_slice(b",\"router\":");
        write_str(out, self.router);
        out.extend_from_slice(b",\"source_topic\":");
        write_str(out, self.source);
        for (member, number) in [
            (&b",\"source_topic_id\":"[..], self.source_id.0),
            (b",\"source_epoch\":", u64::from(self.epoch)),
            (b",\"source_seq\":", self.seq),
        ] {
            out.extend_from_slice(member);
            write_u64(out, number);
        }
        out.push(b'}');
    }
}

/// Appends the `meta` of a copy of a record that had `meta`, which was checked when it came.
pub(crate) fn write_copy_meta(out: &mut Vec<u8>, meta: Option<&[u8]>, copy: &CopyOf<'_>) {
    let start = out.len();
    out.push(b'{');
    if let Some(meta) = meta {
        if write_other_members(out, meta).is_none() {
            out.truncate(start + 1);
            copy.write_member(out);
            out.extend_from_slice(b",\"_topics_original_meta\":");
            out.extend_from_slice(meta);
            out.push(b'}');
            return;
        }
        if out.len() > start + 1 {
            out.push(b',');
        }
    }
    copy.write_member(out);
    out.push(b'}');
}

/// Appends the members of an object but for an earlier origin. `None`: it is no object, or has no room for
/// one more.
fn write_other_members(out: &mut Vec<u8>, meta: &[u8]) -> Option<()> {
    let mut reader = Reader::new(meta);
    if reader.peek() != b'{' {
        return None;
    }
    reader.open_object().ok()?;
    let mut count = 0;
    while let Some(name) = reader.next_member().ok()? {
        let is_origin = reader.name(name, &mut [0; _]) == MEMBER;
        let (_, end) = reader.skip().ok()?;
        if is_origin {
            continue;
        }
        if count > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&meta[name.start - 1..end]);
        count += 1;
    }
    (count < META_MEMBERS_MAX).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = concat!(
        r#""_topics_router":{"idempotency_key":"router:a->b:7:12:1:34","router":"a->b","#,
        r#""source_topic":"a","source_topic_id":12,"source_epoch":1,"source_seq":34}"#
    );

    fn copy_meta(meta: Option<&str>) -> String {
        let copy = CopyOf {
            router: "a->b",
            router_id: RouterId(7),
            source: "a",
            source_id: TopicId(12),
            epoch: 1,
            seq: 34,
        };
        let mut out = b"before".to_vec();
        write_copy_meta(&mut out, meta.map(str::as_bytes), &copy);
        String::from_utf8(out.split_off(6)).unwrap()
    }

    fn members(count: usize) -> String {
        (0..count).map(|number| format!("\"m{number}\":0")).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn the_origin_is_added_to_an_object_and_wraps_anything_else() {
        let wrapped = |meta: &str| format!("{{{ORIGIN},\"_topics_original_meta\":{meta}}}");
        let old = r#""_topics_router":{"idempotency_key":"router:x:1:2:0:3","nested":{"_topics_router":1}}"#;
        let table = [
            // rule, meta, meta of the copy
            ("R-41 none", None, format!("{{{ORIGIN}}}")),
            ("R-41 empty", Some("{}".into()), format!("{{{ORIGIN}}}")),
            ("R-41 empty", Some("{ \n}".into()), format!("{{{ORIGIN}}}")),
            ("R-41 added", Some(r#"{"a":1}"#.into()), format!(r#"{{"a":1,{ORIGIN}}}"#)),
            (
                "J-21 verbatim",
                Some(r#"{ "a" : [1.50, "\u0041}"] ,"a":{"b":2} }"#.into()),
                format!(r#"{{"a" : [1.50, "\u0041}}"],"a":{{"b":2}},{ORIGIN}}}"#),
            ),
            ("R-41 array", Some("[1, 2]".into()), wrapped("[1, 2]")),
            ("R-41 text", Some("\"{\"".into()), wrapped("\"{\"")),
            ("R-41 number", Some("-1e9".into()), wrapped("-1e9")),
            ("R-41 false", Some("false".into()), wrapped("false")),
            ("R-41 replaced", Some(format!("{{{old}}}")), format!("{{{ORIGIN}}}")),
            (
                "R-41 replaced",
                Some(format!(r#"{{"a":1,{old},"b":2}}"#)),
                format!(r#"{{"a":1,"b":2,{ORIGIN}}}"#),
            ),
            (
                "R-41 replaced",
                Some(r#"{"\u005ftopics_router":1,"b":2}"#.into()),
                format!(r#"{{"b":2,{ORIGIN}}}"#),
            ),
            (
                "R-41 63 members",
                Some(format!("{{{}}}", members(63))),
                format!("{{{},{ORIGIN}}}", members(63)),
            ),
            (
                "R-41 64 members",
                Some(format!("{{{}}}", members(64))),
                wrapped(&format!("{{{}}}", members(64))),
            ),
            (
                "R-41 63 and an origin",
                Some(format!("{{{},{old}}}", members(63))),
                format!("{{{},{ORIGIN}}}", members(63)),
            ),
        ];
        for (rule, meta, expected) in table {
            let copied = copy_meta(meta.as_deref());
            assert_eq!(copied, expected, "{rule}");
            serde_json::from_str::<serde_json::Value>(&copied).expect(rule);
        }
    }

    #[test]
    fn the_key_tells_records_routers_and_epochs_apart() {
        let base = CopyOf {
            router: "r",
            router_id: RouterId(1),
            source: "s",
            source_id: TopicId(1),
            epoch: 0,
            seq: 1,
        };
        let key = |copy: CopyOf<'_>| {
            let mut out = Vec::new();
            copy.write_key(&mut out);
            String::from_utf8(out).unwrap()
        };
        let all = [
            ("R-41", base),
            ("R-41 seq", CopyOf { seq: 2, ..base }),
            ("I-66 epoch", CopyOf { epoch: 1, ..base }),
            ("I-67 router made again", CopyOf { router_id: RouterId(2), ..base }),
            ("I-70 source made again", CopyOf { source_id: TopicId(2), ..base }),
            ("R-41 other router", CopyOf { router: "q", ..base }),
        ];
        for (at, (rule, copy)) in all.iter().enumerate() {
            assert!(key(*copy).starts_with(&format!("\"router:{}:", copy.router)), "{rule}");
            assert!(all[..at].iter().all(|(_, other)| key(*other) != key(*copy)), "{rule}");
        }
    }
}
