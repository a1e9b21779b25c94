//! Keys, scopes and prefixes (§12), and where they stand in the order of checks (B-1).

use crate::harness::{Client, LONG_WAIT_MS, PATIENCE, Server, request_as};
use serde_json::{Value, json};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const KEYS: &str = " root , r:read,w:WRITE, d:del,a:admin,,rw:rw+d, again:r, team::team-|x:, team-r:r:team-|x:,\
                    team-w:w:team-|x:, team-wa:w+a:team-, again:w, all:r+w+d+a";

/// The server of the tests that leave each other's topics alone.
fn server() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| Server::start(&[("RUNELOG_API_KEYS", KEYS)]))
}

const WRITE: &str = r#"{"records":[{"data":1}]}"#;

fn unauthorized(answer: &crate::harness::Answer, what: &str) {
    answer.assert_fault(401, "unauthorized", &Value::Null, what);
    assert_eq!(answer.header("www-authenticate"), None, "A-13 {what}");
}

#[test]
fn a_request_needs_a_bearer_spelled_exactly() {
    let mut client = server().connect();
    let table = [
        // rule, headers, known
        ("A-2", "Authorization: Bearer root\r\n", true),
        ("A-2", "authorization:Bearer   root  \r\n", true),
        ("T-17", "Authorization: Bearer root\r\nAuthorization: Bearer no\r\n", true),
        ("T-17", "Authorization: Bearer no\r\nAuthorization: Bearer root\r\n", false),
        ("A-2", "", false),
        ("A-2", "Authorization: bearer root\r\n", false),
        ("A-2", "Authorization: BEARER root\r\n", false),
        ("A-2", "Authorization: root\r\n", false),
        ("A-2", "Authorization: Basic root\r\n", false),
        ("A-2", "Authorization: Bearer\r\n", false),
        ("A-2", "Authorization: Bearer Root\r\n", false),
        ("A-2", "Authorization: Bearer root root\r\n", false),
        ("A-2", "Authorization: Bearer w:WRITE\r\n", false),
    ];
    for (rule, headers, known) in table {
        client.send(format!("GET /v0/topics HTTP/1.1\r\n{headers}\r\n"));
        let answer = client.answer();
        match known {
            true => assert_eq!(answer.status, 200, "{rule} {headers:?}"),
            false => unauthorized(&answer, headers),
        }
    }
    // B-2, A-14: before anything is said of the path; and no other path takes a token.
    for target in [
        "/",
        "/v0",
        "/metrics",
        "/v0/topics?token=root",
        "/v0/topics/t?token=root",
        "/v0/metrics?token=root",
        "/v0/metrics",
        "/v0/ws",
        "/v0/ws?token=root",
        "/v0/routers/r",
        "/v0/topics/%FF",
    ] {
        unauthorized(&client.get(target), target);
    }
    unauthorized(&client.call("POST", "/v0/topics/t/work?token=root", "{}"), "A-14: a GET only");
    unauthorized(&client.call("POST", "/v0/watch?token=root", "{}"), "A-14");
    unauthorized(&client.call("BREW", "/v0/topics/t", ""), "B-2");
    // T-5: no body is asked for.
    client.send("PUT /v0/topics/t HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    unauthorized(&client.answer(), "T-5");
    client.assert_closed("T-5");
}

#[test]
fn tokens_are_honoured_on_streams_alone() {
    let mut client = server().connect();
    for (rule, target, headers, known) in [
        ("A-14", "/v0/topics/none/work?node=n&token=root", "", true),
        ("A-14", "/v0/topics/none/work?node=n&token=ro%6Ft", "", true),
        ("A-14", "/v0/topics/none/work?node=n&token=no", "", false),
        ("A-14", "/v0/topics/none/work?node=n&token=", "", false),
        ("A-14", "/v0/topics/none/work?node=n", "", false),
        ("A-14", "/v0/topics/none/work?node=n&token=no", "Authorization: Bearer root\r\n", true),
        ("A-14", "/v0/topics/none/work?node=n&token=root", "Authorization: Bearer no\r\n", false),
    ] {
        client.send(format!("GET {target} HTTP/1.1\r\n{headers}\r\n"));
        let answer = client.answer();
        match known {
            true => assert_eq!(answer.status, 404, "{rule} {target}"),
            false => unauthorized(&answer, target),
        }
    }
    // A-11: an unknown session is unknown to everyone.
    for headers in ["", "Authorization: Bearer r\r\n", "Authorization: Bearer no\r\n"] {
        client.send(format!("GET /v0/watch/wid_nobody HTTP/1.1\r\n{headers}\r\n"));
        client.answer().assert_fault(404, "not_found", &Value::Null, "A-11");
    }
}

#[test]
fn each_request_needs_its_scopes() {
    let server = server();
    let mut client = server.connect();
    // rule, method, path, body, scopes needed
    let table = [
        ("A-6", "GET", "/v0/topics", "", "r"),
        ("A-7", "HEAD", "/v0/topics", "", "r"),
        ("A-12", "GET", "/v0/metrics", "", "r"),
        ("A-6", "PUT", "/v0/topics/{t}", "{}", "a"),
        ("A-6", "POST", "/v0/topics/{t}", WRITE, "w"),
        ("A-6", "GET", "/v0/topics/{t}", "", "r"),
        ("A-7", "HEAD", "/v0/topics/{t}", "", "r"),
        ("A-6", "POST", "/v0/topics/{t}/diff", "{}", "r"),
        ("A-6", "POST", "/v0/topics/{t}/delete", r#"{"before_seq":1}"#, "d"),
        ("A-6", "POST", "/v0/topics/{t}/claim", r#"{"node":"n"}"#, "rw"),
        ("A-6", "POST", "/v0/topics/{t}/ack", r#"{"node":"n","seqs":[]}"#, "w"),
        ("A-6", "POST", "/v0/topics/{t}/nack", r#"{"node":"n","seqs":[]}"#, "w"),
        ("A-6", "POST", "/v0/topics/{t}/extend", r#"{"node":"n","seqs":[],"lease_ms":100}"#, "w"),
        ("A-6", "GET", "/v0/topics/{t}/work", "", "rw"),
        ("A-8", "BREW", "/v0/topics/{t}", "", "w"),
        ("A-8", "GET", "/v0/topics/{t}/diff", "", "w"),
        ("A-8", "GET", "/v0/topics/{t}/other", "", "w"),
        ("A-6", "DELETE", "/v0/topics/{t}", "", "d"),
        ("A-6", "GET", "/v0/routers", "", "r"),
        ("A-6", "GET", "/v0/routers/{t}", "", "r"),
        ("A-6", "PUT", "/v0/routers/{t}", "{}", "a"),
        ("A-6", "DELETE", "/v0/routers/{t}", "", "d"),
        ("A-8", "POST", "/v0/routers/{t}", "", "a"),
        ("A-6", "POST", "/v0/watch", "{}", "r"),
        ("A-8", "PUT", "/v0/watch", "", "r"),
        ("A-8", "POST", "/v0/topics", "", "r"),
        ("A-8", "GET", "/v0/other", "", ""),
    ];
    for topic in server.names("scopes") {
        for (rule, method, path, body, needed) in table {
            let path = path.replace("{t}", &topic);
            for key in ["r", "w", "d", "a", "rw", "again", "all", "root"] {
                let scopes = match key {
                    "rw" => "rwd",
                    "again" => "w", // A-4: the last of two entries
                    "all" | "root" => "rwda",
                    one => one,
                };
                let answer = client.call_as(key, method, &path, body);
                let what = format!("{rule} {key}: {method} {path}");
                if needed.chars().all(|scope| scopes.contains(scope)) {
                    assert!(!matches!(answer.status, 401 | 403), "{what}: {}", answer.status);
                } else if method == "HEAD" {
                    assert_eq!(answer.status, 403, "{what}");
                } else {
                    answer.assert_fault(403, "forbidden", &Value::Null, &what);
                }
            }
        }
    }
    // A-6: before the body is read, whatever it would be.
    client.send(
        "PUT /v0/topics/t HTTP/1.1\r\nAuthorization: Bearer r\r\nContent-Length: 99999999999\r\n\
         Expect: 100-continue\r\n\r\n",
    );
    client.answer().assert_fault(403, "forbidden", &Value::Null, "A-6 T-5");
    client.assert_closed("T-5");
}

#[test]
fn the_order_of_checks_begins_with_the_key() {
    let server = Server::start(&[("RUNELOG_API_KEYS", KEYS), ("RUNELOG_MAX_BODY_BYTES", "100")]);
    let big = format!("{{\"x\":\"{}\"}}", "x".repeat(200));
    // Each fails also in all that comes after.
    let table = [
        ("B-1", "no", "PUT", "/v0/topics/other%FF/x", &*big, 401),
        ("B-1", "team-r", "POST", "/v0/topics/other%FF/x", &big, 403),
        ("B-1", "team-w", "POST", "/v0/topics/other%FF/x", &big, 403),
        ("B-1", "team-w", "POST", "/v0/topics/team-%FF/x", &big, 404),
        ("B-1", "team-w", "BREW", "/v0/topics/team-%FF", &big, 405),
        ("B-1", "team-w", "POST", "/v0/topics/team-%FF", &big, 400),
        ("B-1", "team-w", "POST", "/v0/topics/team-!", &big, 413),
        ("B-1", "team-w", "POST", "/v0/topics/team-!", "{", 400),
        ("B-2", "root", "POST", "/v0/nowhere", &big, 404),
    ];
    for (rule, key, method, target, body, status) in table {
        let mut client = server.connect();
        let answer = client.call_as(key, method, target, body);
        assert_eq!(answer.status, status, "{rule} {key} {method} {target}: {}", answer.text());
    }
}

#[test]
fn a_restricted_key_sees_its_names_only() {
    let server = server();
    let mut client = server.connect();
    let forbidden = |answer: &crate::harness::Answer, what: &str| {
        answer.assert_fault(403, "forbidden", &Value::Null, what);
    };
    let theirs = server.names("team-own");
    let others = server.names("other-own");
    for topic in theirs.iter().chain(&others) {
        assert_eq!(client.call_as("root", "PUT", &format!("/v0/topics/{topic}"), "").status, 201);
    }
    for topic in &theirs {
        assert_eq!(client.call_as("team", "POST", &format!("/v0/topics/{topic}"), WRITE).status, 200, "A-10");
        assert_eq!(client.call_as("team-r", "GET", &format!("/v0/topics/{topic}"), "").status, 200, "A-10");
        // (a): the raw form is what counts.
        let escaped = topic.replacen('t', "%74", 1);
        forbidden(&client.call_as("team", "GET", &format!("/v0/topics/{escaped}"), ""), "A-10(a)");
        assert_eq!(client.call_as("root", "GET", &format!("/v0/topics/{escaped}"), "").status, 200, "T-22");
    }
    for (method, action) in [("GET", ""), ("PUT", ""), ("DELETE", ""), ("POST", ""), ("POST", "/diff")] {
        for name in [&*others[0], &*others[1], "absent", "Team-x", "team", "x"] {
            let answer = client.call_as("team", method, &format!("/v0/topics/{name}{action}"), "");
            forbidden(&answer, &format!("A-10 {method} {name}{action}"));
        }
    }
    forbidden(&client.call_as("team", "GET", "/v0/topics/other/unknown", ""), "B-1: before the 404");
    assert_eq!(client.call_as("team", "GET", "/v0/topics/x:unknown", "").status, 404, "A-10");
    assert_eq!(client.call_as("team", "GET", "/v0/topics/%78:unknown", "").status, 403, "A-10(a)");
}

/// Names of a list, page by page.
fn listed(client: &mut Client, key: &str, query: &str) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut cursor = String::new();
    loop {
        let answer = client.call_as(key, "GET", &format!("/v0/topics?{query}&cursor={cursor}"), "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        let name = |entry: &Value| entry["topic"].as_str().expect("a name").to_owned();
        pages.push(answer.member("topics").as_array().expect("a list").iter().map(name).collect());
        match answer.member("next_cursor").as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return pages,
        }
    }
}

#[test]
fn lists_show_and_count_permitted_names_only() {
    let keys = "root, b::b, bd::d|b|bb, none::zz";
    let server = Server::start(&[("RUNELOG_API_KEYS", keys)]);
    let mut client = server.connect();
    for topic in ["a", "b", "ba", "bb", "c", "d1", "d2", "e"] {
        client.call_as("root", "PUT", &format!("/v0/topics/{topic}"), "");
    }
    let table: [(&str, &str, &str, &[&[&str]]); 10] = [
        ("TL-1", "root", "", &[&["a", "b", "ba", "bb", "c", "d1", "d2", "e"]]),
        ("TL-4", "b", "", &[&["b", "ba", "bb"]]),
        ("TL-4", "b", "page_size=2", &[&["b", "ba"], &["bb"]]),
        ("TL-4 G-2", "b", "page_size=3", &[&["b", "ba", "bb"]]),
        ("TL-4 G-5", "b", "prefix=ba", &[&["ba"]]),
        ("TL-4", "b", "prefix=c", &[&[]]),
        ("TL-4", "bd", "page_size=2", &[&["b", "ba"], &["bb", "d1"], &["d2"]]),
        ("TL-4", "bd", "prefix=d&page_size=1", &[&["d1"], &["d2"]]),
        ("TL-4", "bd", "page_size=5", &[&["b", "ba", "bb", "d1", "d2"]]),
        ("TL-4", "none", "", &[&[]]),
    ];
    for (rule, key, query, pages) in table {
        assert_eq!(listed(&mut client, key, query), pages, "{rule} {key} {query}");
    }
}

#[test]
fn only_admin_configures_what_a_write_creates() {
    let server = server();
    let mut client = server.connect();
    let with = |config: &str, more: &str| format!(r#"{{"records":[{{"data":1}}],"config":{config}{more}}}"#);
    for (number, topic) in server.names("team-config").into_iter().enumerate() {
        let path = format!("/v0/topics/{topic}");
        let named = json!({"topic": topic});
        let refusals = [
            ("W-10", "w", with("{}", "")),
            ("W-10", "team-w", with(r#"{"ttl_ms":5}"#, "")),
            // Before what comes after it: W-11, W-13, W-14, W-20, W-22.
            ("W-10", "w", r#"{"records":[],"config":{}}"#.to_string()),
            ("W-10", "w", with("{}", &format!(r#","idempotency_key":"{}""#, "k".repeat(257)))),
            (
                "W-10",
                "w",
                format!(r#"{{"config":{{}},"records":[{{"data":1,"tag":"{}"}}]}}"#, "t".repeat(257)),
            ),
            ("W-10", "w", with("{}", r#","create":false"#)),
            ("W-10", "w", with(r#"{"dead_letter":"!"}"#, "")),
        ];
        for (rule, key, body) in refusals {
            let answer = client.call_as(key, "POST", &path, &body);
            answer.assert_fault(403, "forbidden", &named, &format!("{rule} {key} {body:.60}"));
        }
        // After the JSON (B-1), and not for a `config` of null (J-6).
        let answer = client.call_as("w", "POST", &path, &with(r#"{"ttl_ms":"5"}"#, ""));
        answer.assert_fault(400, "invalid_request", &Value::Null, "B-1");
        client.call_as("w", "POST", &path, r#"{"records":[]}"#).assert_fault(
            400,
            "invalid_request",
            &Value::Null,
            "W-11",
        );
        // A dead-letter topic outside the prefixes.
        let outside = with(r#"{"type":"queue","dead_letter":"other"}"#, "");
        let detail = json!({"topic": "other"});
        client.call_as("team-wa", "POST", &path, &outside).assert_fault(403, "forbidden", &detail, "A-10(f)");
        assert_eq!(client.call_as("root", "GET", &path, "").status, 404, "W-3: nothing was made");
        // A-9: without `config`, `write` alone creates; an existing topic ignores `config` (W-24).
        let answer = match number {
            0 => client.call_as("team-w", "POST", &path, &with("null", "")),
            _ => client.call_as("team-wa", "POST", &path, &with(r#"{"dead_letter":"team-dead"}"#, "")),
        };
        assert_eq!(answer.status, 201, "A-9 J-6 A-10(f): {}", answer.text());
        assert_eq!(client.call_as("w", "POST", &path, &with("{}", "")).status, 200, "W-10 W-24");
        assert_eq!(client.call_as("team-wa", "POST", &path, &outside).status, 200, "A-10(f) W-24");
        let answer = client.call_as("w", "POST", &path, r#"{"records":[],"config":{}}"#);
        answer.assert_fault(400, "invalid_request", &Value::Null, "W-10 W-11: it exists");
        // A PUT names its dead-letter topic in the body too.
        let answer = client.call_as("team", "PUT", &path, r#"{"dead_letter":"other"}"#);
        answer.assert_fault(403, "forbidden", &detail, "A-10(f)");
        assert_eq!(client.call_as("team", "PUT", &path, r#"{"dead_letter":"x:y"}"#).status, 200, "A-10(f)");
    }
}

#[test]
fn a_router_shows_where_all_of_it_is_permitted() {
    let server = server();
    let mut client = server.connect();
    let router = |source: &str, dest: &str| format!(r#"{{"source":"{source}","dest":"{dest}"}}"#);
    let refused = |answer: &crate::harness::Answer, what: &str| {
        answer.assert_fault(403, "forbidden", &Value::Null, what);
    };
    // The topics that the body names, before the router's own name (7.1).
    for (rule, name, source, dest, named) in [
        ("A-10(c)", "team-r", "outside", "team-d", Some("outside")),
        ("A-10(c)", "team-r", "team-s", "outside", Some("outside")),
        ("A-10(c)", "team-!", "outside", "team-d", Some("outside")),
        ("A-10(c)", "team-!", "team-s", "team-d", None),
    ] {
        let answer = client.call_as("team", "PUT", &format!("/v0/routers/{name}"), &router(source, dest));
        match named {
            Some(topic) => answer.assert_fault(403, "forbidden", &json!({"topic": topic}), rule),
            None => answer.assert_fault(400, "invalid_request", &Value::Null, "NM-2"),
        }
    }
    refused(&client.call_as("team", "PUT", "/v0/routers/r", &router("team-s", "team-d")), "A-10(a)");
    let put = |client: &mut Client, key: &str, name: &str, source: &str, dest: &str| {
        let answer = client.call_as(key, "PUT", &format!("/v0/routers/{name}"), &router(source, dest));
        assert_eq!(answer.status, 201, "R-1 {name}: {}", answer.text());
    };
    put(&mut client, "team", "team-whole", "team-s1", "team-d1");
    put(&mut client, "root", "team-from", "outside-s", "team-d2");
    put(&mut client, "root", "team-to", "team-s3", "outside-d");
    put(&mut client, "root", "named", "team-s4", "team-d4");
    let names = |client: &mut Client, key: &str| -> Vec<String> {
        let list = client.call_as(key, "GET", "/v0/routers", "").member("routers");
        let name = |entry: &Value| entry["router"].as_str().expect("a name").to_owned();
        list.as_array().expect("a list").iter().map(name).collect()
    };
    assert_eq!(names(&mut client, "team"), ["team-whole"], "R-26");
    assert_eq!(names(&mut client, "root"), ["named", "team-from", "team-to", "team-whole"], "R-26");
    for name in ["team-from", "team-to", "named"] {
        for method in ["GET", "DELETE"] {
            let answer = client.call_as("team", method, &format!("/v0/routers/{name}"), "");
            refused(&answer, &format!("A-10(d) {method} {name}"));
        }
        assert_eq!(client.call_as("root", "GET", &format!("/v0/routers/{name}"), "").status, 200, "A-10(d)");
    }
    assert_eq!(client.call_as("team", "GET", "/v0/routers/team-whole", "").status, 200, "A-10(d)");
    let gone = client.call_as("team", "DELETE", "/v0/routers/team-whole", "");
    assert_eq!((gone.status, gone.member("deleted")), (200, json!(true)), "A-10(d)");
    for name in ["team-from", "team-to", "named"] {
        client.call_as("root", "DELETE", &format!("/v0/routers/{name}"), "");
    }
}

type Socket = tungstenite::WebSocket<std::net::TcpStream>;

/// A WebSocket, or the status that was answered instead.
fn socket(server: &Server, target: &str, key: Option<&str>) -> Result<Socket, u16> {
    use tungstenite::client::IntoClientRequest;
    let stream = std::net::TcpStream::connect(server.addr).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut request = format!("ws://{}{target}", server.addr).into_client_request().expect("a request");
    if let Some(key) = key {
        let value = format!("Bearer {key}").parse().expect("a header");
        request.headers_mut().insert("authorization", value);
    }
    match tungstenite::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
            Err(answer.status().as_u16())
        }
        Err(error) => panic!("{error}"),
    }
}

/// Sends a command and waits for its answer, past what is delivered meanwhile.
fn command(socket: &mut Socket, text: &str) -> Value {
    socket.send(text.into()).expect("it takes commands");
    loop {
        let message = socket.read().expect("an answer").into_text().expect("text");
        let frame: Value = serde_json::from_str(&message).expect("JSON");
        if frame.get("request_id").is_some() {
            return frame;
        }
    }
}

#[test]
fn a_websocket_asks_for_scopes_by_command() {
    let server = server();
    for (rule, target, key) in
        [("A-15", "/v0/ws", None), ("A-15", "/v0/ws", Some("no")), ("A-14 WS-2", "/v0/ws?token=root", None)]
    {
        assert_eq!(socket(server, target, key).err(), Some(401), "{rule} {target} {key:?}");
    }
    let mut client = server.connect();
    for topic in server.names("team-ws") {
        assert_eq!(client.call_as("root", "PUT", &format!("/v0/topics/{topic}"), "").status, 201);
        let subscribe = format!(r#"{{"op":"subscribe","topic":"{topic}"}}"#);
        let both =
            format!(r#"{{"op":"subscribe","topic":"{topic}","topics":{{"other":{{}}}},"lenient":true}}"#);
        let publish =
            |more: &str| format!(r#"{{"op":"publish","topic":"{topic}","records":[{{"data":1}}]{more}}}"#);
        let elsewhere = r#"{"op":"publish","topic":"other-ws","records":[{"data":1}]}"#;
        let table = [
            // rule, key, command, op of the answer, its code if that is an error
            ("WS-22", "r", subscribe.clone(), "subscribed", None),
            ("WS-22", "w", subscribe.clone(), "error", Some("forbidden")),
            ("WS-22", "w", publish(""), "ack", None),
            ("WS-22", "r", publish(""), "error", Some("forbidden")),
            ("WS-22", "w", publish(r#","config":{}"#), "error", Some("forbidden")),
            ("WS-22 J-6", "w", publish(r#","config":null"#), "ack", None),
            ("WS-22", "all", publish(r#","config":{}"#), "ack", None),
            ("WS-22", "d", r#"{"op":"ping"}"#.into(), "pong", None),
            ("WS-22", "d", format!(r#"{{"op":"unsubscribe","topic":"{topic}"}}"#), "unsubscribed", None),
            ("A-10(e)", "team", subscribe.clone(), "subscribed", None),
            ("A-10(e)", "team", both, "error", Some("forbidden")),
            ("A-10(e)", "team", publish(""), "ack", None),
            ("A-10(e)", "team", elsewhere.into(), "error", Some("forbidden")),
        ];
        for (rule, key, text, op, code) in table {
            let mut socket = socket(server, "/v0/ws", Some(key)).expect("A-15: any key connects");
            let answer = command(&mut socket, &text);
            assert_eq!(answer["op"], op, "{rule} {key}: {text}: {answer}");
            assert_eq!(answer.get("code").and_then(Value::as_str), code, "{rule} {key}: {text}: {answer}");
            assert_eq!(answer.get("detail"), None, "WS-21");
            assert_eq!(command(&mut socket, r#"{"op":"ping"}"#)["op"], "pong", "WS-21: it stays open");
        }
    }
    assert_eq!(client.call_as("root", "GET", "/v0/topics/other-ws", "").status, 404, "A-10(e)");
}

#[test]
fn probes_are_open_unless_they_are_not() {
    let open = server();
    let closed = Server::start(&[("RUNELOG_API_KEYS", KEYS), ("RUNELOG_PROBE_AUTH", "1")]);
    for path in ["/v0/health", "/healthz", "/v0/ready", "/readyz"] {
        let mut client = open.connect();
        assert_eq!(client.get(path).status, 200, "A-12 {path}");
        assert_eq!(client.call_as("no", "GET", path, "").status, 200, "A-12: not looked at {path}");
        let mut client = closed.connect();
        unauthorized(&client.get(path), &format!("A-12 {path}"));
        unauthorized(&client.call_as("no", "GET", path, ""), &format!("A-12 {path}"));
        for key in ["root", "d", "team-w"] {
            assert_eq!(client.call_as(key, "GET", path, "").status, 200, "A-12: any key {path}");
        }
    }
}

#[test]
fn without_keys_nothing_is_looked_at() {
    let server = Server::start(&[("RUNELOG_API_KEYS", " , "), ("RUNELOG_PROBE_AUTH", "1")]);
    let mut client = server.connect();
    for target in ["/v0/topics", "/v0/health", "/v0/topics?token=x", "/v0/metrics"] {
        assert_eq!(client.get(target).status, 200, "A-1 {target}");
        assert_eq!(client.call_as("nobody", "GET", target, "").status, 200, "A-1 {target}");
    }
    let body = r#"{"records":[{"data":1}],"config":{}}"#;
    assert_eq!(client.call_as("nobody", "POST", "/v0/topics/t", body).status, 201, "A-1 W-10");
}

#[test]
fn refusals_are_counted_by_code() {
    let server = Server::start(&[("RUNELOG_API_KEYS", KEYS)]);
    let mut client = server.connect();
    unauthorized(&client.get("/v0/topics"), "A-2");
    client.call_as("w", "GET", "/v0/topics", "").assert_fault(403, "forbidden", &Value::Null, "A-6");
    client.call_as("w", "GET", "/v0/metrics", "").assert_fault(403, "forbidden", &Value::Null, "A-12");
    let metrics = client.call_as("r", "GET", "/v0/metrics", "");
    let count = |code: &str| -> u64 {
        let lines = metrics.text().lines().filter(|line| line.starts_with("runelog_refused_total{"));
        let of_code = lines.filter(|line| line.contains(&format!("code=\"{code}\"")));
        of_code
            .map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number"))
            .sum()
    };
    assert_eq!((count("unauthorized"), count("forbidden"), count("throttled")), (1, 2, 0), "H-5");
}

/// Asks until the answer has this status: what frees a place may take a moment.
fn until(status: u16, why: &str, mut ask: impl FnMut() -> u16) {
    let deadline = Instant::now() + PATIENCE;
    while ask() != status {
        assert!(Instant::now() < deadline, "{why}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A request of which the server has the head and waits for the body.
fn held_open(server: &Server, key: &str, path: &str) -> Client {
    let mut client = server.connect();
    client.send(format!(
        "POST {path} HTTP/1.1\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        WRITE.len()
    ));
    assert_eq!(client.answer().status, 100, "T-5");
    client
}

#[test]
fn a_key_has_so_many_requests_in_flight() {
    let settings = [("RUNELOG_API_KEYS", "k,l,m:w"), ("RUNELOG_MAX_INFLIGHT_PER_KEY", "2")];
    let server = Server::start(&settings);
    let ask = |key: &str| server.connect().call_as(key, "GET", "/v0/topics", "").status;
    let polling = || {
        let metrics = server.connect().call_as("l", "GET", "/v0/metrics", "");
        let lines = metrics.text().lines().filter(|line| line.starts_with("runelog_long_polls{"));
        lines.map(|line| line.rsplit(' ').next().and_then(|n| n.parse::<u16>().ok()).expect("a number")).sum()
    };
    for topic in server.names("flight") {
        let path = format!("/v0/topics/{topic}");
        let mut other = server.connect();
        assert_eq!(other.call_as("l", "PUT", &path, "").status, 201);
        let polls = |from: u64| {
            let body = format!(r#"{{"wait_ms":{LONG_WAIT_MS},"from_seq":{from}}}"#);
            let polls = [0, 1].map(|_| {
                let mut client = server.connect();
                client.send(request_as("k", "POST", &format!("{path}/diff"), &body));
                client
            });
            until(2, "both wait", polling);
            polls
        };
        let mut waiting = polls(0);
        assert_eq!(ask("k"), 429, "L-6");
        let answer = server.connect().call_as("k", "POST", "/nowhere", "");
        answer.assert_fault(429, "throttled", &Value::Null, "L-6 B-1: before the 404");
        assert_eq!(ask("l"), 200, "L-6: another key");
        let status_of = |key: &str, path: &str| server.connect().call_as(key, "GET", path, "").status;
        assert_eq!(status_of("k", "/v0/health"), 200, "L-6: probes do not count");
        assert_eq!(status_of("k", "/v0/watch/wid_nobody"), 404, "L-6: a watch's stream does not count");
        assert_eq!(status_of("no", "/v0/topics"), 401, "B-1");

        // Both answered.
        assert_eq!(other.call_as("l", "POST", &path, WRITE).status, 200);
        for client in &mut waiting {
            assert_eq!(client.answer().status, 200, "D-21");
        }
        assert_eq!(ask("k"), 200, "L-6: answered");

        // Clients that go away: while they wait, and while they send a body.
        for client in polls(1) {
            client.abort();
        }
        until(200, "L-6: their clients are gone", || ask("k"));
        let mut sending = [0, 1].map(|_| held_open(&server, "k", &path));
        assert_eq!(ask("k"), 429, "L-6: two send");
        sending[0].send(WRITE);
        assert_eq!(sending[0].answer().status, 200);
        assert_eq!(ask("k"), 200, "L-6: one is done");
        drop(sending);

        // A scope that is missing is told after the cap.
        assert_eq!(ask("m"), 403, "A-6");
        let sending = [0, 1].map(|_| held_open(&server, "m", &path));
        assert_eq!(ask("m"), 429, "L-6 B-1: before the 403");
        drop(sending);
        until(403, "L-6: gone", || ask("m"));
        // The owner heard nothing of it, and its waits ended with the append.
        until(0, "their waits end", polling);
    }
}
