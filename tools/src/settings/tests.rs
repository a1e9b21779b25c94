//! Claims about the settings table. Rule ids are those of the HTTP contract.

use std::collections::BTreeSet;
use std::path::Path;

use clap::{Args, FromArgMatches};

use super::args::ServeArgs;
use super::resolve::{Env, Origin, Resolved, Value, default_of, resolve};
use super::{ABSENT, Kind, TABLE, bind, show};

fn env(pairs: &[(&str, &str)]) -> Env {
    pairs.iter().map(|(name, value)| (name.to_string(), value.into())).collect()
}

fn from_env(pairs: &[(&str, &str)]) -> Resolved {
    resolve(&[], &env(pairs), None).expect("the environment alone rarely refuses")
}

fn from_file(text: &str) -> Result<Resolved, String> {
    resolve(&[], &Env::new(), Some((Path::new("runelog.toml"), text))).map_err(|refusal| refusal.0)
}

fn row<'a>(resolved: &'a Resolved, name: &str) -> (&'a Value, &'a Origin) {
    let (_, value, origin) =
        resolved.effective.iter().find(|(setting, ..)| setting.name == name).expect("a row");
    (value, origin)
}

fn flags(line: &[&str]) -> ServeArgs {
    let command = ServeArgs::augment_args(clap::Command::new("serve"));
    let line = std::iter::once(&"serve").chain(line);
    ServeArgs::from_arg_matches(&command.get_matches_from(line)).expect("the flags parse")
}

#[test]
fn nothing_must_be_set_to_run() {
    let resolved = from_env(&[]);
    assert_eq!(resolved.warnings, Vec::<String>::new());
    let settings = resolved.settings().expect("EV-1");
    assert_eq!(settings.bind, "127.0.0.1:4000");
    assert_eq!(settings.addresses, ["127.0.0.1:4000".parse().expect("an address")]);
    assert_eq!(settings.data_dir, Path::new("./runelog-data"));
    assert_eq!(settings.port_file, None);
    assert_eq!((settings.max_topics, settings.max_total_bytes), (100_000, 0));
    assert_eq!((settings.max_body_bytes, settings.commits_in_flight), (64 << 20, 2));
    assert_eq!(settings.shards, settings.cpus.len().min(256));
    assert!(!settings.allow_insecure_no_auth && !settings.keys.is_on() && !settings.probe_auth);
    let caps = (settings.caps.max_routers, settings.caps.max_watch_sessions, settings.caps.max_streams);
    assert_eq!(caps, (10_000, 10_000, 10_000), "§13");
    let per_key = (settings.caps.max_streams_per_key, settings.caps.max_in_flight_per_key);
    assert_eq!((per_key, settings.heartbeat_ms_min), ((1000, 1000), 1000), "§13");
}

#[test]
fn names_are_spelled_once_and_follow_one_scheme() {
    let mut seen = BTreeSet::new();
    for setting in TABLE {
        default_of(setting);
        for name in [Some(setting.name), Some(setting.env), setting.env_alias].into_iter().flatten() {
            assert!(seen.insert(name), "{name} twice");
        }
        let scheme = format!("RUNELOG_{}", setting.name.to_uppercase());
        assert!(setting.env == scheme || setting.env == "RUST_LOG", "{}", setting.env);
        assert!(!setting.help.contains(['\n', '|']), "{} fits a table", setting.name);
        if let Kind::Number { min, max, multiple_of, .. } = setting.kind {
            assert!(min <= max, "{}", setting.name);
            assert!(multiple_of == 1 || (min % multiple_of, max % multiple_of) == (0, 0));
        }
    }
    assert!(ABSENT.iter().all(|(name, _)| seen.insert(name)), "a variable both known and absent");
}

