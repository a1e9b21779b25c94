//! Topic configuration, state, list and deletion (§2, §3), and record deletion's answer (§6), as JSON
//! objects without their end: `performance` follows.

use super::type_name;
use crate::http::json_out::{write_bool, write_i64, write_str, write_u64};
use runelog_engine::config::{Class, Discard, TopicConfig};
use runelog_engine::ids::Millis;
use runelog_engine::shard::{Deleted, TopicView};

/// Idle time from which automatic priority is 0 (PR-1).
const IDLE_MS_MAX: i64 = 300_000;

/// `PUT` (TP-2).
pub(crate) fn render_put(out: &mut Vec<u8>, topic: &str, config: &TopicConfig, created: bool) {
    out.extend_from_slice(b"{\"topic\":");
    write_str(out, topic);
    out.extend_from_slice(b",\"created\":");
    write_bool(out, created);
    out.extend_from_slice(b",\"config\":");
    render_config(out, config);
}

/// `GET` (§3.2).
pub(crate) fn render_state(out: &mut Vec<u8>, view: &TopicView<'_>, now: Millis) {
    out.extend_from_slice(b"{\"topic\":");
    write_str(out, name_of(view));
    out.extend_from_slice(b",\"type\":");
    write_str(out, type_name(view.config.kind));
    out.extend_from_slice(b",\"head_seq\":");
    write_u64(out, view.totals.head);
    out.extend_from_slice(b",\"earliest_seq\":");
    write_u64(out, view.earliest);
    out.extend_from_slice(b",\"next_seq\":");
    write_u64(out, view.totals.head + 1);
    out.extend_from_slice(b",\"count\":");
    write_u64(out, view.totals.count);
    out.extend_from_slice(b",\"bytes\":");
    write_u64(out, view.totals.bytes);
    out.extend_from_slice(b",\"config\":");
    render_config(out, view.config);
    out.extend_from_slice(b",\"effective_priority\":");
    write_i64(out, effective_priority(view, now));
    for (member, ts) in [("last_write_ts", view.last_write_ts), ("last_read_ts", view.last_read_ts)] {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(member.as_bytes());
        out.extend_from_slice(b"\":");
        match ts {
            Some(ts) => write_i64(out, ts),
            None => out.extend_from_slice(b"null"),
        }
    }
    if let Some(queue) = &view.queue {
        out.extend_from_slice(b",\"queue\":{\"ready\":");
        write_u64(out, queue.ready);
        out.extend_from_slice(b",\"in_flight\":");
        write_u64(out, queue.in_flight);
        out.extend_from_slice(b",\"dead_lettered\":");
        write_u64(out, queue.dead_lettered);
        out.push(b'}');
    }
}

/// One entry of the list (TL-1), whole.
pub(crate) fn render_entry(out: &mut Vec<u8>, view: &TopicView<'_>, now: Millis) {
    out.extend_from_slice(b"{\"topic\":");
    write_str(out, name_of(view));
    for (member, number) in [
        ("head_seq", view.totals.head),
        ("earliest_seq", view.earliest),
        ("count", view.totals.count),
        ("bytes", view.totals.bytes),
    ] {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(member.as_bytes());
        out.extend_from_slice(b"\":");
        write_u64(out, number);
    }
    out.extend_from_slice(b",\"durable\":");
    write_bool(out, view.config.durable());
    out.extend_from_slice(b",\"effective_priority\":");
    write_i64(out, effective_priority(view, now));
    out.push(b'}');
}

/// `DELETE` of a topic (TD-1, TD-2), with the routers that went with it.
pub(crate) fn render_drop<'a>(
    out: &mut Vec<u8>,
    topic: &str,
    deleted: bool,
    routers: impl Iterator<Item = &'a str>,
) {
    out.extend_from_slice(b"{\"topic\":");
    write_str(out, topic);
    out.extend_from_slice(b",\"deleted\":");
    write_bool(out, deleted);
    out.extend_from_slice(b",\"routers_removed\":[");
    for (index, router) in routers.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_str(out, router);
    }
    out.push(b']');
}

