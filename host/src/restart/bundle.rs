//! Bundles: what an upgrade brings along, and the digest that names it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// The schema of a bundle's manifest that this program reads.
pub const SCHEMA: u32 = 1;

/// The manifest's name in the bundle.
pub const MANIFEST: &str = "bundle.json";

/// The only place in a bundle where the host's binary may lie.
pub const HOST: &str = "bin/theseus";

/// The longest manifest, in bytes.
const MANIFEST_LENGTH_MAX: u64 = 1024 * 1024;

/// The most files in a bundle.
const FILES_MAX: usize = 1000;

/// The most bytes in a bundle.
const BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// The longest path of a file in a bundle, in bytes.
const PATH_LENGTH_MAX: usize = 255;

/// What `bundle.json` says. Fields that this version does not know are ignored, but covered by the digest.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The product's name.
    pub name: String,
    /// Its version, for people.
    pub version: String,
    /// Raised with each release that must not be followed by an older one.
    pub epoch: u64,
    /// [`HOST`] if the bundle brings a host binary; without one the present binary is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Plugin files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<String>,
    /// Other files, for the upgrade script.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// The upgrade script to run, a name in the watchdog's folder of scripts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply: Option<String>,
    /// The plugin ABI versions that the bundle's host binary serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abi: Option<AbiVersions>,
}

/// A range of plugin ABI versions, both ends included.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct AbiVersions {
    /// The lowest version.
    pub min: u32,
    /// The highest version.
    pub max: u32,
}

/// A file of a bundle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BundledFile {
    /// Where it lies.
    pub path: PathBuf,
    /// The blake3 of its content.
    pub digest: Digest,
    /// Whether its owner may execute it.
    pub executable: bool,
}

/// A bundle that was read whole and hashed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bundle {
    /// Its folder; absolute.
    pub folder: PathBuf,
    /// What it says about itself.
    pub manifest: Manifest,
    /// The digest over all its files.
    pub digest: Digest,
    /// The host binary, if it brings one.
    pub host: Option<BundledFile>,
    /// The plugins, in the order of the manifest.
    pub plugins: Vec<BundledFile>,
}

/// Why a folder is not an acceptable bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file is missing or cannot be read.
    #[error("cannot read {} of the bundle: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The manifest is not one.
    #[error("{} is not a bundle manifest: {source}; docs/restart.md describes it", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// Where it departs from the format.
        source: serde_json::Error,
    },
    /// The manifest is of a later format.
    #[error("the bundle has schema {found}, and this program reads schema {SCHEMA}")]
    Schema {
        /// Its schema.
        found: u32,
    },
    /// A path would leave the bundle, or cannot be used everywhere.
    #[error(
        "`{path}` cannot be a file of a bundle: paths are relative, up to {PATH_LENGTH_MAX} of a-z A-Z 0-9 . _ + - and /, \
         and no part begins with a dot"
    )]
    UnsafePath {
        /// The path.
        path: String,
    },
    /// Two entries name the same file.
    #[error("the manifest names `{path}` twice")]
    Twice {
        /// The path.
        path: String,
    },
    /// The host binary lies elsewhere.
    #[error("the manifest's host is `{path}`, and `{HOST}` is expected")]
    HostPlace {
        /// The path.
        path: String,
    },
    /// The host binary cannot be started.
    #[error("`{HOST}` of the bundle is not executable: chmod +x it")]
    HostNotExecutable,
    /// The script's name is not one.
    #[error("`{name}` cannot be an upgrade script: its name is 1 to 64 of a-z, 0-9 and -")]
    ScriptName {
        /// The name.
        name: String,
    },
    /// The path leads over something that is not a plain file or folder.
    #[error("{} is a link or not a plain file: a bundle holds the files themselves", path.display())]
    NotPlain {
        /// The file.
        path: PathBuf,
    },
    /// More files, or more bytes, than a bundle may have.
    #[error("the bundle has more than {FILES_MAX} files or {BYTES_MAX} bytes")]
    TooLarge,
}

