//! The one table of settings. The flags of `runelog serve`, its `--help` and `--check`, the lookup of
//! environment variables, the file parser, `deploy/runelog.toml` and the README's table read it.
//! Lives here: names, kinds, bounds, defaults, help, and [`Settings`], what a start needs to know.
//! Not here: where a value comes from (`resolve`), SU-1 (`bind`), how it is shown (`show`).

pub(crate) mod args;
pub(crate) mod bind;
mod cpus;
pub(crate) mod resolve;
pub(crate) mod show;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;

use runelog_engine::limits::{CHUNK_BYTES, COMMITS_IN_FLIGHT_MAX, SHARDS_MAX};
use runelog_net::auth::Keys;
use runelog_net::caps::CapSettings;

/// Request bodies are at most this long whatever is asked for: spans into a body have 31 bits.
pub(crate) const BODY_BYTES_MAX: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const CHUNK: u64 = CHUNK_BYTES as u64;

const _: () = assert!(BODY_BYTES_MAX < 1 << 31);
const _: () = assert!(CHUNK == 2 * MIB); // the help of wal_file_bytes says so

/// What a value is and which values are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Any text that is not empty.
    Text,
    /// A path; empty means unset where the default is empty, else it is refused.
    Path,
    /// `true` or `false`; in the environment exactly `1` or `true` turn it on.
    Switch,
    /// A filter for log lines as `tracing` reads it.
    Filter,
    /// API keys. Never shown; malformed ones refuse the start wherever they come from (SU-2).
    Keys,
    /// A TCP port.
    Port,
    /// A whole number inside bounds.
    Number {
        /// Smallest value taken.
        min: u64,
        /// Largest value taken.
        max: u64,
        /// The value is a multiple of this; `min` and `max` are as well, or this is 1.
        multiple_of: u64,
        /// Whether white space around a value in the environment is tolerated (L-1).
        white_space: bool,
    },
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Setting {
    /// The key in the file; the flag is the same with `-` for `_`.
    pub(crate) name: &'static str,
    /// The environment variable.
    pub(crate) env: &'static str,
    /// An older name of the variable, read where the first is not set.
    pub(crate) env_alias: Option<&'static str>,
    /// What it is, and its bounds.
    pub(crate) kind: Kind,
    /// The default as text; it parses as the kind.
    pub(crate) default: &'static str,
    /// One line.
    pub(crate) help: &'static str,
    /// What else one should know; may be empty.
    pub(crate) more: &'static str,
}

impl Setting {
    /// The flag, without its dashes.
    pub(crate) fn flag(&self) -> String {
        self.name.replace('_', "-")
    }
}

const fn number(min: u64, max: u64) -> Kind {
    Kind::Number { min, max, multiple_of: 1, white_space: true }
}

const fn row(
    name: &'static str,
    env: &'static str,
    kind: Kind,
    default: &'static str,
    help: &'static str,
    more: &'static str,
) -> Setting {
    Setting { name, env, env_alias: None, kind, default, help, more }
}

