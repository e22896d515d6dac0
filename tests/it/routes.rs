//! The two routes to the contact reports: the same rows, at a very different price.

use std::thread;
use std::time::Duration;

use fake::account::Size;
use fake::{Account, Fake, Switches};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::tap::{REPORTS, Ran, only, sorted, tap_with, without_nulls};

/// One run of the reports on a route, with the calls that it made.
fn read(fake: &Fake, route: &str, more: &Value, state: Option<&Value>, streams: &[&str]) -> (Ran, usize) {
    let mut settings = more.clone();
    settings["activity_route"] = json!(route);
    fake.forget_calls();
    let ran = tap_with(fake, &settings, state, Some(&only(streams)));
    assert_eq!(ran.code, Some(0), "{route} {more}: {}", ran.stderr);
    (ran, fake.api_calls().len())
}

fn long_lived() -> Switches {
    Switches { rotating: false, per_day: 1_000_000, ..Switches::default() }
}

fn settings() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        (1u32..900).prop_map(|n| json!({"report_days_back": n})),
        (1u32..900, 0u32..900).prop_map(|(a, b)| json!({
            "report_start_days_back": a.max(b), "report_end_days_back": a.min(b), "timezone": "America/New_York",
        })),
        (1u32..900).prop_map(|n| json!({"start_date": (chrono::Utc::now() - chrono::TimeDelta::days(n.into())).format("%Y-%m-%d").to_string()})),
        Just(json!({"contact_status": "active,unsubscribed"})),
        Just(json!({"tracking_activity_types": "em_clicks,em_opens"})),
        (1u32..100).prop_map(|n| json!({"page_size": n})),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 8, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn both_routes_give_the_same_rows(
        seed in 0u64..1_000_000, contacts in 1u32..60, campaigns in 0u32..12, more in settings(), one in 0usize..4,
    ) {
        let size = Size { contacts: contacts as usize, lists: 2, campaigns: campaigns as usize };
        let account = Account::generate(seed, size).with_all_details();
        // If a campaign's details are refused, only the contact route has its rows, and a warning says so. So none are
        // here.
        let fake = Fake::start_with(account, long_lived());
        let streams: &[&str] = match one { 0 => &REPORTS[..1], 1 => &REPORTS[1..], _ => &REPORTS };
        let (by_contact, _) = read(&fake, "contacts", &more, None, streams);
        let (by_campaign, _) = read(&fake, "campaigns", &more, None, streams);
        for stream in REPORTS {
            prop_assert_eq!(sorted(by_contact.records(stream)), sorted(by_campaign.records(stream)), "{} {}", stream, more);
        }
        // A window up to now moves between the runs that are compared.
        if more.to_string().contains("report_") {
            return Ok(());
        }
        // The day after: some opens and clicks, one of them twice in a second.
        let activities = fake.account().sent_activities();
        let ids: Vec<String> = fake.account().contacts.iter().map(|c| c.id.to_string()).collect();
        for (i, activity) in activities.iter().take(3).enumerate() {
            fake.account().open(&ids[i % ids.len()], activity);
            fake.account().open(&ids[i % ids.len()], activity);
        }
        let mut more = more;
        more["activity_lookback_days"] = json!(36_500);
        let (by_contact, _) = read(&fake, "contacts", &more, Some(&by_contact.last_state()), streams);
        let (by_campaign, _) = read(&fake, "campaigns", &more, Some(&by_campaign.last_state()), streams);
        for stream in REPORTS {
            prop_assert_eq!(sorted(by_contact.records(stream)), sorted(by_campaign.records(stream)), "then {} {}", stream, more);
        }
    }
}

#[test]
fn the_campaign_route_takes_few_calls_and_knows_more() {
    // A tenth of 26,000 contacts, with a tenth of the rows a page; the benchmark runs it whole.
    let fake = Fake::start_with(Account::generate(26, Size { contacts: 2600, lists: 3, campaigns: 22 }), long_lived());
    let more = json!({"page_size": 50});
    let (by_contact, contact_calls) = read(&fake, "contacts", &more, None, &REPORTS);
    let (by_campaign, campaign_calls) = read(&fake, "auto", &more, None, &REPORTS);
    assert!(by_campaign.stderr.contains("the contact reports by the campaign route"), "{}", by_campaign.stderr);
    for stream in REPORTS {
        assert_eq!(sorted(by_contact.records(stream)), sorted(by_campaign.records(stream)), "{stream}");
    }
    // Ten times the contacts are ten times the calls by contact; on ten times the page by campaign they are none more.
    assert!(20 * campaign_calls <= 10 * contact_calls, "{campaign_calls} calls against {contact_calls}");
    let extras = by_campaign.messages.iter().filter(|m| m["record"]["device_type"].is_string()).count();
    assert!(extras > 0);
    let (_, again) = read(&fake, "auto", &more, Some(&by_campaign.last_state()), &REPORTS);
    assert!(again <= 300, "{again}");
}

