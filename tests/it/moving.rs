//! The account changes while it is read: pages are numbered views of a set that moves.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fake::account::Size;
use fake::{Account, Case, Fake, Order, Switches};
use serde_json::{Value, json};

use crate::merge::is_at_rest;
use crate::tap::{Ran, only, sorted, tap, tap_with, without_nulls};

fn fake(order: Order) -> Fake {
    let account = Account::generate(21, Size { contacts: 240, lists: 3, campaigns: 4 });
    Fake::start_with(account, Switches { rotating: false, contacts_order: order, ..Switches::default() })
}

fn ids(ran: &Ran) -> BTreeSet<String> {
    ran.records("contacts").iter().map(|c| c["contact_id"].as_str().unwrap().to_owned()).collect()
}

/// The contacts of a status, as the account has them.
fn of_status(fake: &Fake, status: &str) -> BTreeSet<String> {
    let account = fake.account();
    account.contacts.iter().filter(|c| status == "all" || c.status() == status).map(|c| c.id.to_string()).collect()
}

/// Deletes, renames, unsubscribes and adds contacts before each later page, this many times.
fn stir(fake: &Fake, mut times: usize) {
    let mut random = fastrand::Rng::with_seed(times as u64);
    fake.before_call(Box::new(move |target, account| {
        if times > 0 && target.contains("/contacts?cursor") {
            times -= 1;
            for _ in 0..3 {
                let one = random.usize(..account.contacts.len());
                match random.u32(..4) {
                    0 => account.delete(one),
                    1 => account.rename(one, "Renamed meanwhile"),
                    2 => account.unsubscribe(one),
                    _ => drop(account.add_contact()),
                }
            }
        }
    }));
}

#[test]
fn whoever_was_there_throughout_is_read() {
    for order in [Order::Scrambled, Order::UpdatedDesc, Order::CreatedDesc] {
        for status in ["all", "active"] {
            let fake = fake(order);
            let before = of_status(&fake, status);
            stir(&fake, 14);
            let more = json!({"page_size": 20, "contact_status": status});
            let ran = tap_with(&fake, &more, None, Some(&only(&["contacts"])));
            assert_eq!(ran.code, Some(0), "{}", ran.stderr);
            let throughout: BTreeSet<String> = before.intersection(&of_status(&fake, status)).cloned().collect();
            assert!(throughout.len() > 100 && (status == "all" || throughout.len() < before.len()));
            let read = ids(&ran);
            assert_eq!(throughout.difference(&read).collect::<Vec<_>>(), Vec::<&String>::new(), "{order:?} {status}");
            // Nobody is written twice, however often the listing was read.
            assert_eq!(ran.records("contacts").len(), read.len());
            // What came up meanwhile comes with the next run at the latest.
            fake.before_call(Box::new(|_, _| {}));
            let next = tap_with(&fake, &more, Some(&ran.last_state()), Some(&only(&["contacts"])));
            let known: BTreeSet<String> = read.union(&ids(&next)).cloned().collect();
            assert!(of_status(&fake, status).is_subset(&known), "{order:?} {status}");
        }
    }
}

#[test]
fn an_incremental_run_reads_a_moving_set_as_well() {
    let fake = fake(Order::UpdatedDesc);
    let more = json!({"page_size": 10});
    let first = tap_with(&fake, &more, None, Some(&only(&["contacts"])));
    let changed: Vec<String> = {
        let mut account = fake.account();
        let ids: Vec<String> = account.contacts.iter().take(80).map(|c| c.id.to_string()).collect();
        for id in &ids {
            account.rename(id, "Renamed before");
        }
        ids
    };
    stir(&fake, 5);
    let second = tap_with(&fake, &more, Some(&first.last_state()), Some(&only(&["contacts"])));
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    let read = ids(&second);
    assert!(changed.iter().all(|id| read.contains(id)));
}

/// Deletes an active contact before each later page.
fn shrink(fake: &Fake) {
    let mut next = 0;
    fake.before_call(Box::new(move |target, account| {
        if target.contains("/contacts?cursor") {
            while account.contacts[next].status() != "active" {
                next += 1;
            }
            account.delete(next);
        }
    }));
}

