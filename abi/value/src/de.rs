//! From the encoding to types with serde.

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor},
    forward_to_deserialize_any,
};

use crate::{
    DecodeError, Value,
    raw::{KeyOrder, Kind, Reader},
    ser::to_vec,
    value::REFERENCE_NAME,
};

/// Reads a value of any type with serde from its encoding.
///
/// A float may be read from an integer, but never an integer from a float. A struct is read from a map only.
///
/// # Errors
///
/// [`DecodeError`]: the bytes are not one whole deterministic item, or do not fit the type.
#[inline]
pub fn from_slice<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, DecodeError> {
    let mut decoder = Decoder { reader: Reader::new(bytes), depth: 0 };
    let value = T::deserialize(&mut decoder)?;
    decoder.reader.finish()?;
    Ok(value)
}

/// Turns a [`Value`] into any type with serde.
///
/// # Errors
///
/// [`DecodeError`], if the value does not fit the type or has no encoding.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, DecodeError> {
    let bytes = to_vec(&value).map_err(<DecodeError as de::Error>::custom)?;
    from_slice(&bytes)
}

/// Reads items as serde asks for them.
pub(crate) struct Decoder<'de> {
    pub(crate) reader: Reader<'de>,
    /// How many arrays and maps are open.
    pub(crate) depth: usize,
}

impl<'de> Decoder<'de> {
    /// Reads an array with `visit`, which has to take every item.
    #[inline]
    fn array<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, DecodeError> {
        let (before, depth) = (self.reader.clone(), self.reader.deeper(self.depth)?);
        let left = self.reader.array()?;
        let outside = std::mem::replace(&mut self.depth, depth);
        let mut items = Items { decoder: self, left };
        let value = visitor.visit_seq(&mut items)?;
        if items.left != 0 {
            return Err(before.unexpected("fewer items"));
        }
        self.depth = outside;
        Ok(value)
    }

    #[inline]
    fn map<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, DecodeError> {
        let (before, depth) = (self.reader.clone(), self.reader.deeper(self.depth)?);
        let left = self.reader.map()?;
        let outside = std::mem::replace(&mut self.depth, depth);
        let mut entries = Entries { decoder: self, left, order: KeyOrder::default() };
        let value = visitor.visit_map(&mut entries)?;
        if entries.left != 0 {
            return Err(before.unexpected("fewer entries"));
        }
        self.depth = outside;
        Ok(value)
    }

    #[inline]
    fn integer<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.reader.int_parts()? {
            (false, value) => visitor.visit_u64(value),
            (true, argument) => match i64::try_from(argument) {
                Ok(argument) => visitor.visit_i64(-1 - argument),
                Err(_) => visitor.visit_i128(-1 - i128::from(argument)),
            },
        }
    }
}

macro_rules! integers {
    ($($method:ident)*) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            self.integer(visitor)
        })*
    };
}

