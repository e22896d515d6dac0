//! The two contact reports, `contact_action_summary` and `contact_activity_details`.
//!
//! The service has their rows twice: in the reports of each contact, and in those of each campaign. A run takes one of
//! these routes for the reports that it reads. [`read`] shows the steps:
//!
//! 1. [`plan`] picks the route before the first record. [`route::fixed`] takes it from the settings, an interrupted read or
//!    the bookmark; otherwise [`route::choose`] compares the API calls of both routes, which `plan` counts or [`estimate`]s
//!    from samples. [`route::Reason`] lists all reasons.
//! 2. [`by_contact`] or [`by_campaign`] reads the rows and writes them.
//! 3. [`Reading::finish`] moves the bookmark.
//!
//! [`reading`] holds the window and the resume point of one report, [`due_campaigns`] decides which campaigns may have rows
//! in it, and [`newest_first`] reads listings that grow while they are read. [`contact_fetch`] and [`campaign_ids`] are
//! parts of the contact route; [`tracking`], [`refusals`] and [`summary_counts`] of the campaign route.

mod by_campaign;
mod by_contact;
mod campaign_ids;
mod contact_fetch;
mod due_campaigns;
mod estimate;
mod newest_first;
mod plan;
mod reading;
mod records;
mod refusals;
mod route;
mod stats;
mod summary_counts;
mod tracking;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};

use by_contact::Contacts;
use campaign_ids::CampaignIds;
use chrono::{TimeDelta, Utc};
use contact_fetch::ContactFetch;
use due_campaigns::Campaigns;
pub(super) use estimate::{cost, time};
use plan::{CountedRows, Plan, Sampled};
use reading::{Reading, waits_for_other};
pub(super) use records::ActionSummary;
pub(crate) use records::ActivityDetail;
pub(crate) use tracking::{Tracked, tracking_path};

use super::email_campaigns::METRICS;
use super::{Probe, Shared, Source};
use crate::config::{Config, Route, words};
use crate::error::Result;
use crate::extent::{Filter, short_hash};
use crate::id::Id;
use crate::run::Run;
use crate::schema;
use crate::stream::{FieldNeeds, KEYS_WITH_ROUTES, Needs, Stream};
use crate::timestamp::stamp;

/// What the contact route needs. It is also what the reports need at least: where the campaign route is refused, the
/// contact route is tried.
const BY_CONTACT: Needs = Needs { scopes: &["contact_data"], privileges: &["ui:campaign:metrics", "contacts:read"] };
const BY_CAMPAIGN: Needs = Needs { scopes: &["campaign_data"], privileges: &["ui:campaign:metrics", "campaign:read"] };

const ACTIVITY_SUMMARY: &str = "activity_summary";
const ACTIVITY_DETAILS: &str = "activity_details";

const ONLY_BY_CAMPAIGN: &[&str] =
    &["email_address", "device_type", "url_id", "link_url", "bounce_code", "opt_out_reason"];
/// On the contact route it is looked up.
const CAMPAIGN_ID: FieldNeeds = FieldNeeds { fields: &["campaign_id"], needs: &METRICS };

pub(super) static SUMMARY: Source = Source {
    stream: Stream {
        name: "contact_action_summary",
        keys: &["contact_id", "campaign_activity_id"],
        replication_key: Some("start_on"),
        schema: LazyLock::new(schema::of::<ActionSummary>),
        needs: BY_CONTACT,
        narrowed_by: |config| Filter::of(&[contacts_of(config)]),
        bookmark_keys: KEYS_WITH_ROUTES,
        only_by_campaign: &[],
        field_needs: &[CAMPAIGN_ID],
    },
    probe: Probe::OfContact(|client, _, id| {
        let (day, now) = (stamp(Utc::now() - TimeDelta::days(1)), stamp(Utc::now()));
        let path = summary_path(&Id::from(id));
        client.first::<ActionSummary>(ACTIVITY_SUMMARY, &path, &[("start", &day), ("end", &now)], 0).map(|_| ())
    }),
    cost: |run, shared| Ok(plan::of(run, shared)?.calls),
    read: |run, shared| read(run, shared, &SUMMARY.stream),
};

