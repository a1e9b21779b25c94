//! HTTP to a running server: one keep-alive connection, and requests that are tried again.
//! Lives here: what is worth another try, and how long. Not here: what is asked (`import`, `tail`).

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Largest answer read: a diff of the largest budget, with room for what is around the payloads.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// A request that takes longer counts as lost. A long-poll waits 30 s on purpose.
const CALL_SECONDS_MAX: u64 = 90;
/// First and longest pause between two tries.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LONGEST: Duration = Duration::from_secs(2);

/// A connection to one server.
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
}

/// Where a client's key comes from. Not from a flag, which everyone on the machine could read.
pub(crate) const KEY_VARIABLE: &str = "RUNELOG_KEY";

/// What `Authorization` says in every request of this process; `None` without a key.
pub(crate) fn bearer() -> Option<&'static str> {
    static BEARER: LazyLock<Option<String>> = LazyLock::new(|| {
        let key = std::env::var(KEY_VARIABLE).ok().filter(|key| !key.trim().is_empty());
        key.map(|key| format!("Bearer {}", key.trim()))
    });
    BEARER.as_deref()
}

/// A status and a body.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The body as it came.
    pub(crate) body: Vec<u8>,
    /// What `Retry-After` says.
    retry_after: Option<Duration>,
}

impl Answer {
    /// The answer as an error for people: status, code and message of the envelope.
    pub(crate) fn complaint(&self) -> String {
        #[derive(serde::Deserialize)]
        struct Envelope {
            error: Inner,
        }
        #[derive(serde::Deserialize)]
        struct Inner {
            code: String,
            message: String,
        }
        match serde_json::from_slice::<Envelope>(&self.body) {
            Ok(Envelope { error }) => format!("{} {}: {}", self.status, error.code, error.message),
            Err(_) => {
                let start: String = String::from_utf8_lossy(&self.body).chars().take(200).collect();
                format!("{} {start}", self.status)
            }
        }
    }

    /// Whether the same request may fare better later (E-10; a 5xx published nothing, W-36).
    fn is_passing(&self) -> bool {
        self.status == 429 || self.status >= 500
    }
}

impl Client {
    /// A client for `http://host:port`, with the key of [`KEY_VARIABLE`] if that is set.
    pub(crate) fn new(url: &str) -> Result<Client, String> {
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(format!("{url} does not start with http://; a server speaks plain HTTP only"));
        };
        let base = format!("http://{}", rest.trim_end_matches('/'));
        let uri = base.parse::<ureq::http::Uri>();
        if !uri.is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty())) {
            return Err(format!("{url} is not an address such as http://127.0.0.1:4000"));
        }
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(CALL_SECONDS_MAX)))
            .max_redirects(0)
            .proxy(None)
            .build()
            .new_agent();
        Ok(Client { agent, base })
    }

    /// One GET.
    pub(crate) fn get(&self, path: &str) -> Result<Answer, String> {
        self.read(with_key(self.agent.get(self.url(path))).call())
    }

    /// One POST of a JSON body.
    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Result<Answer, String> {
        let request = self.agent.post(self.url(path)).content_type("application/json");
        self.read(with_key(request).send(body))
    }

    /// One PUT of a JSON body.
    pub(crate) fn put(&self, path: &str, body: &[u8]) -> Result<Answer, String> {
        let request = self.agent.put(self.url(path)).content_type("application/json");
        self.read(with_key(request).send(body))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn read(&self, outcome: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer, String> {
        let lost = |error: ureq::Error| format!("{}: {error}", self.base);
        let mut response = outcome.map_err(lost)?;
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(lost)?;
        Ok(Answer { status, body, retry_after })
    }
}

fn with_key<Kind>(request: ureq::RequestBuilder<Kind>) -> ureq::RequestBuilder<Kind> {
    match bearer() {
        Some(bearer) => request.header("Authorization", bearer),
        None => request,
    }
}

/// Asks until the answer is not a passing one (nobody there, 429, 5xx) or `patience` is over since the
/// first failure. Only for requests that may be repeated: reads, and writes with an idempotency key.
/// `told` hears once why it is taking longer.
pub(crate) fn persist(
    patience: Duration,
    told: &dyn Fn(&str),
    ask: impl Fn() -> Result<Answer, String>,
) -> Result<Answer, String> {
    let mut pause = PAUSE_FIRST;
    let mut failing_since = None;
    loop {
        let outcome = ask();
        let (why, asked_pause) = match &outcome {
            Ok(answer) if answer.is_passing() => (answer.complaint(), answer.retry_after),
            Ok(_) => return outcome,
            Err(why) => (why.clone(), None),
        };
        let since = *failing_since.get_or_insert_with(|| {
            told(&format!("{why}; trying again for {} s", patience.as_secs_f32()));
            Instant::now()
        });
        // What the server asks for is bounded as well: it must not park a client for an hour.
        let next = pause.max(asked_pause.unwrap_or_default().min(PAUSE_LONGEST));
        if since.elapsed() + next > patience {
            return Err(format!("gave up after {:.1} s: {why}", since.elapsed().as_secs_f32()));
        }
        std::thread::sleep(next);
        pause = (pause * 2).min(PAUSE_LONGEST);
    }
}
