//! Answers on their way out: one at a time, or put together from the parts of every core.

use super::{Conn, HEAD_MS, Parts, Pending, Phase, Shared};
use crate::fault::Fault;
use crate::handlers::append;
use crate::http::cursor;
use crate::http::json_out::{write_ms, write_u64};
use crate::http::response::{self, JSON, METRICS_TEXT, Persist};
use crate::message::{Answer, ListEntry};
use crate::service::Service;

impl Conn {
    /// An answer came for the request in progress.
    pub(crate) fn on_answer(
        &mut self,
        answer: Answer,
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &Shared,
    ) {
        let Phase::Waiting(pending) = &mut self.phase else {
            return; // the connection moved on: it failed meanwhile
        };
        let Pending::Parts { left, parts, refused } = pending else {
            return self.answer(answer, out, service, shared);
        };
        match (&mut *parts, answer) {
            (Parts::List { entries, .. }, Answer::ListPart(part)) => entries.extend(part),
            (Parts::Metrics { reports, .. } | Parts::Ready { reports }, Answer::ReportPart(report)) => {
                reports.push(*report);
            }
            (_, Answer::Fault(fault, _)) => *refused = Some(fault),
            _ => unreachable!("no part of what was asked for"),
        }
        *left -= 1;
        if *left > 0 {
            return;
        }
        let Phase::Waiting(Pending::Parts { parts, refused, .. }) =
            std::mem::replace(&mut self.phase, Phase::Head)
        else {
            unreachable!("just matched")
        };
        match (refused, parts) {
            (Some(fault), _) => self.write_fault(&fault, out, service, shared),
            (None, parts) => {
                self.write_parts(parts, out, shared);
                service.counters.count_status(200);
            }
        }
        self.settle(shared);
    }

    pub(super) fn answer(
        &mut self,
        answer: Answer,
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &Shared,
    ) {
        match answer {
            Answer::Append(answer, carrier) => {
                let status = if answer.created { 201 } else { 200 };
                let mark = response::begin(out, status, JSON, &shared.date, self.persist);
                let total_ns = self.began.elapsed().as_nanos() as u64;
                append::render(out, &self.topic, &answer, self.return_seqs, total_ns);
                response::finish(out, mark, self.omit_body);
                service.counters.count_status(status);
                service.reuse(carrier);
            }
            Answer::Body { status, json, scanned } => {
                let mark = response::begin(out, status, JSON, &shared.date, self.persist);
                out.extend_from_slice(&json);
                self.end_object(out, scanned);
                response::finish(out, mark, self.omit_body);
                service.counters.count_status(status);
            }
            Answer::Fault(fault, carrier) => {
                self.write_fault(&fault, out, service, shared);
                service.reuse(carrier);
            }
            Answer::ListPart(_) | Answer::ReportPart(_) => return,
        }
        self.settle(shared);
    }

    /// The answer is written; what comes next?
    pub(super) fn settle(&mut self, shared: &Shared) {
        self.deadline_ms = shared.steady_ms + HEAD_MS;
        self.phase = match self.skip_after.take() {
            _ if self.persist == Persist::Close || shared.stopping => Phase::Closing,
            Some(left) => Phase::Skip { left, sink: Vec::new() },
            None => Phase::Head,
        };
    }

    /// Whether everything was answered and the connection should go.
    pub(crate) fn wants_close(&self) -> bool {
        matches!(self.phase, Phase::Closing)
            || self.peer_finished && !self.is_waiting() && !matches!(self.phase, Phase::Head)
            || self.peer_finished && self.is_idle()
    }

    /// The end of a JSON object: `performance` and the brace (P-1).
    pub(super) fn end_object(&self, out: &mut Vec<u8>, scanned: Option<u64>) {
        out.extend_from_slice(b",\"performance\":{\"server_total_ms\":");
        write_ms(out, self.began.elapsed().as_nanos() as u64);
        if let Some(scanned) = scanned {
            out.extend_from_slice(b",\"records_scanned\":");
            write_u64(out, scanned);
        }
        out.extend_from_slice(b"}}");
    }

    fn write_list(&self, mut entries: Vec<ListEntry>, page_size: usize, out: &mut Vec<u8>, shared: &Shared) {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let more = entries.len() > page_size;
        entries.truncate(page_size);
        let mark = response::begin(out, 200, JSON, &shared.date, self.persist);
        out.extend_from_slice(b"{\"topics\":[");
        for (index, entry) in entries.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&entry.json);
        }
        out.push(b']');
        if let Some(last) = entries.last().filter(|_| more) {
            out.extend_from_slice(b",\"next_cursor\":\"");
            cursor::encode(std::str::from_utf8(&last.name).expect("topic names are ASCII"), out);
            out.push(b'"');
        }
        self.end_object(out, None);
        response::finish(out, mark, self.omit_body);
    }

    fn write_parts(&self, parts: Parts, out: &mut Vec<u8>, shared: &Shared) {
        let begin = |out: &mut Vec<u8>, media| response::begin(out, 200, media, &shared.date, self.persist);
        let mark = match parts {
            Parts::List { entries, page_size } => return self.write_list(entries, page_size, out, shared),
            Parts::Ready { reports } => {
                let mark = begin(out, JSON);
                crate::metrics::render_ready(out, &reports);
                mark
            }
            Parts::Metrics { reports, json: true } => {
                let mark = begin(out, JSON);
                crate::metrics::render_json(out, &reports, shared.steady_ms);
                mark
            }
            Parts::Metrics { reports, json: false } => {
                let mark = begin(out, METRICS_TEXT);
                crate::metrics::render_text(out, &reports, shared.steady_ms);
                mark
            }
        };
        response::finish(out, mark, self.omit_body);
    }

    pub(super) fn write_fault(
        &mut self,
        fault: &Fault,
        out: &mut Vec<u8>,
        service: &mut Service,
        shared: &Shared,
    ) {
        service.counters.count_status(fault.status());
        response::write_fault(out, fault, &shared.date, self.persist, self.omit_body);
    }
}
