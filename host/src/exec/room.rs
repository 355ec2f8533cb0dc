//! Watches the room that is left, so that commands are refused before the disk is full, and taken again when there is room.
//!
//! It is measured again and again, and by the executor too when it has recorded so much since that the rest may be used up. For the
//! executor, what was recorded and is not written yet counts as taken: it will be.
//!
//! What the host itself has to record - its stop, a swap back, the end of a restart cycle - is not refused: the last of the room is
//! for that.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::{Refusal, spawn};
use crate::{
    config,
    identity::{Identity, Room, StorageError},
};

/// How often the room is measured at least.
const INTERVAL: Duration = Duration::from_millis(200);

/// What is kept of a map for the host itself: a part of it, and no more than this, in bytes.
const MAP_RESERVE_BYTES: u64 = 64 << 20;

/// What there is too little of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shortage {
    /// Free space on the file system.
    Disk {
        /// How much there is.
        free_bytes: u64,
        /// How much there should be.
        least_bytes: u64,
    },
    /// What the quota leaves.
    Quota {
        /// How much the identity takes.
        taken_bytes: u64,
        /// How much it may.
        quota_bytes: u64,
    },
    /// The history's map.
    History {
        /// How much of it is in use.
        used_bytes: u64,
        /// How large it is.
        map_bytes: u64,
    },
    /// The object table's map.
    Objects {
        /// How much of it is in use.
        used_bytes: u64,
        /// How large it is.
        map_bytes: u64,
    },
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shortage::Disk { free_bytes, least_bytes } => write!(
                f,
                "the disk has {free_bytes} bytes left, and {least_bytes} are kept free: free some disk space, writing resumes by itself"
            ),
            Shortage::Quota { taken_bytes, quota_bytes } => write!(
                f,
                "the identity takes {taken_bytes} of the {quota_bytes} bytes that identity.quota_bytes allows: pack the history, or raise the quota and restart"
            ),
            Shortage::History { used_bytes, map_bytes } => write!(
                f,
                "the history takes {used_bytes} of the {map_bytes} bytes of identity.history_map_bytes: pack it, or raise that and restart"
            ),
            Shortage::Objects { used_bytes, map_bytes } => write!(
                f,
                "the object table takes {used_bytes} of the {map_bytes} bytes of identity.objects_map_bytes: raise that and restart"
            ),
        }
    }
}

/// What was recorded and is not where it will take room, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct ToCome {
    /// In the history.
    pub history_bytes: u64,
    /// In the object table, at most: of what was written again and again it will have the last.
    pub objects_bytes: u64,
}

/// How many bytes may be taken before there is too little of something, or what there is too little of. Who has been short has to get an
/// eighth more than the least, so that it does not come and go with every commit.
fn judge(room: &Room, to_come: ToCome, settings: &config::Identity, short: bool) -> Result<u64, Shortage> {
    let more = |least: u64| if short { least + least / 8 } else { least };
    let history_bytes = to_come.history_bytes + room.logged_bytes;
    let objects_bytes = to_come.objects_bytes;
    let all_bytes = history_bytes + objects_bytes;
    // On a small disk the setting would be most of it.
    let least_bytes = settings.disk_free_bytes_min.min(room.disk_bytes / 20);
    let free_bytes = room.disk_free_bytes.saturating_sub(all_bytes);
    let mut left = match least_bytes {
        // The disk is no bound, and a full one no reason to measure before each command.
        0 => u64::MAX,
        _ => free_bytes.checked_sub(more(least_bytes)).ok_or(Shortage::Disk { free_bytes, least_bytes })?,
    };
    let mut leave = |used: u64, most: u64, shortage| {
        let bound = most.saturating_sub(more(MAP_RESERVE_BYTES.min(most / 16)));
        left = left.min(bound.checked_sub(used).ok_or(shortage)?);
        Ok(())
    };
    let taken_bytes = room.history_bytes + room.objects_bytes + room.base_bytes + all_bytes;
    let quota_bytes = settings.quota_bytes;
    if quota_bytes > 0 {
        leave(taken_bytes, quota_bytes, Shortage::Quota { taken_bytes, quota_bytes })?;
    }
    let (used_bytes, map_bytes) = (room.history_bytes + history_bytes, room.history_bytes_max);
    leave(used_bytes, map_bytes, Shortage::History { used_bytes, map_bytes })?;
    let (used_bytes, map_bytes) = (room.objects_bytes + objects_bytes, room.objects_bytes_max);
    leave(used_bytes, map_bytes, Shortage::Objects { used_bytes, map_bytes })?;
    Ok(left)
}

