//! What is wrong with a body: where and why, and the words for it.
//! Lives here: faults of the text and refusals of a write's limits, as data.
//! Not here: status codes and envelopes (`crate::fault`).

use std::fmt;

/// Why a request body is refused. `Display` gives the message for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// `400 invalid_request`, with what is wrong.
    Invalid(String),
    /// `400 batch_too_large` (W-12).
    BatchTooLarge,
    /// `400 record_too_large` (W-16), with the record's index in the batch.
    RecordTooLarge(usize),
    /// `400 batch_too_large` of an ack, nack or extend, with the number of its `seqs` (§10.3).
    TooManySeqs(u64),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use runelog_engine::limits::{BATCH_RECORDS_MAX, RECORD_BYTES_MAX};
        match self {
            BodyError::Invalid(message) => f.write_str(message),
            BodyError::BatchTooLarge => {
                write!(f, "a write carries at most {BATCH_RECORDS_MAX} records")
            }
            BodyError::RecordTooLarge(index) => {
                write!(f, "records[{index}]: data and meta exceed {RECORD_BYTES_MAX} bytes")
            }
            BodyError::TooManySeqs(seqs) => {
                write!(f, "`seqs` names {seqs} jobs, at most {} are allowed", super::queue::SEQS_MAX)
            }
        }
    }
}

impl BodyError {
    #[cold]
    pub(super) fn invalid(message: impl Into<String>) -> BodyError {
        BodyError::Invalid(message.into())
    }
}

/// The first thing wrong with a text, and the byte at which it was noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Offset from the start of the body.
    pub at: u32,
    /// What was wrong there.
    pub why: Why,
}

/// What can be wrong with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The text ended inside a value (J-1).
    End,
    /// A byte that cannot stand here (J-1).
    Syntax,
    /// Something after the value (J-1).
    Trailing,
    /// A byte-order mark (J-1).
    ByteOrderMark,
    /// The text is not UTF-8 (J-8).
    Utf8,
    /// A raw control character in a string (J-8).
    Control,
    /// An unknown or incomplete escape (J-8).
    Escape,
    /// Half of a surrogate pair (J-8).
    Surrogate,
    /// A number beyond the double range (J-8).
    NumberRange,
    /// Too many open containers (J-9).
    Depth,
    /// A known member a second time (J-4).
    Twice,
    /// Another type was wanted (J-5, J-6, J-7).
    Type(&'static str),
}

impl Fault {
    #[cold]
    pub(super) fn new(at: usize, why: Why) -> Fault {
        Fault { at: u32::try_from(at).unwrap_or(u32::MAX), why }
    }

    /// The fault as an error of the member it was found in.
    #[cold]
    pub(super) fn within(self, member: &str) -> BodyError {
        match self.why {
            Why::Type(_) | Why::Twice => BodyError::Invalid(format!("`{member}` {self}")),
            _ => BodyError::Invalid(format!("in `{member}`: {self}")),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.why {
            Why::End if self.at == 0 => return f.write_str("the body is empty, a JSON object is needed"),
            Why::End => "the JSON text ends too early",
            Why::Syntax => "malformed JSON",
            Why::Trailing => "bytes after the JSON value",
            Why::ByteOrderMark => "a byte-order mark is not JSON",
            Why::Utf8 => "invalid UTF-8",
            Why::Control => "a raw control character in a string",
            Why::Escape => "an invalid escape in a string",
            Why::Surrogate => "a lone surrogate escape in a string",
            Why::NumberRange => "a number beyond the range of a double",
            Why::Depth => "nested deeper than 127 levels",
            Why::Twice => "is given twice",
            Why::Type(wanted) => {
                return write!(f, "must be {wanted} (byte {})", self.at);
            }
        };
        write!(f, "{what} (byte {})", self.at)
    }
}

impl From<Fault> for BodyError {
    #[cold]
    fn from(fault: Fault) -> BodyError {
        match fault.why {
            Why::Type(_) => BodyError::Invalid(format!("the body {fault}")),
            _ => BodyError::Invalid(fault.to_string()),
        }
    }
}
