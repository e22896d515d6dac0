//! Each setting that changes what is read, compared with the account.

use std::collections::BTreeSet;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use fake::account::Size;
use fake::{Account, Fake, Fault, Kind, LastPage, Switches, What};
use serde_json::{Value, json};

use crate::tap::{self, REPORTS, Ran, command, only, sorted, streams, tap, tap_with, without_nulls};

fn fake() -> Fake {
    let account = Account::generate(17, Size { contacts: 40, lists: 3, campaigns: 9 }).with_all_details();
    Fake::start_with(account, Switches { per_day: 1_000_000, ..Switches::long_lived() })
}

fn read(fake: &Fake, more: &Value, streams: &[&str]) -> Ran {
    let ran = tap_with(fake, more, None, Some(&only(streams)));
    assert_eq!(ran.code, Some(0), "{more}: {}", ran.stderr);
    ran
}

fn truth(fake: &Fake, stream: &str, holds: impl Fn(&Value) -> bool) -> Vec<String> {
    let rows = fake.account().truth(stream);
    assert!(!rows.is_empty());
    sorted(rows.iter().filter(|row| holds(row)).map(without_nulls))
}

fn at(row: &Value, field: &str) -> DateTime<Utc> {
    row[field].as_str().unwrap().parse().unwrap()
}

fn queries(fake: &Fake, path: &str) -> Vec<String> {
    let decoded = |query: &str| {
        let pairs = url::form_urlencoded::parse(query.as_bytes()).map(|(k, v)| format!("{k}={v}"));
        pairs.collect::<Vec<_>>().join("&")
    };
    fake.api_calls().iter().filter(|c| c.path.ends_with(path)).map(|c| decoded(&c.query)).collect()
}

/// The ids of the contacts with these statuses.
fn of_status(fake: &Fake, statuses: &[&str]) -> BTreeSet<String> {
    let account = fake.account();
    account.contacts.iter().filter(|c| statuses.contains(&c.status())).map(|c| c.id.to_string()).collect()
}

#[test]
fn contact_status_selects_contacts_and_their_reports() {
    let fake = fake();
    for statuses in
        [&["active"][..], &["deleted"], &["unsubscribed", "not_set"], &["temp_hold", "pending_confirmation"]]
    {
        let chosen = of_status(&fake, statuses);
        let within = |row: &Value| chosen.contains(row["contact_id"].as_str().unwrap());
        for given in [json!(statuses), json!(statuses.join(","))] {
            let ran = read(&fake, &json!({"contact_status": given}), &["contacts"]);
            assert_eq!(sorted(ran.records("contacts")), truth(&fake, "contacts", within), "{statuses:?}");
        }
        for route in ["contacts", "campaigns"] {
            let ran = read(&fake, &json!({"contact_status": statuses, "activity_route": route}), &REPORTS);
            for stream in REPORTS {
                assert_eq!(sorted(ran.records(stream)), truth(&fake, stream, within), "{statuses:?} {route}");
            }
        }
    }
    assert!(!of_status(&fake, &["deleted"]).is_empty() && !of_status(&fake, &["not_set"]).is_empty());
}

#[test]
fn contact_ids_select_whose_reports_are_read() {
    let fake = fake();
    let chosen: Vec<String> = {
        let account = fake.account();
        let active: BTreeSet<String> = account.activities.iter().map(|row| row.contact_id.to_string()).collect();
        active.into_iter().take(2).collect()
    };
    let unknown = "00000000-0000-11ef-8000-000000000000";
    let within = |row: &Value| chosen.iter().any(|id| *id == row["contact_id"]);
    // The service accepts only lower case.
    let upper = chosen[0].to_uppercase();
    let given = [&upper, unknown, &chosen[1], &chosen[0]];
    for route in ["auto", "contacts", "campaigns"] {
        let ran = read(&fake, &json!({"contact_ids": given, "activity_route": route}), &REPORTS);
        for stream in REPORTS {
            let rows = sorted(ran.records(stream));
            assert!(!rows.is_empty());
            assert_eq!(rows, truth(&fake, stream, within), "{route} {stream}");
        }
        assert!(!fake.calls().iter().any(|call| call.path.contains(&upper)));
        if route == "contacts" {
            for stream in REPORTS {
                let warning = format!("WARNING {stream}: the service has no report for 1 of 3 contact_ids: {unknown};");
                assert!(ran.stderr.contains(&warning), "{}", ran.stderr);
            }
        }
    }
    let unknown: Vec<String> = (0..12).map(|n| format!("00000000-0000-11ef-8000-{n:012}")).collect();
    let ran = read(&fake, &json!({"contact_ids": unknown, "activity_route": "contacts"}), &REPORTS[..1]);
    let warning = format!("12 of 12 contact_ids: {} and 2 more;", unknown[..10].join(", "));
    assert!(ran.stderr.contains(&warning), "{}", ran.stderr);
    // They do not limit the contacts.
    let ran = read(&fake, &json!({"contact_ids": given}), &["contacts"]);
    assert_eq!(ran.records("contacts").len(), fake.account().contacts.len());
}

