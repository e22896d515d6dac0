//! Config, catalog and state in, messages out: the only place that knows everything.

use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;
use serde_json::json;

use crate::catalog::{Catalog, Mask};
use crate::client::{Client, DAILY_QUOTA, Page};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::log::{counter, timer};
use crate::messages::Messages;
use crate::state::{Resume, State};
use crate::streams::{ALL, Stream};
use crate::window::{Window, lower_bound};

/// During a long read a STATE is written at least this often.
const STATE_EVERY: (Duration, u64) = (Duration::from_secs(60), 10_000);

/// A run under way.
pub(crate) struct Run<'a> {
    pub(crate) config: &'a Config,
    pub(crate) client: &'a Client,
    catalog: &'a Catalog,
    messages: &'a Messages,
    state: State,
    stream: &'static Stream,
    records: u64,
    last_state: Instant,
}

/// Reads every selected stream.
///
/// # Errors
/// The first that ends the run; a stream that the service refuses is left, the others read, and told at the end.
pub(crate) fn sync(
    config: &Config,
    client: &Client,
    catalog: &Catalog,
    state: State,
    messages: &Messages,
) -> Result<()> {
    let started = Instant::now();
    let mut order: Vec<&'static Stream> = ALL.iter().copied().filter(|s| catalog.get(s.name).is_some()).collect();
    if order.is_empty() {
        log::warn!("the catalog selects no stream");
    }
    order.sort_by_key(|s| state.currently_syncing.as_deref() != Some(s.name));
    messages.now_true(state.to_value());
    let mut run =
        Run { config, client, catalog, messages, state, stream: ALL[0], records: 0, last_state: Instant::now() };
    let outcome = run.streams(&order);
    // Whatever happened, the last line says what is true; a reader that has gone needs no line.
    let last = if matches!(outcome, Err(Error::Closed)) { Ok(()) } else { run.messages.state() };
    let calls = client.calls();
    let share = 10_000 * calls / DAILY_QUOTA;
    log::info!("{calls} calls were made, {}.{:02} % of the daily quota", share / 100, share % 100);
    let status = if outcome.is_ok() { "succeeded" } else { "failed" };
    timer("sync_duration", started.elapsed(), &json!({"status": status}));
    outcome.and(last)
}

