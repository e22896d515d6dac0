//! How long to wait once the daily quota is used up. Pure; the caller sleeps.

use std::time::Duration;

use chrono::{DateTime, Days, NaiveTime, TimeDelta, Utc};

/// A quota that is still used up this soon after midnight UTC is taken to be reset late, not to be used up again.
const LATE_RESET: TimeDelta = TimeDelta::minutes(15);
/// The first wait for a late reset. Each further one is twice as long, up to the longest.
const FIRST_LATE_WAIT: Duration = Duration::from_secs(5);
const LONGEST_LATE_WAIT: Duration = Duration::from_secs(60);

/// A wait for the reset of the quota at a midnight, by the service's clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct QuotaWait {
    midnight: DateTime<Utc>,
    /// How often the quota was still used up after that midnight.
    late: u32,
}

impl QuotaWait {
    /// The wait for a quota that is used up `now`, if `last` was the wait before.
    pub(super) fn after(last: Option<QuotaWait>, now: DateTime<Utc>) -> QuotaWait {
        match last {
            Some(last) if (TimeDelta::zero()..LATE_RESET).contains(&(now - last.midnight)) => {
                QuotaWait { late: last.late + 1, ..last }
            }
            _ => QuotaWait { midnight: now + until_midnight(now), late: 0 },
        }
    }

    /// How long to wait if the midnight is over and the reset is late; `None` if the midnight is still to come.
    pub(super) fn for_late_reset(self) -> Option<Duration> {
        let doublings = self.late.checked_sub(1)?;
        Some(FIRST_LATE_WAIT.saturating_mul(2u32.saturating_pow(doublings)).min(LONGEST_LATE_WAIT))
    }
}

/// The time until the quota is reset, at 00:00 UTC.
pub(super) fn until_midnight(now: DateTime<Utc>) -> TimeDelta {
    (now.date_naive() + Days::new(1)).and_time(NaiveTime::MIN).and_utc() - now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_reset_is_tried_again_soon_and_a_new_day_is_waited_for() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let first = QuotaWait::after(None, at("2026-11-23T22:30:00Z"));
        assert_eq!(first, QuotaWait { midnight: at("2026-11-24T00:00:00Z"), late: 0 });
        assert_eq!(first.for_late_reset(), None);
        let mut last = first;
        for seconds in [5, 10, 20, 40, 60, 60] {
            last = QuotaWait::after(Some(last), at("2026-11-24T00:14:59Z"));
            assert_eq!(last.for_late_reset(), Some(Duration::from_secs(seconds)));
        }
        // By now it was reset, and is used up again.
        let next = QuotaWait::after(Some(last), at("2026-11-24T00:15:00Z"));
        assert_eq!(next, QuotaWait { midnight: at("2026-11-25T00:00:00Z"), late: 0 });
        // The clocks of two gateways may differ: for this one the day is not over yet.
        let still = QuotaWait::after(Some(first), at("2026-11-23T23:59:58Z"));
        assert_eq!(still, first);
    }

    #[test]
    fn the_day_ends_at_midnight() {
        for (now, seconds) in [("00:00:00", 86_400), ("00:00:01", 86_399), ("23:59:59", 1)] {
            let now = format!("2026-11-23T{now}Z").parse().unwrap();
            assert_eq!(until_midnight(now).num_seconds(), seconds, "{now}");
        }
    }
}
