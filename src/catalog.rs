//! Discovery, and the selection of streams and fields by a catalog file or by `--select`.
//!
//! A catalog file may come from another version of the tap, so unknown or missing streams and fields only get a
//! warning. A wrong shape, such as metadata that is not a list, is an error that names the place. Patterns of
//! `--select` are typed for this version, so a stream or field that they do not match is an error.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::json_error;
use crate::error::{Error, Result};
use crate::shown::shown;
use crate::spelling::{nearest, slip};

/// What the catalog needs to know about a stream.
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

    /// The dotted paths of the properties of a schema that are not selected; one stands for all below it.
    pub(crate) fn left_out(&self, schema: &Value) -> Vec<String> {
        let Mask::Some(kept) = self else { return Vec::new() };
        let mut paths = Vec::new();
        for (name, schema) in properties(schema).into_iter().flatten() {
            match kept.get(name) {
                None => paths.push(name.clone()),
                Some(mask) => paths.extend(mask.left_out(schema).into_iter().map(|path| format!("{name}.{path}"))),
            }
        }
        paths
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
    /// Every stream with all its properties, as read without a catalog.
    pub(crate) fn all(entries: &[Entry]) -> Catalog {
        let selected = Selected { mask: Mask::All, full_table: false };
        Catalog { streams: entries.iter().map(|e| (e.name.to_owned(), selected.clone())).collect() }
    }

    /// The selection of these streams alone.
    pub(crate) fn of(&self, names: &[&str]) -> Catalog {
        let kept = self.streams.iter().filter(|(name, _)| names.contains(&name.as_str()));
        Catalog { streams: kept.map(|(name, selected)| (name.clone(), selected.clone())).collect() }
    }

    /// The selection of a stream; `None` if it is not read.
    pub(crate) fn get(&self, stream: &str) -> Option<&Selected> {
        self.streams.get(stream)
    }

    /// The selection in a catalog file, and warnings about differences to this version.
    ///
    /// # Errors
    /// `Usage` for a text that is not a catalog; it names the place.
    pub(crate) fn parse(text: &str, entries: &[Entry]) -> Result<(Catalog, Vec<String>)> {
        let file = File::parse(text)?;
        let mut read = BTreeMap::new();
        for (i, stream) in file.streams.iter().enumerate() {
            let name = stream.name().ok_or_else(|| wrong(&format!("streams[{i}] has no \"tap_stream_id\"")))?;
            if read.insert(name, stream).is_some() {
                return Err(wrong(&format!("streams[{i}] is a second entry for the stream {}", shown(name))));
            }
        }
        let names = || entries.iter().map(|entry| entry.name);
        if names().all(|name| !read.contains_key(name)) {
            let names = names().collect::<Vec<_>>().join(", ");
            return Err(wrong(&format!("it has none of this tap's streams, which are {names}")));
        }
        let mut warnings = Vec::new();
        let unknown = read.keys().filter(|name| names().all(|known| known != **name));
        warn_of(&mut warnings, "unknown streams are ignored", unknown, |name| with_nearest(name, names()));
        let names_selection = read.values().any(|stream| stream.selected().is_some());
        let mut catalog = Catalog::default();
        for entry in entries {
            let Some(stream) = read.get(entry.name) else {
                warnings.push(format!("it has no stream {}, so that one is not read", entry.name));
                continue;
            };
            if stream.is_selected(names_selection) {
                catalog.streams.insert(entry.name.to_owned(), stream.selection(entry, &mut warnings));
            }
            let slips = stream.slips();
            warn_of(&mut warnings, &format!("{}: unknown keys are ignored", entry.name), slips.into_iter(), |slip| {
                slip
            });
        }
        Ok((catalog, warnings))
    }

    /// The selection by patterns such as `STREAM.FIELD` or `!*.FIELD`. An exclusion wins over any inclusion. If there
    /// are only exclusions, everything else is selected.
    ///
    /// # Errors
    /// `Usage` for a pattern that matches nothing, and when nothing is left to read.
    pub(crate) fn select(patterns: &[String], entries: &[Entry]) -> Result<Catalog> {
        // A comma at the end is no pattern.
        let are_all_empty = patterns.iter().all(|text| text.trim().is_empty());
        let patterns = patterns.iter().filter(|text| are_all_empty || !text.trim().is_empty());
        let patterns: Vec<Pattern> = patterns.map(|text| Pattern::parse(text)).collect();
        patterns.iter().try_for_each(|pattern| pattern.check(entries))?;
        let (exclusions, mut inclusions): (Vec<_>, Vec<_>) = patterns.into_iter().partition(|p| p.is_exclusion);
        if inclusions.is_empty() {
            inclusions.push(Pattern::parse("*.*"));
        }
        let mut catalog = Catalog::default();
        for entry in entries {
            let (included, excluded) = (of_stream(&inclusions, entry), of_stream(&exclusions, entry));
            let is_included = included.iter().any(|pattern| pattern.matches_a_field_of(entry));
            if !is_included || excluded.iter().any(|pattern| pattern.is_of_whole_stream()) {
                continue;
            }
            let mask = mask(entry, &|path, is_leaf| {
                let is_in = |patterns: &[&Pattern]| patterns.iter().any(|pattern| pattern.covers(path));
                !is_in(&excluded) && (!is_leaf || is_in(&included))
            });
            catalog.streams.insert(entry.name.to_owned(), Selected { mask, full_table: false });
        }
        if catalog.streams.is_empty() {
            return Err(Error::Usage("--select leaves no stream to read: each is excluded".into()));
        }
        Ok(catalog)
    }

    /// Makes selected streams ignore their bookmarks; `*` stands for all of them.
    ///
    /// # Errors
    /// `Usage` for a stream that does not exist or is not selected.
    pub(crate) fn read_full_table(&mut self, streams: &[String], entries: &[Entry]) -> Result<()> {
        for name in streams.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
            if name == "*" {
                for entry in entries.iter().filter(|entry| entry.replication_key.is_some()) {
                    self.streams.entry(entry.name.into()).and_modify(|selected| selected.full_table = true);
                }
                continue;
            }
            let Some(entry) = entries.iter().find(|entry| entry.name == name) else {
                return Err(Error::Usage(format!(
                    "--full-table {:?}: there is no such stream; {}",
                    shown(name),
                    nearest_or_all(name, "", entries)
                )));
            };
            let Some(selected) = self.streams.get_mut(name) else {
                return Err(Error::Usage(format!("--full-table {name}: this stream is not selected")));
            };
            selected.full_table = entry.replication_key.is_some();
        }
        Ok(())
    }
}

