//! Sixty-four bytes at a time: where a string stops, where a run of digits ends.
//! Lives here: the masks of a block, by SSE2 or byte by byte, and the search in them.
//! Not here: what the bytes mean (`scan`).
//!
//! A block is examined once for all the tokens in it. Looking for each token's end with loads of its
//! own was half as fast on records of many small members: every load had to wait for the end before.

/// Bytes in a block, and bits in a mask.
const BLOCK_BYTES: usize = u64::BITS as usize;

/// A bit for each byte of a block, the first byte in the lowest.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Masks {
    /// Quotes, backslashes and control characters: what ends the plain part of a string.
    stops: u64,
    /// Everything but ASCII digits.
    others: u64,
    /// Whether any byte is outside ASCII.
    high: bool,
}

/// The block around the current position.
pub(super) struct Window {
    base: usize,
    masks: Masks,
    /// Whether any block so far held a byte outside ASCII.
    pub(super) high: bool,
}

impl Window {
    pub(super) fn new() -> Window {
        // No position is within a block of this base, so the first search loads one.
        Window { base: usize::MAX / 2, masks: Masks::default(), high: false }
    }

    /// First index from `at` on that holds a quote, a backslash or a control character; the length
    /// of `body` if none does.
    #[inline(always)]
    pub(super) fn string_stop(&mut self, body: &[u8], at: usize) -> usize {
        self.search(body, at, |masks| masks.stops)
    }

    /// First index from `at` on that holds no digit; the length of `body` if all do.
    #[inline(always)]
    pub(super) fn digits_end(&mut self, body: &[u8], at: usize) -> usize {
        self.search(body, at, |masks| masks.others)
    }

    /// First index from `at` on, which is at most the body's length, whose bit is set in the mask.
    #[inline(always)]
    fn search(&mut self, body: &[u8], mut at: usize, mask: impl Fn(&Masks) -> u64) -> usize {
        loop {
            let offset = at.wrapping_sub(self.base);
            if offset < BLOCK_BYTES {
                let found = mask(&self.masks) >> offset;
                if found != 0 {
                    return at + found.trailing_zeros() as usize;
                }
                at = self.base + BLOCK_BYTES;
            }
            if at >= body.len() {
                return body.len();
            }
            self.load(body, at);
        }
    }

    /// Examines the block that holds `at`.
    #[inline(always)]
    fn load(&mut self, body: &[u8], at: usize) {
        // Aligned to the body's start, so that the address does not depend on the token before.
        self.base = at & !(BLOCK_BYTES - 1);
        self.masks = match body.get(self.base..).and_then(|rest| rest.first_chunk()) {
            Some(block) => masks(block),
            None => self.load_last(body),
        };
        self.high |= self.masks.high;
    }

    /// The last block of a body: moved back to be whole, or filled up with zeros, which stop
    /// everything.
    #[inline(never)]
    fn load_last(&mut self, body: &[u8]) -> Masks {
        if let Some(block) = body.last_chunk() {
            self.base = body.len() - BLOCK_BYTES;
            return masks(block);
        }
        let mut block = [0; BLOCK_BYTES];
        block[..body.len()].copy_from_slice(body);
        masks(&block)
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn masks(block: &[u8; BLOCK_BYTES]) -> Masks {
    use core::arch::x86_64::*;

    let mut masks = Masks::default();
    let mut high = 0;
    for (lane, bytes) in block.as_chunks::<16>().0.iter().enumerate() {
        // SAFETY: SSE2 is part of x86_64 itself. `bytes` covers the sixteen bytes that `loadu` reads,
        // at any alignment; everything else works on registers.
        let (stops, digits, wide) = unsafe {
            let chunk = _mm_loadu_si128(bytes.as_ptr().cast());
            let quote = _mm_cmpeq_epi8(chunk, _mm_set1_epi8(b'"' as i8));
            let escape = _mm_cmpeq_epi8(chunk, _mm_set1_epi8(b'\\' as i8));
            // SSE2 compares signed only; `min` is the unsigned way to say "at most".
            let control = _mm_cmpeq_epi8(_mm_min_epu8(chunk, _mm_set1_epi8(0x1f)), chunk);
            let stops = _mm_or_si128(_mm_or_si128(quote, escape), control);
            let value = _mm_sub_epi8(chunk, _mm_set1_epi8(b'0' as i8));
            let digits = _mm_cmpeq_epi8(_mm_min_epu8(value, _mm_set1_epi8(9)), value);
            (_mm_movemask_epi8(stops), _mm_movemask_epi8(digits), _mm_movemask_epi8(chunk))
        };
        masks.stops |= u64::from(stops as u32) << (16 * lane);
        masks.others |= u64::from(!digits as u32 & 0xffff) << (16 * lane);
        high |= wide;
    }
    masks.high = high != 0;
    masks
}

#[cfg(not(target_arch = "x86_64"))]
use masks_by_byte as masks;

/// What `masks` computes, without SSE2.
#[cfg(any(test, feature = "fuzzing", not(target_arch = "x86_64")))]
fn masks_by_byte(block: &[u8; BLOCK_BYTES]) -> Masks {
    let mut masks = Masks::default();
    for (bit, &byte) in block.iter().enumerate() {
        let stops = byte == b'"' || byte == b'\\' || byte < b' ';
        masks.stops |= u64::from(stops) << bit;
        masks.others |= u64::from(!byte.is_ascii_digit()) << bit;
        masks.high |= !byte.is_ascii();
    }
    masks
}

/// Panics unless both makes of masks agree on every block of a body, wherever it begins.
#[cfg(feature = "fuzzing")]
pub(crate) fn check_lanes(body: &[u8]) {
    for block in body.windows(BLOCK_BYTES).step_by(7) {
        let block = block.first_chunk().expect("a window of that size");
        assert_eq!(masks(block), masks_by_byte(block), "{}", block.escape_ascii());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_makes_of_masks_agree_on_every_byte_in_every_place() {
        for byte in 0..=255u8 {
            for at in 0..BLOCK_BYTES {
                let mut block = [b'7'; BLOCK_BYTES];
                block[at] = byte;
                assert_eq!(masks(&block), masks_by_byte(&block), "{byte:#x} at {at}");
            }
        }
    }

    #[test]
    fn a_search_finds_the_first_byte_in_bodies_of_every_length() {
        for length in 0..200 {
            for at in 0..=length {
                let mut body = vec![b'7'; length];
                if let Some(byte) = body.get_mut(at) {
                    *byte = b'"';
                }
                for start in [0, at / 2, at] {
                    let mut window = Window::new();
                    assert_eq!(window.string_stop(&body, start), at, "from {start}, {length} bytes");
                    assert_eq!(window.digits_end(&body, start), at, "from {start}, {length} bytes");
                    let behind = (at + 1).min(length);
                    assert_eq!(window.string_stop(&body, behind), length, "behind, {length} bytes");
                }
            }
        }
    }
}