/// What an identity has too little of now, if anything.
///
/// # Errors
///
/// If it cannot be measured.
pub fn shortage(identity: &Identity, settings: &config::Identity) -> Result<Option<Shortage>, StorageError> {
    Ok(judge(&identity.room()?, ToCome::default(), settings, false).err())
}

/// What the watch found last.
#[derive(Default)]
pub struct RoomWatch {
    is_short: AtomicBool,
    shortage: ArcSwapOption<Shortage>,
    room: ArcSwapOption<Room>,
    /// How many bytes were left then.
    left: AtomicU64,
    /// What the executor said last was to come. A lock because the executor and the watch meet here.
    to_come: Mutex<ToCome>,
}

impl RoomWatch {
    /// What there is too little of; none if commands may be executed.
    pub fn shortage(&self) -> Option<Arc<Shortage>> {
        self.shortage.load_full()
    }

    /// What was measured last; none before the first time.
    pub fn room(&self) -> Option<Room> {
        self.room.load().as_deref().copied()
    }

    /// Why a command is refused now; none if it is not.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        if !self.is_short.load(Ordering::Relaxed) {
            return None;
        }
        self.shortage().map(|shortage| Refusal::StorageFull { message: shortage.to_string() })
    }

    /// How much may be recorded before it has to be measured again, in bytes: each byte takes room in the history and in the object table,
    /// and pages that are partly empty.
    pub(super) fn allowance(&self) -> u64 {
        self.left.load(Ordering::Relaxed) / 4
    }

    /// Takes note of what is to come. For the executor.
    pub(super) fn expect(&self, to_come: ToCome) {
        *self.to_come.lock().unwrap_or_else(PoisonError::into_inner) = to_come;
    }

    /// Measures, and refuses commands from now on or no more. Whether what is to come counts for that, is for the executor to say, which
    /// can have it brought where it will lie first; in the allowance it counts in any case.
    pub(super) fn look(&self, identity: &Identity, settings: &config::Identity, to_come_counts: bool) {
        // Before the measurement: what is written in between counts twice rather than not at all. And until its end: the last one counts.
        let to_come = self.to_come.lock().unwrap_or_else(PoisonError::into_inner);
        let room = match identity.room() {
            Ok(room) => room,
            // It is a watch: who writes finds out himself.
            Err(error) => return log::debug!("the room cannot be measured: {error}"),
        };
        let before = self.shortage();
        let with_all = judge(&room, *to_come, settings, before.is_some());
        self.left.store(with_all.as_ref().copied().unwrap_or(0), Ordering::Relaxed);
        let judged =
            if to_come_counts { with_all } else { judge(&room, ToCome::default(), settings, before.is_some()) };
        let now = judged.err();
        match (&before, &now) {
            (None, Some(shortage)) => log::warn!("commands are refused: {shortage}"),
            (Some(_), None) => log::info!("there is room again: commands are executed"),
            _ => {}
        }
        self.room.store(Some(Arc::new(room)));
        self.is_short.store(now.is_some(), Ordering::Relaxed);
        self.shortage.store(now.map(Arc::new));
    }
}

