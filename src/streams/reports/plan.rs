//! The plan of the contact reports: their route and its cost. It is made once per run, before the first record.
//!
//! Making it takes API calls: the campaigns are listed and counted, and some contacts and campaigns are read as a sample.
//! It makes as few as the choice needs, and keeps the answers, so that the read does not repeat them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::TimeDelta;

use super::by_contact::ContactRow;
use super::contact_fetch::{self, ContactFetch};
use super::due_campaigns::{Criteria, DueCampaign};
use super::newest_first::Part;
use super::reading::Reading;
use super::route::{self, ContactEstimate, Reason};
use super::{DETAILS, Fetched};
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
    /// The calls of the read itself, including those for the sample.
    read_calls: u64,
    /// The calls of each report on the contact route, which reads them one after the other.
    pub(super) report_calls: Vec<(&'static str, u64)>,
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
    report_calls: Vec<(&'static str, u64)>,
    /// The campaigns whose details it counts.
    detailed: Vec<Id>,
}

/// The route that was chosen, and why.
struct Choice {
    route: Route,
    reason: Reason,
    cost: Cost,
    other: Option<Other>,
}

/// The calls that the other route takes.
#[derive(Clone, Copy)]
enum Other {
    About(u64),
    /// At least this many, so it cannot be chosen, and was not looked at more closely.
    AtLeast(u64),
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Other::About(calls) => write!(f, "about {calls}"),
            Other::AtLeast(calls) => write!(f, "at least {calls}"),
        }
    }
}

impl Choice {
    /// Warns about a route that costs more than it could, or that loses columns. `leaves_campaigns` says whether earlier
    /// runs took the campaign route and this one does not.
    fn warn(&self, leaves_campaigns: bool) {
        let (calls, other) = (self.cost.calls, self.other.unwrap_or(Other::About(0)));
        match &self.reason {
            Reason::Refused(why) => log::warn!(
                "campaign reports are refused ({why}); falling back to the contact route: about {calls} calls, instead of \
             {other}. To save them, log in again and allow the scope campaign_data"
            ),
            Reason::Savings => log::warn!(
                "the contact reports change to the contact route: about {calls} calls, instead of {other}. It does not \
             fill {}, so rows that are written again lose them. To keep the campaign route, set activity_route to campaigns",
                only_by_campaign()
            ),
            Reason::NamedContacts | Reason::LandingPages if leaves_campaigns => log::warn!(
                "the contact reports change to the contact route ({}). It does not fill {}, so rows that are written again \
             lose them. To keep them, give such runs a state file and target tables of their own",
                if self.reason == Reason::NamedContacts {
                    "contact_ids is set"
                } else {
                    "only it has landing pages (p_*)"
                },
                only_by_campaign()
            ),
            _ => {}
        }
    }

    /// Route and reason.
    fn words(&self) -> String {
        let name = match self.route {
            Route::Contacts => "contact",
            Route::Campaigns => "campaign",
        };
        let other = self.other.unwrap_or(Other::About(0));
        let why = match &self.reason {
            Reason::Setting => "set by activity_route".to_owned(),
            Reason::Interrupted => "to continue the interrupted read".to_owned(),
            Reason::NamedContacts => "because contact_ids is set".to_owned(),
            Reason::LandingPages => "the only one for landing pages (p_*)".to_owned(),
            Reason::Cost if self.route == Route::Contacts => format!("the campaign route takes {other} calls"),
            Reason::Cost => format!("it fills more columns; the contact route takes {other} calls"),
            Reason::Bookmark => "as in earlier runs".to_owned(),
            Reason::Savings | Reason::Refused(_) => "see the warning".to_owned(),
        };
        format!("the contact reports by the {name} route ({why})")
    }
}

/// The plan of this run; the first call makes it.
///
/// # Errors
/// `Forbidden` if the service refuses both routes; otherwise what ends the run.
pub(super) fn of<'s>(run: &mut Run, shared: &'s mut Shared) -> Result<&'s Plan> {
    let fetched = &mut shared.reports;
    if fetched.plan.is_none() {
        let plan = make(run, fetched)?;
        fetched.plan = Some(plan);
    }
    Ok(fetched.plan.as_ref().expect("it was just made"))
}

fn make(run: &mut Run, fetched: &mut Fetched) -> Result<Plan> {
    run.client.run_start()?;
    let before = run.client.calls();
    let readings = super::readings(run)?;
    let choice = match fixed_route(run, &readings) {
        Some((route, reason)) => {
            let cost = match route {
                Route::Contacts => cost_by_contact(run, fetched, &readings)?,
                Route::Campaigns => cost_by_campaign(run, fetched, &readings)?,
            };
            Choice { route, reason, cost, other: None }
        }
        None => choose_by_cost(run, fetched, &readings)?,
    };
    let leaves_campaigns = choice.route == Route::Contacts
        && readings.iter().any(|reading| reading.previous_route(run) == Some(Route::Campaigns));
    choice.warn(leaves_campaigns);
    let (route, words, cost) = (choice.route, choice.words(), choice.cost);
    fetched.campaigns.known.plan_details_of_reports(cost.detailed.into_iter());
    // The calls that made the plan and that the read does not need.
    let extra = run.client.calls().saturating_sub(before).saturating_sub(cost.made);
    Ok(Plan { route, calls: extra + cost.calls, read_calls: cost.calls, report_calls: cost.report_calls, words })
}

