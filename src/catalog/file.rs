//! The selection in a catalog file.
//!
//! The file may come from another version of the tap, so unknown or missing streams and fields only get a warning. A wrong
//! shape, such as metadata that is not a list, is an error that names the place.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::mask::{mask, paths, properties};
use super::{Catalog, Selected};
use crate::config::json_error;
use crate::error::{Error, Result};
use crate::shown::shown;
use crate::spelling::slip;
use crate::stream::Stream;

impl Catalog {
    /// The selection in a catalog file, and warnings about differences to this version.
    ///
    /// # Errors
    /// `Usage` for a text that is not a catalog; it names the place.
    pub(crate) fn parse(text: &str, streams: &[&'static Stream]) -> Result<(Catalog, Vec<String>)> {
        let file = File::parse(text)?;
        let mut read = BTreeMap::new();
        for (i, entry) in file.streams.iter().enumerate() {
            let name = entry.name().ok_or_else(|| wrong(&format!("streams[{i}] has no \"tap_stream_id\"")))?;
            if read.insert(name, entry).is_some() {
                return Err(wrong(&format!("streams[{i}] is a second entry for the stream {}", shown(name))));
            }
        }
        let names = || streams.iter().map(|stream| stream.name);
        if names().all(|name| !read.contains_key(name)) {
            let names = names().collect::<Vec<_>>().join(", ");
            return Err(wrong(&format!("it has none of this tap's streams, which are {names}")));
        }
        let mut warnings = Vec::new();
        let unknown = read.keys().filter(|name| names().all(|known| known != **name));
        warn_of(&mut warnings, "unknown streams are ignored", unknown.map(|name| with_nearest(name, names())));
        let names_selection = read.values().any(|entry| entry.selected().is_some());
        let mut catalog = Catalog::default();
        for stream in streams {
            let Some(entry) = read.get(stream.name) else {
                warnings.push(format!("it has no stream {}, so that one is not read", stream.name));
                continue;
            };
            if entry.is_selected(names_selection) {
                catalog.streams.insert(stream.name, entry.selection(stream, &mut warnings));
            }
            let slips = entry.slips();
            warn_of(&mut warnings, &format!("{}: unknown keys are ignored", stream.name), slips.into_iter());
        }
        Ok((catalog, warnings))
    }
}

fn wrong(what: &str) -> Error {
    Error::Usage(format!("not a usable catalog: {what}"))
}

/// The most names in a warning; the rest are counted.
const MOST_NAMED: usize = 20;

/// Adds one warning for all these names, if there are any.
fn warn_of(warnings: &mut Vec<String>, what: &str, names: impl Iterator<Item = String>) {
    let mut names: Vec<String> = names.collect();
    let more = names.len().saturating_sub(MOST_NAMED);
    names.truncate(MOST_NAMED);
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    if !names.is_empty() {
        warnings.push(format!("{what}: {}", names.join(", ")));
    }
}

fn with_nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> String {
    match slip(name, known) {
        Some(known) => format!("{} (did you mean {known:?}?)", shown(name)),
        None => shown(name),
    }
}

/// A catalog file.
#[derive(Deserialize)]
#[serde(expecting = "an object with \"streams\", as --discover writes it")]
struct File {
    streams: Vec<StreamEntry>,
    /// Makes serde refuse a list in place of the object.
    #[serde(flatten)]
    _other: Map<String, Value>,
}

/// A stream's entry in the file.
#[derive(Deserialize, JsonSchema)]
#[serde(expecting = "the entry of a stream, as --discover writes it")]
struct StreamEntry {
    tap_stream_id: Option<String>,
    stream: Option<String>,
    selected: Option<bool>,
    replication_method: Option<String>,
    replication_key: Option<Value>,
    schema: Option<Map<String, Value>>,
    metadata: Option<Vec<Item>>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(expecting = "an object with \"breadcrumb\" and \"metadata\"")]
struct Item {
    breadcrumb: Vec<String>,
    metadata: Metadata,
}

/// The metadata of one place.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", expecting = "an object")]
struct Metadata {
    selected: Option<bool>,
    selected_by_default: Option<bool>,
    inclusion: Option<String>,
    replication_method: Option<String>,
    replication_key: Option<Value>,
    forced_replication_method: Option<String>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// The keys that this and other tools write into catalogs, and that the tap does not read.
const OTHER_KEYS: [&str; 3] = ["key_properties", "is_view", "row_count"];
const OTHER_METADATA: [&str; 3] = ["table-key-properties", "valid-replication-keys", "view-key-properties"];

/// The keys that a struct of the file has, as the file spells them.
fn keys_of<T: JsonSchema>() -> Vec<String> {
    let schema = schemars::schema_for!(T);
    schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys).cloned().collect()
}

/// The keys that look like a misspelling of one of `known`, each with what was meant.
fn slips<'k>(keys: impl Iterator<Item = &'k String>, known: &[String], others: &[&str]) -> BTreeSet<String> {
    let keys = keys.filter(|key| !others.contains(&key.as_str()));
    let slips = keys.filter_map(|key| Some((key, slip(key, known.iter().map(String::as_str))?)));
    slips.map(|(key, known)| format!("{} (did you mean {known:?}?)", shown(key))).collect()
}

