//! The body of a listing's page, parsed into typed rows.
//!
//! Usually every row fits its type, and one pass is enough. If one does not, the page is parsed again as plain JSON,
//! and each row is repaired by the schema of its type: a value that its field cannot hold becomes null, and a row
//! without a usable key is left out. Both are noted for a warning.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use compact_str::CompactString;
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::field::{Flag, Integer, Key, KeyInteger, KeyTimestamp, Object, Text, Timestamp};
use crate::schema;

/// A row of a listing.
pub(crate) trait Row: DeserializeOwned + JsonSchema + Send + 'static {
    /// The member of the body that holds the rows.
    const ROWS: &'static str;
    /// Whether the type has every field that the service is known to send, so that any other field is worth a warning.
    const IS_WHOLE: bool;
}

/// A parsed body.
#[derive(Debug)]
pub(super) struct Body<T> {
    /// `None` if the body lacks the member, or it is null.
    pub(super) rows: Option<Vec<T>>,
    pub(super) envelope: Envelope,
    pub(super) oddities: Oddities,
}

/// The other members of the body.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Envelope {
    /// How many rows the whole listing has, according to the service's count; the largest if there are several.
    pub(super) count: Option<u64>,
    /// The contact that a report is about.
    pub(super) contact_id: Option<CompactString>,
    /// The link to the next page.
    pub(super) next: Option<String>,
    /// Whether there is a member that no known listing has.
    pub(super) has_others: bool,
}

/// What was odd about the rows of a page.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Oddities {
    /// Fields that the type does not have, such as `email_address.foo`; at most 1,000 per page.
    pub(crate) unknown: BTreeSet<String>,
    /// Fields with a value that they cannot hold, each with the first record that had one.
    pub(crate) unreadable: BTreeMap<String, String>,
    /// How many rows were left out because they lack a usable key.
    pub(crate) left_out: u64,
    /// The other keys of the first of those, and what it lacks.
    pub(crate) why_left_out: Option<String>,
}

impl Oddities {
    /// Makes all text that came from the service safe to print.
    pub(super) fn show(&mut self, shown: impl Fn(&str) -> String) {
        self.unknown = self.unknown.iter().map(|name| shown(name)).collect();
        self.unreadable.values_mut().for_each(|record| *record = shown(record));
        self.why_left_out = self.why_left_out.as_deref().map(shown);
    }
}

/// The most unknown fields that are noted per page; a hostile page could have millions.
const MOST_UNKNOWN: usize = 1000;

/// Parses a body. An error means that it is not a listing, or that its end is missing.
pub(super) fn read<T: Row>(text: &str) -> serde_json::Result<Body<T>> {
    let mut unknown = BTreeSet::new();
    match body(T::ROWS, text, TypedRow { unknown: &mut unknown, row: PhantomData }) {
        Ok((envelope, rows)) => Ok(Body { rows, envelope, oddities: Oddities { unknown, ..Oddities::default() } }),
        Err(e) if e.is_data() => repaired(text),
        Err(e) => Err(e),
    }
}

/// Parses a body that has rows that do not fit their type.
fn repaired<T: Row>(text: &str) -> serde_json::Result<Body<T>> {
    let (envelope, plain) = body(T::ROWS, text, PlainRow)?;
    let mut oddities = Oddities::default();
    let Some(plain) = plain else { return Ok(Body { rows: None, envelope, oddities }) };
    let schema = schema::of::<T>();
    let mut rows = Vec::with_capacity(plain.len());
    for row in plain {
        let mut unknown = BTreeSet::new();
        match repaired_row(row, &schema, &mut oddities, &mut unknown) {
            Ok(row) => {
                rows.push(row);
                if T::IS_WHOLE && oddities.unknown.len() < MOST_UNKNOWN {
                    oddities.unknown.append(&mut unknown);
                }
            }
            Err(why) => {
                oddities.left_out += 1;
                oddities.why_left_out.get_or_insert(why);
            }
        }
    }
    Ok(Body { rows: Some(rows), envelope, oddities })
}

