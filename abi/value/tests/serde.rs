//! Types with serde: what they look like, and what they refuse.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use theseus_value::{EncodeError, Map, ObjectId, Value, from_slice, from_value, to_value, to_vec};

#[derive(Serialize, Deserialize, PartialEq, Debug, Clone)]
enum Shape {
    Point,
    Circle(f64),
    Line(i32, i32),
    Named { zebra: u8, ant: Option<String> },
}

#[derive(Serialize, Deserialize, PartialEq, Debug)]
struct Everything<'a> {
    zulu: i64,
    a: bool,
    text: &'a str,
    #[serde(with = "bytes")]
    blob: Vec<u8>,
    character: char,
    unit: (),
    pair: (u8, String),
    shapes: Vec<Shape>,
    object: ObjectId,
    objects: Vec<Option<ObjectId>>,
    by_number: BTreeMap<i32, u8>,
    by_flag: BTreeMap<bool, u8>,
    by_object: HashMap<ObjectId, u8>,
    single: f32,
    wide: i128,
    address: IpAddr,
    anything: Value,
}

mod bytes {
    pub(crate) fn serialize<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(crate) fn deserialize<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        <&[u8] as serde::Deserialize>::deserialize(deserializer).map(<[u8]>::to_vec)
    }
}

#[test]
fn a_struct_of_everything_comes_back() {
    let shapes = vec![Shape::Point, Shape::Circle(0.5), Shape::Line(-1, 1), Shape::Named { zebra: 1, ant: None }];
    let everything = Everything {
        zulu: i64::MIN,
        a: true,
        text: "b\u{e4}r",
        blob: vec![0, 255],
        character: '\u{6c34}',
        unit: (),
        pair: (7, "x".into()),
        shapes,
        object: ObjectId(9),
        objects: vec![None, Some(ObjectId(u64::MAX))],
        by_number: BTreeMap::from([(-1, 1), (10, 2), (9, 3)]),
        by_flag: BTreeMap::from([(false, 0), (true, 1)]),
        by_object: HashMap::from([(ObjectId(12), 1), (ObjectId(3), 2)]),
        single: 0.1,
        wide: -(1 << 64),
        address: "127.0.0.1".parse().unwrap(),
        anything: Value::Array(vec![ObjectId(1).into(), Value::Null, 1.0.into(), 1.into()]),
    };
    let bytes = to_vec(&everything).unwrap();
    assert_eq!(from_slice::<Everything<'_>>(&bytes).unwrap(), everything);
    let value = Value::decode(&bytes).unwrap();
    assert_eq!(value.encode(), bytes);
    let map = value.as_map().unwrap();
    assert_eq!(map.get("object"), Some(&ObjectId(9).into()));
    assert_eq!(map.get("blob"), Some(&Value::Bytes(vec![0, 255])));
    assert_eq!(map.get("address"), Some(&"127.0.0.1".into()));
    assert_eq!(map.get("by_object"), Some(&Value::Map(Map::from_iter([("12", 1), ("3", 2)]))));
    assert_eq!(map.get("shapes").unwrap().as_array().unwrap()[0], "Point".into());
}

#[test]
fn fields_are_sorted_however_many_there_are() {
    let many: HashMap<String, usize> = (0..1000).map(|number| (format!("{:x}", number * 7919), number)).collect();
    let bytes = to_vec(&many).unwrap();
    assert_eq!(from_slice::<HashMap<String, usize>>(&bytes).unwrap(), many);

    #[derive(Serialize)]
    struct Unsorted {
        ccc: Vec<u8>,
        bb: &'static str,
        a: u8,
    }
    let bytes = to_vec(&Unsorted { ccc: vec![1, 2], bb: "x", a: 3 }).unwrap();
    assert_eq!(bytes, b"\xa3\x61a\x03\x62bb\x61x\x63ccc\x82\x01\x02");
}

/// Serializes without saying how many items and entries there will be.
struct Unannounced(usize);

impl Serialize for Unannounced {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::{SerializeMap, SerializeSeq};
        struct Sequence(usize);
        impl Serialize for Sequence {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut sequence = serializer.serialize_seq(None)?;
                for number in 0..self.0 {
                    sequence.serialize_element(&number)?;
                }
                sequence.end()
            }
        }
        let mut map = serializer.serialize_map(None)?;
        for number in (0..self.0).rev() {
            map.serialize_entry(&number, &Sequence(number))?;
        }
        map.end()
    }
}

