//! Everything that was found about a host, as a file, and what changed since one was written. Lives here:
//! the file's content and the comparison. Not here: how it is shown (`report`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::checks::{Check, Verdict};
use super::disk::DiskResult;
use super::facts::Facts;
use super::json::SplitPoint;
use super::server::{NetResult, ServerResult};

/// Facts that change by themselves.
const PASSING: [&str; 2] = ["free_bytes", "memory_available_bytes"];

/// What was found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Profile {
    /// Of the program that measured.
    pub(crate) version: String,
    /// Seconds since 1970.
    pub(crate) taken_at: u64,
    /// Points were allowed to be too short: not to be quoted.
    pub(crate) quick: bool,
    pub(crate) facts: Facts,
    pub(crate) checks: Vec<Check>,
    pub(crate) disk: Option<DiskResult>,
    pub(crate) net: Option<NetResult>,
    pub(crate) json: Option<Vec<SplitPoint>>,
    pub(crate) server: Option<ServerResult>,
}

/// Something that is not as it was.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Change {
    pub(crate) what: String,
    pub(crate) was: String,
    pub(crate) is: String,
    pub(crate) worse: bool,
}

impl Profile {
    /// Reads one that was saved.
    pub(crate) fn load(path: &Path) -> Result<Profile, String> {
        let failed = |why: String| format!("{}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| failed(format!("is no profile of this version: {error}")))
    }

    /// As text for a file.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data") + "\n"
    }

    /// What is not as it was. Numbers that are in both count as changed beyond a tolerance, which is theirs.
    pub(crate) fn changes_since(&self, old: &Profile) -> Vec<Change> {
        let mut changes = Vec::new();
        let (was, is) = (old.fact_texts(), self.fact_texts());
        for name in was.keys().chain(is.keys()).collect::<std::collections::BTreeSet<_>>() {
            let text =
                |of: &BTreeMap<String, String>| of.get(name).cloned().unwrap_or_else(|| "-".to_owned());
            if text(&was) != text(&is) {
                changes.push(Change { what: name.clone(), was: text(&was), is: text(&is), worse: false });
            }
        }
        for check in &self.checks {
            let Some(before) = old.checks.iter().find(|before| before.name == check.name) else { continue };
            if check.verdict != before.verdict {
                let text = |check: &Check| format!("{:?}: {}", check.verdict, check.found).to_lowercase();
                // To know less is no harm in itself.
                let worse = check.verdict > before.verdict && check.verdict != Verdict::Unknown;
                let what = format!("check of {}", check.name);
                changes.push(Change { what, was: text(before), is: text(check), worse });
            }
        }
        // Short points scatter more.
        let leniency = if self.quick || old.quick { 2.0 } else { 1.0 };
        let before = old.numbers();
        for (what, number) in self.numbers() {
            let Some(before) = before.get(&what) else { continue };
            let ratio = number.value / before.value.max(f64::MIN_POSITIVE);
            let allowed = 1.0 + number.tolerance * leniency;
            if ratio <= allowed && ratio >= 1.0 / allowed {
                continue;
            }
            let worse = number.more_is_better == (ratio < 1.0);
            let text = |number: &Number| format!("{:.0} {}", number.value, number.unit);
            changes.push(Change { what, was: text(before), is: text(&number), worse });
        }
        changes
    }

    /// Facts by their path, as text.
    fn fact_texts(&self) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        flatten("", &serde_json::to_value(&self.facts).expect("plain data"), &mut texts);
        texts.retain(|name, _| {
            !PASSING.contains(&name.as_str()) && !name.contains(".irqs") && !name.starts_with("network.")
        });
        texts
    }

    fn numbers(&self) -> BTreeMap<String, Number> {
        let mut numbers = BTreeMap::new();
        let mut put = |what: String, value: f64, unit, tolerance, more_is_better| {
            numbers.insert(what, Number { value, unit, tolerance, more_is_better });
        };
        if let Some(disk) = &self.disk {
            for point in &disk.syncs {
                let of = format!(
                    "syncs of {} KiB, {} in flight, {}",
                    point.block_bytes >> 10,
                    point.depth,
                    point.kind()
                );
                put(of.clone(), point.syncs_per_second, "a second", 0.3, true);
                put(format!("p99 of {of}"), point.p99_us, "us", 1.0, false);
            }
            put("sequential read".into(), disk.read_bytes_per_second / 1e6, "MB/s", 0.3, true);
            put("writes without syncs".into(), disk.write_bytes_per_second / 1e6, "MB/s", 0.3, true);
            put("zero-filling".into(), disk.fill_bytes_per_second / 1e6, "MB/s", 0.3, true);
        }
        if let Some(net) = &self.net {
            put("bare echo".into(), net.requests_per_second, "requests/s", 0.2, true);
            put("CPU of a bare echo".into(), net.server_us * 1000.0, "ns", 0.25, false);
        }
        for point in self.json.iter().flatten() {
            let what = format!("splitting records of {} B", point.record_bytes);
            put(what, point.bytes_per_second / 1e6, "MB/s", 0.2, true);
        }
        for cell in self.server.iter().flat_map(|server| &server.table) {
            put(format!("server, {}", cell.shape.text()), cell.records_per_second, "records/s", 0.25, true);
        }
        numbers
    }
}

