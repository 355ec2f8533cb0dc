//! A host that enemies are brought into while a client works, and that has to be unharmed in the end.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use theseus_tests::{
    Client, Home, Host, Json, Watched, artifacts, fixtures, home::plain_command, host::log_file, http::Response, json,
    load::Load, process, until_some,
};

/// The method of an enemy that does what it is there for.
pub(crate) const STRIKE: &str = "strike";

/// A running host with a counter under load, and two objects of the plugin that enemies pretend to be the next version of:
/// `enemy`, which they have to do with, and `bystander`, which they have not.
pub(crate) struct Arena {
    pub(crate) home: Home,
    pub(crate) client: Client,
    server: Server,
    load: Load,
    /// How often the bystander was struck.
    struck: i64,
    /// How often the host was started.
    incarnation: u64,
}

/// Who keeps the host.
enum Server {
    Alone(Host),
    Watched(Watched),
}

/// How much memory a watched host may take, in bytes.
const MEMORY_MAX: u64 = 1 << 30;

impl Arena {
    /// A host with these settings, which has to live through it all.
    pub(crate) fn new(settings: &str) -> Arena {
        let home = Home::with_settings(settings);
        // By a path that would lead elsewhere from any other folder.
        let host = Host::start_with(&home, |command| {
            *command = plain_command();
            command.current_dir(home.path()).args(["--home", ".", "run"]);
            command.env("THESEUS_FIXTURE_TOUCH", home.beside("touched"));
        });
        let address = host.address();
        Arena::begin(home, address, Server::Alone(host), 1)
    }

    /// A host that is started again whenever it ends, and whose memory is bounded.
    pub(crate) fn watched(settings: &str) -> Arena {
        let home = Home::with_settings(settings);
        let options = ["--ping-timeout-s=4", "--stop-timeout-s=2", "--stable-s=0"];
        let watched = Watched::start(&home, &options);
        // Each host inherits it from the watchdog: the next one will have it.
        let limit = Rlimit { current: Some(MEMORY_MAX), maximum: Some(MEMORY_MAX) };
        let watchdog = i32::try_from(watched.pid()).ok().and_then(Pid::from_raw);
        prlimit(watchdog, Resource::Data, limit).unwrap();
        watched.kill_host();
        watched.incarnation(&home, 2);
        let address = watched.address();
        Arena::begin(home, address, Server::Watched(watched), 2)
    }

    /// Brings in the counter and the well-behaved plugin, and makes their objects.
    fn begin(home: Home, address: SocketAddr, server: Server, incarnation: u64) -> Arena {
        let mut client = Client::tcp(address);
        home.swap(&[&artifacts::plugin("counter"), &fixtures::enemy("well")]);
        client.create("counter.Counter", "visits");
        client.create("enemy.Enemy", "enemy");
        client.create("enemy.Enemy", "bystander");
        let load = Load::gentle(address, "visits");
        Arena { home, client, server, load, struck: 0, incarnation }
    }

    /// The host's process.
    pub(crate) fn host(&self) -> u32 {
        match &self.server {
            Server::Alone(host) => host.pid(),
            Server::Watched(watched) => until_some("a host under the watchdog", || watched.host()),
        }
    }

