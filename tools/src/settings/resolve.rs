//! From flags, environment and file to one value a setting (EV-1): flag beats env beats file.
//! A flag or a file is written for this very build, so what does not parse there refuses the start.
//! The environment is shared with other builds and may say anything: what does not parse there means
//! the default (L-1), what is out of bounds the nearest value in bounds, and each gives a warning.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use runelog_net::auth::Keys;
use runelog_net::caps::CapSettings;
use zeroize::{Zeroize, Zeroizing};

use super::{ABSENT, Kind, Refusal, Setting, Settings, TABLE, bind, cpus};

/// A value of some [`Kind`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Of `Text`, `Path` and `Filter`.
    Text(String),
    /// Of `Port` and `Number`.
    Number(u64),
    /// Of `Switch`.
    Switch(bool),
    /// Of `Keys`: no secret is kept.
    Keys(Keys),
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The command line.
    Flag,
    /// This environment variable.
    Env(&'static str),
    /// The file of `--config`.
    File,
    /// Nobody said anything, or nothing that can be used.
    Default,
}

/// The environment as far as it concerns Runelog.
pub(crate) type Env = BTreeMap<String, OsString>;

/// The variable that holds secrets.
const KEYS: &std::ffi::CStr = c"RUNELOG_API_KEYS";

/// Takes the variables of this process that may concern Runelog. The keys leave the process's own
/// environment with this, which other processes of the user could read, and children would inherit.
///
/// # Safety
///
/// No other thread may exist yet: there is no lock around the environment.
pub(crate) unsafe fn take_process_env() -> Env {
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with("RUNELOG_") || name == "RUST_LOG")
        .collect();
    // SAFETY: nobody else reads or writes the environment (see above). `getenv` gives a string inside it
    // that ends with a zero and may be written to its end; removing it alone would leave its bytes there.
    unsafe {
        let mut at = libc::getenv(KEYS.as_ptr());
        while !at.is_null() && *at != 0 {
            at.write_volatile(b'.' as libc::c_char);
            at = at.add(1);
        }
        std::env::remove_var(KEYS.to_str().expect("ASCII"));
    }
    env
}

/// Overwrites what is secret of a taken environment.
pub(crate) fn wipe(mut env: Env) {
    if let Some(keys) = env.remove(KEYS.to_str().expect("ASCII")) {
        keys.into_encoded_bytes().zeroize();
    }
}

/// One value for each row of the table, in its order.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// Row, value, origin.
    pub(crate) effective: Vec<(&'static Setting, Value, Origin)>,
    /// What was passed over, to be told to the operator.
    pub(crate) warnings: Vec<String>,
}

/// Settles every setting. `flags` are (name, value); `file` is the text behind `--config`.
pub(crate) fn resolve(
    flags: &[(&'static str, String)],
    env: &Env,
    file: Option<(&Path, &str)>,
) -> Result<Resolved, Refusal> {
    let mut warnings = Vec::new();
    warn_of_strangers(env, &mut warnings);
    let file = file.map(|(path, text)| parse_file(path, text)).transpose()?.unwrap_or_default();
    let mut effective = Vec::with_capacity(TABLE.len());
    for setting in TABLE {
        // The variable is judged even where a flag beats it, so that its warning is not lost.
        let from_env = env_value(setting, env, &mut warnings)?;
        let flag = flags.iter().rfind(|(name, _)| *name == setting.name);
        let (value, origin) = if let Some((_, text)) = flag {
            let value = parse_strict(setting, text).map_err(|why| match setting.kind {
                Kind::Keys => Refusal(format!("--{}: {why}", setting.flag())),
                _ => Refusal(format!("--{} {text:?}: {why}", setting.flag())),
            })?;
            (value, Origin::Flag)
        } else if let Some((value, variable)) = from_env {
            (value, Origin::Env(variable))
        } else if let Some(value) = file.get(setting.name) {
            (value.clone(), Origin::File)
        } else {
            (default_of(setting), Origin::Default)
        };
        effective.push((setting, value, origin));
    }
    Ok(Resolved { effective, warnings })
}

/// The default of a row.
pub(crate) fn default_of(setting: &Setting) -> Value {
    parse_strict(setting, setting.default).expect("a test parses every default")
}

fn warn_of_strangers(env: &Env, warnings: &mut Vec<String>) {
    for (name, value) in env {
        if let Some((_, feature)) = ABSENT.iter().find(|(absent, _)| absent == name) {
            if !value.is_empty() {
                warnings.push(format!("{name} has no effect: this build does not have {feature}"));
            }
        } else if name != crate::client::KEY_VARIABLE && !variables().any(|known| known == name) {
            let nearest = nearest(name, variables());
            warnings.push(format!("{name} is not a setting; the nearest one is {nearest}"));
        }
    }
}

fn variables() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|setting| [Some(setting.env), setting.env_alias]).flatten()
}

