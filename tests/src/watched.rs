//! A host under the watchdog.

use std::{fs, net::SocketAddr, path::Path, process::Command, thread, time::Duration};

use serde_json::Value as Json;

use crate::{
    artifacts,
    home::Home,
    host::{http_address, log_file, status},
    http::Client,
    process::{self, Process, Signal},
    until_some,
};

/// A watchdog that keeps a host running. Both end when the value goes.
#[derive(Debug)]
pub struct Watched {
    watchdog: Process,
    address: SocketAddr,
}

impl Watched {
    /// Starts a watchdog and waits until its host answers. The options come after those that say home, host and address.
    pub fn start(home: &Home, options: &[&str]) -> Watched {
        let mut watchdog = Watched::spawn(home, options);
        let address = until_some("the watched host's first answer", || {
            if let Some(status) = watchdog.ended() {
                panic!("the watchdog ended with {status}");
            }
            http_address(home)
        });
        Watched { watchdog, address }
    }

    /// Starts a watchdog without waiting for anything.
    pub fn spawn(home: &Home, options: &[&str]) -> Process {
        let mut command = Command::new(artifacts::watchdog());
        for variable in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC", "RUST_BACKTRACE"] {
            command.env_remove(variable);
        }
        command.arg("--home").arg(home.path()).arg("--host").arg(artifacts::theseus());
        if !options.iter().any(|option| option.starts_with("--listen")) {
            command.arg("--listen=127.0.0.1:0");
        }
        Process::start(command.args(options), &log_file(home))
    }

    /// Where applications connect; it stays the same for all hosts.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A client for applications.
    pub fn client(&self) -> Client {
        Client::tcp(self.address)
    }

    /// The process id of the watchdog.
    pub fn pid(&self) -> u32 {
        self.watchdog.pid()
    }

    /// The process id of the host, if one runs.
    pub fn host(&self) -> Option<u32> {
        process::children(self.watchdog.pid(), "theseus").first().copied()
    }

    /// Ends the host as a crash would.
    pub fn kill_host(&self) -> u32 {
        let host = until_some("a host under the watchdog", || self.host());
        process::signal(host, Signal::KILL);
        host
    }

    /// Waits for a host of this incarnation to answer; gives its status.
    pub fn incarnation(&self, home: &Home, incarnation: u64) -> Json {
        until_some(&format!("incarnation {incarnation}"), || {
            status(home).filter(|status| status["incarnation"] == incarnation)
        })
    }

    /// Waits for the end of a restart cycle; gives its last line in the history of updates.
    pub fn outcome(&self, home: &Home, id: &str) -> Json {
        until_some(&format!("the end of update {id}"), || {
            let history = fs::read_to_string(home.file("update/history.jsonl")).unwrap_or_default();
            let lines = history.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            lines.filter_map(|line| serde_json::from_str::<Json>(line).ok()).find(|line| line["id"] == id)
        })
    }

    /// Ends the watchdog as a crash would, and waits until the host, which the kernel tells, has ended, too.
    pub fn kill(mut self) {
        let host = self.host();
        self.watchdog.kill();
        if let Some(host) = host {
            until_some("the end of the host", || process::is_gone(host).then_some(()));
        }
    }

    /// Stops the host and the watchdog in order.
    pub fn stop(self) {
        self.stop_with(|_| {});
    }

    /// The same with a request that arrives twice.
    pub fn stop_twice(self) {
        self.stop_with(|watchdog| {
            thread::sleep(Duration::from_millis(10));
            watchdog.signal(Signal::TERM);
        });
    }

    fn stop_with(mut self, meanwhile: impl FnOnce(&Process)) {
        self.watchdog.signal(Signal::TERM);
        meanwhile(&self.watchdog);
        let status = self.watchdog.wait();
        assert_eq!(status.code(), Some(0), "the watchdog did not stop in order: {status}");
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let host = self.host();
        self.watchdog.terminate(Duration::from_secs(15));
        if self.watchdog.ended().is_none()
            && let Some(host) = host
        {
            process::signal(host, Signal::KILL);
        }
    }
}

/// Writes a bundle: `host` becomes its binary, `plugins` its plugins.
pub fn bundle(folder: &Path, version: &str, epoch: u64, host: Option<&Path>, plugins: &[&Path]) {
    fs::create_dir_all(folder.join("bin")).unwrap();
    fs::create_dir_all(folder.join("plugins")).unwrap();
    let mut manifest =
        serde_json::json!({ "schema": 1, "name": "theseus", "version": version, "epoch": epoch, "plugins": [] });
    if let Some(host) = host {
        fs::copy(host, folder.join("bin/theseus")).unwrap();
        manifest["host"] = "bin/theseus".into();
    }
    for plugin in plugins {
        let name = plugin.file_name().and_then(|name| name.to_str()).unwrap();
        fs::copy(plugin, folder.join("plugins").join(name)).unwrap();
        manifest["plugins"].as_array_mut().unwrap().push(format!("plugins/{name}").into());
    }
    fs::write(folder.join("bundle.json"), manifest.to_string()).unwrap();
}
