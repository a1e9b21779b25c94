//! Paths, names in paths, media types, queries (§1.2, §1.3, §1.6).

use crate::harness::Server;
use serde_json::{Value, json};

#[test]
fn any_other_path_is_404_for_every_method() {
    let mut client = Server::shared().connect();
    let paths = [
        ("T-20 case", "/v0/Topics"),
        ("T-20 case", "/V0/health"),
        ("T-20 case", "/v0/topics/t/Diff"),
        ("T-20 slash", "/v0/topics/"),
        ("T-20 slash", "/v0/topics/t/"),
        ("T-20 slash", "/v0/health/"),
        ("T-20 slashes", "/v0//topics"),
        ("T-20 slashes", "//v0/topics"),
        ("T-20 slashes", "/v0/topics//t"),
        ("T-20 escapes", "/v0/t%6Fpics"),
        ("T-20 escapes", "/v0/topics/t/d%69ff"),
        ("T-20 dots", "/v0/../v0/topics"),
        ("T-21", "/"),
        ("T-21", "*"),
        ("T-21", "/v0"),
        ("T-21", "/v1/topics"),
        ("T-21", "/metrics"),
        ("T-21", "/health"),
        ("T-21", "/v0/topics/t/other"),
        ("T-21", "/v0/topics/t/diff/x"),
        ("T-21 B-1", "/v0/topics/%FF/other"),
        ("T-21", "/v0/topics/t/claims"),
        ("T-21", "/v0/topics/t/claim/x"),
        ("T-20 slash", "/v0/topics/t/ack/"),
        ("T-20 slash", "/v0/routers/"),
        ("T-21", "/v0/routers/r/x"),
        ("T-20 slash", "/v0/watch/"),
        ("T-21", "/v0/watch/w/x"),
        ("T-21", "/v0/ws/x"),
    ];
    for (rule, path) in paths {
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH", "BREW"] {
            let what = format!("{rule} {method} {path}");
            client.call(method, path, "").assert_fault(404, "not_found", &Value::Null, &what);
        }
    }
}

#[test]
fn a_wrong_method_is_405_with_those_that_are_right() {
    let mut client = Server::shared().connect();
    let read = ["GET", "HEAD"].as_slice();
    let paths = [
        ("/v0/topics", read),
        ("/v0/health", read),
        ("/healthz", read),
        ("/v0/ready", read),
        ("/readyz", read),
        ("/v0/metrics", read),
        ("/v0/topics/absent", &["GET", "HEAD", "PUT", "POST", "DELETE"]),
        ("/v0/topics/absent/diff", &["POST"]),
        ("/v0/topics/absent/claim", &["POST"]),
        ("/v0/topics/absent/ack", &["POST"]),
        ("/v0/topics/absent/nack", &["POST"]),
        ("/v0/topics/absent/extend", &["POST"]),
        ("/v0/topics/%FF/diff", &["POST"]),
        ("/v0/topics/absent/delete", &["POST"]),
    ];
    let methods = [
        "GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "Post", "BREW",
    ];
    for (path, served) in paths {
        for method in methods.iter().filter(|method| !served.contains(method)) {
            let answer = client.call(method, path, "");
            let what = format!("T-14 T-15 {method} {path}");
            assert_eq!(answer.header("allow"), Some(served.join(", ").as_str()), "{what}");
            if *method != "HEAD" {
                answer.assert_fault(405, "method_not_allowed", &Value::Null, &what);
            }
        }
    }
}

#[test]
fn a_name_in_a_path_is_decoded_after_the_match() {
    let mut client = Server::shared().connect();
    let [topic, other] = Server::shared().names("decoded");
    client.fresh(&topic, "");
    client.fresh(&other, "");
    let escaped = topic.replace('d', "%64");
    let table = [
        // rule, name in the path, name shown, status of GET
        ("T-22", topic.as_str(), topic.as_str(), 200),
        ("T-22", &escaped, &topic, 200),
        ("T-22", "a%2Fdiff", "a/diff", 404),
        ("T-22", "a%2fb", "a/b", 404),
        ("T-22", "a%3Eb", "a>b", 404),
        ("T-22", "100%", "100%", 404),
        ("T-22", "%zz%4", "%zz%4", 404),
        ("T-22", "a+b", "a+b", 404),
        ("T-22", "gr\u{fc}n", "gr\u{fc}n", 404),
        ("T-22", "gr%C3%BCn", "gr\u{fc}n", 404),
        ("T-22", "x%22%5C%00%0Ay", "x\"\\\0\ny", 404),
        ("T-22", "frag#ment", "frag", 404),
        ("T-20 dots", "..", "..", 404),
    ];
    for (rule, sent, shown, status) in table {
        let answer = client.get(&format!("/v0/topics/{sent}"));
        assert_eq!(answer.status, status, "{rule} {sent}");
        match status {
            200 => assert_eq!(answer.member("topic"), shown, "{rule}"),
            _ => answer.assert_fault(404, "topic_not_found", &json!({ "topic": shown }), rule),
        }
    }
    for bad in ["%FF", "a%C3", "%ED%A0%80"] {
        for (method, action) in
            [("GET", ""), ("PUT", ""), ("POST", ""), ("POST", "/diff"), ("POST", "/delete")]
        {
            let answer = client.call(method, &format!("/v0/topics/{bad}{action}"), "");
            answer.assert_fault(400, "invalid_request", &Value::Null, "T-23 B-1");
        }
    }
}

