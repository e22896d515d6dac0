//! A fake Constant Contact service on the loopback: the API, the
//! authorization server, and one account behind them.
//!
//! It behaves as the service is known to behave; where nobody knows, a switch
//! chooses. Guards given by `account`, `switches` and `tokens` must be dropped
//! before the next request is awaited.

#![allow(missing_docs, clippy::pedantic, reason = "most fields and switches say by their names what they are")]

pub mod account;
mod api;
pub mod auth;
mod campaigns;
mod case;
mod http;
mod stats;

use std::collections::{HashSet, VecDeque};
use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Map, Value, json};

pub use account::{Account, Case, Id, Kind, Size};
pub use auth::AuthServer;

pub use http::Answer;
use http::{Request, Response};

const AUTH_PATH: &str = "/oauth2/default/v1";

/// The order of GET /contacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By a hash of the id.
    Scrambled,
    UpdatedDesc,
    CreatedDesc,
}

/// What the service does where its documents are silent, and its limits.
#[derive(Clone, Debug)]
pub struct Switches {
    /// Whether `updated_after` (and its like) take the bound itself.
    pub updated_after_inclusive: bool,
    /// Which changes move a contact's `updated_at`.
    pub moves_updated_at_on: account::Moves,
    /// With `optout_after` and no status: the usual default (without deleted
    /// contacts) when true, every status when false.
    pub optout_after_defaults_status: bool,
    pub deleted_contact_reports_404: bool,
    /// A longer range of activity_summary gets 400.
    pub summary_max_years: Option<i32>,
    pub lists_limit_1000_ok: bool,
    /// A contact's report without rows lacks their list, instead of having an empty one.
    pub empty_reports_lack_rows: bool,
    /// By how many `contacts_count` exceeds what the listing has.
    pub contacts_counted_too_many: usize,
    /// Definitions name choices as contacts do, by six digits in a string, instead of a number.
    pub choice_ids_as_text: bool,
    /// A broken cursor gets 404 instead of 400.
    pub bad_cursor_404: bool,
    /// For how long a spent refresh token still works.
    pub refresh_grace: Duration,
    pub rotating: bool,
    /// Reuse of a spent refresh token ends the whole grant.
    pub reuse_kills_grant: bool,
    /// Life of an access token in seconds.
    pub expires_in: i64,
    pub per_second: u32,
    /// Count `per_second` by fixed windows instead of a sliding one.
    pub fixed_window: bool,
    pub per_day: u32,
    pub token_per_second: Option<u32>,
    /// Record violations.
    pub strict: bool,
    /// Added to the real time to give the service's clock.
    pub clock_skew: chrono::Duration,
    /// Waited before each answer.
    pub latency: Duration,
    /// Added to the way of each call to the service, by chance up to this.
    pub jitter: Duration,
    /// Compress when the client accepts it.
    pub gzip: bool,
    /// The shape of `_links` on the last page: 0 absent, 1 `{}`, 2 null,
    /// 3 `next.href` null; `None` varies.
    pub last_page: Option<u8>,
    pub contacts_order: Order,
    /// More API calls than this within any second are a violation.
    pub max_pace: Option<u32>,
}

impl Default for Switches {
    fn default() -> Self {
        Switches {
            updated_after_inclusive: false,
            moves_updated_at_on: account::Moves::default(),
            optout_after_defaults_status: true,
            deleted_contact_reports_404: false,
            summary_max_years: None,
            lists_limit_1000_ok: false,
            empty_reports_lack_rows: false,
            contacts_counted_too_many: 0,
            choice_ids_as_text: false,
            bad_cursor_404: false,
            refresh_grace: Duration::ZERO,
            rotating: true,
            reuse_kills_grant: true,
            expires_in: 86_400,
            per_second: 1000,
            fixed_window: false,
            per_day: 10_000,
            token_per_second: None,
            strict: true,
            clock_skew: chrono::Duration::zero(),
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            gzip: true,
            last_page: None,
            contacts_order: Order::Scrambled,
            max_pace: None,
        }
    }
}

