//! Values as data: for code that does not know the types behind them.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
    ser::SerializeMap,
};

use crate::{
    DecodeError, EncodeError,
    raw::{KeyOrder, Kind, Reader, Writer, key_order},
    ser::nested,
};

/// The name of an object for good: given by the host in order, and never given again.
///
/// Serde's buffering (`untagged`, `flatten`) keeps a reference, but takes a plain number for one where the type asks for a
/// reference; an untagged enum that has both names the number first.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ObjectId(pub u64);

/// The name of the newtype struct by which our serializer and deserializer recognise a reference. Others see a number.
pub(crate) const REFERENCE_NAME: &str = "$theseus_value::reference";

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for ObjectId {
    #[inline]
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_newtype_struct(REFERENCE_NAME, &self.0)
    }
}

impl<'de> Deserialize<'de> for ObjectId {
    #[inline]
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectIdVisitor;

        impl<'de> Visitor<'de> for ObjectIdVisitor {
            type Value = ObjectId;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("reference")
            }

            #[inline]
            fn visit_u64<E: de::Error>(self, id: u64) -> Result<ObjectId, E> {
                Ok(ObjectId(id))
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, id: D) -> Result<ObjectId, D::Error> {
                u64::deserialize(id).map(ObjectId)
            }
        }

        deserializer.deserialize_newtype_struct(REFERENCE_NAME, ObjectIdVisitor)
    }
}

/// Any value that a slot, an argument or a result can have.
///
/// Equal values have equal encodings, with one exception: a NaN is not equal to itself.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// Nothing.
    Null,
    /// A boolean.
    Bool(bool),
    /// An integer from -2^64 to 2^64-1. The type holds more than that, and encoding refuses it.
    Int(i128),
    /// A float. Never equal to an integer: `1` and `1.0` are different values.
    Float(f64),
    /// A byte string.
    Bytes(Vec<u8>),
    /// A text.
    Text(String),
    /// A list of values.
    Array(Vec<Value>),
    /// Values by name.
    Map(Map),
    /// An object.
    Ref(ObjectId),
}

impl Value {
    /// The encoding of this value.
    ///
    /// # Panics
    ///
    /// If the value was put together by hand and is none: an integer out of range, or nested more than
    /// [`DEPTH_MAX`](crate::DEPTH_MAX) deep. What was decoded or converted always has an encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    /// Appends the encoding of this value.
    ///
    /// # Panics
    ///
    /// As [`encode`](Self::encode) does.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        if let Err(error) = self.write(&mut Writer::new(out), 0) {
            panic!("this value cannot be encoded: {error}");
        }
    }

    fn write(&self, writer: &mut Writer<'_>, depth: usize) -> Result<(), EncodeError> {
        match self {
            Value::Null => writer.null(),
            Value::Bool(value) => writer.bool(*value),
            Value::Int(value) => writer.int(*value)?,
            Value::Float(value) => writer.float(*value),
            Value::Bytes(bytes) => writer.bytes(bytes),
            Value::Text(text) => writer.text(text),
            Value::Ref(object) => writer.reference(*object),
            Value::Array(items) => {
                let depth = nested(depth)?;
                writer.array(items.len());
                for item in items {
                    item.write(writer, depth)?;
                }
            }
            Value::Map(map) => {
                let depth = nested(depth)?;
                writer.map(map.len());
                for (key, value) in map {
                    writer.text(key);
                    value.write(writer, depth)?;
                }
            }
        }
        Ok(())
    }

    /// Reads one whole value.
    ///
    /// # Errors
    ///
    /// If the bytes are not the one deterministic encoding of a value, or something follows it.
    pub fn decode(bytes: &[u8]) -> Result<Value, DecodeError> {
        let mut reader = Reader::new(bytes);
        let value = Value::read(&mut reader, 0)?;
        reader.finish()?;
        Ok(value)
    }

    fn read(reader: &mut Reader<'_>, depth: usize) -> Result<Value, DecodeError> {
        Ok(match reader.peek()? {
            Kind::Null => {
                reader.null()?;
                Value::Null
            }
            Kind::Bool => Value::Bool(reader.bool()?),
            Kind::Int => Value::Int(reader.int()?),
            Kind::Float => Value::Float(reader.float()?),
            Kind::Bytes => Value::Bytes(reader.bytes()?.to_vec()),
            Kind::Text => Value::Text(reader.text()?.to_owned()),
            Kind::Reference => Value::Ref(reader.reference()?),
            Kind::Array => {
                let depth = reader.deeper(depth)?;
                let len = reader.array()?;
                let mut items = Vec::with_capacity(len.min(RESERVED_MAX));
                for _ in 0..len {
                    items.push(Value::read(reader, depth)?);
                }
                Value::Array(items)
            }
            Kind::Map => {
                let depth = reader.deeper(depth)?;
                let len = reader.map()?;
                let mut entries = Vec::with_capacity(len.min(RESERVED_MAX));
                let mut order = KeyOrder::default();
                for _ in 0..len {
                    let key = order.next(reader)?.to_owned();
                    entries.push((key, Value::read(reader, depth)?));
                }
                Value::Map(Map(entries))
            }
        })
    }

    /// Whether this is null.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The boolean, if this is one.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(value) = self { Some(*value) } else { None }
    }

    /// The integer, if this is one.
    pub fn as_int(&self) -> Option<i128> {
        if let Value::Int(value) = self { Some(*value) } else { None }
    }

    /// The integer, if this is one that fits.
    pub fn as_i64(&self) -> Option<i64> {
        self.as_int()?.try_into().ok()
    }

    /// The integer, if this is one that fits.
    pub fn as_u64(&self) -> Option<u64> {
        self.as_int()?.try_into().ok()
    }

    /// The float, if this is one.
    pub fn as_float(&self) -> Option<f64> {
        if let Value::Float(value) = self { Some(*value) } else { None }
    }

    /// The byte string, if this is one.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        if let Value::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    /// The text, if this is one.
    pub fn as_text(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    /// The items, if this is an array.
    pub fn as_array(&self) -> Option<&[Value]> {
        if let Value::Array(items) = self { Some(items) } else { None }
    }

    /// The map, if this is one.
    pub fn as_map(&self) -> Option<&Map> {
        if let Value::Map(map) = self { Some(map) } else { None }
    }

    /// The object, if this is a reference.
    pub fn as_object(&self) -> Option<ObjectId> {
        if let Value::Ref(object) = self { Some(*object) } else { None }
    }
}

