//! Whose sessions and streams are whose (A-11, A-14, L-5, §8).

use crate::harness::{Answer, Client, Server};
use crate::sse::{Sse, until};
use serde_json::{Value, json};

fn create(client: &mut Client, key: &str, query: &str, body: &Value) -> Answer {
    let body = body.to_string();
    client.send(format!(
        "POST /v0/watch{query} HTTP/1.1\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    let answer = client.answer();
    answer.check("/v0/watch");
    answer
}

fn url(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "S-1: {}", answer.text());
    answer.member("stream_url").as_str().expect("S-1").to_owned()
}

fn bearer(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

#[test]
fn a_session_belongs_to_the_key_that_made_it() {
    let server = Server::start(&[("RUNELOG_API_KEYS", "one,two,part:r:x,writer:w,spaced out")]);
    let mut client = server.connect();
    for topic in ["x1", "y1"] {
        client.send(format!("PUT /v0/topics/{topic} HTTP/1.1\r\n{}\r\n", bearer("one")));
        assert_eq!(client.answer().status, 201);
    }
    let body = json!({"topics": {"x1": {}, "y1": {}}});
    create(&mut client, "none", "", &body).assert_fault(401, "unauthorized", &Value::Null, "A-2");
    create(&mut client, "writer", "", &body).assert_fault(403, "forbidden", &Value::Null, "A-6");
    for query in ["", "?lenient=true"] {
        let answer = create(&mut client, "part", query, &body);
        answer.assert_fault(403, "forbidden", &json!({"topic": "y1"}), "8.1 A-10");
        // A name that is not allowed is told before one that is not there.
        let absent = json!({"topics": {"absent": {}, "x1": {}}});
        let answer = create(&mut client, "part", query, &absent);
        answer.assert_fault(403, "forbidden", &json!({"topic": "absent"}), "8.1 A-10");
    }
    let part = url(&create(&mut client, "part", "", &json!({"topics": {"x1": {}}})));
    let one = url(&create(&mut client, "one", "", &body));
    let spaced = url(&create(&mut client, "spaced out", "", &body));
    let good = [
        (&one, "", bearer("one")),
        (&one, "?token=one", String::new()),
        (&one, "?token=two", bearer("one")),
        (&part, "", bearer("part")),
        (&spaced, "?token=spaced+out", String::new()),
        (&spaced, "?token=spaced%20out", String::new()),
    ];
    for (url, query, headers) in good {
        let opened = server.stream_with(&format!("{url}{query}"), &headers);
        assert!(opened.is_ok(), "A-11 A-14 {query} {headers}");
    }
    let bad = [
        (&one, "", String::new()),
        (&one, "", bearer("two")),
        (&one, "", bearer("wrong")),
        (&one, "?token=two", String::new()),
        (&one, "?token=", String::new()),
        (&one, "?token=one", bearer("two")),
        (&one, "?token=one", bearer("wrong")),
        (&part, "", bearer("one")),
    ];
    for (url, query, headers) in bad {
        let answer = server.stream_with(&format!("{url}{query}"), &headers).err().expect("A-11");
        answer.assert_fault(401, "unauthorized", &Value::Null, &format!("A-11 A-14 {query} {headers}"));
        let accept = format!("{headers}Accept: text/html\r\n");
        let answer = server.stream_with(&format!("{url}{query}"), &accept).err().expect("V-1");
        answer.assert_fault(406, "not_acceptable", &Value::Null, "8.2: Accept is looked at first");
    }
    for headers in [String::new(), bearer("one"), bearer("wrong")] {
        let answer =
            server.stream_with("/v0/watch/wid_AAAAAAAAAAAAAAAAAAAAAA", &headers).err().expect("A-11");
        answer.assert_fault(404, "not_found", &Value::Null, &format!("A-11 {headers}"));
    }
    // The token is for this path only.
    client.get("/v0/topics?token=one").assert_fault(401, "unauthorized", &Value::Null, "A-14");
}

#[test]
fn streams_are_counted_for_the_key_that_made_their_session() {
    let settings = [("RUNELOG_API_KEYS", "one,two"), ("RUNELOG_MAX_SSE_CONNECTIONS_PER_KEY", "2")];
    let server = Server::start(&settings);
    let mut client = server.connect();
    client.send(format!("PUT /v0/topics/t HTTP/1.1\r\n{}\r\n", bearer("one")));
    assert_eq!(client.answer().status, 201);
    let body = json!({"topics": {"t": {}}});
    let one = url(&create(&mut client, "one", "", &body));
    let two = url(&create(&mut client, "two", "", &body));
    for _ in 0..3 {
        let open = |url: &str, key: &str| server.stream_with(url, &bearer(key));
        let mut streams: Vec<Sse> = (0..2).map(|_| open(&one, "one").expect("L-5")).collect();
        open(&one, "one").err().expect("L-5").assert_fault(429, "throttled", &Value::Null, "L-5");
        streams.push(open(&two, "two").expect("L-5: another key"));
        drop(streams);
        let mut client = server.connect();
        let header = bearer("one");
        until("L-4", || {
            client.send(format!("GET /v0/metrics HTTP/1.1\r\nAccept: application/json\r\n{header}\r\n"));
            client.answer().u64("sse_connections") == 0
        });
    }
}
