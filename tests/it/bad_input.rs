//! Config, catalog and state files that cannot be used: the run exits with 2, says where the mistake is, makes no call and
//! overwrites nothing.

use std::fs;
use std::path::PathBuf;

use fake::account::Size;
use fake::{Account, Fake};
use serde_json::{Value, json};

use crate::tap::{self, Ran, command, tap};

fn fake() -> Fake {
    Fake::start(Account::generate(2, Size { contacts: 3, lists: 1, campaigns: 1 }))
}

fn critical(ran: &Ran) -> &str {
    let mut lines = ran.stderr.lines().filter_map(|line| line.strip_prefix("CRITICAL "));
    let line = lines.next().unwrap_or_else(|| panic!("no CRITICAL line: {}", ran.stderr));
    assert_eq!(lines.next(), None, "{}", ran.stderr);
    line
}

#[test]
fn every_wrong_value_is_refused_with_what_is_allowed() {
    let tomorrow = (chrono::Utc::now() + chrono::TimeDelta::days(2)).format("%Y-%m-%d").to_string();
    let cases = [
        ("client_id", json!(["a"]), "string"),
        ("client_id", json!("two words"), "ASCII"),
        ("client_secret", json!({"a": 1}), "string"),
        ("refresh_token", json!(true), "string"),
        ("access_token", json!("line\nbreak"), "ASCII"),
        ("token_file", json!([]), "string"),
        ("redirect_uri", json!("not a url"), "https://"),
        ("redirect_uri", json!("http://example.com/callback"), "loopback"),
        ("start_date", json!("yesterday"), "YYYY-MM-DD"),
        ("start_date", json!("2026-13-01"), "YYYY-MM-DD"),
        ("start_date", json!(tomorrow), "which is in the future"),
        ("start_date", json!("0001-01-01"), "1990"),
        ("updated_days_back", json!(-1), "integer from 0"),
        ("updated_days_back", json!(1.5), "integer"),
        ("updated_days_back", json!("a week"), "integer"),
        ("updated_days_back", json!(40000), "36500"),
        ("contact_ids", json!("not/an/id"), "contact ids"),
        ("contact_ids", json!([1, 2]), "list of strings"),
        ("contact_ids", json!(["a", ""]), "contact ids"),
        ("contact_ids", json!({"id": "a"}), "list"),
        ("contact_status", json!("actve"), "pending_confirmation"),
        ("contact_status", json!(["active", "gone"]), "temp_hold"),
        ("contact_status", json!(7), "unsubscribed"),
        ("include_subresources", json!("some"), "custom_fields"),
        ("include_subresources", json!(["notes", "tags"]), "taggings"),
        ("include_subresources", json!(1), "true or false"),
        ("include_subresources", json!("[\"notes\""), "true or false"),
        ("tracking_activity_types", json!("opens"), "em_opens"),
        ("tracking_activity_types", json!(["em_opens", "em_didnotopen"]), "p_contact_open"),
        ("report_date", json!("01/02/2026"), "YYYY-MM-DD"),
        ("report_date", json!(tomorrow), "which is in the future"),
        ("report_days_back", json!(0), "from 1"),
        ("report_days_back", json!("many"), "integer"),
        ("report_start_date", json!("2026-02-30"), "YYYY-MM-DD"),
        ("report_start_days_back", json!(-3), "from 0"),
        ("timezone", json!("EST5"), "IANA"),
        ("timezone", json!("Mars/Olympus"), "America/New_York"),
        ("activity_route", json!("fast"), "auto, contacts, campaigns"),
        ("activity_route", json!(true), "auto, contacts, campaigns"),
        ("activity_lookback_days", json!("-1"), "from 0"),
        ("contacts_full_refresh_days", json!(36501.0), "to 36500"),
        ("requests_per_second", json!(0), "from 0.01"),
        ("requests_per_second", json!("quick"), "number from"),
        ("requests_per_second", json!(1e9), "10000"),
        ("requests_per_second", json!([4]), "number from"),
        ("max_requests", json!(0), "at least 1"),
        ("max_requests", json!(2.5), "integer"),
        ("on_quota", json!("sleep"), "stop, wait"),
        ("page_size", json!(0), "from 1 to 500"),
        ("page_size", json!(501), "from 1 to 500"),
        ("page_size", json!("1e2x"), "from 1 to 500"),
        ("request_timeout", json!(0), "0.1"),
        ("request_timeout", json!(false), "number from"),
        ("max_retries", json!(21), "from 0 to 20"),
        ("max_retries", json!(-1), "from 0 to 20"),
        ("api_url", json!("http://api.example.com/v3"), "loopback"),
        ("api_url", json!("https://user:word@api.example.com"), "without user"),
        ("api_url", json!("ftp://127.0.0.1"), "https://"),
        ("api_url", json!("https://api.example.com/v3?x=1"), "query"),
        ("auth_url", json!("api.example.com"), "https://"),
        ("user_agent", json!("täp"), "ASCII"),
        ("user_agent", json!("a\r\nX-Header: b"), "ASCII"),
    ];
    let fake = fake();
    for (key, value, allowed) in cases {
        let ran = tap(&fake, &json!({key: value}), None);
        let message = critical(&ran);
        assert_eq!(ran.code, Some(2), "{key} {value}: {message}");
        assert!(message.contains(&format!(": {key} is ")), "{key} {value}: {message}");
        assert!(message.contains(allowed), "{key} {value}: {message}");
        let is_hidden = ["client_id", "client_secret", "refresh_token", "access_token"].contains(&key);
        let is_plain = |text: &&str| text.is_ascii() && !text.contains(['\n', '"', '?', '@']);
        if let Some(text) = value.as_str().filter(|text| !is_hidden && is_plain(text)) {
            assert!(message.contains(text), "{key} {value}: {message}");
        }
        assert!(ran.messages.is_empty());
    }
    assert!(fake.calls().is_empty());
}

