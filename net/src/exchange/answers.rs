//! Answers on their way out: one at a time, or put together from the parts of every core.

use super::{Edge, Exchange, Parts, Progress, Sink};
use crate::handlers::append;
use crate::http::cursor;
use crate::http::json_out::{write_ms, write_u64};
use crate::http::response::{JSON, METRICS_TEXT};
use crate::message::{Answer, Caller, ListEntry};
use crate::service::Service;
use crate::streams::{Host, StreamNews};

impl Exchange {
    /// An answer came for the request in progress.
    pub(crate) fn on_answer(
        &mut self,
        answer: Answer,
        sink: &mut impl Sink,
        service: &mut Service,
        edge: &mut Edge,
    ) -> Progress {
        let Some(gathering) = self.gathering.as_deref_mut() else {
            return self.answer(answer, sink, service, edge);
        };
        match (&mut gathering.parts, answer) {
            (Parts::List { entries, .. }, Answer::ListPart(part)) => entries.extend(part),
            (Parts::Metrics { reports, .. } | Parts::Ready { reports }, Answer::ReportPart(report)) => {
                reports.push(*report);
            }
            (_, Answer::Fault(fault, _)) => gathering.refused = Some(fault),
            _ => unreachable!("no part of what was asked for"),
        }
        gathering.left -= 1;
        if gathering.left > 0 {
            return Progress::Later;
        }
        let gathering = self.gathering.take().expect("just seen");
        match gathering.refused {
            Some(fault) => self.refuse(&fault, sink, service),
            None => {
                self.in_flight = None;
                self.write_parts(gathering.parts, sink, edge.steady_ms);
                service.counters.count_status(200);
            }
        }
        Progress::Done
    }

    /// Writes the one answer to the request.
    pub(super) fn answer(
        &mut self,
        answer: Answer,
        sink: &mut impl Sink,
        service: &mut Service,
        edge: &mut Edge,
    ) -> Progress {
        self.in_flight = None;
        match answer {
            Answer::Append(answer, carrier) => {
                let status = if answer.created { 201 } else { 200 };
                sink.begin(status, JSON);
                let total_ns = self.began.elapsed().as_nanos() as u64;
                append::render(sink.body(), &self.topic, &answer, self.return_seqs, total_ns);
                sink.finish(self.omit_body);
                service.counters.count_status(status);
                service.reuse(carrier);
            }
            Answer::Body { status, json, scanned } => {
                sink.begin(status, JSON);
                sink.body().extend_from_slice(&json);
                self.end_object(sink.body(), scanned);
                sink.finish(self.omit_body);
                service.counters.count_status(status);
            }
            Answer::Synced { json, commit_ns } => {
                sink.begin(200, JSON);
                let out = sink.body();
                out.extend_from_slice(&json);
                out.extend_from_slice(b",\"performance\":{\"server_total_ms\":");
                write_ms(out, self.began.elapsed().as_nanos() as u64);
                out.extend_from_slice(b",\"fsync_ms\":");
                // At least a microsecond, which is what three decimals can show (P-2).
                write_ms(out, commit_ns.max(1000));
                out.extend_from_slice(b"}}");
                sink.finish(self.omit_body);
                service.counters.count_status(200);
            }
            Answer::Fault(fault, carrier) => {
                self.refuse(&fault, sink, service);
                service.reuse(carrier);
            }
            Answer::Stream(opening) => {
                sink.begin_stream(self.omit_body);
                service.counters.count_status(200);
                if let (Some(opening), Caller::Request { conn, stream }) = (opening, self.caller) {
                    edge.news.push((Host { conn, stream }, StreamNews::Opened(opening)));
                    return Progress::Stream;
                }
            }
            Answer::ListPart(_) | Answer::ReportPart(_) | Answer::Resolved(_) | Answer::Session(_) => {
                unreachable!("a part of nothing")
            }
            Answer::Queue | Answer::Claims(_) | Answer::DeadLetter(_) | Answer::Router(_) => {
                unreachable!("only the service asks for these")
            }
        }
        Progress::Done
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

    fn write_list(&self, mut entries: Vec<ListEntry>, page_size: usize, out: &mut Vec<u8>) {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let more = entries.len() > page_size;
        entries.truncate(page_size);
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
    }

    fn write_parts(&self, parts: Parts, sink: &mut impl Sink, steady_ms: u64) {
        sink.begin(
            200,
            if matches!(parts, Parts::Metrics { json: false, .. }) { METRICS_TEXT } else { JSON },
        );
        let out = sink.body();
        match parts {
            Parts::List { entries, page_size } => self.write_list(entries, page_size, out),
            Parts::Ready { reports } => crate::metrics::render_ready(out, &reports),
            Parts::Metrics { reports, json: true } => crate::metrics::render_json(out, &reports, steady_ms),
            Parts::Metrics { reports, json: false } => crate::metrics::render_text(out, &reports, steady_ms),
        }
        sink.finish(self.omit_body);
    }
}
