//! Base64 with the URL-safe alphabet and no padding, for what clients hand back in headers and queries:
//! cursors (G-3), ids of event streams (V-50), session names (S-2).

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Characters of the encoding of so many bytes.
pub fn encoded_bytes(bytes: usize) -> usize {
    (bytes * 4).div_ceil(3)
}

/// Appends the encoding of `bytes`.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(encoded_bytes(bytes.len()));
    let mut groups = bytes.chunks_exact(3);
    for group in &mut groups {
        let word = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        let digit = |index: u32| ALPHABET[(word >> (18 - 6 * index) & 63) as usize];
        out.extend_from_slice(&[digit(0), digit(1), digit(2), digit(3)]);
    }
    let rest = groups.remainder();
    if let Some(first) = rest.first() {
        let word = u32::from(*first) << 16 | u32::from(rest.get(1).copied().unwrap_or(0)) << 8;
        let digits = [18, 12, 6].map(|shift| ALPHABET[(word >> shift & 63) as usize]);
        out.extend_from_slice(&digits[..rest.len() + 1]);
    }
}

/// Appends the bytes that `text` encodes. `None`: it is no such encoding; one text has one meaning, so
/// padding and spare bits that are not zero are refused.
pub fn decode(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    out.reserve(text.len() / 4 * 3 + 3);
    for digits in text.chunks(4) {
        let mut word = 0u32;
        for (index, digit) in digits.iter().enumerate() {
            word |= value(*digit)? << (18 - 6 * index);
        }
        let bytes = match digits.len() {
            4 => 3,
            3 => 2,
            2 => 1,
            _ => return None,
        };
        let all = [(word >> 16) as u8, (word >> 8) as u8, word as u8];
        if all[bytes..].iter().any(|byte| *byte != 0) {
            return None;
        }
        out.extend_from_slice(&all[..bytes]);
    }
    Some(())
}

fn value(digit: u8) -> Option<u32> {
    match digit {
        b'A'..=b'Z' => Some(u32::from(digit - b'A')),
        b'a'..=b'z' => Some(u32::from(digit - b'a') + 26),
        b'0'..=b'9' => Some(u32::from(digit - b'0') + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_read_back_and_has_one_spelling() {
        let bytes: Vec<u8> = (0..=255).collect();
        for end in 0..bytes.len() {
            let (mut text, mut back) = (Vec::new(), Vec::new());
            encode(&bytes[..end], &mut text);
            assert_eq!(text.len(), encoded_bytes(end));
            assert_eq!(decode(&text, &mut back), Some(()), "{end}");
            assert_eq!(back, bytes[..end]);
        }
    }

    #[test]
    fn what_is_no_encoding_is_refused() {
        for text in ["eyJhIjoxfQ==", "A", "AAAAA", "+/aa", "aGk=", "AB", "a b", "\u{fc}"] {
            assert_eq!(decode(text.as_bytes(), &mut Vec::new()), None, "V-52 {text}");
        }
        let mut golden = Vec::new();
        encode(br#"{"ledger":15}"#, &mut golden);
        assert_eq!(golden, b"eyJsZWRnZXIiOjE1fQ", "V-50");
    }
}
