//! JSON pointers (RFC 6901), and a walk to where one leads in a value that may be larger than memory.
//! `serde_json` reads and checks; only the part that is asked for is ever held.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A parsed pointer; empty means the whole value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pointer(Vec<String>);

impl std::str::FromStr for Pointer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else {
            if text.is_empty() {
                return Ok(Pointer::default());
            }
            return Err(format!("a JSON pointer is empty or starts with '/', such as /{text}"));
        };
        rest.split('/').map(unescape).collect::<Result<_, _>>().map(Pointer)
    }
}

/// `~0` is `~` and `~1` is `/`; any other `~` is a mistake.
fn unescape(token: &str) -> Result<String, String> {
    let mut parts = token.split('~');
    let mut name = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let (escaped, rest) = match part.as_bytes().first() {
            Some(b'0') => ('~', &part[1..]),
            Some(b'1') => ('/', &part[1..]),
            _ => return Err(format!("in {token:?} a '~' must be followed by 0 or 1")),
        };
        name.push(escaped);
        name.push_str(rest);
    }
    Ok(name)
}

impl Pointer {
    /// Whether it means the whole value.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of the value it leads to in `text`, exactly as they stand there. All of `text` is
    /// checked to be one JSON value. Of a member given twice the first counts.
    pub(crate) fn find<'a>(&self, text: &'a [u8]) -> Result<Option<&'a str>, serde_json::Error> {
        let mut json = serde_json::Deserializer::from_slice(text);
        let found =
            Walk { path: &self.0, leaf: std::marker::PhantomData::<&RawValue> }.deserialize(&mut json)?;
        json.end()?;
        Ok(found.map(RawValue::get))
    }

    /// Tells `each` of every item of the array it leads to, in order; false if it leads nowhere.
    pub(crate) fn for_each(
        &self,
        input: impl std::io::Read,
        each: impl FnMut(Step<'_>) -> Result<(), Stop>,
    ) -> Result<bool, serde_json::Error> {
        let mut json = serde_json::Deserializer::from_reader(input);
        let found = Walk { path: &self.0, leaf: Each(each) }.deserialize(&mut json)?;
        json.end()?;
        Ok(found.is_some())
    }
}

/// What is met in an array.
pub(crate) enum Step<'a> {
    /// `[`: from here on an item is held in memory.
    Begin,
    /// An item, verbatim.
    Item(&'a str),
    /// `]`: from here on nothing is held.
    End,
}

/// The receiver of items wants no more; why, it remembers itself.
pub(crate) struct Stop;

/// Goes along `path` and reads what is there with `leaf`; what is beside the path is only checked.
struct Walk<'p, S> {
    path: &'p [String],
    leaf: S,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Walk<'_, S> {
    type Value = Option<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        if self.path.is_empty() { self.leaf.deserialize(json).map(Some) } else { json.deserialize_any(self) }
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Walk<'_, S> {
    type Value = Option<S::Value>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (wanted, path) = self.path.split_first().expect("the end of the path is read by the leaf");
        let mut leaf = Some(self.leaf);
        let mut found = None;
        while let Some(name) = map.next_key::<String>()? {
            match leaf.take_if(|_| name == *wanted) {
                Some(leaf) => found = map.next_value_seed(Walk { path, leaf })?,
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let (wanted, path) = self.path.split_first().expect("the end of the path is read by the leaf");
        // `01` and `+1` name no item.
        let wanted = wanted.parse::<u64>().ok().filter(|index| index.to_string() == *wanted);
        let before = wanted.unwrap_or(u64::MAX);
        for _ in 0..before {
            if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(None);
            }
        }
        let found = seq.next_element_seed(Walk { path, leaf: self.leaf })?.flatten();
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(found)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// The items of an array, one at a time.
struct Each<F>(F);

impl<'de, F: FnMut(Step<'_>) -> Result<(), Stop>> DeserializeSeed<'de> for Each<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de, F: FnMut(Step<'_>) -> Result<(), Stop>> Visitor<'de> for Each<F> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an array of records where the data pointer leads")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let mut tell = |step: Step<'_>| self.0(step).map_err(|Stop| A::Error::custom("stopped"));
        tell(Step::Begin)?;
        while let Some(item) = seq.next_element::<Box<RawValue>>()? {
            tell(Step::Item(item.get()))?;
        }
        tell(Step::End)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointer(text: &str) -> Pointer {
        text.parse().expect("a pointer")
    }

    #[test]
    fn a_pointer_finds_the_bytes_as_they_stand() {
        let text =
            br#" {"a": {"b" : [ 1, { "c":"\u0041 \n" } , null ]}, "x/y": 1.0, "~": [], "": 5, "a":7} "#;
        let table = [
            ("/a/b", Some(r#"[ 1, { "c":"\u0041 \n" } , null ]"#)),
            ("/a/b/0", Some("1")),
            ("/a/b/1", Some(r#"{ "c":"\u0041 \n" }"#)),
            ("/a/b/1/c", Some(r#""\u0041 \n""#)),
            ("/a/b/2", Some("null")),
            ("/a/b/3", None),
            ("/a/b/00", None),
            ("/a/b/+1", None),
            ("/a/b/-", None),
            ("/a/b/0/c", None),
            ("/a/b/2/c", None),
            ("/x~1y", Some("1.0")),
            ("/~0", Some("[]")),
            ("/", Some("5")),
            ("/nowhere", None),
        ];
        for (path, wanted) in table {
            assert_eq!(pointer(path).find(text).expect("JSON"), wanted, "{path}");
        }
        let whole = std::str::from_utf8(text).expect("UTF-8").trim();
        assert_eq!(pointer("").find(text).expect("JSON"), Some(whole));
    }

    #[test]
    fn all_of_the_text_must_be_one_value() {
        for text in
            [&b"{\"a\":1"[..], b"{\"a\":1}}", b"{\"a\":1,}", b"{\"a\":1,\"b\":tru}", b"", b"1 2", b"\"\xff\""]
        {
            for path in ["", "/a"] {
                assert!(pointer(path).find(text).is_err(), "{path} in {}", String::from_utf8_lossy(text));
            }
        }
    }

    #[test]
    fn pointers_follow_rfc_6901() {
        for (text, tokens) in
            [("", &[][..]), ("/", &[""]), ("/a//b", &["a", "", "b"]), ("/~01/~1~0", &["~1", "/~"])]
        {
            assert_eq!(pointer(text).0, tokens, "{text}");
        }
        for text in ["a", "#/a", "/~", "/~2", "/a~"] {
            assert!(text.parse::<Pointer>().is_err(), "{text}");
        }
    }
}
