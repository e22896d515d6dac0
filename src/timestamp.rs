//! Timestamps: from the forms that the service sends to instants, and back to the one form that the tap writes.

use chrono::{DateTime, NaiveDate, NaiveTime, SecondsFormat, TimeDelta, Utc};
use compact_str::{CompactString, format_compact};

/// The whole second in UTC and the fractional digits of a timestamp, in any of the forms that services send.
fn parse(text: &str) -> Option<(DateTime<Utc>, &str)> {
    let (date, rest) = text.split_at_checked(10)?;
    let date = date_of(date.as_bytes())?;
    if rest.is_empty() {
        return Some((date.and_time(NaiveTime::MIN).and_utc(), ""));
    }
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, rest) = rest.split_at_checked(8)?;
    let b = clock.as_bytes();
    if b[2] != b':' || b[5] != b':' {
        return None;
    }
    let second = digits(&b[6..8])?;
    // A leap second has no place in a target; it counts as the one after it.
    let leap = i64::from(second == 60);
    let time = NaiveTime::from_hms_opt(digits(&b[..2])?, digits(&b[3..5])?, if leap == 1 { 59 } else { second })?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        None => ("", rest),
        Some(rest) => {
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            (end > 0).then(|| rest.split_at(end))?
        }
    };
    let ahead = TimeDelta::seconds(leap) - TimeDelta::minutes(offset(zone)?);
    Some((date.and_time(time).and_utc().checked_add_signed(ahead)?, fraction))
}

/// Minutes east of UTC.
fn offset(zone: &str) -> Option<i64> {
    let (sign, rest) = match *zone.as_bytes() {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', ref rest @ ..] => (1, rest),
        [b'-', ref rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match rest {
        [_, _] => (digits(rest)?, 0),
        [_, _, _, _] => (digits(&rest[..2])?, digits(&rest[2..])?),
        [_, _, b':', _, _] => (digits(&rest[..2])?, digits(&rest[3..])?),
        _ => return None,
    };
    (hours < 24 && minutes < 60).then(|| sign * i64::from(hours * 60 + minutes))
}

fn digits(bytes: &[u8]) -> Option<u32> {
    bytes.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + u32::from(b - b'0')))
}

fn date_of(b: &[u8]) -> Option<NaiveDate> {
    if b[4] != b'-' || b[7] != b'-' {
        return None;
    }
    let year = i32::try_from(digits(&b[..4])?).ok()?;
    NaiveDate::from_ymd_opt(year, digits(&b[5..7])?, digits(&b[8..10])?)
}

/// The normal form of a timestamp.
pub(crate) fn normal(text: &str) -> Option<CompactString> {
    let (second, fraction) = parse(text.trim_ascii())?;
    let b = text.as_bytes();
    if b.len() == 20 && b[10] == b'T' && b[19] == b'Z' && &b[17..19] != b"60" {
        return Some(text.into());
    }
    let whole = stamp(second);
    // Beyond the years 0000 to 9999 chrono writes a sign, which RFC 3339 does not know.
    if whole.len() != 20 {
        return None;
    }
    if fraction.bytes().all(|b| b == b'0') {
        return Some(whole.into());
    }
    Some(format_compact!("{}.{fraction}Z", &whole[..19]))
}

/// The instant of a timestamp, in any of the forms that services send.
pub(crate) fn instant(text: &str) -> Option<DateTime<Utc>> {
    let (second, fraction) = parse(text)?;
    let nanos = fraction.bytes().chain(std::iter::repeat(b'0')).take(9).fold(0, |n, b| n * 10 + i64::from(b - b'0'));
    second.checked_add_signed(TimeDelta::nanoseconds(nanos))
}

/// An instant as messages and state write it: RFC 3339, UTC, `Z`.
pub(crate) fn stamp(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
