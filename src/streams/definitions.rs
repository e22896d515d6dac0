//! The names behind the ids of a contact: the account's custom fields, tags and lists, read once per run.

use std::collections::HashMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::Shared;
use super::page::objects;
use crate::client::{Client, Row};
use crate::error::{Error, Result};
use crate::field::{Key, Text};
use crate::run::Run;
use crate::stream::Stream;

/// Definitions by id. A kind is `None` if no selected field needs it, or the service refuses it.
#[derive(Default)]
pub(super) struct Definitions {
    pub(super) custom_fields: Option<CustomFields>,
    pub(super) tags: Option<Names>,
    pub(super) lists: Option<Names>,
}

/// Which kinds of definitions the selected fields need.
pub(super) struct Needed {
    pub(super) custom_fields: bool,
    pub(super) tags: bool,
    pub(super) lists: bool,
}

impl Needed {
    /// How many calls they take. `has_lists` says whether `contact_lists` reads the lists anyway.
    pub(super) fn calls(&self, has_lists: bool) -> u64 {
        // Every run lists the e-mail lists; the SMS lists take one more call.
        u64::from(self.custom_fields) + u64::from(self.tags) + u64::from(self.lists && !has_lists)
    }
}

/// The names of tags or lists by id.
pub(crate) struct Names(HashMap<Box<str>, Text>);

/// The account's custom fields by id.
pub(super) struct CustomFields(HashMap<Box<str>, Definition>);

/// A custom field as the account defines it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct Definition {
    custom_field_id: Key,
    pub(super) name: Text,
    pub(super) label: Text,
    pub(super) r#type: Text,
    #[serde(default, deserialize_with = "objects")]
    choices: Option<Vec<Choice>>,
    /// Whether another field has the same name. Many databases ignore the case of column names, so it does not count.
    #[serde(skip)]
    is_ambiguous: bool,
}

#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
struct Choice {
    choice_id: Text,
    choice_label: Text,
}

#[derive(Deserialize, JsonSchema)]
struct Tag {
    tag_id: Key,
    name: Text,
}

impl Row for Definition {
    const ROWS: &'static str = "custom_fields";
    const IS_WHOLE: bool = false;
}

impl Row for Tag {
    const ROWS: &'static str = "tags";
    const IS_WHOLE: bool = false;
}

impl Definitions {
    /// Reads the definitions that are needed.
    ///
    /// # Errors
    /// Any failure but a refusal: records without names would overwrite the names in the target with null.
    pub(super) fn read(run: &Run, shared: &mut Shared, stream: &Stream, needed: &Needed) -> Result<Definitions> {
        let client = run.client;
        let mut definitions = Definitions::default();
        if needed.custom_fields {
            let fields = "name, label, type and choice_labels of custom_fields, and custom_field_values";
            definitions.custom_fields =
                unless_refused(stream, "custom fields", fields, custom_fields(client, stream))?.map(CustomFields::new);
        }
        if needed.tags {
            definitions.tags = unless_refused(stream, "tags", "tag_names", tags(client, stream))?;
        }
        if needed.lists {
            let lists = shared.lists.names(client, run.config, stream);
            definitions.lists = unless_refused(stream, "lists", "list_names", lists)?;
        }
        Ok(definitions)
    }
}

/// The definitions, or `None` with a warning if the service refuses them.
fn unless_refused<T>(stream: &Stream, kind: &str, fields: &str, outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Ok(read) => Ok(Some(read)),
        Err(Error::Refused(why) | Error::Forbidden(why) | Error::NotFound(why)) => {
            log::warn!("{}: the service refuses the account's {kind} ({why}), so {fields} are null", stream.name);
            Ok(None)
        }
        Err(e) => Err(e.context(format_args!("the account's {kind}"))),
    }
}

fn custom_fields(client: &Arc<Client>, stream: &Stream) -> Result<Vec<Definition>> {
    all_rows(client, stream, "custom fields", "contact_custom_fields", "100")
}

fn tags(client: &Arc<Client>, stream: &Stream) -> Result<Names> {
    let tags: Vec<Tag> = all_rows(client, stream, "tags", "contact_tags", "500")?;
    Ok(tags.iter().map(|tag| (tag.tag_id.as_str(), &tag.name)).collect())
}

/// The definitions of a kind, such as `tags`, from the endpoint of this name.
fn all_rows<T: Row>(
    client: &Arc<Client>,
    stream: &Stream,
    kind: &str,
    endpoint: &'static str,
    limit: &str,
) -> Result<Vec<T>> {
    let (mut all, mut left_out) = (Vec::new(), 0);
    for page in client.pages(endpoint, &format!("/{endpoint}"), &[("limit", limit)], 0) {
        let page = page?;
        left_out += page.oddities.left_out;
        all.extend(page.rows);
    }
    if left_out > 0 {
        let lack = if left_out == 1 { "lacks" } else { "lack" };
        log::warn!(
            "{}: {left_out} of the account's {kind} {lack} a usable id, so contacts may show ids instead of names",
            stream.name
        );
    }
    Ok(all)
}

impl<'a> FromIterator<(&'a str, &'a Text)> for Names {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a Text)>>(names: I) -> Names {
        Names(names.into_iter().map(|(id, name)| (id.into(), name.clone())).collect())
    }
}

