//! Strict RFC 8259 over bytes, without building anything: is this a value, and where does it end?
//! Lives here: strings, numbers, literals, nesting (J-1, J-8, J-9); no recursion, no allocation.
//! Not here: members by name and typed values (`reader`), which member means what (`write`, …).
//! Always true: a function that returns an index has seen every byte before it and found it well
//! formed, except for UTF-8, which `finish` judges once for the whole body.

use super::fault::{Fault, Why};
use super::lanes::Window;

/// Open containers at most, in a whole document (J-9).
pub const DEPTH_MAX: u32 = 127;

/// Below this many digits before the point, and with a short exponent, no number reaches 1e308.
const SAFE_INTEGER_DIGITS: usize = 200;

/// Checks that `body` is exactly one JSON value by the J-rules.
pub fn validate(body: &[u8]) -> Result<(), Fault> {
    let mut scan = Scan::new(body);
    let at = scan.space(0);
    let end = scan.value(at, 0)?;
    scan.finish(end)
}

/// A body under examination. Positions are handed in and out, so that they live in registers.
pub(super) struct Scan<'a> {
    pub(super) body: &'a [u8],
    window: Window,
}

/// A string's raw text: its first byte after the opening quote, and its closing quote.
#[derive(Clone, Copy)]
pub(super) struct Text {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) escaped: bool,
}

impl<'a> Scan<'a> {
    pub(super) fn new(body: &'a [u8]) -> Scan<'a> {
        Scan { body, window: Window::new() }
    }

    /// The byte at `at`; past the end a zero, which no rule accepts anywhere.
    #[inline(always)]
    pub(super) fn byte(&self, at: usize) -> u8 {
        if at < self.body.len() { self.body[at] } else { 0 }
    }

    /// First index from `at` on that is not white space.
    #[inline(always)]
    pub(super) fn space(&self, at: usize) -> usize {
        if self.byte(at) > b' ' { at } else { self.space_run(at) }
    }

    fn space_run(&self, mut at: usize) -> usize {
        while matches!(self.byte(at), b' ' | b'\n' | b'\r' | b'\t') {
            at += 1;
        }
        at
    }

    /// What to say about an unexpected byte.
    #[cold]
    pub(super) fn unexpected(&self, at: usize) -> Fault {
        let why = match self.body.get(at..).unwrap_or_default() {
            [] => Why::End,
            [0xef, 0xbb, 0xbf, ..] if at == 0 => Why::ByteOrderMark,
            _ => Why::Syntax,
        };
        Fault::new(at, why)
    }

    /// After the top-level value, which ended at `at`: nothing but white space, and all of it UTF-8.
    pub(super) fn finish(&self, at: usize) -> Result<(), Fault> {
        let at = self.space(at);
        if at != self.body.len() {
            return Err(Fault::new(at, Why::Trailing));
        }
        if self.window.high
            && let Err(error) = std::str::from_utf8(self.body)
        {
            return Err(Fault::new(error.valid_up_to(), Why::Utf8));
        }
        Ok(())
    }

    /// One value that starts at `at`, below `depth` open containers; the index after it.
    #[inline]
    pub(super) fn value(&mut self, mut at: usize, depth: u32) -> Result<usize, Fault> {
        let room = DEPTH_MAX - depth;
        let mut left = room;
        // The open containers, the innermost in the lowest bit: 1 an object, 0 an array.
        let mut kinds = 0u128;
        'value: loop {
            match self.byte(at) {
                b'"' => at = self.string(at)?.end + 1,
                b'-' | b'0'..=b'9' => at = self.number(at)?,
                first @ (b'{' | b'[') => {
                    if left == 0 {
                        return Err(Fault::new(at, Why::Depth));
                    }
                    left -= 1;
                    kinds = kinds << 1 | u128::from(first == b'{');
                    at = self.space(at + 1);
                    // An empty container falls through to the closing bracket below.
                    if first == b'{' {
                        if self.byte(at) != b'}' {
                            at = self.member_name(at)?.1;
                            continue 'value;
                        }
                    } else if self.byte(at) != b']' {
                        continue 'value;
                    }
                }
                _ => at = self.literal(at)?,
            }
            loop {
                if left == room {
                    return Ok(at);
                }
                at = self.space(at);
                let in_object = kinds & 1 == 1;
                match self.byte(at) {
                    b',' => {
                        at = self.space(at + 1);
                        if in_object {
                            at = self.member_name(at)?.1;
                        }
                        continue 'value;
                    }
                    b'}' if in_object => {}
                    b']' if !in_object => {}
                    _ => return Err(self.unexpected(at)),
                }
                at += 1;
                left += 1;
                kinds >>= 1;
            }
        }
    }

