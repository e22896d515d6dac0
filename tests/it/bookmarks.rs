//! What a bookmark covers, and that it never covers more than was read.

use chrono::{DateTime, Days, TimeDelta, Utc};
use fake::account::Size;
use fake::{Account, Fake, Fault, Switches, What};
use serde_json::{Value, json};

use crate::merge::is_at_rest;
use crate::tap::{Ran, incremental, only, sorted, streams, tap, tap_with, truth, without, without_nulls};

const DETAILS: &str = "contact_activity_details";
const SUMMARY: &str = "contact_action_summary";

fn account(seed: u64) -> Account {
    Account::generate(seed, Size { contacts: 30, lists: 8, campaigns: 6 }).with_all_details()
}

fn fake(seed: u64) -> Fake {
    Fake::start_with(account(seed), Switches { per_day: 1_000_000, ..Switches::long_lived() })
}

fn read(fake: &Fake, more: &Value, state: Option<&Value>, streams: &[&str]) -> Ran {
    let ran = tap_with(fake, more, state, Some(&only(streams)));
    assert_eq!(ran.code, Some(0), "{more}: {}", ran.stderr);
    ran
}

/// The same for one stream without a field.
fn read_without(fake: &Fake, more: &Value, state: Option<&Value>, stream: &str, field: &str) -> Ran {
    tap_with(fake, more, state, Some(&without(stream, &[&[field]])))
}

fn value(ran: &Ran, stream: &str) -> DateTime<Utc> {
    ran.last_state()["bookmarks"][stream]["replication_key_value"].as_str().unwrap().parse().unwrap()
}

fn is_restarted(ran: &Ran) -> bool {
    ran.stderr.contains("so it is read from the start")
}

#[test]
fn a_state_of_another_account_is_refused_before_the_first_record() {
    let (one, other) = (fake(1), fake(2));
    let first = read(&one, &json!({}), None, &["contacts"]);
    assert!(first.last_state()["account"].as_str().unwrap().split(',').all(|hash| hash.len() == 8));
    for streams in [streams(), &["contacts"], &["contact_activity_details"]] {
        other.forget_calls();
        let ran = tap_with(&other, &json!({}), Some(&first.last_state()), Some(&only(streams)));
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        for way_out in ["another state file", "remove \"account\""] {
            assert!(ran.stderr.contains(way_out), "{}", ran.stderr);
        }
        assert!(!ran.messages.iter().any(|message| message["type"] == "RECORD"));
        assert_eq!(ran.last_state()["account"], first.last_state()["account"]);
        assert_eq!(other.api_calls().len(), 1, "the first call lists the lists");
    }
    // Without "account" there is no check, and the run writes the account that it read.
    let mut state = first.last_state();
    state.as_object_mut().unwrap().remove("account");
    let ran = read(&other, &json!({}), Some(&state), &["contacts"]);
    assert_ne!(ran.last_state()["account"], first.last_state()["account"]);
    // The same account, after most of its lists were deleted.
    one.account().lists.truncate(5);
    read(&one, &json!({}), Some(&first.last_state()), &["contacts"]);
}

#[test]
fn without_lists_the_account_is_not_checked() {
    let (one, other) = (fake(1), fake(2));
    let state = read(&one, &json!({}), None, &["contacts"]).last_state();
    let error = |status| What::Status(status, "[]".into(), "application/json");
    for what in [What::Forbidden, What::NotFound, error(400), error(500)] {
        other.fault(Fault::always("/contact_lists", what));
        // Without sub-resources, so that the names of the lists are not needed.
        let more = json!({"max_retries": 1, "include_subresources": false});
        let ran = read(&other, &more, Some(&state), &["contacts", "email_campaigns"]);
        assert_eq!(ran.last_state()["account"], state["account"], "the state keeps its account");
        assert!(ran.stderr.contains("so the account is not compared with that of the state"), "{}", ran.stderr);
        let ran = read(&other, &more, None, &["contacts"]);
        assert!(!ran.stderr.contains("compared"), "there is nothing to compare: {}", ran.stderr);
        other.heal();
    }
    other.account().lists.clear();
    let ran = read(&other, &json!({}), Some(&state), &["contacts"]);
    assert_eq!(ran.last_state()["account"], state["account"]);
}

