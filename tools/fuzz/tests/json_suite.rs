//! Texts that JSON parsers are known to differ on, in the manner of JSONTestSuite: `y` must be taken, `n` must be
//! refused, `i` is left open by RFC 8259, and the row says what we do. Each is judged as a whole text, as the
//! `data` and `meta` of a record, as an unknown member of a control body, and by serde_json, which agrees on all.

#![allow(missing_docs)]

use runelog_net::json::{config, control, scan, write};

const TAKEN: bool = true;
const REFUSED: bool = false;

type Row = (&'static str, &'static [u8]);

const YES: &[Row] = &[
    ("array", b"[]"),
    ("array with space", b"[ ]"),
    ("array ends with newline", b"[\"a\"]\n"),
    ("array of all kinds", b"[null,1,\"1\",{},[],true,false]"),
    ("array with leading space", b" [1]"),
    ("false", b"false"),
    ("null", b"null"),
    ("true with space", b"\t\r\n true "),
    ("number", b"123e65"),
    ("number 0e+1", b"[0e+1]"),
    ("number 0e1", b"[0e1]"),
    ("number close to zero", b"[-0.000000000000000000000000000000000000000000000000000000000000000001]"),
    ("number -0", b"-0"),
    ("number -0.0", b"[-0.0]"),
    ("number capital E with sign", b"[1E-2]"),
    ("number fraction and exponent", b"[123.456e78]"),
    ("number beyond 64 bits", b"123456789012345678901234567890"),
    ("object", b"{}"),
    ("object with an empty name", b"{\"\":0}"),
    ("object with a name twice", b"{\"a\":1,\"a\":2}"),
    ("object with the same twice", b"{\"a\":1,\"a\":1}"),
    ("object with an escaped zero in a name", b"{\"foo\\u0000bar\":42}"),
    ("object with spaces", b" { \"a\" :\n1\t,\r\"b\" : [ ] } "),
    ("string", b"\"abc\""),
    ("string empty", b"\"\""),
    ("string of all short escapes", b"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\""),
    ("string with digits of either case", b"\"\\u00e9\\u00E9\""),
    ("string with a pair", b"\"\\uD834\\uDd1e\""),
    ("string with two pairs", b"\"\\ud83d\\ude39\\ud83d\\udc8d\""),
    ("string with an escaped zero", b"[\"\\u0000\"]"),
    ("string with a noncharacter", b"\"\xef\xbf\xbf\""),
    ("string with an escaped noncharacter", b"\"\\uFFFF\""),
    ("string with the last code point", b"\"\xf4\x8f\xbf\xbf\""),
    ("string with U+2028", b"\"\xe2\x80\xa8\""),
    ("string with DEL", b"\"\x7f\""),
    ("string of a comment", b"\"a/*b*/c/*d//e\""),
    ("string of one space", b"\" \""),
    ("string of a byte-order mark", b"\"\xef\xbb\xbf\""),
    (
        "string longer than a block",
        b"\"0123456789012345678901234567890123456789012345678901234567890123456789\"",
    ),
];

