//! What went wrong once with levels, storage, values and times, and was to be seen from outside.

mod common;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::until;
use nebula_memory_core::{
    ManualClock, MemoryError, MemoryUsage, PressureLevel, Reclaim, Unlimited,
};
use nebula_pool::{
    HierarchicalPool, Hooked, Hooks, LockFreePool, ObjectPool, Order, PoolConfig,
    PoolConfigBuilder, Poolable, ThreadSafePool, TtlPool,
};
use nebula_testing::CountingAccount;

fn of(capacity: usize) -> PoolConfigBuilder {
    PoolConfig::builder().capacity(capacity)
}

/// An object of so many bytes.
struct Heavy(usize);

impl Poolable for Heavy {
    fn reset(&mut self) {}

    fn heap_size(&self) -> usize {
        self.0
    }
}

/// An object with nothing on the heap.
struct Inline([u8; 4096]);

impl Poolable for Inline {
    fn reset(&mut self) {
        self.0[0] = 0;
    }

    fn heap_size(&self) -> usize {
        0
    }
}

fn inline(config: &PoolConfig) -> LockFreePool<Inline> {
    LockFreePool::new(config, || Inline([0; 4096])).unwrap()
}

#[test]
fn storage_of_objects_without_a_heap_is_given_back() {
    let pool = inline(&of(8).warm_up(8).build().unwrap());
    let (promised, used) = (pool.reclaimable(), pool.used());
    let given = pool.reclaim(1, PressureLevel::Critical);
    assert!(given > 8 * 4096 && given == promised, "{given} of {promised}");
    assert_eq!(pool.used(), used - given);
    assert_eq!((pool.reclaimable(), pool.reclaim(1, PressureLevel::Critical)), (0, 0));
}

#[test]
fn objects_go_for_their_storage_only_if_it_goes() {
    let pool = inline(&of(8).warm_up(8).build().unwrap());
    let lent = pool.try_get().unwrap();
    assert_eq!((pool.reclaimable(), pool.reclaim(1, PressureLevel::Critical)), (0, 0));
    assert_eq!(pool.stats().idle, 7);
    drop(lent);
    let pool = inline(&of(8).warm_up(8).min_idle(1).build().unwrap());
    assert_eq!((pool.reclaimable(), pool.reclaim(1, PressureLevel::High)), (0, 0));
    assert_eq!(pool.stats().idle, 8);
    assert!(pool.reclaim(1, PressureLevel::Critical) > 0);
}

#[test]
fn storage_without_objects_is_reclaimable() {
    let pool = inline(&of(8).build().unwrap());
    let promised = pool.reclaimable();
    assert!(promised > 8 * 4096);
    assert_eq!(pool.reclaim(usize::MAX, PressureLevel::Normal), promised);
}

#[test]
fn a_level_that_is_not_made_leaves_the_one_above_as_it_was() {
    for order in [Order::Lifo, Order::Fifo] {
        let (made, accounts) = (AtomicUsize::new(0), [(); 2].map(|()| CountingAccount::new()));
        let make = move || match made.fetch_add(1, SeqCst) {
            0 => Ok(Heavy(10)),
            1 => Ok(Heavy(1000)),
            _ => Err(MemoryError::Closed { what: "the factory" }),
        };
        let config = of(8).warm_up(1).build().unwrap();
        let root = HierarchicalPool::try_new_in(&config, accounts[0].clone(), make).unwrap();
        let before = (root.used(), root.stats().idle, root.stats().created);
        let config = of(4).warm_up(3).order(order).build().unwrap();
        assert_eq!(root.child(&config, accounts[1].clone()).unwrap_err().code(), "closed");
        assert_eq!((root.used(), root.stats().idle, root.stats().created), before);
        assert_eq!(accounts[1].balance(), 0);
    }
}

