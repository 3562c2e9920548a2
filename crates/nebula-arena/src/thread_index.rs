//! A small number for every thread, unlike that of all threads that live: where its piece of every
//! arena lies.
//!
//! Numbers are used again when their threads have ended, so that they stay dense. While a thread
//! has one, it alone may use what is reserved for it; all that it did happens before all that the
//! number's next holder does.

use std::cell::Cell;

use nebula_memory_core::{
    nebula_thread_local,
    sync::atomic::{AtomicUsize, Ordering},
};

/// How many pieces the first bucket of a table has; each other has twice those of the one before.
pub(crate) const FIRST: usize = 4;

/// How many buckets a table has.
pub(crate) const BUCKETS: usize = 14;

const BITS: usize = usize::BITS as usize;

/// How many words there are for a bit for every thread: as many as all buckets have pieces for,
/// which is 65 472 threads. Those beyond are served in another way.
const WORDS: usize = if cfg!(nebula_loom) { 1 } else { FIRST * ((1 << BUCKETS) - 1) / BITS };

/// Which numbers are taken.
type Taken = [AtomicUsize; WORDS];

#[cfg(not(nebula_loom))]
fn taken() -> &'static Taken {
    static TAKEN: Taken = [const { AtomicUsize::new(0) }; WORDS];
    &TAKEN
}

/// As above, from the beginning in every execution of a model. (Leaked: the checker drops its
/// statics before the last threads have ended.)
#[cfg(nebula_loom)]
fn taken() -> &'static Taken {
    loom::lazy_static! {
        static ref TAKEN: &'static Taken =
            Box::leak(Box::new(std::array::from_fn(|_| AtomicUsize::new(0))));
    }
    *TAKEN
}

/// A thread's number.
#[derive(Clone, Copy)]
struct Number {
    number: usize,
    taken: &'static Taken,
}

impl Number {
    /// Takes the smallest number that is free.
    fn claim() -> Option<Self> {
        let taken = taken();
        taken.iter().enumerate().find_map(|(i, word)| {
            // Acquire: what the number's last holder did, and published below, happens before
            // this. (Where others have taken or given back other numbers since, it still does:
            // each of them is a read-modify-write of the same word.)
            let before = word.fetch_update(Ordering::Acquire, Ordering::Relaxed, |bits| {
                if bits == usize::MAX { None } else { Some(bits | (bits + 1)) }
            });
            let bit = before.ok()?.trailing_ones() as usize;
            Some(Self { number: i * BITS + bit, taken })
        })
    }

    /// Gives it back.
    fn give_back(self) {
        let bit = 1 << (self.number % BITS);
        // Release: the next holder sees all that was done with it.
        self.taken[self.number / BITS].fetch_and(!bit, Ordering::Release);
    }

    const fn place(self) -> Place {
        Place::of(self.number)
    }
}

/// Where what is reserved for a thread lies in a table of doubling buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which bucket; [`BUCKETS`], which no table has, for threads without a number.
    pub(crate) bucket: usize,
    /// The position in the bucket.
    pub(crate) position: usize,
}

impl Place {
    const NONE: Self = Self { bucket: BUCKETS, position: 0 };

    const fn of(number: usize) -> Self {
        let bucket = (number / FIRST + 1).ilog2() as usize;
        Self { bucket, position: number - FIRST * ((1 << bucket) - 1) }
    }
}

/// A number that a thread holds until it ends.
struct Held(Cell<Option<Number>>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(number) = self.0.take() {
            // From here on, this thread has none: destructors that run later are served otherwise.
            let _ = PLACE.try_with(|place| place.set(Place::NONE));
            number.give_back();
        }
    }
}

nebula_thread_local! {
    /// What the fast path reads: needs no `Drop`, so that it is always there.
    static PLACE: Cell<Place> = Cell::new(Place::NONE)
}

nebula_thread_local! {
    /// Gives the number back when the thread ends.
    static HELD: Held = Held(Cell::new(None))
}

/// This thread's place; its bucket is at most [`BUCKETS`], and that only if the thread has none.
#[inline(always)]
pub(crate) fn place() -> Place {
    PLACE.try_with(Cell::get).unwrap_or(Place::NONE)
}

/// This thread's place, which it gets now if it has none. `None` if the thread is about to end and
/// has given its number back, or if there are too many threads.
pub(crate) fn assign() -> Option<Place> {
    let place = place();
    if place != Place::NONE {
        return Some(place);
    }
    let assigned = HELD.try_with(|held| {
        let number = Number::claim()?;
        held.0.set(Some(number));
        PLACE.try_with(|place| place.set(number.place())).ok()?;
        Some(number.place())
    });
    assigned.ok().flatten()
}

#[cfg(all(test, not(nebula_loom)))]
mod tests {
    use super::*;

    #[test]
    fn places_fill_one_bucket_after_the_other() {
        let mut next = Place { bucket: 0, position: 0 };
        for number in 0..WORDS * BITS {
            assert_eq!(Place::of(number), next);
            next.position += 1;
            if next.position == FIRST << next.bucket {
                next = Place { bucket: next.bucket + 1, position: 0 };
            }
        }
        assert!(Place::of(WORDS * BITS - 1).bucket < BUCKETS);
    }

    #[test]
    fn threads_that_live_together_have_different_places() {
        let barrier = std::sync::Barrier::new(50);
        let mut places: Vec<_> = std::thread::scope(|scope| {
            let place = || {
                let mine = assign().unwrap();
                barrier.wait();
                assert_eq!((place(), assign()), (mine, Some(mine)));
                (mine.bucket, mine.position)
            };
            let threads: Vec<_> = (0..50).map(|_| scope.spawn(place)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 50);
    }
}
