//! The kit at work: a plugin is built, loaded, called through its tables, and unloaded.

mod host;

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard},
};

use host::{Loaded, call, construct, migrate, put, reference, with};
use object::{
    Object,
    read::elf::{ElfFile64, SectionHeader},
};
use theseus_abi::{BehaviorDescription, FailureCode, LAYOUT_FINGERPRINT, Manifest, MethodKind, note};
use theseus_plugin::Value;
use theseus_value::Map;

/// The host's state is one for all tests.
static TURN: Mutex<()> = Mutex::new(());

fn fixture() -> PathBuf {
    host::built(&["theseus-plugin", "--example", "fixture"], "examples/libfixture.so")
}

fn load() -> (MutexGuard<'static, ()>, Loaded) {
    let turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let plugin = Loaded::new(fixture());
    host::reset(&plugin);
    (turn, plugin)
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Map {
    entries.into_iter().collect()
}

/// Arguments as JSON, encoded.
fn json(arguments: serde_json::Value) -> Vec<u8> {
    fn value(json: serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => value.into(),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(number) => number.into(),
                None => number.as_f64().expect("a number is one").into(),
            },
            serde_json::Value::String(text) => text.into(),
            serde_json::Value::Array(items) => Value::Array(items.into_iter().map(value).collect()),
            serde_json::Value::Object(entries) => {
                Value::Map(entries.into_iter().map(|(key, entry)| (key, value(entry))).collect())
            }
        }
    }
    value(arguments).encode()
}

macro_rules! json {
    ($($tokens:tt)*) => { json(serde_json::json!($($tokens)*)) };
}

#[track_caller]
fn fails(id: u64, method: &str, arguments: &[u8], code: FailureCode, message: &str) {
    let failure = call(id, method, arguments).expect_err("this has to fail");
    assert_eq!((failure.code, failure.message.as_str()), (code, message));
}

#[test]
fn the_manifest_is_in_the_file() {
    let bytes = std::fs::read(fixture()).unwrap();
    let file = ElfFile64::<object::Endianness>::parse(&*bytes).unwrap();
    let section = file.section_by_name(note::SECTION).expect("the note has its section");
    assert_eq!(section.elf_section_header().sh_type.get(object::Endianness::Little), object::elf::SHT_NOTE);
    let mut notes = section.elf_section_header().notes(object::Endianness::Little, &*bytes).unwrap().unwrap();
    let found = notes.next().unwrap().expect("there is a note");
    assert!(notes.next().unwrap().is_none());
    assert_eq!(found.name(), note::NAME.as_bytes());
    assert_eq!(found.n_type(object::Endianness::Little), object::elf::NoteType(note::TYPE));

    let manifest: Manifest = serde_json::from_slice(found.desc()).unwrap();
    assert_eq!((manifest.name.as_str(), manifest.version.as_str()), ("fixture", env!("CARGO_PKG_VERSION")));
    assert_eq!((manifest.abi.min, manifest.abi.max), (1, theseus_abi::ABI_VERSION));
    assert_eq!(manifest.layout, format!("{LAYOUT_FINGERPRINT:016x}"));
    assert_eq!(manifest.panic, "unwind");
    assert!(manifest.rustc.starts_with("rustc 1."), "{}", manifest.rustc);
    assert!(manifest.target.starts_with(std::env::consts::ARCH), "{}", manifest.target);
    assert_eq!(manifest.capabilities, ["request_upgrade", "quote\"d"]);
    let requires: Vec<_> = manifest.requires.iter().map(|it| (it.behavior.as_str(), it.version.as_str())).collect();
    assert_eq!(requires, [("ledger.Account", "^1.2"), ("odd.Thing", ">=0.1, <3")]);
    let behaviors = manifest.behaviors.iter().map(|it| (it.name.as_str(), it.schema, &*it.reads, &*it.writes));
    let expected: [(_, _, &[u32], &[u32]); 2] = [("fixture.Gauge", 3, &[1, 2], &[1, 2]), ("fixture.Bell", 1, &[], &[])];
    assert_eq!(behaviors.collect::<Vec<_>>(), expected);
}

