//! One report under way: its window, and where an interrupted read of it goes on.

use chrono::{DateTime, TimeDelta, Utc};

use super::campaigns::Demand;
use super::{DETAILS, SUMMARY};
use crate::config::{Config, Route};
use crate::error::Result;
use crate::id::Id;
use crate::run::Run;
use crate::state::Resume;
use crate::stream::Stream;
use crate::window::Window;

/// The service is younger than this. As the start of a window it is no bound, but for the contact route's summary, which
/// must name one.
const BEGINNING: DateTime<Utc> = DateTime::from_timestamp(883_612_800, 0).expect("1998-01-01");

/// How late a row may appear after the moment that dates it: opens and clicks may be attributed late.
fn overlap(stream: &Stream) -> TimeDelta {
    if stream.name == DETAILS.stream.name { TimeDelta::hours(1) } else { TimeDelta::minutes(5) }
}

/// One report under way.
pub(super) struct Reading {
    pub(super) stream: &'static Stream,
    pub(super) window: Window,
    /// The round that this goes on with.
    pub(super) resume: Option<Resume>,
    /// The last contact or campaign activity that is complete already.
    after: Option<Id>,
    /// Some contacts could not be found: the bookmark must not speak for them.
    lacks_contacts: bool,
}

impl Reading {
    /// Where the present round stands, or where a new one begins.
    pub(super) fn begin(run: &mut Run, stream: &'static Stream) -> Result<Reading> {
        let resume = run.resume(stream);
        Reading::from(run, stream, resume)
    }

    fn from(run: &mut Run, stream: &'static Stream, resume: Option<Resume>) -> Result<Reading> {
        let now = run.client.run_start()?;
        let bounded = run.config.report.is_some();
        if let Some(resume) = resume {
            let window = Window { start: resume.since, end: resume.until, bounded };
            let after = resume.after.as_deref().map(Id::from);
            let lacks_contacts = resume.lacks_contacts;
            return Ok(Reading { stream, window, resume: Some(resume), after, lacks_contacts });
        }
        // Counts of a sent campaign go on growing: what was sent in the days before the bookmark is read again.
        let growing = TimeDelta::days(i64::from(run.config.activity_lookback_days));
        let back = if stream.name == SUMMARY.stream.name { growing } else { TimeDelta::zero() };
        let window = if let Some(report) = &run.config.report {
            report.resolve(now, run.config.timezone)
        } else {
            let start = run.since_less(stream, now, back).unwrap_or(BEGINNING);
            Window { start: start.min(now), end: now, bounded }
        };
        Ok(Reading { stream, window, resume: None, after: None, lacks_contacts: false })
    }

    pub(super) fn is_summary(&self) -> bool {
        self.stream.name == SUMMARY.stream.name
    }

    /// The oldest moment that is wanted; `None` for all that there is.
    pub(super) fn lower_bound(&self) -> Option<DateTime<Utc>> {
        (self.window.start > BEGINNING).then_some(self.window.start)
    }

    /// What it needs of the campaigns.
    pub(super) fn demand(&self, config: &Config) -> Demand {
        let lookback = TimeDelta::days(i64::from(config.activity_lookback_days));
        // A window of the settings wants all its rows, unless the user says how late they may be.
        let lookback = (!self.window.bounded || config.is_lookback_set).then_some(lookback);
        let before = self.window.bounded.then_some(self.window.end);
        Demand::new(self.is_summary(), self.lower_bound(), before, lookback)
    }

    /// The route that the bookmark was made on.
    pub(super) fn previous_route(&self, run: &Run) -> Option<Route> {
        let bookmark = run.state.bookmark(self.stream.name);
        serde_json::from_value(bookmark.other.get("route")?.clone()).ok()
    }

    /// The same report on a route: how far another route got says nothing there.
    pub(super) fn on(self, run: &mut Run, route: Route) -> Result<Reading> {
        if self.is_finished() || self.resume.as_ref().is_none_or(|resume| resume.route == route) {
            return Ok(self);
        }
        log::warn!("{}: it was interrupted on the other route; its window starts over", self.stream.name);
        Reading::from(run, self.stream, None)
    }

    /// Read to its end earlier in this round.
    pub(super) fn is_finished(&self) -> bool {
        self.resume.as_ref().is_some_and(|resume| resume.complete)
    }

    /// Whether a contact or campaign activity is still to be read.
    pub(super) fn wants(&self, id: &Id) -> bool {
        !self.is_finished() && self.after.as_ref().is_none_or(|after| id > after)
    }

    /// Whether a row of the details belongs into the window. What came after the end of an open window is as good.
    pub(super) fn holds(&self, at: DateTime<Utc>) -> bool {
        self.lower_bound().is_none_or(|from| at >= from) && !(self.window.bounded && at >= self.window.end)
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
        if self.is_finished() {
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
