//! HTTP/1.1 answers out of the bytes of a connection, with as little work as their use allows.

use memchr::memmem;

/// What is kept of bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// All of them.
    All,
    /// Their last bytes: where counters stand.
    Tail,
}

/// Bytes kept with [`Keep::Tail`].
const TAIL_BYTES: usize = 512;
/// A head this long is none of ours.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Reads the answers of one connection, one after the other.
pub(crate) struct Answers {
    keep: Keep,
    /// A head that is not whole.
    head: Vec<u8>,
    /// Of the body being read.
    body: Vec<u8>,
    status: u16,
    /// Bytes of the body still to come; `None` while a head is read.
    left: Option<usize>,
}

impl Answers {
    pub(crate) fn new(keep: Keep) -> Answers {
        Answers { keep, head: Vec::new(), body: Vec::new(), status: 0, left: None }
    }

    /// Takes bytes and tells each whole answer: status, and what is kept of its body.
    pub(crate) fn push(
        &mut self,
        mut bytes: &[u8],
        mut tell: impl FnMut(u16, &[u8]),
    ) -> Result<(), &'static str> {
        loop {
            match self.left {
                None if bytes.is_empty() => return Ok(()),
                None => {
                    let from = self.head.len();
                    let searched = from.saturating_sub(3);
                    // Usually the head is whole in one buffer, and nothing is copied.
                    let (length, used) = if from == 0 {
                        match memmem::find(bytes, b"\r\n\r\n") {
                            Some(end) => (self.begin(end + 4, Some(bytes))?, end + 4),
                            None => {
                                self.head.extend_from_slice(bytes);
                                return Ok(());
                            }
                        }
                    } else {
                        self.head.extend_from_slice(bytes);
                        match memmem::find(&self.head[searched..], b"\r\n\r\n") {
                            Some(end) => {
                                let end = searched + end + 4;
                                let length = self.begin(end, None)?;
                                self.head.clear();
                                (length, end - from)
                            }
                            None if self.head.len() > HEAD_BYTES_MAX => return Err("an endless head"),
                            None => return Ok(()),
                        }
                    };
                    bytes = &bytes[used..];
                    self.body.clear();
                    self.left = Some(length);
                }
                Some(left) => {
                    let here = left.min(bytes.len());
                    let whole = here == left;
                    if whole && self.body.is_empty() {
                        let from = if self.keep == Keep::Tail { here.saturating_sub(TAIL_BYTES) } else { 0 };
                        tell(self.status, &bytes[from..here]);
                    } else {
                        self.keep_some(&bytes[..here]);
                        if whole {
                            tell(self.status, &self.body);
                        }
                    }
                    bytes = &bytes[here..];
                    self.left = (!whole).then_some(left - here);
                    if !whole {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn keep_some(&mut self, bytes: &[u8]) {
        let from = match self.keep {
            Keep::All => 0,
            Keep::Tail => bytes.len().saturating_sub(TAIL_BYTES),
        };
        self.body.extend_from_slice(&bytes[from..]);
        if self.keep == Keep::Tail && self.body.len() > 2 * TAIL_BYTES {
            self.body.drain(..self.body.len() - TAIL_BYTES);
        }
    }

    /// Reads a head; returns the length of its body.
    fn begin(&mut self, end: usize, inside: Option<&[u8]>) -> Result<usize, &'static str> {
        let head = &inside.unwrap_or(&self.head)[..end];
        let status = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        self.status = status.ok_or("no HTTP answer")?;
        let at = memmem::find(head, b"Content-Length:").ok_or("an answer without a length")? + 15;
        number_at(head, at).map(|length| length as usize).ok_or("a length that is none")
    }
}

/// The number at a place, after spaces.
pub(crate) fn number_at(bytes: &[u8], at: usize) -> Option<u64> {
    let rest = bytes.get(at..)?;
    let start = rest.iter().position(|byte| *byte != b' ')?;
    let digits = rest[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[start..start + digits]).ok()?.parse().ok()
}

/// The number behind the last occurrence of a JSON member, `"name":` with its quotes and colon.
pub(crate) fn last_member(body: &[u8], member: &str) -> Option<u64> {
    number_at(body, memmem::rfind(body, member.as_bytes())? + member.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_whole_however_they_are_cut() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length:          5\r\n\r\nhelloHTTP/1.1 429 Too Many\r\nContent-Length: 0\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 3\r\n\r\nabc";
        for cut in 1..text.len() {
            let mut answers = Answers::new(Keep::All);
            let mut seen = Vec::new();
            for piece in text.chunks(cut) {
                answers.push(piece, |status, body| seen.push((status, body.to_vec()))).expect("sound");
            }
            let expected = vec![(200, b"hello".to_vec()), (429, Vec::new()), (201, b"abc".to_vec())];
            assert_eq!(seen, expected, "pieces of {cut}");
        }
    }

    #[test]
    fn the_tail_of_a_long_body_is_kept() {
        let body = "x".repeat(3000) + ",\"records_scanned\":1000}}";
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        for cut in [1, 7, 600, 5000] {
            let mut answers = Answers::new(Keep::Tail);
            let mut seen = Vec::new();
            for piece in text.as_bytes().chunks(cut) {
                answers
                    .push(piece, |_, body| seen.push(last_member(body, "\"records_scanned\":")))
                    .expect("sound");
            }
            assert_eq!(seen, [Some(1000)], "pieces of {cut}");
        }
    }

    #[test]
    fn what_is_no_answer_is_told() {
        assert!(Answers::new(Keep::All).push(b"SSH-2.0-OpenSSH\r\n\r\n", |_, _| {}).is_err());
        assert!(Answers::new(Keep::All).push(b"HTTP/1.1 200 OK\r\n\r\n", |_, _| {}).is_err());
    }
}
