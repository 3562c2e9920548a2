//! What all pools do with an object: make it, judge it, take it back, end it; and write it all down.
//!
//! Everything here runs the code of others, and is called while no lock is held and the pool is in
//! order. Panics of that code stay inside, except for those of a factory and of a new object's size,
//! which reach the caller, who has lost nothing by then.

use nebula_memory_core::{
    Account, MemoryError,
    panics::{FirstPanic, quietly},
};

use crate::{
    Holder, Oversized, PoolConfig, PoolStats, Poolable,
    books::{Books, Cause},
    factory::Create,
    slot::Slot,
    watch::{Site, Watch},
};

/// What came of an object that has come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renewed {
    /// It is as large as it was.
    Same,
    /// It is larger or smaller, and charged accordingly.
    Resized,
    /// It could not be kept, and the slot is empty.
    Gone,
}

/// A factory `C` of `T`s, the books in account `A`, and the settings about single objects.
pub(crate) struct Workshop<A: Account, C> {
    // In the order in which they are dropped: what is charged is freed before it is credited.
    factory: C,
    watch: Option<Box<Watch>>,
    /// `usize::MAX` if every object is kept.
    retained: usize,
    /// Objects that come back smaller than this, and as large as they were, need no more looking
    /// after: one byte more than is retained, or zero if anything is watched.
    unnoticed: usize,
    trim: bool,
    pub(crate) books: Books<A>,
}

impl<A: Account, C> Workshop<A, C> {
    pub(crate) fn new(config: &PoolConfig, books: Books<A>, factory: C) -> Self {
        let watch = Watch::new(config);
        let retained: usize = config.retained_size.map_or(usize::MAX, Into::into);
        Self {
            factory,
            unnoticed: if watch.is_some() { 0 } else { retained.saturating_add(1) },
            watch,
            retained,
            trim: config.oversized == Oversized::Trim,
            books,
        }
    }

    pub(crate) const fn factory(&self) -> &C {
        &self.factory
    }

    /// Makes an object, and puts it into `slot`.
    ///
    /// # Errors
    /// The error of the factory, or the account's refusal, explained. The slot stays as it was.
    ///
    /// # Panics
    /// If the factory does, or the new object when it is asked about itself; as above.
    ///
    /// # Safety
    /// The caller owns the slot, and it is empty.
    pub(crate) unsafe fn make<T: Poolable, H>(&self, slot: &Slot<T, H>) -> Result<(), MemoryError>
    where
        C: Create<T>,
    {
        let object = self.factory.create()?;
        let (mut about, mut panics) = (None, FirstPanic::default());
        panics.run(|| about = Some((object.heap_size(), object.value())));
        let Some((size, value)) = about else {
            // It was made, and is no good.
            self.books.create(0)?;
            self.destroy(object, 0, Cause::Quarantined);
            panics.resume();
            return Ok(());
        };
        if let Err(error) = self.books.create(size) {
            quietly(move || object.destroy());
            return Err(error);
        }
        // SAFETY: the caller's promises are the callee's.
        unsafe { slot.fill(object, size, value) };
        Ok(())
    }

    /// Notes that the object in `slot` is lent at `site`. For the slot's owner.
    #[inline]
    pub(crate) fn lend<T, H>(&self, slot: &Slot<T, H>, site: Site) {
        slot.count_lend();
        if let Some(watch) = &self.watch {
            watch.lend(address(slot), site);
        }
    }

