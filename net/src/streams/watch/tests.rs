use super::*;
use crate::auth::Access;
use crate::json::watch::Delivery;
use crate::streams::session::{Session, SessionTopic};
use runelog_engine::shard::TombstoneReason;
use std::sync::Arc;

fn session(topics: &[(&str, u64)]) -> Arc<Session> {
    let topics = topics.iter().map(|(name, cursor)| SessionTopic::new((*name).into(), *cursor)).collect();
    let delivery = Delivery {
        nodes: Default::default(),
        limit: 256,
        max_batch_bytes: 1 << 20,
        include_data: true,
        include_tags: false,
        include_meta: true,
    };
    Arc::new(Session::new(topics, Arc::new(delivery), 15_000, Access::EVERYTHING, 0))
}

fn stream(session: &Arc<Session>, last_event_id: Option<&str>) -> WatchStream {
    let mut encoded = Vec::new();
    crate::http::base64::encode(last_event_id.unwrap_or_default().as_bytes(), &mut encoded);
    WatchStream::new(session.open(0), last_event_id.map(|_| encoded.as_slice()))
}

fn read(from: u64, to: u64, head: u64) -> FeedItem {
    let record = match from == to {
        true => Box::default(),
        false => format!("\"topic\":\"a\",\"from_seq\":{from},\"to_seq\":{to}").into_bytes().into(),
    };
    FeedItem::Read(FeedRead { tombstone: None, record, has_line_ends: false, to_seq: to, head_seq: head })
}

fn lost(read: FeedItem, gap: (u64, u64), reason: TombstoneReason) -> FeedItem {
    let FeedItem::Read(mut read) = read else { unreachable!() };
    let (gap_from, gap_to) = gap;
    let tombstone = Tombstone { gap_from, gap_to, reason, earliest_seq: gap_to + 1, head_seq: read.head_seq };
    read.tombstone = Some(Box::new(tombstone));
    FeedItem::Read(read)
}

/// What an item makes a stream say: each event as its name, its id as JSON, its data; and what follows.
fn say(stream: &mut WatchStream, place: usize, item: &FeedItem) -> (Vec<(String, String, String)>, Next) {
    let mut out = Vec::new();
    let next = stream.on_item(place, item, &mut out);
    (events(&out), next)
}

fn events(out: &[u8]) -> Vec<(String, String, String)> {
    let text = std::str::from_utf8(out).unwrap();
    assert!(text.is_empty() || text.ends_with("\n\n"), "V-4 {text}");
    let blocks = text.split_terminator("\n\n");
    blocks
        .map(|block| {
            let lines: Vec<&str> = block.split('\n').collect();
            let [id, event, data] = lines[..] else { panic!("V-4 {block}") };
            let mut json = Vec::new();
            let id = id.strip_prefix("id: ").expect("V-10");
            crate::http::base64::decode(id.as_bytes(), &mut json).expect("V-50");
            let strip = |line: &str, name| line.strip_prefix(name).expect("V-4").to_string();
            (strip(event, "event: "), String::from_utf8(json).unwrap(), strip(data, "data: "))
        })
        .collect()
}

fn names(said: &[(String, String, String)]) -> Vec<&str> {
    said.iter().map(|(event, ..)| event.as_str()).collect()
}

