//! The settings: parsed once, checked once, documented once. No network.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::{Host, Url};
use uuid::Uuid;

mod coerce;
mod files;

use crate::error::{Error, Result};
pub(crate) use crate::secret::Secret;
use crate::window::{Edge, ReportWindow, local};
use coerce::normalise;
pub(crate) use coerce::{allowed, types};
pub(crate) use files::{read, sources, written_back};

/// The settings, as a user writes them.
// The doc comments are their documentation: `--about` shows them, and the README has them from there. `x-domo` is the
// option of Domo's connector that a setting does.
#[derive(Deserialize, JsonSchema)]
struct Settings {
    /// The application's API key.
    client_id: Option<String>,
    /// The application's secret; absent for a PKCE or device application.
    #[schemars(extend("secret" = true, "writeOnly" = true))]
    client_secret: Option<String>,
    /// The refresh token of the grant, as `login` stores it.
    #[schemars(extend("secret" = true, "writeOnly" = true))]
    refresh_token: Option<String>,
    /// Used until it expires or is refused; enough alone for a one-off run.
    #[schemars(extend("secret" = true, "writeOnly" = true))]
    access_token: Option<String>,
    /// Where the newest tokens live; needed where the config cannot be written back, as under Meltano.
    token_file: Option<String>,
    /// The redirect URI, as registered for the application; `login` listens there.
    #[schemars(extend("default" = "http://localhost:8910/callback"))]
    redirect_uri: Option<String>,
    /// First run: nothing older than this date or date-time (other name: `updated_after`).
    #[schemars(extend("anyOf" = [{"format": "date"}, {"format": "date-time"}], "x-domo" = "Updated After"))]
    start_date: Option<String>,
    /// Every run reads at least the last N days again.
    #[schemars(range(min = 0, max = 36500), extend("x-domo" = "Updated Days Back"))]
    updated_days_back: Option<u32>,
    /// The contact reports are read for these contacts only.
    #[schemars(extend("x-domo" = "Contact ID"))]
    contact_ids: Option<Vec<String>>,
    /// Contacts of these statuses only.
    #[schemars(extend(
        "default" = ["all"],
        "items" = {"type": "string", "enum": STATUSES},
        "x-domo" = "Contact Status",
    ))]
    contact_status: Option<Vec<String>>,
    /// Sub-resources of the contacts: true, false, or a list of them.
    #[schemars(extend(
        "type" = ["boolean", "array", "null"],
        "default" = true,
        "items" = {"type": "string", "enum": SUBRESOURCES},
        "x-domo" = "Sub-resources",
    ))]
    include_subresources: Option<Value>,
    /// The types of activity that `contact_activity_details` reads.
    #[schemars(extend(
        "default" = &ACTIVITY_TYPES[..6],
        "items" = {"type": "string", "enum": ACTIVITY_TYPES},
        "x-domo" = "Tracking Activity Types",
    ))]
    tracking_activity_types: Option<Vec<String>>,
    /// Contact reports: that day only.
    #[schemars(extend("format" = "date", "x-domo" = "Report Date"))]
    report_date: Option<String>,
    /// Contact reports: the last N days, up to now.
    #[schemars(range(min = 1, max = 36500), extend("x-domo" = "Days Back"))]
    report_days_back: Option<u32>,
    /// Contact reports: first day of a range.
    #[schemars(extend("format" = "date", "x-domo" = "Date range, absolute"))]
    report_start_date: Option<String>,
    /// Contact reports: first day of a range, in days before today.
    #[schemars(range(min = 0, max = 36500), extend("x-domo" = "Date range, relative"))]
    report_start_days_back: Option<u32>,
    /// Contact reports: last day of a range, inclusive; today where only a start is set.
    #[schemars(extend("format" = "date", "x-domo" = "Date range, absolute"))]
    report_end_date: Option<String>,
    /// Contact reports: last day of a range, inclusive, in days before today.
    #[schemars(range(min = 0, max = 36500), extend("x-domo" = "Date range, relative"))]
    report_end_days_back: Option<u32>,
    /// IANA name of the zone in which dates and days back are meant.
    #[schemars(extend("default" = "UTC"))]
    timezone: Option<String>,
    /// How the contact reports of a whole account are read: contact by contact, campaign by campaign, or by whichever
    /// takes fewer calls.
    #[schemars(extend("default" = "auto", "enum" = ["auto", "contacts", "campaigns"]))]
    activity_route: Option<String>,
    /// How many days after its last send a campaign is watched for late opens, clicks and opt-outs.
    #[schemars(range(min = 0, max = 36500), extend("default" = 30))]
    activity_lookback_days: Option<u32>,
    /// The contacts are read completely when the last complete read is older than N days; 0 = never.
    #[schemars(range(min = 0, max = 36500), extend("default" = 7))]
    contacts_full_refresh_days: Option<u32>,
    /// Calls a second, over all streams.
    #[schemars(range(min = 0.01, max = 10000), extend("default" = 4))]
    requests_per_second: Option<f64>,
    /// Calls that this run may make; at the limit it stops as at the daily quota.
    #[schemars(range(min = 1))]
    max_requests: Option<u64>,
    /// Daily quota used up: stop with a state that resumes, or wait until 00:00 UTC.
    #[schemars(extend("default" = "stop", "enum" = ["stop", "wait"]))]
    on_quota: Option<String>,
    /// Rows per page where the service lets the caller choose (activity details: at most 100).
    #[schemars(range(min = 1, max = 500), extend("default" = 500))]
    page_size: Option<u32>,
    /// Seconds for one call.
    #[schemars(range(min = 0.1, max = 3600), extend("default" = 60))]
    request_timeout: Option<f64>,
    /// Tries after the first of a call, for what can pass: 429 throttled, 5xx, network.
    #[schemars(range(min = 0, max = 20), extend("default" = 5))]
    max_retries: Option<u32>,
    /// Base URL of the API.
    #[schemars(extend("default" = "https://api.cc.email/v3"))]
    api_url: Option<String>,
    /// Base URL of the authorization server.
    #[schemars(extend("default" = "https://authz.constantcontact.com/oauth2/default/v1"))]
    auth_url: Option<String>,
    /// The name sent with every call, to both hosts.
    #[schemars(extend("default" = concat!("tap-constant-contact/", env!("CARGO_PKG_VERSION"))))]
    user_agent: Option<String>,
}

