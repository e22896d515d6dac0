//! The scalars of the records: lenient in what they read, strict in what they write.
//!
//! The service is not faithful to its own contract: ids come as numbers, counts as text, dates without a zone.
//! Where the meaning is plain the value is converted. All types borrow from the page where they can.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use serde::ser::{Serialize, Serializer};

/// Text, or null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text<'a>(pub(crate) Option<Cow<'a, str>>);

/// A moment in normal form (`2026-11-23T09:55:00Z`, with the fractional digits that were sent), or null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timestamp<'a>(Option<Cow<'a, str>>);

/// A whole number, or null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Integer(pub(crate) Option<i64>);

/// True, false or null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flag(pub(crate) Option<bool>);

/// Text of a key field: targets refuse a key that is null or empty, so a row without it cannot be read.
///
/// The default is the empty text: for rows whose key stands beside them and is filled in after parsing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key<'a>(pub(crate) Cow<'a, str>);

/// A moment in a key field, in the normal form of [`Timestamp`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyTimestamp<'a>(Cow<'a, str>);

/// A whole number in a key field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyInteger(pub(crate) u64);

thread_local! {
    static UNREADABLE: Cell<usize> = const { Cell::new(0) };
}

/// How many timestamps of this thread became null because they could not be read, since the last call.
pub(crate) fn take_unreadable() -> usize {
    UNREADABLE.take()
}

impl Timestamp<'_> {
    /// The moment, if there is one.
    pub(crate) fn instant(&self) -> Option<DateTime<Utc>> {
        self.0.as_deref().and_then(instant)
    }
}

impl From<DateTime<Utc>> for Timestamp<'_> {
    fn from(at: DateTime<Utc>) -> Self {
        Timestamp(Some(crate::messages::stamp(at).into()))
    }
}

impl Key<'_> {
    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'a> KeyTimestamp<'a> {
    /// Reads any of the forms that [`Timestamp`] reads.
    pub(crate) fn new(text: impl Into<Cow<'a, str>>) -> Option<Self> {
        normal(text.into()).map(Self)
    }

    /// The moment in normal form.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The moment; `None` only for the default value.
    pub(crate) fn instant(&self) -> Option<DateTime<Utc>> {
        instant(&self.0)
    }
}

/// The whole second in UTC and the fractional digits of a timestamp in any of the forms met in the wild.
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

/// The normal form; borrowed when the text already has it.
fn normal(text: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let (second, fraction) = parse(text.trim_ascii())?;
    let b = text.as_bytes();
    if b.len() == 20 && b[10] == b'T' && b[19] == b'Z' && &b[17..19] != b"60" {
        return Some(text);
    }
    let mut out = second.format("%Y-%m-%dT%H:%M:%S").to_string();
    // Beyond the years 0000 to 9999 chrono writes a sign, which RFC 3339 does not know.
    if out.len() != 19 {
        return None;
    }
    if fraction.bytes().any(|b| b != b'0') {
        out.push('.');
        out.push_str(fraction);
    }
    out.push('Z');
    Some(Cow::Owned(out))
}

/// The moment of a timestamp in any of the forms met in the wild.
pub(crate) fn instant(text: &str) -> Option<DateTime<Utc>> {
    let (second, fraction) = parse(text)?;
    let nanos = fraction.bytes().chain(std::iter::repeat(b'0')).take(9).fold(0, |n, b| n * 10 + i64::from(b - b'0'));
    second.checked_add_signed(TimeDelta::nanoseconds(nanos))
}

/// What a JSON scalar can be; objects and arrays fail with what was expected.
enum Scalar<'a> {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Str(Cow<'a, str>),
}

struct ScalarVisitor(&'static str);

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_unit<E: Error>(self) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Scalar<'de>, D::Error> {
        d.deserialize_any(self)
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Bool(v))
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Signed(v))
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Unsigned(v))
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Float(v))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Str(Cow::Owned(v.to_owned())))
    }

    fn visit_string<E: Error>(self, v: String) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Str(Cow::Owned(v)))
    }

    fn visit_borrowed_str<E: Error>(self, v: &'de str) -> Result<Scalar<'de>, E> {
        Ok(Scalar::Str(Cow::Borrowed(v)))
    }
}

