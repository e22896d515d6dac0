//! Which campaigns are due: they may have rows for the reports, so their tracking reports must be read.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use compact_str::CompactString;
use serde::Deserialize;

use super::stats::stats;
use crate::client::Client;
use crate::config::{ActivityType, Config};
use crate::error::{Error, Result};
use crate::fanout;
use crate::field::{Integer, Text};
use crate::id::Id;
use crate::odd_rows::check_listing;
use crate::streams::campaigns::{COUNTS_LAG, CampaignCache, CampaignListing};
use crate::streams::email_campaigns::record::EmailCampaign;

/// How many campaigns one call for their stats may name.
const STATS_IDS: usize = 150;
/// Sending a campaign may take hours, and the service dates it later than its first rows.
const SENDING_TAKES: TimeDelta = TimeDelta::days(2);

/// What decides which campaigns are due. Each part is fetched once, when it is first needed.
#[derive(Default)]
pub(crate) struct Campaigns {
    /// What was fetched for the reports and for `email_campaigns` alike.
    pub(in crate::streams) cache: CampaignCache,
    /// All campaigns.
    listing: Option<Arc<CampaignListing>>,
    /// The sent campaigns, with how many rows they have.
    sent: Option<HashMap<Id, SentCounts>>,
    /// Why sent campaigns may be missing, if the summaries changed while they were read.
    summaries_may_lack: Option<String>,
}

/// The service's counts for a sent campaign.
struct SentCounts {
    last: Option<DateTime<Utc>>,
    rows: [u64; ActivityType::OF_EMAILS.len()],
    /// Whether the counts of opens and clicks include repeated ones, not one per contact.
    has_repeats: bool,
}

/// The stats of a campaign, of which only the counts that include repeated opens and clicks are read.
#[derive(Default, Deserialize)]
struct CampaignStats {
    campaign_id: Text,
    stats: Option<StatsOfAll>,
}

#[derive(Default, Deserialize)]
struct StatsOfAll {
    em_opens_all: Integer,
    em_clicks_all: Integer,
}

/// Which campaigns one report needs.
#[derive(Clone, Debug)]
pub(super) struct Demand {
    /// The summary needs every row of an activity; the details stop at the first row older than `rows_from`.
    pub(super) is_summary: bool,
    /// Campaigns last sent before this are skipped; `None` skips none.
    pub(super) sent_from: Option<DateTime<Utc>>,
    /// Campaigns created at or after this are skipped.
    pub(super) created_before: Option<DateTime<Utc>>,
    /// The oldest row that is wanted.
    pub(super) rows_from: Option<DateTime<Utc>>,
}

impl Demand {
    /// What a report with this window needs. `lookback` is how long after its last send a campaign is checked for late rows;
    /// `None` means always.
    pub(super) fn new(
        is_summary: bool,
        from: Option<DateTime<Utc>>,
        before: Option<DateTime<Utc>>,
        lookback: Option<TimeDelta>,
    ) -> Demand {
        let back = if is_summary { Some(SENDING_TAKES) } else { lookback.map(|days| days.max(SENDING_TAKES)) };
        let sent_from = from.zip(back).and_then(|(from, back)| from.checked_sub_signed(back));
        Demand { is_summary, sent_from, created_before: before, rows_from: from.filter(|_| !is_summary) }
    }
}

/// What decides which campaigns are read, and which of their reports.
pub(super) struct Criteria {
    /// What each report needs.
    pub(super) demands: Vec<Demand>,
    /// The types of activity that the details need. The summary needs all.
    pub(super) types: Vec<ActivityType>,
    /// The run's start.
    pub(super) now: DateTime<Utc>,
    /// How long after its last send a campaign may get rows.
    pub(super) lookback: TimeDelta,
}

/// A campaign that may have been sent, as the listing and the summaries show it.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    listed: Option<&'a EmailCampaign>,
    counted: Option<&'a SentCounts>,
}

