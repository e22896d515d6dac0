//! Which route a report of the whole account takes, and what it will cost: decided and told before it begins.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use super::campaign_reports::{Kind, kinds};
use super::reports::{DETAILS, Reading, SUMMARY};
use super::{Stream, contacts, each_page, parse_plain};
use crate::client::{Client, DAILY_QUOTA};
use crate::config::Route;
use crate::error::{Error, Result};
use crate::fanout::Step;
use crate::field::{Integer, Key, Text, Timestamp};
use crate::ids::Id;
use crate::sync::Run;

/// What a run has learnt of the account's campaigns.
#[derive(Default)]
pub(crate) struct Survey {
    campaigns: Option<Arc<Vec<Campaign>>>,
    sent: Option<Arc<HashMap<Id, Sent>>>,
    route: Option<Route>,
}

/// A campaign of the listing.
pub(super) struct Campaign {
    pub(super) id: Id,
    pub(super) name: Option<String>,
    created_at: Option<DateTime<Utc>>,
    /// A draft or one that is scheduled has not been sent.
    unsent: bool,
}

/// What the service counts for a sent campaign.
pub(super) struct Sent {
    pub(super) last: Option<DateTime<Utc>>,
    unique: [u64; 6],
}

impl Sent {
    /// How many contacts have a row of a kind.
    pub(super) fn unique(&self, kind: Kind) -> u64 {
        self.unique[kind as usize]
    }
}

/// A campaign whose reports are to be looked at, with the kinds of them.
pub(super) struct Candidate {
    pub(super) id: Id,
    pub(super) name: Option<String>,
    /// Whether each reading, in their order, is to look at it.
    pub(super) wanted: Vec<bool>,
    pub(super) kinds: Vec<Kind>,
    calls: u64,
}

/// When the account's oldest campaign was made: nothing that the reports tell is older. `None` where there is none, or
/// campaigns may not be read.
pub(super) fn beginning(run: &mut Run) -> Result<Option<DateTime<Utc>>> {
    match campaigns(run) {
        Ok(campaigns) => Ok(campaigns.iter().filter_map(|c| c.created_at).min()),
        Err(Error::Forbidden(_)) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The route of a report: as set, as begun, or the cheaper one.
pub(super) fn route(run: &mut Run, stream: &Stream, readings: &[Reading]) -> Result<Route> {
    if let Some(route) = run.config.activity_route {
        return Ok(route);
    }
    let own = readings.iter().find(|reading| reading.stream.name == stream.name);
    if let Some(resume) = own.and_then(|reading| reading.resume.as_ref()) {
        log::info!("{}: going on with the round that ends at {}", stream.name, resume.until);
        return Ok(resume.route);
    }
    if let Some(route) = run.survey.route {
        return Ok(route);
    }
    let landing_pages = run.config.tracking_activity_types.iter().any(|kind| kind.starts_with("p_"));
    let route = if !run.config.contact_ids.is_empty() || (landing_pages && run.selects(&DETAILS)) {
        Route::Contacts
    } else {
        cheaper(run, readings)?
    };
    run.survey.route = Some(route);
    Ok(route)
}

fn cheaper(run: &mut Run, readings: &[Reading]) -> Result<Route> {
    let contacts = contacts::count(run)?;
    let listing = contacts.div_ceil(u64::from(run.config.page_size));
    let by_contacts = (contacts + listing) * readings.iter().filter(|reading| !reading.complete()).count() as u64;
    let by_campaigns = match candidates(run, readings) {
        Ok(candidates) => candidates.iter().map(|candidate| candidate.calls).sum(),
        Err(Error::Forbidden(why)) => {
            log::info!("the campaigns' reports may not be read ({why}); the contact reports take the contact route");
            u64::MAX
        }
        Err(e) => return Err(e),
    };
    let (route, name, calls) = if by_contacts <= by_campaigns {
        (Route::Contacts, "contact", by_contacts)
    } else {
        (Route::Campaigns, "campaign", by_campaigns)
    };
    log::info!("plan: the contact reports of {contacts} contacts by the {name} route, {}", cost(run, calls));
    Ok(route)
}

/// A number of calls in words that say what they mean.
fn cost(run: &Run, calls: u64) -> String {
    let minutes = (run.client.pace().as_millis() * u128::from(calls)).div_ceil(60_000);
    let share = 100 * calls / DAILY_QUOTA;
    let days = match calls.div_ceil(DAILY_QUOTA) {
        0 | 1 => String::new(),
        days => format!(", {days} days"),
    };
    format!("about {calls} calls: {minutes} min at the pace, {share} % of the daily quota{days}")
}

/// The campaigns that the readings have to look at.
pub(super) fn candidates(run: &mut Run, readings: &[Reading]) -> Result<Vec<Candidate>> {
    let (campaigns, sent) = (campaigns(run)?, sent(run)?);
    let now = run.client.run_start()?;
    let lookback = TimeDelta::days(i64::from(run.config.activity_lookback_days));
    let mut found = Vec::new();
    for campaign in campaigns.iter() {
        let counted = sent.get(&campaign.id);
        // A campaign that was sent and is not counted yet has an unknown date; it is looked at.
        if counted.is_none() && campaign.unsent {
            continue;
        }
        let last = counted.and_then(|sent| sent.last);
        let wanted: Vec<bool> = readings
            .iter()
            .map(|reading| {
                let window = &reading.window;
                let floor = match (reading.stream.name == SUMMARY.name, reading.incremental) {
                    (true, _) => Some(window.start),
                    (false, true) => window.start.checked_sub_signed(lookback),
                    (false, false) => None,
                };
                let too_new = window.bounded && campaign.created_at.is_some_and(|at| at >= window.end);
                let too_old = last.zip(floor).is_some_and(|(last, floor)| last < floor);
                !reading.complete() && !too_new && !too_old
            })
            .collect();
        if !wanted.contains(&true) {
            continue;
        }
        let counts_all = readings.iter().zip(&wanted).any(|(r, wanted)| *wanted && r.stream.name == SUMMARY.name);
        // The counts may lag behind the rows: only those of a campaign that rests are believed.
        let rests = last.is_some_and(|last| now - last > lookback.max(TimeDelta::days(1)));
        let kinds: Vec<Kind> = kinds()
            .filter(|kind| counts_all || run.config.tracking_activity_types.iter().any(|t| t == kind.name()))
            .filter(|kind| !(rests && counted.is_some_and(|sent| sent.unique(*kind) == 0)))
            .collect();
        // Without the summary an incremental read stops at its first old row.
        let stops = !counts_all && readings.iter().all(|reading| reading.incremental);
        let pages = |kind: &Kind| {
            let rows = counted.map_or(0, |sent| sent.unique(*kind));
            if stops { 1 } else { rows.div_ceil(500).max(1) }
        };
        found.push(Candidate {
            id: campaign.id.clone(),
            name: campaign.name.clone(),
            wanted,
            calls: 1 + kinds.iter().map(pages).sum::<u64>(),
            kinds,
        });
    }
    Ok(found)
}

/// All campaigns, the removed ones with them.
fn campaigns(run: &mut Run) -> Result<Arc<Vec<Campaign>>> {
    #[derive(Deserialize)]
    struct Rows<'a> {
        #[serde(default, borrow)]
        campaigns: Vec<Row<'a>>,
    }
    #[derive(Deserialize)]
    struct Row<'a> {
        #[serde(borrow)]
        campaign_id: Key<'a>,
        #[serde(default, borrow)]
        name: Text<'a>,
        #[serde(default, borrow)]
        current_status: Text<'a>,
        #[serde(default, borrow)]
        created_at: Timestamp<'a>,
    }
    if let Some(known) = &run.survey.campaigns {
        return Ok(Arc::clone(known));
    }
    let mut found: HashMap<Id, Campaign> = HashMap::new();
    let listing = |client: &Arc<Client>, (): &()| client.pages("emails", "/emails", &[("limit", "500")]);
    each_page(run, vec![()], listing, |_, (), step| {
        match step {
            Step::Item(page) => {
                for row in parse_plain::<Rows>(&page.text)?.campaigns {
                    let status = row.current_status.0.as_deref().unwrap_or_default();
                    let unsent = ["draft", "scheduled"].iter().any(|s| status.eq_ignore_ascii_case(s));
                    let id = Id::from(row.campaign_id.as_str());
                    let name = row.name.0.map(std::borrow::Cow::into_owned);
                    let created_at = row.created_at.instant();
                    found.insert(id.clone(), Campaign { id, name, created_at, unsent });
                }
            }
            Step::End(outcome) => outcome?,
        }
        Ok(())
    })?;
    let found = Arc::new(found.into_values().collect());
    run.survey.campaigns = Some(Arc::clone(&found));
    Ok(found)
}

