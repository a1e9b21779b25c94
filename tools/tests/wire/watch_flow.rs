//! Streams under load and at their limits (§8, §13, §15): every record is accounted for, whoever is slow;
//! what is refused, counted, ended.

use crate::harness::{Client, Server};
use crate::sse::{Event, Sse, gauge, until};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// What a reader of one topic has to account for: every seq once, delivered or inside a tombstone (I-26).
#[derive(Default)]
struct Account {
    next: u64,
    delivered: u64,
    lost: u64,
}

impl Account {
    fn take(&mut self, event: &Event) {
        match event.kind.as_str() {
            "record" => {
                for seq in event.seqs() {
                    assert_eq!(seq, self.next + 1, "I-26 I-42: {} {}", event.topic(), event.text);
                    self.next = seq;
                    self.delivered += 1;
                }
                // D-7, D-3: nothing is filtered here, so that the batch ends at its last record.
                assert_eq!(event.u64("to_seq"), self.next, "V-12");
            }
            "tombstone" => {
                assert_eq!(event.u64("gap_from"), self.next + 1, "I-22: {}", event.text);
                self.lost += event.u64("gap_to") - self.next;
                self.next = event.u64("gap_to");
            }
            "caught-up" => assert_eq!(event.u64("head_seq"), self.next, "V-13: {}", event.text),
            other => panic!("{other}: {}", event.text),
        }
    }
}

