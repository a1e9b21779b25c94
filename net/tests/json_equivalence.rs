//! Our scanner and serde_json side by side over random documents and random damage.
//! Known differences, kept out of the comparison: none. Both stop at 127 levels, both refuse numbers
//! beyond a double (they could part only within one unit of the last place, which is not generated).

use runelog_net::json::{scan, write};
use serde_json::value::RawValue;

/// SplitMix64: enough for test data, and every failure is one number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }
}

const PIECES: &[&str] = &[
    "a",
    "data",
    " ",
    "é",
    "€",
    "😀",
    "\\n",
    "\\\"",
    "\\\\",
    "\\u0000",
    "\\u00e9",
    "\\ud83d\\ude00",
    "*",
    "/",
    "\\/",
    "0123456789abcdef",
    "\u{7f}",
];
const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "1",
    "-1",
    "12345678901234567890",
    "1.5",
    "-0.25",
    "1e5",
    "1E-7",
    "2e+300",
    "123456789012345678901234567890",
    "0.0001234567890123456789",
    "1e308",
    "1e-400",
    "0e999",
];
const SPACES: &[&str] = &["", "", "", "", " ", "\n", "\t \r\n", "                     "];
/// Bytes that matter to a JSON reader, and some that never may stand outside strings.
const DAMAGE: &[u8] = b"\"\\{}[]:,0129.-+eEntfu \n\t\0\x1f\x7f\x80\xc3\xff/'a";

fn space(random: &mut Random, out: &mut String) {
    out.push_str(random.pick(SPACES));
}

fn string(random: &mut Random, out: &mut String) {
    out.push('"');
    for _ in 0..random.below(5) {
        out.push_str(random.pick(PIECES));
    }
    out.push('"');
}

fn value(random: &mut Random, depth: usize, out: &mut String) {
    let containers = if depth == 0 { 0 } else { 4 };
    match random.below(6 + containers) {
        0 | 1 => string(random, out),
        2 | 3 => out.push_str(random.pick(NUMBERS)),
        4 | 5 => out.push_str(random.pick(&["true", "false", "null"])),
        kind => {
            let object = kind < 8;
            out.push(if object { '{' } else { '[' });
            for index in 0..random.below(4) {
                if index > 0 {
                    out.push(',');
                }
                space(random, out);
                if object {
                    string(random, out);
                    space(random, out);
                    out.push(':');
                    space(random, out);
                }
                value(random, depth - 1, out);
                space(random, out);
            }
            space(random, out);
            out.push(if object { '}' } else { ']' });
        }
    }
}

fn document(random: &mut Random) -> String {
    let mut out = String::new();
    space(random, &mut out);
    match random.below(8) {
        0 => {
            // Near the bound of nesting.
            let levels = 120 + random.below(12);
            let object = random.below(2) == 0;
            out.push_str(&(if object { "{\"a\":" } else { "[" }).repeat(levels));
            out.push('1');
            out.push_str(&(if object { "}" } else { "]" }).repeat(levels));
        }
        _ => value(random, 5, &mut out),
    }
    space(random, &mut out);
    out
}

fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..random.below(3) {
        let at = random.below(bytes.len() + 1);
        let byte = DAMAGE[random.below(DAMAGE.len())];
        match random.below(5) {
            0 if at < bytes.len() => drop(bytes.remove(at)),
            1 => bytes.insert(at, byte),
            2 => bytes.truncate(at),
            3 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            _ if at < bytes.len() => bytes[at] = byte,
            _ => {}
        }
    }
}

