//! Waiting by priority.

mod common;

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use common::{LIMIT, block_on, poll, until};
use nebula_memory_core::{Account, MemoryError, PressureLevel, Reclaim};
use nebula_pool::{PoolConfig, Poolable, PriorityPool};
use nebula_testing::{CountingAccount, watchdog};

fn pool(capacity: usize, overtakes: u32) -> PriorityPool<String> {
    let config = PoolConfig::builder().capacity(capacity).build().unwrap();
    PriorityPool::new(&config, overtakes, String::new).unwrap()
}

/// The order in which threads are served that come one after the other with these priorities.
fn served(overtakes: u32, priorities: &[u8]) -> Vec<usize> {
    watchdog(LIMIT, || {
        let pool = pool(1, overtakes);
        let order = Mutex::new(Vec::new());
        let held = pool.try_get().unwrap();
        thread::scope(|s| {
            for (n, priority) in priorities.iter().enumerate() {
                let (pool, order) = (&pool, &order);
                s.spawn(move || {
                    let guard = pool.get_with(*priority).unwrap();
                    order.lock().unwrap().push(n);
                    drop(guard);
                });
                until(|| pool.waiting() == n + 1);
            }
            drop(held);
        });
        order.into_inner().unwrap()
    })
}

#[test]
fn the_important_are_served_first_and_equals_as_they_came() {
    assert_eq!(served(100, &[1, 3, 2, 3, 0]), [1, 3, 2, 0, 4]);
}

#[test]
fn nobody_is_overtaken_more_often_than_agreed() {
    assert_eq!(served(2, &[0, 1, 1, 1, 1]), [1, 2, 0, 3, 4]);
    assert_eq!(served(0, &[0, 255, 9]), [0, 1, 2]);
}

#[test]
fn a_stream_of_important_ones_starves_nobody() {
    watchdog(LIMIT, || {
        let pool = pool(1, 8);
        let mut held = Some(pool.try_get().unwrap());
        let mut low = std::pin::pin!(pool.get_async());
        assert!(poll(low.as_mut()).is_pending());
        let mut rounds = 0;
        let mut stream = std::collections::VecDeque::new();
        loop {
            // There are always two important ones in line.
            while stream.len() < 2 {
                let mut next = Box::pin(pool.get_async_with(1));
                assert!(poll(next.as_mut()).is_pending());
                stream.push_back(next);
            }
            drop(held.take());
            if let std::task::Poll::Ready(guard) = poll(low.as_mut()) {
                drop(guard);
                break;
            }
            rounds += 1;
            assert!(rounds <= 8, "overtaken {rounds} times");
            held = stream.pop_front().map(|next| block_on(next).unwrap());
        }
        assert_eq!(rounds, 8);
    });
}

#[test]
fn time_outs_and_dropped_futures_leave_the_line() {
    let pool = pool(1, 4);
    let held = pool.try_get().unwrap();
    assert_eq!(pool.get_timeout_with(9, Duration::from_millis(1)).unwrap_err().code(), "timeout");
    {
        let mut first = std::pin::pin!(pool.get_async_with(9));
        assert!(poll(first.as_mut()).is_pending());
        assert_eq!(pool.waiting(), 1);
    }
    assert_eq!(pool.waiting(), 0);
    // One that is dropped with an object in hand passes it on.
    let mut second = Box::pin(pool.get_async_with(1));
    let mut third = std::pin::pin!(pool.get_async());
    assert!(poll(second.as_mut()).is_pending() && poll(third.as_mut()).is_pending());
    drop(held);
    drop(second);
    assert!(poll(third.as_mut()).is_ready());
    assert!(pool.try_get().is_ok());
}

#[test]
fn owned_guards_have_priorities_too() {
    watchdog(LIMIT, || {
        let pool = Arc::new(pool(1, 4));
        let held = pool.get_owned_with(3).unwrap();
        let error = pool.get_owned_timeout_with(3, Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.code(), "timeout");
        let mut low = Box::pin(pool.clone().get_owned_async_with(0));
        assert!(poll(low.as_mut()).is_pending());
        let high = pool.clone().get_owned_async_with(1);
        let served = thread::spawn(move || drop(block_on(high).unwrap()));
        until(|| pool.waiting() == 2);
        drop(held);
        served.join().unwrap();
        drop(block_on(low).unwrap());
        drop(pool.get_owned_timeout_with(3, LIMIT).unwrap());
        assert!(format!("{pool:?}").starts_with("PriorityPool"));
    });
}

#[test]
fn closing_ends_the_waiting_of_every_priority() {
    watchdog(LIMIT, || {
        let pool = pool(1, 4);
        let held = pool.try_get().unwrap();
        let mut low = Box::pin(pool.get_async());
        assert!(poll(low.as_mut()).is_pending());
        thread::scope(|s| {
            let high = s.spawn(|| pool.get_with(9).map(drop));
            until(|| pool.waiting() == 2);
            pool.close();
            assert_eq!(high.join().unwrap().unwrap_err().code(), "closed");
        });
        assert_eq!(block_on(low).unwrap_err().code(), "closed");
        assert_eq!(pool.get_with(255).unwrap_err().code(), "closed");
        drop(held);
        assert_eq!((pool.stats().idle, pool.stats().lent), (0, 0));
    });
}

#[test]
fn it_can_be_made_in_every_way() {
    let config = PoolConfig::builder().capacity(2).build().unwrap();
    let account = CountingAccount::new();
    let pool = PriorityPool::new_in(&config, account.clone(), 4, || String::from("x")).unwrap();
    assert!(pool.account().same_account(&account) && account.balance() > 0);
    let failing = || Err(MemoryError::Closed { what: "the factory" });
    let pool = PriorityPool::<String>::try_new(&config, 4, failing).unwrap();
    assert_eq!(pool.get_with(1).unwrap_err().code(), "closed");
}

/// An object that tells its value.
struct Valued(u64);

impl Poolable for Valued {
    fn reset(&mut self) {}

    fn heap_size(&self) -> usize {
        100
    }

    fn value(&self) -> u64 {
        self.0
    }
}

#[test]
fn a_reclaim_takes_the_least_valuable_and_leaves_the_least_number() {
    let config = PoolConfig::builder().capacity(6).min_idle(1).build().unwrap();
    let pool = PriorityPool::new(&config, 1, || Valued(0)).unwrap();
    let mut crowd: Vec<_> = (0..5).map(|_| pool.try_get().unwrap()).collect();
    for (object, value) in crowd.iter_mut().zip([50, 10, 40, 10, 30]) {
        object.0 = value;
    }
    drop(crowd);
    let values = || {
        let idle: Vec<_> = (0..pool.stats().idle).map(|_| pool.try_get().unwrap()).collect();
        let mut values: Vec<_> = idle.iter().map(|object| object.0).collect();
        values.sort_unstable();
        values
    };
    assert_eq!(pool.reclaim(250, PressureLevel::High), 300);
    assert_eq!(values(), [40, 50]);
    assert_eq!(pool.reclaim(usize::MAX, PressureLevel::High), 100);
    assert_eq!(values(), [50]);
    assert_eq!(pool.reclaim(usize::MAX, PressureLevel::Critical), 100);
    assert_eq!(values(), [0_u64; 0]);
}
