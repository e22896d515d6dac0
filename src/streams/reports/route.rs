//! Which route a report of the whole account takes, and what it will cost: decided and told before it begins.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use indicatif::HumanDuration;

use super::by_campaign::{Kind, kinds};
use super::{DETAILS, Reading, SUMMARY};
use crate::client::Client;
use crate::config::{Config, Route, Word};
use crate::error::{Error, Result};
use crate::id::Id;
use crate::quota::{DAILY_QUOTA, share_of_quota};
use crate::run::Run;
use crate::stream::Stream;
use crate::streams::campaigns::{Campaigns, Summary};
use crate::streams::{Found, Shared, contacts};

/// What a run has learnt of the account's campaigns.
#[derive(Default)]
pub(crate) struct Survey {
    pub(in crate::streams) campaigns: Campaigns,
    route: Option<Route>,
}

/// How many contacts have a row of a kind. A count that is not sent says nothing: it must not be taken for "none".
fn unique(summary: &Summary, kind: Kind) -> u64 {
    let count = summary.unique_counts.as_ref().and_then(|counts| {
        let count = match kind {
            Kind::Sends => counts.sends,
            Kind::Opens => counts.opens,
            Kind::Clicks => counts.clicks,
            Kind::Bounces => counts.bounces,
            Kind::Optouts => counts.optouts,
            Kind::Forwards => counts.forwards,
        };
        count.0
    });
    count.map_or(1, i64::unsigned_abs)
}

/// A campaign whose reports are to be looked at, with the kinds of them.
pub(super) struct Candidate {
    pub(super) id: Id,
    pub(super) name: Option<Box<str>>,
    /// Whether each reading, in their order, is to look at it.
    pub(super) wanted: Vec<bool>,
    pub(super) kinds: Vec<Kind>,
    pub(super) calls: u64,
    /// Whether it is known to have been sent; one that was removed may have been a draft.
    pub(super) sent: bool,
}

/// What a report needs of the campaigns.
pub(super) struct Scope {
    /// Counts every row of a campaign activity, and does not stop at a lower bound.
    pub(super) counts: bool,
    /// A campaign that was last sent before this has nothing for it.
    pub(super) floor: Option<DateTime<Utc>>,
    /// A campaign made after this has nothing for it.
    pub(super) before: Option<DateTime<Utc>>,
    /// Takes but the rows of each report from here on: of a campaign last sent before, what came late.
    pub(super) stops: Option<DateTime<Utc>>,
}

/// The route of a report: as set, as begun, or the cheaper one.
pub(super) fn route(run: &mut Run, shared: &mut Shared, stream: &Stream, readings: &[Reading]) -> Result<Route> {
    if let Some(route) = run.config.activity_route.fixed() {
        return Ok(route);
    }
    // What was begun goes on by its route, and the other report with it.
    let own_first = readings.iter().filter(|reading| reading.stream.name == stream.name).chain(readings);
    if let Some(route) = own_first.into_iter().find_map(|reading| reading.resume.as_ref()?.route) {
        return Ok(route);
    }
    if let Some(route) = shared.survey.route {
        return Ok(route);
    }
    let route = if only_by_contact(run.config, run.selects(&DETAILS.stream)) {
        Route::Contacts
    } else {
        let (contacts, _) = contacts::count(run.client, run.config)?;
        let now = run.client.run_start()?;
        let scopes: Vec<Scope> = readings.iter().map(|reading| reading.scope(run.config)).collect();
        let (route, calls) = shared.survey.cheaper(run.client, run.config, now, contacts, &scopes)?;
        log::info!(
            "plan: the contact reports of {contacts} contacts by the {} route, {}",
            name(route),
            cost(run.config, calls)
        );
        route
    };
    shared.survey.route = Some(route);
    Ok(route)
}

/// Says how many calls a read is going to make, unless the choice of its route has told that.
pub(super) fn tell(run: &Run, shared: &Shared, what: &str, route: Route, calls: u64) {
    run.progress.planned(calls);
    if shared.survey.route.is_none() {
        log::info!("plan: {what} by the {} route, {}", name(route), cost(run.config, calls));
    }
}

/// Whether there is but the contact route: for contacts that are named, and for landing pages.
fn only_by_contact(config: &Config, details: bool) -> bool {
    let landing_pages = config.tracking_activity_types.iter().any(|kind| kind.is_of_landing_pages());
    !config.contact_ids.is_empty() || (landing_pages && details)
}

fn name(route: Route) -> &'static str {
    match route {
        Route::Contacts => "contact",
        Route::Campaigns => "campaign",
    }
}

/// A number of calls in words that say what they mean.
fn cost(config: &Config, calls: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let seconds = Duration::from_secs_f64((calls as f64 / config.requests_per_second).ceil());
    let share = share_of_quota(calls);
    let days = match calls.div_ceil(DAILY_QUOTA) {
        0 | 1 => String::new(),
        days => format!(", {days} days"),
    };
    format!("about {calls} calls: {} at the pace, {share} % of the daily quota{days}", HumanDuration(seconds))
}

