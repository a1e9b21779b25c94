//! Pulling known members out of a body: a cursor over `scan` that knows types and nulls.
//! Lives here: walking objects and arrays, reading strings, integers and booleans (J-4…J-7).
//! Not here: which members exist and what they mean (`write`, `control`).

use super::fault::{BodyError, Fault, Why};
use super::scan::{DEPTH_MAX, Scan, Text, code_unit};

/// Longer than every member name we know; a longer name is an unknown one.
const NAME_BYTES: usize = 24;

/// A cursor in a body. After `open_object` or `open_array`, call `next_member` or `next_element`
/// until it says the container is closed; each answer is followed by reading exactly one value.
pub(super) struct Reader<'a> {
    scan: Scan<'a>,
    /// Start of the next token: white space has been skipped.
    at: usize,
    depth: u32,
    /// The innermost container was just opened: no comma is due.
    fresh: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Reader<'a> {
        let scan = Scan::new(body);
        let at = scan.space(0);
        Reader { scan, at, depth: 0, fresh: false }
    }

    pub(super) fn body(&self) -> &'a [u8] {
        self.scan.body
    }

    /// Where the next token starts.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// First byte of the next token; zero at the end.
    #[inline(always)]
    pub(super) fn peek(&self) -> u8 {
        self.scan.byte(self.at)
    }

    /// After the last value: the text ends here, and all of it was UTF-8.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        self.scan.finish(self.at)
    }

    /// The fault of a value that has another type than `wanted`, or that is no value at all.
    #[cold]
    pub(super) fn mistyped(&mut self, wanted: &'static str) -> Fault {
        let at = self.at;
        // Malformed text deserves its own message; anything else is the wrong type.
        self.skip().err().unwrap_or(Fault::new(at, Why::Type(wanted)))
    }

    #[inline(always)]
    fn open(&mut self, bracket: u8, wanted: &'static str) -> Result<(), Fault> {
        if self.peek() != bracket {
            return Err(self.mistyped(wanted));
        }
        if self.depth == DEPTH_MAX {
            return Err(Fault::new(self.at, Why::Depth));
        }
        self.depth += 1;
        self.fresh = true;
        self.at = self.scan.space(self.at + 1);
        Ok(())
    }

    #[inline(always)]
    pub(super) fn open_object(&mut self) -> Result<(), Fault> {
        self.open(b'{', "an object")
    }

    #[inline(always)]
    pub(super) fn open_array(&mut self) -> Result<(), Fault> {
        self.open(b'[', "an array")
    }

    /// Steps to the next entry; false when `bracket` closed the container instead.
    #[inline(always)]
    fn step(&mut self, bracket: u8) -> Result<bool, Fault> {
        let fresh = std::mem::take(&mut self.fresh);
        let byte = self.peek();
        if byte == bracket {
            self.at = self.scan.space(self.at + 1);
            self.depth -= 1;
            return Ok(false);
        }
        if !fresh {
            if byte != b',' {
                return Err(self.scan.unexpected(self.at));
            }
            self.at = self.scan.space(self.at + 1);
        }
        Ok(true)
    }

    /// The next member's name, or none when the object is closed.
    #[inline(always)]
    pub(super) fn next_member(&mut self) -> Result<Option<Text>, Fault> {
        if !self.step(b'}')? {
            return Ok(None);
        }
        let (name, at) = self.scan.member_name(self.at)?;
        self.at = at;
        Ok(Some(name))
    }

    /// Whether another element follows in the array.
    #[inline(always)]
    pub(super) fn next_element(&mut self) -> Result<bool, Fault> {
        self.step(b']')
    }

    /// Passes one value of any type; its bytes without the white space around it.
    #[inline(always)]
    pub(super) fn skip(&mut self) -> Result<(usize, usize), Fault> {
        let start = self.at;
        let end = self.scan.value(start, self.depth)?;
        self.at = self.scan.space(end);
        Ok((start, end))
    }

    /// Passes one value and counts the members of its outermost object, duplicates included (W-15).
    #[inline]
    pub(super) fn skip_counting(&mut self) -> Result<(usize, usize, usize), Fault> {
        if self.peek() != b'{' {
            return self.skip().map(|(start, end)| (start, end, 0));
        }
        let start = self.at;
        self.open_object()?;
        let mut members = 0;
        let mut end = self.at;
        // The closing brace stands where the last step began.
        while self.next_member()?.is_some() {
            self.skip()?;
            members += 1;
            end = self.at;
        }
        Ok((start, end + 1, members))
    }

    /// Passes a `null`, if one is next.
    #[inline(always)]
    pub(super) fn null(&mut self) -> Result<bool, Fault> {
        if self.peek() != b'n' {
            return Ok(false);
        }
        self.skip().map(|_| true)
    }

    #[inline(always)]
    pub(super) fn string(&mut self) -> Result<Text, Fault> {
        if self.peek() != b'"' {
            return Err(self.mistyped("a string"));
        }
        let text = self.scan.string(self.at)?;
        self.at = self.scan.space(text.end + 1);
        Ok(text)
    }

    pub(super) fn boolean(&mut self) -> Result<bool, Fault> {
        let value = match self.peek() {
            b't' => true,
            b'f' => false,
            _ => return Err(self.mistyped("true or false")),
        };
        self.skip().map(|_| value)
    }

    /// An integer written as one (J-5). `-0` is refused like other servers of this contract do.
    pub(super) fn u64(&mut self) -> Result<u64, Fault> {
        self.unsigned(u64::MAX, "an integer from 0 to 18446744073709551615")
    }

    /// As `u64`, up to 2³²−1.
    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        let value = self.unsigned(u64::from(u32::MAX), "an integer from 0 to 4294967295")?;
        Ok(value as u32)
    }

    fn unsigned(&mut self, max: u64, wanted: &'static str) -> Result<u64, Fault> {
        let (start, end) = self.skip()?;
        let value = self.body()[start..end].iter().try_fold(0u64, |value, byte| {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            value.checked_mul(10)?.checked_add(u64::from(digit))
        });
        value.filter(|&value| value <= max).ok_or(Fault::new(start, Why::Type(wanted)))
    }

    /// A string that is one of `words`, byte for byte (J-7).
    pub(super) fn word<T: Copy>(
        &mut self,
        words: &[(&'static str, T)],
        wanted: &'static str,
    ) -> Result<T, Fault> {
        let at = self.at;
        if self.peek() != b'"' {
            return Err(self.mistyped(wanted));
        }
        let text = self.string()?;
        let found = words.iter().find(|(word, _)| word.as_bytes() == self.name(text, &mut [0; _]));
        found.map(|&(_, value)| value).ok_or(Fault::new(at, Why::Type(wanted)))
    }

    /// The decoded bytes of a short name; empty for one that is longer than any we know.
    #[inline(always)]
    pub(super) fn name<'b>(&self, text: Text, buffer: &'b mut [u8; NAME_BYTES]) -> &'b [u8]
    where
        'a: 'b,
    {
        let raw = &self.body()[text.start..text.end];
        if text.escaped { decode_name(raw, buffer) } else { raw }
    }

    /// A string as text of its own; where the body is not UTF-8, which `finish` refuses, as near to it
    /// as can be.
    pub(super) fn text(&mut self) -> Result<Box<str>, Fault> {
        let text = self.string()?;
        let bytes = self.owned(text);
        Ok(match String::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into(),
        })
    }

    /// The decoded bytes of a string, in memory of their own.
    pub(super) fn owned(&self, text: Text) -> Vec<u8> {
        let raw = &self.body()[text.start..text.end];
        if !text.escaped {
            return raw.to_vec();
        }
        let mut bytes = Vec::with_capacity(raw.len());
        unescape(raw, &mut bytes);
        bytes
    }
}

