//! For which caches (or shared capacities) this thread is running user code: listeners, and `Drop` of
//! what left.
//!
//! It may hold room meanwhile, for the entry that it is placing there. Who places another entry from
//! within that code must not wait for that room, which is not given back before he returns.

use std::cell::Cell;

/// How many caches, each within the code of the one before it, are noted. Further within, every cache
/// is taken for one of them.
const NOTED: usize = 16;

nebula_memory_core::nebula_thread_local! {
    static DEPTH: Cell<usize> = Cell::new(0)
}

nebula_memory_core::nebula_thread_local! {
    static CACHES: Cell<[usize; NOTED]> = Cell::new([0; NOTED])
}

/// Notes a cache until it is dropped.
#[derive(Debug)]
pub(crate) struct Inside(());

impl Inside {
    /// `cache` tells it from others.
    pub(crate) fn enter(cache: usize) -> Self {
        let depth = DEPTH.with(|depth| depth.replace(depth.get() + 1));
        if depth < NOTED {
            CACHES.with(|caches| {
                let mut noted = caches.get();
                noted[depth] = cache;
                caches.set(noted);
            });
        }
        Self(())
    }

    /// How often within each other this thread runs user code of `cache`.
    pub(crate) fn times_noted(cache: usize) -> usize {
        let depth = DEPTH.with(Cell::get);
        if depth > NOTED {
            return depth;
        }
        CACHES.with(|caches| caches.get()[..depth].iter().filter(|&&noted| noted == cache).count())
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get() - 1));
    }
}

#[cfg(all(test, not(nebula_loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_deep_is_taken_for_noted() {
        assert!(Inside::times_noted(7) == 0);
        let noted: Vec<_> = (0..NOTED).map(Inside::enter).collect();
        assert!(Inside::times_noted(7) > 0 && Inside::times_noted(NOTED) == 0);
        let one_more = Inside::enter(1000);
        assert!(Inside::times_noted(NOTED) > 0);
        drop(one_more);
        assert!(Inside::times_noted(NOTED) == 0);
        drop(noted);
        assert!(Inside::times_noted(7) == 0);
    }
}
