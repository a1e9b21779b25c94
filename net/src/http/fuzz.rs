//! Seeded mutations of requests and chunked bodies: nothing panics, and where the input is cut never
//! matters. `RUNELOG_FUZZ_SEED` and `RUNELOG_FUZZ_ROUNDS` start another or a longer run.

use super::chunked::Decoder;
use super::request::{Framing, HEADERS_MAX, HeadScanner, Limits, Parsed, parse_head};
use crate::route::{Routed, route};

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

const HEADS: [&[u8]; 7] = [
    b"GET /v0/topics?prefix=a&page_size=3 HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n",
    b"POST /v0/topics/a%2Fb/diff HTTP/1.1\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}",
    b"POST http://h:1/v0/topics/t HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\nExpect: 100-continue\r\n\r\n",
    b"\r\n\nDELETE /v0/topics/gr\xc3\xbcn?if_empty=1#x HTTP/1.0\nConnection: keep-alive, close\n\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"PUT /v0/topics/t HTTP/1.1\r\nIdempotency-Key: k\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /healthz HTTP/1.1\r\nA: b\r\n c\r\nB : d\r\n\r\n",
];
const BODIES: [&[u8]; 4] = [
    b"3\r\nabc\r\n0\r\n\r\n",
    b"A;x=\"y\"\r\n0123456789\r\n1 \r\n!\r\n0;z\r\nSum: 1\r\nB: 2\r\n\r\nGET /",
    b"FFFFFFFFFFFFFFFF\r\nabc",
    b"0\r\n\r\n",
];
const SPICE: [&[u8]; 16] = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b"%", b"#", b"?", b"\x7f", b"\xff", b";", b",", b"0",
    b"/",
];

fn mutate(random: &mut Random, seeds: &[&[u8]]) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].to_vec();
    for _ in 0..random.below(5) {
        let at = random.below(bytes.len() + 1);
        let end = at + random.below(bytes.len() - at + 1).min(12);
        match random.below(6) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..at, SPICE[random.below(SPICE.len())].iter().copied())),
            2 => drop(bytes.splice(at..end, SPICE[random.below(SPICE.len())].iter().copied())),
            3 if at < bytes.len() => bytes[at] = random.next() as u8,
            4 => {
                let again = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, again));
            }
            _ => {
                let other = seeds[random.below(seeds.len())];
                bytes.truncate(at);
                bytes.extend_from_slice(&other[random.below(other.len())..]);
            }
        }
    }
    bytes
}

/// Feeds `input` up to each of the ends in turn; the first verdict stands.
fn fed<'a>(input: &'a [u8], ends: impl Iterator<Item = usize>, limits: &Limits) -> Parsed<'a> {
    let mut scanner = HeadScanner::new();
    for end in ends {
        let parsed = scanner.parse(&input[..end], limits);
        if parsed != Parsed::NeedMore {
            return parsed;
        }
    }
    scanner.parse(input, limits)
}

#[test]
fn a_head_is_judged_the_same_however_it_is_cut() {
    let (seed, rounds) = (setting("RUNELOG_FUZZ_SEED", 1), setting("RUNELOG_FUZZ_ROUNDS", 4_000));
    println!("seed {seed}, {rounds} rounds");
    let mut random = Random(seed);
    let small = Limits { head_bytes_max: 90, target_bytes_max: 30 };
    let mut heads = 0;
    for round in 0..rounds {
        let input = mutate(&mut random, &HEADS);
        for limits in [Limits::default(), small] {
            let whole = parse_head(&input, &limits);
            let shown = input.escape_ascii();
            for cut in 0..=input.len() {
                assert_eq!(fed(&input, std::iter::once(cut), &limits), whole, "{round} {cut} {shown}");
            }
            assert_eq!(fed(&input, 0..=input.len(), &limits), whole, "{round} {shown}");
            if let Parsed::Head(head) = whole {
                heads += 1;
                assert!(head.head_bytes <= input.len().min(limits.head_bytes_max), "{round} {shown}");
                assert!(head.target.len() <= limits.target_bytes_max, "{round} {shown}");
                let routed = route(head.method, head.path);
                if let Routed::To(topic) = routed
                    && let Some(topic) = topic.topic()
                {
                    let _ = topic.decode(&mut Vec::new()); // must not panic
                }
            }
        }
    }
    assert!(heads as u64 > rounds / 10, "{heads} of {rounds} rounds made a head: too wild to show much");
}

/// Above the size below which every call tries: a head must be noticed at once, a refusal at the
/// latest with the end of its line.
#[test]
fn a_large_head_is_judged_the_same_however_it_is_cut() {
    let field = format!("X: {}\r\n", "y".repeat(60));
    let lines = |count| format!("GET /{} HTTP/1.1\r\n{}", "z".repeat(700), field.repeat(count));
    let inputs = [
        format!("{}\r\n", lines(20)),
        format!("{}A : b\r\n\r\n", lines(20)),
        format!("{}\r\n", lines(HEADERS_MAX + 1)),
    ];
    for input in &inputs {
        let (input, limits) = (input.as_bytes(), Limits::default());
        let whole = parse_head(input, &limits);
        for cut in 0..=input.len() {
            assert_eq!(fed(input, std::iter::once(cut), &limits), whole, "{cut}");
        }
        assert_eq!(fed(input, 0..=input.len(), &limits), whole);
    }
    let verdicts = inputs.each_ref().map(|input| parse_head(input.as_bytes(), &Limits::default()));
    assert!(matches!(verdicts[0], Parsed::Head(_)));
    assert_eq!(verdicts[1], Parsed::Bad(Framing::Malformed));
    assert_eq!(verdicts[2], Parsed::Bad(Framing::HeadTooLarge));
}

#[test]
fn a_chunked_body_is_decoded_the_same_however_it_is_cut() {
    let (seed, rounds) = (setting("RUNELOG_FUZZ_SEED", 1), setting("RUNELOG_FUZZ_ROUNDS", 4_000));
    println!("seed {seed}, {rounds} rounds");
    let mut random = Random(seed);
    // Outcome and bytes of a body fed in pieces; what was decoded before an error counts as well.
    let feed = |input: &[u8], ends: &mut dyn Iterator<Item = usize>| {
        let (mut decoder, mut out, mut at) = (Decoder::new(), Vec::new(), 0);
        for end in ends {
            match decoder.push(&input[at..end], &mut out) {
                Ok(progress) if progress.done => return (Ok((at + progress.consumed, true)), out),
                Ok(progress) => {
                    assert_eq!(progress.consumed, end - at, "short of the end, all is taken");
                    at = end;
                }
                Err(error) => return (Err(error), out),
            }
        }
        assert_eq!(decoder.decoded_total(), out.len() as u64);
        (Ok((at, decoder.is_done())), out)
    };
    for round in 0..rounds {
        let input = mutate(&mut random, &BODIES);
        let shown = input.escape_ascii();
        let whole = feed(&input, &mut std::iter::once(input.len()));
        assert!(whole.1.len() <= input.len(), "{round} {shown}");
        for cut in 0..=input.len() {
            assert_eq!(feed(&input, &mut [cut, input.len()].into_iter()), whole, "{round} {cut} {shown}");
        }
        assert_eq!(feed(&input, &mut (0..=input.len())), whole, "{round} {shown}");
    }
}
