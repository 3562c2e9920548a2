//! `nebula-arena` beside bumpalo, bump-scope and oxc's arena, and beside the crates that are made
//! for one kind of work. Ours is charged to a budget; each arena has its default settings, but for
//! a minimum alignment where the case is about that.
//!
//! The loops around the arenas' own work are as small as loops can be: about four instructions.

mod document;
mod json;
#[cfg(feature = "mimalloc")]
mod mi;
mod scopes;
mod streams;
mod threads;
mod typed;
mod values;
mod vectors;

use std::{hint::black_box, sync::LazyLock, time::Duration};

use bump_scope::{BumpBox, settings::BumpSettings};
use nebula_arena::{Arena, ArenaConfig, Up};
use nebula_budget::{BudgetAllocator, MemoryBudget};
use nebula_memory_core::allocator_api2::alloc::Allocator;

use crate::{Case, Contender, Footprint, Maker, Stopwatch};

type Ours = Arena<BudgetAllocator>;
type Ours8 = Arena<BudgetAllocator, Up, 8>;
type Bumpalo = bumpalo::Bump;
type Bumpalo8 = bumpalo::Bump<8>;
type BumpScope = bump_scope::Bump;
type BumpScope8 = bump_scope::Bump<bump_scope::alloc::Global, BumpSettings<8>>;
type Oxc = oxc_allocator::arena::Arena;
type Oxc8 = oxc_allocator::arena::Arena<8>;

/// What the cases need of an arena; each implementation calls the arena's own methods.
trait Bump: Sized + 'static {
    fn fresh() -> Self;
    fn value<T: Copy>(&self, value: T) -> &T;
    fn text(&self, text: &str) -> &str;
    fn slice<T: Copy>(&self, values: &[T]) -> &[T];
    /// The arena as an allocator, for `allocator_api2` collections.
    fn allocator(&self) -> impl Allocator + Copy;
    fn reset(&mut self);
}

/// The same calls for every arena; `$plain` turns what its methods return into a reference.
macro_rules! bump {
    ($arena:ty, $fresh:expr, $plain:expr) => {
        impl Bump for $arena {
            fn fresh() -> Self {
                $fresh
            }

            #[inline(always)]
            fn value<T: Copy>(&self, value: T) -> &T {
                $plain(self.alloc(value))
            }

            #[inline(always)]
            fn text(&self, text: &str) -> &str {
                $plain(self.alloc_str(text))
            }

            #[inline(always)]
            fn slice<T: Copy>(&self, values: &[T]) -> &[T] {
                $plain(self.alloc_slice_copy(values))
            }

            #[inline(always)]
            fn allocator(&self) -> impl Allocator + Copy {
                self
            }

            #[inline(always)]
            fn reset(&mut self) {
                <$arena>::reset(self);
            }
        }
    };
}

bump!(Ours, Arena::new_in(BUDGET.allocator()), std::convert::identity);
bump!(
    Ours8,
    Self::with_parameters(ArenaConfig::default(), BUDGET.allocator()).expect("a valid config"),
    std::convert::identity
);
bump!(Bumpalo, Self::new(), std::convert::identity);
bump!(Bumpalo8, Self::with_min_align(), std::convert::identity);
bump!(BumpScope, Self::new(), BumpBox::leak);
bump!(BumpScope8, Self::new(), BumpBox::leak);
bump!(Oxc, Self::new(), std::convert::identity);
bump!(Oxc8, Self::with_min_align(), std::convert::identity);

/// What our arenas are charged to; nothing here exhausts it.
static BUDGET: LazyLock<MemoryBudget> =
    LazyLock::new(|| MemoryBudget::root("bench", 1 << 34).expect("a valid capacity"));

/// Bytes between two resets: few enough to stay in the cache, so that the arena's work is measured
/// and not the memory's, and enough that the clock doesn't matter.
const ROOM: usize = 256 << 10;

