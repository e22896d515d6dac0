//! Turns days, dates and bookmarks into the window that a stream reads. Pure.

use std::fmt;

use chrono::{DateTime, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

/// From `start` up to, but not including, `end`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Window {
    pub(crate) start: DateTime<Utc>,
    pub(crate) end: DateTime<Utc>,
}

/// One end of a range of days.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Edge {
    Date(NaiveDate),
    DaysBack(u32),
}

/// The window that the `report_*` settings set, in days.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ReportWindow {
    Day(NaiveDate),
    DaysBack(u32),
    Range { start: Edge, end: Option<Edge> },
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Edge::Date(date) => write!(f, "{date}"),
            Edge::DaysBack(n) => write!(f, "{n} days back"),
        }
    }
}

impl fmt::Display for ReportWindow {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            ReportWindow::Day(date) => write!(f, "{date}"),
            ReportWindow::DaysBack(n) => write!(f, "{n} days back to now"),
            ReportWindow::Range { start, end: None } => write!(f, "{start} to now"),
            ReportWindow::Range { start, end: Some(end) } => write!(f, "{start} to {end}"),
        }
    }
}

impl Edge {
    pub(crate) fn day(&self, today: NaiveDate) -> NaiveDate {
        match self {
            Edge::Date(date) => *date,
            Edge::DaysBack(n) => today.checked_sub_days(Days::new(u64::from(*n))).unwrap_or(NaiveDate::MIN),
        }
    }
}

impl ReportWindow {
    /// The window in whole days of a zone. It ends with its last day, or now if that is earlier.
    pub(crate) fn resolve(&self, now: DateTime<Utc>, zone: Tz) -> Window {
        let today = now.with_timezone(&zone).date_naive();
        let (first, last) = match self {
            ReportWindow::Day(date) => (*date, Some(*date)),
            ReportWindow::DaysBack(n) => (Edge::DaysBack(*n).day(today), None),
            ReportWindow::Range { start, end } => (start.day(today), end.as_ref().map(|e| e.day(today))),
        };
        let end = last.map_or(now, |day| midnight(day + Days::new(1), zone).min(now));
        Window { start: midnight(first, zone).min(end), end }
    }
}

/// The instant at which a day begins in a zone.
fn midnight(date: NaiveDate, zone: Tz) -> DateTime<Utc> {
    local(date.and_time(NaiveTime::MIN), zone)
}

/// The instant at which a zone's clocks show this time. Where they skip it, the first instant after the gap.
pub(crate) fn local(at: NaiveDateTime, zone: Tz) -> DateTime<Utc> {
    let mut later = at;
    // The longest gap is a whole day, which Samoa skipped.
    for _ in 0..=96 {
        if let Some(found) = zone.from_local_datetime(&later).earliest() {
            return found.to_utc();
        }
        later += TimeDelta::minutes(15);
    }
    at.and_utc()
}

/// The lower bound of a read. `updated_days_back` can only make `from` earlier, or replace a missing one.
pub(crate) fn lower_bound(
    from: Option<DateTime<Utc>>,
    updated_days_back: Option<u32>,
    now: DateTime<Utc>,
    zone: Tz,
) -> Option<DateTime<Utc>> {
    let back = updated_days_back.map(|n| midnight(Edge::DaysBack(n).day(now.with_timezone(&zone).date_naive()), zone));
    from.into_iter().chain(back).min()
}

/// Splits a range into windows of at most five years, without a gap.
pub(crate) fn five_year_windows(start: DateTime<Utc>, end: DateTime<Utc>) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let mut windows = Vec::new();
    let mut from = start;
    while from < end {
        // The request begins a second before the window, maybe in a shorter month. A day less, since it is not known
        // whether five whole years are allowed.
        let most = (from - TimeDelta::seconds(1)).checked_add_months(Months::new(60));
        let to = most.map_or(end, |to| (to - TimeDelta::days(1)).min(end));
        windows.push((from, to));
        from = to;
    }
    windows
}

