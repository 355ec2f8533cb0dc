//! From bytes to slots and arguments, and from values to bytes: what the code that the macros write calls.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use theseus_abi::{FailureCode, abi_stable::std_types::RVec};
use theseus_value::{
    DecodeError, from_slice,
    raw::{Buffer, Fields, Kind, MapView, Reader, Writer, key_order},
    to_writer,
};

use crate::{Error, behavior::Skip};

/// A vector of the host as something to encode into.
struct Out<'a>(&'a mut RVec<u8>);

impl Buffer for Out<'_> {
    #[inline]
    fn len(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn extend(&mut self, bytes: &[u8]) {
        self.0.extend_from_copy_slice(bytes);
    }

    #[inline]
    fn extend_zeroed(&mut self, len: usize) {
        self.0.resize(self.0.len() + len, 0);
    }

    #[inline]
    fn push(&mut self, byte: u8) {
        self.0.push(byte);
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice()
    }
}

/// Decodes slots from a map.
pub struct SlotReader<'de, 'a> {
    fields: Fields<'de>,
    unknown: &'a mut dyn FnMut(&'de str),
}

impl<'de, 'a> SlotReader<'de, 'a> {
    /// Begins with the first slot. Names that are no slot go to `unknown`.
    #[inline(always)] // a result of this size is slow to hand over
    pub fn new(slots: &'de [u8], unknown: &'a mut dyn FnMut(&'de str)) -> Result<Self, Error> {
        match Fields::new(slots) {
            Ok(fields) => Ok(SlotReader { fields, unknown }),
            Err(error) => Err(broken_slots(error)),
        }
    }

    /// Decodes the slot `name`, if it is there. Slots are asked for in canonical order.
    #[inline]
    pub fn slot<T: DeserializeOwned>(
        &mut self,
        name: &'static str,
        type_name: &'static str,
    ) -> Result<(Option<T>, Skip<'de>), Error> {
        match self.fields.seek(name, self.unknown) {
            Ok(true) => {}
            Ok(false) => return Ok((None, Skip::IfDefault)),
            Err(error) => return Err(broken_slots(error)),
        }
        match self.fields.value() {
            Ok((value, item)) => Ok((Some(value), Skip::IfEqual(item))),
            Err(error) => Err(bad_slot(name, type_name, error)),
        }
    }

    /// Goes through what is left.
    #[inline]
    pub fn finish(self) -> Result<(), Error> {
        self.fields.finish(self.unknown).map_err(broken_slots)
    }
}

#[cold]
fn broken_slots(error: DecodeError) -> Error {
    Error::new(FailureCode::BAD_SLOTS, format!("the slots are broken: {error}"))
}

#[cold]
fn bad_slot(name: &str, type_name: &str, error: DecodeError) -> Error {
    Error::new(FailureCode::BAD_SLOTS, format!("slot `{name}` ({type_name}): {error}"))
}

/// Writes a map of slots.
pub struct SlotWriter<'a> {
    out: Out<'a>,
    start: usize,
    written: usize,
}

impl<'a> SlotWriter<'a> {
    /// Begins a map at the end of `out`.
    #[inline]
    pub fn new(out: &'a mut RVec<u8>) -> Self {
        let mut out = Out(out);
        let start = Writer::new(&mut out).open_map();
        SlotWriter { out, start, written: 0 }
    }

    /// Writes a slot, unless it is to be left out. Slots come in canonical order.
    #[inline]
    pub fn slot<T: Serialize>(
        &mut self,
        name: &str,
        value: &T,
        skip: Skip<'_>,
        default: Option<&T>,
    ) -> Result<(), Error> {
        let before = self.out.len();
        Writer::new(&mut self.out).text(name);
        let encoded = self.out.len();
        to_writer(value, &mut self.out)?;
        let unchanged = match (skip, default) {
            (Skip::IfEqual(arrived), _) => &self.out.bytes()[encoded..] == arrived,
            (Skip::IfDefault, Some(default)) => self.out.bytes()[encoded..] == theseus_value::to_vec(default)?,
            _ => false,
        };
        if unchanged {
            self.out.truncate(before);
        } else {
            self.written += 1;
        }
        Ok(())
    }

    /// Ends the map and says how many slots it has.
    #[inline]
    pub fn finish(mut self) -> usize {
        Writer::new(&mut self.out).close_map(self.start, self.written);
        self.written
    }
}

/// What a method is called and takes.
pub struct Signature<const N: usize> {
    /// The method's name.
    pub method: &'static str,
    /// Name and type of each argument, in the order of the author.
    pub arguments: [(&'static str, &'static str); N],
    /// The numbers of the arguments in the canonical order of their names.
    pub canonical: [usize; N],
}

