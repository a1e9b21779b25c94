//! One table a theme; each row names the rule it shows.

use super::*;

fn parse(input: &[u8]) -> Parsed<'_> {
    parse_head(input, &Limits::default())
}

#[track_caller]
fn head(input: &[u8]) -> Head<'_> {
    match parse(input) {
        Parsed::Head(head) => head,
        other => panic!("{} is {other:?}", input.escape_ascii()),
    }
}

fn bad(framing: Framing) -> Parsed<'static> {
    Parsed::Bad(framing)
}

const MALFORMED: Parsed<'static> = Parsed::Bad(Framing::Malformed);

/// A GET with the given field lines.
fn with_fields(fields: &str) -> Vec<u8> {
    format!("GET /x HTTP/1.1\r\n{fields}\r\n").into_bytes()
}

#[test]
fn a_usual_request_says_all_there_is_to_know() {
    let input = b"POST /v0/topics/t?return_seqs=0 HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n\
        authorization: Bearer k\r\nIDEMPOTENCY-KEY: k 1\r\nAccept: */*\r\nContent-Length: 2\r\n\r\n{}GET";
    let expected = Head {
        method: Method::Post,
        target: b"/v0/topics/t?return_seqs=0",
        path: b"/v0/topics/t",
        query: b"return_seqs=0",
        version: Version::V11,
        keep_alive: true,
        body: BodyFraming::Length(2),
        expect_continue: false,
        content_type: Some(b"application/json"),
        authorization: Some(b"Bearer k"),
        idempotency_key: Some("k 1"),
        accept: Some(b"*/*"),
        last_event_id: None,
        head_bytes: input.len() - 5,
    };
    assert_eq!(head(input), expected);
}

#[test]
fn methods_are_case_sensitive() {
    let table = [
        ("T-13", "GET", Method::Get),
        ("T-13", "HEAD", Method::Head),
        ("T-14", "PUT", Method::Put),
        ("T-14", "POST", Method::Post),
        ("T-14", "DELETE", Method::Delete),
        ("T-14", "OPTIONS", Method::Options),
        ("T-14", "PATCH", Method::Patch),
        ("T-14", "TRACE", Method::Trace),
        ("T-14", "CONNECT", Method::Connect),
        ("T-14", "get", Method::Other),
        ("T-14", "Post", Method::Other),
        ("T-14", "GETS", Method::Other),
        ("T-14", "X!#$%&'*+-.^_`|~9", Method::Other),
    ];
    for (rule, token, method) in table {
        let input = format!("{token} /x HTTP/1.1\r\n\r\n");
        assert_eq!(head(input.as_bytes()).method, method, "{rule} {token}");
    }
}

#[test]
fn targets_come_in_every_form_and_keep_their_bytes() {
    let table: [(&str, &str, &str, &str); 22] = [
        // rule, target, path, query
        ("T-3", "/", "/", ""),
        ("T-3", "http://h:1/v0/topics?a=1", "/v0/topics", "a=1"),
        ("T-3", "HTTPS://u:p@h/v0/topics", "/v0/topics", ""),
        ("T-3", "x+y-1.2://h//a", "//a", ""),
        ("T-3", "http://[::1]:80/a", "/a", ""),
        ("T-3", "http://h", "", ""),
        ("T-3", "http://h?a", "", "a"),
        ("T-21", "*", "*", ""),
        ("T-21", "h:80", "", ""),
        ("T-20", "/a//b/../c/", "/a//b/../c/", ""),
        ("T-20", "/http://h/a", "/http://h/a", ""),
        ("T-22", "/a%2Fb%zz%", "/a%2Fb%zz%", ""),
        ("T-22", "/gr\u{fc}n\u{1f600}?\u{fc}", "/gr\u{fc}n\u{1f600}", "\u{fc}"),
        ("T-22", "/a#b", "/a", ""),
        ("T-22", "/a#b?c", "/a", ""),
        ("T-22", "/a?b#c?d<>", "/a", "b"),
        ("T-22", "/a#", "/a", ""),
        ("T-22", "/a?", "/a", ""),
        ("T-22", "/a?b?c", "/a", "b?c"),
        ("T-22", "/a\"{}\\^|~!$&'()*+,;=:@[]", "/a\"{}\\^|~!$&'()*+,;=:@[]", ""),
        ("T-22", "/a?{}\\^|`~[]", "/a", "{}\\^|`~[]"),
        ("T-24", "/a-%3Eb", "/a-%3Eb", ""),
    ];
    for (rule, target, path, query) in table {
        let input = format!("GET {target} HTTP/1.1\r\n\r\n");
        let head = head(input.as_bytes());
        assert_eq!(head.target, target.as_bytes(), "{rule} {target}");
        assert_eq!(head.path, path.as_bytes(), "{rule} {target}");
        assert_eq!(head.query, query.as_bytes(), "{rule} {target}");
    }
}

