//! Rows that break the service's documented format: the tap reads what it can and warns about the rest.

use fake::account::Size;
use fake::{Account, Fake, Fault, Switches, What};
use serde_json::{Value, json};

use crate::tap::{Ran, only, tap_with};

/// An incremental run whose contacts are these rows, and the full run before it.
fn read(rows: &[Value]) -> (Ran, Ran) {
    let account = Account::generate(7, Size { contacts: 2, lists: 1, campaigns: 0 });
    let fake = Fake::start_with(account, Switches::long_lived());
    // With 0 days, the second run is incremental.
    let more = json!({"contacts_full_refresh_days": 0});
    let before = tap_with(&fake, &more, None, Some(&only(&["contacts"])));
    let body = json!({"contacts": rows, "contacts_count": rows.len()}).to_string();
    let what = What::Status(200, body, "application/json");
    fake.fault(Fault::always("updated_after", what));
    (tap_with(&fake, &more, Some(&before.last_state()), Some(&only(&["contacts"]))), before)
}

fn id(n: usize) -> String {
    format!("00000000-0000-11ef-8000-{n:012}")
}

/// A good row.
fn good(n: usize) -> Value {
    json!({"contact_id": id(n), "first_name": "Ann", "updated_at": "2026-01-02T03:04:05Z"})
}

fn record(ran: &Ran) -> &Value {
    let mut records = ran.messages.iter().filter(|message| message["type"] == "RECORD");
    let record = records.next().unwrap_or_else(|| panic!("no record: {}", ran.stderr));
    assert!(records.next().is_none());
    &record["record"]
}

fn warnings(ran: &Ran) -> Vec<&str> {
    ran.stderr.lines().filter(|line| line.starts_with("WARNING contacts:")).collect()
}

fn bookmark(ran: &Ran) -> Value {
    ran.last_state()["bookmarks"]["contacts"].clone()
}

#[test]
fn a_value_that_its_field_cannot_hold_becomes_null_and_the_row_stays() {
    for (field, value, becomes) in [
        ("sms_channel", json!([]), Value::Null),
        ("sms_channel", json!("none"), Value::Null),
        ("email_address", json!(["ann@example.com"]), Value::Null),
        ("notes", json!({}), Value::Null),
        ("birthday_day", json!("first"), Value::Null),
        ("created_at", json!("yesterday"), Value::Null),
        ("created_at", json!(1_700_000_000), Value::Null),
        ("deleted_at", json!(""), Value::Null),
    ] {
        let mut row = good(1);
        row[field] = value.clone();
        let (ran, _) = read(&[row]);
        assert_eq!(ran.code, Some(0), "{field} {value}: {}", ran.stderr);
        let record = record(&ran);
        assert_eq!(record.get(field).unwrap_or(&Value::Null), &becomes, "{field} {value}");
        assert_eq!((&record["contact_id"], &record["first_name"]), (&json!(id(1)), &json!("Ann")));
        let [warning] = warnings(&ran)[..] else { panic!("{field} {value}: {}", ran.stderr) };
        assert!(warning.contains(field) && warning.contains(&id(1)), "{warning}");
    }
}

#[test]
fn a_field_that_cannot_hold_its_values_is_named_once_for_all_pages() {
    let fake =
        Fake::start_with(Account::generate(7, Size { contacts: 7, lists: 1, campaigns: 0 }), Switches::long_lived());
    fake.before_answer(Box::new(|target, answer| {
        let Ok(mut body) = serde_json::from_slice::<Value>(&answer.body) else { return };
        if target.contains("/contacts?") {
            body["contacts"].as_array_mut().into_iter().flatten().for_each(|row| row["birthday_day"] = json!("first"));
            answer.body = body.to_string().into_bytes();
        }
    }));
    let ran = tap_with(&fake, &json!({"page_size": 2}), None, Some(&only(&["contacts"])));
    assert_eq!(
        ran.stderr.matches("contacts: birthday_day has values that it cannot hold").count(),
        1,
        "{}",
        ran.stderr
    );
    assert!(ran.records("contacts").len() > 4);
}

