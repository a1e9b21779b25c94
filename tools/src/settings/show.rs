//! The table as text: what `--check` prints, `deploy/runelog.toml`, the README's table.

use std::fmt::Write;

use super::cpus;
use super::resolve::{Origin, Resolved, Value};
#[cfg(test)]
use super::{Setting, TABLE, resolve};

/// The effective settings as TOML, the origin of each in a comment.
pub(crate) fn check(resolved: &Resolved) -> String {
    let mut out = String::new();
    for (setting, value, origin) in &resolved.effective {
        let origin = match origin {
            Origin::Flag => format!("flag --{}", setting.flag()),
            Origin::Env(variable) => format!("env {variable}"),
            Origin::File => "file".to_string(),
            Origin::Default => "default".to_string(),
        };
        // 0 can go into a file as it is, so it stays; what it means here and now is told beside it.
        let meaning = match (setting.name, value) {
            ("shards", Value::Number(0)) => format!(", {} here", resolved.shards(&cpus::allowed())),
            _ => String::new(),
        };
        let line = match value {
            // Not as a setting: the line must not be taken for the keys.
            Value::Keys(keys) if keys.is_on() => format!("# {}: {}", setting.name, counted(keys.count())),
            _ => format!("{} = {}", setting.name, toml_text(value)),
        };
        writeln!(out, "{line:<44} # {origin}{meaning}").expect("a String takes all");
    }
    out
}

fn counted(keys: usize) -> String {
    format!("set ({keys} key{})", if keys == 1 { "" } else { "s" })
}

fn toml_text(value: &Value) -> String {
    match value {
        Value::Text(text) => toml::Value::String(text.clone()).to_string(),
        Value::Number(number) => number.to_string(),
        Value::Switch(on) => on.to_string(),
        Value::Keys(_) => "\"\"".into(),
    }
}

/// `deploy/runelog.toml`: every setting in a comment, with its default.
#[cfg(test)]
pub(crate) fn sample_file() -> String {
    let mut out = String::from(
        "# Settings of `runelog serve --config runelog.toml`. Nothing must be set: every line below is\n\
         # commented out and shows the default. A flag beats the environment, the environment beats this\n\
         # file, and an unknown key refuses the start. `runelog serve --check` prints what is in effect.\n",
    );
    for setting in TABLE {
        let mut words = format!("{}.", setting.help);
        if !setting.more.is_empty() {
            write!(words, " {}", setting.more).expect("a String takes all");
        }
        let value = toml_text(&resolve::default_of(setting));
        write!(
            out,
            "\n{}# Flag --{}, environment {}.\n# {} = {value}\n",
            wrapped(&words, 98),
            setting.flag(),
            variables(setting),
            setting.name
        )
        .expect("a String takes all");
    }
    out
}

/// The rows between `<!-- settings -->` and `<!-- /settings -->` of the README.
#[cfg(test)]
pub(crate) fn readme_table() -> String {
    let mut out = String::from("| Setting | Environment | Default | Meaning |\n|---|---|---|---|\n");
    for setting in TABLE {
        let default = if setting.default.is_empty() { "none" } else { setting.default };
        writeln!(
            out,
            "| `{}` | `{}` | `{default}` | {} |",
            setting.name,
            variables(setting).replace(" or ", "`, `"),
            setting.help
        )
        .expect("a String takes all");
    }
    out
}

#[cfg(test)]
fn variables(setting: &Setting) -> String {
    match setting.env_alias {
        Some(alias) => format!("{} or {alias}", setting.env),
        None => setting.env.to_string(),
    }
}

/// Comment lines of at most `width` characters.
#[cfg(test)]
fn wrapped(words: &str, width: usize) -> String {
    let mut out = String::from("#");
    let mut used = 1;
    for word in words.split_whitespace() {
        if used + 1 + word.len() > width {
            out.push_str("\n#");
            used = 1;
        }
        write!(out, " {word}").expect("a String takes all");
        used += 1 + word.len();
    }
    out.push('\n');
    out
}
