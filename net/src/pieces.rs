//! Private pieces of the crate for the benches, which measure them alone. Lives here: ways in, and nothing
//! that does anything. Not for a server or a client: what is here changes with what it leads to.

use std::sync::Arc;

use runelog_engine::error::No;
use runelog_engine::event::Record;
use runelog_engine::ids::Millis;
use runelog_engine::router::RouterDef;
use runelog_engine::shard::Shard;

use crate::handlers::diff;
use crate::json::control::DiffRequest;
use crate::routers::copies::Copier;
use crate::routers::graph::Route;

/// Reads a topic and renders the answer of a diff, but for its end; returns how many records were looked at.
pub fn render_diff(
    shard: &mut Shard,
    topic: &str,
    request: &DiffRequest,
    now: Millis,
    out: &mut Vec<u8>,
) -> Result<u64, No> {
    diff::render(shard, topic, request, now, out).map(|outcome| outcome.examined)
}

/// A router's filter and its copies.
pub struct Copying(Route);

impl Copying {
    /// Of a router.
    pub fn new(def: RouterDef) -> Copying {
        let (source, progress) = (Arc::default(), Arc::default());
        Copying(Route { def, source_core: 0, dest_core: 0, source, progress, epoch: 1 })
    }

    /// Filters and copies records; returns how many were copied, and the bytes they take in the log.
    pub fn copy<'a>(&self, records: impl Iterator<Item = Record<'a>>) -> (usize, usize) {
        let mut copier = Copier::new(&self.0, 0, usize::MAX);
        let mut last = 0;
        for record in records {
            last = record.seq;
            if !copier.take(&record) {
                break;
            }
        }
        let copies = copier.finish(last, 0);
        (copies.batch().records.len(), copies.bytes())
    }
}
