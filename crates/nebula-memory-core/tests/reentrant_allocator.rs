//! Neither the waiting line nor the registry of reclaimers allocates or frees under its lock. Where
//! the global allocator charges an account, an allocation may reclaim and a free may serve a
//! waiter: under the lock, both would wait for themselves.
//!
//! Here every allocation and free of a thread comes back to both.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use nebula_memory_core::{PressureLevel, Reclaim, ReclaimRegistry, WaitQueue, Waiter};
use nebula_testing::watchdog;

static QUEUE: WaitQueue<u32> = WaitQueue::new();
static REGISTRY: OnceLock<ReclaimRegistry> = OnceLock::new();

/// The tests share the line and the registry that allocations come back to: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

struct Reentrant;

/// What an allocator that charges might do; what it allocates itself is not watched.
fn come_back() {
    if WATCHED.replace(false) {
        CALLS.set(CALLS.get() + 1);
        // Through the locks, changing nothing. An empty line must not grow here, before it would
        // grow under the test's eyes.
        if QUEUE.has_waiters() {
            drop(QUEUE.join(0));
        } else {
            assert!(QUEUE.hand(0).is_err());
        }
        if let Some(registry) = REGISTRY.get() {
            registry.reclaim(1, PressureLevel::High);
        }
        WATCHED.set(true);
    }
}

// SAFETY: forwards to the system's allocator.
unsafe impl GlobalAlloc for Reentrant {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        come_back();
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.dealloc(ptr, layout) };
        come_back();
    }
}

#[global_allocator]
static GLOBAL: Reentrant = Reentrant;

/// Runs `body` with every allocation and free coming back; how many there were.
fn watched(body: impl FnOnce()) -> usize {
    CALLS.set(0);
    WATCHED.set(true);
    body();
    WATCHED.set(false);
    CALLS.get()
}

struct Nothing;

impl Reclaim for Nothing {
    fn reclaimable(&self) -> usize {
        0
    }
    fn reclaim(&self, _wanted: usize, _urgency: PressureLevel) -> usize {
        0
    }
}

#[test]
fn allocating_never_meets_a_lock_that_is_held() {
    let _alone = alone();
    watchdog(Duration::from_secs(60), || {
        let calls = watched(|| {
            // Enough to outgrow any capacity, in an order that inserts in the middle.
            let mut waiters: Vec<Waiter<'_, u32>> =
                (0..100_u8).map(|i| QUEUE.join(i.wrapping_mul(37))).collect();
            waiters.retain(|waiter| format!("{waiter:?}").len() % 2 == 0);
            for value in 0..20 {
                QUEUE.hand(value).unwrap();
            }
            waiters.truncate(25);
            drop(waiters);
        });
        assert!(calls > 100, "only {calls} allocations and frees were watched");

        let registry = REGISTRY.get_or_init(ReclaimRegistry::new);
        let calls = watched(|| {
            let nothing = Arc::new(Nothing);
            let weak: Weak<dyn Reclaim> = Arc::downgrade(&nothing) as _;
            let mut kept = Vec::new();
            for priority in 0..40_u8 {
                kept.push(registry.register("nothing", priority.wrapping_mul(37), weak.clone()));
            }
            assert_eq!((registry.list().len(), registry.len()), (40, 40));
            registry.reclaim(1, PressureLevel::High);
            kept.truncate(15);
            drop(nothing);
            // Sweeps those up that are gone.
            drop(registry.register("late", 0, weak));
            drop(kept);
        });
        assert!(calls > 100, "only {calls} allocations and frees were watched");

        // Last, because it cannot be undone.
        let waiters: Vec<_> = (0..10).map(|_| QUEUE.join(0)).collect();
        watched(|| QUEUE.close("the queue"));
        assert!(waiters.into_iter().all(|waiter| waiter.wait().is_err()));
    });
}

#[test]
fn asking_and_unregistering_do_not_allocate() {
    let _alone = alone();
    let registry = ReclaimRegistry::new();
    let nothing = Arc::new(Nothing);
    let weak: Weak<dyn Reclaim> = Arc::downgrade(&nothing) as _;
    let _first = registry.register("first", 0, weak.clone());
    let second = registry.register("second", 0, weak);
    let calls = watched(|| {
        assert_eq!(registry.reclaim(1, PressureLevel::High).asked, 2);
        assert_eq!((registry.len(), registry.reclaimable()), (2, 0));
    });
    assert_eq!(calls, 0);
    // Frees the name and the entry; allocates nothing.
    assert_eq!(watched(|| drop(second)), 2);
}

#[test]
fn registering_frees_what_is_left_of_those_who_are_gone() {
    let _alone = alone();
    let registry = ReclaimRegistry::new();
    let nothing = Arc::new(Nothing);
    let weak: Weak<dyn Reclaim> = Arc::downgrade(&nothing) as _;
    for _ in 0..100 {
        registry.register("gone", 0, weak.clone()).detach();
    }
    drop((nothing, weak));
    let kept = Arc::new(Nothing);
    let weak: Weak<dyn Reclaim> = Arc::downgrade(&kept) as _;
    // A name and an entry of each.
    assert!(watched(|| registry.register("kept", 0, weak).detach()) > 200);
    assert_eq!(registry.len(), 1);
}
