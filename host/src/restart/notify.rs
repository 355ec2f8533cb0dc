//! What the host tells its supervisor, by the protocol of `sd_notify(3)`.

use std::{
    env, io,
    os::unix::net::{SocketAddr, UnixDatagram},
    time::Duration,
};

/// Sends messages to the supervisor, if there is one.
///
/// A report that cannot be delivered is logged and otherwise ignored: it never changes what the host does.
#[derive(Debug)]
pub struct Notifier {
    target: Option<(UnixDatagram, SocketAddr)>,
    ping_interval: Option<Duration>,
}

/// `NOTIFY_SOCKET` or `WATCHDOG_USEC` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NotifierError {
    /// The socket's name is not one.
    #[error("NOTIFY_SOCKET is `{value}`, which is neither a path nor an abstract name: {source}")]
    Address {
        /// What it holds.
        value: String,
        /// What the system said.
        source: io::Error,
    },
    /// No socket to send from.
    #[error("cannot make a socket to notify the supervisor with: {source}")]
    Socket {
        /// What the system said.
        source: io::Error,
    },
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`. Without them, nothing will be sent.
    ///
    /// # Errors
    ///
    /// If a supervisor is named that cannot be reached in any way.
    pub fn from_env() -> Result<Notifier, NotifierError> {
        let value = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let ours = value("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let timeout_us = value("WATCHDOG_USEC").and_then(|text| text.parse::<u64>().ok()).filter(|us| ours && *us > 0);
        let mut notifier = Notifier::to(value("NOTIFY_SOCKET").as_deref())?;
        notifier.ping_interval = timeout_us.map(|us| Duration::from_micros(us / 2));
        Ok(notifier)
    }

    /// A notifier to the socket of this name: a path, or `@` and an abstract name; none sends nothing.
    ///
    /// # Errors
    ///
    /// If the name is not usable, or no socket can be made.
    pub fn to(name: Option<&str>) -> Result<Notifier, NotifierError> {
        let Some(name) = name else { return Ok(Notifier { target: None, ping_interval: None }) };
        let address = address(name).map_err(|source| NotifierError::Address { value: name.to_owned(), source })?;
        let socket = UnixDatagram::unbound().and_then(|socket| {
            // A supervisor that does not read must not stop the host.
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        let socket = socket.map_err(|source| NotifierError::Socket { source })?;
        Ok(Notifier { target: Some((socket, address)), ping_interval: None })
    }

    /// Whether anybody listens.
    pub fn is_supervised(&self) -> bool {
        self.target.is_some()
    }

    /// How often [`ping`](Self::ping) is expected, with a margin of two; none if it is not.
    pub fn ping_interval(&self) -> Option<Duration> {
        self.ping_interval
    }

    /// `READY=1`: the host answers requests.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// `STOPPING=1`: the host has begun to drain.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// `WATCHDOG=1`: the host works. Send it only when that has been found out.
    pub fn ping(&self) {
        self.send("WATCHDOG=1");
    }

    /// `STATUS=...`: one line for people; line breaks become spaces.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", text.replace(['\n', '\r'], " ")));
    }

    /// `EXTEND_TIMEOUT_USEC=...`: starting or stopping takes at least this long from now on.
    pub fn extend_timeout(&self, time: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", time.as_micros()));
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.target else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            log::warn!("the supervisor could not be told `{message}`: {error}");
        }
    }
}

fn address(name: &str) -> io::Result<SocketAddr> {
    // Names without a file are an invention of Linux.
    #[cfg(target_os = "linux")]
    if let Some(name) = name.strip_prefix('@') {
        return <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name);
    }
    SocketAddr::from_pathname(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_by_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::to(Some(path.to_str().unwrap())).unwrap();
        notifier.ready();
        notifier.status("two\nlines");
        notifier.extend_timeout(Duration::from_millis(5));
        let mut buffer = [0; 64];
        for expected in ["READY=1", "STATUS=two lines", "EXTEND_TIMEOUT_USEC=5000"] {
            let length = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], expected.as_bytes());
        }
    }

    #[test]
    fn without_a_supervisor_nothing_happens() {
        let notifier = Notifier::to(None).unwrap();
        assert!(!notifier.is_supervised());
        notifier.ready();
        assert!(matches!(Notifier::to(Some(&"x".repeat(200))), Err(NotifierError::Address { .. })));
        // A supervisor that went away is not the host's trouble.
        Notifier::to(Some("@theseus-nobody-listens-here")).unwrap().ready();
    }
}
