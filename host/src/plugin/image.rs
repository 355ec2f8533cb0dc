//! A plugin's image in this process: mapped by the dynamic linker, found again among all images, unmapped.

#![allow(unsafe_code, reason = "the dynamic linker runs foreign code and hands out untyped pointers")]

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use theseus_abi::abi_stable::library::{AbiHeaderRef, ROOT_MODULE_LOADER_NAME_WITH_NUL};

use super::sealed::SealedFile;

/// A library that was loaded from a sealed file. Dropping it closes it.
///
/// The file stays open as long as the image is mapped: another file under the same path would be taken for this one.
pub(super) struct Image {
    /// None once it was closed or given up.
    library: Option<Library>,
    /// None only while it is dropped.
    file: Option<SealedFile>,
    path: String,
    /// Where it was mapped; none if it could not be found again, and then it counts as mapped for good.
    address: Option<usize>,
}

impl Image {
    /// Maps a file and resolves all its references. This runs the library's initialisers.
    ///
    /// # Errors
    ///
    /// The dynamic linker's own text.
    pub(super) fn open(file: SealedFile) -> Result<Image, String> {
        let path = file.path();
        // SAFETY: the initialisers of a plugin run with the host's rights, which is what loading a plugin means: whether to
        // trust it was decided before. The file is sealed, so what is mapped cannot change or end early.
        let opened = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) };
        match opened {
            Ok(library) => {
                let address = phdr::address_of(&path);
                Ok(Image { library: Some(library), file: Some(file), path, address })
            }
            Err(error) => {
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

    /// Closes the library. Afterwards nothing of it may be used.
    pub(super) fn close(&mut self) {
        if !cfg!(target_os = "linux") {
            // What a library leaves behind is known and confirmed for one dynamic linker only.
            return self.give_up();
        }
        if let Some(library) = self.library.take()
            && let Err(error) = library.close()
        {
            log::error!("the dynamic linker cannot close a plugin: {}", describe(&error));
        }
    }

    /// Gives up closing it: it stays mapped until the process ends.
    pub(super) fn give_up(&mut self) {
        if let Some(library) = self.library.take() {
            let _never_closed = library.into_raw();
        }
    }

    /// Whether it is still mapped, as the dynamic linker sees it.
    pub(super) fn is_mapped(&self) -> bool {
        self.library.is_some() || self.address.is_none() || self.address == phdr::address_of(&self.path)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        self.close();
        if self.is_mapped()
            && let Some(file) = self.file.take()
        {
            file.keep_for_good();
        }
    }
}

fn describe(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

#[cfg(target_os = "linux")]
mod phdr {
    use std::ffi::{CStr, c_int, c_void};

    struct Search<'a> {
        path: &'a [u8],
        found: Option<usize>,
    }

    /// Where the image is mapped that the dynamic linker loaded from `path`.
    pub(super) fn address_of(path: &str) -> Option<usize> {
        let mut search = Search { path: path.as_bytes(), found: None };
        // SAFETY: `visit` has the signature asked for, and gets the pointer to `search`, which outlives the walk.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
        search.found
    }

    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, search: *mut c_void) -> c_int {
        // SAFETY: the linker hands over a valid record for the length of this call, and `search` is what `address_of` gave it,
        // not used by anybody else meanwhile.
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search<'_>>()) };
        if info.dlpi_name.is_null() {
            return 0;
        }
        // SAFETY: not null, so it is the image's name with its closing zero, which lives as long as the image is mapped; the
        // linker lets no image go during the walk.
        let name = unsafe { CStr::from_ptr(info.dlpi_name) };
        if name.to_bytes() != search.path {
            return 0;
        }
        search.found = Some(info.dlpi_addr as usize);
        1
    }
}

#[cfg(not(target_os = "linux"))]
mod phdr {
    /// Not asked on other systems: what is loaded there stays loaded.
    pub(super) fn address_of(_path: &str) -> Option<usize> {
        None
    }
}