fn wrong(what: &str) -> Error {
    Error::Usage(format!("not a usable catalog: {what}"))
}

/// The most names in a warning; the rest are counted.
const MOST_NAMED: usize = 20;

/// Adds one warning for all these names, if there are any. `show` may look for a similar name, so it is not called for the
/// names that are only counted.
fn warn_of<T>(warnings: &mut Vec<String>, what: &str, mut names: impl Iterator<Item = T>, show: impl Fn(T) -> String) {
    let mut shown: Vec<String> = names.by_ref().take(MOST_NAMED).map(show).collect();
    let more = names.count();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    if !shown.is_empty() {
        warnings.push(format!("{what}: {}", shown.join(", ")));
    }
}

fn with_nearest<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> String {
    match slip(name, known) {
        Some(known) => format!("{} (did you mean {known:?}?)", shown(name)),
        None => shown(name),
    }
}

fn nearest_or_all(name: &str, mark: &str, entries: &[Entry]) -> String {
    let names: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
    match nearest(name, names.iter().copied()) {
        Some(nearest) => format!("the nearest is \"{mark}{nearest}\""),
        None => format!("the streams are {}", names.join(", ")),
    }
}

/// A pattern of `--select`: globs for a stream and for the path of a field in it.
struct Pattern {
    text: String,
    is_exclusion: bool,
    stream: Vec<char>,
    field: Vec<char>,
}

