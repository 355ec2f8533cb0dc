//! From types with serde to the encoding.

use std::ops::Range;

use serde::{
    Serialize, Serializer,
    ser::{self, Impossible},
};

use crate::{
    DEPTH_MAX, EncodeError, Value,
    raw::{ARRAY, Buffer, MAP, REFERENCE, Reader, TAG, Writer, adjust_head, shorten},
    value::REFERENCE_NAME,
};

/// The encoding of a value of any type with serde.
///
/// # Errors
///
/// [`EncodeError`], if the value has no place in the model: keys that are no text, integers out of range.
pub fn to_vec<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    to_writer(value, &mut out)?;
    Ok(out)
}

/// Appends the encoding of a value to a buffer, which is left as it was if that fails.
///
/// # Errors
///
/// As [`to_vec`].
#[inline]
pub fn to_writer<T: Serialize + ?Sized, B: Buffer + ?Sized>(value: &T, out: &mut B) -> Result<(), EncodeError> {
    let start = out.len();
    let written = value.serialize(Encoder { out, depth: 0 });
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// Turns a value of any type with serde into a [`Value`].
///
/// # Errors
///
/// As [`to_vec`].
pub fn to_value<T: Serialize + ?Sized>(value: &T) -> Result<Value, EncodeError> {
    let bytes = to_vec(value)?;
    Ok(Value::decode(&bytes).expect("what the encoder writes is deterministic"))
}

/// The depth inside an array or map that is about to be written.
#[inline]
pub(crate) fn nested(depth: usize) -> Result<usize, EncodeError> {
    if depth < DEPTH_MAX { Ok(depth + 1) } else { Err(EncodeError::TooDeep) }
}

/// Writes one item, within `depth` arrays and maps.
struct Encoder<'a, B: Buffer + ?Sized> {
    out: &'a mut B,
    depth: usize,
}

impl<'a, B: Buffer + ?Sized> Encoder<'a, B> {
    #[inline]
    fn writer(self) -> Writer<'a, B> {
        Writer::new(self.out)
    }

    /// Opens the map with one entry that stands for an enum variant with content.
    #[inline]
    fn variant(self, variant: &str) -> Result<Self, EncodeError> {
        let depth = nested(self.depth)?;
        let mut writer = Writer::new(&mut *self.out);
        writer.map(1);
        writer.text(variant);
        Ok(Encoder { out: self.out, depth })
    }

    #[inline]
    fn items(self, announced: usize) -> Result<Items<'a, B>, EncodeError> {
        let depth = nested(self.depth)?;
        let start = self.out.len();
        Writer::new(&mut *self.out).array(announced);
        Ok(Items { out: self.out, depth, start, announced, written: 0 })
    }

    #[inline]
    fn entries(self, announced: usize) -> Result<Entries<'a, B>, EncodeError> {
        let depth = nested(self.depth)?;
        let start = self.out.len();
        Writer::new(&mut *self.out).map(announced);
        let first = [Entry::default(); FEW];
        Ok(Entries { out: self.out, depth, start, announced, written: 0, first, previous: 0..0, sorted: true })
    }
}

macro_rules! write_as {
    ($($method:ident($type:ty) => |$writer:ident, $value:ident| $body:expr;)*) => {
        $(#[inline]
        fn $method(self, $value: $type) -> Result<(), EncodeError> {
            let mut $writer = self.writer();
            $body
        })*
    };
}

impl<'a, B: Buffer + ?Sized> Serializer for Encoder<'a, B> {
    type Ok = ();
    type Error = EncodeError;
    type SerializeSeq = Items<'a, B>;
    type SerializeTuple = Items<'a, B>;
    type SerializeTupleStruct = Items<'a, B>;
    type SerializeTupleVariant = Items<'a, B>;
    type SerializeMap = Entries<'a, B>;
    type SerializeStruct = Entries<'a, B>;
    type SerializeStructVariant = Entries<'a, B>;

