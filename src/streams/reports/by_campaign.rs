//! The contact reports on the campaign route: the rows of each sent campaign activity, 500 a call, and the summary
//! counted from them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Deserialize;

use super::by_contact::named;
use super::newest_first::{self, Part, newest_first};
use super::records::{ActionSummary, ActivityDetail};
use super::route::{self, Candidate, Scope};
use super::{DETAILS, Reading, SUMMARY};
use crate::client::Row;
use crate::config::{ContactStatus, Route, Word};
use crate::error::{Error, Result};
use crate::fanout::{self, Step};
use crate::field::{Integer, Key, KeyInteger, KeyTimestamp, Text, Timestamp};
use crate::id::Id;
use crate::run::Run;
use crate::streams::Shared;
use crate::streams::campaigns;
use crate::streams::contacts::ids;
use crate::streams::email_campaigns::EmailCampaign;
use crate::streams::page::rows;

const TRACKING: &str = "email_reports";

/// A tracking report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Sends,
    Opens,
    Clicks,
    Bounces,
    Optouts,
    Forwards,
}

/// All kinds, in the order in which the counts of a summary stand here.
pub(super) fn kinds() -> impl Iterator<Item = Kind> {
    [Kind::Sends, Kind::Opens, Kind::Clicks, Kind::Bounces, Kind::Optouts, Kind::Forwards].into_iter()
}

impl Kind {
    /// As `tracking_activity_type` spells it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Sends => "em_sends",
            Kind::Opens => "em_opens",
            Kind::Clicks => "em_clicks",
            Kind::Bounces => "em_bounces",
            Kind::Optouts => "em_optouts",
            Kind::Forwards => "em_forwards",
        }
    }

    /// The last part of the report's path. `opens` and not `unique_opens`, which keeps one a contact.
    fn path(self) -> &'static str {
        &self.name()[3..]
    }
}

/// A row of any of the six reports.
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

impl newest_first::Activity for Tracked {
    type Identity<'a> = (&'a str, &'a str, Option<&'a str>);

    fn identity(&self) -> Self::Identity<'_> {
        (self.contact_id.as_str(), self.created_time.as_str(), self.url_id.as_str())
    }

    fn at(&self) -> Option<DateTime<Utc>> {
        self.created_time.instant()
    }
}

/// One sending of a campaign, and who wants its rows.
struct Activity {
    id: Id,
    candidate: Arc<Candidate>,
    summary: bool,
    details: bool,
}

/// One report of one activity.
struct Listing {
    activity: Arc<Activity>,
    kind: Kind,
    /// Rows older than this interest nobody.
    until: Option<DateTime<Utc>>,
    last_of_activity: bool,
}

