//! `nebula-arena` beside bumpalo and bump-scope, each with its default settings.

use std::{alloc::Layout, hint::black_box};

use nebula_arena::Arena;
use nebula_memory_core::allocator_api2::{alloc::Allocator, vec::Vec as Vec2};

use crate::{Case, Contender};

/// What the cases need of an arena; each implementation calls the arena's own methods.
trait Bump: Default + 'static {
    fn value<T: Copy>(&self, value: T);
    fn text(&self, text: &str);
    fn numbers(&self, numbers: &[u32]);
    /// The arena as an allocator, for `allocator_api2` collections.
    fn allocator(&self) -> impl Allocator + Copy;
    fn reset(&mut self);
}

macro_rules! bump {
    ($arena:ty) => {
        impl Bump for $arena {
            #[inline]
            fn value<T: Copy>(&self, value: T) {
                black_box(self.alloc(value));
            }

            #[inline]
            fn text(&self, text: &str) {
                black_box(self.alloc_str(text));
            }

            #[inline]
            fn numbers(&self, numbers: &[u32]) {
                black_box(self.alloc_slice_copy(numbers));
            }

            fn allocator(&self) -> impl Allocator + Copy {
                self
            }

            fn reset(&mut self) {
                <$arena>::reset(self);
            }
        }
    };
}

bump!(Arena);
bump!(bumpalo::Bump);
bump!(bump_scope::Bump);

/// Iterations between two resets: small enough to stay in the cache, so that the arena's own work
/// is measured and not the memory's.
const BATCH: u64 = 4096;

/// An arena and what the case cycles through.
struct State<A> {
    arena: A,
    texts: Vec<String>,
    layouts: Vec<Layout>,
    next: usize,
}

impl<A: Bump> State<A> {
    fn new() -> Self {
        // Lengths in a fixed random order: what follows is not to be guessed by the processor.
        let mut seed = 1_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from((seed >> 33) % below).unwrap_or_default()
        };
        let texts = (0..1024).map(|_| "x".repeat(1 + random(256))).collect();
        let layouts = (0..1024)
            .map(|_| Layout::from_size_align(1 + random(64), 1 << random(5)))
            .map(|layout| layout.expect("small"))
            .collect();
        Self { arena: A::default(), texts, layouts, next: 0 }
    }

    #[inline]
    fn turn(&mut self) -> usize {
        self.next = (self.next + 1) % 1024;
        self.next
    }
}

/// Runs `op` in batches on an arena that has found its size.
fn contender<A: Bump>(
    name: &'static str,
    batch: u64,
    op: impl Fn(&mut State<A>) + Copy + 'static,
) -> Contender {
    let setup = move || {
        let mut state = State::new();
        for _ in 0..2 {
            for _ in 0..batch {
                op(&mut state);
            }
            state.arena.reset();
        }
        state
    };
    Contender::batches(name, batch, setup, op, |state| state.arena.reset())
}

#[inline]
fn value<A: Bump, T: Copy>(state: &mut State<A>, value: T) {
    state.arena.value(black_box(value));
}

#[inline]
fn text<A: Bump>(state: &mut State<A>) {
    let turn = state.turn();
    state.arena.text(&state.texts[turn]);
}

#[inline]
fn numbers<A: Bump>(state: &mut State<A>) {
    state.arena.numbers(black_box(&[7; 16]));
}

#[inline]
fn layout<A: Bump>(state: &mut State<A>) {
    let turn = state.turn();
    let block = state.arena.allocator().allocate(state.layouts[turn]);
    let _ = black_box(block);
}

#[inline]
fn last_in_first_out<A: Bump>(state: &mut State<A>) {
    let layout = Layout::new::<[u64; 8]>();
    let allocator = state.arena.allocator();
    let block = black_box(allocator.allocate(layout)).expect("64 bytes").cast();
    // SAFETY: allocated above by the same allocator with the same layout, and used by nobody else.
    unsafe { allocator.deallocate(block, layout) };
}

#[inline]
fn vector<A: Bump>(state: &mut State<A>) {
    let mut numbers = Vec2::new_in(state.arena.allocator());
    for i in 0..1000_u64 {
        numbers.push(black_box(i));
    }
    black_box(&numbers[..]);
}

fn from_new<A: Bump>(name: &'static str) -> Contender {
    Contender::each(
        name,
        || (),
        |()| {
            let arena = A::default();
            for i in 0..1000_u64 {
                arena.value(black_box(i));
            }
            arena
        },
    )
}

/// The same generic function for all three.
macro_rules! case {
    ($name:literal, $unit:literal, $batch:expr, $op:ident $(, $arg:expr)?) => {
        Case::new($name, contender::<Arena>("ours", $batch, |state| $op(state $(, $arg)?)))
            .unit($unit)
            .peer(contender::<bumpalo::Bump>("bumpalo", $batch, |state| $op(state $(, $arg)?)))
            .peer(contender::<bump_scope::Bump>("bump-scope", $batch, |state| $op(state $(, $arg)?)))
    };
}

/// The case of a general allocator: what it is made for, an arena takes in passing.
fn free_at_once() -> Case {
    let case = case!("alloc and free 64 B, as allocator", "ns/op", BATCH, last_in_first_out);
    #[cfg(feature = "mimalloc")]
    let case = case.peer(mimalloc());
    case
}

#[cfg(feature = "mimalloc")]
fn mimalloc() -> Contender {
    use std::alloc::GlobalAlloc as _;

    Contender::each(
        "mimalloc",
        || mimalloc::MiMalloc,
        |allocator| {
            let layout = Layout::new::<[u64; 8]>();
            // SAFETY: the layout has a size.
            let block = black_box(unsafe { allocator.alloc(layout) });
            assert!(!block.is_null());
            // SAFETY: allocated above with the same layout, and used by nobody else.
            unsafe { allocator.dealloc(block, layout) };
        },
    )
}

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        case!("u64", "ns/op", BATCH, value, 42_u64),
        case!("64 B value", "ns/op", BATCH, value, [42_u64; 8]),
        case!("str of 1-256 B", "ns/op", 1024, text),
        case!("slice of 16 u32", "ns/op", BATCH, numbers),
        case!("any layout, as allocator", "ns/op", BATCH, layout),
        free_at_once(),
        case!("vector of 1000", "ns/vector", 16, vector),
        Case::new("new, 1000 u64, drop", from_new::<Arena>("ours"))
            .unit("ns/arena")
            .peer(from_new::<bumpalo::Bump>("bumpalo"))
            .peer(from_new::<bump_scope::Bump>("bump-scope")),
    ]
}
