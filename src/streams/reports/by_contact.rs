//! The contact route: one contact after the other, in the order of their ids, so that the last id is the resume point.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Months, Utc};

use super::newest_first::{Listing, Part, newest_first};
use super::reading::Reading;
use super::records::{ActionSummary, ActivityDetail, OfActivity};
use super::{ACTIVITY_DETAILS, ACTIVITY_SUMMARY, DETAILS, Fetched, route};
use crate::client::{Client, Page, Row};
use crate::config::{Route, Word};
use crate::error::{Error, Result};
use crate::fanout::{self, Step};
use crate::field::{Key, KeyInteger};
use crate::id::Id;
use crate::run::Run;
use crate::streams::Shared;
use crate::streams::contacts;
use crate::streams::page::rows;
use crate::timestamp::stamp;
use crate::window::five_year_windows;
use crate::window::{is_before_bound, query_bound};

/// 1998-01-01, when there was no Constant Contact yet: the earliest start of a summary.
const BEFORE_THE_SERVICE: DateTime<Utc> = DateTime::from_timestamp(883_612_800, 0).expect("it is a moment");

/// Start and end of a window.
type Range = (DateTime<Utc>, DateTime<Utc>);

/// How many of the `contact_ids` without a report the warning names.
const SHOWN_IDS: usize = 10;
/// Rows of a page of the summary, which has no `limit`.
const SUMMARY_PAGE: u64 = 200;
/// The most rows of a page of the details.
const DETAILS_PAGE: u32 = 100;
/// The plan is compared with the calls made after each so many contacts.
const CHECK_AFTER: u64 = 100;

/// The contacts whose reports are read, in the order of their ids.
pub(super) struct Contacts {
    pub(super) list: Vec<Id>,
    /// Whether the listing surely had all of them.
    pub(super) are_all: bool,
}

impl Contacts {
    /// The contacts of `contact_ids`, or all listed ones.
    pub(super) fn fetch(run: &Run) -> Result<Contacts> {
        if run.config.contact_ids.is_empty() {
            let (list, are_all) = contacts::listed(run)?;
            return Ok(Contacts { list, are_all });
        }
        let mut list: Vec<Id> = run.config.contact_ids.iter().map(|id| Id::from(id.as_str())).collect();
        list.sort_unstable();
        list.dedup();
        Ok(Contacts { list, are_all: true })
    }
}

/// The most rows of a page of a report.
pub(super) fn rows_a_page(run: &Run, reading: &Reading) -> u64 {
    if reading.is_summary() { SUMMARY_PAGE } else { u64::from(run.config.page_size.min(DETAILS_PAGE)) }
}

/// Fetches the report of one contact, and passes its pages on until the receiver returns false.
type Ask<T> = dyn Fn(&Arc<Client>, usize, &Id, &mut dyn FnMut(Part<T>) -> bool) -> Result<()> + Send + Sync;

/// The pages of a contact's report, and the outcome of reading them.
type Kept<T> = (Vec<Part<T>>, Result<()>);

/// Writes a page of a contact's report.
type Write<T> = fn(&mut Run, &mut Fetched, &Reading, &mut OneContact, &Id, Part<T>) -> Result<()>;

/// Fetches the report of any contact. Pages that the plan has read come from memory, once.
pub(super) struct ContactFetch<T> {
    since: Option<DateTime<Utc>>,
    until: DateTime<Utc>,
    /// Whether the range is a parameter of the call.
    has_range: bool,
    ask: Box<Ask<T>>,
    kept: Mutex<HashMap<Id, Kept<T>>>,
}

impl<T> ContactFetch<T> {
    fn new(reading: &Reading, has_range: bool, ask: Box<Ask<T>>) -> Arc<ContactFetch<T>> {
        let (since, until) = (reading.since, reading.until);
        Arc::new(ContactFetch { since, until, has_range, ask, kept: Mutex::default() })
    }