#[test]
fn topics_are_opened_one_after_another_once_each_is_drained() {
    let session = session(&[("a", 0), ("b", 0), ("c", 5)]);
    let mut stream = stream(&session, None);
    let mut out = Vec::new();
    assert_eq!(stream.start(&mut out), Next::Open(0), "V-11");
    assert_eq!(out, b"retry: 2000\n\n", "V-3");
    let (said, next) = say(&mut stream, 0, &read(0, 3, 9));
    assert_eq!((names(&said), next), (vec!["record"], Next::Wait), "V-11: not drained yet");
    assert_eq!(said[0].1, r#"{"a":3,"b":0,"c":5}"#, "V-50");
    let (said, next) = say(&mut stream, 0, &read(3, 9, 9));
    assert_eq!((names(&said), next), (vec!["record", "caught-up"], Next::Open(1)), "V-11");
    assert_eq!(said[1].2, r#"{"topic":"a","head_seq":9}"#, "V-13");
    let (said, next) = say(&mut stream, 1, &read(0, 0, 0));
    assert_eq!((names(&said), next), (vec!["caught-up"], Next::Open(2)), "V-11: at least one");
    // News of a drained topic while another is being opened.
    let (said, next) = say(&mut stream, 0, &read(9, 10, 10));
    assert_eq!((names(&said), next), (vec!["record", "caught-up"], Next::Wait), "V-13");
    let (said, next) = say(&mut stream, 2, &FeedItem::Deleted);
    assert_eq!((names(&said), next), (vec!["topic-deleted"], Next::Wait), "V-30");
    assert_eq!(said[0].2, r#"{"topic":"c","head_seq":0,"reason":"deleted"}"#, "V-30");
    assert_eq!(session.topics[0].cursor(), 10, "V-51");
}

#[test]
fn what_is_filtered_moves_the_cursor_in_silence() {
    let session = session(&[("a", 0)]);
    let mut stream = stream(&session, None);
    stream.start(&mut Vec::new());
    let filtered = |to, head| {
        FeedItem::Read(FeedRead {
            tombstone: None,
            record: Box::default(),
            has_line_ends: false,
            to_seq: to,
            head_seq: head,
        })
    };
    assert_eq!(say(&mut stream, 0, &filtered(4, 6)).0, [], "V-14");
    assert_eq!(names(&say(&mut stream, 0, &filtered(6, 6)).0), ["caught-up"], "V-11");
    assert_eq!(say(&mut stream, 0, &filtered(8, 8)).0, [], "V-13, V-14");
    assert_eq!(session.topics[0].cursor(), 8, "V-14");
}

#[test]
fn a_gap_says_why_but_on_the_first_read_of_a_topic() {
    let table = [
        // rule, items before, reason, what is said
        ("V-20", 0, TombstoneReason::Cap, "from_seq_too_old"),
        ("V-20", 0, TombstoneReason::Recreated, "from_seq_too_old"),
        ("V-20", 1, TombstoneReason::Cap, "cap"),
        ("V-20", 1, TombstoneReason::Ttl, "ttl"),
        ("V-20", 1, TombstoneReason::Mixed, "mixed"),
        ("V-20", 1, TombstoneReason::SourceTrim, "source_trim"),
        ("V-20", 1, TombstoneReason::Recreated, "recreated"),
    ];
    for (rule, before, reason, said_reason) in table {
        let session = session(&[("a", 3)]);
        let mut stream = stream(&session, None);
        stream.start(&mut Vec::new());
        for _ in 0..before {
            say(&mut stream, 0, &read(3, 4, 9));
        }
        let (said, _) = say(&mut stream, 0, &lost(read(4, 9, 9), (5, 7), reason));
        assert_eq!(names(&said), ["tombstone", "record", "caught-up"], "{rule}");
        assert_eq!(
            said[0].2,
            format!(
                "{{\"topic\":\"a\",\"reason\":\"{said_reason}\",\"gap_from\":5,\"gap_to\":7,\
                 \"earliest_seq\":8,\"head_seq\":9}}"
            ),
            "V-21 {rule}"
        );
        assert_eq!((said[0].1.as_str(), said[1].1.as_str()), (r#"{"a":7}"#, r#"{"a":9}"#), "V-21");
        assert!(said[1].2.contains("\"from_seq\":4"), "V-12");
    }
}

#[test]
fn a_stream_ends_with_its_last_topic() {
    let mut empty = stream(&session(&[]), None);
    assert_eq!(empty.start(&mut Vec::new()), Next::End, "S-3");
    let mut stream = stream(&session(&[("a", 0), ("b", 0)]), None);
    stream.start(&mut Vec::new());
    assert_eq!(say(&mut stream, 0, &FeedItem::Deleted).1, Next::Open(1), "V-31");
    assert_eq!(say(&mut stream, 1, &FeedItem::Deleted).1, Next::End, "V-32");
}

#[test]
fn what_cannot_be_read_leaves_the_cursor_where_it_is() {
    let session = session(&[("a", 0)]);
    let mut stream = stream(&session, None);
    stream.start(&mut Vec::new());
    say(&mut stream, 0, &read(0, 4, 9));
    assert_eq!(say(&mut stream, 0, &FeedItem::Failed), (vec![], Next::Fail), "I-98");
    assert_eq!(session.topics[0].cursor(), 4, "I-98");
}

#[test]
fn a_last_event_id_moves_cursors_back_only() {
    let session = session(&[("a", 10), ("b", 10)]);
    let rewound = stream(&session, Some(r#"{"a":12,"b":4,"x":1}"#));
    assert_eq!((rewound.cursor(0), rewound.cursor(1)), (10, 4), "V-52");
    // A stream that is opened after it goes on there, also if the first one said nothing.
    let next = stream(&session, None);
    assert_eq!((next.cursor(0), next.cursor(1)), (10, 4), "V-51");
}

#[test]
fn a_data_line_holds_no_line_ends() {
    let mut stream = stream(&session(&[("a", 0)]), None);
    stream.start(&mut Vec::new());
    let record = b"\"topic\":\"a\",\"records\":[{\"data\":{\r\n \"x\": \"\\n\"\n}}]".as_slice().into();
    let item =
        FeedItem::Read(FeedRead { tombstone: None, record, has_line_ends: true, to_seq: 1, head_seq: 2 });
    let (said, _) = say(&mut stream, 0, &item);
    assert_eq!(said[0].2, "{\"topic\":\"a\",\"records\":[{\"data\":{   \"x\": \"\\n\" }}]}", "V-4");
}

#[test]
fn the_last_event_says_that_the_server_stops() {
    let mut stream = stream(&session(&[("a", 7)]), None);
    let mut out = Vec::new();
    stream.shutdown(&mut out);
    let said = events(&out);
    assert_eq!((said[0].0.as_str(), said[0].1.as_str()), ("error", r#"{"a":7}"#), "SH-3, V-10");
    assert!(said[0].2.contains("\"code\":\"server_shutting_down\""), "SH-3");
}
