//! Sixteen bytes at a time: where a string stops, where a run of digits ends.
//! Lives here: the SSE2 loops and their scalar twins (other targets, and the last bytes of a body).
//! Not here: what the bytes mean (`scan`).

/// First index from `at` on that holds a quote, a backslash or a control character; the length of
/// `body` if none does. `high` gets bits set if a byte at or above 0x80 was near: a hint that may be
/// set too often but never too seldom.
#[inline(always)]
pub(super) fn string_stop(body: &[u8], mut at: usize, high: &mut u32) -> usize {
    #[cfg(target_arch = "x86_64")]
    while let Some(chunk) = body.get(at..).and_then(|rest| rest.first_chunk()) {
        let (stops, wide) = sse2::string_masks(chunk);
        *high |= wide;
        if stops != 0 {
            return at + stops.trailing_zeros() as usize;
        }
        at += chunk.len();
    }
    string_stop_scalar(body, at, high)
}

/// First index from `at` on that holds no ASCII digit; the length of `body` if all do.
#[inline(always)]
pub(super) fn digits_end(body: &[u8], mut at: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    while let Some(chunk) = body.get(at..).and_then(|rest| rest.first_chunk()) {
        // No loop over digits: numbers of changing length would miss a branch each.
        let others = !sse2::digit_mask(chunk) & 0xffff;
        if others != 0 {
            return at + others.trailing_zeros() as usize;
        }
        at += chunk.len();
    }
    digits_end_scalar(body, at)
}

#[cfg_attr(target_arch = "x86_64", cold)]
fn string_stop_scalar(body: &[u8], mut at: usize, high: &mut u32) -> usize {
    while let Some(&byte) = body.get(at) {
        *high |= u32::from(byte & 0x80);
        if byte == b'"' || byte == b'\\' || byte < b' ' {
            break;
        }
        at += 1;
    }
    at
}

#[cfg_attr(target_arch = "x86_64", cold)]
fn digits_end_scalar(body: &[u8], mut at: usize) -> usize {
    while body.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    at
}

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use core::arch::x86_64::*;

    /// A bit for each byte that stops a string, and one for each byte outside ASCII.
    #[inline(always)]
    pub(super) fn string_masks(bytes: &[u8; 16]) -> (u32, u32) {
        // SAFETY: SSE2 is part of x86_64 itself. The reference covers the sixteen bytes that `loadu`
        // reads, at any alignment; everything else works on registers.
        unsafe {
            let chunk = _mm_loadu_si128(bytes.as_ptr().cast());
            let quote = _mm_cmpeq_epi8(chunk, _mm_set1_epi8(b'"' as i8));
            let escape = _mm_cmpeq_epi8(chunk, _mm_set1_epi8(b'\\' as i8));
            // SSE2 compares signed only; `min` is the unsigned way to say "at most 0x1f".
            let control = _mm_cmpeq_epi8(_mm_min_epu8(chunk, _mm_set1_epi8(0x1f)), chunk);
            let stops = _mm_or_si128(_mm_or_si128(quote, escape), control);
            (_mm_movemask_epi8(stops) as u32, _mm_movemask_epi8(chunk) as u32)
        }
    }

    /// A bit for each byte that is a digit.
    #[inline(always)]
    pub(super) fn digit_mask(bytes: &[u8; 16]) -> u32 {
        // SAFETY: as above: SSE2 is always there, and the reference covers what `loadu` reads.
        unsafe {
            let chunk = _mm_loadu_si128(bytes.as_ptr().cast());
            let offset = _mm_sub_epi8(chunk, _mm_set1_epi8(b'0' as i8));
            let digits = _mm_cmpeq_epi8(_mm_min_epu8(offset, _mm_set1_epi8(9)), offset);
            _mm_movemask_epi8(digits) as u32
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_and_scalar_loops_stop_at_the_same_byte() {
        // Every byte value at every lane, after fillers that never stop a string or a number.
        for byte in 0..=255u8 {
            for at in 0..40 {
                let mut text = [b'7'; 40];
                text[at] = byte;
                let (mut wide, mut scalar) = (0, 0);
                let stop = string_stop(&text, 0, &mut wide);
                assert_eq!(stop, string_stop_scalar(&text, 0, &mut scalar), "{byte:#x} at {at}");
                assert_eq!(wide != 0, scalar != 0, "{byte:#x} at {at}");
                assert_eq!(digits_end(&text, 0), digits_end_scalar(&text, 0), "{byte:#x} at {at}");
            }
        }
    }
}
