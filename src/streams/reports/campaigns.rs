//! Which campaigns may have rows for the reports.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use super::kind::{KINDS, Kind};
use crate::client::Client;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::fanout::{self, Step};
use crate::field::{Integer, Text};
use crate::id::Id;
use crate::odd_rows::check_listing;
use crate::streams::campaigns::{COUNTS_LAG, KnownCampaigns};
use crate::streams::email_campaigns::record::{CampaignActivity, EmailCampaign};

const STATS: &str = "email_campaign_stats";

/// How many campaigns one call for their stats may name.
const STATS_IDS: usize = 150;
/// Sending a campaign may take hours, and the service dates it later than its first rows.
const SENDING_TAKES: TimeDelta = TimeDelta::days(2);

/// What the run has fetched about campaigns so far. Each part is fetched once, when it is first needed.
#[derive(Default)]
pub(crate) struct Campaigns {
    pub(in crate::streams) known: KnownCampaigns,
    listed: Option<Vec<CampaignFacts>>,
    sent: Option<HashMap<Id, SentCounts>>,
    /// Why campaigns may be missing, if the listing or the summaries changed while they were read.
    pub(super) may_lack: Option<String>,
}

/// What the listing says about a campaign.
pub(in crate::streams) struct CampaignFacts {
    id: Id,
    name: Option<Box<str>>,
    created_at: Option<DateTime<Utc>>,
    /// Whether it is a draft, or scheduled for later.
    is_unsent: bool,
    /// For a removed campaign, its last update: it was removed then or earlier.
    removed_at: Option<DateTime<Utc>>,
}

/// The service's counts for a sent campaign.
struct SentCounts {
    last: Option<DateTime<Utc>>,
    rows: [u64; KINDS.len()],
    /// Whether the counts of opens and clicks include repeated ones, not one per contact.
    counts_all: bool,
}

/// One activity of a campaign.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KnownActivity {
    pub(crate) id: Id,
    pub(crate) role: Option<Box<str>>,
}

impl KnownActivity {
    /// From the details of a campaign.
    fn of(activity: &CampaignActivity) -> Option<KnownActivity> {
        let id = Id::from(activity.campaign_activity_id.as_str()?);
        Some(KnownActivity { id, role: activity.role.0.clone() })
    }

    /// Whether it can have tracking reports. For undocumented roles it is tried, and the service may refuse.
    pub(super) fn is_tracked(&self) -> bool {
        !self.role.as_deref().is_some_and(|role| role.eq_ignore_ascii_case("permalink"))
    }
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
    /// The kinds of rows that the details need. The summary needs all.
    pub(super) types: Vec<Kind>,
    /// The run's start.
    pub(super) now: DateTime<Utc>,
    /// How long after its last send a campaign may get rows.
    pub(super) lookback: TimeDelta,
}

/// A campaign that may have been sent, as the listing and the summaries show it.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    listed: Option<&'a CampaignFacts>,
    counted: Option<&'a SentCounts>,
}

impl Candidate<'_> {
    fn last_sent(&self) -> Option<DateTime<Utc>> {
        self.counted.and_then(|sent| sent.last)
    }

    fn removed_at(&self) -> Option<DateTime<Utc>> {
        self.listed.and_then(|listed| listed.removed_at)
    }

    /// Whether it may have rows for a report, by the times that it was created and sent.
    fn may_have_rows_for(&self, demand: &Demand) -> bool {
        // A removed campaign is not sent any more.
        let last_possible = self.last_sent().or(self.removed_at().filter(|_| self.counted.is_none()));
        let created_at = self.listed.and_then(|listed| listed.created_at);
        let is_too_new = demand.created_before.zip(created_at).is_some_and(|(before, at)| at >= before);
        let is_too_old = demand.sent_from.zip(last_possible).is_some_and(|(from, last)| last < from);
        !is_too_new && !is_too_old
    }

    /// Which of its reports these demands need.
    fn kinds(&self, demands: &[&Demand], criteria: &Criteria) -> Vec<KindToRead> {
        let last = self.last_sent();
        let is_counted_whole = demands.iter().any(|demand| demand.is_summary);
        // The details stop at the first row older than their bound, which is on the first page of an older campaign.
        let is_older = |demand: &&Demand| demand.rows_from.zip(last).is_some_and(|(from, last)| last < from);
        let is_only_late = !is_counted_whole && demands.iter().all(is_older);
        // The counts are later than the rows, so a count of 0 is trusted only when no more rows are expected.
        let is_counted_fully = last.is_some_and(|last| criteria.now - last > criteria.lookback.max(COUNTS_LAG));
        let rows = |kind: Kind| self.counted.map_or(0, |sent| sent.rows[kind as usize]);
        KINDS
            .into_iter()
            .filter(|kind| is_counted_whole || criteria.types.contains(kind))
            .filter(|kind| !(is_counted_fully && rows(*kind) == 0))
            .map(|kind| KindToRead { kind, rows: if is_only_late { 0 } else { rows(kind) } })
            .collect()
    }
}