/// The sent campaigns by the service's own account of them.
fn sent(run: &mut Run) -> Result<Arc<HashMap<Id, Sent>>> {
    #[derive(Deserialize)]
    struct Rows<'a> {
        #[serde(default, borrow)]
        bulk_email_campaign_summaries: Vec<Row<'a>>,
    }
    #[derive(Deserialize)]
    struct Row<'a> {
        #[serde(borrow)]
        campaign_id: Key<'a>,
        #[serde(default, borrow)]
        last_sent_date: Timestamp<'a>,
        #[serde(default)]
        unique_counts: Option<Counts>,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Counts {
        sends: Integer,
        opens: Integer,
        clicks: Integer,
        bounces: Integer,
        optouts: Integer,
        forwards: Integer,
    }
    if let Some(known) = &run.survey.sent {
        return Ok(Arc::clone(known));
    }
    let mut found = HashMap::new();
    let listing = |client: &Arc<Client>, (): &()| {
        client.pages(
            "email_campaign_summaries",
            "/reports/summary_reports/email_campaign_summaries",
            &[("limit", "500")],
        )
    };
    each_page(run, vec![()], listing, |_, (), step| {
        match step {
            Step::Item(page) => {
                for row in parse_plain::<Rows>(&page.text)?.bulk_email_campaign_summaries {
                    // A count that is not sent says nothing: it must not be taken for "none".
                    let known = |count: Integer| count.0.map_or(1, i64::unsigned_abs);
                    let unique = row
                        .unique_counts
                        .map_or([1; 6], |c| [c.sends, c.opens, c.clicks, c.bounces, c.optouts, c.forwards].map(known));
                    found.insert(
                        Id::from(row.campaign_id.as_str()),
                        Sent { last: row.last_sent_date.instant(), unique },
                    );
                }
            }
            Step::End(outcome) => outcome?,
        }
        Ok(())
    })?;
    let found = Arc::new(found);
    run.survey.sent = Some(Arc::clone(&found));
    Ok(found)
}