/// The route, if something other than cost decides it.
fn fixed_route(run: &Run, readings: &[Reading]) -> Option<(Route, Reason)> {
    if let Some(route) = run.config.activity_route.fixed() {
        return Some((route, Reason::Setting));
    }
    if let Some(route) = readings.iter().find_map(|reading| reading.resume.as_ref()?.route) {
        return Some((route, Reason::Interrupted));
    }
    if !run.config.contact_ids.is_empty() {
        return Some((Route::Contacts, Reason::NamedContacts));
    }
    let landing_pages = run.config.tracking_activity_types.iter().any(|kind| kind.is_of_landing_pages());
    if landing_pages && run.selects(&DETAILS.stream) {
        return Some((Route::Contacts, Reason::LandingPages));
    }
    // The other report was read on this route in an earlier run of the round.
    readings.iter().find_map(|reading| reading.round_route).map(|route| (route, Reason::Interrupted))
}

/// The cheaper route. The campaigns are counted first, since that takes few calls. Contacts are sampled only if the contact
/// route could still win.
fn choose_by_cost(run: &mut Run, fetched: &mut Fetched, readings: &[Reading]) -> Result<Choice> {
    let previous = readings.iter().find_map(|reading| reading.previous_route(run));
    if previous == Some(Route::Contacts) {
        let cost = cost_by_contact(run, fetched, readings)?;
        return Ok(Choice { route: Route::Contacts, reason: Reason::Bookmark, cost, other: None });
    }
    let by_campaign = match cost_by_campaign(run, fetched, readings) {
        Ok(cost) => cost,
        Err(Error::Forbidden(why)) if previous == Some(Route::Campaigns) => {
            // Read contact by contact, rows that are written again would lose what only the other route fills.
            return Err(Error::Forbidden(format!(
                "{why}: earlier runs read campaign by campaign, and contact by contact would clear {} in rows that are \
                 written again. Log in again and allow the campaigns; or, to accept that, set activity_route to contacts",
                only_by_campaign()
            )));
        }
        Err(Error::Forbidden(why)) => {
            let cost = cost_by_contact(run, fetched, readings)?;
            let other = Some(Other::About(fetched.sampled.campaign_calls(u64::from(run.config.page_size))));
            return Ok(Choice { route: Route::Contacts, reason: Reason::Refused(why), cost, other });
        }
        Err(e) => return Err(e),
    };
    let (contacts, _) = contacts::count(run.client, run.config)?;
    let listing = contacts.div_ceil(u64::from(run.config.page_size));
    let reports = readings.iter().map(|reading| estimate_from_counts(run, fetched, reading, contacts));
    let least = listing + reports.map(|report| report.at_least()).sum::<u64>();
    if !route::can_contact_route_win(least, by_campaign.calls, previous) {
        let (route, reason) = route::choose(least, by_campaign.calls, previous);
        return Ok(Choice { route, reason, cost: by_campaign, other: Some(Other::AtLeast(least)) });
    }
    let by_contact = cost_by_contact(run, fetched, readings)?;
    let (route, reason) = route::choose(by_contact.calls + listing, by_campaign.calls, previous);
    let (cost, other) = match route {
        Route::Contacts => (by_contact, by_campaign.calls),
        Route::Campaigns => (by_campaign, by_contact.calls + listing),
    };
    Ok(Choice { route, reason, cost, other: Some(Other::About(other)) })
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
            sample(run, fetched, &unread, &fetch)?
        } else {
            let fetch = fetched.details(run, reading);
            sample(run, fetched, &unread, &fetch)?
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
        report.least_calls *= contact_fetch::least_calls(reading, fetched.must_split.load(Ordering::Relaxed));
        report.sample = rows;
        cost.report_calls.push((reading.stream.name, report.calls()));
    }
    let of_reports: u64 = cost.report_calls.iter().map(|(_, calls)| calls).sum();
    let are_looked_up = readings.iter().any(|reading| run.wants(reading.stream, &["campaign_id"]));
    let (sampled, sent) = (fetched.sampled.activities.len() as u64, fetched.campaigns.sent_count());
    cost.calls = of_reports + if are_looked_up { route::lookups(sampled, sent.saturating_sub(sampled)) } else { 0 };
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
    of: u64,
}