/// Parses a row after setting values to null that their field cannot hold. The error names the row and the keys that it
/// lacks.
fn repaired_row<T: DeserializeOwned>(
    mut row: Value,
    schema: &Value,
    oddities: &mut Oddities,
    unknown: &mut BTreeSet<String>,
) -> Result<T, String> {
    let name = name_of(&row, schema);
    let why = unusable_keys(&row, schema);
    let mut nulled = BTreeSet::new();
    repair(&mut row, schema, "", &mut nulled);
    let row = serde_ignored::deserialize::<_, _, Object<T>>(row, |path| note(unknown, &path));
    let Object(row) = row.map_err(|_| format!("{name}: {why}"))?;
    for field in nulled {
        oddities.unreadable.entry(field).or_insert_with(|| name.clone());
    }
    Ok(row)
}

/// Parses a body that is one object, as leniently as a row. Fields that the type does not have are not noted.
pub(super) fn read_one<T: DeserializeOwned + JsonSchema>(text: &str) -> Result<(T, Oddities), String> {
    let mut oddities = Oddities::default();
    let row = match serde_json::from_str::<Object<T>>(text) {
        Err(e) if e.is_data() => {
            let row = serde_json::from_str(text).map_err(|e| unreadable(&e))?;
            repaired_row(row, &schema::of::<T>(), &mut oddities, &mut BTreeSet::new())
                .map_err(|why| format!("200 response of an unexpected form ({why})"))?
        }
        row => row.map_err(|e| unreadable(&e))?.0,
    };
    Ok((row, oddities))
}

/// Says where a body cannot be parsed, without the text of the error, which could show a value.
pub(super) fn unreadable(e: &serde_json::Error) -> String {
    format!("200 response of an unexpected form: line {}, column {}", e.line(), e.column())
}

fn body<'de, R: ReadRow<'de>>(
    rows: &'static str,
    text: &'de str,
    row: R,
) -> serde_json::Result<(Envelope, Option<Vec<R::Row>>)> {
    let mut json = serde_json::Deserializer::from_str(text);
    let body = json.deserialize_map(BodyVisitor { rows, row })?;
    json.end()?;
    Ok(body)
}

/// Names a row by the key fields that it has, such as `contact_id=71600990-…`.
fn name_of(row: &Value, schema: &Value) -> String {
    let fields = schema["properties"].as_object().into_iter().flatten();
    let keys = fields.filter(|(_, schema)| is_key(schema)).filter_map(|(name, _)| match &row[name] {
        Value::String(text) if !text.is_empty() => Some(format!("{name}={text}")),
        Value::Number(number) => Some(format!("{name}={number}")),
        _ => None,
    });
    let name = keys.collect::<Vec<_>>().join(", ");
    if name.is_empty() { "a row without keys".into() } else { name }
}

/// Says which key fields of a row are missing or cannot be a key.
fn unusable_keys(row: &Value, schema: &Value) -> String {
    if !row.is_object() {
        return "not a JSON object".into();
    }
    let fields = schema["properties"].as_object().into_iter().flatten();
    let unusable = fields.filter(|(name, schema)| is_key(schema) && !is_usable(&row[name.as_str()], schema));
    format!("{} missing or unusable", unusable.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", "))
}

fn is_usable(value: &Value, schema: &Value) -> bool {
    match schema["type"][0].as_str() {
        Some("integer") => KeyInteger::deserialize(value).is_ok(),
        _ if schema["format"] == "date-time" => KeyTimestamp::deserialize(value).is_ok(),
        _ => Key::deserialize(value).is_ok(),
    }
}

/// Key fields are those that may not be null.
fn is_key(schema: &Value) -> bool {
    schema["type"][0] != "null"
}

/// Sets every value to null that its field cannot hold, and adds the paths of these fields to `nulled`.
fn repair(value: &mut Value, schema: &Value, path: &str, nulled: &mut BTreeSet<String>) {
    match (&mut *value, &schema["properties"], &schema["items"]) {
        (Value::Null, ..) => {}
        (Value::Object(map), Value::Object(properties), _) => {
            for (name, schema) in properties {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                if let Some(value) = map.get_mut(name).filter(|_| !is_key(schema)) {
                    repair(value, schema, &path, nulled);
                }
            }
        }
        (Value::Array(items), _, Value::Object(_)) => {
            for item in items {
                repair(item, &schema["items"], path, nulled);
            }
        }
        (value, ..) if !fits(value, schema) => {
            *value = Value::Null;
            nulled.insert(path.to_owned());
        }
        _ => {}
    }
}

