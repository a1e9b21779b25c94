//! `runelog tune`: what this host can do, what holds it back, and the settings for it. Lives here: the
//! command line, and what is done in which order. By file: [`facts`] and [`checks`] (the host), [`disk`],
//! [`json`] and [`server`] (what is measured; one point is [`load`], its search [`knee`], what it used
//! [`usage`], what that means [`limits`]), [`recommend`] (settings), [`profile`] (saved and compared),
//! [`report`] (text).

mod checks;
#[cfg(test)]
mod checks_tests;
mod disk;
pub(crate) mod facts;
mod json;
mod knee;
mod limits;
mod load;
mod profile;
mod recommend;
mod report;
mod server;
#[cfg(test)]
pub(crate) mod tree;
mod usage;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use runelog_engine::disk::ring::Ring;
use runelog_engine::disk::uring::{DiskSettings, UringDisk};

use crate::bench::server::{all_cpus, pin};
use crate::work_dir::WorkDir;

use facts::{Facts, Root, Trials};
use load::Shape;
use profile::Profile;
use server::{Cpus, Setup, Times};

/// A point shorter than this says little, and is marked.
const SECONDS_MIN: f64 = 10.0;

/// Measure this host and recommend settings for it.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Looks at the host, measures its log device, network stack and JSON splitting, then a server of its own in a
temporary directory beside the data directory. Needs no root, and leaves nothing behind. The result goes to
stdout, the settings to --out. Keep the machine quiet meanwhile.

Examples:
  runelog tune --data-dir /var/lib/runelog --profile host.json
  runelog tune --only checks                           a second: only look at the host
  runelog tune --only checks,disk --check host.json    compare with a saved profile; status 1: worse
  runelog tune --p99-ms 2 --class fsync --batch 1,10,100 --bytes 500")]
pub(crate) struct TuneArgs {
    /// Data directory of the server to be tuned; need not exist
    #[arg(long, value_name = "DIR", default_value = "./runelog-data")]
    data_dir: PathBuf,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    only: Vec<Part>,
    /// The 99th percentile of latency that a rate must keep to count
    #[arg(long, default_value_t = 5.0)]
    p99_ms: f64,
    /// Durability classes of the capacity table
    #[arg(long, value_delimiter = ',', default_value = "disk,fsync", value_parser = ["ephemeral", "memory", "disk", "fsync"])]
    class: Vec<String>,
    /// Records in a request, of the capacity table
    #[arg(short, long, value_delimiter = ',', default_value = "1,100")]
    batch: Vec<usize>,
    /// Bytes of a record's data, of the capacity table
    #[arg(long, value_delimiter = ',', default_value = "200,1000")]
    bytes: Vec<usize>,
    /// Rates tried for each row of the table, at most
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Seconds of a point
    #[arg(long, default_value_t = SECONDS_MIN)]
    seconds: f64,
    /// Short points and a small table, and say so in the result
    #[arg(long)]
    quick: bool,
    /// Write recommended settings here; runelog.toml if the server is measured
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write over files that exist
    #[arg(long)]
    force: bool,
    /// Save what was found as a profile
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Compare with a saved profile, measure what is in it as it was measured, write no settings; status 1 if
    /// something is worse
    #[arg(long, value_name = "FILE", conflicts_with = "out")]
    check: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// A part of what is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Facts and checks of the host
    Checks,
    /// The log device
    Disk,
    /// The network stack
    Net,
    /// JSON splitting
    Json,
    /// The whole server
    Server,
}

const ALL: [Part; 5] = [Part::Checks, Part::Disk, Part::Net, Part::Json, Part::Server];

/// What is going to be done.
struct Work {
    parts: Vec<Part>,
    shapes: Vec<Shape>,
    /// The 99th percentile that a rate must keep.
    p99_ms: f64,
    times: Times,
    /// Seconds of a point of the log device, and of JSON splitting.
    disk_seconds: f64,
    json_seconds: f64,
}

