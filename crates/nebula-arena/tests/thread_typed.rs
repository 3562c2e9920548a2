//! `ThreadSafeTypedArena`: Drop, panics, refusals and books with many threads.

use std::{
    cell::Cell,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use nebula_arena::{Arena, ArenaConfig, Keep, ThreadSafeTypedArena};
use nebula_memory_core::{ByteSize, MemoryUsage, Resettable};
use nebula_testing::{
    CountingAllocator, DropCounter, DropPanics, DropProbe, FailingAllocator, PanicOn, catch,
};
use static_assertions::{assert_impl_all, assert_not_impl_any};

// Values go from thread to thread, and are never shared by the arena.
assert_impl_all!(ThreadSafeTypedArena<Cell<u8>>: Send, Sync, Default, std::fmt::Debug);
assert_not_impl_any!(ThreadSafeTypedArena<u8, &'static Arena>: Send, Sync);

fn small() -> ArenaConfig {
    ArenaConfig::builder().chunk_size(ByteSize::new(256)).build().unwrap()
}

type Probes<'a> = ThreadSafeTypedArena<DropProbe, &'a CountingAllocator>;

/// `each` probes from each of four threads; the tag's thousands say which.
fn fill(arena: &Probes<'_>, drops: DropCounter, each: u64) {
    thread::scope(|scope| {
        for id in 0..4 {
            scope.spawn(move || {
                for i in 0..each {
                    assert_eq!(arena.alloc(drops.probe(id * 1000 + i)).tag(), id * 1000 + i);
                }
                let run = arena.alloc_extend((each..each + 5).map(|i| drops.probe(id * 1000 + i)));
                assert_eq!(run.len(), 5);
            });
        }
    });
}

#[test]
fn each_threads_values_stay_in_order_and_all_are_dropped() {
    let base = CountingAllocator::new();
    let drops = DropCounter::new();
    let mut arena: Probes<'_> = ThreadSafeTypedArena::with_config_in(small(), &base).unwrap();
    assert!(arena.is_empty());
    for keep in [Keep::All, Keep::Last, Keep::Nothing] {
        fill(&arena, drops, 45);
        assert_eq!((arena.len(), arena.usage().used), (200, 200 * size_of::<DropProbe>()));
        let tags: Vec<u64> = arena.iter_mut().map(|probe| probe.tag()).collect();
        for id in 0..4 {
            let of_thread = tags.iter().filter(|&tag| tag / 1000 == id).map(|tag| tag % 1000);
            assert!(of_thread.eq(0..50));
        }
        assert_eq!(arena.allocated_bytes(), base.live_bytes());
        arena.reset_keeping(keep);
        drops.assert_all_dropped();
        assert_eq!((arena.len(), arena.allocated_bytes()), (0, base.live_bytes()));
    }
    assert_eq!(base.live_bytes(), 0);
    fill(&arena, drops, 20);
    let mut tags: Vec<u64> = arena.into_vec().iter().map(DropProbe::tag).collect();
    tags.sort_unstable();
    assert!(tags.iter().copied().eq((0..4).flat_map(|id| id * 1000..id * 1000 + 25)));
    drops.assert_all_dropped();
    base.assert_clean();
    let arena: Probes<'_> = ThreadSafeTypedArena::new_in(&base);
    fill(&arena, drops, 20);
    thread::scope(|scope| scope.spawn(move || drop(arena)).join().unwrap());
    drops.assert_all_dropped();
    base.assert_clean();
}

#[test]
fn a_panicking_drop_at_any_position_keeps_neither_values_nor_chunks() {
    for position in 0..24 {
        for reset in [false, true] {
            let base = CountingAllocator::new();
            let drops = DropCounter::new();
            let on = PanicOn::never();
            let mut arena = ThreadSafeTypedArena::with_config_in(small(), &base).unwrap();
            thread::scope(|scope| {
                for id in 0..2 {
                    let (arena, on) = (&arena, on.clone());
                    scope.spawn(move || {
                        for i in 0..12 {
                            let value = drops.probe(id * 100 + i);
                            arena.alloc(DropPanics { value, on: on.clone() });
                        }
                    });
                }
            });
            on.arm(position);
            let result = if reset {
                let result = catch(|| Resettable::reset(&mut arena));
                assert_eq!((arena.len(), arena.allocated_bytes()), (0, base.live_bytes()));
                drop(arena);
                result
            } else {
                catch(|| drop(arena))
            };
            assert_eq!(result.unwrap_err(), "injected");
            drops.assert_all_dropped();
            base.assert_clean();
        }
    }
}

#[repr(align(512))]
struct Wide(u8);

#[test]
fn values_without_bytes_and_with_wide_alignment_are_counted_right() {
    static DROPS: AtomicUsize = AtomicUsize::new(0);
    struct Counts;
    impl Drop for Counts {
        fn drop(&mut self) {
            DROPS.fetch_add(1, Relaxed);
        }
    }
    let mut arena = ThreadSafeTypedArena::new();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                arena.alloc(Counts);
                arena.alloc_extend((0..9).map(|_| Counts));
            });
        }
    });
    assert_eq!((arena.len(), arena.iter_mut().count(), arena.allocated_bytes()), (40, 40, 0));
    arena.reset();
    assert_eq!((arena.len(), DROPS.swap(0, Relaxed)), (0, 40));
    arena.alloc(Counts);
    assert_eq!(arena.into_vec().len(), 1);
    assert_eq!(DROPS.swap(0, Relaxed), 1);

    let mut arena = ThreadSafeTypedArena::with_config(small()).unwrap();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..10).for_each(|i| arena.alloc(Wide(i)).0 += 1));
        }
    });
    assert_eq!(arena.len(), 30);
    assert_eq!(arena.iter_mut().map(|wide| u32::from(wide.0)).sum::<u32>(), 3 * 55);
    assert_eq!(arena.into_vec().len(), 30);
}