const NO: &[Row] = &[
    ("nothing", b""),
    ("only space", b" "),
    ("array with a comma at the end", b"[1,]"),
    ("array with a comma alone", b"[,]"),
    ("array with a comma first", b"[,1]"),
    ("array with two commas", b"[1,,2]"),
    ("array without commas", b"[3[4]]"),
    ("array without an end", b"[\"x\""),
    ("array that ends twice", b"[1]]"),
    ("array with a colon", b"[1:2]"),
    ("array ended as an object", b"[1}"),
    ("array with a form feed", b"[\x0c]"),
    ("array with a vertical tab", b"[\x0b1]"),
    ("array with a no-break space", b"[\xc2\xa01]"),
    ("array of a star", b"[*]"),
    ("array without an end, nested", b"[[[[[[[["),
    ("word cut", b"tru"),
    ("word with more", b"truex"),
    ("word in capitals", b"True"),
    ("word undefined", b"undefined"),
    ("number NaN", b"NaN"),
    ("number Infinity", b"-Infinity"),
    ("number with a plus", b"+1"),
    ("number with a zero first", b"012"),
    ("number with a minus and a zero first", b"-012"),
    ("number of a minus", b"-"),
    ("number of two minuses", b"--1"),
    ("number that begins with a point", b".5"),
    ("number that begins with a minus and a point", b"-.5"),
    ("number that ends with a point", b"1."),
    ("number with a point before the exponent", b"1.e3"),
    ("number without an exponent", b"1e"),
    ("number without an exponent, signed", b"1e+"),
    ("number with two exponents", b"1e2e3"),
    ("number with a fraction in the exponent", b"1e2.3"),
    ("number in hexadecimal", b"0x1F"),
    ("number with a letter", b"1a"),
    ("number with a separator", b"1 000"),
    ("number with an underscore", b"1_000"),
    ("number in full-width digits", b"\xef\xbc\x91"),
    ("object without an end", b"{\"a\":1"),
    ("object with a comma at the end", b"{\"a\":1,}"),
    ("object with a comma first", b"{,\"a\":1}"),
    ("object with two commas", b"{\"a\":1,,\"b\":2}"),
    ("object without a colon", b"{\"a\" 1}"),
    ("object with two colons", b"{\"a\"::1}"),
    ("object without a value", b"{\"a\":}"),
    ("object without a name", b"{:1}"),
    ("object with a number for a name", b"{1:1}"),
    ("object with a bare name", b"{a:1}"),
    ("object with single quotes", b"{'a':1}"),
    ("object with a name alone", b"{\"a\"}"),
    ("object ended as an array", b"{\"a\":1]"),
    ("object and a comment", b"{\"a\":1}/**/"),
    ("object and a line comment", b"{\"a\":1}//"),
    ("object and a hash", b"{\"a\":1}#"),
    ("two values", b"{}{}"),
    ("string without an end", b"\"abc"),
    ("string of a quote", b"\""),
    ("string with a backslash at the end", b"\"\\\""),
    ("string in single quotes", b"'a'"),
    ("string with a raw newline", b"\"a\nb\""),
    ("string with a raw tab", b"\"\t\""),
    ("string with a raw zero", b"\"a\0b\""),
    ("string with a raw 0x1f", b"\"\x1f\""),
    ("string with an unknown escape", b"\"\\a\""),
    ("string with a hex escape", b"\"\\x00\""),
    ("string with an octal escape", b"\"\\0\""),
    ("string with an escaped newline", b"\"\\\n\""),
    ("string with an escape in capitals", b"\"\\U0041\""),
    ("string with three digits", b"\"\\u00A\""),
    ("string with a digit that is none", b"\"\\u00G0\""),
    ("string with half of a pair and the end", b"\"\\uD800\\"),
    ("string with half of a pair and an escape cut", b"\"\\uD834\\uDd\""),
    ("byte-order mark before", b"\xef\xbb\xbf{}"),
    ("UTF-16", b"[\0\"\0]\0"),
    ("a zero at the end", b"123\0"),
    ("an escape outside a string", b"[\\u000A\"\"]"),
];

