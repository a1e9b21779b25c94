//! Errors as a client sees them: status, code, message, detail (§1.7), and how to go on.
//! Lives here: the table of codes, one constructor for each way a code is raised, the envelope.
//! Not here: when something is refused (handlers), the bytes around the envelope (`http::response`).
//! Always true: a name that came from outside is escaped before it stands in an answer.

use std::borrow::Cow;

use crate::http::json_out;

/// A stable error code (E-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the code of its name; `row` has the table")]
pub enum Code {
    InvalidRequest,
    BatchTooLarge,
    RecordTooLarge,
    Unauthorized,
    Forbidden,
    TopicNotFound,
    RouterNotFound,
    NotFound,
    MethodNotAllowed,
    NotAcceptable,
    RouterCycle,
    TopicExistsIncompatible,
    TopicNotEmpty,
    NotAQueue,
    PayloadTooLarge,
    UnsupportedMediaType,
    TopicFull,
    Throttled,
    Internal,
    NotReady,
}

impl Code {
    /// Every code, in the order of its number.
    pub const ALL: [Code; 20] = [
        Code::InvalidRequest,
        Code::BatchTooLarge,
        Code::RecordTooLarge,
        Code::Unauthorized,
        Code::Forbidden,
        Code::TopicNotFound,
        Code::RouterNotFound,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::NotAcceptable,
        Code::RouterCycle,
        Code::TopicExistsIncompatible,
        Code::TopicNotEmpty,
        Code::NotAQueue,
        Code::PayloadTooLarge,
        Code::UnsupportedMediaType,
        Code::TopicFull,
        Code::Throttled,
        Code::Internal,
        Code::NotReady,
    ];

    /// Status and spelling of a code: the table of §1.7.
    const fn row(self) -> (u16, &'static str) {
        match self {
            Code::InvalidRequest => (400, "invalid_request"),
            Code::BatchTooLarge => (400, "batch_too_large"),
            Code::RecordTooLarge => (400, "record_too_large"),
            Code::Unauthorized => (401, "unauthorized"),
            Code::Forbidden => (403, "forbidden"),
            Code::TopicNotFound => (404, "topic_not_found"),
            Code::RouterNotFound => (404, "router_not_found"),
            Code::NotFound => (404, "not_found"),
            Code::MethodNotAllowed => (405, "method_not_allowed"),
            Code::NotAcceptable => (406, "not_acceptable"),
            Code::RouterCycle => (409, "router_cycle"),
            Code::TopicExistsIncompatible => (409, "topic_exists_incompatible"),
            Code::TopicNotEmpty => (409, "topic_not_empty"),
            Code::NotAQueue => (409, "not_a_queue"),
            Code::PayloadTooLarge => (413, "payload_too_large"),
            Code::UnsupportedMediaType => (415, "unsupported_media_type"),
            Code::TopicFull => (422, "topic_full"),
            Code::Throttled => (429, "throttled"),
            Code::Internal => (500, "internal"),
            Code::NotReady => (503, "not_ready"),
        }
    }

    /// The status it is answered with.
    pub const fn status(self) -> u16 {
        self.row().0
    }

    /// Its spelling in the envelope.
    pub const fn name(self) -> &'static str {
        self.row().1
    }
}

/// The `detail` of an error: each variant is one shape of §1.7.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are the members of §1.7")]
pub enum Detail {
    /// No `detail` member at all.
    None,
    DeadLetter {
        dead_letter: Box<str>,
    },
    Seqs {
        seqs: u64,
        max: u64,
    },
    Topic {
        topic: Box<str>,
    },
    Router {
        router: Box<str>,
    },
    Cycle {
        cycle: Vec<Box<str>>,
    },
    TypeChange {
        topic: Box<str>,
        existing_type: &'static str,
        requested_type: &'static str,
    },
    FanIn {
        topic: Box<str>,
    },
    Repoint {
        router: Box<str>,
        existing_source: Box<str>,
        existing_dest: Box<str>,
    },
    NotEmpty {
        topic: Box<str>,
        count: u64,
    },
    Full {
        topic: Box<str>,
        cap_records: u64,
        cap_bytes: u64,
        head_seq: u64,
        earliest_seq: u64,
    },
    Quota {
        limit: &'static str,
        max: u64,
    },
    Replay {
        replay_progress: f64,
    },
}