    write_as! {
        serialize_bool(bool) => |writer, value| { writer.bool(value); Ok(()) };
        serialize_i8(i8) => |writer, value| { writer.i64(value.into()); Ok(()) };
        serialize_i16(i16) => |writer, value| { writer.i64(value.into()); Ok(()) };
        serialize_i32(i32) => |writer, value| { writer.i64(value.into()); Ok(()) };
        serialize_i64(i64) => |writer, value| { writer.i64(value); Ok(()) };
        serialize_i128(i128) => |writer, value| writer.int(value);
        serialize_u8(u8) => |writer, value| { writer.uint(value.into()); Ok(()) };
        serialize_u16(u16) => |writer, value| { writer.uint(value.into()); Ok(()) };
        serialize_u32(u32) => |writer, value| { writer.uint(value.into()); Ok(()) };
        serialize_u64(u64) => |writer, value| { writer.uint(value); Ok(()) };
        serialize_f32(f32) => |writer, value| { writer.float(value.into()); Ok(()) };
        serialize_f64(f64) => |writer, value| { writer.float(value); Ok(()) };
        serialize_char(char) => |writer, value| { writer.text(value.encode_utf8(&mut [0; 4])); Ok(()) };
        serialize_str(&str) => |writer, value| { writer.text(value); Ok(()) };
        serialize_bytes(&[u8]) => |writer, value| { writer.bytes(value); Ok(()) };
        serialize_unit_struct(&'static str) => |writer, _name| { writer.null(); Ok(()) };
    }

    fn serialize_u128(self, value: u128) -> Result<(), EncodeError> {
        let value = i128::try_from(value).map_err(|_| EncodeError::IntegerRange { value: value.to_string() })?;
        self.writer().int(value)
    }

    #[inline]
    fn serialize_none(self) -> Result<(), EncodeError> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), EncodeError> {
        value.serialize(self)
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), EncodeError> {
        self.writer().null();
        Ok(())
    }

    #[inline]
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), EncodeError> {
        self.serialize_str(variant)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<(), EncodeError> {
        if name == REFERENCE_NAME {
            // Tag 39 needs two bytes of head; the number that ObjectId serializes follows by itself.
            self.out.extend(&[TAG << 5 | 24, REFERENCE as u8]);
        }
        value.serialize(self)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        value.serialize(self.variant(variant)?)
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Items<'a, B>, EncodeError> {
        self.items(len.unwrap_or(0))
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Items<'a, B>, EncodeError> {
        self.items(len)
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Items<'a, B>, EncodeError> {
        self.items(len)
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Items<'a, B>, EncodeError> {
        self.variant(variant)?.items(len)
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Entries<'a, B>, EncodeError> {
        self.entries(len.unwrap_or(0))
    }

    #[inline]
    fn serialize_struct(self, _: &'static str, len: usize) -> Result<Entries<'a, B>, EncodeError> {
        self.entries(len)
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Entries<'a, B>, EncodeError> {
        self.variant(variant)?.entries(len)
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}

/// Writes the items of an array.
struct Items<'a, B: Buffer + ?Sized> {
    out: &'a mut B,
    depth: usize,
    start: usize,
    announced: usize,
    written: usize,
}

impl<B: Buffer + ?Sized> Items<'_, B> {
    #[inline]
    fn item<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), EncodeError> {
        self.written += 1;
        item.serialize(Encoder { out: &mut *self.out, depth: self.depth })
    }

    #[inline]
    fn close(self) -> Result<(), EncodeError> {
        if self.written != self.announced {
            adjust_head(self.out, self.start, ARRAY, self.announced, self.written);
        }
        Ok(())
    }
}

macro_rules! items {
    ($($trait:ident::$method:ident)*) => {
        $(impl<B: Buffer + ?Sized> ser::$trait for Items<'_, B> {
            type Ok = ();
            type Error = EncodeError;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), EncodeError> {
                self.item(item)
            }

            #[inline]
            fn end(self) -> Result<(), EncodeError> {
                self.close()
            }
        })*
    };
}

