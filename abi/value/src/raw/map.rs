//! Encoded maps in place.

use serde::Deserialize;

use super::*;
use crate::DecodeError;

/// Reads the keys of one map and refuses those that do not ascend.
#[derive(Clone, Default, Debug)]
pub(crate) struct KeyOrder<'de> {
    /// The key before. It is none at first, and no key is less than the empty one.
    previous: Option<&'de str>,
}

impl<'de> KeyOrder<'de> {
    #[inline]
    pub(crate) fn next(&mut self, reader: &mut Reader<'de>) -> Result<&'de str, DecodeError> {
        let position = reader.position();
        let key = reader.text()?;
        if self.previous.is_some_and(|previous| key_order(previous, key).is_ge()) {
            return Err(DecodeError::KeyOrder { position, key: shorten(key) });
        }
        self.previous = Some(key);
        Ok(key)
    }
}

/// The canonical order of keys: that of their encodings, so a shorter key comes first.
#[inline]
pub fn key_order(a: &str, b: &str) -> std::cmp::Ordering {
    a.len().cmp(&b.len()).then_with(|| a.as_bytes().cmp(b.as_bytes()))
}

/// At most 40 characters of a text, for messages.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// An encoded map, read in place.
///
/// Making one looks only at the head; the entries are checked as they are walked over.
#[derive(Clone, Debug)]
pub struct MapView<'de> {
    entries: Reader<'de>,
    len: usize,
}

impl<'de> MapView<'de> {
    /// A view of `bytes`.
    ///
    /// # Errors
    ///
    /// If they do not begin with the head of a map.
    #[inline]
    pub fn new(bytes: &'de [u8]) -> Result<Self, DecodeError> {
        let mut entries = Reader::new(bytes);
        let len = entries.map()?;
        Ok(MapView { entries, len })
    }

    /// How many entries there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The encoded value of a key.
    ///
    /// # Errors
    ///
    /// If an entry up to there is broken.
    pub fn get(&self, key: &str) -> Result<Option<&'de [u8]>, DecodeError> {
        for entry in self.iter() {
            let (candidate, value) = entry?;
            match key_order(candidate, key) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Ok(Some(value)),
                std::cmp::Ordering::Greater => break,
            }
        }
        Ok(None)
    }

    /// The keys with their encoded values, in canonical order.
    #[inline]
    pub fn iter(&self) -> MapIter<'de> {
        MapIter { entries: self.entries.clone(), order: KeyOrder::default(), left: self.len, ended: false }
    }
}

impl<'de> IntoIterator for &MapView<'de> {
    type Item = Result<(&'de str, &'de [u8]), DecodeError>;
    type IntoIter = MapIter<'de>;

    fn into_iter(self) -> MapIter<'de> {
        self.iter()
    }
}

/// The entries of a [`MapView`]. Ends after the first error; that something follows the map is the last one.
#[derive(Clone, Debug)]
pub struct MapIter<'de> {
    entries: Reader<'de>,
    order: KeyOrder<'de>,
    left: usize,
    ended: bool,
}

impl<'de> MapIter<'de> {
    #[inline]
    fn entry(&mut self) -> Result<(&'de str, &'de [u8]), DecodeError> {
        let key = self.order.next(&mut self.entries)?;
        Ok((key, self.entries.item_at(1)?))
    }
}

impl<'de> Iterator for MapIter<'de> {
    type Item = Result<(&'de str, &'de [u8]), DecodeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        if self.left == 0 {
            self.ended = true;
            return self.entries.clone().finish().err().map(Err);
        }
        self.left -= 1;
        let entry = self.entry();
        self.ended = entry.is_err();
        Some(entry)
    }
}

/// Reads an encoded map along names that are known beforehand, asked for in canonical order: the fastest way to a struct.
///
/// Every byte is checked, as everywhere, once [`finish`](Self::finish) was called.
#[derive(Clone, Debug)]
pub struct Fields<'de> {
    reader: Reader<'de>,
    order: KeyOrder<'de>,
    left: usize,
}