/// A lower bound as a query parameter, one second earlier: the service keeps whole seconds, and does not document
/// whether its bounds are inclusive.
pub(crate) fn query_bound(bound: DateTime<Utc>) -> String {
    (bound - TimeDelta::seconds(1)).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Whether a row was returned only because [`query_bound`] is a second earlier than the bound.
pub(crate) fn is_before_bound(at: Option<DateTime<Utc>>, bound: Option<DateTime<Utc>>) -> bool {
    match (at, bound) {
        (Some(at), Some(bound)) => at < bound && at >= bound - TimeDelta::seconds(2),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_query_asks_from_one_second_earlier_and_drops_what_that_adds() {
        let bound = at("2026-11-10T00:00:01Z");
        assert_eq!(query_bound(bound), "2026-11-10T00:00:00Z");
        let is_dropped = |text: &str| is_before_bound(Some(at(text)), Some(bound));
        assert!(is_dropped("2026-11-10T00:00:00Z") && is_dropped("2026-11-09T23:59:59Z"));
        assert!(!is_dropped("2026-11-10T00:00:01Z"));
        // An older row came for another reason than the earlier bound.
        assert!(!is_dropped("2026-11-09T23:59:58Z"));
        assert!(!is_before_bound(None, Some(bound)) && !is_before_bound(Some(bound), None));
    }

    #[test]
    fn a_day_before_a_skipped_one_ends_at_its_own_end() {
        // In Samoa, 31 December 2011 followed 29 December.
        let window = ReportWindow::Day(NaiveDate::from_ymd_opt(2011, 12, 29).unwrap());
        let window = window.resolve(at("2020-01-01T00:00:00Z"), chrono_tz::Pacific::Apia);
        assert_eq!((window.start, window.end), (at("2011-12-29T10:00:00Z"), at("2011-12-30T10:00:00Z")));
    }

    #[test]
    fn days_are_those_of_the_zone() {
        let now = at("2026-11-23T10:00:00Z");
        let zone: Tz = "America/New_York".parse().unwrap();
        let day = |d| NaiveDate::from_ymd_opt(2026, 11, d).unwrap();
        let window = ReportWindow::Day(day(1)).resolve(now, zone);
        // Summer time ended that day, so it had 25 hours.
        assert_eq!((window.start, window.end), (at("2026-11-01T04:00:00Z"), at("2026-11-02T05:00:00Z")));
        let window =
            ReportWindow::Range { start: Edge::DaysBack(10), end: Some(Edge::DaysBack(5)) }.resolve(now, Tz::UTC);
        assert_eq!((window.start, window.end), (at("2026-11-13T00:00:00Z"), at("2026-11-19T00:00:00Z")));
        assert_eq!(ReportWindow::Day(day(23)).resolve(now, Tz::UTC).end, now);
        // Midnight did not exist in Sao Paulo on this day.
        let zone: Tz = "America/Sao_Paulo".parse().unwrap();
        assert_eq!(midnight(NaiveDate::from_ymd_opt(2018, 11, 4).unwrap(), zone), at("2018-11-04T03:00:00Z"));
    }

    #[test]
    fn days_back_move_a_bound_earlier_only() {
        let now = at("2026-11-23T10:00:00Z");
        let (old, new) = (at("2026-11-01T00:00:00Z"), at("2026-11-22T00:00:00Z"));
        let bound = |from, days| lower_bound(from, days, now, Tz::UTC);
        assert_eq!(bound(Some(new), None), Some(new));
        assert_eq!(bound(Some(new), Some(7)), Some(at("2026-11-16T00:00:00Z")));
        assert_eq!(bound(Some(old), Some(7)), Some(old));
        assert_eq!(bound(None, Some(0)), Some(at("2026-11-23T00:00:00Z")));
        assert_eq!(bound(None, None), None);
    }

    /// The end of the five years that begin where the request for a window begins.
    fn five_years_after_request(from: DateTime<Utc>) -> DateTime<Utc> {
        (from - TimeDelta::seconds(1)) + Months::new(60)
    }

    #[test]
    fn a_window_before_a_leap_day_is_no_second_too_long() {
        let from = at("2019-03-01T00:00:00Z");
        let (_, to) = five_year_windows(from, at("2026-01-01T00:00:00Z"))[0];
        assert!(to <= five_years_after_request(from), "{to}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4096) })]
        #[test]
        fn windows_of_five_years_cover_the_range(start in 0i64..2_000_000_000, length in 1i64..2_000_000_000) {
            let (start, end) = (DateTime::from_timestamp(start, 0).unwrap(), DateTime::from_timestamp(start + length, 0).unwrap());
            let windows = five_year_windows(start, end);
            prop_assert_eq!(windows[0].0, start);
            prop_assert_eq!(windows[windows.len() - 1].1, end);
            prop_assert!(windows.windows(2).all(|w| w[0].1 == w[1].0));
            prop_assert!(windows.iter().all(|(from, to)| from < to && *to <= five_years_after_request(*from)));
        }

        #[test]
        fn a_window_never_ends_before_it_starts(now in 1_000_000_000i64..3_000_000_000, zone in 0..chrono_tz::TZ_VARIANTS.len(), n in 0u32..36_500, m in 0u32..36_500) {
            let now = DateTime::from_timestamp(now, 0).unwrap();
            let zone = chrono_tz::TZ_VARIANTS[zone];
            for window in [ReportWindow::DaysBack(n), ReportWindow::Range { start: Edge::DaysBack(n.max(m)), end: Some(Edge::DaysBack(n.min(m))) }] {
                let window = window.resolve(now, zone);
                prop_assert!(window.start <= window.end && window.end <= now);
            }
        }

        /// The window holds exactly the past moments whose day, in the zone's calendar, is named.
        #[test]
        fn a_window_holds_the_moments_of_its_days(
            now in 1_000_000_000i64..2_000_000_000, moment in 0i64..4_000_000, zone in 0..chrono_tz::TZ_VARIANTS.len(), n in 0u32..40, m in 0u32..40,
        ) {
            let now = DateTime::from_timestamp(now, 0).unwrap();
            let moment = now - TimeDelta::seconds(moment - 100_000);
            let zone = chrono_tz::TZ_VARIANTS[zone];
            let (first, last) = (Edge::DaysBack(n.max(m)), Edge::DaysBack(n.min(m)));
            let today = now.with_timezone(&zone).date_naive();
            let day = moment.with_timezone(&zone).date_naive();
            let named = (first.day(today)..=last.day(today)).contains(&day) && moment < now;
            for (start, end) in [
                (first.clone(), last.clone()),
                (Edge::Date(first.day(today)), Edge::Date(last.day(today))),
            ] {
                let window = ReportWindow::Range { start, end: Some(end) }.resolve(now, zone);
                prop_assert_eq!((window.start..window.end).contains(&moment), named);
            }
        }
    }
}