#[test]
fn a_json_body_needs_its_media_type() {
    let mut client = Server::shared().connect();
    let types = [
        ("M-1", Some("application/json"), true),
        ("M-1", Some("application/json; charset=utf-8"), true),
        ("M-1", Some("application/json;charset=latin-1"), true),
        ("M-1", Some("   application/json"), true),
        ("M-1", Some("application/jsonx"), true),
        ("M-1", Some("APPLICATION/JSON"), false),
        ("M-1", Some("text/json"), false),
        ("M-1", Some("application/vnd.x+json"), false),
        ("M-1", Some("x application/json"), false),
        ("M-1", Some(""), false),
        ("M-1", None, false),
    ];
    for topic in Server::shared().names("media") {
        client.fresh(&topic, "");
        let path = format!("/v0/topics/{topic}");
        let endpoints = [
            ("PUT", String::new(), "{}", 200),
            ("POST", String::new(), r#"{"records":[{"data":1}]}"#, 200),
            ("POST", "/diff".to_owned(), "{}", 200),
            ("POST", "/delete".to_owned(), r#"{"before_seq":0}"#, 200),
        ];
        for (rule, media, fine) in types {
            let header = media.map_or(String::new(), |media| format!("Content-Type: {media}\r\n"));
            for (method, action, body, status) in &endpoints {
                let what = format!("{rule} {method} {action} {media:?}");
                let length = body.len();
                client.send(format!(
                    "{method} {path}{action} HTTP/1.1\r\n{header}Content-Length: {length}\r\n\r\n{body}"
                ));
                let answer = client.answer();
                match fine {
                    true => assert_eq!(answer.status, *status, "{what}"),
                    false => answer.assert_fault(415, "unsupported_media_type", &Value::Null, &what),
                }
                // Without a body the type matters only where a body is required.
                let required = method == &"POST" && action != "/diff";
                client.send(format!("{method} {path}{action} HTTP/1.1\r\n{header}Content-Length: 0\r\n\r\n"));
                let answer = client.answer();
                match (required, fine) {
                    (false, _) => assert_eq!(answer.status, *status, "M-2 {what}"),
                    (true, true) => answer.assert_fault(400, "invalid_request", &Value::Null, &what),
                    (true, false) => {
                        answer.assert_fault(415, "unsupported_media_type", &Value::Null, &what);
                    }
                }
            }
        }
        client.send(format!(
            "PUT {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Type: x/y\r\n\r\n0\r\n\r\n"
        ));
        assert_eq!(client.answer().status, 200, "M-2: empty, though chunked");
    }
}

#[test]
fn queries_are_lenient() {
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("query") {
        client.fresh(&topic, "");
        let table = [
            // rule, query, whether `seqs` is there
            ("K-3", "", true),
            ("K-3", "?return_seqs=true", true),
            ("K-3", "?return_seqs=1", true),
            ("K-3", "?return_seqs=false", false),
            ("K-3", "?return_seqs=0", false),
            ("K-3", "?return_seqs=FALSE", true),
            ("K-3", "?return_seqs=no", true),
            ("K-3", "?return_seqs=", true),
            ("K-3", "?return_seqs", true),
            ("K-2", "?return_seqs=true&return_seqs=false", false),
            ("K-2", "?return_seqs=false&return_seqs=what", true),
            ("K-1", "?unknown=x&return_seqs=fals%65", false),
            ("K-1", "?return%5Fseqs=0", false),
            ("K-1", "?%FF=%FF&return_seqs=0", false),
            ("T-22", "?return_seqs=0#return_seqs=1", false),
        ];
        for (rule, query, listed) in table {
            let answer = client.append(&format!("{topic}{query}"), r#"{"records":[{"data":1}]}"#);
            assert_eq!(answer.status, 200, "{rule} {query}");
            assert_eq!(answer.json().get("seqs").is_some(), listed, "{rule} {query}");
        }
        let answer = client.append(&topic, r#"{"records":[{"data":1}],"return_seqs":false}"#);
        assert!(answer.member("seqs").is_array(), "W-7");
    }
}
