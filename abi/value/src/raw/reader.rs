//! Reading encoded items from a slice.

use serde::Deserialize;

use super::*;
use crate::{
    DEPTH_MAX, DecodeError, ObjectId,
    de::Decoder,
    number::{NAN_HALF, Shortest, half_to_f64, shortest},
};

/// What kind of item comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Null.
    Null,
    /// A boolean.
    Bool,
    /// An integer.
    Int,
    /// A float.
    Float,
    /// A byte string.
    Bytes,
    /// A text.
    Text,
    /// An array.
    Array,
    /// A map.
    Map,
    /// A reference to an object.
    Reference,
}

/// Walks over encoded items and refuses whatever is not deterministic.
///
/// Two duties stay with the caller who opens arrays and maps by hand: to read as many items as were announced, and to see that
/// the keys of a map ascend. [`item`](Self::item) and [`MapView`] do both.
#[derive(Clone, Debug)]
pub struct Reader<'de> {
    bytes: &'de [u8],
    position: usize,
}

impl<'de> Reader<'de> {
    /// A reader at the start of `bytes`.
    #[inline]
    pub fn new(bytes: &'de [u8]) -> Self {
        Reader { bytes, position: 0 }
    }

    /// How many bytes have been read.
    #[inline]
    pub fn position(&self) -> usize {
        self.position
    }

    /// Whether everything has been read.
    #[inline]
    pub fn is_at_end(&self) -> bool {
        self.position == self.bytes.len()
    }

