//! Watch sessions and what their streams show (§8).

use crate::harness::{Client, Server};
use crate::sse::{Event, Sse};
use serde_json::{Map, Value, json};
use std::sync::OnceLock;

/// A server whose heartbeats may follow each other closely.
fn brisk() -> &'static Server {
    static BRISK: OnceLock<Server> = OnceLock::new();
    BRISK.get_or_init(|| Server::start(&[("RUNELOG_TEST_MIN_HEARTBEAT_MS", "1")]))
}

/// Appends records of these data to a topic, one at a time.
fn append_each(client: &mut Client, topic: &str, data: &[&str]) {
    data.iter().for_each(|data| client.append_all(topic, &[*data]));
}

#[test]
fn a_session_says_where_each_topic_begins() {
    let server = Server::shared();
    let mut client = server.connect();
    let [first, second] = server.names("session");
    client.fresh(&first, r#"{"cap_records":2}"#);
    client.fresh(&second, "");
    client.append_all(&first, &["1", "2", "3"]);
    let mut wids = Vec::new();
    for (options, from_seq) in [
        (json!({}), 0),
        (json!({"from_seq": 2}), 2),
        (json!({"from_seq": 3, "tail": false}), 3),
        (json!({"tail": true}), 3),
        (json!({"tail": true, "from_seq": 1}), 3),
        (json!({"from_seq": 70}), 70),
        (json!({"from_seq": u64::MAX, "unknown": {}}), u64::MAX),
    ] {
        let body = json!({"topics": {(&first): options, (&second): {"tail": true}}}).to_string();
        let answer = client.call("POST", "/v0/watch", &body);
        assert_eq!(answer.status, 200, "S-1: {}", answer.text());
        let mut json = answer.steady();
        let wid = json["wid"].as_str().expect("S-2").to_owned();
        let code = wid.strip_prefix("wid_").expect("S-2");
        let is_code = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        assert!(code.len() == 22 && code.bytes().all(is_code), "S-2: {wid}");
        assert_eq!(json["stream_url"], format!("/v0/watch/{wid}"), "S-2");
        json.as_object_mut().expect("an object").retain(|name, _| name != "wid" && name != "stream_url");
        let expected = json!({
            "session_ttl_ms": 300_000,
            "topics": {
                (&first): {"from_seq": from_seq, "head_seq": 3, "earliest_seq": 2},
                (&second): {"from_seq": 0, "head_seq": 0, "earliest_seq": 1},
            },
        });
        assert_eq!(json, expected, "S-1 {options}");
        wids.push(wid);
    }
    wids.sort_unstable();
    wids.dedup();
    assert_eq!(wids.len(), 7, "S-2");
}

#[test]
fn sessions_that_cannot_be_are_refused() {
    let server = Server::shared();
    let mut client = server.connect();
    let [here, there] = server.names("refused");
    for topic in [&here, &there] {
        client.fresh(topic, "");
    }
    let many: Map<String, Value> = (0..257).map(|number| (format!("absent-{number}"), json!({}))).collect();
    let on = |text: &str| format!(r#"{{"topics":{{"{here}":{{}}}},{text}}}"#);
    let options = |text: &str| format!(r#"{{"topics":{{"{here}":{text}}}}}"#);
    for (rule, body) in [
        ("8.1", "{}".to_owned()),
        ("J-2", "[]".to_owned()),
        ("8.1", r#"{"topics":{}}"#.to_owned()),
        ("8.1", r#"{"topics":[]}"#.to_owned()),
        ("J-6", r#"{"topics":null}"#.to_owned()),
        ("L-9", json!({ "topics": many }).to_string()),
        ("J-1", on("}")),
        ("J-6", options("null")),
        ("J-5", options(r#"{"from_seq":-1}"#)),
        ("J-5", options(r#"{"from_seq":1.0}"#)),
        ("J-6", options(r#"{"from_seq":null}"#)),
        ("J-7", options(r#"{"tail":1}"#)),
        ("J-4", options(r#"{"tail":true,"tail":true}"#)),
        ("J-5", on(r#""limit":-1"#)),
        ("J-5", on(r#""limit":4294967296"#)),
        ("J-5", on(r#""max_batch_bytes":"1""#)),
        ("J-5", on(r#""heartbeat_ms":1e3"#)),
        ("J-6", on(r#""heartbeat_ms":null"#)),
        ("J-7", on(r#""include_meta":0"#)),
        ("J-7", on(r#""include_tags":"true""#)),
        ("J-6", on(r#""include_data":null"#)),
        ("J-7", on(r#""consistency":"Strong""#)),
        ("8.1", on(r#""node":7"#)),
        ("8.1", on(r#""node":["a",7]"#)),
        ("J-4", on(r#""limit":1,"limit":1"#)),
    ] {
        let answer = client.call("POST", "/v0/watch", &body);
        answer.assert_fault(400, "invalid_request", &Value::Null, &format!("{rule} {body}"));
        // The checks of values come before those of names, and `lenient` forgives names only.
        let answer = client.call("POST", "/v0/watch?lenient=true", &body);
        answer.assert_fault(400, "invalid_request", &Value::Null, &format!("{rule} {body}"));
    }
    for body in [
        on(r#""node":null,"limit":0,"max_batch_bytes":0,"heartbeat_ms":0,"consistency":"strong""#),
        on(r#""node":[],"limit":4294967295,"max_batch_bytes":18446744073709551615,"x":[{}]"#),
        on(r#""node":"a","heartbeat_ms":18446744073709551615,"consistency":"eventual""#),
        format!(r#"{{"topics":{{"{here}":{{"from_seq":9}},"{here}":{{}}}}}}"#),
    ] {
        let answer = client.call("POST", "/v0/watch", &body);
        assert_eq!(answer.status, 200, "8.1 J-3 {body}: {}", answer.text());
        assert_eq!(answer.member("topics")[&here]["from_seq"], 0, "J-4 {body}");
    }
    client.send("POST /v0/watch HTTP/1.1\r\nContent-Length: 2\r\n\r\n{]");
    client.answer().assert_fault(415, "unsupported_media_type", &Value::Null, "8.1 M-1");
    // Names: S-4 makes no difference between what is absent and what cannot be.
    for name in ["absent", "-", "a/b", ""] {
        let body = json!({"topics": {(&here): {}, (name): {"tail": true}, (&there): {}}}).to_string();
        let answer = client.call("POST", "/v0/watch", &body);
        answer.assert_fault(404, "topic_not_found", &json!({ "topic": name }), "S-4");
        let answer = client.call("POST", "/v0/watch?lenient=1", &body);
        let shown = answer.member("topics");
        assert!(
            shown.get(name).is_none() && shown.as_object().is_some_and(|all| all.len() == 2),
            "S-3 {shown}"
        );
        assert_eq!(client.get("/v0/topics/absent").status, 404, "S-4: never creates");
    }
}

#[test]
fn a_stream_of_nothing_ends_at_once() {
    let server = Server::shared();
    let mut client = server.connect();
    let answer = client.call("POST", "/v0/watch?lenient=true", r#"{"topics":{"gone":{},"-":{}}}"#);
    assert_eq!((answer.status, answer.member("topics")), (200, json!({})), "S-3");
    let url = answer.member("stream_url").as_str().expect("S-1").to_owned();
    for _ in 0..2 {
        server.stream(&url).assert_ended("S-3");
    }
}

#[test]
fn topics_are_served_whole_and_in_order_of_their_names() {
    let server = Server::shared();
    let mut client = server.connect();
    let [first, second] = server.names("order");
    let mut names =
        [first.clone(), second.clone(), format!("{first}-b"), format!("{second}-B"), format!("{first}-")];
    for (topic, class) in names.iter().zip(["memory", "disk", "fsync", "ephemeral", "memory"]) {
        client.fresh(topic, &format!(r#"{{"durability":"{class}"}}"#));
        client.append_all(topic, &["7"; 25]);
    }
    names.sort_unstable();
    for _ in 0..3 {
        let all: Map<String, Value> = names.iter().rev().map(|name| (name.clone(), json!({}))).collect();
        let mut sse = server.watch(&json!({"topics": all, "limit": 10}));
        for (index, topic) in names.iter().enumerate() {
            for (from, to) in [(0, 10), (10, 20), (20, 25)] {
                let event = sse.expect_records(topic, from + 1..=to);
                let numbers = (event.u64("from_seq"), event.u64("to_seq"), event.u64("head_seq"));
                assert_eq!(numbers, (from, to, 25), "V-11 V-12");
                // V-50: every topic has its cursor in every id, those whose turn has not come too.
                for (other, name) in names.iter().enumerate() {
                    let expected = [25, to, 0][(1 + other.cmp(&index) as i8) as usize];
                    assert_eq!(event.cursors()[name], expected, "V-50 {name}");
                }
                assert_eq!(event.cursors().len(), names.len(), "V-50");
            }
            assert_eq!(sse.expect("caught-up", topic).u64("head_seq"), 25, "V-11");
        }
    }
}

#[test]
fn what_is_appended_arrives_and_is_caught_up_each_time() {
    let server = Server::shared();
    for class in ["ephemeral", "memory", "disk", "fsync"] {
        let mut client = server.connect();
        let [first, second] = server.names(&format!("live-{class}"));
        for topic in [&first, &second] {
            client.fresh(topic, &format!(r#"{{"durability":"{class}"}}"#));
        }
        let body = json!({"topics": {(&first): {}, (&second): {"tail": true}}});
        let mut streams: Vec<Sse> = (0..3).map(|_| server.watch(&body)).collect();
        for sse in &mut streams {
            let mut both = [&first, &second];
            both.sort_unstable();
            for topic in both {
                assert_eq!(sse.expect("caught-up", topic).u64("head_seq"), 0, "V-11: an empty topic too");
            }
        }
        for round in 0..20_u64 {
            let topic = [&first, &second][(round / 3 % 2) as usize];
            let head = client.get(&format!("/v0/topics/{topic}?touch=false")).u64("head_seq");
            client.append_all(topic, &["1", "2"]);
            for sse in &mut streams {
                let event = sse.expect_records(topic, head + 1..=head + 2);
                assert_eq!((event.u64("from_seq"), event.u64("to_seq")), (head, head + 2), "V-12");
                assert_eq!(sse.expect("caught-up", topic).u64("head_seq"), head + 2, "V-13 I-46");
            }
        }
    }
}

#[test]
fn records_have_the_shape_that_was_asked_for() {
    let server = Server::shared();
    for topic in server.names("shape") {
        let mut client = server.connect();
        client.fresh(&topic, "");
        let data = "{ \"a\" :1.0,\"a\":[ 1E2 ],\t\"\\u00e9\":18446744073709551616 }";
        let body = format!(
            r#"{{"records":[{{"data":{data},"tag":"t","node":"n","meta":{{"m" : 1}}}},{{"data":null,"tag":"","node":""}}]}}"#
        );
        assert_eq!(client.append(&topic, &body).status, 200);
        let full = json!([
            {"$seq": 1, "data": 0, "$tag": "t", "$node": "n", "meta": {"m": 1}},
            {"$seq": 2, "data": null, "$tag": "", "$node": ""},
        ]);
        let without = |gone: &[&str]| {
            let mut shown = full.clone();
            for record in shown.as_array_mut().expect("an array") {
                record.as_object_mut().expect("an object").retain(|name, _| !gone.contains(&name.as_str()));
            }
            shown
        };
        for (rule, options, gone) in [
            ("8.1 defaults", json!({}), &["$tag"][..]),
            ("8.1", json!({"include_tags": true}), &[]),
            ("8.1", json!({"include_meta": false}), &["$tag", "meta"]),
            ("V-10", json!({"include_data": false}), &["$tag", "data"]),
            (
                "V-10",
                json!({"include_data": false, "include_meta": false, "include_tags": true}),
                &["data", "meta"],
            ),
        ] {
            let mut asked = options.as_object().expect("an object").clone();
            asked.insert("topics".into(), json!({(&topic): {}}));
            let event = server.watch(&Value::Object(asked)).expect_records(&topic, 1..=2);
            let mut shown = event.data["records"].clone();
            for record in shown.as_array_mut().expect("records") {
                assert!(
                    record.as_object_mut().expect("an object").remove("$ts").is_some_and(|ts| ts.is_u64())
                );
                if record["data"].is_object() {
                    assert!(event.text.contains(&format!("\"data\":{data}")), "J-21: {}", event.text);
                    record["data"] = json!(0);
                }
            }
            assert_eq!(shown, without(gone), "{rule} {options}");
        }
    }
}

#[test]
fn line_breaks_in_a_payload_do_not_break_the_stream() {
    let server = Server::shared();
    for topic in server.names("breaks") {
        let mut client = server.connect();
        client.fresh(&topic, "");
        let data = "{\n\"a\":\r\n[1,\r2\n\n],\"b\":\"\\n\\r\\n\"}";
        let body = format!("{{\"records\":[{{\"data\":{data},\"meta\":[\n\n]}}]}}");
        assert_eq!(client.append(&topic, &body).status, 200);
        let event = server.watch(&json!({"topics": {(&topic): {}}})).expect_records(&topic, [1]);
        let record = &event.data["records"][0];
        assert_eq!(record["data"], json!({"a": [1, 2], "b": "\n\r\n"}), "V-4");
        assert_eq!(record["meta"], json!([]), "V-4");
        // Elsewhere they stay.
        assert!(client.diff(&topic, "{}").text().contains(data), "J-21");
    }
}

#[test]
fn batches_keep_to_their_limits() {
    let server = Server::shared();
    for topic in server.names("batches") {
        let mut client = server.connect();
        client.fresh(&topic, "");
        let all: Vec<String> = (0..1100).map(|number| format!("\"{number:04}\"")).collect();
        client.append_all(&topic, &all.iter().map(String::as_str).collect::<Vec<_>>());
        for (rule, options, sizes) in [
            ("8.1 default", json!({}), vec![256, 256, 256, 256, 76]),
            ("8.1 zero", json!({"limit": 0}), vec![256, 256, 256, 256, 76]),
            ("8.1 clamp", json!({"limit": 5000}), vec![1000, 100]),
            ("8.1", json!({"limit": 600}), vec![600, 500]),
            // Six bytes a record (J-23); the first is always delivered (D-6).
            ("D-6", json!({"limit": 1000, "max_batch_bytes": 3001}), vec![500, 500, 100]),
            ("D-6", json!({"max_batch_bytes": 1}), vec![1; 1100]),
            ("8.1 zero", json!({"limit": 1000, "max_batch_bytes": 0}), vec![1000, 100]),
        ] {
            let mut asked = options.as_object().expect("an object").clone();
            asked.insert("topics".into(), json!({(&topic): {}}));
            let mut sse = server.watch(&Value::Object(asked));
            let events = sse.until_caught_up(&topic, 1100);
            let found: Vec<usize> =
                events[..events.len() - 1].iter().map(|event| event.seqs().len()).collect();
            assert_eq!(found, sizes, "{rule} {options}");
            let seqs: Vec<u64> = events[..events.len() - 1].iter().flat_map(Event::seqs).collect();
            assert!(seqs.iter().copied().eq(1..=1100), "V-11 {options}");
        }
    }
}

#[test]
fn filtered_records_pass_in_silence_and_move_the_cursor() {
    let server = Server::shared();
    let mut client = server.connect();
    for topic in server.names("filter") {
        client.fresh(&topic, "");
        let records =
            r#"[{"data":1,"node":"a"},{"data":2,"node":"me"},{"data":3,"node":"a"},{"data":4,"node":"me"}]"#;
        let body = format!(r#"{{"records":{records}}}"#);
        client.append(&topic, &body);
        let mut sse = server.watch(&json!({"topics": {(&topic): {}}, "node": ["me", "other"]}));
        let event = sse.expect_records(&topic, [1, 3]);
        // V-12: the last examined seq, not the last delivered one.
        assert_eq!((event.u64("to_seq"), event.u64("head_seq")), (4, 4), "V-12");
        sse.expect("caught-up", &topic);
        // A full batch ends at its last record (D-5), and the filtered one behind it is left.
        let mut one = server.watch(&json!({"topics": {(&topic): {}}, "node": "me", "limit": 1}));
        assert_eq!(one.expect_records(&topic, [1]).u64("to_seq"), 1, "D-5");
        assert_eq!(one.expect_records(&topic, [3]).u64("from_seq"), 1, "D-5");
        assert_eq!(one.expect("caught-up", &topic).u64("head_seq"), 4, "V-13");
        // V-14, V-13: nothing is said about what is filtered, and no second caught-up.
        for _ in 0..5 {
            client.append(&topic, r#"{"node":"me","records":[{"data":5}]}"#);
        }
        client.append(&topic, r#"{"records":[{"data":6}]}"#);
        for sse in [&mut sse, &mut one] {
            let event = sse.expect_records(&topic, [10]);
            assert!(event.u64("from_seq") >= 4 && event.u64("to_seq") == 10, "V-14: {event:?}");
            assert_eq!(sse.expect("caught-up", &topic).u64("head_seq"), 10, "V-13");
        }
        // Nothing but filtered records: one caught-up on open all the same (V-11).
        let mut all =
            server.watch(&json!({"topics": {(&topic): {"from_seq": 3}}, "node": ["me", "a"], "limit": 1}));
        assert_eq!(all.expect_records(&topic, [10]).u64("to_seq"), 10, "V-12");
        all.expect("caught-up", &topic);
        let mut none = server.watch(&json!({"topics": {(&topic): {"from_seq": 4}}, "node": "me"}));
        assert_eq!(none.expect_records(&topic, [10]).u64("from_seq"), 4, "V-12");
        // D-7: the topic can switch filtering off, the empty set filters nothing.
        client.put(&topic, r#"{"dedupe_node":false}"#);
        server.watch(&json!({"topics": {(&topic): {}}, "node": "me"})).expect_records(&topic, 1..=10);
        client.put(&topic, "");
        server.watch(&json!({"topics": {(&topic): {}}, "node": []})).expect_records(&topic, 1..=10);
    }
}

#[test]
fn the_cursor_of_a_topic_of_filtered_records_is_its_head() {
    let server = Server::shared();
    let mut client = server.connect();
    let [first, second] = server.names("allfiltered");
    for (topic, other) in [(&first, &second), (&second, &first)] {
        client.fresh(topic, "");
        client.fresh(other, "");
        client.append(topic, r#"{"node":"me","records":[{"data":1},{"data":2}]}"#);
        let mut sse = server.watch(&json!({"topics": {(topic): {}, (other): {}}, "node": "me"}));
        let opened = [sse.event(), sse.event()];
        assert!(opened.iter().all(|event| event.kind == "caught-up"), "V-11 V-14: {opened:?}");
        assert_eq!(opened[1].cursors()[topic], 2, "V-14");
        client.append(topic, r#"{"node":"me","records":[{"data":3}]}"#);
        // The other topic's event shows that the cursor has moved, at the latest the second: an owner on
        // another core tells of its own topic only when it comes to it.
        let mut moved = false;
        for _ in 0..50 {
            client.append_all(other, &["0"]);
            moved = sse.expect("record", other).cursors()[topic] == 3;
            moved |= sse.expect("caught-up", other).cursors()[topic] == 3;
            if moved {
                break;
            }
        }
        assert!(moved, "V-14: the cursor stays behind");
    }
}

#[test]
fn lost_records_leave_a_tombstone() {
    let server = Server::shared();
    let mut client = server.connect();
    for topic in server.names("lost") {
        client.fresh(&topic, r#"{"cap_records":3}"#);
        client.append_all(&topic, &["1", "2", "3", "4", "5"]);
        let tombstone = |event: &Event| {
            let mut data = event.data.clone();
            data.as_object_mut().expect("an object").remove("topic");
            data
        };
        let mut sse = server.watch(&json!({"topics": {(&topic): {"from_seq": 1}}}));
        let expected = json!({"reason": "from_seq_too_old", "gap_from": 2, "gap_to": 2, "earliest_seq": 3, "head_seq": 5});
        assert_eq!(tombstone(&sse.expect("tombstone", &topic)), expected, "V-20 V-21");
        // V-12: the batch behind it still names the cursor before the gap.
        assert_eq!(sse.expect_records(&topic, 3..=5).u64("from_seq"), 1, "V-12");
        sse.expect("caught-up", &topic);
        // The front of a batch larger than the cap is lost at once (W-33): a later tombstone is a true one.
        client.append_all(&topic, &["6"; 8]);
        let expected =
            json!({"reason": "cap", "gap_from": 6, "gap_to": 10, "earliest_seq": 11, "head_seq": 13});
        assert_eq!(tombstone(&sse.expect("tombstone", &topic)), expected, "V-20");
        assert_eq!(sse.expect_records(&topic, 11..=13).u64("from_seq"), 5, "V-12");
        sse.expect("caught-up", &topic);
        // Everything lost: a tombstone and nothing behind it.
        client.put(&topic, r#"{"cap_bytes":1}"#);
        client.append_all(&topic, &["77"]);
        let event = sse.expect("tombstone", &topic);
        assert_eq!((event.u64("gap_from"), event.u64("gap_to"), event.u64("head_seq")), (14, 14, 14), "V-20");
        // A cursor above the head, on a fresh connection: the same reason whatever the cause.
        let mut foreign = server.watch(&json!({"topics": {(&topic): {"from_seq": 99}}}));
        let event = foreign.expect("tombstone", &topic);
        let shown = (event.data["reason"].as_str(), event.u64("gap_from"), event.u64("gap_to"));
        assert_eq!(shown, (Some("from_seq_too_old"), 1, 14), "V-20 D-15");
        assert_eq!(foreign.expect("caught-up", &topic).u64("head_seq"), 14, "V-11");
        client.put(&topic, "");
        client.append_all(&topic, &["15"]);
        assert_eq!(foreign.expect_records(&topic, [15]).u64("from_seq"), 14, "V-12 D-15");
        // A cursor at the floor has lost nothing (D-16).
        server.watch(&json!({"topics": {(&topic): {"from_seq": 14}}})).expect_records(&topic, [15]);
    }
}

#[test]
fn deleted_records_are_passed_in_silence() {
    let server = Server::shared();
    let mut client = server.connect();
    for topic in server.names("holes") {
        client.fresh(&topic, "");
        client.append_all(&topic, &["0"; 10]);
        assert_eq!(client.delete(&topic, r#"{"before_seq":4}"#).u64("deleted"), 3);
        let mut sse = server.watch(&json!({"topics": {(&topic): {}}}));
        let event = sse.expect_records(&topic, 4..=10);
        assert_eq!(event.u64("from_seq"), 0, "V-22");
        sse.expect("caught-up", &topic);
        // All of what came is deleted again before the next: no tombstone, no event (V-13, V-22).
        assert_eq!(client.delete(&topic, r#"{"before_seq":11}"#).u64("deleted"), 7);
        client.append_all(&topic, &["11"]);
        sse.expect_records(&topic, [11]);
        sse.expect("caught-up", &topic);
        client.delete(&topic, r#"{"before_seq":99}"#);
        let mut late = server.watch(&json!({"topics": {(&topic): {}}}));
        assert_eq!(late.expect("caught-up", &topic).u64("head_seq"), 11, "V-22 V-11");
    }
}

#[test]
fn a_deleted_topic_says_so_once_and_stays_gone() {
    let server = brisk();
    let [first, second] = server.names("deleted");
    for (topic, other) in [(&first, &second), (&second, &first)] {
        let mut client = server.connect();
        client.fresh(topic, "");
        client.fresh(other, "");
        client.append_all(topic, &["1", "2", "3"]);
        let url = server.session(&json!({"topics": {(topic): {}, (other): {}}, "heartbeat_ms": 40}));
        let mut sse = server.stream(&url);
        sse.until_caught_up(topic, 3);
        if topic < other {
            sse.expect("caught-up", other);
        }
        client.drop_topic(topic);
        // Nothing is appended anywhere: the stream looks within the heartbeat (V-30).
        let event = sse.expect("topic-deleted", topic);
        assert_eq!(event.data["reason"], "deleted", "8.2");
        // V-31: final on this connection, though the name lives again.
        client.put(topic, "");
        append_each(&mut client, topic, &["1", "2"]);
        for seq in 1..=20 {
            append_each(&mut client, topic, &["3"]);
            append_each(&mut client, other, &["4"]);
            sse.expect_records(other, [seq]);
            sse.expect("caught-up", other);
        }
        drop(sse);
        client.drop_topic(topic);
        client.append_all(other, &["5"]);
        // Looked at again: still absent (V-31), with the other one served all the same.
        let mut sse = server.stream(&url);
        let mut events = sse.until_caught_up(other, 21);
        if !events.iter().any(|event| event.kind == "topic-deleted") {
            events.push(sse.event());
        }
        let gone = events.iter().filter(|event| event.kind == "topic-deleted" && event.topic() == topic);
        assert_eq!(gone.count(), 1, "V-31: {events:?}");
        drop(sse);
        // Recreated with less than the stored cursor: served from that, which shows as a gap (V-31, V-20).
        client.put(topic, "");
        client.append_all(topic, &["\"new\""]);
        let mut sse = server.stream(&url);
        let events = sse.until_caught_up(topic, 1);
        let of: Vec<&Event> = events.iter().filter(|event| event.topic() == topic).collect();
        let kinds: Vec<&str> = of.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["tombstone", "record", "caught-up"], "V-31");
        assert_eq!(of[0].data["reason"], "from_seq_too_old", "V-20");
        assert_eq!(of[1].data["records"][0]["data"], "new", "I-70");
        if topic < other {
            sse.expect("caught-up", other);
        }
        // V-32: when the last topic is gone the server ends the stream.
        client.drop_topic(topic);
        sse.expect("topic-deleted", topic);
        client.drop_topic(other);
        sse.expect("topic-deleted", other);
        sse.assert_ended("V-32");
        let mut sse = server.stream(&url);
        let kinds = [sse.event(), sse.event()].map(|event| event.kind);
        assert_eq!(kinds, ["topic-deleted", "topic-deleted"], "V-31");
        sse.assert_ended("V-32");
    }
}

#[test]
fn an_append_elsewhere_makes_the_stream_look() {
    let server = Server::shared();
    let [first, second] = server.names("lookup");
    for (topic, other) in [(&first, &second), (&second, &first)] {
        let mut client = server.connect();
        client.fresh(topic, "");
        client.fresh(other, "");
        let mut sse = server.watch(&json!({"topics": {(topic): {}, (other): {}}, "heartbeat_ms": 60000}));
        let _ = [sse.event(), sse.event()];
        client.drop_topic(topic);
        client.append_all(other, &["1"]);
        let mut kinds = [sse.event(), sse.event(), sse.event()].map(|event| event.kind);
        kinds.sort_unstable();
        assert_eq!(kinds, ["caught-up", "record", "topic-deleted"], "V-30");
    }
}

#[test]
fn silence_is_broken_by_heartbeats() {
    let server = brisk();
    let mut client = server.connect();
    for topic in server.names("heart") {
        client.fresh(&topic, "");
        let mut sse = server.watch(&json!({"topics": {(&topic): {}}, "heartbeat_ms": 20}));
        sse.expect("caught-up", &topic);
        for seq in 1..=3 {
            for _ in 0..3 {
                match sse.block() {
                    Some(crate::sse::Block::Comment(text)) => {
                        assert!(format!(":{text}").contains(": hb"), "V-40: {text:?}");
                    }
                    other => panic!("V-40: {other:?}"),
                }
            }
            client.append_all(&topic, &["1"]);
            sse.expect_records(&topic, [seq]);
            sse.expect("caught-up", &topic);
        }
    }
}
