//! `theseus plugin dev`: a plugin's crate and a running host, kept alike.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use serde_json::{Value as Json, json};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::{
    build::{self, Built},
    print,
    watch::Watcher,
};
use crate::{
    cli::{
        Global, SwapOptions,
        client::{Ask, Client, escaped},
        commands::document,
        fault::{Exit, Fault},
        output,
    },
    home::Home,
    runtime::examine::{self, Rules},
};

/// How many objects are shown after a swap, if nobody says which.
const SHOWN_MAX: usize = 5;

/// How many names are looked through for them.
const NAMES_MAX: usize = 1000;

/// What to develop, and how.
pub(super) struct Dev {
    pub(super) folder: PathBuf,
    pub(super) release: bool,
    pub(super) once: bool,
    pub(super) show: Vec<String>,
    pub(super) options: SwapOptions,
}

/// Builds, swaps and shows what lives on; again with each change, until interrupted.
pub(super) fn dev(global: &Global, dev: &Dev) -> Result<(), Fault> {
    let manifest = dev.folder.join("Cargo.toml").canonicalize().map_err(|error| {
        let message =
            format!("{} is not the folder of a crate: {error}; begin with `theseus plugin new`", dev.folder.display());
        Fault::usage(message)
    })?;
    let folder = manifest.parent().unwrap_or(&manifest).to_owned();
    let home = global.home()?;
    // Nobody wants to wait for a build to learn this.
    connect(&home)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone())
            .map_err(|error| Fault::failed("cannot_watch", format!("signals cannot be handled: {error}")))?;
    }
    let mut watcher = Watcher::new(folder.clone());
    loop {
        // What changes from here on is not in this build.
        watcher.look();
        let (built, folders) = build::build(&manifest, dev.release, &interrupted)?;
        watcher.add(folders);
        watcher.know(&folder.join("Cargo.lock"));
        let outcome = match built {
            Built::Interrupted => return Ok(()),
            Built::Failed if dev.once => return Err(Fault::Shown(Exit::Failed)),
            Built::Failed => {
                print(global, &json!({ "event": "build_failed" }), || "not swapped: it does not build\n".to_owned())
            }
            Built::Library(library) => swap(global, &home, dev, &library),
        };
        match outcome {
            // With what is wrong with this build the next one may be rid of.
            Err(fault @ Fault::Told { .. }) if !dev.once => _ = fault.report(global.json),
            outcome => outcome?,
        }
        if dev.once {
            return Ok(());
        }
        let place = folder.display().to_string();
        print(global, &json!({ "event": "watching", "folder": place }), || format!("watching {place}; Ctrl-C ends\n"))?;
        if !watcher.wait(&interrupted) {
            return Ok(());
        }
    }
}

fn connect(home: &Home) -> Result<Client, Fault> {
    Client::connect(home)?.ok_or_else(|| Fault::no_host(home))
}

/// Swaps a library in and shows some of the objects that it brings to life.
fn swap(global: &Global, home: &Home, dev: &Dev, library: &Path) -> Result<(), Fault> {
    let mut client = connect(home)?;
    let path = library.to_str().ok_or_else(|| Fault::usage(format!("{} is not UTF-8", library.display())))?;
    let answer = client.ask(Ask::post("/v1/swap", dev.options.beside(json!({ "paths": [path] }))))?;
    let mut swapped = document(&answer)?;
    swapped["event"] = "swapped".into();
    print(global, &swapped, || output::swap(&swapped))?;
    let names = match &dev.show[..] {
        [] => objects_of(&mut client, library, &super::rules(global)?)?,
        show => show.to_vec(),
    };
    for name in names {
        let mut object = document(&client.ask(Ask::get(format!("/v1/objects/{}", escaped(&name))))?)?;
        object["event"] = "object".into();
        print(global, &object, || format!("\nobject {name}\n{}", output::object(&object)))?;
    }
    Ok(())
}

/// The names of some objects that have a behaviour of this plugin.
fn objects_of(client: &mut Client, library: &Path, rules: &Rules) -> Result<Vec<String>, Fault> {
    let Some(manifest) = examine::examine(library, rules).manifest else { return Ok(Vec::new()) };
    let names = document(&client.ask(Ask::get(format!("/v1/objects?limit={NAMES_MAX}")))?)?;
    let is_its = |object: &&Json| manifest.behaviors.iter().any(|behavior| object["behavior"] == behavior.name);
    let names = names["names"].as_array().into_iter().flatten().filter(is_its).take(SHOWN_MAX);
    Ok(names.filter_map(|object| object["name"].as_str().map(str::to_owned)).collect())
}