impl Candidate<'_> {
    fn last_sent(&self) -> Option<DateTime<Utc>> {
        self.counted.and_then(|sent| sent.last)
    }

    /// For a removed campaign, its last update: it was removed then or earlier.
    fn removed_at(&self) -> Option<DateTime<Utc>> {
        self.listed.filter(|listed| listed.is_removed()).and_then(|listed| listed.updated_at.instant())
    }

    /// Whether it may have rows for a report, by the times that it was created and sent.
    fn may_have_rows_for(&self, demand: &Demand) -> bool {
        // A removed campaign is not sent any more.
        let last_possible = self.last_sent().or(self.removed_at().filter(|_| self.counted.is_none()));
        let created_at = self.listed.and_then(|listed| listed.created_at.instant());
        let is_too_new = demand.created_before.zip(created_at).is_some_and(|(before, at)| at >= before);
        let is_too_old = demand.sent_from.zip(last_possible).is_some_and(|(from, last)| last < from);
        !is_too_new && !is_too_old
    }

    /// Which of its reports these demands need.
    fn reports(&self, demands: &[&Demand], criteria: &Criteria) -> Vec<DueReport> {
        let last = self.last_sent();
        let is_counted_whole = demands.iter().any(|demand| demand.is_summary);
        // The details stop at the first row older than their bound, which is on the first page of an older campaign.
        let is_older = |demand: &&Demand| demand.rows_from.zip(last).is_some_and(|(from, last)| last < from);
        let is_only_late = !is_counted_whole && demands.iter().all(is_older);
        // The counts are later than the rows, so a count of 0 is trusted only when no more rows are expected.
        let is_counted_fully = last.is_some_and(|last| criteria.now - last > criteria.lookback.max(COUNTS_LAG));
        let rows = |of: ActivityType| self.counted.map_or(0, |sent| sent.rows[of as usize]);
        ActivityType::OF_EMAILS
            .into_iter()
            .filter(|of| is_counted_whole || criteria.types.contains(of))
            .filter(|of| !(is_counted_fully && rows(*of) == 0))
            .map(|of| DueReport { activity_type: of, rows: if is_only_late { 0 } else { rows(of) } })
            .collect()
    }
}

/// A campaign whose tracking reports must be read.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is about something else")]
pub(super) struct DueCampaign {
    pub(super) id: Id,
    pub(super) name: Option<CompactString>,
    pub(super) for_summary: bool,
    pub(super) for_details: bool,
    pub(super) reports: Vec<DueReport>,
    /// Whether it surely was sent. A removed campaign may have been a draft.
    pub(super) is_sent: bool,
    /// How many of its activities have reports, if its details are known.
    pub(super) tracked_activities: Option<u64>,
    /// Whether its details are known, or will be when the reports are read.
    pub(super) has_details: bool,
}

/// A report of a campaign that must be read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct DueReport {
    pub(super) activity_type: ActivityType,
    /// How many rows will be read, according to the service's counts.
    pub(super) rows: u64,
}

impl Campaigns {
    /// How many campaigns were sent; 0 if the summaries were not read.
    pub(super) fn sent_count(&self) -> u64 {
        self.sent.as_ref().map_or(0, |sent| sent.len() as u64)
    }

    /// Why campaigns may be missing, if the listing or the summaries changed while they were read.
    pub(super) fn may_lack(&self) -> Option<&str> {
        let listing = self.listing.as_ref().and_then(|listing| listing.may_lack.as_deref());
        listing.or(self.summaries_may_lack.as_deref())
    }

    /// The campaigns that these criteria choose, in the order of their ids, with the number of their rows.
    ///
    /// A campaign that is in the summaries but not in the listing counts too.
    ///
    /// # Errors
    /// `Forbidden` if the service refuses campaigns; otherwise what ends the run.
    pub(super) fn choose(
        &mut self,
        client: &Arc<Client>,
        config: &Config,
        criteria: &Criteria,
    ) -> Result<Vec<DueCampaign>> {
        self.fetch_listing(client, config)?;
        self.fetch_sent(client, config)?;
        let wanted = self.select(criteria);
        self.fetch_repeats(client, &wanted)?;
        Ok(self.select(criteria))
    }

    /// Chooses by the listing and the counts. Pure.
    fn select(&self, criteria: &Criteria) -> Vec<DueCampaign> {
        let empty = HashMap::new();
        let sent = self.sent.as_ref().unwrap_or(&empty);
        let mut found = BTreeMap::new();
        for (id, listed) in self.listing.iter().flat_map(|listing| &listing.campaigns) {
            let counted = sent.get(id);
            // A campaign that was just sent may have no counts yet, and so no date: it is needed.
            if counted.is_some() || !listed.campaign.is_unsent() {
                found.insert(id, Candidate { listed: Some(&listed.campaign), counted });
            }
        }
        for (id, counted) in sent {
            found.entry(id).or_insert(Candidate { listed: None, counted: Some(counted) });
        }
        found.into_iter().filter_map(|(id, known)| self.to_read(id, &known, criteria)).collect()
    }

    /// What to read of a campaign; `None` for nothing.
    fn to_read(&self, id: &Id, known: &Candidate, criteria: &Criteria) -> Option<DueCampaign> {
        let demands: Vec<&Demand> = criteria.demands.iter().filter(|demand| known.may_have_rows_for(demand)).collect();
        if demands.is_empty() {
            return None;
        }
        let reports = known.reports(&demands, criteria);
        if reports.is_empty() {
            return None;
        }
        Some(DueCampaign {
            id: id.clone(),
            name: known.listed.and_then(|listed| listed.name.0.clone()),
            for_summary: demands.iter().any(|demand| demand.is_summary),
            for_details: demands.iter().any(|demand| !demand.is_summary),
            reports,
            is_sent: known.counted.is_some() || known.removed_at().is_none(),
            tracked_activities: self.count_tracked(id),
            has_details: self.cache.details.contains_key(id) || self.cache.planned.contains(id),
        })
    }