/// A request that the fake received.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: String,
    pub path: String,
    /// The query as sent.
    pub query: String,
    /// When it came, before the jitter.
    pub came: Instant,
    /// When it came, after the jitter.
    pub at: Instant,
    /// 0 when the connection was closed instead of an answer.
    pub status: u16,
    /// Whether it went to the authorization server.
    pub is_token: bool,
    pub user_agent: String,
    /// The body of the request, for the authorization server.
    pub body: String,
    number: u64,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum What {
    /// This status, body and content type, without serving the request.
    Status(u16, String, &'static str),
    /// An error of this status with this `Retry-After`, without serving the request.
    RetryAfter(u16, String),
    /// Serve the request, then change its answer: from the body to status, content type and body.
    Change(fn(&Value) -> (u16, &'static str, String)),
    /// An error of this status that shows all that the request brought.
    Echo(u16),
    /// This status with these headers and this JSON, without serving the request. In both, `$TOKEN` stands for the
    /// access token that the request brought, `$ESCAPED` and `$PERCENT` for the same with JSON and percent escapes.
    Answer(u16, Vec<(&'static str, String)>, String),
    Throttled,
    QuotaExceeded,
    Unauthorized,
    Forbidden,
    NotFound,
    /// Close before the request is served.
    Refuse,
    /// Serve the request, then close without an answer.
    LostAnswer,
    /// Serve the request, send half of the body and close.
    CutBody,
    /// Serve the request, send all of the body but its last byte and close.
    CutLastByte,
    /// Serve the request and answer half of the JSON, well framed.
    TruncatedJson,
    /// Serve the request and answer 200 with nothing.
    Empty200,
    /// Serve the request and answer 200 with a web page.
    Html200,
    /// One byte of the body at a time, this far apart.
    SlowDrip(Duration),
    /// Half of the gzip stream, well framed.
    CutGzip,
    /// This text instead of the next link (also on a last page).
    NextLink(String),
    /// The next link is the request itself.
    LoopingLink,
    /// 302 to this address, without serving the request.
    Redirect(String),
    /// A valid answer with this many bytes of padding.
    Big(usize),
    /// A `Date` so far ahead; in an error of this status, or else in a valid answer.
    Ahead(chrono::Duration, Option<u16>),
}

/// A fault, for requests whose path and query hold `path`.
#[derive(Clone, Debug)]
pub struct Fault {
    pub path: String,
    /// Matching requests to leave alone first.
    pub skip: usize,
    /// Matching requests to hit then; `usize::MAX` for ever.
    pub times: usize,
    pub what: What,
}

impl Fault {
    /// A fault for the next matching request.
    pub fn once(path: &str, what: What) -> Fault {
        Fault { path: path.into(), skip: 0, times: 1, what }
    }
}

/// Called before each API call is served.
pub type Hook = Box<dyn FnMut(&str, &mut Account) + Send>;

/// The moments of a call to the authorization server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It has come, and nothing was done about it.
    Arrived,
    /// The answer is on its way.
    Answered,
}

/// Called at the moments of each POST to the authorization server.
pub type TokenHook = Box<dyn FnMut(Moment) + Send>;

/// Called with path and query before each answer is written, which it may change.
pub type AnswerHook = Box<dyn FnMut(&str, &mut Answer) + Send>;

/// The counters of the limits.
#[derive(Default)]
struct Meters {
    accepted: VecDeque<Instant>,
    tokens: VecDeque<Instant>,
    arrivals: VecDeque<Instant>,
    window: (u64, u32),
    day: Option<(NaiveDate, u32)>,
}

struct Inner {
    address: SocketAddr,
    stopped: AtomicBool,
    started: Instant,
    number: AtomicU64,
    account: Mutex<Account>,
    switches: Mutex<Switches>,
    auth: Mutex<AuthServer>,
    calls: Mutex<Vec<Call>>,
    faults: Mutex<Vec<Fault>>,
    hook: Mutex<Option<Hook>>,
    token_hook: Mutex<Option<TokenHook>>,
    answer_hook: Mutex<Option<AnswerHook>>,
    issued: Mutex<HashSet<String>>,
    violations: Mutex<Vec<String>>,
    meters: Mutex<Meters>,
    streams: Mutex<Vec<TcpStream>>,
}

/// The running service. Dropping it stops it, and panics when the client
/// broke the rules and the violations were not taken.
pub struct Fake {
    inner: Arc<Inner>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fake {
    pub fn start(account: Account) -> Fake {
        Fake::start_with(account, Switches::default())
    }

    pub fn start_with(account: Account, switches: Switches) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let inner = Arc::new(Inner {
            address: listener.local_addr().expect("an address"),
            stopped: AtomicBool::new(false),
            started: Instant::now(),
            number: AtomicU64::new(0),
            account: Mutex::new(account),
            switches: Mutex::new(switches),
            auth: Mutex::default(),
            calls: Mutex::default(),
            faults: Mutex::default(),
            hook: Mutex::default(),
            token_hook: Mutex::default(),
            answer_hook: Mutex::default(),
            issued: Mutex::default(),
            violations: Mutex::default(),
            meters: Mutex::default(),
            streams: Mutex::default(),
        });
        let server = inner.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if server.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                if let Ok(copy) = stream.try_clone() {
                    lock(&server.streams).push(copy);
                }
                let server = server.clone();
                thread::spawn(move || server.converse(stream));
            }
        });
        Fake { inner }
    }

    fn base(&self) -> String {
        self.inner.base()
    }

    pub fn api_url(&self) -> String {
        format!("{}/v3", self.base())
    }

    pub fn auth_url(&self) -> String {
        format!("{}{AUTH_PATH}", self.base())
    }

    /// The account, to look at or to change between runs.
    pub fn account(&self) -> MutexGuard<'_, Account> {
        self.inner.account(&self.inner.switches())
    }

    pub fn switches(&self) -> MutexGuard<'_, Switches> {
        lock(&self.inner.switches)
    }

    /// The state of the authorization server.
    pub fn tokens(&self) -> MutexGuard<'_, AuthServer> {
        lock(&self.inner.auth)
    }

    /// The service's clock.
    pub fn now(&self) -> DateTime<Utc> {
        Utc::now() + self.switches().clock_skew
    }

    /// A configuration for the tap, with the refresh token that works now.
    pub fn config(&self) -> Value {
        let auth = self.tokens();
        let mut config = json!({"client_id": auth.client_id});
        if let Some(secret) = &auth.client_secret {
            config["client_secret"] = json!(secret);
        }
        config["refresh_token"] = json!(auth.refresh_token);
        config["api_url"] = json!(self.api_url());
        config["auth_url"] = json!(self.auth_url());
        config["requests_per_second"] = json!(1000);
        config
    }

    /// Every request so far.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.inner.calls).clone()
    }

    /// The requests to the API so far.
    pub fn api_calls(&self) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|c| !c.is_token);
        calls
    }

    pub fn forget_calls(&self) {
        lock(&self.inner.calls).clear();
    }

    pub fn fault(&self, fault: Fault) {
        lock(&self.inner.faults).push(fault);
    }

    /// Takes back every fault, and begins a new day of the quota.
    pub fn heal(&self) {
        lock(&self.inner.faults).clear();
        lock(&self.inner.meters).day = None;
    }

    /// A hook before each API call, given path and query and the account.
    pub fn before_call(&self, hook: Hook) {
        *lock(&self.inner.hook) = Some(hook);
    }

    /// A hook at the moments of each token call.
    pub fn at_token(&self, hook: TokenHook) {
        *lock(&self.inner.token_hook) = Some(hook);
    }

    /// A hook that may change any answer of either server.
    pub fn before_answer(&self, hook: AnswerHook) {
        *lock(&self.inner.answer_hook) = Some(hook);
    }

    /// API calls counted against today's limit.
    pub fn calls_today(&self) -> u32 {
        lock(&self.inner.meters).day.map_or(0, |(_, n)| n)
    }

    /// Sets the count of today's calls.
    pub fn set_calls_today(&self, count: u32) {
        let today = self.now().date_naive();
        lock(&self.inner.meters).day = Some((today, count));
    }

    /// Takes the rules broken so far.
    pub fn violations(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.inner.violations))
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.inner.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.inner.address);
        for stream in lock(&self.inner.streams).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let violations = self.violations();
        if !violations.is_empty() && !thread::panicking() {
            panic!("the client broke the service's rules: {violations:#?}");
        }
    }
}