/// The answer to a record deletion.
pub(crate) fn render_deleted(out: &mut Vec<u8>, topic: &str, outcome: &Deleted) {
    out.extend_from_slice(b"{\"topic\":");
    write_str(out, topic);
    for (member, number) in [
        ("deleted", outcome.deleted),
        ("earliest_seq", outcome.earliest_seq),
        ("head_seq", outcome.head_seq),
        ("count", outcome.count),
        ("bytes", outcome.bytes),
    ] {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(member.as_bytes());
        out.extend_from_slice(b"\":");
        write_u64(out, number);
    }
}

/// All 17 members (§2).
fn render_config(out: &mut Vec<u8>, config: &TopicConfig) {
    out.extend_from_slice(b"{\"type\":");
    write_str(out, type_name(config.kind));
    for (member, number) in
        [("ttl_ms", config.ttl_ms), ("cap_records", config.cap_records), ("cap_bytes", config.cap_bytes)]
    {
        write_member(out, member);
        write_u64(out, number);
    }
    write_member(out, "discard");
    write_str(out, if config.discard == Discard::Old { "old" } else { "reject" });
    write_member(out, "durable");
    write_bool(out, config.durable());
    write_member(out, "durability");
    write_str(out, class_name(config.class));
    write_member(out, "priority");
    match config.priority {
        Some(priority) => write_i64(out, i64::from(priority)),
        None => out.extend_from_slice(b"null"),
    }
    write_member(out, "auto_priority");
    write_bool(out, config.auto_priority);
    write_member(out, "auto_create");
    write_bool(out, config.auto_create);
    write_member(out, "idempotency_window_ms");
    write_u64(out, config.idempotency_window_ms);
    write_member(out, "dedupe_node");
    write_bool(out, config.dedupe_node);
    for (member, number) in [
        ("lease_ms", config.lease_ms),
        ("claim_jitter_ms", config.claim_jitter_ms),
        ("max_deliveries", config.max_deliveries),
    ] {
        write_member(out, member);
        write_u64(out, number);
    }
    write_member(out, "dead_letter");
    match &config.dead_letter {
        Some(name) => write_str(out, name),
        None => out.extend_from_slice(b"null"),
    }
    write_member(out, "leases_durable");
    write_bool(out, config.leases_durable);
    out.push(b'}');
}

fn write_member(out: &mut Vec<u8>, member: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(member.as_bytes());
    out.extend_from_slice(b"\":");
}

pub(crate) fn class_name(class: Class) -> &'static str {
    match class {
        Class::Ephemeral => "ephemeral",
        Class::Memory => "memory",
        Class::Disk => "disk",
        Class::Fsync => "fsync",
    }
}

/// PR-1.
pub(crate) fn effective_priority(view: &TopicView<'_>, now: Millis) -> i64 {
    if let Some(priority) = view.config.priority {
        return i64::from(priority).clamp(-1000, 1000);
    }
    match view.last_consumed_ts {
        Some(at) if view.config.auto_priority => priority_after(now - at),
        _ => 0,
    }
}

/// Automatic priority so long after the last consumption: it halves every 30 s. A clock that was set
/// back makes no negative time.
fn priority_after(idle_ms: Millis) -> i64 {
    match idle_ms.max(0) {
        IDLE_MS_MAX.. => 0,
        idle_ms => (500.0 * (-(idle_ms as f64) / 30_000.0).exp2()).round() as i64,
    }
}

fn name_of<'a>(view: &TopicView<'a>) -> &'a str {
    std::str::from_utf8(view.name).expect("topic names are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn automatic_priority_halves_every_thirty_seconds() {
        let table = [
            (-5, 500),
            (0, 500),
            (1_000, 489),
            (15_000, 354),
            (30_000, 250),
            (60_000, 125),
            (270_000, 1),
            (299_999, 0),
            (300_000, 0),
            (Millis::MAX, 0),
        ];
        for (idle_ms, priority) in table {
            assert_eq!(priority_after(idle_ms), priority, "PR-1 {idle_ms} ms");
        }
    }
}
