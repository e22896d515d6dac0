//! The calls of `doctor`. Each is made once and serves several findings.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::client::{Client, Row};
use crate::config::{ActivityType, Config, Word, words};
use crate::error::{Error, Result};
use crate::field::Text;
use crate::id::Id;
use crate::streams::{
    ActivityDetail, CampaignSummary, Contact, ContactList, EmailCampaign, Tracked, campaign_details, details_path,
    tracking_path,
};
use crate::timestamp::stamp;

/// A listing that takes more calls than this is sampled.
const LISTING_CALLS: usize = 60;
/// Campaigns whose rows are compared with the service's counts, and the pages that one of them may have.
const CAMPAIGNS: usize = 3;
const CAMPAIGN_PAGES: u64 = 20;
/// Contacts whose rows are compared on both routes.
const CONTACTS: usize = 8;
/// Activity ids that are looked up.
const LOOKUPS: usize = 10;
/// Calls that are timed.
const LATENCY_CALLS: usize = 5;
/// Counts of campaigns sent more recently than this may be too low.
const SETTLED: TimeDelta = TimeDelta::days(1);

/// A listing, or a part of one.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// The service's own count.
    pub(super) count: Option<u64>,
    /// Distinct rows that came.
    pub(super) rows: u64,
    pub(super) is_complete: bool,
    /// How many rows the first page had.
    pub(super) first_page: usize,
    /// Why it could not be read.
    pub(super) refused: Option<String>,
}

/// Whether a query for changes after a known row's own second returns that row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Boundary {
    /// The row itself is returned.
    Inclusive,
    /// It is not returned.
    Exclusive,
    /// There is no such row, or the call was refused.
    Unknown,
}

/// One campaign, read by its reports.
#[derive(Debug)]
pub(super) struct Reconciled {
    pub(super) campaign_id: String,
    /// Distinct contacts by type of activity: in the rows, and by the service's count.
    pub(super) contacts: BTreeMap<ActivityType, (u64, u64)>,
}

/// The rows of campaigns by contact and activity: the type and time of each.
type CampaignRows = HashMap<(Id, Id), Vec<(ActivityType, String)>>;

/// The rows of a sample of contacts on both routes.
#[derive(Debug, Default)]
pub(super) struct BothRoutes {
    pub(super) contacts: u64,
    /// Rows on both routes, by campaign only, by contact only.
    pub(super) same: u64,
    pub(super) by_campaign_only: u64,
    pub(super) by_contact_only: u64,
}

/// What a deleted contact's report answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum DeletedReport {
    Answers,
    NotFound,
    Unknown,
}

/// What the service answers to a page size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum PageSize {
    Honoured,
    Refused,
    /// Fewer rows than requested, although there are more.
    Capped,
    Unknown,
}

/// All that was read.
#[derive(Debug)]
pub(super) struct Observations {
    pub(super) contacts: Listed,
    pub(super) lists: Listed,
    pub(super) campaigns: Listed,
    pub(super) sample: Vec<Contact>,
    pub(super) updated_after: Boundary,
    pub(super) optout_after: Boundary,
    pub(super) reconciled: Vec<Reconciled>,
    /// Why the reports of campaigns cannot be read.
    pub(super) reports_refused: Option<String>,
    pub(super) both_routes: Option<BothRoutes>,
    /// Activities of the sampled contacts: looked up, and of these the ones that belong to no listed campaign.
    pub(super) looked_up: u64,
    pub(super) foreign_activities: Vec<String>,
    pub(super) deleted_report: DeletedReport,
    pub(super) page_500: PageSize,
    pub(super) page_1000: PageSize,
    /// Median time of a call.
    pub(super) latency: Duration,
}

