//! A chunked body from bytes, piece by piece (T-6).
//! Lives here: chunk sizes, extensions and trailers read past, the end found.
//! Not here: the body limit (the caller looks at what it has after each piece, B-3), what the bytes say.
//! Always true: what is decoded never depends on how the input was cut, and no announced size reserves
//! memory: only bytes that arrived are stored.
//!
//! Line ends are CR LF and nothing else. A bare LF would be one more way in which a proxy in front and
//! this decoder disagree on where a body ends, and no client is known to send it.

/// Bytes of one chunk-size line, extensions included.
pub const SIZE_LINE_BYTES_MAX: usize = 8 << 10;
/// Bytes of all trailer lines together.
pub const TRAILER_BYTES_MAX: usize = 32 << 10;

/// Why a chunked body is refused: `400`, and the connection closes, for its end is unknown (E-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// Not a chunk size where one must be, or no CR LF behind one.
    Size,
    /// A size beyond 64 bits.
    SizeOverflow,
    /// A size line longer than [`SIZE_LINE_BYTES_MAX`].
    LineTooLong,
    /// A chunk that is not followed by CR LF.
    ChunkEnd,
    /// A trailer line that does not end in CR LF.
    Trailer,
    /// Trailers longer than [`TRAILER_BYTES_MAX`].
    TrailerTooLong,
}

/// What one call of [`Decoder::push`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that belong to this body; short of the input only when `done`.
    pub consumed: usize,
    /// The body ended; what follows is the next request.
    pub done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SizeFirst, // before the first digit
    Size,
    SizeBlank, // white space behind the digits
    Extension,
    SizeLf,
    Data, // `size` bytes are left
    DataCr,
    DataLf,
    TrailerFirst, // at the start of a trailer line, or of the line that ends the body
    Trailer,
    TrailerLf,
    EndLf,
    Done,
    Failed(ChunkError),
}

