//! Counts the rows that cannot be written as they came, and says so once a field or stream.

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
    /// Fields that were warned of.
    unknown: BTreeSet<String>,
    rows: u64,
    left_out: u64,
}

/// Unknown fields are named up to this many a stream, then counted.
const NAMED_FIELDS: usize = 20;
/// And counted up to this many, which is also the most that one page notes.
const COUNTED_FIELDS: usize = 1000;
/// More rows than this must be left out, and more than one in ten, before the service counts as changed.
const FEW_LEFT_OUT: u64 = 10;

impl OddRows {
    /// Takes the rows of a page into account, and warns of what is odd about them.
    pub(crate) fn note(&mut self, stream: &Stream, rows: usize, oddities: &Oddities) {
        let name = stream.name;
        let odd = self.0.entry(name).or_default();
        odd.rows += rows as u64 + oddities.left_out;
        for field in &oddities.unknown {
            if odd.unknown.len() < COUNTED_FIELDS
                && odd.unknown.insert(field.clone())
                && odd.unknown.len() <= NAMED_FIELDS
            {
                log::warn!("{name}: the field {field} is not known to this version and is left out");
            }
        }
        for (field, record) in &oddities.unreadable {
            warn_once(format!("{name}: {field} has values that it cannot hold, first in {record}; they become null"));
        }
        if let Some(why) = &oddities.why_left_out {
            if odd.left_out == 0 {
                log::warn!("{name}: a row is left out: {why}");
            }
            odd.left_out += oddities.left_out;
        }
    }

    /// Tells what was odd about the rows of a stream in all.
    ///
    /// # Errors
    /// `Failed` when so many rows were left out that the service must have changed: no bookmark may move then.
    pub(crate) fn check(&mut self, stream: &Stream) -> Result<()> {
        let Some(odd) = self.0.remove(stream.name) else { return Ok(()) };
        let name = stream.name;
        if odd.unknown.len() > NAMED_FIELDS {
            let at_least = if odd.unknown.len() < COUNTED_FIELDS { "" } else { "at least " };
            let more = odd.unknown.len() - NAMED_FIELDS;
            log::warn!("{name}: {at_least}{more} more unknown fields are left out");
        }
        if odd.left_out > FEW_LEFT_OUT && odd.left_out * 10 > odd.rows {
            return Err(Error::Failed(format!(
                "{} of {} rows cannot be used: the service has changed its format; update the tap, or report it",
                odd.left_out, odd.rows
            )));
        }
        if odd.left_out > 0 {
            log::warn!("{name}: {} of {} rows were left out, since they lack a usable key", odd.left_out, odd.rows);
        }
        Ok(())
    }
}
