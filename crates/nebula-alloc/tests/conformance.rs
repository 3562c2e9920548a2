//! The suite for allocators, over every allocator of this crate in every form.

use std::{cell::Cell, hint::black_box};

use nebula_alloc::{
    AllocatorChoice, AllocatorConfig, BumpAllocator, ConfiguredAllocator, Exclusive, Shared,
    StackAllocator, SystemAllocator, SystemOptions, Tracked,
};
use nebula_memory_core::{
    Allocator, AllocatorKind, ByteSize, Foreign, Global, MemoryUsage, StatisticsProvider,
};
use nebula_testing::{
    CountingAllocator, OverReturning,
    conformance::{
        AllocatorOptions, Reuse, allocator_conformance_with, shared_allocator_conformance,
    },
};

/// Bytes of the regions under test.
const REGION: usize = 64 << 10;

fn general() -> AllocatorOptions {
    AllocatorOptions::default()
}

fn bump() -> AllocatorOptions {
    AllocatorOptions::fixed(REGION, Reuse::LastInFirstOut)
}

fn holds_nothing(allocator: &impl MemoryUsage) {
    assert_eq!(allocator.used(), 0);
}

fn in_bounds(allocator: &impl MemoryUsage) {
    assert_eq!(allocator.capacity(), Some(REGION));
    assert!(allocator.used() <= REGION);
    assert_eq!(allocator.available(), Some(REGION - allocator.used()));
}

/// The books of a tracked allocator whose blocks are all freed.
fn settled(allocator: &(impl StatisticsProvider + ?Sized)) {
    let stats = allocator.statistics().expect("tracked");
    assert_eq!(stats.allocations, stats.deallocations);
    assert_eq!(stats.bytes_allocated, stats.bytes_deallocated);
    assert!(stats.peak_usage <= stats.bytes_allocated);
}

/// The suite, with the allocator behind a pointer that the optimiser cannot see through: it takes a
/// request to the C heap whose result nobody uses to have succeeded and drops it, even one for half
/// the address space.
fn opaque_conformance<A: Allocator>(
    options: AllocatorOptions,
    make: impl Fn() -> A,
    settled: impl Fn(&A),
) {
    // One for every case, made beforehand because references have to point somewhere.
    let pool: Vec<A> = (0..64).map(|_| make()).collect();
    let used = Cell::new(0);
    let next = || black_box::<&dyn Allocator>(&pool[used.replace(used.get() + 1)]);
    allocator_conformance_with(options, next, |_| settled(&pool[used.get() - 1]));
    assert!(used.get() > 10, "only {} cases", used.get());
}

#[test]
fn system() {
    opaque_conformance(general(), SystemAllocator::new, holds_nothing);
    shared_allocator_conformance(general(), SystemAllocator::new, holds_nothing);
}

#[test]
fn system_with_pages_for_all_that_are_large_enough() {
    for hints in [false, true] {
        let options = SystemOptions::new().map_from(0).huge_pages(hints).prefault(hints);
        let make = || SystemAllocator::with_options(options);
        let settled = |system: &SystemAllocator| {
            holds_nothing(system);
            assert_eq!(system.mapped(), 0);
        };
        opaque_conformance(general(), make, settled);
        shared_allocator_conformance(general(), make, settled);
    }
}

#[test]
fn bump_over_the_global_allocator() {
    let make = || BumpAllocator::try_new(REGION).unwrap();
    allocator_conformance_with(bump(), make, in_bounds);
}

#[test]
fn bump_over_exact_books() {
    let base = CountingAllocator::new();
    let make = || BumpAllocator::try_new_in(REGION, base.clone()).unwrap();
    allocator_conformance_with(bump(), make, |bump| {
        in_bounds(bump);
        assert_eq!((base.live_blocks(), base.live_bytes()), (1, REGION));
    });
    base.assert_clean();
}

#[test]
fn bump_over_a_base_that_returns_more() {
    let base = OverReturning::new();
    let make = || BumpAllocator::try_new_in(REGION, Foreign::new(base.clone())).unwrap();
    allocator_conformance_with(bump(), make, in_bounds);
    base.assert_clean();
}

