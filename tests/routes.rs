//! The two routes to the contact reports: the same rows, at a very different price.

mod fake;
mod tap;

use std::time::{Duration, Instant};

use fake::account::Size;
use fake::{Account, Fake, Switches};
use proptest::prelude::*;
use serde_json::{Value, json};
use tap::{Ran, only, sorted, tap_with};

const REPORTS: [&str; 2] = ["contact_action_summary", "contact_activity_details"];

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
        let mut account = Account::generate(seed, size);
        // What the detail of a campaign hides can only be found by contact; that is told in a warning.
        account.campaigns.iter_mut().for_each(|campaign| campaign.detail_404 = false);
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
    // A tenth of 26,000 contacts, with a tenth of the rows a page.
    let fake = Fake::start_with(Account::generate(26, Size { contacts: 2600, lists: 3, campaigns: 22 }), long_lived());
    let more = json!({"page_size": 50});
    let (by_contact, contact_calls) = read(&fake, "contacts", &more, None, &REPORTS);
    let (by_campaign, campaign_calls) = read(&fake, "auto", &more, None, &REPORTS);
    assert!(by_campaign.stderr.contains("by the campaign route, about"), "{}", by_campaign.stderr);
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
        assert!(!ran.stderr.contains("unknown one by one"), "{}", ran.stderr);
    }
    // One that was sent is another matter.
    fake.account().campaigns[0].detail_404 = true;
    let (ran, _) = read(&fake, "campaigns", &json!({}), None, &REPORTS);
    assert!(ran.stderr.contains("1 sent campaigns are listed but unknown one by one"), "{}", ran.stderr);
}

/// Calls a second from the first to the last call of a report.
fn pace_of(fake: &Fake, path: &str) -> f64 {
    let times: Vec<Instant> = fake.api_calls().iter().filter(|c| c.path.contains(path)).map(|c| c.at).collect();
    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    f64::from(u32::try_from(times.len() - 1).unwrap()) / last.duration_since(*first).as_secs_f64()
}

#[test]
fn the_pace_and_not_the_latency_is_the_limit() {
    let account = Account::generate(9, Size { contacts: 60, lists: 1, campaigns: 12 });
    let ids: Vec<String> = account.contacts.iter().map(|c| c.id.to_string()).take(40).collect();
    for (route, path) in [("contacts", "contact_reports"), ("campaigns", "/tracking/")] {
        let fake = Fake::start_with(
            account.clone(),
            Switches { latency: Duration::from_millis(500), max_pace: Some(4), ..long_lived() },
        );
        let more = json!({"requests_per_second": 4, "contact_ids": ids});
        read(&fake, route, &more, None, &REPORTS[1..]);
        let pace = pace_of(&fake, path);
        assert!((3.8..=4.0).contains(&pace), "{route}: {pace}");
    }
}