/// Reads a bundle, every byte of it, and checks that it is one.
///
/// # Errors
///
/// What is wrong with it.
pub fn read(folder: &Path) -> Result<Bundle, BundleError> {
    let unreadable = |source| BundleError::Read { path: folder.into(), source };
    let folder = fs::canonicalize(folder).map_err(unreadable)?;
    let manifest = read_manifest(&folder)?;

    let mut files = BTreeMap::new();
    let mut bytes_left = BYTES_MAX;
    for path in paths(&manifest)? {
        files.insert(path, read_file(&folder, path, &mut bytes_left)?);
    }
    let file = |path: &String| files[path.as_str()].clone();
    let host = manifest.host.as_ref().map(file);
    if host.as_ref().is_some_and(|host| !host.executable) {
        return Err(BundleError::HostNotExecutable);
    }
    let (plugins, digest) = (manifest.plugins.iter().map(file).collect(), digest(&files));
    Ok(Bundle { folder, manifest, digest, host, plugins })
}

/// The digest of a release: the blake3 of one line a file, in the byte order of their paths, each the file's blake3 in
/// hexadecimal, `x` or `-` for whether its owner may execute it, and its path, parted by blanks and ended by a newline.
fn digest(files: &BTreeMap<&str, BundledFile>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for (path, file) in files {
        let mode = if file.executable { 'x' } else { '-' };
        hasher.update(format!("{} {mode} {path}\n", file.digest).as_bytes());
    }
    hasher.finalize().into()
}

fn read_manifest(folder: &Path) -> Result<Manifest, BundleError> {
    #[derive(Deserialize)]
    struct Schema {
        schema: u32,
    }
    let path = folder.join(MANIFEST);
    let unreadable = |source| BundleError::Read { path: path.clone(), source };
    check_plain(folder, MANIFEST)?;
    let mut text = Vec::new();
    let file = File::open(&path).map_err(unreadable)?;
    file.take(MANIFEST_LENGTH_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MANIFEST_LENGTH_MAX {
        return Err(BundleError::TooLarge);
    }
    let malformed = |source| BundleError::Manifest { path: path.clone(), source };
    let Schema { schema: found } = serde_json::from_slice(&text).map_err(malformed)?;
    if found != SCHEMA {
        return Err(BundleError::Schema { found });
    }
    serde_json::from_slice(&text).map_err(malformed)
}

/// The paths of all files of a bundle, the manifest first, once they are known to be acceptable.
fn paths(manifest: &Manifest) -> Result<Vec<&str>, BundleError> {
    if let Some(path) = manifest.host.as_ref().filter(|path| *path != HOST) {
        return Err(BundleError::HostPlace { path: path.clone() });
    }
    if let Some(name) = manifest.apply.as_ref().filter(|name| !is_script_name(name)) {
        return Err(BundleError::ScriptName { name: name.clone() });
    }
    let named = manifest.host.iter().chain(&manifest.plugins).chain(&manifest.files);
    let mut paths = vec![MANIFEST];
    for path in named {
        if !is_safe_path(path) {
            return Err(BundleError::UnsafePath { path: path.clone() });
        }
        // A file in the host's place that is not named as the host would take it.
        if paths.contains(&path.as_str()) || (path == HOST && manifest.host.is_none()) {
            return Err(BundleError::Twice { path: path.clone() });
        }
        paths.push(path);
        if paths.len() > FILES_MAX {
            return Err(BundleError::TooLarge);
        }
    }
    Ok(paths)
}

fn is_script_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn is_safe_path(path: &str) -> bool {
    let part_is_safe = |part: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'-');
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(allowed)
    };
    path.len() <= PATH_LENGTH_MAX && path.split('/').all(part_is_safe)
}

/// Refuses links on the way: what a link leads to can change without the bundle changing.
fn check_plain(folder: &Path, path: &str) -> Result<fs::Metadata, BundleError> {
    let mut place = folder.to_owned();
    let mut metadata = None;
    for part in Path::new(path).components() {
        if metadata.as_ref().is_some_and(|above: &fs::Metadata| !above.is_dir()) {
            return Err(BundleError::NotPlain { path: place });
        }
        place.push(part);
        let found = fs::symlink_metadata(&place);
        metadata = Some(found.map_err(|source| BundleError::Read { path: place.clone(), source })?);
    }
    metadata.filter(fs::Metadata::is_file).ok_or(BundleError::NotPlain { path: place })
}

