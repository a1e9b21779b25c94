//! Configuration, creation, state, list and deletion of topics (§1.10, §1.12, §2, §3, PR-1).

use crate::harness::{Client, Server};
use serde_json::{Value, json};
use std::time::Duration;

/// The configuration that `changed` makes of the defaults.
fn config(changed: &Value) -> Value {
    let mut config = json!({
        "type": "log", "ttl_ms": 0, "cap_records": 0, "cap_bytes": 0, "discard": "old", "durable": false,
        "durability": "disk", "priority": null, "auto_priority": true, "auto_create": true,
        "idempotency_window_ms": 120_000, "dedupe_node": true, "lease_ms": 30_000, "claim_jitter_ms": 0,
        "max_deliveries": 0, "dead_letter": null, "leases_durable": false,
    });
    for (member, value) in changed.as_object().expect("an object") {
        assert!(config.get(member).is_some(), "{member} is no member");
        config[member] = value.clone();
    }
    config
}

#[test]
fn a_configuration_is_completed_and_normalised() {
    let fsync = json!({"durable": true, "durability": "fsync"});
    let table = [
        // rule, request, what differs from the defaults
        ("CF-1", "", json!({})),
        ("CF-1", "{}", json!({})),
        ("J-3", r#"{"unknown":{"type":["queue"]},"Type":1}"#, json!({})),
        ("CF-1", r#"{"type":"log","ttl_ms":1}"#, json!({"ttl_ms": 1})),
        (
            "CF-1",
            r#"{"discard":"reject","cap_records":3,"cap_bytes":4}"#,
            json!({"discard": "reject", "cap_records": 3, "cap_bytes": 4}),
        ),
        ("CF-5", r#"{"durable":true}"#, fsync.clone()),
        ("CF-5", r#"{"durable":false}"#, json!({})),
        ("CF-5", r#"{"durability":"fsync","durable":false}"#, fsync.clone()),
        ("CF-5", r#"{"durability":"disk","durable":true}"#, json!({})),
        ("CF-5", r#"{"durability":null,"durable":true}"#, fsync),
        ("CF-5", r#"{"durability":"memory","durable":true}"#, json!({"durability": "memory"})),
        ("CF-5", r#"{"durability":"ephemeral"}"#, json!({"durability": "ephemeral"})),
        ("2", r#"{"priority":2147483647}"#, json!({"priority": 2_147_483_647})),
        ("2", r#"{"priority":-2147483648}"#, json!({"priority": -2_147_483_648_i64})),
        ("2", r#"{"lease_ms":99}"#, json!({"lease_ms": 100})),
        ("2", r#"{"lease_ms":86400001}"#, json!({"lease_ms": 86_400_000})),
        ("2", r#"{"claim_jitter_ms":5001}"#, json!({"claim_jitter_ms": 5000})),
        (
            "CF-6",
            r#"{"max_deliveries":2,"dead_letter":"dead","leases_durable":true}"#,
            json!({"max_deliveries": 2, "dead_letter": "dead", "leases_durable": true}),
        ),
        (
            "CF-7",
            r#"{"ttl_ms":18446744073709551615,"cap_records":18446744073709551615,
            "cap_bytes":18446744073709551615,"idempotency_window_ms":18446744073709551615,
            "max_deliveries":18446744073709551615}"#,
            json!({"ttl_ms": u64::MAX, "cap_records": u64::MAX, "cap_bytes": u64::MAX,
                "idempotency_window_ms": u64::MAX, "max_deliveries": u64::MAX}),
        ),
        (
            "2",
            r#"{"auto_priority":false,"auto_create":false,"dedupe_node":false}"#,
            json!({"auto_priority": false, "auto_create": false, "dedupe_node": false}),
        ),
    ];
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("config") {
        client.drop_topic(&topic);
        for (row, (rule, body, changed)) in table.iter().enumerate() {
            let created = row == 0;
            let answer = client.put(&topic, body);
            assert_eq!(answer.status, if created { 201 } else { 200 }, "TP-1 {rule} {body}");
            let expected = json!({ "topic": topic, "created": created, "config": config(changed) });
            assert_eq!(answer.steady(), expected, "TP-2 {rule} CF-2 {body}");
            // TP-3: the same once more, and what GET says.
            let before = client.snapshot(&topic);
            assert_eq!(client.put(&topic, body).status, 200, "TP-3");
            assert_eq!(client.snapshot(&topic), before, "TP-3 {body}");
            assert_eq!(before.1["config"], config(changed), "CF-2 {rule} {body}");
        }
        assert_eq!(client.put(&topic, "").member("config"), config(&json!({})), "CF-2");
    }
}

#[test]
fn a_faulty_configuration_is_refused_in_order() {
    let server = Server::shared();
    let mut client = server.connect();
    let none = Value::Null;
    for topic in server.names("faulty") {
        client.fresh(&topic, "");
        let before = client.snapshot(&topic);
        let own = format!(r#"{{"type":"queue","dead_letter":"{topic}"}}"#);
        let change = json!({ "topic": topic, "existing_type": "log", "requested_type": "queue" });
        let long = "d".repeat(256);
        let table = [
            // rule, topic, body, status, code, detail
            ("JSON before name", "-bad", "{", 400, "invalid_request", none.clone()),
            (
                "name before dead_letter",
                "-bad",
                r#"{"dead_letter":"-"}"#,
                400,
                "invalid_request",
                none.clone(),
            ),
            (
                "dead_letter",
                &topic,
                r#"{"dead_letter":"a b"}"#,
                400,
                "invalid_request",
                json!({"dead_letter": "a b"}),
            ),
            (
                "dead_letter",
                &topic,
                r#"{"dead_letter":""}"#,
                400,
                "invalid_request",
                json!({"dead_letter": ""}),
            ),
            (
                "dead_letter",
                &topic,
                &format!(r#"{{"dead_letter":"{long}"}}"#),
                400,
                "invalid_request",
                json!({ "dead_letter": long }),
            ),
            (
                "dead_letter before type",
                &topic,
                r#"{"type":"queue","dead_letter":"\u00fc"}"#,
                400,
                "invalid_request",
                json!({"dead_letter": "\u{fc}"}),
            ),
            ("itself before type", &topic, &own, 400, "invalid_request", none.clone()),
            ("CF-3", &topic, r#"{"type":"queue"}"#, 409, "topic_exists_incompatible", change),
        ];
        for (rule, name, body, status, code, detail) in table {
            client.put(name, body).assert_fault(status, code, &detail, &format!("3.1 {rule}"));
        }
        assert_eq!(client.snapshot(&topic), before, "I-36");
        // CF-6: on a log the name of its own is fine.
        assert_eq!(client.put(&topic, &format!(r#"{{"dead_letter":"{topic}"}}"#)).status, 200, "CF-6");
        client.fresh(&topic, r#"{"type":"queue"}"#);
        let change = json!({ "topic": topic, "existing_type": "queue", "requested_type": "log" });
        client.put(&topic, "").assert_fault(409, "topic_exists_incompatible", &change, "CF-3");
        client.put(&topic, &own).assert_fault(400, "invalid_request", &none, "CF-6");
        let state = client.get(&format!("/v0/topics/{topic}")).json();
        assert_eq!(state["queue"], json!({"ready": 0, "in_flight": 0, "dead_lettered": 0}), "3.2");
        assert_eq!(state["type"], "queue", "3.2");
    }
}

#[test]
fn names_are_judged_where_something_is_made() {
    let mut client = Server::shared().connect();
    let long = "n".repeat(255);
    for fine in ["a", "0", "A.b_c:d-e", &long] {
        assert_eq!(client.put(fine, "").status / 100, 2, "NM-1 {fine}");
        assert_eq!(client.drop_topic(fine).member("deleted"), true, "NM-1 {fine}");
    }
    let longer = "n".repeat(256);
    for bad in ["-a", ".a", "_a", ":a", "a%3Eb", "a%20b", "a%2Fb", "%C3%BC", "%00", "a+b", &longer] {
        let shown = bad.replace("%3E", ">").replace("%20", " ").replace("%2F", "/");
        let shown = shown.replace("%C3%BC", "\u{fc}").replace("%00", "\0");
        let none = Value::Null;
        let detail = json!({ "topic": shown });
        let one = r#"{"records":[{"data":1}]}"#;
        client.put(bad, "").assert_fault(400, "invalid_request", &none, "NM-3");
        client.append(bad, one).assert_fault(400, "invalid_request", &none, "NM-3 W-22");
        let no_create = r#"{"create":false,"records":[{"data":1}]}"#;
        client.append(bad, no_create).assert_fault(404, "topic_not_found", &detail, "NM-3");
        client.diff(bad, "").assert_fault(404, "topic_not_found", &detail, "NM-3");
        client.delete(bad, r#"{"before_seq":1}"#).assert_fault(404, "topic_not_found", &detail, "NM-3 X-2");
        client.get(&format!("/v0/topics/{bad}")).assert_fault(404, "topic_not_found", &detail, "NM-3");
        let gone = json!({ "topic": shown, "deleted": false, "routers_removed": [] });
        assert_eq!(client.drop_topic(bad).steady(), gone, "NM-3 TD-2");
    }
}

#[test]
fn one_of_many_concurrent_puts_creates() {
    let server = Server::shared();
    for topic in server.names("concurrent") {
        server.connect().drop_topic(&topic);
        let statuses: Vec<u16> = std::thread::scope(|scope| {
            let puts: Vec<_> =
                (0..8).map(|_| scope.spawn(|| server.connect().put(&topic, "").status)).collect();
            puts.into_iter().map(|put| put.join().expect("an answer")).collect()
        });
        let created = statuses.iter().filter(|status| **status == 201).count();
        assert_eq!(created, 1, "TP-4 {statuses:?}");
        assert!(statuses.iter().all(|status| matches!(status, 200 | 201)), "TP-4 {statuses:?}");
    }
}

#[test]
fn a_state_says_what_there_is() {
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("state") {
        client.drop_topic(&topic);
        let path = format!("/v0/topics/{topic}");
        client.get(&path).assert_fault(404, "topic_not_found", &json!({ "topic": topic }), "TS-1");
        client.fresh(&topic, "");
        let untouched = format!("{path}?touch=false");
        let fresh = json!({
            "topic": topic, "type": "log", "head_seq": 0, "earliest_seq": 1, "next_seq": 1, "count": 0,
            "bytes": 0, "config": config(&json!({})), "effective_priority": 0, "last_write_ts": null,
            "last_read_ts": null,
        });
        assert_eq!(client.get(&untouched).steady(), fresh, "TS-5 PR-1 never consumed");
        assert_eq!(client.get(&untouched).steady(), fresh, "TS-2 touch=false");
        let touched = client.get(&path).json();
        assert!(touched["last_read_ts"].is_u64(), "TS-2: the first read shows a number");
        assert!(touched["effective_priority"].as_i64().is_some_and(|it| it > 490), "PR-1");
        client.append(&topic, r#"{"records":[{"data":"abc","meta":{"m": 1}},{"data":null}]}"#);
        let state = client.get(&untouched).json();
        for (member, value) in [("head_seq", 2), ("next_seq", 3), ("earliest_seq", 1), ("count", 2)] {
            assert_eq!(state[member], value, "{member}");
        }
        assert_eq!(state["bytes"], 5 + 8 + 4, "J-23");
        assert!(state["last_write_ts"].is_u64());
    }
}

#[test]
fn priorities() {
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("priority") {
        let path = format!("/v0/topics/{topic}?touch=false");
        let priority = |client: &mut Client| client.get(&path).member("effective_priority").as_i64();
        let table = [
            ("PR-1", r#"{"priority":7}"#, 7),
            ("PR-1 clamp", r#"{"priority":1001}"#, 1000),
            ("PR-1 clamp", r#"{"priority":-5000}"#, -1000),
            ("PR-1 off", r#"{"auto_priority":false}"#, 0),
            ("PR-1 never consumed", "{}", 0),
        ];
        client.fresh(&topic, "");
        client.append_all(&topic, &["1"]); // PR-2: writing is no consumption
        for (rule, body, expected) in table {
            client.put(&topic, body);
            assert_eq!(priority(&mut client), Some(expected), "{rule} {body}");
        }
        type Consume = fn(&mut Client, &str);
        let ways: [(&str, Consume); 3] = [
            ("diff", |client, topic| drop(client.diff(topic, ""))),
            ("list", |client, topic| drop(client.get(&format!("/v0/topics?touch=1&prefix={topic}")))),
            ("state", |client, topic| drop(client.get(&format!("/v0/topics/{topic}")))),
        ];
        for (way, consume) in ways {
            client.fresh(&topic, "");
            client.get(&format!("/v0/topics?prefix={topic}"));
            assert_eq!(priority(&mut client), Some(0), "TL-2: no touch by default");
            consume(&mut client, &topic);
            assert!(priority(&mut client) > Some(490), "PR-2 {way}");
            let read = client.get(&path).member("last_read_ts");
            assert_eq!(read.is_null(), way == "list", "TL-2 D-9 TS-2 {way}");
        }
    }
}

#[test]
fn a_list_is_sorted_and_paged() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let names: Vec<String> = (0..25).map(|number| format!("p.{:02}", number * 7 % 25)).collect();
    for name in names.iter().chain(&["q".to_owned(), "P".to_owned(), "p".to_owned()]) {
        client.put(name, r#"{"durability":"memory"}"#);
    }
    let mut sorted = names;
    sorted.sort();
    let page = |client: &mut Client, query: &str| -> (Vec<String>, Option<String>) {
        let answer = client.get(&format!("/v0/topics?{query}"));
        assert_eq!(answer.status, 200, "{query}: {}", answer.text());
        let json = answer.json();
        let names = json["topics"].as_array().expect("TL-1").iter();
        let names = names.map(|entry| entry["topic"].as_str().expect("a name").to_owned()).collect();
        let cursor = json.get("next_cursor").map(|cursor| cursor.as_str().expect("G-2").to_owned());
        (names, cursor)
    };
    let all = page(&mut client, "").0;
    assert_eq!((all.len(), &all[..2], all[27].as_str()), (28, &["P".into(), "p".into()][..], "q"), "G-1");
    for size in [1, 2, 5, 12, 24, 25, 26, 1000] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let query = format!("prefix=p.&page_size={size}&cursor={cursor}");
            let (names, next) = page(&mut client, &query);
            assert!(names.len() <= size, "G-1 {size}");
            seen.extend(names);
            match next {
                Some(next) => {
                    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
                    assert!(next.bytes().all(safe), "G-3: {next}");
                    assert!(seen.len() < sorted.len(), "G-2 {size}: a cursor behind the last");
                    cursor = next;
                }
                None => break,
            }
        }
        assert_eq!(seen, sorted, "G-1 G-2 G-5 page_size {size}");
    }
    for (rule, query, count) in [
        ("G-1", "page_size=0", 1),
        ("G-1", "page_size=1001", 28),
        ("G-1", "page_size=-1", 28),
        ("G-1", "page_size=many", 28),
        ("G-4", "cursor=", 28),
        ("G-5", "prefix=p.0", 10),
        ("G-5", "prefix=p%2E0", 10),
        ("G-5", "prefix=zzz", 0),
        ("G-5", "prefix=%FF", 0),
    ] {
        assert_eq!(page(&mut client, query).0.len(), count, "{rule} {query}");
    }
    for bad in ["!", "%FF", "a%20b", "abc%3D%3D%3D"] {
        let answer = client.get(&format!("/v0/topics?cursor={bad}"));
        answer.assert_fault(400, "invalid_request", &Value::Null, &format!("G-4 {bad}"));
    }
    // G-3: the cursor stands for a place, not for a topic that has to be there.
    let (_, cursor) = page(&mut client, "prefix=p.&page_size=3");
    client.drop_topic(&sorted[2]);
    let (rest, _) = page(&mut client, &format!("prefix=p.&cursor={}", cursor.expect("G-2")));
    assert_eq!(rest, sorted[3..], "G-3");
}

#[test]
fn an_entry_of_the_list_has_its_members() {
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("entry") {
        client.fresh(&topic, r#"{"durable":true,"cap_records":2,"priority":-4}"#);
        client.append_all(&topic, &["1", "22", "333"]);
        let list = client.get(&format!("/v0/topics?prefix={topic}")).steady();
        let entry = json!({
            "topic": topic, "head_seq": 3, "earliest_seq": 2, "count": 2, "bytes": 5, "durable": true,
            "effective_priority": -4,
        });
        assert_eq!(list, json!({ "topics": [entry] }), "TL-1");
    }
}

#[test]
fn a_deleted_topic_leaves_nothing() {
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("deleted") {
        client.fresh(&topic, "");
        let keyed = r#"{"idempotency_key":"k","records":[{"data":1,"tag":"t"}]}"#;
        assert_eq!(client.append(&topic, keyed).member("deduped"), false);
        let if_empty = format!("/v0/topics/{topic}?if_empty=true");
        let detail = json!({ "topic": topic, "count": 1 });
        client.call("DELETE", &if_empty, "").assert_fault(409, "topic_not_empty", &detail, "TD-3");
        let gone = |deleted| json!({ "topic": topic, "deleted": deleted, "routers_removed": [] });
        assert_eq!(client.drop_topic(&topic).steady(), gone(true), "TD-1");
        assert_eq!(client.drop_topic(&topic).steady(), gone(false), "TD-2");
        let absent = json!({ "topic": topic });
        client.diff(&topic, "").assert_fault(404, "topic_not_found", &absent, "D-1");
        client.delete(&topic, r#"{"match":"t"}"#).assert_fault(404, "topic_not_found", &absent, "X-2");
        let again = client.append(&topic, keyed);
        assert_eq!((again.status, again.u64("first_seq")), (201, 1), "TD-4 U-6");
        assert_eq!(again.member("deduped"), false, "TD-4 U-6");
        // TD-3: emptied by deletion, by age.
        client.delete(&topic, r#"{"match":"*"}"#);
        assert_eq!(client.call("DELETE", &if_empty, "").member("deleted"), true, "TD-3 deleted");
        client.fresh(&topic, r#"{"ttl_ms":1}"#);
        client.append_all(&topic, &["1"]);
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(client.call("DELETE", &if_empty, "").member("deleted"), true, "TD-3 expired");
    }
}

/// Heads and floors of a topic: earliest, count, bytes.
fn shown(client: &mut Client, topic: &str) -> [u64; 3] {
    let state = client.get(&format!("/v0/topics/{topic}"));
    ["earliest_seq", "count", "bytes"].map(|member| state.u64(member))
}

fn tombstone(client: &mut Client, topic: &str, from: u64) -> Value {
    let gap = client.diff(topic, &format!(r#"{{"from_seq":{from}}}"#)).member("tombstone");
    match gap {
        Value::Null => Value::Null,
        gap => json!([gap["gap_from"], gap["gap_to"], gap["reason"]]),
    }
}

#[test]
fn caps_evict_the_oldest_or_refuse() {
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("caps") {
        client.fresh(&topic, r#"{"cap_records":3}"#);
        client.append_all(&topic, &["1", "2", "3", "4"]);
        assert_eq!(shown(&mut client, &topic), [2, 3, 3], "CF-11");
        assert_eq!(tombstone(&mut client, &topic, 0), json!([1, 1, "cap"]), "D-12 D-14");
        assert_eq!(tombstone(&mut client, &topic, 1), Value::Null, "D-16");
        // Deleted records occupy the window of seqs.
        client.delete(&topic, r#"{"before_seq":4}"#);
        client.append_all(&topic, &["5"]);
        assert_eq!(shown(&mut client, &topic), [4, 2, 2], "CF-11");
        assert_eq!(tombstone(&mut client, &topic, 0), json!([1, 2, "cap"]), "CF-11 [Q]");
        // CF-14: relaxing brings nothing back, tightening acts at once.
        client.put(&topic, "");
        assert_eq!(shown(&mut client, &topic), [4, 2, 2], "CF-14");
        client.put(&topic, r#"{"cap_records":1}"#);
        assert_eq!(shown(&mut client, &topic), [5, 1, 1], "CF-14");
        client.put(&topic, "");
        assert_eq!(shown(&mut client, &topic), [5, 1, 1], "CF-14 I-24");

        client.fresh(&topic, r#"{"cap_bytes":10}"#);
        client.append_all(&topic, &["1234", "5678", "90"]);
        assert_eq!(shown(&mut client, &topic), [1, 3, 10], "CF-12: equality stays");
        client.append_all(&topic, &["1"]);
        assert_eq!(shown(&mut client, &topic), [2, 3, 7], "CF-12 record by record");
        client.append_all(&topic, &["12345678901"]);
        assert_eq!(shown(&mut client, &topic), [6, 0, 0], "CF-12: larger than the cap");
        assert_eq!(tombstone(&mut client, &topic, 1), json!([2, 5, "cap"]), "CF-12");

        // CF-15: the highest floor wins.
        client.fresh(&topic, r#"{"cap_records":3,"cap_bytes":2}"#);
        client.append_all(&topic, &["1", "2", "3", "4"]);
        assert_eq!(shown(&mut client, &topic), [3, 2, 2], "CF-15");

        client.fresh(&topic, r#"{"cap_records":3,"discard":"reject"}"#);
        client.append_all(&topic, &["1", "2", "3"]);
        client.put(&topic, r#"{"cap_records":1,"discard":"reject"}"#);
        assert_eq!(shown(&mut client, &topic), [1, 3, 3], "CF-13 I-34");
        client.put(&topic, r#"{"cap_records":3,"discard":"reject"}"#);
        client.delete(&topic, r#"{"before_seq":3}"#);
        client.append_all(&topic, &["4", "5"]);
        assert_eq!(shown(&mut client, &topic), [3, 3, 3], "CF-13 I-35");
    }
}

#[test]
fn age_is_judged_when_something_looks() {
    let mut client = Server::shared().connect();
    let pause = || std::thread::sleep(Duration::from_millis(15));
    for topic in Server::shared().names("age") {
        client.fresh(&topic, r#"{"ttl_ms":5}"#);
        client.append_all(&topic, &["1", "2"]);
        pause();
        assert_eq!(shown(&mut client, &topic), [3, 0, 0], "CF-10 TS-3 I-31");
        assert_eq!(tombstone(&mut client, &topic, 0), json!([1, 2, "ttl"]), "D-14");
        client.put(&topic, "");
        assert_eq!(shown(&mut client, &topic), [3, 0, 0], "CF-10: noticed is permanent");
        assert_eq!(tombstone(&mut client, &topic, 0), json!([1, 2, "ttl"]), "I-25");
        // A list looks, too.
        client.fresh(&topic, r#"{"ttl_ms":5}"#);
        client.append_all(&topic, &["1"]);
        pause();
        let list = client.get(&format!("/v0/topics?prefix={topic}"));
        assert_eq!(list.member("topics")[0]["count"], 0, "TL-3");
        client.put(&topic, "");
        assert_eq!(shown(&mut client, &topic), [2, 0, 0], "TL-3 CF-10");
        // D-14: both reach the first missing record.
        client.fresh(&topic, r#"{"ttl_ms":5,"cap_records":1}"#);
        client.append_all(&topic, &["1", "2"]);
        pause();
        assert_eq!(tombstone(&mut client, &topic, 0), json!([1, 2, "mixed"]), "D-14");
        assert_eq!(tombstone(&mut client, &topic, 1), json!([2, 2, "ttl"]), "D-14");
        // CF-14: tightening acts in the PUT, noticed or not.
        client.fresh(&topic, "");
        client.append_all(&topic, &["1"]);
        pause();
        client.put(&topic, r#"{"ttl_ms":5}"#);
        client.put(&topic, "");
        assert_eq!(shown(&mut client, &topic), [2, 0, 0], "CF-14");
        // CF-7: no clock reaches that.
        client.fresh(&topic, r#"{"ttl_ms":9223372036854775808}"#);
        client.append_all(&topic, &["1"]);
        assert_eq!(shown(&mut client, &topic), [1, 1, 1], "CF-7");
    }
}

#[test]
fn age_that_nothing_noticed_is_no_loss() {
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("unnoticed") {
        for later in ["", r#"{"ttl_ms":60000}"#] {
            client.fresh(&topic, r#"{"ttl_ms":5}"#);
            client.append_all(&topic, &["1", "2"]);
            std::thread::sleep(Duration::from_millis(15));
            client.put(&topic, later);
            assert_eq!(shown(&mut client, &topic), [1, 2, 2], "CF-10 I-31: lazily {later}");
        }
    }
}
