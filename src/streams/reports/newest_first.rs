//! Reads listings that are sorted newest first and grow while they are read.
//!
//! Their cursor is a page number. A new row pushes the last row of each page below it onto the next page, where it is
//! read a second time. Late rows can appear anywhere, not only at the top. But two equal rows may also be two
//! activities of the same second. To tell the cases apart, the previous page is read again: a row that is no longer on
//! it is the one that was pushed to the next page.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::client::{Client, Page, Row};
use crate::error::{Error, Result};

/// The most attempts at a page while the listing keeps changing.
const TRIES: u32 = 5;
/// The listing counts as endless after this many repeated pages in a row, and at least as many as there were others.
const REPEATED_PAGES: usize = 10;

/// A row of a listing that is sorted newest first.
pub(super) trait DatedRow: Row {
    /// The fields that identify the activity. Others, such as the contact's name, may change between two pages.
    type Identity<'a>: std::hash::Hash
    where
        Self: 'a;
    fn identity(&self) -> Self::Identity<'_>;
    /// When it happened.
    fn at(&self) -> Option<DateTime<Utc>>;
}

/// A page of activities. Some may be repeated from an earlier page.
pub(super) struct Part<T> {
    pub(super) page: Page<T>,
    /// The positions of the repeated rows.
    repeated: Vec<usize>,
}

impl<T> Part<T> {
    /// A page of a listing that does not grow.
    pub(super) fn whole(page: Page<T>) -> Part<T> {
        Part { page, repeated: Vec::new() }
    }

    /// The rows that are not repeated. `rows` are those of the page, in its order.
    pub(super) fn fresh(&self, rows: Vec<T>) -> impl Iterator<Item = T> + use<T> {
        let repeated = self.repeated.clone();
        rows.into_iter().enumerate().filter(move |(at, _)| !repeated.contains(at)).map(|(_, row)| row)
    }
}

/// A listing that is sorted newest first.
pub(super) struct Listing<'a> {
    pub(super) endpoint: &'static str,
    pub(super) path: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) priority: usize,
}

/// Passes the pages of a listing to `push` until one has a row older than `until`, or `push` returns false.
///
/// # Errors
/// Those of the calls, and `Failed` for a listing that repeats its pages endlessly.
pub(super) fn newest_first<T: DatedRow>(
    client: &Arc<Client>,
    listing: &Listing,
    until: Option<DateTime<Utc>>,
    push: &mut dyn FnMut(Part<T>) -> bool,
) -> Result<()> {
    let (mut seen, hasher) = (SeenRows::default(), RandomState::new());
    let hash_rows = |page: &Page<T>| page.rows.iter().map(|row| hasher.hash_one(row.identity())).collect::<Vec<u64>>();
    let Listing { endpoint, path, query, priority } = *listing;
    let mut pages = client.pages::<T>(endpoint, path, query, priority);
    while let Some(page) = pages.next() {
        let mut page = page?;
        let last = page.is_last();
        let mut repeated = Vec::new();
        // Most listings are one page.
        if !last || seen.is_begun() {
            let mut rows = hash_rows(&page);
            for _ in 0..TRIES {
                if !seen.has_any(&rows) {
                    break;
                }
                let Some(previous) = pages.previous() else { break };
                if seen.is_unchanged(hash_rows(&previous?)) {
                    break;
                }
                // The listing grew again in between, so this page may have changed as well.
                page = pages.again()?;
                rows = hash_rows(&page);
            }
            repeated = seen.insert(&rows)?;
        }
        // The service has no date filter here, but the newest rows come first.
        let reaches_back = |until| page.rows.iter().any(|row| row.at().is_some_and(|at| at < until));
        let enough = !last && until.is_some_and(reaches_back);
        if !push(Part { page, repeated }) || enough {
            break;
        }
    }
    Ok(())
}

/// The rows of a listing that have been read, as hashes.
#[derive(Default)]
struct SeenRows {
    rows: HashSet<u64>,
    /// The previous page, as it was when its rows were passed on.
    before: Vec<u64>,
    /// The same page, as it was when it was last read again.
    now: Vec<u64>,
    /// How often each row was pushed to a later page and has not been read again there.
    moved_on: HashMap<u64, usize>,
    /// Whether a whole page or more was pushed on, so that the number of repeated rows is unknown.
    is_lost: bool,
    /// Each page, as the hash of its rows in order.
    pages: HashSet<u64>,
    /// How many pages in a row were exact repeats.
    repeated_pages: usize,
}

impl SeenRows {
    fn is_begun(&self) -> bool {
        !self.pages.is_empty()
    }

    /// Whether a page has a row equal to an earlier one.
    fn has_any(&self, rows: &[u64]) -> bool {
        rows.iter().any(|row| self.rows.contains(row))
    }

    /// Records how the previous page is now, and returns whether it is as it was when it was last read.
    fn is_unchanged(&mut self, now: Vec<u64>) -> bool {
        let unchanged = self.now == now;
        self.now = now;
        unchanged
    }

