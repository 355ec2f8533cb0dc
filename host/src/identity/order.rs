//! Values in their order, as keys: bytes that compare as the values do.
//!
//! A key is a byte for the kind, then the value in a form that ends by itself, so that something may follow it:
//!
//! | kind      | byte | form                                                                                          |
//! |-----------|------|-----------------------------------------------------------------------------------------------|
//! | boolean   | `01` | `00` or `01`                                                                                  |
//! | number    | `02` | the greatest float that is not above it, 8 bytes, big-endian, with the sign bit turned over - of negative ones all bits -, then by how much the number is above it, 2 bytes, big-endian |
//! | reference | `03` | the object's id, 8 bytes, big-endian                                                          |
//! | bytes     | `04` | each `00` as `00 ff`, then `00 00`                                                            |
//! | text      | `05` | its UTF-8, as bytes                                                                           |
//!
//! Of bytes and texts longer than [`PREFIX_BYTES`] only so many stand in the key, ended by `00 01` and the xxHash3-64 of the
//! whole, big-endian: such keys tell that two values differ, but not always which is greater. Null, NaN, arrays and maps have no
//! key. An integer and a float of the same value have the same.

use std::cmp::Ordering;

use theseus_value::{
    DecodeError, Value,
    raw::{Kind, Reader},
};
use twox_hash::XxHash3_64;

/// How much of a text or byte string stands in its key.
const PREFIX_BYTES: usize = 200;

/// The longest key of a value: a kind, a prefix of zeros, its end and a digest.
#[cfg(test)]
const KEY_BYTES_MAX: usize = 1 + 2 * PREFIX_BYTES + 2 + 8;

const BOOLEAN: u8 = 1;
const NUMBER: u8 = 2;
const REFERENCE: u8 = 3;
const BYTES: u8 = 4;
const TEXT: u8 = 5;

/// The key of a value, and how much of it is sure to stand in the keys of all values that are not less.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ValueKey {
    /// The key.
    pub bytes: Vec<u8>,
    /// How many of the bytes order: all but the digest.
    pub ordered: usize,
}

impl ValueKey {
    /// Of an encoded value; none if it has no place in an order.
    pub(super) fn of(item: &[u8]) -> Result<Option<ValueKey>, DecodeError> {
        let mut reader = Reader::new(item);
        let mut bytes = Vec::with_capacity(32);
        match reader.peek()? {
            Kind::Bool => bytes.extend([BOOLEAN, u8::from(reader.bool()?)]),
            Kind::Int => number(&mut bytes, floor(reader.int()?)),
            Kind::Float => match reader.float()? {
                float if float.is_nan() => return Ok(None),
                // A negative zero is a zero.
                float => number(&mut bytes, (float + 0.0, 0)),
            },
            Kind::Reference => {
                bytes.push(REFERENCE);
                bytes.extend(reader.reference()?.0.to_be_bytes());
            }
            Kind::Bytes => return Ok(Some(long(BYTES, reader.bytes()?))),
            Kind::Text => return Ok(Some(long(TEXT, reader.text()?.as_bytes()))),
            Kind::Null | Kind::Array | Kind::Map => return Ok(None),
        }
        let ordered = bytes.len();
        Ok(Some(ValueKey { bytes, ordered }))
    }

    /// Whether it has no digest.
    #[cfg(test)]
    fn is_whole(&self) -> bool {
        self.ordered == self.bytes.len()
    }
}

/// How two encoded values compare; none if they are not of one kind.
pub(super) fn compare(a: &[u8], b: &[u8]) -> Result<Option<Ordering>, DecodeError> {
    let (mut left, mut right) = (Reader::new(a), Reader::new(b));
    match (left.peek()?, right.peek()?) {
        (Kind::Text, Kind::Text) => Ok(Some(left.text()?.cmp(right.text()?))),
        (Kind::Bytes, Kind::Bytes) => Ok(Some(left.bytes()?.cmp(right.bytes()?))),
        _ => Ok(match (ValueKey::of(a)?, ValueKey::of(b)?) {
            (Some(a), Some(b)) if a.bytes[0] == b.bytes[0] => Some(a.bytes.cmp(&b.bytes)),
            _ => None,
        }),
    }
}

/// Whether a value can stand in a condition.
pub fn has_order(value: &Value) -> bool {
    matches!(ValueKey::of(&value.encode()), Ok(Some(_)))
}

