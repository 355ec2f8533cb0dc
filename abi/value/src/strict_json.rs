//! JSON from others, where nothing of what was written may get lost.
//!
//! A JSON reader takes an integer that is too large for a float that is nearly it, and of two members with one name the last. Whoever
//! wrote it would never know. RFC 8259 leaves both to the reader; here they are errors.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value as Json};

/// A JSON value in which no object has two members of one name.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Strict(pub Json);

/// Reads a JSON document.
///
/// # Errors
///
/// If it is not JSON or not what is expected, or if it has an integer that does not fit. In words, for whoever wrote it.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    let parsed = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    match out_of_range(text) {
        None => Ok(parsed),
        Some(number) => Err(format!(
            "the integer {number} does not fit: integers are from -2^63 to 2^64-1, down to -2^64 as {{\"$int\": \"...\"}}; a float has \
             a point or an exponent"
        )),
    }
}

/// The first integer of a document that no 64 bits hold. The document is known to be JSON.
fn out_of_range(text: &[u8]) -> Option<&str> {
    let mut rest = text;
    while let Some(first) = rest.first() {
        let length = match first {
            b'"' => string_length(rest),
            b'-' | b'0'..=b'9' => {
                let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
                let length = rest.iter().take_while(|byte| is_part(byte)).count();
                let number = std::str::from_utf8(&rest[..length]).unwrap_or_default();
                if !number.contains(['.', 'e', 'E']) && !fits(number) {
                    return Some(number);
                }
                length
            }
            _ => 1,
        };
        rest = rest.get(length..).unwrap_or_default();
    }
    None
}

/// The length of the string with which a text begins, with its quotes.
fn string_length(text: &[u8]) -> usize {
    let mut length = 1;
    while let Some(byte) = text.get(length) {
        match byte {
            b'"' => return length + 1,
            b'\\' => length += 2,
            _ => length += 1,
        }
    }
    length
}

fn fits(integer: &str) -> bool {
    integer.parse().is_ok_and(|value: i128| (i64::MIN.into()..=u64::MAX.into()).contains(&value))
}

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strict, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Json;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(text.into())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Json, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut all = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(Json::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut all = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if all.contains_key(&name) {
                return Err(A::Error::custom(format_args!("`{name}` is given twice")));
            }
            let Strict(member) = members.next_value()?;
            all.insert(name, member);
        }
        Ok(Json::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_can_say_is_read_as_ever() {
        let text = r#"{"a": [null, true, -1, 18446744073709551615, -9223372036854775808, 1.5, 1e30, 18446744073709551616.0],
            "b": {"a": "18446744073709551616 \" \\", "\"": 0}, "c": {"a": 1}}"#;
        let Strict(read) = parse(text.as_bytes()).unwrap();
        assert_eq!(read, serde_json::from_str::<Json>(text).unwrap());
    }

    #[test]
    fn an_integer_that_would_become_a_float_is_an_error() {
        for number in ["18446744073709551616", "-9223372036854775809", &"9".repeat(60)] {
            for text in
                [number.to_owned(), format!("[\"\\\\\", {number}]"), format!("{{\"a\": [1.5, {{\"b\":{number}}}]}}")]
            {
                let error = parse::<Json>(text.as_bytes()).unwrap_err();
                assert!(error.contains(number), "{error}");
            }
        }
    }

    #[test]
    fn a_name_that_is_given_twice_is_an_error() {
        for text in [r#"{"a": 1, "a": 1}"#, r#"[{"b": {"a": 1, "\u0061": 2}}]"#] {
            let error = parse::<Strict>(text.as_bytes()).unwrap_err();
            assert!(error.contains("`a` is given twice"), "{error}");
        }
    }
}
