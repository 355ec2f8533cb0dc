//! Requests about the object graph as a whole: names, parents, messages that nobody understands, objects that cannot be reached.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, Uri},
};
use serde::Deserialize;

use super::{
    request::{self, JsonRef},
    routes::{self, Host, Name, Outcome, Target},
};
use crate::runtime::action::Action;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    object: JsonRef,
}

pub(super) async fn name(State(shared): Host, Name(name): Name, headers: HeaderMap, body: Body) -> Outcome {
    let request_id = request::request_id(&headers)?;
    let Named { object } = request::parse_json(&routes::receive(&shared, body).await?)?;
    routes::reply(&shared.ask(Action::Name { name, object: Some(object.resolve()?), request_id }).await?)
}

pub(super) async fn unname(State(shared): Host, Name(name): Name, headers: HeaderMap) -> Outcome {
    let request_id = request::request_id(&headers)?;
    routes::reply(&shared.ask(Action::Name { name, object: None, request_id }).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parents {
    parents: Vec<JsonRef>,
}

pub(super) async fn set_parents(State(shared): Host, target: Target, headers: HeaderMap, body: Body) -> Outcome {
    let request_id = request::request_id(&headers)?;
    let Parents { parents } = request::parse_json(&routes::receive(&shared, body).await?)?;
    let parents = parents.into_iter().map(JsonRef::resolve).collect::<Result<_, _>>()?;
    routes::reply(&shared.ask(Action::SetParents { object: target.object, parents, request_id }).await?)
}

/// `PUT .../parents` is the host's own. What else goes to that path is for a method of this name.
pub(super) async fn call_parents(host: Host, target: Target, headers: HeaderMap, body: Body) -> Outcome {
    routes::call(host, Target { method: "parents".into(), ..target }, headers, body).await
}

pub(super) async fn query_parents(host: Host, target: Target, uri: Uri) -> Outcome {
    routes::query(host, Target { method: "parents".into(), ..target }, uri).await
}

pub(super) async fn misses(State(shared): Host) -> Outcome {
    routes::reply(&shared.ask(Action::Misses).await?)
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Collection {
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn collect(State(shared): Host, body: Body) -> Outcome {
    let body = routes::receive(&shared, body).await?;
    let Collection { dry_run } = if body.is_empty() { Collection::default() } else { request::parse_json(&body)? };
    routes::reply(&shared.ask(Action::Collect { dry_run }).await?)
}