#[test]
fn flag_beats_environment_beats_file() {
    let file = Some((Path::new("f.toml"), "port = 3\nmax_topics = 3\nhot_bytes = 33554432\n"));
    let env = env(&[("RUNELOG_PORT", "2"), ("RUNELOG_MAX_TOPICS", "2")]);
    let resolved = resolve(&flags(&["--port", "1"]).flags, &env, file).expect("all parse");
    assert_eq!(row(&resolved, "port"), (&Value::Number(1), &Origin::Flag), "EV-1");
    assert_eq!(row(&resolved, "max_topics"), (&Value::Number(2), &Origin::Env("RUNELOG_MAX_TOPICS")), "EV-1");
    assert_eq!(row(&resolved, "hot_bytes"), (&Value::Number(32 << 20), &Origin::File), "EV-1");
    assert_eq!(row(&resolved, "host").1, &Origin::Default);
    let shown = show::check(&resolved);
    for line in ["port = 1 ", "max_topics = 2 "] {
        assert!(shown.contains(line), "{shown}");
    }
    for origin in ["# flag --port", "# env RUNELOG_MAX_TOPICS", "# file", "# default"] {
        assert!(shown.contains(origin), "{shown}");
    }
    // What --check prints is itself a file that says the same.
    let again = from_file(&shown).expect("TOML");
    let values = |resolved: &Resolved| -> Vec<Value> {
        resolved.effective.iter().map(|(_, value, _)| value.clone()).collect()
    };
    assert_eq!(values(&again), values(&resolved));
}

#[test]
fn the_environment_never_trips_a_start() {
    let default = |name: &str| default_of(TABLE.iter().find(|setting| setting.name == name).expect("a row"));
    let n = Value::Number;
    let table = [
        // variable, text, setting, value (None = the default), warns
        ("RUNELOG_MAX_TOPICS", "7", "max_topics", Some(n(7)), false),
        ("RUNELOG_MAX_TOPICS", " 7\t", "max_topics", Some(n(7)), false),
        ("RUNELOG_MAX_TOPICS", "0", "max_topics", Some(n(0)), false),
        ("RUNELOG_MAX_TOPICS", "-1", "max_topics", None, true),
        ("RUNELOG_MAX_TOPICS", "many", "max_topics", None, true),
        ("RUNELOG_MAX_TOPICS", "1.5", "max_topics", None, true),
        ("RUNELOG_MAX_TOPICS", "", "max_topics", None, false),
        ("RUNELOG_MAX_TOPICS", "99999999999999999999", "max_topics", None, true),
        ("RUNELOG_MAX_BODY_BYTES", "100", "max_body_bytes", Some(n(100)), false),
        ("RUNELOG_MAX_BODY_BYTES", " 100", "max_body_bytes", None, true),
        ("RUNELOG_MAX_BODY_BYTES", "0", "max_body_bytes", Some(n(0)), false),
        ("RUNELOG_MAX_BODY_BYTES", "18446744073709551615", "max_body_bytes", Some(n(1 << 30)), true),
        ("RUNELOG_PORT", "99999", "port", None, true),
        ("RUNELOG_PORT", " 0 ", "port", Some(n(0)), false),
        ("RUNELOG_SHARDS", "4", "shards", Some(n(4)), false),
        ("RUNELOG_SHARDS", "x", "shards", None, true),
        ("RUNELOG_SHARDS", "9999", "shards", Some(n(256)), true),
        ("RUNELOG_WAL_SHARDS", "3", "shards", Some(n(3)), false),
        ("RUNELOG_SEGMENT_MAX_EVENTS", "0", "segment_max_events", Some(n(1)), true),
        ("RUNELOG_HOT_BYTES", "1", "hot_bytes", Some(n(16 << 20)), true),
        ("RUNELOG_WAL_FILE_BYTES", "7000000", "wal_file_bytes", Some(n(6 << 20)), true),
        ("RUNELOG_WAL_FILE_BYTES", "1", "wal_file_bytes", Some(n(4 << 20)), true),
        ("RUNELOG_COMMITS_IN_FLIGHT", "5", "commits_in_flight", Some(n(4)), true),
        ("RUNELOG_DATA_DIR", "", "data_dir", None, false),
        ("RUNELOG_HOST", " localhost ", "host", Some(Value::Text("localhost".into())), false),
        ("RUNELOG_ALLOW_INSECURE_NO_AUTH", "1", "allow_insecure_no_auth", Some(Value::Switch(true)), false),
        (
            "RUNELOG_ALLOW_INSECURE_NO_AUTH",
            "true",
            "allow_insecure_no_auth",
            Some(Value::Switch(true)),
            false,
        ),
        ("RUNELOG_ALLOW_INSECURE_NO_AUTH", "TRUE", "allow_insecure_no_auth", None, false),
        ("RUNELOG_ALLOW_INSECURE_NO_AUTH", "yes", "allow_insecure_no_auth", None, false),
        ("RUNELOG_PROBE_AUTH", "1", "probe_auth", Some(Value::Switch(true)), false),
        ("RUNELOG_PROBE_AUTH", "yes", "probe_auth", None, false),
        ("RUNELOG_MAX_ROUTERS", " 3 ", "max_routers", Some(n(3)), false),
        ("RUNELOG_MAX_WATCH_SESSIONS", "x", "max_watch_sessions", None, true),
        ("RUNELOG_MAX_SSE_CONNECTIONS", "0", "max_sse_connections", Some(n(0)), false),
        ("RUNELOG_MAX_SSE_CONNECTIONS_PER_KEY", "5", "max_sse_connections_per_key", Some(n(5)), false),
        ("RUNELOG_MAX_INFLIGHT_PER_KEY", "-1", "max_inflight_per_key", None, true),
        ("RUNELOG_TEST_MIN_HEARTBEAT_MS", "20", "test_min_heartbeat_ms", Some(n(20)), false),
        ("RUNELOG_TEST_MIN_HEARTBEAT_MS", "0", "test_min_heartbeat_ms", Some(n(1)), true),
        ("RUST_LOG", "debug", "log", Some(Value::Text("debug".into())), false),
        ("RUST_LOG", "a=b=c", "log", None, true),
    ];
    for (variable, text, name, value, warns) in table {
        let resolved = from_env(&[(variable, text)]);
        let wanted = value.unwrap_or_else(|| default(name));
        assert_eq!(row(&resolved, name).0, &wanted, "L-1 {variable}={text:?}");
        assert_eq!(!resolved.warnings.is_empty(), warns, "{variable}={text:?} {:?}", resolved.warnings);
    }
    let both = from_env(&[("RUNELOG_SHARDS", "2"), ("RUNELOG_WAL_SHARDS", "3")]);
    assert_eq!(row(&both, "shards"), (&Value::Number(2), &Origin::Env("RUNELOG_SHARDS")));
}