#[test]
fn settings_that_do_not_go_together_are_refused() {
    let fake = fake();
    for (more, words) in [
        (
            json!({"report_date": "2026-01-01", "report_days_back": 3}),
            &["report_date and report_days_back do not go together"][..],
        ),
        (
            json!({"report_date": "2026-01-01", "report_start_date": "2026-01-01"}),
            &["report_date and report_start_date do"],
        ),
        (json!({"report_days_back": 3, "report_end_days_back": 1}), &["report_days_back and report_end_days_back do"]),
        (
            json!({"report_start_date": "2026-01-01", "report_start_days_back": 4}),
            &["report_start_date and report_start_days_back"],
        ),
        (
            json!({"report_start_date": "2026-01-01", "report_end_date": "2026-01-02", "report_end_days_back": 4}),
            &["report_end_date and report_end_days_back"],
        ),
        (json!({"report_end_date": "2026-01-02"}), &["needs a start: set report_start_date"]),
        (json!({"report_end_days_back": 2}), &["needs a start: set report_start_date"]),
        (
            json!({"report_start_date": "2026-01-05", "report_end_date": "2026-01-04"}),
            &["report_end_date (2026-01-04) is before report_start_date (2026-01-05)"],
        ),
        (
            json!({"report_start_days_back": 2, "report_end_days_back": 5}),
            &["report_end_days_back (", "is before report_start_days_back ("],
        ),
        (
            json!({"activity_route": "campaigns", "tracking_activity_types": ["em_opens", "p_contact_add"]}),
            &["activity_route", "landing-page types"],
        ),
        (json!({"client_id": null}), &["client_id is missing"]),
        (json!({"refresh_token": null}), &["no credentials", "login"]),
    ] {
        let ran = tap(&fake, &more, None);
        assert_eq!(ran.code, Some(2), "{more}: {}", ran.stderr);
        assert!(words.iter().all(|word| critical(&ran).contains(word)), "{more}: {}", ran.stderr);
    }
    assert!(fake.calls().is_empty());
}

