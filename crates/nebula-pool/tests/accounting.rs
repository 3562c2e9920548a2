//! The books: every byte charged, and credited once.

mod common;

use std::sync::atomic::Ordering::SeqCst;

use common::{Factory, pool};
use nebula_memory_core::{
    Account, Align, MemoryError, MemoryUsage, PressureLevel, Reclaim, StatisticsProvider,
};
use nebula_pool::{PoolConfig, ThreadSafePool};
use nebula_testing::{CountingAccount, RefusingAccount};

#[test]
fn objects_are_charged_when_made_and_credited_when_gone() {
    let (pool, _, account) = pool(4, 100);
    let own = account.balance();
    let (a, b) = (pool.try_get().unwrap(), pool.try_get().unwrap());
    account.assert_balance(own + 200);
    drop((a, b));
    account.assert_balance(own + 200);
    drop(pool.try_get().unwrap().detach());
    account.assert_balance(own + 100);
    assert_eq!(pool.trim(), 100);
    account.assert_balance(own);
    drop(pool);
    account.assert_settled();
}

#[test]
fn lending_charges_nothing() {
    let (pool, _, account) = pool(1, 100);
    drop(pool.try_get().unwrap());
    let (charges, credits) = (account.charges(), account.credits());
    for _ in 0..10 {
        drop(pool.try_get().unwrap());
    }
    assert_eq!((account.charges(), account.credits()), (charges, credits));
}

#[test]
fn a_return_charges_the_change_of_size() {
    let (pool, _, account) = pool(1, 100);
    let own = account.balance();
    let mut object = pool.try_get().unwrap();
    object.bytes = 250;
    account.assert_balance(own + 100);
    drop(object);
    account.assert_balance(own + 250);
    pool.try_get().unwrap().bytes = 30;
    account.assert_balance(own + 30);
    pool.try_get().unwrap().bytes = 0;
    account.assert_balance(own);
    assert_eq!(pool.stats().destroyed, 0);
}

#[test]
fn a_refused_growth_drops_the_object() {
    let (pool, factory, account) = pool(1, 100);
    let own = account.balance();
    account.set_limit(own + 200);
    pool.try_get().unwrap().bytes = 201;
    factory.counter.assert_all_dropped();
    account.assert_balance(own);
    let stats = pool.stats();
    assert_eq!((stats.unaffordable, stats.destroyed, stats.idle), (1, 1, 0));
    assert!(pool.try_get().is_ok());
}

#[test]
fn a_refused_object_frees_its_place_and_is_not_in_the_books() {
    let (pool, factory, account) = pool(1, 100);
    let own = account.balance();
    account.set_limit(own + 99);
    let error = pool.try_get().unwrap_err();
    assert!(matches!(error, MemoryError::CapacityExceeded { requested: 100, available: 99, .. }));
    factory.counter.assert_all_dropped();
    account.assert_balance(own);
    assert_eq!((pool.stats().created, pool.stats().lent), (0, 0));
    account.set_limit(own + 100);
    assert!(pool.try_get().is_ok());
}

#[test]
fn objects_without_heap_are_never_refused() {
    let (pool, _, account) = pool(1, 0);
    account.set_limit(0);
    assert!(pool.try_get().is_ok());
}

#[test]
fn a_table_that_the_account_refuses_is_not_made() {
    let account = CountingAccount::with_limit(100);
    let pool = ThreadSafePool::new_in(&PoolConfig::default(), account.clone(), String::new);
    assert_eq!(pool.unwrap_err().code(), "capacity_exceeded");
    account.assert_settled();
}

/// An account that refuses everything and has something to say about it.
struct Eloquent;

impl Account for Eloquent {
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        if bytes < 1_000_000 {
            return Ok(());
        }
        Err(MemoryError::CapacityExceeded { requested: bytes, available: 0, align: Align::ONE })
    }

    fn credit(&self, _bytes: usize) {}

    fn explain(&self, _error: MemoryError) -> MemoryError {
        MemoryError::Closed { what: "the explained account" }
    }
}

#[test]
fn refusals_reach_the_user_explained() {
    let config = PoolConfig::default();
    let pool = Factory::of(1_000_000).pool_in(&config, Eloquent).unwrap();
    assert_eq!(pool.try_get().unwrap_err().code(), "closed");
    assert_eq!(pool.get().unwrap_err().code(), "closed");
    assert_eq!(common::block_on(pool.get_async()).unwrap_err().code(), "closed");
    let large = PoolConfig::builder().capacity(100_000).build().unwrap();
    assert_eq!(ThreadSafePool::new_in(&large, Eloquent, String::new).unwrap_err().code(), "closed");
}

