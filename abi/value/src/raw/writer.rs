//! Appending encoded items to a buffer.

use super::*;
use crate::{
    EncodeError, ObjectId,
    number::{Shortest, shortest},
};

/// A growable run of bytes that encoded items are appended to.
pub trait Buffer {
    /// How many bytes there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends bytes.
    fn extend(&mut self, bytes: &[u8]);

    /// Appends so many zero bytes.
    fn extend_zeroed(&mut self, len: usize);

    /// Appends one byte.
    fn push(&mut self, byte: u8) {
        self.extend(&[byte]);
    }

    /// Drops all but the first `len` bytes.
    fn truncate(&mut self, len: usize);

    /// The bytes.
    fn bytes(&self) -> &[u8];

    /// The bytes, to be changed in place.
    fn bytes_mut(&mut self) -> &mut [u8];
}

impl Buffer for Vec<u8> {
    #[inline]
    fn len(&self) -> usize {
        Vec::len(self)
    }

    #[inline]
    fn extend(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    #[inline]
    fn extend_zeroed(&mut self, len: usize) {
        self.resize(Vec::len(self) + len, 0);
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        Vec::push(self, byte);
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        Vec::truncate(self, len);
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// Appends items to a buffer, each in its one deterministic form.
///
/// The writer takes lengths on trust: after `array(3)` three items have to follow, after `map(2)` two pairs whose keys
/// ascend in canonical order (shorter first, then bytewise). [`validate`] finds what was done wrong.
pub struct Writer<'a, B: Buffer + ?Sized = Vec<u8>>(&'a mut B);

impl<'a, B: Buffer + ?Sized> Writer<'a, B> {
    /// A writer that appends to `out`.
    #[inline]
    pub fn new(out: &'a mut B) -> Self {
        Writer(out)
    }

    /// The buffer behind the writer.
    #[inline]
    pub fn buffer(&mut self) -> &mut B {
        self.0
    }

    /// An integer that is not negative.
    #[inline]
    pub fn uint(&mut self, value: u64) {
        self.head(UNSIGNED, value);
    }

    /// An integer of 64 bits, which always has a place.
    #[inline]
    pub fn i64(&mut self, value: i64) {
        // For a negative number the argument is -1 - value, which is the complement of its bits.
        if value < 0 { self.head(NEGATIVE, !value as u64) } else { self.head(UNSIGNED, value as u64) }
    }

    /// An integer.
    ///
    /// # Errors
    ///
    /// [`EncodeError::IntegerRange`] below -2^64 and above 2^64-1.
    #[inline]
    pub fn int(&mut self, value: i128) -> Result<(), EncodeError> {
        let (major, argument) =
            int_argument(value).ok_or_else(|| EncodeError::IntegerRange { value: value.to_string() })?;
        self.head(major, argument);
        Ok(())
    }

    /// A text.
    #[inline]
    pub fn text(&mut self, text: &str) {
        self.head(TEXT, text.len() as u64);
        self.0.extend(text.as_bytes());
    }

    /// A byte string.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.head(BYTES, bytes.len() as u64);
        self.0.extend(bytes);
    }

    /// The head of an array of `len` items.
    #[inline]
    pub fn array(&mut self, len: usize) {
        self.head(ARRAY, len as u64);
    }

    /// The head of a map of `len` pairs.
    #[inline]
    pub fn map(&mut self, len: usize) {
        self.head(MAP, len as u64);
    }

    /// Begins a map whose length is not known yet; [`close_map`](Self::close_map) takes what this returns.
    #[inline]
    pub fn open_map(&mut self) -> usize {
        let start = self.0.len();
        self.map(0);
        start
    }

    /// Ends a map of `len` pairs.
    #[inline]
    pub fn close_map(&mut self, start: usize, len: usize) {
        adjust_head(&mut *self.0, start, MAP, 0, len);
    }

    /// Null.
    #[inline]
    pub fn null(&mut self) {
        self.0.push(NULL);
    }

    /// A boolean.
    #[inline]
    pub fn bool(&mut self, value: bool) {
        self.0.push(if value { TRUE } else { FALSE });
    }

    /// A float, in the shortest form that keeps its value.
    #[inline]
    pub fn float(&mut self, value: f64) {
        match shortest(value) {
            Shortest::Half(bits) => self.with_argument::<2, 3>(HALF, bits.to_be_bytes()),
            Shortest::Single(bits) => self.with_argument::<4, 5>(SINGLE, bits.to_be_bytes()),
            Shortest::Double(bits) => self.with_argument::<8, 9>(DOUBLE, bits.to_be_bytes()),
        }
    }

    /// A reference to an object.
    #[inline]
    pub fn reference(&mut self, object: ObjectId) {
        self.head(TAG, REFERENCE);
        self.head(UNSIGNED, object.0);
    }

    /// An item that is encoded already.
    #[inline]
    pub fn raw(&mut self, item: &[u8]) {
        self.0.extend(item);
    }

    /// A head in its shortest form.
    #[inline]
    fn head(&mut self, major: u8, argument: u64) {
        let major = major << 5;
        match argument {
            0..24 => self.0.push(major | argument as u8),
            24..0x100 => self.0.extend(&[major | 24, argument as u8]),
            0x100..0x1_0000 => self.with_argument::<2, 3>(major | 25, (argument as u16).to_be_bytes()),
            0x1_0000..0x1_0000_0000 => self.with_argument::<4, 5>(major | 26, (argument as u32).to_be_bytes()),
            _ => self.with_argument::<8, 9>(major | 27, argument.to_be_bytes()),
        }
    }

    /// The first byte and `N` more, `LEN` in all. Sizes known to the compiler make this a few plain stores.
    #[inline]
    fn with_argument<const N: usize, const LEN: usize>(&mut self, first: u8, argument: [u8; N]) {
        let mut bytes = [first; LEN];
        bytes[1..].copy_from_slice(&argument);
        self.0.extend(&bytes);
    }
}

/// An integer as major type and argument; none if it is out of range.
#[inline]
fn int_argument(value: i128) -> Option<(u8, u64)> {
    match u64::try_from(value) {
        Ok(argument) => Some((UNSIGNED, argument)),
        Err(_) => u64::try_from(-1 - value).ok().map(|argument| (NEGATIVE, argument)),
    }
}

/// Replaces the head at `start`, which was written for `announced` items, by one for `actual` items.
pub(crate) fn adjust_head<B: Buffer + ?Sized>(out: &mut B, start: usize, major: u8, announced: usize, actual: usize) {
    let (old, new) = (head_len(announced as u64), head_len(actual as u64));
    if old != new {
        let end = out.len();
        out.extend_zeroed(new.saturating_sub(old));
        out.bytes_mut().copy_within(start + old..end, start + new);
        out.truncate(end + new - old);
    }
    let end = out.len();
    Writer::new(out).head(major, actual as u64);
    let (written, head) = out.bytes_mut().split_at_mut(end);
    written[start..start + new].copy_from_slice(head);
    out.truncate(end);
}

/// How long the shortest head for an argument is.
fn head_len(argument: u64) -> usize {
    match argument {
        0..24 => 1,
        24..0x100 => 2,
        0x100..0x1_0000 => 3,
        0x1_0000..0x1_0000_0000 => 5,
        _ => 9,
    }
}
