//! A shared store of spare chunks: what it keeps, serves, charges and gives back.

use std::{
    alloc::Layout,
    cell::RefCell,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use nebula_arena::{Arena, ArenaConfig, ChunkStore, Keep, MovableAccount, StreamingArena};
use nebula_memory_core::{
    Accounted, Allocator, ByteSize, Global, MemoryError, MemoryUsage, PressureLevel, Reclaim,
    ReclaimRegistry,
    allocator_api2::alloc::{AllocError, Allocator as Api2},
};
use nebula_testing::{
    CountingAccount, CountingAllocator, FailingAllocator, Rng,
    conformance::{AllocatorOptions, allocator_conformance_with, shared_allocator_conformance},
    watchdog,
};
use static_assertions::{assert_impl_all, assert_not_impl_any};

type Local = Accounted<Global, std::rc::Rc<CountingAccount>>;

assert_impl_all!(ChunkStore: Send, Sync, Clone, Allocator, Reclaim, MemoryUsage);
assert_impl_all!(Arena<ChunkStore>: Send);
assert_not_impl_any!(ChunkStore<Local>: Send, Sync);
// An allocator for one thread at a time is not for a store that several share.
type Movable = Accounted<Global, MovableAccount<CountingAccount>>;
assert_impl_all!(Movable: Send);
assert_not_impl_any!(ChunkStore<Movable>: Send, Sync);

fn store(cap: usize, base: &CountingAllocator) -> ChunkStore<CountingAllocator> {
    ChunkStore::new_in(ByteSize::new(cap), base.clone())
}

fn config(chunk: usize) -> ArenaConfig {
    ArenaConfig::builder().chunk_size(ByteSize::new(chunk)).build().unwrap()
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).unwrap()
}

/// Takes a block from the store and gives it back.
fn pass<A: Allocator>(store: &ChunkStore<A>, sizes: &[usize]) {
    let blocks: Vec<_> =
        sizes.iter().map(|&size| store.try_allocate(layout(size)).unwrap()).collect();
    for block in blocks {
        // SAFETY: it was allocated here, with this layout.
        unsafe { store.deallocate(block.cast(), layout(block.len())) };
    }
}

#[test]
fn an_allocator_like_any_other() {
    let base = CountingAllocator::new();
    for cap in [0, 10_000, 10 << 20] {
        let settled = |store: &ChunkStore<CountingAllocator>| {
            assert_eq!(store.used(), base.live_bytes());
            assert!(store.used() <= cap);
            store.trim();
            base.assert_clean();
        };
        allocator_conformance_with(AllocatorOptions::default(), || store(cap, &base), settled);
        shared_allocator_conformance(AllocatorOptions::default(), || store(cap, &base), settled);
    }
}

#[test]
fn arenas_in_a_row_take_their_chunks_once() {
    const ROUNDS: u64 = if cfg!(miri) { 2 } else { 50 };
    let base = CountingAllocator::new();
    let store = store(1 << 20, &base);
    let work = |arena: &Arena<&ChunkStore<CountingAllocator>>| {
        let blocks: Vec<_> = (0..1000_u64).map(|i| arena.alloc([i; 4])).collect();
        for (i, block) in (0..).zip(&blocks) {
            assert_eq!(**block, [i; 4]);
        }
    };
    work(&Arena::new_in(&store));
    let (allocations, held) = (base.allocations(), base.live_bytes());
    assert!(allocations > 2);
    for _ in 0..ROUNDS {
        work(&Arena::new_in(&store));
    }
    assert_eq!((base.allocations(), base.deallocations()), (allocations, 0));
    assert_eq!((store.used(), store.capacity()), (held, Some(1 << 20)));
    let stats = store.stats();
    assert_eq!((stats.bytes, stats.blocks, stats.missed), (held, allocations, allocations as u64));
    assert_eq!(stats.served, ROUNDS * allocations as u64);
    assert_eq!(store.trim(), held);
    base.assert_clean();
}

