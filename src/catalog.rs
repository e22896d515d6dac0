//! Discovery, and what of it a catalog selects.
//!
//! Catalogs outlive versions of the tap, so what is unknown or missing in one only draws a warning. What cannot be
//! meant, such as metadata that is no list, is an error that names the place.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// What the catalog has to know of a stream.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    pub(crate) keys: &'static [&'static str],
    pub(crate) replication_key: Option<&'static str>,
    pub(crate) schema: Value,
}

impl Entry {
    fn method(&self) -> &'static str {
        if self.replication_key.is_some() { "INCREMENTAL" } else { "FULL_TABLE" }
    }

    fn is_automatic(&self, name: &str) -> bool {
        self.keys.contains(&name) || self.replication_key == Some(name)
    }
}

/// The catalog of all streams, as `--discover` writes it.
pub(crate) fn discover(entries: &[Entry]) -> Value {
    json!({"streams": entries.iter().map(discover_one).collect::<Vec<_>>()})
}

fn discover_one(entry: &Entry) -> Value {
    let mut root = json!({
        "inclusion": "available",
        "selected-by-default": true,
        "table-key-properties": entry.keys,
        "forced-replication-method": entry.method(),
    });
    let mut out = json!({"tap_stream_id": entry.name, "stream": entry.name});
    if let Some(key) = entry.replication_key {
        root["valid-replication-keys"] = json!([key]);
        out["replication_key"] = json!(key);
    }
    let mut metadata = vec![json!({"breadcrumb": [], "metadata": root})];
    describe(entry, &entry.schema, &mut Vec::new(), &mut metadata);
    out["replication_method"] = json!(entry.method());
    out["key_properties"] = json!(entry.keys);
    out["schema"] = entry.schema.clone();
    out["metadata"] = metadata.into();
    out
}

/// One metadata entry for each property below `schema`, through objects and the items of arrays.
fn describe<'s>(entry: &Entry, schema: &'s Value, path: &mut Vec<&'s str>, out: &mut Vec<Value>) {
    if let Some(items) = schema.get("items") {
        path.push("items");
        describe(entry, items, path, out);
        path.pop();
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        let automatic = path.is_empty() && entry.is_automatic(name);
        path.extend(["properties", name.as_str()]);
        let inclusion = if automatic { "automatic" } else { "available" };
        out.push(json!({"breadcrumb": path, "metadata": {"inclusion": inclusion}}));
        describe(entry, schema, path, out);
        path.truncate(path.len() - 2);
    }
}

/// Which properties are selected. Elements of arrays are treated as if they stood in the place of the array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mask {
    /// This value with all below it.
    All,
    /// Only these properties.
    Some(BTreeMap<String, Mask>),
}

impl Mask {
    /// Removes the deselected properties from a schema.
    pub(crate) fn prune_schema(&self, schema: &mut Value) {
        let Mask::Some(kept) = self else { return };
        if let Some(items) = schema.get_mut("items") {
            self.prune_schema(items);
        }
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            retain(properties, kept, Mask::prune_schema);
        }
    }

    /// Removes the deselected properties from a record.
    pub(crate) fn prune_record(&self, record: &mut Value) {
        let Mask::Some(kept) = self else { return };
        match record {
            Value::Object(properties) => retain(properties, kept, Mask::prune_record),
            Value::Array(items) => items.iter_mut().for_each(|item| self.prune_record(item)),
            _ => {}
        }
    }

    /// Whether the property at this path, or anything of it, is selected.
    pub(crate) fn wants(&self, path: &[&str]) -> bool {
        match (self, path) {
            (Mask::All, _) | (_, []) => true,
            (Mask::Some(kept), [name, rest @ ..]) => kept.get(*name).is_some_and(|mask| mask.wants(rest)),
        }
    }
}

fn retain(properties: &mut Map<String, Value>, kept: &BTreeMap<String, Mask>, prune: fn(&Mask, &mut Value)) {
    properties.retain(|name, value| kept.get(name).map(|mask| prune(mask, value)).is_some());
}

/// How a selected stream is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) mask: Mask,
    /// Ignore the bookmark of a stream that has one.
    pub(crate) full_table: bool,
}

/// The streams to read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Catalog {
    streams: BTreeMap<String, Selected>,
}

impl Catalog {
    /// Every stream with all its properties: what no catalog means.
    pub(crate) fn all(entries: &[Entry]) -> Catalog {
        let selected = Selected { mask: Mask::All, full_table: false };
        Catalog { streams: entries.iter().map(|e| (e.name.to_owned(), selected.clone())).collect() }
    }

    /// The stream's selection; `None` when it is not to be read.
    pub(crate) fn get(&self, stream: &str) -> Option<&Selected> {
        self.streams.get(stream)
    }

