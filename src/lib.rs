//! `tap-constant-contact`: reads a Constant Contact account and writes Singer messages.
//!
//! # Codemap
//!
//! A run goes from top to bottom:
//!
//! * `cli` is the command line, `config` the settings, `catalog` the selection of streams and fields, `state` the
//!   bookmarks.
//! * `client` makes the API calls, with the access token that `auth` keeps valid.
//! * `streams` has a file for each stream. `run` is what a stream reads and writes with, `sync` the loop over all of them.
//! * `messages` writes the Singer messages, `logger` and `progress` what a person reads, both through `stderr`. `shown`
//!   makes text from outside safe to print. `signals` ends a run from outside.
//! * `login`, `preflight` (`--test`) and `about` are what the tap does besides syncing.
//!
//! # Invariants
//!
//! * Only `messages` writes to stdout; only `stderr`, for `logger` and `progress`, writes to stderr.
//! * Everything that a bookmark in a STATE covers has been written to stdout before it.
//! * A rotated refresh token is on disk before the access token that came with it is used.

mod about;
mod auth;
mod catalog;
mod cli;
mod client;
mod config;
mod doctor;
mod error;
mod extent;
mod fanout;
mod field;
mod http;
mod id;
mod logger;
mod login;
mod messages;
mod odd_rows;
mod preflight;
mod progress;
mod quota;
mod run;
mod schema;
mod secret;
mod shown;
mod signals;
mod spelling;
mod state;
mod stderr;
mod stream;
mod streams;
mod sync;
mod timestamp;
mod window;

use std::io::{IsTerminal, Write, stderr};
use std::path::PathBuf;
use std::sync::Arc;

use chrono::Utc;

use crate::catalog::Catalog;
use crate::cli::{Command, Format};
use crate::client::Client;
use crate::config::{Config, Kind, Source, command, quoted, read_as, sources, written_back};
use crate::error::Result;
use crate::messages::Messages;
use crate::progress::Progress;
use crate::signals::Ending;
use crate::state::State;
use crate::stream::Stream;
pub use cli::Args;
pub use error::Error;
pub use messages::Output;

/// Runs the tap: messages to `output`, everything else to the process's stderr.
///
/// # Errors
/// Why the run ended early. The `CRITICAL` line that says so is written already.
pub fn run(args: &Args, output: Output) -> std::result::Result<(), Error> {
    logger::start(args.log_format, output.is_terminal());
    let outcome = act(args, output);
    match &outcome {
        // The reader of stdout has what it wants, so nothing failed.
        Ok(()) | Err(Error::Closed) => {}
        Err(e) => logger::critical(&e.to_string()),
    }
    logger::finish();
    outcome
}

/// Parses a page of contacts and writes its records, without anything else that a sync does: the benchmark compares the
/// tap with it.
///
/// # Errors
/// When the page does not parse, or `out` does not take it.
#[doc(hidden)]
pub fn parse_and_write_contacts(page: &str, out: &mut impl Write) -> std::io::Result<()> {
    streams::parse_and_write_contacts(page, out)
}

/// Does what the arguments say: describes the tap, logs in, examines the account, tries the login, or syncs.
fn act(args: &Args, output: Output) -> Result<()> {
    let stdout = Stdout { is_target: matches!(output, Output::Stdout), is_terminal: output.is_terminal() };
    let messages = Arc::new(Messages::new(output));
    // Orchestrators pass all flags together: what needs none of the files comes first and does not look at them.
    if args.about {
        return messages.answer(about::text(args.format).as_bytes());
    }
    match &args.command {
        Some(Command::Completions { shell }) => return messages.answer(&about::completions(*shell)),
        Some(Command::Man { command }) => return messages.answer(&about::manual(command.as_deref())?),
        Some(Command::Login(_) | Command::Doctor(_)) | None => {}
    }
    if args.discover {
        return discover(args, &messages);
    }
    let (mut config, config_file) = settings(args)?;
    match &args.command {
        Some(Command::Login(options)) => return login::login(&config, config_file, options, &messages),
        Some(Command::Doctor(options)) => {
            let most = config.max_requests.map_or(doctor::MOST_CALLS, |most| most.min(doctor::MOST_CALLS));
            config.max_requests = Some(most);
            let client = client(&config, config_file, &messages)?;
            return doctor::examine(&config, &client, options, &messages);
        }
        _ => {}
    }
    let catalog = selection(args)?;
    if args.test {
        if !matches!(args.format, Format::Text | Format::Json) {
            return Err(Error::Usage("--test answers as text or json: use --format json, or no --format".into()));
        }
        if args.state.is_some() {
            ::log::info!("--test reads no state: it estimates the cost of a full sync");
        }
        let client = client(&config, config_file, &messages)?;
        return preflight::test(&config, &client, &catalog, args.format, &messages);
    }
    let state = bookmarks(args, &config, &catalog)?;
    sync(&config, config_file, &catalog, state, &messages, stdout)
}

