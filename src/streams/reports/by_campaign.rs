//! The campaign route: reads the rows of each sent campaign activity, 500 per call, and counts the summary from them.
//!
//! Activities are read in the order of their ids, so that the last id is the resume point. Each has up to six
//! [`tracking`](super::tracking) reports. Workers fetch several at once, and the [`Writer`] gets their pages in order.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::due_campaigns::DueCampaign;
use super::reading::Reading;
use super::records::ActivityDetail;
use super::refusals::Refusals;
use super::summary_counts::SummaryCounts;
use super::tracking::{ActivityToRead, Tracked, TrackingReport};
use super::{BOTH_REPORTS, DETAILS, Fetched, SUMMARY, estimate, plan};
use crate::client::Page;
use crate::config::{Route, Word};
use crate::error::Result;
use crate::fanout::{self, Step};
use crate::field::{Key, KeyInteger, Text};
use crate::id::Id;
use crate::run::Run;
use crate::streams::Shared;
use crate::streams::page::rows;

/// Reads the reports of all activities, with a resume point after each.
pub(super) fn read(run: &mut Run, shared: &mut Shared, readings: &mut [Reading]) -> Result<()> {
    let contacts = contacts_to_write(run, shared, readings)?;
    let activities = activities_to_read(run, shared, readings)?;
    let reports = TrackingReport::of(&activities, readings);
    let (client, workers, page_size) = (Arc::clone(run.client), run.client.workers(), run.config.page_size);
    let mut writer = Writer {
        run,
        readings,
        contacts,
        refusals: Refusals::new(&reports),
        has_begun: false,
        is_skipped: false,
        occurrences: Occurrences::default(),
        counts: SummaryCounts::default(),
        extracted: String::new(),
    };
    let outcome = fanout::in_order(
        reports,
        workers,
        |page: &Page<Tracked>| page.weight,
        move |priority, report, push| report.fetch(&client, priority, page_size, push),
        |report, step| match step {
            Step::Item(page) => writer.page(report, page),
            Step::End(outcome) => writer.end_of_report(report, outcome),
        },
    );
    // Also when the run ends early: the next one does not ask for the refused reports again.
    writer.refusals.log(writer.readings);
    outcome
}

/// The contacts whose rows are written; `None` means all contacts.
fn contacts_to_write(run: &Run, shared: &mut Shared, readings: &mut [Reading]) -> Result<Option<HashSet<Id>>> {
    if run.config.contact_ids.is_empty() && run.config.reads_all_contacts() {
        return Ok(None);
    }
    let contacts = shared.reports.contacts(run)?;
    for reading in readings {
        reading.note_listing(contacts.are_all);
    }
    Ok(Some(contacts.list.iter().cloned().collect()))
}

/// The campaigns that may have rows, after their activities are fetched.
fn campaigns_to_read(run: &Run, fetched: &mut Fetched, readings: &mut [Reading]) -> Result<Vec<DueCampaign>> {
    let mut campaigns = plan::due_campaigns(run, fetched, readings)?;
    if let Some(why) = fetched.campaigns.may_lack() {
        log::warn!("{why}. Activity of some campaigns may be missing; the bookmark stays, so a later run reads it");
        for reading in readings.iter_mut() {
            reading.note_listing(false);
        }
    }
    let (all, page_size) = (0..campaigns.len(), u64::from(run.config.page_size));
    run.client.note_calls_to_progress(estimate::calls_to_progress(&campaigns, page_size));
    fetched.campaigns.fetch_activities(run.client, &mut campaigns, all)?;
    // The plan knew the activities of a sample only.
    let made = campaigns.iter().filter(|campaign| !campaign.has_details).count() as u64;
    fetched.revise_plan(run, BOTH_REPORTS, estimate::campaign_calls(&campaigns, page_size), made);
    Ok(campaigns)
}

/// The activities of all campaigns that may have rows, in the order of their ids.
fn activities_to_read(run: &Run, shared: &mut Shared, readings: &mut [Reading]) -> Result<Vec<Arc<ActivityToRead>>> {
    let campaigns = campaigns_to_read(run, &mut shared.reports, readings)?;
    let (mut found, mut gone) = (BTreeMap::new(), 0);
    for campaign in campaigns {
        let Some(activities) = shared.reports.campaigns.tracked_activities(&campaign.id) else {
            gone += u64::from(campaign.is_sent);
            continue;
        };
        let campaign = Arc::new(campaign);
        for id in activities {
            let is_unread =
                |is_summary: bool| readings.iter().any(|r| r.is_summary() == is_summary && r.is_unread(&id));
            let for_summary = campaign.for_summary && is_unread(true);
            let for_details = campaign.for_details && is_unread(false);
            if for_summary || for_details {
                let activity = ActivityToRead::new(id.clone(), Arc::clone(&campaign), for_summary, for_details);
                found.insert(id, Arc::new(activity));
            }
        }
    }
    if gone > 0 {
        log::warn!(
            "{gone} sent campaigns are listed but unknown or refused one by one: their reports can only be read with \
             activity_route: contacts"
        );
    }
    Ok(found.into_values().collect())
}

