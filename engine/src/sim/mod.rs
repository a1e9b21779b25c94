//! The simulator: the real shards of one data directory on a simulated disk, clock and mesh, one thread, one
//! seed, and a plain model beside them that says what must, may and must not be there.
//!
//! A seed decides settings and a history up front ([`op`], `plan`); the choices of disk and mesh follow from
//! the seed as well, so a history that lost some of its operations still runs the same way each time
//! ([`shrink`]). A broken rule is data ([`Failure`]); a panic of the engine becomes one.
//!
//! By file: `rig` drives shards and disk; `world` does each operation on both sides, `jobs` those of queues,
//! `mesh` those of routers; `model` is the truth about one topic; `verify` compares everything, ends and
//! starts.
//!
//! | Rules | Judged |
//! |---|---|
//! | I-1…I-3, I-35, I-36, I-70, I-72 | each append: seqs, admission, refusals, keys (`world::append`) |
//! | I-5, I-8, I-20…I-22, I-25, I-67 | each full look, in `verify::observe` and `model::agrees` |
//! | I-23…I-34, I-42, I-47, I-68 | each read and delete beside the model (`model::page`, `evict`, `expire`) |
//! | I-40, I-41, I-43, I-46 | looks while nothing is under way show exactly what was acknowledged |
//! | I-44, I-45 | after a failed write or sync (`world::is_halted`, `verify::check_halted`) |
//! | I-50…I-59, I-84…I-87, I-90…I-93, I-95…I-97 | each start: a prefix of the history, long enough (`verify`) |
//! | I-60, I-62…I-66, I-69 | each turn of a router (`mesh`, `world::forward`), and its place after a start |
//! | I-80…I-83, I-88, I-89 | each claim, ack, nack, extend (`jobs`) |
//! | I-94, I-98 | the flip that ends some histories (`verify::flip`) |
//! | I-105…I-107 | the quota with each look and admission |
//!
//! Not here: I-4 and I-48 (waiting), I-7 and I-9 (types), I-61 (frames), I-71, I-73, I-74, I-99…I-104 (`net`,
//! formats): other tests show those.

mod jobs;
mod mesh;
mod model;
pub mod op;
mod plan;
mod rig;
mod shrink;
mod topics;
mod verify;
mod world;

#[cfg(test)]
mod tests;

pub use shrink::shrink;

use crate::error::EngineError;
use crate::layout::FreshLayout;
use crate::limits::CHUNK_BYTES;
use crate::shard::ShardSettings;
use crate::shard::recover::RecoverError;
use op::Op;
use plan::Setup;
use rig::Rig;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Once;
use world::World;

/// What a run is made of besides its seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Operations of a history.
    pub operations: usize,
    /// Shards at most: 1 to 3.
    pub shards_max: u16,
    /// Let the disk fail and run full in some histories.
    pub faults: bool,
    /// End some histories with a flipped bit.
    pub flips: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { operations: 500, shards_max: 3, faults: true, flips: true }
    }
}

/// A rule that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number, or `panic`, or `hang`.
    pub rule: String,
    /// What was found.
    pub message: String,
}

/// Why an operation has no outcome.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The disk was cut.
    Cut,
    /// The shard refuses.
    Refused(EngineError),
    /// The directory does not open.
    Recover(RecoverError),
    /// A rule does not hold.
    Broken(Violation),
}

