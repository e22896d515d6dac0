//! Config, catalog and state in, messages out: the only place that knows everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;
use serde_json::json;

use crate::catalog::{Catalog, Mask};
use crate::client::Client;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::logger::{counter, measure, reading, timer};
use crate::messages::Messages;
use crate::progress::{Line, Progress};
use crate::state::{Resume, State};
use crate::streams::{ALL, Stream, Survey};
use crate::window::lower_bound;

/// During a long read a STATE is written at least this often.
const STATE_EVERY: (Duration, u64) = (Duration::from_secs(60), 10_000);

/// A run under way.
pub(crate) struct Run<'a> {
    pub(crate) config: &'a Config,
    pub(crate) client: &'a Arc<Client>,
    /// What is known of the account's campaigns, once it was asked for.
    pub(crate) survey: Survey,
    pub(crate) progress: Progress,
    catalog: &'a Catalog,
    messages: &'a Messages,
    state: State,
    /// The streams whose SCHEMA is written, with a line that counts the records written since.
    begun: BTreeMap<&'static str, Line>,
    /// Read together with an earlier stream.
    done: BTreeSet<&'static str>,
    last_state: Instant,
}

/// Reads every selected stream.
///
/// # Errors
/// The first that ends the run; a stream that the service refuses is left, the others read, and told at the end.
pub(crate) fn sync(
    config: &Config,
    client: &Arc<Client>,
    catalog: &Catalog,
    state: State,
    messages: &Messages,
) -> Result<()> {
    measure();
    let started = Instant::now();
    let mut order: Vec<&'static Stream> = ALL.iter().copied().filter(|s| catalog.get(s.name).is_some()).collect();
    if order.is_empty() {
        log::warn!("the catalog selects no stream");
    }
    order.sort_by_key(|s| state.currently_syncing.as_deref() != Some(s.name));
    messages.now_true(state.to_value());
    let began = state.bookmarks.clone();
    let mut run = Run {
        config,
        client,
        survey: Survey::default(),
        progress: Progress::new(client.call_count(), config.requests_per_second),
        catalog,
        messages,
        state,
        begun: BTreeMap::new(),
        done: BTreeSet::new(),
        last_state: Instant::now(),
    };
    let outcome = match (run.streams(&order), config.max_requests) {
        // The next run would begin and end there as well.
        (Err(Error::Quota(_)), Some(most))
            if client.calls() >= most
                && run.state.bookmarks == began
                && run.state.currently_syncing.as_deref() == Some(order[0].name) =>
        {
            let first = order[0].name;
            Err(Error::Quota(format!("{first}: max_requests ({most}) is too small to get anywhere: raise it")))
        }
        (outcome, _) => outcome,
    };
    // Whatever happened, the last line says what is true; a reader that has gone needs no line.
    let last = if matches!(outcome, Err(Error::Closed)) { Ok(()) } else { run.messages.state() };
    client.tell_calls();
    let status = if outcome.is_ok() { "succeeded" } else { "failed" };
    timer("sync_duration", started.elapsed(), &json!({"status": status}));
    outcome.and(last)
}

