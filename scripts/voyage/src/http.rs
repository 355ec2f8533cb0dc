//! A small blocking HTTP/1.1 client for one address, TCP or a Unix socket, with keep-alive.
//!
//! Its one purpose beyond sending requests is to tell three things apart that most clients blur: a connection that was
//! *refused* (nothing was sent), a connection that *broke* before the whole answer came (the request may or may not have
//! been executed), and an *answer*, whatever its status. Only the second is a reason to send a request again, and nothing in
//! here does so by itself.

use std::{
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

/// The longest line of a response head, in bytes.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// The most header lines of a response.
const HEADERS_MAX: usize = 100;
/// The longest body that is read, in bytes.
const BODY_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Where a host listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// For applications.
    Tcp(SocketAddr),
    /// For control.
    Unix(PathBuf),
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address::Tcp(address)
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Address::Unix(path)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

/// A request. The target is an absolute path with its query, already percent-encoded.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `GET`, `POST`, ...
    pub verb: &'a str,
    /// The path and query.
    pub target: &'a str,
    /// Sent as `Idempotency-Key`: the server executes a request once per key.
    pub key: Option<&'a str>,
    /// Sent as `Content-Type` if there is a body.
    pub content_type: &'a str,
    /// The body; empty for none.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// A `GET` without body.
    pub fn get(target: &'a str) -> Self {
        Request { verb: "GET", target, key: None, content_type: "application/json", body: &[] }
    }

    /// A `POST` of a JSON body.
    pub fn post(target: &'a str, key: Option<&'a str>, body: &'a [u8]) -> Self {
        Request { verb: "POST", target, key, content_type: "application/json", body }
    }
}

