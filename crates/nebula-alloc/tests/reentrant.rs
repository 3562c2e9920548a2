//! The manager neither allocates nor frees while it holds its lock. Here the global allocator asks
//! the manager at every allocation and free that the manager makes: under the lock, that would
//! never end.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use nebula_alloc::AllocatorManager;
use nebula_memory_core::{AllocatorKind, UsageCell};
use nebula_testing::watchdog;

/// The system's allocator, which asks the manager first if this thread is told to.
struct Asking;

thread_local! {
    static ASKS: Cell<bool> = const { Cell::new(false) };
}

static ASKED: AtomicUsize = AtomicUsize::new(0);

fn ask() {
    if ASKS.try_with(|asks| asks.replace(false)) == Ok(true) {
        let total = AllocatorManager::global().total();
        ASKED.fetch_add(1, SeqCst);
        assert_eq!(total.used, 0);
        ASKS.with(|asks| asks.set(true));
    }
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Asking {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ask();
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        ask();
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Asking = Asking;

/// Runs `body` with an allocator that asks.
fn asking<R>(body: impl FnOnce() -> R) -> R {
    ASKS.with(|asks| asks.set(true));
    let result = body();
    ASKS.with(|asks| asks.set(false));
    result
}

#[test]
fn the_lock_is_never_held_over_an_allocation() {
    watchdog(Duration::from_secs(60), || {
        let manager = AllocatorManager::global();
        let mut live = Vec::new();
        for i in 0..80_usize {
            let cell = Arc::new(UsageCell::new(i.to_string(), AllocatorKind::Other, true));
            asking(|| manager.register(&cell));
            live.push(cell);
            if i % 3 == 0 {
                let cell = live.swap_remove(i % live.len());
                asking(|| drop(cell));
            }
            let listed = asking(|| manager.list());
            assert_eq!(listed.len(), live.len());
            asking(|| drop(listed));
        }
        assert!(ASKED.load(SeqCst) > 200);
    });
}
