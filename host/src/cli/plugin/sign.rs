//! Signing a plugin file. The format is that of minisign, whose own program makes and checks the same signatures.

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use minisign::{PError, PublicKey, SecretKey, SecretKeyBox};
use serde::Serialize;

use crate::cli::fault::Fault;

/// A signature that was made.
#[derive(Serialize)]
pub(super) struct Signed {
    /// The file with it.
    pub(super) signature: String,
    /// The id of the key.
    pub(super) key: String,
}

/// Signs `file` with the secret key in `key`.
pub(super) fn sign(file: &Path, key: &Path, comment: Option<String>) -> Result<Signed, Fault> {
    let failed = |what: &Path, error: &dyn std::fmt::Display| {
        Fault::failed("cannot_sign", format!("{}: {error}", what.display()))
    };
    let text = fs::read_to_string(key).map_err(|error| failed(key, &error))?;
    let secret = secret_key(&text).map_err(|error| failed(key, &error))?;
    // With the public key the signature is checked, too: a damaged secret key makes none.
    let public = PublicKey::from_secret_key(&secret).map_err(|error| failed(key, &error))?;
    let comment = comment.unwrap_or_else(|| {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        format!("timestamp:{time}\tfile:{}", file.file_name().unwrap_or_default().display())
    });
    let content = fs::File::open(file).map_err(|error| failed(file, &error))?;
    let signature =
        minisign::sign(Some(&public), &secret, content, Some(&comment), Some("signature by theseus plugin sign"))
            .map_err(|error| failed(file, &error))?;
    let mut name = file.as_os_str().to_owned();
    name.push(".minisig");
    let name = PathBuf::from(name);
    fs::write(&name, signature.into_string()).map_err(|error| failed(&name, &error))?;
    let id = <[u8; 8]>::try_from(secret.keynum()).map(u64::from_le_bytes).unwrap_or_default();
    Ok(Signed { signature: name.display().to_string(), key: format!("{id:016X}") })
}

/// Reads a secret key, with the password if it has one.
fn secret_key(text: &str) -> Result<SecretKey, PError> {
    // minisign's format: algorithm of the signature, of the password, of the checksum, two bytes each; zero is none.
    let bytes = text.lines().nth(1).and_then(|line| STANDARD.decode(line.trim()).ok());
    match bytes {
        // minisign 0.11 leaves out the checksum of keys without a password, which `into_unencrypted_secret_key` insists on.
        Some(bytes) if bytes.get(2..4) == Some(&[0, 0]) => SecretKey::from_bytes(&bytes),
        _ => SecretKeyBox::from(text.to_owned()).into_secret_key(None),
    }
}