impl Run<'_> {
    fn streams(&mut self, order: &[&'static Stream]) -> Result<()> {
        let mut refused = Vec::new();
        for (i, stream) in order.iter().enumerate() {
            reading(Some(stream.name));
            self.state.currently_syncing = Some(stream.name.into());
            self.messages.now_true(self.state.to_value());
            self.begin(stream)?;
            let outcome = if self.done.contains(stream.name) { Ok(()) } else { (stream.read)(self) };
            let line = &self.begun[stream.name];
            let records = line.records();
            counter("record_count", records, &json!({"stream": stream.name}));
            match outcome {
                Ok(()) => {
                    line.finish();
                    log::info!("{}: {records} records in {:.1} s", stream.name, line.elapsed().as_secs_f64());
                }
                Err(Error::Forbidden(why)) => {
                    log::error!("{}: the service refuses this stream ({why}); it needs {}", stream.name, stream.needs);
                    refused.push(stream.name);
                }
                Err(e) => return Err(e.context(stream.name)),
            }
            self.state.currently_syncing = order.get(i + 1).map(|next| next.name.to_owned());
            if self.state.currently_syncing.is_none() {
                self.state.end_round(&refused);
            }
            self.messages.now_true(self.state.to_value());
            self.write_state()?;
        }
        reading(None);
        if refused.is_empty() {
            Ok(())
        } else {
            Err(Error::Forbidden(format!("the service refused {}; all else was read", refused.join(", "))))
        }
    }

    /// Writes the stream's SCHEMA, before the first of its records; later calls change nothing.
    pub(crate) fn begin(&mut self, stream: &Stream) -> Result<()> {
        if self.begun.contains_key(stream.name) {
            return Ok(());
        }
        log::info!("{}: reading", stream.name);
        self.begun.insert(stream.name, self.progress.line(stream.name));
        let mut schema = (stream.schema)();
        self.mask(stream).prune_schema(&mut schema);
        self.messages.schema(stream.name, &schema, stream.keys, stream.replication_key)
    }

    /// Whether the catalog selects a stream.
    pub(crate) fn selects(&self, stream: &Stream) -> bool {
        self.catalog.get(stream.name).is_some()
    }

    fn mask(&self, stream: &Stream) -> &Mask {
        self.catalog.get(stream.name).map_or(&Mask::All, |s| &s.mask)
    }

    /// Whether a field of a stream is selected.
    pub(crate) fn wants(&self, stream: &Stream, path: &[&str]) -> bool {
        self.mask(stream).wants(path)
    }

    /// Writes one record; `extracted` is when its page was read.
    pub(crate) fn emit<R: Serialize>(&mut self, stream: &Stream, record: &R, extracted: &str) -> Result<()> {
        if let Some(line) = self.begun.get_mut(stream.name) {
            line.count();
        }
        match self.mask(stream) {
            Mask::All => self.messages.record(stream.name, record, extracted),
            mask @ Mask::Some(_) => {
                let mut record = serde_json::to_value(record).map_err(|e| Error::Failed(e.to_string()))?;
                mask.prune_record(&mut record);
                self.messages.record(stream.name, &record, extracted)
            }
        }
    }

    fn write_state(&mut self) -> Result<()> {
        self.last_state = Instant::now();
        self.messages.state()
    }

    /// Whether the stream's bookmark holds for what this run reads.
    fn bookmark_holds(&self, stream: &Stream) -> bool {
        if self.catalog.get(stream.name).is_some_and(|s| s.full_table) {
            return false;
        }
        let was = self.state.bookmark(stream.name).filter;
        let is = self.config.filter(stream.name);
        let holds = was.is_none() || was == is;
        if !holds {
            crate::logger::warn_once(format!(
                "{}: the settings that narrow it have changed since its bookmark; it is read from the start",
                stream.name
            ));
        }
        holds
    }

    /// Whether a bookmark bounds what the stream is read for.
    pub(crate) fn has_bookmark(&self, stream: &Stream) -> bool {
        self.state.bookmark(stream.name).replication_key_value.is_some() && self.bookmark_holds(stream)
    }

    /// The lower bound of an incremental read, or none.
    pub(crate) fn since(&self, stream: &Stream, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.since_less(stream, now, TimeDelta::zero())
    }

    /// The same, with the bookmark moved back.
    pub(crate) fn since_less(&self, stream: &Stream, now: DateTime<Utc>, back: TimeDelta) -> Option<DateTime<Utc>> {
        let Some(bookmark) = self.held_bookmark(stream) else { return self.beginning(stream, now) };
        let bookmark = bookmark.checked_sub_signed(back).unwrap_or(bookmark);
        lower_bound(Some(bookmark), self.config.updated_days_back, now, self.config.timezone)
    }

    /// The lower bound of a read that the bookmark does not narrow.
    ///
    /// It is never later than the bookmark, up to which the stream is known to be read. The days back, which only
    /// ever widen what is read, are a bound where there is no other.
    pub(crate) fn beginning(&self, stream: &Stream, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let first = self.state.bookmark(stream.name).replication_key_value.is_none() && !self.full_table(stream);
        if self.config.start_date.is_none() && !first {
            return None;
        }
        let start = lower_bound(self.config.start_date, self.config.updated_days_back, now, self.config.timezone);
        start.into_iter().chain(self.held_bookmark(stream)).min()
    }

    fn held_bookmark(&self, stream: &Stream) -> Option<DateTime<Utc>> {
        self.state.bookmark(stream.name).replication_key_value.filter(|_| self.bookmark_holds(stream))
    }

    /// Whether the contacts are to be read completely: there is no bookmark, or the last complete read is too old.
    pub(crate) fn contacts_are_due(&self, stream: &Stream, now: DateTime<Utc>) -> bool {
        let bookmark = self.state.bookmark(stream.name);
        let days = TimeDelta::days(i64::from(self.config.contacts_full_refresh_days));
        bookmark.replication_key_value.is_none()
            || !self.bookmark_holds(stream)
            || (!days.is_zero() && bookmark.full_refresh_at.is_none_or(|at| now - at > days))
    }

    /// Notes in the bookmark, after [`Run::complete`], that the contacts were read completely.
    pub(crate) fn contacts_were_complete(&mut self, stream: &Stream) {
        if let Some(bookmark) = self.state.bookmarks.get_mut(stream.name) {
            bookmark.full_refresh_at = bookmark.replication_key_value;
        }
    }

    /// Moves the stream's bookmark: everything up to `until` less the overlap has been written.
    pub(crate) fn complete(&mut self, stream: &Stream, until: DateTime<Utc>, overlap: TimeDelta) {
        let held = self.bookmark_holds(stream);
        let filter = self.config.filter(stream.name);
        let bookmark = self.state.bookmarks.entry(stream.name.into()).or_default();
        let old = bookmark.replication_key_value.filter(|_| held);
        let new = until - overlap;
        bookmark.replication_key = stream.replication_key.map(str::to_owned);
        bookmark.replication_key_value = Some(old.map_or(new, |old| old.max(new)));
        bookmark.filter = filter;
        bookmark.resume = None;
    }

    fn full_table(&self, stream: &Stream) -> bool {
        self.catalog.get(stream.name).is_some_and(|s| s.full_table)
    }

    /// Where an interrupted report goes on, if it can under the present settings.
    pub(crate) fn resume(&self, stream: &Stream) -> Option<Resume> {
        let resume = self.state.bookmark(stream.name).resume?;
        let present = self.config.resume_filter(stream.name, self.full_table(stream));
        let other_route = self.config.activity_route.fixed().is_some_and(|route| route != resume.route);
        // One without a fingerprint counts as made under the present settings, but not under those for one run.
        let own = self.config.report.is_some() || self.full_table(stream);
        if other_route || ((resume.filter.is_some() || own) && resume.filter != present) {
            crate::logger::warn_once(format!(
                "{}: the settings have changed since it was interrupted; its window starts over",
                stream.name
            ));
            return None;
        }
        Some(resume)
    }

    /// Notes how far a report is written, under the present settings.
    pub(crate) fn note(&mut self, stream: &Stream, reached: Resume) {
        let filter = self.config.resume_filter(stream.name, self.full_table(stream));
        let bookmark = self.state.bookmarks.entry(stream.name.into()).or_default();
        bookmark.resume = Some(Resume { filter, ..reached });
    }

    /// Says that the rest of the round leaves a report alone.
    pub(crate) fn is_done(&mut self, stream: &'static Stream) {
        self.done.insert(stream.name);
    }

    /// Says that what was noted is true from here on, and writes a STATE when the last is long ago.
    pub(crate) fn now_true(&mut self) -> Result<()> {
        self.messages.now_true(self.state.to_value());
        if self.last_state.elapsed() >= STATE_EVERY.0 || self.messages.since_state() >= STATE_EVERY.1 {
            self.write_state()?;
        }
        self.messages.flush()
    }
}

/// A lower bound as the service is asked for it: whether it takes bounds as inclusive is not documented, and it
/// keeps whole seconds, so one second more is asked for.
pub(crate) fn asked_from(bound: DateTime<Utc>) -> String {
    (bound - TimeDelta::seconds(1)).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Whether a row came only for the second that [`asked_from`] adds.
pub(crate) fn in_extra_second(at: Option<DateTime<Utc>>, bound: Option<DateTime<Utc>>) -> bool {
    match (at, bound) {
        (Some(at), Some(bound)) => at < bound && at >= bound - TimeDelta::seconds(2),
        _ => false,
    }
}
