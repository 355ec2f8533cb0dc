//! The parent's side: starts a child, asks it, and ends it whatever it does.
//!
//! Nothing here waits without a deadline, and nothing that a child sends is believed beyond its form.

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream, unix::process::CommandExt},
    path::PathBuf,
    process::{self, Command, ExitStatus, Stdio},
    sync::Once,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags},
    process::{Pid, Signal, WaitId, WaitIdOptions, waitid},
};

use super::{
    Limits,
    confine::Confinement,
    fault::{self, Cause, Fault},
    frames::{self, FROM_CHILD_BYTES_MAX, HEAD_BYTES, Kind},
    output::{Output, TooMuch},
};

/// How long a child may take until it is confined: it has heard of nothing foreign then, so only the system can be slow.
const START: Duration = Duration::from_secs(10);

/// How long a child that closed its connection may take to end by itself, so that its exit status says why.
const END: Duration = Duration::from_secs(1);

/// How often a child that sends nothing is looked at: its death usually closes the connection, but another process that it
/// managed to start could hold that open.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Set in the environment of a child.
const CHILD: &str = "THESEUS_CONFINED";

/// The program that a child runs.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<String>,
}

impl Program {
    /// This very executable, even if its file was replaced meanwhile, with arguments that make it call
    /// [`serve`](super::serve).
    pub fn this(arguments: &[&str]) -> io::Result<Program> {
        let path = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
        Ok(Program { path, arguments: arguments.iter().map(|&it| it.to_owned()).collect() })
    }

    /// Another executable.
    pub fn at(path: impl Into<PathBuf>, arguments: &[&str]) -> Program {
        Program { path: path.into(), arguments: arguments.iter().map(|&it| it.to_owned()).collect() }
    }
}

/// Why no child could be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The system starts none.
    #[error("a process to try it in cannot be started: {0}")]
    System(#[from] io::Error),
    /// It ended before it was confined.
    #[error("the process to try it in did not get ready: {0}")]
    NotReady(Fault),
}

/// A confined process. Dropping it ends it, with all that it started.
pub struct Child {
    /// None once it was waited for.
    process: Option<process::Child>,
    socket: UnixStream,
    output: Output,
    confinement: Confinement,
    memory_bytes: u64,
    doing: String,
}

/// Until when something has to have happened.
#[derive(Clone, Copy)]
struct Deadline {
    until: Instant,
    whole: Duration,
}

impl Deadline {
    fn after(whole: Duration) -> Deadline {
        Deadline { until: Instant::now() + whole, whole }
    }

    fn hung(self) -> Cause {
        Cause::Hung { after_ms: self.whole.as_millis() as u64 }
    }
}

impl Child {
    /// Starts a child and waits until it is confined. The child ends with the thread that calls this.
    ///
    /// # Errors
    ///
    /// If the system starts none, or it does not get ready.
    pub fn spawn(program: &Program, limits: &Limits) -> Result<Child, SpawnError> {
        let (own, its) = UnixStream::pair()?;
        let (reader, writer) = io::pipe()?;
        own.set_nonblocking(true)?;
        rustix::io::ioctl_fionbio(&reader, true).map_err(io::Error::from)?;
        // A program that does not know the command with which it is started as a child would start itself without end.
        if std::env::var_os(CHILD).is_some() {
            return Err(io::Error::other("this is such a process itself, and its program did not see that").into());
        }
        // No hook runs between fork and exec: so the host's memory, which may be large, is not copied for it.
        let mut command = Command::new(&program.path);
        command.arg0("theseus").args(&program.arguments).env(CHILD, "1");
        // The last lines that it prints are shown: they should say what happened, not where in the standard library.
        command.env_remove("RUST_BACKTRACE").env_remove("RUST_LIB_BACKTRACE");
        command.stdin(Stdio::from(std::os::fd::OwnedFd::from(its))).stdout(writer.try_clone()?).stderr(writer);
        let process = command.spawn()?;
        // It holds the other ends of both, which have to close when the child ends.
        drop(command);
        let mut child = Child {
            process: Some(process),
            socket: own,
            output: Output::new(reader, limits.output_bytes),
            confinement: Confinement::default(),
            memory_bytes: limits.memory_bytes,
            doing: String::new(),
        };
        let deadline = Deadline::after(START);
        let limits = theseus_value::to_vec(limits).expect("numbers have an encoding");
        let ready = child.send(Kind::Confine, &limits, deadline).and_then(|()| child.receive(deadline));
        let confinement = ready.and_then(|(kind, bytes)| match kind {
            Kind::Ready => theseus_value::from_slice(&bytes).map_err(|error| garbled(error.to_string())),
            _ => Err(garbled("something else than that it is ready")),
        });
        child.confinement = confinement.map_err(|cause| SpawnError::NotReady(child.fault(cause)))?;
        child.say_what_is_missing();
        Ok(child)
    }

