//! WebSockets at their edges (§9): handshake, frames, keys, caps, slow readers, stops.

use crate::harness::{Client, Server};
use crate::sse::{gauge, until};
use crate::ws::Ws;
use serde_json::{Value, json};

#[test]
fn keys_and_scopes_are_judged_per_command() {
    let keys = "all,reader:r:ws,writer:w:ws,admin:w+a:ws,none:d";
    let server = Server::start(&[("RUNELOG_API_KEYS", keys)]);
    let [first, second] = server.names("ws");
    for key in [None, Some("wrong"), Some("")] {
        assert_eq!(server.websocket_with(key).err(), Some(401), "WS-2 A-15 {key:?}");
    }
    let mut client = server.connect();
    client.send(upgrade("/v0/ws?token=all", ""));
    client.answer().assert_fault(401, "unauthorized", &Value::Null, "WS-2 A-14");
    let mut all = server.websocket_with(Some("all")).expect("A-15");
    for topic in [&first, &second] {
        let publish = json!({"op": "publish", "topic": topic, "records": [{"data": 1}]});
        assert_eq!(all.ask(&publish)["op"], "ack");
    }
    let one = |op: &str| json!({"op": op, "topic": first, "records": [{"data": 1}]});
    let with_config = json!({"op": "publish", "topic": second, "records": [{"data": 1}], "config": {}});
    let other_name = json!({"op": "publish", "topic": "other", "records": [{"data": 1}]});
    let two_names = json!({"op": "subscribe", "topics": {(&first): {}, "other": {}}, "lenient": true});
    let table = [
        ("reader", one("subscribe"), "subscribed"),
        ("reader", one("publish"), "forbidden"),
        ("reader", two_names.clone(), "forbidden"),
        ("reader", json!({"op": "unsubscribe", "topic": "other"}), "forbidden"),
        ("reader", json!({"op": "unsubscribe", "topic": first}), "unsubscribed"),
        ("reader", json!({"op": "ping"}), "pong"),
        ("writer", one("publish"), "ack"),
        ("writer", one("subscribe"), "forbidden"),
        ("writer", with_config.clone(), "forbidden"),
        ("writer", other_name.clone(), "forbidden"),
        ("admin", with_config, "ack"),
        ("none", one("subscribe"), "forbidden"),
        ("none", one("publish"), "forbidden"),
        ("none", json!({"op": "ping"}), "pong"),
        ("all", two_names, "subscribed"),
        ("all", other_name, "ack"),
    ];
    for (key, command, expected) in table {
        let reply = server.websocket_with(Some(key)).expect("A-15").ask(&command);
        let shown = if reply["op"] == "error" { &reply["code"] } else { &reply["op"] };
        assert_eq!(shown, expected, "WS-22 {key} {command}");
    }
}

/// A handshake as usual clients send it, with these headers too.
pub(crate) fn upgrade(target: &str, headers: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    )
}

/// A connection after its handshake, for frames as bytes.
fn opened(server: &Server) -> Client {
    let mut client = server.connect();
    client.send(upgrade("/v0/ws", ""));
    let answer = client.answer_head();
    assert_eq!(answer.status, 101, "WS-1");
    // The answer to the key above, from RFC 6455.
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "WS-1");
    assert!(answer.header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case("websocket")), "WS-1");
    client
}

const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// A frame of a client: first byte (FIN, reserved bits, opcode), masked payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = head_of(first, payload.len() as u64);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn head_of(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..126 => bytes.push(0x80 | length as u8),
        126..65536 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}

/// The next frame of the server: its first byte and payload; none at the end.
fn received(client: &mut Client, input: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    loop {
        if input.len() >= 2 {
            assert_eq!(input[1] & 0x80, 0, "WS-4: frames of a server are not masked");
            let (at, length) = match input[1] {
                126 if input.len() >= 4 => (4, usize::from(u16::from_be_bytes([input[2], input[3]]))),
                short @ 0..126 => (2, usize::from(short)),
                _ => (usize::MAX, 0),
            };
            if at != usize::MAX && input.len() >= at + length {
                let payload = input[at..at + length].to_vec();
                let first = input[0];
                input.drain(..at + length);
                return Some((first, payload));
            }
        }
        let more = client.more();
        if more.is_empty() {
            return None;
        }
        input.extend(more);
    }
}

