//! Starts that must be refused, and why (§15.1); starts over damage (SU-5); starts that look different
//! from the last one and must show the same (I-92).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::client::{Client, View};
use crate::random::body_of;
use crate::server::{Dir, Refused, Server, lasting_port, runelog, serve};

/// Status 1, and a message with all of these words.
fn says(refused: &Refused, words: &[&str]) {
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    for word in words {
        assert!(refused.log.contains(word), "{word:?} is missing in: {}", refused.log);
    }
}

fn append(client: &mut Client, topic: &str, write: u64, count: u64, key: Option<&str>) -> u64 {
    let reply = client.call("POST", &format!("/v0/topics/{topic}"), &body_of(write, count, key));
    reply.expect("an answer").good()["first_seq"].as_u64().expect("a number")
}

fn put(client: &mut Client, topic: &str, config: &str) {
    client.call("PUT", &format!("/v0/topics/{topic}"), config).expect("an answer").good();
}

/// A bit of everything: all classes but `ephemeral`, caps, deletes, keys, a topic that came twice.
pub(crate) fn furnish(client: &mut Client) -> Vec<String> {
    let mut topics = Vec::new();
    let mut write = 1000;
    for (name, config) in [
        ("plain", "{}"),
        ("safe", "{\"durability\":\"fsync\"}"),
        ("loose", "{\"durability\":\"memory\"}"),
        ("capped", "{\"cap_records\":50}"),
        ("small", "{\"cap_bytes\":20000}"),
        ("strict", "{\"cap_records\":900,\"discard\":\"reject\"}"),
        ("empty", "{\"lease_ms\":1234}"),
    ] {
        put(client, name, config);
        topics.push(name.to_owned());
        for _ in 0..if name == "empty" { 0 } else { 40 } {
            write += 1;
            append(client, name, write, 1 + write % 20, None);
        }
    }
    append(client, "plain", 1, 3, Some("first"));
    append(client, "safe", 2, 2, Some("second"));
    for (topic, selector) in [
        ("plain", "{\"before_seq\":20}"),
        ("safe", "{\"match\":\"g130/*\"}"),
        ("strict", "{\"before_seq\":100}"),
        ("capped", "{\"match\":\"g145/*\"}"),
    ] {
        client.call("POST", &format!("/v0/topics/{topic}/delete"), selector).expect("an answer").good();
    }
    for round in 0..2 {
        put(client, "again", "{\"durability\":\"fsync\"}");
        append(client, "again", 900 + round, 5, None);
        if round == 0 {
            client.call("DELETE", "/v0/topics/again", "").expect("an answer").good();
        }
    }
    topics.push("again".into());
    topics
}

pub(crate) fn views(client: &mut Client, topics: &[String]) -> Vec<View> {
    topics.iter().map(|name| client.view(name).expect("an answer").expect("it exists")).collect()
}

/// The writes with keys of [`furnish`] are found again (I-72).
pub(crate) fn keys_are_known(client: &mut Client) {
    for (topic, write, count, key) in [("plain", 1, 3, "first"), ("safe", 2, 2, "second")] {
        let body = body_of(write, count, Some(key));
        let answer = client.call("POST", &format!("/v0/topics/{topic}"), &body).expect("an answer").good();
        assert_eq!(answer["deduped"], true, "{answer}");
    }
}

#[test]
fn an_address_for_everyone_needs_the_word_of_the_operator() {
    let home = Dir::new("su1");
    let open = ("RUNELOG_HOST", "0.0.0.0");
    says(&Server::refused(home.path(), &[open]), &["not loopback", "RUNELOG_ALLOW_INSECURE_NO_AUTH"]);
    says(&Server::refused(home.path(), &[("RUNELOG_HOST", "no.such.host.invalid")]), &["no.such.host"]);
    says(&Server::refused(home.path(), &[("RUNELOG_HOST", "::1")]), &["::1"]);
    says(&Server::refused(home.path(), &[open, ("RUNELOG_API_KEYS", " , ")]), &["not loopback"]);
    assert!(!home.join("data").exists(), "a refusal for its settings touches nothing");
    let server = Server::start(home.path(), &[open, ("RUNELOG_ALLOW_INSECURE_NO_AUTH", "1")]);
    let address = ([127, 0, 0, 1], server.address.port()).into();
    let mut client = Client::open(address).expect("it listens everywhere");
    client.call("GET", "/v0/health", "").expect("an answer").good();
    server.stop_well();
}

