//! A small blocking HTTP/1.1 client, for TCP and for the control socket.
//!
//! It keeps its connection and never repeats a request by itself, because the tests count what happened to each.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value as Json;

use crate::home::document;

/// How long one read or write may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a host listens.
#[derive(Clone, Debug)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A client with at most one connection.
#[derive(Debug)]
pub struct Client {
    address: Address,
    connection: Option<BufReader<Stream>>,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// How a body ends.
enum Length {
    Bytes(u64),
    Chunks,
    Close,
}

impl Client {
    /// A client of applications.
    pub fn tcp(address: SocketAddr) -> Client {
        Client { address: Address::Tcp(address), connection: None }
    }

    /// A client of the control socket.
    pub fn unix(socket: &Path) -> Client {
        Client { address: Address::Unix(socket.to_owned()), connection: None }
    }

    /// Connects, if there is no connection yet.
    pub fn connect(&mut self) -> io::Result<()> {
        if self.connection.is_none() {
            let stream = match &self.address {
                Address::Tcp(address) => {
                    let stream = TcpStream::connect_timeout(address, PATIENCE)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    stream.set_nodelay(true)?;
                    Stream::Tcp(stream)
                }
                Address::Unix(path) => {
                    let stream = UnixStream::connect(path)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    Stream::Unix(stream)
                }
            };
            self.connection = Some(BufReader::new(stream));
        }
        Ok(())
    }

    /// Drops the connection.
    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Sends a request and receives the whole answer. After an error the connection is gone.
    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Response> {
        self.connect()?;
        let Some(mut connection) = self.connection.take() else { unreachable!("it was just made") };
        write_request(connection.get_mut(), method, path, headers, body)?;
        let (status, headers) = read_head(&mut connection)?;
        let mut whole = Vec::new();
        let length = length_of(&headers);
        match length {
            Length::Bytes(bytes) => {
                (&mut connection).take(bytes).read_to_end(&mut whole)?;
                if (whole.len() as u64) < bytes {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Length::Chunks => while read_chunk(&mut connection, &mut whole)? {},
            Length::Close => _ = connection.read_to_end(&mut whole)?,
        }
        let response = Response { status, headers, body: whole };
        if !response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
            && !matches!(length, Length::Close)
        {
            self.connection = Some(connection);
        }
        Ok(response)
    }

    /// `GET`.
    pub fn get(&mut self, path: &str) -> Response {
        self.send("GET", path, &[], b"").unwrap()
    }

    /// `DELETE`.
    pub fn delete(&mut self, path: &str) -> Response {
        self.send("DELETE", path, &[], b"").unwrap()
    }

    /// `POST` of a document.
    pub fn post(&mut self, path: &str, body: &Json) -> Response {
        self.send("POST", path, &[], body.to_string().as_bytes()).unwrap()
    }

    /// `POST` of a document with a request id.
    pub fn post_once(&mut self, path: &str, id: &str, body: &Json) -> Response {
        self.send("POST", path, &[("Idempotency-Key", id)], body.to_string().as_bytes()).unwrap()
    }

    /// Calls a method that has to succeed; gives its result.
    pub fn call(&mut self, object: &str, method: &str, arguments: &Json) -> Json {
        self.post(&format!("/v1/objects/{object}/{method}"), arguments).ok()["result"].clone()
    }

    /// Makes an object, which has to succeed; gives its id.
    pub fn create(&mut self, behavior: &str, name: &str) -> u64 {
        let made = self.post("/v1/objects", &serde_json::json!({ "behavior": behavior, "name": name })).ok();
        made["id"].as_u64().unwrap()
    }

    /// The last durable transaction.
    pub fn tid(&mut self) -> u64 {
        self.get("/v1/status").ok()["tid"].as_u64().unwrap()
    }
}

impl Response {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as a document.
    pub fn json(&self) -> Json {
        document(self.text())
    }

    /// The body as a document a line.
    pub fn lines(&self) -> Vec<Json> {
        self.text().lines().map(document).collect()
    }

    /// The document, if the status says that all went well.
    pub fn ok(&self) -> Json {
        assert!((200..300).contains(&self.status), "HTTP {}: {}", self.status, self.text());
        self.json()
    }

    /// The problem, if this is one (RFC 9457) of this status and code.
    pub fn problem(&self, status: u16, code: &str) -> Json {
        let problem = self.json();
        let found = (self.status, problem["code"].as_str().unwrap_or("none"));
        assert_eq!(found, (status, code), "{problem}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:theseus:error:{code}"));
        for text in ["title", "detail"] {
            assert!(problem[text].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        problem
    }
}

fn write_request(
    stream: &mut Stream,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<()> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: theseus\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    if !matches!(method, "GET" | "DELETE") {
        request += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    }
    request += "\r\n";
    // One write, so that a connection that breaks has taken the whole request or is known to have not.
    stream.write_all(&[request.as_bytes(), body].concat())?;
    stream.flush()
}

fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 || !line.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}

fn read_head(from: &mut impl BufRead) -> io::Result<(u16, Vec<(String, String)>)> {
    let line = read_line(from)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("not a status line of HTTP: {line:?}"));
    let mut headers = Vec::new();
    loop {
        let line = read_line(from)?;
        let Some((name, value)) = line.split_once(':') else { return Ok((status, headers)) };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn length_of(headers: &[(String, String)]) -> Length {
    let header = |wanted| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    match (header("transfer-encoding"), header("content-length")) {
        (Some("chunked"), _) => Length::Chunks,
        (_, Some(bytes)) => Length::Bytes(bytes.parse().unwrap()),
        _ => Length::Close,
    }
}

/// Appends a chunk; false at the end of the body.
fn read_chunk(from: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<bool> {
    let line = read_line(from)?;
    let bytes = u64::from_str_radix(&line, 16).unwrap_or_else(|_| panic!("not the length of a chunk: {line:?}"));
    let before = body.len();
    from.take(bytes).read_to_end(body)?;
    if body.len() - before < bytes as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    read_line(from)?;
    Ok(bytes > 0)
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(buffer),
            Stream::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.flush(),
            Stream::Unix(stream) => stream.flush(),
        }
    }
}
