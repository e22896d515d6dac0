//! Fetches the summary or the details of one contact after the other, for the contact route.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Months, Utc};

use super::newest_first::newest_first;
use super::reading::Reading;
use super::records::{ActionSummary, ActivityDetail};
use super::{ACTIVITY_DETAILS, ACTIVITY_SUMMARY, DETAILS, details_path, summary_path};
use crate::client::{Client, Page};
use crate::config::{Word, words};
use crate::error::{Error, Result};
use crate::field::Key;
use crate::id::Id;
use crate::run::Run;
use crate::timestamp::stamp;
use crate::window::{five_year_windows, query_bound};

/// 1998-01-01, when there was no Constant Contact yet: the earliest start of a summary.
const BEFORE_THE_SERVICE: DateTime<Utc> = DateTime::from_timestamp(883_612_800, 0).expect("it is a moment");

/// Start and end of a window.
type Range = (DateTime<Utc>, DateTime<Utc>);

/// Rows of a page of the summary, which has no `limit`.
const SUMMARY_PAGE: u64 = 200;
/// The most rows of a page of the details.
const DETAILS_PAGE: u32 = 100;

/// The most rows of a page of a report.
pub(super) fn rows_a_page(run: &Run, reading: &Reading) -> u64 {
    if reading.is_summary() { SUMMARY_PAGE } else { u64::from(run.config.page_size.min(DETAILS_PAGE)) }
}

/// Fetches the report of one contact, and passes its pages on until the receiver returns false.
type Ask<T> = dyn Fn(&Arc<Client>, usize, &Id, &mut dyn FnMut(Page<T>) -> bool) -> Result<()> + Send + Sync;

/// The pages of a contact's report, and the outcome of reading them.
type Kept<T> = (Vec<Page<T>>, Result<()>);

/// Fetches the report of any contact. Pages that the plan has read come from memory, once.
pub(super) struct ContactFetch<T> {
    since: Option<DateTime<Utc>>,
    until: DateTime<Utc>,
    ask: Box<Ask<T>>,
    kept: Mutex<HashMap<Id, Kept<T>>>,
}

impl<T> ContactFetch<T> {
    fn new(reading: &Reading, ask: Box<Ask<T>>) -> Arc<ContactFetch<T>> {
        Arc::new(ContactFetch { since: reading.since, until: reading.until, ask, kept: Mutex::default() })
    }

    pub(super) fn fetch(
        &self,
        client: &Arc<Client>,
        priority: usize,
        id: &Id,
        push: &mut dyn FnMut(Page<T>) -> bool,
    ) -> Result<()> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        let Some((pages, outcome)) = kept else {
            let mut has_begun = false;
            let outcome = (self.ask)(client, priority, id, &mut |page| {
                has_begun = true;
                push(page)
            });
            // A refusal after the first page is a failure: the service has this report.
            return if has_begun { outcome.map_err(Error::into_failure) } else { outcome };
        };
        for page in pages {
            if !push(page) {
                break;
            }
        }
        outcome
    }

    /// Keeps the pages of a contact until it is fetched again.
    pub(super) fn keep(&self, id: Id, pages: Vec<Page<T>>, outcome: Result<()>) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(id, (pages, outcome));
    }

    pub(super) fn is_for(&self, reading: &Reading) -> bool {
        (self.since, self.until) == (reading.since, reading.until)
    }
}

/// Fetches activity summaries. Sets `must_split` once the service has refused a range of more than five years.
pub(super) fn summary(reading: &Reading, must_split: Arc<AtomicBool>) -> Arc<ContactFetch<ActionSummary>> {
    let range = range(reading.since, reading.until);
    let ask =
        move |client: &Arc<Client>, priority: usize, id: &Id, push: &mut dyn FnMut(Page<ActionSummary>) -> bool| {
            let path = summary_path(id);
            let mut ask_range = |(start, end): Range| -> Result<()> {
                let (start, end) = (query_bound(start), stamp(end));
                for page in client.pages(ACTIVITY_SUMMARY, &path, &[("start", &start), ("end", &end)], priority) {
                    let page: Page<ActionSummary> = page?;
                    page.contact_id.as_ref().map_or(Ok(()), |contact_id| check_contact(id, contact_id))?;
                    if !push(page) {
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
    ContactFetch::new(reading, Box::new(ask))
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

/// Whether a report asks for so long a range that the service may refuse it. The details have no range.
pub(super) fn asks_long_range(reading: &Reading) -> bool {
    reading.is_summary() && is_long(&range(reading.since, reading.until))
}

/// How many calls the report of a contact takes if it has no row.
pub(super) fn calls_without_rows(reading: &Reading, must_split: bool) -> u64 {
    if !must_split || !asks_long_range(reading) {
        return 1;
    }
    let (start, end) = range(reading.since, reading.until);
    five_year_windows(start, end).len() as u64
}

/// Fetches activity details.
pub(super) fn details(run: &Run, reading: &Reading) -> Arc<ContactFetch<ActivityDetail>> {
    let types = words(&run.config.tracking_activity_types);
    let only_type = match run.config.tracking_activity_types.as_slice() {
        [only] => Some(only.as_str()),
        _ => None,
    };
    let limit = run.config.page_size.min(DETAILS_PAGE).to_string();
    // The service documents that the call is faster without the names.
    let names = if run.wants(&DETAILS.stream, &["campaign_activity_name"]) { "true" } else { "false" };
    let since = reading.since;
    let ask =
        move |client: &Arc<Client>, priority: usize, id: &Id, push: &mut dyn FnMut(Page<ActivityDetail>) -> bool| {
            let query = [
                ("tracking_activities_list", types.as_str()),
                ("include_campaign_activity_names", names),
                ("limit", &limit),
            ];
            let pages = client.pages(ACTIVITY_DETAILS, &details_path(id), &query, priority);
            let mut wrong = None;
            let outcome = newest_first(pages, since, &mut |mut page: Page<ActivityDetail>| {
                if let Err(e) = page.rows.iter().try_for_each(|row| check_contact(id, row.contact_id.as_str())) {
                    wrong = Some(e);
                    return false;
                }
                if let Some(only) = only_type {
                    // The service may leave out what was requested alone.
                    let untyped = page.rows.iter_mut().filter(|row| row.tracking_activity_type.is_empty());
                    untyped.for_each(|row| row.tracking_activity_type = Key::from(only));
                }
                push(page)
            });
            wrong.map_or(outcome, Err)
        };
    ContactFetch::new(reading, Box::new(ask))
}

/// Checks that rows are of the requested contact.
fn check_contact(id: &Id, contact_id: &str) -> Result<()> {
    if id.is(contact_id) {
        return Ok(());
    }
    Err(Error::Failed(format!("the report of contact {id} came with rows of another contact, {contact_id}")))
}
