//! The plan of the contact reports: their route and its cost. It is made once per run, before the first record.
//!
//! Making it takes API calls: the campaigns are listed and counted, and some contacts and campaigns are read as a sample.
//! It makes as few as the choice needs, and keeps the answers, so that the read does not repeat them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::TimeDelta;

use super::by_contact::ContactRow;
use super::contact_fetch::{self, ContactFetch};
use super::due_campaigns::{Criteria, DueCampaign};
use super::estimate::{self, ContactEstimate};
use super::reading::Reading;
use super::route::{self, Calls, Reason};
use super::{BOTH_REPORTS, Fetched};
use crate::client::Page;
use crate::config::{ActivityType, Route};
use crate::error::{Error, Result};
use crate::fanout::{self, Step};
use crate::id::Id;
use crate::run::Run;
use crate::streams::{Shared, contacts};

/// How many contacts are read, at most, to learn how rows spread over them.
const CONTACT_SAMPLE: usize = 20;
/// How many campaigns are looked at, at most, to learn how many activities one has.
const CAMPAIGN_SAMPLE: usize = 20;
/// A sample takes at most this part of the calls that are left. Otherwise a small `max_requests` would go into the plan of
/// every run, and nothing would be read.
const PART_FOR_A_SAMPLE: u64 = 20;

/// How the contact reports of this run are read.
pub(super) struct Plan {
    pub(super) route: Route,
    /// The calls of both reports together, including those that made the plan.
    pub(super) calls: u64,
    /// Route and reason, in words.
    pub(super) words: String,
}

/// What reading by one route costs.
#[derive(Default)]
struct Cost {
    /// The calls of the read, including the `made` ones.
    calls: u64,
    /// Those of the calls that the plan has made already.
    made: u64,
    /// The campaigns whose details it counts.
    detailed: Vec<Id>,
}

/// The plan of this run; the first call makes it.
///
/// # Errors
/// `Forbidden` if the service refuses both routes; otherwise what ends the run.
pub(super) fn of<'s>(run: &mut Run, shared: &'s mut Shared) -> Result<&'s Plan> {
    let fetched = &mut shared.reports;
    let plan = match fetched.plan.take() {
        Some(made) => made,
        None => make(run, fetched)?,
    };
    Ok(fetched.plan.insert(plan))
}

fn make(run: &mut Run, fetched: &mut Fetched) -> Result<Plan> {
    run.client.run_start()?;
    let before = run.client.calls();
    let readings = super::readings(run)?;
    let was_by_campaign = readings.iter().any(|reading| reading.previous_route(run) == Some(Route::Campaigns));
    let (route, reason, cost) = match route::fixed(run, &readings) {
        Some((Route::Contacts, reason)) => (Route::Contacts, reason, cost_by_contact(run, fetched, &readings)?),
        Some((Route::Campaigns, reason)) => (Route::Campaigns, reason, cost_by_campaign(run, fetched, &readings)?),
        None => choose_by_cost(run, fetched, &readings, was_by_campaign)?,
    };
    reason.warn(cost.calls, was_by_campaign);
    fetched.campaigns.cache.planned_by_reports.extend(cost.detailed);
    // The calls that made the plan and that the read does not need.
    let extra = run.client.calls().saturating_sub(before).saturating_sub(cost.made);
    Ok(Plan { route, calls: extra + cost.calls, words: reason.words(route) })
}

/// The cheaper route. The campaigns are counted first, since that takes few calls. Contacts are sampled only if the contact
/// route could still win.
fn choose_by_cost(
    run: &mut Run,
    fetched: &mut Fetched,
    readings: &[Reading],
    was_by_campaign: bool,
) -> Result<(Route, Reason, Cost)> {
    let page_size = u64::from(run.config.page_size);
    let by_campaign = match cost_by_campaign(run, fetched, readings) {
        Ok(cost) => cost,
        Err(Error::Forbidden(why)) if was_by_campaign => {
            // Read contact by contact, rows that are written again would lose what only the other route fills.
            return Err(Error::Forbidden(format!(
                "{why}: earlier runs read campaign by campaign, and contact by contact would clear {} in rows that are \
                 written again. Log in again and allow the campaigns; or, to accept that, set activity_route to contacts",
                route::only_by_campaign()
            )));
        }
        Err(Error::Forbidden(why)) => {
            let cost = cost_by_contact(run, fetched, readings)?;
            let by_campaign = fetched.sampled.campaign_calls(page_size);
            return Ok((Route::Contacts, Reason::Refused { why, by_campaign }, cost));
        }
        Err(e) => return Err(e),
    };
    let (contacts, _) = contacts::count(run.client, run.config)?;
    let listing = contacts.div_ceil(page_size);
    let reports = readings.iter().map(|reading| estimate_from_counts(run, fetched, reading, contacts).at_least());
    let least = Calls::AtLeast(listing + reports.sum::<u64>());
    if let (Route::Campaigns, reason) = route::choose(least, by_campaign.calls, was_by_campaign) {
        return Ok((Route::Campaigns, reason, by_campaign));
    }
    let by_contact = cost_by_contact(run, fetched, readings)?;
    let calls = Calls::About(by_contact.calls + listing);
    Ok(match route::choose(calls, by_campaign.calls, was_by_campaign) {
        (Route::Contacts, reason) => (Route::Contacts, reason, by_contact),
        (Route::Campaigns, reason) => (Route::Campaigns, reason, by_campaign),
    })
}

