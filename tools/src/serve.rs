//! From [`Settings`] to a running server: the one boundary between the command line and `net`.

use std::io::Write;
use std::process::ExitCode;

use runelog_net::server::{self, Options};

use crate::settings::Settings;

/// Runs the daemon until it is told to stop; the status is that of the process (§15.1, SH-1).
pub(crate) fn serve(settings: Settings) -> ExitCode {
    let Settings { bind, data_dir, shards, .. } = &settings;
    tracing::info!(%bind, data_dir = %data_dir.display(), shards, "starting");
    let options = Options {
        addresses: settings.addresses,
        shard_ports: settings.shard_ports,
        port_file: settings.port_file,
        data_dir: settings.data_dir,
        shards: settings.shards as u16,
        cpus: settings.cpus,
        max_topics: settings.max_topics,
        max_total_bytes: settings.max_total_bytes,
        max_body_bytes: settings.max_body_bytes as u64,
        keys: settings.keys,
        probe_auth: settings.probe_auth,
        caps: settings.caps,
        heartbeat_ms_min: settings.heartbeat_ms_min,
        hot_bytes: settings.hot_bytes,
        cache_bytes: settings.cache_bytes,
        wal_file_bytes: settings.wal_file_bytes,
        wal_keep_bytes: settings.wal_keep_bytes,
        commits_in_flight: settings.commits_in_flight,
        segment_max_events: settings.segment_max_events.min(u64::from(u32::MAX)) as u32,
        segment_max_bytes: settings.segment_max_bytes,
        segment_max_age_ms: settings.segment_max_age_ms,
    };
    match server::run(options) {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{error}");
            // Not `eprintln!`, which panics where stderr takes no more: the status has to be 1.
            let _ = writeln!(std::io::stderr(), "runelog: {error}");
            ExitCode::FAILURE
        }
    }
}