/// Decodes one body. A new one for each body.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    size: u64,
    line_bytes: usize, // of the size line, later of the trailers
    decoded: u64,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl Decoder {
    /// A decoder before the first chunk.
    pub fn new() -> Decoder {
        Decoder { state: State::SizeFirst, size: 0, line_bytes: 0, decoded: 0 }
    }

    /// Decoded bytes so far.
    pub fn decoded_total(&self) -> u64 {
        self.decoded
    }

    /// Whether the body ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the next piece and appends what it decodes to `out`, at most as many bytes as came in.
    /// After an error every further call repeats it.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Progress, ChunkError> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if self.state == State::Data {
                at += self.take_data(&input[at..], out);
            } else {
                self.state = match self.step(input[at]) {
                    Ok(next) => next,
                    Err(error) => State::Failed(error),
                };
                if let State::Failed(error) = self.state {
                    return Err(error);
                }
                at += 1;
            }
        }
        if let State::Failed(error) = self.state {
            return Err(error);
        }
        Ok(Progress { consumed: at, done: self.state == State::Done })
    }

    fn take_data(&mut self, input: &[u8], out: &mut Vec<u8>) -> usize {
        let count = usize::try_from(self.size).unwrap_or(usize::MAX).min(input.len());
        out.extend_from_slice(&input[..count]);
        self.size -= count as u64;
        self.decoded += count as u64;
        if self.size == 0 {
            self.state = State::DataCr;
        }
        count
    }

    fn step(&mut self, byte: u8) -> Result<State, ChunkError> {
        match self.state {
            State::SizeFirst | State::Size | State::SizeBlank | State::Extension => self.size_line(byte),
            State::SizeLf if byte != b'\n' => Err(ChunkError::Size),
            State::SizeLf => {
                self.line_bytes = 0;
                Ok(if self.size == 0 { State::TrailerFirst } else { State::Data })
            }
            State::DataCr if byte == b'\r' => Ok(State::DataLf),
            State::DataLf if byte == b'\n' => Ok(State::SizeFirst),
            State::DataCr | State::DataLf => Err(ChunkError::ChunkEnd),
            State::TrailerFirst if byte == b'\r' => Ok(State::EndLf),
            State::TrailerFirst | State::Trailer => {
                self.count_line(TRAILER_BYTES_MAX, ChunkError::TrailerTooLong)?;
                match byte {
                    b'\r' => Ok(State::TrailerLf),
                    b'\n' => Err(ChunkError::Trailer),
                    _ => Ok(State::Trailer),
                }
            }
            State::TrailerLf if byte == b'\n' => Ok(State::TrailerFirst),
            State::EndLf if byte == b'\n' => Ok(State::Done),
            State::TrailerLf | State::EndLf => Err(ChunkError::Trailer),
            State::Failed(error) => Err(error),
            State::Data | State::Done => unreachable!("push takes data itself and stops at the end"),
        }
    }

    fn size_line(&mut self, byte: u8) -> Result<State, ChunkError> {
        self.count_line(SIZE_LINE_BYTES_MAX, ChunkError::LineTooLong)?;
        let in_digits = matches!(self.state, State::SizeFirst | State::Size);
        match byte {
            _ if in_digits && byte.is_ascii_hexdigit() => {
                if self.size >> 60 != 0 {
                    return Err(ChunkError::SizeOverflow);
                }
                let digit = (byte as char).to_digit(16).unwrap_or(0);
                self.size = self.size << 4 | u64::from(digit);
                Ok(State::Size)
            }
            _ if self.state == State::SizeFirst => Err(ChunkError::Size),
            b'\r' => Ok(State::SizeLf),
            b'\n' => Err(ChunkError::Size),
            _ if self.state == State::Extension => Ok(State::Extension),
            b';' => Ok(State::Extension),
            b' ' | b'\t' => Ok(State::SizeBlank),
            _ => Err(ChunkError::Size),
        }
    }

    fn count_line(&mut self, bytes_max: usize, error: ChunkError) -> Result<(), ChunkError> {
        self.line_bytes += 1;
        if self.line_bytes > bytes_max { Err(error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(input: &[u8]) -> Result<(Progress, Vec<u8>), ChunkError> {
        let mut out = Vec::new();
        let progress = Decoder::new().push(input, &mut out)?;
        Ok((progress, out))
    }

    #[test]
    fn chunks_become_the_body_they_carry() {
        let table: [(&str, &[u8], &[u8], usize); 8] = [
            // rule, input, body, bytes behind the end
            ("T-6", b"0\r\n\r\n", b"", 0),
            ("T-6", b"3\r\nabc\r\n0\r\n\r\n", b"abc", 0),
            ("T-6", b"1\r\na\r\n00000000000000000002\r\nbc\r\n0\r\n\r\nGET /", b"abc", 5),
            ("T-6 hex case", b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789", 0),
            ("T-6 extensions", b"3;x=\"y;z\";\r\nabc\r\n0;last\r\n\r\n", b"abc", 0),
            ("T-6 blanks", b"3 \t;x\r\nabc\r\n0 \r\n\r\n", b"abc", 0),
            ("T-6 trailers", b"1\r\na\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n\r\n", b"a", 2),
            ("T-6 data holds line ends", b"6\r\n\r\n0\r\n\r\r\n0\r\n\r\n", b"\r\n0\r\n\r", 0),
        ];
        for (rule, input, body, behind) in table {
            let expected = (Progress { consumed: input.len() - behind, done: true }, body.to_vec());
            assert_eq!(decode(input), Ok(expected), "{rule} {:?}", input.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_body_that_breaks_is_refused_and_stays_refused() {
        let long_line = [b"1;".to_vec(), vec![b'x'; SIZE_LINE_BYTES_MAX], b"\r\n".to_vec()].concat();
        let long_zeros = vec![b'0'; SIZE_LINE_BYTES_MAX + 1];
        let long_trailer = [b"0\r\nX: ".to_vec(), vec![b'x'; TRAILER_BYTES_MAX], b"\r\n".to_vec()].concat();
        let many_trailers = [b"0\r\n".to_vec(), b"a:b\r\n".repeat(TRAILER_BYTES_MAX)].concat();
        let table: [(&str, &[u8], ChunkError); 19] = [
            ("E-12", b"zz\r\n", ChunkError::Size),
            ("E-12", b"\r\n", ChunkError::Size),
            ("E-12", b";x\r\n", ChunkError::Size),
            ("E-12", b" 3\r\nabc", ChunkError::Size),
            ("E-12", b"-1\r\n", ChunkError::Size),
            ("E-12", b"+1\r\n", ChunkError::Size),
            ("E-12", b"0x3\r\nabc", ChunkError::Size),
            ("E-12", b"3 3\r\nabc", ChunkError::Size),
            ("E-12 bare LF", b"3\nabc\n", ChunkError::Size),
            ("E-12 bare LF", b"3;x\nabc\r\n", ChunkError::Size),
            ("E-12 bare CR", b"3\rabc", ChunkError::Size),
            ("E-12 17 digits", b"10000000000000000\r\n", ChunkError::SizeOverflow),
            ("E-12", b"3\r\nabcd\r\n", ChunkError::ChunkEnd),
            ("E-12", b"3\r\nabc\r0", ChunkError::ChunkEnd),
            ("E-12", b"0\r\nX: 1\n\r\n", ChunkError::Trailer),
            ("E-12", &long_line, ChunkError::LineTooLong),
            ("E-12", &long_zeros, ChunkError::LineTooLong),
            ("E-12", &long_trailer, ChunkError::TrailerTooLong),
            ("E-12", &many_trailers, ChunkError::TrailerTooLong),
        ];
        for (rule, input, error) in table {
            let (mut decoder, mut out) = (Decoder::new(), Vec::new());
            let shown = input[..input.len().min(20)].escape_ascii().to_string();
            assert_eq!(decoder.push(input, &mut out), Err(error), "{rule} {shown}");
            assert_eq!(decoder.push(b"0\r\n\r\n", &mut out), Err(error), "{rule} {shown}");
            assert_eq!(decoder.push(b"", &mut out), Err(error), "{rule} {shown}");
        }
    }

    #[test]
    fn an_announced_size_reserves_nothing() {
        let (mut decoder, mut out) = (Decoder::new(), Vec::new());
        let progress = decoder.push(b"FFFFFFFFFFFFFFFF\r\nab", &mut out);
        assert_eq!(progress, Ok(Progress { consumed: 20, done: false }));
        assert!(out.capacity() < 1024);
        assert_eq!(decoder.decoded_total(), 2);
        assert!(!decoder.is_done());
    }
}
