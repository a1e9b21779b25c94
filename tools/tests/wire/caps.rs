//! Caps on sessions, streams and routers (§13), and whose a session is (A-11).

use crate::harness::{Answer, Client, PATIENCE, Server, request_as};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A session of these topics; insists.
fn session(client: &mut Client, key: &str, topic: &str) -> String {
    let body = format!(r#"{{"topics":{{"{topic}":{{}}}}}}"#);
    let answer = client.call_as(key, "POST", "/v0/watch", &body);
    assert_eq!(answer.status, 200, "S-1: {}", answer.text());
    answer.member("stream_url").as_str().expect("a path").to_owned()
}

/// Opens what may be a stream; the client keeps it open.
fn open(server: &Server, key: &str, target: &str) -> (Client, Answer) {
    let mut client = server.connect();
    client.send(request_as(key, "GET", target, ""));
    let answer = whole(&mut client);
    (client, answer)
}

/// The head of an answer, and its body if it is a refusal.
fn whole(client: &mut Client) -> Answer {
    let mut answer = client.answer_head();
    if !matches!(answer.status, 101 | 200) {
        let bytes: usize = answer.header("content-length").expect("a length").parse().expect("a number");
        while answer.body.len() < bytes {
            answer.body.extend(client.more());
        }
    }
    answer
}

/// Asks until the answer has this status: what frees a place may take a moment.
fn until(status: u16, why: &str, mut ask: impl FnMut() -> u16) {
    let deadline = Instant::now() + PATIENCE;
    while ask() != status {
        assert!(Instant::now() < deadline, "{why}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_session_is_its_keys_alone() {
    let server = Server::start(&[("RUNELOG_API_KEYS", "k:r,l,team:r:team-")]);
    let mut client = server.connect();
    for topic in server.names("team-session") {
        assert_eq!(client.call_as("l", "PUT", &format!("/v0/topics/{topic}"), "").status, 201);
        let url = session(&mut client, "k", &topic);
        let with_token = |token: &str| format!("{url}?token={token}");
        let table = [
            // rule, target, header, opens
            ("A-11", url.clone(), "Authorization: Bearer k\r\n", true),
            ("A-14", with_token("k"), "", true),
            ("A-14", with_token("%6B"), "Authorization: Basic k\r\n", true),
            ("A-14", with_token("l"), "Authorization: Bearer k\r\n", true),
            ("A-11 no key", url.clone(), "", false),
            ("A-11 another key", url.clone(), "Authorization: Bearer l\r\n", false),
            ("A-11 a bad key", url.clone(), "Authorization: Bearer no\r\n", false),
            ("A-11 another key", with_token("l"), "", false),
            ("A-11 a bad key", with_token("no"), "", false),
            ("A-14", with_token("k"), "Authorization: Bearer no\r\n", false),
            ("A-14", with_token("k"), "Authorization: Bearer l\r\n", false),
        ];
        for (rule, target, header, opens) in table {
            for method in ["GET", "HEAD"] {
                let mut client = server.connect();
                client.send(format!("{method} {target} HTTP/1.1\r\n{header}\r\n"));
                let answer = client.answer_head();
                assert_eq!(answer.status, if opens { 200 } else { 401 }, "{rule} {method} {target} {header}");
                assert_eq!(answer.header("www-authenticate"), None, "A-13");
            }
        }
        // One forbidden name rejects the session (A-10(b)), before anything is said of the others.
        let body = format!(r#"{{"topics":{{"{topic}":{{}},"other":{{}},"team-absent":{{}}}}}}"#);
        let answer = client.call_as("team", "POST", "/v0/watch?lenient=true", &body);
        answer.assert_fault(403, "forbidden", &json!({"topic": "other"}), "A-10(b)");
    }
}

#[test]
fn no_more_sessions_than_allowed_are_ever_made() {
    let server = Server::start(&[("RUNELOG_MAX_WATCH_SESSIONS", "5")]);
    server.connect().put("t", "");
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..12)
            .map(|_| {
                scope.spawn(|| {
                    let answer = server.connect().call("POST", "/v0/watch", r#"{"topics":{"t":{}}}"#);
                    if answer.status != 200 {
                        let detail = json!({"limit": "max_watch_sessions", "max": 5});
                        answer.assert_fault(429, "throttled", &detail, "L-2");
                    }
                    answer.status
                })
            })
            .collect();
        makers.into_iter().map(|maker| maker.join().expect("an answer")).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 5, "L-2");
    // After everything else (8.1): an unknown topic is told first.
    let answer = server.connect().call("POST", "/v0/watch", r#"{"topics":{"none":{}}}"#);
    answer.assert_fault(404, "topic_not_found", &json!({"topic": "none"}), "8.1");
}

#[test]
fn no_more_routers_than_allowed_are_ever_made() {
    let server = Server::start(&[("RUNELOG_MAX_ROUTERS", "3")]);
    let put = |name: usize, more: &str| {
        let body = format!(r#"{{"source":"s{name}","dest":"d{name}"{more}}}"#);
        server.connect().call("PUT", &format!("/v0/routers/r{name}"), &body)
    };
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..8).map(|name| scope.spawn(move || put(name, ""))).collect();
        makers.into_iter().map(|maker| maker.join().expect("an answer")).collect()
    });
    let detail = json!({"limit": "max_routers", "max": 3});
    let mut client = server.connect();
    let mut made = Vec::new();
    for (name, answer) in answers.iter().enumerate() {
        if answer.status == 201 {
            made.push(name);
            continue;
        }
        answer.assert_fault(429, "throttled", &detail, "L-2");
        for topic in [format!("s{name}"), format!("d{name}")] {
            assert_eq!(client.get(&format!("/v0/topics/{topic}")).status, 404, "L-3 R-5: {topic}");
        }
    }
    assert_eq!(made.len(), 3, "L-2");
    // L-3: one that exists is not counted; a place that is given back can be taken, by a topic's end too.
    assert_eq!(put(made[0], r#","preserve_tag":false"#).status, 200, "L-3");
    put(8, "").assert_fault(429, "throttled", &detail, "L-2");
    client.call("DELETE", &format!("/v0/routers/r{}", made[0]), "");
    assert_eq!(put(8, "").status, 201, "L-2");
    put(9, "").assert_fault(429, "throttled", &detail, "L-2");
    client.drop_topic(&format!("d{}", made[1]));
    assert_eq!(put(9, "").status, 201, "L-2 R-22");
}

#[test]
fn streams_take_a_place_until_they_end() {
    let settings = [
        ("RUNELOG_API_KEYS", "k,l,m"),
        ("RUNELOG_MAX_SSE_CONNECTIONS", "3"),
        ("RUNELOG_MAX_SSE_CONNECTIONS_PER_KEY", "2"),
        ("RUNELOG_MAX_INFLIGHT_PER_KEY", "2"),
    ];
    let server = Server::start(&settings);
    let mut client = server.connect();
    for topic in server.names("log") {
        client.call_as("k", "PUT", &format!("/v0/topics/{topic}"), "");
        let targets = ["k", "l", "m"].map(|key| (key, session(&mut client, key, &topic)));
        let target = |key: &str| &targets.iter().find(|(of, _)| *of == key).expect("a session").1;
        three_of_all_two_of_a_key(&server, 200, |key| open(&server, key, target(key)));
        heads_take_no_place(&server, target("k"));
    }
    for queue in server.names("queue") {
        client.call_as("k", "PUT", &format!("/v0/topics/{queue}"), r#"{"type":"queue"}"#);
        let target = format!("/v0/topics/{queue}/work?node=n");
        three_of_all_two_of_a_key(&server, 200, |key| open(&server, key, &target));
        heads_take_no_place(&server, &target);
    }
    three_of_all_two_of_a_key(&server, 101, |key| open_socket(&server, key));
    until(0, "L-4: all ended", || streams(&server));
}

/// Opens what may become a WebSocket.
fn open_socket(server: &Server, key: &str) -> (Client, Answer) {
    let mut client = server.connect();
    client.send(format!(
        "GET /v0/ws HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {key}\r\nConnection: upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ));
    let answer = whole(&mut client);
    (client, answer)
}

/// Streams that the keys k, l, m open, where all may have three and a key two.
fn three_of_all_two_of_a_key(server: &Server, opened: u16, open: impl Fn(&str) -> (Client, Answer)) {
    let full = |key: &str, rule: &str| open(key).1.assert_fault(429, "throttled", &Value::Null, rule);
    until(0, "all places are free", || streams(server));
    let (first, answer) = open("k");
    assert_eq!(answer.status, opened, "L-4");
    let (second, answer) = open("k");
    assert_eq!(answer.status, opened, "L-4");
    full("k", "L-4 L-5: two of a key");
    assert_eq!(streams(server), 2, "L-4: a refused one takes no place");
    for _ in 0..5 {
        let answer = server.connect().call_as("k", "GET", "/v0/topics", "");
        assert_eq!(answer.status, 200, "L-6: open streams do not count");
    }
    let (third, answer) = open("l");
    assert_eq!(answer.status, opened, "L-4");
    full("m", "L-4: three of all");
    drop(first);
    until(opened, "L-4: a place is free", || open("m").1.status);
    drop((second, third));
    until(opened, "L-5: a place of the key is free", || open("k").1.status);
}

fn heads_take_no_place(server: &Server, target: &str) {
    until(0, "all places are free", || streams(server));
    let mut client = server.connect();
    for _ in 0..5 {
        assert_eq!(client.call_as("k", "HEAD", target, "").status, 200, "T-13");
    }
    assert_eq!(streams(server), 0, "T-13");
}

/// What the metrics say is open.
fn streams(server: &Server) -> u16 {
    let metrics = server.connect().call_as("m", "GET", "/v0/metrics", "");
    let line = metrics.text().lines().find(|line| line.starts_with("topics_sse_connections "));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a gauge")
}
