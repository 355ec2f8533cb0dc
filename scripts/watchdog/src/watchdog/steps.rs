//! The work of each state. Every step can be done again from its start: a crash anywhere leads back to the state that
//! the journal has.

use std::{fs, path::Path};

use serde::Deserialize;

use super::*;
use crate::{
    bundle,
    instruction::{self, is_id},
};

/// The wait between two tries of a new release.
const TRY_INTERVAL: Duration = Duration::from_millis(200);

impl Watchdog<'_> {
    /// Does what can be done now in this state; says what came of it, if something did.
    pub(super) fn work(&mut self) -> Result<Option<Event>, StepError> {
        match self.state {
            State::Idle => match self.keep_host()? {
                Some(event) => Ok(Some(event)),
                None => self.look_for_instruction(),
            },
            State::Requested => self.check(),
            State::Accepted => self.unpack(),
            State::Staged => Ok(Some(Event::StopOrdered)),
            State::Stopping => Ok(self.stop_host()),
            State::HandedOff => self.quiesce(),
            State::Quiesced => self.apply(),
            State::Applied => self.switch(),
            State::Trial(tries) => self.take_try(tries),
            State::Checking(_) => self.check_trial(),
            State::Confirmed => self.record_confirmation(),
            State::RolledBack => self.roll_back(),
            // The loop ends when it gets here.
            State::Held => Ok(None),
        }
    }

    fn look_for_instruction(&mut self) -> Result<Option<Event>, StepError> {
        if self.layout.held().exists() {
            return Ok(None);
        }
        for path in instruction::waiting(&self.layout).doing("look into update/spool")? {
            let id = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if is_id(id) && self.history.is_finished(id) {
                log::info!("instruction {id} is finished already; its second copy is removed");
                files::remove(&path).doing("remove a finished instruction")?;
                continue;
            }
            self.candidate = Some(path);
            return Ok(Some(Event::Found));
        }
        Ok(None)
    }

    fn check(&mut self) -> Result<Option<Event>, StepError> {
        // Without a candidate, a crash has brought us here: the spool still has it, or somebody has taken it back.
        let Some(path) = self.candidate.clone() else { return Ok(Some(Event::Refused)) };
        let checked = instruction::read(&path).and_then(|found| {
            instruction::check(&found, &self.releases, self.options.apply_dir.as_deref())?;
            Ok(found)
        });
        match checked {
            Ok(found) => {
                log::info!(
                    "update {} to {} requested by {}: {}",
                    found.id,
                    found.release.short(),
                    found.requested_by,
                    found.reason
                );
                self.instruction = Some(found);
                Ok(Some(Event::Valid))
            }
            Err(refusal) => self.refuse(&path, &refusal),
        }
    }

    fn refuse(&mut self, path: &Path, refusal: &Refusal) -> Result<Option<Event>, StepError> {
        let stem = path.file_stem().unwrap_or_default();
        let name = match stem.to_str().filter(|stem| is_id(stem)) {
            Some(id) => id.to_owned(),
            // Anything can lie in the spool; a name made of its name is short, and fit for a file and for JSON.
            None => format!("not-an-id-{}", &blake3::hash(stem.as_encoded_bytes()).to_hex()[..16]),
        };
        log::error!("instruction {name} is refused: {refusal}");
        let line = Line {
            id: Some(name.clone()),
            release: self.instruction.as_ref().map(|instruction| instruction.release.clone()),
            reason: refusal.to_string(),
            ..Line::now(What::Refused)
        };
        self.history.append(&line).doing("write update/history.jsonl")?;
        let folder = self.layout.refused();
        files::publish(&folder.join(format!("{name}.reason")), format!("{refusal}\n").as_bytes())
            .doing("write the reason of a refusal")?;
        match fs::rename(path, folder.join(format!("{name}.json"))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).doing("move a refused instruction");
            }
            _ => {}
        }
        files::sync_folder(&folder).and_then(|()| files::sync_folder(&self.layout.spool())).doing("sync update")?;
        Ok(Some(Event::Refused))
    }

    fn unpack(&mut self) -> Result<Option<Event>, StepError> {
        match self.releases.stage(self.cycle()) {
            Ok(()) => Ok(Some(Event::Unpacked)),
            Err(refusal) => {
                self.releases.remove_partial().doing("remove a half unpacked release")?;
                let path = self.spooled();
                self.refuse(&path, &refusal)
            }
        }
    }

    /// Where the instruction of the cycle lies.
    fn spooled(&self) -> PathBuf {
        self.layout.spool().join(format!("{}.json", self.cycle().id))
    }

    fn stop_host(&mut self) -> Option<Event> {
        match &mut self.host {
            Some(host) => {
                host.stop();
                None
            }
            // Gone, or of a watchdog that died: then it has got its SIGTERM from the kernel, and the owner lock tells.
            None => Some(Event::HostGone),
        }
    }

    fn quiesce(&mut self) -> Result<Option<Event>, StepError> {
        if !self.take_owner()? {
            return Ok(None);
        }
        match self.handoff() {
            Some(handoff) => log::info!("the host handed off at transaction {}, head {}", handoff.tid, handoff.head),
            None => log::warn!("the host left no handoff; the new one finds the head in the history"),
        }
        Ok(Some(Event::OwnerTaken))
    }

    /// What the host left, for the log: it is the new host that judges it.
    fn handoff(&self) -> Option<Handoff> {
        let path = self.layout.handoffs().join(&self.cycle().id);
        serde_json::from_slice(&files::read(&path).ok()??).ok()
    }

    fn apply(&mut self) -> Result<Option<Event>, StepError> {
        if !self.take_owner()? {
            return Ok(None);
        }
        if let Some(script) = &mut self.script {
            let Some(result) = script.poll().doing("watch the upgrade script")? else { return Ok(None) };
            self.script = None;
            return Ok(Some(match result {
                Ok(()) => Event::ScriptDone,
                Err(why) => self.script_failed(why),
            }));
        }
        let folder = self.releases.folder(&self.cycle().release);
        let manifest = bundle::manifest(&folder).map_err(Refusal::Bundle);
        let script =
            manifest.and_then(|it| instruction::script(it.apply.as_deref(), self.options.apply_dir.as_deref()));
        match script {
            Ok(Some(path)) => self.start_script(&path, &folder),
            Ok(None) => Ok(Some(Event::ScriptDone)),
            Err(refusal) => Ok(Some(self.script_failed(refusal.to_string()))),
        }
    }

    fn start_script(&mut self, path: &Path, release: &Path) -> Result<Option<Event>, StepError> {
        let timeout = Duration::from_secs(self.options.apply_timeout_s);
        let Some(lock) = Lock::try_take(&self.layout.script_lock()).doing("lock update/apply.lock")? else {
            // One that was started by a watchdog that died, or a child that one left behind.
            let now = Instant::now();
            let since = *self.script_waited.get_or_insert(now);
            if now >= since + timeout {
                self.script_waited = None;
                return Ok(Some(self.script_failed("an earlier upgrade script still runs; end it".into())));
            }
            self.wake_by(now + LOCK_INTERVAL);
            return Ok(None);
        };
        self.script_waited = None;
        let (home, release) = (self.layout.home.to_string_lossy(), release.to_string_lossy());
        let variables =
            [("THESEUS_HOME", &*home), ("THESEUS_RELEASE", &*release), ("THESEUS_UPDATE_ID", &*self.cycle().id)];
        log::info!("running the upgrade script {}", path.display());
        match Script::start(path, &self.layout.home, &variables, lock, timeout) {
            Ok(script) => {
                self.script = Some(script);
                Ok(None)
            }
            Err(error) => Ok(Some(self.script_failed(format!("{} cannot be started: {error}", path.display())))),
        }
    }

    fn script_failed(&mut self, why: String) -> Event {
        log::error!("{why}");
        self.reason = Some(why);
        Event::ScriptFailed
    }

    fn switch(&mut self) -> Result<Option<Event>, StepError> {
        if !self.take_owner()? {
            return Ok(None);
        }
        let (release, tries) = (self.cycle().release.clone(), self.options.tries);
        self.releases.set_tries(&release, Tries { left: tries, done: 0 }).doing("write the trial file")?;
        self.releases.set_link(Link::Current, &release).doing("switch releases/current")?;
        Ok(Some(Event::Switched { tries }))
    }

    fn take_try(&mut self, tries: Tries) -> Result<Option<Event>, StepError> {
        if self.confirmed() {
            return Ok(Some(Event::HostConfirmed));
        }
        if tries.left == 0 {
            return Ok(Some(Event::TryFailed));
        }
        if let Some(time) = self.restarts.not_before.filter(|time| *time > Instant::now()) {
            self.wake_by(time);
            return Ok(None);
        }
        if !self.take_owner()? {
            return Ok(None);
        }
        let taken = Tries { left: tries.left - 1, done: tries.done + 1 };
        self.releases.set_tries(&self.cycle().release, taken).doing("write the trial file")?;
        self.try_started = false;
        Ok(Some(Event::TryTaken))
    }

    fn check_trial(&mut self) -> Result<Option<Event>, StepError> {
        let Some(host) = &self.host else {
            // Also a host of a try that a watchdog which died had begun: what it does last may be to confirm.
            if !self.take_owner()? {
                return Ok(None);
            }
            if self.try_started {
                return Ok(Some(self.end_of_try()));
            }
            let id = self.cycle().id.clone();
            self.reason = None;
            self.start_host(Some(&id))?;
            self.try_started = true;
            // That it could not be started at all is noticed right away.
            self.wake_by(Instant::now());
            return Ok(None);
        };
        let Some(ready) = host.ready_since().filter(|_| !host.is_stopping()) else { return Ok(None) };
        if self.confirmed() {
            return Ok(Some(Event::HostConfirmed));
        }
        let deadline = ready + Duration::from_secs(self.options.health_window_s);
        if Instant::now() >= deadline {
            let why = format!("the new host was ready, and did not confirm within {} s", self.options.health_window_s);
            log::error!("{why}");
            self.reason = Some(why);
            if let Some(host) = &mut self.host {
                host.stop();
            }
        } else {
            self.wake_by(deadline);
        }
        Ok(None)
    }

    /// The host of a try is gone. If it has confirmed before, that counts: there is no way back from it.
    fn end_of_try(&mut self) -> Event {
        if self.confirmed() {
            return Event::HostConfirmed;
        }
        self.reason.get_or_insert_with(|| "the try was interrupted".into());
        self.restarts.not_before = Some(Instant::now() + TRY_INTERVAL);
        Event::TryFailed
    }

    /// Whether the new host has confirmed this instruction.
    fn confirmed(&self) -> bool {
        let (instruction, path) = (self.cycle(), self.layout.confirmations().join(&self.cycle().id));
        let content = match files::read(&path) {
            Ok(Some(content)) => content,
            Ok(None) => return false,
            Err(error) => {
                log::error!("cannot read {}: {error}", path.display());
                return false;
            }
        };
        match serde_json::from_slice::<Confirmation>(&content) {
            Ok(found) if found.schema == 1 && found.id == instruction.id && found.identity == instruction.identity => {
                true
            }
            Ok(_) => {
                log::error!("{} is not of schema 1, or confirms something else; it does not count", path.display());
                false
            }
            Err(error) => {
                log::error!("{} is malformed and does not count: {error}", path.display());
                false
            }
        }
    }

    fn record_confirmation(&mut self) -> Result<Option<Event>, StepError> {
        let Instruction { id, release, epoch, .. } = self.cycle().clone();
        let from = self.releases.link(Link::Good).doing("read releases/good")?;
        self.releases.set_link(Link::Good, &release).doing("switch releases/good")?;
        self.releases.raise_floor(epoch).doing("write update/floor")?;
        let line = Line {
            id: Some(id),
            from: from.filter(|from| *from != release),
            release: Some(release.clone()),
            epoch: Some(epoch),
            ..Line::now(What::Confirmed)
        };
        self.finish(&release, &line)?;
        self.restarts = Restarts::default();
        Ok(Some(Event::Recorded))
    }

    /// Says how a cycle ended, then tidies up.
    fn finish(&mut self, release: &Digest, line: &Line) -> Result<(), StepError> {
        self.history.append(line).doing("write update/history.jsonl")?;
        self.releases.remove_tries(release).doing("remove the trial file")?;
        files::remove(&self.spooled()).doing("remove a finished instruction")
    }

    fn roll_back(&mut self) -> Result<Option<Event>, StepError> {
        if !self.rolled_back {
            if !self.take_owner()? {
                return Ok(None);
            }
            self.go_back()?;
            self.rolled_back = true;
            self.restarts = Restarts::default();
        }
        if let Some(event) = self.keep_host()? {
            return Ok(Some(event));
        }
        let ready = self.host.as_ref().is_some_and(|host| host.ready_since().is_some());
        Ok(ready.then_some(Event::OldHostReady))
    }

    fn go_back(&mut self) -> Result<(), StepError> {
        let Instruction { id, release, epoch, .. } = self.cycle().clone();
        let reason = self.reason.clone().unwrap_or_default();
        let good = self.releases.link(Link::Good).doing("read releases/good")?;
        let good =
            good.ok_or(io::Error::from(io::ErrorKind::NotFound)).doing("find the release that releases/good names")?;
        // A trial of the good release itself says nothing against the release.
        if good != release {
            self.releases.quarantine(&release, &reason).doing("write update/quarantine")?;
        }
        self.releases.set_link(Link::Current, &good).doing("switch releases/current")?;
        log::error!("update {id} is rolled back: {reason}");
        let line = Line {
            id: Some(id),
            release: Some(release.clone()),
            from: Some(good),
            epoch: Some(epoch),
            reason,
            ..Line::now(What::RolledBack)
        };
        self.finish(&release, &line)
    }
}

/// The part of `update/handoff/ID` that goes into the log.
#[derive(Deserialize)]
struct Handoff {
    tid: u64,
    head: String,
}

/// The part of `update/confirm/ID` that the watchdog checks.
#[derive(Deserialize)]
struct Confirmation {
    schema: u32,
    id: String,
    identity: String,
}
