//! What an ELF file says about itself, read from its bytes without loading it.
//!
//! Only what the judgement of a plugin needs, and never more work than in proportion to the file's size, whatever the file
//! claims: names are compared where they stand instead of being searched for their end.

use object::{
    NativeEndian, Pod,
    elf::{self, Dyn64, FileHeader64, ProgramHeader64, SectionHeader64, Sym64},
    read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader, Sym},
};

use super::refusal::Refusal;

/// The most libraries that a plugin may need.
const NEEDED_MAX: usize = 128;

/// The longest name of a library or list of folders, in bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// The longest build id, in bytes.
const BUILD_ID_BYTES_MAX: usize = 64;

#[cfg(target_arch = "x86_64")]
const HOST_MACHINE: elf::Machine = elf::EM_X86_64;
#[cfg(target_arch = "aarch64")]
const HOST_MACHINE: elf::Machine = elf::EM_AARCH64;
#[cfg(target_arch = "riscv64")]
const HOST_MACHINE: elf::Machine = elf::EM_RISCV;
// No ELF file is of this machine, so a host for any other architecture builds and refuses every plugin.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
const HOST_MACHINE: elf::Machine = elf::EM_NONE;

/// A shared library for this machine.
pub(super) struct SharedLibrary<'data> {
    bytes: &'data [u8],
    segments: &'data [ProgramHeader64<NativeEndian>],
    sections: &'data [SectionHeader64<NativeEndian>],
    section_names: &'data [u8],
    dynamic: &'data [Dyn64<NativeEndian>],
}

impl<'data> SharedLibrary<'data> {
    /// Finds the tables, if `bytes` are those of a shared library that the dynamic linker of this machine could map.
    pub(super) fn parse(bytes: &'data [u8]) -> Result<Self, Refusal> {
        let header = header(bytes)?;
        let segments = header
            .program_headers(NativeEndian, bytes)
            .map_err(|_| Refusal::Malformed { problem: "its program headers are incomplete" })?;
        let dynamic = check_segments(segments, bytes)?;
        let sections = header
            .section_headers(NativeEndian, bytes)
            .map_err(|_| Refusal::Malformed { problem: "it ends before its section headers" })?;
        let section_names = match header.shstrndx(NativeEndian, bytes) {
            Ok(index) => sections.get(index as usize).map_or(Ok(&[][..]), |section| section.data(NativeEndian, bytes)),
            Err(_) => Ok(&[][..]),
        };
        let section_names =
            section_names.map_err(|_| Refusal::Malformed { problem: "its section names lie outside of it" })?;
        let library = SharedLibrary { bytes, segments, sections, section_names, dynamic };
        if library.dynamic_word(elf::DT_FLAGS_1) & elf::DF_1_PIE.0 != 0 {
            return Err(Refusal::NotShared { found: "an executable" });
        }
        Ok(library)
    }