#[test]
fn no_more_is_kept_than_the_cap_and_the_oldest_goes_first() {
    let base = CountingAllocator::new();
    let store = store(1000, &base);
    pass(&store, &[2000]); // too large to be kept
    assert_eq!(store.used(), 0);
    pass(&store, &[400]);
    pass(&store, &[500]);
    assert_eq!(store.used(), 900);
    pass(&store, &[300]); // the oldest goes: 400
    assert_eq!(store.used(), 800);
    let before = base.allocations();
    pass(&store, &[500, 300]);
    assert_eq!(base.allocations(), before);
    pass(&store, &[400]);
    assert_eq!(base.allocations(), before + 1);
    store.set_cap(ByteSize::new(450));
    assert_eq!((store.used(), base.live_bytes()), (400, 400));
    store.set_cap(ByteSize::new(0));
    pass(&store, &[400]);
    assert_eq!(base.live_bytes(), 0);
    // Small and hardly aligned blocks pass through.
    store.set_cap(ByteSize::kib(1));
    drop(store.try_allocate(Layout::new::<u8>()).map(|block| {
        // SAFETY: it was allocated here, with this layout.
        unsafe { store.deallocate(block.cast(), Layout::new::<u8>()) };
    }));
    assert_eq!(store.used(), 0);
    drop(store);
    base.assert_clean();
}

#[test]
fn odd_sizes_do_not_hide_the_usual_one_for_long() {
    let base = CountingAllocator::new();
    let store = store(100 << 10, &base);
    for round in 0..if cfg!(miri) { 2 } else { 20 } {
        let odd: Vec<usize> = (0..40).map(|i| 520 + 16 * (i % 25) + round).collect();
        pass(&store, &odd);
        pass(&store, &[512]);
        let before = base.allocations();
        pass(&store, &[512]);
        assert_eq!(base.allocations(), before);
    }
    drop(store);
    base.assert_clean();
}

#[test]
fn what_is_kept_stays_charged_until_it_is_given_back() {
    let account = CountingAccount::new();
    let charged = Accounted::new(Global, account.clone());
    let store = ChunkStore::new_in(ByteSize::mib(1), charged);
    let arena = Arena::with_config_in(config(4096), store.clone()).unwrap();
    arena.alloc(1);
    assert_eq!((account.balance(), store.used()), (4096, 0));
    drop(arena);
    assert_eq!((account.balance(), store.used(), store.reclaimable()), (4096, 4096, 4096));
    let registry = ReclaimRegistry::new();
    let _registration = registry.register("store", 0, Arc::downgrade(&store.reclaimer()));
    assert_eq!(registry.reclaim(1, PressureLevel::Elevated).given, 4096);
    account.assert_settled();
    // A part only, the oldest.
    pass(&store, &[1000]);
    pass(&store, &[2000, 3000]);
    assert_eq!(store.reclaim(500, PressureLevel::High), 1000);
    assert_eq!((account.balance(), store.reclaimable()), (5000, 5000));
    drop(store);
    account.assert_settled();
    assert_eq!(registry.reclaimable(), 0);
}

#[test]
fn what_is_kept_makes_room_before_a_request_is_refused() {
    let account = CountingAccount::with_limit(10_000);
    let store = ChunkStore::new_in(ByteSize::mib(1), Accounted::new(Global, account.clone()));
    pass(&store, &[4000, 4000]);
    assert_eq!(account.balance(), 8000);
    pass(&store, &[9000]);
    assert_eq!(account.balance(), 9000);
    let refused = store.try_allocate(layout(10_016)).unwrap_err();
    assert!(matches!(refused, MemoryError::CapacityExceeded { .. }), "{refused}");
    account.assert_settled();
    // With the other trait's method, too.
    pass(&store, &[9000]);
    let block = store.allocate(layout(8000)).unwrap();
    // SAFETY: it was allocated here, with this layout.
    unsafe { store.deallocate(block.cast(), layout(8000)) };
    drop(store);
    account.assert_settled();
}

