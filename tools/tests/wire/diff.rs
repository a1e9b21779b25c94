//! Reads after a cursor, tombstones, payloads as bytes (§5, §1.5).

use crate::harness::{Client, Server};
use serde_json::{Value, json};

#[test]
fn payloads_come_back_as_the_bytes_they_were_sent_as() {
    let mut client = Server::shared().connect();
    let payloads = [
        "1",
        "-0",
        "1.0",
        "1e2",
        "0.10",
        "123456789012345678901234567890",
        "18446744073709551616",
        "1E-7",
        "\"\"",
        "\"\\u00e9\\/\\b\"",
        "\"\u{e9}/\u{1f600}\"",
        "\"\\ud83d\\ude00\"",
        "\"\\u0000\"",
        "{}",
        "[]",
        "{ \"b\" : 1,\t\"a\" : [ 1 , 2 ] }",
        "{\"b\":1,\"a\":2,\"b\":3}",
        "[\n  null,\r\n  true ]",
        "{\"$seq\":9,\"error\":{\"code\":\"x\"}}",
        "null",
    ];
    for topic in Server::shared().names("verbatim") {
        for class in ["memory", "disk"] {
            client.fresh(&topic, &format!(r#"{{"durability":"{class}"}}"#));
            let mut bytes = 0;
            for (seq, data) in (1_u64..).zip(payloads) {
                // As `meta`, a null is absence, with whatever space around it.
                let answer = client.append(
                    &topic,
                    &format!("{{\"records\":[ {{ \"meta\" : {data} , \"data\":\t{data}\n}} ]}}"),
                );
                assert_eq!(answer.u64("last_seq"), seq, "J-20 {data}");
                let read = client.diff(&topic, &format!("{{\"from_seq\":{}}}", seq - 1));
                let meta = if data == "null" { String::new() } else { format!(",\"meta\":{data}") };
                let expected = format!("\"data\":{data}{meta}}}]");
                assert!(read.text().contains(&expected), "J-21 J-22 {data}: {}", read.text());
                bytes += data.len() * if data == "null" { 1 } else { 2 };
                let state = client.get(&format!("/v0/topics/{topic}"));
                assert_eq!(state.u64("bytes"), bytes as u64, "J-23 {data}");
            }
        }
        // J-9: the deepest value there can be.
        let deep = format!("{}{}", "[".repeat(124), "]".repeat(124));
        client.append_all(&topic, &[&deep]);
        assert!(client.diff(&topic, r#"{"from_seq":20}"#).text().contains(&deep), "J-9 J-21");
        let deeper = format!("{{\"records\":[{{\"data\":[{deep}]}}]}}");
        client.append(&topic, &deeper).assert_fault(400, "invalid_request", &Value::Null, "J-9");
    }
}

/// What a reader sees: seqs, next, head, earliest, caught up, lag, scanned.
fn seen(client: &mut Client, topic: &str, body: &str) -> Value {
    let answer = client.diff(topic, body);
    assert_eq!(answer.status, 200, "{body}: {}", answer.text());
    let json = answer.json();
    let seqs: Vec<&Value> =
        json["records"].as_array().expect("records").iter().map(|record| &record["$seq"]).collect();
    let lag = json["head_seq"].as_u64().expect("a head") - json["next_from_seq"].as_u64().expect("a cursor");
    assert_eq!(json["lag"], lag, "D-4 {body}");
    assert_eq!(json["caught_up"], lag == 0, "D-4 {body}");
    json!([seqs, json["next_from_seq"], json["earliest_seq"], json["performance"]["records_scanned"]])
}

#[test]
fn a_read_goes_on_behind_its_cursor() {
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("cursor") {
        let absent = json!({ "topic": topic });
        client.drop_topic(&topic);
        client.diff(&topic, "").assert_fault(404, "topic_not_found", &absent, "D-1");
        assert_eq!(client.get(&format!("/v0/topics/{topic}")).status, 404, "D-1");
        client.fresh(&topic, "");
        assert_eq!(seen(&mut client, &topic, ""), json!([[], 0, 1, 0]), "D-3");
        // 1: a, 2: b, 3: a, 4: none, 5: "", 6: a, 7: a
        client.append(
            &topic,
            r#"{"records":[{"data":"1234","node":"a"},{"data":"1234","node":"b"},
            {"data":"1234","node":"a"},{"data":"1234"},{"data":"1234","node":""},
            {"data":"1234","node":"a"},{"data":"1234","node":"a"}]}"#,
        );
        let table = [
            // rule, request, [seqs, next, earliest, scanned]
            ("D-2", "{}", json!([[1, 2, 3, 4, 5, 6, 7], 7, 1, 7])),
            ("D-2", r#"{"from_seq":5}"#, json!([[6, 7], 7, 1, 2])),
            ("D-2", r#"{"from_seq":7}"#, json!([[], 7, 1, 0])),
            ("D-5", r#"{"limit":2}"#, json!([[1, 2], 2, 1, 2])),
            ("D-5", r#"{"limit":0}"#, json!([[1, 2, 3, 4, 5, 6, 7], 7, 1, 7])),
            ("D-5", r#"{"limit":4294967295}"#, json!([[1, 2, 3, 4, 5, 6, 7], 7, 1, 7])),
            ("D-5 D-7", r#"{"limit":2,"node":"a"}"#, json!([[2, 4], 4, 1, 4])),
            ("D-5 D-7", r#"{"limit":3,"node":"a"}"#, json!([[2, 4, 5], 5, 1, 5])),
            ("D-3 D-7", r#"{"node":"a"}"#, json!([[2, 4, 5], 7, 1, 7])),
            ("D-3 D-7", r#"{"node":"a","from_seq":5}"#, json!([[], 7, 1, 2])),
            ("D-7", r#"{"node":["a","b"]}"#, json!([[4, 5], 7, 1, 7])),
            ("D-7", r#"{"node":[]}"#, json!([[1, 2, 3, 4, 5, 6, 7], 7, 1, 7])),
            ("D-7", r#"{"node":""}"#, json!([[1, 2, 3, 4, 6, 7], 7, 1, 7])),
            ("D-7", r#"{"node":"A"}"#, json!([[1, 2, 3, 4, 5, 6, 7], 7, 1, 7])),
            ("D-7", r#"{"node":["\u0061","a","x"]}"#, json!([[2, 4, 5], 7, 1, 7])),
            ("D-6", r#"{"max_batch_bytes":18}"#, json!([[1, 2, 3], 3, 1, 3])),
            ("D-6", r#"{"max_batch_bytes":17}"#, json!([[1, 2], 2, 1, 2])),
            ("D-6", r#"{"max_batch_bytes":1}"#, json!([[1], 1, 1, 1])),
            ("D-6", r#"{"max_batch_bytes":0}"#, json!([[1, 2, 3, 4, 5, 6, 7], 7, 1, 7])),
            ("D-6", r#"{"max_batch_bytes":18446744073709551615}"#, json!([[1, 2, 3, 4, 5, 6, 7], 7, 1, 7])),
        ];
        for (rule, body, expected) in table {
            assert_eq!(seen(&mut client, &topic, body), expected, "{rule} {body}");
        }
        // D-8 X-5: deletion is silent. A hole in the middle, then the front, then the end.
        client.delete(&topic, r#"{"match":"none"}"#);
        client.append(&topic, r#"{"records":[{"data":8,"tag":"t"},{"data":9},{"data":10,"tag":"t"}]}"#);
        client.delete(&topic, r#"{"match":"t"}"#);
        assert_eq!(seen(&mut client, &topic, r#"{"from_seq":7}"#), json!([[9], 10, 1, 1]), "D-3 D-8");
        assert_eq!(seen(&mut client, &topic, r#"{"from_seq":9}"#), json!([[], 10, 1, 0]), "D-3 D-8");
        client.delete(&topic, r#"{"before_seq":5}"#);
        assert_eq!(seen(&mut client, &topic, r#"{"limit":1}"#), json!([[5], 5, 5, 1]), "D-8");
        assert_eq!(client.diff(&topic, "").member("tombstone"), Value::Null, "D-8 I-23");
        // A topic that does not filter.
        client.put(&topic, r#"{"dedupe_node":false}"#);
        let all = json!([[5, 6, 7, 9], 10, 5, 4]);
        assert_eq!(seen(&mut client, &topic, r#"{"node":["a",""]}"#), all, "D-7");
    }
}

#[test]
fn a_record_shows_what_it_has_and_what_was_asked_for() {
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("shown") {
        client.fresh(&topic, "");
        client.append(
            &topic,
            r#"{"node":"n","records":[{"data":1,"tag":"t","meta":{"m":2}},{"data":3,"node":"\""}]}"#,
        );
        let bare = json!({"$seq": 2, "$ts": 0, "$node": "\"", "data": 3});
        let table = [
            ("{}", json!({"$seq": 1, "$ts": 0, "$node": "n", "data": 1, "meta": {"m": 2}})),
            (
                r#"{"include_tags":true}"#,
                json!({"$seq": 1, "$ts": 0, "$node": "n", "$tag": "t", "data": 1, "meta": {"m": 2}}),
            ),
            (r#"{"include_meta":false}"#, json!({"$seq": 1, "$ts": 0, "$node": "n", "data": 1})),
        ];
        for (body, first) in table {
            let expected = json!({
                "topic": topic, "records": [first, bare], "next_from_seq": 2, "head_seq": 2,
                "earliest_seq": 1, "caught_up": true, "tombstone": null, "lag": 0,
            });
            assert_eq!(client.diff(&topic, body).steady(), expected, "5 {body}");
        }
    }
}

#[test]
fn a_gap_is_told_once_and_reading_goes_on_behind_it() {
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("gap") {
        client.fresh(&topic, r#"{"cap_records":4}"#);
        let gap = |from: u64, to: u64, reason: &str, missed: u64, earliest: u64, head: u64| {
            json!({"gap_from": from, "gap_to": to, "reason": reason, "missed_estimate": missed,
                "earliest_seq": earliest, "head_seq": head})
        };
        let told = |client: &mut Client, from: u64| {
            let answer = client.diff(&topic, &format!("{{\"from_seq\":{from}}}")).json();
            json!([answer["tombstone"], answer["records"][0]["$seq"], answer["next_from_seq"]])
        };
        // D-15 before anything was written: nothing is missing, and one is said to be.
        let none = Value::Null;
        assert_eq!(told(&mut client, 0), json!([none, none, 0]), "D-12");
        assert_eq!(told(&mut client, 5), json!([gap(1, 0, "recreated", 1, 1, 0), none, 0]), "D-15 [Q]");
        client.append_all(&topic, &["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"]);
        let table = [
            ("D-12", 0, json!([gap(1, 6, "cap", 6, 7, 10), 7, 10])),
            ("D-18", 0, json!([gap(1, 6, "cap", 6, 7, 10), 7, 10])),
            ("D-12", 5, json!([gap(6, 6, "cap", 1, 7, 10), 7, 10])),
            ("D-16", 6, json!([none, 7, 10])),
            ("D-16", 10, json!([none, none, 10])),
            ("D-15 I-71", 11, json!([gap(1, 10, "recreated", 10, 7, 10), 7, 10])),
            ("D-15 I-9", u64::MAX, json!([gap(1, 10, "recreated", 10, 7, 10), 7, 10])),
        ];
        for (rule, from, expected) in table {
            assert_eq!(told(&mut client, from), expected, "{rule} E-7 {from}");
        }
        // D-13: deleted behind the floor, so the two `earliest_seq` differ.
        client.delete(&topic, r#"{"before_seq":9}"#);
        assert_eq!(told(&mut client, 0), json!([gap(1, 6, "cap", 6, 7, 10), 9, 10]), "D-13");
        assert_eq!(client.diff(&topic, "").u64("earliest_seq"), 9, "D-13");
        assert_eq!(told(&mut client, 6), json!([none, 9, 10]), "D-8");
        // With a limit the cursor is that of the last record, and the next read has no gap.
        let first = client.diff(&topic, r#"{"limit":1}"#);
        assert_eq!(first.u64("next_from_seq"), 9, "D-3");
        assert_eq!(told(&mut client, 9), json!([none, 10, 10]), "D-16");
        // D-17: recreated and grown past the cursor.
        client.fresh(&topic, "");
        client.append_all(&topic, &["1", "2"]);
        assert_eq!(told(&mut client, 1), json!([none, 2, 2]), "D-17");
        assert_eq!(told(&mut client, 3), json!([gap(1, 2, "recreated", 2, 1, 2), 1, 2]), "D-15");
    }
}

#[test]
fn a_reader_that_follows_its_cursor_accounts_for_everything() {
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("follow") {
        client.fresh(&topic, r#"{"cap_records":900,"durability":"memory"}"#);
        let records: Vec<String> =
            (1..=1000).map(|n| format!(r#"{{"data":"{n:>300}","node":"{}"}}"#, n % 3)).collect();
        client.append(&topic, &format!(r#"{{"records":[{}]}}"#, records.join(",")));
        for body in
            [r#""limit":7"#, r#""limit":64,"node":"1""#, r#""max_batch_bytes":1000"#, r#""node":["0","2"]"#]
        {
            let (mut cursor, mut told, mut last) = (0, 0, 0);
            loop {
                let answer = client.diff(&topic, &format!("{{\"from_seq\":{cursor},{body}}}")).json();
                let gap = &answer["tombstone"];
                told += gap["missed_estimate"].as_u64().unwrap_or(0);
                for record in answer["records"].as_array().expect("records") {
                    let seq = record["$seq"].as_u64().expect("a seq");
                    assert!(seq > last, "D-2 {body}");
                    assert_eq!(
                        record["data"].as_str().map(|text| text.trim_start()),
                        Some(&*seq.to_string()),
                        "I-5"
                    );
                    last = seq;
                    told += 1;
                }
                cursor = answer["next_from_seq"].as_u64().expect("a cursor");
                if answer["caught_up"] == true {
                    break;
                }
            }
            let filtered = match body {
                r#""limit":64,"node":"1""# => 300,
                r#""node":["0","2"]"# => 600,
                _ => 0,
            };
            assert_eq!((told, cursor), (1000 - filtered, 1000), "I-26 {body}");
        }
        assert_eq!(
            client.diff(&topic, r#"{"from_seq":100}"#).member("records").as_array().map(Vec::len),
            Some(256),
            "5"
        );
        let most = client.diff(&topic, r#"{"from_seq":100,"limit":1001}"#).member("records");
        assert_eq!(most.as_array().map(Vec::len), Some(900), "5");
    }
}

#[test]
fn one_answer_describes_one_moment() {
    let server = Server::shared();
    for topic in server.names("moment") {
        server.connect().fresh(&topic, r#"{"durability":"memory","cap_records":5}"#);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut writer = server.connect();
                for _ in 0..150 {
                    writer.append(&topic, r#"{"records":[{"data":1},{"data":2},{"data":3}]}"#);
                }
            });
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut reader = server.connect();
                    let mut head = 0;
                    while head < 450 {
                        let read = reader.diff(&topic, "").json();
                        let number = |value: &Value| value.as_u64().expect("a number");
                        assert!(number(&read["head_seq"]) >= head, "I-6");
                        head = number(&read["head_seq"]);
                        assert_eq!(head % 3, 0, "I-43");
                        let seqs: Vec<u64> = read["records"]
                            .as_array()
                            .expect("records")
                            .iter()
                            .map(|r| number(&r["$seq"]))
                            .collect();
                        let floor = head.saturating_sub(5);
                        assert_eq!(seqs, (floor + 1..=head).collect::<Vec<u64>>(), "D-11 I-30 I-47");
                        assert_eq!(read["earliest_seq"], floor + 1, "D-11");
                        match floor {
                            0 => assert!(read["tombstone"].is_null(), "D-12"),
                            _ => assert_eq!(read["tombstone"]["gap_to"], floor, "D-11 I-22"),
                        }
                    }
                });
            }
        });
    }
}
