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
    AnyRef, Error, Ref, Result, Slots,
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
        decoded(&result, method, target)
    }

    /// Runs the parents' version of a method on this very object: from within a command, `cx.resend(self, "deposit", (n,))`.
    ///
    /// The search begins at the parents of the object in which the running method was found, and passes over those that would
    /// only give the running behaviour once more. The method works on `this` as it is now, and what it changed is in `this`
    /// afterwards. It may be a command or a query.
    ///
    /// # Errors
    ///
    /// What the method returned, or the host's reason why there was none: [`NO_SUCH_METHOD`](FailureCode::NO_SUCH_METHOD) if no
    /// parent has it, [`AMBIGUOUS`](FailureCode::AMBIGUOUS) if parents of equal rank have different ones. `this` is then as before.
    pub fn resend<R: DeserializeOwned, B: Slots>(
        &mut self,
        this: &mut B,
        method: &str,
        arguments: impl Serialize,
    ) -> Result<R> {
        self.resend_command(this, RNone, method, &arguments)
    }

    /// [`resend`](Self::resend) to one of several parents, which is named.
    ///
    /// # Errors
    ///
    /// As [`resend`](Self::resend); [`BAD_ARGUMENTS`](FailureCode::BAD_ARGUMENTS) if it is no parent of the object in which the running
    /// method was found.
    pub fn resend_to<R: DeserializeOwned, B: Slots>(
        &mut self,
        this: &mut B,
        parent: impl Into<ObjectId>,
        method: &str,
        arguments: impl Serialize,
    ) -> Result<R> {
        self.resend_command(this, RSome(parent.into().0), method, &arguments)
    }

    /// [`resend`](Self::resend) from within a query, to a query.
    ///
    /// # Errors
    ///
    /// As [`resend`](Self::resend); [`READ_ONLY`](FailureCode::READ_ONLY) if the parents' version is a command.
    pub fn resend_query<R: DeserializeOwned, B: Slots>(
        &mut self,
        this: &B,
        method: &str,
        arguments: impl Serialize,
    ) -> Result<R> {
        self.resend_slots(this, RNone, method, &arguments)
            .and_then(|(result, _)| decoded(&result, method, self.receiver))
    }

    /// [`resend_query`](Self::resend_query) to one of several parents, which is named.
    ///
    /// # Errors
    ///
    /// As [`resend_to`](Self::resend_to) and [`resend_query`](Self::resend_query).
    pub fn resend_query_to<R: DeserializeOwned, B: Slots>(
        &mut self,
        this: &B,
        parent: impl Into<ObjectId>,
        method: &str,
        arguments: impl Serialize,
    ) -> Result<R> {
        let (result, _) = self.resend_slots(this, RSome(parent.into().0), method, &arguments)?;
        decoded(&result, method, self.receiver)
    }

    fn resend_command<R: DeserializeOwned, B: Slots>(
        &mut self,
        this: &mut B,
        parent: ROption<u64>,
        method: &str,
        arguments: &impl Serialize,
    ) -> Result<R> {
        let (result, changed) = self.resend_slots(this, parent, method, arguments)?;
        if !changed.is_empty() {
            (*this, _) = B::load(changed.as_slice(), &mut |_| {})?;
        }
        decoded(&result, method, self.receiver)
    }

    /// Answers the encoded result, and the slots afterwards or nothing.
    fn resend_slots<B: Slots>(
        &mut self,
        this: &B,
        parent: ROption<u64>,
        method: &str,
        arguments: &impl Serialize,
    ) -> Result<(RVec<u8>, RVec<u8>)> {
        let arguments = encoded_arguments(arguments)?;
        let (mut slots, mut result, mut changed) = (RVec::new(), RVec::new(), RVec::new());
        this.save(&vec![Skip::Never; B::NAMES.len()], &mut slots)?;
        let (method, arguments) = (RStr::from_str(method), RSlice::from_slice(&arguments));
        let slots = RSlice::from_slice(slots.as_slice());
        (host()?.resend())(self.token, parent, method, arguments, slots, &mut result, &mut changed).into_result()?;
        Ok((result, changed))
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

    /// The parents of an object, in their order.
    pub fn parents(&mut self, object: impl Into<ObjectId>) -> Result<Vec<AnyRef>> {
        let mut parents = RVec::new();
        (host()?.parents())(self.token, object.into().0, &mut parents).into_result()?;
        Ok(parents.iter().map(|parent| Ref::new(ObjectId(*parent))).collect())
    }

    /// Gives an object other parents, all of equal rank; none makes it stand alone. Messages that begin later look along them,
    /// a method that is running goes on with the slots that it has.
    ///
    /// # Errors
    ///
    /// If one of them is not there or is named twice, or if they are too many. Cycles are allowed: looking something up ends where it
    /// has been before.
    pub fn set_parents(&mut self, object: impl Into<ObjectId>, parents: &[AnyRef]) -> Result<()> {
        let parents: Vec<u64> = parents.iter().map(|parent| parent.id().0).collect();
        Ok((host()?.set_parents())(self.token, object.into().0, RSlice::from_slice(&parents)).into_result()?)
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

    /// Begins to post a message, which is delivered after this transaction is committed, once, and also if the host crashes
    /// meanwhile: [`send`](Post::send) it, after a [`delay`](Post::delay) and again and [again](Post::every) if need be.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use theseus_plugin::prelude::*;
    /// fn remind(cx: &mut Context, who: AnyRef) -> Result<AnyRef> {
    ///     cx.post(who, "remind", ("it is time",)).delay(Duration::from_secs(60)).send()
    /// }
    /// ```
    ///
    /// `arguments` are as for [`Context::send`]. A message whose delivery fails is tried again after a while, at last set aside.
    pub fn post<A: Serialize>(&mut self, target: impl Into<ObjectId>, method: &str, arguments: A) -> Post<'_, A> {
        let (target, method) = (target.into(), method.to_owned());
        Post { context: self, target, method, arguments, delay_us: 0, every_us: 0 }
    }

    /// Takes a posted message back; answers whether it was still there. A message that is repeated ends with that, also if it does
    /// it itself.
    ///
    /// # Errors
    ///
    /// If the object is not a posted message.
    pub fn cancel(&mut self, message: impl Into<ObjectId>) -> Result<bool> {
        Ok((host()?.cancel())(self.token, message.into().0).into_result()?)
    }

    /// Asks the host for a restart cycle with a new release, once this transaction is committed.
    pub fn request_upgrade(&mut self, request: UpgradeRequest) -> Result<()> {
        let request = to_vec(&request)?;
        Ok((host()?.request_upgrade())(self.token, RSlice::from_slice(&request)).into_result()?)
    }
}