#[test]
fn drafts_that_were_removed_cost_nothing_once_they_are_old() {
    let fake = Fake::start_with(Account::generate(4, Size { contacts: 20, lists: 1, campaigns: 30 }), long_lived());
    let drafts: Vec<String> = {
        let account = fake.account();
        // The service lists them for ever, and knows none of them one by one.
        account.campaigns.iter().filter(|c| c.detail_404).map(|c| format!("/emails/{}", c.id)).collect()
    };
    assert!(drafts.len() > 1);
    let asked = |fake: &Fake| fake.api_calls().iter().filter(|c| drafts.iter().any(|d| c.path.ends_with(d))).count();
    let (first, _) = read(&fake, "campaigns", &json!({}), None, &REPORTS);
    assert_eq!(asked(&fake), drafts.len());
    let (second, _) = read(&fake, "campaigns", &json!({}), Some(&first.last_state()), &REPORTS);
    assert_eq!(asked(&fake), 0);
    for ran in [first, second] {
        assert!(!ran.stderr.contains("one by one"), "{}", ran.stderr);
    }
    // One that was sent is another matter.
    fake.account().campaigns[0].detail_404 = true;
    let (ran, _) = read(&fake, "campaigns", &json!({}), None, &REPORTS);
    assert!(ran.stderr.contains("1 sent campaigns are listed but unknown or refused one by one"), "{}", ran.stderr);
}

/// The campaign reports that were asked for.
fn tracking(fake: &Fake) -> Vec<String> {
    fake.api_calls().iter().filter(|c| c.path.contains("/tracking/")).map(|c| c.path.clone()).collect()
}

#[test]
fn reports_of_which_the_summary_says_that_they_are_empty_are_not_asked_for() {
    let mut account = Account::generate(6, Size { contacts: 40, lists: 1, campaigns: 3 });
    let old = chrono::Utc::now() - chrono::TimeDelta::days(60);
    let [quiet, loud] = [0, 1].map(|i| account.campaigns[i].activities[0].id.clone());
    for campaign in &mut account.campaigns {
        campaign.activities.retain(|activity| activity.role == "primary_email");
        campaign.activities.iter_mut().for_each(|activity| activity.sent_at = Some(old));
    }
    // Of the first campaign there are only sends, of the last nothing.
    account
        .activities
        .retain(|row| row.activity_id == loud || (row.activity_id == quiet && row.kind == fake::Kind::Sends));
    let fake = Fake::start_with(account, long_lived());
    read(&fake, "campaigns", &json!({}), None, &REPORTS);
    let asked = tracking(&fake);
    let of = |id: &str| asked.iter().filter(|path| path.contains(id)).count();
    assert_eq!(of(&quiet), 1, "{asked:?}");
    assert!(asked.iter().any(|path| path.contains(&*quiet) && path.ends_with("/sends")), "{asked:?}");
    assert!(of(&loud) > 1 && asked.len() == of(&quiet) + of(&loud), "{asked:?}");
    let details = fake.api_calls().iter().filter(|c| c.path.starts_with("/v3/emails/")).count();
    assert_eq!(details, 2, "the third campaign is not even looked at");
    // What was sent lately may have rows that are not counted yet.
    read(&fake, "campaigns", &json!({"activity_lookback_days": 90}), None, &REPORTS);
    assert_eq!(tracking(&fake).len(), 3 * 6);
}

#[test]
fn an_unfinished_read_goes_on_by_its_own_route() {
    let account = Account::generate(9, Size { contacts: 40, lists: 1, campaigns: 6 }).with_all_details();
    let fake = Fake::start_with(account, long_lived());
    let now = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let truth = |stream: &str| sorted(fake.account().truth(stream).iter().map(without_nulls));
    for (was, other) in [("contacts", "campaigns"), ("campaigns", "contacts")] {
        // Cut off behind nearly all contacts or activities.
        let state = json!({"bookmarks": {REPORTS[1]: {
            "resume_since": "", "resume_until": now, "resume_route": was,
            "resume_after": "fff00000-0000-11ef-8000-000000000000", "resume_filter": "",
        }}});
        let (ran, _) = read(&fake, "auto", &json!({}), Some(&state), &REPORTS);
        let by_campaign = fake.api_calls().iter().any(|call| call.path.contains("/tracking/"));
        assert_eq!(by_campaign, was == "campaigns", "the other report goes the same way");
        assert_eq!(ran.records(REPORTS[1]), Vec::<Value>::new());
        assert!(sorted(ran.records(REPORTS[0])) == truth(REPORTS[0]), "{was}");
        // A route that is set reads by itself, and leaves the other read to who can finish it.
        let (ran, _) = read(&fake, other, &json!({}), Some(&state), &REPORTS);
        assert!(sorted(ran.records(REPORTS[1])) == truth(REPORTS[1]), "{other}");
        assert_eq!(
            ran.stderr.matches("contact_activity_details: the state holds an interrupted read").count(),
            1,
            "{}",
            ran.stderr
        );
        let left = &ran.last_state()["bookmarks"][REPORTS[1]];
        assert_eq!((&left["resume_route"], &left["resume_until"]), (&json!(was), &json!(now)));
    }
}

