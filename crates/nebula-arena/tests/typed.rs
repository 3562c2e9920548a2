//! `TypedArena`: order, positions, Drop, panics, refusals, books.

use std::{cell::Cell, rc::Rc, sync::Arc};

use nebula_arena::{
    ArenaConfig, Keep, TypedArena, TypedIntoIter, TypedIter, TypedIterMut, TypedView,
};
use nebula_memory_core::{Accounted, ByteSize, Global, MemoryError, MemoryUsage, Resettable};
use nebula_testing::{
    CountingAccount, CountingAllocator, DropCounter, DropPanics, FailingAllocator, PanicOn, catch,
};
use proptest::prelude::*;
use static_assertions::{assert_impl_all, assert_not_impl_any};

assert_impl_all!(TypedArena<Cell<u8>>: Send, Default, std::fmt::Debug);
assert_not_impl_any!(TypedArena<u8>: Sync);
assert_not_impl_any!(TypedArena<Rc<u8>>: Send);
assert_not_impl_any!(TypedArena<u8, &'static nebula_arena::Arena>: Send);
assert_impl_all!(TypedView<'static, u8>: Send, Sync, Copy);
assert_not_impl_any!(TypedView<'static, Cell<u8>>: Send, Sync);
assert_impl_all!(TypedIter<'static, u8>: Send, Sync, Clone);
assert_not_impl_any!(TypedIter<'static, Cell<u8>>: Send, Sync);
assert_impl_all!(TypedIterMut<'static, Cell<u8>>: Send);
assert_not_impl_any!(TypedIterMut<'static, Cell<u8>>: Sync);
assert_not_impl_any!(TypedIterMut<'static, Rc<u8>>: Send, Sync);
assert_impl_all!(TypedIntoIter<Cell<u8>>: Send);
assert_not_impl_any!(TypedIntoIter<Cell<u8>>: Sync);
assert_not_impl_any!(TypedIntoIter<Rc<u8>>: Send, Sync);

fn small() -> ArenaConfig {
    ArenaConfig::builder().chunk_size(ByteSize::new(256)).build().unwrap()
}

/// Checks that all ways to see the values agree with `expected`.
fn assert_holds<T: PartialEq + Clone + std::fmt::Debug>(arena: &mut TypedArena<T>, expected: &[T]) {
    assert_eq!((arena.len(), arena.is_empty()), (expected.len(), expected.is_empty()));
    assert!(arena.iter_mut().map(|value| &*value).eq(expected));
    assert!(arena.iter_mut().rev().map(|value| &*value).eq(expected.iter().rev()));
    let view = arena.view();
    assert_eq!((view.len(), view.is_empty()), (expected.len(), expected.is_empty()));
    assert!(view.iter().eq(expected));
    assert_eq!(view.slices().map(<[T]>::len).sum::<usize>(), expected.len());
    for (i, value) in expected.iter().enumerate() {
        assert_eq!((&view[i], view.get(i)), (value, Some(value)));
    }
    assert_eq!(view.get(expected.len()), None);
    // From both ends in turns.
    let mut iter = view.iter();
    let mut left = expected.iter();
    while let Some(value) = left.next() {
        assert_eq!(iter.len(), left.len() + 1);
        assert_eq!(iter.next(), Some(value));
        assert_eq!(iter.next_back(), left.next_back());
    }
    assert_eq!((iter.next(), iter.next_back()), (None, None));
}

#[test]
fn values_keep_their_order_and_position_across_chunks() {
    let mut arena = TypedArena::with_config(small()).unwrap();
    assert_holds(&mut arena, &[]);
    let mut expected = vec![];
    for i in 0..500_u32 {
        assert_eq!(*arena.alloc(i), i);
        expected.push(i);
        if i % 50 == 0 {
            let run: Vec<u32> = (0..i).map(|n| n * 1000).collect();
            assert_eq!(arena.alloc_extend(run.iter().copied()), run);
            expected.extend(run);
        }
    }
    assert!(arena.usage().chunks > 3);
    assert_holds(&mut arena, &expected);
    let addresses: Vec<*const u32> = arena.view().iter().map(std::ptr::from_ref).collect();
    for (i, address) in addresses.into_iter().enumerate() {
        // SAFETY: the arena has not been reset since.
        assert_eq!(arena.index_of(unsafe { &*address }), Some(i));
    }
    assert_eq!(arena.index_of(&0), None);
    assert_eq!(arena.into_vec(), expected);
}

#[derive(Clone, Debug, PartialEq)]
#[repr(align(512))]
struct Wide(u16);

#[derive(Clone, Debug, PartialEq)]
#[repr(align(64))]
struct Nothing;

#[test]
fn odd_sizes_and_large_alignments_lie_behind_each_other() {
    fn check<T: PartialEq + Clone + std::fmt::Debug>(make: impl Fn(u8) -> T) {
        let mut arena = TypedArena::with_config(small()).unwrap();
        let expected: Vec<T> = (0..100).map(make).collect();
        for value in &expected[..50] {
            let place = std::ptr::from_mut(arena.alloc(value.clone()));
            assert_eq!(place.addr() % align_of::<T>(), 0);
        }
        arena.alloc_extend(expected[50..].iter().cloned());
        assert_holds(&mut arena, &expected);
        if size_of::<T>() != 0 {
            let mut values = arena.view().iter().map(std::ptr::from_ref).collect::<Vec<_>>();
            let positions: Vec<_> = values
                .iter()
                // SAFETY: the arena has not been reset since.
                .map(|&value| arena.index_of(unsafe { &*value }).unwrap())
                .collect();
            assert!(positions.into_iter().eq(0..100));
            values.dedup();
            assert_eq!(values.len(), 100);
        }
        assert_eq!(arena.into_iter().rev().collect::<Vec<_>>().len(), 100);
    }
    check(|i| [i; 3]);
    check(|i| (u64::from(i), i));
    check(|i| Wide(u16::from(i)));
    check(|i| [i; 700]);
    check(|i| i.to_string());
    check(|_| Nothing);
    check(|_| ());
}

#[test]
fn values_without_bytes_are_counted_and_dropped_as_often() {
    thread_local!(static DROPS: Cell<usize> = const { Cell::new(0) });
    struct Counts;
    impl Drop for Counts {
        fn drop(&mut self) {
            DROPS.set(DROPS.get() + 1);
        }
    }
    let mut arena = TypedArena::new();
    for _ in 0..10 {
        arena.alloc(Counts);
    }
    arena.alloc_extend((0..5).map(|_| Counts));
    assert_eq!((arena.len(), arena.allocated_bytes(), arena.index_of(&Counts)), (15, 0, None));
    assert_eq!(arena.iter_mut().count(), 15);
    assert_eq!(DROPS.take(), 1, "the one that was looked for");
    arena.clear();
    assert_eq!((DROPS.take(), arena.len()), (15, 0));
    arena.alloc_extend((0..4).map(|_| Counts));
    let mut iter = arena.into_iter();
    drop(iter.next_back());
    assert_eq!((DROPS.take(), iter.len()), (1, 3));
    drop(iter);
    assert_eq!(DROPS.take(), 3);
    let arena: TypedArena<Counts> = (0..7).map(|_| Counts).collect();
    drop(arena);
    assert_eq!(DROPS.take(), 7);
    let arena: TypedArena<Counts> = (0..7).map(|_| Counts).collect();
    assert_eq!(arena.into_vec().len(), 7);
    assert_eq!(DROPS.take(), 7);
}

#[test]
fn drops_run_in_order_when_the_arena_is_reset_cleared_and_dropped() {
    let drops = DropCounter::new();
    let config = ArenaConfig { keep: Keep::Last, ..small() };
    let mut arena = TypedArena::with_config(config).unwrap();
    let fill = |arena: &TypedArena<_>, from: u64| {
        for i in from..from + 50 {
            arena.alloc(drops.probe(i));
        }
    };
    fill(&arena, 0);
    Resettable::reset(&mut arena);
    assert_eq!((arena.len(), arena.usage().chunks, arena.used()), (0, 1, 0));
    fill(&arena, 50);
    let before = arena.allocated_bytes();
    arena.clear();
    assert_eq!((arena.len(), arena.allocated_bytes()), (0, before));
    fill(&arena, 100);
    assert_eq!(arena.allocated_bytes(), before, "what was kept is used again");
    arena.reset_keeping(Keep::Nothing);
    assert_eq!(arena.allocated_bytes(), 0);
    fill(&arena, 150);
    drop(arena);
    drops.assert_all_dropped();
    assert!(drops.dropped().into_iter().eq(0..200));
}

#[test]
fn spare_chunks_go_back_on_request() {
    let mut arena = TypedArena::new();
    arena.alloc_extend(0..10_000_u64);
    arena.clear();
    assert!(arena.allocated_bytes() > 80_000);
    arena.shrink_to(0);
    assert_eq!(arena.allocated_bytes(), 0);
}

/// `n` values that panic when they are dropped, as `on` says.
fn panicking(
    base: &CountingAllocator,
    drops: DropCounter,
    on: &PanicOn,
    n: u64,
) -> TypedArena<DropPanics<nebula_testing::DropProbe>, CountingAllocator> {
    let arena = TypedArena::with_config_in(small(), base.clone()).unwrap();
    for i in 0..n {
        arena.alloc(DropPanics { value: drops.probe(i), on: on.clone() });
    }
    arena
}

#[test]
fn a_panicking_drop_at_any_position_keeps_neither_values_nor_chunks() {
    const N: u64 = 30;
    for position in 0..usize::try_from(N).unwrap() {
        let base = CountingAllocator::new();
        let drops = DropCounter::new();
        let on = PanicOn::nth(position);
        let arena = panicking(&base, drops, &on, N);
        assert!(arena.usage().chunks > 2);
        assert_eq!(catch(|| drop(arena)).unwrap_err(), "injected");
        drops.assert_all_dropped();
        base.assert_clean();

        on.arm(position);
        let drops = DropCounter::new();
        let mut arena = panicking(&base, drops, &on, N);
        assert!(catch(|| arena.clear()).is_err());
        drops.assert_all_dropped();
        assert_eq!((arena.len(), arena.allocated_bytes()), (0, base.live_bytes()));
        arena.alloc(DropPanics { value: drops.probe(99), on: PanicOn::never() });
        assert_eq!(arena.view()[0].value.tag(), 99);
        drop(arena);
        drops.assert_all_dropped();

        // Dropped by an iterator that was used from both ends.
        on.arm(usize::MAX);
        let drops = DropCounter::new();
        let mut iter = panicking(&base, drops, &on, N).into_iter();
        drop((iter.next(), iter.next_back(), iter.next()));
        on.arm(position.min(iter.len() - 1));
        assert!(catch(|| drop(iter)).is_err());
        drops.assert_all_dropped();
        base.assert_clean();
    }
}

#[test]
fn moving_values_out_drops_the_rest() {
    let base = CountingAllocator::new();
    let drops = DropCounter::new();
    let arena = TypedArena::with_config_in(small(), &base).unwrap();
    for i in 0..50 {
        arena.alloc(drops.probe(i));
    }
    let mut iter = arena.into_iter();
    assert_eq!(iter.len(), 50);
    let taken: Vec<_> = iter.by_ref().take(10).chain(None).collect();
    let last = iter.next_back().unwrap();
    assert_eq!((taken[9].tag(), last.tag(), iter.len()), (9, 49, 39));
    drops.assert_live(50);
    drop(iter);
    drops.assert_live(11);
    base.assert_clean();
    drop((taken, last));
    drops.assert_all_dropped();

    let arena = TypedArena::with_config_in(small(), &base).unwrap();
    for i in 0..50 {
        arena.alloc(drops.probe(i));
    }
    let vec = arena.try_into_vec().unwrap();
    base.assert_clean();
    assert!(vec.iter().map(nebula_testing::DropProbe::tag).eq(0..50));
    drop(vec);
    drops.assert_all_dropped();
}

#[test]
fn making_values_may_use_the_arena_and_panic() {
    let mut arena = TypedArena::with_config(small()).unwrap();
    let outer = arena.alloc_with(|| {
        let inner: u64 = (0..100).map(|i| *arena.alloc(i)).sum();
        inner
    });
    assert_eq!(*outer, 4950);
    assert_eq!(arena.view()[100], 4950);
    assert!(catch(|| arena.alloc_with(|| -> u64 { panic!("injected") })).is_err());
    assert_eq!(arena.try_alloc_with(|| 7).unwrap(), &7);
    // An iterator that allocates meanwhile: its values come first, and the run stays together.
    arena.reset();
    let run = arena.alloc_extend((0..100).map(|i| *arena.alloc(i + 1000)));
    assert!(run.iter().copied().eq(1000..1100));
    assert_eq!(arena.len(), 200);
    assert!(arena.view().iter().copied().eq((1000..1100).chain(1000..1100)));
}

#[test]
fn a_panicking_iterator_leaves_the_arena_as_it_was() {
    let base = CountingAllocator::new();
    for position in 0..20 {
        let drops = DropCounter::new();
        let on = PanicOn::nth(position);
        let mut arena = TypedArena::with_config_in(small(), &base).unwrap();
        arena.alloc(drops.probe(1));
        let values = (0..20).map(|i| {
            on.tick();
            drops.probe(i)
        });
        assert_eq!(catch(|| arena.alloc_extend(values).len()).unwrap_err(), "injected");
        drops.assert_live(1);
        assert_eq!((arena.len(), arena.view()[0].tag()), (1, 1));
        assert_eq!(arena.allocated_bytes(), base.live_bytes());
        drop(arena);
        drops.assert_all_dropped();
        base.assert_clean();
    }
}

#[test]
fn a_lying_iterator_is_refused_or_served() {
    struct Lies(usize, u8);
    impl Iterator for Lies {
        type Item = u8;
        fn next(&mut self) -> Option<u8> {
            self.1 = self.1.checked_sub(1)?;
            Some(self.1)
        }
        fn size_hint(&self) -> (usize, Option<usize>) {
            (self.0, Some(self.0))
        }
    }
    let arena = TypedArena::new();
    assert!(arena.try_alloc_extend(Lies(usize::MAX, 3)).is_err());
    assert_eq!(arena.alloc_extend(Lies(0, 100)).len(), 100);
    assert_eq!(arena.alloc_extend(Lies(1000, 2)), [1, 0]);
    assert!(arena.alloc_extend([]).is_empty());
    assert_eq!(arena.len(), 102);
}

#[test]
fn every_refused_request_leaves_values_and_books_right() {
    let base = CountingAllocator::new();
    let drops = DropCounter::new();
    for n in 0.. {
        let failing = FailingAllocator::new(&base);
        let mut arena = TypedArena::with_config_in(small(), &failing).unwrap();
        failing.fail_at(n);
        let mut expected = vec![];
        for i in 0..40 {
            match arena.try_alloc(drops.probe(i)) {
                Ok(_) => expected.push(i),
                Err(refused) => assert_eq!(refused.value.tag(), i),
            }
            if i % 10 == 0 {
                let run = arena.try_alloc_extend((0..i).map(|i| drops.probe(i)));
                if run.is_ok() {
                    expected.extend(0..i);
                }
            }
            if i == 20 {
                let _ = arena.try_reserve(30);
            }
            assert_eq!(arena.allocated_bytes(), base.live_bytes());
        }
        assert!(arena.view().iter().map(nebula_testing::DropProbe::tag).eq(expected));
        let tripped = failing.tripped();
        drop(arena);
        drops.assert_all_dropped();
        base.assert_clean();
        if !tripped {
            break;
        }
    }
    // Everything refused from some request on: the value comes back.
    let failing = FailingAllocator::new(&base);
    let arena = TypedArena::with_config_in(small(), &failing).unwrap();
    failing.fail_from(0);
    assert_eq!(arena.try_alloc(String::from("back")).unwrap_err().value, "back");
    assert!(arena.try_reserve(1).is_err());
    assert!(catch(|| arena.alloc(String::new()).len()).is_err());
    assert!(catch(|| arena.reserve(1)).is_err());
    assert!(arena.try_reserve(usize::MAX).is_err());
}

#[test]
fn a_reserve_makes_room_for_a_run() {
    let counting = CountingAllocator::new();
    let mut arena = TypedArena::new_in(&counting);
    arena.alloc(1_u64);
    arena.reserve(5000);
    let (bytes, allocations) = (arena.allocated_bytes(), counting.allocations());
    for i in 0..5000 {
        arena.alloc(i);
    }
    assert_eq!((arena.allocated_bytes(), counting.allocations()), (bytes, allocations));
    let longest = arena.view().slices().map(<[u64]>::len).max();
    assert_eq!((longest, arena.len()), (Some(5000), 5001));
    arena.reserve(0);
    // A reserve that nothing follows is not seen.
    arena.reserve(100_000);
    assert_eq!((arena.len(), arena.view().iter().count()), (5001, 5001));
}

#[test]
fn capacity_and_account_are_kept_to_the_byte() {
    let config = ArenaConfig::builder().chunk_size(ByteSize::new(256)).capacity(ByteSize::kib(2));
    let arena = TypedArena::with_config(config.build().unwrap()).unwrap();
    let refused = loop {
        if let Err(refused) = arena.try_alloc([1_u8; 24]) {
            break refused;
        }
    };
    assert!(matches!(refused.error, MemoryError::CapacityExceeded { requested: 24, .. }));
    assert_eq!((arena.allocated_bytes(), arena.capacity()), (2048, Some(2048)));
    assert!(arena.available().unwrap() < 24);

    let (first, second) = (CountingAccount::new(), CountingAccount::new());
    let mut arena = TypedArena::new_in(Accounted::new(Global, first.clone()));
    arena.alloc_extend(0..1000_u64);
    first.assert_balance(arena.allocated_bytes());
    arena.try_move_to(second.clone()).unwrap();
    first.assert_settled();
    second.assert_balance(arena.allocated_bytes());
    drop(arena);
    second.assert_settled();
}

#[test]
fn usage_adds_up() {
    let mut arena = TypedArena::with_config(small()).unwrap();
    for _ in 0..3 {
        for i in 0..100_u64 {
            arena.alloc(i);
        }
        let usage = arena.usage();
        assert_eq!((usage.used, usage.allocated), (800, arena.allocated_bytes()));
        let sum = usage.used + usage.free + usage.wasted + usage.spare + usage.overhead;
        assert_eq!(sum, usage.allocated);
        arena.clear();
    }
    assert_eq!(arena.usage().high_water, 800);
}

#[test]
fn values_move_to_another_thread_with_their_arena() {
    let shared = Arc::new(());
    let arena = TypedArena::new();
    arena.alloc_extend((0..10).map(|_| Arc::clone(&shared)));
    std::thread::spawn(move || drop(arena)).join().unwrap();
    assert_eq!(Arc::strong_count(&shared), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Alloc,
    Extend(u8),
    Reserve(u16),
    Reset(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => Just(Step::Alloc),
        4 => any::<u8>().prop_map(Step::Extend),
        2 => (0..500_u16).prop_map(Step::Reserve),
        1 => any::<u8>().prop_map(Step::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_arena_is_a_vector_that_does_not_move(steps in prop::collection::vec(step(), 0..200)) {
        let drops = DropCounter::new();
        let mut arena = TypedArena::with_config(small()).unwrap();
        let mut model = vec![];
        let mut tags = 0..;
        for step in steps {
            match step {
                Step::Alloc => {
                    let tag = tags.next().unwrap();
                    arena.alloc(drops.probe(tag));
                    model.push(tag);
                }
                Step::Extend(n) => {
                    let run: Vec<u64> = tags.by_ref().take(n.into()).collect();
                    arena.alloc_extend(run.iter().map(|&tag| drops.probe(tag)));
                    model.extend(run);
                }
                Step::Reserve(n) => arena.reserve(n.into()),
                Step::Reset(keep) => {
                    arena.reset_keeping([Keep::All, Keep::Last, Keep::Nothing][usize::from(keep % 3)]);
                    model.clear();
                }
            }
            drops.assert_live(model.len());
            prop_assert_eq!(arena.len(), model.len());
        }
        prop_assert!(arena.view().iter().map(nebula_testing::DropProbe::tag).eq(model.iter().copied()));
        let vec = arena.into_vec();
        prop_assert!(vec.iter().map(nebula_testing::DropProbe::tag).eq(model));
        drop(vec);
        drops.assert_all_dropped();
    }
}
