//! `--test`: what a login may read, what not and why, and what a full sync costs.

use fake::account::Size;
use fake::{Account, Fake, Fault, What};
use serde_json::{Value, json};

use crate::tap::{REPORTS, Ran, command, config, file, only, streams, tap, tap_with};

fn fake() -> Fake {
    Fake::start(Account::generate(3, Size { contacts: 5, lists: 2, campaigns: 2 }))
}

/// Runs `--test` for these streams, or for all.
fn preflight(fake: &Fake, more: &Value, streams: &[&str]) -> Ran {
    let (config, catalog) = (file(&config(fake, more)), file(&only(streams)));
    let mut command = command();
    command.arg("--test").arg("--config").arg(config.path());
    if !streams.is_empty() {
        command.arg("--catalog").arg(catalog.path());
    }
    let ran = Ran::of(&command.output().unwrap());
    assert!(ran.messages.is_empty(), "something was written to stdout");
    ran
}

/// The report's line about a stream.
fn line<'a>(ran: &'a Ran, stream: &str) -> &'a str {
    let mut lines = ran.stderr.lines().filter_map(|line| line.trim_start().strip_prefix(stream));
    lines.next().unwrap_or_else(|| panic!("the report does not have {stream}: {}", ran.stderr)).trim()
}

fn assert_says(ran: &Ran, words: &[&str]) {
    assert!(words.iter().all(|word| ran.stderr.contains(word)), "{words:?}: {}", ran.stderr);
}

/// Checks that these streams, and perhaps others, are refused for this reason, and that the rest may be read.
fn assert_refused(ran: &Ran, lost: &[&str], why: &str) {
    let (readable, refused): (Vec<&str>, Vec<&str>) =
        streams().iter().copied().partition(|stream| line(ran, stream).starts_with("may be read"));
    assert!(!readable.is_empty() && lost.iter().all(|stream| refused.contains(stream)), "{}", ran.stderr);
    assert!(refused.iter().all(|stream| line(ran, stream).contains(why)), "{why}: {}", ran.stderr);
    assert_says(ran, &[&format!("CRITICAL this login may not read {}", refused.join(", "))]);
}

