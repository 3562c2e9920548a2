//! Objects with closures in the place of the trait, blocks of bytes, and the defects of other pools.

mod common;

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use nebula_memory_core::{ByteSize, MemoryError, MemoryUsage, PressureLevel, Reclaim};
use nebula_pool::{
    Block, HierarchicalPool, Hooked, Hooks, LockFreePool, ObjectPool, OwnedGuard, PoolConfig,
    PoolGuard, Poolable, PriorityPool, ThreadSafePool, TtlPool,
};
use nebula_testing::CountingAccount;
use static_assertions::{assert_impl_all, assert_not_impl_any};

#[test]
fn hooks_stand_in_for_every_method_of_the_trait() {
    let ended = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&ended);
    let hooks = Hooks::new()
        .reset(|n: &mut u32| *n += 1)
        .is_valid(|n| *n < 3)
        .heap_size(|n| *n as usize * 100)
        .value(|n| u64::from(*n))
        .destroy(move |n| log.lock().unwrap().push(n));
    let config = PoolConfig::builder().capacity(2).build().unwrap();
    let account = CountingAccount::new();
    let pool = ThreadSafePool::new_in(&config, account.clone(), hooks.factory(|| 0)).unwrap();
    let own = account.balance();
    for n in 1..=3 {
        drop(pool.try_get().unwrap());
        account.assert_balance(own + n * 100);
    }
    assert_eq!(**pool.try_get().unwrap(), 0, "the other one was not valid any more");
    assert_eq!(*ended.lock().unwrap(), [3]);

    let (a, mut b) = (pool.try_get().unwrap(), pool.try_get().unwrap());
    **b = 2;
    let kept = **a;
    drop((a, b));
    assert!(pool.reclaim(1, PressureLevel::High) >= 100);
    assert_eq!(ended.lock().unwrap()[1], kept + 1, "the less valuable one");
    // The other has come to three.
    assert_eq!(pool.try_get().unwrap().detach().into_inner(), 0);
    assert_eq!(ended.lock().unwrap()[2..], [3]);
}

#[test]
fn without_hooks_objects_are_lent_as_they_are() {
    let pool = ObjectPool::new(&PoolConfig::default(), Hooks::new().factory(|| 5_u8)).unwrap();
    **pool.try_get().unwrap() = 7;
    assert_eq!(**pool.try_get().unwrap(), 7);
    assert!(pool.trim() == 0 && pool.stats().destroyed == 1);
    let failing = Hooks::<u8>::default().try_factory(|| Err(MemoryError::Closed { what: "it" }));
    let pool = ObjectPool::try_new(&PoolConfig::default(), failing).unwrap();
    assert_eq!(pool.try_get().unwrap_err().code(), "closed");
}

#[test]
fn blocks_have_the_configured_size_and_are_charged() {
    let config = PoolConfig::builder().capacity(2).block_size(ByteSize::new(48)).build().unwrap();
    let account = CountingAccount::new();
    let factory = Block::factory(&config).unwrap();
    let pool = ThreadSafePool::try_new_in(&config, account.clone(), factory).unwrap();
    let own = account.balance();
    let (mut a, b) = (pool.try_get().unwrap(), pool.try_get().unwrap());
    assert!(a.iter().all(|byte| *byte == 0) && a.len() == 48);
    assert_eq!((a.as_ptr().addr() % 16, b.as_ptr().addr() % 16), (0, 0));
    account.assert_balance(own + 96);
    a.fill(7);
    drop((a, b));
    assert_eq!(pool.used(), own + 96);
}

#[test]
fn blocks_that_cannot_be_are_refused() {
    for size in [0, 8, 17, usize::MAX - 15] {
        assert!(Block::try_new(size).is_err(), "{size}");
        let config = PoolConfig::builder().block_size(ByteSize::new(size));
        assert_eq!(config.build().unwrap_err().code(), "invalid_config");
    }
    let error = Block::try_new(isize::MAX as usize / 32 * 16).unwrap_err();
    assert_eq!(error.code(), "out_of_memory");
}

