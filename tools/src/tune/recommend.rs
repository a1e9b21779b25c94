//! Settings for this host, each with the measurement or the fact that it follows from, as a file for
//! `runelog serve --config`. Lives here: what is recommended and why. Not here: measuring.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use crate::settings::resolve;

use super::checks::{Verdict, bytes_text};
use super::profile::Profile;
use super::server::{ServerResult, best};

const MIB: u64 = 1 << 20;
/// Part of the memory that records and blocks may take together; the rest is for requests, indexes, the
/// page cache and everybody else.
const MEMORY_PART: f64 = 0.4;
/// Of that, the part for records that are not sealed yet, at most.
const HOT_PART: f64 = 0.6;
/// Seconds of the fastest load that memory holds before it has to be sealed: bursts, and a slow moment of
/// the disk.
const HOT_SECONDS: f64 = 4.0;
const HOT_LEAST: u64 = 64 * MIB;
const HOT_MOST: u64 = 4096 * MIB;
const CACHE_LEAST: u64 = 64 * MIB;
const CACHE_MOST: u64 = 4096 * MIB;
/// Seconds of the fastest load that a log file takes: its change costs a few writes of the directory.
const FILE_SECONDS: f64 = 1.0;
const FILE_LEAST: u64 = 64 * MIB;
const FILE_MOST: u64 = 1024 * MIB;
/// Files of a log are made ahead, a few for each core: together no more than this part of the free space.
const FILES_OF_FREE: u64 = 64;

/// A value for a setting, and why.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Advice {
    pub(crate) name: &'static str,
    pub(crate) value: toml::Value,
    pub(crate) why: String,
}

fn number(name: &'static str, value: u64, why: String) -> Advice {
    Advice { name, value: toml::Value::Integer(value as i64), why }
}

/// What the profile says about settings; nothing about those of which it says nothing.
pub(crate) fn advise(profile: &Profile, data_dir: &Path) -> Vec<Advice> {
    let shards = profile.facts.cpus_usable() as u64;
    let mut advice = vec![Advice {
        name: "data_dir",
        value: toml::Value::String(data_dir.display().to_string()),
        why: "Where the log device was measured.".to_owned(),
    }];
    advice.push(number("shards", shards, why_shards(profile)));
    if let Some(server) = &profile.server {
        let value = best(&server.commits_in_flight, 2);
        let tried = server.commits_in_flight.iter().map(|trial| {
            format!("{}: {:.0} records/s, p99 {:.0} us", trial.value, trial.records_per_second, trial.p99_us)
        });
        let tried = tried.collect::<Vec<_>>().join("; ");
        let why = format!("Tried on this device with single records of class fsync. {tried}.");
        advice.push(number("commits_in_flight", value, why));
    }
    let budget =
        profile.facts.memory_usable_bytes().map(|bytes| (bytes as f64 * MEMORY_PART) as u64 / shards);
    let peak = profile.server.as_ref().and_then(peak_log_bytes);
    if let Some(budget) = budget {
        let usable = bytes_text(profile.facts.memory_usable_bytes().unwrap_or(0));
        let most = ((budget as f64 * HOT_PART) as u64).clamp(HOT_LEAST, HOT_MOST);
        let (hot, why) = match peak {
            Some(peak) => {
                let wanted = ((peak * HOT_SECONDS) as u64).next_power_of_two();
                let why = format!(
                    "{HOT_SECONDS:.0} s of the fastest load that was held ({} a second into the log of a core) are {}, and the share of a core in the memory ({usable}) is {}.",
                    bytes_text(peak as u64),
                    bytes_text((peak * HOT_SECONDS) as u64),
                    bytes_text(most),
                );
                (wanted.clamp(HOT_LEAST.max(256 * MIB).min(most), most), why)
            }
            None => {
                let why = format!(
                    "The default, unless the share of a core in the memory ({usable}) is less: {}.",
                    bytes_text(most)
                );
                ((256 * MIB).min(most), why)
            }
        };
        let hot = hot / MIB * MIB;
        advice.push(number("hot_bytes", hot, why));
        let cache = budget.saturating_sub(hot).clamp(CACHE_LEAST, CACHE_MOST) / MIB * MIB;
        let read = profile.disk.as_ref().map(|disk| disk.read_bytes_per_second);
        let read = read.map_or(String::new(), |rate| {
            format!(
                " A block that is not in it is read from the device, at {} a second at most.",
                bytes_text(rate as u64)
            )
        });
        let why = format!(
            "What hot_bytes leaves of {:.0} % of the memory ({usable}), for each of {shards} cores.{read}",
            MEMORY_PART * 100.0
        );
        advice.push(number("cache_bytes", cache, why));
    }
    let free = profile.facts.free_bytes / FILES_OF_FREE / shards;
    if let Some(peak) = peak {
        let wanted = ((peak * FILE_SECONDS) as u64).next_power_of_two().clamp(FILE_LEAST, FILE_MOST);
        let fits = if free >= FILE_LEAST { wanted.min(1 << free.ilog2()) } else { FILE_LEAST };
        let fill = profile.disk.as_ref().map_or(String::new(), |disk| {
            format!(
                ", and one is zero-filled in {:.1} s here",
                fits as f64 / disk.fill_bytes_per_second.max(1.0)
            )
        });
        let why = format!(
            "Takes {FILE_SECONDS:.0} s of that load, within {}{fill}. Fixed once the data directory is made.",
            bytes_text(FILE_LEAST.max(free)),
        );
        advice.push(number("wal_file_bytes", fits, why));
    }
    advice
}

