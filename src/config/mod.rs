//! The settings: their documentation, defaults and checks.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

mod coerce;
mod fields;
mod files;
mod given;
mod words;

use crate::error::Result;
use crate::secret::Secret;
use crate::spelling::slip;
use crate::window::{Edge, ReportWindow};
pub(crate) use coerce::{allowed, types};
use fields::Start;
pub(crate) use fields::{is_key, is_loopback};
pub(crate) use files::{
    FileKind, Source, command, how_to_write, is_under_meltano, json_error, not_permitted, quoted, read, read_as,
    sources, written_back,
};
use given::Given;
pub(crate) use words::{ActivityRoute, ActivityType, ContactStatus, OnQuota, Route, Subresource, Word, words};

/// The settings. The comments are what users read in `--about` and in the documents. `default` is the value of a
/// setting that is not set. `x-domo` is the corresponding option of Domo's connector.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(transform = tidy, extend("dependentRequired" = {"token_file": ["client_id"], "refresh_token": ["client_id"]}))]
pub(crate) struct Config {
    /// The API key of your application. Required, except with an `access_token` alone.
    #[serde(default, deserialize_with = "fields::key")]
    pub(crate) client_id: Option<String>,
    /// The secret of your application. Leave it out for a PKCE or device application.
    pub(crate) client_secret: Option<Secret>,
    /// The refresh token that `login` got.
    pub(crate) refresh_token: Option<Secret>,
    /// Used until it expires or is refused. Alone, it is enough for one run.
    #[serde(default, deserialize_with = "fields::access_token")]
    pub(crate) access_token: Option<Secret>,
    /// The file in which the newest tokens are kept. Needed where the config is not kept between runs, as under
    /// Meltano.
    #[schemars(with = "Option<String>")]
    pub(crate) token_file: Option<PathBuf>,
    /// The redirect URI as registered for your application; `login` listens there.
    #[serde(deserialize_with = "fields::redirect_uri")]
    #[schemars(extend("default" = "http://localhost:8910/callback"))]
    pub(crate) redirect_uri: String,
    /// The first run reads nothing older than this date or date-time. `updated_after` is another name for it.
    #[serde(rename = "start_date")]
    #[schemars(with = "Option<String>", extend("anyOf" = [{"format": "date"}, {"format": "date-time"}], "x-domo" = "Updated After"))]
    start: Option<Start>,
    /// Every run reads at least the last N days again.
    #[schemars(range(max = 36500), extend("x-domo" = "Updated Days Back"))]
    pub(crate) updated_days_back: Option<u32>,
    /// Read the contact reports of these contacts only.
    #[serde(default, deserialize_with = "fields::contact_ids")]
    #[schemars(extend("x-domo" = "Contact ID"))]
    pub(crate) contact_ids: Vec<String>,
    /// Read only contacts with one of these statuses.
    #[serde(deserialize_with = "fields::statuses")]
    #[schemars(extend("default" = ["all"], "x-domo" = "Contact Status"))]
    pub(crate) contact_status: Vec<ContactStatus>,
    /// The parts of a contact to read beside its own fields: true for all, false for none, or a list.
    #[serde(rename = "include_subresources", deserialize_with = "fields::subresources")]
    #[schemars(extend("default" = true, "type" = ["boolean", "array"], "x-domo" = "Sub-resources"))]
    pub(crate) subresources: Vec<Subresource>,
    /// Contact reports: the types of activity to read in detail.
    #[serde(deserialize_with = "fields::in_order")]
    #[schemars(extend("default" = ActivityType::OF_EMAILS, "x-domo" = "Tracking Activity Types"))]
    pub(crate) tracking_activity_types: Vec<ActivityType>,
    /// Contact reports: this day only.
    #[serde(default, deserialize_with = "fields::date")]
    #[schemars(extend("x-domo" = "Report Date"))]
    report_date: Option<NaiveDate>,
    /// Contact reports: the last N days, up to now.
    #[schemars(range(min = 1, max = 36500), extend("x-domo" = "Days Back"))]
    report_days_back: Option<u32>,
    /// Contact reports: first day of a range.
    #[serde(default, deserialize_with = "fields::date")]
    #[schemars(extend("x-domo" = "Date range, absolute"))]
    report_start_date: Option<NaiveDate>,
    /// Contact reports: first day of a range, in days before today.
    #[schemars(range(max = 36500), extend("x-domo" = "Date range, relative"))]
    report_start_days_back: Option<u32>,
    /// Contact reports: last day of a range, inclusive. Without it, the range ends now.
    #[serde(default, deserialize_with = "fields::date")]
    #[schemars(extend("x-domo" = "Date range, absolute"))]
    report_end_date: Option<NaiveDate>,
    /// Contact reports: last day of a range, inclusive, in days before today.
    #[schemars(range(max = 36500), extend("x-domo" = "Date range, relative"))]
    report_end_days_back: Option<u32>,
    /// The time zone, by its IANA name, of dates without time and of days back.
    #[serde(deserialize_with = "fields::timezone")]
    #[schemars(with = "String", extend("default" = "UTC"))]
    pub(crate) timezone: Tz,
    /// How the contact reports of a whole account are read: contact by contact, campaign by campaign, or whichever
    /// takes fewer calls.
    #[schemars(extend("default" = "auto"))]
    pub(crate) activity_route: ActivityRoute,
    /// How many days after its last send a campaign is watched for late opens, clicks and opt-outs.
    #[schemars(range(max = 36500), extend("default" = 30))]
    pub(crate) activity_lookback_days: u32,
    /// Read all contacts again when the last complete read is N days old, less an hour; 0 means never. Only a complete
    /// read brings what the service does not date: list memberships, tags, notes, deletions.
    #[schemars(range(max = 36500), extend("default" = 1))]
    pub(crate) contacts_full_refresh_days: u32,
    /// API calls per second, over all streams.
    #[schemars(range(min = 0.01, max = 10000), extend("default" = 4))]
    pub(crate) requests_per_second: f64,
    /// API calls that one run may make. At the limit it stops as at the daily quota.
    #[schemars(range(min = 1))]
    pub(crate) max_requests: Option<u64>,
    /// When the daily quota is used up: stop with a state that the next run continues from, or wait until 00:00 UTC.
    #[schemars(extend("default" = "stop"))]
    pub(crate) on_quota: OnQuota,
    /// Rows per page where the service lets the caller choose (activity details: at most 100).
    #[schemars(range(min = 1, max = 500), extend("default" = 500))]
    pub(crate) page_size: u32,
    /// Seconds that one call may take.
    #[serde(deserialize_with = "fields::seconds")]
    #[schemars(with = "f64", range(min = 0.1, max = 3600), extend("default" = 60))]
    pub(crate) request_timeout: Duration,
    /// Seconds to wait for another run that holds the lock on the tokens.
    #[serde(deserialize_with = "fields::seconds")]
    #[schemars(with = "f64", range(min = 0, max = 86400), extend("default" = 120))]
    pub(crate) lock_timeout: Duration,
    /// How often a call is retried after a failure that can pass: 429, 5xx, network.
    #[schemars(range(max = 20), extend("default" = 5))]
    pub(crate) max_retries: u32,
    /// Base URL of the API.
    #[serde(deserialize_with = "fields::server_url")]
    #[schemars(with = "String", extend("default" = "https://api.cc.email/v3"))]
    pub(crate) api_url: Url,
    /// Base URL of the authorization server.
    #[serde(deserialize_with = "fields::server_url")]
    #[schemars(with = "String", extend("default" = "https://authz.constantcontact.com/oauth2/default/v1"))]
    pub(crate) auth_url: Url,
    /// The name that is sent with every call, to both hosts.
    #[serde(deserialize_with = "fields::user_agent")]
    #[schemars(extend("default" = concat!("tap-constant-contact/", env!("CARGO_PKG_VERSION"))))]
    pub(crate) user_agent: String,
    /// `start_date`, in `timezone`.
    #[serde(skip)]
    pub(crate) start_date: Option<DateTime<Utc>>,
    /// The window that the `report_` settings name.
    #[serde(skip)]
    pub(crate) report: Option<ReportWindow>,
    /// What each `--config` named: files, or `ENV`.
    #[serde(skip)]
    pub(crate) sources: Vec<String>,
    /// The file that the refresh token came from, if it came from one.
    #[serde(skip)]
    pub(crate) refresh_token_file: Option<PathBuf>,
    /// Whether the user has set `activity_lookback_days`: only then it narrows a report window.
    #[serde(skip)]
    pub(crate) is_lookback_set: bool,
}

