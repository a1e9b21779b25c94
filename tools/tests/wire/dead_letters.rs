//! Jobs that were handed out too often (§10.8): where they go, and that they are never in neither place.

use crate::harness::{Client, Server, pairs};
use crate::queues::seq_of;
use serde_json::{Value, json};

/// A queue that hands each job out `deliveries` times and then moves it to `dead`.
fn config(dead: &str, deliveries: u64, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { "," };
    format!(
        r#"{{"type":"queue","lease_ms":600000,"max_deliveries":{deliveries},"dead_letter":"{dead}"{comma}{more}}}"#
    )
}

/// Claims everything and gives it back, so many times.
fn wear_out(client: &mut Client, queue: &str, rounds: u64) {
    for _ in 0..rounds {
        let seqs = client.take(queue, "w", 1000);
        assert!(!seqs.is_empty(), "Q-60: it is handed out until then");
        client.settle(queue, "nack", "w", &seqs, "");
    }
}

#[test]
fn a_job_that_was_handed_out_too_often_moves() {
    let server = Server::shared();
    let mut client = server.connect();
    for [queue, dead] in pairs(server, "dead") {
        client.fresh(&queue, &config(&dead, 2, ""));
        client.drop_topic(&dead);
        let payload = r#"{"é\u00e9" : [1.0]}"#;
        client.append(
            &queue,
            &format!(
                r#"{{"records":[{{"data":{payload},"tag":"t","node":"n","meta":{{"a": [1 ],"$dead_letter_from":7}}}},
                {{"data":2,"meta":[1]}},{{"data":3}},{{"data":4,"meta":"text","tag":""}}]}}"#
            ),
        );
        wear_out(&mut client, &queue, 2);
        assert_eq!(client.counts(&queue), [4, 0, 0], "Q-60: not before the claim");
        assert_eq!(client.get(&format!("/v0/topics/{dead}")).status, 404, "Q-62: nor the topic");
        client.append_all(&queue, &["5", "6"]);
        // Q-15: they do not count toward `max`, and the claim goes on to the next job.
        let answer = client.claim(&queue, r#"{"node":"w","max":1}"#);
        assert_eq!(answer.member("claimed")[0]["$seq"], 5, "Q-15: {}", answer.text());
        assert_eq!((answer.u64("count"), answer.u64("ready")), (1, 1), "Q-15 Q-14");
        assert_eq!(client.counts(&queue), [1, 1, 4], "Q-80 I-88");
        assert_eq!(client.data(&queue), [5, 6], "Q-60");
        let state = client.state(&queue);
        assert_eq!((&state["earliest_seq"], &state["head_seq"]), (&json!(5), &json!(6)), "I-23");
        assert_eq!(client.diff(&queue, "").member("tombstone"), Value::Null, "I-23");
        // Q-61: what the copy has, and what it gained.
        let read = client.diff(&dead, r#"{"include_tags":true}"#);
        assert!(read.text().contains(&format!(r#""data":{payload}"#)), "Q-61 J-21: {}", read.text());
        assert!(read.text().contains("[1 ]"), "Q-61 J-21: {}", read.text());
        let records = read.json()["records"].as_array().expect("records").clone();
        assert_eq!(records.iter().map(seq_of).collect::<Vec<_>>(), [1, 2, 3, 4], "Q-61 I-2");
        for (at, record) in records.iter().enumerate() {
            let mut meta = json!({"$dead_letter_from": queue, "$dead_letter_deliveries": "2",
                "$dead_letter_src_seq": (at + 1).to_string()});
            if at == 0 {
                meta["a"] = json!([1]);
            }
            assert_eq!(record["meta"], meta, "Q-61");
        }
        let of = |at: usize, member: &str| records[at][member].clone();
        assert_eq!(
            (of(0, "$tag"), of(0, "$node"), of(3, "$tag")),
            (json!("t"), json!("n"), json!("")),
            "Q-61"
        );
        assert_eq!((of(1, "$tag"), of(1, "$node")), (Value::Null, Value::Null), "Q-61");
        // Q-62: a topic with the usual settings.
        let made = client.state(&dead);
        assert_eq!((&made["type"], &made["config"]["durability"]), (&json!("log"), &json!("disk")), "Q-62");
        // Both ends add up to what was sent (I-83).
        assert_eq!(client.state(&queue)["count"].as_u64().map(|left| left + 4), Some(6), "I-83");
    }
}

#[test]
fn jobs_move_only_with_both_settings_and_at_the_settings_of_the_moment() {
    let server = Server::shared();
    let mut client = server.connect();
    for [queue, dead] in pairs(server, "moment") {
        // Q-60: `max_deliveries` alone does nothing, and neither does `dead_letter` alone.
        for config in [
            r#"{"type":"queue","max_deliveries":1}"#.to_owned(),
            format!(r#"{{"type":"queue","dead_letter":"{dead}"}}"#),
        ] {
            client.queue(&queue, &config, 1);
            wear_out(&mut client, &queue, 4);
            assert_eq!(client.jobs(&queue, "w", 1)[0]["deliveries"], 5, "Q-60 Q-3");
            assert_eq!(client.get(&format!("/v0/topics/{dead}")).status, 404, "Q-60");
        }
        // The setting of the moment counts (CF-4), expiry counts as a hand-out, extending does not.
        client.settle(&queue, "nack", "w", &[1], "");
        client.put(&queue, &config(&dead, 6, ""));
        let job = client.claim(&queue, r#"{"node":"w","lease_ms":100}"#);
        assert_eq!(job.member("claimed")[0]["deliveries"], 6, "Q-60: the sixth of six");
        client.until_counts(&queue, [1, 0, 0], "Q-1");
        assert_eq!(client.take(&queue, "w", 1), [0; 0], "Q-60 Q-10");
        assert_eq!((client.counts(&queue), client.data(&dead)), ([0, 0, 1], vec![json!(1)]), "Q-60");
        // Q-80: of this instance only.
        client.queue(&queue, &config(&dead, 1, ""), 1);
        assert_eq!(client.counts(&queue), [1, 0, 0], "Q-80 I-70");
        client.drop_topic(&dead);
    }
}

#[test]
fn a_dead_letter_topic_without_room_leaves_the_job_where_it_is() {
    let server = Server::shared();
    let mut client = server.connect();
    for [queue, dead] in pairs(server, "stuck") {
        client.fresh(&dead, r#"{"discard":"reject","cap_records":1}"#);
        client.queue(&queue, &config(&dead, 1, ""), 3);
        wear_out(&mut client, &queue, 1);
        // Q-64: one fits, the others stay, are not handed out, and are not lost.
        for _ in 0..3 {
            assert_eq!(client.take(&queue, "w", 9), [0; 0], "Q-64 Q-60");
            assert_eq!(
                (client.data(&dead), client.data(&queue)),
                (vec![json!(1)], vec![json!(2), json!(3)]),
                "Q-64"
            );
            assert_eq!(client.counts(&queue)[2], 1, "Q-80");
            assert_eq!(client.state(&queue)["count"], 2, "I-83");
        }
        // Q-15: nor do they stand in the way of others.
        client.append_all(&queue, &["4"]);
        assert_eq!(client.take(&queue, "w", 9), [4], "Q-15 Q-62");
        // Q-62: tried again on a later claim, each place once.
        client.delete(&dead, r#"{"before_seq":2}"#);
        assert_eq!(client.take(&queue, "w", 9), [0; 0]);
        assert_eq!((client.data(&dead), client.counts(&queue)), (vec![json!(2)], [1, 1, 2]), "Q-62");
        client.put(&dead, "");
        assert_eq!(client.take(&queue, "w", 9), [0; 0]);
        assert_eq!(
            (client.data(&dead), client.counts(&queue)),
            (vec![json!(2), json!(3)], [0, 1, 3]),
            "Q-62 I-83"
        );
        client.drop_topic(&dead);
    }
}

#[test]
fn a_dead_letter_topic_that_may_not_be_made_leaves_the_job_where_it_is() {
    let server = Server::start(&[("RUNELOG_MAX_TOPICS", "2"), ("RUNELOG_MAX_TOTAL_BYTES", "400")]);
    let mut client = server.connect();
    for (at, queue) in server.names("nowhere").iter().enumerate() {
        let dead = &server.names("nowhere-dead")[1 - at];
        client.queue(queue, &config(dead, 1, ""), 2);
        client.fresh("other", "");
        wear_out(&mut client, queue, 1);
        assert_eq!(client.take(queue, "w", 9), [0; 0], "Q-62: max_topics");
        assert_eq!((client.counts(queue)[2], client.data(queue).len()), (0, 2), "Q-62 I-83");
        client.drop_topic("other");
        // Now by the quota: a copy is larger than its job.
        client.fresh(dead, "");
        let pad = format!("\"{}\"", "p".repeat(393));
        client.append_all(dead, &[&pad]);
        assert_eq!(client.take(queue, "w", 9), [0; 0], "Q-62: the quota");
        assert_eq!((client.counts(queue)[2], client.data(queue).len()), (0, 2), "Q-62 I-83 §13");
        client.drop_topic(dead);
        assert_eq!(client.take(queue, "w", 9), [0; 0]);
        assert_eq!((client.counts(queue), client.data(dead)), ([0, 0, 2], vec![json!(1), json!(2)]), "Q-62");
        for topic in [queue, dead] {
            client.drop_topic(topic);
        }
    }
}

#[test]
fn a_dead_letter_topic_can_be_a_queue_and_a_source() {
    // A queue whose dead letters are jobs of another, whose dead letters a router copies.
    let server = Server::shared();
    let mut client = server.connect();
    for (number, [first, second]) in pairs(server, "relay").iter().enumerate() {
        let (third, copy) = (format!("{first}-third"), format!("{second}-copy"));
        client.fresh(second, &config(&third, 1, ""));
        client.link(&format!("relay-{number}"), [&third, &copy], "");
        client.queue(first, &config(second, 1, ""), 2);
        wear_out(&mut client, first, 1);
        assert_eq!(client.take(first, "w", 9), [0; 0]);
        wear_out(&mut client, second, 1);
        assert_eq!(client.take(second, "w", 9), [0; 0]);
        let records = client.diff(&copy, "").json()["records"].as_array().expect("records").clone();
        assert_eq!(records.len(), 2, "R-30 Q-60");
        for (at, record) in records.iter().enumerate() {
            // Q-61: the last queue that gave it up.
            let meta = json!({"$dead_letter_from": second, "$dead_letter_deliveries": "1",
                "$dead_letter_src_seq": (at + 1).to_string()});
            assert_eq!((&record["data"], &record["meta"]), (&json!(at + 1), &meta), "Q-61");
        }
    }
}
