//! Building a plugin's crate with cargo.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use crate::cli::fault::Fault;

/// How often is looked whether the build was interrupted.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What came of a build.
pub(super) enum Built {
    /// The plugin's file.
    Library(PathBuf),
    /// It does not compile; cargo has said why.
    Failed,
    /// Somebody wants to end.
    Interrupted,
}

/// Builds the crate of this manifest. Gives also the folders of all crates that went into it and are not from a registry.
///
/// # Errors
///
/// If cargo cannot be run, or the crate is no plugin.
pub(super) fn build(manifest: &Path, release: bool, interrupted: &AtomicBool) -> Result<(Built, Vec<PathBuf>), Fault> {
    let failed = |error: &dyn std::fmt::Display| Fault::failed("cannot_build", format!("cargo cannot be run: {error}"));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Errors go to the terminal as cargo prints them, messages for programs come here.
    cargo.args(["build", "--lib", "--message-format=json-render-diagnostics", "--manifest-path"]).arg(manifest);
    if release {
        cargo.arg("--release");
    }
    let mut child = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|error| failed(&error))?;
    let output = child.stdout.take().expect("it was asked for");
    let (sender, lines) = mpsc::sync_channel(64);
    let reader = thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let (mut library, mut folders) = (None, Vec::new());
    loop {
        match lines.recv_timeout(LOOK_INTERVAL) {
            Ok(line) => {
                let message: Json = serde_json::from_str(&line).unwrap_or_default();
                library = library.or_else(|| library_of(&message, manifest));
                folders.extend(local_folder(&message));
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) if interrupted.load(Ordering::Relaxed) => {
                end(&mut child);
                return Ok((Built::Interrupted, folders));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    _ = reader.join();
    let status = child.wait().map_err(|error| failed(&error))?;
    folders.sort_unstable();
    folders.dedup();
    if interrupted.load(Ordering::Relaxed) {
        return Ok((Built::Interrupted, folders));
    }
    if !status.success() {
        return Ok((Built::Failed, folders));
    }
    match library {
        Some(library) => Ok((Built::Library(library), folders)),
        None => {
            let message =
                format!("{} builds no plugin: add `crate-type = [\"cdylib\"]` to its [lib]", manifest.display());
            Err(Fault::failed("cannot_build", message))
        }
    }
}

/// Has cargo end, and waits for it.
fn end(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended by itself, which is as good.
        _ = kill_process(pid, Signal::TERM);
    }
    _ = child.wait();
}

/// The library that a message of cargo tells was made of this crate.
fn library_of(message: &Json, manifest: &Path) -> Option<PathBuf> {
    let is_cdylib = message["target"]["crate_types"].as_array()?.iter().any(|kind| kind == "cdylib");
    if message["reason"] != "compiler-artifact"
        || !is_cdylib
        || Path::new(message["manifest_path"].as_str()?) != manifest
    {
        return None;
    }
    let files = message["filenames"].as_array()?.iter().filter_map(Json::as_str).map(PathBuf::from);
    let is_library =
        |file: &PathBuf| file.extension().is_some_and(|extension| extension == std::env::consts::DLL_EXTENSION);
    files.into_iter().find(is_library)
}

/// The folder of a crate that is not from a registry.
fn local_folder(message: &Json) -> Option<PathBuf> {
    let is_local = message["package_id"].as_str()?.contains("path+file://");
    let manifest = Path::new(message["manifest_path"].as_str()?);
    if is_local { manifest.parent().map(Path::to_owned) } else { None }
}