/// Does `work` in batches on an arena that has found its size, and that is reset after each batch.
/// `work` is told how many operations to do and has the loop, so that the loop fits the work; it is
/// given what `prepare` made.
fn contender<A: Bump, P: 'static>(
    name: &'static str,
    batch: usize,
    prepare: fn() -> Vec<P>,
    work: impl Fn(&mut A, &[P], usize) + 'static,
) -> Contender {
    Contender::timed(name, move |iterations| {
        let prepared = prepare();
        let mut arena = A::fresh();
        for _ in 0..3 {
            work(&mut arena, &prepared, batch);
            arena.reset();
        }
        in_batches(iterations, batch, |now| {
            let watch = Stopwatch::start();
            work(&mut arena, &prepared, now);
            let time = watch.elapsed();
            arena.reset();
            time
        })
    })
}

/// The sum of what `batch` returns, which is told how many iterations it is to do.
fn in_batches(iterations: u64, batch: usize, mut run: impl FnMut(usize) -> Duration) -> Duration {
    let mut left = iterations;
    let mut total = Duration::ZERO;
    while left > 0 {
        let now = usize::try_from(left).map_or(batch, |left| left.min(batch));
        total += run(now);
        left -= now as u64;
    }
    total
}

/// The same generic function for all arenas.
macro_rules! case {
    ($name:literal, $batch:expr, $prepare:expr, $work:ident) => {
        $crate::Case::new(
            $name,
            contender::<$crate::areas::arena::Ours, _>("ours", $batch, $prepare, $work),
        )
        .peer(contender::<$crate::areas::arena::BumpScope, _>(
            "bump-scope",
            $batch,
            $prepare,
            $work,
        ))
        .peer(contender::<$crate::areas::arena::Bumpalo, _>("bumpalo", $batch, $prepare, $work))
        .peer(contender::<$crate::areas::arena::Oxc, _>("oxc", $batch, $prepare, $work))
    };
    ($name:literal, minimum alignment 8, $batch:expr, $prepare:expr, $work:ident) => {
        $crate::Case::new(
            concat!($name, ", min align 8"),
            contender::<$crate::areas::arena::Ours8, _>("ours", $batch, $prepare, $work),
        )
        .peer(contender::<$crate::areas::arena::BumpScope8, _>(
            "bump-scope",
            $batch,
            $prepare,
            $work,
        ))
        .peer(contender::<$crate::areas::arena::Bumpalo8, _>("bumpalo", $batch, $prepare, $work))
        .peer(contender::<$crate::areas::arena::Oxc8, _>("oxc", $batch, $prepare, $work))
    };
}
use case;

/// An arena that is made, filled and dropped.
fn from_new<A: Bump>(name: &'static str) -> Contender {
    Contender::each(
        name,
        || (),
        |()| {
            let arena = A::fresh();
            for i in 0..1000_u64 {
                black_box(arena.value(i));
            }
            arena
        },
    )
}

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut cases = values::cases();
    cases.extend(vectors::cases());
    cases.extend(scopes::cases());
    cases.push(
        Case::new("new, 1000 u64, drop", from_new::<Ours>("ours"))
            .unit("ns/arena")
            .peer(from_new::<BumpScope>("bump-scope"))
            .peer(from_new::<Bumpalo>("bumpalo"))
            .peer(from_new::<Oxc>("oxc")),
    );
    cases.extend(json::cases());
    cases.extend(typed::cases());
    cases.extend(threads::cases());
    cases.extend(streams::cases());
    #[cfg(feature = "mimalloc")]
    mi::add_to(&mut cases);
    cases
}

/// What arenas take from the heap for what is in them.
pub fn footprints() -> Vec<Footprint> {
    fn numbers<A: Bump>(name: &'static str) -> Maker {
        Maker::new(
            name,
            1,
            || (),
            |(), _| {
                let arena = A::fresh();
                for i in 0..1000_u64 {
                    arena.value(i);
                }
                arena
            },
        )
    }
    vec![
        Footprint::new("arena of 1000 u64", "B/arena", numbers::<Ours>("ours"))
            .peer(numbers::<BumpScope>("bump-scope"))
            .peer(numbers::<Bumpalo>("bumpalo"))
            .peer(numbers::<Oxc>("oxc")),
        json::footprint(),
    ]
}