/// What a run wrote, without the times.
fn timeless(ran: &Ran) -> Vec<String> {
    let line = |message: &Value| {
        let mut message = message.clone();
        message["time_extracted"].take();
        // Bookmarks hold the time of the run. Their positions in the output must be the same.
        message["value"].take();
        message.to_string()
    };
    ran.messages.iter().map(line).collect()
}

#[test]
fn the_output_does_not_depend_on_the_number_of_workers() {
    let mut account = Account::generate(12, Size { contacts: 5, lists: 1, campaigns: 2 }).with_all_details();
    // Two contacts with several pages, so that others overtake them.
    let (ids, activity) =
        (account.contacts.iter().map(|c| c.id.clone()).collect::<Vec<_>>(), account.sent_activities()[0].clone());
    for i in 0..25 {
        let at = account.activities[0].at + chrono::TimeDelta::minutes(i / 2);
        let row = |contact: usize| fake::account::Row {
            contact_id: ids[contact].clone(),
            activity_id: activity.clone(),
            kind: fake::Kind::Opens,
            at,
        };
        account.activities.extend([row(0), row(2)]);
    }
    let run = &|route: &str, per_second: u32| {
        let fake = Fake::start_with(account.clone(), Switches { jitter: Duration::from_millis(40), ..long_lived() });
        read(&fake, route, &json!({"requests_per_second": per_second, "page_size": 10}), None, &REPORTS).0
    };
    thread::scope(|scope| {
        // Two workers against eight.
        let slow = ["contacts", "campaigns"].map(|route| (route, scope.spawn(move || run(route, 1))));
        for (route, slow) in slow {
            let fast: Vec<Ran> = (0..6).map(|_| run(route, 1000)).collect();
            let slow = slow.join().unwrap();
            assert!(slow.messages.len() > 60);
            for fast in fast {
                assert!(timeless(&slow) == timeless(&fast), "{route}");
            }
        }
    });
}

/// Calls a second from the first to the last call of a report, those between them included, without the longest pause: the
/// contact route waits once, for the answers of its sample.
fn pace_of(fake: &Fake, path: &str) -> f64 {
    let mut calls = fake.api_calls();
    calls.sort_by_key(|call| call.came);
    let first = calls.iter().position(|call| call.path.contains(path)).unwrap();
    let last = calls.iter().rposition(|call| call.path.contains(path)).unwrap();
    let pauses: Vec<f64> =
        calls[first..=last].windows(2).map(|two| (two[1].came - two[0].came).as_secs_f64()).collect();
    let rest = pauses.iter().sum::<f64>() - pauses.iter().copied().fold(0.0, f64::max);
    f64::from(u32::try_from(pauses.len() - 1).unwrap()) / rest
}

#[test]
fn the_pace_and_not_the_latency_is_the_limit() {
    let account = Account::generate(9, Size { contacts: 60, lists: 1, campaigns: 12 });
    let ids: Vec<String> = account.contacts.iter().map(|c| c.id.to_string()).take(50).collect();
    // The pace, and how often more than four calls came within a second.
    let measure = |route: &str, path: &str, latency: u64| {
        let switches = Switches {
            latency: Duration::from_millis(latency),
            jitter: Duration::from_millis(30),
            max_pace: Some(4),
            ..long_lived()
        };
        let fake = Fake::start_with(account.clone(), switches);
        let more = json!({"requests_per_second": 4, "contact_ids": ids});
        read(&fake, route, &more, None, &REPORTS[1..]);
        (pace_of(&fake, path), fake.violations().len())
    };
    // Other tests may keep a call from being sent or received in time: that is measured again.
    let check = &|route: &str, path: &str, latency: u64| {
        let mut measured = Vec::new();
        let is_kept = |(pace, too_fast): &(f64, usize)| *pace >= 3.85 && *too_fast == 0;
        while measured.len() < 3 && !measured.last().is_some_and(is_kept) {
            measured.push(measure(route, path, latency));
        }
        assert!(measured.last().is_some_and(is_kept), "{route}, {latency} ms: {measured:?}");
    };
    thread::scope(|scope| {
        for (route, path) in [("contacts", "contact_reports"), ("campaigns", "/tracking/")] {
            for latency in [0, 500] {
                scope.spawn(move || check(route, path, latency));
            }
        }
    });
}