#[test]
fn the_lists_are_read_once_a_run() {
    let fake = fake(3);
    let listings = |fake: &Fake| fake.api_calls().iter().filter(|call| call.path.ends_with("/contact_lists")).count();
    for (streams, expected) in
        [(&["email_campaigns"][..], 1), (&["contact_lists"], 2), (&["contact_lists", "contacts"], 2)]
    {
        fake.forget_calls();
        read(&fake, &json!({}), None, streams);
        assert_eq!(listings(&fake), expected, "{streams:?}");
        assert!(fake.api_calls()[0].path.ends_with("/contact_lists"));
        assert!(
            !fake.api_calls().iter().any(|call| call.path.ends_with("/contacts/counts")),
            "the first call already gave the service's time"
        );
    }
}

#[test]
fn email_lists_and_campaigns_are_read_even_if_sms_lists_are_refused() {
    let error = |status| What::Status(status, "[]".into(), "application/json");
    for what in [What::Forbidden, What::NotFound, error(400), error(500)] {
        let fake = fake(4);
        fake.fault(Fault::always("channel_type=sms", what));
        let ran = read(&fake, &json!({"max_retries": 1}), None, &["contact_lists", "email_campaigns"]);
        let expected = fake.account().truth("contact_lists");
        let expected = expected.iter().filter(|list| list["channel_type"] == "email").map(without_nulls);
        assert_eq!(sorted(ran.records("contact_lists")), sorted(expected), "{}", ran.stderr);
        assert_eq!(ran.stderr.matches("WARNING contact_lists: SMS lists may be missing").count(), 1, "{}", ran.stderr);
        assert_eq!(sorted(ran.records("email_campaigns")), truth(&fake, "email_campaigns"));
    }
}

#[test]
fn only_the_clock_of_a_successful_answer_moves_a_bookmark() {
    for what in [What::Ahead(TimeDelta::hours(20), Some(503)), What::Ahead(TimeDelta::days(3), None)] {
        let fake = fake(5);
        let begun = Utc::now();
        fake.fault(Fault { path: "/v3/".into(), skip: 0, times: 1, what: what.clone() });
        let first = read(&fake, &json!({}), None, streams());
        for stream in incremental() {
            assert!(
                value(&first, stream) <= Utc::now() && value(&first, stream) > begun - TimeDelta::days(2),
                "{what:?}"
            );
        }
        fake.account().rename(0, "Renamed meanwhile");
        let activity = fake.account().sent_activities()[0].to_string();
        fake.account().open(0, &activity);
        let id = fake.account().contacts[0].id.to_string();
        let next = read(&fake, &json!({"activity_lookback_days": 3650}), Some(&first.last_state()), streams());
        for stream in ["contacts", DETAILS] {
            assert!(next.records(stream).iter().any(|row| row["contact_id"] == *id), "{what:?} {stream}");
        }
    }
}

#[test]
fn rows_that_are_attributed_hours_late_come_with_the_next_run() {
    for route in ["contacts", "campaigns"] {
        let fake = fake(6);
        let more = json!({"activity_route": route, "activity_lookback_days": 3650});
        let first = read(&fake, &more, None, &[DETAILS]);
        {
            let mut account = fake.account();
            let activity = account.sent_activities()[0].to_string();
            account.open(1, &activity);
            account.activities.last_mut().unwrap().at -= TimeDelta::hours(3);
        }
        let next = read(&fake, &more, Some(&first.last_state()), &[DETAILS]);
        let mut rows = sorted([&first, &next].iter().flat_map(|ran| ran.records(DETAILS)));
        rows.dedup();
        assert_eq!(rows, truth(&fake, DETAILS), "{route}");
    }
}

