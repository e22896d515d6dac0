//! What the streams share: fetching the pages of a listing, and deserializing lists and objects.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer};

use crate::client::{Client, Page, Row};
use crate::error::Result;
use crate::fanout::{self, Step};
use crate::field::Object;
use crate::run::Run;
use crate::stream::Stream;
use crate::streams::seen::{PageFacts, PassEnd, Seen};

/// The most passes over a listing that keeps changing.
const PASSES: u32 = 3;

/// Whether a read got every row that its listing had when the read began.
#[derive(Debug, PartialEq)]
#[must_use]
pub(super) enum Coverage {
    Whole,
    /// Rows may be missing, for this reason.
    MayLackRows(String),
}

/// Deserializes a list without its nulls, which targets refuse as elements.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    d: D,
) -> std::result::Result<Option<Vec<T>>, D::Error> {
    let items: Option<Vec<Option<T>>> = Deserialize::deserialize(d)?;
    Ok(items.map(|items| items.into_iter().flatten().collect()))
}

/// Deserializes an object. Other JSON in its place is a value that the field cannot hold.
pub(super) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    d: D,
) -> std::result::Result<Option<Box<T>>, D::Error> {
    let object: Option<Object<T>> = Deserialize::deserialize(d)?;
    Ok(object.map(|object| Box::new(object.0)))
}

/// Deserializes a list of objects, like [`list`] and [`object`].
pub(super) fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    d: D,
) -> std::result::Result<Option<Vec<T>>, D::Error> {
    let objects: Option<Vec<Object<T>>> = list(d)?;
    Ok(objects.map(|objects| objects.into_iter().map(|object| object.0).collect()))
}

/// Fetches the pages of several listings in parallel and passes them to `each` in order, listing by listing: while one
/// page is written, the next ones are being fetched.
pub(super) fn each_page<P, T, I>(
    client: &Arc<Client>,
    listings: Vec<P>,
    pages: impl Fn(&Arc<Client>, &P, usize) -> I + Send + Sync + 'static,
    each: impl FnMut(&P, Step<Page<T>>) -> Result<()>,
) -> Result<()>
where
    P: Send + Sync + 'static,
    T: Row,
    I: Iterator<Item = Result<Page<T>>>,
{
    let (client, workers) = (Arc::clone(client), client.workers());
    let fetch = move |priority: usize, listing: &P, push: &mut dyn FnMut(Page<T>) -> bool| {
        for page in pages(&client, listing, priority) {
            if !push(page?) {
                break;
            }
        }
        Ok(())
    };
    fanout::in_order(listings, workers, |page| page.weight, fetch, each)
}

/// Like [`each_page`], but reads a listing again if it changed meanwhile, to find rows that slipped between two pages.
///
/// `each` inserts every row into the given [`Seen`], and writes the row if [`Seen::insert`] says so. Passes end when one
/// finds no further row of those that were there at the start. There are at most three, and none that would take half
/// of the remaining calls.
///
/// `what` names the rows in the log, such as `contacts`.
pub(super) fn every_row<P, T, I>(
    client: &Arc<Client>,
    what: &str,
    listings: Vec<P>,
    pages: impl Fn(&Arc<Client>, &P, usize) -> I + Clone + Send + Sync + 'static,
    seen: &mut Seen,
    mut each: impl FnMut(&P, Page<T>, &mut Seen) -> Result<()>,
) -> Result<Coverage>
where
    P: Clone + Send + Sync + 'static,
    T: Row,
    I: Iterator<Item = Result<Page<T>>>,
{
    /// A listing to read, with the time of its first answer if an earlier pass has read it.
    #[derive(Clone)]
    struct Pending<P> {
        listing: P,
        began: Option<DateTime<Utc>>,
    }
    let mut to_read: Vec<Pending<P>> = listings.into_iter().map(|listing| Pending { listing, began: None }).collect();
    for pass in 1.. {
        let (mut to_read_again, mut again) = (Vec::new(), AnotherPass::default());
        let mut is_under_way = false;
        let pages = pages.clone();
        let pages =
            move |client: &Arc<Client>, pending: &Pending<P>, priority| pages(client, &pending.listing, priority);
        each_page(client, to_read, pages, |pending, step| {
            if !std::mem::replace(&mut is_under_way, true) {
                seen.start_pass(pending.began);
            }
            match step {
                Step::Item(page) => {
                    let rows = page.rows.len() as u64 + page.oddities.left_out;
                    // A gateway whose clock is ahead must not hide that rows changed since.
                    let at = page.at.min(Utc::now());
                    seen.start_page(&PageFacts { at, count: page.count, rows });
                    if pass == 1 && rows > 0 {
                        let left = page.count.unwrap_or(0).saturating_sub(seen.rows_of_pass());
                        client.note_calls_to_progress(left.div_ceil(rows));
                    }
                    each(&pending.listing, page, seen)?;
                    seen.end_page()
                }
                Step::End(outcome) => {
                    outcome?;
                    is_under_way = false;
                    let began = seen.began();
                    if again.add_if_needed(pass, &seen.end_pass()) {
                        to_read_again.push(Pending { listing: pending.listing.clone(), began });
                    }
                    Ok(())
                }
            }
        })?;
        if to_read_again.is_empty() {
            break;
        }
        if let Some(why) = again.why_not(what, pass, client.calls_left()) {
            return Ok(Coverage::MayLackRows(why));
        }
        log::info!("the listing of {what} changed while it was read; reading it again ({} calls)", again.calls);
        to_read = to_read_again;
    }
    Ok(Coverage::Whole)
}