#[test]
fn versions_and_hosts_are_taken_as_they_come() {
    let table: [(&str, &[u8], Version, bool); 13] = [
        // rule, request, version, keep-alive
        ("T-3", b"GET / HTTP/1.0\r\n\r\n", Version::V10, false),
        ("T-3", b"GET / HTTP/1.1\r\n\r\n", Version::V11, true),
        ("T-3", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Version::V11, true),
        ("T-3", b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Version::V10, true),
        ("T-3", b"GET / HTTP/1.0\r\nconnection: x, Keep-Alive\r\n\r\n", Version::V10, true),
        ("T-3", b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", Version::V10, false),
        ("T-3", b"GET / HTTP/1.1\r\nConnection: CLOSE\r\n\r\n", Version::V11, false),
        ("T-3", b"GET / HTTP/1.1\r\nConnection: te ,\tclose\r\n\r\n", Version::V11, false),
        ("T-3", b"GET / HTTP/1.1\r\nConnection: x\r\nConnection: close\r\n\r\n", Version::V11, false),
        ("T-3", b"GET / HTTP/1.1\r\nConnection: closed\r\n\r\n", Version::V11, true),
        ("T-2", b"GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n", Version::V11, true),
        ("T-4 empty lines", b"\r\n\n\r\nGET / HTTP/1.1\r\n\r\n", Version::V11, true),
        ("T-4 bare LF", b"GET / HTTP/1.1\nHost: a\n\n", Version::V11, true),
    ];
    for (rule, input, version, keep_alive) in table {
        let head = head(input);
        let shown = input.escape_ascii();
        assert_eq!((head.version, head.keep_alive), (version, keep_alive), "{rule} {shown}");
        assert_eq!(head.head_bytes, input.len(), "{rule} {shown}");
    }
}

#[test]
fn a_body_is_framed_by_chunks_then_by_length() {
    let table = [
        // rule, fields, framing
        ("T-6", "", Some(BodyFraming::None)),
        ("T-6", "Content-Length: 0\r\n", Some(BodyFraming::Length(0))),
        ("T-6", "content-LENGTH:24\r\n", Some(BodyFraming::Length(24))),
        ("T-6", "Content-Length: 18446744073709551615\r\n", Some(BodyFraming::Length(u64::MAX))),
        ("T-6", "Content-Length: 24\r\nContent-Length: 24\r\n", Some(BodyFraming::Length(24))),
        ("T-6", "Content-Length: 24\r\nContent-Length: 25\r\n", None),
        ("T-6", "Content-Length: 24,24\r\n", None),
        ("T-6", "Content-Length: 24, 24\r\n", None),
        ("T-6", "Transfer-Encoding: chunked\r\n", Some(BodyFraming::Chunked)),
        ("T-6", "transfer-encoding: CHUNKED\r\n", Some(BodyFraming::Chunked)),
        ("T-6", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", Some(BodyFraming::Chunked)),
        ("T-6", "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", Some(BodyFraming::Chunked)),
        ("T-6", "Transfer-Encoding: gzip,\t Chunked\r\n", Some(BodyFraming::Chunked)),
        ("T-6", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", Some(BodyFraming::Chunked)),
        ("T-6", "Transfer-Encoding: chunked, gzip\r\n", None),
        ("T-6", "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n", None),
        ("T-6", "Transfer-Encoding: chunked,\r\n", None),
        ("T-7", "Transfer-Encoding: gzip\r\n", None),
        ("T-7", "Transfer-Encoding: identity\r\n", None),
        ("T-7", "Transfer-Encoding: xchunked\r\n", None),
        ("T-7", "Transfer-Encoding: \"chunked\"\r\n", None),
        ("T-7", "Transfer-Encoding:\r\n", None),
        ("T-7", "Transfer-Encoding: gzip\r\nContent-Length: 3\r\n", None),
        ("T-7", "Content-Length: -1\r\n", None),
        ("T-7", "Content-Length: +1\r\n", None),
        ("T-7", "Content-Length:\r\n", None),
        ("T-7", "Content-Length: 0x10\r\n", None),
        ("T-7", "Content-Length: 1.0\r\n", None),
        ("T-7", "Content-Length: 1 2\r\n", None),
        ("T-7", "Content-Length: ten\r\n", None),
        ("T-7", "Content-Length: 18446744073709551616\r\n", None),
        ("T-7", "Transfer-Encoding: chunked\r\nContent-Length: x\r\n", None),
    ];
    for (rule, fields, framing) in table {
        let input = with_fields(fields);
        match framing {
            Some(framing) => assert_eq!(head(&input).body, framing, "{rule} {fields}"),
            None => assert_eq!(parse(&input), MALFORMED, "{rule} {fields}"),
        }
    }
    let old = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(parse(old), MALFORMED, "T-7: HTTP/1.0 knows no codings");
}

#[test]
fn what_is_no_request_is_refused() {
    let table: [(&str, &[u8]); 41] = [
        ("T-7 line", b"GARBAGE\r\n\r\n"),
        ("T-7 line", b"GET\r\n\r\n"),
        ("T-7 line", b"GET /\r\n\r\n"),
        ("T-7 line", b" GET / HTTP/1.1\r\n\r\n"),
        ("T-7 line", b"GET  / HTTP/1.1\r\n\r\n"),
        ("T-7 line", b"GET /  HTTP/1.1\r\n\r\n"),
        ("T-7 line", b"GET / HTTP/1.1 \r\n\r\n"),
        ("T-7 line", b"GET\t/ HTTP/1.1\r\n\r\n"),
        ("T-7 line", b"G(T / HTTP/1.1\r\n\r\n"),
        ("T-7 line", b"\rGET / HTTP/1.1\r\n\r\n"),
        ("T-7 TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"),
        ("T-7 version", b"GET / HTTP/2.0\r\n\r\n"),
        ("T-7 version", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("T-7 version", b"GET / HTTP/1.2\r\n\r\n"),
        ("T-7 version", b"GET / HTTP/0.9\r\n\r\n"),
        ("T-7 version", b"GET / http/1.1\r\n\r\n"),
        ("T-7 version", b"GET / HTTP/1.11\r\n\r\n"),
        ("T-7 version", b"GET / HTTP/1\r\n\r\n"),
        ("T-7 target", b"GET /a b HTTP/1.1\r\n\r\n"),
        ("T-24 target", b"GET /a->b HTTP/1.1\r\n\r\n"),
        ("T-7 target", b"GET /a<b HTTP/1.1\r\n\r\n"),
        ("T-7 target", b"GET /a`b HTTP/1.1\r\n\r\n"),
        ("T-7 target", b"GET /a?b>c HTTP/1.1\r\n\r\n"),
        ("T-7 target", b"GET /a?b\"c HTTP/1.1\r\n\r\n"),
        ("T-7 target", b"GET /a\x00b HTTP/1.1\r\n\r\n"),
        ("T-7 target", b"GET /a\x7fb HTTP/1.1\r\n\r\n"),
        ("T-7 target", b"GET /a\tb HTTP/1.1\r\n\r\n"),
        ("T-7 target", b"GET /a\xff HTTP/1.1\r\n\r\n"),
        ("T-7 target", b"GET v0/health HTTP/1.1\r\n\r\n"),
        ("T-7 target", b"GET ?a HTTP/1.1\r\n\r\n"),
        ("T-7 target", b"GET http:///a HTTP/1.1\r\n\r\n"),
        ("T-7 target", b"GET #a HTTP/1.1\r\n\r\n"),
        ("T-7 folded", b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n"),
        ("T-7 folded", b"GET / HTTP/1.1\r\nA: b\r\n\tc: d\r\n\r\n"),
        ("T-7 folded", b"GET / HTTP/1.1\r\n A: b\r\n\r\n"),
        ("T-7 colon", b"GET / HTTP/1.1\r\nA : b\r\n\r\n"),
        ("T-7 colon", b"GET / HTTP/1.1\r\nA\t: b\r\n\r\n"),
        ("T-7 colon", b"GET / HTTP/1.1\r\nAb\r\n\r\n"),
        ("T-7 name", b"GET / HTTP/1.1\r\n: b\r\n\r\n"),
        ("T-7 bare CR", b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n"),
        ("T-7 bare CR", b"GET / HTTP/1.1\r\nA: b\r\n\rX"),
    ];
    for (rule, input) in table {
        assert_eq!(parse(input), MALFORMED, "{rule} {}", input.escape_ascii());
    }
}

/// `httparse` compares many bytes at a time where the processor can: each byte at each place.
#[test]
fn each_byte_is_legal_or_not_wherever_it_stands() {
    for (byte, pad) in (0..=255u8).flat_map(|byte| (0..40).map(move |pad| (byte, pad))) {
        let around = |before: &[u8], behind: &[u8]| {
            let (left, right) = (vec![b'a'; pad], vec![b'a'; 40 - pad]);
            [before, &left, &[byte], &right, behind].concat()
        };
        let in_value = around(b"GET / HTTP/1.1\r\nA: a", b"z\r\nB: c\r\n\r\n");
        let legal = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        // A bare LF ends the line, and what follows is then no field.
        assert_eq!(matches!(parse(&in_value), Parsed::Head(_)), legal, "T-7 value {byte:#x} {pad}");
        let in_name = around(b"GET / HTTP/1.1\r\nA", b": c\r\n\r\n");
        let legal = is_token(byte) || byte == b':';
        assert_eq!(matches!(parse(&in_name), Parsed::Head(_)), legal, "T-7 name {byte:#x} {pad}");
        let in_target = around(b"GET /", b" HTTP/1.1\r\n\r\n");
        let legal = byte > b' ' && byte < 0x7f && !b"<>`".contains(&byte);
        assert_eq!(matches!(parse(&in_target), Parsed::Head(_)), legal, "T-7 target {byte:#x} {pad}");
    }
}

#[test]
fn too_long_a_target_and_too_many_fields_have_their_own_status() {
    assert_eq!((TARGET_BYTES_MAX, HEADERS_MAX), (65_534, 100), "T-8: clients see these");
    let target = |bytes: usize| format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(bytes - 1)).into_bytes();
    let growing = |bytes: usize| format!("GET /{}", "x".repeat(bytes - 1)).into_bytes();
    let fields = |count: usize| with_fields(&"A: b\r\n".repeat(count));
    let field = |bytes: usize| with_fields(&format!("A: {}\r\n", "b".repeat(bytes)));
    let with_body = [field(9), vec![b'x'; HEAD_BYTES_MAX]].concat();
    let whole = |input: &[u8]| input.len();
    let overhead = field(0).len();
    let long_bad_method = [b"G(T ".to_vec(), vec![b'x'; TARGET_BYTES_MAX + 1]].concat();
    let long_bad_byte = [b"GET /".to_vec(), vec![1], vec![b'x'; TARGET_BYTES_MAX + 1]].concat();
    let long_and_many =
        [target(TARGET_BYTES_MAX + 1), b"A: b\r\n".repeat(HEADERS_MAX + 1), b"\r\n".to_vec()].concat();
    let table = [
        // rule, input, head bytes or framing
        ("T-8", target(TARGET_BYTES_MAX), Ok(target(TARGET_BYTES_MAX).len())),
        ("T-8", target(TARGET_BYTES_MAX + 1), Err(Framing::TargetTooLong)),
        ("T-8", growing(TARGET_BYTES_MAX + 1), Err(Framing::TargetTooLong)),
        ("T-8 method first", long_bad_method, Err(Framing::Malformed)),
        ("T-8 byte first", long_bad_byte, Err(Framing::Malformed)),
        ("T-8", fields(HEADERS_MAX), Ok(whole(&fields(HEADERS_MAX)))),
        ("T-8", fields(HEADERS_MAX + 1), Err(Framing::HeadTooLarge)),
        ("T-8 target first", long_and_many, Err(Framing::TargetTooLong)),
        ("T-8", field(HEAD_BYTES_MAX - overhead), Ok(HEAD_BYTES_MAX)),
        ("T-8", field(HEAD_BYTES_MAX - overhead + 1), Err(Framing::HeadTooLarge)),
        ("T-8", vec![b'\n'; HEAD_BYTES_MAX], Err(Framing::HeadTooLarge)),
        ("T-8 body apart", with_body, Ok(field(9).len())),
    ];
    for (rule, input, outcome) in table {
        let shown = input[..input.len().min(24)].escape_ascii();
        match outcome {
            Ok(head_bytes) => assert_eq!(head(&input).head_bytes, head_bytes, "{rule} {shown}"),
            Err(framing) => assert_eq!(parse(&input), bad(framing), "{rule} {shown}"),
        }
    }
    assert_eq!(parse(&growing(TARGET_BYTES_MAX)), Parsed::NeedMore, "T-8");
    assert_eq!(parse(&field(HEAD_BYTES_MAX)[..HEAD_BYTES_MAX - 1]), Parsed::NeedMore, "T-8");
    let statuses = [Framing::Malformed, Framing::TargetTooLong, Framing::HeadTooLarge].map(Framing::status);
    assert_eq!(statuses, [400, 414, 431], "T-7 T-8");
}

#[test]
fn the_first_of_repeated_fields_counts() {
    let fields = "Content-Type: text/plain\r\ncontent-type: application/json\r\nAuthorization: a\r\n\
        Authorization: b\r\nIdempotency-Key: c\r\nIdempotency-Key: d\r\nAccept: e\r\nAccept: f\r\n";
    let input = with_fields(fields);
    let first = head(&input);
    assert_eq!(first.content_type, Some(&b"text/plain"[..]), "T-17");
    assert_eq!(first.authorization, Some(&b"a"[..]), "T-17");
    assert_eq!(first.idempotency_key, Some("c"), "T-17");
    assert_eq!(first.accept, Some(&b"e"[..]), "T-17");
    let keys: [(&str, &[u8], Option<&str>); 6] = [
        ("U-1", b"Idempotency-Key: a-1 ~\r\n", Some("a-1 ~")),
        ("U-2", b"Idempotency-Key:\r\n", Some("")),
        ("U-2", b"Idempotency-Key: \t \r\n", Some("")),
        ("U-1", b"Idempotency-Key: gr\xc3\xbcn\r\n", None),
        ("U-1 T-17", b"Idempotency-Key: \xff\r\nIdempotency-Key: b\r\n", None),
        ("U-1", b"X: y\r\n", None),
    ];
    for (rule, field, key) in keys {
        let input = [b"GET / HTTP/1.1\r\n", field, b"\r\n"].concat();
        assert_eq!(head(&input).idempotency_key, key, "{rule}");
    }
}

#[test]
fn a_client_that_waits_for_100_says_so() {
    let table = [
        ("T-5", "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", true),
        ("T-5", "POST / HTTP/1.1\r\nexpect: 100-Continue\r\nTransfer-Encoding: chunked\r\n\r\n", true),
        ("T-5 no body", "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n", false),
        ("T-5 no body", "POST / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n", false),
        ("T-5 1.0", "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", false),
        ("T-5", "POST / HTTP/1.1\r\nExpect: something\r\nContent-Length: 2\r\n\r\n", false),
    ];
    for (rule, input, expected) in table {
        assert_eq!(head(input.as_bytes()).expect_continue, expected, "{rule} {input}");
    }
}

#[test]
fn json_is_announced_by_a_prefix() {
    let table: [(&str, Option<&[u8]>, bool); 11] = [
        ("M-1", Some(b"application/json"), true),
        ("M-1", Some(b"application/json; charset=utf-8"), true),
        ("M-1", Some(b" \tapplication/json"), true),
        ("M-1 quirk", Some(b"application/jsonx"), true),
        ("M-1", Some(b"APPLICATION/JSON"), false),
        ("M-1", Some(b"Application/json"), false),
        ("M-1", Some(b"text/json"), false),
        ("M-1", Some(b"application/vnd.x+json"), false),
        ("M-1", Some(b"text/plain, application/json"), false),
        ("M-1", Some(b""), false),
        ("M-1", None, false),
    ];
    for (rule, value, expected) in table {
        assert_eq!(is_json_media(value), expected, "{rule}");
    }
}

/// Counts the attempts a client pays for that sends one byte at a time.
#[test]
fn a_dribbling_client_costs_linear_work() {
    let line_feeds = vec![b'\n'; HEAD_BYTES_MAX - 1];
    let long_target = [b"GET /".to_vec(), vec![b'x'; TARGET_BYTES_MAX - 5]].concat();
    let long_field = [b"GET / HTTP/1.1\r\nA: ".to_vec(), vec![b'x'; HEAD_BYTES_MAX / 2]].concat();
    for input in [line_feeds, long_target, long_field] {
        let mut scanner = HeadScanner::new();
        let mut tried_bytes = 0;
        for end in 1..input.len() {
            let before = scanner.tried;
            assert_eq!(scanner.parse(&input[..end], &Limits::default()), Parsed::NeedMore);
            if scanner.tried != before {
                tried_bytes += scanner.tried - scanner.start;
            }
        }
        let bound = ALWAYS_TRY_BYTES * ALWAYS_TRY_BYTES + 4 * input.len();
        assert!(tried_bytes <= bound, "{tried_bytes} of {}", input.len());
    }
}
