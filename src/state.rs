//! The state of a sync: bookmarks, resume points. Pure; when to write one is not decided here.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::config::Route;
use crate::error::{Error, Result};
use crate::timestamp::instant;

/// What a `--state` file holds and a STATE message says.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct State {
    #[serde(default)]
    pub(crate) bookmarks: BTreeMap<String, Bookmark>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) currently_syncing: Option<String>,
    /// What others keep beside the bookmarks is theirs: it goes out as it came in.
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

/// How far one stream was read.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bookmark {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) replication_key: Option<String>,
    /// Everything up to this moment stands before the STATE that says it.
    #[serde(default, deserialize_with = "moment_or_none", skip_serializing_if = "Option::is_none")]
    pub(crate) replication_key_value: Option<DateTime<Utc>>,
    /// When the contacts were last read completely.
    #[serde(default, deserialize_with = "moment_or_none", skip_serializing_if = "Option::is_none")]
    pub(crate) full_refresh_at: Option<DateTime<Utc>>,
    /// Fingerprint of the settings that narrowed what was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<String>,
    /// Where an unfinished read goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resume: Option<Resume>,
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

/// A contact report that was cut off: its frozen window, and the last contact or campaign activity that is complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Resume {
    #[serde(deserialize_with = "moment")]
    pub(crate) since: DateTime<Utc>,
    #[serde(deserialize_with = "moment")]
    pub(crate) until: DateTime<Utc>,
    pub(crate) route: Route,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<String>,
    /// The read is done, but the round it belongs to is not: there is nothing to go on with.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) complete: bool,
    /// Some contacts could not be found: the bookmark must not move when the read ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) lacks_contacts: bool,
    /// Fingerprint of the settings in force when the read began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) filter: Option<String>,
}

/// How far a bookmark may lie ahead of this machine's clock: it is measured by the service's.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::days(1);

/// A moment in any form that is plain: bookmarks are also written by hand, and by other taps.
fn moment<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<DateTime<Utc>, D::Error> {
    let text = String::deserialize(d)?;
    instant(text.trim()).ok_or_else(|| {
        D::Error::custom(format!(
            "{text:?} is not a moment; allowed: a date or a date-time such as 2026-01-31T00:00:00Z"
        ))
    })
}

