//! Reading JSON as tolerantly as Go's `encoding/json` does, since Docker's clients rely on it.
//!
//! * Names of fields match in any case (docker-java and clients of old send `hostconfig`); an
//!   exact match wins over another case.
//! * `null` stands for the zero value of anything: of a field, an element, a whole body.
//! * Unknown fields are ignored.
//! * A byte that is no UTF-8 is read as U+FFFD.
//! * A wrong type is an error that names the field by its path from the body's root type, in Go's
//!   words: `json: cannot unmarshal string into Go struct field CreateRequest.HostConfig.Memory of
//!   type int64`.
//!
//! The body is first read into a [`Value`] (nesting is limited to 128 by serde_json), then handed
//! to serde's derived code through a deserializer that renames keys when it learns the fields of a
//! struct. Structs read this way must not use `#[serde(flatten)]`, which hides their fields.

mod lenient;
mod syntax;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeOwned};
use serde_json::Value;

use crate::types::utf8;
use lenient::Lenient;

/// Why a body was refused. `Display` is the whole sentence that Docker answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    cause: Cause,
    /// Type of the outermost struct.
    root: &'static str,
    /// Names of the fields on the way, innermost first.
    path: Vec<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cause {
    /// Not JSON.
    Syntax(String),
    /// More after the first value.
    Trailing,
    /// A value of one type where another is needed.
    Type { got: String, wanted: String },
    /// A value of the right type that means nothing.
    Value(String),
}

impl JsonError {
    fn new(cause: Cause) -> Self {
        Self {
            cause,
            root: "",
            path: Vec::new(),
        }
    }

    fn wrong_type(got: &Value, wanted: impl Into<String>) -> Self {
        let got = match got {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if number.is_f64() => format!("number {number}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        Self::new(Cause::Type {
            got,
            wanted: wanted.into(),
        })
    }

    /// The sentence without its beginning, for documents that are no request's body.
    pub fn reason(&self) -> String {
        match (&self.cause, self.field()) {
            (Cause::Trailing, _) => "unexpected content after JSON".to_owned(),
            (Cause::Type { got, wanted }, Some(field)) => {
                format!(
                    "json: cannot unmarshal {got} into Go struct field {field} of type {wanted}"
                )
            }
            (Cause::Type { got, wanted }, None) => {
                format!("json: cannot unmarshal {got} into Go value of type {wanted}")
            }
            (Cause::Value(message), Some(field)) => format!("{field}: {message}"),
            (Cause::Syntax(message) | Cause::Value(message), _) => message.clone(),
        }
    }

    /// The field's path, outermost first, after its root type.
    fn field(&self) -> Option<String> {
        let mut names = self.path.iter().rev().copied().peekable();
        names.peek()?;
        let mut text = self.root.to_owned();
        for name in names {
            text.push('.');
            text.push_str(name);
        }
        Some(text)
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cause != Cause::Trailing {
            f.write_str("invalid JSON: ")?;
        }
        f.write_str(&self.reason())
    }
}

impl std::error::Error for JsonError {}

impl de::Error for JsonError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Cause::Value(message.to_string()))
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(Cause::Type {
            got: match unexpected {
                de::Unexpected::Bool(_) => "bool".to_owned(),
                de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) => "number".to_owned(),
                de::Unexpected::Float(number) => format!("number {number}"),
                de::Unexpected::Str(_) => "string".to_owned(),
                de::Unexpected::Seq => "array".to_owned(),
                de::Unexpected::Map => "object".to_owned(),
                other => other.to_string(),
            },
            wanted: expected.to_string(),
        })
    }
}

/// Reads a request's body. An empty one is the zero value, as Docker has it.
pub fn from_slice<T: DeserializeOwned>(body: &[u8]) -> Result<T, JsonError> {
    if body.trim_ascii().is_empty() {
        return from_value(Value::Null);
    }
    let text = utf8::lossy(body);
    let mut reader = serde_json::Deserializer::from_str(&text);
    let value = Value::deserialize(&mut reader).map_err(|error| {
        // What only one of the two refuses is deeper or larger than anything sensible.
        let said = syntax::refusal(&text).unwrap_or_else(|| error.to_string());
        JsonError::new(Cause::Syntax(said))
    })?;
    reader.end().map_err(|_| JsonError::new(Cause::Trailing))?;
    from_value(value)
}

/// Reads a value that is already parsed.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, JsonError> {
    T::deserialize(Lenient(value))
}

/// For `skip_serializing_if`: Go's `omitempty`.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// For `skip_serializing_if` on a list or map that may be absent: Go's `omitempty` leaves out an
/// empty one too.
pub(crate) fn is_empty<T>(value: &Option<T>) -> bool
where
    for<'a> &'a T: IntoIterator,
{
    value
        .as_ref()
        .is_none_or(|items| items.into_iter().next().is_none())
}

/// Reads a list of strings that may be written as a single string (`Cmd`, `Entrypoint`).
pub(crate) fn string_or_list<'de, D>(deserializer: D) -> Result<Option<Vec<String>>, D::Error>
where
    D: de::Deserializer<'de>,
{
    let value = match Value::deserialize(deserializer)? {
        Value::Null => return Ok(None),
        Value::String(word) => return Ok(Some(vec![word])),
        value => value,
    };
    let Value::Array(items) = value else {
        return Err(de::Error::invalid_type(unexpected(&value), &"[]string"));
    };
    items
        .into_iter()
        .map(|item| match item {
            Value::String(word) => Ok(word),
            Value::Null => Ok(String::new()),
            other => Err(de::Error::invalid_type(unexpected(&other), &"string")),
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

fn unexpected(value: &Value) -> de::Unexpected<'_> {
    match value {
        Value::Null => de::Unexpected::Unit,
        Value::Bool(flag) => de::Unexpected::Bool(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => de::Unexpected::Signed(number),
            (None, number) => de::Unexpected::Float(number.unwrap_or_default()),
        },
        Value::String(text) => de::Unexpected::Str(text),
        Value::Array(_) => de::Unexpected::Seq,
        Value::Object(_) => de::Unexpected::Map,
    }
}
