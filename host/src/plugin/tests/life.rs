//! Loading and unloading: what does not start is closed again, what ends is gone, what cannot go is kept and named.

use super::*;

#[test]
fn a_loaded_plugin_is_what_its_manifest_says() {
    let plugin = load_bare("well");
    assert_eq!((&**plugin.name(), plugin.version()), ("bare", "1.0.0"));
    assert_eq!(plugin.digest(), Digest::of(&bare("well", |_| ())));
    assert!(plugin.origin().ends_with("libbare.so"));
    assert_eq!(plugin.self_test(), Ok(()));
    let names: Vec<&str> = plugin.behaviors().iter().map(|behavior| &**behavior.name()).collect();
    assert_eq!(names, ["bare.Probe", "bare.Other"]);
    let behavior = plugin.behavior("bare.Probe").unwrap();
    assert_eq!((behavior.schema(), behavior.reads(), behavior.writes()), (2, &[1][..], &[1][..]));
    assert_eq!(behavior.slot_names().iter().map(|name| &**name).collect::<Vec<_>>(), ["b", "aa", "total"]);
    assert_eq!(behavior.description().slots[0].name, "total");
    let (echo, change) = (behavior.method("echo").unwrap(), behavior.method("change").unwrap());
    assert!(!behavior.is_command(echo) && behavior.is_command(change));
    assert_eq!((echo.index(), behavior.method("nothing")), (0, None));
    assert!(plugin.behavior("bare.Nothing").is_none());
    // A method of one behaviour is not one of another that has fewer.
    let mut host = TestHost { on_send: &mut refuse_to_send };
    let other = plugin.behavior("bare.Other").unwrap();
    let failure = other.call(&mut host, ObjectId(1), change, b"\xa0", b"", &mut CallBuffers::default()).unwrap_err();
    assert_eq!(failure.code, FailureCode::NO_SUCH_METHOD);
}

#[test]
fn slots_are_made_and_migrated() {
    let plugin = load_bare("well");
    let behavior = plugin.behavior("bare.Probe").unwrap();
    let mut out = RVec::new();
    behavior.construct(b"\xa0", &mut out).unwrap();
    assert_eq!(&out[..], b"\xa1\x65total\x00");
    behavior.migrate(1, 2, b"\xa0", &mut out).unwrap();
    assert_eq!(&out[..], b"\xa1\x65total\x07");
    let failure = behavior.migrate(7, 2, b"\xa0", &mut out).unwrap_err();
    assert_eq!((failure.code, failure.message.as_str()), (FailureCode::NO_MIGRATION, "not from 7 to 2"));
}

#[test]
fn a_plugin_of_the_kit_works() {
    let plugin = try_load(&std::fs::read(fixtures::tally()).unwrap()).unwrap();
    assert_eq!(plugin.inspection().warnings, []);
    assert_eq!(plugin.self_test(), Ok(()));
    let behavior = plugin.behavior("tally.Tally").unwrap();
    let mut out = CallBuffers::default();
    let mut slots = RVec::new();
    behavior.construct(b"\xa0", &mut slots).unwrap();
    assert_eq!(&slots[..], b"\xa1\x65count\x00");
    let mut host = TestHost { on_send: &mut refuse_to_send };
    let mut call = |method: &str, slots: &[u8], arguments: &[u8]| {
        let method = behavior.method(method).unwrap();
        behavior.call(&mut host, ObjectId(1), method, slots, arguments, &mut out)?;
        Ok::<_, Failure>((out.result.to_vec(), out.changes.to_vec()))
    };
    let (result, changes) = call("increment", &slots, b"\x81\x07").unwrap();
    assert_eq!((&result[..], &changes[..]), (&b"\x07"[..], &b"\xa1\x65count\x07"[..]));
    assert_eq!(call("count", &changes, b"").unwrap().0, b"\x07");
    let failure = call("increment", &slots, b"\xa1\x62by\x61x").unwrap_err();
    assert_eq!(failure.code, FailureCode::BAD_ARGUMENTS, "{failure}");
    let failure = call("fail", &slots, b"").unwrap_err();
    assert_eq!(failure.code, FailureCode::PANICKED);
    assert!(failure.message.contains("broken on purpose"), "{failure}");
    assert_eq!(call("count", &slots, b"").unwrap().0, b"\x00");
    assert!(retire(plugin).is_ok());
}

#[test]
fn generations_of_one_file_are_apart() {
    let (first, second) = (load_bare("well"), load_bare("well"));
    assert!(first.number() < second.number());
    assert_eq!(first.digest(), second.digest());
    call(&first, "keep_token", b"", &mut refuse_to_send).unwrap();
    assert!(retire(first).is_ok());
    assert!(call(&second, "requests", b"", &mut refuse_to_send).is_ok());
    assert!(retire(second).is_ok());
}

