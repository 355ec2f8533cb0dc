//! The Theseus runtime: a host process that owns an identity and can replace every plugin it runs.
//!
//! One folder a concern, dependencies pointing one way only:
//! `cli, gateway -> runtime -> {swap, restart} -> {plugin, exec} -> identity -> value`. `sandbox` stands beside `plugin`, and neither knows the other.

pub mod cli;
pub mod config;
pub mod exec;
pub mod gateway;
pub mod home;
pub mod identity;
pub mod plugin;
pub mod restart;
pub mod runtime;
pub mod sandbox;
pub mod swap;
