//! Statistics equal what happened.

use std::thread;

use nebula_memory_core::{
    AllocatorKind, AllocatorStats, MemoryUsage, StatisticsProvider, StatsSnapshot, StripedCounter,
    UsageCell,
};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Event {
    Allocate(usize),
    Deallocate,
    Grow(usize),
    Shrink(usize),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0_usize..5000).prop_map(Event::Allocate),
        Just(Event::Deallocate),
        (0_usize..500).prop_map(Event::Grow),
        (0_usize..500).prop_map(Event::Shrink),
    ]
}

proptest! {
    #[test]
    fn both_ways_of_counting_equal_a_model(events in prop::collection::vec(any_event(), 0..100)) {
        let (shared, alone) = (AllocatorStats::new(), AllocatorStats::new());
        let mut model = StatsSnapshot::default();
        let mut blocks: Vec<usize> = Vec::new();
        for event in events {
            match (event, blocks.last_mut()) {
                (Event::Allocate(bytes), _) => {
                    shared.record_allocation(bytes);
                    alone.record_allocation_exclusive(bytes);
                    model.allocations += 1;
                    model.bytes_allocated += bytes as u64;
                    blocks.push(bytes);
                }
                (_, None) => {}
                (Event::Deallocate, Some(&mut bytes)) => {
                    shared.record_deallocation(bytes);
                    alone.record_deallocation_exclusive(bytes);
                    model.deallocations += 1;
                    model.bytes_deallocated += bytes as u64;
                    blocks.pop();
                }
                (Event::Grow(by), Some(bytes)) => {
                    shared.record_grow(by);
                    alone.record_grow_exclusive(by);
                    model.bytes_allocated += by as u64;
                    *bytes += by;
                }
                (Event::Shrink(by), Some(bytes)) => {
                    let by = by.min(*bytes);
                    shared.record_shrink(by);
                    alone.record_shrink_exclusive(by);
                    model.bytes_deallocated += by as u64;
                    *bytes -= by;
                }
            }
            let usage: usize = blocks.iter().sum();
            model.peak_usage = model.peak_usage.max(usage as u64);
            prop_assert_eq!(shared.snapshot(), model);
            prop_assert_eq!(alone.snapshot(), model);
            prop_assert_eq!(model.current_usage(), usage as u64);
            prop_assert_eq!(model.live_blocks(), blocks.len() as u64);
        }
    }
}

#[test]
fn threads_count_exactly() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 2000;
    let stats = AllocatorStats::new();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    stats.record_allocation(8);
                    stats.record_grow(4);
                    stats.record_shrink(2);
                    stats.record_deallocation(10);
                }
                stats.record_allocation(100);
            });
        }
    });
    let snapshot = stats.snapshot();
    assert_eq!(snapshot.allocations, THREADS * (ROUNDS + 1));
    assert_eq!(snapshot.deallocations, THREADS * ROUNDS);
    assert_eq!((snapshot.live_blocks(), snapshot.current_usage()), (THREADS, THREADS * 100));
    // At the end all of it was in use; at most, every thread had a hundred and a block of twelve.
    assert!((THREADS * 100..=THREADS * 112).contains(&snapshot.peak_usage));
}

#[test]
fn sums_of_snapshots_add_every_figure() {
    let one = StatsSnapshot {
        allocations: 1,
        deallocations: 2,
        bytes_allocated: 3,
        bytes_deallocated: 4,
        peak_usage: 5,
    };
    let two = one.plus(&one);
    assert_eq!(
        (two.allocations, two.deallocations, two.bytes_allocated, two.bytes_deallocated),
        (2, 4, 6, 8)
    );
    assert_eq!(two.peak_usage, 10);
    // More ends than beginnings can only be a snapshot in the middle of things: not below zero.
    assert_eq!((one.live_blocks(), one.current_usage()), (0, 0));
}