impl File {
    fn parse(text: &str) -> Result<File> {
        let mut json = serde_json::Deserializer::from_str(text);
        let file = serde_path_to_error::deserialize(&mut json).map_err(|e| {
            if e.inner().is_data() {
                let place = e.path().iter().next().map(|_| format!("{}: ", e.path())).unwrap_or_default();
                // In JSON's terms.
                let why = e.inner().to_string().replace("a sequence", "a list").replace("type: sequence", "type: list");
                wrong(&shown(&(place + &why.replace("type: map", "type: object"))))
            } else {
                wrong(&json_error(text, e.inner()))
            }
        })?;
        json.end().map_err(|e| wrong(&json_error(text, &e)))?;
        Ok(file)
    }
}

impl Metadata {
    fn is_automatic(&self) -> bool {
        self.inclusion.as_deref() == Some("automatic")
    }

    fn is_unsupported(&self) -> bool {
        self.inclusion.as_deref() == Some("unsupported")
    }
}

impl StreamEntry {
    fn name(&self) -> Option<&str> {
        [&self.tap_stream_id, &self.stream].into_iter().flatten().map(String::as_str).find(|name| !name.is_empty())
    }

    fn items(&self) -> impl DoubleEndedIterator<Item = &Item> {
        self.metadata.iter().flatten()
    }

    /// A value from the stream's own metadata. If several items have it, the last one counts.
    fn root<'s, T>(&'s self, said: impl Fn(&'s Metadata) -> Option<T>) -> Option<T> {
        self.items().rev().filter(|item| item.breadcrumb.is_empty()).find_map(|item| said(&item.metadata))
    }

    /// The metadata win over the entry.
    fn selected(&self) -> Option<bool> {
        self.root(|metadata| metadata.selected).or(self.selected)
    }

    fn is_selected(&self, catalog_names_selection: bool) -> bool {
        if self.root(|metadata| metadata.inclusion.as_deref()) == Some("unsupported") {
            return false;
        }
        let by_default = || !catalog_names_selection && self.root(|m| m.selected_by_default).unwrap_or(true);
        self.selected().unwrap_or_else(by_default)
    }

    /// Keys that look like a misspelling of a known one.
    fn slips(&self) -> BTreeSet<String> {
        let of_metadata = self.items().flat_map(|item| item.metadata.other.keys());
        let mut found = slips(self.other.keys(), &keys_of::<StreamEntry>(), &OTHER_KEYS);
        found.append(&mut slips(of_metadata, &keys_of::<Metadata>(), &OTHER_METADATA));
        found
    }

