//! The races of the pool without locks, under the model checker:
//! `RUSTFLAGS="--cfg nebula_loom" cargo test --release -p nebula-pool --test loom_lock_free`
//!
//! What crossbeam-epoch does is not modelled: it only says when retired storage may be freed.
#![cfg(nebula_loom)]

use std::sync::Arc;

use loom::{cell::UnsafeCell, model::Builder, thread};
use nebula_memory_core::{PressureLevel, Reclaim};
use nebula_pool::{Growth, LockFreePool, PoolConfig, Poolable};

/// An object whose every use is seen by the checker, which fails if two uses are not ordered.
struct Watched(UnsafeCell<usize>);

impl Watched {
    fn touch(&mut self) -> usize {
        self.0.with_mut(|value| {
            // SAFETY: exclusive through `&mut self`; that this is true is what loom checks.
            let value = unsafe { &mut *value };
            *value += 1;
            *value
        })
    }
}

impl Poolable for Watched {
    fn reset(&mut self) {
        self.touch();
    }

    fn heap_size(&self) -> usize {
        10
    }
}

type Pool = LockFreePool<Watched>;

fn pool(capacity: usize, warm_up: usize, growth: Growth) -> Arc<Pool> {
    let config = PoolConfig::builder().capacity(capacity).warm_up(warm_up).growth(growth);
    Arc::new(LockFreePool::new(&config.build().unwrap(), || Watched(UnsafeCell::new(0))).unwrap())
}

fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// Nothing is lent, nothing is lost, and all the places can be lent.
fn assert_whole(pool: &Pool) {
    let stats = pool.stats();
    assert_eq!(stats.lent, 0, "{stats}");
    assert_eq!(stats.created, stats.idle as u64 + stats.destroyed + stats.detached, "{stats}");
    let guards: Vec<_> = (0..pool.capacity()).map(|_| pool.try_get().unwrap()).collect();
    assert!(pool.try_get().is_err());
    drop(guards);
}

#[test]
fn two_threads_never_have_one_object() {
    model(3, || {
        let pool = pool(1, 1, Growth::None);
        let user = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.try_get().map(|mut guard| guard.touch()).is_ok())
        };
        let mine = pool.try_get().map(|mut guard| guard.touch()).is_ok();
        let theirs = user.join().unwrap();
        assert!(mine || theirs);
        // Touched once for each use and once for each return.
        let count = pool.try_get().unwrap().touch();
        assert_eq!(count, 2 * (usize::from(mine) + usize::from(theirs)) + 1);
        assert_whole(&pool);
    });
}

#[test]
fn a_place_for_each_thread_is_never_exhausted() {
    for growth in [Growth::None, Growth::Fixed(1)] {
        model(2, move || {
            let pool = pool(2, 1, growth);
            let user = {
                let pool = Arc::clone(&pool);
                thread::spawn(move || {
                    pool.try_get().unwrap().touch();
                    pool.try_get().unwrap().touch();
                })
            };
            pool.try_get().unwrap().touch();
            drop(pool.try_get().unwrap().detach());
            user.join().unwrap();
            assert_whole(&pool);
        });
    }
}

#[test]
fn a_place_may_be_taken_returned_and_taken_while_another_looks_at_it() {
    // The "ABA problem": two places, one thread takes both and returns them in another order.
    model(3, || {
        let pool = pool(3, 3, Growth::None);
        let user = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                let (a, b) = (pool.try_get().unwrap(), pool.try_get().unwrap());
                drop(a);
                pool.try_get().unwrap().touch();
                drop(b);
            })
        };
        let mut mine = pool.try_get().unwrap();
        mine.touch();
        user.join().unwrap();
        drop(mine);
        assert_whole(&pool);
    });
}

#[test]
fn storage_goes_while_another_takes_its_places() {
    model(2, || {
        let pool = pool(2, 1, Growth::None);
        let user = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                pool.trim();
            })
        };
        pool.try_get().unwrap().touch();
        pool.try_get().unwrap().touch();
        user.join().unwrap();
        assert_whole(&pool);
    });
}

#[test]
fn sweeps_meet() {
    model(2, || {
        let pool = pool(3, 1, Growth::None);
        let user = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.reclaim(usize::MAX, PressureLevel::High))
        };
        pool.trim();
        user.join().unwrap();
        assert_whole(&pool);
    });
}

#[test]
fn nothing_is_left_in_a_pool_that_closes_while_an_object_comes_back() {
    model(3, || {
        let pool = pool(2, 1, Growth::None);
        let user = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.try_get().map(|mut guard| guard.touch()).is_ok())
        };
        pool.close();
        user.join().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.lent, stats.idle), (0, 0), "{stats}");
        assert_eq!(stats.created, stats.destroyed, "{stats}");
        assert!(pool.try_get().is_err());
    });
}
