//! `email_campaigns`: `GET /emails`, with drafts and removed ones.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use super::records::EmailCampaign;
use super::{Stream, parse};
use crate::client::Client;
use crate::error::Result;
use crate::field::Timestamp;
use crate::schema;
use crate::sync::{Run, asked_from, in_extra_second};

/// Changes may show up this much after the moment that dates them.
const OVERLAP: TimeDelta = TimeDelta::minutes(5);

pub(super) static STREAM: Stream = Stream {
    name: "email_campaigns",
    keys: &["campaign_id"],
    replication_key: Some("updated_at"),
    schema: schema::of::<EmailCampaign>,
    needs: "the scope campaign_data and the user privilege campaign:read",
    read,
};

#[derive(Deserialize)]
struct Rows<'a> {
    #[serde(default, borrow)]
    campaigns: Vec<EmailCampaign<'a>>,
}

fn read(run: &mut Run) -> Result<()> {
    let start = run.client.run_start()?;
    let since = run.since(&STREAM, start);
    let limit = run.config.page_size.to_string();
    let after = since.map(asked_from);
    let mut query = vec![("limit", limit.as_str())];
    query.extend(after.as_deref().map(|after| ("after_date", after)));
    // The listing repeats campaigns.
    let mut seen = HashSet::new();
    for page in run.client.pages("emails", "/emails", &query) {
        let page = page?;
        for campaign in parse::<Rows>(&STREAM, &page)?.campaigns {
            let extra = in_extra_second(campaign.updated_at.instant(), since);
            if !extra && seen.insert(campaign.campaign_id.as_str().to_owned()) {
                run.emit(&campaign, &page)?;
            }
        }
    }
    run.complete(&STREAM, start, OVERLAP);
    Ok(())
}

/// When the account's oldest campaign was made: nothing that the reports tell is older.
pub(super) fn oldest(client: &Client) -> Result<Option<DateTime<Utc>>> {
    #[derive(Deserialize)]
    struct Rows<'a> {
        #[serde(default, borrow)]
        campaigns: Vec<Row<'a>>,
    }
    #[derive(Deserialize)]
    struct Row<'a> {
        #[serde(default, borrow)]
        created_at: Timestamp<'a>,
    }
    let mut oldest = None;
    // The order of the listing is not documented: all of it is looked at.
    for page in client.pages("emails", "/emails", &[("limit", "500")]) {
        for row in parse_plain::<Rows>(&page?.text)?.campaigns {
            oldest = oldest.into_iter().chain(row.created_at.instant()).min();
        }
    }
    crate::field::take_unreadable();
    Ok(oldest)
}

/// Rows read for one value of theirs only, whose other fields are nobody's matter.
pub(super) fn parse_plain<'p, T: Deserialize<'p>>(text: &'p str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|e| crate::error::Error::Failed(format!("the service sent rows of an unexpected kind: {e}")))
}