    pub(super) fn fetch(
        &self,
        client: &Arc<Client>,
        priority: usize,
        id: &Id,
        push: &mut dyn FnMut(Part<T>) -> bool,
    ) -> Result<()> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        let Some((parts, outcome)) = kept else {
            let mut has_begun = false;
            let outcome = (self.ask)(client, priority, id, &mut |part| {
                has_begun = true;
                push(part)
            });
            // A refusal after the first page is a failure: the service has this report.
            return if has_begun { outcome.map_err(Error::into_failure) } else { outcome };
        };
        for part in parts {
            if !push(part) {
                break;
            }
        }
        outcome
    }

    /// Keeps the pages of a contact until it is fetched again.
    pub(super) fn keep(&self, id: Id, parts: Vec<Part<T>>, outcome: Result<()>) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(id, (parts, outcome));
    }

    /// Whether the range is so long that the service may refuse it.
    pub(super) fn asks_long_range(&self) -> bool {
        self.has_range && is_long(&range(self.since, self.until))
    }

    pub(super) fn is_for(&self, reading: &Reading) -> bool {
        (self.since, self.until) == (reading.since, reading.until)
    }
}

/// Fetches activity summaries. Sets `must_split` once the service has refused a range of more than five years.
pub(super) fn summary(reading: &Reading, must_split: Arc<AtomicBool>) -> Arc<ContactFetch<ActionSummary>> {
    let range = range(reading.since, reading.until);
    let ask =
        move |client: &Arc<Client>, priority: usize, id: &Id, push: &mut dyn FnMut(Part<ActionSummary>) -> bool| {
            let path = format!("/reports/contact_reports/{}/activity_summary", id.in_path());
            let mut ask_range = |(start, end): Range| -> Result<()> {
                let (start, end) = (query_bound(start), stamp(end));
                for page in client.pages(ACTIVITY_SUMMARY, &path, &[("start", &start), ("end", &end)], priority) {
                    if !push(Part::whole(of_contact(page?, id)?)) {
                        break;
                    }
                }
                Ok(())
            };
            let windows = five_year_windows(range.0, range.1);
            if !must_split.load(Ordering::Relaxed) {
                match ask_range(range) {
                    Err(Error::Refused(why)) if is_long(&range) => {
                        if !must_split.swap(true, Ordering::Relaxed) {
                            log::info!(
                                "the service refuses a summary of more than five years ({why}), so each contact takes \
                                 {} calls",
                                windows.len()
                            );
                        }
                    }
                    other => return other,
                }
            }
            // A contact that was imported may have activity from before it was created, so its creation is no bound.
            windows.into_iter().try_for_each(ask_range)
        };
    ContactFetch::new(reading, true, Box::new(ask))
}

/// The range of a summary, which needs a start.
fn range(since: Option<DateTime<Utc>>, until: DateTime<Utc>) -> Range {
    let start = since.map_or(BEFORE_THE_SERVICE, |since| since.max(BEFORE_THE_SERVICE));
    (start.min(until), until)
}

/// Whether a range is longer than the five years that a neighbouring endpoint allows.
fn is_long((start, end): &Range) -> bool {
    *end > *start + Months::new(60)
}

/// How many calls the report of a contact takes if it has no row.
pub(super) fn least_calls(reading: &Reading, must_split: bool) -> u64 {
    let range = range(reading.since, reading.until);
    if reading.is_summary() && must_split && is_long(&range) {
        five_year_windows(range.0, range.1).len() as u64
    } else {
        1
    }
}

/// Fetches activity details.
pub(super) fn details(run: &Run, reading: &Reading) -> Arc<ContactFetch<ActivityDetail>> {
    let types: Vec<&'static str> = run.config.tracking_activity_types.iter().map(|kind| kind.as_str()).collect();
    let only_type = <[&str; 1]>::try_from(types.as_slice()).ok().map(|[only]| only);
    let types = types.join(",");
    let limit = run.config.page_size.min(DETAILS_PAGE).to_string();
    // The service documents that the call is faster without the names.
    let names = if run.wants(&DETAILS.stream, &["campaign_activity_name"]) { "true" } else { "false" };
    let since = reading.since;
    let ask =
        move |client: &Arc<Client>, priority: usize, id: &Id, push: &mut dyn FnMut(Part<ActivityDetail>) -> bool| {
            let query = [
                ("tracking_activities_list", types.as_str()),
                ("include_campaign_activity_names", names),
                ("limit", &limit),
            ];
            let path = format!("/reports/contact_reports/{}/activity_details", id.in_path());
            let listing = Listing { endpoint: ACTIVITY_DETAILS, path: &path, query: &query, priority };
            let mut wrong = None;
            let outcome = newest_first(client, &listing, since, &mut |mut part: Part<ActivityDetail>| {
                if let Err(e) = part.page.rows.iter().try_for_each(|row| is_of(id, row.contact_id.as_str())) {
                    wrong = Some(e);
                    return false;
                }
                if let Some(only) = only_type {
                    fill_in_type(&mut part.page.rows, only);
                }
                push(part)
            });
            wrong.map_or(outcome, Err)
        };
    ContactFetch::new(reading, false, Box::new(ask))
}

