//! Instructions that the host published, and whether to follow them.

use std::{
    io,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{
    bundle::{self, BundleError, Digest},
    files::{self, Layout},
    releases::Releases,
};

const SCHEMA: u32 = 1;

/// What the host wants done: `update/spool/ID.json`.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// The format, 1.
    pub schema: u32,
    /// Its id, also its file's name.
    pub id: String,
    /// The digest of the bundle.
    pub release: Digest,
    /// Where the bundle lies.
    pub bundle: PathBuf,
    /// The bundle's release epoch.
    pub epoch: u64,
    /// Why, for people.
    pub reason: String,
    /// Who asked, for people.
    pub requested_by: String,
    /// When it was made, in microseconds since the Unix epoch.
    pub created_us: u64,
    /// From when on it is too late.
    pub expires_us: u64,
    /// The identity's own id.
    pub identity: String,
    /// The last transaction when it was made.
    pub tid: u64,
    /// The head of the history when it was made.
    pub head: Digest,
}

/// Why an instruction is not followed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Its file cannot be read.
    #[error("the instruction cannot be read: {0}")]
    Unreadable(io::Error),
    /// Its file is half written, of another schema, or something else.
    #[error("it is not an instruction of schema {SCHEMA}: {problem}")]
    Malformed {
        /// What is wrong.
        problem: String,
    },
    /// A later release was accepted before.
    #[error("its release epoch is {epoch}, and {floor} was already in force: build the release with a later epoch")]
    Older {
        /// The instruction's epoch.
        epoch: u64,
        /// The lowest one that is accepted.
        floor: u64,
    },
    /// It came too late.
    #[error("it expired {late_s} s ago: request the update again")]
    Expired {
        /// By how many seconds.
        late_s: u64,
    },
    /// The release was tried before, and did not work.
    #[error("release {release} did not work before: remove update/quarantine/{release} to have it tried again")]
    Quarantined {
        /// The release.
        release: Digest,
    },
    /// The bundle is not acceptable.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The bundle says another epoch than the instruction.
    #[error("its release epoch is {epoch}, and the bundle's is {bundle}")]
    OtherEpoch {
        /// The instruction's.
        epoch: u64,
        /// The bundle's.
        bundle: u64,
    },
    /// The bundle is another one than was meant.
    #[error("the bundle's digest is {found}, and {expected} was expected: the bundle was changed after the request")]
    OtherDigest {
        /// What the instruction says.
        expected: Digest,
        /// What was read.
        found: Digest,
    },
    /// The release folder was tampered with.
    #[error("releases/{release} is already there, and its content is {found}: remove the folder and request again")]
    DamagedRelease {
        /// What it should be.
        release: Digest,
        /// What it is.
        found: String,
    },
    /// The script it needs is not there.
    #[error("the upgrade script {} is missing or not executable (see --apply-dir)", path.display())]
    NoScript {
        /// Where it should be.
        path: PathBuf,
    },
}

/// Reads the instruction at `path` and checks all that can be known without unpacking the bundle.
///
/// # Errors
///
/// Why it is not followed.
pub fn read(path: &Path) -> Result<Instruction, Refusal> {
    let text = files::read(path).map_err(Refusal::Unreadable)?.unwrap_or_default();
    let malformed = |problem: String| Refusal::Malformed { problem };
    let any: serde_json::Value = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
    if any["schema"] != SCHEMA {
        return Err(malformed(format!("its schema is {}", any["schema"])));
    }
    let instruction: Instruction = serde_json::from_value(any).map_err(|error| malformed(error.to_string()))?;
    if !is_id(&instruction.id) || path.file_stem().and_then(|stem| stem.to_str()) != Some(&instruction.id) {
        return Err(malformed(format!("its id is `{}`, which is not the name of its file", instruction.id)));
    }
    if !instruction.bundle.is_absolute() {
        return Err(malformed(format!("its bundle `{}` is not an absolute path", instruction.bundle.display())));
    }
    Ok(instruction)
}

/// Checks whether an instruction may be followed here and now, and says which script its release needs.
///
/// # Errors
///
/// Why it may not.
pub fn check(
    instruction: &Instruction,
    releases: &Releases,
    apply_dir: Option<&Path>,
) -> Result<Option<PathBuf>, Refusal> {
    let floor = releases.floor().map_err(Refusal::Unreadable)?;
    if instruction.epoch < floor {
        return Err(Refusal::Older { epoch: instruction.epoch, floor });
    }
    let now = now_us();
    if now >= instruction.expires_us {
        return Err(Refusal::Expired { late_s: (now - instruction.expires_us) / 1_000_000 });
    }
    if releases.is_quarantined(&instruction.release) {
        return Err(Refusal::Quarantined { release: instruction.release.clone() });
    }
    let manifest = bundle::manifest(&instruction.bundle)?;
    if manifest.epoch != instruction.epoch {
        return Err(Refusal::OtherEpoch { epoch: instruction.epoch, bundle: manifest.epoch });
    }
    script(manifest.apply.as_deref(), apply_dir)
}

/// The script to run for a manifest that names `wanted`; none if there is nothing to run.
///
/// # Errors
///
/// If the script is missing.
pub fn script(wanted: Option<&str>, apply_dir: Option<&Path>) -> Result<Option<PathBuf>, Refusal> {
    let path = match (apply_dir, wanted) {
        (None, None) => return Ok(None),
        (None, Some(name)) => return Err(Refusal::NoScript { path: name.into() }),
        (Some(folder), name) => folder.join(name.unwrap_or("default")),
    };
    if rustix::fs::access(&path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file() {
        Ok(Some(path))
    } else {
        Err(Refusal::NoScript { path })
    }
}

/// What is in the spool, in the order in which it will be done. Temporary files are left out.
///
/// # Errors
///
/// What the system said.
pub fn waiting(layout: &Layout) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in layout.spool().read_dir()? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.extension().is_some_and(|extension| extension == "json") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Whether a text can be the id of an instruction: 1 to 64 of `a-z`, `0-9` and `-`.
pub fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// The time, in microseconds since the Unix epoch.
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_micros() as u64)
}
