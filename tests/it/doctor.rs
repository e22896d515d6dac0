//! `doctor` against the fake account with every switch.

use std::collections::BTreeMap;
use std::process::Output;

use chrono::TimeDelta;
use fake::account::{Moves, Size};
use fake::{Account, Case, Fake, Kind, Switches};
use serde_json::{Value, json};

use crate::tap::{command, config, file};

/// Runs `doctor` with `more` settings.
fn examine(fake: &Fake, more: &Value, arguments: &[&str]) -> Output {
    let config = file(&config(fake, more));
    command().args(["doctor", "--config"]).arg(config.path()).args(arguments).output().unwrap()
}

/// The findings by name, and the exit code.
fn findings(fake: &Fake, more: &Value) -> (BTreeMap<String, Value>, Option<i32>) {
    let output = examine(fake, more, &["--format", "json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {stderr}"));
    assert!(report["calls"].as_u64().unwrap() <= 200, "{}", report["calls"]);
    assert_eq!(report["calls"].as_u64().unwrap(), fake.api_calls().len() as u64);
    let findings = report["findings"].as_array().unwrap();
    let loses = findings.iter().any(|finding| finding["loses_data"] == true);
    assert_eq!(output.status.code(), Some(if loses { 5 } else { 0 }), "{report:#}\n{stderr}");
    let by_id = findings.iter().map(|finding| (finding["id"].as_str().unwrap().to_owned(), finding.clone()));
    (by_id.collect(), output.status.code())
}

/// An account whose rows show which changes move `updated_at`. `moves` sets which ones do.
fn account(moves: Moves, opt_outs_move: bool) -> Account {
    let mut account = Account::generate(7, Size { contacts: 120, lists: 4, campaigns: 4 }).with_all_details();
    account.moves = moves;
    account.contacts.iter_mut().for_each(|contact| {
        contact.deleted_at = None;
        contact.notes.clear();
        if let Some(email) = &mut contact.email {
            email.opt_out_date = None;
            email.permission = "implicit";
        }
    });
    for one in 0..6 {
        account.delete(10 + one);
        account.add_note(20 + one, "A note");
        account.sms_opt_out(Case::Sms);
        account.unsubscribe(30 + one);
        if opt_outs_move {
            account.contacts[30 + one].updated_at = account.contacts[30 + one].opt_out_date().unwrap();
        }
    }
    account
}

const STAYS: Moves = Moves { lists: false, tags: false, notes: false, sms: false, delete: false };
const MOVES: Moves = Moves { lists: true, tags: true, notes: true, sms: true, delete: true };

#[test]
fn every_switch_is_recognized() {
    let plain = Switches::long_lived;
    let (moving, staying) = (|| account(MOVES, false), || account(STAYS, false));
    // Finding, account, switches and verdict.
    let table: Vec<(&str, Account, Switches, &str)> = vec![
        ("updated_after_is_inclusive", moving(), Switches { updated_after_inclusive: true, ..plain() }, "confirmed"),
        ("updated_after_is_inclusive", moving(), plain(), "refuted"),
        ("optout_after_is_inclusive", moving(), Switches { updated_after_inclusive: true, ..plain() }, "confirmed"),
        ("optout_after_is_inclusive", moving(), plain(), "refuted"),
        ("opt_outs_move_updated_at", account(MOVES, true), plain(), "confirmed"),
        ("opt_outs_move_updated_at", moving(), plain(), "refuted"),
        ("deletions_move_updated_at", moving(), plain(), "confirmed"),
        ("deletions_move_updated_at", staying(), plain(), "refuted"),
        ("notes_move_updated_at", moving(), plain(), "confirmed"),
        ("notes_move_updated_at", staying(), plain(), "refuted"),
        ("consents_move_updated_at", staying(), plain(), "refuted"),
        // Memberships and tags have no date, so reads cannot tell.
        ("list_memberships_move_updated_at", moving(), plain(), "cannot_tell"),
        ("list_memberships_move_updated_at", staying(), plain(), "cannot_tell"),
        ("tags_move_updated_at", moving(), plain(), "cannot_tell"),
        ("tags_move_updated_at", staying(), plain(), "cannot_tell"),
        ("deleted_contacts_keep_their_reports", moving(), plain(), "confirmed"),
        (
            "deleted_contacts_keep_their_reports",
            moving(),
            Switches { deleted_contact_reports_404: true, ..plain() },
            "refuted",
        ),
        ("page_size_1000_is_honoured", moving(), Switches { lists_limit_1000_ok: true, ..plain() }, "confirmed"),
        ("page_size_1000_is_honoured", moving(), plain(), "refuted"),
        ("contacts_are_all_listed", moving(), plain(), "confirmed"),
        ("contacts_are_all_listed", moving(), Switches { contacts_counted_too_many: 3, ..plain() }, "refuted"),
    ];
    for (finding, account, switches, verdict) in table {
        let fake = Fake::start_with(account, switches);
        let (found, _) = findings(&fake, &json!({}));
        assert_eq!(found[finding]["verdict"], verdict, "{:#}", found[finding]);
    }
}

