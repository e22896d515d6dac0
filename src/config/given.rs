//! What the sources say: their settings merged, and everything that is wrong with them.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Map, Value};
use serde_path_to_error::Segment;
use url::Url;

use super::coerce::{allowed, coerce};
use super::{Config, Source};
use crate::error::{Error, Result};
use crate::shown::shown;
use crate::spelling::{longer, nearest, slip};

pub(super) struct Given<'s> {
    /// The settings as JSON Schema, with the default of each.
    schema: Value,
    settings: Map<String, Value>,
    /// The source of each setting.
    sources: BTreeMap<String, &'s Source>,
    last: Option<&'s Source>,
    problems: Vec<Problem>,
}

struct Problem {
    source: String,
    key: String,
    why: String,
}

/// The other name of a setting.
const OTHER_NAME: (&str, &str) = ("updated_after", "start_date");
/// Keys that begin or end with one of these are commented out and ignored. No setting's name does.
const COMMENT: [char; 4] = ['_', '#', '/', '-'];
/// At most this many unknown keys of a source are named; the rest are counted.
const MOST_NAMED: usize = 20;
/// Problems are listed up to this many bytes, so that the message stays readable.
const MOST_LISTED: usize = 1200;

impl<'s> Given<'s> {
    pub(super) fn new(schema: Value) -> Given<'s> {
        Given { schema, settings: Map::new(), sources: BTreeMap::new(), last: None, problems: Vec::new() }
    }

    /// Takes the settings of a source, over those of the sources before.
    ///
    /// # Errors
    /// `Usage` for a source that is not a JSON object. What is wrong with its settings is collected.
    pub(super) fn merge(&mut self, source: &'s Source, warnings: &mut Vec<String>) -> Result<()> {
        self.last = Some(source);
        let mut unknown = Vec::new();
        for (key, value) in source.parse()? {
            let name = if key == OTHER_NAME.0 { OTHER_NAME.1 } else { key.as_str() };
            let setting = &self.schema["properties"][name];
            if setting.is_null() {
                unknown.extend(self.unknown(source, &key, &value));
                continue;
            }
            match coerce(value.clone(), setting) {
                Ok(Some(value)) => {
                    let before = self.sources.insert(name.to_owned(), source);
                    // Twice from one source: under both of its names.
                    if before.is_some_and(|before| std::ptr::eq(before, source)) {
                        let [one, other] = <[&str; 2]>::from(OTHER_NAME).map(|key| source.name_of(key));
                        self.refuse(name, format!("{other} and {one} are the same setting: keep one of them"));
                    }
                    self.settings.insert(name.to_owned(), value);
                }
                Ok(None) => {}
                Err(suggestion) => {
                    let allowed = allowed(setting) + &suggestion;
                    self.sources.insert(name.to_owned(), source);
                    self.wrong(name, &value, &allowed);
                }
            }
        }
        let more = unknown.len().saturating_sub(MOST_NAMED);
        warnings.extend(unknown.into_iter().take(MOST_NAMED));
        if more > 0 {
            warnings.push(format!("{source}: {more} more unknown settings are ignored"));
        }
        Ok(())
    }

    /// A warning about an unknown key. One that is a slip or a part of a setting's name is a problem instead, since the run
    /// would not do what was meant; unless it has no value.
    fn unknown(&mut self, source: &Source, key: &str, value: &Value) -> Option<String> {
        let settings = self.schema["properties"].as_object().into_iter().flat_map(Map::keys);
        let known: Vec<&str> = settings.map(String::as_str).chain([OTHER_NAME.0]).collect();
        let shown_key = shown(source.name_of(key));
        let is_empty = match value {
            Value::Null => true,
            Value::String(text) => text.trim().is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(members) => members.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        };
        if key.starts_with(COMMENT) || key.ends_with(COMMENT) {
            return None;
        }
        let mut meant = longer(key, known.iter().copied());
        meant.extend(slip(key, known.iter().copied()).filter(|_| meant.is_empty()));
        let quoted = |name: &str| format!("\"{}\"", source.name_of(name));
        if !is_empty && !meant.is_empty() {
            let meant = meant.into_iter().map(quoted).collect::<Vec<_>>().join(" or ");
            let why = format!("unknown setting \"{shown_key}\": did you mean {meant}?");
            self.problems.push(Problem { source: source.to_string(), key: key.to_owned(), why });
            return None;
        }
        let nearest = nearest(key, known).map(|name| format!("; did you mean {}?", quoted(name))).unwrap_or_default();
        Some(format!("{source}: unknown setting \"{shown_key}\" is ignored{nearest}"))
    }

    /// The settings, with the default of each that is not set. One that cannot be deserialized is a problem, and left out,
    /// so that all problems are reported at once.
    pub(super) fn deserialize(&mut self) -> Result<Config> {
        let mut settings = self.settings.clone();
        for (name, setting) in self.schema["properties"].as_object().into_iter().flatten() {
            if let Some(default) = setting.get("default").filter(|_| !settings.contains_key(name)) {
                settings.insert(name.clone(), default.clone());
            }
        }
        loop {
            let error = match serde_path_to_error::deserialize(Value::Object(settings.clone())) {
                Ok(config) => return Ok(config),
                Err(error) => error,
            };
            let Some(Segment::Map { key }) = error.path().iter().next() else {
                return Err(Error::Usage(format!("config: {}", error.inner())));
            };
            self.wrong(key, &settings[key], &error.inner().to_string());
            match &self.schema["properties"][key]["default"] {
                Value::Null => settings.remove(key),
                default => settings.insert(key.clone(), default.clone()),
            };
        }
    }

    pub(super) fn is_set(&self, key: &str) -> bool {
        self.settings.contains_key(key)
    }

    pub(super) fn is_wrong(&self, key: &str) -> bool {
        self.problems.iter().any(|problem| problem.key == key)
    }

    /// A setting as the last source calls it.
    pub(super) fn name_of(&self, key: &str) -> String {
        self.last.map_or_else(|| key.to_owned(), |source| source.name_of(key))
    }

    pub(super) fn source_of(&self, key: &str) -> Option<&'s Source> {
        self.sources.get(key).copied()
    }

    fn wrong(&mut self, key: &str, value: &Value, allowed: &str) {
        let name = self.source_of(key).map_or_else(|| key.to_owned(), |source| source.name_of(key));
        let value = value_shown(key, value, &self.schema["properties"][key]);
        self.refuse(key, format!("{name} is {value}; allowed: {allowed}"));
    }

    /// Notes what is wrong with a setting.
    pub(super) fn refuse(&mut self, key: &str, why: String) {
        let source = self.source_of(key).or(self.last).map(Source::to_string).unwrap_or_default();
        self.problems.push(Problem { source, key: key.to_owned(), why });
    }

    /// # Errors
    /// `Usage` with all problems, where there are any.
    pub(super) fn fail_if_wrong(&self) -> Result<()> {
        let [first, more @ ..] = self.problems.as_slice() else { return Ok(()) };
        if more.is_empty() {
            return Err(Error::Usage(format!("{}: {}", first.source, first.why)));
        }
        let is_one_source = more.iter().all(|problem| problem.source == first.source);
        let mut text = if is_one_source { format!("{}: ", first.source) } else { String::new() };
        let _ = write!(text, "{} settings are wrong:", self.problems.len());
        for (i, Problem { source, why, .. }) in self.problems.iter().enumerate() {
            if text.len() > MOST_LISTED {
                let _ = write!(text, " and {} more", self.problems.len() - i);
                break;
            }
            let source = if is_one_source { String::new() } else { format!("{source}: ") };
            let _ = write!(text, " ({}) {source}{why}", i + 1);
        }
        Err(Error::Usage(text))
    }
}

