//! Makes the calls to the API, with pacing, retries and the access token. Knows no stream.

mod judge;
mod pace;
mod pages;
mod quota_wait;
mod rows;
mod text;

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use log::Level;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use ureq::http::HeaderValue;
use ureq::unversioned::transport::{Connector, DefaultConnector};

use crate::auth::Auth;
use crate::config::{Config, OnQuota};
use crate::error::{Error, Result};
use crate::http::{Retry, agent, is_unsent, is_untrusted, network_text, retry_after, untrusted_text};
use crate::logger::timer;
use crate::quota::{CallCount, DAILY_QUOTA};
use crate::secret::{Secret, mask};
use crate::shown::plural;
use judge::{Verdict, judge};
use pace::{Connected, Pace};
pub(crate) use pages::{Page, Pages};
use quota_wait::{QuotaWait, until_midnight};
use rows::unreadable;
pub(crate) use rows::{Oddities, Row};
use text::{Buffers, shown};

/// The largest body that is read, in bytes. 500 contacts with all their sub-resources take about 2 MB.
const LARGEST_BODY: u64 = 48 << 20;
/// Bodies up to this size are read in parallel. Larger ones are read and parsed one at a time, to save memory.
const SMALL_BODY: u64 = 4 << 20;
/// At most this part of the calls that are left is made ahead.
const PART_AHEAD: u64 = 8;

/// The client of a run.
pub(crate) struct Client {
    agent: ureq::Agent,
    buffers: Arc<Buffers>,
    /// Held while a large body is read and parsed.
    large_body: Mutex<()>,
    pub(crate) auth: Auth,
    /// Scheme, host and port: the only place that the token is sent to.
    origin: String,
    api_url: String,
    pace: Arc<Pace>,
    max_retries: u32,
    max_requests: Option<u64>,
    on_quota: OnQuota,
    /// The last wait for the quota, and when it ended. One call waits; the others find here that the wait is over.
    last_wait: Mutex<Option<(QuotaWait, Instant)>>,
    /// The service's time of the first good answer.
    first_date: OnceLock<DateTime<Utc>>,
    /// Whether any call was answered, with whatever status.
    was_reached: AtomicBool,
    /// Whether any call has succeeded.
    has_answered: AtomicBool,
    /// How many calls the run needs before there is anything to resume from, as far as is known.
    least_calls: AtomicU64,
}

/// The access token of a call. Nothing from an answer may show it, nor one of the earlier tokens.
struct Bearer {
    current: Secret,
    /// All secrets that the run has held, this token among them.
    secrets: Vec<Secret>,
}

/// A secret this long stands in no data by chance. A shorter one may be a word that somebody put for the client secret.
const LONG: usize = 16;

impl Bearer {
    /// What no message may show.
    fn secrets(&self) -> impl Iterator<Item = &str> {
        self.secrets.iter().map(Secret::expose)
    }

    /// What no record may hold.
    fn secrets_in_data(&self) -> impl Iterator<Item = &str> {
        let is_certain = |secret: &&Secret| **secret == self.current || secret.expose().len() >= LONG;
        self.secrets.iter().filter(is_certain).map(Secret::expose)
    }

    #[cfg(test)]
    fn of(token: &str) -> Bearer {
        let current = Secret::from(token.to_owned());
        Bearer { secrets: vec![current.clone()], current }
    }
}

/// What tells a person which account it is.
#[derive(Default, Deserialize)]
pub(crate) struct AccountIdentity {
    pub(crate) organization_name: Option<String>,
    pub(crate) encoded_account_id: Option<String>,
}

/// A call to make.
#[derive(Clone)]
struct Call {
    /// Names the endpoint in log lines and metrics.
    endpoint: &'static str,
    url: String,
    /// Among calls that wait for the pace, the one with the lowest priority is made first.
    priority: usize,
}

/// An answer, its body read to the end.
struct Answer {
    status: u16,
    date: Option<DateTime<Utc>>,
    /// The wait that the service asks for.
    hold: Option<Duration>,
    /// The gateway's name for an error.
    error_type: Option<String>,
    /// The id of the request, for the vendor's support, as a suffix for messages.
    request_id: String,
    body: Vec<u8>,
}

/// A successful answer.
struct Received<B> {
    body: B,
    /// The size of the body in bytes.
    size: usize,
    /// The service's time.
    at: DateTime<Utc>,
}

/// Why an attempt failed.
enum Failure {
    /// Another attempt may succeed, after the wait `hold` if the service asks for one.
    Passing { why: String, hold: Option<Duration> },
    /// The daily quota is used up, at this time by the service's clock.
    Quota(Option<DateTime<Utc>>),
    /// The access token was refused.
    Token(String),
    /// The body is large, and another large one is being read.
    Large,
    /// Another attempt would fail in the same way.
    Final(Error),
}