    fn selection(&self, stream: &Stream, warnings: &mut Vec<String>) -> Selected {
        let mut marks = BTreeMap::new();
        // Breadcrumbs that lead to no property of this version.
        let mut unknown = BTreeSet::new();
        for item in self.items() {
            match names(&item.breadcrumb) {
                Some(path) if exists(&stream.schema, &path) => {
                    marks.insert(path, &item.metadata);
                }
                Some(path) => {
                    unknown.insert(path.join("."));
                }
                None => {
                    unknown.insert(item.breadcrumb.join("."));
                }
            }
        }
        let mask = mask(stream, &|path, _| {
            marks.get(path).is_none_or(|metadata| {
                let selected = metadata.selected.or(metadata.selected_by_default).unwrap_or(true);
                !metadata.is_unsupported() && (metadata.is_automatic() || selected)
            })
        });
        let mut missing = BTreeSet::new();
        if let Some(schema) = &self.schema {
            let schema = Value::Object(schema.clone());
            compare(&stream.schema, &schema, &mut Vec::new(), &mut |path, is_ours| {
                if !is_ours {
                    unknown.insert(path.join("."));
                } else if mask.wants(path) {
                    missing.insert(path.join("."));
                }
            });
        }
        let name = stream.name;
        let known: Vec<String> = paths(stream).collect();
        let unknown = unknown.iter().map(|path| with_nearest(path, known.iter().map(String::as_str)));
        warn_of(warnings, &format!("{name}: unknown properties are ignored"), unknown);
        let missing = missing.into_iter().map(|path| shown(&path));
        warn_of(warnings, &format!("{name}: properties that the catalog does not have are read"), missing);
        let method = self.root(|metadata| metadata.replication_method.as_deref());
        let forced = || self.root(|metadata| metadata.forced_replication_method.as_deref());
        let method = method.or(self.replication_method.as_deref()).or_else(forced);
        let full_table = match method.map(str::to_ascii_uppercase).as_deref() {
            None | Some("INCREMENTAL" | "") => false,
            Some("FULL_TABLE") => stream.replication_key.is_some(),
            Some(other) => {
                let (other, known) = (shown(other), stream.replication_method());
                warnings.push(format!("{name}: unknown replication method {other:?} is ignored; using {known}"));
                false
            }
        };
        let key = self.root(|metadata| metadata.replication_key.as_ref()).or(self.replication_key.as_ref());
        let key = key.filter(|key| !key.is_null() && key.as_str() != Some(""));
        if let Some(other) = key.filter(|key| key.as_str() != stream.replication_key) {
            let known =
                stream.replication_key.map_or("this stream has none".to_owned(), |key| format!("using {key:?}"));
            warnings.push(format!("{name}: replication key {} is ignored; {known}", shown(other)));
        }
        Selected { mask, full_table }
    }
}

/// The property names of a breadcrumb; `None` when it is not made of `properties`, a name and `items`.
fn names(breadcrumb: &[String]) -> Option<Vec<&str>> {
    let mut names = Vec::new();
    let mut parts = breadcrumb.iter().map(String::as_str);
    while let Some(part) = parts.next() {
        match part {
            "properties" => names.push(parts.next()?),
            "items" if !names.is_empty() => {}
            _ => return None,
        }
    }
    Some(names)
}

fn exists(schema: &Value, path: &[&str]) -> bool {
    match path {
        [] => true,
        [name, rest @ ..] => properties(schema).and_then(|p| p.get(*name)).is_some_and(|s| exists(s, rest)),
    }
}

