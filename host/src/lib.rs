//! The Theseus runtime: a host process that owns an identity and can replace every plugin it runs.
//!
//! One folder a concern, dependencies pointing one way only:
//! `cli, gateway -> runtime -> {swap, restart} -> {plugin, exec} -> identity -> value`.

pub mod runtime;
