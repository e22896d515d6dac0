//! The names behind the ids on a contact: custom fields, choices, tags and lists, from definitions that are read once a run.

use fake::account::Size;
use fake::{Account, Fake, Fault, Switches, What};
use serde_json::{Value, json};

use crate::tap::{Ran, only, sorted, tap_with, without, without_nulls};

fn fake() -> Fake {
    let account = Account::generate(7, Size { contacts: 40, lists: 12, campaigns: 1 });
    Fake::start_with(account, Switches::long_lived())
}

fn contacts(fake: &Fake, more: &Value) -> Ran {
    tap_with(fake, more, None, Some(&only(&["contacts"])))
}

/// The number of calls for custom fields, tags and lists. Every run lists the e-mail lists to recognize the account.
fn calls(fake: &Fake) -> [usize; 3] {
    let calls = fake.api_calls();
    ["/v3/contact_custom_fields", "/v3/contact_tags", "/v3/contact_lists"]
        .map(|path| calls.iter().filter(|call| call.path == path).count())
}

const PATHS: [&str; 3] = ["/contact_custom_fields", "/contact_tags", "/contact_lists"];

/// The fields that each endpoint fills, in the record or in each custom field.
const FILLED: [&[&str]; 3] =
    [&["custom_field_values", "name", "label", "type", "choice_labels"], &["tag_names"], &["list_names"]];

/// The expected contacts without these fields.
fn truth_without(fake: &Fake, fields: &[&str]) -> Vec<String> {
    let rows = fake.account().truth("contacts").into_iter().map(|mut contact| {
        contact.as_object_mut().unwrap().retain(|name, _| !fields.contains(&&**name));
        for field in contact["custom_fields"].as_array_mut().unwrap() {
            field.as_object_mut().unwrap().retain(|name, _| !fields.contains(&&**name));
        }
        without_nulls(&contact)
    });
    sorted(rows)
}

#[test]
fn every_awkward_definition_is_read_as_the_account_has_it() {
    for choice_ids_as_text in [false, true] {
        let fake = fake();
        fake.switches().choice_ids_as_text = choice_ids_as_text;
        let ran = contacts(&fake, &json!({}));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let records = ran.records("contacts");
        assert_eq!(sorted(records.clone()), truth_without(&fake, &[]));
        assert_eq!(calls(&fake), [1, 1, 2]);
        let values: Vec<&Value> = records.iter().map(|record| &record["custom_field_values"]).collect();
        let account = fake.account();
        let id = |name: &str| account.custom_fields.iter().find(|field| field.name == name).unwrap().id.to_string();
        // Several choices, one with the label of a deleted one.
        assert!(values.iter().any(|v| v["Colours"] == json!(["Red", "Blue"])));
        // A single choice and one without a definition, of a field whose name differs from another's only in case.
        for single in ["Large", "000007"] {
            assert!(values.iter().any(|v| v[id("Size")] == single), "{single}");
        }
        // A deleted field.
        assert!(values.iter().any(|v| v[id("Forgotten")] == "2021-03-04"));
        // Deleted tags have their ids as names.
        let deleted: Vec<&str> = account.tags.iter().filter(|tag| tag.deleted).map(|tag| &*tag.id).collect();
        let names = records.iter().flat_map(|record| record["tag_names"].as_array().unwrap());
        assert!(names.into_iter().any(|name| deleted.contains(&name.as_str().unwrap())));
    }
}

#[test]
fn definitions_are_read_before_the_contacts() {
    let fake = fake();
    contacts(&fake, &json!({}));
    // The plan only counts the contacts.
    let calls = fake.api_calls().into_iter().filter(|call| !call.query.contains("limit=1&"));
    let paths: Vec<String> = calls.map(|call| call.path).collect();
    let first = paths.iter().position(|path| path == "/v3/contacts").unwrap();
    for path in PATHS {
        assert!(paths.iter().rposition(|other| other.ends_with(path)).unwrap() < first, "{paths:?}");
    }
}

#[test]
fn lists_of_the_run_are_not_listed_again() {
    let fake = fake();
    let ran = tap_with(&fake, &json!({}), None, Some(&only(&["contact_lists", "contacts"])));
    assert_eq!(sorted(ran.records("contacts")), truth_without(&fake, &[]));
    assert_eq!(calls(&fake), [1, 1, 2]);
}

#[test]
fn definitions_that_no_selected_field_needs_are_not_requested() {
    let field = |name| ["custom_fields", name];
    let nested = ["name", "label", "type", "choice_labels"].map(field);
    let but_for_values: Vec<&[&str]> = nested.iter().map(|path| &path[..]).collect();
    let all_of_fields: Vec<&[&str]> = [&but_for_values[..], &[&["custom_field_values"][..]]].concat();
    let cases: [(Vec<&[&str]>, [usize; 3]); 6] = [
        (vec![&["tag_names"]], [1, 0, 2]),
        (vec![&["list_names"]], [1, 1, 1]),
        (but_for_values, [1, 1, 2]),
        (vec![&["custom_field_values"]], [1, 1, 2]),
        ([&all_of_fields[..], &[&["tag_names"], &["list_names"]]].concat(), [0, 0, 1]),
        (all_of_fields, [0, 1, 2]),
    ];
    for (deselected, expected) in cases {
        let fake = fake();
        let ran = tap_with(&fake, &json!({}), None, Some(&without("contacts", &deselected)));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(calls(&fake), expected, "{deselected:?}");
    }
    for (included, expected) in [(json!(false), [0, 0, 1]), (json!(["taggings"]), [0, 1, 1])] {
        let fake = fake();
        contacts(&fake, &json!({"include_subresources": included}));
        assert_eq!(calls(&fake), expected, "{included}");
    }
}

