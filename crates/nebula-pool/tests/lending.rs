//! Getting, returning and taking out, on one thread.

mod common;

use std::sync::Arc;

use common::{Factory, pool};
use nebula_memory_core::MemoryError;
use nebula_pool::{PoolConfig, ThreadSafePool};

#[test]
fn an_object_comes_back_reset_and_is_lent_again() {
    let (pool, factory, _) = pool(4, 0);
    let mut object = pool.try_get().unwrap();
    object.dirty = true;
    drop(object);
    let object = pool.try_get().unwrap();
    assert!(!object.dirty);
    assert_eq!((object.probe.tag(), factory.counter.made()), (0, 1));
}

#[test]
fn a_pool_lends_its_capacity_and_no_more() {
    let (pool, factory, _) = pool(3, 0);
    let mut guards: Vec<_> = (0..3).map(|_| pool.try_get().unwrap()).collect();
    let mut tags: Vec<_> = guards.iter().map(|g| g.probe.tag()).collect();
    tags.sort_unstable();
    assert_eq!(tags, [0, 1, 2], "three different objects");
    assert!(matches!(pool.try_get(), Err(MemoryError::PoolExhausted { in_use: 3, capacity: 3 })));
    let returned = guards.swap_remove(1).probe.tag();
    assert_eq!(pool.try_get().unwrap().probe.tag(), returned);
    assert_eq!(factory.counter.made(), 3);
}

#[test]
fn objects_stay_in_place() {
    let (pool, ..) = pool(2, 0);
    let first = pool.try_get().unwrap();
    let place = &raw const *first;
    drop(first);
    assert_eq!(&raw const *pool.try_get().unwrap(), place);
}

#[test]
fn dropping_the_pool_drops_its_objects() {
    let (pool, factory, account) = pool(4, 100);
    let guards = [pool.try_get().unwrap(), pool.try_get().unwrap()];
    drop(guards);
    factory.counter.assert_live(2);
    drop(pool);
    factory.counter.assert_all_dropped();
    account.assert_settled();
}

#[test]
fn a_leaked_guard_costs_its_slot_until_the_pool_is_dropped() {
    let (pool, factory, account) = pool(1, 100);
    std::mem::forget(pool.try_get().unwrap());
    assert_eq!(pool.try_get().unwrap_err().code(), "pool_exhausted");
    assert_eq!(pool.trim(), 0);
    drop(pool);
    factory.counter.assert_all_dropped();
    account.assert_settled();
}

#[test]
fn a_detached_object_is_the_callers_and_frees_its_place() {
    let (pool, factory, account) = pool(1, 100);
    let before = account.balance();
    let mut object = pool.try_get().unwrap().detach();
    object.dirty = true;
    assert_eq!(account.balance(), before);
    let another = pool.try_get().unwrap();
    assert_eq!((object.probe.tag(), another.probe.tag()), (0, 1));
    drop(another);
    let stats = pool.stats();
    assert_eq!((stats.created, stats.detached, stats.destroyed, stats.idle), (2, 1, 0, 1));
    drop(pool);
    factory.counter.assert_live(1);
    assert!(object.dirty, "it was not reset on its way out");
}

#[test]
fn owned_guards_keep_their_pool_alive() {
    let (pool, factory, account) = pool(3, 100);
    let pool = Arc::new(pool);
    let (kept, detached) = (pool.try_get_owned().unwrap(), pool.get_owned().unwrap());
    let third = common::block_on(Arc::clone(&pool).get_owned_async()).unwrap();
    assert_eq!(pool.try_get_owned().unwrap_err().code(), "pool_exhausted");
    drop(third);
    drop(pool);
    assert_eq!(kept.probe.tag(), 0);
    let object = detached.detach();
    factory.counter.assert_live(3);
    assert!(account.balance() > 0);
    drop(kept);
    account.assert_settled();
    factory.counter.assert_live(1);
    drop(object);
    factory.counter.assert_all_dropped();
}

