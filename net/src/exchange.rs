//! One request, whatever protocol carried it: the order of checks (B-1), what it asks of the service,
//! and its answer.
//! Lives here: routing, bodies as values, waiting for parts. Not here: framing of requests and answers
//! (`conn` for HTTP/1.1), what an operation does (`service`).

mod answers;

use crate::auth::{Access, Keys};
use crate::caps::Hold;
use crate::fault::Fault;
use crate::gate;
use crate::http::cursor;
use crate::http::json_out::write_u64;
use crate::http::query;
use crate::http::request::{Head, Method, Version, is_json_media};
use crate::http::response::JSON;
use crate::json::BodyError;
use crate::json::config::parse_config;
use crate::json::control::{parse_delete, parse_diff};
use crate::json::queue::{
    CLAIM_MAX, ClaimRequest, LeaseRequest, SEQS_MAX, check_worker, clamped_lease, parse_ack, parse_claim,
    parse_extend, parse_nack,
};
use crate::json::router::parse_router;
use crate::json::watch::parse_watch;
use crate::json::write::{WriteScratch, parse_write};
use crate::message::{Caller, ClaimOp, Claimant, DeleteOp, ListEntry, ListOp, Op, SettleOp, Verdict};
use crate::metrics::ShardReport;
use crate::route::{Route, Routed, route};
use crate::routers::message::RegistryOp;
use crate::routers::registry::ListQuery;
use crate::service::{Handled, Service};
use crate::streams::session::Wid;
use crate::streams::work::WorkRequest;
use crate::streams::{Host, StreamNews};
use crate::ws::Upgrade;
use runelog_engine::config::is_topic_name;
use runelog_engine::limits::BATCH_RECORDS_MAX;
use runelog_engine::shard::{AppendRequest, Named};
use std::time::Instant;

/// Where an answer goes: behind what a connection's output holds already, or to a stream of one.
///
/// `begin`, then the body through `body`, then `finish`, or `cancel` as if it had never begun; or `fault`
/// alone.
pub(crate) trait Sink {
    /// Starts an answer.
    fn begin(&mut self, status: u16, media: &'static str);
    /// The body so far may not be the only thing in it: append only.
    fn body(&mut self) -> &mut Vec<u8>;
    /// Ends the answer. For HEAD (`omit_body`) its length is told and the body goes (T-13).
    fn finish(&mut self, omit_body: bool);
    /// Takes back what was begun.
    fn cancel(&mut self);
    /// The head of an answer that is a stream (V-2); what follows comes from [`Streams`](crate::streams),
    /// or for HEAD (`omit_body`) nothing.
    fn begin_stream(&mut self, omit_body: bool);
    /// A whole error answer (E-2), with `Retry-After` and `Allow` where they belong.
    fn fault(&mut self, fault: &Fault, omit_body: bool);
}

/// What the requests of a core share.
pub(crate) struct Edge {
    pub(crate) keys: Keys,
    /// Probes need a key too.
    pub(crate) probe_auth: bool,
    /// Shortest heartbeat that a watch may ask for.
    pub(crate) heartbeat_ms_min: u64,
    /// The first of a row of ports, of which each reaches one core.
    pub(crate) shard_ports: Option<u16>,
    /// Largest body (L-8); 0 refuses every non-empty one.
    pub(crate) max_body_bytes: u64,
    pub(crate) scratch: WriteScratch,
    /// Steady clock of this turn.
    pub(crate) steady_ms: u64,
    /// Begin of this turn.
    pub(crate) started: Instant,
    /// What this turn has for the core's streams.
    pub(crate) news: Vec<(Host, StreamNews)>,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It is answered.
    Done,
    /// Its answer, or a part of it, comes through [`Exchange::on_answer`].
    Later,
    /// Its answer is a stream that has begun ([`Edge::news`]).
    Stream,
}

/// Parts collected so far, and what they are for.
enum Parts {
    List { entries: Vec<ListEntry>, page_size: usize },
    Metrics { reports: Vec<ShardReport>, json: bool },
    Ready { reports: Vec<ShardReport> },
}

/// An answer made of one part from each core. All are waited for even if one is a refusal, so that no
/// part can be taken for one of the next request.
struct Gathering {
    left: usize,
    parts: Parts,
    refused: Option<Box<Fault>>,
}

/// A request in progress. One is used again and again for the requests of a connection.
pub(crate) struct Exchange {
    caller: Caller,
    topic: String,
    omit_body: bool,
    return_seqs: bool,
    began: Instant,
    gathering: Option<Box<Gathering>>,
    access: Access,
    /// Held while the request is in progress, however it ends (L-6).
    in_flight: Option<Hold>,
}

impl Exchange {
    pub(crate) fn new(began: Instant) -> Exchange {
        Exchange {
            caller: Caller::Request { conn: 0, stream: 0 },
            topic: String::new(),
            omit_body: false,
            return_seqs: true,
            began,
            gathering: None,
            access: Access::EVERYTHING,
            in_flight: None,
        }
    }