    /// Lists all campaigns, the removed ones included.
    fn fetch_listing(&mut self, client: &Arc<Client>, config: &Config) -> Result<()> {
        if self.listing.is_none() {
            let listing = self.cache.listing(client, config, None)?;
            check_listing("campaigns", &listing.oddities)?;
            self.listing = Some(listing);
        }
        Ok(())
    }

    /// Reads which campaigns were sent, and the service's counts for them.
    fn fetch_sent(&mut self, client: &Arc<Client>, config: &Config) -> Result<()> {
        if self.sent.is_none() {
            let summaries = self.cache.summaries(client, config)?;
            check_listing("summaries of campaigns", &summaries.oddities)?;
            self.summaries_may_lack.clone_from(&summaries.may_lack);
            let sent = summaries.sent.iter().map(|(id, row)| {
                // A missing count does not mean that there are no rows.
                let at_least = |count: Integer| count.as_count().unwrap_or(1);
                let counts = row.unique_counts.clone();
                let rows = counts.map_or([1; ActivityType::OF_EMAILS.len()], |counts| counts.by_kind().map(at_least));
                (id.clone(), SentCounts { last: row.last_sent_date.instant(), rows, has_repeats: false })
            });
            self.sent = Some(sent.collect());
        }
        Ok(())
    }

    /// Fetches the counts of all opens and clicks of these campaigns: the summaries count one per contact.
    fn fetch_repeats(&mut self, client: &Arc<Client>, campaigns: &[DueCampaign]) -> Result<()> {
        let sent = self.sent.get_or_insert_default();
        let asked: Vec<Id> = campaigns
            .iter()
            .map(|campaign| &campaign.id)
            .filter(|id| sent.get(id).is_some_and(|sent| !sent.has_repeats && sent.last.is_some()))
            .cloned()
            .collect();
        let batches: Vec<Vec<Id>> = asked.chunks(STATS_IDS).map(<[Id]>::to_vec).collect();
        let fetching = Arc::clone(client);
        let fetch = move |priority, ids: &Vec<Id>| {
            stats::<CampaignStats>(&fetching, "email_campaign_stats", "email_campaigns", ids, priority)
        };
        fanout::map_in_order(batches, client.workers(), fetch, |ids, outcome| {
            let found = match outcome {
                Ok(found) => found,
                Err(Error::NotFound(why) | Error::Refused(why)) => {
                    log::debug!(
                        "the service refuses the stats of {} campaigns ({why}), so the plan is too low",
                        ids.len()
                    );
                    return Ok(());
                }
                Err(e) => return Err(e),
            };
            for CampaignStats { campaign_id, stats } in found {
                let id = campaign_id.as_str().map(Id::from);
                let Some(sent) = id.and_then(|id| sent.get_mut(&id)) else { continue };
                let StatsOfAll { em_opens_all, em_clicks_all } = stats.unwrap_or_default();
                for (of, all) in [(ActivityType::Opens, em_opens_all), (ActivityType::Clicks, em_clicks_all)] {
                    let rows = &mut sent.rows[of as usize];
                    *rows = all.as_count().unwrap_or(0).max(*rows);
                }
            }
            for id in ids {
                sent.get_mut(id).into_iter().for_each(|sent| sent.has_repeats = true);
            }
            Ok(())
        })
    }

    /// Fetches the activities of the campaigns at these positions, and fills in the number of all that are known.
    pub(super) fn fetch_activities(
        &mut self,
        client: &Arc<Client>,
        campaigns: &mut [DueCampaign],
        positions: impl Iterator<Item = usize>,
    ) -> Result<()> {
        let ids: Vec<Id> = positions.map(|at| campaigns[at].id.clone()).collect();
        self.cache.fetch_details(client, &ids)?;
        for campaign in campaigns {
            campaign.tracked_activities = self.count_tracked(&campaign.id);
        }
        Ok(())
    }

    /// The activities of a campaign that can have tracking reports, after [`Campaigns::fetch_activities`] has fetched them;
    /// `None` if the service lists the campaign but does not know it by its id.
    pub(super) fn tracked_activities(&self, campaign: &Id) -> Option<Vec<Id>> {
        Some(self.cache.details.get(campaign)?.as_ref().ok()?.tracked_activities())
    }

