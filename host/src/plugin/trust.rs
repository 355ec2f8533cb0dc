//! Whether the operator's settings allow a plugin: who can have written its file, who signed it, what it may do.
//!
//! A plugin is native code with all rights of the host, so this is decided before any of it runs. What is asked is the
//! descriptor that the file was read through, not its path, which may lead elsewhere by now.

use std::{
    fmt, fs,
    io::Read,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use minisign_verify::{PublicKey, Signature};
use theseus_abi::Capability;

use super::{inspect::Inspection, manifest::shorten, source::Source};
use crate::config::{self, Trust};

/// The longest key file, in bytes.
const KEY_BYTES_MAX: u64 = 4096;

/// The most keys in the folder of trusted keys.
const KEYS_MAX: usize = 256;

/// Bits of a file's mode that let others than its owner write it, and the one that lets only owners remove files from a folder.
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// What an operator allows plugins to be and to do.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// The settings for plugins.
    pub settings: &'a config::Plugins,
    /// The folder with the keys whose signatures are trusted. It need not exist.
    pub keys: &'a Path,
}

/// To whom a file or a folder belongs, and who may write it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ownership {
    /// The user.
    pub uid: u32,
    /// The mode, as chmod(1) has it.
    pub mode: u32,
}

/// Where a plugin file comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Provenance {
    /// Where it really lies.
    pub path: PathBuf,
    /// Of the file.
    pub file: Ownership,
    /// Of the folder that it was in.
    pub folder: Ownership,
    /// Who signed it.
    pub signature: SignedBy,
}

/// Who signed a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SignedBy {
    /// Nobody: no signature is beside it.
    Nobody,
    /// Somebody whose key is not trusted. Whether the signature is good cannot be known.
    Unknown {
        /// The key that the signature names.
        key: KeyId,
    },
    /// A trusted key. The signature is good.
    Trusted {
        /// The key.
        key: KeyId,
        /// The file with the public key.
        file: PathBuf,
        /// What the signer wrote under the signature's protection.
        comment: String,
    },
}

/// The name that minisign gives a key pair; shown as minisign does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyId(u64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

/// Why a plugin is not allowed, although its file is that of a plugin. None of its code has run.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Denial {
    /// Somebody else owns it.
    #[error(
        "{} belongs to the user with id {owner}, who is neither root nor the host's (id {host}): \
         `sudo chown {host} {}`, or set plugins.trust",
        path.display(),
        path.display()
    )]
    OtherOwner {
        /// The file or its folder.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// The host's user.
        host: u32,
    },
    /// Others may write it.
    #[error(
        "{} can be written by others than its owner (mode {mode:04o}): `chmod go-w {}`, or set plugins.trust",
        path.display(),
        path.display()
    )]
    WritableByOthers {
        /// The file or its folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A signature is asked for.
    #[error(
        "it is not signed, and plugins.trust is \"signed\": `minisign -Sm {}` makes {}.minisig",
        path.display(),
        path.display()
    )]
    Unsigned {
        /// The file.
        path: PathBuf,
    },
    /// A trusted signature is asked for.
    #[error(
        "it is signed by the key {key}, which is not trusted: put its public key into {}, or have it signed by a trusted one",
        keys.display()
    )]
    UntrustedKey {
        /// The key.
        key: KeyId,
        /// The folder of trusted keys.
        keys: PathBuf,
    },
    /// The signature is not one of this file.
    #[error(
        "its signature by the trusted key {key} is false ({problem}): the file or the signature was changed; get both again"
    )]
    BadSignature {
        /// The key that the signature names.
        key: KeyId,
        /// What is wrong.
        problem: String,
    },
    /// What should be the signature is none.
    #[error("{}.minisig is not a signature of minisign ({problem}): remove it, or sign again", path.display())]
    MalformedSignature {
        /// The file that it should sign.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A trusted key cannot be used.
    #[error("the trusted key {} cannot be used: {problem}; correct or remove it", path.display())]
    BadKey {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// It asks for more than it may.
    #[error(
        "it asks for the capability `{capability}` ({}), which is not granted: add it to plugins.capabilities in theseus.toml",
        capability.meaning()
    )]
    NotGranted {
        /// What it asks for.
        capability: Capability,
    },
}

