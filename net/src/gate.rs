//! What a request needs before it is routed (§12): a key, scopes, a name inside the key's prefixes.
//! Lives here: the table from method and raw path to those, for known paths and unknown ones (A-8).
//! Not here: keys (`auth`), where the request goes (`route`), names in bodies and lists.
//! Always true: no path but the probes and a watch's stream gets past without a valid key.

use crate::auth::{Access, Keys, Scopes};
use crate::fault::Fault;
use crate::http::query::query_str;
use crate::http::request::{Head, Method};
use crate::route::below;

/// Who may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need<'a> {
    /// Everyone, or with `probe_auth` any valid key (A-12).
    Probe,
    /// Judged by the session (A-11): the key that made it, or nobody's with authentication off.
    Session,
    /// A valid key with these scopes; and the name in the path inside its prefixes.
    Key { scopes: Scopes, name: Option<&'a [u8]>, token: bool },
}

/// Authentication (401), before everything else but framing (B-1). Returns with the access what is still to
/// be [permitted](permit), if a key was asked for; then the request counts as one of its key in flight (L-6).
pub(crate) fn identify<'a>(
    keys: &Keys,
    probe_auth: bool,
    head: &Head<'a>,
) -> Result<(Access, Option<Need<'a>>), Fault> {
    if !keys.is_on() {
        return Ok((Access::EVERYTHING, None));
    }
    let need = need(head.method, head.path);
    let with_token = matches!(need, Need::Session | Need::Key { token: true, .. });
    let token = if with_token { query_str(head.query, "token") } else { None };
    let found = || keys.identify(head.authorization, token.as_deref().map(str::as_bytes));
    match need {
        Need::Probe if !probe_auth => Ok((Access::EVERYTHING, None)),
        Need::Session => Ok((found().unwrap_or(Access::NOTHING), None)),
        Need::Probe | Need::Key { .. } => found().map(|access| (access, Some(need))),
    }
}

/// Scope and prefix (403), after the cap of requests in flight.
pub(crate) fn permit(access: &Access, need: Need<'_>) -> Result<(), Fault> {
    let Need::Key { scopes, name, .. } = need else { return Ok(()) };
    access.needs(scopes)?;
    match name {
        Some(name) if !access.permits(name) => Err(Fault::forbidden("the key does not permit this name")),
        _ => Ok(()),
    }
}

