//! Converts a value to the type of its setting: environment variables and forms only have strings.

use serde_json::Value;

use crate::spelling::did_you_mean;

/// Converts a value to a type of its setting; `None` if the value means "not set".
///
/// # Errors
/// For a value that the setting does not allow. The text suggests a similar allowed value, or is empty.
pub(super) fn coerce(value: Value, setting: &Value) -> Result<Option<Value>, String> {
    let types = types(setting);
    let is = |t: &str| types.contains(&t);
    let value = match value {
        Value::Null => return Ok(None),
        Value::String(text) if text.trim().is_empty() => return Ok(None),
        Value::String(text) if !is("string") => parse(text.trim(), &is).ok_or_else(|| suggestion(&text, setting))?,
        Value::Number(number) if is("string") => Value::String(number.to_string()),
        other => other,
    };
    let value = match value {
        // If the setting can be false, an empty list means false.
        Value::Array(items) if items.is_empty() && is("array") && !is("boolean") => return Ok(None),
        // In JSON Schema, 7.0 is an integer too.
        Value::Number(n) if is("integer") && !n.is_u64() => {
            let whole = n.as_f64().filter(|f| f.fract() == 0.0 && (0.0..9e15).contains(f)).ok_or_else(String::new)?;
            format!("{whole:.0}").parse::<u64>().map_err(|_| String::new())?.into()
        }
        other => other,
    };
    let fits = match &value {
        Value::String(text) => {
            if !enumerated(setting).is_none_or(|known| known.contains(&text.as_str())) {
                return Err(suggestion(text, setting));
            }
            is("string")
        }
        Value::Bool(_) => is("boolean"),
        Value::Number(n) => {
            let number = n.as_f64().unwrap_or(f64::NAN);
            (is("integer") || is("number"))
                && setting["minimum"].as_f64().is_none_or(|min| number >= min)
                && setting["maximum"].as_f64().is_none_or(|max| number <= max)
        }
        Value::Array(items) => {
            for text in items.iter().filter_map(Value::as_str) {
                if !enumerated(setting).is_none_or(|known| known.contains(&text)) {
                    return Err(suggestion(text, setting));
                }
            }
            is("array") && items.iter().all(Value::is_string)
        }
        Value::Null | Value::Object(_) => false,
    };
    if fits { Ok(Some(value)) } else { Err(String::new()) }
}

/// A boolean, list or number written as a string.
fn parse(text: &str, is: &dyn Fn(&str) -> bool) -> Option<Value> {
    let lower = text.to_ascii_lowercase();
    if is("boolean") && (lower == "true" || lower == "false") {
        return Some(Value::Bool(lower == "true"));
    }
    if is("array") {
        if text.starts_with('[') {
            return serde_json::from_str(text).ok();
        }
        return Some(text.split(',').map(|part| Value::from(part.trim())).collect());
    }
    text.parse::<u64>().map(Value::from).or_else(|_| text.parse::<f64>().map(Value::from)).ok()
}

fn suggestion(text: &str, setting: &Value) -> String {
    did_you_mean(text, enumerated(setting).unwrap_or_default())
}

/// The words that a setting, or each element of its list, can be.
fn enumerated(setting: &Value) -> Option<Vec<&str>> {
    let list = if setting["enum"].is_array() { &setting["enum"] } else { &setting["items"]["enum"] };
    Some(list.as_array()?.iter().filter_map(Value::as_str).collect())
}

/// The JSON types that a setting has.
pub(crate) fn types(setting: &Value) -> Vec<&str> {
    match &setting["type"] {
        Value::String(one) => vec![one],
        many => many.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
    }
}

/// The values that a setting can have, in words.
pub(crate) fn allowed(setting: &Value) -> String {
    let words = enumerated(setting).map(|words| words.join(", "));
    let kinds = types(setting).into_iter().filter(|t| *t != "null").map(|t| match (t, &words) {
        ("array", Some(words)) => format!("list of {words}"),
        ("array", None) => "list of strings".into(),
        ("boolean", _) => "true or false".into(),
        ("integer" | "number", _) => match (setting["minimum"].as_f64(), setting["maximum"].as_f64()) {
            (Some(min), Some(max)) => format!("{t} from {min} to {max}"),
            (Some(min), None) => format!("{t} of at least {min}"),
            _ => t.into(),
        },
        (_, Some(words)) => words.clone(),
        _ if setting["anyOf"].is_array() => "date or date-time".into(),
        _ if setting["format"] == "date" => "date".into(),
        _ => "string".into(),
    });
    kinds.collect::<Vec<_>>().join(", or ")
}