/// What the contact route costs. Lists the contacts, and reads a sample of them.
fn cost_by_contact(run: &mut Run, fetched: &mut Fetched, readings: &[Reading]) -> Result<Cost> {
    let contacts = fetched.contacts(run)?;
    let mut cost = Cost::default();
    for reading in readings {
        let unread: Vec<Id> = contacts.list.iter().filter(|id| reading.is_unread(id)).cloned().collect();
        let before = run.client.calls();
        let rows = if reading.is_summary() {
            let fetch = fetched.summaries(reading);
            sample(run, fetched, reading, &unread, &fetch)?
        } else {
            let fetch = fetched.details(run, reading);
            sample(run, fetched, reading, &unread, &fetch)?
        };
        cost.made += run.client.calls().saturating_sub(before);
        // If contacts fill more than a page, the few calls that count all rows make the plan more exact.
        let page = contact_fetch::rows_a_page(run, reading);
        let is_worth_it = unread.len() > 5 * CONTACT_SAMPLE && rows.iter().any(|rows| *rows > page / 2);
        if is_worth_it && fetched.counted.is_none() {
            match due_campaigns(run, fetched, readings) {
                Ok(_) | Err(Error::Forbidden(_)) => {}
                Err(e) => return Err(e),
            }
        }
        let mut report = estimate_from_counts(run, fetched, reading, unread.len() as u64);
        report.least_calls *= contact_fetch::calls_without_rows(reading, fetched.must_split.load(Ordering::Relaxed));
        report.sample = rows;
        fetched.planned_calls.insert(reading.stream.name, report.calls());
        cost.calls += report.calls();
    }
    let are_looked_up = readings.iter().any(|reading| run.wants(reading.stream, &["campaign_id"]));
    let (sampled, sent) = (fetched.sampled.activities.len() as u64, fetched.campaigns.sent_count());
    if are_looked_up {
        cost.calls += estimate::lookups(sampled, sent.saturating_sub(sampled));
    }
    fetched.campaign_ids.expect(fetched.sampled.activities.iter().cloned());
    Ok(cost)
}

/// A report on the contact route without a sample.
fn estimate_from_counts(run: &Run, fetched: &Fetched, reading: &Reading, contacts: u64) -> ContactEstimate {
    // The counts include every row of a campaign and every contact, so they do not fit a read of less.
    let is_part = reading.resume.is_some()
        || reading.is_bounded
        || !run.config.contact_ids.is_empty()
        || !run.config.reads_all_contacts();
    let counted = fetched.counted.filter(|_| !is_part);
    let rows = counted.map(|counted| if reading.is_summary() { counted.sends } else { counted.chosen });
    let page = contact_fetch::rows_a_page(run, reading);
    ContactEstimate { contacts, rows_a_page: page, least_calls: contacts, rows, sample: Vec::new() }
}

/// What the sample of contacts has shown.
#[derive(Default)]
pub(super) struct Sampled {
    activities: BTreeSet<Id>,
    rows: u64,
    contacts: u64,
    /// How many contacts the sample was taken from.
    all_contacts: u64,
}

impl Sampled {
    /// An estimate of the campaign route's calls, from the sample of contacts alone.
    fn campaign_calls(&self, page_size: u64) -> u64 {
        let rows = estimate::scaled(self.rows, self.all_contacts, self.contacts);
        estimate::campaign_calls_of(self.activities.len() as u64, rows, page_size)
    }
}

