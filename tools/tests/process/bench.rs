//! `runelog bench` against servers that it starts itself: every mode works, counts what it says it counts, and
//! writes what was asked for. Nothing here looks at how fast anything is.

use std::fs;

use serde_json::Value;

use crate::server::{Dir, Server, runelog};

/// Runs `bench` for a second a point and returns its JSON.
fn bench(line: &str) -> Value {
    let home = Dir::new("bench");
    let [json, csv, html] = ["json", "csv", "html"].map(|name| home.join(name));
    let output = runelog()
        .arg("bench")
        .args(line.split(' '))
        .args(["--quick", "--seconds", "1", "--warm-up", "0", "--server-flag=--shards=2"])
        .arg("--dir")
        .arg(home.path())
        .args(["--json".as_ref(), json.as_os_str()])
        .args(["--csv".as_ref(), csv.as_os_str()])
        .args(["--html".as_ref(), html.as_os_str()])
        .output()
        .expect("a process");
    let [told, complained] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{line}: {complained}");
    assert!(told.contains("--quick"), "the stamp is missing: {told}");
    let value: Value = serde_json::from_slice(&fs::read(json).expect("a file")).expect("JSON");
    assert_eq!(value["quick"], true);
    assert!(value["server_settings"].as_str().expect("text").contains("shards = 2 "), "{value}");
    let points = value["points"].as_array().expect("points");
    assert_eq!(fs::read_to_string(csv).expect("a file").lines().count(), points.len() + 1);
    assert!(fs::read_to_string(html).expect("a file").contains("Not to be quoted"));
    for point in points {
        assert!(number(point, "/point/requests") > 0.0, "{line}: nothing was answered");
        assert_eq!(point["point"]["refused"], serde_json::json!({}), "{line}");
        assert!(number(point, "/point/latency_us/max") > 0.0);
    }
    // Its servers and their directories are gone; what it wrote is left.
    let left: Vec<_> = fs::read_dir(home.path())
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    assert_eq!(left.len(), 3, "{left:?}");
    value
}

fn number(value: &Value, place: &str) -> f64 {
    value.pointer(place).and_then(Value::as_f64).unwrap_or_else(|| panic!("{place} of {value}"))
}

#[test]
fn appends_count_the_records_of_their_batches() {
    let value =
        bench("append --class disk,ephemeral --connections 4 --topics 3 --batch 5 --skew 1 --routers 1");
    assert_eq!(value["points"].as_array().map(Vec::len), Some(2));
    for point in value["points"].as_array().expect("points") {
        assert_eq!(number(point, "/point/records"), 5.0 * number(point, "/point/requests"));
        assert!(number(point, "/point/server_cpu") > 0.0 && number(point, "/point/generator_cpu") > 0.0);
    }
}

#[test]
fn an_open_loop_asks_no_more_than_its_rate() {
    let value = bench("append --class disk --connections 4 --rate 50,100");
    for (index, rate) in [50.0, 100.0].into_iter().enumerate() {
        let point = &value["points"][index];
        assert_eq!(number(point, "/rate"), rate);
        // What is answered inside a second was due inside it, or waited from the second before.
        assert!(number(point, "/point/requests") <= rate + 1.0, "{point}");
        assert!(number(point, "/point/slip_us/max") > 0.0);
    }
}

#[test]
fn reads_begin_at_the_head_at_the_start_anywhere_and_cold() {
    let value = bench(
        "read --class disk --connections 2 --topics 2 --bytes 1000 --fill 300000 --limit 100 --from head,start,anywhere,cold --server-cpus 0",
    );
    for point in value["points"].as_array().expect("points") {
        assert_eq!(number(point, "/point/records"), 100.0 * number(point, "/point/requests"));
    }
    // I-97, D-21: what was read there had to come from the disk, and it did.
    let cold = &value["points"][3];
    assert_eq!(cold["from"], "cold");
    // Its server had little memory, and its point says so.
    let settings = cold["server_settings"].as_str().expect("text");
    assert!(settings.contains("hot_bytes = 16777216 ") && !settings.contains("data_dir"), "{settings}");
    assert_eq!(value["points"][2]["server_settings"], "");
    let warnings = cold["warnings"].to_string();
    assert!(!warnings.contains("not cold"), "{warnings}");
    let read = number(cold, "/point/server_read_bytes");
    assert!(read >= 1000.0 * 0.5 * number(cold, "/point/records"), "{read} bytes for {cold}");
}

#[test]
fn every_delivery_of_a_fan_out_is_counted() {
    let value =
        bench("fanout --class ephemeral --connections 4 --topics 2 --readers 6 --rate 100 --follow sse,ws");
    for point in value["points"].as_array().expect("points") {
        // Three readers follow each topic.
        let (writes, deliveries) = (number(point, "/point/requests"), number(point, "/point/records"));
        assert!(deliveries > 0.0 && deliveries <= 3.0 * (writes + 10.0), "{deliveries} of {writes}");
        assert!(deliveries >= 3.0 * (writes - 10.0), "{deliveries} of {writes}");
    }
}

#[test]
fn queues_are_emptied_by_claims_and_acks() {
    let value = bench("queue --class disk --connections 4 --topics 2 --batch 8 --fill 100000");
    let (cycles, jobs) =
        (number(&value, "/points/0/point/requests"), number(&value, "/points/0/point/records"));
    assert!(jobs > 0.0 && jobs <= 8.0 * cycles, "{jobs} jobs in {cycles} cycles");
}

#[test]
fn queues_that_run_dry_are_told() {
    let value = bench("queue --class disk --connections 4 --topics 2 --batch 1000 --fill 2000");
    let point = &value["points"][0];
    assert!(number(point, "/point/empty") > 0.0, "{point}");
    assert!(point["warnings"].to_string().contains("the queues ran dry"), "{point}");
}

