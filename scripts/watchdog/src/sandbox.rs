//! What an upgrade script must not write to, whatever it does: the identity, and what the watchdog itself relies on.
//!
//! Landlock knows only what is allowed. So everything is allowed except on the way down to the protected folders: of
//! each folder on that way, the entries beside it are allowed one by one. As a consequence, a script cannot make new
//! entries in the folders above the home; `TMPDIR` names a place where it can.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError,
};

/// The folders of a home that scripts cannot write to.
const PROTECTED: [&str; 4] = ["identity", "releases", "trust", "update"];

/// Why a script cannot be kept away from the identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SandboxError {
    /// The kernel has no Landlock, or it is turned off.
    #[error("this kernel cannot restrict a process (Landlock): {0}")]
    Unsupported(RulesetError),
    /// A folder on the way cannot be listed.
    #[error("cannot list {}: {source}", folder.display())]
    List {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A ruleset that a child can put on itself: it may write everywhere but in the protected folders of `home`.
pub(crate) fn ruleset(home: &Path) -> Result<RulesetCreated, SandboxError> {
    // Truncation and moves between folders are writing, too; kernels that cannot restrict them restrict the rest.
    let writing = AccessFs::from_write(ABI::V3);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_write(ABI::V1))
        .map_err(SandboxError::Unsupported)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(writing)
        .and_then(Ruleset::create)
        .map_err(SandboxError::Unsupported)?;
    for path in allowed(home)? {
        // Gone since it was listed, or not to be opened: then it is not allowed.
        let Ok(opened) = PathFd::new(&path) else { continue };
        let access = if path.is_dir() { writing } else { writing & AccessFs::from_file(ABI::V3) };
        ruleset = ruleset.add_rule(PathBeneath::new(opened, access)).map_err(SandboxError::Unsupported)?;
    }
    Ok(ruleset)
}

/// The entries beside the way down to the protected folders.
fn allowed(home: &Path) -> Result<Vec<PathBuf>, SandboxError> {
    let mut allowed = Vec::new();
    for folder in home.ancestors() {
        let failed = |source| SandboxError::List { folder: folder.into(), source };
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            // A link may lead to what must not be allowed; what it leads to is reached by its own name.
            let is_link = entry.file_type().map_err(failed)?.is_symlink();
            let protected = folder == home && PROTECTED.iter().any(|name| path.ends_with(name));
            if !is_link && !protected && !home.starts_with(&path) {
                allowed.push(path);
            }
        }
    }
    Ok(allowed)
}
