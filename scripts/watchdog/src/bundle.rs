//! The watchdog's reader of bundles, and the unpacking of one into a release folder.
//!
//! What is hashed is what was written: the digest is computed over the bytes on their way into the release.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::files;

/// The manifest's name in the bundle.
pub const MANIFEST: &str = "bundle.json";

/// Where the host's binary lies in a bundle and in a release.
pub const HOST: &str = "bin/theseus";

const SCHEMA: u32 = 1;
const FILES_MAX: usize = 1000;
const BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
const PATH_LENGTH_MAX: usize = 255;

/// The digest of a release: a blake3 as 64 lower-case hexadecimal digits, which is also the name of its folder.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Hash, Debug)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A text that is not a digest.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not a digest of 64 lower-case hexadecimal digits")]
pub struct NotADigest(String);

impl Digest {
    /// The digest as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Enough of it for people to tell releases apart.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let valid = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if valid { Ok(Digest(text.to_owned())) } else { Err(NotADigest(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for Digest {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Self, NotADigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

/// What `bundle.json` says, as far as the watchdog needs it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// The format, 1.
    pub schema: u32,
    /// The product's name.
    pub name: String,
    /// Its version, for people.
    pub version: String,
    /// Raised with each release that must not be followed by an older one.
    pub epoch: u64,
    /// [`HOST`], if the bundle brings a host binary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Plugin files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plugins: Vec<String>,
    /// Other files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// The upgrade script to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply: Option<String>,
}

/// Why a bundle is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `bundle.json` is not a manifest.
    #[error("{} is not a manifest of schema {SCHEMA}: {problem}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A path that leaves the bundle, is named twice, leads over a link or is not a plain file.
    #[error("`{path}` is not acceptable as a file of a bundle: {problem}")]
    Path {
        /// The path in the bundle.
        path: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// More files or bytes than a bundle may have.
    #[error("the bundle has more than {FILES_MAX} files or {BYTES_MAX} bytes")]
    TooLarge,
}

/// Reads the manifest of a bundle or a release, and checks the paths it names.
///
/// # Errors
///
/// What is wrong with it.
pub fn manifest(folder: &Path) -> Result<Manifest, BundleError> {
    check_plain(folder, MANIFEST)?;
    let path = folder.join(MANIFEST);
    let text = files::read(&path).map_err(|source| BundleError::Read { path: path.clone(), source })?;
    let wrong = |problem| BundleError::Manifest { path: path.clone(), problem };
    parse(&text.unwrap_or_default()).map_err(wrong)
}

fn parse(text: &[u8]) -> Result<Manifest, String> {
    let any: serde_json::Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if any["schema"] != SCHEMA {
        return Err(format!("its schema is {}", any["schema"]));
    }
    let manifest: Manifest = serde_json::from_value(any).map_err(|error| error.to_string())?;
    if manifest.host.as_ref().is_some_and(|path| path != HOST) {
        return Err(format!("its host is not `{HOST}`"));
    }
    if let Some(name) = manifest.apply.as_ref().filter(|name| !is_script_name(name)) {
        return Err(format!("`{name}` cannot be the name of an upgrade script"));
    }
    Ok(manifest)
}

/// Whether this can be the name of an upgrade script: 1 to 64 of `a-z`, `0-9` and `-`.
fn is_script_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// The digest of a bundle or a release that lies in `folder`.
///
/// # Errors
///
/// What is wrong with it.
pub fn digest(folder: &Path) -> Result<Digest, BundleError> {
    let manifest = manifest(folder)?;
    walk(folder, &manifest, |_, _| Ok(Box::new(io::sink())))
}

/// Copies a bundle into `target`, which must not exist yet, makes it durable, and says the digest of what was written.
///
/// # Errors
///
/// What is wrong with the bundle or with the disk. `target` may be half done then.
pub fn unpack(folder: &Path, target: &Path) -> Result<Digest, BundleError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| BundleError::Write { path, source }
    };
    fs::create_dir(target).map_err(failed(target))?;
    let manifest = manifest(folder)?;
    let mut written = Vec::new();
    let digest = walk(folder, &manifest, |path, executable| {
        let path = target.join(path);
        let above = path.parent().expect("a joined path has a parent");
        fs::create_dir_all(above).map_err(failed(above))?;
        // Not what the bundle's modes say, but what a release needs: nobody writes to it any more.
        let mode = if executable { 0o755 } else { 0o644 };
        let file = File::options().write(true).create_new(true).mode(mode).open(&path).map_err(failed(&path))?;
        let file = file.try_clone().map(|other| (file, other)).map_err(failed(&path))?;
        written.push((path, file.0));
        Ok(Box::new(file.1))
    })?;
    for (path, file) in written {
        file.sync_all().map_err(failed(&path))?;
        // Each folder from the file up to the target; some more than once, which costs little.
        for above in path.ancestors().skip(1).take_while(|above| above.starts_with(target)) {
            files::sync_folder(above).map_err(failed(above))?;
        }
    }
    Ok(digest)
}

