//! One report under way: the window it is read for, and where an interrupted read of it goes on.

use chrono::{DateTime, TimeDelta, Utc};

use super::campaigns::Demand;
use super::{DETAILS, SUMMARY};
use crate::config::{Config, Route};
use crate::error::Result;
use crate::id::Id;
use crate::run::Run;
use crate::state::{Resume, Start};
use crate::stream::Stream;
use crate::timestamp::stamp;

/// How late a row may appear after the moment that dates it: opens and clicks may be attributed hours late.
fn overlap(stream: &Stream) -> TimeDelta {
    if stream.name == DETAILS.stream.name { TimeDelta::days(1) } else { TimeDelta::minutes(5) }
}

/// One report under way. Its window is from `since` up to, and without, `until`.
pub(super) struct Reading {
    pub(super) stream: &'static Stream,
    /// `None` where nothing bounds it: it is read to its last row.
    pub(super) since: Option<DateTime<Utc>>,
    pub(super) until: DateTime<Utc>,
    /// The window is named by a `report_*` setting: rows outside are left out, the bookmark is left alone.
    pub(super) is_bounded: bool,
    /// Begins at a bookmark, so that old campaigns need not be looked at.
    pub(super) incremental: bool,
    /// The unfinished read that this goes on with.
    pub(super) resume: Option<Resume>,
    /// The last contact or campaign activity that is complete already.
    after: Option<Id>,
    /// Some contacts could not be found: neither bookmark nor resume point must speak for them.
    lacks_contacts: bool,
}

impl Reading {
    /// Where the unfinished read stands, or where a new one begins.
    pub(super) fn begin(run: &Run, stream: &'static Stream) -> Result<Reading> {
        Reading::from(run, stream, run.resume(stream).filter(|resume| !resume.is_complete))
    }

    fn from(run: &Run, stream: &'static Stream, resume: Option<Resume>) -> Result<Reading> {
        let is_bounded = run.has_own_window(stream);
        let incremental = !is_bounded && run.bookmark(stream).is_some();
        let after = resume.as_ref().and_then(|resume| resume.after.as_deref()).map(Id::from);
        let (since, until) = match &resume {
            Some(resume) => (resume.since.0, resume.until),
            None => window(run, stream, run.client.run_start()?),
        };
        Ok(Reading { stream, since, until, is_bounded, incremental, resume, after, lacks_contacts: false })
    }

    pub(super) fn is_summary(&self) -> bool {
        self.stream.name == SUMMARY.stream.name
    }

    /// What it needs of the campaigns.
    pub(super) fn demand(&self, config: &Config) -> Demand {
        let lookback = TimeDelta::days(i64::from(config.activity_lookback_days));
        // A window of the settings wants all its rows, unless the user says how late they may be.
        let lookback = (!self.is_bounded || config.is_lookback_set).then_some(lookback);
        Demand::new(self.is_summary(), self.since, self.is_bounded.then_some(self.until), lookback)
    }

    /// The route that the bookmark was made on.
    pub(super) fn previous_route(&self, run: &Run) -> Option<Route> {
        run.bookmark(self.stream)?;
        run.state.bookmark(self.stream).route()
    }

    /// The same report on a route, about to be read: how far another route got says nothing there.
    pub(super) fn on(self, run: &Run, route: Route) -> Result<Reading> {
        let name = self.stream.name;
        if let Some(why) = run.why_not_resumable(self.stream) {
            log::warn!(
                "{name}: {why}. If this run is interrupted, it cannot be resumed; for that, finish the other read first, or \
                 give this run a state file of its own"
            );
        }
        let reading = if self.resume.as_ref().is_some_and(|resume| resume.route != Some(route)) {
            log::warn!("{name}: it was interrupted on the other route, so that it starts over");
            Reading::from(run, self.stream, None)?
        } else {
            self
        };
        if let Some(resume) = &reading.resume {
            log::info!("{name}: continuing the read that ends at {}", stamp(resume.until));
        } else if reading.incremental {
            let has_late_rows = reading.stream.name == DETAILS.stream.name && route == Route::Campaigns;
            run.warn_of_unread(reading.stream, reading.since, route, has_late_rows);
        }
        Ok(reading)
    }

    /// Whether a contact or campaign activity is still to be read.
    pub(super) fn wants(&self, id: &Id) -> bool {
        self.after.as_ref().is_none_or(|after| id > after)
    }

    /// Whether a row of the details belongs into the window. What came after the end of an open window is as good.
    pub(super) fn holds(&self, at: DateTime<Utc>) -> bool {
        self.since.is_none_or(|since| at >= since) && !(self.is_bounded && at >= self.until)
    }

    /// Notes that all up to and with this id is written.
    pub(super) fn note_progress(&mut self, run: &mut Run, route: Route, id: &Id) {
        if self.wants(id) && !self.lacks_contacts {
            run.note_progress(self.stream, Resume { after: Some(id.to_string()), ..self.place(route) });
            self.after = Some(id.clone());
        }
    }

    fn place(&self, route: Route) -> Resume {
        Resume { since: Start(self.since), until: self.until, route: Some(route), ..Resume::default() }
    }

    /// Says whether all contacts were found whose rows belong to it.
    pub(super) fn every_contact(&mut self, found: bool) {
        self.lacks_contacts |= !found;
    }

    /// Notes that all is written.
    pub(super) fn finish(self, run: &mut Run, route: Route) -> Result<()> {
        run.check_oddities(self.stream)?;
        if !self.is_bounded && !self.lacks_contacts {
            run.advance_report(self.stream, self.since, self.until, overlap(self.stream), route);
        }
        if self.is_bounded && self.resume.is_some() {
            self.warn_of_newer_days(run)?;
        }
        run.note_progress(self.stream, Resume { is_complete: true, ..self.place(route) });
        run.finish(self.stream);
        Ok(())
    }

    /// An interrupted read keeps the days of its first run.
    fn warn_of_newer_days(&self, run: &Run) -> Result<()> {
        let (_, until) = window(run, self.stream, run.client.run_start()?);
        if until > self.until {
            log::warn!(
                "{}: what was interrupted is complete, up to {}; run again for what is newer",
                self.stream.name,
                stamp(self.until)
            );
        }
        Ok(())
    }
}

/// The window of a read that begins now.
fn window(run: &Run, stream: &Stream, now: DateTime<Utc>) -> (Option<DateTime<Utc>>, DateTime<Utc>) {
    if let Some(report) = run.config.report.as_ref().filter(|_| run.has_own_window(stream)) {
        let window = report.resolve(now, run.config.timezone);
        return (Some(window.start), window.end);
    }
    // Counts of a sent campaign go on growing: what was sent in the days before the bookmark is read again.
    let growing = TimeDelta::days(i64::from(run.config.activity_lookback_days));
    let back = if stream.name == SUMMARY.stream.name { growing } else { TimeDelta::zero() };
    (run.since_less(stream, now, back).map(|since| since.min(now)), now)
}
