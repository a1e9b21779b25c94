//! `runelog import` and `runelog tail` against a server that is killed in the middle: started again, the
//! import finishes what is missing, and what is there is byte for byte what the file says.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::client::Got;
use crate::random::Random;
use crate::server::{Dir, Server, lasting_port, runelog};

const ITEMS: u64 = 6000;
/// Records of a write: with many of them there is a middle to be killed in.
const BATCH: &str = "7";
const LONGEST: Duration = Duration::from_secs(60);

/// Items as a pretty printer leaves them: line breaks, indentation, UTF-8, escapes of all kinds, large
/// and odd numbers, a duplicate member.
fn items() -> Vec<(String, String)> {
    let mut random = Random(11);
    let item = |number: u64| {
        let user = format!("user_{}", random.below(50));
        let text = match random.below(4) {
            0 => "Grüße aus Zürich — 東京 🦀",
            1 => "a \\\"quote\\\", a \\\\ and a \\/",
            2 => "\\u00e9\\ud83e\\udd80\\n\\t\\u0000",
            _ => "plain",
        };
        let pad = "x".repeat(random.below(700) as usize);
        let data = format!(
            "{{\n      \"id\": {number},\n      \"big\": 18446744073709551616,\n      \"float\": -1.50e+3,\n      \
             \"text\": \"{text}\",\n      \"pad\" : \"{pad}\",\n      \"user\": {{\n        \"name\": \"{user}\"\n      \
             }},\n      \"list\": [\n        1,\n        {{ }},\n        [ ]\n      ],\n      \"twice\": 1, \"twice\": 2\n    }}"
        );
        (data, user)
    };
    (0..ITEMS).map(item).collect()
}

fn file_of(items: &[(String, String)], path: &Path) {
    let list: Vec<&str> = items.iter().map(|(data, _)| data.as_str()).collect();
    let text =
        format!("{{\n  \"about\": \"a fixture\",\n  \"items\": [\n    {}\n  ]\n}}\n", list.join(",\n    "));
    fs::write(path, text).expect("written");
}

