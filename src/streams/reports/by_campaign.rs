//! The campaign route: reads the rows of each sent campaign activity, 500 per call, and counts the summary from them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Deserialize;

use super::campaigns::CampaignToRead;
use super::kind::{KINDS, Kind};
use super::newest_first::{self, Part, newest_first};
use super::reading::Reading;
use super::records::{ActionSummary, ActivityDetail};
use super::{DETAILS, SUMMARY, plan};
use crate::client::Row;
use crate::config::Route;
use crate::error::{Error, Result};
use crate::fanout::{self, Step};
use crate::field::{Integer, Key, KeyInteger, KeyTimestamp, Text, Timestamp};
use crate::id::Id;
use crate::run::Run;
use crate::streams::Shared;
use crate::streams::campaigns::named;
use crate::streams::page::rows;

const TRACKING: &str = "email_reports";

/// A row of any of the six tracking reports.
#[derive(Deserialize, JsonSchema)]
struct Tracked {
    contact_id: Key,
    created_time: KeyTimestamp,
    #[serde(default)]
    email_address: Text,
    #[serde(default)]
    device_type: Text,
    #[serde(default)]
    url_id: Text,
    #[serde(default)]
    link_url: Text,
    #[serde(default)]
    bounce_code: Text,
    #[serde(default)]
    opt_out_reason: Text,
    // Known from the request.
    #[serde(default, rename = "campaign_activity_id")]
    _activity: Text,
    #[serde(default, rename = "tracking_activity_type")]
    _kind: Text,
    // Facts of the contact, which the contacts stream has.
    #[serde(default, rename = "first_name")]
    _first_name: Text,
    #[serde(default, rename = "last_name")]
    _last_name: Text,
    #[serde(default, rename = "deleted_at")]
    _deleted_at: Text,
    #[serde(default, rename = "current_email_address")]
    _current_email_address: Text,
}

impl Row for Tracked {
    const ROWS: &'static str = "tracking_activities";
    const IS_WHOLE: bool = true;
}

impl newest_first::DatedRow for Tracked {
    type Identity<'a> = (&'a str, &'a str, Option<&'a str>);

    fn identity(&self) -> Self::Identity<'_> {
        (self.contact_id.as_str(), self.created_time.as_str(), self.url_id.as_str())
    }

    fn at(&self) -> Option<DateTime<Utc>> {
        self.created_time.instant()
    }
}

/// One activity of a campaign, and which reports need its rows.
struct ActivityToRead {
    id: Id,
    campaign: Arc<CampaignToRead>,
    summary: bool,
    details: bool,
    /// Set once the service has refused one of its tracking reports; the others are then skipped.
    is_refused: AtomicBool,
}

/// One tracking report of one activity.
struct TrackingReport {
    activity: Arc<ActivityToRead>,
    kind: Kind,
    /// Older rows are not needed.
    until: Option<DateTime<Utc>>,
    is_last_of_activity: bool,
}