    /// Everything that is decided before the body is read (T-5, T-16). Returns whether it is read at all.
    pub(crate) fn begin(
        &mut self,
        head: &Head<'_>,
        service: &mut Service,
        edge: &Edge,
    ) -> Result<bool, Fault> {
        service.counters.requests += 1;
        self.omit_body = head.method == Method::Head;
        self.began = edge.started;
        self.in_flight = None;
        let (access, need) = gate::identify(&edge.keys, edge.probe_auth, head)?;
        if let Some(need) = need {
            self.in_flight = service.caps.in_flight(&access)?;
            gate::permit(&access, need)?;
        }
        self.access = access;
        let target = match route(head.method, head.path) {
            // WS-1: the path of an upgrade, which HTTP/2 has not.
            Routed::To(Route::WebSocket) if head.version == Version::V20 => {
                return Err(Fault::method_not_allowed("GET, HEAD"));
            }
            Routed::To(target) => target,
            Routed::NotFound => return Err(Fault::not_found()),
            Routed::MethodNotAllowed(allow) => return Err(Fault::method_not_allowed(allow)),
        };
        if let Some(segment) = target.topic() {
            let mut scratch = Vec::new(); // allocates for escaped names only
            let name = segment.decode(&mut scratch).map_err(|bad| bad.fault())?;
            self.topic.clear();
            self.topic.push_str(name);
        }
        Ok(target.takes_body())
    }

    /// The request makes its connection a WebSocket, if there may be one more (WS-2): what it may do then.
    pub(crate) fn upgrade(&mut self, service: &mut Service) -> Result<Upgrade, Fault> {
        let hold = service.caps.stream(&self.access)?;
        self.in_flight = None; // L-6
        service.counters.count_status(101);
        Ok(Upgrade { access: self.access.clone(), hold })
    }

    /// Answers a request that goes no further.
    pub(crate) fn refuse(&mut self, fault: &Fault, sink: &mut impl Sink, service: &mut Service) {
        self.in_flight = None;
        service.counters.count_fault(fault);
        sink.fault(fault, self.omit_body);
    }

    /// A whole request whose [`Exchange::begin`] went well.
    pub(crate) fn handle(
        &mut self,
        caller: Caller,
        head: &Head<'_>,
        body: &[u8],
        sink: &mut impl Sink,
        service: &mut Service,
        edge: &mut Edge,
    ) -> Progress {
        let Routed::To(target) = route(head.method, head.path) else { unreachable!("routed before") };
        self.caller = caller;
        match self.dispatch(caller, head, &target, body, sink, service, edge) {
            Ok(Some(Handled::Now(answer))) => return self.answer(answer, sink, service, edge),
            Ok(Some(Handled::Later)) => return Progress::Later,
            Ok(None) => self.in_flight = None,
            Err(fault) => self.refuse(&fault, sink, service),
        }
        Progress::Done
    }