/// A campaign whose tracking reports must be read.
#[derive(Clone, Debug)]
pub(super) struct CampaignToRead {
    pub(super) id: Id,
    pub(super) name: Option<Box<str>>,
    /// Whether each demand needs it, in the order of the demands.
    pub(super) is_wanted_by: Vec<bool>,
    pub(super) kinds: Vec<KindToRead>,
    /// Whether it surely was sent. A removed campaign may have been a draft.
    pub(super) is_sent: bool,
    /// How many of its activities have reports, if its details are known.
    pub(super) tracked: Option<u64>,
    /// Whether its details are known, or will be when the reports are read.
    pub(super) has_detail: bool,
}

/// A report of a campaign that must be read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct KindToRead {
    pub(super) kind: Kind,
    /// How many rows will be read, according to the service's counts.
    pub(super) rows: u64,
}

impl Campaigns {
    /// How many campaigns were sent; 0 if the summaries were not read.
    pub(super) fn sent_count(&self) -> u64 {
        self.sent.as_ref().map_or(0, |sent| sent.len() as u64)
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
    ) -> Result<Vec<CampaignToRead>> {
        self.listed(client, config)?;
        self.sent(client, config)?;
        let wanted = self.select(criteria);
        self.count_all(client, &wanted)?;
        Ok(self.select(criteria))
    }

    /// Chooses from what is known already. Pure.
    fn select(&self, criteria: &Criteria) -> Vec<CampaignToRead> {
        let empty = HashMap::new();
        let sent = self.sent.as_ref().unwrap_or(&empty);
        let mut found = BTreeMap::new();
        for listed in self.listed.iter().flatten() {
            let counted = sent.get(&listed.id);
            // A campaign that was just sent may have no counts yet, and so no date: it is needed.
            if counted.is_some() || !listed.is_unsent {
                found.insert(&listed.id, Candidate { listed: Some(listed), counted });
            }
        }
        for (id, counted) in sent {
            found.entry(id).or_insert(Candidate { listed: None, counted: Some(counted) });
        }
        found.into_iter().filter_map(|(id, known)| self.to_read(id, &known, criteria)).collect()
    }

    /// What to read of a campaign; `None` for nothing.
    fn to_read(&self, id: &Id, known: &Candidate, criteria: &Criteria) -> Option<CampaignToRead> {
        let is_wanted_by: Vec<bool> = criteria.demands.iter().map(|demand| known.may_have_rows_for(demand)).collect();
        let demands = criteria.demands.iter().zip(&is_wanted_by).filter(|(_, wanted)| **wanted);
        let demands: Vec<&Demand> = demands.map(|(demand, _)| demand).collect();
        if demands.is_empty() {
            return None;
        }
        let kinds = known.kinds(&demands, criteria);
        if kinds.is_empty() {
            return None;
        }
        Some(CampaignToRead {
            id: id.clone(),
            name: known.listed.and_then(|listed| listed.name.clone()),
            is_wanted_by,
            kinds,
            is_sent: known.counted.is_some() || known.removed_at().is_none(),
            tracked: self.tracked(id),
            has_detail: self.known.has_or_plans_details(id),
        })
    }

