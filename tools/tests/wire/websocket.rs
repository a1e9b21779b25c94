//! The WebSocket data plane (§9): what is sent and what is asked for.

use crate::harness::Server;
use crate::ws::seqs_of;
use serde_json::{Map, Value, json};

fn numbers(frame: &Value, names: [&str; 3]) -> [u64; 3] {
    names.map(|name| frame[name].as_u64().unwrap_or_else(|| panic!("{name} in {frame}")))
}

#[test]
fn a_subscription_delivers_what_is_there_and_what_comes() {
    let server = Server::shared();
    for class in ["ephemeral", "memory", "disk", "fsync"] {
        let names = server.names(&format!("ws-{class}"));
        let mut client = server.connect();
        for topic in &names {
            client.fresh(topic, &format!(r#"{{"durability":"{class}"}}"#));
            client.append_all(topic, &["1", "2", "3"]);
        }
        for topic in &names {
            let mut ws = server.websocket();
            let reply = ws.ask(&json!({"op": "subscribe", "request_id": "s", "topic": topic, "from_seq": 1}));
            let cursors = json!({(topic): {"from_seq": 1, "head_seq": 3, "earliest_seq": 1}});
            assert_eq!(reply, json!({"op": "subscribed", "request_id": "s", "topics": cursors}), "§9");
            let record = ws.expect_records(topic, 2..=3);
            assert_eq!(numbers(&record, ["from_seq", "to_seq", "head_seq"]), [1, 3, 3], "WS-30");
            assert_eq!(ws.expect("caught_up", topic)["head_seq"], 3, "WS-32 WS-27: in whichever order");
            // From this connection, from another, over HTTP.
            let mut other = server.websocket();
            for round in 0..10 {
                let publish =
                    json!({"op": "publish", "topic": topic, "records": [{"data": round}, {"data": null}]});
                match round % 3 {
                    0 => drop(ws.ask(&publish)),
                    1 => drop(other.ask(&publish)),
                    _ => client.append_all(topic, &["1", "2"]),
                }
                let head = 3 + 2 * (round + 1);
                let record = ws.expect_records(topic, head - 1..=head);
                assert_eq!(
                    numbers(&record, ["from_seq", "to_seq", "head_seq"]),
                    [head - 2, head, head],
                    "V-12"
                );
                assert_eq!(ws.expect("caught_up", topic)["head_seq"], head, "WS-32 I-46");
            }
            client.fresh(topic, &format!(r#"{{"durability":"{class}"}}"#));
            client.append_all(topic, &["1", "2", "3"]);
        }
    }
}

#[test]
fn the_options_of_a_subscription_are_those_of_a_watch() {
    let server = Server::shared();
    let mut client = server.connect();
    let [first, second] = server.names("wsoptions");
    for topic in [&first, &second] {
        client.fresh(topic, "");
        client.append(
            topic,
            r#"{"records":[{"data":1,"node":"me","tag":"t","meta":{}},{"data":2},{"data":3}]}"#,
        );
    }
    let mut ws = server.websocket();
    // WS-23: the map's options win.
    let topics = json!({(&first): {"from_seq": 2}, (&second): {"tail": true}});
    let reply = ws.ask(&json!({"op": "subscribe", "topic": first, "from_seq": 0, "topics": topics}));
    assert_eq!(
        (&reply["request_id"], &reply["topics"][&first]["from_seq"]),
        (&Value::Null, &json!(2)),
        "WS-23"
    );
    assert_eq!(reply["topics"][&second]["from_seq"], 3, "§9 tail");
    let mut shown: Vec<Value> = (0..3).map(|_| ws.delivery()).collect();
    shown.retain(|frame| frame["topic"] == first.as_str());
    assert_eq!(seqs_of(&shown[0]), [3], "WS-23");
    for topic in [&first, &second] {
        let subscribe = |options: Value| {
            let mut command = options.as_object().expect("an object").clone();
            command.insert("op".into(), json!("subscribe"));
            command.insert("topic".into(), json!(topic));
            let mut ws = server.websocket();
            assert_eq!(ws.ask(&Value::Object(command))["op"], "subscribed", "§9 {options}");
            ws
        };
        let full = subscribe(json!({"include_tags": true})).expect_records(topic, 1..=3);
        let record = &full["records"][0];
        assert_eq!(
            (&record["$tag"], &record["$node"], &record["meta"]),
            (&json!("t"), &json!("me"), &json!({}))
        );
        let bare =
            subscribe(json!({"include_data": false, "include_meta": false})).expect_records(topic, 1..=3);
        let bare = bare["records"][0].as_object().expect("a record");
        assert!(["data", "meta", "$tag"].iter().all(|name| !bare.contains_key(*name)), "§9: {bare:?}");
        let mut filtered = subscribe(json!({"node": ["me"], "limit": 1}));
        assert_eq!(filtered.expect_records(topic, [2])["to_seq"], 2, "D-5 WS-30");
        filtered.expect_records(topic, [3]);
        filtered.expect("caught_up", topic);
        let mut small = subscribe(json!({"max_batch_bytes": 3}));
        small.expect_records(topic, [1]);
        small.expect_records(topic, 2..=3);
        // The whole of it: default limit 1000, larger ones are that.
        client.append_all(topic, &["0"; 1100]);
        for options in [json!({}), json!({"limit": 4000})] {
            let mut all = subscribe(options);
            all.expect_records(topic, 1..=1000);
            all.expect_records(topic, 1001..=1103);
        }
        subscribe(json!({"limit": 0})).expect_records(topic, 1..=256);
        let mut tail = subscribe(json!({"tail": true, "from_seq": 1}));
        assert_eq!(tail.expect("caught_up", topic)["head_seq"], 1103, "§9 tail wins");
    }
}

#[test]
fn request_ids_come_back_as_they_were() {
    let mut ws = Server::shared().websocket();
    for id in [
        "7",
        "-1.5",
        "18446744073709551615",
        "\"é\\u0000\"",
        "true",
        "null",
        "[1,{\"a\":[]}]",
        "{\"b\":null}",
    ] {
        ws.send_text(&format!("{{\"request_id\":{id},\"op\":\"ping\"}}"));
        let id: Value = serde_json::from_str(id).expect("JSON");
        assert_eq!(ws.reply(), json!({"op": "pong", "request_id": id}), "WS-8");
    }
    assert_eq!(
        ws.ask(&json!({"op": "ping", "more": [1]})),
        json!({"op": "pong", "request_id": null}),
        "WS-8"
    );
}

#[test]
fn commands_are_answered_in_their_order() {
    let server = Server::shared();
    let [first, second] = server.names("wsorder");
    let mut client = server.connect();
    client.fresh(&first, "");
    client.fresh(&second, r#"{"durability":"fsync"}"#);
    let mut ws = server.websocket();
    for round in 0..60 {
        let topic = [&first, &second][round % 2];
        ws.send(&match round % 5 {
            0 => json!({"op": "ping", "request_id": round}),
            3 => json!({"op": "subscribe", "topic": "absent", "request_id": round}),
            4 => json!({"op": "unsubscribe", "topic": topic, "request_id": round}),
            _ => json!({"op": "publish", "topic": topic, "records": [{"data": round}], "request_id": round}),
        });
    }
    for round in 0..60 {
        let reply = ws.reply();
        let op = ["pong", "ack", "ack", "error", "unsubscribed"][round % 5];
        assert_eq!((&reply["request_id"], &reply["op"]), (&json!(round), &json!(op)), "WS-7: {reply}");
    }
    for topic in [&first, &second] {
        let records = client.diff(topic, "{}").member("records");
        let data: Vec<u64> = records
            .as_array()
            .expect("records")
            .iter()
            .map(|record| record["data"].as_u64().expect("a number"))
            .collect();
        assert!(data.len() == 12 && data.is_sorted(), "WS-7 I-4: {data:?}");
    }
}

#[test]
fn what_is_no_command_is_told_and_harms_nothing() {
    let server = Server::shared();
    let [topic, _] = server.names("wswrong");
    server.connect().fresh(&topic, "");
    let mut ws = server.websocket();
    let on = |text: &str| format!(r#"{{"request_id":1,"topic":"{topic}",{text}}}"#);
    for text in [
        "",
        "{",
        "null",
        "[]",
        "7",
        "{}",
        r#"{"request_id":1}"#,
        "{\"op\":\"ping\"}x",
        r#"{"op":"Ping","request_id":1}"#,
        r#"{"op":null}"#,
        r#"{"op":7}"#,
        r#"{"op":"ping","op":"ping"}"#,
        &on(r#""op":"subscribe","from_seq":-1"#),
        &on(r#""op":"subscribe","from_seq":null"#),
        &on(r#""op":"subscribe","tail":"yes""#),
        &on(r#""op":"subscribe","limit":1.5"#),
        &on(r#""op":"subscribe","topics":[]"#),
        &on(r#""op":"subscribe","topics":{"a":7}"#),
        &on(r#""op":"subscribe","node":{}"#),
        &on(r#""op":"subscribe","lenient":1"#),
        &on(r#""op":"unsubscribe","topics":{}"#),
        &on(r#""op":"unsubscribe","topics":[1]"#),
        &on(r#""op":"publish""#),
        &on(r#""op":"publish","records":{}"#),
        &on(r#""op":"publish","records":[{}]"#),
        &on(r#""op":"publish","records":[{"data":1}],"return_seqs":null"#),
        r#"{"op":"publish","records":[{"data":1}]}"#,
        r#"{"op":"publish","topic":7,"records":[{"data":1}]}"#,
    ] {
        ws.send_text(text);
        ws.expect_fault(&Value::Null, "invalid_json", &format!("WS-20 {text}"));
    }
    for text in [
        r#"{"op":"subscribe","request_id":"x"}"#,
        r#"{"op":"subscribe","request_id":"x","topic":null}"#,
        r#"{"op":"subscribe","request_id":"x","topics":{}}"#,
        r#"{"op":"unsubscribe","request_id":"x"}"#,
        r#"{"op":"unsubscribe","request_id":"x","topics":[],"topic":null}"#,
    ] {
        ws.send_text(text);
        ws.expect_fault(&json!("x"), "invalid_request", &format!("WS-21 {text}"));
    }
    assert_eq!(ws.ask(&json!({"op": "ping"}))["op"], "pong", "WS-21: none ends the connection");
    assert_eq!(server.connect().get(&format!("/v0/topics/{topic}")).u64("head_seq"), 0, "WS-20");
}

#[test]
fn unknown_topics_fail_a_subscription_or_are_dropped() {
    let server = Server::shared();
    let mut client = server.connect();
    let names = server.names("wsunknown");
    names.iter().for_each(|topic| client.fresh(topic, ""));
    let mut ws = server.websocket();
    for absent in ["absent", "-", "a b"] {
        let topics = json!({(&names[0]): {}, (absent): {}, (&names[1]): {}});
        ws.send(&json!({"op": "subscribe", "topics": topics, "request_id": 5}));
        ws.expect_fault(&json!(5), "topic_not_found", &format!("WS-24 {absent}"));
    }
    // As a whole: not even the known ones are subscribed to.
    names.iter().for_each(|topic| client.append_all(topic, &["1"]));
    assert_eq!(ws.ask(&json!({"op": "ping"}))["op"], "pong");
    let topics = json!({(&names[0]): {"tail": true}, "absent": {}});
    let reply = ws.ask(&json!({"op": "subscribe", "topics": topics, "lenient": true}));
    assert_eq!(reply["topics"].as_object().map(Map::len), Some(1), "WS-24: {reply}");
    assert_eq!(ws.expect("caught_up", &names[0])["head_seq"], 1, "WS-24: none before it");
    let reply = ws.ask(&json!({"op": "subscribe", "topic": "absent", "lenient": true}));
    assert_eq!((&reply["op"], &reply["topics"]), (&json!("subscribed"), &json!({})), "WS-24");
    assert_eq!(client.get("/v0/topics/absent").status, 404, "WS-24");
}

#[test]
fn subscriptions_are_replaced_and_given_up() {
    let server = Server::shared();
    let mut client = server.connect();
    let [first, second] = server.names("wsagain");
    for (topic, other) in [(&first, &second), (&second, &first)] {
        client.fresh(topic, "");
        client.fresh(other, "");
        client.append_all(topic, &["1", "2", "3"]);
        let mut ws = server.websocket();
        for from_seq in [0, 2, 0, 1] {
            ws.ask(&json!({"op": "subscribe", "topic": topic, "from_seq": from_seq}));
            ws.expect_records(topic, from_seq + 1..=3);
            ws.expect("caught_up", topic);
        }
        // One subscription, not four (WS-25).
        ws.ask(&json!({"op": "subscribe", "topic": other, "tail": true}));
        ws.expect("caught_up", other);
        client.append_all(topic, &["4"]);
        ws.expect_records(topic, [4]);
        ws.expect("caught_up", topic);
        client.append_all(other, &["1"]);
        ws.expect_records(other, [1]);
        ws.expect("caught_up", other);
        let reply = ws.ask(
            &json!({"op": "unsubscribe", "request_id": [], "topic": topic, "topics": ["x", "-", topic]}),
        );
        let names = json!(["x", "-", topic, topic]);
        assert_eq!(reply, json!({"op": "unsubscribed", "request_id": [], "topics": names}), "WS-26");
        for seq in 2..=20 {
            client.append_all(topic, &["5"]);
            client.append_all(other, &["2"]);
            ws.expect_records(other, [seq]);
            ws.expect("caught_up", other);
        }
        // Back again, from where it is told to.
        ws.ask(&json!({"op": "subscribe", "topic": topic, "from_seq": 22}));
        ws.expect_records(topic, [23]);
    }
}

#[test]
fn gaps_are_told_with_their_true_reason() {
    let server = Server::shared();
    let mut client = server.connect();
    for topic in server.names("wsgap") {
        client.fresh(&topic, r#"{"cap_records":2}"#);
        client.append_all(&topic, &["1", "2", "3", "4"]);
        let mut ws = server.websocket();
        ws.ask(&json!({"op": "subscribe", "topic": topic}));
        let gap = ws.expect("tombstone", &topic);
        let expected = json!({"op": "tombstone", "topic": topic, "reason": "cap", "gap_from": 1, "gap_to": 2,
            "earliest_seq": 3, "head_seq": 4});
        assert_eq!(gap, expected, "WS-31");
        assert_eq!(ws.expect_records(&topic, 3..=4)["from_seq"], 0, "WS-30 V-12");
        ws.expect("caught_up", &topic);
        client.append_all(&topic, &["5", "6", "7"]);
        assert_eq!(numbers(&ws.expect("tombstone", &topic), ["gap_from", "gap_to", "head_seq"]), [5, 5, 7]);
        ws.expect_records(&topic, 6..=7);
        ws.expect("caught_up", &topic);
        ws.ask(&json!({"op": "subscribe", "topic": topic, "from_seq": 50}));
        let gap = ws.expect("tombstone", &topic);
        assert_eq!(
            (&gap["reason"], &gap["gap_from"], &gap["gap_to"]),
            (&json!("recreated"), &json!(1), &json!(7)),
            "WS-31"
        );
        assert_eq!(ws.expect_records(&topic, 6..=7)["from_seq"], 50, "D-15 V-12");
    }
}

#[test]
fn a_deleted_topic_ends_its_subscription() {
    let server = Server::shared();
    let mut client = server.connect();
    let [first, second] = server.names("wsgone");
    for (topic, other) in [(&first, &second), (&second, &first)] {
        for by_append in [true, false] {
            client.fresh(topic, "");
            client.fresh(other, "");
            let mut ws = server.websocket();
            ws.ask(&json!({"op": "subscribe", "topics": {(topic): {}, (other): {}}}));
            let _ = [ws.delivery(), ws.delivery()];
            client.drop_topic(topic);
            if by_append {
                client.append_all(other, &["1"]);
            } else {
                ws.ask(&json!({"op": "subscribe", "topic": other}));
            }
            let mut seen = Vec::new();
            while seen.last() != Some(&json!("topic_deleted")) {
                let frame = ws.delivery();
                if frame["op"] == "topic_deleted" {
                    let expected =
                        json!({"op": "topic_deleted", "topic": topic, "head_seq": 0, "reason": "deleted"});
                    assert_eq!(frame, expected, "WS-33");
                }
                seen.push(frame["op"].clone());
            }
            // The subscription is gone, and stays so when the name comes back.
            client.put(topic, "");
            client.append_all(topic, &["2"]);
            let head = client.get(&format!("/v0/topics/{other}")).u64("head_seq");
            client.append_all(other, &["3"]);
            loop {
                let frame = ws.delivery();
                assert_eq!(frame["topic"], other.as_str(), "WS-33: {frame}");
                if frame["op"] == "caught_up" && frame["head_seq"] == head + 1 {
                    break;
                }
            }
            ws.ask(&json!({"op": "subscribe", "topic": topic}));
            ws.expect_records(topic, [1]);
        }
    }
}

#[test]
fn a_publish_is_an_append() {
    let server = Server::shared();
    let mut client = server.connect();
    for topic in server.names("publish") {
        client.drop_topic(&topic);
        let mut ws = server.websocket();
        let mut publish = |text: &str| {
            ws.send_text(&format!(r#"{{"op":"publish","request_id":"p","topic":"{topic}",{text}}}"#));
            ws.reply()
        };
        let code =
            |reply: Value| reply["code"].as_str().map(str::to_owned).unwrap_or_else(|| panic!("{reply}"));
        assert_eq!(code(publish(r#""records":[{"data":1}],"create":false"#)), "topic_not_found", "W-20");
        assert_eq!(code(publish(r#""records":[]"#)), "invalid_request", "W-11");
        let ack = publish(
            r#""node":"n","records":[{"data": {"a" :1},"tag":"t"},{"data":2}],"config":{"cap_records":3,"discard":"reject"}"#,
        );
        let mut shown = ack.clone();
        let times = shown.as_object_mut().expect("an object").remove("performance").expect("WS-35");
        assert!(times["server_total_ms"].is_number() && times["fsync_ms"].is_number(), "P-1 P-2: {times}");
        let expected = json!({"op": "ack", "request_id": "p", "topic": topic, "first_seq": 1, "last_seq": 2,
            "seqs": [1, 2], "head_seq": 2, "count": 2, "created": true, "deduped": false});
        assert_eq!(shown, expected, "§9 W-2");
        let read = client.diff(&topic, r#"{"include_tags":true}"#);
        assert!(read.text().contains(r#""data":{"a" :1}"#), "J-21 I-41: {}", read.text());
        assert_eq!(read.member("records")[0]["$node"], "n", "§4");
        // U-7: one set of keys for both ways in.
        let ack = publish(r#""records":[{"data":3}],"idempotency_key":"k","return_seqs":false"#);
        assert_eq!((&ack["seqs"], &ack["head_seq"]), (&Value::Null, &json!(3)), "§9");
        let again = client.append(&topic, r#"{"records":[{"data":4}],"idempotency_key":"k"}"#);
        assert_eq!((again.member("deduped"), again.u64("first_seq")), (json!(true), 3), "U-7");
        let again = publish(r#""records":[{"data":4}],"idempotency_key":"k""#);
        assert_eq!((&again["deduped"], &again["seqs"]), (&json!(true), &json!([3])), "U-7 U-4");
        assert_eq!(code(publish(r#""records":[{"data":5}]"#)), "topic_full", "W-31");
        let four = [r#"{"data":1}"#; 4].join(",");
        assert_eq!(code(publish(&format!("\"records\":[{four}]"))), "record_too_large", "W-30");
        let many = vec![r#"{"data":1}"#; 10_001].join(",");
        assert_eq!(code(publish(&format!("\"records\":[{many}]"))), "batch_too_large", "W-12");
        let tag = "t".repeat(257);
        assert_eq!(
            code(publish(&format!("\"records\":[{{\"data\":1,\"tag\":\"{tag}\"}}]"))),
            "invalid_request",
            "W-14"
        );
        assert_eq!(client.get(&format!("/v0/topics/{topic}")).u64("head_seq"), 3, "I-36");
    }
}

#[test]
fn cursors_die_with_their_connection() {
    let server = Server::shared();
    let mut client = server.connect();
    for topic in server.names("wsdies") {
        client.fresh(&topic, "");
        client.append_all(&topic, &["1", "2"]);
        for _ in 0..3 {
            let mut ws = server.websocket();
            // Nothing comes for what an earlier connection subscribed to, and 0 is where one begins.
            assert_eq!(ws.ask(&json!({"op": "ping"}))["op"], "pong", "WS-34");
            ws.ask(&json!({"op": "subscribe", "topic": topic}));
            ws.expect_records(&topic, 1..=2);
            assert_eq!(ws.expect("caught_up", &topic)["head_seq"], 2, "WS-34");
        }
    }
}

#[test]
fn every_socket_gets_every_record_once_while_many_publish() {
    let server = Server::shared();
    const WRITES: u64 = 100;
    let topics = server.names("wscrowd");
    let mut client = server.connect();
    for (topic, class) in topics.iter().zip(["disk", "ephemeral"]) {
        client.fresh(topic, &format!(r#"{{"durability":"{class}"}}"#));
    }
    std::thread::scope(|scope| {
        for reader in 0..3_u64 {
            let topics = &topics;
            scope.spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(reader * 7));
                let mut ws = server.websocket();
                ws.send(
                    &json!({"op": "subscribe", "topics": {(&topics[0]): {}, (&topics[1]): {}}, "limit": 7}),
                );
                let mut next = [0, 0];
                while next != [3 * WRITES; 2] {
                    let frame = ws.delivery();
                    let at = usize::from(frame["topic"] == topics[1].as_str());
                    assert!(matches!(frame["op"].as_str(), Some("record" | "caught_up")), "I-26: {frame}");
                    for record in frame["records"].as_array().into_iter().flatten() {
                        next[at] += 1;
                        assert_eq!(record["$seq"], next[at], "I-26 I-42 I-46");
                    }
                }
            });
        }
        for topic in topics.iter().chain(&topics) {
            scope.spawn(move || {
                let mut ws = server.websocket();
                let publish = json!({"op": "publish", "topic": topic, "records": [{"data": 1}, {"data": 2}, {"data": 3}]});
                // Ten on their way at a time (WS-7).
                for _ in 0..WRITES / 20 {
                    (0..10).for_each(|_| ws.send(&publish));
                    let first: Vec<u64> =
                        (0..10).map(|_| ws.reply()["first_seq"].as_u64().expect("an ack")).collect();
                    assert!(first.is_sorted(), "WS-7 I-4: {first:?}");
                }
            });
        }
    });
}
