//! The scalars of the records: lenient in what they read, strict in what they write.
//!
//! The service does not keep to its own contract: ids come as numbers, counts as strings, dates without a zone. Where
//! the meaning is plain, the value is converted. Where it is not, the scalar refuses to deserialize, and
//! [`client::rows`](mod@crate::client) mends the row.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use chrono::{DateTime, Utc};
use compact_str::{CompactString, format_compact};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::{Number, Value};

use crate::timestamp::{instant, normal, stamp};

/// A string, or null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text(pub(crate) Option<CompactString>);

/// An instant in normal form (`2026-11-23T09:55:00Z`, with the fractional digits that were sent), or null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timestamp(Option<CompactString>);

/// An integer, or null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Integer(pub(crate) Option<i64>);

impl Integer {
    /// As a count of rows; `None` if negative. More than 32 bits hold is nonsense, and sums of it must not overflow.
    pub(crate) fn as_count(self) -> Option<u64> {
        let count = u64::try_from(self.0?).ok()?;
        Some(count.min(u32::MAX.into()))
    }
}

/// True, false or null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flag(pub(crate) Option<bool>);

/// The string of a key field, never null or empty, because targets refuse such keys. A row without it cannot be
/// written.
///
/// The default is the empty string: for rows whose key is filled in after parsing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(CompactString);

/// An instant in a key field, in the normal form of [`Timestamp`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyTimestamp(CompactString);

/// An integer in a key field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyInteger(pub(crate) u64);

impl Text {
    pub(crate) fn as_str(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Text(Some(text.into()))
    }
}

impl Timestamp {
    /// The instant, if there is one.
    pub(crate) fn instant(&self) -> Option<DateTime<Utc>> {
        self.0.as_deref().and_then(instant)
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(at: DateTime<Utc>) -> Self {
        Timestamp(Some(stamp(at).into()))
    }
}

impl Key {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is still to be filled in.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&str> for Key {
    fn from(text: &str) -> Self {
        Key(text.into())
    }
}

impl KeyTimestamp {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The instant; `None` only for the default value.
    pub(crate) fn instant(&self) -> Option<DateTime<Utc>> {
        instant(&self.0)
    }
}

/// A field that is known and not needed: it takes no memory, whatever it holds.
#[derive(Default)]
pub(crate) struct Unused;

impl<'de> Deserialize<'de> for Unused {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // Not `deserialize_ignored_any`, by which `serde_ignored` finds the fields that are unknown.
        d.deserialize_any(IgnoredAny).map(|_| Unused)
    }
}

/// A struct that is read from an object only. From a list, serde would fill the fields of a struct by their position.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        d.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// A JSON value from which a scalar is read.
enum Sent<'a> {
    Null,
    Flag(bool),
    Number(Number),
    Text(&'a str),
    /// An object or a list.
    Other(Value),
}

/// How a scalar is read from what the service sends.
trait Scalar: Sized {
    /// The error for a value that has no plain meaning as this scalar. It does not show the value.
    const REFUSAL: &'static str;

