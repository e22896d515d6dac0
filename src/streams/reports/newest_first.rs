//! Listings that are sorted newest first and grow at their top while they are read.
//!
//! Their cursor is a page number, so that each new row moves one row that was read already onto the next page. Rows
//! that are equal in all that the service sends may be two activities of the same second or one that came twice; how
//! far the first page has moved tells which.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::client::{Client, Page, Row};
use crate::error::Result;

/// How often a page is read at most, while the listing does not hold still around it.
const TRIES: u32 = 5;

/// A row of a listing that is sorted newest first.
pub(super) trait Activity: Row {
    /// What makes it the activity that it is. What the service says of the contact beside that, such as a name, may
    /// change between two pages.
    type Identity<'a>: std::hash::Hash
    where
        Self: 'a;
    fn identity(&self) -> Self::Identity<'_>;
    /// When it happened.
    fn at(&self) -> Option<DateTime<Utc>>;
}

/// A page of tracked activities, some of which may have come on an earlier page.
pub(super) struct Part<T> {
    pub(super) page: Page<T>,
    /// The rows that came before.
    repeated: Range<usize>,
}

impl<T> Part<T> {
    /// A page of a listing that does not grow.
    pub(super) fn whole(page: Page<T>) -> Part<T> {
        Part { page, repeated: 0..0 }
    }

    /// Those of the page's rows that did not come before.
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

/// Passes the pages of a listing on until one reaches back before `until`, or `push` answers false.
pub(super) fn newest_first<T: Activity>(
    client: &Arc<Client>,
    listing: &Listing,
    until: Option<DateTime<Utc>>,
    push: &mut dyn FnMut(Part<T>) -> bool,
) -> Result<()> {
    let (mut seen, hasher) = (Seen::new(), RandomState::new());
    let hashes = |page: &Page<T>| page.rows.iter().map(|row| hasher.hash_one(row.identity())).collect::<Vec<u64>>();
    let Listing { endpoint, path, query, priority } = *listing;
    let mut pages = client.pages::<T>(endpoint, path, query, priority);
    while let Some(page) = pages.next() {
        let mut page = page?;
        let last = page.is_last();
        let mut repeated = 0..0;
        // Most listings are one page.
        if !last || seen.is_begun() {
            for tries in 1.. {
                let rows = hashes(&page);
                let alike = seen.alike(&rows);
                // A page that has moved has rows that are known.
                let settled =
                    alike.is_empty() || seen.holds_still(hashes(&client.first(endpoint, path, query, priority)?));
                if settled || tries == TRIES {
                    repeated = seen.take(&rows, alike);
                    break;
                }
                page = pages.again()?;
            }
        }
        // There is no date filter, but the newest come first.
        let reaches_back = |until| page.rows.iter().any(|row| row.at().is_some_and(|at| at < until));
        let enough = !last && until.is_some_and(reaches_back);
        if !push(Part { page, repeated }) || enough {
            break;
        }
    }
    Ok(())
}

/// What has been read of a listing.
struct Seen {
    rows: HashSet<u64>,
    /// The first page, as it was when it was read last.
    first: Vec<u64>,
    /// How many rows have come on top since the last page; `None` for more than a page of them.
    owed: Option<usize>,
}

impl Seen {
    fn new() -> Seen {
        Seen { rows: HashSet::new(), first: Vec::new(), owed: Some(0) }
    }

    fn is_begun(&self) -> bool {
        !self.first.is_empty()
    }

    /// The first rows of a page that are like ones that came before.
    fn alike(&self, rows: &[u64]) -> Range<usize> {
        let start = rows.iter().take_while(|row| !self.rows.contains(row)).count();
        start..start + rows[start..].iter().take_while(|row| self.rows.contains(row)).count()
    }

    /// Whether the listing has not grown since its first page was read last; this is how it is now.
    fn holds_still(&mut self, first: Vec<u64>) -> bool {
        let grown = (0..first.len()).find(|new| self.first.starts_with(&first[*new..]));
        self.owed = self.owed.zip(grown).map(|(owed, grown)| owed + grown);
        self.first = first;
        grown == Some(0)
    }

    /// Takes a page in, and says which of its rows are not only like earlier ones, but the same.
    fn take(&mut self, rows: &[u64], alike: Range<usize>) -> Range<usize> {
        if !self.is_begun() {
            self.first = rows.to_vec();
        }
        self.rows.extend(rows);
        let owed = self.owed.replace(0).unwrap_or(usize::MAX);
        alike.start..alike.end.min(alike.start.saturating_add(owed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        /// A listing of rows that are often equal, read while it grows: what is left is the listing as it was.
        #[test]
        fn what_is_not_repeated_is_the_listing(
            old in prop::collection::vec(0u64..4, 1..40),
            grows in prop::collection::vec(0usize..4, 100),
            size in 4usize..9,
        ) {
            let mut now = old.clone();
            let (mut seen, mut read) = (Seen::new(), Vec::new());
            for (number, grow) in grows.iter().enumerate() {
                let Some(page) = now.chunks(size).nth(number).map(<[u64]>::to_vec) else { break };
                let alike = seen.alike(&page);
                if !alike.is_empty() {
                    seen.holds_still(now.chunks(size).next().unwrap_or_default().to_vec());
                }
                let repeated = seen.take(&page, alike);
                read.extend(page.into_iter().enumerate().filter(|(at, _)| !repeated.contains(at)).map(|(_, row)| row));
                for _ in 0..*grow {
                    now.insert(0, 10 + now.len() as u64);
                }
            }
            read.retain(|row| *row < 10);
            prop_assert_eq!(read, old);
        }
    }
}
