//! What clients send, turned into what the host understands.

use std::{fmt::Display, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, Uri},
};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value as Json;
use theseus_value::{
    Map, ObjectId, Value,
    json::from_json,
    strict_json::{self, Strict},
};

use super::{
    problem::{Problem, own_codes},
    time::parse_time,
};
use crate::runtime::action::{Action, At, CallMode, ObjectRef};

/// The header with which a client makes a request repeatable: its value is the request id.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The longest request id, in bytes.
pub(crate) const REQUEST_ID_BYTES_MAX: usize = 128;

/// An object as people and programs write it: digits are an id, anything else is a name.
///
/// # Errors
///
/// What is wrong with the text, for the person who wrote it.
pub fn parse_ref(text: &str) -> Result<ObjectRef, String> {
    if text.is_empty() {
        return Err("an object is named by its id or its name, not by an empty text".into());
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(ObjectRef::Name(text.to_owned()));
    }
    let id = text.parse().map_err(|_| format!("{text} is too large for the id of an object"))?;
    Ok(ObjectRef::Id(ObjectId(id)))
}

/// A moment as people and programs write it: the number of a transaction, or a time in UTC as RFC 3339 has it.
///
/// # Errors
///
/// What is wrong with the text, for the person who wrote it.
pub fn parse_at(text: &str) -> Result<At, String> {
    if let Some(us) = parse_time(text) {
        return Ok(At::Time { us });
    }
    let expected =
        || format!("`{text}` is neither the number of a transaction nor a time such as 2026-11-20T10:00:00Z");
    text.parse().map(At::Tid).map_err(|_| expected())
}

/// The moment in a query string, if there is one.
pub(crate) fn moment(at: Option<String>) -> Result<Option<At>, Problem> {
    at.map(|at| parse_at(&at)).transpose().map_err(Problem::bad_request)
}

/// An object within JSON: a number, or a text as [`parse_ref`] takes it.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum JsonRef {
    Id(u64),
    Text(String),
}

impl JsonRef {
    pub(super) fn resolve(self) -> Result<ObjectRef, Problem> {
        match self {
            JsonRef::Id(id) => Ok(ObjectRef::Id(ObjectId(id))),
            JsonRef::Text(text) => parse_ref(&text).map_err(Problem::bad_request),
        }
    }
}

/// One object or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum JsonRefs {
    One(JsonRef),
    Several(Vec<JsonRef>),
}

impl JsonRefs {
    fn resolve(self) -> Result<Vec<ObjectRef>, Problem> {
        match self {
            JsonRefs::One(object) => Ok(vec![object.resolve()?]),
            JsonRefs::Several(objects) if objects.is_empty() => {
                Err(Problem::bad_request("derive: expected an object, or an array with at least one"))
            }
            JsonRefs::Several(objects) => objects.into_iter().map(JsonRef::resolve).collect(),
        }
    }
}

/// The body of `POST /v1/objects`: exactly one of the first three.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewObject {
    behavior: Option<String>,
    clone: Option<JsonRef>,
    derive: Option<JsonRefs>,
    name: Option<String>,
    slots: Option<Strict>,
}

/// Reads the body of `POST /v1/objects`.
pub(crate) fn creation(body: &[u8], request_id: Option<String>) -> Result<Action, Problem> {
    let NewObject { behavior, clone, derive, name, slots } = parse_json(body)?;
    match (behavior, clone, derive, slots) {
        (Some(behavior), None, None, slots) => {
            let slots = match slots {
                None | Some(Strict(Json::Null)) => Value::Map(Map::new()),
                Some(Strict(slots @ Json::Object(_))) => value(slots, "slots")?,
                Some(_) => return Err(Problem::bad_request("slots: expected an object of names and values")),
            };
            Ok(Action::Create { behavior, name, slots, request_id })
        }
        (None, Some(object), None, None) => Ok(Action::Clone { object: object.resolve()?, name, request_id }),
        (None, None, Some(parents), None) => Ok(Action::Derive { parents: parents.resolve()?, name, request_id }),
        _ => Err(Problem::bad_request(
            "expected one of `behavior`, `clone` and `derive`, with a `name` if any, and `slots` with `behavior` only",
        )),
    }
}

/// One line of a batch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchLine {
    id: Option<String>,
    object: JsonRef,
    method: String,
    #[serde(default)]
    arguments: Strict,
}

/// Reads one line of a batch.
pub(crate) fn batch_line(line: &[u8]) -> Result<Action, Problem> {
    let BatchLine { id, object, method, arguments } = parse_json(line)?;
    if let Some(id) = &id {
        check_request_id(id)?;
    }
    Ok(Action::Call {
        object: object.resolve()?,
        method,
        arguments: self::arguments(arguments)?,
        request_id: id,
        mode: CallMode::InOrder,
    })
}

