//! The protocol of `sd_notify(3)`, both ways: what hosts tell the watchdog, and what it tells its own supervisor.

use std::{
    env,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    time::{Duration, Instant},
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};

/// One thing that a host said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Message {
    /// It answers requests.
    Ready,
    /// It has begun to stop.
    Stopping,
    /// It works.
    Ping,
    /// It needs this much time from now on.
    ExtendTimeout(Duration),
    /// A line for people.
    Status(String),
}

/// Receives what hosts say.
#[derive(Debug)]
pub(crate) struct Inbox {
    socket: UnixDatagram,
    name: String,
}

impl Inbox {
    /// Makes the socket, under an abstract name: it disappears with the watchdog and has no path that could be too
    /// long.
    pub(crate) fn open() -> io::Result<Inbox> {
        let name = format!("theseus-watchdog-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        socket.set_nonblocking(true)?;
        // Anybody may send to an abstract name; the kernel tells who it was.
        sockopt::set_socket_passcred(&socket, true)?;
        Ok(Inbox { socket, name: format!("@{name}") })
    }

    /// The value for `NOTIFY_SOCKET`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What the process `sender` has said since the last time. What others say is dropped.
    pub(crate) fn receive(&self, sender: Option<u32>) -> io::Result<Vec<Message>> {
        let mut messages = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let received =
                recvmsg(&self.socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::DONTWAIT);
            let length = match received {
                Ok(received) => received.bytes,
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(messages),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let from = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid.as_raw_nonzero().get()),
                _ => None,
            });
            if sender.is_some() && from.map(|pid| pid as u32) == sender {
                messages.extend(String::from_utf8_lossy(&buffer[..length]).lines().filter_map(parse));
            } else {
                log::debug!("a message from process {from:?}, which is not the host, is dropped");
            }
        }
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn parse(line: &str) -> Option<Message> {
    match line.split_once('=')? {
        ("READY", "1") => Some(Message::Ready),
        ("STOPPING", "1") => Some(Message::Stopping),
        ("WATCHDOG", "1") => Some(Message::Ping),
        ("EXTEND_TIMEOUT_USEC", time_us) => time_us.parse().ok().map(Duration::from_micros).map(Message::ExtendTimeout),
        ("STATUS", text) => Some(Message::Status(text.to_owned())),
        _ => None,
    }
}

/// Tells the watchdog's own supervisor, if it has one, how things stand. A report that is not delivered changes
/// nothing.
#[derive(Debug)]
pub(crate) struct Upstream {
    target: Option<(UnixDatagram, SocketAddr)>,
    ping_interval: Option<Duration>,
    pinged: Instant,
    ready: bool,
}

impl Upstream {
    /// Reads `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    pub(crate) fn from_env() -> io::Result<Upstream> {
        let value = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let target = match value("NOTIFY_SOCKET") {
            None => None,
            Some(name) => {
                let address = match name.strip_prefix('@') {
                    Some(name) => SocketAddr::from_abstract_name(name)?,
                    None => SocketAddr::from_pathname(&name)?,
                };
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                Some((socket, address))
            }
        };
        let ours = value("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let timeout_us = value("WATCHDOG_USEC").and_then(|text| text.parse::<u64>().ok()).filter(|_| ours);
        let ping_interval = timeout_us.map(|us| Duration::from_micros(us / 2));
        Ok(Upstream { target, ping_interval, pinged: Instant::now(), ready: false })
    }

    /// The host answers: `READY=1`, once.
    pub(crate) fn ready(&mut self) {
        if !self.ready {
            self.ready = true;
            self.send("READY=1");
        }
    }

    /// The watchdog stops.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// A line for people.
    pub(crate) fn status(&self, text: &str) {
        self.send(&format!("STATUS={text}"));
    }

    /// Sends `WATCHDOG=1` if it is time to.
    pub(crate) fn ping(&mut self) {
        if self.ping_interval.is_some_and(|interval| self.pinged.elapsed() >= interval) {
            self.pinged = Instant::now();
            self.send("WATCHDOG=1");
        }
    }

    fn send(&self, message: &str) {
        let Some((socket, address)) = &self.target else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            log::debug!("the supervisor could not be told `{message}`: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_host_is_listened_to() {
        let inbox = Inbox::open().unwrap();
        let address = SocketAddr::from_abstract_name(&inbox.name()[1..]).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        let text = "READY=1\nSTATUS=two words\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=1500\nSTOPPING=1\nREADY=0\nother";
        let expected = [
            Message::Ready,
            Message::Status("two words".into()),
            Message::Ping,
            Message::ExtendTimeout(Duration::from_micros(1500)),
            Message::Stopping,
        ];
        socket.send_to_addr(text.as_bytes(), &address).unwrap();
        assert_eq!(inbox.receive(Some(std::process::id())).unwrap(), expected);
        for sender in [None, Some(1)] {
            socket.send_to_addr(text.as_bytes(), &address).unwrap();
            assert_eq!(inbox.receive(sender).unwrap(), []);
        }
    }
}