#[test]
fn it_renews_the_login_and_makes_one_cheap_call_for_each_stream() {
    let fake = fake();
    let ran = preflight(&fake, &json!({}), &[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_says(&ran, &["works, and was renewed", "contact_data, campaign_data, offline_access"]);
    let account = fake.account();
    let (contacts, campaigns) = (account.truth("contacts").len(), account.truth("email_campaigns").len());
    drop(account);
    assert_says(&ran, &[&format!("{contacts} contacts"), "2 e-mail lists", &format!("{campaigns} campaigns")]);
    for stream in streams() {
        assert_eq!(line(&ran, stream), "may be read");
    }
    assert_eq!(fake.tokens().refreshes, 1);
    let calls = fake.api_calls();
    let to = |path: &str| calls.iter().filter(|call| call.path.ends_with(path)).count();
    for path in ["/account/user/privileges", "/contact_lists", "/contacts", "/activity_summary", "/activity_details"] {
        // The plan also reads a sample.
        assert!(to(path) >= 1, "{path}");
    }

    // Only the listings of other streams are probed, for the size of the account.
    fake.forget_calls();
    let ran = preflight(&fake, &json!({}), &["contact_lists"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_says(&ran, &[&format!("{contacts} contacts"), "about 2 calls"]);
    let streams = ran.stderr.split("Streams:").nth(1).unwrap();
    assert!(!streams.contains("email_campaigns") && !streams.contains(REPORTS[0]), "{streams}");
    assert!(!fake.calls().iter().any(|call| call.path.contains("/reports/")));
}

#[test]
fn one_report_may_be_refused_without_the_other() {
    for (path, refused, readable) in
        [("/activity_details", REPORTS[1], REPORTS[0]), ("/activity_summary", REPORTS[0], REPORTS[1])]
    {
        for route in ["contacts", "auto"] {
            let fake = fake();
            fake.fault(Fault::always(path, What::Forbidden));
            let ran = preflight(&fake, &json!({"activity_route": route}), &[]);
            assert_eq!(ran.code, Some(3), "{}", ran.stderr);
            assert!(line(&ran, readable).starts_with("may be read") && line(&ran, refused).starts_with("refused"));
            assert_says(&ran, &["Estimated full sync: about "]);
        }
    }
}

#[test]
fn a_scope_that_was_not_granted_is_named() {
    for (scope, lost) in [
        ("campaign_data", &["email_campaigns"][..]),
        ("contact_data", &["contact_lists", "contacts", REPORTS[0], REPORTS[1]]),
    ] {
        let fake = fake();
        fake.tokens().granted_scopes.retain(|granted| granted != scope);
        let ran = preflight(&fake, &json!({}), &[]);
        assert_eq!(ran.code, Some(3), "{}", ran.stderr);
        assert_refused(&ran, lost, &format!("the scope {scope} was not granted; log in again and allow it"));
        // The other streams may be read.
        let readable = if scope == "campaign_data" { "contacts" } else { "email_campaigns" };
        assert_eq!(preflight(&fake, &json!({}), &[readable]).code, Some(0));
    }
}

/// The report as JSON, validated with its schema.
fn as_json(fake: &Fake, more: &Value, arguments: &[&str]) -> (Value, Option<i32>) {
    let mut config = fake.config();
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let config = file(&config);
    let mut command = command();
    let output = command.args(["--test", "--format", "json", "--config"]).arg(config.path()).args(arguments);
    let output = output.output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let schema = serde_json::from_str(include_str!("../../schemas/test.json")).unwrap();
    jsonschema::validate(&schema, &report).unwrap();
    (report, output.status.code())
}

#[test]
fn fields_that_stay_null_without_a_scope_are_named() {
    let fake = fake();
    fake.tokens().granted_scopes.retain(|granted| granted != "campaign_data");
    let (report, code) = as_json(&fake, &json!({}), &[]);
    assert_eq!(code, Some(3));
    let details =
        ["campaign_id", "email_address", "device_type", "url_id", "link_url", "bounce_code", "opt_out_reason"];
    assert_eq!(report["streams"][3]["null_fields"], json!(["campaign_id"]));
    assert_eq!(report["streams"][4]["null_fields"], json!(details));
    assert_eq!(report["streams"][4]["verdict"], "may_be_read");
    // A sync does the same.
    let ran = tap(&fake, &json!({}), None);
    let of = |stream: &str| {
        let rows = ran.messages.iter().filter(|message| message["type"] == "RECORD" && message["stream"] == stream);
        rows.map(|message| message["record"].clone()).collect::<Vec<_>>()
    };
    for (stream, fields) in [(REPORTS[0], &details[..1]), (REPORTS[1], &details)] {
        let rows = of(stream);
        assert!(!rows.is_empty());
        assert!(rows.iter().all(|row| fields.iter().all(|field| row[field].is_null())), "{rows:?}");
        let report = preflight(&fake, &json!({}), &[stream]);
        let expected = format!("may be read, but {} ", fields.join(", "));
        assert!(line(&report, stream).starts_with(&expected), "{}", report.stderr);
        assert!(line(&report, stream).contains("null: the scope campaign_data was not granted"), "{}", report.stderr);
    }
    // Deselected fields are not named, and a route that is set is refused.
    let (report, code) = as_json(&fake, &json!({}), &["--select", "contact_activity_details.contact_id"]);
    assert_eq!((code, &report["streams"][0]["null_fields"]), (Some(0), &json!([])));
    let (report, code) = as_json(&fake, &json!({"activity_route": "campaigns"}), &["--select", REPORTS[0]]);
    assert_eq!((code, &report["streams"][0]["verdict"]), (Some(3), &json!("refused")));
    assert_eq!(
        tap_with(&fake, &json!({"activity_route": "campaigns"}), None, Some(&only(&[REPORTS[0]]))).code,
        Some(3)
    );
}

#[test]
fn fields_that_stay_null_without_a_privilege_are_named() {
    for (privilege, stream, field) in [
        ("contacts:lists:read", "contacts", "list_names"),
        ("ui:campaign:metrics", "email_campaigns", "unique_opens"),
        ("campaign:read", REPORTS[1], "link_url"),
    ] {
        let fake = fake();
        fake.tokens().privileges.retain(|had| had != privilege);
        let report = preflight(&fake, &json!({}), &[stream]);
        assert_eq!(report.code, Some(0), "{}", report.stderr);
        let line = line(&report, stream);
        assert!(line.contains(field) && line.contains(&format!("lacks the privilege {privilege}")), "{line}");
        assert!(!line.contains("campaign_id"), "{line}");
        let ran = tap_with(&fake, &json!({}), None, Some(&only(&[stream])));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let mut rows = ran.messages.iter().filter(|message| message["type"] == "RECORD");
        assert!(rows.all(|message| message["record"][field].is_null()), "{field}");
    }
}

#[test]
fn the_account_is_named_if_the_login_may_read_its_name() {
    let fake = fake();
    let (report, _) = as_json(&fake, &json!({}), &["--select", "contact_lists"]);
    assert_eq!(report["account"]["organization_name"], Value::Null);
    assert!(!fake.calls().iter().any(|call| call.path.contains("/account/summary")), "asked without the scope");
    fake.tokens().granted_scopes.push("account_read".into());
    let (report, _) = as_json(&fake, &json!({}), &["--select", "contact_lists"]);
    assert_eq!(report["account"]["organization_name"], "Example Bakery");
    assert_eq!(report["account"]["encoded_account_id"], "a07e1l8cdif9dl");
    assert_says(&preflight(&fake, &json!({}), &["contact_lists"]), &["Account: Example Bakery (a07e1l8cdif9dl); "]);
    fake.tokens().privileges.retain(|had| had != "account:read");
    let (report, code) = as_json(&fake, &json!({}), &["--select", "contact_lists"]);
    assert_eq!((code, &report["account"]["organization_name"]), (Some(0), &Value::Null));
}

#[test]
fn the_estimate_leaves_out_what_is_refused() {
    for scope in ["campaign_data", "contact_data"] {
        let fake = Fake::start(Account::generate(5, Size { contacts: 60, lists: 3, campaigns: 9 }));
        fake.tokens().granted_scopes.retain(|granted| granted != scope);
        let (report, code) = as_json(&fake, &json!({}), &[]);
        assert_eq!(code, Some(3));
        let planned = report["full_sync"]["calls"].as_f64().unwrap();
        let streams = report["streams"].as_array().unwrap().iter().filter(|stream| stream["verdict"] == "may_be_read");
        let readable: Vec<&str> = streams.map(|stream| stream["stream"].as_str().unwrap()).collect();
        fake.forget_calls();
        assert_eq!(tap_with(&fake, &json!({}), None, Some(&only(&readable))).code, Some(0));
        let made = f64::from(u32::try_from(fake.api_calls().len()).unwrap());
        assert!((planned - made).abs() <= 0.25 * made, "without {scope}: {planned} planned, {made} made");
    }
}

#[test]
fn a_privilege_that_the_user_lacks_is_named() {
    for (privilege, lost) in [
        ("contacts:read", &["contacts", REPORTS[0], REPORTS[1]][..]),
        ("contacts:lists:read", &["contact_lists"]),
        ("campaign:read", &["email_campaigns"]),
        ("ui:campaign:metrics", &REPORTS),
    ] {
        let fake = fake();
        fake.tokens().privileges.retain(|had| had != privilege);
        let ran = preflight(&fake, &json!({}), &[]);
        assert_eq!(ran.code, Some(3), "{privilege}: {}", ran.stderr);
        assert_refused(&ran, lost, &format!("lacks the privilege {privilege}"));
    }
}

#[test]
fn a_deactivated_application_is_named() {
    // Every call is refused, although no scope or privilege is missing.
    let all = fake();
    all.fault(Fault::always("/v3/", What::Forbidden));
    let ran = preflight(&all, &json!({}), &[]);
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
    assert!(line(&ran, "contact_lists").contains("the application is deactivated"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("Estimated full sync"), "{}", ran.stderr);
    // The list of privileges can be read, and none is missing.
    let rest = fake();
    rest.fault(Fault::always("/contact_lists", What::Forbidden));
    let ran = preflight(&rest, &json!({}), &["contact_lists"]);
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
    assert!(line(&ran, "contact_lists").contains("may be deactivated"), "{}", ran.stderr);
}

/// Makes the listing count this many contacts.
fn counting(fake: &Fake, contacts: u64) {
    let id = fake.account().contacts[0].id.clone();
    let body = json!({"contacts": [{"contact_id": *id}], "contacts_count": contacts});
    let what = What::Status(200, body.to_string(), "application/json");
    fake.fault(Fault::always("/contacts?", what));
}

#[test]
fn the_cost_names_route_calls_time_share_and_days() {
    let fake = fake();
    counting(&fake, 26_000);
    for (more, streams, words) in [
        // The fake listing has one page, whatever its count.
        (json!({"activity_route": "contacts"}), &REPORTS[..], &["by the contact route (set by activity_route)"][..]),
        (json!({"requests_per_second": 4}), &REPORTS, &["by the campaign route", "seconds at the pace"]),
        (json!({"requests_per_second": 1}), &["contacts"], &["about 57 calls: 57 seconds at the pace, 0.57 %"]),
        (json!({"page_size": 100}), &["contacts", "contact_lists"], &["about 265 calls", "2.65 %"]),
        (
            json!({"page_size": 100, "max_requests": 100}),
            &["contacts"],
            &["2.65 % of the daily quota, at least 3 runs at max_requests = 100"],
        ),
        (
            json!({"contact_ids": ["71600990-908b-11e6-907f-00166bff2500"]}),
            &REPORTS,
            &["about 3 calls", "by the contact route"],
        ),
    ] {
        let ran = preflight(&fake, &more, streams);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert_says(&ran, words);
        assert!(ran.stderr.contains("days") || !words.concat().contains("days"));
        assert!(!ran.stderr.contains("quota, 1 days"), "{}", ran.stderr);
    }
}

#[test]
fn an_account_without_contacts_and_a_contact_that_is_unknown_are_no_refusals() {
    let empty = fake();
    let body = json!({"contacts": [], "contacts_count": 0}).to_string();
    empty.fault(Fault {
        path: "/contacts?".into(),
        skip: 0,
        times: 1,
        what: What::Status(200, body, "application/json"),
    });
    let ran = preflight(&empty, &json!({"activity_route": "contacts"}), &REPORTS);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(line(&ran, REPORTS[0]).contains("no contact to try it on"), "{}", ran.stderr);

    let unknown = fake();
    let ran = preflight(&unknown, &json!({"contact_ids": ["nobody"]}), &REPORTS);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(line(&ran, REPORTS[1]), "may be read");
}

#[test]
fn an_access_token_alone_draws_a_note_that_it_ends() {
    let fake = fake();
    let folder = tempfile::tempdir().unwrap();
    let stored = json!({"token_file": folder.path().join("tokens.json")});
    assert_eq!(preflight(&fake, &stored, &["contact_lists"]).code, Some(0));
    let tokens: Value =
        serde_json::from_str(&std::fs::read_to_string(folder.path().join("tokens.json")).unwrap()).unwrap();
    let alone = json!({"refresh_token": null, "access_token": tokens["access_token"]});
    let ran = preflight(&fake, &alone, &["contact_lists"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_says(&ran, &["until the access token ends", "Scopes:  unknown"]);
    // The cause is unknown, so the message names all possible ones.
    fake.tokens().granted_scopes = vec!["campaign_data".into()];
    let ran = preflight(&fake, &alone, &["contact_lists"]);
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
    assert!(line(&ran, "contact_lists").contains("contact_data is missing, or the application"), "{}", ran.stderr);
}

#[test]
fn failures_other_than_refusals_have_their_own_exit_codes() {
    let fault = |path: &str, what| Some(Fault::always(path, what));
    for (more, fault, code, words) in [
        (json!({"refresh_token": "used-before"}), None, 3, "Log in again"),
        (json!({"client_secret": "another"}), None, 3, "invalid_client"),
        (json!({}), fault("/v3/", What::Unauthorized), 3, "refused as well"),
        (json!({"api_url": "http://127.0.0.1:1/v3", "max_retries": 0}), None, 1, "http://127.0.0.1:1"),
        (json!({"max_retries": 0}), fault("/token", What::Refuse), 1, "failed once: network"),
        (
            json!({"auth_url": "http://127.0.0.1:1/oauth2", "max_retries": 0}),
            None,
            1,
            "the authorization server, http://127.0.0.1:1/oauth2, failed once: ",
        ),
        (json!({"auth_url": "http://127.0.0.1:1/oauth2", "max_retries": 0}), None, 1, "check auth_url"),
        (json!({"max_retries": 0}), fault("/contact_lists", What::Html200), 1, "contact_lists"),
        (json!({"page_size": 0}), None, 2, "page_size"),
        (json!({"client_id": null}), None, 2, "client_id"),
        (json!({}), fault("/emails", What::QuotaExceeded), 4, "daily quota"),
    ] {
        let fake = fake();
        if let Some(fault) = fault {
            fake.fault(fault);
        }
        let ran = preflight(&fake, &more, &[]);
        assert_eq!(ran.code, Some(code), "{more}: {}", ran.stderr);
        let critical: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("CRITICAL ")).collect();
        assert!(critical.len() == 1 && critical[0].contains(words), "{more}: {}", ran.stderr);
    }
}