impl Client {
    pub(crate) fn new(config: &Config, config_file: Option<PathBuf>) -> Result<Client> {
        let pace = Arc::new(Pace::new(config.requests_per_second, config.max_requests));
        let connector = DefaultConnector::new().chain(Connected(Arc::clone(&pace)));
        Ok(Client {
            auth: Auth::new(config, config_file)?,
            agent: agent(config, &config.api_url, connector)?,
            buffers: Arc::default(),
            large_body: Mutex::new(()),
            origin: config.api_url.origin().ascii_serialization(),
            api_url: config.api_url.as_str().trim_end_matches('/').to_owned(),
            pace,
            max_retries: config.max_retries,
            max_requests: config.max_requests,
            on_quota: config.on_quota,
            last_wait: Mutex::new(None),
            first_date: OnceLock::new(),
            was_reached: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
            least_calls: AtomicU64::new(0),
        })
    }

    /// How many calls to make in parallel so that the pace is the limit and not the latency: `p * l` at `p` calls per
    /// second and a latency of `l` seconds. No call is known to take more than two seconds.
    /// Near the limit it is fewer: calls made ahead are lost if the run ends before their turn.
    pub(crate) fn workers(&self) -> usize {
        let affordable = usize::try_from(self.calls_left() / PART_AHEAD).unwrap_or(usize::MAX);
        self.pace.calls_in(Duration::from_secs(2)).min(affordable).clamp(1, 8)
    }

    /// The privileges of the user who logged in. This is the one call that needs no scope.
    pub(crate) fn privileges(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Privilege {
            privilege_name: String,
        }
        let call = Call { endpoint: "privileges", url: self.url("/account/user/privileges", &[]), priority: 0 };
        let list =
            self.get(&call, |text, _| serde_json::from_str::<Vec<Privilege>>(text).map_err(|e| unreadable(&e)))?;
        Ok(list.body.into_iter().map(|p| p.privilege_name).collect())
    }

    /// Which account the login belongs to, in text that can be shown. This takes the scope `account_read`.
    pub(crate) fn account(&self) -> Result<AccountIdentity> {
        let call = Call { endpoint: "account_summary", url: self.url("/account/summary", &[]), priority: 0 };
        let read = |text: &str, token: &Bearer| {
            let AccountIdentity { organization_name, encoded_account_id } =
                serde_json::from_str(text).map_err(|e| shown(&unreadable(&e), token))?;
            let shown = |text: Option<String>| text.map(|text| shown(&text, token));
            Ok(AccountIdentity {
                organization_name: shown(organization_name),
                encoded_account_id: shown(encoded_account_id),
            })
        };
        Ok(self.get(&call, read)?.body)
    }

    /// API calls made so far, including failed ones, except those that could not connect.
    pub(crate) fn calls(&self) -> u64 {
        self.pace.calls()
    }

    /// Whether any call has been answered. Until then, a failure is one of the network.
    pub(crate) fn was_reached(&self) -> bool {
        self.was_reached.load(Ordering::Relaxed)
    }

    /// How many more calls `max_requests` and the daily quota allow. Calls of other runs on the same day are not known.
    pub(crate) fn calls_left(&self) -> u64 {
        let calls = self.calls();
        let of_day = DAILY_QUOTA - calls % DAILY_QUOTA;
        self.max_requests.map_or(of_day, |most| most.saturating_sub(calls).min(of_day))
    }

    /// Notes that so many more calls are needed before there is anything to resume from.
    pub(crate) fn note_calls_to_progress(&self, calls: u64) {
        self.least_calls.fetch_max(self.calls() + calls, Ordering::Relaxed);
    }

    /// How many calls the run needs before there is anything to resume from, as far as is known.
    pub(crate) fn least_calls(&self) -> u64 {
        self.least_calls.load(Ordering::Relaxed)
    }

    /// The counter behind [`Client::calls`], for the progress display.
    pub(crate) fn call_count(&self) -> CallCount {
        self.pace.call_count()
    }