impl Pattern {
    /// Splits at the first dot, since names of streams have none. Without a dot, the pattern means the whole stream.
    fn parse(text: &str) -> Pattern {
        let text = text.trim();
        let (is_exclusion, rest) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        let (stream, field) = rest.split_once('.').unwrap_or((rest, "*"));
        Pattern {
            text: text.to_owned(),
            is_exclusion,
            stream: stream.chars().collect(),
            field: field.chars().collect(),
        }
    }

    fn check(&self, entries: &[Entry]) -> Result<()> {
        let streams: Vec<&Entry> = entries.iter().filter(|entry| self.matches_stream(entry)).collect();
        if streams.iter().any(|entry| self.matches_a_field_of(entry)) {
            let field: String = self.field.iter().collect();
            if self.is_exclusion && streams.iter().any(|entry| entry.is_automatic(&field)) {
                let text = shown(&self.text);
                return Err(Error::Usage(format!("--select \"{text}\": {field} is a key, and is always written")));
            }
            return Ok(());
        }
        let wanted = self.text.trim_start_matches('!');
        let mark = if self.is_exclusion { "!" } else { "" };
        let (stream, field) = wanted.split_once('.').unwrap_or((wanted, ""));
        let why = if streams.is_empty() {
            format!("matches no stream; {}", nearest_or_all(stream, mark, entries))
        } else {
            let known: Vec<String> = streams.iter().flat_map(|entry| paths(entry)).collect();
            match nearest(field, known.iter().map(String::as_str)) {
                Some(nearest) => format!("matches no field; the nearest is \"{mark}{}.{nearest}\"", shown(stream)),
                None => "matches no field; --discover names all fields".into(),
            }
        };
        Err(Error::Usage(format!("--select \"{}\" {why}", shown(&self.text))))
    }

    fn matches_stream(&self, entry: &Entry) -> bool {
        glob(&self.stream, entry.name)
    }

    fn matches_a_field_of(&self, entry: &Entry) -> bool {
        paths(entry).any(|path| glob(&self.field, &path))
    }

    fn is_of_whole_stream(&self) -> bool {
        self.field.iter().all(|c| *c == '*')
    }

    /// Whether it matches the field at this path or one that holds it.
    fn covers(&self, path: &[&str]) -> bool {
        (1..=path.len()).any(|depth| glob(&self.field, &path[..depth].join(".")))
    }
}

fn of_stream<'p>(patterns: &'p [Pattern], entry: &Entry) -> Vec<&'p Pattern> {
    patterns.iter().filter(|pattern| pattern.matches_stream(entry)).collect()
}

/// The paths of all fields of a stream, such as `custom_fields.name`.
fn paths(entry: &Entry) -> impl Iterator<Item = String> {
    fn walk(schema: &Value, path: &str, out: &mut Vec<String>) {
        for (name, schema) in properties(schema).into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            walk(schema, &path, out);
            out.push(path);
        }
    }
    let mut out = Vec::new();
    walk(&entry.schema, "", &mut out);
    out.into_iter()
}

/// Matches as Python's `fnmatch` does: `*` is any text, `?` any character, `[abc]` one of these, `[!abc]` none of them.
fn glob(pattern: &[char], text: &str) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['*', rest @ ..] => text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| glob(rest, &text[at..])),
        [first, rest @ ..] => {
            let mut chars = text.chars();
            let Some(c) = chars.next() else { return false };
            // A bracket that is never closed is itself.
            let close = rest.iter().skip(2).position(|c| *c == ']').map(|at| at + 2);
            let close = close.or_else(|| (rest.get(1) == Some(&']')).then_some(1));
            let (is_match, rest) = match (first, close) {
                ('[', Some(close)) => {
                    let (is_not, set) = match &rest[..close] {
                        ['!', set @ ..] => (true, set),
                        set => (false, set),
                    };
                    (is_in_set(set, c) != is_not, &rest[close + 1..])
                }
                ('?', _) => (true, rest),
                (first, _) => (*first == c, rest),
            };
            is_match && glob(rest, chars.as_str())
        }
    }
}