    /// `Ok(None)`: the answer was written.
    #[allow(clippy::too_many_arguments)]
    fn dispatch(
        &mut self,
        caller: Caller,
        head: &Head<'_>,
        target: &Route<'_>,
        body: &[u8],
        sink: &mut impl Sink,
        service: &mut Service,
        edge: &mut Edge,
    ) -> Result<Option<Handled>, Fault> {
        let json = || match is_json_media(head.content_type) {
            true => Ok(()),
            false => Err(Fault::unsupported_media_type()),
        };
        let handled = match target {
            Route::Append(_) => {
                json()?;
                let Edge { scratch, .. } = edge;
                let write = parse_write(body, scratch).map_err(|error| body_fault(&error))?;
                let header_key = head.idempotency_key.map(str::as_bytes);
                let config = write.config.as_deref();
                let if_created = config
                    .and_then(|config| self.access.denies_config(&self.topic, config.dead_letter.as_deref()));
                if let Err(error) = write.check_limits(header_key) {
                    let otherwise = body_fault(&error);
                    let Some(if_created) = if_created else { return Err(otherwise) };
                    let topic = self.topic.as_str().into();
                    let op = Op::RefuseAppend { topic, if_created, otherwise: Box::new(otherwise) };
                    return Ok(Some(service.operate(caller, &self.topic, op)));
                }
                self.return_seqs = query::query_bool(head.query, "return_seqs", true);
                let config = write.config.map(|config| config.normalise());
                let batch = scratch.batch(body);
                let key = write.idempotency_key.of(batch.body, batch.side).or(header_key);
                let request = AppendRequest {
                    topic: self.topic.as_bytes(),
                    batch,
                    key,
                    create: write.create,
                    config: config.as_ref(),
                };
                service.append(caller, &self.topic, &request, if_created)
            }
            Route::Diff(_) => {
                if !body.is_empty() {
                    json()?;
                }
                let request = parse_diff(body).map_err(|error| body_fault(&error))?;
                sink.begin(200, JSON);
                match service.diff(caller, &self.topic, request, sink.body()) {
                    Ok(scanned) => {
                        self.end_object(sink.body(), Some(scanned));
                        sink.finish(self.omit_body);
                        service.counters.count_status(200);
                        return Ok(None);
                    }
                    Err(handled) => {
                        sink.cancel();
                        handled
                    }
                }
            }
            Route::DeleteRecords(_) => {
                json()?;
                let request = parse_delete(body).map_err(|error| body_fault(&error))?;
                let op = DeleteOp { topic: self.topic.as_str().into(), request, deletion: None };
                service.operate(caller, &self.topic, Op::Delete(Box::new(op)))
            }
            Route::Claim(_) => {
                // Whatever its media type (§10.2).
                if body.is_empty() {
                    return Err(Fault::invalid_request("a claim needs a body that names its `node`"));
                }
                json()?;
                let ClaimRequest { node, max, lease_ms } =
                    parse_claim(body).map_err(|error| body_fault(&error))?;
                let claimant = Claimant { node, max, lease_ms, holder: 0 };
                let topic = self.topic.as_str().into();
                let op = ClaimOp { topic, claimants: vec![claimant], ..ClaimOp::default() };
                service.operate(caller, &self.topic, Op::Claim(Box::new(op)))
            }
            Route::Ack(_) | Route::Nack(_) | Route::Extend(_) => {
                json()?;
                let parsed = match target {
                    Route::Ack(_) => parse_ack(body).map(|request| (request, Verdict::Ack)),
                    Route::Nack(_) => {
                        parse_nack(body).map(|(request, delay_ms)| (request, Verdict::Nack { delay_ms }))
                    }
                    _ => {
                        parse_extend(body).map(|(request, lease_ms)| (request, Verdict::Extend { lease_ms }))
                    }
                };
                let (LeaseRequest { node, jobs }, verdict) = parsed.map_err(|error| body_fault(&error))?;
                let named = jobs.into_iter().map(|(seq, fence)| Named { seq, fence: fence.to_engine() });
                let op =
                    SettleOp { topic: self.topic.as_str().into(), node, named: named.collect(), verdict };
                service.operate(caller, &self.topic, Op::Settle(Box::new(op)))
            }
            Route::PutTopic(_) => {
                let request = match body.is_empty() {
                    true => Default::default(),
                    false => {
                        json()?;
                        parse_config(body).map_err(|error| body_fault(&error))?
                    }
                };
                if let Some(name) = &request.dead_letter {
                    self.access.needs_topic(name)?;
                }
                let config = Box::new(request.normalise());
                service.operate(
                    caller,
                    &self.topic,
                    Op::PutTopic { topic: self.topic.as_str().into(), config },
                )
            }
            Route::GetTopic(_) => {
                let touch = query::query_bool(head.query, "touch", true);
                service.operate(
                    caller,
                    &self.topic,
                    Op::GetTopic { topic: self.topic.as_str().into(), touch },
                )
            }
            Route::DeleteTopic(_) => {
                let if_empty = query::query_bool(head.query, "if_empty", false);
                let topic = self.topic.as_str().into();
                service.operate_registry(caller, RegistryOp::DeleteTopic { topic, if_empty })
            }
            Route::PutRouter(_) => {
                json()?;
                let request = parse_router(body).map_err(|error| body_fault(&error))?;
                for topic in [&request.source, &request.dest] {
                    self.access.needs_topic(topic)?; // A-10(c)
                }
                request.check(self.topic.as_bytes()).map_err(|error| body_fault(&error))?;
                let (name, request) = (self.topic.as_str().into(), Box::new(request));
                service.operate_registry(caller, RegistryOp::Put { name, request })
            }
            Route::GetRouter(_) => {
                let name = self.topic.as_str().into();
                service.operate_registry(caller, RegistryOp::Get { name, access: self.access.clone() })
            }
            Route::DeleteRouter(_) => {
                let name = self.topic.as_str().into();
                service.operate_registry(caller, RegistryOp::Delete { name, access: self.access.clone() })
            }
            Route::ListRouters => {
                let name = |parameter| query::query_str(head.query, parameter).map(Box::<str>::from);
                let list = ListQuery {
                    prefix: name("prefix").unwrap_or_default(),
                    after: after_cursor(head)?,
                    source: name("source"),
                    dest: name("dest"),
                    page_size: query::page_size(head.query),
                };
                let (query, access) = (Box::new(list), self.access.clone());
                service.operate_registry(caller, RegistryOp::List { query, access })
            }
            Route::ListTopics => {
                let page_size = query::page_size(head.query);
                let prefix = query::query_str(head.query, "prefix").unwrap_or_default();
                let op = ListOp {
                    prefixes: self.access.ranges(prefix.as_bytes()),
                    after: after_cursor(head)?.map(|name| name.as_bytes().to_vec()),
                    limit: page_size + 1,
                    touch: query::query_bool(head.query, "touch", false),
                };
                self.gather(service, Parts::List { entries: Vec::new(), page_size });
                service.operate_everywhere(caller, || Op::List(Box::new(op.clone())));
                Handled::Later
            }
            Route::CreateWatch => {
                json()?;
                let request = parse_watch(body, edge.heartbeat_ms_min).map_err(|error| body_fault(&error))?;
                let lenient = query::query_bool(head.query, "lenient", false);
                // Any forbidden name rejects all, before anything is looked up.
                if let Some(topic) =
                    request.topics.keys().find(|topic| !self.access.permits(topic.as_bytes()))
                {
                    return Err(Fault::forbidden_topic(topic));
                }
                service.create_session(caller, request, self.access.clone(), lenient);
                Handled::Later
            }
            Route::OpenWatch(segment) => {
                if !accepts_stream(head.accept) {
                    return Err(Fault::not_acceptable());
                }
                let mut scratch = Vec::new();
                let wid = segment.decode(&mut scratch).map_err(|bad| bad.fault())?;
                let wid = Wid::parse(wid.as_bytes()).ok_or_else(Fault::not_found)?;
                let last_event_id = head.last_event_id.map(Box::from);
                let opens = !self.omit_body;
                service.open_session(caller, wid, self.access.clone(), last_event_id, opens);
                Handled::Later
            }
            Route::Work(_) => {
                if !accepts_stream(head.accept) {
                    return Err(Fault::not_acceptable());
                }
                let node = query::query_str(head.query, "node")
                    .ok_or_else(|| Fault::invalid_request("`node` is missing"))?;
                check_worker(&node).map_err(|error| body_fault(&error))?;
                let number = |name| query::query_str(head.query, name).and_then(|text| text.parse().ok());
                let request = WorkRequest {
                    topic: self.topic.as_str().into(),
                    node: node.into(),
                    max: number("max").unwrap_or(1).clamp(1, u64::from(CLAIM_MAX)) as u32,
                    lease_ms: number("lease_ms").map(clamped_lease),
                };
                let (access, opens) = (self.access.clone(), !self.omit_body);
                service.open_work_stream(caller, request, access, opens);
                Handled::Later
            }
            Route::WebSocket => unreachable!("the connection that would become one sees to it"),
            Route::Metrics => {
                let json = head
                    .accept
                    .is_some_and(|accept| accept.windows(16).any(|window| window == b"application/json"));
                self.gather(service, Parts::Metrics { reports: Vec::new(), json });
                service.operate_everywhere(caller, || Op::Report);
                Handled::Later
            }
            Route::Shards => {
                let topic = query::query_str(head.query, "topic");
                if let Some(topic) = &topic {
                    if !is_topic_name(topic.as_bytes()) {
                        return Err(Fault::invalid_request("`topic` is no name that a topic can have"));
                    }
                    self.access.needs_topic(topic)?;
                }
                sink.begin(200, JSON);
                let of_topic = topic.map(|topic| service.owner(&topic));
                write_shards(sink.body(), service.cores(), edge.shard_ports, of_topic);
                self.end_object(sink.body(), None);
                sink.finish(self.omit_body);
                service.counters.count_status(200);
                return Ok(None);
            }
            Route::Health => {
                sink.begin(200, JSON);
                let out = sink.body();
                out.extend_from_slice(b"{\"status\":\"ok\",\"version\":\"");
                out.extend_from_slice(env!("CARGO_PKG_VERSION").as_bytes());
                out.extend_from_slice(b"\",\"uptime_ms\":");
                write_u64(out, edge.steady_ms);
                out.push(b'}');
                sink.finish(self.omit_body);
                service.counters.count_status(200);
                return Ok(None);
            }
            Route::Ready => {
                self.gather(service, Parts::Ready { reports: Vec::new() });
                service.operate_everywhere(caller, || Op::Report);
                Handled::Later
            }
        };
        Ok(Some(handled))
    }

