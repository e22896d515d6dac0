//! Serves an invented account on the loopback, for trying the tap with whatever reads Singer messages.
//!
//! `cargo run --release --example fake_account -- FOLDER` writes `FOLDER/config.json` for the tap, and what the account
//! holds as `FOLDER/truth/STREAM.json`. Then it takes commands on stdin: `change` (people are renamed, unsubscribe,
//! come and go, a campaign is sent) writes the truth anew; `deny` and `allow` say what its user answers to a login from
//! now on; `tokens` answers how many refreshes there were, and how many times a token that was spent came back; `quit`, or
//! the end of stdin, ends it.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Parser;
use fake::account::Size;
use fake::{Account, Fake, Id};
use serde_json::{Value, json};

#[derive(Parser)]
struct Args {
    /// Where config.json and the truth go
    folder: PathBuf,
    /// How many contacts the account has
    #[arg(long, default_value_t = 300)]
    contacts: usize,
    /// A redirect URI of the application, beside the usual one
    #[arg(long)]
    redirect_uri: Option<String>,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let mut account = Account::generate(1, Size { contacts: args.contacts, lists: 6, campaigns: 10 });
    // The rows of a campaign that is unknown one by one would only come on the contact route.
    for campaign in &mut account.campaigns {
        campaign.detail_404 = false;
    }
    let fake = Fake::start(account);
    fake.tokens().redirect_uris.extend(args.redirect_uri);
    fs::create_dir_all(args.folder.join("truth"))?;
    let mut config = fake.config();
    // As long as the fake runs, campaigns are sent and opened: none is old.
    config["activity_lookback_days"] = json!(3650);
    fs::write(args.folder.join("config.json"), format!("{config:#}\n"))?;
    write_truth(&fake, &args.folder)?;
    say(&format!("ready at {}", fake.api_url()))?;
    for line in io::stdin().lines() {
        match line?.trim() {
            "change" => {
                change(&mut fake.account());
                write_truth(&fake, &args.folder)?;
                say("changed")?;
            }
            answer @ ("deny" | "allow") => {
                fake.tokens().deny_consent = answer == "deny";
                say(answer)?;
            }
            "tokens" => {
                let tokens = fake.tokens();
                say(&json!({"refreshes": tokens.refreshes, "reuses": tokens.reuses}).to_string())?;
            }
            "quit" => break,
            other => say(&format!("no such command: {other:?}"))?,
        }
    }
    Ok(())
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{text}")?;
    out.flush()
}

fn write_truth(fake: &Fake, folder: &Path) -> io::Result<()> {
    for stream in ["contact_lists", "email_campaigns", "contacts", "contact_action_summary", "contact_activity_details"]
    {
        let rows = Value::from(fake.account().truth(stream));
        fs::write(folder.join("truth").join(format!("{stream}.json")), rows.to_string())?;
    }
    Ok(())
}

/// What may happen to an account in a day.
fn change(account: &mut Account) {
    let active: Vec<Id> = account.contacts.iter().filter(|c| c.status() == "active").map(|c| c.id.clone()).collect();
    account.rename(&active[0], "Renamed");
    account.unsubscribe(&active[1]);
    account.delete(&active[2]);
    account.add_contact();
    let activity = account.send_campaign("News of the day", &active[3..]);
    for reader in &active[3..active.len() / 2] {
        account.open(reader, &activity);
    }
}
