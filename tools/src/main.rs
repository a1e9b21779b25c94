//! The one binary, `runelog`: the daemon and the tools around it.
//! Lives here: the command line and what runs behind each subcommand. Not here: what they do.

mod bench;
mod client;
#[cfg(test)]
mod fake;
mod import;
mod inspect;
mod look;
#[cfg(test)]
mod sample;
mod serve;
mod settings;
mod sim;
mod tail;
mod tune;
mod verify;
mod work_dir;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use settings::args::ServeArgs;
use settings::{Refusal, Settings, resolve, show};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runelog: append-only topics over a JSON HTTP API.
#[derive(Parser)]
#[command(name = "runelog", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon
    #[command(after_help = "\
Nothing must be set to run. Every setting is a flag, an environment variable and a key of the file
of --config; the flag beats the environment, the environment beats the file.

Examples:
  runelog serve
  runelog serve --config /etc/runelog/runelog.toml --check
  runelog serve --port 0 --port-file /tmp/port --data-dir /tmp/data")]
    Serve(ServeArgs),
    /// Measure a server: appends, reads, fan-out, queues; how far it is from what the machine could do
    Bench(Box<bench::BenchArgs>),
    /// The bare loop that `bench ceiling` compares with
    #[command(hide = true)]
    RawServer(bench::raw::RawArgs),
    /// Put a file of JSON records into a topic
    Import(import::ImportArgs),
    /// Show what a data directory holds and whether it is whole; changes nothing
    Inspect(inspect::InspectArgs),
    /// Try the engine: random histories on a simulated disk, with crashes and faults, beside a model
    Sim(sim::SimArgs),
    /// Print the records of a topic, one a line
    Tail(tail::TailArgs),
    /// Judge a data directory: would a start succeed, and every read; changes nothing
    Verify(verify::VerifyArgs),
    /// Measure this host and recommend settings for it
    Tune(tune::TuneArgs),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => match prepare(args) {
            Ok(Some(settings)) => serve::serve(settings),
            Ok(None) => ExitCode::SUCCESS,
            Err(refusal) => {
                eprintln!("runelog: {refusal}");
                ExitCode::FAILURE
            }
        },
        Command::Bench(args) => report(bench::run(&args)),
        Command::RawServer(args) => report(bench::raw::run(&args)),
        Command::Import(args) => report(import::run(&args)),
        Command::Inspect(args) => inspect::run(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Tail(args) => report(tail::run(&args)),
        Command::Verify(args) => verify::run(&args),
        Command::Tune(args) => report(tune::run(&args)),
    }
}

/// Settles the settings and starts the log; `None` after a `--check`.
fn prepare(mut args: ServeArgs) -> Result<Option<Settings>, Refusal> {
    // SAFETY: the process has started no thread yet.
    let env = unsafe { resolve::take_process_env() };
    let resolved = args.resolve(&env);
    resolve::wipe(env);
    args.wipe();
    let resolved = resolved?;
    let settings = resolved.settings();
    if args.check {
        for warning in &resolved.warnings {
            eprintln!("runelog: {warning}");
        }
        print!("{}", show::check(&resolved));
        // A check that hides a refusal would be of no use: it is told, with status 1.
        return settings.map(|_| None);
    }
    let settings = settings?;
    let filter = EnvFilter::try_new(&settings.log).expect("a filter is parsed before it is taken");
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        // It would tell with `eprintln!`, which panics: a full disk behind stderr would end the daemon.
        .log_internal_errors(false)
        .init();
    for warning in &resolved.warnings {
        tracing::warn!("{warning}");
    }
    Ok(Some(settings))
}

fn report(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("runelog: {message}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
