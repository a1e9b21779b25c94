use super::*;
use runelog_engine::config::{Class, Discard, TopicConfig, TopicType};

fn config(text: &str) -> Option<TopicConfig> {
    parse_config(text.as_bytes()).ok().map(ConfigRequest::normalise)
}

#[test]
fn configurations_are_normalised() {
    type Change = fn(&mut TopicConfig);
    let table: &[(&str, &str, Change)] = &[
        ("CF-1", "", |_| {}),
        ("CF-1", " { } ", |_| {}),
        ("CF-1", r#"{"durability":null,"priority":null,"dead_letter":null}"#, |_| {}),
        ("CF-5", r#"{"durable":true}"#, |c| c.class = Class::Fsync),
        ("CF-5", r#"{"durable":false}"#, |c| c.class = Class::Disk),
        ("CF-5", r#"{"durable":true,"durability":null}"#, |c| c.class = Class::Fsync),
        ("CF-5", r#"{"durable":true,"durability":"memory"}"#, |c| c.class = Class::Memory),
        ("CF-5", r#"{"durability":"ephemeral"}"#, |c| c.class = Class::Ephemeral),
        ("CF-5", r#"{"durability":"fsync","durable":false}"#, |c| c.class = Class::Fsync),
        ("CF-6", r#"{"lease_ms":0,"claim_jitter_ms":5001}"#, |c| {
            (c.lease_ms, c.claim_jitter_ms) = (100, 5000)
        }),
        ("CF-6", r#"{"lease_ms":86400001}"#, |c| c.lease_ms = 86_400_000),
        ("CF-6", r#"{"lease_ms":101,"claim_jitter_ms":4999}"#, |c| {
            (c.lease_ms, c.claim_jitter_ms) = (101, 4999)
        }),
        ("CF-7", r#"{"ttl_ms":18446744073709551615}"#, |c| c.ttl_ms = u64::MAX),
        ("J-5", r#"{"priority":-2147483648}"#, |c| c.priority = Some(i32::MIN)),
        ("J-5", r#"{"priority":2147483647}"#, |c| c.priority = Some(i32::MAX)),
        ("J-3", r#"{"x":{"y":[1e5,12345678901234567890123,"\ud83d\ude00",[]]},"cap_bytes":2}"#, |c| {
            c.cap_bytes = 2
        }),
        ("J-3", r#"{"x":1,"x":2}"#, |_| {}),
        ("J-4", r#"{"\u0074tl_ms":5}"#, |c| c.ttl_ms = 5),
        (
            "CF-2",
            r#"{"type":"queue","ttl_ms":1,"cap_records":2,"cap_bytes":3,"discard":"reject","durable":true,
                "durability":"memory","priority":4,"auto_priority":false,"auto_create":false,
                "idempotency_window_ms":5,"dedupe_node":false,"lease_ms":600,"claim_jitter_ms":7,
                "max_deliveries":8,"dead_letter":"d\u0065ad","leases_durable":true}"#,
            |c| {
                *c = TopicConfig {
                    kind: TopicType::Queue,
                    ttl_ms: 1,
                    cap_records: 2,
                    cap_bytes: 3,
                    discard: Discard::Reject,
                    class: Class::Memory,
                    priority: Some(4),
                    auto_priority: false,
                    auto_create: false,
                    idempotency_window_ms: 5,
                    dedupe_node: false,
                    lease_ms: 600,
                    claim_jitter_ms: 7,
                    max_deliveries: 8,
                    dead_letter: Some("dead".into()),
                    leases_durable: true,
                }
            },
        ),
    ];
    for (rule, text, change) in table {
        let mut expected = TopicConfig::default();
        change(&mut expected);
        assert_eq!(config(text), Some(expected), "{rule}: {text}");
    }
}

#[test]
fn configurations_of_wrong_types_are_refused() {
    let counts = [
        "ttl_ms",
        "cap_records",
        "cap_bytes",
        "idempotency_window_ms",
        "lease_ms",
        "claim_jitter_ms",
        "max_deliveries",
    ];
    let flags = ["durable", "auto_priority", "auto_create", "dedupe_node", "leases_durable"];
    let no_flag = ["1", "0", "\"true\"", "null", "[]"];
    let no_count = ["1.0", "1e3", "\"1\"", "true", "-1", "-0", "18446744073709551616", "null", "[]", "{}"];
    let no_priority = ["1.0", "\"1\"", "2147483648", "-2147483649", "true", "-0"];
    let no_word =
        ["\"Log\"", "\"LOG\"", "\"\"", "null", "1", "{\"log\":null}", "[\"log\"]", "{\"old\":null}"];
    let mut table = Vec::new();
    let mut cross = |rule, names: &[&'static str], values: &[&'static str]| {
        for &name in names {
            table.extend(values.iter().map(|&value| (rule, name, value)));
        }
    };
    cross("J-5", &counts, &no_count);
    cross("J-5", &["priority"], &no_priority);
    cross("J-7", &flags, &no_flag);
    cross("J-7", &["type", "discard"], &no_word);
    cross("J-7", &["durability"], &["\"Fsync\"", "\"\"", "0", "{\"fsync\":null}"]);
    cross("J-7", &["dead_letter"], &["1", "[]", "true"]);
    for (rule, name, value) in table {
        // With an integer that simd-json cannot read, so that both of our readers are asked.
        for other in ["0", "123456789012345678901234567890"] {
            let text = format!(r#"{{"x":{other},"{name}":{value}}}"#);
            assert_eq!(config(&text), None, "{rule}: {text}");
        }
    }
    for (rule, text) in [
        ("J-4", r#"{"ttl_ms":1,"ttl_ms":1}"#),
        ("J-4", r#"{"priority":null,"priority":null}"#),
        ("J-4", r#"{"ttl_ms":1,"\u0074tl_ms":1}"#),
        ("J-2", "[]"),
        ("J-2", r#"["log"]"#),
        ("J-2", "null"),
        ("J-1", " "),
        ("J-1", "{} {}"),
        ("J-1", "\u{feff}{}"),
        ("J-8", r#"{"x":1e400}"#),
        ("J-8", r#"{"x":"\ud800"}"#),
    ] {
        assert_eq!(config(text), None, "{rule}: {text}");
    }
    assert_eq!(config(&format!(r#"{{"x":{}{}}}"#, "[".repeat(127), "]".repeat(127))), None, "J-9");
    assert!(config(&format!(r#"{{"x":{}{}}}"#, "[".repeat(126), "]".repeat(126))).is_some(), "J-9");
}

#[test]
fn dead_letters_are_checked_against_name_and_topic() {
    for (rule, text, expected) in [
        ("NM-1", r#"{"dead_letter":"a b"}"#, Err(DeadLetterError::Name("a b".into()))),
        ("NM-1", r#"{"dead_letter":""}"#, Err(DeadLetterError::Name(String::new()))),
        ("CF-6", r#"{"dead_letter":"self"}"#, Ok(())),
        ("CF-6", r#"{"type":"queue","dead_letter":"self"}"#, Err(DeadLetterError::Itself)),
        ("CF-6", r#"{"type":"queue","dead_letter":"other"}"#, Ok(())),
        ("CF-6", "{}", Ok(())),
    ] {
        let request = parse_config(text.as_bytes()).expect(text);
        assert_eq!(request.check_dead_letter(b"self"), expected, "{rule}: {text}");
    }
}

#[test]
fn diffs_are_read_with_defaults_and_clamps() {
    type Change = fn(&mut DiffRequest);
    let table: &[(&str, &str, Change)] = &[
        ("M-2", "", |_| {}),
        ("§5", "{}", |_| {}),
        ("§5", r#"{"from_seq":18446744073709551615}"#, |r| r.from_seq = u64::MAX),
        ("§5", r#"{"limit":0}"#, |_| {}),
        ("§5", r#"{"limit":1}"#, |r| r.limit = 1),
        ("§5", r#"{"limit":1001}"#, |r| r.limit = 1000),
        ("§5", r#"{"limit":4294967295}"#, |r| r.limit = 1000),
        ("§5", r#"{"wait_ms":30001,"max_batch_bytes":0}"#, |r| r.wait_ms = 30_000),
        ("§5", r#"{"max_batch_bytes":18446744073709551615}"#, |r| r.max_batch_bytes = 8_388_608),
        ("§5", r#"{"max_batch_bytes":1}"#, |r| r.max_batch_bytes = 1),
        ("§5", r#"{"include_tags":true,"include_meta":false}"#, |r| {
            (r.include_tags, r.include_meta) = (true, false)
        }),
        ("J-6", r#"{"node":null}"#, |_| {}),
        ("D-7", r#"{"node":[]}"#, |_| {}),
        ("D-7", r#"{"node":""}"#, |r| r.nodes.names = vec![vec![]]),
        ("D-7", r#"{"node":"\u0061"}"#, |r| r.nodes.names = vec![b"a".to_vec()]),
        ("D-7", r#"{"node":["b","a","b"]}"#, |r| r.nodes.names = vec![b"a".to_vec(), b"b".to_vec()]),
        ("J-3", r#" {"x" : [ 1 ] , "y":{"limit":2}, "limit" : 3 } "#, |r| r.limit = 3),
    ];
    for (rule, text, change) in table {
        let mut expected = DiffRequest::default();
        change(&mut expected);
        assert_eq!(parse_diff(text.as_bytes()), Ok(expected), "{rule}: {text}");
    }
    let refused: &[(&str, &str)] = &[
        ("J-1", " "),
        ("J-1", "{}x"),
        ("J-1", r#"{"limit":1,}"#),
        ("J-2", "[]"),
        ("J-2", "[5]"),
        ("J-4", r#"{"limit":1,"limit":1}"#),
        ("J-4", r#"{"node":null,"node":null}"#),
        ("J-5", r#"{"from_seq":1.0}"#),
        ("J-5", r#"{"from_seq":1e3}"#),
        ("J-5", r#"{"from_seq":"1"}"#),
        ("J-5", r#"{"from_seq":true}"#),
        ("J-5", r#"{"from_seq":-1}"#),
        ("J-5", r#"{"from_seq":-0}"#),
        ("J-5", r#"{"from_seq":18446744073709551616}"#),
        ("J-5", r#"{"from_seq":99999999999999999999999}"#),
        ("J-5", r#"{"limit":4294967296}"#),
        ("J-5", r#"{"wait_ms":4294967296}"#),
        ("J-6", r#"{"from_seq":null}"#),
        ("J-6", r#"{"include_tags":null}"#),
        ("J-7", r#"{"include_tags":1}"#),
        ("J-7", r#"{"include_meta":"true"}"#),
        ("§5", r#"{"node":1}"#),
        ("§5", r#"{"node":[1]}"#),
        ("§5", r#"{"node":[null]}"#),
        ("§5", r#"{"node":["a",]}"#),
        ("J-8", "{\"x\":\"\u{1}\"}"),
    ];
    for (rule, text) in refused {
        assert!(matches!(parse_diff(text.as_bytes()), Err(BodyError::Invalid(_))), "{rule}: {text}");
    }
}

#[test]
fn node_sets_match_bytes_and_never_absence() {
    let set = parse_diff(br#"{"node":["b","","a"]}"#).expect("legal").nodes;
    for (node, expected) in
        [(Some(&b"a"[..]), true), (Some(b""), true), (Some(b"A"), false), (Some(b"ab"), false), (None, false)]
    {
        assert_eq!(set.contains(node), expected, "D-7: {node:?}");
    }
    assert!(!NodeSet::default().contains(Some(b"")), "D-7");
    assert!(NodeSet::default().is_empty() && !set.is_empty(), "D-7");
}

#[test]
fn deletes_take_the_forms_of_a_predicate() {
    let eq = |text: &str| Some(TagMatch::Eq(text.into()));
    let prefix = |text: &str| Some(TagMatch::Prefix(text.into()));
    for (rule, text, before_seq, matcher) in [
        ("X-8", r#"{"before_seq":0}"#, Some(0), None),
        ("X-1", r#"{"before_seq":9,"match":null}"#, Some(9), None),
        ("X-1", r#"{"before_seq":9,"match":"a"}"#, Some(9), eq("a")),
        ("X-1", r#"{"before_seq":null,"match":"a"}"#, None, eq("a")),
        ("X-3", r#"{"match":""}"#, None, eq("")),
        ("§6", r#"{"match":"a*"}"#, None, prefix("a")),
        ("§6", r#"{"match":"a**"}"#, None, prefix("a*")),
        ("§6", r#"{"match":"*"}"#, None, prefix("")),
        ("§6", r#"{"match":"a*b"}"#, None, eq("a*b")),
        ("§6", r#"{"match":"a\u002a"}"#, None, prefix("a")),
        ("§6", r#"{"match":["tag","Eq","a*"]}"#, None, eq("a*")),
        ("§6", r#"{"match":["tag","Glob","a*b*"]}"#, None, prefix("a*b")),
        ("§6", r#"{"match":["t\u0061g","Glob","*"]}"#, None, prefix("")),
    ] {
        assert_eq!(
            parse_delete(text.as_bytes()),
            Ok(DeleteRequest { before_seq, matcher }),
            "{rule}: {text}"
        );
    }
    for (rule, text) in [
        ("X-1", ""),
        ("X-1", "{}"),
        ("X-1", r#"{"before_seq":null,"match":null}"#),
        ("X-1", r#"{"x":1}"#),
        ("J-4", r#"{"before_seq":1,"before_seq":1}"#),
        ("J-4", r#"{"before_seq":null,"before_seq":1}"#),
        ("J-5", r#"{"before_seq":-1}"#),
        ("J-5", r#"{"before_seq":1.0}"#),
        ("§6", r#"{"match":["tag","Glob","a"]}"#),
        ("§6", r#"{"match":["tag","Glob",""]}"#),
        ("§6", r#"{"match":["tag","glob","a*"]}"#),
        ("§6", r#"{"match":["tag","eq","a"]}"#),
        ("§6", r#"{"match":["Tag","Eq","a"]}"#),
        ("§6", r#"{"match":["node","Eq","a"]}"#),
        ("§6", r#"{"match":["tag","Eq"]}"#),
        ("§6", r#"{"match":["tag","Eq","a","b"]}"#),
        ("§6", r#"{"match":["tag","Eq",1]}"#),
        ("§6", r#"{"match":["tag","Eq",null]}"#),
        ("§6", r#"{"match":[]}"#),
        ("§6", r#"{"match":{"tag":"a"}}"#),
        ("§6", r#"{"match":5}"#),
        ("§6", r#"{"match":["tag","Eq","a",]}"#),
    ] {
        assert!(matches!(parse_delete(text.as_bytes()), Err(BodyError::Invalid(_))), "{rule}: {text}");
    }
}

#[test]
fn x_3_predicates_select_by_tag() {
    for (matcher, tag, expected) in [
        (TagMatch::Prefix(vec![]), Some(&b""[..]), true),
        (TagMatch::Prefix(vec![]), None, false),
        (TagMatch::Prefix(b"a".to_vec()), Some(b"ab"), true),
        (TagMatch::Prefix(b"a".to_vec()), Some(b"b"), false),
        (TagMatch::Eq(vec![]), Some(b""), true),
        (TagMatch::Eq(vec![]), None, false),
        (TagMatch::Eq(b"a".to_vec()), Some(b"ab"), false),
    ] {
        assert_eq!(matcher.matches(tag), expected, "X-3: {matcher:?} on {tag:?}");
    }
}

#[test]
fn messages_name_the_member_and_the_byte() {
    for (body, message) in [
        (r#"{"limit":"x"}"#, "`limit` must be an integer from 0 to 4294967295 (byte 9)"),
        (r#"{"limit":1,"limit":2}"#, "`limit` is given twice (byte 12)"),
        (r#"{"limit":1.}"#, "in `limit`: malformed JSON (byte 11)"),
        ("[]", "the body must be an object (byte 0)"),
        ("{", "the JSON text ends too early (byte 1)"),
    ] {
        assert_eq!(parse_diff(body.as_bytes()), Err(BodyError::Invalid(message.into())), "{body}");
    }
}