    /// The start of the run by the service's clock, which bookmarks are based on.
    pub(crate) fn run_start(&self) -> Result<DateTime<Utc>> {
        if self.first_date.get().is_none() {
            // A refusal is fine too: only the date of the answer is needed.
            match self.object::<Value>("the counts of contacts", "/contacts/counts", &[], 0) {
                Ok(_) | Err(Error::Forbidden(_) | Error::NotFound(_) | Error::Refused(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(*self.first_date.get_or_init(Utc::now))
    }

    /// The pages of a listing, in order. `endpoint` names it in log lines and metrics; `path` begins with `/`, and its
    /// ids are escaped. Among calls that wait for the pace, those with the lowest `priority` go first.
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

    /// Reads an answer that is not a listing.
    pub(crate) fn object<T: DeserializeOwned>(
        &self,
        endpoint: &'static str,
        path: &str,
        query: &[(&str, &str)],
        priority: usize,
    ) -> Result<T> {
        let call = Call { endpoint, url: self.url(path, query), priority };
        let read = |text: &str, _: &Bearer| {
            let body: Value = serde_json::from_str(text).map_err(|e| unreadable(&e))?;
            if !judge::is_object_with_data(&body) {
                return Err("200 response without data".into());
            }
            T::deserialize(body).map_err(|e| unreadable(&e))
        };
        Ok(self.get(&call, read)?.body)
    }

    /// Reads an answer that is a single record, not a listing, and what was odd about it.
    pub(crate) fn one<T: DeserializeOwned + JsonSchema>(
        &self,
        endpoint: &'static str,
        path: &str,
        priority: usize,
    ) -> Result<(T, Oddities)> {
        let call = Call { endpoint, url: self.url(path, &[]), priority };
        let read = |text: &str, token: &Bearer| {
            let (one, mut oddities) = rows::read_one(text).map_err(|why| shown(&why, token))?;
            oddities.show(|text| shown(text, token));
            Ok((one, oddities))
        };
        Ok(self.get(&call, read)?.body)
    }

    fn url(&self, path: &str, query: &[(&str, &str)]) -> String {
        let mut url = format!("{}{path}", self.api_url);
        if !query.is_empty() {
            url.push('?');
            url.push_str(&url::form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish());
        }
        url
    }

    /// Text of a server, without the secrets that it may echo.
    pub(crate) fn without_secrets(&self, text: &str) -> String {
        mask(text, self.auth.secrets().iter().map(Secret::expose))
    }

    /// An access token other than `refused`, with all secrets that an answer may not show.
    fn bearer(&self, refused: Option<&Secret>) -> Result<Bearer> {
        Ok(Bearer { current: self.auth.token(refused)?, secrets: self.auth.secrets() })
    }

    /// Makes a call until it succeeds or no retry makes sense. `read` parses the body of a 200, or says why it cannot,
    /// which is retried too. It gets the access token so that no text it returns shows it.
    fn get<B>(&self, call: &Call, mut read: impl FnMut(&str, &Bearer) -> Result<B, String>) -> Result<Received<B>> {
        let mut retry = Retry::new(self.max_retries);
        let mut token = self.bearer(None)?;
        let mut is_renewed = false;
        let mut large_body = None;
        loop {
            match self.attempt(call, &token, &mut large_body, &mut read) {
                Ok(received) => return Ok(received),
                Err(Failure::Final(e)) => return Err(e),
                Err(Failure::Large) => {
                    large_body = Some(self.large_body.lock().unwrap_or_else(PoisonError::into_inner));
                }
                Err(Failure::Quota(now)) => {
                    self.day_is_used_up(now)?;
                    // A day later, the token may have expired again.
                    is_renewed = false;
                    token = self.bearer(None)?;
                }
                Err(Failure::Token(_)) if !is_renewed => {
                    is_renewed = true;
                    log::debug!("{}: the access token was refused; getting another", call.endpoint);
                    token = self.bearer(Some(&token.current))?;
                }
                Err(Failure::Token(why)) => {
                    return Err(Error::Credentials(format!(
                        "a fresh access token is refused as well ({why}): the application or its grant may have been \
                         revoked, or api_url and auth_url do not belong together"
                    )));
                }
                Err(Failure::Passing { why, hold }) => {
                    large_body = None;
                    let Some(wait) = retry.after(hold) else {
                        let attempts = plural(retry.failures().into(), "attempt");
                        return Err(Error::Failed(format!(
                            "{why}; gave up after {attempts}. Run again later, with the last STATE if there is one"
                        )));
                    };
                    let asked = if hold.is_some() { ", as the service asks" } else { "" };
                    log::warn!("{}: {why}; {retry} in {:.1} s{asked}", call.endpoint, wait.as_secs_f64());
                    thread::sleep(wait);
                }
            }
        }
    }

    /// Makes one attempt: waits for the pace, makes the call, and judges the answer.
    fn attempt<'c, B>(
        &'c self,
        call: &Call,
        token: &Bearer,
        large_body: &mut Option<MutexGuard<'c, ()>>,
        read: &mut impl FnMut(&str, &Bearer) -> Result<B, String>,
    ) -> Result<Received<B>, Failure> {
        if !self.pace.wait_to_send(call.priority) {
            let limit = self.max_requests.unwrap_or_default();
            return Err(Failure::Final(Error::Quota(format!(
                "max_requests ({limit}) is used up; run again with the last STATE to go on"
            ))));
        }
        let answer = self.call(call, token, large_body)?;
        let request_id = &answer.request_id;
        let passing = |why: String, hold| Failure::Passing { why: why + request_id, hold };
        Err(match judge(answer.status, answer.error_type.as_deref(), &answer.body, token) {
            Verdict::Good => {
                let at = self.date_of(&answer);
                let text = text::clean(answer.body, token);
                let size = text.len();
                let body = read(&text, token);
                self.buffers.give(text.into_bytes());
                match body {
                    Ok(body) => {
                        self.has_answered.store(true, Ordering::Relaxed);
                        return Ok(Received { body, size, at });
                    }
                    Err(why) => passing(why, None),
                }
            }
            Verdict::Retry(why) => passing(why, answer.hold),
            Verdict::Throttled => {
                // The limit is for all calls of the application together.
                self.pace.pause(answer.hold.unwrap_or_else(|| Duration::from_millis(1000 + fastrand::u64(..1000))));
                passing("429 throttled".into(), answer.hold)
            }
            Verdict::QuotaExceeded => Failure::Quota(answer.date),
            Verdict::Unauthorized(why) => Failure::Token(why),
            Verdict::Forbidden(why) => Failure::Final(Error::Forbidden(why + request_id)),
            Verdict::NotFound(why) => Failure::Final(Error::NotFound(why + request_id + &self.doubt_api_url())),
            Verdict::OutsideApi(why) => {
                passing(why + &format!("; if it lasts, check api_url ({})", self.api_url), None)
            }
            Verdict::Refused(why) => Failure::Final(Error::Refused(why + request_id)),
            Verdict::Final(why) => Failure::Final(Error::Failed(why + request_id)),
        })
    }

    /// A hint for a 404: the address may be wrong if no call has succeeded yet.
    fn doubt_api_url(&self) -> String {
        if self.has_answered.load(Ordering::Relaxed) {
            return String::new();
        }
        format!("; check api_url ({}), since no call has succeeded yet", self.api_url)
    }

    /// The service's time of a successful answer. The first one is the start of the run.
    fn date_of(&self, answer: &Answer) -> DateTime<Utc> {
        let now = Utc::now();
        // A gateway whose clock is ahead must not move a bookmark into the future.
        self.first_date.get_or_init(|| answer.date.unwrap_or(now).min(now));
        answer.date.unwrap_or(now)
    }

    /// Makes a call and measures it.
    fn call<'c>(
        &'c self,
        call: &Call,
        token: &Bearer,
        large_body: &mut Option<MutexGuard<'c, ()>>,
    ) -> Result<Answer, Failure> {
        let start = Instant::now();
        let outcome = self.exchange(&call.url, token, large_body);
        let (status, code) = match &outcome {
            Ok(answer) if answer.status < 300 => ("succeeded", answer.status),
            Ok(answer) => ("failed", answer.status),
            Err(_) => ("failed", 0),
        };
        timer(
            Level::Debug,
            "http_request_duration",
            start.elapsed(),
            &json!({"endpoint": call.endpoint, "http_status_code": code, "status": status}),
        );
        outcome
    }

    /// Sends the request and reads the answer to the end of its body.
    fn exchange<'c>(
        &'c self,
        url: &str,
        token: &Bearer,
        large_body: &mut Option<MutexGuard<'c, ()>>,
    ) -> Result<Answer, Failure> {
        let authorization = format!("Bearer {}", token.current.expose());
        let response = self.agent.get(url).header("Authorization", authorization).call().map_err(|e| {
            if is_unsent(&e) {
                // The service has not seen the call, so it uses no quota.
                self.pace.uncount();
            }
            self.network_failure(&e, token)
        })?;
        self.was_reached.store(true, Ordering::Relaxed);
        let (parts, body) = response.into_parts();
        let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok());
        let request_id = header("x-amzn-requestid").map(|id| format!(" (request id {})", shown(id, token)));
        let date = header("date").and_then(|v| DateTime::parse_from_rfc2822(v).ok()).map(|d| d.to_utc());
        let mut answer = Answer {
            status: parts.status.as_u16(),
            date,
            hold: retry_after(&parts.headers),
            error_type: header("x-amzn-errortype").map(str::to_owned),
            request_id: request_id.unwrap_or_default(),
            body: self.buffers.take(),
        };
        let mut body = body.into_with_config().limit(LARGEST_BODY).reader();
        body.by_ref().take(SMALL_BODY).read_to_end(&mut answer.body).map_err(|e| self.body_failure(e, token))?;
        if answer.body.len() as u64 == SMALL_BODY && large_body.is_none() {
            *large_body = match self.large_body.try_lock() {
                Ok(guard) => Some(guard),
                Err(TryLockError::Poisoned(e)) => Some(e.into_inner()),
                // Waiting here could take longer than request_timeout, so the call is made again later.
                Err(TryLockError::WouldBlock) => return Err(Failure::Large),
            };
        }
        body.read_to_end(&mut answer.body).map_err(|e| self.body_failure(e, token))?;
        Ok(answer)
    }