    /// The contents of the sections with this name; `name` ends with a zero byte.
    pub(super) fn sections_named(&self, name: &[u8]) -> Result<Vec<&'data [u8]>, Refusal> {
        let named = self.sections.iter().filter(|section| {
            let start = section.sh_name(NativeEndian) as usize;
            self.section_names.get(start..).is_some_and(|rest| rest.starts_with(name))
        });
        named
            .map(|section| {
                let data = section.data(NativeEndian, self.bytes);
                data.map_err(|_| Refusal::Malformed { problem: "a section lies outside of it" })
            })
            .collect()
    }

    /// The size of the data object that the library exports under `name`, which ends with a zero byte.
    pub(super) fn exported_object(&self, name: &[u8]) -> Result<Option<u64>, Refusal> {
        let Some(table) = self.sections.iter().find(|section| section.sh_type(NativeEndian) == elf::SHT_DYNSYM) else {
            return Ok(None);
        };
        let malformed = Refusal::Malformed { problem: "its dynamic symbols lie outside of it" };
        let symbols: &[Sym64<NativeEndian>] = array(table, self.bytes).ok_or(malformed.clone())?;
        let strings = self.sections.get(table.sh_link(NativeEndian) as usize);
        let strings = strings.ok_or(malformed.clone())?;
        // The dynamic linker goes by the dynamic table. What was found here must be what it will find.
        if table.sh_addr(NativeEndian) != self.dynamic_word(elf::DT_SYMTAB)
            || strings.sh_addr(NativeEndian) != self.dynamic_word(elf::DT_STRTAB)
            || !self.is_mapped_as_it_stands(table)
            || !self.is_mapped_as_it_stands(strings)
        {
            return Err(Refusal::Malformed { problem: "its sections and its dynamic table contradict each other" });
        }
        let strings = strings.data(NativeEndian, self.bytes).map_err(|_| malformed)?;
        let found = symbols.iter().find(|symbol| {
            let start = symbol.st_name(NativeEndian) as usize;
            !symbol.is_undefined(NativeEndian)
                && symbol.st_type() == elf::STT_OBJECT
                && strings.get(start..).is_some_and(|rest| rest.starts_with(name))
        });
        Ok(found.map(|symbol| symbol.st_size(NativeEndian)))
    }

    /// Whether the library forbids to be unloaded.
    pub(super) fn is_no_delete(&self) -> bool {
        self.dynamic_word(elf::DT_FLAGS_1) & elf::DF_1_NODELETE.0 != 0
    }

    /// Whether the library takes thread-local storage from the small part that is laid out when the process starts.
    pub(super) fn is_static_tls(&self) -> bool {
        self.dynamic_word(elf::DT_FLAGS) & elf::DF_STATIC_TLS.0 != 0
    }

    /// The names of the libraries that it needs.
    pub(super) fn needed(&self) -> Result<Vec<&'data [u8]>, Refusal> {
        let texts = self.dynamic_texts()?;
        let offsets = self.dynamic_values(elf::DT_NEEDED).take(NEEDED_MAX + 1);
        let names = offsets.map(|offset| text_at(texts, offset)).collect::<Result<Vec<_>, _>>()?;
        if names.len() > NEEDED_MAX {
            return Err(Refusal::Malformed { problem: "it needs more libraries than a plugin may" });
        }
        Ok(names)
    }

    /// The folders, with colons between, in which it has the dynamic linker look for libraries.
    pub(super) fn runpath(&self) -> Result<Option<&'data [u8]>, Refusal> {
        let mut paths = self.dynamic_values(elf::DT_RUNPATH).chain(self.dynamic_values(elf::DT_RPATH));
        paths.next().map(|offset| text_at(self.dynamic_texts()?, offset)).transpose()
    }

    /// What the linker named this build, in hexadecimal.
    pub(super) fn build_id(&self) -> Option<String> {
        let notes = self.segments.iter().filter_map(|segment| segment.notes(NativeEndian, self.bytes).ok().flatten());
        // Few notes come first in any real library; a file full of empty ones is not read to its end.
        let mut notes = notes.flat_map(|notes| notes.map_while(Result::ok).take(64)).take(64);
        let note =
            notes.find(|note| note.name() == elf::ELF_NOTE_GNU && note.n_type(NativeEndian) == elf::NT_GNU_BUILD_ID)?;
        let id = note.desc().get(..note.desc().len().min(BUILD_ID_BYTES_MAX))?;
        Some(id.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Whether the names of functions that are not exported are there.
    pub(super) fn has_symbols(&self) -> bool {
        self.sections.iter().any(|section| section.sh_type(NativeEndian) == elf::SHT_SYMTAB)
    }

    /// Whether debug information is there.
    pub(super) fn has_debug_info(&self) -> bool {
        self.sections_named(b".debug_info\0").is_ok_and(|sections| !sections.is_empty())
    }

    /// The value of a dynamic entry, 0 if there is none.
    fn dynamic_word(&self, tag: elf::DynamicTag) -> u64 {
        self.dynamic_values(tag).next().unwrap_or(0)
    }

    fn dynamic_values(&self, tag: elf::DynamicTag) -> impl Iterator<Item = u64> {
        let entries = self.dynamic.iter().take_while(|entry| entry.d_tag(NativeEndian) != elf::DT_NULL);
        entries.filter(move |entry| entry.d_tag(NativeEndian) == tag).map(|entry| entry.d_val(NativeEndian))
    }

    /// The texts of the dynamic table; nothing if there are none.
    fn dynamic_texts(&self) -> Result<&'data [u8], Refusal> {
        match self.dynamic_word(elf::DT_STRTAB) {
            0 => Ok(&[]),
            address => self.mapped(address, self.dynamic_word(elf::DT_STRSZ)).ok_or(TEXT_OUTSIDE),
        }
    }

    /// Whether the dynamic linker would have a section in memory at the address that the section names.
    fn is_mapped_as_it_stands(&self, section: &SectionHeader64<NativeEndian>) -> bool {
        let mapped = self.mapped(section.sh_addr(NativeEndian), section.sh_size(NativeEndian));
        let stands = section.data(NativeEndian, self.bytes).ok();
        mapped.zip(stands).is_some_and(|(mapped, stands)| std::ptr::eq(mapped, stands))
    }

    /// What the dynamic linker would have in memory at this address.
    fn mapped(&self, address: u64, size: u64) -> Option<&'data [u8]> {
        let mut loaded = self.segments.iter().filter(|segment| segment.p_type(NativeEndian) == elf::PT_LOAD);
        loaded.find_map(|segment| segment.data_range(NativeEndian, self.bytes, address, size).ok().flatten())
    }
}

