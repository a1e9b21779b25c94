//! A run of records of a source as what one forward brings to a dest.
//! Lives here: which records are copied, what a copy carries, where a run
//! ends. Not here: reading, sending, positions.

use super::graph::Route;
use crate::json::copy_meta::{CopyOf, write_copy_meta};
use crate::limits::{FORWARD_BYTES_MAX, ROUTER_HOPS_MAX};
use runelog_engine::event::{Batch, Record, RecordSpan, Span};
use runelog_engine::ids::Seq;
use runelog_engine::limits::{META_BYTES_MAX, RECORD_BYTES_MAX};

/// Copies of records with equal hops, in order.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    body: Vec<u8>,
    records: Vec<RecordSpan>,
    /// Position of the router after each record.
    pub(crate) through: Vec<Seq>,
    /// Position before.
    pub(crate) from: Seq,
    /// Position after all of it, with what was passed over behind the last record.
    pub(crate) end: Seq,
    /// Records that the source lost before their turn, in front of the others.
    pub(crate) vacant: u64,
    /// Of the copies.
    pub(crate) hops: u8,
    /// Records that cannot be copied.
    pub(crate) oversized: u64,
}

impl Copies {
    /// What it takes in the log of its dest, about.
    pub(crate) fn bytes(&self) -> usize {
        self.body.len() + 32 * self.records.len()
    }

    pub(crate) fn batch(&self) -> Batch<'_> {
        Batch { body: &self.body, side: &[], records: &self.records }
    }
}

/// Makes copies from records handed in one by one.
pub(crate) struct Copier<'a> {
    route: &'a Route,
    records_max: usize,
    copies: Copies,
    /// The next record belongs to another run.
    ended: bool,
}

impl<'a> Copier<'a> {
    pub(crate) fn new(route: &'a Route, from: Seq, records_max: usize) -> Copier<'a> {
        Copier { route, records_max, copies: Copies { from, end: from, ..Copies::default() }, ended: false }
    }

    /// Whether two routers that stand at the same place get the same copies.
    pub(crate) fn makes_the_same(one: &Route, other: &Route) -> bool {
        let (one, other) = (&one.def, &other.def);
        // A copy that says where it comes from names its router.
        !one.exactly_once
            && !other.exactly_once
            && (one.preserve_node, one.preserve_tag) == (other.preserve_node, other.preserve_tag)
            && one.filter == other.filter
    }

    /// The next live record. Returns whether more are wanted.
    pub(crate) fn take(&mut self, record: &Record<'_>) -> bool {
        if self.ended {
            return false;
        }
        let (def, copies) = (&self.route.def, &mut self.copies);
        let passes = record.hops < ROUTER_HOPS_MAX
            && def.filter.as_ref().is_none_or(|filter| filter.matches(record.tag));
        if !passes {
            copies.end = record.seq;
            return true;
        }
        let hops = record.hops + 1;
        let start = copies.body.len();
        let full = copies.records.len() >= self.records_max
            || start + record.data.len() + record.meta.map_or(0, <[u8]>::len) > FORWARD_BYTES_MAX
            || copies.hops != hops;
        if full && !copies.records.is_empty() {
            self.ended = true;
            return false;
        }
        let mut put = |bytes: &[u8]| {
            let at = copies.body.len();
            copies.body.extend_from_slice(bytes);
            Span::body(at, bytes.len())
        };
        let mut span = RecordSpan { data: put(record.data), ..RecordSpan::default() };
        if let Some(node) = record.node.filter(|_| def.preserve_node) {
            span.node = put(node);
        }
        if let Some(tag) = record.tag.filter(|_| def.preserve_tag) {
            span.tag = put(tag);
        }
        if def.exactly_once {
            let at = copies.body.len();
            let copy = CopyOf {
                router: &def.name,
                router_id: def.id,
                source: &def.source,
                source_id: def.source_id,
                epoch: self.route.epoch,
                seq: record.seq,
            };
            write_copy_meta(&mut copies.body, record.meta, &copy);
            span.meta = Span::body(at, copies.body.len() - at);
        } else if let Some(meta) = record.meta {
            span.meta = put(meta);
        }
        copies.end = record.seq;
        if span.meta.len() > META_BYTES_MAX || span.counted_bytes() > RECORD_BYTES_MAX as u64 {
            copies.body.truncate(start);
            copies.oversized += 1;
            return true;
        }
        copies.hops = hops;
        copies.records.push(span);
        copies.through.push(record.seq);
        true
    }

    /// What came of it. `next`: the reader has looked at everything up to here. `lost`: see
    /// [`Copies::vacant`].
    pub(crate) fn finish(self, next: Seq, lost: u64) -> Copies {
        let Copier { mut copies, ended, .. } = self;
        copies.vacant = lost;
        if !ended {
            copies.end = next;
        }
        copies
    }
}

#[cfg(test)]
mod tests {
    use super::super::graph::{Route, tests::def};
    use super::*;
    use runelog_engine::router::RouterDef;
    use runelog_engine::shard::TagMatch;
    use std::sync::Arc;

