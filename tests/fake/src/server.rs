//! The server: reads requests, counts them against the limits, applies faults, and answers.

use std::collections::{HashSet, VecDeque};
use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{NaiveDate, Utc};
use serde_json::{Map, Value, json};

use super::http::{self, Request, Response};
use super::{
    AUTH_PATH, Account, AnswerHook, AuthServer, Call, Fault, Hook, LastPage, Moment, Switches, TokenHook, What,
};
use super::{account, api, fault};

/// The counters behind the limits.
#[derive(Default)]
pub(super) struct Meters {
    accepted: VecDeque<Instant>,
    tokens: VecDeque<Instant>,
    arrivals: VecDeque<Instant>,
    window: (u64, u32),
    /// The UTC day and its number of API calls.
    pub(super) day: Option<(NaiveDate, u32)>,
}

/// What the threads of the fake share.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) stopped: AtomicBool,
    pub(super) started: Instant,
    pub(super) number: AtomicU64,
    pub(super) account: Mutex<Account>,
    pub(super) switches: Mutex<Switches>,
    pub(super) auth: Mutex<AuthServer>,
    pub(super) calls: Mutex<Vec<Call>>,
    pub(super) faults: Mutex<Vec<Fault>>,
    pub(super) hook: Mutex<Option<Hook>>,
    pub(super) token_hook: Mutex<Option<TokenHook>>,
    pub(super) answer_hook: Mutex<Option<AnswerHook>>,
    pub(super) issued: Mutex<HashSet<String>>,
    pub(super) violations: Mutex<Vec<String>>,
    pub(super) meters: Mutex<Meters>,
    pub(super) streams: Mutex<Vec<TcpStream>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Whether a sliding second has room for one more; if so, counts it.
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

impl Server {
    pub(super) fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn switches(&self) -> Switches {
        lock(&self.switches).clone()
    }

    pub(super) fn account(&self, switches: &Switches) -> MutexGuard<'_, Account> {
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

    /// Serves the requests of one connection until it ends.
    pub(super) fn serve_connection(&self, mut stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut rest = Vec::new();
        while let Ok(Some(req)) = Request::read(&mut stream, &mut rest) {
            if self.stopped.load(Ordering::SeqCst) {
                break;
            }
            // A request counts when it arrives, after its jitter.
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

    /// The fault for this request, if any; counts it as used.
    fn next_fault(&self, target: &str) -> Option<What> {
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
        self.check_rules(req, at, is_auth, &switches);
        thread::sleep(at.saturating_duration_since(Instant::now()) + switches.latency);
        let notify = |moment| {
            if is_auth
                && req.method == "POST"
                && let Some(hook) = lock(&self.token_hook).as_mut()
            {
                hook(moment);
            }
        };
        notify(Moment::Arrived);
        let fault = self.next_fault(&target);
        let mut response = match &fault {
            Some(What::Status(status, body, content_type)) => Response::new(*status, content_type, body.clone()),
            Some(What::RetryAfter(status, wait)) => {
                Response { retry_after: Some(wait.clone()), ..Response::html(*status, "<html>Later</html>") }
            }
            Some(What::Echo(status)) => fault::echo(req, *status, is_auth),
            Some(What::Answer(status, headers, body)) => fault::answer(req, *status, headers, body),
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
                notify(Moment::Answered);
                written
            }
        }
    }

    /// Checks the rules that hold for every request.
    fn check_rules(&self, req: &Request, at: Instant, is_auth: bool, switches: &Switches) {
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
        // The consent page is opened by a browser and not by the client.
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

    /// The bot filter in front of both servers.
    fn bot_filter(req: &Request) -> Option<Response> {
        let agent = req.header("user-agent").unwrap_or_default();
        (agent.is_empty() || agent.starts_with("Python-urllib"))
            .then(|| Response::html(403, "<html><body>Access denied</body></html>"))
    }

    fn authorize(&self, req: &Request, at: Instant, switches: &Switches) -> Response {
        if req.method == "POST" {
            if let Some(refusal) = Server::bot_filter(req) {
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

    /// Counts an API call; 429 if a limit is exceeded.
    fn check_limits(&self, at: Instant, switches: &Switches) -> Option<Response> {
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
        if let Some(refusal) = Server::bot_filter(req) {
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
        if let Some(refusal) = self.check_limits(at, switches) {
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
                let forms = [LastPage::NoLinks, LastPage::EmptyLinks, LastPage::NullLinks, LastPage::NullHref];
                let varied = forms[usize::try_from(account::hash(&target) % 4).expect("small")];
                end_listing(map, switches.last_page.unwrap_or(varied));
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

/// Ends a listing in one of the four ways that clients have seen.
fn end_listing(body: &mut Map<String, Value>, form: LastPage) {
    let links = match form {
        LastPage::NoLinks => return,
        LastPage::EmptyLinks => json!({}),
        LastPage::NullLinks => Value::Null,
        LastPage::NullHref => json!({"next": {"href": null}}),
    };
    body.insert("_links".into(), links);
}