/// A file is a flat TOML table of names.
fn parse_file(path: &Path, text: &str) -> Result<BTreeMap<&'static str, Value>, Refusal> {
    let shown = path.display();
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        // Not its `Display`, which shows the line: that may hold keys.
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        Refusal(format!("{shown}, line {line}, is not TOML: {}", error.message()))
    })?;
    let mut values = BTreeMap::new();
    for (key, found) in table {
        let Some(setting) = TABLE.iter().find(|setting| setting.name == key) else {
            let nearest = nearest(&key, TABLE.iter().map(|setting| setting.name));
            let message = format!("{shown}: unknown key `{key}`; the nearest setting is `{nearest}`");
            return Err(Refusal(message));
        };
        let value = match (setting.kind, found) {
            (Kind::Keys, found) => keys_of_file(setting, found).map_err(|why| format!("{key}: {why}")),
            (_, found) => parse_toml(setting, &found).map_err(|why| format!("{key} = {found}: {why}")),
        };
        values.insert(setting.name, value.map_err(|why| Refusal(format!("{shown}: {why}")))?);
    }
    Ok(values)
}

/// The keys of a file, whose text goes.
fn keys_of_file(setting: &Setting, found: toml::Value) -> Result<Value, String> {
    let toml::Value::String(text) = found else { return Err(format!("must be {}", wanted(setting.kind))) };
    parse_strict(setting, &Zeroizing::new(text))
}

fn parse_toml(setting: &Setting, found: &toml::Value) -> Result<Value, String> {
    match (setting.kind, found) {
        (Kind::Switch, toml::Value::Boolean(on)) => Ok(Value::Switch(*on)),
        (Kind::Port | Kind::Number { .. }, toml::Value::Integer(number)) => {
            parse_strict(setting, &number.to_string())
        }
        (Kind::Text | Kind::Path | Kind::Filter, toml::Value::String(text)) => parse_strict(setting, text),
        _ => Err(format!("must be {}", wanted(setting.kind))),
    }
}

/// What a value has to be, in words.
fn wanted(kind: Kind) -> String {
    match kind {
        Kind::Text => "text".into(),
        Kind::Path => "a path in quotes".into(),
        Kind::Switch => "true or false".into(),
        Kind::Filter => "a log filter such as \"info\"".into(),
        Kind::Keys => "keys in quotes".into(),
        Kind::Port => "a port from 0 to 65535".into(),
        Kind::Number { min, max, multiple_of, .. } => {
            let bounds = if max == u64::MAX { format!("{min} or more") } else { format!("{min} to {max}") };
            let step =
                if multiple_of == 1 { String::new() } else { format!(", a multiple of {multiple_of}") };
            format!("a whole number, {bounds}{step}")
        }
    }
}

/// A value as a flag or a file says it.
fn parse_strict(setting: &Setting, text: &str) -> Result<Value, String> {
    let no = || format!("must be {}", wanted(setting.kind));
    match setting.kind {
        Kind::Text | Kind::Path if text.trim().is_empty() => {
            // Empty is a value only where it is the default: unset.
            if setting.default.is_empty() { Ok(Value::Text(String::new())) } else { Err(no()) }
        }
        Kind::Text | Kind::Path => Ok(Value::Text(text.into())),
        // The parser of filters cuts inside letters of several bytes, and panics.
        Kind::Filter if text.trim().is_empty() || !text.is_ascii() => Err(no()),
        Kind::Filter => match tracing_subscriber::EnvFilter::try_new(text) {
            Ok(_) => Ok(Value::Text(text.into())),
            Err(error) => Err(format!("{}: {error}", no())),
        },
        Kind::Keys => Keys::parse(text).map(Value::Keys).map_err(|error| error.to_string()),
        Kind::Switch => text.parse().map(Value::Switch).map_err(|_| no()),
        Kind::Port => text.parse::<u16>().map(|port| Value::Number(port.into())).map_err(|_| no()),
        Kind::Number { min, max, multiple_of, .. } => match text.parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) && number % multiple_of == 0 => {
                Ok(Value::Number(number))
            }
            _ => Err(no()),
        },
    }
}

/// A value as the environment says it, with the variable that said it. `None` means: as if unset.
fn env_value(
    setting: &'static Setting,
    env: &Env,
    warnings: &mut Vec<String>,
) -> Result<Option<(Value, &'static str)>, Refusal> {
    let names = [Some(setting.env), setting.env_alias].into_iter().flatten();
    for name in names {
        let Some(found) = env.get(name).filter(|found| !found.is_empty()) else { continue };
        let Some(text) = found.to_str() else {
            if matches!(setting.kind, Kind::Path | Kind::Keys) {
                // The default would open another directory than the one that was meant, or to everyone.
                return Err(Refusal(format!("{name} is not UTF-8")));
            }
            warnings.push(format!("{name} is not UTF-8 and is ignored"));
            return Ok(None);
        };
        if setting.kind == Kind::Keys {
            // As if unset would serve everyone.
            let keys = Keys::parse(text).map_err(|error| Refusal(format!("{name}: {error}")))?;
            return Ok(Some((Value::Keys(keys), name)));
        }
        let (value, warning) = parse_env(setting, text);
        warnings.extend(warning.map(|what| format!("{name}={text:?} {what}")));
        return Ok(value.map(|value| (value, name)));
    }
    Ok(None)
}

