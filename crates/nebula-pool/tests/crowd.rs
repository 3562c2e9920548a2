//! More than a hundred threads on each of the pools that threads can share, some of which panic.

mod common;

use std::{
    cell::RefCell,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    task::Poll,
    thread,
};

use common::{
    Factory, LIMIT, Object,
    faces::{Face, Purse},
};
use nebula_memory_core::{PressureLevel, Reclaim};
use nebula_pool::{
    Growth, HierarchicalPool, LockFreePool, PoolConfig, PriorityPool, Shrink, ThreadSafePool,
    TtlPool,
};
use nebula_testing::{InjectedPanic, Rng, catch, watchdog};

const THREADS: u64 = if cfg!(miri) { 4 } else { 120 };
const ROUNDS: usize = if cfg!(miri) { 10 } else { 60 };
const CAPACITY: usize = 16;

fn crowd<P: Face + Reclaim>()
where
    P::Handle: Send + Sync,
{
    watchdog(LIMIT, || {
        let config = PoolConfig::builder()
            .capacity(CAPACITY)
            .min_idle(1)
            .max_idle(4)
            .growth(Growth::Doubling(2))
            .shrink(Shrink::HalfOfUnused)
            .build()
            .unwrap();
        let (factory, account) = (Factory::of(100), Purse::default());
        let pool = P::build(&config, &account, &factory).unwrap();
        // Enough for most objects, and not for all.
        account.get_ref().set_limit(account.get_ref().balance() + CAPACITY * 256);
        let (served, done) = (AtomicU64::new(0), AtomicBool::new(false));
        thread::scope(|s| {
            let users: Vec<_> = (0..THREADS)
                .map(|n| {
                    let (pool, served) = (&pool, &served);
                    s.spawn(move || {
                        let mut rng = Rng::new(n + 1);
                        for _ in 0..ROUNDS {
                            let panics = rng.below(20) == 0;
                            let result = catch(|| {
                                let Ok(mut object) = pool.lend() else {
                                    thread::yield_now();
                                    return;
                                };
                                assert!(!object.dirty, "somebody else has it, too");
                                object.dirty = true;
                                served.fetch_add(1, SeqCst);
                                // Held for a while.
                                for _ in 0..rng.below(4) {
                                    thread::yield_now();
                                }
                                object.bytes = 50 + rng.below(100);
                                object.valid = rng.below(10) > 0;
                                object.value = rng.below(3) as u64;
                                if panics {
                                    std::panic::panic_any(InjectedPanic);
                                }
                                if rng.below(30) == 0 {
                                    drop(object.detach());
                                }
                            });
                            assert!(panics || result.is_ok(), "{result:?}");
                        }
                    })
                })
                .collect();
            s.spawn(|| {
                let mut round = 0;
                while !done.load(SeqCst) {
                    round += 1;
                    match round % 3 {
                        0 => drop(pool.upkeep()),
                        1 => drop(pool.reclaim(150, PressureLevel::High)),
                        _ => drop(pool.cut()),
                    }
                    assert!(pool.figures().lent <= CAPACITY);
                    thread::yield_now();
                }
            });
            let results: Vec<_> = users.into_iter().map(thread::ScopedJoinHandle::join).collect();
            done.store(true, SeqCst);
            assert!(results.into_iter().all(|result| result.is_ok()));
        });
        let stats = pool.figures();
        assert_eq!((stats.lent, stats.gets), (0, served.load(SeqCst)));
        assert_eq!(stats.created, stats.idle as u64 + stats.destroyed + stats.detached, "{stats}");
        assert_eq!(pool.used(), account.get_ref().balance());
        account.get_ref().set_limit(usize::MAX);
        let all: Vec<_> = (0..CAPACITY).map(|_| pool.lend().unwrap()).collect();
        assert!(pool.lend().is_err());
        drop(all);
        drop(pool);
        factory.counter.assert_all_dropped();
        account.get_ref().assert_settled();
    });
}

#[test]
fn a_crowd_on_a_thread_safe_pool_leaves_exact_books() {
    crowd::<ThreadSafePool<Object, Purse>>();
}

#[test]
#[cfg_attr(miri, ignore = "crossbeam-epoch breaks miri's default rules for borrows")]
fn a_crowd_on_a_lock_free_pool_leaves_exact_books() {
    crowd::<LockFreePool<Object, Purse>>();
}

#[test]
fn a_crowd_on_a_ttl_pool_leaves_exact_books() {
    crowd::<TtlPool<Object, Purse>>();
}

#[test]
fn a_crowd_on_a_priority_pool_leaves_exact_books() {
    crowd::<PriorityPool<Object, Purse>>();
}

#[test]
fn a_crowd_on_a_hierarchical_pool_leaves_exact_books() {
    crowd::<HierarchicalPool<Object, Purse>>();
}

/// 16 tasks share four objects; each holds one until it is polled again.
macro_rules! fair {
    ($test:ident, $pool:expr) => {
        #[test]
        fn $test() {
            const TASKS: usize = 16;
            let config = PoolConfig::builder().capacity(4).build().unwrap();
            let make = $pool;
            let pool = make(&config).unwrap();
            let served = RefCell::new([0_u32; TASKS]);
            let task = async |i: usize| {
                loop {
                    let guard = pool.get_async().await.unwrap();
                    served.borrow_mut()[i] += 1;
                    let mut yielded = false;
                    std::future::poll_fn(|_| match std::mem::replace(&mut yielded, true) {
                        true => Poll::Ready(()),
                        false => Poll::Pending,
                    })
                    .await;
                    drop(guard);
                }
            };
            let mut tasks: Vec<_> = (0..TASKS).map(|i| Box::pin(task(i))).collect();
            for _ in 0..if cfg!(miri) { 40 } else { 2000 } {
                for task in &mut tasks {
                    let poll: Poll<()> = common::poll(task.as_mut());
                    assert!(poll.is_pending());
                }
            }
            drop(tasks);
            let served = served.into_inner();
            let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
            assert!(f64::from(*least) >= 0.9 * f64::from(*most), "{served:?}");
            assert_eq!((pool.stats().lent, pool.waiting()), (0, 0));
        }
    };
}

fair!(tasks_on_a_thread_safe_pool_are_served_equally_often, |config| {
    ThreadSafePool::new(config, String::new)
});
fair!(tasks_on_a_ttl_pool_are_served_equally_often, |config| TtlPool::new(config, String::new));
fair!(tasks_on_a_priority_pool_are_served_equally_often, |config| {
    PriorityPool::new(config, 4, String::new)
});
fair!(tasks_on_a_hierarchical_pool_are_served_equally_often, |config| {
    HierarchicalPool::new(config, String::new)
});
