//! The settings of a host: `theseus.toml` in its home.
//!
//! Every bound of the host is here, with its default and its unit. The text beside a setting serves twice: as its
//! documentation and as the comment in the file that `theseus init` writes. Settings left out have their defaults; a
//! setting that does not exist is an error, because a misspelt limit would otherwise silently not hold.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use theseus_abi::Capability;

use crate::home::Home;

/// Defines a section: the struct, its defaults, its comments in the file and its check.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $section:ident in $table:literal {
            $( $(#[doc = $doc:literal])+ $setting:ident: $type:ty = $default:expr, $least:expr; )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
        #[serde(deny_unknown_fields, default)]
        pub struct $section {
            $( $(#[doc = $doc])+ pub $setting: $type, )+
        }

        impl Default for $section {
            fn default() -> Self {
                $section { $( $setting: $default, )+ }
            }
        }

        impl $section {
            fn render(&self, out: &mut String) {
                $( comment(out, $about); )+
                _ = writeln!(out, "[{}]", $table);
                $(
                    $( comment(out, $doc); )+
                    setting(out, stringify!($setting), &self.$setting);
                )+
                out.push('\n');
            }

            fn check(&self) -> Result<(), Flaw> {
                $( at_least(concat!($table, ".", stringify!($setting)), &self.$setting, $least)?; )+
                Ok(())
            }
        }
    };
}

section! {
    /// The HTTP server.
    Http in "http" {
        /// Where applications connect. Not used when a supervisor hands over listening sockets.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7070)), None;
        /// The largest body of a request other than a batch, in bytes.
        request_bytes_max: usize = 8 << 20, Some(1);
        /// The longest line of a batch, in bytes.
        batch_line_bytes_max: usize = 1 << 20, Some(1);
        /// How many calls of one batch may be under way at once.
        batch_in_flight_max: usize = 4096, Some(1);
        /// How many connections may be open at once; further ones wait to be accepted.
        connections_max: usize = 512, Some(1);
        /// How long a connection may stay open without a request, in milliseconds.
        idle_ms_max: u64 = 75_000, Some(1);
        /// How long the body of a request other than a batch may take to arrive, in milliseconds.
        body_ms_max: u64 = 30_000, Some(1);
    }
}

section! {
    /// Executing messages.
    Execution in "execution" {
        /// How many commands may wait; more are refused with HTTP 429.
        queue_max: usize = 20_000, Some(1);
        /// How many queries may wait; more are refused with HTTP 429.
        query_queue_max: usize = 20_000, Some(1);
        /// How many threads execute queries.
        query_threads: usize = 2, Some(1);
        /// How many transactions may share one commit.
        batch_transactions_max: usize = 4096, Some(1);
        /// How large the history record of one commit may become, in bytes. One transaction may exceed it alone.
        batch_bytes_max: usize = 8 << 20, Some(1);
        /// How deeply messages may be sent from within messages.
        nesting_max: usize = 64, Some(1);
        /// How many objects one transaction may write.
        objects_per_transaction_max: usize = 100_000, Some(1);
        /// How many bytes of objects and names one transaction may write. Each write counts 64 bytes more.
        write_bytes_per_transaction_max: usize = 64 << 20, Some(1);
        /// How many posted messages may wait; more are refused.
        messages_waiting_max: u64 = 10_000_000, Some(1);
        /// How long one message may take before the host counts as unhealthy, in milliseconds.
        call_deadline_ms: u64 = 10_000, Some(1);
        /// How long a stopping host may take to finish the requests it has begun, in milliseconds.
        drain_ms_max: u64 = 30_000, Some(1);
    }
}

section! {
    /// Delivering posted messages.
    Messages in "messages" {
        /// How many deliveries may be under way at once: their share of the executor's queue.
        in_flight_max: usize = 1000, Some(1);
        /// How often a delivery is tried before the message is set aside.
        attempts_max: u64 = 10, Some(1);
        /// How long a message rests after its first failure, in milliseconds; twice as long after each further one ...
        retry_ms: u64 = 1000, Some(1);
        /// ... but at most so long.
        retry_ms_max: u64 = 3_600_000, Some(1);
    }
}

section! {
    /// The identity: the history and the object table.
    Identity in "identity" {
        /// The most that the history may grow to, in bytes. This is address space: no disk is taken in advance.
        history_map_bytes: usize = 256 << 30, Some(1 << 20);
        /// The most that the object table may grow to, in bytes. This is address space: no disk is taken in advance.
        objects_map_bytes: usize = 64 << 30, Some(1 << 20);
        /// The most that the identity may take on the disk, in bytes; 0 for no bound. Commands are refused a little before.
        quota_bytes: u64 = 0, None;
        /// How much of the disk has to stay free, in bytes, but no more than a twentieth of it: with less, commands are refused until
        /// there is room again. 0 for nothing.
        disk_free_bytes_min: u64 = 256 << 20, None;
        /// How many bytes a second the host verifies in the background, round after round; 0 for none.
        patrol_bytes_per_second: u64 = 2 << 20, None;
        /// How many transactions the object table may lag behind the history; they are replayed at the next start.
        tail_transactions_max: u64 = 400_000, Some(1);
        /// How many bytes of history the object table may lag behind; they are in memory until it has them.
        tail_bytes_max: u64 = 256 << 20, Some(1);
        /// How many pages of the object table one checkpoint may change. Each takes 4 kB of memory while it is under way.
        checkpoint_pages_max: u64 = 65_536, Some(64);
        /// How many objects, and how many names, stay in memory although the object table has them.
        cache_objects_max: usize = 100_000, Some(0);
        /// How many bytes of memory these objects may take.
        cache_bytes_max: usize = 64 << 20, Some(0);
        /// How long a command that reads the files beside a host may be stopped while it does, in milliseconds; then the system ends it, because the
        /// host's files would grow for as long as it is stopped.
        view_ms_max: u64 = 60_000, Some(1);
        /// How long a request id is remembered, in milliseconds, so that a request sent again is not executed again.
        request_ids_ms: u64 = 86_400_000, Some(1);
        /// How many indexes there may be. Each makes the object table larger, and checkpoints longer.
        indexes_max: usize = 64, Some(0);
        /// How many request ids are remembered at most; of more, the oldest are forgotten before their time.
        request_ids_max: usize = 1_000_000, Some(1);
        /// How many objects one step of a collection removes at most.
        collect_objects_max: usize = 256, Some(1);
        /// How long one step of a collection may keep commands waiting while it looks at objects, in microseconds.
        collect_step_us_max: u64 = 1000, Some(1);
        /// How long one segment file of a backup may become, in bytes, before the next one is begun.
        backup_segment_bytes_max: u64 = 1 << 30, Some(1);
    }
}

section! {
    /// Plugins.
    Plugins in "plugins" {
        /// The largest plugin file, in bytes.
        file_bytes_max: u64 = 256 << 20, Some(1);
        /// Which files may be swapped in: "owner" (they belong to the host's user or root, and nobody else can write them),
        /// "signed" (FILE.minisig is a signature by a key in trust/) or "any".
        trust: Trust = Trust::Owner, None;
        /// What plugins may do if they ask for it: "request_upgrade" (ask the host to upgrade itself), "threads" (keep threads of
        /// their own).
        capabilities: Vec<Capability> = vec![Capability::RequestUpgrade], None;
        /// How long a plugin is on probation after it was swapped in, in milliseconds. If it does worse than the one before, it
        /// is taken back. 0 for no probation.
        probation_ms: u64 = 60_000, None;
        /// How many errors a plugin may give on probation: panics, messages that take too long, failed migrations, and failures
        /// of a kind that the plugin before did not give.
        probation_errors_max: u64 = 10, None;
        /// How often the host may die while a plugin is on probation.
        probation_crashes_max: u64 = 2, None;
        /// How many replaced plugins that cannot be unloaded may stay in memory. Beyond that a swap is refused, and the plan asks
        /// for a restart cycle.
        pinned_max: usize = 16, Some(1);
        /// How many objects one step of the migration in the background looks at.
        migration_objects_max: usize = 64, Some(1);
        /// How long one step of the migration in the background may keep commands waiting, in microseconds. An object that has
        /// been begun is finished.
        migration_step_us_max: u64 = 500, Some(1);
        /// How long the migration in the background rests before each step, in milliseconds.
        migration_rest_ms: u64 = 0, None;
        /// How long a plugin may take in the process in which it is tried before a swap, in milliseconds.
        probe_ms_max: u64 = 10_000, Some(1);
        /// How much address space that process gets, in bytes.
        probe_memory_bytes_max: u64 = 1 << 30, Some(256 << 20);
        /// How much it may print, in bytes.
        probe_output_bytes_max: u64 = 1 << 20, Some(1);
        /// How many real objects of each behaviour and schema version are migrated there.
        probe_samples: u64 = 200, Some(0);
        /// How many transactions of the history a rehearsal looks at, in search of those that it executes.
        rehearsal_transactions_max: u64 = 1_000_000, Some(1);
        /// How long a rehearsal may take, in milliseconds; what it has found by then is told.
        rehearsal_ms_max: u64 = 600_000, Some(1);
        /// How many differences a rehearsal tells if all are asked for.
        rehearsal_differences_max: usize = 100_000, Some(1);
    }
}

/// Which plugin files are trusted.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Those that belong to the host's user or to root, and that nobody else can write.
    Owner,
    /// Those with a signature by a key in `trust/`.
    Signed,
    /// All.
    Any,
}

section! {
    /// What the host writes to its standard error.
    Log in "log" {
        /// Which lines: error, warn, info, debug or trace, also by module, such as "info,theseus_host::gateway=debug".
        filter: String = "info".into(), None;
        /// How many lines a second a plugin may write; the host counts what it drops beyond, and says so once a second.
        plugin_lines_per_second_max: u32 = 1000, Some(1);
    }
}

/// All settings.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The HTTP server.
    pub http: Http,
    /// Executing messages.
    pub execution: Execution,
    /// The identity.
    pub identity: Identity,
    /// Delivering posted messages.
    pub messages: Messages,
    /// Plugins.
    pub plugins: Plugins,
    /// What the host writes to its standard error.
    pub log: Log,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file exists and cannot be read.
    #[error("{} cannot be read: {source}; check its permissions", file.display())]
    Unreadable {
        /// The settings file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what it should be; the message of `source` shows the place.
    #[error("{} is not valid; correct it or remove the line:\n{source}", file.display())]
    Invalid {
        /// The settings file.
        file: PathBuf,
        /// What is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// A number is out of its range.
    #[error("{}: {} is {}, but has to be at least {}", file.display(), flaw.setting, flaw.value, flaw.least)]
    TooSmall {
        /// The settings file.
        file: PathBuf,
        /// Which setting.
        flaw: Flaw,
    },
}

/// A setting that is smaller than it may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flaw {
    /// The setting with its section.
    pub setting: &'static str,
    /// Its value.
    pub value: i64,
    /// The least it may be.
    pub least: i64,
}

impl Config {
    /// Reads the settings of a home. A file that does not exist means the defaults.
    pub fn load(home: &Home) -> Result<Config, ConfigError> {
        let file = home.config_file();
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(source) => return Err(ConfigError::Unreadable { file, source }),
        };
        Config::parse(&text, file)
    }

    /// Reads settings out of a text; `file` is where they come from, for messages.
    ///
    /// # Errors
    ///
    /// If they are not valid.
    pub fn parse(text: &str, file: PathBuf) -> Result<Config, ConfigError> {
        let config: Config = match toml::from_str(text) {
            Ok(config) => config,
            Err(source) => return Err(ConfigError::Invalid { file, source: Box::new(source) }),
        };
        config.check().map_err(|flaw| ConfigError::TooSmall { file, flaw })?;
        Ok(config)
    }

    /// Gives a home that has no settings file one that shows these.
    pub fn write_if_missing(&self, home: &Home) -> io::Result<()> {
        let file = home.config_file();
        if file.exists() {
            return Ok(());
        }
        // Renamed into place, so that no crash leaves half a file behind that would then be believed.
        let unfinished = home.path().join("theseus.toml.new");
        let mut written = File::create(&unfinished)?;
        written.write_all(self.render().as_bytes())?;
        written.sync_all()?;
        fs::rename(&unfinished, &file)?;
        File::open(home.path())?.sync_all()
    }

    /// The settings as a file with comments, such as `theseus init` writes.
    pub fn render(&self) -> String {
        let mut out = String::new();
        comment(&mut out, " Settings of this Theseus host, read when it starts. A setting left out has its default.");
        out.push('\n');
        self.http.render(&mut out);
        self.execution.render(&mut out);
        self.messages.render(&mut out);
        self.identity.render(&mut out);
        self.plugins.render(&mut out);
        self.log.render(&mut out);
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    }

    fn check(&self) -> Result<(), Flaw> {
        self.http.check()?;
        self.execution.check()?;
        self.messages.check()?;
        self.identity.check()?;
        self.plugins.check()?;
        self.log.check()
    }
}