/// Runs with this content in one of the three files, and good content in the others.
fn with_file(fake: &Fake, flag: &str, bytes: &[u8]) -> (Ran, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("given.json");
    fs::write(&path, bytes).unwrap();
    let config = tap::file(&fake.config());
    let mut command = command();
    if flag != "--config" {
        command.arg("--config").arg(config.path());
    }
    let ran = Ran::of(&command.arg(flag).arg(&path).output().unwrap());
    assert_eq!(fs::read(&path).unwrap(), bytes, "{flag} was overwritten");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a file was left beside {flag}");
    (ran, path)
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn unusable_files_are_named_and_not_changed() {
    let fake = fake();
    let deep = |open: &str, close: &str| (open.repeat(5000) + &close.repeat(5000)).into_bytes();
    let huge = format!("{{\"client_id\": \"{}\"", "x".repeat(20_000_000)).into_bytes();
    let none: &[&str] = &[];
    let any = |flag: &'static str| {
        [
            (flag, b"".to_vec(), none),
            (flag, b"   \n".to_vec(), none),
            (flag, b"{".to_vec(), none),
            (flag, b"{\"a\": 1,}".to_vec(), &["line 1"]),
            (flag, b"{\n\n  \"a\": trux\n}".to_vec(), &["line 3"]),
            (flag, b"{'a': 1}".to_vec(), none),
            (flag, b"[1, 2]".to_vec(), none),
            (flag, b"null".to_vec(), none),
            (flag, b"\"text\"".to_vec(), none),
            (flag, b"{} {}".to_vec(), none),
            (flag, b"\xff\xfe{\x00}\x00".to_vec(), none),
            (flag, b"{\"a\": \"\xc3\x28\"}".to_vec(), none),
            (flag, b"\x00".to_vec(), none),
            (flag, b"{\"a\": NaN}".to_vec(), none),
            (flag, b"<html></html>".to_vec(), none),
            (flag, deep("[", "]"), none),
            (flag, deep("{\"a\":", "}"), none),
            (flag, huge.clone(), none),
        ]
    };
    let mut cases: Vec<(&str, Vec<u8>, &[&str])> = Vec::new();
    for flag in ["--config", "--catalog", "--state"] {
        cases.extend(any(flag));
    }
    let text = |value: Value| value.to_string().into_bytes();
    cases.extend([
        ("--catalog", text(json!({})), &["streams"][..]),
        ("--catalog", text(json!({"streams": {}})), &["streams"]),
        ("--catalog", text(json!({"streams": [1]})), &["streams"]),
        ("--catalog", text(json!({"streams": [{"schema": {}}]})), none),
        ("--catalog", text(json!({"streams": [{"tap_stream_id": 7, "schema": {}}]})), none),
        ("--catalog", text(json!({"streams": [{"tap_stream_id": "contacts", "metadata": {}}]})), &["metadata"]),
        ("--catalog", text(json!({"streams": [{"tap_stream_id": "contacts", "metadata": [{"breadcrumb": 1}]}]})), none),
        (
            "--catalog",
            text(json!({"streams": [{"tap_stream_id": "contacts", "metadata": [
                {"breadcrumb": [], "metadata": {"selected": "maybe"}}]}]})),
            none,
        ),
        ("--catalog", text(json!({"streams": [
            {"tap_stream_id": "contacts", "schema": {}}, {"tap_stream_id": "contacts", "schema": {}}]})), &["second entry"]),
        ("--state", text(json!({"bookmarks": []})), none),
        ("--state", text(json!({"bookmarks": {"contacts": "2026-01-01"}})), &["contacts"]),
        (
            "--state",
            text(json!({"bookmarks": {"contacts": {"replication_key": "updated_at", "replication_key_value": "soon"}}})),
            &["contacts"],
        ),
        (
            "--state",
            text(json!({"bookmarks": {"contacts": {"replication_key": "created_at", "replication_key_value": "2026-01-01T00:00:00Z"}}})),
            &["contacts"],
        ),
        ("--state", text(json!({"bookmarks": {"contacts": {"replication_key_value": 5}}})), &["contacts"]),
        ("--state", text(json!({"currently_syncing": 5})), none),
        (
            "--state",
            text(json!({"bookmarks": {"contact_activity_details": {"resume": {"until": "2026-01-01T00:00:00Z"}}}})),
            &["contact_activity_details.resume is not known"],
        ),
        ("--state", text(json!({"bookmarks": {"issues": {"updated_at": "2026-01-01T00:00:00Z"}}})), &["other streams", "issues"]),
        (
            "--state",
            text(json!({"bookmarks": {"contacts": {"updated_at": "2026-01-01", "filter": "18b66e28"}}})),
            &["contacts.filter"],
        ),
        (
            "--state",
            text(json!({"bookmarks": {"contact_activity_details": {
                "resume_since": "", "resume_until": "2026-01-01T00:00:00Z", "resume_route": "sideways"}}})),
            &["contact_activity_details.resume_route", "sideways"],
        ),
        (
            "--state",
            text(json!({"bookmarks": {"contacts": {"replication_key_value": "2999-01-01"}}})),
            &["contacts.replication_key_value", "in the future"],
        ),
        (
            "--state",
            text(json!({"bookmarks": {"contact_activity_details": {"replication_key_vlaue": "2026-01-01"}}})),
            &["contact_activity_details", "replication_key_vlaue"],
        ),
        (
            "--state",
            text(json!({"bookmarks": {"contacts": {"full_refresh_at": "2999-01-01"}}})),
            &["contacts.full_refresh_at", "in the future"],
        ),
        // The form in which Meltano stores a tap's state.
        ("--state", text(json!({"singer_state": {"bookmarks": {}}})), &["singer_state"]),
    ]);
    assert!(cases.len() >= 60);
    for (flag, bytes, words) in cases {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
        let (ran, path) = with_file(&fake, flag, &bytes);
        let message = critical(&ran);
        assert_eq!(ran.code, Some(2), "{flag} {shown}: {message}");
        assert!(message.contains(path.to_str().unwrap()), "{flag} {shown}: {message}");
        assert!(words.iter().all(|word| message.contains(word)), "{flag} {shown}: {message}");
        assert!(message.len() < 1000, "{flag} {shown}: {message}");
        assert!(ran.messages.is_empty(), "{flag} {shown}");
    }
    assert!(fake.calls().is_empty());
}

