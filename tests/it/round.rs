//! A read on the contact route that takes more calls than a day has.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::merge::is_at_rest;
use crate::tap::{only, sorted, tap_with, without_nulls};
use fake::account::Size;
use fake::{Account, Fake};

/// Reads the details of an account contact by contact, with so few calls a day that it takes three days. Each day's run
/// continues from the last STATE of the day before. Panics if a contact is read twice, except for those whose calls
/// were under way when a day's calls were used up.
pub fn read_over_three_days(contacts: usize, per_day: u32, page_size: usize) {
    let fake = Fake::start(Account::generate(5, Size { contacts, lists: 2, campaigns: 4 }));
    fake.switches().per_day = per_day;
    let folder = tempfile::tempdir().unwrap();
    let more = json!({
        "activity_route": "contacts", "page_size": page_size, "token_file": folder.path().join("tokens.json"),
    });
    let catalog = only(&["contact_activity_details"]);
    let mut state: Option<Value> = None;
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    let mut rows = Vec::new();
    let mut windows = BTreeSet::new();
    let mut days = 0;
    loop {
        days += 1;
        assert!(days <= 3, "the read does not end");
        fake.set_calls_today(0);
        fake.forget_calls();
        let ran = tap_with(&fake, &more, state.as_ref(), Some(&catalog));
        for call in fake.api_calls().iter().filter(|call| call.path.contains("activity_details") && call.status == 200)
        {
            *asked.entry(call.path.clone()).or_default() += 1;
        }
        rows.extend(ran.records("contact_activity_details"));
        let now = ran.last_state();
        if ran.code == Some(0) {
            assert!(is_at_rest(&now), "{now}");
            break;
        }
        assert_eq!(ran.code, Some(4), "{}", ran.stderr);
        assert!(ran.stderr.contains("00:00 UTC") && ran.stderr.contains("last STATE"), "{}", ran.stderr);
        let bookmark = &now["bookmarks"]["contact_activity_details"];
        windows.insert((bookmark["resume_since"].to_string(), bookmark["resume_until"].to_string()));
        state = Some(now);
    }
    assert_eq!(days, 3);
    assert_eq!(windows.len(), 1, "the window does not change");
    let truth = sorted(fake.account().truth("contact_activity_details").iter().map(without_nulls));
    let written = rows.len();
    let mut unique = sorted(rows);
    unique.dedup();
    assert!(unique == truth, "{} rows were written, the account has {}", unique.len(), truth.len());
    assert_eq!(written, truth.len(), "no row is written twice");
    // Only the calls in flight at the end of a day are made again.
    let again = asked.values().filter(|times| **times > 1).count();
    assert!(asked.len() == contacts && again <= 2 * 32, "{} asked, {again} twice", asked.len());
}