// Writing into a `String` cannot fail, so the results of `writeln!` are dropped.

fn comment(out: &mut String, doc: &str) {
    _ = writeln!(out, "#{doc}");
}

fn setting(out: &mut String, name: &str, value: &impl Serialize) {
    let value = toml::Value::try_from(value).expect("every setting is a number, a text, an address or a list");
    _ = writeln!(out, "{name} = {value}");
}

/// Refuses a number below `least`; what is not a number has no least.
fn at_least(setting: &'static str, value: &impl Serialize, least: Option<i64>) -> Result<(), Flaw> {
    let Some(least) = least else { return Ok(()) };
    match toml::Value::try_from(value) {
        Ok(toml::Value::Integer(value)) if value < least => Err(Flaw { setting, value, least }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home_with(text: &str) -> (tempfile::TempDir, Home) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        fs::write(home.config_file(), text).unwrap();
        (folder, home)
    }

    #[test]
    fn the_rendered_default_parses_to_the_default() {
        let text = Config::default().render();
        assert_eq!(toml::from_str::<Config>(&text).unwrap(), Config::default());
        assert!(text.contains("# How many commands may wait"), "comments are missing:\n{text}");
        assert!(text.contains("listen = \"127.0.0.1:7070\""), "{text}");
    }

    #[test]
    fn rendering_shows_every_setting_as_it_is() {
        let mut config = Config::default();
        config.http.listen = "127.0.0.1:0".parse().unwrap();
        config.execution.queue_max = 7;
        config.log.filter = "warn,x=\"debug\"".into();
        assert_eq!(toml::from_str::<Config>(&config.render()).unwrap(), config);
    }

    #[test]
    fn a_home_without_a_file_has_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Config::load(&Home::new(folder.path())).unwrap(), Config::default());
    }

    #[test]
    fn a_settings_file_is_written_once_and_then_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        let mut config = Config::default();
        config.execution.queue_max = 9;
        config.write_if_missing(&home).unwrap();
        Config::default().write_if_missing(&home).unwrap();
        assert_eq!(Config::load(&home).unwrap(), config);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something was left over");
    }

    #[test]
    fn a_file_may_set_some_and_leave_the_rest() {
        let (_folder, home) = home_with("[execution]\nqueue_max = 5\n");
        let config = Config::load(&home).unwrap();
        assert_eq!(config.execution.queue_max, 5);
        assert_eq!(config.execution.nesting_max, Execution::default().nesting_max);
    }

    #[test]
    fn an_unknown_setting_is_refused_by_name() {
        let (_folder, home) = home_with("[execution]\nqueue_maximum = 5\n");
        let message = Config::load(&home).unwrap_err().to_string();
        assert!(message.contains("queue_maximum") && message.contains("theseus.toml"), "{message}");
    }

    #[test]
    fn a_bound_of_zero_is_refused() {
        let (_folder, home) = home_with("[http]\nconnections_max = 0\n");
        let message = Config::load(&home).unwrap_err().to_string();
        assert!(message.contains("http.connections_max is 0, but has to be at least 1"), "{message}");
    }
}