#[test]
fn a_campaign_is_compared_with_its_counts_and_its_contacts() {
    let mut account = account(MOVES, false);
    let ids: Vec<_> = account.contacts.iter().map(|contact| contact.id.clone()).collect();
    let activity = account.send_campaign("Settled", &ids[40..90]);
    for one in 40..60 {
        account.open(one, &activity);
        account.open(one, &activity);
    }
    for row in account.activities.iter_mut().filter(|row| row.activity_id == activity) {
        row.at -= TimeDelta::days(3);
    }
    let campaign = account.campaigns.last_mut().unwrap();
    campaign.activities[0].sent_at = campaign.activities[0].sent_at.map(|at| at - TimeDelta::days(3));
    // Activities whose reports the service refuses cost no campaign.
    (0..account.campaigns.len()).for_each(|campaign| account.add_undocumented_roles(campaign));
    let fake = Fake::start_with(account, Switches::long_lived());
    let (found, code) = findings(&fake, &json!({}));
    for finding in ["both_routes_give_the_same_rows", "unique_counts_are_those_of_the_rows"] {
        assert_eq!(found[finding]["verdict"], "confirmed", "{:#}", found[finding]);
    }
    assert_eq!(code, Some(0));
    assert!(fake.api_calls().iter().any(|call| call.path.contains("/tracking/") && call.status == 400));
}

