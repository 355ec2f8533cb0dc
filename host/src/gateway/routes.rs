//! The routes and what each of them does.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{FromRequestParts, MatchedPath, RawPathParams, Request, State},
    http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header, request::Parts},
    middleware::{self, Next},
    response::IntoResponse,
    routing::{delete as delete_route, get, post, put},
};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{
    Shared, batch, finding, graph, history, json, pack,
    problem::{Problem, own_codes},
    request,
};
use crate::runtime::action::{Action, Answer, CallMode, Head, ObjectRef, SwapOptions, Tid, rehearsal::Told};

/// The head of the history as of an answer.
const THESEUS_HEAD: &str = "theseus-head";

/// The most names in one answer, and how many if the client does not say.
const NAMES_MAX: usize = 10_000;
const NAMES_DEFAULT: usize = 1000;

/// How many transactions are rehearsed if the client does not say.
const REHEARSE_DEFAULT: u64 = 1000;

pub(super) type Outcome = Result<Response<Body>, Problem>;
pub(super) type Host = State<Arc<Shared>>;

/// The routes for applications.
pub(crate) fn application(shared: Arc<Shared>) -> Router {
    let control = post(no_control);
    let routes = common().route("/v1/plan", control.clone()).route("/v1/swap", control.clone());
    let routes = routes.route("/v1/rollback", control.clone()).route("/v1/rehearse", control.clone());
    let routes = routes.route("/v1/gc", control.clone());
    let indexes = get(finding::indexes).post(no_control).delete(no_control);
    let routes = routes.route("/v1/indexes", indexes);
    finish(routes.route("/v1/apply", control.clone()).route("/v1/pack", control), shared)
}

/// The routes for applications, and control.
pub(crate) fn admin(shared: Arc<Shared>) -> Router {
    let routes = common().route("/v1/plan", post(plan)).route("/v1/swap", post(swap)).route("/v1/apply", post(apply));
    let routes = routes.route("/v1/rollback", post(rollback)).route("/v1/rehearse", post(rehearse));
    let routes = routes.route("/v1/gc", post(graph::collect));
    let indexes = get(finding::indexes).post(finding::create_index).delete(finding::drop_index);
    let routes = routes.route("/v1/indexes", indexes);
    let routes = routes.route("/v1/pack", post(pack::pack));
    finish(routes, shared)
}

fn common() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/objects", get(list).post(create))
        .route("/v1/objects/{object}", get(read).delete(delete))
        .route("/v1/objects/{object}/history", get(object_history).post(call_history))
        .route(
            "/v1/objects/{object}/parents",
            get(graph::query_parents).post(graph::call_parents).put(graph::set_parents),
        )
        .route("/v1/objects/{object}/{method}", get(query).post(call))
        .route("/v1/names/{name}", put(graph::name).delete(graph::unname))
        .route("/v1/messages", get(finding::messages).post(finding::post))
        .route("/v1/messages/{message}", delete_route(finding::cancel))
        .route("/v1/messages/{message}/retry", post(finding::retry))
        .route("/v1/batch", post(batch))
        .route("/v1/undo", post(undo))
        .route("/v1/history", get(whole_history))
        .route("/v1/plugins", get(plugins))
        .route("/v1/misses", get(graph::misses))
        .route("/v1/status", get(status))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
}

fn finish(routes: Router<Arc<Shared>>, shared: Arc<Shared>) -> Router {
    routes
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(shared.clone(), observe))
        .with_state(shared)
}

/// Counts every answer, has it name a head, and while the host stops, tells the client to connect anew.
async fn observe(State(shared): Host, request: Request, next: Next) -> Response<Body> {
    let begun = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    shared.metrics.answered(route, &method, response.status().as_u16(), begun.elapsed());
    // What was read or refused is as of a moment before this, so the newest head holds it.
    if !response.headers().contains_key(THESEUS_HEAD) {
        response.headers_mut().insert(THESEUS_HEAD, head_header(&shared.runtime.head()));
    }
    if *shared.stop.borrow() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The object and the method in a path.
pub(super) struct Target {
    pub(super) object: ObjectRef,
    pub(super) method: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Target {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Target, Problem> {
        let segments = segments(parts, state).await?;
        let object = request::parse_ref(segment(&segments, "object")).map_err(Problem::bad_request)?;
        Ok(Target { object, method: segment(&segments, "method").to_owned() })
    }
}

/// The name in a path.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Name, Problem> {
        Ok(Name(segment(&segments(parts, state).await?, "name").to_owned()))
    }
}

async fn segments<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<RawPathParams, Problem> {
    let segments = RawPathParams::from_request_parts(parts, state).await;
    segments.map_err(|rejection| Problem::bad_request(format!("in the path: {}", rejection.body_text())))
}