/// The settings as JSON Schema.
pub(crate) fn schema() -> Value {
    schemars::schema_for!(Config).to_value()
}

/// The setting that a word is a slip of.
pub(crate) fn setting_like(word: &str) -> Option<String> {
    let schema = schema();
    slip(word, schema["properties"].as_object()?.keys().map(String::as_str)).map(str::to_owned)
}

/// No setting is required, since each has a default or can be left out, and null always means "not set".
fn tidy(schema: &mut Schema) {
    schema.remove("required");
    // That of the type, which is for who reads the code.
    schema.remove("description");
    for setting in schema.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut) {
        let mut types: Vec<Value> = types(setting).into_iter().filter(|t| *t != "null").map(Value::from).collect();
        types.push("null".into());
        setting["type"] = types.into();
        // For a setting that is not set by default.
        if setting["default"].is_null() || setting["default"] == serde_json::json!([]) {
            setting.as_object_mut().map(|setting| setting.remove("default"));
        }
        // The formats of numbers are Rust's type names, which mean nothing to a user.
        if setting["format"] != "date" {
            setting.as_object_mut().map(|setting| setting.remove("format"));
        }
    }
}

impl Config {
    /// Merges the sources, of which later ones win, and checks all values, alone and together. Harmless oddities go to
    /// `warnings`, even if the result is an error.
    ///
    /// # Errors
    /// `Usage` with all problems: the source, the setting, its value and what is allowed.
    pub(crate) fn parse(sources: &[Source], now: DateTime<Utc>, warnings: &mut Vec<String>) -> Result<Config> {
        let mut given = Given::new(schema());
        for source in sources {
            given.merge(source, warnings)?;
        }
        let mut config = given.deserialize()?;
        config.is_lookback_set = given.is_set("activity_lookback_days");
        config.sources = sources.iter().map(Source::argument).collect();
        config.refresh_token_file =
            given.source_of("refresh_token").and_then(Source::file).map(|(path, _)| path.to_owned());
        config.start_date = config.start.map(|start| start.instant(config.timezone));
        if let Some(at) = config.start_date.filter(|at| *at > now) {
            given.refuse("start_date", format!("start_date is {at}, which is in the future"));
        }
        if config.client_id.is_none()
            && !given.is_wrong("client_id")
            && (config.access_token.is_none() || config.refresh_token.is_some())
        {
            let name = given.name_of("client_id");
            given.refuse("client_id", format!("{name} is missing: set it to the API key of your application"));
        }
        let landing_pages: Vec<_> =
            config.tracking_activity_types.iter().copied().filter(|kind| kind.is_of_landing_pages()).collect();
        if config.activity_route == ActivityRoute::Campaigns && !landing_pages.is_empty() {
            let why = format!(
                "activity_route is {:?}, which cannot read {}: set it to {:?} or {:?}, or take the landing-page types \
                 (p_*) out of tracking_activity_types",
                ActivityRoute::Campaigns.as_str(),
                words(&landing_pages),
                ActivityRoute::Auto.as_str(),
                ActivityRoute::Contacts.as_str(),
            );
            given.refuse("activity_route", why);
        }
        config.report = config.report_window(&mut given, now.with_timezone(&config.timezone).date_naive());
        given.fail_if_wrong()?;
        Ok(config)
    }

