//! The cursor of a list: the name of the last entry of a page, opaque to clients (G-3).
//!   byte 0   VERSION
//!   bytes 1… the name, UTF-8, at least one byte
//! as base64 with the URL-safe alphabet and no padding, so that it needs no escape in a query. The
//! position is a name, not an index: deleting the entry leaves the cursor good.

const VERSION: u8 = 1;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A cursor this server never gave out: `400 invalid_request` (G-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadCursor;

/// Appends the cursor that stands behind `name`.
pub fn encode(name: &str, out: &mut Vec<u8>) {
    let mut bytes = std::iter::once(VERSION).chain(name.bytes());
    while let Some(first) = bytes.next() {
        let (second, third) = (bytes.next(), bytes.next());
        let group =
            u32::from(first) << 16 | u32::from(second.unwrap_or(0)) << 8 | u32::from(third.unwrap_or(0));
        let digit_count = 2 + usize::from(second.is_some()) + usize::from(third.is_some());
        for index in 0..digit_count {
            out.push(ALPHABET[(group >> (18 - 6 * index) & 63) as usize]);
        }
    }
}

/// The name a cursor stands behind, written to `scratch`; nothing for the empty cursor, which means
/// the start (G-4).
pub fn decode<'s>(cursor: &str, scratch: &'s mut Vec<u8>) -> Result<Option<&'s str>, BadCursor> {
    if cursor.is_empty() {
        return Ok(None);
    }
    scratch.clear();
    for digits in cursor.as_bytes().chunks(4) {
        decode_group(digits, scratch)?;
    }
    match scratch.as_slice() {
        [VERSION, name @ ..] if !name.is_empty() => {
            std::str::from_utf8(name).map(Some).map_err(|_| BadCursor)
        }
        _ => Err(BadCursor),
    }
}

fn decode_group(digits: &[u8], out: &mut Vec<u8>) -> Result<(), BadCursor> {
    let mut group = 0u32;
    for (index, &digit) in digits.iter().enumerate() {
        group |= value(digit)? << (18 - 6 * index);
    }
    let bytes = match digits.len() {
        4 => 3,
        3 => 2,
        2 => 1,
        _ => return Err(BadCursor),
    };
    let all = [(group >> 16) as u8, (group >> 8) as u8, group as u8];
    // One name has one cursor: bits beyond the last byte must be zero.
    if all[bytes..].iter().any(|&byte| byte != 0) {
        return Err(BadCursor);
    }
    out.extend_from_slice(&all[..bytes]);
    Ok(())
}

fn value(digit: u8) -> Result<u32, BadCursor> {
    match digit {
        b'A'..=b'Z' => Ok(u32::from(digit - b'A')),
        b'a'..=b'z' => Ok(u32::from(digit - b'a') + 26),
        b'0'..=b'9' => Ok(u32::from(digit - b'0') + 52),
        b'-' => Ok(62),
        b'_' => Ok(63),
        _ => Err(BadCursor),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_gives_its_name_back_and_needs_no_escape() {
        let longest = "x".repeat(255);
        for name in ["a", "ab", "abc", "orders:eu.west-1_x", "gr\u{fc}n/>?~~~", longest.as_str()] {
            let (mut cursor, mut scratch) = (Vec::new(), Vec::new());
            encode(name, &mut cursor);
            let cursor = String::from_utf8(cursor).unwrap();
            assert!(cursor.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "G-3 {cursor}");
            assert_eq!(decode(&cursor, &mut scratch), Ok(Some(name)), "G-3");
        }
        let mut golden = Vec::new();
        encode("ledger", &mut golden);
        assert_eq!(golden, b"AWxlZGdlcg"); // clients may hold one across an update
    }

    #[test]
    fn a_foreign_cursor_is_refused_and_the_empty_one_means_the_start() {
        let table = [
            ("G-4", "", Ok(None)),
            ("G-4 alphabet", "!!!", Err(BadCursor)),
            ("G-4 alphabet", "not a cursor", Err(BadCursor)),
            ("G-4 alphabet", "\u{fc}", Err(BadCursor)),
            ("G-4 version", "not-a-cursor", Err(BadCursor)),
            ("G-4 version", "AmxlZGdlcg", Err(BadCursor)),
            ("G-4 length", "AWxlZ", Err(BadCursor)),
            ("G-4 length", "A", Err(BadCursor)),
            ("G-4 no name", "AQ", Err(BadCursor)),
            ("G-4 spare bits", "AWxlZGdlch", Err(BadCursor)),
            ("G-4 padding", "AWxlZGdlcg==", Err(BadCursor)),
            ("G-4 UTF-8", "Af8", Err(BadCursor)),
        ];
        for (rule, cursor, outcome) in table {
            assert_eq!(decode(cursor, &mut Vec::new()), outcome, "{rule} {cursor}");
        }
    }
}