items! {
    SerializeSeq::serialize_element
    SerializeTuple::serialize_element
    SerializeTupleStruct::serialize_field
    SerializeTupleVariant::serialize_field
}

/// Writes the entries of a map as they come, and sorts them at the end if they came out of order.
struct Entries<'a, B: Buffer + ?Sized> {
    out: &'a mut B,
    depth: usize,
    /// Where the head is, and for how many entries it was written.
    start: usize,
    announced: usize,
    written: usize,
    /// Where the first entries are. Structs have few fields, so this is mostly all of them.
    first: [Entry; FEW],
    /// The encoded key before.
    previous: Range<usize>,
    sorted: bool,
}

/// How many entries are sorted without being searched for again.
const FEW: usize = 12;

/// Where an entry begins, its key ends, and the entry ends.
#[derive(Clone, Copy, Default)]
struct Entry {
    start: usize,
    key_end: usize,
    end: usize,
}

impl<B: Buffer + ?Sized> Entries<'_, B> {
    /// Takes note of the key that was just written from `start` on.
    #[inline]
    fn key_written(&mut self, start: usize) {
        let key_end = self.out.len();
        let bytes = self.out.bytes();
        self.sorted &= bytes[self.previous.clone()] < bytes[start..key_end];
        self.previous = start..key_end;
        if let Some(entry) = self.first.get_mut(self.written) {
            *entry = Entry { start, key_end, end: 0 };
        }
        self.written += 1;
    }

    #[inline]
    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        value.serialize(Encoder { out: &mut *self.out, depth: self.depth })
    }

    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), EncodeError> {
        let start = self.out.len();
        Writer::new(&mut *self.out).text(name);
        self.key_written(start);
        self.value(value)
    }

    #[inline]
    fn close(mut self) -> Result<(), EncodeError> {
        if !self.sorted {
            match self.first.get_mut(..self.written) {
                Some(entries) => {
                    for next in 1..entries.len() {
                        entries[next - 1].end = entries[next].start;
                    }
                    entries[self.written - 1].end = self.out.len();
                    sort_entries(self.out, entries)?;
                }
                None => sort_entries(self.out, &mut find_entries(self.out, self.first[0].start, self.written))?,
            }
        }
        if self.written != self.announced {
            adjust_head(self.out, self.start, MAP, self.announced, self.written);
        }
        Ok(())
    }
}

/// The entries that take the end of the buffer from `first` on.
fn find_entries<B: Buffer + ?Sized>(out: &B, first: usize, count: usize) -> Vec<Entry> {
    let mut reader = Reader::new(&out.bytes()[first..]);
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let start = first + reader.position();
        reader.text().expect("a key was written here");
        let key_end = first + reader.position();
        reader.item().expect("a value was written here");
        entries.push(Entry { start, key_end, end: first + reader.position() });
    }
    entries
}

/// Sorts entries that take the end of the buffer.
fn sort_entries<B: Buffer + ?Sized>(out: &mut B, entries: &mut [Entry]) -> Result<(), EncodeError> {
    let (first, end) = (entries[0].start, out.len());
    // Copies are appended in the right order and then moved to where the entries were.
    out.extend_zeroed(end - first);
    let (written, mut copies) = out.bytes_mut().split_at_mut(end);
    entries.sort_unstable_by(|a, b| written[a.start..a.key_end].cmp(&written[b.start..b.key_end]));
    let mut previous: &[u8] = &[];
    for entry in entries {
        let (copy, rest) = copies.split_at_mut(entry.end - entry.start);
        copy.copy_from_slice(&written[entry.start..entry.end]);
        let key = &written[entry.start..entry.key_end];
        if previous == key {
            let key = Reader::new(key).text().expect("a key was written here");
            return Err(EncodeError::DuplicateKey { key: shorten(key) });
        }
        (previous, copies) = (key, rest);
    }
    out.bytes_mut().copy_within(end.., first);
    out.truncate(end);
    Ok(())
}