/// Writes the catalog, and says on a terminal how to read a part of it.
fn discover(args: &Args, messages: &Messages) -> Result<()> {
    messages.catalog(&catalog::discover(streams::all()))?;
    if stderr().is_terminal() {
        let configs: Vec<String> = args.config.iter().map(|path| path.display().to_string()).collect();
        let example = command(&configs, &streams::example_selection());
        logger::say(&format!("To read a part of this: {example}"));
    }
    Ok(())
}

/// The settings, and the config file that new tokens may be written to.
fn settings(args: &Args) -> Result<(Config, Option<PathBuf>)> {
    let sources = match &args.command {
        Some(Command::Login(options)) => sources(&login::complete(args.config.clone(), options.device)?)?,
        _ => sources(&args.config)?,
    };
    for (path, text) in sources.iter().filter_map(Source::file) {
        auth::warn_if_config_is_readable(path, text);
    }
    let mut warnings = Vec::new();
    let config = Config::parse(&sources, Utc::now(), &mut warnings);
    warn(&warnings);
    Ok((config?, written_back(&sources)))
}

/// What is known of stdout.
#[derive(Clone, Copy)]
struct Stdout {
    /// Whether the messages go there.
    is_target: bool,
    is_terminal: bool,
}

fn sync(
    config: &Config,
    config_file: Option<PathBuf>,
    catalog: &Catalog,
    state: State,
    messages: &Arc<Messages>,
    stdout: Stdout,
) -> Result<()> {
    let client = Arc::new(Client::new(config, config_file)?);
    let progress = Progress::start(client.call_count(), config.requests_per_second);
    let (renewing, ended) = (Arc::clone(&client), Arc::clone(&progress));
    let ending = Ending {
        log_summary: Arc::new(move || ended.log_summary()),
        advice: ". All rows before the last STATE are safe; run again with the last STATE to continue",
        ..Ending::new(messages, move || renewing.auth.is_renewing())
    };
    if stdout.is_target {
        signals::end_on_closed_stdout(Arc::clone(&ending.is_renewing));
    }
    signals::end_on_signals(ending)?;
    let outcome = sync::sync(config, &client, catalog, state, messages, &progress);
    // Another thread may be refreshing the tokens. The old refresh token has been used, so the new one must reach the disk.
    client.auth.settle();
    if stdout.is_terminal && outcome.is_ok() {
        let words: Vec<String> = std::env::args_os().map(|word| quoted(&word.to_string_lossy())).collect();
        ::log::info!("these messages are for a target; pipe them into one: {} | target-jsonl", words.join(" "));
    }
    outcome
}

/// The client of a command that has nothing to add when a signal ends it.
fn client(config: &Config, config_file: Option<PathBuf>, messages: &Arc<Messages>) -> Result<Arc<Client>> {
    let client = Arc::new(Client::new(config, config_file)?);
    let renewing = Arc::clone(&client);
    signals::end_on_signals(Ending::new(messages, move || renewing.auth.is_renewing()))?;
    Ok(client)
}

/// The streams and fields to read: from the catalog, the patterns, or all.
fn selection(args: &Args) -> Result<Catalog> {
    let streams: Vec<&Stream> = streams::all().collect();
    let mut catalog = match &args.catalog {
        Some(path) => {
            let text = read_as(Kind::Catalog, path)?;
            let (catalog, warnings) = Catalog::parse(&text, &streams).map_err(|e| e.context(path.display()))?;
            warn(&warnings.iter().map(|warning| format!("{}: {warning}", path.display())).collect::<Vec<_>>());
            catalog
        }
        None if args.select.is_empty() => Catalog::all(&streams),
        None => Catalog::select(&args.select, &streams)?,
    };
    catalog.read_full_table(&args.full_table, &streams)?;
    Ok(catalog)
}

/// How far earlier runs got.
fn bookmarks(args: &Args, config: &Config, catalog: &Catalog) -> Result<State> {
    let streams: Vec<&Stream> = streams::all().collect();
    let selected: Vec<&Stream> = streams.iter().copied().filter(|s| catalog.get(s.name).is_some()).collect();
    let Some(path) = &args.state else { return Ok(State::new(&selected)) };
    let text = read_as(Kind::State, path)?;
    let mut warnings = Vec::new();
    let present = |stream: &Stream| run::terms(config, catalog, stream, config.activity_route.fixed());
    let state = State::parse(&text, &streams, &selected, &present, Utc::now(), &mut warnings);
    warn(&warnings);
    state.map_err(|why| {
        Error::Usage(format!(
            "{}: {why}. Pass the value of the last STATE message of an earlier run, or leave --state out to read everything",
            path.display()
        ))
    })
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        ::log::warn!("{warning}");
    }
}
