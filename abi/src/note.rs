//! The ELF note that carries a plugin's manifest.
//!
//! A note survives link-time optimisation, section garbage collection and `strip`, is seen by `readelf -n`, costs no code,
//! and can be read without loading the library. Its form is that of the System V ABI: three 32-bit words (size of the name,
//! size of the description, type), the name with its closing zero, the description, each padded to four bytes.

/// The section that holds the note.
pub const SECTION: &str = ".note.theseus";

/// The note's owner name.
pub const NAME: &str = "Theseus";

/// The note's type: a manifest as UTF-8 JSON.
pub const TYPE: u32 = 1;

/// The longest manifest that a host reads, in bytes.
pub const LENGTH_MAX: usize = 64 * 1024;

/// A note whose description is `N` bytes long, laid out as it stands in the file.
#[repr(C, align(4))]
pub struct Note<const N: usize> {
    name_size: u32,
    description_size: u32,
    kind: u32,
    name: [u8; NAME.len() + 1],
    description: [u8; N],
}

impl<const N: usize> Note<N> {
    /// Wraps a manifest.
    ///
    /// # Panics
    ///
    /// At compile time, if the manifest is longer than [`LENGTH_MAX`].
    pub const fn new(description: [u8; N]) -> Self {
        assert!(N <= LENGTH_MAX, "the plugin's manifest is longer than the host reads");
        let mut name = [0; NAME.len() + 1];
        let mut i = 0;
        while i < NAME.len() {
            name[i] = NAME.as_bytes()[i];
            i += 1;
        }
        Note { name_size: NAME.len() as u32 + 1, description_size: N as u32, kind: TYPE, name, description }
    }
}

// The name has to end on a four-byte boundary for the description to follow it without padding.
const _: () = assert!((NAME.len() + 1).is_multiple_of(4));