/// Reads the body of a call; an empty one means no arguments.
pub(crate) fn call_arguments(body: &[u8]) -> Result<Value, Problem> {
    if body.iter().all(u8::is_ascii_whitespace) { Ok(Value::Null) } else { arguments(parse_json(body)?) }
}

pub(super) fn arguments(Strict(json): Strict) -> Result<Value, Problem> {
    let value = value(json, "arguments")?;
    match value {
        Value::Null | Value::Array(_) | Value::Map(_) => Ok(value),
        _ => Err(Problem::bad_request("arguments: expected an object (by name) or an array (by position)")),
    }
}

/// Reads the arguments of a query from the URL. Each value is JSON, or text if it is not.
pub(crate) fn query_arguments(uri: &Uri) -> Result<Value, Problem> {
    let pairs: Vec<(String, String)> = query(uri)?;
    if pairs.is_empty() {
        return Ok(Value::Null);
    }
    let mut arguments = Map::new();
    for (name, text) in pairs {
        let argument = json_or_text(&text).map_err(|error| bad_value(&name, error))?;
        if arguments.insert(name.as_str(), argument).is_some() {
            return Err(Problem::bad_request(format!("the argument `{name}` is given twice")));
        }
    }
    Ok(Value::Map(arguments))
}

/// Reads the part of a URL behind `?`.
pub(crate) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    match axum::extract::Query::try_from_uri(uri) {
        Ok(axum::extract::Query(parsed)) => Ok(parsed),
        Err(rejection) => Err(Problem::bad_request(format!("in the query string: {}", rejection.body_text()))),
    }
}

/// Reads a JSON document; the problem says where it goes wrong.
pub(crate) fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    strict_json::parse(body).map_err(|error| Problem::bad_request(format!("not the expected JSON: {error}")))
}

/// A value as people write it where there is no document: JSON, or text if it is not.
///
/// # Errors
///
/// What is wrong with the JSON, for the person who wrote it.
pub fn json_or_text(text: &str) -> Result<Value, String> {
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        return Ok(Value::Text(text.to_owned()));
    }
    let Strict(json) = strict_json::parse(text.as_bytes())?;
    from_json(json).map_err(|error| error.to_string())
}

/// The request id of a request, if it has one.
pub(crate) fn request_id(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(id) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::bad_request("the header Idempotency-Key is given twice"));
    }
    let id = id.to_str().map_err(|_| bad_request_id())?;
    check_request_id(id)?;
    Ok(Some(id.to_owned()))
}

/// Refuses what may not be a request id.
fn check_request_id(id: &str) -> Result<(), Problem> {
    let fits = (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(()) } else { Err(bad_request_id()) }
}

fn bad_request_id() -> Problem {
    Problem::bad_request(format!("a request id has 1 to {REQUEST_ID_BYTES_MAX} visible ASCII characters"))
}

fn value(json: Json, place: &str) -> Result<Value, Problem> {
    from_json(json).map_err(|error: theseus_value::json::JsonError| bad_value(place, error))
}

fn bad_value(place: &str, error: impl Display) -> Problem {
    Problem::bad_request(format!("{place}: {error}"))
}

