//! What goes over the whole of a lock-free pool: dropping idle objects, and storage that is empty.

use nebula_memory_core::{Account, MemoryError, PressureLevel, Reclaim};

use super::{
    LockFreePool,
    part::{Part, Place},
};
use crate::{Maintained, Poolable, books::Cause, keeping::Quota, slot::Slot};

impl<T: Poolable, A: Account> LockFreePool<T, A> {
    /// Drops all idle objects, and the storage of places where that leaves none; returns the bytes
    /// credited.
    ///
    /// Storage is freed when nobody looks at it any more. If somebody does at this moment, the next
    /// trim, `maintain` or reclaim frees it.
    ///
    /// O(n) in the capacity.
    pub fn trim(&self) -> usize {
        let credited = self.discard(Quota::ALL, Cause::Reclaimed, |_| true);
        credited.saturating_add(self.shrink())
    }

    /// Drops the idle objects that are more than the configuration allows or needs, and the storage
    /// of places where that leaves none; makes up for idle objects that are missing from
    /// [`min_idle`](crate::PoolConfig::min_idle). To be called from time to time. O(n) in the capacity, for
    /// each value that objects have.
    ///
    /// # Errors
    /// The error of the factory or the account's refusal, explained, if an object had to be made.
    ///
    /// # Panics
    /// If the factory does.
    pub fn maintain(&self) -> Result<Maintained, MemoryError> {
        let before = self.workshop.books.stats(0);
        let (idle, unused) = (self.idle(), self.unused());
        let (stale, rest) = self.keeping.surplus(idle, unused.min(idle));
        self.discard(Quota::objects(stale), Cause::Surplus, Slot::is_unused);
        self.discard(Quota::objects(rest), Cause::Surplus, |_| true);
        {
            let guard = self.epochs.pin();
            self.parts.iter().flat_map(|part| part.slots(&guard)).for_each(Slot::look);
        }
        let filled = self.fill(self.keeping.min_idle.saturating_sub(self.idle()));
        self.shrink();
        filled?;
        Ok(Maintained::between(&before, &self.workshop.books.stats(0)))
    }

    /// Objects that were not lent since the last `maintain`.
    fn unused(&self) -> usize {
        let guard = self.epochs.pin();
        let slots = self.parts.iter().flat_map(|part| part.slots(&guard));
        slots.filter(|slot| slot.is_idle() && slot.is_unused()).count()
    }

    /// Drops idle objects that are `wanted` (a look at the slot that runs nobody else's code), those
    /// of the least value first, and among equals those that came back first. Returns the bytes
    /// credited.
    ///
    /// One object is in hand at a time; the others can be had.
    pub(super) fn discard(
        &self,
        quota: Quota,
        cause: Cause,
        wanted: impl Fn(&Place<T>) -> bool,
    ) -> usize {
        let mut quota = quota;
        let mut floor = None;
        while !quota.is_met() {
            let value = {
                let guard = self.epochs.pin();
                let slots = self.parts.iter().flat_map(|part| part.slots(&guard));
                let idle = slots.filter(|slot| slot.is_idle() && wanted(slot));
                idle.map(Slot::value).filter(|value| Some(*value) > floor).min()
            };
            let Some(value) = value else { break };
            floor = Some(value);
            for part in self.parts.iter() {
                self.sweep(part, &mut quota, cause, |slot| slot.value() == value && wanted(slot));
            }
        }
        quota.bytes_given()
    }

    /// Drops idle objects of one part that are `wanted`.
    fn sweep(
        &self,
        part: &Part<T>,
        quota: &mut Quota,
        cause: Cause,
        wanted: impl Fn(&Place<T>) -> bool,
    ) {
        // To the other list, and back: who came back first is on top of the other.
        for _ in 0..part.idle_count() {
            let Some(place) = part.pop_idle() else { break };
            // SAFETY: the place is ours, so that its storage stays.
            let number = unsafe { place.as_ref() }.head.place as usize;
            // SAFETY: the place is of that part, and ours until now.
            unsafe { part.push_spare(number) };
        }
        let mut closed = false;
        while let Some(place) = part.pop_spare() {
            // SAFETY: as above.
            let slot = unsafe { place.as_ref() };
            let number = slot.head.place as usize;
            if quota.is_met() || !wanted(slot) {
                // SAFETY: the place is of that part, and ours until now.
                closed |= unsafe { part.push_idle(number) };
                continue;
            }
            // SAFETY: the place was idle, so that there is an object, and is ours.
            let (object, bytes) = unsafe { slot.take() };
            // SAFETY: the place is of that part, and ours until now.
            unsafe { part.push_vacant(number) };
            quota.give(bytes);
            self.workshop.destroy(object, bytes, cause);
        }
        if closed {
            self.empty();
        }
    }

    /// Frees the storage of parts without objects, and what has been retired before; the bytes.
    fn shrink(&self) -> usize {
        {
            let pinned = self.epochs.pin();
            self.parts.iter().for_each(|part| part.retire(&self.epochs, &pinned));
        }
        self.free()
    }

    /// Frees the storage that has been retired, as far as nobody looks at it any more; the bytes.
    pub(super) fn free(&self) -> usize {
        let retiring = self.parts.iter().filter(|part| part.is_retiring()).count();
        if retiring > 0 {
            self.epochs.advance(retiring);
        }
        let mut freed = 0;
        for part in self.parts.iter() {
            let bytes = part.free(&self.epochs);
            if bytes > 0 {
                self.workshop.books.contract(bytes);
                freed += bytes;
            }
        }
        freed
    }
}

/// Idle objects that something is charged for are dropped, those of the least value first; and then,
/// if it is not enough yet, the storage of places that have no objects. All but critical requests
/// leave the least number of idle objects there.
impl<T: Poolable + Send, A: Account + Send + Sync> Reclaim for LockFreePool<T, A> {
    fn reclaimable(&self) -> usize {
        let guard = self.epochs.pin();
        let slots = self.parts.iter().flat_map(|part| part.slots(&guard));
        self.keeping.reclaimable(slots.filter(|slot| slot.is_idle()).map(Slot::charged))
    }

    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        let quota = Quota::new(self.keeping.spare(self.idle(), urgency), wanted);
        let given = self.discard(quota, Cause::Reclaimed, |slot| slot.charged() > 0);
        if given >= wanted { given } else { given.saturating_add(self.shrink()) }
    }
}