#[test]
fn bump_over_bump() {
    let make = || {
        let outer = BumpAllocator::try_new(REGION + 16).unwrap();
        BumpAllocator::try_new_in(REGION, outer).unwrap()
    };
    allocator_conformance_with(bump(), make, in_bounds);
}

#[test]
fn bump_by_reference() {
    let base = CountingAllocator::new();
    let make = || BumpAllocator::try_new_in(REGION, base.clone()).unwrap();
    opaque_conformance(bump(), make, in_bounds);
    base.assert_clean();
}

/// Room for all that four threads ask for: none of them keeps to its share.
const SHARED: usize = 4 << 20;

#[test]
fn shared_bump() {
    let base = CountingAllocator::new();
    let large = || BumpAllocator::try_shared_in(SHARED, base.clone()).unwrap();
    shared_allocator_conformance(bump(), large, |_| ());
    let make = || BumpAllocator::try_shared_in(REGION, base.clone()).unwrap();
    allocator_conformance_with(bump(), make, in_bounds);
    opaque_conformance(bump(), make, in_bounds);
    base.assert_clean();
}

#[test]
fn bump_scopes() {
    let around: Vec<BumpAllocator> =
        (0..64).map(|_| BumpAllocator::try_new(REGION).unwrap()).collect();
    let next = Cell::new(0);
    let make = || around[next.replace(next.get() + 1)].scope();
    allocator_conformance_with(bump(), make, in_bounds);
    around.iter().for_each(holds_nothing);
}

#[test]
fn shared_bump_scopes() {
    let around: Vec<BumpAllocator<Global, Shared>> =
        (0..40).map(|_| BumpAllocator::try_shared(SHARED).unwrap()).collect();
    let next = Cell::new(0);
    let make = || around[next.replace(next.get() + 1)].scope();
    allocator_conformance_with(bump(), make, |_| ());
    shared_allocator_conformance(bump(), make, |_| ());
    around.iter().for_each(holds_nothing);
}

#[test]
fn tracked_shared_bump() {
    let make = || {
        let bump = BumpAllocator::try_shared(SHARED).unwrap();
        Tracked::new(bump, "test", AllocatorKind::Bump).publish_capacity()
    };
    shared_allocator_conformance(bump(), make, |tracked| {
        assert_eq!(tracked.capacity(), Some(SHARED));
        holds_nothing(tracked);
        settled(tracked);
    });
}

/// A stack takes whole grains: in the worst case eight times what it is asked for.
const STACK: usize = 8 * REGION;

fn stack() -> AllocatorOptions {
    bump()
}

#[test]
fn stack_over_exact_books() {
    let base = CountingAllocator::new();
    let make = || StackAllocator::try_new_in(STACK, base.clone()).unwrap();
    allocator_conformance_with(stack(), make, |stack| {
        assert_eq!((stack.used(), stack.available()), (0, Some(STACK)));
        assert_eq!((base.live_blocks(), base.live_bytes()), (1, STACK));
    });
    base.assert_clean();
}

#[test]
fn stack_over_a_base_that_returns_more() {
    let base = OverReturning::new();
    let make = || StackAllocator::try_new_in(STACK, Foreign::new(base.clone())).unwrap();
    allocator_conformance_with(stack(), make, holds_nothing);
    base.assert_clean();
}

#[test]
fn stack_by_reference() {
    opaque_conformance(stack(), || StackAllocator::try_new(STACK).unwrap(), holds_nothing);
}

#[test]
fn stack_frames() {
    let below: Vec<StackAllocator> =
        (0..64).map(|_| StackAllocator::try_new(STACK).unwrap()).collect();
    let next = Cell::new(0);
    let make = || below[next.replace(next.get() + 1)].frame();
    allocator_conformance_with(stack(), make, holds_nothing);
    below.iter().for_each(holds_nothing);
}

#[test]
fn tracked_stack() {
    let make = || {
        let stack = StackAllocator::try_new(STACK).unwrap();
        Tracked::exclusive(stack, "test", AllocatorKind::Stack).publish_capacity()
    };
    allocator_conformance_with(stack(), make, |tracked| {
        holds_nothing(tracked);
        holds_nothing(tracked.allocator());
        settled(tracked);
    });
}

