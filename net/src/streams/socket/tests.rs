use super::*;
use crate::feed::FeedItem;
use crate::slab::Slab;
use runelog_engine::shard::{Tombstone, TombstoneReason};

/// The payloads of server frames below 64 KiB.
fn frames(mut bytes: &[u8]) -> Vec<String> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        assert_eq!(*first, 0x81, "one whole text frame");
        let (length, rest) = match second {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            short => (usize::from(*short), rest),
        };
        frames.push(String::from_utf8(rest[..length].to_vec()).unwrap());
        bytes = &rest[length..];
    }
    frames
}

fn read(tombstone: Option<Tombstone>, record: &str, to_seq: u64, head_seq: u64) -> FeedItem {
    let (tombstone, record) = (tombstone.map(Box::new), record.as_bytes().into());
    FeedItem::Read(FeedRead { tombstone, record, has_line_ends: false, to_seq, head_seq })
}

fn gap(reason: TombstoneReason) -> Tombstone {
    Tombstone { gap_from: 1, gap_to: 4, reason, earliest_seq: 5, head_seq: 6 }
}

fn stream() -> (SocketStream, Arc<AtomicUsize>, Key, Key) {
    let mut keys = Slab::<()>::default();
    let (first, second) = (keys.insert(()), keys.insert(()));
    let count = Arc::<AtomicUsize>::default();
    let mut stream = SocketStream::new(count.clone());
    for (name, key) in [("a", first), ("b\"", second)] {
        let place = stream.free_place();
        stream.fill(place, name.into(), key);
    }
    (stream, count, first, second)
}

#[test]
fn items_look_as_the_contract_has_them() {
    let (mut stream, _, _, _) = stream();
    let mut told = |place, item| {
        let mut out = Vec::new();
        stream.on_item(place, &item, &mut out);
        frames(&out)
    };
    let caught_up = r#"{"op":"caught_up","topic":"a","head_seq":6}"#;
    let tombstone = r#"{"op":"tombstone","topic":"a","reason":"recreated","gap_from":1,"gap_to":4,"earliest_seq":5,"head_seq":6}"#;
    let record = r#"{"op":"record","topic":"a","records":[]}"#;
    let members = r#""topic":"a","records":[]"#;
    let nothing: [&str; 0] = [];
    assert_eq!(told(0, read(None, "", 6, 6)), [caught_up], "V-13 once, although nothing came");
    assert_eq!(told(0, read(None, "", 6, 6)), nothing, "V-13 V-14");
    assert_eq!(told(0, read(None, members, 5, 6)), [record], "V-13 more is to come");
    assert_eq!(told(0, read(None, members, 6, 6)), [record, caught_up], "WS-32");
    let recreated = gap(TombstoneReason::Recreated);
    assert_eq!(told(0, read(Some(recreated), members, 6, 6)), [tombstone, record, caught_up], "WS-30 WS-31");
    let deleted = r#"{"op":"topic_deleted","topic":"b\"","head_seq":0,"reason":"deleted"}"#;
    assert_eq!(told(1, FeedItem::Deleted), [deleted], "WS-33");
    assert_eq!(told(1, read(None, members, 6, 6)), nothing, "WS-33 the subscription is gone");
    let failed = told(0, FeedItem::Failed);
    assert_eq!(failed.len(), 1, "I-98");
    assert!(
        failed[0].starts_with(r#"{"op":"error","request_id":null,"code":"internal","message":"topic a "#)
    );
}

#[test]
fn a_subscription_is_found_by_its_topic_until_it_ends() {
    let (mut stream, count, first, second) = stream();
    let counted = || count.load(Ordering::Relaxed);
    assert_eq!((stream.count(), counted()), (2, 2));
    assert_eq!(stream.remove("a"), Some(first), "WS-26");
    assert_eq!(stream.remove("a"), None, "WS-26");
    assert_eq!((stream.count(), counted()), (1, 1));
    let place = stream.free_place();
    assert_eq!(place, 0, "its place is used again");
    stream.fill(place, "c".into(), first);
    let mut out = Vec::new();
    stream.on_item(place, &read(None, "", 0, 0), &mut out);
    assert_eq!(frames(&out), [r#"{"op":"caught_up","topic":"c","head_seq":0}"#], "WS-25 it begins anew");
    stream.on_item(1, &FeedItem::Deleted, &mut out);
    assert_eq!((stream.remove("b\""), counted()), (None, 1), "WS-33");
    let _ = second;
}

#[test]
fn a_stop_is_told() {
    let mut out = Vec::new();
    SocketStream::shutdown(&mut out);
    let told: serde_json::Value = serde_json::from_str(&frames(&out)[0]).unwrap();
    assert_eq!((&told["op"], &told["code"]), (&"error".into(), &"server_shutting_down".into()), "WS-36");
    assert!(told["message"].is_string() && told.get("request_id").is_none(), "WS-36");
}
