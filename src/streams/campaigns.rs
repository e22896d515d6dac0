//! The account's campaigns: the listing, the service's counts for sent campaigns, and the details of single ones. Each is
//! fetched at most once per run, when the first stream needs it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::Deserialize;

use super::email_campaigns::record::EmailCampaign;
use super::page::{Coverage, every_row, takes_half};
use super::seen::{Seen, Sighting};
use crate::client::{Client, Oddities, Row};
use crate::config::Config;
use crate::error::Result;
use crate::fanout;
use crate::field::{Integer, Key, Text, Timestamp};
use crate::id::Id;
use crate::shown::shown;
use crate::window::query_bound;

/// If the first this many campaigns all answer 403, the login may not read campaigns or their reports.
pub(super) const REFUSING_CAMPAIGNS: usize = 3;

/// The service's counts of a campaign may be this late: newer rows can be missing from them.
pub(super) const COUNTS_LAG: TimeDelta = TimeDelta::days(1);

/// What the run has fetched about campaigns so far.
#[derive(Default)]
pub(crate) struct CampaignCache {
    /// By lower bound of `updated_at`; `None` lists all campaigns.
    listings: HashMap<Option<DateTime<Utc>>, Arc<CampaignListing>>,
    summaries: Option<Result<Arc<Summaries>>>,
    /// The details of campaigns, or why the service refused them.
    pub(super) details: HashMap<Id, Result<Arc<EmailCampaign>>>,
    /// Campaigns whose details `email_campaigns` will fetch before the reports need them, so the reports do not count the
    /// calls.
    pub(super) planned: HashSet<Id>,
    /// Campaigns whose details the reports will fetch before `email_campaigns` needs them, so it does not count the calls.
    pub(super) planned_by_reports: HashSet<Id>,
}

/// The campaigns of `GET /emails`.
#[derive(Default)]
pub(super) struct CampaignListing {
    /// Each campaign once, however often the listing repeats it.
    pub(super) campaigns: BTreeMap<Id, ListedCampaign>,
    pub(super) oddities: PageOddities,
    /// Why campaigns may be missing, if the listing changed while it was read.
    pub(super) may_lack: Option<String>,
}

/// A campaign as a message names it: by its id, and by its name where that is known.
pub(super) fn named(id: &Id, name: Option<&str>) -> String {
    name.map_or_else(|| id.to_string(), |name| format!("{id} (\"{}\")", shown(name)))
}

/// A campaign of the listing.
#[derive(Clone)]
pub(super) struct ListedCampaign {
    pub(super) campaign: EmailCampaign,
    /// When its page was read.
    pub(super) extracted: Arc<str>,
}

/// The service's counts for all sent campaigns.
#[derive(Clone, Default)]
pub(super) struct Summaries {
    pub(super) sent: HashMap<Id, Summary>,
    pub(super) oddities: PageOddities,
    /// Why campaigns may be missing: the summaries changed while they were read, or could not be read once more.
    pub(super) may_lack: Option<String>,
    /// Whether they were read once more, or cannot be.
    is_final: bool,
}

/// For each page, the number of its rows and what was odd about them.
pub(super) type PageOddities = Vec<(usize, Oddities)>;

/// The service's counts for one campaign.
#[derive(Clone, Deserialize, JsonSchema)]
pub(crate) struct Summary {
    pub(crate) campaign_id: Key,
    pub(crate) last_sent_date: Timestamp,
    pub(crate) unique_counts: Option<UniqueCounts>,
    // The listing's `type` in other words.
    #[serde(default, rename = "campaign_type")]
    _type: Text,
}

/// How many contacts did something, counting each contact once.
#[derive(Clone, Default, Deserialize, JsonSchema)]
pub(crate) struct UniqueCounts {
    pub(super) sends: Integer,
    pub(super) opens: Integer,
    pub(super) clicks: Integer,
    pub(super) bounces: Integer,
    pub(super) optouts: Integer,
    pub(super) forwards: Integer,
    pub(super) abuse: Integer,
    pub(super) not_opened: Integer,
}

impl UniqueCounts {
    /// Those of the tracking reports: sends, opens, clicks, bounces, opt-outs and forwards.
    pub(crate) fn by_kind(self) -> [Integer; 6] {
        [self.sends, self.opens, self.clicks, self.bounces, self.optouts, self.forwards]
    }
}

impl Row for Summary {
    const ROWS: &'static str = "bulk_email_campaign_summaries";
    const IS_WHOLE: bool = true;
}

impl CampaignCache {
    /// The campaigns updated since `since`, or all; including removed ones.
    pub(super) fn listing(
        &mut self,
        client: &Arc<Client>,
        config: &Config,
        since: Option<DateTime<Utc>>,
    ) -> Result<Arc<CampaignListing>> {
        if let Some(known) = self.listings.get(&since) {
            return Ok(Arc::clone(known));
        }
        let listing = Arc::new(list(client, config, since)?);
        self.listings.insert(since, Arc::clone(&listing));
        Ok(listing)
    }

    /// The sent campaigns with their counts. A refusal is remembered too.
    pub(super) fn summaries(&mut self, client: &Arc<Client>, config: &Config) -> Result<Arc<Summaries>> {
        self.summaries.get_or_insert_with(|| summaries(client, config).map(Arc::new)).clone()
    }

