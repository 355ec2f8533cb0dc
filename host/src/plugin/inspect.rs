//! Judges a plugin by its file alone: nothing of it has been loaded, none of its code has run.
//!
//! The dynamic linker runs a library's initialisers before anybody can ask it anything, so whatever can be known beforehand
//! is decided here: that it is a plugin, for this machine, for this boundary, and of a build that can be hosted.

use std::collections::BTreeSet;

use serde::Deserialize;
use theseus_abi::{
    AbiRange, BehaviorManifest, HOST_ABI, LAYOUT_FINGERPRINT, Manifest,
    abi_stable::library::{LibHeader, ROOT_MODULE_LOADER_NAME_WITH_NUL},
    note,
};

use super::{digest::Digest, elf::SharedLibrary};

/// The longest name of a plugin or a behaviour, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// What the file of an acceptable plugin says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inspection {
    /// The digest of the file that was judged.
    pub digest: Digest,
    /// The manifest in its note. Names are checked; texts for people are as the author wrote them.
    pub manifest: Manifest,
    /// What an operator should know, though it is no reason to refuse.
    pub warnings: Vec<Warning>,
}

impl Inspection {
    /// Whether the file forbids that it is unloaded.
    pub fn is_no_delete(&self) -> bool {
        self.warnings.contains(&Warning::NoDelete)
    }
}

/// A property of an acceptable plugin that will be felt later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Warning {
    /// The file carries `DF_1_NODELETE`.
    NoDelete,
    /// The file carries `DF_STATIC_TLS`.
    StaticTls,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Warning::NoDelete => {
                "linked with -z nodelete: it will stay in memory after it is replaced, until the host restarts"
            }
            Warning::StaticTls => {
                "uses the initial-exec thread-local model, of which a process has little: \
                 a later plugin may fail to load until the host restarts"
            }
        })
    }
}

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
    #[error("this is not a plugin for this machine: its ELF class is {found}, the host needs 2 (64 bits)")]
    WrongClass {
        /// The class byte of its header.
        found: u8,
    },
    /// For processors with the other byte order.
    #[error("this is not a plugin for this machine: its byte order is the opposite of the host's")]
    WrongByteOrder,
    /// For another processor.
    #[error("this plugin is built for {found}, the host runs on {host}: build it for {host}")]
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
         although the ABI version fits: build it against the same theseus-abi"
    )]
    WrongLayout {
        /// The plugin's fingerprint.
        plugin: String,
        /// The host's.
        host: String,
    },
    /// A panic would end the process.
    #[error("the plugin is built with panic={found}: a panic in it would end the host; build it with panic=unwind")]
    WrongPanicStrategy {
        /// The strategy in its manifest.
        found: String,
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

/// Judges the bytes of a file. Runs nothing of it, and takes time in proportion to its length.
///
/// # Errors
///
/// A [`Refusal`] that names the exact mismatch.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, Refusal> {
    let library = SharedLibrary::parse(bytes)?;
    let section_name = [note::SECTION.as_bytes(), b"\0"].concat();
    let description = match library.sections_named(&section_name)?[..] {
        [] => return Err(Refusal::NoManifest),
        [section] => note_description(section)?,
        [..] => return Err(Refusal::ManyManifests),
    };
    let manifest = parse_manifest(description)?;
    check_names(&manifest)?;
    let root = library.exported_object(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes())?;
    if root.is_none_or(|size| size < size_of::<LibHeader>() as u64) {
        return Err(Refusal::NoRootModule);
    }
    let mut warnings = Vec::new();
    warnings.extend(library.is_no_delete().then_some(Warning::NoDelete));
    warnings.extend(library.is_static_tls().then_some(Warning::StaticTls));
    Ok(Inspection { digest: Digest::of(bytes), manifest, warnings })
}