const STATUSES: [&str; 7] =
    ["all", "active", "deleted", "not_set", "pending_confirmation", "temp_hold", "unsubscribed"];
const SUBRESOURCES: [&str; 6] =
    ["custom_fields", "list_memberships", "phone_numbers", "street_addresses", "taggings", "notes"];
const ACTIVITY_TYPES: [&str; 10] = [
    "em_sends",
    "em_opens",
    "em_clicks",
    "em_bounces",
    "em_optouts",
    "em_forwards",
    "p_contact_open",
    "p_contact_click",
    "p_contact_add",
    "p_contact_update",
];

/// What to do when the daily quota is used up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum OnQuota {
    Stop,
    Wait,
}

/// The settings, checked.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) client_id: Option<String>,
    pub(crate) client_secret: Option<Secret>,
    pub(crate) refresh_token: Option<Secret>,
    pub(crate) access_token: Option<Secret>,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) redirect_uri: String,
    pub(crate) start_date: Option<DateTime<Utc>>,
    pub(crate) updated_days_back: Option<u32>,
    pub(crate) contact_ids: Vec<String>,
    pub(crate) contact_status: Vec<String>,
    pub(crate) subresources: Vec<String>,
    pub(crate) tracking_activity_types: Vec<String>,
    pub(crate) report: Option<ReportWindow>,
    pub(crate) timezone: Tz,
    /// How the contact reports are read; `None` leaves it to the plan.
    pub(crate) activity_route: Option<Route>,
    pub(crate) activity_lookback_days: u32,
    pub(crate) contacts_full_refresh_days: u32,
    pub(crate) requests_per_second: f64,
    pub(crate) max_requests: Option<u64>,
    pub(crate) on_quota: OnQuota,
    pub(crate) page_size: u32,
    pub(crate) request_timeout: Duration,
    pub(crate) max_retries: u32,
    pub(crate) api_url: Url,
    pub(crate) auth_url: Url,
    pub(crate) user_agent: String,
}

/// How the contact reports are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Route {
    /// One contact at a time.
    Contacts,
    /// One sent campaign activity at a time.
    Campaigns,
}

/// The settings as JSON Schema.
pub(crate) fn schema() -> Value {
    schemars::schema_for!(Settings).to_value()
}

fn wrong(key: &str, value: &str, allowed: &str) -> Error {
    Error::Usage(format!("config: {key} is {value}; allowed: {allowed}"))
}