#[test]
fn a_snapshot_prints_its_figures() {
    let stats = AllocatorStats::new();
    stats.record_allocation(2048);
    stats.record_allocation(512);
    stats.record_deallocation(512);
    assert_eq!(
        stats.snapshot().to_string(),
        "2.0 KiB in 1 blocks (peak 2.5 KiB; 2 allocations of 2.5 KiB, 1 freed)"
    );
}

#[test]
fn a_striped_counter_sums_all_threads() {
    let counter = StripedCounter::new();
    thread::scope(|scope| {
        // More threads than stripes.
        for _ in 0..20 {
            scope.spawn(|| (0..100).for_each(|_| counter.add(3)));
        }
    });
    assert_eq!(counter.sum(), 20 * 100 * 3);
    counter.add(u64::MAX);
    assert_eq!(counter.sum(), 20 * 100 * 3 - 1);
}

#[test]
fn a_cell_shows_what_its_owner_publishes() {
    let cell = UsageCell::new("scratch", AllocatorKind::Stack, true);
    assert_eq!(
        (cell.name(), cell.kind(), cell.is_thread_safe()),
        ("scratch", AllocatorKind::Stack, true)
    );
    assert_eq!((cell.used(), cell.capacity(), cell.available()), (0, None, None));
    assert!(cell.stats().is_none() && cell.statistics().is_none());
    cell.set_used(70);
    cell.set_capacity(Some(100));
    assert_eq!(
        (cell.used(), cell.capacity(), MemoryUsage::available(&&cell)),
        (70, Some(100), Some(30))
    );
    // A capacity below what is in use leaves nothing, and no less.
    cell.set_capacity(Some(50));
    assert_eq!(cell.available(), Some(0));
    cell.set_capacity(None);
    assert_eq!(cell.available(), None);
}

#[test]
fn a_cell_with_statistics_shows_them() {
    let cell =
        UsageCell::new("pool", AllocatorKind::Pool, false).with_statistics().with_capacity(10);
    cell.stats().unwrap().record_allocation(4);
    let snapshot = StatisticsProvider::statistics(&&cell).unwrap();
    assert_eq!((snapshot.allocations, snapshot.bytes_allocated), (1, 4));
    assert_eq!(cell.capacity(), Some(10));
    assert_eq!(format!("{:>6}|{:>6}", cell.kind(), AllocatorKind::Other), "  pool| other");
}

#[test]
fn a_striped_counter_is_exact_with_more_threads_than_stripes() {
    let counter = StripedCounter::new();
    let start = std::sync::Barrier::new(40);
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                start.wait();
                (0..1000).for_each(|_| counter.add(1));
            });
        }
    });
    assert_eq!(counter.sum(), 40_000);
}

#[test]
fn who_gets_the_stripe_of_a_thread_that_ended_goes_on_from_its_count() {
    let counter = StripedCounter::new();
    for _ in 0..100 {
        std::thread::scope(|scope| {
            scope.spawn(|| counter.add(1));
            scope.spawn(|| counter.add(2));
        });
    }
    assert_eq!(counter.sum(), 300);
}

#[test]
fn a_thread_counts_until_its_very_end() {
    struct AtTheEnd(std::sync::Arc<StripedCounter>);
    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            self.0.add(10);
        }
    }
    std::thread_local! {
        static FIRST: std::cell::RefCell<Option<AtTheEnd>> = const { std::cell::RefCell::new(None) };
    }
    let counter = std::sync::Arc::new(StripedCounter::new());
    for _ in 0..20 {
        let mine = std::sync::Arc::clone(&counter);
        let thread = std::thread::spawn(move || {
            // Registered before the counter's own, so that it is dropped after or before that,
            // whichever the system does; both must count.
            FIRST.with(|first| *first.borrow_mut() = Some(AtTheEnd(std::sync::Arc::clone(&mine))));
            mine.add(1);
        });
        thread.join().unwrap();
    }
    assert_eq!(counter.sum(), 220);
}
