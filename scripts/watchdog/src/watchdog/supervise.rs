//! Starting hosts, noticing how they end, and when to start the next.

use std::{
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    time::{Duration, Instant},
};

use super::*;
use crate::{host::Limits, launch, listen, notify::Message};

/// The exit code by which a host says that its identity is damaged: a restart cannot help.
const EXIT_DAMAGED: i32 = 5;

/// The wait after the second crash in a row; doubled with each further one. After the first there is none.
const BACKOFF: Duration = Duration::from_millis(100);

/// The longest wait.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How often it is said that somebody else owns the identity.
const OWNER_REPORT: Duration = Duration::from_secs(10);

/// The variables of supervisors that a host must not inherit from the watchdog itself.
const FOREIGN: [&str; 6] =
    ["LISTEN_FDNAMES", "NOTIFY_SOCKET", "THESEUS_TRIAL", "THESEUS_UPDATE_ID", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// Crashes in a row, and what follows from them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Restarts {
    in_row: u32,
    /// Not before this time.
    pub(super) not_before: Option<Instant>,
    /// Not at all any more, and why.
    pub(super) hopeless: Option<String>,
}

impl Restarts {
    /// Takes in that a host ended; `ready` is how long it had been ready, if ever.
    fn ended(&mut self, how: &str, code: Option<i32>, ready: Option<Duration>, stable: Duration, limit: u32) {
        if ready.is_some_and(|time| time >= stable) {
            self.in_row = 0;
        }
        self.in_row += 1;
        if code == Some(EXIT_DAMAGED) {
            self.hopeless = Some(format!("the host says that the identity is damaged ({how})"));
        } else if self.in_row > limit {
            self.hopeless = Some(format!("the host ended {} times in a row, the last time with: {how}", self.in_row));
        }
        self.not_before = Some(Instant::now() + backoff(self.in_row));
    }
}

fn backoff(in_row: u32) -> Duration {
    match in_row {
        0 | 1 => Duration::ZERO,
        more => BACKOFF.saturating_mul(1 << (more - 2).min(16)).min(BACKOFF_MAX),
    }
}