/// Reads a sample of contacts, evenly spread over the order of their ids. Keeps their pages for the read, and returns the
/// number of rows of each.
fn sample<T: ContactRow>(
    run: &Run,
    fetched: &mut Fetched,
    reading: &Reading,
    contacts: &[Id],
    fetch: &Arc<ContactFetch<T>>,
) -> Result<Vec<u64>> {
    let size = sample_size(run, CONTACT_SAMPLE);
    let chosen: Vec<Id> = spread_over(contacts.len(), size).map(|at| contacts[at].clone()).collect();
    let mut counts = Vec::with_capacity(chosen.len());
    // If the range is long, the first contact shows whether the service accepts it.
    let first = if contact_fetch::asks_long_range(reading) { chosen.len().min(1) } else { 0 };
    for some in [&chosen[..first], &chosen[first..]] {
        let (client, fetching) = (Arc::clone(run.client), Arc::clone(fetch));
        let (mut pages, mut rows) = (Vec::new(), 0);
        let from = move |priority: usize, id: &Id, push: &mut dyn FnMut(Page<T>) -> bool| {
            fetching.fetch(&client, priority, id, push)
        };
        let weigh = |page: &Page<T>| page.weight;
        fanout::in_order(some.to_vec(), run.client.workers(), weigh, from, |id, step| {
            match step {
                Step::Item(page) => {
                    rows += page.rows.len() as u64;
                    let of_emails = page.rows.iter().filter(|row| !row.is_of_landing_page());
                    fetched.sampled.activities.extend(of_emails.map(|row| Id::from(row.activity())));
                    pages.push(page);
                }
                Step::End(outcome @ (Ok(()) | Err(Error::NotFound(_)))) => {
                    counts.push(std::mem::take(&mut rows));
                    fetch.keep(id.clone(), std::mem::take(&mut pages), outcome);
                }
                Step::End(outcome) => outcome?,
            }
            Ok(())
        })?;
    }
    let sampled = &mut fetched.sampled;
    sampled.rows = counts.iter().sum();
    (sampled.contacts, sampled.all_contacts) = (counts.len() as u64, contacts.len() as u64);
    Ok(counts)
}

/// How many things to sample: `most`, or what the calls that are left allow.
fn sample_size(run: &Run, most: usize) -> usize {
    let affordable = run.client.calls_left() / PART_FOR_A_SAMPLE;
    usize::try_from(affordable).map_or(most, |affordable| affordable.clamp(1, most))
}

/// Positions of at most `some` of `all` things, evenly spread, the first and the last among them.
pub(super) fn spread_over(all: usize, some: usize) -> impl Iterator<Item = usize> {
    let count = some.min(all);
    (0..count).map(move |n| if count < 2 { 0 } else { n * (all - 1) / (count - 1) })
}

/// What the campaign route costs. Lists and counts the campaigns, and reads the details of some.
fn cost_by_campaign(run: &mut Run, fetched: &mut Fetched, readings: &[Reading]) -> Result<Cost> {
    let mut campaigns = due_campaigns(run, fetched, readings)?;
    let before = run.client.calls();
    let size = sample_size(run, CAMPAIGN_SAMPLE);
    let sample = spread_over(campaigns.len(), size);
    fetched.campaigns.fetch_activities(run.client, &mut campaigns, sample)?;
    let made = run.client.calls().saturating_sub(before);
    let page_size = u64::from(run.config.page_size);
    let mut calls = estimate::campaign_calls(&campaigns, page_size);
    // To leave out contacts of other statuses, the wanted ones must be listed.
    if !run.config.reads_all_contacts() && fetched.contacts.is_none() {
        let (contacts, _) = contacts::count(run.client, run.config)?;
        calls += contacts.div_ceil(page_size);
    }
    let detailed = campaigns.into_iter().filter(|campaign| !campaign.has_details).map(|campaign| campaign.id).collect();
    fetched.planned_calls.insert(BOTH_REPORTS, calls);
    Ok(Cost { calls, made, detailed })
}

/// How many rows the campaigns to read have, according to the service's counts.
#[derive(Clone, Copy)]
pub(super) struct CountedRows {
    sends: u64,
    /// Rows of the types that the settings select.
    chosen: u64,
}

/// The campaigns that may have rows for these reports. Also counts their rows, for [`estimate_from_counts`].
pub(super) fn due_campaigns(run: &Run, fetched: &mut Fetched, readings: &[Reading]) -> Result<Vec<DueCampaign>> {
    let criteria = Criteria {
        demands: readings.iter().map(|reading| reading.demand(run.config)).collect(),
        types: run.config.tracking_activity_types.clone(),
        now: run.client.run_start()?,
        lookback: TimeDelta::days(i64::from(run.config.activity_lookback_days)),
    };
    let campaigns = fetched.campaigns.choose(run.client, run.config, &criteria)?;
    let rows_of = |types: &[ActivityType]| {
        let reports = campaigns.iter().flat_map(|campaign| &campaign.reports);
        reports.filter(|report| types.contains(&report.activity_type)).map(|report| report.rows).sum()
    };
    fetched.counted = Some(CountedRows { sends: rows_of(&[ActivityType::Sends]), chosen: rows_of(&criteria.types) });
    Ok(campaigns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_has_the_first_and_the_last_and_what_is_evenly_between_them() {
        let spread = |all, some| spread_over(all, some).collect::<Vec<_>>();
        assert_eq!(spread(101, 3), [0, 50, 100]);
        assert_eq!(spread(3, 20), [0, 1, 2]);
        assert_eq!((spread(9, 1), spread(0, 5)), (vec![0], vec![]));
    }
}