    /// Ends the reading.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Trailing`] if something is left.
    #[inline]
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.is_at_end() { Ok(()) } else { Err(DecodeError::Trailing { position: self.position }) }
    }

    /// What comes next. Only the first byte has been looked at.
    ///
    /// # Errors
    ///
    /// At the end, and if no item begins with that byte.
    #[inline]
    pub fn peek(&self) -> Result<Kind, DecodeError> {
        let head = self.first()?;
        Ok(match (head >> 5, head) {
            (UNSIGNED | NEGATIVE, _) => Kind::Int,
            (BYTES, _) => Kind::Bytes,
            (TEXT, _) => Kind::Text,
            (ARRAY, _) => Kind::Array,
            (MAP, _) => Kind::Map,
            (TAG, _) => Kind::Reference,
            (_, NULL) => Kind::Null,
            (_, FALSE | TRUE) => Kind::Bool,
            (_, HALF | SINGLE | DOUBLE) => Kind::Float,
            _ => return Err(DecodeError::Unsupported { position: self.position, head }),
        })
    }

    /// Reads an integer that is not negative.
    ///
    /// # Errors
    ///
    /// If something else comes next. The same holds for the methods below.
    #[inline]
    pub fn uint(&mut self) -> Result<u64, DecodeError> {
        self.expect(UNSIGNED, "an integer that is not negative")
    }

    /// Reads an integer.
    #[inline]
    pub fn int(&mut self) -> Result<i128, DecodeError> {
        let (negative, argument) = self.int_parts()?;
        Ok(if negative { -1 - i128::from(argument) } else { i128::from(argument) })
    }

    /// Reads an integer as it stands: whether it is negative, and the argument of its head (-1 - n for a negative n).
    #[inline]
    pub(crate) fn int_parts(&mut self) -> Result<(bool, u64), DecodeError> {
        let major = self.first()? >> 5;
        if major > NEGATIVE {
            return Err(self.unexpected("integer"));
        }
        Ok((major == NEGATIVE, self.argument()?))
    }

    /// Reads a text.
    #[inline]
    pub fn text(&mut self) -> Result<&'de str, DecodeError> {
        let position = self.position;
        let len = self.expect(TEXT, "text")?;
        let bytes = self.take(len, position)?;
        std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8 { position })
    }

    /// Reads the text `expected` if that comes next, and says whether it did. Only texts shorter than 24 bytes are tried.
    #[inline]
    pub(crate) fn take_short_text(&mut self, expected: &str) -> bool {
        let rest = &self.bytes[self.position..];
        let len = expected.len();
        let is_next =
            len < 24 && rest.len() > len && rest[0] == TEXT << 5 | len as u8 && &rest[1..=len] == expected.as_bytes();
        if is_next {
            self.position += 1 + len;
        }
        is_next
    }

    /// Reads a byte string.
    #[inline]
    pub fn bytes(&mut self) -> Result<&'de [u8], DecodeError> {
        let position = self.position;
        let len = self.expect(BYTES, "bytes")?;
        self.take(len, position)
    }

    /// Reads the head of an array: how many items follow. So many bytes are left at least.
    #[inline]
    pub fn array(&mut self) -> Result<usize, DecodeError> {
        let position = self.position;
        let len = self.expect(ARRAY, "array")?;
        self.announced(len, 1, position)
    }

    /// Reads the head of a map: how many pairs follow. Twice so many bytes are left at least.
    #[inline]
    pub fn map(&mut self) -> Result<usize, DecodeError> {
        let position = self.position;
        let len = self.expect(MAP, "map")?;
        self.announced(len, 2, position)
    }

    /// Reads a null if one comes next, and says whether it did.
    #[inline]
    pub fn null(&mut self) -> Result<bool, DecodeError> {
        let is_null = self.first()? == NULL;
        self.position += usize::from(is_null);
        Ok(is_null)
    }

    /// Reads a boolean.
    #[inline]
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.first()? {
            head @ (FALSE | TRUE) => {
                self.position += 1;
                Ok(head == TRUE)
            }
            _ => Err(self.unexpected("boolean")),
        }
    }

    /// Reads a float. An integer is not a float here.
    #[inline]
    pub fn float(&mut self) -> Result<f64, DecodeError> {
        let position = self.position;
        let head = self.first()?;
        let (value, len) = match head {
            HALF => {
                let bits = u16::from_be_bytes(self.following()?);
                if half_to_f64(bits).is_nan() && bits != NAN_HALF {
                    return Err(DecodeError::NotShortest { position });
                }
                (half_to_f64(bits), 3)
            }
            SINGLE => (f64::from(f32::from_be_bytes(self.following()?)), 5),
            DOUBLE => (f64::from_be_bytes(self.following()?), 9),
            _ => return Err(self.unexpected("float")),
        };
        let needed = match shortest(value) {
            Shortest::Half(_) => HALF,
            Shortest::Single(_) => SINGLE,
            Shortest::Double(_) => DOUBLE,
        };
        if needed != head {
            return Err(DecodeError::NotShortest { position });
        }
        self.position += len;
        Ok(value)
    }

    /// Reads a reference to an object.
    #[inline]
    pub fn reference(&mut self) -> Result<ObjectId, DecodeError> {
        let position = self.position;
        let head = self.first()?;
        if self.expect(TAG, "reference")? != REFERENCE || self.first()? >> 5 != UNSIGNED {
            return Err(DecodeError::Unsupported { position, head });
        }
        self.argument().map(ObjectId)
    }

    /// Skips one whole item, checks every byte of it, and returns its bytes.
    #[inline]
    pub fn item(&mut self) -> Result<&'de [u8], DecodeError> {
        self.item_at(0)
    }

    /// The same within `depth` arrays and maps that are open already.
    #[inline]
    pub(crate) fn item_at(&mut self, depth: usize) -> Result<&'de [u8], DecodeError> {
        let start = self.position;
        match self.bytes.get(start) {
            Some(head) if is_whole(*head) => self.position += 1,
            _ => self.skip(depth)?,
        }
        Ok(&self.bytes[start..self.position])
    }

    /// Reads one whole item as a value of a type with serde, within `depth` arrays and maps, and returns its bytes too.
    #[inline]
    pub(crate) fn value_at<T: Deserialize<'de>>(&mut self, depth: usize) -> Result<(T, &'de [u8]), DecodeError> {
        let start = self.position;
        let mut decoder = Decoder { reader: self.clone(), depth };
        let value = T::deserialize(&mut decoder)?;
        self.position = decoder.reader.position;
        if self.position == start {
            // A type that looks at nothing takes whatever is there.
            self.skip(depth)?;
        }
        Ok((value, &self.bytes[start..self.position]))
    }

    fn skip(&mut self, depth: usize) -> Result<(), DecodeError> {
        match self.peek()? {
            Kind::Int => self.argument().map(drop),
            Kind::Text => self.text().map(drop),
            Kind::Null | Kind::Bool => {
                self.position += 1;
                Ok(())
            }
            Kind::Float => self.float().map(drop),
            Kind::Bytes => self.bytes().map(drop),
            Kind::Reference => self.reference().map(drop),
            Kind::Array => {
                let depth = self.deeper(depth)?;
                for _ in 0..self.array()? {
                    self.skip(depth)?;
                }
                Ok(())
            }
            Kind::Map => {
                let depth = self.deeper(depth)?;
                let mut order = KeyOrder::default();
                for _ in 0..self.map()? {
                    order.next(self)?;
                    self.skip(depth)?;
                }
                Ok(())
            }
        }
    }

    /// The depth inside an array or map that is about to be opened.
    #[inline]
    pub(crate) fn deeper(&self, depth: usize) -> Result<usize, DecodeError> {
        if depth < DEPTH_MAX { Ok(depth + 1) } else { Err(DecodeError::TooDeep { position: self.position }) }
    }

    /// The error that something else than `expected` comes next.
    #[cold]
    pub(crate) fn unexpected(&self, expected: &str) -> DecodeError {
        // What comes next may itself be broken, and then that is the error to report.
        match self.clone().item() {
            Ok(found) => DecodeError::Unexpected {
                position: self.position,
                expected: expected.into(),
                found: describe(found).into(),
            },
            Err(broken) => broken,
        }
    }

    #[inline]
    fn first(&self) -> Result<u8, DecodeError> {
        self.bytes.get(self.position).copied().ok_or(DecodeError::Truncated { position: self.position })
    }

    /// The `N` bytes after the first one.
    #[inline]
    fn following<const N: usize>(&self) -> Result<[u8; N], DecodeError> {
        let rest = &self.bytes[self.position + 1..];
        rest.first_chunk().copied().ok_or(DecodeError::Truncated { position: self.position })
    }

    /// Reads a head of the given major type and returns its argument.
    #[inline]
    fn expect(&mut self, major: u8, expected: &'static str) -> Result<u64, DecodeError> {
        if self.first()? >> 5 != major {
            return Err(self.unexpected(expected));
        }
        self.argument()
    }

    /// Reads a head, whatever its major type, and returns its argument.
    #[inline]
    fn argument(&mut self) -> Result<u64, DecodeError> {
        let info = self.first()? & 0x1f;
        if info < 24 {
            self.position += 1;
            return Ok(u64::from(info));
        }
        self.long_argument(info)
    }

    fn long_argument(&mut self, info: u8) -> Result<u64, DecodeError> {
        let position = self.position;
        let (argument, least, len) = match info {
            24 => (u64::from(u8::from_be_bytes(self.following()?)), 24, 2),
            25 => (u64::from(u16::from_be_bytes(self.following()?)), 1 << 8, 3),
            26 => (u64::from(u32::from_be_bytes(self.following()?)), 1 << 16, 5),
            27 => (u64::from_be_bytes(self.following()?), 1 << 32, 9),
            _ => return Err(DecodeError::Unsupported { position, head: self.bytes[position] }),
        };
        if argument < least {
            return Err(DecodeError::NotShortest { position });
        }
        self.position += len;
        Ok(argument)
    }

    #[inline]
    fn take(&mut self, len: u64, item: usize) -> Result<&'de [u8], DecodeError> {
        let rest = &self.bytes[self.position..];
        match usize::try_from(len) {
            Ok(len) if len <= rest.len() => {
                self.position += len;
                Ok(&rest[..len])
            }
            _ => Err(DecodeError::Truncated { position: item }),
        }
    }

    /// Checks an announced number of items, of so many bytes each at least, against what is left.
    #[inline]
    fn announced(&self, len: u64, bytes_each: usize, item: usize) -> Result<usize, DecodeError> {
        match usize::try_from(len) {
            Ok(len) if len <= (self.bytes.len() - self.position) / bytes_each => Ok(len),
            _ => Err(DecodeError::Truncated { position: item }),
        }
    }
}