/// Reads the reports of all activities in the order of their ids, with a resume point after each.
pub(super) fn read(run: &mut Run, shared: &mut Shared, readings: &mut [Reading]) -> Result<()> {
    let contacts = chosen_contacts(run, shared, readings)?;
    let activities = activities(run, shared, readings)?;
    let limit = run.config.page_size.to_string();
    let listings = listings(&activities, readings);
    let types = Kind::chosen(&run.config.tracking_activity_types);
    let (client, workers) = (Arc::clone(run.client), run.client.workers());
    let fetch = move |priority: usize, listing: &TrackingReport, push: &mut dyn FnMut(Part<Tracked>) -> bool| {
        if listing.activity.is_refused.load(Ordering::Relaxed) {
            return Ok(());
        }
        let path = format!("/reports/email_reports/{}/tracking/{}", listing.activity.id.in_path(), listing.kind.path());
        let query = [("limit", limit.as_str())];
        let pages = newest_first::Listing { endpoint: TRACKING, path: &path, query: &query, priority };
        newest_first(&client, &pages, listing.until, push)
    };
    let mut refusals = Refusals::new(&activities);
    let (mut has_begun, mut is_skipped) = (false, false);
    let mut counted = CountedRows::default();
    // Keyed by the hash of contact and time: a report may have a row for every contact of the account.
    let (mut occurrences, hasher) = (HashMap::<u64, u32>::new(), RandomState::new());
    fanout::in_order(
        listings,
        workers,
        |part: &Part<Tracked>| part.page.weight,
        fetch,
        |listing, step| {
            match step {
                // Which pages the workers fetched before the refusal depends on timing, so none of them is written.
                Step::Item(_) if is_skipped => {}
                Step::Item(mut part) => {
                    has_begun = true;
                    let details = readings.iter().find(|reading| !reading.is_summary());
                    let details = details.filter(|_| listing.activity.details && types.contains(&listing.kind));
                    let tracked = rows(run, &DETAILS.stream, &mut part.page);
                    for row in part.fresh(tracked) {
                        let id = Id::from(row.contact_id.as_str());
                        if contacts.as_ref().is_some_and(|contacts| !contacts.contains(&id)) {
                            continue;
                        }
                        if listing.activity.summary {
                            counted.row(&id, listing.kind, &row);
                        }
                        let at = row.created_time.instant();
                        if details.zip(at).is_some_and(|(reading, at)| reading.holds(at)) {
                            let occurrence = occurrences.entry(hasher.hash_one((&id, at))).or_insert(0);
                            emit(run, listing, row, u64::from(*occurrence), &part.page.extracted)?;
                            *occurrence += 1;
                        }
                    }
                    counted.extracted.clone_from(&part.page.extracted);
                }
                Step::End(outcome) => {
                    match outcome {
                        _ if is_skipped => {}
                        Err(e) if !has_begun => {
                            refusals.note(listing, e)?;
                            listing.activity.is_refused.store(true, Ordering::Relaxed);
                            is_skipped = true;
                        }
                        outcome => {
                            outcome?;
                            refusals.has_answered = true;
                        }
                    }
                    has_begun = false;
                    occurrences.clear();
                    if listing.is_last_of_activity {
                        let counted = std::mem::take(&mut counted);
                        // Without all reports of the activity, its counts would be too low.
                        if !std::mem::take(&mut is_skipped) {
                            counted.emit(run, readings, &listing.activity)?;
                        }
                        for reading in readings.iter_mut() {
                            reading.note_progress(run, Route::Campaigns, &listing.activity.id);
                        }
                        run.checkpoint()?;
                    }
                }
            }
            Ok(())
        },
    )?;
    refusals.log(readings);
    Ok(())
}

/// The contacts whose rows are written; `None` means all contacts.
fn chosen_contacts(run: &mut Run, shared: &mut Shared, readings: &mut [Reading]) -> Result<Option<HashSet<Id>>> {
    if run.config.contact_ids.is_empty() && run.config.reads_all_contacts() {
        return Ok(None);
    }
    let contacts = shared.reports.contacts(run)?;
    for reading in readings.iter_mut() {
        reading.note_contacts(contacts.are_all);
    }
    Ok(Some(contacts.list.iter().map(|contact| contact.id.clone()).collect()))
}

/// The tracking reports of the activities, in the order in which they are written.
fn listings(activities: &[Arc<ActivityToRead>], readings: &[Reading]) -> Vec<TrackingReport> {
    let details = readings.iter().find(|reading| !reading.is_summary());
    let of = |activity: &Arc<ActivityToRead>| {
        let activity = Arc::clone(activity);
        // The summary counts every row; the details stop at their lower bound.
        let until = details.filter(|_| !activity.summary).and_then(|reading| reading.since);
        let kinds: Vec<Kind> = activity.campaign.kinds.iter().map(|to_read| to_read.kind).collect();
        let last = kinds.len().saturating_sub(1);
        kinds.into_iter().enumerate().map(move |(at, kind)| TrackingReport {
            activity: Arc::clone(&activity),
            kind,
            until,
            is_last_of_activity: at == last,
        })
    };
    activities.iter().flat_map(of).collect()
}

