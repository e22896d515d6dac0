//! The scalars of the records: lenient in what they read, strict in what they write.
//!
//! The service does not keep to its own contract: ids come as numbers, counts as strings, dates without a zone. Where
//! the meaning is plain, the value is converted. Where it is not, the scalar refuses to deserialize, and
//! [`client::rows`](crate::client) mends the row.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use chrono::{DateTime, Utc};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::Value;

use crate::timestamp::{instant, normal, stamp};

/// A string, or null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text(pub(crate) Option<Box<str>>);

/// An instant in normal form (`2026-11-23T09:55:00Z`, with the fractional digits that were sent), or null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timestamp(Option<Box<str>>);

/// An integer, or null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Integer(pub(crate) Option<i64>);

/// True, false or null.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flag(pub(crate) Option<bool>);

/// The string of a key field. Targets refuse a key that is null or empty, so a row without it cannot be written.
///
/// The default is the empty string: for rows whose key is filled in after parsing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key(Box<str>);

/// An instant in a key field, in the normal form of [`Timestamp`].
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct KeyTimestamp(Box<str>);

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

/// Any JSON value, as a scalar field sees it.
enum Scalar<'a> {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Str(Cow<'a, str>),
    /// An object or an array.
    Nested(Value),
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any JSON value")
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

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Scalar<'de>, A::Error> {
        Value::deserialize(SeqAccessDeserializer::new(seq)).map(Scalar::Nested)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Scalar<'de>, A::Error> {
        Value::deserialize(MapAccessDeserializer::new(map)).map(Scalar::Nested)
    }
}

impl<'de> Scalar<'de> {
    fn read<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(ScalarVisitor)
    }

    fn text(self) -> Option<Box<str>> {
        Some(match self {
            Scalar::Null => return None,
            Scalar::Bool(v) => if v { "true" } else { "false" }.into(),
            Scalar::Signed(v) => v.to_string().into(),
            Scalar::Unsigned(v) => v.to_string().into(),
            Scalar::Float(v) => v.to_string().into(),
            // Postgres cannot store U+0000.
            Scalar::Str(v) if v.contains('\0') => v.replace('\0', "").into(),
            Scalar::Str(v) => v.into(),
            Scalar::Nested(v) => v.to_string().into(),
        })
    }

    /// Whether it means null where a number or a boolean is expected.
    fn is_blank(&self) -> bool {
        match self {
            Scalar::Null => true,
            Scalar::Str(v) => v.trim().is_empty(),
            _ => false,
        }
    }

    fn integer(&self) -> Option<i64> {
        match self {
            Scalar::Signed(v) => Some(*v),
            Scalar::Unsigned(v) => i64::try_from(*v).ok(),
            Scalar::Float(v) => integral(*v),
            Scalar::Str(v) => {
                let v = v.trim();
                v.parse().ok().or_else(|| v.parse().ok().and_then(integral))
            }
            Scalar::Null | Scalar::Bool(_) | Scalar::Nested(_) => None,
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

    /// The normal form, of a string only: a number of seconds or milliseconds would be a guess.
    fn timestamp(self) -> Option<Box<str>> {
        match self {
            Scalar::Str(text) => normal(text).map(Into::into),
            _ => None,
        }
    }
}

/// A float without fraction that an `i64` can hold.
fn integral(v: f64) -> Option<i64> {
    (v.fract() == 0.0).then(|| format!("{v:.0}").parse().ok()).flatten()
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Scalar::read(d).map(|v| Text(v.text()))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Scalar::read(d)? {
            Scalar::Null => Ok(Timestamp(None)),
            other => other.timestamp().map(|at| Timestamp(Some(at))).ok_or_else(|| D::Error::custom("not a timestamp")),
        }
    }
}

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let v = Scalar::read(d)?;
        if v.is_blank() {
            return Ok(Integer(None));
        }
        v.integer().map(|v| Integer(Some(v))).ok_or_else(|| D::Error::custom("not an integer"))
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let v = Scalar::read(d)?;
        if v.is_blank() {
            return Ok(Flag(None));
        }
        v.flag().map(|v| Flag(Some(v))).ok_or_else(|| D::Error::custom("not true or false"))
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match Scalar::read(d)? {
            Scalar::Nested(_) => None,
            scalar => scalar.text().filter(|v| !v.is_empty()),
        }
        .map(Key)
        .ok_or_else(|| D::Error::custom("missing or empty"))
    }
}

impl<'de> Deserialize<'de> for KeyTimestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Scalar::read(d)?.timestamp().map(KeyTimestamp).ok_or_else(|| D::Error::custom("missing or not a timestamp"))
    }
}

impl<'de> Deserialize<'de> for KeyInteger {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let number = Scalar::read(d)?.integer().and_then(|n| u64::try_from(n).ok());
        number.map(KeyInteger).ok_or_else(|| D::Error::custom("missing or not an integer from 0"))
    }
}

/// `Serialize` as the value inside, `JsonSchema` as written.
macro_rules! scalar {
    ($($ty:ident: $schema:tt;)*) => {$(
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

// Only key fields are never null, and say so with a list of one type.
scalar! {
    Text: {"type": ["null", "string"]};
    Timestamp: {"type": ["null", "string"], "format": "date-time"};
    Integer: {"type": ["null", "integer"]};
    Flag: {"type": ["null", "boolean"]};
    Key: {"type": ["string"]};
    KeyTimestamp: {"type": ["string"], "format": "date-time"};
    KeyInteger: {"type": ["integer"]};
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
            (r#""a\u0000b""#, r#""ab""#),
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
