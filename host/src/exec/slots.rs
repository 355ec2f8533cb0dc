//! Parts of the encoded slots of an object.

use theseus_value::{
    DecodeError,
    raw::{MapView, Writer},
};

/// The slots that `wanted` wants by name and value, as an encoded map in the order in which they stand.
///
/// # Errors
///
/// If `slots` is not a whole encoded map, or what `wanted` fails with.
pub fn pick_slots(
    slots: &[u8],
    mut wanted: impl FnMut(&str, &[u8]) -> Result<bool, DecodeError>,
) -> Result<Vec<u8>, DecodeError> {
    let mut picked = Vec::new();
    let mut writer = Writer::new(&mut picked);
    let (start, mut count) = (writer.open_map(), 0);
    for entry in MapView::new(slots)?.iter() {
        let (name, value) = entry?;
        if wanted(name, value)? {
            writer.text(name);
            writer.raw(value);
            count += 1;
        }
    }
    writer.close_map(start, count);
    Ok(picked)
}
