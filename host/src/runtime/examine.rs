//! What a plugin file says about itself, and whether a host would take it: without loading it, and without a host.

use std::path::{Path, PathBuf};

use serde::Serialize;
use theseus_abi::{HOST_ABI, Manifest};

use crate::{
    config::{self, Config},
    home::Home,
    plugin::{self, FILE_BYTES_LIMIT, Findings, Policy, Provenance, SignedBy},
};

/// By which rules files are judged.
#[derive(Clone, Debug)]
pub struct Rules {
    settings: config::Plugins,
    keys: PathBuf,
}

impl Rules {
    /// Those of a home: its settings, and the keys that it trusts.
    pub fn of(home: &Home, config: &Config) -> Rules {
        Rules { settings: config.plugins.clone(), keys: home.trust() }
    }
}

/// All that can be said of a file.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct FileView {
    /// The path that was given.
    pub path: String,
    /// Whether a host with these rules would take it, as far as the file tells.
    pub acceptable: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// What an operator should know, though it is no reason to refuse.
    pub warnings: Vec<String>,
    /// blake3, in hexadecimal.
    pub digest: Option<String>,
    /// Its length.
    pub bytes: Option<u64>,
    /// What its note says; none if it cannot be read.
    pub manifest: Option<Manifest>,
    /// Which of the boundary's versions hosts of this program serve.
    pub host_abi: String,
    /// What its tables say; none if it is no library for this machine.
    pub library: Option<LibraryView>,
    /// Where it comes from; none if it could not be read, or if its signature is false.
    pub origin: Option<OriginView>,
}

/// What a library's tables say.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct LibraryView {
    /// The libraries that it needs.
    pub needed: Vec<NeededView>,
    /// Folders of its own in which they are searched for.
    pub runpath: Option<String>,
    /// What the linker named this build.
    pub build_id: Option<String>,
    /// Whether the names of its functions are there.
    pub symbols: bool,
    /// Whether debug information is there.
    pub debug_info: bool,
    /// Whether it can be unloaded, as far as its flags tell.
    pub unloads: bool,
    /// Whether it uses static thread-local storage.
    pub static_tls: bool,
}

/// A library that another needs.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct NeededView {
    /// Its name.
    pub name: String,
    /// Where it is; none if it was not found.
    pub found: Option<String>,
}

/// Where a file comes from.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct OriginView {
    /// Where it really lies.
    pub path: String,
    /// The user to whom it belongs.
    pub uid: u32,
    /// Its mode, octal.
    pub mode: String,
    /// The user to whom its folder belongs.
    pub folder_uid: u32,
    /// The folder's mode, octal.
    pub folder_mode: String,
    /// Who signed it: none if nobody did.
    pub signature: Option<SignatureView>,
}

/// Who signed a file.
#[derive(Serialize, Clone, PartialEq, Eq, Debug)]
pub struct SignatureView {
    /// The id of the key.
    pub key: String,
    /// Whether the key is trusted; only then is it known that the signature is good.
    pub trusted: bool,
    /// The file of the trusted key.
    pub key_file: Option<String>,
    /// What the signer wrote.
    pub comment: Option<String>,
}

/// Looks at a file. Runs nothing of it.
pub fn examine(path: &Path, rules: &Rules) -> FileView {
    let mut view = FileView {
        path: path.display().to_string(),
        acceptable: false,
        reasons: Vec::new(),
        warnings: Vec::new(),
        digest: None,
        bytes: None,
        manifest: None,
        host_abi: HOST_ABI.to_string(),
        library: None,
        origin: None,
    };
    // A file that is too large for the settings can still be looked at.
    let (staged, source) = match plugin::stage_from_source(path, FILE_BYTES_LIMIT) {
        Ok(staged) => staged,
        Err(error) => return FileView { reasons: vec![error.to_string()], ..view },
    };
    view.digest = Some(staged.digest().to_string());
    view.bytes = Some(staged.length());
    if staged.length() > rules.settings.file_bytes_max {
        let error = plugin::StageError::TooLarge { path: path.to_owned(), bytes_max: rules.settings.file_bytes_max };
        view.reasons.push(error.to_string());
    }
    let bytes = staged.bytes();
    let (findings, judgement) = plugin::look(bytes);
    let Findings { library, manifest } = findings;
    view.manifest = manifest;
    view.library = library.map(library_view);
    let policy = Policy { settings: &rules.settings, keys: &rules.keys };
    let provenance = policy.provenance(&source, bytes);
    match &judgement {
        Ok(inspection) => view.warnings = inspection.warnings.iter().map(ToString::to_string).collect(),
        Err(refusal) => view.reasons.push(refusal.to_string()),
    }
    match provenance {
        Ok(provenance) => {
            if let Ok(inspection) = &judgement
                && let Err(denial) = policy.permit(&provenance, inspection)
            {
                view.reasons.push(denial.to_string());
            }
            view.origin = Some(origin_view(&provenance));
        }
        Err(denial) => view.reasons.push(denial.to_string()),
    }
    view.acceptable = view.reasons.is_empty();
    view
}

fn library_view(library: plugin::Library) -> LibraryView {
    let needed = library
        .needed
        .into_iter()
        .map(|(name, place)| NeededView { name, found: place.map(|place| place.display().to_string()) });
    LibraryView {
        needed: needed.collect(),
        runpath: library.runpath,
        build_id: library.build_id,
        symbols: library.has_symbols,
        debug_info: library.has_debug_info,
        unloads: !library.no_delete,
        static_tls: library.static_tls,
    }
}

fn origin_view(provenance: &Provenance) -> OriginView {
    let signature = match &provenance.signature {
        SignedBy::Nobody => None,
        SignedBy::Unknown { key } => {
            Some(SignatureView { key: key.to_string(), trusted: false, key_file: None, comment: None })
        }
        SignedBy::Trusted { key, file, comment } => Some(SignatureView {
            key: key.to_string(),
            trusted: true,
            key_file: Some(file.display().to_string()),
            comment: Some(comment.clone()),
        }),
    };
    let mode = |mode: u32| format!("{mode:04o}");
    OriginView {
        path: provenance.path.display().to_string(),
        uid: provenance.file.uid,
        mode: mode(provenance.file.mode),
        folder_uid: provenance.folder.uid,
        folder_mode: mode(provenance.folder.mode),
        signature,
    }
}
