//! Where an image lies in memory, and whether a signal handler points into it.

#![allow(unsafe_code, reason = "the dynamic linker and the kernel are asked through C interfaces")]

/// Where an image is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mapping {
    start: usize,
    end: usize,
}

impl Mapping {
    pub(super) fn contains(&self, address: usize) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// The first signal whose handler is in the image.
    pub(super) fn signal_handler(&self) -> Option<i32> {
        /// The highest signal of Linux, `SIGRTMAX`.
        const SIGNAL_MAX: i32 = 64;

        (1..=SIGNAL_MAX).find(|signal| {
            // SAFETY: all zeroes is a value of this struct of integers.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            // SAFETY: without a new action the call changes nothing but `action`. The C library refuses its own signals.
            let asked = unsafe { libc::sigaction(*signal, std::ptr::null(), &raw mut action) };
            asked == 0 && self.contains(action.sa_sigaction)
        })
    }
}

#[cfg(target_os = "linux")]
mod phdr {
    use std::ffi::{CStr, c_int, c_void};

    use super::Mapping;

    struct Search<'a> {
        path: &'a [u8],
        found: Option<Mapping>,
    }

    /// Where the image is mapped that the dynamic linker loaded from `path`.
    pub(in crate::plugin) fn find(path: &str) -> Option<Mapping> {
        let mut search = Search { path: path.as_bytes(), found: None };
        // SAFETY: `visit` has the signature asked for, and gets the pointer to `search`, which outlives the walk.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
        search.found
    }

    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, search: *mut c_void) -> c_int {
        // SAFETY: the linker hands over a valid record for the length of this call, and `search` is what `find` gave it,
        // not used by anybody else meanwhile.
        let (info, search) = unsafe { (&*info, &mut *search.cast::<Search<'_>>()) };
        if info.dlpi_name.is_null() {
            return 0;
        }
        // SAFETY: not null, so it is the image's name with its closing zero, which lives as long as the image is mapped; the
        // linker lets no image go during the walk.
        let name = unsafe { CStr::from_ptr(info.dlpi_name) };
        if name.to_bytes() != search.path || info.dlpi_phdr.is_null() {
            return 0;
        }
        // SAFETY: the linker gives the image's program headers with their number, and they live as long as the image.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let base = info.dlpi_addr as usize;
        let segments = headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
        let bounds = segments.map(|it| (base + it.p_vaddr as usize, base + (it.p_vaddr + it.p_memsz) as usize));
        search.found =
            bounds.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1))).map(|(start, end)| Mapping { start, end });
        1
    }
}

#[cfg(not(target_os = "linux"))]
mod phdr {
    /// Not asked on other systems: what is loaded there stays loaded.
    pub(in crate::plugin) fn find(_path: &str) -> Option<super::Mapping> {
        None
    }
}

pub(super) use phdr::find;