/// Automations and landing pages are in no listing, so activity may be older than every listed campaign.
#[test]
fn a_first_read_has_no_lower_bound_unless_a_setting_has() {
    let mut account = account(7);
    let listed: Vec<_> = account.campaigns.iter().map(|campaign| campaign.created_at).collect();
    let oldest = *listed.iter().min().unwrap();
    for row in account.activities.iter_mut().step_by(3) {
        row.at = oldest - TimeDelta::days(4000);
    }
    let fake = Fake::start_with(account, Switches::long_lived());
    let ran = read(&fake, &json!({"activity_route": "contacts"}), None, &[SUMMARY, DETAILS]);
    for report in [SUMMARY, DETAILS] {
        assert_eq!(sorted(ran.records(report)), truth(&fake, report), "{report}");
        assert_eq!(ran.last_state()["bookmarks"][report]["read_from"], "");
    }
}

#[test]
fn a_field_that_is_selected_later_starts_its_stream_over() {
    let fake = fake(8);
    for (stream, field) in
        [("contacts", "first_name"), (DETAILS, "campaign_activity_name"), ("email_campaigns", "name")]
    {
        let more = json!({"contacts_full_refresh_days": 0});
        let first = read_without(&fake, &more, None, stream, field);
        assert_eq!(first.last_state()["bookmarks"][stream]["deselected"], field);
        let next = read(&fake, &more, Some(&first.last_state()), &[stream]);
        assert!(next.stderr.contains(&format!("WARNING {stream}: {field} was not selected before")), "{}", next.stderr);
        assert!(next.stderr.contains("read from the start (about "), "{}", next.stderr);
        assert_eq!(sorted(next.records(stream)), truth(&fake, stream));
        assert_eq!(next.last_state()["bookmarks"][stream]["deselected"], "");
        // A run with fewer fields continues.
        let fewer = read_without(&fake, &more, Some(&next.last_state()), stream, field);
        assert!(!is_restarted(&fewer) && fewer.records(stream).len() < truth(&fake, stream).len());
        assert_eq!(fewer.last_state()["bookmarks"][stream]["deselected"], field);
    }
    // A field that the route leaves null is not a reason.
    let more = json!({"activity_route": "contacts"});
    let first = read_without(&fake, &more, None, DETAILS, "link_url");
    assert_eq!(first.last_state()["bookmarks"][DETAILS]["deselected"], "");
    assert!(!is_restarted(&read(&fake, &more, Some(&first.last_state()), &[DETAILS])));
}

#[test]
fn a_read_over_several_runs_remembers_every_field_that_one_of_them_left_out() {
    let fake = fake(9);
    let more = json!({"activity_route": "contacts"});
    let catalog = without(DETAILS, &[&["campaign_activity_name"]]);
    fake.forget_calls();
    assert_eq!(tap_with(&fake, &more, None, Some(&catalog)).code, Some(0));
    let limited = json!({"activity_route": "contacts", "max_requests": fake.api_calls().len() - 4});
    let cut = tap_with(&fake, &limited, None, Some(&catalog));
    assert_eq!(cut.code, Some(4), "{}", cut.stderr);
    let state = cut.last_state();
    assert_eq!(state["bookmarks"][DETAILS]["resume_deselected"], "campaign_activity_name");
    // The second run selects it.
    let end = read(&fake, &more, Some(&state), &[DETAILS]);
    assert!(is_at_rest(&end.last_state()) && !is_restarted(&end));
    assert_eq!(end.last_state()["bookmarks"][DETAILS]["deselected"], "campaign_activity_name");
    let again = read(&fake, &more, Some(&end.last_state()), &[DETAILS]);
    assert!(is_restarted(&again));
    assert_eq!(sorted(again.records(DETAILS)), truth(&fake, DETAILS));
}

