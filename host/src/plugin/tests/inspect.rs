//! The judgement of files: each kind of wrong file gets its reason, and no file gets the better of the judge.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

fn refusal(bytes: &[u8]) -> Refusal {
    inspect(bytes).unwrap_err()
}

/// The bare plugin with one text of its manifest replaced.
fn with_manifest(old: &str, new: &str) -> Vec<u8> {
    bare("well", |bytes| fixtures::replace(bytes, old, new))
}

#[test]
fn a_good_plugin_is_accepted() {
    let bytes = bare("well", |_| ());
    let inspection = inspect(&bytes).unwrap();
    assert_eq!(inspection.digest, Digest::of(&bytes));
    assert_eq!(inspection.manifest.name, "bare");
    assert_eq!(inspection.manifest.behaviors[0].name, "bare.Probe");
    assert_eq!((inspection.manifest.behaviors[0].schema, &inspection.manifest.behaviors[0].reads[..]), (2, &[1][..]));
    assert_eq!(inspection.warnings, []);
}

#[test]
fn it_survives_strip() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stripped.so");
    let status = std::process::Command::new("strip").arg(fixtures::bare()).arg("-o").arg(&path).status().unwrap();
    assert!(status.success());
    assert_eq!(inspect(&std::fs::read(path).unwrap()).unwrap().manifest.name, "bare");
}

#[test]
fn no_code_of_a_refused_file_runs() {
    let directory = tempfile::tempdir().unwrap();
    let library = fixtures::touch(directory.path());
    let trace = directory.path().join("trace");
    // That the trap works: the dynamic linker runs the initialiser.
    let status = std::process::Command::new("true")
        .env("LD_PRELOAD", &library)
        .env("THESEUS_FIXTURE_TOUCH", &trace)
        .status()
        .unwrap();
    assert!(status.success());
    assert!(trace.exists(), "the fixture leaves a trace when it is loaded");
    std::fs::remove_file(&trace).unwrap();

    let environment = [("THESEUS_FIXTURE_TOUCH", trace.as_path()), ("THESEUS_FIXTURE_LIBRARY", &library)];
    in_own_process(module_path!(), "the_trap_is_refused", &environment);
    assert!(!trace.exists(), "code of a refused file has run");
}

#[test]
#[ignore = "run by no_code_of_a_refused_file_runs, in a process that would show it"]
fn the_trap_is_refused() {
    let library = std::env::var_os("THESEUS_FIXTURE_LIBRARY").unwrap();
    let staged = stage(library.as_ref(), FILE_BYTES_LIMIT).unwrap();
    assert_eq!(refusal(staged.bytes()), Refusal::NoManifest);
}

#[test]
fn each_wrong_file_gets_its_reason() {
    let good = bare("well", |_| ());
    assert_eq!(refusal(b""), Refusal::NotElf { length: 0 });
    assert_eq!(refusal(b"[package]\nname = \"counter\"\n"), Refusal::NotElf { length: 27 });
    assert_eq!(
        refusal(&good[..10]),
        Refusal::Malformed { problem: "its header is incomplete or of an unknown version" }
    );
    assert_eq!(refusal(&std::fs::read(fixtures::noteless()).unwrap()), Refusal::NoManifest);
    assert!(matches!(refusal(&std::fs::read("/proc/self/exe").unwrap()), Refusal::NotShared { .. }));

    let changed = |change: fn(&mut Vec<u8>)| refusal(&bare("well", change));
    assert_eq!(changed(|bytes| bytes[4] = 1), Refusal::WrongClass { found: 1 });
    assert_eq!(changed(|bytes| bytes[5] = 3 - bytes[5]), Refusal::WrongByteOrder);
    assert_eq!(changed(|bytes| bytes[16] = 2), Refusal::NotShared { found: "an executable" });
    assert_eq!(changed(|bytes| bytes[16] = 1), Refusal::NotShared { found: "an object file" });
    assert!(matches!(
        changed(|bytes| fixtures::add_dynamic_flags(bytes, fixtures::DT_FLAGS_1, fixtures::DF_1_PIE)),
        Refusal::NotShared { .. }
    ));
    const EM_S390: u16 = 22;
    let foreign = changed(|bytes| fixtures::set_machine(bytes, EM_S390));
    assert_eq!(foreign, Refusal::WrongMachine { found: "s390".to_owned(), host: std::env::consts::ARCH });
    assert!(foreign.to_string().contains("built for s390, the host runs on"));
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let good = bare("well", |_| ());
    for length in 0..good.len() {
        let refusal = refusal(&good[..length]);
        let is_expected = if length < 4 {
            matches!(refusal, Refusal::NotElf { .. })
        } else {
            matches!(refusal, Refusal::Malformed { .. })
        };
        assert!(is_expected, "cut to {length} of {}: {refusal:?}", good.len());
    }
}