    fn route(change: impl Fn(&mut RouterDef)) -> Route {
        let mut def = def(1, "a", "b");
        change(&mut def);
        let (source, progress) = (Arc::default(), Arc::default());
        Route { def, source_core: 0, dest_core: 0, source, progress, epoch: 2 }
    }

    fn record<'a>(seq: Seq, data: &'a str, tag: Option<&'a str>, hops: u8) -> Record<'a> {
        let (tag, node) = (tag.map(str::as_bytes), Some(&b"n"[..]));
        Record { seq, ts: 5, data: data.as_bytes(), meta: None, tag, node, hops }
    }

    /// Copies as data, tag, node, and the positions after them.
    fn shown(copies: &Copies) -> Vec<(String, Option<String>, Option<String>, Seq)> {
        let batch = copies.batch();
        let text = |span: Span| {
            span.of(batch.body, batch.side).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
        };
        let each = batch.records.iter().zip(&copies.through);
        each.map(|(span, seq)| (text(span.data).unwrap(), text(span.tag), text(span.node), *seq)).collect()
    }

    #[test]
    fn what_is_copied_follows_from_the_options() {
        let records = [record(3, "1", Some("x:1"), 0), record(4, "2", None, 0), record(6, "3", Some("y"), 0)];
        let row = |data: &str, tag: Option<&str>, node: Option<&str>, seq| {
            (data.to_owned(), tag.map(str::to_owned), node.map(str::to_owned), seq)
        };
        let n = Some("n");
        let all = |tags: bool, node: Option<&'static str>| {
            let tag = |tag| Some(tag).filter(|_| tags);
            vec![row("1", tag("x:1"), node, 3), row("2", None, node, 4), row("3", tag("y"), node, 6)]
        };
        type Change = fn(&mut RouterDef);
        let table: [(&str, Change, Vec<_>); 6] = [
            ("R-32", |_| {}, all(true, n)),
            ("7 preserve_tag", |def| def.preserve_tag = false, all(false, n)),
            ("7 preserve_node", |def| def.preserve_node = false, all(true, None)),
            (
                "R-34 prefix",
                |def| def.filter = Some(TagMatch::Prefix(b"x:".to_vec())),
                vec![row("1", Some("x:1"), n, 3)],
            ),
            (
                "R-34 filtered by a tag that is not kept",
                |def| (def.filter, def.preserve_tag) = (Some(TagMatch::Eq(b"y".to_vec())), false),
                vec![row("3", None, n, 6)],
            ),
            ("X-3 untagged", |def| def.filter = Some(TagMatch::Prefix(Vec::new())), {
                vec![row("1", Some("x:1"), n, 3), row("3", Some("y"), n, 6)]
            }),
        ];
        for (rule, change, expected) in table {
            let route = route(change);
            let mut copier = Copier::new(&route, 2, 100);
            assert!(records.iter().all(|record| copier.take(record)), "{rule}");
            let copies = copier.finish(9, 0);
            assert_eq!(shown(&copies), expected, "{rule}");
            assert_eq!((copies.from, copies.end, copies.hops), (2, 9, 1), "R-34 {rule}");
        }
    }

