//! The segments of a pool's table of slots: they come one after the other and stay until the end.

use std::{alloc::Layout, ptr::NonNull};

use nebula_memory_core::{
    MemoryError,
    layout::array_layout,
    sync::atomic::{AtomicPtr, AtomicUsize, Ordering},
};

use crate::Growth;

/// A table of up to `capacity` slots.
///
/// The slots have stable addresses, and live as long as the table.
pub(crate) struct Table<S> {
    parts: Box<[Part<S>]>,
    /// How many of them have their slots: the first so many.
    grown: AtomicUsize,
    capacity: usize,
    /// Who is adding a segment: his [`me`]. Zero if nobody is.
    grower: AtomicUsize,
}

nebula_memory_core::nebula_thread_local! {
    static HERE: u8 = 0
}

/// A number that no other thread has at the same time; above zero.
fn me() -> usize {
    HERE.with(|here| std::ptr::from_ref(here).addr())
}

/// The right to add a segment, until this is dropped.
pub(crate) struct Growing<'t>(Option<&'t AtomicUsize>);

impl Drop for Growing<'_> {
    fn drop(&mut self) {
        if let Some(grower) = self.0 {
            grower.store(0, Ordering::Release);
        }
    }
}

struct Part<S> {
    /// The first of `len` slots, in a box of the part's own; null until the table has grown so far.
    slots: AtomicPtr<S>,
    len: usize,
}

// SAFETY: a table is a collection of slots, which it owns (sending it sends them) and hands out by
// shared reference only.
unsafe impl<S: Send> Send for Table<S> {}
// SAFETY: as above.
unsafe impl<S: Send + Sync> Sync for Table<S> {}

/// Moves `slots` new slots to the heap.
///
/// # Errors
/// If the system has no memory for them.
pub(crate) fn new_segment<S>(
    slots: usize,
    make: impl FnMut(usize) -> S,
) -> Result<Box<[S]>, MemoryError> {
    let layout: Layout = array_layout::<S>(slots)?;
    let mut segment = Vec::new();
    segment.try_reserve_exact(slots).map_err(|_| MemoryError::out_of_memory(layout))?;
    segment.extend((0..slots).map(make));
    Ok(segment.into_boxed_slice())
}

impl<S> Table<S> {
    /// Bytes that the table takes before it has any slots.
    ///
    /// # Errors
    /// If no such table can be.
    pub(crate) fn bytes(capacity: usize, growth: Growth) -> Result<usize, MemoryError> {
        // A table whose slots could not all be is refused at once, not when it is full.
        array_layout::<S>(capacity)?;
        Ok(array_layout::<Part<S>>(growth.count(capacity, usize::MAX))?.size())
    }

    /// A table without slots.
    ///
    /// # Errors
    /// If the system has no memory for it.
    pub(crate) fn new(capacity: usize, growth: Growth) -> Result<Self, MemoryError> {
        let mut sizes = growth.segments(capacity, usize::MAX);
        let count = growth.count(capacity, usize::MAX);
        let parts = new_segment(count, |_| Part {
            slots: AtomicPtr::new(std::ptr::null_mut()),
            len: sizes.next().unwrap_or(0),
        })?;
        Ok(Self { parts, grown: AtomicUsize::new(0), capacity, grower: AtomicUsize::new(0) })
    }

    /// How many slots there can be.
    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many slots there are.
    pub(crate) fn len(&self) -> usize {
        let grown = self.grown.load(Ordering::Acquire);
        self.parts[..grown].iter().map(|part| part.len).sum()
    }

    /// Bytes that the next segment takes; `None` if the table has all.
    pub(crate) fn next_segment(&self) -> Option<usize> {
        let part = self.parts.get(self.grown.load(Ordering::Acquire))?;
        Some(part.len * size_of::<S>())
    }