/// The activities to read, in the order of their ids.
fn activities(run: &mut Run, shared: &mut Shared, readings: &[Reading]) -> Result<Vec<Arc<ActivityToRead>>> {
    let learnt = &mut shared.reports;
    let mut campaigns = plan::campaigns_to_read(run, learnt, readings)?;
    let ids: Vec<Id> = campaigns.iter().map(|campaign| campaign.id.clone()).collect();
    learnt.campaigns.activities(run.client, &ids)?;
    learnt.campaigns.note_activities(&mut campaigns);
    plan::correct(run, learnt, &campaigns);
    let (mut found, mut gone) = (BTreeMap::new(), 0);
    for campaign in campaigns {
        let Some(activities) = learnt.campaigns.activities_of(&campaign.id) else {
            gone += u64::from(campaign.is_sent);
            continue;
        };
        let campaign = Arc::new(campaign);
        for activity in activities.iter().filter(|activity| activity.is_tracked()) {
            let is_wanted_by = |is_summary: bool| {
                let mut readings = readings.iter().zip(&campaign.is_wanted_by);
                readings.any(|(r, wanted)| *wanted && r.is_summary() == is_summary && r.wants(&activity.id))
            };
            let (summary, details) = (is_wanted_by(true), is_wanted_by(false));
            if summary || details {
                let (id, campaign) = (activity.id.clone(), Arc::clone(&campaign));
                let is_refused = AtomicBool::new(false);
                found.insert(id.clone(), Arc::new(ActivityToRead { id, campaign, summary, details, is_refused }));
            }
        }
    }
    if gone > 0 {
        log::warn!(
            "{gone} sent campaigns are listed but unknown one by one: their reports can only be read with \
             activity_route: contacts"
        );
    }
    Ok(found.into_values().collect())
}

/// If the first this many campaigns all answer 403, the login may not read the stream.
const REFUSING_CAMPAIGNS: usize = 3;
/// How many refused activities the warning names.
const NAMED_ACTIVITIES: usize = 3;

/// The activities whose reports the service refuses.
struct Refusals {
    by_status: BTreeMap<u16, u64>,
    named: Vec<String>,
    /// The campaigns that answered 403.
    forbidden: HashSet<Id>,
    has_answered: bool,
    campaigns: usize,
}

impl Refusals {
    fn new(activities: &[Arc<ActivityToRead>]) -> Refusals {
        let campaigns: HashSet<&Id> = activities.iter().map(|activity| &activity.campaign.id).collect();
        Refusals {
            by_status: BTreeMap::new(),
            named: Vec::new(),
            forbidden: HashSet::new(),
            has_answered: false,
            campaigns: campaigns.len(),
        }
    }

    /// Records an error on the first page of a report.
    ///
    /// # Errors
    /// Any error that does not concern this activity alone: other failures, and 403 for each of the first campaigns.
    fn note(&mut self, listing: &TrackingReport, error: Error) -> Result<()> {
        let activity = &listing.activity;
        let (status, why) = match error {
            Error::Refused(why) => (400, why),
            Error::Forbidden(why) => (403, why),
            Error::NotFound(why) => (404, why),
            other => return Err(other),
        };
        log::debug!("no {} of campaign activity {}: {why}", listing.kind.path(), activity.id);
        if status == 403 {
            self.forbidden.insert(activity.campaign.id.clone());
            if !self.has_answered && self.forbidden.len() >= REFUSING_CAMPAIGNS.min(self.campaigns) {
                return Err(Error::Forbidden(why));
            }
        } else {
            self.has_answered = true;
        }
        *self.by_status.entry(status).or_default() += 1;
        if self.named.len() < NAMED_ACTIVITIES {
            let campaign = &activity.campaign;
            self.named.push(format!("{} of campaign {}", activity.id, named(&campaign.id, campaign.name.as_deref())));
        }
        Ok(())
    }