/// A value as a message shows it: no secret, and no credentials in a URL.
fn value_shown(key: &str, value: &Value, setting: &Value) -> String {
    // A secret is easily pasted into the wrong one of the two.
    if setting["secret"] == true || key == "client_id" {
        return "***".into();
    }
    if key.ends_with("_url") || key.ends_with("_uri") {
        return value.as_str().map_or("***".into(), |url| format!("{:?}", shown(without_credentials(url))));
    }
    shown(value)
}

/// A URL with `***` for user, password, query and fragment.
fn without_credentials(text: &str) -> String {
    if !text.contains('@') {
        let end = text.find(['?', '#']).map_or(text.len(), |at| at + 1);
        return if end == text.len() { text.to_owned() } else { format!("{}***", &text[..end]) };
    }
    match Url::parse(text) {
        // What follows an @ in a path may have been meant as the host.
        Ok(url) if url.has_host() && !url.path().contains('@') => {
            let user = if url.authority().contains('@') { "***@" } else { "" };
            let host = url.host_str().unwrap_or_default();
            let port = url.port().map_or(String::new(), |port| format!(":{port}"));
            let rest = if url.query().is_some() { "?***" } else { "" };
            format!("{}://{user}{host}{port}{}{rest}", url.scheme(), url.path())
        }
        _ => "***".into(),
    }
}
