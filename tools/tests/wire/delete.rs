//! Deleting records (§6).

use crate::harness::{Client, Server};
use serde_json::{Value, json};

/// Seqs 1 to 7, tagged: sale:1, sale:2, refund, sal, none, the empty tag, a*b.
fn fill(client: &mut Client, topic: &str) {
    client.fresh(topic, "");
    let answer = client.append(
        topic,
        r#"{"records":[{"data":1,"tag":"sale:1"},{"data":1,"tag":"sale:2"},{"data":1,"tag":"refund"},
        {"data":1,"tag":"sal"},{"data":1},{"data":1,"tag":""},{"data":1,"tag":"a*b"}]}"#,
    );
    assert_eq!(answer.u64("head_seq"), 7);
}

#[test]
fn a_delete_takes_what_its_selectors_name() {
    let mut client = Server::shared().connect();
    let long = format!("\"{}*\"", "s".repeat(5000));
    for topic in Server::shared().names("select") {
        let table = [
            // rule, body, seqs left, earliest
            ("X-8", r#"{"before_seq":0}"#, vec![1, 2, 3, 4, 5, 6, 7], 1),
            ("X-8", r#"{"before_seq":1}"#, vec![1, 2, 3, 4, 5, 6, 7], 1),
            ("X-6", r#"{"before_seq":4}"#, vec![4, 5, 6, 7], 4),
            ("X-4", r#"{"before_seq":8}"#, vec![], 8),
            ("X-4", r#"{"before_seq":18446744073709551615}"#, vec![], 8),
            ("X-6", r#"{"match":"refund"}"#, vec![1, 2, 4, 5, 6, 7], 1),
            ("X-3", r#"{"match":""}"#, vec![1, 2, 3, 4, 5, 7], 1),
            ("6 glob", r#"{"match":"*"}"#, vec![5], 5),
            ("6 glob", r#"{"match":"sale:*"}"#, vec![3, 4, 5, 6, 7], 3),
            ("6 glob", r#"{"match":"sal*"}"#, vec![3, 5, 6, 7], 3),
            ("6 glob", r#"{"match":"a**"}"#, vec![1, 2, 3, 4, 5, 6], 1),
            ("6 glob", r#"{"match":"s**"}"#, vec![1, 2, 3, 4, 5, 6, 7], 1),
            ("6 glob", r#"{"match":"a*b*"}"#, vec![1, 2, 3, 4, 5, 6], 1),
            ("6 eq", r#"{"match":"a*b"}"#, vec![1, 2, 3, 4, 5, 6], 1),
            ("6 Eq", r#"{"match":["tag","Eq","sale:1"]}"#, vec![2, 3, 4, 5, 6, 7], 2),
            ("6 Eq", r#"{"match":["tag","Eq","sal*"]}"#, vec![1, 2, 3, 4, 5, 6, 7], 1),
            ("6 Glob", r#"{"match":["tag","Glob","sale*"]}"#, vec![3, 4, 5, 6, 7], 3),
            ("6 Glob", r#"{"match":["tag","Glob","*"]}"#, vec![5], 5),
            ("X-1 and", r#"{"match":"sal*","before_seq":3}"#, vec![3, 4, 5, 6, 7], 3),
            ("X-1 and", r#"{"match":"refund","before_seq":3}"#, vec![1, 2, 3, 4, 5, 6, 7], 1),
            ("X-1 null", r#"{"match":null,"before_seq":3}"#, vec![3, 4, 5, 6, 7], 3),
            ("X-9", &format!("{{\"match\":{long}}}"), vec![1, 2, 3, 4, 5, 6, 7], 1),
            ("J-3", r#"{"before_seq":3,"dry_run":true}"#, vec![3, 4, 5, 6, 7], 3),
        ];
        for (rule, body, left, earliest) in table {
            fill(&mut client, &topic);
            let count = left.len() as u64;
            let expected = json!({
                "topic": topic, "deleted": 7 - count, "earliest_seq": earliest, "head_seq": 7,
                "count": count, "bytes": count,
            });
            assert_eq!(client.delete(&topic, body).steady(), expected, "X-5 X-7 {rule} {body}");
            let read = client.diff(&topic, "").json();
            let seqs: Vec<u64> = read["records"]
                .as_array()
                .expect("records")
                .iter()
                .filter_map(|r| r["$seq"].as_u64())
                .collect();
            assert_eq!((seqs, &read["tombstone"]), (left, &Value::Null), "X-5 D-8 {rule} {body}");
            assert_eq!(read["earliest_seq"], earliest, "X-6 I-20 {rule} {body}");
            let again = client.delete(&topic, body);
            assert_eq!(again.u64("deleted"), 0, "X-7 {rule} {body}");
            // X-4: what comes later stays, whatever its tag.
            client.append(&topic, r#"{"records":[{"data":8,"tag":"sale:1"}]}"#);
            assert_eq!(client.get(&format!("/v0/topics/{topic}")).u64("count"), count + 1, "X-4");
        }
    }
}

#[test]
fn a_delete_without_a_proper_selector_is_refused() {
    let mut client = Server::shared().connect();
    for topic in Server::shared().names("selector") {
        fill(&mut client, &topic);
        let before = client.snapshot(&topic);
        let bodies = [
            "{}",
            r#"{"before_seq":null}"#,
            r#"{"match":null,"before_seq":null}"#,
            r#"{"other":1}"#,
            r#"{"match":[]}"#,
            r#"{"match":["tag"]}"#,
            r#"{"match":["tag","Eq"]}"#,
            r#"{"match":["tag","Eq","a","b"]}"#,
            r#"{"match":["tag","eq","a"]}"#,
            r#"{"match":["tag","Glob","a"]}"#,
            r#"{"match":["tag","Glob",""]}"#,
            r#"{"match":["Tag","Eq","a"]}"#,
            r#"{"match":["node","Eq","a"]}"#,
            r#"{"match":["tag","Eq",1]}"#,
            r#"{"match":["tag","Eq",null]}"#,
            r#"{"match":["tag",["Eq"],"a"]}"#,
            r#"{"match":{"tag":"a"}}"#,
            r#"{"match":1}"#,
            r#"{"match":true,"before_seq":3}"#,
        ];
        for body in bodies {
            for name in [topic.as_str(), "absent"] {
                let answer = client.delete(name, body);
                answer.assert_fault(400, "invalid_request", &Value::Null, &format!("X-1 {body}"));
            }
        }
        client.delete(&topic, "").assert_fault(415, "unsupported_media_type", &Value::Null, "M-2");
        assert_eq!(client.snapshot(&topic), before, "I-36");
        let absent = json!({"topic": "absent"});
        client.delete("absent", r#"{"before_seq":1}"#).assert_fault(404, "topic_not_found", &absent, "X-2");
    }
}

#[test]
fn deleting_much_while_others_write_takes_only_what_was_there() {
    let server = Server::shared();
    for topic in server.names("much") {
        let mut client = server.connect();
        client.fresh(&topic, r#"{"durability":"memory"}"#);
        let records = vec![r#"{"data":1,"tag":"old"},{"data":2,"tag":"keep"}"#; 5000].join(",");
        client.append(&format!("{topic}?return_seqs=0"), &format!(r#"{{"records":[{records}]}}"#));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut writer = server.connect();
                for _ in 0..50 {
                    writer.append(&topic, r#"{"records":[{"data":3,"tag":"old"}]}"#);
                }
            });
            let answer = server.connect().delete(&topic, r#"{"match":"ol*"}"#);
            let deleted = answer.u64("deleted");
            let later = answer.u64("head_seq") - 10_000;
            // I-27: all that was there when it was ordered; what came since, at most not.
            assert!((5000..=5000 + later).contains(&deleted), "X-4: {deleted} {later}");
        });
        let state = client.get(&format!("/v0/topics/{topic}"));
        assert_eq!(state.u64("head_seq"), 10_050);
        let left = client.delete(&topic, r#"{"match":"old"}"#);
        assert_eq!(left.u64("count"), 5000, "I-8");
        assert_eq!(left.u64("deleted") + 5000, state.u64("count"), "I-8 X-7");
        assert_eq!(left.u64("earliest_seq"), 2, "X-6");
    }
}