fn segment<'a>(segments: &'a RawPathParams, name: &str) -> &'a str {
    segments.iter().find(|(key, _)| *key == name).map_or("", |(_, text)| text)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    #[serde(default)]
    prefix: String,
    after: Option<String>,
    limit: Option<usize>,
    at: Option<String>,
}

async fn list(State(shared): Host, uri: Uri) -> Outcome {
    if finding::is_find(&uri) {
        return finding::find(State(shared), uri).await;
    }
    let ListQuery { prefix, after, limit, at } = request::query(&uri)?;
    let at = request::moment(at)?;
    let limit = limit.unwrap_or(NAMES_DEFAULT).clamp(1, NAMES_MAX);
    reply(&shared.ask(Action::List { prefix, after, limit, at }).await?)
}

async fn create(State(shared): Host, headers: HeaderMap, body: Body) -> Outcome {
    let request_id = request::request_id(&headers)?;
    let answer = shared.ask(request::creation(&receive(&shared, body).await?, request_id)?).await?;
    let mut response = reply(&answer)?;
    if let Answer::Object { id, .. } = answer {
        *response.status_mut() = StatusCode::CREATED;
        let location = HeaderValue::from_str(&format!("/v1/objects/{}", id.0)).expect("digits fit a header");
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadQuery {
    at: Option<String>,
}

async fn read(State(shared): Host, target: Target, uri: Uri) -> Outcome {
    let ReadQuery { at } = request::query(&uri)?;
    let at = request::moment(at)?;
    reply(&shared.ask(Action::Get { object: target.object, at }).await?)
}

async fn delete(State(shared): Host, target: Target, headers: HeaderMap) -> Outcome {
    let request_id = request::request_id(&headers)?;
    reply(&shared.ask(Action::Delete { object: target.object, request_id }).await?)
}

pub(super) async fn query(State(shared): Host, target: Target, uri: Uri) -> Outcome {
    let arguments = request::query_arguments(&uri)?;
    let Target { object, method } = target;
    reply(&shared.ask(Action::Call { object, method, arguments, request_id: None, mode: CallMode::QueryOnly }).await?)
}

pub(super) async fn call(State(shared): Host, target: Target, headers: HeaderMap, body: Body) -> Outcome {
    let request_id = request::request_id(&headers)?;
    let arguments = request::call_arguments(&receive(&shared, body).await?)?;
    let Target { object, method } = target;
    reply(&shared.ask(Action::Call { object, method, arguments, request_id, mode: CallMode::Any }).await?)
}

/// `GET .../history` belongs to the host, so a method of this name can be called by `POST` alone.
async fn call_history(host: Host, target: Target, headers: HeaderMap, body: Body) -> Outcome {
    call(host, Target { method: "history".into(), ..target }, headers, body).await
}

async fn batch(State(shared): Host, body: Body) -> Response<Body> {
    batch::respond(shared, body)
}

async fn object_history(State(shared): Host, target: Target, uri: Uri) -> Outcome {
    history::respond(shared, Some(target.object), request::query(&uri)?).await
}

async fn whole_history(State(shared): Host, uri: Uri) -> Outcome {
    history::respond(shared, None, request::query(&uri)?).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Undo {
    tids: Vec<Tid>,
}

async fn undo(State(shared): Host, headers: HeaderMap, body: Body) -> Outcome {
    let request_id = request::request_id(&headers)?;
    let Undo { tids } = request::parse_json(&receive(&shared, body).await?)?;
    reply(&shared.ask(Action::Undo { tids, request_id }).await?)
}

async fn plugins(State(shared): Host) -> Outcome {
    reply(&shared.ask(Action::Plugins).await?)
}

async fn status(State(shared): Host) -> Outcome {
    reply(&shared.ask(Action::Status).await?)
}

async fn health(State(shared): Host) -> Response<Body> {
    let trouble = shared.runtime.health().err();
    let status = if trouble.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    document(status, &json!({ "healthy": trouble.is_none(), "trouble": trouble }))
}

async fn ready(State(shared): Host) -> Response<Body> {
    let ready = !*shared.stop.borrow();
    document(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &json!({ "ready": ready }))
}

async fn metrics(State(shared): Host) -> Response<Body> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &shared.registry).expect("a string can be written to");
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Paths {
    paths: Vec<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Swap {
    paths: Vec<PathBuf>,
    rehearse: Option<u64>,
    #[serde(default)]
    irreversible: bool,
    #[serde(default)]
    eager: bool,
    #[serde(default)]
    quarantined: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Apply {
    bundle: PathBuf,
    #[serde(default)]
    reason: String,
    rehearse: Option<u64>,
    #[serde(default)]
    irreversible: bool,
    #[serde(default)]
    eager: bool,
    #[serde(default)]
    quarantined: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rollback {
    plugin: Option<String>,
}

async fn plan(State(shared): Host, body: Body) -> Outcome {
    let Paths { paths } = request::parse_json(&receive(&shared, body).await?)?;
    check_files(&paths)?;
    reply(&shared.ask(Action::Plan { paths }).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rehearse {
    paths: Vec<PathBuf>,
    last: Option<u64>,
    #[serde(default)]
    all_differences: bool,
}

async fn rehearse(State(shared): Host, body: Body) -> Outcome {
    let Rehearse { paths, last, all_differences } = request::parse_json(&receive(&shared, body).await?)?;
    check_files(&paths)?;
    let told = if all_differences { Told::All } else { Told::First };
    reply(&shared.ask(Action::Rehearse { paths, last: last.unwrap_or(REHEARSE_DEFAULT), told }).await?)
}

async fn swap(State(shared): Host, body: Body) -> Outcome {
    let request = request::parse_json(&receive(&shared, body).await?)?;
    let Swap { paths, rehearse, irreversible, eager, quarantined } = request;
    check_files(&paths)?;
    let options = SwapOptions { rehearse, irreversible, eager, quarantined };
    reply(&shared.ask(Action::Swap { paths, options }).await?)
}

async fn rollback(State(shared): Host, body: Body) -> Outcome {
    let Rollback { plugin } = request::parse_json(&receive(&shared, body).await?)?;
    reply(&shared.ask(Action::Rollback { plugin }).await?)
}

async fn apply(State(shared): Host, body: Body) -> Outcome {
    let request = request::parse_json(&receive(&shared, body).await?)?;
    let Apply { bundle, reason, rehearse, irreversible, eager, quarantined } = request;
    check_absolute(std::slice::from_ref(&bundle))?;
    let options = SwapOptions { rehearse, irreversible, eager, quarantined };
    reply(&shared.ask(Action::Apply { bundle, reason, options }).await?)
}

fn check_files(paths: &[PathBuf]) -> Result<(), Problem> {
    if paths.is_empty() {
        return Err(Problem::bad_request("paths: expected at least one plugin file"));
    }
    check_absolute(paths)
}

/// The host has a working folder of its own, so a relative path would mean something else than the client thinks.
fn check_absolute(paths: &[PathBuf]) -> Result<(), Problem> {
    match paths.iter().find(|path| !path.is_absolute()) {
        Some(path) => Err(Problem::bad_request(format!("{} is not an absolute path", path.display()))),
        None => Ok(()),
    }
}

async fn no_control(State(shared): Host) -> Problem {
    let socket = shared.admin_socket.display();
    Problem::new(own_codes::FORBIDDEN, format!("control is not for applications; send it to the socket {socket}"))
}

async fn no_such_route(method: Method, uri: Uri) -> Problem {
    Problem::new(own_codes::NO_SUCH_ROUTE, format!("nothing answers to {method} {}", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new(own_codes::METHOD_NOT_ALLOWED, format!("{} exists, but not for {method}; see Allow", uri.path()))
}

pub(super) async fn receive(shared: &Shared, body: Body) -> Result<axum::body::Bytes, Problem> {
    let time_max = Duration::from_millis(shared.config.body_ms_max);
    request::whole_body(body, shared.config.request_bytes_max, time_max).await
}

/// The response to what was done.
pub(super) fn reply(answer: &Answer) -> Outcome {
    let mut response = match answer {
        Answer::Result { value, tid, .. } => {
            let mut bytes = Vec::with_capacity(64);
            json::write_result(&mut bytes, value, *tid);
            json_response(StatusCode::OK, bytes.into())
        }
        _ => document(StatusCode::OK, &json::answer(answer)),
    };
    if let Some(head) = head_of(answer) {
        response.headers_mut().insert(THESEUS_HEAD, head_header(head));
    }
    Ok(response)
}

fn head_header(head: &Head) -> HeaderValue {
    HeaderValue::from_str(&json::head(head)).expect("digits fit a header")
}

/// The point of the history that an answer vouches for, if it does.
fn head_of(answer: &Answer) -> Option<&Head> {
    match answer {
        Answer::Object { at, .. } | Answer::Deleted { at } | Answer::Result { at, .. } => Some(at),
        Answer::Parents { at, .. } => Some(at),
        Answer::Status(status) => Some(&status.head),
        Answer::Undone(undone) => Some(&undone.at),
        _ => None,
    }
}

fn document(status: StatusCode, document: &Json) -> Response<Body> {
    json_response(status, document.to_string().into())
}

fn json_response(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