/// The page that a call asks for, if it is a later page of the contacts.
fn later_page(target: &str) -> Option<usize> {
    let cursor = STANDARD.decode(target.split("/contacts?cursor=").nth(1)?).unwrap();
    let cursor = String::from_utf8(cursor).unwrap();
    cursor.split("next=").nth(1)?.split('&').next()?.parse().ok()
}

/// Lets contacts slip in three passes, of which only the third brings a certain one. Needs `Order::CreatedDesc`.
fn hide_until_the_third_pass(fake: &Fake, page_size: usize) {
    let newest = chrono::Utc::now() - chrono::TimeDelta::days(400);
    for (contact, hours) in fake.account().contacts.iter_mut().zip(0..) {
        contact.created_at = newest - chrono::TimeDelta::hours(hours);
    }
    let (mut passes, mut hidden) = (0, None);
    fake.before_call(Box::new(move |target, account| {
        let Some(page) = later_page(target) else { return };
        passes += usize::from(page == 2);
        // The listing: the newest come first, and so they stand in the account.
        let is_active = |at: &usize| account.contacts[*at].status() == "active";
        let active: Vec<usize> = (0..account.contacts.len()).filter(is_active).collect();
        let begin = (page - 1) * page_size;
        if passes == 1 {
            // The first contact of each page slips onto the page before it.
            if page == 4 {
                hidden = Some(active[begin]);
            }
            account.delete(active[0]);
        } else if passes == 2
            && let Some(place) = active.iter().position(|at| Some(*at) == hidden)
            && (begin..begin + page_size).contains(&place)
        {
            active[..=place - begin].iter().for_each(|at| account.delete(*at));
        }
    }));
}

/// What one contact does while another leaves the listing, so that the count stays as it was.
type Enters = fn(&mut Account, usize);

/// Contacts become active in ways that the service dates.
const ENTERS: [(&str, Enters); 2] = [
    ("is added", |account, _| drop(account.add_contact())),
    ("subscribes again", |account, at| {
        let now = account.now();
        let email = account.contacts[at].email.as_mut().unwrap();
        (email.permission, email.updated_at, email.opt_out_date) = ("explicit", now, None);
    }),
];

#[test]
fn who_slips_while_another_enters_is_read() {
    for order in [Order::Scrambled, Order::UpdatedDesc, Order::CreatedDesc] {
        for (what, enters) in ENTERS {
            let mut slipped = 0;
            for seed in 0..8 {
                let fake = fake(order);
                let before = of_status(&fake, "active");
                let mut random = fastrand::Rng::with_seed(seed);
                let mut is_over = false;
                fake.before_call(Box::new(move |target, account| {
                    if target.contains("/contacts?cursor") && !std::mem::replace(&mut is_over, true) {
                        let mut pick = |status| {
                            let is = |at: &usize| account.contacts[*at].status() == status;
                            let found: Vec<usize> = (0..account.contacts.len()).filter(is).collect();
                            found[random.usize(..found.len())]
                        };
                        let (leaves, comes) = (pick("active"), pick("unsubscribed"));
                        account.contacts[leaves].deleted_at = Some(account.now().date_naive());
                        enters(account, comes);
                    }
                }));
                let more = json!({"page_size": 20, "contact_status": "active"});
                let ran = tap_with(&fake, &more, None, Some(&only(&["contacts"])));
                assert_eq!(ran.code, Some(0), "{}", ran.stderr);
                let throughout: BTreeSet<String> = before.intersection(&of_status(&fake, "active")).cloned().collect();
                slipped += throughout.difference(&ids(&ran)).count();
            }
            assert_eq!(slipped, 0, "{order:?}: one contact leaves while another {what}");
        }
    }
}

