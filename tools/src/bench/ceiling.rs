//! `runelog bench ceiling`: the daemon and the bare loops under the same load, in turn, so that what the
//! machine does meanwhile meets all alike. Lives here: what is compared with what.

use super::Bench;
use super::config::{Config, Subject};
use super::point::recorded_answer;
use super::report::{Bar, Finding};

/// Share of the bare loop's requests that the daemon shall reach.
pub(super) const ECHO_SHARE: f64 = 0.65;

/// The same load on another subject; the bare loops answer what the daemon answered once.
pub(super) fn raw(config: &Config, subject: Subject) -> Result<Config, String> {
    let raw_answer = match subject {
        Subject::RawDisk => Default::default(),
        _ => recorded_answer(config)?,
    };
    Ok(Config { subject, raw_answer, routers: 0, ..config.clone() })
}

/// Measures each of the points beside its ceilings.
pub(super) fn run(bench: &mut Bench, points: &[Config], repeat: usize) -> Result<(), String> {
    let mut all = Vec::new();
    for config in points {
        all.push(config.clone());
        all.push(raw(config, Subject::RawEcho)?);
        // What is never written has no ceiling at the disk.
        if config.class != "ephemeral" {
            all.push(raw(config, Subject::RawLog)?);
            all.push(raw(config, Subject::RawDisk)?);
        }
    }
    bench.in_turn(&all, repeat)?;
    for config in points {
        let name = |text: &str| format!("{text}: {}", config.series());
        let [requests, records] = [Subject::Fresh, Subject::RawEcho].map(|subject| {
            bench.runs(&Config { subject, ..config.clone() }, |outcome| outcome.point.requests_per_second)
        });
        let limit = bench.limit(config);
        let bar = Bar::AtLeast(ECHO_SHARE * super::report::median(&records));
        let finding = Finding::new(&name("beside raw echo"), "requests/s", requests, Some(bar));
        bench.find(finding.below(super::report::median(&records)).limited_by(limit));
        for (text, subject) in [("beside raw log", Subject::RawLog), ("beside raw disk", Subject::RawDisk)] {
            let records = |subject| {
                bench.runs(&Config { subject, ..config.clone() }, |outcome| outcome.point.records_per_second)
            };
            let ceiling = records(subject);
            if !ceiling.is_empty() {
                let finding = Finding::new(&name(text), "records/s", records(Subject::Fresh), None);
                bench.find(finding.below(super::report::median(&ceiling)).limited_by(limit));
            }
        }
    }
    Ok(())
}