/// A refusal, ready to be rendered.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    code: Code,
    message: Cow<'static, str>,
    detail: Detail,
    allow: Option<&'static str>,
}

impl Fault {
    fn new(code: Code, message: impl Into<Cow<'static, str>>, detail: Detail) -> Fault {
        let message = message.into();
        debug_assert!(!message.is_empty(), "E-3");
        Fault { code, message, detail, allow: None }
    }

    /// 400: malformed JSON, wrong type or range, bad name, bad cursor and so on; the message says which.
    pub fn invalid_request(message: impl Into<Cow<'static, str>>) -> Fault {
        Fault::new(Code::InvalidRequest, message, Detail::None)
    }

    /// 400: the `dead_letter` of a configuration is no topic name.
    pub fn invalid_dead_letter(name: &str) -> Fault {
        let detail = Detail::DeadLetter { dead_letter: name.into() };
        Fault::new(Code::InvalidRequest, format!("`dead_letter` {name:?} is not a topic name"), detail)
    }

    /// 400: too many records in one write.
    pub fn batch_too_large(records_max: usize) -> Fault {
        Fault::new(Code::BatchTooLarge, format!("a write takes at most {records_max} records"), Detail::None)
    }

    /// 400: too many `seqs` in one ack, nack or extend.
    pub fn too_many_seqs(seqs: u64, max: u64) -> Fault {
        Fault::new(Code::BatchTooLarge, format!("at most {max} seqs at once"), Detail::Seqs { seqs, max })
    }

    /// 400: one record too big, or a batch bigger than the whole cap of a `reject` topic.
    pub fn record_too_large(message: impl Into<Cow<'static, str>>) -> Fault {
        Fault::new(Code::RecordTooLarge, message, Detail::None)
    }

    /// 401: no bearer, or one that is not known.
    pub fn unauthorized() -> Fault {
        Fault::new(Code::Unauthorized, "a valid bearer token is required", Detail::None)
    }

