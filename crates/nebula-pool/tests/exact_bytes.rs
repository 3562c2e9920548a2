//! What is charged is what the global allocator has given out, to the byte.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::Arc,
};

use nebula_pool::{PoolConfig, ThreadSafePool};
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

#[test]
fn what_is_charged_is_what_is_allocated() {
    let account = CountingAccount::new();
    let config = PoolConfig::builder().capacity(5).warm_up(2).build().unwrap();
    // A factory of some size, which lives on the heap as well.
    let (first, step, shared) = (100_usize, 10_usize, account.clone());
    let lane = nebula_pool::ThreadSafePool::new(&config, String::new);
    drop(lane);

    let before = HELD.get();
    let check = || assert_eq!(HELD.get() - before, account.balance());
    let pool = ThreadSafePool::new_in(&config, account.clone(), move || {
        Vec::<u16>::with_capacity(first + step * usize::from(shared.balance() > 1000))
    });
    let pool = pool.unwrap();
    check();

    let mut buffer = pool.try_get().unwrap();
    buffer.extend([0; 3000]);
    drop(buffer);
    check();
    let (a, b, c) = (pool.try_get().unwrap(), pool.try_get().unwrap(), pool.try_get().unwrap());
    check();
    let mine = b.detach();
    assert_eq!(HELD.get() - before, account.balance() + mine.capacity() * 2);
    drop(mine);
    check();
    pool.try_get().unwrap().shrink_to_fit();
    check();
    drop((a, c));
    check();
    pool.trim();
    check();
    drop(pool);
    check();
    account.assert_settled();
    assert_eq!(HELD.get(), before);
}

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
