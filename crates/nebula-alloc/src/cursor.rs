//! The cursor of a bump allocator: a plain one for one thread, an atomic one for many.

use std::cell::Cell;

use nebula_memory_core::sync::atomic::{
    AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use crate::{Exclusive, Shared, bumping::Place};

/// Where the free bytes begin.
///
/// Whoever moves the cursor from one address to a higher one has the bytes between the two to
/// himself, and with them all that their last owner did before he moved it back.
pub trait Cursor {
    /// A cursor at `address`.
    fn new(address: usize) -> Self;

    /// Where it is.
    fn get(&self) -> usize;

    /// Moves it to the end of the place that `place` finds from where it is, if there is one.
    fn advance(&self, place: impl Fn(usize) -> Option<Place>) -> Option<Place>;

    /// Moves it to `to` if it is at `from`; returns whether it was.
    fn replace(&self, from: usize, to: usize) -> bool;

    /// Moves it to `to`.
    fn set(&mut self, to: usize);
}

/// Which cursor a mode takes.
pub trait Bumping {
    /// The cursor.
    type Cursor: Cursor;
}

impl Bumping for Exclusive {
    type Cursor = Cell<usize>;
}

impl Bumping for Shared {
    type Cursor = AtomicUsize;
}

impl Cursor for Cell<usize> {
    #[inline(always)]
    fn new(address: usize) -> Self {
        Cell::new(address)
    }

    #[inline(always)]
    fn get(&self) -> usize {
        self.get()
    }

    #[inline(always)]
    fn advance(&self, place: impl Fn(usize) -> Option<Place>) -> Option<Place> {
        let place = place(self.get())?;
        self.set(place.end);
        Some(place)
    }

    #[inline(always)]
    fn replace(&self, from: usize, to: usize) -> bool {
        let there = self.get() == from;
        if there {
            self.set(to);
        }
        there
    }

    #[inline(always)]
    fn set(&mut self, to: usize) {
        *self.get_mut() = to;
    }
}

/// Every move is one read-modify-write, so that moves up that follow a move down (all of them
/// continue its release sequence) acquire what was released with it. It may have gone elsewhere and
/// come back between the load and the exchange: where it is says all there is to know.
impl Cursor for AtomicUsize {
    #[inline(always)]
    fn new(address: usize) -> Self {
        AtomicUsize::new(address)
    }

    #[inline(always)]
    fn get(&self) -> usize {
        self.load(Relaxed)
    }

    #[inline(always)]
    fn advance(&self, place: impl Fn(usize) -> Option<Place>) -> Option<Place> {
        let mut from = self.load(Relaxed);
        loop {
            // Not an addition that is taken back where it went too far: meanwhile a smaller request
            // that does fit would be refused.
            let found = place(from)?;
            match self.compare_exchange_weak(from, found.end, Acquire, Relaxed) {
                Ok(_) => return Some(found),
                Err(now) => from = now,
            }
        }
    }

    #[inline(always)]
    fn replace(&self, from: usize, to: usize) -> bool {
        self.load(Relaxed) == from && self.compare_exchange(from, to, AcqRel, Relaxed).is_ok()
    }

    #[inline(always)]
    fn set(&mut self, to: usize) {
        self.store(to, Relaxed);
    }
}