    /// 403: a scope is missing, or the name in the path is outside the prefixes of the key.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Fault {
        Fault::new(Code::Forbidden, message, Detail::None)
    }

    /// 403: a topic named in the body is outside the prefixes, or `config` came without `admin`.
    pub fn forbidden_topic(topic: &str) -> Fault {
        let message = format!("not permitted on topic {topic}");
        Fault::new(Code::Forbidden, message, Detail::Topic { topic: topic.into() })
    }

    /// 404: the topic is absent and was not created.
    pub fn topic_not_found(topic: &str) -> Fault {
        Fault::new(
            Code::TopicNotFound,
            format!("no topic named {topic}"),
            Detail::Topic { topic: topic.into() },
        )
    }

    /// 404: the router is absent.
    pub fn router_not_found(router: &str) -> Fault {
        let detail = Detail::Router { router: router.into() };
        Fault::new(Code::RouterNotFound, format!("no router named {router}"), detail)
    }

    /// 404: unknown path, unknown or expired `wid`.
    pub fn not_found() -> Fault {
        Fault::new(Code::NotFound, "no such resource", Detail::None)
    }

    /// 405: the path exists, the method does not; `allow` lists those that do (T-15).
    pub fn method_not_allowed(allow: &'static str) -> Fault {
        let message = format!("this path takes {allow}");
        let fault = Fault::new(Code::MethodNotAllowed, message, Detail::None);
        Fault { allow: Some(allow), ..fault }
    }

    /// 406: a stream was asked for with an `Accept` that excludes it.
    pub fn not_acceptable() -> Fault {
        Fault::new(Code::NotAcceptable, "only text/event-stream is available here", Detail::None)
    }

    /// 409: the router would close a directed cycle.
    pub fn router_cycle(cycle: Vec<Box<str>>) -> Fault {
        Fault::new(Code::RouterCycle, "the router would close a cycle", Detail::Cycle { cycle })
    }

    /// 409: PUT would change the `type` of a topic.
    pub fn topic_type_change(
        topic: &str,
        existing_type: &'static str,
        requested_type: &'static str,
    ) -> Fault {
        let detail = Detail::TypeChange { topic: topic.into(), existing_type, requested_type };
        let message = format!("topic {topic} is a {existing_type}, not a {requested_type}");
        Fault::new(Code::TopicExistsIncompatible, message, detail)
    }

    /// 409: a second router with another source into the same dest.
    pub fn router_fan_in(dest: &str) -> Fault {
        let message = format!("topic {dest} is the dest of another router");
        Fault::new(Code::TopicExistsIncompatible, message, Detail::FanIn { topic: dest.into() })
    }

    /// 409: PUT of an existing router with a different source or dest.
    pub fn router_repoint(router: &str, existing_source: &str, existing_dest: &str) -> Fault {
        let detail = Detail::Repoint {
            router: router.into(),
            existing_source: existing_source.into(),
            existing_dest: existing_dest.into(),
        };
        let message = format!("router {router} keeps its source and dest");
        Fault::new(Code::TopicExistsIncompatible, message, detail)
    }

    /// 409: `?if_empty` on a topic that holds records.
    pub fn topic_not_empty(topic: &str, count: u64) -> Fault {
        let detail = Detail::NotEmpty { topic: topic.into(), count };
        let records = if count == 1 { "record" } else { "records" };
        Fault::new(Code::TopicNotEmpty, format!("topic {topic} still holds {count} {records}"), detail)
    }

    /// 409: a queue operation on a log topic.
    pub fn not_a_queue(topic: &str) -> Fault {
        let detail = Detail::Topic { topic: topic.into() };
        Fault::new(Code::NotAQueue, format!("topic {topic} is not a queue"), detail)
    }

    /// 413: the body exceeds the byte limit.
    pub fn payload_too_large(bytes_max: u64) -> Fault {
        Fault::new(Code::PayloadTooLarge, format!("a body has at most {bytes_max} bytes"), Detail::None)
    }

    /// 415: M-1.
    pub fn unsupported_media_type() -> Fault {
        Fault::new(Code::UnsupportedMediaType, "Content-Type must be application/json", Detail::None)
    }

    /// 422: a write to a full `discard:"reject"` topic.
    pub fn topic_full(
        topic: &str,
        cap_records: u64,
        cap_bytes: u64,
        head_seq: u64,
        earliest_seq: u64,
    ) -> Fault {
        let detail = Detail::Full { topic: topic.into(), cap_records, cap_bytes, head_seq, earliest_seq };
        let message = format!("topic {topic} is at its cap and rejects more (`discard` is \"reject\")");
        Fault::new(Code::TopicFull, message, detail)
    }

    /// 429: a counted cap is reached (L-2).
    pub fn quota(limit: &'static str, max: u64) -> Fault {
        let message = format!("the server's limit {limit} of {max} is reached");
        Fault::new(Code::Throttled, message, Detail::Quota { limit, max })
    }

    /// 429: a concurrency cap, or a saturated commit path.
    pub fn throttled() -> Fault {
        Fault::new(Code::Throttled, "too much at once, try again", Detail::None)
    }

    /// 429: the disk is full. Not a 500, because nothing was taken and it may be tried again (PR-5).
    pub fn no_room(message: impl Into<Cow<'static, str>>) -> Fault {
        Fault::new(Code::Throttled, message, Detail::None)
    }

    /// 500: storage failure or defect.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Fault {
        Fault::new(Code::Internal, message, Detail::None)
    }

    /// 503: recovery is not through; the progress goes from 0 to 1.
    pub fn not_ready(replay_progress: f64) -> Fault {
        let detail = Detail::Replay { replay_progress: replay_progress.clamp(0.0, 1.0) };
        Fault::new(Code::NotReady, "recovery is not complete", detail)
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.code.status()
    }

    /// The text for humans.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The detail.
    pub fn detail(&self) -> &Detail {
        &self.detail
    }

    /// `Allow`, on a 405 only (T-15).
    pub fn allow(&self) -> Option<&'static str> {
        self.allow
    }

    /// `Retry-After` in seconds, on every 429 and 503 (E-10).
    pub fn retry_after_seconds(&self) -> Option<u64> {
        matches!(self.status(), 429 | 503).then_some(1)
    }

    /// Appends the envelope of E-2.
    pub fn render(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"error\":{\"code\":\"");
        out.extend_from_slice(self.code.name().as_bytes());
        out.extend_from_slice(b"\",\"message\":");
        json_out::write_str(out, &self.message);
        self.detail.render(out);
        out.extend_from_slice(b"}}");
    }
}

