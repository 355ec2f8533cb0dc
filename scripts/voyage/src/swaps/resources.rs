//! What a process holds, as the kernel tells it.

use std::{fs, path::PathBuf};

use serde::Serialize;

use super::SwapsError;

/// What a process holds at one moment.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resources {
    /// All resident memory, in bytes. That includes pages of the identity's files, which are mapped and grow with the history, and
    /// which the kernel takes back when it likes.
    pub resident: u64,
    /// Resident memory that belongs to no file, in bytes.
    pub own: u64,
    /// Mappings.
    pub mappings: u64,
    /// Mappings of plugins' images.
    pub plugin_mappings: u64,
    /// Threads.
    pub threads: u64,
    /// Open file descriptors.
    pub descriptors: u64,
}

impl Resources {
    /// Looks at a process.
    pub(super) fn of(process: u32) -> Result<Resources, SwapsError> {
        let read = |file: &str| {
            let path = PathBuf::from(format!("/proc/{process}/{file}"));
            fs::read_to_string(&path).map_err(|source| SwapsError::File { action: "read", path, source })
        };
        let count = |folder: &str| {
            let path = PathBuf::from(format!("/proc/{process}/{folder}"));
            let entries = fs::read_dir(&path).map(|entries| entries.count() as u64);
            entries.map_err(|source| SwapsError::File { action: "read", path, source })
        };
        let (status, maps) = (read("status")?, read("maps")?);
        let bytes = |field: &str| field_of(&status, field).unwrap_or(0) * 1024;
        Ok(Resources {
            resident: bytes("VmRSS"),
            own: bytes("RssAnon"),
            mappings: maps.lines().count() as u64,
            plugin_mappings: maps.lines().filter(|line| line.contains("/memfd:theseus")).count() as u64,
            threads: count("task")?,
            descriptors: count("fd")?,
        })
    }
}

/// A number in `/proc/PID/status` (proc_pid_status(5)).
fn field_of(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_can_be_looked_at() {
        let this = Resources::of(std::process::id()).unwrap();
        assert!(this.resident > 100_000 && this.own > 10_000 && this.own <= this.resident, "{this:?}");
        assert!(this.mappings > 5 && this.threads >= 1 && this.descriptors >= 3, "{this:?}");
        assert_eq!(field_of("VmRSS:\t    12 kB\nRssAnon:\t 7 kB\n", "RssAnon"), Some(7));
        assert_eq!(field_of("VmRSS:\t    12 kB\n", "Rss"), None);
    }
}
