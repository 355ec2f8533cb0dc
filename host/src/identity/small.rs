//! Short runs of plain items that lie where their owner lies. An object of a few slots then costs one allocation for each of its
//! versions, and reading it one access to memory that is not in the cache.

use std::{fmt, ops::Deref, sync::Arc};

/// An unchangeable run of items: up to `N` of them in place, more on the heap.
#[derive(Clone)]
pub struct Small<T, const N: usize>(Place<T, N>);

#[derive(Clone)]
enum Place<T, const N: usize> {
    /// How many of the items count, and the items.
    Here(u8, [T; N]),
    /// Shared, so that a copy costs the same however many they are.
    Heap(Arc<[T]>),
}

/// The bytes of an encoded value. Most objects' slots and most results are shorter than what fits in place.
pub type Bytes = Small<u8, 38>;

impl<T: Copy + Default, const N: usize> Small<T, N> {
    /// How many bytes it has on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        match &self.0 {
            Place::Here(..) => 0,
            Place::Heap(items) => size_of_val(&**items),
        }
    }

    fn in_place(items: &[T]) -> Self {
        const { assert!(N <= u8::MAX as usize) };
        let mut place = [T::default(); N];
        place[..items.len()].copy_from_slice(items);
        Small(Place::Here(items.len() as u8, place))
    }

    /// `first`, and then the items of `rest`.
    pub(super) fn with_first(first: T, rest: &[T]) -> Self {
        if rest.len() < N {
            let mut place = [T::default(); N];
            place[0] = first;
            place[1..=rest.len()].copy_from_slice(rest);
            return Small(Place::Here(rest.len() as u8 + 1, place));
        }
        Small(Place::Heap(std::iter::once(first).chain(rest.iter().copied()).collect()))
    }
}

impl<T, const N: usize> Deref for Small<T, N> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        match &self.0 {
            Place::Here(length, place) => &place[..usize::from(*length)],
            Place::Heap(items) => items,
        }
    }
}

impl<T, const N: usize> AsRef<[T]> for Small<T, N> {
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<T: Copy + Default, const N: usize> Default for Small<T, N> {
    fn default() -> Self {
        Small::in_place(&[])
    }
}

impl<T: Copy + Default, const N: usize> From<&[T]> for Small<T, N> {
    #[inline]
    fn from(items: &[T]) -> Self {
        if items.len() <= N { Small::in_place(items) } else { Small(Place::Heap(items.into())) }
    }
}

impl<T: Copy + Default, const N: usize> From<Vec<T>> for Small<T, N> {
    fn from(items: Vec<T>) -> Self {
        if items.len() <= N { Small::in_place(&items) } else { Small(Place::Heap(items.into())) }
    }
}

impl<T: Copy + Default, const N: usize> From<Box<[T]>> for Small<T, N> {
    fn from(items: Box<[T]>) -> Self {
        if items.len() <= N { Small::in_place(&items) } else { Small(Place::Heap(items.into())) }
    }
}

impl<T: Copy + Default, const N: usize, const M: usize> From<[T; M]> for Small<T, N> {
    fn from(items: [T; M]) -> Self {
        items.as_slice().into()
    }
}

impl<T: PartialEq, const N: usize> PartialEq for Small<T, N> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq, const N: usize> Eq for Small<T, N> {}

impl<T: fmt::Debug, const N: usize> fmt::Debug for Small<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_the_same_wherever_it_lies() {
        for length in 0..80_u8 {
            let items: Vec<u8> = (0..length).collect();
            let small = Bytes::from(items.as_slice());
            assert_eq!(*small, *items);
            assert_eq!(small, Bytes::from(items.clone()));
            assert_eq!(small, Bytes::from(items.clone().into_boxed_slice()));
            assert_eq!(matches!(small.0, Place::Heap(_)), length > 38, "{length}");
            let with_first = Bytes::with_first(200, &items);
            assert_eq!(*with_first, *[&[200], &*items].concat());
            assert_eq!(matches!(with_first.0, Place::Heap(_)), length >= 38, "{length}");
        }
        assert_eq!(size_of::<Bytes>(), 40, "a size that wastes nothing");
    }
}
