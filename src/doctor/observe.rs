//! The calls of `doctor`. Each is made once and serves several findings.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::report::{Answer, Verdict};
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

use Verdict::{CannotTell, Confirmed, Refuted};

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

/// One campaign, read by its reports.
#[derive(Debug)]
pub(super) struct Reconciled {
    pub(super) campaign_id: String,
    /// Distinct contacts of each type of activity: in the rows, and by the service's count.
    pub(super) contacts: Vec<(ActivityType, u64, u64)>,
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

/// All that was read, and the answers that a single call gives.
#[derive(Debug, Default)]
pub(super) struct Observations {
    pub(super) contacts: Listed,
    pub(super) lists: Listed,
    pub(super) campaigns: Listed,
    pub(super) sample: Vec<Contact>,
    /// Whether a query for changes after the newest row's own second returns that row.
    pub(super) updated_after: Answer,
    pub(super) optout_after: Answer,
    pub(super) reconciled: Vec<Reconciled>,
    /// Why the reports of campaigns cannot be read.
    pub(super) reports_refused: Option<String>,
    pub(super) both_routes: Option<BothRoutes>,
    /// Activities of the sampled contacts: looked up, and of these the ones that belong to no listed campaign.
    pub(super) looked_up: u64,
    pub(super) foreign_activities: Vec<String>,
    pub(super) deleted_report: Answer,
    pub(super) page_500: Answer,
    pub(super) page_1000: Answer,
    /// Median time of a call.
    pub(super) latency: Duration,
}

/// Reads what the findings need.
///
/// # Errors
/// What ends the run. Parts that the service refuses, or for which no calls remain, are skipped.
pub(super) fn observe(config: &Config, client: &Arc<Client>) -> Result<Observations> {
    let reads = Reads { client, config };
    let (contacts, sample) = reads.contacts()?;
    let lists = reads.lists()?;
    let (campaigns, ids) = reads.campaigns()?;
    let opted_out_at = |contact: &Contact| contact.email_address.as_ref()?.opt_out_date.instant();
    let mut seen = Observations {
        updated_after: reads.boundary("updated_after", &sample, |contact| contact.updated_at.instant())?,
        optout_after: reads.boundary("optout_after", &sample, opted_out_at)?,
        deleted_report: reads.deleted_report(&sample)?,
        page_1000: reads.page_of_a_thousand(lists.count)?,
        page_500: match contacts.count {
            Some(count) if count > 50 && contacts.first_page as u64 == count.min(500) => (Confirmed, HONOURED.into()),
            Some(count) if count > 50 => (Refuted, CAPPED.into()),
            _ => (CannotTell, TOO_FEW_ROWS.into()),
        },
        contacts,
        lists,
        campaigns,
        sample,
        ..Observations::default()
    };
    reads.reports(&mut seen, &ids)?;
    seen.latency = reads.latency()?;
    Ok(seen)
}

const HONOURED: &str = "It was honoured.";
const CAPPED: &str = "The page had fewer rows than requested, although there are more.";
const TOO_FEW_ROWS: &str = "There are too few rows to try it on, or the call was refused.";

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

/// The service's count of contacts for each type of activity.
fn counts(campaign: &CampaignSummary) -> [u64; ActivityType::OF_EMAILS.len()] {
    let counts = campaign.unique_counts.clone().unwrap_or_default().by_kind();
    counts.map(|count| count.0.map_or(0, i64::unsigned_abs))
}

/// Whether a campaign was sent, and its reports take few calls.
fn is_cheap(campaign: &CampaignSummary) -> bool {
    let counts = counts(campaign);
    let pages: u64 = counts.iter().map(|count| count.div_ceil(500).max(1)).sum();
    pages <= CAMPAIGN_PAGES && counts[ActivityType::Sends as usize] > 0
}

impl Reads<'_> {
    /// The rows of a listing, at most [`LISTING_CALLS`] pages.
    fn listing<T: Row>(&self, path: &str, query: &[(&str, &str)], id: impl Fn(&T) -> &str) -> Result<(Listed, Vec<T>)> {
        let (mut listed, mut rows, mut seen) = (Listed::default(), Vec::new(), HashSet::new());
        let pages = self.client.pages::<T>("doctor", path, query, 0);
        for (number, page) in pages.take(LISTING_CALLS).enumerate() {
            let page = match skippable(page)? {
                Ok(page) => page,
                Err(why) => {
                    listed.refused = Some(why);
                    break;
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
        }
        Ok((listed, rows))
    }

    fn contacts(&self) -> Result<(Listed, Vec<Contact>)> {
        let query = [("status", "all"), ("limit", "500"), ("include_count", "true"), ("include", "notes")];
        self.listing("/contacts", &query, |contact: &Contact| contact.contact_id.as_str())
    }

    fn lists(&self) -> Result<Listed> {
        let query = [("status", "all"), ("limit", "500"), ("include_count", "true")];
        Ok(self.listing("/contact_lists", &query, |list: &ContactList| list.list_id.as_str())?.0)
    }

    fn campaigns(&self) -> Result<(Listed, HashSet<Id>)> {
        let (listed, rows) =
            self.listing("/emails", &[("limit", "500")], |campaign: &EmailCampaign| campaign.campaign_id.as_str())?;
        Ok((listed, rows.iter().map(|row| Id::from(row.campaign_id.as_str())).collect()))
    }

    /// Queries changes after the second of the newest row.
    fn boundary(
        &self,
        filter: &str,
        sample: &[Contact],
        dated: impl Fn(&Contact) -> Option<DateTime<Utc>>,
    ) -> Result<Answer> {
        let unknown = (CannotTell, "There is no row to try it on, or the call was refused.".into());
        let newest = sample.iter().filter_map(|contact| Some((dated(contact)?, contact))).max_by_key(|(at, _)| *at);
        let Some((at, contact)) = newest.filter(|(at, _)| at.timestamp_subsec_nanos() == 0) else {
            return Ok(unknown);
        };
        let at = stamp(at);
        let query = [("status", "all"), ("limit", "500"), (filter, at.as_str())];
        let page = skippable(self.client.first::<Contact>("doctor", "/contacts", &query, 0))?;
        Ok(match page {
            Ok(page) if page.rows.iter().any(|row| row.contact_id == contact.contact_id) => {
                (Confirmed, "The newest row was returned when its own second was named.".into())
            }
            Ok(_) => (Refuted, "The newest row was not returned when its own second was named.".into()),
            Err(_) => unknown,
        })
    }

    fn deleted_report(&self, sample: &[Contact]) -> Result<Answer> {
        let unknown = (CannotTell, "There is no deleted contact, or the call was refused.".into());
        let Some(contact) = sample.iter().find(|contact| contact.deleted_at.instant().is_some()) else {
            return Ok(unknown);
        };
        let path = details_path(&Id::from(contact.contact_id.as_str()));
        let query = [("tracking_activities_list", "em_sends"), ("limit", "1")];
        match self.client.first::<ActivityDetail>("doctor", &path, &query, 0) {
            Ok(_) => Ok((Confirmed, "The report of a deleted contact answered.".into())),
            Err(Error::NotFound(_)) => Ok((Refuted, "The report of a deleted contact answered 404.".into())),
            other => skippable(other).map(|_| unknown),
        }
    }

    fn page_of_a_thousand(&self, lists: Option<u64>) -> Result<Answer> {
        let query = [("status", "all"), ("limit", "1000")];
        match self.client.first::<ContactList>("doctor", "/contact_lists", &query, 0) {
            Ok(page) if lists.is_some_and(|lists| lists > 500 && page.rows.len() <= 500) => {
                Ok((Refuted, CAPPED.into()))
            }
            Ok(_) => Ok((Confirmed, HONOURED.into())),
            Err(Error::Refused(_)) => Ok((Refuted, "It was refused with 400.".into())),
            other => skippable(other).map(|_| (CannotTell, TOO_FEW_ROWS.into())),
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
    fn reports(&self, seen: &mut Observations, listed: &HashSet<Id>) -> Result<()> {
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
        let is_settled = |row: &CampaignSummary| row.last_sent_date.instant().is_some_and(|at| now - at > SETTLED);
        let mut rows = CampaignRows::default();
        let mut activities = HashSet::new();
        for campaign in counted.iter().filter(|row| is_settled(row) && is_cheap(row)).take(CAMPAIGNS) {
            let id = Id::from(campaign.campaign_id.as_str());
            let Ok(details) = skippable(campaign_details(self.client, &id, 0))? else { continue };
            let of_campaign = details.0.tracked_activities();
            let (mut contacts, mut has_answered, mut is_complete) = (Vec::new(), false, true);
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
                contacts.push((of, distinct.len() as u64, count));
            }
            if has_answered && is_complete {
                activities.extend(of_campaign);
                seen.reconciled.push(Reconciled { campaign_id: id.to_string(), contacts });
            }
        }
        let others = self.by_contact(seen, &rows, &activities)?;
        self.look_up(seen, others, listed)
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

    /// Compares the details of a sample of contacts with what the campaigns' reports have of them. Returns the other
    /// activities that the details name.
    fn by_contact(
        &self,
        seen: &mut Observations,
        rows: &CampaignRows,
        activities: &HashSet<Id>,
    ) -> Result<BTreeSet<Id>> {
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
        Ok(others)
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
    fn look_up(&self, seen: &mut Observations, others: BTreeSet<Id>, listed: &HashSet<Id>) -> Result<()> {
        #[derive(Deserialize)]
        struct Activity {
            campaign_id: Text,
        }
        for id in others.into_iter().take(LOOKUPS) {
            let path = format!("/emails/activities/{}", id.in_path());
            let is_foreign = match self.client.object::<Activity>("doctor", &path, &[], 0) {
                Ok(activity) => {
                    let is_listed = activity.campaign_id.as_str().is_some_and(|id| listed.contains(&Id::from(id)));
                    // A sampled listing does not show which campaigns exist.
                    !is_listed && seen.campaigns.is_complete
                }
                Err(Error::NotFound(_)) => true,
                Err(why) => return skippable::<()>(Err(why)).map(drop),
            };
            seen.looked_up += 1;
            if is_foreign {
                seen.foreign_activities.push(id.to_string());
            }
        }
        Ok(())
    }
}
