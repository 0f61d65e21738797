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

use std::fmt;

use serde::Deserialize;
use serde::de::value::StringDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Map, Value};

use crate::types::utf8;

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
    let value = Value::deserialize(&mut reader)
        .map_err(|error| JsonError::new(Cause::Syntax(error.to_string())))?;
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

struct Lenient(Value);

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty => $go:literal,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
            let number = match &self.0 {
                Value::Null => Some(0),
                Value::Number(number) => number
                    .as_i64()
                    .map(i128::from)
                    .or_else(|| number.as_u64().map(i128::from)),
                other => return Err(JsonError::wrong_type(other, $go)),
            };
            match number.and_then(|number| <$type>::try_from(number).ok()) {
                Some(number) => visitor.$visit(number),
                None => Err(JsonError::new(Cause::Type {
                    got: format!("number {}", self.0),
                    wanted: $go.to_owned(),
                })),
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Lenient {
    type Error = JsonError;

    integers! {
        deserialize_i8 visit_i8 i8 => "int8",
        deserialize_i16 visit_i16 i16 => "int16",
        deserialize_i32 visit_i32 i32 => "int",
        deserialize_i64 visit_i64 i64 => "int64",
        deserialize_u8 visit_u8 u8 => "uint8",
        deserialize_u16 visit_u16 u16 => "uint16",
        deserialize_u32 visit_u32 u32 => "uint32",
        deserialize_u64 visit_u64 u64 => "uint64",
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(flag),
            Value::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(number), _, _) => visitor.visit_u64(number),
                (None, Some(number), _) => visitor.visit_i64(number),
                (None, None, number) => visitor.visit_f64(number.unwrap_or_default()),
            },
            Value::String(text) => visitor.visit_string(text),
            Value::Array(items) => visitor.visit_seq(Items(items.into_iter())),
            Value::Object(entries) => visitor.visit_map(Entries::of_map(entries)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visitor.visit_bool(false),
            Value::Bool(flag) => visitor.visit_bool(flag),
            other => Err(JsonError::wrong_type(&other, "bool")),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match &self.0 {
            Value::Null => visitor.visit_f64(0.0),
            Value::Number(number) => visitor.visit_f64(number.as_f64().unwrap_or_default()),
            other => Err(JsonError::wrong_type(other, "float64")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visitor.visit_string(String::new()),
            Value::String(text) => visitor.visit_string(text),
            other => Err(JsonError::wrong_type(&other, "string")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visitor.visit_seq(Items(Vec::new().into_iter())),
            Value::Array(items) => visitor.visit_seq(Items(items.into_iter())),
            other => Err(JsonError::wrong_type(&other, "[]string")),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        // Go's arrays are filled up with zeros, and what is too much is dropped.
        let mut items = match self.0 {
            Value::Null => Vec::new(),
            Value::Array(items) => items,
            other => return Err(JsonError::wrong_type(&other, format!("[{len}]uint"))),
        };
        items.resize(len, Value::Null);
        visitor.visit_seq(Items(items.into_iter()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::Null => visitor.visit_map(Entries::of_map(Map::new())),
            Value::Object(entries) => visitor.visit_map(Entries::of_map(entries)),
            other => Err(JsonError::wrong_type(&other, "map[string]string")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        let result = match self.0 {
            Value::Null => visitor.visit_map(Entries::of_map(Map::new())),
            Value::Object(entries) => visitor.visit_map(Entries::of_struct(entries, fields)),
            other => Err(JsonError::wrong_type(&other, name)),
        };
        result.map_err(|mut error| {
            error.root = name;
            error
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        match self.0 {
            Value::String(text) => visitor.visit_enum(text.into_deserializer()),
            other => Err(JsonError::wrong_type(&other, "string")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple_struct identifier
    }
}

struct Items(std::vec::IntoIter<Value>);

impl<'de> SeqAccess<'de> for Items {
    type Error = JsonError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, JsonError> {
        self.0
            .next()
            .map(|item| seed.deserialize(Lenient(item)))
            .transpose()
    }
}

/// Entries of an object: those of a struct know the field that each belongs to.
struct Entries {
    entries: std::vec::IntoIter<(Option<&'static str>, String, Value)>,
    value: Option<(Option<&'static str>, Value)>,
}

impl Entries {
    fn of_map(entries: Map<String, Value>) -> Self {
        let entries: Vec<_> = entries
            .into_iter()
            .map(|(key, value)| (None, key, value))
            .collect();
        Self {
            entries: entries.into_iter(),
            value: None,
        }
    }

    fn of_struct(mut entries: Map<String, Value>, fields: &'static [&'static str]) -> Self {
        let mut found = Vec::with_capacity(entries.len());
        let mut missing = Vec::new();
        for field in fields {
            match entries.remove(*field) {
                Some(value) => found.push((Some(*field), (*field).to_owned(), value)),
                None => missing.push(*field),
            }
        }
        // Whatever is left is unknown, or a field in another case.
        for (key, value) in entries {
            let at = missing
                .iter()
                .position(|field| field.eq_ignore_ascii_case(&key));
            if let Some(at) = at {
                let field = missing.swap_remove(at);
                found.push((Some(field), field.to_owned(), value));
            }
        }
        // A field that is null is left as it was: at its default.
        found.retain(|(_, _, value)| !value.is_null());
        Self {
            entries: found.into_iter(),
            value: None,
        }
    }
}

impl<'de> MapAccess<'de> for Entries {
    type Error = JsonError;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, JsonError> {
        let Some((field, key, value)) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some((field, value));
        let key: StringDeserializer<JsonError> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, JsonError> {
        let (field, value) = self.value.take().unwrap_or((None, Value::Null));
        seed.deserialize(Lenient(value)).map_err(|mut error| {
            error.path.extend(field);
            error
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::container::{CreateRequest, HostConfig};
    use crate::api::exec::ExecConfig;
    use proptest::prelude::*;
    use serde_json::json;

    fn create(body: &str) -> Result<CreateRequest, String> {
        from_slice(body.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn any_case_and_null_and_unknown() {
        let request = create(
            r#"{"image":"a","CMD":"sh","Env":null,"hostconfig":{"memory":5,"Binds":[null,"a:b"],
            "portBindings":{"80/tcp":[{"hostport":"8080"}],"81/tcp":null},"Privileged":null,
            "ConsoleSize":[24],"Nonsense":[1]},"NetworkingConfig":null,"Foo":{}}"#,
        );
        let request = request.unwrap_or_default();
        assert_eq!(request.config.image, "a");
        assert_eq!(request.config.cmd, Some(vec!["sh".to_owned()]));
        let host = request.host_config;
        assert_eq!(host.memory, 5);
        assert_eq!(host.binds, Some(vec![String::new(), "a:b".to_owned()]));
        assert_eq!(host.console_size, [24, 0]);
        let ports = host.port_bindings.unwrap_or_default();
        let first = ports["80/tcp"].as_ref().and_then(|list| list.first());
        assert_eq!(first.map(|b| b.host_port.as_str()), Some("8080"));
        assert_eq!(ports["81/tcp"], None);
    }

    #[test]
    fn an_exact_name_wins() {
        let exec: ExecConfig =
            from_slice(br#"{"user":"a","User":"b","USER":"c"}"#).unwrap_or_default();
        assert_eq!(exec.user, "b");
    }

    #[test]
    fn empty_is_zero() {
        for body in ["", " \n", "null", "{}"] {
            assert_eq!(create(body), Ok(CreateRequest::default()), "{body:?}");
        }
    }

    #[test]
    fn wrong_types_name_the_field() {
        for (body, message) in [
            (
                r#"{"HostConfig":{"Memory":"1g"}}"#,
                "invalid JSON: json: cannot unmarshal string into Go struct field \
                 CreateRequest.HostConfig.Memory of type int64",
            ),
            (
                r#"{"HostConfig":{"memory":1.5}}"#,
                "invalid JSON: json: cannot unmarshal number 1.5 into Go struct field \
                 CreateRequest.HostConfig.Memory of type int64",
            ),
            (
                r#"{"Tty":"yes"}"#,
                "invalid JSON: json: cannot unmarshal string into Go struct field \
                 CreateRequest.Tty of type bool",
            ),
            (
                r#"{"Cmd":[1]}"#,
                "invalid JSON: json: cannot unmarshal number into Go struct field \
                 CreateRequest.Cmd of type string",
            ),
            (
                r#"{"HostConfig":{"BlkioWeight":70000}}"#,
                "invalid JSON: json: cannot unmarshal number 70000 into Go struct field \
                 CreateRequest.HostConfig.BlkioWeight of type uint16",
            ),
            (
                r#"{"HostConfig":{"Mounts":[{"BindOptions":{"NonRecursive":1}}]}}"#,
                "invalid JSON: json: cannot unmarshal number into Go struct field \
                 CreateRequest.HostConfig.Mounts.BindOptions.NonRecursive of type bool",
            ),
            (
                "[]",
                "invalid JSON: json: cannot unmarshal array into Go value of type ContainerConfig",
            ),
            ("{} {}", "unexpected content after JSON"),
        ] {
            assert_eq!(create(body), Err(message.to_owned()), "{body}");
        }
        assert!(create("{").is_err_and(|text| text.starts_with("invalid JSON: ")));
        assert!(create(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn own_output_reads_back() {
        let host = HostConfig {
            memory: 7,
            binds: Some(Vec::new()),
            ..HostConfig::default()
        };
        let text = serde_json::to_vec(&host).unwrap_or_default();
        assert_eq!(from_slice(&text), Ok(host.clone()));
        assert_eq!(serde_json::from_slice::<HostConfig>(&text).ok(), Some(host));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(|n| json!(n)),
            "\\PC{0,6}".prop_map(Value::from),
        ];
        let name = prop_oneof![
            Just("HostConfig".to_owned()),
            Just("hostconfig".to_owned()),
            Just("Mounts".to_owned()),
            Just("Cmd".to_owned()),
            Just("PortBindings".to_owned()),
            Just("NetworkingConfig".to_owned()),
            Just("EndpointsConfig".to_owned()),
            Just("Memory".to_owned()),
            Just("ConsoleSize".to_owned()),
            "[A-Za-z]{0,6}",
        ];
        leaf.prop_recursive(5, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(name.clone(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_json_panics(value in any_json()) {
            let body = serde_json::to_vec(&value).unwrap_or_default();
            for error in [
                from_slice::<CreateRequest>(&body).err(),
                from_slice::<ExecConfig>(&body).err(),
                from_slice::<crate::api::network::NetworkCreateRequest>(&body).err(),
            ].into_iter().flatten() {
                prop_assert!(error.to_string().starts_with("invalid JSON: "));
            }
        }

        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = from_slice::<CreateRequest>(&body);
        }
    }
}
