//! What reads bytes that somebody else wrote, given every kind of bytes.
//! Lives here: the *targets*, functions that take an input and panic if a promise is broken, and how they are
//! run over a corpus. They are ordinary code: `cargo test` runs each over its kept inputs, over small changes of
//! these, and over random mutations; the crate in `harness` gives the same functions to libFuzzer.
//! Not here: simulated crashes of a whole shard (the engine's tests), bytes at real sockets (`tools/tests/wire`).
//!
//! A target asks for more than "no panic": two ways to the same answer agree, what an encoder wrote is read
//! back, the cut of a stream into reads does not matter, nothing is invented, and no input takes more memory
//! than its bound ([`Target::memory_bytes`]).

pub mod alloc;
mod control;
pub mod drill;
mod files;
mod http;
mod images;
mod input;
mod json;
mod log;
mod memory_disk;
mod recovery;
mod respell;
mod settings_target;
mod text;
mod websocket;

// The parser belongs to a binary, which nobody can depend on; its files are compiled a second time here.
#[path = "../../src/settings/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "the binary uses the rest")]
mod settings;

// A shard on a simulated disk, as the engine's own tests run one.
#[path = "../../../engine/tests/common/mod.rs"]
mod common;

/// What `settings` wants of its neighbour.
mod client {
    pub(crate) const KEY_VARIABLE: &str = "RUNELOG_KEY";
}

/// One thing to be fuzzed.
pub struct Target {
    /// Its name, and that of its folder in `corpus`.
    pub name: &'static str,
    /// What it holds to, in a line.
    pub promise: &'static str,
    check: fn(&[u8]),
    /// Memory beyond the fixed part, for each byte of input.
    per_byte: usize,
    /// Memory that every input may take.
    fixed: usize,
    /// How many times longer than the others it takes: `cargo test` makes fewer mutations.
    pub cost: usize,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// All of them.
pub const TARGETS: &[Target] = &[
    Target {
        name: "head",
        promise: "a request head is judged the same however it is cut, its parts lie inside it",
        check: http::head,
        per_byte: 64,
        fixed: 64 * KIB,
        cost: 1,
    },
    Target {
        name: "requests",
        promise: "requests on one connection are the same however the bytes are cut",
        check: http::requests,
        per_byte: 64,
        fixed: 64 * KIB,
        cost: 1,
    },
    Target {
        name: "chunked",
        promise: "chunked decoding does not depend on cuts, agrees with a plain reading, undoes an encoding",
        check: http::chunked,
        per_byte: 64,
        fixed: 64 * KIB,
        cost: 1,
    },
    Target {
        name: "text",
        promise: "escapes, queries, base64, cursors, event ids as other crates read them, and back",
        check: text::text,
        per_byte: 128,
        fixed: 64 * KIB,
        cost: 1,
    },
    Target {
        name: "json",
        promise: "the scanner takes exactly what serde_json takes; its lanes agree with byte by byte",
        check: json::value,
        per_byte: 512,
        fixed: 64 * KIB,
        cost: 1,
    },
    Target {
        name: "write",
        promise: "an append is split into the bytes that serde_json calls raw",
        check: json::write,
        per_byte: 512,
        fixed: 64 * KIB,
        cost: 1,
    },
    Target {
        name: "control",
        promise: "other bodies and commands mean the same however they are spelled, and are JSON",
        check: control::control,
        per_byte: 1024,
        fixed: 64 * KIB,
        cost: 1,
    },
    Target {
        name: "websocket",
        promise: "messages and answers do not depend on how frames are cut into reads",
        check: websocket::websocket,
        per_byte: 256,
        // Its read buffer, in three connections.
        fixed: 4 * MIB,
        cost: 1,
    },
    Target {
        name: "entries",
        promise: "log entries are read inside their bytes, and back as they were written",
        check: log::entries,
        // Two bytes ask for up to sixteen records, which the target itself keeps three times.
        per_byte: 8 * KIB,
        fixed: 64 * KIB,
        cost: 1,
    },
    Target {
        name: "blocks",
        promise: "a walk over a log file finds only blocks that are there",
        check: log::blocks,
        per_byte: 256,
        fixed: 4 * MIB,
        cost: 1,
    },
    Target {
        name: "segment",
        promise: "a changed segment is refused or the same; a resealed one never reads beyond itself",
        check: files::segment,
        per_byte: 64,
        fixed: 16 * MIB,
        cost: 1,
    },
    Target {
        name: "checkpoint",
        promise: "a changed checkpoint is refused or the same; a resealed one survives being written again",
        check: files::checkpoint,
        per_byte: 64,
        fixed: 16 * MIB,
        cost: 1,
    },
    Target {
        name: "layout",
        promise: "a layout file is refused or says what writes it back",
        check: files::layout,
        per_byte: 64,
        fixed: 64 * KIB,
        cost: 1,
    },
    Target {
        name: "recovery",
        promise: "a shard of changed files refuses to start, or says what it said; nothing is invented",
        check: recovery::recovery,
        per_byte: 64,
        // The log's chunks and the simulated disk.
        fixed: 128 * MIB,
        cost: 200,
    },
    Target {
        name: "settings",
        promise: "settings are refused or inside their bounds, are printed so that they mean the same, and no \
                  secret is told",
        check: settings_target::settings,
        per_byte: 1024,
        fixed: MIB,
        cost: 1,
    },
];

impl Target {
    /// The one of that name.
    pub fn named(name: &str) -> Option<&'static Target> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Memory that an input of so many bytes may take at a time.
    pub fn memory_bytes(&self, input: usize) -> usize {
        self.fixed + self.per_byte * input
    }

    /// Runs it; panics if a promise is broken or memory runs over.
    pub fn run(&self, input: &[u8]) {
        let ((), peak) = alloc::peak_of(|| (self.check)(input));
        let bound = self.memory_bytes(input.len());
        assert!(
            peak <= bound,
            "{} bytes of input took {peak} bytes, at most {bound} are allowed",
            input.len()
        );
    }
}
