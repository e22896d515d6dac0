//! The sync: the loop over the selected streams.

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
use crate::quota::runs_in_words;
use crate::run::Run;
use crate::shown::plural;
use crate::state::State;
use crate::streams::{self, ALL, Shared, Source};

/// With fewer calls, no plan is made: it takes about ten, and the streams could not begin.
const CALLS_FOR_A_PLAN: u64 = 20;

/// Reads every selected stream.
///
/// # Errors
/// The first error that ends the run. If the service refuses a stream, the others are still read, and `Forbidden` is
/// returned at the end.
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
        log::warn!("the catalog selects no stream: set \"selected\" to true in the metadata of those to read");
    }
    // An interrupted run continues with the streams after it too: beginning with the first ones again could use up a small
    // `max_requests` before the last ones, in every run.
    let interrupted = order.iter().position(|source| state.currently_syncing.as_deref() == Some(source.stream.name));
    order.rotate_left(interrupted.unwrap_or(0));
    let mut run = Run::new(config, client, catalog, messages, progress, state);
    let given = run.state.to_value();
    let mut planned = None;
    let outcome = match (read_all(&mut run, &order, &mut planned), config.max_requests) {
        // The run got nowhere, and the next one would not either.
        (Err(Error::Quota(_)), Some(most))
            if client.calls() >= most
                && run.state.to_value()["bookmarks"] == given["bookmarks"]
                && run.state.currently_syncing.as_deref().is_none_or(|name| name == order[0].stream.name) =>
        {
            let least = Some(client.least_calls()).filter(|least| *least > most).unwrap_or(2 * most);
            let whole = match planned {
                Some(calls) if calls > least => format!("the whole read takes about {calls}"),
                _ => "--test says how many calls the whole read takes".to_owned(),
            };
            Err(Error::Quota(format!(
                "max_requests = {most} is not enough to make progress; raise it to {least} or more; {whole}"
            )))
        }
        (Err(Error::Quota(why)), Some(most)) if client.calls() >= most => {
            let left = planned.map_or(0, |calls| calls.saturating_sub(client.calls()));
            Err(Error::Quota(match left {
                0 => why,
                _ => format!("{why} (about {} left, at least {})", plural(left, "call"), runs_in_words(left, most)),
            }))
        }
        (outcome, _) => outcome,
    };
    if interrupted.is_some() && outcome.is_ok() && !run.state.is_interrupted() {
        log::info!("the read that an earlier run began is complete");
    }
    // Whatever happened, the last line is a STATE, unless nobody reads stdout any more.
    let last = if matches!(outcome, Err(Error::Closed)) { Ok(()) } else { run.write_state() };
    let status = if outcome.is_ok() { "succeeded" } else { "failed" };
    timer(Level::Info, "sync_duration", started.elapsed(), &json!({"status": status}));
    progress.log_summary();
    outcome.and(last)
}

fn read_all(run: &mut Run, order: &[&'static Source], planned: &mut Option<u64>) -> Result<()> {
    let mut shared = Shared::default();
    let mut refused = Vec::new();
    let (mut order, mut failure) = (order.to_vec(), None);
    if let Some(first) = order.first() {
        run.progress.enter(Some(first.stream.name));
        // The first call also gives the service's time, which is the start of the run.
        let lists = shared
            .lists
            .of_account(run.client, run.config, run.state.names_account())
            .map_err(|e| e.context(first.stream.name))?;
        run.state.check_account(lists)?;
        let left = run.client.calls_left();
        if left < CALLS_FOR_A_PLAN {
            log::info!("plan: none, since max_requests leaves {left} calls");
        } else {
            match streams::plan(run, &mut shared, &order) {
                Ok(plan) => {
                    *planned = Some(plan.calls);
                    log::info!("plan: {plan}");
                }
                // What comes before that stream in a run from the start can be read all the same.
                Err((failing, e @ (Error::Failed(_) | Error::Refused(_) | Error::NotFound(_)))) => {
                    let is_selected = |one: &&'static Source| order.iter().any(|source| std::ptr::eq(*source, *one));
                    let before = ALL.iter().copied().take_while(|source| !std::ptr::eq(*source, failing));
                    order = before.filter(is_selected).collect();
                    if !order.is_empty() {
                        log::warn!("plan: none ({e}); only the streams before that one are read");
                    }
                    failure = Some((failing, e));
                }
                Err((_, e)) => return Err(e),
            }
        }
    }
    for (i, source) in order.iter().enumerate() {
        let stream = &source.stream;
        run.progress.enter(Some(stream.name));
        shared.needs = None;
        run.checkpoint_start(stream);
        run.begin(stream)?;
        let outcome = if run.is_finished(stream) {
            Ok(())
        } else {
            warn_of_starting_over(run, &mut shared, source).and_then(|()| (source.read)(run, &mut shared))
        };
        let (records, took) = run.count_records(stream);
        match outcome {
            Ok(()) => log::info!("{}: {records} records in {:.1} s", stream.name, took.as_secs_f64()),
            Err(Error::Forbidden(why)) => {
                let needs = shared.needs.unwrap_or(&stream.needs);
                log::error!(
                    "{0}: the service refuses this stream ({why}); it needs {needs}. To leave it out: --select '!{0}'",
                    stream.name
                );
                refused.push(stream.name);
            }
            Err(e) => return Err(e.context(stream.name)),
        }
        let next = order.get(i + 1).or(failure.as_ref().map(|(failing, _)| failing));
        run.end_of_stream(next.map(|next| &next.stream))?;
    }
    run.progress.enter(None);
    match failure {
        Some((_, e)) => Err(e),
        None if refused.is_empty() => Ok(()),
        None => Err(Error::Forbidden(format!("the service refused {}; all else was read", refused.join(", ")))),
    }
}

/// Warns before a stream is read from the start, with the reason, the cost and how to avoid it: it may take days.
fn warn_of_starting_over(run: &mut Run, shared: &mut Shared, source: &Source) -> Result<()> {
    let (stream, name) = (&source.stream, source.stream.name);
    if let Some(why) = run.why_it_starts_over(stream) {
        let cost = streams::cost_of(run, shared, source)?;
        log::warn!(
            "{name}: {why}, so it is read from the start{}. To avoid this, undo the change, or use a state file of \
             its own for it",
            cost.map(|cost| format!(" ({cost})")).unwrap_or_default()
        );
    }
    Ok(())
}
