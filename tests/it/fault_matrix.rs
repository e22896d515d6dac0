//! Each call of a sync with each fault: the data are complete, or the run ends with the right exit code, one helpful CRITICAL
//! line, and a STATE from which the next run reads the rest.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use chrono::TimeDelta;
use fake::account::Size;
use fake::{Account, Fake, Fault, Switches, What};
use serde_json::{Value, json};

use crate::tap::{Ran, only, sorted, tap_with, without_nulls};

/// A call of a sync: its path, how many of them to skip, the route, and the streams that make it.
struct Call {
    name: &'static str,
    path: &'static str,
    skip: usize,
    route: &'static str,
    streams: &'static [&'static str],
}

const SUMMARY: &str = "contact_action_summary";
const DETAILS: &str = "contact_activity_details";
const REPORTS: &[&str] = &[SUMMARY, DETAILS];

const CALLS: &[Call] = &[
    Call { name: "token", path: "/v1/token", skip: 0, route: "auto", streams: &["contacts"] },
    Call { name: "lists", path: "channel_type=email", skip: 0, route: "auto", streams: &["contact_lists"] },
    Call {
        name: "lists, later page",
        path: "/contact_lists?cursor",
        skip: 0,
        route: "auto",
        streams: &["contact_lists"],
    },
    Call { name: "campaigns", path: "/emails?", skip: 0, route: "auto", streams: &["email_campaigns"] },
    Call { name: "contacts", path: "/contacts?status", skip: 0, route: "auto", streams: &["contacts"] },
    Call { name: "contacts, later page", path: "/contacts?cursor", skip: 0, route: "auto", streams: &["contacts"] },
    Call { name: "summary of a contact", path: "/activity_summary?", skip: 2, route: "contacts", streams: &[SUMMARY] },
    Call { name: "details of a contact", path: "/activity_details?", skip: 0, route: "contacts", streams: &[DETAILS] },
    Call {
        name: "details, later page",
        path: "/activity_details?next",
        skip: 0,
        route: "contacts",
        streams: &[DETAILS],
    },
    Call { name: "sent", path: "/email_campaign_summaries", skip: 0, route: "campaigns", streams: REPORTS },
    Call { name: "campaign", path: "/v3/emails/", skip: 1, route: "campaigns", streams: REPORTS },
    Call { name: "opens", path: "/tracking/opens", skip: 0, route: "campaigns", streams: REPORTS },
    Call { name: "sends, later page", path: "/tracking/sends?next", skip: 0, route: "campaigns", streams: REPORTS },
];

/// A fault, the exit code if it lasts, and words of its CRITICAL line.
struct Trouble {
    what: What,
    code: i32,
    words: &'static str,
}

