//! The two contact reports: their window, their round, and the choice between the two routes that lead to their rows.

mod by_campaign;
mod by_contact;
mod newest_first;
mod records;
pub(super) mod route;

use chrono::{DateTime, Months, TimeDelta, Utc};
pub(super) use records::{ActionSummary, ActivityDetail};
use route::Scope;

use super::{Probe, Shared, Source};
use crate::client::path;
use crate::config::{Config, Route};
use crate::error::Result;
use crate::id::Id;
use crate::run::Run;
use crate::schema;
use crate::state::Resume;
use crate::stream::{Needs, Stream};
use crate::timestamp::stamp;
use crate::window::Window;

const NEEDS: Needs =
    Needs { scopes: &["contact_data", "campaign_data"], privileges: &["ui:campaign:metrics", "contacts:read"] };

const ACTIVITY_SUMMARY: &str = "activity_summary";
const ACTIVITY_DETAILS: &str = "activity_details";

pub(super) static SUMMARY: Source = Source {
    stream: Stream {
        name: "contact_action_summary",
        keys: &["contact_id", "campaign_activity_id"],
        replication_key: Some("start_on"),
        schema: schema::of::<ActionSummary>,
        needs: NEEDS,
    },
    probe: Probe::OfContact(|client, _, id| {
        let (day, now) = (stamp(Utc::now() - TimeDelta::days(1)), stamp(Utc::now()));
        let path = path(&["reports", "contact_reports", id, "activity_summary"]);
        client.first::<ActionSummary>(ACTIVITY_SUMMARY, &path, &[("start", &day), ("end", &now)], 0).map(|_| ())
    }),
    read: |run, shared| read(run, shared, &SUMMARY.stream),
};

pub(super) static DETAILS: Source = Source {
    stream: Stream {
        name: "contact_activity_details",
        keys: &["contact_id", "campaign_activity_id", "tracking_activity_type", "created_time", "occurrence"],
        replication_key: Some("created_time"),
        schema: schema::of::<ActivityDetail>,
        needs: NEEDS,
    },
    probe: Probe::OfContact(|client, config, id| {
        let types = config.tracking_activity_types.join(",");
        let path = path(&["reports", "contact_reports", id, "activity_details"]);
        let query = [("tracking_activities_list", types.as_str()), ("limit", "1")];
        client.first::<ActivityDetail>(ACTIVITY_DETAILS, &path, &query, 0).map(|_| ())
    }),
    read: |run, shared| read(run, shared, &DETAILS.stream),
};

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
    fn begin(run: &mut Run, shared: &mut Shared, stream: &'static Stream) -> Result<Reading> {
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
    fn scope(&self, config: &Config) -> Scope {
        let counts = self.stream.name == SUMMARY.stream.name;
        let lookback = TimeDelta::days(i64::from(config.activity_lookback_days));
        let floor = match (counts, self.incremental) {
            (true, _) => Some(self.window.start),
            (false, true) => self.window.start.checked_sub_signed(lookback),
            (false, false) => None,
        };
        let before = self.window.bounded.then_some(self.window.end);
        let stops = (!counts).then_some(self.window.start);
        Scope { counts, floor, before, complete: self.complete(), stops }
    }

    /// The same report on a route: how far another route got says nothing there.
    fn on(self, run: &mut Run, shared: &mut Shared, route: Route) -> Result<Reading> {
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
    fn finish(self, run: &mut Run, route: Route) -> Result<()> {
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

fn read(run: &mut Run, shared: &mut Shared, stream: &'static Stream) -> Result<()> {
    let mut readings = Vec::new();
    for report in [&SUMMARY.stream, &DETAILS.stream] {
        if run.selects(report) {
            readings.push(Reading::begin(run, shared, report)?);
        }
    }
    match route::route(run, shared, stream, &readings)? {
        Route::Contacts => {
            for reading in readings.into_iter().filter(|reading| reading.stream.name == stream.name) {
                let mut reading = reading.on(run, shared, Route::Contacts)?;
                if !reading.complete() {
                    by_contact::read(run, shared, &mut reading)?;
                }
                reading.finish(run, Route::Contacts)?;
            }
        }
        // The same pages hold the rows of both reports.
        Route::Campaigns => {
            let mut readings = readings
                .into_iter()
                .map(|reading| reading.on(run, shared, Route::Campaigns))
                .collect::<Result<Vec<_>>>()?;
            for reading in &readings {
                run.begin(reading.stream)?;
            }
            if readings.iter().any(|reading| !reading.complete()) {
                by_campaign::read(run, shared, &mut readings)?;
            }
            for reading in readings {
                reading.finish(run, Route::Campaigns)?;
            }
        }
    }
    Ok(())
}
