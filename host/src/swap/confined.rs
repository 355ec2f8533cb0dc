//! What this executable does when a host has started it a second time, confined: it tries candidates.
//!
//! Parent and child are the same program, so what one writes the other can read; only what passed through the hands of a
//! plugin may be anything.

use std::{borrow::Cow, fmt, io, panic, process::ExitCode, thread, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{probe, rehearsal};
use crate::{
    config,
    exec::STACK_BYTES,
    plugin::{self, Generation, LoadError, Staged},
    sandbox::{self, Child, Desk, Limits, Program, SpawnError},
};

/// The command that makes this executable a child. It is not meant for people.
pub const COMMAND: &str = "confined";

/// What a child is asked to do.
#[derive(Serialize, Deserialize)]
pub(super) enum Task {
    /// Try a candidate.
    Probe(probe::Task),
    /// Do a part of a rehearsal.
    Rehearse(Bytes<'static>),
}

impl Task {
    /// The task as a child takes it.
    pub(super) fn encode(&self) -> Vec<u8> {
        theseus_value::to_vec(self).expect("a task is made of plain structs")
    }
}

/// Works as a child, until the host that started it has enough.
pub fn work() -> ExitCode {
    let mut rehearsal = rehearsal::Worker::default();
    sandbox::serve(&mut |request, desk| {
        let task = theseus_value::from_slice(request).expect("parent and child are the same program");
        match task {
            Task::Probe(task) => {
                theseus_value::to_vec(&probe::work(&task, desk)).expect("an answer is made of plain structs")
            }
            Task::Rehearse(request) => rehearsal.work(&request.0, desk),
        }
    })
}

/// Starts a child for a file of so many bytes.
pub(super) fn spawn(settings: &config::Plugins, file_bytes: u64) -> Result<Child, SpawnError> {
    let processors = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let limits = Limits {
        memory_bytes: settings.probe_memory_bytes_max,
        output_bytes: settings.probe_output_bytes_max,
        file_bytes,
        processor_s: (settings.probe_ms_max / 1000 + 1) * processors,
    };
    Child::spawn(&Program::this(&[COMMAND])?, &limits)
}

/// How long a child may take for a candidate.
pub(super) fn deadline(settings: &config::Plugins) -> Duration {
    Duration::from_millis(settings.probe_ms_max)
}

/// In a child: runs something on a thread like those that execute messages, and gives back what came of it once that thread
/// has ended, with the destructors of its thread-locals.
pub(super) fn on_a_thread<R: Send>(run: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("trial".into()).stack_size(STACK_BYTES).spawn_scoped(scope, run);
        let thread = thread.unwrap_or_else(|error| panic!("there is no thread to try the plugin on: {error}"));
        // A panic here is one of this program, and ends the child.
        thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}

/// What a child needs to [`load`]: the bytes of the file, as they are. They are many, so they are not part of a task, where
/// each encoding would copy them.
pub(super) const FILE: &[u8] = b"file";

/// In a child: makes a loaded plugin of the file that the parent gives for [`FILE`], telling it each step.
pub(super) fn load(origin: &str, desk: &mut Desk) -> Result<Generation, CannotLoad> {
    desk.doing("seal");
    let staged = Staged::seal(&*desk.need(FILE), origin.as_ref()).map_err(CannotLoad::Seal)?;
    sandbox::forbid_files();
    let inspection = plugin::inspect_staged(&staged).map_err(CannotLoad::Inspect)?;
    plugin::load_telling(staged, inspection, &mut |step| desk.doing(step)).map_err(CannotLoad::Load)
}

/// Why a child could not load what the host had found acceptable.
#[derive(Debug, thiserror::Error)]
pub(super) enum CannotLoad {
    /// There is no memory for it.
    #[error("it cannot be copied into memory: {0}; raise plugins.probe_memory_bytes_max")]
    Seal(io::Error),
    /// It was acceptable before.
    #[error(transparent)]
    Inspect(plugin::Refusal),
    /// The library cannot be loaded.
    #[error(transparent)]
    Load(LoadError),
}

/// Bytes that are encoded as bytes, not as a list of numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bytes<'a>(pub Cow<'a, [u8]>);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes<'static> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BytesVisitor;

        impl de::Visitor<'_> for BytesVisitor {
            type Value = Bytes<'static>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Bytes(Cow::Owned(bytes.to_vec())))
            }
        }

        deserializer.deserialize_bytes(BytesVisitor)
    }
}