/// Every setting there is, in the order in which they are shown.
pub(crate) static TABLE: &[Setting] = &[
    row(
        "host",
        "RUNELOG_HOST",
        Kind::Text,
        "127.0.0.1",
        "Address to listen on; with a ':' in it, host:port, and port is ignored",
        "IPv6 needs brackets and a port: [::1]:4000. An address that is not loopback needs \
         api_keys, or allow_insecure_no_auth.",
    ),
    row("port", "RUNELOG_PORT", Kind::Port, "4000", "Port to listen on; 0 lets the system choose", ""),
    row(
        "port_file",
        "RUNELOG_PORT_FILE",
        Kind::Path,
        "",
        "File that gets host:port once the listener is bound; empty = none",
        "It appears whole or not at all, and ends without a newline.",
    ),
    row(
        "data_dir",
        "RUNELOG_DATA_DIR",
        Kind::Path,
        "./runelog-data",
        "Directory of all data; created if it is missing",
        "One process owns it at a time.",
    ),
    row(
        "allow_insecure_no_auth",
        "RUNELOG_ALLOW_INSECURE_NO_AUTH",
        Kind::Switch,
        "false",
        "Permit listening beyond loopback although nobody is asked for a key",
        "Everyone who reaches the port may then read, write and delete everything.",
    ),
    row(
        "api_keys",
        "RUNELOG_API_KEYS",
        Kind::Keys,
        "",
        "Keys as secret[:scopes[:prefixes]], commas between them; empty = everyone may do everything",
        "Scopes: read, write, delete, admin, joined by +, or none for all. Prefixes of topic and router \
         names, joined by |, or none for any. Requests then need `Authorization: Bearer <secret>`. As a \
         flag, everyone on this machine can read it.",
    ),
    row(
        "probe_auth",
        "RUNELOG_PROBE_AUTH",
        Kind::Switch,
        "false",
        "Ask for a key on /v0/health and /v0/ready too",
        "Any key does. Without api_keys it has no effect.",
    ),
    row(
        "max_topics",
        "RUNELOG_MAX_TOPICS",
        number(0, u64::MAX),
        "100000",
        "Topics at most; 0 = unlimited",
        "Creating one more is answered 429. Existing topics stay usable and configurable.",
    ),
    row(
        "max_routers",
        "RUNELOG_MAX_ROUTERS",
        number(0, u64::MAX),
        "10000",
        "Routers at most; 0 = unlimited",
        "Creating one more is answered 429. Existing routers stay usable and configurable.",
    ),
    row(
        "max_watch_sessions",
        "RUNELOG_MAX_WATCH_SESSIONS",
        number(0, u64::MAX),
        "10000",
        "Watch sessions at most; 0 = unlimited",
        "Creating one more is answered 429; one that nobody used for five minutes makes room.",
    ),
    row(
        "max_sse_connections",
        "RUNELOG_MAX_SSE_CONNECTIONS",
        number(0, u64::MAX),
        "10000",
        "Open event streams and WebSockets at most; 0 = unlimited",
        "Opening one more is answered 429.",
    ),
    row(
        "max_sse_connections_per_key",
        "RUNELOG_MAX_SSE_CONNECTIONS_PER_KEY",
        number(0, u64::MAX),
        "1000",
        "The same of one API key; 0 = unlimited",
        "",
    ),
    row(
        "max_inflight_per_key",
        "RUNELOG_MAX_INFLIGHT_PER_KEY",
        number(0, u64::MAX),
        "1000",
        "Requests of one API key in progress at most; 0 = unlimited",
        "One more is answered 429. Open streams and WebSockets do not count.",
    ),
    row(
        "max_total_bytes",
        "RUNELOG_MAX_TOTAL_BYTES",
        number(0, u64::MAX),
        "0",
        "Retained bytes of data and meta over all topics at most; 0 = unlimited",
        "A batch that would pass it is answered 429 until eviction or deletion makes room.",
    ),
    row(
        "max_body_bytes",
        "RUNELOG_MAX_BODY_BYTES",
        Kind::Number { min: 0, max: BODY_BYTES_MAX, multiple_of: 1, white_space: false },
        "67108864",
        "Bytes of a request body at most; 0 refuses every body that is not empty",
        "At most 1 GiB. A longer body is answered 413.",
    ),
    Setting {
        name: "shards",
        env: "RUNELOG_SHARDS",
        env_alias: Some("RUNELOG_WAL_SHARDS"),
        kind: number(0, SHARDS_MAX as u64),
        default: "0",
        help: "Cores to use, each with its own log; 0 = the CPUs this process may run on",
        more: "May change between starts.",
    },
    row(
        "shard_ports",
        "RUNELOG_SHARD_PORTS",
        Kind::Port,
        "0",
        "First of a row of ports: core n listens on this + n too; 0 = none",
        "GET /v0/shards names the port of the core that owns a topic: requests for it are served there \
         without a hop between cores.",
    ),
    row(
        "segment_max_events",
        "RUNELOG_SEGMENT_MAX_EVENTS",
        number(1, u64::MAX),
        "10000",
        "Records in one block of a sealed segment at most",
        "A block is what a read loads and checks at once; it also ends at about 64 KiB.",
    ),
    row(
        "segment_max_bytes",
        "RUNELOG_SEGMENT_MAX_BYTES",
        number(1, u64::MAX),
        "67108864",
        "Bytes of a segment file, about, and of log that is sealed at once",
        "From 2 to 128 MiB of log at once, whatever is set.",
    ),
    row(
        "segment_max_age_ms",
        "RUNELOG_SEGMENT_MAX_AGE_MS",
        number(0, u64::MAX),
        "3600000",
        "Age in ms at which records in the log's memory are sealed; 0 = never for age alone",
        "",
    ),
    row(
        "hot_bytes",
        "RUNELOG_HOT_BYTES",
        number(16 * MIB, u64::MAX),
        "268435456",
        "Memory of each core for records that are not sealed yet",
        "At least 16 MiB. When it is half full, the oldest records are sealed. Records of class \
         ephemeral, which are never sealed, may take as much again.",
    ),
    row(
        "cache_bytes",
        "RUNELOG_CACHE_BYTES",
        number(0, u64::MAX),
        "268435456",
        "Memory of each core for blocks read back from sealed segments",
        "",
    ),
    row(
        "wal_file_bytes",
        "RUNELOG_WAL_FILE_BYTES",
        Kind::Number { min: 2 * CHUNK, max: 1 << 40, multiple_of: CHUNK, white_space: true },
        "67108864",
        "Size of a log file; fixed when the data directory is created",
        "A multiple of 2 MiB, at least 4 MiB. Files are zero-filled ahead and used again.",
    ),
    row(
        "wal_keep_bytes",
        "RUNELOG_WAL_KEEP_BYTES",
        number(0, u64::MAX),
        "0",
        "Bytes of each core's log kept beyond what recovery needs",
        "A second copy of recent records, at the price of that much disk.",
    ),
    row(
        "commits_in_flight",
        "RUNELOG_COMMITS_IN_FLIGHT",
        number(1, COMMITS_IN_FLIGHT_MAX as u64),
        "2",
        "Group commits of a core that may be on their way to the disk at once",
        "1 to 4. More make smaller groups; two measured best under load.",
    ),
    row(
        "test_min_heartbeat_ms",
        "RUNELOG_TEST_MIN_HEARTBEAT_MS",
        number(1, 1000),
        "1000",
        "For tests: the shortest heartbeat_ms that a watch may ask for",
        "",
    ),
    row(
        "log",
        "RUST_LOG",
        Kind::Filter,
        "info",
        "Which log lines go to stderr",
        "A level (error, warn, info, debug, trace) or directives such as info,runelog_engine=debug.",
    ),
];

