//! What stands in a target or a header field: escapes, queries, cursors, ids of event streams.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use runelog_net::fuzzing::{decode_event_id, event_id};
use runelog_net::http::request::Method;
use runelog_net::http::{base64 as own_base64, cursor, percent, query};
use runelog_net::route::{Routed, route};

use crate::input::Input;

/// `what, bytes`.
pub(crate) fn text(input: &[u8]) {
    let mut input = Input::new(input);
    match input.byte() % 6 {
        0 => escapes(input.rest()),
        1 => queries(input.rest()),
        2 => base64_text(input.rest()),
        3 => cursors(input.rest()),
        4 => ids_of_streams(input.rest()),
        _ => written_ids(input),
    }
}

fn escapes(text: &[u8]) {
    let mut out = Vec::new();
    percent::decode_into(text, false, &mut out);
    assert_eq!(out, percent_encoding::percent_decode(text).collect::<Vec<u8>>(), "T-22");
    assert!(percent::is_escaped(text) || out == text, "T-22");
    let path = [b"/v0/topics/", text].concat();
    if let Routed::To(found) = route(Method::Get, &path) {
        let name = found.topic().expect("below the topics");
        let mut scratch = Vec::new();
        match name.decode(&mut scratch) {
            Ok(decoded) => assert_eq!(
                decoded.as_bytes(),
                percent_encoding::percent_decode(name.raw()).collect::<Vec<u8>>()
            ),
            Err(_) => assert!(percent_encoding::percent_decode(name.raw()).decode_utf8().is_err(), "T-23"),
        }
    }
}

fn queries(text: &[u8]) {
    for name in ["p", "from", "page_size", "a b"] {
        let theirs =
            form_urlencoded::parse(text).filter(|(key, _)| key == name).last().map(|(_, value)| value);
        assert_eq!(query::query_str(text, name), theirs, "K-1, K-2");
    }
    let number = query::query_str(text, "p").and_then(|value| value.parse().ok()).unwrap_or(7);
    assert_eq!(query::query_u64(text, "p", 7), number, "K-4");
    assert!((1..=1000).contains(&query::page_size(text)), "G-1");
    let _ = query::query_bool(text, "p", true);
}

fn base64_text(text: &[u8]) {
    let mut own = Vec::new();
    let decoded = own_base64::decode(text, &mut own);
    let theirs = URL_SAFE_NO_PAD.decode(text).ok();
    assert_eq!(decoded.is_some(), theirs.is_some(), "V-50, G-3");
    if let Some(theirs) = theirs {
        assert_eq!(own, theirs, "V-50, G-3");
        let mut again = Vec::new();
        own_base64::encode(&own, &mut again);
        assert_eq!(again, text, "one text has one meaning");
    }
    let mut encoded = Vec::new();
    own_base64::encode(text, &mut encoded);
    assert_eq!(encoded, URL_SAFE_NO_PAD.encode(text).as_bytes());
    assert_eq!(encoded.len(), own_base64::encoded_bytes(text.len()));
}

fn cursors(text: &[u8]) {
    if let Ok(text) = std::str::from_utf8(text) {
        let mut scratch = Vec::new();
        if let Ok(Some(name)) = cursor::decode(text, &mut scratch) {
            let mut again = Vec::new();
            cursor::encode(name, &mut again);
            assert_eq!(again, text.as_bytes(), "G-3");
        }
        if !text.is_empty() {
            let mut encoded = Vec::new();
            cursor::encode(text, &mut encoded);
            let encoded = String::from_utf8(encoded).expect("an alphabet of ASCII");
            assert_eq!(cursor::decode(&encoded, &mut Vec::new()), Ok(Some(text)), "G-3");
        }
    }
}

/// A `Last-Event-ID`, raw and as the JSON inside of one.
fn ids_of_streams(text: &[u8]) {
    let _ = decode_event_id(text, &["a", "b"]);
    let found = decode_event_id(URL_SAFE_NO_PAD.encode(text).as_bytes(), &["a", "b"]);
    let theirs: Option<std::collections::BTreeMap<String, serde_json::Value>> =
        serde_json::from_slice(text).ok();
    // One cursor that is none spoils all.
    let theirs = theirs.filter(|map| map.values().all(|value| value.as_u64().is_some()));
    for (name, found) in ["a", "b"].into_iter().zip(found) {
        let wanted = theirs.as_ref().and_then(|map| map.get(name)?.as_u64());
        // Of a name given twice the last counts in both; a spoiled one before it is seen only by ours.
        assert!(found == wanted || found.is_none(), "V-52: {found:?} for {wanted:?}");
    }
}

/// Ids that we write ourselves are read back, whatever moved.
fn written_ids(mut input: Input<'_>) {
    let count = usize::from(input.byte() % 9);
    let mut topics: Vec<(String, u64)> = Vec::new();
    for _ in 0..count {
        topics.push((String::from_utf8_lossy(input.piece()).into_owned(), input.u64()));
    }
    topics.sort();
    topics.dedup_by(|a, b| a.0 == b.0);
    let mut moves = Vec::new();
    while !topics.is_empty() && !input.is_empty() {
        moves.push((usize::from(input.byte()) % topics.len(), input.u64() >> (input.byte() & 63)));
    }
    let id = event_id(topics.iter().map(|(name, cursor)| (name.as_str(), *cursor)), &moves);
    for (topic, cursor) in moves {
        topics[topic].1 = cursor;
    }
    let names: Vec<&str> = topics.iter().map(|(name, _)| name.as_str()).collect();
    let cursors: Vec<Option<u64>> = topics.iter().map(|(_, cursor)| Some(*cursor)).collect();
    assert_eq!(decode_event_id(&id, &names), cursors, "V-50, V-52");
}