#[test]
fn keys_guard_any_address_and_leave_no_trace() {
    let home = Dir::new("su2");
    for (keys, part) in [("hush:reed", "unknown scope"), ("a,:r", "empty secret"), ("hush:+", "no scope")] {
        let refusal = Server::refused(home.path(), &[("RUNELOG_API_KEYS", keys)]);
        says(&refusal, &["RUNELOG_API_KEYS", part]);
        assert!(!refusal.log.contains("hush"), "A-3 SU-2: {refusal:?}");
    }
    assert!(!home.join("data").exists(), "a refusal for its settings touches nothing");
    let keys = [("RUNELOG_HOST", "0.0.0.0"), ("RUNELOG_API_KEYS", "hush-hush:r"), ("RUST_LOG", "trace")];
    let server = Server::start(home.path(), &keys);
    let address = ([127, 0, 0, 1], server.address.port()).into();
    let mut client = Client::open(address).expect("SU-1: it listens everywhere");
    client.call("GET", "/v0/health", "").expect("an answer").good();
    let refused = client.call("GET", "/v0/topics", "").expect("an answer");
    assert_eq!(refused.status, 401, "A-2");
    let environ = std::fs::read(format!("/proc/{}/environ", server.pid())).expect("it runs");
    assert!(!environ.windows(9).any(|part| part == b"hush-hush"), "A-3: nor in its environment");
    let log = server.log();
    assert!(!log.contains("hush"), "A-3: {log}");
    server.stop_well();
}

#[test]
fn a_data_directory_belongs_to_one_process() {
    let home = Dir::new("su3");
    let mut server = Server::start(home.path(), &[]);
    let mut client = server.client();
    append(&mut client, "t", 1, 5, None);
    let listed = |path: &Path| -> BTreeMap<PathBuf, (u64, std::time::SystemTime)> {
        let about = walk(path).into_iter().map(|file| {
            let about = file.metadata().expect("it is there");
            (file, (about.len(), about.modified().expect("a time")))
        });
        about.collect()
    };
    std::thread::sleep(Duration::from_millis(700)); // the server comes to rest
    let before = listed(&home.join("data"));

    // A second one, by the same name and by another; each with a port file of its own.
    let other = Dir::new("su3-other");
    let by_name = home.join("data").display().to_string();
    std::os::unix::fs::symlink(home.join("data"), other.join("link")).expect("a link");
    let by_link = other.join("link").display().to_string();
    for name in [by_name, by_link] {
        let refused = Server::refused(other.path(), &[("RUNELOG_DATA_DIR", &name)]);
        says(&refused, &["another process serves this data directory", &name]); // SU-3
    }
    assert_eq!(listed(&home.join("data")), before, "a refused start modifies nothing (I-100)");
    assert!(server.is_running());
    append(&mut client, "t", 2, 5, None);
    server.kill();
    let server = Server::start(home.path(), &[]);
    let view = server.client().view("t").expect("an answer").expect("it exists");
    assert_eq!(view.count, 10, "after a kill the next start needs no help (I-101)");
    server.stop_well();

    let file = home.join("a-file");
    fs::write(&file, "x").expect("written");
    for path in [file.clone(), file.join("below"), "/proc/runelog".into()] {
        let path = path.display().to_string();
        says(&Server::refused(home.path(), &[("RUNELOG_DATA_DIR", &path)]), &[&path]);
    }
    assert_eq!(fs::read(&file).expect("still a file"), b"x");
}

#[test]
fn a_port_that_is_taken_or_a_port_file_that_cannot_be_written_refuses_the_start() {
    let home = Dir::new("su4");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port().to_string();
    says(&Server::refused(home.path(), &[("RUNELOG_PORT", &port)]), &[&port, "in use"]);
    // SU-6.
    let nowhere = home.join("no/such/port").display().to_string();
    says(&Server::refused(home.path(), &[("RUNELOG_PORT_FILE", &nowhere)]), &[&nowhere]);
    let directory = home.join("data").display().to_string();
    says(&Server::refused(home.path(), &[("RUNELOG_PORT_FILE", &directory)]), &[&directory]);
    Server::start(home.path(), &[]).stop_well();
}

/// The kernel lets go of the listener of a killed process late, and supervisors are quick.
#[test]
fn after_a_kill_the_same_port_can_be_had_at_once() {
    let home = Dir::new("port");
    let port = lasting_port();
    let mut server = Server::start(home.path(), &[("RUNELOG_PORT", &port)]);
    for _ in 0..10 {
        let mut client = server.client();
        append(&mut client, "t", 1, 1, None);
        server.kill();
        server = Server::start(home.path(), &[("RUNELOG_PORT", &port)]);
    }
    server.stop_well();
}

