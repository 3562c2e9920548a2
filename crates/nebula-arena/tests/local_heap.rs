//! That scopes leave the heap alone once a thread has run the same work before: all calls of the
//! global allocator counted.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use nebula_arena::LocalArena;
use nebula_testing::CountingAccount;

struct Counting;

thread_local! {
    /// Of this thread: those of the test harness are none of ours.
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    CALLS.with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: passes everything on to `System`.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count();
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

fn work(account: &CountingAccount, depth: usize) -> usize {
    LocalArena::scope(|scratch| {
        let mut numbers = scratch.vec();
        numbers.extend(0..depth * 1000);
        let charged =
            LocalArena::scope_in(account, |scratch| scratch.alloc_slice_fill(500, 1).len());
        numbers.len() + charged + if depth == 0 { 0 } else { work(account, depth - 1) }
    })
}

#[test]
fn settled_scopes_call_no_allocator() {
    let account = CountingAccount::new();
    let expected = work(&account, 5);
    let before = CALLS.get();
    assert!(before > 0);
    for _ in 0..100 {
        assert_eq!(work(&account, 5), expected);
    }
    assert_eq!(CALLS.get() - before, 0);
    account.assert_settled();
}