impl Run<'_> {
    fn streams(&mut self, order: &[&'static Stream]) -> Result<()> {
        let mut refused = Vec::new();
        // A report complete up to the end of the window that another goes on with belongs to the same round.
        let round = order.first().and_then(|s| self.resume(s)).map(|r| r.until);
        for (i, stream) in order.iter().enumerate() {
            self.stream = stream;
            self.records = 0;
            self.state.currently_syncing = Some(stream.name.into());
            self.messages.now_true(self.state.to_value());
            self.schema()?;
            let begun = Instant::now();
            let outcome = if i > 0 && round.is_some_and(|until| self.complete_up_to(stream, until)) {
                log::info!("{}: complete in this round; read again in the next", stream.name);
                Ok(())
            } else {
                log::info!("{}: reading", stream.name);
                (stream.read)(self)
            };
            let tags = json!({"stream": stream.name});
            counter("record_count", self.records, &tags);
            match outcome {
                Ok(()) => {
                    log::info!("{}: {} records in {:.1} s", stream.name, self.records, begun.elapsed().as_secs_f64());
                }
                Err(Error::Forbidden(why)) => {
                    log::error!("{}: the service refuses this stream ({why}); it needs {}", stream.name, stream.needs);
                    refused.push(stream.name);
                }
                Err(e) => return Err(e.context(stream.name)),
            }
            self.state.currently_syncing = order.get(i + 1).map(|next| next.name.to_owned());
            self.messages.now_true(self.state.to_value());
            self.write_state()?;
        }
        if refused.is_empty() {
            Ok(())
        } else {
            Err(Error::Forbidden(format!("the service refused {}; all else was read", refused.join(", "))))
        }
    }

    fn mask(&self) -> &Mask {
        self.catalog.get(self.stream.name).map_or(&Mask::All, |s| &s.mask)
    }

    /// Whether a field of the stream is selected.
    pub(crate) fn wants(&self, path: &[&str]) -> bool {
        self.mask().wants(path)
    }

    fn schema(&mut self) -> Result<()> {
        let mut schema = (self.stream.schema)();
        self.mask().prune_schema(&mut schema);
        self.messages.schema(self.stream.name, &schema, self.stream.keys, self.stream.replication_key)
    }

    /// Writes one record of the stream that is being read.
    pub(crate) fn emit<R: Serialize>(&mut self, record: &R, page: &Page) -> Result<()> {
        self.records += 1;
        let name = self.stream.name;
        match self.catalog.get(name).map(|s| &s.mask) {
            None | Some(Mask::All) => self.messages.record(name, record, &page.extracted),
            Some(mask) => {
                let mut record = serde_json::to_value(record).map_err(|e| Error::Failed(e.to_string()))?;
                mask.prune_record(&mut record);
                self.messages.record(name, &record, &page.extracted)
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
            crate::log::warn_once(format!(
                "{}: the settings that narrow it have changed since its bookmark; it is read from the start",
                stream.name
            ));
        }
        holds
    }

    /// The lower bound of an incremental read, or none.
    pub(crate) fn since(&self, stream: &Stream, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.since_less(stream, now, TimeDelta::zero())
    }

    /// The same, with the bookmark moved back.
    pub(crate) fn since_less(&self, stream: &Stream, now: DateTime<Utc>, back: TimeDelta) -> Option<DateTime<Utc>> {
        let bookmark = self.state.bookmark(stream.name).replication_key_value.filter(|_| self.bookmark_holds(stream));
        let bookmark = bookmark.map(|at| at.checked_sub_signed(back).unwrap_or(at));
        lower_bound(bookmark, self.config.start_date, self.config.updated_days_back, now, self.config.timezone)
    }

    /// The lower bound of a read that no bookmark narrows.
    pub(crate) fn beginning(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        lower_bound(None, self.config.start_date, self.config.updated_days_back, now, self.config.timezone)
    }

    /// Whether the contacts are to be read completely: there is no bookmark, or the last complete read is too old.
    pub(crate) fn contacts_are_due(&self, now: DateTime<Utc>) -> bool {
        let bookmark = self.state.bookmark(self.stream.name);
        let days = TimeDelta::days(i64::from(self.config.contacts_full_refresh_days));
        bookmark.replication_key_value.is_none()
            || !self.bookmark_holds(self.stream)
            || (!days.is_zero() && bookmark.full_refresh_at.is_none_or(|at| now - at > days))
    }

    /// Notes in the bookmark, after [`Run::complete`], that the contacts were read completely.
    pub(crate) fn contacts_were_complete(&mut self) {
        if let Some(bookmark) = self.state.bookmarks.get_mut(self.stream.name) {
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

    fn complete_up_to(&self, stream: &Stream, until: DateTime<Utc>) -> bool {
        let bookmark = self.state.bookmark(stream.name);
        // The longest overlap of a report.
        let near = until - TimeDelta::hours(1);
        stream.name.starts_with("contact_a") && bookmark.replication_key_value.is_some_and(|at| at >= near)
    }

    /// Where an interrupted report goes on, if it can under the present settings.
    pub(crate) fn resume(&self, stream: &Stream) -> Option<Resume> {
        let full = self.catalog.get(stream.name).is_some_and(|s| s.full_table);
        let resume = self.state.bookmark(stream.name).resume.filter(|_| !full && self.config.report.is_none())?;
        if resume.filter != self.config.filter(stream.name) || resume.route != "contacts" {
            crate::log::warn_once(format!(
                "{}: the settings have changed since it was interrupted; its window starts over",
                stream.name
            ));
            return None;
        }
        Some(resume)
    }

    /// Notes that a report is written up to and with one contact.
    pub(crate) fn reached(&mut self, stream: &Stream, window: &Window, id: &str) -> Result<()> {
        let filter = self.config.filter(stream.name);
        let bookmark = self.state.bookmarks.entry(stream.name.into()).or_default();
        bookmark.resume = Some(Resume {
            since: window.start,
            until: window.end,
            route: "contacts".into(),
            after: Some(id.to_owned()),
            complete: false,
            filter,
        });
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