/// A whole answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, decoded from its transfer coding.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(thiserror::Error, Debug)]
pub enum SendError {
    /// The connection could not be made; nothing was sent.
    #[error("no connection to {address}: {source}; is the host running?")]
    Refused {
        /// Who was to be reached.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// The connection broke, or fell silent, before the whole answer came. The request may have been executed: send it again
    /// under the same key to find out.
    #[error("the connection to {address} broke before the whole answer came: {source}")]
    Broken {
        /// Who was being talked to.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// What came back is not HTTP/1.1.
    #[error("{address} does not speak HTTP/1.1: {problem}")]
    Malformed {
        /// Who was being talked to.
        address: Address,
        /// What is wrong with it.
        problem: String,
    },
}

/// What is given the pieces of a body: the status of the answer, and the bytes.
pub type Take<'a> = dyn FnMut(u16, &[u8]) + 'a;

/// How long the client waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waits {
    /// For a connection.
    pub connect: Duration,
    /// For the next bytes of an answer. It covers a whole restart of the host behind a listener that is held open.
    pub answer: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Waits { connect: Duration::from_secs(5), answer: Duration::from_secs(60) }
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A client of one address, which keeps one connection open between requests.
#[derive(Debug)]
pub struct Client {
    address: Address,
    waits: Waits,
    connection: Option<BufReader<Stream>>,
    head: Vec<u8>,
}

impl Client {
    /// A client that connects when it first sends.
    pub fn new(address: impl Into<Address>, waits: Waits) -> Self {
        Client { address: address.into(), waits, connection: None, head: Vec::new() }
    }

    /// The address it talks to.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Sends a request once and reads the whole answer.
    pub fn send(&mut self, request: &Request<'_>) -> Result<Answer, SendError> {
        self.post(request)?;
        let mut body = Vec::new();
        let status = self.receive(&mut |_, bytes| body.extend_from_slice(bytes))?;
        Ok(Answer { status, body })
    }

    /// Sends a request once without waiting for its answer, which [`receive`](Self::receive) then has to read.
    ///
    /// A request is written to a new connection if the previous one has ended. An end that the system has not reported yet
    /// shows as [`SendError::Broken`], here or when the answer is read.
    pub fn post(&mut self, request: &Request<'_>) -> Result<(), SendError> {
        let mut reader = match self.connection.take() {
            Some(reader) => reader,
            None => BufReader::with_capacity(64 * 1024, self.connect()?),
        };
        self.head.clear();
        let head = &mut self.head;
        write!(head, "{} {} HTTP/1.1\r\n", request.verb, request.target).expect("memory takes writes");
        match &self.address {
            Address::Tcp(address) => write!(head, "Host: {address}\r\n"),
            Address::Unix(_) => write!(head, "Host: theseus\r\n"),
        }
        .expect("memory takes writes");
        if let Some(key) = request.key {
            write!(head, "Idempotency-Key: {key}\r\n").expect("memory takes writes");
        }
        if !request.body.is_empty() || request.verb != "GET" {
            write!(head, "Content-Type: {}\r\nContent-Length: {}\r\n", request.content_type, request.body.len())
                .expect("memory takes writes");
        }
        head.extend_from_slice(b"\r\n");
        // One write for small requests: a head and a body in two segments would wait for each other's acknowledgement.
        head.extend_from_slice(request.body);
        let broken = |source| SendError::Broken { address: self.address.clone(), source };
        reader.get_mut().write_all(head).map_err(broken)?;
        self.connection = Some(reader);
        Ok(())
    }

    /// Reads the answer to the request that was posted last, and returns its status. The body goes piece by piece to `take`,
    /// each time with the status.
    ///
    /// What `take` was given before a [`SendError::Broken`] did arrive, so a line of it that is whole is an answer.
    ///
    /// # Panics
    ///
    /// If no request was posted.
    pub fn receive(&mut self, take: &mut Take<'_>) -> Result<u16, SendError> {
        let mut reader = self.connection.take().expect("a request was posted before its answer is read");
        let whole = read_answer(&mut reader, take).map_err(|trouble| match trouble {
            Trouble::Io(source) => SendError::Broken { address: self.address.clone(), source },
            Trouble::Form(problem) => SendError::Malformed { address: self.address.clone(), problem },
        })?;
        if whole.keep_alive {
            self.connection = Some(reader);
        }
        Ok(whole.status)
    }

    fn connect(&self) -> Result<Stream, SendError> {
        self.connected().map_err(|source| SendError::Refused { address: self.address.clone(), source })
    }

    fn connected(&self) -> io::Result<Stream> {
        let wait = Some(self.waits.answer);
        match &self.address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, self.waits.connect)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(wait)?;
                stream.set_write_timeout(wait)?;
                Ok(Stream::Tcp(stream))
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(wait)?;
                stream.set_write_timeout(wait)?;
                Ok(Stream::Unix(stream))
            }
        }
    }
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

enum Trouble {
    Io(io::Error),
    Form(String),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Io(error)
    }
}

struct Whole {
    status: u16,
    keep_alive: bool,
}

enum Framing {
    Nothing,
    Length(u64),
    Chunks,
    UntilEnd,
}

fn read_answer(reader: &mut impl BufRead, take: &mut Take<'_>) -> Result<Whole, Trouble> {
    let mut line = String::new();
    let status = loop {
        read_line(reader, &mut line)?;
        let status = parse_status(&line)?;
        if status >= 200 {
            break status;
        }
        // An interim answer (RFC 9110, section 15.2) has a head of its own and no body.
        while !line.is_empty() {
            read_line(reader, &mut line)?;
        }
    };
    let mut framing = Framing::UntilEnd;
    let mut keep_alive = true;
    for count in 0.. {
        read_line(reader, &mut line)?;
        if line.is_empty() {
            break;
        }
        if count >= HEADERS_MAX {
            return Err(Trouble::Form(format!("more than {HEADERS_MAX} header lines")));
        }
        let Some((name, value)) = line.split_once(':') else {
            return Err(Trouble::Form(format!("a header line without a colon: {line:?}")));
        };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().map_err(|_| Trouble::Form(format!("Content-Length {value:?}")))?;
            framing = Framing::Length(length);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case("chunked") {
                return Err(Trouble::Form(format!("Transfer-Encoding {value:?}")));
            }
            framing = Framing::Chunks;
        } else if name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
            keep_alive = false;
        }
    }
    if status == 204 || status == 304 {
        framing = Framing::Nothing;
    }
    match framing {
        Framing::Nothing => {}
        Framing::Length(length) => copy(reader, length, &mut |bytes| take(status, bytes))?,
        Framing::Chunks => read_chunks(reader, &mut |bytes| take(status, bytes))?,
        Framing::UntilEnd => {
            keep_alive = false;
            read_until_end(reader, &mut |bytes| take(status, bytes))?;
        }
    }
    Ok(Whole { status, keep_alive })
}