    fn gather(&mut self, service: &Service, parts: Parts) {
        self.gathering = Some(Box::new(Gathering { left: service.cores(), parts, refused: None }));
    }
}

/// How many cores there are and their ports, or one of them; the object stays open.
fn write_shards(out: &mut Vec<u8>, cores: usize, first_port: Option<u16>, only: Option<usize>) {
    out.extend_from_slice(b"{\"count\":");
    write_u64(out, cores as u64);
    out.extend_from_slice(b",\"shards\":[");
    for shard in (0..cores).filter(|shard| only.is_none_or(|only| only == *shard)) {
        if out.last() == Some(&b'}') {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"shard\":");
        write_u64(out, shard as u64);
        out.extend_from_slice(b",\"port\":");
        match first_port {
            Some(first) => write_u64(out, u64::from(first) + shard as u64),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
    }
    out.push(b']');
}

/// V-1.
fn accepts_stream(accept: Option<&[u8]>) -> bool {
    let Some(accept) = accept.filter(|accept| !accept.is_empty()) else { return true };
    let contains = |part: &[u8]| accept.windows(part.len()).any(|window| window == part);
    contains(b"text/event-stream") || contains(b"*/*")
}

/// The name behind which a list goes on (G-3, G-4).
fn after_cursor(head: &Head<'_>) -> Result<Option<Box<str>>, Fault> {
    let cursor = query::query_str(head.query, "cursor").unwrap_or_default();
    let mut scratch = Vec::new();
    match cursor::decode(&cursor, &mut scratch) {
        Ok(name) => Ok(name.map(Box::from)),
        Err(_) => Err(Fault::invalid_request("`cursor` is not one that this server gave out")),
    }
}

pub(crate) fn body_fault(error: &BodyError) -> Fault {
    match error {
        BodyError::BatchTooLarge => Fault::batch_too_large(BATCH_RECORDS_MAX),
        BodyError::TooManySeqs(seqs) => Fault::too_many_seqs(*seqs, SEQS_MAX as u64),
        BodyError::RecordTooLarge(_) => Fault::record_too_large(error.to_string()),
        BodyError::Invalid(_) => Fault::invalid_request(error.to_string()),
    }
}