#[test]
fn include_subresources_selects_the_parts_of_a_contact() {
    let all = ["custom_fields", "list_memberships", "phone_numbers", "street_addresses", "taggings", "notes"];
    let fake = fake();
    for (given, asked) in [
        (json!(true), &all[..]),
        (json!("true"), &all),
        (json!(false), &[]),
        (json!("false"), &[]),
        (json!([]), &[]),
        (json!(["notes", "taggings"]), &["taggings", "notes"]),
        (json!("phone_numbers,street_addresses"), &["phone_numbers", "street_addresses"]),
        (json!(["custom_fields"]), &["custom_fields"]),
    ] {
        fake.forget_calls();
        let ran = read(&fake, &json!({"include_subresources": given}), &["contacts"]);
        let rows = fake.account().truth("contacts").into_iter().map(|mut contact| {
            fn from(name: &str) -> &str {
                match name {
                    "custom_field_values" => "custom_fields",
                    "list_names" => "list_memberships",
                    "tag_names" => "taggings",
                    other => other,
                }
            }
            let is_kept = |name: &str| !all.contains(&from(name)) || asked.contains(&from(name));
            contact.as_object_mut().unwrap().retain(|name, _| is_kept(name));
            without_nulls(&contact)
        });
        assert_eq!(sorted(ran.records("contacts")), sorted(rows), "{given}");
        let queries = queries(&fake, "/contacts");
        // The first call is the count for the plan.
        let first = queries.last().unwrap();
        assert_eq!(first.contains("include="), !asked.is_empty(), "{first}");
    }
}

#[test]
fn tracking_activity_types_select_the_details() {
    let fake = fake();
    for types in [&["em_opens"][..], &["em_sends", "em_clicks"], &["em_optouts", "em_bounces", "em_forwards"]] {
        for route in ["contacts", "campaigns"] {
            let more = json!({"tracking_activity_types": types, "activity_route": route});
            let ran = read(&fake, &more, &["contact_activity_details"]);
            let within = |row: &Value| types.iter().any(|t| *t == row["tracking_activity_type"]);
            let rows = sorted(ran.records("contact_activity_details"));
            assert!(!rows.is_empty());
            assert_eq!(rows, truth(&fake, "contact_activity_details", within), "{route} {types:?}");
        }
    }
    // Only the contact route has landing-page types, so `auto` takes it. They belong to no listed campaign, and some are older
    // than all of these.
    let oldest = fake.account().campaigns.iter().map(|campaign| campaign.created_at).min().unwrap();
    for kinds in
        [&[Kind::Opens, Kind::PageOpens][..], &[Kind::PageOpens, Kind::PageClicks, Kind::PageAdds, Kind::PageUpdates]]
    {
        fake.forget_calls();
        let types: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        let ran = read(&fake, &json!({"tracking_activity_types": types}), &["contact_activity_details"]);
        let asked = queries(&fake, "/activity_details");
        assert!(asked[0].contains(&format!("tracking_activities_list={}", types.join(","))), "{asked:?}");
        let expected = sorted(fake.account().details_truth(kinds).iter().map(without_nulls));
        assert_eq!(sorted(ran.records("contact_activity_details")), expected, "{kinds:?}");
        assert!(fake.account().page_visits.iter().any(|row| kinds.contains(&row.kind) && row.at < oldest));
    }
    // Other types are not fetched.
    fake.forget_calls();
    read(
        &fake,
        &json!({"tracking_activity_types": ["em_opens"], "activity_route": "campaigns"}),
        &["contact_activity_details"],
    );
    assert!(queries(&fake, "/tracking/sends").is_empty() && !queries(&fake, "/tracking/opens").is_empty());
}

