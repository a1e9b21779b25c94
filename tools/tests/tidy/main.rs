//! Which rules no test names. `rules.txt` has every number; a test names a rule by writing its number,
//! or a range of them as `D-2…D-5` or `D-2 to D-5`, into its text. Numbers in other code do not count.

#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A rule's letters and number.
type Rule = (String, u32);

fn rule(text: &str) -> Option<Rule> {
    let (letters, number) = text.split_once('-')?;
    let is_letters =
        (1..=2).contains(&letters.len()) && letters.bytes().all(|byte| byte.is_ascii_uppercase());
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (is_letters && is_number).then(|| Some((letters.to_owned(), number.parse().ok()?)))?
}

fn is_part(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '-'
}

/// The rules, in the order of the file.
fn rules() -> Vec<(Rule, &'static str)> {
    let lines = include_str!("rules.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (number, about) = line.split_once(' ').unwrap_or_else(|| panic!("number and words: {line}"));
            (rule(number).unwrap_or_else(|| panic!("a number: {line}")), about)
        })
        .collect()
}

/// The rules that a text names, ranges with their inner ones.
fn named(text: &str) -> BTreeSet<Rule> {
    let mut found = BTreeSet::new();
    let mut before: Option<Rule> = None;
    let mut rest = text;
    while let Some(start) = rest.find(is_part) {
        let between = &rest[..start];
        let end = rest[start..].find(|letter| !is_part(letter)).map_or(rest.len(), |length| start + length);
        let word = &rest[start..end];
        // `to` stands between the ends of a range; it is a word of its own.
        let is_to = word == "to" && between == " " && rest[end..].starts_with(' ');
        let this = rule(word);
        if let Some((letters, number)) = &this {
            let from = match &before {
                Some((other, from)) if other == letters && matches!(between, "…" | "..=" | " to ") => *from,
                _ => *number,
            };
            found.extend((from..=*number).map(|number| (letters.clone(), number)));
        }
        if is_to && before.is_some() {
            // Step over the word only, so that the next one sees ` to ` before it.
            let after = &rest[end + 1..];
            let next = after.split(|letter| !is_part(letter)).next().and_then(rule);
            if let (Some((from_letters, from)), Some((letters, to))) = (&before, &next)
                && from_letters == letters
            {
                found.extend((*from..=*to).map(|number| (letters.clone(), number)));
            }
        }
        before = this;
        rest = &rest[end..];
    }
    found
}

/// Every `.rs` file below, without what is built.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory of the project") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match path.is_dir() {
            true if name != "target" && !name.starts_with('.') => sources(&path, found),
            false if name.ends_with(".rs") => found.push(path),
            _ => {}
        }
    }
}

/// The part of a file that is test code: all of it, or what follows `#[cfg(test)]`.
fn test_code<'a>(path: &Path, text: &'a str) -> &'a str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let is_test = path.iter().any(|part| part == "tests") || name.ends_with("tests.rs");
    match is_test {
        true => text,
        false => text.find("#[cfg(test)]").map_or("", |at| &text[at..]),
    }
}

#[test]
fn every_rule_is_named_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut files = Vec::new();
    for part in ["engine", "spell", "net", "tools"] {
        sources(&root.join(part), &mut files);
    }
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tidy");
    let mut tested = BTreeSet::new();
    for path in files.iter().filter(|path| !path.starts_with(&own)) {
        let text = fs::read_to_string(path).expect("a source file");
        tested.extend(named(test_code(path, &text)));
    }
    let untested: Vec<String> = rules()
        .iter()
        .filter(|(rule, _)| !tested.contains(rule))
        .map(|((letters, number), about)| format!("{letters}-{number} {about}"))
        .collect();
    assert!(untested.is_empty(), "{} rules without a test:\n{}", untested.len(), untested.join("\n"));
}

#[test]
fn each_rule_has_one_line() {
    let mut lines: BTreeMap<Rule, &str> = BTreeMap::new();
    for (rule, about) in rules() {
        let before = lines.insert(rule.clone(), about);
        assert_eq!(before, None, "{rule:?} twice");
    }
    // What code and tests write as a rule is one, so that a slip of the pen does not pass for a test.
    let known: BTreeSet<&str> = lines.keys().map(|(letters, _)| letters.as_str()).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut files = Vec::new();
    for part in ["engine", "spell", "net", "tools"] {
        sources(&root.join(part), &mut files);
    }
    let mut unknown = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).expect("a source file");
        // A range may step over numbers that are no more; its ends may not be such.
        for rule in text.split(|letter| !is_part(letter)).filter_map(rule) {
            if known.contains(rule.0.as_str())
                && !lines.contains_key(&rule)
                && !path.ends_with("tidy/main.rs")
            {
                unknown.push(format!("{}-{} in {}", rule.0, rule.1, path.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "no such rules: {unknown:#?}");
}

#[test]
fn numbers_are_found_where_they_are_named() {
    let table: [(&str, &[&str]); 8] = [
        ("D-1", &["D-1"]),
        ("(D-2, I-36): X-1.", &["D-2", "I-36", "X-1"]),
        ("U-3…U-5", &["U-3", "U-4", "U-5"]),
        ("D-12 to D-14, R-1", &["D-12", "D-13", "D-14", "R-1"]),
        ("D-1 to X-3, D-1 D-3", &["D-1", "X-3", "D-3"]),
        ("UTF-8 SHA-256 x-1 D-1x AD-1-2 HTTP/1.1", &[]),
        ("to D-4 and to D-6", &["D-4", "D-6"]),
        ("\"W-14..=W-16 é\"", &["W-14", "W-15", "W-16"]),
    ];
    for (text, expected) in table {
        let expected: BTreeSet<Rule> = expected.iter().filter_map(|text| rule(text)).collect();
        assert_eq!(named(text), expected, "{text}");
    }
}