    /// The selection in the text of a catalog file, and warnings about what does not fit this version.
    pub(crate) fn parse(text: &str, entries: &[Entry]) -> Result<(Catalog, Vec<String>)> {
        let file: Value = serde_json::from_str(text).map_err(|e| Error::Usage(format!("catalog: not JSON: {e}")))?;
        let streams = file.as_object().ok_or_else(|| wrong("", "must be an object with `streams`"))?.get("streams");
        let streams = streams.and_then(Value::as_array).ok_or_else(|| wrong("/streams", "must be a list"))?;
        let mut read = BTreeMap::new();
        for (i, stream) in streams.iter().enumerate() {
            let place = format!("/streams/{i}");
            let stream = Stream::read(stream, &place)?;
            let name = stream.name;
            if read.insert(name, stream).is_some() {
                return Err(wrong(&place, &format!("is a second entry for the stream {name}")));
            }
        }
        let mut warnings = Vec::new();
        for name in read.keys().filter(|name| entries.iter().all(|e| e.name != **name)) {
            warnings.push(format!("catalog: the stream {name} is not known to this version and is ignored"));
        }
        let names_selection = read.values().any(|stream| stream.selected.is_some());
        let mut catalog = Catalog::default();
        for entry in entries {
            let Some(stream) = read.get(entry.name) else {
                warnings.push(format!("catalog: the stream {} is missing and is not read", entry.name));
                continue;
            };
            if stream.is_selected(names_selection) {
                catalog.streams.insert(entry.name.to_owned(), stream.selection(entry, &mut warnings));
            }
        }
        Ok((catalog, warnings))
    }
}

fn wrong(place: &str, what: &str) -> Error {
    let place = if place.is_empty() { "the file" } else { place };
    Error::Usage(format!("catalog: {place} {what}"))
}

/// What the metadata say about one place.
#[derive(Default)]
struct Marks {
    selected: Option<bool>,
    by_default: Option<bool>,
    automatic: bool,
    unsupported: bool,
}

impl Marks {
    fn read(metadata: &Map<String, Value>, place: &str) -> Result<Marks> {
        let inclusion = text(metadata, "inclusion", place)?;
        Ok(Marks {
            selected: flag(metadata, "selected", place)?,
            by_default: flag(metadata, "selected-by-default", place)?,
            automatic: inclusion == Some("automatic"),
            unsupported: inclusion == Some("unsupported"),
        })
    }
}

/// A stream's entry in the file.
struct Stream<'a> {
    name: &'a str,
    selected: Option<bool>,
    marks: BTreeMap<Vec<&'a str>, Marks>,
    /// Breadcrumbs that lead to no property whatever the schema.
    odd: Vec<String>,
    method: Option<&'a str>,
    schema: Option<&'a Value>,
}

impl<'a> Stream<'a> {
    fn read(stream: &'a Value, place: &str) -> Result<Stream<'a>> {
        let stream = stream.as_object().ok_or_else(|| wrong(place, "must be an object"))?;
        let name = match text(stream, "tap_stream_id", place)? {
            None | Some("") => text(stream, "stream", place)?,
            name => name,
        };
        let name = name.filter(|n| !n.is_empty()).ok_or_else(|| wrong(place, "has no `tap_stream_id`"))?;
        let schema = stream.get("schema").filter(|v| !v.is_null());
        if schema.is_some_and(|v| !v.is_object()) {
            return Err(wrong(&format!("{place}/schema"), "must be an object"));
        }
        let mut out = Stream {
            name,
            selected: flag(stream, "selected", place)?,
            marks: BTreeMap::new(),
            odd: Vec::new(),
            method: text(stream, "replication_method", place)?,
            schema,
        };
        let place = format!("{place}/metadata");
        match stream.get("metadata") {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) => {
                for (i, item) in list.iter().enumerate() {
                    out.read_metadata(item, &format!("{place}/{i}"))?;
                }
            }
            Some(_) => return Err(wrong(&place, "must be a list")),
        }
        Ok(out)
    }

    fn read_metadata(&mut self, item: &'a Value, place: &str) -> Result<()> {
        let breadcrumb: Option<Vec<&str>> =
            item["breadcrumb"].as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        let breadcrumb =
            breadcrumb.ok_or_else(|| wrong(&format!("{place}/breadcrumb"), "must be a list of strings"))?;
        let place = format!("{place}/metadata");
        let metadata = item["metadata"].as_object().ok_or_else(|| wrong(&place, "must be an object"))?;
        let marks = Marks::read(metadata, &place)?;
        if breadcrumb.is_empty() {
            self.selected = marks.selected.or(self.selected);
            let method = text(metadata, "replication-method", &place)?;
            let forced = text(metadata, "forced-replication-method", &place)?;
            self.method = method.or(self.method).or(forced);
        }
        match names(&breadcrumb) {
            Some(path) => {
                self.marks.insert(path, marks);
            }
            None => self.odd.push(breadcrumb.join(".")),
        }
        Ok(())
    }

