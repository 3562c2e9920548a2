//! `ThreadSafeArena`: threads that come and go, handles, what is shared, books.

use std::{
    alloc::Layout,
    cell::Cell,
    mem::ManuallyDrop,
    sync::{Barrier, LazyLock},
    thread,
};

use hashbrown::HashMap;
use nebula_arena::{Arena, ArenaConfig, ArenaHandle, Growth, Keep, ThreadSafeArena};
use nebula_memory_core::{
    Accounted, ByteSize, Global, MemoryError, MemoryUsage, PressureLevel, Reclaim, Resettable,
    allocator_api2::{alloc::Allocator as Api2, vec::Vec as AVec},
};
use nebula_testing::{
    CountingAccount, CountingAllocator, FailingAllocator, OwnedAllocator, catch,
    conformance::{
        AllocatorOptions, Reuse, allocator_conformance_with, shared_allocator_conformance,
    },
};
use static_assertions::{assert_impl_all, assert_not_impl_any};

/// An allocator that may move to another thread, and not be shared.
type Unshared = Accounted<Global, OnlySend>;

#[derive(Clone, Default)]
struct OnlySend(Cell<usize>);

impl nebula_memory_core::Account for OnlySend {
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        self.0.set(self.0.get() + bytes);
        Ok(())
    }

    fn credit(&self, bytes: usize) {
        self.0.set(self.0.get() - bytes);
    }
}

