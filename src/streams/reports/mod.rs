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
use crate::config::{Route, words};
use crate::error::Result;
use crate::run::Run;
use crate::schema;
use crate::stream::{Needs, Stream};
use crate::timestamp::stamp;

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
    },
    probe: Probe::OfContact(|client, config, id| {
        let types = words(&config.tracking_activity_types);
        let path = format!("/reports/contact_reports/{id}/activity_details");
        let query = [("tracking_activities_list", types.as_str()), ("limit", "1")];
        client.first::<ActivityDetail>(ACTIVITY_DETAILS, &path, &query, 0).map(|_| ())
    }),
    read: |run, shared| read(run, shared, &DETAILS.stream),
};

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
