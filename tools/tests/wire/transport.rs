//! Connections, framing, bodies, `Expect`, HEAD, pipelining (§1.1).

use crate::harness::{Answer, Client, Server, chunked, request, steady};
use serde_json::{Value, json};
use std::time::Duration;

const ONE: &str = r#"{"records":[{"data":1}]}"#;

fn client() -> Client {
    Server::shared().connect()
}

fn post(target: &str, extra: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("POST {target} HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n{extra}\r\n")
            .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

#[test]
fn a_framing_error_is_400_without_a_body_and_closes() {
    let long_length = format!("GET / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", "9".repeat(30));
    let table = [
        ("T-7 request line", "GET\r\n\r\n"),
        ("T-7 request line", "GET /v0/health\r\n\r\n"),
        ("T-7 method", "G@T /v0/health HTTP/1.1\r\n\r\n"),
        ("T-7 version", "GET /v0/health HTTP/2.0\r\n\r\n"),
        ("T-7 version", "GET /v0/health HTTP/1.2\r\n\r\n"),
        ("T-7 raw >", "GET /v0/topics/a->b HTTP/1.1\r\n\r\n"),
        ("T-24 raw >", "PUT /v0/routers/a->b HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"),
        ("T-7 raw space", "GET /v0/topics/a b HTTP/1.1\r\n\r\n"),
        ("T-7 NUL", "GET /v0/health HTTP/1.1\r\nX: a\0b\r\n\r\n"),
        ("T-7 folded", "GET /v0/health HTTP/1.1\r\nX: a\r\n b\r\n\r\n"),
        ("T-7 before the colon", "GET /v0/health HTTP/1.1\r\nX : a\r\n\r\n"),
        ("T-7 no colon", "GET /v0/health HTTP/1.1\r\nnonsense\r\n\r\n"),
        ("T-7 length", "GET /v0/health HTTP/1.1\r\nContent-Length: x\r\n\r\n"),
        ("T-7 length", "GET /v0/health HTTP/1.1\r\nContent-Length: -1\r\n\r\n"),
        ("T-7 length", "GET /v0/health HTTP/1.1\r\nContent-Length: +1\r\n\r\n"),
        ("T-7 length", "GET /v0/health HTTP/1.1\r\nContent-Length:\r\n\r\n"),
        ("T-7 length", long_length.as_str()),
        ("T-6 lengths", "GET /v0/health HTTP/1.1\r\nContent-Length: 24\r\nContent-Length: 25\r\n\r\n"),
        ("T-6 list", "GET /v0/health HTTP/1.1\r\nContent-Length: 24,24\r\n\r\n"),
        ("T-7 coding", "GET /v0/health HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n"),
        ("T-6 last coding", "GET /v0/health HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"),
        ("T-1 almost the preface", "PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n"),
    ];
    for (rule, bytes) in table {
        let mut client = client();
        client.send(bytes);
        let answer = client.answer();
        assert_eq!((answer.status, answer.text()), (400, ""), "{rule}: {}", bytes.escape_debug());
        assert_eq!(answer.header("connection"), Some("close"), "{rule}");
        assert!(answer.header("date").is_some(), "T-12 {rule}");
        client.assert_closed(rule);
    }
}

#[test]
fn heads_have_a_largest_size() {
    let target = |bytes: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(bytes - 1));
    let fields = |count| format!("GET /v0/health HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(count));
    let table = [
        ("T-8 target", target(65_534), 404, false),
        ("T-8 target", target(65_535), 414, true),
        ("T-8 fields", fields(100), 200, false),
        ("T-8 fields", fields(101), 431, true),
        ("T-8 bytes", format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(300_000)), 431, true),
    ];
    for (rule, bytes, status, closes) in table {
        let mut client = client();
        client.send(bytes);
        let answer = client.answer();
        assert_eq!(answer.status, status, "{rule}");
        match closes {
            true => {
                assert_eq!((answer.text(), answer.header("connection")), ("", Some("close")), "{rule}");
                client.assert_closed(rule);
            }
            false => client.assert_usable(rule),
        }
    }
}

