//! Turns a record type into a schema that every target can load.
//!
//! Targets only agree on the plainest JSON Schema, so all keywords but those named here are dropped.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// The schema of a record type, inlined, with `null` first in its type lists.
pub(crate) fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().for_serialize().with(|s| s.inline_subschemas = true);
    let mut schema = plain(settings.into_generator().into_root_schema_for::<T>().as_value());
    schema["type"] = json!("object");
    schema
}

/// `type`, `format`, `description`, `properties` and `items` of a schema, in that order.
fn plain(schema: &Value) -> Value {
    let mut out = Map::new();
    match &schema["type"] {
        // Only key fields are never null. They have a list with one type.
        Value::String(kind) => {
            out.insert("type".into(), json!(["null", kind]));
        }
        Value::Array(kinds) => {
            let mut kinds = kinds.clone();
            kinds.sort_by_key(|kind| kind != "null");
            out.insert("type".into(), kinds.into());
        }
        _ => {}
    }
    // Other formats would become column types for which a single odd value is an error.
    if schema["format"] == "date-time" {
        out.insert("format".into(), json!("date-time"));
    }
    if let Some(text) = schema["description"].as_str() {
        out.insert("description".into(), text.split_whitespace().collect::<Vec<_>>().join(" ").into());
    }
    if let Some(properties) = schema["properties"].as_object() {
        let properties = properties.iter().map(|(name, schema)| (name.clone(), plain(schema)));
        out.insert("properties".into(), properties.collect::<Map<_, _>>().into());
    }
    if let Some(items) = schema.get("items") {
        out.insert("items".into(), plain(items));
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::Stream;
    use crate::streams;

    fn check(place: &str, schema: &Value, root: bool) {
        let map = schema.as_object().unwrap_or_else(|| panic!("{place}: {schema}"));
        let kind = if root {
            assert_eq!(schema["type"], "object");
            "object"
        } else {
            let kinds = schema["type"].as_array().unwrap_or_else(|| panic!("{place}: no type list"));
            assert!(kinds.len() == 1 || kinds.len() == 2 && kinds[0] == "null", "{place}: {kinds:?}");
            kinds.last().unwrap().as_str().unwrap()
        };
        // The account defines these names, so no schema can list them.
        if place == "contacts.custom_field_values" {
            assert_eq!(schema["type"], json!(["null", "object"]));
            assert!(!map.contains_key("properties"));
            return;
        }
        assert_eq!(map.contains_key("properties"), kind == "object", "{place}");
        assert_eq!(map.contains_key("items"), kind == "array", "{place}");
        if kind == "object" {
            let properties = schema["properties"].as_object().unwrap();
            assert!(!properties.is_empty(), "{place}");
            for (name, schema) in properties {
                let place = format!("{place}.{name}");
                let text = schema["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty() && !text.contains('\n'), "{place}: description {text:?}");
                check(&place, schema, false);
            }
        }
        if kind == "array" {
            assert_eq!(schema["items"]["type"][0], "null", "{place}");
            check(&format!("{place}[]"), &schema["items"], false);
        }
    }

    #[test]
    fn all_schemas_have_only_shapes_that_every_target_loads() {
        for source in streams::ALL {
            let Stream { name, keys, schema, .. } = &source.stream;
            check(name, schema, true);
            for (property, schema) in schema["properties"].as_object().unwrap() {
                let nullable = schema["type"][0] == "null";
                assert_eq!(nullable, !keys.contains(&property.as_str()), "{name}.{property}");
            }
        }
    }

    #[test]
    fn nested_kinds_are_nullable() {
        let schema = &streams::ALL[1].stream.schema;
        let properties = &schema["properties"];
        assert_eq!(properties["email_address"]["type"], json!(["null", "object"]));
        assert_eq!(properties["notes"]["type"], json!(["null", "array"]));
        assert_eq!(properties["notes"]["items"]["type"], json!(["null", "object"]));
        assert_eq!(properties["taggings"]["items"], json!({"type": ["null", "string"]}));
    }
}