impl<'de> Scalar<'de> {
    fn read<D: Deserializer<'de>>(d: D, expected: &'static str) -> Result<Self, D::Error> {
        d.deserialize_any(ScalarVisitor(expected))
    }

    fn text(self) -> Option<Cow<'de, str>> {
        Some(match self {
            Scalar::Null => return None,
            Scalar::Bool(v) => Cow::Borrowed(if v { "true" } else { "false" }),
            Scalar::Signed(v) => v.to_string().into(),
            Scalar::Unsigned(v) => v.to_string().into(),
            Scalar::Float(v) => v.to_string().into(),
            // Postgres cannot store U+0000.
            Scalar::Str(v) if v.contains('\0') => v.replace('\0', "").into(),
            Scalar::Str(v) => v,
        })
    }

    /// Whether it says no more than null does, where a number or a flag is expected.
    fn is_blank(&self) -> bool {
        match self {
            Scalar::Null => true,
            Scalar::Str(v) => v.trim().is_empty(),
            _ => false,
        }
    }

    fn integer(&self) -> Option<i64> {
        match self {
            Scalar::Null | Scalar::Bool(_) => None,
            Scalar::Signed(v) => Some(*v),
            Scalar::Unsigned(v) => i64::try_from(*v).ok(),
            Scalar::Float(v) => integral(*v),
            Scalar::Str(v) => {
                let v = v.trim();
                v.parse().ok().or_else(|| v.parse().ok().and_then(integral))
            }
        }
    }

    fn flag(&self) -> Option<bool> {
        match self {
            Scalar::Bool(v) => Some(*v),
            Scalar::Str(v) if v.trim().eq_ignore_ascii_case("true") => Some(true),
            Scalar::Str(v) if v.trim().eq_ignore_ascii_case("false") => Some(false),
            other => match other.integer() {
                Some(0) => Some(false),
                Some(1) => Some(true),
                _ => None,
            },
        }
    }

    fn refuse<E: Error>(&self, expected: &str) -> E {
        let found = match self {
            Scalar::Null => Unexpected::Unit,
            Scalar::Bool(v) => Unexpected::Bool(*v),
            Scalar::Signed(v) => Unexpected::Signed(*v),
            Scalar::Unsigned(v) => Unexpected::Unsigned(*v),
            Scalar::Float(v) => Unexpected::Float(*v),
            Scalar::Str(v) => Unexpected::Str(v),
        };
        E::invalid_value(found, &expected)
    }
}

/// A float without fraction that an `i64` can hold.
fn integral(v: f64) -> Option<i64> {
    (v.fract() == 0.0).then(|| format!("{v:.0}").parse().ok()).flatten()
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Scalar::read(d, "text").map(|v| Text(v.text()))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Timestamp<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let read = match Scalar::read(d, "a date-time")? {
            Scalar::Null => return Ok(Timestamp(None)),
            Scalar::Str(text) => normal(text),
            _ => None,
        };
        if read.is_none() {
            UNREADABLE.set(UNREADABLE.get() + 1);
        }
        Ok(Timestamp(read))
    }
}

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let v = Scalar::read(d, "a whole number")?;
        if v.is_blank() {
            return Ok(Integer(None));
        }
        v.integer().map(|v| Integer(Some(v))).ok_or_else(|| v.refuse("a whole number"))
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let v = Scalar::read(d, "true or false")?;
        if v.is_blank() {
            return Ok(Flag(None));
        }
        v.flag().map(|v| Flag(Some(v))).ok_or_else(|| v.refuse("true or false"))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = Scalar::read(d, "the text of a key")?.text();
        text.filter(|v| !v.is_empty()).map(Key).ok_or_else(|| D::Error::custom("a key field is missing or empty"))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for KeyTimestamp<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Scalar::read(d, "a date-time")? {
            Scalar::Str(v) if !v.is_empty() => {
                Self::new(v.clone()).ok_or_else(|| Scalar::Str(v).refuse("a date-time, which this key field needs"))
            }
            Scalar::Null | Scalar::Str(_) => Err(D::Error::custom("a key field is missing or empty")),
            other => Err(other.refuse("a date-time, which this key field needs")),
        }
    }
}

impl<'de> Deserialize<'de> for KeyInteger {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let v = Scalar::read(d, "a whole number")?;
        let number = v.integer().and_then(|n| u64::try_from(n).ok());
        number.map(KeyInteger).ok_or_else(|| v.refuse("a whole number from 0, which this key field needs"))
    }
}