/// Left open by the RFC: name, text, what we do, why.
const OPEN: &[(&str, &[u8], bool, &str)] = &[
    ("number too large", b"1e400", REFUSED, "J-8: beyond a double"),
    ("number too large, negative", b"-1e400", REFUSED, "J-8: beyond a double"),
    (
        "number huge exponent",
        b"0.4e00669999999999999999999999999999999999999999999999969999999006",
        REFUSED,
        "J-8",
    ),
    ("number too small", b"123e-10000000", TAKEN, "J-8: it is zero"),
    ("number zero with a huge exponent", b"0e999999999", TAKEN, "J-8: it is zero"),
    ("string with the first half of a pair", b"\"\\uDADA\"", REFUSED, "J-8"),
    ("string with the second half of a pair", b"\"\\uDFAA\"", REFUSED, "J-8"),
    ("string with a pair the wrong way round", b"\"\\uDd1e\\uD834\"", REFUSED, "J-8"),
    ("string with a first half and a letter", b"\"\\uD888\\u1234\"", REFUSED, "J-8"),
    ("string with two first halves", b"\"\\uD800\\uD800\\n\"", REFUSED, "J-8"),
    ("string with a lone continuation byte", b"\"\x81\"", REFUSED, "J-8: not UTF-8"),
    ("string with an overlong slash", b"\"\xc0\xaf\"", REFUSED, "J-8: not UTF-8"),
    ("string with an overlong sequence of three", b"\"\xe0\x80\xaf\"", REFUSED, "J-8: not UTF-8"),
    ("string with a surrogate in UTF-8", b"\"\xed\xa0\x80\"", REFUSED, "J-8: not UTF-8"),
    ("string beyond U+10FFFF", b"\"\xf4\xbf\xbf\xbf\"", REFUSED, "J-8: not UTF-8"),
    ("string with a sequence cut", b"\"\xe2\x82\"", REFUSED, "J-8: not UTF-8"),
    ("string with 0xff", b"\"\xff\"", REFUSED, "J-8: not UTF-8"),
    ("string in Latin-1", b"\"\xe9\"", REFUSED, "J-8: not UTF-8"),
];

/// Checks one text everywhere it may stand.
fn judged(name: &str, text: &[u8], taken: bool) {
    assert_eq!(scan::validate(text).is_ok(), taken, "{name}: alone");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(text).is_ok(), taken, "{name}: serde_json");
    let mut scratch = write::WriteScratch::default();
    for (before, after) in [
        (&b"{\"records\":[{\"data\":"[..], &b"}]}"[..]),
        (b"{\"records\":[{\"meta\":", b",\"data\":1}]}"),
        (b"{\"records\":[{\"x\":", b",\"data\":1}]}"),
        (b"{\"records\":[{\"data\":1}],\"x\":", b"}"),
    ] {
        let body = [before, text, after].concat();
        assert_eq!(
            write::parse_write(&body, &mut scratch).is_ok(),
            taken,
            "J-1, {name}: {}",
            body.escape_ascii()
        );
        if taken {
            // J-21: byte for byte, without the white space around it.
            let record = scratch.records[0];
            let span = if before.ends_with(b"\"meta\":") { record.meta } else { record.data };
            let is_kept = before.ends_with(b"\"data\":") || before.ends_with(b"\"meta\":");
            let found = span.of(&body, &scratch.side);
            let wanted = Some(text.trim_ascii()).filter(|_| is_kept);
            let wanted = wanted.filter(|text| before.ends_with(b"\"data\":") || *text != b"null");
            assert!(!is_kept || found == wanted, "J-21, {name}: {found:?}");
        }
    }
    for (before, after) in [(&b"{\"x\":"[..], &b"}"[..]), (b"{\"limit\":1,\"x\":", b"}")] {
        let body = [before, text, after].concat();
        assert_eq!(control::parse_diff(&body).is_ok(), taken, "J-3, {name}: {}", body.escape_ascii());
        assert_eq!(config::parse_config(&body).is_ok(), taken, "J-3, {name}: {}", body.escape_ascii());
    }
}

#[test]
fn what_must_be_taken_is_taken_byte_for_byte() {
    YES.iter().for_each(|(name, text)| judged(name, text, TAKEN));
}

#[test]
fn what_must_be_refused_is_refused_wherever_it_stands() {
    NO.iter().for_each(|(name, text)| judged(name, text, REFUSED));
}

#[test]
fn what_is_left_open_is_decided_and_the_same_everywhere() {
    OPEN.iter().for_each(|(name, text, taken, _)| judged(name, text, *taken));
}

#[test]
fn nesting_ends_at_the_same_depth_everywhere() {
    // J-9: 127 levels in a whole document.
    for (levels, taken) in [(126, TAKEN), (127, TAKEN), (128, REFUSED), (1000, REFUSED)] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let text = format!("{}1{}", open.repeat(levels), close.repeat(levels));
            assert_eq!(scan::validate(text.as_bytes()).is_ok(), taken, "J-9 {levels} {open}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), taken, "{levels} {open}");
        }
    }
}