#[test]
fn tracked_shared() {
    let make = || Tracked::new(Global, "test", AllocatorKind::System);
    opaque_conformance(general(), make, settled);
    shared_allocator_conformance(general(), make, settled);

    let make = || Tracked::new(SystemAllocator::new(), "test", AllocatorKind::System);
    shared_allocator_conformance(general(), make, |tracked| {
        settled(tracked);
        holds_nothing(tracked.allocator());
    });
}

#[test]
fn tracked_shared_through_clones() {
    let original = Tracked::new(CountingAllocator::new(), "test", AllocatorKind::Other);
    allocator_conformance_with(
        general(),
        || original.clone(),
        |clone| {
            settled(clone);
            clone.allocator().assert_clean();
        },
    );
    settled(&original);
}

#[test]
fn tracked_exclusive() {
    let make = || Tracked::exclusive(CountingAllocator::new(), "test", AllocatorKind::Other);
    allocator_conformance_with(general(), make, |tracked| {
        settled(tracked);
        tracked.allocator().assert_clean();
    });
}

#[test]
fn tracked_bump() {
    let make = || {
        let bump = BumpAllocator::try_new(REGION).unwrap();
        Tracked::exclusive(bump, "test", AllocatorKind::Bump).publish_capacity()
    };
    allocator_conformance_with(bump(), make, |tracked| {
        in_bounds(tracked);
        holds_nothing(tracked);
        settled(tracked);
    });
}

#[test]
fn tracked_twice() {
    let make = || -> Tracked<Tracked<Global>, Exclusive> {
        let inner = Tracked::new(Global, "inner", AllocatorKind::System);
        Tracked::exclusive(inner, "outer", AllocatorKind::System)
    };
    opaque_conformance(general(), make, |outer| {
        settled(outer);
        assert_eq!(outer.statistics(), outer.allocator().statistics());
    });
}

fn configured<A: Allocator>(
    kind: AllocatorChoice,
    track_stats: bool,
    base: A,
) -> ConfiguredAllocator<A> {
    let capacity = ByteSize::new(match kind {
        AllocatorChoice::Bump => REGION,
        AllocatorChoice::Stack => STACK,
        AllocatorChoice::Pool => 1000 * 64,
        _ => 0,
    });
    let block_size = ByteSize::new(if kind == AllocatorChoice::Pool { 64 } else { 0 });
    let config = AllocatorConfig { kind, capacity, block_size, block_align: 0, track_stats };
    config.build_in(base).unwrap()
}

#[test]
fn configured_system() {
    for track in [false, true] {
        let make = || configured(AllocatorChoice::System, track, SystemAllocator::new());
        opaque_conformance(general(), make, |allocator| {
            holds_nothing(allocator);
            if track {
                settled(allocator);
            }
        });
    }
}

#[test]
fn configured_bump() {
    for track in [false, true] {
        let make = || configured(AllocatorChoice::Bump, track, SystemAllocator::new());
        allocator_conformance_with(bump(), make, |allocator| {
            in_bounds(allocator);
            assert_eq!(allocator.base().used(), REGION);
            if track {
                settled(allocator);
            }
        });
    }
}

#[test]
fn configured_stack() {
    for track in [false, true] {
        let make = || configured(AllocatorChoice::Stack, track, SystemAllocator::new());
        allocator_conformance_with(stack(), make, |allocator| {
            holds_nothing(allocator);
            assert_eq!(allocator.base().used(), STACK);
            if track {
                settled(allocator);
            }
        });
    }
}

#[test]
fn configured_pool() {
    for track in [false, true] {
        let make = || configured(AllocatorChoice::Pool, track, SystemAllocator::new());
        let options = AllocatorOptions::slots(1000, 64, align_of::<usize>());
        allocator_conformance_with(options, make, |allocator| {
            holds_nothing(allocator);
            if track {
                settled(allocator);
            }
        });
    }
}
