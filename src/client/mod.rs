//! Calls to the API: one agent, one pace, one way to judge an answer. Knows no stream.

mod judge;
mod pace;
mod pages;
mod rows;
mod text;

use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, Days, NaiveTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::auth::{Auth, Scopes};
use crate::config::{Config, OnQuota, Secret};
use crate::error::{Error, Result};
use crate::http::{agent, backoff, is_untrusted, network_text, untrusted_text};
use crate::logger::timer;
use crate::quota::{CallCount, DAILY_QUOTA, share_of_quota};
use judge::{Verdict, judge};
use pace::Pace;
pub(crate) use pages::{Page, Pages};
pub(crate) use rows::{Oddities, Row};
use text::Buffers;

/// The largest body read, in bytes. 500 contacts with all their sub-resources are some 2 MB.
const LARGEST_BODY: u64 = 48 << 20;
/// The longest wait that a `Retry-After` is granted.
const LONGEST_HOLD: Duration = Duration::from_secs(300);
/// How long after the day has turned the quota is taken to be late rather than used up again, and the waits of that
/// time: the first, doubled each time up to the second.
const LATE: (TimeDelta, Duration, Duration) = (TimeDelta::minutes(15), Duration::from_secs(5), Duration::from_secs(60));
/// The client of a run.
pub(crate) struct Client {
    agent: ureq::Agent,
    buffers: Arc<Buffers>,
    auth: Auth,
    /// Scheme, host and port: the only place that the token is sent to.
    origin: String,
    api_url: String,
    pace: Pace,
    max_retries: u32,
    max_requests: Option<u64>,
    on_quota: OnQuota,
    /// The last wait for the quota: one call waits, the others find that it is over.
    waited: Mutex<Option<Waited>>,
    /// The service's time of the first answer.
    first_date: OnceLock<DateTime<Utc>>,
}

/// A call that is to be made.
#[derive(Clone)]
struct Call {
    /// Names the endpoint in metrics.
    endpoint: &'static str,
    url: String,
    /// Of the calls that wait for their place, the lowest leaves first.
    priority: usize,
}

/// An answer as it came.
struct Answer {
    status: u16,
    date: Option<DateTime<Utc>>,
    retry_after: Option<Duration>,
    request_id: String,
    body: Vec<u8>,
}

/// A wait for the daily quota that is over.
struct Waited {
    /// The end of the day that was waited for.
    midnight: DateTime<Utc>,
    ended: Instant,
    /// How often the quota was not back yet since then.
    late: u32,
}

/// Why there is no answer, in words without a URL.
struct Trouble {
    why: String,
    /// Whether another try may have one.
    passes: bool,
}

impl Client {
    pub(crate) fn new(config: &Config, config_file: Option<PathBuf>) -> Result<Client> {
        Ok(Client {
            auth: Auth::new(config, config_file)?,
            agent: agent(config, &config.api_url),
            buffers: Arc::default(),
            origin: config.api_url.origin().ascii_serialization(),
            api_url: config.api_url.as_str().trim_end_matches('/').to_owned(),
            pace: Pace::new(config.requests_per_second, config.max_requests),
            max_retries: config.max_retries,
            max_requests: config.max_requests,
            on_quota: config.on_quota,
            waited: Mutex::new(None),
            first_date: OnceLock::new(),
        })
    }

    /// Waits until no refresh is under way, so that a token that was spent has its successor on disk.
    pub(crate) fn settle(&self) {
        self.auth.settle();
    }

    /// Whether the answer to a token call is waited for, or is not stored yet.
    pub(crate) fn is_renewing(&self) -> bool {
        self.auth.is_renewing()
    }

    /// How many calls must be under way at once for the pace, not the latency, to be the limit: at `p` calls a second
    /// and `l` seconds of latency, `p * l` are. Two seconds are more than the service is known to take.
    pub(crate) fn workers(&self) -> usize {
        self.pace.calls_in(Duration::from_secs(2)).clamp(1, 8)
    }

    /// Who may do what: the one call that needs no scope.
    pub(crate) fn privileges(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Privilege {
            privilege_name: String,
        }
        let list: Vec<Privilege> = self.object("privileges", "/account/user/privileges", &[], 0)?;
        Ok(list.into_iter().map(|p| p.privilege_name).collect())
    }

