//! Counts rows that cannot be written as they are, and warns once per field or stream.

use std::collections::{BTreeMap, BTreeSet};

use crate::client::Oddities;
use crate::error::{Error, Result};
use crate::logger::warn_once;
use crate::stream::Stream;

/// What was odd about the rows of each stream.
#[derive(Default)]
pub(crate) struct OddRows(BTreeMap<&'static str, Odd>);

/// What was odd about the rows of a stream so far.
#[derive(Default)]
struct Odd {
    /// Unknown fields so far.
    unknown: BTreeSet<String>,
    /// Fields so far with a value that they cannot hold.
    unreadable: BTreeSet<String>,
    rows: u64,
    left_out: u64,
}

/// Unknown fields are named up to this many per stream, then only counted.
const NAMED_FIELDS: usize = 20;
/// Unknown fields are counted up to this many, which is also the most that one page reports.
const COUNTED_FIELDS: usize = 1000;
/// If more rows than this are unusable, and more than one in ten, the service must have changed its format.
const FEW_LEFT_OUT: u64 = 10;

impl OddRows {
    /// Counts the rows of a page, and warns about odd ones.
    pub(crate) fn note(&mut self, stream: &Stream, rows: usize, oddities: &Oddities) {
        let name = stream.name;
        let odd = self.0.entry(name).or_default();
        odd.rows += rows as u64 + oddities.left_out;
        for field in &oddities.unknown {
            if odd.unknown.len() < COUNTED_FIELDS
                && odd.unknown.insert(field.clone())
                && odd.unknown.len() <= NAMED_FIELDS
            {
                log::warn!("{name}: unknown field {field} is not written");
            }
        }
        for (field, record) in &oddities.unreadable {
            if odd.unreadable.insert(field.clone()) {
                log::warn!("{name}: {field} has values that it cannot hold, first in {record}; they become null");
            }
        }
        if let Some(why) = &oddities.why_left_out {
            if odd.left_out == 0 {
                log::warn!("{name}: a row cannot be used and is not written: {why}");
            }
            odd.left_out += oddities.left_out;
        }
    }

    /// Whether so many rows of a stream were unusable so far that neither its bookmark nor its resume point may move.
    pub(crate) fn is_too_odd(&self, stream: &Stream) -> bool {
        self.0.get(stream.name).is_some_and(|odd| are_too_many(odd.left_out, odd.rows))
    }

    /// Logs how many odd rows a stream had in all.
    ///
    /// # Errors
    /// `Failed` if so many rows were unusable that the service must have changed. The bookmark must not move then.
    pub(crate) fn check(&mut self, stream: &Stream) -> Result<()> {
        let Some(odd) = self.0.remove(stream.name) else { return Ok(()) };
        let name = stream.name;
        if odd.unknown.len() > NAMED_FIELDS {
            let at_least = if odd.unknown.len() < COUNTED_FIELDS { "" } else { "at least " };
            let more = odd.unknown.len() - NAMED_FIELDS;
            log::warn!("{name}: {at_least}{more} more unknown fields are not written");
        }
        if are_too_many(odd.left_out, odd.rows) {
            return Err(changed_format("rows", odd.left_out, odd.rows));
        }
        if odd.left_out > 0 {
            log::warn!("{name}: {} of {} rows were not written because they lack a usable key", odd.left_out, odd.rows);
        }
        Ok(())
    }
}

/// Warns about rows of a listing that only names what a stream reads. `what` names them in the log.
///
/// # Errors
/// `Failed` if so many rows were unusable that the service must have changed.
pub(crate) fn check_listing(what: &str, pages: &[(usize, Oddities)]) -> Result<()> {
    let left_out: u64 = pages.iter().map(|(_, oddities)| oddities.left_out).sum();
    let rows = pages.iter().map(|(usable, _)| *usable as u64).sum::<u64>() + left_out;
    if are_too_many(left_out, rows) {
        return Err(changed_format(what, left_out, rows));
    }
    if left_out > 0 {
        warn_once(format!("{left_out} of {rows} {what} lack a usable id, so their activity is not read"));
    }
    Ok(())
}

fn are_too_many(left_out: u64, rows: u64) -> bool {
    left_out > FEW_LEFT_OUT && left_out * 10 > rows
}

fn changed_format(what: &str, left_out: u64, rows: u64) -> Error {
    Error::Failed(format!(
        "{left_out} of {rows} {what} cannot be used: the service has changed its format; update the tap, or report it"
    ))
}
