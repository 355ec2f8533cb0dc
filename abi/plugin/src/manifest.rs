//! The manifest of a plugin, put together while it is compiled.

use theseus_abi::{ABI_VERSION, LAYOUT_FINGERPRINT};

/// The compiler that built this crate and so the plugin.
const RUSTC: &str = env!("THESEUS_RUSTC");

/// The target it was built for.
const TARGET: &str = env!("THESEUS_TARGET");

/// What the manifest says about a plugin.
pub struct Facts<'a> {
    /// The plugin's name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// Its behaviours.
    pub behaviors: &'a [BehaviorFacts<'a>],
    /// Whether panics unwind in the plugin.
    pub unwinds: bool,
    /// What it asks to be allowed.
    pub capabilities: &'a [&'a str],
    /// The behaviours of other plugins that it needs, each with the range of that plugin's versions.
    pub requires: &'a [(&'a str, &'a str)],
}

/// What the manifest says about a behaviour.
pub struct BehaviorFacts<'a> {
    /// Its name, `plugin.Type`.
    pub name: &'a str,
    /// The version of its slots.
    pub schema: u32,
    /// The versions it reads.
    pub reads: &'a [u32],
    /// The versions it writes.
    pub writes: &'a [u32],
}

/// The manifest as JSON (`theseus_abi::Manifest`), as far as it fits into `N` bytes, and how long it is.
pub const fn manifest<const N: usize>(facts: &Facts<'_>) -> ([u8; N], usize) {
    let json = Json { bytes: [0; N], len: 0 };
    let mut json = json.raw("{\"name\":").text(facts.name).raw(",\"version\":").text(facts.version);
    json = json.raw(",\"abi\":{\"min\":").number(ABI_VERSION).raw(",\"max\":").number(ABI_VERSION);
    json = json.raw("},\"layout\":\"").hex(LAYOUT_FINGERPRINT).raw("\",\"behaviors\":[");
    let mut i = 0;
    while i < facts.behaviors.len() {
        let behavior = &facts.behaviors[i];
        json = json.separate(i).raw("{\"name\":").text(behavior.name).raw(",\"schema\":").number(behavior.schema);
        json = json.raw(",\"reads\":[").numbers(behavior.reads);
        json = json.raw("],\"writes\":[").numbers(behavior.writes).raw("]}");
        i += 1;
    }
    json = json.raw("],\"rustc\":").text(RUSTC).raw(",\"panic\":");
    json = json.text(if facts.unwinds { "unwind" } else { "abort" });
    json = json.raw(",\"target\":").text(TARGET).raw(",\"capabilities\":[");
    let mut i = 0;
    while i < facts.capabilities.len() {
        json = json.separate(i).text(facts.capabilities[i]);
        i += 1;
    }
    json = json.raw("],\"requires\":[");
    let mut i = 0;
    while i < facts.requires.len() {
        let (behavior, version) = facts.requires[i];
        json = json.separate(i).raw("{\"behavior\":").text(behavior).raw(",\"version\":").text(version).raw("}");
        i += 1;
    }
    json = json.raw("]}");
    (json.bytes, json.len)
}

/// JSON in the making. It counts what does not fit, so a first pass with no room tells how much the second one needs.
struct Json<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Json<N> {
    const fn byte(mut self, byte: u8) -> Self {
        if self.len < N {
            self.bytes[self.len] = byte;
        }
        self.len += 1;
        self
    }

    const fn raw(mut self, text: &str) -> Self {
        let mut i = 0;
        while i < text.len() {
            self = self.byte(text.as_bytes()[i]);
            i += 1;
        }
        self
    }

    /// A string with its quotes.
    const fn text(mut self, text: &str) -> Self {
        self = self.byte(b'"');
        let mut i = 0;
        while i < text.len() {
            let byte = text.as_bytes()[i];
            self = match byte {
                b'"' | b'\\' => self.byte(b'\\').byte(byte),
                0..0x20 => self.raw("\\u00").hex_digit(byte >> 4).hex_digit(byte & 15),
                _ => self.byte(byte),
            };
            i += 1;
        }
        self.byte(b'"')
    }

    const fn number(mut self, number: u32) -> Self {
        if number >= 10 {
            self = self.number(number / 10);
        }
        self.byte(b'0' + (number % 10) as u8)
    }

    const fn numbers(mut self, numbers: &[u32]) -> Self {
        let mut i = 0;
        while i < numbers.len() {
            self = self.separate(i).number(numbers[i]);
            i += 1;
        }
        self
    }

    /// Sixteen hexadecimal digits.
    const fn hex(mut self, number: u64) -> Self {
        let mut shift = 64;
        while shift > 0 {
            shift -= 4;
            self = self.hex_digit((number >> shift) as u8 & 15);
        }
        self
    }

    const fn hex_digit(self, digit: u8) -> Self {
        self.byte(b"0123456789abcdef"[digit as usize])
    }

    /// A comma before every item but the first.
    const fn separate(self, index: usize) -> Self {
        if index > 0 { self.byte(b',') } else { self }
    }
}

/// Puts constant texts together into one.
#[doc(hidden)]
#[macro_export]
macro_rules! __concat {
    ($($part:expr),* $(,)?) => {{
        const PARTS: &[&str] = &[$($part),*];
        const LEN: usize = $crate::__private::copied::<0>(PARTS).1;
        const BYTES: [u8; LEN] = $crate::__private::copied(PARTS).0;
        match ::core::str::from_utf8(&BYTES) {
            Ok(text) => text,
            Err(_) => panic!("texts put together are a text"),
        }
    }};
}

/// The texts one after another, as far as they fit into `N` bytes, and how long they are.
pub const fn copied<const N: usize>(parts: &[&str]) -> ([u8; N], usize) {
    let mut json = Json { bytes: [0; N], len: 0 };
    let mut i = 0;
    while i < parts.len() {
        json = json.raw(parts[i]);
        i += 1;
    }
    (json.bytes, json.len)
}
