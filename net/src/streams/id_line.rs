//! The id of an event stream: every topic of the session with its cursor, as a JSON map in base64 (V-50).
//!
//! Kept as text: when one cursor moves and keeps its number of digits, only the few groups of base64 that
//! hold these digits are written again, whatever the number of topics.

use crate::http::base64;
use crate::http::json_out::{write_str, write_u64};

/// See the module's text.
pub(crate) struct IdLine {
    cursors: Box<[u64]>,
    /// The JSON map.
    json: Vec<u8>,
    /// Where each cursor's digits begin in `json`.
    digits: Box<[u32]>,
    /// `json` in base64.
    text: Vec<u8>,
}

impl IdLine {
    /// An id over topics in ascending order of their names, each with its cursor.
    pub(crate) fn new<'a>(topics: impl Iterator<Item = (&'a str, u64)> + Clone) -> IdLine {
        let cursors = topics.clone().map(|(_, cursor)| cursor).collect();
        let mut id = IdLine { cursors, json: Vec::new(), digits: Box::default(), text: Vec::new() };
        let mut digits = Vec::new();
        for (index, (name, cursor)) in topics.enumerate() {
            id.json.push(if index == 0 { b'{' } else { b',' });
            write_str(&mut id.json, name);
            id.json.push(b':');
            digits.push(id.json.len() as u32);
            write_u64(&mut id.json, cursor);
        }
        if digits.is_empty() {
            id.json.push(b'{');
        }
        id.json.push(b'}');
        id.json.shrink_to_fit();
        id.digits = digits.into_boxed_slice();
        id.encode_from(0);
        id.text.shrink_to_fit();
        id
    }

    /// The id.
    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// A topic's cursor.
    pub(crate) fn cursor(&self, topic: usize) -> u64 {
        self.cursors[topic]
    }

    /// Moves a topic's cursor.
    pub(crate) fn set(&mut self, topic: usize, cursor: u64) {
        let old = std::mem::replace(&mut self.cursors[topic], cursor);
        if old == cursor {
            return;
        }
        let (mut buffers, start) = ([itoa::Buffer::new(), itoa::Buffer::new()], self.digits[topic] as usize);
        let [before, after] = &mut buffers;
        let (before, after) = (before.format(old), after.format(cursor));
        let end = start + after.len();
        if before.len() == after.len() {
            self.json[start..end].copy_from_slice(after.as_bytes());
            let (first, last) = (start / 3, end.div_ceil(3));
            let groups = &self.json[first * 3..(last * 3).min(self.json.len())];
            let mut text = Vec::with_capacity(40); // 20 digits at most
            base64::encode(groups, &mut text);
            self.text[first * 4..first * 4 + text.len()].copy_from_slice(&text);
            return;
        }
        self.json.splice(start..start + before.len(), after.bytes());
        for digits in &mut self.digits[topic + 1..] {
            *digits = (*digits as usize + after.len() - before.len()) as u32;
        }
        self.encode_from(start / 3);
    }

    /// Encodes everything from a group of three bytes on.
    fn encode_from(&mut self, group: usize) {
        self.text.truncate(group * 4);
        base64::encode(&self.json[group * 3..], &mut self.text);
    }
}

/// The cursors in a `Last-Event-ID`, one for each topic of `names` that it knows. What cannot be decoded
/// says nothing (V-52).
pub(crate) fn decode<'a>(
    text: &[u8],
    names: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = Option<u64>> {
    let mut json = Vec::new();
    let known: std::collections::HashMap<String, u64> =
        base64::decode(text, &mut json).and_then(|()| serde_json::from_slice(&json).ok()).unwrap_or_default();
    names.map(move |name| known.get(name).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(id: &IdLine) -> String {
        let mut json = Vec::new();
        base64::decode(id.text(), &mut json).expect("base64");
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn the_id_names_every_topic_whatever_moves() {
        let mut id = IdLine::new([("audit", 3), ("ledger", 14)].into_iter());
        assert_eq!(json(&id), r#"{"audit":3,"ledger":14}"#, "V-50");
        let mut id_of_one = IdLine::new([("ledger", 14)].into_iter());
        id_of_one.set(0, 15);
        assert_eq!(id_of_one.text(), b"eyJsZWRnZXIiOjE1fQ", "V-50");
        assert_eq!(json(&IdLine::new(std::iter::empty())), "{}");
        let names: Vec<String> = (0..40).map(|n| format!("topic-{}{n:02}", "x".repeat(n % 5))).collect();
        let mut model: Vec<u64> = (0..40).map(|n| n * 3).collect();
        id = IdLine::new(names.iter().map(String::as_str).zip(model.iter().copied()));
        let mut random = 7u64;
        for step in 0..5000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let topic = (random >> 33) as usize % 40;
            // Up and down, over all numbers of digits.
            let cursor = match step % 3 {
                0 => model[topic] + 1,
                1 => random >> (random >> 58),
                _ => model[topic] / 2,
            };
            model[topic] = cursor;
            id.set(topic, cursor);
            assert_eq!(id.cursor(topic), cursor);
            let parts: Vec<String> =
                names.iter().zip(&model).map(|(name, cursor)| format!("\"{name}\":{cursor}")).collect();
            assert_eq!(json(&id), format!("{{{}}}", parts.join(",")), "V-50 step {step}");
        }
    }

    #[test]
    fn a_last_event_id_says_what_it_can() {
        let table = [
            // rule, JSON or raw text, cursors of a and b
            ("V-52", Ok(r#"{"a":1,"b":2}"#), [Some(1), Some(2)]),
            ("V-52 unknown topics", Ok(r#"{"x":9,"b":2}"#), [None, Some(2)]),
            ("V-52 not integers", Ok(r#"{"a":"1","b":2}"#), [None, None]),
            ("V-52 negative", Ok(r#"{"a":-1}"#), [None, None]),
            ("V-52 no map", Ok("[1,2]"), [None, None]),
            ("V-52 broken", Ok(r#"{"a":1"#), [None, None]),
            ("V-52 padded", Err("eyJhIjoxfQ=="), [None, None]),
            ("V-52 unpadded", Err("eyJhIjoxfQ"), [Some(1), None]),
            ("V-52 plain", Err("17"), [None, None]),
            ("V-52 empty", Err(""), [None, None]),
        ];
        for (rule, text, expected) in table {
            let mut encoded = Vec::new();
            match text {
                Ok(json) => base64::encode(json.as_bytes(), &mut encoded),
                Err(raw) => encoded.extend_from_slice(raw.as_bytes()),
            }
            let found: Vec<_> = decode(&encoded, ["a", "b"].into_iter()).collect();
            assert_eq!(found, expected, "{rule} {text:?}");
        }
    }
}
