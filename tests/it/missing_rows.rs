//! Rows that the service does not give for a time: the run says so, and a later run reads them.

use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::TimeDelta;
use fake::account::Size;
use fake::{Account, Fake, Fault, Switches, What};
use serde_json::{Value, json};

use crate::activity::start;
use crate::tap::{REPORTS, Ran, only, sorted, tap_with, truth, without_nulls};

fn refuse(fake: &Fake, path: &str) {
    let what =
        What::Status(403, json!({"error_key": "forbidden", "error_message": "no"}).to_string(), "application/json");
    fake.fault(Fault::always(path, what));
}

/// Renames a field in the first rows of an answer. `how_many` gets the number of rows with the field.
fn spoil(answer: &mut fake::Answer, field: &str, how_many: impl Fn(usize) -> usize) {
    let body = String::from_utf8(std::mem::take(&mut answer.body)).unwrap();
    let key = format!("\"{field}\":");
    answer.body = body.replacen(&key, "\"lost\":", how_many(body.matches(&key).count())).into_bytes();
}

fn heal(fake: &Fake) {
    fake.heal();
    fake.before_call(Box::new(|_, _| {}));
    fake.before_answer(Box::new(|_, _| {}));
}

fn bookmark(ran: &Ran, stream: &str) -> Value {
    ran.last_state()["bookmarks"][stream]["replication_key_value"].clone()
}

#[test]
fn a_refused_report_is_read_completely_once_it_is_allowed() {
    for campaigns in [2, 12] {
        let fake = start(40, campaigns);
        let more = json!({"activity_route": "campaigns"});
        refuse(&fake, "/tracking/");
        let mut state = None;
        for _ in 0..2 {
            let ran = tap_with(&fake, &more, state.as_ref(), Some(&only(&REPORTS)));
            assert_eq!(ran.code, Some(3), "{}", ran.stderr);
            state = Some(ran.last_state());
        }
        heal(&fake);
        let ran = tap_with(&fake, &more, state.as_ref(), Some(&only(&REPORTS)));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        for stream in REPORTS {
            assert!(sorted(ran.records(stream)) == truth(&fake, stream), "{campaigns} {stream}");
        }
    }
}

#[test]
fn too_many_unusable_rows_stop_bookmark_and_resume_point() {
    for (route, path, field, streams) in [
        ("campaigns", "/tracking/", "contact_id", &REPORTS[..1]),
        ("campaigns", "/tracking/", "contact_id", &REPORTS[1..]),
        ("campaigns", "/tracking/", "contact_id", &REPORTS[..]),
        ("contacts", "/activity_summary", "campaign_activity_id", &REPORTS[..1]),
        ("contacts", "/activity_details", "campaign_activity_id", &REPORTS[1..]),
    ] {
        let fake = start(40, 12);
        let case = format!("{route} {path} {streams:?}");
        fake.before_answer(Box::new(move |target, answer| {
            if target.contains(path) {
                spoil(answer, field, |rows| rows / 2);
            }
        }));
        let mut more = json!({"activity_route": route});
        let ran = tap_with(&fake, &more, None, Some(&only(streams)));
        assert_eq!(ran.code, Some(1), "{case}: {}", ran.stderr);
        assert!(ran.stderr.contains("the service has changed its format"), "{case}: {}", ran.stderr);
        // The message names the first of the selected streams.
        assert!(ran.stderr.contains(&format!("CRITICAL {}: ", streams[0])), "{case}: {}", ran.stderr);
        let ran = tap_with(&fake, &more, Some(&ran.last_state()), Some(&only(streams)));
        assert_eq!(ran.code, Some(1), "{case}: {}", ran.stderr);
        // A run that stops at max_requests does not move them either.
        fake.forget_calls();
        more["max_requests"] = json!(30);
        let ran = tap_with(&fake, &more, Some(&ran.last_state()), Some(&only(streams)));
        assert_eq!(ran.code, Some(4), "{case}: {}", ran.stderr);
        heal(&fake);
        more["max_requests"] = json!(9000);
        let next = tap_with(&fake, &more, Some(&ran.last_state()), Some(&only(streams)));
        assert_eq!(next.code, Some(0), "{case}: {}", next.stderr);
        for stream in streams {
            assert!(bookmark(&ran, stream).is_null() && bookmark(&next, stream).is_string(), "{case} {stream}");
            let mut all = ran.records(stream);
            all.extend(next.records(stream));
            let mut all = sorted(all);
            all.dedup();
            assert!(truth(&fake, stream).iter().all(|row| all.binary_search(row).is_ok()), "{case} {stream}");
        }
    }
}