/// Reads what the findings need.
///
/// # Errors
/// What ends the run. Parts that the service refuses, or for which no calls remain, are skipped.
pub(super) fn observe(config: &Config, client: &Arc<Client>) -> Result<Observations> {
    let mut reads = Reads { client, config };
    let (contacts, sample) = reads.contacts()?;
    let lists = reads.lists()?;
    let (campaigns, ids) = reads.campaigns()?;
    let updated_after = reads.boundary("updated_after", &sample, |c| c.updated_at.instant())?;
    let optout_after =
        reads.boundary("optout_after", &sample, |c| c.email_address.as_ref().and_then(|e| e.opt_out_date.instant()))?;
    let deleted_report = reads.deleted_report(&sample)?;
    let page_1000 = reads.page_of_a_thousand(lists.count)?;
    let page_500 = match contacts.count {
        Some(count) if contacts.first_page as u64 == count.min(500) && count > 50 => PageSize::Honoured,
        Some(count) if count > 50 => PageSize::Capped,
        _ => PageSize::Unknown,
    };
    let mut seen = Observations {
        contacts,
        lists,
        campaigns,
        sample,
        updated_after,
        optout_after,
        reconciled: Vec::new(),
        reports_refused: None,
        both_routes: None,
        looked_up: 0,
        foreign_activities: Vec::new(),
        deleted_report,
        page_500,
        page_1000,
        latency: Duration::ZERO,
    };
    reads.reports(&mut seen, &ids)?;
    seen.latency = reads.latency()?;
    Ok(seen)
}

struct Reads<'a> {
    client: &'a Arc<Client>,
    config: &'a Config,
}

/// Turns a refusal, or a lack of calls, into a reason to skip the part; other errors end the examination.
fn skippable<T>(outcome: Result<T>) -> Result<std::result::Result<T, String>> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(Error::Forbidden(why) | Error::NotFound(why) | Error::Refused(why)) => Ok(Err(why)),
        Err(Error::Quota(_)) => Ok(Err("no calls remained for it".into())),
        Err(e) => Err(e),
    }
}

