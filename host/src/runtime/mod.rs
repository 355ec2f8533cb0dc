//! The closed set of things that can be asked of a running host, and the host that does them.

pub mod action;
pub mod backup;
pub mod examine;
mod finding;
mod gc;
mod host;
mod jobs;
mod metrics;
pub mod offline;
mod operator;
mod owner;
mod pack;
mod patrol;
pub mod portable;
mod start;
mod trials;
mod views;

pub use crate::swap::{CONFINED_COMMAND, work_confined};
pub use host::{OpenError, Reply, Runtime, StopError, place};
