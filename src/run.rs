//! What a stream reads and writes with: records out, bookmarks in and out. Knows no stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;
use serde_json::json;

use crate::catalog::{Catalog, Mask};
use crate::client::{Client, Oddities};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::logger::{counter, warn_once};
use crate::messages::Messages;
use crate::progress::{Line, Progress};
use crate::state::{Resume, State};
use crate::stream::Stream;
use crate::window::lower_bound;

/// During a long read a STATE is written at least this often.
const STATE_EVERY: (Duration, u64) = (Duration::from_secs(60), 10_000);

/// A run under way.
pub(crate) struct Run<'a> {
    pub(crate) config: &'a Config,
    pub(crate) client: &'a Arc<Client>,
    pub(crate) progress: &'a Progress,
    catalog: &'a Catalog,
    messages: &'a Messages,
    pub(crate) state: State,
    /// The streams whose SCHEMA is written, with a line that counts the records written since.
    begun: BTreeMap<&'static str, Arc<Line>>,
    /// What was odd about the rows of each stream.
    odd: BTreeMap<&'static str, Odd>,
    /// Read together with an earlier stream.
    done: BTreeSet<&'static str>,
    last_state: Instant,
}

/// What was odd about the rows of a stream so far.
#[derive(Default)]
struct Odd {
    /// Fields that were warned of.
    unknown: BTreeSet<String>,
    rows: u64,
    left_out: u64,
}

/// Unknown fields are named up to this many a stream, then counted.
const NAMED_FIELDS: usize = 20;
/// More rows than this must be left out, and more than one in ten, before the service counts as changed.
const FEW_LEFT_OUT: u64 = 10;

impl<'a> Run<'a> {
    pub(crate) fn new(
        config: &'a Config,
        client: &'a Arc<Client>,
        catalog: &'a Catalog,
        messages: &'a Messages,
        progress: &'a Progress,
        state: State,
    ) -> Run<'a> {
        Run {
            config,
            client,
            progress,
            catalog,
            messages,
            state,
            begun: BTreeMap::new(),
            odd: BTreeMap::new(),
            done: BTreeSet::new(),
            last_state: Instant::now(),
        }
    }

    /// Takes the rows of a page into account, and warns of what is odd about them.
    pub(crate) fn note_oddities(&mut self, stream: &Stream, rows: usize, oddities: &Oddities) {
        let name = stream.name;
        let odd = self.odd.entry(name).or_default();
        odd.rows += rows as u64 + oddities.left_out;
        for field in &oddities.unknown {
            if odd.unknown.insert(field.clone()) && odd.unknown.len() <= NAMED_FIELDS {
                log::warn!("{name}: the field {field} is not known to this version and is left out");
            }
        }
        for (field, record) in &oddities.unreadable {
            warn_once(format!("{name}: {field} has values that it cannot hold, first in {record}; they become null"));
        }
        if let Some(why) = &oddities.why_left_out {
            if odd.left_out == 0 {
                log::warn!("{name}: a row is left out: {why}");
            }
            odd.left_out += oddities.left_out;
        }
    }

    /// Tells what was odd about the rows of a stream in all.
    ///
    /// # Errors
    /// `Failed` when so many rows were left out that the service must have changed: no bookmark may move then.
    pub(crate) fn check_oddities(&mut self, stream: &Stream) -> Result<()> {
        let Some(odd) = self.odd.remove(stream.name) else { return Ok(()) };
        let name = stream.name;
        if odd.unknown.len() > NAMED_FIELDS {
            log::warn!("{name}: {} more unknown fields are left out", odd.unknown.len() - NAMED_FIELDS);
        }
        if odd.left_out > FEW_LEFT_OUT && odd.left_out * 10 > odd.rows {
            return Err(Error::Failed(format!(
                "{} of {} rows cannot be used: the service has changed its format; update the tap, or report it",
                odd.left_out, odd.rows
            )));
        }
        if odd.left_out > 0 {
            log::warn!("{name}: {} of {} rows were left out, since they lack a usable key", odd.left_out, odd.rows);
        }
        Ok(())
    }

    /// Streams that were read together with an earlier one.
    pub(crate) fn is_done(&self, stream: &Stream) -> bool {
        self.done.contains(stream.name)
    }

    /// Writes down what is true before the first stream.
    pub(crate) fn checkpoint_start(&mut self, syncing: &Stream) {
        self.state.currently_syncing = Some(syncing.name.into());
        self.messages.checkpoint(self.state.to_value());
    }

    /// The records written of a stream, with its metrics.
    pub(crate) fn count_records(&self, stream: &Stream) -> (u64, Duration) {
        let line = &self.begun[stream.name];
        counter("record_count", line.records(), &json!({"stream": stream.name}));
        counter("http_request_count", self.progress.calls_of(stream.name), &json!({"stream": stream.name}));
        (line.records(), line.elapsed())
    }

    /// Writes a STATE after a stream; `next` is the one that follows.
    pub(crate) fn end_of_stream(&mut self, next: Option<&Stream>, refused: &[&str]) -> Result<()> {
        self.state.currently_syncing = next.map(|next| next.name.to_owned());
        if self.state.currently_syncing.is_none() {
            self.state.end_round(refused);
        }
        self.messages.checkpoint(self.state.to_value());
        self.write_state()
    }

    /// Writes the last STATE.
    pub(crate) fn last_state(&self) -> Result<()> {
        self.messages.state()
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

    /// Says how many records a stream will have, as the service counts them.
    pub(crate) fn set_total(&self, stream: &Stream, records: u64) {
        self.progress.line(stream.name).set_total(records);
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
        if let Some(line) = self.begun.get(stream.name) {
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
            warn_once(format!(
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
        let other_route = self.config.activity_route.is_some_and(|route| route != resume.route);
        // One without a fingerprint counts as made under the present settings, but not under those for one run.
        let own = self.config.report.is_some() || self.full_table(stream);
        if other_route || ((resume.filter.is_some() || own) && resume.filter != present) {
            warn_once(format!(
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
    pub(crate) fn skip_rest_of_round(&mut self, stream: &'static Stream) {
        self.done.insert(stream.name);
    }

    /// Makes what was noted the checkpoint, and writes a STATE when the last one is long ago.
    pub(crate) fn checkpoint(&mut self) -> Result<()> {
        self.messages.checkpoint(self.state.to_value());
        if self.last_state.elapsed() >= STATE_EVERY.0 || self.messages.records_since_checkpoint() >= STATE_EVERY.1 {
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
