//! Streams that are taken up again (§8.2, V-50 to V-55).

use crate::harness::{Client, Server};
use crate::sse::{Event, Sse, base64url, gauge, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Two topics with ten records each and a session over both.
fn two_topics(server: &Server, tag: &str) -> ([String; 2], Client) {
    let mut names = server.names(tag);
    let mut client = server.connect();
    for topic in &names {
        client.fresh(topic, "");
        client.append_all(topic, &["0"; 10]);
    }
    names.sort_unstable();
    (names, client)
}

fn last_event_id(value: &Value) -> String {
    format!("Last-Event-ID: {}\r\n", base64url(value.to_string().as_bytes()))
}

fn open(server: &Server, url: &str, headers: &str) -> Sse {
    server.stream_with(url, headers).unwrap_or_else(|answer| panic!("{headers}: {answer:?}"))
}

/// What a stream opens with: for each topic the seqs, up to its `caught-up`, in order of names.
fn opening(sse: &mut Sse, names: &[String; 2]) -> [Vec<u64>; 2] {
    names.each_ref().map(|topic| {
        let mut seqs = Vec::new();
        loop {
            let event = sse.event();
            assert_eq!(event.topic(), topic, "V-11");
            match event.kind.as_str() {
                "record" => seqs.extend(event.seqs()),
                "caught-up" => return seqs,
                other => panic!("V-51: {other}"),
            }
        }
    })
}

const NOTHING: [Vec<u64>; 2] = [vec![], vec![]];

fn seqs(range: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    range.collect()
}

#[test]
fn a_stream_goes_on_where_the_session_stands() {
    let server = Server::shared();
    let (names, mut client) = two_topics(server, "goeson");
    let url = server.session(&json!({"topics": {(&names[0]): {"from_seq": 3}, (&names[1]): {}}, "limit": 4}));
    let mut sse = server.stream(&url);
    assert_eq!(opening(&mut sse, &names), [seqs(4..=10), seqs(1..=10)], "S-5");
    // Several connections, so that the session is asked for from both cores.
    for round in 0..6_u64 {
        drop(sse);
        client.append_all(&names[0], &["1"]);
        sse = server.stream(&url);
        // The last stream may have produced it before it was seen to be gone (V-51).
        let [first, second] = opening(&mut sse, &names);
        assert!(first == seqs(11 + round..=11 + round) || first.is_empty(), "V-51: {first:?}");
        assert!(second.is_empty(), "V-51: {second:?}");
    }
    for topic in &names {
        client.append_all(topic, &["2"]);
        sse.expect("record", topic);
        sse.expect("caught-up", topic);
    }
}

#[test]
fn the_last_id_moves_cursors_back_and_never_forward() {
    let server = Server::shared();
    let (names, _client) = two_topics(server, "rewind");
    let [first, second] = &names;
    let make = || {
        let url = server.session(&json!({"topics": {(first): {}, (second): {"from_seq": 4}}}));
        let mut sse = server.stream(&url);
        assert_eq!(opening(&mut sse, &names), [seqs(1..=10), seqs(5..=10)]);
        url
    };
    for (rule, id, expected) in [
        ("V-53", json!({(first): 7, (second): 9}), [seqs(8..=10), seqs(10..=10)]),
        ("V-52 per topic", json!({(first): 7}), [seqs(8..=10), vec![]]),
        ("V-52 per topic", json!({(second): 0}), [vec![], seqs(1..=10)]),
        ("V-52 forward", json!({(first): 10, (second): 11}), [vec![], vec![]]),
        ("V-52 forward", json!({(first): u64::MAX, (second): 8}), [vec![], seqs(9..=10)]),
        ("V-52 unknown", json!({"absent": 1, (first): 9, "-": 0}), [seqs(10..=10), vec![]]),
        ("V-52 nothing", json!({}), [vec![], vec![]]),
    ] {
        let url = make();
        let mut sse = open(server, &url, &last_event_id(&id));
        assert_eq!(opening(&mut sse, &names), expected, "{rule} {id}");
    }
    // What cannot be decoded is ignored; so is a parameter that there never was (V-54).
    let text = format!("{{\"{first}\":1}}");
    let good = base64url(text.as_bytes());
    let url = make();
    for (rule, headers) in [
        ("V-52 padded", format!("Last-Event-ID: {good}{}\r\n", ["", "===", "==", "="][good.len() % 4])),
        ("V-52 padded", format!("Last-Event-ID: {good}=\r\n")),
        ("V-52 text", format!("Last-Event-ID: {text}\r\n")),
        ("V-52 signed", last_event_id(&json!({(first): -1}))),
        ("V-52 fraction", last_event_id(&json!({(first): 1.5}))),
        ("V-52 string", last_event_id(&json!({(first): "1"}))),
        ("V-52 array", last_event_id(&json!([first, 1]))),
        ("V-52 number", last_event_id(&json!(1))),
        ("V-52 not JSON", format!("Last-Event-ID: {}\r\n", base64url(&text.as_bytes()[1..]))),
        ("V-52 not UTF-8", format!("Last-Event-ID: {}\r\n", base64url(b"{\"\xff\":1}"))),
        ("V-52 plus", "Last-Event-ID: ++//\r\n".to_owned()),
        ("V-52 empty", "Last-Event-ID: \r\n".to_owned()),
    ] {
        if headers.ends_with(&format!(" {good}\r\n")) {
            continue; // its length needs no padding
        }
        assert_eq!(opening(&mut open(server, &url, &headers), &names), NOTHING, "{rule}: {headers}");
    }
    let with_query = format!("{url}?cursor={good}&from_seq=0&last_event_id={good}");
    assert_eq!(opening(&mut server.stream(&with_query), &names), NOTHING, "V-54");
    assert_eq!(
        opening(&mut open(server, &url, &format!("last-event-ID:{good}\r\n")), &names)[0],
        seqs(2..=10)
    );
}

#[test]
fn a_rewind_below_the_floor_shows_the_gap_again() {
    let server = Server::shared();
    let mut client = server.connect();
    for topic in server.names("below") {
        client.fresh(&topic, r#"{"cap_records":3}"#);
        client.append_all(&topic, &["0"; 10]);
        let url = server.session(&json!({"topics": {(&topic): {"tail": true}}}));
        server.stream(&url).expect("caught-up", &topic);
        for _ in 0..2 {
            let mut sse = open(server, &url, &last_event_id(&json!({(&topic): 4})));
            let event = sse.expect("tombstone", &topic);
            let shown = (event.data["reason"].as_str(), event.u64("gap_from"), event.u64("gap_to"));
            assert_eq!(shown, (Some("from_seq_too_old"), 5, 7), "V-20");
            assert_eq!(sse.expect_records(&topic, 8..=10).u64("from_seq"), 4, "V-12");
            sse.expect("caught-up", &topic);
        }
        // The id of a tombstone places the topic behind the gap: taking it up shows no gap again (V-21).
        let mut sse = open(server, &url, &last_event_id(&json!({(&topic): 7})));
        assert_eq!(sse.expect_records(&topic, 8..=10).u64("from_seq"), 7, "V-21");
    }
}

#[test]
fn whoever_comes_back_with_the_last_id_misses_and_repeats_nothing() {
    let server = &Server::start(&[]);
    const HEAD: u64 = 400;
    let mut names = server.names("cutoff");
    names.sort_unstable();
    let mut client = server.connect();
    for topic in &names {
        client.fresh(topic, r#"{"durability":"memory"}"#);
    }
    let url = server.session(&json!({"topics": {(&names[0]): {}, (&names[1]): {}}, "limit": 7}));
    let mut seen: BTreeMap<String, u64> = names.iter().map(|topic| (topic.clone(), 0)).collect();
    let mut id = String::new();
    let take = |event: &Event, seen: &mut BTreeMap<String, u64>, id: &mut String| {
        if event.kind == "record" {
            let last = seen.get_mut(event.topic()).expect("a topic");
            for seq in event.seqs() {
                assert_eq!(seq, *last + 1, "V-52 I-26: {}", event.text);
                *last = seq;
            }
        }
        id.clone_from(event.id.as_ref().expect("V-10"));
        assert_eq!(&event.cursors(), seen, "V-50: the id is what was shown");
    };
    std::thread::scope(|scope| {
        for topic in &names {
            scope.spawn(move || {
                let mut client = server.connect();
                for _ in 0..HEAD / 4 {
                    client.append_all(topic, &["1", "2", "3", "4"]);
                }
            });
        }
        // Cut off after ever other numbers of events, the first time before there is any id.
        for round in 0.. {
            let header = if id.is_empty() { String::new() } else { format!("Last-Event-ID: {id}\r\n") };
            let mut sse = open(server, &url, &header);
            for _ in 0..1 + round % 9 {
                if seen.values().any(|last| *last < HEAD) {
                    take(&sse.event(), &mut seen, &mut id);
                }
            }
            if seen.values().all(|last| *last == HEAD) {
                break;
            }
            // Streams of one session share its cursors (V-55): the one that was cut has to be gone.
            drop(sse);
            until("L-4", || gauge(&mut client, "sse_connections") == 0);
        }
    });
    let mut sse = open(server, &url, &format!("Last-Event-ID: {id}\r\n"));
    for topic in &names {
        assert_eq!(sse.expect("caught-up", topic).u64("head_seq"), HEAD, "V-51");
    }
}

#[test]
fn sessions_are_found_from_every_core() {
    let server = Server::shared();
    let (names, _client) = two_topics(server, "found");
    let body = json!({"topics": {(&names[0]): {}, (&names[1]): {}}});
    let urls: Vec<String> = (0..8).map(|_| server.session(&body)).collect();
    for (index, url) in urls.iter().enumerate() {
        for turn in 0..4 {
            // All of it first, then again by a rewind, each time over a connection of its own.
            let header = if turn == 0 { String::new() } else { last_event_id(&json!({(&names[1]): 2})) };
            let expected = if turn == 0 { [seqs(1..=10), seqs(1..=10)] } else { [vec![], seqs(3..=10)] };
            assert_eq!(opening(&mut open(server, url, &header), &names), expected, "S-5 {index} {turn}");
        }
    }
}

#[test]
fn a_session_does_not_outlive_its_server() {
    let [one, other] = [Server::start(&[]), Server::start(&[])];
    let mut client = one.connect();
    client.put("here", "");
    other.connect().put("here", "");
    let url = one.session(&json!({"topics": {"here": {}}}));
    drop(one.stream(&url));
    other.connect().get(&url).assert_fault(404, "not_found", &Value::Null, "S-5");
}
