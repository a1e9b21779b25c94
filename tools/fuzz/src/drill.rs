//! Many inputs made from few: what `cargo test` runs without a fuzzer.

use std::path::{Path, PathBuf};

use crate::Target;
use crate::input::Random;

/// How much is made of the kept inputs.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Truncations of each input, evenly over its length.
    pub truncations: usize,
    /// Changes of one byte of each, evenly over its length.
    pub changes: usize,
    /// Inputs made by several random changes, in all.
    pub mutations: usize,
    /// What these follow from.
    pub seed: u64,
}

/// Where the inputs of a target are kept.
pub fn corpus_dir(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name)
}

/// The kept inputs, by name.
pub fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let dir = corpus_dir(target);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut inputs: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read(&path).expect("an input"))
        })
        .collect();
    inputs.sort();
    inputs
}

/// Says which input it was, if the target panics.
struct Shown<'a> {
    target: &'a Target,
    from: &'a str,
    input: &'a [u8],
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Shown { target, from, input } = self;
            eprintln!("target {}, from {from}, input b\"{}\"", target.name, input.escape_ascii());
        }
    }
}

fn run(target: &Target, from: &str, input: &[u8]) {
    let shown = Shown { target, from, input };
    target.run(input);
    drop(shown);
}

/// Runs the target over its corpus and over what `effort` makes of it; how many inputs that were.
pub fn drill(target: &Target, effort: Effort) -> usize {
    let inputs = corpus(target);
    let mut random = Random(effort.seed);
    let mut count = 0;
    for (name, input) in &inputs {
        run(target, name, input);
        count += 1;
        for end in evenly(input.len(), effort.truncations.div_ceil(target.cost)) {
            run(target, name, &input[..end]);
            count += 1;
        }
        for at in evenly(input.len(), effort.changes.div_ceil(target.cost)) {
            let mut changed = input.clone();
            changed[at] ^= 1 << random.below(8);
            run(target, name, &changed);
            count += 1;
        }
    }
    for _ in 0..effort.mutations.div_ceil(target.cost) {
        let (name, input) = &inputs[random.below(inputs.len())];
        let other = &inputs[random.below(inputs.len())].1;
        let input = mutate(&mut random, input, other);
        run(target, name, &input);
        count += 1;
    }
    count
}

/// At most `count` places below `len`, with even distances.
fn evenly(len: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(len.div_ceil(count.max(1)).max(1)).take(count)
}

const SPICE: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b" ",
    b":",
    b"\0",
    b"%",
    b"\x7f",
    b"\xff",
    b"\xff\xff\xff\xff",
    b";",
    b",",
    b"0",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\\ud800",
    b"1e308",
    b"null",
];

fn mutate(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = at + random.below(bytes.len() - at + 1).min(16);
        match random.below(7) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..at, SPICE[random.below(SPICE.len())].iter().copied())),
            2 => drop(bytes.splice(at..end, SPICE[random.below(SPICE.len())].iter().copied())),
            3 | 4 if at < bytes.len() => bytes[at] = random.next() as u8,
            5 => {
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
            _ => {
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
        }
    }
    bytes
}