fn lasting() -> Vec<Trouble> {
    let status = |status, body: &str, kind| What::Status(status, body.into(), kind);
    let bad_cursor = r#"[{"error_key": "query.param.invalid", "error_message": "The cursor is not valid."}]"#;
    vec![
        Trouble {
            what: status(500, r#"[{"error_key": "oops", "error_message": "Server"}]"#, "application/json"),
            code: 1,
            words: "500",
        },
        Trouble { what: status(502, "<html><h1>Bad Gateway</h1></html>", "text/html"), code: 1, words: "502" },
        Trouble { what: status(503, "", "text/plain"), code: 1, words: "503" },
        Trouble { what: What::Throttled, code: 1, words: "429" },
        Trouble { what: What::QuotaExceeded, code: 4, words: "00:00 UTC" },
        Trouble {
            what: status(429, r#"{"message": "Limit Exceeded"}"#, "application/json"),
            code: 4,
            words: "00:00 UTC",
        },
        Trouble { what: status(403, "<html>Access denied</html>", "text/html"), code: 1, words: "403" },
        Trouble { what: What::Refuse, code: 1, words: "network" },
        Trouble { what: What::LostAnswer, code: 1, words: "network" },
        Trouble { what: What::CutBody, code: 1, words: "network" },
        Trouble { what: What::TruncatedJson, code: 1, words: "200 response" },
        Trouble { what: What::Empty200, code: 1, words: "200" },
        Trouble { what: What::Html200, code: 1, words: "200" },
        Trouble { what: status(200, "{}", "application/json"), code: 1, words: "200 response" },
        Trouble { what: status(200, "[]", "application/json"), code: 1, words: "200 response" },
        Trouble {
            what: status(
                200,
                r#"{"error_key": "throttled", "error_message": "Too Many Requests"}"#,
                "application/json",
            ),
            code: 1,
            words: "200 response",
        },
        Trouble { what: What::CutGzip, code: 1, words: "network" },
        Trouble { what: What::SlowDrip(Duration::from_millis(40)), code: 1, words: "request_timeout" },
        Trouble { what: What::Unauthorized, code: 3, words: "access token" },
        Trouble { what: What::Forbidden, code: 3, words: "refused" },
        Trouble { what: What::NotFound, code: 1, words: "404" },
        Trouble { what: status(400, bad_cursor, "application/json"), code: 1, words: "cursor is not valid" },
        Trouble {
            what: What::NextLink("https://example.com/v3/contacts?cursor=abc".into()),
            code: 1,
            words: "leads away",
        },
        Trouble { what: What::NextLink("//example.com/v3/contacts".into()), code: 1, words: "leads away" },
        Trouble { what: What::LoopingLink, code: 1, words: "leads back" },
        Trouble { what: What::Redirect("https://example.com/".into()), code: 1, words: "redirect" },
        Trouble { what: What::Big(60 << 20), code: 1, words: "page_size" },
    ]
}

impl Call {
    /// Whether the plan makes this call first.
    fn is_first_of_the_plan(&self) -> bool {
        let names = ["campaigns", "contacts", "summary of a contact", "details of a contact"];
        names.contains(&self.name)
    }

    /// The exit code and words if a lasting fault has another effect on this call than on most.
    fn exception(&self, what: &What) -> Option<(i32, &'static str)> {
        let later = self.path.ends_with("?next") || self.path.ends_with("?cursor");
        let report = self.path.contains("/activity_") || self.path.contains("/tracking/") || self.path == "/v3/emails/";
        match what {
            _ if self.name == "token" => Some(match what {
                What::QuotaExceeded | What::Throttled | What::Status(429, ..) => (1, "429"),
                What::Status(400, ..) => (1, "400"),
                What::Status(500, ..) => (1, "500"),
                What::Unauthorized => (3, "invalid_client"),
                What::Forbidden => (1, "403"),
                What::Redirect(_) => (1, "302"),
                What::TruncatedJson | What::Empty200 | What::Html200 | What::Status(200, ..) => (1, "200"),
                What::NotFound => (1, "404"),
                // The authorization server sends no links and no large answers.
                What::NextLink(_) | What::LoopingLink | What::Big(_) => (0, ""),
                _ => return None,
            }),
            // Only listings have next links.
            What::NextLink(_) | What::LoopingLink if self.name == "campaign" => Some((0, "")),
            // A refused campaign or activity is skipped with a warning, whatever the status.
            What::Status(400, ..) | What::Forbidden if self.name == "campaign" || self.name == "opens" => Some((0, "")),
            // A refusal after the first page of a report is a failure.
            What::Forbidden if report && later => Some((1, "403")),
            // An unknown contact or activity is skipped, but only if the first page says so.
            What::NotFound if report && !later => Some((0, "")),
            // A first page without the list of rows, twice, means that there are none.
            What::Status(200, body, _) if self.name != "campaign" && !later && body == "{}" => Some((0, "")),
            _ => None,
        }
    }
}

fn account() -> Account {
    Account::generate(23, Size { contacts: 7, lists: 5, campaigns: 3 }).with_all_details()
}

struct Cell<'a> {
    call: &'a Call,
    trouble: &'a Trouble,
    lasts: bool,
}

impl Cell<'_> {
    /// Runs the tap with the fault, and again without it. The error says what is wrong.
    fn run(&self) -> Result<(), String> {
        let Call { path, skip, route, streams, .. } = *self.call;
        let fake = Fake::start_with(account(), Switches { gzip: false, ..Switches::long_lived() });
        let truth: Vec<String> = {
            let account = fake.account();
            sorted(streams.iter().flat_map(|stream| account.truth(stream)).map(|row| without_nulls(&row)))
        };
        let times = if self.lasts { usize::MAX } else { 1 };
        fake.fault(Fault { path: path.into(), skip, times, what: self.trouble.what.clone() });
        let timeout = if matches!(self.trouble.what, What::Big(_)) { 30.0 } else { 1.5 };
        let more = json!({"activity_route": route, "page_size": 3, "request_timeout": timeout, "max_retries": 1});
        let catalog = only(streams);
        let first = tap_with(&fake, &more, None, Some(&catalog));
        let (code, words) = self.call.exception(&self.trouble.what).unwrap_or((self.trouble.code, self.trouble.words));
        // A retry is enough if the fault passes.
        let passes = matches!(
            self.trouble.what,
            What::Status(200 | 403 | 500.., ..)
                | What::Throttled
                | What::Refuse
                | What::LostAnswer
                | What::CutBody
                | What::TruncatedJson
                | What::Empty200
                | What::Html200
                | What::CutGzip
                | What::SlowDrip(_)
                | What::Unauthorized
                | What::Big(_)
        ) || self.call.name == "token" && code == 1
            // If a range is refused, the tap requests shorter ones.
            || self.call.name == "summary of a contact" && matches!(self.trouble.what, What::Status(400, ..))
            // It hits a call of the plan, and the sync continues without it.
            || self.call.is_first_of_the_plan() && matches!(self.trouble.what, What::Forbidden)
            || self.call.name == "contacts" && matches!(self.trouble.what, What::LoopingLink);
        let spared = self.call.name == "token" && matches!(self.trouble.what, What::Unauthorized);
        let code = if self.lasts || !passes || spared { code } else { 0 };
        let say = |what: &str| Err(format!("{what}\n{}", first.stderr));
        if first.code != Some(code) {
            return say(&format!("exit {:?}, not {code}", first.code));
        }
        let critical: Vec<&str> = first.stderr.lines().filter(|l| l.starts_with("CRITICAL")).collect();
        if critical.len() != usize::from(code != 0) {
            return say("not one CRITICAL line");
        }
        if code != 0 && !critical[0].contains(words) {
            return say(&format!("the CRITICAL line lacks {words:?}"));
        }
        if code != 0 && self.call.name != "token" && !streams.iter().any(|stream| critical[0].contains(stream)) {
            return say("the CRITICAL line names no stream");
        }
        let rows = |ran: &Ran| -> Vec<Value> { streams.iter().flat_map(|stream| ran.records(stream)).collect() };
        let mut all = rows(&first);
        let lacks_rows = self.lasts && matches!(&self.trouble.what, What::Status(200, ..));
        let is_refused =
            matches!(self.trouble.what, What::NotFound | What::Forbidden | What::Status(400, ..)) && !passes;
        let skipped = code == 0 && (lacks_rows || is_refused);
        if skipped {
            // Only whole contacts, activities or lists are missing, and the other rows are right. A summary is counted from
            // rows, so it is not compared if some of those are missing.
            all.retain(|row| !lacks_rows || row.get("em_opens").is_none());
            let all = sorted(all);
            if let Some(wrong) = all.iter().find(|row| !truth.contains(row)) {
                return say(&format!("a row that the account does not have: {wrong}"));
            }
            let of = |row: &str| -> Value {
                let row: Value = serde_json::from_str(row).unwrap();
                let parent = if route == "contacts" { "contact_id" } else { "campaign_activity_id" };
                json!([row[parent], row["tracking_activity_type"], row["channel_type"]])
            };
            let halved = all.iter().find(|row| truth.iter().any(|other| of(other) == of(row) && !all.contains(other)));
            if let Some(row) = halved {
                return say(&format!("some of the rows that belong to {row} are missing"));
            }
            return if first.last_state()["bookmarks"].is_null() { say("no bookmark") } else { Ok(()) };
        }
        if code == 0 && sorted(all.clone()) != truth {
            let read = sorted(all.clone());
            let lacking = truth.iter().find(|row| !read.contains(row));
            return say(&format!("the data are not complete: {lacking:?} is missing, of {} rows", truth.len()));
        }
        // The next run reads the rest from the last STATE.
        fake.heal();
        let state = first.messages.last().map_or(json!({}), |m| m["value"].clone());
        let second = tap_with(&fake, &more, Some(&state), Some(&catalog));
        if second.code != Some(0) {
            return say(&format!("the next run ended with {:?}: {}", second.code, second.stderr));
        }
        all.extend(rows(&second));
        let mut all = sorted(all);
        all.dedup();
        fake.violations();
        if all == truth { Ok(()) } else { say("the next run did not read the rest") }
    }
}