fn parse_env(setting: &Setting, text: &str) -> (Option<Value>, Option<String>) {
    let ignored = |why: String| (None, Some(format!("is ignored: {why}")));
    let trimmed = text.trim();
    match setting.kind {
        // Exact: `TRUE` or `yes` must not open the server to everyone.
        Kind::Switch => (Some(Value::Switch(matches!(text, "1" | "true"))), None),
        Kind::Number { min, max, multiple_of, white_space } => {
            let digits = if white_space { trimmed } else { text };
            let Ok(number) = digits.parse::<u64>() else {
                return ignored(format!("must be {}", wanted(setting.kind)));
            };
            let inside = (number - number % multiple_of).clamp(min, max);
            let warning = (inside != number).then(|| {
                let wanted = wanted(setting.kind);
                format!("is out of bounds and taken as {inside}: must be {wanted}")
            });
            (Some(Value::Number(inside)), warning)
        }
        Kind::Keys => unreachable!("its caller reads keys"),
        // A path is taken as it is: white space may be part of it.
        Kind::Path if trimmed.is_empty() => (None, None),
        Kind::Path => (Some(Value::Text(text.into())), None),
        Kind::Text | Kind::Filter | Kind::Port if trimmed.is_empty() => (None, None),
        Kind::Text | Kind::Filter | Kind::Port => match parse_strict(setting, trimmed) {
            Ok(value) => (Some(value), None),
            Err(why) => ignored(why),
        },
    }
}

impl Resolved {
    /// Everything a start needs, unless SU-1 refuses it.
    pub(crate) fn settings(&self) -> Result<Settings, Refusal> {
        let cpus = cpus::allowed();
        let bind = bind::bind_text(self.text("host"), self.number("port"));
        let allow_insecure_no_auth = self.switch("allow_insecure_no_auth");
        let Value::Keys(keys) = self.value("api_keys") else { panic!("api_keys are keys") };
        let addresses = bind::addresses(&bind, keys.is_on() || allow_insecure_no_auth)?;
        let shards = self.shards(&cpus);
        Ok(Settings {
            shard_ports: bind::shard_ports(self.number("shard_ports"), shards, &addresses)?,
            addresses,
            bind,
            port_file: Some(self.text("port_file")).filter(|path| !path.is_empty()).map(PathBuf::from),
            data_dir: PathBuf::from(self.text("data_dir")),
            allow_insecure_no_auth,
            keys: keys.clone(),
            probe_auth: self.switch("probe_auth"),
            max_topics: self.number("max_topics"),
            caps: CapSettings {
                max_routers: self.number("max_routers"),
                max_watch_sessions: self.number("max_watch_sessions"),
                max_streams: self.number("max_sse_connections"),
                max_streams_per_key: self.number("max_sse_connections_per_key"),
                max_in_flight_per_key: self.number("max_inflight_per_key"),
            },
            heartbeat_ms_min: self.number("test_min_heartbeat_ms"),
            max_total_bytes: self.number("max_total_bytes"),
            max_body_bytes: self.number("max_body_bytes") as usize,
            shards,
            cpus,
            segment_max_events: self.number("segment_max_events"),
            segment_max_bytes: self.number("segment_max_bytes"),
            segment_max_age_ms: self.number("segment_max_age_ms"),
            hot_bytes: self.number("hot_bytes"),
            cache_bytes: self.number("cache_bytes"),
            wal_file_bytes: self.number("wal_file_bytes"),
            wal_keep_bytes: self.number("wal_keep_bytes"),
            commits_in_flight: self.number("commits_in_flight") as usize,
            log: self.text("log").to_string(),
        })
    }

    /// How many of these CPUs to use.
    pub(super) fn shards(&self, cpus: &[usize]) -> usize {
        match self.number("shards") as usize {
            0 => cpus.len().min(runelog_engine::limits::SHARDS_MAX),
            asked => asked,
        }
    }

    fn value(&self, name: &str) -> &Value {
        let row = self.effective.iter().find(|(setting, ..)| setting.name == name);
        &row.unwrap_or_else(|| panic!("{name} is a row of the table")).1
    }

    fn text(&self, name: &str) -> &str {
        let Value::Text(text) = self.value(name) else { panic!("{name} is text") };
        text
    }

    fn number(&self, name: &str) -> u64 {
        let Value::Number(number) = self.value(name) else { panic!("{name} is a number") };
        *number
    }

    fn switch(&self, name: &str) -> bool {
        let Value::Switch(on) = self.value(name) else { panic!("{name} is a switch") };
        *on
    }
}

/// The known name that takes the fewest edits to reach.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    known.min_by_key(|candidate| edits(name.as_bytes(), candidate.as_bytes())).expect("the table has rows")
}

/// Levenshtein distance.
fn edits(from: &[u8], to: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}
