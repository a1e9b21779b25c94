//! A server process, a client that speaks bytes, and the checks that every answer has to pass.
//!
//! The server is the real binary with two cores. [`Server::names`] gives topic names owned by the one
//! and by the other, so that each table sees the local and the forwarded path whatever core its
//! connection landed on.

use runelog_engine::shard::owner_of;
use serde_json::{Map, Value};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Nothing that a test waits for takes this long, not even on a disk that others keep busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
/// The wait of long-polls that must be ended by an append.
pub(crate) const LONG_WAIT_MS: u64 = 20_000;

/// A running server. Its guard is a shell that ends it and removes its directory when the pipe from here
/// closes, which it does however this process ends.
pub(crate) struct Server {
    guard: Child,
    dir: PathBuf,
    pub(crate) addr: SocketAddr,
    directory: u64,
}

impl Server {
    /// The server that tests share which leave each other's topics alone.
    pub(crate) fn shared() -> &'static Server {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| Server::start(&[]))
    }

    pub(crate) fn start(settings: &[(&str, &str)]) -> Server {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("runelog-wire-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let script = "\"$0\" serve >\"$1/log\" 2>&1 & server=$!; echo $server >\"$1/pid\"; cat >/dev/null; \
                      kill -9 $server 2>/dev/null; wait $server 2>/dev/null; rm -rf \"$1\"";
        let guard = Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_runelog")])
            .arg(&dir)
            .env("RUNELOG_HOST", "127.0.0.1")
            .env("RUNELOG_PORT", "0")
            .env("RUNELOG_PORT_FILE", dir.join("port"))
            .env("RUNELOG_DATA_DIR", dir.join("data"))
            .env("RUNELOG_WAL_FILE_BYTES", "4194304")
            .env("RUNELOG_SHARDS", "2")
            .envs(settings.iter().copied())
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let addr = wait_for_port(&dir);
        let layout = std::fs::read(dir.join("data/layout")).expect("the layout file");
        let directory = u64::from_le_bytes(layout[16..24].try_into().expect("eight bytes"));
        Server { guard, dir, addr, directory }
    }

    /// Asks the server to end in order (SH-1).
    pub(crate) fn terminate(&self) {
        let pid = std::fs::read_to_string(self.dir.join("pid")).expect("the shell wrote it");
        // SAFETY: a signal to a process that our shell has not waited for yet.
        let sent = unsafe { libc::kill(pid.trim().parse().expect("a number"), libc::SIGTERM) };
        assert_eq!(sent, 0, "the server is there");
    }

    /// Two topic names that begin with `tag`: the first owned by core 0, the second by core 1.
    pub(crate) fn names(&self, tag: &str) -> [String; 2] {
        [0, 1].map(|core| {
            (0..)
                .map(|number| format!("{tag}-{number}"))
                .find(|name| owner_of(name.as_bytes(), self.directory, 2) == core)
                .expect("every second name")
        })
    }

    pub(crate) fn connect(&self) -> Client {
        Server::connect_at(self.addr)
    }

    pub(crate) fn connect_at(addr: SocketAddr) -> Client {
        let stream = TcpStream::connect(addr).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Client { stream, input: Vec::new() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// Source and destination for each pair of cores, the same one twice included.
pub(crate) fn pairs(server: &Server, tag: &str) -> [[String; 2]; 4] {
    let cores = [(0, 0), (0, 1), (1, 0), (1, 1)];
    let name = |from: usize, to: usize, end: &str, core: usize| {
        server.names(&format!("{tag}-{from}{to}-{end}"))[core].clone()
    };
    cores.map(|(from, to)| [name(from, to, "src", from), name(from, to, "dst", to)])
}

fn wait_for_port(dir: &Path) -> SocketAddr {
    let port: PathBuf = dir.join("port");
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(addr) = std::fs::read_to_string(&port).ok().and_then(|text| text.parse().ok()) {
            return addr;
        }
        let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "the server did not start: {}", log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One connection.
pub(crate) struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Client {
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server takes bytes");
    }

    /// Says that nothing more will come.
    pub(crate) fn finish(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("half a shutdown");
    }

    /// Goes away at once, as a killed client does: with a reset. A plain close might be half a one, of a
    /// client that still waits for its answer.
    pub(crate) fn abort(self) {
        use std::os::fd::AsRawFd;
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: an option of our own socket, of the type that it takes.
        let result = unsafe {
            libc::setsockopt(
                self.stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of::<libc::linger>() as libc::socklen_t,
            )
        };
        assert_eq!(result, 0, "SO_LINGER");
    }

    /// The next answer; `head` when it answers a HEAD and has no body.
    pub(crate) fn answer_to(&mut self, head: bool) -> Answer {
        let mut answer = self.answer_head();
        let body_bytes = match answer.status {
            100 => 0,
            _ if head => 0,
            _ => answer.header("content-length").expect("a length").parse().expect("a number"),
        };
        while self.input.len() < body_bytes {
            assert!(self.fill(), "closed inside a body");
        }
        answer.body = self.input.drain(..body_bytes).collect();
        answer
    }

    /// Status and headers of the next answer. What follows is for the caller to take.
    pub(crate) fn answer_head(&mut self) -> Answer {
        let head_end = loop {
            if let Some(at) = self.input.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            assert!(self.fill(), "closed before an answer: {:?}", String::from_utf8_lossy(&self.input));
        };
        let head: Vec<u8> = self.input.drain(..head_end).collect();
        let text = String::from_utf8(head).expect("ASCII");
        let mut lines = text.split("\r\n");
        let status_line = lines.next().expect("a status line");
        let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status: u16 = status.unwrap_or_else(|| panic!("a status line: {status_line}"));
        let headers: Vec<(String, String)> = lines
            .take_while(|line| !line.is_empty())
            .map(|line| line.split_once(':').unwrap_or_else(|| panic!("a header: {line}")))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Answer { status, headers, body: Vec::new() }
    }

    /// More bytes of an answer without a length; none at the end.
    pub(crate) fn more(&mut self) -> Vec<u8> {
        if self.input.is_empty() {
            self.fill();
        }
        std::mem::take(&mut self.input)
    }

    pub(crate) fn answer(&mut self) -> Answer {
        self.answer_to(false)
    }

    /// Whether something came; false at the end.
    fn fill(&mut self) -> bool {
        let mut bytes = [0; 64 << 10];
        match self.stream.read(&mut bytes) {
            Ok(0) => false,
            Ok(count) => {
                self.input.extend_from_slice(&bytes[..count]);
                true
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("no answer: {error}; so far {:?}", String::from_utf8_lossy(&self.input)),
        }
    }

    /// The server closes, and has said nothing more.
    pub(crate) fn assert_closed(&mut self, why: &str) {
        assert!(self.input.is_empty(), "{why}: more came: {:?}", String::from_utf8_lossy(&self.input));
        match self.stream.read(&mut [0; 64]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("{why}: the connection stays open ({other:?})"),
        }
    }

    /// The connection is still good for another request.
    pub(crate) fn assert_usable(&mut self, why: &str) {
        let answer = self.get("/v0/health");
        assert_eq!(answer.status, 200, "{why}");
    }

    pub(crate) fn call(&mut self, method: &str, target: &str, body: &str) -> Answer {
        self.send(request(method, target, body));
        let answer = self.answer_to(method == "HEAD");
        answer.check(target);
        answer
    }

    /// A call with a key.
    pub(crate) fn call_as(&mut self, key: &str, method: &str, target: &str, body: &str) -> Answer {
        self.send(request_as(key, method, target, body));
        let answer = self.answer_to(method == "HEAD");
        answer.check(target);
        answer
    }

    pub(crate) fn get(&mut self, target: &str) -> Answer {
        self.call("GET", target, "")
    }

    pub(crate) fn put(&mut self, topic: &str, config: &str) -> Answer {
        self.call("PUT", &format!("/v0/topics/{topic}"), config)
    }

    pub(crate) fn drop_topic(&mut self, topic: &str) -> Answer {
        self.call("DELETE", &format!("/v0/topics/{topic}"), "")
    }

    /// A topic of this configuration and nothing in it.
    pub(crate) fn fresh(&mut self, topic: &str, config: &str) {
        self.drop_topic(topic);
        assert_eq!(self.put(topic, config).status, 201, "{topic}");
    }

    pub(crate) fn append(&mut self, topic: &str, body: &str) -> Answer {
        self.call("POST", &format!("/v0/topics/{topic}"), body)
    }

    /// Appends one record for each data, and insists.
    pub(crate) fn append_all(&mut self, topic: &str, data: &[&str]) {
        let records: Vec<String> = data.iter().map(|data| format!("{{\"data\":{data}}}")).collect();
        let answer = self.append(topic, &format!("{{\"records\":[{}]}}", records.join(",")));
        assert!(answer.status / 100 == 2, "{answer:?}");
    }

    pub(crate) fn diff(&mut self, topic: &str, body: &str) -> Answer {
        self.call("POST", &format!("/v0/topics/{topic}/diff"), body)
    }

    pub(crate) fn delete(&mut self, topic: &str, body: &str) -> Answer {
        self.call("POST", &format!("/v0/topics/{topic}/delete"), body)
    }

    pub(crate) fn state(&mut self, topic: &str) -> Value {
        let answer = self.get(&format!("/v0/topics/{topic}"));
        assert_eq!(answer.status, 200, "{topic}: {}", answer.text());
        answer.json()
    }

    /// The data of everything that one read from 0 delivers.
    pub(crate) fn data(&mut self, topic: &str) -> Vec<Value> {
        let read = self.diff(topic, r#"{"limit":1000}"#).json();
        read["records"].as_array().expect("records").iter().map(|record| record["data"].clone()).collect()
    }

    /// Asks until `found` is right. What is asked for must come by itself.
    pub(crate) fn until(&mut self, target: &str, what: &str, found: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let answer = self.get(target).json();
            if found(&answer) {
                return answer;
            }
            assert!(began.elapsed() < PATIENCE, "{what}: {answer}");
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Everything observable of a topic that a refusal must leave alone: its state and all it holds.
    pub(crate) fn snapshot(&mut self, topic: &str) -> (u16, Value, Value) {
        let state = self.get(&format!("/v0/topics/{topic}?touch=false"));
        let mut shown = state.json();
        for member in ["performance", "last_read_ts", "effective_priority"] {
            shown.as_object_mut().expect("an object").remove(member);
        }
        let mut records = self.diff(topic, r#"{"include_tags":true,"limit":1000}"#).json();
        records.as_object_mut().expect("an object").remove("performance");
        (state.status, shown, records)
    }
}

/// A request as usual clients send it.
pub(crate) fn request(method: &str, target: &str, body: &str) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: test\r\n");
    if !body.is_empty() {
        text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    format!("{text}\r\n{body}").into_bytes()
}

/// The same with a key.
pub(crate) fn request_as(key: &str, method: &str, target: &str, body: &str) -> Vec<u8> {
    let text = String::from_utf8(request(method, target, body)).expect("UTF-8");
    text.replacen("\r\n", &format!("\r\nAuthorization: Bearer {key}\r\n"), 1).into_bytes()
}

/// A body in chunks of `bytes` bytes.
pub(crate) fn chunked(body: &[u8], bytes: usize, extension: &str, trailers: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(bytes) {
        out.extend_from_slice(format!("{:X}{extension}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
    out
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A member of the body.
    pub(crate) fn member(&self, name: &str) -> Value {
        self.json()[name].clone()
    }

    pub(crate) fn u64(&self, name: &str) -> u64 {
        self.member(name).as_u64().unwrap_or_else(|| panic!("{name} in {}", self.text()))
    }

    /// The body without what differs from run to run. As a value: the order of members is free (E-6).
    pub(crate) fn steady(&self) -> Value {
        steady(self.json())
    }

    /// What holds for every answer: T-11, T-12, M-3, E-1…E-4, E-10, P-1.
    pub(crate) fn check(&self, what: &str) {
        for absent in ["server", "content-encoding", "access-control-allow-origin", "www-authenticate"] {
            assert_eq!(self.header(absent), None, "T-11 T-12 A-13 {what}");
        }
        assert!(self.header("date").is_some(), "T-12 {what}");
        if matches!(self.status, 429 | 503) {
            assert_eq!(self.header("retry-after"), Some("1"), "E-10 {what}");
        }
        assert_eq!(self.status == 405, self.header("allow").is_some(), "T-15 {what}");
        if self.body.is_empty() || self.header("content-type") != Some("application/json") {
            return;
        }
        let json = self.json();
        let json = json.as_object().unwrap_or_else(|| panic!("E-1 {what}: no object"));
        match json.get("error") {
            None => {
                assert!(self.status / 100 == 2, "E-1 {what}");
                let probe = ["/v0/health", "/v0/ready", "/v0/metrics", "/healthz", "/readyz"];
                let probe = probe.iter().any(|path| what.starts_with(path));
                let timed = json.get("performance").is_some_and(|all| all["server_total_ms"].is_number());
                assert_eq!(timed, !probe, "P-1 {what}");
                if let Some(times) = json.get("performance").and_then(Value::as_object) {
                    assert!(times.values().all(Value::is_number), "P-2 {what}");
                }
            }
            Some(error) => {
                assert!(self.status >= 400, "E-1 {what}");
                assert_eq!(json.len(), 1, "E-2 E-4 {what}");
                let error = error.as_object().expect("E-2: an object");
                let known = ["code", "message", "detail"];
                assert!(error.keys().all(|key| known.contains(&key.as_str())), "E-2 {what}");
                assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "E-3 {what}");
                assert!(error.get("detail").is_none_or(|detail| detail.is_object()), "E-2 {what}");
            }
        }
    }

    /// A refusal: status, code and the whole `detail`, `null` for none.
    pub(crate) fn assert_fault(&self, status: u16, code: &str, detail: &Value, what: &str) {
        assert_eq!(self.status, status, "{what}: {}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), Some("application/json"), "M-3 {what}");
        self.check(what);
        let error = self.member("error");
        assert_eq!(error["code"], code, "{what}: {}", self.text());
        assert_eq!(&error["detail"], detail, "{what}: {}", self.text());
    }
}

/// Removes `performance`, and puts zero for `$ts`.
pub(crate) fn steady(mut json: Value) -> Value {
    fn zero_ts(object: &mut Map<String, Value>) {
        if let Some(ts) = object.get_mut("$ts") {
            assert!(ts.is_i64() || ts.is_u64(), "M-4: {ts}");
            *ts = 0.into();
        }
    }
    if let Some(object) = json.as_object_mut() {
        object.remove("performance");
        if let Some(Value::Array(records)) = object.get_mut("records") {
            records.iter_mut().filter_map(Value::as_object_mut).for_each(zero_ts);
        }
    }
    json
}