impl Sampled {
    /// An estimate of the campaign route's calls, from the sample of contacts alone.
    fn campaign_calls(&self, page_size: u64) -> u64 {
        let rows = route::scaled(self.rows, self.of, self.contacts);
        route::campaign_calls_of(self.activities.len() as u64, rows, page_size)
    }
}

/// Reads a sample of contacts, evenly spread over the order of their ids. Keeps their pages for the read, and returns the
/// number of rows of each.
fn sample<T: ContactRow>(
    run: &Run,
    fetched: &mut Fetched,
    contacts: &[Id],
    fetch: &Arc<ContactFetch<T>>,
) -> Result<Vec<u64>> {
    let size = sample_size(run, CONTACT_SAMPLE);
    let chosen: Vec<Id> = spread_over(contacts.len(), size).map(|at| contacts[at].clone()).collect();
    let mut counts = Vec::with_capacity(chosen.len());
    // If the range is long, the first contact shows whether the service accepts it.
    let first = if fetch.asks_long_range() { chosen.len().min(1) } else { 0 };
    for some in [&chosen[..first], &chosen[first..]] {
        let (client, fetching) = (Arc::clone(run.client), Arc::clone(fetch));
        let (mut parts, mut rows) = (Vec::new(), 0);
        let from = move |priority: usize, id: &Id, push: &mut dyn FnMut(Part<T>) -> bool| {
            fetching.fetch(&client, priority, id, push)
        };
        let weigh = |part: &Part<T>| part.page.weight;
        fanout::in_order(some.to_vec(), run.client.workers(), weigh, from, |id, step| {
            match step {
                Step::Item(part) => {
                    rows += part.page.rows.len() as u64;
                    let of_emails = part.page.rows.iter().filter(|row| !row.is_of_landing_page());
                    fetched.sampled.activities.extend(of_emails.map(|row| Id::from(row.activity())));
                    parts.push(part);
                }
                Step::End(outcome @ (Ok(()) | Err(Error::NotFound(_)))) => {
                    counts.push(std::mem::take(&mut rows));
                    fetch.keep(id.clone(), std::mem::take(&mut parts), outcome);
                }
                Step::End(outcome) => outcome?,
            }
            Ok(())
        })?;
    }
    fetched.sampled.rows = counts.iter().sum();
    (fetched.sampled.contacts, fetched.sampled.of) = (counts.len() as u64, contacts.len() as u64);
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
    let some: Vec<Id> = spread_over(campaigns.len(), size).map(|at| campaigns[at].id.clone()).collect();
    fetched.campaigns.known.learn_details(run.client, &some)?;
    let made = run.client.calls().saturating_sub(before);
    fetched.campaigns.note_activities(&mut campaigns);
    let mut calls = route::campaign_calls(&campaigns, u64::from(run.config.page_size));
    // To leave out contacts of other statuses, the wanted ones must be listed.
    if !run.config.reads_all_contacts() && fetched.contacts.is_none() {
        let (contacts, _) = contacts::count(run.client, run.config)?;
        calls += contacts.div_ceil(u64::from(run.config.page_size));
    }
    let detailed = campaigns.into_iter().filter(|campaign| !campaign.has_details).map(|campaign| campaign.id).collect();
    Ok(Cost { calls, made, detailed, ..Cost::default() })
}

/// How many rows the campaigns to read have, according to the service's counts.
#[derive(Clone, Copy)]
pub(super) struct CountedRows {
    sends: u64,
    /// Rows of the types that the settings select.
    chosen: u64,
}

/// The campaigns that may have rows for these reports.
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

/// How many calls it takes until the first activity is read: all details, since the activities are read in the order of
/// their ids, and the reports of the largest campaign.
pub(super) fn calls_to_progress(run: &Run, campaigns: &[DueCampaign]) -> u64 {
    let page_size = u64::from(run.config.page_size);
    let reports =
        |campaign: &DueCampaign| campaign.reports.iter().map(|report| report.rows.div_ceil(page_size).max(1)).sum();
    let details = campaigns.iter().filter(|campaign| campaign.tracked_activities.is_none()).count() as u64;
    details + campaigns.iter().map(reports).max().unwrap_or(0)
}

/// Logs a corrected cost if the campaigns have more activities than the sample showed.
pub(super) fn log_new_estimate(run: &Run, fetched: &Fetched, campaigns: &[DueCampaign]) {
    let Some(plan) = &fetched.plan else { return };
    let calls = route::campaign_calls(campaigns, u64::from(run.config.page_size));
    // The details of all of them have just been fetched.
    let made = campaigns.iter().filter(|campaign| !campaign.has_details).count() as u64;
    run.progress.expect_calls(calls.saturating_sub(made));
    if calls > plan.read_calls + plan.read_calls / 10 {
        let cost = route::cost(calls, run.config.requests_per_second);
        log::info!("new estimate: the contact reports take {cost}, not {}", plan.read_calls);
    }
}

fn only_by_campaign() -> String {
    DETAILS.stream.only_by_campaign.join(", ")
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
