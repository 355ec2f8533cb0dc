//! What the watchdog can be told.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, value_parser};

/// Starts a Theseus host, keeps it running, and carries out restart cycles.
///
/// The exit code is 0 after a stop on request, 1 after a failure, 2 for wrong usage, and 3 if the host cannot be kept
/// running even with the last good release: see HOME/update/held, and `theseus resume`.
#[derive(Parser, Clone, Debug)]
#[command(version, after_help = EXAMPLES)]
pub struct Options {
    /// The folder of the identity that the host serves.
    #[arg(long, env = "THESEUS_HOME", value_name = "DIR")]
    pub home: PathBuf,

    /// The host binary that becomes the first release, if the home has none yet.
    #[arg(long, value_name = "FILE")]
    pub host: Option<PathBuf>,

    /// The address to hold open for applications. Not used if a supervisor hands a socket over (LISTEN_FDS).
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,

    /// The folder of upgrade scripts. Without it, bundles that name a script are refused and others need none.
    #[arg(long, value_name = "DIR")]
    pub apply_dir: Option<PathBuf>,

    /// How long the host may take to become ready, in seconds, unless it asks for more.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(1..=86_400))]
    pub start_timeout_s: u64,

    /// How long the host may take to stop, in seconds, unless it asks for more. Then it is killed.
    #[arg(long, value_name = "SECONDS", default_value_t = 45, value_parser = value_parser!(u64).range(1..=86_400))]
    pub stop_timeout_s: u64,

    /// How long starting or stopping may take if the host asks for more time, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = value_parser!(u64).range(1..=86_400))]
    pub extended_limit_s: u64,

    /// How long an upgrade script may run, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = value_parser!(u64).range(1..=86_400))]
    pub apply_timeout_s: u64,

    /// How long a new release may take in one try to be ready and to confirm, in seconds, unless it asks for more.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(1..=86_400))]
    pub health_window_s: u64,

    /// How often a new release is started before the old one comes back.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    pub tries: u32,

    /// How long a host must have been ready for its next crash to count as the first, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = value_parser!(u64).range(0..=86_400))]
    pub stable_s: u64,

    /// How many crashes in a row are answered with a restart.
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = value_parser!(u32).range(0..=1000))]
    pub crash_limit: u32,

    /// How long a host that has begun to send WATCHDOG=1 may be silent, in seconds; 0 asks for no such messages.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = value_parser!(u64).range(0..=86_400))]
    pub ping_timeout_s: u64,
}

const EXAMPLES: &str = "Examples:
  theseus-watchdog --home /var/lib/theseus --host /usr/local/bin/theseus
  theseus-watchdog --home ./home --host target/release/theseus --listen 127.0.0.1:7171 --apply-dir scripts/apply";