struct Number {
    value: f64,
    unit: &'static str,
    /// Part by which it may differ.
    tolerance: f64,
    more_is_better: bool,
}

fn flatten(at: &str, value: &serde_json::Value, into: &mut BTreeMap<String, String>) {
    let below = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    match value {
        serde_json::Value::Object(members) => {
            members.iter().for_each(|(name, value)| flatten(&below(name), value, into));
        }
        serde_json::Value::Array(items) if items.iter().any(serde_json::Value::is_object) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, value)| flatten(&below(&index.to_string()), value, into));
        }
        serde_json::Value::Null => {}
        serde_json::Value::String(text) => drop(into.insert(at.to_owned(), text.clone())),
        other => drop(into.insert(at.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::checks;
    use crate::tune::disk::SyncPoint;

    fn profile(syncs_per_second: f64, p99_us: f64) -> Profile {
        let facts =
            Facts { kernel: Some("6.12.1".into()), huge_pages: Some("madvise".into()), ..Facts::default() };
        let point = SyncPoint {
            block_bytes: 4096,
            depth: 2,
            direct: true,
            zero_filled: true,
            syncs_per_second,
            bytes_per_second: syncs_per_second * 4096.0,
            p50_us: 100.0,
            p99_us,
            max_us: 1000.0,
        };
        let syncs = vec![point];
        let disk = Some(DiskResult {
            syncs,
            write_bytes_per_second: 7e8,
            read_bytes_per_second: 1e9,
            fill_bytes_per_second: 5e8,
        });
        Profile { checks: checks::all(&facts), facts, disk, ..Profile::default() }
    }

    #[test]
    fn numbers_may_differ_by_their_tolerance() {
        let table = [
            (10_000.0, 200.0, vec![]),
            (8_000.0, 390.0, vec![]),
            (7_000.0, 200.0, vec![("syncs of 4 KiB, 2 in flight, O_DIRECT, zero-filled", true)]),
            (14_000.0, 200.0, vec![("syncs of 4 KiB, 2 in flight, O_DIRECT, zero-filled", false)]),
            (10_000.0, 500.0, vec![("p99 of syncs of 4 KiB, 2 in flight, O_DIRECT, zero-filled", true)]),
        ];
        for (syncs, p99, expected) in table {
            let changes = profile(syncs, p99).changes_since(&profile(10_000.0, 200.0));
            let found: Vec<_> = changes.iter().map(|change| (change.what.as_str(), change.worse)).collect();
            assert_eq!(found, expected, "{syncs} {p99}");
        }
        let short = Profile { quick: true, ..profile(7_000.0, 200.0) };
        assert_eq!(short.changes_since(&profile(10_000.0, 200.0)), []);
    }

    #[test]
    fn a_check_that_fails_now_is_worse_and_a_fact_alone_is_a_change() {
        let old = profile(1.0, 1.0);
        let facts = |change: fn(&mut Facts)| {
            let mut new = old.clone();
            change(&mut new.facts);
            new.checks = checks::all(&new.facts);
            let changes = new.changes_since(&old).into_iter();
            changes.map(|change| (change.what, change.worse)).collect::<Vec<_>>()
        };
        let kernel = |facts: &mut Facts| facts.kernel = Some("6.12.9".into());
        assert_eq!(facts(kernel), [("kernel".to_owned(), false)]);
        let pages = |facts: &mut Facts| facts.huge_pages = Some("always".into());
        assert_eq!(
            facts(pages),
            [("huge_pages".to_owned(), false), ("check of huge pages".to_owned(), true)]
        );
        assert_eq!(facts(|facts| facts.memory_available_bytes = Some(1)), [], "it changes by itself");
        let disk = |facts: &mut Facts| facts.disk = Some(Default::default());
        assert_eq!(facts(disk)[0], ("disk.name".to_owned(), false));
    }

    #[test]
    fn a_profile_comes_back_from_its_file() {
        let profile = profile(3.5, 1.0);
        let back: Profile = serde_json::from_str(&profile.text()).expect("a profile");
        assert_eq!(back.text(), profile.text());
        assert_eq!(back.changes_since(&profile), []);
    }
}
