//! A plugin's image in this process: mapped by the dynamic linker, found again among all images, unmapped.

#![allow(unsafe_code, reason = "the dynamic linker runs foreign code and hands out untyped pointers")]

use std::sync::{Arc, Mutex, PoisonError};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use theseus_abi::abi_stable::library::{AbiHeaderRef, ROOT_MODULE_LOADER_NAME_WITH_NUL};

use super::{
    hooks::{self, Watched},
    retire::PinReason,
    sealed::SealedFile,
};

/// A library that was loaded from a sealed file. Dropping it closes it, at once or when that becomes possible.
///
/// The file stays open as long as the image is mapped: another file under the same path would be taken for this one.
pub(super) struct Image {
    /// None once it was closed.
    library: Option<Library>,
    /// None only while it is dropped.
    file: Option<SealedFile>,
    watched: Arc<Watched>,
    /// Whether it may never be closed.
    is_kept: bool,
}

/// Images that nobody has any more and that could not be closed yet. A lock because they are given up on several threads.
static STRAYS: Mutex<Vec<Image>> = Mutex::new(Vec::new());

/// Closes what can be closed by now of the images that nobody has any more. Answers how many are left.
pub(super) fn sweep_strays() -> usize {
    let mut strays = STRAYS.lock().unwrap_or_else(PoisonError::into_inner);
    strays.retain_mut(|image| image.close().is_err());
    strays.len()
}

impl Image {
    /// Maps a file and resolves all its references. This runs the library's initialisers.
    ///
    /// # Errors
    ///
    /// The dynamic linker's own text.
    pub(super) fn open(file: SealedFile) -> Result<Image, String> {
        let path = file.path();
        // Before the first instruction: initialisers, too, register destructors and start threads.
        let watched = hooks::watch(&path);
        // SAFETY: the initialisers of a plugin run with the host's rights, which is what loading a plugin means: whether to
        // trust it was decided before. The file is sealed, so what is mapped cannot change or end early.
        let opened = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
        match opened {
            // Without a mapping it cannot be shown to be gone, and so it is never closed.
            Ok(library) => {
                let is_kept = watched.mapping().is_none();
                Ok(Image { library: Some(library), file: Some(file), watched, is_kept })
            }
            Err(error) => {
                watched.forget();
                // The linker's message begins with the path of the copy, which says nothing to people.
                let text = describe(&error);
                Err(text.replace(&format!("{path}: "), ""))
            }
        }
    }

    /// The header that `abi_stable` defines for root modules. Valid as long as the image is mapped.
    ///
    /// # Errors
    ///
    /// If the library does not export it.
    pub(super) fn header(&self) -> Result<AbiHeaderRef, String> {
        let library = self.library.as_ref().expect("the image was not closed, since closing takes it by value");
        // SAFETY: `inspect` found under this name a data object at least as large as the header, and `AbiHeaderRef` is a
        // pointer to one. Its magic bytes are checked before anything else is read from it.
        let symbol = unsafe { library.get::<AbiHeaderRef>(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes()) };
        symbol.map(|header| *header).map_err(|error| describe(&error))
    }

    /// Whether the dynamic linker was not yet told to close it.
    pub(super) fn is_open(&self) -> bool {
        self.library.is_some()
    }

    /// Keeps it mapped until the process ends.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }

    /// Unmaps the image, if nothing uses it any more. Nothing of it may be called from now on, whatever comes of this.
    ///
    /// What the calling thread owes it is settled here; other threads are asked to settle, and not waited for.
    ///
    /// # Errors
    ///
    /// Why it is still mapped. If that passes, it can be closed later.
    pub(super) fn close(&mut self) -> Result<(), PinReason> {
        if self.is_open() {
            self.settle()?;
        }
        if let Some(library) = self.library.take() {
            self.watched.delete_keys();
            if let Err(error) = library.close() {
                log::error!("the dynamic linker cannot close a plugin: {}", describe(&error));
            }
        }
        if self.watched.is_mapped() {
            return Err(PinReason::StillMapped);
        }
        self.watched.forget();
        hooks::write_off(&self.watched);
        Ok(())
    }

    /// Has everything destroyed that threads owe to the image, and makes sure that none is left and nothing points into it.
    ///
    /// # Errors
    ///
    /// Why it has to stay mapped, for now or for good.
    pub(super) fn settle(&self) -> Result<(), PinReason> {
        if !hooks::are_in_force() || self.is_kept {
            return Err(PinReason::Unwatched);
        }
        self.watched.leave();
        hooks::settle_here();
        self.no_threads()?;
        if self.watched.owed() > 0 {
            return Err(match hooks::summon(&self.watched) {
                0 => PinReason::Settling,
                threads => PinReason::ThreadLocals { threads },
            });
        }
        // Again: the last destructor may have started one. From here on nothing of the image runs that could.
        self.no_threads()?;
        match self.watched.mapping().and_then(|mapping| mapping.signal_handler()) {
            Some(signal) => Err(PinReason::SignalHandler { signal }),
            None => Ok(()),
        }
    }
}

impl Image {
    fn no_threads(&self) -> Result<(), PinReason> {
        match self.watched.threads() {
            0 => Ok(()),
            count => Err(PinReason::Threads { count }),
        }
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        if let Err(reason) = self.close() {
            log::warn!("a plugin that is not used any more stays in memory: {reason}");
            let (library, watched, is_kept) = (self.library.take(), self.watched.clone(), self.is_kept);
            let image = Image { library, file: Some(file), watched, is_kept };
            STRAYS.lock().unwrap_or_else(PoisonError::into_inner).push(image);
        }
    }
}

fn describe(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}