/// Variables of features that this build does not have, and what they would be for.
pub(crate) static ABSENT: &[(&str, &str)] = &[
    ("RUNELOG_COLD_DIR", "a cold tier"),
    ("RUNELOG_HOT_RETAIN_SEGMENTS", "a cold tier"),
    ("RUNELOG_HOT_RETAIN_BYTES", "a cold tier"),
];

/// All that a start needs to know: valid, resolved, nothing left to default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The address as asked for, `host:port`.
    pub(crate) bind: String,
    /// What `bind` resolved to when SU-1 was judged; never empty. Bind these, so that what was
    /// judged is what is bound.
    pub(crate) addresses: Vec<SocketAddr>,
    /// The first port of the cores' own.
    pub(crate) shard_ports: Option<u16>,
    /// Where to write the bound `host:port`.
    pub(crate) port_file: Option<PathBuf>,
    /// The data directory.
    pub(crate) data_dir: PathBuf,
    /// Whether listening beyond loopback is permitted.
    pub(crate) allow_insecure_no_auth: bool,
    /// Who may ask; none: everyone.
    pub(crate) keys: Keys,
    /// Whether probes need a key.
    pub(crate) probe_auth: bool,
    /// Topics at most; 0 = unlimited.
    pub(crate) max_topics: u64,
    /// What the cores hold together besides topics and bytes.
    pub(crate) caps: CapSettings,
    /// Shortest heartbeat that a watch may ask for.
    pub(crate) heartbeat_ms_min: u64,
    /// Retained bytes at most; 0 = unlimited.
    pub(crate) max_total_bytes: u64,
    /// Body bytes at most; 0 = none but the empty body. Never above [`BODY_BYTES_MAX`].
    pub(crate) max_body_bytes: usize,
    /// Cores to use, 1 to `SHARDS_MAX`.
    pub(crate) shards: usize,
    /// Ids of the CPUs this process may run on, ascending; never empty.
    pub(crate) cpus: Vec<usize>,
    /// Records of a segment, at least 1.
    pub(crate) segment_max_events: u64,
    /// Bytes of a segment, at least 1.
    pub(crate) segment_max_bytes: u64,
    /// Age of an open segment; 0 = no bound.
    pub(crate) segment_max_age_ms: u64,
    /// Memory of a core for records not sealed yet.
    pub(crate) hot_bytes: u64,
    /// Memory of a core for blocks of sealed segments.
    pub(crate) cache_bytes: u64,
    /// Size of a log file.
    pub(crate) wal_file_bytes: u64,
    /// Log bytes of a core kept beyond need.
    pub(crate) wal_keep_bytes: u64,
    /// Group commits of a core in flight.
    pub(crate) commits_in_flight: usize,
    /// Filter for log lines; it parses.
    pub(crate) log: String,
}

/// Why the daemon does not start: exit status 1 and this on stderr.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.0)
    }
}