fn echo(req: &Request, status: u16, is_auth: bool) -> Response {
    let text = format!("{} {}", req.header("authorization").unwrap_or_default(), req.body_text()).repeat(3);
    let (key, message) = if is_auth { ("error", "error_description") } else { ("error_key", "error_message") };
    Response::json(status, &json!({key: text, message: text}))
}

fn answer(req: &Request, status: u16, headers: &[(&'static str, String)], body: &str) -> Response {
    let token = req.header("authorization").and_then(|h| h.strip_prefix("Bearer ")).unwrap_or_default();
    let escape = |form: fn(u8) -> String| -> String { token.bytes().map(form).collect() };
    let (escaped, percent) = (escape(|b| format!("\\u{b:04x}")), escape(|b| format!("%{b:02X}")));
    let filled = |text: &str| text.replace("$TOKEN", token).replace("$ESCAPED", &escaped).replace("$PERCENT", &percent);
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), filled(value))).collect();
    Response { headers, ..Response::new(status, "application/json", filled(body)) }
}

fn throttled() -> Response {
    api::object_error(429, "throttled", "Too Many Requests")
}

fn quota_exceeded() -> Response {
    api::object_error(429, "quota_exceeded", "Limit Exceeded")
}

fn unauthorized() -> Response {
    api::object_error(401, "unauthorized", "Unauthorized")
}

