//! Claims about reading records, each also with input that trickles in byte by byte.

use super::*;

/// Gives one byte a read, as a slow pipe may.
struct Trickle<R>(R);

impl<R: Read> Read for Trickle<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = buffer.len().min(1);
        self.0.read(&mut buffer[..end])
    }
}

type Found = Vec<(u64, String, Option<String>)>;

/// The records before the end or the error, and the error.
fn collect(input: impl Read, format: Format, data: &str, tag: Option<&str>) -> (Found, Option<String>) {
    let parse = |text: &str| text.parse::<Pointer>().expect("a pointer");
    let pick = Pick { data: parse(data), tag: tag.map(parse) };
    let mut found = Found::new();
    let outcome = read(input, format, &pick, |item| {
        found.push((item.number, item.data.into(), item.tag.map(str::to_string)));
        Ok(())
    });
    (found, outcome.err())
}

fn both_ways(text: &[u8], format: Format, data: &str, tag: Option<&str>) -> (Found, Option<String>) {
    let at_once = collect(text, format, data, tag);
    let trickled = collect(Trickle(text), format, data, tag);
    assert_eq!(at_once, trickled, "{}", String::from_utf8_lossy(text));
    at_once
}

fn data(found: &Found) -> Vec<&str> {
    found.iter().map(|(_, data, _)| data.as_str()).collect()
}

#[test]
fn a_line_is_a_record_and_keeps_its_bytes() {
    let text = b"\xef\xbb\xbf{\"a\": 1,  \"a\":1.0}\r\n\n \t\n  [1 , 2]  \n\"\\u0041\xc3\xa9\"\nnull";
    let (found, error) = both_ways(text, Format::Ndjson, "", None);
    assert_eq!(error, None);
    assert_eq!(data(&found), ["{\"a\": 1,  \"a\":1.0}", "[1 , 2]", "\"\\u0041é\"", "null"]);
    let numbers: Vec<u64> = found.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, [1, 4, 5, 6], "blank lines are counted, not taken");
}

#[test]
fn a_bad_line_is_named_after_those_before_it() {
    let table = [
        (&b"1\n2\n{\"a\":}\n4\n"[..], "", None, 2, "line 3: expected value at column 6"),
        (b"1\n\n[1\n", "", None, 1, "line 3: EOF"),
        (b"1\n2 3\n", "", None, 1, "line 2: trailing characters"),
        (b"\"\xff\"\n", "", None, 0, "line 1: "),
        (b"{\"d\":1}\n{\"e\":1}\n", "/d", None, 1, "line 2: there is nothing where the data pointer leads"),
        (b"{\"t\":\"x\"}\n{\"t\":7}\n", "", Some("/t"), 1, "line 2: the tag 7 is not a string"),
    ];
    for (text, pointer, tag, before, part) in table {
        let (found, error) = both_ways(text, Format::Ndjson, pointer, tag);
        let error = error.unwrap_or_default();
        assert!(error.starts_with(part), "{error:?} is not {part:?}");
        assert_eq!(found.len(), before, "{part}");
    }
}

#[test]
fn pointers_pick_data_and_tag_out_of_a_line() {
    let text = b"{\"d\": {\"x\" :1}, \"t\":\"a\\u00e9\"}\n{\"t\":null,\"d\":2}\n{\"d\":null}\n{\"d\":3,\"t\":\"\"}\n";
    let (found, error) = both_ways(text, Format::Ndjson, "/d", Some("/t"));
    assert_eq!(error, None);
    assert_eq!(data(&found), ["{\"x\" :1}", "2", "null", "3"]);
    let tags: Vec<Option<&str>> = found.iter().map(|(.., tag)| tag.as_deref()).collect();
    assert_eq!(tags, [Some("\"a\\u00e9\""), None, None, Some("\"\"")]);
}