    /// What the child may not do, and what the kernel could not forbid it.
    pub fn confinement(&self) -> &Confinement {
        &self.confinement
    }

    /// Asks the child, serves what it needs meanwhile, and waits for its answer.
    ///
    /// # Errors
    ///
    /// If no answer comes. The child is gone then, and every further question gets a fault.
    pub fn ask(
        &mut self,
        request: &[u8],
        serve: &mut dyn FnMut(&[u8]) -> Vec<u8>,
        deadline: Duration,
    ) -> Result<Vec<u8>, Fault> {
        self.doing.clear();
        self.converse(request, serve, Deadline::after(deadline)).map_err(|cause| self.fault(cause))
    }

    /// What it has printed, the end of it.
    pub fn output(&mut self) -> Vec<String> {
        _ = self.output.drain();
        fault::last_lines(&self.output.text())
    }

    fn converse(
        &mut self,
        request: &[u8],
        serve: &mut dyn FnMut(&[u8]) -> Vec<u8>,
        deadline: Deadline,
    ) -> Result<Vec<u8>, Cause> {
        self.send(Kind::Request, request, deadline)?;
        loop {
            match self.receive(deadline)? {
                (Kind::Need, what) => {
                    let given = serve(&what);
                    self.send(Kind::Given, &given, deadline)?;
                }
                (Kind::Doing, what) => self.doing = fault::last_lines(&String::from_utf8_lossy(&what)).join(" "),
                (Kind::Answer, answer) => return Ok(answer),
                (kind, _) => return Err(garbled(format!("{kind:?} out of turn"))),
            }
        }
    }

