//! Claims about what is printed, against a fake server with prepared answers.

use std::sync::{Arc, Mutex};

use clap::Parser;

use super::*;
use crate::fake::{Fake, Reply};

/// Runs a tail against these answers; gives its output, its words, its outcome and the requests.
fn tail(replies: Vec<Reply>, more: &[&str]) -> (String, Vec<String>, Result<(), String>, Vec<String>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = asked.clone();
    let mut replies = replies.into_iter();
    let fake = Fake::start(move |request| {
        kept.lock().expect("no test panicked").push(format!("{} {}", request.line, request.body));
        replies.next().unwrap_or(Reply::Json(404, error("topic_not_found", "gone")))
    });
    let mut out = Vec::new();
    let mut words = Vec::new();
    let outcome = print(&args(&fake.url, more), &mut out, &mut |text| words.push(text.to_string()));
    let asked = asked.lock().expect("the fake is sound").clone();
    (String::from_utf8(out).expect("UTF-8"), words, outcome, asked)
}

fn args(url: &str, more: &[&str]) -> TailArgs {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: TailArgs,
    }
    let line = ["tail", "t", "--url", url].into_iter().chain(more.iter().copied());
    Line::try_parse_from(line).expect("the options parse").args
}

fn error(code: &str, message: &str) -> String {
    format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"{message}\"}}}}")
}

fn diff(records: &[&str], next: u64, caught_up: bool, tombstone: &str) -> Reply {
    let records = records.join(",");
    Reply::Json(
        200,
        format!(
            "{{\"topic\":\"t\",\"records\":[{records}],\"next_from_seq\":{next},\"head_seq\":9,\
             \"caught_up\":{caught_up},\"tombstone\":{tombstone},\"performance\":{{}}}}"
        ),
    )
}

fn state(head_seq: u64) -> Reply {
    Reply::Json(200, format!("{{\"topic\":\"t\",\"head_seq\":{head_seq}}}"))
}

const ONE: &str = r#"{"$seq":1,"$ts":5,"$tag":"x","data":{"a" : 1}}"#;
const LONG: &str = "{\"$seq\":2,\"$ts\":5,\"data\":{\"a\": [1,\r\n  \"\\\" \\n,\\\\\" , true]\n}}";

#[test]
fn a_record_is_a_line_and_keeps_its_bytes_unless_it_breaks() {
    let table = [
        (&[][..], format!("{ONE}\n{{\"$seq\":2,\"$ts\":5,\"data\":{{\"a\":[1,\"\\\" \\n,\\\\\",true]}}}}\n")),
        (&["--data-only"], "{\"a\" : 1}\n{\"a\":[1,\"\\\" \\n,\\\\\",true]}\n".into()),
        (&["--raw"], format!("{ONE}\n{LONG}\n")),
    ];
    for (more, wanted) in table {
        let more = [&["--from", "0"], more].concat();
        let (out, words, outcome, asked) = tail(vec![diff(&[ONE, LONG], 9, true, "null")], &more);
        assert_eq!((out, words, outcome), (wanted, vec![], Ok(())), "{more:?}");
        assert_eq!(asked.len(), 1, "caught up is the end");
    }
}

#[test]
fn it_begins_where_it_is_told() {
    let table = [
        // options, head, cursor of the first read
        (&[][..], 25, 15),
        (&[], 4, 0),
        (&["-n", "3"], 25, 22),
        (&["-n", "0"], 25, 25),
    ];
    for (more, head, from) in table {
        let (_, _, outcome, asked) = tail(vec![state(head), diff(&[], head, true, "null")], more);
        assert_eq!((outcome, asked.len()), (Ok(()), 2), "{more:?}");
        assert!(asked[1].contains(&format!("\"from_seq\":{from},")), "{more:?}: {}", asked[1]);
    }
    let (_, _, _, asked) = tail(vec![diff(&[], 7, true, "null")], &["--from", "7", "--tags"]);
    assert!(asked[0].starts_with("POST /v0/topics/t/diff {\"from_seq\":7,"), "{}", asked[0]);
    assert!(asked[0].contains("\"include_tags\":true,\"wait_ms\":0"), "{}", asked[0]);
}

#[test]
fn pages_follow_each_other_to_the_end() {
    let replies =
        vec![diff(&[ONE], 1, false, "null"), diff(&[], 6, false, "null"), diff(&["9"], 9, true, "null")];
    let (out, _, outcome, asked) = tail(replies, &["--from", "0"]);
    assert_eq!((out, outcome), (format!("{ONE}\n9\n"), Ok(())));
    let cursors: Vec<bool> =
        asked.iter().zip([0, 1, 6]).map(|(body, from)| body.contains(&format!(":{from},"))).collect();
    assert_eq!(cursors, [true; 3]);
    // A server that makes no progress does not hold the reader.
    let (_, _, outcome, asked) = tail(vec![diff(&[], 3, false, "null")], &["--from", "3"]);
    assert_eq!((outcome, asked.len()), (Ok(()), 1));
}

#[test]
fn what_is_lost_is_told_in_words() {
    let gap = |reason: &str| format!("{{\"gap_from\":3,\"gap_to\":8,\"reason\":\"{reason}\"}}");
    let table = [
        ("cap", "records 3 to 8 are gone, lost to the topic's cap"),
        ("ttl", "records 3 to 8 are gone, lost to their age"),
        ("mixed", "records 3 to 8 are gone, lost to the topic's cap and their age"),
        ("source_trim", "records 3 to 8 are gone, lost to a trim of the source topic"),
        ("recreated", "the topic ends at seq 8, before 2: it was deleted and created again"),
    ];
    for (reason, wanted) in table {
        let (out, words, outcome, _) = tail(vec![diff(&[], 9, true, &gap(reason))], &["--from", "2"]);
        assert_eq!((out.as_str(), outcome, words.len()), ("", Ok(()), 1), "{reason}");
        assert!(words[0].starts_with(wanted), "{}", words[0]);
    }
}

#[test]
fn following_waits_and_outlasts_a_lost_connection() {
    let replies = vec![
        diff(&[ONE], 1, true, "null"),
        Reply::Close,
        Reply::Json(503, error("not_ready", "recovering")),
        diff(&[], 1, true, "null"),
        diff(&["2"], 2, true, "null"),
    ];
    let (out, _, outcome, asked) = tail(replies, &["--from", "0", "-f"]);
    assert_eq!(out, format!("{ONE}\n2\n"));
    assert_eq!(outcome, Err("404 topic_not_found: gone".into()));
    assert!(asked.iter().all(|body| body.contains("\"wait_ms\":30000")));
}

#[test]
fn a_first_read_that_fails_is_told_at_once() {
    for more in [&[][..], &["--from", "0"], &["--from", "0", "-f"]] {
        let (_, _, outcome, asked) = tail(vec![Reply::Close], more);
        assert!(outcome.is_err() && asked.len() == 1, "{more:?}: {outcome:?} {asked:?}");
    }
}

#[test]
fn a_reader_who_has_enough_ends_it_quietly() {
    struct Full(io::ErrorKind);
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for (kind, quiet) in [(io::ErrorKind::BrokenPipe, true), (io::ErrorKind::StorageFull, false)] {
        let fake = Fake::start(|_| diff(&[ONE], 1, false, "null"));
        let outcome = print(&args(&fake.url, &["--from", "0", "-f"]), &mut Full(kind), &mut |_| ());
        assert_eq!(outcome.is_ok(), quiet, "{kind:?}: {outcome:?}");
    }
}