#[test]
fn an_opt_out_that_slips_is_read() {
    let fake = fake(Order::UpdatedDesc);
    let more = json!({"page_size": 10});
    let first = tap_with(&fake, &more, None, Some(&only(&["contacts"])));
    let opted_out: BTreeSet<String> = {
        let mut account = fake.account();
        let with_email = account.contacts.iter().take(40).filter(|c| c.email.is_some());
        let ids: BTreeSet<String> = with_email.map(|c| c.id.to_string()).collect();
        for id in &ids {
            account.unsubscribe(id);
        }
        ids
    };
    let throughout = opted_out.clone();
    let mut is_over = false;
    fake.before_call(Box::new(move |target, account| {
        let cursor = target.split("cursor=").nth(1).map(|c| STANDARD.decode(c).unwrap());
        let in_opt_outs = cursor.is_some_and(|c| String::from_utf8(c).unwrap().contains("optout_after"));
        if in_opt_outs && !std::mem::replace(&mut is_over, true) {
            // The one on top leaves, and another opts out, who is last in this order.
            let mut ids: Vec<&String> = opted_out.iter().collect();
            ids.sort_by_key(|id| account.contacts.iter().find(|c| *c.id == ***id).unwrap().updated_at);
            let at = account.contacts.iter().position(|c| *c.id == **ids[ids.len() - 1]).unwrap();
            account.contacts[at].email.as_mut().unwrap().opt_out_date = None;
            let oldest = account.contacts.iter().enumerate().skip(40).filter(|(_, c)| c.email.is_some());
            let oldest = oldest.min_by_key(|(_, c)| c.updated_at).unwrap().0;
            account.unsubscribe(oldest);
        }
    }));
    let second = tap_with(&fake, &more, Some(&first.last_state()), Some(&only(&["contacts"])));
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    let read = ids(&second);
    assert_eq!(throughout.difference(&read).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn a_list_that_slips_is_read() {
    let account = Account::generate(21, Size { contacts: 3, lists: 40, campaigns: 0 });
    let fake = Fake::start_with(account, Switches { rotating: false, ..Switches::default() });
    let mut is_over = false;
    fake.before_call(Box::new(move |target, account| {
        if target.contains("/contact_lists?cursor") && !std::mem::replace(&mut is_over, true) {
            // The first of the e-mail lists, which are sorted by id, makes place for one at their end.
            let first = account.lists.iter_mut().filter(|list| !list.sms).min_by_key(|list| list.id.clone()).unwrap();
            first.id = "ffffffff-0000-11ef-8000-000000000000".into();
            first.created_at = chrono::Utc::now();
        }
    }));
    let ran = tap_with(&fake, &json!({"page_size": 5}), None, Some(&only(&["contact_lists"])));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let lists = ran.records("contact_lists");
    let read: BTreeSet<&str> = lists.iter().map(|list| list["list_id"].as_str().unwrap()).collect();
    assert!(fake.account().lists.iter().all(|list| read.contains(&*list.id)));
    assert_eq!(read.len(), lists.len());
}

#[test]
fn a_listing_at_rest_costs_no_call_more() {
    let fake = fake(Order::UpdatedDesc);
    let more = json!({"page_size": 20});
    let calls = |fake: &Fake| fake.api_calls().iter().filter(|call| call.path == "/v3/contacts").count();
    let first = tap_with(&fake, &more, None, Some(&only(&["contacts"])));
    // The plan asks for the count.
    assert_eq!(calls(&fake), 240 / 20 + 1);
    fake.forget_calls();
    let at = |seconds: i64| chrono::Utc::now() - chrono::TimeDelta::seconds(seconds);
    for contact in &mut fake.account().contacts[..60] {
        contact.updated_at = at(10);
    }
    tap_with(&fake, &more, Some(&first.last_state()), Some(&only(&["contacts"])));
    assert_eq!(calls(&fake), 60 / 20 + 1);
}

#[test]
fn a_listing_that_moves_in_three_passes_is_read_completely_by_the_next_run() {
    for full_refresh_days in [0, 1] {
        let fake = fake(Order::CreatedDesc);
        let before = of_status(&fake, "active").len();
        hide_until_the_third_pass(&fake, 10);
        let more = json!({
            "page_size": 10, "contact_status": "active", "contacts_full_refresh_days": full_refresh_days,
        });
        let ran = tap_with(&fake, &more, None, Some(&only(&["contacts"])));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let warnings: Vec<&str> = ran.stderr.lines().filter(|l| l.starts_with("WARNING contacts: the")).collect();
        assert_eq!(warnings.len(), 1, "{}", ran.stderr);
        assert!(warnings[0].contains("changed while it was read"), "{warnings:?}");
        assert!(warnings[0].contains("the next run reads all contacts again"), "{warnings:?}");
        let left = of_status(&fake, "active");
        assert!(before > left.len());
        assert!(ran.last_state()["bookmarks"]["contacts"]["replication_key_value"].is_string());
        // The next run brings whoever slipped, and the one after it reads only what changed.
        fake.before_call(Box::new(|_, _| {}));
        let next = tap_with(&fake, &more, Some(&ran.last_state()), Some(&only(&["contacts"])));
        assert_eq!(ids(&next), left);
        let last = tap_with(&fake, &more, Some(&next.last_state()), Some(&only(&["contacts"])));
        assert!(ids(&last).len() < left.len(), "{}", last.stderr);
    }
}

#[test]
fn another_pass_is_not_made_for_half_of_the_calls_that_are_left() {
    let fake = fake(Order::Scrambled);
    shrink(&fake);
    // 240 contacts are 12 pages, and another 12 are more than half of what is left after them.
    let more = json!({"page_size": 20, "max_requests": 34});
    let ran = tap_with(&fake, &more, None, Some(&only(&["contacts"])));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("more than half of those left"), "{}", ran.stderr);
    // And the count for the plan.
    assert_eq!(fake.api_calls().iter().filter(|call| call.path == "/v3/contacts").count(), 13);
}

#[test]
fn reports_of_a_set_that_never_holds_still_are_read_again() {
    let reports = ["contact_action_summary", "contact_activity_details"];
    for route in ["contacts", "campaigns"] {
        let fake = fake(Order::CreatedDesc);
        hide_until_the_third_pass(&fake, 10);
        let more = json!({"page_size": 10, "contact_status": "active", "activity_route": route});
        let ran = tap_with(&fake, &more, None, Some(&only(&reports)));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.stderr.contains("Activity of some contacts may be missing"), "{}", ran.stderr);
        for report in reports {
            assert!(ran.last_state()["bookmarks"][report]["replication_key_value"].is_null(), "{route}");
        }
        assert!(is_at_rest(&ran.last_state()), "{route}");
        fake.before_call(Box::new(|_, _| {}));
        let next = tap_with(&fake, &more, Some(&ran.last_state()), Some(&only(&reports)));
        for report in reports {
            assert!(next.last_state()["bookmarks"][report]["replication_key_value"].is_string(), "{route}");
        }
    }
}

