//! How runners merge states: some merge each STATE into those before it, key by key or only at the top, and some drop nulls.
//! The next run must get what the last STATE says from any of them.

use serde_json::{Map, Value, json};

use crate::tap::{Ran, incremental, without_nulls};

/// A way to merge a state into another.
#[derive(Clone, Copy, Debug)]
pub enum Merge {
    /// Merges objects key by key and replaces everything else, as Meltano does.
    Deep,
    /// The same, after dropping nulls.
    DeepWithoutNulls,
    /// Replaces the top-level keys.
    Top,
}

pub const MERGES: [Merge; 3] = [Merge::Deep, Merge::DeepWithoutNulls, Merge::Top];

impl Merge {
    /// Merges states in their order.
    pub fn all<'a>(self, states: impl IntoIterator<Item = &'a Value>) -> Value {
        let mut merged = json!({});
        for state in states {
            match self {
                Merge::Deep => put_into(&mut merged, state),
                Merge::DeepWithoutNulls => put_into(&mut merged, &without_nulls(state)),
                Merge::Top => merged.as_object_mut().unwrap().extend(state.as_object().unwrap().clone()),
            }
        }
        merged
    }
}

fn put_into(old: &mut Value, new: &Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                put_into(old.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (old, new) => *old = new.clone(),
    }
}

/// Whether a state has no unfinished read.
pub fn is_at_rest(state: &Value) -> bool {
    state["currently_syncing"].is_null() && !has_interrupted_read(state)
}

/// Whether a state has an interrupted read.
pub fn has_interrupted_read(state: &Value) -> bool {
    let is_set = |(key, value): (&String, &Value)| key.starts_with("resume_") && value != "" && value != false;
    let mut bookmarks = state["bookmarks"].as_object().unwrap().values();
    bookmarks.any(|bookmark| bookmark.as_object().unwrap().iter().any(is_set))
}

/// Checks that the STATEs of a run can be merged into the state that it was given, and into each other.
pub fn assert_mergeable(given: Option<&Value>, ran: &Ran, selected: &[String]) {
    let states = ran.states();
    let (Some(first), Some(last)) = (states.first(), states.last()) else { return };
    let given = given.map(|given| if given["type"] == "STATE" { &given["value"] } else { given });
    let is_selected = |name: &str| selected.iter().any(|selected| selected == name) && incremental().contains(&name);
    for state in &states {
        assert!(state["account"].is_string() && state.get("currently_syncing").is_some(), "{state}");
        for (stream, bookmark) in state["bookmarks"].as_object().unwrap() {
            if is_selected(stream) {
                assert_every_key_is_said(stream, bookmark, &first["bookmarks"][stream]);
            }
        }
        for stream in selected.iter().filter(|stream| is_selected(stream)) {
            assert!(state["bookmarks"][stream].is_object(), "{stream} is missing from {state}");
        }
    }
    for merge in MERGES {
        let merged = merge.all(given.into_iter().chain(states.iter().copied()));
        for stream in selected.iter().filter(|stream| is_selected(stream)) {
            let (merged, last) = (&merged["bookmarks"][stream], &last["bookmarks"][stream]);
            for (key, value) in last.as_object().unwrap() {
                let says_nothing = key == "replication_key_value" && last["replication_key"] == "";
                assert!(says_nothing || merged[key] == *value, "{merge:?}: {stream}.{key} of {merged}, not of {last}");
            }
        }
    }
    let empty = Map::new();
    let given = given.and_then(|given| given["bookmarks"].as_object()).unwrap_or(&empty);
    for (stream, bookmark) in given.iter().filter(|(stream, _)| !is_selected(stream)) {
        assert_eq!(last["bookmarks"][stream], *bookmark, "{stream} was not selected");
    }
}

fn assert_every_key_is_said(stream: &str, bookmark: &Value, first: &Value) {
    let members = bookmark.as_object().unwrap();
    assert!(members.keys().eq(first.as_object().unwrap().keys()), "{stream}: {bookmark}, at first {first}");
    for (key, value) in members {
        let may_be_null = key == "replication_key_value";
        let is_ours =
            key.starts_with("re") || ["filter", "deselected", "route", "lookback_days"].contains(&key.as_str());
        assert!(!is_ours || !(value.is_object() || value.is_array()), "{stream}.{key}: {value}");
        assert!(!is_ours || may_be_null || !value.is_null(), "{stream}.{key} is null");
    }
}
