//! What a child takes away from itself before it touches a foreign byte. None of it can be taken back.
//!
//! Each measure is one the kernel gives or does not: one that it does not give is named, and the child works without it.

#![allow(unsafe_code, reason = "the standard library cannot close all descriptors at once")]

use rustix::{
    io,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use serde::{Deserialize, Serialize};

use super::Limits;

/// How many files a child may have open.
const FILES_OPEN_MAX: u64 = 256;

/// What a child may not do, as its kernel has it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
pub struct Confinement {
    /// What is in force.
    pub confined: Vec<String>,
    /// What the kernel did not give, and why.
    pub missing: Vec<String>,
}

impl Confinement {
    fn note(&mut self, what: &str, outcome: Result<(), impl std::fmt::Display>) {
        match outcome {
            Ok(()) => self.confined.push(what.to_owned()),
            Err(error) => self.missing.push(format!("{what} ({error})")),
        }
    }
}

/// Confines this process, which has one thread.
pub(super) fn confine(limits: &Limits) -> Confinement {
    let mut confinement = Confinement::default();
    // Where nothing is mounted that this process would keep from being unmounted.
    _ = std::env::set_current_dir("/");
    confinement.note("a session of its own", rustix::process::setsid().map(drop));
    confinement.note("bounded memory", limit(Resource::As, limits.memory_bytes));
    confinement.note("bounded processor time", processor_time(limits.processor_s));
    confinement.note("bounded files", limit(Resource::Fsize, limits.file_bytes));
    confinement.note("bounded descriptors", limit(Resource::Nofile, FILES_OPEN_MAX));
    confinement.note("no core dump", limit(Resource::Core, 0));
    system::confine(&mut confinement);
    confinement
}

/// From now on this process makes and lengthens no file, in memory neither.
///
/// A plugin is sealed in a file in memory before it is loaded, so this comes later than the rest. Where Landlock is in
/// force, a child could not write to any other file before.
pub fn forbid_files() {
    // Lowering a limit never fails; where it is not known, there was none to begin with.
    _ = limit(Resource::Fsize, 0);
}

/// Sets a limit for good.
fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let most = Some(getrlimit(resource).maximum.map_or(most, |before| most.min(before)));
    setrlimit(resource, Rlimit { current: most, maximum: most })
}

/// A signal that can be told from others at the limit, and the end a second later.
fn processor_time(seconds: u64) -> io::Result<()> {
    limit(Resource::Cpu, seconds + 1)?;
    let maximum = getrlimit(Resource::Cpu).maximum;
    setrlimit(Resource::Cpu, Rlimit { current: Some(seconds), maximum })
}

/// Closes what was inherited beside the three standard streams.
pub(super) fn close_inherited() {
    #[cfg(target_os = "linux")]
    // SAFETY: the process has just begun and opened nothing yet that anybody refers to, so no descriptor is closed under its
    // owner. Kernels before 5.9 do not know the call; what the host opens is closed at the start of a program anyway.
    let _result = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}

#[cfg(target_os = "linux")]
mod system {
    use std::collections::BTreeMap;

    use landlock::{
        ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr, RulesetError,
        RulesetStatus, Scope,
    };
    use rustix::process::{DumpableBehavior, Signal};
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, apply_filter,
    };

    use super::Confinement;

    pub(super) fn confine(confinement: &mut Confinement) {
        _ = rustix::thread::set_name(c"theseus-try");
        // Sent when the thread ends that started this process. If it has ended before, the connection says so.
        let dies = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        confinement.note("ends with the host", dies);
        confinement.note("no new privileges", rustix::thread::set_no_new_privs(true));
        confinement.note("no memory image", rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable));
        confinement.note("no writes to files", landlock());
        confinement.note("no sockets, no processes, no signals to others", seccomp());
    }

    /// No writes anywhere, and of the newer rules those that this kernel has.
    fn landlock() -> Result<(), String> {
        let text = |error: RulesetError| error.to_string();
        let abi = ABI::V10;
        let status = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_write(abi))
            .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(abi)))
            .and_then(|ruleset| ruleset.scope(Scope::from_all(abi)))
            .and_then(Ruleset::create)
            .and_then(|ruleset| ruleset.restrict_self())
            .map_err(text)?;
        match status.landlock {
            _ if status.ruleset == RulesetStatus::NotEnforced => Err("this kernel has no Landlock".to_owned()),
            LandlockStatus::Available { effective_abi, .. } if effective_abi < ABI::V3 => {
                Err("before Linux 6.2, files can still be shortened".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn seccomp() -> Result<(), String> {
        let forbidden = forbidden(u64::from(std::process::id()));
        let forbidden = forbidden.map_err(|error| error.to_string())?;
        // The C library takes `clone` where there is no `clone3`, whose flags a filter cannot see.
        let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let filters = [(unknown, libc::ENOSYS), (forbidden, libc::EPERM)];
        filters.into_iter().try_for_each(|(calls, errno)| {
            let filter = filter(calls, errno as u32).map_err(|error| error.to_string())?;
            apply_filter(&filter).map_err(|error| error.to_string())
        })
    }

    /// A filter that refuses some calls and lets all others through.
    fn filter(calls: BTreeMap<i64, Vec<SeccompRule>>, errno: u32) -> Result<BpfProgram, BackendError> {
        let machine = std::env::consts::ARCH.try_into()?;
        SeccompFilter::new(calls, SeccompAction::Allow, SeccompAction::Errno(errno), machine)?.try_into()
    }

    /// The calls by which a process reaches others, each with the arguments for which it is refused; none are all.
    fn forbidden(own: u64) -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
        let when = |argument, length, operator, value| {
            SeccompRule::new(vec![SeccompCondition::new(argument, length, operator, value)?])
        };
        let to_others = || when(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, own);
        // Not a thread of this process, therefore a process of its own.
        let thread = libc::CLONE_THREAD as u64;
        let process = when(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), 0)?;
        let mut calls = BTreeMap::from([
            (libc::SYS_clone, vec![process]),
            (libc::SYS_kill, vec![to_others()?]),
            (libc::SYS_tgkill, vec![to_others()?]),
            (libc::SYS_rt_sigqueueinfo, vec![to_others()?]),
            (libc::SYS_rt_tgsigqueueinfo, vec![to_others()?]),
        ]);
        let always = [
            libc::SYS_socket,
            // It makes sockets, too, among all else.
            libc::SYS_io_uring_setup,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_tkill,
            libc::SYS_pidfd_open,
            libc::SYS_pidfd_send_signal,
            libc::SYS_pidfd_getfd,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
        ];
        calls.extend(always.map(|call| (call, Vec::new())));
        #[cfg(target_arch = "x86_64")]
        calls.extend([libc::SYS_fork, libc::SYS_vfork].map(|call| (call, Vec::new())));
        Ok(calls)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::Confinement;

    pub(super) fn confine(confinement: &mut Confinement) {
        confinement.note("no writes to files, no sockets, no processes", Err("only Linux can forbid them"));
    }
}
