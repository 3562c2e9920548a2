//! What the pool without locks does beyond what all pools do.
//!
//! Not for miri: crossbeam-epoch breaks its default rules for borrows (it keeps those of tree borrows).
#![cfg(not(miri))]

mod common;

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use common::{Factory, LIMIT, Object};
use nebula_memory_core::{MemoryUsage, PressureLevel, Reclaim};
use nebula_pool::{Growth, LockFreePool, PoolConfig, PoolConfigBuilder, Shrink};
use nebula_testing::{CountingAccount, Rng, watchdog};

type Pool = LockFreePool<Object, CountingAccount>;

fn pool(config: PoolConfigBuilder, bytes: usize) -> (Arc<Pool>, Factory, CountingAccount) {
    let (factory, account) = (Factory::of(bytes), CountingAccount::new());
    let (config, make) = (config.build().unwrap(), factory.clone());
    let pool = LockFreePool::try_new_in(&config, account.clone(), move || make.make()).unwrap();
    (Arc::new(pool), factory, account)
}

/// Trims until nobody looks at what has been retired (another test's thread may, in the same epoch).
fn trim(pool: &Pool) -> usize {
    let mut sum = 0;
    for _ in 0..1000 {
        sum += pool.trim();
        thread::yield_now();
        if pool.used() <= sum {
            break;
        }
    }
    sum
}

#[test]
fn storage_comes_with_its_first_object_and_goes_with_its_last() {
    let (pool, _, account) = pool(PoolConfig::builder().capacity(10).growth(Growth::Fixed(4)), 0);
    let first = account.balance();
    assert_eq!(pool.stats().places, 4);
    let guards: Vec<_> = (0..9).map(|_| pool.try_get().unwrap()).collect();
    assert_eq!(pool.stats().places, 10);
    let full = account.balance();
    assert!(full > first);
    let mut guards = guards.into_iter();
    // One object in the second segment keeps it; the others go.
    let kept = guards.by_ref().nth(5).unwrap();
    drop(guards);
    let freed = trim(&pool);
    assert_eq!(pool.stats().places, 4);
    account.assert_balance(full - freed);
    drop(kept);
    let freed = freed + trim(&pool);
    assert_eq!((pool.stats().places, pool.stats().lent), (0, 0));
    account.assert_balance(full - freed);
    // It all comes back.
    assert_eq!((0..10).map(|_| pool.try_get().unwrap()).collect::<Vec<_>>().len(), 10);
    account.assert_balance(full);
    assert_eq!(pool.stats().gets, 19, "what was counted in freed storage is not forgotten");
}

#[test]
fn maintain_frees_what_it_empties() {
    let config = PoolConfig::builder().capacity(8).growth(Growth::Fixed(2)).shrink(Shrink::Unused);
    let (pool, factory, _) = pool(config, 100);
    drop((0..8).map(|_| pool.try_get().unwrap()).collect::<Vec<_>>());
    pool.maintain().unwrap();
    drop(pool.try_get().unwrap());
    assert_eq!(pool.maintain().unwrap().dropped, 7);
    factory.counter.assert_live(1);
    for _ in 0..1000 {
        pool.trim();
        if pool.stats().places == 0 {
            break;
        }
        thread::yield_now();
    }
    assert_eq!(pool.stats().places, 0);
}

#[test]
fn a_reclaim_takes_the_least_valuable_and_then_empty_storage() {
    let config = PoolConfig::builder().capacity(6).min_idle(1);
    let (pool, factory, account) = pool(config, 100);
    let mut crowd: Vec<_> = (0..5).map(|_| pool.try_get().unwrap()).collect();
    for (object, value) in crowd.iter_mut().zip([50, 10, 40, 10, 30]) {
        object.value = value;
    }
    let tags: Vec<_> = crowd.iter().map(|object| object.probe.tag()).collect();
    assert_eq!(pool.reclaimable(), 0);
    drop(crowd);
    assert_eq!(pool.reclaimable(), 400, "one stays");
    assert_eq!(pool.reclaim(250, PressureLevel::High), 300);
    let mut dropped = factory.counter.dropped();
    dropped[..2].sort_unstable();
    assert_eq!(dropped, [tags[1], tags[3], tags[4]]);
    assert_eq!(pool.reclaim(usize::MAX, PressureLevel::High), 100);
    let before = account.balance();
    let given = pool.reclaim(usize::MAX, PressureLevel::Critical);
    assert!(given >= 100);
    account.assert_balance(before - given);
}

#[test]
fn large_pools_come_in_several_lists() {
    let config = PoolConfig::builder().capacity(70_000).build().unwrap();
    let pool = LockFreePool::new(&config, String::new).unwrap();
    let guards: Vec<_> = (0..70_000).map(|_| pool.try_get().unwrap()).collect();
    assert!(pool.try_get().is_err());
    drop(guards);
    assert_eq!((pool.stats().idle, pool.stats().places), (70_000, 70_000));
}

