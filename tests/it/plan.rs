//! The plan: which route it takes, and whether its number of calls is right.

use chrono::{Datelike as _, TimeDelta, Utc};
use fake::account::{Row, Size};
use fake::{Account, Fake, Kind, Switches};
use serde_json::{Value, json};

use crate::tap::{REPORTS, Ran, command, config, file, only, sorted, streams, tap_with, without_nulls};

fn start(account: Account) -> Fake {
    let switches = Switches { per_day: 1_000_000, ..Switches::long_lived() };
    Fake::start_with(account, switches)
}

/// An account in which every contact received every campaign and opened it; every fifth time it clicked twice.
fn account(contacts: usize, campaigns: usize) -> Account {
    account_of(contacts, campaigns, 100)
}

/// The same, with each campaign sent to this percentage of the contacts.
fn account_of(contacts: usize, campaigns: usize, share: usize) -> Account {
    let mut account =
        Account::generate(7, Size { contacts, lists: 1, campaigns: 10 * campaigns / 7 }).with_all_details();
    account.campaigns.retain(|campaign| campaign.activities[0].sent_at.is_some());
    account.activities.clear();
    let ids: Vec<_> = account.contacts.iter().map(|contact| contact.id.clone()).collect();
    for (n, contact) in ids.iter().enumerate() {
        for (k, campaign) in account.campaigns.iter().enumerate().filter(|(k, _)| (n * 37 + k * 61) % 100 < share) {
            let activity = &campaign.activities[0];
            let sent_at = activity.sent_at.expect("it was sent");
            let rows = match (n + k) % 5 {
                0 => &[Kind::Sends, Kind::Opens, Kind::Clicks, Kind::Clicks][..],
                _ => &[Kind::Sends, Kind::Opens],
            };
            for (i, kind) in rows.iter().enumerate() {
                account.activities.push(Row {
                    contact_id: contact.clone(),
                    activity_id: activity.id.clone(),
                    kind: *kind,
                    at: sent_at + TimeDelta::minutes(i64::try_from(i).unwrap()),
                });
            }
        }
    }
    account
}

/// The calls that a plan names.
fn planned(stderr: &str) -> f64 {
    let (_, rest) = stderr.split_once("about ").unwrap_or_else(|| panic!("no plan: {stderr}"));
    rest.split_once(' ').unwrap().0.parse().unwrap()
}

fn line<'a>(ran: &'a Ran, begin: &str) -> &'a str {
    let mut lines = ran.stderr.lines().filter(|line| line.starts_with(begin));
    let line = lines.next().unwrap_or_else(|| panic!("no {begin}: {}", ran.stderr));
    assert!(lines.next().is_none(), "two plans: {}", ran.stderr);
    line
}

/// Runs the tap. Also returns the number of planned and of actual calls.
fn run(fake: &Fake, more: &Value, state: Option<&Value>, streams: &[&str]) -> (Ran, f64, f64) {
    fake.forget_calls();
    let ran = tap_with(fake, more, state, Some(&only(streams)));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let planned = planned(line(&ran, "INFO plan: "));
    let made = f64::from(u32::try_from(fake.api_calls().len()).unwrap());
    (ran, planned, made)
}

#[test]
fn the_plan_is_right_on_both_routes_and_test_gives_the_same_number() {
    for (contacts, campaigns, more, route, slack) in [
        // Many campaigns and few contacts: each contact fills many pages.
        (40, 210, json!({}), "contact", 0.25),
        (60, 140, json!({"activity_route": "campaigns"}), "campaign", 0.1),
        // Few campaigns with many rows.
        (900, 12, json!({"page_size": 100}), "campaign", 0.1),
        (150, 30, json!({"activity_route": "contacts", "page_size": 20}), "contact", 0.25),
    ] {
        let fake = start(account(contacts, campaigns));
        for streams in [streams(), &REPORTS, &REPORTS[1..]] {
            let (ran, planned, made) = run(&fake, &more, None, streams);
            let case = format!(
                "{contacts} contacts, {campaigns} campaigns, {more}, {streams:?}: {}",
                line(&ran, "INFO plan: ")
            );
            assert!((planned - made).abs() <= slack * made, "{case}: {made} made");
            if streams.len() > 1 {
                assert!(ran.stderr.contains(&format!("the contact reports by the {route} route")), "{case}");
            }
            // The plan is logged before the first stream.
            assert!(ran.stderr.find("INFO plan: ").unwrap() < ran.stderr.find(": reading").unwrap(), "{}", ran.stderr);
            assert!((test_mode(&fake, &more, streams) - planned).abs() < 0.5, "{case}");
            for stream in REPORTS.into_iter().filter(|stream| streams.contains(stream)) {
                let truth = sorted(fake.account().truth(stream).iter().map(without_nulls));
                assert!(sorted(ran.records(stream)) == truth, "{case}: {stream}");
            }
        }
    }
}

