//! The contact reports on the campaign route: the rows of each sent campaign activity, 500 a call, and the summary
//! counted from them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::by_contact::named;
use super::newest_first::{Part, newest_first};
use super::route::{self, Candidate, Scope};
use super::{DETAILS, Reading, SUMMARY};
use crate::client::{Client, Page, Resource};
use crate::config::{ContactStatus, Route, Word};
use crate::error::{Error, Result};
use crate::fanout::{self, Step};
use crate::field::{Integer, Key, KeyInteger, KeyTimestamp, Text, Timestamp};
use crate::id::Id;
use crate::streams::contacts::ids;
use crate::streams::records::{ActionSummary, ActivityDetail};
use crate::streams::{each_page, parse, parse_plain, rows};
use crate::sync::Run;

/// A campaign with its activities; that it has an id is all that is sure of it.
const CAMPAIGN: Resource = Resource::listing("email_campaign", "campaign_id");
const TRACKING: Resource = Resource::listing("email_reports", "tracking_activities");

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
#[derive(Deserialize)]
struct Row<'a> {
    #[serde(borrow)]
    contact_id: Key<'a>,
    #[serde(borrow)]
    created_time: KeyTimestamp<'a>,
    #[serde(default, borrow)]
    email_address: Text<'a>,
    #[serde(default, borrow)]
    device_type: Text<'a>,
    #[serde(default, borrow)]
    url_id: Text<'a>,
    #[serde(default, borrow)]
    link_url: Text<'a>,
    #[serde(default, borrow)]
    bounce_code: Text<'a>,
    #[serde(default, borrow)]
    opt_out_reason: Text<'a>,
    // Known from the request.
    #[serde(default, borrow, rename = "campaign_activity_id")]
    _activity: Text<'a>,
    #[serde(default, borrow, rename = "tracking_activity_type")]
    _kind: Text<'a>,
    // Facts of the contact, which the contacts stream has.
    #[serde(default, borrow, rename = "first_name")]
    _first_name: Text<'a>,
    #[serde(default, borrow, rename = "last_name")]
    _last_name: Text<'a>,
    #[serde(default, borrow, rename = "deleted_at")]
    _deleted_at: Text<'a>,
    #[serde(default, borrow, rename = "current_email_address")]
    _current_email_address: Text<'a>,
}