/// The description of the one note that a section holds.
fn note_description(section: &[u8]) -> Result<&[u8], Refusal> {
    const NAME_AT: usize = 12;
    const DESCRIPTION_AT: usize = NAME_AT + note::NAME.len() + 1;
    let word = |at: usize| -> Result<usize, Refusal> {
        let bytes = section.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        let bytes = bytes.ok_or(Refusal::BadNote { problem: "it ends within its header" })?;
        Ok(u32::from_ne_bytes(bytes) as usize)
    };
    let (name_size, description_size, kind) = (word(0)?, word(4)?, word(8)?);
    if name_size != note::NAME.len() + 1
        || section.get(NAME_AT..DESCRIPTION_AT - 1) != Some(note::NAME.as_bytes())
        || section.get(DESCRIPTION_AT - 1) != Some(&0)
    {
        return Err(Refusal::BadNote { problem: "its owner is not Theseus" });
    }
    if kind != note::TYPE as usize {
        return Err(Refusal::BadNote { problem: "its type is not that of a manifest" });
    }
    if description_size > note::LENGTH_MAX {
        return Err(Refusal::BadNote { problem: "it is longer than a manifest may be" });
    }
    let rest = &section[DESCRIPTION_AT..];
    let Some((description, padding)) = rest.split_at_checked(description_size) else {
        return Err(Refusal::BadNote { problem: "it ends within the manifest" });
    };
    if padding.len() >= NAME_AT && padding.iter().any(|&byte| byte != 0) {
        return Err(Refusal::ManyManifests);
    }
    Ok(description)
}

/// Reads the manifest and checks what makes a plugin impossible to host.
fn parse_manifest(description: &[u8]) -> Result<Manifest, Refusal> {
    /// The one field whose meaning every version of the manifest shares.
    #[derive(Deserialize)]
    struct Versions {
        abi: AbiRange,
    }

    let problem = |error: serde_json::Error| Refusal::BadManifest { problem: error.to_string() };
    // The range comes first: the rest of a manifest of another version may have another form.
    let Versions { abi } = serde_json::from_slice(description).map_err(problem)?;
    if abi.min > abi.max || !abi.overlaps(HOST_ABI) {
        return Err(Refusal::WrongAbi { plugin: abi, host: HOST_ABI });
    }
    let manifest: Manifest = serde_json::from_slice(description).map_err(problem)?;
    let host = format!("{LAYOUT_FINGERPRINT:016x}");
    if manifest.layout != host {
        return Err(Refusal::WrongLayout { plugin: shorten(&manifest.layout), host });
    }
    if manifest.panic != "unwind" {
        return Err(Refusal::WrongPanicStrategy { found: shorten(&manifest.panic) });
    }
    Ok(manifest)
}

fn check_names(manifest: &Manifest) -> Result<(), Refusal> {
    if !is_plugin_name(&manifest.name) {
        return Err(Refusal::BadName {
            what: "plugin",
            name: shorten(&manifest.name),
            rule: "begin with a lower-case letter; go on with lower-case letters, digits, _ and -; at most 128 in all",
        });
    }
    let mut seen = BTreeSet::new();
    for BehaviorManifest { name, .. } in &manifest.behaviors {
        if !is_behavior_name(&manifest.name, name) {
            return Err(Refusal::BadName {
                what: "behavior",
                name: shorten(name),
                rule: "it has to be the plugin's name, a dot, and an identifier; at most 128 bytes in all",
            });
        }
        if !seen.insert(name) {
            return Err(Refusal::DuplicateBehavior { name: name.clone() });
        }
    }
    Ok(())
}

fn is_plugin_name(name: &str) -> bool {
    let is_rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    name.len() <= NAME_BYTES_MAX
        && name.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
        && name.bytes().all(is_rest)
}

fn is_behavior_name(plugin: &str, name: &str) -> bool {
    let Some(identifier) = name.strip_prefix(plugin).and_then(|rest| rest.strip_prefix('.')) else {
        return false;
    };
    name.len() <= NAME_BYTES_MAX
        && identifier.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && identifier.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Cuts a text that came from the file, so that no message is longer than people read.
fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}