#[test]
fn more_threads_than_processors_share_it_while_it_shrinks() {
    watchdog(LIMIT, || {
        const THREADS: usize = 8;
        const ROUNDS: usize = if cfg!(miri) { 20 } else { 2000 };
        // One place more than threads, for the sweep's hand.
        let config = PoolConfig::builder().capacity(THREADS + 2).growth(Growth::Doubling(1));
        let (pool, factory, account) = pool(config.shrink(Shrink::Unused).max_idle(2), 10);
        let (done, start) = (AtomicBool::new(false), Barrier::new(THREADS + 2));
        thread::scope(|s| {
            let users: Vec<_> = (0..THREADS as u64)
                .map(|n| {
                    let (pool, start) = (&pool, &start);
                    s.spawn(move || {
                        let mut rng = Rng::new(n + 1);
                        start.wait();
                        for _ in 0..ROUNDS {
                            let mut object = pool.try_get().expect("there is a place for each");
                            assert!(!object.dirty, "somebody else has it, too");
                            object.dirty = true;
                            object.bytes = 10 + rng.below(3);
                            object.valid = rng.below(16) > 0;
                            if rng.below(32) == 0 {
                                drop(object.detach());
                            }
                        }
                    })
                })
                .collect();
            for sweep in 0..2 {
                let (pool, done, start) = (&pool, &done, &start);
                s.spawn(move || {
                    start.wait();
                    while !done.load(SeqCst) {
                        if sweep == 0 {
                            pool.trim();
                        } else {
                            pool.reclaim(25, PressureLevel::High);
                            pool.maintain().unwrap();
                        }
                        assert!(pool.stats().places <= pool.capacity());
                    }
                });
            }
            let results: Vec<_> = users.into_iter().map(thread::ScopedJoinHandle::join).collect();
            done.store(true, SeqCst);
            assert!(results.into_iter().all(|result| result.is_ok()));
        });
        let stats = pool.stats();
        assert_eq!((stats.lent, stats.gets), (0, (THREADS * ROUNDS) as u64));
        assert_eq!(stats.created, stats.idle as u64 + stats.destroyed + stats.detached);
        assert_eq!(pool.used(), account.balance());
        drop(pool);
        factory.counter.assert_all_dropped();
        account.assert_settled();
    });
}

#[test]
fn a_neighbour_that_changes_places_does_not_make_it_look_exhausted() {
    watchdog(LIMIT, || {
        // Two threads, two segments of one place each: there is always one for each.
        let config = PoolConfig::builder().capacity(2).growth(Growth::Fixed(1));
        let (pool, ..) = pool(config, 0);
        let failures = AtomicUsize::new(0);
        thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    for _ in 0..5000 {
                        if pool.try_get().is_err() {
                            failures.fetch_add(1, SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(failures.load(SeqCst), 0);
    });
}

/// Holds the process's epoch while it lives.
fn elsewhere<R>(then: impl FnOnce() -> R) -> R {
    let (pinned, done) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|s| {
        s.spawn(|| {
            let guard = crossbeam_epoch::pin();
            pinned.wait();
            done.wait();
            drop(guard);
        });
        pinned.wait();
        let result = then();
        done.wait();
        result
    })
}

#[test]
fn who_is_pinned_elsewhere_holds_no_storage_up() {
    let (pool, _, account) = pool(PoolConfig::builder().capacity(16).warm_up(16), 100);
    let own = elsewhere(|| {
        pool.trim();
        pool.used()
    });
    assert_eq!((pool.stats().places, own), (0, account.balance()));
    drop(pool.try_get().unwrap());
    assert!(pool.used() > own + 100);
}

#[test]
fn a_reclaim_runs_nothing_that_others_have_deferred() {
    let (pool, ..) = pool(PoolConfig::builder().capacity(16).warm_up(16), 100);
    let ran = std::sync::Arc::new(AtomicBool::new(false));
    let theirs = std::sync::Arc::clone(&ran);
    crossbeam_epoch::pin().defer(move || theirs.store(true, SeqCst));
    for _ in 0..4 {
        pool.reclaim(usize::MAX, PressureLevel::Critical);
        pool.trim();
    }
    assert!(!ran.load(SeqCst));
}

#[test]
fn storage_that_was_held_up_by_a_look_goes_with_the_next_maintenance_or_get() {
    watchdog(LIMIT, || {
        let (pool, _, account) = pool(PoolConfig::builder().capacity(16).warm_up(16), 100);
        let looking = AtomicBool::new(true);
        thread::scope(|s| {
            s.spawn(|| {
                while looking.load(SeqCst) {
                    pool.stats();
                }
            });
            for _ in 0..200 {
                drop(pool.try_get().unwrap());
                pool.trim();
            }
            looking.store(false, SeqCst);
        });
        // With room for one object and its storage, and what is retired charged still or not.
        let one = account.balance();
        drop(pool.try_get().unwrap());
        let with_one = pool.used();
        pool.trim();
        pool.maintain().unwrap();
        assert!(pool.used() < with_one && pool.used() <= one);
        assert_eq!((pool.used(), pool.stats().places), (account.balance(), 0));
    });
}
