//! Many threads at once: never one object in two hands, nobody forgotten, exact books at the end.

mod common;

use std::{
    pin::pin,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use common::{Factory, LIMIT, block_on, poll, pool, until};
use nebula_memory_core::{MemoryError, MemoryUsage, PressureLevel, Reclaim, Unlimited};
use nebula_pool::{PoolConfig, Poolable, ThreadSafePool};
use nebula_testing::{CountingAccount, Rng, catch, watchdog};

/// An object that notices if two have it.
#[derive(Debug, Default)]
struct Alone {
    users: AtomicU32,
    visits: u64,
}

impl Poolable for Alone {
    fn reset(&mut self) {}

    fn heap_size(&self) -> usize {
        0
    }
}

impl Alone {
    fn visit(&mut self) {
        assert_eq!(self.users.fetch_add(1, SeqCst), 0, "two have the same object");
        self.visits += 1;
        std::hint::spin_loop();
        assert_eq!(self.users.fetch_sub(1, SeqCst), 1);
    }
}

#[test]
fn a_hundred_threads_over_few_objects_are_all_served() {
    const THREADS: usize = 100;
    const ROUNDS: usize = 200;
    watchdog(LIMIT, || {
        for capacity in [1, 3, 16] {
            let config = PoolConfig::builder().capacity(capacity).track_peak(true).build().unwrap();
            let pool = ThreadSafePool::new(&config, Alone::default).unwrap();
            let start = Barrier::new(THREADS);
            thread::scope(|s| {
                for i in 0..THREADS {
                    let (pool, start) = (&pool, &start);
                    s.spawn(move || {
                        start.wait();
                        for round in 0..ROUNDS {
                            if (i + round) % 3 == 0 {
                                block_on(pool.get_async()).unwrap().visit();
                            } else {
                                pool.get().unwrap().visit();
                            }
                        }
                    });
                }
            });
            let stats = pool.stats();
            assert_eq!(stats.gets, (THREADS * ROUNDS) as u64);
            assert_eq!((stats.lent as u64, stats.idle as u64), (0, stats.created));
            assert!(stats.created <= capacity as u64 && stats.peak_lent <= Some(capacity));
            let mut visits = 0;
            for _ in 0..stats.idle {
                visits += pool.try_get().unwrap().detach().visits;
            }
            assert_eq!(visits, stats.gets);
        }
    });
}

#[test]
fn a_pool_with_an_object_for_each_thread_is_never_exhausted() {
    const THREADS: usize = 4;
    watchdog(LIMIT, || {
        let config = PoolConfig::builder().capacity(THREADS).warm_up(THREADS).build().unwrap();
        let pool = ThreadSafePool::new(&config, Alone::default).unwrap();
        thread::scope(|s| {
            for seed in 0..THREADS as u64 {
                let pool = &pool;
                s.spawn(move || {
                    let mut rng = Rng::new(seed);
                    for _ in 0..20_000 {
                        let mut guard = pool.try_get().expect("there is one for each thread");
                        guard.visit();
                        if rng.below(50) == 0 {
                            // Its place is free again before it is needed.
                            drop(guard.detach());
                        }
                    }
                });
            }
        });
        assert_eq!(pool.stats().lent, 0);
    });
}

/// Everything at once: sync and async gets, time-outs, futures dropped half-way, growth, detaching,
/// panics in the objects' code and while an object is held, reclaim and trim.
#[test]
fn a_mixed_crowd_leaves_exact_books() {
    const THREADS: u64 = 64;
    watchdog(LIMIT, || {
        let config = PoolConfig::builder().capacity(7).retained_size(900_usize).build().unwrap();
        let (factory, account) = (Factory::of(100), CountingAccount::new());
        let pool = Arc::new(factory.pool_in(&config, account.clone()).unwrap());
        let own = account.balance();
        account.set_limit(own + 2500);
        let failed = AtomicUsize::new(0);
        let all: Vec<_> = (0..7).map(|_| pool.try_get().unwrap()).collect();
        thread::scope(|s| {
            for seed in 0..THREADS {
                let (pool, factory, failed) = (&pool, &factory, &failed);
                s.spawn(move || {
                    let mut rng = Rng::new(seed);
                    for _ in 0..150 {
                        let _ = catch(|| act(pool, factory, &mut rng, failed));
                    }
                });
            }
            // However the threads are scheduled, some of them wait.
            until(|| pool.stats().waited > 0);
            drop(all);
        });
        let stats = pool.stats();
        assert_eq!(stats.lent, 0, "{stats}");
        assert_eq!(stats.created, stats.idle as u64 + stats.destroyed + stats.detached, "{stats}");
        assert!(stats.gets > 1000 && stats.waited > 0 && stats.quarantined > 0, "{stats}");
        assert_eq!(pool.used(), account.balance());
        factory.counter.assert_live(stats.idle);
        pool.trim();
        account.assert_balance(own);
        // Nothing is stuck: all the places can be lent.
        let guards: Vec<_> = (0..7).map(|_| pool.try_get().unwrap()).collect();
        drop(guards);
        drop(pool);
        factory.counter.assert_all_dropped();
        account.assert_settled();
    });
}

fn act(
    pool: &Arc<ThreadSafePool<common::Object, CountingAccount>>,
    factory: &Factory,
    rng: &mut Rng,
    failed: &AtomicUsize,
) {
    let result = match rng.below(8) {
        0 => pool.try_get(),
        1 => pool.get_timeout(Duration::from_micros(50)),
        2 | 3 => block_on(pool.get_async()),
        4 => {
            // Given up after one look.
            let future = pin!(pool.get_async());
            drop(poll(future));
            return;
        }
        5 => {
            pool.reclaim(rng.below(500), PressureLevel::High);
            return;
        }
        6 => {
            if let Ok(mut owned) = pool.get_owned() {
                owned.bytes = rng.below(600);
            }
            return;
        }
        _ => pool.get(),
    };
    let Ok(mut guard) = result else {
        failed.fetch_add(1, SeqCst);
        return;
    };
    assert!(!std::mem::replace(&mut guard.dirty, true), "two have the same object");
    guard.bytes = rng.below(1000);
    match rng.below(40) {
        0 => drop(guard.detach()),
        1 => guard.valid = false,
        2 => {
            factory.panics.reset.arm(0);
            drop(guard);
        }
        3 => factory.panics.is_valid.arm(0),
        4 => std::panic::resume_unwind(Box::new(nebula_testing::InjectedPanic)),
        5 => {
            pool.trim();
        }
        6 => thread::yield_now(),
        _ => {}
    }
}

#[test]
fn who_waits_is_not_starved_by_reclaims() {
    watchdog(LIMIT, || {
        let (pool, ..) = pool(1, 100);
        let stop = AtomicBool::new(false);
        thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    while !stop.load(SeqCst) {
                        pool.reclaim(usize::MAX, PressureLevel::Critical);
                        pool.trim();
                    }
                });
            }
            let users: Vec<_> = (0..4)
                .map(|_| {
                    s.spawn(|| {
                        for _ in 0..500 {
                            drop(pool.get().unwrap());
                            drop(block_on(pool.get_async()).unwrap());
                        }
                    })
                })
                .collect();
            for user in users {
                user.join().unwrap();
            }
            stop.store(true, SeqCst);
        });
        assert_eq!((pool.stats().gets, pool.stats().lent), (4000, 0));
    });
}