    /// The same, read once more unless they are one page: a sent campaign that they lack may have slipped between two
    /// pages. They have no count that would show it. If that takes too many calls or is refused, the first read stands.
    pub(super) fn summaries_again(&mut self, client: &Arc<Client>, config: &Config) -> Result<Arc<Summaries>> {
        let known = self.summaries(client, config)?;
        let calls = known.oddities.len() as u64;
        if known.is_final || calls == 1 {
            return Ok(known);
        }
        let why = "the summaries lack campaigns that were sent";
        let again = if takes_half(calls, client.calls_left()) {
            Err(format!("{why}, and the {calls} calls to read them again are more than half of those left"))
        } else {
            log::info!("{why}; reading them again ({calls} calls)");
            match summaries(client, config) {
                Err(e) if e.is_refusal() => Err(format!("{why}, and the service refuses to list them again ({e})")),
                again => Ok(again?),
            }
        };
        let mut summaries = Arc::unwrap_or_clone(known);
        match again {
            Ok(again) => {
                summaries.sent.extend(again.sent);
                (summaries.oddities, summaries.may_lack) = (again.oddities, again.may_lack);
            }
            Err(why) => summaries.may_lack = Some(why),
        }
        summaries.is_final = true;
        let summaries = Arc::new(summaries);
        self.summaries = Some(Ok(Arc::clone(&summaries)));
        Ok(summaries)
    }

    /// Fetches the details of those campaigns whose details are not known yet.
    ///
    /// # Errors
    /// Any error but a refusal, which is remembered for the campaign. `Forbidden` if the first campaigns of all are.
    pub(super) fn fetch_details(&mut self, client: &Arc<Client>, campaigns: &[Id]) -> Result<()> {
        let missing: Vec<Id> = campaigns.iter().filter(|id| !self.details.contains_key(id)).cloned().collect();
        let fetching = Arc::clone(client);
        let fetch = move |priority, id: &Id| details(&fetching, id, priority);
        fanout::map_in_order(missing, client.workers(), fetch, |id, details| {
            match details {
                Err(e) if !e.is_refusal() => return Err(e),
                details => self.details.insert(id.clone(), details.map(|(details, _)| Arc::new(details))),
            };
            self.check_refusals(campaigns.len())
        })?;
        self.check_refusals(campaigns.len())
    }

    /// # Errors
    /// `Forbidden` if the service has answered 403 for the first of this many campaigns, and for no other.
    fn check_refusals(&self, campaigns: usize) -> Result<()> {
        let is_forbidden = |details: &Result<Arc<EmailCampaign>>| matches!(details, Err(why) if why.is_forbidden());
        let are_enough = self.details.len() >= REFUSING_CAMPAIGNS.min(campaigns);
        match self.details.values().next() {
            Some(Err(why)) if are_enough && self.details.values().all(is_forbidden) => Err(why.clone()),
            _ => Ok(()),
        }
    }
}

fn list(client: &Arc<Client>, config: &Config, since: Option<DateTime<Utc>>) -> Result<CampaignListing> {
    let (limit, after) = (config.page_size.to_string(), since.map(query_bound));
    let pages = move |client: &Arc<Client>, (): &(), priority| {
        let mut query = vec![("limit", limit.as_str())];
        query.extend(after.as_deref().map(|after| ("after_date", after)));
        client.pages::<EmailCampaign>("emails", "/emails", &query, priority)
    };
    let mut listing = CampaignListing::default();
    let coverage = every_row(client, "campaigns", vec![()], pages, &mut Seen::default(), |(), page, seen| {
        listing.oddities.push((page.rows.len(), page.oddities));
        let extracted: Arc<str> = page.extracted.into();
        for campaign in page.rows {
            let id = Id::from(campaign.campaign_id.as_str());
            let (entered_at, changed_at) = (campaign.created_at.instant(), campaign.updated_at.instant());
            seen.insert(Sighting { id: id.clone(), entered_at, changed_at, is_wanted: true });
            // If the listing repeats a row, the last one is the newest.
            listing.campaigns.insert(id, ListedCampaign { campaign, extracted: Arc::clone(&extracted) });
        }
        Ok(())
    })?;
    if let Coverage::MayLackRows(why) = coverage {
        listing.may_lack = Some(why);
    }
    Ok(listing)
}

fn summaries(client: &Arc<Client>, config: &Config) -> Result<Summaries> {
    let limit = config.page_size.to_string();
    let pages = move |client: &Arc<Client>, (): &(), priority| {
        let path = "/reports/summary_reports/email_campaign_summaries";
        client.pages::<Summary>("email_campaign_summaries", path, &[("limit", &limit)], priority)
    };
    let mut summaries = Summaries::default();
    let what = "summaries of campaigns";
    let coverage = every_row(client, what, vec![()], pages, &mut Seen::default(), |(), page, seen| {
        summaries.oddities.push((page.rows.len(), page.oddities));
        for summary in page.rows {
            let id = Id::from(summary.campaign_id.as_str());
            // The newest sending comes first, so a campaign that is sent again enters anew.
            let sent_at = summary.last_sent_date.instant();
            seen.insert(Sighting { id: id.clone(), entered_at: sent_at, changed_at: None, is_wanted: true });
            summaries.sent.insert(id, summary);
        }
        Ok(())
    })?;
    if let Coverage::MayLackRows(why) = coverage {
        summaries.may_lack = Some(why);
    }
    Ok(summaries)
}

/// Fetches the details of one campaign: its row of the listing plus its activities. Here the status is in capitals.
pub(crate) fn details(client: &Client, id: &Id, priority: usize) -> Result<(EmailCampaign, Oddities)> {
    client.one("email_campaign", &format!("/emails/{}", id.in_path()), priority)
}
