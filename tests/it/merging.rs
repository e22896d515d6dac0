//! Runs that start from a merged state.

use std::collections::BTreeMap;

use chrono::{TimeDelta, Utc};
use fake::account::Size;
use fake::{Account, Fake, Fault, Switches, What};
use serde_json::{Value, json};

use crate::merge::MERGES;
use crate::tap::{REPORTS, Ran, only, sorted, streams, tap, tap_with, without_nulls};

fn fake(seed: u64) -> Fake {
    let account = Account::generate(seed, Size { contacts: 30, lists: 4, campaigns: 6 }).with_all_details();
    Fake::start_with(account, Switches { per_day: 1_000_000, ..Switches::long_lived() })
}

fn opens(ran: &Ran) -> Vec<String> {
    sorted(ran.records("contact_activity_details"))
}

/// Adds some opens, which the next run must read.
fn open_some(fake: &Fake) {
    let mut account = fake.account();
    let activity = account.sent_activities()[0].to_string();
    for contact in 0..3 {
        account.open(contact, &activity);
    }
}

/// A full refresh starts without a state, and its STATEs are merged into the old one.
#[test]
fn the_run_after_a_full_refresh_reads_what_is_new() {
    for route in ["contacts", "campaigns"] {
        for merge in MERGES {
            let fake = fake(31);
            let more = json!({"activity_route": route, "activity_lookback_days": 3650});
            let first = tap(&fake, &more, None);
            assert_eq!(first.code, Some(0), "{}", first.stderr);
            let refresh = tap(&fake, &more, None);
            assert_eq!(refresh.code, Some(0), "{}", refresh.stderr);
            let state = merge.all(first.states().into_iter().chain(refresh.states()));
            open_some(&fake);
            let next = tap(&fake, &more, Some(&state));
            assert_eq!(next.code, Some(0), "{}", next.stderr);
            let same = tap(&fake, &more, Some(&refresh.last_state()));
            assert!(opens(&next).len() >= 3, "{route} {merge:?}: {} rows", opens(&next).len());
            for stream in streams() {
                assert_eq!(sorted(next.records(stream)), sorted(same.records(stream)), "{route} {merge:?} {stream}");
            }
        }
    }
}

#[test]
fn an_interrupted_run_continues_from_a_merged_state() {
    for (route, path) in
        [("contacts", "activity_details"), ("contacts", "activity_summary"), ("campaigns", "/tracking/")]
    {
        for merge in MERGES {
            let fake = fake(32);
            let more = json!({"activity_route": route, "activity_lookback_days": 3650});
            let before = tap(&fake, &more, None);
            fake.fault(Fault { path: path.into(), skip: 9, times: usize::MAX, what: What::QuotaExceeded });
            let cut = tap(&fake, &more, None);
            assert_eq!(cut.code, Some(4), "{}", cut.stderr);
            fake.heal();
            let state = merge.all(before.states().into_iter().chain(cut.states()));
            let (next, same) = (tap(&fake, &more, Some(&state)), tap(&fake, &more, Some(&cut.last_state())));
            assert_eq!((next.code, same.code), (Some(0), Some(0)), "{}", next.stderr);
            for stream in streams() {
                assert_eq!(sorted(next.records(stream)), sorted(same.records(stream)), "{route} {merge:?} {stream}");
            }
            let mut read = sorted([&cut, &next].iter().flat_map(|ran| ran.records("contact_activity_details")));
            read.dedup();
            let truth = fake.account().truth("contact_activity_details");
            assert_eq!(read, sorted(truth.iter().map(without_nulls)), "{route} {merge:?}");
        }
    }
}

/// While a read is interrupted, a complete one runs on the other route and leaves it as it is. The run that continues it reads
/// only its own days; newer rows come with the run after that.
#[test]
fn an_overtaken_read_is_finished_before_newer_rows_are_read() {
    for merge in MERGES {
        // Two days pass before each run, more than the overlap of any bookmark.
        let (begin, days) = (Utc::now() - TimeDelta::days(30), TimeDelta::days(2));
        let size = Size { contacts: 30, lists: 4, campaigns: 6 };
        let fake = Fake::start(Account::generate_at(35, size, begin).with_all_details());
        fake.switches().clock_skew = TimeDelta::days(-30);
        let mut activities = fake.account().sent_activities();
        activities.sort_unstable();
        let by = |route: &str| json!({"activity_route": route, "activity_lookback_days": 3650, "max_retries": 0});
        let mut runs: Vec<Ran> = Vec::new();
        let mut run = |route: &str| {
            let state = merge.all(runs.iter().flat_map(Ran::states));
            fake.switches().clock_skew += days;
            runs.push(tap(&fake, &by(route), Some(&state)));
            runs.last().unwrap().stderr.clone()
        };
        run("contacts");
        let last = format!("{}/tracking/", activities.last().unwrap());
        fake.fault(Fault::always(&last, What::Empty200));
        run("campaigns");
        fake.heal();
        let overtaking = run("contacts");
        assert!(overtaking.contains("the state holds an interrupted read"), "{overtaking}");
        // Of an activity that the interrupted read has already written.
        (0..3).for_each(|contact| fake.account().open(contact, &activities[0]));
        for is_overtaken in [true, false] {
            let log = run("auto");
            assert_eq!(log.contains("continuing the read that ends at"), is_overtaken, "{log}");
        }
        assert_eq!(runs.iter().map(|ran| ran.code.unwrap()).collect::<Vec<_>>(), [0, 1, 0, 0, 0]);
        for report in REPORTS {
            // A later row of the same key replaces the earlier one.
            let keys = ["contact_id", "campaign_activity_id", "tracking_activity_type", "created_time", "occurrence"];
            let rows = runs.iter().flat_map(|ran| ran.records(report));
            let held: BTreeMap<_, _> = rows.map(|row| (keys.map(|key| row[key].to_string()), row)).collect();
            let truth = fake.account().truth(report);
            assert_eq!(sorted(held.into_values()), sorted(truth.iter().map(without_nulls)), "{merge:?} {report}");
        }
    }
}

