//! References to objects.

use std::{fmt, hash, marker::PhantomData};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use theseus_value::ObjectId;

/// A reference to an object whose behaviour the author takes to be `T`.
///
/// The type is a note to the reader and to [`Context::create`](crate::Context::create); the host does not check it. It keeps
/// the object alive: an object that no other refers to and that has no name may be collected.
pub struct Ref<T: ?Sized> {
    id: ObjectId,
    behavior: PhantomData<fn() -> T>,
}

/// A reference to an object of whatever behaviour.
pub type AnyRef = Ref<()>;

impl<T: ?Sized> Ref<T> {
    /// A reference to the object with this id.
    pub const fn new(id: ObjectId) -> Self {
        Ref { id, behavior: PhantomData }
    }

    /// The object's id.
    pub const fn id(self) -> ObjectId {
        self.id
    }

    /// The same object, taken to have another behaviour.
    pub const fn cast<U: ?Sized>(self) -> Ref<U> {
        Ref::new(self.id)
    }
}

// Derived impls would ask the same of `T`, which is only a note.

impl<T: ?Sized> Clone for Ref<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized> Copy for Ref<T> {}

impl<T: ?Sized> PartialEq for Ref<T> {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl<T: ?Sized> Eq for Ref<T> {}

impl<T: ?Sized> PartialOrd for Ref<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: ?Sized> Ord for Ref<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.id.cmp(&other.id)
    }
}

impl<T: ?Sized> hash::Hash for Ref<T> {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl<T: ?Sized> fmt::Debug for Ref<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ref({})", self.id)
    }
}

impl<T: ?Sized> fmt::Display for Ref<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl<T: ?Sized> From<ObjectId> for Ref<T> {
    fn from(id: ObjectId) -> Self {
        Ref::new(id)
    }
}

impl<T: ?Sized> From<Ref<T>> for ObjectId {
    fn from(reference: Ref<T>) -> Self {
        reference.id
    }
}

impl<T: ?Sized> Serialize for Ref<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.id.serialize(serializer)
    }
}

impl<'de, T: ?Sized> Deserialize<'de> for Ref<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        ObjectId::deserialize(deserializer).map(Ref::new)
    }
}