/// Reads every file of a bundle, in the byte order of their paths, hands the content to the writer that `open` gives
/// for it (path, executable), and says the digest: the blake3 of one line a file, `BLAKE3 x PATH` or `BLAKE3 - PATH`.
fn walk<'a>(
    folder: &Path,
    manifest: &'a Manifest,
    mut open: impl FnMut(&'a str, bool) -> Result<Box<dyn Write>, BundleError>,
) -> Result<Digest, BundleError> {
    let mut listing = blake3::Hasher::new();
    let mut bytes_left = BYTES_MAX;
    for path in sorted_paths(manifest)? {
        let metadata = check_plain(folder, path)?;
        let executable = metadata.permissions().mode() & 0o100 != 0;
        if path == HOST && !executable {
            return Err(BundleError::Path { path: path.into(), problem: "the host binary is not executable" });
        }
        let mut writer = open(path, executable)?;
        let mut content = blake3::Hasher::new();
        let source = folder.join(path);
        let unreadable = |error| BundleError::Read { path: source.clone(), source: error };
        let mut file = File::open(&source).map_err(unreadable)?;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let length = file.read(&mut buffer).map_err(unreadable)?;
            if length == 0 {
                break;
            }
            bytes_left = bytes_left.checked_sub(length as u64).ok_or(BundleError::TooLarge)?;
            content.update(&buffer[..length]);
            let written = writer.write_all(&buffer[..length]);
            written.map_err(|source| BundleError::Write { path: path.into(), source })?;
        }
        let mode = if executable { 'x' } else { '-' };
        listing.update(format!("{} {mode} {path}\n", content.finalize()).as_bytes());
    }
    Ok(Digest(listing.finalize().to_string()))
}

/// The manifest itself and the files it names.
fn sorted_paths(manifest: &Manifest) -> Result<Vec<&str>, BundleError> {
    let named = manifest.host.iter().chain(&manifest.plugins).chain(&manifest.files);
    let mut paths: Vec<&str> = named.map(String::as_str).chain([MANIFEST]).collect();
    if paths.len() > FILES_MAX {
        return Err(BundleError::TooLarge);
    }
    paths.sort_unstable();
    let wrong = |path: &str, problem| Err(BundleError::Path { path: path.to_owned(), problem });
    for (index, path) in paths.iter().enumerate() {
        if !is_safe_path(path) {
            return wrong(path, "it is not a relative path of a-z A-Z 0-9 . _ + - whose parts do not begin with a dot");
        }
        if index > 0 && paths[index - 1] == *path {
            return wrong(path, "it is named twice");
        }
        if *path == HOST && manifest.host.is_none() {
            return wrong(path, "it lies in the host's place, and is not named as the host");
        }
    }
    Ok(paths)
}

fn is_safe_path(path: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'-');
    let part_is_safe = |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(allowed);
    path.len() <= PATH_LENGTH_MAX && path.split('/').all(part_is_safe)
}

fn check_plain(folder: &Path, path: &str) -> Result<fs::Metadata, BundleError> {
    let mut place = folder.to_owned();
    let mut parts = path.split('/').peekable();
    while let Some(part) = parts.next() {
        place.push(part);
        let metadata = fs::symlink_metadata(&place);
        let metadata = metadata.map_err(|source| BundleError::Read { path: place.clone(), source })?;
        if parts.peek().is_none() && metadata.is_file() {
            return Ok(metadata);
        }
        if parts.peek().is_none() || !metadata.is_dir() {
            break;
        }
    }
    Err(BundleError::Path { path: path.to_owned(), problem: "it is a link, or not a plain file" })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(folder: &Path, rest: &str) {
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::write(folder.join(HOST), "#!/bin/sh\n").unwrap();
        fs::set_permissions(folder.join(HOST), fs::Permissions::from_mode(0o700)).unwrap();
        let text = format!("{{\"schema\":1,\"name\":\"a\",\"version\":\"1\",\"epoch\":1,\"later\":[],{rest}}}");
        fs::write(folder.join(MANIFEST), text).unwrap();
    }

    #[test]
    fn what_is_unpacked_has_the_digest_of_the_bundle() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("source"), folder.path().join("target"));
        write(&source, "\"host\":\"bin/theseus\",\"files\":[\"data/a/b\"]");
        assert!(matches!(digest(&source), Err(BundleError::Read { .. })));
        fs::create_dir_all(source.join("data/a")).unwrap();
        fs::write(source.join("data/a/b"), vec![7; 700_000]).unwrap();
        fs::write(source.join("stray"), "not part of it").unwrap();
        let expected = digest(&source).unwrap();
        assert_eq!(unpack(&source, &target).unwrap(), expected);
        assert_eq!(digest(&target).unwrap(), expected);
        assert!(!target.join("stray").exists());
        assert_eq!(fs::metadata(target.join(HOST)).unwrap().permissions().mode() & 0o777, 0o755);
        fs::write(target.join("data/a/b"), vec![7; 699_999]).unwrap();
        assert_ne!(digest(&target).unwrap(), expected);
    }

    #[test]
    fn bad_bundles_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        for (rest, what) in [
            ("\"files\":[\"../a\"]", "not a relative path"),
            ("\"files\":[\"/etc/passwd\"]", "not a relative path"),
            ("\"files\":[\"bin\"]", "not a plain file"),
            ("\"files\":[\"link\"]", "not a plain file"),
            ("\"files\":[\"linked/theseus\"]", "not a plain file"),
            ("\"files\":[\"bundle.json\"]", "named twice"),
            ("\"files\":[\"bin/theseus\"]", "not named as the host"),
            ("\"files\":[\"absent\"]", "cannot read"),
            ("\"host\":\"theseus\"", "host is not"),
            ("\"apply\":\"a/b\"", "cannot be the name"),
        ] {
            write(folder, rest);
            let _ = symlink("bin/theseus", folder.join("link"));
            let _ = symlink("bin", folder.join("linked"));
            let error = digest(folder).unwrap_err().to_string();
            assert!(error.contains(what), "{rest}: {error}");
        }
        fs::write(folder.join(MANIFEST), "{\"schema\":2}").unwrap();
        assert!(digest(folder).unwrap_err().to_string().contains("its schema is 2"));
    }
}
