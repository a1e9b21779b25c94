use super::*;

/// Texts in the manner of JSONTestSuite: `y` must be taken, `n` refused.
const SUITE: &[(&str, char, &[u8])] = &[
    ("J-1", 'y', b"{}"),
    ("J-1", 'y', b"[]"),
    ("J-1", 'y', b" \t\r\n{ \"a\" : [ 1 , 2 ] , \"b\" : { } } \n"),
    ("J-1", 'y', b"[[] , {}, [ ], { }]"),
    ("J-1", 'y', b"true"),
    ("J-1", 'y', b"\"\""),
    ("J-1", 'n', b""),
    ("J-1", 'n', b" \n"),
    ("J-1", 'n', b"\xef\xbb\xbf{}"),
    ("J-1", 'n', b"{}\xef\xbb\xbf"),
    ("J-1", 'n', b"{} x"),
    ("J-1", 'n', b"{}{}"),
    ("J-1", 'n', b"1 2"),
    ("J-1", 'n', b"{}\0"),
    ("J-1", 'n', b"\x0c{}"),
    ("J-1", 'n', b"\xc2\xa0{}"),
    ("J-1", 'n', b"[1,]"),
    ("J-1", 'n', b"[,1]"),
    ("J-1", 'n', b"[1,,2]"),
    ("J-1", 'n', b"[1 2]"),
    ("J-1", 'n', b"[1"),
    ("J-1", 'n', b"[1,"),
    ("J-1", 'n', b"["),
    ("J-1", 'n', b"]"),
    ("J-1", 'n', b"[1}"),
    ("J-1", 'n', b"{\"a\":1]"),
    ("J-1", 'n', b"[{]}"),
    ("J-1", 'n', b"{"),
    ("J-1", 'n', b"{\"a\""),
    ("J-1", 'n', b"{\"a\":"),
    ("J-1", 'n', b"{\"a\":1"),
    ("J-1", 'n', b"{\"a\":1,"),
    ("J-1", 'n', b"{\"a\":1,}"),
    ("J-1", 'n', b"{,\"a\":1}"),
    ("J-1", 'n', b"{\"a\" 1}"),
    ("J-1", 'n', b"{\"a\"::1}"),
    ("J-1", 'n', b"{\"a\",1}"),
    ("J-1", 'n', b"{a:1}"),
    ("J-1", 'n', b"{1:1}"),
    ("J-1", 'n', b"{'a':1}"),
    ("J-1", 'n', b"['a']"),
    ("J-1", 'n', b"[1]//x"),
    ("J-1", 'n', b"/**/[1]"),
    ("J-1", 'n', b"[\"a\":1]"),
    ("J-1", 'n', b"nul"),
    ("J-1", 'n', b"nulll"),
    ("J-1", 'n', b"True"),
    ("J-1", 'n', b"tru e"),
    ("J-1", 'n', b"falsy"),
    ("J-1", 'n', b"undefined"),
    ("J-5", 'y', b"[0,-0,-1,10,1.5,-0.0,1e5,1E+5,1e-5,0e0,0.1e1,123456789012345678901234567890]"),
    ("J-5", 'n', b"01"),
    ("J-5", 'n', b"-01"),
    ("J-5", 'n', b"00"),
    ("J-5", 'n', b"-"),
    ("J-5", 'n', b"+1"),
    ("J-5", 'n', b".5"),
    ("J-5", 'n', b"1."),
    ("J-5", 'n', b"1.e1"),
    ("J-5", 'n', b"1.5.5"),
    ("J-5", 'n', b"1e"),
    ("J-5", 'n', b"1e+"),
    ("J-5", 'n', b"1ee5"),
    ("J-5", 'n', b"1e5.5"),
    ("J-5", 'n', b"0x10"),
    ("J-5", 'n', b"1_000"),
    ("J-5", 'n', b"- 1"),
    ("J-5", 'n', b"1a"),
    ("J-5", 'n', "\u{ff11}".as_bytes()),
    ("J-8", 'n', b"NaN"),
    ("J-8", 'n', b"Infinity"),
    ("J-8", 'n', b"-Infinity"),
    ("J-8", 'y', b"1e308"),
    ("J-8", 'y', b"1.7976931348623157e308"),
    ("J-8", 'n', b"1e309"),
    ("J-8", 'n', b"1e400"),
    ("J-8", 'n', b"-1e400"),
    ("J-8", 'n', b"[1.0E+0400]"),
    ("J-8", 'n', b"1e99999999999999999999"),
    ("J-8", 'y', b"1e-99999999999999999999"),
    ("J-8", 'y', b"0e400"),
    ("J-8", 'y', b"1e00000000000000000005"),
    ("J-8", 'y', b"\"\\u0000\""),
    ("J-8", 'y', b"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uABCD\""),
    ("J-8", 'y', b"\"\\ud83d\\ude00\""),
    ("J-8", 'y', b"{\"\\ud83d\\ude00\":0}"),
    ("J-8", 'y', "\"é€😀\"".as_bytes()),
    ("J-8", 'y', b"\"\x7f\""),
    ("J-8", 'n', b"\"\\ud83d\""),
    ("J-8", 'n', b"\"\\ude00\""),
    ("J-8", 'n', b"\"\\ud83dx\""),
    ("J-8", 'n', b"\"\\ud83d\\n\""),
    ("J-8", 'n', b"\"\\ud83d\\ud83d\""),
    ("J-8", 'n', b"\"\\ud83d\\u0041\""),
    ("J-8", 'n', b"{\"\\ud83d\":0}"),
    ("J-8", 'n', b"\"\\x41\""),
    ("J-8", 'n', b"\"\\u12\""),
    ("J-8", 'n', b"\"\\u12g4\""),
    ("J-8", 'n', b"\"\\u+123\""),
    ("J-8", 'n', b"\"\\"),
    ("J-8", 'n', b"\"\\\""),
    ("J-8", 'n', b"\"\\u123"),
    ("J-8", 'n', b"\"a"),
    ("J-8", 'n', b"\"a\nb\""),
    ("J-8", 'n', b"\"a\tb\""),
    ("J-8", 'n', b"\"a\0b\""),
    ("J-8", 'n', b"\"\x1f\""),
    ("J-8", 'n', b"{\"a\nb\":1}"),
    ("J-8", 'n', b"\"\xff\""),
    ("J-8", 'n', b"\"\xc3\""),
    ("J-8", 'n', b"\"\xc0\xaf\""),
    ("J-8", 'n', b"\"\xed\xa0\x80\""),
    ("J-8", 'n', b"\"\xf4\x90\x80\x80\""),
    ("J-8", 'n', b"{\"\xe9\":1}"),
];

