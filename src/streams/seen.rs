//! Which rows of a listing have been read, and whether the listing changed while it was read. Pure.
//!
//! A cursor is a page number over a set that changes. When a row leaves the set, all later rows move up by one place,
//! and the first row of the next page slips onto the page that was read already. The count does not show it if another
//! row enters meanwhile, so the dates of the rows and repeated rows are watched as well.

use std::collections::HashMap;

use chrono::{DateTime, SubsecRound, Utc};

use crate::error::{Error, Result};
use crate::id::Id;

/// This many pages in a row without a new row are always accepted.
const REPEATED_PAGES: u32 = 10;

/// The rows read in any pass. An entry takes 33 bytes, because an account may have 200,000 contacts.
#[derive(Default)]
pub(super) struct Seen {
    rows: HashMap<Id, Mark>,
    /// The current page, counted from 1 over all passes.
    page: u32,
    pass: Pass,
}

#[derive(Clone, Copy, Default)]
struct Mark {
    /// The last page with the row.
    page: u32,
    is_written: bool,
}

/// One pass through the pages of a listing.
#[derive(Default)]
struct Pass {
    /// The service's time of the listing's first answer, maybe in an earlier pass. In whole seconds, like the dates of
    /// the rows.
    began: Option<DateTime<Utc>>,
    /// The last page before the pass.
    after: u32,
    /// What the service counted last.
    count: Option<u64>,
    has_moved: bool,
    /// Rows of the pass, including unusable ones.
    rows: u64,
    /// Rows that no earlier pass had, although they were in the listing when the read began.
    found: u64,
    /// Whether the current page has a row that is new in this pass.
    is_page_new: bool,
    pages_with_new: u32,
    pages_without_new: u32,
}

/// A page, before its rows are inserted.
pub(super) struct PageFacts {
    /// The service's time.
    pub(super) at: DateTime<Utc>,
    /// How many rows the service counts in the listing.
    pub(super) count: Option<u64>,
    /// How many rows it has, including unusable ones.
    pub(super) rows: u64,
}

/// What a row says about the listing it came from.
pub(super) struct Sighting {
    pub(super) id: Id,
    /// When the row entered the listing, as far as the service dates it.
    pub(super) entered_at: Option<DateTime<Utc>>,
    /// The latest change of the row that the service dates.
    pub(super) changed_at: Option<DateTime<Utc>>,
    /// Whether to write the row. It is false for one older than the lower bound: see `window::query_bound`.
    pub(super) is_wanted: bool,
}

/// How a pass ended.
#[derive(Debug, PartialEq)]
pub(super) struct PassEnd {
    /// Rows may have slipped between its pages.
    pub(super) has_moved: bool,
    /// How many rows no earlier pass had, although they were in the listing when the read began.
    pub(super) found: u64,
    pub(super) pages: u32,
}

impl Seen {
    /// Begins a pass. `began` is the time of the listing's first answer, if an earlier pass got it.
    pub(super) fn start_pass(&mut self, began: Option<DateTime<Utc>>) {
        self.pass = Pass { began, after: self.page, ..Pass::default() };
    }

    /// Begins a page of the pass.
    pub(super) fn start_page(&mut self, page: &PageFacts) {
        let pass = &mut self.pass;
        pass.began.get_or_insert(page.at.trunc_subsecs(0));
        pass.has_moved |= pass.count.zip(page.count).is_some_and(|(before, now)| before != now);
        pass.count = page.count.or(pass.count);
        pass.rows += page.rows;
        pass.is_page_new = false;
        self.page += 1;
    }

    /// How many rows the pages of the pass had so far, including unusable ones.
    pub(super) fn rows_of_pass(&self) -> u64 {
        self.pass.rows
    }

