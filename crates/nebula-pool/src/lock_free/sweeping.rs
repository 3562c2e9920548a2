//! What goes over the whole of a lock-free pool: dropping idle objects, and storage that is empty.

use nebula_memory_core::{Account, MemoryError, PressureLevel, Reclaim};

use super::{
    LockFreePool,
    epochs::MANY,
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
    /// every 32 values that the objects which go have.
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

    /// Drops idle objects that are `wanted` (a look at the slot that runs nobody else's code): those
    /// of the least value, and among equals those that came back first. Returns the bytes credited.
    ///
    /// One object is in hand at a time; the others can be had.
    pub(super) fn discard(
        &self,
        quota: Quota,
        cause: Cause,
        wanted: impl Fn(&Place<T>) -> bool,
    ) -> usize {
        let mut quota = quota;
        let (mut floor, mut closed) = (None, false);
        while !quota.is_met() {
            let ceiling = {
                let guard = self.epochs.pin();
                let slots = self.parts.iter().flat_map(|part| part.slots(&guard));
                let idle = slots.filter(|slot| slot.is_idle() && wanted(slot));
                quota.ceiling(floor, idle.map(|slot| (slot.value(), slot.charged())))
            };
            let Some(ceiling) = ceiling else { break };
            let fits = |slot: &Place<T>| {
                Some(slot.value()) > floor && slot.value() <= ceiling && wanted(slot)
            };
            for part in self.parts.iter() {
                closed |= self.sweep(part, &mut quota, cause, fits);
            }
            floor = Some(ceiling);
        }
        if closed {
            self.empty();
        }
        quota.bytes_given()
    }

    /// Drops what is idle in a closed pool. Whatever others have in hand meanwhile they drop themselves.
    #[cold]
    #[inline(never)]
    pub(super) fn empty(&self) {
        for part in self.parts.iter() {
            // It puts nothing back.
            let mut all = Quota::ALL;
            let _ = self.sweep(part, &mut all, Cause::Surplus, |_| true);
        }
    }

    /// Drops idle objects of one part that are `wanted`. Whether it has put others back into a part that
    /// is closed.
    fn sweep(
        &self,
        part: &Part<T>,
        quota: &mut Quota,
        cause: Cause,
        wanted: impl Fn(&Place<T>) -> bool,
    ) -> bool {
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
        closed
    }

    /// Parts with storage of which nothing is lent, the last ones first: gets look there last.
    fn unlent(&self) -> impl Iterator<Item = &Part<T>> {
        let unlent = |part: &&Part<T>| {
            part.has_storage() && part.idle_count() + part.vacant_count() == part.places()
        };
        self.parts.iter().rev().filter(unlent)
    }

    /// Drops all objects of parts of which nothing is lent, and frees their storage; the bytes.
    fn vacate(&self, wanted: usize, urgency: PressureLevel) -> usize {
        let (mut given, mut closed) = (0_usize, false);
        for part in self.unlent() {
            let (idle, spare) = (part.idle_count(), self.keeping.spare(self.idle(), urgency));
            if given >= wanted || idle == 0 || idle > spare {
                continue;
            }
            let mut quota = Quota::objects(idle);
            closed |= self.sweep(part, &mut quota, Cause::Reclaimed, |_| true);
            given = given.saturating_add(quota.bytes_given()).saturating_add(self.shrink());
        }
        if closed {
            self.empty();
        }
        given
    }

    /// Frees the storage of parts without objects, and what has been retired before; the bytes.
    fn shrink(&self) -> usize {
        {
            let pinned = self.epochs.pin();
            self.parts.iter().for_each(|part| part.retire(&self.epochs, &pinned));
        }
        self.free(MANY)
    }

    /// Frees the storage that has been retired, as far as that turns out in so many rounds of the epochs
    /// that nobody looks at it any more; the bytes.
    pub(super) fn free(&self, rounds: usize) -> usize {
        let retiring = self.parts.iter().filter(|part| part.is_retiring()).count();
        if retiring > 0 {
            self.epochs.advance(retiring, rounds);
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

/// Idle objects that something is charged for are dropped, those of the least value first; then, if it
/// is not enough yet, the storage of places that have no objects; and then the others that are idle, where
/// storage can be freed after them. All but critical requests leave the least number of idle objects
/// there. O(n) in the capacity, for every 32 values that the objects which go have.
///
/// (Taking part in the epochs allocates some hundred bytes for the time of the call.)
impl<T: Poolable + Send, A: Account + Send + Sync> Reclaim for LockFreePool<T, A> {
    fn reclaimable(&self) -> usize {
        let guard = self.epochs.pin();
        let slots = self.parts.iter().flat_map(|part| part.slots(&guard));
        let objects =
            self.keeping.reclaimable(slots.filter(|slot| slot.is_idle()).map(Slot::charged));
        let mut spare = self.keeping.spare(self.idle(), PressureLevel::High);
        let retiring = self.parts.iter().filter(|part| part.is_retiring()).map(Part::size);
        let storage = self.unlent().filter(|part| {
            let left = spare.checked_sub(part.idle_count());
            spare = left.unwrap_or(spare);
            left.is_some()
        });
        storage.map(Part::size).chain(retiring).fold(objects, usize::saturating_add)
    }

    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        let quota = Quota::new(self.keeping.spare(self.idle(), urgency), wanted);
        let mut given = self.discard(quota, Cause::Reclaimed, |slot| slot.charged() > 0);
        if given < wanted {
            given = given.saturating_add(self.shrink());
        }
        if given < wanted {
            given = given.saturating_add(self.vacate(wanted - given, urgency));
        }
        given
    }
}
