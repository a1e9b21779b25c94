//! The cursor of a list: the name of the last entry of a page, opaque to clients (G-3).
//!   byte 0   VERSION
//!   bytes 1… the name, UTF-8, at least one byte
//! as base64 with the URL-safe alphabet and no padding, so that it needs no escape in a query. The
//! position is a name, not an index: deleting the entry leaves the cursor good.

use super::base64;

const VERSION: u8 = 1;
/// A cursor this server never gave out: `400 invalid_request` (G-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadCursor;

/// Appends the cursor that stands behind `name`.
pub fn encode(name: &str, out: &mut Vec<u8>) {
    let bytes: Vec<u8> = std::iter::once(VERSION).chain(name.bytes()).collect();
    base64::encode(&bytes, out);
}

/// The name a cursor stands behind, written to `scratch`; nothing for the empty cursor, which means
/// the start (G-4).
pub fn decode<'s>(cursor: &str, scratch: &'s mut Vec<u8>) -> Result<Option<&'s str>, BadCursor> {
    if cursor.is_empty() {
        return Ok(None);
    }
    scratch.clear();
    base64::decode(cursor.as_bytes(), scratch).ok_or(BadCursor)?;
    match scratch.as_slice() {
        [VERSION, name @ ..] if !name.is_empty() => {
            std::str::from_utf8(name).map(Some).map_err(|_| BadCursor)
        }
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
