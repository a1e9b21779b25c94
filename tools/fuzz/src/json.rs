//! The scanner and the splitter of writes beside serde_json.
//!
//! Known differences, all of them:
//! - serde takes an array for a struct's members in order; we never do (J-2). The readings below look for it.
//! - numbers within one part in 10¹⁵ of the end of the double range: serde_json's fast conversion may err by a
//!   unit of the last place, ours is exact. See [`near_the_end_of_the_range`].

use runelog_engine::event::Span;
use runelog_engine::limits::{
    BATCH_RECORDS_MAX, KEY_BYTES_MAX, META_BYTES_MAX, NODE_BYTES_MAX, RECORD_BYTES_MAX, TAG_BYTES_MAX,
};
use runelog_net::json::{scan, write};
use serde_json::value::RawValue;

/// A text.
pub(crate) fn value(body: &[u8]) {
    runelog_net::fuzzing::check_lanes(body);
    let ours = scan::validate(body);
    let theirs = serde_json::from_slice::<serde_json::Value>(body);
    assert!(
        ours.is_ok() == theirs.is_ok() || near_the_end_of_the_range(body),
        "J-1, J-8, J-9: {ours:?}, serde_json: {theirs:?}"
    );
    if let Err(fault) = ours {
        assert!(fault.at as usize <= body.len(), "a fault beyond the text");
    }
}

/// Whether a number in the text is so near to the largest double that two conversions may differ.
pub(crate) fn near_the_end_of_the_range(body: &[u8]) -> bool {
    let numeric = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
    body.split(|byte| !numeric(byte)).any(|word| {
        let number = std::str::from_utf8(word).ok().and_then(|word| word.parse::<f64>().ok());
        let digits = word.iter().filter(|byte| byte.is_ascii_digit()).count();
        // Where the exact value is the largest double or infinite, look at it a tenth as large.
        let tenth =
            number.filter(|number| number.abs() >= f64::MAX * (1.0 - 1e-15) && digits > 0).and_then(|_| {
                let text = std::str::from_utf8(word).ok()?;
                let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
                format!("{mantissa}e{}", exponent.parse::<i64>().ok()?.checked_sub(1)?).parse::<f64>().ok()
            });
        tenth.is_some_and(|tenth| (tenth.abs() / (f64::MAX / 10.0) - 1.0).abs() < 1e-14)
    })
}

#[derive(serde::Deserialize)]
struct Write<'a> {
    #[serde(borrow)]
    records: Vec<&'a RawValue>,
    node: Option<String>,
    idempotency_key: Option<String>,
    create: Option<bool>,
    #[serde(borrow)]
    config: Option<&'a RawValue>,
    #[serde(default)]
    #[expect(dead_code, reason = "only its type counts")]
    disable_backpressure: bool,
}

#[derive(serde::Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow)]
    meta: Option<&'a RawValue>,
    tag: Option<String>,
    node: Option<String>,
}

fn is_object(text: &[u8]) -> bool {
    text.trim_ascii_start().first() == Some(&b'{')
}

/// A write as serde reads it; none if it refuses.
fn read_by_serde(body: &[u8]) -> Option<(Write<'_>, Vec<Record<'_>>)> {
    // The value as a whole is judged too: raw values are passed over without a look at ranges.
    serde_json::from_slice::<serde_json::Value>(body).ok()?;
    let write: Write<'_> = serde_json::from_slice(body).ok().filter(|_| is_object(body))?;
    let record = |raw: &&'_ RawValue| is_object(raw.get().as_bytes());
    if !write.records.iter().all(record) {
        return None;
    }
    let records = write.records.iter().map(|raw| serde_json::from_str(raw.get()));
    let records = records.collect::<Result<Vec<Record<'_>>, _>>().ok()?;
    if let Some(config) = write.config {
        let text = config.get().as_bytes();
        if !is_object(text) {
            return None;
        }
        serde_json::from_slice::<write_config::Config>(text).ok()?;
    }
    Some((write, records))
}

/// The configuration is judged by its own type, which `control` compares with simd-json.
mod write_config {
    pub(super) use runelog_net::json::config::ConfigRequest as Config;
}

/// The body of an append.
pub(crate) fn write(body: &[u8]) {
    let mut scratch = write::WriteScratch::default();
    let ours = write::parse_write(body, &mut scratch);
    let theirs = read_by_serde(body);
    if ours.is_ok() != theirs.is_some() {
        assert!(near_the_end_of_the_range(body), "J-21: {ours:?}, serde_json: {:?}", theirs.is_some());
        return;
    }
    let (Ok(head), Some((theirs, records))) = (ours, theirs) else { return };
    assert!(scratch.side.len() <= body.len(), "more than was sent");
    let text =
        |span: Span| span.of(body, &scratch.side).map(|bytes| std::str::from_utf8(bytes).expect("J-8"));
    assert_eq!(text(head.idempotency_key), theirs.idempotency_key.as_deref(), "U-1");
    assert_eq!(head.create, theirs.create, "W-21");
    assert_eq!(head.config.is_some(), theirs.config.is_some(), "W-24");
    assert_eq!(scratch.records.len(), records.len().min(BATCH_RECORDS_MAX), "W-12");
    let mut broken = records.is_empty() || records.len() > BATCH_RECORDS_MAX;
    broken |= theirs.idempotency_key.as_ref().is_some_and(|key| key.len() > KEY_BYTES_MAX);
    for (record, raw) in scratch.records.iter().zip(&records) {
        let node = raw.node.as_deref().or(theirs.node.as_deref());
        let meta = raw.meta.map(RawValue::get);
        assert_eq!(text(record.data), Some(raw.data.get()), "J-21");
        assert_eq!(text(record.meta), meta, "J-21");
        assert_eq!(text(record.tag), raw.tag.as_deref(), "J-21");
        assert_eq!(text(record.node), node, "W-35");
        broken |= raw.tag.as_ref().is_some_and(|tag| tag.len() > TAG_BYTES_MAX)
            || node.is_some_and(|node| node.len() > NODE_BYTES_MAX)
            || meta.is_some_and(|meta| {
                meta.len() > META_BYTES_MAX || members_of(meta) > write::META_MEMBERS_MAX
            })
            || raw.data.get().len() + meta.map_or(0, str::len) > RECORD_BYTES_MAX;
    }
    assert_eq!(head.check_limits(None).is_err(), broken, "W-11 to W-16");
}

/// Members of an object, duplicates counted (W-15).
fn members_of(meta: &str) -> usize {
    match serde_json::from_str(meta) {
        Ok(crate::respell::Tree::Members(members)) => members.len(),
        _ => 0,
    }
}
