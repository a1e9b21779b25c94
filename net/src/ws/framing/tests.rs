//! Frames are written out by hand here: what reads them must not be checked by what it stands on.

use super::*;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CONTINUATION: u8 = 0;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// A masked frame as clients send it.
fn frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(fin, opcode, payload.len(), true);
    let mask = [0x12, 0x34, 0x56, 0x78];
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
    bytes
}

fn header(fin: bool, opcode: u8, bytes: usize, masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut header = vec![opcode | if fin { 0x80 } else { 0 }];
    match bytes {
        0..126 => header.push(mask | bytes as u8),
        126..65_536 => {
            header.push(mask | 126);
            header.extend_from_slice(&(bytes as u16).to_be_bytes());
        }
        _ => {
            header.push(mask | 127);
            header.extend_from_slice(&(bytes as u64).to_be_bytes());
        }
    }
    header
}

/// The frames of the server: opcode and payload, whole and unmasked.
fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        assert_eq!(first & 0x80, 0x80, "final");
        assert_eq!(second & 0x80, 0, "not masked");
        let (length, rest) = match second {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize, &rest[8..]),
            short => (usize::from(*short), rest),
        };
        frames.push((first & 0x0f, rest[..length].to_vec()));
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty());
    frames
}

/// All that the bytes come to, in pieces of any size.
fn run(bytes: &[u8], piece_bytes: usize) -> (Vec<Incoming>, Vec<(u8, Vec<u8>)>) {
    let mut framing = Framing::new();
    let (mut incoming, mut out) = (Vec::new(), Vec::new());
    'pieces: for piece in bytes.chunks(piece_bytes) {
        framing.push(piece);
        while let Some(one) = framing.next(&mut out) {
            let end = one == Incoming::End;
            incoming.push(one);
            if end {
                break 'pieces;
            }
        }
    }
    (incoming, frames(&out))
}

fn text(text: &'static str) -> Incoming {
    Incoming::Text(Utf8Bytes::from_static(text))
}

fn close(code: u16) -> (u8, Vec<u8>) {
    (CLOSE, code.to_be_bytes().to_vec())
}

#[test]
fn messages_come_out_whole_however_they_are_cut() {
    let bytes = [
        frame(true, TEXT, b"{\"op\":\"ping\"}"),
        frame(false, TEXT, b"gr\xc3"),
        frame(true, PING, b"between"),
        frame(false, CONTINUATION, b""),
        frame(true, CONTINUATION, b"\xbcn"),
        frame(true, PONG, b"unasked"),
        frame(true, BINARY, b"\x00\xff"),
        frame(true, TEXT, b""),
    ]
    .concat();
    for piece_bytes in [1, 2, 3, 7, 1000] {
        let (incoming, sent) = run(&bytes, piece_bytes);
        assert_eq!(
            incoming,
            [text("{\"op\":\"ping\"}"), text("gr\u{fc}n"), Incoming::Binary, text("")],
            "WS-4"
        );
        assert_eq!(sent, [(PONG, b"between".to_vec())], "WS-6 {piece_bytes}");
    }
}

#[test]
fn violations_close_the_connection_with_their_code() {
    let mut unmasked = header(true, TEXT, 2, false);
    unmasked.extend_from_slice(b"{}");
    let table = [
        ("WS-4 unmasked", unmasked, 1002),
        ("WS-4 invalid UTF-8", frame(true, TEXT, b"\xff"), 1007),
        ("WS-4 UTF-8 that breaks off", frame(true, TEXT, b"\xc3"), 1007),
        (
            "WS-4 UTF-8 across frames",
            [frame(false, TEXT, b"\xc3"), frame(true, CONTINUATION, b"\x28")].concat(),
            1007,
        ),
        ("WS-4 reserved bits", [&[0xc1, 0x80][..], &[0; 4]].concat(), 1002),
        ("WS-4 reserved opcode", frame(true, 3, b""), 1002),
        ("WS-4 reserved control", frame(true, 11, b""), 1002),
        ("WS-4 nothing to continue", frame(true, CONTINUATION, b"x"), 1002),
        ("WS-4 two at once", [frame(false, TEXT, b"a"), frame(true, TEXT, b"b")].concat(), 1002),
        ("WS-4 fragmented ping", frame(false, PING, b""), 1002),
        ("WS-4 long ping", frame(true, PING, &[b'x'; 126]), 1002),
        ("WS-5 frame", [&header(true, TEXT, WS_FRAME_BYTES_MAX + 1, true)[..], &[0; 4]].concat(), 1009),
    ];
    for (rule, bytes, code) in table {
        for piece_bytes in [1, 1000] {
            let (incoming, sent) = run(&bytes, piece_bytes);
            assert_eq!(incoming, [Incoming::End], "{rule}");
            assert_eq!(sent, [close(code)], "{rule}");
        }
    }
}

