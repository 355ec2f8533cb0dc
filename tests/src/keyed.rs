//! Requests whose answers are remembered, to be compared with what a later host knows of them.

use std::io;

use serde_json::{Value as Json, json};

use crate::{Home, http::Client};

/// What became of one request.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "each variant says what its fields are")]
pub enum Became {
    /// It was executed in this transaction, with this result.
    Done { tid: u64, result: Json },
    /// It was refused for this reason.
    Refused { code: String },
    /// There was no answer.
    Lost,
}

/// A request under an id of its own.
#[derive(Clone, Debug)]
pub struct Keyed {
    /// The id.
    pub key: String,
    /// Where it was sent.
    pub path: String,
    /// With what.
    pub body: Json,
    /// What became of it.
    pub became: Became,
}

impl Keyed {
    /// Sends a request once.
    pub fn send(client: &mut Client, key: String, path: &str, body: Json) -> Keyed {
        let became = became(client.send("POST", path, &[("Idempotency-Key", &key)], body.to_string().as_bytes()));
        Keyed { key, path: path.to_owned(), body, became }
    }

    /// Touches an object, or has it keep a text of so many bytes.
    pub fn write(client: &mut Client, key: String, object: &str, bytes: Option<usize>) -> Keyed {
        match bytes {
            None => Keyed::send(client, key, &format!("/v1/objects/{object}/touch"), json!([])),
            Some(bytes) => Keyed::send(client, key, &format!("/v1/objects/{object}/keep"), json!(["x".repeat(bytes)])),
        }
    }
}

fn became(answer: io::Result<crate::http::Response>) -> Became {
    match answer {
        Ok(answer) if answer.status == 200 => {
            let done = answer.json();
            Became::Done { tid: done["tid"].as_u64().unwrap(), result: done["result"].clone() }
        }
        Ok(answer) => {
            let code = answer.json()["code"].as_str().map(str::to_owned);
            Became::Refused { code: code.unwrap_or_else(|| panic!("no typed error: {}", answer.text())) }
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock || error.kind() == io::ErrorKind::TimedOut => {
            panic!("the host is silent: {error}")
        }
        Err(_) => Became::Lost,
    }
}

/// Compares what clients were told with a home whose host does not run: what was answered is there once, with this result; what was
/// refused as a whole is not. Answers what is wrong.
pub fn compare(home: &Home, requests: &[Keyed]) -> Vec<String> {
    let history = home.lines(&["history"]);
    let mut wrong = Vec::new();
    for Keyed { key, path, became, .. } in requests {
        let found: Vec<&Json> = history.iter().filter(|line| line["request_id"] == key.as_str()).collect();
        let fits = match became {
            Became::Done { tid, result } => {
                found.len() == 1 && found[0]["tid"] == *tid && found[0]["result"] == *result
            }
            // What could not be written for want of room was not written; after any other failure that is not known.
            Became::Refused { code } if code == "storage_full" => found.is_empty(),
            Became::Refused { .. } | Became::Lost => found.len() <= 1,
        };
        if !fits {
            let found: Vec<&Json> = found.iter().map(|line| &line["tid"]).collect();
            wrong.push(format!("{path} as {key} became {became:?} and is in the history as {found:?}"));
        }
    }
    wrong
}
