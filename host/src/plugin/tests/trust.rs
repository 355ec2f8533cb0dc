//! Who may have written a file, who signed it, what it may do.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use minisign::KeyPair;
use tempfile::TempDir;
use theseus_abi::Capability;

use super::*;
use crate::config::{Plugins, Trust};

/// A plugin file in a folder of its own, and a folder of trusted keys.
struct Place {
    folder: TempDir,
    settings: Plugins,
}

impl Place {
    fn new(trust: Trust) -> Place {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("bare.so"), bare("well", |_| ())).unwrap();
        fs::create_dir(folder.path().join("trust")).unwrap();
        Place { folder, settings: Plugins { trust, ..Plugins::default() } }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("bare.so")
    }

    fn keys(&self) -> PathBuf {
        self.folder.path().join("trust")
    }

    fn mode(&self, file: &Path, mode: u32) {
        fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Signs what is in the file now.
    fn sign(&self, keys: &KeyPair) {
        let content = fs::File::open(self.file()).unwrap();
        let signature = minisign::sign(Some(&keys.pk), &keys.sk, content, Some("by\u{1b} a test"), None).unwrap();
        fs::write(self.folder.path().join("bare.so.minisig"), signature.into_string()).unwrap();
    }

    fn trust(&self, keys: &KeyPair, name: &str) {
        fs::write(self.keys().join(name), keys.pk.to_box().unwrap().into_string()).unwrap();
    }

    /// What comes of the file, asking for `capabilities`.
    fn judge(&self, capabilities: &[Capability]) -> Result<SignedBy, Denial> {
        let keys = self.keys();
        let policy = Policy { settings: &self.settings, keys: &keys };
        let (staged, source) = stage_from_source(&self.file(), FILE_BYTES_LIMIT).unwrap();
        let mut inspection = inspect(staged.bytes()).unwrap();
        inspection.capabilities = capabilities.iter().copied().collect();
        let provenance = policy.provenance(&source, staged.bytes())?;
        policy.permit(&provenance, &inspection)?;
        Ok(provenance.signature)
    }
}

fn keys() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().unwrap()
}

#[test]
fn what_others_could_have_written_is_refused() {
    let place = Place::new(Trust::Owner);
    assert_eq!(place.judge(&[]), Ok(SignedBy::Nobody));
    let file = place.file().canonicalize().unwrap();
    for mode in [0o664, 0o646, 0o777, 0o4666] {
        place.mode(&file, mode);
        let denial = place.judge(&[]).unwrap_err();
        assert_eq!(denial, Denial::WritableByOthers { path: file.clone(), mode });
        assert!(denial.to_string().contains(&format!("`chmod go-w {}`", file.display())), "{denial}");
    }
    place.mode(&file, 0o444);
    assert_eq!(place.judge(&[]), Ok(SignedBy::Nobody));
    let folder = file.parent().unwrap();
    place.mode(folder, 0o777);
    assert_eq!(place.judge(&[]), Err(Denial::WritableByOthers { path: folder.to_owned(), mode: 0o777 }));
    place.mode(folder, 0o1777);
    assert_eq!(place.judge(&[]), Ok(SignedBy::Nobody), "only its owner can replace a file in a sticky folder");
    place.mode(folder, 0o755);

    let place = Place::new(Trust::Any);
    place.mode(&place.file(), 0o666);
    assert_eq!(place.judge(&[]), Ok(SignedBy::Nobody));
}

#[test]
fn what_belongs_to_somebody_else_is_refused() {
    let place = Place::new(Trust::Owner);
    if !rustix::process::geteuid().is_root() {
        return eprintln!("NOT CHECKED: only root can give a file to somebody else");
    }
    std::os::unix::fs::chown(place.file(), Some(12345), None).unwrap();
    let denial = place.judge(&[]).unwrap_err();
    assert!(matches!(denial, Denial::OtherOwner { owner: 12345, host: 0, .. }), "{denial:?}");
    std::os::unix::fs::chown(place.file(), Some(0), None).unwrap();
    std::os::unix::fs::chown(place.folder.path(), Some(12345), None).unwrap();
    assert!(matches!(place.judge(&[]).unwrap_err(), Denial::OtherOwner { owner: 12345, .. }));
}

#[test]
fn the_file_that_is_asked_is_the_one_that_is_read() {
    let place = Place::new(Trust::Owner);
    let link = place.folder.path().join("link.so");
    std::os::unix::fs::symlink(place.file(), &link).unwrap();
    let (staged, source) = stage_from_source(&link, FILE_BYTES_LIMIT).unwrap();
    assert_eq!(source.path, place.file().canonicalize().unwrap());
    assert_eq!(staged.origin(), link);
    place.mode(&place.file(), 0o666);
    assert_eq!(source.file.mode & 0o022, 0, "what was found holds for what was read, whatever comes later");
}

