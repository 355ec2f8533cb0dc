//! Requests about posted messages, and about objects by what a slot holds.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri},
};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use theseus_value::{ObjectId, json::to_json, strict_json::Strict};

use super::{
    json,
    problem::Problem,
    request::{self, JsonRef},
    routes::{self, Host, Outcome},
};
use crate::runtime::action::{
    Action, Condition, Due, FoundView, IndexView, MessageView, ObjectRef, Relation, WhichMessages,
};

/// How many objects or messages an answer holds if the client does not say.
const LIMIT_DEFAULT: usize = 1000;

/// The form of a posted message.
pub(super) fn message(view: &MessageView) -> Json {
    json!({
        "id": view.id.0,
        "target": view.target.0,
        "method": view.method,
        "arguments": to_json(&view.arguments),
        "posted_us": view.posted_us,
        "due_us": view.due_us,
        "set_aside_us": view.set_aside_us,
        "every_us": view.every_us,
        "attempts": view.attempts,
        "error": view.error.as_ref().map(json::error),
    })
}

/// The form of an object that was found.
pub(super) fn found(view: &FoundView) -> Json {
    json!({ "id": view.id.0, "behavior": view.behavior, "value": to_json(&view.value), "tid": view.tid })
}

/// The form of an index.
pub(super) fn index(view: &IndexView) -> Json {
    json!({ "index": view.index, "behavior": view.behavior, "slot": view.slot, "complete": view.complete })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Posting {
    target: JsonRef,
    method: String,
    #[serde(default)]
    arguments: Strict,
    delay_ms: Option<u64>,
    at_us: Option<u64>,
    every_ms: Option<u64>,
}

pub(super) async fn post(State(shared): Host, headers: HeaderMap, body: Body) -> Outcome {
    let request_id = request::request_id(&headers)?;
    let posting = request::parse_json(&routes::receive(&shared, body).await?)?;
    let Posting { target, method, arguments, delay_ms, at_us, every_ms } = posting;
    let us = |ms: u64| ms.saturating_mul(1000);
    let due = match (delay_ms, at_us) {
        (Some(_), Some(_)) => return Err(Problem::bad_request("expected `delay_ms` or `at_us`, not both")),
        (None, Some(at_us)) => Due::At(at_us),
        (delay_ms, None) => Due::After(us(delay_ms.unwrap_or(0))),
    };
    let arguments = request::arguments(arguments)?;
    let (target, every_us) = (target.resolve()?, every_ms.map(us));
    let action = Action::Post { target, method, arguments, due, every_us, request_id };
    let mut response = routes::reply(&shared.ask(action).await?)?;
    *response.status_mut() = StatusCode::CREATED;
    Ok(response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MessagesQuery {
    target: Option<String>,
    state: Option<Stage>,
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    Waiting,
    SetAside,
}

pub(super) async fn messages(State(shared): Host, uri: Uri) -> Outcome {
    let MessagesQuery { target, state, after, limit } = request::query(&uri)?;
    let target = target.map(|target| request::parse_ref(&target)).transpose().map_err(Problem::bad_request)?;
    let which = match state {
        None => WhichMessages::All,
        Some(Stage::Waiting) => WhichMessages::Waiting,
        Some(Stage::SetAside) => WhichMessages::SetAside,
    };
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    routes::reply(&shared.ask(Action::Messages { target, which, after, limit }).await?)
}

pub(super) async fn cancel(State(shared): Host, Path(message): Path<String>, headers: HeaderMap) -> Outcome {
    let (message, request_id) = (message_id(&message)?, request::request_id(&headers)?);
    routes::reply(&shared.ask(Action::CancelMessage { message, request_id }).await?)
}

pub(super) async fn retry(State(shared): Host, Path(message): Path<String>, headers: HeaderMap) -> Outcome {
    let (message, request_id) = (message_id(&message)?, request::request_id(&headers)?);
    routes::reply(&shared.ask(Action::RetryMessage { message, request_id }).await?)
}

fn message_id(text: &str) -> Result<ObjectId, Problem> {
    match request::parse_ref(text) {
        Ok(ObjectRef::Id(id)) => Ok(id),
        _ => Err(Problem::bad_request(format!("a message has a number, and `{text}` is none"))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FindQuery {
    r#where: String,
    behavior: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

/// Whether a request for a list is one for objects by what a slot holds.
pub(super) fn is_find(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("where=")))
}

pub(super) async fn find(State(shared): Host, uri: Uri) -> Outcome {
    let FindQuery { r#where, behavior, after, limit } = request::query(&uri)?;
    let (slot, condition) = parse_where(&r#where).map_err(Problem::bad_request)?;
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    routes::reply(&shared.ask(Action::Find { behavior, slot, condition, after, limit }).await?)
}

/// Reads a condition: a slot, one of `=`, `<`, `<=`, `>` and `>=`, and a value, which is JSON, or text if it is not. Text that begins with
/// such a sign has to be JSON: without quotes it is a sign that somebody knows from elsewhere, such as `==`.
///
/// # Errors
///
/// What is wrong with the text, for the person who wrote it.
pub fn parse_where(text: &str) -> Result<(String, Condition), String> {
    let bad = || format!("`{text}` is no condition: expected SLOT=VALUE, or one of < <= > >= in the place of =");
    let end = text.find(['=', '<', '>']).filter(|end| *end > 0).ok_or_else(bad)?;
    let (slot, rest) = text.split_at(end);
    let relations = [
        ("<=", Relation::AtMost),
        (">=", Relation::AtLeast),
        ("<", Relation::Less),
        (">", Relation::Greater),
        ("=", Relation::Equal),
    ];
    let parsed = relations.iter().find_map(|(sign, relation)| Some((rest.strip_prefix(sign)?, *relation)));
    let (value, relation) = parsed.ok_or_else(bad)?;
    if value.trim_start().starts_with(['=', '<', '>']) {
        return Err(bad() + "; a text that begins with one of these needs quotes, such as name=\"=5\"");
    }
    let value = request::json_or_text(value).map_err(|error| format!("in `{text}`: {error}"))?;
    Ok((slot.trim().to_owned(), Condition { relation, value }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    behavior: String,
    slot: String,
}

pub(super) async fn indexes(State(shared): Host) -> Outcome {
    routes::reply(&shared.ask(Action::Indexes).await?)
}

pub(super) async fn create_index(State(shared): Host, body: Body) -> Outcome {
    let Index { behavior, slot } = request::parse_json(&routes::receive(&shared, body).await?)?;
    routes::reply(&shared.ask(Action::CreateIndex { behavior, slot }).await?)
}

pub(super) async fn drop_index(State(shared): Host, uri: Uri) -> Outcome {
    let Index { behavior, slot } = request::query(&uri)?;
    routes::reply(&shared.ask(Action::DropIndex { behavior, slot }).await?)
}

#[cfg(test)]
mod tests {
    use theseus_value::Value;

    use super::*;

    #[test]
    fn conditions_are_a_slot_a_sign_and_a_value() {
        let parsed = |text: &str| parse_where(text).map(|(slot, it)| (slot, it.relation, it.value));
        let slot = |name: &str, relation, value: Value| Ok((name.to_owned(), relation, value));
        assert_eq!(parsed("count=5"), slot("count", Relation::Equal, 5.into()));
        assert_eq!(parsed("count<=-2.5"), slot("count", Relation::AtMost, Value::Float(-2.5)));
        assert_eq!(parsed("count >= 7"), slot("count", Relation::AtLeast, 7.into()));
        assert_eq!(parsed("name<b=c"), slot("name", Relation::Less, Value::Text("b=c".into())));
        assert_eq!(parsed("name=\"5\""), slot("name", Relation::Equal, Value::Text("5".into())));
        assert_eq!(parsed("owner={\"$ref\":7}"), slot("owner", Relation::Equal, Value::Ref(ObjectId(7))));
        assert_eq!(parsed("name="), slot("name", Relation::Equal, Value::Text(String::new())));
        assert_eq!(parsed("name=\"=5\""), slot("name", Relation::Equal, Value::Text("=5".into())));
        for wrong in ["count", "=5", "", "count!5", "count==5", "count<>5", "count => 5", "count>>5"] {
            assert!(parse_where(wrong).unwrap_err().contains("SLOT=VALUE"), "{wrong}");
        }
    }
}