/// Finds the arguments of a method: in a map by name, in an array by position, or in nothing at all.
#[inline]
pub fn arguments<'de, const N: usize>(
    encoded: &'de [u8],
    signature: &'static Signature<N>,
) -> Result<[Option<&'de [u8]>; N], Error> {
    if encoded.is_empty() { Ok([None; N]) } else { given_arguments(encoded, signature) }
}

fn given_arguments<'de, const N: usize>(
    encoded: &'de [u8],
    signature: &'static Signature<N>,
) -> Result<[Option<&'de [u8]>; N], Error> {
    let mut reader = Reader::new(encoded);
    let found = match reader.peek() {
        Ok(Kind::Map) => by_name(encoded, signature),
        Ok(Kind::Array) => by_position(reader, signature),
        Ok(Kind::Null) => reader.null().and_then(|_| reader.finish()).map(|()| Ok([None; N])),
        _ => Ok(Err(no_arguments(encoded, signature))),
    };
    found.unwrap_or_else(|error| Err(bad_arguments(signature.method, &format!("the arguments are broken: {error}"))))
}

/// The outer error says that the encoding is broken.
type Found<'de, const N: usize> = Result<Result<[Option<&'de [u8]>; N], Error>, DecodeError>;

fn by_name<'de, const N: usize>(encoded: &'de [u8], signature: &'static Signature<N>) -> Found<'de, N> {
    let mut items = [None; N];
    let mut next = 0;
    for entry in MapView::new(encoded)?.iter() {
        let (name, item) = entry?;
        let known = |next: usize| signature.arguments[signature.canonical[next]].0;
        while next < N && key_order(known(next), name).is_lt() {
            next += 1;
        }
        if next == N || known(next) != name {
            let message = format!("there is no argument `{name}`; {}", takes(signature));
            return Ok(Err(bad_arguments(signature.method, &message)));
        }
        items[signature.canonical[next]] = Some(item);
        next += 1;
    }
    Ok(Ok(items))
}

fn by_position<'de, const N: usize>(mut reader: Reader<'de>, signature: &'static Signature<N>) -> Found<'de, N> {
    let mut items = [None; N];
    let given = reader.array()?;
    if given > N {
        let message = format!("{given} arguments are given; {}", takes(signature));
        return Ok(Err(bad_arguments(signature.method, &message)));
    }
    for item in &mut items[..given] {
        *item = Some(reader.item()?);
    }
    reader.finish()?;
    Ok(Ok(items))
}

/// Decodes one argument. One that was not given is taken for null, which suits optional arguments and no others.
#[inline]
pub fn argument<'de, const N: usize, T: Deserialize<'de>>(
    item: Option<&'de [u8]>,
    signature: &'static Signature<N>,
    number: usize,
) -> Result<T, Error> {
    const NULL: &[u8] = &[0xf6];
    match from_slice(item.unwrap_or(NULL)) {
        Ok(value) => Ok(value),
        Err(error) => Err(bad_argument(item.map(|_| error), signature, number)),
    }
}

#[cold]
fn bad_argument<const N: usize>(error: Option<DecodeError>, signature: &'static Signature<N>, number: usize) -> Error {
    let (name, type_name) = signature.arguments[number];
    let message = match error {
        Some(error) => format!("argument `{name}` ({type_name}): {error}"),
        None => format!("the argument `{name}` ({type_name}) is missing"),
    };
    bad_arguments(signature.method, &message)
}

#[cold]
fn no_arguments<const N: usize>(encoded: &[u8], signature: &'static Signature<N>) -> Error {
    let found = theseus_value::raw::describe(encoded);
    let message = format!("expected a map by name or an array by position, found {found}; {}", takes(signature));
    bad_arguments(signature.method, &message)
}

fn takes<const N: usize>(signature: &Signature<N>) -> String {
    let arguments: Vec<_> =
        signature.arguments.iter().map(|(name, type_name)| format!("{name}: {type_name}")).collect();
    format!("it takes ({})", arguments.join(", "))
}

#[cold]
fn bad_arguments(method: &str, message: &str) -> Error {
    Error::new(FailureCode::BAD_ARGUMENTS, format!("{method}: {message}"))
}

/// Encodes what a method returned.
#[inline]
pub fn put_result<T: Serialize + ?Sized>(value: &T, out: &mut RVec<u8>) -> Result<(), Error> {
    Ok(to_writer(value, &mut Out(out))?)
}