/// The beginning of the day this many days ago, in a time zone.
fn day(zone: Tz, back: u64) -> DateTime<Utc> {
    let date = Utc::now().with_timezone(&zone).date_naive() - Days::new(back);
    zone.from_local_datetime(&date.and_time(NaiveTime::MIN)).earliest().unwrap().to_utc()
}

fn date(zone: Tz, back: u64) -> NaiveDate {
    Utc::now().with_timezone(&zone).date_naive() - Days::new(back)
}

#[test]
fn every_form_of_the_report_window_reads_those_days() {
    let fake = fake();
    // Days with activity, so that the windows begin and end on such days.
    let days: Vec<u64> = {
        let account = fake.account();
        let mut days: Vec<u64> =
            account.activities.iter().map(|row| (Utc::now() - row.at).num_days().unsigned_abs()).collect();
        days.sort_unstable();
        days.dedup();
        days
    };
    let (near, far) = (days[days.len() / 3], days[2 * days.len() / 3]);
    for name in ["UTC", "America/New_York", "Pacific/Auckland"] {
        let zone: Tz = name.parse().unwrap();
        let ends = [
            (json!({"report_date": date(zone, near)}), day(zone, near), day(zone, near - 1)),
            (json!({"report_days_back": near}), day(zone, near), Utc::now()),
            (json!({"report_start_date": date(zone, far)}), day(zone, far), Utc::now()),
            (json!({"report_start_days_back": far}), day(zone, far), Utc::now()),
            (
                json!({"report_start_date": date(zone, far), "report_end_date": date(zone, near)}),
                day(zone, far),
                day(zone, near - 1),
            ),
            (json!({"report_start_days_back": far, "report_end_days_back": near}), day(zone, far), day(zone, near - 1)),
            (
                json!({"report_start_date": date(zone, far), "report_end_days_back": near}),
                day(zone, far),
                day(zone, near - 1),
            ),
            (
                json!({"report_start_days_back": far.to_string(), "report_end_date": date(zone, near)}),
                day(zone, far),
                day(zone, near - 1),
            ),
        ];
        for (mut more, start, end) in ends {
            more["timezone"] = json!(name);
            for route in ["contacts", "campaigns"] {
                more["activity_route"] = json!(route);
                let ran = read(&fake, &more, &REPORTS);
                let within = |row: &Value| {
                    let at = if row["start_on"].is_null() { at(row, "created_time") } else { at(row, "start_on") };
                    at >= start && at < end
                };
                for stream in REPORTS {
                    assert_eq!(sorted(ran.records(stream)), truth(&fake, stream, within), "{stream} {more}");
                }
                // A report window moves no bookmark.
                assert!(ran.last_state()["bookmarks"]["contact_activity_details"]["replication_key_value"].is_null());
            }
        }
    }
}

#[test]
fn start_date_bounds_the_first_run() {
    let fake = fake();
    let back = 200;
    let zone: Tz = "America/New_York".parse().unwrap();
    for (key, given, bound) in [
        ("start_date", json!(date(Tz::UTC, back)), day(Tz::UTC, back)),
        ("updated_after", json!(date(Tz::UTC, back)), day(Tz::UTC, back)),
        ("start_date", json!(date(zone, back)), day(zone, back)),
        ("start_date", json!(day(zone, back).to_rfc3339()), day(zone, back)),
    ] {
        let name = if bound == day(zone, back) { zone.name() } else { "UTC" };
        let more = json!({key: given, "timezone": name});
        let ran = read(&fake, &more, &["contacts", "email_campaigns", "contact_activity_details"]);
        let changed = |contact: &Value| {
            let opted_out = contact["email_address"]["opt_out_date"].as_str().map(|at| at.parse().unwrap());
            at(contact, "updated_at") >= bound || opted_out.is_some_and(|at: DateTime<Utc>| at >= bound)
        };
        let expected = truth(&fake, "contacts", changed);
        assert!(!expected.is_empty() && expected.len() < fake.account().contacts.len());
        assert_eq!(sorted(ran.records("contacts")), expected, "{more}");
        assert_eq!(
            sorted(ran.records("email_campaigns")),
            truth(&fake, "email_campaigns", |row| at(row, "updated_at") >= bound)
        );
        assert_eq!(
            sorted(ran.records("contact_activity_details")),
            truth(&fake, "contact_activity_details", |row| at(row, "created_time") >= bound)
        );
        assert_eq!(ran.records("contact_lists").len(), 0);
    }
}

