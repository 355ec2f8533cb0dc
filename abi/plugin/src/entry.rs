//! The functions behind a plugin's tables. Each catches what unwinds; nothing else of a plugin is called from outside.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::OnceLock,
};

use serde::{Serialize, de::DeserializeOwned};
use theseus_abi::{
    Call, Failure, FailureCode, HostTableRef,
    abi_stable::std_types::{
        RResult::{self, RErr, ROk},
        RSlice, RVec,
    },
};
use theseus_value::{from_slice, raw::MapView};

use crate::{
    Error,
    behavior::{Named, Skip, Slots},
    decode::put_result,
    logging, panic,
    root::Plugin,
};

/// The host's functions, once it has handed them over.
static HOST: OnceLock<HostTableRef> = OnceLock::new();

/// The host's functions.
#[inline]
pub(crate) fn host() -> Result<HostTableRef, Error> {
    HOST.get().copied().ok_or_else(|| Error::new(FailureCode::UNSUPPORTED, "the host has not initialised this plugin"))
}

#[inline]
fn guarded(entry: impl FnOnce() -> Result<(), Error>) -> RResult<(), Failure> {
    // Small results only: whoever moves a failure's room about pays for it with each call, also where there is none.
    match catch_unwind(AssertUnwindSafe(entry)) {
        Ok(Ok(())) => ROk(()),
        Ok(Err(error)) => failed(error),
        Err(payload) => RErr(panic::failure(payload)),
    }
}

#[cold]
fn failed(error: Error) -> RResult<(), Failure> {
    RErr(error.into())
}

pub(crate) extern "C" fn init<P: Plugin>(host: HostTableRef) -> RResult<(), Failure> {
    guarded(|| {
        // A second call would come from a host that breaks its duty, and the first table stays good.
        let _ = HOST.set(host);
        logging::install();
        panic::install::<P>();
        Ok(())
    })
}

pub(crate) extern "C" fn self_test<P: Plugin>() -> RResult<(), Failure> {
    guarded(P::self_test)
}

pub(crate) extern "C" fn retire<P: Plugin>() -> RResult<(), Failure> {
    guarded(P::retire)
}

pub(crate) extern "C" fn call<B: Named>(call: &mut Call<'_>) -> RResult<(), Failure> {
    guarded(|| B::call(call))
}

pub(crate) extern "C" fn construct<B: Named>(slots: RSlice<'_, u8>, out: &mut RVec<u8>) -> RResult<(), Failure> {
    guarded(|| {
        let mut unknown = Vec::new();
        let (object, _) = B::load(slots.as_slice(), &mut |name| unknown.push(name))?;
        if !unknown.is_empty() {
            let message = format!("{} has no slot {}; it has {}", B::NAME, listed(&unknown), listed(B::NAMES));
            return Err(Error::new(FailureCode::BAD_SLOTS, message));
        }
        object.save(&vec![Skip::Never; B::NAMES.len()], out)?;
        Ok(())
    })
}

/// Names as a list for people.
fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

pub(crate) extern "C" fn migrate<B: Named>(
    from: u32,
    to: u32,
    slots: RSlice<'_, u8>,
    out: &mut RVec<u8>,
) -> RResult<(), Failure> {
    guarded(|| B::migrate(from, to, slots.as_slice(), out))
}

// The rest is called by the code that the macros write.

/// Writes the slots that a command changed, and nothing at all if it changed none.
#[inline]
pub fn save_changes<S: Slots>(object: &S, arrived: &S::Arrived<'_>, changes: &mut RVec<u8>) -> Result<(), Error> {
    let start = changes.len();
    if object.save(arrived.as_ref(), changes)? == 0 {
        changes.truncate(start);
    }
    Ok(())
}

/// Decodes the slots of another version.
pub fn read_old<T: DeserializeOwned>(slots: &[u8], version: u32) -> Result<T, Error> {
    from_slice(slots)
        .map_err(|error| Error::new(FailureCode::BAD_SLOTS, format!("the slots of version {version}: {error}")))
}

/// Encodes the slots of another version.
pub fn write_old<T: Serialize>(old: &T, out: &mut RVec<u8>) -> Result<(), Error> {
    let start = out.len();
    put_result(old, out)?;
    match MapView::new(&out.as_slice()[start..]) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::new(FailureCode::NO_MIGRATION, format!("slots are a map: {error}"))),
    }
}

/// Writes all slots of an object that was read from another version.
pub fn save_migrated<S: Slots>(object: &S, out: &mut RVec<u8>) -> Result<(), Error> {
    object.save(&vec![Skip::Never; S::NAMES.len()], out)?;
    Ok(())
}

/// The error that a method number is not in the description.
#[cold]
pub fn no_such_method(number: u32) -> Error {
    Error::new(FailureCode::NO_SUCH_METHOD, format!("method number {number} is not in the behaviour's description"))
}

/// The error that a migration is not among those that the manifest promises.
#[cold]
pub fn no_such_migration(from: u32, to: u32) -> Error {
    Error::new(FailureCode::NO_MIGRATION, format!("there is no migration from version {from} to version {to}"))
}
