//! A report as tables for people.

use std::fmt::Write;

use super::report::Report;

/// The whole report.
pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    let line = |out: &mut String, text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(&mut out, format!("data directory  {}", report.data_dir));
    if let Some(layout) = &report.layout {
        line(
            &mut out,
            format!(
                "layout          directory {}, generation {}, {} shards, log files of {} bytes",
                layout.directory, layout.generation, layout.shards, layout.file_bytes
            ),
        );
    }
    for shard in &report.shards {
        let left_over = if shard.current { "" } else { " (left over from another layout)" };
        line(&mut out, format!("\nshard {}  {}{left_over}", shard.shard, shard.dir));
        let rows = shard.checkpoints.iter().map(|found| {
            let state = match (&found.fault, found.clean) {
                (Some(fault), _) => fault.clone(),
                (None, Some(true)) => "ok, clean".to_owned(),
                (None, _) => "ok".to_owned(),
            };
            vec![
                found.number.to_string(),
                or_dash(found.base),
                or_dash(found.topics),
                or_dash(found.segments),
                or_dash(found.keys),
                or_dash(found.log_start),
                or_dash(found.described_block),
                state,
            ]
        });
        let heads = ["checkpoint", "base", "topics", "segments", "keys", "log start", "as of block", "state"];
        table(&mut out, &heads, rows.collect());
        let rows = shard.log.iter().map(|file| {
            let gap = file.gap.as_ref().map(|why| match file.gap_offset {
                Some(offset) => format!("{why} at {offset}"),
                None => why.clone(),
            });
            vec![
                file.name.clone(),
                or_dash(file.number),
                or_dash(file.epoch),
                or_dash(file.first_block),
                file.blocks.to_string(),
                file.payload_bytes.to_string(),
                file.blocks_after.to_string(),
                file.state.to_owned(),
                gap.unwrap_or_default(),
            ]
        });
        let heads =
            ["log file", "number", "epoch", "first block", "blocks", "bytes", "after gap", "state", "gap"];
        table(&mut out, &heads, rows.collect());
        let rows = shard.blocks.iter().map(|block| {
            vec![
                block.number.to_string(),
                block.file.to_string(),
                block.offset.to_string(),
                block.payload_bytes.to_string(),
                block.synced_through.to_string(),
                block.entries.to_string(),
                if block.after_gap { "behind a gap".to_owned() } else { String::new() },
            ]
        });
        table(&mut out, &["block", "file", "offset", "bytes", "synced", "entries", ""], rows.collect());
        let rows = shard.entries.iter().map(|entry| {
            vec![
                entry.block.to_string(),
                entry.kind.to_owned(),
                entry.topic.clone(),
                or_dash(entry.first_seq),
                or_dash(entry.last_seq),
                or_dash(entry.ts),
                entry.bytes.to_string(),
                if entry.last { String::new() } else { "more follows".to_owned() },
            ]
        });
        let heads = ["block", "entry", "topic", "first seq", "last seq", "ts", "bytes", ""];
        table(&mut out, &heads, rows.collect());
    }
    let totals = &report.totals;
    line(
        &mut out,
        format!(
            "\n{} segments, {} bytes, {} runs, {} blocks, {} records",
            totals.segments, totals.file_bytes, totals.runs, totals.blocks, totals.records
        ),
    );
    let rows = report.segments.iter().map(|found| {
        vec![
            found.id.clone(),
            found.file_bytes.to_string(),
            found.runs.to_string(),
            found.blocks.to_string(),
            found.records.to_string(),
            found.named_by.to_string(),
            found.state.clone(),
        ]
    });
    let heads = ["segment", "bytes", "runs", "blocks", "records", "needed by", "state"];
    table(&mut out, &heads, rows.collect());
    let rows = report.topics.iter().map(|topic| {
        let log = match (topic.log_first_seq, topic.log_last_seq) {
            (Some(first), Some(last)) => format!("{first}..={last}"),
            _ => "-".to_owned(),
        };
        vec![
            topic.name.clone(),
            topic.id.clone(),
            topic.shard.to_string(),
            topic.class.clone(),
            topic.head.to_string(),
            format!("{}/{}/{}", topic.floor_cap, topic.floor_ttl, topic.floor_source),
            topic.count.to_string(),
            topic.bytes.to_string(),
            log,
            if topic.dropped { "deleted".to_owned() } else { String::new() },
        ]
    });
    let heads =
        ["topic", "id", "shard", "class", "head", "floors cap/age/source", "count", "bytes", "log adds", ""];
    out.push('\n');
    table(&mut out, &heads, rows.collect());
    let rows = report.records.iter().map(|record| {
        vec![
            record.seq.to_string(),
            record.ts.to_string(),
            record.tag.clone().unwrap_or_default(),
            record.node.clone().unwrap_or_default(),
            record.from.clone(),
            record.data.clone(),
            record.meta.clone().unwrap_or_default(),
        ]
    });
    table(&mut out, &["seq", "ts", "tag", "node", "from", "data", "meta"], rows.collect());
    for note in &report.notes {
        line(&mut out, format!("note: {note}"));
    }
    for damage in &report.damage {
        line(&mut out, format!("DAMAGE: {damage}"));
    }
    if report.damage.is_empty() {
        line(&mut out, "nothing is damaged".to_owned());
    }
    out
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

/// Aligned columns, numbers to the right; nothing at all without rows.
fn table(out: &mut String, heads: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return;
    }
    let number =
        |cell: &str| cell == "-" || cell.bytes().all(|byte| byte.is_ascii_digit()) && !cell.is_empty();
    let columns: Vec<(usize, bool)> = (0..heads.len())
        .map(|at| {
            let cells = rows.iter().map(|row| row[at].as_str());
            let width = cells.clone().map(|cell| cell.chars().count()).max().unwrap_or(0);
            (width.max(heads[at].len()), cells.clone().all(number))
        })
        .collect();
    let heads: Vec<String> = heads.iter().map(|head| head.to_string()).collect();
    for row in std::iter::once(&heads).chain(&rows) {
        let mut text = String::new();
        for (cell, (width, right)) in row.iter().zip(&columns) {
            let _ = match right {
                true => write!(text, "  {cell:>width$}"),
                false => write!(text, "  {cell:<width$}"),
            };
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
}