#[test]
fn the_pool_tells_what_it_is_charged() {
    let (pool, _, account) = pool(4, 100);
    let check = |objects: u64, live: u64| {
        assert_eq!(pool.used(), account.balance());
        let stats = pool.statistics().unwrap();
        // The pool itself and its table's one segment.
        assert_eq!((stats.allocations, stats.live_blocks()), (objects + 2, live + 2));
        assert_eq!(stats.current_usage(), account.balance() as u64);
        assert_eq!(stats.peak_usage, account.peak() as u64);
    };
    check(0, 0);
    let (mut a, b) = (pool.try_get().unwrap(), pool.try_get().unwrap());
    check(2, 2);
    a.bytes = 500;
    drop((a, b));
    check(2, 2);
    pool.trim();
    check(2, 0);
    assert_eq!((MemoryUsage::capacity(&pool), pool.available()), (None, None));
}

#[test]
fn reclaim_gives_idle_bytes_until_there_are_enough() {
    let (pool, factory, account) = pool(8, 100);
    let own = account.balance();
    let guards: Vec<_> = (0..6).map(|_| pool.try_get().unwrap()).collect();
    assert_eq!((pool.reclaimable(), pool.reclaim(1, PressureLevel::Critical)), (0, 0));
    let kept: Vec<_> = guards.into_iter().skip(2).collect();
    assert_eq!(pool.reclaimable(), 200);
    drop(kept);
    assert_eq!(pool.reclaimable(), 600);
    assert_eq!(pool.reclaim(0, PressureLevel::Critical), 0);
    assert_eq!(pool.reclaim(101, PressureLevel::Normal), 200);
    account.assert_balance(own + 400);
    factory.counter.assert_live(4);
    assert_eq!(pool.reclaim(usize::MAX, PressureLevel::Normal), 400);
    account.assert_balance(own);
    factory.counter.assert_all_dropped();
    assert_eq!((pool.stats().reclaimed, pool.stats().destroyed), (6, 6));
    assert_eq!(pool.try_get().unwrap().probe.tag(), 6);
}

#[test]
fn reclaim_leaves_objects_that_would_bring_nothing() {
    let (pool, factory, _) = pool(2, 0);
    drop(pool.try_get().unwrap());
    assert_eq!(pool.reclaim(usize::MAX, PressureLevel::Critical), 0);
    factory.counter.assert_live(1);
}

/// Everything that charges, once; every result may be an error.
fn scenario(factory: &Factory, account: &RefusingAccount) {
    let config = PoolConfig::builder().capacity(3).warm_up(1).build().unwrap();
    let Ok(pool) = factory.pool_in(&config, account.clone()) else { return };
    let used = || assert_eq!(pool.used(), account.get_ref().balance());
    let mut guards: Vec<_> = (0..3).filter_map(|_| pool.try_get().ok()).collect();
    used();
    for (i, guard) in guards.iter_mut().enumerate() {
        guard.bytes = 50 + i * 100;
        guard.valid = i != 2;
    }
    guards.truncate(1);
    used();
    guards.extend(pool.get());
    guards.extend(common::block_on(pool.get_async()));
    if let Some(guard) = guards.pop() {
        let _ = guard.detach();
    }
    used();
    drop(guards);
    used();
    pool.reclaim(60, PressureLevel::High);
    used();
    let stats = pool.stats();
    let here = (stats.lent + stats.idle) as u64;
    assert_eq!(stats.created, here + stats.destroyed + stats.detached, "{stats}");
}

#[test]
fn a_refusal_at_any_charge_leaves_exact_books() {
    for from in [false, true] {
        for n in 0.. {
            let (factory, account) = (Factory::of(100), RefusingAccount::default());
            if from {
                account.refuse_from(n);
            } else {
                account.refuse_at(n);
            }
            scenario(&factory, &account);
            factory.counter.assert_all_dropped();
            account.get_ref().assert_settled();
            if !account.tripped() {
                assert!(n > 5, "the scenario charges {n} times only");
                break;
            }
        }
    }
}

#[test]
fn a_failure_of_the_factory_at_any_call_leaves_exact_books() {
    for n in 0.. {
        let (factory, account) = (Factory::of(100), RefusingAccount::default());
        factory.panics.factory.arm(n);
        let _ = nebula_testing::catch(|| scenario(&factory, &account));
        factory.counter.assert_all_dropped();
        account.get_ref().assert_settled();
        if !factory.panics.factory.fired() {
            assert!(n > 3, "the scenario makes {n} objects only");
            break;
        }
    }
}

#[test]
fn sizes_are_those_of_the_factory_at_the_time() {
    let (pool, factory, account) = pool(2, 10);
    let own = account.balance();
    let first = pool.try_get().unwrap();
    factory.bytes.store(20, SeqCst);
    let second = pool.try_get().unwrap();
    account.assert_balance(own + 30);
    drop((first, second));
}
