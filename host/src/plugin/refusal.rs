//! Why a file is not acceptable as a plugin, each reason with what to do about it.

use theseus_abi::{AbiRange, Capability, note};

use super::target;

/// Why a file is not acceptable as a plugin. None of its code has run.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Not an ELF file at all.
    #[error("this is not a plugin: not an ELF file ({length} bytes); give the .so file that cargo built")]
    NotElf {
        /// Its length in bytes.
        length: usize,
    },
    /// An ELF file that contradicts itself.
    #[error("this is not a whole ELF file: {problem}; copy or build it again")]
    Malformed {
        /// What is wrong.
        problem: &'static str,
    },
    /// For processors with another word size.
    #[error(
        "this is not a plugin for this machine: its ELF class is {found}, the host needs 2 (64 bits): \
         `cargo build --release --target {}`",
        target::HOST
    )]
    WrongClass {
        /// The class byte of its header.
        found: u8,
    },
    /// For processors with the other byte order.
    #[error(
        "this is not a plugin for this machine: its byte order is the opposite of the host's: \
         `cargo build --release --target {}`",
        target::HOST
    )]
    WrongByteOrder,
    /// For another processor.
    #[error(
        "this plugin is built for {found}, the host runs on {host}: `cargo build --release --target {}`",
        target::HOST
    )]
    WrongMachine {
        /// The machine in its header.
        found: String,
        /// The host's.
        host: &'static str,
    },
    /// Something else than a shared library.
    #[error("this is not a plugin but {found}: build a crate with `crate-type = [\"cdylib\"]`")]
    NotShared {
        /// What it is.
        found: &'static str,
    },
    /// A shared library, but not a plugin.
    #[error(
        "this library is not a Theseus plugin: it has no {} note; declare it with `theseus_plugin::plugin!`",
        note::SECTION
    )]
    NoManifest,
    /// More than one manifest.
    #[error("this library carries more than one plugin manifest: use `plugin!` once in a library")]
    ManyManifests,
    /// The note has not the form of a manifest note.
    #[error("the plugin's {} note is damaged: {problem}; build it again", note::SECTION)]
    BadNote {
        /// What is wrong.
        problem: &'static str,
    },
    /// The manifest cannot be read.
    #[error("the plugin's manifest cannot be read: {problem}; build it again with a current theseus-plugin")]
    BadManifest {
        /// What is wrong and where.
        problem: String,
    },
    /// For other versions of the boundary.
    #[error(
        "the plugin speaks ABI version {plugin}, this host speaks {host}: \
         build it against a theseus-plugin of that version, or upgrade the host"
    )]
    WrongAbi {
        /// The plugin's versions.
        plugin: AbiRange,
        /// The host's versions.
        host: AbiRange,
    },
    /// Same version of the boundary, other layout.
    #[error(
        "the plugin's boundary types are laid out differently (fingerprint {plugin}, the host's is {host}) \
         although the ABI version fits: build it against the theseus-plugin of this host, after `cargo update -p theseus-abi`"
    )]
    WrongLayout {
        /// The plugin's fingerprint.
        plugin: String,
        /// The host's.
        host: String,
    },
    /// A panic would end the process.
    #[error(
        "the plugin is built with panic={found}: a panic in it would end the host; \
         put `panic = \"unwind\"` into the profile in Cargo.toml and build it again"
    )]
    WrongPanicStrategy {
        /// The strategy in its manifest.
        found: String,
    },
    /// Built for another system, though for this machine.
    #[error(
        "the plugin is built for the target {found}, the host is of {host}: `cargo build --release --target {host}`"
    )]
    WrongTarget {
        /// The target triple in its manifest.
        found: String,
        /// The host's.
        host: &'static str,
    },
    /// The plugin's version is none.
    #[error("the plugin's version `{version}` is not a semantic version ({problem}): correct it in Cargo.toml")]
    BadVersion {
        /// The version in its manifest.
        version: String,
        /// What is wrong.
        problem: String,
    },
    /// What it says it needs cannot be understood.
    #[error(
        "the plugin requires `{behavior}` = `{version}`, which is not a range of versions ({problem}): correct `requires` in `plugin!`"
    )]
    BadRequirement {
        /// The behaviour.
        behavior: String,
        /// The range in its manifest.
        version: String,
        /// What is wrong.
        problem: String,
    },
    /// It asks for something that this host does not know.
    #[error(
        "the plugin asks for the capability `{word}`, which this host does not know (it knows {}): remove it from `plugin!`, or upgrade the host",
        known_capabilities()
    )]
    UnknownCapability {
        /// The word in its manifest.
        word: String,
    },
    /// Libraries that the dynamic linker would not find.
    #[error("the plugin needs {}, which this system does not have: install what brings it, or link it statically", names.join(" and "))]
    MissingLibraries {
        /// Their names.
        names: Vec<String>,
    },
    /// A name that the host does not accept.
    #[error("the plugin's manifest names a {what} `{name}`: {rule}")]
    BadName {
        /// Which kind of name.
        what: &'static str,
        /// The name, shortened.
        name: String,
        /// What it should be like.
        rule: &'static str,
    },
    /// A name that occurs twice.
    #[error("the plugin's manifest lists the behavior `{name}` twice: rename one of them")]
    DuplicateBehavior {
        /// The name.
        name: String,
    },
    /// The entry point is not there.
    #[error(
        "the plugin does not export its root module: declare it with `theseus_plugin::plugin!` and keep its symbols"
    )]
    NoRootModule,
}

fn known_capabilities() -> String {
    Capability::ALL.iter().map(|capability| capability.word()).collect::<Vec<_>>().join(", ")
}