#[test]
fn a_run_reports_what_it_skips_even_if_it_is_interrupted() {
    let fake = start(40, 12);
    let mut all: Vec<String> = fake.account().sent_activities().iter().map(ToString::to_string).collect();
    all.sort();
    refuse(&fake, &format!("{}/tracking", all[3]));
    let ids: Vec<String> = fake.account().contacts.iter().map(|contact| contact.id.to_string()).collect();
    let named = [vec!["00000000-0000-11ef-8000-000000000000".to_owned()], ids].concat();
    for (more, what) in [
        (json!({"activity_route": "campaigns"}), "the service refuses the reports of some campaign activities"),
        (json!({"contact_ids": named}), "the service has no report for 1 of 41 contact_ids"),
    ] {
        fake.forget_calls();
        let whole = tap_with(&fake, &more, None, Some(&only(&REPORTS[1..])));
        assert_eq!(whole.code, Some(0), "{}", whole.stderr);
        let mut more = more;
        more["max_requests"] = json!(fake.api_calls().len() - 3);
        let cut = tap_with(&fake, &more, None, Some(&only(&REPORTS[1..])));
        assert_eq!(cut.code, Some(4), "{}", cut.stderr);
        for ran in [whole, cut] {
            assert_eq!(ran.stderr.matches(what).count(), 1, "{}", ran.stderr);
        }
    }
}

#[test]
fn a_refusal_after_the_first_page_is_a_failure() {
    for (route, path) in [("campaigns", "/tracking/sends?next="), ("contacts", "/activity_details?next=")] {
        let fake = start(40, 12);
        refuse(&fake, path);
        let more = json!({"activity_route": route, "page_size": 2});
        let ran = tap_with(&fake, &more, None, Some(&only(&REPORTS[1..])));
        assert_eq!(ran.code, Some(1), "{route}: {}", ran.stderr);
        assert!(!ran.stderr.contains("refuses this stream"), "{}", ran.stderr);
    }
}

#[test]
fn contacts_without_an_id_end_a_report_by_contact() {
    for (bad, code) in [(1, 0), (20, 1)] {
        let fake = start(40, 3);
        fake.before_answer(Box::new(move |target, answer| {
            if target.contains("/contacts?") && !target.contains("limit=1&") {
                spoil(answer, "contact_id", |_| bad);
            }
        }));
        let ran = tap_with(&fake, &json!({"activity_route": "contacts"}), None, Some(&only(&REPORTS)));
        assert_eq!(ran.code, Some(code), "{bad}: {}", ran.stderr);
        assert!(ran.stderr.contains(&format!("{bad} of 40 contacts")), "{}", ran.stderr);
        assert_eq!(bookmark(&ran, REPORTS[0]).is_null(), code == 1);
    }
}

/// Makes each of the first passes over the campaigns find one that the pass before did not have.
fn hide_campaigns(fake: &Fake, path: &'static str) {
    let passes = AtomicUsize::new(0);
    fake.before_call(Box::new(move |target, account| {
        let is_first_page = target.contains(path) && !target.contains("next=");
        let pass = if is_first_page { passes.fetch_add(1, Ordering::Relaxed) + 1 } else { return };
        // A campaign with a recent date causes the second pass, and an old one that appears only then the third.
        let mut campaign = account.campaigns[0].clone();
        campaign.id = format!("00000000-0000-11ef-8000-{pass:012}").as_str().into();
        campaign.activities.clear();
        campaign.status = "Draft";
        campaign.created_at = if pass == 1 { account.now() } else { campaign.created_at - TimeDelta::days(9) };
        campaign.updated_at = campaign.created_at;
        if pass == 1 {
            campaign.created_at += TimeDelta::seconds(1);
            campaign.updated_at += TimeDelta::seconds(1);
        }
        if pass <= 3 {
            account.campaigns.push(campaign);
        }
    }));
}