    /// How many activities of a campaign have reports, if its details were fetched.
    fn count_tracked(&self, campaign: &Id) -> Option<u64> {
        self.cache.details.get(campaign)?;
        Some(self.tracked_activities(campaign).map_or(0, |activities| activities.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::campaigns::ListedCampaign;

    fn at(day: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + day * 86_400, 0).unwrap()
    }

    /// A campaign sent on each of these days, the last of which is day 0; what the summaries count.
    fn sent_on(days: &[i64], rows: u64) -> Campaigns {
        let id = |day: &i64| Id::from(format!("sent {day}").as_str());
        let sent =
            days.iter().map(|day| (id(day), SentCounts { last: Some(at(*day)), rows: [rows; 6], has_repeats: true }));
        let listing = listing(days.iter().map(|day| (id(day), created_on(*day - 1))));
        Campaigns { listing: Some(listing), sent: Some(sent.collect()), ..Campaigns::default() }
    }

    fn created_on(day: i64) -> EmailCampaign {
        EmailCampaign { created_at: at(day).into(), ..EmailCampaign::default() }
    }

    fn listing(campaigns: impl IntoIterator<Item = (Id, EmailCampaign)>) -> Arc<CampaignListing> {
        let campaigns = campaigns.into_iter();
        let listed = campaigns.map(|(id, campaign)| (id, ListedCampaign { campaign, extracted: "".into() }));
        Arc::new(CampaignListing { campaigns: listed.collect(), ..CampaignListing::default() })
    }

    fn selected(campaigns: &Campaigns, demands: &[Demand], types: &[ActivityType]) -> Vec<String> {
        campaigns.select(&criteria(demands, types)).into_iter().map(|c| c.id.to_string()).collect()
    }

    fn criteria(demands: &[Demand], types: &[ActivityType]) -> Criteria {
        Criteria { demands: demands.to_vec(), types: types.to_vec(), now: at(0), lookback: TimeDelta::days(30) }
    }

    #[test]
    fn a_sending_that_went_on_into_the_window_is_looked_at() {
        let campaigns = sent_on(&[-10, -12, -13], 5);
        let summary = Demand::new(true, Some(at(-10) + TimeDelta::hours(1)), None, None);
        assert_eq!(selected(&campaigns, &[summary], &[]), ["sent -10"]);
        let summary = Demand::new(true, Some(at(-10)), None, None);
        assert_eq!(selected(&campaigns, &[summary], &[]), ["sent -10", "sent -12"]);
        assert_eq!(selected(&campaigns, &[Demand::new(true, None, None, None)], &[]).len(), 3);
    }

    #[test]
    fn details_look_back_for_late_rows_or_at_everything() {
        let campaigns = sent_on(&[-1, -20, -60], 5);
        let details = |lookback| Demand::new(false, Some(at(-2)), None, lookback);
        assert_eq!(
            selected(&campaigns, &[details(Some(TimeDelta::days(30)))], &[ActivityType::Opens]),
            ["sent -1", "sent -20"]
        );
        assert_eq!(selected(&campaigns, &[details(None)], &[ActivityType::Opens]).len(), 3);
        // Pages of an older campaign are not all read.
        let rows = |id: &str| {
            let all = campaigns.select(&criteria(&[details(None)], &[ActivityType::Opens]));
            all.into_iter().find(|c| c.id == Id::from(id)).unwrap().reports[0].rows
        };
        assert_eq!((rows("sent -1"), rows("sent -20")), (5, 0));
    }

    #[test]
    fn a_count_of_zero_is_trusted_only_when_no_more_rows_are_expected() {
        let everything = Demand::new(true, None, None, None);
        assert_eq!(selected(&sent_on(&[-20, -40], 0), &[everything], &[]), ["sent -20"]);
    }

    #[test]
    fn a_campaign_that_only_the_summaries_name_is_looked_at_and_a_draft_is_not() {
        let mut campaigns = sent_on(&[-5, -6], 3);
        let draft = EmailCampaign { current_status: "Draft".into(), ..created_on(-5) };
        campaigns.listing = Some(listing([(Id::from("sent -6"), created_on(-7)), (Id::from("draft"), draft)]));
        assert_eq!(
            selected(&campaigns, &[Demand::new(false, None, None, None)], &ActivityType::OF_EMAILS),
            ["sent -5", "sent -6"]
        );
    }

    #[test]
    fn a_campaign_made_after_the_window_has_nothing_for_it() {
        let campaigns = sent_on(&[-5, -8], 3);
        let demand = Demand::new(false, Some(at(-30)), Some(at(-7)), None);
        assert_eq!(selected(&campaigns, &[demand], &ActivityType::OF_EMAILS), ["sent -8"]);
    }
}
