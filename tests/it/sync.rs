//! Whole syncs, compared with the account.

use std::collections::BTreeMap;
use std::process::Command;

use fake::account::Size;
use fake::{Account, Fake};
use serde_json::Value;
use tempfile::TempDir;

use crate::merge::is_at_rest;
use crate::tap::{discovered, sorted, streams, tap, without_nulls};

fn account() -> Account {
    Account::generate(7, Size { contacts: 40, lists: 5, campaigns: 8 })
}

#[test]
fn a_full_sync_writes_the_whole_account_on_both_routes() {
    for route in ["contacts", "campaigns"] {
        full_sync(route);
    }
}

fn full_sync(route: &str) {
    let fake = Fake::start(account());
    let ran = tap(&fake, &serde_json::json!({"activity_route": route}), None);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for stream in streams() {
        let truth = fake.account().truth(stream);
        let (read, truth) = (sorted(ran.records(stream)), sorted(truth.iter().map(without_nulls)));
        assert!(!truth.is_empty(), "{stream}");
        assert_eq!(read.len(), truth.len(), "{stream}");
        for (read, truth) in read.iter().zip(&truth) {
            assert_eq!(read, truth, "{stream}");
        }
    }
    let state = ran.last_state();
    assert!(is_at_rest(&state), "{state}");
}

#[test]
fn every_record_fits_its_schema() {
    let fake = Fake::start(account());
    let ran = tap(&fake, &serde_json::json!({}), None);
    let mut validators = BTreeMap::new();
    for message in &ran.messages {
        let stream = message["stream"].as_str().unwrap_or_default();
        if message["type"] == "SCHEMA" {
            let validator = jsonschema::options().should_validate_formats(true).build(&message["schema"]).unwrap();
            validators.insert(stream.to_owned(), validator);
        } else if message["type"] == "RECORD"
            && let Err(e) = validators[stream].validate(&message["record"])
        {
            panic!("{stream}: {e}");
        }
    }
    assert_eq!(validators.len(), streams().len());
}

#[test]
fn a_second_run_writes_only_what_changed() {
    for route in ["contacts", "campaigns"] {
        second_run(route);
    }
}

fn second_run(route: &str) {
    let fake = Fake::start(account());
    let folder = TempDir::new().unwrap();
    let more = serde_json::json!({
        "token_file": folder.path().join("tokens.json"),
        "activity_route": route,
        // Looks at all campaigns, however old.
        "activity_lookback_days": 3650,
    });
    let first = tap(&fake, &more, None);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let quiet = tap(&fake, &more, Some(&first.last_state()));
    assert_eq!(quiet.code, Some(0), "{}", quiet.stderr);
    for stream in ["contacts", "contact_activity_details"] {
        assert_eq!(quiet.records(stream), Vec::<Value>::new(), "{stream}");
    }
    // Campaigns that were sent within the lookback come again, since their counts may have grown.
    let sent = fake.account().truth("email_campaigns").into_iter().filter(|row| row["last_sent_date"].is_string());
    assert_eq!(sorted(quiet.records("email_campaigns")), sorted(sent));
    let (renamed, gone) = {
        let mut account = fake.account();
        let with_address: Vec<String> = account
            .truth("contacts")
            .iter()
            .filter(|c| c["email_address"]["permission_to_send"] == "implicit" && c["deleted_at"].is_null())
            .map(|c| c["contact_id"].as_str().unwrap().to_owned())
            .collect();
        let (renamed, gone) = (with_address[0].clone(), with_address[1].clone());
        account.rename(&renamed, "Renamed");
        account.unsubscribe(&gone);
        let activity = account.sent_activities()[0].clone();
        account.open(&renamed, &activity);
        (renamed, gone)
    };
    let third = tap(&fake, &more, Some(&quiet.last_state()));
    assert_eq!(third.code, Some(0), "{}", third.stderr);
    let mut ids: Vec<String> =
        third.records("contacts").iter().map(|c| c["contact_id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    let mut expected = vec![renamed, gone];
    expected.sort();
    assert_eq!(ids, expected);
    assert_eq!(third.records("contact_activity_details").len(), 1);
}

#[test]
fn a_wrong_setting_stops_the_run_before_any_call() {
    let fake = Fake::start(account());
    for (more, words) in [
        (serde_json::json!({"page_size": 501}), "page_size is 501; allowed: integer from 1 to 500"),
        (serde_json::json!({"contact_status": "actve"}), "contact_status"),
        (serde_json::json!({"report_date": "2026-01-01", "report_days_back": 3}), "do not go together"),
        (serde_json::json!({"timezone": "Mars/Olympus"}), "timezone is \"Mars/Olympus\""),
        (
            serde_json::json!({"activity_route": "campaigns", "tracking_activity_types": ["p_contact_open"]}),
            "landing-page types",
        ),
    ] {
        let ran = tap(&fake, &more, None);
        assert_eq!(ran.code, Some(2), "{more}");
        assert!(ran.stderr.contains("CRITICAL") && ran.stderr.contains(words), "{}", ran.stderr);
        assert!(ran.messages.is_empty());
    }
    assert!(fake.calls().is_empty());
}

#[test]
fn discovery_needs_no_config() {
    let output = Command::new(env!("CARGO_BIN_EXE_tap-constant-contact"))
        .args(["--config", "/nonexistent", "--discover"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let catalog: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(catalog["streams"].as_array().unwrap(), discovered());
}
