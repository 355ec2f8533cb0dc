//! `theseus plugin ...`: for whoever writes, signs or judges plugin files. Most of it needs neither a host nor an identity.

mod build;
mod create;
mod dev;
mod inspect;
mod sign;
mod watch;

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Subcommand;
use serde::Serialize;

use super::{
    Global, SwapOptions,
    fault::{Exit, Fault},
};
use crate::{
    config::Config,
    home::Home,
    runtime::examine::{self, Rules},
};

/// What can be done with plugin files.
#[derive(Subcommand)]
pub(super) enum PluginCommand {
    /// Makes the crate of a new plugin: it builds, and passes its own test.
    #[command(after_help = "\
Examples:
  theseus plugin new tariff
  theseus plugin new ~/plugins/tariff --sdk ~/theseus/abi/plugin")]
    New {
        /// The folder to make; its last part is the plugin's name.
        folder: PathBuf,
        /// Where theseus-plugin lies, if it shall not come from a registry.
        #[arg(long, value_name = "DIR")]
        sdk: Option<PathBuf>,
    },
    /// Builds a plugin's crate with each change, swaps it into the running host, and shows objects that live on.
    #[command(after_help = "\
Examples:
  theseus plugin dev                        the crate in this folder
  theseus plugin dev tariff --show standard
  theseus plugin dev tariff --once          builds and swaps, and does not watch")]
    Dev {
        /// The crate's folder.
        #[arg(default_value = ".", value_name = "CRATE-DIR")]
        folder: PathBuf,
        /// Build with optimisations.
        #[arg(long)]
        release: bool,
        /// Build and swap, and end; exits with 1 if it does not build, with 4 if it is refused.
        #[arg(long)]
        once: bool,
        /// Show this object after each swap, instead of some with a behaviour of the plugin; may be repeated.
        #[arg(long, value_name = "OBJECT")]
        show: Vec<String>,
        #[command(flatten)]
        options: SwapOptions,
    },
    /// Shows what a plugin file says about itself, without loading it.
    #[command(after_help = "\
Examples:
  theseus plugin inspect target/release/libcounter.so
  theseus plugin inspect libcounter.so --json | jq .manifest.behaviors")]
    Inspect {
        /// The file.
        file: PathBuf,
    },
    /// Tells whether a host would take plugin files, as far as the files alone show; exits with 4 if not.
    #[command(after_help = "\
Examples:
  theseus plugin check target/release/libcounter.so
  theseus plugin check /usr/lib/theseus/*.so       all are judged, also after one that is refused")]
    Check {
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Signs a plugin file with a minisign key, into FILE.minisig.
    #[command(after_help = "\
Examples:
  theseus plugin sign libcounter.so --key builder.key
  minisign -G -s builder.key -p builder.pub          makes the keys
  cp builder.pub ~/.theseus/trust/                   has a host trust them")]
    Sign {
        /// The file.
        file: PathBuf,
        /// The secret key, as minisign makes it. If it has a password, it is asked for.
        #[arg(long, value_name = "KEY")]
        key: PathBuf,
        /// What to say under the signature's protection [default: the file's name and the time].
        #[arg(long, value_name = "TEXT")]
        comment: Option<String>,
    },
}

/// Executes one of the commands.
pub(super) fn execute(global: &Global, command: PluginCommand) -> Result<(), Fault> {
    match command {
        PluginCommand::New { folder, sdk } => {
            let created = create::create(&folder, sdk.as_deref())?;
            print(global, &created, || {
                format!(
                    "plugin {} in {}; go on with: theseus plugin dev {}\n",
                    created.name, created.folder, created.folder
                )
            })
        }
        PluginCommand::Dev { folder, release, once, show, options } => {
            dev::dev(global, &dev::Dev { folder, release, once, show, options })
        }
        PluginCommand::Inspect { file } => {
            let view = examine::examine(&file, &rules(global)?);
            if view.digest.is_none() {
                return Err(Fault::failed("unreadable", view.reasons.join("; ")));
            }
            print(global, &view, || inspect::text(&view))
        }
        PluginCommand::Check { files } => {
            let rules = rules(global)?;
            let views: Vec<_> = files.iter().map(|file| examine::examine(file, &rules)).collect();
            print(global, &inspect::verdicts(&views), || inspect::verdicts_text(&views))?;
            if views.iter().all(|view| view.acceptable) { Ok(()) } else { Err(Fault::Shown(Exit::Refused)) }
        }
        PluginCommand::Sign { file, key, comment } => {
            let signed = sign::sign(&file, &key, comment)?;
            print(global, &signed, || format!("{} is the signature by key {}\n", signed.signature, signed.key))
        }
    }
}

/// The rules of the home if there is one, and otherwise those that a new one would have.
fn rules(global: &Global) -> Result<Rules, Fault> {
    // Whoever has no home folder at all can judge files, too.
    let home = global.home().unwrap_or_else(|_| Home::new("."));
    let config = Config::load(&home)?;
    Ok(Rules::of(&home, &config))
}

/// Prints a document, or text for people.
fn print(global: &Global, document: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Fault> {
    let mut out = io::stdout().lock();
    if global.json {
        serde_json::to_writer(&mut out, document).map_err(io::Error::from)?;
        out.write_all(b"\n")?;
    } else {
        out.write_all(text().as_bytes())?;
    }
    Ok(out.flush()?)
}