/// The number of calls that `--test` gives.
fn test_mode(fake: &Fake, more: &Value, streams: &[&str]) -> f64 {
    let (config, catalog) = (file(&config(fake, more)), file(&only(streams)));
    let mut command = command();
    command.arg("--test").arg("--config").arg(config.path()).arg("--catalog").arg(catalog.path());
    let ran = Ran::of(&command.output().unwrap());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    planned(ran.stderr.lines().find(|line| line.contains("full sync")).unwrap())
}

#[test]
fn the_plan_of_an_incremental_run_is_right() {
    for (contacts, campaigns, route) in [(40, 210, "contacts"), (900, 12, "campaigns")] {
        let fake = start(account(contacts, campaigns));
        let more = json!({"activity_route": route, "page_size": 100});
        let (first, ..) = run(&fake, &more, None, &REPORTS);
        let (_, planned, made) = run(&fake, &more, Some(&first.last_state()), &REPORTS);
        assert!((planned - made).abs() <= 0.25 * made, "{route}: {planned} planned, {made} made");
    }
}

/// Some of the accounts for which the unit tests of `estimate.rs` compute the plan.
#[test]
fn for_accounts_of_many_shapes_the_plan_is_right_and_the_route_is_not_much_dearer() {
    for (contacts, campaigns, share) in
        [(4, 1, 100), (4, 120, 50), (60, 12, 30), (350, 4, 10), (120, 60, 100), (30, 150, 5)]
    {
        let fake = start(account_of(contacts, campaigns, share));
        let case = format!("{contacts} contacts, {campaigns} campaigns, {share} %");
        let holds = |planned: f64, made: f64, slack: f64| (planned - made).abs() <= (slack * made).max(2.0);
        let mut first_costs = Vec::new();
        for (route, slack) in [("contacts", 0.25), ("campaigns", 0.1)] {
            let more = json!({"activity_route": route});
            let (first, planned, made) = run(&fake, &more, None, &REPORTS);
            assert!(holds(planned, made, slack), "{case} by {route}: {planned} planned, {made} made");
            first_costs.push(made);
            let (_, planned, made) = run(&fake, &more, Some(&first.last_state()), &REPORTS);
            assert!(holds(planned, made, slack), "{case} by {route}, later: {planned} planned, {made} made");
        }
        let (auto, planned, made) = run(&fake, &json!({}), None, &REPORTS);
        let is_by_contact = auto.stderr.contains("the contact reports by the contact route");
        assert!(holds(planned, made, if is_by_contact { 0.25 } else { 0.1 }), "{case}: {planned} planned, {made} made");
        let (taken, other) = if is_by_contact { (0, 1) } else { (1, 0) };
        let (taken, other) = (first_costs[taken], first_costs[other]);
        assert!(taken <= 1.25 * other, "{case}: the route takes {taken} calls, the other {other}");
        assert!((test_mode(&fake, &json!({}), &REPORTS) - planned).abs() < 0.5, "{case}");
        let landing_pages = json!({"tracking_activity_types": "em_opens,p_contact_open"});
        let (_, planned, made) = run(&fake, &landing_pages, None, &REPORTS);
        assert!(holds(planned, made, 0.25), "{case} with landing pages: {planned} planned, {made} made");
    }
}

/// A run that continues with the reports plans them first, and then the campaigns.
#[test]
fn a_plan_that_begins_with_the_reports_counts_no_call_twice() {
    let fake = start(account(40, 9));
    let more = json!({"activity_route": "campaigns"});
    let (first, ..) = run(&fake, &more, None, &["email_campaigns", REPORTS[0], REPORTS[1]]);
    let mut state = first.last_state();
    state["currently_syncing"] = json!(REPORTS[0]);
    state["bookmarks"] = json!({"email_campaigns": {}});
    let (_, planned, made) = run(&fake, &more, Some(&state), &["email_campaigns", REPORTS[0], REPORTS[1]]);
    assert!((planned - made).abs() < 0.5, "{planned} planned, {made} made");
}

