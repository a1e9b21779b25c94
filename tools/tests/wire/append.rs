//! Appends and idempotency keys (§4, §1.11).

use crate::harness::{Server, request};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

#[test]
fn an_append_answers_what_it_did() {
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("append") {
        client.drop_topic(&topic);
        let answer = client.append(&topic, r#"{"records":[{"data":1},{"data":2}]}"#);
        let expected = json!({
            "topic": topic, "first_seq": 1, "last_seq": 2, "seqs": [1, 2], "head_seq": 2, "count": 2,
            "created": true, "deduped": false,
        });
        assert_eq!((answer.status, answer.steady()), (201, expected), "W-1 W-2");
        let answer = client.append(
            &format!("{topic}?return_seqs=false"),
            r#"{"records":[{"data":3}],"disable_backpressure":true,"x":{"y":[]}}"#,
        );
        let expected = json!({
            "topic": topic, "first_seq": 3, "last_seq": 3, "head_seq": 3, "count": 1, "created": false,
            "deduped": false,
        });
        assert_eq!((answer.status, answer.steady()), (200, expected), "W-1 W-2 PR-4");
        let records = client.diff(&topic, "").member("records");
        assert_eq!(records[0]["$ts"], records[1]["$ts"], "W-5");
        // I-7: the wall clock at the commit; a record behind may well have the same.
        let clock = || SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as u64;
        let before = clock();
        client.append_all(&topic, &["4"]);
        let record = client.diff(&topic, r#"{"from_seq":3}"#).member("records")[0].clone();
        let ts = record["$ts"].as_u64().expect("M-4");
        assert!((before..=clock()).contains(&ts), "I-7 M-4: {ts} after {before}");
        for (class, synced) in [("ephemeral", false), ("memory", false), ("disk", false), ("fsync", true)] {
            client.fresh(&topic, &format!(r#"{{"durability":"{class}"}}"#));
            let times = client.append(&topic, r#"{"records":[{"data":1}]}"#).member("performance");
            assert!(times["wal_append_ms"].is_number(), "P-2 {class}");
            let sync = times["fsync_ms"].as_f64().expect("P-2");
            assert_eq!(sync > 0.0, synced, "P-2 {class}");
        }
    }
}

#[test]
fn a_record_has_its_members() {
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("members") {
        client.fresh(&topic, "");
        let table = [
            // rule, members beside the records, record, as read
            ("J-20", "", r#"{"data":null}"#, json!({"data": null})),
            ("J-20", "", r#"{"data":[1,{"a":"b"}],"meta":3}"#, json!({"data": [1, {"a": "b"}], "meta": 3})),
            ("J-20", "", r#"{"meta":[null],"data":1}"#, json!({"data": 1, "meta": [null]})),
            ("W-35", "", r#"{"data":1,"tag":"","node":""}"#, json!({"data": 1, "$tag": "", "$node": ""})),
            ("node", r#""node":"n","#, r#"{"data":1}"#, json!({"data": 1, "$node": "n"})),
            ("node", r#""node":"n","#, r#"{"data":1,"node":null}"#, json!({"data": 1, "$node": "n"})),
            ("node", r#""node":"n","#, r#"{"data":1,"node":""}"#, json!({"data": 1, "$node": ""})),
            (
                "J-8",
                "",
                r#"{"data":1,"tag":"\u0000\ud83d\ude00\n"}"#,
                json!({"data": 1, "$tag": "\0\u{1f600}\n"}),
            ),
            ("J-3", "", r#"{"data":1,"$seq":9,"x":{}}"#, json!({"data": 1})),
            ("J-4", "", r#"{"data":{"a":1,"a":2}}"#, json!({"data": {"a": 2}})),
        ];
        for (seq, (rule, outer, record, read)) in (1..).zip(table) {
            let answer = client.append(&topic, &format!("{{{outer}\"records\":[{record}]}}"));
            assert_eq!(answer.status, 200, "{rule} {record}");
            let body = format!(r#"{{"from_seq":{},"include_tags":true}}"#, seq - 1);
            let mut expected = read;
            expected["$seq"] = seq.into();
            expected["$ts"] = 0.into();
            assert_eq!(client.diff(&topic, &body).steady()["records"], json!([expected]), "{rule} {record}");
        }
    }
}

fn of_bytes(bytes: usize) -> String {
    "x".repeat(bytes)
}

#[test]
fn a_write_is_taken_whole_or_refused_whole() {
    let none = Value::Null;
    let members = |count: usize| {
        let members: Vec<String> = (0..count).map(|number| format!("\"{number}\":0")).collect();
        format!("{{{}}}", members.join(","))
    };
    let many = |count: usize| vec![r#"{"data":1}"#; count].join(",");
    let meta = |bytes: usize| format!("{{\"data\":1,\"meta\":\"{}\"}}", of_bytes(bytes - 2));
    let data = |bytes: usize| format!("{{\"data\":\"{}\"}}", of_bytes(bytes - 2));
    let both = |data: usize| format!("{{\"meta\":{{}},\"data\":\"{}\"}}", of_bytes(data - 2));
    let tag = |bytes: usize| format!("{{\"data\":1,\"tag\":\"{}\"}}", of_bytes(bytes));
    let node = |bytes: usize| format!("{{\"data\":1,\"node\":\"{}\"}}", of_bytes(bytes));
    let big = 1 << 20;
    let invalid = ("invalid_request", 400);
    // rule, members before, records, code and status, or none when it is taken
    type Row = (&'static str, String, String, Option<(&'static str, u16)>);
    let table: Vec<Row> = vec![
        ("W-6", String::new(), "{}".into(), Some(invalid)),
        ("W-6", String::new(), r#"{"data":1},{"tag":"t"}"#.into(), Some(invalid)),
        ("J-4", String::new(), r#"{"data":1,"data":1}"#.into(), Some(invalid)),
        ("J-4", r#""records":[],"#.into(), r#"{"data":1}"#.into(), Some(invalid)),
        ("J-6", String::new(), r#"{"data":1,"tag":3}"#.into(), Some(invalid)),
        ("J-6", r#""node":3,"#.into(), r#"{"data":1}"#.into(), Some(invalid)),
        ("J-7", r#""create":"true","#.into(), r#"{"data":1}"#.into(), Some(invalid)),
        ("W-24", r#""config":{"ttl_ms":"1"},"#.into(), r#"{"data":1}"#.into(), Some(invalid)),
        ("W-24", r#""config":[],"#.into(), r#"{"data":1}"#.into(), Some(invalid)),
        ("W-24", r#""config":{"type":"queue","dead_letter":"a b"},"#.into(), r#"{"data":1}"#.into(), None),
        ("W-21", r#""create":false,"#.into(), r#"{"data":1}"#.into(), None),
        ("W-11", String::new(), String::new(), Some(invalid)),
        ("W-12", String::new(), many(10_000), None),
        ("W-12", String::new(), many(10_001), Some(("batch_too_large", 400))),
        ("U-2", format!("\"idempotency_key\":\"{}\",", of_bytes(256)), r#"{"data":1}"#.into(), None),
        (
            "W-13",
            format!("\"idempotency_key\":\"{}\",", of_bytes(257)),
            r#"{"data":1}"#.into(),
            Some(invalid),
        ),
        ("W-14", String::new(), tag(256), None),
        ("W-14", String::new(), tag(257), Some(invalid)),
        ("J-10", String::new(), tag(255).replacen('x', "\u{fc}", 1), None),
        ("J-10", String::new(), tag(256).replacen('x', "\u{fc}", 1), Some(invalid)),
        ("J-10", String::new(), tag(256).replacen('x', "\\u0041", 1), None),
        ("W-14", String::new(), node(128), None),
        ("W-14", String::new(), node(129), Some(invalid)),
        ("W-14 resolved", format!("\"node\":\"{}\",", of_bytes(129)), r#"{"data":1}"#.into(), Some(invalid)),
        ("W-35", format!("\"node\":\"{}\",", of_bytes(129)), node(1), None),
        ("W-15", String::new(), meta(16_384), None),
        ("W-15", String::new(), meta(16_385), Some(invalid)),
        ("W-15", String::new(), format!("{{\"data\":1,\"meta\":{}}}", members(64)), None),
        ("W-15", String::new(), format!("{{\"data\":1,\"meta\":{}}}", members(65)), Some(invalid)),
        ("W-15", String::new(), format!("{{\"data\":1,\"meta\":{{\"a\":{}}}}}", members(65)), None),
        ("W-16", String::new(), data(big), None),
        ("W-16", String::new(), data(big + 1), Some(("record_too_large", 400))),
        ("W-16", String::new(), both(big - 2), None),
        ("W-16", String::new(), both(big - 1), Some(("record_too_large", 400))),
        ("W-17", String::new(), [data(big + 1), tag(257)].join(","), Some(("record_too_large", 400))),
        ("W-17", String::new(), [tag(257), data(big + 1)].join(","), Some(invalid)),
        ("W-12 first", String::new(), [tag(257), many(10_000)].join(","), Some(("batch_too_large", 400))),
        ("W-13 first", format!("\"idempotency_key\":\"{}\",", of_bytes(257)), data(big + 1), Some(invalid)),
    ];
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("limits") {
        client.fresh(&topic, r#"{"durability":"memory"}"#);
        client.append_all(&topic, &["0"]);
        let mut head = 1;
        for (rule, outer, records, refused) in &table {
            // The state is cheap to compare; what it holds is compared at the end.
            let state = format!("/v0/topics/{topic}?touch=false");
            let before = client.get(&state).steady();
            let answer = client
                .append(&format!("{topic}?return_seqs=0"), &format!("{{{outer}\"records\":[{records}]}}"));
            match refused {
                Some((code, status)) => {
                    answer.assert_fault(*status, code, &none, rule);
                    assert_eq!(client.get(&state).steady(), before, "W-3 I-36 {rule}");
                }
                None => {
                    assert_eq!(answer.status, 200, "{rule}: {}", answer.text());
                    assert_eq!(answer.u64("first_seq"), head + 1, "W-2 {rule}");
                    head = answer.u64("last_seq");
                }
            }
        }
        assert_eq!(client.get(&format!("/v0/topics/{topic}")).u64("count"), head, "W-3");
    }
}

#[test]
fn creation_follows_create_and_then_auto_create() {
    let mut client = Server::shared().connect();
    let none = Value::Null;
    for topic in Server::shared().names("create") {
        let absent = json!({ "topic": topic });
        let dead = json!({"dead_letter": "a b"});
        let own = format!(r#""config":{{"type":"queue","dead_letter":"{topic}"}},"#);
        let table = [
            // rule, members, status, code, detail
            ("W-21", "", 201, "", &none),
            ("W-21", r#""create":true,"#, 201, "", &none),
            ("W-21", r#""create":null,"config":null,"#, 201, "", &none),
            ("W-21", r#""create":false,"#, 404, "topic_not_found", &absent),
            ("W-21", r#""config":{"auto_create":false},"#, 404, "topic_not_found", &absent),
            ("W-21", r#""config":{"auto_create":false},"create":true,"#, 201, "", &none),
            ("W-21", r#""config":{"auto_create":true},"create":false,"#, 404, "topic_not_found", &absent),
            ("W-25", r#""config":{"type":"queue","lease_ms":1,"durable":true},"#, 201, "", &none),
            ("W-22", r#""config":{"dead_letter":"a b"},"#, 400, "invalid_request", &dead),
            ("W-22", &own, 400, "invalid_request", &none),
            (
                "W-20 first",
                r#""create":false,"config":{"dead_letter":"a b"},"#,
                404,
                "topic_not_found",
                &absent,
            ),
            ("W-11 first", r#""create":false,"records":[],"x":["#, 400, "invalid_request", &none),
        ];
        for (rule, members, status, code, detail) in table {
            client.drop_topic(&topic);
            let answer = match rule {
                "W-11 first" => client.append(&topic, r#"{"create":false,"records":[]}"#),
                _ => client.append(&topic, &format!("{{{members}\"records\":[{{\"data\":1}}]}}")),
            };
            let state = client.get(&format!("/v0/topics/{topic}"));
            match status {
                201 => {
                    assert_eq!((answer.status, answer.member("created")), (201, true.into()), "{rule}");
                    assert_eq!(state.u64("head_seq"), 1, "{rule}");
                    if rule == "W-25" {
                        let config = state.member("config");
                        assert_eq!(config["lease_ms"], 100, "{rule}");
                        assert_eq!(config["durability"], "fsync", "{rule}");
                    }
                }
                _ => {
                    answer.assert_fault(status, code, detail, &format!("{rule} {members}"));
                    assert_eq!(state.status, 404, "{rule} {members}: nothing was made");
                }
            }
        }
        // W-21: the stored `auto_create` is not asked.
        client.fresh(&topic, r#"{"auto_create":false}"#);
        client.append_all(&topic, &["1"]);
    }
}

#[test]
fn a_full_topic_refuses_and_stays_as_it_is() {
    let mut client = Server::shared().connect();
    let none = Value::Null;
    for topic in Server::shared().names("full") {
        client.fresh(&topic, r#"{"cap_records":3,"cap_bytes":10,"discard":"reject"}"#);
        client.append(&topic, r#"{"idempotency_key":"k","records":[{"data":1},{"data":2}]}"#);
        let full = |head: u64, earliest: u64| json!({"topic": topic, "cap_records": 3, "cap_bytes": 10, "head_seq": head, "earliest_seq": earliest});
        let before = client.snapshot(&topic);
        let records = |data: &[&str]| {
            let all: Vec<String> = data.iter().map(|data| format!("{{\"data\":{data}}}")).collect();
            format!("{{\"idempotency_key\":\"new\",\"records\":[{}]}}", all.join(","))
        };
        let table = [
            ("W-30 records", records(&["1", "2", "3", "4"]), 400, "record_too_large", none.clone()),
            ("W-30 bytes", records(&["12345678901"]), 400, "record_too_large", none.clone()),
            ("W-31 records", records(&["3", "4"]), 422, "topic_full", full(2, 1)),
            ("W-31 bytes", records(&["123456789"]), 422, "topic_full", full(2, 1)),
        ];
        for (rule, body, status, code, detail) in table {
            client.append(&topic, &body).assert_fault(status, code, &detail, rule);
            assert_eq!(client.snapshot(&topic), before, "W-3 I-36 {rule}");
        }
        // U-6: the failed writes left no key behind; equality is admitted (W-31).
        let answer = client.append(&topic, &records(&["12345678"]));
        assert_eq!((answer.member("deduped"), answer.u64("head_seq")), (false.into(), 3), "U-6 W-31");
        client.append(&topic, &records(&["1"])).json();
        // U-4: a retry of what was accepted succeeds on the full topic, and the head is that of then.
        let answer = client.append(&topic, r#"{"idempotency_key":"k","records":[{"data":1}]}"#);
        let expected = json!({
            "topic": topic, "first_seq": 1, "last_seq": 2, "seqs": [1, 2], "head_seq": 2, "count": 2,
            "created": false, "deduped": true,
        });
        assert_eq!((answer.status, answer.steady()), (200, expected), "U-3 U-4");
        // I-35: each delete makes its own room.
        client.append(&topic, r#"{"records":[{"data":1}]}"#).assert_fault(
            422,
            "topic_full",
            &full(3, 1),
            "W-31",
        );
        client.delete(&topic, r#"{"before_seq":2}"#);
        client.append_all(&topic, &["9"]);
        let two = r#"{"records":[{"data":1}]}"#;
        client.append(&topic, two).assert_fault(422, "topic_full", &full(4, 2), "I-35");
        // W-34
        client.drop_topic(&topic);
        let creating = r#"{"config":{"cap_bytes":1,"discard":"reject"},"records":[{"data":12}]}"#;
        client.append(&topic, creating).assert_fault(400, "record_too_large", &none, "W-30");
        assert_eq!(client.get(&format!("/v0/topics/{topic}")).status, 404, "W-34");
        // W-33
        let answer =
            client.append(&topic, r#"{"config":{"cap_records":1},"records":[{"data":1},{"data":2}]}"#);
        assert_eq!((answer.status, answer.member("seqs")), (201, json!([1, 2])), "W-33");
        assert_eq!(client.get(&format!("/v0/topics/{topic}")).u64("earliest_seq"), 2, "W-33");
    }
}

#[test]
fn a_key_appends_once() {
    let server = Server::shared();
    let mut client = server.connect();
    let one = r#"{"records":[{"data":1}]}"#;
    for topic in server.names("keys") {
        client.fresh(&topic, "");
        let path = format!("/v0/topics/{topic}");
        let mut keyed = |header: Option<&str>, body: &str| {
            let header = header.map_or(String::new(), |key| format!("Idempotency-Key: {key}\r\n"));
            let text = String::from_utf8(request("POST", &path, body)).expect("text");
            client.send(text.replacen("Host: test\r\n", &format!("Host: test\r\n{header}"), 1));
            client.answer()
        };
        let body = |key: &str| format!(r#"{{"idempotency_key":{key},"records":[{{"data":1}}]}}"#);
        let long = of_bytes(257);
        let table = [
            // rule, header, body, status, deduped
            ("U-1", Some("h"), one.to_owned(), 200, false),
            ("U-1", Some("h"), one.to_owned(), 200, true),
            ("U-1 same key", None, body("\"h\""), 200, true),
            ("U-1 the body wins", Some("h"), body("\"b\""), 200, false),
            ("U-1 the body wins", Some("h"), body("\"b\""), 200, true),
            ("U-1 null", Some("h"), body("null"), 200, true),
            ("U-1 escapes", None, body("\"\\u0068\""), 200, true),
            ("U-1 not ASCII", Some("\u{fc}"), one.to_owned(), 200, false),
            ("U-1 not ASCII", Some("\u{fc}"), one.to_owned(), 200, false),
            ("U-2 empty", None, body("\"\""), 200, false),
            ("U-2 empty", None, body("\"\""), 200, true),
            ("U-2 empty", Some(""), one.to_owned(), 200, true),
            ("U-2", Some(&long), one.to_owned(), 400, false),
            ("U-2 the body wins", Some(&long), body("\"h\""), 200, true),
            ("U-3 still checked", Some("h"), r#"{"records":[]}"#.to_owned(), 400, false),
            ("U-3 still checked", Some("h"), r#"{"records":[{}]}"#.to_owned(), 400, false),
            ("no key", None, one.to_owned(), 200, false),
            ("no key", None, one.to_owned(), 200, false),
        ];
        for (rule, header, body, status, deduped) in table {
            let answer = keyed(header, &body);
            assert_eq!(answer.status, status, "{rule}: {}", answer.text());
            if status == 200 {
                assert_eq!(answer.member("deduped"), deduped, "{rule}");
                let timed = answer.member("performance").get("fsync_ms").is_some();
                assert_eq!(timed, !deduped, "P-2 {rule}");
            }
        }
        // U-7: another topic knows nothing of the key, whoever owns it.
        let other = format!("{topic}-other");
        client.fresh(&other, "");
        assert_eq!(client.append(&other, &body("\"h\"")).member("deduped"), false, "U-7");
        assert_eq!(client.append(&other, &body("\"h\"")).member("deduped"), true, "U-7 W-23");
        // U-6: deleting records does not forget, U-4: an absent topic is still absent.
        client.delete(&topic, r#"{"before_seq":99}"#);
        let again = client.append(&topic, &body("\"h\""));
        assert_eq!((again.member("deduped"), again.u64("first_seq")), (true.into(), 1), "U-6");
        client.drop_topic(&topic);
        let gone = client.append(&topic, r#"{"create":false,"idempotency_key":"h","records":[{"data":1}]}"#);
        gone.assert_fault(404, "topic_not_found", &json!({ "topic": topic }), "U-4");
        // U-8: a window of 0 is over in the next millisecond, one of 20 ms after 21.
        for (window, pause, deduped) in
            [(0, 3, false), (10_000, 3, true), (5, 20, false), (u64::MAX, 3, true)]
        {
            client.fresh(&topic, &format!(r#"{{"idempotency_window_ms":{window}}}"#));
            client.append(&topic, &body("\"w\""));
            std::thread::sleep(Duration::from_millis(pause));
            assert_eq!(client.append(&topic, &body("\"w\"")).member("deduped"), deduped, "U-8 CF-7 {window}");
        }
    }
}

#[test]
fn concurrent_writes_with_one_key_append_once() {
    let server = Server::shared();
    for class in ["ephemeral", "disk", "fsync"] {
        for topic in server.names(&format!("samekey-{class}")) {
            server.connect().fresh(&topic, &format!(r#"{{"durability":"{class}"}}"#));
            let body = r#"{"idempotency_key":"k","records":[{"data":1},{"data":2}]}"#;
            let answers: Vec<_> = std::thread::scope(|scope| {
                let writes: Vec<_> =
                    (0..6).map(|_| scope.spawn(|| server.connect().append(&topic, body))).collect();
                writes.into_iter().map(|write| write.join().expect("an answer")).collect()
            });
            let fresh = answers.iter().filter(|answer| answer.member("deduped") == false).count();
            assert_eq!(fresh, 1, "U-5 {class}");
            assert!(answers.iter().all(|answer| answer.member("seqs") == json!([1, 2])), "U-3 U-5");
            assert_eq!(server.connect().get(&format!("/v0/topics/{topic}")).u64("head_seq"), 2, "U-5");
        }
    }
}

#[test]
fn batches_of_concurrent_writers_do_not_mix() {
    let server = Server::shared();
    for topic in server.names("mix") {
        server.connect().fresh(&topic, "");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let topic = &topic;
                scope.spawn(move || {
                    let mut client = server.connect();
                    let body = format!(
                        r#"{{"records":[{{"data":{writer}}},{{"data":{writer}}},{{"data":{writer}}}]}}"#
                    );
                    let mut last = 0;
                    for _ in 0..20 {
                        let answer = client.append(topic, &body);
                        let first = answer.u64("first_seq");
                        assert!(first > last, "I-4");
                        last = answer.u64("last_seq");
                        assert_eq!(last, first + 2, "W-2 I-3");
                        // I-41: visible to whoever asks now, wherever.
                        let seen = client.diff(topic, &format!(r#"{{"from_seq":{}}}"#, first - 1));
                        let seen = seen.member("records");
                        assert_eq!(
                            (&seen[0]["data"], &seen[2]["data"]),
                            (&json!(writer), &json!(writer)),
                            "I-41 W-4"
                        );
                    }
                });
            }
        });
        assert_eq!(server.connect().get(&format!("/v0/topics/{topic}")).u64("head_seq"), 240, "I-2");
    }
}