/// Reports the paths of properties that only one of two schemas has, and whether that one is `ours`.
fn compare<'a>(ours: &'a Value, theirs: &'a Value, path: &mut Vec<&'a str>, report: &mut impl FnMut(&[&str], bool)) {
    let (Some(ours), Some(theirs)) = (properties(ours), properties(theirs)) else {
        return;
    };
    for (name, ours) in ours {
        path.push(name);
        match theirs.get(name) {
            Some(theirs) => compare(ours, theirs, path, report),
            None => report(path, true),
        }
        path.pop();
    }
    for name in theirs.keys().filter(|name| !ours.contains_key(*name)) {
        path.push(name);
        report(path, false);
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::catalog::tests::STREAMS;
    use crate::catalog::{Mask, describe, discover};

    fn parse(file: &Value) -> (Catalog, Vec<String>) {
        Catalog::parse(&file.to_string(), STREAMS).unwrap()
    }

    /// The discovered catalog with more metadata for contacts, later ones winning.
    fn with(metadata: &[(&[&str], Value)]) -> Value {
        let mut file = discover(STREAMS.iter().copied());
        let list = file["streams"][0]["metadata"].as_array_mut().unwrap();
        list.extend(metadata.iter().map(|(at, marks)| json!({"breadcrumb": at, "metadata": marks})));
        file
    }

    fn mask(metadata: &[(&[&str], Value)]) -> Mask {
        let (catalog, warnings) = parse(&with(metadata));
        assert_eq!(warnings, [""; 0]);
        catalog.get("contacts").unwrap().mask.clone()
    }

    #[test]
    fn discovery_as_it_is_selects_everything() {
        let (catalog, warnings) = parse(&discover(STREAMS.iter().copied()));
        assert_eq!((catalog, warnings), (Catalog::all(STREAMS), vec![]));
    }

    #[test]
    fn metadata_win_over_the_entry_and_any_selection_ends_the_default() {
        let mut file = with(&[(&[], json!({"selected": true}))]);
        file["streams"][0]["selected"] = json!(false);
        let (catalog, _) = parse(&file);
        assert!(catalog.get("contacts").is_some() && catalog.get("lists").is_none());

        let mut file = discover(STREAMS.iter().copied());
        file["streams"][1]["selected"] = json!(true);
        let (catalog, _) = parse(&file);
        assert!(catalog.get("contacts").is_none() && catalog.get("lists").is_some());

        let (catalog, _) = parse(&with(&[(&[], json!({"selected-by-default": false}))]));
        assert!(catalog.get("contacts").is_none() && catalog.get("lists").is_some());

        let (catalog, _) = parse(&with(&[(&[], json!({"selected": true, "inclusion": "unsupported"}))]));
        assert!(catalog.get("contacts").is_none());
    }

    #[test]
    fn deselected_properties_leave_schema_and_record() {
        let no = json!({"selected": false});
        let mask = mask(&[
            (&["properties", "name"], no.clone()),
            (&["properties", "email", "properties", "reason"], no.clone()),
            (&["properties", "phones", "items", "properties", "kind"], no.clone()),
            (&["properties", "tags"], json!({"inclusion": "unsupported", "selected": true})),
            (&["properties", "id"], no.clone()),
            (&["properties", "updated_at"], no),
        ]);
        let mut schema = STREAMS[0].schema.clone();
        mask.prune_schema(&mut schema);
        let names = |v: &Value| v.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&schema["properties"]), ["id", "updated_at", "email", "phones"]);
        assert_eq!(names(&schema["properties"]["email"]["properties"]), ["address"]);
        assert_eq!(names(&schema["properties"]["phones"]["items"]["properties"]), ["number"]);
        let mut record = json!({"id": "1", "updated_at": null, "name": "n", "email": {"address": "a", "reason": "r"},
            "phones": [{"kind": "home", "number": "1"}, {}], "tags": ["t"]});
        mask.prune_record(&mut record);
        assert_eq!(
            record,
            json!({"id": "1", "updated_at": null, "email": {"address": "a"}, "phones": [{"number": "1"}, {}]})
        );
        assert!(mask.wants(&["id"]) && mask.wants(&["email"]) && mask.wants(&["email", "address"]));
        assert!(!mask.wants(&["name"]) && !mask.wants(&["email", "reason"]));
    }

    #[test]
    fn a_deselected_parent_wins_and_an_empty_one_goes() {
        let (yes, no) = (json!({"selected": true}), json!({"selected": false}));
        let reason = &["properties", "email", "properties", "reason"][..];
        assert!(!mask(&[(&["properties", "email"], no.clone()), (reason, yes)]).wants(&["email"]));
        let address = &["properties", "email", "properties", "address"][..];
        assert!(!mask(&[(address, no.clone()), (reason, no.clone())]).wants(&["email"]));
        // Without `items`, as some write it.
        assert!(!mask(&[(&["properties", "phones", "properties", "kind"], no)]).wants(&["phones", "kind"]));
        assert!(!mask(&[(&["properties", "name"], json!({"selected-by-default": false}))]).wants(&["name"]));
        let automatic = json!({"selected": false, "inclusion": "automatic"});
        assert_eq!(mask(&[(&["properties", "name"], automatic)]), Mask::All);
    }

    #[test]
    fn full_table_is_honoured_where_there_is_a_bookmark() {
        let full = |file: &Value, name: &str| parse(file).0.get(name).unwrap().full_table;
        let mut file = discover(STREAMS.iter().copied());
        assert!(!full(&file, "contacts") && !full(&file, "lists"));
        file["streams"][0]["replication_method"] = json!("FULL_TABLE");
        assert!(full(&file, "contacts"));
        assert!(full(&with(&[(&[], json!({"replication-method": "FULL_TABLE"}))]), "contacts"));
        file["streams"][0]["metadata"][0]["metadata"]["replication-method"] = json!("INCREMENTAL");
        assert!(!full(&file, "contacts"));
        let (_, warnings) = parse(&with(&[(&[], json!({"replication-method": "LOG_BASED"}))]));
        assert!(warnings[0].contains("LOG_BASED"));
    }

    #[test]
    fn other_versions_catalogs_draw_warnings() {
        let mut file = with(&[(&["properties", "gone"], json!({"selected": true})), (&["odd"], json!({}))]);
        file["streams"][1] = json!({"stream": "old"});
        let properties = file["streams"][0]["schema"]["properties"].as_object_mut().unwrap();
        properties.remove("name");
        properties.insert("gone".into(), json!({}));
        let (catalog, warnings) = parse(&file);
        assert!(catalog.get("contacts").unwrap().mask.wants(&["name"]) && catalog.get("lists").is_none());
        assert_eq!(
            warnings,
            [
                "unknown streams are ignored: old",
                "contacts: unknown properties are ignored: gone, odd",
                "contacts: properties that the catalog does not have are read: name",
                "it has no stream lists, so that one is not read",
            ]
        );
    }

    #[test]
    fn slips_are_named_with_what_was_meant() {
        let mut file = with(&[
            (&["properties", "nmae"], json!({"selectd": false})),
            (&[], json!({"replication_method": "FULL_TABLE", "schema-name": "x", "replication-key": "y"})),
        ]);
        file["streams"][0]["Selected"] = json!(true);
        file["streams"][1]["tap_stream_id"] = json!("list");
        let (_, warnings) = parse(&file);
        assert_eq!(
            warnings,
            [
                "unknown streams are ignored: list (did you mean \"lists\"?)",
                "contacts: unknown properties are ignored: nmae (did you mean \"name\"?)",
                "contacts: replication key \"y\" is ignored; using \"updated_at\"",
                "contacts: unknown keys are ignored: Selected (did you mean \"selected\"?), \
                 replication_method (did you mean \"replication-method\"?), selectd (did you mean \"selected\"?)",
                "it has no stream lists, so that one is not read",
            ]
        );
    }

    #[test]
    fn malformed_files_are_errors_that_name_the_place() {
        let stream = |more: &str| format!(r#"{{"streams":[{{"tap_stream_id":"contacts",{more}}}]}}"#);
        for (file, place) in [
            ("{\n x".to_owned(), "line 2"),
            ("[]".to_owned(), "an object with \"streams\""),
            (r#"{"streams":{}}"#.to_owned(), "streams: invalid type: object"),
            (r#"{"streams":[{}]}"#.to_owned(), "streams[0] has no"),
            (r#"{"streams":[7]}"#.to_owned(), "streams[0]: invalid type: integer `7`, expected the entry of a stream"),
            (r#"{"streams":[{"stream":"a"},{"tap_stream_id":"a"}]}"#.to_owned(), "streams[1] is a second"),
            (stream(r#""metadata":{}"#), "streams[0].metadata: "),
            (stream(r#""metadata":[{"metadata":{}}]"#), "streams[0].metadata[0]: missing field `breadcrumb`"),
            (stream(r#""metadata":[{"breadcrumb":[1],"metadata":{}}]"#), "streams[0].metadata[0].breadcrumb[0]: "),
            (
                stream(r#""metadata":[{"breadcrumb":[],"metadata":[]}]"#),
                "streams[0].metadata[0].metadata: invalid type: list, expected an object",
            ),
            (stream(r#""selected":"yes""#), "streams[0].selected: invalid type: string \"yes\", expected a boolean"),
            (stream(r#""schema":"x""#), "streams[0].schema: "),
        ] {
            match Catalog::parse(&file, STREAMS) {
                Err(Error::Usage(text)) => assert!(text.contains(place), "{file}: {text}"),
                other => panic!("{file}: {other:?}"),
            }
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]
        /// However fields are selected, keys and replication key stay, and SCHEMA and record keep the same fields.
        #[test]
        fn no_selection_drops_a_key(marks: Vec<(u8, Option<bool>, u8)>) {
            let schema = STREAMS[0].schema.clone();
            let mut places = Vec::new();
            describe(STREAMS[0], &schema, &mut Vec::new(), &mut places);
            let metadata = marks.iter().map(|(place, selected, inclusion)| {
                let inclusion = ["available", "automatic", "unsupported"].get(usize::from(*inclusion)).copied();
                let place = &places[usize::from(*place) % places.len()]["breadcrumb"];
                json!({"breadcrumb": place, "metadata": {"selected": selected, "inclusion": inclusion}})
            });
            let root = json!({"breadcrumb": [], "metadata": {"selected": true}});
            let metadata: Vec<Value> = std::iter::once(root).chain(metadata).collect();
            let file = json!({"streams": [{"tap_stream_id": "contacts", "schema": schema, "metadata": metadata}]});
            let (catalog, _) = parse(&file);
            let mask = &catalog.get("contacts").unwrap().mask;
            let mut pruned = schema;
            mask.prune_schema(&mut pruned);
            let mut record = json!({"id": "1", "updated_at": "now", "name": "n", "email": {"address": "a", "reason": "r"},
                "phones": [{"kind": "k", "number": "1"}], "tags": ["t"]});
            mask.prune_record(&mut record);
            for key in ["id", "updated_at"] {
                proptest::prop_assert!(!pruned["properties"][key].is_null() && !record[key].is_null());
            }
            let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            proptest::prop_assert_eq!(names(&pruned["properties"]), names(&record));
        }
    }
}
