//! `&Arena` as an allocator: the suite that every allocator passes, collections, exact books, and
//! failures at every chunk.

use std::{alloc::Layout, ptr::NonNull};

use hashbrown::{DefaultHashBuilder, HashMap};
use nebula_arena::{Arena, ArenaConfig, Direction, Down, Growth, Keep, Up};
use nebula_memory_core::{
    Accounted, Allocator, ByteSize, Global, MemoryError, MemoryUsage, TypedAllocator,
    allocator_api2::{alloc::Allocator as Api2, boxed::Box as ABox, vec::Vec as AVec},
};
use nebula_testing::{
    CountingAccount, CountingAllocator, DropCounter, FailingAllocator, OwnedAllocator,
    RefusingAccount, Rng,
    conformance::{AllocatorOptions, Reuse, allocator_conformance_with},
};
use static_assertions::{assert_impl_all, assert_not_impl_any};

assert_impl_all!(Arena: Send, std::fmt::Debug, Default);
assert_not_impl_any!(Arena: Sync);
// An arena goes where its allocator may go, and no further.
assert_not_impl_any!(Arena<&'static Arena>: Send);

fn small(growth: Growth) -> ArenaConfig {
    ArenaConfig::builder().chunk_size(ByteSize::new(300)).growth(growth).build().unwrap()
}

fn is_a_proper_allocator<D: Direction, const MIN_ALIGN: usize>() {
    let options = AllocatorOptions { reuse: Reuse::LastInFirstOut, ..AllocatorOptions::default() };
    let growths = [Growth::Fixed, Growth::Linear, Growth::Doubling];
    for config in growths.map(small).into_iter().chain([ArenaConfig::default()]) {
        let base = CountingAllocator::new();
        let make = || {
            let arena = Arena::<_, D, MIN_ALIGN>::with_parameters(config.clone(), &base).unwrap();
            OwnedAllocator::new(arena)
        };
        allocator_conformance_with(options, make, |arena| {
            assert_eq!(arena.source().allocated_bytes(), base.live_bytes());
            assert!(arena.source().used() <= arena.source().allocated_bytes());
        });
        base.assert_clean();
    }
}

#[test]
fn an_arena_is_a_proper_allocator_whatever_its_settings() {
    is_a_proper_allocator::<Up, 1>();
    is_a_proper_allocator::<Up, 8>();
    is_a_proper_allocator::<Up, 16>();
    is_a_proper_allocator::<Down, 1>();
    is_a_proper_allocator::<Down, 2>();
    is_a_proper_allocator::<Down, 8>();
}

#[test]
fn an_arena_with_a_capacity_is_a_proper_allocator() {
    let capacity = 256 << 10;
    let config = ArenaConfig::builder().capacity(ByteSize::new(capacity)).build().unwrap();
    // Chunk ends are wasted: half of the capacity is there for certain.
    let options = AllocatorOptions::fixed(capacity / 4, Reuse::Never);
    let make = || OwnedAllocator::new(Arena::with_config(config.clone()).unwrap());
    allocator_conformance_with(options, make, |arena| {
        assert!(arena.source().allocated_bytes() <= capacity);
    });
}

#[test]
fn downwards_the_last_block_is_moved_along() {
    let arena = Arena::<Global, Down>::default();
    let mut first = AVec::with_capacity_in(100, &arena);
    first.extend(0..100_u8);
    let used = arena.used();
    first.reserve_exact(100);
    assert_eq!((arena.used(), used), (200, 100));
    assert!(first.iter().copied().eq(0..100));
    first.truncate(10);
    first.shrink_to_fit();
    assert_eq!(arena.used(), 10);
    assert!(first.iter().copied().eq(0..10));
    // Not worth a move.
    let mut second = AVec::with_capacity_in(10, &arena);
    second.extend([1_u8; 9]);
    second.shrink_to_fit();
    assert_eq!(arena.used(), 20);
    drop(first);
    assert_eq!(&second[..], [1; 9]);
}

#[test]
fn the_last_block_grows_shrinks_and_is_freed_in_place() {
    let arena = Arena::new();
    let mut list = AVec::new_in(&arena);
    list.push(0_u64);
    let start = list.as_ptr();
    for i in 1..100 {
        list.push(i);
    }
    assert_eq!(list.as_ptr(), start);
    let with_slack = arena.used();
    list.shrink_to_fit();
    assert!(arena.used() < with_slack);
    drop(list);
    assert_eq!(arena.used(), 0);
}

#[test]
fn books_equal_chunks_to_the_byte_through_resets_and_drop() {
    let base = CountingAllocator::new();
    let account = CountingAccount::new();
    let mut arena =
        Arena::with_config_in(small(Growth::Doubling), Accounted::new(&base, &account)).unwrap();
    assert_eq!(base.live_bytes(), 0, "an unused arena holds nothing");
    let mut rng = Rng::new(1);
    for round in 0..20 {
        for _ in 0..200 {
            arena.alloc_slice_with(rng.below(300), |i| i);
            assert_eq!(arena.allocated_bytes(), base.live_bytes());
            assert_eq!(arena.chunk_count(), base.live_blocks());
            assert_eq!(account.balance(), base.live_bytes());
            assert!(arena.used() <= arena.allocated_bytes());
        }
        let keep = if round % 2 == 0 { Keep::Last } else { Keep::Nothing };
        arena.reset_keeping(keep);
        assert_eq!(arena.used(), 0);
        assert_eq!(arena.chunk_count(), usize::from(keep == Keep::Last));
        assert_eq!(
            (arena.allocated_bytes(), account.balance()),
            (base.live_bytes(), base.live_bytes())
        );
    }
    drop(arena);
    base.assert_clean();
    account.assert_settled();
}

/// Work of many kinds, cut short by the first refusal.
fn work<A: Allocator>(arena: &Arena<A>) -> Result<(), MemoryError> {
    for i in 0..40_usize {
        arena.try_alloc(i)?;
        arena.try_alloc_str("some text that is copied")?;
        arena.try_alloc_slice_with(i * 10, |j| j as u64)?;
        let mut list = AVec::new_in(arena);
        list.try_reserve(i).map_err(|_| MemoryError::Closed { what: "list" })?;
        list.extend(0..i);
        std::mem::forget(list);
    }
    Ok(())
}

#[test]
fn a_refusal_at_any_chunk_is_reported_and_leaves_exact_books() {
    for n in 0.. {
        let base = CountingAllocator::new();
        let failing = FailingAllocator::new(&base);
        failing.fail_from(n);
        let mut arena = Arena::with_config_in(small(Growth::Doubling), &failing).unwrap();
        let result = work(&arena);
        assert_eq!(result.is_err(), failing.tripped());
        assert_eq!(arena.allocated_bytes(), base.live_bytes());
        // It is as good as new once memory is there again.
        failing.fail_never();
        work(&arena).unwrap();
        arena.reset();
        work(&arena).unwrap();
        drop(arena);
        base.assert_clean();
        if result.is_ok() {
            assert!(n > 5, "the work took {n} chunks");
            return;
        }
    }
}

#[test]
fn a_single_refused_chunk_is_made_up_for_by_a_smaller_one() {
    for n in 0.. {
        let account = RefusingAccount::<CountingAccount>::default();
        account.refuse_at(n);
        let arena =
            Arena::with_config_in(small(Growth::Doubling), Accounted::new(Global, &account))
                .unwrap();
        let result = work(&arena);
        let tripped = account.tripped();
        assert_eq!(account.get_ref().balance(), arena.allocated_bytes());
        drop(arena);
        account.get_ref().assert_settled();
        if !tripped {
            result.unwrap();
            return;
        }
    }
}

#[test]
fn smaller_chunks_are_tried_down_to_what_is_needed() {
    let base = FailingAllocator::new(Global);
    let config = ArenaConfig::builder().chunk_size(ByteSize::kib(64)).build().unwrap();
    let arena = Arena::with_config_in(config, &base).unwrap();
    base.refuse_above(Some(5000));
    assert_eq!(arena.alloc([1_u8; 100])[99], 1);
    assert!((2500..=5000).contains(&arena.allocated_bytes()), "{arena:?}");
    let error = arena.try_alloc([0_u8; 6000]).unwrap_err();
    assert_eq!(error.error.code(), "out_of_memory");
}

#[test]
fn hash_maps_and_nested_vectors_live_in_an_arena() {
    let arena = Arena::new();
    let mut map: HashMap<u32, AVec<AVec<u32, _>, _>, DefaultHashBuilder, _> =
        HashMap::new_in(&arena);
    for i in 0..500 {
        let outer = map.entry(i % 50).or_insert_with(|| AVec::new_in(&arena));
        let mut inner = AVec::new_in(&arena);
        inner.extend(0..i % 20);
        outer.push(inner);
    }
    for (key, lists) in &map {
        assert_eq!(lists.len(), 10);
        for (i, list) in lists.iter().enumerate() {
            let made_at = key + 50 * u32::try_from(i).unwrap();
            assert!(list.iter().copied().eq(0..made_at % 20));
        }
    }
    map.retain(|key, _| key % 2 == 0);
    drop(map);
}

#[test]
fn boxes_in_an_arena_run_drop() {
    let drops = DropCounter::new();
    let arena = Arena::new();
    let allocator = &arena;
    let one = allocator.try_new(drops.probe(1)).unwrap();
    let many = allocator.try_new_slice(5, |i| drops.probe(i as u64)).unwrap();
    drops.assert_live(6);
    drop(many);
    drop(one);
    drops.assert_all_dropped();
    let boxed = ABox::new_in([1, 2, 3], &arena);
    assert_eq!(*boxed, [1, 2, 3]);
}

#[test]
fn a_block_without_bytes_grows_to_an_aligned_one_wherever_it_was() {
    fn check<D: Direction>() {
        let arena = Arena::<Global, D>::default();
        let bytes = arena.alloc_slice_copy(&[1_u8, 2, 3]);
        for end in [bytes.as_mut_ptr_range().end, bytes.as_mut_ptr()] {
            let end = NonNull::new(end).unwrap();
            let nothing = Layout::from_size_align(0, 8).unwrap();
            // SAFETY: a block without bytes may be anywhere.
            let block = unsafe { (&arena).grow(end, nothing, Layout::new::<u64>()) }.unwrap();
            assert_eq!(block.cast::<u8>().addr().get() % align_of::<u64>(), 0);
        }
        assert_eq!(bytes, [1, 2, 3]);
    }
    check::<Up>();
    check::<Down>();
}