    fn is_selected(&self, catalog_names_selection: bool) -> bool {
        let marks = self.marks.get(&[][..]);
        if marks.is_some_and(|m| m.unsupported) {
            return false;
        }
        let by_default = || !catalog_names_selection && marks.and_then(|m| m.by_default).unwrap_or(true);
        self.selected.unwrap_or_else(by_default)
    }

    fn selection(&self, entry: &Entry, warnings: &mut Vec<String>) -> Selected {
        let mask = self.mask(entry, &entry.schema, &mut Vec::new()).unwrap_or(Mask::All);
        let mut unknown: BTreeSet<String> = self.odd.iter().cloned().collect();
        unknown.extend(self.marks.keys().filter(|path| !exists(&entry.schema, path)).map(|path| path.join(".")));
        let mut missing = BTreeSet::new();
        if let Some(schema) = self.schema {
            compare(&entry.schema, schema, &mut Vec::new(), &mut |path, is_ours| {
                if !is_ours {
                    unknown.insert(path.join("."));
                } else if mask.wants(path) {
                    missing.insert(path.join("."));
                }
            });
        }
        let name = entry.name;
        warnings.extend(
            unknown.into_iter().map(|path| {
                format!("catalog: {name}: the property {path} is not known to this version and is ignored")
            }),
        );
        warnings.extend(
            missing
                .into_iter()
                .map(|path| format!("catalog: {name}: the property {path} is missing from the schema; it is read")),
        );
        let full_table = match self.method.map(str::to_ascii_uppercase).as_deref() {
            None | Some("INCREMENTAL" | "") => false,
            Some("FULL_TABLE") => entry.replication_key.is_some(),
            Some(other) => {
                warnings.push(format!("catalog: {name}: no replication method {other}; using {}", entry.method()));
                false
            }
        };
        Selected { mask, full_table }
    }

    /// The mask of what is below `schema`; `None` when nothing of it is left.
    fn mask<'s>(&self, entry: &Entry, schema: &'s Value, path: &mut Vec<&'s str>) -> Option<Mask> {
        let Some(properties) = properties(schema) else {
            return Some(Mask::All);
        };
        let mut kept = BTreeMap::new();
        for (name, schema) in properties {
            let ours = path.is_empty() && entry.is_automatic(name);
            path.push(name);
            if ours || self.keeps(path) {
                kept.extend(self.mask(entry, schema, path).map(|mask| (name.clone(), mask)));
            }
            path.pop();
        }
        if kept.len() == properties.len() && kept.values().all(|mask| *mask == Mask::All) {
            return Some(Mask::All);
        }
        // An object without properties is a shape that targets lose data over.
        (!kept.is_empty()).then_some(Mask::Some(kept))
    }

    fn keeps(&self, path: &[&str]) -> bool {
        let Some(marks) = self.marks.get(path) else {
            return true;
        };
        let selected = marks.selected.or(marks.by_default).unwrap_or(true);
        !marks.unsupported && (marks.automatic || selected)
    }
}

/// The properties of an object or of the elements of an array.
fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    match schema.get("items") {
        Some(items) => properties(items),
        None => schema.get("properties")?.as_object(),
    }
}

/// The property names of a breadcrumb; `None` when it is not made of `properties`, a name and `items`.
fn names<'a>(breadcrumb: &[&'a str]) -> Option<Vec<&'a str>> {
    let mut names = Vec::new();
    let mut parts = breadcrumb.iter();
    while let Some(part) = parts.next() {
        match *part {
            "properties" => names.push(*parts.next()?),
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

fn flag(map: &Map<String, Value>, key: &str, place: &str) -> Result<Option<bool>> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(v)) => Ok(Some(*v)),
        Some(_) => Err(wrong(&format!("{place}/{key}"), "must be true or false")),
    }
}

