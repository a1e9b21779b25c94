//! Percent escapes, as path segments (T-22) and queries (K-1) have them.
//! Always true: a `%` not followed by two hex digits stays what it is.

use memchr::memchr;

/// Whether `text` holds anything [`decode_into`] would change.
pub fn is_escaped(text: &[u8]) -> bool {
    memchr(b'%', text).is_some()
}

/// Appends `text` with its escapes decoded; `+` becomes a space when `plus_is_space` (K-1).
pub fn decode_into(text: &[u8], plus_is_space: bool, out: &mut Vec<u8>) {
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let (byte, taken) = match (first, tail) {
            (b'%', [high, low, ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => (b'%', 1),
            },
            (b'+', _) if plus_is_space => (b' ', 1),
            (byte, _) => (*byte, 1),
        };
        out.push(byte);
        rest = &rest[taken..];
    }
}

fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_decode_and_what_is_none_stays() {
        let table: [(&str, &[u8], bool, &[u8]); 10] = [
            // rule, text, plus is space, decoded
            ("T-22", b"a%2Fb", false, b"a/b"),
            ("T-22", b"a-%3Eb", false, b"a->b"),
            ("T-22", b"%3e%3E", false, b">>"),
            ("T-22", b"100%", false, b"100%"),
            ("T-22", b"%4", false, b"%4"),
            ("T-22", b"%zz%4g%%41", false, b"%zz%4g%A"),
            ("T-22", b"a+b", false, b"a+b"),
            ("T-22", "gr\u{fc}n".as_bytes(), false, "gr\u{fc}n".as_bytes()),
            ("T-22 once only", b"%252F", false, b"%2F"),
            ("K-1", b"a+b%20c%2B", true, b"a b c+"),
        ];
        for (rule, text, plus_is_space, decoded) in table {
            let mut out = Vec::new();
            decode_into(text, plus_is_space, &mut out);
            assert_eq!(out, decoded, "{rule}");
        }
    }
}