#[test]
fn updated_days_back_reads_the_last_days_again() {
    let fake = fake();
    let streams = ["contacts", "email_campaigns", "contact_activity_details"];
    let first = read(&fake, &json!({}), &streams);
    let quiet = tap_with(&fake, &json!({}), Some(&first.last_state()), Some(&only(&streams)));
    assert_eq!(quiet.records("contact_activity_details"), Vec::<Value>::new());
    let more = json!({"updated_days_back": 300, "activity_lookback_days": 3650});
    let again = tap_with(&fake, &more, Some(&first.last_state()), Some(&only(&streams)));
    let bound = day(Tz::UTC, 300);
    let expected = truth(&fake, "contact_activity_details", |row| at(row, "created_time") >= bound);
    assert!(!expected.is_empty());
    assert_eq!(sorted(again.records("contact_activity_details")), expected);
    // Also the campaigns whose counts may still grow.
    assert_eq!(
        sorted(again.records("email_campaigns")),
        truth(&fake, "email_campaigns", |row| at(row, "updated_at") >= bound || row["last_sent_date"].is_string())
    );
    assert!(!again.records("contacts").is_empty());
    // It moves the lower bound of the read, not the bookmark.
    let bookmark =
        |ran: &Ran| ran.last_state()["bookmarks"]["contacts"]["replication_key_value"].as_str().unwrap().to_owned();
    assert!(bookmark(&again) >= bookmark(&first));
}

/// `updated_days_back` extends an incremental read and never shortens a complete one.
#[test]
fn updated_days_back_never_narrows_a_complete_read() {
    let fake = fake();
    let old = day(Tz::UTC, 400);
    let state = |filter: Value| {
        let bookmark = json!({"replication_key": "updated_at", "replication_key_value": old, "full_refresh_at": old});
        let mut state = json!({"bookmarks": {"contacts": bookmark}});
        state["bookmarks"]["contacts"]["filter"] = filter;
        state
    };
    let mut full_table = only(&["contacts"]);
    full_table["streams"][0]["metadata"][0]["metadata"]["replication-method"] = json!("FULL_TABLE");
    let recent = json!(date(Tz::UTC, 2));
    for (more, state, catalog) in [
        (json!({"updated_days_back": 3}), state(Value::Null), only(&["contacts"])),
        (json!({"updated_days_back": 3}), state(json!("status=active")), only(&["contacts"])),
        (json!({"updated_days_back": 3}), state(Value::Null), full_table),
    ] {
        let ran = tap_with(&fake, &more, Some(&state), Some(&catalog));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_eq!(sorted(ran.records("contacts")), truth(&fake, "contacts", |_| true), "{more} {state}");
    }
    // A `start_date` after the bookmark leaves no gap.
    let ran = tap_with(&fake, &json!({"start_date": recent}), Some(&state(Value::Null)), Some(&only(&["contacts"])));
    let changed = truth(&fake, "contacts", |row| at(row, "updated_at") >= old);
    let rows = sorted(ran.records("contacts"));
    assert!(!changed.is_empty() && changed.iter().all(|row| rows.contains(row)));
    // In a first run without `start_date`, it is the lower bound.
    let ran = read(&fake, &json!({"updated_days_back": 300}), &["contacts"]);
    assert!(ran.records("contacts").len() < fake.account().contacts.len());
}

#[test]
fn page_size_changes_only_the_number_of_calls() {
    let fake = fake();
    for size in [1, 7, 100, 500] {
        fake.forget_calls();
        let ran = read(
            &fake,
            &json!({"page_size": size, "activity_route": "contacts"}),
            &["contacts", "contact_activity_details"],
        );
        for stream in ["contacts", "contact_activity_details"] {
            assert_eq!(sorted(ran.records(stream)), truth(&fake, stream, |_| true), "{size}");
        }
        assert!(queries(&fake, "/contacts").iter().any(|q| q.contains(&format!("limit={size}&"))));
        let details = queries(&fake, "/activity_details");
        assert!(details[0].ends_with(&format!("limit={}", size.min(100))), "{}", details[0]);
    }
}

