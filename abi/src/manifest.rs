//! What a plugin says about itself: the manifest in its file, and the descriptions behind its tables.

use serde::{Deserialize, Serialize};

/// A range of ABI versions, both ends included.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct AbiRange {
    /// The lowest version.
    pub min: u32,
    /// The highest version.
    pub max: u32,
}

impl AbiRange {
    /// Whether some version lies in both ranges.
    pub const fn overlaps(self, other: AbiRange) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

impl std::fmt::Display for AbiRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.min == self.max { write!(f, "{}", self.min) } else { write!(f, "{} to {}", self.min, self.max) }
    }
}

/// The manifest in a plugin's [note](crate::note): readable without running any of the plugin's code.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// The plugin's name. Swapping in another plugin of this name replaces it.
    pub name: String,
    /// The plugin's own version, a semantic version.
    pub version: String,
    /// The ABI versions it can be hosted under.
    pub abi: AbiRange,
    /// [`LAYOUT_FINGERPRINT`](crate::LAYOUT_FINGERPRINT) as 16 hexadecimal digits.
    pub layout: String,
    /// The behaviours it provides.
    pub behaviors: Vec<BehaviorManifest>,
    /// The compiler, as `rustc --version` prints it.
    pub rustc: String,
    /// The panic strategy, `unwind` or `abort`.
    pub panic: String,
    /// The target triple.
    pub target: String,
    /// What it asks to be allowed: words of [`Capability`](crate::Capability), as far as the reader knows them.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// The behaviours of other plugins that it sends messages to.
    #[serde(default)]
    pub requires: Vec<Requirement>,
}

/// A behaviour of another plugin that a plugin cannot do without.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Requirement {
    /// The behaviour's name, `plugin.Type`.
    pub behavior: String,
    /// Which versions of the plugin that provides it will do: a range as in a Cargo dependency, such as `^1.2`.
    pub version: String,
}

/// What the manifest says about one behaviour.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct BehaviorManifest {
    /// The behaviour's name, `plugin.Type`.
    pub name: String,
    /// The schema version of the slots it works with.
    pub schema: u32,
    /// The other schema versions whose slots it can turn into its own.
    #[serde(default)]
    pub reads: Vec<u32>,
    /// The other schema versions into which it can turn its own slots.
    #[serde(default)]
    pub writes: Vec<u32>,
}

/// What a behaviour offers, as operators and programs see it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct BehaviorDescription {
    /// The author's text.
    pub doc: String,
    /// The slots, in the order of the author's fields.
    pub slots: Vec<SlotDescription>,
    /// The methods; a method's place here is its number in [`Call::method`](crate::Call).
    pub methods: Vec<MethodDescription>,
}

/// One slot of a behaviour.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct SlotDescription {
    /// The slot's name.
    pub name: String,
    /// The type, as the author wrote it.
    #[serde(rename = "type")]
    pub type_name: String,
    /// The author's text.
    pub doc: String,
}

/// Whether a method may change its receiver.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum MethodKind {
    /// Runs in a transaction, one after another, and is recorded.
    Command,
    /// Reads a committed snapshot, in parallel with others, and leaves no trace.
    Query,
}

/// One method of a behaviour.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct MethodDescription {
    /// The method's name.
    pub name: String,
    /// Command or query.
    pub kind: MethodKind,
    /// The arguments, in order.
    pub arguments: Vec<ArgumentDescription>,
    /// The type of the result, as the author wrote it.
    pub returns: String,
    /// The author's text.
    pub doc: String,
}

/// One argument of a method.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct ArgumentDescription {
    /// The argument's name.
    pub name: String,
    /// The type, as the author wrote it.
    #[serde(rename = "type")]
    pub type_name: String,
}
