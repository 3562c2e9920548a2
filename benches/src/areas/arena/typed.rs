//! Values that are dropped.

use std::{cell::Cell, hint::black_box, time::Duration};

use nebula_arena::TypedArena;
#[cfg(feature = "mimalloc")]
use nebula_memory_core::allocator_api2::boxed::Box as Box2;

use super::{BUDGET, Bump, BumpScope, Bumpalo, Ours, in_batches};
use crate::{Case, Contender, Stopwatch};

/// Values that live at once.
const BATCH: usize = 4096;

/// A number that is added to a sum when it is dropped.
struct Summand<'a> {
    number: u64,
    sum: &'a Cell<u64>,
}

impl Drop for Summand<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.sum.set(self.sum.get().wrapping_add(self.number));
    }
}

/// Makes that many values, then drops them.
pub(super) trait Typed: Default + 'static {
    fn values(&mut self, now: usize, sum: &Cell<u64>);
    fn reset(&mut self);
}

/// The owners of values, kept until all are made.
#[inline(always)]
fn kept<'a, B>(now: usize, sum: &'a Cell<u64>, make: impl Fn(Summand<'a>) -> B) {
    let mut boxes = Vec::with_capacity(now);
    for i in 0..now {
        boxes.push(make(Summand { number: i as u64, sum }));
    }
    black_box(&boxes);
}

struct Boxes<A>(A);

impl<A: Bump> Default for Boxes<A> {
    fn default() -> Self {
        Self(A::fresh())
    }
}

/// `$make` makes a box of the arena out of a value.
macro_rules! boxes {
    ($arena:ty, |$a:ident, $value:ident| $make:expr) => {
        impl Typed for Boxes<$arena> {
            #[inline(always)]
            fn values(&mut self, now: usize, sum: &Cell<u64>) {
                let $a = &self.0;
                kept(now, sum, |$value| $make);
            }

            fn reset(&mut self) {
                Bump::reset(&mut self.0);
            }
        }
    };
}

boxes!(Ours, |arena, value| arena.alloc_boxed(value));
boxes!(BumpScope, |arena, value| arena.alloc(value));
boxes!(Bumpalo, |arena, value| bumpalo::boxed::Box::new_in(value, arena));

/// Boxes of an allocator that frees them one by one.
#[cfg(feature = "mimalloc")]
impl Typed for crate::areas::mi::Mi {
    #[inline(always)]
    fn values(&mut self, now: usize, sum: &Cell<u64>) {
        kept(now, sum, |value| Box2::new_in(value, *self));
    }

    fn reset(&mut self) {}
}

/// Arenas of one type, each made for as many values.
#[derive(Default)]
struct OursOfOne;

impl Typed for OursOfOne {
    #[inline(always)]
    fn values(&mut self, now: usize, sum: &Cell<u64>) {
        let arena = TypedArena::new_in(BUDGET.allocator());
        arena.reserve(now);
        for i in 0..now {
            black_box(arena.alloc(Summand { number: i as u64, sum }));
        }
    }

    fn reset(&mut self) {}
}

#[derive(Default)]
struct PeersOfOne;

impl Typed for PeersOfOne {
    #[inline(always)]
    fn values(&mut self, now: usize, sum: &Cell<u64>) {
        let arena = typed_arena::Arena::with_capacity(now);
        for i in 0..now {
            black_box(arena.alloc(Summand { number: i as u64, sum }));
        }
    }

    fn reset(&mut self) {}
}

pub(super) fn contender<T: Typed>(name: &'static str) -> Contender {
    Contender::timed(name, |iterations| {
        let mut arena = T::default();
        let sum = Cell::new(0);
        let mut run = |now| -> Duration {
            let watch = Stopwatch::start();
            arena.values(now, &sum);
            let time = watch.elapsed();
            arena.reset();
            time
        };
        for _ in 0..3 {
            run(BATCH);
        }
        let time = in_batches(iterations, BATCH, run);
        black_box(sum);
        time
    })
}

/// The cases.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("value with Drop, in a box", contender::<Boxes<Ours>>("ours"))
            .peer(contender::<Boxes<BumpScope>>("bump-scope"))
            .peer(contender::<Boxes<Bumpalo>>("bumpalo")),
        Case::new("value with Drop, arena of one type", contender::<OursOfOne>("ours"))
            .peer(contender::<PeersOfOne>("typed-arena")),
    ]
}
