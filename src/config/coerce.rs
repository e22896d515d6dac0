//! Turns strings into the kinds that the settings have: environment variables and forms know only text.

use serde_json::Value;

use super::wrong;
use crate::error::Result;

/// A value in the kind that the setting has; environment variables and forms know only text.
pub(super) fn normalise(key: &str, value: Value, kind: &Value) -> Result<Option<Value>> {
    let types = types(kind);
    let is = |t: &str| types.contains(&t);
    let shown = if kind["secret"] == true { "***".to_owned() } else { value.to_string() };
    let bad = || wrong(key, &shown, &allowed(kind));
    let value = match value {
        Value::Null => return Ok(None),
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) if !is("string") => {
            let text = text.trim();
            let lower = text.to_ascii_lowercase();
            if is("boolean") && (lower == "true" || lower == "false") {
                Value::Bool(lower == "true")
            } else if is("array") {
                if text.starts_with('[') {
                    serde_json::from_str(text).map_err(|_| bad())?
                } else {
                    text.split(',').map(|part| Value::from(part.trim())).collect()
                }
            } else {
                text.parse::<u64>()
                    .map(Value::from)
                    .or_else(|_| text.parse::<f64>().map(Value::from))
                    .map_err(|_| bad())?
            }
        }
        Value::Number(number) if is("string") => Value::String(number.to_string()),
        other => other,
    };
    let value = match value {
        Value::Number(n) if is("integer") && !n.is_u64() => {
            // 7.0 is 7; a schema's integer knows no difference.
            let whole = n.as_f64().filter(|f| f.fract() == 0.0 && (0.0..9e15).contains(f)).ok_or_else(bad)?;
            format!("{whole:.0}").parse::<u64>().map(Value::from).map_err(|_| bad())?
        }
        other => other,
    };
    let fits = match &value {
        Value::String(text) => {
            is("string") && kind["enum"].as_array().is_none_or(|known| known.iter().any(|k| k == text.as_str()))
        }
        Value::Bool(_) => is("boolean"),
        Value::Number(n) => {
            let number = n.as_f64().unwrap_or(f64::NAN);
            (is("integer") || is("number"))
                && kind["minimum"].as_f64().is_none_or(|min| number >= min)
                && kind["maximum"].as_f64().is_none_or(|max| number <= max)
        }
        Value::Array(items) => {
            let known = kind["items"]["enum"].as_array();
            is("array") && items.iter().all(|i| i.is_string() && known.is_none_or(|known| known.contains(i)))
        }
        _ => false,
    };
    if fits { Ok(Some(value)) } else { Err(bad()) }
}

/// The JSON types that a setting takes.
pub(crate) fn types(kind: &Value) -> Vec<&str> {
    match &kind["type"] {
        Value::String(one) => vec![one],
        many => many.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
    }
}

/// The values that a setting takes, in words.
pub(crate) fn allowed(kind: &Value) -> String {
    let list =
        |v: &Value| v.as_array().map(|known| known.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "));
    if let Some(known) = list(&kind["enum"]) {
        return known;
    }
    let mut kinds: Vec<String> = Vec::new();
    for t in types(kind).into_iter().filter(|t| *t != "null") {
        kinds.push(match t {
            "array" => {
                list(&kind["items"]["enum"]).map_or("a list of texts".into(), |known| format!("a list of {known}"))
            }
            "boolean" => "true or false".into(),
            "integer" | "number" => {
                let what = if t == "integer" { "a whole number" } else { "a number" };
                match (kind["minimum"].as_f64(), kind["maximum"].as_f64()) {
                    (Some(min), Some(max)) => format!("{what} from {min} to {max}"),
                    (Some(min), None) => format!("{what} of at least {min}"),
                    _ => what.into(),
                }
            }
            _ if kind["format"] == "date" => "a date".into(),
            _ if kind["anyOf"].is_array() => "a date or date-time".into(),
            _ => "a text".into(),
        });
    }
    kinds.join(", or ")
}
