//! Settings: what a file, the environment and flags may say.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use crate::input::Input;
use crate::settings::resolve::{Env, Origin, Resolved, Value, resolve};
use crate::settings::{Kind, Refusal, TABLE, show};

/// Stands in every key; must be in no text that anybody gets to see.
const SECRET: &str = "zq5ecretqz";

/// `where, …`: a file; variables; flags; keys.
pub(crate) fn settings(input: &[u8]) {
    let mut input = Input::new(input);
    match input.byte() % 4 {
        0 => {
            let text = String::from_utf8_lossy(input.rest()).into_owned();
            judge(from_file(&text));
        }
        1 => {
            let mut env = Env::new();
            while !input.is_empty() {
                let which = usize::from(input.byte());
                let value = OsString::from_vec(input.piece().to_vec());
                let name =
                    TABLE.get(which % (TABLE.len() + 1)).map_or("RUNELOG_STRANGE", |setting| setting.env);
                env.insert(name.to_owned(), value);
            }
            judge(resolve(&[], &env, None));
        }
        2 => {
            let mut flags = Vec::new();
            while !input.is_empty() {
                let which = usize::from(input.byte()) % TABLE.len();
                flags.push((TABLE[which].name, String::from_utf8_lossy(input.piece()).into_owned()));
            }
            judge(resolve(&flags, &Env::new(), None));
        }
        _ => keys(input),
    }
}

fn from_file(text: &str) -> Result<Resolved, Refusal> {
    resolve(&[], &Env::new(), Some((Path::new("f.toml"), text)))
}

fn judge(resolved: Result<Resolved, Refusal>) {
    let Ok(resolved) = resolved else { return };
    assert_eq!(resolved.effective.len(), TABLE.len(), "EV-1: one value for each");
    let mut printable = true;
    for (setting, value, origin) in &resolved.effective {
        match (setting.kind, value) {
            (Kind::Number { min, max, multiple_of, .. }, Value::Number(number)) => {
                assert!(
                    (min..=max).contains(number) && number % multiple_of == 0,
                    "{}: {number}",
                    setting.name
                );
                // A whole number of TOML has a sign.
                printable &= i64::try_from(*number).is_ok();
            }
            (Kind::Port, Value::Number(number)) => assert!(*number <= 65535, "{number}"),
            (Kind::Switch, Value::Switch(_)) | (Kind::Keys, Value::Keys(_)) => {}
            (Kind::Text | Kind::Path | Kind::Filter, Value::Text(text)) => {
                assert!(!text.trim().is_empty() || setting.default.is_empty(), "{} is empty", setting.name);
            }
            other => panic!("{}: {other:?}", setting.name),
        }
        assert!(
            *origin != Origin::Default || setting.kind == Kind::Keys || *value == default(setting),
            "EV-1"
        );
    }
    if printable {
        let printed = show::check(&resolved);
        let again = from_file(&printed)
            .unwrap_or_else(|refusal| panic!("--check cannot be read: {refusal}\n{printed}"));
        for ((setting, value, _), (_, other, _)) in resolved.effective.iter().zip(&again.effective) {
            assert!(
                setting.kind == Kind::Keys || value == other,
                "{}: {value:?}, then {other:?}",
                setting.name
            );
        }
    }
}

fn default(setting: &crate::settings::Setting) -> Value {
    crate::settings::resolve::default_of(setting)
}

/// Keys in each of the three places: whatever is wrong, no text tells them.
fn keys(mut input: Input<'_>) {
    let mode = input.byte();
    let text = String::from_utf8_lossy(input.rest()).replace('\0', SECRET);
    let text = format!("{SECRET}{text}");
    let quoted = toml::Value::String(text.clone()).to_string();
    let resolved = match mode % 4 {
        0 => resolve(&[("api_keys", text)], &Env::new(), None),
        1 => resolve(&[], &Env::from([("RUNELOG_API_KEYS".to_owned(), text.into())]), None),
        2 => from_file(&format!("api_keys = {quoted}\n")),
        // Not quoted as TOML wants it: the message must not show the line.
        _ => from_file(&format!("port = 1\napi_keys = \"{text}\nport = 2\n")),
    };
    let shown = match &resolved {
        Ok(resolved) => format!("{resolved:?} {}", show::check(resolved)),
        Err(refusal) => refusal.0.clone(),
    };
    assert!(!shown.contains(SECRET), "A-3: {shown}");
}
