//! Talks HTTP to the running host through its control socket.

use std::io;

use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::{net::UnixStream, runtime};

use super::fault::{CONNECTION_LOST, Fault};
use crate::{gateway::request::IDEMPOTENCY_KEY, home::Home};

/// A connection to a running host.
pub(crate) struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
    runtime: runtime::Runtime,
}

/// What to ask: `Ask::get(path)`, `Ask::post(path, body)` and so on.
pub(crate) struct Ask {
    method: Method,
    path: String,
    body: String,
    request_id: Option<String>,
}

impl Ask {
    pub(crate) fn get(path: impl Into<String>) -> Ask {
        Ask { method: Method::GET, path: path.into(), body: String::new(), request_id: None }
    }

    pub(crate) fn delete(path: impl Into<String>) -> Ask {
        Ask { method: Method::DELETE, ..Ask::get(path) }
    }

    pub(crate) fn post(path: impl Into<String>, body: impl ToString) -> Ask {
        Ask { method: Method::POST, body: body.to_string(), ..Ask::get(path) }
    }

    pub(crate) fn put(path: impl Into<String>, body: impl ToString) -> Ask {
        Ask { method: Method::PUT, ..Ask::post(path, body) }
    }

    pub(crate) fn with_request_id(self, request_id: Option<String>) -> Ask {
        Ask { request_id, ..self }
    }

    fn into_request(self) -> Result<Request<Full<Bytes>>, Fault> {
        let mut request = Request::builder().method(self.method).uri(self.path).header(header::HOST, "theseus");
        if let Some(id) = self.request_id {
            request = request.header(IDEMPOTENCY_KEY, id);
        }
        let request = request.header(header::CONTENT_TYPE, "application/json").body(Full::from(self.body));
        request.map_err(|error| Fault::usage(format!("that cannot be sent: {error}")))
    }
}

impl Client {
    /// Connects to the host of a home; none if no host runs.
    pub(crate) fn connect(home: &Home) -> Result<Option<Client>, Fault> {
        let failed = |error: &dyn std::fmt::Display| {
            Fault::failed("no_connection", format!("{} does not work: {error}", home.admin_socket().display()))
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
        let stream = match runtime.block_on(UnixStream::connect(home.admin_socket())) {
            Ok(stream) => stream,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(error) => return Err(failed(&error)),
        };
        let handshake = runtime.block_on(http1::handshake(TokioIo::new(stream)));
        let (sender, connection) = handshake.map_err(|error| failed(&error))?;
        runtime.spawn(async move { _ = connection.await });
        Ok(Some(Client { sender, runtime }))
    }

    /// Asks, and gives the document that was answered.
    pub(crate) fn ask(&mut self, ask: Ask) -> Result<String, Fault> {
        let request = ask.into_request()?;
        let sender = &mut self.sender;
        self.runtime.block_on(async {
            let response = begun(sender.send_request(request).await).await?;
            text(response).await
        })
    }

    /// Asks, and passes each line of the answer on as it comes.
    pub(crate) fn ask_lines(&mut self, ask: Ask, mut each: impl FnMut(&str) -> Result<(), Fault>) -> Result<(), Fault> {
        let request = ask.into_request()?;
        let sender = &mut self.sender;
        self.runtime.block_on(async {
            let mut response = begun(sender.send_request(request).await).await?;
            let mut unfinished = Vec::new();
            while let Some(frame) = response.frame().await {
                let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
                unfinished.extend_from_slice(&data);
                let Some(end) = unfinished.iter().rposition(|byte| *byte == b'\n') else { continue };
                let rest = unfinished.split_off(end + 1);
                for line in String::from_utf8_lossy(&unfinished).lines() {
                    each(line)?;
                }
                unfinished = rest;
            }
            Ok(())
        })
    }
}

/// The response, unless it is a problem.
async fn begun(sent: hyper::Result<Response<Incoming>>) -> Result<Response<Incoming>, Fault> {
    let response = sent.map_err(broken)?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    let text = text(response).await?;
    let problem = serde_json::from_str(&text);
    Err(Fault::from_problem(problem.unwrap_or_else(|_| Json::String(format!("HTTP {status}: {text}")))))
}

async fn text(response: Response<Incoming>) -> Result<String, Fault> {
    let body = response.into_body().collect().await.map_err(broken)?.to_bytes();
    String::from_utf8(body.into()).map_err(|_| Fault::failed("bad_answer", "the host did not answer in UTF-8"))
}

fn broken(error: hyper::Error) -> Fault {
    let text =
        format!("the connection broke off ({error}); whether the host did what was asked, only its history tells");
    Fault::failed(CONNECTION_LOST, text)
}

/// A text as one segment of a URL's path, or as a value in its query (RFC 3986).
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_one_segment() {
        assert_eq!(escaped("visits-2.x_~"), "visits-2.x_~");
        assert_eq!(escaped("account/1 ?ü"), "account%2F1%20%3F%C3%BC");
    }
}