fn decoded<R: DeserializeOwned>(result: &RVec<u8>, method: &str, object: ObjectId) -> Result<R> {
    from_slice(result.as_slice()).map_err(|error| {
        let message = format!("the result of `{method}` of object {object}: {error}");
        Error::new(FailureCode::BAD_ENCODING, message)
    })
}

/// A message that is about to be posted, see [`Context::post`].
#[must_use = "a message is posted by `send`"]
#[derive(Debug)]
pub struct Post<'a, A> {
    context: &'a mut Context,
    target: ObjectId,
    method: String,
    arguments: A,
    delay_us: u64,
    every_us: u64,
}

impl<A: Serialize> Post<'_, A> {
    /// Delivers it so long after the time of this transaction.
    pub fn delay(self, delay: Duration) -> Self {
        Post { delay_us: microseconds(delay), ..self }
    }

    /// Delivers it again and again, after each such time. The schedule is fixed: it does not drift, and periods that passed
    /// while the host was down are not made up for.
    pub fn every(self, period: Duration) -> Self {
        // A period of nothing is one of a microsecond, as near as it gets.
        Post { every_us: microseconds(period).max(1), ..self }
    }

    /// Posts it, if the transaction is committed. Answers the message, for [`Context::cancel`].
    ///
    /// # Errors
    ///
    /// If there is no such object, or if too many messages wait already.
    pub fn send(self) -> Result<AnyRef> {
        let Post { context, target, method, arguments, delay_us, every_us } = self;
        let arguments = encoded_arguments(&arguments)?;
        let (method, arguments) = (RStr::from_str(&method), RSlice::from_slice(&arguments));
        let id = (host()?.post())(context.token, target.0, method, arguments, delay_us, every_us).into_result()?;
        Ok(Ref::new(ObjectId(id)))
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
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
