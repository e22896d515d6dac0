//! What the account has of campaigns: the listing, what the service counts for those sent, and details one by one.
//! Each is fetched at most once a run, by whichever stream needs it first.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::Deserialize;

use super::email_campaigns::EmailCampaign;
use super::page::{Coverage, each_page, every_row};
use super::seen::{Seen, Sighting};
use crate::client::{Client, Oddities, Row};
use crate::config::Config;
use crate::error::Result;
use crate::fanout::{self, Step};
use crate::field::{Integer, Key, Text, Timestamp};
use crate::id::Id;
use crate::run::asked_from;

/// What a run has learned of the account's campaigns.
#[derive(Default)]
pub(crate) struct KnownCampaigns {
    /// By the moment since which campaigns were updated; `None` lists all.
    listings: HashMap<Option<DateTime<Utc>>, Arc<Listing>>,
    summaries: Option<Result<Arc<Summaries>>>,
    details: HashMap<Id, Result<Arc<EmailCampaign>>>,
    /// The campaigns whose details the stream of campaigns will have asked for.
    planned: HashSet<Id>,
}

/// The campaigns that `GET /emails` names.
#[derive(Default)]
pub(super) struct Listing {
    /// Each campaign once, however often the listing repeats it.
    pub(super) campaigns: BTreeMap<Id, Listed>,
    pub(super) oddities: PageOddities,
    /// Why campaigns may be missing, where the listing changed while it was read.
    pub(super) may_lack: Option<String>,
}

/// A campaign of the listing.
#[derive(Clone)]
pub(super) struct Listed {
    pub(super) campaign: EmailCampaign,
    /// When its page was read.
    pub(super) extracted: Arc<str>,
}

/// What the service counts for the campaigns that were sent.
#[derive(Default)]
pub(super) struct Summaries {
    pub(super) sent: HashMap<Id, Summary>,
    pub(super) oddities: PageOddities,
}

/// What was odd about each page, with the number of its rows.
pub(super) type PageOddities = Vec<(usize, Oddities)>;

/// What the service counts for one campaign.
#[derive(Clone, Deserialize, JsonSchema)]
pub(super) struct Summary {
    campaign_id: Key,
    #[serde(default)]
    pub(super) last_sent_date: Timestamp,
    #[serde(default)]
    pub(super) unique_counts: Option<UniqueCounts>,
    // The listing's `type` in other words.
    #[serde(default, rename = "campaign_type")]
    _type: Text,
}

/// How many contacts did something, each counted once.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct UniqueCounts {
    pub(super) sends: Integer,
    pub(super) opens: Integer,
    pub(super) clicks: Integer,
    pub(super) bounces: Integer,
    pub(super) optouts: Integer,
    pub(super) forwards: Integer,
    pub(super) abuse: Integer,
    pub(super) not_opened: Integer,
}

impl Row for Summary {
    const ROWS: &'static str = "bulk_email_campaign_summaries";
    const IS_WHOLE: bool = true;
}

impl KnownCampaigns {
    /// The campaigns updated since a moment, or all, the removed ones with them.
    pub(super) fn listing(
        &mut self,
        client: &Arc<Client>,
        config: &Config,
        since: Option<DateTime<Utc>>,
    ) -> Result<Arc<Listing>> {
        if let Some(known) = self.listings.get(&since) {
            return Ok(Arc::clone(known));
        }
        let listing = Arc::new(list(client, config, since)?);
        self.listings.insert(since, Arc::clone(&listing));
        Ok(listing)
    }

    /// The campaigns that were sent, by the service's own account of them; a refusal is remembered as well.
    pub(super) fn summaries(&mut self, client: &Arc<Client>, config: &Config) -> Result<Arc<Summaries>> {
        if let Some(known) = &self.summaries {
            return known.clone();
        }
        let summaries = summaries(client, config).map(Arc::new);
        self.summaries = Some(summaries.clone());
        summaries
    }

    /// The details of a campaign, or why the service refuses them, if they were asked for.
    pub(super) fn details_of(&self, id: &Id) -> Option<&Result<Arc<EmailCampaign>>> {
        self.details.get(id)
    }