#[test]
fn settings_are_checked_before_anything_is_touched() {
    let home = Dir::new("ev1");
    let file = home.join("runelog.toml");
    fs::write(&file, "shards = 1\nsegment_max_evens = 5\n").expect("written");
    let with_file = |check: bool| {
        let mut command = serve(home.path(), &[]);
        command.arg("--config").arg(&file).args(check.then_some("--check"));
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let output = command.output().expect("the binary runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    for check in [false, true] {
        let (status, _, said) = with_file(check);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("segment_max_evens") && said.contains("segment_max_events"), "{said}");
    }
    fs::write(&file, "shards = 1\nhot_bytes = 33554432\nsegment_max_events = 5\n").expect("written");
    let (status, shown, said) = with_file(true);
    assert_eq!(status, Some(0), "{said}");
    // The environment (two cores) beats the file.
    for line in ["shards = 2", "env RUNELOG_SHARDS", "segment_max_events = 5", "# file", "# default"] {
        assert!(shown.contains(line), "{line:?} is missing in: {shown}");
    }
    assert!(!home.join("data").exists(), "--check touches nothing");
}

#[test]
fn the_number_of_cores_changes_no_answer() {
    let home = Dir::new("i92");
    let mut topics = Vec::new();
    let mut before = None;
    for (round, shards) in ["1", "2", "3", "1", "3"].into_iter().enumerate() {
        let server = Server::start(home.path(), &[("RUNELOG_SHARDS", shards)]);
        let mut client = server.client();
        if round == 0 {
            topics = furnish(&mut client);
        }
        keys_are_known(&mut client);
        let list = client.call("GET", "/v0/topics?page_size=3", "").expect("an answer").good();
        let now = (views(&mut client, &topics), list["topics"].clone(), list["next_cursor"].clone());
        let before = before.get_or_insert_with(|| now.clone());
        for ((name, before), now) in topics.iter().zip(&before.0).zip(&now.0) {
            assert!(before == now, "{name} on {shards} cores (I-92): {now:?} instead of {before:?}");
        }
        assert_eq!((&before.1, &before.2), (&now.1, &now.2), "on {shards} cores (I-92)");
        match round {
            // After a kill the heads of class `disk` may stand higher (I-58).
            3 => server.kill(),
            _ => server.stop_well(),
        }
        if round == 3 {
            break;
        }
    }
}

/// All files below a directory.
pub(crate) fn walk(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files.extend(walk(&path)),
            false => files.push(path),
        }
    }
    files
}

/// Twenty fsync writes, each a block of its own, on one core; then the server is killed. Gives the log
/// file with the blocks and the offset behind the last of them.
fn killed_log(home: &Dir) -> (PathBuf, u64) {
    let server = Server::start(home.path(), &[("RUNELOG_SHARDS", "1")]);
    let mut client = server.client();
    put(&mut client, "t", "{\"durability\":\"fsync\"}");
    for write in 0..20 {
        // Of a size that always is one block.
        let body = format!("{{\"records\":[{{\"data\":{write}}}]}}");
        client.call("POST", "/v0/topics/t", &body).expect("an answer").good();
    }
    server.kill();
    let files = walk(&home.join("data")).into_iter();
    let logs = files.filter(|file| file.extension().is_some_and(|extension| extension == "log"));
    let mut used: Vec<(PathBuf, u64)> = logs
        .filter_map(|path| {
            let bytes = fs::read(&path).expect("readable");
            let last = bytes[4096..].chunks(4096).rposition(|block| block.starts_with(b"RBLK"))?;
            Some((path, 4096 * (last as u64 + 2)))
        })
        .collect();
    assert_eq!(used.len(), 1, "all is in one file: {used:?}");
    used.pop().expect("just seen")
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).expect("a log file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], at).expect("written");
}

fn numbers(server: &Server) -> Vec<String> {
    let view = server.client().view("t").expect("an answer").expect("it exists");
    view.records.into_iter().map(|got| got.data).collect()
}

#[test]
fn a_broken_byte_in_the_middle_of_the_log_refuses_the_start_and_says_where() {
    let home = Dir::new("su5");
    let (log, _) = killed_log(&home);
    let at = 4096 * 10;
    let name = log.file_name().expect("a name").to_string_lossy().into_owned();
    let one = [("RUNELOG_SHARDS", "1")];
    for place in [at + 70, at + 20] {
        flip(&log, place);
        let before = fs::read(&log).expect("readable");
        // Twice, because a refusal must not repair anything either (I-90); and on other numbers of cores.
        for shards in ["1", "1", "2"] {
            let refused = Server::refused(home.path(), &[("RUNELOG_SHARDS", shards)]);
            says(&refused, &[&name, &format!("offset {at}"), "seqs 9..=20"]);
        }
        assert!(fs::read(&log).expect("readable") == before, "a refused start changes nothing");
        flip(&log, place);
    }
    let server = Server::start(home.path(), &one);
    let wanted: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(numbers(&server), wanted, "the byte restored, everything is there");
    server.stop_well();
}