#[test]
fn a_mixed_load_tells_each_kind_apart() {
    let value = bench(
        "mixed --class disk --connections 4 --topics 2 --fill 2000 --limit 10 --mix append=4,read=3,catchup=1,claim=1,push=1",
    );
    let parts = value["points"][0]["point"]["parts"].as_array().expect("parts");
    let names: Vec<&str> = parts.iter().map(|part| part["name"].as_str().expect("a name")).collect();
    assert_eq!(names, ["append", "read", "catchup", "claim", "push"]);
    let sum: f64 = parts.iter().map(|part| number(part, "/requests_per_second")).sum();
    let all = number(&value, "/points/0/point/requests_per_second");
    assert!((sum - all).abs() < 0.01 * all, "{sum} of {all}");
    assert!(parts.iter().all(|part| number(part, "/requests_per_second") > 0.0), "{parts:?}");
}

#[test]
fn the_ceiling_runs_beside_the_server_under_the_same_load() {
    let value =
        bench("ceiling --class fsync --connections 4 --topics 11 --batch 3 --repeat 2 --server-cpus 0");
    let points = value["points"].as_array().expect("points");
    let subjects: Vec<&str> =
        points.iter().map(|point| point["subject"].as_str().expect("a subject")).collect();
    let round = ["fresh", "raw_echo", "raw_log", "raw_disk"];
    assert_eq!(subjects, [round, round].concat());
    for point in points {
        assert_eq!(number(point, "/point/records"), 3.0 * number(point, "/point/requests"));
    }
    let findings = value["findings"].as_array().expect("findings");
    assert_eq!(findings.len(), 3);
    for finding in findings {
        let share = number(finding, "/median") / number(finding, "/ceiling");
        assert!((number(finding, "/of_ceiling") - share).abs() < 1e-9);
    }
}

/// Requests of the load and what opens streams have the key, not only what makes topics.
#[test]
fn a_server_that_wants_a_key_gets_it_with_every_request() {
    let home = Dir::new("bench-keys");
    let server = Server::start(home.path(), &[("RUNELOG_API_KEYS", "hush:rw+a")]);
    let (url, json) = (format!("http://{}", server.address), home.join("json"));
    let bench = |line: &str, key: &str| {
        let mut command = runelog();
        command
            .arg("bench")
            .args(line.split(' '))
            .args(["--url", &url, "--class", "disk", "-c", "2", "-t", "2"]);
        command.args(["--quick", "--seconds", "1", "--warm-up", "0", "--json"]).arg(&json);
        command.env("RUNELOG_KEY", key).output().expect("a process")
    };
    for line in [
        "append --routers 1",
        "read --fill 2000 --limit 10",
        "queue --fill 2000",
        "mixed --fill 2000 --limit 10 --mix append=4,read=3,claim=1,push=1",
        "fanout --rate 100 --readers 4 --follow sse,ws",
    ] {
        let output = bench(line, "hush");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        let value: Value = serde_json::from_slice(&fs::read(&json).expect("a file")).expect("JSON");
        for point in value["points"].as_array().expect("points") {
            assert_eq!(point["point"]["refused"], serde_json::json!({}), "{line}");
            assert!(number(point, "/point/records") > 0.0, "{line}: {point}");
        }
    }
    let output = bench("append", "wrong");
    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("401"),
        "{output:?}"
    );
}

/// What the user's own server is told in the environment is not for the servers of a benchmark.
#[test]
fn fresh_servers_are_told_nothing_by_the_environment() {
    let home = Dir::new("bench-environment");
    let json = home.join("json");
    let output = runelog()
        .args([
            "bench",
            "append",
            "--quick",
            "--seconds",
            "1",
            "--warm-up",
            "0",
            "-c",
            "2",
            "--class",
            "disk",
        ])
        .args(["--dir".as_ref(), home.path().as_os_str(), "--json".as_ref(), json.as_os_str()])
        .envs([("RUNELOG_API_KEYS", "hush:rw+a"), ("RUNELOG_HOT_BYTES", "16777216")])
        .output()
        .expect("a process");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let value: Value = serde_json::from_slice(&fs::read(&json).expect("a file")).expect("JSON");
    let settings = value["server_settings"].as_str().expect("text");
    assert!(!settings.contains("# env") && !settings.contains("api_keys: set"), "{settings}");
    for used in ["host = \"127.0.0.1\"", "port = 0 ", "/runelog-bench-"] {
        assert!(settings.contains(used), "{used}: {settings}");
    }
}

/// A generator with a CPU of its own must not take the others from the lines that ask for all of them.
#[test]
fn every_line_of_the_suite_has_its_own_runs_and_cpus() {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let value = bench(if cpus > 1 { "suite --cpus 1 --server-cpus 0" } else { "suite" });
    let findings = value["findings"].as_array().expect("findings");
    assert_eq!(findings.len(), 15);
    for finding in findings {
        assert_eq!(finding["runs"].as_array().map(Vec::len), Some(1), "{finding}");
    }
    let mut used: Vec<usize> = Vec::new();
    for point in value["points"].as_array().expect("points") {
        used.push(point["server_cpus"].as_array().expect("a list").len());
    }
    assert_eq!(
        used.iter().filter(|count| **count == cpus).count(),
        if cpus > 1 { 2 } else { 16 }, // the same load with all CPUs and with those of the others is one
        "{used:?}"
    );
}

#[test]
fn what_makes_no_sense_is_refused_with_status_1() {
    for (line, reason) in [("append --seconds 3", "--quick"), ("fanout", "--rate")] {
        let output = runelog().arg("bench").args(line.split(' ')).output().expect("a process");
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(reason), "{line}");
    }
}
