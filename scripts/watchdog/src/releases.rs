//! The folder of releases, the tries of a trial, the floor and the quarantine.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    bundle::{self, BundleError, Digest, Manifest},
    cycle::Tries,
    files::{self, Layout},
    instruction::{Instruction, Refusal},
};

/// A link to a release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// The release that is started.
    Current,
    /// The release that was confirmed last.
    Good,
}

/// Why the first release could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There is no release, and none was given.
    #[error("{} has no release yet: name the host binary with --host", home.display())]
    NoHost {
        /// The home folder.
        home: PathBuf,
    },
    /// The binary could not be installed.
    #[error("cannot install {} as the first release: {problem}", host.display())]
    Host {
        /// The binary.
        host: PathBuf,
        /// What is wrong.
        problem: BundleError,
    },
    /// A link leads nowhere.
    #[error("{} does not lead to a release: make it a link to one of the folders beside it", path.display())]
    BadLink {
        /// The link.
        path: PathBuf,
    },
    /// Something else failed.
    #[error("cannot prepare the releases in {}: {source}", folder.display())]
    Io {
        /// The folder of releases.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The releases of one home.
#[derive(Clone, Debug)]
pub struct Releases {
    layout: Layout,
}

impl Releases {
    /// The releases of this home.
    pub fn new(layout: Layout) -> Self {
        Releases { layout }
    }

    /// The folder of a release.
    pub fn folder(&self, release: &Digest) -> PathBuf {
        self.layout.releases().join(release.as_str())
    }

    /// The host binary that is to be started.
    pub fn current_host(&self) -> PathBuf {
        self.link_path(Link::Current).join(bundle::HOST)
    }

    /// Which release a link leads to; none if it is absent or does not name a release.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn link(&self, link: Link) -> io::Result<Option<Digest>> {
        match fs::read_link(self.link_path(link)) {
            Ok(target) => Ok(target.to_str().and_then(|name| name.parse().ok())),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a link lead to a release, in one step.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn set_link(&self, link: Link, release: &Digest) -> io::Result<()> {
        if self.link(link)?.as_ref() == Some(release) {
            return files::sync_folder(&self.layout.releases());
        }
        files::publish_link(&self.link_path(link), release.as_str())
    }

    fn link_path(&self, link: Link) -> PathBuf {
        self.layout.releases().join(match link {
            Link::Current => "current",
            Link::Good => "good",
        })
    }

    /// Sees to it that there is a current and a good release: those that are there, or `host` as the first one.
    /// Says whether it installed one.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn ensure_first(&self, host: Option<&Path>) -> Result<Option<Digest>, InstallError> {
        let failed = |source| InstallError::Io { folder: self.layout.releases(), source };
        self.remove_partial().map_err(failed)?;
        let mut installed = None;
        let current = match self.link(Link::Current).map_err(failed)? {
            Some(current) => current,
            None => match self.link(Link::Good).map_err(failed)? {
                Some(good) => good,
                None => {
                    let host = host.ok_or_else(|| InstallError::NoHost { home: self.layout.home.clone() })?;
                    let release = self.install(host)?;
                    installed.insert(release).clone()
                }
            },
        };
        if self.link(Link::Good).map_err(failed)?.is_none() {
            self.set_link(Link::Good, &current).map_err(failed)?;
        }
        self.set_link(Link::Current, &current).map_err(failed)?;
        for link in [Link::Good, Link::Current] {
            let path = self.link_path(link);
            if !path.join(bundle::HOST).is_file() {
                return Err(InstallError::BadLink { path });
            }
        }
        Ok(installed)
    }

    /// Makes a release of a host binary alone.
    fn install(&self, host: &Path) -> Result<Digest, InstallError> {
        let failed = |problem| InstallError::Host { host: host.into(), problem };
        let source = self.layout.releases().join(".first");
        let write_failed = |error| failed(BundleError::Write { path: source.clone(), source: error });
        if source.exists() {
            fs::remove_dir_all(&source).map_err(write_failed)?;
        }
        fs::create_dir_all(source.join("bin")).map_err(write_failed)?;
        fs::copy(host, source.join(bundle::HOST))
            .map_err(|error| failed(BundleError::Read { path: host.into(), source: error }))?;
        let manifest = Manifest {
            schema: 1,
            name: "theseus".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            epoch: 0,
            host: Some(bundle::HOST.into()),
            plugins: Vec::new(),
            files: Vec::new(),
            apply: None,
        };
        let text = serde_json::to_vec_pretty(&manifest).expect("strings and numbers always have a JSON form");
        fs::write(source.join(bundle::MANIFEST), text).map_err(write_failed)?;
        let release = bundle::digest(&source).map_err(failed)?;
        self.put(&source, &release).map_err(|refusal| match refusal {
            Refusal::Bundle(problem) => failed(problem),
            other => write_failed(io::Error::other(other.to_string())),
        })?;
        fs::remove_dir_all(&source).map_err(write_failed)?;
        Ok(release)
    }

    /// Unpacks the bundle of an instruction into its release folder; once is enough.
    ///
    /// # Errors
    ///
    /// Why the bundle is refused.
    pub fn stage(&self, instruction: &Instruction) -> Result<(), Refusal> {
        self.put(&instruction.bundle, &instruction.release)
    }

    fn put(&self, bundle: &Path, release: &Digest) -> Result<(), Refusal> {
        let folder = self.folder(release);
        if folder.exists() {
            // It was hashed when it came, but that may be long ago.
            let found = bundle::digest(&folder).map_or_else(|error| error.to_string(), |found| found.to_string());
            if found == release.as_str() && folder.join(bundle::HOST).is_file() {
                return Ok(());
            }
            return Err(Refusal::DamagedRelease { release: release.clone(), found });
        }
        self.remove_partial().map_err(Refusal::Unreadable)?;
        let partial = self.layout.releases().join(format!(".partial-{release}"));
        let found = bundle::unpack(bundle, &partial)?;
        if found != *release {
            return Err(Refusal::OtherDigest { expected: release.clone(), found });
        }
        let write_failed = |source| BundleError::Write { path: partial.join(bundle::HOST), source };
        if !partial.join(bundle::HOST).exists() {
            self.carry_host(&partial).map_err(write_failed)?;
        }
        files::rename_durably(&partial, &folder).map_err(write_failed)?;
        Ok(())
    }

    /// A bundle without a host binary keeps the present one. It is not part of the digest, since the manifest does not
    /// name it.
    fn carry_host(&self, partial: &Path) -> io::Result<()> {
        fs::create_dir_all(partial.join("bin"))?;
        fs::hard_link(self.current_host(), partial.join(bundle::HOST))?;
        files::sync_folder(&partial.join("bin"))?;
        files::sync_folder(partial)
    }

    /// Removes what an interruption, or a refused bundle, left half unpacked.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn remove_partial(&self) -> io::Result<()> {
        for entry in self.layout.releases().read_dir()? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".partial-")) {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }

    /// The tries of a release, as the name of its trial file says; none if it has no such file.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn tries(&self, release: &Digest) -> io::Result<Option<Tries>> {
        Ok(self.trial_files(release)?.into_iter().map(|(_, tries)| tries).min_by_key(|tries| tries.left))
    }

    /// Notes the tries of a release, by renaming its trial file or making one.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn set_tries(&self, release: &Digest, tries: Tries) -> io::Result<()> {
        let path = self.layout.releases().join(format!("trial.{release}+{}-{}", tries.left, tries.done));
        match self.trial_files(release)?.into_iter().next() {
            Some((old, _)) if old == path => files::sync_folder(&self.layout.releases()),
            Some((old, _)) => files::rename_durably(&old, &path),
            None => files::publish(&path, b""),
        }
    }

    /// Forgets the tries of a release.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn remove_tries(&self, release: &Digest) -> io::Result<()> {
        self.trial_files(release)?.iter().try_for_each(|(path, _)| files::remove(path))
    }

    fn trial_files(&self, release: &Digest) -> io::Result<Vec<(PathBuf, Tries)>> {
        let mut found = Vec::new();
        let prefix = format!("trial.{release}+");
        for entry in self.layout.releases().read_dir()? {
            let path = entry?.path();
            let counts = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(&prefix));
            let Some((left, done)) = counts.and_then(|counts| counts.split_once('-')) else { continue };
            if let (Ok(left), Ok(done)) = (left.parse(), done.parse()) {
                found.push((path, Tries { left, done }));
            }
        }
        Ok(found)
    }

    /// The highest release epoch that was in force; 0 if none is noted.
    ///
    /// # Errors
    ///
    /// What the system said, or `InvalidData`.
    pub fn floor(&self) -> io::Result<u64> {
        let Some(text) = files::read(&self.layout.floor())? else { return Ok(0) };
        let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim_end().parse().ok());
        number.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "update/floor is not a decimal number"))
    }

    /// Raises the floor; it is never lowered.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn raise_floor(&self, epoch: u64) -> io::Result<()> {
        if epoch > self.floor()? {
            files::publish(&self.layout.floor(), format!("{epoch}\n").as_bytes())
        } else {
            Ok(())
        }
    }

    /// Whether a release did not work before.
    pub fn is_quarantined(&self, release: &Digest) -> bool {
        self.layout.quarantine().join(release.as_str()).exists()
    }

    /// Notes that a release does not work.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn quarantine(&self, release: &Digest, reason: &str) -> io::Result<()> {
        files::publish(&self.layout.quarantine().join(release.as_str()), format!("{reason}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn releases(home: &Path) -> Releases {
        let layout = Layout { home: home.into() };
        layout.folders().iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
        Releases::new(layout)
    }

    fn digest_of(text: &str) -> Digest {
        blake3::hash(text.as_bytes()).to_string().parse().unwrap()
    }

    #[test]
    fn the_first_release_is_installed_once() {
        let home = tempfile::tempdir().unwrap();
        let releases = releases(home.path());
        assert!(matches!(releases.ensure_first(None), Err(InstallError::NoHost { .. })));
        let host = Path::new("/bin/true");
        let first = releases.ensure_first(Some(host)).unwrap().unwrap();
        assert_eq!(releases.link(Link::Current).unwrap().as_ref(), Some(&first));
        assert_eq!(releases.link(Link::Good).unwrap().as_ref(), Some(&first));
        assert_eq!(bundle::digest(&releases.folder(&first)).unwrap(), first);
        assert!(releases.current_host().is_file());
        assert_eq!(releases.ensure_first(Some(Path::new("/bin/false"))).unwrap(), None);
        // A crash between the two links of the first start.
        fs::remove_file(home.path().join("releases/current")).unwrap();
        assert_eq!(releases.ensure_first(None).unwrap(), None);
        assert_eq!(releases.link(Link::Current).unwrap().as_ref(), Some(&first));
        fs::remove_dir_all(releases.folder(&first)).unwrap();
        assert!(matches!(releases.ensure_first(Some(host)), Err(InstallError::BadLink { .. })));
    }

    #[test]
    fn tries_are_counted_in_the_name_of_a_file() {
        let home = tempfile::tempdir().unwrap();
        let releases = releases(home.path());
        let release = digest_of("one");
        assert_eq!(releases.tries(&release).unwrap(), None);
        for (left, done) in [(3, 0), (2, 1), (2, 1), (1, 2)] {
            let tries = Tries { left, done };
            releases.set_tries(&release, tries).unwrap();
            assert_eq!(releases.tries(&release).unwrap(), Some(tries));
        }
        assert!(home.path().join(format!("releases/trial.{release}+1-2")).exists());
        assert_eq!(releases.tries(&digest_of("two")).unwrap(), None);
        releases.remove_tries(&release).unwrap();
        assert_eq!(releases.tries(&release).unwrap(), None);
    }

    #[test]
    fn the_floor_only_rises() {
        let home = tempfile::tempdir().unwrap();
        let releases = releases(home.path());
        for (epoch, floor) in [(0, 0), (3, 3), (2, 3), (4, 4)] {
            releases.raise_floor(epoch).unwrap();
            assert_eq!(releases.floor().unwrap(), floor);
        }
        fs::write(home.path().join("update/floor"), "many").unwrap();
        assert_eq!(releases.floor().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