    /// API calls made so far, failed ones included.
    pub(crate) fn calls(&self) -> u64 {
        self.pace.calls()
    }

    /// How many more calls `max_requests` and a day's quota allow. What other runs have used of the day is not known.
    pub(crate) fn calls_left(&self) -> u64 {
        let calls = self.calls();
        let of_day = DAILY_QUOTA - calls % DAILY_QUOTA;
        self.max_requests.map_or(of_day, |most| most.saturating_sub(calls).min(of_day))
    }

    /// The counter behind [`Client::calls`], for whoever shows it while the run goes on.
    pub(crate) fn call_count(&self) -> CallCount {
        self.pace.call_count()
    }

    /// Logs the calls made and what they are of a day: the last line of every run but for how it ended.
    pub(crate) fn tell_calls(&self) {
        let calls = self.calls();
        log::info!("{calls} calls were made, {} % of the daily quota", share_of_quota(calls));
    }

    /// The run's start by the service's clock, which bookmarks are measured by.
    pub(crate) fn run_start(&self) -> Result<DateTime<Utc>> {
        if self.first_date.get().is_none() {
            // Whatever it says, it is dated; a refusal of this call does not matter.
            match self.object::<serde_json::Value>("contacts_counts", "/contacts/counts", &[], 0) {
                Ok(_) | Err(Error::Forbidden(_) | Error::NotFound(_) | Error::Refused(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(*self.first_date.get_or_init(Utc::now))
    }

    /// The pages of a listing, in order. `endpoint` names it in metrics, `path` begins with `/`; of the calls that wait
    /// for the pace, those of the lowest `priority` leave first.
    pub(crate) fn pages<T: Row>(
        self: &Arc<Self>,
        endpoint: &'static str,
        path: &str,
        query: &[(&str, &str)],
        priority: usize,
    ) -> Pages<T> {
        Pages::new(self, Call { endpoint, url: self.url(path, query), priority })
    }

    /// The first page of a listing.
    pub(crate) fn first<T: Row>(
        &self,
        endpoint: &'static str,
        path: &str,
        query: &[(&str, &str)],
        priority: usize,
    ) -> Result<Page<T>> {
        pages::read_page(self, &Call { endpoint, url: self.url(path, query), priority }, true)
    }

    /// An answer that is not a listing.
    pub(crate) fn object<T: DeserializeOwned>(
        &self,
        endpoint: &'static str,
        path: &str,
        query: &[(&str, &str)],
        priority: usize,
    ) -> Result<T> {
        let call = Call { endpoint, url: self.url(path, query), priority };
        let read = |text: &str| {
            serde_json::from_str(text)
                .map_err(|e| format!("200 response of an unexpected form: line {}, column {}", e.line(), e.column()))
        };
        Ok(self.get(&call, read)?.0)
    }

    /// An answer that is one record rather than a listing, with what was odd about it.
    pub(crate) fn one<T: DeserializeOwned + JsonSchema>(
        &self,
        endpoint: &'static str,
        path: &str,
        priority: usize,
    ) -> Result<(T, Oddities)> {
        let call = Call { endpoint, url: self.url(path, &[]), priority };
        Ok(self.get(&call, rows::read_one)?.0)
    }

    fn url(&self, path: &str, query: &[(&str, &str)]) -> String {
        let mut url = format!("{}{path}", self.api_url);
        if !query.is_empty() {
            url.push('?');
            url.push_str(&url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish());
        }
        url
    }

    /// Renews the grant to prove that it can be; `None` when there is but an access token.
    pub(crate) fn prove(&self) -> Result<Option<Scopes>> {
        self.auth.prove()
    }

    /// What `read` makes of an answer's body, with the body's size in bytes and the service's time; tried again for what
    /// passes by itself. `read` answers with a text where a body is a failed call in spite of its status.
    fn get<B>(
        &self,
        call: &Call,
        mut read: impl FnMut(&str) -> std::result::Result<B, String>,
    ) -> Result<(B, usize, DateTime<Utc>)> {
        let mut failures = 0;
        let mut token = self.auth.bearer()?;
        let mut renewed = false;
        loop {
            if !self.pace.take_place(call.priority) {
                let limit = self.max_requests.unwrap_or_default();
                return Err(Error::Quota(format!(
                    "max_requests ({limit}) are used up; run again with the last STATE to go on"
                )));
            }
            let (why, hold) = match self.call(call.endpoint, &call.url, &token) {
                Err(Trouble { why, passes: false }) => return Err(Error::Failed(why)),
                Err(Trouble { why, passes: true }) => (why, None),
                Ok(answer) => match judge(answer.status, &answer.body) {
                    Verdict::Good => {
                        let at = self.date_of(&answer);
                        let text = text::clean(answer.body);
                        let outcome = read(&text);
                        let size = text.len();
                        self.buffers.give(text.into_bytes());
                        match outcome {
                            Ok(body) => return Ok((body, size, at)),
                            Err(why) => (why + &answer.request_id, None),
                        }
                    }
                    Verdict::Retry(why) => (why + &answer.request_id, answer.retry_after),
                    Verdict::Throttled => {
                        // "throttled" means all of this application's calls together.
                        let pause = Duration::from_millis(1000 + fastrand::u64(..1000));
                        self.pace.hold(answer.retry_after.unwrap_or(pause));
                        ("429 throttled".into(), answer.retry_after)
                    }
                    Verdict::QuotaExceeded => {
                        self.day_is_used_up(answer.date)?;
                        token = self.auth.bearer()?;
                        continue;
                    }
                    Verdict::Unauthorized(_) if !renewed => {
                        renewed = true;
                        log::debug!("{}: the access token was refused; getting another", call.endpoint);
                        token = self.auth.other_than(&token)?;
                        continue;
                    }
                    Verdict::Unauthorized(why) => {
                        return Err(Error::Credentials(format!(
                            "a fresh access token is refused as well ({why}): the application or its grant may have \
                             been revoked, or api_url and auth_url do not belong together"
                        )));
                    }
                    Verdict::Forbidden(why) => return Err(Error::Forbidden(why + &answer.request_id)),
                    Verdict::NotFound(why) => return Err(Error::NotFound(why + &answer.request_id)),
                    Verdict::Refused(why) => return Err(Error::Refused(why + &answer.request_id)),
                    Verdict::Final(why) => return Err(Error::Failed(why + &answer.request_id)),
                },
            };
            failures += 1;
            if failures > self.max_retries {
                return Err(Error::Failed(format!(
                    "{why}; tries: {failures}. Run again later, with the last STATE if there is one"
                )));
            }
            let wait = hold.unwrap_or_else(|| backoff(failures)).min(LONGEST_HOLD);
            log::debug!("{}: {why}; next try in {:.1} s", call.endpoint, wait.as_secs_f64());
            thread::sleep(wait);
        }
    }

    /// The service's time of an answer; that of the run's first good one is the run's start.
    fn date_of(&self, answer: &Answer) -> DateTime<Utc> {
        let now = Utc::now();
        // A gateway whose clock is ahead must not move a bookmark into the future.
        self.first_date.get_or_init(|| answer.date.unwrap_or(now).min(now));
        answer.date.unwrap_or(now)
    }

    /// One call over the wire, its body read to the end.
    fn call(&self, what: &str, url: &str, token: &Secret) -> std::result::Result<Answer, Trouble> {
        let start = Instant::now();
        let outcome = self.exchange(url, token);
        let (status, code) = match &outcome {
            Ok(answer) if answer.status < 300 => ("succeeded", answer.status),
            Ok(answer) => ("failed", answer.status),
            Err(_) => ("failed", 0),
        };
        timer(
            "http_request_duration",
            start.elapsed(),
            &json!({"endpoint": what, "http_status_code": code, "status": status}),
        );
        outcome
    }

    fn exchange(&self, url: &str, token: &Secret) -> std::result::Result<Answer, Trouble> {
        let response = self
            .agent
            .get(url)
            .header("Authorization", format!("Bearer {}", token.expose()))
            .call()
            .map_err(|e| self.trouble(&e))?;
        let (parts, body) = response.into_parts();
        let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
        // What the vendor's support asks for.
        let request_id = header("x-amzn-requestid").map(|id| format!(" (request id {id})")).unwrap_or_default();
        let retry_after = header("retry-after").and_then(|v| v.trim().parse().ok()).map(Duration::from_secs);
        let date = header("date").and_then(|v| DateTime::parse_from_rfc2822(v).ok()).map(|d| d.to_utc());
        let mut text = self.buffers.take();
        let mut body = body.into_with_config().limit(LARGEST_BODY).reader();
        body.read_to_end(&mut text).map_err(|e| match ureq::Error::from(e) {
            ureq::Error::BodyExceedsLimit(_) => {
                let why = format!("a body of over {} MB; set a smaller page_size", LARGEST_BODY >> 20);
                Trouble { why, passes: true }
            }
            other => self.trouble(&other),
        })?;
        // A refusal may echo what was sent.
        let body = if parts.status.is_success() { text } else { without(text, token.expose()) };
        Ok(Answer { status: parts.status.as_u16(), date, retry_after, request_id, body })
    }

    fn trouble(&self, e: &ureq::Error) -> Trouble {
        if is_untrusted(e) {
            return Trouble { why: untrusted_text(&self.origin, e), passes: false };
        }
        Trouble { why: format!("{}: {}", self.origin, network_text(e)), passes: true }
    }

    /// 429 `quota_exceeded`: sleeps until the day turns, or ends the run.
    fn day_is_used_up(&self, now: Option<DateTime<Utc>>) -> Result<()> {
        let answered = Instant::now();
        let now = now.unwrap_or_else(Utc::now);
        let midnight = (now.date_naive() + Days::new(1)).and_time(NaiveTime::MIN).and_utc();
        let left = midnight - now;
        let text = format!(
            "the daily quota of the application is used up after {} calls of this run; the day turns at 00:00 UTC, in {} h {:02} min",
            self.calls(),
            left.num_hours(),
            left.num_minutes() % 60
        );
        match self.on_quota {
            OnQuota::Stop => Err(Error::Quota(format!("{text}. Run again after that with the last STATE to go on"))),
            OnQuota::Wait => {
                let mut waited = self.waited.lock().unwrap_or_else(PoisonError::into_inner);
                match &mut *waited {
                    // Another call has waited for the same meanwhile.
                    Some(last) if answered < last.ended => {}
                    Some(last) if (TimeDelta::zero()..LATE.0).contains(&(now - last.midnight)) => {
                        let wait = LATE.1.saturating_mul(2u32.saturating_pow(last.late)).min(LATE.2);
                        log::info!(
                            "the day has turned, but the daily quota is not back yet; next try in {} s",
                            wait.as_secs()
                        );
                        thread::sleep(wait);
                        last.late += 1;
                        last.ended = Instant::now();
                    }
                    _ => {
                        log::info!("{text}; waiting for it (on_quota: wait)");
                        let until = Utc::now() + left + TimeDelta::seconds(5);
                        // In small steps by the wall clock, since a machine may sleep meanwhile.
                        while let Ok(rest) = (until - Utc::now()).to_std() {
                            thread::sleep(rest.min(Duration::from_secs(30)));
                        }
                        *waited = Some(Waited { midnight, ended: Instant::now(), late: 0 });
                    }
                }
                Ok(())
            }
        }
    }

    /// Where a next link leads, byte for byte: cursors come in forms that any rebuilding would break.
    fn resolve(&self, href: &str) -> Result<String> {
        if href.starts_with('/') && !href.starts_with("//") {
            return Ok(format!("{}{href}", self.origin));
        }
        match href.strip_prefix(&self.origin) {
            Some(rest) if rest.starts_with('/') => Ok(href.to_owned()),
            _ => Err(Error::Failed(format!(
                "a next link leads away from {}; it was not followed, and the token not sent there",
                self.origin
            ))),
        }
    }
}

/// A body in which a secret does not stand.
fn without(body: Vec<u8>, secret: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(&body);
    if !secret.is_empty() && text.contains(secret) { text.replace(secret, "***").into_bytes() } else { body }
}

/// The rows of a page that can be used.
#[cfg(test)]
pub(crate) fn read_rows<T: Row>(page: &str) -> Vec<T> {
    rows::read(page).ok().and_then(|body| body.rows).unwrap_or_default()
}