impl Watchdog<'_> {
    /// Starts the current release if no host runs and it is time to.
    pub(super) fn keep_host(&mut self) -> Result<Option<Event>, StepError> {
        if self.host.is_some() {
            return Ok(None);
        }
        if let Some(why) = self.restarts.hopeless.clone() {
            self.hold(&why)?;
            return Ok(Some(Event::HostHopeless));
        }
        match self.restarts.not_before {
            Some(time) if time > Instant::now() => self.wake_by(time),
            _ => {
                if self.take_owner()? {
                    self.start_host(None)?;
                }
            }
        }
        Ok(None)
    }

    /// Says that nothing is done any more. The file comes before the state: a state without it would count as resumed.
    fn hold(&mut self, why: &str) -> Result<(), StepError> {
        let why = match &self.reason {
            Some(before) => format!("{why} (after a rollback, because: {before})"),
            None => why.to_owned(),
        };
        log::error!("held: {why}; find the cause, then `theseus resume` and start the watchdog again");
        files::publish(&self.layout.held(), format!("{why}\n").as_bytes()).doing("write update/held")?;
        let id = self.instruction.as_ref().map(|instruction| instruction.id.clone());
        let line = Line { id, reason: why.clone(), ..Line::now(What::Held) };
        self.history.append(&line).doing("write update/history.jsonl")?;
        self.reason = Some(why);
        Ok(())
    }

    /// Takes the owner lock, unless a host that is not ours still has it. Keeps it until a host is started.
    pub(super) fn take_owner(&mut self) -> Result<bool, StepError> {
        if self.owner.is_some() {
            return Ok(true);
        }
        let path = self.layout.owner_lock();
        match Lock::try_take(&path) {
            // There is no identity yet that anybody could own.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(source) => Err(StepError::Io { doing: "lock identity/owner.lock", source }),
            Ok(Some(lock)) => {
                self.owner = Some(lock);
                self.owner_waited = None;
                Ok(true)
            }
            Ok(None) => {
                let now = Instant::now();
                if self.owner_waited.is_none_or(|said| now >= said + OWNER_REPORT) {
                    log::warn!("another process owns {}; waiting until it is gone", path.display());
                    self.owner_waited = Some(now);
                }
                self.wake_by(now + LOCK_INTERVAL);
                Ok(false)
            }
        }
    }

    /// Starts the current release, in a trial with the instruction's id. That it cannot be started counts as its end.
    pub(super) fn start_host(&mut self, trial: Option<&str>) -> Result<(), StepError> {
        let listener = match self.listener.take() {
            Some(listener) => listener,
            None => {
                let address = self.options.listen;
                let opened = listen::open(address);
                let listener = opened.map_err(|source| StepError::Listen { address: address.to_string(), source })?;
                if let Ok(address) = listener.local_addr() {
                    log::info!("holding {address} open for applications");
                }
                listener
            }
        };
        let mut variables = vec![
            ("LISTEN_FDS", "1".to_owned()),
            ("LISTEN_FDNAMES", "http".to_owned()),
            ("NOTIFY_SOCKET", self.inbox.name().to_owned()),
        ];
        if self.options.ping_timeout_s > 0 {
            variables.push(("WATCHDOG_USEC", (self.options.ping_timeout_s * 1_000_000).to_string()));
        }
        if let Some(id) = trial {
            variables.extend([("THESEUS_TRIAL", "1".to_owned()), ("THESEUS_UPDATE_ID", id.to_owned())]);
        }
        let start_s = if trial.is_some() { self.options.health_window_s } else { self.options.start_timeout_s };
        let limits = Limits {
            start: Duration::from_secs(start_s),
            stop: Duration::from_secs(self.options.stop_timeout_s),
            extended: Duration::from_secs(self.options.extended_limit_s),
            ping: Some(Duration::from_secs(self.options.ping_timeout_s)).filter(|time| !time.is_zero()),
        };
        // The host takes it now. Nobody else can come between: it would have to be a host, and only we start them.
        self.owner = None;
        let binary = self.releases.current_host();
        let started = launch::host(&binary, &self.layout.home, &listener, &variables, &FOREIGN);
        self.listener = Some(listener);
        match started.and_then(|child| Host::new(child, limits)) {
            Ok(host) => {
                let what = if trial.is_some() { "on trial" } else { "as usual" };
                log::info!("started {} as process {}, {what}", binary.display(), host.pid());
                self.host = Some(host);
            }
            Err(error) => {
                let how = format!("{} cannot be started: {error}", binary.display());
                log::error!("{how}");
                self.note_end(&how, None, None);
            }
        }
        Ok(())
    }

    /// Listens to what the host says.
    pub(super) fn hear_host(&mut self) -> io::Result<()> {
        let messages: Vec<Message> = self.inbox.receive(self.host.as_ref().map(Host::pid))?;
        let Some(host) = &mut self.host else { return Ok(()) };
        for message in &messages {
            if host.hear(message) {
                log::info!("host {} is ready", host.pid());
                self.upstream.ready();
            }
        }
        Ok(())
    }

    /// Notices that the host has ended, and ends it if it is late.
    pub(super) fn see_exit(&mut self) -> io::Result<()> {
        let Some(host) = &mut self.host else { return Ok(()) };
        let Some(status) = host.reap()? else {
            host.enforce();
            return Ok(());
        };
        let how = describe(host.pid(), status);
        let (told, ready) = (host.was_told_to_stop(), host.ready_since().map(|since| since.elapsed()));
        self.host = None;
        if told {
            log::info!("{how}, as it was told");
        } else {
            log::error!("{how}");
            self.note_end(&how, status.code(), ready);
        }
        Ok(())
    }

    /// What an end that nobody asked for means depends on where we are: a try is lost, or a restart is due.
    fn note_end(&mut self, how: &str, code: Option<i32>, ready: Option<Duration>) {
        if matches!(self.state, State::Checking(_)) {
            self.reason = Some(how.to_owned());
        } else {
            let stable = Duration::from_secs(self.options.stable_s);
            self.restarts.ended(how, code, ready, stable, self.options.crash_limit);
        }
    }

    /// Ends what runs, because the watchdog is to end. Says whether nothing runs any more.
    pub(super) fn leave(&mut self) -> bool {
        if let Some(script) = &mut self.script {
            match script.poll() {
                Ok(None) => {
                    if !script.was_asked_to_end() {
                        script.end();
                    }
                    return false;
                }
                // It will be run again: the journal does not say that it is done.
                Ok(Some(_)) | Err(_) => self.script = None,
            }
        }
        if let Some(host) = &mut self.host {
            host.stop();
            return false;
        }
        true
    }
}

fn describe(pid: u32, status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("host {pid} exited with code {code}"),
        (None, Some(signal)) => format!("host {pid} was killed by signal {signal}"),
        (None, None) => format!("host {pid} ended with {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_in_a_row_wait_longer_and_end() {
        let waits: Vec<u128> = (0..=9).map(|in_row| backoff(in_row).as_millis()).collect();
        assert_eq!(waits, [0, 0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff(u32::MAX), BACKOFF_MAX);

        let stable = Duration::from_secs(3);
        let mut restarts = Restarts::default();
        for _ in 0..2 {
            restarts.ended("a crash", Some(1), Some(Duration::from_secs(2)), stable, 2);
        }
        restarts.ended("a crash", Some(1), Some(stable), stable, 2);
        assert_eq!((restarts.in_row, &restarts.hopeless), (1, &None), "it had been stable");
        restarts.ended("a crash", None, None, stable, 2);
        assert_eq!(restarts.hopeless, None);
        restarts.ended("a crash", None, None, stable, 2);
        assert!(restarts.hopeless.unwrap().contains("3 times"));

        let mut restarts = Restarts::default();
        restarts.ended("damage", Some(EXIT_DAMAGED), None, stable, 2);
        assert!(restarts.hopeless.unwrap().contains("damaged"));
    }
}