impl Policy<'_> {
    /// Where a file with this content comes from.
    ///
    /// # Errors
    ///
    /// If its signature, or a trusted key, is not what it seems: that is never taken, whatever the settings.
    pub fn provenance(&self, source: &Source, bytes: &[u8]) -> Result<Provenance, Denial> {
        let signature = match &source.signature {
            None => SignedBy::Nobody,
            Some(text) => self.signed_by(&source.path, text, bytes)?,
        };
        Ok(Provenance { path: source.path.clone(), file: source.file, folder: source.folder, signature })
    }

    /// Whether the settings allow a plugin from there that asks for what it asks for.
    ///
    /// # Errors
    ///
    /// What they do not allow.
    pub fn permit(&self, provenance: &Provenance, inspection: &Inspection) -> Result<(), Denial> {
        self.permit_source(provenance)?;
        let missing =
            inspection.capabilities.iter().find(|capability| !self.settings.capabilities.contains(capability));
        missing.map_or(Ok(()), |capability| Err(Denial::NotGranted { capability: *capability }))
    }

    fn permit_source(&self, provenance: &Provenance) -> Result<(), Denial> {
        let path = &provenance.path;
        match (self.settings.trust, &provenance.signature) {
            (Trust::Any, _) | (Trust::Signed, SignedBy::Trusted { .. }) => Ok(()),
            (Trust::Signed, SignedBy::Nobody) => Err(Denial::Unsigned { path: path.clone() }),
            (Trust::Signed, SignedBy::Unknown { key }) => {
                Err(Denial::UntrustedKey { key: *key, keys: self.keys.to_owned() })
            }
            (Trust::Owner, _) => {
                provenance.file.check(path)?;
                // In a folder with the sticky bit, such as /tmp, nobody can put another file in the place of one's own.
                let folder =
                    Ownership { mode: provenance.folder.mode & !sticky(provenance.folder.mode), ..provenance.folder };
                folder.check(path.parent().unwrap_or(path))
            }
        }
    }

    fn signed_by(&self, path: &Path, text: &[u8], bytes: &[u8]) -> Result<SignedBy, Denial> {
        let malformed = |problem: String| Denial::MalformedSignature { path: path.to_owned(), problem };
        let text = str::from_utf8(text).map_err(|_| malformed("it is not text".to_owned()))?;
        let signature = Signature::decode(text).map_err(|error| malformed(error.to_string()))?;
        // minisign's formats: two bytes of algorithm, eight of key id, then key or signature.
        let key = key_id(text).ok_or_else(|| malformed("it does not name its key".to_owned()))?;
        let mut problem = None;
        for (file, public) in self.trusted_keys()?.into_iter().filter(|(_, public)| public.id == key) {
            match public.key.verify(bytes, &signature, true) {
                Ok(()) => {
                    let comment = shorten(signature.trusted_comment());
                    return Ok(SignedBy::Trusted { key, file, comment });
                }
                Err(error) => problem = Some(error.to_string()),
            }
        }
        problem.map_or(Ok(SignedBy::Unknown { key }), |problem| Err(Denial::BadSignature { key, problem }))
    }

    fn trusted_keys(&self) -> Result<Vec<(PathBuf, TrustedKey)>, Denial> {
        let bad = |path: &Path, problem: String| Denial::BadKey { path: path.to_owned(), problem };
        let entries = match fs::read_dir(self.keys) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(bad(self.keys, error.to_string())),
        };
        let mut keys = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| bad(self.keys, error.to_string()))?.path();
            if path.extension().is_none_or(|extension| extension != "pub") {
                continue;
            }
            if keys.len() == KEYS_MAX {
                return Err(bad(self.keys, format!("there are more than {KEYS_MAX} keys")));
            }
            let key = TrustedKey::read(&path)?;
            keys.push((path, key));
        }
        keys.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(keys)
    }
}

fn sticky(mode: u32) -> u32 {
    if mode & STICKY == 0 { 0 } else { WRITABLE_BY_OTHERS }
}

impl Ownership {
    pub(super) fn of(file: &fs::File) -> std::io::Result<Ownership> {
        use std::os::unix::fs::MetadataExt;

        let metadata = file.metadata()?;
        Ok(Ownership { uid: metadata.uid(), mode: metadata.mode() & 0o7777 })
    }

    /// Whether nobody but root and the host's user can have written what this is the ownership of.
    fn check(self, path: &Path) -> Result<(), Denial> {
        let host = rustix::process::geteuid().as_raw();
        if self.uid != host && self.uid != 0 {
            return Err(Denial::OtherOwner { path: path.to_owned(), owner: self.uid, host });
        }
        if self.mode & WRITABLE_BY_OTHERS != 0 {
            return Err(Denial::WritableByOthers { path: path.to_owned(), mode: self.mode });
        }
        Ok(())
    }
}

struct TrustedKey {
    id: KeyId,
    key: PublicKey,
}

impl TrustedKey {
    /// Reads a key that nobody but root and the host's user can have put there.
    fn read(path: &Path) -> Result<TrustedKey, Denial> {
        let bad = |problem: String| Denial::BadKey { path: path.to_owned(), problem };
        let file = fs::File::open(path).map_err(|error| bad(error.to_string()))?;
        let ownership = Ownership::of(&file).map_err(|error| bad(error.to_string()))?;
        ownership.check(path).map_err(|denial| bad(denial.to_string()))?;
        let mut text = String::new();
        file.take(KEY_BYTES_MAX).read_to_string(&mut text).map_err(|error| bad(error.to_string()))?;
        let key = PublicKey::decode(text.trim()).map_err(|error| bad(error.to_string()))?;
        let id = key_id(&text).ok_or_else(|| bad("it has no key id".to_owned()))?;
        Ok(TrustedKey { id, key })
    }
}

/// The key id in the second line of a public key or a signature.
fn key_id(text: &str) -> Option<KeyId> {
    let bytes = STANDARD.decode(text.trim().lines().nth(1)?.trim()).ok()?;
    Some(KeyId(u64::from_le_bytes(*bytes.get(2..)?.first_chunk()?)))
}
