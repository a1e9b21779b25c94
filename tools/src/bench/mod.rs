//! `runelog bench`: what a server does on this machine. Lives here: a run as a list of points. By file:
//! [`args`] (the command line), [`config`] and [`mod@point`] (one point: what it is, and measuring it: the
//! way in for other tools), [`wire`] (the generator's io_uring loop), [`answer`] (HTTP answers), [`drive`]
//! (closed and open loops), [`modes`], [`mixed`] and [`fanout`] (what is asked), [`pick`] (by which shares),
//! [`fill`] (what is there before), [`measure`] and [`probe`] (what is counted), [`outcome`] (what it says),
//! [`server`] (a fresh daemon), [`raw`] and [`raw_log`] (the bare loops beside it), [`ceiling`] and [`suite`]
//! (runs that compare), [`host`] (the machine), [`report`] and [`html`] (results).

mod answer;
mod args;
mod ceiling;
pub(crate) mod config;
pub(crate) mod drive;
pub(crate) mod fanout;
mod fill;
pub(crate) mod host;
mod html;
pub(crate) mod measure;
pub(crate) mod mixed;
pub(crate) mod modes;
pub(crate) mod outcome;
mod pick;
pub(crate) mod point;
pub(crate) mod probe;
pub(crate) mod raw;
mod raw_log;
mod report;
pub(crate) mod server;
mod suite;
pub(crate) mod wire;

pub(crate) use args::BenchArgs;
use args::What;
use config::Config;
use outcome::Outcome;
pub(crate) use point::point;
use report::{Files, Finding, Report};
use server::pin;

use crate::work_dir::WorkDir;

/// A run: points one after the other, each told and kept as soon as it is there.
struct Bench {
    report: Report,
    files: Files,
}

/// Runs what the command line asks for.
pub(crate) fn run(args: &BenchArgs) -> Result<(), String> {
    let mut points = args.points()?;
    // Before the generator keeps to its own: later this says only those.
    let (mut base, cpus) = (args.base(), server::all_cpus());
    // Whatever is started goes with it, also when this is interrupted; a server that is somebody's own is not.
    let work_dir = match base.subject {
        config::Subject::Url(_) => None,
        _ => Some(WorkDir::inside(&args.dir)?),
    };
    if let Some(work_dir) = &work_dir {
        points.iter_mut().chain([&mut base]).for_each(|config| config.dir = work_dir.path().to_owned());
    }
    if !args.cpus.is_empty() {
        pin(&args.cpus).map_err(|error| format!("--cpus: {error}"))?;
    }
    let mut report = Report::new(&args.dir, args.quick());
    report.server_cpus = base.server_cpus.clone();
    println!("{}", report.host.line());
    if report.quick {
        println!("--quick: points may be shorter than 10 s; not to be quoted");
    }
    let mut bench = Bench::on(report, args.files());
    match args.what {
        What::Ceiling => ceiling::run(&mut bench, &points, args.repeat)?,
        What::Suite => suite::run(&mut bench, &base, &cpus, args.repeat)?,
        _ => bench.in_turn(&points, args.repeat)?,
    }
    bench.conclude(args.repeat)
}

impl Bench {
    fn on(report: Report, files: Files) -> Bench {
        Bench { report, files }
    }

    /// Measures all points, and all again: what changes on the machine meanwhile meets each of them.
    fn in_turn(&mut self, points: &[Config], repeat: usize) -> Result<(), String> {
        for _ in 0..repeat {
            for config in points {
                let outcome = point(config)?;
                println!("{}", outcome.line());
                outcome.warnings.iter().for_each(|warning| println!("    {warning}"));
                self.report.take(outcome);
                self.report.write(&self.files)?;
            }
        }
        Ok(())
    }

    /// A number of each run of a point.
    fn runs(&self, config: &Config, pick: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        let title = config.title();
        self.report.points.iter().filter(|outcome| outcome.config.title() == title).map(pick).collect()
    }

    /// What limited the median run of a point.
    fn limit(&self, config: &Config) -> &'static str {
        let title = config.title();
        let medians = self.report.medians();
        medians
            .iter()
            .find(|outcome| outcome.config.title() == title)
            .map_or("", |outcome| outcome.limited_by)
    }

    fn find(&mut self, finding: Finding) {
        self.report.findings.push(finding);
    }

    fn conclude(&self, repeat: usize) -> Result<(), String> {
        if repeat > 1 {
            println!("\nmedians of {repeat}:");
            self.report.medians().iter().for_each(|outcome| println!("{}", outcome.line()));
        }
        if !self.report.findings.is_empty() {
            println!();
            self.report.findings.iter().for_each(|finding| println!("{}", finding.line()));
        }
        self.report.write(&self.files)
    }
}
