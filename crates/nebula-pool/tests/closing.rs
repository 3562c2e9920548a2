//! Pools that are closed: nobody is lent anything more, and nothing is kept.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use common::{Factory, LIMIT, block_on, pool, until};
use nebula_memory_core::{ManualClock, MemoryUsage};
#[cfg(not(miri))]
use nebula_pool::LockFreePool;
use nebula_pool::{
    HierarchicalPool, ObjectPool, PoolConfig, PriorityPool, ThreadSafePool, TtlPool,
};
use nebula_testing::{CountingAccount, watchdog};

/// The same for each kind of pool.
macro_rules! closes {
    ($module:ident, |$config:ident, $account:ident, $make:ident| $build:expr) => {
        mod $module {
            use super::*;

            #[test]
            fn gets_are_refused_and_what_comes_back_is_dropped() {
                let $config = &PoolConfig::builder().capacity(4).min_idle(2).build().unwrap();
                let (factory, account) = (Factory::of(10), CountingAccount::new());
                let ($account, made_by) = (account.clone(), factory.clone());
                let $make = move || made_by.make();
                let pool = $build.unwrap();
                let own = account.balance();
                let (a, b, c) =
                    (pool.try_get().unwrap(), pool.try_get().unwrap(), pool.try_get().unwrap());
                drop(c);
                assert!(!pool.is_closed());
                pool.close();
                assert!(pool.is_closed());
                account.assert_balance(own + 20);
                assert_eq!(pool.try_get().unwrap_err().code(), "closed");
                // What is lent can be used, taken, and given back.
                assert!(a.valid);
                drop(b.detach());
                account.assert_balance(own + 10);
                drop(a);
                account.assert_balance(own);
                assert_eq!((pool.stats().lent, pool.stats().idle), (0, 0));
                let done = pool.maintain().unwrap();
                assert_eq!((done.made, pool.used()), (0, account.balance()));
                pool.close();
                assert_eq!(pool.try_get().unwrap_err().code(), "closed");
                assert_eq!((factory.counter.made(), factory.goodbyes.load(SeqCst)), (3, 2));
                factory.counter.assert_all_dropped();
                drop(pool);
                account.assert_settled();
            }
        }
    };
}

closes!(object_pool, |config, account, make| ObjectPool::try_new_in(config, account, make));
closes!(thread_safe_pool, |config, account, make| {
    ThreadSafePool::try_new_in(config, account, make)
});
#[cfg(not(miri))]
closes!(lock_free_pool, |config, account, make| LockFreePool::try_new_in(config, account, make));
closes!(ttl_pool, |config, account, make| {
    TtlPool::with_clock(config, account, Arc::new(ManualClock::new()), make)
});
closes!(priority_pool, |config, account, make| {
    PriorityPool::try_new_in(config, account, 3, make)
});
closes!(hierarchical_pool, |config, account, make| {
    HierarchicalPool::try_new_in(config, account, make)
});

#[test]
fn who_stands_in_line_is_told() {
    watchdog(LIMIT, || {
        let (pool, factory, _) = pool(1, 10);
        let held = pool.try_get().unwrap();
        thread::scope(|s| {
            let waiters = [
                s.spawn(|| pool.get().map(drop)),
                s.spawn(|| pool.get_timeout(LIMIT).map(drop)),
                s.spawn(|| block_on(pool.get_async()).map(drop)),
            ];
            until(|| pool.waiting() == 3);
            pool.close();
            for waiter in waiters {
                assert_eq!(waiter.join().unwrap().unwrap_err().code(), "closed");
            }
        });
        assert_eq!(pool.get().unwrap_err().code(), "closed");
        assert_eq!(block_on(pool.get_async()).map(drop).unwrap_err().code(), "closed");
        assert_eq!(pool.get_timeout(Duration::ZERO).unwrap_err().code(), "closed");
        drop(held);
        factory.counter.assert_all_dropped();
    });
}

/// Threads that get and return while the pool closes leave nothing behind.
macro_rules! crowd {
    ($test:ident, $build:expr) => {
        #[test]
        fn $test() {
            watchdog(LIMIT, || {
                for _ in 0..if cfg!(miri) { 2 } else { 200 } {
                    let (factory, account) = (Factory::of(10), CountingAccount::new());
                    let config = PoolConfig::builder().capacity(3).build().unwrap();
                    let (made_by, started) = (factory.clone(), AtomicBool::new(false));
                    let pool = $build(&config, account.clone(), move || made_by.make()).unwrap();
                    thread::scope(|s| {
                        for _ in 0..3 {
                            s.spawn(|| {
                                loop {
                                    match pool.try_get() {
                                        Ok(_) => started.store(true, SeqCst),
                                        Err(error) if error.code() == "closed" => return,
                                        Err(_) => {}
                                    }
                                }
                            });
                        }
                        until(|| started.load(SeqCst));
                        pool.close();
                    });
                    let stats = pool.stats();
                    assert_eq!((stats.lent, stats.idle), (0, 0), "{stats}");
                    factory.counter.assert_all_dropped();
                    drop(pool);
                    account.assert_settled();
                }
            });
        }
    };
}

crowd!(a_thread_safe_pool_closes_among_its_users, ThreadSafePool::try_new_in);
#[cfg(not(miri))]
crowd!(a_lock_free_pool_closes_among_its_users, LockFreePool::try_new_in);