#[test]
fn a_torn_tail_is_cut_and_told() {
    let home = Dir::new("torn");
    let (log, end) = killed_log(&home);
    let file = File::options().read(true).write(true).open(&log).expect("a log file");
    let mut block = vec![0; 4096];
    file.read_exact_at(&mut block, end - 4096).expect("the last block");
    // What a write that never ended may leave: the beginning of a block, and then nothing.
    block.truncate(1000);
    block[900] ^= 1;
    file.write_all_at(&block, end).expect("written");
    let wanted: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    for round in 0..3 {
        let server = Server::start(home.path(), &[("RUNELOG_SHARDS", "1")]);
        let told = server.log().contains("torn tail");
        assert!(told || round > 0, "the cut is told (I-93): {}", server.log());
        assert_eq!(numbers(&server), wanted);
        server.kill();
    }
}

/// §11 wants a start over a last log file of any length; what may be lost must be told then, or it would
/// be silent.
#[test]
fn a_log_file_that_was_cut_short_is_told() {
    let home = Dir::new("short");
    let (log, end) = killed_log(&home);
    let pristine =
        walk(&home.join("data")).into_iter().map(|path| (fs::read(&path).expect("readable"), path));
    let pristine: Vec<_> = pristine.collect();
    let name = log.file_name().expect("a name").to_string_lossy().into_owned();
    for (length, left) in [(end - 4096 * 5, 15), (end - 4000, 19), (end, 20)] {
        File::options().write(true).open(&log).expect("a log file").set_len(length).expect("cut");
        let server = Server::start(home.path(), &[("RUNELOG_SHARDS", "1")]);
        let wanted: Vec<String> = (0..left).map(|number| number.to_string()).collect();
        assert_eq!(numbers(&server), wanted);
        let said = server.log();
        assert!(said.contains(&name) && said.contains("cut short"), "{said}");
        server.kill();
        fs::remove_dir_all(home.join("data")).expect("removed");
        for (bytes, path) in &pristine {
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, bytes).expect("restored");
        }
        fs::create_dir_all(home.join("data/segments")).expect("made");
    }
    let server = Server::start(home.path(), &[("RUNELOG_SHARDS", "1")]);
    assert_eq!(numbers(&server).len(), 20);
    server.stop_well();
}

/// A start of a process that may lock `bytes` of memory.
fn with_memlock(home: &Dir, bytes: u64) -> Result<Server, Refused> {
    let mut command = serve(home.path(), &[]);
    // SAFETY: both calls are async-signal-safe and touch nothing of ours.
    unsafe {
        command.pre_exec(move || {
            const CAP_IPC_LOCK: i32 = 14;
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit);
            // Root may lock what it likes unless it gives this up; others have nothing to give up.
            libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0);
            Ok(())
        });
    }
    Server::run(home.path(), command)
}

#[test]
fn with_little_memory_to_lock_it_runs_the_plain_way_and_says_so() {
    let home = Dir::new("memlock");
    // Newer kernels count the rings themselves, and without those nothing goes: then that is said.
    match with_memlock(&home, 0) {
        Ok(server) => server.stop_well(),
        Err(refused) => says(&refused, &["memlock"]),
    }
    // Enough for rings, too little for the chunks of the log.
    let server = with_memlock(&home, 6 << 20).unwrap_or_else(|refused| panic!("{}", refused.log));
    let mut client = server.client();
    let topics = furnish(&mut client);
    let before = views(&mut client, &topics);
    assert!(server.log().contains("memlock limit"), "the fallback is told: {}", server.log());
    server.stop_well();
    let server = Server::start(home.path(), &[]);
    assert!(views(&mut server.client(), &topics) == before);
    server.stop_well();
}

/// A full disk behind stderr must not end the daemon.
#[test]
fn a_log_that_nobody_can_write_changes_nothing() {
    let home = Dir::new("mute");
    let mute = |port: &str| {
        let mut command = serve(home.path(), &[("RUST_LOG", "debug"), ("RUNELOG_PORT", port)]);
        command.stderr(File::options().write(true).open("/dev/full").expect("a device"));
        command
    };
    let server = Server::run_quietly(home.path(), mute("0")).expect("it starts");
    let mut client = server.client();
    let topics = furnish(&mut client);
    assert_eq!(views(&mut client, &topics).len(), topics.len());
    server.stop_well();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let refused = Server::run_quietly(home.path(), mute(&port)).err().expect("the port is taken");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}

#[test]
fn help_and_version_need_no_server() {
    for arg in ["--version", "--help"] {
        let output = runelog().arg(arg).output().expect("the binary runs");
        assert!(output.status.success() && !output.stdout.is_empty());
    }
}
