//! Numbers from a seed, and records from their number.

/// SplitMix64: small, and good enough to choose what a test does next.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a client sent as one record. It follows from the number of its write and its place in it, so
/// that nothing but the two has to be remembered to know every byte.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rec {
    pub(crate) data: String,
    pub(crate) tag: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) meta: Option<String>,
}

impl Rec {
    /// Record `index` of `count` of write `write`.
    pub(crate) fn of(write: u64, index: u64, count: u64) -> Rec {
        let mut random = Random(write << 20 ^ index);
        // Mostly small; now and then large enough that chunks, blocks and files end in odd places.
        let pad = match random.below(100) {
            0 => 20_000 + random.below(100_000),
            1..20 => 1000 + random.below(6000),
            _ => random.below(400),
        };
        let letter = char::from(b'a' + random.below(26) as u8);
        let pad: String = std::iter::repeat_n(letter, pad as usize).collect();
        let meta = random.one_in(4).then(|| format!("{{ \"m\" :{}}}", random.below(1000)));
        let node = random.one_in(3).then(|| format!("node-{}", random.below(9)));
        let tag = Some(tag_of(write));
        Rec {
            data: format!("{{\"w\":{write},\"i\":{index},\"n\":{count}, \"é\\u00e9\":\"{pad}\"}}"),
            tag,
            node,
            meta,
        }
    }

    fn put(&self, body: &mut String) {
        body.push_str("{\"data\":");
        body.push_str(&self.data);
        for (name, text) in [("tag", &self.tag), ("node", &self.node)] {
            if let Some(text) = text {
                body.push_str(&format!(",\"{name}\":\"{text}\""));
            }
        }
        if let Some(meta) = &self.meta {
            body.push_str(&format!(",\"meta\":{meta}"));
        }
        body.push('}');
    }
}

/// Writes come in groups of eight by their number; `g<group>/` is the prefix of the group's tags.
pub(crate) fn tag_of(write: u64) -> String {
    format!("g{}/w{write}", write >> 3)
}

/// The body of a write.
pub(crate) fn body_of(write: u64, count: u64, key: Option<&str>) -> String {
    let mut body = String::from("{\"records\":[");
    for index in 0..count {
        if index > 0 {
            body.push(',');
        }
        Rec::of(write, index, count).put(&mut body);
    }
    body.push(']');
    if let Some(key) = key {
        body.push_str(&format!(",\"idempotency_key\":\"{key}\""));
    }
    body.push('}');
    body
}
