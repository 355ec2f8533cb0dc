//! `theseus plugin new`: a crate to begin with.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::cli::fault::Fault;

/// A crate that was made.
#[derive(Serialize)]
pub(super) struct Created {
    /// The plugin's name.
    pub(super) name: String,
    /// Its folder.
    pub(super) folder: String,
}

/// Makes the crate of a plugin. Its name is the last part of `folder`; `sdk` is where theseus-plugin lies, if not in a registry.
pub(super) fn create(folder: &Path, sdk: Option<&Path>) -> Result<Created, Fault> {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if !name.starts_with(|first: char| first.is_ascii_lowercase()) || !name.bytes().all(is_allowed) {
        let rule = "a plugin's name has small letters, digits, `-` and `_`, and begins with a letter";
        return Err(Fault::usage(format!("`{name}`: {rule}")));
    }
    let failed = |error: io::Error| Fault::failed("cannot_create", format!("{}: {error}", folder.display()));
    let dependency = match sdk {
        None => format!("{:?}", env!("CARGO_PKG_VERSION")),
        Some(sdk) => format!("{{ path = {:?} }}", sdk.canonicalize().map_err(failed)?),
    };
    // Only here it is sure that nothing of somebody else's is written over.
    fs::create_dir(folder).map_err(failed)?;
    let files: [(PathBuf, String); 3] = [
        (folder.join("Cargo.toml"), MANIFEST.replace("NAME", &name).replace("DEPENDENCY", &dependency)),
        (folder.join(".gitignore"), "/target\n".to_owned()),
        (folder.join("src/lib.rs"), LIBRARY.replace("NAME", &name)),
    ];
    fs::create_dir(folder.join("src")).map_err(failed)?;
    for (path, text) in files {
        fs::write(path, text).map_err(failed)?;
    }
    Ok(Created { name, folder: folder.display().to_string() })
}

const MANIFEST: &str = r#"[package]
name = "NAME"
version = "0.1.0"
edition = "2024"

[lib]
crate-type = ["cdylib"]

[dependencies]
theseus-plugin = DEPENDENCY

# Without what only debuggers need, a file is a tenth as large, and so is the work of a swap.
[profile.release]
strip = true
"#;

const LIBRARY: &str = r#"//! A plugin for Theseus.

use theseus_plugin::prelude::*;

/// A counter that many callers may increment.
#[behavior(version = 1)]
#[derive(Default)]
pub struct Counter {
    /// Where it stands.
    count: i64,
}

#[methods]
impl Counter {
    /// Adds `by`, or one, and returns the new count.
    pub fn increment(&mut self, by: Option<i64>) -> Result<i64> {
        self.count = self.count.checked_add(by.unwrap_or(1)).ok_or("the counter is full")?;
        Ok(self.count)
    }

    /// Where it stands.
    pub fn count(&self) -> i64 {
        self.count
    }
}

plugin! { name: "NAME", behaviors: [Counter] }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts() {
        let mut counter = Counter::default();
        assert_eq!(counter.increment(None).unwrap(), 1);
        assert_eq!(counter.increment(Some(4)).unwrap(), 5);
        assert_eq!(counter.count(), 5);
    }
}
"#;