    fn send(&mut self, kind: Kind, bytes: &[u8], deadline: Deadline) -> Result<(), Cause> {
        for part in [&frames::head(kind, bytes.len()), bytes] {
            let mut rest = part;
            while !rest.is_empty() {
                self.wait(PollFlags::OUT, deadline)?;
                match rustix::net::send(&self.socket, rest, SendFlags::NOSIGNAL) {
                    Ok(sent) => rest = &rest[sent..],
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    Err(_) => return Err(self.closed(deadline)),
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, deadline: Deadline) -> Result<(Kind, Vec<u8>), Cause> {
        let mut head = [0; HEAD_BYTES];
        self.receive_exact(&mut head, deadline)?;
        let (kind, length) = frames::parse_head(head).ok_or_else(|| garbled("bytes that are no frame"))?;
        if length > FROM_CHILD_BYTES_MAX {
            return Err(garbled(format!("a frame of {length} bytes, the limit is {FROM_CHILD_BYTES_MAX}")));
        }
        // Memory is taken as bytes arrive, not as they are announced.
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length {
            let start = bytes.len();
            bytes.resize(length.min(start as u64 + (1 << 20)) as usize, 0);
            self.receive_exact(&mut bytes[start..], deadline)?;
        }
        Ok((kind, bytes))
    }

    fn receive_exact(&mut self, mut room: &mut [u8], deadline: Deadline) -> Result<(), Cause> {
        while !room.is_empty() {
            self.wait(PollFlags::IN, deadline)?;
            match rustix::net::recv(&self.socket, &mut *room, RecvFlags::empty()) {
                Ok((0, _)) => return Err(self.closed(deadline)),
                Ok((length, _)) => room = &mut room[length..],
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => return Err(self.closed(deadline)),
            }
        }
        Ok(())
    }

    /// Waits until the socket can be used, and takes what the child prints meanwhile.
    fn wait(&mut self, events: PollFlags, deadline: Deadline) -> Result<(), Cause> {
        loop {
            let left = deadline.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(deadline.hung());
            }
            let timeout = Timespec::try_from(left.min(LOOK_AGAIN)).expect("a tenth of a second fits");
            let mut polled = vec![PollFd::new(&self.socket, events)];
            polled.extend(self.output.pipe().map(|pipe| PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)));
            match poll(&mut polled, Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(garbled(format!("it cannot be waited for: {error}"))),
            }
            let usable = !polled[0].revents().is_empty();
            let ready = polled.iter().any(|it| !it.revents().is_empty());
            self.drain()?;
            if usable {
                return Ok(());
            }
            if !ready && self.has_exited() {
                return Err(self.ended(deadline));
            }
        }
    }

    fn drain(&mut self) -> Result<(), Cause> {
        self.output.drain().map_err(|TooMuch { bytes_max }| Cause::Flooded { bytes: bytes_max })
    }

    /// Why the connection is closed.
    fn closed(&mut self, deadline: Deadline) -> Cause {
        if self.exits_within(END) { self.ended(deadline) } else { garbled("it closed it and went on") }
    }

    /// What it ended with, once it has.
    fn ended(&mut self, deadline: Deadline) -> Cause {
        let status = self.end();
        match (self.drain(), status) {
            (Err(flooded), _) => flooded,
            (Ok(()), Some(status)) => Cause::of(status, &self.output.text(), self.memory_bytes, deadline.whole),
            (Ok(()), None) => garbled("it is gone, and nobody knows how"),
        }
    }

    /// Whether it has ended by itself. It is not waited for yet, so its number stays its own.
    fn has_exited(&self) -> bool {
        let Some(process) = &self.process else { return true };
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        // An error means that there is no such child any more.
        !matches!(waitid(WaitId::Pid(number(process)), look), Ok(None))
    }

    fn exits_within(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.has_exited() {
            if Instant::now() >= until {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Ends the child and says what was the matter with it.
    fn fault(&mut self, cause: Cause) -> Fault {
        self.end();
        let output = self.output();
        Fault { cause, doing: std::mem::take(&mut self.doing), output }
    }

    /// Kills what is left of the child and of what it started, and waits for it.
    fn end(&mut self) -> Option<ExitStatus> {
        let mut process = self.process.take()?;
        // The group first: as long as its leader is not waited for, nobody else can have its number. There is none if the
        // child has not come so far; it is killed by itself in any case.
        _ = rustix::process::kill_process_group(number(&process), Signal::KILL);
        _ = process.kill();
        self.process = Some(process);
        let gone = self.exits_within(END);
        let mut process = self.process.take()?;
        if gone {
            return process.wait().ok();
        }
        // The kernel holds it, as a file system does that does not answer. The host does not wait with it.
        log::error!("the process {} was killed and does not end; it is waited for in the background", process.id());
        thread::spawn(move || process.wait());
        None
    }

    fn say_what_is_missing(&self) {
        static SAID: Once = Once::new();

        let missing = &self.confinement.missing;
        if !missing.is_empty() {
            SAID.call_once(|| {
                log::warn!("candidates are tried in processes that lack: {}", missing.join("; "));
            });
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

fn number(process: &process::Child) -> Pid {
    Pid::from_child(process)
}

fn garbled(what: impl Into<String>) -> Cause {
    Cause::Garbled { what: what.into() }
}
