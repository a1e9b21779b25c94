//! Claims about an import as a whole, against a fake server that keeps a topic and loses answers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use clap::Parser;
use serde_json::value::RawValue;

use super::*;
use crate::fake::{Fake, Reply, Request};

/// A topic as the contract describes it, as far as an import can see.
#[derive(Default)]
struct Topic {
    exists: bool,
    config: Option<String>,
    records: Vec<(String, Option<String>)>,
    keys: BTreeMap<String, (u64, u64)>,
    writes: Vec<usize>,
    may_create: Vec<bool>,
}

#[derive(serde::Deserialize)]
struct Write<'a> {
    #[serde(borrow)]
    records: Vec<Record<'a>>,
    idempotency_key: String,
    create: bool,
    #[serde(borrow)]
    config: Option<&'a RawValue>,
}

#[derive(serde::Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    tag: Option<String>,
}

impl Topic {
    fn answer(&mut self, request: &Request) -> Reply {
        match request.line.as_str() {
            "GET /v0/topics/t?touch=false" if self.exists => {
                let config = r#"{"durability":"disk","idempotency_window_ms":120000}"#;
                Reply::Json(200, format!("{{\"topic\":\"t\",\"head_seq\":0,\"config\":{config}}}"))
            }
            "GET /v0/topics/t?touch=false" => missing(),
            "POST /v0/topics/t?return_seqs=false" => self.write(&request.body),
            other => panic!("unexpected {other}"),
        }
    }

    fn write(&mut self, body: &str) -> Reply {
        let write: Write<'_> = serde_json::from_str(body).expect("a write");
        if !self.exists && !write.create {
            return missing();
        }
        if !self.exists {
            self.config = write.config.map(|config| config.get().to_string());
        }
        let status = if self.exists { 200 } else { 201 };
        self.exists = true;
        self.writes.push(write.records.len());
        self.may_create.push(write.create);
        let deduped = self.keys.contains_key(&write.idempotency_key);
        let next = self.records.len() as u64 + 1;
        let count = write.records.len() as u64;
        let (first, last) = *self.keys.entry(write.idempotency_key).or_insert((next, next + count - 1));
        if !deduped {
            self.records.extend(
                write.records.iter().map(|record| (record.data.get().to_string(), record.tag.clone())),
            );
        }
        Reply::Json(
            status,
            format!("{{\"first_seq\":{first},\"last_seq\":{last},\"count\":{count},\"deduped\":{deduped}}}"),
        )
    }

    fn data(&self) -> Vec<&str> {
        self.records.iter().map(|(data, _)| data.as_str()).collect()
    }
}

fn missing() -> Reply {
    Reply::Json(404, r#"{"error":{"code":"topic_not_found","message":"no topic named t"}}"#.into())
}

/// A fake with one topic; `trouble` sees each request's number from 0 and may answer instead, told
/// whether the topic has already taken the request.
fn fake(trouble: fn(usize, &mut dyn FnMut() -> Reply) -> Reply) -> (Fake, Arc<Mutex<Topic>>) {
    let topic = Arc::new(Mutex::new(Topic::default()));
    let kept = topic.clone();
    let mut number = 0;
    let fake = Fake::start(move |request| {
        let mut topic = kept.lock().expect("no test panicked");
        number += 1;
        trouble(number - 1, &mut || topic.answer(request))
    });
    (fake, topic)
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("runelog-import-{}-{name}", std::process::id()));
    std::fs::write(&path, text).expect("the file is writable");
    path
}

fn numbers(count: usize) -> Vec<String> {
    (1..=count).map(|number| number.to_string()).collect()
}

fn start(file: &Path, url: &str, more: &[&str]) -> Result<(Tally, Result<(), String>), String> {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: ImportArgs,
    }
    let file = file.to_str().expect("UTF-8");
    let line = ["import", file, "--topic", "t", "--url", url].into_iter().chain(more.iter().copied());
    import(&Line::try_parse_from(line).expect("the options parse").args)
}

fn tally(sent: u64, skipped: u64, data_bytes: u64, seqs: (u64, u64)) -> Tally {
    Tally { sent, skipped, data_bytes, seqs: Some(seqs) }
}

#[test]
fn every_record_arrives_once_and_in_order_whatever_the_answers() {
    let (fake, topic) = fake(|number, answer| match number {
        0 | 2 => Reply::Json(503, "{}".into()), // refused, nothing taken
        3 => Reply::Close,                      // lost before it was taken
        5 | 8 => drop_answer(answer),           // taken, answer lost
        7 => half(answer()),                    // taken, answer cut in the middle
        10 => Reply::Json(429, "{}".into()),
        11 => Reply::Json(500, "{}".into()),
        _ => answer(),
    });
    let path = file("trouble.ndjson", &numbers(10).join("\n"));
    let (tally, outcome) = start(&path, &fake.url, &["--batch", "2"]).expect("the topic was asked");
    assert_eq!(outcome, Ok(()));
    let topic = topic.lock().expect("the fake is sound");
    assert_eq!(topic.data(), numbers(10));
    assert_eq!(tally.sent + tally.skipped, 10);
    assert_eq!((tally.data_bytes, tally.seqs), (11, Some((1, 10))));
    assert_eq!(topic.config.as_deref(), Some("{\"idempotency_window_ms\":604800000}"));
}

fn drop_answer(answer: &mut dyn FnMut() -> Reply) -> Reply {
    answer();
    Reply::Close
}

fn half(reply: Reply) -> Reply {
    let Reply::Json(status, body) = reply else { panic!("the topic answers JSON") };
    Reply::Half(status, body)
}

