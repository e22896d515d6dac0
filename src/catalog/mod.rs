//! Discovery, and the selection of streams and fields by a catalog file or by `--select`.

mod file;
mod mask;
mod patterns;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::shown::shown;
use crate::spelling::nearest;
use crate::stream::Stream;
pub(crate) use mask::Mask;

/// The catalog of all streams, as `--discover` writes it.
pub(crate) fn discover<'s>(streams: impl IntoIterator<Item = &'s Stream>) -> Value {
    json!({"streams": streams.into_iter().map(discover_one).collect::<Vec<_>>()})
}

fn discover_one(stream: &Stream) -> Value {
    let mut root = json!({
        "inclusion": "available",
        "selected-by-default": true,
        "table-key-properties": stream.keys,
        "forced-replication-method": stream.replication_method(),
    });
    let mut out = json!({"tap_stream_id": stream.name, "stream": stream.name});
    if let Some(key) = stream.replication_key {
        root["valid-replication-keys"] = json!([key]);
        out["replication_key"] = json!(key);
    }
    let mut metadata = vec![json!({"breadcrumb": [], "metadata": root})];
    describe(stream, &stream.schema, &mut Vec::new(), &mut metadata);
    out["replication_method"] = json!(stream.replication_method());
    out["key_properties"] = json!(stream.keys);
    out["schema"] = stream.schema.clone();
    out["metadata"] = metadata.into();
    out
}

/// One metadata entry for each property below `schema`, through objects and the items of arrays.
fn describe<'s>(stream: &Stream, schema: &'s Value, path: &mut Vec<&'s str>, out: &mut Vec<Value>) {
    if let Some(items) = schema.get("items") {
        path.push("items");
        describe(stream, items, path, out);
        path.pop();
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        let automatic = path.is_empty() && stream.is_automatic(name);
        path.extend(["properties", name.as_str()]);
        let inclusion = if automatic { "automatic" } else { "available" };
        out.push(json!({"breadcrumb": path, "metadata": {"inclusion": inclusion}}));
        describe(stream, schema, path, out);
        path.truncate(path.len() - 2);
    }
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
    streams: BTreeMap<&'static str, Selected>,
}

impl Catalog {
    /// Every stream with all its properties, as read without a catalog.
    pub(crate) fn all(streams: &[&'static Stream]) -> Catalog {
        let selected = Selected { mask: Mask::All, full_table: false };
        Catalog { streams: streams.iter().map(|stream| (stream.name, selected.clone())).collect() }
    }

    /// The selection of these streams alone.
    pub(crate) fn of(&self, names: &[&str]) -> Catalog {
        let kept = self.streams.iter().filter(|(name, _)| names.contains(name));
        Catalog { streams: kept.map(|(name, selected)| (*name, selected.clone())).collect() }
    }

    /// The selection of a stream; `None` if it is not read.
    pub(crate) fn get(&self, stream: &str) -> Option<&Selected> {
        self.streams.get(stream)
    }

    /// Makes selected streams ignore their bookmarks; `*` stands for all of them.
    ///
    /// # Errors
    /// `Usage` for a stream that does not exist or is not selected.
    pub(crate) fn read_full_table(&mut self, names: &[String], streams: &[&'static Stream]) -> Result<()> {
        for name in names.iter().map(|name| name.trim()).filter(|name| !name.is_empty()) {
            if name == "*" {
                for stream in streams.iter().filter(|stream| stream.replication_key.is_some()) {
                    self.streams.entry(stream.name).and_modify(|selected| selected.full_table = true);
                }
                continue;
            }
            let Some(stream) = streams.iter().find(|stream| stream.name == name) else {
                return Err(Error::Usage(format!(
                    "--full-table {:?}: there is no such stream; {}",
                    shown(name),
                    nearest_or_all(name, "", streams)
                )));
            };
            let Some(selected) = self.streams.get_mut(name) else {
                return Err(Error::Usage(format!("--full-table {name}: this stream is not selected")));
            };
            selected.full_table = stream.replication_key.is_some();
        }
        Ok(())
    }
}

fn nearest_or_all(name: &str, mark: &str, streams: &[&'static Stream]) -> String {
    let names: Vec<&str> = streams.iter().map(|stream| stream.name).collect();
    match nearest(name, names.iter().copied()) {
        Some(nearest) => format!("the nearest is \"{mark}{nearest}\""),
        None => format!("the streams are {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::extent::Filter;
    use crate::stream::Needs;

    const fn stream(name: &'static str, replication_key: Option<&'static str>, schema: fn() -> Value) -> Stream {
        Stream {
            name,
            keys: &["id"],
            replication_key,
            schema: LazyLock::new(schema),
            needs: Needs { scopes: &[], privileges: &[] },
            narrowed_by: |_| Filter::default(),
            bookmark_keys: &[],
            only_by_campaign: &[],
            field_needs: &[],
        }
    }

    static CONTACTS: Stream = stream("contacts", Some("updated_at"), || {
        let text = json!({"type": ["null", "string"]});
        json!({"type": "object", "properties": {
            "id": {"type": ["string"]},
            "updated_at": text,
            "name": text,
            "email": {"type": ["null", "object"], "properties": {"address": text, "reason": text}},
            "phones": {"type": ["null", "array"], "items":
                {"type": ["null", "object"], "properties": {"kind": text, "number": text}}},
            "tags": {"type": ["null", "array"], "items": text},
        }})
    });
    static LISTS: Stream = stream(
        "lists",
        None,
        || json!({"type": "object", "properties": {"id": {"type": ["string"]}, "name": {"type": ["null", "string"]}}}),
    );
    pub(super) static STREAMS: &[&Stream] = &[&CONTACTS, &LISTS];

    #[test]
    fn discovery_describes_streams_and_nested_properties() {
        let found = discover(STREAMS.iter().copied());
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
    fn full_table_needs_a_selected_stream() {
        let mut catalog = Catalog::select(&["contacts".to_owned()], STREAMS).unwrap();
        let mut full = |name: &str| catalog.read_full_table(&[name.to_owned()], STREAMS).map_err(|e| e.to_string());
        assert_eq!(full("contacts"), Ok(()));
        assert_eq!(full("lists"), Err("--full-table lists: this stream is not selected".into()));
        let unknown = "--full-table \"contatcs\": there is no such stream; the nearest is \"contacts\"";
        assert_eq!(full("contatcs"), Err(unknown.into()));
        assert!(catalog.get("contacts").unwrap().full_table);
    }
}
