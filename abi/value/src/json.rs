//! Between values and JSON.
//!
//! What JSON has is written as it is. What it lacks is written as an object with one key:
//!
//! | value | JSON |
//! |---|---|
//! | reference to object 12 | `{"$ref": 12}` |
//! | byte string | `{"$bytes": "AQID"}` (base64, padded) |
//! | NaN and the infinities | `{"$float": "NaN"}`, `"Infinity"`, `"-Infinity"` |
//! | integers below -2^63 | `{"$int": "-9223372036854775809"}` |
//! | a map whose only key begins with `$` | the key gets one more `$` in front |
//!
//! `1` is an integer and `1.0` is a float. Integers above 2^53 are JSON numbers too, though some readers round them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value as Json;
use thiserror::Error;

use crate::{DEPTH_MAX, Map, ObjectId, Value};

/// Why JSON is not a value.
#[derive(Error, Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum JsonError {
    /// An object with one key that begins with `$` and means nothing.
    #[error("{{\"{key}\": ...}} means nothing here; for a map with that key write \"${key}\"")]
    UnknownMark {
        /// The key.
        key: String,
    },
    /// One of the marks with content that does not fit it.
    #[error("{{\"{key}\": {found}}}: expected {expected}")]
    BadMark {
        /// The key.
        key: String,
        /// What it takes.
        expected: &'static str,
        /// What it has.
        found: String,
    },
    /// A number that not even a float holds.
    #[error("the number {number} is out of range")]
    NumberRange {
        /// The number.
        number: String,
    },
    /// Arrays and objects are nested too deeply.
    #[error("nested more than {DEPTH_MAX} deep")]
    TooDeep,
}

/// The JSON form of a value.
pub fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => match (u64::try_from(*value), i64::try_from(*value)) {
            (Ok(value), _) => value.into(),
            (_, Ok(value)) => value.into(),
            _ => marked("$int", value.to_string()),
        },
        Value::Float(value) => match serde_json::Number::from_f64(*value) {
            Some(number) => Json::Number(number),
            None if value.is_nan() => marked("$float", "NaN"),
            None if *value > 0.0 => marked("$float", "Infinity"),
            None => marked("$float", "-Infinity"),
        },
        Value::Bytes(bytes) => marked("$bytes", STANDARD.encode(bytes)),
        Value::Text(text) => Json::String(text.clone()),
        Value::Array(items) => items.iter().map(to_json).collect(),
        Value::Map(map) => {
            let escaped = map.len() == 1;
            let entry = |(key, value): (&str, &Value)| {
                let mark = if escaped && key.starts_with('$') { "$" } else { "" };
                (format!("{mark}{key}"), to_json(value))
            };
            Json::Object(map.iter().map(entry).collect())
        }
        Value::Ref(object) => marked("$ref", object.0),
    }
}

fn marked(key: &str, content: impl Into<Json>) -> Json {
    Json::Object(std::iter::once((key.to_owned(), content.into())).collect())
}

/// The value that JSON stands for.
///
/// # Errors
///
/// [`JsonError`], if a mark is wrong or the nesting too deep.
pub fn from_json(json: Json) -> Result<Value, JsonError> {
    read(json, 0)
}

fn read(json: Json, depth: usize) -> Result<Value, JsonError> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(value),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(value), _) => value.into(),
            (_, Some(value)) => value.into(),
            _ => match number.as_f64() {
                Some(value) => Value::Float(value),
                None => return Err(JsonError::NumberRange { number: number.to_string() }),
            },
        },
        Json::String(text) => Value::Text(text),
        Json::Array(_) | Json::Object(_) if depth == DEPTH_MAX => return Err(JsonError::TooDeep),
        Json::Array(items) => {
            Value::Array(items.into_iter().map(|item| read(item, depth + 1)).collect::<Result<_, _>>()?)
        }
        Json::Object(object) => {
            let lone = object.len() == 1;
            let mut map = Map::new();
            for (key, content) in object {
                if !lone || !key.starts_with('$') {
                    map.insert(key, read(content, depth + 1)?);
                } else if let Some(key) = key.strip_prefix("$$") {
                    map.insert(format!("${key}"), read(content, depth + 1)?);
                } else {
                    return unmark(key, content);
                }
            }
            Value::Map(map)
        }
    })
}

fn unmark(key: String, content: Json) -> Result<Value, JsonError> {
    let (value, expected) = match key.as_str() {
        "$ref" => (content.as_u64().map(|id| Value::Ref(ObjectId(id))), "the object's number"),
        "$bytes" => {
            (content.as_str().and_then(|text| STANDARD.decode(text).ok()).map(Value::Bytes), "base64 as a string")
        }
        "$float" => (content.as_str().and_then(non_finite).map(Value::Float), "\"NaN\", \"Infinity\" or \"-Infinity\""),
        "$int" => (content.as_str().and_then(integer).map(Value::Int), "an integer from -2^64 to 2^64-1 as a string"),
        _ => return Err(JsonError::UnknownMark { key }),
    };
    value.ok_or_else(|| JsonError::BadMark { key, expected, found: content.to_string() })
}

fn non_finite(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

fn integer(text: &str) -> Option<i128> {
    text.parse().ok().filter(|value| (-(1_i128 << 64)..1 << 64).contains(value))
}
