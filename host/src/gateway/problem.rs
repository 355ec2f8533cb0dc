//! Errors as HTTP shows them: problem details, RFC 9457.

use std::borrow::Cow;

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use serde_json::{Value as Json, json};
use theseus_abi::FailureCode;

use crate::runtime::action::{ActionError, Tid, codes};

/// A query tried to change something: the name that the ABI gives it.
const READ_ONLY: &str = FailureCode::READ_ONLY.name();

/// What a code means for a client: the HTTP status and a title that is the same for each of its occurrences.
struct Meaning {
    code: &'static str,
    status: StatusCode,
    title: &'static str,
}

/// Seconds after which a client that was refused for lack of room, or by a stopping host, should try again.
const RETRY_AFTER_S: &str = "1";

/// Codes that only the gateway gives.
pub(crate) mod own_codes {
    /// No such route.
    pub(crate) const NO_SUCH_ROUTE: &str = "no_such_route";
    /// The route exists, but not for this HTTP method.
    pub(crate) const METHOD_NOT_ALLOWED: &str = "method_not_allowed";
    /// Control is not for applications.
    pub(crate) const FORBIDDEN: &str = "forbidden";
    /// The body is larger than the host reads.
    pub(crate) const BODY_TOO_LARGE: &str = "body_too_large";
    /// The body did not arrive in time.
    pub(crate) const BODY_TOO_SLOW: &str = "body_too_slow";
}

macro_rules! meanings {
    ($( $code:expr => $status:ident, $title:literal; )*) => {
        &[ $( Meaning { code: $code, status: StatusCode::$status, title: $title } ),* ]
    };
}

/// Every code that the gateway knows. One that it does not know is answered with 500.
const MEANINGS: &[Meaning] = meanings! {
    codes::BAD_REQUEST => BAD_REQUEST, "The request is malformed";
    own_codes::FORBIDDEN => FORBIDDEN, "Not allowed from here";
    "not_allowed" => FORBIDDEN, "The plugin was not granted that";
    own_codes::NO_SUCH_ROUTE => NOT_FOUND, "No such route";
    "no_such_object" => NOT_FOUND, "No such object";
    "no_such_method" => NOT_FOUND, "No such method";
    "no_such_behavior" => NOT_FOUND, "No such behavior";
    codes::NO_SUCH_TRANSACTION => NOT_FOUND, "No such transaction";
    own_codes::METHOD_NOT_ALLOWED => METHOD_NOT_ALLOWED, "HTTP method not allowed";
    READ_ONLY => METHOD_NOT_ALLOWED, "A query may not change anything";
    own_codes::BODY_TOO_SLOW => REQUEST_TIMEOUT, "The body took too long";
    "refused" => CONFLICT, "Refused by the behavior";
    "name_taken" => CONFLICT, "The name is taken";
    "ambiguous" => CONFLICT, "Parents disagree";
    "reentrant" => CONFLICT, "The object is waiting for this message";
    "no_migration" => CONFLICT, "The object has a schema that the behavior cannot read";
    codes::REHEARSAL_FAILED => CONFLICT, "The rehearsal failed";
    codes::PLAN_REFUSED => CONFLICT, "The plan says no";
    codes::UNDO_CONFLICT => CONFLICT, "Later transactions depend on it";
    codes::NOT_UNDOABLE => CONFLICT, "Only the host itself can take it back";
    codes::NO_INDEX => CONFLICT, "There is no index for that";
    codes::INDEX_BUILDING => CONFLICT, "The index is being built";
    codes::INDEX_EXISTS => CONFLICT, "There is such an index already";
    own_codes::BODY_TOO_LARGE => PAYLOAD_TOO_LARGE, "The body is too large";
    "bad_arguments" => UNPROCESSABLE_ENTITY, "The arguments do not fit the method";
    "bad_slots" => UNPROCESSABLE_ENTITY, "The slots do not fit the behavior";
    codes::REQUEST_ID_REUSED => UNPROCESSABLE_ENTITY, "The request id was used for another request";
    codes::PLUGIN_REFUSED => UNPROCESSABLE_ENTITY, "The plugin is not acceptable";
    "limit_exceeded" => UNPROCESSABLE_ENTITY, "A limit was exceeded";
    "too_deep" => UNPROCESSABLE_ENTITY, "Messages are nested too deeply";
    codes::OVERLOADED => TOO_MANY_REQUESTS, "The host has too much to do";
    "panicked" => INTERNAL_SERVER_ERROR, "The plugin panicked";
    "bad_encoding" => INTERNAL_SERVER_ERROR, "The plugin's bytes are not a value";
    "stale_context" => INTERNAL_SERVER_ERROR, "The plugin used a context outside its call";
    "unsupported" => INTERNAL_SERVER_ERROR, "The plugin asked for what this host does not have";
    "storage" => INTERNAL_SERVER_ERROR, "The storage failed while an object was read";
    "identity_damaged" => INTERNAL_SERVER_ERROR, "A record of the identity is not what was written";
    codes::PACKED => GONE, "It was packed away";
    codes::STOPPING => SERVICE_UNAVAILABLE, "The host is stopping";
    codes::STORAGE_FAILED => SERVICE_UNAVAILABLE, "The storage does not work";
    codes::STORAGE_FULL => INSUFFICIENT_STORAGE, "The storage is full";
};

