//! A private copy of a plugin file that nobody can change any more: what was hashed and judged is what is loaded.
//!
//! On Linux it is a sealed `memfd`. The dynamic linker knows a library by its path and by its inode, and hands out the image
//! it already has for either; a memfd has an inode of its own and the path `/proc/self/fd/N` stays its own for as long as
//! the descriptor is open, so each copy is a new image.
//! On other systems it is a read-only file with a name of its own in a directory that only this user may enter.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
};

/// How often the kernel is asked for a seal that it cannot give at the moment. It waits a fifth of a second each time.
#[cfg(target_os = "linux")]
const SEAL_TRIES_MAX: u32 = 20;

/// An unchangeable copy of some bytes that the dynamic linker can open.
#[derive(Debug)]
pub(super) struct SealedFile {
    file: File,
    length: u64,
    #[cfg(not(target_os = "linux"))]
    directory: std::path::PathBuf,
}

impl SealedFile {
    /// Reads the whole copy back.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.length as usize]; // files of plugins are bounded, so it fits
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Its length in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }
}

#[cfg(target_os = "linux")]
impl SealedFile {
    /// Copies what is read to its end; `origin` names the copy in `/proc/self/maps`, for people.
    pub(super) fn copy_of(mut original: impl Read, origin: &Path) -> io::Result<SealedFile> {
        use rustix::fs::{MemfdFlags, SealFlags};

        // The kernel takes names of up to 249 bytes.
        let stem: String = origin.file_stem().unwrap_or_default().to_string_lossy().chars().take(48).collect();
        let mut file = File::from(rustix::fs::memfd_create(
            format!("theseus:{stem}"),
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING,
        )?);
        // From file to file the kernel copies by itself.
        io::copy(&mut original, &mut file)?;
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        // A page that the kernel itself holds at the moment, to move it elsewhere say, keeps a file from being sealed against
        // writing. The kernel waits for it, but not for long on a busy machine.
        let mut tries_left = SEAL_TRIES_MAX;
        while let Err(error) = rustix::fs::fcntl_add_seals(&file, seals) {
            tries_left -= 1;
            if error != rustix::io::Errno::BUSY || tries_left == 0 {
                return Err(error.into());
            }
        }
        // Asked now that nobody can make it longer any more.
        let length = file.metadata()?.len();
        Ok(SealedFile { file, length })
    }

    /// Where the dynamic linker finds it; unique in this process while the value lives.
    pub(super) fn path(&self) -> String {
        use std::os::fd::AsRawFd;
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }
}

#[cfg(not(target_os = "linux"))]
impl SealedFile {
    /// Copies what is read to its end; the copy carries the file name of `origin`, for people.
    pub(super) fn copy_of(mut original: impl Read, origin: &Path) -> io::Result<SealedFile> {
        use std::{
            os::unix::fs::{DirBuilderExt, OpenOptionsExt},
            sync::atomic::{AtomicU64, Ordering},
        };

        static COPIES: AtomicU64 = AtomicU64::new(0);
        let number = COPIES.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("theseus-{}-{number}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
        let path = directory.join(origin.file_name().unwrap_or("plugin.so".as_ref()));
        let mut file = File::options().read(true).write(true).create_new(true).mode(0o400).open(&path)?;
        let length = io::copy(&mut original, &mut file)?;
        Ok(SealedFile { file, length, directory })
    }

    /// Where the dynamic linker finds it; unique in this process while the value lives.
    pub(super) fn path(&self) -> String {
        let entry = std::fs::read_dir(&self.directory).ok().and_then(|mut entries| entries.next()?.ok());
        entry.map(|entry| entry.path().to_string_lossy().into_owned()).unwrap_or_default()
    }
}

#[cfg(not(target_os = "linux"))]
impl Drop for SealedFile {
    fn drop(&mut self) {
        // An image that is still mapped does not need its file's name.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