    /// Records a row, and returns whether to write it: at most once per run.
    pub(super) fn insert(&mut self, row: Sighting) -> bool {
        let pass = &mut self.pass;
        // A row dated in the same second may be later than the answer.
        let is_late = |at: Option<DateTime<Utc>>| at.zip(pass.began).is_some_and(|(at, began)| at >= began);
        pass.has_moved |= is_late(row.entered_at) || is_late(row.changed_at);
        let is_late = is_late(row.entered_at);
        let mark = self.rows.entry(row.id).or_default();
        // A late row needs no other pass: the next run's lower bound is earlier.
        pass.found += u64::from(mark.page == 0 && !is_late);
        pass.is_page_new |= mark.page <= pass.after;
        pass.has_moved |= mark.page > pass.after && mark.page < self.page;
        mark.page = self.page;
        let write = row.is_wanted && !mark.is_written;
        mark.is_written |= row.is_wanted;
        write
    }

    /// Ends a page of the pass.
    ///
    /// # Errors
    /// `Failed` for a listing that continues without new rows, so that it cannot use up the daily quota.
    pub(super) fn end_page(&mut self) -> Result<()> {
        let pass = &mut self.pass;
        if pass.is_page_new {
            pass.pages_with_new += 1;
            pass.pages_without_new = 0;
            return Ok(());
        }
        pass.pages_without_new += 1;
        if pass.pages_without_new < pass.pages_with_new.max(REPEATED_PAGES) {
            return Ok(());
        }
        Err(Error::Failed(format!(
            "the listing does not end: its last {} pages repeat rows of earlier pages. Run again later, with the last \
             STATE if there is one",
            pass.pages_without_new
        )))
    }

    /// Ends the pass.
    pub(super) fn end_pass(&mut self) -> PassEnd {
        let pass = std::mem::take(&mut self.pass);
        let pages = self.page - pass.after;
        let is_short = pass.count.is_some_and(|count| count != pass.rows);
        // Rows cannot slip between pages when there is only one.
        PassEnd { has_moved: pages > 1 && (pass.has_moved || is_short), found: pass.found, pages }
    }

