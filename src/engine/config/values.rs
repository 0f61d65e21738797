//! Values of directives, read as Go reads them: what is absent, null or empty text is not there, and a
//! wrong type is told in Go's words.

use serde_json::{Map, Value};

/// A number of things, such as `max-concurrent-downloads`: zero is the default.
pub(super) fn count<T: TryFrom<i64>>(
    file: &Map<String, Value>,
    name: &str,
) -> Result<Option<T>, String> {
    let value = match file.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value,
    };
    match value.as_i64() {
        Some(0) => Ok(None),
        Some(number) => T::try_from(number)
            .map(Some)
            .map_err(|_| format!("invalid {}: {number}", name.replace('-', " "))),
        None => Err(wrong_type(name, value, "int")),
    }
}

/// A number of either sign.
pub(super) fn number(file: &Map<String, Value>, name: &str) -> Result<Option<i64>, String> {
    match file.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_i64() {
            Some(number) => Ok(Some(number)),
            None => Err(wrong_type(name, value, "int")),
        },
    }
}

/// A value in Go's `%v`.
pub(super) fn as_go_shows_it(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let values: Vec<String> = values.iter().map(as_go_shows_it).collect();
            format!("[{}]", values.join(" "))
        }
        Value::Object(values) => {
            let pair = |(name, value)| format!("{name}:{}", as_go_shows_it(value));
            let pairs: Vec<String> = values.iter().map(pair).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

/// What is said of a value of the wrong type.
pub(super) fn wrong_type(name: &str, value: &Value, wanted: &str) -> String {
    let got = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {got} into Go struct field Config.{name} of type {wanted}")
}

/// A text.
pub(super) fn text_of(file: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match file.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(wrong_type(name, other, "string")),
    }
}

/// A truth value.
pub(super) fn flag(file: &Map<String, Value>, name: &str) -> Result<Option<bool>, String> {
    match file.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(other) => Err(wrong_type(name, other, "bool")),
    }
}

/// A list of texts.
pub(super) fn list(file: &Map<String, Value>, name: &str) -> Result<Option<Vec<String>>, String> {
    let values = match file.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(values)) => values,
        Some(other) => return Err(wrong_type(name, other, "[]string")),
    };
    let texts = values.iter().map(|value| match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(wrong_type(name, other, "string")),
    });
    texts.collect::<Result<_, _>>().map(Some)
}