/// `a-z` in a set is a range.
fn is_in_set(set: &[char], c: char) -> bool {
    match set {
        [] => false,
        [from, '-', to, rest @ ..] => (*from..=*to).contains(&c) || is_in_set(rest, c),
        [one, rest @ ..] => *one == c || is_in_set(rest, c),
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
#[derive(Deserialize)]
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

#[derive(Deserialize)]
#[serde(expecting = "an object with \"breadcrumb\" and \"metadata\"")]
struct Item {
    breadcrumb: Vec<String>,
    metadata: Metadata,
}

/// The metadata of one place.
#[derive(Deserialize)]
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
const KEYS: [&str; 7] =
    ["tap_stream_id", "stream", "selected", "replication_method", "replication_key", "schema", "metadata"];
const METADATA: [&str; 6] = [
    "selected",
    "selected-by-default",
    "inclusion",
    "replication-method",
    "replication-key",
    "forced-replication-method",
];

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
        let is_slip = |key: &str, known: &[&'static str], others: &[&str]| {
            if others.contains(&key) { None } else { slip(key, known.iter().copied()) }
        };
        let of_entry = self.other.keys().filter_map(|key| Some((key, is_slip(key, &KEYS, &OTHER_KEYS)?)));
        let of_metadata = self.items().flat_map(|item| item.metadata.other.keys());
        let of_metadata = of_metadata.filter_map(|key| Some((key, is_slip(key, &METADATA, &OTHER_METADATA)?)));
        of_entry.chain(of_metadata).map(|(key, known)| format!("{} (did you mean {known:?}?)", shown(key))).collect()
    }

    fn selection(&self, entry: &Entry, warnings: &mut Vec<String>) -> Selected {
        let mut marks = BTreeMap::new();
        // Breadcrumbs that lead to no property of this version.
        let mut unknown = BTreeSet::new();
        for item in self.items() {
            match names(&item.breadcrumb) {
                Some(path) if exists(&entry.schema, &path) => {
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
        let mask = mask(entry, &|path, _| {
            marks.get(path).is_none_or(|metadata| {
                let selected = metadata.selected.or(metadata.selected_by_default).unwrap_or(true);
                !metadata.is_unsupported() && (metadata.is_automatic() || selected)
            })
        });
        let mut missing = BTreeSet::new();
        if let Some(schema) = &self.schema {
            let schema = Value::Object(schema.clone());
            compare(&entry.schema, &schema, &mut Vec::new(), &mut |path, is_ours| {
                if !is_ours {
                    unknown.insert(path.join("."));
                } else if mask.wants(path) {
                    missing.insert(path.join("."));
                }
            });
        }
        let name = entry.name;
        let known: Vec<String> = paths(entry).collect();
        let nearest = |path: &String| with_nearest(path, known.iter().map(String::as_str));
        warn_of(warnings, &format!("{name}: unknown properties are ignored"), unknown.iter(), nearest);
        let what = format!("{name}: properties that the catalog does not have are read");
        warn_of(warnings, &what, missing.iter(), |path| shown(path));
        let method = self.root(|metadata| metadata.replication_method.as_deref());
        let forced = || self.root(|metadata| metadata.forced_replication_method.as_deref());
        let method = method.or(self.replication_method.as_deref()).or_else(forced);
        let full_table = match method.map(str::to_ascii_uppercase).as_deref() {
            None | Some("INCREMENTAL" | "") => false,
            Some("FULL_TABLE") => entry.replication_key.is_some(),
            Some(other) => {
                let (other, known) = (shown(other), entry.method());
                warnings.push(format!("{name}: unknown replication method {other:?} is ignored; using {known}"));
                false
            }
        };
        let key = self.root(|metadata| metadata.replication_key.as_ref()).or(self.replication_key.as_ref());
        let key = key.filter(|key| !key.is_null() && key.as_str() != Some(""));
        if let Some(other) = key.filter(|key| key.as_str() != entry.replication_key) {
            let known = entry.replication_key.map_or("this stream has none".to_owned(), |key| format!("using {key:?}"));
            warnings.push(format!("{name}: replication key {} is ignored; {known}", shown(other)));
        }
        Selected { mask, full_table }
    }
}

/// The mask of the fields for which `is_kept` holds. It is called from the outside in, with the path of a field and
/// whether the field is a leaf. Keys and the replication key always stay.
fn mask(entry: &Entry, is_kept: &dyn Fn(&[&str], bool) -> bool) -> Mask {
    /// `None` if no property below `schema` is left.
    fn below<'s>(
        entry: &Entry,
        schema: &'s Value,
        path: &mut Vec<&'s str>,
        is_kept: &dyn Fn(&[&str], bool) -> bool,
    ) -> Option<Mask> {
        let Some(all) = properties(schema) else { return Some(Mask::All) };
        let mut kept = BTreeMap::new();
        for (name, schema) in all {
            let is_automatic = path.is_empty() && entry.is_automatic(name);
            path.push(name);
            if is_automatic || is_kept(path, properties(schema).is_none()) {
                kept.extend(below(entry, schema, path, is_kept).map(|mask| (name.clone(), mask)));
            }
            path.pop();
        }
        if kept.len() == all.len() && kept.values().all(|mask| *mask == Mask::All) {
            return Some(Mask::All);
        }
        // Some targets lose data if an object has no properties.
        (!kept.is_empty()).then_some(Mask::Some(kept))
    }
    below(entry, &entry.schema, &mut Vec::new(), is_kept).unwrap_or(Mask::All)
}

/// The properties of an object or of the elements of an array.
fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    match schema.get("items") {
        Some(items) => properties(items),
        None => schema.get("properties")?.as_object(),
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
    fn names_that_are_only_counted_are_compared_with_none() {
        let (mut warnings, shown) = (Vec::new(), std::cell::Cell::new(0));
        let show = |name: u32| {
            shown.set(shown.get() + 1);
            name.to_string()
        };
        warn_of(&mut warnings, "unknown", 0..100_000, show);
        assert_eq!(shown.get(), MOST_NAMED);
        assert!(warnings[0].ends_with(", 19, and 99980 more"), "{warnings:?}");
    }

    /// The fields that patterns choose, by stream.
    fn selected(patterns: &[&str]) -> Vec<String> {
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let catalog = Catalog::select(&patterns, &entries()).unwrap();
        let mut out = Vec::new();
        for entry in entries() {
            if let Some(selected) = catalog.get(entry.name) {
                let wanted = paths(&entry).filter(|path| selected.mask.wants(&path.split('.').collect::<Vec<_>>()));
                out.extend(wanted.map(|path| format!("{}.{path}", entry.name)));
            }
        }
        out
    }

    #[test]
    fn patterns_choose_streams_and_fields() {
        let all_of = |stream: &str| {
            let all = selected(&["*.*"]).into_iter();
            all.filter(|path| path.starts_with(&format!("{stream}."))).collect::<Vec<_>>()
        };
        let keys = ["contacts.id", "contacts.updated_at"];
        let with_keys = |fields: &[&'static str]| [&keys[..], fields].concat();
        assert_eq!(selected(&["*.*"]).len(), 12);
        assert_eq!(selected(&["*"]), selected(&["*.*"]));
        assert_eq!(selected(&["contacts"]), all_of("contacts"));
        assert_eq!(selected(&[" contacts.* "]), all_of("contacts"));
        assert_eq!(selected(&["contacts.name"]), with_keys(&["contacts.name"]));
        // Into objects and lists, and a star goes over dots.
        assert_eq!(selected(&["contacts.email.reason"]), with_keys(&["contacts.email.reason", "contacts.email"]));
        assert_eq!(selected(&["contacts.*kind"]), with_keys(&["contacts.phones.kind", "contacts.phones"]));
        assert_eq!(
            selected(&["contacts.email"]),
            with_keys(&["contacts.email.address", "contacts.email.reason", "contacts.email"])
        );
        // A stream without such a field is not read for it.
        assert_eq!(selected(&["*.tags"]), with_keys(&["contacts.tags"]));
        assert_eq!(selected(&["*.nam[a-e]"]).len(), 5);
        assert_eq!(selected(&["c?ntacts.nam?"]), with_keys(&["contacts.name"]));
    }

    #[test]
    fn an_exclusion_wins_in_any_order() {
        let without_name = |list: Vec<String>| list.into_iter().filter(|p| p != "contacts.name").collect::<Vec<_>>();
        assert_eq!(selected(&["contacts", "!contacts.name"]), without_name(selected(&["contacts"])));
        assert_eq!(selected(&["!contacts.name", "contacts", "contacts.name"]), without_name(selected(&["contacts"])));
        // Alone, it means everything else.
        assert_eq!(selected(&["!contacts.name"]), without_name(selected(&["*"])));
        assert_eq!(selected(&["!contacts"]), selected(&["lists"]));
        assert_eq!(selected(&["!contacts.*"]), selected(&["lists"]));
        assert_eq!(selected(&["*", "!contacts.email", "contacts.email.reason"]).len(), 9);
        assert_eq!(selected(&["lists", "!*.name"]), ["lists.id"]);
        // A key stays.
        assert_eq!(selected(&["lists", "!lists.i*"]), ["lists.id", "lists.name"]);
        assert_eq!(selected(&["contacts", "!contacts.email.*", "!contacts.phones*"]).len(), 4);
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_an_error() {
        let refused = |patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            Catalog::select(&patterns, &entries()).unwrap_err().to_string()
        };
        for (pattern, expected) in [
            ("contcts", "matches no stream; the nearest is \"contacts\""),
            ("Lists.*", "matches no stream; the nearest is \"lists\""),
            ("!contcts.name", "matches no stream; the nearest is \"!contacts\""),
            ("contacts.emial", "matches no field; the nearest is \"contacts.email\""),
            ("contacts.phones.items.kind", "matches no field; the nearest is \"contacts.phones.kind\""),
            ("lists.email", "matches no field; --discover names all fields"),
            ("", "matches no stream"),
            ("contacts.", "matches no field"),
        ] {
            let told = refused(&[pattern]);
            assert!(told.starts_with(&format!("--select \"{pattern}\" {expected}")), "{told}");
        }
        assert_eq!(refused(&["!*"]), "--select leaves no stream to read: each is excluded");
        assert_eq!(refused(&["lists", "!lists"]), "--select leaves no stream to read: each is excluded");
    }

    #[test]
    fn full_table_needs_a_selected_stream() {
        let mut catalog = Catalog::select(&["contacts".to_owned()], &entries()).unwrap();
        let mut full = |name: &str| catalog.read_full_table(&[name.to_owned()], &entries()).map_err(|e| e.to_string());
        assert_eq!(full("contacts"), Ok(()));
        assert_eq!(full("lists"), Err("--full-table lists: this stream is not selected".into()));
        let unknown = "--full-table \"contatcs\": there is no such stream; the nearest is \"contacts\"";
        assert_eq!(full("contatcs"), Err(unknown.into()));
        assert!(catalog.get("contacts").unwrap().full_table);
    }

    #[test]
    fn globs_are_those_of_fnmatch() {
        let is = |pattern: &str, text: &str| glob(&pattern.chars().collect::<Vec<_>>(), text);
        for (pattern, text) in [
            ("*", ""),
            ("a*c", "abbc"),
            ("*.*", "a.b.c"),
            ("a?", "aß"),
            ("[abc]x", "bx"),
            ("[!abc]x", "dx"),
            ("[a-c]", "b"),
            ("[", "["),
            ("[]]", "]"),
            ("[!]]", "a"),
            ("**", "ab"),
            ("a[]", "a[]"),
            ("[a-]", "-"),
        ] {
            assert!(is(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("a*c", "abbd"), ("?", ""), ("[abc]", "d"), ("[!abc]", "a"), ("a", "ab"), ("[]]", "a"), ("", "a")]
        {
            assert!(!is(pattern, text), "{pattern} {text}");
        }
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