impl Detail {
    fn render(&self, out: &mut Vec<u8>) {
        let mut object = Members { out, open: false };
        match self {
            Detail::None => {}
            Detail::DeadLetter { dead_letter } => object.text("dead_letter", dead_letter),
            Detail::Seqs { seqs, max } => {
                object.number("seqs", *seqs);
                object.number("max", *max);
            }
            Detail::Topic { topic } => object.text("topic", topic),
            Detail::Router { router } => object.text("router", router),
            Detail::Cycle { cycle } => object.texts("cycle", cycle),
            Detail::TypeChange { topic, existing_type, requested_type } => {
                object.text("topic", topic);
                object.text("existing_type", existing_type);
                object.text("requested_type", requested_type);
            }
            Detail::FanIn { topic } => {
                object.text("topic", topic);
                object.text("reason", "router_dest_fan_in");
            }
            Detail::Repoint { router, existing_source, existing_dest } => {
                object.text("router", router);
                object.text("reason", "router_repoint_forbidden");
                object.text("existing_source", existing_source);
                object.text("existing_dest", existing_dest);
            }
            Detail::NotEmpty { topic, count } => {
                object.text("topic", topic);
                object.number("count", *count);
            }
            Detail::Full { topic, cap_records, cap_bytes, head_seq, earliest_seq } => {
                object.text("topic", topic);
                object.number("cap_records", *cap_records);
                object.number("cap_bytes", *cap_bytes);
                object.number("head_seq", *head_seq);
                object.number("earliest_seq", *earliest_seq);
            }
            Detail::Quota { limit, max } => {
                object.text("limit", limit);
                object.number("max", *max);
            }
            Detail::Replay { replay_progress } => {
                json_out::write_f64(object.name("replay_progress"), *replay_progress);
            }
        }
        object.close();
    }
}

/// The members of a `detail`; without any, not even the object is written.
struct Members<'a> {
    out: &'a mut Vec<u8>,
    open: bool,
}

