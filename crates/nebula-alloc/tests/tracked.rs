//! Statistics: every block, to the byte.

use std::{alloc::Layout, sync::Barrier, thread};

use nebula_alloc::{AllocatorManager, BumpAllocator, Exclusive, Mode, Shared, Tracked};
use nebula_memory_core::{
    Allocator, AllocatorKind, Global, MemoryUsage, Resettable, StatisticsProvider, StatsSnapshot,
    TypedAllocator,
    allocator_api2::{alloc::Allocator as _, vec::Vec},
};
use nebula_testing::{CountingAllocator, FailingAllocator};

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

fn snapshot(figures: [u64; 5]) -> StatsSnapshot {
    let [allocations, deallocations, bytes_allocated, bytes_deallocated, peak_usage] = figures;
    StatsSnapshot { allocations, deallocations, bytes_allocated, bytes_deallocated, peak_usage }
}

/// The same calls for both modes.
fn every_call_counts<M: Mode>(tracked: &Tracked<CountingAllocator, M>) {
    let expect = |figures: [u64; 5]| {
        let stats = snapshot(figures);
        assert_eq!(tracked.statistics(), Some(stats));
        assert_eq!(tracked.used() as u64, stats.current_usage());
        assert_eq!(tracked.allocator().live_bytes() as u64, stats.current_usage());
    };
    expect([0; 5]);
    let a = tracked.try_allocate(layout(100)).unwrap().cast();
    expect([1, 0, 100, 0, 100]);
    let b = tracked.allocate(layout(10)).unwrap().cast();
    let c = tracked.allocate_zeroed(layout(1)).unwrap().cast();
    expect([3, 0, 111, 0, 111]);
    // SAFETY: the block is live and of this layout; it is freed once.
    unsafe { tracked.deallocate(b, layout(10)) };
    expect([3, 1, 111, 10, 111]);
    // SAFETY: the block is live, of this layout, and the new size is larger.
    let a = unsafe { tracked.grow(a, layout(100), layout(300)) }.unwrap().cast();
    expect([3, 1, 311, 10, 301]);
    // SAFETY: as above.
    let a = unsafe { tracked.grow_zeroed(a, layout(300), layout(301)) }.unwrap().cast();
    expect([3, 1, 312, 10, 302]);
    // SAFETY: the block is live, of this layout, and the new size is smaller.
    let a = unsafe { tracked.shrink(a, layout(301), layout(1)) }.unwrap().cast();
    expect([3, 1, 312, 310, 302]);
    // SAFETY: both blocks are live and of this layout; they are freed once.
    unsafe { tracked.deallocate(a, layout(1)) };
    // SAFETY: as above.
    unsafe { tracked.deallocate(c, layout(1)) };
    expect([3, 3, 312, 312, 302]);
    tracked.allocator().assert_clean();
}

#[test]
fn every_call_counts_in_both_modes() {
    every_call_counts(&Tracked::new(CountingAllocator::new(), "x", AllocatorKind::Other));
    every_call_counts(&Tracked::exclusive(CountingAllocator::new(), "x", AllocatorKind::Other));
}

#[test]
fn empty_blocks_are_no_blocks() {
    let tracked = Tracked::new(Global, "x", AllocatorKind::System);
    let nothing = tracked.try_allocate(layout(0)).unwrap();
    // A boxed slice of nothing is freed without ever having been allocated.
    drop(Vec::<u64, _>::new_in(&tracked).into_boxed_slice());
    assert_eq!(tracked.statistics(), Some(snapshot([0; 5])));
    // SAFETY: the block is live, of this layout, and the new size is larger.
    let some = unsafe { tracked.grow(nothing.cast(), layout(0), layout(9)) }.unwrap();
    assert_eq!(tracked.statistics(), Some(snapshot([1, 0, 9, 0, 9])));
    // SAFETY: the block is live, of this layout, and the new size is smaller.
    let nothing = unsafe { tracked.shrink(some.cast(), layout(9), layout(0)) }.unwrap();
    assert_eq!(tracked.statistics(), Some(snapshot([1, 1, 9, 9, 9])));
    // SAFETY: the block is live and of this layout.
    unsafe { tracked.deallocate(nothing.cast(), layout(0)) };
    assert_eq!(tracked.statistics(), Some(snapshot([1, 1, 9, 9, 9])));
}

/// Fails every call in turn; whatever fails counts nothing and comes with the allocator's reason.
fn failures_are_not_counted<M: Mode>(
    make: impl Fn(
        FailingAllocator<CountingAllocator>,
    ) -> Tracked<FailingAllocator<CountingAllocator>, M>,
) {
    let mut n = 0;
    loop {
        let failing = FailingAllocator::new(CountingAllocator::new());
        failing.fail_at(n);
        let tracked = make(failing.clone());
        let books = failing.get_ref();
        let check = || {
            let stats = tracked.statistics().unwrap();
            assert_eq!(stats.current_usage(), books.live_bytes() as u64, "call {n}");
            assert_eq!(stats.live_blocks(), books.live_blocks() as u64, "call {n}");
        };

        let boxed = tracked.try_new([0_u8; 30]);
        if let Err(refused) = &boxed {
            assert_eq!(refused.error.code(), "out_of_memory");
        }
        check();
        let mut numbers = Vec::new_in(&tracked);
        for i in 0..100_u32 {
            if numbers.try_reserve(1).is_ok() {
                numbers.push(i);
            }
            check();
        }
        if let Ok(block) = tracked.allocate_zeroed(layout(9)) {
            // SAFETY: the block is live, of this layout, and the new size is larger.
            let grown = unsafe { tracked.grow_zeroed(block.cast(), layout(9), layout(99)) };
            check();
            let (block, size) = grown.map_or((block, 9), |grown| (grown, 99));
            // SAFETY: the block is live and of this layout, whether it grew or not.
            unsafe { tracked.deallocate(block.cast(), layout(size)) };
        }
        check();
        drop((boxed, numbers));
        check();
        books.assert_clean();
        if !failing.tripped() {
            break;
        }
        n += 1;
    }
    assert!(n > 5, "only {n} calls could fail");
}

