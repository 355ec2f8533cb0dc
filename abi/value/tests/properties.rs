//! Properties that hold for every value and for every run of bytes.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};
use theseus_value::{Map, ObjectId, Value, from_slice, from_value, raw, to_value, to_vec};

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        (-(1_i128 << 64)..1 << 64).prop_map(Value::Int),
        (-300..300).prop_map(Value::from),
        any::<f64>().prop_filter("NaN is not equal to itself", |value| !value.is_nan()).prop_map(Value::Float),
        any::<f32>().prop_filter("NaN is not equal to itself", |value| !value.is_nan()).prop_map(Value::from),
        (-100..100).prop_map(|number| Value::Float(f64::from(number) / 4.0)),
        vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        any::<String>().prop_map(Value::Text),
        any::<u64>().prop_map(|id| Value::Ref(ObjectId(id))),
    ];
    leaf.prop_recursive(6, 100, 30, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..30).prop_map(Value::Array),
            vec((".{0,3}", inner), 0..30).prop_map(|entries| Value::Map(entries.into_iter().collect())),
        ]
    })
}

fn any_map() -> impl Strategy<Value = BTreeMap<String, Value>> {
    proptest::collection::btree_map("[a-d]{0,2}", any_value(), 0..20)
}

proptest! {
    #[test]
    fn values_come_back_on_both_paths(value in any_value()) {
        let bytes = value.encode();
        prop_assert_eq!(to_vec(&value).unwrap(), bytes.clone());
        prop_assert_eq!(Value::decode(&bytes).unwrap(), value.clone());
        prop_assert_eq!(from_slice::<Value>(&bytes).unwrap(), value.clone());
        prop_assert_eq!(from_value::<Value>(value.clone()).unwrap(), value.clone());
        prop_assert_eq!(to_value(&value).unwrap(), value);
        prop_assert_eq!(raw::validate(&bytes), Ok(()));
    }

    /// The readers agree on every input, and what they accept is what would be written again.
    #[test]
    fn bytes_are_refused_or_deterministic(bytes in vec(any::<u8>(), 0..60)) {
        let value = Value::decode(&bytes);
        prop_assert_eq!(from_slice::<Value>(&bytes).is_ok(), value.is_ok());
        prop_assert_eq!(raw::validate(&bytes).err(), value.as_ref().err().cloned());
        if let Ok(value) = value {
            prop_assert_eq!(value.encode(), bytes);
        }
    }

    /// The same with bytes that are nearly right.
    #[test]
    fn one_changed_byte_is_refused_or_deterministic(value in any_value(), at in any::<usize>(), byte in any::<u8>()) {
        let mut bytes = value.encode();
        let at = at % bytes.len();
        bytes[at] = byte;
        match Value::decode(&bytes) {
            Ok(value) => prop_assert_eq!(value.encode(), bytes),
            Err(error) => {
                prop_assert_eq!(raw::validate(&bytes), Err(error.clone()));
                prop_assert_eq!(from_slice::<Value>(&bytes).unwrap_err(), error);
            }
        }
    }

    #[test]
    fn cut_off_values_are_refused(value in any_value(), at in any::<usize>()) {
        let bytes = value.encode();
        let cut = &bytes[..at % bytes.len()];
        prop_assert!(Value::decode(cut).is_err());
        prop_assert!(raw::validate(cut).is_err());
    }

    #[test]
    fn merging_agrees_with_the_model(base in any_map(), changes in any_map()) {
        let mut model = base.clone();
        model.extend(changes.clone());
        let encode = |map: &BTreeMap<String, Value>| to_vec(map).unwrap();
        let mut out = vec![7];
        raw::merge_maps(&encode(&base), &encode(&changes), &mut out).unwrap();
        prop_assert_eq!(&out[1..], encode(&model));
    }

    #[test]
    fn views_and_maps_agree_with_the_model(model in any_map(), key in "[a-d]{0,2}") {
        let bytes = to_vec(&model).unwrap();
        let view = raw::MapView::new(&bytes).unwrap();
        let mut map: Map = model.clone().into_iter().rev().collect();
        prop_assert_eq!(Value::Map(map.clone()).encode(), bytes.clone());
        prop_assert_eq!(view.len(), model.len());
        prop_assert_eq!(view.get(&key).unwrap().map(|item| Value::decode(item).unwrap()), model.get(&key).cloned());
        prop_assert_eq!(map.get(&key), model.get(&key));
        let entries: Vec<_> = view.iter().map(|entry| entry.unwrap()).map(|(key, item)| (key, Value::decode(item).unwrap())).collect();
        prop_assert_eq!(entries.iter().map(|(key, value)| (*key, value)).collect::<Vec<_>>(), map.iter().collect::<Vec<_>>());
        let removed = map.remove(&key);
        prop_assert_eq!(removed.as_ref(), model.get(&key));
        prop_assert_eq!(map.get(&key), None);
    }

    /// Reading along known names finds what is there, passes over the rest, and is as strict as everything else.
    #[test]
    fn fields_agree_with_the_model(model in any_map(), at in any::<usize>(), byte in any::<u8>()) {
        const NAMES: [&str; 6] = ["a", "b", "d", "aa", "bc", "dd"];
        let read = |bytes: &[u8]| -> Result<_, theseus_value::DecodeError> {
            let (mut found, mut unknown) = (Vec::new(), Vec::new());
            let mut fields = raw::Fields::new(bytes)?;
            let mut pass = |name: &str| unknown.push(name.to_owned());
            for name in NAMES {
                if fields.seek(name, &mut pass)? {
                    found.push((name.to_owned(), fields.value::<Value>()?.0));
                }
            }
            fields.finish(&mut pass)?;
            Ok((found, unknown))
        };
        let mut bytes = to_vec(&model).unwrap();
        let (found, unknown) = read(&bytes).unwrap();
        let (known, others): (Map, Map) = model.into_iter().partition(|(name, _)| NAMES.contains(&name.as_str()));
        prop_assert_eq!(found.into_iter().collect::<Map>(), known);
        prop_assert_eq!(unknown, others.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>());
        let at = at % bytes.len();
        bytes[at] = byte;
        let is_map = matches!(Value::decode(&bytes), Ok(Value::Map(_)));
        prop_assert_eq!(read(&bytes).is_ok(), is_map);
    }

    #[cfg(feature = "json")]
    #[test]
    fn json_comes_back(value in any_value()) {
        let json = theseus_value::json::to_json(&value);
        let text = json.to_string();
        prop_assert_eq!(theseus_value::json::from_json(json).unwrap(), value.clone());
        // Parsing decimal floats exactly is up to serde_json; the canonical bytes show the sign of zero too.
        let again = theseus_value::json::from_json(serde_json::from_str(&text).unwrap()).unwrap();
        if !text.contains(['.', 'e']) {
            prop_assert_eq!(again.encode(), value.encode());
        }
    }
}