/// Reads the reports of all activities in the order of their ids, with a resume point after each.
pub(super) fn read(run: &mut Run, shared: &mut Shared, readings: &mut [Reading]) -> Result<()> {
    let contacts = match named(run) {
        Some(ids) => Some(ids.into_iter().collect::<HashSet<_>>()),
        None if run.config.contact_status == [ContactStatus::All] => None,
        None => {
            let (ids, all) = ids(run)?;
            for reading in readings.iter_mut() {
                reading.every_contact(all);
            }
            Some(ids.into_iter().collect())
        }
    };
    let activities = activities(run, shared, readings)?;
    let limit = run.config.page_size.to_string();
    let listings: Vec<Listing> = activities
        .iter()
        .flat_map(|activity| {
            let kinds = &activity.candidate.kinds;
            // The summary counts every row, the details stop at the lower bound.
            let details = readings.iter().find(|reading| reading.stream.name == DETAILS.stream.name);
            let until = details.filter(|_| !activity.summary).and_then(|reading| reading.since);
            kinds.iter().enumerate().map(move |(i, kind)| Listing {
                activity: Arc::clone(activity),
                kind: *kind,
                until,
                last_of_activity: i + 1 == kinds.len(),
            })
        })
        .collect();
    let (client, workers) = (Arc::clone(run.client), run.client.workers());
    let fetch = move |priority: usize, listing: &Listing, push: &mut dyn FnMut(Part<Tracked>) -> bool| {
        let path = format!("/reports/email_reports/{}/tracking/{}", listing.activity.id, listing.kind.path());
        let query = [("limit", limit.as_str())];
        let pages = newest_first::Listing { endpoint: TRACKING, path: &path, query: &query, priority };
        newest_first(&client, &pages, listing.until, push)
    };
    let (mut gone, mut has_begun) = (0, false);
    let mut counted = Counted::default();
    // Contact and moment of each row, as their hash: a report may have a row for every contact of the account.
    let (mut occurrences, hasher) = (HashMap::<u64, u32>::new(), RandomState::new());
    fanout::in_order(
        listings,
        workers,
        |part: &Part<Tracked>| part.page.weight,
        fetch,
        |listing, step| {
            match step {
                Step::Item(mut part) => {
                    has_begun = true;
                    let details = readings.iter().find(|reading| reading.stream.name == DETAILS.stream.name);
                    let details = details.filter(|_| listing.activity.details);
                    let tracked = rows(run, &DETAILS.stream, &mut part.page);
                    for row in part.fresh(tracked) {
                        let id = Id::from(row.contact_id.as_str());
                        if contacts.as_ref().is_some_and(|contacts| !contacts.contains(&id)) {
                            continue;
                        }
                        if listing.activity.summary {
                            counted.row(&id, listing.kind, &row);
                        }
                        if details.is_some_and(|reading| row.created_time.instant().is_some_and(|at| reading.holds(at)))
                            && run
                                .config
                                .tracking_activity_types
                                .iter()
                                .any(|kind| kind.as_str() == listing.kind.name())
                        {
                            let key = hasher.hash_one((&id, row.created_time.instant()));
                            let occurrence = occurrences.entry(key).or_insert(0);
                            emit(run, listing, row, u64::from(*occurrence), &part.page.extracted)?;
                            *occurrence += 1;
                        }
                    }
                    counted.extracted.clone_from(&part.page.extracted);
                }
                Step::End(outcome) => {
                    match outcome {
                        Err(Error::NotFound(why)) if !has_begun => {
                            counted.unknown += 1;
                            log::debug!("no {} of activity {}: {why}", listing.kind.path(), listing.activity.id);
                            gone += 1;
                        }
                        other => other?,
                    }
                    has_begun = false;
                    occurrences.clear();
                    if listing.last_of_activity {
                        std::mem::take(&mut counted).end(run, readings, &listing.activity.id)?;
                        run.checkpoint()?;
                    }
                }
            }
            Ok(())
        },
    )?;
    if gone > 0 {
        log::info!("the service does not know {gone} reports of its campaign activities");
    }
    Ok(())
}