#[test]
fn later_runs_keep_their_route() {
    // The contact route is cheaper, but not by the thousand calls that a change of route must save.
    let fake = start(account(20, 70));
    let (first, ..) = run(&fake, &json!({"activity_route": "campaigns"}), None, &REPORTS);
    let (again, ..) = run(&fake, &json!({}), Some(&first.last_state()), &REPORTS);
    assert!(again.stderr.contains("by the campaign route (as in earlier runs)"), "{}", again.stderr);
    let (other, ..) = run(&fake, &json!({}), None, &REPORTS);
    assert!(other.stderr.contains("by the contact route"), "{}", other.stderr);
    let (again, ..) = run(&fake, &json!({}), Some(&other.last_state()), &REPORTS);
    assert!(again.stderr.contains("by the contact route (as in earlier runs)"), "{}", again.stderr);
}

#[test]
fn a_change_of_route_that_saves_very_much_draws_a_warning_with_both_costs() {
    let fake = start(account(3, 320));
    let more = json!({"activity_lookback_days": 3650});
    let mut by_campaign = more.clone();
    by_campaign["activity_route"] = json!("campaigns");
    let (first, ..) = run(&fake, &by_campaign, None, &REPORTS);
    let (again, _, made) = run(&fake, &more, Some(&first.last_state()), &REPORTS);
    let warning = line(&again, "WARNING the contact reports change to the contact route: about ");
    assert!(warning.contains("instead of about ") && warning.contains("link_url"), "{warning}");
    assert!(made < 200.0, "{made}");
}

#[test]
fn a_route_taken_because_the_other_is_refused_draws_a_warning_with_both_costs() {
    let fake = start(account(200, 5));
    fake.tokens().granted_scopes.retain(|scope| scope != "campaign_data");
    let more = json!({});
    let ran = tap_with(&fake, &more, None, Some(&only(&REPORTS)));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let warning = line(&ran, "WARNING campaign reports are refused (403");
    assert!(warning.contains("falling back to the contact route: about 4"), "{warning}");
    assert!(warning.contains("instead of about ") && warning.contains("campaign_data"), "{warning}");
    for stream in REPORTS {
        assert_eq!(ran.records(stream).len(), fake.account().truth(stream).len(), "{stream}");
    }
}

/// The contact route would clear the columns that only the campaign route fills, in rows that are written again.
#[test]
fn a_later_run_does_not_leave_a_campaign_route_that_is_refused() {
    let fake = start(account(200, 5));
    let more = json!({});
    let (first, ..) = run(&fake, &more, None, &REPORTS);
    let state = first.last_state();
    assert_eq!(state["bookmarks"]["contact_activity_details"]["route"], "campaigns");
    fake.tokens().granted_scopes.retain(|scope| scope != "campaign_data");
    let ran = tap_with(&fake, &more, Some(&state), Some(&only(&REPORTS)));
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
    for stream in REPORTS {
        let error = line(&ran, &format!("ERROR {stream}: the service refuses this stream"));
        assert!(error.contains("link_url") && error.contains("set activity_route to contacts"), "{error}");
        assert!(error.ends_with(&format!("To leave it out: --select '!{stream}'")), "{error}");
        assert_eq!(ran.last_state()["bookmarks"][stream], state["bookmarks"][stream], "{stream}");
    }
    let by_contact = json!({"activity_route": "contacts"});
    assert_eq!(tap_with(&fake, &by_contact, Some(&state), Some(&only(&REPORTS))).code, Some(0));
}

