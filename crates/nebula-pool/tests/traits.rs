//! What is `Send` and `Sync`, and what must not be.

mod common;

use std::{
    cell::Cell,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard},
};

use common::Object;
use nebula_memory_core::{Account, MemoryError, Reclaim, Unlimited};
use nebula_pool::{
    Hooked, LocalHooked, ObjectPool, OwnedGuard, PoolConfig, PoolGuard, PoolStats, Poolable,
    ThreadSafePool,
};
use static_assertions::{assert_impl_all, assert_not_impl_any};

macro_rules! poolable {
    ($($name:ident($inner:ty);)*) => {$(
        struct $name(#[allow(dead_code, reason = "it is the type that counts")] $inner);
        impl Poolable for $name {
            fn reset(&mut self) {}
            fn heap_size(&self) -> usize { 0 }
        }
    )*};
}

poolable! {
    Plain(u32);
    // Send and not Sync.
    Moving(Cell<u32>);
    // Neither.
    Local(Rc<()>);
    // Sync and not Send.
    Pinned(MutexGuard<'static, ()>);
}

/// An account for one thread at a time: Send and not Sync.
struct Purse(Cell<usize>);

impl Account for Purse {
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        self.0.set(self.0.get() + bytes);
        Ok(())
    }

    fn credit(&self, bytes: usize) {
        self.0.set(self.0.get() - bytes);
    }
}

/// An account of one thread.
struct Tied(#[allow(dead_code, reason = "it is the type that counts")] Rc<()>);

impl Account for Tied {
    fn try_charge(&self, _bytes: usize) -> Result<(), MemoryError> {
        Ok(())
    }

    fn credit(&self, _bytes: usize) {}
}

assert_impl_all!(ThreadSafePool<Plain>: Send, Sync, Reclaim);
assert_impl_all!(PoolGuard<'static, ThreadSafePool<Plain>>: Send, Sync);
assert_impl_all!(OwnedGuard<ThreadSafePool<Plain>>: Send, Sync);

// Objects that may move: the pool is shared, its guards move with them but are not shared.
assert_impl_all!(ThreadSafePool<Moving>: Send, Sync, Reclaim);
assert_impl_all!(PoolGuard<'static, ThreadSafePool<Moving>>: Send);
assert_impl_all!(OwnedGuard<ThreadSafePool<Moving>>: Send);
assert_not_impl_any!(PoolGuard<'static, ThreadSafePool<Moving>>: Sync);
assert_not_impl_any!(OwnedGuard<ThreadSafePool<Moving>>: Sync);

// Objects that may not move: nothing does.
assert_not_impl_any!(ThreadSafePool<Local>: Send, Sync, Reclaim);
assert_not_impl_any!(PoolGuard<'static, ThreadSafePool<Local>>: Send, Sync);
assert_not_impl_any!(OwnedGuard<ThreadSafePool<Local>>: Send, Sync);
assert_not_impl_any!(ThreadSafePool<Pinned>: Send, Sync, Reclaim);
assert_not_impl_any!(PoolGuard<'static, ThreadSafePool<Pinned>>: Send);
assert_not_impl_any!(OwnedGuard<ThreadSafePool<Pinned>>: Send);

// Accounts that may not be shared make a pool that is not, and guards credit from where they are.
assert_not_impl_any!(ThreadSafePool<Plain, Purse>: Sync, Reclaim);
assert_not_impl_any!(PoolGuard<'static, ThreadSafePool<Plain, Purse>>: Send, Sync);
assert_not_impl_any!(OwnedGuard<ThreadSafePool<Plain, Purse>>: Send, Sync);
assert_not_impl_any!(ThreadSafePool<Plain, Tied>: Send, Sync, Reclaim);
assert_not_impl_any!(OwnedGuard<ThreadSafePool<Plain, Tied>>: Send, Sync);

// The same for the other pools that threads share.
macro_rules! shared_alike {
    ($($pool:ident),*) => {$(
        assert_impl_all!(nebula_pool::$pool<Moving>: Send, Sync, Reclaim);
        assert_impl_all!(OwnedGuard<nebula_pool::$pool<Moving>>: Send);
        assert_not_impl_any!(PoolGuard<'static, nebula_pool::$pool<Moving>>: Sync);
        assert_not_impl_any!(OwnedGuard<nebula_pool::$pool<Moving>>: Sync);
        assert_not_impl_any!(nebula_pool::$pool<Local>: Send, Sync, Reclaim);
        assert_not_impl_any!(OwnedGuard<nebula_pool::$pool<Local>>: Send, Sync);
        assert_not_impl_any!(nebula_pool::$pool<Plain, Purse>: Sync, Reclaim);
        assert_not_impl_any!(nebula_pool::$pool<Plain, Tied>: Send, Sync, Reclaim);
        assert_not_impl_any!(OwnedGuard<nebula_pool::$pool<Plain, Tied>>: Send, Sync);
    )*};
}

shared_alike!(LockFreePool, TtlPool, PriorityPool, HierarchicalPool);

// A pool of one thread stays there, whatever it is of.
assert_not_impl_any!(ObjectPool<Plain>: Send, Sync, Reclaim);
assert_not_impl_any!(PoolGuard<'static, ObjectPool<Plain>>: Send, Sync);
assert_not_impl_any!(OwnedGuard<ObjectPool<Plain>>: Send, Sync);
assert_impl_all!(Hooked<u32>: Send, Sync);
assert_not_impl_any!(LocalHooked<u32>: Send, Sync);

assert_impl_all!(PoolConfig: Send, Sync, Clone);
assert_impl_all!(PoolStats: Send, Sync, Copy, std::fmt::Display);

fn send<T: Send>(value: T) -> T {
    value
}

#[test]
fn the_futures_may_move_between_threads_and_the_owned_one_borrows_nothing() {
    fn lives_alone<T: Send + 'static>(value: T) -> T {
        value
    }
    let pool = ThreadSafePool::new(&PoolConfig::default(), || Moving(Cell::new(0))).unwrap();
    drop(send(pool.get_async()));
    drop(lives_alone(Arc::new(pool).get_owned_async()));
}

#[test]
fn an_account_of_one_thread_serves_a_pool_of_one_thread() {
    let pool = ThreadSafePool::new_in(&PoolConfig::default(), Purse(Cell::new(0)), || {
        Vec::<u8>::with_capacity(100)
    });
    let pool = pool.unwrap();
    let own = pool.account().0.get();
    drop(pool.try_get().unwrap());
    assert_eq!(pool.account().0.get(), own + 100);
}

#[test]
fn objects_and_accounts_may_borrow() {
    struct Borrowing<'a>(&'a Mutex<u32>);
    impl Poolable for Borrowing<'_> {
        fn reset(&mut self) {
            *self.0.lock().unwrap() += 1;
        }
        fn heap_size(&self) -> usize {
            0
        }
    }
    static RESETS: Mutex<u32> = Mutex::new(0);
    let account = Unlimited;
    let pool =
        ThreadSafePool::new_in(&PoolConfig::default(), &account, || Borrowing(&RESETS)).unwrap();
    drop(pool.try_get().unwrap());
    assert_eq!(*RESETS.lock().unwrap(), 1);
}

#[test]
fn an_object_returned_from_another_thread_is_seen_as_it_was_left() {
    let (pool, ..) = common::pool(1, 0);
    let mut guard = pool.try_get().unwrap();
    std::thread::scope(|s| {
        s.spawn(move || guard.bytes = 77);
    });
    let object: PoolGuard<'_, ThreadSafePool<Object, _>> = pool.try_get().unwrap();
    assert_eq!(object.bytes, 77);
}
