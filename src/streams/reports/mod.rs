//! The two contact reports, which two routes lead to.

mod by_campaign;
mod by_contact;
mod newest_first;
mod reading;
mod records;
pub(super) mod route;

use chrono::{TimeDelta, Utc};
use reading::Reading;
pub(super) use records::{ActionSummary, ActivityDetail};

use super::{Probe, Shared, Source};
use crate::config::{Config, Route, words};
use crate::error::Result;
use crate::extent::{Filter, short_hash};
use crate::run::Run;
use crate::schema;
use crate::stream::{Needs, Stream};
use crate::timestamp::stamp;

const NEEDS: Needs =
    Needs { scopes: &["contact_data", "campaign_data"], privileges: &["ui:campaign:metrics", "contacts:read"] };

const BOOKMARK_KEYS: &[&str] = &[
    "filter",
    "deselected",
    "route",
    "lookback_days",
    "read_from",
    "resume_since",
    "resume_until",
    "resume_route",
    "resume_after",
    "resume_complete",
    "resume_filter",
    "resume_deselected",
];

const ACTIVITY_SUMMARY: &str = "activity_summary";
const ACTIVITY_DETAILS: &str = "activity_details";

pub(super) static SUMMARY: Source = Source {
    stream: Stream {
        name: "contact_action_summary",
        keys: &["contact_id", "campaign_activity_id"],
        replication_key: Some("start_on"),
        schema: schema::of::<ActionSummary>,
        needs: NEEDS,
        narrowed_by: |config| Filter::of(&[contacts_of(config)]),
        bookmark_keys: BOOKMARK_KEYS,
        only_by_campaign: &[],
    },
    probe: Probe::OfContact(|client, _, id| {
        let (day, now) = (stamp(Utc::now() - TimeDelta::days(1)), stamp(Utc::now()));
        let path = format!("/reports/contact_reports/{id}/activity_summary");
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
        narrowed_by: |config| Filter::of(&[contacts_of(config), ("types", words(&config.tracking_activity_types))]),
        bookmark_keys: BOOKMARK_KEYS,
        only_by_campaign: &["email_address", "device_type", "url_id", "link_url", "bounce_code", "opt_out_reason"],
    },
    probe: Probe::OfContact(|client, config, id| {
        let types = words(&config.tracking_activity_types);
        let path = format!("/reports/contact_reports/{id}/activity_details");
        let query = [("tracking_activities_list", types.as_str()), ("limit", "1")];
        client.first::<ActivityDetail>(ACTIVITY_DETAILS, &path, &query, 0).map(|_| ())
    }),
    read: |run, shared| read(run, shared, &DETAILS.stream),
};

/// The contacts whose reports are read. Those that are named are read whatever their status.
fn contacts_of(config: &Config) -> (&'static str, String) {
    if config.contact_ids.is_empty() {
        ("status", words(&config.contact_status))
    } else {
        ("ids", short_hash(&config.contact_ids.join(",")))
    }
}

/// A report that is complete in a round is left alone until the round ends: as long as another selected report of it is
/// unfinished.
fn is_complete_in_round(run: &Run, stream: &Stream) -> bool {
    let complete = run.resume(stream).filter(|resume| resume.is_complete);
    complete.is_some_and(|complete| {
        [&SUMMARY.stream, &DETAILS.stream].into_iter().filter(|report| run.selects(report)).any(|report| {
            run.resume(report).is_some_and(|resume| !resume.is_complete && resume.until == complete.until)
        })
    })
}

fn read(run: &mut Run, shared: &mut Shared, stream: &'static Stream) -> Result<()> {
    let mut readings = Vec::new();
    for report in [&SUMMARY.stream, &DETAILS.stream] {
        if !run.selects(report) || run.is_finished(report) {
            continue;
        }
        if is_complete_in_round(run, report) {
            log::info!("{}: complete in this round; read again in the next", report.name);
            run.finish(report);
        } else {
            readings.push(Reading::begin(run, report)?);
        }
    }
    if run.is_finished(stream) {
        return Ok(());
    }
    let route = route::route(run, shared, stream, &readings)?;
    match route {
        Route::Contacts => {
            for reading in readings.into_iter().filter(|reading| reading.stream.name == stream.name) {
                let mut reading = reading.on(run, route)?;
                by_contact::read(run, shared, &mut reading)?;
                reading.finish(run, route)?;
            }
        }
        // The same pages hold the rows of both reports.
        Route::Campaigns => {
            let mut readings =
                readings.into_iter().map(|reading| reading.on(run, route)).collect::<Result<Vec<_>>>()?;
            for reading in &readings {
                run.begin(reading.stream)?;
            }
            by_campaign::read(run, shared, &mut readings)?;
            for reading in readings {
                reading.finish(run, route)?;
            }
        }
    }
    Ok(())
}
