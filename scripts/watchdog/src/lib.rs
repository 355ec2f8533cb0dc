//! The external watchdog of Theseus: supervises the host and carries out the restart cycle.
//!
//! It is the one program that survives a host, so it is small, has one thread and one loop, and trusts nothing that it
//! did not write itself. It starts the host, holds the listening socket so that clients are never refused, restarts the
//! host when it dies, and - told to by an instruction that the host published - stops it, lets a script change the
//! environment, starts the new release on trial, and either makes it the good one or goes back to the old one.
//!
//! Read [`cycle`] first: it holds every state and every transition, as a pure function. `watchdog` does the work that
//! belongs to each state; [`journal`] makes each state durable before the work of the next begins; the rest are tools.
//! With the host it shares file formats and no code; `docs/restart.md` describes them.

pub mod bundle;
pub mod cycle;
pub mod files;
mod host;
pub mod instruction;
pub mod journal;
mod launch;
mod listen;
mod notify;
pub mod options;
pub mod releases;
mod sandbox;
mod script;
mod watchdog;

pub use watchdog::{End, Moment, RunError, run};
