//! Frames of a WebSocket, as they come and as a client would make them.

use runelog_net::fuzzing::Frames;

use crate::input::{Input, cuts};

/// `mode and cuts, …`: bytes as they come, or a list of frames.
pub(crate) fn websocket(input: &[u8]) {
    let mut input = Input::new(input);
    let mode = input.byte();
    let seed = mode >> 2;
    match mode & 3 {
        0 => drop(alike(input.rest(), seed)),
        1 => {
            // Frames of any kind; some of them break a rule.
            let mut bytes = Vec::new();
            while !input.is_empty() {
                let (first, wide) = (input.byte(), input.byte());
                put_frame(first, wide, input.piece(), &mut bytes);
            }
            alike(&bytes, seed);
        }
        _ => by_the_book(input, seed),
    }
}

/// What a connection makes of bytes that come in these pieces: messages, and what it sends.
fn heard(bytes: &[u8], ends: &[usize]) -> (Vec<String>, Vec<u8>) {
    let (mut frames, mut out, mut messages, mut at) = (Frames::new(), Vec::new(), Vec::new(), 0);
    for end in ends {
        frames.push(&bytes[at..*end]);
        at = *end;
        while let Some(message) = frames.next(&mut out) {
            let is_end = message == "End";
            messages.push(message);
            if is_end {
                return (messages, out);
            }
        }
    }
    (messages, out)
}

fn alike(bytes: &[u8], seed: u8) -> (Vec<String>, Vec<u8>) {
    let whole = heard(bytes, &[bytes.len()]);
    let cut = heard(bytes, &cuts(bytes.len(), seed));
    assert_eq!(cut, whole, "WS-4: the cut decides");
    whole
}

/// A frame with its first byte as given, masked as a client masks. `wide` chooses the form of the length, and
/// leaves the mask away in one case of sixteen.
fn put_frame(first: u8, wide: u8, payload: &[u8], out: &mut Vec<u8>) {
    let masked = if wide & 0xf0 == 0xf0 { 0 } else { 0x80 };
    out.push(first);
    match (wide & 3, payload.len()) {
        (1, bytes) => {
            out.push(masked | 126);
            out.extend_from_slice(&(bytes as u16).to_be_bytes());
        }
        (2, bytes) => {
            out.push(masked | 127);
            out.extend_from_slice(&(bytes as u64).to_be_bytes());
        }
        (_, bytes @ ..126) => out.push(masked | bytes as u8),
        (_, bytes) => {
            out.push(masked | 126);
            out.extend_from_slice(&(bytes as u16).to_be_bytes());
        }
    }
    let mask = if masked == 0 { [0; 4] } else { [wide, 2, 3, 4] };
    if masked != 0 {
        out.extend_from_slice(&mask);
    }
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Messages in fragments with pings between them: all are heard, and every ping is answered.
fn by_the_book(mut input: Input<'_>, seed: u8) {
    let (mut bytes, mut expected, mut pings) = (Vec::new(), Vec::new(), Vec::new());
    while !input.is_empty() {
        let kind = input.byte();
        let text = String::from_utf8_lossy(input.piece()).into_owned();
        let parts = 1 + usize::from(kind >> 6);
        let is_text = kind & 1 == 0;
        let step = text.len().div_ceil(parts).max(1);
        // Cut anywhere, in the middle of a character too.
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(step).collect();
        let pieces = if pieces.is_empty() { vec![&b""[..]] } else { pieces };
        for (index, piece) in pieces.iter().enumerate() {
            let opcode = if index > 0 { 0 } else { 2 - u8::from(is_text) };
            let last = if index + 1 == pieces.len() { 0x80 } else { 0 };
            put_frame(last | opcode, kind & 0x0f, piece, &mut bytes);
            if kind & 2 != 0 {
                let ping = &piece[..piece.len().min(125)];
                put_frame(0x89, 0, ping, &mut bytes);
                pings.push(ping.to_vec());
            }
        }
        expected.push(if is_text { format!("Text {text}") } else { "Binary".into() });
    }
    let (heard, out) = alike(&bytes, seed);
    assert_eq!(heard, expected, "WS-4");
    let mut pongs = Vec::new();
    let mut rest = &out[..];
    while let [0x8a, bytes, more @ ..] = rest {
        let (payload, after) = more.split_at(usize::from(*bytes));
        pongs.push(payload.to_vec());
        rest = after;
    }
    assert!(rest.is_empty(), "only pongs are sent: {}", out.escape_ascii());
    assert_eq!(pongs, pings, "WS-6");
}
