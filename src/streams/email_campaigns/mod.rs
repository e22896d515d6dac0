//! `email_campaigns`: `GET /emails`, including drafts and removed campaigns, with the service's counts, the activities
//! and the primary e-mail of each.

pub(super) mod record;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, LazyLock};

use chrono::{DateTime, TimeDelta, Utc};
use schemars::JsonSchema;
use serde::Deserialize;

use super::campaigns::{self, CampaignCache, CampaignListing, PageOddities, Summaries, Summary, named};
use super::page::list;
use super::{Probe, Probed, Shared, Source, selects_reports};
use crate::client::{Client, Oddities};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::extent::Filter;
use crate::fanout;
use crate::field::{Integer, Key, Text};
use crate::id::Id;
use crate::run::Run;
use crate::schema;
use crate::state::{Resume, Start};
use crate::stream::{FieldNeeds, Needs, Stream};
use crate::timestamp::stamp;
use record::EmailCampaign;

/// Changes can become visible up to this long after their `updated_at`.
const OVERLAP: TimeDelta = TimeDelta::minutes(5);

pub(super) static SOURCE: Source = Source {
    stream: Stream {
        name: "email_campaigns",
        keys: &["campaign_id"],
        replication_key: Some("updated_at"),
        schema: LazyLock::new(schema::of::<EmailCampaign>),
        needs: Needs { scopes: &["campaign_data"], privileges: &["campaign:read"] },
        narrowed_by: |_| Filter::default(),
        bookmark_keys: &["deselected", "read_from", "resume_since", "resume_until", "resume_after"],
        only_by_campaign: &[],
        field_needs: &[FieldNeeds { fields: &COUNTS, needs: &METRICS }],
    },
    probe: Probe::Listing("campaigns", count),
    cost,
    read,
};

/// The service gives no count of campaigns, so they are listed, 500 per call.
fn count(client: &Arc<Client>, config: &Config, found: &mut Probed) -> Result<Option<u64>> {
    let cache = &mut found.shared.reports.campaigns.cache;
    Ok(Some(cache.listing(client, config, None)?.campaigns.len() as u64))
}

/// What the selected fields need beyond the listing.
#[derive(Clone, Copy, Default)]
struct Extras {
    /// The service's counts, 500 campaigns per call.
    counts: bool,
    /// The activities, one call per campaign.
    details: bool,
    /// The primary e-mail, one more call per campaign.
    email: bool,
}

/// What the counts need, and the look-up of an activity's campaign.
pub(super) const METRICS: Needs = Needs { scopes: &["campaign_data"], privileges: &["ui:campaign:metrics"] };

const COUNTS: [&str; 9] = [
    "last_sent_date",
    "unique_sends",
    "unique_opens",
    "unique_clicks",
    "unique_bounces",
    "unique_optouts",
    "unique_forwards",
    "unique_abuse",
    "unique_not_opened",
];
const EMAIL: [&str; 7] =
    ["subject", "preheader", "from_name", "from_email", "reply_to_email", "contact_list_ids", "segment_ids"];

impl Extras {
    fn selected(run: &Run) -> Extras {
        let wants = |field: &&str| run.wants(&SOURCE.stream, &[field]);
        let email = EMAIL.iter().any(wants);
        // Only the details say which e-mail is the primary one.
        Extras { counts: COUNTS.iter().any(wants), details: email || wants(&"campaign_activities"), email }
    }
}

/// A campaign to write.
struct Chosen {
    /// Its row of the listing; `None` for a campaign that is in the summaries but not in the listing.
    listed: Option<campaigns::ListedCampaign>,
    summary: Option<Summary>,
    wanted: Extras,
    /// Its details, or why the service refused them, if another stream has fetched them already.
    details: Option<Result<Arc<EmailCampaign>>>,
}

impl Chosen {
    /// Whether its details are needed. They always are for a campaign that is not listed.
    fn needs_details(&self) -> bool {
        self.wanted.details || self.listed.is_none()
    }

    /// How many calls it takes. `is_fetched` says whether the reports fetch its details.
    fn calls(&self, is_fetched: bool) -> u64 {
        u64::from(self.needs_details() && self.details.is_none() && !is_fetched) + u64::from(self.wanted.email)
    }
}