fn need(method: Method, path: &[u8]) -> Need<'_> {
    let read = matches!(method, Method::Get | Method::Head); // A-7
    let key = |scopes| Need::Key { scopes, name: None, token: false };
    match path {
        b"/v0/health" | b"/healthz" | b"/v0/ready" | b"/readyz" => return Need::Probe,
        b"/v0/topics" | b"/v0/routers" | b"/v0/shards" | b"/v0/watch" | b"/v0/metrics" => {
            return key(Scopes::READ);
        }
        b"/v0/ws" => return key(Scopes::NONE), // A-15
        _ => {}
    }
    if let Some((topic, action)) = below(path, b"/v0/topics/") {
        let post = method == Method::Post;
        let work = read && action == Some(b"work");
        let scopes = match action {
            None if read => Scopes::READ,
            None if method == Method::Put => Scopes::ADMIN,
            None if method == Method::Delete => Scopes::DELETE,
            Some(b"diff") if post => Scopes::READ,
            Some(b"delete") if post => Scopes::DELETE,
            Some(b"claim") if post => Scopes::READ_WRITE,
            _ if work => Scopes::READ_WRITE,
            // Append, ack, nack, extend, and what does not exist (A-8).
            _ => Scopes::WRITE,
        };
        return Need::Key { scopes, name: Some(topic), token: work };
    }
    if let Some((router, action)) = below(path, b"/v0/routers/") {
        let scopes = match action {
            None if read => Scopes::READ,
            None if method == Method::Delete => Scopes::DELETE,
            _ => Scopes::ADMIN,
        };
        return Need::Key { scopes, name: Some(router), token: false };
    }
    match below(path, b"/v0/watch/") {
        Some((_, None)) if read => Need::Session,
        Some(_) => key(Scopes::READ),
        None => key(Scopes::NONE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `probe`, `session`, or the letters of the scopes with the name and `t` for a token.
    fn shown(method: Method, path: &str) -> String {
        match need(method, path.as_bytes()) {
            Need::Probe => "probe".into(),
            Need::Session => "session".into(),
            Need::Key { scopes, name, token } => {
                let letters =
                    [(Scopes::READ, 'r'), (Scopes::WRITE, 'w'), (Scopes::DELETE, 'd'), (Scopes::ADMIN, 'a')];
                let scopes: String = letters
                    .iter()
                    .filter(|(scope, _)| scopes.cover(*scope))
                    .map(|(_, letter)| letter)
                    .collect();
                let name = name.map_or(String::new(), |name| format!(" {}", name.escape_ascii()));
                format!("{scopes}{name}{}", if token { " +token" } else { "" })
            }
        }
    }

    #[test]
    fn each_request_needs_its_scopes() {
        use Method::{Delete, Get, Head, Options, Other, Patch, Post, Put};
        let table: &[(&str, &[Method], &str, &str)] = &[
            ("A-12", &[Get, Head, Post], "/v0/health", "probe"),
            ("A-12", &[Get, Head], "/healthz", "probe"),
            ("A-12", &[Get, Head], "/v0/ready", "probe"),
            ("A-12", &[Get, Head], "/readyz", "probe"),
            ("A-12", &[Get, Head], "/v0/metrics", "r"),
            ("A-6 A-7", &[Get, Head], "/v0/topics", "r"),
            ("A-8", &[Post, Delete, Patch], "/v0/topics", "r"),
            ("A-6 A-7", &[Get, Head], "/v0/topics/t", "r t"),
            ("A-6", &[Put], "/v0/topics/t", "a t"),
            ("A-6", &[Delete], "/v0/topics/t", "d t"),
            ("A-6 A-9", &[Post], "/v0/topics/t", "w t"),
            ("A-8", &[Options, Patch, Other], "/v0/topics/t", "w t"),
            ("A-6", &[Post], "/v0/topics/t/diff", "r t"),
            ("A-8", &[Get, Put], "/v0/topics/t/diff", "w t"),
            ("A-6", &[Post], "/v0/topics/t/delete", "d t"),
            ("A-8", &[Delete], "/v0/topics/t/delete", "w t"),
            ("A-6", &[Post], "/v0/topics/t/claim", "rw t"),
            ("A-8", &[Get], "/v0/topics/t/claim", "w t"),
            ("A-6", &[Post], "/v0/topics/t/ack", "w t"),
            ("A-6", &[Post], "/v0/topics/t/nack", "w t"),
            ("A-6", &[Post], "/v0/topics/t/extend", "w t"),
            ("A-6 A-14", &[Get, Head], "/v0/topics/t/work", "rw t +token"),
            ("A-8", &[Post], "/v0/topics/t/work", "w t"),
            ("A-8", &[Get, Post, Put], "/v0/topics/t/other", "w t"),
            ("A-8", &[Get], "/v0/topics/t/diff/x", "w t"),
            ("A-8", &[Get], "/v0/topics/t/", "w t"),
            ("A-10", &[Get], "/v0/topics/a%2Fb", "r a%2Fb"),
            ("A-8", &[Get, Put], "/v0/topics/", ""),
            ("A-8", &[Post], "/v0/topics//diff", ""),
            ("A-6", &[Get], "/v0/routers", "r"),
            ("A-6", &[Get, Head], "/v0/shards", "r"),
            ("A-8", &[Post], "/v0/routers", "r"),
            ("A-6", &[Get, Head], "/v0/routers/a-%3Eb", "r a-%3Eb"),
            ("A-6", &[Put], "/v0/routers/r", "a r"),
            ("A-6", &[Delete], "/v0/routers/r", "d r"),
            ("A-8", &[Post, Patch], "/v0/routers/r", "a r"),
            ("A-8", &[Get, Delete], "/v0/routers/r/x", "a r"),
            ("A-6", &[Post], "/v0/watch", "r"),
            ("A-8", &[Get, Put], "/v0/watch", "r"),
            ("A-11 A-14", &[Get, Head], "/v0/watch/wid_x", "session"),
            ("A-8", &[Post, Delete], "/v0/watch/wid_x", "r"),
            ("A-8", &[Get], "/v0/watch/wid_x/y", "r"),
            ("A-15", &[Get, Post], "/v0/ws", ""),
            ("A-8", &[Get], "/v0/ws/x", ""),
            ("A-8", &[Get], "/", ""),
            ("A-8", &[Get], "/metrics", ""),
            ("A-8", &[Post], "/v0/Topics/t", ""),
        ];
        for (rule, methods, path, needed) in table {
            for method in *methods {
                assert_eq!(shown(*method, path), *needed, "{rule} {method:?} {path}");
            }
        }
    }
}