impl Members<'_> {
    fn name(&mut self, name: &str) -> &mut Vec<u8> {
        self.out.extend_from_slice(if self.open { b"," } else { b",\"detail\":{" });
        self.open = true;
        json_out::write_str(self.out, name);
        self.out.push(b':');
        self.out
    }

    fn text(&mut self, name: &str, value: &str) {
        json_out::write_str(self.name(name), value);
    }

    fn number(&mut self, name: &str, value: u64) {
        json_out::write_u64(self.name(name), value);
    }

    fn texts(&mut self, name: &str, values: &[Box<str>]) {
        let out = self.name(name);
        out.push(b'[');
        for (index, value) in values.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            json_out::write_str(out, value);
        }
        out.push(b']');
    }

    fn close(self) {
        if self.open {
            self.out.push(b'}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn codes_are_counted_by_their_number() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number, "{}", code.name());
        }
    }

    #[test]
    fn every_code_has_its_status_and_the_shape_of_its_detail() {
        let cycle = ["a", "b", "a"].map(Box::from).to_vec();
        let full = json!({"topic": "t", "cap_records": 2, "cap_bytes": 0, "head_seq": 9, "earliest_seq": 8});
        let types = json!({"topic": "t", "existing_type": "log", "requested_type": "queue"});
        let fan_in = json!({"topic": "t", "reason": "router_dest_fan_in"});
        let repoint = json!({"router": "r", "reason": "router_repoint_forbidden",
            "existing_source": "s", "existing_dest": "d"});
        let none = Value::Null;
        let table = [
            // fault, status, code, detail
            (Fault::invalid_request("bad"), 400, "invalid_request", none.clone()),
            (Fault::invalid_dead_letter("!"), 400, "invalid_request", json!({"dead_letter": "!"})),
            (Fault::batch_too_large(10_000), 400, "batch_too_large", none.clone()),
            (Fault::too_many_seqs(1001, 1000), 400, "batch_too_large", json!({"seqs": 1001, "max": 1000})),
            (Fault::record_too_large("big"), 400, "record_too_large", none.clone()),
            (Fault::unauthorized(), 401, "unauthorized", none.clone()),
            (Fault::forbidden("no"), 403, "forbidden", none.clone()),
            (Fault::forbidden_topic("t"), 403, "forbidden", json!({"topic": "t"})),
            (Fault::topic_not_found("t"), 404, "topic_not_found", json!({"topic": "t"})),
            (Fault::router_not_found("r"), 404, "router_not_found", json!({"router": "r"})),
            (Fault::not_found(), 404, "not_found", none.clone()),
            (Fault::method_not_allowed("GET"), 405, "method_not_allowed", none.clone()),
            (Fault::not_acceptable(), 406, "not_acceptable", none.clone()),
            (Fault::router_cycle(cycle), 409, "router_cycle", json!({"cycle": ["a", "b", "a"]})),
            (Fault::topic_type_change("t", "log", "queue"), 409, "topic_exists_incompatible", types),
            (Fault::router_fan_in("t"), 409, "topic_exists_incompatible", fan_in),
            (Fault::router_repoint("r", "s", "d"), 409, "topic_exists_incompatible", repoint),
            (Fault::topic_not_empty("t", 3), 409, "topic_not_empty", json!({"topic": "t", "count": 3})),
            (Fault::not_a_queue("t"), 409, "not_a_queue", json!({"topic": "t"})),
            (Fault::payload_too_large(9), 413, "payload_too_large", none.clone()),
            (Fault::unsupported_media_type(), 415, "unsupported_media_type", none.clone()),
            (Fault::topic_full("t", 2, 0, 9, 8), 422, "topic_full", full),
            (Fault::quota("max_topics", 5), 429, "throttled", json!({"limit": "max_topics", "max": 5})),
            (Fault::throttled(), 429, "throttled", none.clone()),
            (Fault::internal("disk"), 500, "internal", none.clone()),
            (Fault::not_ready(0.25), 503, "not_ready", json!({"replay_progress": 0.25})),
        ];
        for (fault, status, code, detail) in table {
            let mut out = Vec::new();
            fault.render(&mut out);
            let envelope: Value = serde_json::from_slice(&out).expect(code);
            let mut expected = json!({"error": {"code": code, "message": fault.message()}});
            if !detail.is_null() {
                expected["error"]["detail"] = detail;
            }
            assert_eq!(envelope, expected, "E-2 {code}");
            assert!(!fault.message().is_empty(), "E-3 {code}");
            assert_eq!(fault.status(), status, "E-3 {code}");
            let retry = (status == 429 || status == 503).then_some(1);
            assert_eq!(fault.retry_after_seconds(), retry, "E-10 {code}");
            assert_eq!(fault.allow().is_some(), status == 405, "T-15 {code}");
        }
    }

    #[test]
    fn the_example_of_the_contract_and_a_hostile_name() {
        let mut out = Vec::new();
        Fault::topic_not_found("ledger").render(&mut out);
        let example = r#"{"error":{"code":"topic_not_found","message":"no topic named ledger","detail":{"topic":"ledger"}}}"#;
        assert_eq!(std::str::from_utf8(&out).unwrap(), example, "E-2");
        let name = "a\"}\\\n\u{0}\u{1f600}";
        out.clear();
        Fault::topic_not_found(name).render(&mut out);
        let envelope: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(envelope["error"]["detail"]["topic"], name, "E-2");
        assert_eq!(envelope["error"]["message"], format!("no topic named {name}"), "E-2");
    }
}