#[test]
fn a_level_whose_account_is_full_gives_back_what_it_borrowed() {
    let config = of(8).warm_up(3).build().unwrap();
    let root = HierarchicalPool::new_in(&config, CountingAccount::new(), || Heavy(100)).unwrap();
    let before = (root.used(), root.stats().idle);
    let narrow = CountingAccount::with_limit(250);
    let error = root.child(&of(4).warm_up(3).build().unwrap(), narrow.clone()).unwrap_err();
    assert_eq!(narrow.balance(), 0, "{error}");
    assert_eq!((root.used(), root.stats().idle), before);
}

#[test]
fn a_level_whose_factory_panics_leaves_the_one_above_as_it_was() {
    let made = AtomicUsize::new(0);
    let make = move || {
        assert!(made.fetch_add(1, SeqCst) != 3, "the fourth");
        Heavy(1000)
    };
    let config = of(8).warm_up(1).build().unwrap();
    let root = HierarchicalPool::new_in(&config, CountingAccount::new(), make).unwrap();
    let before = (root.used(), root.stats().idle);
    let account = CountingAccount::new();
    let config = of(4).warm_up(4).build().unwrap();
    let child = catch_unwind(AssertUnwindSafe(|| root.child(&config, account.clone()).map(drop)));
    assert!(child.is_err());
    assert_eq!((root.used(), root.stats().idle), before);
    assert_eq!((account.balance(), root.tree_stats().lent), (0, 0));
}

#[test]
fn a_level_without_room_for_its_warm_up_is_refused() {
    let root = HierarchicalPool::new(&of(3).warm_up(3).build().unwrap(), String::new).unwrap();
    let held = [(); 2].map(|()| root.try_get().unwrap());
    let config = of(2).warm_up(2).build().unwrap();
    assert_eq!(root.child(&config, Unlimited).unwrap_err().code(), "pool_exhausted");
    assert_eq!((root.stats().idle, root.stats().lent), (1, 2));
    drop(held);
    assert_eq!(root.child(&config, Unlimited).unwrap().stats().idle, 2);
}

#[test]
fn the_peak_of_a_tree_is_no_more_than_it_can_lend() {
    let config = of(2).track_peak(true).build().unwrap();
    let root = HierarchicalPool::new(&config, String::new).unwrap();
    for _ in 0..100 {
        let level = root.child(&of(1).track_peak(true).build().unwrap(), Unlimited).unwrap();
        drop(level.try_get().unwrap());
    }
    assert_eq!(root.tree_stats().peak_lent, Some(1));
    drop([(); 2].map(|()| root.try_get().unwrap()));
    assert_eq!(root.tree_stats().peak_lent, Some(2));
}

#[test]
fn no_maintainer_keeps_the_time_of_a_clock_that_is_not_the_machines() {
    let clock = Arc::new(ManualClock::new());
    let config = of(2).lifetime(Duration::from_secs(60)).build().unwrap();
    let make = || Ok(String::new());
    let pool = TtlPool::with_clock(&config, Unlimited, clock.clone(), make).unwrap();
    let pool = Arc::new(pool);
    let maintainer = pool.maintain_every(Duration::from_secs(3600)).unwrap();
    until(|| maintainer.rounds() > 0);
    drop(pool.try_get().unwrap());
    clock.advance(Duration::from_secs(3600));
    drop(pool.try_get().unwrap());
    assert_eq!(pool.stats().created, 2, "an hour old");
}

#[test]
fn short_times_are_not_over_at_once_while_a_maintainer_runs() {
    for millis in [1, 2, 8] {
        let config = of(2).idle_time(Duration::from_millis(millis)).build().unwrap();
        let (clock, make) = (Arc::new(ManualClock::new()), || Ok(String::new()));
        let pool = Arc::new(TtlPool::with_clock(&config, Unlimited, clock, make).unwrap());
        let maintainer = pool.maintain_every(Duration::from_secs(3600)).unwrap();
        until(|| maintainer.rounds() > 0);
        for _ in 0..100 {
            drop(pool.try_get().unwrap());
        }
        assert_eq!(pool.stats().created, 1, "{millis} ms, and the clock stood still");
    }
    // By the machine's clock, which goes on, but not by a millisecond at each get.
    let config = of(2).idle_time(Duration::from_millis(1)).build().unwrap();
    let pool = Arc::new(TtlPool::new(&config, String::new).unwrap());
    let maintainer = pool.maintain_every(Duration::from_secs(3600)).unwrap();
    until(|| maintainer.rounds() > 0);
    for _ in 0..1000 {
        drop(pool.try_get().unwrap());
    }
    assert!(pool.stats().created < 900, "{}", pool.stats());
}

