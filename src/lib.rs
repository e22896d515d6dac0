//! `tap-constant-contact`: reads a Constant Contact account and writes Singer messages.
//!
//! # Codemap
//!
//! `config` parses and checks the settings, `catalog` the selection, `state` the bookmarks. `client` makes the calls,
//! with the token that `auth` keeps. Each file of `streams` knows one endpoint, `run` is what it reads and writes with,
//! and `sync` is the loop over them. `messages` writes stdout. `logger` writes the log and `progress` what a terminal
//! shows of a run, both through `stderr`; `shown` makes text from outside safe to print. `signals` ends a run from
//! outside. `preflight` is `--test`, `about` what the tap says of itself, and `schema` turns record types into Singer
//! schemas.
//!
//! # Invariants
//!
//! * Only `messages` writes to stdout, only `stderr` (for `logger` and `progress`) to stderr.
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
mod shown;
mod signals;
mod state;
mod stderr;
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
use crate::progress::Progress;
use crate::signals::Ending;
use crate::state::State;
pub use cli::Args;
pub use error::Error;
pub use messages::Output;

/// Runs the tap: messages to `output`, all else to the process's stderr.
///
/// # Errors
/// Why the run ended early; its `CRITICAL` line has been written by then.
pub fn run(args: &Args, output: Output) -> std::result::Result<(), Error> {
    logger::start(args.log_format, output.is_terminal());
    let outcome = act(args, output);
    match &outcome {
        // The reader has what it wants: that is nobody's failure.
        Ok(()) | Err(Error::Closed) => {}
        Err(e) => logger::critical(&e.to_string()),
    }
    logger::finish();
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

fn act(args: &Args, output: Output) -> Result<()> {
    let (is_stdout, is_terminal) = (matches!(output, Output::Stdout), output.is_terminal());
    let messages = Arc::new(Messages::new(output));
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
        let renewing = Arc::clone(&client);
        signals::end_on_signals(Ending::new(&messages, move || renewing.is_renewing()))?;
        return preflight::test(&config, &client, &catalog);
    }
    let keys: Vec<_> = streams::ALL.iter().map(|source| (source.stream.name, source.stream.replication_key)).collect();
    let state = match &args.state {
        None => State::default(),
        Some(path) => State::parse(&read(path)?, &keys, Utc::now()).map_err(|e| e.context(path.display()))?,
    };
    let client = Arc::new(Client::new(&config, config_file)?);
    let progress = Progress::start(client.call_count(), config.requests_per_second);
    let (renewing, ended) = (Arc::clone(&client), Arc::clone(&progress));
    let ending = Ending {
        log_summary: Arc::new(move || ended.log_summary()),
        advice: ". All rows before the last STATE are safe; run again with the last STATE to continue",
        ..Ending::new(&messages, move || renewing.is_renewing())
    };
    if is_stdout {
        signals::end_on_closed_stdout(Arc::clone(&ending.is_renewing));
    }
    signals::end_on_signals(ending)?;
    let outcome = sync::sync(&config, &client, &catalog, state, &messages, &progress);
    // A refresh that another thread has under way has spent its token: what it brings must reach the disk.
    client.settle();
    if is_terminal && outcome.is_ok() {
        ::log::info!("these messages are for a target; to load them, pipe them into one: {}", pipe_into_target());
    }
    outcome
}

/// The command line of this run with a target behind it, to be pasted into a shell.
fn pipe_into_target() -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,".contains(c);
    let words = std::env::args_os().map(|word| {
        let word = word.to_string_lossy();
        let quoted = format!("'{}'", word.replace('\'', r"'\''"));
        if !word.is_empty() && word.chars().all(is_plain) { word.into_owned() } else { quoted }
    });
    words.chain(["| target-jsonl".to_owned()]).collect::<Vec<_>>().join(" ")
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        ::log::warn!("{warning}");
    }
}