    /// The window that the `report_` settings name; also `None` if one of them is wrong.
    fn report_window(&self, given: &mut Given, today: NaiveDate) -> Option<ReportWindow> {
        for (key, date) in [
            ("report_date", self.report_date),
            ("report_start_date", self.report_start_date),
            ("report_end_date", self.report_end_date),
        ] {
            if let Some(date) = date.filter(|date| *date > today) {
                given.refuse(
                    key,
                    format!("{key} is {date}, which is in the future: today is {today} in {}", self.timezone),
                );
            }
        }
        let keys = [
            "report_date",
            "report_days_back",
            "report_start_date",
            "report_start_days_back",
            "report_end_date",
            "report_end_days_back",
        ];
        if keys.iter().any(|key| given.is_wrong(key)) {
            return None;
        }
        let set: Vec<&str> = keys.into_iter().filter(|key| given.is_set(key)).collect();
        let edge = |date: Option<NaiveDate>, days: Option<u32>| date.map(Edge::Date).or(days.map(Edge::DaysBack));
        let start = edge(self.report_start_date, self.report_start_days_back);
        let end = edge(self.report_end_date, self.report_end_days_back);
        match (set.as_slice(), start, end) {
            ([], ..) => None,
            (["report_date"], ..) => self.report_date.map(ReportWindow::Day),
            (["report_days_back"], ..) => self.report_days_back.map(ReportWindow::DaysBack),
            ([key], Some(start), None) if key.starts_with("report_start") => {
                Some(ReportWindow::Range { start, end: None })
            }
            ([first, last], Some(start), Some(end)) if first.starts_with("report_start") => {
                let (from, to) = (start.day(today), end.day(today));
                if to < from {
                    given.refuse(
                        last,
                        format!("{last} ({to}) is before {first} ({from}): the end must not be before the start"),
                    );
                }
                Some(ReportWindow::Range { start, end: Some(end) })
            }
            ([key], None, Some(_)) => {
                let why = format!("{key} needs a start: set report_start_date or report_start_days_back");
                given.refuse(key, why);
                None
            }
            ([first, ..], ..) => {
                let why = format!(
                    "{} do not go together: set report_date, or report_days_back, or one of report_start_date and \
                     report_start_days_back with or without one of report_end_date and report_end_days_back",
                    set.join(" and ")
                );
                given.refuse(first, why);
                None
            }
        }
    }