/// The listings that need another pass, together.
#[derive(Default)]
struct AnotherPass {
    /// How many calls the pass takes.
    calls: u64,
    /// How many rows this pass found that no earlier one had.
    found: u64,
}

impl AnotherPass {
    /// Adds a listing if it needs another pass, and returns whether it does: after the first pass if it has moved,
    /// after later ones if they found rows.
    fn add_if_needed(&mut self, pass: u32, end: &PassEnd) -> bool {
        let is_done = if pass == 1 { !end.has_moved } else { end.found == 0 };
        if !is_done {
            self.calls += u64::from(end.pages);
            self.found += end.found;
        }
        !is_done
    }

    /// Why there is no pass after this one, in words.
    fn why_not(&self, what: &str, pass: u32, calls_left: u64) -> Option<String> {
        let (calls, found) = (self.calls, self.found);
        if pass == PASSES {
            return Some(format!(
                "the listing of {what} changed while it was read, and the last of {PASSES} passes still found {found} more"
            ));
        }
        takes_half(calls, calls_left).then(|| {
            format!(
                "the listing of {what} changed while it was read, and the {calls} calls of another pass are more than \
                 half of those left"
            )
        })
    }
}

/// Whether so many calls are too many to read rows again: half of those left, or more.
pub(super) fn takes_half(calls: u64, calls_left: u64) -> bool {
    calls * 2 >= calls_left
}

/// Takes the rows out of a page, and warns about odd ones in the name of the stream.
pub(super) fn rows<T>(run: &mut Run, stream: &Stream, page: &mut Page<T>) -> Vec<T> {
    let rows = std::mem::take(&mut page.rows);
    run.odd_rows.note(stream, rows.len(), &page.oddities);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read_again_while_it_moves_and_passes_find_rows() {
        let end = |has_moved, found| PassEnd { has_moved, found, pages: 4 };
        for (pass, end, is_needed) in [
            (1, end(false, 9), false),
            (1, end(true, 9), true),
            // What the second pass finds slipped from the first one, whether the listing moves again or not.
            (2, end(true, 0), false),
            (2, end(false, 1), true),
        ] {
            let mut again = AnotherPass::default();
            assert_eq!(again.add_if_needed(pass, &end), is_needed, "{pass} {end:?}");
            let expected = if is_needed { (4, end.found) } else { (0, 0) };
            assert_eq!((again.calls, again.found), expected, "{pass} {end:?}");
        }
    }

    #[test]
    fn there_are_three_passes_at_most_and_none_takes_half_of_the_calls_left() {
        let again = AnotherPass { calls: 4, found: 2 };
        assert_eq!(again.why_not("things", 1, 9), None);
        assert_eq!(again.why_not("things", 2, 9), None);
        assert!(again.why_not("things", 3, 9).unwrap().ends_with("the last of 3 passes still found 2 more"));
        assert!(again.why_not("things", 1, 8).unwrap().contains("the 4 calls of another pass"));
    }
}
