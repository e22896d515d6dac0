//! One report under way: its window, and where an interrupted read of it goes on.

use chrono::{DateTime, Months, TimeDelta, Utc};

use super::route::{self, Scope};
use super::{DETAILS, SUMMARY};
use crate::config::{Config, Route};
use crate::error::Result;
use crate::id::Id;
use crate::run::Run;
use crate::state::Resume;
use crate::stream::Stream;
use crate::streams::Shared;
use crate::window::Window;

/// How late a row may appear after the moment that dates it: opens and clicks may be attributed late.
fn overlap(stream: &Stream) -> TimeDelta {
    if stream.name == DETAILS.stream.name { TimeDelta::hours(1) } else { TimeDelta::minutes(5) }
}

/// One report under way.
pub(super) struct Reading {
    pub(super) stream: &'static Stream,
    pub(super) window: Window,
    /// Begins at a bookmark, so that old campaigns need not be looked at.
    pub(super) incremental: bool,
    /// The round that this goes on with.
    pub(super) resume: Option<Resume>,
    /// The last contact or campaign activity that is complete already.
    after: Option<Id>,
    /// Some contacts could not be found: the bookmark must not speak for them.
    lacks_contacts: bool,
}

impl Reading {
    /// Where the present round stands, or where a new one begins.
    pub(super) fn begin(run: &mut Run, shared: &mut Shared, stream: &'static Stream) -> Result<Reading> {
        let resume = run.resume(stream);
        Reading::from(run, shared, stream, resume)
    }

    fn from(run: &mut Run, shared: &mut Shared, stream: &'static Stream, resume: Option<Resume>) -> Result<Reading> {
        let now = run.client.run_start()?;
        let bounded = run.config.report.is_some();
        let incremental = !bounded && run.has_bookmark(stream);
        if let Some(resume) = resume {
            let window = Window { start: resume.since, end: resume.until, bounded };
            let after = resume.after.as_deref().map(Id::from);
            let lacks_contacts = resume.lacks_contacts;
            return Ok(Reading { stream, window, incremental, resume: Some(resume), after, lacks_contacts });
        }
        // Counts of a sent campaign go on growing: what was sent in the days before the bookmark is read again.
        let growing = TimeDelta::days(i64::from(run.config.activity_lookback_days));
        let back = if stream.name == SUMMARY.stream.name { growing } else { TimeDelta::zero() };
        let window = if let Some(report) = &run.config.report {
            report.resolve(now, run.config.timezone)
        } else {
            let start = match run.since_less(stream, now, back) {
                Some(start) => start,
                None => route::beginning(run, shared)?.unwrap_or(now - Months::new(120)),
            };
            Window { start: start.min(now), end: now, bounded }
        };
        Ok(Reading { stream, window, incremental, resume: None, after: None, lacks_contacts: false })
    }

    /// What it needs of the campaigns.
    pub(super) fn scope(&self, config: &Config) -> Scope {
        let counts = self.stream.name == SUMMARY.stream.name;
        let lookback = TimeDelta::days(i64::from(config.activity_lookback_days));
        let narrowed = self.incremental || (self.window.bounded && config.is_lookback_set);
        let floor = match (counts, narrowed) {
            (true, _) => Some(self.window.start),
            (false, true) => self.window.start.checked_sub_signed(lookback),
            (false, false) => None,
        };
        let before = self.window.bounded.then_some(self.window.end);
        let stops = (!counts).then_some(self.window.start);
        Scope { counts, floor, before, complete: self.complete(), stops }
    }

    /// The same report on a route: how far another route got says nothing there.
    pub(super) fn on(self, run: &mut Run, shared: &mut Shared, route: Route) -> Result<Reading> {
        if self.complete() || self.resume.as_ref().is_none_or(|resume| resume.route == route) {
            return Ok(self);
        }
        log::warn!("{}: it was interrupted on the other route; its window starts over", self.stream.name);
        Reading::from(run, shared, self.stream, None)
    }

    /// Read to its end earlier in this round.
    pub(super) fn complete(&self) -> bool {
        self.resume.as_ref().is_some_and(|resume| resume.complete)
    }

    /// Whether a contact or campaign activity is still to be read.
    pub(super) fn wants(&self, id: &Id) -> bool {
        !self.complete() && self.after.as_ref().is_none_or(|after| id > after)
    }

    /// Whether a row of the details belongs into the window. What came after the end of an open window is as good.
    pub(super) fn holds(&self, at: DateTime<Utc>) -> bool {
        at >= self.window.start && !(self.window.bounded && at >= self.window.end)
    }

    /// Notes that all up to and with this id is written.
    pub(super) fn reached(&mut self, run: &mut Run, route: Route, id: &Id) {
        if self.wants(id) {
            run.note(self.stream, Resume { after: Some(id.to_string()), ..self.place(route) });
            self.after = Some(id.clone());
        }
    }

    fn place(&self, route: Route) -> Resume {
        let (since, until) = (self.window.start, self.window.end);
        let lacks_contacts = self.lacks_contacts;
        Resume { since, until, route, after: None, complete: false, lacks_contacts, filter: None }
    }

    /// Says whether all contacts were found whose rows belong to it.
    pub(super) fn every_contact(&mut self, found: bool) {
        self.lacks_contacts |= !found;
    }

    /// Notes that all is written.
    pub(super) fn finish(self, run: &mut Run, route: Route) -> Result<()> {
        run.check_oddities(self.stream)?;
        if self.complete() {
            log::info!("{}: complete in this round; read again in the next", self.stream.name);
        }
        // A window of its own neither uses nor moves the bookmark.
        if !self.window.bounded && !self.lacks_contacts {
            run.complete(self.stream, self.window.end, overlap(self.stream));
        }
        if self.window.bounded && self.resume.is_some() {
            self.tell_what_is_newer(run)?;
        }
        run.note(self.stream, Resume { complete: true, ..self.place(route) });
        run.skip_rest_of_round(self.stream);
        Ok(())
    }

    /// A window in days before today stays that of the day on which its read began.
    fn tell_what_is_newer(&self, run: &Run) -> Result<()> {
        let now = run.client.run_start()?;
        let named = run.config.report.as_ref().map(|report| report.resolve(now, run.config.timezone));
        if named.is_some_and(|named| named.end > self.window.end) {
            log::warn!(
                "{}: what was interrupted is complete, up to {}; run again for what is newer",
                self.stream.name,
                self.window.end
            );
        }
        Ok(())
    }
}
