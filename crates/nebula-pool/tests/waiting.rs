//! Standing in line: in order, handed on, given up at any moment.

mod common;

use std::{
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    task::Poll,
    thread,
    time::Duration,
};

use common::{LIMIT, block_on, poll, pool, until};
use nebula_memory_core::{MemoryError, PressureLevel, Reclaim};
use nebula_pool::{PoolConfig, ThreadSafePool};
use nebula_testing::watchdog;

#[test]
fn a_blocked_get_is_served_by_a_return() {
    watchdog(LIMIT, || {
        let (pool, factory, _) = pool(1, 0);
        let guard = pool.get().unwrap();
        thread::scope(|s| {
            let waiting = s.spawn(|| pool.get().unwrap().probe.tag());
            until(|| pool.stats().waited == 1);
            drop(guard);
            assert_eq!(waiting.join().unwrap(), 0);
        });
        assert_eq!(factory.counter.made(), 1);
    });
}

#[test]
fn a_blocked_get_is_served_by_a_detach() {
    watchdog(LIMIT, || {
        let (pool, ..) = pool(1, 0);
        let guard = pool.get().unwrap();
        thread::scope(|s| {
            let waiting = s.spawn(|| pool.get_timeout(LIMIT).unwrap().probe.tag());
            until(|| pool.stats().waited == 1);
            let _mine = guard.detach();
            assert_eq!(waiting.join().unwrap(), 1);
        });
    });
}

#[test]
fn a_timeout_leaves_the_line() {
    let (pool, ..) = pool(1, 0);
    let guard = pool.get().unwrap();
    for wait in [Duration::ZERO, Duration::from_millis(2)] {
        let error = pool.get_timeout(wait).unwrap_err();
        assert!(matches!(error, MemoryError::Timeout { waited } if waited == wait));
    }
    drop(guard);
    assert_eq!((pool.stats().idle, pool.stats().waited), (1, 2));
    assert!(pool.get_timeout(Duration::ZERO).is_ok(), "what is there needs no waiting");
}

#[test]
fn threads_are_served_in_the_order_in_which_they_came() {
    watchdog(LIMIT, || {
        let (pool, ..) = pool(1, 0);
        let guard = pool.get().unwrap();
        let order = Mutex::new(Vec::new());
        thread::scope(|s| {
            for i in 0..8 {
                let (pool, order) = (&pool, &order);
                s.spawn(move || {
                    let _object = pool.get().unwrap();
                    order.lock().unwrap().push(i);
                });
                until(|| pool.stats().waited == i + 1);
            }
            drop(guard);
        });
        assert_eq!(*order.lock().unwrap(), (0..8).collect::<Vec<_>>());
        assert_eq!(pool.stats().gets, 9);
    });
}

#[test]
fn tasks_are_served_in_the_order_in_which_they_were_first_polled() {
    let (pool, ..) = pool(1, 0);
    let guard = pool.try_get().unwrap();
    let mut first = Box::pin(pool.get_async());
    let mut second = Box::pin(pool.get_async());
    assert!(poll(second.as_mut()).is_pending());
    assert!(poll(first.as_mut()).is_pending());
    drop(guard);
    assert!(poll(first.as_mut()).is_pending());
    let Poll::Ready(Ok(served)) = poll(second.as_mut()) else { panic!("not served") };
    assert!(poll(first.as_mut()).is_pending());
    drop(served);
    assert!(poll(first.as_mut()).is_ready());
}

#[test]
fn a_ready_object_needs_one_poll() {
    let (pool, ..) = pool(1, 0);
    assert!(poll(Box::pin(pool.get_async()).as_mut()).is_ready());
    assert_eq!((pool.stats().waited, pool.stats().idle), (0, 1));
}