    /// All campaigns, the removed ones included.
    fn listed(&mut self, client: &Arc<Client>, config: &Config) -> Result<&[CampaignFacts]> {
        if self.listed.is_none() {
            let listing = self.known.listing(client, config, None)?;
            check_listing("campaigns", &listing.oddities)?;
            self.may_lack.clone_from(&listing.may_lack);
            let listed = listing.campaigns.iter().map(|(id, row)| CampaignFacts {
                id: id.clone(),
                name: row.campaign.name.0.clone(),
                created_at: row.campaign.created_at.instant(),
                is_unsent: row.campaign.is_unsent(),
                removed_at: row.campaign.updated_at.instant().filter(|_| row.campaign.is_removed()),
            });
            self.listed = Some(listed.collect());
        }
        Ok(self.listed.as_deref().unwrap_or_default())
    }

    /// The sent campaigns, as the summaries count them.
    fn sent(&mut self, client: &Arc<Client>, config: &Config) -> Result<&HashMap<Id, SentCounts>> {
        if self.sent.is_none() {
            let summaries = self.known.summaries(client, config)?;
            check_listing("summaries of campaigns", &summaries.oddities)?;
            if self.may_lack.is_none() {
                self.may_lack.clone_from(&summaries.may_lack);
            }
            let sent = summaries.sent.iter().map(|(id, row)| {
                // A missing count does not mean that there are no rows.
                let at_least = |count: Integer| count.as_count().unwrap_or(1);
                let counts = row.unique_counts.clone();
                let rows = counts.map_or([1; KINDS.len()], |counts| counts.by_kind().map(at_least));
                (id.clone(), SentCounts { last: row.last_sent_date.instant(), rows, counts_all: false })
            });
            self.sent = Some(sent.collect());
        }
        Ok(self.sent.get_or_insert_default())
    }