#[test]
fn the_description_says_what_the_author_wrote() {
    let (_turn, plugin) = load();
    let table = plugin.table("fixture.Gauge");
    let description: BehaviorDescription = serde_json::from_str(table.description().as_str()).unwrap();
    assert_eq!(description.doc, "A gauge with a \"unit\" \\ and a limit.\n\nSecond paragraph.");
    let slots: Vec<_> = description.slots.iter().map(|slot| (&*slot.name, &*slot.type_name, &*slot.doc)).collect();
    assert_eq!(slots[0], ("level", "i64", "Where it stands."));
    assert_eq!(slots[1], ("type", "Option<String>", ""));
    assert_eq!(slots[3], ("peers", "Vec<Ref<Gauge>>", ""));
    let methods: Vec<_> = description.methods.iter().map(|method| (&*method.name, method.kind)).collect();
    assert_eq!(
        methods[..3],
        [("fill", MethodKind::Command), ("level", MethodKind::Query), ("unit", MethodKind::Query),]
    );
    assert!(!methods.iter().any(|(name, _)| ["helper", "from_v2", "v1_to_v2"].contains(name)));
    let fill = &description.methods[0];
    let arguments: Vec<_> = fill.arguments.iter().map(|it| (&*it.name, &*it.type_name)).collect();
    assert_eq!(arguments, [("by", "i64"), ("force", "Option<bool>")]);
    assert_eq!((&*fill.returns, &*fill.doc), ("i64", "Adds `by`, at most up to the limit."));
    let by_name = |name: &str| description.methods.iter().find(|method| method.name == name).unwrap();
    assert_eq!(by_name("tour").returns, "(Time, u64, Vec<AnyRef>)");
    assert!(by_name("tour").arguments.is_empty(), "the context is not an argument");
    assert_eq!(by_name("set_unit").returns, "()");
}

#[test]
fn construct_fills_in_defaults_and_refuses_strangers() {
    let (_turn, plugin) = load();
    let table = plugin.table("fixture.Gauge");
    let full = construct(table, &Value::Map(map([("level", 7.into())]))).unwrap();
    let limit = map([("top", 100.into()), ("unit", "l".into())]);
    let expected = map([
        ("level", 7.into()),
        ("type", Value::Null),
        ("limit", limit.into()),
        ("peers", Value::Array(vec![])),
        ("a_slot_with_a_long_name", 0.0.into()),
    ]);
    assert_eq!(full, Value::Map(expected));
    let failure = construct(table, &Value::Map(map([("levle", 7.into()), ("x", 1.into())]))).unwrap_err();
    assert_eq!(failure.code, FailureCode::BAD_SLOTS);
    assert_eq!(
        failure.message.as_str(),
        "fixture.Gauge has no slot `x`, `levle`; it has `type`, `level`, `limit`, `peers`, `a_slot_with_a_long_name`"
    );
    let failure = construct(table, &Value::Map(map([("level", "x".into())]))).unwrap_err();
    assert_eq!(failure.message.as_str(), "slot `level` (i64): expected integer, found text \"x\" (byte 7)");
    let failure = construct(table, &Value::Null).unwrap_err();
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (FailureCode::BAD_SLOTS, "the slots are broken: expected map, found null (byte 0)")
    );
    let bell = plugin.table("fixture.Bell");
    assert_eq!(construct(bell, &Value::Map(Map::new())), Ok(Value::Map(Map::new())));
    let failure = construct(bell, &Value::Map(map([("x", 1.into())]))).unwrap_err();
    assert_eq!(failure.message.as_str(), "fixture.Bell has no slot `x`; it has none");
}