#[test]
fn a_file_or_a_flag_that_does_not_parse_refuses_the_start() {
    let table = [
        // file, part of the message
        ("port = \"4000\"", "a port from 0 to 65535"),
        ("port = 65536", "a port from 0 to 65535"),
        ("port = -1", "a port"),
        ("max_topics = 1.0", "whole number"),
        ("max_body_bytes = 1073741825", "0 to 1073741824"),
        ("hot_bytes = 16777215", "16777216 or more"),
        ("wal_file_bytes = 5242880", "a multiple of 2097152"),
        ("commits_in_flight = 0", "1 to 4"),
        ("segment_max_events = 0", "1 or more"),
        ("allow_insecure_no_auth = 1", "true or false"),
        ("data_dir = \"\"", "a path"),
        ("log = \"a=b=c\"", "a log filter"),
        ("log = \"größe=info\"", "a log filter"),
        ("max_topic = 4", "unknown key `max_topic`; the nearest setting is `max_topics`"),
        ("hots = \"x\"", "nearest setting is `host`"),
        ("[server]\nport = 1", "unknown key `server`"),
        ("port = 1\nport = 2", "not TOML"),
        ("port: 1", "not TOML"),
    ];
    for (text, part) in table {
        let message = from_file(text).expect_err(text);
        assert!(message.contains(part) && message.contains("runelog.toml"), "{text}: {message}");
    }
    for (flag, text) in [("port", "x"), ("max-body-bytes", " 1"), ("commits-in-flight", "5")] {
        let said = format!("--{flag}={text}");
        let refusal = flags(&[&said]).resolve(&Env::new()).expect_err(&said);
        assert!(refusal.0.contains(flag), "{refusal}");
    }
    let missing = flags(&["--config", "/nowhere/runelog.toml"]).resolve(&Env::new());
    assert!(missing.expect_err("no such file").0.contains("/nowhere/runelog.toml"));
}

