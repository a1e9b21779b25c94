//! What tests of routers and queues ask, and what they make of a view.

use serde_json::{Value, json};

use crate::client::{Client, Got, View};

/// The questions of these tests, each insisting on an answer.
pub(crate) trait Ask {
    fn ask(&mut self, method: &str, path: &str, body: &str) -> Value;
    fn status(&mut self, method: &str, path: &str, body: &str) -> u16;

    fn topic(&mut self, topic: &str, config: &str) {
        self.ask("PUT", &format!("/v0/topics/{topic}"), config);
    }

    fn link(&mut self, router: &str, source: &str, dest: &str, more: &str) {
        let body = format!("{{\"source\":\"{source}\",\"dest\":\"{dest}\"{more}}}");
        self.ask("PUT", &format!("/v0/routers/{router}"), &body);
    }

    /// Appends numbers; the first seq.
    fn add(&mut self, topic: &str, data: impl IntoIterator<Item = u64>) -> u64 {
        let records: Vec<Value> =
            data.into_iter().map(|data| json!({"data": data, "tag": format!("t{data}")})).collect();
        let answer =
            self.ask("POST", &format!("/v0/topics/{topic}"), &json!({"records": records}).to_string());
        answer["first_seq"].as_u64().expect("a seq")
    }

    /// Deletes the records that hold this number.
    fn remove(&mut self, topic: &str, data: u64) -> u64 {
        let body = json!({"match": ["tag", "Eq", format!("t{data}")]}).to_string();
        let answer = self.ask("POST", &format!("/v0/topics/{topic}/delete"), &body);
        answer["deleted"].as_u64().expect("a number")
    }

    fn total(&mut self, router: &str) -> u64 {
        self.ask("GET", &format!("/v0/routers/{router}"), "")["forwarded_total"].as_u64().expect("a number")
    }

    fn claimed(&mut self, topic: &str, node: &str, max: u64) -> Vec<Value> {
        let body = json!({"node": node, "max": max}).to_string();
        let answer = self.ask("POST", &format!("/v0/topics/{topic}/claim"), &body);
        answer["claimed"].as_array().expect("jobs").clone()
    }

    /// `ack`, `nack` or `extend`: how many of the seqs it was for.
    fn settle(&mut self, topic: &str, what: &str, node: &str, seqs: &[u64], more: &str) -> u64 {
        let body = format!("{{\"node\":\"{node}\",\"seqs\":{}{more}}}", json!(seqs));
        let answer = self.ask("POST", &format!("/v0/topics/{topic}/{what}"), &body);
        answer[match what {
            "ack" => "acked",
            "nack" => "nacked",
            _ => "extended",
        }]
        .as_u64()
        .expect("a number")
    }
}

impl Ask for Client {
    fn ask(&mut self, method: &str, path: &str, body: &str) -> Value {
        self.call(method, path, body).expect("an answer").good()
    }

    fn status(&mut self, method: &str, path: &str, body: &str) -> u16 {
        self.call(method, path, body).expect("an answer").status
    }
}

/// Live records by seq, data as a number.
pub(crate) fn live(view: &View) -> Vec<(u64, u64)> {
    let number = |got: &Got| got.data.parse().unwrap_or_else(|_| panic!("I-97: {got:?}"));
    view.records.iter().map(|got| (got.seq, number(got))).collect()
}

pub(crate) fn view(client: &mut Client, topic: &str) -> View {
    client.view(topic).expect("an answer").expect("it exists")
}