#[test]
fn only_changed_slots_come_back() {
    let (_turn, _plugin) = load();
    // The object lacks most slots, and has one that belongs to somebody else.
    put(1, "fixture.Gauge", map([("level", 3.into()), ("stranger", 1.into())]));
    let (result, changes) = call(1, "fill", &json!([4])).unwrap();
    assert_eq!(result, 7.into());
    assert_eq!(Value::decode(&changes), Ok(Value::Map(map([("level", 7.into())]))));
    let (_, changes) = call(1, "fill", &json!([0])).unwrap();
    assert!(changes.is_empty(), "nothing has changed: {changes:?}");
    let (_, changes) = call(1, "set_unit", &json!({"unit": "l"})).unwrap();
    assert!(changes.is_empty(), "the default was missing and is still the default: {changes:?}");
    call(1, "set_unit", &json!({"unit": "m"})).unwrap();
    assert_eq!(call(1, "unit", b"").unwrap().0, "m".into());
    let (peers, _) = call(1, "add_peer", &Value::Array(vec![reference(9)]).encode()).unwrap();
    assert_eq!(peers, Value::Array(vec![reference(9)]));
    let limit = map([("top", 100.into()), ("unit", "m".into())]);
    let slots = map([
        ("level", 7.into()),
        ("limit", limit.into()),
        ("peers", Value::Array(vec![reference(9)])),
        ("stranger", 1.into()),
    ]);
    with(|state| assert_eq!(state.objects[&1].1, slots));
}

#[test]
fn arguments_come_by_name_by_position_or_not_at_all() {
    let (_turn, _plugin) = load();
    put(1, "fixture.Gauge", Map::new());
    for arguments in
        [json!({"by": 1}), json!([1]), json!([1, null]), json!({"force": false, "by": 1}), json!([1, true])]
    {
        call(1, "fill", &arguments).unwrap();
    }
    for arguments in [json!({}), json!([]), json!(null), vec![]] {
        assert_eq!(call(1, "level", &arguments).unwrap().0, 5.into());
    }
    let bad = FailureCode::BAD_ARGUMENTS;
    fails(1, "fill", &json!({}), bad, "fill: the argument `by` (i64) is missing");
    fails(1, "fill", b"", bad, "fill: the argument `by` (i64) is missing");
    fails(1, "fill", &json!({"by": 1.5}), bad, "fill: argument `by` (i64): expected integer, found float 1.5 (byte 0)");
    let message = "fill: argument `force` (Option<bool>): expected boolean, found text \"yes\" (byte 0)";
    fails(1, "fill", &json!([1, "yes"]), bad, message);
    let message = "fill: there is no argument `bye`; it takes (by: i64, force: Option<bool>)";
    fails(1, "fill", &json!({"by": 1, "bye": 2}), bad, message);
    let message = "fill: 3 arguments are given; it takes (by: i64, force: Option<bool>)";
    fails(1, "fill", &json!([1, true, 2]), bad, message);
    fails(1, "level", &json!([1]), bad, "level: 1 arguments are given; it takes ()");
    let message = "level: expected a map by name or an array by position, found integer 5; it takes ()";
    fails(1, "level", &json!(5), bad, message);
    fails(1, "level", &[0x81], bad, "level: the arguments are broken: byte 0: the input ends in the middle of a value");
}

#[test]
fn errors_keep_their_kind() {
    let (_turn, _plugin) = load();
    put(1, "fixture.Gauge", map([("level", 60.into())]));
    put(2, "fixture.Gauge", map([("level", 60.into())]));
    let failure = call(1, "fill", &json!([50])).unwrap_err();
    let expected = (FailureCode::REFUSED, "spilled", "110 is over 100");
    assert_eq!((failure.code, failure.kind.as_str(), failure.message.as_str()), expected);
    // The same from the object that was asked in turn.
    let into = Value::Array(vec![50.into(), reference(2)]).encode();
    let failure = call(1, "pour", &into).unwrap_err();
    assert_eq!((failure.code, failure.kind.as_str(), failure.message.as_str()), expected);
    fails(1, "fill", &json!([i64::MAX]), FailureCode::REFUSED, "that is too much");
    fails(
        1,
        "level_of",
        &Value::Array(vec![reference(3)]).encode(),
        FailureCode::NO_SUCH_OBJECT,
        "there is no object 3",
    );
    put(3, "fixture.Gauge", map([("level", "full".into())]));
    let message = "slot `level` (i64): expected integer, found text \"full\" (byte 7)";
    fails(3, "level", b"", FailureCode::BAD_SLOTS, message);
}