    fn body_failure(&self, e: io::Error, token: &Bearer) -> Failure {
        if e.kind() == io::ErrorKind::OutOfMemory {
            let why = "not enough memory to read an answer; set a smaller page_size".into();
            return Failure::Final(Error::Failed(why));
        }
        match ureq::Error::from(e) {
            ureq::Error::BodyExceedsLimit(_) => {
                let why = format!("a body of over {} MB; set a smaller page_size", LARGEST_BODY >> 20);
                Failure::Passing { why, hold: None }
            }
            other => self.network_failure(&other, token),
        }
    }

    fn network_failure(&self, e: &ureq::Error, token: &Bearer) -> Failure {
        if is_untrusted(e) {
            return Failure::Final(Error::Failed(untrusted_text(&self.origin, e)));
        }
        if matches!(e, ureq::Error::Http(_)) {
            let why = if HeaderValue::from_str(token.current.expose()).is_err() {
                "the access token holds characters that no request may have, so it was not sent; log in again"
            } else {
                "a next link holds characters that no request may have, so it was not followed; run again, then report it"
            };
            return Failure::Final(Error::Failed(why.into()));
        }
        Failure::Passing { why: format!("{}: {}", self.origin, shown(&network_text(e), token)), hold: None }
    }

    /// Handles a used-up quota: ends the run, or sleeps until 00:00 UTC.
    fn day_is_used_up(&self, now: Option<DateTime<Utc>>) -> Result<()> {
        let answered = Instant::now();
        let now = now.unwrap_or_else(Utc::now);
        let left = until_midnight(now);
        let text = format!(
            "the daily quota of the application is used up after {} of this run; it resets at 00:00 UTC, in {} h \
             {:02} min",
            plural(self.calls(), "call"),
            left.num_hours(),
            left.num_minutes() % 60
        );
        if self.on_quota == OnQuota::Stop {
            return Err(Error::Quota(format!("{text}. Run again after that with the last STATE to go on")));
        }
        let mut last_wait = self.last_wait.lock().unwrap_or_else(PoisonError::into_inner);
        if last_wait.is_some_and(|(_, ended)| answered < ended) {
            // Another call has waited for the same reset.
            return Ok(());
        }
        let wait = QuotaWait::after(last_wait.map(|(wait, _)| wait), now);
        if let Some(time) = wait.for_late_reset() {
            log::info!("it is past 00:00 UTC, but the daily quota is not reset yet; next try in {} s", time.as_secs());
            thread::sleep(time);
        } else {
            log::info!("{text}; waiting for it (on_quota: wait)");
            let until = Utc::now() + left + TimeDelta::seconds(5);
            // It sleeps in small steps and looks at the clock, since the machine may be suspended meanwhile.
            while let Ok(rest) = (until - Utc::now()).to_std() {
                thread::sleep(rest.min(Duration::from_secs(30)));
            }
        }
        *last_wait = Some((wait, Instant::now()));
        Ok(())
    }

    /// The address of a next link, unchanged: parsing and rebuilding it would break some cursors.
    fn resolve(&self, href: &str) -> Result<String> {
        if href.starts_with('/') && !href.starts_with("//") {
            return Ok(format!("{}{href}", self.origin));
        }
        match href.strip_prefix(&self.origin) {
            Some(rest) if rest.starts_with('/') => Ok(href.to_owned()),
            _ => Err(Error::Failed(format!(
                "a next link leads away from {}; it was not followed, and the token was not sent there",
                self.origin
            ))),
        }
    }
}

/// The rows of a page that can be used.
#[cfg(test)]
pub(crate) fn read_rows<T: Row>(page: &str) -> Vec<T> {
    rows::read(page).ok().and_then(|body| body.rows).unwrap_or_default()
}
