//! Calls to the API: one agent, one pace, one way to judge an answer. Knows no stream.

mod judge;
mod pace;
mod text;

use std::collections::HashSet;
use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, Days, NaiveTime, TimeDelta, Utc};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::auth::{Auth, Scopes};
use crate::config::{Config, OnQuota, Secret};
use crate::error::{Error, Result};
use crate::fanout;
use crate::http::{agent, backoff, is_untrusted, network_text, untrusted_text};
use crate::logger::timer;
use crate::messages::stamp;
use crate::quota::{CallCount, share_of_quota};
use judge::{Verdict, judge};
use pace::Pace;
use text::Buffers;

/// The largest body read, in bytes. 500 contacts with all their sub-resources are some 2 MB.
const LARGEST_BODY: u64 = 48 << 20;
/// The longest wait that a `Retry-After` is granted.
const LONGEST_HOLD: Duration = Duration::from_secs(300);
/// How long after the day has turned the quota is taken to be late rather than used up again, and the waits of that
/// time: the first, doubled each time up to the second.
const LATE: (TimeDelta, Duration, Duration) = (TimeDelta::minutes(15), Duration::from_secs(5), Duration::from_secs(60));
/// What is asked for: a name for metrics, and what an answer must hold to be one.
#[derive(Clone, Copy)]
pub(crate) struct Resource {
    pub(crate) name: &'static str,
    /// The member with the rows. Without it a 200 is no answer, whatever else it is.
    rows: &'static str,
    /// Whether the rows may be left out where there are none. Of the reports of one contact nothing tells that they
    /// are not, so what lacks them is asked for twice.
    may_lack_rows: bool,
}

impl Resource {
    pub(crate) const fn listing(name: &'static str, rows: &'static str) -> Resource {
        Resource { name, rows, may_lack_rows: false }
    }

    /// The report of one contact.
    pub(crate) const fn report(name: &'static str, rows: &'static str) -> Resource {
        Resource { name, rows, may_lack_rows: true }
    }

    /// Whether a body holds the rows; a quote within a text is written with a backslash.
    fn has_rows(&self, text: &str) -> bool {
        self.rows.is_empty() || text.contains(&format!("\"{}\"", self.rows))
    }

    /// Whether a body without rows may say that there are none.
    fn is_empty(&self, text: &str) -> bool {
        let tells_trouble =
            ["\"error_key\"", "\"error_message\"", "\"message\""].iter().any(|name| text.contains(name));
        self.may_lack_rows && text.trim_start().starts_with('{') && !tells_trouble
    }
}

/// One page of a listing: its text, checked to be JSON, and where the next one is.
pub(crate) struct Page {
    pub(crate) text: String,
    /// When it was read, as `time_extracted` says it.
    pub(crate) extracted: String,
    /// The same by the service's clock.
    pub(crate) at: DateTime<Utc>,
    next: Option<String>,
    buffers: Arc<Buffers>,
}

impl Drop for Page {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.text).into_bytes());
    }
}

impl Page {
    pub(crate) fn is_last(&self) -> bool {
        self.next.is_none()
    }

    /// The page that a body is taken for.
    #[cfg(test)]
    pub(crate) fn of(body: Vec<u8>) -> Option<Page> {
        let text = text::clean(body);
        next_link(&text).ok().map(|next| Page {
            text,
            extracted: String::new(),
            at: Utc::now(),
            next,
            buffers: Arc::default(),
        })
    }
}

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

/// The four shapes of a last page: no `_links`, an empty or null one, a null `href`.
#[derive(Deserialize)]
struct Envelope {
    #[serde(default, rename = "_links")]
    links: Option<Links>,
}

#[derive(Deserialize)]
struct Links {
    #[serde(default)]
    next: Option<Next>,
}

#[derive(Deserialize)]
struct Next {
    #[serde(default)]
    href: Option<String>,
}