pub(super) static DETAILS: Source = Source {
    stream: Stream {
        name: "contact_activity_details",
        keys: &["contact_id", "campaign_activity_id", "tracking_activity_type", "created_time", "occurrence"],
        replication_key: Some("created_time"),
        schema: LazyLock::new(schema::of::<ActivityDetail>),
        needs: BY_CONTACT,
        narrowed_by: |config| Filter::of(&[contacts_of(config), ("types", words(&config.tracking_activity_types))]),
        bookmark_keys: KEYS_WITH_ROUTES,
        only_by_campaign: ONLY_BY_CAMPAIGN,
        field_needs: &[CAMPAIGN_ID, FieldNeeds { fields: ONLY_BY_CAMPAIGN, needs: &BY_CAMPAIGN }],
    },
    probe: Probe::OfContact(|client, config, id| {
        let types = words(&config.tracking_activity_types);
        let path = details_path(&Id::from(id));
        let query = [("tracking_activities_list", types.as_str()), ("limit", "1")];
        client.first::<ActivityDetail>(ACTIVITY_DETAILS, &path, &query, 0).map(|_| ())
    }),
    // One plan covers both reports: the first selected one counts its cost.
    cost: |run, shared| if run.selects(&SUMMARY.stream) { Ok(0) } else { Ok(plan::of(run, shared)?.calls) },
    read: |run, shared| read(run, shared, &DETAILS.stream),
};

/// Where the summary of a contact is read.
fn summary_path(contact: &Id) -> String {
    format!("/reports/contact_reports/{}/activity_summary", contact.in_path())
}

/// Where the details of a contact are read.
pub(crate) fn details_path(contact: &Id) -> String {
    format!("/reports/contact_reports/{}/activity_details", contact.in_path())
}

/// Which contacts are read, as a part of the filter. Contacts named in `contact_ids` are read whatever their status.
fn contacts_of(config: &Config) -> (&'static str, String) {
    if config.contact_ids.is_empty() {
        ("status", words(&config.contact_status))
    } else {
        ("ids", short_hash(&config.contact_ids.join(",")))
    }
}

static REPORTS: [&Stream; 2] = [&SUMMARY.stream, &DETAILS.stream];
/// Both, as the campaign route reads them.
const BOTH_REPORTS: &str = "contact reports";

/// What the run has fetched for the contact reports so far, so that no call is made twice.
#[derive(Default)]
pub(crate) struct Fetched {
    pub(in crate::streams) campaigns: Campaigns,
    plan: Option<Plan>,
    /// How many calls each read is planned to take: each report on the contact route, and [`BOTH_REPORTS`] on the other.
    planned_calls: BTreeMap<&'static str, u64>,
    contacts: Option<Arc<Contacts>>,
    summaries: Option<Arc<ContactFetch<ActionSummary>>>,
    details: Option<Arc<ContactFetch<ActivityDetail>>>,
    /// Set once the service has refused a summary over more than five years.
    must_split: Arc<AtomicBool>,
    campaign_ids: CampaignIds,
    /// What the plan has learnt from a sample of contacts.
    sampled: Sampled,
    /// How many rows the due campaigns have, once the service's counts are read.
    counted: Option<CountedRows>,
}

impl Fetched {
    /// The route and the reason, in words, once the plan is made.
    pub(super) fn route_in_words(&self) -> Option<&str> {
        self.plan.as_ref().map(|plan| plan.words.as_str())
    }

    /// Corrects the plan by what reading has shown: `what` takes this many calls, some of which are made. Logs the new
    /// estimate if the plan was far too low.
    fn revise_plan(&mut self, run: &Run, what: &'static str, calls: u64, made: u64) {
        run.progress.expect_calls(calls.saturating_sub(made));
        let planned = self.planned_calls.entry(what).or_default();
        if calls > *planned + *planned / 4 {
            let cost = cost(calls, run.config.requests_per_second);
            log::info!(
                "{what}: new estimate: {cost}, not {planned}, since there is more to read than the sample showed"
            );
            *planned = calls;
        }
    }