/// What was fetched for one campaign.
struct Answers {
    /// Its details, or why the service refuses them; `None` if they were not needed.
    details: Option<Result<Arc<EmailCampaign>>>,
    /// Its primary e-mail, or why the service refuses it; `None` if it was not needed or there is none.
    email: Option<Result<Mailing>>,
    /// When the last answer came; `None` if no call was made.
    extracted: Option<String>,
    oddities: Vec<Oddities>,
}

/// The e-mail of an activity: `GET /emails/activities/{id}`.
#[derive(Deserialize, JsonSchema)]
struct Mailing {
    #[serde(rename = "campaign_activity_id")]
    _id: Key,
    subject: Text,
    preheader: Text,
    from_name: Text,
    from_email: Text,
    reply_to_email: Text,
    #[serde(default, deserialize_with = "list")]
    contact_list_ids: Option<Vec<Text>>,
    #[serde(default, deserialize_with = "list")]
    segment_ids: Option<Vec<Integer>>,
}

/// The pages of the listing and of the counts, plus the calls for each campaign to write. The reports may have been planned
/// before: what they fetch is not counted again.
fn cost(run: &mut Run, shared: &mut Shared) -> Result<u64> {
    let place = begin(run)?;
    let cache = &mut shared.reports.campaigns.cache;
    let before = run.client.calls();
    let Selection { chosen, .. } = choose(run, cache, &place)?;
    let pages = run.client.calls() - before;
    let of_campaigns = chosen.iter().map(|(id, campaign)| campaign.calls(cache.planned_by_reports.contains(id)));
    let calls = pages + of_campaigns.sum::<u64>();
    let detailed = chosen.into_iter().filter(|(_, campaign)| campaign.needs_details());
    cache.planned.extend(detailed.map(|(id, _)| id));
    shared.how_to_save = how_to_save(run, calls);
    Ok(calls)
}

/// If the stream takes at least this many calls, the plan says how to save them.
const MANY_CALLS: u64 = 200;

/// Which fields to deselect to save most of the stream's calls, if there are many.
fn how_to_save(run: &Run, calls: u64) -> Option<String> {
    let wanted = Extras::selected(run);
    let fields = match (wanted.email, wanted.details) {
        _ if calls < MANY_CALLS => return None,
        (true, _) => format!("campaign_activities, {}", EMAIL.join(", ")),
        (false, true) => "campaign_activities".to_owned(),
        (false, false) => return None,
    };
    Some(format!("{calls} of them for email_campaigns; deselect its fields {fields} to save them"))
}

fn read(run: &mut Run, shared: &mut Shared) -> Result<()> {
    let stream = &SOURCE.stream;
    let mut place = begin(run)?;
    let cache = &mut shared.reports.campaigns.cache;
    let Selection { listing, summaries, chosen } = choose(run, cache, &place)?;
    note(run, &listing.oddities);
    let mut may_lack = listing.may_lack.as_deref();
    match &summaries {
        Some(Ok(summaries)) => {
            note(run, &summaries.oddities);
            may_lack = may_lack.or(summaries.may_lack.as_deref());
        }
        Some(Err(why)) if Extras::selected(run).counts => log::warn!(
            "email_campaigns: the service refuses the counts of campaigns ({why}), so last_sent_date and the unique_ \
             fields are null"
        ),
        _ => {}
    }
    if let Some(why) = may_lack {
        log::warn!(
            "email_campaigns: {why}. Campaigns or their counts may be missing; the next run reads the same again"
        );
    }
    if let Some(after) = &place.after {
        log::info!("{}: continuing after campaign {after}; {} campaigns to go", stream.name, chosen.len());
    }
    // Neither bookmark nor resume point may move past a campaign that is missing.
    let is_complete = may_lack.is_none();
    write(run, cache, &mut place, chosen, is_complete)?;
    run.odd_rows.check(stream)?;
    if is_complete {
        run.advance_bookmark(stream, place.until, OVERLAP);
    }
    Ok(())
}

/// Where the read begins. An interrupted read continues with its own window; the next run reads newer changes.
fn begin(run: &Run) -> Result<Resume> {
    let stream = &SOURCE.stream;
    let start = run.client.run_start()?;
    let since = || Start(run.since(stream, start));
    Ok(run.interrupted(stream).unwrap_or_else(|| Resume { since: since(), until: start, ..Resume::default() }))
}

