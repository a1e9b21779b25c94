//! Request JSON, and the order of checks (§1.4, §1.7, §1.8).

use crate::harness::Server;
use serde_json::{Value, json};

#[test]
fn malformed_json_is_refused_everywhere() {
    let server = Server::shared();
    let deep = |levels: usize| format!("{{\"x\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
    let (too_deep, fine_deep) = (deep(127), deep(126));
    let table: Vec<(&str, &[u8])> = vec![
        ("J-1", b" "),
        ("J-1", b"\n\t"),
        ("J-1", b"{"),
        ("J-1", b"{}x"),
        ("J-1", b"{} {}"),
        ("J-1", b"{\"x\":1,}"),
        ("J-1", b"{'x':1}"),
        ("J-1", b"{x:1}"),
        ("J-1", b"{}//"),
        ("J-1", b"/**/{}"),
        ("J-1 BOM", b"\xef\xbb\xbf{}"),
        ("J-2", b"null"),
        ("J-2", b"1"),
        ("J-2", b"\"x\""),
        ("J-2", b"[]"),
        ("J-2", b"[{}]"),
        ("J-3", b"{\"x\":nope}"),
        ("J-3", b"{\"x\":[1,]}"),
        ("J-8", b"{\"x\":\"\\ud800\"}"),
        ("J-8", b"{\"x\":\"\\udc00\\ud800\"}"),
        ("J-8", b"{\"x\":\"a\nb\"}"),
        ("J-8", b"{\"x\":\"\xff\"}"),
        ("J-8", b"{\"x\":\"\xed\xa0\x80\"}"),
        ("J-8", b"{\"x\":\"\\x\"}"),
        ("J-8", b"{\"x\":1e400}"),
        ("J-8", b"{\"x\":NaN}"),
        ("J-8", b"{\"x\":01}"),
        ("J-8", b"{\"x\":+1}"),
        ("J-8", b"{\"x\":.5}"),
        ("J-9", too_deep.as_bytes()),
    ];
    let mut client = server.connect();
    for topic in server.names("malformed") {
        let path = format!("/v0/topics/{topic}");
        for (method, target) in [
            ("PUT", path.clone()),
            ("POST", path.clone()),
            ("POST", format!("{path}/diff")),
            ("POST", format!("{path}/delete")),
        ] {
            for (rule, body) in &table {
                client.send(format!(
                    "{method} {target} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                ));
                client.send(body);
                let what = format!("{rule} {method} {target} {}", body.escape_ascii());
                // B-2: 400 although the topic is absent.
                client.answer().assert_fault(400, "invalid_request", &Value::Null, &what);
            }
            assert_eq!(client.get(&path).status, 404, "W-3: nothing was made");
        }
        assert_eq!(client.put(&topic, &format!(" {fine_deep}\r\n ")).status, 201, "J-1 J-3 J-9");
    }
}

#[test]
fn known_members_have_types_and_ranges() {
    let put = |member: &'static str, values: &[&'static str]| -> Vec<(&'static str, &'static str, String)> {
        values.iter().map(|value| ("PUT", "", format!("{{\"{member}\":{value}}}"))).collect()
    };
    let diff = |member: &'static str, values: &[&'static str]| -> Vec<(&'static str, &'static str, String)> {
        values.iter().map(|value| ("POST", "/diff", format!("{{\"{member}\":{value}}}"))).collect()
    };
    let no_u64 = ["1.0", "1e3", "\"1\"", "true", "null", "-1", "18446744073709551616", "[]", "{}"];
    let no_u32 = ["1.0", "1e3", "\"1\"", "true", "null", "-1", "4294967296"];
    let no_bool = ["1", "0", "\"true\"", "null", "[]"];
    let mut rows = Vec::new();
    for member in [
        "ttl_ms",
        "cap_records",
        "cap_bytes",
        "idempotency_window_ms",
        "lease_ms",
        "claim_jitter_ms",
        "max_deliveries",
    ] {
        rows.extend(put(member, &no_u64));
    }
    for member in ["durable", "auto_priority", "auto_create", "dedupe_node", "leases_durable"] {
        rows.extend(put(member, &no_bool));
    }
    rows.extend(put("type", &["null", "\"Log\"", "\"stream\"", "\"\"", "1", "{\"log\":null}"]));
    rows.extend(put("discard", &["null", "\"new\"", "\"OLD\"", "1"]));
    rows.extend(put("durability", &["\"Fsync\"", "\"strong\"", "true", "1"]));
    rows.extend(put("priority", &["1.5", "\"1\"", "2147483648", "-2147483649", "true"]));
    rows.extend(put("dead_letter", &["1", "true", "[]"]));
    for member in ["from_seq", "max_batch_bytes"] {
        rows.extend(diff(member, &no_u64));
    }
    for member in ["limit", "wait_ms"] {
        rows.extend(diff(member, &no_u32));
    }
    for member in ["include_tags", "include_meta"] {
        rows.extend(diff(member, &no_bool));
    }
    rows.extend(diff("node", &["1", "true", "{}", "[1]", "[null]", "[[\"a\"]]"]));
    for value in ["1.0", "\"1\"", "-1", "true"] {
        rows.push(("POST", "/delete", format!("{{\"before_seq\":{value}}}")));
    }
    // J-4
    for body in [r#"{"ttl_ms":1,"ttl_ms":1}"#, r#"{"type":"log","\u0074ype":"log"}"#] {
        rows.push(("PUT", "", body.to_owned()));
    }
    rows.push(("POST", "/diff", r#"{"limit":1,"limit":1}"#.to_owned()));
    rows.push(("POST", "/delete", r#"{"before_seq":1,"before_seq":1}"#.to_owned()));
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("typed") {
        client.fresh(&topic, "");
        client.append_all(&topic, &["1", "2"]);
        let before = client.snapshot(&topic);
        for (method, action, body) in &rows {
            let answer = client.call(method, &format!("/v0/topics/{topic}{action}"), body);
            let what = format!("J-4 J-5 J-6 J-7 {method} {action} {body}");
            answer.assert_fault(400, "invalid_request", &Value::Null, &what);
        }
        assert_eq!(client.snapshot(&topic), before, "I-36");
    }
}

#[test]
fn null_means_absent_where_the_contract_says_so() {
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("null") {
        client.fresh(&topic, "");
        let config = r#"{"durability":null,"priority":null,"dead_letter":null}"#;
        assert_eq!(client.put(&topic, config).member("config")["durability"], "disk", "J-6");
        let append = r#"{"node":null,"idempotency_key":null,"create":null,"config":null,
            "records":[{"data":null,"tag":null,"node":null,"meta":null}]}"#;
        assert_eq!(client.append(&topic, append).status, 200, "J-6");
        let answer = client.diff(&topic, r#"{"node":null,"include_tags":true}"#);
        assert_eq!(answer.steady()["records"], json!([{"$seq":1,"$ts":0,"data":null}]), "J-6 J-20 E-5");
        assert_eq!(client.delete(&topic, r#"{"match":null,"before_seq":2}"#).u64("deleted"), 1, "J-6");
        client.delete(&topic, r#"{"match":null,"before_seq":null}"#).assert_fault(
            400,
            "invalid_request",
            &Value::Null,
            "X-1",
        );
        for body in [
            r#"{"records":null}"#,
            r#"{"records":[null]}"#,
            r#"{"records":[{"data":1}],"disable_backpressure":null}"#,
            r#"{"records":[{"data":1}],"config":{"ttl_ms":null}}"#,
        ] {
            client.append(&topic, body).assert_fault(
                400,
                "invalid_request",
                &Value::Null,
                &format!("J-6 {body}"),
            );
        }
    }
}

#[test]
fn checks_come_in_their_order() {
    let server = Server::start(&[("RUNELOG_MAX_BODY_BYTES", "100")]);
    let big = "x".repeat(101);
    let mut table = Vec::new();
    for topic in server.names("order") {
        let path = format!("/v0/topics/{topic}");
        let fault = |status: u16, code: &'static str| (status, code);
        table.push((
            "B-2 route before size",
            "POST",
            "/v0/nope".to_owned(),
            "x/y",
            big.clone(),
            fault(404, "not_found"),
        ));
        table.push((
            "B-1 method before size",
            "PATCH",
            path.clone(),
            "x/y",
            big.clone(),
            fault(405, "method_not_allowed"),
        ));
        table.push((
            "B-1 route before name",
            "POST",
            "/v0/topics/%FF/x".into(),
            "x/y",
            big.clone(),
            fault(404, "not_found"),
        ));
        table.push((
            "B-1 name before size",
            "POST",
            "/v0/topics/%FF".into(),
            "x/y",
            big.clone(),
            fault(400, "invalid_request"),
        ));
        table.push((
            "B-2 size before media type",
            "POST",
            path.clone(),
            "x/y",
            big.clone(),
            fault(413, "payload_too_large"),
        ));
        table.push((
            "B-1 media type before JSON",
            "POST",
            path.clone(),
            "x/y",
            "{".into(),
            fault(415, "unsupported_media_type"),
        ));
        table.push((
            "B-2 JSON before topic",
            "POST",
            format!("{path}/diff"),
            "application/json",
            "{".into(),
            fault(400, "invalid_request"),
        ));
        table.push((
            "B-2 JSON before topic",
            "POST",
            format!("{path}/delete"),
            "application/json",
            "{".into(),
            fault(400, "invalid_request"),
        ));
        table.push((
            "X-1 selector before topic",
            "POST",
            format!("{path}/delete"),
            "application/json",
            "{}".into(),
            fault(400, "invalid_request"),
        ));
        table.push((
            "J before W-11",
            "POST",
            path.clone(),
            "application/json",
            r#"{"records":[],"create":1}"#.into(),
            fault(400, "invalid_request"),
        ));
    }
    for (rule, method, target, media, body, (status, code)) in table {
        for framing in ["length", "chunked"] {
            let mut client = server.connect();
            let head = format!("{method} {target} HTTP/1.1\r\nContent-Type: {media}\r\n");
            match framing {
                "length" => client.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())),
                _ => {
                    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
                    client.send(crate::harness::chunked(body.as_bytes(), 50, "", ""));
                }
            }
            let answer = client.answer();
            answer.assert_fault(status, code, &Value::Null, &format!("{rule} {framing}"));
            match status {
                413 => client.assert_closed("B-3"),
                _ => client.assert_usable(rule),
            }
        }
    }
}

#[test]
fn a_message_names_what_is_wrong_and_what_would_be_right() {
    let mut client = Server::shared().connect();
    let [topic, _] = Server::shared().names("message");
    client.fresh(&topic, r#"{"cap_records":1,"discard":"reject"}"#);
    client.append_all(&topic, &["1"]);
    let one = |more: &str| format!("{{\"records\":[{{\"data\":1}}],{more}}}");
    let path = format!("/v0/topics/{topic}");
    let table: Vec<(&str, String, String, &[&str])> = vec![
        ("POST", path.clone(), "{\"records\":[{}]}".into(), &["records[0]", "`data`"]),
        ("POST", path.clone(), "{\"record\":[]}".into(), &["`records`", "missing"]),
        ("POST", path.clone(), one("\"create\":\"yes\""), &["`create`", "true or false", "byte 33"]),
        (
            "POST",
            path.clone(),
            one("\"config\":{\"cap_bytes\":\"1\"}"),
            &["`cap_bytes`", "an integer from 0"],
        ),
        ("POST", path.clone(), one("\"config\":[]"), &["`config`", "an object or null"]),
        ("POST", path.clone(), "{\"records\":[{\"data\":1}".into(), &["ends too early", "byte 22"]),
        ("POST", path.clone(), one("\"create\":true"), &["cap", "rejects"]),
        ("PUT", path.clone(), "{\"durability\":\"strong\"}".into(), &["`durability`", "\"fsync\""]),
        ("PUT", path.clone(), "{\"ttl_ms\":1,\"cap_records\":-1}".into(), &["`cap_records`", "-1"]),
        ("PUT", path.clone(), "{\"dead_letter\":\"a b\"}".into(), &["`dead_letter`", "\"a b\""]),
        ("PUT", "/v0/topics/-a".into(), "{}".into(), &["\"-a\"", "beginning with a letter or digit"]),
        ("POST", format!("{path}/diff"), "{\"limit\":-1}".into(), &["`limit`", "0 to 4294967295"]),
        ("POST", format!("{path}/delete"), "{}".into(), &["`before_seq`", "`match`"]),
        ("POST", format!("{path}/delete"), "{\"match\":[\"tag\"]}".into(), &["`match`", "[\"tag\",\"Eq\""]),
        ("PATCH", path.clone(), String::new(), &["GET, HEAD, PUT, POST, DELETE"]),
        ("DELETE", format!("{path}?if_empty=1"), String::new(), &["still holds 1 record"]),
    ];
    for (method, target, body, parts) in table {
        let error = client.call(method, &target, &body).member("error");
        let message = error["message"].as_str().expect("a message");
        for part in parts {
            assert!(message.contains(part), "{method} {target} {body}: {message}");
        }
    }
    client.send(format!("POST {path} HTTP/1.1\r\nContent-Type: application/json\r\n\r\n"));
    let message = client.answer().member("error")["message"].clone();
    assert!(message.as_str().is_some_and(|text| text.contains("empty")), "{message}");
}