    /// The contacts whose reports are read.
    fn contacts(&mut self, run: &Run) -> Result<Arc<Contacts>> {
        let contacts = match self.contacts.take() {
            Some(known) => known,
            None => Arc::new(Contacts::fetch(run)?),
        };
        Ok(Arc::clone(self.contacts.insert(contacts)))
    }

    /// Fetches the summary of any contact, reusing the pages that the plan has read.
    fn summaries(&mut self, reading: &Reading) -> Arc<ContactFetch<ActionSummary>> {
        let known = self.summaries.take().filter(|fetch| fetch.is_for(reading));
        let fetch = known.unwrap_or_else(|| contact_fetch::summary(reading, self.must_split.clone()));
        Arc::clone(self.summaries.insert(fetch))
    }

    /// Fetches the details of any contact, reusing the pages that the plan has read.
    fn details(&mut self, run: &Run, reading: &Reading) -> Arc<ContactFetch<ActivityDetail>> {
        let known = self.details.take().filter(|fetch| fetch.is_for(reading));
        Arc::clone(self.details.insert(known.unwrap_or_else(|| contact_fetch::details(run, reading))))
    }
}

/// The selected reports that this run still has to read. One that waits for the other counts as finished in this run.
fn readings(run: &mut Run) -> Result<Vec<Reading>> {
    // Decided before anything is read: what ends the round in this run must not begin the next one in it.
    for report in REPORTS {
        if run.selects(report) && !run.is_finished(report) && waits_for_other(run, report) {
            log::info!("{}: already finished in this round of both reports; skipped until the round ends", report.name);
            run.finish(report);
        }
    }
    let mut readings = Vec::new();
    for report in REPORTS {
        if run.selects(report) && !run.is_finished(report) {
            readings.push(Reading::begin(run, report)?);
        }
    }
    Ok(readings)
}

/// Reads a report. On the campaign route the same pages serve both reports, so the first call reads both. On the contact
/// route each report has pages of its own.
fn read(run: &mut Run, shared: &mut Shared, stream: &'static Stream) -> Result<()> {
    // For the error if the service refuses the plan itself.
    shared.needs = match run.config.activity_route.fixed().or(run.state.bookmark(stream).route()) {
        Some(Route::Contacts) => Some(&BY_CONTACT),
        Some(Route::Campaigns) => Some(&BY_CAMPAIGN),
        None => None,
    };
    let route = plan::of(run, shared)?.route;
    if run.is_finished(stream) {
        return Ok(());
    }
    match route {
        Route::Contacts => {
            shared.needs = Some(&BY_CONTACT);
            let mut reading = Reading::begin(run, stream)?.on_route(run, route)?;
            by_contact::read(run, shared, &mut reading)?;
            reading.finish(run, route)
        }
        Route::Campaigns => {
            shared.needs = Some(&BY_CAMPAIGN);
            let readings = readings(run)?.into_iter().map(|reading| reading.on_route(run, route));
            let mut readings = readings.collect::<Result<Vec<_>>>()?;
            for reading in &readings {
                run.begin(reading.stream)?;
            }
            by_campaign::read(run, shared, &mut readings)?;
            // The pages serve both, so too many unusable rows keep both bookmarks.
            for reading in &readings {
                run.odd_rows.check(reading.stream)?;
            }
            readings.into_iter().try_for_each(|reading| reading.finish(run, route))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::run::tests::with_run;

    #[test]
    fn the_plan_is_corrected_once_it_is_a_quarter_too_low() {
        with_run(&REPORTS, &json!({}), &json!({}), &[], |run| {
            let mut fetched = Fetched { planned_calls: [(BOTH_REPORTS, 100)].into(), ..Fetched::default() };
            for (calls, planned) in [(50, 100), (125, 100), (126, 126), (157, 126), (158, 158)] {
                fetched.revise_plan(run, BOTH_REPORTS, calls, 10);
                assert_eq!(fetched.planned_calls[BOTH_REPORTS], planned, "{calls}");
            }
        });
    }
}