#[test]
fn requests_that_look_odd_and_are_fine() {
    let table = [
        (
            "T-2",
            "GET /v0/health HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
            200,
        ),
        ("T-3 no Host", "GET /v0/health HTTP/1.1\r\n\r\n", 200),
        ("T-3 absolute", "GET http://any.where:1/v0/health HTTP/1.1\r\n\r\n", 200),
        ("T-3 absolute", "GET HTTPS://u@any.where/v0/topics/nope HTTP/1.1\r\n\r\n", 404),
        ("T-6 repeated", "GET /v0/health HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", 200),
        ("T-11", "GET /v0/health HTTP/1.1\r\nAccept-Encoding: gzip, br\r\n\r\n", 200),
        ("T-17", "GET /v0/health HTTP/1.1\r\nIf-None-Match: *\r\nRange: bytes=0-1\r\n\r\n", 200),
        ("T-17", "GET /v0/health HTTP/1.1\r\nX-HTTP-Method-Override: DELETE\r\n\r\n", 200),
        ("T-22", "GET /v0/health#fragment HTTP/1.1\r\n\r\n", 200),
        ("empty lines first", "\r\n\r\nGET /v0/health HTTP/1.1\r\n\r\n", 200),
    ];
    let mut client = client();
    for (rule, bytes, status) in table {
        client.send(bytes);
        let answer = client.answer();
        answer.check("/v0/health");
        assert_eq!(answer.status, status, "{rule}");
    }
}

#[test]
fn a_connection_stays_open_as_its_client_asks() {
    let table = [
        ("1.1", "GET /v0/health HTTP/1.1\r\n\r\n", None, false),
        ("1.1 close", "GET /v0/health HTTP/1.1\r\nConnection: close\r\n\r\n", Some("close"), true),
        ("1.1 Close", "GET /v0/health HTTP/1.1\r\nConnection: Close\r\n\r\n", Some("close"), true),
        ("1.1 list", "GET /v0/health HTTP/1.1\r\nConnection: x, close\r\n\r\n", Some("close"), true),
        ("T-3 1.0", "GET /v0/health HTTP/1.0\r\n\r\n", Some("close"), true),
        ("1.0", "GET /v0/health HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Some("keep-alive"), false),
    ];
    for (rule, bytes, connection, closes) in table {
        let mut client = client();
        client.send(bytes);
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("connection")), (200, connection), "{rule}");
        match closes {
            true => client.assert_closed(rule),
            false => client.assert_usable(rule),
        }
    }
}

#[test]
fn close_also_ends_the_connection_after_an_answer_from_the_other_core() {
    for topic in Server::shared().names("close") {
        let mut client = client();
        client.send(post(
            &format!("/v0/topics/{topic}"),
            &format!("Connection: close\r\nContent-Length: {}\r\n", ONE.len()),
            ONE.as_bytes(),
        ));
        // What follows a request with `close` is not looked at.
        client.send("GET /v0/health HTTP/1.1\r\n\r\n");
        let answer = client.answer();
        assert_eq!((answer.status, answer.header("connection")), (201, Some("close")));
        client.assert_closed("close");
    }
}