#[test]
fn full_table_ignores_the_bookmark() {
    let fake = fake();
    let streams = ["contacts", "contact_activity_details"];
    let first = read(&fake, &json!({}), &streams);
    let mut catalog = only(&streams);
    for entry in catalog["streams"].as_array_mut().unwrap() {
        entry["metadata"][0]["metadata"]["replication-method"] = json!("FULL_TABLE");
    }
    let again = tap_with(&fake, &json!({}), Some(&first.last_state()), Some(&catalog));
    for stream in streams {
        assert_eq!(sorted(again.records(stream)), truth(&fake, stream, |_| true));
    }
}

#[test]
fn a_state_with_a_plain_updated_at_is_a_bookmark() {
    let fake = fake();
    let bound = day(Tz::UTC, 100);
    let state = json!({"bookmarks": {"email_campaigns": {"updated_at": bound}, "contact_activity_details": {"created_time": bound}}, "mine": 1});
    let more = json!({"activity_lookback_days": 3650});
    let ran = tap_with(&fake, &more, Some(&state), Some(&only(&["email_campaigns", "contact_activity_details"])));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let expected = truth(&fake, "contact_activity_details", |row| at(row, "created_time") >= bound);
    assert!(!expected.is_empty());
    assert_eq!(sorted(ran.records("contact_activity_details")), expected);
    assert_eq!(ran.last_state()["mine"], 1);
}

#[test]
fn other_settings_start_a_stream_over_and_say_so() {
    let fake = fake();
    let first = read(&fake, &json!({"contact_status": "active"}), &["contacts"]);
    let next = tap_with(&fake, &json!({}), Some(&first.last_state()), Some(&only(&["contacts"])));
    assert_eq!(sorted(next.records("contacts")), truth(&fake, "contacts", |_| true));
    assert_eq!(
        next.stderr
            .matches("contact_status was active and is now all, so it is read from the start (about 5 calls")
            .count(),
        1,
        "{}",
        next.stderr
    );
    // The new bookmark has the new settings.
    let quiet = tap_with(&fake, &json!({}), Some(&next.last_state()), Some(&only(&["contacts"])));
    assert_eq!(quiet.records("contacts"), Vec::<Value>::new());
    assert!(!quiet.stderr.contains("from the start"));
}

#[test]
fn a_long_range_is_split_if_the_service_refuses_it() {
    let mut account = Account::generate(4, Size { contacts: 12, lists: 1, campaigns: 4 }).with_all_details();
    // Activity over eleven years.
    let years = TimeDelta::days(365 * 11);
    account.campaigns[0].created_at -= years;
    let oldest = account.sent_activities()[0].to_string();
    account.activities.iter_mut().filter(|row| *row.activity_id == *oldest).for_each(|row| row.at -= years);
    // A contact that was imported, or deleted and added again, can have activity before its creation.
    for account in [account.clone(), account.with_activity_after_creation()] {
        for most in [None, Some(5)] {
            let fake = Fake::start_with(account.clone(), Switches { summary_max_years: most, ..Switches::default() });
            let ran = read(&fake, &json!({"activity_route": "contacts"}), &["contact_action_summary"]);
            assert_eq!(sorted(ran.records("contact_action_summary")), truth(&fake, "contact_action_summary", |_| true));
            let asked = queries(&fake, "/activity_summary").len();
            assert_eq!(asked > 12, most.is_some(), "{asked}");
        }
    }
}

#[test]
fn settings_come_from_several_files_and_the_environment() {
    let fake = fake();
    let (base, over) = (tap::file(&fake.config()), tap::file(&json!({"contact_status": ["deleted"], "page_size": 9})));
    let catalog = tap::file(&only(&["contacts"]));
    let deleted = of_status(&fake, &["deleted"]);
    let run = |arguments: &[&std::path::Path], environment: &[(&str, &str)]| {
        let mut command = command();
        for argument in arguments {
            command.arg("--config").arg(argument);
        }
        Ran::of(
            &command
                .args(["--properties".as_ref(), catalog.path()])
                .envs(environment.iter().copied())
                .output()
                .unwrap(),
        )
    };
    let ran = run(&[base.path(), over.path()], &[]);
    assert_eq!(ran.records("contacts").len(), deleted.len(), "{}", ran.stderr);
    let ran = run(
        &[over.path(), base.path(), "ENV".as_ref()],
        &[("TAP_CONSTANT_CONTACT_CONTACT_STATUS", "active"), ("TAP_CONSTANT_CONTACT_TIMEZONE", "")],
    );
    assert_eq!(ran.records("contacts").len(), of_status(&fake, &["active"]).len(), "{}", ran.stderr);
    // All settings from the environment, where lists, numbers and booleans are strings.
    let config = fake.config();
    let text = |key: &str| config[key].as_str().map_or_else(|| config[key].to_string(), str::to_owned);
    let all: Vec<(String, String)> = config
        .as_object()
        .unwrap()
        .keys()
        .map(|k| (format!("TAP_CONSTANT_CONTACT_{}", k.to_uppercase()), text(k)))
        .collect();
    let mut all: Vec<(&str, &str)> = all.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    all.push(("TAP_CONSTANT_CONTACT_CONTACT_STATUS", "deleted, active"));
    all.push(("TAP_CONSTANT_CONTACT_INCLUDE_SUBRESOURCES", "false"));
    let ran = run(&["ENV".as_ref()], &all);
    assert_eq!(ran.records("contacts").len(), of_status(&fake, &["active", "deleted"]).len(), "{}", ran.stderr);
}