#[test]
fn the_same_command_again_skips_what_is_there_and_goes_on() {
    let (fake, topic) = fake(|_, answer| answer());
    let mut lines = numbers(7);
    lines[5] = "oops".into();
    let path = file("again.ndjson", &lines.join("\n"));
    let more = &["--batch", "2"];
    let (first, outcome) = start(&path, &fake.url, more).expect("the topic was asked");
    assert_eq!(outcome, Err("line 6: expected value at column 1".into()));
    assert_eq!(first, tally(4, 0, 4, (1, 4)), "line 5 waits for its batch");
    file("again.ndjson", &numbers(7).join("\n"));
    let (second, outcome) = start(&path, &fake.url, more).expect("the topic was asked");
    assert_eq!(outcome, Ok(()));
    assert_eq!(second, tally(3, 4, 7, (1, 7)));
    let (third, _) = start(&path, &fake.url, more).expect("the topic was asked");
    assert_eq!(third, tally(0, 7, 7, (1, 7)));
    let (topic, connections) = (topic.lock().expect("the fake is sound"), fake.connections());
    assert_eq!(topic.data(), numbers(7));
    assert_eq!(topic.writes, [2, 2, 2, 2, 2, 1, 2, 2, 2, 1]);
    assert_eq!(topic.may_create.iter().filter(|may| **may).count(), 1, "the first write alone");
    assert_eq!(connections, 6, "one to ask and one to write, each time");
}

#[test]
fn a_document_goes_in_verbatim_with_its_tags() {
    let (fake, topic) = fake(|_, answer| answer());
    let path = file("doc.json", "{\"n\":[1],\"r\":[ {\"k\": \"a\"} ,\n{\"k\" :null,\"x\": 1.50}]}");
    let more = &["--data-pointer", "/r", "--tag-pointer", "/k", "--class", "fsync"];
    let (tally, outcome) = start(&path, &fake.url, more).expect("the topic was asked");
    assert_eq!((tally.sent, outcome), (2, Ok(())));
    let topic = topic.lock().expect("the fake is sound");
    let wanted =
        [("{\"k\": \"a\"}".to_string(), Some("a".to_string())), ("{\"k\" :null,\"x\": 1.50}".into(), None)];
    assert_eq!(topic.records, wanted);
    let config = "{\"idempotency_window_ms\":604800000,\"durability\":\"fsync\"}";
    assert_eq!(topic.config.as_deref(), Some(config));
}

#[test]
fn a_topic_that_exists_keeps_its_configuration_and_is_not_made_again() {
    let (fake, topic) = fake(|number, answer| match number {
        // Deleted behind the import's back: it must not come back with half a file.
        3 => missing(),
        _ => answer(),
    });
    topic.lock().expect("the fake is sound").exists = true;
    let path = file("exists.ndjson", "1\n2\n3\n");
    let (tally, outcome) =
        start(&path, &fake.url, &["--batch", "1", "--class", "memory"]).expect("the topic was asked");
    assert_eq!(outcome, Err("lines 3 to 3: 404 topic_not_found: no topic named t".into()));
    assert_eq!(tally.sent, 2);
    let topic = topic.lock().expect("the fake is sound");
    assert_eq!((topic.config.as_deref(), &topic.may_create[..]), (None, &[false, false][..]));
}

#[test]
fn a_refusal_ends_it_at_once_on_every_connection() {
    let (fake, topic) = fake(|number, answer| match number {
        4.. => Reply::Json(413, r#"{"error":{"code":"payload_too_large","message":"too big"}}"#.into()),
        _ => answer(),
    });
    let path = file("refused.ndjson", &numbers(1000).join("\n"));
    for connections in ["1", "4"] {
        let more = &["--batch", "1", "--connections", connections];
        let (_, outcome) = start(&path, &fake.url, more).unwrap_or((Tally::default(), Err("413".into())));
        assert!(outcome.expect_err("refused").contains("413"), "{connections}");
    }
    assert_eq!(topic.lock().expect("the fake is sound").records.len(), 3);
}

#[test]
fn many_connections_lose_nothing_and_repeats_are_new_records() {
    let (fake, topic) = fake(|number, answer| if number % 7 == 3 { drop_answer(answer) } else { answer() });
    let path = file("many.ndjson", &numbers(40).join("\n"));
    let more = &["--batch", "3", "--connections", "4", "--repeat", "2"];
    let (tally, outcome) = start(&path, &fake.url, more).expect("the topic was asked");
    assert_eq!(outcome, Ok(()));
    assert_eq!((tally.sent + tally.skipped, tally.seqs), (80, Some((1, 80))));
    let topic = topic.lock().expect("the fake is sound");
    let mut found: Vec<u64> = topic.data().iter().map(|data| data.parse().expect("a number")).collect();
    found.sort_unstable();
    let wanted: Vec<u64> = (1..=40).flat_map(|number| [number, number]).collect();
    assert_eq!(found, wanted);
}

#[test]
fn nobody_there_is_told_after_the_patience_ends() {
    let url = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        format!("http://{}", listener.local_addr().expect("a bound listener"))
    };
    let path = file("nobody.ndjson", "1\n");
    let began = Instant::now();
    let why = start(&path, &url, &["--retry-seconds", "1"]).expect_err("nobody there");
    assert!(why.starts_with("gave up after") && why.contains("refused"), "{why}");
    assert!(began.elapsed() < Duration::from_secs(5));
    for (url, part) in [("https://127.0.0.1", "plain HTTP"), ("http://", "not an address")] {
        let why = start(&path, url, &[]).expect_err(url);
        assert!(why.contains(part), "{why}");
    }
    for (file, part) in [("/nowhere/x", "cannot read /nowhere/x"), ("/", "is a directory")] {
        let why = start(Path::new(file), &url, &[]).expect_err(file);
        assert!(why.contains(part), "{why}");
    }
}
