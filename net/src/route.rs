//! The table from method and path to what is asked for (§1.2).
//! Lives here: which paths and methods this build serves, and the names in a path.
//! Not here: queries (`http::query`), what happens then (handlers).
//! Always true: paths are compared as raw bytes (T-20), and a name is decoded only after its path
//! matched (B-1), so `%2F` in a name is never a separator.

use crate::fault::Fault;
use crate::http::percent;
use crate::http::request::Method;

/// A name in a path as it was sent. [`Segment::decode`] gives the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a>(&'a [u8]);

/// A segment whose decoded bytes are not UTF-8 (T-23).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSegment;

impl BadSegment {
    /// The answer.
    pub fn fault(self) -> Fault {
        Fault::invalid_request("the name in the path is not UTF-8")
    }
}

impl<'a> Segment<'a> {
    /// The bytes as sent.
    pub fn raw(self) -> &'a [u8] {
        self.0
    }

    /// The name: borrowed from the target when nothing is escaped, else written to `scratch` (T-22).
    pub fn decode<'s>(self, scratch: &'s mut Vec<u8>) -> Result<&'s str, BadSegment>
    where
        'a: 's,
    {
        let name: &'s [u8] = if percent::is_escaped(self.0) {
            scratch.clear();
            percent::decode_into(self.0, false, scratch);
            scratch
        } else {
            self.0
        };
        std::str::from_utf8(name).map_err(|_| BadSegment)
    }
}