#[test]
fn a_client_that_finished_sending_gets_its_answers() {
    for topic in Server::shared().names("half") {
        let mut client = client();
        client.fresh(&topic, "");
        let target = format!("/v0/topics/{topic}");
        client.send(request("POST", &target, ONE));
        client.send(request("POST", &format!("{target}/diff"), r#"{"from_seq":1,"wait_ms":50}"#));
        client.send(request("GET", &target, ""));
        client.finish();
        for (what, status) in [("append", 200), ("diff", 200), ("state", 200)] {
            assert_eq!(client.answer().status, status, "{what}");
        }
        client.assert_closed("T-4");
    }
}

#[test]
fn a_client_that_breaks_off_is_let_go() {
    let table = [
        ("nothing", "", None),
        ("in a head", "GET /v0/hea", None),
        ("E-12 in a body", "PUT /v0/topics/t HTTP/1.1\r\nContent-Length: 9\r\n\r\n{}", Some(400)),
        (
            "E-12 in a chunk",
            "PUT /v0/topics/t HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{}",
            Some(400),
        ),
        (
            "E-12 between chunks",
            "PUT /v0/topics/t HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
            Some(400),
        ),
        ("T-16 in an ignored body", "GET /v0/health HTTP/1.1\r\nContent-Length: 9\r\n\r\n{}", Some(200)),
    ];
    for (rule, bytes, status) in table {
        let mut client = client();
        client.send(bytes);
        client.finish();
        if let Some(status) = status {
            assert_eq!(client.answer().status, status, "{rule}");
        }
        client.assert_closed(rule);
    }
}

#[test]
fn a_malformed_chunked_body_is_400_and_closes() {
    for chunks in ["x\r\n", "2;\r\n{}\n0\r\n\r\n", "2\r\n{}2\r\n", "-1\r\n", "FFFFFFFFFFFFFFFFF\r\n", "\r\n"]
    {
        let mut client = client();
        client.send(post("/v0/topics/t", "Transfer-Encoding: chunked\r\n", chunks.as_bytes()));
        let answer = client.answer();
        answer.assert_fault(400, "invalid_request", &Value::Null, "E-12");
        assert_eq!(answer.header("connection"), Some("close"), "E-12");
        client.assert_closed("E-12");
    }
}

#[test]
fn chunked_bodies_are_read_with_extensions_and_trailers() {
    let plain = "Transfer-Encoding: chunked\r\n";
    let table = [
        ("T-6", plain, "", ""),
        ("T-6 extension", plain, ";a=b;c=\"d e\"", ""),
        ("T-6 trailers", plain, "", "X-Sum: 1\r\nContent-Length: 3\r\n"),
        ("T-6 case", "transfer-encoding: ChUnKeD\r\n", "", ""),
        ("T-6 list", "Transfer-Encoding: gzip, chunked\r\n", "", ""),
        ("T-6 wins", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "", ""),
        ("T-6 wins", "Transfer-Encoding: chunked\r\nContent-Length: 9999\r\n", "", ""),
    ];
    let mut client = client();
    for topic in Server::shared().names("chunked") {
        client.fresh(&topic, "");
        let mut seq = 0;
        for (rule, framing, extension, trailers) in table {
            for bytes in [1, 7, 1000] {
                let body = chunked(ONE.as_bytes(), bytes, extension, trailers);
                client.send(post(&format!("/v0/topics/{topic}"), framing, &body));
                let answer = client.answer();
                seq += 1;
                assert_eq!((answer.status, answer.u64("head_seq")), (200, seq), "{rule}");
            }
        }
    }
}

#[test]
fn an_interim_100_comes_when_the_body_is_read_and_not_else() {
    let length = format!("Expect: 100-continue\r\nContent-Length: {}\r\n", ONE.len());
    let any_case = length.replace("100-continue", "100-Continue");
    let coded = "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n".to_owned();
    let chunks = chunked(ONE.as_bytes(), 5, "", "");
    for topic in Server::shared().names("expect") {
        let target = format!("/v0/topics/{topic}");
        let table: [(&str, &str, &String, &[u8]); 3] = [
            ("T-5", &target, &length, ONE.as_bytes()),
            ("T-5 case", &target, &any_case, ONE.as_bytes()),
            ("T-5 chunked", &target, &coded, &chunks),
        ];
        for (rule, target, framing, body) in table {
            // The body comes after the 100, along with the head, or in two parts.
            for at_once in [0, 1, body.len()] {
                let mut client = client();
                client.send(post(target, framing, &body[..at_once]));
                assert_eq!(client.answer().status, 100, "{rule} {at_once}");
                client.send(&body[at_once..]);
                let answer = client.answer();
                assert_eq!(answer.status / 100, 2, "{rule} {at_once}");
                client.assert_usable(rule);
            }
        }
        let refused = [
            ("T-5 unknown route", format!("POST /v0/nope HTTP/1.1\r\n{length}\r\n"), 404),
            ("T-5 wrong method", format!("PATCH {target} HTTP/1.1\r\n{length}\r\n"), 405),
            ("T-5 no topic name", format!("POST /v0/topics/%FF HTTP/1.1\r\n{length}\r\n"), 400),
            ("T-5 T-16", format!("GET {target} HTTP/1.1\r\n{length}\r\n"), 200),
            ("T-5 T-16", format!("GET {target} HTTP/1.1\r\n{coded}\r\n"), 200),
            ("T-5 T-16", format!("DELETE {target} HTTP/1.1\r\n{length}\r\n"), 200),
        ];
        for (rule, head, status) in refused {
            let mut client = client();
            client.send(head);
            let answer = client.answer();
            assert_eq!(answer.status, status, "{rule}");
            // The client may send its body or not, so where the next request begins is anybody's guess.
            assert_eq!(answer.header("connection"), Some("close"), "{rule}");
            client.assert_closed(rule);
        }
        let mut client = client();
        client.send(format!("PUT {target} HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(client.answer().status / 100, 2, "T-5: no body to wait for");
        client.send(format!("PUT {target} HTTP/1.0\r\nConnection: keep-alive\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n{{}}"));
        // The content type is missing, and 1.0 knows no interim answers.
        assert_eq!(client.answer().status, 415, "T-5: HTTP/1.0");
    }
}

#[test]
fn a_body_where_none_is_taken_is_passed_over() {
    let long = "x".repeat(200_000);
    for topic in Server::shared().names("ignored") {
        let mut client = client();
        client.fresh(&topic, "");
        let target = format!("/v0/topics/{topic}");
        let table = [
            ("T-16", "GET", target.as_str(), 200),
            ("T-16", "HEAD", &target, 200),
            ("T-16", "GET", "/v0/topics", 200),
            ("T-16", "GET", "/v0/health", 200),
            ("T-16", "HEAD", "/healthz", 200),
            ("T-16", "GET", "/v0/ready", 200),
            ("T-16", "GET", "/v0/metrics", 200),
            ("T-16", "GET", "/v0/topics/absent", 404),
            ("T-16 B-2", "POST", "/v0/nope", 404),
            ("T-16", "PATCH", &target, 405),
            ("T-16", "GET", "/v0/topics/%FF", 400),
            ("T-16", "DELETE", &target, 200),
        ];
        for (rule, method, path, status) in table {
            let whole = chunked(long.as_bytes(), 70_000, ";x", "A: b\r\n");
            let bodies: [(&str, &[u8]); 4] = [
                ("Content-Length: 2\r\nContent-Type: text/plain\r\n", b"{]"),
                ("Content-Length: 200000\r\n", long.as_bytes()),
                ("Transfer-Encoding: chunked\r\n", b"2\r\n{]\r\n0\r\n\r\n"),
                ("Transfer-Encoding: chunked\r\n", &whole),
            ];
            for (framing, body) in bodies {
                client.send(format!("{method} {path} HTTP/1.1\r\n{framing}\r\n"));
                client.send(body);
                client.send(request("GET", "/v0/health", ""));
                let answer = client.answer_to(method == "HEAD");
                assert_eq!(answer.status, status, "{rule} {method} {path} {framing}");
                assert_eq!(client.answer().status, 200, "{rule} {method} {path}: the next request");
            }
        }
    }
}

#[test]
fn head_has_the_status_and_headers_of_get_and_no_body() {
    for topic in Server::shared().names("head") {
        let mut client = client();
        client.fresh(&topic, "");
        let target = format!("/v0/topics/{topic}?touch=false");
        for path in [
            target.as_str(),
            "/v0/topics?prefix=head",
            "/v0/topics/absent",
            "/v0/topics/%FF",
            "/v0/nope",
            "/v0/health",
            "/healthz",
            "/v0/ready",
            "/readyz",
            "/v0/metrics",
            "/v0/topics/t/diff",
            "/v0/topics?cursor=!",
        ] {
            let get = client.get(path);
            let head = client.call("HEAD", path, "");
            let shown = |answer: &Answer| {
                let mut headers = answer.headers.clone();
                // Times and counters differ in their number of digits from call to call.
                headers.retain(|(name, _)| name != "date" && name != "content-length");
                (answer.status, headers)
            };
            assert_eq!(shown(&head), shown(&get), "T-13 {path}");
            let length: usize = head.header("content-length").expect("T-13").parse().expect("a number");
            assert!(length.abs_diff(get.body.len()) < 64, "T-13 {path}: {length} {}", get.body.len());
            assert!(head.body.is_empty(), "T-13 {path}");
        }
        client.assert_usable("T-13: no body was left behind");
    }
}

#[test]
fn head_of_a_topic_counts_as_a_read() {
    let mut client = client();
    for topic in Server::shared().names("headtouch") {
        client.fresh(&topic, "");
        let state = format!("/v0/topics/{topic}?touch=false");
        assert_eq!(client.get(&state).member("last_read_ts"), Value::Null);
        client.call("HEAD", &state, "");
        assert_eq!(client.get(&state).member("last_read_ts"), Value::Null, "TS-2");
        client.call("HEAD", &format!("/v0/topics/{topic}"), "");
        assert!(client.get(&state).member("last_read_ts").is_u64(), "T-13");
    }
}

/// A conversation that mixes everything, and what it must be answered with when `written` records are
/// in each of the two topics already.
fn conversation(topic: &str, other: &str, written: u64) -> (Vec<u8>, Vec<(u16, Value)>) {
    let path = format!("/v0/topics/{topic}");
    let next = written + 1;
    let expect = "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n";
    let mut bytes = Vec::new();
    bytes.extend(request("POST", &path, r#"{"records":[{"data":{"a":"\u00e9"}},{"tag":"b"}]}"#));
    bytes.extend(post(&path, expect, &chunked(ONE.as_bytes(), 3, ";x=y", "T: u\r\n")));
    bytes.extend(request("POST", &format!("/v0/topics/{other}"), r#"{"records":[{"data":7}]}"#));
    bytes.extend(request("GET", &format!("{path}/diff"), ""));
    bytes.extend(b"DELETE /v0/nope HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
    bytes.extend(request("POST", &format!("{path}/diff"), &format!("{{\"from_seq\":{written:6}}}")));
    let fault = |code: &str| json!({ "code": code, "detail": null });
    let expected = vec![
        (400, fault("invalid_request")),
        (100, Value::Null),
        (200, json!([next])),
        (200, json!([next])),
        (405, fault("method_not_allowed")),
        (404, fault("not_found")),
        (200, json!([1])),
    ];
    (bytes, expected)
}

fn assert_conversation(client: &mut Client, expected: &[(u16, Value)], what: &str) {
    for (index, (status, shown)) in expected.iter().enumerate() {
        let answer = client.answer();
        assert_eq!(answer.status, *status, "{what}: answer {index}: {}", answer.text());
        if answer.status == 100 {
            continue;
        }
        answer.check("/v0/topics");
        let json = answer.json();
        let found = match status {
            200 | 201 if json["seqs"].is_array() => json["seqs"].clone(),
            200 | 201 => json["records"]
                .as_array()
                .map_or(Value::Null, |all| all.iter().map(|record| record["data"].clone()).collect()),
            _ => json!({ "code": json["error"]["code"], "detail": json["error"]["detail"] }),
        };
        assert_eq!(&found, shown, "{what}: answer {index}");
    }
}

#[test]
fn every_way_to_cut_a_conversation_gives_the_same_answers() {
    let server = Server::shared();
    let [first, second] = server.names("cut");
    let mut client = server.connect();
    for topic in [&first, &second] {
        client.fresh(topic, r#"{"durability":"memory"}"#);
    }
    let mut written = 0;
    for (topic, other) in [(&first, &second), (&second, &first)] {
        let mut client = server.connect();
        for at in 0..conversation(topic, other, written).0.len() {
            let (bytes, expected) = conversation(topic, other, written);
            client.send(&bytes[..at]);
            if at % 2 == 0 {
                // Else the kernel often joins the parts.
                std::thread::sleep(Duration::from_micros(150));
            }
            client.send(&bytes[at..]);
            assert_conversation(&mut client, &expected, &format!("T-4 cut at {at}"));
            written += 1;
        }
        let (bytes, expected) = conversation(topic, other, written);
        for byte in &bytes {
            client.send([*byte]);
        }
        assert_conversation(&mut client, &expected, "T-4 byte by byte");
        written += 1;
        client.assert_usable("T-4");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::shared();
    let [first, second] = server.names("pipe");
    for connection in 0..2 {
        let mut client = server.connect();
        client.fresh(&first, r#"{"durability":"memory"}"#);
        client.fresh(&second, "");
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        let mut heads = [0, 0];
        for round in 0..100_u64 {
            let which = (round / 3 % 2) as usize;
            let topic = [&first, &second][which];
            let path = format!("/v0/topics/{topic}");
            let (request, answer) = match round % 7 {
                0 | 3 => {
                    heads[which] += 1;
                    let body = format!(r#"{{"records":[{{"data":{}}}]}}"#, heads[which]);
                    (request("POST", &path, &body), (200, json!([heads[which]])))
                }
                1 => {
                    let body = format!(r#"{{"from_seq":{},"wait_ms":1}}"#, heads[which]);
                    (request("POST", &format!("{path}/diff"), &body), (200, json!([])))
                }
                2 => {
                    let data: Vec<u64> = (1..=heads[which]).collect();
                    (request("POST", &format!("{path}/diff"), "{}"), (200, json!(data)))
                }
                4 => (request("POST", &path, "{"), (400, json!({"code":"invalid_request","detail":null}))),
                5 => {
                    let detail = json!({ "topic": "absent" });
                    let shown = json!({ "code": "topic_not_found", "detail": detail });
                    (request("GET", "/v0/topics/absent", ""), (404, shown))
                }
                _ => (request("GET", "/v0/topics?prefix=pipe", ""), (200, Value::Null)),
            };
            bytes.extend(request);
            expected.push(answer);
        }
        client.send(&bytes);
        assert_conversation(&mut client, &expected, &format!("T-4 connection {connection}"));
        client.assert_usable("T-4");
    }
}

#[test]
fn answers_of_each_kind_do_not_leak_into_the_next_request() {
    let mut client = client();
    // The text of each probe is its own, whatever was asked before it on the connection.
    for before in ["/v0/ready", "/v0/topics/%2Fready", "/readyz"] {
        client.get(before);
        let metrics = client.get("/v0/metrics");
        assert!(metrics.text().contains("# TYPE topics_topics gauge"), "H-4 after {before}");
        assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4"), "H-4 after {before}");
        client.get(before);
        assert!(client.get("/v0/topics").member("topics").is_array(), "TL-1 after {before}");
    }
}

#[test]
fn an_answer_is_waited_for_by_a_client_that_pipelines_more_than_fits() {
    // Far more requests than the server keeps, to the other core's topics too, read only afterwards by
    // a second thread: the server must stop reading and go on later, and lose nothing.
    let server = Server::shared();
    let [first, second] = server.names("flood");
    let mut client = server.connect();
    for topic in [&first, &second] {
        client.fresh(topic, r#"{"durability":"memory"}"#);
    }
    let pad = "p".repeat(2000);
    let rounds = 1000;
    let body = format!(r#"{{"records":[{{"data":"{pad}"}}]}}"#);
    let mut bytes = Vec::new();
    for round in 0..rounds {
        let topic = if round % 2 == 0 { &first } else { &second };
        bytes.extend(request("POST", &format!("/v0/topics/{topic}?return_seqs=false"), &body));
    }
    client.send(&bytes);
    for round in 0..rounds {
        assert_eq!(client.answer().u64("head_seq"), round / 2 + 1, "T-4");
    }
    let shown = steady(client.get(&format!("/v0/topics/{second}")).json());
    assert_eq!(shown["count"], 500);
}

#[test]
fn the_first_of_a_repeated_header_counts() {
    let mut client = client();
    for topic in Server::shared().names("repeated") {
        client.drop_topic(&topic);
        let target = format!("/v0/topics/{topic}");
        let length = format!("Content-Length: {}\r\n", ONE.len());
        let table = [
            ("T-17", "Content-Type: application/json\r\nContent-Type: text/plain\r\n", 201),
            ("T-17", "Content-Type: text/plain\r\nContent-Type: application/json\r\n", 415),
            ("T-11", "Content-Type: application/json\r\nContent-Encoding: gzip\r\n", 200),
        ];
        for (rule, headers, status) in table {
            client.send(format!("POST {target} HTTP/1.1\r\n{headers}{length}\r\n{ONE}"));
            assert_eq!(client.answer().status, status, "{rule} {headers}");
        }
        for (keys, deduped) in [(["a", "b"], false), (["a", "c"], true), (["c", "a"], false)] {
            let keys = keys.map(|key| format!("Idempotency-Key: {key}\r\n")).concat();
            client.send(post(&target, &format!("{keys}{length}"), ONE.as_bytes()));
            assert_eq!(client.answer().member("deduped"), deduped, "T-17 U-1 {keys}");
        }
    }
    client.send(post("/v0/topics/t", "Content-Encoding: gzip\r\nContent-Length: 3\r\n", b"\x1f\x8b\x08"));
    client.answer().assert_fault(400, "invalid_request", &Value::Null, "T-11");
}

#[test]
fn a_client_that_reads_late_gets_everything() {
    // Forty answers of a megabyte each: more than the server holds for one connection, from either core.
    let server = Server::shared();
    let data = format!("\"{}\"", "d".repeat(1_000_000));
    for topic in server.names("late") {
        let mut client = server.connect();
        client.fresh(&topic, r#"{"durability":"memory"}"#);
        client.append_all(&topic, &[&data]);
        let mut bytes = Vec::new();
        for _ in 0..40 {
            bytes.extend(request("POST", &format!("/v0/topics/{topic}/diff"), "{}"));
            bytes.extend(request("GET", "/v0/health", ""));
        }
        client.send(bytes);
        client.finish();
        std::thread::sleep(Duration::from_millis(100));
        for round in 0..40 {
            let answer = client.answer();
            assert!(answer.text().contains(&data), "T-4 {round}");
            assert_eq!(client.answer().member("status"), "ok", "T-4 {round}");
        }
        client.assert_closed("T-4");
        server.connect().drop_topic(&topic);
    }
}

#[test]
fn many_connections_each_get_their_own_answers() {
    let server = Server::shared();
    let names = server.names("own");
    let mut first = server.connect();
    for topic in &names {
        first.fresh(topic, r#"{"durability":"memory"}"#);
    }
    let mut clients: Vec<Client> = (0..60).map(|_| server.connect()).collect();
    for round in 0..5 {
        for (index, client) in clients.iter_mut().enumerate() {
            let topic = &names[(index + round) % 2];
            let body = format!(r#"{{"idempotency_key":"{index}-{round}","records":[{{"data":{index}}}]}}"#);
            client.send(request("POST", &format!("/v0/topics/{topic}"), &body));
            client.send(request("GET", &format!("/v0/topics/x{index}"), ""));
        }
        for (index, client) in clients.iter_mut().enumerate() {
            let topic = &names[(index + round) % 2];
            let answer = client.answer();
            assert_eq!(answer.member("topic"), topic.as_str());
            let from = answer.u64("first_seq") - 1;
            let absent = json!({ "topic": format!("x{index}") });
            client.answer().assert_fault(404, "topic_not_found", &absent, "T-4");
            let read = client.diff(topic, &format!("{{\"from_seq\":{from},\"limit\":1}}"));
            assert_eq!(read.member("records")[0]["data"], index, "I-41");
        }
    }
}
