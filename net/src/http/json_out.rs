//! JSON written by hand: strings escaped, numbers formatted, straight into the output buffer.
//! Not here: JSON read (simd-json does that) and the shape of any answer.

/// Appends `text` as a JSON string, quotes included.
pub fn write_str(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let clean = clean_prefix(rest);
        out.extend_from_slice(&rest[..clean]);
        let Some(&byte) = rest.get(clean) else { break };
        write_escape(out, byte);
        rest = &rest[clean + 1..];
    }
    out.push(b'"');
}

/// Appends an unsigned integer.
pub fn write_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends a signed integer.
pub fn write_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends `true` or `false`.
pub fn write_bool(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

/// Appends a duration in nanoseconds as milliseconds with three decimals, rounded: `0.412` (M-4).
pub fn write_ms(out: &mut Vec<u8>, nanos: u64) {
    write_thousandths(out, nanos / 1_000 + u64::from(nanos % 1_000 >= 500));
}

/// Appends a float with three decimals. What is negative or no number is `0.000`: JSON has no NaN.
pub fn write_f64(out: &mut Vec<u8>, value: f64) {
    // A cast saturates, and takes NaN to zero.
    write_thousandths(out, (value * 1_000.0).round() as u64);
}

fn write_thousandths(out: &mut Vec<u8>, thousandths: u64) {
    write_u64(out, thousandths / 1_000);
    let rest = (thousandths % 1_000) as u16;
    let digit = |value: u16| b'0' + (value % 10) as u8;
    out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
}

/// Bytes before the first one that needs an escape, eight at a time while eight are left.
fn clean_prefix(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    let mut at = 0;
    while let Some(chunk) = text[at..].first_chunk::<8>() {
        let word = u64::from_ne_bytes(*chunk);
        let controls = word.wrapping_sub(ONES * 0x20) & !word & HIGHS;
        let quotes = zero_bytes(word ^ (ONES * u64::from(b'"')));
        let slashes = zero_bytes(word ^ (ONES * u64::from(b'\\')));
        if (controls | quotes | slashes) != 0 {
            break; // a borrow may name a byte too high, never miss the first: look one by one
        }
        at += 8;
    }
    at + text[at..].iter().position(|&byte| needs_escape(byte)).unwrap_or(text.len() - at)
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

#[cold]
fn write_escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl Fn(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_character_at_every_place_is_read_back() {
        let all = (0..0x180u32).chain([0x2028, 0xfffd, 0x1f600]).filter_map(char::from_u32);
        for (character, pad) in all.flat_map(|c| (0..17).map(move |pad| (c, pad))) {
            let value = format!("{}{character}{}", "x".repeat(pad), "\u{e9}".repeat(16 - pad));
            let written = text(|out| write_str(out, &value));
            assert_eq!(serde_json::from_str::<String>(&written).unwrap(), value, "E-2 {written}");
        }
        assert_eq!(text(|out| write_str(out, "a\"\\\n\u{1}\u{7f}")), "\"a\\\"\\\\\\n\\u0001\u{7f}\"");
    }

    #[test]
    fn numbers_are_plain() {
        assert_eq!(text(|out| write_u64(out, u64::MAX)), "18446744073709551615");
        assert_eq!(text(|out| write_i64(out, i64::MIN)), "-9223372036854775808");
        assert_eq!(text(|out| write_bool(out, true)), "true");
        assert_eq!(text(|out| write_bool(out, false)), "false");
        let table =
            [(0, "0.000"), (412_000, "0.412"), (412_499, "0.412"), (412_500, "0.413"), (5_000_000, "5.000")];
        for (nanos, written) in table {
            assert_eq!(text(|out| write_ms(out, nanos)), written, "M-4");
        }
        let table = [(0.0, "0.000"), (0.412, "0.412"), (1.0, "1.000"), (-0.5, "0.000"), (f64::NAN, "0.000")];
        for (value, written) in table {
            assert_eq!(text(|out| write_f64(out, value)), written, "M-4");
        }
    }
}
