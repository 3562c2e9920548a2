//! What is charged is what the global allocator has given out, to the byte.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Arc,
};

#[cfg(not(miri))]
use nebula_pool::LockFreePool;
use nebula_pool::{ObjectPool, PoolConfig, PriorityPool, ThreadSafePool};
use nebula_testing::CountingAccount;

/// Counts what this thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

fn count(plus: usize, minus: usize) {
    let _ = HELD.try_with(|held| held.set(held.get().wrapping_add(plus).wrapping_sub(minus)));
}

// SAFETY: forwards to `System`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

/// What a pool's epochs take, which nobody knows beforehand and nobody is charged for.
#[cfg(not(miri))]
fn epochs() -> usize {
    let before = HELD.get();
    let collector = crossbeam_epoch::Collector::new();
    let bytes = HELD.get() - before;
    drop(collector);
    bytes
}

/// What is charged is what is allocated, at every step. `$epochs` bytes more are from the beginning
/// on, and at most `$garbage` from the first sweep on.
macro_rules! exact {
    ($test:ident, $epochs:expr, $garbage:expr, |$config:ident, $account:ident, $make:ident| $build:expr) => {
        #[test]
        fn $test() {
            let growth = nebula_pool::Growth::Fixed(3);
            let config = PoolConfig::builder().capacity(7).warm_up(2).growth(growth);
            let ($config, account) = (&config.build().unwrap(), CountingAccount::new());
            // What a thread allocates once, for all pools.
            {
                let ($account, $make) = (account.clone(), || Ok(Vec::<u16>::new()));
                let pool = $build.unwrap();
                drop(pool.try_get());
                pool.trim();
            }

            // A factory of some size, which lives on the heap as well.
            let (first, step, shared) = (100_usize, 10_usize, account.clone());
            let before = HELD.get() + $epochs;
            let held = || HELD.get().wrapping_sub(before);
            let check = || assert_eq!(held(), account.balance());
            // From here on, epochs may have garbage of their own.
            let check_nearly = || {
                let more = HELD.get().abs_diff(before + account.balance());
                assert!(more <= $garbage, "{more}");
            };
            let ($account, $make) = (account.clone(), move || {
                let more = step * usize::from(shared.balance() > 1000);
                Ok(Vec::<u16>::with_capacity(first + more))
            });
            let pool = $build.unwrap();
            check();

            let mut buffer = pool.try_get().unwrap();
            buffer.extend([0; 3000]);
            drop(buffer);
            check();
            let (a, b) = (pool.try_get().unwrap(), pool.try_get().unwrap());
            let (c, d) = (pool.try_get().unwrap(), pool.try_get().unwrap());
            check();
            let mine = b.detach();
            assert_eq!(held(), account.balance() + mine.capacity() * 2);
            drop(mine);
            check();
            pool.try_get().unwrap().shrink_to_fit();
            check();
            drop((a, c, d));
            check();
            pool.maintain().unwrap();
            check_nearly();
            for _ in 0..3 {
                pool.trim();
                check_nearly();
            }
            drop(pool.try_get());
            check_nearly();
            drop(pool);
            assert_eq!(HELD.get() + $epochs, before, "nothing stays");
            account.assert_settled();
        }
    };
}

exact!(what_an_object_pool_is_charged_is_what_it_allocates, 0, 0, |config, account, make| {
    ObjectPool::try_new_in(config, account, make)
});
exact!(what_a_thread_safe_pool_is_charged_is_what_it_allocates, 0, 0, |config, account, make| {
    ThreadSafePool::try_new_in(config, account, make)
});
// crossbeam-epoch breaks miri's default rules for borrows.
#[cfg(not(miri))]
exact!(
    what_a_lock_free_pool_is_charged_is_what_it_allocates,
    epochs(),
    20000,
    |config, account, make| { LockFreePool::try_new_in(config, account, make) }
);
exact!(what_a_priority_pool_is_charged_is_what_it_allocates, 0, 0, |config, account, make| {
    PriorityPool::try_new_in(config, account, 3, make)
});

#[test]
fn a_get_and_a_return_allocate_nothing() {
    let pool = Arc::new(ThreadSafePool::new(&PoolConfig::default(), String::new).unwrap());
    drop(pool.try_get().unwrap());
    let before = HELD.get();
    let guard = pool.try_get().unwrap();
    assert_eq!(HELD.get(), before);
    let owned = pool.try_get_owned().unwrap();
    assert_eq!(HELD.get(), before);
    drop((guard, owned));
    assert_eq!(HELD.get(), before);
}
