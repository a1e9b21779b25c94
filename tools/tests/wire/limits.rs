//! Limits on topics, bytes and bodies (§13).

use crate::harness::{Server, chunked, request};
use serde_json::{Value, json};

#[test]
fn no_more_topics_than_allowed_are_ever_made() {
    let server = Server::start(&[("RUNELOG_MAX_TOPICS", " 10 ")]);
    // Sixteen at once on both cores, by PUT and by append: exactly ten fit.
    let answers: Vec<_> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..16)
            .map(|number| {
                let server = &server;
                scope.spawn(move || {
                    let mut client = server.connect();
                    match number % 2 {
                        0 => client.put(&format!("t{number}"), ""),
                        _ => client.append(&format!("t{number}"), r#"{"records":[{"data":1}]}"#),
                    }
                })
            })
            .collect();
        makers.into_iter().map(|maker| maker.join().expect("an answer")).collect()
    });
    let detail = json!({"limit": "max_topics", "max": 10});
    let mut made = 0;
    for answer in &answers {
        match answer.status {
            201 => made += 1,
            _ => answer.assert_fault(429, "throttled", &detail, "L-2 TP-5"),
        }
    }
    assert_eq!(made, 10, "L-2");
    let mut client = server.connect();
    let list = client.get("/v0/topics").member("topics");
    assert_eq!(list.as_array().map(Vec::len), Some(10), "L-2");
    // L-3: those that exist can be changed and written; a place that is given back can be taken.
    for entry in list.as_array().expect("topics") {
        let topic = entry["topic"].as_str().expect("a name");
        assert_eq!(client.put(topic, r#"{"priority":1}"#).status, 200, "L-3");
        client.append_all(topic, &["1"]);
    }
    for [one, other] in [server.names("fresh"), server.names("again")] {
        let gone = client.get("/v0/topics?page_size=1").member("topics")[0]["topic"].clone();
        client.drop_topic(gone.as_str().expect("a name"));
        assert_eq!(client.put(&one, "").status, 201, "L-2: freed");
        client.put(&other, "").assert_fault(429, "throttled", &detail, "L-2");
        client.drop_topic(&one);
        assert_eq!(client.append(&other, r#"{"records":[{"data":1}]}"#).status, 201, "L-2: freed");
    }
    // W-22: the name and the configuration come before the cap.
    let body = r#"{"config":{"dead_letter":"-"},"records":[{"data":1}]}"#;
    client.append("new", body).assert_fault(400, "invalid_request", &json!({"dead_letter": "-"}), "W-22");
    client.put("-", "").assert_fault(400, "invalid_request", &Value::Null, "3.1");
}

#[test]
fn retained_bytes_never_exceed_the_quota() {
    let server = Server::start(&[("RUNELOG_MAX_TOTAL_BYTES", "100")]);
    let mut client = server.connect();
    let [one, other] = server.names("quota");
    let detail = json!({"limit": "max_total_bytes", "max": 100});
    let of = |bytes: usize| format!("{{\"records\":[{{\"data\":\"{}\"}}]}}", "x".repeat(bytes - 2));
    client.put(&one, "");
    client.put(&other, r#"{"cap_records":1}"#);
    assert_eq!(client.append(&one, &of(60)).status, 200, "L-7");
    client.append(&other, &of(41)).assert_fault(429, "throttled", &detail, "L-7");
    assert_eq!(client.append(&other, &of(40)).status, 200, "L-7: equality");
    let before = (client.snapshot(&one), client.snapshot(&other));
    client.append(&one, &of(2)).assert_fault(429, "throttled", &detail, "L-7 W-32");
    client.append("new", &of(2)).assert_fault(429, "throttled", &detail, "L-7 W-32");
    assert_eq!(client.get("/v0/topics/new").status, 404, "W-34");
    assert_eq!((client.snapshot(&one), client.snapshot(&other)), before, "I-36 I-106");
    // Freed by eviction, by deletion, by deleting the topic.
    client.delete(&one, r#"{"before_seq":2}"#);
    assert_eq!(client.append(&other, &of(50)).status, 200, "L-7: the evicted 40 are free after it");
    assert_eq!(client.append(&one, &of(50)).status, 200, "L-7");
    client.append(&one, &of(2)).assert_fault(429, "throttled", &detail, "L-7");
    client.drop_topic(&other);
    assert_eq!(client.append(&one, &of(50)).status, 200, "L-7");
    // Many at once, over both cores: never more than fits, and in the end exactly that.
    client.delete(&one, r#"{"before_seq":99}"#);
    client.put(&other, "");
    let taken: usize = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|number| {
                let (server, topic) = (&server, if number % 2 == 0 { &one } else { &other });
                let body = of(10);
                scope.spawn(move || {
                    let mut client = server.connect();
                    (0..4).filter(|_| client.append(topic, &body).status == 200).count()
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("a count")).sum()
    });
    assert_eq!(taken, 10, "L-2 L-7");
}

#[test]
fn a_body_has_a_largest_size() {
    let server = Server::start(&[("RUNELOG_MAX_BODY_BYTES", "1000")]);
    let sized = |bytes: usize| {
        let empty = r#"{"records":[{"data":""}]}"#.len();
        format!(r#"{{"records":[{{"data":"{}"}}]}}"#, "x".repeat(bytes - empty))
    };
    for topic in server.names("body") {
        let head = format!("POST /v0/topics/{topic} HTTP/1.1\r\nContent-Type: application/json\r\n");
        let table: [(&str, Vec<u8>, u16); 8] = [
            ("L-8", request("POST", &format!("/v0/topics/{topic}"), &sized(1000)), 201),
            ("L-8", request("POST", &format!("/v0/topics/{topic}"), &sized(1001)), 413),
            (
                "L-8 chunked",
                [
                    head.as_bytes(),
                    b"Transfer-Encoding: chunked\r\n\r\n",
                    &chunked(sized(1000).as_bytes(), 100, "", ""),
                ]
                .concat(),
                200,
            ),
            (
                "L-8 chunked",
                [
                    head.as_bytes(),
                    b"Transfer-Encoding: chunked\r\n\r\n",
                    &chunked(sized(1001).as_bytes(), 100, "", ""),
                ]
                .concat(),
                413,
            ),
            // B-3: as soon as there is too much, without waiting for the rest.
            (
                "B-3 no end",
                [head.as_bytes(), b"Transfer-Encoding: chunked\r\n\r\n7D0\r\n", "x".repeat(1001).as_bytes()]
                    .concat(),
                413,
            ),
            (
                "B-3 announced",
                format!("{head}Content-Length: 18446744073709551615\r\n\r\n").into_bytes(),
                413,
            ),
            ("T-5", format!("{head}Expect: 100-continue\r\nContent-Length: 1001\r\n\r\n").into_bytes(), 413),
            (
                "T-16",
                format!(
                    "GET /v0/topics/{topic} HTTP/1.1\r\nContent-Length: 2000\r\n\r\n{}",
                    "x".repeat(2000)
                )
                .into_bytes(),
                200,
            ),
        ];
        for (rule, bytes, status) in table {
            let mut client = server.connect();
            client.send(bytes);
            let answer = client.answer();
            assert_eq!(answer.status, status, "{rule}");
            if status == 413 {
                answer.assert_fault(413, "payload_too_large", &Value::Null, rule);
                assert_eq!(answer.header("connection"), Some("close"), "B-3 {rule}");
                client.assert_closed(rule);
            }
        }
    }
}

#[test]
fn a_client_that_sends_first_and_reads_then_still_reads_the_413() {
    // Its body is far over the limit; it is on its way when the answer is made, and must not be met
    // with a reset that would take the answer away.
    let server = Server::start(&[("RUNELOG_MAX_BODY_BYTES", "1000")]);
    let megabytes = 32 << 20;
    let head = "POST /v0/topics/t HTTP/1.1\r\nContent-Type: application/json\r\n";
    for framing in [
        format!("Content-Length: {megabytes}\r\n\r\n"),
        "Transfer-Encoding: chunked\r\n\r\n2000000\r\n".into(),
    ] {
        let mut client = server.connect();
        client.send(format!("{head}{framing}"));
        for _ in 0..megabytes >> 20 {
            client.send(vec![b'x'; 1 << 20]);
        }
        client.answer().assert_fault(413, "payload_too_large", &Value::Null, "B-3");
    }
}

#[test]
fn zero_means_unlimited_but_no_bodies() {
    let server = Server::start(&[
        ("RUNELOG_MAX_BODY_BYTES", "0"),
        ("RUNELOG_MAX_TOPICS", "0"),
        ("RUNELOG_MAX_TOTAL_BYTES", "many"),
    ]);
    let mut client = server.connect();
    for topic in server.names("zero") {
        assert_eq!(client.put(&topic, "").status, 201, "L-1: an empty body is none");
        assert_eq!(client.diff(&topic, "").status, 200, "L-1");
    }
    client.send("PUT /v0/topics/zero HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(client.answer().status, 201, "L-1: empty, though chunked");
    client.put("zero", "{}").assert_fault(413, "payload_too_large", &Value::Null, "L-1");
}
