//! Long-polls (§5.2): who waits, what ends the wait, and that no append is missed.

use crate::harness::{LONG_WAIT_MS, Server, request};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn wait(from_seq: u64, wait_ms: u64) -> String {
    format!(r#"{{"from_seq":{from_seq},"wait_ms":{wait_ms}}}"#)
}

#[test]
fn a_read_with_anything_to_say_does_not_wait() {
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("nowait") {
        client.fresh(&topic, r#"{"cap_records":2}"#);
        // D-15 on an empty topic: the tombstone is something to say.
        let answer = client.diff(&topic, &wait(1, LONG_WAIT_MS));
        assert_eq!(answer.member("tombstone")["reason"], "recreated", "D-20");
        client.append_all(&topic, &["1", "2", "3"]);
        let records = client.diff(&topic, &wait(2, LONG_WAIT_MS)).member("records");
        assert_eq!(records[0]["data"], 3, "D-20 records");
        let answer = client.diff(&topic, &wait(0, LONG_WAIT_MS));
        assert_eq!(answer.member("tombstone")["gap_to"], 1, "D-20 tombstone");
        // Not caught up, though it has no records: the budget of records is filled by none.
        client.append(&topic, r#"{"records":[{"data":4,"node":"n"},{"data":5}]}"#);
        let body = format!(r#"{{"from_seq":4,"node":"n","wait_ms":{LONG_WAIT_MS}}}"#);
        assert_eq!(client.diff(&topic, &body).member("records")[0]["data"], 5, "D-20");
    }
}

#[test]
fn a_timeout_answers_what_the_first_read_found() {
    let server = Server::shared();
    for topic in server.names("timeout") {
        let (mut client, mut other) = (server.connect(), server.connect());
        client.fresh(&topic, "");
        client.append(&topic, r#"{"records":[{"data":1,"node":"n"},{"data":2}]}"#);
        let expected = json!({
            "topic": topic, "records": [], "next_from_seq": 2, "head_seq": 2, "earliest_seq": 1,
            "caught_up": true, "tombstone": null, "lag": 0,
        });
        let answer = client.diff(&topic, &wait(2, 30));
        assert_eq!((answer.status, answer.steady()), (200, expected.clone()), "D-22");
        assert_eq!(answer.member("performance")["records_scanned"], 0, "P-2");
        let filtered = client.diff(&topic, r#"{"node":["n"],"limit":1,"from_seq":0,"wait_ms":30}"#);
        assert_eq!(filtered.member("performance")["records_scanned"], 2, "P-2: delivered plus filtered");
        // D-25: neither deletion nor configuration ends the wait or changes what it answers.
        client.send(request("POST", &format!("/v0/topics/{topic}/diff"), &wait(2, 300)));
        assert_eq!(other.delete(&topic, r#"{"before_seq":2}"#).u64("deleted"), 1);
        assert_eq!(other.put(&topic, r#"{"priority":3}"#).status, 200);
        let answer = client.answer();
        assert_eq!((answer.status, answer.steady()), (200, expected), "D-22 D-25");
        client.send(request("POST", &format!("/v0/topics/{topic}/diff"), &wait(2, 100)));
        other.drop_topic(&topic);
        assert!(matches!(client.answer().status, 200 | 404), "D-25 TD-6");
        client.assert_usable("D-25");
    }
}

#[test]
fn a_wait_ends_with_the_first_append() {
    let server = Server::shared();
    for class in ["ephemeral", "memory", "disk", "fsync"] {
        for topic in server.names(&format!("woken-{class}")) {
            let (mut reader, mut writer) = (server.connect(), server.connect());
            reader.fresh(&topic, &format!(r#"{{"durability":"{class}"}}"#));
            for seq in 1..=10_u64 {
                let started = Instant::now();
                reader.send(request(
                    "POST",
                    &format!("/v0/topics/{topic}/diff"),
                    &wait(seq - 1, LONG_WAIT_MS),
                ));
                writer.append_all(&topic, &[&seq.to_string()]);
                let answer = reader.answer();
                assert_eq!(answer.member("records")[0]["data"], seq, "D-21 D-24 {class} {}", answer.text());
                assert!(started.elapsed() < Duration::from_millis(LONG_WAIT_MS), "D-24 {class}");
            }
        }
    }
}

#[test]
fn an_append_that_the_reader_filters_out_ends_the_wait_too() {
    let server = Server::shared();
    for topic in server.names("filtered") {
        let (mut reader, mut writer) = (server.connect(), server.connect());
        reader.fresh(&topic, "");
        let body = format!(r#"{{"node":"me","wait_ms":{LONG_WAIT_MS}}}"#);
        reader.send(request("POST", &format!("/v0/topics/{topic}/diff"), &body));
        std::thread::sleep(Duration::from_millis(20));
        writer.append(&topic, r#"{"node":"me","records":[{"data":1}]}"#);
        let answer = reader.answer();
        let shown = (answer.member("records"), answer.u64("next_from_seq"), answer.u64("head_seq"));
        assert_eq!(shown, (json!([]), 1, 1), "D-21");
    }
}

#[test]
fn an_append_before_the_first_read_does_not_end_the_wait() {
    let server = Server::shared();
    for class in ["ephemeral", "memory", "disk", "fsync"] {
        for topic in server.names(&format!("before-{class}")) {
            let (mut reader, mut writer) = (server.connect(), server.connect());
            reader.fresh(&topic, &format!(r#"{{"durability":"{class}"}}"#));
            let path = format!("/v0/topics/{topic}");
            for round in 0..20_u64 {
                let seen = round * 2 + 1;
                let mut bytes = request("POST", &path, r#"{"records":[{"data":"before"}]}"#);
                bytes.extend(request("POST", &format!("{path}/diff"), &wait(seen, LONG_WAIT_MS)));
                reader.send(&bytes);
                assert_eq!(reader.answer().u64("head_seq"), seen);
                std::thread::sleep(Duration::from_millis(2));
                writer.append_all(&topic, &["\"after\""]);
                let answer = reader.answer();
                assert_eq!(answer.member("records")[0]["data"], "after", "D-20 {class} {}", answer.text());
            }
        }
    }
}

#[test]
fn no_wait_takes_its_full_time_although_a_record_was_published() {
    // I-46: readers and writers race on topics of both cores. A reader that misses an append would wait
    // for the next one, and after the last one for its whole time.
    let server = Server::shared();
    const ROUNDS: u64 = 150;
    std::thread::scope(|scope| {
        for class in ["ephemeral", "disk"] {
            for topic in server.names(&format!("race-{class}")) {
                let mut writer = server.connect();
                writer.fresh(&topic, &format!(r#"{{"durability":"{class}"}}"#));
                let topic = &*topic.leak();
                let mut readers = Vec::new();
                for _ in 0..2 {
                    readers.push(scope.spawn(move || {
                        let mut client = server.connect();
                        let mut cursor = 0;
                        while cursor < ROUNDS {
                            let started = Instant::now();
                            let answer = client.diff(topic, &wait(cursor, LONG_WAIT_MS));
                            assert_eq!(answer.member("tombstone"), Value::Null);
                            let next = answer.u64("next_from_seq");
                            assert!(next > cursor, "D-24: {}", answer.text());
                            assert!(started.elapsed() < Duration::from_millis(LONG_WAIT_MS), "I-46");
                            cursor = next;
                        }
                    }));
                }
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        // The next append often meets readers on their way back into the wait.
                        writer.append_all(topic, &[&round.to_string()]);
                        if round % 3 == 0 {
                            std::thread::sleep(Duration::from_micros(300));
                        }
                    }
                });
            }
        }
    });
}

#[test]
fn waits_are_clamped_and_survive_other_requests_behind_them() {
    let server = Server::shared();
    for topic in server.names("behind") {
        let (mut reader, mut writer) = (server.connect(), server.connect());
        reader.fresh(&topic, "");
        // More than 30 s is 30 s, not an error; and what is pipelined behind has to wait (T-4).
        let mut bytes = request("POST", &format!("/v0/topics/{topic}/diff"), r#"{"wait_ms":4294967295}"#);
        bytes.extend(request("GET", "/v0/health", ""));
        reader.send(&bytes);
        std::thread::sleep(Duration::from_millis(10));
        writer.append_all(&topic, &["1"]);
        assert_eq!(reader.answer().u64("head_seq"), 1, "T-4 L-9");
        assert_eq!(reader.answer().member("status"), "ok", "T-4");
    }
}

#[test]
fn a_client_that_goes_away_while_it_waits_harms_nobody() {
    let server = Server::shared();
    for topic in server.names("away") {
        let mut client = server.connect();
        client.fresh(&topic, "");
        for _ in 0..20 {
            let mut leaver = server.connect();
            leaver.send(request("POST", &format!("/v0/topics/{topic}/diff"), &wait(0, 200)));
        }
        client.append_all(&topic, &["1"]);
        // New connections take the places of those that left, and get their own answers only.
        for _ in 0..20 {
            let mut client = server.connect();
            client.assert_usable("D-25");
            assert_eq!(client.diff(&topic, "{}").u64("head_seq"), 1);
        }
    }
}
