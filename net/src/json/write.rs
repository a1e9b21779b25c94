//! The body of an append (§4): one pass from bytes to the spans the engine takes.
//! Lives here: the members of a write and of a record, their types, and W-11…W-17.
//! Not here: the query, W-10, and everything that needs to know the topic (W-20 on).
//! Always true: nothing is allocated per record, and never more than 10 000 spans are kept.

use runelog_engine::event::{Batch, RecordSpan, Span};
use runelog_engine::limits::{
    BATCH_RECORDS_MAX, KEY_BYTES_MAX, META_BYTES_MAX, NODE_BYTES_MAX, RECORD_BYTES_MAX, TAG_BYTES_MAX,
};

use super::config::ConfigRequest;
use super::fault::{BodyError, Fault, Why};
use super::reader::{Reader, Seen, unescape};
use super::scan::Text;

/// Top-level members of an object `meta` at most (W-15).
pub const META_MEMBERS_MAX: usize = 64;

/// What a write is split into; kept from request to request so that it stops allocating.
#[derive(Default)]
pub struct WriteScratch {
    /// The records, in order; spans into the body and into `side`.
    pub records: Vec<RecordSpan>,
    /// The strings that had escapes, decoded.
    pub side: Vec<u8>,
}

impl WriteScratch {
    /// The split records with the buffers their spans point into.
    pub fn batch<'a>(&'a self, body: &'a [u8]) -> Batch<'a> {
        Batch { body, side: &self.side, records: &self.records }
    }
}

/// Everything of a write but its records, which are in the scratch.
#[derive(Debug)]
pub struct WriteHead {
    /// The decoded `idempotency_key`, or absent.
    pub idempotency_key: Span,
    /// Create permission for this call (W-21).
    pub create: Option<bool>,
    /// The inline `config`, type-checked (W-24) and not yet normalised (W-25).
    pub config: Option<Box<ConfigRequest>>,
    record_count: usize,
    /// The first record that breaks W-14…W-16, by W-17.
    first_refused: Option<BodyError>,
}

