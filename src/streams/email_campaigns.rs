//! `email_campaigns`: `GET /emails`, with drafts and removed ones.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::TimeDelta;
use serde::Deserialize;

use super::records::EmailCampaign;
use super::{Found, Needs, Probe, Stream, each_page, parse, rows};
use crate::client::{Client, Resource};
use crate::config::Config;
use crate::error::Result;
use crate::fanout::Step;
use crate::id::Id;
use crate::schema;
use crate::sync::{Run, asked_from, in_extra_second};

/// Changes may show up this much after the moment that dates them.
const OVERLAP: TimeDelta = TimeDelta::minutes(5);

pub(super) const CAMPAIGNS: Resource = Resource::listing("emails", "campaigns");

pub(super) static STREAM: Stream = Stream {
    name: "email_campaigns",
    keys: &["campaign_id"],
    replication_key: Some("updated_at"),
    schema: schema::of::<EmailCampaign>,
    needs: Needs { scopes: &["campaign_data"], privileges: &["campaign:read"] },
    probe: Probe::Listing(count),
    read,
};

#[derive(Deserialize)]
struct Rows<'a> {
    #[serde(default, borrow, deserialize_with = "rows")]
    campaigns: Vec<EmailCampaign<'a>>,
}

/// The service counts no campaigns: they are listed, 500 a call.
fn count(client: &Arc<Client>, _: &Config, found: &mut Found) -> Result<()> {
    found.campaigns = Some(found.survey.campaigns(client)?.len() as u64);
    Ok(())
}

fn read(run: &mut Run) -> Result<()> {
    let start = run.client.run_start()?;
    let since = run.since(&STREAM, start);
    let limit = run.config.page_size.to_string();
    let after = since.map(asked_from);
    let listing = move |client: &Arc<Client>, (): &()| {
        let mut query = vec![("limit", limit.as_str())];
        query.extend(after.as_deref().map(|after| ("after_date", after)));
        client.pages(CAMPAIGNS, "/emails", &query)
    };
    // The listing repeats campaigns.
    let mut seen = HashSet::new();
    each_page(run.client, vec![()], listing, |(), step| {
        let page = match step {
            Step::Item(page) => page,
            Step::End(outcome) => return outcome,
        };
        for campaign in parse::<Rows>(&STREAM, &page)?.campaigns {
            let extra = in_extra_second(campaign.updated_at.instant(), since);
            if !extra && seen.insert(Id::from(campaign.campaign_id.as_str())) {
                run.emit(&STREAM, &campaign, &page.extracted)?;
            }
        }
        Ok(())
    })?;
    run.complete(&STREAM, start, OVERLAP);
    Ok(())
}
