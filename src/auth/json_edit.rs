//! Sets members of a JSON object in its text, so that a config keeps the shape that its owner gave it.

use std::collections::HashMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// The text with these members set and everything else unchanged; `None` when it is not a JSON object.
pub(crate) fn set(text: &str, members: &[(&str, &str)]) -> Option<String> {
    let mut wanted: Map<String, Value> = serde_json::from_str(text).ok()?;
    let mut edited = Some(text.to_owned());
    for (key, value) in members {
        wanted.insert((*key).to_owned(), (*value).into());
        edited = edited.and_then(|text| set_one(&text, key, value));
    }
    // The edited text must read as the wanted object. If it does not, the whole object is written anew.
    edited
        .filter(|text| serde_json::from_str::<Map<_, _>>(text).is_ok_and(|map| map == wanted))
        .or_else(|| serde_json::to_string_pretty(&wanted).ok().map(|text| text + "\n"))
}

fn set_one(text: &str, key: &str, value: &str) -> Option<String> {
    let members: HashMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    let start = |raw: &RawValue| raw.get().as_ptr().addr() - text.as_ptr().addr();
    let value = Value::from(value).to_string();
    if let Some(raw) = members.get(key) {
        let at = start(raw);
        return Some([&text[..at], &value, &text[at + raw.get().len()..]].concat());
    }
    // A new member goes after the last one, on its own line if the first one has its own.
    let end = members.values().map(|raw| start(raw) + raw.get().len()).max()?;
    let open = text.find('{')? + 1;
    let space = &text[open..open + text[open..].find('"')?];
    Some(format!("{},{space}{}: {value}{}", &text[..end], Value::from(key), &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_value_changes() {
        for (text, expected) in [
            (
                "{ \"a\" :1e2,\r\n\t\"t\":  \"old\" , \"z\":[1,\n2]}\n",
                "{ \"a\" :1e2,\r\n\t\"t\":  \"new\\\"\" , \"z\":[1,\n2]}\n",
            ),
            // The old value also stands elsewhere; a key is written with escapes, or twice.
            (r#"{"u":"old","n":{"t":"old"},"\u0074":"old"}"#, r#"{"u":"old","n":{"t":"old"},"\u0074":"new\""}"#),
            (r#"{"t":"old","t":7}"#, r#"{"t":"old","t":"new\""}"#),
            ("{\n  \"a\": {\"b\": 1}\n}\n", "{\n  \"a\": {\"b\": 1},\n  \"t\": \"new\\\"\"\n}\n"),
            (r#"{"a":1}"#, r#"{"a":1,"t": "new\""}"#),
            ("{}", "{\n  \"t\": \"new\\\"\"\n}\n"),
        ] {
            assert_eq!(set(text, &[("t", "new\"")]).as_deref(), Some(expected));
        }
        assert_eq!(set("[1]", &[("t", "new")]), None);
        assert_eq!(set("{", &[("t", "new")]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_object_reads_as_meant(map: HashMap<String, (String, Option<i32>)>, pretty: bool, key: String, value: String) {
            let text = if pretty { serde_json::to_string_pretty(&map) } else { serde_json::to_string(&map) }.unwrap();
            let mut wanted: Map<String, Value> = serde_json::from_str(&text).unwrap();
            wanted.insert(key.clone(), value.clone().into());
            let edited = set(&text, &[(&key, &value)]).unwrap();
            proptest::prop_assert_eq!(serde_json::from_str::<Map<String, Value>>(&edited).unwrap(), wanted);
        }
    }
}
