//! The closed set of things that can be asked of a running host, and the host that does them.

pub mod action;
