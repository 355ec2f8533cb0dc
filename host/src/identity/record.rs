//! Objects, as the history and the object table keep them.

use std::sync::Arc;

use serde::de::Error as _;
use theseus_value::{
    DecodeError, ObjectId,
    raw::{Kind, Reader, Writer},
};

use super::small::Bytes;

/// What an object is made of.
#[derive(Clone, PartialEq, Debug)]
pub struct ObjectRecord {
    /// The name of its behaviour, `plugin.Type`.
    pub behavior: Arc<str>,
    /// The version of its slots.
    pub schema: u32,
    /// The objects to which it delegates, all of equal rank.
    pub parents: Box<[ObjectId]>,
    /// Its own slots: an encoded map.
    pub slots: Bytes,
}

impl ObjectRecord {
    /// Appends the record: `[behavior, schema, [parent...], {slot...}]`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.array(4);
        writer.text(&self.behavior);
        writer.uint(u64::from(self.schema));
        writer.array(self.parents.len());
        for parent in &self.parents {
            writer.uint(parent.0);
        }
        writer.raw(&self.slots);
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    ///
    /// If the next item is something else.
    pub fn decode(reader: &mut Reader<'_>) -> Result<ObjectRecord, DecodeError> {
        expect_array(reader, 4)?;
        let behavior = Arc::from(reader.text()?);
        let schema = small(reader.uint()?)?;
        let count = reader.array()?;
        let parents = (0..count).map(|_| reader.uint().map(ObjectId)).collect::<Result<_, _>>()?;
        let slots = reader.item()?.into();
        Ok(ObjectRecord { behavior, schema, parents, slots })
    }

    /// Hands every object on that this one refers to: its parents, and references anywhere in its slots.
    ///
    /// # Errors
    ///
    /// As [`each_reference`] has them.
    pub fn each_reference(&self, found: &mut dyn FnMut(ObjectId)) -> Result<(), DecodeError> {
        self.parents.iter().for_each(|parent| found(*parent));
        each_reference(&self.slots, found)
    }

    /// Reads over a record; answers its behaviour and its schema version.
    pub(super) fn skip<'a>(reader: &mut Reader<'a>) -> Result<(&'a str, u32), DecodeError> {
        let kind = ObjectRecord::kind(reader)?;
        for _ in 0..reader.array()? {
            reader.uint()?;
        }
        reader.item()?;
        Ok(kind)
    }

    /// Reads the behaviour and the schema version, with which a record begins.
    pub(super) fn kind<'a>(reader: &mut Reader<'a>) -> Result<(&'a str, u32), DecodeError> {
        expect_array(reader, 4)?;
        Ok((reader.text()?, small(reader.uint()?)?))
    }
}

pub(super) fn expect_array(reader: &mut Reader<'_>, expected: usize) -> Result<(), DecodeError> {
    let length = reader.array()?;
    if length == expected {
        Ok(())
    } else {
        Err(DecodeError::custom(format!("an array of {length} items where one of {expected} belongs")))
    }
}

pub(super) fn small(number: u64) -> Result<u32, DecodeError> {
    u32::try_from(number).map_err(|_| DecodeError::custom(format!("{number} does not fit 32 bits")))
}

/// Hands every reference on that is anywhere within an encoded value.
///
/// # Errors
///
/// If there may be references, and the value cannot be read.
pub fn each_reference(encoded: &[u8], found: &mut dyn FnMut(ObjectId)) -> Result<(), DecodeError> {
    /// How a reference begins (RFC 8949, section 3: a tag in the next byte); other things may have it within them.
    const HEAD: u8 = 0xd8;

    // Most values have none, and then there is nothing to take apart.
    if encoded.contains(&HEAD) { references(&mut Reader::new(encoded), found) } else { Ok(()) }
}

/// Reads over an item, and hands every reference in it on.
fn references(reader: &mut Reader<'_>, found: &mut dyn FnMut(ObjectId)) -> Result<(), DecodeError> {
    // Items were checked when they came from outside: they nest as deep as a value may, and no deeper.
    match reader.peek()? {
        Kind::Reference => found(reader.reference()?),
        Kind::Array => {
            for _ in 0..reader.array()? {
                references(reader, found)?;
            }
        }
        Kind::Map => {
            for _ in 0..reader.map()? {
                reader.text()?;
                references(reader, found)?;
            }
        }
        _ => _ = reader.item()?,
    }
    Ok(())
}