/// Fills in the type of rows that have none, if only one type was requested.
fn fill_in_type(rows: &mut [ActivityDetail], only: &str) {
    for row in rows.iter_mut().filter(|row| row.tracking_activity_type.is_empty()) {
        row.tracking_activity_type = Key::from(only);
    }
}

/// Checks that a page is of the requested contact.
fn of_contact<T>(page: Page<T>, id: &Id) -> Result<Page<T>> {
    if let Some(contact_id) = &page.contact_id {
        is_of(id, contact_id)?;
    }
    Ok(page)
}

fn is_of(id: &Id, contact_id: &str) -> Result<()> {
    if id.is(contact_id) {
        return Ok(());
    }
    Err(Error::Failed(format!("the report of contact {id} came with rows of another contact, {contact_id}")))
}

/// Reads one report contact by contact, with a resume point after each.
pub(super) fn read(run: &mut Run, shared: &mut Shared, reading: &mut Reading) -> Result<()> {
    if reading.is_summary() {
        let fetch = shared.reports.summaries(reading);
        each_contact(run, shared, reading, &fetch, write_summary)
    } else {
        let fetch = shared.reports.details(run, reading);
        each_contact(run, shared, reading, &fetch, write_details)
    }
}

fn each_contact<T: Row>(
    run: &mut Run,
    shared: &mut Shared,
    reading: &mut Reading,
    fetch: &Arc<ContactFetch<T>>,
    write: Write<T>,
) -> Result<()> {
    let contacts = shared.reports.contacts(run)?;
    reading.note_listing(contacts.are_all);
    let unread: Vec<Id> = contacts.list.iter().filter(|id| reading.wants(id)).cloned().collect();
    run.client.note_calls_to_progress(1);
    let mut check = PlanCheck::new(run, shared, reading, unread.len() as u64);
    let (client, workers) = (Arc::clone(run.client), run.client.workers());
    let mut contact = OneContact::default();
    let (mut gone, mut shown) = (0, Vec::new());
    let fetching = Arc::clone(fetch);
    let outcome = fanout::in_order(
        unread,
        workers,
        |part: &Part<T>| part.page.weight,
        move |priority, id, push| fetching.fetch(&client, priority, id, push),
        |id, step| {
            match step {
                Step::Item(part) => {
                    write(run, &mut shared.reports, reading, &mut contact, id, part)?;
                }
                Step::End(outcome) => {
                    match outcome {
                        Err(Error::NotFound(why)) => {
                            log::debug!("{}: no report of contact {id}: {why}", reading.stream.name);
                            gone += 1;
                            if shown.len() < SHOWN_IDS {
                                shown.push(id.to_string());
                            }
                        }
                        other => other?,
                    }
                    contact = OneContact::default();
                    reading.note_progress(run, Route::Contacts, id);
                    run.checkpoint()?;
                    check.one_more(run);
                }
            }
            Ok(())
        },
    );
    // Also when the run ends early: the next one does not ask for these contacts again.
    let all = contacts.list.len();
    if !run.config.contact_ids.is_empty() && gone > 0 {
        let more = gone - shown.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        log::warn!(
            "{}: the service has no report for {gone} of {all} contact_ids: {}{more}; correct them, or leave them out",
            reading.stream.name,
            shown.join(", ")
        );
    } else if gone > 0 {
        log::info!("{}: the service has no report for {gone} of {all} contacts", reading.stream.name);
    }
    outcome
}

/// Compares the plan with the calls made, and logs a new estimate if the plan was too low.
struct PlanCheck {
    stream: &'static str,
    planned: u64,
    contacts: u64,
    done: u64,
    calls_before: u64,
    is_corrected: bool,
}

impl PlanCheck {
    fn new(run: &Run, shared: &Shared, reading: &Reading, contacts: u64) -> PlanCheck {
        let planned = shared.reports.planned_calls(reading.stream);
        run.progress.expect_calls(planned);
        let calls_before = run.client.calls();
        PlanCheck { stream: reading.stream.name, planned, contacts, done: 0, calls_before, is_corrected: false }
    }