impl Work {
    fn plan(args: &TuneArgs, saved: Option<&Profile>) -> Result<Work, String> {
        if args.seconds < SECONDS_MIN && !args.quick {
            return Err(format!(
                "a point of {} s says little: at least {SECONDS_MIN}, or --quick",
                args.seconds
            ));
        }
        let numbers = args.batch.iter().chain(&args.bytes).all(|number| *number > 0);
        let finite =
            args.p99_ms.is_finite() && args.p99_ms > 0.0 && args.seconds.is_finite() && args.seconds > 0.0;
        if !numbers || !finite || args.steps == 0 || args.batch.iter().any(|batch| *batch > 10_000) {
            return Err("p99-ms, seconds, steps, bytes and batch (at most 10000) are above zero".into());
        }
        let in_profile = |part: &Part| match (part, saved) {
            (_, None) | (Part::Checks, _) => true,
            (Part::Disk, Some(saved)) => saved.disk.is_some(),
            (Part::Net, Some(saved)) => saved.net.is_some(),
            (Part::Json, Some(saved)) => saved.json.is_some(),
            (Part::Server, Some(saved)) => saved.server.is_some(),
        };
        let wanted = |part: &Part| args.only.is_empty() || args.only.contains(part);
        let mut shapes = Vec::new();
        for class in &args.class {
            for batch in &args.batch {
                shapes.extend(args.bytes.iter().map(|bytes| Shape::new(class, *batch, *bytes)));
            }
        }
        let (mut p99_ms, mut point_seconds, mut steps) = (args.p99_ms, args.seconds, args.steps);
        // What is compared has to be the same.
        if let Some(server) = saved.and_then(|saved| saved.server.as_ref()) {
            shapes = server.table.iter().map(|cell| cell.shape.clone()).collect();
            p99_ms = server.p99_ms;
            if server.steps > 0 {
                (point_seconds, steps) = (server.seconds, server.steps);
            }
        } else if args.quick {
            shapes.retain(|shape| shape.class == "fsync" && shape.record_bytes == args.bytes[0]);
            shapes.truncate(2);
        }
        if shapes.is_empty() {
            shapes.push(Shape::new(&args.class[0], args.batch[0], args.bytes[0]));
        }
        let times = match args.quick {
            true => Times {
                warm_up: point_seconds.min(0.5),
                point: point_seconds.min(2.0),
                first_warm_up: point_seconds.min(2.0),
                probe: point_seconds.min(1.0),
                steps: steps.min(4),
            },
            false => Times { warm_up: 1.0, point: point_seconds, first_warm_up: 8.0, probe: 3.0, steps },
        };
        let (disk_seconds, json_seconds) = if args.quick { (0.3, 0.1) } else { (1.5, 0.5) };
        let parts = ALL.into_iter().filter(|part| wanted(part) && in_profile(part)).collect();
        Ok(Work { parts, shapes, p99_ms, times, disk_seconds, json_seconds })
    }

    fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// Seconds that all of it takes at most on a host that is not overloaded.
    fn seconds(&self, shard_trials: usize) -> f64 {
        let of = |part: Part| match part {
            Part::Checks => 0.5,
            // Filling and cleaning up has no fixed time on a slow disk.
            Part::Disk => f64::from(disk::POINTS) * self.disk_seconds + 5.0,
            Part::Net => self.times.echo_seconds(),
            Part::Json => f64::from(json::POINTS) * self.json_seconds,
            Part::Server => self.times.server_seconds(self.shapes.len(), shard_trials),
        };
        self.parts.iter().copied().map(of).sum()
    }
}