#[test]
fn campaigns_that_slip_between_pages_stop_the_bookmark() {
    for (streams, more) in [
        (&["email_campaigns"][..], json!({"page_size": 5})),
        (&REPORTS[..], json!({"page_size": 5, "activity_route": "campaigns"})),
    ] {
        let fake = start(40, 12);
        hide_campaigns(&fake, "/emails?");
        let ran = tap_with(&fake, &more, None, Some(&only(streams)));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let warnings: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("the last of 3 passes")).collect();
        assert_eq!(warnings.len(), 1, "{}", ran.stderr);
        heal(&fake);
        let next = tap_with(&fake, &more, Some(&ran.last_state()), Some(&only(streams)));
        for stream in streams {
            assert!(bookmark(&ran, stream).is_null() && bookmark(&next, stream).is_string(), "{stream}");
            let read = next.messages.iter().filter(|m| m["type"] == "RECORD" && m["stream"] == **stream).count();
            assert_eq!(read, fake.account().truth(stream).len(), "{stream}");
        }
    }
}

#[test]
fn a_campaign_whose_details_are_refused_is_skipped_with_a_warning() {
    let fake = start(40, 12);
    let campaign = {
        let account = fake.account();
        let sent: Vec<_> = account.campaigns.iter().filter(|campaign| campaign.last_sent().is_some()).collect();
        sent[1].clone()
    };
    refuse(&fake, &format!("/emails/{}", &*campaign.id));
    let ran = tap_with(&fake, &json!({"activity_route": "campaigns"}), None, Some(&only(&REPORTS)));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("WARNING 1 sent campaigns are listed but "), "{}", ran.stderr);
    let is_refused = |row: &Value| campaign.activities.iter().any(|a| row["campaign_activity_id"] == json!(&*a.id));
    for stream in REPORTS {
        let rest = fake.account().truth(stream).into_iter().filter(|row| !is_refused(row));
        assert!(sorted(ran.records(stream)) == sorted(rest.map(|row| without_nulls(&row))), "{stream}");
    }
    // If all are refused, the stream is.
    let fake = start(40, 12);
    refuse(&fake, "/emails/");
    let ran = tap_with(&fake, &json!({"activity_route": "campaigns"}), None, Some(&only(&REPORTS)));
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
}

#[test]
fn a_list_that_is_read_twice_is_written_as_last_read() {
    let account = Account::generate(21, Size { contacts: 3, lists: 40, campaigns: 0 });
    let fake = Fake::start_with(account, Switches::long_lived());
    let is_over = AtomicUsize::new(0);
    fake.before_call(Box::new(move |target, account| {
        if target.contains("/contact_lists?cursor") && is_over.fetch_add(1, Ordering::Relaxed) == 0 {
            // One list of the first page moves to the end, and another one gets a new name.
            let mut lists: Vec<_> = account.lists.iter_mut().filter(|list| !list.sms).collect();
            lists.sort_by_key(|list| list.id.clone());
            lists[0].id = "ffffffff-0000-11ef-8000-000000000000".into();
            lists[0].created_at = chrono::Utc::now();
            lists[1].name = "Renamed meanwhile".into();
        }
    }));
    let ran = tap_with(&fake, &json!({"page_size": 5}), None, Some(&only(&["contact_lists"])));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("reading it again"), "{}", ran.stderr);
    let renamed = |list: &Value| list["name"] == "Renamed meanwhile";
    assert_eq!(ran.records("contact_lists").into_iter().filter(renamed).count(), 1);
}