assert_impl_all!(ThreadSafeArena: Send, Sync, Default, std::fmt::Debug, Reclaim);
assert_impl_all!(ThreadSafeArena<Unshared>: Send);
assert_not_impl_any!(ThreadSafeArena<Unshared>: Sync);
assert_not_impl_any!(ThreadSafeArena<&'static Arena>: Send, Sync);
assert_impl_all!(ArenaHandle<'static>: Send);
assert_not_impl_any!(ArenaHandle<'static>: Sync);
assert_not_impl_any!(ArenaHandle<'static, Unshared>: Send, Sync);
assert_impl_all!(ThreadSafeArena<&'static ThreadSafeArena>: Send, Sync);
assert_impl_all!(ThreadSafeArena<&'static Arena>: MemoryUsage);

fn small() -> ArenaConfig {
    ArenaConfig::builder().chunk_size(ByteSize::new(256)).build().unwrap()
}

fn lifo() -> AllocatorOptions {
    AllocatorOptions { reuse: Reuse::LastInFirstOut, ..AllocatorOptions::default() }
}

#[test]
fn an_arena_is_a_proper_allocator_on_one_thread_and_on_many() {
    for config in [ArenaConfig::default(), small()] {
        let base = CountingAllocator::new();
        let make = || {
            let arena = ThreadSafeArena::with_config_in(config.clone(), base.clone());
            OwnedAllocator::new(arena.unwrap())
        };
        let settled = |arena: &OwnedAllocator<ThreadSafeArena<CountingAllocator>>| {
            assert_eq!(arena.source().allocated_bytes(), base.live_bytes());
        };
        allocator_conformance_with(lifo(), make, settled);
        let reuse_nothing = AllocatorOptions { reuse: Reuse::Never, ..lifo() };
        shared_allocator_conformance(reuse_nothing, make, settled);
        base.assert_clean();
    }
}

#[test]
fn a_handle_is_a_proper_allocator() {
    static ARENA: LazyLock<ThreadSafeArena> = LazyLock::new(ThreadSafeArena::new);
    allocator_conformance_with(lifo(), || OwnedAllocator::new(ARENA.handle()), |_| ());
}

#[test]
fn values_of_all_kinds_stay_when_their_threads_are_gone() {
    let base = CountingAllocator::new();
    let arena = ThreadSafeArena::with_config_in(small(), &base).unwrap();
    let made: Vec<(&mut [u64], &str, &mut u8)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8_u8)
            .map(|i| {
                let arena = &arena;
                scope.spawn(move || {
                    let slice = arena.alloc_slice_fill(usize::from(i) * 50, u64::from(i));
                    let mut text = arena.string();
                    for _ in 0..i {
                        text.push_str("part ");
                    }
                    let byte = arena.alloc_with(|| *arena.alloc(i));
                    (slice, &*text.into_str(), byte)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (i, (slice, text, byte)) in made.into_iter().enumerate() {
        assert_eq!((slice.len(), text.len(), usize::from(*byte)), (i * 50, i * 5, i));
        assert!(slice.iter().all(|&n| n == i as u64));
        slice.fill(7);
    }
    assert_eq!(arena.allocated_bytes(), base.live_bytes());
    drop(arena);
    base.assert_clean();
}

#[test]
fn threads_that_come_later_go_on_where_others_ended() {
    let mut arena = ThreadSafeArena::new();
    for i in 0..200_u32 {
        thread::scope(|scope| scope.spawn(|| *arena.alloc(i)).join().unwrap());
    }
    let usage = arena.usage();
    assert_eq!(usage.used, 800);
    // (Other tests' threads may have had numbers in between.)
    assert!(usage.chunks < 50, "{usage:?}");
}

#[test]
fn figures_add_up_and_agree_with_the_allocator() {
    let base = CountingAllocator::new();
    let mut arena = ThreadSafeArena::with_config_in(small(), &base).unwrap();
    assert_eq!(base.allocations(), 0, "an arena takes nothing before it is used");
    for round in 0..3 {
        thread::scope(|scope| {
            for i in 1..6 {
                let arena = &arena;
                scope.spawn(move || arena.alloc_slice_fill(i * 100, 1_u8).len());
            }
        });
        let handle = arena.handle();
        handle.alloc_slice_fill(400, 0_u8);
        assert!(format!("{handle:?}").contains("used"));
        drop(handle);
        let usage = arena.usage();
        assert_eq!(usage.used, 1900);
        assert_eq!(
            (usage.allocated, arena.allocated_bytes()),
            (base.live_bytes(), usage.allocated)
        );
        let sum = usage.used + usage.free + usage.wasted + usage.spare + usage.overhead;
        assert_eq!(sum, usage.allocated, "{usage:?}");
        assert_eq!((arena.used(), arena.capacity()), (usage.allocated - usage.spare, None));
        Resettable::reset(&mut arena);
        let usage = arena.usage();
        assert_eq!((usage.used, usage.allocated), (0, base.live_bytes()), "in round {round}");
        assert!(usage.spare > 0 && usage.chunks > 0);
    }
    arena.reset_keeping(Keep::Last);
    assert!(arena.usage().spare < base.peak());
    arena.alloc(1);
    arena.reset_keeping(Keep::Nothing);
    assert_eq!((arena.allocated_bytes(), base.live_bytes()), (0, 0));
    assert!(arena.usage().high_water >= 1900, "what the pieces knew is not forgotten");
    assert_eq!(*arena.alloc(7), 7);
    drop(arena);
    base.assert_clean();
}

#[test]
fn what_a_reset_kept_is_for_any_thread_and_goes_back_on_request() {
    let base = CountingAllocator::new();
    let config = ArenaConfig::builder().chunk_size(ByteSize::kib(64)).growth(Growth::Fixed);
    let mut arena = ThreadSafeArena::with_config_in(config.build().unwrap(), &base).unwrap();
    let work = |arena: &ThreadSafeArena<_>| {
        for _ in 0..10 {
            arena.alloc_slice_fill(60_000, 1_u8);
        }
    };
    work(&arena);
    let chunks = arena.usage().chunks;
    for _ in 0..3 {
        arena.reset_keeping(Keep::All);
        // A thread that was not there before, and then a handle.
        thread::scope(|scope| scope.spawn(|| work(&arena)).join().unwrap());
        assert_eq!(arena.usage().chunks, chunks);
        arena.reset_keeping(Keep::All);
        let handle = arena.handle();
        for _ in 0..10 {
            handle.alloc_slice_fill(60_000, 1_u8);
        }
        drop(handle);
        assert_eq!((arena.usage().chunks, chunks), (10, 10));
    }
    arena.reset();
    let spare = arena.reclaimable();
    assert_eq!(spare, 10 * 65536);
    assert_eq!(arena.reclaim(100_000, PressureLevel::High), 131_072);
    assert_eq!(arena.reclaimable(), spare - 131_072);
    arena.shrink_to(0);
    assert_eq!(arena.reclaimable(), 0);
    assert!(arena.allocated_bytes() < 20_000 && arena.allocated_bytes() == base.live_bytes());
}

#[test]
fn spare_chunks_go_before_anything_is_refused() {
    let config = ArenaConfig::builder().chunk_size(ByteSize::kib(4)).capacity(ByteSize::kib(64));
    let base = CountingAllocator::new();
    let mut arena = ThreadSafeArena::with_config_in(config.build().unwrap(), &base).unwrap();
    while arena.try_alloc([0_u8; 512]).is_ok() {}
    arena.reset_keeping(Keep::All);
    assert!(arena.used() < 40_000 && arena.allocated_bytes() > 50_000);
    assert_eq!(arena.capacity(), Some(65536));
    // No kept chunk is that large.
    let len = arena.available().unwrap() - 100;
    arena.try_alloc_slice_fill(len, 1_u8).unwrap();
    assert!(base.peak() <= 65536);
}

#[test]
fn the_capacity_is_for_all_threads_together() {
    let capacity = 64 << 10;
    let config =
        ArenaConfig::builder().chunk_size(ByteSize::kib(1)).capacity(ByteSize::new(capacity));
    let config = config.build().unwrap();
    for _ in 0..20 {
        let base = CountingAllocator::new();
        let arena = ThreadSafeArena::with_config_in(config.clone(), &base).unwrap();
        let barrier = Barrier::new(4);
        let used: usize = thread::scope(|scope| {
            let fill = || {
                barrier.wait();
                (0..capacity).take_while(|_| arena.try_alloc([1_u8; 100]).is_ok()).count() * 100
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(fill)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(base.peak() <= capacity && arena.allocated_bytes() == base.live_bytes());
        assert!(used > capacity / 2, "only {used} of {capacity} bytes were used");
        let refused = arena.try_alloc([7_u8; 5000]).unwrap_err();
        assert!(matches!(
            refused.error,
            MemoryError::CapacityExceeded { requested: 5000, available, .. } if available < 5000
        ));
        assert_eq!(refused.value[4999], 7);
    }
}

#[test]
fn every_refused_request_leaves_the_books_right() {
    let base = CountingAllocator::new();
    for n in 0.. {
        let failing = FailingAllocator::new(&base);
        let mut arena = ThreadSafeArena::with_config_in(small(), &failing).unwrap();
        failing.fail_at(n);
        let mut bytes = 0;
        for i in 0..60_usize {
            match arena.try_alloc_slice_fill(i * 10, 1_u8) {
                Ok(_) => bytes += i * 10,
                Err(error) => assert!(matches!(error, MemoryError::OutOfMemory { .. }), "{error}"),
            }
            if let Ok(handle) = arena.try_handle() {
                bytes += handle.try_alloc_slice_fill(50, 1_u8).map_or(0, |slice| slice.len());
                let _ = handle.try_reserve(100);
            }
            let _ = arena.try_reserve(i);
            assert_eq!(arena.allocated_bytes(), base.live_bytes());
        }
        assert_eq!(arena.usage().used, bytes);
        let tripped = failing.tripped();
        drop(arena);
        base.assert_clean();
        if !tripped {
            break;
        }
    }
    let failing = FailingAllocator::new(Global);
    failing.fail_from(0);
    let arena = ThreadSafeArena::new_in(&failing);
    assert_eq!(arena.try_alloc(5).unwrap_err().value, 5);
    assert!(catch(|| *arena.alloc(1)).is_err() && catch(|| drop(arena.handle())).is_err());
    assert!(arena.try_reserve(usize::MAX).is_err());
    assert_eq!(arena.allocated_bytes(), 0);
    // What needs no bytes is not refused.
    arena.alloc(());
    assert!(arena.alloc_slice_copy::<u64>(&[]).is_empty());
}

#[test]
fn a_thread_that_is_refused_its_place_borrows_one() {
    let base = CountingAllocator::new();
    let failing = FailingAllocator::new(&base);
    let mut arena = ThreadSafeArena::with_config_in(small(), &failing).unwrap();
    // Chunks and single pieces, and no table.
    failing.refuse_above(Some(256));
    thread::scope(|scope| {
        for i in 0..4_u64 {
            let arena = &arena;
            scope.spawn(move || {
                arena.try_reserve(8).unwrap();
                let made: Vec<_> = (0..100).map(|n| arena.alloc(i * 100 + n)).collect();
                assert!(made.into_iter().map(|n| *n).eq(i * 100..i * 100 + 100));
            });
        }
    });
    assert_eq!(arena.usage().used, 3200);
    assert_eq!(arena.allocated_bytes(), base.live_bytes());
    drop(arena);
    base.assert_clean();
}

#[test]
fn an_account_is_charged_for_everything_and_moves() {
    let (first, second) = (CountingAccount::new(), CountingAccount::new());
    let mut arena = ThreadSafeArena::new_in(Accounted::new(Global, first.clone()));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| arena.alloc_slice_fill(10_000, 0_u8).len());
            scope.spawn(|| arena.handle().alloc_slice_fill(10_000, 0_u8).len());
        }
    });
    first.assert_balance(arena.allocated_bytes());
    arena.try_move_to(second.clone()).unwrap();
    first.assert_settled();
    second.assert_balance(arena.allocated_bytes());
    drop(arena);
    second.assert_settled();
}

#[test]
fn collections_grow_and_shrink_on_other_threads_than_their_own() {
    let arena = ThreadSafeArena::with_config(small()).unwrap();
    let mut list: AVec<usize, _> = AVec::new_in(&arena);
    let mut map: HashMap<usize, AVec<usize, _>, _, _> = HashMap::new_in(&arena);
    for round in 0..20 {
        thread::scope(|scope| {
            scope.spawn(|| {
                list.extend(round * 10..round * 10 + 10);
                let mut values = AVec::new_in(&arena);
                values.extend(0..round);
                map.insert(round, values);
                map.remove(&(round / 2));
                list.shrink_to_fit();
            });
        });
        list.push(1000 + round);
        assert_eq!(list.pop(), Some(1000 + round));
        list.shrink_to_fit();
    }
    assert!(list.iter().copied().eq(0..200));
    assert!(map.iter().all(|(&key, values)| values.iter().copied().eq(0..key)));
}

#[test]
fn a_foreign_block_never_moves_the_cursor() {
    let arena = ThreadSafeArena::new();
    let layout = Layout::new::<[u8; 64]>();
    let a = &arena;
    // Made on another thread, while that thread's piece is this test's no matter what.
    let (sender, receiver) = std::sync::mpsc::channel();
    let (done, wait) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let block = a.allocate(layout).unwrap().cast::<u8>();
            sender.send(block.as_ptr().addr()).unwrap();
            // SAFETY: the block is 64 bytes long, and nobody else uses it.
            unsafe { block.write_bytes(1, 64) };
            wait.recv().unwrap();
            // SAFETY: as above; the block stays until the arena goes.
            let bytes = unsafe { block.cast::<[u8; 64]>().read() };
            assert_eq!(bytes, [1; 64]);
            let next = a.allocate(layout).unwrap().cast::<u8>();
            assert_eq!(next.as_ptr().addr(), block.as_ptr().addr() + 64, "the cursor stays");
        });
        let theirs = receiver.recv().unwrap();
        let mine = a.allocate(layout).unwrap().cast::<u8>();
        assert_ne!(mine.as_ptr().addr(), theirs + 64);
        // SAFETY: it is mine, 64 bytes long, and not used again.
        unsafe { a.deallocate(mine, layout) };
        assert_eq!(a.allocate(layout).unwrap().cast::<u8>(), mine, "my own latest one is free");
        done.send(()).unwrap();
    });
}

#[test]
fn pieces_of_dropped_and_forgotten_handles_are_used_again() {
    let base = CountingAllocator::new();
    let mut arena = ThreadSafeArena::new_in(&base);
    let first = std::ptr::from_ref(arena.handle().alloc(1_u64)).addr();
    let second = std::ptr::from_ref(arena.handle().alloc(2_u64)).addr();
    assert_eq!(second, first + 8, "the same piece goes on");
    let (a, b) = (arena.handle(), arena.handle());
    let (one, two) = (a.alloc(1), b.alloc(2));
    drop((a, b));
    assert_eq!((*one, *two), (1, 2));
    let blocks = base.live_blocks();
    let _forgotten = ManuallyDrop::new(arena.handle());
    arena.reset();
    let (_a, _b) = (arena.handle(), arena.handle());
    assert_eq!(base.live_blocks(), blocks, "no new piece was needed");
}

#[test]
fn a_handle_goes_to_another_thread_and_collects() {
    let arena = ThreadSafeArena::new();
    let handle = arena.handle();
    let before = handle.alloc_str("before");
    let words = thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let handle = handle;
            let mut map = HashMap::new_in(&handle);
            map.extend((0..100).map(|i| (i, i * i)));
            assert_eq!(map[&99], 9801);
            drop(map);
            let words = handle.alloc_slice_from_iter("to be or not to be".split(' '));
            let text = handle.alloc_fmt(format_args!("{} words", words.len()));
            assert_eq!(*handle.alloc_boxed(String::from("dropped")), "dropped");
            (words, text)
        });
        thread.join().unwrap()
    });
    assert_eq!((&*before, words.0.len(), &*words.1), ("before", 6, "6 words"));
}

