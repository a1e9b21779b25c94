//! The event stream of a worker (§10.7). The owner of the queue writes the events; here they only pass,
//! and the stream says why it ends.

use super::watch::{Next, RETRY};
use crate::feed::FeedItem;
use crate::http::json_out::write_str;

/// What a work stream asks for.
#[derive(Debug)]
pub(crate) struct WorkRequest {
    /// The queue.
    pub(crate) topic: Box<str>,
    /// The worker.
    pub(crate) node: Box<str>,
    /// Unexpired leases at a time, 1…1000.
    pub(crate) max: u32,
    /// The lease, or the queue's.
    pub(crate) lease_ms: Option<u64>,
}

/// See the module's text.
pub(crate) struct WorkStream {
    topic: Box<str>,
}

impl WorkStream {
    pub(crate) fn new(topic: Box<str>) -> WorkStream {
        WorkStream { topic }
    }

    /// Q-70; the owner is asked by who opens the stream.
    pub(crate) fn start(&mut self, out: &mut Vec<u8>) -> Next {
        out.extend_from_slice(RETRY);
        Next::Open(0)
    }

    /// Passes on what the owner says.
    pub(crate) fn on_item(&mut self, item: &FeedItem, out: &mut Vec<u8>) -> Next {
        match item {
            FeedItem::Jobs(events) => {
                out.extend_from_slice(events);
                Next::Wait
            }
            FeedItem::Deleted => {
                let text = format!("there is no queue named {} any more", self.topic);
                self.error(b"409", &text, out);
                Next::End
            }
            FeedItem::Failed => Next::Fail,
            FeedItem::Read(_) => unreachable!("a queue's owner sends jobs"),
        }
    }

    ///
    pub(crate) fn shutdown(&mut self, out: &mut Vec<u8>) {
        self.error(b"\"server_shutting_down\"", "the server is stopping; connect again", out);
    }

    fn error(&self, code: &[u8], text: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"event: error\ndata: {\"code\":");
        out.extend_from_slice(code);
        out.extend_from_slice(b",\"error\":");
        write_str(out, text);
        out.extend_from_slice(b",\"topic\":");
        write_str(out, &self.topic);
        out.extend_from_slice(b"}\n\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_work_stream_passes_jobs_and_says_why_it_ends() {
        let mut stream = WorkStream::new("q".into());
        let said = |write: &mut dyn FnMut(&mut Vec<u8>) -> Next| {
            let mut out = Vec::new();
            let next = write(&mut out);
            (String::from_utf8(out).unwrap(), next)
        };
        assert_eq!(said(&mut |out| stream.start(out)), ("retry: 2000\n\n".to_owned(), Next::Open(0)), "Q-70");
        let jobs = FeedItem::Jobs(b"id: 1\nevent: job\ndata: {}\n\n"[..].into());
        let event = "id: 1\nevent: job\ndata: {}\n\n".to_owned();
        assert_eq!(said(&mut |out| stream.on_item(&jobs, out)), (event, Next::Wait), "Q-71");
        let gone = "event: error\ndata: {\"code\":409,\"error\":\"there is no queue named q any more\",\"topic\":\"q\"}\n\n";
        assert_eq!(
            said(&mut |out| stream.on_item(&FeedItem::Deleted, out)),
            (gone.to_owned(), Next::End),
            "Q-75"
        );
        let stopping = "event: error\ndata: {\"code\":\"server_shutting_down\",\
            \"error\":\"the server is stopping; connect again\",\"topic\":\"q\"}\n\n";
        let last = |out: &mut Vec<u8>| {
            stream.shutdown(out);
            Next::End
        };
        assert_eq!(said(&mut { last }).0, stopping, "Q-76");
    }
}