/// The most that went into the log of one core at a rate that was held.
fn peak_log_bytes(server: &ServerResult) -> Option<f64> {
    let most = server.table.iter().map(|cell| cell.usage.log_bytes_per_second).fold(0.0, f64::max);
    (most > 0.0).then(|| most / server.server_cpus.len().max(1) as f64)
}

fn why_shards(profile: &Profile) -> String {
    let facts = &profile.facts;
    let mut why = format!("{} CPUs are allowed", facts.cpus_allowed.len());
    match facts.cpu_quota {
        Some(quota) => {
            let _ = write!(why, " with a quota of {quota:.2} of them.");
        }
        None => why.push_str(", without a quota."),
    }
    let trials = profile.server.as_ref().map_or(&[][..], |server| &server.shards);
    for trial in trials {
        let _ = write!(why, " {} measured: {:.0} records/s.", trial.value, trial.records_per_second);
    }
    if !trials.is_empty() {
        why.push_str(
            " The last shared its CPUs with the generator; with clients elsewhere it has them to itself.",
        );
    }
    why
}

/// The advice as a file.
pub(crate) fn file(profile: &Profile, advice: &[Advice], machine: &str) -> Result<String, String> {
    let mut out = String::from("# Settings for this host, by `runelog tune`.");
    if profile.quick {
        out.push_str(" FROM SHORT MEASUREMENTS (--quick): run it again\n# without before relying on them.");
    }
    out.push('\n');
    out += &comment(machine);
    if let Some(cores) = profile.server.as_ref().and_then(ServerResult::disturbed) {
        out += &comment(&format!(
            "NOT QUIET: other processes used up to {cores:.1} cores while the server was measured."
        ));
    }
    for Advice { name, value, why } in advice {
        let _ = write!(out, "\n{}{name} = {value}\n", comment(why));
    }
    let wanting = profile.checks.iter().filter(|check| check.verdict >= Verdict::Improve);
    let mut host = String::new();
    for check in wanting {
        let _ = write!(host, "#\n{}", comment(&format!("{}: {}: {}.", check.name, check.found, check.why)));
        if !check.fix.is_empty() {
            let _ = writeln!(host, "#   {}", check.fix);
        }
    }
    if !host.is_empty() {
        let _ = write!(out, "\n# What no setting of the server can do, but the host can:\n{host}");
    }
    // A file that `serve` would refuse must never be written.
    let path = Path::new("the recommended settings");
    let checked =
        resolve::resolve(&[], &resolve::Env::new(), Some((path, &out))).and_then(|all| all.settings());
    checked.map(|_| out).map_err(|refusal| format!("a defect: {refusal}"))
}

/// Comment lines of at most 100 characters.
fn comment(words: &str) -> String {
    let mut out = String::from("#");
    let mut used = 1;
    for word in words.split_whitespace() {
        if used + 1 + word.chars().count() > 100 {
            out.push_str("\n#");
            used = 1;
        }
        let _ = write!(out, " {word}");
        used += 1 + word.chars().count();
    }
    out.push('\n');
    out
}

/// Whether a file may be written there; asked before anything is measured.
pub(crate) fn may_write(path: &Path, force: bool) -> Result<(), String> {
    match path.symlink_metadata() {
        Ok(_) if !force => Err(format!("{} exists; --force writes over it", path.display())),
        _ => Ok(()),
    }
}