/// Whether a scalar field of this schema can hold a value.
fn fits(value: &Value, schema: &Value) -> bool {
    match schema["type"][1].as_str() {
        Some("string") if schema["format"] == "date-time" => Timestamp::deserialize(value).is_ok(),
        Some("string") => Text::deserialize(value).is_ok(),
        Some("integer") => Integer::deserialize(value).is_ok(),
        Some("boolean") => Flag::deserialize(value).is_ok(),
        // An object or a list was expected, and something else came.
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        _ => true,
    }
}

/// Notes an unknown field, without positions in lists: `notes.3.foo` is `notes.foo`.
fn note(unknown: &mut BTreeSet<String>, path: &serde_ignored::Path) {
    use serde_ignored::Path;
    if unknown.len() >= MOST_UNKNOWN {
        return;
    }
    let mut names = Vec::new();
    let mut at = path;
    loop {
        at = match at {
            Path::Root => break,
            Path::Map { parent, key } => {
                names.push(key.as_str());
                parent
            }
            Path::Seq { parent, .. }
            | Path::Some { parent }
            | Path::NewtypeStruct { parent }
            | Path::NewtypeVariant { parent } => parent,
        };
    }
    names.reverse();
    unknown.insert(names.join("."));
}

/// How to parse one row.
trait ReadRow<'de> {
    type Row;
    fn row<D: Deserializer<'de>>(&mut self, d: D) -> Result<Self::Row, D::Error>;
}

/// Parses rows as their type, and notes the fields that it does not have.
struct TypedRow<'u, T> {
    unknown: &'u mut BTreeSet<String>,
    row: PhantomData<T>,
}

impl<'de, T: Row> ReadRow<'de> for TypedRow<'_, T> {
    type Row = T;

    fn row<D: Deserializer<'de>>(&mut self, d: D) -> Result<T, D::Error> {
        let row: Object<T> = if T::IS_WHOLE {
            serde_ignored::deserialize(d, |path| note(self.unknown, &path))?
        } else {
            Object::deserialize(d)?
        };
        Ok(row.0)
    }
}

/// Parses rows as plain JSON.
struct PlainRow;

impl<'de> ReadRow<'de> for PlainRow {
    type Row = Value;

    fn row<D: Deserializer<'de>>(&mut self, d: D) -> Result<Value, D::Error> {
        Value::deserialize(d)
    }
}

struct BodyVisitor<R> {
    rows: &'static str,
    row: R,
}

impl<'de, R: ReadRow<'de>> Visitor<'de> for BodyVisitor<R> {
    type Value = (Envelope, Option<Vec<R::Row>>);

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "an object with {}", self.rows)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut envelope, mut rows) = (Envelope::default(), None);
        while let Some(name) = map.next_key::<Cow<str>>()? {
            match &*name {
                // A second list of rows would replace the first.
                name if name == self.rows && rows.is_some() => return Err(A::Error::duplicate_field(self.rows)),
                name if name == self.rows => rows = map.next_value_seed(RowsSeed(&mut self.row))?,
                // A last page has no `_links`, an empty or null one, or a null `href`.
                "_links" => envelope.next = map.next_value::<Option<Links>>()?.and_then(Links::next),
                "contact_id" => envelope.contact_id = map.next_value::<Text>()?.0,
                "aggregate_percents" => {
                    map.next_value::<IgnoredAny>()?;
                }
                name if name.ends_with("_count") => {
                    let count = map.next_value::<Integer>()?.as_count();
                    envelope.count = envelope.count.max(count);
                }
                _ => {
                    envelope.has_others = true;
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok((envelope, rows))
    }
}

struct RowsSeed<'r, R>(&'r mut R);

impl<'de, R: ReadRow<'de>> DeserializeSeed<'de> for RowsSeed<'_, R> {
    type Value = Option<Vec<R::Row>>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_option(self)
    }
}

impl<'de, R: ReadRow<'de>> Visitor<'de> for RowsSeed<'_, R> {
    type Value = Option<Vec<R::Row>>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of rows")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_seq(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut rows = Vec::new();
        while let Some(row) = seq.next_element_seed(RowSeed(&mut *self.0))? {
            rows.push(row);
        }
        Ok(Some(rows))
    }
}

