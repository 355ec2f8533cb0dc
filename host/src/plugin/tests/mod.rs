//! The whole way of a plugin, with real files: inspected, loaded, called, retired.

mod boundary;
mod hostile;
mod inspect;
mod leaving;
mod life;
mod trust;

#[path = "../../../../tests/plugins/fixtures.rs"]
mod fixtures;

use std::path::Path;

use theseus_abi::{Failure, FailureCode, abi_stable::std_types::RVec};
use theseus_value::ObjectId;

use super::*;

/// The bare plugin in one of its modes, changed by `change`, as it would be in a file.
fn bare(mode: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = std::fs::read(fixtures::bare()).unwrap();
    if mode != "well" {
        fixtures::replace(&mut bytes, "fixture-mode=well", &format!("fixture-mode={mode}"));
    }
    change(&mut bytes);
    bytes
}

/// Stages bytes by way of a file.
fn staged(bytes: &[u8]) -> Staged {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("libbare.so");
    std::fs::write(&path, bytes).unwrap();
    stage(&path, FILE_BYTES_LIMIT).unwrap()
}

fn try_load(bytes: &[u8]) -> Result<Generation, LoadError> {
    let staged = staged(bytes);
    let inspection = inspect_staged(&staged).unwrap();
    load(staged, inspection)
}

fn load_bare(mode: &str) -> Generation {
    try_load(&bare(mode, |_| ())).unwrap()
}

/// What a host does with a message: gets the arguments, writes the result.
type OnSend<'a> = dyn FnMut(&[u8], &mut RVec<u8>) -> Result<(), Failure> + 'a;

/// A host that answers every request in a way that can be told apart, and runs `on_send` for messages.
struct TestHost<'a> {
    on_send: &'a mut OnSend<'a>,
}

impl CallHost for TestHost<'_> {
    fn send(&mut self, target: ObjectId, method: &str, arguments: &[u8], out: &mut RVec<u8>) -> Result<(), Failure> {
        assert_eq!((target, method), (ObjectId(77), "any"));
        (self.on_send)(arguments, out)
    }
    fn create(&mut self, behavior: &str, slots: &[u8]) -> Result<ObjectId, Failure> {
        assert_eq!((behavior, slots), ("bare.Other", &[0xa0][..]));
        Ok(ObjectId(1))
    }
    fn clone_object(&mut self, original: ObjectId) -> Result<ObjectId, Failure> {
        assert_eq!(original, ObjectId(1));
        Ok(ObjectId(2))
    }
    fn derive_object(&mut self, original: ObjectId) -> Result<ObjectId, Failure> {
        assert_eq!(original, ObjectId(2));
        Ok(ObjectId(3))
    }
    fn delete(&mut self, object: ObjectId) -> Result<(), Failure> {
        assert_eq!(object, ObjectId(3));
        Ok(())
    }
    fn name_get(&mut self, name: &str) -> Result<Option<ObjectId>, Failure> {
        assert_eq!(name, "known");
        Ok(Some(ObjectId(4)))
    }
    fn name_set(&mut self, name: &str, object: Option<ObjectId>) -> Result<(), Failure> {
        assert_eq!((name, object), ("name", None));
        Ok(())
    }
    fn now_us(&mut self) -> Result<u64, Failure> {
        Ok(5)
    }
    fn random(&mut self) -> Result<u64, Failure> {
        Ok(6)
    }
    fn request_upgrade(&mut self, request: &[u8]) -> Result<(), Failure> {
        assert_eq!(request, [0xa0]);
        Ok(())
    }
    fn parents(&mut self, object: ObjectId) -> Result<Box<[ObjectId]>, Failure> {
        assert_eq!(object, ObjectId(1));
        Ok([ObjectId(7), ObjectId(8)].into())
    }
    fn set_parents(&mut self, object: ObjectId, parents: &[ObjectId]) -> Result<(), Failure> {
        assert_eq!((object, parents), (ObjectId(1), &[ObjectId(8), ObjectId(7)][..]));
        Ok(())
    }
    fn post(
        &mut self,
        target: ObjectId,
        method: &str,
        arguments: &[u8],
        delay_us: u64,
        every_us: Option<u64>,
    ) -> Result<ObjectId, Failure> {
        assert_eq!((target, method, arguments), (ObjectId(1), "any", &[0x80][..]));
        assert_eq!((delay_us, every_us), (5, None));
        Ok(ObjectId(9))
    }
    fn cancel(&mut self, message: ObjectId) -> Result<bool, Failure> {
        assert_eq!(message, ObjectId(9));
        Ok(true)
    }
    fn resend(&mut self, message: &Resent<'_>, out: &mut RVec<u8>, changed: &mut RVec<u8>) -> Result<(), Failure> {
        let Resent { parent, method, arguments, slots } = *message;
        assert_eq!((parent, method, arguments, slots), (Some(ObjectId(7)), "any", &[0x80][..], &[0xa0][..]));
        out.push(0xf5);
        changed.push(0xa0);
        Ok(())
    }
}

fn refuse_to_send(_: &[u8], _: &mut RVec<u8>) -> Result<(), Failure> {
    Err(Failure::new(FailureCode::TOO_DEEP, "no messages in this test"))
}

/// Calls a method of `bare.Probe` on object 77.
fn call(
    generation: &Generation,
    method: &str,
    arguments: &[u8],
    on_send: &mut OnSend<'_>,
) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let behavior = generation.behavior("bare.Probe").unwrap();
    let mut out = CallBuffers::default();
    let method = behavior.method(method).unwrap();
    let mut host = TestHost { on_send: &mut |arguments, out| on_send(arguments, out) };
    behavior.call(&mut host, ObjectId(77), method, &[0xa0], arguments, &mut out)?;
    Ok((out.result.to_vec(), out.changes.to_vec()))
}

fn retired(generation: Generation) -> PinReason {
    let (_leaving, reason) = retire(generation).expect_err("it stays in memory");
    reason
}

/// Runs an ignored test of a module in a process of its own, where nobody else loads or opens anything.
fn in_own_process(module: &str, test: &str, environment: &[(&str, &Path)]) {
    let (_crate, module) = module.split_once("::").unwrap();
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("{module}::{test}"), "--ignored"]);
    let child = command.envs(environment.iter().copied()).output().unwrap();
    let output = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success() && output.contains("1 passed"), "{output}");
}

fn open_files() -> usize {
    Path::new("/proc/self/fd").read_dir().unwrap().count()
}

/// How many mappings of plugin images there are.
fn images() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().filter(|line| line.contains("memfd:theseus:")).count()
}
