//! From a file of any size to records, one at a time, in bounded memory.
//! Lives here: NDJSON lines, the array inside a document, data and tag of each. Not here: batches.

use std::cell::Cell;
use std::io::{self, BufRead, BufReader, Read};

use runelog_engine::limits::{RECORD_BYTES_MAX, TAG_BYTES_MAX};

use super::walk::{Pointer, Step, Stop};

/// A line, or an item of an array, is at most this long. Only its data has to fit a record.
pub(crate) const ITEM_BYTES_MAX: u64 = 16 << 20;
const BUFFER_BYTES: usize = 64 << 10;

/// How the input is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A JSON value on each line
    Ndjson,
    /// One JSON document with an array of records in it
    Json,
}

/// What to take from each item.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pick {
    /// NDJSON: where a line's data is. JSON: where the document's array is.
    pub(crate) data: Pointer,
    /// Where an item's tag is.
    pub(crate) tag: Option<Pointer>,
}

/// A record to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Item<'a> {
    /// Line number (NDJSON) or position in the array (JSON), from 1.
    pub(crate) number: u64,
    /// The data, verbatim.
    pub(crate) data: &'a str,
    /// The tag as a JSON string, quotes and escapes as they stand.
    pub(crate) tag: Option<&'a str>,
}

/// What an item is called when something is wrong with it.
pub(crate) fn word(format: Format) -> &'static str {
    match format {
        Format::Ndjson => "line",
        Format::Json => "record",
    }
}

/// Hands every record of `input` to `sink`, which may end it with an error.
pub(crate) fn read(
    input: impl Read,
    format: Format,
    pick: &Pick,
    mut sink: impl FnMut(Item<'_>) -> Result<(), String>,
) -> Result<(), String> {
    let input = without_mark(input).map_err(|error| error.to_string())?;
    match format {
        Format::Ndjson => read_lines(BufReader::with_capacity(BUFFER_BYTES, input), pick, sink),
        Format::Json => read_document(input, pick, &mut sink),
    }
}

/// Skips a byte-order mark, which some editors put in front and JSON does not know.
fn without_mark(mut input: impl Read) -> io::Result<impl Read> {
    let mut start = Vec::new();
    input.by_ref().take(3).read_to_end(&mut start)?;
    if start == b"\xef\xbb\xbf" {
        start.clear();
    }
    Ok(io::Cursor::new(start).chain(input))
}

fn read_lines(
    mut input: impl BufRead,
    pick: &Pick,
    mut sink: impl FnMut(Item<'_>) -> Result<(), String>,
) -> Result<(), String> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let bytes = input.by_ref().take(ITEM_BYTES_MAX + 1).read_until(b'\n', &mut line);
        if bytes.map_err(|error| format!("line {number}: {error}"))? == 0 {
            return Ok(());
        }
        if line.len() as u64 > ITEM_BYTES_MAX {
            return Err(format!("line {number} is longer than {ITEM_BYTES_MAX} bytes"));
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let item = pick_item(text, number, &pick.data, pick.tag.as_ref());
        sink(item.map_err(|why| format!("line {number}: {why}"))?)?;
    }
    unreachable!("a file has fewer than 2^64 lines")
}

/// The records of a document are the items of the array at the pointer; a document that is no array
/// is, where no pointer is given, one record.
fn read_document(
    input: impl Read,
    pick: &Pick,
    sink: &mut impl FnMut(Item<'_>) -> Result<(), String>,
) -> Result<(), String> {
    // Bytes that may still be read before the next item begins; None while no item is held in memory.
    let left = Cell::new(None);
    let mut input = BufReader::with_capacity(BUFFER_BYTES, Metered { input, left: &left });
    let first = first_byte(&mut input).map_err(|error| error.to_string())?;
    let mut number = 0;
    let mut failure = None;
    let mut take = |step: Step<'_>| {
        left.set(if matches!(step, Step::End) { None } else { Some(ITEM_BYTES_MAX) });
        let Step::Item(text) = step else { return Ok(()) };
        number += 1;
        pick_item(text.as_bytes(), number, &Pointer::default(), pick.tag.as_ref())
            .map_err(|why| format!("record {number}: {why}"))
            .and_then(&mut *sink)
            .map_err(|why| {
                failure = Some(why);
                Stop
            })
    };
    if pick.data.is_whole() && first != Some(b'[') {
        let mut text = Vec::new();
        let bytes = input.take(ITEM_BYTES_MAX + 1).read_to_end(&mut text).map_err(|e| e.to_string())?;
        if bytes as u64 > ITEM_BYTES_MAX {
            return Err(format!("the document is no array and longer than {ITEM_BYTES_MAX} bytes"));
        }
        let value = Pointer::default().find(&text).map_err(|error| {
            format!("the document is not one JSON value (--format ndjson reads one a line): {error}")
        })?;
        let _ = take(Step::Item(value.unwrap_or_default())); // what went wrong is in `failure`
        return failure.map_or(Ok(()), Err);
    }
    let outcome = pick.data.for_each(input, &mut take);
    match (failure, outcome) {
        (Some(why), _) => Err(why),
        (None, Err(error)) => Err(format!("after record {number}: {error}")),
        (None, Ok(false)) => Err("there is nothing in the document where the data pointer leads".into()),
        (None, Ok(true)) => Ok(()),
    }
}

/// The first byte that is not white space; it stays to be read.
fn first_byte(input: &mut impl BufRead) -> io::Result<Option<u8>> {
    loop {
        match input.fill_buf()?.first() {
            Some(b' ' | b'\t' | b'\r' | b'\n') => input.consume(1),
            first => return Ok(first.copied()),
        }
    }
}

fn pick_item<'a>(
    text: &'a [u8],
    number: u64,
    data: &Pointer,
    tag: Option<&Pointer>,
) -> Result<Item<'a>, String> {
    let data = data.find(text).map_err(column)?.ok_or("there is nothing where the data pointer leads")?;
    if data.len() > RECORD_BYTES_MAX {
        return Err(format!("{} bytes of data are more than the {RECORD_BYTES_MAX} of a record", data.len()));
    }
    let tag = match tag {
        Some(tag) => tag.find(text).map_err(column)?,
        None => None,
    };
    // For a tag, null means none, as it does for the server (J-6).
    let tag = tag.filter(|tag| *tag != "null");
    if let Some(raw) = tag {
        let decoded: String =
            serde_json::from_str(raw).map_err(|_| format!("the tag {} is not a string", shortened(raw)))?;
        if decoded.len() > TAG_BYTES_MAX {
            return Err(format!("{} bytes of tag are more than {TAG_BYTES_MAX}", decoded.len()));
        }
    }
    Ok(Item { number, data, tag })
}

/// An error inside one line: its column is all that helps.
fn column(error: serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.rfind(" at line ").map_or(text.as_str(), |end| &text[..end]);
    format!("{what} at column {}", error.column())
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= 40 { text.into() } else { text.chars().take(40).chain(['…']).collect() }
}

/// Refuses to read on when a single item has used up its share: a document is streamed, an item is not.
struct Metered<'m, R> {
    input: R,
    left: &'m Cell<Option<u64>>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.input.read(buffer)?;
        if let Some(left) = self.left.get() {
            let rest = left.checked_sub(bytes as u64).ok_or_else(|| {
                io::Error::other(format!("the next record is longer than {ITEM_BYTES_MAX} bytes"))
            })?;
            self.left.set(Some(rest));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
#[path = "items_tests.rs"]
mod tests;