impl Envelope {
    fn next(self) -> Option<String> {
        self.links?.next?.href.filter(|href| !href.is_empty())
    }
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
        let page = self.first(Resource::listing("privileges", ""), "/account/user/privileges", &[])?;
        // Documented as a bare list, where nearly all else is an object.
        let list: Vec<Privilege> = serde_json::from_str(&page.text)
            .map_err(|e| Error::Failed(format!("the service sent privileges of an unexpected kind: {e}")))?;
        Ok(list.into_iter().map(|p| p.privilege_name).collect())
    }

    /// API calls made so far, failed ones included.
    pub(crate) fn calls(&self) -> u64 {
        self.pace.calls()
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
            // Whatever the answer, it is dated; refusals of this call are not this run's matter.
            match self.first(Resource::listing("contacts_counts", ""), "/contacts/counts", &[]) {
                Ok(_) | Err(Error::Forbidden(_) | Error::NotFound(_) | Error::Refused(_)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(*self.first_date.get_or_init(Utc::now))
    }

    /// The pages of a listing, in order. `path` begins with `/`; `what` names the endpoint in metrics.
    pub(crate) fn pages(self: &Arc<Self>, what: Resource, path: &str, query: &[(&str, &str)]) -> Pages {
        let next = Some(self.url(path, query));
        Pages { client: Arc::clone(self), what, url: String::new(), next, seen: HashSet::new() }
    }

    /// The first page of a listing.
    pub(crate) fn first(&self, what: Resource, path: &str, query: &[(&str, &str)]) -> Result<Page> {
        self.get(what, &self.url(path, query))
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

    /// One page, tried again for what passes by itself.
    fn get(&self, what: Resource, url: &str) -> Result<Page> {
        let mut failures = 0;
        let mut lacked_rows = false;
        let mut token = self.auth.bearer()?;
        let mut renewed = false;
        loop {
            if !self.pace.take_place(fanout::turn()) {
                let limit = self.max_requests.unwrap_or_default();
                return Err(Error::Quota(format!(
                    "max_requests ({limit}) are used up; run again with the last STATE to go on"
                )));
            }
            let (why, hold) = match self.call(what.name, url, &token) {
                Err(Trouble { why, passes: false }) => return Err(Error::Failed(why)),
                Err(Trouble { why, passes: true }) => (why, None),
                Ok(answer) => {
                    self.first_date.get_or_init(|| answer.date.unwrap_or_else(Utc::now));
                    match judge(answer.status, &answer.body) {
                        Verdict::Good => {
                            let text = text::clean(answer.body);
                            match next_link(&text) {
                                Ok(_) if !(what.has_rows(&text) || lacked_rows && what.is_empty(&text)) => {
                                    lacked_rows = what.is_empty(&text);
                                    (format!("answered 200 without the rows it owes{}", answer.request_id), None)
                                }
                                Ok(next) => {
                                    return Ok(Page {
                                        text,
                                        extracted: stamp(Utc::now()),
                                        at: answer.date.unwrap_or_else(Utc::now),
                                        next: next.map(|href| self.resolve(&href)).transpose()?,
                                        buffers: Arc::clone(&self.buffers),
                                    });
                                }
                                Err(e) => (format!("answered 200 with JSON cut short or malformed ({e})"), None),
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
                            log::debug!("{}: the access token was refused; getting another", what.name);
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
                    }
                }
            };
            failures += 1;
            if failures > self.max_retries {
                return Err(Error::Failed(format!(
                    "{why}; tries: {failures}. Run again later, with the last STATE if there is one"
                )));
            }
            let wait = hold.unwrap_or_else(|| backoff(failures)).min(LONGEST_HOLD);
            log::debug!("{}: {why}; next try in {:.1} s", what.name, wait.as_secs_f64());
            thread::sleep(wait);
        }
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

/// Where the next page is, if there is one; an error when the text is cut short.
fn next_link(text: &str) -> serde_json::Result<Option<String>> {
    // The links come last. What parses to the end is not cut short, and the rows before need no parsing but their own.
    const LINKS: &[u8] = b"\"_links\"";
    let tail = text.len().saturating_sub(4096);
    if let Some(at) = text.as_bytes()[tail..].windows(LINKS.len()).rposition(|name| name == LINKS)
        && let Ok(envelope) = serde_json::from_str::<Envelope>(&format!("{{{}", &text[tail + at..]))
    {
        return Ok(envelope.next());
    }
    // A bare list has no room for links.
    if text.trim_start().starts_with('[') {
        return serde_json::from_str::<IgnoredAny>(text).map(|_| None);
    }
    serde_json::from_str(text).map(Envelope::next)
}

/// An iterator over the pages of a listing; ends after the first error.
pub(crate) struct Pages {
    client: Arc<Client>,
    what: Resource,
    /// Of the page handed out last.
    url: String,
    next: Option<String>,
    seen: HashSet<String>,
}

impl Pages {
    /// The page handed out last, as it is now.
    pub(crate) fn again(&mut self) -> Result<Page> {
        // A later page was announced: it has rows.
        let may_lack_rows = self.what.may_lack_rows && self.seen.len() == 1;
        let page = self.client.get(Resource { may_lack_rows, ..self.what }, &self.url)?;
        self.next.clone_from(&page.next);
        Ok(page)
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Result<Page>> {
        self.url = self.next.take()?;
        if !self.seen.insert(self.url.clone()) {
            return Some(Err(Error::Failed("a next link leads back to a page already read".into())));
        }
        Some(self.again())
    }
}

/// A body in which a secret does not stand.
fn without(body: Vec<u8>, secret: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(&body);
    if !secret.is_empty() && text.contains(secret) { text.replace(secret, "***").into_bytes() } else { body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_link_is_found_wherever_it_stands() {
        let long = "x".repeat(5000);
        for (text, link) in [
            (r#"{"contacts":[],"_links":{"next":{"href":"/a"}}}"#.to_owned(), Some("/a")),
            (r#"{"_links":{"next":{"href":"/a"}},"contacts":[]}"#.to_owned(), Some("/a")),
            (format!(r#"{{"_links":{{"next":{{"href":"/a"}}}},"contacts":["{long}"]}}"#), Some("/a")),
            (format!(r#"{{"contacts":["{long}é"],"_links":{{"next":{{"href":"/a"}}}} }} "#), Some("/a")),
            // A row's own, and a text that speaks of them.
            (r#"{"contacts":[{"_links":{"next":{"href":"/b"}}}]}"#.to_owned(), None),
            (r#"{"_links":{"next":{"href":"/a"}},"c":[{"_links":{"next":{"href":"/b"}}}]}"#.to_owned(), Some("/a")),
            (r#"{"c":["\"_links\":{\"next\":{\"href\":\"/b\"}}"],"_links":{}}"#.to_owned(), None),
            (r#"{"c":[1],"_links":null}"#.to_owned(), None),
            (r#"{"c":[1],"_links":{"next":{"href":null}}}"#.to_owned(), None),
            (r#"{"c":[1]}"#.to_owned(), None),
            ("[1]".to_owned(), None),
        ] {
            assert_eq!(next_link(&text).unwrap().as_deref(), link, "{text}");
        }
    }

    proptest::proptest! {
        /// Wherever a page is cut short, it is noticed.
        #[test]
        fn a_page_cut_short_is_no_page(rows in 0usize..40, at: proptest::sample::Index) {
            let rows = vec![json!({"id": "é", "of": [1, {"a": null}]}); rows];
            let text = json!({"rows": rows, "rows_count": 7, "_links": {"next": {"href": "/v3/rows?cursor=x"}}}).to_string();
            let cut: String = text.chars().take(at.index(text.chars().count())).collect();
            proptest::prop_assert!(next_link(&cut).is_err());
        }
    }
}