fn text<'a>(map: &'a Map<String, Value>, key: &str, place: &str) -> Result<Option<&'a str>> {
    match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(v)) => Ok(Some(v)),
        Some(_) => Err(wrong(&format!("{place}/{key}"), "must be a string")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let text = json!({"type": ["null", "string"]});
        let contacts = json!({"type": "object", "properties": {
            "id": {"type": ["string"]},
            "updated_at": text,
            "name": text,
            "email": {"type": ["null", "object"], "properties": {"address": text, "reason": text}},
            "phones": {"type": ["null", "array"], "items":
                {"type": ["null", "object"], "properties": {"kind": text, "number": text}}},
            "tags": {"type": ["null", "array"], "items": text},
        }});
        let lists = json!({"type": "object", "properties": {"id": {"type": ["string"]}, "name": text}});
        vec![
            Entry { name: "contacts", keys: &["id"], replication_key: Some("updated_at"), schema: contacts },
            Entry { name: "lists", keys: &["id"], replication_key: None, schema: lists },
        ]
    }

    fn parse(file: &Value) -> (Catalog, Vec<String>) {
        Catalog::parse(&file.to_string(), &entries()).unwrap()
    }

    /// The discovered catalog with more metadata for contacts, later ones winning.
    fn with(metadata: &[(&[&str], Value)]) -> Value {
        let mut file = discover(&entries());
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
    fn discovery_describes_streams_and_nested_properties() {
        let found = discover(&entries());
        let contacts = &found["streams"][0];
        assert_eq!(
            contacts["metadata"][0],
            json!({"breadcrumb": [], "metadata": {"inclusion": "available", "selected-by-default": true,
                "table-key-properties": ["id"], "forced-replication-method": "INCREMENTAL",
                "valid-replication-keys": ["updated_at"]}})
        );
        let inclusion = |at: &Value| {
            let list = contacts["metadata"].as_array().unwrap();
            list.iter().find(|m| m["breadcrumb"] == *at).map(|m| m["metadata"]["inclusion"].clone())
        };
        for (at, expected) in [
            (json!(["properties", "id"]), "automatic"),
            (json!(["properties", "updated_at"]), "automatic"),
            (json!(["properties", "email"]), "available"),
            (json!(["properties", "email", "properties", "address"]), "available"),
            (json!(["properties", "phones", "items", "properties", "kind"]), "available"),
        ] {
            assert_eq!(inclusion(&at), Some(json!(expected)), "{at}");
        }
        assert_eq!(contacts["metadata"].as_array().unwrap().len(), 11);
        let lists = &found["streams"][1];
        assert_eq!(lists["replication_method"], "FULL_TABLE");
        assert!(lists.get("replication_key").is_none());
        assert!(lists["metadata"][0]["metadata"].get("valid-replication-keys").is_none());
    }

    #[test]
    fn discovery_as_it_is_selects_everything() {
        let (catalog, warnings) = parse(&discover(&entries()));
        assert_eq!((catalog, warnings), (Catalog::all(&entries()), vec![]));
    }

    #[test]
    fn metadata_win_over_the_entry_and_any_selection_ends_the_default() {
        let mut file = with(&[(&[], json!({"selected": true}))]);
        file["streams"][0]["selected"] = json!(false);
        let (catalog, _) = parse(&file);
        assert!(catalog.get("contacts").is_some() && catalog.get("lists").is_none());

        let mut file = discover(&entries());
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
        let mut schema = entries().remove(0).schema;
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
        let mut file = discover(&entries());
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
        let about: Vec<_> = warnings.iter().map(|w| w.split(" is ").next().unwrap()).collect();
        assert_eq!(
            about,
            [
                "catalog: the stream old",
                "catalog: contacts: the property gone",
                "catalog: contacts: the property odd",
                "catalog: contacts: the property name",
                "catalog: the stream lists",
            ]
        );
    }

    #[test]
    fn malformed_files_are_errors_that_name_the_place() {
        let stream = |more: &str| format!(r#"{{"streams":[{{"tap_stream_id":"contacts",{more}}}]}}"#);
        for (file, place) in [
            ("{\n x".to_owned(), "line 2"),
            ("[]".to_owned(), "the file"),
            (r#"{"streams":{}}"#.to_owned(), "/streams "),
            (r#"{"streams":[{}]}"#.to_owned(), "/streams/0 has no"),
            (r#"{"streams":[7]}"#.to_owned(), "/streams/0 must"),
            (r#"{"streams":[{"stream":"a"},{"tap_stream_id":"a"}]}"#.to_owned(), "/streams/1 is a second"),
            (stream(r#""metadata":{}"#), "/streams/0/metadata "),
            (stream(r#""metadata":[{"metadata":{}}]"#), "/streams/0/metadata/0/breadcrumb"),
            (stream(r#""metadata":[{"breadcrumb":[1],"metadata":{}}]"#), "/streams/0/metadata/0/breadcrumb"),
            (stream(r#""metadata":[{"breadcrumb":[],"metadata":[]}]"#), "/streams/0/metadata/0/metadata "),
            (stream(r#""selected":"yes""#), "/streams/0/selected"),
            (stream(r#""schema":"x""#), "/streams/0/schema"),
        ] {
            match Catalog::parse(&file, &entries()) {
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
            let schema = entries()[0].schema.clone();
            let mut places = Vec::new();
            describe(&entries()[0], &schema, &mut Vec::new(), &mut places);
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