impl<'de> Fields<'de> {
    /// Begins with the first entry of `bytes`.
    ///
    /// # Errors
    ///
    /// If they do not begin with the head of a map.
    #[inline(always)] // a result of this size is slow to hand over
    pub fn new(bytes: &'de [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let left = reader.map()?;
        Ok(Fields { reader, order: KeyOrder::default(), left })
    }

    /// Goes on to the entry `name`, which comes after all names asked for before, and says whether it is there. If so, its
    /// [`value`](Self::value) has to be read next. Names passed over go to `unknown`.
    ///
    /// # Errors
    ///
    /// If an entry up to there is broken.
    #[inline]
    pub fn seek(&mut self, name: &'static str, unknown: &mut dyn FnMut(&'de str)) -> Result<bool, DecodeError> {
        // The name that is asked for is mostly the one that comes. It ascends because the names asked for do.
        if self.left > 0 && self.reader.take_short_text(name) {
            self.left -= 1;
            self.order.previous = Some(name);
            return Ok(true);
        }
        self.seek_further(name, unknown)
    }

    fn seek_further(&mut self, name: &'static str, unknown: &mut dyn FnMut(&'de str)) -> Result<bool, DecodeError> {
        while self.left > 0 {
            let mut ahead = self.clone();
            let key = ahead.order.next(&mut ahead.reader)?;
            let order = key_order(key, name);
            if order.is_gt() {
                break;
            }
            ahead.left -= 1;
            *self = ahead;
            if order.is_eq() {
                return Ok(true);
            }
            unknown(key);
            self.reader.item_at(1)?;
        }
        Ok(false)
    }

    /// The value of the entry that was found, decoded and encoded.
    ///
    /// # Errors
    ///
    /// If it is broken or does not fit the type.
    #[inline]
    pub fn value<T: Deserialize<'de>>(&mut self) -> Result<(T, &'de [u8]), DecodeError> {
        self.reader.value_at(1)
    }

    /// Goes through what is left.
    ///
    /// # Errors
    ///
    /// If an entry is broken, or something follows the map.
    #[inline]
    pub fn finish(mut self, unknown: &mut dyn FnMut(&'de str)) -> Result<(), DecodeError> {
        while self.left > 0 {
            self.left -= 1;
            unknown(self.order.next(&mut self.reader)?);
            self.reader.item_at(1)?;
        }
        self.reader.finish()
    }
}

/// Appends to `out` the map that has the entries of both: where both have a key, `changes` wins.
///
/// # Errors
///
/// If one of the two is not a whole encoded map. `out` is left as it was.
pub fn merge_maps(base: &[u8], changes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let start = out.len();
    let merged = merge_into(base, changes, out);
    if merged.is_err() {
        out.truncate(start);
    }
    merged
}

fn merge_into(base: &[u8], changes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let (base, changes) = (MapView::new(base)?, MapView::new(changes)?);
    let mut writer = Writer::new(out);
    let start = writer.open_map();
    let mut written = 0;
    let mut put = |(key, value): (&str, &[u8])| {
        writer.text(key);
        writer.raw(value);
        written += 1;
    };
    let mut changes = changes.iter();
    let mut change = changes.next().transpose()?;
    for entry in base.iter() {
        let entry = entry?;
        while let Some(earlier) = change.filter(|change| key_order(change.0, entry.0).is_lt()) {
            put(earlier);
            change = changes.next().transpose()?;
        }
        match change.filter(|change| change.0 == entry.0) {
            Some(changed) => {
                put(changed);
                change = changes.next().transpose()?;
            }
            None => put(entry),
        }
    }
    while let Some(later) = change {
        put(later);
        change = changes.next().transpose()?;
    }
    writer.close_map(start, written);
    Ok(())
}
