//! The client side of a voyage: traffic for a host, real events to take in, and an account of what became of every request.
//!
//! Nothing here knows the host's insides: it talks HTTP to a running host, starts programs, and reads what they print.

pub mod account;
pub mod api;
pub mod crash;
pub mod demo;
pub mod feed;
pub mod flights;
pub mod http;
pub mod load;
pub mod measure;
pub mod model;
pub mod programs;
pub mod progress;
pub mod report;
pub mod swaps;