    /// Records a page, and returns the positions of repeated rows: the same activity again, not an equal one.
    fn insert(&mut self, rows: &[u64]) -> Result<Vec<usize>> {
        // Rows are only added, so the rows that stayed on the previous page keep their order.
        let mut now = self.now.iter();
        let stayed = self.before.iter().take_while(|row| now.any(|other| other == *row)).count();
        for row in &self.before[stayed..] {
            *self.moved_on.entry(*row).or_default() += 1;
        }
        // If none stayed, rows of earlier pages may have been pushed on too.
        self.is_lost |= stayed == 0 && !self.before.is_empty();
        let mut repeated = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            match self.moved_on.get_mut(row) {
                Some(count) if *count > 0 => {
                    *count -= 1;
                    repeated.push(at);
                }
                _ if self.is_lost && self.rows.contains(row) => repeated.push(at),
                _ => {}
            }
        }
        self.is_lost &= !repeated.is_empty();
        self.rows.extend(rows);
        (self.before, self.now) = (rows.to_vec(), rows.to_vec());
        let mut page = DefaultHasher::new();
        rows.hash(&mut page);
        if self.pages.insert(page.finish()) {
            self.repeated_pages = 0;
            return Ok(repeated);
        }
        self.repeated_pages += 1;
        if self.repeated_pages < self.pages.len().max(REPEATED_PAGES) {
            return Ok(repeated);
        }
        Err(Error::Failed(format!(
            "the listing does not end: its last {} pages are the same as earlier ones. Run again later, with the last \
             STATE if there is one",
            self.repeated_pages
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads a listing page by page; `grow` changes it before each look at it.
    fn read(listing: &mut Vec<u64>, size: usize, mut grow: impl FnMut(&mut Vec<u64>, usize)) -> Vec<u64> {
        let (mut seen, mut found) = (SeenRows::default(), Vec::new());
        let page = |listing: &Vec<u64>, number: usize| listing.chunks(size).nth(number).map(<[u64]>::to_vec);
        for number in 0.. {
            grow(listing, number);
            let Some(mut rows) = page(listing, number) else { break };
            while number > 0 && seen.has_any(&rows) {
                if seen.is_unchanged(page(listing, number - 1).unwrap()) {
                    break;
                }
                rows = page(listing, number).unwrap();
            }
            let repeated = seen.insert(&rows).unwrap();
            found.extend(rows.into_iter().enumerate().filter(|(at, _)| !repeated.contains(at)).map(|(_, row)| row));
        }
        found
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        /// A listing with many equal rows that gets rows anywhere while it is read: what came is the listing as it was.
        #[test]
        fn rows_that_were_there_come_once(
            seconds in prop::collection::vec(1usize..4, 1..40),
            grows in prop::collection::vec((0usize..3, 0usize..1000), 100),
            size in 4usize..9,
        ) {
            // Equal rows are of one second, so they stand together.
            let old: Vec<u64> = seconds.iter().enumerate().flat_map(|(second, count)| vec![second as u64; *count]).collect();
            let mut new = 1000;
            let mut listing = old.clone();
            let found = read(&mut listing, size, |listing, number| {
                let (count, at) = grows[number % grows.len()];
                for n in 0..count {
                    new += 1;
                    listing.insert((at + 7 * n) % (listing.len() + 1), new);
                }
            });
            let found: Vec<u64> = found.into_iter().filter(|row| *row < 1000).collect();
            prop_assert_eq!(found, old);
        }
    }

    #[test]
    fn a_row_that_lands_in_the_middle_makes_no_second_activity() {
        let mut listing: Vec<u64> = (0..30).collect();
        let found = read(&mut listing, 10, |listing, number| {
            if number == 2 {
                // On the second page, while the first stays as it is.
                listing.insert(15, 99);
            }
        });
        assert_eq!(found, (0..30).collect::<Vec<u64>>());
    }

    #[test]
    fn more_than_a_page_of_new_rows_on_top_repeats_nothing() {
        let mut listing: Vec<u64> = (0..12).collect();
        let found = read(&mut listing, 4, |listing, number| {
            if number == 2 {
                listing.splice(0..0, 100..105);
            }
        });
        assert_eq!(found, (0..12).collect::<Vec<u64>>());
    }

    #[test]
    fn equal_rows_over_two_pages_are_two_activities() {
        let rows = [1, 2, 3, 4, 4, 4, 5, 5];
        assert_eq!(read(&mut rows.to_vec(), 4, |_, _| {}), rows);
    }

    #[test]
    fn a_listing_that_repeats_its_pages_ends_with_an_error() {
        let pages_until_error = |distinct: u64| {
            let mut seen = SeenRows::default();
            (0..100).find(|page| seen.insert(&[page % distinct, 100 + page % distinct]).is_err()).unwrap() + 1
                - distinct
        };
        assert_eq!((pages_until_error(1), pages_until_error(3), pages_until_error(20)), (10, 10, 20));
        // Rows that came before in another order are no repeated page.
        let mut seen = SeenRows::default();
        assert!((0..30).all(|page| seen.insert(&[page % 3, page % 5, page % 7]).is_ok()));
    }
}