#[test]
fn the_array_at_the_pointer_is_found_in_any_document() {
    let text = br#" { "meta" : {"statuses":[9], "s":"]}\"["}, "statuses" : [ {"id": 1 } ,[2],"]", 4e2 ], "tail":[[],{}] } "#;
    let items = [r#"{"id": 1 }"#, "[2]", r#""]""#, "4e2"];
    let (found, error) = both_ways(text, Format::Json, "/statuses", None);
    assert_eq!((data(&found), error), (items.to_vec(), None));
    let table = [
        (&b"[1,2]"[..], "", &["1", "2"][..]),
        (b"\xef\xbb\xbf \n[ ]\n", "", &[]),
        (b"[[1],[2,3]]", "/1", &["2", "3"]),
        (b"{\"a\": {\"b\":[true]}}\n", "/a/b", &["true"]),
        (b" {\"a\": [1]} ", "", &["{\"a\": [1]}"]), // no array at the top: one record
        (b"\"one\"", "", &["\"one\""]),
    ];
    for (text, pointer, items) in table {
        let (found, error) = both_ways(text, Format::Json, pointer, None);
        assert_eq!((data(&found), error), (items.to_vec(), None), "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn a_document_that_is_not_what_it_should_be_says_so() {
    let table = [
        (&b"{\"a\":{}}"[..], "/a", 0, "after record 0: invalid type: map, expected an array of records"),
        (b"{\"a\":1}", "/b", 0, "there is nothing in the document"),
        (b"[1,2,", "", 2, "after record 2: EOF"),
        (b"[1,2]]", "", 2, "after record 2: trailing"),
        (b"{\"a\":[1],", "/a", 1, "after record 1: EOF"),
        (b"{\"a\":1}\n{\"a\":2}\n", "", 0, "the document is not one JSON value (--format ndjson"),
        (b"", "", 0, "the document is not one JSON value"),
        (b"[1,nope]", "", 1, "after record 1: "),
    ];
    for (text, pointer, before, part) in table {
        let (found, error) = both_ways(text, Format::Json, pointer, None);
        let error = error.unwrap_or_default();
        assert!(error.starts_with(part), "{error:?} is not {part:?}");
        assert_eq!(found.len(), before, "{part}");
    }
    let (_, error) = both_ways(b"[{\"t\":\"x\"},{\"t\":[]}]", Format::Json, "", Some("/t"));
    assert_eq!(error.as_deref(), Some("record 2: the tag [] is not a string"));
}

#[test]
fn the_receiver_may_stop_it() {
    for (format, text) in [(Format::Ndjson, "1\n2\n3\n"), (Format::Json, "[1,2,3]")] {
        let mut taken = 0;
        let outcome = read(text.as_bytes(), format, &Pick::default(), |_| {
            taken += 1;
            if taken == 2 { Err("enough".into()) } else { Ok(()) }
        });
        assert_eq!((outcome, taken), (Err("enough".into()), 2), "{format:?}");
    }
}

#[test]
fn memory_is_bounded_by_one_item_not_by_the_document() {
    // What is beside the array may have any size …
    let filler = || io::repeat(b'x').take(3 * ITEM_BYTES_MAX);
    let document = (&b"{\"a\":\""[..]).chain(filler()).chain(&b"\",\"r\":[1,2],\"z\":\""[..]);
    let document = document.chain(filler()).chain(&b"\"}"[..]);
    let (found, error) = collect(document, Format::Json, "/r", None);
    assert_eq!((data(&found), error), (vec!["1", "2"], None));
    // … an item may not, be it the first or a later one, nor may a line.
    for (start, format) in
        [("[\"", Format::Json), ("[1,\"", Format::Json), ("\"", Format::Json), ("1\n\"", Format::Ndjson)]
    {
        let (_, error) = collect(start.as_bytes().chain(io::repeat(b'x')), format, "", None);
        assert!(error.as_deref().unwrap_or_default().contains("longer than 16777216"), "{start}: {error:?}");
    }
    // Data beyond a record's size is refused with its number before anything is sent.
    let text = format!("1\n\"{}\"\n", "x".repeat(RECORD_BYTES_MAX));
    let (found, error) = collect(text.as_bytes(), Format::Ndjson, "", None);
    assert_eq!(found.len(), 1);
    assert_eq!(error.as_deref(), Some("line 2: 1048578 bytes of data are more than the 1048576 of a record"));
}

#[test]
fn a_tag_is_measured_decoded() {
    let escaped = "\\u0041".repeat(TAG_BYTES_MAX);
    for (tag, fits) in [(escaped.clone(), true), (escaped + "x", false)] {
        let text = format!("{{\"t\":\"{tag}\"}}");
        let (found, error) = collect(text.as_bytes(), Format::Ndjson, "", Some("/t"));
        assert_eq!((found.len() == 1, error.is_none()), (fits, fits), "J-10");
    }
}