const TEXT_OUTSIDE: Refusal = Refusal::Malformed { problem: "its dynamic table points to a text outside of it" };

/// The text that begins at an offset.
fn text_at(texts: &[u8], offset: u64) -> Result<&[u8], Refusal> {
    let text = usize::try_from(offset).ok().and_then(|offset| texts.get(offset..)).ok_or(TEXT_OUTSIDE)?;
    let length = text.iter().take(TEXT_BYTES_MAX).position(|byte| *byte == 0).ok_or(TEXT_OUTSIDE)?;
    Ok(&text[..length])
}

/// The file header, of the right kind for this machine.
fn header(bytes: &[u8]) -> Result<&FileHeader64<NativeEndian>, Refusal> {
    const MAGIC: &[u8] = b"\x7fELF";
    if !bytes.starts_with(MAGIC) {
        return Err(Refusal::NotElf { length: bytes.len() });
    }
    // The first 16 bytes mean the same in every ELF file; the fields after them depend on class and byte order.
    let (Some(&class), Some(&order)) = (bytes.get(4), bytes.get(5)) else {
        return Err(Refusal::Malformed { problem: "it ends within its header" });
    };
    if class != elf::ELFCLASS64.0 {
        return Err(Refusal::WrongClass { found: class });
    }
    let host_order = if cfg!(target_endian = "little") { elf::ELFDATA2LSB } else { elf::ELFDATA2MSB };
    if order != host_order.0 {
        return Err(Refusal::WrongByteOrder);
    }
    let header = FileHeader64::<NativeEndian>::parse(bytes)
        .map_err(|_| Refusal::Malformed { problem: "its header is incomplete or of an unknown version" })?;
    let machine = header.e_machine(NativeEndian);
    if machine != HOST_MACHINE {
        return Err(Refusal::WrongMachine { found: machine_name(machine), host: std::env::consts::ARCH });
    }
    match header.e_type(NativeEndian) {
        elf::ET_DYN => Ok(header),
        elf::ET_EXEC => Err(Refusal::NotShared { found: "an executable" }),
        elf::ET_REL => Err(Refusal::NotShared { found: "an object file" }),
        elf::ET_CORE => Err(Refusal::NotShared { found: "a core dump" }),
        _ => Err(Refusal::NotShared { found: "an ELF file of an unknown type" }),
    }
}

/// Checks that what would be mapped is in the file, for touching a page beyond its end is a SIGBUS; gives the dynamic table.
fn check_segments<'data>(
    segments: &[ProgramHeader64<NativeEndian>],
    bytes: &'data [u8],
) -> Result<&'data [Dyn64<NativeEndian>], Refusal> {
    let length = bytes.len() as u64;
    let mut dynamic = None;
    for segment in segments {
        let (start, size) = segment.file_range(NativeEndian);
        let is_inside = start.checked_add(size).is_some_and(|end| end <= length);
        let is_load = segment.p_type(NativeEndian) == elf::PT_LOAD;
        if is_load && !(is_inside && size <= segment.p_memsz(NativeEndian)) {
            return Err(Refusal::Malformed { problem: "it is cut off: a part to be loaded lies outside of it" });
        }
        let table = segment
            .dynamic(NativeEndian, bytes)
            .map_err(|_| Refusal::Malformed { problem: "its dynamic table lies outside of it" })?;
        dynamic = dynamic.or(table);
    }
    dynamic.ok_or(Refusal::NotShared { found: "an ELF file without a dynamic table" })
}

fn array<'data, T: Pod>(section: &SectionHeader64<NativeEndian>, bytes: &'data [u8]) -> Option<&'data [T]> {
    section.data_as_array(NativeEndian, bytes).ok()
}

fn machine_name(machine: elf::Machine) -> String {
    match machine {
        elf::EM_X86_64 => "x86_64".to_owned(),
        elf::EM_AARCH64 => "aarch64".to_owned(),
        elf::EM_386 => "x86".to_owned(),
        elf::EM_ARM => "arm".to_owned(),
        elf::EM_RISCV => "riscv".to_owned(),
        elf::EM_PPC64 => "powerpc64".to_owned(),
        elf::EM_S390 => "s390".to_owned(),
        elf::Machine(number) => format!("machine number {number}"),
    }
}