#[test]
fn nobody_overtakes_those_who_wait() {
    let (pool, ..) = pool(2, 0);
    let (a, b) = (pool.try_get().unwrap(), pool.try_get().unwrap());
    let mut first = Box::pin(pool.get_async());
    let mut second = Box::pin(pool.get_async());
    assert!(poll(first.as_mut()).is_pending());
    assert!(poll(second.as_mut()).is_pending());
    drop(a);
    // It is the first one's already, although that has not been polled since.
    assert_eq!(pool.try_get().unwrap_err().code(), "pool_exhausted");
    assert_eq!(pool.get_timeout(Duration::ZERO).unwrap_err().code(), "timeout");
    let Poll::Ready(Ok(first)) = poll(first.as_mut()) else { panic!("not served") };
    assert!(poll(second.as_mut()).is_pending());
    drop((first, b));
    assert!(poll(second.as_mut()).is_ready());
    assert!(pool.try_get().is_ok());
}

#[test]
fn a_future_that_is_never_polled_takes_nothing() {
    let (pool, ..) = pool(1, 0);
    let future = pool.get_async();
    assert!(pool.try_get().is_ok());
    drop(future);
}

#[test]
fn a_future_dropped_in_line_is_passed_over() {
    let (pool, ..) = pool(1, 0);
    let guard = pool.try_get().unwrap();
    let mut first = Box::pin(pool.get_async());
    let mut second = Box::pin(pool.get_async());
    assert!(poll(first.as_mut()).is_pending());
    assert!(poll(second.as_mut()).is_pending());
    drop(first);
    drop(guard);
    assert!(poll(second.as_mut()).is_ready());
}

#[test]
fn a_future_dropped_with_an_object_in_hand_passes_it_on() {
    let (pool, factory, _) = pool(1, 0);
    let guard = pool.try_get().unwrap();
    let mut first = Box::pin(pool.get_async());
    let mut second = Box::pin(pool.get_async());
    assert!(poll(first.as_mut()).is_pending());
    assert!(poll(second.as_mut()).is_pending());
    drop(guard);
    drop(first);
    let Poll::Ready(Ok(served)) = poll(second.as_mut()) else { panic!("not served") };
    assert_eq!((served.probe.tag(), factory.counter.made()), (0, 1));
}

#[test]
fn the_last_future_dropped_with_an_object_in_hand_returns_it() {
    let (pool, factory, _) = pool(1, 0);
    let guard = pool.try_get().unwrap();
    let mut future = Box::pin(pool.get_async());
    assert!(poll(future.as_mut()).is_pending());
    drop(guard);
    assert_eq!((pool.stats().lent, pool.stats().idle), (1, 0));
    drop(future);
    assert_eq!((pool.stats().lent, pool.stats().idle), (0, 1));
    assert_eq!(pool.try_get().unwrap().probe.tag(), 0);
    assert_eq!(factory.counter.made(), 1);
}

/// (Not where leaks are looked for: this one leaks on purpose.)
#[cfg(not(any(miri, nebula_asan)))]
#[test]
fn a_leaked_future_costs_a_slot_and_nothing_else() {
    let (pool, factory, account) = pool(2, 10);
    let (a, b) = (pool.try_get().unwrap(), pool.try_get().unwrap());
    let mut future = Box::pin(pool.get_async());
    assert!(poll(future.as_mut()).is_pending());
    std::mem::forget(future);
    drop((a, b));
    let one = pool.try_get().unwrap();
    assert!(pool.try_get().is_err());
    drop(one);
    let moved = Box::new(pool);
    assert!(moved.try_get().is_ok());
    drop(moved);
    factory.counter.assert_all_dropped();
    account.assert_settled();
}

#[test]
fn an_error_of_the_first_in_line_lets_the_next_one_try() {
    let (pool, factory, _) = pool(1, 0);
    let guard = pool.try_get().unwrap();
    let mut first = Box::pin(pool.get_async());
    let mut second = Box::pin(pool.get_async());
    assert!(poll(first.as_mut()).is_pending());
    assert!(poll(second.as_mut()).is_pending());
    factory.failures.store(1, SeqCst);
    let _mine = guard.detach();
    let Poll::Ready(Err(error)) = poll(first.as_mut()) else { panic!("no error") };
    assert_eq!(error.code(), "closed");
    let Poll::Ready(Ok(served)) = poll(second.as_mut()) else { panic!("not served") };
    assert_eq!(served.probe.tag(), 1);
}

