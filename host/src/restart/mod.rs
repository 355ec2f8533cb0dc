//! The host's side of the restart cycle, and of being supervised.
//!
//! The watchdog is another program. It and the host share files and environment variables, described byte by byte in
//! `docs/restart.md`, and no code: each side has its own reader, and a test compares the two. This room knows those
//! formats and nothing about transactions, plugins or LMDB; the runtime commits, and calls it before or after:
//!
//! | when | call |
//! |---|---|
//! | an upgrade needs a restart | [`bundle::read`], commit the intent, [`instruction::publish`] |
//! | at every start | [`listeners::take`], [`Trial::from_env`], [`instruction::outcome`] of an intent still open |
//! | at the start in a trial | [`handoff::read`], [`handoff::prove`], self-test, commit, [`confirm::publish`] |
//! | while running | [`Notifier`] |
//! | on SIGTERM | drain, commit the stop, [`handoff::publish`] if an instruction is under way, exit 0 |
//!
//! A host that was started by hand, under systemd, s6 or runit uses the same calls: what is not offered is not used.

pub mod bundle;
pub mod confirm;
mod digest;
mod files;
pub mod handoff;
pub mod hold;
pub mod instruction;
pub mod listeners;
pub mod notify;
mod paths;
mod trial;

pub use digest::{Digest, DigestError};
pub use files::FileError;
pub use notify::Notifier;
pub use paths::RestartPaths;
pub use trial::{Trial, TrialError};
