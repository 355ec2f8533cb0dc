//! Turns an inspected file into a [`Generation`].
//!
//! From here on the plugin's code runs. Its boundary is compared with the host's type by type (`abi_stable`'s layout check)
//! before anything of it is used, along a path that leaves nothing behind: the loading functions of `abi_stable` itself keep
//! the first library for ever and remember pointers into it.

#![allow(
    unsafe_code,
    reason = "abi_stable gives a root module without leaking its library only through an unsafe function"
)]

use std::sync::atomic::{AtomicU64, Ordering};

use theseus_abi::{
    Failure, PluginRootRef,
    abi_stable::{
        StableAbi,
        abi_stability::abi_checking::{CheckingGlobals, check_layout_compatibility_with_globals},
    },
};

use super::{
    boundary,
    generation::{Behavior, Generation, GenerationNumber},
    image::Image,
    inspect::Inspection,
    store::Staged,
};

/// Why an acceptable file could not be loaded. The library is closed again.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The dynamic linker cannot load it.
    #[error("the dynamic linker cannot load the plugin: {message}; build it on a system like the host's")]
    Open {
        /// What the dynamic linker says.
        message: String,
    },
    /// The root module cannot be used.
    #[error("the plugin's root module cannot be used: {message}; build it with the host's version of theseus-plugin")]
    Root {
        /// What is wrong.
        message: String,
    },
    /// The boundary's types differ although the fingerprint is the same.
    #[error("the plugin's boundary types differ from the host's; build it against the same theseus-abi. {message}")]
    Layout {
        /// The differences.
        message: String,
    },
    /// The plugin does not want to start.
    #[error("the plugin's initialisation failed: {failure}")]
    Init {
        /// What the plugin says.
        failure: Failure,
    },
    /// The loaded tables are not those of the manifest.
    #[error(
        "the plugin provides the behaviors [{}] although its manifest lists [{}]; build it again",
        provided.join(", "),
        listed.join(", ")
    )]
    Behaviors {
        /// The names in the manifest.
        listed: Vec<String>,
        /// The names of the tables.
        provided: Vec<String>,
    },
    /// A description cannot be read.
    #[error("the plugin's description of {behavior} cannot be read: {message}; build it again")]
    Description {
        /// The behaviour.
        behavior: String,
        /// What is wrong.
        message: String,
    },
}

/// Loads a staged file that was found acceptable, and initialises it.
///
/// A staged file is loaded at most once, since the dynamic linker would take a second time for the same library; fetch it
/// from the store to load it again.
///
/// # Errors
///
/// See [`LoadError`].
///
/// # Panics
///
/// If `inspection` is that of another file.
pub fn load(staged: Staged, inspection: Inspection) -> Result<Generation, LoadError> {
    load_telling(staged, inspection, &mut |_| ())
}

/// The same, and tells before each step that runs code of the plugin which one it is: `load` or `init`.
///
/// # Errors
///
/// See [`LoadError`].
///
/// # Panics
///
/// As [`load`] does.
pub fn load_telling(
    staged: Staged,
    inspection: Inspection,
    tell: &mut dyn FnMut(&'static str),
) -> Result<Generation, LoadError> {
    static GENERATIONS: AtomicU64 = AtomicU64::new(1);

    assert_eq!(staged.digest(), inspection.digest, "what is loaded has to be what was judged");
    let origin = staged.origin().into();
    tell("load");
    // Declared before all that points into it, and therefore dropped after it.
    let image = Image::open(staged.into_file()).map_err(|message| LoadError::Open { message })?;
    let root = checked_root(&image)?;
    tell("init");
    if let Err(failure) = root.init()(boundary::host_table()).into_result() {
        return Err(LoadError::Init { failure: boundary::own_failure(failure) });
    }
    let behaviors = behaviors(root, &inspection)?;
    Ok(Generation {
        number: GenerationNumber(GENERATIONS.fetch_add(1, Ordering::Relaxed)),
        origin,
        name: inspection.manifest.name.as_str().into(),
        inspection,
        behaviors,
        root,
        image,
    })
}

/// The root module of an image whose boundary is the host's. It may be used while the image is mapped.
fn checked_root(image: &Image) -> Result<PluginRootRef, LoadError> {
    // An error's text is made here: the error itself may point into the image.
    let root_error = |message: String| LoadError::Root { message };
    let header = image.header().map_err(root_error)?;
    if !header.is_valid() {
        return Err(root_error("it is of another version of abi_stable".to_owned()));
    }
    let header = header.upgrade().map_err(|error| root_error(error.to_string()))?;
    let layout = header.layout().ok_or_else(|| root_error("it does not describe its layout".to_owned()))?;
    // Fresh for each check: what it remembers points into the image. The host's layout comes first, as the one to be served.
    check_layout_compatibility_with_globals(<PluginRootRef as StableAbi>::LAYOUT, layout, &CheckingGlobals::new())
        .map_err(|errors| LoadError::Layout { message: errors.to_string() })?;
    // SAFETY: the layout was checked in the line above.
    let root = unsafe { header.init_root_module_with_unchecked_layout::<PluginRootRef>() };
    root.map_err(|error| root_error(error.to_string()))
}

/// The behaviours of a plugin, if they are those that its manifest lists.
fn behaviors(root: PluginRootRef, inspection: &Inspection) -> Result<Vec<Behavior>, LoadError> {
    let manifest = &inspection.manifest;
    let tables = root.behaviors()();
    let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let provided: Vec<String> = tables.iter().map(|table| name(&table.name().as_rslice())).collect();
    if !provided.iter().eq(manifest.behaviors.iter().map(|behavior| &behavior.name)) {
        let listed = manifest.behaviors.iter().map(|behavior| behavior.name.clone()).collect();
        return Err(LoadError::Behaviors { listed, provided });
    }
    let pairs = manifest.behaviors.iter().zip(tables.iter());
    pairs
        .map(|(listed, table)| {
            Behavior::new(listed, &inspection.capabilities, *table)
                .map_err(|message| LoadError::Description { behavior: listed.name.clone(), message })
        })
        .collect()
}
