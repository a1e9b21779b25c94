//! Members added to a record's `meta`, whatever it was.

use super::reader::Reader;
use crate::http::json_out::write_str;

/// Appends `meta` as an object that has `members`, strings all: in the place of those of the same name,
/// behind the others. A `meta` that is absent or no object becomes one of these alone.
///
/// What is kept is kept byte for byte (J-21). The text was checked when it was accepted.
pub(crate) fn put_members(out: &mut Vec<u8>, meta: Option<&[u8]>, members: &[(&str, String)]) {
    let start = out.len();
    out.push(b'{');
    if let Some(meta) = meta
        && keep_others(out, meta, members).is_none()
    {
        out.truncate(start + 1);
    }
    for (name, value) in members {
        comma(out);
        write_str(out, name);
        out.push(b':');
        write_str(out, value);
    }
    out.push(b'}');
}

fn comma(out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
}

/// `None`: no object.
fn keep_others(out: &mut Vec<u8>, meta: &[u8], members: &[(&str, String)]) -> Option<()> {
    let mut reader = Reader::new(meta);
    reader.open_object().ok()?;
    while let Some(name) = reader.next_member().ok()? {
        let (start, end) = reader.skip().ok()?;
        let decoded = reader.owned(name);
        if !members.iter().any(|(own, _)| own.as_bytes() == decoded) {
            comma(out);
            out.push(b'"');
            out.extend_from_slice(&meta[name.start..name.end]);
            out.extend_from_slice(b"\":");
            out.extend_from_slice(&meta[start..end]);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_replace_their_namesakes_and_leave_the_rest() {
        let members = [("$a", "x\"".to_owned()), ("$b", "2".to_owned())];
        for (meta, expected) in [
            (None, r#"{"$a":"x\"","$b":"2"}"#),
            (Some("{}"), r#"{"$a":"x\"","$b":"2"}"#),
            (Some("[1]"), r#"{"$a":"x\"","$b":"2"}"#),
            (Some("17"), r#"{"$a":"x\"","$b":"2"}"#),
            (Some(r#"{ "k" : {"$a":1} , "l":[] }"#), r#"{"k":{"$a":1},"l":[],"$a":"x\"","$b":"2"}"#),
            (Some(r#"{"$a":{"x":[1]},"k":1e2,"$a":2}"#), r#"{"k":1e2,"$a":"x\"","$b":"2"}"#),
            (Some(r#"{"\u0024b":null,"\u006b":"\u00e9"}"#), r#"{"\u006b":"\u00e9","$a":"x\"","$b":"2"}"#),
        ] {
            let mut out = b"before".to_vec();
            put_members(&mut out, meta.map(str::as_bytes), &members);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.strip_prefix("before"), Some(expected), "Q-61 {meta:?}");
            serde_json::from_str::<serde_json::Value>(expected).unwrap();
        }
    }
}