#[test]
fn settings_that_read_less_continue_and_those_that_read_more_start_over() {
    let fake = fake(10);
    for (stream, wide, narrow) in [
        ("contacts", json!({"contact_status": "all"}), json!({"contact_status": "active"})),
        (
            "contacts",
            json!({"include_subresources": ["notes", "taggings"]}),
            json!({"include_subresources": ["notes"]}),
        ),
        (
            DETAILS,
            json!({"tracking_activity_types": "em_opens,em_sends"}),
            json!({"tracking_activity_types": "em_opens"}),
        ),
        (SUMMARY, json!({}), json!({"contact_ids": fake.account().contacts[0].id.to_string()})),
    ] {
        let settings = |more: &Value| {
            let mut all = json!({"contacts_full_refresh_days": 0});
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            all
        };
        let (wide, narrow) = (settings(&wide), settings(&narrow));
        let first = read(&fake, &wide, None, &[stream]);
        let less = read(&fake, &narrow, Some(&first.last_state()), &[stream]);
        assert!(!is_restarted(&less), "{stream} {narrow}: {}", less.stderr);
        let filter = |ran: &Ran| ran.last_state()["bookmarks"][stream]["filter"].clone();
        assert_ne!(filter(&less), filter(&first), "the state has the narrower filter");
        let more = read(&fake, &wide, Some(&less.last_state()), &[stream]);
        assert!(is_restarted(&more), "{stream} {wide}: {}", more.stderr);
        assert_eq!(sorted(more.records(stream)), sorted(first.records(stream)), "{stream}");
        assert!(!is_restarted(&read(&fake, &wide, Some(&more.last_state()), &[stream])));
    }
}

#[test]
fn older_rows_that_stay_unread_draw_one_warning_with_the_command_that_reads_them() {
    let fake = fake(11);
    let date = |days| json!((Utc::now() - Days::new(days)).format("%Y-%m-%d").to_string());
    for (was, is, why) in [
        (
            json!({"activity_route": "campaigns", "activity_lookback_days": 30}),
            json!({"activity_route": "campaigns", "activity_lookback_days": 60}),
            "activity_lookback_days was 30 and is now 60",
        ),
        (
            json!({"activity_route": "contacts"}),
            json!({"activity_route": "campaigns"}),
            "the route was contacts and is now",
        ),
        (json!({"start_date": date(100)}), json!({"start_date": date(500)}), "the start is now earlier: rows before"),
        (json!({"start_date": date(100)}), json!({}), "the start is now earlier: rows before"),
    ] {
        let first = read(&fake, &was, None, &[DETAILS]);
        let next = read(&fake, &is, Some(&first.last_state()), &[DETAILS]);
        assert_eq!(next.stderr.matches(why).count(), 1, "{}", next.stderr);
        let line = next.stderr.lines().find(|line| line.contains(why)).unwrap();
        assert!(line.starts_with("WARNING contact_activity_details: "), "{line}");
        assert!(line.ends_with("run with --full-table contact_activity_details"), "{line}");
        // A full read gets these rows, and later runs have nothing to warn about.
        let mut all = only(&[DETAILS]);
        all["streams"][0]["metadata"][0]["metadata"]["replication-method"] = json!("FULL_TABLE");
        let full = tap_with(&fake, &is, Some(&next.last_state()), Some(&all));
        let start = is["start_date"].as_str().unwrap_or_default();
        let wanted =
            fake.account().truth(DETAILS).into_iter().filter(|row| row["created_time"].as_str().unwrap() >= start);
        assert_eq!(sorted(full.records(DETAILS)), sorted(wanted.map(|row| without_nulls(&row))));
        let quiet = read(&fake, &is, Some(&full.last_state()), &[DETAILS]);
        assert!(!quiet.stderr.contains("stay unread"), "{}", quiet.stderr);
    }
}