/// An error on its way to a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Problem {
    code: Cow<'static, str>,
    kind: Option<String>,
    detail: String,
    tid: Option<Tid>,
}

impl Problem {
    /// A problem that its code describes.
    pub(crate) fn new(code: &'static str, detail: impl Into<String>) -> Problem {
        Problem { code: code.into(), kind: None, detail: detail.into(), tid: None }
    }

    /// The request is malformed; `detail` says where.
    pub(crate) fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(codes::BAD_REQUEST, detail)
    }

    pub(crate) fn status(&self) -> StatusCode {
        meaning(&self.code).0
    }

    /// The document.
    pub(crate) fn to_json(&self) -> Json {
        let (status, title) = meaning(&self.code);
        let mut document = json!({
            "type": format!("urn:theseus:error:{}", self.code),
            "title": title,
            "status": status.as_u16(),
            "detail": self.detail,
            "code": self.code,
        });
        if let Some(kind) = &self.kind {
            document["kind"] = json!(kind);
        }
        if let Some(tid) = self.tid {
            document["tid"] = json!(tid);
        }
        document
    }
}

impl From<ActionError> for Problem {
    fn from(error: ActionError) -> Problem {
        let ActionError { code, kind, message, tid } = error;
        Problem { code: code.into(), kind, detail: message, tid }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.to_json().to_string()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        match &*self.code {
            codes::OVERLOADED | codes::STOPPING => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
            }
            // RFC 9110 asks for `Allow` with every 405. Only a `GET` can find a command read-only, and `POST` is what
            // it should have been.
            READ_ONLY => {
                headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
            }
            _ => {}
        }
        response
    }
}

fn meaning(code: &str) -> (StatusCode, &'static str) {
    match MEANINGS.iter().find(|meaning| meaning.code == code) {
        Some(meaning) => (meaning.status, meaning.title),
        None => (StatusCode::INTERNAL_SERVER_ERROR, "Failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str) -> ActionError {
        ActionError { code: code.into(), kind: None, message: "because".into(), tid: None }
    }

    #[test]
    fn every_code_of_the_abi_has_a_meaning() {
        for code in FailureCode::ALL {
            assert!(MEANINGS.iter().any(|meaning| meaning.code == code.name()), "{} has none", code.name());
        }
    }

    #[test]
    fn no_code_has_two_meanings() {
        for (i, meaning) in MEANINGS.iter().enumerate() {
            assert!(MEANINGS[i + 1..].iter().all(|other| other.code != meaning.code), "{}", meaning.code);
        }
    }

    #[test]
    fn the_reference_shows_every_code_beside_its_status() {
        let reference = include_str!("../../../docs/http.md");
        for Meaning { code, status, .. } in MEANINGS {
            let row = format!("| {}", status.as_u16());
            let mut rows = reference.lines().filter(|line| line.starts_with(&row));
            assert!(rows.any(|line| line.contains(&format!("`{code}`"))), "{code} is not beside {status}");
        }
    }

    #[test]
    fn statuses_are_those_of_the_contract() {
        let contract = [
            (404, &["no_such_object", "no_such_method", "no_such_behavior", "no_such_transaction"][..]),
            (422, &["bad_arguments", "bad_slots", "request_id_reused", "plugin_refused"]),
            (422, &["limit_exceeded", "too_deep"]),
            (400, &["bad_request"]),
            (405, &["read_only"]),
            (409, &["refused", "name_taken", "ambiguous", "reentrant", "plan_refused", "no_migration"]),
            (500, &["panicked", "bad_encoding", "stale_context", "storage", "identity_damaged", "a_code_of_tomorrow"]),
            (429, &["overloaded"]),
            (503, &["stopping", "storage_failed"]),
            (507, &["storage_full"]),
        ];
        for (status, codes) in contract {
            for code in codes {
                assert_eq!(Problem::from(error(code)).status().as_u16(), status, "{code}");
            }
        }
    }

    #[test]
    fn a_problem_is_a_document_of_rfc_9457() {
        let mut refused = error("refused");
        (refused.kind, refused.tid) = (Some("overdraft".into()), Some(4));
        assert_eq!(
            Problem::from(refused).to_json(),
            json!({
                "type": "urn:theseus:error:refused", "title": "Refused by the behavior", "status": 409,
                "detail": "because", "code": "refused", "kind": "overdraft", "tid": 4,
            })
        );
        let response = Problem::from(error("refused")).into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn clients_are_told_when_to_retry_and_what_is_allowed() {
        for code in ["overloaded", "stopping"] {
            assert!(Problem::from(error(code)).into_response().headers().contains_key(header::RETRY_AFTER), "{code}");
        }
        assert!(!Problem::from(error("refused")).into_response().headers().contains_key(header::RETRY_AFTER));
        assert_eq!(Problem::from(error("read_only")).into_response().headers()[header::ALLOW], "POST");
    }
}