/// The server says at most goodbye, and closes.
fn assert_closes(client: &mut Client, why: &str) {
    let mut input = Vec::new();
    if let Some((first, _)) = received(client, &mut input) {
        assert_eq!(first, 0x88, "{why}: a frame, and not a close");
        assert_eq!(received(client, &mut input), None, "{why}");
    }
    assert!(input.is_empty(), "{why}");
}

const PING: &[u8] = br#"{"op":"ping","request_id":"raw"}"#;

fn assert_pong(client: &mut Client, why: &str) {
    let (first, payload) = received(client, &mut Vec::new()).unwrap_or_else(|| panic!("{why}: closed"));
    let shown: Value = serde_json::from_slice(&payload).expect("JSON");
    assert_eq!((first, shown), (0x81, json!({"op": "pong", "request_id": "raw"})), "{why}");
}

#[test]
fn a_handshake_is_whole_or_refused() {
    let server = Server::shared();
    let whole = upgrade("/v0/ws", "");
    for (rule, from, to) in [
        ("WS-1", "Upgrade: websocket\r\n", ""),
        ("WS-1", "Upgrade: websocket\r\n", "Upgrade: h2c\r\n"),
        ("WS-1", "Connection: Upgrade\r\n", ""),
        ("WS-1", "Connection: Upgrade\r\n", "Connection: keep-alive\r\n"),
        ("WS-1", "Sec-WebSocket-Version: 13\r\n", ""),
        ("WS-1", "Sec-WebSocket-Version: 13\r\n", "Sec-WebSocket-Version: 8\r\n"),
        ("WS-1", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
    ] {
        let mut client = server.connect();
        client.send(whole.replace(from, to));
        client.answer().assert_fault(
            400,
            "invalid_request",
            &Value::Null,
            &format!("{rule} E-12 {from:?} {to:?}"),
        );
        client.assert_usable("WS-1: refused like any request");
    }
    // Lists, cases, protocols that nobody speaks here.
    for (from, to) in [
        ("Connection: Upgrade", "connection:keep-alive, upgrade"),
        ("Upgrade: websocket", "UPGRADE: WebSocket"),
        ("Host: t\r\n", "Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"),
        ("/v0/ws", "/v0/ws?x=y"),
    ] {
        let mut client = server.connect();
        client.send(whole.replace(from, to));
        let answer = client.answer_head();
        assert_eq!(answer.status, 101, "WS-1 {to}");
        for absent in ["sec-websocket-protocol", "sec-websocket-extensions", "content-length"] {
            assert_eq!(answer.header(absent), None, "WS-1 T-11 {to}");
        }
        client.send(frame(0x81, PING));
        assert_pong(&mut client, "WS-1");
    }
    let mut client = server.connect();
    client.get("/v0/ws").assert_fault(400, "invalid_request", &Value::Null, "WS-1");
    let answer = client.call("POST", "/v0/ws", "");
    answer.assert_fault(405, "method_not_allowed", &Value::Null, "T-14");
    // Frames that came with the handshake are not lost.
    client.send([upgrade("/v0/ws", "").as_bytes(), &frame(0x81, PING)[..], &frame(0x81, PING)[..]].concat());
    assert_eq!(client.answer_head().status, 101, "WS-1 T-4");
    let mut input = Vec::new();
    for _ in 0..2 {
        assert_eq!(received(&mut client, &mut input).map(|(first, _)| first), Some(0x81), "WS-7");
    }
}

#[test]
fn messages_may_come_in_fragments_and_in_any_pieces() {
    let server = Server::shared();
    let mut client = opened(server);
    for cut in 0..=PING.len() {
        let (one, other) = PING.split_at(cut);
        // A ping in between is answered in between (WS-6).
        let bytes = [frame(0x01, one), frame(0x89, b"mid"), frame(0x00, b""), frame(0x80, other)].concat();
        client.send(&bytes[..cut]);
        client.send(&bytes[cut..]);
        let mut input = Vec::new();
        assert_eq!(received(&mut client, &mut input), Some((0x8a, b"mid".to_vec())), "WS-6");
        let (first, payload) = received(&mut client, &mut input).expect("WS-4");
        assert_eq!(
            (first, serde_json::from_slice(&payload).ok()),
            (0x81, Some(json!({"op": "pong", "request_id": "raw"}))),
            "WS-4"
        );
    }
    for payload in [&b""[..], b"x", &[0xff; 125]] {
        client.send(frame(0x89, payload));
        assert_eq!(received(&mut client, &mut Vec::new()), Some((0x8a, payload.to_vec())), "WS-6");
    }
    client.send(frame(0x8a, b"unasked"));
    for first in [0x82, 0x02] {
        client.send(frame(first, b"\x00\xff"));
        if first == 0x02 {
            client.send(frame(0x80, b"\xff"));
        }
        let (kind, payload) = received(&mut client, &mut Vec::new()).expect("WS-4: stays open");
        let shown: Value = serde_json::from_slice(&payload).expect("JSON");
        assert_eq!(
            (kind, &shown["op"], &shown["code"]),
            (0x81, &json!("error"), &json!("unsupported_message")),
            "WS-4"
        );
        assert!(shown.get("request_id").is_none() && shown["message"].is_string(), "§9: {shown}");
    }
    client.send(frame(0x81, PING));
    assert_pong(&mut client, "WS-4");
    // Sizes whose lengths are written in ways of their own.
    for bytes in [125, 126, 127, 65_535, 65_536, 1 << 20] {
        let pad = "p".repeat(bytes - br#"{"op":"ping","request_id":"raw","":""}"#.len());
        client.send(frame(0x81, format!(r#"{{"op":"ping","request_id":"raw","":"{pad}"}}"#).as_bytes()));
        assert_pong(&mut client, "WS-5");
    }
    client.send(frame(0x88, &[0x03, 0xe8, b'b', b'y', b'e']));
    let (first, payload) = received(&mut client, &mut Vec::new()).expect("WS-6: a close for a close");
    assert_eq!((first, payload.get(..2)), (0x88, Some(&[0x03, 0xe8][..])), "WS-6");
    client.assert_closed("WS-6");
}

#[test]
fn violations_close_the_connection() {
    let server = Server::shared();
    let mut unmasked = frame(0x81, b"");
    unmasked.truncate(2);
    unmasked[1] = 0;
    let text = |bytes: &[u8]| frame(0x81, bytes);
    let table: Vec<(&str, Vec<u8>)> = vec![
        ("WS-4 unmasked", unmasked),
        ("WS-4 not UTF-8", text(b"\xff")),
        ("WS-4 not UTF-8", text(b"{\"op\":\"ping\",\"request_id\":\"\xed\xa0\x80\"}")),
        ("WS-4 UTF-8 cut off", text(b"\"\xc3")),
        ("WS-4 not UTF-8 over fragments", [frame(0x01, b"\"\xc3"), frame(0x80, b"\x28\"")].concat()),
        ("WS-4 reserved bit", frame(0xc1, PING)),
        ("WS-4 reserved opcode", frame(0x83, b"")),
        ("WS-4 reserved control opcode", frame(0x8b, b"")),
        ("WS-4 a continuation of nothing", frame(0x80, PING)),
        ("WS-4 a message in a message", [frame(0x01, b"{"), frame(0x81, b"}")].concat()),
        ("WS-4 a fragmented ping", frame(0x09, b"")),
        ("WS-4 a long ping", frame(0x89, &[0; 126])),
        ("WS-4 a close of one byte", frame(0x88, b"\x03")),
        ("WS-4 a close with a code that is none", frame(0x88, &[0x03, 0xed])),
        ("WS-5 frame", head_of(0x81, (16 << 20) + 1)),
        ("WS-5 frame", head_of(0x81, 1 << 40)),
        ("WS-5 frame", head_of(0x82, u64::MAX)),
    ];
    for (rule, bytes) in table {
        let mut client = opened(server);
        client.send(frame(0x81, PING));
        assert_pong(&mut client, rule);
        client.send(bytes);
        assert_closes(&mut client, rule);
    }
}

#[test]
fn messages_have_a_largest_size() {
    let server = Server::shared();
    // One byte of JSON behind sixteen megabytes of white space; then 64 in four frames, and one byte more.
    let mut client = opened(server);
    let blank = vec![b' '; 16 << 20];
    let mut whole = blank.clone();
    whole[(16 << 20) - PING.len()..].copy_from_slice(PING);
    client.send(frame(0x81, &whole));
    assert_pong(&mut client, "WS-5: a frame of 16 MiB");
    let (begun, more, last) = (frame(0x01, &blank), frame(0x00, &blank), frame(0x80, &whole));
    for bytes in [&begun, &more, &more, &last] {
        client.send(bytes);
    }
    assert_pong(&mut client, "WS-5: a message of 64 MiB");
    for bytes in [&begun, &more, &more, &more] {
        client.send(bytes);
    }
    client.send(frame(0x80, b" "));
    assert_closes(&mut client, "WS-5: a byte more");
}

#[test]
fn sockets_are_counted_and_capped_as_streams() {
    let server = Server::start(&[("RUNELOG_MAX_SSE_CONNECTIONS", "3")]);
    let mut client = server.connect();
    client.put("t", "");
    let url = server.session(&json!({"topics": {"t": {}}}));
    for _ in 0..3 {
        let sockets = [server.websocket(), server.websocket()];
        let sse = server.stream(&url);
        assert_eq!(gauge(&mut client, "sse_connections"), 3, "WS-3 §11");
        assert_eq!(server.websocket_with(None).err(), Some(429), "WS-2 L-4");
        let refused = server.stream_with(&url, "").err().expect("L-4");
        refused.assert_fault(429, "throttled", &Value::Null, "L-4");
        drop((sockets, sse));
        until("WS-3: given back", || gauge(&mut client, "sse_connections") == 0);
    }
}

#[test]
fn a_socket_that_is_not_read_stalls_itself_only() {
    let server = Server::shared();
    let pad = "x".repeat(100_000);
    for topic in server.names("wsslow") {
        let mut client = server.connect();
        client.fresh(&topic, r#"{"durability":"memory"}"#);
        let (mut slow, mut quick) = (server.websocket(), server.websocket());
        for ws in [&mut slow, &mut quick] {
            ws.ask(&json!({"op": "subscribe", "topic": topic}));
            ws.expect("caught_up", &topic);
        }
        let read = |ws: &mut Ws, through: u64| {
            let mut next = 0;
            while next < through {
                let frame = ws.delivery();
                assert_ne!(frame["op"], "tombstone", "WS-9 V-16");
                for seq in frame["records"].as_array().into_iter().flatten() {
                    next += 1;
                    assert_eq!(seq["$seq"], next, "WS-9");
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| read(&mut quick, 400));
            for _ in 0..400 {
                client.append_all(&topic, &[&format!("\"{pad}\"")]);
            }
        });
        slow.send(&json!({"op": "ping", "request_id": "late"}));
        read(&mut slow, 400);
        assert_eq!(slow.reply()["request_id"], "late", "WS-9");
        client.drop_topic(&topic);
    }
}

#[test]
fn a_stop_is_told_to_every_socket() {
    let server = Server::start(&[]);
    let mut client: Client = server.connect();
    client.put("t", "");
    let mut sockets: Vec<Ws> = (0..4).map(|_| server.websocket()).collect();
    sockets[0].ask(&json!({"op": "subscribe", "topic": "t"}));
    for ws in &mut sockets {
        assert_eq!(ws.ask(&json!({"op": "ping"}))["op"], "pong");
    }
    server.terminate();
    for mut ws in sockets {
        let frame = ws.reply();
        assert_eq!(
            (&frame["op"], &frame["code"]),
            (&json!("error"), &json!("server_shutting_down")),
            "WS-36"
        );
        assert!(frame.get("request_id").is_none(), "§9");
    }
}
