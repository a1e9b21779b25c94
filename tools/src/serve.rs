//! From [`Settings`] to a running server: the one boundary between the command line and `net`.

use std::process::ExitCode;

use crate::settings::Settings;

/// Runs the daemon until it is told to stop; the status is that of the process.
pub(crate) fn serve(settings: Settings) -> ExitCode {
    let Settings { bind, data_dir, shards, .. } = &settings;
    tracing::info!(%bind, data_dir = %data_dir.display(), shards, "starting");
    eprintln!("runelog: the server is not linked in yet");
    ExitCode::FAILURE
}