#[test]
fn files_with_a_byte_order_mark_are_read() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: &Value| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("\u{feff}{value}")).unwrap();
        path
    };
    let mut command = tap::command();
    command.arg("--config").arg(write("config.json", &fake.config()));
    command.arg("--catalog").arg(write("catalog.json", &only(&["contact_lists"])));
    command.arg("--state").arg(write("state.json", &json!({"bookmarks": {}})));
    let ran = Ran::of(&command.output().unwrap());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn contact_ids_may_be_in_upper_case() {
    let fake = fake();
    let id = fake.account().contacts[0].id.to_uppercase();
    for route in ["contacts", "campaigns"] {
        let more = json!({"contact_ids": id, "activity_route": route});
        let ran = read(&fake, &more, &["contact_activity_details"]);
        assert!(!ran.records("contact_activity_details").is_empty(), "{}", ran.stderr);
    }
}

#[test]
fn the_log_has_the_level_and_metrics_that_are_set() {
    let fake = fake();
    let config = tap::file(&fake.config());
    let run = |level: &[(&str, &str)]| {
        // A refused token writes a DEBUG line.
        fake.fault(Fault::once("/contacts?", What::Unauthorized));
        Ran::of(&command().arg("--config").arg(config.path()).envs(level.iter().copied()).output().unwrap()).stderr
    };
    let levels = |stderr: &str| -> BTreeSet<String> {
        stderr.lines().map(|l| l.split(' ').next().unwrap_or_default().to_owned()).collect()
    };
    assert!(levels(&run(&[("LOGLEVEL", "debug")])).contains("DEBUG"));
    let info = run(&[]);
    assert!(levels(&info).contains("INFO") && !levels(&info).contains("DEBUG"));
    assert!(levels(&run(&[("LOGLEVEL", "ERROR")])).is_empty());
    assert!(levels(&run(&[("LOGLEVEL", "ERROR"), ("TAP_CONSTANT_CONTACT_LOGLEVEL", "DEBUG")])).contains("DEBUG"));
    assert!(run(&[("LOGLEVEL", "loud")]).contains("unknown LOGLEVEL"));
    let metrics: Vec<Value> = info
        .lines()
        .filter_map(|l| l.strip_prefix("INFO METRIC: "))
        .map(|m| serde_json::from_str(m).unwrap())
        .collect();
    let count = |stream: &str| {
        let is = |m: &&Value| m["metric"] == "record_count" && m["tags"]["stream"] == stream;
        metrics.iter().find(is).map_or(0, |m| m["value"].as_u64().unwrap())
    };
    for stream in ["contacts", "contact_lists", "email_campaigns", REPORTS[0], REPORTS[1]] {
        assert_eq!(count(stream), fake.account().truth(stream).len() as u64, "{stream}");
    }
    let calls = fake.api_calls().len();
    assert!(calls > 0 && metrics.iter().any(|m| m["metric"] == "sync_duration" && m["tags"]["status"] == "succeeded"));
    let timers = |stderr: &str| stderr.matches(r#"METRIC: {"type":"timer","metric":"http_request_duration""#).count();
    assert_eq!((timers(&info), timers(&run(&[("LOGLEVEL", "DEBUG")])) > 0), (0, true));
}

/// Where the documentation does not say how the service behaves, the tap must work either way.
#[test]
fn every_switch_of_the_service_is_supported() {
    use fake::account::Moves;
    let moves = Moves::default();
    let base = Switches { per_day: 1_000_000, ..Switches::long_lived() };
    let every = [
        Switches { updated_after_inclusive: true, ..base.clone() },
        Switches { moves_updated_at_on: Moves { lists: !moves.lists, tags: !moves.tags, ..moves }, ..base.clone() },
        Switches { moves_updated_at_on: Moves { notes: !moves.notes, sms: !moves.sms, ..moves }, ..base.clone() },
        Switches { moves_updated_at_on: Moves { delete: !moves.delete, ..moves }, ..base.clone() },
        Switches { optout_after_defaults_status: false, ..base.clone() },
        Switches { deleted_contact_reports_404: true, ..base.clone() },
        Switches { summary_max_years: Some(5), ..base.clone() },
        Switches { lists_limit_1000_ok: true, ..base.clone() },
        Switches { bad_cursor_404: true, ..base.clone() },
        Switches { empty_reports_lack_rows: true, ..base.clone() },
        Switches { refresh_grace: std::time::Duration::from_secs(30), rotating: true, ..base.clone() },
        Switches { fixed_window: true, per_second: 50, ..base.clone() },
        Switches { gzip: false, ..base.clone() },
        Switches { last_page: Some(LastPage::NoLinks), ..base.clone() },
        Switches { last_page: Some(LastPage::EmptyLinks), ..base.clone() },
        Switches { last_page: Some(LastPage::NullLinks), ..base.clone() },
        Switches { last_page: Some(LastPage::NullHref), ..base.clone() },
        Switches { contacts_order: fake::Order::UpdatedDesc, ..base.clone() },
        Switches { clock_skew: TimeDelta::minutes(-10), ..base.clone() },
        Switches { clock_skew: TimeDelta::minutes(10), ..base.clone() },
    ];
    for switches in every {
        let gone = switches.deleted_contact_reports_404;
        let name = format!("{switches:?}");
        let account = Account::generate(17, Size { contacts: 24, lists: 3, campaigns: 5 }).with_all_details();
        let fake = Fake::start_with(account, switches);
        let folder = tempfile::tempdir().unwrap();
        let more = |route: &str| {
            json!({"activity_route": route, "page_size": 30, "activity_lookback_days": 3650, "contacts_full_refresh_days": 0,
                   "token_file": folder.path().join("tokens.json")})
        };
        for route in ["contacts", "campaigns"] {
            let first = tap(&fake, &more(route), None);
            assert_eq!(first.code, Some(0), "{name}: {}", first.stderr);
            let deleted = fake.account().deleted();
            for stream in streams() {
                let hidden = |row: &Value| {
                    gone && route == "contacts"
                        && REPORTS.contains(stream)
                        && deleted.contains(row["contact_id"].as_str().unwrap())
                };
                let expected = truth(&fake, stream, |row| !hidden(row));
                assert_eq!(sorted(first.records(stream)), expected, "{route} {stream} {name}");
            }
            let (renamed, gone_out, opened) = {
                let mut account = fake.account();
                let ids: Vec<String> =
                    account.contacts.iter().filter(|c| c.status() == "active").map(|c| c.id.to_string()).collect();
                account.rename(&ids[0], &format!("Renamed for {route}"));
                account.unsubscribe(&ids[1]);
                let activity = account.sent_activities()[0].to_string();
                account.track(Kind::Clicks, &ids[2], &activity);
                (ids[0].clone(), ids[1].clone(), ids[2].clone())
            };
            let second = tap(&fake, &more(route), Some(&first.last_state()));
            assert_eq!(second.code, Some(0), "{name}: {}", second.stderr);
            let rows = second.records("contacts");
            for id in [renamed, gone_out] {
                let row = rows.iter().find(|row| row["contact_id"] == *id).unwrap_or_else(|| panic!("{route} {name}"));
                let expected = fake.account().truth("contacts").into_iter().find(|c| c["contact_id"] == *id).unwrap();
                assert_eq!(sorted([row.clone()]), sorted([without_nulls(&expected)]), "{route} {name}");
            }
            let clicks = second.records("contact_activity_details");
            assert!(clicks.iter().any(|row| row["contact_id"] == *opened), "{route} {name}");
        }
    }
}

#[test]
fn deselected_fields_are_removed_from_schema_and_records() {
    let fake = fake();
    let mut catalog = only(&["contacts"]);
    catalog["streams"][0]["metadata"] = json!([
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