#[test]
fn newcomers_do_not_starve_who_waits() {
    watchdog(LIMIT, || {
        let config = PoolConfig::builder().capacity(2).build().unwrap();
        let pool = ThreadSafePool::new_in(&config, Unlimited, Alone::default).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    while !stop.load(SeqCst) {
                        match pool.try_get() {
                            Ok(mut guard) => guard.visit(),
                            Err(MemoryError::PoolExhausted { .. }) => thread::yield_now(),
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            for _ in 0..2000 {
                pool.get().unwrap().visit();
            }
            stop.store(true, SeqCst);
        });
    });
}

/// Two threads pass one object to and fro, and come at all moments of each other's returns. A wake-up
/// that is lost hangs this. (That the fences are where they have to be is for the model checker to
/// say: without them, a processor would rarely be so kind as to show it.)
#[test]
fn no_wake_up_is_lost_although_returns_are_plain_stores() {
    watchdog(LIMIT, || {
        const ROUNDS: u32 = if cfg!(miri) { 50 } else { 30_000 };
        let config = PoolConfig::builder().capacity(1).warm_up(1).build().unwrap();
        let pool = ThreadSafePool::new(&config, String::new).unwrap();
        thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    for round in 0..ROUNDS {
                        let guard = pool.get().unwrap();
                        // So that the other one comes at all moments of a return.
                        for _ in 0..round % 32 {
                            std::hint::spin_loop();
                        }
                        drop(guard);
                    }
                });
            }
        });
        assert_eq!(pool.stats().gets, u64::from(2 * ROUNDS));
    });
}