impl Config {
    /// Merges the sources (name and text of each, later ones win) and checks every value and mix of them. What is odd
    /// but harmless goes to `warnings`, also when all fails: a misspelt key may be why.
    ///
    /// # Errors
    /// `Usage`, naming the key, the value and what is allowed.
    pub(crate) fn parse(
        sources: &[(String, String)],
        now: DateTime<Utc>,
        warnings: &mut Vec<String>,
    ) -> Result<Config> {
        let schema = schema();
        let mut merged = Map::new();
        for (origin, text) in sources {
            let value: Value = serde_json::from_str(text).map_err(|e| {
                Error::Usage(format!("{origin}: not valid JSON (line {}, column {})", e.line(), e.column()))
            })?;
            let Value::Object(map) = value else {
                return Err(Error::Usage(format!("{origin}: a config must be one JSON object")));
            };
            for (key, value) in map {
                let name = if key == "updated_after" { "start_date" } else { key.as_str() };
                let Some(kind) = schema["properties"].get(name) else {
                    warnings.push(unknown(origin, &key, &schema));
                    continue;
                };
                if let Some(value) = normalise(name, value, kind)? {
                    merged.insert(name.to_owned(), value);
                }
            }
        }
        let settings: Settings = serde_path_to_error::deserialize(Value::Object(merged))
            .map_err(|e| Error::Usage(format!("config: {}: {}", e.path(), e.inner())))?;
        check(settings, now)
    }

    /// A short fingerprint of the settings that narrow a stream.
    pub(crate) fn filter(&self, stream: &str) -> Option<String> {
        let parts: Vec<&[String]> = match stream {
            "contacts" => vec![&self.contact_status, &self.subresources],
            "contact_action_summary" => vec![&self.contact_ids, &self.contact_status],
            "contact_activity_details" => vec![&self.contact_ids, &self.contact_status, &self.tracking_activity_types],
            _ => return None,
        };
        Some(fingerprint(&parts.iter().map(|p| p.join(",")).collect::<Vec<_>>().join(";")))
    }

    /// Fingerprint of all that an interrupted read of a contact report must have in common with the one that goes on.
    pub(crate) fn resume_filter(&self, stream: &str, full_table: bool) -> Option<String> {
        match &self.report {
            None if !full_table => self.filter(stream),
            report => {
                Some(fingerprint(&format!("{:?};{report:?};{full_table};{}", self.filter(stream), self.timezone)))
            }
        }
    }
}

/// FNV-1a: the same in every version and on every machine.
fn fingerprint(text: &str) -> String {
    let hash = text.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    format!("{hash:08x}")
}

fn unknown(origin: &str, key: &str, schema: &Value) -> String {
    let names = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let nearest = names.max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
    format!("{origin}: {key} is not a setting and is ignored; the nearest is {}", nearest.unwrap_or_default())
}

