//! Panics in the objects' code and in the factory's: they cost an object, never the pool.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use common::{Factory, pool};
use nebula_memory_core::{PressureLevel, Reclaim};
use nebula_pool::PoolConfig;
use nebula_testing::{CountingAccount, InjectedPanic, catch};

#[test]
fn an_object_whose_reset_panics_is_quarantined() {
    let (pool, factory, account) = pool(1, 100);
    let own = account.balance();
    factory.panics.reset.arm(0);
    drop(pool.try_get().unwrap());
    factory.counter.assert_all_dropped();
    account.assert_balance(own);
    let stats = pool.stats();
    assert_eq!((stats.quarantined, stats.destroyed, stats.lent, stats.idle), (1, 1, 0, 0));
    assert_eq!(pool.try_get().unwrap().probe.tag(), 1);
}

#[test]
fn an_object_whose_size_panics_on_return_is_quarantined() {
    let (pool, factory, account) = pool(1, 100);
    let own = account.balance();
    let object = pool.try_get().unwrap();
    factory.panics.heap_size.arm(0);
    drop(object);
    factory.counter.assert_all_dropped();
    account.assert_balance(own);
    assert_eq!(pool.stats().quarantined, 1);
}

#[test]
fn an_object_whose_validation_panics_is_quarantined_and_replaced() {
    let (pool, factory, account) = pool(1, 100);
    let own = account.balance();
    drop(pool.try_get().unwrap());
    factory.panics.is_valid.arm(0);
    assert_eq!(pool.try_get().unwrap().probe.tag(), 1);
    assert_eq!(factory.counter.dropped(), [0]);
    account.assert_balance(own + 100);
    assert_eq!((pool.stats().quarantined, pool.stats().created), (1, 2));
}

#[test]
fn a_panic_of_the_factory_reaches_the_caller_and_frees_the_place() {
    let (pool, factory, account) = pool(1, 100);
    let own = account.balance();
    factory.panics.factory.arm(0);
    assert_eq!(catch(|| pool.try_get().map(drop)).unwrap_err(), "injected");
    assert_eq!(pool.stats().lent, 0);
    account.assert_balance(own);
    assert!(pool.try_get().is_ok());
}

#[test]
fn a_new_object_whose_size_panics_is_dropped_and_its_place_free() {
    let (pool, factory, account) = pool(1, 100);
    let own = account.balance();
    factory.panics.heap_size.arm(0);
    assert_eq!(catch(|| pool.try_get().map(drop)).unwrap_err(), "injected");
    factory.counter.assert_all_dropped();
    let stats = pool.stats();
    assert_eq!((stats.created, stats.quarantined, stats.lent), (1, 1, 0));
    assert_eq!(factory.goodbyes.load(std::sync::atomic::Ordering::SeqCst), 1);
    account.assert_balance(own);
    assert!(pool.try_get().is_ok());
}

#[test]
fn a_panic_while_an_object_is_dropped_stays_inside_and_its_bytes_are_credited() {
    let (pool, factory, account) = pool(4, 100);
    let own = account.balance();
    let two = [pool.try_get().unwrap(), pool.try_get().unwrap()];
    drop(two);
    factory.panics.drop.arm(0);
    assert_eq!(pool.trim(), 200);
    account.assert_balance(own);
    assert!(factory.panics.drop.fired());

    drop(pool.try_get().unwrap());
    factory.panics.drop.arm(0);
    assert_eq!(pool.reclaim(1, PressureLevel::High), 100);
    account.assert_balance(own);

    // A panic on top of a panic: reset, then drop.
    let object = pool.try_get().unwrap();
    factory.panics.reset.arm(0);
    factory.panics.drop.arm(0);
    drop(object);
    assert!(factory.panics.drop.fired());
    account.assert_balance(own);

    drop(pool.try_get().unwrap());
    factory.panics.drop.arm(0);
    drop(pool);
    assert!(factory.panics.drop.fired());
    account.assert_settled();
    factory.counter.assert_all_dropped();
}

#[test]
fn a_guard_that_is_dropped_by_a_panic_returns_its_object() {
    let (pool, ..) = pool(1, 100);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut object = pool.try_get().unwrap();
        object.dirty = true;
        resume_unwind(Box::new(InjectedPanic));
    }));
    assert!(result.is_err());
    let object = pool.try_get().unwrap();
    assert!(!object.dirty);
    assert_eq!(object.probe.tag(), 0);
}

#[test]
fn a_reset_that_panics_during_a_panic_does_not_abort() {
    let (pool, factory, account) = pool(1, 100);
    let own = account.balance();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _object = pool.try_get().unwrap();
        factory.panics.reset.arm(0);
        resume_unwind(Box::new(InjectedPanic));
    }));
    assert!(result.is_err());
    assert_eq!(pool.stats().quarantined, 1);
    account.assert_balance(own);
    assert!(pool.try_get().is_ok());
}

/// Some of everything.
fn scenario(factory: &Factory, account: &CountingAccount) {
    let config = PoolConfig::builder().capacity(3).warm_up(2).build().unwrap();
    let pool = factory.pool_in(&config, account.clone()).unwrap();
    let mut guards: Vec<_> = (0..3).filter_map(|_| pool.try_get().ok()).collect();
    guards[0].bytes = 300;
    guards[1].valid = false;
    guards.truncate(1);
    guards.push(pool.get().unwrap());
    guards.push(common::block_on(pool.get_async()).unwrap());
    let _ = guards.pop().map(nebula_pool::PoolGuard::detach);
    drop(guards);
    pool.reclaim(1, PressureLevel::High);
    drop(pool.try_get());
    pool.trim();
}

#[test]
fn a_panic_at_any_call_leaves_exact_books() {
    let choose: [fn(&Factory) -> &nebula_testing::PanicOn; 5] = [
        |f| &f.panics.reset,
        |f| &f.panics.is_valid,
        |f| &f.panics.heap_size,
        |f| &f.panics.drop,
        |f| &f.panics.factory,
    ];
    for on in choose {
        for n in 0.. {
            let (factory, account) = (Factory::of(100), CountingAccount::new());
            on(&factory).arm(n);
            let _ = catch(|| scenario(&factory, &account));
            factory.counter.assert_all_dropped();
            account.assert_settled();
            if !on(&factory).fired() {
                assert!(n >= 3, "called {n} times only");
                break;
            }
        }
    }
}
