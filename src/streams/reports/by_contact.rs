//! The contact reports on the contact route: one contact at a time, in id order, so that one id tells how far a
//! read got.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::Months;
use serde::Deserialize;

use super::newest_first::{Part, newest_first};
use super::route;
use super::{ACTIVITY_DETAILS, ACTIVITY_SUMMARY, DETAILS, Reading, SUMMARY};
use crate::client::{Client, Page};
use crate::config::{Route, words};
use crate::error::{Error, Result};
use crate::fanout::{self, Step};
use crate::field::{Key, KeyInteger};
use crate::id::Id;
use crate::messages::stamp;
use crate::streams::contacts::ids;
use crate::streams::records::{ActionSummary, ActivityDetail};
use crate::streams::{parse, rows};
use crate::sync::{Run, asked_from, in_extra_second};
use crate::window::{Window, five_year_windows};

#[derive(Deserialize)]
struct SummaryRows<'a> {
    #[serde(default, borrow, deserialize_with = "rows")]
    campaign_activities: Vec<ActionSummary<'a>>,
}

#[derive(Deserialize)]
struct DetailRows<'a> {
    #[serde(default, borrow, deserialize_with = "rows")]
    tracking_activities: Vec<ActivityDetail<'a>>,
}

/// How many of the contacts that were named, but have no report, are told.
const SHOWN_IDS: usize = 10;

/// Passes the pages of one contact on, until that answers false.
type Fetch = Box<dyn Fn(&Arc<Client>, &Id, &mut dyn FnMut(Part) -> bool) -> Result<()> + Send + Sync>;

/// Reads one report contact by contact, with a resume point after each.
pub(super) fn read(run: &mut Run, reading: &mut Reading) -> Result<()> {
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
    route::tell(run, &format!("{} of {left} contacts", reading.stream.name), Route::Contacts, left);
    let summary = reading.stream.name == SUMMARY.name;
    let fetch = if summary { fetch_summary(&reading.window) } else { fetch_details(run, &reading.window) };
    let (client, workers) = (Arc::clone(run.client), run.client.workers());
    let mut contact = OneContact::default();
    let mut gone = 0;
    let mut shown: Vec<String> = Vec::new();
    fanout::in_order(
        parents,
        workers,
        |part: &Part| part.page.text.len(),
        move |id, push| fetch(&client, id, push),
        |id, step| {
            match step {
                Step::Item(part) => {
                    contact.has_begun = true;
                    if summary {
                        contact.summary(run, reading, id, &part.page)?;
                    } else {
                        contact.details(run, reading, &part)?;
                    }
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
                    reading.reached(run, Route::Contacts, id);
                    run.now_true()?;
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

fn fetch_summary(window: &Window) -> Fetch {
    let window = window.clone();
    // How long a range may be is not documented for this endpoint; five years are, for its neighbour.
    let split = AtomicBool::new(false);
    Box::new(move |client, id, push| {
        let path = format!("/reports/contact_reports/{id}/activity_summary");
        let mut range = |(start, end)| {
            let (start, end) = (asked_from(start), stamp(end));
            for page in client.pages(ACTIVITY_SUMMARY, &path, &[("start", &start), ("end", &end)]) {
                if !push(Part::whole(page?)) {
                    break;
                }
            }
            Ok(())
        };
        if !split.load(Ordering::Relaxed) {
            match range((window.start, window.end)) {
                Err(Error::Refused(_)) if window.end > window.start + Months::new(60) => {
                    split.store(true, Ordering::Relaxed);
                }
                other => return other,
            }
        }
        five_year_windows(window.start, window.end).into_iter().try_for_each(range)
    })
}

fn fetch_details(run: &Run, window: &Window) -> Fetch {
    let types = words(&run.config.tracking_activity_types);
    let limit = run.config.page_size.min(100).to_string();
    // The service calls leaving the names out cheaper.
    let names = if run.wants(&DETAILS, &["campaign_activity_name"]) { "true" } else { "false" };
    let start = window.start;
    Box::new(move |client, id, push| {
        let query = [
            ("tracking_activities_list", types.as_str()),
            ("include_campaign_activity_names", names),
            ("limit", &limit),
        ];
        let path = format!("/reports/contact_reports/{id}/activity_details");
        newest_first(client, ACTIVITY_DETAILS, &path, &query, Some(start), push)
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

impl OneContact {
    fn summary(&mut self, run: &mut Run, reading: &Reading, id: &Id, page: &Page) -> Result<()> {
        let contact = id.to_string();
        let window = &reading.window;
        for mut row in parse::<SummaryRows>(&SUMMARY, page)?.campaign_activities {
            let at = row.start_on.instant();
            let outside = in_extra_second(at, Some(window.start)) || (window.bounded && at == Some(window.end));
            if !outside && self.summaries.insert(Id::from(row.campaign_activity_id.as_str())) {
                row.contact_id = Key(contact.as_str().into());
                run.emit(&SUMMARY, &row, &page.extracted)?;
            }
        }
        Ok(())
    }

    fn details(&mut self, run: &mut Run, reading: &Reading, part: &Part) -> Result<()> {
        for mut row in part.fresh(parse::<DetailRows>(&DETAILS, &part.page)?.tracking_activities) {
            if !row.created_time.instant().is_some_and(|at| reading.holds(at)) {
                continue;
            }
            let next = self
                .occurrences
                .entry((
                    row.campaign_activity_id.as_str().to_owned(),
                    row.tracking_activity_type.as_str().to_owned(),
                    row.created_time.as_str().to_owned(),
                ))
                .or_default();
            row.occurrence = KeyInteger(*next);
            *next += 1;
            run.emit(&DETAILS, &row, &part.page.extracted)?;
        }
        Ok(())
    }
}
