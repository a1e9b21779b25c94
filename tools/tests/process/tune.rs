//! `runelog tune`: what it writes is taken by `serve`, and whatever becomes of it, or of `bench`, nothing is left
//! behind.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use crate::server::{Dir, runelog};

const PATIENCE: Duration = Duration::from_secs(60);

/// Everything, as short as it can be.
const SHORT: [&str; 11] =
    ["--quick", "--seconds", "0.3", "--steps", "2", "--class", "disk", "--bytes", "100", "--batch", "10"];

fn tune(home: &Path, args: &[&str]) -> Output {
    let mut command = runelog();
    command.current_dir(home).args(["tune", "--data-dir", "data"]).args(args);
    command.output().expect("it runs")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Processes that were started with something of `dir` on their command line.
fn processes_of(dir: &Path) -> Vec<String> {
    let wanted = dir.display().to_string();
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| text(&line).replace('\0', " ")).filter(|line| line.contains(&wanted)).collect()
}

#[test]
fn a_whole_run_writes_settings_that_serve_takes_and_leaves_nothing_else() {
    let home = Dir::new("tune");
    let mut args = SHORT.to_vec();
    args.extend(["--profile", "host.json"]);
    let output = tune(home.path(), &args);
    let (out, told) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}\n{told}");
    assert_eq!(names(home.path()), ["host.json", "runelog.toml"], "{told}");
    for part in
        ["QUICK", "Host", "Log device", "Network stack", "JSON splitting", "Capacity", "commits in flight"]
    {
        assert!(out.contains(part), "{part} in {out}");
    }
    assert!(told.contains("to do, about"), "the time is told: {told}");
    let mut check = runelog();
    let checked =
        check.current_dir(home.path()).args(["serve", "--check", "--config", "runelog.toml"]).output();
    let checked = checked.expect("it runs");
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    let settled = text(&checked.stdout);
    let of_file = settled.lines().filter(|line| line.ends_with("# file") || line.contains("# file,")).count();
    assert!(of_file >= 5, "data_dir, shards, commits_in_flight, hot_bytes, cache_bytes: {settled}");
    let profile: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(home.join("host.json")).expect("written")).expect("JSON");
    assert_eq!(
        (&profile["quick"], profile["server"]["table"].as_array().map(Vec::len)),
        (&true.into(), Some(1))
    );

    // A second one is refused before anything is measured, for what is there stays.
    let before = fs::read(home.join("runelog.toml")).expect("there");
    let again = tune(home.path(), &SHORT);
    assert!(!again.status.success() && text(&again.stderr).contains("--force"), "{}", text(&again.stderr));
    assert!(!text(&again.stderr).contains("log device"), "nothing was measured");
    assert_eq!(fs::read(home.join("runelog.toml")).expect("there"), before);
}

#[test]
fn a_host_that_has_become_worse_than_its_profile_is_told_by_the_status() {
    let home = Dir::new("tune-check");
    let saved = tune(home.path(), &["--only", "checks", "--profile", "host.json", "--json"]);
    assert!(saved.status.success(), "{}", text(&saved.stderr));
    let path = home.join("host.json");
    let profile = fs::read_to_string(&path).expect("written");
    assert_eq!(profile, text(&saved.stdout), "the result is the profile");
    let same = tune(home.path(), &["--check", "host.json"]);
    assert!(same.status.success(), "{}{}", text(&same.stdout), text(&same.stderr));
    // As if the kernel had been another one, and one thing on it better: the first is told, the second counts.
    let mut older: serde_json::Value = serde_json::from_str(&profile).expect("JSON");
    older["facts"]["kernel"] = "6.99.1".into();
    let check = older["checks"].as_array_mut().expect("checks");
    let wanting = check.iter_mut().find(|check| check["name"] == "free space").expect("there");
    let (is, was) = match wanting["verdict"] == "good" {
        true => ("good", "bad"),
        false => ("wanting", "good"),
    };
    wanting["verdict"] = was.into();
    fs::write(&path, older.to_string()).expect("written");
    let changed = tune(home.path(), &["--check", "host.json"]);
    let out = text(&changed.stdout);
    assert!(out.contains("kernel: was 6.99.1"), "{out}");
    assert!(out.contains("check of free space"), "{out}");
    assert_eq!(changed.status.success(), is == "good", "{out}");
    // A measurement that cannot be had any more.
    older["json"] =
        serde_json::json!([{"record_bytes": 100, "bytes_per_second": 1e15, "records_per_second": 1e15}]);
    fs::write(&path, older.to_string()).expect("written");
    let slower = tune(home.path(), &["--check", "host.json", "--quick"]);
    assert_eq!(slower.status.code(), Some(1), "{}", text(&slower.stdout));
    assert!(text(&slower.stdout).contains("WORSE    splitting records of 100 B"), "{}", text(&slower.stdout));
    assert_eq!(names(home.path()), ["host.json"]);
}

#[test]
fn an_interrupted_run_ends_its_server_and_leaves_nothing() {
    for (signal, line, sign, has_server) in [
        (libc::SIGINT, "tune --data-dir data --only server", "trying", true),
        (libc::SIGTERM, "tune --data-dir data --only disk", "syncs of 64 KiB", false),
        // Its first line, which is told before the first server is started.
        (libc::SIGINT, "bench append --warm-up 60", "kernel", true),
        (libc::SIGTERM, "bench ceiling --warm-up 60", "kernel", true),
    ] {
        let home = Dir::new("interrupted");
        let log = home.join("log");
        let file = fs::File::create(&log).expect("a log");
        let mut command = runelog();
        command.current_dir(home.path()).args(line.split(' '));
        command.stdout(file.try_clone().expect("a descriptor")).stderr(file);
        let mut child = command.spawn().expect("it runs");
        let began = Instant::now();
        let under_way = || {
            let server = processes_of(home.path()).iter().any(|line| line.contains("--port-file"));
            fs::read_to_string(&log).expect("a log").contains(sign) && (!has_server || server)
        };
        while !under_way() {
            assert!(began.elapsed() < PATIENCE, "{}", fs::read_to_string(&log).expect("a log"));
            std::thread::sleep(Duration::from_millis(20));
        }
        // SAFETY: a plain system call on a child that was not waited for.
        unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        let status = child.wait().expect("it ends");
        assert_eq!(status.code(), Some(130), "{line}");
        assert_eq!(names(home.path()), ["log"], "{line}");
        assert_eq!(processes_of(home.path()), Vec::<String>::new(), "{line}");
    }
}