/// What a full read of these streams would cost, in words; some of them may not be countable.
///
/// # Errors
/// What ends a run.
pub(crate) fn full_read(client: &Arc<Client>, config: &Config, streams: &[&str], found: &mut Found) -> Result<String> {
    let pages = |rows: Option<u64>| rows.unwrap_or(0).div_ceil(u64::from(config.page_size)).max(1);
    let mut calls = 0;
    let mut scopes = Vec::new();
    for stream in streams {
        match *stream {
            // The SMS lists are a listing of their own.
            "contact_lists" => calls += pages(found.lists) + 1,
            "email_campaigns" => calls += pages(found.campaigns),
            "contacts" => calls += pages(found.contacts),
            report => {
                let counts = report == SUMMARY.stream.name;
                scopes.push(Scope { counts, floor: None, before: None, stops: None });
            }
        }
    }
    if scopes.is_empty() {
        return Ok(cost(config, calls));
    }
    let contacts = found.contacts.unwrap_or(0);
    let reports = scopes.len() as u64;
    let forced = config.activity_route.fixed() == Some(Route::Contacts)
        || only_by_contact(config, streams.contains(&DETAILS.stream.name));
    let (route, more) = if forced {
        let given = config.contact_ids.len() as u64;
        (Route::Contacts, reports * if given > 0 { given } else { contacts + pages(found.contacts) })
    } else {
        found.survey.cheaper(client, config, client.run_start()?, contacts, &scopes)?
    };
    Ok(format!("{}, the contact reports by the {} route", cost(config, calls + more), name(route)))
}

impl Survey {
    /// The cheaper route for these reports of the whole account, and its calls.
    fn cheaper(
        &mut self,
        client: &Arc<Client>,
        config: &Config,
        now: DateTime<Utc>,
        contacts: u64,
        scopes: &[Scope],
    ) -> Result<(Route, u64)> {
        let listing = contacts.div_ceil(u64::from(config.page_size));
        let by_contacts = (contacts + listing) * scopes.len() as u64;
        let by_campaigns = match self.candidates(client, config, now, scopes) {
            Ok(candidates) => candidates.iter().map(|candidate| candidate.calls).sum(),
            Err(Error::Forbidden(why)) if config.activity_route.fixed().is_none() => {
                log::info!("the campaigns' reports may not be read ({why}): the contact route is left");
                u64::MAX
            }
            Err(e) => return Err(e),
        };
        let by_contact = config.activity_route.fixed() != Some(Route::Campaigns) && by_contacts <= by_campaigns;
        Ok(if by_contact { (Route::Contacts, by_contacts) } else { (Route::Campaigns, by_campaigns) })
    }

    /// The campaigns that the reports have to look at.
    pub(super) fn candidates(
        &mut self,
        client: &Arc<Client>,
        config: &Config,
        now: DateTime<Utc>,
        scopes: &[Scope],
    ) -> Result<Vec<Candidate>> {
        let (listing, summaries) = (self.campaigns.listing(client, config)?, self.campaigns.summaries(client, config)?);
        let lookback = TimeDelta::days(i64::from(config.activity_lookback_days));
        let mut found = Vec::new();
        for (id, listed) in &listing.campaigns {
            let campaign = &listed.campaign;
            let counted = summaries.sent.get(id);
            // A campaign that was sent and is not counted yet has an unknown date; it is looked at.
            if counted.is_none() && campaign.is_unsent() {
                continue;
            }
            let last = counted.and_then(|sent| sent.last_sent_date.instant());
            let created_at = campaign.created_at.instant();
            let removed = campaign.updated_at.instant().filter(|_| campaign.is_removed());
            // After it was removed, nothing was sent.
            let last_possible = last.or(removed.filter(|_| counted.is_none()));
            let wanted: Vec<bool> = scopes
                .iter()
                .map(|scope| {
                    let too_new = scope.before.zip(created_at).is_some_and(|(before, at)| at >= before);
                    let too_old = last_possible.zip(scope.floor).is_some_and(|(last, floor)| last < floor);
                    !too_new && !too_old
                })
                .collect();
            if !wanted.contains(&true) {
                continue;
            }
            let counts_all = scopes.iter().zip(&wanted).any(|(scope, wanted)| *wanted && scope.counts);
            // The counts may lag behind the rows: only those of a campaign that rests are believed.
            let rests = last.is_some_and(|last| now - last > lookback.max(TimeDelta::days(1)));
            let kinds: Vec<Kind> = kinds()
                .filter(|kind| counts_all || config.tracking_activity_types.iter().any(|t| t.as_str() == kind.name()))
                .filter(|kind| !(rests && counted.is_some_and(|sent| unique(sent, *kind) == 0)))
                .collect();
            // Nothing is asked about a campaign of which there is nothing to read.
            if kinds.is_empty() {
                continue;
            }
            let came_late = |scope: &Scope| scope.stops.zip(last).is_some_and(|(from, last)| last < from);
            let stops = !counts_all && scopes.iter().all(came_late);
            let pages = |kind: &Kind| {
                let rows = counted.map_or(0, |sent| unique(sent, *kind));
                if stops { 1 } else { rows.div_ceil(u64::from(config.page_size)).max(1) }
            };
            found.push(Candidate {
                id: id.clone(),
                name: campaign.name.0.clone(),
                wanted,
                sent: counted.is_some() || removed.is_none(),
                calls: 1 + kinds.iter().map(pages).sum::<u64>(),
                kinds,
            });
        }
        Ok(found)
    }
}