#[test]
fn a_context_reaches_the_host() {
    let (_turn, _plugin) = load();
    put(1, "fixture.Gauge", map([("level", 60.into())]));
    put(2, "fixture.Gauge", map([("level", 1.into())]));
    assert_eq!(call(1, "pour", &Value::Array(vec![20.into(), reference(2)]).encode()).unwrap().0, 21.into());
    assert_eq!(call(1, "level", b"").unwrap().0, 40.into());
    assert_eq!(call(1, "level_of", &Value::Array(vec![reference(2)]).encode()).unwrap().0, 21.into());

    let (toured, _) = call(1, "tour", b"").unwrap();
    let objects = Value::Array([1, 3, 4, 6, 3].map(reference).to_vec());
    assert_eq!(toured, Value::Array(vec![1_700_000_000_000_000_u64.into(), u64::MAX.into(), objects]));
    with(|state| {
        assert_eq!(state.objects[&3].1.get("level"), Some(&5.into()));
        assert_eq!(state.objects[&4], ("other.Thing".to_owned(), Map::new()));
        assert!(!state.objects.contains_key(&5), "the clone was deleted");
        assert_eq!(state.objects[&6], ("fixture.Gauge".to_owned(), Map::new()));
        assert!(state.names.is_empty());
        let request = map([("bundle", "next.tar".into()), ("reason", "it is time".into())]);
        assert_eq!(state.upgrade, Some(Value::Map(request)));
    });
}

#[test]
fn a_resent_message_works_on_the_slots_as_they_are() {
    let (_turn, _plugin) = load();
    put(1, "fixture.Gauge", map([("level", 5.into())]));
    put(2, "fixture.Gauge", Map::new());
    let (filled, _) = call(1, "fill_as", &Value::Array(vec![reference(2), 10.into()]).encode())
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(filled, Value::Array(vec![26.into(), Value::Array(vec![reference(2)])]));
    with(|state| assert_eq!(state.objects[&1].1.get("level"), Some(&26.into())));
    // What the parent's version refused has changed nothing, and neither has the running method, which failed with it.
    let failure = call(1, "fill_as", &Value::Array(vec![reference(2), 100.into()]).encode()).unwrap_err();
    assert_eq!(failure.kind.as_str(), "spilled");
    with(|state| assert_eq!(state.objects[&1].1.get("level"), Some(&26.into())));
}

