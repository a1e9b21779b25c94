//! The same contract over HTTP/2 with prior knowledge (T-1, T-10): every kind of endpoint, streams, flow
//! control, and many requests at once on one connection.

use crate::harness::{Answer, Client, Server, request};
use crate::sse::{gauge, until};
use serde_json::{Value, json};

/// Members that move with the clock, and with what other tests do.
const UNSTEADY: [&str; 5] = ["last_read_ts", "last_write_ts", "uptime_ms", "effective_priority", "topics"];

/// What an answer shows, without what differs from call to call.
fn shown(answer: &Answer) -> (u16, Vec<(String, String)>, Value) {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| !["date", "content-length"].contains(&name.as_str()));
    headers.sort();
    let body = match answer.header("content-type") {
        Some("application/json") if !answer.body.is_empty() => {
            let mut json = answer.steady();
            if let Some(entries) = json.get_mut("topics").and_then(Value::as_array_mut) {
                let names = entries.iter().map(|entry| entry["topic"].clone()).collect();
                json = Value::Array(names);
            } else if let Some(object) = json.as_object_mut() {
                UNSTEADY.iter().for_each(|name| drop(object.remove(*name)));
            }
            json
        }
        _ => json!(answer.body.is_empty()),
    };
    (answer.status, headers, body)
}