    /// The time of the listing's first answer.
    pub(super) fn began(&self) -> Option<DateTime<Utc>> {
        self.pass.began
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_000_000 + second, 0).unwrap()
    }

    /// A row that entered and changed long before the listing was read.
    fn old(id: &str) -> Sighting {
        Sighting { id: Id::from(id), entered_at: Some(at(-60)), changed_at: Some(at(-50)), is_wanted: true }
    }

    /// Reads a pass with these pages, each with what the service counts; the ids that are to be written.
    fn pass(seen: &mut Seen, began: Option<DateTime<Utc>>, pages: Vec<(u64, Vec<Sighting>)>) -> (PassEnd, Vec<String>) {
        let mut written = Vec::new();
        seen.start_pass(began);
        for (count, rows) in pages {
            // The clock of the answers has fractions, that of the rows has none.
            let at = at(0) + TimeDelta::milliseconds(700);
            seen.start_page(&PageFacts { at, count: Some(count), rows: rows.len() as u64 });
            for row in rows {
                let id = row.id.to_string();
                if seen.insert(row) {
                    written.push(id);
                }
            }
            seen.end_page().unwrap();
        }
        (seen.end_pass(), written)
    }

    fn one_pass(pages: Vec<(u64, Vec<Sighting>)>) -> PassEnd {
        pass(&mut Seen::default(), None, pages).0
    }

    fn ids(ids: &[&str]) -> Vec<Sighting> {
        ids.iter().map(|id| old(id)).collect()
    }

    #[test]
    fn a_row_takes_few_bytes() {
        assert_eq!(size_of::<(Id, Mark)>(), 32);
    }

    #[test]
    fn a_listing_at_rest_has_not_moved() {
        let end = one_pass(vec![(3, ids(&["a", "b"])), (3, ids(&["c"]))]);
        assert_eq!(end, PassEnd { has_moved: false, found: 3, pages: 2 });
        let end = one_pass(vec![(0, vec![])]);
        assert_eq!(end, PassEnd { has_moved: false, found: 0, pages: 1 });
    }

    #[test]
    fn a_count_that_differs_shows_that_it_moved() {
        assert!(one_pass(vec![(3, ids(&["a", "b"])), (4, ids(&["c"]))]).has_moved);
        assert!(one_pass(vec![(4, ids(&["a", "b"])), (4, ids(&["c"]))]).has_moved);
        assert!(one_pass(vec![(2, ids(&["a", "b"])), (2, ids(&["c"]))]).has_moved);
    }

    #[test]
    fn a_row_dated_after_the_first_answer_shows_that_it_moved() {
        let row = |entered: i64, changed: i64| Sighting {
            entered_at: Some(at(entered)),
            changed_at: Some(at(changed)),
            ..old("c")
        };
        let with = |row: Sighting| one_pass(vec![(3, ids(&["a", "b"])), (3, vec![row])]);
        assert!(!with(row(-60, -1)).has_moved);
        // The same second may be after the answer.
        assert_eq!(with(row(-60, 0)), PassEnd { has_moved: true, found: 3, pages: 2 });
        assert_eq!(with(row(0, -60)), PassEnd { has_moved: true, found: 2, pages: 2 });
    }

    #[test]
    fn a_row_that_came_on_an_earlier_page_shows_that_it_moved() {
        assert!(one_pass(vec![(3, ids(&["a", "b"])), (3, ids(&["b"]))]).has_moved);
        // Twice on one page is the listing's own way.
        assert!(!one_pass(vec![(3, ids(&["a", "a"])), (3, ids(&["b"]))]).has_moved);
    }

    #[test]
    fn one_page_is_one_moment() {
        assert!(!one_pass(vec![(7, ids(&["a", "b"]))]).has_moved);
    }

    #[test]
    fn another_pass_finds_who_slipped_and_writes_nobody_twice() {
        let mut seen = Seen::default();
        let (end, written) = pass(&mut seen, None, vec![(4, ids(&["a", "b"])), (3, ids(&["d"]))]);
        assert!(end.has_moved);
        assert_eq!(written, ["a", "b", "d"]);
        let late = Sighting { entered_at: Some(at(1)), ..old("e") };
        let again = vec![(4, vec![old("b"), old("c")]), (4, vec![old("d"), late])];
        let (end, written) = pass(&mut seen, Some(at(0)), again);
        // Who entered after the listing began is written, but no reason for another pass.
        assert_eq!((end.found, written), (1, vec!["c".into(), "e".into()]));
        let (end, written) = pass(&mut seen, Some(at(0)), vec![(4, ids(&["b", "c"])), (4, ids(&["d", "e"]))]);
        assert_eq!((end, written), (PassEnd { has_moved: false, found: 0, pages: 2 }, vec![]));
        assert_eq!(seen.rows.len(), 5);
    }

    #[test]
    fn a_row_that_nobody_wants_yet_is_written_when_another_listing_has_it() {
        let mut seen = Seen::default();
        let unwanted = Sighting { is_wanted: false, ..old("a") };
        assert_eq!(pass(&mut seen, None, vec![(1, vec![unwanted])]).1, [""; 0]);
        assert_eq!(pass(&mut seen, None, vec![(1, ids(&["a"]))]).1, ["a"]);
    }

    #[test]
    fn a_listing_that_never_ends_is_an_error() {
        let repeat = |new: usize| {
            let mut seen = Seen::default();
            seen.start_pass(None);
            for page in 0.. {
                seen.start_page(&PageFacts { at: at(0), count: None, rows: 1 });
                seen.insert(old(&page.min(new - 1).to_string()));
                if seen.end_page().is_err() {
                    return page + 1 - new;
                }
            }
            unreachable!("the listing ends")
        };
        assert_eq!((repeat(1), repeat(10), repeat(15)), (10, 10, 15));
    }
}