    fn one_more(&mut self, run: &Run) {
        self.done += 1;
        if self.is_corrected || !self.done.is_multiple_of(CHECK_AFTER) {
            return;
        }
        // A call that was not answered is not counted in the end, so the count may fall.
        let made = run.client.calls().saturating_sub(self.calls_before);
        let expected = route::scaled(made, self.contacts, self.done);
        if expected > self.planned + self.planned / 4 {
            self.is_corrected = true;
            run.progress.expect_calls(expected.saturating_sub(made));
            log::info!(
                "{}: new estimate: {}, not {}, because contacts have more rows than those of the sample",
                self.stream,
                route::cost(expected, run.config.requests_per_second),
                self.planned
            );
        }
    }
}

/// What has been read of the current contact.
#[derive(Default)]
struct OneContact {
    summaries: HashSet<Id>,
    /// How many rows had the same activity, type and time: two opens in one second are equal in all fields.
    occurrences: HashMap<(String, String, String), u64>,
}

fn write_summary(
    run: &mut Run,
    fetched: &mut Fetched,
    reading: &Reading,
    contact: &mut OneContact,
    id: &Id,
    part: Part<ActionSummary>,
) -> Result<()> {
    let (stream, mut page) = (reading.stream, part.page);
    let rows = rows(run, stream, &mut page);
    let activities = rows.iter().map(|row| row.campaign_activity_id.as_str());
    fetched.campaign_ids.learn(run, stream, &fetched.campaigns.known, activities)?;
    let contact_id = Key::from(id.to_string().as_str());
    for mut row in rows {
        let at = row.start_on.instant();
        let is_outside = is_before_bound(at, reading.since) || (reading.is_bounded && at == Some(reading.until));
        let activity = Id::from(row.campaign_activity_id.as_str());
        if !is_outside && contact.summaries.insert(activity.clone()) {
            row.contact_id = contact_id.clone();
            row.campaign_id = fetched.campaign_ids.of(&activity);
            run.emit(stream, &row, &page.extracted)?;
        }
    }
    Ok(())
}

fn write_details(
    run: &mut Run,
    fetched: &mut Fetched,
    reading: &Reading,
    contact: &mut OneContact,
    _: &Id,
    mut part: Part<ActivityDetail>,
) -> Result<()> {
    let stream = reading.stream;
    let rows = std::mem::take(&mut part.page.rows);
    let untyped: Vec<&ActivityDetail> = rows.iter().filter(|row| row.tracking_activity_type.is_empty()).collect();
    part.page.oddities.left_out += untyped.len() as u64;
    if let Some(row) = untyped.first() {
        part.page.oddities.why_left_out.get_or_insert_with(|| without_type(row));
    }
    run.note_oddities(stream, rows.len() - untyped.len(), &part.page.oddities);
    let wanted = |row: &ActivityDetail| row.created_time.instant().is_some_and(|at| reading.holds(at));
    let of_emails = rows.iter().filter(|row| wanted(row) && !row.is_of_landing_page());
    fetched.campaign_ids.learn(
        run,
        stream,
        &fetched.campaigns.known,
        of_emails.map(|row| row.campaign_activity_id.as_str()),
    )?;
    for mut row in part.fresh(rows) {
        if row.tracking_activity_type.is_empty() || !wanted(&row) {
            continue;
        }
        let next = contact
            .occurrences
            .entry((
                row.campaign_activity_id.as_str().to_owned(),
                row.tracking_activity_type.as_str().to_owned(),
                row.created_time.as_str().to_owned(),
            ))
            .or_default();
        row.occurrence = KeyInteger(*next);
        *next += 1;
        if !row.is_of_landing_page() {
            row.campaign_id = fetched.campaign_ids.of(&Id::from(row.campaign_activity_id.as_str()));
        }
        run.emit(stream, &row, &part.page.extracted)?;
    }
    Ok(())
}

/// Why a row without a type is left out, if several types were requested.
fn without_type(row: &ActivityDetail) -> String {
    let (contact, at) = (row.contact_id.as_str(), row.created_time.as_str());
    format!("contact_id={contact}, created_time={at}: tracking_activity_type missing or unusable")
}
