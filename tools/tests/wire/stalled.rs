//! Routers that cannot go on: a full destination, and a source that loses records meanwhile (R-33, R-35,
//! R-36, I-68, I-69).

use crate::harness::{Client, Server, pairs};
use crate::routers::body;
use serde_json::{Value, json};

/// What a reader that follows its cursor from 0 sees: live records as seq and data, and gaps with reasons.
struct Seen {
    records: Vec<(u64, Value)>,
    gaps: Vec<(u64, u64, String)>,
}

fn follow(client: &mut Client, topic: &str, limit: u64) -> Seen {
    let (mut seen, mut cursor) = (Seen { records: Vec::new(), gaps: Vec::new() }, 0);
    loop {
        let read = client.diff(topic, &format!(r#"{{"from_seq":{cursor},"limit":{limit}}}"#)).json();
        let next = read["next_from_seq"].as_u64().expect("a cursor");
        assert!(next > cursor || read["caught_up"] == true, "D-3: {read}");
        let gap = &read["tombstone"];
        if !gap.is_null() {
            let [from, to, missed, earliest] = ["gap_from", "gap_to", "missed_estimate", "earliest_seq"]
                .map(|name| gap[name].as_u64().unwrap_or_else(|| panic!("{name} in {gap}")));
            assert_eq!((missed, earliest), (to - from + 1, to + 1), "§5.1 {gap}");
            assert!(from > cursor && to <= next, "D-12: {read}");
            seen.gaps.push((from, to, gap["reason"].as_str().expect("a reason").to_owned()));
        }
        for record in read["records"].as_array().expect("records") {
            let seq = record["$seq"].as_u64().expect("a seq");
            assert!(seq > cursor && seq <= next, "D-2 D-3: {read}");
            assert!(seen.records.last().is_none_or(|(last, _)| *last < seq), "D-2: {read}");
            let hidden = seen.gaps.iter().any(|(from, to, _)| (*from..=*to).contains(&seq));
            assert!(!hidden, "I-68: delivered and declared lost: {read}");
            seen.records.push((seq, record["data"].clone()));
        }
        cursor = next;
        if read["caught_up"] == true {
            return seen;
        }
    }
}

fn trimmed(from: u64, to: u64) -> (u64, u64, String) {
    (from, to, "source_trim".into())
}

fn total(client: &mut Client, router: &str) -> u64 {
    client.router(router).u64("forwarded_total")
}

#[test]
fn a_full_destination_stops_its_router_and_no_other() {
    let server = Server::shared();
    let mut client = server.connect();
    // Bytes: three records of one byte and one of two fill five.
    for (cap, fits) in [(r#""cap_records":3"#, 3_u64), (r#""cap_bytes":5"#, 4)] {
        for (number, [source, dest]) in pairs(server, &format!("full-{fits}")).iter().enumerate() {
            let (router, free) = (format!("full-{fits}-{number}"), format!("{dest}-free"));
            client.fresh(dest, &format!(r#"{{"discard":"reject",{cap}}}"#));
            client.link(&router, [source, dest], "");
            client.link(&format!("{router}-free"), [source, &free], "");
            client.append_all(source, &["1", "2", "3", "14", "15"]);
            client.append_all(source, &["16"]);
            assert_eq!(client.data(dest), [1, 2, 3, 14][..fits as usize], "R-35 {cap}");
            let state = client.state(dest);
            assert_eq!((&state["head_seq"], &state["earliest_seq"]), (&json!(fits), &json!(1)), "R-35 I-34");
            assert_eq!(total(&mut client, &router), fits, "R-37");
            // I-48, I-69: the source and its other router go on.
            assert_eq!(client.data(&free), [1, 2, 3, 14, 15, 16], "I-69");
            // A direct write is refused like any other (W-31), and takes no seq.
            assert_eq!(client.append(dest, r#"{"records":[{"data":77}]}"#).status, 422, "W-31 R-10");
            // What is freed is used, in order, and nothing is lost.
            for cut in 1..=6_u64 {
                client.delete(dest, &format!(r#"{{"before_seq":{cut}}}"#));
                let state = client.state(dest);
                let head = match fits {
                    3 => cut + 2,
                    // 1 2 3 14, 2 3 14 (room for one byte, and two are needed), 3 14 15, 14 15, 15 16, 16
                    _ => [4, 4, 5, 5, 6, 6][cut as usize - 1],
                };
                assert_eq!(state["head_seq"], head.min(6), "R-35 I-35 {cap} {cut}");
                assert_eq!(total(&mut client, &router), head.min(6), "R-37");
            }
            let seen = follow(&mut client, dest, 100);
            assert_eq!((seen.records, seen.gaps), (vec![(6, json!(16))], vec![]), "R-35 I-23 {cap}");
        }
    }
}

#[test]
fn a_drained_destination_gets_every_copy_in_order() {
    let server = Server::shared();
    let mut client = server.connect();
    for (number, [source, dest]) in pairs(server, "drain").iter().enumerate() {
        client.fresh(dest, r#"{"discard":"reject","cap_records":4,"type":"queue"}"#);
        client.link(&format!("drain-{number}"), [source, dest], "");
        let data: Vec<String> = (1..=30).map(|data| data.to_string()).collect();
        client.append_all(source, &data.iter().map(String::as_str).collect::<Vec<_>>());
        // A worker that takes what there is: each ack makes room for one more copy (I-35).
        let mut worked = Vec::new();
        while worked.len() < 30 {
            let claim = client.call("POST", &format!("/v0/topics/{dest}/claim"), r#"{"node":"w","max":3}"#);
            let claimed = claim.json()["claimed"].as_array().expect("jobs").clone();
            assert!(!claimed.is_empty(), "R-35 Q-16: {}", claim.text());
            let state = client.state(dest);
            assert!(state["count"].as_u64() <= Some(4), "I-34: {state}");
            let seqs: Vec<_> = claimed.iter().map(|job| job["$seq"].clone()).collect();
            worked.extend(claimed.iter().map(|job| job["data"].as_u64().expect("a number")));
            let ack = json!({"node": "w", "seqs": seqs}).to_string();
            assert_eq!(
                client.call("POST", &format!("/v0/topics/{dest}/ack"), &ack).u64("acked"),
                seqs.len() as u64
            );
        }
        assert_eq!(worked, (1..=30).collect::<Vec<u64>>(), "R-35 I-69");
        assert_eq!(client.state(dest)["count"], 0);
    }
}

#[test]
fn records_deleted_before_their_turn_are_not_copied() {
    let server = Server::shared();
    let mut client = server.connect();
    for (number, [source, dest]) in pairs(server, "undone").iter().enumerate() {
        client.fresh(dest, r#"{"discard":"reject","cap_records":1}"#);
        client.link(&format!("undone-{number}"), [source, dest], "");
        let records = r#"{"records":[{"data":1},{"data":2,"tag":"x"},{"data":3},{"data":4,"tag":"x"}]}"#;
        client.append(source, records);
        assert_eq!(client.data(dest), [1], "R-35");
        client.delete(source, r#"{"match":"x"}"#);
        client.put(dest, "");
        assert_eq!(follow(&mut client, dest, 100).records, [(1, json!(1)), (2, json!(3))], "R-33");
        assert_eq!(total(&mut client, &format!("undone-{number}")), 2, "R-37");
    }
}

#[test]
fn records_that_the_source_lost_leave_a_gap_and_hide_nothing() {
    let server = Server::shared();
    let mut client = server.connect();
    for (number, [source, dest]) in pairs(server, "trim").iter().enumerate() {
        let router = format!("trim-{number}");
        client.fresh(source, r#"{"cap_records":3}"#);
        client.fresh(dest, r#"{"discard":"reject","cap_records":3}"#);
        client.link(&router, [source, dest], "");
        client.append_all(source, &["1", "2"]);
        assert_eq!(client.state(dest)["head_seq"], 2, "R-30");
        client.append_all(dest, &["\"direct\""]);
        // Full. Of 3 to 10 the source keeps the last three.
        for data in 3..=10 {
            client.append_all(source, &[&data.to_string()]);
        }
        assert_eq!((client.data(source), client.data(dest).len()), (vec![json!(8), json!(9), json!(10)], 3));
        client.put(dest, r#"{"discard":"reject","cap_records":5}"#);
        // Five vacant seqs, 4 to 8, then two of the three that are left.
        let live = [(1, json!(1)), (2, json!(2)), (3, json!("direct")), (9, json!(8)), (10, json!(9))];
        for limit in [1, 2, 100] {
            let seen = follow(&mut client, dest, limit);
            assert_eq!(seen.records, live, "R-36 I-68: limit {limit}");
            assert_eq!(seen.gaps, [trimmed(4, 8)], "R-36 D-14: limit {limit}");
        }
        // D-12, D-14, D-16: by cursor, inside the gap and at its ends.
        for (cursor, gap) in [(3, 4..=8), (4, 5..=8), (7, 8..=8)] {
            let read = client.diff(dest, &format!(r#"{{"from_seq":{cursor}}}"#)).json();
            let expected = json!({"gap_from": gap.start(), "gap_to": 8, "reason": "source_trim",
                "missed_estimate": 8 - cursor, "earliest_seq": 9, "head_seq": 10});
            assert_eq!(read["tombstone"], expected, "D-12 D-14 from {cursor}");
            assert_eq!(read["records"][0]["$seq"], 9, "D-13 from {cursor}");
        }
        assert_eq!(client.diff(dest, r#"{"from_seq":8}"#).member("tombstone"), Value::Null, "D-16");
        let state = client.state(dest);
        assert_eq!((&state["earliest_seq"], &state["count"]), (&json!(1), &json!(5)), "I-20 I-33");
        // R-36: the vacancies count as delivered.
        assert_eq!(total(&mut client, &router), 2 + 5 + 2, "R-36");
        // Deleting what stands before the gap changes nothing about it.
        client.delete(dest, r#"{"before_seq":3}"#);
        let seen = follow(&mut client, dest, 100);
        let live = [(3, json!("direct")), (9, json!(8)), (10, json!(9)), (11, json!(10))];
        assert_eq!((seen.records, seen.gaps), (live.to_vec(), vec![trimmed(4, 8)]), "I-23 R-35");
        // D-14: where a floor of dest's own reaches, its reason is shown.
        client.put(dest, r#"{"cap_records":2}"#);
        let read = client.diff(dest, "").json();
        let gap = &read["tombstone"];
        assert_eq!((&gap["gap_from"], &gap["reason"]), (&json!(1), &json!("cap")), "D-14 {read}");
        let seen = follow(&mut client, dest, 100);
        assert_eq!(seen.records, [(10, json!(9)), (11, json!(10))], "I-30 {:?}", seen.gaps);
        assert_eq!(client.state(dest)["earliest_seq"], 10, "I-20");
    }
}

#[test]
fn each_loss_of_the_source_is_a_gap_of_its_own() {
    let server = Server::shared();
    let mut client = server.connect();
    for (number, [source, dest]) in pairs(server, "trims").iter().enumerate() {
        let router = format!("trims-{number}");
        client.fresh(dest, r#"{"discard":"reject","cap_records":1}"#);
        client.link(&router, [source, dest], "");
        let mut live = Vec::new();
        let mut gaps = Vec::new();
        let mut head = 0;
        for round in 1..=3_u64 {
            // One copy fills dest; of the next four the source loses three, by its cap or by age.
            client.put(source, "");
            client.append_all(source, &[&round.to_string()]);
            head += 1;
            live.push((head, json!(round)));
            assert_eq!(follow(&mut client, dest, 100).records, live, "R-35 {round}");
            client.append_all(source, &["21", "22", "23"]);
            if round == 2 {
                client.put(source, r#"{"ttl_ms":1}"#);
                client.until(&format!("/v0/topics/{source}"), "CF-10", |state| state["count"] == 0);
                client.put(source, "");
                client.append_all(source, &["24"]);
            } else {
                client.append_all(source, &["24"]);
                client.put(source, r#"{"cap_records":1}"#);
            }
            gaps.push(trimmed(head + 1, head + 3));
            head += 4;
            live.push((head, json!(24)));
            client.put(dest, &format!(r#"{{"discard":"reject","cap_records":{}}}"#, round * 2));
            let seen = follow(&mut client, dest, 100);
            assert_eq!((seen.records, seen.gaps), (live.clone(), gaps.clone()), "R-36 D-16 {round}");
            client.put(dest, &format!(r#"{{"discard":"reject","cap_records":{}}}"#, round * 2 + 1));
            assert_eq!(total(&mut client, &router), head, "R-36");
        }
        let ones = follow(&mut client, dest, 1);
        assert_eq!((ones.records, ones.gaps), (live, gaps), "D-16 I-26");
        assert_eq!(client.state(dest)["count"], 6, "I-8 I-33");
    }
}

#[test]
fn a_source_that_loses_everything_still_tells_its_destination() {
    let server = Server::shared();
    let mut client = server.connect();
    for (number, [source, dest]) in pairs(server, "all").iter().enumerate() {
        client.fresh(source, r#"{"cap_bytes":4}"#);
        client.link(&format!("all-{number}"), [source, dest], "");
        // Larger than the cap: taken, and gone at once (CF-12).
        client.append_all(source, &["\"too large\"", "\"too large\""]);
        client.append_all(source, &["7"]);
        let seen = follow(&mut client, dest, 100);
        assert_eq!(seen.records, [(3, json!(7))], "R-36");
        assert_eq!(seen.gaps, [trimmed(1, 2)], "R-36 CF-12");
        // A batch larger than the cap of its source (W-33).
        client.put(source, r#"{"cap_records":2}"#);
        client.append_all(source, &["11", "12", "13", "14", "15"]);
        let seen = follow(&mut client, dest, 100);
        assert_eq!(seen.records, [(3, json!(7)), (7, json!(14)), (8, json!(15))], "R-36 W-33");
        assert_eq!(seen.gaps, [trimmed(1, 2), trimmed(4, 6)], "R-36 W-33");
        assert_eq!(client.put_router(&format!("all-{number}"), &body(source, dest, "")).status, 200);
        assert_eq!(total(&mut client, &format!("all-{number}")), 8, "R-6 R-36");
    }
}
