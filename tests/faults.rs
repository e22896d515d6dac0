//! What a run does when the service, the network or the selection is not at its plainest.

mod fake;
mod tap;

use fake::account::Size;
use fake::{Account, Fake, Fault, What};
use serde_json::json;
use tap::{only, sorted, tap, tap_with, without_nulls};

fn fake() -> Fake {
    Fake::start(Account::generate(11, Size { contacts: 40, lists: 4, campaigns: 6 }))
}

/// The listings alone, so that a run makes few calls.
const LISTINGS: [&str; 3] = ["contact_lists", "email_campaigns", "contacts"];

#[test]
fn what_passes_by_itself_leaves_no_trace_in_the_data() {
    for what in [
        What::Status(500, String::new(), "text/plain"),
        What::Status(502, "<html>bad gateway</html>".into(), "text/html"),
        What::Throttled,
        What::Refuse,
        What::CutBody,
        What::TruncatedJson,
        What::Empty200,
        What::Html200,
        What::CutGzip,
        What::Unauthorized,
    ] {
        let fake = fake();
        let name = format!("{what:?}");
        fake.fault(Fault { path: "/contacts?".into(), skip: 0, times: 1, what });
        let ran = tap_with(&fake, &json!({"page_size": 15}), None, Some(&only(&LISTINGS)));
        assert_eq!(ran.code, Some(0), "{name}: {}", ran.stderr);
        let truth = fake.account().truth("contacts");
        assert_eq!(sorted(ran.records("contacts")), sorted(truth.iter().map(without_nulls)), "{name}");
    }
}

#[test]
fn what_does_not_pass_ends_the_run_with_its_code_and_one_critical_line() {
    for (what, code, told) in [
        (What::Status(500, String::new(), "text/plain"), 1, "500"),
        (What::QuotaExceeded, 4, "00:00 UTC"),
        (What::Unauthorized, 3, "access token"),
        (What::Forbidden, 3, "contacts:read"),
        (What::Redirect("https://example.com/".into()), 1, "redirect"),
        (What::NextLink("https://example.com/v3/contacts?cursor=x".into()), 1, "next link leads away"),
        (What::LoopingLink, 1, "next link leads back"),
    ] {
        let fake = fake();
        let name = format!("{what:?}");
        fake.fault(Fault { path: "/contacts?".into(), skip: 0, times: usize::MAX, what });
        let ran = tap_with(&fake, &json!({"max_retries": 1, "page_size": 15}), None, Some(&only(&LISTINGS)));
        assert_eq!(ran.code, Some(code), "{name}: {}", ran.stderr);
        assert_eq!(ran.stderr.lines().filter(|l| l.starts_with("CRITICAL")).count(), 1, "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains(told), "{name}: {}", ran.stderr);
        assert!(ran.last_state()["bookmarks"]["contacts"].is_null(), "{name}");
        fake.violations();
    }
}

#[test]
fn deselected_fields_leave_schema_and_records() {
    let fake = fake();
    let mut catalog = only(&LISTINGS);
    catalog["streams"][2]["metadata"] = json!([
        {"breadcrumb": [], "metadata": {"selected": true}},
        {"breadcrumb": ["properties", "last_name"], "metadata": {"selected": false}},
        {"breadcrumb": ["properties", "contact_id"], "metadata": {"selected": false}},
        {"breadcrumb": ["properties", "email_address", "properties", "address"], "metadata": {"selected": false}},
    ]);
    let ran = tap_with(&fake, &json!({}), None, Some(&catalog));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let schema = ran.messages.iter().find(|m| m["type"] == "SCHEMA" && m["stream"] == "contacts").unwrap();
    assert!(schema["schema"]["properties"]["last_name"].is_null());
    assert!(schema["schema"]["properties"]["email_address"]["properties"]["address"].is_null());
    let truth = fake.account().truth("contacts").into_iter().map(|mut contact| {
        contact.as_object_mut().unwrap().remove("last_name");
        if let Some(email) = contact["email_address"].as_object_mut() {
            email.remove("address");
        }
        without_nulls(&contact)
    });
    assert_eq!(sorted(ran.records("contacts")), sorted(truth));
}

#[test]
fn a_run_out_of_requests_goes_on_where_it_stopped() {
    let fake = fake();
    let mut state = None;
    let mut rows = Vec::new();
    for _ in 0..20 {
        let ran =
            tap(&fake, &json!({"max_requests": 30, "refresh_token": fake.tokens().refresh_token}), state.as_ref());
        rows.extend(ran.records("contact_activity_details"));
        state = Some(ran.last_state());
        if ran.code == Some(0) {
            break;
        }
        assert_eq!(ran.code, Some(4), "{}", ran.stderr);
    }
    let truth = fake.account().truth("contact_activity_details");
    let (mut read, truth) = (sorted(rows), sorted(truth.iter().map(without_nulls)));
    read.dedup();
    assert_eq!(read, truth);
    assert!(state.unwrap()["currently_syncing"].is_null());
}