/// The activities to read, in the order of their ids.
fn activities(run: &mut Run, shared: &mut Shared, readings: &[Reading]) -> Result<Vec<Arc<Activity>>> {
    let now = run.client.run_start()?;
    let scopes: Vec<Scope> = readings.iter().map(|reading| reading.scope(run.config)).collect();
    let candidates = shared.survey.candidates(run.client, run.config, now, &scopes)?;
    let what = format!("the contact reports of {} campaigns", candidates.len());
    route::tell(run, shared, &what, Route::Campaigns, candidates.iter().map(|candidate| candidate.calls).sum());
    let candidates: Vec<Arc<Candidate>> = candidates.into_iter().map(Arc::new).collect();
    let mut found = BTreeMap::new();
    let mut gone = 0;
    let (client, workers) = (Arc::clone(run.client), run.client.workers());
    let account = &mut shared.survey.campaigns;
    let asked = candidates.into_iter().map(|candidate| (account.known_details(&candidate.id), candidate)).collect();
    type Asked = (Option<Result<Arc<EmailCampaign>>>, Arc<Candidate>);
    let fetch = move |priority: usize, (known, candidate): &Asked, push: &mut dyn FnMut(Arc<EmailCampaign>) -> bool| {
        let details = match known {
            Some(known) => known.clone()?,
            None => Arc::new(campaigns::details(&client, &candidate.id, priority)?.0),
        };
        push(details);
        Ok(())
    };
    fanout::in_order(
        asked,
        workers,
        |_| 1,
        fetch,
        |(_, candidate), step| {
            match step {
                Step::Item(details) => {
                    for part in details.activities() {
                        // The web version of a campaign has no tracking.
                        if part.role.as_str().is_some_and(|role| role.eq_ignore_ascii_case("permalink")) {
                            continue;
                        }
                        let id = Id::from(part.campaign_activity_id.as_str().unwrap_or_default());
                        let wants = |stream: &str| {
                            let wanted = readings.iter().zip(&candidate.wanted);
                            wanted.into_iter().any(|(r, wanted)| *wanted && r.stream.name == stream && r.wants(&id))
                        };
                        let (summary, details) = (wants(SUMMARY.stream.name), wants(DETAILS.stream.name));
                        if summary || details {
                            let candidate = Arc::clone(candidate);
                            found.insert(id.clone(), Arc::new(Activity { id, candidate, summary, details }));
                        }
                    }
                    account.remember_details(candidate.id.clone(), Ok(details));
                }
                // The listing names campaigns that the service does not know one by one.
                Step::End(Err(Error::NotFound(why))) => {
                    log::debug!("campaign {}: {why}", candidate.id);
                    gone += u64::from(candidate.sent);
                }
                Step::End(outcome) => outcome?,
            }
            Ok(())
        },
    )?;
    if gone > 0 {
        log::warn!(
            "{gone} sent campaigns are listed but unknown one by one: their reports can only be read with \
             activity_route: contacts"
        );
    }
    Ok(found.into_values().collect())
}

fn emit(run: &mut Run, listing: &Listing, row: Tracked, occurrence: u64, extracted: &str) -> Result<()> {
    let activity = listing.activity.id.to_string();
    let detail = ActivityDetail {
        contact_id: row.contact_id,
        campaign_activity_id: Key::from(activity.as_str()),
        created_time: row.created_time,
        tracking_activity_type: Key::from(listing.kind.name()),
        campaign_activity_name: Text(listing.activity.candidate.name.clone()),
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

/// The counts of one activity, contact by contact in the order of their ids.
#[derive(Default)]
struct Counted {
    contacts: BTreeMap<Id, Counts>,
    /// When its last page was read; empty before the first.
    extracted: String,
    /// How many of its reports the service does not know.
    unknown: usize,
}

#[derive(Default)]
struct Counts {
    /// The last send to the contact, or the first of anything where no send is reported.
    start_on: Option<DateTime<Utc>>,
    rows: [u32; 6],
}

impl Counted {
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

    /// All reports of the activity have come, or are unknown.
    fn end(self, run: &mut Run, readings: &mut [Reading], activity: &Id) -> Result<()> {
        let summary = readings.iter().find(|reading| reading.stream.name == SUMMARY.stream.name);
        if self.unknown > 0 {
            // Counts of some of the reports would be taken for those of all.
            if !self.extracted.is_empty() {
                log::warn!(
                    "the service knows campaign activity {activity}, but not all of its reports: its rows may be \
                     incomplete, and no summary is written for it"
                );
            }
        } else if let Some(reading) = summary {
            self.emit(run, reading, activity)?;
        }
        for reading in readings {
            reading.note_progress(run, Route::Campaigns, activity);
        }
        Ok(())
    }

    /// Writes the rows whose last send lies in the window.
    fn emit(self, run: &mut Run, reading: &Reading, activity: &Id) -> Result<()> {
        let activity = activity.to_string();
        for (contact, counts) in self.contacts {
            let Some(start_on) = counts.start_on.filter(|at| reading.holds(*at)) else { continue };
            let contact = contact.to_string();
            let [sends, opens, clicks, bounces, optouts, forwards] =
                counts.rows.map(|rows| Integer(Some(i64::from(rows))));
            let summary = ActionSummary {
                contact_id: Key::from(contact.as_str()),
                campaign_activity_id: Key::from(activity.as_str()),
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