fn parse_status(line: &str) -> Result<u16, Trouble> {
    let mut words = line.split(' ');
    let version = words.next().unwrap_or_default();
    let status = words.next().and_then(|word| word.parse().ok()).filter(|status| (100..600).contains(status));
    match status {
        Some(status) if version == "HTTP/1.1" => Ok(status),
        _ => Err(Trouble::Form(format!("the status line is {line:?}"))),
    }
}

/// Reads a line without its end; an empty line stands for the end of a head.
fn read_line(reader: &mut impl BufRead, line: &mut String) -> Result<(), Trouble> {
    line.clear();
    let mut bytes = Vec::new();
    reader.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut bytes)?;
    if bytes.last() != Some(&b'\n') {
        if bytes.len() == LINE_BYTES_MAX {
            return Err(Trouble::Form(format!("a head line longer than {LINE_BYTES_MAX} bytes")));
        }
        return Err(Trouble::Io(ErrorKind::UnexpectedEof.into()));
    }
    bytes.pop();
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    *line = String::from_utf8(bytes).map_err(|_| Trouble::Form("a head line is not UTF-8".to_owned()))?;
    Ok(())
}

fn read_chunks(reader: &mut impl BufRead, take: &mut dyn FnMut(&[u8])) -> Result<(), Trouble> {
    let mut line = String::new();
    let mut total = 0_u64;
    loop {
        read_line(reader, &mut line)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let length =
            u64::from_str_radix(digits, 16).map_err(|_| Trouble::Form(format!("a chunk of length {digits:?}")))?;
        if length == 0 {
            break;
        }
        total = total.saturating_add(length);
        if total > BODY_BYTES_MAX {
            return Err(Trouble::Form(format!("a body longer than {BODY_BYTES_MAX} bytes")));
        }
        copy(reader, length, take)?;
        read_line(reader, &mut line)?;
        if !line.is_empty() {
            return Err(Trouble::Form("a chunk longer than its length".to_owned()));
        }
    }
    // The trailer section ends with an empty line, like a head.
    loop {
        read_line(reader, &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
    }
}

fn copy(reader: &mut impl BufRead, length: u64, take: &mut dyn FnMut(&[u8])) -> Result<(), Trouble> {
    if length > BODY_BYTES_MAX {
        return Err(Trouble::Form(format!("a body longer than {BODY_BYTES_MAX} bytes")));
    }
    let mut left = length;
    while left > 0 {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Err(Trouble::Io(ErrorKind::UnexpectedEof.into()));
        }
        let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        take(&bytes[..count]);
        reader.consume(count);
        left -= count as u64;
    }
    Ok(())
}

fn read_until_end(reader: &mut impl BufRead, take: &mut dyn FnMut(&[u8])) -> Result<(), Trouble> {
    let mut total = 0_u64;
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        total += bytes.len() as u64;
        if total > BODY_BYTES_MAX {
            return Err(Trouble::Form(format!("a body longer than {BODY_BYTES_MAX} bytes")));
        }
        let count = bytes.len();
        take(bytes);
        reader.consume(count);
    }
}