/// Whether a byte is a whole item: a small integer, null, a boolean. Most results and many arguments are.
#[inline]
fn is_whole(head: u8) -> bool {
    const LEAST_WITH_MORE: u8 = 24;
    match head >> 5 {
        UNSIGNED | NEGATIVE => head & 0x1f < LEAST_WITH_MORE,
        _ => matches!(head, NULL | FALSE | TRUE),
    }
}

/// Checks that `bytes` are one whole deterministic item and nothing else.
///
/// # Errors
///
/// What is wrong first.
#[inline]
pub fn validate(bytes: &[u8]) -> Result<(), DecodeError> {
    match bytes {
        [head] if is_whole(*head) => Ok(()),
        _ => validate_longer(bytes),
    }
}

fn validate_longer(bytes: &[u8]) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes);
    reader.item()?;
    reader.finish()
}

/// Says in a few words what an encoded item is, for messages: `text "abc"`, `integer 12`, `map of 3`.
pub fn describe(item: &[u8]) -> String {
    let mut reader = Reader::new(item);
    let words = match reader.peek() {
        Ok(Kind::Null) => Ok("null".to_owned()),
        Ok(Kind::Bool) => reader.bool().map(|value| format!("boolean {value}")),
        Ok(Kind::Int) => reader.int().map(|value| format!("integer {value}")),
        Ok(Kind::Float) => reader.float().map(|value| format!("float {value:?}")),
        Ok(Kind::Bytes) => reader.bytes().map(|bytes| format!("{} bytes", bytes.len())),
        Ok(Kind::Text) => reader.text().map(|text| format!("text {:?}", shorten(text))),
        Ok(Kind::Array) => reader.array().map(|len| format!("array of {len}")),
        Ok(Kind::Map) => reader.map().map(|len| format!("map of {len}")),
        Ok(Kind::Reference) => reader.reference().map(|object| format!("reference to object {object}")),
        Err(error) => Err(error),
    };
    words.unwrap_or_else(|error| format!("a broken encoding ({error})"))
}