    fn log(&self, readings: &[Reading]) {
        if self.by_status.is_empty() {
            return;
        }
        let streams: Vec<&str> = readings.iter().map(|reading| reading.stream.name).collect();
        let counts: Vec<String> =
            self.by_status.iter().map(|(status, count)| format!("{count} with {status}")).collect();
        log::warn!(
            "{}: the service refuses the reports of some campaign activities ({}), so these rows are missing: {}. With \
             activity_route set to contacts they are read by contact",
            streams.join(" and "),
            counts.join(", "),
            self.named.join(", ")
        );
    }
}

fn emit(run: &mut Run, listing: &TrackingReport, row: Tracked, occurrence: u64, extracted: &str) -> Result<()> {
    let (activity, campaign) = (listing.activity.id.to_string(), &listing.activity.campaign);
    let detail = ActivityDetail {
        contact_id: row.contact_id,
        campaign_activity_id: Key::from(activity.as_str()),
        campaign_id: Text::from(campaign.id.to_string().as_str()),
        created_time: row.created_time,
        tracking_activity_type: Key::from(listing.kind.name()),
        campaign_activity_name: Text(campaign.name.clone()),
        occurrence: KeyInteger(occurrence),
        email_address: row.email_address,
        device_type: row.device_type,
        url_id: row.url_id,
        link_url: row.link_url,
        bounce_code: row.bounce_code,
        opt_out_reason: row.opt_out_reason,
    };
    run.emit(&DETAILS.stream, &detail, extracted)
}

/// The counts of one activity for each contact, in the order of their ids.
#[derive(Default)]
struct CountedRows {
    contacts: BTreeMap<Id, Counts>,
    /// When the last page was read; empty before the first.
    extracted: String,
}

#[derive(Default)]
struct Counts {
    /// The last send to the contact, or the first activity of any kind if no send is reported.
    start_on: Option<DateTime<Utc>>,
    rows: [u32; KINDS.len()],
}

impl CountedRows {
    fn row(&mut self, contact: &Id, kind: Kind, row: &Tracked) {
        let at = row.created_time.instant();
        let counts = self.contacts.entry(contact.clone()).or_default();
        let is_sent = counts.rows[Kind::Sends as usize] > 0;
        counts.start_on = match (kind, is_sent) {
            (Kind::Sends, true) => counts.start_on.max(at),
            (Kind::Sends, false) => at,
            (_, true) => counts.start_on,
            (_, false) => counts.start_on.into_iter().chain(at).min(),
        };
        counts.rows[kind as usize] += 1;
    }

    /// Writes the rows whose last send is in the window, after all reports of the activity were read.
    fn emit(self, run: &mut Run, readings: &[Reading], activity: &ActivityToRead) -> Result<()> {
        let Some(reading) = readings.iter().find(|reading| reading.is_summary()) else { return Ok(()) };
        let campaign_id = Text::from(activity.campaign.id.to_string().as_str());
        let activity = activity.id.to_string();
        for (contact, counts) in self.contacts {
            let Some(start_on) = counts.start_on.filter(|at| reading.holds(*at)) else { continue };
            let contact = contact.to_string();
            let [sends, opens, clicks, bounces, optouts, forwards] =
                counts.rows.map(|rows| Integer(Some(i64::from(rows))));
            let summary = ActionSummary {
                contact_id: Key::from(contact.as_str()),
                campaign_activity_id: Key::from(activity.as_str()),
                campaign_id: campaign_id.clone(),
                start_on: Timestamp::from(start_on),
                em_bounces: bounces,
                em_clicks: clicks,
                em_forwards: forwards,
                em_opens: opens,
                em_sends: sends,
                em_unsubscribes: optouts,
            };
            run.emit(&SUMMARY.stream, &summary, &self.extracted)?;
        }
        Ok(())
    }
}