impl Names {
    /// The names of these ids, in their order. An id without a definition, such as a deleted tag, is its own name.
    pub(super) fn of(&self, ids: &[Text]) -> Vec<Text> {
        ids.iter()
            .map(|id| {
                let name = id.as_str().and_then(|id| self.0.get(id)).filter(|name| name.as_str().is_some());
                name.unwrap_or(id).clone()
            })
            .collect()
    }
}

impl CustomFields {
    fn new(definitions: Vec<Definition>) -> CustomFields {
        let mut fields: HashMap<Box<str>, Definition> =
            definitions.into_iter().map(|field| (field.custom_field_id.as_str().into(), field)).collect();
        let lower = |field: &Definition| field.name.as_str().map(str::to_lowercase);
        let mut uses: HashMap<String, u32> = HashMap::new();
        for name in fields.values().filter_map(lower) {
            *uses.entry(name).or_default() += 1;
        }
        for field in fields.values_mut() {
            field.is_ambiguous = lower(field).is_some_and(|name| uses[&name] > 1);
        }
        CustomFields(fields)
    }

    pub(super) fn get(&self, id: &Text) -> Option<&Definition> {
        self.0.get(id.as_str()?)
    }

    /// The labels of the choices made in a field. A choice without a definition keeps its id.
    pub(super) fn labels(&self, id: &Text, choice_ids: &[Text]) -> Vec<Text> {
        let choices = self.get(id).and_then(|field| field.choices.as_deref()).unwrap_or_default();
        choice_ids.iter().map(|id| label(choices, id).unwrap_or(id).clone()).collect()
    }

    /// Adds a field to an object of name → value: the text, the label of a single choice, or the labels of several.
    pub(super) fn insert_value(&self, values: &mut Map<String, Value>, id: &Text, value: &Text, labels: &[Text]) {
        let name = self.get(id).filter(|field| !field.is_ambiguous).and_then(|field| field.name.as_str());
        let Some(key) = name.filter(|name| !name.is_empty()).or(id.as_str()) else { return };
        let json = |text: &Text| text.as_str().map_or(Value::Null, Value::from);
        let value = match labels {
            [] => json(value),
            [label] => json(label),
            labels => labels.iter().map(json).collect(),
        };
        values.insert(key.to_owned(), value);
    }
}

/// The label of a choice. Definitions number the choices (`1`); contacts name them with leading zeros (`000001`).
fn label<'a>(choices: &'a [Choice], id: &Text) -> Option<&'a Text> {
    let id = id.as_str()?;
    let number = |id: &str| id.trim().parse::<u64>().ok();
    let as_text = choices.iter().find(|choice| choice.choice_id.as_str() == Some(id));
    let as_number = || {
        let id = number(id)?;
        choices.iter().find(|choice| choice.choice_id.as_str().and_then(number) == Some(id))
    };
    let label = &as_text.or_else(as_number)?.choice_label;
    label.as_str().is_some().then_some(label)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields() -> CustomFields {
        let definitions = json!([
            {"custom_field_id": "f1", "name": "Colours", "label": "Colours", "type": "multi_select", "choices": [
                {"choice_id": 1, "choice_label": "Red"}, {"choice_id": 2, "choice_label": "Blue"},
                {"choice_id": "9A63BC", "choice_label": "Green"}, {"choice_id": "000001", "choice_label": "Text first"},
                {"choice_id": 4, "choice_label": null}, null]},
            {"custom_field_id": "f2", "name": "Size"},
            {"custom_field_id": "f3", "name": "SIZE"},
            {"custom_field_id": "f4", "name": ""},
        ]);
        CustomFields::new(serde_json::from_value(definitions).unwrap())
    }

    fn texts(ids: &[&str]) -> Vec<Text> {
        ids.iter().map(|id| Text::from(*id)).collect()
    }

    #[test]
    fn choices_are_compared_as_text_then_as_numbers() {
        let labels = |ids: &[&str]| fields().labels(&"f1".into(), &texts(ids));
        assert_eq!(labels(&["000002", "2", "9A63BC"]), texts(&["Blue", "Blue", "Green"]));
        assert_eq!(labels(&["000001", "01"]), texts(&["Text first", "Red"]));
        assert_eq!(labels(&["7", "4", ""]), texts(&["7", "4", ""]));
        assert_eq!(fields().labels(&"unknown".into(), &texts(&["1"])), texts(&["1"]));
    }

    #[test]
    fn values_stand_under_the_name_or_the_id_where_the_name_is_ambiguous() {
        let mut values = Map::new();
        let mut insert = |id: &str, value: Text, choices: &[&str]| {
            let labels = fields().labels(&id.into(), &texts(choices));
            fields().insert_value(&mut values, &id.into(), &value, &labels);
        };
        insert("f1", "text".into(), &["1", "000002"]);
        insert("f2", "small".into(), &[]);
        insert("f3", Text(None), &["7"]);
        insert("f4", Text(None), &[]);
        insert("f5", "deleted".into(), &[]);
        let expected = json!({"Colours": ["Red", "Blue"], "f2": "small", "f3": "7", "f4": null, "f5": "deleted"});
        assert_eq!(Value::Object(values), expected);
    }

    #[test]
    fn an_id_without_a_name_stands_for_itself() {
        let names: Names = [("a", &Text::from("Gold")), ("b", &Text(None))].into_iter().collect();
        assert_eq!(names.of(&texts(&["c", "b", "a"])), texts(&["c", "b", "Gold"]));
    }
}