fn import(file: &Path, server: &Server, class: &str, patience: &str) -> Command {
    let mut command = runelog();
    command.arg("import").arg(file).args(["--topic", &format!("in-{class}"), "--class", class]);
    command.args(["--data-pointer", "/items", "--tag-pointer", "/user/name", "--batch", BATCH]);
    command.args(["--retry-seconds", patience, "--url", &format!("http://{}", server.address)]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for a command that must end well.
fn ends_well(mut child: Child) -> Output {
    let began = Instant::now();
    while child.try_wait().expect("our child").is_none() {
        if began.elapsed() > LONGEST {
            let _ = child.kill();
            panic!("still running: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("it ended");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Waits until a tenth of the file is there.
fn at_work(server: &Server, topic: &str, importing: &mut Child) {
    let mut client = server.client();
    let asked = Instant::now();
    loop {
        let state = client.call("GET", &format!("/v0/topics/{topic}"), "").expect("an answer");
        if state.status == 200 && state.json()["count"].as_u64().expect("a number") > ITEMS / 10 {
            return;
        }
        assert!(asked.elapsed() < LONGEST && importing.try_wait().expect("our child").is_none());
    }
}

fn is_as_the_file(name: &str, records: &[Got], items: &[(String, String)]) {
    assert_eq!(records.len(), items.len(), "{name}: none is missing, none is there twice");
    for (got, (data, tag)) in records.iter().zip(items) {
        assert_eq!((&got.data, got.tag.as_ref()), (data, Some(tag)), "{name}: seq {}", got.seq);
    }
}

#[test]
fn an_import_over_a_kill_brings_every_item_once_and_in_order() {
    let home = Dir::new("import");
    let file = home.join("items.json");
    let items = items();
    file_of(&items, &file);
    for class in ["ephemeral", "memory", "disk", "fsync"] {
        let topic = format!("in-{class}");
        let server = Server::start(home.path(), &[]);
        let mut begun = import(&file, &server, class, "0").spawn().expect("it runs");
        at_work(&server, &topic, &mut begun);
        server.kill();
        let output = begun.wait_with_output().expect("it ended");
        assert!(!output.status.success(), "{class}: it was to be cut off in the middle");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("the same command run again"), "{said}");

        let server = Server::start(home.path(), &[]);
        let mut client = server.client();
        let there = client.view(&topic).expect("an answer").expect("the creation was acknowledged");
        assert!(there.count < ITEMS, "{class}: it was killed before the end");
        assert!(class != "ephemeral" || there.count == 0);
        // The same again, and once more when all is there.
        for run in 0..2 {
            let output = ends_well(import(&file, &server, class, "30").spawn().expect("it runs"));
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let all_there = format!("0 records sent, {} skipped", thousands(ITEMS));
            assert_eq!(said.contains(&all_there), run == 1, "{class}: {said}");
        }
        let view = client.view(&topic).expect("an answer").expect("it exists");
        is_as_the_file(&topic, &view.records, &items);

        let mut tail = runelog();
        tail.args(["tail", &topic, "--from", "0", "--data-only", "--raw"]);
        tail.args(["--url", &format!("http://{}", server.address)]);
        let output = ends_well_reading(tail);
        let wanted: Vec<&str> = items.iter().flat_map(|(data, _)| [data.as_str(), "\n"]).collect();
        assert!(output == wanted.concat().as_bytes(), "{class}: tail prints what was imported");
        server.stop_well();
    }
}

/// An import with patience does not even end when the server is killed and comes back.
#[test]
fn an_import_waits_for_a_server_that_comes_back() {
    let home = Dir::new("import-waits");
    let file = home.join("items.json");
    let items = items();
    file_of(&items, &file);
    let port = lasting_port();
    let server = Server::start(home.path(), &[("RUNELOG_PORT", &port)]);
    let mut importing = import(&file, &server, "fsync", "30").spawn().expect("it runs");
    at_work(&server, "in-fsync", &mut importing);
    server.kill();
    let server = Server::start(home.path(), &[("RUNELOG_PORT", &port)]);
    ends_well(importing);
    let view = server.client().view("in-fsync").expect("an answer").expect("it exists");
    is_as_the_file("in-fsync", &view.records, &items);
    server.stop_well();
}

/// Output of any length, read while it comes.
fn ends_well_reading(mut command: Command) -> Vec<u8> {
    let output = command.stdout(Stdio::piped()).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A number as the summary writes it.
fn thousands(number: u64) -> String {
    assert!((1000..1_000_000).contains(&number));
    format!("{},{:03}", number / 1000, number % 1000)
}

#[test]
fn a_key_for_the_server_comes_from_the_environment() {
    let home = Dir::new("tail-key");
    let server = Server::start(home.path(), &[("RUNELOG_API_KEYS", "hush:rw+a,other:d")]);
    let url = format!("http://{}", server.address);
    let file = home.join("three.ndjson");
    fs::write(&file, "1\n2\n3\n").expect("written");
    let run = |key: Option<&str>, words: &[&str]| {
        let mut command = runelog();
        command.args(words).args(["--url", &url]).envs(key.map(|key| ("RUNELOG_KEY", key)));
        command.output().expect("it runs")
    };
    let import = ["import", file.to_str().expect("UTF-8"), "--topic", "keyed"];
    let tail = ["tail", "keyed", "--from", "0", "--data-only"];
    for (key, part) in [(None, "401 unauthorized"), (Some("no"), "401"), (Some("other"), "403 forbidden")] {
        for words in [&import[..], &tail] {
            let output = run(key, words);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && said.contains(part), "A-2 A-6 {words:?}: {said}");
        }
    }
    let output = run(Some(" hush "), &import);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = run(Some("hush"), &tail);
    assert_eq!((output.status.success(), &*output.stdout), (true, &b"1\n2\n3\n"[..]), "A-2");
    server.stop_well();
}