/// The campaigns that a read writes, and the answers that it needed to choose them.
struct Selection {
    listing: Arc<CampaignListing>,
    /// The service's counts, or why it refuses them; `None` if they were not needed.
    summaries: Option<Result<Arc<Summaries>>>,
    /// The campaigns to write, in the order of their ids.
    chosen: BTreeMap<Id, Chosen>,
}

fn choose(run: &Run, cache: &mut CampaignCache, place: &Resume) -> Result<Selection> {
    let (wanted, since) = (Extras::selected(run), place.since.0);
    // Counts grow while `updated_at` stays the same, and the reports look at every campaign that was sent.
    let lists_all = since.is_none() || wanted.counts || selects_reports(run);
    let listing = cache.listing(run.client, run.config, since.filter(|_| !lists_all))?;
    let lookback = TimeDelta::days(i64::from(run.config.activity_lookback_days));
    let campaigns = listing.campaigns.iter().map(|(id, listed)| (id, &listed.campaign));
    let updated: Vec<_> =
        campaigns.filter(|(_, campaign)| is_due(campaign.updated_at.instant(), None, since, lookback)).collect();
    let summaries = summaries(run, cache, wanted, &updated)?;
    let sent = summaries.as_ref().and_then(|summaries| Some(&summaries.as_ref().ok()?.sent));
    let details = |id: &Id| cache.details.get(id).cloned();
    let mut chosen = BTreeMap::new();
    for (id, listed) in &listing.campaigns {
        let summary = sent.and_then(|sent| sent.get(id));
        let sent_at = summary.filter(|_| wanted.counts).and_then(|summary| summary.last_sent_date.instant());
        if !is_due(listed.campaign.updated_at.instant(), sent_at, since, lookback) {
            continue;
        }
        let is_never_sent = sent.is_some() && summary.is_none();
        let wanted = if listed.campaign.is_removed() && is_never_sent { Extras::default() } else { wanted };
        let (listed, summary) = (Some(listed.clone()), summary.cloned());
        chosen.insert(id.clone(), Chosen { listed, summary, wanted, details: details(id) });
    }
    for (id, summary) in sent.into_iter().flatten().filter(|_| lists_all) {
        let sent_at = summary.last_sent_date.instant();
        if !listing.campaigns.contains_key(id) && is_due(sent_at, sent_at, since, lookback) {
            let summary = Some(summary.clone());
            chosen.insert(id.clone(), Chosen { listed: None, summary, wanted, details: details(id) });
        }
    }
    if let Some(after) = place.after.as_deref().map(Id::from) {
        chosen = chosen.split_off(&after);
        chosen.remove(&after);
    }
    Ok(Selection { listing, summaries, chosen })
}

/// The service's counts, or why it refuses them; `None` if the read does not need them. `updated` are the campaigns to
/// write, apart from those whose counts alone have grown.
fn summaries(
    run: &Run,
    cache: &mut CampaignCache,
    wanted: Extras,
    updated: &[(&Id, &EmailCampaign)],
) -> Result<Option<Result<Arc<Summaries>>>> {
    // A removed campaign that was never sent has no details. Only the summaries show which ones were sent.
    let has_removed = wanted.details && updated.iter().any(|(_, campaign)| campaign.is_removed());
    if !wanted.counts && !has_removed {
        return Ok(None);
    }
    // A campaign that was sent just now may have no counts yet.
    let counted_by = run.client.run_start()? - campaigns::COUNTS_LAG;
    let mut sent_earlier = updated.iter().filter(|(_, campaign)| {
        campaign.is_done() && campaign.updated_at.instant().is_some_and(|updated_at| updated_at < counted_by)
    });
    let mut summaries = cache.summaries(run.client, run.config);
    if let Ok(found) = &summaries
        && sent_earlier.any(|(id, _)| !found.sent.contains_key(*id))
    {
        summaries = cache.summaries_again(run.client, run.config);
    }
    keep_refusal(summaries).map(Some)
}

/// Whether to write a campaign: it was updated since the bound, or sent so recently that its counts still grow.
fn is_due(
    updated_at: Option<DateTime<Utc>>,
    sent_at: Option<DateTime<Utc>>,
    since: Option<DateTime<Utc>>,
    lookback: TimeDelta,
) -> bool {
    let Some(since) = since else { return true };
    let watched = since.checked_sub_signed(lookback).unwrap_or(since);
    updated_at.is_none_or(|at| at >= since) || sent_at.is_some_and(|at| at >= watched)
}