/// Settings with which a first run of these streams stops four calls before its end, within the details.
fn cut_off(fake: &Fake, more: &Value, catalog: &Value) -> Value {
    fake.forget_calls();
    assert_eq!(tap_with(fake, more, None, Some(catalog)).code, Some(0));
    let mut cut = more.clone();
    cut["max_requests"] = json!(fake.api_calls().len() - 4);
    cut
}

#[test]
fn a_run_of_other_streams_keeps_resume_points_and_bookmarks() {
    let fake = fake(33);
    let more = json!({"activity_route": "contacts"});
    let cut = tap(&fake, &cut_off(&fake, &more, &only(streams())), None);
    assert_eq!(cut.code, Some(4), "{}", cut.stderr);
    let between = tap_with(&fake, &more, Some(&cut.last_state()), Some(&only(&["contacts", "contact_lists"])));
    assert_eq!(between.code, Some(0), "{}", between.stderr);
    let (was, is) = (&cut.last_state()["bookmarks"], &between.last_state()["bookmarks"]);
    for report in ["contact_action_summary", "contact_activity_details", "email_campaigns"] {
        assert_eq!(was[report], is[report]);
    }
    assert_ne!(is["contact_activity_details"]["resume_after"], "");
    fake.forget_calls();
    let rest = tap(&fake, &more, Some(&between.last_state()));
    assert_eq!(rest.code, Some(0), "{}", rest.stderr);
    let asked = fake.api_calls().iter().filter(|call| call.path.contains("activity_details")).count();
    assert!(asked < 20, "{asked} contacts were requested again");
    let mut read = sorted([&cut, &rest].iter().flat_map(|ran| ran.records("contact_activity_details")));
    read.dedup();
    assert_eq!(read, sorted(fake.account().truth("contact_activity_details").iter().map(without_nulls)));
}

#[test]
fn a_report_window_changes_no_bookmark_and_no_interrupted_read() {
    let fake = fake(34);
    let more = json!({"activity_route": "contacts"});
    let day = (Utc::now() - TimeDelta::days(400)).format("%Y-%m-%d").to_string();
    let window = json!({"activity_route": "contacts", "report_start_date": day});
    let reports = only(&REPORTS);
    let cut = tap_with(&fake, &cut_off(&fake, &more, &reports), None, Some(&reports));
    assert_eq!(cut.code, Some(4), "{}", cut.stderr);
    let state = cut.last_state();
    for is_cut_off in [true, false] {
        let settings = if is_cut_off { cut_off(&fake, &window, &reports) } else { window.clone() };
        let bounded = tap_with(&fake, &settings, Some(&state), Some(&reports));
        assert_eq!(bounded.code, Some(if is_cut_off { 4 } else { 0 }), "{}", bounded.stderr);
        let is = &bounded.last_state()["bookmarks"];
        assert_eq!(is["contact_activity_details"], state["bookmarks"]["contact_activity_details"]);
        for key in ["replication_key_value", "filter", "read_from"] {
            assert_eq!(is["contact_action_summary"][key], state["bookmarks"]["contact_action_summary"][key]);
        }
        let warning = "WARNING contact_activity_details: the state holds an interrupted read with other settings";
        assert_eq!(bounded.stderr.matches(warning).count(), 1, "{}", bounded.stderr);
    }
    // With a bookmark there, it writes no resume point.
    let complete = tap_with(&fake, &more, None, Some(&reports)).last_state();
    let bounded = tap_with(&fake, &cut_off(&fake, &window, &reports), Some(&complete), Some(&reports));
    assert_eq!(bounded.code, Some(4), "{}", bounded.stderr);
    assert_eq!(bounded.last_state()["bookmarks"], complete["bookmarks"]);
    assert!(bounded.stderr.contains("cannot be resumed"), "{}", bounded.stderr);
    // With a state file of its own, it continues where it was interrupted.
    let first = tap_with(&fake, &cut_off(&fake, &window, &reports), None, Some(&reports));
    assert_eq!(first.code, Some(4), "{}", first.stderr);
    fake.forget_calls();
    let second = tap_with(&fake, &window, Some(&first.last_state()), Some(&reports));
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    let asked = fake.api_calls().iter().filter(|call| call.path.contains("activity_details")).count();
    assert!(asked < 20 && !second.stderr.contains("interrupted read with"), "{asked}: {}", second.stderr);
    let end = &second.last_state()["bookmarks"];
    for report in &REPORTS {
        assert!(end[report]["replication_key_value"].is_null() && end[report]["resume_until"] == "", "{end}");
    }
}