#[test]
fn refused_values_come_back_and_the_books_stay_right() {
    let base = CountingAllocator::new();
    let drops = DropCounter::new();
    for n in 0.. {
        let failing = FailingAllocator::new(&base);
        let mut arena = ThreadSafeTypedArena::with_config_in(small(), &failing).unwrap();
        failing.fail_at(n);
        let mut len = 0;
        for i in 0..40 {
            match arena.try_alloc(drops.probe(i)) {
                Ok(_) => len += 1,
                Err(refused) => assert_eq!(refused.value.tag(), i),
            }
            if i % 8 == 0 && arena.try_alloc_extend((0..i).map(|i| drops.probe(i))).is_ok() {
                len += usize::try_from(i).unwrap();
            }
            assert_eq!(arena.allocated_bytes(), base.live_bytes());
        }
        assert_eq!(arena.len(), len);
        drops.assert_live(len);
        let tripped = failing.tripped();
        drop(arena);
        drops.assert_all_dropped();
        base.assert_clean();
        if !tripped {
            break;
        }
    }
    let config = ArenaConfig::builder().chunk_size(ByteSize::new(256)).capacity(ByteSize::kib(16));
    let arena = ThreadSafeTypedArena::with_config_in(config.build().unwrap(), &base).unwrap();
    while arena.try_alloc([0_u8; 40]).is_ok() {}
    assert!(base.peak() <= 16 << 10 && arena.used() == arena.allocated_bytes());
    assert_eq!(arena.capacity(), Some(16 << 10));
}

#[test]
fn making_values_may_use_the_arena_and_panic() {
    let mut arena = ThreadSafeTypedArena::with_config(small()).unwrap();
    let sum = arena.alloc_with(|| (0..100).map(|i| *arena.alloc(i)).sum());
    assert_eq!(*sum, 4950_u64);
    assert!(catch(|| arena.alloc_with(|| -> u64 { panic!("injected") })).is_err());
    assert!(catch(|| arena.alloc_extend((0..10).inspect(|i| assert!(*i < 5))).len()).is_err());
    assert_eq!(*arena.try_alloc_with(|| 1).unwrap(), 1);
    assert_eq!(arena.len(), 102);
}

#[test]
fn values_may_borrow_from_each_other() {
    struct Node<'a>(u64, OnceLock<&'a Node<'a>>);
    let arena = ThreadSafeTypedArena::new();
    let (a, b) = (&*arena.alloc(Node(1, OnceLock::new())), &*arena.alloc(Node(2, OnceLock::new())));
    a.1.set(b).ok().unwrap();
    b.1.set(a).ok().unwrap();
    assert_eq!(a.1.get().unwrap().1.get().unwrap().0, 1);
    assert_eq!(b.0, 2);
}