#[test]
fn the_suite_is_taken_and_refused_as_written() {
    for &(rule, verdict, text) in SUITE {
        let shown = String::from_utf8_lossy(text);
        assert_eq!(validate(text).is_ok(), verdict == 'y', "{rule}: {shown}");
        // Again where the sixteen-byte loops see it: in the middle of a long body.
        let trailing_text = matches!(shown.as_ref(), "{} x" | "{}{}" | "1 2" | "{}\0" | "[1]//x");
        if !trailing_text {
            let long = [b"{\"before\":[", text, b",\"some thirty bytes of padding after\"]}"].concat();
            assert_eq!(validate(&long).is_ok(), verdict == 'y', "{rule}: {shown} in a long body");
        }
    }
}

#[test]
fn every_cut_of_a_document_is_refused() {
    let text = br#"{"a":[1.5e10,"\ud83d\ude00",true,null],"b":{"c":"0123456789abcdefghij"}}"#;
    assert_eq!(validate(text), Ok(()));
    for cut in 0..text.len() {
        assert!(validate(&text[..cut]).is_err(), "J-1: cut at {cut}");
    }
}

#[test]
fn j_9_counts_containers_of_both_kinds() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
        let per = open.matches(['[', '{']).count();
        for levels in [126 / per, 127 / per, 127 / per + 1, 100_000] {
            let text = format!("{}0{}", open.repeat(levels), close.repeat(levels));
            let verdict = validate(text.as_bytes());
            assert_eq!(verdict.is_ok(), levels * per <= 127, "J-9: {levels} times {open}");
        }
        let wide = format!("[{}0]", format!("{open}0{close},").repeat(1000));
        assert_eq!(validate(wide.as_bytes()), Ok(()), "J-9: closed ones do not count");
    }
}

#[test]
fn j_8_judges_long_numbers_by_their_value() {
    for (text, verdict) in [
        ("9".repeat(308), true),
        ("9".repeat(309), false),
        (format!("1{}", "0".repeat(308)), true),
        (format!("1{}", "0".repeat(309)), false),
        (format!("1{}e-300", "0".repeat(400)), true),
        (format!("1{}e99", "0".repeat(199)), true),
        (format!("1{}e99", "0".repeat(300)), false),
        (format!("0.{}1e400", "0".repeat(399)), true),
        (format!("0.{}", "3".repeat(5000)), true),
    ] {
        assert_eq!(validate(text.as_bytes()).is_ok(), verdict, "J-8: {text:.40}");
    }
}

#[test]
fn a_fault_names_its_byte() {
    for (text, at, why) in [
        (&b"[1,x]"[..], 3, Why::Syntax),
        (b"[1", 2, Why::End),
        (b"[] 1", 3, Why::Trailing),
        (b"\xef\xbb\xbf[]", 0, Why::ByteOrderMark),
        (b"[\"\xff\"]", 2, Why::Utf8),
        (b"[\"\x01\"]", 2, Why::Control),
        (b"[\"\\x\"]", 2, Why::Escape),
        (b"[\"\\udc00\"]", 2, Why::Surrogate),
        (b"[1e400]", 1, Why::NumberRange),
    ] {
        assert_eq!(validate(text), Err(Fault { at, why }), "{}", String::from_utf8_lossy(text));
    }
}