#[test]
fn lengths_need_not_be_announced() {
    for count in [0, 1, 23, 24, 300] {
        let map = Value::decode(&to_vec(&Unannounced(count)).unwrap()).unwrap();
        assert_eq!(map.as_map().unwrap().len(), count);
        for (key, items) in map.as_map().unwrap() {
            assert_eq!(items.as_array().unwrap().len(), key.parse::<usize>().unwrap());
        }
    }
}

#[test]
fn references_survive_buffering() {
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    #[serde(untagged)]
    enum Either {
        Number(i64),
        Object(ObjectId),
    }
    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Outer {
        #[serde(flatten)]
        rest: BTreeMap<String, Either>,
    }
    let rest = BTreeMap::from([("a".to_owned(), Either::Object(ObjectId(3))), ("b".to_owned(), Either::Number(3))]);
    let outer = Outer { rest };
    assert_eq!(from_slice::<Outer>(&to_vec(&outer).unwrap()).unwrap(), outer);
}

#[track_caller]
fn says<T: DeserializeOwned + std::fmt::Debug>(value: impl Into<Value>, message: &str) {
    assert_eq!(from_value::<T>(value.into()).expect_err("this has to be refused").to_string(), message);
}

#[test]
fn errors_say_what_was_expected_and_what_came() {
    says::<i64>("abc", "expected integer, found text \"abc\" (byte 0)");
    says::<i64>(2.0, "expected integer, found float 2.0 (byte 0)");
    says::<u8>(300, "invalid value: integer `300`, expected u8");
    says::<u8>(-1, "invalid value: integer `-1`, expected u8");
    says::<bool>(Value::Null, "expected boolean, found null (byte 0)");
    says::<String>(ObjectId(4), "expected text, found reference to object 4 (byte 0)");
    says::<ObjectId>(4, "expected reference, found integer 4 (byte 0)");
    says::<Vec<u8>>(vec![1_u8], "expected array, found 1 bytes (byte 0)");
    says::<(u8, u8)>(
        Value::Array(vec![1.into(), 2.into(), 3.into()]),
        "expected fewer items, found array of 3 (byte 0)",
    );
    says::<(u8, u8)>(Value::Array(vec![1.into()]), "invalid length 1, expected a tuple of size 2");
    says::<()>(0, "expected null, found integer 0 (byte 0)");
    says::<f64>("1", "expected float, found text \"1\" (byte 0)");
    says::<Shape>("Square", "unknown variant `Square`, expected one of `Point`, `Circle`, `Line`, `Named`");
    says::<Shape>(1, "expected a variant's name, or a map with it as the only key, found integer 1 (byte 0)");
    says::<Shape>("Circle", "invalid type: unit variant, expected newtype variant");
    says::<BTreeMap<u8, u8>>(Map::from_iter([("x", 1)]), "expected an integer (u8) as a key, found \"x\"");
    says::<i64>("x".repeat(50), &format!("expected integer, found text \"{}...\" (byte 0)", "x".repeat(40)));
    assert_eq!(from_value::<f64>(2.into()), Ok(2.0));
}

#[test]
fn what_has_no_encoding_is_refused() {
    let mut out = vec![1];
    for value in [1_i128 << 64, -(1 << 64) - 1] {
        let error = EncodeError::IntegerRange { value: value.to_string() };
        assert_eq!(theseus_value::to_writer(&("x", value), &mut out), Err(error));
    }
    assert!(to_vec(&u128::MAX).is_err());
    assert_eq!(to_vec(&HashMap::from([((1, 2), 3)])), Err(EncodeError::KeyNotText { found: "an array" }));
    struct Twice;
    impl Serialize for Twice {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map([("b", 1), ("a", 2), ("b", 3)])
        }
    }
    assert_eq!(to_vec(&Twice), Err(EncodeError::DuplicateKey { key: "b".into() }));
    assert_eq!(theseus_value::to_writer(&Twice, &mut out), Err(EncodeError::DuplicateKey { key: "b".into() }));
    assert_eq!(out, [1], "a failed encoding leaves no trace");
    assert_eq!(to_value(&Shape::Point), Ok("Point".into()));
}

#[test]
#[should_panic(expected = "out of range")]
fn a_value_put_together_wrongly_has_no_encoding() {
    Value::Int(1 << 64).encode();
}
