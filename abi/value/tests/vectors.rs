//! Byte strings from RFC 8949, appendix A, that belong to the model, and our own for references and map order.

use theseus_value::{DecodeError, Map, ObjectId, Value, from_slice, raw, to_vec};

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits"))
        .collect()
}

fn array(items: impl IntoIterator<Item = impl Into<Value>>) -> Value {
    Value::Array(items.into_iter().map(Into::into).collect())
}

fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Map(entries.into_iter().collect())
}

#[test]
fn appendix_a() {
    let twenty_five: Vec<Value> = (1..=25).map(Value::from).collect();
    let vectors: Vec<(&str, Value)> = vec![
        ("00", 0.into()),
        ("01", 1.into()),
        ("0a", 10.into()),
        ("17", 23.into()),
        ("1818", 24.into()),
        ("1819", 25.into()),
        ("1864", 100.into()),
        ("1903e8", 1000.into()),
        ("1a000f4240", 1_000_000.into()),
        ("1b000000e8d4a51000", 1_000_000_000_000_u64.into()),
        ("1bffffffffffffffff", u64::MAX.into()),
        ("3bffffffffffffffff", Value::Int(-18_446_744_073_709_551_616)),
        ("20", (-1).into()),
        ("29", (-10).into()),
        ("3863", (-100).into()),
        ("3903e7", (-1000).into()),
        ("f90000", 0.0.into()),
        ("f98000", (-0.0).into()),
        ("f93c00", 1.0.into()),
        ("fb3ff199999999999a", 1.1.into()),
        ("f93e00", 1.5.into()),
        ("f97bff", 65504.0.into()),
        ("fa47c35000", 100_000.0.into()),
        ("fa7f7fffff", 3.402_823_466_385_288_6e38.into()),
        ("fb7e37e43c8800759c", 1.0e300.into()),
        ("f90001", 5.960_464_477_539_063e-8.into()),
        ("f90400", 0.000_061_035_156_25.into()),
        ("f9c400", (-4.0).into()),
        ("fbc010666666666666", (-4.1).into()),
        ("f97c00", f64::INFINITY.into()),
        ("f9fc00", f64::NEG_INFINITY.into()),
        ("f4", false.into()),
        ("f5", true.into()),
        ("f6", Value::Null),
        ("40", Value::Bytes(vec![])),
        ("4401020304", Value::Bytes(vec![1, 2, 3, 4])),
        ("60", "".into()),
        ("6161", "a".into()),
        ("6449455446", "IETF".into()),
        ("62225c", "\"\\".into()),
        ("62c3bc", "\u{fc}".into()),
        ("63e6b0b4", "\u{6c34}".into()),
        ("64f0908591", "\u{10151}".into()),
        ("80", Value::Array(vec![])),
        ("83010203", array([1, 2, 3])),
        ("8301820203820405", Value::Array(vec![1.into(), array([2, 3]), array([4, 5])])),
        ("98190102030405060708090a0b0c0d0e0f101112131415161718181819", Value::Array(twenty_five)),
        ("a0", Value::Map(Map::new())),
        ("a26161016162820203", map([("a", 1.into()), ("b", array([2, 3]))])),
        ("826161a161626163", Value::Array(vec!["a".into(), map([("b", "c".into())])])),
        (
            "a56161614161626142616361436164614461656145",
            map([("a", "A".into()), ("b", "B".into()), ("c", "C".into()), ("d", "D".into()), ("e", "E".into())]),
        ),
        // Ours: references, and keys by length before content.
        ("d82700", ObjectId(0).into()),
        ("d827190400", ObjectId(1024).into()),
        ("d8271bffffffffffffffff", ObjectId(u64::MAX).into()),
        ("a3617a01626161026262620a", map([("bb", 10.into()), ("aa", 2.into()), ("z", 1.into())])),
    ];
    for (text, value) in vectors {
        let bytes = hex(text);
        assert_eq!(value.encode(), bytes, "{value:?}");
        assert_eq!(Value::decode(&bytes), Ok(value.clone()), "{text}");
        assert_eq!(to_vec(&value), Ok(bytes.clone()), "{value:?}");
        assert_eq!(from_slice::<Value>(&bytes), Ok(value.clone()), "{text}");
        // Comparing floats does not see the sign of zero; bytes do.
        assert_eq!(from_slice::<Value>(&bytes).unwrap().encode(), bytes, "{text}");
        assert_eq!(raw::validate(&bytes), Ok(()), "{text}");
    }
    let nan = hex("f97e00");
    assert!(Value::decode(&nan).unwrap().as_float().unwrap().is_nan());
    assert_eq!(Value::Float(f64::from_bits(0xfff8_0000_0000_0001)).encode(), nan);
}

