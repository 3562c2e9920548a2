//! What the pool for one thread does beyond what all pools do.

mod common;

use std::{cell::RefCell, rc::Rc};

use common::Factory;
use nebula_memory_core::{PressureLevel, Reclaim};
use nebula_pool::{ObjectPool, OwnedGuard, PoolConfig, Poolable};
use nebula_testing::CountingAccount;

#[test]
fn what_others_ask_for_is_given_at_the_next_return() {
    let config = PoolConfig::builder().capacity(8).warm_up(6).min_idle(1).build().unwrap();
    let (factory, account) = (Factory::of(100), CountingAccount::new());
    let make = factory.clone();
    let pool = ObjectPool::try_new_in(&config, account.clone(), move || make.make()).unwrap();
    let own = account.balance() - 600;
    let request = pool.trim_request();
    assert_eq!(request.reclaimable(), 600);

    let guard = pool.try_get().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| assert_eq!(request.reclaim(150, PressureLevel::High), 0));
    });
    assert_eq!((request.is_waiting(), pool.stats().idle), (true, 5));
    drop(guard);
    assert_eq!((request.is_waiting(), pool.stats().idle), (false, 4));
    assert_eq!(request.reclaimable(), 400);

    // The least number stays, unless it is critical; and `maintain` looks, too.
    request.reclaim(usize::MAX, PressureLevel::High);
    pool.maintain().unwrap();
    assert_eq!(pool.stats().idle, 1);
    request.reclaim(1, PressureLevel::Critical);
    drop(pool.try_get().unwrap());
    assert_eq!(pool.stats().idle, 0);
    account.assert_balance(own);
    drop(pool);
    assert_eq!(request.reclaimable(), 0);
}

#[test]
fn idle_objects_that_brought_nothing_are_left() {
    let config = PoolConfig::builder().capacity(2).warm_up(2).build().unwrap();
    let pool = ObjectPool::new(&config, String::new).unwrap();
    pool.trim_request().reclaim(1, PressureLevel::High);
    drop(pool.try_get().unwrap());
    assert_eq!(pool.stats().idle, 2);
}

thread_local! {
    static POOL: RefCell<Option<Rc<ObjectPool<Nosy>>>> = const { RefCell::new(None) };
}

/// An object that uses its pool whenever its code runs.
struct Nosy;

fn nose() {
    let Some(pool) = POOL.with_borrow(Clone::clone) else { return };
    // One more than there may be: all of them are here, but for the one whose code this is.
    let guards: Vec<_> = std::iter::from_fn(|| pool.try_get_owned().ok()).collect();
    assert!(guards.len() < pool.capacity());
    for guard in guards {
        std::mem::forget(OwnedGuard::detach(guard));
    }
    pool.stats();
}

impl Poolable for Nosy {
    fn reset(&mut self) {
        nose();
    }

    fn heap_size(&self) -> usize {
        0
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        nose();
    }
}

#[test]
fn the_code_of_objects_may_use_the_pool() {
    let config = PoolConfig::builder().capacity(3).build().unwrap();
    let pool = Rc::new(ObjectPool::new(&config, || Nosy).unwrap());
    POOL.set(Some(Rc::clone(&pool)));
    drop(pool.try_get().unwrap());
    drop([pool.try_get().unwrap(), pool.try_get().unwrap()]);
    pool.trim();
    POOL.set(None);
    let stats = pool.stats();
    assert_eq!(stats.lent, 0);
    assert_eq!(stats.created, stats.idle as u64 + stats.destroyed + stats.detached);
}

#[test]
fn a_pool_of_borrowed_things_serves_its_scope() {
    // Objects may borrow; the factory may not.
    struct Entry<'l>(Option<&'l RefCell<Vec<u32>>>);
    impl Poolable for Entry<'_> {
        fn reset(&mut self) {
            if let Some(log) = self.0.take() {
                log.borrow_mut().push(1);
            }
        }
        fn heap_size(&self) -> usize {
            0
        }
    }
    let log = RefCell::new(Vec::new());
    let pool = ObjectPool::new(&PoolConfig::default(), || Entry(None)).unwrap();
    pool.try_get().unwrap().0 = Some(&log);
    assert_eq!(*log.borrow(), [1]);
}
