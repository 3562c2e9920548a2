//! Which slot a thread tries first: the one that it had last.

use std::{
    cell::Cell,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// How many pools a thread remembers a slot of. Pools beyond that share a memory and disturb each
/// other, which costs time and nothing else.
const LANES: usize = 8;

/// No slot is remembered.
const UNKNOWN: usize = usize::MAX;

nebula_memory_core::nebula_thread_local! {
    /// The slot that this thread had last, of each lane.
    static LAST: [Cell<usize>; LANES] = [const { Cell::new(UNKNOWN) }; LANES]
}

/// The place of one pool in the memories of all threads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane(usize);

impl Lane {
    /// Pools take the lanes in turn.
    pub(crate) fn next() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Self(NEXT.fetch_add(1, Relaxed) % LANES)
    }

    /// The slot that this thread had last. Any number is possible: it is a hint.
    #[inline]
    pub(crate) fn last(self) -> usize {
        LAST.with(|last| last[self.0].get())
    }

    /// Remembers a slot.
    #[inline]
    pub(crate) fn remember(self, slot: usize) {
        LAST.with(|last| last[self.0].set(slot));
    }

    /// Where this thread begins to look among `slots` slots: at the one that it had last, or
    /// somewhere that other threads are not likely to begin at.
    pub(crate) fn start(self, slots: usize) -> usize {
        let last = self.last();
        if last < slots { last } else { home(slots) }
    }
}

#[cfg(not(nebula_loom))]
fn home(slots: usize) -> usize {
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
fn home(_slots: usize) -> usize {
    0
}

#[cfg(all(test, not(nebula_loom)))]
mod tests {
    use super::home;

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
}
