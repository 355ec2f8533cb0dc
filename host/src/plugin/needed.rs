//! The libraries that a plugin needs, searched for as the dynamic linker will, without loading any.
//!
//! The order of ld.so(8): the library's own folders, `LD_LIBRARY_PATH`, the cache that ldconfig(8) makes, the system's folders.

use std::{
    ffi::OsStr,
    fs::File,
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::{elf::SharedLibrary, inspect::Library, manifest::shorten, refusal::Refusal};

/// The cache of all libraries that the system knows, of glibc.
const CACHE: &str = "/etc/ld.so.cache";

/// The longest cache that is read, in bytes.
const CACHE_BYTES_MAX: u64 = 16 << 20;

/// Where the dynamic linker looks whatever it is told.
const FOLDERS: [&str; 5] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"];

/// Whether what was not found is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Searched {
    /// It is not there: the system's own cache was asked.
    Everywhere,
    /// It may be elsewhere.
    SomePlaces,
}

/// What a library is, and where those are that it needs.
pub(super) fn describe(library: &SharedLibrary<'_>) -> Result<(Library, Searched), Refusal> {
    let names = library.needed()?;
    let runpath = library.runpath()?;
    let (places, searched) = places(&names, runpath);
    let needed = names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).zip(places).collect();
    let facts = Library {
        needed,
        runpath: runpath.map(|folders| shorten(&String::from_utf8_lossy(folders))),
        no_delete: library.is_no_delete(),
        static_tls: library.is_static_tls(),
        build_id: library.build_id(),
        has_symbols: library.has_symbols(),
        has_debug_info: library.has_debug_info(),
    };
    Ok((facts, searched))
}

/// Where each library is, and whether those without a place are nowhere.
fn places(names: &[&[u8]], runpath: Option<&[u8]>) -> (Vec<Option<PathBuf>>, Searched) {
    let cache = read_cache();
    let listed = cache.as_deref().map(Cache::parse).unwrap_or_default();
    let given = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let folders = [runpath.unwrap_or_default(), given.as_bytes()];
    let folders = folders.iter().flat_map(|folders| folders.split(|byte| *byte == b':'));
    // `$ORIGIN` is the folder of the file that is loaded; a plugin is loaded from memory and has none.
    let folders = folders.filter(|folder| folder.starts_with(b"/"));
    let folders: Vec<&Path> = folders.map(|folder| Path::new(OsStr::from_bytes(folder))).collect();
    let place = |name: &&[u8]| {
        let file = Path::new(OsStr::from_bytes(name));
        if name.contains(&b'/') {
            return file.is_file().then(|| file.to_path_buf());
        }
        let within = |folders: &[&Path]| folders.iter().map(|folder| folder.join(file)).find(|path| path.is_file());
        let place = within(&folders).or_else(|| listed.as_ref()?.find(name));
        place.or_else(|| within(&FOLDERS.map(Path::new)))
    };
    let searched = if listed.is_some() { Searched::Everywhere } else { Searched::SomePlaces };
    (names.iter().map(place).collect(), searched)
}

fn read_cache() -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(CACHE).ok()?.take(CACHE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The cache, in the form that glibc writes since 2.2 (`struct cache_file_new` of its `dl-cache.h`).
struct Cache<'data> {
    entries: &'data [u8],
    /// What the offsets of names count from.
    base: &'data [u8],
}

impl<'data> Cache<'data> {
    const MAGIC: &'static [u8] = b"glibc-ld.so.cache1.1";
    const HEADER_BYTES: usize = 48;
    const ENTRY_BYTES: usize = 24;

    /// Which libraries in the cache are for this machine (`FLAG_ELF_LIBC6` with the machine's own flag).
    const FLAGS: u32 = if cfg!(target_arch = "aarch64") {
        0x0a03
    } else if cfg!(target_arch = "riscv64") {
        0x1003
    } else {
        0x0303
    };

    fn parse(bytes: &'data [u8]) -> Option<Cache<'data>> {
        // Older systems write a part in an older form before it.
        let start = bytes.windows(Self::MAGIC.len()).position(|window| window == Self::MAGIC)?;
        let base = &bytes[start..];
        let count = word(base, Self::MAGIC.len())? as usize;
        let entries = base.get(Self::HEADER_BYTES..)?.get(..count.checked_mul(Self::ENTRY_BYTES)?)?;
        Some(Cache { entries, base })
    }

    /// The file that a name stands for.
    fn find(&self, name: &[u8]) -> Option<PathBuf> {
        let mut entries = self.entries.chunks_exact(Self::ENTRY_BYTES);
        let entry = entries.find(|entry| {
            word(entry, 0) == Some(Self::FLAGS)
                && word(entry, 4).and_then(|at| self.base.get(at as usize..)?.strip_prefix(name)).is_some_and(ends)
        })?;
        let path = self.base.get(word(entry, 8)? as usize..)?;
        let length = path.iter().take(4096).position(|byte| *byte == 0)?;
        let path = Path::new(OsStr::from_bytes(&path[..length]));
        path.is_file().then(|| path.to_path_buf())
    }
}

fn ends(rest: &[u8]) -> bool {
    rest.first() == Some(&0)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c_library_is_found_and_what_does_not_exist_is_not() {
        let (places, _) = places(&[b"libc.so.6", b"libno-such-thing.so.7", b"/no/such/lib.so", b""], None);
        let found: Vec<bool> = places.iter().map(Option::is_some).collect();
        assert_eq!(found, [cfg!(target_env = "gnu"), false, false, false]);
    }

    #[test]
    fn the_librarys_own_folders_count() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("libown.so"), "").unwrap();
        let runpath = format!("$ORIGIN:{}", folder.path().display());
        let (places, _) = places(&[b"libown.so"], Some(runpath.as_bytes()));
        assert_eq!(places, [Some(folder.path().join("libown.so"))]);
    }

    #[test]
    fn the_systems_cache_is_read() {
        let Some(bytes) = read_cache() else {
            return eprintln!("NOT CHECKED: this system has no {CACHE}");
        };
        let cache = Cache::parse(&bytes).expect("the cache has the form that glibc writes");
        let found = cache.find(b"libc.so.6").expect("the C library is in it");
        assert!(found.is_file(), "{}", found.display());
        assert_eq!(cache.find(b"libc.so.6."), None);
        assert_eq!(cache.find(b"libc.so."), None);
    }

    #[test]
    fn a_damaged_cache_is_no_cache() {
        let mut bytes = [Cache::MAGIC, &[0xff; 100]].concat();
        assert!(Cache::parse(&bytes).is_none());
        bytes[20..24].copy_from_slice(&2_u32.to_ne_bytes());
        assert!(Cache::parse(&bytes).unwrap().find(b"libc.so.6").is_none());
        assert!(Cache::parse(&bytes[..30]).is_none());
        assert!(Cache::parse(b"").is_none());
    }
}