#[test]
fn what_the_manifest_says_decides() {
    let fingerprint = format!("{:016x}", theseus_abi::LAYOUT_FINGERPRINT);
    let host = theseus_abi::HOST_ABI;
    let abi = |min: u32, max: u32| format!("\"abi\":{{\"min\":{min},\"max\":{max}}}");
    let other = refusal(&with_manifest(&abi(host.min, host.max), &abi(9, 9)));
    assert_eq!(other, Refusal::WrongAbi { plugin: theseus_abi::AbiRange { min: 9, max: 9 }, host });
    assert!(other.to_string().contains("ABI version 9, this host speaks 1"), "{other}");
    let reversed = refusal(&with_manifest(&abi(host.min, host.max), &abi(1, 0)));
    assert!(matches!(reversed, Refusal::WrongAbi { .. }));

    let other = refusal(&with_manifest(&fingerprint, "0123456789abcdef"));
    assert_eq!(other, Refusal::WrongLayout { plugin: "0123456789abcdef".to_owned(), host: fingerprint.clone() });
    let other = refusal(&with_manifest(r#""panic":"unwind""#, r#""panic":"abort!""#));
    assert_eq!(other, Refusal::WrongPanicStrategy { found: "abort!".to_owned() });

    for (old, new) in [
        (r#""name":"bare","#, r#""name":"Bare","#),
        (r#""name":"bare","#, r#""name":"../b","#),
        (r#""name":"bare","#, r#""name":"1are","#),
        (r#""name":"bare","#, r#""name":"b.re","#),
        (r#""name":"bare","#, r#""name":"evil","#),
        (r#""name":"bare.Probe""#, r#""name":"bare_Probe""#),
        (r#""name":"bare.Probe""#, r#""name":"bare.1robe""#),
        (r#""name":"bare.Probe""#, r#""name":"bare.Pr be""#),
    ] {
        let refusal = refusal(&with_manifest(old, new));
        assert!(matches!(refusal, Refusal::BadName { .. }), "{new}: {refusal:?}");
    }
    let twice = refusal(&with_manifest(r#""name":"bare.Probe""#, r#""name":"bare.Other""#));
    assert_eq!(twice, Refusal::DuplicateBehavior { name: "bare.Other".to_owned() });
    for (old, new) in [
        (r#"{"name":"bare","#, r#"{"name": bare ,"#),
        (r#""schema":2"#, r#""schema":x"#),
        (r#""name":"bare.Probe""#, "\"name\":\"bare.Prob\u{8}\""),
        (r#""rustc""#, r#""rusty""#),
    ] {
        let refusal = refusal(&with_manifest(old, new));
        assert!(matches!(refusal, Refusal::BadManifest { .. }), "{new}: {refusal:?}");
    }
}

#[test]
fn the_note_has_one_form() {
    let place = |bytes: &[u8]| {
        let name = b"\x08\0\0\0"; // the size of the owner's name, at the start of the note
        (0..bytes.len())
            .find(|&at| bytes[at..].starts_with(name) && bytes[at + 12..].starts_with(b"Theseus\0{"))
            .expect("the note is in the file")
    };
    let changed = |offset: usize, new: &[u8]| {
        refusal(&bare("well", |bytes| {
            let at = place(bytes) + offset;
            bytes[at..at + new.len()].copy_from_slice(new);
        }))
    };
    assert!(matches!(changed(0, &[9]), Refusal::BadNote { .. }));
    assert!(matches!(changed(12, b"Ariadne\0"), Refusal::BadNote { .. }));
    assert!(matches!(changed(12, b"Theseus!"), Refusal::BadNote { .. }));
    assert!(matches!(changed(8, &[2]), Refusal::BadNote { .. }));
    assert!(matches!(changed(4, &[0xff, 0xff, 0, 0]), Refusal::BadNote { problem: "it ends within the manifest" }));
    assert!(matches!(changed(4, &[0xff; 4]), Refusal::BadNote { problem: "it is longer than a manifest may be" }));
    // A shorter description leaves something behind that is no padding.
    assert_eq!(changed(4, &[16, 0, 0, 0]), Refusal::ManyManifests);
}

#[test]
fn a_plugin_without_its_entry_point_is_refused() {
    let symbol = abi_stable::library::ROOT_MODULE_LOADER_NAME;
    let renamed = symbol.replace("root", "toor");
    assert_eq!(refusal(&bare("well", |bytes| fixtures::replace(bytes, symbol, &renamed))), Refusal::NoRootModule);
}

#[test]
fn a_library_that_stays_loaded_is_announced() {
    let bytes = bare("well", |bytes| {
        fixtures::add_dynamic_flags(bytes, fixtures::DT_FLAGS_1, fixtures::DF_1_NODELETE);
        const DT_FLAGS: u64 = 30;
        const DF_STATIC_TLS: u64 = 16;
        fixtures::add_dynamic_flags(bytes, DT_FLAGS, DF_STATIC_TLS);
    });
    let inspection = inspect(&bytes).unwrap();
    assert_eq!(inspection.warnings, [Warning::NoDelete, Warning::StaticTls]);
    assert!(inspection.is_no_delete());
}

#[test]
fn every_library_of_the_system_is_refused_quickly() {
    const JUDGED_MAX: usize = 20_000;
    let mut judged = 0;
    let folders = ["/usr/lib", "/lib", "/usr/lib64", "/lib64", "/usr/local/lib"].map(Path::new);
    // Some lead to others; each is walked once.
    let folders: std::collections::BTreeSet<_> = folders.iter().flat_map(|folder| folder.canonicalize()).collect();
    let mut folders: Vec<_> = folders.into_iter().collect();
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                folders.push(path);
                continue;
            }
            if !kind.is_file() || !path.to_string_lossy().contains(".so") || judged == JUDGED_MAX {
                continue;
            }
            let Ok(bytes) = std::fs::read(&path) else { continue };
            let start = Instant::now();
            let refusal = refusal(&bytes);
            let took = start.elapsed();
            assert!(took < Duration::from_millis(500), "{}: {took:?}", path.display());
            let is_expected = match refusal {
                Refusal::NoManifest | Refusal::NotShared { .. } => bytes.starts_with(b"\x7fELF"),
                Refusal::NotElf { .. } => !bytes.starts_with(b"\x7fELF"),
                Refusal::WrongClass { .. } | Refusal::WrongMachine { .. } => true,
                _ => false,
            };
            assert!(is_expected, "{}: {refusal:?}", path.display());
            judged += 1;
        }
    }
    println!("{judged} libraries of the system were judged, and each was refused");
    assert!(judged > 10, "only {judged} libraries were found");
}

#[test]
fn a_file_made_to_cost_time_costs_little() {
    // A million symbols, all with a name that begins at the start of 24 MB without an end. All tables agree about that.
    const SIZE: usize = 24 << 20;
    const ADDRESS: usize = 1 << 40;
    const SYMBOL: [u8; 24] = {
        let mut symbol = [0; 24];
        symbol[4] = 1; // STT_OBJECT
        symbol[6] = 1; // defined in section 1
        symbol
    };
    let mut bytes = bare("well", |_| ());
    let word = |bytes: &[u8], at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    const SHT_DYNSYM: u32 = 11;
    let table = fixtures::section(&bytes, SHT_DYNSYM);
    let linked = u32::from_ne_bytes(bytes[table + 40..table + 44].try_into().unwrap()) as usize;
    let linked = word(&bytes, 0x28) + linked * 64;
    let texts = bytes[word(&bytes, linked + 24)..][..word(&bytes, linked + 32)].to_vec();
    let (symbols, strings) = (bytes.len(), bytes.len() + SIZE);
    let name = (texts.len() as u32).to_ne_bytes();
    bytes.extend([&name[..], &SYMBOL[4..]].concat().iter().cycle().take(SIZE));
    bytes.extend(&texts);
    bytes.resize(strings + SIZE, b'x');

    let mut set = |at: usize, value: usize| bytes[at..at + 8].copy_from_slice(&(value as u64).to_ne_bytes());
    for (section, place) in [(table, symbols), (linked, strings)] {
        set(section + 16, ADDRESS + place);
        set(section + 24, place);
        set(section + 32, SIZE);
    }
    const PT_GNU_STACK: u32 = 0x6474_e551;
    const PT_LOAD: u32 = 1;
    let segment = fixtures::segment(&bytes, PT_GNU_STACK);
    bytes[segment..segment + 4].copy_from_slice(&PT_LOAD.to_ne_bytes());
    let mut set = |at: usize, value: usize| bytes[at..at + 8].copy_from_slice(&(value as u64).to_ne_bytes());
    for (field, value) in [(8, symbols), (16, ADDRESS + symbols), (32, 2 * SIZE), (40, 2 * SIZE)] {
        set(segment + field, value);
    }
    const DT_STRTAB: u64 = 5;
    const DT_SYMTAB: u64 = 6;
    const DT_STRSZ: u64 = 10;
    for (tag, value) in [(DT_STRTAB, ADDRESS + strings), (DT_SYMTAB, ADDRESS + symbols), (DT_STRSZ, SIZE)] {
        let entry = fixtures::dynamic_entry(&bytes, tag);
        bytes[entry + 8..entry + 16].copy_from_slice(&(value as u64).to_ne_bytes());
    }
    let start = Instant::now();
    assert_eq!(refusal(&bytes), Refusal::NoRootModule);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn a_dynamic_table_made_to_cost_time_costs_little() {
    // Very many libraries that are needed, and very many entries that mean nothing.
    const ENTRIES: usize = 1 << 18;
    for tag in [1_u64, 0x6fff_ff00] {
        let mut bytes = bare("well", |_| ());
        const PT_DYNAMIC: u32 = 2;
        let segment = fixtures::segment(&bytes, PT_DYNAMIC);
        let word = |bytes: &[u8], at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let table = bytes[word(&bytes, segment + 8)..][..word(&bytes, segment + 32)].to_vec();
        let start = bytes.len();
        for _ in 0..ENTRIES {
            bytes.extend(tag.to_ne_bytes());
            bytes.extend(1_u64.to_ne_bytes());
        }
        bytes.extend(table);
        let size = bytes.len() - start;
        for (field, value) in [(8, start), (32, size)] {
            bytes[segment + field..segment + field + 8].copy_from_slice(&(value as u64).to_ne_bytes());
        }
        let start = Instant::now();
        let judgement = inspect(&bytes);
        assert_eq!(judgement.is_err(), tag == 1, "{judgement:?}");
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..4096), is_elf in any::<bool>()) {
        let mut bytes = bytes;
        if is_elf && bytes.len() >= 64 {
            // A plausible header, so that what follows is looked at.
            bytes[..20].copy_from_slice(&bare_header()[..20]);
        }
        prop_assert!(inspect(&bytes).is_err());
    }

    #[test]
    fn a_damaged_plugin_is_judged_without_a_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u64>(), 0..8usize, 0..4usize), 1..12),
    ) {
        let mut bytes = BARE.clone();
        for (place, word, size, region) in edits {
            // The tables that are read stand at the front and at the end of the file; most of the rest is code.
            let range = match region {
                0 => 0..64,
                1 => 0..4096,
                2 => bytes.len() - 4096..bytes.len() - 8,
                _ => 0..bytes.len() - 8,
            };
            let at = range.start + place.index(range.len());
            let size = size.min(bytes.len() - at);
            bytes[at..at + size].copy_from_slice(&word.to_ne_bytes()[..size]);
        }
        let _either = inspect(&bytes);
    }
}

static BARE: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| bare("well", |_| ()));

fn bare_header() -> &'static [u8] {
    &BARE[..64]
}
