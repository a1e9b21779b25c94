//! The command line of `runelog serve`, made from the table.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::resolve::{self, Env, Resolved};
use super::{Kind, Refusal, Setting, TABLE};

/// What was said on the command line of `runelog serve`.
#[derive(Debug, Default)]
pub(crate) struct ServeArgs {
    /// The settings file.
    pub(crate) config: Option<PathBuf>,
    /// Only print the effective settings.
    pub(crate) check: bool,
    /// Settings given as flags: name, value.
    pub(crate) flags: Vec<(&'static str, String)>,
}

impl ServeArgs {
    /// Reads the file, if one was named, and settles every setting.
    pub(crate) fn resolve(&self, env: &Env) -> Result<Resolved, Refusal> {
        let Some(path) = &self.config else { return resolve::resolve(&self.flags, env, None) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| Refusal(format!("cannot read {}: {error}", path.display())))?;
        // It may hold keys.
        let text = zeroize::Zeroizing::new(text);
        resolve::resolve(&self.flags, env, Some((path, &text)))
    }
}

impl ServeArgs {
    /// Overwrites what the flags said, which may be keys.
    pub(crate) fn wipe(&mut self) {
        self.flags.iter_mut().for_each(|(_, said)| zeroize::Zeroize::zeroize(said));
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = ServeArgs::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.config = matches.get_one::<PathBuf>("config").cloned();
        self.check = matches.get_flag("check");
        self.flags = TABLE
            .iter()
            .filter_map(|setting| Some((setting.name, matches.get_one::<String>(setting.name)?.clone())))
            .collect();
        Ok(())
    }
}

impl Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let command = command
            .arg(
                Arg::new("config")
                    .long("config")
                    .value_name("FILE")
                    .value_parser(clap::value_parser!(PathBuf))
                    .help("TOML file of settings, such as deploy/runelog.toml; an unknown key is refused"),
            )
            .arg(
                Arg::new("check")
                    .long("check")
                    .action(ArgAction::SetTrue)
                    .help("Print the effective settings and where each comes from, then exit"),
            );
        TABLE.iter().map(argument).fold(command.next_help_heading("Settings"), Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn argument(setting: &'static Setting) -> Arg {
    let default = if setting.default.is_empty() { "none" } else { setting.default };
    let facts = format!("[env: {}] [default: {default}]", setting.env);
    let mut long = format!("{} {facts}", setting.help);
    if !setting.more.is_empty() {
        long = format!("{}. {} {facts}", setting.help, setting.more);
    }
    let argument = Arg::new(setting.name)
        .long(&*setting.flag().leak()) // clap wants names that last; this runs once a process
        .action(ArgAction::Set)
        .help(format!("{} {facts}", setting.help))
        .long_help(long);
    match setting.kind {
        // `--allow-insecure-no-auth` alone turns it on; `=false` beats the environment.
        Kind::Switch => argument
            .value_name("true|false")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        Kind::Path => argument.value_name("PATH"),
        Kind::Port => argument.value_name("PORT"),
        Kind::Text => argument.value_name("TEXT"),
        Kind::Keys => argument.value_name("KEYS"),
        Kind::Filter => argument.value_name("FILTER"),
        Kind::Number { .. } => argument.value_name("N"),
    }
}