#[test]
fn a_switch_is_also_turned_off_by_a_flag() {
    for (line, variable, wanted) in [
        (&["--allow-insecure-no-auth"][..], "0", true),
        (&["--allow-insecure-no-auth=false"], "1", false),
        (&[], "1", true),
    ] {
        let env = env(&[("RUNELOG_ALLOW_INSECURE_NO_AUTH", variable)]);
        let resolved = flags(line).resolve(&env).expect("all parse");
        assert_eq!(row(&resolved, "allow_insecure_no_auth").0, &Value::Switch(wanted), "{line:?}");
    }
}

#[test]
fn only_loopback_is_open_to_everyone() {
    let table = [
        // rule, host, port, insecure, outcome: the first address, or part of the refusal
        ("SU-1", "127.0.0.1", 4000, false, Ok("127.0.0.1:4000")),
        ("SU-1", "127.9.9.9", 1, false, Ok("127.9.9.9:1")),
        ("SU-1", "127.0.0.1:5000", 4000, false, Ok("127.0.0.1:5000")),
        ("SU-1", "[::1]:4000", 1, false, Ok("[::1]:4000")),
        ("SU-1", "0.0.0.0", 4000, false, Err("not loopback only")),
        ("SU-1", "[::]:4000", 4000, false, Err("not loopback only")),
        ("SU-1", "192.0.2.1", 4000, false, Err("not loopback only")),
        ("SU-1", "0.0.0.0", 4000, true, Ok("0.0.0.0:4000")),
        ("SU-1", "::1", 4000, false, Err("counts as not loopback")),
        ("SU-1", "127.0.0.1:port", 4000, false, Err("counts as not loopback")),
        ("SU-1", "127.0.0.1:99999", 4000, false, Err("counts as not loopback")),
        ("SU-1", "no such host", 4000, false, Err("counts as not loopback")),
        ("SU-4", "127.0.0.1:port", 4000, true, Err("cannot listen on 127.0.0.1:port")),
    ];
    for (rule, host, port, insecure, outcome) in table {
        let found = bind::addresses(&bind::bind_text(host, port), insecure);
        match (found, outcome) {
            (Ok(found), Ok(first)) => assert_eq!(found[0].to_string(), first, "{rule} {host}"),
            (Err(refusal), Err(part)) => assert!(refusal.0.contains(part), "{rule} {host}: {refusal}"),
            (found, _) => panic!("{rule} {host} {port}: {found:?}"),
        }
    }
}

#[test]
fn ports_of_cores_are_a_row_of_their_own() {
    let address = |port: u16| [std::net::SocketAddr::from(([127, 0, 0, 1], port))];
    let table = [
        // first, shards, port of all, outcome
        (0, 4, 4000, Ok(None)),
        (4001, 4, 4000, Ok(Some(4001))),
        (3996, 4, 4000, Ok(Some(3996))),
        (3997, 4, 4000, Err("3997 to 4000 include 4000")),
        (4000, 1, 4000, Err("4000 to 4000 include 4000")),
        (65532, 4, 4000, Ok(Some(65532))),
        (65533, 4, 4000, Err("beyond port 65535")),
    ];
    for (first, shards, port, outcome) in table {
        match (bind::shard_ports(first, shards, &address(port)), outcome) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{first} {shards}"),
            (Err(refusal), Err(part)) => assert!(refusal.0.contains(part), "{first}: {refusal}"),
            (found, _) => panic!("{first} {shards} {port}: {found:?}"),
        }
    }
}

#[test]
fn keys_are_taken_from_anywhere_and_never_shown() {
    let none = resolve(&[], &env(&[("RUNELOG_API_KEYS", " , ")]), None).expect("A-1");
    assert!(!none.settings().expect("SU-1").keys.is_on(), "A-1");
    let file = Some((Path::new("f.toml"), "api_keys = \"hush:r,tell\""));
    let table = [
        // flags, environment, file, keys
        (&["--api-keys=hush,a,b"][..], &[("RUNELOG_API_KEYS", "x")][..], file, 3, "flag --api-keys"),
        (&[], &[("RUNELOG_API_KEYS", " hush:rw:a|b ,hush")], file, 1, "env RUNELOG_API_KEYS"),
        (&[], &[], file, 2, "file"),
        (&[], &[], None, 0, "default"),
    ];
    for (said, variables, file, count, origin) in table {
        let resolved = resolve(&flags(said).flags, &env(variables), file).expect("EV-1");
        let settings = resolved.settings().expect("loopback");
        assert_eq!(settings.keys.count(), count, "EV-1 {origin}");
        let shown = show::check(&resolved);
        let line = shown.lines().find(|line| line.contains("api_keys")).expect("a line");
        let wanted = match count {
            0 => "api_keys = \"\"".to_string(),
            1 => "# api_keys: set (1 key) ".to_string(),
            _ => format!("# api_keys: set ({count} keys) "),
        };
        assert!(line.starts_with(&wanted) && line.ends_with(origin), "{line}");
        let printed = format!("{shown}{resolved:?}{settings:?}");
        assert!(!printed.contains("hush") && !printed.contains("tell"), "A-3: {printed}");
        assert!(from_file(&shown).is_ok(), "{shown}");
    }
}