    /// `None` if the value has no plain meaning as this scalar.
    fn read(sent: Sent) -> Option<Self>;
}

struct ScalarVisitor<T>(PhantomData<T>);

impl<T: Scalar> ScalarVisitor<T> {
    fn read<E: Error>(sent: Sent) -> Result<T, E> {
        T::read(sent).ok_or_else(|| E::custom(T::REFUSAL))
    }
}

impl<'de, T: Scalar> Visitor<'de> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_none<E: Error>(self) -> Result<T, E> {
        Self::read(Sent::Null)
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        Self::read(Sent::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<T, D::Error> {
        d.deserialize_any(self)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<T, E> {
        Self::read(Sent::Flag(flag))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        Self::read(Sent::Number(number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        Self::read(Sent::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        Self::read(Number::from_f64(number).map_or(Sent::Null, Sent::Number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        Self::read(Sent::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<T, A::Error> {
        Self::read(Sent::Other(Value::deserialize(SeqAccessDeserializer::new(seq))?))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        Self::read(Sent::Other(Value::deserialize(MapAccessDeserializer::new(map))?))
    }
}

/// The text of any JSON value but null.
fn text(sent: Sent) -> Option<CompactString> {
    Some(match sent {
        Sent::Null => return None,
        Sent::Text(text) => text.into(),
        // Without the fraction of 7.0.
        Sent::Number(number) if number.is_f64() => format_compact!("{}", number.as_f64()?),
        Sent::Number(number) => format_compact!("{number}"),
        Sent::Flag(flag) => format_compact!("{flag}"),
        Sent::Other(other) => format_compact!("{other}"),
    })
}

/// Whether a value means null where a number or a boolean is expected.
fn is_blank(sent: &Sent) -> bool {
    match sent {
        Sent::Null => true,
        Sent::Text(text) => text.trim().is_empty(),
        _ => false,
    }
}

fn integer(sent: &Sent) -> Option<i64> {
    match sent {
        Sent::Number(number) => number.as_i64().or_else(|| integral(number.as_f64().filter(|_| number.is_f64())?)),
        Sent::Text(text) => text.trim().parse().ok().or_else(|| text.trim().parse().ok().and_then(integral)),
        _ => None,
    }
}

fn flag(sent: &Sent) -> Option<bool> {
    match sent {
        Sent::Flag(flag) => Some(*flag),
        Sent::Text(text) if text.trim().eq_ignore_ascii_case("true") => Some(true),
        Sent::Text(text) if text.trim().eq_ignore_ascii_case("false") => Some(false),
        other => match integer(other) {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
    }
}

/// The normal form of a timestamp. A number would be a guess: it could be seconds or milliseconds.
fn timestamp(sent: &Sent) -> Option<CompactString> {
    match sent {
        Sent::Text(text) => normal(text),
        _ => None,
    }
}

/// A float without fraction that an `i64` can hold.
fn integral(v: f64) -> Option<i64> {
    (v.fract() == 0.0).then(|| format!("{v:.0}").parse().ok()).flatten()
}

impl Scalar for Text {
    const REFUSAL: &'static str = "not a text";

    fn read(sent: Sent) -> Option<Self> {
        Some(Text(text(sent)))
    }
}

impl Scalar for Timestamp {
    const REFUSAL: &'static str = "not a timestamp";

    fn read(sent: Sent) -> Option<Self> {
        match sent {
            Sent::Null => Some(Timestamp(None)),
            sent => timestamp(&sent).map(|at| Timestamp(Some(at))),
        }
    }
}

impl Scalar for Integer {
    const REFUSAL: &'static str = "not an integer";

    fn read(sent: Sent) -> Option<Self> {
        if is_blank(&sent) { Some(Integer(None)) } else { integer(&sent).map(|number| Integer(Some(number))) }
    }
}

impl Scalar for Flag {
    const REFUSAL: &'static str = "not true or false";

    fn read(sent: Sent) -> Option<Self> {
        if is_blank(&sent) { Some(Flag(None)) } else { flag(&sent).map(|flag| Flag(Some(flag))) }
    }
}

impl Scalar for Key {
    const REFUSAL: &'static str = "missing or empty";

    fn read(sent: Sent) -> Option<Self> {
        if let Sent::Other(_) = sent {
            return None;
        }
        text(sent).filter(|key| !key.is_empty()).map(Key)
    }
}

impl Scalar for KeyTimestamp {
    const REFUSAL: &'static str = "missing or not a timestamp";

    fn read(sent: Sent) -> Option<Self> {
        timestamp(&sent).map(KeyTimestamp)
    }
}

impl Scalar for KeyInteger {
    const REFUSAL: &'static str = "missing or not an integer from 0";

    fn read(sent: Sent) -> Option<Self> {
        integer(&sent).and_then(|number| u64::try_from(number).ok()).map(KeyInteger)
    }
}

/// `Deserialize` by the method that is named, `Serialize` as the value inside, `JsonSchema` as written.
macro_rules! scalar {
    ($($ty:ident: $deserialize:ident, $schema:tt;)*) => {$(
        impl<'de> Deserialize<'de> for $ty {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                d.$deserialize(ScalarVisitor(PhantomData))
            }
        }

        impl Serialize for $ty {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(s)
            }
        }

        impl JsonSchema for $ty {
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

// Only key fields are never null, and say so with a list of one type. Serde lets a field be missing that asks for an option.
scalar! {
    Text: deserialize_option, {"type": ["null", "string"]};
    Timestamp: deserialize_option, {"type": ["null", "string"], "format": "date-time"};
    Integer: deserialize_option, {"type": ["null", "integer"]};
    Flag: deserialize_option, {"type": ["null", "boolean"]};
    Key: deserialize_any, {"type": ["string"]};
    KeyTimestamp: deserialize_any, {"type": ["string"], "format": "date-time"};
    KeyInteger: deserialize_any, {"type": ["integer"]};
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;

    use super::*;

    fn json<T: DeserializeOwned + Serialize>(text: &str) -> String {
        match serde_json::from_str::<T>(text) {
            Ok(v) => serde_json::to_string(&v).unwrap(),
            Err(e) => format!("! {e}"),
        }
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
            let read: Timestamp = serde_json::from_str(&format!("{sent:?}")).unwrap();
            assert_eq!(read.instant(), DateTime::parse_from_rfc3339(written).ok().map(|t| t.to_utc()), "{sent}");
        }
    }

    #[test]
    fn unreadable_timestamps_are_refused() {
        for sent in [
            r#""""#,
            r#""yesterday""#,
            "1700000000",
            "true",
            "[]",
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
            assert!(json::<Timestamp>(sent).starts_with('!'), "{sent}");
            assert!(json::<KeyTimestamp>(sent).starts_with('!'), "{sent}");
        }
        assert_eq!(json::<Timestamp>("null"), "null");
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
            // Other JSON where a string is expected becomes its JSON text.
            (r#"[1,"a"]"#, r#""[1,\"a\"]""#),
            ("{}", r#""{}""#),
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
    fn what_has_no_plain_meaning_is_refused() {
        for sent in ["[]", "{}", "1.5", "true", r#""x""#, "18446744073709551615", "1e300", r#""inf""#, r#""nan""#] {
            assert!(json::<Integer>(sent).starts_with('!'), "{sent}");
        }
        for sent in ["[]", "2", r#""yes""#] {
            assert!(json::<Flag>(sent).starts_with('!'), "{sent}");
        }
    }

    #[test]
    fn a_struct_is_not_read_from_a_list() {
        #[derive(Debug, serde::Deserialize, PartialEq)]
        struct Pair {
            #[serde(default)]
            a: Text,
        }
        let read = |text| serde_json::from_str::<Object<Pair>>(text).map(|object| object.0).ok();
        assert_eq!(read(r#"{"a":"1"}"#), Some(Pair { a: "1".into() }));
        for text in ["[]", r#"["1"]"#, "7", "null", r#""a""#] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn keys_are_never_null() {
        assert_eq!(json::<Key>("7"), r#""7""#);
        assert_eq!(json::<KeyInteger>("7"), "7");
        assert_eq!(json::<KeyTimestamp>(r#""2026-09-29""#), r#""2026-09-29T00:00:00Z""#);
        for sent in ["null", r#""""#, "[]", "{}"] {
            assert!(json::<Key>(sent).contains("missing or empty"), "{sent}");
            assert!(json::<KeyTimestamp>(sent).contains("missing"), "{sent}");
            assert!(json::<KeyInteger>(sent).starts_with('!'), "{sent}");
        }
        assert!(json::<KeyInteger>("-1").starts_with('!'));
    }

    #[test]
    fn no_refusal_shows_the_value() {
        for text in [
            json::<Timestamp>(r#""a-secret""#),
            json::<Integer>(r#""a-secret""#),
            json::<Flag>(r#""a-secret""#),
            json::<Key>(r#"["a-secret"]"#),
        ] {
            assert!(text.starts_with('!') && !text.contains("secret"), "{text}");
        }
    }
}