/// Receives a whole body of at most `bytes_max` bytes within `time_max`.
pub(crate) async fn whole_body(body: Body, bytes_max: usize, time_max: Duration) -> Result<Bytes, Problem> {
    match tokio::time::timeout(time_max, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Problem::new(own_codes::BODY_TOO_LARGE, format!("a body has at most {bytes_max} bytes here")))
        }
        Ok(Err(error)) => Err(Problem::bad_request(format!("the body broke off: {error}"))),
        Err(_) => Err(Problem::new(
            own_codes::BODY_TOO_SLOW,
            format!("a body has to arrive within {} ms", time_max.as_millis()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn some(json: Json) -> Value {
        from_json(json).unwrap()
    }

    fn detail(problem: Problem) -> String {
        assert_eq!(problem.status().as_u16(), 400);
        problem.to_json()["detail"].as_str().unwrap().to_owned()
    }

    #[test]
    fn digits_are_ids_and_the_rest_are_names() {
        assert_eq!(parse_ref("12"), Ok(ObjectRef::Id(ObjectId(12))));
        assert_eq!(parse_ref("visits"), Ok(ObjectRef::Name("visits".into())));
        assert_eq!(parse_ref("-1"), Ok(ObjectRef::Name("-1".into())));
        assert!(parse_ref("").is_err());
        assert!(parse_ref("99999999999999999999").is_err());
    }

    #[test]
    fn query_strings_hold_json_or_text() {
        let read = |query: &str| query_arguments(&format!("/v1/objects/a/b{query}").parse().unwrap());
        assert_eq!(read("").unwrap(), Value::Null);
        assert_eq!(
            read("?by=5&who=Jane+Doe&exact=%225%22&list=[1,true]&to=%7B%22$ref%22:7%7D&empty=").unwrap(),
            some(json!({
                "by": 5, "who": "Jane Doe", "exact": "5", "list": [1, true], "to": { "$ref": 7 }, "empty": "",
            }))
        );
        assert!(detail(read("?by=1&by=2").unwrap_err()).contains("`by` is given twice"));
        assert!(detail(read("?to=%7B%22$what%22:7%7D").unwrap_err()).starts_with("to: "));
    }

    #[test]
    fn an_argument_may_have_a_name_that_json_reserves() {
        let read = query_arguments(&"/x?$ref=7".parse().unwrap()).unwrap();
        assert_eq!(read.as_map().unwrap().get("$ref"), Some(&Value::from(7)));
    }

    #[test]
    fn creations_are_of_one_kind() {
        let read = |json: Json| creation(json.to_string().as_bytes(), None);
        let name = Some("visits".to_owned());
        assert_eq!(
            read(json!({ "behavior": "counter.Counter", "name": "visits", "slots": { "count": 3 } })).unwrap(),
            Action::Create {
                behavior: "counter.Counter".into(),
                name: name.clone(),
                slots: some(json!({ "count": 3 })),
                request_id: None
            }
        );
        assert_eq!(
            read(json!({ "clone": 7, "name": "visits" })).unwrap(),
            Action::Clone { object: ObjectRef::Id(ObjectId(7)), name, request_id: None }
        );
        assert_eq!(
            read(json!({ "derive": "visits" })).unwrap(),
            Action::Derive { parents: vec![ObjectRef::Name("visits".into())], name: None, request_id: None }
        );
        assert_eq!(
            read(json!({ "derive": [7, "visits"] })).unwrap(),
            Action::Derive {
                parents: vec![ObjectRef::Id(ObjectId(7)), ObjectRef::Name("visits".into())],
                name: None,
                request_id: None
            }
        );
        assert!(detail(read(json!({ "derive": [] })).unwrap_err()).contains("at least one"));
        for wrong in [json!({}), json!({ "clone": 7, "derive": 7 }), json!({ "clone": 7, "slots": {} })] {
            assert!(detail(read(wrong).unwrap_err()).contains("expected one of"));
        }
        assert!(detail(read(json!({ "behavior": "a", "slots": [1] })).unwrap_err()).contains("slots"));
        assert!(detail(read(json!({ "behavior": "a", "nmae": "b" })).unwrap_err()).contains("nmae"));
    }

    #[test]
    fn malformed_json_is_shown_its_place() {
        let message = detail(creation(b"{\n  \"behavior\": oops}", None).unwrap_err());
        assert!(message.contains("line 2 column"), "{message}");
    }

    #[test]
    fn calls_take_arguments_by_name_by_position_or_none() {
        assert_eq!(call_arguments(b" \n").unwrap(), Value::Null);
        assert_eq!(call_arguments(b"{\"by\":5}").unwrap(), some(json!({ "by": 5 })));
        assert_eq!(call_arguments(b"[5]").unwrap(), some(json!([5])));
        for wrong in [&b"5"[..], b"\"by\"", b"{\"$ref\":7}"] {
            assert!(detail(call_arguments(wrong).unwrap_err()).starts_with("arguments:"));
        }
    }

    #[test]
    fn batch_lines_are_calls_in_order() {
        let line = br#"{"id":"r1","object":"7","method":"increment","arguments":{"by":5}}"#;
        assert_eq!(
            batch_line(line).unwrap(),
            Action::Call {
                object: ObjectRef::Id(ObjectId(7)),
                method: "increment".into(),
                arguments: some(json!({ "by": 5 })),
                request_id: Some("r1".into()),
                mode: CallMode::InOrder,
            }
        );
        assert!(detail(batch_line(br#"{"id":"","object":7,"method":"m"}"#).unwrap_err()).contains("request id"));
        assert!(detail(batch_line(br#"{"object":7}"#).unwrap_err()).contains("method"));
        assert!(detail(batch_line(br#"{"object":7,"method":"m","args":[]}"#).unwrap_err()).contains("args"));
    }

    #[test]
    fn request_ids_are_visible_and_bounded() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IDEMPOTENCY_KEY, value.parse().unwrap());
            }
            request_id(&headers)
        };
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&["order-1"]).unwrap(), Some("order-1".into()));
        assert!(read(&[&"x".repeat(REQUEST_ID_BYTES_MAX)]).is_ok());
        for wrong in [&["two words"][..], &[""], &[&"x".repeat(REQUEST_ID_BYTES_MAX + 1)], &["a", "b"]] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