    /// A member's name at `at` and its colon; the name, and the index of the value.
    #[inline(always)]
    pub(super) fn member_name(&mut self, at: usize) -> Result<(Text, usize), Fault> {
        let name = self.string(at)?;
        let mut at = name.end + 1;
        if self.byte(at) != b':' {
            at = self.space_run(at);
            if self.byte(at) != b':' {
                return Err(self.unexpected(at));
            }
        }
        Ok((name, self.space(at + 1)))
    }

    /// The string whose opening quote is expected at `at`.
    #[inline(always)]
    pub(super) fn string(&mut self, at: usize) -> Result<Text, Fault> {
        if self.byte(at) != b'"' {
            return Err(self.unexpected(at));
        }
        let start = at + 1;
        let end = self.window.string_stop(self.body, start);
        if self.byte(end) == b'"' {
            return Ok(Text { start, end, escaped: false });
        }
        self.string_rest(start, end)
    }

    /// A string from its first escape (or fault) at `at` on.
    #[inline(never)]
    fn string_rest(&mut self, start: usize, mut at: usize) -> Result<Text, Fault> {
        loop {
            match self.byte(at) {
                b'"' => return Ok(Text { start, end: at, escaped: true }),
                b'\\' => at = self.escape(at)?,
                _ if at >= self.body.len() => return Err(Fault::new(at, Why::End)),
                _ => return Err(Fault::new(at, Why::Control)),
            }
            at = self.window.string_stop(self.body, at);
        }
    }

    /// The escape whose backslash is at `at`; the index after it.
    fn escape(&self, at: usize) -> Result<usize, Fault> {
        match self.byte(at + 1) {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(at + 2),
            b'u' => match self.unit(at)? {
                0xd800..=0xdbff => {
                    let low = at + 6;
                    if self.byte(low) == b'\\'
                        && self.byte(low + 1) == b'u'
                        && matches!(self.unit(low)?, 0xdc00..=0xdfff)
                    {
                        Ok(low + 6)
                    } else {
                        Err(Fault::new(at, Why::Surrogate))
                    }
                }
                0xdc00..=0xdfff => Err(Fault::new(at, Why::Surrogate)),
                _ => Ok(at + 6),
            },
            _ => Err(Fault::new(at, Why::Escape)),
        }
    }

    /// The code unit of the `\uXXXX` whose backslash is at `at`.
    fn unit(&self, at: usize) -> Result<u32, Fault> {
        let digits = self.body.get(at + 2..at + 6);
        digits.and_then(code_unit).ok_or_else(|| Fault::new(at, Why::Escape))
    }

    /// The number that starts at `at`; the index after it.
    #[inline(always)]
    pub(super) fn number(&mut self, start: usize) -> Result<usize, Fault> {
        let int = start + usize::from(self.byte(start) == b'-');
        let mut at = self.window.digits_end(self.body, int);
        if at == int || (self.byte(int) == b'0' && at > int + 1) {
            return Err(self.unexpected(at));
        }
        let int_digits = at - int;
        if self.byte(at) == b'.' {
            let fraction = at + 1;
            at = self.window.digits_end(self.body, fraction);
            if at == fraction {
                return Err(self.unexpected(at));
            }
        }
        if self.byte(at) | 0x20 == b'e' || int_digits > SAFE_INTEGER_DIGITS {
            return self.large_number(start, at, int_digits);
        }
        Ok(at)
    }

    /// The rest of a number that has an exponent at `at` or very many digits: it may leave the
    /// double range, and only the exact conversion can tell near the edge.
    #[inline(never)]
    fn large_number(&mut self, start: usize, mut at: usize, int_digits: usize) -> Result<usize, Fault> {
        let mut exponent_digits = 0;
        if self.byte(at) | 0x20 == b'e' {
            let digits = at + 1 + usize::from(matches!(self.byte(at + 1), b'+' | b'-'));
            at = self.window.digits_end(self.body, digits);
            exponent_digits = at - digits;
            if exponent_digits == 0 {
                return Err(self.unexpected(at));
            }
        }
        // Two exponent digits are at most e99.
        if int_digits > SAFE_INTEGER_DIGITS || exponent_digits > 2 {
            let text = std::str::from_utf8(&self.body[start..at]).unwrap_or_default();
            if !text.parse::<f64>().is_ok_and(f64::is_finite) {
                return Err(Fault::new(start, Why::NumberRange));
            }
        }
        Ok(at)
    }

    /// `true`, `false` or `null` at `at`; the index after it.
    #[inline(always)]
    pub(super) fn literal(&self, at: usize) -> Result<usize, Fault> {
        let word: &[u8] = match self.byte(at) {
            b't' => b"true",
            b'f' => b"false",
            b'n' => b"null",
            _ => return Err(self.unexpected(at)),
        };
        if self.body[at..].starts_with(word) { Ok(at + word.len()) } else { Err(self.unexpected(at)) }
    }
}

/// The number that four hexadecimal digits stand for.
pub(super) fn code_unit(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)?))
}

#[cfg(test)]
mod tests;