#[test]
fn refusal_at_every_request_loses_nothing() {
    for n in 0.. {
        let base = CountingAllocator::new();
        let failing = FailingAllocator::new(base.clone());
        let store = ChunkStore::new_in(ByteSize::mib(1), failing.clone());
        failing.fail_at(n);
        for _ in 0..3 {
            let arena = Arena::with_config_in(config(256), &store).unwrap();
            for _ in 0..20 {
                _ = arena.try_alloc([0_u8; 100]);
            }
        }
        let tripped = failing.tripped();
        assert_eq!(store.used(), base.live_bytes());
        drop(store);
        base.assert_clean();
        if !tripped {
            break;
        }
    }
}

thread_local! {
    static LOOKED_AT: RefCell<Option<ChunkStore<Looking>>> = const { RefCell::new(None) };
}

/// Looks at the store from inside of every call, which would never return if its lock were held.
struct Looking;

impl Looking {
    fn look() {
        LOOKED_AT.with_borrow(|store| {
            if let Some(store) = store {
                assert!(store.stats().bytes <= 1000);
                assert_eq!(store.reclaim(0, PressureLevel::High), 0);
            }
        });
    }
}

// SAFETY: passes everything on to `Global`.
unsafe impl Api2 for Looking {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        Self::look();
        Global.allocate(layout)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        Self::look();
        // SAFETY: the caller's promises are the callee's.
        unsafe { Global.deallocate(ptr, layout) };
    }
}

// SAFETY: as `Global`.
unsafe impl Allocator for Looking {
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        Self::look();
        Global.try_allocate(layout)
    }
}

#[test]
fn the_allocator_underneath_is_called_without_the_lock() {
    watchdog(Duration::from_secs(30), || {
        let store = ChunkStore::new_in(ByteSize::new(1000), Looking);
        LOOKED_AT.set(Some(store.clone()));
        pass(&store, &[400, 500, 300, 2000]);
        pass(&store, &[400, 500, 300, 2000]);
        store.trim();
        pass(&store, &[400]);
        store.reclaim(1, PressureLevel::High);
        pass(&store, &[600]);
        store.set_cap(ByteSize::new(0));
        LOOKED_AT.set(None);
    });
}

#[test]
fn arenas_of_many_threads_share_it_under_pressure() {
    watchdog(Duration::from_secs(120), || {
        let base = CountingAllocator::new();
        let store = store(64 << 10, &base);
        let stop = AtomicBool::new(false);
        thread::scope(|s| {
            let threads: Vec<_> = (0..3)
                .map(|id| {
                    let store = &store;
                    s.spawn(move || {
                        let mut rng = Rng::new(id);
                        for _ in 0..if cfg!(miri) { 5 } else { 300 } {
                            let arena = Arena::with_config_in(config(512), store).unwrap();
                            let n = rng.below(200);
                            let mut blocks: Vec<&mut [u64]> = vec![];
                            for i in 0..n {
                                blocks.push(arena.alloc_slice_fill(i % 30, id));
                            }
                            assert!(blocks.iter().all(|b| b.iter().all(|&value| value == id)));
                        }
                    })
                })
                .collect();
            s.spawn(|| {
                while !stop.load(SeqCst) {
                    store.reclaim(1000, PressureLevel::High);
                    thread::yield_now();
                }
            });
            for thread in threads {
                thread.join().unwrap();
            }
            stop.store(true, SeqCst);
        });
        assert_eq!(store.used(), base.live_bytes());
        drop(store);
        base.assert_clean();
    });
}

#[test]
fn streams_may_share_a_store() {
    let base = CountingAllocator::new();
    let store = store(1 << 20, &base);
    let config = ArenaConfig { keep: Keep::Nothing, ..config(1024) };
    let stream = StreamingArena::with_config_in(4, &config, &store).unwrap();
    for _ in 0..10 {
        stream.batch().unwrap().alloc([1_u8; 1500]);
    }
    let allocations = base.allocations();
    for _ in 0..100 {
        stream.batch().unwrap().alloc([1_u8; 1500]);
    }
    assert_eq!(base.allocations(), allocations);
    drop((stream, store));
    base.assert_clean();
}