/// The greatest float that is not above an integer, and by how much the integer is above it.
fn floor(integer: i128) -> (f64, u16) {
    let nearest = integer as f64;
    let float = if nearest as i128 > integer { nearest.next_down() } else { nearest };
    // Floats of this size are at most 2^11 apart.
    (float, (integer - float as i128) as u16)
}

fn number(bytes: &mut Vec<u8>, (float, above): (f64, u16)) {
    let bits = float.to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    bytes.push(NUMBER);
    bytes.extend(ordered.to_be_bytes());
    bytes.extend(above.to_be_bytes());
}

fn long(kind: u8, content: &[u8]) -> ValueKey {
    let prefix = &content[..content.len().min(PREFIX_BYTES)];
    let mut bytes = Vec::with_capacity(prefix.len() + 4);
    bytes.push(kind);
    for byte in prefix {
        bytes.push(*byte);
        if *byte == 0 {
            bytes.push(0xff);
        }
    }
    bytes.extend([0, u8::from(prefix.len() < content.len())]);
    let ordered = bytes.len();
    if prefix.len() < content.len() {
        bytes.extend(XxHash3_64::oneshot(content).to_be_bytes());
    }
    ValueKey { bytes, ordered }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use theseus_value::ObjectId;

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let text = prop_oneof![
            "[a-c\u{0}]{0,5}",
            // Around the length where digests begin.
            (195..205_usize, "[ab]{0,3}").prop_map(|(length, end)| "a".repeat(length) + &end),
        ];
        prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            (-3..4_i128).prop_map(Value::Int),
            any::<i64>().prop_map(|it| Value::Int(it.into())),
            (0..2000_i128).prop_map(|it| Value::Int((1 << 64) - 1 - it)),
            (0..2000_i128).prop_map(|it| Value::Int(it - (1 << 64))),
            prop_oneof![any::<f64>(), (-6..7_i8).prop_map(|it| f64::from(it) / 2.0)]
                .prop_filter("has an order", |it| !it.is_nan())
                .prop_map(Value::Float),
            (0..5_u64).prop_map(|it| Value::Ref(ObjectId(it))),
            text.clone().prop_map(Value::Text),
            text.prop_map(|it| Value::Bytes(it.into_bytes())),
        ]
    }

    /// How two values compare, by what they are.
    fn expected(a: &Value, b: &Value) -> Option<Ordering> {
        let mixed = |integer: i128, float: f64| match float {
            float if float >= 2e38 => Ordering::Less,
            float if float <= -2e38 => Ordering::Greater,
            float => integer.cmp(&(float.floor() as i128)).then(0.0_f64.total_cmp(&(float - float.floor()))),
        };
        match (a, b) {
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Value::Float(a), Value::Float(b)) => a.partial_cmp(b),
            (Value::Int(a), Value::Float(b)) => Some(mixed(*a, *b)),
            (Value::Float(a), Value::Int(b)) => Some(mixed(*b, *a).reverse()),
            (Value::Ref(a), Value::Ref(b)) => Some(a.cmp(b)),
            (Value::Text(a), Value::Text(b)) => Some(a.cmp(b)),
            (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn keys_compare_as_values_do(a in value(), b in value()) {
            let (one, other) = (a.encode(), b.encode());
            let order = expected(&a, &b);
            prop_assert_eq!(compare(&one, &other).unwrap(), order);
            let (one, other) = (ValueKey::of(&one).unwrap().unwrap(), ValueKey::of(&other).unwrap().unwrap());
            prop_assert!(one.bytes.len() <= KEY_BYTES_MAX);
            prop_assert_eq!(one == other, order == Some(Ordering::Equal));
            if let (true, true, Some(order)) = (one.is_whole(), other.is_whole(), order) {
                prop_assert_eq!(one.bytes.cmp(&other.bytes), order);
            }
            // What orders of a key never says the opposite.
            if let Some(order) = order {
                let (one, other) = (&one.bytes[..one.ordered], &other.bytes[..other.ordered]);
                prop_assert!(one == other || one.cmp(other) == order);
            }
            // No key is the beginning of another, so that something may follow.
            prop_assert!(one == other || !other.bytes.starts_with(&one.bytes));
        }
    }

    #[test]
    fn some_values_have_no_order() {
        for value in [Value::Null, Value::Float(f64::NAN), Value::Array(vec![]), Value::Map(Default::default())] {
            assert!(!has_order(&value), "{value:?}");
        }
        let equal = compare(&Value::Float(-0.0).encode(), &Value::Int(0).encode());
        assert_eq!(equal.unwrap(), Some(Ordering::Equal));
    }
}
