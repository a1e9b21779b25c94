//! An input as numbers and pieces of bytes, and where to cut a stream.

/// Takes values off the front; past the end everything is zero or empty.
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn u16(&mut self) -> u16 {
        self.take(2).iter().rev().fold(0, |number, byte| number << 8 | u16::from(*byte))
    }

    pub(crate) fn u64(&mut self) -> u64 {
        self.take(8).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// So many bytes, or what is left.
    pub(crate) fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(bytes.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Bytes with their length in a byte before them.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let bytes = usize::from(self.byte());
        self.take(bytes)
    }

    /// Everything that is left.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }
}

/// SplitMix64: small, and the same everywhere.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// Ends of the pieces in which `bytes` arrive, ascending, the last one its length: chosen by `seed`, mostly
/// small pieces.
pub(crate) fn cuts(bytes: usize, seed: u8) -> Vec<usize> {
    if seed == 0 {
        return (1..=bytes).collect();
    }
    let (mut random, mut at, mut ends) = (Random(u64::from(seed)), 0, Vec::new());
    while at < bytes {
        let most = if random.below(4) == 0 { 64 } else { 5 };
        at = (at + 1 + random.below(most)).min(bytes);
        ends.push(at);
    }
    ends
}
