//! The contact reports on the contact route: one contact at a time, in id order, so that one id tells how far a
//! read got.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Months, Utc};

use super::newest_first::{Listing, Part, newest_first};
use super::records::{ActionSummary, ActivityDetail};
use super::{ACTIVITY_DETAILS, ACTIVITY_SUMMARY, DETAILS, Reading, SUMMARY, route};
use crate::client::Client;
use crate::config::{Route, words};
use crate::error::{Error, Result};
use crate::fanout::{self, Step};
use crate::field::{Key, KeyInteger};
use crate::id::Id;
use crate::run::{Run, asked_from, in_extra_second};
use crate::streams::Shared;
use crate::streams::contacts::ids;
use crate::streams::page::rows;
use crate::timestamp::stamp;
use crate::window::five_year_windows;

/// 1998-01-01, before which there was no Constant Contact: the start of a summary that nothing bounds.
const BEFORE_THE_SERVICE: DateTime<Utc> = DateTime::from_timestamp(883_612_800, 0).expect("it is a moment");

/// How many of the contacts that were named, but have no report, are told.
const SHOWN_IDS: usize = 10;

/// Passes the pages of one contact on, until that answers false.
type Fetch<T> = Box<dyn Fn(&Arc<Client>, usize, &Id, &mut dyn FnMut(Part<T>) -> bool) -> Result<()> + Send + Sync>;

/// Reads one report contact by contact, with a resume point after each.
pub(super) fn read(run: &mut Run, shared: &mut Shared, reading: &mut Reading) -> Result<()> {
    if reading.stream.name == SUMMARY.stream.name {
        let fetch = fetch_summary(reading);
        each_contact(run, shared, reading, fetch, write_summary)
    } else {
        let fetch = fetch_details(run, reading);
        each_contact(run, shared, reading, fetch, write_details)
    }
}

fn each_contact<T: Send + 'static>(
    run: &mut Run,
    shared: &mut Shared,
    reading: &mut Reading,
    fetch: Fetch<T>,
    write: fn(&mut Run, &Reading, &mut OneContact, &Id, Part<T>) -> Result<()>,
) -> Result<()> {
    let named = named(run);
    let are_named = named.is_some();
    let parents = if let Some(ids) = named {
        ids
    } else {
        let (ids, all) = ids(run)?;
        reading.every_contact(all);
        ids
    };
    let all = parents.len();
    let parents: Vec<Id> = parents.into_iter().filter(|id| reading.wants(id)).collect();
    let left = parents.len() as u64;
    route::tell(run, shared, &format!("{} of {left} contacts", reading.stream.name), Route::Contacts, left);
    let (client, workers) = (Arc::clone(run.client), run.client.workers());
    let mut contact = OneContact::default();
    let mut gone = 0;
    let mut shown: Vec<String> = Vec::new();
    fanout::in_order(
        parents,
        workers,
        |part: &Part<T>| part.page.weight,
        move |priority, id, push| fetch(&client, priority, id, push),
        |id, step| {
            match step {
                Step::Item(part) => {
                    contact.has_begun = true;
                    write(run, reading, &mut contact, id, part)?;
                }
                Step::End(outcome) => {
                    match outcome {
                        // What has begun is known: a later page that is not is a failure.
                        Err(Error::NotFound(why)) if !contact.has_begun => {
                            log::debug!("{}: no report of contact {id}: {why}", reading.stream.name);
                            gone += 1;
                            if are_named && shown.len() < SHOWN_IDS {
                                shown.push(id.to_string());
                            }
                        }
                        other => other?,
                    }
                    contact = OneContact::default();
                    reading.note_progress(run, Route::Contacts, id);
                    run.checkpoint()?;
                }
            }
            Ok(())
        },
    )?;
    if are_named && gone > 0 {
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
    Ok(())
}

/// The contacts that `contact_ids` names, in order.
pub(super) fn named(run: &Run) -> Option<Vec<Id>> {
    let mut ids: Vec<Id> = run.config.contact_ids.iter().map(|id| Id::from(id.as_str())).collect();
    ids.sort_unstable();
    ids.dedup();
    (!ids.is_empty()).then_some(ids)
}

fn fetch_summary(reading: &Reading) -> Fetch<ActionSummary> {
    let (since, until) = (reading.since.unwrap_or(BEFORE_THE_SERVICE), reading.until);
    // How long a range may be is not documented for this endpoint; five years are, for its neighbour.
    let split = AtomicBool::new(false);
    Box::new(move |client, priority, id, push| {
        let path = format!("/reports/contact_reports/{id}/activity_summary");
        let mut range = |(start, end)| {
            let (start, end) = (asked_from(start), stamp(end));
            for page in client.pages(ACTIVITY_SUMMARY, &path, &[("start", &start), ("end", &end)], priority) {
                if !push(Part::whole(page?)) {
                    break;
                }
            }
            Ok(())
        };
        if !split.load(Ordering::Relaxed) {
            match range((since, until)) {
                Err(Error::Refused(_)) if until > since + Months::new(60) => {
                    split.store(true, Ordering::Relaxed);
                }
                other => return other,
            }
        }
        five_year_windows(since, until).into_iter().try_for_each(range)
    })
}

fn fetch_details(run: &Run, reading: &Reading) -> Fetch<ActivityDetail> {
    let types = words(&run.config.tracking_activity_types);
    let limit = run.config.page_size.min(100).to_string();
    // The service calls leaving the names out cheaper.
    let names = if run.wants(&DETAILS.stream, &["campaign_activity_name"]) { "true" } else { "false" };
    let since = reading.since;
    Box::new(move |client, priority, id, push| {
        let query = [
            ("tracking_activities_list", types.as_str()),
            ("include_campaign_activity_names", names),
            ("limit", &limit),
        ];
        let path = format!("/reports/contact_reports/{id}/activity_details");
        let listing = Listing { endpoint: ACTIVITY_DETAILS, path: &path, query: &query, priority };
        newest_first(client, &listing, since, push)
    })
}

/// What has come of the contact whose turn it is.
#[derive(Default)]
struct OneContact {
    has_begun: bool,
    summaries: HashSet<Id>,
    /// Two opens in one second are equal in all that the service sends.
    occurrences: HashMap<(String, String, String), u64>,
}

fn write_summary(
    run: &mut Run,
    reading: &Reading,
    contact: &mut OneContact,
    id: &Id,
    part: Part<ActionSummary>,
) -> Result<()> {
    let (stream, mut page) = (reading.stream, part.page);
    let contact_id = Key::from(id.to_string().as_str());
    for mut row in rows(run, stream, &mut page) {
        let at = row.start_on.instant();
        let outside = in_extra_second(at, reading.since) || (reading.is_bounded && at == Some(reading.until));
        if !outside && contact.summaries.insert(Id::from(row.campaign_activity_id.as_str())) {
            row.contact_id = contact_id.clone();
            run.emit(stream, &row, &page.extracted)?;
        }
    }
    Ok(())
}

fn write_details(
    run: &mut Run,
    reading: &Reading,
    contact: &mut OneContact,
    _: &Id,
    mut part: Part<ActivityDetail>,
) -> Result<()> {
    let stream = reading.stream;
    let rows = rows(run, stream, &mut part.page);
    for mut row in part.fresh(rows) {
        if !row.created_time.instant().is_some_and(|at| reading.holds(at)) {
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
        run.emit(stream, &row, &part.page.extracted)?;
    }
    Ok(())
}