#[test]
fn a_panic_of_the_first_in_line_lets_the_next_one_try() {
    let (pool, factory, _) = pool(1, 0);
    let guard = pool.try_get().unwrap();
    let mut first = Box::pin(pool.get_async());
    let mut second = Box::pin(pool.get_async());
    assert!(poll(first.as_mut()).is_pending());
    assert!(poll(second.as_mut()).is_pending());
    drop(guard.detach());
    factory.panics.factory.arm(0);
    assert!(nebula_testing::catch(|| poll(first.as_mut()).is_ready()).is_err());
    assert!(poll(second.as_mut()).is_ready());
}

#[test]
fn a_quarantined_object_makes_room_for_who_waits() {
    let (pool, factory, _) = pool(1, 0);
    let guard = pool.try_get().unwrap();
    let mut future = Box::pin(pool.get_async());
    assert!(poll(future.as_mut()).is_pending());
    factory.panics.reset.arm(0);
    drop(guard);
    let Poll::Ready(Ok(served)) = poll(future.as_mut()) else { panic!("not served") };
    assert_eq!(served.probe.tag(), 1);
}

#[test]
fn what_was_handed_on_is_not_reclaimed() {
    let (pool, ..) = pool(1, 100);
    let guard = pool.try_get().unwrap();
    let mut future = Box::pin(pool.get_async());
    assert!(poll(future.as_mut()).is_pending());
    drop(guard);
    assert_eq!((pool.reclaim(1, PressureLevel::Critical), pool.trim()), (0, 0));
    let Poll::Ready(Ok(served)) = poll(future.as_mut()) else { panic!("not served") };
    assert_eq!(served.probe.tag(), 0);
}

#[test]
fn blocking_and_async_stand_in_one_line() {
    watchdog(LIMIT, || {
        let config = PoolConfig::builder().capacity(1).build().unwrap();
        let pool = Arc::new(ThreadSafePool::new(&config, String::new).unwrap());
        let order = Arc::new(Mutex::new(Vec::new()));
        let guard = pool.get().unwrap();
        let handles: Vec<_> = (0..6)
            .map(|i| {
                let (pool2, order) = (Arc::clone(&pool), Arc::clone(&order));
                let handle = thread::spawn(move || {
                    let _guard = if i % 2 == 0 {
                        pool2.get_owned().unwrap()
                    } else {
                        block_on(Arc::clone(&pool2).get_owned_async()).unwrap()
                    };
                    order.lock().unwrap().push(i);
                });
                until(|| pool.stats().waited == i + 1);
                handle
            })
            .collect();
        drop(guard);
        for handle in handles {
            handle.join().unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4, 5]);
    });
}

/// 16 tasks on one thread, four objects, a yield while one is held.
#[test]
fn tasks_in_a_crowd_are_served_equally_often() {
    const TASKS: usize = 16;
    let (pool, ..) = pool(4, 0);
    let served = std::cell::RefCell::new([0_u32; TASKS]);
    let task = async |i: usize| {
        loop {
            let guard = pool.get_async().await.unwrap();
            served.borrow_mut()[i] += 1;
            let mut yielded = false;
            std::future::poll_fn(|_| {
                if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            drop(guard);
        }
    };
    let mut tasks: Vec<_> = (0..TASKS).map(|i| Box::pin(task(i))).collect();
    for _ in 0..if cfg!(miri) { 40 } else { 2000 } {
        for task in &mut tasks {
            let poll: Poll<()> = poll(task.as_mut());
            assert!(poll.is_pending());
        }
    }
    drop(tasks);
    let served = served.into_inner();
    let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
    assert!(f64::from(*least) >= 0.9 * f64::from(*most), "{served:?}");
    assert_eq!((pool.stats().lent, pool.stats().idle), (0, 4));
}