/// How many items are reserved on the word of a head. Announced lengths are checked against the input, but nested ones would
/// each reserve many times their own bytes.
const RESERVED_MAX: usize = 256;

macro_rules! value_from {
    ($($from:ty => |$name:ident| $value:expr;)*) => {
        $(impl From<$from> for Value {
            fn from($name: $from) -> Value { $value }
        })*
    };
}

value_from! {
    () => |_unit| Value::Null;
    bool => |value| Value::Bool(value);
    i8 => |value| Value::Int(value.into());
    i16 => |value| Value::Int(value.into());
    i32 => |value| Value::Int(value.into());
    i64 => |value| Value::Int(value.into());
    u8 => |value| Value::Int(value.into());
    u16 => |value| Value::Int(value.into());
    u32 => |value| Value::Int(value.into());
    u64 => |value| Value::Int(value.into());
    usize => |value| Value::Int(value as i128);
    f32 => |value| Value::Float(value.into());
    f64 => |value| Value::Float(value);
    &str => |text| Value::Text(text.to_owned());
    String => |text| Value::Text(text);
    &[u8] => |bytes| Value::Bytes(bytes.to_vec());
    Vec<u8> => |bytes| Value::Bytes(bytes);
    Vec<Value> => |items| Value::Array(items);
    Map => |map| Value::Map(map);
    ObjectId => |object| Value::Ref(object);
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => match (u64::try_from(*value), i64::try_from(*value)) {
                (Ok(value), _) => serializer.serialize_u64(value),
                (_, Ok(value)) => serializer.serialize_i64(value),
                _ => serializer.serialize_i128(*value),
            },
            Value::Float(value) => serializer.serialize_f64(*value),
            Value::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Array(items) => serializer.collect_seq(items),
            Value::Map(map) => map.serialize(serializer),
            Value::Ref(object) => object.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Value, D::Error> {
        Value::deserialize(value)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Value, E> {
        Ok(bytes.into())
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Value, E> {
        Ok(Value::Bytes(bytes))
    }

    /// Only a reference looks like this where the format decides what comes.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, id: D) -> Result<Value, D::Error> {
        u64::deserialize(id).map(|id| Value::Ref(ObjectId(id)))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, value)) = access.next_entry::<String, Value>()? {
            map.insert(key, value);
        }
        Ok(Value::Map(map))
    }
}

/// Values by name, each name once, in canonical order: shorter names first, then bytewise.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Map(Vec<(String, Value)>);

impl Map {
    /// The empty map.
    pub const fn new() -> Self {
        Map(Vec::new())
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.find(key).ok().map(|index| &self.0[index].1)
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Value> {
        self.find(key).ok().map(|index| &mut self.0[index].1)
    }

    /// Sets the value of a key and returns the one it had.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) -> Option<Value> {
        let (key, value) = (key.into(), value.into());
        match self.find(&key) {
            Ok(index) => Some(std::mem::replace(&mut self.0[index].1, value)),
            Err(index) => {
                self.0.insert(index, (key, value));
                None
            }
        }
    }

    /// Removes a key and returns its value.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        self.find(key).ok().map(|index| self.0.remove(index).1)
    }

    /// The entries in canonical order.
    pub fn iter(&self) -> MapIter<'_> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        // Maps are mostly built in order, so the place after the last entry is tried first.
        match self.0.last() {
            Some((last, _)) if key_order(last, key).is_lt() => Err(self.0.len()),
            _ => self.0.binary_search_by(|(candidate, _)| key_order(candidate, key)),
        }
    }
}

/// The entries of a [`Map`], borrowed.
type MapIter<'a> =
    std::iter::Map<std::slice::Iter<'a, (String, Value)>, fn(&'a (String, Value)) -> (&'a str, &'a Value)>;

impl<'a> IntoIterator for &'a Map {
    type Item = (&'a str, &'a Value);
    type IntoIter = MapIter<'a>;

    fn into_iter(self) -> MapIter<'a> {
        self.iter()
    }
}

impl IntoIterator for Map {
    type Item = (String, Value);
    type IntoIter = std::vec::IntoIter<(String, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Of entries with the same key the last one stays.
impl<K: Into<String>, V: Into<Value>> Extend<(K, V)> for Map {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

/// Of entries with the same key the last one stays.
impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Map::new();
        map.extend(entries);
        map
    }
}

impl Serialize for Map {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (key, value) in self {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Map {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Map(map) => Ok(map),
            other => Err(de::Error::custom(format_args!("expected map, found {other:?}"))),
        }
    }
}
