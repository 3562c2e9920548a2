//! The races of getting, returning, waiting and reclaiming, under the model checker:
//! `RUSTFLAGS="--cfg nebula_loom" cargo test --release -p nebula-pool --test loom_pool`
#![cfg(nebula_loom)]

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use loom::{cell::UnsafeCell, future::block_on, model::Builder, thread};
use nebula_memory_core::{PressureLevel, Reclaim};
use nebula_pool::{PoolConfig, Poolable, ThreadSafePool};

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

/// An object that owns nothing any more when it has come back.
struct Shrinking(usize);

impl Poolable for Shrinking {
    fn reset(&mut self) {
        self.0 = 0;
    }

    fn heap_size(&self) -> usize {
        self.0
    }
}

type Pool = ThreadSafePool<Watched>;

fn pool(capacity: usize, warm_up: usize) -> Arc<Pool> {
    let config = PoolConfig::builder().capacity(capacity).warm_up(warm_up).build().unwrap();
    Arc::new(ThreadSafePool::new(&config, || Watched(UnsafeCell::new(0))).unwrap())
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
        let pool = pool(1, 1);
        let user = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.try_get().map(|mut guard| guard.touch()).is_ok())
        };
        let mine = pool.try_get().map(|mut guard| guard.touch()).is_ok();
        let theirs = user.join().unwrap();
        assert!(mine || theirs);
        assert_eq!(pool.stats().gets, u64::from(mine) + u64::from(theirs));
        // Touched once for each use and once for each return.
        let count = pool.try_get().unwrap().touch();
        assert_eq!(count, 2 * (usize::from(mine) + usize::from(theirs)) + 1);
        assert_whole(&pool);
    });
}

#[test]
fn one_object_for_each_thread_is_never_exhausted() {
    model(3, || {
        let pool = pool(2, 1);
        let user = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                for _ in 0..2 {
                    pool.try_get().expect("one for each").touch();
                }
            })
        };
        pool.try_get().expect("one for each").touch();
        user.join().unwrap();
        assert_whole(&pool);
    });
}

/// One thread moves from slot to slot (its detached object leaves a hole, the idle object elsewhere
/// is taken first) while the other walks past the slots: it must not take what it sees for a moment
/// at which all were lent.
#[test]
fn a_neighbour_that_changes_slots_does_not_make_a_pool_look_exhausted() {
    model(3, || {
        let pool = pool(2, 2);
        let guard = pool.try_get().unwrap();
        let user = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                pool.try_get().expect("one for each").touch();
            })
        };
        guard.detach().touch();
        pool.try_get().expect("one for each").touch();
        user.join().unwrap();
        assert_whole(&pool);
    });
}

#[test]
fn who_blocks_is_woken_by_a_return() {
    model(3, || {
        let pool = pool(1, 1);
        let user = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                pool.get().unwrap().touch();
            })
        };
        pool.get().unwrap().touch();
        user.join().unwrap();
        assert_eq!(pool.stats().gets, 2);
        assert_whole(&pool);
    });
}

#[test]
fn who_blocks_is_woken_by_a_detach() {
    model(3, || {
        let pool = pool(1, 1);
        let user = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                pool.get().unwrap().touch();
            })
        };
        let mut object = pool.get().unwrap().detach();
        object.touch();
        user.join().unwrap();
        assert_whole(&pool);
    });
}

#[test]
fn three_in_line_for_one_object_are_all_served() {
    model(2, || {
        let pool = pool(1, 1);
        let users: Vec<_> = (0..2)
            .map(|_| {
                let pool = Arc::clone(&pool);
                thread::spawn(move || {
                    pool.get().unwrap().touch();
                })
            })
            .collect();
        pool.get().unwrap().touch();
        for user in users {
            user.join().unwrap();
        }
        assert_eq!(pool.stats().gets, 3);
        assert_whole(&pool);
    });
}