impl WriteHead {
    /// W-11…W-17, in that order. Apart from the parse because W-10 stands before them and because
    /// the key in force may come from a header: the body's key, if given, wins (U-1).
    pub fn check_limits(&self, header_key: Option<&[u8]>) -> Result<(), BodyError> {
        if self.record_count == 0 {
            return Err(BodyError::invalid("`records` must hold at least one record"));
        }
        if self.record_count > BATCH_RECORDS_MAX {
            return Err(BodyError::BatchTooLarge);
        }
        let key_bytes = match self.idempotency_key.is_present() {
            true => self.idempotency_key.len(),
            false => header_key.map_or(0, <[u8]>::len),
        };
        if key_bytes > KEY_BYTES_MAX {
            return Err(BodyError::invalid(format!(
                "the idempotency key has {key_bytes} bytes, at most {KEY_BYTES_MAX} are allowed"
            )));
        }
        match &self.first_refused {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

/// Splits the body of an append. An error here is malformed text or a wrong type anywhere in the
/// body (J-rules, W-6, W-24); limits are judged afterwards by `WriteHead::check_limits`. When those
/// refuse, `scratch` is not meant to be used.
pub fn parse_write(body: &[u8], scratch: &mut WriteScratch) -> Result<WriteHead, BodyError> {
    scratch.records.clear();
    scratch.side.clear();
    let mut split = Split { reader: Reader::new(body), scratch, record_count: 0, first_refused: None };
    let mut head = WriteHead {
        idempotency_key: Span::ABSENT,
        create: None,
        config: None,
        record_count: 0,
        first_refused: None,
    };
    let node = split.members(&mut head)?;
    split.reader.finish()?;
    split.apply_default_node(node);
    head.record_count = split.record_count;
    head.first_refused = split.first_refused.map(|(_, error)| error);
    Ok(head)
}

struct Split<'a, 's> {
    reader: Reader<'a>,
    scratch: &'s mut WriteScratch,
    record_count: usize,
    /// Index and error of the first record that breaks a limit.
    first_refused: Option<(usize, BodyError)>,
}

impl Split<'_, '_> {
    /// The members of the body; returns the batch's default node.
    fn members(&mut self, head: &mut WriteHead) -> Result<Span, BodyError> {
        let mut node = Span::ABSENT;
        let mut seen = Seen::default();
        let mut has_records = false;
        self.reader.open_object()?;
        while let Some(name) = self.reader.next_member()? {
            match self.reader.name(name, &mut [0; _]) {
                b"records" => {
                    seen.note(0, name, "records")?;
                    has_records = true;
                    self.records()?;
                }
                b"node" => {
                    seen.note(1, name, "node")?;
                    node = self.optional_string().map_err(|fault| fault.within("node"))?;
                }
                b"idempotency_key" => {
                    seen.note(2, name, "idempotency_key")?;
                    head.idempotency_key =
                        self.optional_string().map_err(|fault| fault.within("idempotency_key"))?;
                }
                b"create" => {
                    seen.note(3, name, "create")?;
                    head.create = self.create().map_err(|fault| fault.within("create"))?;
                }
                b"config" => {
                    seen.note(4, name, "config")?;
                    head.config = self.config()?;
                }
                b"disable_backpressure" => {
                    seen.note(5, name, "disable_backpressure")?;
                    self.reader.boolean().map_err(|fault| fault.within("disable_backpressure"))?;
                }
                _ => {
                    self.reader.skip()?;
                }
            }
        }
        if !has_records {
            return Err(BodyError::invalid("`records` is missing"));
        }
        Ok(node)
    }

    fn create(&mut self) -> Result<Option<bool>, Fault> {
        if self.reader.null()? { Ok(None) } else { self.reader.boolean().map(Some) }
    }

    fn config(&mut self) -> Result<Option<Box<ConfigRequest>>, BodyError> {
        let within = |fault: Fault| fault.within("config");
        if self.reader.null().map_err(within)? {
            return Ok(None);
        }
        if self.reader.peek() != b'{' {
            return Err(within(self.reader.mistyped("an object or null")));
        }
        let (start, end) = self.reader.skip().map_err(within)?;
        ConfigRequest::from_checked(&self.reader.body()[start..end]).map(|config| Some(Box::new(config)))
    }

    fn records(&mut self) -> Result<(), BodyError> {
        self.reader.open_array().map_err(|fault| fault.within("records"))?;
        while self.reader.next_element()? {
            self.record()?;
        }
        Ok(())
    }

    #[inline]
    fn record(&mut self) -> Result<(), BodyError> {
        let index = self.record_count;
        let side_bytes = self.scratch.side.len();
        let mut record = RecordSpan::default();
        let mut meta_members = 0;
        let mut seen = Seen::default();
        let start = self.reader.at();
        self.reader.open_object().map_err(|fault| in_record(index, "", fault))?;
        while let Some(name) = self.reader.next_member()? {
            match self.reader.name(name, &mut [0; _]) {
                b"data" => {
                    seen.note(0, name, "data")?;
                    let (start, end) = self.reader.skip()?;
                    record.data = Span::body(start, end - start);
                }
                b"tag" => {
                    seen.note(1, name, "tag")?;
                    record.tag = self.optional_string().map_err(|fault| in_record(index, ".tag", fault))?;
                }
                b"node" => {
                    seen.note(2, name, "node")?;
                    record.node = self.optional_string().map_err(|fault| in_record(index, ".node", fault))?;
                }
                b"meta" => {
                    seen.note(3, name, "meta")?;
                    if !self.reader.null()? {
                        let (start, end, members) = self.reader.skip_counting()?;
                        record.meta = Span::body(start, end - start);
                        meta_members = members;
                    }
                }
                _ => {
                    self.reader.skip()?;
                }
            }
        }
        if !record.data.is_present() {
            return Err(BodyError::invalid(format!("records[{index}] has no `data` (byte {start})")));
        }
        self.record_count += 1;
        if index >= BATCH_RECORDS_MAX {
            // Already too many (W-12): the rest is only checked as text, and takes no memory.
            self.scratch.side.truncate(side_bytes);
            return Ok(());
        }
        if self.first_refused.is_none() && breaks_a_limit(&record, meta_members) {
            self.first_refused = Some((index, refusal(index, &record, meta_members)));
        }
        self.scratch.records.push(record);
        Ok(())
    }

    /// A string or `null`, decoded into the side buffer only if it has escapes.
    #[inline(always)]
    fn optional_string(&mut self) -> Result<Span, Fault> {
        if self.reader.peek() == b'"' {
            let text = self.reader.string()?;
            return Ok(self.decoded(text));
        }
        if self.reader.null()? { Ok(Span::ABSENT) } else { Err(self.reader.mistyped("a string or null")) }
    }

    #[inline(always)]
    fn decoded(&mut self, text: Text) -> Span {
        if !text.escaped {
            return Span::body(text.start, text.end - text.start);
        }
        let side = &mut self.scratch.side;
        let start = side.len();
        unescape(&self.reader.body()[text.start..text.end], side);
        Span::side(start, side.len() - start)
    }

    /// Gives the batch's node to the records without one, and judges it only if any uses it (W-35).
    /// Comes last because `node` may stand after `records`.
    fn apply_default_node(&mut self, node: Span) {
        if !node.is_present() {
            return;
        }
        let mut first_user = None;
        for (index, record) in self.scratch.records.iter_mut().enumerate() {
            if !record.node.is_present() {
                record.node = node;
                first_user = first_user.or(Some(index));
            }
        }
        let Some(user) = first_user.filter(|_| node.len() > NODE_BYTES_MAX) else { return };
        // On an equal index this one wins too: of W-14…W-16 only W-16 answers differently, and W-14
        // comes before it.
        if self.first_refused.as_ref().is_none_or(|&(index, _)| user <= index) {
            self.first_refused = Some((user, too_long(user, "node", node.len(), NODE_BYTES_MAX)));
        }
    }
}

#[inline(always)]
fn breaks_a_limit(record: &RecordSpan, meta_members: usize) -> bool {
    record.tag.len() > TAG_BYTES_MAX
        || record.node.len() > NODE_BYTES_MAX
        || record.meta.len() > META_BYTES_MAX
        || meta_members > META_MEMBERS_MAX
        || record.data.len() + record.meta.len() > RECORD_BYTES_MAX
}

/// W-14, W-15, W-16 on one record that breaks at least one of them.
#[cold]
fn refusal(index: usize, record: &RecordSpan, meta_members: usize) -> BodyError {
    if record.tag.len() > TAG_BYTES_MAX {
        too_long(index, "tag", record.tag.len(), TAG_BYTES_MAX)
    } else if record.node.len() > NODE_BYTES_MAX {
        too_long(index, "node", record.node.len(), NODE_BYTES_MAX)
    } else if record.meta.len() > META_BYTES_MAX {
        too_long(index, "meta", record.meta.len(), META_BYTES_MAX)
    } else if meta_members > META_MEMBERS_MAX {
        BodyError::Invalid(format!(
            "records[{index}].meta has {meta_members} members, at most {META_MEMBERS_MAX} are allowed"
        ))
    } else {
        BodyError::RecordTooLarge(index)
    }
}

#[cold]
fn too_long(index: usize, member: &str, bytes: usize, bytes_max: usize) -> BodyError {
    BodyError::Invalid(format!(
        "records[{index}].{member} has {bytes} bytes, at most {bytes_max} are allowed"
    ))
}

#[cold]
fn in_record(index: usize, member: &str, fault: Fault) -> BodyError {
    match fault.why {
        Why::Type(_) => fault.within(&format!("records[{index}]{member}")),
        _ => fault.into(),
    }
}

#[cfg(test)]
mod tests;