fn note(run: &mut Run, pages: &PageOddities) {
    for (rows, oddities) in pages {
        run.odd_rows.note(&SOURCE.stream, *rows, oddities);
    }
}

/// Writes the campaigns one by one, while the details of the next ones are being fetched.
fn write(
    run: &mut Run,
    cache: &mut CampaignCache,
    place: &mut Resume,
    chosen: BTreeMap<Id, Chosen>,
    is_complete: bool,
) -> Result<()> {
    let stream = &SOURCE.stream;
    run.client.note_calls_to_progress(chosen.values().next().map_or(0, |first| first.calls(false)));
    let (client, workers) = (Arc::clone(run.client), run.client.workers());
    let fetch = move |priority, (id, chosen): &(Id, Chosen)| ask(&client, id, chosen, priority);
    let mut refusals = Refusals::default();
    fanout::map_in_order(chosen.into_iter().collect(), workers, fetch, |(id, chosen), answers| {
        let answers = answers?;
        for oddities in &answers.oddities {
            run.odd_rows.note(stream, 0, oddities);
        }
        if let Some(details) = &answers.details {
            cache.details.insert(id.clone(), details.clone());
        }
        refusals.note(id, chosen, &answers);
        if let Some(campaign) = record(chosen, &answers) {
            let extracted = answers.extracted.as_deref().or(chosen.listed.as_ref().map(|listed| &*listed.extracted));
            run.emit(stream, &campaign, extracted.unwrap_or(&stamp(Utc::now())))?;
        }
        if is_complete {
            place.after = Some(id.to_string());
            run.note_progress(stream, place.clone());
        }
        run.checkpoint()
    })
}

/// Fetches the details and the e-mail of a campaign.
///
/// # Errors
/// Any error but a refusal: writing null instead would overwrite the values in the target.
fn ask(client: &Client, id: &Id, chosen: &Chosen, priority: usize) -> Result<Answers> {
    let mut answers = Answers { details: chosen.details.clone(), email: None, extracted: None, oddities: Vec::new() };
    if !chosen.needs_details() {
        answers.details = None;
    } else if answers.details.is_none() {
        let details = keep_refusal(campaigns::details(client, id, priority))?;
        answers.details = Some(details.map(|(details, oddities)| {
            answers.oddities.push(oddities);
            Arc::new(details)
        }));
        answers.extracted = Some(stamp(Utc::now()));
    }
    let primary = answers.details.as_ref().and_then(|details| details.as_ref().ok()?.primary_email());
    if let Some(activity) = primary.filter(|_| chosen.wanted.email) {
        let path = format!("/emails/activities/{}", activity.in_path());
        let email = keep_refusal(client.one::<Mailing>("email_campaign_activity", &path, priority))?;
        answers.email = Some(email.map(|(email, oddities)| {
            answers.oddities.push(oddities);
            email
        }));
        answers.extracted = Some(stamp(Utc::now()));
    }
    Ok(answers)
}

/// Splits the errors of a call: a refusal is permanent and becomes part of the answer; others may pass, and end the read.
fn keep_refusal<T>(answer: Result<T>) -> Result<Result<T>> {
    match answer {
        Err(why) if !why.is_refusal() => Err(why),
        answer => Ok(answer),
    }
}

/// The record of a campaign; `None` if it is neither listed nor known by its id.
fn record(chosen: &Chosen, answers: &Answers) -> Option<EmailCampaign> {
    let details = answers.details.as_ref().and_then(|details| details.as_ref().ok());
    let mut record = match &chosen.listed {
        Some(listed) => listed.campaign.clone(),
        None => EmailCampaign { campaign_activities: None, ..as_listed(details?) },
    };
    if let Some(summary) = &chosen.summary {
        record.last_sent_date = summary.last_sent_date.clone();
        let unique = summary.unique_counts.clone().unwrap_or_default();
        record.unique_sends = unique.sends;
        record.unique_opens = unique.opens;
        record.unique_clicks = unique.clicks;
        record.unique_bounces = unique.bounces;
        record.unique_optouts = unique.optouts;
        record.unique_forwards = unique.forwards;
        record.unique_abuse = unique.abuse;
        record.unique_not_opened = unique.not_opened;
    }
    if let Some(details) = details.filter(|details| details.campaign_activities.is_some()) {
        record.campaign_activities = Some(details.activities().into_iter().cloned().collect());
    }
    if let Some(Ok(email)) = &answers.email {
        record.subject = email.subject.clone();
        record.preheader = email.preheader.clone();
        record.from_name = email.from_name.clone();
        record.from_email = email.from_email.clone();
        record.reply_to_email = email.reply_to_email.clone();
        record.contact_list_ids.clone_from(&email.contact_list_ids);
        record.segment_ids.clone_from(&email.segment_ids);
    }
    Some(record)
}

