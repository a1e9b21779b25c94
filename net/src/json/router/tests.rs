use super::*;
use crate::json::control::TagMatch;

fn plain() -> RouterRequest {
    RouterRequest {
        source: "a".into(),
        dest: "b".into(),
        preserve_node: true,
        preserve_tag: true,
        create_dest: true,
        filter: None,
        allow_cycle: false,
        exactly_once: false,
    }
}

#[test]
fn options_are_read_and_default() {
    type Change = fn(&mut RouterRequest);
    let table: &[(&str, &str, Change)] = &[
        ("R-2", "", |_| {}),
        ("J-3", r#","x":{"source":[1e9]},"x":1"#, |_| {}),
        ("J-6", r#","filter":null"#, |_| {}),
        ("J-4", r#","\u0067uarantee":"exactly_once""#, |r| r.exactly_once = true),
        ("R-40", r#","guarantee":"at_least_once""#, |_| {}),
        ("R-12", r#","allow_cycle":true"#, |r| r.allow_cycle = true),
        ("R-4", r#","create_dest":false"#, |r| r.create_dest = false),
        ("R-32", r#","preserve_node":false,"preserve_tag":false"#, |r| {
            (r.preserve_node, r.preserve_tag) = (false, false)
        }),
        ("X-3", r#","filter":["tag","Glob","sale:*"]"#, |r| {
            r.filter = Some(TagMatch::Prefix(b"sale:".to_vec()))
        }),
        ("X-3", r#","filter":["tag","Eq","a*"]"#, |r| r.filter = Some(TagMatch::Eq(b"a*".to_vec()))),
        ("X-3", r#","filter":"a*""#, |r| r.filter = Some(TagMatch::Prefix(b"a".to_vec()))),
        ("X-3", r#","filter":"""#, |r| r.filter = Some(TagMatch::Eq(Vec::new()))),
    ];
    for (rule, members, change) in table {
        let mut expected = plain();
        change(&mut expected);
        let text = format!(r#" {{"source":"a","dest":"b"{members}}} "#);
        assert_eq!(parse_router(text.as_bytes()), Ok(expected), "{rule}: {text}");
    }
}

#[test]
fn what_is_no_router_is_refused() {
    for (rule, text) in [
        ("J-1", ""),
        ("J-2", "[]"),
        ("R-1", "{}"),
        ("R-1", r#"{"source":"a"}"#),
        ("R-1", r#"{"dest":"b"}"#),
        ("J-6", r#"{"source":null,"dest":"b"}"#),
        ("J-7", r#"{"source":"a","dest":"b","preserve_node":1}"#),
        ("J-6", r#"{"source":"a","dest":"b","preserve_tag":null}"#),
        ("J-7", r#"{"source":"a","dest":"b","guarantee":"Exactly_once"}"#),
        ("J-6", r#"{"source":"a","dest":"b","guarantee":null}"#),
        ("J-5", r#"{"source":"a","dest":"b","filter":1}"#),
        ("J-5", r#"{"source":"a","dest":"b","filter":["tag","Glob","x"]}"#),
        ("J-4", r#"{"source":"a","dest":"b","dest":"b"}"#),
        ("J-4", r#"{"source":"a","dest":"b","filter":null,"filter":null}"#),
        ("J-8", r#"{"source":"\ud800","dest":"b"}"#),
        ("J-1", r#"{"source":"a","dest":"b"}x"#),
    ] {
        assert!(parse_router(text.as_bytes()).is_err(), "{rule}: {text}");
    }
    let raw = b"{\"source\":\"\xff\",\"dest\":\"b\"}";
    assert!(parse_router(raw).is_err(), "J-8");
}

#[test]
fn names_are_judged_in_the_order_of_the_checks() {
    let long = "x".repeat(256);
    let table = [
        // router, source, dest, part of the message
        ("ledger->audit", "a", "b", None),
        ("9.x_:-", "a", &long[1..], None),
        (">a", "a", "a", Some("router name")),
        ("", "", "", Some("router name")),
        ("a/b", "!", "!", Some("router name")),
        ("a é", "!", "!", Some("router name")),
        (&long, "a", "b", Some("router name")),
        ("r", "!", "!", Some("must differ")),
        ("r", "!", "a", Some("`source`")),
        ("r", "a", "", Some("`dest`")),
        ("r", "a", "a>b", Some("`dest`")),
        ("r", "a", &long, Some("`dest`")),
    ];
    for (router, source, dest, part) in table {
        let request = RouterRequest { source: source.into(), dest: dest.into(), ..plain() };
        let found = request.check(router.as_bytes()).err().map(|error| error.to_string());
        assert_eq!(found.is_some(), part.is_some(), "NM-2 {router} {source} {dest}: {found:?}");
        assert!(found.is_none_or(|found| found.contains(part.unwrap_or_default())), "{router}");
    }
}