/// An object that may move to other threads and not be shared by them.
struct Moving(Cell<u32>);

impl Poolable for Moving {
    fn reset(&mut self) {
        self.0.set(0);
    }

    fn heap_size(&self) -> usize {
        0
    }
}

/// One that may not even move.
struct Local(Rc<()>);

impl Poolable for Local {
    fn reset(&mut self) {
        assert_eq!(Rc::strong_count(&self.0), 1);
    }

    fn heap_size(&self) -> usize {
        0
    }
}

macro_rules! shared {
    ($($pool:ident),*) => {$(
        assert_impl_all!($pool<Vec<u8>>: Send, Sync, Reclaim);
        assert_impl_all!(PoolGuard<'static, $pool<Vec<u8>>>: Send, Sync);
        assert_impl_all!(OwnedGuard<$pool<Vec<u8>>>: Send, Sync);
        // A guard of something that is not `Sync` is not either: another pool let two threads at one
        // `Cell` this way.
        assert_impl_all!($pool<Moving>: Send, Sync);
        assert_impl_all!(PoolGuard<'static, $pool<Moving>>: Send);
        assert_not_impl_any!(PoolGuard<'static, $pool<Moving>>: Sync);
        assert_impl_all!(OwnedGuard<$pool<Moving>>: Send);
        assert_not_impl_any!(OwnedGuard<$pool<Moving>>: Sync);
        assert_not_impl_any!($pool<Local>: Send, Sync, Reclaim);
        assert_not_impl_any!(PoolGuard<'static, $pool<Local>>: Send, Sync);
        assert_not_impl_any!(OwnedGuard<$pool<Local>>: Send, Sync);
    )*};
}

shared!(ThreadSafePool, LockFreePool, TtlPool, PriorityPool, HierarchicalPool);

// A pool without atomic operations is for one thread, and so are its guards: another pool was `Sync`
// by accident, so that two threads could get one object.
assert_not_impl_any!(ObjectPool<Vec<u8>>: Send, Sync);
assert_not_impl_any!(PoolGuard<'static, ObjectPool<Vec<u8>>>: Send, Sync);
assert_not_impl_any!(OwnedGuard<ObjectPool<Vec<u8>>>: Send, Sync);
assert_impl_all!(Block: Send, Sync);
assert_impl_all!(Hooked<u8>: Send, Sync);
assert_not_impl_any!(Hooked<Rc<()>>: Send, Sync);

#[test]
fn objects_that_stay_on_their_thread_have_a_pool_there() {
    let pool = ThreadSafePool::new(&PoolConfig::default(), || Local(Rc::new(()))).unwrap();
    drop(pool.try_get().unwrap());
    let pool = ObjectPool::new(&PoolConfig::default(), || Local(Rc::new(()))).unwrap();
    drop(pool.try_get().unwrap());
}

/// Another pool's lock was poisoned by a predicate that panicked, and every return panicked after
/// that.
#[test]
fn panics_while_a_pool_is_swept_poison_nothing() {
    static VALUES: AtomicUsize = AtomicUsize::new(0);
    struct Moody;
    impl Poolable for Moody {
        fn reset(&mut self) {}
        fn heap_size(&self) -> usize {
            100
        }
        fn destroy(self) {
            assert!(VALUES.fetch_add(1, SeqCst) % 2 == 1, "moody");
        }
    }
    let config = PoolConfig::builder().capacity(4).max_idle(0).build().unwrap();
    let pool = HierarchicalPool::new(&config, || Moody).unwrap();
    for _ in 0..3 {
        drop([(); 4].map(|()| pool.try_get().unwrap()));
        assert_eq!(pool.maintain().unwrap().dropped, 4);
    }
    drop([(); 4].map(|()| pool.try_get().unwrap()));
    assert_eq!(pool.trim(), 400);
    assert_eq!((pool.stats().lent, pool.stats().idle), (0, 0));
}