/// A file, whether an error is the one that it should meet, and what that error says.
type Unloadable = (Vec<u8>, fn(&LoadError) -> bool, &'static str);

/// Files that are accepted, but cannot be loaded.
fn unloadable() -> Vec<Unloadable> {
    let linker = |bytes: &mut Vec<u8>| fixtures::replace(bytes, "__xpg_strerror_r", "__xpg_strerror_s");
    let header = |bytes: &mut Vec<u8>| {
        fixtures::replace(bytes, "abi stable library for Rust", "abi unstable library f Rust");
    };
    vec![
        (bare("init", |_| ()), |error| matches!(error, LoadError::Init { .. }), "asked not to start"),
        (bare("name", |_| ()), |error| matches!(error, LoadError::Behaviors { .. }), "[bare.Other, bare.Probe]"),
        (bare("json", |_| ()), |error| matches!(error, LoadError::Description { .. }), "bare.Other"),
        (bare("well", linker), |error| matches!(error, LoadError::Open { .. }), "__xpg_strerror_s"),
        (bare("well", header), |error| matches!(error, LoadError::Root { .. }), "another version of abi_stable"),
        (std::fs::read(fixtures::lying()).unwrap(), |error| matches!(error, LoadError::Layout { .. }), "OtherRoot"),
    ]
}

#[test]
fn what_does_not_start_is_named() {
    for (bytes, is_expected, says) in unloadable() {
        let error = try_load(&bytes).unwrap_err();
        assert!(is_expected(&error) && error.to_string().contains(says), "{error}");
        assert!(!error.to_string().contains("/proc/self/fd"), "{error}");
    }
}

#[test]
fn what_does_not_start_is_closed_again() {
    in_own_process(module_path!(), "failed_loads_leave_nothing_behind", &[]);
}

#[test]
#[ignore = "run by what_does_not_start_is_closed_again, in a process of its own"]
fn failed_loads_leave_nothing_behind() {
    let unloadable = unloadable();
    let files = open_files();
    for (bytes, ..) in unloadable.iter().cycle().take(60) {
        assert!(try_load(bytes).is_err());
    }
    assert_eq!((images(), open_files()), (0, files));
}

#[test]
fn what_cannot_go_is_kept_and_named() {
    let no_delete = bare("well", |bytes| {
        fixtures::add_dynamic_flags(bytes, fixtures::DT_FLAGS_1, fixtures::DF_1_NODELETE);
    });
    assert_eq!(retired(try_load(&no_delete).unwrap()), PinReason::NoDelete);
    match retired(load_bare("hold")) {
        PinReason::Refused(failure) => assert_eq!(failure.message.as_str(), "holds a thread"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_thousand_generations_leave_nothing_behind() {
    in_own_process(module_path!(), "two_thousand_cycles", &[]);
}

#[test]
#[ignore = "run by two_thousand_generations_leave_nothing_behind, in a process of its own"]
fn two_thousand_cycles() {
    let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let keep = |bytes: &[u8]| {
        let staged = staged(bytes);
        store.keep(&staged).unwrap();
        staged.digest()
    };
    let bare = keep(&bare("well", |_| ()));
    let tally = keep(&std::fs::read(fixtures::tally()).unwrap());
    let loaded = |digest| {
        let staged = store.fetch(digest).unwrap();
        let inspection = inspect_staged(&staged).unwrap();
        load(staged, inspection).unwrap()
    };
    let cycle = || {
        let plugin = loaded(bare);
        call(&plugin, "requests", b"", &mut refuse_to_send).unwrap();
        call(&plugin, "own_vectors", b"", &mut refuse_to_send).unwrap();
        assert!(retire(plugin).is_ok());

        let plugin = loaded(tally);
        let behavior = plugin.behavior("tally.Tally").unwrap();
        let mut host = TestHost { on_send: &mut refuse_to_send };
        for (method, succeeds) in [("increment", true), ("fail", false), ("count", true)] {
            let (method, mut out) = (behavior.method(method).unwrap(), CallBuffers::default());
            let arguments = if method.index() == 0 { &b"\x81\x07"[..] } else { b"" };
            let outcome = behavior.call(&mut host, ObjectId(1), method, b"\xa1\x65count\x01", arguments, &mut out);
            assert_eq!(outcome.is_ok(), succeeds, "{outcome:?}");
        }
        assert!(retire(plugin).is_ok());
    };
    for _ in 0..100 {
        cycle();
    }
    let (maps_before, files_before) = (maps(), open_files());
    for _ in 0..2000 {
        cycle();
    }
    assert_eq!((images(), open_files()), (0, files_before));
    // The allocator may move a border or two between heap and arenas.
    assert!(maps() <= maps_before + 4, "{maps_before} mappings became {}", maps());
}
