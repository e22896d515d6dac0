//! The campaigns with their counts, activities and e-mails: what is written, how many calls it takes, and what a refusal
//! leaves null.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use fake::account::{Campaign, Size};
use fake::{Account, Fake, Fault, Id, Kind, Switches, What};
use serde_json::{Value, json};

use crate::tap::{self, Ran, only, sorted, tap, tap_with, without_nulls};

const STREAM: &str = "email_campaigns";
const COUNTS: [&str; 9] = [
    "last_sent_date",
    "unique_sends",
    "unique_opens",
    "unique_clicks",
    "unique_bounces",
    "unique_optouts",
    "unique_forwards",
    "unique_abuse",
    "unique_not_opened",
];
const EMAIL: [&str; 7] =
    ["subject", "preheader", "from_name", "from_email", "reply_to_email", "contact_list_ids", "segment_ids"];

/// Thirty campaigns of all kinds: drafts, removed ones, a repeated one, one whose e-mail answers 404.
fn fake() -> Fake {
    let account = Account::generate(11, Size { contacts: 40, lists: 9, campaigns: 30 });
    Fake::start_with(account, Switches::long_lived())
}

fn read(fake: &Fake, state: Option<&Value>) -> Ran {
    tap_with(fake, &json!({}), state, Some(&only(&[STREAM])))
}

/// A catalog of this stream without these groups of fields.
fn without(fields: &[&[&str]]) -> Value {
    let fields: Vec<&[&str]> = fields.iter().flat_map(|group| group.chunks(1)).collect();
    tap::without(STREAM, &fields)
}

/// The number of calls for the listing, the summaries, the details and the e-mails.
fn calls(fake: &Fake) -> [usize; 4] {
    let calls = fake.api_calls();
    let count = |is: &dyn Fn(&str) -> bool| calls.iter().filter(|call| is(&call.path)).count();
    [
        count(&|path| path == "/v3/emails"),
        count(&|path| path.ends_with("/email_campaign_summaries")),
        count(&|path| path.starts_with("/v3/emails/") && !path.contains("/activities/")),
        count(&|path| path.contains("/emails/activities/")),
    ]
}

fn truth(fake: &Fake) -> Vec<Value> {
    fake.account().truth(STREAM)
}

fn warnings<'a>(ran: &'a Ran, of: &str) -> Vec<&'a str> {
    ran.stderr.lines().filter(|line| line.starts_with("WARNING") && line.contains(of)).collect()
}