/// `Serialize` as the value inside, `JsonSchema` as written.
macro_rules! scalar {
    ($($ty:ident $(<$life:lifetime>)?: $schema:tt;)*) => {$(
        impl Serialize for $ty $(<$life>)? {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(s)
            }
        }

        impl JsonSchema for $ty $(<$life>)? {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($ty).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

scalar! {
    Text<'_>: {"type": ["null", "string"]};
    Timestamp<'_>: {"type": ["null", "string"], "format": "date-time"};
    Integer: {"type": ["null", "integer"]};
    Flag: {"type": ["null", "boolean"]};
    Key<'_>: {"type": ["string"]};
    KeyTimestamp<'_>: {"type": ["string"], "format": "date-time"};
    KeyInteger: {"type": ["integer"]};
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json<'a, T: Deserialize<'a> + Serialize>(text: &'a str) -> String {
        match serde_json::from_str::<T>(text) {
            Ok(v) => serde_json::to_string(&v).unwrap(),
            Err(e) => format!("! {e}"),
        }
    }

    fn is_borrowed(text: Option<&Cow<str>>) -> bool {
        matches!(text, Some(Cow::Borrowed(_)))
    }

    #[test]
    fn timestamps_come_out_in_normal_form() {
        for (sent, written) in [
            ("2026-09-29T14:33:39Z", "2026-09-29T14:33:39Z"),
            ("2026-09-29T14:33:39.000Z", "2026-09-29T14:33:39Z"),
            ("2026-09-29T14:33:39.120Z", "2026-09-29T14:33:39.120Z"),
            ("2026-09-29T14:33:39.123456789Z", "2026-09-29T14:33:39.123456789Z"),
            ("2026-09-29T23:33:39.5-05:00", "2026-09-30T04:33:39.5Z"),
            ("2026-09-29T14:33:39-0500", "2026-09-29T19:33:39Z"),
            ("2026-09-29T14:33:39+05:30", "2026-09-29T09:03:39Z"),
            ("2026-09-29T14:33:39+00", "2026-09-29T14:33:39Z"),
            ("2026-09-29 14:33:39", "2026-09-29T14:33:39Z"),
            (" 2026-09-29t14:33:39z ", "2026-09-29T14:33:39Z"),
            ("2026-09-29", "2026-09-29T00:00:00Z"),
            ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(json::<Timestamp>(&format!("{sent:?}")), format!("{written:?}"), "{sent}");
            assert_eq!(take_unreadable(), 0);
            let read: Timestamp = serde_json::from_str(&format!("{sent:?}"))
                .map(|t: Timestamp| Timestamp(t.0.map(|t| Cow::Owned(t.into_owned()))))
                .unwrap();
            assert_eq!(read.instant(), DateTime::parse_from_rfc3339(written).ok().map(|t| t.to_utc()), "{sent}");
        }
    }

    #[test]
    fn unreadable_timestamps_are_null_and_counted() {
        take_unreadable();
        for sent in [
            r#""""#,
            r#""yesterday""#,
            "1700000000",
            "true",
            r#""2026-13-01T00:00:00Z""#,
            r#""2026-02-30""#,
            r#""2026-09-29T14:33""#,
            r#""2026-09-29T14:33:39.Z""#,
            r#""2026-09-29T14:33:39EST""#,
            r#""2026-09-29T25:00:00Z""#,
            r#""9999-12-31T23:59:59-01:00""#,
            r#""2026-09-2é""#,
            r#""2026-09-29T14:33:39+5:00""#,
        ] {
            assert_eq!(json::<Timestamp>(sent), "null", "{sent}");
            assert_eq!(take_unreadable(), 1, "{sent}");
        }
        assert_eq!(json::<Timestamp>("null"), "null");
        assert_eq!(take_unreadable(), 0);
        assert!(json::<Timestamp>("[]").starts_with('!'));
    }

    #[test]
    fn what_needs_no_change_is_borrowed() {
        let text = |json| serde_json::from_str::<Text>(json).unwrap().0;
        assert!(is_borrowed(text(r#""a""#).as_ref()));
        assert!(!is_borrowed(text(r#""a\n""#).as_ref()));
        let time: Timestamp = serde_json::from_str(r#""2026-09-29T14:33:39Z""#).unwrap();
        assert!(is_borrowed(time.0.as_ref()));
    }

    #[test]
    fn scalars_are_converted_where_the_meaning_is_plain() {
        for (sent, written) in [
            (r#""a""#, r#""a""#),
            ("7", r#""7""#),
            ("-7", r#""-7""#),
            ("1.5", r#""1.5""#),
            ("true", r#""true""#),
            ("null", "null"),
            (r#""""#, r#""""#),
            (r#""a\u0000b""#, r#""ab""#),
        ] {
            assert_eq!(json::<Text>(sent), written);
        }
        for (sent, written) in [
            ("7", "7"),
            ("-7", "-7"),
            ("4.0", "4"),
            (r#""12""#, "12"),
            (r#"" 12.0""#, "12"),
            (r#""""#, "null"),
            ("null", "null"),
        ] {
            assert_eq!(json::<Integer>(sent), written);
        }
        for (sent, written) in
            [("true", "true"), (r#""False""#, "false"), ("0", "false"), ("1", "true"), ("null", "null")]
        {
            assert_eq!(json::<Flag>(sent), written);
        }
    }

    #[test]
    fn what_has_no_plain_meaning_is_an_error() {
        for sent in ["[]", "{}"] {
            assert!(json::<Text>(sent).starts_with('!'));
        }
        for sent in ["[]", "{}", "1.5", "true", r#""x""#, "18446744073709551615", "1e300", r#""inf""#, r#""nan""#] {
            assert!(json::<Integer>(sent).starts_with('!'), "{sent}");
        }
        for sent in ["[]", "2", r#""yes""#] {
            assert!(json::<Flag>(sent).starts_with('!'), "{sent}");
        }
    }

    #[test]
    fn keys_are_never_null() {
        assert_eq!(json::<Key>("7"), r#""7""#);
        assert_eq!(json::<KeyInteger>("7"), "7");
        assert_eq!(json::<KeyTimestamp>(r#""2026-09-29""#), r#""2026-09-29T00:00:00Z""#);
        for sent in ["null", r#""""#] {
            assert!(json::<Key>(sent).contains("missing or empty"));
            assert!(json::<KeyTimestamp>(sent).contains("missing or empty"));
            assert!(json::<KeyInteger>(sent).starts_with('!'));
        }
        assert!(json::<KeyTimestamp>(r#""yesterday""#).starts_with('!'));
        assert!(json::<KeyInteger>("-1").starts_with('!'));
    }
}