#[test]
fn a_value_with_a_clear_meaning_is_converted_without_a_warning() {
    for (field, value, becomes) in [
        ("first_name", json!(7), json!("7")),
        ("birthday_day", json!("12"), json!(12)),
        ("birthday_day", json!(""), Value::Null),
        ("taggings", json!(["t1", null, 7]), json!(["t1", "7"])),
        ("notes", Value::Null, Value::Null),
        ("company_name", json!({"a": 1}), json!(r#"{"a":1}"#)),
    ] {
        let mut row = good(1);
        row[field] = value.clone();
        let (ran, _) = read(&[row]);
        assert_eq!(ran.code, Some(0), "{field} {value}: {}", ran.stderr);
        assert_eq!(record(&ran).get(field).unwrap_or(&Value::Null), &becomes, "{field} {value}");
        assert_eq!(warnings(&ran), [""; 0], "{field} {value}");
    }
}

#[test]
fn a_custom_field_with_a_list_for_a_value_keeps_it_as_json_text() {
    let mut row = good(1);
    row["custom_fields"] = json!([
        {"custom_field_id": "f1", "value": ["a", "b"]},
        {"custom_field_id": "f2", "choice_ids": 7},
        {"custom_field_id": 3, "choice_ids": [1, null, "2"]},
        {"value": "whose?"},
        null,
    ]);
    let (ran, _) = read(&[row]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let record = record(&ran);
    assert_eq!(record["custom_fields"][0]["value"], r#"["a","b"]"#);
    assert_eq!(record["custom_fields"][2]["choice_labels"], json!(["1", "2"]));
    assert_eq!(record["custom_fields"].as_array().unwrap().len(), 4);
    let values = &record["custom_field_values"];
    assert_eq!(*values, json!({"f1": r#"["a","b"]"#, "f2": null, "3": ["1", "2"]}));
}

#[test]
fn a_row_without_a_usable_key_is_left_out_and_counted() {
    for key in [Value::Null, json!(""), json!([]), json!({"id": 1})] {
        let (ran, before) = read(&[json!({"contact_id": key, "first_name": "Nobody"}), good(1), json!([id(2)])]);
        assert_eq!(ran.code, Some(0), "{key}: {}", ran.stderr);
        assert_eq!(record(&ran)["contact_id"], id(1));
        let [first, count] = warnings(&ran)[..] else { panic!("{key}: {}", ran.stderr) };
        assert!(first.contains("contact_id missing or unusable"), "{first}");
        assert!(count.contains("2 of 3 rows were not written"), "{count}");
        assert!(
            bookmark(&ran)["replication_key_value"].as_str() >= bookmark(&before)["replication_key_value"].as_str()
        );
    }
}

#[test]
fn a_page_without_a_usable_row_ends_the_run_and_keeps_the_bookmark() {
    let (ran, before) = read(&[json!({"id": id(1)}), json!({"id": id(2)})]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("the service has changed its format"), "{}", ran.stderr);
    assert_eq!(bookmark(&ran), bookmark(&before));
}

#[test]
fn many_rows_without_a_usable_key_end_the_run_and_keep_the_bookmark() {
    let rows = |bad: usize, of: usize| {
        (0..of).map(|n| if n < bad { json!({"first_name": "Nobody"}) } else { good(n) }).collect::<Vec<_>>()
    };
    // Up to ten rows, or one in ten, are tolerated.
    for (bad, of, code) in [(10, 20, 0), (11, 109, 1), (11, 110, 0), (40, 300, 1)] {
        let (ran, before) = read(&rows(bad, of));
        assert_eq!(ran.code, Some(code), "{bad} of {of}: {}", ran.stderr);
        assert_eq!(ran.records("contacts").len(), of - bad);
        if code == 1 {
            assert!(ran.stderr.contains(&format!("{bad} of {of} rows")), "{}", ran.stderr);
            assert_eq!(bookmark(&ran), bookmark(&before), "{bad} of {of}");
        }
    }
}

#[test]
fn a_listing_that_repeats_its_rows_forever_ends_the_run() {
    let account = Account::generate(7, Size { contacts: 2, lists: 1, campaigns: 0 });
    let fake = Fake::start_with(account, Switches::long_lived());
    // Every page has the same rows and another next link.
    for n in 0..100 {
        let path = if n == 0 { "/contacts?status=all&limit=500".into() } else { format!("cursor=page{n}&") };
        let next = format!("/v3/contacts?cursor=page{}&", n + 1);
        let body = json!({"contacts": [good(1), good(2)], "_links": {"next": {"href": next}}}).to_string();
        fake.fault(Fault { path, skip: 0, times: 1, what: What::Status(200, body, "application/json") });
    }
    let ran = tap_with(&fake, &json!({}), None, Some(&only(&["contacts"])));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("CRITICAL contacts: the listing does not end"), "{}", ran.stderr);
    assert_eq!(ran.records("contacts").len(), 2);
    assert!(bookmark(&ran)["replication_key_value"].is_null());
    // Ten pages without a new row after the first; some more are fetched in the meantime.
    let pages = fake.api_calls().iter().filter(|call| call.path == "/v3/contacts").count();
    assert!((11..=14).contains(&pages), "{pages} pages");
}
