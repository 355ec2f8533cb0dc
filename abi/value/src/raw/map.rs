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
        if self.previous.is_some_and(|previous| compare(previous, key).is_ge()) {
            return Err(DecodeError::KeyOrder { position, key: shorten(key) });
        }
        self.previous = Some(key);
        Ok(key)
    }
}

/// The canonical order of keys: that of their encodings, so a shorter key comes first.
#[inline]
pub(crate) fn compare(a: &str, b: &str) -> std::cmp::Ordering {
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
            match compare(candidate, key) {
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
///
/// It can be walked in halves too: [`next_key`](Self::next_key), and then [`item`](Self::item) or [`value`](Self::value).
#[derive(Clone, Debug)]
pub struct MapIter<'de> {
    entries: Reader<'de>,
    order: KeyOrder<'de>,
    left: usize,
    ended: bool,
}

impl<'de> MapIter<'de> {
    /// The key of the next entry, whose value has to be read next; none at the end.
    ///
    /// # Errors
    ///
    /// If the key is broken or out of order, or if something follows the map.
    #[inline]
    pub fn next_key(&mut self) -> Result<Option<&'de str>, DecodeError> {
        if self.left == 0 {
            return self.entries.clone().finish().map(|()| None);
        }
        self.left -= 1;
        self.order.next(&mut self.entries).map(Some)
    }

    /// The encoded value of the entry.
    ///
    /// # Errors
    ///
    /// If it is broken.
    #[inline]
    pub fn item(&mut self) -> Result<&'de [u8], DecodeError> {
        self.entries.item_at(1)
    }

    /// The value of the entry, decoded and encoded.
    ///
    /// # Errors
    ///
    /// If it is broken or does not fit the type.
    #[inline]
    pub fn value<T: Deserialize<'de>>(&mut self) -> Result<(T, &'de [u8]), DecodeError> {
        self.entries.value_at(1)
    }

    #[inline]
    fn entry(&mut self) -> Result<Option<(&'de str, &'de [u8])>, DecodeError> {
        match self.next_key()? {
            Some(key) => Ok(Some((key, self.item()?))),
            None => Ok(None),
        }
    }
}

impl<'de> Iterator for MapIter<'de> {
    type Item = Result<(&'de str, &'de [u8]), DecodeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let entry = self.entry().transpose();
        self.ended = !matches!(entry, Some(Ok(_)));
        entry
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
        while let Some(earlier) = change.filter(|change| compare(change.0, entry.0).is_lt()) {
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
