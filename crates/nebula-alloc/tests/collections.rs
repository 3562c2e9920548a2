//! Collections of the ecosystem on every allocator, by reference and by value, dropped in every
//! order.

use hashbrown::{DefaultHashBuilder, HashMap};
use nebula_alloc::{
    AllocatorChoice, AllocatorConfig, BumpAllocator, StackAllocator, SystemAllocator,
    SystemOptions, Tracked,
};
use nebula_memory_core::{
    Accounted, Allocator, AllocatorKind, ByteSize, MemoryUsage,
    allocator_api2::{boxed::Box, vec::Vec},
};
use nebula_testing::{CountingAccount, CountingAllocator, DropCounter, DropProbe};

const REGION: usize = 256 << 10;

/// A box, a vector and a map that grow in turn and are dropped in the given order.
fn side_by_side<A: Allocator>(allocator: &A, order: [usize; 3]) {
    let counter = DropCounter::new();
    let mut boxed = Some(Box::new_in(counter.probe(0), allocator));
    let mut list = Some(Vec::new_in(allocator));
    let hasher = DefaultHashBuilder::default();
    let mut map = Some(HashMap::with_hasher_in(hasher, allocator));
    for i in 1..200_u64 {
        list.as_mut().unwrap().push(counter.probe(i));
        map.as_mut().unwrap().insert(i, counter.probe(1000 + i));
        if i % 50 == 0 {
            list.as_mut().unwrap().shrink_to_fit();
        }
    }
    let map_ref = map.as_ref().unwrap();
    assert!((1..200).all(|i| map_ref[&i].tag() == 1000 + i));
    assert!(list.as_ref().unwrap().iter().map(DropProbe::tag).eq(1..200));
    assert_eq!(boxed.as_ref().unwrap().tag(), 0);
    for which in order {
        match which {
            0 => drop(boxed.take()),
            1 => drop(list.take()),
            _ => drop(map.take()),
        }
    }
    counter.assert_all_dropped();
}

fn in_every_order<A: Allocator>(make: impl Fn() -> A, settled: impl Fn(&A)) {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let allocator = make();
        side_by_side(&allocator, order);
        settled(&allocator);
        drop(allocator);
    }
}

#[test]
fn on_the_system() {
    in_every_order(SystemAllocator::new, |system| assert_eq!(system.used(), 0));
}

#[test]
fn on_a_bump() {
    let base = CountingAllocator::new();
    in_every_order(|| BumpAllocator::try_new_in(REGION, base.clone()).unwrap(), |_| ());
    base.assert_clean();
}

#[test]
fn on_a_shared_bump() {
    let base = CountingAllocator::new();
    in_every_order(|| BumpAllocator::try_shared_in(REGION, base.clone()).unwrap(), |_| ());
    base.assert_clean();
}

#[test]
fn on_a_stack() {
    let base = CountingAllocator::new();
    let make = || StackAllocator::try_new_in(REGION, base.clone()).unwrap();
    in_every_order(make, |stack| assert_eq!(stack.used(), 0));
    base.assert_clean();
}

#[test]
fn on_frames_and_scopes() {
    let stack = StackAllocator::try_new(REGION).unwrap();
    let bump = BumpAllocator::try_new(REGION).unwrap();
    in_every_order(|| stack.frame(), |frame| assert_eq!(frame.used(), 0));
    in_every_order(|| bump.scope(), |_| ());
    assert_eq!((stack.used(), bump.used()), (0, 0));
}

#[test]
fn on_mapped_pages() {
    let make = || SystemAllocator::with_options(SystemOptions::new().map_from(0));
    in_every_order(make, |system| assert_eq!((system.used(), system.mapped()), (0, 0)));
}

#[test]
fn on_a_bump_that_is_charged_to_an_account() {
    let account = CountingAccount::with_limit(REGION);
    let make = || {
        let base = Accounted::new(SystemAllocator::new(), &account);
        BumpAllocator::try_new_in(REGION, base).unwrap()
    };
    in_every_order(make, |_| assert_eq!(account.balance(), REGION));
    account.assert_settled();
    let too_much =
        BumpAllocator::try_new_in(REGION + 1, Accounted::new(SystemAllocator::new(), &account));
    assert!(too_much.is_err());
    account.assert_settled();
}

#[test]
fn on_tracked_allocators() {
    let make = || Tracked::new(CountingAllocator::new(), "x", AllocatorKind::Other);
    in_every_order(make, |tracked| {
        assert_eq!(tracked.used(), 0);
        tracked.allocator().assert_clean();
    });
    let make = || {
        let bump = BumpAllocator::try_new(REGION).unwrap();
        Tracked::exclusive(bump, "x", AllocatorKind::Bump)
    };
    in_every_order(make, |tracked| assert_eq!(tracked.used(), 0));
}

#[test]
fn on_configured_allocators() {
    for track_stats in [false, true] {
        for (kind, capacity) in [
            (AllocatorChoice::System, 0),
            (AllocatorChoice::Bump, REGION),
            (AllocatorChoice::Stack, REGION),
        ] {
            let capacity = ByteSize::new(capacity);
            let config =
                AllocatorConfig { kind, capacity, track_stats, ..AllocatorConfig::default() };
            let base = CountingAllocator::new();
            in_every_order(|| config.build_in(base.clone()).unwrap(), |_| ());
            base.assert_clean();
        }
    }
}

#[test]
fn a_collection_may_own_its_allocator() {
    let base = CountingAllocator::new();
    let bump = || BumpAllocator::try_new_in(REGION, base.clone()).unwrap();

    let mut list = Vec::new_in(bump());
    list.extend(0..1000_u32);
    let mut map = HashMap::with_hasher_in(DefaultHashBuilder::default(), bump());
    map.extend((0..1000_u32).map(|i| (i, i)));
    let mut stacked = Vec::new_in(StackAllocator::try_new_in(REGION, base.clone()).unwrap());
    stacked.extend(0..1000_u32);
    let boxed = Box::new_in([7_u8; 100], Tracked::exclusive(bump(), "x", AllocatorKind::Bump));
    assert_eq!(base.live_bytes(), 4 * REGION);

    // Moving the collection moves the allocator, not what lives in it.
    let moved = std::boxed::Box::new((list, map, boxed, stacked));
    assert!(moved.0.iter().copied().eq(0..1000));
    assert!((0..1000).all(|i| moved.1[&i] == i));
    assert_eq!(*moved.2, [7; 100]);
    assert!(moved.3.iter().copied().eq(0..1000));
    drop(moved);
    base.assert_clean();
}