    /// What host and watchdog have printed.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(log_file(&self.home)).unwrap()
    }

    /// The file that enemies make that get to it.
    pub(crate) fn touched(&self) -> PathBuf {
        self.home.beside("touched")
    }

    /// Waits until the host was started again.
    pub(crate) fn restarted(&mut self) {
        self.incarnation += 1;
        let Server::Watched(watched) = &self.server else { panic!("nobody starts this host again") };
        watched.incarnation(&self.home, self.incarnation);
        self.client = watched.client();
    }

    /// Offers a file to `theseus swap`, which has to refuse it and to leave everything as it was; gives what it says.
    pub(crate) fn refused(&mut self, file: &Path) -> String {
        let look = |arena: &mut Arena| {
            let status = arena.client.get("/v1/status").ok();
            (status["incarnation"].clone(), arena.plugins("active"), process::plugin_images(arena.host()))
        };
        let before = look(self);
        let message = self.home.cli(&["swap", "--irreversible", file.to_str().unwrap()]).failed(4);
        assert_eq!(look(self), before, "{} was refused and has changed something", file.display());
        message
    }

    /// The same for an enemy.
    pub(crate) fn refused_enemy(&mut self, name: &str) -> String {
        self.refused(&fixtures::enemy(name))
    }

    /// Swaps an enemy in; gives what is said to that.
    pub(crate) fn admit(&mut self, name: &str) -> String {
        self.home.run(&["swap", fixtures::enemy(name).to_str().unwrap()])
    }

    /// Sends a message to the enemy's object.
    pub(crate) fn send(&mut self, method: &str) -> Response {
        self.client.post(&format!("/v1/objects/enemy/{method}"), &json!([]))
    }

    /// Sends the enemy's message with a request id; none if the host ended before it could answer.
    pub(crate) fn strike_once(&mut self, id: &str) -> Option<Response> {
        let headers = [("Idempotency-Key", id)];
        let answer = self.client.send("POST", "/v1/objects/enemy/strike", &headers, b"[]").ok()?;
        // What a host says whose engine is gone, in its last moment.
        (answer.status != 503).then_some(answer)
    }

    /// Sends a message that has to fail; gives what the client is told.
    pub(crate) fn fails(&mut self, method: &str, status: u16, code: &str) -> String {
        let problem = self.send(method).problem(status, code);
        format!("HTTP {status} {code}: {} ", problem["detail"].as_str().unwrap())
    }

    /// The plugins in a state.
    pub(crate) fn plugins(&mut self, state: &str) -> Vec<Json> {
        let mut plugins = self.client.get("/v1/plugins").ok()["plugins"].as_array().unwrap().clone();
        plugins.retain(|plugin| plugin["state"] == state);
        plugins
    }

    /// The plugins that stay in memory, once none is on its way any more.
    pub(crate) fn pinned(&mut self) -> Vec<Json> {
        until_some("the replaced plugins to be gone or pinned", || {
            self.plugins("draining").is_empty().then(|| self.plugins("pinned"))
        })
    }

    /// Whether the well-behaved plugin is in force.
    pub(crate) fn is_relieved(&mut self) -> bool {
        let well = blake3::hash(&fs::read(fixtures::enemy("well")).unwrap()).to_string();
        self.plugins("active").iter().any(|plugin| plugin["digest"] == well.as_str())
    }

    /// Puts the well-behaved plugin in force, if it is not.
    pub(crate) fn relieve(&mut self) {
        self.home.run(&["swap", fixtures::enemy("well").to_str().unwrap()]);
    }

    /// Does the same where the host ends over it, perhaps before it can say that it is done.
    pub(crate) fn relieve_from_death(&mut self) {
        let swapped = self.home.cli(&["swap", fixtures::enemy("well").to_str().unwrap()]);
        if swapped.code != 0 {
            let message = swapped.failed(1);
            assert!(message.contains("connection_lost"), "{message}");
        }
        self.restarted();
        assert!(self.is_relieved(), "the swap was committed before its plugin was replaced");
    }

    /// The first line with a text that the host has logged since it had logged `before` bytes.
    pub(crate) fn logged(&self, before: usize, text: &str) -> String {
        until_some(&format!("`{text}` in the log"), || {
            let log = self.log()[before..].to_owned();
            log.split_inclusive('\n').find(|line| line.ends_with('\n') && line.contains(text)).map(str::to_owned)
        })
    }

    /// The host works as before.
    pub(crate) fn assert_unharmed(&mut self, after: &str) {
        self.relieve();
        self.struck += 1;
        assert_eq!(self.client.call("bystander", STRIKE, &json!([])), self.struck, "after `{after}`");
        assert_eq!(self.client.call("bystander", "look", &json!([])), self.struck, "after `{after}`");
        let status = self.client.get("/v1/status").ok();
        assert_eq!(
            (&status["healthy"], &status["incarnation"]),
            (&json!(true), &json!(self.incarnation)),
            "after `{after}`"
        );
    }

    /// Ends everything: each request was answered - at once, if the host lived through it all - and done exactly once, and the identity is whole.
    pub(crate) fn close(mut self) {
        let report = self.load.finish();
        assert_eq!(report.refused, 0, "somebody could not connect");
        let count = self.client.call("visits", "count", &json!([])).as_i64().unwrap();
        match self.server {
            Server::Alone(host) => {
                assert_eq!(report.broken, 0, "requests had to be sent again");
                host.stop();
            }
            Server::Watched(watched) => watched.stop(),
        }
        report.assert_exactly_once(count);
        self.home.verify();
    }
}