fn ids(ran: &Ran) -> Vec<String> {
    ran.records(STREAM).iter().map(|row| row["campaign_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_full_read_writes_the_counts_activities_and_e_mails_of_every_campaign() {
    let fake = fake();
    fake.account().add_undocumented_roles(0);
    let ran = read(&fake, None);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(sorted(ran.records(STREAM)), sorted(truth(&fake)));
    assert!(ids(&ran).is_sorted());
    let rows = ran.records(STREAM);
    for field in COUNTS.iter().chain(&EMAIL).chain(&["campaign_activities"]) {
        assert!(rows.iter().any(|row| row.get(field).is_some()), "{field}");
    }
    // A campaign that was never sent has no counts, not zeros.
    let draft = rows.iter().find(|row| row["current_status"] == "Draft").unwrap();
    assert!(COUNTS.iter().all(|field| draft.get(field).is_none()) && draft["subject"].is_string(), "{draft}");
    assert!(!ran.stderr.contains("unknown field"), "{}", ran.stderr);
}

#[test]
fn a_campaign_that_was_removed_before_it_was_sent_takes_no_call() {
    let fake = fake();
    let removed: Vec<String> = {
        let account = fake.account();
        let never = account.campaigns.iter().filter(|c| c.status == "Removed" && c.last_sent().is_none());
        never.map(|c| c.id.to_string()).collect()
    };
    assert!(!removed.is_empty());
    for catalog in [without(&[]), without(&[&COUNTS])] {
        fake.forget_calls();
        let ran = tap_with(&fake, &json!({}), None, Some(&catalog));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(fake.api_calls().iter().all(|call| removed.iter().all(|id| !call.path.contains(id))));
        assert_eq!(calls(&fake)[2], 30 - removed.len());
        assert!(warnings(&ran, "refuses the details").is_empty(), "{}", ran.stderr);
    }
}

#[test]
fn only_what_selected_fields_need_is_requested() {
    let asked = |fields: &[&[&str]]| {
        let fake = fake();
        fake.account().campaigns.retain(|campaign| campaign.status != "Removed");
        let ran = tap_with(&fake, &json!({}), None, Some(&without(fields)));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let gone: BTreeSet<&str> = fields.iter().copied().flatten().copied().collect();
        let mut truth = truth(&fake);
        for row in &mut truth {
            row.as_object_mut().unwrap().retain(|field, _| !gone.contains(&**field));
        }
        assert_eq!(sorted(ran.records(STREAM)), sorted(truth));
        calls(&fake)
    };
    let activities: &[&str] = &["campaign_activities"];
    assert_eq!(asked(&[]), [1, 1, 27, 27]);
    assert_eq!(asked(&[&EMAIL]), [1, 1, 27, 0]);
    // Only the details say which e-mail is the primary one.
    assert_eq!(asked(&[activities, &EMAIL[1..]]), [1, 1, 27, 27]);
    assert_eq!(asked(&[activities, &EMAIL]), [1, 1, 0, 0]);
    assert_eq!(asked(&[&COUNTS]), [1, 0, 27, 27]);
    assert_eq!(asked(&[&COUNTS[1..]]), [1, 1, 27, 27]);
    assert_eq!(asked(&[&COUNTS, activities, &EMAIL]), [1, 0, 0, 0]);
}

/// A state whose bookmark is now.
fn up_to_now(fake: &Fake) -> Value {
    let at = fake.now().format("%FT%TZ").to_string();
    json!({"bookmarks": {STREAM: {"replication_key": "updated_at", "replication_key_value": at}}})
}

#[test]
fn a_later_run_writes_what_was_updated_and_what_was_sent_lately() {
    let fake = fake();
    let state = up_to_now(&fake);
    let (lately, updated) = {
        let mut account = fake.account();
        let now = account.now();
        for (i, campaign) in account.campaigns.iter_mut().enumerate() {
            // The first one was sent twenty days ago, the others before the lookback begins.
            let age = TimeDelta::days(if i == 0 { 20 } else { 40 });
            campaign.updated_at = now - age;
            campaign.activities.iter_mut().for_each(|a| a.sent_at = a.sent_at.map(|_| now - age));
        }
        account.campaigns[3].name = "Renamed draft".into();
        account.campaigns[3].updated_at = now;
        let (contact, activity) = (account.contacts[5].id.clone(), account.campaigns[0].activities[0].id.clone());
        account.track(Kind::Opens, &contact, &activity);
        (account.campaigns[0].id.to_string(), account.campaigns[3].id.to_string())
    };
    let ran = read(&fake, Some(&state));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let expected = BTreeSet::from([lately.clone(), updated.clone()]);
    assert_eq!(ids(&ran).into_iter().collect::<BTreeSet<_>>(), expected);
    // Every row has all fields, since a target clears those that a row omits.
    let truth = truth(&fake).into_iter().filter(|row| expected.contains(row["campaign_id"].as_str().unwrap()));
    assert_eq!(sorted(ran.records(STREAM)), sorted(truth));
    // Two calls for each campaign that is written.
    assert_eq!(calls(&fake), [1, 1, 2, 2]);

    let fewer = tap_with(&fake, &json!({"activity_lookback_days": 10}), Some(&state), Some(&only(&[STREAM])));
    assert_eq!(ids(&fewer), std::slice::from_ref(&updated));
    // Without counts, only the updated campaigns are requested.
    fake.forget_calls();
    let plain = tap_with(&fake, &json!({}), Some(&state), Some(&without(&[&COUNTS])));
    assert_eq!(ids(&plain), [updated]);
    assert_eq!(calls(&fake), [1, 0, 1, 1]);
    assert!(fake.api_calls().iter().any(|call| call.query.contains("after_date=")), "the listing is not bounded");
}

#[test]
fn a_sent_campaign_that_the_listing_lacks_is_read_by_its_id() {
    let fake = fake();
    let missing: Vec<String> = {
        let mut account = fake.account();
        for i in [0, 8, 9] {
            account.campaigns[i].unlisted = true;
        }
        account.campaigns[9].detail_404 = true;
        [0, 8, 9].map(|i| account.campaigns[i].id.to_string()).into()
    };
    let ran = read(&fake, None);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    // The third is in no listing and unknown by its id, so it cannot be written.
    let truth = truth(&fake).into_iter().filter(|row| row["campaign_id"] != missing[2]);
    assert_eq!(sorted(ran.records(STREAM)), sorted(truth));
    assert!(ids(&ran).is_sorted());
    let warnings = warnings(&ran, &missing[2]);
    assert!(warnings.len() == 1 && warnings[0].contains("not written"), "{}", ran.stderr);
    assert_eq!(calls(&fake)[1], 1);
}

#[test]
fn a_refusal_leaves_fields_null_with_one_warning() {
    let refusals = || {
        [
            What::Status(400, r#"[{"error_key": "no", "error_message": "No"}]"#.into(), "application/json"),
            What::Forbidden,
            What::NotFound,
        ]
    };
    let kinds: [(&str, &[&[&str]], &str); 3] = [
        ("email_campaign_summaries", &[&COUNTS], "refuses the counts"),
        ("/emails/activities/", &[&EMAIL], "refuses the e-mail"),
        ("/v3/emails/", &[&EMAIL, &["campaign_activities"]], "refuses the details"),
    ];
    for (path, fields, words) in kinds {
        for what in refusals() {
            let fake = fake();
            fake.fault(Fault::always(path, what.clone()));
            let ran = read(&fake, None);
            assert_eq!(ran.code, Some(0), "{path} {what:?} {}", ran.stderr);
            let gone: BTreeSet<&str> = fields.iter().copied().flatten().copied().collect();
            let truth = truth(&fake).into_iter().map(|mut row| {
                row.as_object_mut().unwrap().retain(|field, _| !gone.contains(&**field));
                row
            });
            assert_eq!(sorted(ran.records(STREAM)), sorted(truth), "{path} {what:?}");
            let warnings = warnings(&ran, words);
            assert_eq!(warnings.len(), 1, "{path} {what:?} {}", ran.stderr);
            // With the name of the campaign, since a person does not know its id.
            let names = fake.account().campaigns.iter().any(|campaign| warnings[0].contains(&campaign.name));
            assert_eq!(names, !words.ends_with("counts"), "{}", warnings[0]);
            assert!(ran.last_state()["bookmarks"][STREAM]["replication_key_value"].is_string());
        }
    }
}

#[test]
fn emails_that_were_removed_with_their_campaigns_are_one_warning() {
    let fake = fake();
    // The others answer 404 for another reason, which is another warning.
    for campaign in &mut fake.account().campaigns {
        campaign.activities.iter_mut().for_each(|activity| activity.email_404 = false);
    }
    // There is one such campaign in the account; a second one has no line of its own.
    fake.account().campaigns.iter_mut().find(|campaign| campaign.status == "Done").unwrap().status = "Removed";
    let is_asked = |campaign: &&Campaign| campaign.status == "Removed" && campaign.last_sent().is_some();
    assert_eq!(fake.account().campaigns.iter().filter(is_asked).count(), 2);
    let ran = read(&fake, None);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let told: Vec<_> = ran.stderr.lines().filter(|line| line.contains("was removed, so its subject")).collect();
    assert!(told.len() == 1 && told[0].starts_with("WARNING "), "{}", ran.stderr);
    assert!(!ran.stderr.contains("refuses the e-mail"), "{}", ran.stderr);
}

#[test]
fn any_other_failure_ends_the_stream_before_an_incomplete_row_is_written() {
    let failures = [
        What::Status(500, "[]".into(), "application/json"),
        What::Empty200,
        What::Status(200, "{}".into(), "application/json"),
        What::Status(200, "[]".into(), "application/json"),
        What::TruncatedJson,
    ];
    for path in ["email_campaign_summaries", "/emails/activities/", "/v3/emails/"] {
        for what in failures.clone() {
            // A first page of summaries without rows means that nothing was sent.
            if path.starts_with("email") && matches!(&what, What::Status(200, body, _) if body == "{}") {
                continue;
            }
            let fake = fake();
            fake.fault(Fault::always(path, what.clone()));
            let ran = tap_with(&fake, &json!({"max_retries": 1}), None, Some(&only(&[STREAM])));
            assert_eq!(ran.code, Some(1), "{path} {what:?} {}", ran.stderr);
            let truth = sorted(truth(&fake));
            let written = sorted(ran.records(STREAM));
            assert!(written.iter().all(|row| truth.contains(row)), "{path} {what:?}: {written:?}");
            assert!(ran.last_state()["bookmarks"][STREAM]["replication_key_value"].is_null(), "{path} {what:?}");
        }
    }
}

#[test]
fn failures_that_pass_are_retried() {
    let fake = fake();
    for path in ["email_campaign_summaries", "/emails/activities/", "/v3/emails/"] {
        fake.fault(Fault::once(path, What::Status(503, String::new(), "text/html")));
        fake.fault(Fault::once(path, What::Status(200, "{}".into(), "application/json")));
    }
    let ran = read(&fake, None);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(sorted(ran.records(STREAM)), sorted(truth(&fake)));
}

#[test]
fn an_odd_value_of_a_detail_becomes_null_with_a_warning_that_has_the_id() {
    let fake = fake();
    let id = {
        let mut account = fake.account();
        account.campaigns.truncate(1);
        account.campaigns[0].activities[0].id.to_string()
    };
    let body = json!({"campaign_activity_id": id, "subject": "Kept", "contact_list_ids": "none", "segment_ids": [1, "x", null],
        "role": "primary_email", "format_type": 5, "html_content": "<p>"});
    let what = What::Status(200, body.to_string(), "application/json");
    fake.fault(Fault::always("/emails/activities/", what));
    let ran = read(&fake, None);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let row = &ran.records(STREAM)[0];
    assert_eq!(
        (&row["subject"], &row["segment_ids"], row.get("contact_list_ids")),
        (&json!("Kept"), &json!([1]), None)
    );
    for field in ["contact_list_ids", "segment_ids"] {
        let warnings = warnings(&ran, field);
        assert!(warnings.len() == 1 && warnings[0].contains(&id), "{}", ran.stderr);
    }
}

#[test]
fn details_are_requested_once_a_run_for_all_streams() {
    let fake = fake();
    let ran = tap(&fake, &json!({"activity_route": "campaigns"}), None);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let mut asked: Vec<String> =
        fake.api_calls().into_iter().map(|call| format!("{}?{}", call.path, call.query)).collect();
    asked.retain(|target| target.contains("/emails") || target.contains("summaries"));
    let distinct: BTreeSet<&String> = asked.iter().collect();
    let again: Vec<&String> =
        asked.iter().filter(|target| asked.iter().filter(|other| other == target).count() > 1).collect();
    assert_eq!(again, Vec::<&String>::new());
    assert!(distinct.len() > 50);
}

#[test]
fn all_contacts_are_written_before_the_first_detail_is_requested() {
    let account = Account::generate(12, Size { contacts: 200, lists: 3, campaigns: 60 });
    let fake = Fake::start_with(account, Switches::long_lived());
    let ran = tap_with(&fake, &json!({"page_size": 50}), None, Some(&only(&["contacts", STREAM])));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let calls = fake.api_calls();
    let first_detail = calls.iter().position(|call| call.path.starts_with("/v3/emails/")).unwrap();
    let last_contacts = calls.iter().rposition(|call| call.path == "/v3/contacts").unwrap();
    assert!(last_contacts < first_detail);
    let order: Vec<&str> =
        ran.messages.iter().filter(|m| m["type"] == "RECORD").map(|m| m["stream"].as_str().unwrap()).collect();
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(sorted(ran.records(STREAM)), sorted(truth(&fake).iter().map(without_nulls)));
}

#[test]
fn campaigns_that_slip_between_pages_are_read_all_the_same() {
    let fake = fake();
    let before: BTreeSet<String> = fake.account().campaigns.iter().map(|c| c.id.to_string()).collect();
    let mut left = 4;
    fake.before_call(Box::new(move |target, account| {
        if left > 0 && target.contains("/emails?") && target.contains("next=") {
            left -= 1;
            // One is removed and another added, so that the count stays the same.
            account.campaigns.remove(0);
            account.send_campaign("Sent meanwhile", &[]);
        }
    }));
    let ran = tap_with(&fake, &json!({"page_size": 5}), None, Some(&only(&[STREAM])));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let now: BTreeSet<String> = fake.account().campaigns.iter().map(|c| c.id.to_string()).collect();
    let read: BTreeSet<String> = ids(&ran).into_iter().collect();
    assert_eq!(before.intersection(&now).filter(|id| !read.contains(*id)).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(now.difference(&before).count() == 4 && ran.stderr.contains("reading it again"), "{}", ran.stderr);
}

/// What happens to the campaigns, which are given in the order of the summaries, before the second page of these is read.
type Moves = fn(&mut Account, &[Id]);

/// The newest one is gone, and what stood below it slips onto the page that was read already.
fn first_is_gone(account: &mut Account, sent: &[Id]) {
    account.campaigns.retain(|campaign| campaign.id != sent[0]);
}

/// The oldest one is sent again, and slips onto the first page itself.
fn last_is_sent_again(account: &mut Account, sent: &[Id]) {
    let now = account.now();
    let last = account.campaigns.iter_mut().find(|campaign| campaign.id == sent[sent.len() - 1]).unwrap();
    last.activities[0].sent_at = Some(now);
}

/// The ids of the sent campaigns, in the order of the summaries.
fn summarised(fake: &Fake) -> Vec<Id> {
    let account = fake.account();
    let mut sent: Vec<_> = account.campaigns.iter().filter_map(|c| Some((c.last_sent()?, c.id.clone()))).collect();
    sent.sort();
    sent.into_iter().rev().map(|(_, id)| id).collect()
}

/// Lets summaries slip between the first two pages. Each campaign has rows, and none may be missed.
fn move_summaries(fake: &Fake, moves: Moves) {
    let sent = summarised(fake);
    let mut is_over = false;
    fake.before_call(Box::new(move |target, account| {
        if target.contains("summaries?next=") && !std::mem::replace(&mut is_over, true) {
            moves(account, &sent);
        }
    }));
}

#[test]
fn counts_that_slip_between_pages_are_read_all_the_same() {
    for (moves, what) in [(first_is_gone as Moves, "is gone"), (last_is_sent_again, "is sent again")] {
        let fake = fake();
        fake.account().campaigns.retain(|campaign| campaign.last_sent().is_some());
        move_summaries(&fake, moves);
        let ran = tap_with(&fake, &json!({"page_size": 5}), None, Some(&only(&[STREAM])));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let read = sorted(ran.records(STREAM));
        let lost: Vec<String> =
            sorted(truth(&fake)).into_iter().filter(|row| read.binary_search(row).is_err()).collect();
        assert_eq!(lost, Vec::<String>::new(), "{what}");
    }
}

#[test]
fn activity_of_an_unlisted_campaign_is_read_when_its_summary_slips() {
    let fake = fake();
    {
        let sent = summarised(&fake);
        for campaign in &mut fake.account().campaigns {
            campaign.unlisted = campaign.id == sent[sent.len() - 1];
        }
    }
    move_summaries(&fake, last_is_sent_again);
    let more = json!({"page_size": 5, "activity_route": "campaigns"});
    let details = "contact_activity_details";
    let ran = tap_with(&fake, &more, None, Some(&only(&[details])));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let unlisted = fake.account().campaigns.iter().find(|campaign| campaign.unlisted).unwrap().id.to_string();
    let of_it = |row: &&Value| row["campaign_id"] == *unlisted;
    let expected = fake.account().truth(details).iter().filter(of_it).count();
    assert!(expected > 0);
    assert_eq!(ran.records(details).iter().filter(of_it).count(), expected);
}

#[test]
fn summaries_at_rest_are_read_once() {
    let fake = fake();
    let pages = summarised(&fake).len().div_ceil(5);
    let read = || {
        fake.forget_calls();
        let ran = tap_with(&fake, &json!({"page_size": 5}), None, Some(&only(&[STREAM])));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(warnings(&ran, "changed").is_empty() && ran.last_state()["bookmarks"][STREAM] != json!(null));
        calls(&fake)[1]
    };
    assert!(pages > 3);
    assert_eq!(read(), pages);
    // A campaign that was sent just now may have no counts yet, and a removed one may never have been sent.
    let index = fake.account().campaigns.iter().position(|campaign| campaign.status == "Draft").unwrap();
    let made_at = std::mem::replace(&mut fake.account().campaigns[index].updated_at, fake.now() - TimeDelta::hours(1));
    fake.account().campaigns[index].status = "Done";
    assert_eq!(read(), pages);
    // One that was sent long ago and never gets counts is looked for in one more pass.
    fake.account().campaigns[index].updated_at = made_at;
    assert_eq!(read(), 2 * pages);
}

/// A campaign that was sent long ago and never gets counts; the number of pages of summaries.
fn lacking_a_summary() -> (Fake, usize) {
    let fake = fake();
    fake.account().campaigns.iter_mut().find(|campaign| campaign.status == "Draft").unwrap().status = "Done";
    let pages = summarised(&fake).len().div_ceil(5);
    (fake, pages)
}

#[test]
fn summaries_are_read_again_only_while_that_takes_less_than_half_of_the_calls_left() {
    let (fake, pages) = lacking_a_summary();
    let catalog = without(&[&["campaign_activities"], &EMAIL]);
    let with_most = |most: usize| {
        fake.forget_calls();
        let ran = tap_with(&fake, &json!({"page_size": 5, "max_requests": most}), None, Some(&catalog));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(ran.records(STREAM).len(), fake.account().campaigns.len());
        ran
    };
    with_most(1000);
    let twice = fake.api_calls().len();
    let ran = with_most(twice + pages + 1);
    assert!(calls(&fake)[1] == 2 * pages && warnings(&ran, "summaries").is_empty(), "{}", ran.stderr);
    let ran = with_most(twice + pages);
    assert_eq!(calls(&fake)[1], pages);
    assert_eq!(warnings(&ran, "more than half of those left").len(), 1, "{}", ran.stderr);
    assert!(ran.last_state()["bookmarks"][STREAM]["replication_key_value"].is_null(), "{}", ran.last_state());
}

#[test]
fn counts_stay_when_the_service_refuses_them_the_second_time() {
    for status in [400, 403, 404] {
        let (fake, pages) = lacking_a_summary();
        let what = What::Status(status, "[]".into(), "application/json");
        fake.fault(Fault { skip: pages, ..Fault::always("email_campaign_summaries", what) });
        let ran = tap_with(&fake, &json!({"page_size": 5}), None, Some(&only(&[STREAM])));
        assert_eq!(ran.code, Some(0), "{status} {}", ran.stderr);
        assert_eq!(sorted(ran.records(STREAM)), sorted(truth(&fake)), "{status}");
        // The plan has tried, and the read does not try again.
        assert_eq!(calls(&fake)[1], pages + 1, "{status}");
        assert_eq!(warnings(&ran, "refuses to list them again").len(), 1, "{status} {}", ran.stderr);
        assert!(ran.last_state()["bookmarks"][STREAM]["replication_key_value"].is_null(), "{}", ran.last_state());
    }
}

#[test]
fn an_interrupted_read_continues_after_the_last_written_campaign() {
    let fake = fake();
    let (mut state, mut read, mut runs) = (None, Vec::new(), 0);
    loop {
        fake.forget_calls();
        let ran = tap_with(&fake, &json!({"max_requests": 25}), state.as_ref(), Some(&only(&[STREAM])));
        runs += 1;
        read.extend(ran.records(STREAM));
        let last = ran.last_state();
        let bookmark = &last["bookmarks"][STREAM];
        if ran.code == Some(0) {
            assert!(bookmark["replication_key_value"].is_string());
            for key in ["resume_since", "resume_until", "resume_after"] {
                assert_eq!(bookmark[key], "", "{last}");
            }
            break;
        }
        assert_eq!(ran.code, Some(4), "{}", ran.stderr);
        assert_eq!(bookmark["replication_key_value"], Value::Null);
        assert_eq!(bookmark["resume_after"], read.last().unwrap()["campaign_id"]);
        assert!(bookmark["resume_until"].is_string() && bookmark["resume_since"] == "", "{last}");
        if runs == 1 {
            // A change of a campaign that is already written comes with the next run.
            let mut account = fake.account();
            let now = account.now() + TimeDelta::seconds(1);
            let id = read[0]["campaign_id"].as_str().unwrap();
            let campaign = account.campaigns.iter_mut().find(|campaign| *campaign.id == *id).unwrap();
            campaign.name = "Renamed meanwhile".into();
            campaign.updated_at = now;
        }
        state = Some(last);
        assert!(runs < 10);
    }
    assert!(runs > 2, "{runs}");
    let ids: Vec<&str> = read.iter().map(|row| row["campaign_id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b));
    assert_eq!(ids.len(), fake.account().campaigns.len());
    let first = ids[0].to_owned();
    assert_eq!(sorted(read[1..].to_vec()), sorted(truth(&fake).into_iter().filter(|row| row["campaign_id"] != first)));
    let last = tap_with(&fake, &json!({}), Some(&state_of(&fake, &state.unwrap())), Some(&only(&[STREAM])));
    assert!(self::ids(&last).contains(&first), "{}", last.stderr);
}

/// The state after one more run.
fn state_of(fake: &Fake, state: &Value) -> Value {
    tap_with(fake, &json!({}), Some(state), Some(&only(&[STREAM]))).last_state()
}

#[test]
fn the_plan_counts_the_details_and_says_how_to_save_them() {
    let account = Account::generate(13, Size { contacts: 5, lists: 3, campaigns: 150 });
    let fake = Fake::start_with(account, Switches { per_day: 100_000, ..Switches::long_lived() });
    let ran = read(&fake, None);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let planned = |ran: &Ran| -> usize {
        let line = ran.stderr.lines().find(|line| line.contains("plan")).unwrap_or_else(|| panic!("{}", ran.stderr));
        let calls = line.split("about ").nth(1).unwrap().split(' ').next().unwrap();
        calls.replace(',', "").parse().unwrap()
    };
    let made = fake.api_calls().len();
    // A campaign that is unknown by its id takes one call less.
    assert!(planned(&ran).abs_diff(made) <= made / 10, "{} for {made}", planned(&ran));
    assert!(ran.stderr.contains("deselect its fields campaign_activities, subject"), "{}", ran.stderr);
    fake.forget_calls();
    let fewer = tap_with(&fake, &json!({}), None, Some(&without(&[&["campaign_activities"], &EMAIL])));
    assert!(planned(&fewer).abs_diff(fake.api_calls().len()) <= 1 && !fewer.stderr.contains("deselecting"));
}