    /// Whether no contact is left out for its status.
    pub(crate) fn reads_all_contacts(&self) -> bool {
        self.contact_status == [ContactStatus::All]
    }

    /// The command that logs in with these settings, for pasting into a shell.
    pub(crate) fn login_command(&self) -> String {
        command(&self.sources, "login")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(more: &str) -> Result<(Config, Vec<String>)> {
        let base = r#"{"client_id": "id", "refresh_token": "secret-token"}"#;
        let now = "2026-11-23T10:00:00Z".parse().unwrap();
        let mut warnings = Vec::new();
        let sources = [Source::of_file("a.json", base), Source::of_file("b.json", more)];
        let config = Config::parse(&sources, now, &mut warnings)?;
        Ok((config, warnings))
    }

    fn refused(more: &str) -> String {
        parse(more).unwrap_err().to_string()
    }

    #[test]
    fn an_empty_list_means_not_set_as_json_and_as_text() {
        let (default, _) = parse("{}").unwrap();
        for empty in [r"[]", r#""[]""#, r#""""#] {
            let (config, _) =
                parse(&format!(r#"{{"tracking_activity_types": {empty}, "contact_status": {empty}}}"#)).unwrap();
            assert_eq!(config.tracking_activity_types, default.tracking_activity_types, "{empty}");
            assert_eq!(config.contact_status, default.contact_status, "{empty}");
        }
    }

    #[test]
    fn one_setting_under_both_of_its_names_is_refused() {
        let text = refused(r#"{"start_date": "2026-01-01", "updated_after": "2026-02-01"}"#);
        assert!(text.contains("start_date and updated_after are the same setting"), "{text}");
        for blank in ["null", r#""""#] {
            assert!(parse(&format!(r#"{{"start_date": "2026-01-01", "updated_after": {blank}}}"#)).is_ok());
        }
    }

    #[test]
    fn a_string_stands_for_every_type() {
        let (config, warnings) = parse(
            r#"{"page_size": "7", "requests_per_second": "2.5", "contact_status": "deleted, active",
                "include_subresources": "[\"notes\"]", "updated_days_back": "", "request_timeout": "1.5"}"#,
        )
        .unwrap();
        assert_eq!(config.page_size, 7);
        assert!((config.requests_per_second - 2.5).abs() < 1e-9);
        assert_eq!(config.contact_status, [ContactStatus::Active, ContactStatus::Deleted]);
        assert_eq!(config.subresources, [Subresource::Notes]);
        assert_eq!(config.updated_days_back, None);
        assert_eq!(config.request_timeout, Duration::from_millis(1500));
        assert_eq!(warnings, [""; 0]);
    }

    #[test]
    fn what_nobody_sets_has_its_default() {
        let (config, _) =
            parse(r#"{"contact_status": [], "page_size": null, "tracking_activity_types": " "}"#).unwrap();
        assert_eq!(config.contact_status, [ContactStatus::All]);
        assert_eq!(config.subresources, Subresource::ALL);
        assert_eq!(
            words(&config.tracking_activity_types),
            "em_sends,em_opens,em_clicks,em_bounces,em_optouts,em_forwards"
        );
        assert_eq!((config.page_size, config.contacts_full_refresh_days), (500, 1));
        assert_eq!((config.request_timeout, config.lock_timeout), (Duration::from_secs(60), Duration::from_secs(120)));
        assert_eq!((config.activity_lookback_days, config.is_lookback_set), (30, false));
        assert_eq!((config.activity_route.fixed(), config.on_quota), (None, OnQuota::Stop));
        let (config, _) = parse(r#"{"activity_lookback_days": 30, "include_subresources": []}"#).unwrap();
        assert!(config.is_lookback_set && config.subresources.is_empty());
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        assert_eq!(
            refused(
                r#"{"page_size": 501, "on_quota": "wiat", "page_sise": 3, "timezone": "EST5", "start_date": "2027-01-01",
                "report_end_date": "2026-01-02", "contact_ids": "a/b", "api_url": "ftp://u:p@h/x?t=1", "other": 1}"#
            ),
            "b.json: 8 settings are wrong: \
             (1) page_size is 501; allowed: integer from 1 to 500 \
             (2) on_quota is \"wiat\"; allowed: stop, wait; did you mean \"wait\"? \
             (3) unknown setting \"page_sise\": did you mean \"page_size\"? \
             (4) timezone is \"EST5\"; allowed: IANA name such as America/New_York; did you mean \"EST\"? \
             (5) contact_ids is [\"a/b\"]; allowed: contact ids (letters, digits and hyphens) \
             (6) api_url is \"ftp://***@h/x?***\"; allowed: https:// URL (http:// for loopback only) without user, query and \
             fragment \
             (7) start_date is 2027-01-01 00:00:00 UTC, which is in the future \
             (8) report_end_date needs a start: set report_start_date or report_start_days_back"
        );
    }

    #[test]
    fn a_slip_is_an_error_unless_it_is_empty_or_commented_out() {
        for key in ["page_sise", "Page-Size", "updated_afer", "size"] {
            assert!(refused(&format!(r#"{{"{key}": 1}}"#)).contains("did you mean"), "{key}");
        }
        for (text, suggested) in [
            (r#""page_sise": null"#, "; did you mean \"page_size\"?"),
            (r#""page_sise": " ""#, "?"),
            (r#""loader": 1"#, "ignored"),
        ] {
            let (config, warnings) = parse(&format!("{{{text}}}")).unwrap();
            assert_eq!((config.page_size, warnings.len()), (500, 1), "{text}");
            assert!(warnings[0].ends_with(suggested), "{warnings:?}");
        }
        for text in [r##""#page_size": 1"##, r#""_page_size": 1"#, r#""page_size//": 1"#] {
            let (config, warnings) = parse(&format!("{{{text}}}")).unwrap();
            assert_eq!((config.page_size, warnings.len()), (500, 0), "{text}");
        }
        let many = (0..30).map(|i| format!(r#""key{i}": 1,"#)).collect::<Vec<_>>().concat();
        let (_, warnings) = parse(&format!("{{{many}\"x\\u001b\": 1}}")).unwrap();
        assert_eq!((warnings.len(), warnings[20].as_str()), (21, "b.json: 11 more unknown settings are ignored"));
    }

    #[test]
    fn a_start_without_a_zone_is_one_of_the_timezone() {
        for (start, expected) in [
            ("2026-03-01T08:30:00.250000", "2026-03-01T13:30:00.25Z"),
            ("2026-03-01", "2026-03-01T05:00:00Z"),
            ("2026-03-01T08:30:00+01:00", "2026-03-01T07:30:00Z"),
            ("2026-03-01 08:30", "2026-03-01T13:30:00Z"),
            ("2026-03-01 08:30:00Z", "2026-03-01T08:30:00Z"),
            // The clocks skip this time.
            ("2026-03-08T02:30:00", "2026-03-08T07:00:00Z"),
        ] {
            let more = format!(r#"{{"timezone": "America/New_York", "start_date": "{start}"}}"#);
            assert_eq!(parse(&more).unwrap().0.start_date, Some(expected.parse().unwrap()), "{start}");
        }
    }

    #[test]
    fn a_report_window_is_named_in_one_way() {
        let day = |d| NaiveDate::from_ymd_opt(2026, 1, d).unwrap();
        let (config, _) = parse(r#"{"report_start_date": "2026-01-04", "report_end_date": "2026-01-04"}"#).unwrap();
        assert_eq!(
            config.report,
            Some(ReportWindow::Range { start: Edge::Date(day(4)), end: Some(Edge::Date(day(4))) })
        );
        let (config, _) = parse(r#"{"report_start_days_back": 4}"#).unwrap();
        assert_eq!(config.report, Some(ReportWindow::Range { start: Edge::DaysBack(4), end: None }));
        for (more, expected) in [
            (
                r#"{"report_days_back": 3, "report_end_days_back": 1}"#,
                "report_days_back and report_end_days_back do not go",
            ),
            (r#"{"report_end_days_back": 1}"#, "report_end_days_back needs a start: set report_start_date or"),
            (
                r#"{"report_start_days_back": 2, "report_end_date": "2026-01-04"}"#,
                "report_end_date (2026-01-04) is before report_start_days_back (2026-11-21)",
            ),
            (r#"{"report_start_date": "2026-01-04", "report_start_days_back": 4}"#, "do not go together"),
        ] {
            assert!(refused(more).contains(expected), "{more}: {}", refused(more));
        }
        // A date that is wrong is reported once, not also for the window.
        let text = refused(r#"{"report_start_date": "2026-02-30", "report_end_date": "2026-01-04"}"#);
        assert!(text.starts_with("b.json: report_start_date is \"2026-02-30\"; allowed: date"), "{text}");
    }

    #[test]
    fn no_message_shows_a_secret() {
        for more in [
            r#"{"refresh_token": ["hush"]}"#,
            r#"{"access_token": "hu sh"}"#,
            r#"{"client_id": "hu sh"}"#,
            r#"{"api_url": "http://me:hush@host/v3"}"#,
            r#"{"api_url": "http://me:x/hush@host/v3"}"#,
            r#"{"api_url": "http://host/v3?token=a@hush"}"#,
            r#"{"api_url": "me:hush@host"}"#,
            r#"{"auth_url": "http://host/v3#hush"}"#,
            r#"{"redirect_uri": "http://me:hu?sh@host/v3"}"#,
            r#"{"api_url": ["http://me:hush@host"]}"#,
        ] {
            let text = refused(more);
            assert!(!text.contains("hu"), "{text}");
        }
        assert!(!format!("{:?}", parse("{}").unwrap().0).contains("secret-token"));
    }

    #[test]
    fn long_and_odd_values_are_cut_and_cleaned() {
        let text = refused(&format!(r#"{{"timezone": "\u009b{}"}}"#, "x".repeat(5000)));
        assert!(text.len() < 500 && !text.contains(char::is_control), "{text}");
    }
}