    /// Notes that the stream of campaigns will ask for the details of these, so that nobody else counts them.
    pub(super) fn plan_details(&mut self, campaigns: impl Iterator<Item = Id>) {
        self.planned.extend(campaigns);
    }

    /// Whether the details of a campaign cost the reports no call.
    pub(super) fn has_or_plans_details(&self, id: &Id) -> bool {
        self.details.contains_key(id) || self.planned.contains(id)
    }

    /// Remembers the details of a campaign, or that they are refused.
    pub(super) fn remember_details(&mut self, id: Id, details: Result<Arc<EmailCampaign>>) {
        self.details.insert(id, details);
    }

    /// The campaigns whose details are known.
    pub(super) fn detailed(&self) -> impl Iterator<Item = (&Id, &EmailCampaign)> {
        self.details.iter().filter_map(|(id, details)| Some((id, &**details.as_ref().ok()?)))
    }

    /// Asks for the details of those campaigns that no one has asked about before.
    ///
    /// # Errors
    /// What ends a run, or `Forbidden`. A campaign that the service does not know by its id is none.
    pub(super) fn learn_details(&mut self, client: &Arc<Client>, campaigns: &[Id]) -> Result<()> {
        let missing: Vec<Id> = campaigns.iter().filter(|id| !self.details.contains_key(id)).cloned().collect();
        let (fetching, workers) = (Arc::clone(client), client.workers());
        let fetch = move |priority: usize, id: &Id, push: &mut dyn FnMut(EmailCampaign) -> bool| {
            push(details(&fetching, id, priority)?.0);
            Ok(())
        };
        fanout::in_order(
            missing,
            workers,
            |_| 1,
            fetch,
            |id, step| {
                match step {
                    Step::Item(details) => self.remember_details(id.clone(), Ok(Arc::new(details))),
                    Step::End(Err(why)) if why.is_refusal() => self.remember_details(id.clone(), Err(why)),
                    Step::End(outcome) => outcome?,
                }
                Ok(())
            },
        )?;
        match campaigns.iter().find_map(|id| self.details.get(id)?.as_ref().err().filter(|why| why.is_forbidden())) {
            Some(why) => Err(why.clone()),
            None => Ok(()),
        }
    }
}

fn list(client: &Arc<Client>, config: &Config, since: Option<DateTime<Utc>>) -> Result<Listing> {
    let (limit, after) = (config.page_size.to_string(), since.map(asked_from));
    let pages = move |client: &Arc<Client>, (): &(), priority| {
        let mut query = vec![("limit", limit.as_str())];
        query.extend(after.as_deref().map(|after| ("after_date", after)));
        client.pages::<EmailCampaign>("emails", "/emails", &query, priority)
    };
    let mut listing = Listing::default();
    let coverage = every_row(client, "campaigns", vec![()], pages, &mut Seen::default(), |(), step, seen| {
        let page = match step {
            Step::Item(page) => page,
            Step::End(outcome) => return outcome,
        };
        listing.oddities.push((page.rows.len(), page.oddities));
        let extracted: Arc<str> = page.extracted.into();
        for campaign in page.rows {
            let id = Id::from(campaign.campaign_id.as_str());
            let (entered_at, changed_at) = (campaign.created_at.instant(), campaign.updated_at.instant());
            seen.insert(Sighting { id: id.clone(), entered_at, changed_at, is_wanted: true });
            // The last of repeated rows is the newest.
            listing.campaigns.insert(id, Listed { campaign, extracted: Arc::clone(&extracted) });
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
    each_page(client, vec![()], pages, |(), step| {
        let page = match step {
            Step::Item(page) => page,
            Step::End(outcome) => return outcome,
        };
        summaries.oddities.push((page.rows.len(), page.oddities));
        summaries.sent.extend(page.rows.into_iter().map(|row| (Id::from(row.campaign_id.as_str()), row)));
        Ok(())
    })?;
    Ok(summaries)
}

/// The details of one campaign: its row of the listing, with its activities. Unlike there, the status is in capitals.
pub(super) fn details(client: &Client, id: &Id, priority: usize) -> Result<(EmailCampaign, Oddities)> {
    client.one("email_campaign", &format!("/emails/{}", id.in_path()), priority)
}
