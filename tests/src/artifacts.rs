//! The programs and plugins that are tested, built once for each test program.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::fixtures;

/// The folder into which cargo builds what these tests run: that of the test program's own profile.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // TARGET/PROFILE/deps/this-test
        let this = std::env::current_exe().unwrap();
        let profile =
            this.parent().and_then(Path::parent).expect("test programs lie in TARGET/PROFILE/deps").to_owned();
        build(profile.parent().expect("a profile's folder lies in the target folder"));
        profile
    })
}

fn build(target: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(checkout()).args(["build", "--quiet", "--workspace", "--target-dir"]).arg(target);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let status = command.status().unwrap();
    assert!(status.success(), "the workspace does not build");
}

/// The root of the checkout.
pub fn checkout() -> PathBuf {
    fixtures::checkout()
}

/// The `theseus` program.
pub fn theseus() -> PathBuf {
    folder().join("theseus")
}

/// The `theseus-watchdog` program.
pub fn watchdog() -> PathBuf {
    folder().join("theseus-watchdog")
}

/// The `voyage` program.
pub fn voyage() -> PathBuf {
    folder().join("voyage")
}

/// A plugin of `plugins/` by the name of its crate without `theseus-`, such as `counter-v2`.
pub fn plugin(name: &str) -> PathBuf {
    let file = format!("{}{}{}", std::env::consts::DLL_PREFIX, name.replace('-', "_"), std::env::consts::DLL_SUFFIX);
    let path = folder().join(file);
    assert!(path.is_file(), "{} was not built", path.display());
    path
}

/// The plugin that makes trouble.
pub fn troublemaker() -> PathBuf {
    fixtures::build("tests/fixtures/troublemaker/Cargo.toml", "troublemaker")
}

/// Version 2 of the counter with another name for its slot.
pub fn renamed_counter() -> PathBuf {
    fixtures::build("tests/fixtures/renamed-counter/Cargo.toml", "renamed-counter")
}

/// A counter that works.
pub fn probationer() -> PathBuf {
    fixtures::build("tests/fixtures/probationer/Cargo.toml", "probationer")
}

/// Its version 2, which goes wrong when it is told to.
pub fn probationer_v2() -> PathBuf {
    fixtures::build("tests/fixtures/probationer-v2/Cargo.toml", "probationer-v2")
}

/// A copy of a program that does the same and is another file: what stands behind the last section is never loaded.
pub fn altered_copy(program: &Path, to: &Path, mark: &str) {
    std::fs::copy(program, to).unwrap();
    let mut file = std::fs::File::options().append(true).open(to).unwrap();
    std::io::Write::write_all(&mut file, mark.as_bytes()).unwrap();
}