#[test]
fn a_task_is_woken_by_a_return() {
    model(3, || {
        let pool = pool(1, 1);
        let user = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                block_on(pool.get_async()).unwrap().touch();
            })
        };
        pool.get().unwrap().touch();
        user.join().unwrap();
        assert_eq!(pool.stats().gets, 2);
        assert_whole(&pool);
    });
}

#[test]
fn a_future_dropped_at_any_moment_loses_nothing() {
    model(3, || {
        let pool = pool(1, 1);
        let guard = pool.try_get().unwrap();
        let fickle = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                let mut future = pin!(pool.get_async());
                let mut cx = Context::from_waker(Waker::noop());
                // Dropped after one look or two, with or without an object in hand.
                if let Poll::Ready(got) = future.as_mut().poll(&mut cx) {
                    got.unwrap().touch();
                }
            })
        };
        drop(guard);
        // Perhaps behind the other one.
        pool.get().unwrap().touch();
        fickle.join().unwrap();
        assert_whole(&pool);
    });
}

/// Who returns serves the fickle one, who is gone by then, while another one comes.
#[test]
fn who_comes_while_another_gives_up_is_served() {
    model(2, || {
        let pool = pool(1, 1);
        let guard = pool.try_get().unwrap();
        let fickle = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                let mut future = pin!(pool.get_async());
                let _ = future.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            })
        };
        let user = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || drop(pool.get().unwrap()))
        };
        drop(guard);
        fickle.join().unwrap();
        user.join().unwrap();
        assert_eq!(pool.stats().lent, 0);
    });
}

#[test]
fn a_reclaim_neither_loses_a_slot_nor_a_wake_up() {
    model(2, || {
        let pool = pool(1, 1);
        let reclaimer = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.reclaim(1, PressureLevel::Critical))
        };
        let user = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                pool.get().unwrap().touch();
            })
        };
        pool.get().unwrap().touch();
        user.join().unwrap();
        let given = reclaimer.join().unwrap();
        assert_eq!(given as u64, 10 * pool.stats().reclaimed);
        assert_eq!(pool.stats().gets, 2);
        assert_whole(&pool);
    });
}

#[test]
fn an_owned_guard_may_be_the_last_to_know_the_pool() {
    model(3, || {
        let pool = pool(1, 1);
        let mut guard = pool.try_get_owned().unwrap();
        let user = thread::spawn(move || {
            guard.touch();
        });
        drop(pool);
        user.join().unwrap();
    });
}

#[test]
fn nothing_is_left_in_a_pool_that_closes_while_an_object_comes_back() {
    model(2, || {
        let pool = pool(2, 1);
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

#[test]
fn who_waits_is_served_or_told_that_the_pool_is_closed() {
    model(2, || {
        let pool = pool(1, 1);
        let held = pool.try_get().unwrap();
        let user = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || match pool.get() {
                Ok(mut guard) => {
                    guard.touch();
                }
                Err(error) => assert_eq!(error.code(), "closed"),
            })
        };
        let closer = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.close())
        };
        drop(held);
        user.join().unwrap();
        closer.join().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.lent, stats.idle), (0, 0), "{stats}");
    });
}

/// A sweep that finds the object not to be the one that it wanted puts it back, and who closes the pool in
/// the meantime passes it by.
#[test]
fn a_sweep_that_changes_its_mind_leaves_nothing_in_a_closed_pool() {
    model(2, || {
        let config = PoolConfig::builder().capacity(1).warm_up(1).build().unwrap();
        let pool = Arc::new(ThreadSafePool::new(&config, || Shrinking(10)).unwrap());
        let run = |work: fn(&ThreadSafePool<Shrinking>)| {
            let pool = Arc::clone(&pool);
            thread::spawn(move || work(&pool))
        };
        // It wants what is charged.
        let sweeper = run(|pool| assert!(pool.reclaim(5, PressureLevel::High) <= 10));
        let user = run(|pool| drop(pool.try_get()));
        run(|pool| pool.close()).join().unwrap();
        sweeper.join().unwrap();
        user.join().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.lent, stats.idle), (0, 0), "{stats}");
    });
}