macro_rules! the_same_as {
    ($same:ident: $($method:ident($($type:ty),*))*) => {
        $(#[inline]
        fn $method<V: Visitor<'de>>(self $(, _: $type)*, visitor: V) -> Result<V::Value, DecodeError> {
            self.$same(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for &mut Decoder<'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.reader.peek()? {
            Kind::Null => self.deserialize_unit(visitor),
            Kind::Bool => self.deserialize_bool(visitor),
            Kind::Int => self.integer(visitor),
            Kind::Float => visitor.visit_f64(self.reader.float()?),
            Kind::Bytes => self.deserialize_bytes(visitor),
            Kind::Text => self.deserialize_str(visitor),
            Kind::Array => self.array(visitor),
            Kind::Map => self.map(visitor),
            Kind::Reference => visitor.visit_newtype_struct(self.reader.reference()?.0.into_deserializer()),
        }
    }

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_i128(self.reader.int()?)
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.integer(visitor)
    }

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_bool(self.reader.bool()?)
    }

    #[inline]
    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.reader.peek()? {
            Kind::Int => visitor.visit_f64(self.reader.int()? as f64),
            _ => visitor.visit_f64(self.reader.float()?),
        }
    }

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_borrowed_str(self.reader.text()?)
    }

    #[inline]
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_borrowed_bytes(self.reader.bytes()?)
    }

    the_same_as! { deserialize_f64: deserialize_f32() }
    the_same_as! { deserialize_str: deserialize_char() deserialize_string() deserialize_identifier() }
    the_same_as! { deserialize_bytes: deserialize_byte_buf() }
    the_same_as! { deserialize_unit: deserialize_unit_struct(&'static str) }
    the_same_as! { array: deserialize_seq() deserialize_tuple(usize) deserialize_tuple_struct(&'static str, usize) }
    the_same_as! { map: deserialize_map() deserialize_struct(&'static str, &'static [&'static str]) }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.reader.null()? { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.reader.null()? { visitor.visit_unit() } else { Err(self.reader.unexpected("null")) }
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if name != REFERENCE_NAME {
            return visitor.visit_newtype_struct(self);
        }
        match self.reader.peek()? {
            Kind::Reference => visitor.visit_u64(self.reader.reference()?.0),
            _ => Err(self.reader.unexpected("reference")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self.reader.peek()? {
            Kind::Text => {
                let variant: de::value::BorrowedStrDeserializer<'de, DecodeError> =
                    de::value::BorrowedStrDeserializer::new(self.reader.text()?);
                visitor.visit_enum(variant)
            }
            Kind::Map => {
                let (before, depth) = (self.reader.clone(), self.reader.deeper(self.depth)?);
                if self.reader.map()? != 1 {
                    return Err(before.unexpected("a variant's name, or a map with it as the only key"));
                }
                let outside = std::mem::replace(&mut self.depth, depth);
                let value = visitor.visit_enum(Variant { decoder: self })?;
                self.depth = outside;
                Ok(value)
            }
            _ => Err(self.reader.unexpected("a variant's name, or a map with it as the only key")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.reader.item_at(self.depth)?;
        visitor.visit_unit()
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}

/// The items of an array.
struct Items<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    left: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_, 'de> {
    type Error = DecodeError;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.decoder).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// The entries of a map.
struct Entries<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
    left: usize,
    order: KeyOrder<'de>,
}

impl<'de> de::MapAccess<'de> for Entries<'_, 'de> {
    type Error = DecodeError;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let key = self.order.next(&mut self.decoder.reader)?;
        seed.deserialize(Key(key)).map(Some)
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        seed.deserialize(&mut *self.decoder)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// The one entry of the map that stands for an enum variant with content.
struct Variant<'a, 'de> {
    decoder: &'a mut Decoder<'de>,
}

impl<'de> de::EnumAccess<'de> for Variant<'_, 'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), DecodeError> {
        let name = self.decoder.reader.text()?;
        Ok((seed.deserialize(Key(name))?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_, 'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        Deserialize::deserialize(self.decoder)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DecodeError> {
        seed.deserialize(self.decoder)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.decoder.array(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, DecodeError> {
        self.decoder.map(visitor)
    }
}

/// A map key: a text, which may have been an integer, a boolean or a unit variant when it was written.
struct Key<'de>(&'de str);

macro_rules! parsed {
    ($($method:ident => $visit:ident, $what:literal;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            match self.0.parse() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(de::Error::custom(format_args!("expected {} as a key, found {:?}", $what, self.0))),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Key<'de> {
    type Error = DecodeError;

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_borrowed_str(self.0)
    }

    parsed! {
        deserialize_bool => visit_bool, "a boolean";
        deserialize_i8 => visit_i8, "an integer (i8)";
        deserialize_i16 => visit_i16, "an integer (i16)";
        deserialize_i32 => visit_i32, "an integer (i32)";
        deserialize_i64 => visit_i64, "an integer (i64)";
        deserialize_i128 => visit_i128, "an integer (i128)";
        deserialize_u8 => visit_u8, "an integer (u8)";
        deserialize_u16 => visit_u16, "an integer (u16)";
        deserialize_u32 => visit_u32, "an integer (u32)";
        deserialize_u64 => visit_u64, "an integer (u64)";
        deserialize_u128 => visit_u128, "an integer (u128)";
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        let variant: de::value::BorrowedStrDeserializer<'de, DecodeError> =
            de::value::BorrowedStrDeserializer::new(self.0);
        visitor.visit_enum(variant)
    }

    forward_to_deserialize_any! {
        f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}
