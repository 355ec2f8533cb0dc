//! Judges a plugin by its file alone: nothing of it has been loaded, none of its code has run.
//!
//! The dynamic linker runs a library's initialisers before anybody can ask it anything, so whatever can be known beforehand
//! is decided here: that it is a plugin, for this machine, for this boundary, and of a build that can be hosted.

use std::{collections::BTreeSet, path::PathBuf};

use semver::{Version, VersionReq};
use theseus_abi::{
    Capability, Manifest,
    abi_stable::library::{LibHeader, ROOT_MODULE_LOADER_NAME_WITH_NUL},
};

use super::{
    digest::Digest,
    elf::SharedLibrary,
    manifest::{self, shorten},
    needed,
    refusal::Refusal,
    store::Staged,
};

/// What the file of an acceptable plugin says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inspection {
    /// The digest of the file that was judged.
    pub digest: Digest,
    /// The manifest in its note. Names are checked; texts for people are as the author wrote them.
    pub manifest: Manifest,
    /// The plugin's version.
    pub version: Version,
    /// The behaviours of other plugins that it cannot do without.
    pub requires: Vec<Dependency>,
    /// What it asks to be allowed.
    pub capabilities: BTreeSet<Capability>,
    /// What an operator should know, though it is no reason to refuse.
    pub warnings: Vec<Warning>,
}

impl Inspection {
    /// Whether the file forbids that it is unloaded.
    pub fn is_no_delete(&self) -> bool {
        self.warnings.contains(&Warning::NoDelete)
    }
}

/// A behaviour of another plugin that a plugin sends messages to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dependency {
    /// Its name, `plugin.Type`.
    pub behavior: String,
    /// Which versions of the plugin that provides it will do.
    pub range: VersionReq,
}

/// A property of an acceptable plugin that will be felt later.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Warning {
    /// The file carries `DF_1_NODELETE`.
    NoDelete,
    /// The file carries `DF_STATIC_TLS`.
    StaticTls,
    /// Libraries that were not found, on a system that does not tell where it looks for them all.
    LibrariesNotFound(Vec<String>),
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
            Warning::LibrariesNotFound(names) => {
                return write!(f, "needs {}, which was not found here: it may fail to load", names.join(" and "));
            }
        })
    }
}

/// What could be read of a file, however far the judgement came.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// What it is as a library; none if it is no shared library for this machine.
    pub library: Option<Library>,
    /// Its manifest; none if it has none that this host can read.
    pub manifest: Option<Manifest>,
}

/// A shared library, as its tables describe it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Library {
    /// The libraries that it needs, and where the dynamic linker finds each.
    pub needed: Vec<(String, Option<PathBuf>)>,
    /// Folders of its own in which the dynamic linker looks for them, as it states them.
    pub runpath: Option<String>,
    /// Whether it forbids to be unloaded.
    pub no_delete: bool,
    /// Whether it takes thread-local storage from the small part that is laid out when a process starts.
    pub static_tls: bool,
    /// What the linker named this build, in hexadecimal.
    pub build_id: Option<String>,
    /// Whether the names of its functions are there, which make backtraces and profiles readable.
    pub has_symbols: bool,
    /// Whether debug information is there.
    pub has_debug_info: bool,
}

/// Judges the bytes of a file. Runs nothing of it, and takes time in proportion to its length.
///
/// # Errors
///
/// A [`Refusal`] that names the exact mismatch.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, Refusal> {
    look(bytes).1
}

/// Judges a staged file like [`inspect`].
///
/// # Errors
///
/// As [`inspect`].
pub fn inspect_staged(staged: &Staged) -> Result<Inspection, Refusal> {
    judge(staged.bytes(), || staged.digest(), &mut Findings::default())
}

/// Judges the bytes of a file like [`inspect`], and tells what could be read even if it is refused.
pub fn look(bytes: &[u8]) -> (Findings, Result<Inspection, Refusal>) {
    let mut findings = Findings::default();
    let judgement = judge(bytes, || Digest::of(bytes), &mut findings);
    (findings, judgement)
}

fn judge(bytes: &[u8], digest: impl FnOnce() -> Digest, findings: &mut Findings) -> Result<Inspection, Refusal> {
    let library = SharedLibrary::parse(bytes)?;
    let description = manifest::read(&library);
    let (facts, searched) = needed::describe(&library)?;
    let library_facts = findings.library.insert(facts);
    let manifest = findings.manifest.insert(manifest::parse(description?)?);
    manifest::check(manifest)?;
    let version = manifest::version(manifest)?;
    let requires = manifest::requirements(manifest)?;
    let capabilities = manifest::capabilities(manifest)?;
    let root = library.exported_object(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes())?;
    if root.is_none_or(|size| size < size_of::<LibHeader>() as u64) {
        return Err(Refusal::NoRootModule);
    }
    let mut warnings = Vec::new();
    warnings.extend(library_facts.no_delete.then_some(Warning::NoDelete));
    warnings.extend(library_facts.static_tls.then_some(Warning::StaticTls));
    let missing = library_facts.needed.iter().filter(|(_, place)| place.is_none());
    let missing: Vec<String> = missing.map(|(name, _)| shorten(name)).collect();
    match searched {
        _ if missing.is_empty() => {}
        needed::Searched::Everywhere => return Err(Refusal::MissingLibraries { names: missing }),
        needed::Searched::SomePlaces => warnings.push(Warning::LibrariesNotFound(missing)),
    }
    let manifest = manifest.clone();
    Ok(Inspection { digest: digest(), manifest, version, requires, capabilities, warnings })
}
