//! A child process in which foreign code is tried: it may crash, hang or fill its memory, and the host only hears of it.
//!
//! [`Child::spawn`] starts this very executable a second time; there [`serve`] takes away what the process may do before it
//! hears of any foreign byte. The two speak frames of bytes over a pair of sockets: the parent [asks](Child::ask), the child
//! works, asks back for what it [needs](Desk::need), and answers. What the bytes mean is not known here, nor what a plugin is.
//!
//! This contains accidents, not attacks: the kernel bounds what a broken plugin can do by mistake while nobody watches. What
//! a kernel cannot give is [named](Confinement::missing) and done without.

mod child;
mod confine;
mod fault;
mod frames;
mod output;
mod parent;

pub use self::{
    child::{Desk, serve},
    confine::{Confinement, forbid_files},
    fault::{Cause, Fault},
    parent::{Child, Program, SpawnError},
};

use serde::{Deserialize, Serialize};

/// What a child may use.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Address space, in bytes.
    pub memory_bytes: u64,
    /// What it may write to its standard output and error, in bytes.
    pub output_bytes: u64,
    /// The largest file it may make in memory before [`forbid_files`], in bytes. It can make none elsewhere.
    pub file_bytes: u64,
    /// Processor time, in seconds: a second line behind the deadline of each question.
    pub processor_s: u64,
}