#[test]
fn the_largest_frame_and_message_are_taken_and_no_larger_one() {
    let frame_bytes = WS_FRAME_BYTES_MAX;
    let data = vec![b'x'; frame_bytes];
    let (incoming, _) = run(&frame(true, TEXT, &data), 32 << 10);
    let [Incoming::Text(whole)] = &incoming[..] else { panic!("WS-5") };
    assert_eq!(whole.len(), frame_bytes, "WS-5");

    let count = WS_MESSAGE_BYTES_MAX / frame_bytes;
    let mut bytes = frame(false, TEXT, &data);
    (1..count).for_each(|_| bytes.extend(frame(false, CONTINUATION, &data)));
    let (incoming, sent) = run(&[&bytes[..], &frame(true, CONTINUATION, b"")].concat(), 32 << 10);
    let [Incoming::Text(whole)] = &incoming[..] else { panic!("WS-5 {sent:?}") };
    assert_eq!(whole.len(), WS_MESSAGE_BYTES_MAX, "WS-5");
    let (incoming, sent) = run(&[&bytes[..], &frame(true, CONTINUATION, b"y")].concat(), 32 << 10);
    assert_eq!((&incoming[..], &sent[..]), (&[Incoming::End][..], &[close(1009)][..]), "WS-5");
}

#[test]
fn a_close_is_answered_and_nothing_behind_it_is_read() {
    let table: [(&[u8], Vec<u8>); 3] = [
        (b"", vec![]),
        (&[3, 232, b'b', b'y', b'e'], vec![3, 232, b'b', b'y', b'e']),
        (&[3, 237], [&1002u16.to_be_bytes()[..], b"Protocol violation"].concat()), // 1005 is never sent
    ];
    for (payload, reply) in table {
        let bytes = [frame(true, CLOSE, payload), frame(true, TEXT, b"late")].concat();
        let (incoming, sent) = run(&bytes, 1000);
        assert_eq!(incoming, [Incoming::End], "WS-6 {payload:?}");
        assert_eq!(sent, [(CLOSE, reply)], "WS-6 {payload:?}");
    }
}

#[test]
fn text_is_sent_in_one_frame_behind_what_the_output_holds() {
    let mut out = Vec::new();
    let long = vec![b'x'; 70_000];
    push_text(&[b"{", b"}"], &mut out);
    push_text(&[&long[..200], b"y"], &mut out);
    push_text(&[&long], &mut out);
    let sent = frames(&out);
    assert_eq!(sent[0], (TEXT, b"{}".to_vec()));
    assert_eq!(sent[1], (TEXT, [&long[..200], b"y"].concat()));
    assert_eq!(sent[2], (TEXT, long));
}

#[test]
fn nothing_is_sent_behind_a_close() {
    let mut framing = Framing::new();
    let mut out = Vec::new();
    framing.close_away(&mut out);
    framing.close_away(&mut out);
    assert!(!framing.is_open());
    assert_eq!(frames(&out), [close(1001)]);
    // The client may not have seen it yet.
    framing.push(&frame(true, TEXT, b"still"));
    assert_eq!(framing.next(&mut out), Some(text("still")), "WS-36");
    framing.push(&frame(true, CLOSE, &[3, 233]));
    assert_eq!(framing.next(&mut out), Some(Incoming::End));
    assert_eq!(frames(&out), [close(1001)], "both have said it");
}

#[test]
fn a_frame_is_taken_when_it_is_whole_and_announced_lengths_reserve_nothing() {
    let mut framing = Framing::new();
    let mut out = Vec::new();
    let long = frame(true, TEXT, &vec![b'x'; WS_FRAME_BYTES_MAX]);
    framing.push(&frame(true, TEXT, b"one"));
    framing.push(&long[..50]);
    assert!(framing.kept_bytes() > 0, "a whole one waits");
    assert_eq!(framing.next(&mut out), Some(text("one")));
    assert_eq!(framing.next(&mut out), None);
    assert_eq!((framing.kept_bytes(), framing.partial_bytes()), (0, 50));
    assert!(framing.socket.get_ref().input.capacity() < 1000, "WS-5");
    framing.push(&long[50..long.len() - 1]);
    assert_eq!(framing.next(&mut out), None);
    assert_eq!((framing.kept_bytes(), framing.partial_bytes()), (0, long.len() - 1), "it is not held back");
    framing.push(&long[long.len() - 1..]);
    assert_eq!(framing.kept_bytes(), long.len());
    assert!(matches!(framing.next(&mut out), Some(Incoming::Text(_))));
    assert_eq!((framing.kept_bytes(), framing.partial_bytes()), (0, 0));
    assert!(framing.socket.get_ref().input.capacity() <= WS_READ_BUFFER_BYTES, "its memory is given back");
}
