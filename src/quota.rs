//! The daily quota, and the count of the calls that use it up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The API calls that an application may make in a day, over all accounts. The day ends at 00:00 UTC.
pub(crate) const DAILY_QUOTA: u64 = 10_000;

/// The share of the daily quota that a number of calls takes, in percent with two digits.
pub(crate) fn share_of_quota(calls: u64) -> String {
    let share = 10_000 * calls / DAILY_QUOTA;
    format!("{}.{:02}", share / 100, share % 100)
}

/// A number of calls in words.
pub(crate) fn calls_in_words(calls: u64) -> String {
    format!("{calls} call{}", if calls == 1 { "" } else { "s" })
}

/// How many runs of `most` calls each it takes to make this many, in words. The first calls of each run, for the plan and
/// the lists, come on top.
pub(crate) fn runs_in_words(calls: u64, most: u64) -> String {
    let runs = calls.div_ceil(most);
    format!("{runs} run{}", if runs == 1 { "" } else { "s" })
}

/// An estimated time, in the largest unit of which it is at least one and a half.
pub(crate) fn in_words(time: Duration) -> String {
    let seconds = time.as_secs_f64().ceil();
    let units = [("day", 86_400.0), ("hour", 3600.0), ("minute", 60.0)];
    let (unit, length) = units.into_iter().find(|(_, length)| seconds >= 1.5 * length).unwrap_or(("second", 1.0));
    let number = (seconds / length).round();
    format!("{number} {unit}{}", if number > 1.0 { "s" } else { "" })
}

/// The API calls that a run has made so far, failed ones included: the service may count those as well.
#[derive(Clone, Default)]
pub(crate) struct CallCount(Arc<AtomicU64>);

impl CallCount {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes back a call that did not reach the service.
    pub(crate) fn subtract(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_is_no_calls() {
        assert_eq!([0, 1, 2].map(calls_in_words), ["0 calls", "1 call", "2 calls"]);
    }
}
