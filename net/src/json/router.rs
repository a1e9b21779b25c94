//! The body of a router's PUT (§7) as a value, and the checks it can make alone.
//! Lives here: its members and defaults, the names it may have (NM-2).
//! Not here: prefixes, topics that exist, other routers.

use runelog_engine::config::is_topic_name;
use runelog_engine::limits::NAME_BYTES_MAX;
use runelog_engine::shard::TagMatch;

use super::control::tag_match;
use super::fault::BodyError;
use super::reader::each_member;

/// The body of a PUT of a router. PUT replaces all options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterRequest {
    /// Where records come from; not yet known to be a topic name.
    pub source: Box<str>,
    /// Where copies go; not yet known to be a topic name.
    pub dest: Box<str>,
    /// Copies carry the record's node.
    pub preserve_node: bool,
    /// Copies carry the record's tag.
    pub preserve_tag: bool,
    /// A missing dest is created.
    pub create_dest: bool,
    /// Only records that match are copied.
    pub filter: Option<TagMatch>,
    /// It may close a cycle.
    pub allow_cycle: bool,
    /// `guarantee` is `exactly_once`, not `at_least_once`.
    pub exactly_once: bool,
}

/// Reads the body of a PUT of a router.
pub fn parse_router(body: &[u8]) -> Result<RouterRequest, BodyError> {
    let mut source = None;
    let mut dest = None;
    let mut request = RouterRequest {
        source: Box::default(),
        dest: Box::default(),
        preserve_node: true,
        preserve_tag: true,
        create_dest: true,
        filter: None,
        allow_cycle: false,
        exactly_once: false,
    };
    each_member(body, &MEMBERS, |reader, member| {
        match member {
            "source" => source = Some(reader.text()?),
            "dest" => dest = Some(reader.text()?),
            "preserve_node" => request.preserve_node = reader.boolean()?,
            "preserve_tag" => request.preserve_tag = reader.boolean()?,
            "create_dest" => request.create_dest = reader.boolean()?,
            "filter" if reader.null()? => {}
            "filter" => request.filter = Some(tag_match(reader)?),
            "allow_cycle" => request.allow_cycle = reader.boolean()?,
            "guarantee" => {
                request.exactly_once = reader.word(
                    &[("at_least_once", false), ("exactly_once", true)],
                    "\"at_least_once\" or \"exactly_once\"",
                )?;
            }
            _ => unreachable!("not in MEMBERS"),
        }
        Ok(())
    })?;
    request.source = source.ok_or_else(|| BodyError::invalid("`source` is missing"))?;
    request.dest = dest.ok_or_else(|| BodyError::invalid("`dest` is missing"))?;
    Ok(request)
}

const MEMBERS: [&str; 8] =
    ["source", "dest", "preserve_node", "preserve_tag", "create_dest", "filter", "allow_cycle", "guarantee"];

impl RouterRequest {
    /// The checks of §7.1 between the prefixes and the existence of dest, in their order: the router's
    /// name, that source and dest differ, the names of both.
    pub fn check(&self, router: &[u8]) -> Result<(), BodyError> {
        if !is_router_name(router) {
            let name = String::from_utf8_lossy(router);
            return Err(BodyError::invalid(format!("{name:?} is not a router name")));
        }
        if self.source == self.dest {
            return Err(BodyError::invalid("`source` and `dest` must differ"));
        }
        for (member, name) in [("source", &self.source), ("dest", &self.dest)] {
            if !is_topic_name(name.as_bytes()) {
                return Err(BodyError::invalid(format!("`{member}` {name:?} is not a topic name")));
            }
        }
        Ok(())
    }
}

/// Whether a router may have this name (NM-2): as a topic, and `>` after the first byte.
pub fn is_router_name(name: &[u8]) -> bool {
    let more = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:->".contains(byte);
    name.first().is_some_and(u8::is_ascii_alphanumeric)
        && name.len() <= NAME_BYTES_MAX
        && name.iter().all(more)
}

#[cfg(test)]
mod tests;
