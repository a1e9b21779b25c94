//! The request that asks for a WebSocket, and the answer that grants it (WS-1).

use crate::http::request::HEADERS_MAX;
use crate::http::response::DATE_BYTES;
use http::{HeaderName, HeaderValue, Request};
use tungstenite::handshake::server::create_response;

/// Writes the `101` to a request whose head, parsed before, is in `head`; or says what is wrong with it.
pub(crate) fn accept(head: &[u8], out: &mut Vec<u8>, date: &[u8; DATE_BYTES]) -> Result<(), String> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    if !matches!(parsed.parse(head), Ok(httparse::Status::Complete(_))) || parsed.version != Some(1) {
        return Err("a WebSocket needs HTTP/1.1".into());
    }
    let mut request = Request::new(());
    *request.method_mut() =
        parsed.method.and_then(|method| method.parse().ok()).ok_or("the method is none for a WebSocket")?;
    for field in parsed.headers.iter() {
        // What `http` does not take is not among the fields that count.
        if let (Ok(name), Ok(value)) =
            (field.name.parse::<HeaderName>(), HeaderValue::from_bytes(field.value))
        {
            request.headers_mut().append(name, value);
        }
    }
    let response = create_response(&request).map_err(|error| error.to_string())?;
    out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\n");
    for (name, value) in response.headers() {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    for part in [&b"date: "[..], date, b"\r\n\r\n"] {
        out.extend_from_slice(part);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET /v0/ws HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

    #[test]
    fn a_good_handshake_is_granted_and_nothing_is_negotiated() {
        let mut out = Vec::new();
        accept(GOOD.as_bytes(), &mut out, b"Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "WS-1 {text}");
        // The example of RFC 6455, 1.3.
        for line in [
            "connection: Upgrade",
            "upgrade: websocket",
            "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            "date: Sun, 06 Nov 1994 08:49:37 GMT",
        ] {
            assert!(text.contains(&format!("\r\n{line}\r\n")), "WS-1 T-12 {line} {text}");
        }
        assert!(text.ends_with("\r\n\r\n"));
        assert!(!text.contains("protocol:") && !text.contains("extensions"), "WS-1");
    }

    #[test]
    fn whatever_is_missing_refuses_it() {
        let table = [
            ("method", "GET /", "HEAD /"),
            ("method", "GET /", "POST /"),
            ("HTTP/1.0", "HTTP/1.1", "HTTP/1.0"),
            ("connection", "keep-alive, Upgrade", "keep-alive"),
            ("upgrade", "Upgrade: websocket", "Upgrade: h2c"),
            ("upgrade", "Upgrade: websocket", "X: y"),
            ("version", "Version: 13", "Version: 8"),
            ("version", "Sec-WebSocket-Version: 13\r\n", ""),
            ("key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
            ("key", "dGhlIHNhbXBsZSBub25jZQ==", "short"),
            ("key", "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=!"),
        ];
        for (what, from, to) in table {
            let head = GOOD.replace(from, to);
            assert_ne!(head, GOOD, "{what}");
            let mut out = Vec::new();
            let refused = accept(head.as_bytes(), &mut out, b"Sun, 06 Nov 1994 08:49:37 GMT");
            assert!(!refused.expect_err(what).is_empty(), "WS-1 E-3 {what} {to}");
            assert!(out.is_empty(), "{what}");
        }
    }
}
