//! Query parameters, looked up in the raw query (K-1 to K-4).
//! Nothing is collected: a query has a handful of parameters and a handler asks for three at most.
//! Allocates only for a value that holds an escape.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::percent;

/// Page size when none is asked for, and the most that is given (G-1).
const PAGE_SIZE_DEFAULT: u64 = 100;
const PAGE_SIZE_MAX: u64 = 1000;

/// The last value of `name`, decoded, invalid UTF-8 replaced (K-1, K-2). A parameter without `=` has
/// the empty value.
pub fn query_str<'a>(query: &'a [u8], name: &str) -> Option<Cow<'a, str>> {
    let value = query.rsplit(|&byte| byte == b'&').find_map(|pair| {
        let (key, value) = match memchr(b'=', pair) {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &b""[..]),
        };
        (!pair.is_empty() && is_named(key, name)).then_some(value)
    })?;
    if memchr2(b'%', b'+', value).is_none() {
        return Some(String::from_utf8_lossy(value));
    }
    let mut decoded = Vec::with_capacity(value.len());
    percent::decode_into(value, true, &mut decoded);
    // The lossy path copies only when there is something to replace.
    Some(Cow::Owned(match String::from_utf8(decoded) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    }))
}

/// `true`/`1`, `false`/`0`, anything else the default (K-3).
pub fn query_bool(query: &[u8], name: &str, default: bool) -> bool {
    match query_str(query, name).as_deref() {
        Some("true" | "1") => true,
        Some("false" | "0") => false,
        _ => default,
    }
}

/// The number, or the default when there is none or it does not parse (K-4).
pub fn query_u64(query: &[u8], name: &str, default: u64) -> u64 {
    query_str(query, name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// `page_size` as the list endpoints read it: 1 to 1000, 100 when absent or unparsable (G-1).
pub fn page_size(query: &[u8]) -> usize {
    query_u64(query, "page_size", PAGE_SIZE_DEFAULT).clamp(1, PAGE_SIZE_MAX) as usize
}

/// Names may be escaped too, though no client does it.
fn is_named(key: &[u8], name: &str) -> bool {
    if memchr2(b'%', b'+', key).is_none() {
        return key == name.as_bytes();
    }
    let mut decoded = Vec::with_capacity(key.len());
    percent::decode_into(key, true, &mut decoded);
    decoded == name.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_form_decoded_and_the_last_one_wins() {
        let table: [(&str, &[u8], Option<&str>); 14] = [
            // rule, query, value of `p`
            ("K-1", b"p=a", Some("a")),
            ("K-1", b"p=a+b%20c", Some("a b c")),
            ("K-1", b"p=a%2Bb", Some("a+b")),
            ("K-1", b"p=100%", Some("100%")),
            ("K-1", b"p=%FFx", Some("\u{fffd}x")),
            ("K-1 name", b"%70=a", Some("a")),
            ("K-1 unknown", b"q=1&pp=2&P=3", None),
            ("K-1", b"", None),
            ("K-1", b"&&", None),
            ("K-1 no value", b"p", Some("")),
            ("K-1", b"p=", Some("")),
            ("K-1 inner =", b"p=a=b", Some("a=b")),
            ("K-2", b"p=1&q=2&p=3", Some("3")),
            ("K-2", b"p=1&p", Some("")),
        ];
        for (rule, query, value) in table {
            assert_eq!(query_str(query, "p").as_deref(), value, "{rule} {}", query.escape_ascii());
        }
        assert!(matches!(query_str(b"p=plain", "p"), Some(Cow::Borrowed("plain"))), "usual: no copy");
    }

    #[test]
    fn booleans_and_numbers_are_lenient() {
        let booleans: [(&str, &[u8], Option<bool>); 10] = [
            ("K-3", b"p=true", Some(true)),
            ("K-3", b"p=1", Some(true)),
            ("K-3", b"p=false", Some(false)),
            ("K-3", b"p=0", Some(false)),
            ("K-3", b"p=TRUE", None),
            ("K-3", b"p=no", None),
            ("K-3", b"p=", None),
            ("K-3", b"p", None),
            ("K-3", b"", None),
            ("K-2", b"p=true&p=no", None),
        ];
        for (rule, query, value) in booleans {
            for default in [true, false] {
                let expected = value.unwrap_or(default);
                assert_eq!(query_bool(query, "p", default), expected, "{rule} {}", query.escape_ascii());
            }
        }
        let numbers: [(&str, &[u8], u64); 8] = [
            ("K-4", b"p=12", 12),
            ("K-4", b"p=18446744073709551615", u64::MAX),
            ("K-4", b"p=18446744073709551616", 7),
            ("K-4", b"p=-1", 7),
            ("K-4", b"p=1.5", 7),
            ("K-4", b"p=", 7),
            ("K-4", b"p=ten", 7),
            ("K-4", b"p=+5", 7), // the plus is a space
        ];
        for (rule, query, value) in numbers {
            assert_eq!(query_u64(query, "p", 7), value, "{rule} {}", query.escape_ascii());
        }
    }

    #[test]
    fn a_page_has_1_to_1000_entries() {
        let table: [(&str, &[u8], usize); 7] = [
            ("G-1", b"", 100),
            ("G-1", b"page_size=0", 1),
            ("G-1", b"page_size=1", 1),
            ("G-1", b"page_size=1000", 1000),
            ("G-1", b"page_size=1001", 1000),
            ("G-1", b"page_size=-3", 100),
            ("G-1", b"page_size=many", 100),
        ];
        for (rule, query, size) in table {
            assert_eq!(page_size(query), size, "{rule} {}", query.escape_ascii());
        }
    }
}