#[test]
fn every_reader_gets_every_record_once_while_many_write() {
    let server = Server::shared();
    const WRITES: u64 = 120;
    let topics: Vec<String> =
        ["ephemeral", "disk"].iter().flat_map(|class| server.names(&format!("crowd-{class}"))).collect();
    let mut client = server.connect();
    for topic in &topics {
        let class = if topic.contains("disk") { "disk" } else { "ephemeral" };
        client.fresh(topic, &format!(r#"{{"durability":"{class}"}}"#));
    }
    let all: Map<String, Value> = topics.iter().map(|topic| (topic.clone(), json!({}))).collect();
    std::thread::scope(|scope| {
        for reader in 0..4_u64 {
            let (topics, all) = (&topics, &all);
            scope.spawn(move || {
                // They come one after another, so that some open in the midst of the writes (I-46).
                std::thread::sleep(Duration::from_millis(reader * 7));
                let mut sse = server.watch(&json!({"topics": all, "limit": 3 + reader * 50}));
                let mut accounts: Vec<Account> = topics.iter().map(|_| Account::default()).collect();
                while accounts.iter().any(|account| account.next < 3 * WRITES) {
                    let event = sse.event();
                    let at = topics.iter().position(|topic| topic == event.topic()).expect("a topic");
                    accounts[at].take(&event);
                }
                assert!(accounts.iter().all(|account| account.delivered == 3 * WRITES), "I-26");
            });
        }
        for topic in &topics {
            for _ in 0..2 {
                scope.spawn(move || {
                    let mut client = server.connect();
                    for round in 0..WRITES / 2 {
                        client.append_all(topic, &["1", "2", "3"]);
                        if round % 16 == 0 {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    }
                });
            }
        }
    });
}

#[test]
fn retention_and_streams_race_and_every_seq_is_accounted_for() {
    let server = Server::shared();
    for topic in server.names("capped") {
        let mut client = server.connect();
        client.fresh(&topic, r#"{"cap_records":20,"durability":"memory"}"#);
        let readers: Vec<Sse> =
            (0..3).map(|_| server.watch(&json!({"topics": {(&topic): {}}, "limit": 5}))).collect();
        std::thread::scope(|scope| {
            for mut sse in readers {
                scope.spawn(move || {
                    let mut account = Account::default();
                    while account.next < 3000 {
                        account.take(&sse.event());
                    }
                    assert_eq!(account.delivered + account.lost, 3000, "I-26");
                });
            }
            for _ in 0..200 {
                client.append_all(&topic, &["0"; 15]);
            }
        });
    }
}

/// Appends `count` records of a hundred kilobytes.
fn flood(client: &mut Client, topic: &str, count: usize) {
    let pad = "x".repeat(100_000);
    let body = format!(r#"{{"records":[{{"data":"{pad}"}}]}}"#);
    for _ in 0..count {
        assert_eq!(client.append(topic, &body).status, 200);
    }
}

#[test]
fn a_reader_that_stands_still_holds_nobody_back_and_loses_nothing() {
    let server = Server::shared();
    for topic in server.names("slow") {
        let mut client = server.connect();
        client.fresh(&topic, r#"{"durability":"memory"}"#);
        let body = json!({"topics": {(&topic): {}}});
        let (mut slow, mut quick) = (server.watch(&body), server.watch(&body));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut account = Account::default();
                while account.next < 400 {
                    account.take(&quick.event());
                }
                assert_eq!(account.delivered, 400, "V-16 I-48");
            });
            // Forty megabytes: more than the sockets between take.
            flood(&mut client, &topic, 400);
        });
        let mut account = Account::default();
        while account.next < 400 {
            account.take(&slow.event());
        }
        assert_eq!((account.delivered, account.lost), (400, 0), "V-16");
        client.append_all(&topic, &["1"]);
        account.take(&slow.expect("caught-up", &topic));
        account.take(&slow.expect_records(&topic, [401]));
        client.drop_topic(&topic);
    }
}

#[test]
fn what_a_slow_reader_misses_is_a_tombstone() {
    let server = Server::shared();
    for (config, reason) in [
        (r#"{"durability":"memory","cap_records":3}"#, "cap"),
        (r#"{"durability":"memory","ttl_ms":1}"#, "ttl"),
    ] {
        for topic in server.names("late") {
            let mut client = server.connect();
            client.fresh(&topic, r#"{"durability":"memory"}"#);
            let mut slow = server.watch(&json!({"topics": {(&topic): {}}}));
            slow.expect("caught-up", &topic);
            flood(&mut client, &topic, 400);
            client.put(&topic, config);
            until("CF-10", || client.get(&format!("/v0/topics/{topic}")).u64("count") <= 3);
            if config.contains("ttl") {
                until("CF-10", || client.get(&format!("/v0/topics/{topic}")).u64("count") == 0);
            }
            // From here on nothing is lost any more.
            client.put(&topic, r#"{"durability":"memory"}"#);
            client.append_all(&topic, &["\"last\""]);
            let mut account = Account::default();
            let mut tombstones = Vec::new();
            while account.next < 401 {
                let event = slow.event();
                account.take(&event);
                if event.kind == "tombstone" {
                    tombstones.push(event);
                }
            }
            assert_eq!(account.delivered + account.lost, 401, "I-26");
            assert_eq!(tombstones.len(), 1, "V-16: {config}");
            assert_eq!(tombstones[0].data["reason"], reason, "V-20: {config}");
            client.drop_topic(&topic);
        }
    }
}

#[test]
fn deletes_take_effect_in_streams_that_are_open() {
    let server = Server::shared();
    for topic in server.names("undone") {
        let mut client = server.connect();
        client.fresh(&topic, r#"{"durability":"memory"}"#);
        let mut slow = server.watch(&json!({"topics": {(&topic): {}}}));
        slow.expect("caught-up", &topic);
        flood(&mut client, &topic, 400);
        assert_eq!(client.delete(&topic, r#"{"before_seq":401}"#).u64("deleted"), 400);
        client.append_all(&topic, &["\"last\""]);
        let mut delivered = Vec::new();
        while delivered.last() != Some(&401) {
            let event = slow.event();
            assert_ne!(event.kind, "tombstone", "V-22");
            if event.kind == "record" {
                delivered.extend(event.seqs());
            }
        }
        // What the server had handed to the socket may arrive, and no more (I-28): a prefix.
        delivered.pop();
        assert!(delivered.len() < 350, "I-28: {} of 400 deleted records", delivered.len());
        assert!(delivered.iter().copied().eq(1..=delivered.len() as u64), "I-28");
        client.drop_topic(&topic);
    }
}

#[test]
fn two_hundred_and_fifty_six_topics_fit_into_a_session() {
    let server = Server::shared();
    let mut client = server.connect();
    let names: Vec<String> = (0..256).map(|number| format!("many-{number:03}")).collect();
    for topic in &names {
        client.drop_topic(topic);
        client.append(topic, r#"{"records":[{"data":1}],"config":{"durability":"memory"}}"#);
    }
    let all: Map<String, Value> = names.iter().map(|topic| (topic.clone(), json!({}))).collect();
    let url = server.session(&json!({ "topics": all }));
    let mut sse = server.stream(&url);
    for topic in &names {
        sse.expect_records(topic, [1]);
        assert_eq!(sse.expect("caught-up", topic).cursors().len(), 256, "V-50");
    }
    for topic in names.iter().rev() {
        client.append_all(topic, &["2"]);
        sse.expect_records(topic, [2]);
        sse.expect("caught-up", topic);
    }
    // And a rewind of all of them by one header.
    let zero: Map<String, Value> = names.iter().map(|topic| (topic.clone(), json!(1))).collect();
    let id = crate::sse::base64url(Value::Object(zero).to_string().as_bytes());
    drop(sse);
    let mut sse = server.stream_with(&url, &format!("Last-Event-ID: {id}\r\n")).expect("a stream");
    for topic in &names {
        sse.expect_records(topic, [2]);
        sse.expect("caught-up", topic);
    }
    names.iter().for_each(|topic| drop(client.drop_topic(topic)));
}

#[test]
fn streams_that_share_a_session_get_everything_between_them() {
    let server = Server::shared();
    for topic in server.names("between") {
        let mut client = server.connect();
        client.fresh(&topic, r#"{"durability":"memory"}"#);
        let url = server.session(&json!({"topics": {(&topic): {}}}));
        let streams: Vec<Sse> = (0..3).map(|_| server.stream(&url)).collect();
        for _ in 0..50 {
            client.append_all(&topic, &["1", "2"]);
        }
        // They end when the topic does, once everything before was delivered to one of them.
        let seen = std::sync::Mutex::new(std::collections::BTreeSet::new());
        std::thread::scope(|scope| {
            for mut sse in streams {
                let (seen, topic) = (&seen, &topic);
                scope.spawn(move || {
                    loop {
                        let event = sse.event();
                        if event.kind == "record" {
                            seen.lock().expect("no reader panicked").extend(event.seqs());
                        }
                        if event.kind == "topic-deleted" {
                            assert_eq!(event.topic(), topic.as_str());
                            return sse.assert_ended("V-32");
                        }
                    }
                });
            }
            until("V-55", || seen.lock().expect("no reader panicked").len() == 100);
            client.drop_topic(&topic);
        });
        let seen = seen.into_inner().expect("no reader panicked");
        assert!(seen.into_iter().eq(1..=100), "V-55");
    }
}

#[test]
fn a_stream_is_opened_by_who_accepts_one() {
    let server = Server::shared();
    let [topic, _] = server.names("accept");
    let mut client = server.connect();
    client.fresh(&topic, "");
    let url = server.session(&json!({"topics": {(&topic): {}}}));
    for accept in ["", "*/*", "text/event-stream", "text/html, */*;q=0.1", "x text/event-stream y"] {
        let sse = server.stream_with(&url, &format!("Accept: {accept}\r\n"));
        assert!(sse.is_ok_and(|sse| sse.is_chunked()), "V-1 {accept:?}");
    }
    for accept in ["text/*", "TEXT/EVENT-STREAM", "application/json", "*"] {
        for target in [url.as_str(), "/v0/watch/wid_AAAAAAAAAAAAAAAAAAAAAA"] {
            let answer = server.stream_with(target, &format!("Accept: {accept}\r\n")).err().expect("406");
            answer.assert_fault(406, "not_acceptable", &Value::Null, "V-1: before the session is looked for");
        }
    }
    for wid in ["wid_AAAAAAAAAAAAAAAAAAAAAA", "x", "wid_", "wid_AAAAAAAAAAAAAAAAAAAAAAAAAAAA", "%2F"] {
        let answer = client.get(&format!("/v0/watch/{wid}"));
        answer.assert_fault(404, "not_found", &Value::Null, &format!("8.2 {wid}"));
        assert_eq!(client.call("HEAD", &format!("/v0/watch/{wid}"), "").status, 404, "T-13");
    }
    client.get("/v0/watch/%FF").assert_fault(400, "invalid_request", &Value::Null, "T-23");
    client.get("/v0/watch/").assert_fault(404, "not_found", &Value::Null, "T-20");
    for (method, target, allow) in
        [("GET", "/v0/watch", "POST"), ("POST", url.as_str(), "GET"), ("DELETE", &url, "GET")]
    {
        let answer = client.call(method, target, "");
        answer.assert_fault(405, "method_not_allowed", &Value::Null, target);
        assert!(answer.header("allow").is_some_and(|methods| methods.contains(allow)), "T-15: {answer:?}");
    }
    // HTTP/1.0: the body runs until the connection closes (V-2).
    client.append_all(&topic, &["1"]);
    let request = format!("GET {url} HTTP/1.0\r\n\r\n");
    let mut sse = Sse::open(server.connect(), &request).expect("T-3");
    assert!(!sse.is_chunked(), "V-2");
    sse.until_caught_up(&topic, 1);
    client.drop_topic(&topic);
    sse.expect("topic-deleted", &topic);
    sse.assert_ended("V-32 V-2");
}

#[test]
fn head_shows_the_headers_of_a_stream_and_opens_none() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for topic in server.names("headers") {
        client.fresh(&topic, "");
        client.append_all(&topic, &["1"]);
        let url = server.session(&json!({"topics": {(&topic): {}}}));
        for _ in 0..4 {
            let head = client.call("HEAD", &url, "");
            assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")), "T-13");
            assert_eq!(head.header("cache-control"), Some("no-store"), "T-13");
            assert_eq!(gauge(&mut client, "sse_connections"), 0, "T-13");
        }
        server.stream(&url).expect_records(&topic, [1]);
        until("L-4", || gauge(&mut client, "sse_connections") == 0);
    }
}

#[test]
fn streams_and_sessions_are_counted_and_capped() {
    let server = Server::start(&[("RUNELOG_MAX_SSE_CONNECTIONS", "3"), ("RUNELOG_MAX_WATCH_SESSIONS", "5")]);
    let mut client = server.connect();
    let [topic, other] = server.names("caps");
    client.put(&topic, "");
    client.put(&other, "");
    let body = json!({"topics": {(&topic): {}, (&other): {}}}).to_string();
    // Twelve at once: five sessions, whatever core they land on (L-2).
    let urls: Vec<String> = std::thread::scope(|scope| {
        let makers: Vec<_> =
            (0..12).map(|_| scope.spawn(|| server.connect().call("POST", "/v0/watch", &body))).collect();
        let answers = makers.into_iter().map(|maker| maker.join().expect("an answer"));
        let detail = json!({"limit": "max_watch_sessions", "max": 5});
        answers
            .filter_map(|answer| match answer.status {
                200 => Some(answer.member("stream_url").as_str().expect("S-1").to_owned()),
                _ => {
                    answer.assert_fault(429, "throttled", &detail, "L-2");
                    None
                }
            })
            .collect()
    });
    assert_eq!(urls.len(), 5, "L-2");
    assert_eq!(gauge(&mut client, "watch_sessions"), 5, "§11");
    // An unknown topic is told before the cap (§8.1).
    let absent = client.call("POST", "/v0/watch", r#"{"topics":{"absent":{}}}"#);
    absent.assert_fault(404, "topic_not_found", &json!({"topic": "absent"}), "8.1");
    for _ in 0..3 {
        let results: Vec<Result<Sse, _>> = std::thread::scope(|scope| {
            let openers: Vec<_> = (0..9)
                .map(|at| {
                    scope.spawn({
                        let url = &urls[at % 5];
                        let server = &server;
                        move || server.stream_with(url, "")
                    })
                })
                .collect();
            openers.into_iter().map(|opener| opener.join().expect("an answer")).collect()
        });
        let mut open = Vec::new();
        for result in results {
            match result {
                Ok(sse) => open.push(sse),
                Err(answer) => answer.assert_fault(429, "throttled", &Value::Null, "L-4"),
            }
        }
        assert_eq!(open.len(), 3, "L-4");
        assert_eq!(gauge(&mut client, "sse_connections"), 3, "§11");
        // An unknown session is told before the cap (§8.2).
        assert_eq!(client.get("/v0/watch/wid_x").status, 404, "8.2");
        drop(open);
        until("L-4: given back", || gauge(&mut client, "sse_connections") == 0);
    }
    // Ended by the server: given back too.
    let mut sse = server.stream(&urls[0]);
    client.drop_topic(&topic);
    client.drop_topic(&other);
    let mut gone = 0;
    while gone < 2 {
        gone += u32::from(sse.event().kind == "topic-deleted");
    }
    sse.assert_ended("V-32");
    until("L-4", || gauge(&mut client, "sse_connections") == 0);
}

#[test]
fn a_stop_is_told_to_every_stream() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let [first, second] = server.names("stop");
    client.put(&first, "");
    client.append_all(&first, &["1"]);
    client.put(&second, "");
    let body = json!({"topics": {(&first): {}, (&second): {}}});
    let mut streams: Vec<Sse> = (0..6).map(|_| server.watch(&body)).collect();
    for sse in &mut streams {
        let mut kinds = [sse.event(), sse.event(), sse.event()].map(|event| event.kind);
        kinds.sort_unstable();
        assert_eq!(kinds, ["caught-up", "caught-up", "record"]);
    }
    server.terminate();
    for mut sse in streams {
        let event = sse.event();
        assert_eq!(
            (event.kind.as_str(), &event.data["code"]),
            ("error", &json!("server_shutting_down")),
            "SH-3"
        );
        assert!(event.data["message"].as_str().is_some_and(|text| !text.is_empty()), "8.2");
        sse.assert_ended("SH-3: the last event");
    }
}

#[test]
fn delivery_counts_as_reading() {
    let server = Server::shared();
    let mut client = server.connect();
    for topic in server.names("priority") {
        client.fresh(&topic, "");
        let mut priority =
            || client.get(&format!("/v0/topics/{topic}?touch=false")).u64("effective_priority");
        assert_eq!(priority(), 0, "PR-1: nobody has read it");
        let mut sse = server.watch(&json!({"topics": {(&topic): {}}}));
        sse.expect("caught-up", &topic);
        server.connect().append_all(&topic, &["1"]);
        sse.expect_records(&topic, [1]);
        assert!(priority() > 0, "PR-2");
    }
}