#[test]
fn every_call_survives_every_fault() {
    let troubles = lasting();
    let cells: Vec<Cell> = CALLS
        .iter()
        .flat_map(|call| {
            troubles.iter().flat_map(move |trouble| [false, true].map(|lasts| Cell { call, trouble, lasts }))
        })
        .collect();
    assert_eq!(cells.len(), CALLS.len() * troubles.len() * 2);
    let (left, failed) = (Mutex::new(cells.iter()), Mutex::new(Vec::new()));
    // Eight at once, since they mostly wait for a retry.
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let Some(cell) = left.lock().unwrap().next() else { break };
                    let outcome = thread::scope(|scope| scope.spawn(|| cell.run()).join());
                    if let Err(why) = outcome.unwrap_or_else(|_| Err("the test panicked".into())) {
                        let name = format!("{} × {:?}, {}", cell.call.name, cell.trouble.what, cell.lasts);
                        failed.lock().unwrap().push(format!("{name}: {why}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} of {} cells:\n{}", failed.len(), cells.len(), failed.join("\n\n"));
}

#[test]
fn a_failure_that_the_plan_meets_lets_the_streams_before_it_be_read() {
    let fake = Fake::start_with(account(), Switches::long_lived());
    fake.fault(Fault::always("/v3/emails", What::Status(503, "[]".into(), "application/json")));
    let more = json!({"max_retries": 1, "contacts_full_refresh_days": 1});
    let mut state = None;
    // Whatever the run before has left off at.
    for full in [true, false] {
        let ran = tap_with(&fake, &more, state.as_ref(), None);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert_eq!(ran.records("contact_lists").len(), fake.account().truth("contact_lists").len(), "{}", ran.stderr);
        assert_eq!(ran.records("contacts").len(), if full { fake.account().truth("contacts").len() } else { 1 });
        assert!(ran.stderr.contains("only the streams before that one are read"), "{}", ran.stderr);
        assert_eq!(ran.last_state()["currently_syncing"], "email_campaigns");
        state = Some(ran.last_state());
        let id = fake.account().contacts[0].id.to_string();
        fake.account().rename(&id, "Renamed");
    }
}

#[test]
fn a_clock_ten_minutes_off_loses_nothing() {
    for minutes in [-10, 10] {
        let skew = TimeDelta::minutes(minutes);
        let fake = Fake::start_with(account(), Switches { clock_skew: skew, ..Switches::long_lived() });
        let first = tap_with(&fake, &json!({}), None, Some(&only(&["contacts"])));
        // The bookmark is by the service's clock, unless that is ahead: a bookmark in the future would skip rows.
        let at = first.last_state()["bookmarks"]["contacts"]["replication_key_value"].as_str().unwrap().to_owned();
        let off = fake.now().min(chrono::Utc::now())
            - at.parse::<chrono::DateTime<chrono::Utc>>().unwrap()
            - TimeDelta::minutes(5);
        assert!(off.abs() < TimeDelta::seconds(20), "{off}");
        let id = fake.account().contacts[0].id.to_string();
        fake.account().rename(&id, "Renamed");
        let second = tap_with(&fake, &json!({}), Some(&first.last_state()), Some(&only(&["contacts"])));
        assert!(second.records("contacts").iter().any(|c| c["contact_id"] == *id), "{}", second.stderr);
    }
}
