//! The contact route: one contact after the other, in the order of their ids, so that the last id is the resume point.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::contact_fetch::ContactFetch;
use super::reading::Reading;
use super::records::{ActionSummary, ActivityDetail};
use super::{Fetched, estimate};
use crate::client::{Page, Row};
use crate::config::Route;
use crate::error::{Error, Result};
use crate::fanout::{self, Step};
use crate::field::{Key, KeyInteger};
use crate::id::Id;
use crate::run::Run;
use crate::streams::Shared;
use crate::streams::contacts;
use crate::streams::page::rows;
use crate::window::is_before_bound;

/// How many of the `contact_ids` without a report the warning names.
const SHOWN_IDS: usize = 10;
/// The plan is revised after each so many contacts.
const REVISE_AFTER: u64 = 100;

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

/// Reads one report contact by contact, with a resume point after each.
pub(super) fn read(run: &mut Run, shared: &mut Shared, reading: &mut Reading) -> Result<()> {
    if reading.is_summary() {
        let fetch = shared.reports.summaries(reading);
        each_contact(run, shared, reading, &fetch)
    } else {
        let fetch = shared.reports.details(run, reading);
        each_contact(run, shared, reading, &fetch)
    }
}

fn each_contact<T: ContactRow>(
    run: &mut Run,
    shared: &mut Shared,
    reading: &mut Reading,
    fetch: &Arc<ContactFetch<T>>,
) -> Result<()> {
    let contacts = shared.reports.contacts(run)?;
    reading.note_listing(contacts.are_all);
    let unread: Vec<Id> = contacts.list.iter().filter(|id| reading.is_unread(id)).cloned().collect();
    run.client.note_calls_to_progress(1);
    let planned = shared.reports.planned_calls.get(reading.stream.name).copied();
    run.progress.expect_calls(planned.unwrap_or_default());
    let (all, mut done, before) = (unread.len() as u64, 0, run.client.calls());
    let (client, workers) = (Arc::clone(run.client), run.client.workers());
    let (mut written, mut gone) = (T::Written::default(), Gone::default());
    let fetching = Arc::clone(fetch);
    let outcome = fanout::in_order(
        unread,
        workers,
        |page: &Page<T>| page.weight,
        move |priority, id, push| fetching.fetch(&client, priority, id, push),
        |id, step| {
            match step {
                Step::Item(page) => T::write(run, &mut shared.reports, reading, id, page, &mut written)?,
                Step::End(outcome) => {
                    match outcome {
                        Err(Error::NotFound(why)) => gone.note(reading, id, &why),
                        other => other?,
                    }
                    written = T::Written::default();
                    reading.note_progress(run, Route::Contacts, id);
                    run.checkpoint()?;
                    done += 1;
                    if done % REVISE_AFTER == 0 {
                        // A call that was not answered is not counted in the end, so the count may fall.
                        let made = run.client.calls().saturating_sub(before);
                        let calls = estimate::scaled(made, all, done);
                        shared.reports.revise_plan(run, reading.stream.name, calls, made);
                    }
                }
            }
            Ok(())
        },
    );
    // Also when the run ends early: the next one does not ask for these contacts again.
    gone.log(run, reading, contacts.list.len());
    outcome
}

/// The contacts without a report.
#[derive(Default)]
struct Gone {
    count: usize,
    shown: Vec<String>,
}

impl Gone {
    fn note(&mut self, reading: &Reading, id: &Id, why: &str) {
        log::debug!("{}: no report of contact {id}: {why}", reading.stream.name);
        self.count += 1;
        if self.shown.len() < SHOWN_IDS {
            self.shown.push(id.to_string());
        }
    }

    /// Logs how many of `all` contacts have no report: a warning if the user has named them.
    fn log(&self, run: &Run, reading: &Reading, all: usize) {
        let (name, count, shown) = (reading.stream.name, self.count, self.shown.join(", "));
        if count == 0 {
            return;
        }
        if run.config.contact_ids.is_empty() {
            log::info!("{name}: the service has no report for {count} of {all} contacts");
            return;
        }
        let more = match count - self.shown.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        log::warn!(
            "{name}: the service has no report for {count} of {all} contact_ids: {shown}{more}; correct them, or leave them \
             out"
        );
    }
}