    /// Fetches the counts of all opens and clicks of these campaigns: the summaries count one per contact.
    fn count_all(&mut self, client: &Arc<Client>, campaigns: &[CampaignToRead]) -> Result<()> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            results: Option<Vec<Counted>>,
        }
        #[derive(Deserialize)]
        struct Counted {
            #[serde(default)]
            campaign_id: Text,
            #[serde(default)]
            stats: Option<Stats>,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Stats {
            em_opens_all: Integer,
            em_clicks_all: Integer,
        }
        let sent = self.sent.get_or_insert_default();
        let asked: Vec<Id> = campaigns
            .iter()
            .map(|campaign| &campaign.id)
            .filter(|id| sent.get(id).is_some_and(|sent| !sent.counts_all && sent.last.is_some()))
            .cloned()
            .collect();
        let batches: Vec<Vec<Id>> = asked.chunks(STATS_IDS).map(<[Id]>::to_vec).collect();
        let (fetching, workers) = (Arc::clone(client), client.workers());
        let fetch = move |priority: usize, ids: &Vec<Id>, push: &mut dyn FnMut(Answer) -> bool| {
            let ids: Vec<String> = ids.iter().map(Id::in_path).collect();
            push(fetching.object(
                STATS,
                &format!("/reports/stats/email_campaigns/{}", ids.join(",")),
                &[],
                priority,
            )?);
            Ok(())
        };
        fanout::in_order(
            batches,
            workers,
            |_| 1,
            fetch,
            |ids, step| {
                match step {
                    Step::Item(answer) => {
                        for counted in answer.results.unwrap_or_default() {
                            let id = counted.campaign_id.as_str().map(Id::from);
                            let Some(sent) = id.and_then(|id| sent.get_mut(&id)) else { continue };
                            let stats = counted.stats.unwrap_or_default();
                            for (kind, all) in [(Kind::Opens, stats.em_opens_all), (Kind::Clicks, stats.em_clicks_all)]
                            {
                                let all = all.as_count().unwrap_or(0);
                                sent.rows[kind as usize] = sent.rows[kind as usize].max(all);
                            }
                        }
                        for id in ids {
                            sent.get_mut(id).into_iter().for_each(|sent| sent.counts_all = true);
                        }
                        Ok(())
                    }
                    // A single id that the service does not accept fails the whole call.
                    Step::End(Err(Error::NotFound(why) | Error::Refused(why))) => {
                        log::debug!(
                            "the service refuses the stats of {} campaigns ({why}), so the plan is too low",
                            ids.len()
                        );
                        Ok(())
                    }
                    Step::End(outcome) => outcome,
                }
            },
        )
    }

    /// Fetches the activities of campaigns, unless they are known.
    ///
    /// # Errors
    /// `Forbidden` if the service refuses campaigns; otherwise what ends the run.
    pub(in crate::streams) fn activities(&mut self, client: &Arc<Client>, campaigns: &[Id]) -> Result<()> {
        self.known.learn_details(client, campaigns)
    }

    /// The activities of a campaign, after [`Campaigns::activities`] has fetched them; `None` if the service lists the
    /// campaign but does not know it by its id.
    pub(in crate::streams) fn activities_of(&self, campaign: &Id) -> Option<Vec<KnownActivity>> {
        let details = self.known.details_of(campaign)?.as_ref().ok()?;
        Some(details.activities().into_iter().filter_map(KnownActivity::of).collect())
    }

    /// How many activities of a campaign have reports, if its activities are known.
    fn tracked(&self, campaign: &Id) -> Option<u64> {
        self.known.details_of(campaign)?;
        let known = self.activities_of(campaign).unwrap_or_default();
        Some(known.iter().filter(|activity| activity.is_tracked()).count() as u64)
    }

    /// Fills in the activities that became known since these campaigns were chosen.
    pub(super) fn note_activities(&self, campaigns: &mut [CampaignToRead]) {
        for campaign in campaigns {
            campaign.tracked = self.tracked(&campaign.id);
        }
    }

    /// All known activities, each with its campaign.
    pub(super) fn known_activities(&self) -> impl Iterator<Item = (&Id, KnownActivity)> {
        let activities = |(id, details): (_, &EmailCampaign)| -> Vec<(_, KnownActivity)> {
            details.activities().into_iter().filter_map(KnownActivity::of).map(|activity| (id, activity)).collect()
        };
        self.known.detailed().flat_map(activities)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + day * 86_400, 0).unwrap()
    }

    /// A campaign sent on each of these days, the last of which is day 0; what the summaries count.
    fn sent_on(days: &[i64], rows: u64) -> Campaigns {
        let id = |day: &i64| Id::from(format!("sent {day}").as_str());
        let sent =
            days.iter().map(|day| (id(day), SentCounts { last: Some(at(*day)), rows: [rows; 6], counts_all: true }));
        let listed = days.iter().map(|day| CampaignFacts {
            id: id(day),
            name: None,
            created_at: Some(at(*day - 1)),
            is_unsent: false,
            removed_at: None,
        });
        Campaigns { listed: Some(listed.collect()), sent: Some(sent.collect()), ..Campaigns::default() }
    }

    fn selected(campaigns: &Campaigns, demands: &[Demand], types: &[Kind]) -> Vec<String> {
        campaigns.select(&criteria(demands, types)).into_iter().map(|c| c.id.to_string()).collect()
    }

    fn criteria(demands: &[Demand], types: &[Kind]) -> Criteria {
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
            selected(&campaigns, &[details(Some(TimeDelta::days(30)))], &[Kind::Opens]),
            ["sent -1", "sent -20"]
        );
        assert_eq!(selected(&campaigns, &[details(None)], &[Kind::Opens]).len(), 3);
        // Pages of an older campaign are not all read.
        let rows = |id: &str| {
            let all = campaigns.select(&criteria(&[details(None)], &[Kind::Opens]));
            all.into_iter().find(|c| c.id == Id::from(id)).unwrap().kinds[0].rows
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
        campaigns.listed.as_mut().unwrap().retain(|listed| listed.id != Id::from("sent -5"));
        campaigns.listed.as_mut().unwrap().push(CampaignFacts {
            id: Id::from("draft"),
            name: None,
            created_at: Some(at(-5)),
            is_unsent: true,
            removed_at: None,
        });
        assert_eq!(selected(&campaigns, &[Demand::new(false, None, None, None)], &KINDS), ["sent -5", "sent -6"]);
    }

    #[test]
    fn a_campaign_made_after_the_window_has_nothing_for_it() {
        let campaigns = sent_on(&[-5, -8], 3);
        let demand = Demand::new(false, Some(at(-30)), Some(at(-7)), None);
        assert_eq!(selected(&campaigns, &[demand], &KINDS), ["sent -8"]);
    }
}