#[derive(Deserialize)]
struct Rows<'a> {
    #[serde(default, borrow, deserialize_with = "rows")]
    tracking_activities: Vec<Row<'a>>,
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
pub(super) fn read(run: &mut Run, readings: &mut [Reading]) -> Result<()> {
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
    let activities = activities(run, readings)?;
    let limit = run.config.page_size.to_string();
    let listings: Vec<Listing> = activities
        .iter()
        .flat_map(|activity| {
            let kinds = &activity.candidate.kinds;
            // The summary counts every row, the details stop at the lower bound.
            let details = readings.iter().find(|reading| reading.stream.name == DETAILS.name);
            let until = details.filter(|_| !activity.summary).map(|reading| reading.window.start);
            kinds.iter().enumerate().map(move |(i, kind)| Listing {
                activity: Arc::clone(activity),
                kind: *kind,
                until,
                last_of_activity: i + 1 == kinds.len(),
            })
        })
        .collect();
    let (client, workers) = (Arc::clone(run.client), run.client.workers());
    let fetch = move |listing: &Listing, push: &mut dyn FnMut(Part) -> bool| {
        let path = format!("/reports/email_reports/{}/tracking/{}", listing.activity.id, listing.kind.path());
        newest_first(&client, TRACKING, &path, &[("limit", &limit)], listing.until, push)
    };
    let (mut gone, mut has_begun) = (0, false);
    let mut counted = Counted::default();
    // Contact and moment of each row, as their hash: a report may have a row for every contact of the account.
    let (mut occurrences, hasher) = (HashMap::<u64, u32>::new(), RandomState::new());
    fanout::in_order(
        listings,
        workers,
        |part: &Part| part.page.text.len(),
        fetch,
        |listing, step| {
            match step {
                Step::Item(part) => {
                    has_begun = true;
                    let details = readings.iter().find(|reading| reading.stream.name == DETAILS.name);
                    let details = details.filter(|_| listing.activity.details);
                    for row in part.fresh(parse::<Rows>(&DETAILS, &part.page)?.tracking_activities) {
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
                            emit(run, listing, row, u64::from(*occurrence), &part.page)?;
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
                        run.now_true()?;
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
fn activities(run: &mut Run, readings: &[Reading]) -> Result<Vec<Arc<Activity>>> {
    #[derive(Deserialize)]
    struct Detail<'a> {
        #[serde(default, borrow, deserialize_with = "rows")]
        campaign_activities: Vec<Part<'a>>,
    }
    #[derive(Deserialize)]
    struct Part<'a> {
        #[serde(borrow)]
        campaign_activity_id: Key<'a>,
        #[serde(default, borrow)]
        role: Text<'a>,
    }
    let now = run.client.run_start()?;
    let scopes: Vec<Scope> = readings.iter().map(|reading| reading.scope(run.config)).collect();
    let candidates = run.survey.candidates(run.client, run.config, now, &scopes)?;
    let what = format!("the contact reports of {} campaigns", candidates.len());
    route::tell(run, &what, Route::Campaigns, candidates.iter().map(|candidate| candidate.calls).sum());
    let candidates: Vec<Arc<Candidate>> = candidates.into_iter().map(Arc::new).collect();
    let mut found = BTreeMap::new();
    let mut gone = 0;
    let campaign = |client: &Arc<Client>, candidate: &Arc<Candidate>| {
        client.pages(CAMPAIGN, &format!("/emails/{}", candidate.id), &[])
    };
    each_page(run.client, candidates, campaign, |candidate, step| {
        match step {
            Step::Item(page) => {
                for part in parse_plain::<Detail>(&page.text)?.campaign_activities {
                    // The web version of a campaign has no tracking.
                    if part.role.0.as_deref().is_some_and(|role| role.eq_ignore_ascii_case("permalink")) {
                        continue;
                    }
                    let id = Id::from(part.campaign_activity_id.as_str());
                    let wants = |stream: &str| {
                        let wanted = readings.iter().zip(&candidate.wanted);
                        wanted.into_iter().any(|(r, wanted)| *wanted && r.stream.name == stream && r.wants(&id))
                    };
                    let (summary, details) = (wants(SUMMARY.name), wants(DETAILS.name));
                    if summary || details {
                        let candidate = Arc::clone(candidate);
                        found.insert(id.clone(), Arc::new(Activity { id, candidate, summary, details }));
                    }
                }
            }
            // The listing names campaigns that the service does not know one by one.
            Step::End(Err(Error::NotFound(why))) => {
                log::debug!("campaign {}: {why}", candidate.id);
                gone += u64::from(candidate.sent);
            }
            Step::End(outcome) => outcome?,
        }
        Ok(())
    })?;
    if gone > 0 {
        log::warn!(
            "{gone} sent campaigns are listed but unknown one by one: their reports can only be read with \
             activity_route: contacts"
        );
    }
    Ok(found.into_values().collect())
}

fn emit(run: &mut Run, listing: &Listing, row: Row, occurrence: u64, page: &Page) -> Result<()> {
    let activity = listing.activity.id.to_string();
    let detail = ActivityDetail {
        contact_id: row.contact_id,
        campaign_activity_id: Key(activity.as_str().into()),
        created_time: row.created_time,
        tracking_activity_type: Key(listing.kind.name().into()),
        campaign_activity_name: Text(listing.activity.candidate.name.as_deref().map(Into::into)),
        occurrence: KeyInteger(occurrence),
        email_address: row.email_address,
        device_type: row.device_type,
        url_id: row.url_id,
        link_url: row.link_url,
        bounce_code: row.bounce_code,
        opt_out_reason: row.opt_out_reason,
    };
    run.emit(&DETAILS, &detail, &page.extracted)
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
    fn row(&mut self, contact: &Id, kind: Kind, row: &Row) {
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
        let summary = readings.iter().find(|reading| reading.stream.name == SUMMARY.name);
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
            reading.reached(run, Route::Campaigns, activity);
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
                contact_id: Key(contact.as_str().into()),
                campaign_activity_id: Key(activity.as_str().into()),
                start_on: Timestamp::from(start_on),
                em_bounces: bounces,
                em_clicks: clicks,
                em_forwards: forwards,
                em_opens: opens,
                em_sends: sends,
                em_unsubscribes: optouts,
            };
            run.emit(&SUMMARY, &summary, &self.extracted)?;
        }
        Ok(())
    }
}