macro_rules! counts {
    ($($(#[$doc:meta])* $field:ident $text:literal)+) => {
        /// What happened in a run, or in many.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Report {
            $($(#[$doc])* pub $field: u64,)+
            /// Hash of the disk's contents at the end.
            pub disk_hash: u64,
        }

        impl Report {
            /// Adds the counts of another run.
            pub fn add(&mut self, other: &Report) {
                $(self.$field += other.$field;)+
                self.disk_hash ^= other.disk_hash;
            }

            /// All counts with what they count.
            pub fn counts(&self) -> Vec<(&'static str, u64)> {
                vec![$(($text, self.$field)),+]
            }
        }
    };
}

counts! {
    /// Operations done.
    operations "operations"
    /// Records appended by clients.
    records "records appended"
    /// Records deleted.
    deleted "records deleted"
    /// Reads compared.
    reads "reads"
    /// Looks at everything.
    checks "full comparisons"
    /// Appends that were found to be there already.
    deduped "retries found by key"
    /// Refusals that had their cause.
    refusals "refusals"
    /// Kills.
    kills "kills"
    /// Power losses.
    power_losses "power losses"
    /// Of both, those in the middle of an operation.
    cuts "of them inside an operation"
    /// Operations in the middle of which a log failed.
    interrupted "operations interrupted by a failure of the log"
    /// Clean stops.
    stops "clean stops"
    /// Starts that came up.
    starts "recoveries"
    /// Starts that were cut off.
    cut_starts "crashes inside a recovery"
    /// Starts that a failing disk made fail.
    failed_starts "recoveries that a failing disk ended"
    /// Starts with another number of shards.
    reshards "changes of the number of shards"
    /// Faults of the disk that were asked for.
    faults "faults of the disk"
    /// Bits flipped.
    flips "bits flipped"
    /// Starts refused for that.
    flips_refused "of them refused at the start"
    /// Reads that said so.
    flips_unreadable "of them told by a read"
    /// The last block of a log, cut and told.
    flips_torn "of them told as a torn tail, in a last block"
    /// Checkpoints written.
    checkpoints "checkpoints"
    /// Segments in use when processes ended.
    segments "segments in use at ends"
    /// Routers made.
    routers "routers"
    /// Copies that arrived.
    copies "copies"
    /// Messages that arrived.
    messages "messages of the mesh"
    /// Positions that moved back.
    rewinds "router positions set back"
    /// Jobs handed out.
    claims "jobs handed out"
    /// Jobs acknowledged.
    acks "jobs acknowledged"
    /// Jobs moved away.
    dead_letters "dead letters"
}

/// A run that broke a rule.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What else the run was made of.
    pub options: Options,
    /// Which rule, and how.
    pub violation: Violation,
    /// Which operation showed it.
    pub index: usize,
    /// The history.
    pub ops: Vec<Op>,
}

impl Failure {
    /// Whether another failure is of the same kind: the same rule, or a panic at the same place.
    pub fn is_like(&self, other: &Failure) -> bool {
        let place = |failure: &Failure| match failure.violation.rule.as_str() {
            "panic" => failure.violation.message.lines().next().unwrap_or("").to_owned(),
            _ => String::new(),
        };
        self.violation.rule == other.violation.rule && place(self) == place(other)
    }

    /// The history in the form that [`parse_history`] reads.
    pub fn history(&self) -> String {
        let Options { operations, shards_max, faults, flips } = self.options;
        let mut text = format!("seed={} operations={operations} shards_max={shards_max}", self.seed);
        text.push_str(&format!(" faults={} flips={}\n", u8::from(faults), u8::from(flips)));
        self.ops.iter().for_each(|op| text.push_str(&format!("{op}\n")));
        text
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { rule, message } = &self.violation;
        writeln!(f, "{rule}, seed {}, operation {} of {}:", self.seed, self.index + 1, self.ops.len())?;
        writeln!(f, "{message}")?;
        write!(f, "{}", self.history())
    }
}

/// Reads what [`Failure::history`] wrote.
pub fn parse_history(text: &str) -> Result<(u64, Options, Vec<Op>), String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let head = lines.next().ok_or("an empty history")?;
    let (mut seed, mut options) = (0, Options::default());
    for pair in head.split_whitespace() {
        let (name, number) = pair.split_once('=').ok_or(format!("{pair} in the first line"))?;
        let number: u64 = number.parse().map_err(|error| format!("{pair}: {error}"))?;
        match name {
            "seed" => seed = number,
            "operations" => options.operations = number as usize,
            "shards_max" => options.shards_max = number.clamp(1, 3) as u16,
            "faults" => options.faults = number == 1,
            "flips" => options.flips = number == 1,
            _ => return Err(format!("{name} in the first line")),
        }
    }
    Ok((seed, options, lines.map(str::parse).collect::<Result<_, _>>()?))
}

/// Runs the history of a seed.
pub fn run_seed(seed: u64, options: &Options) -> Result<Report, Failure> {
    run_ops(seed, options, &plan::history(seed, options))
}

/// Runs a history on what a seed decides otherwise.
pub fn run_ops(seed: u64, options: &Options, ops: &[Op]) -> Result<Report, Failure> {
    let at = Cell::new(0);
    let mut notes = Vec::new();
    let outcome = catch(|| {
        let setup = Setup::of(seed, options);
        let mut world = World::new(rig_of(seed, &setup), setup);
        world.rig.open(world.setup.shards)?;
        let ended = world.run(ops, &at);
        notes.append(&mut world.rig.notes);
        ended.map(|()| world.finish())
    });
    let violation = match outcome {
        Ok(Ok(report)) => return Ok(report),
        Ok(Err(Stop::Broken(violation))) if notes.is_empty() => violation,
        Ok(Err(Stop::Broken(Violation { rule, message }))) => {
            Violation { rule, message: format!("{message}\n  the last start said: {}", notes.join("; ")) }
        }
        Ok(Err(stop)) => Violation { rule: "stop".to_owned(), message: format!("{stop:?}") },
        Err(message) => Violation { rule: "panic".to_owned(), message },
    };
    Err(Failure { seed, options: options.clone(), violation, index: at.get(), ops: ops.to_vec() })
}

/// Log files of one chunk, and little memory: everything happens within a history.
fn rig_of(seed: u64, setup: &Setup) -> Rig {
    let fresh = FreshLayout { directory: seed ^ 0x5eed, file_bytes: CHUNK_BYTES as u64 };
    let settings = ShardSettings {
        shard: 0,
        shards: setup.shards,
        layout: 1,
        directory: fresh.directory,
        file_bytes: fresh.file_bytes,
        hot_bytes: 4 * CHUNK_BYTES as u64,
        cache_bytes: setup.cache_bytes,
        commits_in_flight: setup.commits_in_flight,
        segment_max_events: setup.segment_max_events,
        segment_max_bytes: 4 << 20,
        segment_max_age_ms: setup.segment_max_age_ms,
        wal_keep_bytes: 0,
    };
    Rig::new(seed, fresh, settings, setup.quota_bytes)
}

impl World {
    /// Does all of a history, and ends it with a look, a crash, a look.
    fn run(&mut self, ops: &[Op], at: &Cell<usize>) -> Result<(), Stop> {
        for (index, op) in ops.iter().enumerate() {
            at.set(index);
            self.apply(op)?;
            if self.is_over {
                return Ok(());
            }
        }
        self.apply(&Op::Check {})?;
        self.apply(&Op::PowerLoss { shards: 0, cuts: 0 })?;
        self.rig.disk.lift_faults();
        self.apply(&Op::Check {})
    }

    fn finish(mut self) -> Report {
        self.rig.crash(crate::disk::sim::Crash::Kill);
        let mut hash = 0;
        for (path, _) in self.rig.disk.files() {
            let bytes = self.rig.disk.contents(&path).unwrap_or(&[]);
            hash ^= xxhash_rust::xxh3::xxh3_64_with_seed(bytes, xxhash_rust::xxh3::xxh3_64(path.as_bytes()));
        }
        self.report.disk_hash = hash;
        [self.report.segments, self.report.checkpoints] = self.rig.past;
        self.report
    }
}

thread_local! {
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `act`; a panic is told by place and message, and by nothing on stderr.
fn catch<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_CAUGHT.get() {
                return before(info);
            }
            let place = info.location().map_or(String::new(), |at| format!("{}:{}", at.file(), at.line()));
            let text = info.payload_as_str().unwrap_or("?").to_owned();
            PANIC.set(format!("{place}\n{text}"));
        }));
    });
    IS_CAUGHT.set(true);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(act));
    IS_CAUGHT.set(false);
    outcome.map_err(|_| PANIC.take())
}