    /// The right to charge and add a segment. `None` if another thread has it, whose segment may be
    /// enough: an account that has room for one need not have room for two. (The same thread may have
    /// it twice, because an account's code may use the pool.)
    pub(crate) fn begin(&self) -> Option<Growing<'_>> {
        let me = me();
        match self.grower.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Some(Growing(Some(&self.grower))),
            Err(other) => (other == me).then_some(Growing(None)),
        }
    }

    /// Adds the next segment, if that is one of `bytes` bytes and nobody else adds it first: `None`
    /// then. Otherwise the new slots.
    ///
    /// # Errors
    /// If the system has no memory for it.
    pub(crate) fn grow(
        &self,
        bytes: usize,
        make: impl FnMut(usize) -> S,
    ) -> Result<Option<&[S]>, MemoryError> {
        let grown = self.grown.load(Ordering::Acquire);
        let Some(part) = self.parts.get(grown).filter(|p| p.len * size_of::<S>() == bytes) else {
            return Ok(None);
        };
        let segment = NonNull::from(Box::leak(new_segment(part.len, make)?));
        let first = segment.cast::<S>().as_ptr();
        let null = std::ptr::null_mut();
        let ours = part.slots.compare_exchange(null, first, Ordering::AcqRel, Ordering::Acquire);
        // Whoever comes second sees to it as well that the slots can be found.
        let next = (grown, grown + 1);
        let _ = self.grown.compare_exchange(next.0, next.1, Ordering::AcqRel, Ordering::Acquire);
        if ours.is_err() {
            // SAFETY: it is the box that was leaked above, and nobody has seen it.
            drop(unsafe { Box::from_raw(segment.as_ptr()) });
            return Ok(None);
        }
        // SAFETY: the segment belongs to the table from now on, which frees it when it is dropped;
        // slots are only ever shared.
        Ok(Some(unsafe { segment.as_ref() }))
    }

    /// The slots of one part.
    fn slots(part: &Part<S>) -> &[S] {
        let Some(first) = NonNull::new(part.slots.load(Ordering::Acquire)) else { return &[] };
        // SAFETY: the pointer was made of a box of `len` slots, which lives as long as the table,
        // and thus as long as the part is borrowed; the slots are only ever shared.
        unsafe { NonNull::slice_from_raw_parts(first, part.len).as_ref() }
    }

    /// All slots that there are, in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &S> + Clone {
        let grown = self.grown.load(Ordering::Acquire);
        self.parts[..grown].iter().flat_map(Self::slots)
    }

    /// All slots that there are, exclusively.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut S> {
        self.parts.iter_mut().flat_map(|part| {
            let first = part.slots.load(Ordering::Acquire);
            match NonNull::new(first) {
                None => &mut [],
                // SAFETY: as in `slots`; the exclusive borrow of the table is one of its slots.
                Some(first) => unsafe { NonNull::slice_from_raw_parts(first, part.len).as_mut() },
            }
        })
    }
}

impl<S> Drop for Table<S> {
    fn drop(&mut self) {
        for part in &mut self.parts {
            if let Some(first) = NonNull::new(part.slots.load(Ordering::Acquire)) {
                let segment = NonNull::slice_from_raw_parts(first, part.len);
                // SAFETY: the pointer was made of this box by `grow`, and nobody borrows the table
                // any more.
                drop(unsafe { Box::from_raw(segment.as_ptr()) });
            }
        }
    }
}

#[cfg(all(test, not(nebula_loom)))]
mod tests {
    use super::{Growth, Table};

    fn all(table: &Table<Box<usize>>) -> Vec<usize> {
        table.iter().map(|slot| **slot).collect()
    }

    #[test]
    fn segments_come_one_after_the_other() {
        let mut table = Table::<Box<usize>>::new(5, Growth::Doubling(2)).unwrap();
        assert_eq!((table.len(), table.capacity()), (0, 5));
        for len in [2, 4, 5] {
            let bytes = table.next_segment().unwrap();
            let new = table.grow(bytes, Box::new).unwrap().unwrap();
            assert_eq!(size_of_val(new), bytes);
            assert_eq!((table.len(), table.iter().count()), (len, len));
        }
        assert_eq!(table.next_segment(), None);
        assert_eq!(all(&table), [0, 1, 0, 1, 0]);
        table.iter_mut().for_each(|slot| **slot += 1);
        assert_eq!(all(&table), [1, 2, 1, 2, 1]);
    }

    #[test]
    fn one_thread_at_a_time_grows() {
        let table = Table::<Box<usize>>::new(10, Growth::Fixed(1)).unwrap();
        let other = || std::thread::scope(|s| s.spawn(|| table.begin().is_some()).join().unwrap());
        let first = table.begin().unwrap();
        assert!(!other());
        drop(table.begin().unwrap());
        assert!(!other(), "the first is still at it");
        drop(first);
        assert!(other());
    }

    #[test]
    fn a_segment_that_is_there_already_is_not_added_twice() {
        let table = Table::<Box<usize>>::new(10, Growth::Doubling(5)).unwrap();
        let bytes = table.next_segment().unwrap();
        assert!(table.grow(bytes + 1, Box::new).unwrap().is_none());
        assert!(table.grow(bytes, Box::new).unwrap().is_some());
        assert!(table.grow(bytes, Box::new).unwrap().is_some());
        assert!(table.grow(bytes, Box::new).unwrap().is_none());
    }

    #[test]
    fn threads_that_grow_at_once_share_what_comes_of_it() {
        let table = Table::<Box<usize>>::new(64, Growth::Fixed(4)).unwrap();
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    while let Some(bytes) = table.next_segment() {
                        let _ = table.grow(bytes, Box::new).unwrap();
                    }
                });
            }
        });
        assert_eq!(table.iter().count(), 64);
    }
}
