//! Routers as JSON objects without their end (§7): `performance` follows.

use super::graph::Route;
use crate::http::cursor;
use crate::http::json_out::{write_bool, write_str, write_u64};
use runelog_engine::router::RouterDef;
use runelog_engine::shard::TagMatch;

/// R-1; `created` is missing in the answer to GET, `forwarded_total` in that to PUT (R-20).
pub(crate) fn render_router(
    out: &mut Vec<u8>,
    def: &RouterDef,
    created: Option<bool>,
    forwarded_total: Option<u64>,
) {
    out.extend_from_slice(b"{\"router\":");
    write_str(out, &def.name);
    if let Some(created) = created {
        out.extend_from_slice(b",\"created\":");
        write_bool(out, created);
    }
    for (member, name) in [(&b",\"source\":"[..], &def.source), (b",\"dest\":", &def.dest)] {
        out.extend_from_slice(member);
        write_str(out, name);
    }
    for (member, value) in
        [(&b",\"preserve_node\":"[..], def.preserve_node), (b",\"preserve_tag\":", def.preserve_tag)]
    {
        out.extend_from_slice(member);
        write_bool(out, value);
    }
    out.extend_from_slice(b",\"filter\":");
    match &def.filter {
        None => out.extend_from_slice(b"null"),
        Some(filter) => render_filter(out, filter),
    }
    out.extend_from_slice(b",\"allow_cycle\":");
    write_bool(out, def.allow_cycle);
    out.extend_from_slice(b",\"guarantee\":");
    write_str(out, guarantee(def));
    if let Some(total) = forwarded_total {
        out.extend_from_slice(b",\"forwarded_total\":");
        write_u64(out, total);
    }
}

/// A page of the list (R-25).
pub(crate) fn render_list<'a>(out: &mut Vec<u8>, page: impl Iterator<Item = &'a Route>, more: bool) {
    out.extend_from_slice(b"{\"routers\":[");
    let start = out.len();
    let mut last = None;
    for Route { def, progress, .. } in page {
        out.extend_from_slice(if out.len() == start { b"{\"router\":" } else { b",{\"router\":" });
        write_str(out, &def.name);
        out.extend_from_slice(b",\"source\":");
        write_str(out, &def.source);
        out.extend_from_slice(b",\"dest\":");
        write_str(out, &def.dest);
        out.extend_from_slice(b",\"guarantee\":");
        write_str(out, guarantee(def));
        out.extend_from_slice(b",\"forwarded_total\":");
        write_u64(out, progress.forwarded_total());
        out.push(b'}');
        last = Some(&def.name);
    }
    out.push(b']');
    if let Some(last) = last.filter(|_| more) {
        out.extend_from_slice(b",\"next_cursor\":\"");
        cursor::encode(last, out);
        out.push(b'"');
    }
}

/// R-21.
pub(crate) fn render_deleted(out: &mut Vec<u8>, name: &str, deleted: bool) {
    out.extend_from_slice(b"{\"router\":");
    write_str(out, name);
    out.extend_from_slice(b",\"deleted\":");
    write_bool(out, deleted);
}

fn guarantee(def: &RouterDef) -> &'static str {
    if def.exactly_once { "exactly_once" } else { "at_least_once" }
}

/// The long form of a predicate (§6), whichever was sent.
fn render_filter(out: &mut Vec<u8>, filter: &TagMatch) {
    let (operator, tag, rest) = match filter {
        TagMatch::Eq(tag) => ("Eq", tag, ""),
        TagMatch::Prefix(prefix) => ("Glob", prefix, "*"),
    };
    // Tags were UTF-8 when they came.
    let pattern = format!("{}{rest}", String::from_utf8_lossy(tag));
    out.extend_from_slice(b"[\"tag\",\"");
    out.extend_from_slice(operator.as_bytes());
    out.extend_from_slice(b"\",");
    write_str(out, &pattern);
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use super::super::graph::tests::def;
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_router_is_shown_with_the_members_of_its_answer() {
        let common = concat!(
            r#""source":"a","dest":"b","preserve_node":true,"preserve_tag":false,"filter":FILTER,"#,
            r#""allow_cycle":false,"guarantee":"at_least_once""#
        );
        let prefix = |tag: &str| Some(TagMatch::Prefix(tag.into()));
        type Row<'a> = (&'a str, Option<TagMatch>, Option<bool>, Option<u64>, &'a str, &'a str, &'a str);
        let table: [Row<'_>; 5] = [
            // rule, filter, created, forwarded_total, before the common members, filter as shown, after them
            ("R-1", None, Some(true), None, r#""created":true,"#, "null", ""),
            (
                "R-1",
                prefix("sale:"),
                Some(false),
                None,
                r#""created":false,"#,
                r#"["tag","Glob","sale:*"]"#,
                "",
            ),
            (
                "R-20",
                Some(TagMatch::Eq(b"a*\"".to_vec())),
                None,
                Some(7),
                "",
                r#"["tag","Eq","a*\""]"#,
                r#","forwarded_total":7"#,
            ),
            ("R-20", prefix(""), None, Some(0), "", r#"["tag","Glob","*"]"#, r#","forwarded_total":0"#),
            ("E-5", None, None, Some(1), "", "null", r#","forwarded_total":1"#),
        ];
        for (rule, filter, created, total, before, shown, after) in table {
            let def = RouterDef { filter, preserve_tag: false, ..def(1, "a", "b") };
            let mut out = Vec::new();
            render_router(&mut out, &def, created, total);
            let common = common.replace("FILTER", shown);
            let expected = format!("{{\"router\":\"a->b\",{before}{common}{after}");
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{rule}");
        }
    }

    #[test]
    fn a_list_has_five_members_an_entry_and_a_cursor_if_there_is_more() {
        let routes: Vec<Route> = ["b", "c"]
            .iter()
            .map(|dest| Route {
                def: RouterDef { exactly_once: *dest == "c", ..def(1, "a", dest) },
                source_core: 0,
                dest_core: 0,
                source: Arc::default(),
                progress: Arc::new(crate::routers::graph::Progress::new(9, 4)),
                epoch: 0,
            })
            .collect();
        let entries = concat!(
            r#"{"router":"a->b","source":"a","dest":"b","guarantee":"at_least_once","forwarded_total":4},"#,
            r#"{"router":"a->c","source":"a","dest":"c","guarantee":"exactly_once","forwarded_total":4}"#
        );
        let mut cursor = Vec::new();
        cursor::encode("a->c", &mut cursor);
        let more = format!(",\"next_cursor\":\"{}\"", String::from_utf8(cursor).unwrap());
        let table = [
            // rule, entries, more, expected
            ("R-25", &routes[..0], false, "{\"routers\":[]".to_owned()),
            ("R-25", &routes[..], false, format!("{{\"routers\":[{entries}]")),
            ("R-25 G-2", &routes[..], true, format!("{{\"routers\":[{entries}]{more}")),
        ];
        for (rule, routes, more, expected) in table {
            let mut out = Vec::new();
            render_list(&mut out, routes.iter(), more);
            assert_eq!(String::from_utf8(out).unwrap(), expected, "{rule}");
        }
    }
}