/// What a request asks for. HEAD routes like GET (T-13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// `PUT /v0/topics/{topic}`: create or reconfigure (3.1)
    PutTopic(Segment<'a>),
    /// `GET /v0/topics/{topic}`: state (3.2)
    GetTopic(Segment<'a>),
    /// `GET /v0/topics` (3.3)
    ListTopics,
    /// `DELETE /v0/topics/{topic}` (3.4)
    DeleteTopic(Segment<'a>),
    /// `POST /v0/topics/{topic}`: append records (4)
    Append(Segment<'a>),
    /// `POST /v0/topics/{topic}/diff`: read after a cursor (5)
    Diff(Segment<'a>),
    /// `POST /v0/topics/{topic}/delete`: delete records (6)
    DeleteRecords(Segment<'a>),
    /// `POST /v0/topics/{topic}/claim` (10.2)
    Claim(Segment<'a>),
    /// `POST /v0/topics/{topic}/ack` (10.4)
    Ack(Segment<'a>),
    /// `POST /v0/topics/{topic}/nack` (10.5)
    Nack(Segment<'a>),
    /// `POST /v0/topics/{topic}/extend` (10.6)
    Extend(Segment<'a>),
    /// `GET /v0/topics/{topic}/work`: a stream of jobs (10.7)
    Work(Segment<'a>),
    /// `POST /v0/watch`: create a session (8.1)
    CreateWatch,
    /// `GET /v0/watch/{wid}`: its event stream (8.2)
    OpenWatch(Segment<'a>),
    /// `PUT /v0/routers/{router}`: create or reconfigure (7.1)
    PutRouter(Segment<'a>),
    /// `GET /v0/routers/{router}` (7.2)
    GetRouter(Segment<'a>),
    /// `DELETE /v0/routers/{router}` (7.2)
    DeleteRouter(Segment<'a>),
    /// `GET /v0/routers` (7.3)
    ListRouters,
    /// `GET /v0/shards`: which port reaches the core that owns a topic
    Shards,
    /// `GET /v0/health`, `/healthz` (H-1)
    Health,
    /// `GET /v0/ready`, `/readyz` (H-2)
    Ready,
    /// `GET /v0/metrics` (H-4)
    Metrics,
    /// `GET /v0/ws`: the connection becomes a WebSocket (9)
    WebSocket,
}

impl<'a> Route<'a> {
    /// The topic or router named in the path, if the path names one.
    pub fn topic(&self) -> Option<Segment<'a>> {
        match *self {
            Route::PutTopic(topic)
            | Route::GetTopic(topic)
            | Route::DeleteTopic(topic)
            | Route::Append(topic)
            | Route::Diff(topic)
            | Route::DeleteRecords(topic)
            | Route::Claim(topic)
            | Route::Ack(topic)
            | Route::Nack(topic)
            | Route::Extend(topic)
            | Route::Work(topic) => Some(topic),
            Route::PutRouter(router) | Route::GetRouter(router) | Route::DeleteRouter(router) => Some(router),
            Route::ListTopics
            | Route::ListRouters
            | Route::CreateWatch
            | Route::OpenWatch(_)
            | Route::Shards
            | Route::Health
            | Route::Ready
            | Route::Metrics
            | Route::WebSocket => None,
        }
    }

    /// Whether the request body is read; on the others it is ignored, whatever it is (T-16).
    pub fn takes_body(&self) -> bool {
        match self {
            Route::PutTopic(_)
            | Route::Append(_)
            | Route::Diff(_)
            | Route::DeleteRecords(_)
            | Route::Claim(_)
            | Route::Ack(_)
            | Route::Nack(_)
            | Route::Extend(_)
            | Route::CreateWatch
            | Route::PutRouter(_) => true,
            Route::GetTopic(_)
            | Route::ListTopics
            | Route::DeleteTopic(_)
            | Route::Work(_)
            | Route::OpenWatch(_)
            | Route::GetRouter(_)
            | Route::DeleteRouter(_)
            | Route::ListRouters
            | Route::Shards
            | Route::Health
            | Route::Ready
            | Route::Metrics
            | Route::WebSocket => false,
        }
    }
}

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routed<'a> {
    /// To a handler.
    To(Route<'a>),
    /// Unknown path: `404 not_found` (T-21).
    NotFound,
    /// Known path, wrong method: `405` with this `Allow` (T-14, T-15).
    MethodNotAllowed(&'static str),
}

/// Looks a method and a raw path up.
pub fn route(method: Method, path: &[u8]) -> Routed<'_> {
    let read = matches!(method, Method::Get | Method::Head);
    let read_only = |route| if read { Routed::To(route) } else { Routed::MethodNotAllowed("GET, HEAD") };
    match path {
        b"/v0/topics" => return read_only(Route::ListTopics),
        b"/v0/routers" => return read_only(Route::ListRouters),
        b"/v0/shards" => return read_only(Route::Shards),
        b"/v0/health" | b"/healthz" => return read_only(Route::Health),
        b"/v0/ready" | b"/readyz" => return read_only(Route::Ready),
        b"/v0/metrics" => return read_only(Route::Metrics),
        b"/v0/ws" => return read_only(Route::WebSocket),
        b"/v0/watch" if method == Method::Post => return Routed::To(Route::CreateWatch),
        b"/v0/watch" => return Routed::MethodNotAllowed("POST"),
        _ => {}
    }
    // A raw `/` ends a name; one in the name is escaped.
    if let Some((wid, action)) = below(path, b"/v0/watch/") {
        return if action.is_none() { read_only(Route::OpenWatch(Segment(wid))) } else { Routed::NotFound };
    }
    if let Some((name, action)) = below(path, b"/v0/routers/") {
        return if action.is_none() { on_router(method, Segment(name)) } else { Routed::NotFound };
    }
    let Some((name, action)) = below(path, b"/v0/topics/") else { return Routed::NotFound };
    let (topic, post) = (Segment(name), method == Method::Post);
    let post_only = |route| if post { Routed::To(route) } else { Routed::MethodNotAllowed("POST") };
    match action {
        None => on_topic(method, topic),
        Some(b"diff") => post_only(Route::Diff(topic)),
        Some(b"delete") => post_only(Route::DeleteRecords(topic)),
        Some(b"claim") => post_only(Route::Claim(topic)),
        Some(b"ack") => post_only(Route::Ack(topic)),
        Some(b"nack") => post_only(Route::Nack(topic)),
        Some(b"extend") => post_only(Route::Extend(topic)),
        Some(b"work") => read_only(Route::Work(topic)),
        Some(_) => Routed::NotFound,
    }
}

/// The name below a collection and what follows it; none if there is no name
/// (`/v0/topics/` and `/v0/topics//diff`, T-20).
pub(crate) fn below<'a>(path: &'a [u8], collection: &[u8]) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let rest = path.strip_prefix(collection).filter(|rest| !rest.is_empty() && rest[0] != b'/')?;
    Some(match memchr::memchr(b'/', rest) {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    })
}

fn on_topic(method: Method, topic: Segment<'_>) -> Routed<'_> {
    Routed::To(match method {
        Method::Put => Route::PutTopic(topic),
        Method::Get | Method::Head => Route::GetTopic(topic),
        Method::Delete => Route::DeleteTopic(topic),
        Method::Post => Route::Append(topic),
        Method::Options | Method::Patch | Method::Trace | Method::Connect | Method::Other => {
            return Routed::MethodNotAllowed("GET, HEAD, PUT, POST, DELETE");
        }
    })
}

fn on_router(method: Method, router: Segment<'_>) -> Routed<'_> {
    Routed::To(match method {
        Method::Put => Route::PutRouter(router),
        Method::Get | Method::Head => Route::GetRouter(router),
        Method::Delete => Route::DeleteRouter(router),
        _ => return Routed::MethodNotAllowed("GET, HEAD, PUT, DELETE"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHODS: [Method; 10] = [
        Method::Get,
        Method::Head,
        Method::Put,
        Method::Post,
        Method::Delete,
        Method::Options,
        Method::Patch,
        Method::Trace,
        Method::Connect,
        Method::Other,
    ];

    #[test]
    fn each_path_serves_its_methods_and_names_them_to_the_others() {
        let t = Segment(b"t");
        let read = |route| vec![(Method::Get, route), (Method::Head, route)];
        type Row<'a> = (&'a str, &'a [u8], Vec<(Method, Route<'a>)>, &'a str);
        let table: [Row<'_>; 20] = [
            // rule, path, what its methods mean, Allow
            ("T-15 3.3", b"/v0/topics", read(Route::ListTopics), "GET, HEAD"),
            ("T-15 7.3", b"/v0/routers", read(Route::ListRouters), "GET, HEAD"),
            (
                "T-15 7",
                b"/v0/routers/t",
                vec![
                    (Method::Get, Route::GetRouter(t)),
                    (Method::Head, Route::GetRouter(t)),
                    (Method::Put, Route::PutRouter(t)),
                    (Method::Delete, Route::DeleteRouter(t)),
                ],
                "GET, HEAD, PUT, DELETE",
            ),
            ("T-15", b"/v0/shards", read(Route::Shards), "GET, HEAD"),
            ("T-15 H-1", b"/v0/health", read(Route::Health), "GET, HEAD"),
            ("T-15 H-1", b"/healthz", read(Route::Health), "GET, HEAD"),
            ("T-15 H-2", b"/v0/ready", read(Route::Ready), "GET, HEAD"),
            ("T-15 H-2", b"/readyz", read(Route::Ready), "GET, HEAD"),
            ("T-15 H-4", b"/v0/metrics", read(Route::Metrics), "GET, HEAD"),
            ("T-15 9", b"/v0/ws", read(Route::WebSocket), "GET, HEAD"),
            ("T-15 8.1", b"/v0/watch", vec![(Method::Post, Route::CreateWatch)], "POST"),
            ("T-15 8.2", b"/v0/watch/t", read(Route::OpenWatch(t)), "GET, HEAD"),
            ("T-15 5", b"/v0/topics/t/diff", vec![(Method::Post, Route::Diff(t))], "POST"),
            ("T-15 6", b"/v0/topics/t/delete", vec![(Method::Post, Route::DeleteRecords(t))], "POST"),
            ("T-15 10.2", b"/v0/topics/t/claim", vec![(Method::Post, Route::Claim(t))], "POST"),
            ("T-15 10.4", b"/v0/topics/t/ack", vec![(Method::Post, Route::Ack(t))], "POST"),
            ("T-15 10.5", b"/v0/topics/t/nack", vec![(Method::Post, Route::Nack(t))], "POST"),
            ("T-15 10.6", b"/v0/topics/t/extend", vec![(Method::Post, Route::Extend(t))], "POST"),
            ("T-15 10.7", b"/v0/topics/t/work", read(Route::Work(t)), "GET, HEAD"),
            (
                "T-15 3 4",
                b"/v0/topics/t",
                vec![
                    (Method::Get, Route::GetTopic(t)),
                    (Method::Head, Route::GetTopic(t)),
                    (Method::Put, Route::PutTopic(t)),
                    (Method::Post, Route::Append(t)),
                    (Method::Delete, Route::DeleteTopic(t)),
                ],
                "GET, HEAD, PUT, POST, DELETE",
            ),
        ];
        for (rule, path, served, allow) in table {
            for method in METHODS {
                let expected = match served.iter().find(|(known, _)| *known == method) {
                    Some((_, route)) => Routed::To(*route),
                    None => Routed::MethodNotAllowed(allow),
                };
                assert_eq!(route(method, path), expected, "T-13 T-14 {rule} {method:?}");
            }
            assert_eq!(served.len(), allow.split(", ").count(), "{rule}");
        }
    }

    #[test]
    fn any_other_path_is_unknown_for_every_method() {
        let table: [(&str, &[u8]); 29] = [
            ("T-20 case", b"/v0/Topics"),
            ("T-20 case", b"/V0/topics"),
            ("T-20 case", b"/v0/topics/t/Diff"),
            ("T-20 trailing slash", b"/v0/topics/"),
            ("T-20 trailing slash", b"/v0/topics/t/"),
            ("T-20 trailing slash", b"/v0/topics/t/diff/"),
            ("T-20 trailing slash", b"/v0/health/"),
            ("T-20 doubled slash", b"//v0/topics"),
            ("T-20 doubled slash", b"/v0//topics"),
            ("T-20 doubled slash", b"/v0/topics//t"),
            ("T-20 doubled slash", b"/v0/topics//diff"),
            ("T-20 doubled slash", b"/v0/topics/t//diff"),
            ("T-20 escapes", b"/v0/topic%73"),
            ("T-20 escapes", b"/v0/topics/t/d%69ff"),
            ("T-20 escapes", b"/v0/topics%2Ft"),
            ("T-20 dots", b"/v0/./topics"),
            ("T-20 dots", b"/v0/x/../topics"),
            ("T-21", b"/"),
            ("T-21", b"/v0"),
            ("T-21", b"/v1/topics"),
            ("T-21", b"/metrics"),
            ("T-21", b""),
            ("T-21", b"*"),
            ("T-21", b"/v0/topics/t/other"),
            ("T-21", b"/v0/topics/t/diff/x"),
            ("T-20 trailing slash", b"/v0/watch/"),
            ("T-20 trailing slash", b"/v0/watch/w/"),
            ("T-20 trailing slash", b"/v0/routers/"),
            ("T-21", b"/v0/routers/r/x"),
        ];
        for (rule, path) in table {
            for method in METHODS {
                assert_eq!(route(method, path), Routed::NotFound, "{rule} {}", path.escape_ascii());
            }
        }
    }

    #[test]
    fn a_name_is_decoded_after_its_path_matched() {
        let table: [(&str, &[u8], Result<&str, BadSegment>); 14] = [
            // rule, path, name
            ("T-22", b"/v0/topics/ledger", Ok("ledger")),
            ("T-22", b"/v0/topics/a%2Fb", Ok("a/b")),
            ("T-22", b"/v0/topics/a%2fdiff", Ok("a/diff")),
            ("T-24", b"/v0/topics/a-%3Eb", Ok("a->b")),
            ("T-22", b"/v0/topics/100%", Ok("100%")),
            ("T-22", b"/v0/topics/%zz", Ok("%zz")),
            ("T-22", b"/v0/topics/a+b", Ok("a+b")),
            ("T-22", b"/v0/topics/a+b%2Fc", Ok("a+b/c")),
            ("T-22", "/v0/topics/gr\u{fc}n".as_bytes(), Ok("gr\u{fc}n")),
            ("T-22", b"/v0/topics/gr%C3%BCn", Ok("gr\u{fc}n")),
            ("T-20 dots", b"/v0/topics/..", Ok("..")),
            ("T-20", b"/v0/topics/diff", Ok("diff")),
            ("T-23", b"/v0/topics/%FF", Err(BadSegment)),
            ("T-23", b"/v0/topics/a%C3", Err(BadSegment)),
        ];
        for (rule, path, name) in table {
            let mut scratch = b"left over".to_vec();
            let Routed::To(Route::GetTopic(topic)) = route(Method::Get, path) else { panic!("{rule}") };
            assert_eq!(topic.decode(&mut scratch), name, "{rule}");
            assert_eq!(Route::GetTopic(topic).topic(), Some(topic), "{rule}");
            assert_eq!(topic.raw(), &path[b"/v0/topics/".len()..], "{rule}");
        }
        let mut scratch = Vec::new();
        let Routed::To(Route::PutRouter(router)) = route(Method::Put, b"/v0/routers/a-%3Eb%2Fc") else {
            panic!("T-24")
        };
        assert_eq!(router.decode(&mut scratch), Ok("a->b/c"), "T-22 T-24");
        assert_eq!(BadSegment.fault().status(), 400, "T-23");
        // The route is decided first: an undecodable name on an unknown path, or with a wrong method.
        assert_eq!(route(Method::Get, b"/v0/topics/%FF/x"), Routed::NotFound, "B-1");
        assert_eq!(route(Method::Get, b"/v0/topics/%FF/diff"), Routed::MethodNotAllowed("POST"), "B-1");
    }

    #[test]
    fn a_body_is_read_where_one_is_taken() {
        let table: [(&str, Method, &[u8], bool); 14] = [
            ("T-16", Method::Get, b"/v0/topics", false),
            ("T-16", Method::Head, b"/v0/topics/t", false),
            ("T-16", Method::Delete, b"/v0/topics/t", false),
            ("T-16", Method::Get, b"/v0/metrics", false),
            ("T-16", Method::Get, b"/v0/watch/w", false),
            ("T-16", Method::Post, b"/v0/watch", true),
            ("T-16", Method::Get, b"/v0/routers", false),
            ("T-16", Method::Get, b"/v0/routers/r", false),
            ("T-16", Method::Delete, b"/v0/routers/r", false),
            ("T-16", Method::Put, b"/v0/routers/r", true),
            ("T-16", Method::Put, b"/v0/topics/t", true),
            ("T-16", Method::Post, b"/v0/topics/t", true),
            ("T-16", Method::Post, b"/v0/topics/t/diff", true),
            ("T-16", Method::Post, b"/v0/topics/t/delete", true),
        ];
        for (rule, method, path, takes_body) in table {
            let Routed::To(route) = route(method, path) else { panic!("{rule}") };
            assert_eq!(route.takes_body(), takes_body, "{rule} {method:?}");
        }
    }
}