/// Every reader has to refuse, wherever in a value the fault is.
#[track_caller]
fn refused(text: &str, expected: fn(usize) -> DecodeError) {
    let fault = hex(text);
    let within_array = [&[0x81], &fault[..]].concat();
    let within_map = [&[0xa1, 0x61, b'k'], &fault[..]].concat();
    for (bytes, position) in [(&fault, 0), (&within_array, 1), (&within_map, 3)] {
        let expected = Err(expected(position));
        assert_eq!(Value::decode(bytes).map(drop), expected, "Value::decode");
        assert_eq!(from_slice::<Value>(bytes).map(drop), expected, "from_slice");
        assert_eq!(from_slice::<serde::de::IgnoredAny>(bytes).map(drop), expected, "ignored");
        assert_eq!(raw::validate(bytes), expected, "validate");
    }
    let mut out = vec![1, 2, 3];
    assert!(raw::merge_maps(&within_map, &hex("a0"), &mut out).is_err());
    assert!(raw::merge_maps(&hex("a0"), &within_map, &mut out).is_err());
    assert_eq!(out, [1, 2, 3], "a failed merge leaves no trace");
}

#[test]
fn what_is_not_deterministic_is_refused() {
    for head in
        ["1817", "190017", "1a0000ffff", "1b00000000ffffffff", "3817", "580100", "780161", "980100", "b801617800"]
    {
        refused(head, |position| DecodeError::NotShortest { position });
    }
    // Floats that a shorter form keeps, and NaN in other shapes.
    for float in ["fa3fc00000", "fb3ff8000000000000", "fb40f86a0000000000", "fa7fc00000", "f97e01", "f9fe00"] {
        refused(float, |position| DecodeError::NotShortest { position });
    }
    for (text, head) in
        [("1f", 0x1f), ("5f", 0x5f), ("7f", 0x7f), ("9f", 0x9f), ("bf", 0xbf), ("1c", 0x1c), ("fe", 0xfe)]
    {
        let error = Value::decode(&hex(text));
        assert_eq!(error, Err(DecodeError::Unsupported { position: 0, head }), "{text}");
    }
    refused("9fff", |position| DecodeError::Unsupported { position, head: 0x9f });
    refused("f7", |position| DecodeError::Unsupported { position, head: 0xf7 });
    refused("e0", |position| DecodeError::Unsupported { position, head: 0xe0 });
    refused("f820", |position| DecodeError::Unsupported { position, head: 0xf8 });
    refused("c11a514b67b0", |position| DecodeError::Unsupported { position, head: 0xc1 });
    refused("d8276161", |position| DecodeError::Unsupported { position, head: 0xd8 });
    refused("d82720", |position| DecodeError::Unsupported { position, head: 0xd8 });
    refused("62c328", |position| DecodeError::NotUtf8 { position });
}

#[test]
fn keys_are_ascending_texts() {
    let order = |position| Err(DecodeError::KeyOrder { position, key: "a".into() });
    assert_eq!(Value::decode(&hex("a2616200616100")), order(4));
    assert_eq!(Value::decode(&hex("a2616100616100")), order(4));
    assert_eq!(Value::decode(&hex("a262616100616100")), order(5));
    assert_eq!(raw::validate(&hex("a2616200616100")).map(|()| Value::Null), order(4));
    assert_eq!(from_slice::<Value>(&hex("a2616200616100")), order(4));
    let error = from_slice::<Value>(&hex("a10100")).unwrap_err();
    assert_eq!(error.to_string(), "expected text, found integer 1 (byte 1)");
}

#[test]
fn lengths_beyond_the_input_reserve_nothing() {
    for text in [
        "5bffffffffffffffff",
        "7b7fffffffffffffff",
        "9b7fffffffffffffff",
        "bb7fffffffffffffff",
        "82",
        "a1",
        "8201",
        "61",
    ] {
        refused(text, |position| DecodeError::Truncated { position });
    }
    assert_eq!(Value::decode(&[]), Err(DecodeError::Truncated { position: 0 }));
    assert_eq!(Value::decode(&hex("1900")), Err(DecodeError::Truncated { position: 0 }));
}

#[test]
fn nothing_may_follow() {
    for bytes in [hex("0000"), hex("a000"), hex("d8270000")] {
        let position = bytes.len() - 1;
        assert_eq!(Value::decode(&bytes), Err(DecodeError::Trailing { position }));
        assert_eq!(from_slice::<Value>(&bytes), Err(DecodeError::Trailing { position }));
        assert_eq!(raw::validate(&bytes), Err(DecodeError::Trailing { position }));
    }
    let last = raw::MapView::new(&hex("a161610000")).unwrap().iter().last().unwrap().map(drop);
    assert_eq!(last, Err(DecodeError::Trailing { position: 4 }));
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| [vec![0x81; depth], vec![0]].concat();
    let deepest = nested(theseus_value::DEPTH_MAX);
    let value = Value::decode(&deepest).unwrap();
    assert_eq!(value.encode(), deepest);
    assert_eq!(to_vec(&value), Ok(deepest));
    assert_eq!(to_vec(&Value::Array(vec![value])), Err(theseus_value::EncodeError::TooDeep));
    for depth in [theseus_value::DEPTH_MAX + 1, 1_000_000] {
        let error = Err(DecodeError::TooDeep { position: theseus_value::DEPTH_MAX });
        assert_eq!(Value::decode(&nested(depth)), error);
        assert_eq!(from_slice::<Value>(&nested(depth)), error);
        assert_eq!(raw::validate(&nested(depth)).map(|()| Value::Null), error);
    }
}
