//! What a method can ask of the host.

use std::{
    marker::PhantomData,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use theseus_abi::{
    CallToken, FailureCode,
    abi_stable::std_types::{RNone, ROption, RSlice, RSome, RStr, RVec},
};
use theseus_value::{
    ObjectId, from_slice,
    raw::{Kind, Reader, describe},
    to_vec,
};

use crate::{
    AnyRef, Error, Ref, Result,
    behavior::{Named, Skip},
    entry::host,
};

/// The transaction that a method runs in: its way to other objects, and to everything else that is not in its own slots.
///
/// A method asks for it by an argument `cx: &mut Context` right after `self`. Everything done through it belongs to the
/// transaction, and is undone with it. In a query only reading works; the rest is refused with
/// [`READ_ONLY`](FailureCode::READ_ONLY).
///
/// An error of any function here is the host's or the other object's own and can be passed on with `?`. A method may also go on
/// after one: what the failed message had changed is undone. Only after a failure of the storage is the transaction lost.
#[derive(Debug)]
pub struct Context {
    token: CallToken,
    receiver: ObjectId,
    /// The host answers only on the thread of the call.
    not_send: PhantomData<*const ()>,
}

impl Context {
    #[doc(hidden)]
    #[inline]
    pub fn new(token: CallToken, receiver: u64) -> Self {
        Context { token, receiver: ObjectId(receiver), not_send: PhantomData }
    }

    /// The object that received the message.
    pub fn receiver(&self) -> AnyRef {
        Ref::new(self.receiver)
    }

    /// Sends a message and waits for its result.
    ///
    /// `arguments` is a struct or map (arguments by name), a tuple or array (by position), or `()` for none.
    ///
    /// # Errors
    ///
    /// What the other object's method returned, or the host's reason why there was none.
    pub fn send<R: DeserializeOwned>(
        &mut self,
        target: impl Into<ObjectId>,
        method: &str,
        arguments: impl Serialize,
    ) -> Result<R> {
        let target = target.into();
        let arguments = encoded_arguments(&arguments)?;
        let mut result = RVec::new();
        (host()?.send())(self.token, target.0, RStr::from_str(method), RSlice::from_slice(&arguments), &mut result)
            .into_result()?;
        from_slice(result.as_slice()).map_err(|error| {
            let message = format!("the result of `{method}` of object {target}: {error}");
            Error::new(FailureCode::BAD_ENCODING, message)
        })
    }

    /// Makes an object with these slots.
    pub fn create<T: Named>(&mut self, object: &T) -> Result<Ref<T>> {
        let mut slots = RVec::new();
        object.save(&vec![Skip::Never; T::NAMES.len()], &mut slots)?;
        self.create_encoded(T::NAME, slots.as_slice())
    }

    /// Makes an object of a behaviour that may belong to another plugin. `slots` is a struct or a map, or `()`; those left out
    /// get the behaviour's defaults.
    pub fn create_named(&mut self, behavior: &str, slots: impl Serialize) -> Result<AnyRef> {
        const EMPTY_MAP: &[u8] = &[0xa0];
        let encoded = to_vec(&slots)?;
        match Reader::new(&encoded).peek()? {
            Kind::Map => self.create_encoded(behavior, &encoded),
            Kind::Null => self.create_encoded(behavior, EMPTY_MAP),
            _ => Err(Error::new(FailureCode::BAD_SLOTS, format!("slots are a map, not {}", describe(&encoded)))),
        }
    }

    fn create_encoded<T: ?Sized>(&mut self, behavior: &str, slots: &[u8]) -> Result<Ref<T>> {
        let id = (host()?.create())(self.token, RStr::from_str(behavior), RSlice::from_slice(slots)).into_result()?;
        Ok(Ref::new(ObjectId(id)))
    }

    /// Copies an object: its own slots and its parents.
    pub fn clone_object<T: ?Sized>(&mut self, original: Ref<T>) -> Result<Ref<T>> {
        let id = (host()?.clone_object())(self.token, original.id().0).into_result()?;
        Ok(Ref::new(ObjectId(id)))
    }

    /// Makes an object without slots of its own, which delegates to `parent`.
    pub fn derive<T: ?Sized>(&mut self, parent: Ref<T>) -> Result<Ref<T>> {
        let id = (host()?.derive_object())(self.token, parent.id().0).into_result()?;
        Ok(Ref::new(ObjectId(id)))
    }

    /// Removes an object. Its history stays; its id is never given again.
    pub fn delete(&mut self, object: impl Into<ObjectId>) -> Result<()> {
        Ok((host()?.delete())(self.token, object.into().0).into_result()?)
    }

    /// The object that carries a name.
    pub fn find(&mut self, name: &str) -> Result<Option<AnyRef>> {
        let found = (host()?.name_get())(self.token, RStr::from_str(name)).into_result()?;
        Ok(found.into_option().map(|id| Ref::new(ObjectId(id))))
    }

    /// Gives an object a name. One that another object carries has to be freed first.
    pub fn name(&mut self, name: &str, object: impl Into<ObjectId>) -> Result<()> {
        self.set_name(name, RSome(object.into().0))
    }

    /// Frees a name.
    pub fn unname(&mut self, name: &str) -> Result<()> {
        self.set_name(name, RNone)
    }

    fn set_name(&mut self, name: &str, object: ROption<u64>) -> Result<()> {
        Ok((host()?.name_set())(self.token, RStr::from_str(name), object).into_result()?)
    }

    /// The time of the transaction: the same for its whole length, and recorded, so that it can be executed again.
    pub fn now(&mut self) -> Result<Time> {
        Ok(Time::from_us((host()?.now_us())(self.token).into_result()?))
    }

    /// The next number of the transaction's random sequence, whose seed is recorded. Not for secrets.
    pub fn random(&mut self) -> Result<u64> {
        Ok((host()?.random())(self.token).into_result()?)
    }

    /// Asks the host for a restart cycle with a new release, once this transaction is committed.
    pub fn request_upgrade(&mut self, request: UpgradeRequest) -> Result<()> {
        let request = to_vec(&request)?;
        Ok((host()?.request_upgrade())(self.token, RSlice::from_slice(&request)).into_result()?)
    }
}

/// Arguments as they cross: a map, an array, or nothing.
fn encoded_arguments(arguments: &impl Serialize) -> Result<Vec<u8>> {
    let encoded = to_vec(arguments)?;
    match Reader::new(&encoded).peek()? {
        Kind::Map | Kind::Array => Ok(encoded),
        Kind::Null => Ok(Vec::new()),
        _ => {
            let found = describe(&encoded);
            let message = format!("arguments are a struct, a map, a tuple, an array or (), not {found}");
            Err(Error::new(FailureCode::BAD_ARGUMENTS, message))
        }
    }
}

/// Which release a plugin wants the host to become, and why.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct UpgradeRequest {
    /// The path of the bundle on the host's machine.
    pub bundle: String,
    /// Why, for the history.
    pub reason: String,
}

/// A point in time, in microseconds since the Unix epoch. In slots it is an integer.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[serde(transparent)]
pub struct Time {
    us: u64,
}

impl Time {
    /// So many microseconds after the Unix epoch.
    pub const fn from_us(us: u64) -> Self {
        Time { us }
    }

    /// Microseconds since the Unix epoch.
    pub const fn us(self) -> u64 {
        self.us
    }

    /// How long after `earlier` this is; nothing if it is not.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.us.saturating_sub(earlier.us))
    }
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> Self {
        UNIX_EPOCH + Duration::from_micros(time.us)
    }
}
