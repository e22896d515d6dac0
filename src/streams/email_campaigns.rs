//! `email_campaigns`: `GET /emails`, with drafts and removed ones.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::TimeDelta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::page::{each_page, rows};
use super::{Found, Probe, Shared, Source};
use crate::client::{Client, Row};
use crate::config::Config;
use crate::error::Result;
use crate::extent::Filter;
use crate::fanout::Step;
use crate::field::{Integer, Key, Text, Timestamp};
use crate::id::Id;
use crate::run::{Run, asked_from, in_extra_second};
use crate::schema;
use crate::stream::{Needs, Stream};

/// Changes can become visible up to this long after their `updated_at`.
const OVERLAP: TimeDelta = TimeDelta::minutes(5);

pub(super) const ENDPOINT: &str = "emails";

pub(super) static SOURCE: Source = Source {
    stream: Stream {
        name: "email_campaigns",
        keys: &["campaign_id"],
        replication_key: Some("updated_at"),
        schema: schema::of::<EmailCampaign>,
        needs: Needs { scopes: &["campaign_data"], privileges: &["campaign:read"] },
        narrowed_by: |_| Filter::default(),
        bookmark_keys: &["deselected", "resume_since", "resume_until", "resume_after"],
        only_by_campaign: &[],
    },
    probe: Probe::Listing(count),
    cost,
    read,
};

/// An e-mail campaign, drafts and removed ones included.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
pub(crate) struct EmailCampaign {
    /// Unique id of the campaign.
    pub(crate) campaign_id: Key,
    /// When the campaign was created.
    #[serde(default)]
    pub(crate) created_at: Timestamp,
    /// State of the campaign: Draft, Scheduled, Executing (being sent), Done (sent), Error or Removed (deleted, can be
    /// restored).
    #[serde(default)]
    pub(crate) current_status: Text,
    /// Name of the campaign, unique in the account.
    #[serde(default)]
    pub(crate) name: Text,
    /// Kind of the campaign, such as Newsletter or Custom Code Email.
    #[serde(default)]
    pub(crate) r#type: Text,
    /// Number of the campaign's kind, such as 10 (Newsletter), 26 (Custom Code Email) or 57 (A/B Test).
    #[serde(default)]
    pub(crate) type_code: Integer,
    /// When the campaign was last updated.
    #[serde(default)]
    pub(crate) updated_at: Timestamp,
}

impl Row for EmailCampaign {
    const ROWS: &'static str = "campaigns";
    const IS_WHOLE: bool = true;
}

/// The service counts no campaigns: they are listed, 500 a call.
fn count(client: &Arc<Client>, _: &Config, found: &mut Found) -> Result<()> {
    found.campaigns = Some(found.shared.reports.campaigns.count(client)?);
    Ok(())
}

/// The pages of the listing; one where a bookmark bounds it.
fn cost(run: &mut Run, shared: &mut Shared) -> Result<u64> {
    let start = run.client.run_start()?;
    if run.since(&SOURCE.stream, start).is_some() {
        return Ok(1);
    }
    let campaigns = shared.reports.campaigns.count(run.client)?;
    Ok(campaigns.div_ceil(u64::from(run.config.page_size)).max(1))
}

fn read(run: &mut Run, _: &mut Shared) -> Result<()> {
    let stream = &SOURCE.stream;
    let start = run.client.run_start()?;
    let since = run.since(stream, start);
    let limit = run.config.page_size.to_string();
    let after = since.map(asked_from);
    let listing = move |client: &Arc<Client>, (): &(), priority| {
        let mut query = vec![("limit", limit.as_str())];
        query.extend(after.as_deref().map(|after| ("after_date", after)));
        client.pages::<EmailCampaign>(ENDPOINT, "/emails", &query, priority)
    };
    // The listing repeats campaigns.
    let mut seen = HashSet::new();
    each_page(run.client, vec![()], listing, |(), step| {
        let mut page = match step {
            Step::Item(page) => page,
            Step::End(outcome) => return outcome,
        };
        for campaign in rows(run, stream, &mut page) {
            let extra = in_extra_second(campaign.updated_at.instant(), since);
            if !extra && seen.insert(Id::from(campaign.campaign_id.as_str())) {
                run.emit(stream, &campaign, &page.extracted)?;
            }
        }
        Ok(())
    })?;
    run.check_oddities(stream)?;
    run.advance_bookmark(stream, start, OVERLAP);
    Ok(())
}