fn moment_or_none<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<Option<DateTime<Utc>>, D::Error> {
    #[derive(Deserialize)]
    struct Moment(#[serde(deserialize_with = "moment")] DateTime<Utc>);
    Ok(Option::<Moment>::deserialize(d)?.map(|m| m.0))
}

impl State {
    /// Reads a state file; `keys` maps each stream to its replication key, `now` is this machine's time.
    ///
    /// # Errors
    /// `Usage` when the text is not a state: going on would be a silent full read.
    pub(crate) fn parse(text: &str, keys: &[(&str, Option<&str>)], now: DateTime<Utc>) -> Result<State> {
        let bad = |why: String| {
            Error::Usage(format!(
                "{why}. Pass the value of the last STATE message of an earlier run, or leave --state out to read everything"
            ))
        };
        if text.trim().is_empty() {
            return Err(bad("the file is empty".into()));
        }
        let mut value: Value = serde_json::from_str(text).map_err(|e| bad(format!("not valid JSON ({e})")))?;
        // The commonest slip: the whole STATE line of an output file instead of its value.
        if value["type"] == "STATE" && value["value"].is_object() {
            value = value["value"].take();
        }
        let Some(root) = value.as_object_mut() else {
            return Err(bad("not a JSON object".into()));
        };
        let empty = root.is_empty();
        match root.get_mut("bookmarks") {
            None if empty => {}
            None => {
                let keys: Vec<&str> = root.keys().map(String::as_str).take(5).collect();
                return Err(bad(format!("it has no \"bookmarks\", only {}", keys.join(", "))));
            }
            Some(Value::Object(bookmarks)) => {
                for (stream, bookmark) in bookmarks.iter_mut() {
                    let key = keys.iter().find(|(name, _)| name == stream).and_then(|(_, key)| *key);
                    if let Some(key) = key {
                        plain_form(bookmark, key);
                    }
                }
            }
            Some(_) => return Err(bad("\"bookmarks\" is not a JSON object".into())),
        }
        if root.get("currently_syncing").is_some_and(Value::is_null) {
            root.remove("currently_syncing");
        }
        // What belongs to streams of another tap or version is kept, but nothing is asked of its form.
        let mut foreign = BTreeMap::new();
        if let Some(Value::Object(bookmarks)) = root.get_mut("bookmarks") {
            let (own, others): (Map<_, _>, Map<_, _>) = std::mem::take(bookmarks)
                .into_iter()
                .partition(|(stream, _)| keys.iter().any(|(name, _)| name == stream));
            *bookmarks = own;
            for (stream, value) in others {
                let Value::Object(other) = value else {
                    return Err(bad(format!("bookmarks.{stream} is not a JSON object")));
                };
                foreign.insert(stream, Bookmark { other, ..Bookmark::default() });
            }
        }
        for (stream, bookmark) in value["bookmarks"].as_object().into_iter().flatten() {
            understood(stream, bookmark).map_err(&bad)?;
        }
        let mut state: State =
            serde_path_to_error::deserialize(value).map_err(|e| bad(format!("{}: {}", e.path(), e.inner())))?;
        state.bookmarks.extend(foreign);
        for (stream, bookmark) in &state.bookmarks {
            let key = keys.iter().find(|(name, _)| name == stream).and_then(|(_, key)| *key);
            if let (Some(other), Some(key)) = (bookmark.replication_key.as_deref(), key)
                && other != key
            {
                return Err(bad(format!("bookmarks.{stream}.replication_key is {other}; allowed: {key}")));
            }
            // Nothing would be read until that day comes, and what happens before it never.
            for (key, at) in [
                ("replication_key_value", bookmark.replication_key_value),
                ("full_refresh_at", bookmark.full_refresh_at),
                ("resume.until", bookmark.resume.as_ref().map(|resume| resume.until)),
            ] {
                if let Some(at) = at.filter(|at| at.signed_duration_since(now) > CLOCKS_DIFFER) {
                    return Err(bad(format!("bookmarks.{stream}.{key} is {at}, which is yet to come")));
                }
            }
            if bookmark.resume.as_ref().is_some_and(|r| r.since > r.until) {
                return Err(bad(format!("bookmarks.{stream}.resume ends before it starts")));
            }
        }
        Ok(state)
    }

    pub(crate) fn bookmark(&self, stream: &str) -> Bookmark {
        self.bookmarks.get(stream).cloned().unwrap_or_default()
    }

    /// Everything that was selected is read, but for what was refused: no other interrupted read is left.
    pub(crate) fn end_round(&mut self, refused: &[&str]) {
        for (stream, bookmark) in &mut self.bookmarks {
            if !refused.contains(&stream.as_str()) {
                bookmark.resume = None;
            }
        }
        self.bookmarks.retain(|_, bookmark| *bookmark != Bookmark::default());
    }

    pub(crate) fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("a state has only string keys")
    }
}

/// Whether a bookmark of a stream of ours says anything: one that says nothing would be a silent full read.
fn understood(stream: &str, bookmark: &Value) -> std::result::Result<(), String> {
    const KEYS: [&str; 5] = ["replication_key", "replication_key_value", "full_refresh_at", "filter", "resume"];
    let Some(bookmark) = bookmark.as_object() else {
        return Err(format!("bookmarks.{stream} is not a JSON object"));
    };
    if bookmark.is_empty() || KEYS.iter().any(|key| bookmark.contains_key(*key)) {
        return Ok(());
    }
    let found: Vec<&str> = bookmark.keys().map(String::as_str).take(5).collect();
    Err(format!("bookmarks.{stream} has none of {}, only {}", KEYS.join(", "), found.join(", ")))
}

