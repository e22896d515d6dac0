//! `tap-constant-contact`: reads a Constant Contact account and writes Singer messages.
//!
//! # Codemap
//!
//! `config` parses and checks the settings, `catalog` the selection, `state` the bookmarks; `client` makes the calls
//! with the token that `auth` keeps; each file of `streams` knows one endpoint; `sync` ties them together and
//! `messages` writes. `preflight` is `--test`, `about` what the tap says of itself, `progress` what a terminal shows of a run. `schema` turns the record types of
//! `streams::records` into Singer schemas.
//!
//! # Invariants
//!
//! * Only `messages` writes to stdout, only `log` (and `progress`, on a terminal) to stderr.
//! * A bookmark in a STATE means that everything up to it stands before it on stdout.
//! * A rotated refresh token is on disk before the access token that came with it is used.

mod about;
mod auth;
mod catalog;
mod cli;
mod client;
mod config;
mod doctor;
mod error;
mod fanout;
mod field;
mod http;
mod id;
mod logger;
mod login;
mod messages;
mod preflight;
mod progress;
mod quota;
mod run;
mod schema;
mod signals;
mod spelling;
mod state;
mod stream;
mod streams;
mod sync;
mod timestamp;
mod window;

use std::io::{IsTerminal, Write, stderr};
use std::sync::Arc;

use chrono::Utc;

use crate::catalog::{Catalog, Entry};
use crate::cli::{Command, Format};
use crate::client::Client;
use crate::config::{Config, Kind, Source, command, read_as, sources, written_back};
use crate::error::Result;
use crate::messages::Messages;
use crate::state::State;
pub use cli::Args;
pub use error::Error;

/// Runs the tap: messages to `stdout`, all else to the process's stderr.
///
/// # Errors
/// Why the run ended early; its `CRITICAL` line has been written by then.
pub fn run(args: &Args, stdout: Box<dyn Write + Send>) -> std::result::Result<(), Error> {
    logger::start(args.log_format);
    let outcome = act(args, stdout);
    match &outcome {
        // The reader has what it wants: that is nobody's failure.
        Ok(()) | Err(Error::Closed) => {}
        Err(e) => logger::critical(&e.to_string()),
    }
    outcome
}

/// Parses a page of contacts and writes its records, without all that a sync does around them: what the benchmark
/// measures the tap against.
///
/// # Errors
/// When the page does not parse, or `out` does not take it.
#[doc(hidden)]
pub fn parse_and_write_contacts(page: &str, out: &mut impl Write) -> std::io::Result<()> {
    streams::parse_and_write_contacts(page, out)
}

fn act(args: &Args, stdout: Box<dyn Write + Send>) -> Result<()> {
    let messages = Arc::new(Messages::new(stdout));
    // Orchestrators pass all flags together: what needs none of the files comes first and does not look at them.
    if args.about {
        return messages.answer(about::text(args.format).as_bytes());
    }
    match &args.command {
        Some(Command::Completions { shell }) => return messages.answer(&about::completions(*shell)),
        Some(Command::Man { command }) => return messages.answer(&about::manual(command.as_deref())?),
        Some(Command::Login(_) | Command::Doctor(_)) | None => {}
    }
    let entries: Vec<Entry> = streams::ALL
        .iter()
        .map(|source| &source.stream)
        .map(|s| Entry { name: s.name, keys: s.keys, replication_key: s.replication_key, schema: (s.schema)() })
        .collect();
    if args.discover {
        messages.catalog(&catalog::discover(&entries))?;
        if stderr().is_terminal() {
            let configs: Vec<String> = args.config.iter().map(|path| path.display().to_string()).collect();
            let patterns = "--select contacts,email_campaigns --select '!contacts.notes'";
            logger::say(&format!("To read a part of this: {}", command(&configs, patterns)));
        }
        return Ok(());
    }
    let sources = sources(&args.config)?;
    for (path, text) in sources.iter().filter_map(Source::file) {
        auth::check_config(path, text);
    }
    let mut warnings = Vec::new();
    let config = Config::parse(&sources, Utc::now(), &mut warnings);
    warn(&warnings);
    let config = config?;
    let config_file = written_back(&sources);
    if let Some(Command::Login(options)) = &args.command {
        return login::login(&config, config_file, options, &messages);
    }
    if let Some(Command::Doctor(options)) = &args.command {
        let mut config = config;
        config.max_requests = Some(config.max_requests.map_or(doctor::MOST_CALLS, |most| most.min(doctor::MOST_CALLS)));
        let client = Arc::new(Client::new(&config, config_file)?);
        signals::end_on_signals(&messages, &client, "")?;
        return doctor::examine(&config, &client, options, &messages);
    }
    let catalog = selection(args, &entries)?;
    if args.test {
        if !matches!(args.format, Format::Text | Format::Json) {
            return Err(Error::Usage("--test answers as text or json: use --format json, or no --format".into()));
        }
        let client = Arc::new(Client::new(&config, config_file)?);
        signals::end_on_signals(&messages, &client, "")?;
        return preflight::test(&config, &client, &catalog, args.format);
    }
    let state = bookmarks(args)?;
    let client = Arc::new(Client::new(&config, config_file)?);
    signals::end_on_signals(&messages, &client, "; run again with the last STATE to go on")?;
    signals::end_on_closed_stdout(&client);
    let outcome = sync::sync(&config, &client, &catalog, state, &messages);
    // A refresh that another thread has under way has spent its token: what it brings must reach the disk.
    client.settle();
    outcome
}

/// The streams and fields to read: from the catalog, the patterns, or all.
fn selection(args: &Args, entries: &[Entry]) -> Result<Catalog> {
    let mut catalog = match &args.catalog {
        Some(path) => {
            let text = read_as(Kind::Catalog, path)?;
            let (catalog, warnings) = Catalog::parse(&text, entries).map_err(|e| e.context(path.display()))?;
            warn(&warnings.iter().map(|warning| format!("{}: {warning}", path.display())).collect::<Vec<_>>());
            catalog
        }
        None if args.select.is_empty() => Catalog::all(entries),
        None => Catalog::select(&args.select, entries)?,
    };
    catalog.read_full_table(&args.full_table, entries)?;
    Ok(catalog)
}

/// How far earlier runs got.
fn bookmarks(args: &Args) -> Result<State> {
    let Some(path) = &args.state else { return Ok(State::default()) };
    let text = read_as(Kind::State, path)?;
    let keys: Vec<_> = streams::ALL.iter().map(|source| (source.stream.name, source.stream.replication_key)).collect();
    State::parse(&text, &keys, Utc::now()).map_err(|e| e.context(path.display()))
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        ::log::warn!("{warning}");
    }
}