struct RowSeed<'r, R>(&'r mut R);

impl<'de, R: ReadRow<'de>> DeserializeSeed<'de> for RowSeed<'_, R> {
    type Value = R::Row;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<R::Row, D::Error> {
        self.0.row(d)
    }
}

#[derive(Deserialize)]
struct Links {
    #[serde(default)]
    next: Option<Next>,
}

#[derive(Deserialize)]
struct Next {
    #[serde(default)]
    href: Option<String>,
}

impl Links {
    fn next(self) -> Option<String> {
        self.next?.href.filter(|href| !href.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Serialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize, Serialize, JsonSchema)]
    struct Thing {
        #[serde(rename = "thing_id")]
        id: Key,
        #[serde(default)]
        name: Text,
        #[serde(default)]
        size: Integer,
        #[serde(default)]
        made_at: Timestamp,
        #[serde(default)]
        parts: Option<Vec<Option<Part>>>,
    }

    #[derive(Debug, Deserialize, Serialize, JsonSchema)]
    struct Part {
        #[serde(default)]
        size: Integer,
    }

    impl Row for Thing {
        const ROWS: &'static str = "things";
        const IS_WHOLE: bool = true;
    }

    fn things(text: &str) -> Body<Thing> {
        read(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    fn next(text: &str) -> Option<String> {
        things(text).envelope.next
    }

    #[test]
    fn the_next_link_is_that_of_the_page_and_not_of_a_row() {
        assert_eq!(next(r#"{"things":[],"_links":{"next":{"href":"/a"}}}"#).as_deref(), Some("/a"));
        assert_eq!(next(r#"{"_links":{"next":{"href":"/a"}},"things":[]}"#).as_deref(), Some("/a"));
        for last in ["", r#","_links":{}"#, r#","_links":null"#, r#","_links":{"next":{"href":null}}"#] {
            let row = r#"{"thing_id":"1","_links":{"next":{"href":"/b"}}}"#;
            assert_eq!(next(&format!(r#"{{"things":[{row}]{last}}}"#)), None, "{last}");
        }
    }

    #[test]
    fn what_stands_beside_the_rows_is_told_apart() {
        let body = things(r#"{"things_count":"3","contact_id":"c","aggregate_percents":{"open":0}}"#);
        let envelope = Envelope { count: Some(3), contact_id: Some("c".into()), ..Envelope::default() };
        assert_eq!((body.rows.is_none(), body.envelope), (true, envelope));
        assert!(things(r#"{"things":null,"status":"processing"}"#).envelope.has_others);
        assert!(things(r#"{"things":null}"#).rows.is_none());
        assert_eq!(things(r#"{"things":[]}"#).rows.map(|rows| rows.len()), Some(0));
    }

    #[test]
    fn of_several_counts_the_largest_is_believed() {
        assert_eq!(things(r#"{"things_count":7,"deleted_count":0}"#).envelope.count, Some(7));
        assert_eq!(things(r#"{"things_count":-1,"deleted_count":null}"#).envelope.count, None);
        assert_eq!(things(r#"{"things_count":9223372036854775807}"#).envelope.count, Some(u32::MAX.into()));
    }

    #[test]
    fn what_is_no_listing_is_an_error() {
        for text in [
            "",
            "[]",
            "null",
            r#"{"things":7}"#,
            r#"{"things":[{"thing_id":"1"}]"#,
            r#"{"things":[]} x"#,
            r#"{"things":[],"things":[]}"#,
        ] {
            assert!(read::<Thing>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_value_that_its_field_cannot_hold_becomes_null_and_is_noted_with_the_record() {
        let body = things(
            r#"{"things":[{"thing_id":"1","size":3},{"thing_id":2,"size":"big","made_at":"","name":[1],"parts":[{"size":{}}]},
                {"thing_id":"3","size":[],"parts":"none"}]}"#,
        );
        let rows = serde_json::to_value(body.rows.unwrap()).unwrap();
        assert_eq!(rows[0]["size"], 3);
        assert_eq!(
            rows[1],
            json!({"thing_id": "2", "name": "[1]", "size": null, "made_at": null, "parts": [{"size": null}]})
        );
        assert_eq!(rows[2]["parts"], Value::Null);
        let noted = [("made_at", "2"), ("parts", "3"), ("parts.size", "2"), ("size", "2")];
        let noted = noted.map(|(field, id)| (field.to_owned(), format!("thing_id={id}")));
        assert_eq!(body.oddities, Oddities { unreadable: noted.into(), ..Oddities::default() });
    }

    #[test]
    fn a_row_without_a_usable_key_is_left_out_and_counted() {
        let body =
            things(r#"{"things":[{"name":"a-secret"},{"thing_id":"1","odd":1},"a-secret",{"thing_id":[]},["7"]]}"#);
        assert_eq!(body.rows.unwrap().len(), 1);
        assert_eq!(body.oddities.left_out, 4);
        let why = body.oddities.why_left_out.unwrap();
        assert_eq!(why, "a row without keys: thing_id missing or unusable");
        assert_eq!(body.oddities.unknown, BTreeSet::from(["odd".to_owned()]));
    }

    #[test]
    fn unknown_fields_are_named_by_their_path() {
        let body = things(r#"{"things":[{"thing_id":"1","odd":{"a":1},"parts":[{"size":1},{"odder":2}]}]}"#);
        assert_eq!(body.oddities.unknown.into_iter().collect::<Vec<_>>(), ["odd", "parts.odder"]);
    }

    #[test]
    fn a_page_notes_a_bounded_number_of_unknown_fields() {
        let fields: Vec<String> = (0..3000).map(|n| format!(r#""odd_{n}":1"#)).collect();
        for size in ["1", "[]"] {
            // The second row does not fit its type.
            let text =
                format!(r#"{{"things":[{{"thing_id":"1",{}}},{{"thing_id":"2","size":{size}}}]}}"#, fields.join(","));
            assert_eq!(things(&text).oddities.unknown.len(), MOST_UNKNOWN, "{size}");
        }
    }

    #[test]
    fn what_is_shown_of_oddities_has_passed_the_filter() {
        let mut oddities = things(r#"{"things":[{"thing_id":"1","a":1,"size":[]},{"name":"b"}]}"#).oddities;
        oddities.show(|text| format!("<{text}>"));
        assert_eq!(oddities.unknown, BTreeSet::from(["<a>".to_owned()]));
        assert_eq!(oddities.unreadable, BTreeMap::from([("size".to_owned(), "<thing_id=1>".to_owned())]));
        assert!(oddities.why_left_out.is_some_and(|why| why.starts_with("<a row without keys") && why.ends_with('>')));
    }

    #[test]
    fn one_object_is_read_like_a_row() {
        let (thing, oddities) = read_one::<Thing>(r#"{"thing_id":"1","size":"big","odd":1}"#).unwrap();
        assert_eq!((thing.id.as_str(), thing.size.0), ("1", None));
        let noted = BTreeMap::from([("size".to_owned(), "thing_id=1".to_owned())]);
        assert_eq!(oddities, Oddities { unreadable: noted, ..Oddities::default() });
        for text in ["{}", r#"{"thing_id":null}"#, "[]", "7", r#"{"thing_id":"1""#] {
            assert!(read_one::<Thing>(text).unwrap_err().contains("200 response"), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        /// Wherever a page is cut short, it is noticed.
        #[test]
        fn a_page_cut_short_is_no_page(rows in 0usize..40, at: prop::sample::Index) {
            let rows = vec![json!({"thing_id": "é", "parts": [{"size": 1}]}); rows];
            let text = json!({"things": rows, "things_count": 7, "_links": {"next": {"href": "/v3/things?cursor=x"}}}).to_string();
            let cut: String = text.chars().take(at.index(text.chars().count())).collect();
            prop_assert!(read::<Thing>(&cut).is_err());
        }

        /// A page with anything put anywhere in it is read or refused.
        #[test]
        fn any_bytes_are_survived(at in 0usize..250, cut in 0usize..40, put in ".*") {
            let page = r#"{"things":[{"thing_id":"1","name":"é","size":4,"made_at":"2026-01-02","parts":[{"size":1}]}],"things_count":1}"#;
            let (start, end) = (page.floor_char_boundary(at), page.floor_char_boundary(at.saturating_add(cut)));
            let _ = read::<Thing>(&[&page[..start], &put, &page[end..]].concat());
        }
    }
}
