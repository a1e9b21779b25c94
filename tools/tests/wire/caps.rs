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
    let mut answer = client.answer_head();
    if answer.status != 200 {
        let bytes: usize = answer.header("content-length").expect("a length").parse().expect("a number");
        while answer.body.len() < bytes {
            answer.body.extend(client.more());
        }
    }
    (client, answer)
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
        three_of_all_two_of_a_key(&server, ["k", "l", "m"].map(|key| session(&mut client, key, &topic)));
    }
    for queue in server.names("queue") {
        client.call_as("k", "PUT", &format!("/v0/topics/{queue}"), r#"{"type":"queue"}"#);
        let target = |node| format!("/v0/topics/{queue}/work?node={node}");
        three_of_all_two_of_a_key(&server, ["k", "l", "m"].map(target));
    }
    until(0, "L-4: all ended", || streams(&server));
}

/// Streams that the keys k, l, m open with these targets, where all may have three and a key two.
fn three_of_all_two_of_a_key(server: &Server, [k, l, m]: [String; 3]) {
    let mut client = server.connect();
    let full = |key: &str, target: &str, rule: &str| {
        open(server, key, target).1.assert_fault(429, "throttled", &Value::Null, rule);
    };
    until(0, "all places are free", || streams(server));
    let (first, answer) = open(server, "k", &k);
    assert_eq!(answer.status, 200, "L-4 {k}");
    let (second, answer) = open(server, "k", &k);
    assert_eq!(answer.status, 200, "L-4 {k}");
    full("k", &k, "L-4 L-5: two of a key");
    assert_eq!(streams(server), 2, "L-4: a refused one takes no place");
    // T-13, L-6: neither HEAD nor open streams count.
    for _ in 0..5 {
        assert_eq!(client.call_as("l", "HEAD", &l, "").status, 200, "T-13");
        assert_eq!(client.call_as("k", "GET", "/v0/topics", "").status, 200, "L-6");
    }
    let (third, answer) = open(server, "l", &l);
    assert_eq!(answer.status, 200, "L-4 {l}");
    full("m", &m, "L-4: three of all");
    drop(first);
    until(200, "L-4: a place is free", || open(server, "m", &m).1.status);
    drop((second, third));
    until(200, "L-5: a place of the key is free", || open(server, "k", &k).1.status);
}

/// What the metrics say is open.
fn streams(server: &Server) -> u16 {
    let metrics = server.connect().call_as("m", "GET", "/v0/metrics", "");
    let line = metrics.text().lines().find(|line| line.starts_with("topics_sse_connections "));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).expect("a gauge")
}
