//! Work streams (§10.7), and what they and everything else say of leases in the metrics.

use crate::harness::Server;
use crate::queues::{LONG, seq_of, text_of};
use crate::sse::{Block, Event, Sse};
use serde_json::{Value, json};

fn work(topic: &str, query: &str) -> String {
    format!("/v0/topics/{topic}/work?{query}")
}

impl Sse {
    /// The next event, which is a job: its seq.
    fn job(&mut self) -> u64 {
        let event = self.event();
        assert_eq!(event.kind, "job", "Q-71: {event:?}");
        check(&event)
    }
}

/// Q-71; the seq.
fn check(event: &Event) -> u64 {
    let seq = seq_of(&event.data);
    assert_eq!(event.id.as_deref(), Some(seq.to_string().as_str()), "Q-71: {event:?}");
    assert!(text_of(&event.data, "lease_id").starts_with("lease_"), "Q-71 Q-13: {event:?}");
    seq
}

#[test]
fn a_work_stream_pushes_up_to_its_limit() {
    let server = Server::shared();
    for topic in server.names("work") {
        let mut client = server.connect();
        client.fresh(&topic, LONG);
        client.append(&topic, r#"{"records":[{"data":{"a" :1},"tag":"t","node":"n","meta":[1]}]}"#);
        client.append_all(&topic, &["2", "3"]);
        // The reader of streams has seen to the headers and the first block (Q-70 V-2 V-3).
        let mut stream = server.stream(&work(&topic, "node=w&max=2&lease_ms=500000"));
        let event = stream.event();
        let expected = json!({
            "topic": topic, "$seq": 1, "lease_id": event.data["lease_id"], "deadline": event.data["deadline"],
            "$ts": event.data["$ts"], "$tag": "t", "deliveries": 1, "data": {"a": 1}, "meta": [1],
        });
        assert_eq!((event.kind.as_str(), &event.data), ("job", &expected), "Q-71 Q-11");
        assert!(event.text.contains(r#""data":{"a" :1}"#), "J-21: {}", event.text);
        assert_eq!(check(&event), 1, "Q-71");
        assert_eq!(stream.job(), 2, "Q-72");
        // Q-72: two are out, and a third comes only when one of them is settled, in any way.
        assert_eq!(client.counts(&topic), [1, 2, 0], "Q-72 Q-80");
        assert_eq!(client.settle(&topic, "ack", "w", &[1], "").u64("acked"), 1, "Q-40");
        assert_eq!(stream.job(), 3, "Q-72: acked");
        client.append_all(&topic, &["4"]);
        client.settle(&topic, "nack", "w", &[2], r#""delay_ms":600000"#);
        assert_eq!(stream.job(), 4, "Q-72: nacked");
        assert_eq!(client.counts(&topic), [0, 2, 0], "Q-72 Q-51");
        client.settle(&topic, "extend", "w", &[3], r#""lease_ms":100"#);
        // Expired, and pushed again on the same stream (Q-74).
        let again = stream.event();
        assert_eq!((check(&again), &again.data["deliveries"]), (3, &json!(2)), "Q-72 Q-74 Q-3");
        // The lease asked for in the query (§10.7).
        let left = again.data["deadline"].as_u64().zip(event.data["deadline"].as_u64());
        assert!(left.is_some_and(|(again, first)| again > first), "§10.7 lease_ms");
        // With room, an append is pushed at once.
        client.settle(&topic, "ack", "w", &[3, 4], "");
        for seq in 5..=12 {
            client.append_all(&topic, &[&seq.to_string()]);
            assert_eq!(stream.job(), seq, "Q-72");
            client.settle(&topic, "ack", "w", &[seq], "");
        }
    }
}

#[test]
fn leases_of_a_stream_end_with_it_and_no_others() {
    let server = Server::shared();
    for topic in server.names("closed") {
        let mut client = server.connect();
        client.queue(&topic, LONG, 5);
        assert_eq!(client.take(&topic, "w", 1), [1], "by a claim");
        let mut one = server.stream(&work(&topic, "node=w"));
        assert_eq!(one.job(), 2);
        let mut two = server.stream(&work(&topic, "node=w&max=2"));
        assert_eq!((two.job(), two.job()), (3, 4));
        assert_eq!(client.counts(&topic), [1, 4, 0], "Q-80");
        drop(two);
        client.until_counts(&topic, [3, 2, 0], "Q-73");
        // Q-73: those of the claim and of the other stream are as they were.
        let skipped = client.settle(&topic, "ack", "w", &[1, 2, 3], "").member("skipped");
        assert_eq!(skipped, json!([3]), "Q-73");
        // `one` may take the next; I-81: nothing is lost.
        assert_eq!(one.job(), 3, "Q-2 Q-72");
        drop(one);
        client.until_counts(&topic, [3, 0, 0], "Q-73");
        let jobs = client.jobs(&topic, "v", 9);
        let shown: Vec<_> = jobs.iter().map(|job| (seq_of(job), job["deliveries"].clone())).collect();
        assert_eq!(shown, [(3, json!(3)), (4, json!(2)), (5, json!(1))], "Q-2 Q-3 Q-73");
    }
}

#[test]
fn a_stream_takes_over_what_another_left() {
    let server = Server::shared();
    for topic in server.names("over") {
        let mut client = server.connect();
        client.queue(&topic, LONG, 3);
        let mut first = server.stream(&work(&topic, "node=a&max=3"));
        let mut tokens: Vec<Value> = (0..3).map(|_| first.event().data["lease_id"].clone()).collect();
        // One that has nothing yet, and is woken by what the first gives up (I-81).
        let mut second = server.stream(&work(&topic, "node=b&max=3"));
        drop(first);
        let mut seqs = Vec::new();
        for _ in 0..3 {
            let event = second.event();
            seqs.push(check(&event));
            tokens.push(event.data["lease_id"].clone());
        }
        seqs.sort_unstable();
        assert_eq!(seqs, [1, 2, 3], "Q-73 Q-72");
        let before = tokens.len();
        let mut texts: Vec<String> = tokens.iter().map(Value::to_string).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), before, "Q-13 I-86");
        assert_eq!(client.settle(&topic, "ack", "a", &[1, 2, 3], "").u64("acked"), 0, "I-82");
        assert_eq!(client.settle(&topic, "ack", "b", &[1, 2, 3], "").u64("acked"), 3, "I-81");
    }
}

#[test]
fn a_work_stream_is_refused_in_order() {
    let server = Server::shared();
    let mut client = server.connect();
    let [queue, log] = server.names("work-order");
    client.queue(&queue, LONG, 1);
    client.fresh(&log, "");
    let none = Value::Null;
    let long = "n".repeat(129);
    let refusal = |target: &str, headers: &str| match server.stream_with(target, headers) {
        Ok(_) => panic!("{target} was served"),
        Err(answer) => answer,
    };
    for accept in ["text/*", "application/json", "Text/Event-Stream"] {
        let answer = refusal(&work("absent", ""), &format!("Accept: {accept}\r\n"));
        answer.assert_fault(406, "not_acceptable", &none, "V-1 §10.7");
    }
    for query in ["", "node=", "max=2", &format!("node={long}"), "Node=w"] {
        for topic in ["absent", &log, &queue] {
            let answer = refusal(&work(topic, query), "");
            answer.assert_fault(400, "invalid_request", &none, &format!("§10.7 {topic} {query}"));
        }
    }
    let answer = refusal(&work("absent", "node=w"), "Accept: */*\r\n");
    answer.assert_fault(404, "topic_not_found", &json!({"topic": "absent"}), "§10.7");
    let answer = refusal(&work(&log, "node=w"), "Accept: x/y, text/event-stream;q=0.1\r\n");
    answer.assert_fault(409, "not_a_queue", &json!({ "topic": log }), "§10.7");
    // T-13: HEAD has the headers, and leases nothing.
    let answer = client.call("HEAD", &work(&queue, "node=w"), "");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")), "T-13");
    client.assert_usable("T-13");
    assert_eq!(client.counts(&queue), [1, 0, 0], "T-13");
    assert_eq!(client.call("POST", &work(&queue, "node=w"), "{}").status, 405, "T-14");
    // Q-78: what cannot be read is the default, also a `max` of 0 or too much; and `Last-Event-ID` is nothing.
    for query in ["max=x&lease_ms=-1", "max=0&lease_ms=1.5", "max=&lease_ms="] {
        let mut stream = server
            .stream_with(&work(&queue, &format!("node=w&{query}")), "Last-Event-ID: 7\r\n")
            .expect("Q-78");
        client.append_all(&queue, &["2"]);
        let job = stream.event();
        let (deadline, ts) = (job.data["deadline"].as_u64(), job.data["$ts"].as_u64());
        assert!(deadline.expect("Q-11") >= ts.expect("Q-11") + 600_000, "Q-78: {job:?}");
        client.until_counts(&queue, [1, 1, 0], "Q-78: one at a time");
        drop(stream);
        client.until_counts(&queue, [2, 0, 0], "Q-73");
        client.delete(&queue, r#"{"before_seq":2}"#);
        client.queue(&queue, LONG, 1);
    }
}

#[test]
fn a_work_stream_ends_with_its_topic() {
    let server = Server::shared();
    for topic in server.names("ended") {
        let mut client = server.connect();
        client.queue(&topic, LONG, 1);
        let mut stream = server.stream(&work(&topic, "node=w"));
        assert_eq!(stream.job(), 1);
        client.drop_topic(&topic);
        let event = stream.event();
        let data = &event.data;
        assert_eq!((event.kind.as_str(), &event.id, &data["code"]), ("error", &None, &json!(409)), "Q-75");
        assert_eq!((data["topic"].as_str(), data["error"].is_string()), (Some(topic.as_str()), true), "Q-75");
        assert_eq!(data.as_object().map(serde_json::Map::len), Some(3), "Q-75: {event:?}");
        stream.assert_ended("Q-75");
        // The same when a log has taken its name meanwhile, and when it is a queue again (I-70).
        client.queue(&topic, LONG, 1);
        let mut stream = server.stream(&work(&topic, "node=w"));
        assert_eq!(stream.job(), 1);
        client.fresh(&topic, "");
        assert_eq!(stream.event().kind, "error", "Q-75");
        stream.assert_ended("Q-75");
    }
}

#[test]
fn a_work_stream_serves_what_routers_and_dead_letters_leave() {
    let server = Server::shared();
    for (number, [source, queue]) in crate::harness::pairs(server, "fed").iter().enumerate() {
        let mut client = server.connect();
        let dead = format!("{queue}-dead");
        client.fresh(
            queue,
            &format!(r#"{{"type":"queue","lease_ms":600000,"max_deliveries":1,"dead_letter":"{dead}"}}"#),
        );
        client.link(&format!("fed-{number}"), [source, queue], "");
        let mut stream = server.stream(&work(queue, "node=w&max=2"));
        client.append_all(source, &["1", "2", "3"]);
        assert_eq!((stream.job(), stream.job()), (1, 2), "Q-16 R-30 Q-72");
        // Q-60 on a stream: what comes back goes to the dead letters, and the next job is pushed.
        client.settle(queue, "nack", "w", &[1], "");
        assert_eq!(stream.job(), 3, "Q-60 Q-15");
        client.until_counts(queue, [0, 2, 1], "Q-60 Q-80");
        assert_eq!(client.data(&dead), [1], "Q-60");
    }
}

#[test]
fn a_silent_work_stream_beats() {
    // Q-77: not at open, and then every 15 s; the clock is the server's.
    let server = Server::shared();
    let [topic, _] = server.names("beat");
    let mut client = server.connect();
    client.queue(&topic, LONG, 1);
    let mut stream = server.stream(&work(&topic, "node=w"));
    assert_eq!(stream.job(), 1, "Q-77: none at open");
    let beat = stream.block();
    assert!(matches!(&beat, Some(Block::Comment(text)) if text.contains(" hb")), "Q-77 V-40: {beat:?}");
    client.settle(&topic, "nack", "w", &[1], "");
    assert_eq!(stream.job(), 1, "Q-74");
}

#[test]
fn queues_and_leases_are_counted() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let [one, two] = server.names("gauge");
    client.queue(&one, LONG, 3);
    client.queue(&two, LONG, 3);
    client.fresh("gauge-log", "");
    client.take(&one, "w", 2);
    let mut stream = server.stream(&work(&two, "node=w"));
    assert_eq!(stream.job(), 1);
    let text = client.get("/v0/metrics").text().to_owned();
    for line in [
        "topics_queue_topics 2".to_owned(),
        "topics_queue_leases_in_flight 3".into(),
        "topics_sse_connections 1".into(),
        format!("topics_topic_queue_ready{{topic=\"{one}\"}} 1"),
        format!("topics_topic_queue_in_flight{{topic=\"{one}\"}} 2"),
        format!("topics_topic_queue_ready{{topic=\"{two}\"}} 2"),
        format!("topics_topic_queue_in_flight{{topic=\"{two}\"}} 1"),
    ] {
        assert!(text.lines().any(|known| known == line), "§11: {line} in {text}");
    }
    assert!(!text.contains("topics_topic_queue_ready{topic=\"gauge-log\"}"), "H-6");
    client.send("GET /v0/metrics HTTP/1.1\r\nAccept: application/json\r\n\r\n");
    let json = client.answer().json();
    let shown = (&json["queue_topics"], &json["queue_leases_in_flight"], &json["sse_connections"]);
    assert_eq!(shown, (&json!(2), &json!(3), &json!(1)), "H-7");
    drop(stream);
    client.until_counts(&two, [3, 0, 0], "Q-73");
}
