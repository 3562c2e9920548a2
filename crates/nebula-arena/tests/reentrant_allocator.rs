//! Allocators that use the arena which they serve, as a budget's reclaimers may: from one thread
//! and from many, on every path.

use std::{
    alloc::Layout,
    cell::Cell,
    ptr::NonNull,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use nebula_arena::{ArenaConfig, Keep, ThreadSafeArena, ThreadSafeTypedArena, TypedArena};
use nebula_memory_core::{
    Allocator, ByteSize, Global, MemoryError,
    allocator_api2::alloc::{AllocError, Allocator as Api2},
};
use nebula_testing::watchdog;

thread_local! {
    /// Whether this thread is inside of a call back already.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Calls back whenever it is called, and passes on to the heap.
struct Calls(fn());

impl Calls {
    fn call(&self) {
        if !INSIDE.replace(true) {
            (self.0)();
            INSIDE.set(false);
        }
    }
}

// SAFETY: forwards to `Global`.
unsafe impl Api2 for Calls {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.call();
        let block = Global.allocate(layout);
        self.call();
        block
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        self.call();
        // SAFETY: the caller's promises are the callee's.
        unsafe { Global.deallocate(ptr, layout) };
        self.call();
    }
}

// SAFETY: as above.
unsafe impl Allocator for Calls {
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        self.allocate(layout).map_err(|AllocError| MemoryError::out_of_memory(layout))
    }
}

fn small() -> ArenaConfig {
    ArenaConfig::builder().chunk_size(ByteSize::new(256)).build().unwrap()
}

#[test]
fn a_shared_arena_serves_its_own_allocator() {
    static ARENA: OnceLock<ThreadSafeArena<Calls>> = OnceLock::new();
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    fn use_it() {
        let Some(arena) = ARENA.get() else { return };
        CALLS.fetch_add(1, SeqCst);
        let slice = arena.alloc_slice_fill(50, 7_u64);
        let handle = arena.handle();
        let other = handle.alloc_slice_fill(100, 8_u64);
        assert!(slice.iter().all(|&n| n == 7) && other.iter().all(|&n| n == 8));
        arena.shrink_to(0);
        assert!(arena.allocated_bytes() > 0);
    }
    watchdog(Duration::from_secs(60), || {
        let arena = ThreadSafeArena::with_config_in(small(), Calls(use_it)).unwrap();
        let arena = ARENA.get_or_init(|| arena);
        thread::scope(|scope| {
            for id in 0..4_u64 {
                scope.spawn(move || {
                    let handle = arena.handle();
                    let mut made = vec![];
                    for i in 0..100 {
                        made.push((arena.alloc_slice_fill(20, id * 100 + i), id * 100 + i));
                        made.push((handle.alloc_slice_fill(20, id * 100 + i), id * 100 + i));
                    }
                    for (slice, n) in made {
                        assert!(slice.iter().all(|&value| value == n));
                    }
                });
            }
        });
        assert!(CALLS.load(SeqCst) > 20);
    });
}

#[test]
fn typed_arenas_serve_their_own_allocator() {
    static SHARED: OnceLock<ThreadSafeTypedArena<String, Calls>> = OnceLock::new();
    fn use_it() {
        if let Some(arena) = SHARED.get() {
            assert_eq!(arena.alloc("called".to_owned()), "called");
        }
    }
    thread_local! {
        static SINGLE: Cell<Option<&'static TypedArena<String, Calls>>> = const { Cell::new(None) };
    }
    fn use_single() {
        SINGLE.with(|single| {
            if let Some(arena) = single.get() {
                assert_eq!(arena.alloc("called".to_owned()), "called");
                assert_eq!(arena.alloc_extend((0..3).map(|i| i.to_string())).len(), 3);
            }
        });
    }
    let shared = ThreadSafeTypedArena::with_config_in(small(), Calls(use_it)).unwrap();
    let shared = SHARED.get_or_init(|| shared);
    thread::scope(|scope| {
        for id in 0..4 {
            scope.spawn(move || {
                let made: Vec<_> = (0..100).map(|i| shared.alloc(format!("{id}-{i}"))).collect();
                for (i, text) in made.into_iter().enumerate() {
                    assert_eq!(*text, format!("{id}-{i}"));
                }
            });
        }
    });

    let arena = Box::new(TypedArena::with_config_in(small(), Calls(use_single)).unwrap());
    let arena = Box::into_raw(arena);
    // SAFETY: the box is valid; it is taken back below, when this borrow has ended.
    let borrow = unsafe { &*arena };
    SINGLE.set(Some(borrow));
    for i in 0..100 {
        assert_eq!(*borrow.alloc(i.to_string()), i.to_string());
        borrow.reserve(i % 7);
        assert_eq!(borrow.alloc_extend(["a", "b"].map(String::from)).len(), 2);
    }
    SINGLE.with(|single| single.set(None));
    // SAFETY: it came from `into_raw`, and nobody uses the borrow any more.
    let mut arena = unsafe { Box::from_raw(arena) };
    let called = arena.view().iter().filter(|text| *text == "called").count();
    assert!(called > 5);
    assert_eq!(arena.view().iter().count(), 300 + called * 4);
    arena.reset_keeping(Keep::Nothing);
    assert_eq!(arena.allocated_bytes(), 0);
}