/// Does what the command line asks for.
pub(crate) fn run(args: &TuneArgs) -> Result<(), String> {
    let saved = args.check.as_deref().map(Profile::load).transpose()?;
    let work = Work::plan(args, saved.as_ref())?;
    let out = match (&args.out, &saved) {
        (Some(out), _) => Some(out.clone()),
        (None, None) if work.has(Part::Server) => Some(PathBuf::from("runelog.toml")),
        (None, _) => None,
    };
    // Told before, not after ten minutes.
    for path in out.iter().chain(&args.profile) {
        recommend::may_write(path, args.force)?;
    }
    let work_dir = WorkDir::beside(&args.data_dir)?;
    let profile = measure(&work, args, work_dir.path())?;
    drop(work_dir);
    let changes = saved.map(|saved| profile.changes_since(&saved));
    match (args.json, &changes) {
        (true, None) => print!("{}", profile.text()),
        (true, Some(changes)) => println!("{}", serde_json::to_string_pretty(changes).expect("plain data")),
        (false, None) => print!("{}", report::text(&profile)),
        (false, Some(changes)) => {
            print!("{}\nSince the profile was saved\n{}", report::text(&profile), report::changes(changes));
        }
    }
    if let Some(path) = &args.profile {
        recommend::write(path, &profile.text(), args.force)?;
    }
    if let Some(path) = &out {
        let data_dir = std::path::absolute(&args.data_dir).unwrap_or_else(|_| args.data_dir.clone());
        let advice = recommend::advise(&profile, &data_dir);
        let text = recommend::file(&profile, &advice, &report::machine(&profile.facts))?;
        recommend::write(path, &text, args.force)?;
        eprintln!(
            "settings and their reasons: {0}; look: runelog serve --check --config {0}",
            path.display()
        );
    }
    let worse = changes.iter().flatten().filter(|change| change.worse).count();
    if worse > 0 { Err(format!("{worse} of what is in the profile has become worse")) } else { Ok(()) }
}

fn measure(work: &Work, args: &TuneArgs, dir: &Path) -> Result<Profile, String> {
    let root = Root::new("/");
    let facts = look(&root, &args.data_dir, dir)?;
    let usable = facts.cpus_usable();
    let allowed = facts.cpus_allowed.clone();
    let disk_name = facts.disk.as_ref().map(|disk| disk.name.clone());
    let cpus = Cpus::share(&allowed, usable, disk_cpu(&facts));
    let all_cpus: Vec<usize> = allowed.iter().copied().take(usable).collect();
    let mut profile = Profile {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        taken_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        quick: args.quick,
        checks: if work.has(Part::Checks) { checks::all(&facts) } else { Vec::new() },
        facts,
        ..Profile::default()
    };
    let began = Instant::now();
    let total = work.seconds(server::shard_trials(&cpus, &all_cpus).len());
    eprintln!("{} to do, about {}", words(&work.parts), time_text(total));
    let mut tell = |what: &str| eprintln!("[{:>4.0} s of {total:.0}] {what}", began.elapsed().as_secs_f64());
    if work.has(Part::Disk) {
        let each = Duration::from_secs_f64(work.disk_seconds);
        profile.disk = Some(disk::measure(dir, each, |what| {
            tell(&format!("log device: {what}"));
            Ok(())
        })?);
    }
    if work.has(Part::Json) {
        let each = Duration::from_secs_f64(work.json_seconds);
        profile.json = Some(json::measure(each, |what| {
            tell(what);
            Ok(())
        })?);
    }
    if work.has(Part::Net) || work.has(Part::Server) {
        pin(&cpus.generator).map_err(|error| format!("CPUs {:?}: {error}", cpus.generator))?;
    }
    let disk_name = disk_name.as_deref();
    let times = work.times;
    let setup = Setup { dir, root: &root, disk: disk_name, cpus: &cpus, all_cpus: &all_cpus, times };
    if work.has(Part::Net) {
        tell("network stack: bare loop");
        profile.net = Some(server::echo(&setup)?);
    }
    if work.has(Part::Server) {
        let (net, disk) = (profile.net.as_ref(), profile.disk.as_ref());
        let result = server::measure(&setup, &work.shapes, work.p99_ms, net, disk, &mut tell)?;
        profile.server = Some(result);
    }
    Ok(profile)
}

/// The CPU that takes all interrupts of the disk, if it is one.
fn disk_cpu(facts: &Facts) -> Option<usize> {
    let irqs = facts.disk.as_ref().map_or(&[][..], |disk| &disk.irqs);
    let mut taken = irqs.iter().filter_map(|irq| irq.mostly);
    let first = taken.next()?;
    taken.all(|cpu| cpu == first).then_some(first)
}