#[test]
fn a_signature_by_a_trusted_key_is_shown_or_asked_for() {
    let mut place = Place::new(Trust::Signed);
    let (ours, theirs) = (keys(), keys());
    let denial = place.judge(&[]).unwrap_err();
    assert!(matches!(denial, Denial::Unsigned { .. }) && denial.to_string().contains("`minisign -Sm "), "{denial}");
    place.sign(&ours);
    let denial = place.judge(&[]).unwrap_err();
    assert!(matches!(denial, Denial::UntrustedKey { .. }), "{denial}");
    assert!(denial.to_string().contains(place.keys().to_str().unwrap()), "{denial}");
    place.trust(&theirs, "a.pub");
    assert!(matches!(place.judge(&[]), Err(Denial::UntrustedKey { .. })));
    place.trust(&ours, "b.pub");
    fs::write(place.keys().join("README"), "not a key").unwrap();
    let signed = place.judge(&[]).unwrap();
    let SignedBy::Trusted { key, file, comment } = &signed else { panic!("{signed:?}") };
    assert_eq!((file, comment.as_str()), (&place.keys().join("b.pub"), "by\u{fffd} a test"));
    let id = u64::from_le_bytes(ours.pk.keynum().try_into().unwrap());
    assert_eq!(key.to_string(), format!("{id:016X}"));
    // Who signs stands for the file, whoever could write it.
    place.mode(&place.file(), 0o666);
    assert!(place.judge(&[]).is_ok());
    place.settings.trust = Trust::Owner;
    assert!(matches!(place.judge(&[]), Err(Denial::WritableByOthers { .. })));
    place.mode(&place.file(), 0o644);
    assert_eq!(place.judge(&[]), Ok(signed));
}

#[test]
fn a_false_signature_is_refused_whatever_the_settings() {
    for trust in [Trust::Any, Trust::Owner, Trust::Signed] {
        let place = Place::new(trust);
        let ours = keys();
        place.sign(&ours);
        place.trust(&ours, "ours.pub");
        assert!(place.judge(&[]).is_ok());
        let mut bytes = fs::read(place.file()).unwrap();
        bytes.push(0);
        fs::write(place.file(), bytes).unwrap();
        assert!(matches!(place.judge(&[]), Err(Denial::BadSignature { .. })));

        // The comment is signed, too.
        place.sign(&ours);
        let signature = place.folder.path().join("bare.so.minisig");
        let text = fs::read_to_string(&signature).unwrap();
        fs::write(&signature, text.replace("a test", "a lie.")).unwrap();
        assert!(matches!(place.judge(&[]), Err(Denial::BadSignature { .. })));
        for nonsense in ["", "untrusted comment: x\nAAAA\n", &text[..text.len() / 2], &"x".repeat(100_000)] {
            fs::write(&signature, nonsense).unwrap();
            assert!(matches!(place.judge(&[]), Err(Denial::MalformedSignature { .. })), "{nonsense:.40}");
        }
    }
}

#[test]
fn a_key_that_others_could_have_put_there_is_not_trusted() {
    let place = Place::new(Trust::Signed);
    let ours = keys();
    place.sign(&ours);
    place.trust(&ours, "ours.pub");
    place.mode(&place.keys().join("ours.pub"), 0o666);
    let denial = place.judge(&[]).unwrap_err();
    assert!(matches!(&denial, Denial::BadKey { .. }) && denial.to_string().contains("chmod go-w"), "{denial}");
    fs::write(place.keys().join("ours.pub"), "untrusted comment: none\nRWQ\n").unwrap();
    place.mode(&place.keys().join("ours.pub"), 0o644);
    assert!(matches!(place.judge(&[]), Err(Denial::BadKey { .. })));
    fs::remove_dir_all(place.keys()).unwrap();
    assert!(matches!(place.judge(&[]), Err(Denial::UntrustedKey { .. })));
}

#[test]
fn only_what_was_granted_may_be_asked_for() {
    let mut place = Place::new(Trust::Owner);
    assert!(place.judge(&[Capability::RequestUpgrade]).is_ok());
    let denial = place.judge(&[Capability::RequestUpgrade, Capability::Threads]).unwrap_err();
    assert_eq!(denial, Denial::NotGranted { capability: Capability::Threads });
    assert!(denial.to_string().contains("plugins.capabilities"), "{denial}");
    place.settings.capabilities = vec![Capability::Threads];
    assert!(place.judge(&[Capability::Threads]).is_ok());
    assert!(matches!(place.judge(&[Capability::RequestUpgrade]), Err(Denial::NotGranted { .. })));
}