/// Writes a file whole or not at all. Without `force` never over another, even one that came meanwhile.
pub(crate) fn write(path: &Path, text: &str, force: bool) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let name = path.file_name().ok_or_else(|| format!("{} is no file name", path.display()))?;
    let aside = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let put = || {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&aside)?;
        file.write_all(text.as_bytes())?;
        match force {
            true => std::fs::rename(&aside, path),
            // A link is refused where there is a file already, a rename is not.
            false => std::fs::hard_link(&aside, path),
        }
    };
    let result = put();
    let _ = std::fs::remove_file(&aside);
    result.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::disk::DiskResult;
    use crate::tune::facts::Facts;
    use crate::tune::load::Shape;
    use crate::tune::server::{Cell, Trial};
    use crate::tune::tree::Tree;
    use crate::tune::usage::Usage;

    const GIB: u64 = 1 << 30;

    fn trial(value: u64, records_per_second: f64) -> Trial {
        Trial { value, records_per_second, p50_us: 100.0, p99_us: 900.0, others: 0.0 }
    }

    fn profile(memory_bytes: u64, log_bytes_per_second: f64) -> Profile {
        let facts = Facts {
            cpus_allowed: vec![0, 1, 2, 3],
            memory_bytes: Some(memory_bytes),
            free_bytes: 1 << 40,
            ..Facts::default()
        };
        let usage = Usage { log_bytes_per_second, ..Usage::default() };
        let cell = Cell {
            shape: Shape::new("fsync", 100, 100),
            records_per_second: 1e6,
            requests_per_second: 1e4,
            p50_us: 1.0,
            p99_us: 2.0,
            closed_records_per_second: 2e6,
            steps: Vec::new(),
            limit: None,
            evidence: String::new(),
            usage,
        };
        let server = ServerResult {
            server_cpus: vec![0, 1],
            commits_in_flight: vec![trial(1, 100.0), trial(2, 120.0), trial(4, 150.0)],
            table: vec![cell],
            ..ServerResult::default()
        };
        let disk =
            DiskResult { read_bytes_per_second: 1e9, fill_bytes_per_second: 1e8, ..DiskResult::default() };
        Profile {
            checks: super::super::checks::all(&facts),
            facts,
            server: Some(server),
            disk: Some(disk),
            ..Profile::default()
        }
    }

    fn value(profile: &Profile, name: &str) -> Option<i64> {
        let advice = advise(profile, Path::new("/srv/data"));
        advice.into_iter().find(|advice| advice.name == name)?.value.as_integer()
    }

    #[test]
    fn settings_follow_from_facts_and_measurements() {
        let big = profile(64 * GIB, 4e8); // 200 MB/s a core
        assert_eq!(value(&big, "shards"), Some(4));
        assert_eq!(value(&big, "commits_in_flight"), Some(4));
        assert_eq!(value(&big, "hot_bytes"), Some(1 << 30), "4 s of 200 MB, a power of two");
        assert_eq!(value(&big, "wal_file_bytes"), Some(256 << 20), "1 s of 200 MB");
        let share = (64 * GIB) as f64 * MEMORY_PART / 4.0;
        assert_eq!(
            value(&big, "cache_bytes"),
            Some(((share as u64 - GIB) / MIB * MIB).min(CACHE_MOST) as i64)
        );
        let small = profile(2 * GIB, 4e8);
        let (hot, cache) =
            (value(&small, "hot_bytes").expect("said"), value(&small, "cache_bytes").expect("said"));
        assert!(4 * (hot + cache) as u64 <= GIB, "{hot} {cache}: half of the memory is not theirs");
        let mut limited = profile(64 * GIB, 4e8);
        limited.facts.cpu_quota = Some(2.5);
        limited.facts.memory_limit_bytes = Some(2 * GIB);
        assert_eq!(value(&limited, "shards"), Some(2));
        assert!(value(&limited, "hot_bytes").expect("said") < 1 << 30, "the cgroup's memory counts");
        let mut full = profile(64 * GIB, 4e8);
        full.facts.free_bytes = 10 * GIB;
        assert_eq!(value(&full, "wal_file_bytes"), Some(64 << 20));
    }

    #[test]
    fn what_was_not_measured_is_not_advised() {
        let mut unmeasured = profile(64 * GIB, 4e8);
        unmeasured.server = None;
        assert_eq!(value(&unmeasured, "commits_in_flight"), None);
        assert_eq!(value(&unmeasured, "wal_file_bytes"), None);
        assert_eq!(value(&unmeasured, "hot_bytes"), Some(256 << 20));
    }

    #[test]
    fn the_file_is_taken_by_serve_and_says_why() {
        for memory in [GIB / 4, GIB, 64 * GIB, 2048 * GIB] {
            for rate in [0.0, 1e3, 1e7, 1e10] {
                let profile = profile(memory, rate);
                let advice = advise(&profile, Path::new("/srv/data \"x\""));
                let text = file(&profile, &advice, "a machine").expect("taken");
                assert!(
                    text.contains("# Tried on this device") && text.contains("4: 150 records/s"),
                    "{text}"
                );
                assert!(text.contains("cpupower") || text.contains("#"), "{text}");
            }
        }
        let quick = Profile { quick: true, ..profile(GIB, 1e7) };
        assert!(file(&quick, &advise(&quick, Path::new("/d")), "m").expect("taken").contains("--quick"));
        let wrong = [number("shards", 100_000, "too many".into())];
        assert!(file(&quick, &wrong, "m").is_err(), "what serve refuses is not written");
    }

    #[test]
    fn a_file_that_exists_stays_unless_forced() {
        let tree = Tree::new("advice");
        tree.put("there.toml", "old");
        let path = tree.root().path("there.toml");
        let read = || std::fs::read_to_string(&path).expect("there");
        assert!(may_write(&path, false).is_err() && may_write(&path, true).is_ok());
        assert!(write(&path, "new", false).is_err());
        assert_eq!(read(), "old\n");
        write(&path, "new", true).expect("forced");
        assert_eq!(read(), "new");
        let fresh = tree.root().path("fresh.toml");
        assert!(may_write(&fresh, false).is_ok());
        write(&fresh, "text", false).expect("new");
        assert_eq!(tree.root().names(""), ["fresh.toml", "there.toml"], "nothing else is left");
    }
}
