//! The fake account as a program: a demonstration of the tap, and an account to log in to and to change.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::{Parser, Subcommand};
use fake_constant_contact::account::Size;
use fake_constant_contact::{Account, Fake, Fault, Id, What};
use serde_json::{Map, Value, json};

/// A fake Constant Contact account on this machine: no credentials, no network.
#[derive(Parser)]
#[command(name = "fake-account")]
struct Args {
    #[command(subcommand)]
    command: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Read the whole account with the tap (the default). On a terminal it shows a summary; in a pipe it writes the tap's
    /// Singer messages
    Demo,
    /// Serve the account until stdin ends, with configs for the tap in a folder
    Serve {
        /// The folder for config.json, login.json and the rows that a full read must write (truth/STREAM.json)
        folder: PathBuf,
        /// Which account: each number gives a different one
        #[arg(long, default_value_t = 1)]
        account: u64,
        /// How many contacts the account has
        #[arg(long, default_value_t = 300)]
        contacts: usize,
        /// A redirect URI of the application, beside <http://localhost:8910/callback>
        #[arg(long)]
        redirect_uri: Option<String>,
    },
    /// Run the tap itself
    #[command(hide = true)]
    Tap {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// The columns for the sample row of a stream: the first four that it has.
const COLUMNS: [&str; 18] = [
    "email",
    "name",
    "status",
    "current_status",
    "subject",
    "membership_count",
    "channel_type",
    "first_name",
    "list_names",
    "unique_opens",
    "contact_id",
    "tracking_activity_type",
    "start_on",
    "created_time",
    "em_opens",
    "em_clicks",
    "device_type",
    "created_at",
];

/// The streams that `--discover` lists.
fn streams() -> io::Result<Vec<String>> {
    let found = Command::new(std::env::current_exe()?).args(["tap", "--discover"]).output()?;
    let catalog: Value = serde_json::from_slice(&found.stdout)?;
    let names = catalog["streams"].as_array().into_iter().flatten().map(|entry| &entry["tap_stream_id"]);
    Ok(names.filter_map(Value::as_str).map(str::to_owned).collect())
}

/// The cells of a sample row.
fn cells(row: &Map<String, Value>) -> Vec<String> {
    let columns = COLUMNS.iter().filter_map(|column| row.get(*column));
    columns.take(4).filter_map(shown).collect()
}

fn main() -> ExitCode {
    let outcome = match Args::parse().command.unwrap_or(Action::Demo) {
        Action::Demo => demo(),
        Action::Serve { folder, account, contacts, redirect_uri } => {
            serve(&folder, account, contacts, redirect_uri).map(|()| ExitCode::SUCCESS)
        }
        Action::Tap { arguments } => return tap(&arguments),
    };
    outcome.unwrap_or_else(|e| {
        let _ = writeln!(io::stderr(), "fake-account: {e}");
        ExitCode::FAILURE
    })
}

fn tap(arguments: &[String]) -> ExitCode {
    let name = "tap-constant-contact".to_owned();
    let args = tap_constant_contact::Args::parse_from([&name].into_iter().chain(arguments));
    match tap_constant_contact::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => ExitCode::from(e.exit_code()),
    }
}

fn account(seed: u64, contacts: usize, campaigns: usize) -> Account {
    Account::generate(seed, Size { contacts, lists: 6, campaigns }).with_all_details()
}

fn demo() -> io::Result<ExitCode> {
    let fake = Fake::start(account(1, 60, 8));
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("config.json");
    write_private(&config, &fake.config())?;
    let mut tap = Command::new(std::env::current_exe()?);
    tap.arg("tap").arg("--config").arg(&config);
    if !io::stdout().is_terminal() {
        let status = tap.status()?;
        return Ok(code(status.code()));
    }
    // In a new folder, since another user could have made a file or link under a fixed name.
    let path = tempfile::Builder::new().prefix("fake-account-").tempdir()?.keep().join("messages.jsonl");
    let mut file = BufWriter::new(File::create(&path)?);
    let mut child = tap.env("LOGLEVEL", "WARNING").stdout(Stdio::piped()).spawn()?;
    let mut summary = Summary::default();
    if let Some(out) = child.stdout.take() {
        for line in BufReader::new(out).lines() {
            let line = line?;
            writeln!(file, "{line}")?;
            summary.count(&line);
        }
    }
    file.flush()?;
    let status = child.wait()?;
    let mut out = io::stdout();
    writeln!(out, "\n{:<26} {:>6}  for example", "stream", "rows")?;
    for stream in streams()? {
        let (rows, sample) = summary.of(&stream);
        let cells = sample.map(cells).unwrap_or_default();
        writeln!(out, "{stream:<26} {rows:>6}  {}", cells.join(" · "))?;
    }
    writeln!(
        out,
        "\n{} API calls, of the 10,000 that a day allows. The messages are in {}\n\n\
         Next, in a pipe it writes them to stdout:\n\n    \
         cargo demo | your-target --config target.json\n\n\
         Or log in to a fake account that you can change and read again:\n\n    \
         cargo demo serve play",
        fake.api_calls().len(),
        path.display()
    )?;
    Ok(code(status.code()))
}

fn code(code: Option<i32>) -> ExitCode {
    code.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// For each stream, the number of rows so far, and the row with the most cells to show.
#[derive(Default)]
struct Summary(Vec<(String, usize, Map<String, Value>)>);

impl Summary {
    fn count(&mut self, line: &str) {
        let Ok(Value::Object(mut message)) = serde_json::from_str(line) else { return };
        let (Some(stream), Some(Value::Object(record))) =
            (message.get("stream").and_then(Value::as_str).map(str::to_owned), message.remove("record"))
        else {
            return;
        };
        match self.0.iter_mut().find(|(name, ..)| *name == stream) {
            Some((_, rows, sample)) => {
                *rows += 1;
                if cells(&record).len() > cells(sample).len() {
                    *sample = record;
                }
            }
            None => self.0.push((stream, 1, record)),
        }
    }

    fn of(&self, stream: &str) -> (usize, Option<&Map<String, Value>>) {
        let found = self.0.iter().find(|(name, ..)| name == stream);
        found.map_or((0, None), |(_, rows, sample)| (*rows, Some(sample)))
    }
}

/// A value, shortened to 24 characters; `None` if it is empty.
fn shown(value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => return None,
        Value::String(text) => text.split_whitespace().collect::<Vec<_>>().join(" "),
        Value::Array(items) if items.is_empty() => return None,
        Value::Array(items) => items.iter().filter_map(shown).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    let short: String = text.chars().take(24).collect();
    (!text.is_empty()).then(|| if short.len() < text.len() { format!("{short}…") } else { short })
}

const HELP: &str = "\
Type a word and press Enter:
  change   one contact each is renamed, unsubscribed, deleted and added; a campaign is sent and opened
  quota    use up the daily quota
  noscope  take the scope campaign_data from the login
  revoke   revoke the grant: the tap must log in again
  heal     undo quota and noscope (a revoked grant needs a new login)
  deny     deny consent to the next logins
  allow    undo deny
  tokens   show how many times the tap refreshed its token, and how many times it sent a used one
  quit     stop (so does the end of stdin)";

fn serve(folder: &Path, seed: u64, contacts: usize, redirect_uri: Option<String>) -> io::Result<()> {
    let fake = Fake::start(account(seed, contacts, 10));
    fake.tokens().redirect_uris.extend(redirect_uri);
    fs::create_dir_all(folder.join("truth"))?;
    let mut config = fake.config();
    write_private(&folder.join("config.json"), &config)?;
    // The same application without a login.
    if let Some(login) = config.as_object_mut() {
        login.remove("refresh_token");
        login.insert("token_file".into(), json!(folder.join("tokens.json")));
    }
    write_private(&folder.join("login.json"), &config)?;
    write_truth(&fake, folder)?;
    say(&format!("ready at {}", fake.api_url()))?;
    if io::stdin().is_terminal() {
        let at = folder.display();
        say(&format!(
            "\nIn another terminal, with a config that works as it is:\n\n    \
             tap-constant-contact --config {at}/config.json --test\n\nOr log in first:\n\n    \
             tap-constant-contact login --config {at}/login.json\n\n{HELP}"
        ))?;
    }
    for line in io::stdin().lines() {
        match line?.trim() {
            "change" => {
                change(&mut fake.account());
                write_truth(&fake, folder)?;
                say("changed")?;
            }
            "quota" => {
                fake.fault(Fault::always("/v3/", What::QuotaExceeded));
                say("the daily quota is used up")?;
            }
            "noscope" => {
                fake.tokens().granted_scopes.retain(|scope| scope != "campaign_data");
                say("the scope campaign_data is gone")?;
            }
            "revoke" => {
                fake.tokens().revoke_grant();
                say("the grant is revoked")?;
            }
            "heal" => {
                fake.heal();
                let mut tokens = fake.tokens();
                if !tokens.granted_scopes.iter().any(|scope| scope == "campaign_data") {
                    tokens.granted_scopes.push("campaign_data".into());
                }
                drop(tokens);
                say("healed")?;
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
            "" => {}
            other => say(&format!("unknown word: {other:?}\n{HELP}"))?,
        }
    }
    Ok(())
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Writes a file that only its owner may read, since it has secrets.
fn write_private(path: &Path, content: &Value) -> io::Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    writeln!(options.open(path)?, "{content:#}")
}

fn write_truth(fake: &Fake, folder: &Path) -> io::Result<()> {
    for stream in streams()? {
        let rows = Value::from(fake.account().truth(&stream));
        fs::write(folder.join("truth").join(format!("{stream}.json")), rows.to_string())?;
    }
    let bounces = Value::from(fake.account().bounces());
    fs::write(folder.join("truth").join("bounces.json"), bounces.to_string())?;
    let clicks = Value::from(fake.account().clicks());
    fs::write(folder.join("truth").join("clicks.json"), clicks.to_string())
}

/// Changes the account as a day might.
fn change(account: &mut Account) {
    let active: Vec<Id> = account.contacts.iter().filter(|c| c.status() == "active").map(|c| c.id.clone()).collect();
    let [renamed, leaving, gone, rest @ ..] = active.as_slice() else { return };
    account.rename(renamed, "Renamed");
    account.unsubscribe(leaving);
    account.delete(gone);
    account.add_contact();
    let activity = account.send_campaign("News of the day", rest);
    for reader in &rest[..rest.len() / 2] {
        account.open(reader, &activity);
    }
}