/// A row of a contact's report.
pub(super) trait ContactRow: Row {
    /// What was written of one contact, to recognize rows that its pages repeat.
    type Written: Default;

    fn activity(&self) -> &str;
    fn is_of_landing_page(&self) -> bool {
        false
    }

    /// Writes a page of the report of contact `id`.
    fn write(
        run: &mut Run,
        fetched: &mut Fetched,
        reading: &Reading,
        id: &Id,
        page: Page<Self>,
        written: &mut Self::Written,
    ) -> Result<()>;
}

impl ContactRow for ActionSummary {
    /// The activities that were written.
    type Written = HashSet<Id>;

    fn activity(&self) -> &str {
        self.campaign_activity_id.as_str()
    }

    fn write(
        run: &mut Run,
        fetched: &mut Fetched,
        reading: &Reading,
        id: &Id,
        mut page: Page<ActionSummary>,
        written: &mut HashSet<Id>,
    ) -> Result<()> {
        let stream = reading.stream;
        let rows = rows(run, stream, &mut page);
        let activities = rows.iter().map(ContactRow::activity);
        fetched.campaign_ids.look_up(run, stream, &fetched.campaigns.cache, activities)?;
        let contact_id = Key::from(id.to_string().as_str());
        for mut row in rows {
            let at = row.start_on.instant();
            // The service includes the end of the range.
            let is_outside = is_before_bound(at, reading.since) || (reading.is_bounded && at == Some(reading.until));
            let activity = Id::from(row.activity());
            if !is_outside && written.insert(activity.clone()) {
                row.contact_id = contact_id.clone();
                row.campaign_id = fetched.campaign_ids.of(&activity);
                run.emit(stream, &row, &page.extracted)?;
            }
        }
        Ok(())
    }
}

impl ContactRow for ActivityDetail {
    /// How many rows had the same activity, type and time: two opens in one second are equal in all fields.
    type Written = HashMap<(String, String, String), u64>;

    fn activity(&self) -> &str {
        self.campaign_activity_id.as_str()
    }

    fn is_of_landing_page(&self) -> bool {
        self.tracking_activity_type.as_str().starts_with("p_")
    }

    fn write(
        run: &mut Run,
        fetched: &mut Fetched,
        reading: &Reading,
        _: &Id,
        mut page: Page<ActivityDetail>,
        written: &mut HashMap<(String, String, String), u64>,
    ) -> Result<()> {
        let stream = reading.stream;
        let (rows, untyped): (Vec<_>, Vec<_>) =
            page.rows.into_iter().partition(|row| !row.tracking_activity_type.is_empty());
        page.oddities.left_out += untyped.len() as u64;
        if let Some(row) = untyped.first() {
            page.oddities.why_left_out.get_or_insert_with(|| without_type(row));
        }
        run.odd_rows.note(stream, rows.len(), &page.oddities);
        let is_included = |row: &ActivityDetail| row.created_time.instant().is_some_and(|at| reading.includes(at));
        let rows: Vec<_> = rows.into_iter().filter(is_included).collect();
        let of_emails = rows.iter().filter(|row| !row.is_of_landing_page());
        fetched.campaign_ids.look_up(run, stream, &fetched.campaigns.cache, of_emails.map(ContactRow::activity))?;
        for mut row in rows {
            let next = written
                .entry((
                    row.activity().to_owned(),
                    row.tracking_activity_type.as_str().to_owned(),
                    row.created_time.as_str().to_owned(),
                ))
                .or_default();
            row.occurrence = KeyInteger(*next);
            *next += 1;
            if !row.is_of_landing_page() {
                row.campaign_id = fetched.campaign_ids.of(&Id::from(row.activity()));
            }
            run.emit(stream, &row, &page.extracted)?;
        }
        Ok(())
    }
}

/// Why a row without a type is left out, if several types were requested.
fn without_type(row: &ActivityDetail) -> String {
    let (contact, at) = (row.contact_id.as_str(), row.created_time.as_str());
    format!("contact_id={contact}, created_time={at}: tracking_activity_type missing or unusable")
}