/// singer-io's plain form, `{"updated_at": "…"}`, put into the one used here.
fn plain_form(bookmark: &mut Value, key: &str) {
    if bookmark.is_null() {
        *bookmark = Value::Object(Map::new());
    }
    if let Some(map) = bookmark.as_object_mut()
        && !map.contains_key("replication_key_value")
        && let Some(value) = map.shift_remove(key)
    {
        map.insert("replication_key".into(), key.into());
        map.insert("replication_key_value".into(), value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: &[(&str, Option<&str>)] = &[("contacts", Some("updated_at")), ("contact_lists", None)];

    const END: DateTime<Utc> = DateTime::<Utc>::MAX_UTC;

    #[test]
    fn both_forms_of_a_bookmark_are_read_and_unknown_keys_kept() {
        let plain = State::parse(
            r#"{"bookmarks":{"contacts":{"updated_at":"2026-01-02T03:04:05-05:00"}},"mine":1}"#,
            KEYS,
            END,
        )
        .unwrap();
        let ours = State::parse(
            r#"{"bookmarks":{"contacts":{"replication_key":"updated_at","replication_key_value":"2026-01-02T08:04:05Z"}},"mine":1}"#,
            KEYS,
            END,
        )
        .unwrap();
        assert_eq!(plain, ours);
        assert_eq!(plain.to_value()["mine"], 1);
        assert_eq!(plain.to_value()["bookmarks"]["contacts"]["replication_key_value"], "2026-01-02T08:04:05Z");
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for text in [
            "",
            "[]",
            "{",
            "{\"contacts\":1}",
            r#"{"bookmarks":[]}"#,
            r#"{"bookmarks":{"contacts":7}}"#,
            r#"{"bookmarks":{"contacts":{"replication_key_value":"soon"}}}"#,
            r#"{"bookmarks":{"contacts":{"updated_at":5}}}"#,
        ] {
            assert!(matches!(State::parse(text, KEYS, END), Err(Error::Usage(_))), "{text}");
        }
        assert!(State::parse("{}", KEYS, END).is_ok());
    }

    #[test]
    fn a_bookmark_in_any_plain_form_is_read_but_none_that_is_yet_to_come() {
        let now = "2026-11-24T12:00:00Z".parse().unwrap();
        let read = |at: &str| {
            State::parse(&format!(r#"{{"bookmarks":{{"contacts":{{"updated_at":"{at}"}}}}}}"#), KEYS, now)
                .map(|state| state.bookmark("contacts").replication_key_value.unwrap().to_string())
                .map_err(|e| e.to_string())
        };
        for at in ["2026-01-02", "2026-01-02T00:00:00", "2026-01-02 00:00:00.000000", "2026-01-01T19:00:00-0500"] {
            assert_eq!(read(at).unwrap(), "2026-01-02 00:00:00 UTC", "{at}");
        }
        assert!(read("2026-11-25T11:00:00Z").is_ok());
        assert!(read("2026-11-26").unwrap_err().contains("yet to come"));
        assert!(
            read("soon").unwrap_err().contains("bookmarks.contacts.replication_key_value: \"soon\" is not a moment")
        );
    }

    #[test]
    fn a_whole_state_message_is_taken_for_its_value() {
        let state = State::parse(
            r#"{"type":"STATE","value":{"bookmarks":{"contacts":{"updated_at":"2026-01-02T03:04:05Z"}}}}"#,
            KEYS,
            END,
        )
        .unwrap();
        assert!(state.bookmark("contacts").replication_key_value.is_some());
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,8}", inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn moment() -> impl Strategy<Value = String> {
        (0i64..4_000_000_000)
            .prop_map(|s| DateTime::from_timestamp(s, 0).unwrap().to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        /// What a state says, and what others keep in it, is there again after any number of runs.
        #[test]
        fn a_state_comes_back_as_it_went_out(
            at in moment(), since in moment(), long in 0i64..1_000_000, after in "[0-9a-f-]{0,36}", complete: bool,
            beside in json(), within in json(), foreign in prop::collection::btree_map("x_[a-z]{1,8}", json(), 0..3),
        ) {
            let until = since.parse::<DateTime<Utc>>().unwrap() + chrono::TimeDelta::seconds(long);
            let mut value = serde_json::json!({
                "bookmarks": {
                    "contacts": {
                        "replication_key": "updated_at", "replication_key_value": at, "full_refresh_at": since,
                        "filter": "5f1d0c22", "theirs": within,
                        "resume": {"since": since, "until": until, "route": "campaigns", "after": after},
                    },
                    "contact_lists": {},
                },
                "currently_syncing": "contacts",
                "theirs": beside,
            });
            if complete {
                value["bookmarks"]["contacts"]["resume"]["complete"] = true.into();
            }
            for (stream, bookmark) in foreign {
                value["bookmarks"][stream] = serde_json::json!({"kept": bookmark});
            }
            let state = State::parse(&value.to_string(), KEYS, END).unwrap();
            prop_assert_eq!(state.to_value(), value);
        }

        /// Whatever a file holds, it is a state or an error.
        #[test]
        fn any_text_is_survived(text: String, value in json()) {
            let _ = State::parse(&text, KEYS, END);
            let _ = State::parse(&value.to_string(), KEYS, END);
            let _ = State::parse(&serde_json::json!({"bookmarks": {"contacts": value}}).to_string(), KEYS, END);
        }
    }
}