/// Walks the one object of a body and hands each of the `known` members to `take`, which reads its
/// value. Unknown ones are passed over (J-3), a second occurrence is refused (J-4).
pub(super) fn each_member<'a>(
    body: &'a [u8],
    known: &[&'static str],
    take: impl FnMut(&mut Reader<'a>, &'static str) -> Result<(), Wrong>,
) -> Result<(), BodyError> {
    let mut reader = Reader::new(body);
    members(&mut reader, known, take)?;
    Ok(reader.finish()?)
}

/// As [`each_member`], of the object that is next in the reader.
pub(super) fn members<'a>(
    reader: &mut Reader<'a>,
    known: &[&'static str],
    mut take: impl FnMut(&mut Reader<'a>, &'static str) -> Result<(), Wrong>,
) -> Result<(), BodyError> {
    let mut seen = Seen::default();
    reader.open_object()?;
    while let Some(name) = reader.next_member()? {
        let mut buffer = [0; _];
        let text = reader.name(name, &mut buffer);
        match known.iter().position(|member| member.as_bytes() == text) {
            Some(index) => {
                let member = known[index];
                seen.note(index as u32, name, member)?;
                take(reader, member).map_err(|wrong| wrong.within(member))?;
            }
            None => {
                reader.skip()?;
            }
        }
    }
    Ok(())
}

