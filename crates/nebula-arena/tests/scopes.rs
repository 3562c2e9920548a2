//! Scopes, guards and checkpoints: what they give back, what they keep, and what survives a panic.

use nebula_arena::{Arena, ArenaConfig, Direction, Down, Growth, Scope, Up};
use nebula_memory_core::{
    Allocator, ByteSize, Global, MemoryError, MemoryUsage, allocator_api2::vec::Vec as AVec,
};
use nebula_testing::{CountingAllocator, Rng, catch};
use static_assertions::{assert_impl_all, assert_not_impl_any};

assert_not_impl_any!(Scope<'static>: Clone, Send, Sync);
assert_impl_all!(nebula_arena::Checkpoint: Send, Sync, Copy);

fn small() -> ArenaConfig {
    ArenaConfig::builder().chunk_size(ByteSize::new(512)).growth(Growth::Fixed).build().unwrap()
}

/// Small values and large ones, so that chunks of both kinds are taken.
fn fill<'s, A: Allocator, D: Direction, const M: usize>(
    scope: &Scope<'s, A, D, M>,
    rng: &mut Rng,
) -> Vec<&'s mut [u8]> {
    (0..rng.below(30))
        .map(|i| {
            let len = if rng.below(10) == 0 { 2000 } else { rng.below(100) };
            scope.alloc_slice_fill(len, u8::try_from(i).unwrap())
        })
        .collect()
}

fn nested<A: Allocator, D: Direction, const M: usize>(
    scope: &mut Scope<'_, A, D, M>,
    rng: &mut Rng,
    depth: usize,
) {
    let outside = fill(scope, rng);
    for _ in 0..rng.below(3) {
        if depth == 0 {
            break;
        }
        let used = scope.usage().used;
        scope.scope(|inner| nested(inner, rng, depth - 1));
        assert_eq!(scope.usage().used, used);
    }
    let more = fill(scope, rng);
    for list in [outside, more] {
        for (i, slice) in list.iter().enumerate() {
            assert!(slice.iter().all(|&byte| usize::from(byte) == i));
        }
    }
}

fn scopes_nest<D: Direction, const M: usize>() {
    for seed in 0..40 {
        let base = CountingAllocator::new();
        let mut arena = Arena::<_, D, M>::with_parameters(small(), &base).unwrap();
        let mut rng = Rng::new(seed);
        for _ in 0..3 {
            arena.scope(|scope| nested(scope, &mut rng, 4));
            assert_eq!((arena.used(), arena.allocated_bytes()), (0, base.live_bytes()));
            let usage = arena.usage();
            let sum = usage.used + usage.free + usage.wasted + usage.spare + usage.overhead;
            assert_eq!(sum, usage.allocated);
        }
        drop(arena);
        base.assert_clean();
    }
}

#[test]
fn scopes_nest_and_give_back_what_was_allocated_in_them() {
    scopes_nest::<Up, 1>();
    scopes_nest::<Up, 8>();
    scopes_nest::<Down, 1>();
    scopes_nest::<Down, 16>();
}

#[test]
fn a_scope_that_is_run_again_takes_no_more_chunks() {
    let base = CountingAllocator::new();
    let mut arena = Arena::with_config_in(small(), &base).unwrap();
    let work = |scope: &mut Scope<'_, &CountingAllocator>| {
        for _ in 0..100 {
            scope.alloc([1_u64; 4]);
        }
    };
    arena.scope(work);
    let taken = base.allocations();
    assert!(taken > 3);
    for _ in 0..10 {
        arena.scope(work);
    }
    assert_eq!(base.allocations(), taken);
    assert_eq!(arena.chunk_count(), taken);
}

#[test]
fn a_large_block_of_a_scope_goes_back_to_the_allocator_at_its_end() {
    let base = CountingAllocator::new();
    let mut arena = Arena::with_config_in(small(), &base).unwrap();
    arena.alloc(1);
    let before = base.live_bytes();
    arena.scope(|scope| {
        scope.alloc_slice_fill(100_000, 1_u8);
        assert!(base.live_bytes() > 100_000);
    });
    assert_eq!(base.live_bytes(), before);
}

#[test]
fn a_scope_ends_with_a_panic_too() {
    let mut arena = Arena::with_config(small()).unwrap();
    let kept = arena.as_scope().alloc(7);
    assert_eq!(*kept, 7);
    let used = arena.used();
    let caught = catch(|| {
        arena.scope(|scope| {
            scope.alloc_slice_fill(1000, 1_u8);
            scope.scope(|inner| {
                inner.alloc(1);
                panic!("on purpose");
            })
        })
    });
    assert!(caught.is_err());
    assert_eq!(arena.used(), used);
}

#[test]
fn a_collection_in_a_scope_keeps_its_contents() {
    let mut arena = Arena::new();
    let sum: u64 = arena.scope(|scope| {
        let mut numbers = AVec::new_in(&*scope);
        let mut names = scope.vec();
        for i in 0..100_u64 {
            numbers.push(i);
            names.push(scope.alloc_fmt(format_args!("{i}")));
        }
        names.iter().zip(&numbers).map(|(name, i)| name.parse::<u64>().unwrap() * i).sum()
    });
    assert_eq!(sum, (0..100).map(|i| i * i).sum());
    assert_eq!(arena.used(), 0);
}

