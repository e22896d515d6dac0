//! The rows of the contact reports: none is lost and none is invented, however oddly the service answers.

use chrono::{TimeDelta, Utc};
use fake::account::{Row, Size};
use fake::{Account, Case, Fake, Fault, Kind, Switches, What};
use serde_json::{Value, json};

use crate::tap::{Ran, only, sorted, tap_with, truth, without, without_nulls};

const SUMMARY: &str = "contact_action_summary";
const DETAILS: &str = "contact_activity_details";

/// An account with these numbers of contacts and campaigns, all of whose rows can be read on both routes.
pub fn start(contacts: usize, campaigns: usize) -> Fake {
    let account = Account::generate(31, Size { contacts, lists: 1, campaigns }).with_all_details();
    Fake::start_with(account, Switches::long_lived())
}

fn read(fake: &Fake, more: &Value, streams: &[&str]) -> Ran {
    let ran = tap_with(fake, more, None, Some(&only(streams)));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran
}

fn answers(path: &str, status: u16, body: &Value) -> Fault {
    let what = What::Status(status, body.to_string(), "application/json");
    Fault::always(path, what)
}

#[test]
fn rows_older_than_every_campaign_are_read() {
    let fake = start(40, 4);
    {
        let mut account = fake.account();
        let oldest = account.campaigns.iter().map(|campaign| campaign.created_at).min().unwrap();
        let ids: Vec<_> = account.contacts.iter().map(|contact| contact.id.clone()).collect();
        // An automation, which is not in the listing of campaigns.
        for (n, contact_id) in ids.into_iter().enumerate() {
            let at = oldest - TimeDelta::days(i64::try_from(n).unwrap());
            let activity_id = "00000000-0000-11ef-8000-000000000001".into();
            account.activities.push(Row { contact_id, activity_id, kind: Kind::Sends, at });
        }
    }
    let ran = read(&fake, &json!({"activity_route": "contacts"}), &[SUMMARY, DETAILS]);
    for stream in [SUMMARY, DETAILS] {
        assert!(sorted(ran.records(stream)) == truth(&fake, stream), "{stream}");
    }
    let without_campaign = ran.records(DETAILS).into_iter().filter(|row| row.get("campaign_id").is_none()).count();
    assert_eq!(without_campaign, 40);
}

#[test]
fn sends_within_the_window_are_read_even_if_sending_began_before_it() {
    let fake = start(30, 4);
    let window_start = (Utc::now() - TimeDelta::days(5)).date_naive().and_hms_opt(0, 0, 0).unwrap().and_utc();
    {
        let mut account = fake.account();
        let activity = account.campaigns[0].activities[0].clone();
        let begun = window_start - TimeDelta::hours(2);
        account.campaigns[0].activities[0].sent_at = Some(begun);
        account.activities.retain(|row| row.activity_id != activity.id);
        let ids: Vec<_> = account.contacts.iter().map(|contact| contact.id.clone()).collect();
        for (n, contact_id) in ids.into_iter().enumerate() {
            let at = begun + TimeDelta::minutes(10 * i64::try_from(n).unwrap());
            account.activities.push(Row { contact_id, activity_id: activity.id.clone(), kind: Kind::Sends, at });
        }
    }
    for more in [json!({"report_days_back": 5}), json!({"start_date": window_start.format("%Y-%m-%d").to_string()})] {
        let of = |route: &str| {
            let mut more = more.clone();
            more["activity_route"] = json!(route);
            read(&fake, &more, &[SUMMARY, DETAILS])
        };
        let (by_contact, by_campaign) = (of("contacts"), of("campaigns"));
        for stream in [SUMMARY, DETAILS] {
            assert_eq!(sorted(by_contact.records(stream)), sorted(by_campaign.records(stream)), "{stream} {more}");
        }
        assert!(by_campaign.records(DETAILS).len() >= 18, "{}", by_campaign.records(DETAILS).len());
    }
}