impl<B: Buffer + ?Sized> ser::SerializeMap for Entries<'_, B> {
    type Ok = ();
    type Error = EncodeError;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), EncodeError> {
        let start = self.out.len();
        key.serialize(KeyEncoder(&mut *self.out))?;
        self.key_written(start);
        Ok(())
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        self.value(value)
    }

    #[inline]
    fn end(self) -> Result<(), EncodeError> {
        self.close()
    }
}

macro_rules! fields {
    ($($trait:ident)*) => {
        $(impl<B: Buffer + ?Sized> ser::$trait for Entries<'_, B> {
            type Ok = ();
            type Error = EncodeError;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), EncodeError> {
                self.field(name, value)
            }

            #[inline]
            fn end(self) -> Result<(), EncodeError> {
                self.close()
            }
        })*
    };
}

fields! { SerializeStruct SerializeStructVariant }

/// Writes a map key: a text, or what has a text form.
struct KeyEncoder<'a, B: Buffer + ?Sized>(&'a mut B);

impl<B: Buffer + ?Sized> KeyEncoder<'_, B> {
    #[inline]
    fn text(self, text: &str) -> Result<(), EncodeError> {
        Writer::new(self.0).text(text);
        Ok(())
    }
}

macro_rules! key_as_text {
    ($($method:ident($type:ty))*) => {
        $(fn $method(self, value: $type) -> Result<(), EncodeError> {
            self.text(&value.to_string())
        })*
    };
}

macro_rules! no_key {
    ($found:literal: $($method:ident($($type:ty),*) -> $ok:ty;)*) => {
        $(fn $method(self $(, _: $type)*) -> Result<$ok, EncodeError> {
            Err(EncodeError::KeyNotText { found: $found })
        })*
    };
}

type NoKey = Impossible<(), EncodeError>;

impl<B: Buffer + ?Sized> Serializer for KeyEncoder<'_, B> {
    type Ok = ();
    type Error = EncodeError;
    type SerializeSeq = NoKey;
    type SerializeTuple = NoKey;
    type SerializeTupleStruct = NoKey;
    type SerializeTupleVariant = NoKey;
    type SerializeMap = NoKey;
    type SerializeStruct = NoKey;
    type SerializeStructVariant = NoKey;

    key_as_text! {
        serialize_bool(bool)
        serialize_i8(i8) serialize_i16(i16) serialize_i32(i32) serialize_i64(i64) serialize_i128(i128)
        serialize_u8(u8) serialize_u16(u16) serialize_u32(u32) serialize_u64(u64) serialize_u128(u128)
        serialize_char(char)
    }

    #[inline]
    fn serialize_str(self, text: &str) -> Result<(), EncodeError> {
        self.text(text)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), EncodeError> {
        self.text(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, key: &T) -> Result<(), EncodeError> {
        key.serialize(self)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, key: &T) -> Result<(), EncodeError> {
        key.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), EncodeError> {
        Err(EncodeError::KeyNotText { found: "a variant with content" })
    }

    no_key! { "a float":
        serialize_f32(f32) -> ();
        serialize_f64(f64) -> ();
    }
    no_key! { "null":
        serialize_none() -> ();
        serialize_unit() -> ();
        serialize_unit_struct(&'static str) -> ();
    }
    no_key! { "bytes":
        serialize_bytes(&[u8]) -> ();
    }
    no_key! { "an array":
        serialize_seq(Option<usize>) -> NoKey;
        serialize_tuple(usize) -> NoKey;
        serialize_tuple_struct(&'static str, usize) -> NoKey;
    }
    no_key! { "a map":
        serialize_map(Option<usize>) -> NoKey;
        serialize_struct(&'static str, usize) -> NoKey;
    }
    no_key! { "a variant with content":
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> NoKey;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> NoKey;
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}
