//! Packing the history.

use axum::{body::Body, extract::State};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{
    json::head,
    problem::Problem,
    request,
    routes::{self, Host, Outcome},
};
use crate::runtime::action::{Action, At, PackView, PackWish};

/// One of the first two.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pack {
    before: Option<Json>,
    keep_days: Option<u64>,
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn pack(State(shared): Host, body: Body) -> Outcome {
    let Pack { before, keep_days, dry_run } = request::parse_json(&routes::receive(&shared, body).await?)?;
    let wish = match (before, keep_days) {
        (Some(Json::String(text)), None) => PackWish::Before(request::parse_at(&text).map_err(Problem::bad_request)?),
        (Some(tid), None) => {
            let problem = || Problem::bad_request("`before` is a transaction or a time");
            PackWish::Before(At::Tid(tid.as_u64().ok_or_else(problem)?))
        }
        (None, Some(days)) => PackWish::KeepDays(days),
        _ => return Err(Problem::bad_request("one of `before` and `keep_days` is needed")),
    };
    routes::reply(&shared.ask(Action::Pack { wish, dry_run }).await?)
}

/// What a pack did or would do, as one document.
pub(super) fn packed(view: &PackView) -> Json {
    let (from_us, to_us) = view.times_us.unzip();
    json!({
        "dry_run": view.dry_run,
        "packed": view.packed,
        "first": view.first,
        "transactions": view.transactions,
        "from_us": from_us,
        "to_us": to_us,
        "bytes_max": view.bytes_max,
        "objects": view.objects,
        "base": view.base,
        "tid": view.tid,
        "at": head(&view.at),
        "elapsed_ms": view.elapsed_ms,
    })
}