#[test]
fn an_owned_guard_returns_what_it_was_lent() {
    let pool = Arc::new(ThreadSafePool::new(&PoolConfig::default(), String::new).unwrap());
    let mut name = pool.try_get_owned().unwrap();
    name.push_str("nebula");
    assert_eq!(format!("{name:?}"), "OwnedGuard(\"nebula\")");
    drop(name);
    assert_eq!(pool.try_get().unwrap().as_str(), "");
    assert_eq!((pool.stats().gets, pool.stats().reuses, pool.stats().created), (2, 1, 1));
}

#[test]
fn an_invalid_object_is_replaced_at_checkout() {
    let (pool, factory, account) = pool(1, 100);
    let before = account.balance();
    pool.try_get().unwrap().valid = false;
    assert_eq!(pool.try_get().unwrap().probe.tag(), 1);
    assert_eq!(factory.counter.dropped(), [0]);
    let stats = pool.stats();
    assert_eq!((stats.created, stats.destroyed, stats.invalidated), (2, 1, 1));
    assert_eq!((stats.gets, stats.reuses), (2, 0));
    account.assert_balance(before + 100);
}

#[test]
fn a_failing_factory_frees_the_place_it_had_taken() {
    let (pool, factory, account) = pool(1, 100);
    let before = account.balance();
    factory.failures.store(2, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(pool.try_get().unwrap_err().code(), "closed");
    assert_eq!(pool.get().unwrap_err().code(), "closed");
    assert_eq!((pool.stats().lent, pool.stats().gets, pool.stats().created), (0, 0, 0));
    account.assert_balance(before);
    assert!(pool.try_get().is_ok());
}

#[test]
fn a_replacement_that_cannot_be_made_leaves_an_empty_place() {
    let (pool, factory, account) = pool(1, 100);
    let before = account.balance();
    pool.try_get().unwrap().valid = false;
    factory.failures.store(1, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(pool.try_get().unwrap_err().code(), "closed");
    factory.counter.assert_all_dropped();
    account.assert_balance(before);
    assert_eq!(pool.try_get().unwrap().probe.tag(), 1);
}

#[test]
fn trim_drops_idle_objects_and_leaves_the_lent_ones() {
    let (pool, factory, account) = pool(4, 100);
    let before = account.balance();
    let guards: Vec<_> = (0..3).map(|_| pool.try_get().unwrap()).collect();
    let mut guards = guards.into_iter();
    let kept = guards.next().unwrap();
    drop(guards);
    assert_eq!(pool.trim(), 200);
    assert_eq!(pool.trim(), 0);
    factory.counter.assert_live(1);
    account.assert_balance(before + 100);
    assert_eq!(pool.stats().reclaimed, 2);
    drop(kept);
    assert_eq!(pool.try_get().unwrap().probe.tag(), 0);
}

#[test]
fn buffers_keep_their_capacity() {
    let config = PoolConfig::builder().capacity(2).build().unwrap();
    let pool = ThreadSafePool::new(&config, || Vec::<u8>::with_capacity(16)).unwrap();
    pool.try_get().unwrap().extend([7; 5000]);
    let buffer = pool.try_get().unwrap();
    assert!(buffer.is_empty() && buffer.capacity() >= 5000);
}

#[test]
fn debug_and_accessors_tell_what_is_there() {
    let config = PoolConfig::builder().capacity(2).build().unwrap();
    let pool = ThreadSafePool::try_new(&config, || Ok(String::from("x"))).unwrap();
    let guard = pool.try_get().unwrap();
    assert_eq!(format!("{guard:?}"), "PoolGuard(\"x\")");
    assert!(format!("{pool:?}").contains("lent: 1"));
    assert_eq!(pool.capacity(), 2);
    assert_eq!(*pool.account(), nebula_memory_core::Unlimited);
}

#[test]
fn one_thread_may_use_more_pools_than_it_remembers_slots_of() {
    let factories: Vec<_> = (0..20).map(|_| Factory::of(1)).collect();
    let config = PoolConfig::builder().capacity(3).build().unwrap();
    let make = |f: &Factory| f.pool_in(&config, nebula_memory_core::Unlimited).unwrap();
    let pools: Vec<_> = factories.iter().map(make).collect();
    for _ in 0..3 {
        let guards: Vec<_> = pools.iter().map(|pool| pool.try_get().unwrap()).collect();
        assert!(guards.iter().all(|guard| guard.probe.tag() == 0));
    }
}
