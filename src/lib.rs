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
mod secret;
mod shown;
mod signals;
mod state;
mod stream;
mod streams;
mod sync;
mod timestamp;
mod window;

use std::io::Write;
use std::sync::Arc;

use chrono::Utc;

use crate::catalog::{Catalog, Entry};
use crate::cli::Command;
use crate::client::Client;
use crate::config::{Config, read, sources, written_back};
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
    // What needs none of the files comes first, since orchestrators pass all flags together.
    if args.about {
        return messages.answer(about::text(args.format).as_bytes());
    }
    match &args.command {
        Some(Command::Completions { shell }) => return messages.answer(&about::completions(*shell)),
        Some(Command::Man { command }) => return messages.answer(&about::manual(command.as_deref())?),
        Some(Command::Login(_)) | None => {}
    }
    let entries: Vec<Entry> = streams::ALL
        .iter()
        .map(|source| &source.stream)
        .map(|s| Entry { name: s.name, keys: s.keys, replication_key: s.replication_key, schema: (s.schema)() })
        .collect();
    if args.discover {
        return messages.catalog(&catalog::discover(&entries));
    }
    let mut warnings = Vec::new();
    let config = Config::parse(&sources(&args.config)?, Utc::now(), &mut warnings);
    warn(&warnings);
    let config = config?;
    let config_file = written_back(&args.config);
    if let Some(Command::Login(options)) = &args.command {
        return login::login(&config, config_file, options, &messages);
    }
    let catalog = match &args.catalog {
        None => Catalog::all(&entries),
        Some(path) => {
            let (catalog, warnings) = Catalog::parse(&read(path)?, &entries).map_err(|e| e.context(path.display()))?;
            warn(&warnings);
            catalog
        }
    };
    if args.test {
        let client = Arc::new(Client::new(&config, config_file)?);
        signals::end_on_signals(&messages, &client, "")?;
        return preflight::test(&config, &client, &catalog);
    }
    let keys: Vec<_> = streams::ALL.iter().map(|source| (source.stream.name, source.stream.replication_key)).collect();
    let state = match &args.state {
        None => State::default(),
        Some(path) => State::parse(&read(path)?, &keys, Utc::now()).map_err(|e| e.context(path.display()))?,
    };
    let client = Arc::new(Client::new(&config, config_file)?);
    signals::end_on_signals(&messages, &client, "; run again with the last STATE to go on")?;
    signals::end_on_closed_stdout(&client);
    let outcome = sync::sync(&config, &client, &catalog, state, &messages);
    // A refresh that another thread has under way has spent its token: what it brings must reach the disk.
    client.settle();
    outcome
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        ::log::warn!("{warning}");
    }
}
