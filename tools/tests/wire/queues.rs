//! Queues: claim, ack, nack, extend, and what they count (§10.1 to §10.6, §10.8).

use crate::harness::{Answer, Client, Server};
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime};

/// A lease that no test outlives.
pub(crate) const LONG: &str = r#"{"type":"queue","lease_ms":600000}"#;

impl Client {
    pub(crate) fn claim(&mut self, topic: &str, body: &str) -> Answer {
        self.call("POST", &format!("/v0/topics/{topic}/claim"), body)
    }

    /// Claims and returns the jobs.
    pub(crate) fn jobs(&mut self, topic: &str, node: &str, max: u64) -> Vec<Value> {
        let answer = self.claim(topic, &format!(r#"{{"node":"{node}","max":{max}}}"#));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["claimed"].as_array().expect("Q-10: an array").clone()
    }

    /// Claims; the seqs.
    pub(crate) fn take(&mut self, topic: &str, node: &str, max: u64) -> Vec<u64> {
        self.jobs(topic, node, max).iter().map(seq_of).collect()
    }

    /// `ack`, `nack` or `extend` of these seqs.
    pub(crate) fn settle(&mut self, topic: &str, what: &str, node: &str, seqs: &[u64], more: &str) -> Answer {
        let comma = if more.is_empty() { "" } else { "," };
        let body = format!(r#"{{"node":"{node}","seqs":{}{comma}{more}}}"#, json!(seqs));
        self.call("POST", &format!("/v0/topics/{topic}/{what}"), &body)
    }

    /// Ready, in flight, dead-lettered; and the counters add up (I-88).
    pub(crate) fn counts(&mut self, topic: &str) -> [u64; 3] {
        let state = self.get(&format!("/v0/topics/{topic}?touch=false")).json();
        let queue = state["queue"].as_object().unwrap_or_else(|| panic!("§3.2: {state}"));
        assert_eq!(queue.len(), 3, "§3.2: {state}");
        let counts = ["ready", "in_flight", "dead_lettered"]
            .map(|name| queue[name].as_u64().unwrap_or_else(|| panic!("I-88: {name} in {state}")));
        assert!(counts[0] + counts[1] <= state["count"].as_u64().expect("a count"), "I-88: {state}");
        counts
    }

    /// Polls until the counts are these.
    pub(crate) fn until_counts(&mut self, topic: &str, counts: [u64; 3], what: &str) {
        let began = Instant::now();
        while self.counts(topic) != counts {
            assert!(began.elapsed() < crate::harness::PATIENCE, "{what}: {:?}", self.counts(topic));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A queue of so many jobs; data is the seq.
    pub(crate) fn queue(&mut self, topic: &str, config: &str, jobs: u64) {
        self.fresh(topic, config);
        if jobs > 0 {
            let data: Vec<String> = (1..=jobs).map(|seq| seq.to_string()).collect();
            self.append_all(topic, &data.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }
}

pub(crate) fn seq_of(job: &Value) -> u64 {
    job["$seq"].as_u64().unwrap_or_else(|| panic!("Q-11: {job}"))
}

pub(crate) fn text_of<'a>(job: &'a Value, member: &str) -> &'a str {
    job[member].as_str().unwrap_or_else(|| panic!("Q-11: {member} in {job}"))
}

fn now_ms() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as u64
}

#[test]
fn a_claim_hands_out_jobs_in_order() {
    let server = Server::shared();
    let mut client = server.connect();
    for topic in server.names("claim") {
        client.fresh(&topic, LONG);
        let nothing = json!({"topic": topic, "claimed": [], "count": 0, "ready": 0});
        assert_eq!(client.claim(&topic, r#"{"node":"w"}"#).steady(), nothing, "Q-10");
        let payload = r#"{"to" : "a\u0040x"}"#;
        client.append(
            &topic,
            &format!(
                r#"{{"node":"n","records":[{{"data":{payload},"tag":"t","meta":[ 1]}},{{"data":null}}]}}"#
            ),
        );
        client.append_all(&topic, &["3", "4", "5"]);
        let before = now_ms();
        let answer = client.claim(&topic, r#"{"node":"w1","max":2,"lease_ms":50000}"#);
        let after = now_ms();
        assert!(answer.text().contains(&format!(r#""data":{payload}"#)), "J-21: {}", answer.text());
        assert!(answer.text().contains(r#""meta":[ 1]"#), "J-21: {}", answer.text());
        let jobs = answer.json()["claimed"].as_array().expect("jobs").clone();
        assert_eq!((answer.u64("count"), answer.u64("ready"), jobs.len()), (2, 3, 2), "Q-10 Q-14");
        let deadline = jobs[0]["deadline"].as_u64().expect("Q-11");
        assert!((before + 50_000..=after + 50_000).contains(&deadline), "Q-12: {deadline}");
        assert_eq!(jobs[1]["deadline"], deadline, "Q-12");
        let read = client.diff(&topic, r#"{"include_tags":true}"#).json();
        for (at, job) in jobs.iter().enumerate() {
            let lease = text_of(job, "lease_id").strip_prefix("lease_").expect("Q-13");
            let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            assert!(!lease.is_empty() && lease.bytes().all(is_hex), "Q-13: {lease}");
            let mut expected = read["records"][at].clone();
            let members = expected.as_object_mut().expect("a record");
            members.remove("$node"); // Q-11: jobs have none
            members.insert("lease_id".into(), job["lease_id"].clone());
            members.insert("deadline".into(), deadline.into());
            members.insert("deliveries".into(), 1.into());
            assert_eq!(*job, expected, "Q-11 Q-3");
        }
        assert_ne!(jobs[0]["lease_id"], jobs[1]["lease_id"], "Q-13");
        // Q-10: nothing is claimed twice (I-80); `max` 0 is 1, and a default lease is the topic's.
        let before = now_ms();
        let more = client.jobs(&topic, "w1", 0);
        assert_eq!(more.iter().map(seq_of).collect::<Vec<_>>(), [3], "§10.2 I-80");
        assert!(more[0]["deadline"].as_u64() >= Some(before + 600_000), "§10.2 lease_ms");
        assert_eq!(client.take(&topic, "w2", 4_294_967_295), [4, 5], "§10.2 Q-12");
        assert_eq!(client.counts(&topic), [0, 5, 0], "Q-80");
        // I-89: readers see all of them.
        assert_eq!(client.diff(&topic, "").member("records").as_array().map(Vec::len), Some(5), "I-89");
        // §10.2: at most 1000 at once.
        let records = vec![r#"{"data":1}"#; 1100].join(",");
        client.append(&topic, &format!(r#"{{"records":[{records}]}}"#));
        let all = client.take(&topic, "w3", 5000);
        assert_eq!((all[0], all.len(), all[999]), (6, 1000, 1005), "§10.2 max");
        assert_eq!(client.counts(&topic), [100, 1005, 0], "Q-80");
    }
}

#[test]
fn leases_are_clamped() {
    let server = Server::shared();
    let mut client = server.connect();
    for topic in server.names("clamp") {
        client.queue(&topic, r#"{"type":"queue","lease_ms":5000}"#, 6);
        let table = [
            // rule, lease asked for, lease got
            ("Q lease_ms", "null", 5000),
            ("Q lease_ms", "99", 100),
            ("Q lease_ms", "0", 100),
            ("Q lease_ms", "86400001", 86_400_000),
            ("Q lease_ms", "18446744073709551615", 86_400_000),
        ];
        for (rule, lease, got) in table {
            let before = now_ms();
            let answer = client.claim(&topic, &format!(r#"{{"node":"w","lease_ms":{lease}}}"#));
            let after = now_ms();
            let deadline = answer.json()["claimed"][0]["deadline"].as_u64().expect("Q-11");
            assert!((before + got..=after + got).contains(&deadline), "§10.2 {rule} {lease}: {deadline}");
        }
        // Q-55: the same of extend, also to less than before.
        client.queue(&topic, r#"{"type":"queue","lease_ms":600000}"#, 1);
        let lease = client.jobs(&topic, "w", 1)[0]["lease_id"].clone();
        for (asked, got) in [("99", 100), ("86400001", 86_400_000), ("700000", 700_000), ("400000", 400_000)]
        {
            let before = now_ms();
            let answer = client.settle(&topic, "extend", "w", &[1], &format!(r#""lease_ms":{asked}"#));
            let after = now_ms();
            let deadline = answer.member("deadlines")["1"].as_u64().expect("Q-56");
            assert!((before + got..=after + got).contains(&deadline), "Q-55 {asked}: {deadline}");
            let expected =
                json!({"topic": topic, "extended": 1, "skipped": [], "deadlines": {"1": deadline}});
            assert_eq!(answer.steady(), expected, "Q-56: neither ready nor in_flight");
            if got == 100 {
                // It ends soon, and the next claim has it again.
                client.until_counts(&topic, [1, 0, 0], "Q-55 Q-1");
                let job = client.jobs(&topic, "w", 1).remove(0);
                assert_eq!((&job["deliveries"], job["lease_id"] == lease), (&json!(2), false), "Q-3 Q-13");
            }
        }
        // Q-57, Q-3: neither token nor deliveries change; a seq given twice counts twice (Q-56).
        client.queue(&topic, LONG, 1);
        let lease = client.jobs(&topic, "w", 1)[0]["lease_id"].clone();
        let answer = client.settle(&topic, "extend", "w", &[1, 1, 9], r#""lease_ms":1000000"#);
        assert_eq!((answer.u64("extended"), answer.member("skipped")), (2, json!([9])), "Q-56");
        let fence = format!(r#""delay_ms":0,"lease_ids":[{lease}]"#);
        assert_eq!(client.settle(&topic, "nack", "w", &[1], &fence).u64("nacked"), 1, "Q-57");
        assert_eq!(client.jobs(&topic, "w", 1)[0]["deliveries"], 2, "Q-3: extending is no hand-out");
    }
}

#[test]
fn returned_jobs_go_first_and_the_lowest_of_them() {
    let server = Server::shared();
    let mut client = server.connect();
    for topic in server.names("order") {
        client.queue(&topic, LONG, 8);
        assert_eq!(client.take(&topic, "w", 6), [1, 2, 3, 4, 5, 6], "Q-2");
        for seq in [5, 2, 4] {
            let answer = client.settle(&topic, "nack", "w", &[seq], "");
            assert_eq!(answer.u64("nacked"), 1, "Q-51");
        }
        assert_eq!(client.counts(&topic), [5, 3, 0], "Q-51 Q-80");
        assert_eq!(client.take(&topic, "w", 1), [2], "Q-2");
        assert_eq!(client.take(&topic, "w", 1), [4], "Q-2");
        client.settle(&topic, "nack", "w", &[1], "");
        // Q-2 chooses 1, 5 and 7; Q-12 shows them by seq.
        let jobs = client.jobs(&topic, "v", 3);
        let shown: Vec<_> = jobs.iter().map(|job| (seq_of(job), job["deliveries"].as_u64())).collect();
        assert_eq!(shown, [(1, Some(2)), (5, Some(2)), (7, Some(1))], "Q-2 Q-3 Q-12");
        assert_eq!(client.take(&topic, "v", 9), [8], "Q-2");
        // Deleted and acked ones do not come back (Q-40, X-10).
        client.settle(&topic, "ack", "v", &[1], "");
        client.settle(&topic, "nack", "v", &[5, 7], "");
        client.delete(&topic, r#"{"before_seq":6}"#);
        assert_eq!(client.take(&topic, "v", 9), [7], "X-10 Q-40");
    }
}

#[test]
fn an_expired_lease_is_nobodys() {
    let server = Server::shared();
    let mut client = server.connect();
    for topic in server.names("expire") {
        client.queue(&topic, LONG, 3);
        let answer = client.claim(&topic, r#"{"node":"w","max":2,"lease_ms":100}"#);
        let first = answer.json()["claimed"][0].clone();
        assert_eq!(client.take(&topic, "v", 1), [3], "I-80");
        // Noticed by a state read, with no claim in between (Q-1).
        client.until_counts(&topic, [2, 1, 0], "Q-1");
        for what in ["ack", "nack", "extend"] {
            let answer = client.settle(&topic, what, "w", &[1, 2], r#""lease_ms":100,"delay_ms":0"#);
            assert_eq!(answer.member("skipped"), json!([1, 2]), "Q-31 I-82 {what}");
        }
        // By a claim: whoever gets it, gets it after the deadline of the one before (I-80).
        let again = client.claim(&topic, r#"{"node":"v","lease_ms":100}"#).json()["claimed"][0].clone();
        assert_eq!((seq_of(&again), &again["deliveries"]), (1, &json!(2)), "Q-2 Q-3");
        let (one, two) = (first["deadline"].as_u64(), again["deadline"].as_u64());
        assert!(two.expect("Q-11") - 100 > one.expect("Q-11"), "I-80 Q-1: {first} {again}");
        let began = Instant::now();
        let third = loop {
            // Job 2 is taken by the first of these, job 1 once its lease is over.
            let answer = client.claim(&topic, r#"{"node":"u","lease_ms":600000}"#).json();
            if answer["claimed"][0]["$seq"] == 1 {
                break answer["claimed"][0].clone();
            }
            assert!(began.elapsed() < crate::harness::PATIENCE, "I-81: {answer}");
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(third["deliveries"], 3, "Q-3");
        assert!(third["deadline"].as_u64().expect("Q-11") - 600_000 > two.expect("Q-11"), "I-80");
        // The stale tokens fence nothing (I-82); the valid one acks.
        for lease in [&first["lease_id"], &again["lease_id"]] {
            let fence = format!(r#""lease_ids":[{lease}]"#);
            assert_eq!(client.settle(&topic, "ack", "u", &[1], &fence).u64("acked"), 0, "Q-32 I-82");
        }
        let fence = format!(r#""lease_ids":[{}]"#, third["lease_id"]);
        assert_eq!(client.settle(&topic, "ack", "u", &[1], &fence).u64("acked"), 1, "Q-32");
    }
}

#[test]
fn only_the_holder_ends_a_lease() {
    let server = Server::shared();
    let mut client = server.connect();
    for topic in server.names("holder") {
        client.queue(&topic, LONG, 6);
        let jobs = client.jobs(&topic, "w", 4);
        assert_eq!(client.take(&topic, "v", 1), [5]);
        let long = "w".repeat(400);
        for (node, seqs) in
            [("other", vec![1, 2]), ("W", vec![1]), (long.as_str(), vec![1]), ("v", vec![1, 4])]
        {
            for what in ["ack", "nack", "extend"] {
                let answer = client.settle(&topic, what, node, &seqs, r#""lease_ms":1000"#);
                assert_eq!(answer.member("skipped"), json!(seqs), "Q-30 Q-31 I-82 {node} {what}");
            }
        }
        // Q-31: in request order, whatever is wrong with them.
        let answer = client.settle(&topic, "ack", "w", &[99, 2, 0, 6, 5, u64::MAX, 2, 1], "");
        let expected = json!({
            "topic": topic, "acked": 2, "skipped": [99, 0, 6, 5, u64::MAX, 2], "ready": 1, "in_flight": 3,
        });
        assert_eq!(answer.steady(), expected, "Q-31 Q-40 Q-33");
        // Q-33: once more changes nothing further.
        let answer = client.settle(&topic, "ack", "w", &[2, 1], "");
        let expected = json!({"topic": topic, "acked": 0, "skipped": [2, 1], "ready": 1, "in_flight": 3});
        assert_eq!(answer.steady(), expected, "Q-33");
        // Q-30: an empty list does nothing.
        let answer = client.settle(&topic, "nack", "w", &[], "");
        let expected = json!({"topic": topic, "nacked": 0, "skipped": [], "ready": 1, "in_flight": 3});
        assert_eq!(answer.steady(), expected, "Q-30 Q-51");
        // Q-32: fences, one for each seq.
        let (three, four) = (text_of(&jobs[2], "lease_id"), text_of(&jobs[3], "lease_id"));
        for (fences, nacked) in [
            (json!([four, three]), 0),
            (json!(["lease_0", "lease_ffffffffffffffffffffffff"]), 0),
            (json!([three, ""]), 2),
        ] {
            let answer = client.settle(&topic, "nack", "w", &[3, 4], &format!(r#""lease_ids":{fences}"#));
            assert_eq!(answer.u64("nacked"), nacked, "Q-32 {fences}");
            let skipped = if nacked == 0 { json!([3, 4]) } else { json!([]) };
            assert_eq!(answer.member("skipped"), skipped, "Q-32");
        }
        let jobs = client.jobs(&topic, "w", 2);
        let upper = text_of(&jobs[0], "lease_id")[6..].to_ascii_uppercase();
        let fence = format!(r#""lease_ids":["lease_{upper}"]"#);
        assert_eq!(client.settle(&topic, "ack", "w", &[3], &fence).u64("acked"), 1, "Q-32: either case");
        assert_eq!(client.settle(&topic, "ack", "w", &[4], r#""lease_ids":[]"#).u64("acked"), 1, "Q-32");
    }
}

#[test]
fn an_ack_deletes_and_counts_silently() {
    let server = Server::shared();
    let mut client = server.connect();
    for class in ["ephemeral", "memory", "disk", "fsync"] {
        for topic in server.names(&format!("acked-{class}")) {
            client.queue(&topic, &format!(r#"{{"type":"queue","durability":"{class}"}}"#), 4);
            client.take(&topic, "w", 4);
            let answer = client.settle(&topic, "ack", "w", &[1, 2, 4], "");
            assert_eq!(answer.u64("acked"), 3, "Q-40");
            // P-2: the sync shows only where there was one.
            let sync = answer.member("performance")["fsync_ms"].clone();
            assert_eq!(sync.as_f64().is_some_and(|ms| ms > 0.0), class == "fsync", "P-2 Q-41 {sync}");
            assert_eq!(sync.is_null(), class != "fsync", "P-2 Q-41 {sync}");
            let none = client.settle(&topic, "ack", "w", &[1], "");
            assert_eq!(none.member("performance")["fsync_ms"], Value::Null, "P-2");
            let read = client.diff(&topic, "").json();
            assert_eq!((&read["tombstone"], &read["earliest_seq"]), (&Value::Null, &json!(3)), "I-23 Q-40");
            assert_eq!(client.data(&topic), [3], "Q-40 I-41 {class}");
            let state = client.state(&topic);
            assert_eq!(
                (&state["count"], &state["bytes"], &state["head_seq"]),
                (&json!(1), &json!(1), &json!(4))
            );
            // Q-45: a leased job that was deleted acks for its holder, and for nobody else.
            client.delete(&topic, r#"{"before_seq":5}"#);
            assert_eq!(client.counts(&topic), [0, 0, 0], "Q-80 I-88");
            assert_eq!(client.settle(&topic, "ack", "v", &[3], "").u64("acked"), 0, "Q-45 I-82");
            let answer = client.settle(&topic, "ack", "w", &[3], "");
            let expected = json!({"topic": topic, "acked": 1, "skipped": [], "ready": 0, "in_flight": 0});
            assert_eq!(answer.steady(), expected, "Q-45");
            assert_eq!(client.settle(&topic, "ack", "w", &[3], "").u64("acked"), 0, "Q-45 Q-33");
            // I-70: nothing of this is known to a queue of the same name.
            client.queue(&topic, LONG, 1);
            assert_eq!(client.settle(&topic, "ack", "w", &[1], "").u64("acked"), 0, "I-70");
            assert_eq!(client.jobs(&topic, "w", 1)[0]["deliveries"], 1, "I-70");
        }
    }
}

#[test]
fn a_delayed_job_is_neither_ready_nor_in_flight() {
    let server = Server::shared();
    let mut client = server.connect();
    for topic in server.names("delay") {
        client.queue(&topic, LONG, 4);
        client.take(&topic, "w", 3);
        let answer = client.settle(&topic, "nack", "w", &[1, 2, 7], r#""delay_ms":18446744073709551615"#);
        let expected = json!({"topic": topic, "nacked": 2, "skipped": [7], "ready": 1, "in_flight": 1});
        assert_eq!(answer.steady(), expected, "Q-50 Q-51");
        assert_eq!(client.take(&topic, "w", 9), [4], "Q-51");
        assert_eq!(client.counts(&topic), [0, 2, 0], "Q-51 Q-80");
        assert_eq!(client.state(&topic)["count"], 4, "I-88");
        // Delayed jobs have no holder.
        assert_eq!(client.settle(&topic, "ack", "w", &[1], "").u64("acked"), 0, "Q-31");
        client.settle(&topic, "nack", "w", &[3], r#""delay_ms":120"#);
        client.until_counts(&topic, [1, 1, 0], "Q-51: the delay has elapsed");
        let job = client.jobs(&topic, "w", 9).remove(0);
        assert_eq!((seq_of(&job), &job["deliveries"]), (3, &json!(2)), "Q-51 Q-3");
        client.delete(&topic, r#"{"before_seq":2}"#);
        assert_eq!(client.counts(&topic), [0, 2, 0], "I-88: a delayed job was deleted");
    }
}

#[test]
fn queue_calls_are_refused_in_order() {
    let server = Server::shared();
    let mut client = server.connect();
    let none = Value::Null;
    let [queue, log] = server.names("order-of");
    client.queue(&queue, LONG, 1);
    client.fresh(&log, "");
    client.take(&queue, "w", 1);
    let before = client.snapshot(&queue);
    let many =
        format!(r#"{{"node":"w","seqs":{},"lease_ids":["lease_1"],"lease_ms":1}}"#, json!(vec![1; 1001]));
    let (at, long) = (format!(r#"{{"node":"{}"}}"#, "n".repeat(129)), "n".repeat(129));
    let bad = "invalid_request";
    let claims = [
        // rule, body, on the queue, on a log, on nothing; 0 is 200
        ("JSON", "{", [400, 400, 400]),
        ("JSON", "{}", [400, 400, 400]),
        ("J-6", r#"{"node":null}"#, [400, 400, 400]),
        ("J-5", r#"{"node":"w","max":-1}"#, [400, 400, 400]),
        ("J-5", r#"{"node":"w","max":4294967296}"#, [400, 400, 400]),
        ("J-6", r#"{"node":"w","max":null}"#, [400, 400, 400]),
        ("J-5", r#"{"node":"w","lease_ms":1.0}"#, [400, 400, 400]),
        ("§10.2 node", r#"{"node":""}"#, [400, 409, 404]),
        ("§10.2 node", &at, [400, 409, 404]),
    ];
    let acks = [
        ("Q-30", r#"{"node":"w"}"#, [400, 400, 400]),
        ("Q-30", r#"{"seqs":[1],"lease_ms":1}"#, [400, 400, 400]),
        ("J-6", r#"{"node":"w","seqs":null,"lease_ms":1}"#, [400, 400, 400]),
        ("J-5", r#"{"node":"w","seqs":[-1],"lease_ms":1}"#, [400, 400, 400]),
        ("J-5", r#"{"node":"w","seqs":["1"],"lease_ms":1}"#, [400, 400, 400]),
        ("Q-32", r#"{"node":"w","seqs":[1],"lease_ids":["lease_"],"lease_ms":1}"#, [400, 400, 400]),
        ("Q-32", r#"{"node":"w","seqs":[1],"lease_ids":["lease_x"],"lease_ms":1}"#, [400, 400, 400]),
        ("Q-32", r#"{"node":"w","seqs":[1],"lease_ids":["Lease_1"],"lease_ms":1}"#, [400, 400, 400]),
        ("Q-32", r#"{"node":"w","seqs":[1],"lease_ids":["2c"],"lease_ms":1}"#, [400, 400, 400]),
        ("Q-32", r#"{"node":"w","seqs":[1],"lease_ids":[null],"lease_ms":1}"#, [400, 400, 400]),
        ("Q-32", r#"{"node":"w","seqs":[1],"lease_ids":null,"lease_ms":1}"#, [400, 400, 400]),
        ("§10.3 node", r#"{"node":"","seqs":[1],"lease_ms":1}"#, [400, 400, 400]),
        (
            "§10.3 length",
            r#"{"node":"w","seqs":[1],"lease_ids":["lease_1",""],"lease_ms":1}"#,
            [400, 400, 400],
        ),
        ("§10.3 404 409", r#"{"node":"w","seqs":[],"lease_ms":1}"#, [200, 409, 404]),
        ("§10.3 404 409", r#"{"node":"v","seqs":[1],"lease_ids":["lease_1"],"lease_ms":1}"#, [200, 409, 404]),
    ];
    let claims = claims.map(|(rule, body, all)| ("claim", rule, body, all));
    let rows = ["ack", "nack", "extend"]
        .into_iter()
        .flat_map(|what| acks.iter().map(move |(rule, body, all)| (what, *rule, *body, *all)));
    let more = [
        ("nack", "Q-50", r#"{"node":"w","seqs":[1],"delay_ms":null}"#, [400, 400, 400]),
        ("nack", "Q-50", r#"{"node":"w","seqs":[1],"delay_ms":-1}"#, [400, 400, 400]),
        ("extend", "Q-55", r#"{"node":"w","seqs":[1]}"#, [400, 400, 400]),
        ("extend", "Q-55", r#"{"node":"w","seqs":[1],"lease_ms":null}"#, [400, 400, 400]),
    ];
    for (what, rule, body, statuses) in claims.into_iter().chain(rows).chain(more) {
        for (topic, status) in [queue.as_str(), &log, "absent"].into_iter().zip(statuses) {
            let answer = client.call("POST", &format!("/v0/topics/{topic}/{what}"), body);
            let why = format!("{rule} {what} {topic} {body}");
            match status {
                200 => assert_eq!(answer.status, 200, "{why}: {}", answer.text()),
                400 => answer.assert_fault(400, bad, &none, &why),
                404 => answer.assert_fault(404, "topic_not_found", &json!({ "topic": topic }), &why),
                _ => answer.assert_fault(409, "not_a_queue", &json!({ "topic": topic }), &why),
            }
        }
    }
    for what in ["ack", "nack", "extend"] {
        // Too many seqs come before the lengths differ, and before the topic.
        for topic in [queue.as_str(), "absent"] {
            let answer = client.call("POST", &format!("/v0/topics/{topic}/{what}"), &many);
            let detail = json!({"seqs": 1001, "max": 1000});
            answer.assert_fault(400, "batch_too_large", &detail, &format!("§10.3 {what}"));
        }
        let path = format!("/v0/topics/absent/{what}");
        client.call("POST", &path, "").assert_fault(415, "unsupported_media_type", &none, "M-2");
        assert_eq!(client.get(&path).status, 405, "T-14 {what}");
        let answer = client.settle(&queue, what, &long, &vec![1; 1000], r#""lease_ms":100"#);
        assert_eq!((answer.status, answer.member("skipped")), (200, json!(vec![1; 1000])), "Q-30 L-9");
    }
    // §10.2: an empty body is malformed whatever its media type, and M-2 says it is not looked at.
    client.claim("absent", "").assert_fault(400, bad, &none, "M-2 §10.2");
    client.send(
        "POST /v0/topics/absent/claim HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}",
    );
    client.answer().assert_fault(415, "unsupported_media_type", &none, "§10.2");
    assert_eq!(client.get(&format!("/v0/topics/{queue}/claim")).status, 405, "T-14");
    assert_eq!(client.snapshot(&queue), before, "I-36");
    assert_eq!(client.state(&log).get("queue"), None, "§3.2: a log has no queue counters");
}

#[test]
fn those_who_ask_in_one_window_share_alike() {
    let server = Server::shared();
    for topic in server.names("jitter") {
        let mut client = server.connect();
        client.queue(&topic, r#"{"type":"queue","claim_jitter_ms":700,"lease_ms":600000}"#, 7);
        // All of them ask before any of them is answered.
        let mut claimers: Vec<Client> = (0..3).map(|_| server.connect()).collect();
        for (number, claimer) in claimers.iter_mut().enumerate() {
            let body = format!(r#"{{"node":"w{number}","max":7}}"#);
            claimer.send(crate::harness::request("POST", &format!("/v0/topics/{topic}/claim"), &body));
        }
        // It is not shut off meanwhile.
        assert_eq!(client.counts(&topic)[2], 0);
        let mut seqs = Vec::new();
        for claimer in &mut claimers {
            let answer = claimer.answer();
            let jobs = answer.json()["claimed"].as_array().expect("jobs").clone();
            assert!((2..=3).contains(&jobs.len()), "Q-20: {}", answer.text());
            assert!(jobs.is_sorted_by_key(seq_of), "Q-12: {}", answer.text());
            seqs.extend(jobs.iter().map(seq_of));
        }
        seqs.sort_unstable();
        assert_eq!(seqs, [1, 2, 3, 4, 5, 6, 7], "Q-20 I-80");
        // Supply beyond demand: everybody has what was asked for.
        client.queue(&topic, r#"{"type":"queue","claim_jitter_ms":300}"#, 7);
        for (claimer, max) in claimers.iter_mut().zip([1, 2, 1]) {
            let body = format!(r#"{{"node":"w","max":{max}}}"#);
            claimer.send(crate::harness::request("POST", &format!("/v0/topics/{topic}/claim"), &body));
        }
        for (claimer, max) in claimers.iter_mut().zip([1, 2, 1]) {
            assert_eq!(claimer.answer().u64("count"), max, "Q-20 Q-21");
        }
        assert_eq!(client.counts(&topic), [3, 4, 0], "Q-80");
    }
}

#[test]
fn workers_that_race_get_each_job_once() {
    let server = Server::shared();
    const JOBS: usize = 400;
    for topic in server.names("race") {
        let mut client = server.connect();
        client.queue(&topic, r#"{"type":"queue","durability":"memory","lease_ms":600000}"#, 0);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|number| {
                    let (topic, node) = (&topic, format!("w{number}"));
                    scope.spawn(move || {
                        let mut client = server.connect();
                        let (mut mine, mut claims, began) = (Vec::new(), 0_u64, Instant::now());
                        loop {
                            let seqs = client.take(topic, &node, 5);
                            if seqs.is_empty() {
                                let state = client.get(&format!("/v0/topics/{topic}?touch=false"));
                                if state.u64("head_seq") == JOBS as u64 && state.u64("count") == 0 {
                                    return mine;
                                }
                                assert!(began.elapsed() < crate::harness::PATIENCE, "I-81: {}", state.text());
                                std::thread::sleep(Duration::from_millis(1));
                                continue;
                            }
                            // Some come back and are handed out again.
                            claims += 1;
                            let (back, done) = seqs.split_at(usize::from(claims % 7 == 3));
                            client.settle(topic, "nack", &node, back, "");
                            let acked = client.settle(topic, "ack", &node, done, "").u64("acked");
                            assert_eq!(acked, done.len() as u64, "I-82");
                            mine.extend_from_slice(done);
                        }
                    })
                })
                .collect();
            for job in 0..JOBS {
                client.append_all(&topic, &[&job.to_string()]);
            }
            let mut all: Vec<u64> =
                workers.into_iter().flat_map(|worker| worker.join().expect("its jobs")).collect();
            all.sort_unstable();
            assert_eq!(all, (1..=JOBS as u64).collect::<Vec<_>>(), "I-80 I-81 Q-4");
        });
        assert_eq!(client.counts(&topic), [0, 0, 0], "I-88");
    }
}

#[test]
fn a_cap_of_a_strict_queue_takes_no_job() {
    // I-34, by the recipe: three jobs, one acked, one more.
    let server = Server::shared();
    let mut client = server.connect();
    for topic in server.names("strict") {
        client.queue(&topic, r#"{"type":"queue","discard":"reject","cap_records":3,"lease_ms":600000}"#, 3);
        assert_eq!(client.take(&topic, "w", 2), [1, 2]);
        let full = client.append(&topic, r#"{"records":[{"data":4}]}"#);
        assert_eq!(full.status, 422, "W-31: leased jobs are live");
        client.settle(&topic, "ack", "w", &[2], "");
        client.append_all(&topic, &["4"]);
        assert_eq!(client.data(&topic), [1, 3, 4], "I-34 I-35 CF-13");
        assert_eq!(client.counts(&topic), [2, 1, 0], "I-88");
        assert_eq!(client.take(&topic, "w", 9), [3, 4], "Q-2");
        assert_eq!(client.settle(&topic, "ack", "w", &[1, 3, 4], "").u64("acked"), 3, "I-34");
        // A queue of `discard:"old"` does lose jobs, leased ones too.
        client.queue(&topic, r#"{"type":"queue","cap_records":2,"lease_ms":600000}"#, 2);
        client.take(&topic, "w", 1);
        client.append_all(&topic, &["3"]);
        assert_eq!(
            (client.data(&topic), client.counts(&topic)),
            (vec![json!(2), json!(3)], [2, 0, 0]),
            "I-30 I-88"
        );
    }
}