/// An object with a value of its own.
struct Valued(u64);

impl Poolable for Valued {
    fn reset(&mut self) {}

    fn heap_size(&self) -> usize {
        100
    }

    fn value(&self) -> u64 {
        self.0
    }
}

/// The values of 200 objects, all different and in no order.
fn values() -> impl Fn() -> Valued + Send + Sync {
    let number = AtomicUsize::new(0);
    move || Valued(number.fetch_add(1, SeqCst) as u64 * 77 % 200)
}

/// That only the values from 150 on are left.
fn are_the_best(left: impl Iterator<Item = u64>) {
    let mut left: Vec<_> = left.collect();
    left.sort_unstable();
    assert_eq!(left, (150..200).collect::<Vec<_>>());
}

#[test]
fn of_many_values_the_least_go() {
    let config = of(200).warm_up(200).build().unwrap();
    let pool = ThreadSafePool::new(&config, values()).unwrap();
    assert_eq!(pool.reclaim(15_000, PressureLevel::High), 15_000);
    let left: Vec<_> = (0..50).map(|_| pool.try_get().unwrap()).collect();
    are_the_best(left.iter().map(|object| object.0));

    let pool = LockFreePool::new(&config, values()).unwrap();
    assert_eq!(pool.reclaim(14_999, PressureLevel::High), 15_000);
    let left: Vec<_> = (0..50).map(|_| pool.try_get().unwrap()).collect();
    are_the_best(left.iter().map(|object| object.0));

    let tree = HierarchicalPool::new(&config, values()).unwrap();
    assert_eq!(tree.reclaim(15_000, PressureLevel::High), 15_000);
    let left: Vec<_> = (0..50).map(|_| tree.try_get().unwrap()).collect();
    are_the_best(left.iter().map(|object| object.0));

    let config = of(200).warm_up(200).max_idle(200).build().unwrap();
    let pool = ObjectPool::new(&config, values()).unwrap();
    let request = pool.trim_request();
    request.reclaim(15_000, PressureLevel::High);
    pool.maintain().unwrap();
    let left: Vec<_> = (0..50).map(|_| pool.try_get().unwrap()).collect();
    are_the_best(left.iter().map(|object| object.0));
}

#[test]
fn an_object_that_cannot_be_reset_is_dropped_and_counted() {
    let hooks = Hooks::new().try_reset(|n: &mut u32| *n < 9).heap_size(|_| 10);
    let make = hooks.factory(|| 0);
    let pool: ThreadSafePool<Box<Hooked<u32>>> =
        ThreadSafePool::new(&of(1).build().unwrap(), move || Box::new(make())).unwrap();
    ***pool.try_get().unwrap() = 8;
    assert_eq!((pool.stats().idle, pool.stats().spoiled), (1, 0));
    ***pool.try_get().unwrap() = 9;
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.spoiled, stats.quarantined, stats.destroyed), (0, 1, 0, 1));
    assert!(stats.to_string().ends_with("destroyed: 1 spoiled"), "{stats}");
    assert_eq!((***pool.try_get().unwrap(), pool.stats().created), (0, 2));
}

#[test]
fn a_hold_has_the_same_number_in_two_reports() {
    let config = of(2).track_holders(true).build().unwrap();
    let pool = ThreadSafePool::new(&config, String::new).unwrap();
    let [first, second] = [(); 2].map(|()| pool.try_get().unwrap());
    let numbers = || pool.holders().iter().map(|holder| holder.number).collect::<Vec<_>>();
    assert_eq!(numbers(), [0, 1]);
    drop(first);
    assert_eq!(numbers(), [1]);
    let third = pool.try_get().unwrap();
    assert_eq!(numbers(), [1, 2]);
    drop((second, third));
}
