//! A running host.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, ExitStatus},
};

use serde_json::Value as Json;

use crate::{
    artifacts,
    home::Home,
    http::Client,
    process::{Process, Signal},
    until_some,
};

/// A `theseus run` of a home. It is killed when the value goes.
#[derive(Debug)]
pub struct Host {
    process: Process,
    address: SocketAddr,
}

impl Host {
    /// Starts a host and waits until it answers.
    pub fn start(home: &Home) -> Host {
        Host::start_with(home, |_| {})
    }

    /// The same with a command that is changed before.
    pub fn start_with(home: &Home, prepare: impl FnOnce(&mut Command)) -> Host {
        let mut process = Host::spawn(home, prepare);
        let address = until_some("the host's first answer", || {
            if let Some(status) = process.ended() {
                panic!("the host ended with {status}");
            }
            http_address(home)
        });
        Host { process, address }
    }

    /// Starts a host without waiting for anything.
    pub fn spawn(home: &Home, prepare: impl FnOnce(&mut Command)) -> Process {
        let mut command = home.command(&["run"]);
        prepare(&mut command);
        Process::start(&mut command, &log_file(home))
    }

    /// Where applications connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client for applications.
    pub fn client(&self) -> Client {
        Client::tcp(self.address)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Stops it in order.
    pub fn stop(mut self) {
        let status = self.end();
        assert_eq!(status.code(), Some(0), "the host did not stop in order: {status}");
    }

    /// Tells it to stop and waits for its end.
    pub fn end(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait()
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) {
        self.process.kill();
    }
}

/// A running host with an example plugin, and a client.
pub fn with_plugin(plugin: &str) -> (Home, Host, Client) {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&artifacts::plugin(plugin)]);
    let client = host.client();
    (home, host, client)
}

/// Where the logs of a home's processes go.
pub fn log_file(home: &Home) -> PathBuf {
    let path = home.beside("log");
    if !path.exists() {
        fs::write(&path, "").unwrap();
    }
    path
}

/// Where the host of a home serves applications, if one runs and answers.
pub fn http_address(home: &Home) -> Option<SocketAddr> {
    let status = status(home)?;
    status["http"].as_str()?.parse().ok()
}

/// The status of a home's host, if one runs and answers.
pub fn status(home: &Home) -> Option<Json> {
    home.admin()
        .send("GET", "/v1/status", &[], b"")
        .ok()
        .filter(|answer| answer.status == 200)
        .map(|answer| answer.json())
}