#[test]
fn guards_rewind_and_may_be_forgotten() {
    let mut arena = Arena::new();
    let mut guard = arena.scope_guard();
    let mut inside = guard.scope();
    let one = inside.alloc(1);
    inside.scope(|inner| *inner.alloc(1) += *one);
    assert_eq!(*one, 1);
    guard.rewind();
    guard.scope().alloc([0_u8; 100]);
    std::mem::forget(guard);
    assert_eq!(arena.used(), 100);
    drop(arena.scope_guard());
    assert_eq!(arena.used(), 100);
}

#[test]
fn checkpoints_are_checked() {
    let mut arena = Arena::with_config(small()).unwrap();
    let mut other = Arena::with_config(small()).unwrap();
    let start = arena.checkpoint();
    arena.alloc_slice_fill(100, 1_u8);
    let first = arena.checkpoint();
    arena.alloc_slice_fill(1000, 1_u8);
    let aside = arena.checkpoint();
    for _ in 0..10 {
        arena.alloc_slice_fill(100, 1_u8);
    }
    let later = arena.checkpoint();
    other.alloc(1);

    let refused = |result: Result<(), MemoryError>| result.unwrap_err().code();
    assert_eq!(refused(other.rewind(first)), "not_top_of_stack");
    assert_eq!(refused(arena.rewind(other.checkpoint())), "not_top_of_stack");
    let used = arena.used();
    arena.rewind(later).unwrap();
    assert_eq!(arena.used(), used);
    arena.rewind(aside).unwrap();
    assert_eq!(arena.used(), 1100);
    assert_eq!(refused(arena.rewind(later)), "not_top_of_stack");
    arena.rewind(first).unwrap();
    assert_eq!(arena.used(), 100);
    assert_eq!(refused(arena.rewind(aside)), "not_top_of_stack");
    arena.rewind(start).unwrap();
    assert_eq!((arena.used(), arena.chunk_count()), (0, 3));
    // Its chunk is spare now, and is used again.
    assert_eq!(refused(arena.rewind(first)), "not_top_of_stack");
    arena.alloc(1_u8);
    assert_eq!(arena.chunk_count(), 3);
    // All arenas share the place before the first chunk.
    other.rewind(start).unwrap();
    assert_eq!(other.used(), 0);
}

#[test]
fn a_checkpoint_of_chunks_that_are_gone_is_refused() {
    let mut arena = Arena::with_config(small()).unwrap();
    arena.alloc_slice_fill(100, 1_u8);
    arena.alloc_slice_fill(5000, 1_u8);
    let gone = arena.checkpoint();
    arena.reset_keeping(nebula_arena::Keep::Nothing);
    assert!(arena.rewind(gone).is_err());
    let down = Arena::<Global, Down>::default();
    down.alloc([1_u8; 10]);
    let mut down = down;
    let place = down.checkpoint();
    down.alloc(1_u64);
    down.rewind(place).unwrap();
    assert_eq!(down.used(), 10);
}

/// A chunk of one size at the address of an older one of another: the cursor stays in it.
#[test]
fn a_checkpoint_of_a_chunk_whose_address_another_has_now_does_no_harm() {
    let outer = Arena::new();
    let config = ArenaConfig::builder().chunk_size(ByteSize::new(256)).build().unwrap();
    let mut inner = Arena::<&Arena, Down>::with_parameters(config, &outer).unwrap();
    inner.alloc([0_u8; 200]);
    inner.alloc([0_u8; 64]);
    let stale = inner.checkpoint();
    inner.reset_keeping(nebula_arena::Keep::Nothing);
    outer.alloc([0_u8; 256]);
    inner.alloc([0_u8; 200]);
    let neighbour = outer.alloc([7_u8; 256]);
    let _ = inner.rewind(stale);
    for _ in 0..10 {
        inner.alloc([0xAA_u8; 64]);
    }
    assert!(neighbour.iter().all(|&byte| byte == 7));
}

#[test]
fn a_checkpoint_of_an_arena_of_another_kind_does_not_misalign() {
    for _ in 0..50 {
        let outer = Arena::new();
        let stale = {
            let loose = Arena::<&Arena, Up, 1>::with_parameters(small(), &outer).unwrap();
            loose.alloc(1_u8);
            loose.checkpoint()
        };
        // The chunk was the last block of `outer`, and is used again.
        let mut strict = Arena::<&Arena, Up, 16>::with_parameters(small(), &outer).unwrap();
        strict.alloc([1_u8; 64]);
        assert_eq!(strict.rewind(stale).unwrap_err().code(), "not_top_of_stack");
        assert_eq!(std::ptr::from_ref::<u64>(strict.alloc(7)).addr() % 16, 0);
    }
}

#[test]
fn a_stale_checkpoint_leads_into_the_chunks_of_today() {
    // In an arena of this kind, the chunk comes to lie where the old one was.
    let outer = Arena::new();
    let mut arena = Arena::with_config_in(small(), &outer).unwrap();
    arena.alloc([1_u8; 16]);
    let stale = arena.checkpoint();
    arena.reset_keeping(nebula_arena::Keep::Nothing);
    arena.alloc([2_u8; 16]);
    arena.alloc([3_u8; 16]);
    arena.rewind(stale).unwrap();
    assert_eq!(arena.used(), 16);
    arena.alloc([4_u8; 64]);
    assert_eq!(arena.used(), 80);
}