/// Whether one more fits a sliding second, and if so counts it.
fn fits(times: &mut VecDeque<Instant>, now: Instant, limit: u32) -> bool {
    let second = Duration::from_secs(1);
    while times.front().is_some_and(|t| now.duration_since(*t) >= second) {
        times.pop_front();
    }
    let room = times.len() < limit as usize;
    if room {
        times.push_back(now);
    }
    room
}

impl Inner {
    fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    fn switches(&self) -> Switches {
        lock(&self.switches).clone()
    }

    fn account(&self, switches: &Switches) -> MutexGuard<'_, Account> {
        let mut account = lock(&self.account);
        account.clock_skew = switches.clock_skew;
        account.moves = switches.moves_updated_at_on;
        account
    }

    fn violation(&self, switches: &Switches, text: String) {
        if switches.strict {
            lock(&self.violations).push(text);
        }
    }

    fn converse(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut rest = Vec::new();
        while let Ok(Some(req)) = Request::read(&mut stream, &mut rest) {
            if self.stopped.load(Ordering::SeqCst) {
                break;
            }
            // It counts from its arrival, at the end of its way.
            let came = Instant::now();
            let at = came + self.switches().jitter.mul_f64(fastrand::f64());
            let served = catch_unwind(AssertUnwindSafe(|| self.handle(&req, came, at, &mut stream)));
            match served {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => {
                    lock(&self.violations).push(format!("the fake panicked at {}", req.target()));
                    break;
                }
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
    }

    /// The fault that hits this request.
    fn fault_for(&self, target: &str) -> Option<What> {
        let mut faults = lock(&self.faults);
        for fault in faults.iter_mut() {
            if fault.times == 0 || !target.contains(&fault.path) {
                continue;
            }
            if fault.skip > 0 {
                fault.skip -= 1;
                continue;
            }
            if fault.times != usize::MAX {
                fault.times -= 1;
            }
            return Some(fault.what.clone());
        }
        None
    }

    /// Serves one request; false to close the connection.
    fn handle(&self, req: &Request, came: Instant, at: Instant, stream: &mut TcpStream) -> bool {
        let switches = self.switches();
        let target = req.target();
        let is_auth = req.path.starts_with(AUTH_PATH);
        let number = self.number.fetch_add(1, Ordering::SeqCst);
        lock(&self.calls).push(Call {
            method: req.method.clone(),
            path: req.path.clone(),
            query: req.query.clone(),
            came,
            at,
            status: 0,
            is_token: is_auth,
            user_agent: req.header("user-agent").unwrap_or_default().into(),
            body: if is_auth { req.body_text() } else { String::new() },
            number,
        });
        self.watch(req, at, is_auth, &switches);
        thread::sleep(at.saturating_duration_since(Instant::now()) + switches.latency);
        let tell = |moment| {
            if is_auth
                && req.method == "POST"
                && let Some(hook) = lock(&self.token_hook).as_mut()
            {
                hook(moment);
            }
        };
        tell(Moment::Arrived);
        let fault = self.fault_for(&target);
        let mut response = match &fault {
            Some(What::Status(status, body, content_type)) => Response::new(*status, content_type, body.clone()),
            Some(What::RetryAfter(status, wait)) => {
                Response { retry_after: Some(wait.clone()), ..Response::html(*status, "<html>Later</html>") }
            }
            Some(What::Echo(status)) => echo(req, *status, is_auth),
            Some(What::Answer(status, headers, body)) => answer(req, *status, headers, body),
            Some(What::Throttled) => throttled(),
            Some(What::QuotaExceeded) => quota_exceeded(),
            Some(What::Unauthorized) => unauthorized(),
            Some(What::Forbidden) => api::object_error(403, "forbidden", "Forbidden"),
            Some(What::NotFound) => api::not_found(),
            Some(What::Redirect(to)) => Response::redirect(to),
            Some(What::Refuse) => return false,
            Some(What::Ahead(_, Some(status))) => Response::new(*status, "text/plain", "gateway"),
            _ if is_auth => self.authorize(req, at, &switches),
            _ => self.api(req, at, &switches, fault.as_ref()),
        };
        match &fault {
            Some(What::LostAnswer) => return false,
            Some(What::TruncatedJson) => response.body.truncate(response.body.len() / 2),
            Some(What::Change(change)) => {
                let body = serde_json::from_slice(&response.body).unwrap_or_default();
                let (status, content_type, body) = change(&body);
                response = Response::new(status, content_type, body);
            }
            Some(What::Empty200) => response = Response::new(200, "application/json", ""),
            Some(What::Html200) => {
                response = Response::html(200, "<!DOCTYPE html><html><body>One moment</body></html>");
            }
            _ => {}
        }
        let ahead = match fault {
            Some(What::Ahead(by, _)) => by,
            _ => chrono::Duration::zero(),
        };
        let now = Utc::now() + switches.clock_skew + ahead;
        let mut answer = response.finish(&now.format("%a, %d %b %Y %H:%M:%S GMT").to_string(), number);
        if let Some(hook) = lock(&self.answer_hook).as_mut() {
            hook(&target, &mut answer);
        }
        if let Some(call) = lock(&self.calls).iter_mut().rev().find(|c| c.number == number) {
            call.status = answer.status;
        }
        let mut body = std::mem::take(&mut answer.body);
        let accepts = req.header("accept-encoding").is_some_and(|h| h.contains("gzip"));
        let zipped = switches.gzip && accepts && !body.is_empty() || matches!(fault, Some(What::CutGzip));
        if zipped {
            body = http::gzip(&body);
        }
        if matches!(fault, Some(What::CutGzip)) {
            body.truncate(body.len() / 2);
        }
        let head = answer.head(body.len(), zipped);
        match fault {
            Some(What::CutBody | What::CutLastByte) => {
                let length = if matches!(fault, Some(What::CutBody)) { body.len() / 2 } else { body.len() - 1 };
                let _ = stream.write_all(&[head.as_bytes(), &body[..length]].concat());
                false
            }
            Some(What::SlowDrip(pause)) => {
                if stream.write_all(head.as_bytes()).is_err() {
                    return false;
                }
                for byte in body {
                    thread::sleep(pause);
                    if self.stopped.load(Ordering::SeqCst) || stream.write_all(&[byte]).is_err() {
                        return false;
                    }
                }
                true
            }
            _ => {
                let written = stream.write_all(&[head.as_bytes(), &body].concat()).is_ok();
                tell(Moment::Answered);
                written
            }
        }
    }

    /// Checks what holds for every request.
    fn watch(&self, req: &Request, at: Instant, is_auth: bool, switches: &Switches) {
        let target = req.target();
        let query = http::decode_query(&req.query);
        let auth = lock(&self.auth);
        let leaks = query.iter().any(|(key, value)| {
            ["access_token", "refresh_token", "client_secret"].contains(&key.as_str()) || auth.is_secret(value)
        });
        drop(auth);
        if leaks {
            self.violation(switches, format!("a secret in the address: {}", req.path));
        }
        // A browser opens the consent page; it is not the client.
        let by_client = !is_auth || req.method == "POST";
        if by_client && req.header("user-agent").is_none_or(str::is_empty) {
            self.violation(switches, format!("no User-Agent: {}", req.path));
        }
        if is_auth {
            return;
        }
        if req.method != "GET" {
            self.violation(switches, format!("{} {target}", req.method));
        }
        if let Some(pace) = switches.max_pace {
            let mut meters = lock(&self.meters);
            meters.arrivals.push_back(at);
            meters.arrivals.make_contiguous().sort();
            let pace = pace as usize;
            while meters.arrivals.len() > pace + 1 {
                meters.arrivals.pop_front();
            }
            let span = meters.arrivals[meters.arrivals.len() - 1].duration_since(meters.arrivals[0]);
            if meters.arrivals.len() == pace + 1 && span < Duration::from_secs(1) {
                lock(&self.violations).push(format!("more than {pace} calls in a second: {target}"));
            }
        }
    }

    /// The bot filter before either server.
    fn filtered(req: &Request) -> Option<Response> {
        let agent = req.header("user-agent").unwrap_or_default();
        (agent.is_empty() || agent.starts_with("Python-urllib"))
            .then(|| Response::html(403, "<html><body>Access denied</body></html>"))
    }

    fn authorize(&self, req: &Request, at: Instant, switches: &Switches) -> Response {
        if req.method == "POST" {
            if let Some(refusal) = Inner::filtered(req) {
                return refusal;
            }
            if let Some(limit) = switches.token_per_second
                && !fits(&mut lock(&self.meters).tokens, at, limit)
            {
                return Response::new(429, "text/plain", "Too Many Requests");
            }
        }
        let now = Utc::now() + switches.clock_skew;
        lock(&self.auth).serve(req, switches, now, &self.base())
    }

    fn metered(&self, at: Instant, switches: &Switches) -> Option<Response> {
        let today = (Utc::now() + switches.clock_skew).date_naive();
        let mut meters = lock(&self.meters);
        let (day, count) = meters.day.unwrap_or((today, 0));
        let count = if day == today { count + 1 } else { 1 };
        meters.day = Some((today, count));
        if count > switches.per_day {
            return Some(quota_exceeded());
        }
        let room = if switches.fixed_window {
            let window = at.duration_since(self.started).as_secs();
            let count = if meters.window.0 == window { meters.window.1 } else { 0 };
            meters.window = (window, count + 1);
            count < switches.per_second
        } else {
            fits(&mut meters.accepted, at, switches.per_second)
        };
        (!room).then(throttled)
    }

    fn api(&self, req: &Request, at: Instant, switches: &Switches, fault: Option<&What>) -> Response {
        if let Some(refusal) = Inner::filtered(req) {
            return refusal;
        }
        if !req.path.starts_with("/v3/") {
            return Response::json(403, &json!({"message": "Forbidden"}));
        }
        let now = Utc::now() + switches.clock_skew;
        let bearer = req.header("authorization").and_then(|h| h.strip_prefix("Bearer "));
        let (good, scopes, privileges) = {
            let auth = lock(&self.auth);
            let good = bearer.is_some_and(|t| auth.accepts(t, now));
            (good, auth.granted_scopes.clone(), auth.privileges.clone())
        };
        if !good {
            return unauthorized();
        }
        if let Some(refusal) = self.metered(at, switches) {
            return refusal;
        }
        if req.method != "GET" {
            return Response::json(
                405,
                &json!([{"error_key": "method_not_allowed", "error_message": "Method Not Allowed"}]),
            );
        }
        let target = req.target();
        let mut account = self.account(switches);
        if let Some(hook) = lock(&self.hook).as_mut() {
            hook(&target, &mut account);
        }
        let issued = lock(&self.issued);
        let mut context = api::Context {
            account: &mut account,
            switches,
            scopes: &scopes,
            privileges: &privileges,
            issued: &issued,
            violations: Vec::new(),
        };
        let answer = context.serve(req);
        let violations = context.violations;
        drop(issued);
        drop(account);
        lock(&self.violations).extend(violations);
        let page = match answer {
            Ok(page) => page,
            Err(refusal) => return refusal,
        };
        let next = match fault {
            Some(What::NextLink(href)) => Some(href.clone()),
            Some(What::LoopingLink) => Some(target.clone()),
            _ => page.next,
        };
        let mut body = page.body;
        if let Value::Object(map) = &mut body {
            if let Some(href) = next {
                lock(&self.issued).insert(href.clone());
                map.insert("_links".into(), json!({"next": {"href": href}}));
            } else if page.paged {
                let varied = account::hash(&target) % 4;
                last_page(map, switches.last_page.map_or(varied, u64::from));
            }
        }
        let mut response = Response::json(200, &body);
        if let (Some(What::Big(size)), Some(b'}')) = (fault, response.body.last()) {
            response.body.pop();
            response.body.extend_from_slice(b",\"padding\":\"");
            response.body.resize(response.body.len() + size, b'x');
            response.body.extend_from_slice(b"\"}");
        }
        response
    }
}

/// Ends a listing in one of the four ways seen.
fn last_page(body: &mut Map<String, Value>, shape: u64) {
    let links = match shape {
        0 => return,
        1 => json!({}),
        2 => Value::Null,
        _ => json!({"next": {"href": null}}),
    };
    body.insert("_links".into(), links);
}