#[test]
fn a_byte_order_mark_is_ignored() {
    let fake = fake();
    let marked = |text: &Value| ["\u{feff}".as_bytes(), text.to_string().as_bytes()].concat();
    // The tokens rotate, so the second run uses the config that the first one wrote.
    let config = tap::file(&json!(null));
    fs::write(config.path(), marked(&fake.config())).unwrap();
    for _ in 0..2 {
        let ran = Ran::of(&command().arg("--config").arg(config.path()).output().unwrap());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(!ran.stderr.contains("WARNING"), "{}", ran.stderr);
    }
    assert!(fake.tokens().refreshes >= 2);
    for (flag, text) in [("--catalog", tap::only(&["contact_lists"])), ("--state", json!({"bookmarks": {}}))] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("given.json");
        fs::write(&path, marked(&text)).unwrap();
        let ran = Ran::of(&command().arg("--config").arg(config.path()).arg(flag).arg(path).output().unwrap());
        assert_eq!(ran.code, Some(0), "{flag}: {}", ran.stderr);
    }
}

#[test]
fn paths_without_a_file_are_named() {
    let fake = fake();
    let config = tap::file(&fake.config());
    for flag in ["--config", "--catalog", "--state"] {
        for path in ["/nonexistent/file.json", "/"] {
            let ran = Ran::of(&command().arg("--config").arg(config.path()).args([flag, path]).output().unwrap());
            assert_eq!(ran.code, Some(2), "{flag} {path}: {}", ran.stderr);
            assert!(critical(&ran).contains(path), "{flag} {path}: {}", ran.stderr);
        }
    }
    for arguments in [&["--nonsense"][..], &["--state"], &["surplus"], &[], &["login", "--device", "--sideways"]] {
        let output = command().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
    assert!(fake.calls().is_empty());
}