#[test]
fn panics_while_values_are_made_leave_the_arena_usable() {
    let arena = ThreadSafeArena::with_config(small()).unwrap();
    for n in 0..20 {
        let panicked = catch(|| {
            arena.alloc_slice_with(20, |i| {
                assert!(i < n, "injected");
                *arena.alloc(i)
            });
        });
        assert!(panicked.is_err());
        let handle = arena.handle();
        assert!(catch(|| handle.alloc_with(|| -> u8 { panic!("injected") })).is_err());
        assert_eq!((*handle.alloc(n), *arena.alloc(n)), (n, n));
    }
}

#[test]
fn an_arena_can_be_the_allocator_of_an_arena() {
    let base = CountingAllocator::new();
    let outer = ThreadSafeArena::new_in(&base);
    thread::scope(|scope| {
        for i in 0..4_u64 {
            let outer = &outer;
            scope.spawn(move || {
                let inner = ThreadSafeArena::new_in(outer);
                thread::scope(|scope| {
                    scope.spawn(|| assert_eq!(*inner.alloc(i), i));
                    scope.spawn(|| assert_eq!(*inner.alloc(i + 1), i + 1));
                });
                let single = Arena::new_in(outer);
                assert_eq!(single.alloc_slice_fill(3000, i).len(), 3000);
            });
        }
    });
    drop(outer);
    base.assert_clean();
}