#[test]
fn rows_that_appear_between_two_pages_lose_and_invent_nothing() {
    for route in ["contacts", "campaigns"] {
        let fake = start(12, 2);
        let (contact, activity) = {
            let account = fake.account();
            (account.contacts[account.case(Case::LongHistory)].id.clone(), account.sent_activities()[0].clone())
        };
        let begin = fake.account().activities[0].at;
        for i in 0..60 {
            let at = begin + TimeDelta::minutes(i / 2);
            let row = Row { contact_id: contact.clone(), activity_id: activity.clone(), kind: Kind::Opens, at };
            fake.account().activities.push(row);
        }
        let before = truth(&fake, DETAILS);
        let (opened, mut pages) = ((contact.clone(), activity.clone()), 0);
        fake.before_call(Box::new(move |target, account| {
            let is_later = target.contains("next=")
                && (target.contains(&*opened.0) || target.contains(&format!("{}/tracking/opens", opened.1)));
            if is_later {
                pages += 1;
            }
            // Attributed late: the row sorts after the first page and before the requested one.
            if is_later && (3..6).contains(&pages) {
                account.activities.push(Row {
                    contact_id: opened.0.clone(),
                    activity_id: opened.1.clone(),
                    kind: Kind::Opens,
                    at: begin + TimeDelta::minutes(24) + TimeDelta::seconds(pages),
                });
                account.rename(&*opened.0, "Renamed meanwhile");
            }
        }));
        let more = json!({"activity_route": route, "page_size": 7});
        let ran = read(&fake, &more, &[DETAILS]);
        let (rows, now) = (sorted(ran.records(DETAILS)), truth(&fake, DETAILS));
        assert!(now.len() > before.len(), "{route}");
        let lost: Vec<_> = before.iter().filter(|row| rows.binary_search(row).is_err()).collect();
        let invented: Vec<_> = rows.iter().filter(|row| now.binary_search(row).is_err()).collect();
        assert_eq!((lost, invented), (Vec::<&String>::new(), Vec::<&String>::new()), "{route}");
    }
}

#[test]
fn a_campaign_activity_whose_reports_are_refused_is_skipped_with_a_warning() {
    for (status, word) in [(400, "2 with 400"), (403, "2 with 403"), (404, "2 with 404")] {
        let fake = start(40, 12);
        let all = fake.account().sent_activities();
        let mut all: Vec<String> = all.iter().map(ToString::to_string).collect();
        all.sort();
        // Refusing the first three would count as a refusal of the stream.
        let refused = [all[4].clone(), all[6].clone()];
        for id in &refused {
            fake.fault(answers(
                &format!("{id}/tracking"),
                status,
                &json!([{"error_key": "no", "error_message": "no"}]),
            ));
        }
        let ran = read(&fake, &json!({"activity_route": "campaigns"}), &[SUMMARY, DETAILS]);
        for stream in [SUMMARY, DETAILS] {
            let rest = fake
                .account()
                .truth(stream)
                .into_iter()
                .filter(|row| !refused.iter().any(|id| row["campaign_activity_id"] == json!(id)));
            let rest = sorted(rest.map(|row| without_nulls(&row)));
            assert!(sorted(ran.records(stream)) == rest, "{status} {stream}");
        }
        let warnings: Vec<_> = ran.stderr.lines().filter(|line| line.contains("campaign activities")).collect();
        assert_eq!(warnings.len(), 1, "{}", ran.stderr);
        assert!(warnings[0].starts_with("WARNING") && warnings[0].contains(word), "{}", warnings[0]);
        assert!(refused.iter().all(|id| warnings[0].contains(id)), "{}", warnings[0]);
        // With their names, since a person does not know the ids.
        let account = fake.account();
        for campaign in &account.campaigns {
            if !campaign.activities.iter().any(|activity| refused.contains(&activity.id.to_string())) {
                continue;
            }
            assert!(warnings[0].contains(&format!("{} (\"{}\")", campaign.id, campaign.name)), "{}", warnings[0]);
        }
    }
}

#[test]
fn a_stream_is_refused_if_its_first_activities_all_are() {
    let fake = start(40, 12);
    fake.fault(answers("/tracking/", 403, &json!({"error_key": "forbidden", "error_message": "no"})));
    let ran = tap_with(&fake, &json!({"activity_route": "campaigns"}), None, Some(&only(&[DETAILS])));
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
    assert!(ran.stderr.contains("ERROR contact_activity_details: the service refuses this stream"), "{}", ran.stderr);
}

#[test]
fn a_campaign_that_only_the_summaries_have_is_read() {
    let fake = start(40, 6);
    let listed: Vec<Value> = {
        let account = fake.account();
        let hidden = account.sent_activities()[0].clone();
        let is_hidden = |c: &&fake::account::Campaign| !c.activities.iter().any(|a| a.id == hidden);
        let row = |c: &fake::account::Campaign| {
            json!({"campaign_id": &*c.id, "name": fake::account::clean(&c.name), "current_status": c.status,
                "created_at": fake::account::canonical(c.created_at), "updated_at": fake::account::canonical(c.updated_at)})
        };
        account.campaigns.iter().filter(is_hidden).map(row).collect()
    };
    fake.fault(answers("/emails?", 200, &json!({"campaigns": listed})));
    let ran = read(&fake, &json!({"activity_route": "campaigns"}), &[SUMMARY, DETAILS]);
    assert!(sorted(ran.records(SUMMARY)) == truth(&fake, SUMMARY));
    assert_eq!(ran.records(DETAILS).len(), truth(&fake, DETAILS).len());
}