#[test]
fn activity_without_a_listed_campaign_is_a_loss_on_the_campaign_route() {
    let mut account = account(MOVES, false);
    let ids: Vec<_> = account.contacts.iter().map(|contact| contact.id.clone()).collect();
    for contact in &ids {
        account.activities.push(fake::account::Row {
            contact_id: contact.clone(),
            activity_id: "0a0a0a0a-0000-11ef-8000-000000000000".into(),
            kind: Kind::Sends,
            at: account.contacts[0].created_at,
        });
    }
    let fake = Fake::start_with(account, Switches::long_lived());
    let name = "all_activity_is_of_listed_campaigns";
    let (found, code) = findings(&fake, &json!({}));
    assert_eq!((&found[name]["verdict"], code), (&json!("refuted"), Some(5)), "{:#}", found[name]);
    assert!(found[name]["setting"].as_str().unwrap().contains("activity_route"));
    // Ids only with --show-ids.
    assert_eq!(found[name]["ids"], json!([]));
    let shown = examine(&fake, &json!({}), &["--show-ids"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("0a0a0a0a-0000-11ef-8000-000000000000"));
    fake.forget_calls();
    let (_, code) = findings(&fake, &json!({"activity_route": "contacts"}));
    assert_eq!(code, Some(0));
}

#[test]
fn changes_that_only_complete_reads_find_are_a_loss_without_them() {
    let fake = Fake::start_with(account(STAYS, false), Switches::long_lived());
    let (found, code) = findings(&fake, &json!({"contacts_full_refresh_days": 0}));
    assert_eq!((&found["notes_move_updated_at"]["loses_data"], code), (&json!(true), Some(5)));
    let text = String::from_utf8(examine(&fake, &json!({"contacts_full_refresh_days": 0}), &[]).stdout).unwrap();
    let last = text.lines().last().unwrap();
    assert!(
        last.starts_with("Result: data are lost under the present settings (") && last.contains("notes_"),
        "{text}"
    );
    fake.forget_calls();
    assert_eq!(findings(&fake, &json!({})).1, Some(0));
}

#[test]
fn the_report_has_no_personal_data() {
    let account = account(MOVES, false);
    let people: Vec<String> = account
        .contacts
        .iter()
        .flat_map(|contact| {
            let address = contact.email.as_ref().map(|email| email.address.clone());
            [Some(contact.id.to_string()), address, contact.last_name.clone()]
        })
        .flatten()
        .filter(|text| text.trim().len() > 3)
        .collect();
    let fake = Fake::start_with(account, Switches::long_lived());
    for format in ["text", "json"] {
        let output = examine(&fake, &json!({}), &["--format", format, "--show-ids"]);
        let shown = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        let found: Vec<&String> = people.iter().filter(|text| shown.contains(text.as_str())).collect();
        assert_eq!(found, Vec::<&String>::new(), "{shown}");
    }
}

#[test]
fn an_empty_account_and_a_login_without_scopes_get_a_report() {
    let fake = Fake::start_with(Account::empty(), Switches::long_lived());
    let (found, code) = findings(&fake, &json!({}));
    assert_eq!((found.len() > 10, code), (true, Some(0)));
    for scope in ["contact_data", "campaign_data"] {
        let fake = Fake::start_with(account(MOVES, false), Switches::long_lived());
        fake.tokens().granted_scopes.retain(|granted| granted != scope);
        let (found, _) = findings(&fake, &json!({}));
        let finding = if scope == "contact_data" { "contacts_are_all_listed" } else { "campaigns_can_be_listed" };
        assert_eq!(found[finding]["verdict"], "cannot_tell", "{:#}", found[finding]);
    }
}

#[test]
fn a_large_account_is_sampled_within_two_hundred_calls() {
    let fake = Fake::start_with(
        Account::generate(26, Size { contacts: 26_000, lists: 5, campaigns: 22 }),
        Switches::long_lived(),
    );
    let (found, _) = findings(&fake, &json!({}));
    assert_eq!(found["contacts_are_all_listed"]["verdict"], "confirmed");
    assert!(fake.api_calls().len() < 200);
}

/// `UPDATE=1` rewrites it.
#[test]
fn the_sample_in_the_documents_is_what_the_command_writes() {
    let day = "2026-01-15T12:00:00Z".parse().unwrap();
    let account = Account::generate_at(1, Size { contacts: 300, lists: 6, campaigns: 10 }, day).with_all_details();
    let fake = Fake::start_with(account, Switches::long_lived());
    let output = examine(&fake, &json!({}), &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    let shown = [
        "The listing of contacts",
        "An unsubscribe moves",
        "A campaign's rows are the same",
        "Result: no loss of data",
    ];
    let found = shown.map(|beginning| {
        let paragraph = text.split("\n\n").find(|paragraph| paragraph.starts_with(beginning));
        paragraph.unwrap_or_else(|| panic!("{beginning}: {text}")).trim_end()
    });
    let sample = found.join("\n\n");
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/doctor.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("```\nThe listing").unwrap();
    let (_, after) = rest.split_once("```").unwrap();
    let expected = format!("{before}```\n{sample}\n```{after}");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), expected, "docs/doctor.md is stale: run with UPDATE=1");
}
