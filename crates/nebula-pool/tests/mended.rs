//! What went wrong once, and was to be seen from outside.

mod common;

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Wake, Waker},
    thread,
    time::Duration,
};

use common::{Reenter, poll};
use nebula_memory_core::{MemoryError, MemoryUsage, PressureLevel, Reclaim};
use nebula_pool::{
    Growth, Hooked, Hooks, LocalHooks, ObjectPool, Oversized, PoolConfig, PoolConfigBuilder,
    Poolable, Shrink, ThreadSafePool,
};

fn of(capacity: usize) -> PoolConfigBuilder {
    PoolConfig::builder().capacity(capacity)
}

/// An object of 100 bytes.
#[derive(Debug)]
struct Fat;

impl Poolable for Fat {
    fn reset(&mut self) {}

    fn heap_size(&self) -> usize {
        100
    }
}

#[test]
fn what_an_object_grew_by_can_be_asked_for() {
    let pool = ObjectPool::new(&of(4).build().unwrap(), Vec::<u8>::new).unwrap();
    let request = pool.trim_request();
    pool.try_get().unwrap().reserve(1 << 20);
    assert!(request.reclaimable() >= 1 << 20);
    pool.trim();
    assert_eq!(request.reclaimable(), 0);
}

#[test]
fn a_warm_up_reports_every_error_of_its_factory() {
    let config = of(4).warm_up(4).build().unwrap();
    let exhausted = || Err::<Fat, _>(MemoryError::PoolExhausted { in_use: 7, capacity: 7 });
    let error = ObjectPool::try_new(&config, exhausted).unwrap_err();
    assert!(matches!(error, MemoryError::PoolExhausted { in_use: 7, .. }), "{error}");
    assert!(ThreadSafePool::try_new(&config, exhausted).is_err());
}

#[test]
fn an_account_that_uses_the_pool_while_it_grows_is_charged_for_what_is_there() {
    let config = of(2).growth(Growth::Fixed(1)).build().unwrap();
    let pool = Rc::new(ObjectPool::new_in(&config, Reenter, String::new).unwrap());
    let first = pool.try_get().unwrap();
    let before = Reenter::balance();
    let again = Rc::clone(&pool);
    Reenter::at_next_charge(move || drop(again.try_get().unwrap()));
    let second = pool.try_get().unwrap();
    assert_eq!(
        (Reenter::balance() - before, pool.used()),
        (64, Reenter::balance()),
        "one place came"
    );
    drop((first, second));
    drop(pool);
    assert_eq!(Reenter::balance(), 0);
}

#[test]
fn a_new_object_that_panics_all_over_is_said_goodbye_to() {
    struct Bad(Arc<AtomicUsize>);

    impl Poolable for Bad {
        fn reset(&mut self) {}

        fn heap_size(&self) -> usize {
            panic!("size")
        }

        fn destroy(self) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    impl Drop for Bad {
        fn drop(&mut self) {
            panic!("drop")
        }
    }

    let goodbyes = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&goodbyes);
    let make = move || Bad(Arc::clone(&counted));
    let pool = ThreadSafePool::new(&of(1).build().unwrap(), make).unwrap();
    let outcome = catch_unwind(AssertUnwindSafe(|| drop(pool.try_get())));
    assert_eq!(*outcome.unwrap_err().downcast_ref::<&str>().unwrap(), "size");
    assert_eq!(goodbyes.load(SeqCst), 1);
    assert_eq!((pool.stats().quarantined, pool.stats().lent), (1, 0));
}

#[test]
fn a_waker_that_panics_does_so_in_nobodys_return() {
    struct Bad;

    impl Wake for Bad {
        fn wake(self: Arc<Self>) {
            panic!("waker")
        }
    }

    let pool = ThreadSafePool::new(&of(1).build().unwrap(), || Fat).unwrap();
    let held = pool.try_get().unwrap();
    let (mut first, mut second) = (Box::pin(pool.get_async()), Box::pin(pool.get_async()));
    let waker = Waker::from(Arc::new(Bad));
    assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(poll(second.as_mut()).is_pending());
    drop(held);
    drop(first);
    assert!(poll(second.as_mut()).is_ready());
}

#[test]
fn objects_made_ahead_are_not_unused_before_anybody_could_use_them() {
    let config = of(4).warm_up(4).shrink(Shrink::Unused).build().unwrap();
    let pool = ThreadSafePool::new(&config, || Fat).unwrap();
    assert_eq!(pool.maintain().unwrap().dropped, 0);
    assert_eq!(pool.maintain().unwrap().dropped, 4);
    let pool = ObjectPool::new(&config, || Fat).unwrap();
    assert_eq!(pool.maintain().unwrap().dropped, 0);
    assert_eq!(pool.maintain().unwrap().dropped, 4);
}