fn check(s: Settings, now: DateTime<Utc>) -> Result<Config> {
    let zone_name = s.timezone.unwrap_or_else(|| "UTC".into());
    let timezone: Tz = zone_name
        .parse()
        .map_err(|_| wrong("timezone", &format!("{zone_name:?}"), "an IANA name such as America/New_York"))?;
    if s.client_id.is_none() && (s.access_token.is_none() || s.refresh_token.is_some()) {
        return Err(Error::Usage("config: client_id is missing; set it to the application's API key".into()));
    }
    for (key, value) in [("access_token", &s.access_token), ("client_id", &s.client_id)] {
        if value.as_ref().is_some_and(|v| !v.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(wrong(key, "***", "ASCII characters without spaces"));
        }
    }
    let start_date = s.start_date.map(|text| date_time("start_date", &text, timezone, now)).transpose()?;
    let contact_ids: BTreeSet<String> =
        s.contact_ids.unwrap_or_default().iter().map(|id| as_the_service_writes(id.trim())).collect();
    if let Some(id) =
        contact_ids.iter().find(|id| id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
    {
        return Err(wrong("contact_ids", &format!("{id:?}"), "contact ids (letters, digits and hyphens)"));
    }
    let mut status: BTreeSet<String> = s.contact_status.unwrap_or_default().into_iter().collect();
    if status.is_empty() || status.contains("all") {
        status = BTreeSet::from(["all".to_owned()]);
    }
    let subresources = match s.include_subresources {
        Some(Value::Bool(false)) => Vec::new(),
        Some(Value::Array(list)) => in_order(&SUBRESOURCES, |known| list.iter().any(|i| i == known)),
        _ => in_order(&SUBRESOURCES, |_| true),
    };
    let types = s.tracking_activity_types.unwrap_or_default();
    let types = in_order(&ACTIVITY_TYPES, |known| {
        if types.is_empty() { known.starts_with("em_") } else { types.iter().any(|t| t == known) }
    });
    let route = match s.activity_route.as_deref() {
        Some("contacts") => Some(Route::Contacts),
        Some("campaigns") if types.iter().any(|t| t.starts_with("p_")) => {
            let why =
                "auto or contacts, since the landing-page types (p_*) of tracking_activity_types exist only there";
            return Err(wrong("activity_route", "\"campaigns\"", why));
        }
        Some("campaigns") => Some(Route::Campaigns),
        _ => None,
    };
    let redirect = s.redirect_uri.unwrap_or_else(|| "http://localhost:8910/callback".into());
    // Kept as written: the authorization server compares it letter by letter.
    address("redirect_uri", &redirect)?;
    let user_agent = s.user_agent.unwrap_or_else(|| concat!("tap-constant-contact/", env!("CARGO_PKG_VERSION")).into());
    if !user_agent.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        return Err(wrong("user_agent", &format!("{user_agent:?}"), "visible ASCII characters"));
    }
    let report = report_window(
        [
            ("report_date", s.report_date),
            ("report_start_date", s.report_start_date),
            ("report_end_date", s.report_end_date),
        ],
        (s.report_days_back, s.report_start_days_back, s.report_end_days_back),
        now.with_timezone(&timezone).date_naive(),
    )?;
    Ok(Config {
        client_id: s.client_id,
        client_secret: s.client_secret.map(Secret::from),
        refresh_token: s.refresh_token.map(Secret::from),
        access_token: s.access_token.map(Secret::from),
        token_file: s.token_file.map(PathBuf::from),
        redirect_uri: redirect,
        start_date,
        updated_days_back: s.updated_days_back,
        contact_ids: contact_ids.into_iter().collect(),
        contact_status: status.into_iter().collect(),
        subresources,
        tracking_activity_types: types,
        report,
        timezone,
        activity_route: route,
        activity_lookback_days: s.activity_lookback_days.unwrap_or(30),
        contacts_full_refresh_days: s.contacts_full_refresh_days.unwrap_or(7),
        requests_per_second: s.requests_per_second.unwrap_or(4.0),
        max_requests: s.max_requests,
        on_quota: if s.on_quota.as_deref() == Some("wait") { OnQuota::Wait } else { OnQuota::Stop },
        page_size: s.page_size.unwrap_or(500),
        request_timeout: Duration::from_secs_f64(s.request_timeout.unwrap_or(60.0)),
        max_retries: s.max_retries.unwrap_or(5),
        api_url: address("api_url", s.api_url.as_deref().unwrap_or("https://api.cc.email/v3"))?,
        auth_url: address(
            "auth_url",
            s.auth_url.as_deref().unwrap_or("https://authz.constantcontact.com/oauth2/default/v1"),
        )?,
        user_agent,
    })
}

/// The service knows its UUIDs in lower case only.
fn as_the_service_writes(id: &str) -> String {
    if Uuid::try_parse(id).is_ok() { id.to_ascii_lowercase() } else { id.to_owned() }
}

fn in_order(known: &[&str], wanted: impl Fn(&str) -> bool) -> Vec<String> {
    known.iter().filter(|k| wanted(k)).map(|k| (*k).to_owned()).collect()
}

/// Plain http would show the token to the network; on loopback there is none.
fn address(key: &str, text: &str) -> Result<Url> {
    let bad = || {
        wrong(key, &format!("{text:?}"), "an https:// URL (http:// for loopback only) without user, query and fragment")
    };
    let url = Url::parse(text).map_err(|_| bad())?;
    let scheme = url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url));
    let plain =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if scheme && plain { Ok(url) } else { Err(bad()) }
}

/// Whether a URL leads to this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

fn date(key: &str, text: &str, today: NaiveDate) -> Result<NaiveDate> {
    NaiveDate::parse_from_str(text.trim(), "%Y-%m-%d")
        .ok()
        .filter(|d| (1990..=9999).contains(&d.year()) && *d <= today)
        .ok_or_else(|| {
            wrong(key, &format!("{text:?}"), &format!("a date YYYY-MM-DD from 1990-01-01 to today ({today})"))
        })
}

/// A date-time, or a date: then midnight. What has no zone is meant in `timezone`; Meltano writes "3 days ago" so.
fn date_time(key: &str, text: &str, zone: Tz, now: DateTime<Utc>) -> Result<DateTime<Utc>> {
    let text = text.trim();
    let at = DateTime::parse_from_rfc3339(text).map(|at| at.to_utc()).ok().or_else(|| {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f")
            .or_else(|_| NaiveDate::parse_from_str(text, "%Y-%m-%d").map(|day| day.and_time(NaiveTime::MIN)))
            .ok()
            .filter(|at| (1990..=9999).contains(&at.year()))
            .map(|at| local(at, zone))
    });
    at.filter(|at| at.year() >= 1989 && *at <= now).ok_or_else(|| {
        wrong(
            key,
            &format!("{text:?}"),
            "a date YYYY-MM-DD or a date-time such as 2026-01-31T00:00:00Z, from 1990 to now",
        )
    })
}