/// Starts the watch. It has looked once when this returns, and ends when the sender of `end` is dropped.
pub(super) fn start(
    watch: Arc<RoomWatch>,
    identity: Arc<Identity>,
    settings: config::Identity,
    end: Receiver<()>,
) -> JoinHandle<()> {
    watch.look(&identity, &settings, false);
    spawn("room", move || {
        while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(INTERVAL) {
            watch.look(&identity, &settings, false);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn plenty() -> Room {
        Room {
            history_bytes: 100 * MB,
            logged_bytes: 0,
            history_bytes_max: 256 << 30,
            objects_bytes: 10 * MB,
            objects_bytes_max: 64 << 30,
            base_bytes: 0,
            disk_free_bytes: 50 << 30,
            disk_bytes: 100 << 30,
        }
    }

    fn settings() -> config::Identity {
        config::Identity { disk_free_bytes_min: 256 * MB, quota_bytes: 0, ..config::Identity::default() }
    }

    fn judged(room: &Room, settings: &config::Identity, short: bool) -> Option<Shortage> {
        judge(room, ToCome::default(), settings, short).err()
    }

    #[test]
    fn each_shortage_is_seen_and_passes_with_some_room_more() {
        assert_eq!(judged(&plenty(), &settings(), false), None);
        let disk = |free_bytes| Room { disk_free_bytes: free_bytes, ..plenty() };
        assert_eq!(judged(&disk(256 * MB), &settings(), false), None);
        assert!(matches!(judged(&disk(255 * MB), &settings(), false), Some(Shortage::Disk { .. })));
        assert!(matches!(judged(&disk(280 * MB), &settings(), true), Some(Shortage::Disk { .. })));
        assert_eq!(judged(&disk(288 * MB), &settings(), true), None);

        // A sixteenth of the quota is left for the host itself.
        let quota = |quota_bytes| config::Identity { quota_bytes, ..settings() };
        assert!(matches!(judged(&plenty(), &quota(117 * MB), false), Some(Shortage::Quota { .. })));
        assert_eq!(judged(&plenty(), &quota(118 * MB), false), None);
        assert!(matches!(judged(&plenty(), &quota(118 * MB), true), Some(Shortage::Quota { .. })));
        assert_eq!(judged(&plenty(), &quota(119 * MB), true), None);

        let history = Room { history_bytes: (256 << 30) - 60 * MB, ..plenty() };
        assert!(matches!(judged(&history, &settings(), false), Some(Shortage::History { .. })));
        let objects = Room { objects_bytes: (64 << 30) - 60 * MB, ..plenty() };
        assert!(matches!(judged(&objects, &settings(), false), Some(Shortage::Objects { .. })));
    }

    #[test]
    fn what_is_to_come_counts_and_the_least_that_is_left_is_told() {
        let quota = config::Identity { quota_bytes: 160 * MB, ..settings() };
        let left =
            |history_bytes, objects_bytes| judge(&plenty(), ToCome { history_bytes, objects_bytes }, &quota, false);
        // Of 160 MB 10 are kept, and 110 are taken.
        assert_eq!(left(0, 0), Ok(40 * MB));
        assert_eq!(left(15 * MB, 25 * MB), Ok(0));
        assert!(matches!(left(16 * MB, 25 * MB), Err(Shortage::Quota { .. })));
        let all = |to_come| judge(&plenty(), to_come, &settings(), false).unwrap();
        assert_eq!(all(ToCome::default()), (50 << 30) - 256 * MB);
    }

    #[test]
    fn a_small_disk_keeps_a_small_part_free() {
        let small = |free_bytes| Room { disk_bytes: 40 * MB, disk_free_bytes: free_bytes, ..plenty() };
        assert_eq!(judged(&small(2 * MB), &settings(), false), None);
        assert!(matches!(judged(&small(2 * MB - 1), &settings(), false), Some(Shortage::Disk { .. })));
        let off = config::Identity { disk_free_bytes_min: 0, ..settings() };
        // Only the maps are a bound then.
        assert!(judge(&small(0), ToCome::default(), &off, false).is_ok_and(|left| left > 50 << 30));
    }
}
