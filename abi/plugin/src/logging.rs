//! The plugin's own copy of the `log` crate, connected to the host's log.

use log::{Level, LevelFilter, Log, Metadata, Record};
use theseus_abi::{LogLevel, abi_stable::std_types::RStr};

use crate::entry::host;

struct HostLog;

impl Log for HostLog {
    /// The host filters; it knows its operator's wishes.
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        match record.args().as_str() {
            Some(text) => write(record.level(), record.target(), text),
            None => write(record.level(), record.target(), &record.args().to_string()),
        }
    }

    fn flush(&self) {}
}

/// Makes `log::info!` and its like reach the host.
pub(crate) fn install() {
    // It fails if the author has set a logger before; then theirs is the one to use.
    if log::set_logger(&HostLog).is_ok() {
        log::set_max_level(LevelFilter::Trace);
    }
}

/// Passes a line to the host's log. Without a host there is nobody to read it.
pub(crate) fn write(level: Level, target: &str, text: &str) {
    if let Ok(host) = host() {
        (host.log())(LogLevel(level as u8), RStr::from_str(target), RStr::from_str(text));
    }
}