/// What is wrong with the value of a member: said of the member, or of something inside it already.
pub(super) enum Wrong {
    /// Still to be said of which member.
    Value(Fault),
    /// Says itself where it is.
    Inside(BodyError),
}

impl Wrong {
    #[cold]
    fn within(self, member: &str) -> BodyError {
        match self {
            Wrong::Value(fault) => fault.within(member),
            Wrong::Inside(error) => error,
        }
    }
}

impl From<Fault> for Wrong {
    fn from(fault: Fault) -> Wrong {
        Wrong::Value(fault)
    }
}

impl From<BodyError> for Wrong {
    fn from(error: BodyError) -> Wrong {
        Wrong::Inside(error)
    }
}

/// Which members of one object were there already (J-4).
#[derive(Default)]
pub(super) struct Seen(u32);

impl Seen {
    /// Notes known member number `bit`; a second time is a fault.
    #[inline(always)]
    pub(super) fn note(&mut self, bit: u32, name: Text, member: &str) -> Result<(), BodyError> {
        if self.0 & 1 << bit != 0 {
            return Err(Fault::new(name.start, Why::Twice).within(member));
        }
        self.0 |= 1 << bit;
        Ok(())
    }
}

#[cold]
fn decode_name<'b>(raw: &[u8], buffer: &'b mut [u8; NAME_BYTES]) -> &'b [u8] {
    let mut decoded = Vec::new();
    unescape(raw, &mut decoded);
    match buffer.get_mut(..decoded.len()) {
        Some(name) => {
            name.copy_from_slice(&decoded);
            name
        }
        None => &[],
    }
}

/// Appends the decoded form of a string's raw text, which the scanner has found well formed.
pub(super) fn unescape(mut raw: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = memchr::memchr(b'\\', raw) {
        out.extend_from_slice(&raw[..at]);
        let used = match raw[at + 1] {
            b'u' => {
                let (decoded, used) = decode_unit(&raw[at..]);
                out.extend_from_slice(decoded.encode_utf8(&mut [0; 4]).as_bytes());
                used
            }
            short => {
                out.push(match short {
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    itself => itself,
                });
                2
            }
        };
        raw = &raw[at + used..];
    }
    out.extend_from_slice(raw);
}

/// The character of a `\uXXXX` or of a pair of them, and how many bytes it took.
fn decode_unit(raw: &[u8]) -> (char, usize) {
    let unit = code_unit(&raw[2..6]).expect("the scanner saw four hex digits");
    match char::from_u32(unit) {
        Some(decoded) => (decoded, 6),
        None => {
            let low = code_unit(&raw[8..12]).expect("the scanner saw the other half of the pair");
            let point = 0x10000 + ((unit - 0xd800) << 10 | (low - 0xdc00));
            (char::from_u32(point).expect("a pair is a character"), 12)
        }
    }
}