/// The facts of this host, with what has to be tried in `dir`.
fn look(root: &Root, data_dir: &Path, dir: &Path) -> Result<Facts, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", dir.display());
    let ring = Ring::new(8);
    let (ring_refusal, o_direct_refusal) = match ring {
        Err(error) => (Some(error.to_string()), Some("not tried: there is no io_uring".to_owned())),
        Ok(mut ring) => match UringDisk::new(dir, &mut ring, DiskSettings::default()) {
            Ok(disk) => {
                let refusal = (!disk.features().o_direct).then(|| disk.features().to_string());
                (None, refusal)
            }
            Err(error) => (Some(error.to_string()), Some("not tried".to_owned())),
        },
    };
    let device = std::fs::metadata(dir).map_err(failed)?.dev();
    let trials = Trials {
        ring: ring_refusal,
        o_direct_refusal,
        free_bytes: free_bytes(dir).map_err(failed)?,
        device: (libc::major(device), libc::minor(device)),
        dir: std::fs::canonicalize(data_dir).or_else(|_| std::fs::canonicalize(dir)).map_err(failed)?,
        cpus_allowed: all_cpus(),
    };
    Ok(Facts::read(root, trials))
}

fn free_bytes(dir: &Path) -> std::io::Result<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: a statvfs is plain numbers; all zero is one.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero, and both outlive the call.
    match unsafe { libc::statvfs(path.as_ptr(), &mut stat) } {
        0 => Ok(stat.f_bavail * stat.f_frsize),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn words(parts: &[Part]) -> String {
    let name = |part: &Part| match part {
        Part::Checks => "checks of the host",
        Part::Disk => "log device",
        Part::Net => "network stack",
        Part::Json => "JSON splitting",
        Part::Server => "whole server",
    };
    parts.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn time_text(seconds: f64) -> String {
    match seconds {
        ..90.0 => format!("{seconds:.0} s"),
        _ => format!("{:.0} min", (seconds / 60.0).ceil()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        tune: TuneArgs,
    }

    fn plan(args: &str) -> Result<Work, String> {
        let words = ["tune"].into_iter().chain(args.split_whitespace());
        Work::plan(&Cli::try_parse_from(words).map_err(|error| error.to_string())?.tune, None)
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for args in [
            "--seconds 5",
            "--seconds 0 --quick",
            "--seconds NaN --quick",
            "--p99-ms 0",
            "--p99-ms inf",
            "--batch 0",
            "--batch 10001",
            "--bytes 0",
            "--steps 0",
            "--only nonsense",
            "--class nonsense",
            "--check a --out b",
        ] {
            assert!(plan(args).is_err(), "{args}");
        }
        assert!(plan("--seconds 1 --quick").is_ok());
    }

    #[test]
    fn the_time_that_is_announced_is_bounded_and_follows_what_is_asked() {
        let seconds = |args| plan(args).expect("sound").seconds(2);
        assert!(seconds("") < 15.0 * 60.0, "{}", seconds(""));
        assert!(seconds("--quick") < 90.0, "{}", seconds("--quick"));
        assert!(seconds("--only checks") < 1.0);
        assert!(seconds("--only disk,json") < 100.0);
        assert!(seconds("--steps 8") > seconds(""));
        assert!(seconds("--class fsync --bytes 200") < seconds("") / 2.0);
    }

    #[test]
    fn the_table_is_each_size_with_each_batch_and_class() {
        let work = plan("--class disk,fsync --batch 1,100 --bytes 200,1000").expect("sound");
        assert_eq!(work.shapes.len(), 8);
        assert_eq!(work.shapes[7], Shape::new("fsync", 100, 1000));
        assert_eq!(plan("--quick").expect("sound").shapes.len(), 2);
        assert_eq!(plan("--quick --class disk").expect("sound").shapes, [Shape::new("disk", 1, 200)]);
    }

    #[test]
    fn only_what_is_in_the_profile_is_measured_again() {
        let args = Cli::try_parse_from(["tune"]).expect("sound").tune;
        let saved = Profile { json: Some(Vec::new()), ..Profile::default() };
        assert_eq!(Work::plan(&args, Some(&saved)).expect("sound").parts, [Part::Checks, Part::Json]);
    }

    #[test]
    fn what_is_compared_is_measured_as_it_was() {
        let args = Cli::try_parse_from(["tune"]).expect("sound").tune;
        let server =
            super::server::ServerResult { p99_ms: 2.0, seconds: 20.0, steps: 3, ..Default::default() };
        let saved = Profile { server: Some(server), ..Profile::default() };
        let work = Work::plan(&args, Some(&saved)).expect("sound");
        assert_eq!((work.p99_ms, work.times.point, work.times.steps), (2.0, 20.0, 3));
    }
}