#[test]
fn slots_migrate_forth_and_back() {
    let (_turn, plugin) = load();
    let table = plugin.table("fixture.Gauge");
    let v2 = Value::Map(map([("level", 5.into()), ("top", 50.into())]));
    let v3 = migrate(table, 2, 3, &v2).unwrap();
    let limit = map([("top", 50.into()), ("unit", "l".into())]);
    let v3_slots = v3.as_map().unwrap();
    assert_eq!((v3_slots.get("level"), v3_slots.get("limit")), (Some(&5.into()), Some(&limit.into())));
    assert_eq!(migrate(table, 3, 2, &v3), Ok(v2));
    // Slots that the older object did not have are there, too.
    let Ok(Value::Map(filled)) = migrate(table, 1, 3, &Value::Map(Map::new())) else { panic!("a map of slots") };
    assert_eq!(filled.len(), v3_slots.len());
    // Version 1 goes by way of version 2, forth and back.
    let v1 = Value::Map(map([("level", 7.into())]));
    let from_v1 = migrate(table, 1, 3, &v1).unwrap();
    let by_way_of_v2 = migrate(table, 2, 3, &Value::Map(map([("level", 7.into()), ("top", 100.into())]))).unwrap();
    assert_eq!(from_v1, by_way_of_v2);
    assert_eq!(migrate(table, 3, 1, &from_v1), Ok(v1));

    let failed = |from, to, slots: Map| migrate(table, from, to, &Value::Map(slots)).unwrap_err();
    let failure = failed(2, 3, map([("level", 5.into()), ("top", (-1).into())]));
    assert_eq!((failure.code, failure.kind.as_str()), (FailureCode::REFUSED, "bad_top"));
    let failure = failed(1, 3, map([("level", (-5).into())]));
    assert_eq!(failure.kind.as_str(), "bad_top", "each of the steps may fail");
    let failure = failed(2, 3, Map::new());
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (FailureCode::BAD_SLOTS, "the slots of version 2: missing field `level`")
    );
    for (from, to) in [(4, 3), (3, 4), (1, 2), (2, 1), (3, 3)] {
        let failure = failed(from, to, Map::new());
        assert_eq!(failure.code, FailureCode::NO_MIGRATION);
        assert_eq!(failure.message.as_str(), format!("there is no migration from version {from} to version {to}"));
    }
}

#[test]
fn panics_and_logs_reach_the_host() {
    let (_turn, plugin) = load();
    put(1, "fixture.Gauge", Map::new());
    let failure = call(1, "burst", &json!(["it \u{e9} burst"])).unwrap_err();
    assert_eq!(failure.code, FailureCode::PANICKED);
    let (place, message) = failure.message.rsplit_once(": ").unwrap();
    assert!(place.starts_with("the plugin panicked at abi/plugin/examples/fixture.rs:"), "{place}");
    assert_eq!(message, "it \u{e9} burst");
    with(|state| assert_eq!(state.log, [(1, "fixture".to_owned(), failure.message.to_string())]));
    assert_eq!(call(1, "level", b"").unwrap().0, 0.into());

    with(|state| state.log.clear());
    call(1, "say", &json!({"word": "hello", "n": 3})).unwrap();
    let lines = [(3, "fixture", "hello 3"), (2, "elsewhere", "plain")];
    let lines = lines.map(|(level, target, text)| (level, target.to_owned(), text.to_owned()));
    with(|state| assert_eq!(state.log, lines));

    let failure = plugin.root.self_test()().into_result().unwrap_err();
    assert_eq!((failure.code, failure.kind.as_str()), (FailureCode::REFUSED, "fixture"));
    let failure = plugin.root.retire()().into_result().unwrap_err();
    assert_eq!(failure.code, FailureCode::PANICKED);
}

#[test]
fn a_number_beyond_the_methods_is_refused() {
    let (_turn, plugin) = load();
    let empty = Value::Map(Map::new()).encode();
    let failure = host::call_table(plugin.table("fixture.Bell"), 1, 2, &empty, b"").unwrap_err();
    assert_eq!(failure.code, FailureCode::NO_SUCH_METHOD);
    let unit = (Value::Null, vec![]);
    assert_eq!(host::call_table(plugin.table("fixture.Bell"), 1, 0, &empty, b""), Ok(unit.clone()));
    assert_eq!(host::call_table(plugin.table("fixture.Bell"), 1, 1, &empty, b""), Ok(unit));
}

/// Nothing in the kit keeps a plugin loaded, whatever it did on a thread that lives on.
#[test]
fn an_unloaded_plugin_is_gone() {
    for _ in 0..3 {
        let (_turn, plugin) = load();
        put(1, "fixture.Gauge", Map::new());
        call(1, "fill", &json!([1])).unwrap();
        call(1, "say", &json!(["x", 1])).unwrap();
        call(1, "burst", &json!(["x"])).unwrap_err();
        call(1, "tour", b"").unwrap();
        host::reset(&plugin);
        with(|state| *state = host::State::default());
        assert!(plugin.unload(), "the image is still there");
    }
}
