//! Reads listings that are sorted newest first and grow while they are read.
//!
//! Their cursor is a page number. A new row pushes the last row of each page below it onto the next page, where it is
//! read a second time. Late rows can appear anywhere, not only at the top. But two equal rows may also be two activities
//! of the same second. To tell the cases apart, the previous page is read again: where both pages stand in the listing
//! that was read so far shows which of their rows are known.

use std::collections::HashSet;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};

use chrono::{DateTime, Utc};

use crate::client::{Page, Pages, Row};
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

/// Passes the pages of a listing to `push`, without repeated rows, until one has a row older than `oldest_wanted`, or `push`
/// returns false.
///
/// Every row that was there at the start comes, whatever is added. It comes once, unless more than a page of rows of one
/// second is added on top more than once: then some rows may come twice.
///
/// # Errors
/// Those of the calls, and `Failed` for a listing that repeats its pages endlessly.
pub(super) fn newest_first<T: DatedRow>(
    mut pages: Pages<T>,
    oldest_wanted: Option<DateTime<Utc>>,
    push: &mut dyn FnMut(Page<T>) -> bool,
) -> Result<()> {
    let (mut seen, hasher) = (SeenRows::default(), RandomState::new());
    let hash_rows = |page: &Page<T>| page.rows.iter().map(|row| hasher.hash_one(row.identity())).collect::<Vec<u64>>();
    while let Some(page) = pages.next() {
        let mut page = page?;
        let last = page.is_last();
        let mut repeated = Vec::new();
        // Most listings are one page.
        if !last || seen.is_begun() {
            let mut rows = hash_rows(&page);
            for _ in 0..TRIES {
                if !seen.may_repeat(&rows, page.rows.first().and_then(DatedRow::at)) {
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
            repeated = seen.insert(&rows, page.rows.last().and_then(DatedRow::at))?;
        }
        // The service has no date filter here, but the newest rows come first.
        let reaches_back = |oldest| page.rows.iter().any(|row| row.at().is_some_and(|at| at < oldest));
        let enough = !last && oldest_wanted.is_some_and(reaches_back);
        for at in repeated.into_iter().rev() {
            page.rows.remove(at);
        }
        if !push(page) || enough {
            break;
        }
    }
    Ok(())
}

/// The rows of a listing that have been read, as hashes.
#[derive(Default)]
struct SeenRows {
    /// All of them, also those that were added to a page after it was read.
    rows: HashSet<u64>,
    /// The listing in its order, as far as it is known.
    listing: Vec<KnownRow>,
    /// Where the previous page begins in it.
    page_start: usize,
    /// The previous page, as it was when it was last read.
    previous: Vec<u64>,
    /// The time of its last row.
    oldest: Option<DateTime<Utc>>,
    /// Whether it has been seen to change.
    has_grown: bool,
    /// Each page, as the hash of its rows in order.
    pages: HashSet<u64>,
    /// How many pages in a row were exact repeats.
    repeated_pages: usize,
}

#[derive(Clone, Copy)]
struct KnownRow {
    row: u64,
    /// False for a row that was added to a page after it was read.
    is_passed_on: bool,
}

impl SeenRows {
    fn is_begun(&self) -> bool {
        !self.pages.is_empty()
    }

    /// Whether a page may have a row again: one is equal to an earlier one, or the page is newer than the previous one, so
    /// that all of that was pushed on. `newest` is the time of its first row.
    fn may_repeat(&self, rows: &[u64], newest: Option<DateTime<Utc>>) -> bool {
        // Whole pages are often of one second, so an equal time says something only in a listing that is known to grow.
        let is_newer = |(newest, oldest)| newest > oldest || (self.has_grown && newest == oldest);
        newest.zip(self.oldest).is_some_and(is_newer) || rows.iter().any(|row| self.rows.contains(row))
    }

    /// Records how the previous page is now, and returns whether it is as it was when it was last read.
    fn is_unchanged(&mut self, now: Vec<u64>) -> bool {
        let unchanged = self.previous == now;
        self.has_grown |= !unchanged;
        self.previous = now;
        unchanged
    }

    /// Records a page, and returns the positions of repeated rows: the same activity again, not an equal one. `oldest` is
    /// the time of its last row.
    fn insert(&mut self, rows: &[u64], oldest: Option<DateTime<Utc>>) -> Result<Vec<usize>> {
        let two_pages: Vec<u64> = self.previous.iter().chain(rows).copied().collect();
        let start = self.find(&two_pages);
        let known = self.known(start, &two_pages);
        let beyond = self.listing.split_off(start + known.iter().flatten().count());
        self.listing.truncate(start);
        self.page_start = start + self.previous.len();
        self.rows.extend(&two_pages);
        let mut repeated = Vec::new();
        for (at, (row, known)) in two_pages.into_iter().zip(known).enumerate() {
            let is_passed_on = known.is_some_and(|known| known.is_passed_on);
            let position = at.checked_sub(self.previous.len());
            repeated.extend(position.filter(|_| is_passed_on));
            self.listing.push(KnownRow { row, is_passed_on: is_passed_on || position.is_some() });
        }
        self.listing.extend(beyond);
        (self.previous, self.oldest) = (rows.to_vec(), oldest);
        self.check_end(rows)?;
        Ok(repeated)
    }

    /// Where two pages begin in the listing as it is known. Rows are only added, so that is where the previous page began,
    /// or earlier by as many rows as were added above.
    fn find(&self, pages: &[u64]) -> usize {
        let mut best = (0, 0);
        for start in (0..=self.page_start).rev() {
            let known = self.known(start, pages);
            let overlap = pages.len().min(self.listing.len() - start);
            if known[..overlap].iter().all(Option::is_some) {
                return start;
            }
            let matches = known.iter().flatten().count();
            // Rows were added in between as well.
            if matches >= best.0 {
                best = (matches, start);
            }
        }
        best.1
    }

    /// Which of these rows are the known ones from `start` on, in their order.
    fn known(&self, start: usize, rows: &[u64]) -> Vec<Option<KnownRow>> {
        let mut known = self.listing[start..].iter().copied().peekable();
        rows.iter().map(|row| known.next_if(|known| known.row == *row)).collect()
    }

    /// # Errors
    /// `Failed` if so many pages in a row were exact repeats that the listing seems to be endless.
    fn check_end(&mut self, rows: &[u64]) -> Result<()> {
        let mut page = DefaultHasher::new();
        rows.hash(&mut page);
        if self.pages.insert(page.finish()) {
            self.repeated_pages = 0;
            return Ok(());
        }
        self.repeated_pages += 1;
        if self.repeated_pages < self.pages.len().max(REPEATED_PAGES) {
            return Ok(());
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

    /// A row of a second, newest first: 0 is the newest.
    const fn row(second: u64) -> u64 {
        second << 32
    }

    fn second(row: u64) -> u64 {
        row >> 32
    }

    fn at(row: u64) -> Option<DateTime<Utc>> {
        DateTime::from_timestamp(-i64::try_from(second(row)).unwrap(), 0)
    }

    fn is_new(row: u64) -> bool {
        !row.is_multiple_of(1 << 32)
    }

    /// Adds a row that differs from all others, in the second of the row above it.
    fn add(listing: &mut Vec<u64>, place: usize) {
        let number = 1 + listing.iter().filter(|row| is_new(**row)).count() as u64;
        let above = place.checked_sub(1).map_or(0, |above| second(listing[above]));
        listing.insert(place, row(above) + number);
    }

    /// Reads a listing page by page; `grow` changes it before each look at it.
    fn read(listing: &mut Vec<u64>, size: usize, mut grow: impl FnMut(&mut Vec<u64>, usize)) -> Vec<u64> {
        let (mut seen, mut found) = (SeenRows::default(), Vec::new());
        let page = |listing: &Vec<u64>, number: usize| listing.chunks(size).nth(number).map(<[u64]>::to_vec);
        for number in 0.. {
            grow(listing, number);
            let Some(mut rows) = page(listing, number) else { break };
            while number > 0 && seen.may_repeat(&rows, at(rows[0])) {
                if seen.is_unchanged(page(listing, number - 1).unwrap()) {
                    break;
                }
                rows = page(listing, number).unwrap();
            }
            let is_last = (number + 1) * size >= listing.len();
            let repeated = seen.insert(&rows, at(rows[rows.len() - 1])).unwrap();
            found.extend(rows.into_iter().enumerate().filter(|(at, _)| !repeated.contains(at)).map(|(_, row)| row));
            if is_last {
                break;
            }
        }
        found
    }

    /// The rows that are not new.
    fn old(rows: Vec<u64>) -> Vec<u64> {
        rows.into_iter().filter(|row| !is_new(*row)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        /// A listing with many equal rows that gets rows anywhere while it is read, and once more than a page of them on
        /// top: what came is the listing as it was.
        #[test]
        fn rows_that_were_there_come_once(
            seconds in prop::collection::vec(1usize..4, 1..40),
            grows in prop::collection::vec((0usize..3, 0usize..1000), 100),
            on_top in (0usize..20, 3usize..20),
            size in 5usize..9,
        ) {
            // Equal rows are of one second, so they stand together.
            let numbered = (1..).zip(&seconds);
            let listing: Vec<u64> = numbered.flat_map(|(second, count)| vec![row(second); *count]).collect();
            let found = read(&mut listing.clone(), size, |listing, number| {
                if number == on_top.0 {
                    (0..on_top.1).for_each(|_| add(listing, 0));
                    return;
                }
                let (count, place) = grows[number % grows.len()];
                for n in 0..count {
                    add(listing, (place + 7 * n) % (listing.len() + 1));
                }
            });
            prop_assert_eq!(old(found), listing);
        }
    }

    #[test]
    fn a_row_that_lands_in_the_middle_makes_no_second_activity() {
        let listing: Vec<u64> = (1..31).map(row).collect();
        let found = read(&mut listing.clone(), 10, |listing, number| {
            if number == 2 {
                // On the second page, while the first stays as it is.
                add(listing, 15);
            }
        });
        assert_eq!(old(found), listing);
    }

    #[test]
    fn equal_rows_come_after_more_than_a_page_of_new_rows_too() {
        // The pages do not begin with a pair.
        let listing: Vec<u64> = [1].into_iter().chain((2..41).flat_map(|second| [second; 2])).map(row).collect();
        for new in [3, 4, 5, 6, 7, 20, 30] {
            let found = read(&mut listing.clone(), 4, |listing, number| {
                if number == 4 {
                    (0..new).for_each(|_| add(listing, 0));
                }
            });
            assert_eq!(old(found), listing, "{new} new rows");
        }
    }

    #[test]
    fn more_than_a_page_of_new_rows_may_come_twice() {
        let listing: Vec<u64> = (1..8).map(row).collect();
        let found = read(&mut listing.clone(), 6, |listing, number| {
            let new = [0, 12, 13].get(number).copied().unwrap_or_default();
            (0..new).for_each(|_| add(listing, 0));
        });
        assert_eq!(old(found), listing);
    }

    #[test]
    fn equal_rows_over_two_pages_are_two_activities() {
        let rows = [1, 2, 3, 4, 4, 4, 5, 5].map(row);
        assert_eq!(read(&mut rows.to_vec(), 4, |_, _| {}), rows);
    }

    #[test]
    fn a_listing_that_repeats_its_pages_ends_with_an_error() {
        let pages_until_error = |distinct: u64| {
            let mut seen = SeenRows::default();
            let mut page = |page: u64| seen.insert(&[page % distinct, 100 + page % distinct], None);
            (0..100).find(|number| page(*number).is_err()).unwrap() + 1 - distinct
        };
        assert_eq!((pages_until_error(1), pages_until_error(3), pages_until_error(20)), (10, 10, 20));
        // Rows that came before in another order are no repeated page.
        let mut seen = SeenRows::default();
        assert!((0..30).all(|page| seen.insert(&[page % 3, page % 5, page % 7], None).is_ok()));
    }
}