#[test]
fn an_account_that_never_stops_growing_gets_its_bookmark() {
    let fake = fake(Order::CreatedDesc);
    fake.before_call(Box::new(|target, account| {
        if target.contains("/contacts?cursor") {
            account.add_contact();
        }
    }));
    let before = of_status(&fake, "all");
    let ran = tap_with(&fake, &json!({"page_size": 20}), None, Some(&only(&["contacts"])));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(before.is_subset(&ids(&ran)));
    assert!(ran.last_state()["bookmarks"]["contacts"]["full_refresh_at"] != "", "{}", ran.stderr);
    // Contacts that were added are no reason for a third pass: the next run's lower bound is earlier.
    assert!(!ran.stderr.contains("WARNING contacts: the listing"), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("reading it again").count(), 1, "{}", ran.stderr);
    fake.before_call(Box::new(|_, _| {}));
    let next = tap_with(&fake, &json!({}), Some(&ran.last_state()), Some(&only(&["contacts"])));
    let known: BTreeSet<String> = ids(&ran).union(&ids(&next)).cloned().collect();
    assert_eq!(known, of_status(&fake, "all"));
}

/// Cut off after contacts slipped, a report must not go on behind those that were found.
#[test]
fn contacts_that_slipped_are_not_forgotten_over_an_interruption() {
    let fake = fake(Order::CreatedDesc);
    hide_until_the_third_pass(&fake, 10);
    let more = json!({"page_size": 10, "contact_status": "active", "activity_route": "contacts", "max_requests": 100});
    let details = only(&["contact_activity_details"]);
    let first = tap_with(&fake, &more, None, Some(&details));
    assert_eq!(first.code, Some(4), "{}", first.stderr);
    assert!(first.stderr.contains("Activity of some contacts may be missing"), "{}", first.stderr);
    fake.before_call(Box::new(|_, _| {}));
    let mut more = more;
    more["max_requests"] = json!(10_000);
    let second = tap_with(&fake, &more, Some(&first.last_state()), Some(&details));
    assert_eq!(second.code, Some(0), "{}", second.stderr);
    let left = of_status(&fake, "active");
    let truth = fake.account().truth("contact_activity_details");
    let truth = truth.iter().filter(|row| left.contains(row["contact_id"].as_str().unwrap())).map(without_nulls);
    let read = sorted(second.records("contact_activity_details"));
    assert!(sorted(truth).iter().all(|row| read.binary_search(row).is_ok()));
}

