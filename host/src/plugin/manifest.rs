//! The manifest of a plugin, from the note in its file to what a host can rely on.

use std::collections::BTreeSet;

use semver::{Version, VersionReq};
use serde::Deserialize;
use theseus_abi::{AbiRange, BehaviorManifest, Capability, HOST_ABI, LAYOUT_FINGERPRINT, Manifest, note};

use super::{elf::SharedLibrary, inspect::Dependency, refusal::Refusal, target};

/// The longest name of a plugin or a behaviour, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// The manifest in the one note of a library, as JSON.
pub(super) fn read<'data>(library: &SharedLibrary<'data>) -> Result<&'data [u8], Refusal> {
    let section_name = [note::SECTION.as_bytes(), b"\0"].concat();
    match library.sections_named(&section_name)?[..] {
        [] => Err(Refusal::NoManifest),
        [section] => note_description(section),
        [..] => Err(Refusal::ManyManifests),
    }
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

/// Reads a manifest of an ABI version that this host serves.
pub(super) fn parse(description: &[u8]) -> Result<Manifest, Refusal> {
    /// The one field whose meaning every version of the manifest shares.
    #[derive(Deserialize)]
    struct Versions {
        abi: AbiRange,
    }

    let problem = |error: serde_json::Error| Refusal::BadManifest { problem: shorten(&error.to_string()) };
    // The range comes first: the rest of a manifest of another version may have another form.
    let Versions { abi } = serde_json::from_slice(description).map_err(problem)?;
    if abi.min > abi.max || !abi.overlaps(HOST_ABI) {
        return Err(Refusal::WrongAbi { plugin: abi, host: HOST_ABI });
    }
    serde_json::from_slice(description).map_err(problem)
}

/// Checks what makes a plugin impossible to host.
pub(super) fn check(manifest: &Manifest) -> Result<(), Refusal> {
    let host = format!("{LAYOUT_FINGERPRINT:016x}");
    if manifest.layout != host {
        return Err(Refusal::WrongLayout { plugin: shorten(&manifest.layout), host });
    }
    if manifest.panic != "unwind" {
        return Err(Refusal::WrongPanicStrategy { found: shorten(&manifest.panic) });
    }
    if !target::fits(&manifest.target) {
        return Err(Refusal::WrongTarget { found: shorten(&manifest.target), host: target::HOST });
    }
    check_names(manifest)
}

/// The plugin's version.
pub(super) fn version(manifest: &Manifest) -> Result<Version, Refusal> {
    Version::parse(&manifest.version)
        .map_err(|error| Refusal::BadVersion { version: shorten(&manifest.version), problem: error.to_string() })
}

/// The behaviours of other plugins that it needs.
pub(super) fn requirements(manifest: &Manifest) -> Result<Vec<Dependency>, Refusal> {
    let requirement = |requirement: &theseus_abi::Requirement| {
        let (behavior, version) = (&requirement.behavior, &requirement.version);
        let refusal =
            |problem| Refusal::BadRequirement { behavior: shorten(behavior), version: shorten(version), problem };
        if !behavior
            .split_once('.')
            .is_some_and(|(plugin, _)| is_plugin_name(plugin) && is_behavior_name(plugin, behavior))
        {
            return Err(refusal("the name is not of the form plugin.Type".to_owned()));
        }
        let range = VersionReq::parse(version).map_err(|error| refusal(error.to_string()))?;
        Ok(Dependency { behavior: behavior.clone(), range })
    };
    manifest.requires.iter().map(requirement).collect()
}

/// What it asks to be allowed.
pub(super) fn capabilities(manifest: &Manifest) -> Result<BTreeSet<Capability>, Refusal> {
    let known =
        |word: &String| Capability::from_word(word).ok_or_else(|| Refusal::UnknownCapability { word: shorten(word) });
    manifest.capabilities.iter().map(known).collect()
}

fn check_names(manifest: &Manifest) -> Result<(), Refusal> {
    if !is_plugin_name(&manifest.name) {
        return Err(Refusal::BadName {
            what: "plugin",
            name: shorten(&manifest.name),
            rule: "begin with a lower-case letter; go on with lower-case letters, digits, _ and -; at most 128 in all, and not `theseus`",
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

/// What the behaviours of the host's own objects begin with.
const HOSTS_OWN: &str = "theseus";

fn is_plugin_name(name: &str) -> bool {
    let is_rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    name.len() <= NAME_BYTES_MAX
        && name != HOSTS_OWN
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

/// Makes a text that came from the file fit for a message: no longer than people read, nothing that a terminal obeys.
pub(super) fn shorten(text: &str) -> String {
    let visible = |character: char| match character {
        '\t' | '\n' => ' ',
        character if character.is_control() => char::REPLACEMENT_CHARACTER,
        character => character,
    };
    text.chars().map(visible).take(80).collect()
}