#[test]
fn what_stays_is_not_promised_to_reclaimers() {
    let config = of(4).warm_up(4).min_idle(3).build().unwrap();
    let pool = ThreadSafePool::new(&config, || Fat).unwrap();
    assert_eq!(pool.reclaimable(), 100);
    assert_eq!(pool.reclaim(usize::MAX, PressureLevel::High), 100);
    assert_eq!((pool.reclaimable(), pool.reclaim(1, PressureLevel::High)), (0, 0));
    assert_eq!(pool.reclaim(usize::MAX, PressureLevel::Critical), 300);
}

#[test]
fn closures_can_trim() {
    let config = of(1).retained_size(1000_usize).oversized(Oversized::Trim).build().unwrap();
    let hooks = Hooks::<Vec<u8>>::new()
        .reset(Vec::clear)
        .heap_size(Vec::capacity)
        .shrink_to(Vec::shrink_to);
    assert!(format!("{hooks:?}").contains("shrink_to: true"));
    let pool = ThreadSafePool::<Hooked<_>>::new(&config, hooks.factory(Vec::new)).unwrap();
    pool.try_get().unwrap().reserve(5000);
    assert_eq!((pool.stats().oversized, pool.stats().idle), (0, 1));
}

#[test]
fn closures_of_a_pool_for_one_thread_may_stay_on_it() {
    let log = Rc::new(RefCell::new(Vec::new()));
    let [at_reset, at_end] = [(); 2].map(|()| Rc::clone(&log));
    let hooks = LocalHooks::new()
        .reset(move |n: &mut u32| at_reset.borrow_mut().push(*n))
        .is_valid(|n| *n < 9)
        .value(|n| u64::from(*n))
        .destroy(move |n| at_end.borrow_mut().push(n + 100));
    let pool = ObjectPool::new(&of(1).build().unwrap(), hooks.factory(|| 7)).unwrap();
    **pool.try_get().unwrap() = 9;
    assert_eq!(*pool.try_get().unwrap().detach(), 7);
    assert_eq!(*log.borrow(), [9, 109]);
}

#[test]
#[cfg_attr(miri, ignore = "miri takes a system without memory for its own end")]
fn capacities_beyond_all_memory_are_refused_at_once() {
    let growths = [Growth::None, Growth::Fixed(1), Growth::Fixed(16)];
    for shift in [44, 50, 57] {
        for growth in growths {
            let config = of(1 << shift).growth(growth).track_holders(true).build().unwrap();
            let code = |error: MemoryError| {
                assert!(["out_of_memory", "invalid_layout"].contains(&error.code()), "{error}");
            };
            code(ThreadSafePool::new(&config, String::new).unwrap_err());
            code(ObjectPool::new(&config, String::new).unwrap_err());
            code(nebula_pool::LockFreePool::new(&config, String::new).unwrap_err());
        }
    }
}

#[test]
fn a_capacity_without_end_works_where_places_come_as_they_are_needed() {
    let config = of(1 << 50).growth(Growth::Doubling(16)).track_holders(true).build().unwrap();
    let pool = ThreadSafePool::new(&config, String::new).unwrap();
    let crowd: Vec<_> = (0..100).map(|_| pool.try_get().unwrap()).collect();
    assert_eq!(pool.holders().len(), 100);
    drop(crowd);
    assert!(pool.holders().is_empty());
}

#[test]
fn a_holder_is_told_by_its_thread() {
    let config = of(2).track_holders(true).build().unwrap();
    let pool = Arc::new(ThreadSafePool::new(&config, String::new).unwrap());
    let theirs = {
        let pool = Arc::clone(&pool);
        thread::spawn(move || (pool.try_get_owned().unwrap(), thread::current().id()))
    };
    let (guard, thread) = theirs.join().unwrap();
    let holders = pool.holders();
    assert_eq!((holders[0].thread_id, holders[0].thread.as_deref()), (thread, None));
    assert!(holders[0].to_string().contains(&format!("by {thread:?}")), "{}", holders[0]);
    drop(guard);
}

#[test]
fn an_owned_get_can_have_a_time_out() {
    let pool = Arc::new(ThreadSafePool::new(&of(1).build().unwrap(), || Fat).unwrap());
    let held = pool.get_owned_timeout(Duration::from_millis(1)).unwrap();
    let error = pool.get_owned_timeout(Duration::from_millis(1)).unwrap_err();
    assert_eq!(error.code(), "timeout");
    drop(held);
}