/// Percent-encodes one segment of a path (RFC 3986, section 3.3), slashes included.
pub fn encode_segment(segment: &str) -> String {
    let mut encoded = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    fn waits() -> Waits {
        Waits { connect: Duration::from_secs(2), answer: Duration::from_secs(2) }
    }

    /// Serves the given raw answers, one a request, then closes the connection.
    fn serve(answers: Vec<&'static [u8]>) -> (SocketAddr, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut seen = Vec::new();
            for answer in answers {
                let mut head = String::new();
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if let Some(value) = line.strip_prefix("Content-Length: ") {
                        length = value.trim().parse().unwrap();
                    }
                    head.push_str(&line);
                    if line == "\r\n" {
                        break;
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                seen.push(head + std::str::from_utf8(&body).unwrap());
                reader.get_mut().write_all(answer).unwrap();
            }
            seen
        });
        (address, server)
    }

    #[test]
    fn keeps_a_connection_and_reads_both_framings() {
        let (address, server) = serve(vec![
            b"HTTP/1.1 201 Created\r\nContent-Length: 8\r\n\r\n{\"id\":7}",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
        ]);
        let mut client = Client::new(address, waits());
        let made = client.send(&Request::post("/v1/objects", Some("key-1"), b"{}")).unwrap();
        assert_eq!((made.status, made.body.as_slice()), (201, &b"{\"id\":7}"[..]));
        let read = client.send(&Request::get("/x")).unwrap();
        assert_eq!((read.status, read.body.as_slice()), (200, &b"abcde"[..]));
        assert_eq!(client.send(&Request::get("/y")).unwrap().status, 204);
        let seen = server.join().unwrap();
        assert!(seen[0].contains("Idempotency-Key: key-1\r\n") && seen[0].ends_with("\r\n\r\n{}"), "{seen:?}");
        assert!(seen[1].starts_with("GET /x HTTP/1.1\r\n") && !seen[1].contains("Content-Length"), "{seen:?}");
    }

    #[test]
    fn a_half_answer_is_a_broken_connection() {
        for half in [&b"HTTP/1.1 20"[..], b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", b"", b"HTTP/1.1 200 OK\r\n"]
        {
            let (address, server) = serve(vec![half]);
            let error = Client::new(address, waits()).send(&Request::get("/")).unwrap_err();
            assert!(matches!(error, SendError::Broken { .. }), "{error}");
            server.join().unwrap();
        }
        let (address, server) =
            serve(vec![b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n4\r\ntw"]);
        let mut client = Client::new(address, waits());
        client.post(&Request::get("/")).unwrap();
        let mut came = Vec::new();
        let error = client.receive(&mut |_, bytes| came.extend_from_slice(bytes)).unwrap_err();
        assert!(matches!(error, SendError::Broken { .. }), "{error}");
        assert_eq!(came, b"one\ntw", "what arrived before the break is handed over");
        server.join().unwrap();
    }

    #[test]
    fn a_closed_port_is_refused_and_nonsense_is_malformed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = Client::new(address, waits()).send(&Request::get("/")).unwrap_err();
        assert!(matches!(error, SendError::Refused { .. }), "{error}");
        let (address, server) = serve(vec![b"SSH-2.0-OpenSSH_9.2\r\n"]);
        let error = Client::new(address, waits()).send(&Request::get("/")).unwrap_err();
        assert!(matches!(error, SendError::Malformed { .. }), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn an_answer_that_does_not_come_is_a_broken_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let short = Waits { answer: Duration::from_millis(50), ..waits() };
        let error = Client::new(listener.local_addr().unwrap(), short).send(&Request::get("/")).unwrap_err();
        assert!(matches!(error, SendError::Broken { .. }), "{error}");
    }

    #[test]
    fn segments_are_encoded() {
        assert_eq!(encode_segment("carrier/UA é~"), "carrier%2FUA%20%C3%A9~");
    }
}
