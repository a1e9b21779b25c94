//! A JSON text as a tree that keeps order and duplicates, and other spellings of the same.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// What a text says.
#[derive(Debug)]
pub(crate) enum Tree {
    Word(String),
    Text(String),
    List(Vec<Tree>),
    Members(Vec<(String, Tree)>),
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Word(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Word(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Word(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Word(serde_json::Value::from(value).to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Word("null".into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Tree::Members(members))
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Tree, D::Error> {
        from.deserialize_any(TreeVisitor)
    }
}

impl Tree {
    /// The same with white space everywhere and every character of a string escaped, if `escaped`; else as
    /// short as can be.
    pub(crate) fn spell(&self, escaped: bool) -> Vec<u8> {
        let mut out = String::new();
        self.put(escaped, &mut out);
        out.into_bytes()
    }

    fn put(&self, escaped: bool, out: &mut String) {
        let space = if escaped { " \n\t\r" } else { "" };
        out.push_str(space);
        match self {
            Tree::Word(word) => out.push_str(word),
            Tree::Text(text) => put_text(text, escaped, out),
            Tree::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    item.put(escaped, out);
                }
                out.push(']');
            }
            Tree::Members(members) => {
                out.push('{');
                for (index, (name, value)) in members.iter().enumerate() {
                    out.push_str(if index > 0 { "," } else { "" });
                    out.push_str(space);
                    put_text(name, escaped, out);
                    out.push_str(space);
                    out.push(':');
                    value.put(escaped, out);
                }
                out.push('}');
            }
        }
        out.push_str(space);
    }
}

fn put_text(text: &str, escaped: bool, out: &mut String) {
    if !escaped {
        out.push_str(&serde_json::Value::from(text).to_string());
        return;
    }
    out.push('"');
    for unit in text.encode_utf16() {
        out.push_str(&format!("\\u{unit:04X}"));
    }
    out.push('"');
}