    #[test]
    fn a_run_has_one_number_of_hops_and_ends_within_its_limits() {
        let big = "1".repeat(FORWARD_BYTES_MAX);
        type Row<'a> = (&'a str, usize, Vec<Record<'a>>, Vec<Seq>, Seq, u8);
        let plain = |seq, hops| record(seq, "1", None, hops);
        let table: [Row<'_>; 8] = [
            // rule, records at most, records, copied, end, hops of the copies
            ("R-12", 9, vec![plain(1, 0), plain(2, 1), plain(3, 0)], vec![1], 1, 1),
            ("R-12", 9, vec![plain(1, 7), plain(2, 8), plain(3, 7)], vec![1, 3], 9, 8),
            ("R-12 none", 9, vec![plain(1, 8), plain(2, 8)], vec![], 9, 0),
            ("R-12 first", 9, vec![plain(1, 8), plain(2, 3)], vec![2], 9, 4),
            ("records", 2, vec![plain(1, 0), plain(2, 0), plain(3, 0)], vec![1, 2], 2, 1),
            ("records", 2, vec![plain(1, 0), plain(2, 0)], vec![1, 2], 9, 1),
            ("bytes", 9, vec![plain(1, 0), record(2, &big, None, 0)], vec![1], 1, 1),
            ("bytes, but one record", 9, vec![record(2, &big, None, 0), plain(3, 0)], vec![2], 2, 1),
        ];
        for (rule, records_max, records, copied, end, hops) in table {
            let route = route(|_| {});
            let mut copier = Copier::new(&route, 0, records_max);
            records.iter().for_each(|record| {
                copier.take(record);
            });
            let copies = copier.finish(9, 0);
            assert_eq!((&copies.through, copies.end, copies.hops), (&copied, end, hops), "{rule}");
        }
    }

    #[test]
    fn losses_come_first_and_what_grew_too_large_is_passed_over() {
        let once = route(|def| def.exactly_once = true);
        let meta = format!("\"{}\"", "m".repeat(META_BYTES_MAX - 2));
        let grown = Record { meta: Some(meta.as_bytes()), ..record(8, "1", None, 0) };
        let mut copier = Copier::new(&once, 2, 100);
        for record in [&record(7, "1", None, 0), &grown, &record(9, "3", None, 0), &grown] {
            assert!(copier.take(record));
        }
        let copies = copier.finish(12, 4);
        assert_eq!((copies.vacant, copies.oversized), (4, 2), "R-36 R-42");
        assert_eq!((copies.through.as_slice(), copies.end), (&[7, 9][..], 12), "R-42");
        let batch = copies.batch();
        let meta = batch.records[1].meta.of(batch.body, batch.side).unwrap();
        let meta: serde_json::Value = serde_json::from_slice(meta).unwrap();
        assert_eq!(meta["_topics_router"]["idempotency_key"], "router:a->b:1:1:2:9", "R-41");
        assert_eq!(batch.records[1].data.of(batch.body, &[]), Some(&b"3"[..]), "R-32");
        // Without the origin it fits.
        let plain = route(|_| {});
        let mut copier = Copier::new(&plain, 2, 100);
        copier.take(&grown);
        assert_eq!(copier.finish(12, 0).through, [8]);
    }

    #[test]
    fn copies_are_shared_among_equals() {
        let base = route(|_| {});
        type Change = fn(&mut RouterDef);
        let table: [(&str, Change, bool); 5] = [
            ("equal", |def| def.allow_cycle = true, true),
            ("node", |def| def.preserve_node = false, false),
            ("tag", |def| def.preserve_tag = false, false),
            ("filter", |def| def.filter = Some(TagMatch::Eq(b"t".to_vec())), false),
            ("exactly once", |def| def.exactly_once = true, false),
        ];
        for (what, change, same) in table {
            assert_eq!(Copier::makes_the_same(&base, &route(change)), same, "{what}");
            assert_eq!(Copier::makes_the_same(&route(change), &base), same, "{what}");
        }
        let once = route(|def| def.exactly_once = true);
        assert!(!Copier::makes_the_same(&once, &once), "R-41");
    }
}
