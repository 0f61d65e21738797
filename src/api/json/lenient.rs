//! The deserializer that takes what Go takes: it learns a struct's fields as serde asks for them.

use serde::de::value::StringDeserializer;
use serde::de::{self, DeserializeSeed, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::{Cause, JsonError};

/// A value that is already parsed.
pub(super) struct Lenient(pub(super) Value);

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
