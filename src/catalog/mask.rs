//! Which fields of a stream are selected.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::stream::Stream;

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

/// The mask of the fields for which `is_kept` holds. It is called from the outside in, with the path of a field and
/// whether the field is a leaf. Keys and the replication key always stay.
pub(super) fn mask(stream: &Stream, is_kept: &dyn Fn(&[&str], bool) -> bool) -> Mask {
    /// `None` if no property below `schema` is left.
    fn below<'s>(
        stream: &Stream,
        schema: &'s Value,
        path: &mut Vec<&'s str>,
        is_kept: &dyn Fn(&[&str], bool) -> bool,
    ) -> Option<Mask> {
        let Some(all) = properties(schema) else { return Some(Mask::All) };
        let mut kept = BTreeMap::new();
        for (name, schema) in all {
            let is_automatic = path.is_empty() && stream.is_automatic(name);
            path.push(name);
            if is_automatic || is_kept(path, properties(schema).is_none()) {
                kept.extend(below(stream, schema, path, is_kept).map(|mask| (name.clone(), mask)));
            }
            path.pop();
        }
        if kept.len() == all.len() && kept.values().all(|mask| *mask == Mask::All) {
            return Some(Mask::All);
        }
        // Some targets lose data if an object has no properties.
        (!kept.is_empty()).then_some(Mask::Some(kept))
    }
    below(stream, &stream.schema, &mut Vec::new(), is_kept).unwrap_or(Mask::All)
}

/// The paths of all fields of a stream, such as `custom_fields.name`.
pub(super) fn paths(stream: &Stream) -> impl Iterator<Item = String> {
    fn walk(schema: &Value, path: &str, out: &mut Vec<String>) {
        for (name, schema) in properties(schema).into_iter().flatten() {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            walk(schema, &path, out);
            out.push(path);
        }
    }
    let mut out = Vec::new();
    walk(&stream.schema, "", &mut out);
    out.into_iter()
}

/// The properties of an object or of the elements of an array.
pub(super) fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    match schema.get("items") {
        Some(items) => properties(items),
        None => schema.get("properties")?.as_object(),
    }
}