    /// Makes an object that has come back as good as new, and charges the change of its size.
    /// `false` if it could not be kept: then it is gone, and the slot is empty.
    ///
    /// # Safety
    /// The caller owns the slot, and there is an object, to which no reference lives.
    #[inline]
    pub(crate) unsafe fn take_back<T: Poolable, H>(&self, slot: &Slot<T, H>) -> bool {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.renew(slot) != Renewed::Gone }
    }

    /// As [`take_back`](Self::take_back), and says what came of it.
    ///
    /// # Safety
    /// The caller owns the slot, and there is an object, to which no reference lives.
    #[inline]
    pub(crate) unsafe fn renew<T: Poolable, H>(&self, slot: &Slot<T, H>) -> Renewed {
        let renewed = {
            // SAFETY: the caller's promises are the callee's; the reference ends with the block.
            let object = unsafe { slot.object_mut() };
            quietly(|| object.try_reset().then(|| (object.heap_size(), object.value())))
        };
        match renewed {
            Some(Some((size, value))) if size == slot.charged() && size < self.unnoticed => {
                slot.set_value(value);
                Renewed::Same
            }
            // SAFETY: the caller's promises are the callee's.
            Some(Some((size, value))) => unsafe { self.settle(slot, size, value) },
            failed => {
                let cause = if failed.is_none() { Cause::Quarantined } else { Cause::Spoiled };
                // SAFETY: as above.
                unsafe { self.give_up(slot, cause) };
                Renewed::Gone
            }
        }
    }

    /// Ends an object that was no good when it came back.
    ///
    /// # Safety
    /// The caller owns the slot, and there is an object, to which no reference lives.
    #[cold]
    #[inline(never)]
    unsafe fn give_up<T: Poolable, H>(&self, slot: &Slot<T, H>, cause: Cause) {
        if let Some(watch) = &self.watch {
            watch.come_back(address(slot));
        }
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.discard(slot, cause) };
    }

    /// Looks after an object that has come back and is watched, or of another size than before: keeps
    /// it, or ends it.
    ///
    /// # Safety
    /// The caller owns the slot, and there is an object, to which no reference lives.
    #[cold]
    #[inline(never)]
    unsafe fn settle<T: Poolable, H>(&self, slot: &Slot<T, H>, size: usize, value: u64) -> Renewed {
        if let Some(watch) = &self.watch {
            watch.come_back(address(slot));
        }
        let mut renewed = Some((size, value));
        if self.trim && size > self.retained {
            // SAFETY: the caller's promises are the callee's; the reference ends with the block.
            let object = unsafe { slot.object_mut() };
            renewed = quietly(|| {
                object.shrink_to(self.retained);
                (object.heap_size(), object.value())
            });
        }
        let cause = match renewed {
            None => Cause::Quarantined,
            Some((size, _)) if size > self.retained => Cause::Oversized,
            Some((size, value)) if self.books.resize(slot.charged(), size) => {
                slot.set_charged(size);
                slot.set_value(value);
                return Renewed::Resized;
            }
            Some(_) => Cause::Unaffordable,
        };
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.discard(slot, cause) };
        Renewed::Gone
    }

    /// Ends the object in `slot`, and returns the bytes credited for it.
    ///
    /// # Safety
    /// The caller owns the slot, and there is an object, to which no reference lives.
    #[cold]
    #[inline(never)]
    pub(crate) unsafe fn discard<T: Poolable, H>(&self, slot: &Slot<T, H>, cause: Cause) -> usize {
        // SAFETY: the caller's promises are the callee's.
        let (object, bytes) = unsafe { slot.take() };
        self.destroy(object, bytes, cause);
        bytes
    }

    /// Ends an object that is out of its slot, and credits it after that.
    pub(crate) fn destroy<T: Poolable>(&self, object: T, bytes: usize, cause: Cause) {
        quietly(move || object.destroy());
        self.books.destroy(bytes, cause);
    }

    /// Takes the object out of `slot`, and out of the books.
    ///
    /// # Safety
    /// The caller owns the slot, and there is an object, to which no reference lives.
    pub(crate) unsafe fn detach<T, H>(&self, slot: &Slot<T, H>) -> T {
        if let Some(watch) = &self.watch {
            watch.come_back(address(slot));
        }
        // SAFETY: the caller's promises are the callee's.
        let (object, bytes) = unsafe { slot.take() };
        self.books.detach(bytes);
        object
    }

    /// Ends all objects, also those whose guards were leaked: the pool is being dropped.
    pub(crate) fn close<'s, T, H>(&self, slots: impl Iterator<Item = &'s mut Slot<T, H>>)
    where
        T: Poolable + 's,
        H: 's,
    {
        for (object, bytes) in slots.filter_map(Slot::empty) {
            quietly(move || object.destroy());
            self.books.release(bytes);
        }
    }

    pub(crate) fn holders(&self) -> Vec<Holder> {
        self.watch.as_ref().map_or_else(Vec::new, |watch| watch.holders())
    }

    /// The figures but for those that the slots know.
    pub(crate) fn stats(&self, gets: u64) -> PoolStats {
        let mut stats = self.books.stats(gets);
        if let Some(watch) = &self.watch {
            watch.complete(&mut stats);
        }
        stats
    }
}

/// Why the object in `slot` should not be lent once more, if so.
///
/// # Safety
/// The caller owns the slot, and there is an object.
#[inline]
pub(crate) unsafe fn fault<T: Poolable, H>(slot: &Slot<T, H>) -> Option<Cause> {
    // SAFETY: the caller's promises are the callee's; the reference ends here.
    let object = unsafe { slot.object() };
    match quietly(|| object.is_valid()) {
        Some(true) => None,
        Some(false) => Some(Cause::Invalid),
        None => Some(Cause::Quarantined),
    }
}

fn address<S>(slot: &S) -> usize {
    std::ptr::from_ref(slot).addr()
}