impl Reads<'_> {
    /// The rows of a listing, at most [`LISTING_CALLS`] pages.
    fn listing<T: Row>(&self, path: &str, query: &[(&str, &str)], id: impl Fn(&T) -> &str) -> Result<(Listed, Vec<T>)> {
        let (mut listed, mut rows, mut seen) = (Listed::default(), Vec::new(), HashSet::new());
        let pages = self.client.pages::<T>("doctor", path, query, 0);
        for (number, page) in pages.enumerate() {
            let page = match skippable(page)? {
                Ok(page) => page,
                Err(why) => {
                    listed.refused = Some(why);
                    return Ok((listed, rows));
                }
            };
            if number == 0 {
                (listed.count, listed.first_page) = (page.count, page.rows.len());
            }
            listed.is_complete = page.is_last();
            for row in page.rows {
                if seen.insert(id(&row).to_owned()) {
                    listed.rows += 1;
                    rows.push(row);
                }
            }
            if number + 1 == LISTING_CALLS {
                break;
            }
        }
        Ok((listed, rows))
    }

    fn contacts(&mut self) -> Result<(Listed, Vec<Contact>)> {
        let query = [("status", "all"), ("limit", "500"), ("include_count", "true"), ("include", "notes")];
        self.listing("/contacts", &query, |contact: &Contact| contact.contact_id.as_str())
    }

    fn lists(&mut self) -> Result<Listed> {
        let query = [("status", "all"), ("limit", "500"), ("include_count", "true")];
        Ok(self.listing("/contact_lists", &query, |list: &ContactList| list.list_id.as_str())?.0)
    }

    fn campaigns(&mut self) -> Result<(Listed, HashSet<Id>)> {
        let (listed, rows) =
            self.listing("/emails", &[("limit", "500")], |campaign: &EmailCampaign| campaign.campaign_id.as_str())?;
        Ok((listed, rows.iter().map(|row| Id::from(row.campaign_id.as_str())).collect()))
    }

    /// Queries changes after the second of the newest row.
    fn boundary(
        &mut self,
        filter: &str,
        sample: &[Contact],
        dated: impl Fn(&Contact) -> Option<DateTime<Utc>>,
    ) -> Result<Boundary> {
        let newest = sample.iter().filter_map(|contact| Some((dated(contact)?, contact))).max_by_key(|(at, _)| *at);
        let Some((at, contact)) = newest.filter(|(at, _)| at.timestamp_subsec_nanos() == 0) else {
            return Ok(Boundary::Unknown);
        };
        let at = stamp(at);
        let query = [("status", "all"), ("limit", "500"), (filter, at.as_str())];
        let page = skippable(self.client.first::<Contact>("doctor", "/contacts", &query, 0))?;
        Ok(match page {
            Ok(page) if page.rows.iter().any(|row| row.contact_id == contact.contact_id) => Boundary::Inclusive,
            Ok(_) => Boundary::Exclusive,
            Err(_) => Boundary::Unknown,
        })
    }

    fn deleted_report(&mut self, sample: &[Contact]) -> Result<DeletedReport> {
        let Some(contact) = sample.iter().find(|contact| contact.deleted_at.instant().is_some()) else {
            return Ok(DeletedReport::Unknown);
        };
        let path = details_path(&Id::from(contact.contact_id.as_str()));
        let query = [("tracking_activities_list", "em_sends"), ("limit", "1")];
        match self.client.first::<ActivityDetail>("doctor", &path, &query, 0) {
            Ok(_) => Ok(DeletedReport::Answers),
            Err(Error::NotFound(_)) => Ok(DeletedReport::NotFound),
            other => skippable(other).map(|_| DeletedReport::Unknown),
        }
    }

    fn page_of_a_thousand(&mut self, lists: Option<u64>) -> Result<PageSize> {
        let query = [("status", "all"), ("limit", "1000")];
        match self.client.first::<ContactList>("doctor", "/contact_lists", &query, 0) {
            Ok(page) if lists.is_some_and(|lists| lists > 500 && page.rows.len() <= 500) => Ok(PageSize::Capped),
            Ok(_) => Ok(PageSize::Honoured),
            Err(Error::Refused(_)) => Ok(PageSize::Refused),
            other => skippable(other).map(|_| PageSize::Unknown),
        }
    }

    /// The median time of a few calls, spaced so that `requests_per_second` does not delay them.
    fn latency(&self) -> Result<Duration> {
        let spacing = Duration::from_secs_f64(1.1 / self.config.requests_per_second);
        let mut times = Vec::new();
        for _ in 0..LATENCY_CALLS {
            thread::sleep(spacing);
            let start = Instant::now();
            let counts = self.client.object::<IgnoredAny>("doctor", "/contacts/counts", &[], 0);
            if skippable(counts)?.is_ok() {
                times.push(start.elapsed());
            }
        }
        times.sort_unstable();
        Ok(times.get(times.len() / 2).copied().unwrap_or_default())
    }

    /// Campaigns by their reports, and a sample of their contacts by both routes.
    fn reports(&mut self, seen: &mut Observations, listed: &HashSet<Id>) -> Result<()> {
        let query = [("limit", "500")];
        let path = "/reports/summary_reports/email_campaign_summaries";
        let counted = match skippable(self.client.first::<CampaignSummary>("doctor", path, &query, 0))? {
            Ok(page) => page.rows,
            Err(why) => {
                seen.reports_refused = Some(why);
                return Ok(());
            }
        };
        let now = self.client.run_start()?;
        let counts = |row: &CampaignSummary| {
            let counts = row.unique_counts.clone().unwrap_or_default().by_kind();
            counts.map(|count| count.0.map_or(0, i64::unsigned_abs))
        };
        let is_settled = |row: &CampaignSummary| row.last_sent_date.instant().is_some_and(|at| now - at > SETTLED);
        let is_cheap = |row: &CampaignSummary| {
            let counts = counts(row);
            let pages: u64 = counts.iter().map(|count| count.div_ceil(500).max(1)).sum();
            pages <= CAMPAIGN_PAGES && counts[ActivityType::Sends as usize] > 0
        };
        let mut rows = CampaignRows::default();
        let mut activities = HashSet::new();
        for campaign in counted.iter().filter(|row| is_settled(row) && is_cheap(row)).take(CAMPAIGNS) {
            let id = Id::from(campaign.campaign_id.as_str());
            let Ok(details) = skippable(campaign_details(self.client, &id, 0))? else { continue };
            let of_campaign = details.0.tracked_activities();
            let (mut contacts, mut has_answered, mut is_complete) = (BTreeMap::new(), false, true);
            for (of, count) in ActivityType::OF_EMAILS.into_iter().zip(counts(campaign)) {
                let mut distinct = HashSet::new();
                for activity in &of_campaign {
                    let outcome = self.tracked(activity, of, |contact, at| {
                        rows.entry((contact.clone(), activity.clone())).or_default().push((of, at));
                        distinct.insert(contact);
                    });
                    match outcome {
                        Ok(()) => has_answered = true,
                        // A sync skips such a report too.
                        Err(why) if why.is_refusal() => {}
                        other => is_complete &= skippable(other)?.is_ok(),
                    }
                }
                contacts.insert(of, (distinct.len() as u64, count));
            }
            if has_answered && is_complete {
                activities.extend(of_campaign);
                seen.reconciled.push(Reconciled { campaign_id: id.to_string(), contacts });
            }
        }
        self.by_contact(seen, &rows, &activities, listed)
    }

    /// Passes contact and time of each row of a tracking report on.
    fn tracked(&self, activity: &Id, of: ActivityType, mut each: impl FnMut(Id, String)) -> Result<()> {
        for page in self.client.pages::<Tracked>("doctor", &tracking_path(activity, of), &[("limit", "500")], 0) {
            for row in page?.rows {
                each(Id::from(row.contact_id.as_str()), row.created_time.as_str().to_owned());
            }
        }
        Ok(())
    }

    /// The details of a sample of contacts, beside what the campaigns' reports have of them.
    fn by_contact(
        &mut self,
        seen: &mut Observations,
        rows: &CampaignRows,
        activities: &HashSet<Id>,
        listed: &HashSet<Id>,
    ) -> Result<()> {
        let contacts: BTreeSet<&Id> = rows.keys().map(|(contact, _)| contact).collect();
        let step = contacts.len().div_ceil(CONTACTS).max(1);
        let mut both = BothRoutes::default();
        let mut others: BTreeSet<Id> = BTreeSet::new();
        for contact in contacts.into_iter().step_by(step) {
            let Some(details) = self.details(contact)? else { continue };
            both.contacts += 1;
            let (mut found, foreign): (Vec<_>, Vec<_>) =
                details.into_iter().partition(|(activity, ..)| activities.contains(activity));
            others.extend(foreign.into_iter().map(|(activity, ..)| activity));
            for activity in activities {
                for (of, at) in rows.get(&(contact.clone(), activity.clone())).into_iter().flatten() {
                    match found.iter().position(|row| row.0 == *activity && row.1 == of.as_str() && row.2 == *at) {
                        Some(same) => {
                            found.swap_remove(same);
                            both.same += 1;
                        }
                        None => both.by_campaign_only += 1,
                    }
                }
            }
            both.by_contact_only += found.len() as u64;
        }
        if both.contacts > 0 {
            seen.both_routes = Some(both);
        }
        self.look_up(seen, others, listed)
    }

    /// Activity, type and time of each row of a contact's details; `None` if they cannot be read.
    fn details(&self, contact: &Id) -> Result<Option<Vec<(Id, String, String)>>> {
        let types = words(&ActivityType::OF_EMAILS);
        let query = [("tracking_activities_list", types.as_str()), ("limit", "100")];
        let mut found = Vec::new();
        for page in self.client.pages::<ActivityDetail>("doctor", &details_path(contact), &query, 0) {
            let Ok(page) = skippable(page)? else { return Ok(None) };
            found.extend(page.rows.iter().map(|row| {
                let activity = Id::from(row.campaign_activity_id.as_str());
                (activity, row.tracking_activity_type.as_str().to_owned(), row.created_time.as_str().to_owned())
            }));
        }
        Ok(Some(found))
    }

    /// Looks up the campaigns of activities that belong to none of the campaigns read.
    fn look_up(&mut self, seen: &mut Observations, others: BTreeSet<Id>, listed: &HashSet<Id>) -> Result<()> {
        #[derive(Deserialize)]
        struct Activity {
            campaign_id: Text,
        }
        for id in others.into_iter().take(LOOKUPS) {
            let path = format!("/emails/activities/{}", id.in_path());
            match self.client.object::<Activity>("doctor", &path, &[], 0) {
                Ok(activity) => {
                    seen.looked_up += 1;
                    let is_listed = activity.campaign_id.as_str().is_some_and(|id| listed.contains(&Id::from(id)));
                    // A sampled listing does not show which campaigns exist.
                    if !is_listed && seen.campaigns.is_complete {
                        seen.foreign_activities.push(id.to_string());
                    }
                }
                Err(Error::NotFound(_)) => {
                    seen.looked_up += 1;
                    seen.foreign_activities.push(id.to_string());
                }
                other => {
                    if skippable(other)?.is_err() {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }
}
