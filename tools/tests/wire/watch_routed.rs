//! Streams over the destinations of routers (R-30, R-36, §8, §9).

use crate::harness::Server;
use serde_json::json;

#[test]
fn copies_arrive_on_streams_of_their_destination() {
    let server = Server::shared();
    let [first, second] = server.names("routed");
    let third = format!("{first}-same");
    let mut client = server.connect();
    for (source, dest) in [(&first, &second), (&second, &first), (&first, &third)] {
        for topic in [source, dest] {
            client.fresh(topic, "");
        }
        let body = json!({"source": source, "dest": dest}).to_string();
        assert_eq!(client.call("PUT", &format!("/v0/routers/{source}-to"), &body).status, 201, "R-1");
        // Written before anybody looks: the first read has it (R-30).
        client.append_all(source, &["1", "2"]);
        let mut sse = server.watch(&json!({"topics": {(dest): {}}}));
        let mut ws = server.websocket();
        ws.ask(&json!({"op": "subscribe", "topic": dest}));
        sse.expect_records(dest, 1..=2);
        ws.expect_records(dest, 1..=2);
        sse.expect("caught-up", dest);
        ws.expect("caught_up", dest);
        for seq in 3..=12 {
            client.append_all(source, &[&seq.to_string()]);
            assert_eq!(sse.expect_records(dest, [seq]).data["records"][0]["data"], seq, "R-32 I-60");
            assert_eq!(ws.expect_records(dest, [seq])["records"][0]["data"], seq, "R-32 I-60");
            sse.expect("caught-up", dest);
            ws.expect("caught_up", dest);
        }
        client.drop_topic(source);
        client.drop_topic(dest);
    }
}

#[test]
fn what_a_source_lost_is_a_gap_in_its_destination() {
    let server = Server::shared();
    let [first, second] = server.names("trimmed");
    let mut client = server.connect();
    for (source, dest) in [(&first, &second), (&second, &first)] {
        client.fresh(source, r#"{"cap_records":3}"#);
        client.fresh(dest, r#"{"cap_records":2,"discard":"reject"}"#);
        let body = json!({"source": source, "dest": dest}).to_string();
        assert_eq!(client.call("PUT", "/v0/routers/trimmed", &body).status, 201, "R-1");
        client.append_all(source, &["1", "2"]);
        let mut sse = server.watch(&json!({"topics": {(dest): {}}}));
        sse.expect_records(dest, 1..=2);
        sse.expect("caught-up", dest);
        // The destination is full: the router stands (R-35) while its source loses 3 and 4.
        client.append_all(source, &["3", "4", "5", "6", "7"]);
        assert_eq!(client.delete(dest, r#"{"before_seq":3}"#).u64("deleted"), 2);
        let gap = sse.expect("tombstone", dest);
        let shown = (gap.data["reason"].as_str(), gap.u64("gap_from"), gap.u64("gap_to"));
        assert_eq!(shown, (Some("source_trim"), 3, 4), "V-20 R-36");
        let events = sse.until_caught_up(dest, 6);
        let batches = events.iter().filter(|event| event.kind == "record");
        let records: Vec<_> =
            batches.flat_map(|event| event.data["records"].as_array().expect("records")).collect();
        let shown = records.iter().map(|record| (&record["$seq"], &record["data"]));
        assert!(shown.eq([(&json!(5), &json!(5)), (&json!(6), &json!(6))]), "R-36 I-68: {records:?}");
        assert_eq!(client.delete(dest, r#"{"before_seq":7}"#).u64("deleted"), 2);
        assert_eq!(sse.expect_records(dest, [7]).data["records"][0]["data"], 7, "R-35");
        // Read again from the start: the gap is still what it was, and nothing else is (I-24, V-20).
        let mut ws = server.websocket();
        ws.ask(&json!({"op": "subscribe", "topic": dest}));
        let gap = ws.expect("tombstone", dest);
        assert_eq!((&gap["reason"], &gap["gap_to"]), (&json!("source_trim"), &json!(4)), "WS-31 I-25");
        ws.expect_records(dest, [7]);
        client.drop_topic(source);
        client.drop_topic(dest);
    }
}