#[test]
fn failures_are_not_counted_in_both_modes() {
    failures_are_not_counted(|base| Tracked::new(base, "x", AllocatorKind::Other));
    failures_are_not_counted(|base| Tracked::exclusive(base, "x", AllocatorKind::Other));
}

#[test]
fn the_reason_of_a_refusal_is_passed_on() {
    let bump = BumpAllocator::try_new(10).unwrap();
    let tracked = Tracked::exclusive(bump, "x", AllocatorKind::Bump);
    let refused = tracked.try_new([0_u8; 11]).unwrap_err();
    assert_eq!(refused.error.code(), "capacity_exceeded");
    assert_eq!(tracked.statistics(), Some(snapshot([0; 5])));
}

#[test]
fn clones_count_in_one_cell() {
    let tracked = Tracked::new(Global, "x", AllocatorKind::System);
    let clone = tracked.clone();
    let numbers = Vec::<u64, _>::with_capacity_in(10, clone);
    assert_eq!(tracked.used(), 80);
    drop(numbers);
    assert_eq!(tracked.used(), 0);
}

#[test]
fn threads_count_exactly() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 400;
    let tracked = Tracked::new(Global, "x", AllocatorKind::System);
    let barrier = Barrier::new(THREADS);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                barrier.wait();
                for _ in 0..ROUNDS {
                    let mut bytes = Vec::<u8, _>::with_capacity_in(10, &tracked);
                    bytes.try_reserve_exact(100).unwrap();
                    assert!(tracked.used() <= THREADS * 100);
                }
            });
        }
    });
    let stats = tracked.statistics().unwrap();
    let blocks = (THREADS * ROUNDS) as u64;
    assert_eq!((stats.allocations, stats.deallocations), (blocks, blocks));
    assert_eq!((stats.bytes_allocated, stats.bytes_deallocated), (blocks * 100, blocks * 100));
    assert!((100..=THREADS as u64 * 100).contains(&stats.peak_usage), "{stats:?}");
}

#[test]
fn a_reset_ends_every_block() {
    let bump = BumpAllocator::try_new(1000).unwrap();
    let mut tracked = Tracked::exclusive(bump, "x", AllocatorKind::Bump);
    for size in [100, 0, 20] {
        tracked.try_allocate(layout(size)).unwrap();
    }
    tracked.reset();
    assert_eq!(tracked.statistics(), Some(snapshot([2, 2, 120, 120, 120])));
    assert_eq!((tracked.used(), tracked.allocator().used()), (0, 0));
    tracked.reset();
    assert_eq!(tracked.statistics(), Some(snapshot([2, 2, 120, 120, 120])));
}

#[test]
fn a_reset_that_had_nothing_to_do_counts_nothing() {
    let mut tracked =
        Tracked::exclusive(BumpAllocator::try_new(1000).unwrap(), "x", AllocatorKind::Bump);
    tracked.reset();
    assert_eq!(tracked.statistics(), Some(snapshot([0; 5])));
}

#[test]
fn the_cell_says_who_it_is() {
    let shared = Tracked::new(Global, "shared", AllocatorKind::System);
    let cell = shared.cell();
    assert_eq!((cell.name(), cell.kind()), ("shared", AllocatorKind::System));
    assert!(cell.is_thread_safe() && Shared::THREAD_SAFE);
    assert_eq!(shared.capacity(), None);

    let bump = BumpAllocator::try_new(1000).unwrap();
    let exclusive = Tracked::exclusive(bump, "exclusive", AllocatorKind::Bump).publish_capacity();
    let cell = exclusive.cell();
    assert_eq!((cell.name(), cell.kind()), ("exclusive", AllocatorKind::Bump));
    assert!(!cell.is_thread_safe() && !Exclusive::THREAD_SAFE);
    assert_eq!((exclusive.capacity(), exclusive.available()), (Some(1000), Some(1000)));
    let debug = format!("{exclusive:?}");
    assert!(debug.contains("exclusive") && debug.contains("BumpAllocator"), "{debug}");
}

#[test]
fn counting_ends_with_the_wrapper() {
    let manager = AllocatorManager::new();
    let tracked =
        Tracked::new(CountingAllocator::new(), "x", AllocatorKind::Other).registered_in(&manager);
    assert_eq!(manager.list().len(), 1);
    let base = tracked.into_inner();
    assert!(manager.list().is_empty());
    base.assert_clean();
}