type DaysBack = (Option<u32>, Option<u32>, Option<u32>);

fn report_window(dates: [(&str, Option<String>); 3], back: DaysBack, today: NaiveDate) -> Result<Option<ReportWindow>> {
    let mut read = Vec::new();
    for (key, text) in dates {
        read.push(text.map(|text| date(key, &text, today)).transpose()?);
    }
    let edge = |date: Option<NaiveDate>, days: Option<u32>| date.map(Edge::Date).or(days.map(Edge::DaysBack));
    let mix = |keys: &str| {
        Error::Usage(format!(
            "config: {keys} do not go together; allowed: report_date alone, report_days_back alone, or one of \
             report_start_date and report_start_days_back with or without one of report_end_date and report_end_days_back"
        ))
    };
    if read[1].is_some() && back.1.is_some() {
        return Err(mix("report_start_date and report_start_days_back"));
    }
    if read[2].is_some() && back.2.is_some() {
        return Err(mix("report_end_date and report_end_days_back"));
    }
    let (start, end) = (edge(read[1], back.1), edge(read[2], back.2));
    match (read[0], back.0, start, end) {
        (None, None, None, None) => Ok(None),
        (Some(day), None, None, None) => Ok(Some(ReportWindow::Day(day))),
        (None, Some(days), None, None) => Ok(Some(ReportWindow::DaysBack(days))),
        (None, None, Some(start), end) => {
            if let Some(end) = end.as_ref().filter(|end| end.day(today) < start.day(today)) {
                return Err(Error::Usage(format!(
                    "config: the report window ends ({}) before it starts ({}); allowed: an end on or after its start",
                    end.day(today),
                    start.day(today)
                )));
            }
            Ok(Some(ReportWindow::Range { start, end }))
        }
        (None, None, None, Some(_)) => Err(mix("report_end_date or report_end_days_back without a start")),
        _ => Err(mix("report_date, report_days_back and a range")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &str) -> Result<(Config, Vec<String>)> {
        let base = r#"{"client_id": "id", "refresh_token": "secret-token"}"#;
        let now = "2026-11-23T10:00:00Z".parse().unwrap();
        let mut warnings = Vec::new();
        let config = Config::parse(&[("a".into(), base.into()), ("b".into(), more.into())], now, &mut warnings)?;
        Ok((config, warnings))
    }

    #[test]
    fn text_stands_for_every_kind() {
        let (config, warnings) = parse(
            r#"{"page_size": "7", "requests_per_second": "2.5", "contact_status": "active, deleted",
                "include_subresources": "[\"notes\"]", "updated_days_back": "", "page_sise": 3}"#,
        )
        .unwrap();
        assert_eq!(config.page_size, 7);
        assert_eq!(config.contact_status, ["active", "deleted"]);
        assert_eq!(config.subresources, ["notes"]);
        assert_eq!(config.updated_days_back, None);
        assert_eq!(warnings, ["b: page_sise is not a setting and is ignored; the nearest is page_size"]);
    }

    #[test]
    fn a_start_without_a_zone_is_one_of_the_timezone() {
        for (start, expected) in [
            ("2026-03-01T08:30:00.250000", "2026-03-01T13:30:00.25Z"),
            ("2026-03-01", "2026-03-01T05:00:00Z"),
            ("2026-03-01T08:30:00+01:00", "2026-03-01T07:30:00Z"),
            // The clocks skip it.
            ("2026-03-08T02:30:00", "2026-03-08T07:00:00Z"),
        ] {
            let more = format!(r#"{{"timezone": "America/New_York", "start_date": "{start}"}}"#);
            assert_eq!(parse(&more).unwrap().0.start_date, Some(expected.parse().unwrap()), "{start}");
        }
    }

    #[test]
    fn no_message_shows_a_secret() {
        for more in [r#"{"refresh_token": ["hush"]}"#, r#"{"access_token": "hu sh"}"#] {
            let text = parse(more).unwrap_err().to_string();
            assert!(!text.contains("hu"), "{text}");
        }
        assert!(!format!("{:?}", parse("{}").unwrap().0).contains("secret-token"));
    }
}
