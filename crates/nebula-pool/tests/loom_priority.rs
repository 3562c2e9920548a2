//! Waiting by priority, and growing, under the model checker:
//! `RUSTFLAGS="--cfg nebula_loom" cargo test --release -p nebula-pool --test loom_priority`
#![cfg(nebula_loom)]

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
};

use loom::{future::block_on, model::Builder, thread};
use nebula_pool::{Growth, PoolConfig, PriorityPool, ThreadSafePool};

type Pool = PriorityPool<String>;

fn pool(capacity: usize) -> Arc<Pool> {
    let config = PoolConfig::builder().capacity(capacity).warm_up(capacity).build().unwrap();
    Arc::new(PriorityPool::new(&config, 4, String::new).unwrap())
}

fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

fn assert_whole(pool: &Pool) {
    assert_eq!((pool.stats().lent, pool.waiting()), (0, 0));
    assert!(pool.try_get().is_ok());
}

#[test]
fn two_in_line_of_any_priority_are_both_served() {
    model(2, || {
        let pool = pool(1);
        let held = pool.try_get().unwrap();
        let users = [0, 9].map(|priority| {
            let pool = Arc::clone(&pool);
            thread::spawn(move || drop(pool.get_with(priority).unwrap()))
        });
        drop(held);
        users.into_iter().for_each(|user| user.join().unwrap());
        assert_whole(&pool);
    });
}

#[test]
fn a_future_dropped_at_any_moment_loses_nothing() {
    model(2, || {
        let pool = pool(1);
        let held = pool.try_get().unwrap();
        let other = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || drop(block_on(pool.get_async()).unwrap()))
        };
        {
            let mut mine = pin!(pool.get_async_with(9));
            let _ = mine.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            drop(held);
        }
        other.join().unwrap();
        assert_whole(&pool);
    });
}

#[test]
fn threads_that_grow_a_pool_at_once_each_get_a_place() {
    model(2, || {
        let config = PoolConfig::builder().capacity(3).growth(Growth::Fixed(1)).build().unwrap();
        let pool = Arc::new(ThreadSafePool::new(&config, String::new).unwrap());
        let held = pool.try_get().unwrap();
        let user = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || drop(pool.try_get().unwrap()))
        };
        drop(pool.try_get().unwrap());
        user.join().unwrap();
        drop(held);
        assert_eq!(pool.stats().lent, 0);
    });
}