#[test]
fn sub_resources_are_requested_if_a_selected_field_needs_them() {
    let include = |deselected: &[&[&str]]| {
        let fake = fake();
        let ran = tap_with(&fake, &json!({}), None, Some(&without("contacts", deselected)));
        let call = fake.api_calls().into_iter().rfind(|call| call.path == "/v3/contacts").unwrap();
        (call.query, ran.records("contacts"))
    };
    let (query, _) = include(&[&["taggings"], &["tag_names"], &["notes"]]);
    assert!(!query.contains("taggings") && !query.contains("notes") && query.contains("custom_fields"), "{query}");
    let (query, records) = include(&[&["taggings"], &["custom_fields"]]);
    assert!(query.contains("taggings") && query.contains("custom_fields"), "{query}");
    assert!(records.iter().all(|record| record.get("taggings").is_none() && record.get("custom_fields").is_none()));
    assert!(records.iter().any(|record| record["custom_field_values"].get("Colours").is_some()));
    assert!(records.iter().any(|record| record["tag_names"] != json!([])));
}

#[test]
fn refused_definitions_leave_their_fields_null() {
    for (path, fields) in PATHS.into_iter().zip(FILLED) {
        for what in [What::Status(400, "[]".into(), "application/json"), What::Forbidden, What::NotFound] {
            let fake = fake();
            fake.fault(Fault::always(path, what.clone()));
            let ran = contacts(&fake, &json!({}));
            assert_eq!(ran.code, Some(0), "{path} {what:?}: {}", ran.stderr);
            assert_eq!(sorted(ran.records("contacts")), truth_without(&fake, fields), "{path} {what:?}");
            let warnings: Vec<&str> = ran.stderr.lines().filter(|l| l.starts_with("WARNING contacts:")).collect();
            assert_eq!(warnings.len(), 1, "{path} {what:?}: {}", ran.stderr);
            assert!(warnings[0].contains(fields[0]), "{warnings:?}");
            // The field is null and not omitted, so that the target does not keep an outdated value.
            let records = ran.messages.iter().filter(|m| m["type"] == "RECORD").map(|m| &m["record"]);
            for record in records {
                assert_eq!(record.get(fields[0]), Some(&Value::Null), "{path}");
            }
            assert!(ran.last_state()["bookmarks"]["contacts"]["replication_key_value"].is_string());
        }
    }
}

#[test]
fn definitions_that_fail_otherwise_end_the_stream_before_its_first_record() {
    for path in PATHS {
        for what in [
            What::Status(503, String::new(), "text/html"),
            What::Html200,
            What::TruncatedJson,
            What::Status(200, r#"{"other": 1}"#.into(), "application/json"),
        ] {
            let fake = fake();
            fake.fault(Fault::always(path, what.clone()));
            let ran = contacts(&fake, &json!({"max_retries": 1}));
            assert_eq!(ran.code, Some(1), "{path} {what:?}: {}", ran.stderr);
            assert_eq!(ran.records("contacts").len(), 0);
            assert!(ran.last_state()["bookmarks"]["contacts"]["replication_key_value"].is_null());
        }
    }
}

#[test]
fn a_complete_read_writes_new_names() {
    let fake = fake();
    let first = contacts(&fake, &json!({}));
    {
        let mut account = fake.account();
        for tag in &mut account.tags {
            tag.name += " (renamed)";
        }
        account.lists[0].name = "Renamed".into();
        account.custom_fields[0].name = "Renamed".into();
    }
    let mut state = first.last_state();
    state["bookmarks"]["contacts"]["full_refresh_at"] = json!("2020-01-01T00:00:00Z");
    let next = tap_with(&fake, &json!({}), Some(&state), Some(&only(&["contacts"])));
    assert_eq!(sorted(next.records("contacts")), truth_without(&fake, &[]));
}

#[test]
fn sms_lists_that_cannot_be_listed_are_named_in_a_warning() {
    for what in [What::Forbidden, What::NotFound, What::Status(500, "[]".into(), "application/json")] {
        let fake = fake();
        fake.fault(Fault::always("channel_type=sms", what));
        let ran = contacts(&fake, &json!({"max_retries": 1}));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(ran.stderr.matches("list_names has the ids of SMS lists").count(), 1, "{}", ran.stderr);
    }
}

#[test]
fn a_definition_without_an_id_is_named_in_a_warning() {
    let fake = fake();
    fake.before_answer(Box::new(|target, answer| {
        let Ok(mut body) = serde_json::from_slice::<Value>(&answer.body) else { return };
        if target.contains("/contact_tags") {
            body["tags"][0]["tag_id"] = Value::Null;
            answer.body = body.to_string().into_bytes();
        }
    }));
    let ran = contacts(&fake, &json!({}));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("WARNING contacts: 1 of the account's tags lacks a usable id"), "{}", ran.stderr);
}