#[test]
fn a_count_that_is_wrong_costs_another_read_and_holds_nothing_up() {
    let account = Account::generate(21, Size { contacts: 60, lists: 3, campaigns: 4 });
    let switches = Switches { rotating: false, contacts_counted_too_many: 5, ..Switches::default() };
    let fake = Fake::start_with(account, switches);
    let ran = tap_with(&fake, &json!({"page_size": 20}), None, Some(&only(&["contacts"])));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("reading it again").count(), 1, "{}", ran.stderr);
    assert_eq!(ran.records("contacts").len(), 60);
    assert_eq!(fake.api_calls().iter().filter(|call| call.path.ends_with("/contacts")).count(), 2 * 3 + 1);
    assert!(ran.last_state()["bookmarks"]["contacts"]["replication_key_value"].is_string());
}

#[test]
fn rows_that_come_on_top_while_a_report_is_read_make_no_second_occurrence() {
    for route in ["contacts", "campaigns"] {
        let account = Account::generate(5, Size { contacts: 12, lists: 1, campaigns: 2 });
        let fake = Fake::start_with(account, Switches { rotating: false, ..Switches::default() });
        // One busy contact, with equal rows among its own.
        let (contact, activity) = {
            let account = fake.account();
            (account.contacts[account.case(Case::LongHistory)].id.to_string(), account.sent_activities()[0].to_string())
        };
        {
            let mut account = fake.account();
            let start = account.activities[0].at;
            for i in 0..60 {
                account.open(&contact, &activity);
                let row = account.activities.last_mut().unwrap();
                row.at = start + chrono::TimeDelta::seconds(i / 2);
            }
        }
        let before = fake.account().truth("contact_activity_details");
        let (opened, met) = ((contact.clone(), activity.clone()), Arc::new(Mutex::new(BTreeSet::new())));
        let targets = met.clone();
        fake.before_call(Box::new(move |target, account| {
            let later = target.contains("next=")
                && (target.contains(&*opened.0) || target.contains(&format!("{}/tracking/opens", opened.1)));
            let mut targets = targets.lock().unwrap();
            // Each page finds one row more on top than the page before did.
            if later && targets.insert(target.to_owned()) {
                account.open(&opened.0, &opened.1);
                account.activities.last_mut().unwrap().at -=
                    chrono::TimeDelta::seconds(60 - i64::try_from(targets.len()).unwrap());
            }
        }));
        let more = json!({"activity_route": route, "page_size": 7, "activity_lookback_days": 3650});
        let ran = tap_with(&fake, &more, None, Some(&only(&["contact_activity_details"])));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(met.lock().unwrap().len() > 3, "the listing did not grow while it was read");
        let (read, truth) = (sorted(ran.records("contact_activity_details")), sorted(before.iter().map(without_nulls)));
        let lost: Vec<&String> = truth.iter().filter(|row| read.binary_search(row).is_err()).collect();
        assert_eq!(lost, Vec::<&String>::new(), "{route}");
        let now = sorted(fake.account().truth("contact_activity_details").iter().map(without_nulls));
        let invented: Vec<&String> = read.iter().filter(|row| now.binary_search(row).is_err()).collect();
        assert_eq!(invented, Vec::<&String>::new(), "{route}");
        // What came on top is in the next run.
        let next = tap(&fake, &more, Some(&ran.last_state()));
        let mut all: Vec<Value> = ran.records("contact_activity_details");
        all.extend(next.records("contact_activity_details"));
        let mut all = sorted(all);
        all.dedup();
        assert_eq!(all, now, "{route}");
    }
}