#[test]
fn malformed_keys_refuse_the_start_without_showing_them() {
    for (flag, variable, file) in [
        ("--api-keys=hush:hush", "", ""),
        ("", "hush:x", ""),
        ("--api-keys=fine", "a,hush:+", ""),
        ("", ":hush", ""),
        ("", "", "api_keys = \"hush:x\""),
        ("", "", "api_keys = 5"),
        ("", "", "port = 1\napi_keys = \"hush"),
        ("", "", "api_keys = [\"hush\"]"),
    ] {
        let flags = flags(if flag.is_empty() { &[] } else { std::slice::from_ref(&flag) }).flags;
        let file = Some((Path::new("f.toml"), file));
        let refusal = resolve(&flags, &env(&[("RUNELOG_API_KEYS", variable)]), file).expect_err(variable);
        assert!(!refusal.0.contains("hush"), "A-3 SU-2: {refusal}");
    }
    let said = from_file("port = 1\napi_keys = \"hush").expect_err("no end");
    assert!(said.contains("line 2"), "{said}");
}

#[test]
fn with_keys_any_address_may_be_served() {
    let settings = from_env(&[("RUNELOG_HOST", "0.0.0.0"), ("RUNELOG_API_KEYS", "s")]).settings();
    assert_eq!(settings.expect("SU-1").addresses[0].to_string(), "0.0.0.0:4000");
    let settings = from_env(&[("RUNELOG_HOST", "0.0.0.0"), ("RUNELOG_API_KEYS", ", ,")]).settings();
    assert!(settings.expect_err("SU-1").0.contains("api_keys"), "SU-1: nobody is asked for a key");
}

#[test]
fn absent_features_and_strangers_warn() {
    for (name, part) in [
        ("RUNELOG_COLD_DIR", "does not have a cold tier"),
        ("RUNELOG_MAX_TOPIC", "nearest one is RUNELOG_MAX_TOPICS"),
    ] {
        let warnings = from_env(&[(name, "1")]).warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(part), "{name}: {warnings:?}");
    }
}

#[test]
fn documents_list_exactly_the_table() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let sample = top.join("deploy/runelog.toml");
    if std::env::var_os("RUNELOG_BLESS").is_some() {
        std::fs::write(&sample, show::sample_file()).expect("the sample is writable");
    }
    let found = std::fs::read_to_string(&sample).unwrap_or_default();
    assert_eq!(found, show::sample_file(), "run with RUNELOG_BLESS=1 to write deploy/runelog.toml anew");
    // Uncommented, it is a file that says the defaults.
    let said: String = found
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| {
            let name = line.split(" = ").next().unwrap_or_default();
            TABLE.iter().any(|setting| setting.name == name)
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let resolved = from_file(&said).expect("the sample parses");
    for (setting, value, origin) in &resolved.effective {
        assert_eq!((value, origin), (&default_of(setting), &Origin::File), "{}", setting.name);
    }
    // The README has the table between two marks; a checkout without a README has nothing to check.
    let Ok(readme) = std::fs::read_to_string(top.join("README.md")) else { return };
    let table = show::readme_table();
    let marked = readme
        .split_once("<!-- settings -->\n")
        .and_then(|(_, rest)| rest.split_once("<!-- /settings -->"))
        .map(|(rows, _)| rows.trim());
    assert_eq!(marked, Some(table.trim()), "the README holds, between its marks:\n{table}");
}