#[test]
fn an_earlier_start_brings_the_older_contacts_and_campaigns() {
    let fake = fake(11);
    let date = |days: i64| json!((Utc::now() - TimeDelta::days(days)).format("%Y-%m-%d").to_string());
    let streams = ["contacts", "email_campaigns"];
    let far = json!({"start_date": date(12_000)});
    // A later start is not a reason to read anything again.
    for (is, is_earlier) in [(far, true), (json!({}), true), (json!({"start_date": date(5)}), false)] {
        let was = json!({"start_date": date(60), "contacts_full_refresh_days": 0});
        let first = read(&fake, &was, None, &streams);
        let mut more = is.clone();
        more["contacts_full_refresh_days"] = json!(0);
        let next = read(&fake, &more, Some(&first.last_state()), &streams);
        for stream in streams {
            let (before, all) = (first.records(stream).len(), truth(&fake, stream));
            assert!(before < all.len(), "{stream}: {before}");
            let why = format!("WARNING {stream}: the start is now earlier than ");
            assert_eq!(next.stderr.contains(&why), is_earlier, "{is}: {}", next.stderr);
            assert_eq!(sorted(next.records(stream)) == all, is_earlier, "{is}: {stream}");
        }
        let quiet = read(&fake, &more, Some(&next.last_state()), &streams);
        assert!(!is_restarted(&quiet), "{}", quiet.stderr);
    }
    // `updated_days_back` bounds only the first run.
    let first = read(&fake, &json!({"updated_days_back": 60}), None, &streams);
    assert!(!is_restarted(&read(&fake, &json!({"updated_days_back": 60}), Some(&first.last_state()), &streams)));
}

#[test]
fn the_contacts_are_read_completely_every_night() {
    let fake = fake(12);
    let first = read(&fake, &json!({}), None, &["contacts"]);
    let ago = |hours| json!((Utc::now() - TimeDelta::hours(hours)).format("%Y-%m-%dT%H:%M:%SZ").to_string());
    for (hours, days, is_complete) in [(22, 1, false), (24, 1, true), (24, 2, false), (24, 0, false)] {
        let mut state = first.last_state();
        state["bookmarks"]["contacts"]["full_refresh_at"] = ago(hours);
        let ran = read(&fake, &json!({"contacts_full_refresh_days": days}), Some(&state), &["contacts"]);
        assert_eq!(ran.records("contacts").len() == 30, is_complete, "{hours} hours, {days} days");
    }
}

/// A merged state may say of both reports that they are finished in this round.
#[test]
fn a_finished_report_is_skipped_only_while_the_other_one_is_unfinished() {
    let fake = fake(13);
    let more = json!({"activity_route": "contacts", "activity_lookback_days": 3650});
    let first = tap(&fake, &more, None);
    let mut state = first.last_state();
    for report in [SUMMARY, DETAILS] {
        let bookmark = &mut state["bookmarks"][report];
        bookmark["resume_until"] = bookmark["replication_key_value"].clone();
        bookmark["resume_route"] = json!("contacts");
        bookmark["resume_complete"] = json!(true);
        bookmark["resume_filter"] = bookmark["filter"].clone();
    }
    let activity = fake.account().sent_activities()[0].to_string();
    fake.account().open(0, &activity);
    let next = tap(&fake, &more, Some(&state));
    assert_eq!(next.code, Some(0), "{}", next.stderr);
    assert!(!next.records(DETAILS).is_empty() && !next.records(SUMMARY).is_empty(), "{}", next.stderr);
    assert!(is_at_rest(&next.last_state()));
}

#[test]
fn bookmarks_of_other_streams_are_kept_with_a_warning() {
    let fake = fake(14);
    let state = json!({
        "bookmarks": {"contacts": {"updated_at": "2026-01-01"}, "orders": {"id": 7, "page": {"n": 1}}}, "theirs": [1],
    });
    let ran = read(&fake, &json!({}), Some(&state), &["contacts"]);
    assert!(ran.stderr.contains("WARNING state: no stream of this tap: orders"), "{}", ran.stderr);
    let end = ran.last_state();
    assert_eq!((&end["bookmarks"]["orders"], &end["theirs"]), (&state["bookmarks"]["orders"], &state["theirs"]));
}