fn read_file(folder: &Path, path: &str, bytes_left: &mut u64) -> Result<BundledFile, BundleError> {
    let metadata = check_plain(folder, path)?;
    *bytes_left = bytes_left.checked_sub(metadata.len()).ok_or(BundleError::TooLarge)?;
    let path = folder.join(path);
    let mut hasher = blake3::Hasher::new();
    let hashed = File::open(&path).and_then(|file| hasher.update_reader(file.take(metadata.len())).map(drop));
    hashed.map_err(|source| BundleError::Read { path: path.clone(), source })?;
    let executable = metadata.permissions().mode() & 0o100 != 0;
    Ok(BundledFile { path, digest: hasher.finalize().into(), executable })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Writes a bundle with a host and one plugin; `manifest` is its whole text.
    fn write(folder: &Path, manifest: &str) {
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::create_dir_all(folder.join("plugins")).unwrap();
        fs::write(folder.join(HOST), "#!/bin/sh\n").unwrap();
        fs::set_permissions(folder.join(HOST), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.join("plugins/liba.so"), "a plugin").unwrap();
        fs::write(folder.join(MANIFEST), manifest).unwrap();
    }

    fn manifest(rest: &str) -> String {
        format!("{{\"schema\":1,\"name\":\"example\",\"version\":\"1.2\",\"epoch\":3{rest}}}")
    }

    #[test]
    fn every_file_counts_for_the_digest() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, &manifest(",\"host\":\"bin/theseus\",\"plugins\":[\"plugins/liba.so\"]"));
        let bundle = read(folder).unwrap();
        assert_eq!(bundle.manifest.epoch, 3);
        assert_eq!(bundle.plugins[0].digest, blake3::hash(b"a plugin").into());
        assert_eq!(bundle.host.as_ref().unwrap().digest, blake3::hash(b"#!/bin/sh\n").into());

        fs::write(folder.join("not-named"), "ignored").unwrap();
        assert_eq!(read(folder).unwrap().digest, bundle.digest);
        fs::write(folder.join("plugins/liba.so"), "a plugim").unwrap();
        let changed = read(folder).unwrap().digest;
        assert_ne!(changed, bundle.digest);
        fs::set_permissions(folder.join("plugins/liba.so"), fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(read(folder).unwrap().digest, changed);
    }

    #[test]
    fn what_is_not_a_bundle_is_refused_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let refused = |text: &str| {
            write(folder, text);
            read(folder).unwrap_err()
        };
        assert!(matches!(refused("{\"schema\":2}"), BundleError::Schema { found: 2 }));
        assert!(matches!(refused("{\"schema\":1}"), BundleError::Manifest { .. }));
        assert!(matches!(refused("{\"sch"), BundleError::Manifest { .. }));
        let refused = |rest: &str| refused(&manifest(rest));
        for path in ["../a", "/etc/passwd", "a//b", ".hidden", "a/./b", "", "a b"] {
            let error = refused(&format!(",\"files\":[\"{path}\"]"));
            assert!(matches!(error, BundleError::UnsafePath { .. }), "{path}: {error}");
        }
        assert!(matches!(refused(",\"files\":[\"bundle.json\"]"), BundleError::Twice { .. }));
        assert!(matches!(refused(",\"files\":[\"bin/theseus\"]"), BundleError::Twice { .. }));
        assert!(matches!(refused(",\"files\":[\"absent\"]"), BundleError::Read { .. }));
        assert!(matches!(refused(",\"files\":[\"bin\"]"), BundleError::NotPlain { .. }));
        assert!(matches!(refused(",\"files\":[\"bundle.json/a\"]"), BundleError::NotPlain { .. }));
        assert!(matches!(refused(",\"host\":\"theseus\""), BundleError::HostPlace { .. }));
        assert!(matches!(refused(",\"apply\":\"../x\""), BundleError::ScriptName { .. }));

        symlink("plugins/liba.so", folder.join("link")).unwrap();
        assert!(matches!(refused(",\"files\":[\"link\"]"), BundleError::NotPlain { .. }));
        symlink("plugins", folder.join("linked")).unwrap();
        assert!(matches!(refused(",\"files\":[\"linked/liba.so\"]"), BundleError::NotPlain { .. }));
        write(folder, &manifest(",\"host\":\"bin/theseus\""));
        fs::set_permissions(folder.join(HOST), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(read(folder), Err(BundleError::HostNotExecutable)));
    }
}
