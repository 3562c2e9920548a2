//! Which slot a thread tries first: the one that it had last.

use std::{
    cell::Cell,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// How many pools a thread remembers a slot of. Pools beyond that share a memory and disturb each
/// other, which costs time and nothing else.
const LANES: usize = 8;

/// What a thread remembers: whose slot, and which. No pool has number zero.
type Memory = (Cell<u64>, Cell<NonNull<()>>);

nebula_memory_core::nebula_thread_local! {
    static LAST: [Memory; LANES] =
        [const { (Cell::new(0), Cell::new(NonNull::dangling())) }; LANES]
}

/// One pool in the memories of all threads: a number that no other pool ever has.
#[derive(Debug)]
pub(crate) struct Affinity(u64);

impl Affinity {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Relaxed))
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "below the number of lanes")]
    const fn lane(&self) -> usize {
        (self.0 % LANES as u64) as usize
    }

    /// The pointer that this thread gave to [`remember`](Self::remember) of this pool last, if it
    /// is not forgotten.
    #[inline]
    pub(crate) fn last<S>(&self) -> Option<NonNull<S>> {
        let last = |last: &[Memory; LANES]| {
            let (owner, slot) = &last[self.lane()];
            (owner.get() == self.0).then(|| slot.get())
        };
        LAST.with(last).map(NonNull::cast)
    }

    /// Remembers a slot.
    #[inline]
    pub(crate) fn remember<S>(&self, slot: &S) {
        LAST.with(|last| {
            let (owner, place) = &last[self.lane()];
            owner.set(self.0);
            place.set(NonNull::from(slot).cast());
        });
    }
}

/// Where this thread begins to look among `slots` slots: somewhere that other threads are not
/// likely to begin at.
#[cfg(not(nebula_loom))]
pub(crate) fn home(slots: usize) -> usize {
    use std::sync::atomic::AtomicUsize;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    std::thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Relaxed);
    }
    // Fibonacci hashing: multiples of the golden ratio stay far apart, however many there are.
    let number = NUMBER.try_with(|number| *number).unwrap_or(0) as u64;
    let hash = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let scaled = (u128::from(hash) * slots as u128) >> 64;
    usize::try_from(scaled).unwrap_or(0)
}

/// The model checker wants the same run from the same schedule.
#[cfg(nebula_loom)]
pub(crate) fn home(_slots: usize) -> usize {
    0
}

#[cfg(all(test, not(nebula_loom)))]
mod tests {
    use super::{Affinity, LANES, home};

    #[test]
    fn threads_begin_at_slots_that_exist_and_differ() {
        let home_of_a_new_thread = || std::thread::spawn(|| home(64)).join().unwrap();
        let mut homes: Vec<_> = (0..8).map(|_| home_of_a_new_thread()).collect();
        assert!(homes.iter().all(|&h| h < 64));
        homes.sort_unstable();
        homes.dedup();
        assert!(homes.len() >= 6, "8 threads begin at {homes:?}");
        assert_eq!(home(1), 0);
    }

    #[test]
    fn a_pool_never_gets_the_slot_of_another() {
        let pools: Vec<_> = (0..=LANES).map(|_| Affinity::new()).collect();
        let (first, last) = (&pools[0], &pools[LANES]);
        assert_eq!(first.last::<u8>(), None);
        first.remember(&1_u8);
        assert!(first.last::<u8>().is_some() && last.last::<u8>().is_none());
        last.remember(&2_u8);
        assert!(first.last::<u8>().is_none() && last.last::<u8>().is_some());
    }
}
