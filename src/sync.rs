//! Config, catalog and state in, messages out: the loop over the streams.

use std::sync::Arc;
use std::time::Instant;

use log::Level;
use serde_json::json;

use crate::catalog::Catalog;
use crate::client::Client;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::logger::timer;
use crate::messages::Messages;
use crate::progress::Progress;
use crate::run::Run;
use crate::state::State;
use crate::streams::{ALL, Shared, Source};

/// Reads every selected stream.
///
/// # Errors
/// The first that ends the run. A stream that the service refuses is left and the others are read; the error comes at
/// the end.
pub(crate) fn sync(
    config: &Config,
    client: &Arc<Client>,
    catalog: &Catalog,
    state: State,
    messages: &Messages,
    progress: &Progress,
) -> Result<()> {
    let started = Instant::now();
    let mut order: Vec<&'static Source> =
        ALL.iter().copied().filter(|source| catalog.get(source.stream.name).is_some()).collect();
    if order.is_empty() {
        log::warn!("the catalog selects no stream");
    }
    order.sort_by_key(|source| state.currently_syncing.as_deref() != Some(source.stream.name));
    messages.checkpoint(state.to_value());
    let began = state.bookmarks.clone();
    let mut run = Run::new(config, client, catalog, messages, progress, state);
    let outcome = match (read_all(&mut run, &order), config.max_requests) {
        // The next run would begin and end there as well.
        (Err(Error::Quota(_)), Some(most))
            if client.calls() >= most
                && run.state.bookmarks == began
                && run.state.currently_syncing.as_deref() == Some(order[0].stream.name) =>
        {
            let first = order[0].stream.name;
            Err(Error::Quota(format!("{first}: max_requests = {most} is not enough to make progress; raise it")))
        }
        (outcome, _) => outcome,
    };
    // Whatever happened, the last line says what is true; a reader that has gone needs no line.
    let last = if matches!(outcome, Err(Error::Closed)) { Ok(()) } else { run.last_state() };
    let status = if outcome.is_ok() { "succeeded" } else { "failed" };
    timer(Level::Info, "sync_duration", started.elapsed(), &json!({"status": status}));
    progress.log_summary();
    outcome.and(last)
}

fn read_all(run: &mut Run, order: &[&'static Source]) -> Result<()> {
    let mut shared = Shared::default();
    let mut refused = Vec::new();
    for (i, source) in order.iter().enumerate() {
        let stream = &source.stream;
        run.progress.enter(Some(stream.name));
        run.checkpoint_start(stream);
        run.begin(stream)?;
        let outcome = if run.is_done(stream) { Ok(()) } else { (source.read)(run, &mut shared) };
        let (records, took) = run.count_records(stream);
        match outcome {
            Ok(()) => log::info!("{}: {records} records in {:.1} s", stream.name, took.as_secs_f64()),
            Err(Error::Forbidden(why)) => {
                log::error!("{}: the service refuses this stream ({why}); it needs {}", stream.name, stream.needs);
                refused.push(stream.name);
            }
            Err(e) => return Err(e.context(stream.name)),
        }
        run.end_of_stream(order.get(i + 1).map(|next| &next.stream), &refused)?;
    }
    run.progress.enter(None);
    if refused.is_empty() {
        Ok(())
    } else {
        Err(Error::Forbidden(format!("the service refused {}; all else was read", refused.join(", "))))
    }
}
