//! Snapshots of what a user sees: discovery, the help, a small full sync, and the messages of failures.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use fake::account::Size;
use fake::{Account, Fake, Fault, What};
use insta::{Settings, assert_snapshot};
use serde_json::{Value, json};

use crate::tap::{self, Ran, command, only, tap, tap_with};

/// An account that is the same on any day.
fn fake() -> Fake {
    let day: DateTime<Utc> = "2026-01-15T12:00:00Z".parse().unwrap();
    Fake::start(Account::generate_at(9, Size { contacts: 4, lists: 2, campaigns: 2 }, day))
}

/// Compares with the snapshot, after replacing what differs from run to run.
fn same(name: &str, text: &str) {
    let mut settings = Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.add_filter(
        r#""(time_extracted|replication_key_value|full_refresh_at|resume_until)":"[^"]+""#,
        r#""$1":"[now]""#,
    );
    settings.add_filter(r"127\.0\.0\.1:\d+", "[address]");
    settings.add_filter(r"/[^ :]*/\.tmp\w+", "[file]");
    settings.add_filter(r" in \d+\.\d s", " in [time] s");
    settings.add_filter(r#""value":\d+\.\d+"#, r#""value":"[seconds]""#);
    settings.add_filter(r"in \d+ h \d+ min", "in [hours]");
    settings.add_filter(r"\(request id [^)]+\)", "(request id [id])");
    settings.bind(|| assert_snapshot!(name, text));
}

fn output(arguments: &[&str]) -> String {
    let output = command().args(arguments).env("COLUMNS", "100").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn discovery() {
    same("discovery", &output(&["--discover"]));
}

#[test]
fn help() {
    same("help", &output(&["--help"]));
    same("help_login", &output(&["login", "--help"]));
}

#[test]
fn a_small_full_sync() {
    let fake = fake();
    let ran = tap(&fake, &json!({}), None);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let lines: Vec<String> = ran.messages.iter().map(Value::to_string).collect();
    same("full_sync", &lines.join("\n"));
    same("full_sync_stderr", ran.stderr.trim_end());
}

#[test]
fn a_preflight() {
    let fake = fake();
    let config = tap::file(&fake.config());
    let output = command().arg("--test").arg("--config").arg(config.path()).output().unwrap();
    same("test", Ran::of(&output).stderr.trim_end());
    let config = tap::file(&fake.config());
    let output = command().args(["--test", "--format", "json", "--config"]).arg(config.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    same("test_json", &String::from_utf8(output.stdout).unwrap());
    fake.tokens().privileges.retain(|privilege| !privilege.contains("campaign"));
    let config = tap::file(&fake.config());
    let output = command().arg("--test").arg("--config").arg(config.path()).output().unwrap();
    same("test_refused", Ran::of(&output).stderr.trim_end());
}

#[test]
fn what_is_said_when_things_go_wrong() {
    let contacts = only(&["contacts"]);
    let mut said = String::new();
    let mut note = |title: &str, ran: &Ran| {
        let lines: Vec<&str> = ran
            .stderr
            .lines()
            .filter(|l| ["WARNING", "ERROR", "CRITICAL"].iter().any(|level| l.starts_with(level)))
            .filter(|l| !l.contains("so that one is not read"))
            .collect();
        let _ = write!(said, "{title}: exit {}\n{}\n\n", ran.code.unwrap(), lines.join("\n"));
    };
    for (title, more) in [
        ("a wrong value", json!({"page_size": 1000})),
        ("a wrong word", json!({"contact_status": "actve"})),
        ("settings that do not go together", json!({"report_date": "2026-01-01", "report_days_back": 3})),
        ("an unknown setting", json!({"contact_state": "active", "page_size": 0})),
        ("no credentials", json!({"refresh_token": null})),
        ("a used refresh token", json!({"refresh_token": "used-before"})),
        ("another secret", json!({"client_secret": "wrong"})),
        ("no calls left for this run", json!({"max_requests": 1})),
        ("nobody listens", json!({"api_url": "http://127.0.0.1:1/v3", "max_retries": 0})),
    ] {
        note(title, &tap_with(&fake(), &more, None, Some(&contacts)));
    }
    for (title, what) in [
        ("the daily quota", What::QuotaExceeded),
        ("throttled for good", What::Throttled),
        (
            "out of order",
            What::Status(500, r#"[{"error_key": "oops", "error_message": "Server error"}]"#.into(), "application/json"),
        ),
        ("a web page", What::Html200),
        ("a token that is not taken", What::Unauthorized),
        ("a missing scope", What::Forbidden),
        ("a link elsewhere", What::NextLink("https://example.com/v3/contacts".into())),
        ("a redirect", What::Redirect("https://example.com/".into())),
        ("no answer in time", What::SlowDrip(std::time::Duration::from_millis(100))),
    ] {
        let fake = fake();
        fake.fault(Fault::always("/contacts?", what));
        note(title, &tap_with(&fake, &json!({"max_retries": 1, "request_timeout": 0.5}), None, Some(&contacts)));
        fake.violations();
    }
    for (title, state) in [("an empty state", json!("")), ("another tap's state", json!({"contacts": {"id": 5}}))] {
        note(title, &tap_with(&fake(), &json!({}), Some(&state), Some(&contacts)));
    }
    note("a broken catalog", &tap_with(&fake(), &json!({}), None, Some(&json!({"streams": {}}))));
    same("what_goes_wrong", &said);
}
