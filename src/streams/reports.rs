//! The two contact reports: their window, their round, and the choice between the two routes that lead to their rows.

use chrono::{DateTime, Months, TimeDelta, Utc};

use super::plan::Scope;
use super::records::{ActionSummary, ActivityDetail};
use super::{Needs, Probe, Stream, campaign_reports, contact_reports, plan};
use crate::config::{Config, Route};
use crate::error::Result;
use crate::ids::Id;
use crate::messages::stamp;
use crate::schema;
use crate::state::Resume;
use crate::sync::Run;
use crate::window::Window;

const NEEDS: Needs =
    Needs { scopes: &["contact_data", "campaign_data"], privileges: &["ui:campaign:metrics", "contacts:read"] };

pub(super) static SUMMARY: Stream = Stream {
    name: "contact_action_summary",
    keys: &["contact_id", "campaign_activity_id"],
    replication_key: Some("start_on"),
    schema: schema::of::<ActionSummary>,
    needs: NEEDS,
    probe: Probe::OfContact(|client, _, id| {
        let (day, now) = (stamp(Utc::now() - TimeDelta::days(1)), stamp(Utc::now()));
        let path = format!("/reports/contact_reports/{id}/activity_summary");
        client.first("activity_summary", &path, &[("start", &day), ("end", &now)]).map(|_| ())
    }),
    read: |run| read(run, &SUMMARY),
};

pub(super) static DETAILS: Stream = Stream {
    name: "contact_activity_details",
    keys: &["contact_id", "campaign_activity_id", "tracking_activity_type", "created_time", "occurrence"],
    replication_key: Some("created_time"),
    schema: schema::of::<ActivityDetail>,
    needs: NEEDS,
    probe: Probe::OfContact(|client, config, id| {
        let types = config.tracking_activity_types.join(",");
        let path = format!("/reports/contact_reports/{id}/activity_details");
        let query = [("tracking_activities_list", types.as_str()), ("limit", "1")];
        client.first("activity_details", &path, &query).map(|_| ())
    }),
    read: |run| read(run, &DETAILS),
};

/// How late a row may appear after the moment that dates it: opens and clicks may be attributed late.
fn overlap(stream: &Stream) -> TimeDelta {
    if stream.name == DETAILS.name { TimeDelta::hours(1) } else { TimeDelta::minutes(5) }
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
}

impl Reading {
    /// Where the present round stands, or where a new one begins.
    fn begin(run: &mut Run, stream: &'static Stream) -> Result<Reading> {
        let resume = run.resume(stream);
        Reading::from(run, stream, resume)
    }

    fn from(run: &mut Run, stream: &'static Stream, resume: Option<Resume>) -> Result<Reading> {
        let now = run.client.run_start()?;
        let bounded = run.config.report.is_some();
        let incremental = !bounded && run.has_bookmark(stream);
        if let Some(resume) = resume {
            let window = Window { start: resume.since, end: resume.until, bounded };
            let after = resume.after.as_deref().map(Id::from);
            return Ok(Reading { stream, window, incremental, resume: Some(resume), after });
        }
        // Counts of a sent campaign go on growing: what was sent in the days before the bookmark is read again.
        let growing = TimeDelta::days(i64::from(run.config.activity_lookback_days));
        let back = if stream.name == SUMMARY.name { growing } else { TimeDelta::zero() };
        let window = if let Some(report) = &run.config.report {
            report.resolve(now, run.config.timezone)
        } else {
            let start = match run.since_less(stream, now, back) {
                Some(start) => start,
                None => plan::beginning(run)?.unwrap_or(now - Months::new(120)),
            };
            Window { start: start.min(now), end: now, bounded }
        };
        Ok(Reading { stream, window, incremental, resume: None, after: None })
    }

    /// What it needs of the campaigns.
    pub(super) fn scope(&self, config: &Config) -> Scope {
        let counts = self.stream.name == SUMMARY.name;
        let lookback = TimeDelta::days(i64::from(config.activity_lookback_days));
        let floor = match (counts, self.incremental) {
            (true, _) => Some(self.window.start),
            (false, true) => self.window.start.checked_sub_signed(lookback),
            (false, false) => None,
        };
        let before = self.window.bounded.then_some(self.window.end);
        Scope { counts, floor, before, complete: self.complete(), stops: self.incremental && !counts }
    }

    /// The same report on a route: how far another route got says nothing there.
    fn on(self, run: &mut Run, route: Route) -> Result<Reading> {
        if self.complete() || self.resume.as_ref().is_none_or(|resume| resume.route == route) {
            return Ok(self);
        }
        log::warn!("{}: it was interrupted on the other route; its window starts over", self.stream.name);
        Reading::from(run, self.stream, None)
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
            run.reached(self.stream, &self.window, route, id);
            self.after = Some(id.clone());
        }
    }

    /// Notes that all is written.
    fn finish(self, run: &mut Run, route: Route) {
        if self.complete() {
            log::info!("{}: complete in this round; read again in the next", self.stream.name);
        }
        run.finish(self.stream, &self.window, route, overlap(self.stream));
    }
}

fn read(run: &mut Run, stream: &'static Stream) -> Result<()> {
    let mut readings = Vec::new();
    for report in [&SUMMARY, &DETAILS] {
        if run.selects(report) {
            readings.push(Reading::begin(run, report)?);
        }
    }
    match plan::route(run, stream, &readings)? {
        Route::Contacts => {
            for reading in readings.into_iter().filter(|reading| reading.stream.name == stream.name) {
                let mut reading = reading.on(run, Route::Contacts)?;
                if !reading.complete() {
                    contact_reports::read(run, &mut reading)?;
                }
                reading.finish(run, Route::Contacts);
            }
        }
        // The same pages hold the rows of both reports.
        Route::Campaigns => {
            let mut readings =
                readings.into_iter().map(|reading| reading.on(run, Route::Campaigns)).collect::<Result<Vec<_>>>()?;
            for reading in &readings {
                run.begin(reading.stream)?;
            }
            if readings.iter().any(|reading| !reading.complete()) {
                campaign_reports::read(run, &mut readings)?;
            }
            for reading in readings {
                reading.finish(run, Route::Campaigns);
            }
        }
    }
    Ok(())
}