/// Replaces the details of one contact with these rows. Returns its id and the rows.
fn odd_page(fake: &Fake, rows: &[Value]) -> (String, Value) {
    let id = fake.account().contacts[1].id.to_string();
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let mut row = row.clone();
            row["contact_id"] = json!(row.get("contact_id").and_then(Value::as_str).unwrap_or(&id));
            row["campaign_activity_id"] = json!("a1");
            row
        })
        .collect();
    fake.fault(answers(&format!("{id}/activity_details"), 200, &json!({"tracking_activities": rows})));
    (id, json!(rows))
}

#[test]
fn a_row_without_time_or_type_is_left_out_and_counted() {
    let fake = start(30, 4);
    let (id, _) = odd_page(
        &fake,
        &[
            json!({"created_time": "2026-01-02T03:04:05.000Z", "tracking_activity_type": "em_opens"}),
            json!({"tracking_activity_type": "em_opens"}),
            json!({"created_time": "2026-01-02T03:04:06.000Z"}),
            json!({"created_time": "2026-01-02T03:04:07.000Z", "tracking_activity_type": null}),
        ],
    );
    let of = |ran: &Ran| {
        let rows = ran.records(DETAILS).into_iter().filter(|row| row["contact_id"] == json!(id));
        rows.map(|row| row["tracking_activity_type"].clone()).collect::<Vec<_>>()
    };
    let more = json!({"activity_route": "contacts"});
    let ran = read(&fake, &more, &[DETAILS]);
    assert_eq!(of(&ran), [json!("em_opens")]);
    let others = fake.account().truth(DETAILS).into_iter().filter(|row| row["contact_id"] != json!(id)).count();
    let count = format!("WARNING contact_activity_details: 3 of {} rows were not written", others + 4);
    assert!(ran.stderr.contains(&count), "{count}: {}", ran.stderr);
    // If only one type was requested, rows without a type have that one.
    let ran = read(&fake, &json!({"activity_route": "contacts", "tracking_activity_types": "em_clicks"}), &[DETAILS]);
    assert_eq!(of(&ran), [json!("em_opens"), json!("em_clicks"), json!("em_clicks")]);
}

#[test]
fn rows_of_another_contact_end_the_run() {
    let fake = start(10, 2);
    odd_page(
        &fake,
        &[
            json!({"contact_id": "someone-else", "created_time": "2026-01-02T03:04:05Z", "tracking_activity_type": "em_opens"}),
        ],
    );
    let ran = tap_with(&fake, &json!({"activity_route": "contacts"}), None, Some(&only(&[DETAILS])));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("came with rows of another contact, someone-else"), "{}", ran.stderr);
    let fake = start(10, 2);
    fake.fault(answers("/activity_summary", 200, &json!({"contact_id": "someone-else", "campaign_activities": []})));
    let ran = tap_with(&fake, &json!({"activity_route": "contacts"}), None, Some(&only(&[SUMMARY])));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
}

#[test]
fn campaign_ids_are_looked_up_once_and_only_where_they_are_selected() {
    let fake = start(40, 12);
    let lookups =
        |fake: &Fake| fake.api_calls().iter().filter(|call| call.path.contains("/email_campaign_activities/")).count();
    let ran = read(&fake, &json!({"activity_route": "contacts"}), &[SUMMARY, DETAILS]);
    assert!(ran.records(DETAILS).iter().all(|row| row["campaign_id"].is_string()));
    let activities = fake.account().sent_activities().len();
    assert!((activities.div_ceil(10)..=activities.div_ceil(10) + 2).contains(&lookups(&fake)), "{}", lookups(&fake));
    // Deselected, they take no calls.
    fake.forget_calls();
    let catalog = without(DETAILS, &[&["campaign_id"]]);
    let ran = tap_with(&fake, &json!({"activity_route": "contacts"}), None, Some(&catalog));
    assert_eq!((ran.code, lookups(&fake)), (Some(0), 0), "{}", ran.stderr);
    // If they are refused, the field is null and the rows are written.
    fake.fault(answers("/email_campaign_activities/", 403, &json!({"error_key": "forbidden"})));
    let ran = read(&fake, &json!({"activity_route": "contacts"}), &[DETAILS]);
    assert_eq!(ran.records(DETAILS).len(), truth(&fake, DETAILS).len());
    assert_eq!(ran.stderr.matches("campaign_id is null").count(), 1, "{}", ran.stderr);
}
