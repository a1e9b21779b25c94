use super::*;

const MIN: u64 = 1000;

fn parsed(members: &str) -> Result<WatchRequest, BodyError> {
    let text = format!(r#"{{"topics":{{"b":{{}}}}{members}}}"#);
    parse_watch(text.as_bytes(), MIN)
}

#[test]
fn options_default_and_are_clamped() {
    type Change = fn(&mut WatchRequest);
    let table: &[(&str, &str, Change)] = &[
        ("S-5", "", |_| {}),
        ("J-3", r#","from_seq":"x""#, |_| {}),
        ("S-5", r#","limit":0,"max_batch_bytes":0"#, |w| w.delivery.max_batch_bytes = 1_048_576),
        ("S-5", r#","limit":1001,"max_batch_bytes":8388609"#, |w| {
            (w.delivery.limit, w.delivery.max_batch_bytes) = (1000, 8_388_608)
        }),
        ("S-5", r#","limit":1,"max_batch_bytes":1"#, |w| {
            (w.delivery.limit, w.delivery.max_batch_bytes) = (1, 1)
        }),
        ("V-40", r#","heartbeat_ms":0"#, |w| w.heartbeat_ms = 1000),
        ("V-40", r#","heartbeat_ms":1001"#, |w| w.heartbeat_ms = 1001),
        ("V-40", r#","heartbeat_ms":18446744073709551615"#, |w| w.heartbeat_ms = 60_000),
        ("S-5", r#","include_meta":false,"include_tags":true,"include_data":false"#, |w| {
            w.delivery.include_meta = false;
            w.delivery.include_tags = true;
            w.delivery.include_data = false;
        }),
        ("S-5", r#","consistency":"strong""#, |_| {}),
        ("J-6", r#","node":null"#, |_| {}),
    ];
    for (rule, members, change) in table {
        let mut expected = WatchRequest {
            topics: BTreeMap::from([("b".into(), Start::default())]),
            delivery: Delivery::plain(256, 262_144),
            heartbeat_ms: 15_000,
        };
        change(&mut expected);
        assert_eq!(parsed(members), Ok(expected), "{rule}: {members}");
    }
    let nodes = parsed(r#","node":["x","\u0079"]"#).expect("a set").delivery.nodes;
    assert!(nodes.contains(Some(b"x")) && nodes.contains(Some(b"y")) && !nodes.contains(None), "D-7");
    let low = parse_watch(br#"{"topics":{"b":{}},"heartbeat_ms":1}"#, 20).expect("a watch");
    assert_eq!(low.heartbeat_ms, 20, "tests may lower the floor");
}

#[test]
fn the_map_of_topics_is_sorted_and_its_last_occurrences_count() {
    let text = br#"{"topics":{"b":{"from_seq":3},"a":{"from_seq":7,"tail":true,"x":null},
        "\u0062":{"tail":false},"":{},"not a name":{}}}"#;
    let topics = parse_watch(text, MIN).expect("a watch").topics;
    let found: Vec<_> = topics.iter().map(|(name, start)| (&**name, start.from_seq, start.tail)).collect();
    assert_eq!(found, [("", 0, false), ("a", 7, true), ("b", 0, false), ("not a name", 0, false)], "J-4");

    let map = |count: usize, more: &str| {
        let names: Vec<String> = (0..count).map(|index| format!(r#""t{index}":{{}}"#)).collect();
        let text = format!(r#"{{"topics":{{{}{more}}}}}"#, names.join(","));
        parse_watch(text.as_bytes(), MIN).map(|watch| watch.topics.len())
    };
    assert_eq!(map(256, ""), Ok(256), "L-9");
    assert_eq!(map(256, r#","t0":{"tail":true}"#), Ok(256), "L-9: a repeated name is one topic");
    assert!(map(257, "").is_err(), "L-9");
    assert!(map(0, "").is_err(), "§8.1: no topic");
}

#[test]
fn what_is_no_watch_is_refused() {
    for (rule, members) in [
        ("J-4", r#","topics":{"b":{}}"#),
        ("J-4", r#","limit":1,"limit":1"#),
        ("J-5", r#","limit":4294967296"#),
        ("J-5", r#","heartbeat_ms":-1"#),
        ("J-6", r#","heartbeat_ms":null"#),
        ("J-6", r#","limit":null"#),
        ("J-6", r#","consistency":null"#),
        ("J-7", r#","consistency":"Strong""#),
        ("J-7", r#","include_data":"true""#),
        ("J-5", r#","node":[1]"#),
    ] {
        assert!(parsed(members).is_err(), "{rule}: {members}");
    }
    for (rule, topics, part) in [
        ("J-6", "null", "`topics`"),
        ("J-2", "[]", "`topics`"),
        ("J-6", r#"{"a":null}"#, "`topics`"),
        ("J-2", r#"{"a":[]}"#, "`topics`"),
        ("J-5", r#"{"a":{"from_seq":"1"}}"#, "`from_seq`"),
        ("J-6", r#"{"a":{"from_seq":null}}"#, "`from_seq`"),
        ("J-7", r#"{"a":{"tail":1}}"#, "`tail`"),
        ("J-4", r#"{"a":{"tail":true,"tail":true}}"#, "`tail`"),
        ("J-8", r#"{"\ud800":{}}"#, "surrogate"),
        // Also where an occurrence does not count, it must be right.
        ("J-5", r#"{"a":{"from_seq":1.0},"a":{}}"#, "`from_seq`"),
    ] {
        let text = format!(r#"{{"topics":{topics}}}"#);
        let error = parse_watch(text.as_bytes(), MIN).expect_err(&text).to_string();
        assert!(error.contains(part), "{rule} {text}: {error}");
    }
    assert!(parse_watch(b"{\"topics\":{\"\xff\":{}}}", MIN).is_err(), "J-8");
    for text in ["", "{}", "null"] {
        assert!(parse_watch(text.as_bytes(), MIN).is_err(), "{text}");
    }
}
