//! When all contacts are read, and when only those that changed.

use fake::account::Size;
use fake::{Account, Fake, Switches};
use serde_json::{Value, json};

use crate::tap::{Ran, only, tap_with};

/// An account with 240 contacts. The service counts `counted_too_many` more.
fn fake(counted_too_many: usize) -> Fake {
    let account = Account::generate(21, Size { contacts: 240, lists: 3, campaigns: 0 });
    let switches = Switches { contacts_counted_too_many: counted_too_many, ..Switches::long_lived() };
    Fake::start_with(account, switches)
}

fn read(fake: &Fake, more: &Value, state: Option<&Value>) -> Ran {
    let ran = tap_with(fake, more, state, Some(&only(&["contacts"])));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran
}

/// The state of a run, changed so that a complete read is due.
fn overdue(ran: &Ran) -> Value {
    let mut state = ran.last_state();
    state["bookmarks"]["contacts"]["full_refresh_at"] = json!("2020-01-01T00:00:00Z");
    state
}

fn listing_calls(fake: &Fake) -> usize {
    fake.api_calls().iter().filter(|call| call.path == "/v3/contacts").count()
}

#[test]
fn a_complete_read_that_exceeds_max_requests_is_postponed() {
    let fake = fake(0);
    let state = overdue(&read(&fake, &json!({}), None));
    fake.account().rename(3, "Renamed");
    fake.forget_calls();
    // It would take 24 calls.
    let short = read(&fake, &json!({"page_size": 10, "max_requests": 22}), Some(&state));
    assert!(short.stderr.contains("a complete read is due, but would take 23 more calls"), "{}", short.stderr);
    assert_eq!(short.records("contacts").len(), 1);
    // The changes, the opt-outs, the first page of the complete read, and the count for the plan.
    assert_eq!(listing_calls(&fake), 4);
    assert_eq!(
        short.last_state()["bookmarks"]["contacts"]["full_refresh_at"],
        state["bookmarks"]["contacts"]["full_refresh_at"]
    );
    fake.forget_calls();
    let enough = read(&fake, &json!({"page_size": 10, "max_requests": 29}), Some(&short.last_state()));
    assert!(!enough.stderr.contains("a complete read is due"), "{}", enough.stderr);
    assert_eq!(enough.records("contacts").len(), 240);
    // 24 pages, and the count for the plan.
    assert_eq!(listing_calls(&fake), 25);
}

#[test]
fn a_complete_read_of_over_half_of_the_quota_is_postponed() {
    let fake = fake(5000);
    let state = overdue(&read(&fake, &json!({}), None));
    let ran = read(&fake, &json!({"page_size": 1}), Some(&state));
    assert!(ran.stderr.contains("(over half of a day's quota)"), "{}", ran.stderr);
    assert_eq!(ran.records("contacts").len(), 0);
}

#[test]
fn a_first_read_is_not_postponed() {
    let fake = fake(5000);
    let ran = read(&fake, &json!({"page_size": 40}), None);
    assert_eq!(ran.records("contacts").len(), 240);
    assert!(!ran.stderr.contains("a complete read is due"), "{}", ran.stderr);
}

#[test]
fn a_status_filter_that_loses_changes_draws_a_warning() {
    let fake = fake(0);
    for (status, is_warned) in [("all", false), ("active", true), ("active,deleted", true)] {
        let ran = read(&fake, &json!({"contact_status": status}), None);
        let warnings = ran.stderr.matches("WARNING contacts: contact_status leaves out").count();
        assert_eq!(warnings, usize::from(is_warned), "{status}: {}", ran.stderr);
        assert!(!is_warned || ran.stderr.contains("set contact_status to all and filter on the field status"));
    }
}

#[test]
fn a_contact_that_changed_and_unsubscribed_is_written_once() {
    let fake = fake(0);
    let state = read(&fake, &json!({}), None).last_state();
    let changed = {
        let mut account = fake.account();
        let at = account.contacts.iter().position(|c| c.email.is_some()).unwrap();
        account.rename(at, "Renamed");
        account.unsubscribe(at);
        account.contacts[at].id.to_string()
    };
    fake.forget_calls();
    let ran = read(&fake, &json!({}), Some(&state));
    let records = ran.records("contacts");
    assert_eq!(records.len(), 1);
    assert_eq!((&records[0]["contact_id"], &records[0]["status"]), (&json!(changed), &json!("unsubscribed")));
    assert_eq!(listing_calls(&fake), 2);
}