/// Writes the details row by row, and the summary of an activity after its last report.
struct Writer<'a, 'run> {
    run: &'a mut Run<'run>,
    readings: &'a mut [Reading],
    /// The contacts whose rows are written; `None` means all contacts.
    contacts: Option<HashSet<Id>>,
    refusals: Refusals,
    /// Whether the current report has brought a page.
    has_begun: bool,
    /// Whether the service has refused a report of the current activity.
    is_skipped: bool,
    occurrences: Occurrences,
    counts: SummaryCounts,
    /// When the last page of the current activity was read.
    extracted: String,
}

impl Writer<'_, '_> {
    fn page(&mut self, report: &TrackingReport, mut page: Page<Tracked>) -> Result<()> {
        // Which pages the workers fetched before a refusal depends on timing, so none of them is written.
        if self.is_skipped {
            return Ok(());
        }
        self.has_begun = true;
        self.extracted.clone_from(&page.extracted);
        // Unusable rows are counted once, for the details if they are read.
        let stream = self.readings.last().map_or(&DETAILS.stream, |reading| reading.stream);
        for row in rows(self.run, stream, &mut page) {
            self.row(report, row)?;
        }
        Ok(())
    }

    fn row(&mut self, report: &TrackingReport, row: Tracked) -> Result<()> {
        let contact = Id::from(row.contact_id.as_str());
        if self.contacts.as_ref().is_some_and(|contacts| !contacts.contains(&contact)) {
            return Ok(());
        }
        let at = row.created_time.instant();
        if let Some(at) = at.filter(|at| self.is_detail(report, *at)) {
            let detail = detail(report, row, self.occurrences.next(&contact, at));
            self.run.emit(&DETAILS.stream, &detail, &self.extracted)?;
        }
        if report.activity.for_summary {
            self.counts.add(contact, report.activity_type, at);
        }
        Ok(())
    }

    /// Whether a row of this time belongs to the details.
    fn is_detail(&self, report: &TrackingReport, at: DateTime<Utc>) -> bool {
        let details = self.readings.iter().find(|reading| !reading.is_summary());
        report.activity.for_details
            && self.run.config.tracking_activity_types.contains(&report.activity_type)
            && details.is_some_and(|reading| reading.includes(at))
    }

    fn end_of_report(&mut self, report: &TrackingReport, outcome: Result<()>) -> Result<()> {
        match outcome {
            _ if self.is_skipped => {}
            Ok(()) => self.refusals.note_answer(),
            // A refusal after the first page is a failure: the service has this report.
            Err(why) if self.has_begun => return Err(why.into_failure()),
            Err(why) => {
                self.refusals.note(report, why)?;
                report.activity.refuse();
                self.is_skipped = true;
            }
        }
        self.has_begun = false;
        self.occurrences = Occurrences::default();
        if report.is_last_of_activity { self.end_of_activity(&report.activity) } else { Ok(()) }
    }

    fn end_of_activity(&mut self, activity: &ActivityToRead) -> Result<()> {
        let counts = std::mem::take(&mut self.counts);
        // Without all reports of the activity, its counts would be too low.
        let is_skipped = std::mem::take(&mut self.is_skipped);
        let summary = self.readings.iter().find(|reading| reading.is_summary() && !is_skipped);
        if let Some(reading) = summary {
            for record in counts.records(activity, |at| reading.includes(at)) {
                self.run.emit(&SUMMARY.stream, &record, &self.extracted)?;
            }
        }
        if self.refusals.may_be_of_stream() {
            return Ok(());
        }
        // The pages serve both reports, so their unusable rows hold up both.
        let is_too_odd = self.readings.iter().any(|reading| self.run.odd_rows.is_too_odd(reading.stream));
        for reading in self.readings.iter_mut() {
            if is_too_odd {
                reading.withdraw_progress(self.run);
            } else {
                reading.note_progress(self.run, Route::Campaigns, &activity.id);
            }
        }
        self.run.checkpoint()
    }
}

fn detail(report: &TrackingReport, row: Tracked, occurrence: u64) -> ActivityDetail {
    let (activity, campaign) = (report.activity.id.to_string(), &report.activity.campaign);
    ActivityDetail {
        contact_id: row.contact_id,
        campaign_activity_id: Key::from(activity.as_str()),
        campaign_id: Text::from(campaign.id.to_string().as_str()),
        created_time: row.created_time,
        tracking_activity_type: Key::from(report.activity_type.as_str()),
        campaign_activity_name: Text(campaign.name.clone()),
        occurrence: KeyInteger(occurrence),
        email_address: row.email_address,
        device_type: row.device_type,
        url_id: row.url_id,
        link_url: row.link_url,
        bounce_code: row.bounce_code,
        opt_out_reason: row.opt_out_reason,
    }
}

/// How often each contact and time has come in the current report, by their hash: a report may have a row for every
/// contact of the account.
#[derive(Default)]
struct Occurrences {
    counts: HashMap<u64, u32>,
    hasher: RandomState,
}

impl Occurrences {
    /// The number of equal rows before this one.
    fn next(&mut self, contact: &Id, at: DateTime<Utc>) -> u64 {
        let count = self.counts.entry(self.hasher.hash_one((contact, at))).or_default();
        *count += 1;
        u64::from(*count - 1)
    }
}