/// Reading from the start would clear these columns in every row.
#[test]
fn a_read_from_the_start_keeps_the_campaign_route_or_warns() {
    // The contact route is cheaper, but not by the thousand calls that a change of route must save.
    let fake = start(account(20, 70));
    let (first, ..) = run(&fake, &json!({"activity_route": "campaigns"}), None, &REPORTS);
    let state = first.last_state();
    let mut from_the_start = only(&REPORTS);
    for entry in from_the_start["streams"].as_array_mut().unwrap() {
        entry["metadata"][0]["metadata"]["replication-method"] = json!("FULL_TABLE");
    }
    let again = tap_with(&fake, &json!({}), Some(&state), Some(&from_the_start));
    assert!(again.stderr.contains("by the campaign route (as in earlier runs)"), "{}", again.stderr);
    let ids: Vec<String> = fake.account().contacts.iter().take(3).map(|c| c.id.to_string()).collect();
    for (more, is_warned) in [
        (json!({"tracking_activity_types": "em_opens,p_contact_open"}), true),
        (json!({"contact_ids": ids}), true),
        (json!({"activity_route": "contacts"}), false),
    ] {
        let (ran, ..) = run(&fake, &more, Some(&state), &REPORTS);
        let warnings = ran.stderr.lines().filter(|line| {
            line.starts_with("WARNING the contact reports change to the contact route") && line.contains("link_url")
        });
        assert_eq!(warnings.count(), usize::from(is_warned), "{more}: {}", ran.stderr);
    }
    fake.tokens().granted_scopes.retain(|scope| scope != "campaign_data");
    let refused = tap_with(&fake, &json!({}), Some(&state), Some(&from_the_start));
    assert_eq!(refused.code, Some(3), "{}", refused.stderr);
    assert!(refused.stderr.contains("set activity_route to contacts"), "{}", refused.stderr);
}

#[test]
fn landing_pages_and_named_contacts_take_the_contact_route() {
    let fake = start(account(60, 3));
    let ids: Vec<String> = fake.account().contacts.iter().take(3).map(|c| c.id.to_string()).collect();
    for (more, why) in [
        (json!({"tracking_activity_types": "em_opens,p_contact_open"}), "the only one for landing pages (p_*)"),
        (json!({"contact_ids": ids}), "because contact_ids is set"),
        (json!({"activity_route": "contacts"}), "set by activity_route"),
    ] {
        let (ran, ..) = run(&fake, &more, None, &REPORTS);
        assert!(ran.stderr.contains(&format!("by the contact route ({why})")), "{}", ran.stderr);
    }
}

#[test]
fn a_refused_report_names_the_scopes_of_its_route() {
    let fake = start(account(5, 3));
    fake.tokens().privileges.retain(|privilege| privilege != "ui:campaign:metrics");
    for (route, scope, other) in
        [("contacts", "contact_data", "campaign_data"), ("campaigns", "campaign_data", "contact_data")]
    {
        let ran = tap_with(&fake, &json!({"activity_route": route}), None, Some(&only(&REPORTS[1..])));
        assert_eq!(ran.code, Some(3), "{}", ran.stderr);
        let error = line(&ran, "ERROR ");
        assert!(error.contains(scope) && !error.contains(other), "{error}");
    }
}

#[test]
fn contacts_of_the_sample_are_read_once() {
    let fake = start(account(30, 70));
    run(&fake, &json!({"activity_route": "contacts"}), None, &REPORTS);
    let calls = fake.api_calls();
    let mut targets: Vec<String> = calls.iter().map(|call| format!("{}?{}", call.path, call.query)).collect();
    targets.sort();
    let all = targets.len();
    targets.dedup();
    assert_eq!(targets.len(), all);
}

#[test]
fn a_long_range_that_is_refused_is_split_into_windows_of_five_years() {
    let account = account(12, 8);
    let ids: Vec<&str> = account.contacts.iter().map(|contact| &*contact.id).collect();
    for more in [
        json!({"contact_ids": ids}),
        json!({"activity_route": "contacts"}),
        // Before the service existed.
        json!({"activity_route": "contacts", "start_date": "1990-01-01"}),
    ] {
        let fake = start(account.clone());
        fake.switches().summary_max_years = Some(5);
        let (ran, planned, made) = run(&fake, &more, None, &REPORTS[..1]);
        let truth = sorted(fake.account().truth(REPORTS[0]).iter().map(without_nulls));
        assert!(sorted(ran.records(REPORTS[0])) == truth, "{more}");
        // One refusal, then the windows since 1998 of each contact.
        let windows = (Utc::now().year() - 1998) / 5 + 1;
        let asked = fake.api_calls().iter().filter(|call| call.path.ends_with("/activity_summary")).count();
        assert_eq!(asked, 12 * usize::try_from(windows).unwrap() + 1);
        line(&ran, "INFO the service refuses a summary of more than five years");
        assert!((planned - made).abs() <= 0.25 * made, "{planned} planned, {made} made");
    }
}
