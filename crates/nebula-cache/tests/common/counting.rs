//! A global allocator that counts for each thread what it has allocated and not freed, and fails
//! on demand: the independent count against which a cache's books are checked.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ptr::null_mut,
};

/// Takes everything from the system, and counts.
pub(crate) struct Counting;

std::thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
    /// Allocations that succeed before those that fail; and how many fail.
    static FAIL: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
}

/// Whether this allocation is to fail.
fn fails() -> bool {
    CALLS.set(CALLS.get() + 1);
    match FAIL.get() {
        Some((0, 0)) | None => false,
        Some((0, left)) => {
            FAIL.set(Some((0, left - 1)));
            true
        }
        Some((before, left)) => {
            FAIL.set(Some((before - 1, left)));
            false
        }
    }
}

// SAFETY: every call is passed on to the system's allocator as it is, or fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if fails() {
            return null_mut();
        }
        LIVE.set(LIVE.get().wrapping_add(layout.size()));
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get().wrapping_sub(layout.size()));
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// Bytes that this thread has allocated and not freed; wraps if it freed what others allocated.
pub(crate) fn live() -> usize {
    LIVE.get()
}

/// Allocations of this thread.
pub(crate) fn calls() -> usize {
    CALLS.get()
}

/// Runs `body` with `count` allocations failing after the first `after`; whether any did.
pub(crate) fn failing<R>(after: usize, count: usize, body: impl FnOnce() -> R) -> (R, bool) {
    FAIL.set(Some((after, count)));
    let result = body();
    let left = FAIL.take();
    (result, left.is_some_and(|(_, left)| left < count))
}