#[test]
fn every_kind_of_request_is_answered_as_over_http1() {
    let server = Server::shared();
    let [first, second] = server.names("twice");
    let mut one = server.connect();
    let mut two = server.http2();
    let (long, many) = ("n".repeat(300), vec![r#"{"data":1}"#; 10_001].join(","));
    let many = format!("{{\"records\":[{many}]}}");
    for topic in [&first, &second] {
        let path = format!("/v0/topics/{topic}");
        let table = [
            ("PUT", path.clone(), r#"{"cap_records":3,"durability":"fsync"}"#),
            ("PUT", path.clone(), r#"{"cap_records":3,"durability":"fsync"}"#),
            ("PUT", path.clone(), r#"{"type":"queue"}"#),
            ("PUT", format!("/v0/topics/{long}"), ""),
            (
                "POST",
                path.clone(),
                r#"{"records":[{"data":{"a" :1},"tag":"t"},{"data":2},{"data":3},{"data":4}]}"#,
            ),
            ("POST", format!("{path}?return_seqs=false"), r#"{"records":[{"data":5}]}"#),
            ("POST", path.clone(), r#"{"records":[]}"#),
            ("POST", path.clone(), &many),
            ("POST", path.clone(), "{"),
            ("GET", path.clone(), ""),
            ("HEAD", path.clone(), ""),
            ("GET", format!("/v0/topics?prefix={topic}"), ""),
            ("GET", "/v0/topics?cursor=!".into(), ""),
            ("POST", format!("{path}/diff"), r#"{"include_tags":true}"#),
            ("POST", format!("{path}/diff"), ""),
            ("POST", format!("{path}/diff"), r#"{"from_seq":5,"wait_ms":20}"#),
            ("POST", format!("{path}/delete"), r#"{"before_seq":4}"#),
            ("POST", format!("{path}/delete"), "{}"),
            ("POST", "/v0/topics/absent/diff".into(), "{}"),
            ("GET", "/v0/topics/absent".into(), ""),
            ("GET", "/v0/topics/%FF".into(), ""),
            ("GET", "/v0/nope".into(), ""),
            ("HEAD", "/v0/nope".into(), ""),
            ("PATCH", path.clone(), ""),
            ("POST", "/v0/health".into(), ""),
            ("GET", "/v0/health".into(), ""),
            ("GET", "/readyz".into(), ""),
            ("GET", "/v0/metrics".into(), ""),
            ("HEAD", "/v0/metrics".into(), ""),
            ("POST", "/v0/watch".into(), r#"{"topics":{}}"#),
            ("POST", "/v0/watch".into(), r#"{"topics":{"absent":{}}}"#),
            ("GET", "/v0/watch/wid_x".into(), ""),
            ("DELETE", format!("{path}?if_empty=true"), ""),
            ("DELETE", path.clone(), ""),
            ("DELETE", path.clone(), ""),
        ];
        one.drop_topic(topic);
        let over_one: Vec<_> =
            table.iter().map(|(method, path, body)| shown(&one.call(method, path, body))).collect();
        for ((method, path, body), expected) in table.iter().zip(over_one) {
            let answer = two.call(method, path, body);
            assert_eq!(shown(&answer), expected, "T-1 {method} {path} {body:.100}");
            let length = answer.header("content-length").map(|text| text.parse::<usize>().expect("a number"));
            if *method == "HEAD" {
                assert!(answer.body.is_empty() && length.is_some_and(|length| length > 0), "T-13 {path}");
            } else {
                assert!(length.is_none_or(|length| length == answer.body.len()), "T-1 {path}");
            }
        }
    }
}

#[test]
fn headers_count_over_http2_too() {
    let server = Server::shared();
    let mut h2 = server.http2();
    for topic in server.names("h2headers") {
        server.connect().fresh(&topic, "");
        let path = format!("/v0/topics/{topic}");
        let body = br#"{"records":[{"data":1}]}"#;
        let keyed = [("idempotency-key", "k")];
        assert_eq!(h2.start("POST", &path, &keyed, body).answer(&path).member("deduped"), false, "U-1");
        assert_eq!(h2.start("POST", &path, &keyed, body).answer(&path).member("deduped"), true, "U-1");
        let json = h2.start("GET", "/v0/metrics", &[("accept", "application/json")], b"").answer("metrics");
        assert_eq!(json.header("content-type"), Some("application/json"), "H-4");
        // T-16: a body where none is taken.
        assert_eq!(h2.start("GET", &path, &[], &[b'x'; 300_000]).answer(&path).status, 200, "T-16");
    }
    let url = server.session(&json!({"topics": {(&server.names("h2headers")[0]): {}}}));
    let refused = h2.start("GET", &url, &[("accept", "text/html")], b"").answer(&url);
    refused.assert_fault(406, "not_acceptable", &Value::Null, "V-1");
    let head = h2.call("HEAD", &url, "");
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")), "T-13");
    let ws = h2.get("/v0/ws");
    ws.assert_fault(405, "method_not_allowed", &Value::Null, "WS-1");
}

#[test]
fn keys_and_caps_hold_over_http2() {
    let server = Server::start(&[
        ("RUNELOG_API_KEYS", "all,reader:r"),
        ("RUNELOG_MAX_BODY_BYTES", "100000"),
        ("RUNELOG_MAX_TOPICS", "1"),
    ]);
    let mut h2 = server.http2();
    h2.get("/v0/topics").assert_fault(401, "unauthorized", &Value::Null, "A-2");
    let all = [("authorization", "Bearer all")];
    let reader = [("authorization", "Bearer reader")];
    assert_eq!(h2.start("PUT", "/v0/topics/t", &all, b"{}").answer("PUT").status, 201, "A-2");
    let answer = h2.start("PUT", "/v0/topics/u", &all, b"{}").answer("PUT");
    answer.assert_fault(429, "throttled", &json!({"limit": "max_topics", "max": 1}), "L-2 E-10");
    let answer = h2.start("POST", "/v0/topics/t", &reader, b"{").answer("POST");
    answer.assert_fault(403, "forbidden", &Value::Null, "A-6");
    for (bytes, status) in [(100_000, 200), (100_001, 413), (3_000_000, 413)] {
        let pad = "x".repeat(bytes - br#"{"records":[{"data":""}]}"#.len());
        let body = format!(r#"{{"records":[{{"data":"{pad}"}}]}}"#);
        let answer = h2.start("POST", "/v0/topics/t", &all, body.as_bytes()).answer("POST");
        assert_eq!(answer.status, status, "L-8 {bytes}");
    }
    assert_eq!(h2.start("GET", "/v0/topics/t", &reader, b"").answer("GET").u64("head_seq"), 1, "L-8");
}

#[test]
fn many_requests_are_in_progress_at_once() {
    let server = Server::shared();
    let names = server.names("h2many");
    let mut h2 = server.http2();
    names.iter().for_each(|topic| server.connect().fresh(topic, ""));
    h2.get("/v0/health");
    assert_eq!(h2.streams_max(), 1024, "T-10");
    let waiting: Vec<_> = (0..400)
        .map(|index| {
            let path = format!("/v0/topics/{}/diff", names[index % 2]);
            h2.start("POST", &path, &[], br#"{"wait_ms":20000}"#)
        })
        .collect();
    // Quick ones pass by those that wait, each with its own answer.
    let quick: Vec<_> =
        (0..200).map(|index| h2.start("GET", &format!("/v0/topics/x{index}"), &[], b"")).collect();
    for (index, pending) in quick.into_iter().enumerate().rev() {
        let detail = json!({"topic": format!("x{index}")});
        pending.answer("quick").assert_fault(404, "topic_not_found", &detail, "T-1");
    }
    for topic in &names {
        h2.call("POST", &format!("/v0/topics/{topic}"), r#"{"records":[{"data":1}]}"#);
    }
    for (index, pending) in waiting.into_iter().enumerate() {
        let answer = pending.answer("waiting");
        let shown = (answer.member("topic"), answer.u64("head_seq"));
        assert_eq!(shown, (json!(names[index % 2]), 1), "D-21 I-46");
    }
}

#[test]
fn a_request_that_is_given_up_harms_no_other() {
    let server = Server::shared();
    for topic in server.names("h2gone") {
        let mut client = server.connect();
        client.fresh(&topic, "");
        let mut h2 = server.http2();
        let path = format!("/v0/topics/{topic}/diff");
        for _ in 0..50 {
            drop(h2.start("POST", &path, &[], br#"{"wait_ms":300}"#));
            h2.get("/v0/health");
        }
        let kept = h2.start("POST", &path, &[], br#"{"wait_ms":20000}"#);
        client.append_all(&topic, &["1"]);
        assert_eq!(kept.answer("kept").u64("head_seq"), 1, "D-21");
    }
}

#[test]
fn large_answers_go_as_fast_as_they_are_read_and_hold_up_no_other() {
    let server = Server::shared();
    let data = format!("\"{}\"", "d".repeat(1_000_000));
    for topic in server.names("h2large") {
        let mut client = server.connect();
        client.fresh(&topic, r#"{"durability":"memory"}"#);
        client.append_all(&topic, &[data.as_str(); 7]);
        // The smallest windows first: 64 KiB each, so that a hundred updates are needed.
        let body = br#"{"max_batch_bytes":8388608}"#;
        let path = format!("/v0/topics/{topic}/diff");
        let mut small = server.http2_with(65_535, 65_535);
        for _ in 0..2 {
            let answer = small.start("POST", &path, &[], body).answer("large");
            assert_eq!(answer.member("records").as_array().map(Vec::len), Some(7), "T-10");
            assert!(answer.text().contains(&data), "J-21");
        }
        // One that is not read does not hold up those beside it, as long as it is not more than the
        // server keeps for a connection.
        let mut h2 = server.http2_with(65_535, 1 << 24);
        let (_, mut unread) = h2.start("POST", &path, &[], br#"{"limit":1}"#).head("unread");
        for _ in 0..20 {
            assert_eq!(h2.get("/v0/health").status, 200, "T-10");
            let behind = h2.call("POST", &path, r#"{"from_seq":6,"include_meta":false}"#);
            assert_eq!(behind.u64("next_from_seq"), 7, "T-10");
        }
        let mut bytes = 0;
        while let Some(more) = h2.more(&mut unread) {
            bytes += more.len();
        }
        assert!(bytes > 1_000_000, "T-10");
        client.drop_topic(&topic);
    }
}

#[test]
fn large_bodies_are_taken_whole_and_side_by_side() {
    let server = Server::shared();
    let names = server.names("h2body");
    let mut client = server.connect();
    names.iter().for_each(|topic| client.fresh(topic, r#"{"durability":"memory"}"#));
    let mut h2 = server.http2();
    // Six of five megabytes at once: more than the windows of the connection.
    let body = |number: usize| {
        let record = format!(r#"{{"data":"{}","tag":"{number}"}}"#, "b".repeat(999_000));
        format!("{{\"records\":[{}]}}", vec![record; 5].join(","))
    };
    let pending: Vec<_> = (0..6)
        .map(|number| {
            h2.start("POST", &format!("/v0/topics/{}", names[number % 2]), &[], body(number).as_bytes())
        })
        .collect();
    for pending in pending {
        assert_eq!(pending.answer("append").u64("count"), 5, "T-10 W-2");
    }
    for (which, topic) in names.iter().enumerate() {
        let mut tags = Vec::new();
        for from in [0, 5, 10] {
            let body =
                format!(r#"{{"from_seq":{from},"limit":5,"include_tags":true,"max_batch_bytes":8388608}}"#);
            let answer = h2.call("POST", &format!("/v0/topics/{topic}/diff"), &body);
            let records = answer.member("records");
            let of: Vec<&str> = records
                .as_array()
                .expect("records")
                .iter()
                .map(|record| record["$tag"].as_str().expect("a tag"))
                .collect();
            assert!(of.len() == 5 && of.iter().all(|tag| *tag == of[0]), "I-3");
            tags.push(of[0].parse::<usize>().expect("a number"));
        }
        tags.sort_unstable();
        assert_eq!(tags, [which, which + 2, which + 4], "W-3");
        client.drop_topic(topic);
    }
}

#[test]
fn streams_share_a_connection_with_each_other_and_with_requests() {
    let server = Server::start(&[]);
    let [first, second] = server.names("h2sse");
    let mut client: Client = server.connect();
    client.fresh(&first, "");
    client.fresh(&second, "");
    client.append_all(&first, &["1", "2"]);
    let body = json!({"topics": {(&first): {}, (&second): {}}}).to_string();
    let mut h2 = server.http2();
    let mut streams = Vec::new();
    for _ in 0..30 {
        let url = h2.call("POST", "/v0/watch", &body).member("stream_url");
        streams.push(h2.stream(url.as_str().expect("S-1")));
    }
    assert_eq!(gauge(&mut client, "sse_connections"), 30, "L-4");
    for sse in &mut streams {
        let mut kinds = [sse.event(), sse.event(), sse.event()].map(|event| event.kind);
        kinds.sort_unstable();
        assert_eq!(kinds, ["caught-up", "caught-up", "record"], "V-11");
    }
    for seq in 1..=20 {
        h2.call("POST", &format!("/v0/topics/{second}"), r#"{"records":[{"data":1}]}"#);
        for sse in &mut streams {
            assert_eq!(sse.expect("record", &second).seqs(), [seq], "V-15 I-46");
            sse.expect("caught-up", &second);
        }
    }
    // A stream that is reset gives its place back; the connection and the others go on.
    streams.truncate(10);
    until("L-4: reset", || {
        h2.get("/v0/health");
        gauge(&mut client, "sse_connections") == 10
    });
    client.append_all(&first, &["3"]);
    for sse in &mut streams {
        assert_eq!(sse.expect("record", &first).seqs(), [3], "V-15");
        sse.expect("caught-up", &first);
    }
    // The end of a stream is the end of it alone (V-32).
    client.drop_topic(&first);
    client.drop_topic(&second);
    let mut last = streams.pop().expect("a stream");
    drop(streams);
    while last.block().is_some() {}
    assert_eq!(h2.get("/v0/health").status, 200, "V-32");
    until("L-4: ended", || gauge(&mut client, "sse_connections") == 0);
}

#[test]
fn a_stream_that_is_not_read_holds_up_no_other() {
    let server = Server::shared();
    let pad = format!("\"{}\"", "x".repeat(100_000));
    for topic in server.names("h2slow") {
        let mut client = server.connect();
        client.fresh(&topic, r#"{"durability":"memory"}"#);
        let mut h2 = server.http2_with(65_535, 1 << 24);
        let body = json!({"topics": {(&topic): {}}});
        let mut slow = h2.stream(&server.session(&body));
        let mut quick = h2.stream(&server.session(&body));
        slow.expect("caught-up", &topic);
        quick.expect("caught-up", &topic);
        for sse in [&mut quick, &mut slow] {
            if client.get(&format!("/v0/topics/{topic}")).u64("head_seq") == 0 {
                for _ in 0..200 {
                    client.append_all(&topic, &[&pad]);
                }
            }
            let mut next = 0;
            while next < 200 {
                let event = sse.event();
                if event.kind == "record" {
                    for seq in event.seqs() {
                        next += 1;
                        assert_eq!(seq, next, "V-16");
                    }
                }
            }
        }
        client.drop_topic(&topic);
    }
}

#[test]
fn a_stop_is_told_over_http2() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.put("t", "");
    let mut h2 = server.http2();
    let mut idle = server.http2();
    assert_eq!(idle.get("/v0/health").status, 200);
    let mut sse = h2.stream(&server.session(&json!({"topics": {"t": {}}})));
    sse.expect("caught-up", "t");
    let waiting = h2.start("POST", "/v0/topics/t/diff", &[], br#"{"wait_ms":300}"#);
    h2.get("/v0/health");
    server.terminate();
    let event = sse.event();
    assert_eq!((event.kind.as_str(), &event.data["code"]), ("error", &json!("server_shutting_down")), "SH-3");
    assert_eq!(sse.block(), None, "SH-3");
    // A request in progress runs to its end (SH-2), an idle connection does not stay.
    assert_eq!(waiting.answer("SH-2").status, 200, "SH-2");
    idle.wait_for_end();
    h2.wait_for_end();
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

#[test]
fn the_first_bytes_choose_the_protocol() {
    let server = Server::shared();
    // In any pieces: the server shows its settings, the first frame of every connection.
    for at in 1..PREFACE.len() {
        let mut client = server.connect();
        client.send(&PREFACE[..at]);
        std::thread::sleep(std::time::Duration::from_millis(1));
        client.send(&PREFACE[at..]);
        client.send(SETTINGS);
        let mut input = Vec::new();
        while input.len() < 9 {
            let more = client.more();
            assert!(!more.is_empty(), "T-1: closed after a preface cut at {at}");
            input.extend(more);
        }
        assert_eq!((input[3], &input[5..9]), (4, &[0, 0, 0, 0][..]), "T-1: SETTINGS: {input:?}");
    }
    // What begins alike and is something else, or says HTTP/2.0 without being it.
    for bytes in [&b"PRI * HTTP/1.1\r\n\r\n"[..], b"PUT /v0/topics/pri HTTP/1.1\r\n\r\n", b"P"] {
        let mut client = server.connect();
        client.send(bytes);
        if bytes.len() == 1 {
            client.send(&request("PUT", "/v0/topics/pri", "")[1..]);
        }
        let status = client.answer().status;
        assert!(if bytes.starts_with(b"PRI") { status >= 400 } else { status / 100 == 2 }, "T-1: {status}");
    }
    let mut client = server.connect();
    client.send("GET /v0/health HTTP/2.0\r\n\r\n");
    assert_eq!(client.answer().status, 400, "T-7");
    client.assert_closed("T-7");
    // T-2: an offer to change the protocol is passed over.
    let mut client = server.connect();
    client.send(
        "GET /v0/health HTTP/1.1\r\nHost: t\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
    );
    assert_eq!(client.answer().member("status"), "ok", "T-2");
    client.assert_usable("T-2");
}

#[test]
fn broken_frames_end_their_connection_and_no_other() {
    let server = Server::shared();
    let mut beside = server.http2();
    assert_eq!(beside.get("/v0/health").status, 200);
    for (what, bytes) in [
        ("no settings first", vec![0, 0, 0, 6, 0, 0, 0, 0, 0]),
        ("a frame that is too long", [SETTINGS, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat()),
        ("data on no stream", [SETTINGS, &[0, 0, 1, 0, 0, 0, 0, 0, 0, 7]].concat()),
        ("headers on an even stream", [SETTINGS, &[0, 0, 1, 1, 5, 0, 0, 0, 2, 0x82]].concat()),
        ("headers that cannot be decoded", [SETTINGS, &[0, 0, 1, 1, 5, 0, 0, 0, 1, 0xff]].concat()),
        ("settings of odd length", [SETTINGS, &[0, 0, 1, 4, 0, 0, 0, 0, 0, 0]].concat()),
        ("an update of nothing", [SETTINGS, &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat()),
    ] {
        let mut client = server.connect();
        client.send([PREFACE, &bytes].concat());
        while !client.more().is_empty() {}
        assert_eq!(beside.get("/v0/health").status, 200, "T-1 {what}");
    }
}