#[cfg(feature = "json")]
#[test]
fn json_marks() {
    use serde_json::json;
    use theseus_value::json::{from_json, to_json};

    let pairs = [
        (json!({"$ref": 12}), Value::Ref(ObjectId(12))),
        (json!({"$bytes": "AQID"}), Value::Bytes(vec![1, 2, 3])),
        (json!({"$float": "-Infinity"}), Value::Float(f64::NEG_INFINITY)),
        (json!({"$int": "-18446744073709551616"}), Value::Int(-(1 << 64))),
        (json!(1), 1.into()),
        (json!(1.0), 1.0.into()),
        (json!({"$$ref": 12}), Value::Map(Map::from_iter([("$ref", 12)]))),
        (json!({"$ref": 12, "x": 1}), Value::Map(Map::from_iter([("$ref", 12), ("x", 1)]))),
    ];
    for (json, value) in pairs {
        assert_eq!(to_json(&value), json);
        assert_eq!(from_json(json), Ok(value));
    }
    let nan = json!({"$float": "NaN"});
    assert_eq!(to_json(&from_json(nan.clone()).unwrap()), nan);
    for wrong in [
        json!({"$ref": -1}),
        json!({"$bytes": "?"}),
        json!({"$float": "1"}),
        json!({"$int": "1e3"}),
        json!({"$set": 1}),
    ] {
        assert!(from_json(wrong).is_err());
    }
    let error = from_json(json!([{"$set": 1}])).unwrap_err();
    assert_eq!(error.to_string(), "{\"$set\": ...} means nothing here; for a map with that key write \"$$set\"");
    let mut deep = json!(0);
    for _ in 0..65 {
        deep = json!([deep]);
    }
    assert_eq!(from_json(deep), Err(theseus_value::json::JsonError::TooDeep));
}
