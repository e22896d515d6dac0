//! What `--select` and `--full-table` read.

use std::collections::BTreeSet;

use fake::account::Size;
use fake::{Account, Fake, Switches};
use serde_json::{Value, json};

use crate::tap::{self, Ran, command, tap};

fn fake() -> Fake {
    let account = Account::generate(9, Size { contacts: 12, lists: 2, campaigns: 2 });
    Fake::start_with(account, Switches::long_lived())
}

fn run(fake: &Fake, arguments: &[&str], state: Option<&Value>) -> Ran {
    let config = tap::file(&fake.config());
    let state = state.map(tap::file);
    let mut command = command();
    command.arg("--config").arg(config.path()).args(arguments);
    if let Some(state) = &state {
        command.arg("--state").arg(state.path());
    }
    let ran = Ran::of(&command.output().unwrap());
    assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.stderr);
    ran
}

fn streams(ran: &Ran) -> Vec<&str> {
    let schemas = ran.messages.iter().filter(|message| message["type"] == "SCHEMA");
    schemas.map(|message| message["stream"].as_str().unwrap()).collect()
}

/// The fields in the SCHEMA of a stream, or of an object in it.
fn fields(ran: &Ran, stream: &str, pointer: &str) -> BTreeSet<String> {
    let is_schema = |message: &&Value| message["type"] == "SCHEMA" && message["stream"] == stream;
    let schema = &ran.messages.iter().find(is_schema).unwrap()["schema"];
    schema.pointer(&format!("{pointer}/properties")).unwrap().as_object().unwrap().keys().cloned().collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn patterns_select_streams_and_fields() {
    let fake = fake();
    let ran = run(&fake, &["--select", "contacts,contact_lists", "--select", "!contact_lists.name"], None);
    assert_eq!(streams(&ran), ["contact_lists", "contacts"]);
    assert!(!fields(&ran, "contact_lists", "").contains("name"));
    assert!(
        ran.messages
            .iter()
            .all(|message| message["stream"] != "contact_lists" || message["record"].get("name").is_none())
    );

    let ran =
        run(&fake, &["--select", "contacts.email_address.address", "--select", "contacts.phone_numbers.kind"], None);
    assert_eq!(streams(&ran), ["contacts"]);
    assert_eq!(fields(&ran, "contacts", ""), set(&["contact_id", "updated_at", "email_address", "phone_numbers"]));
    assert_eq!(fields(&ran, "contacts", "/properties/email_address"), set(&["address"]));
    assert_eq!(fields(&ran, "contacts", "/properties/phone_numbers/items"), set(&["kind"]));

    let ran = run(&fake, &["--select", "!contact_a*"], None);
    let others: Vec<&str> = tap::streams().iter().copied().filter(|stream| !stream.starts_with("contact_a")).collect();
    assert!(others.len() + 2 == tap::streams().len() && streams(&ran) == others, "{others:?}");
    let ran = run(&fake, &["--test", "--select", "contact_lists"], None);
    assert!(ran.stderr.contains("contact_lists") && !ran.stderr.contains("email_campaigns  "), "{}", ran.stderr);
    fake.violations();
}

#[test]
fn a_full_table_ignores_its_bookmark() {
    let fake = fake();
    let all = fake.account().contacts.len();
    let rows = |ran: &Ran| ran.messages.iter().filter(|message| message["type"] == "RECORD").count();
    let first = run(&fake, &["--select", "contacts"], None);
    assert_eq!(rows(&first), all);
    let state = first.last_state();
    assert!(rows(&run(&fake, &["--select", "contacts"], Some(&state))) < all);
    assert_eq!(rows(&run(&fake, &["--select", "contacts", "--full-table", "contacts"], Some(&state))), all);
}

#[test]
fn without_patterns_everything_is_read() {
    let ran = tap(&fake(), &json!({}), None);
    assert_eq!(streams(&ran), tap::streams());
}