fn first_seed() -> u64 {
    std::env::var("RUNELOG_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_260_101)
}

#[test]
fn the_scanner_takes_exactly_what_serde_json_takes() {
    let mut taken = 0;
    let count = 60_000;
    for seed in first_seed()..first_seed() + count {
        let random = &mut Random(seed);
        let mut bytes = document(random).into_bytes();
        damage(random, &mut bytes);
        let ours = scan::validate(&bytes);
        let theirs = serde_json::from_slice::<serde_json::Value>(&bytes);
        assert_eq!(
            ours.is_ok(),
            theirs.is_ok(),
            "J-1, J-8, J-9: RUNELOG_SEED={seed}: {ours:?} {theirs:?}\n{}",
            String::from_utf8_lossy(&bytes)
        );
        taken += u64::from(ours.is_ok());
    }
    assert!(taken > count / 5 && taken < count * 4 / 5, "{taken} of {count}: the damage is out of balance");
}

#[derive(serde::Deserialize)]
struct Write<'a> {
    #[serde(borrow)]
    records: Vec<Record<'a>>,
    node: Option<String>,
}

#[derive(serde::Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    meta: Option<&'a RawValue>,
    tag: Option<String>,
    node: Option<String>,
}

fn write_body(random: &mut Random) -> String {
    let mut records = String::new();
    for index in 0..1 + random.below(4) {
        records.push_str(if index > 0 { "," } else { "" });
        space(random, &mut records);
        let mut members = Vec::new();
        for name in ["data", "meta", "tag", "node", "other"] {
            if name != "data" && random.below(2) == 0 {
                continue;
            }
            let mut member = format!("\"{name}\"");
            space(random, &mut member);
            member.push(':');
            space(random, &mut member);
            match name {
                "tag" | "node" if random.below(6) == 0 => member.push_str("null"),
                "tag" | "node" => string(random, &mut member),
                _ => value(random, 3, &mut member),
            }
            space(random, &mut member);
            let at = random.below(members.len() + 1);
            members.insert(at, member);
        }
        records.push_str(&format!("{{{}}}", members.join(",")));
        space(random, &mut records);
    }
    let mut node = String::new();
    string(random, &mut node);
    match random.below(3) {
        0 => format!("{{\"records\":[{records}]}}"),
        1 => format!("{{\"node\":{node}, \"records\" : [{records}]}}"),
        _ => format!(" {{\"x\":{{}},\"records\":[{records}],\"node\":{node} }}\n"),
    }
}

#[test]
fn spans_are_the_bytes_that_serde_json_calls_raw() {
    let mut scratch = write::WriteScratch::default();
    let mut taken = 0;
    for seed in first_seed()..first_seed() + 20_000 {
        let random = &mut Random(seed);
        let mut body = write_body(random).into_bytes();
        if random.below(3) == 0 {
            damage(random, &mut body);
        }
        let shown = || format!("J-21: RUNELOG_SEED={seed}\n{}", String::from_utf8_lossy(&body));
        let ours = write::parse_write(&body, &mut scratch);
        // The value as a whole is judged too: raw values are passed over without a look at ranges.
        let whole = serde_json::from_slice::<serde_json::Value>(&body);
        let theirs = whole.and_then(|_| serde_json::from_slice::<Write<'_>>(&body));
        // serde takes an array for a struct's members in order; ours never does (J-2).
        let positional = ours.is_err() && theirs.is_ok() && body.trim_ascii_start().first() != Some(&b'{');
        if positional {
            continue;
        }
        assert_eq!(ours.is_ok(), theirs.is_ok(), "{ours:?} {}", shown());
        let Ok(theirs) = theirs else { continue };
        taken += 1;
        assert_eq!(scratch.records.len(), theirs.records.len(), "{}", shown());
        for (record, raw) in scratch.records.iter().zip(&theirs.records) {
            let text = |span: runelog_engine::event::Span| {
                span.of(&body, &scratch.side).map(|bytes| std::str::from_utf8(bytes).expect("UTF-8"))
            };
            let node = raw.node.as_deref().or(theirs.node.as_deref());
            let meta = raw.meta.map(RawValue::get);
            assert_eq!(text(record.data), Some(raw.data.get()), "{}", shown());
            assert_eq!(text(record.meta), meta, "{}", shown());
            assert_eq!(text(record.tag), raw.tag.as_deref(), "{}", shown());
            assert_eq!(text(record.node), node, "{}", shown());
        }
    }
    assert!(taken > 5_000, "{taken}: too few bodies were legal");
}