/// Details in the form of the listing, which spells the status `Done` instead of `DONE`.
fn as_listed(details: &EmailCampaign) -> EmailCampaign {
    let status = details.current_status.as_str().map(|status| {
        let lower = status.to_lowercase();
        let mut letters = lower.chars();
        let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
        Text::from(&*(first + letters.as_str()))
    });
    EmailCampaign { current_status: status.unwrap_or_default(), ..details.clone() }
}

/// Which kinds of refusal were logged: the first of each kind is a WARNING, the others are logged at DEBUG.
#[derive(Default)]
struct Refusals(HashSet<&'static str>);

impl Refusals {
    fn note(&mut self, id: &Id, chosen: &Chosen, answers: &Answers) {
        let listed = chosen.listed.as_ref().map(|listed| &listed.campaign);
        let id = named(id, listed.and_then(|campaign| campaign.name.as_str()));
        match &answers.details {
            Some(Err(why)) if listed.is_none() => self.log(
                "unlisted",
                &format!(
                    "campaign {id} was sent, but is neither listed nor known by its id ({why}); it is not written"
                ),
            ),
            Some(Err(why)) => self.log(
                "details",
                &format!(
                    "the service refuses the details of campaign {id} ({why}), so its activities and e-mail are null"
                ),
            ),
            _ => {}
        }
        match &answers.email {
            // The service has the e-mail of no removed campaign.
            Some(Err(Error::NotFound(_))) if listed.is_some_and(EmailCampaign::is_removed) => {
                self.log("removed", &format!("campaign {id} was removed, so its subject, sender and lists are null"));
            }
            Some(Err(why)) => self.log(
                "email",
                &format!(
                    "the service refuses the e-mail of campaign {id} ({why}), so its subject, sender and lists are null"
                ),
            ),
            _ => {}
        }
    }

    fn log(&mut self, kind: &'static str, text: &str) {
        if self.0.insert(kind) {
            log::warn!("email_campaigns: {text}. Further ones are logged at DEBUG");
        } else {
            log::debug!("email_campaigns: {text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_campaign_is_due_when_updated_or_sent_lately() {
        let at = |day: &str| Some(format!("2026-{day}T00:00:00Z").parse::<DateTime<Utc>>().unwrap());
        let month = TimeDelta::days(30);
        let cases = [
            // Updated, sent, since.
            (at("01-01"), None, None, true),
            (at("05-01"), None, at("05-01"), true),
            (at("04-30"), None, at("05-01"), false),
            (None, None, at("05-01"), true),
            (at("01-01"), at("04-01"), at("05-01"), true),
            (at("01-01"), at("03-31"), at("05-01"), false),
        ];
        for (updated, sent, since, expected) in cases {
            assert_eq!(is_due(updated, sent, since, month), expected, "{updated:?} {sent:?} {since:?}");
        }
        assert!(!is_due(at("04-30"), at("04-30"), at("05-01"), TimeDelta::zero()));
    }

    #[test]
    fn an_activity_named_twice_is_one_and_the_first_primary_email_counts() {
        let details: EmailCampaign = serde_json::from_str(
            r#"{"campaign_id":"c","current_status":"DONE","campaign_activities":[
                {"campaign_activity_id":"a","role":"permalink"},{"role":"resend"},null,
                {"campaign_activity_id":"b","role":"PRIMARY_EMAIL"},{"campaign_activity_id":"b","role":"primary_email"}]}"#,
        )
        .unwrap();
        let ids = details.activities().into_iter().map(|activity| activity.campaign_activity_id.as_str().unwrap());
        assert_eq!(ids.collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(details.primary_email(), Some(Id::from("b")));
        assert_eq!(as_listed(&details).current_status, Text::from("Done"));
    }
}
