//! An arena and its root as one value: what crosses, what is dropped when, what is charged to whom.

use std::{
    cell::{Cell, RefCell},
    sync::{Barrier, Mutex},
    thread,
    time::Duration,
};

use nebula_arena::{
    Arena, ArenaBox, ArenaConfig, ArenaVec, CovariantFamily, CrossThreadArena, Family, FrozenArena,
    MovableAccount,
};
use nebula_memory_core::{
    Accounted, ByteSize, Global, MemoryError, allocator_api2::vec::Vec as Vec2,
};
use nebula_testing::{CountingAccount, CountingAllocator, DropCounter, DropProbe, watchdog};
use static_assertions::{assert_impl_all, assert_not_impl_any};

struct Tree<'a> {
    name: &'a str,
    children: &'a [Tree<'a>],
}

struct Trees;
impl Family for Trees {
    type Of<'a> = &'a Tree<'a>;
}
impl CovariantFamily for Trees {
    fn shorten<'s, 'l: 's>(of: &'s Self::Of<'l>) -> &'s Self::Of<'s> {
        of
    }
}

/// Needs dropping, and looks into the arena when it is.
struct Boxes;
impl Family for Boxes {
    type Of<'a> = (ArenaBox<'a, DropProbe>, DropProbe);
}

struct Slices;
impl Family for Slices {
    type Of<'a> = &'a mut [u64];
}

struct Growing;
impl Family for Growing {
    type Of<'a> = ArenaVec<'a, u64>;
}

struct GrowingIn;
impl Family for GrowingIn {
    type Of<'a> = ArenaVec<'a, u64, Arena<CountingAllocator>>;
}

struct Cells;
impl Family for Cells {
    type Of<'a> = &'a Cell<u32>;
}

struct MutCells;
impl Family for MutCells {
    type Of<'a> = &'a mut Cell<u32>;
}

type Charged = Accounted<CountingAllocator, MovableAccount<CountingAccount>>;

// Of the root: both, `Send` alone, neither.
assert_impl_all!(CrossThreadArena<Trees>: Send, Sync);
assert_impl_all!(FrozenArena<Trees>: Send, Sync);
assert_impl_all!(CrossThreadArena<Slices>: Send, Sync);
assert_impl_all!(CrossThreadArena<MutCells>: Send);
assert_not_impl_any!(CrossThreadArena<MutCells>: Sync);
assert_not_impl_any!(FrozenArena<MutCells>: Send, Sync);
assert_not_impl_any!(CrossThreadArena<Cells>: Send, Sync);
assert_not_impl_any!(FrozenArena<Cells>: Send, Sync);
assert_not_impl_any!(CrossThreadArena<Growing>: Send, Sync);
// Of the allocator.
assert_impl_all!(CrossThreadArena<Trees, Charged>: Send, Sync);
assert_not_impl_any!(MovableAccount<CountingAccount>: Sync);
type Local = Accounted<Global, std::rc::Rc<CountingAccount>>;
assert_not_impl_any!(CrossThreadArena<Trees, Local>: Send);
assert_not_impl_any!(FrozenArena<Trees, Local>: Send, Sync);

fn config(chunk: usize) -> ArenaConfig {
    ArenaConfig::builder().chunk_size(ByteSize::new(chunk)).build().unwrap()
}

fn tree<A: nebula_memory_core::Allocator>(arena: &Arena<A>, depth: usize) -> Tree<'_> {
    let width = if depth == 0 { 0 } else { 3 };
    Tree {
        name: arena.alloc_fmt(format_args!("depth {depth}")),
        children: arena.alloc_slice_with(width, |_| tree(arena, depth - 1)),
    }
}

fn count(tree: &Tree<'_>) -> usize {
    1 + tree.children.iter().map(count).sum::<usize>()
}

#[test]
fn a_graph_is_built_here_and_read_there() {
    let base = CountingAllocator::new();
    let built = CrossThreadArena::<Trees, _>::build_in(config(256), base.clone(), |arena| {
        arena.alloc(tree(arena, 5))
    })
    .unwrap();
    assert!(base.live_blocks() > 5);
    let (nodes, built) =
        thread::spawn(move || (built.with(|root| count(root)), built)).join().unwrap();
    assert_eq!(nodes, 364);
    assert_eq!(built.root().children[2].name, "depth 4");
    drop(built);
    base.assert_clean();
}

#[test]
fn all_memory_comes_from_the_allocator_and_is_reported() {
    let base = CountingAllocator::new();
    let mut built = CrossThreadArena::<Trees, _>::build_in(config(256), base.clone(), |arena| {
        arena.alloc(tree(arena, 4))
    })
    .unwrap();
    let whole = built.allocated_bytes() + CrossThreadArena::<Trees, CountingAllocator>::BOX_BYTES;
    assert_eq!(whole, base.live_bytes());
    let usage = built.usage();
    assert!(usage.used > 0 && usage.used < usage.allocated);
    let before = base.allocations();
    let frozen = built.freeze();
    let clones = [frozen.clone(), frozen.clone()];
    assert_eq!(base.allocations(), before);
    drop((frozen, clones));
    base.assert_clean();
}

#[test]
fn a_root_may_own_what_the_allocator_gave_out_beside_the_arena() {
    struct Beside;
    impl Family for Beside {
        type Of<'a> = Vec2<u64, &'a Charged>;
    }
    let (base, first, second) =
        (CountingAllocator::new(), CountingAccount::new(), CountingAccount::new());
    let allocator = Accounted::new(base.clone(), MovableAccount::new(first.clone()));
    let mut built = CrossThreadArena::<Beside, _>::build_in(config(256), allocator, |arena| {
        let mut beside = Vec2::new_in(arena.allocator());
        beside.extend(0..100);
        beside
    })
    .unwrap();
    assert_eq!(first.balance(), base.live_bytes());
    built.try_move_to(second.clone()).unwrap();
    assert_eq!((first.balance(), second.balance()), (0, base.live_bytes()));
    built.with_mut(|_, beside| beside.extend(0..1000));
    assert_eq!((first.balance(), second.balance()), (0, base.live_bytes()));
    drop(built);
    base.assert_clean();
    first.assert_settled();
    second.assert_settled();
}

#[test]
fn the_charge_moves_along_or_stays_whole() {
    let (producer, consumer) = (CountingAccount::new(), CountingAccount::with_limit(1000));
    let allocator = Accounted::new(CountingAllocator::new(), MovableAccount::new(producer.clone()));
    let mut built = CrossThreadArena::<Slices, _>::build_in(config(256), allocator, |arena| {
        arena.alloc_slice_with(200, |i| i as u64)
    })
    .unwrap();
    let bytes = producer.balance();
    assert_eq!(bytes, built.allocated_bytes() + CrossThreadArena::<Slices, Charged>::BOX_BYTES);
    // Refused: the account comes back, nothing has moved.
    let refused = built.try_move_to(consumer.clone()).unwrap_err();
    assert!(matches!(refused.error, MemoryError::CapacityExceeded { .. }), "{refused}");
    refused.into_value().assert_settled();
    assert_eq!((producer.balance(), consumer.balance()), (bytes, 0));
    // Granted.
    consumer.set_limit(bytes);
    let before = built.try_move_to(consumer.clone()).unwrap();
    assert_eq!((before.balance(), consumer.balance()), (0, bytes));
    // From now on the new account's limit counts, on another thread, too.
    let built = thread::spawn(move || {
        let mut built = built;
        let refused =
            built.with_mut(|arena, _| arena.try_alloc_slice_with(500, |_| 0_u64).is_err());
        assert!(refused);
        assert_eq!(built.with(|root| root.iter().sum::<u64>()), 19_900);
        built
    })
    .join()
    .unwrap();
    drop(built);
    producer.assert_settled();
    consumer.assert_settled();
}

#[test]
fn the_root_is_dropped_once_and_before_the_arena() {
    let (drops, base) = (DropCounter::new(), CountingAllocator::new());
    let build = || {
        CrossThreadArena::<Boxes, _>::build_in(config(256), base.clone(), |arena| {
            (arena.alloc_boxed(drops.probe(1)), drops.probe(2))
        })
        .unwrap()
    };
    // Freed memory is overwritten by the base, which the probes would find.
    drop(build());
    assert_eq!(drops.dropped(), [1, 2]);
    let frozen = build().freeze();
    let other = frozen.clone();
    drop(frozen);
    drops.assert_live(2);
    let Some(unfrozen) = other.into_inner() else { panic!("it was the last") };
    let mut arena = unfrozen.into_arena();
    drops.assert_all_dropped();
    arena.reset();
    drop(arena);
    base.assert_clean();
}

#[test]
fn building_goes_on_on_another_thread() {
    let lists = CrossThreadArena::<Slices>::build(|arena| arena.alloc_slice_fill(3, 1));
    let mut lists = thread::spawn(move || {
        let mut lists = lists;
        for _ in 0..1000 {
            lists.with_mut(|arena, root| {
                let last = root.last().copied().unwrap();
                *root = arena.alloc_slice_with(4, |i| last + i as u64);
            });
        }
        lists
    })
    .join()
    .unwrap();
    assert_eq!(lists.with(|root| root[0]), 2998);
    lists.with_mut(|_, root| root[0] = 7);
    assert_eq!(lists.with(|root| (root[0], root[3])), (7, 3001));
}

#[test]
fn a_growing_root_is_mapped_to_a_finished_one() {
    let base = CountingAllocator::new();
    let mut growing =
        CrossThreadArena::<GrowingIn, _>::build_in(config(256), base.clone(), Arena::vec).unwrap();
    growing.with_mut(|_, numbers| numbers.extend(0..1000));
    let finished = growing.map::<Slices>(|_, numbers| numbers.into_slice()).unwrap();
    let finished = finished.freeze();
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let finished = finished.clone();
            thread::spawn(move || finished.with(|numbers| numbers.iter().sum::<u64>()))
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.join().unwrap(), 499_500);
    }
    drop(finished);
    base.assert_clean();
}

impl CovariantFamily for Slices {
    fn shorten<'s, 'l: 's>(of: &'s Self::Of<'l>) -> &'s Self::Of<'s> {
        of
    }
}

#[test]
fn moving_the_value_leaves_mutable_references_in_the_root_alone() {
    // Under Miri, a move that retagged what is inside of the root would be found here.
    fn pass<T>(value: T) -> T {
        value
    }
    let mut built = CrossThreadArena::<Slices>::build(|arena| arena.alloc_slice_fill(4, 1));
    for i in 0..4 {
        built = pass(pass(built));
        built.with_mut(|_, root| root[i] += 1);
        let boxed = Box::new(built);
        assert_eq!(boxed.root()[i], 2);
        built = *boxed;
    }
    let frozen = pass(built.freeze());
    let other = pass(frozen.clone());
    assert_eq!((frozen.root().len(), other.root()[3]), (4, 2));
    drop(frozen);
    let mut built = pass(other).try_unfreeze().unwrap();
    built.with_mut(|_, root| root[0] = 9);
    assert_eq!(built.root()[0], 9);
}

#[test]
fn the_last_of_many_handles_ends_it() {
    watchdog(Duration::from_secs(60), || {
        for round in 0..200 {
            let (base, drops) = (CountingAllocator::new(), DropCounter::new());
            let built =
                CrossThreadArena::<Boxes, _>::build_in(config(256), base.clone(), |arena| {
                    (arena.alloc_boxed(drops.probe(1)), drops.probe(2))
                })
                .unwrap();
            let frozen = built.freeze();
            let start = Barrier::new(4);
            let winners = Mutex::new(0);
            thread::scope(|s| {
                for _ in 0..4 {
                    let frozen = frozen.clone();
                    s.spawn(|| {
                        start.wait();
                        let frozen = frozen;
                        assert_eq!(frozen.with(|root| root.1.tag()), 2);
                        if round % 2 == 0 {
                            drop(frozen);
                        } else if let Some(unfrozen) = frozen.into_inner() {
                            *winners.lock().unwrap() += 1;
                            drop(unfrozen);
                        }
                    });
                }
                drop(frozen);
            });
            assert!(*winners.lock().unwrap() <= 1);
            drops.assert_all_dropped();
            base.assert_clean();
        }
    });
}

#[test]
fn only_the_last_handle_can_be_unfrozen() {
    let frozen = CrossThreadArena::<Trees>::build(|arena| arena.alloc(tree(arena, 1))).freeze();
    let other = frozen.clone();
    assert!(frozen.is_same(&other));
    let frozen = frozen.try_unfreeze().unwrap_err();
    assert!(other.into_inner().is_none());
    let built = frozen.try_unfreeze().unwrap();
    assert_eq!(count(built.root()), 4);
}

#[test]
fn an_allocator_may_be_borrowed() {
    let base = CountingAllocator::new();
    let built = CrossThreadArena::<Slices, _>::build_in(config(256), &base, |arena| {
        arena.alloc_slice_fill(100, 3)
    })
    .unwrap();
    let sum = thread::scope(|s| s.spawn(|| built.root().iter().sum::<u64>()).join().unwrap());
    assert_eq!(sum, 300);
    let frozen = built.freeze();
    assert_eq!(frozen.clone().root()[99], 3);
    drop(frozen);
    base.assert_clean();
}

#[test]
fn a_family_may_name_what_lives_outside() {
    struct Outside<'x>(std::marker::PhantomData<&'x ()>);
    impl<'x> Family for Outside<'x> {
        type Of<'a> = (&'a [u64], &'x RefCell<Vec<u64>>);
    }
    let log = RefCell::new(vec![]);
    {
        let built =
            CrossThreadArena::<Outside<'_>>::build(|arena| (&*arena.alloc_slice_fill(2, 3), &log));
        built.with(|(numbers, log)| log.borrow_mut().extend_from_slice(numbers));
    }
    assert_eq!(*log.borrow(), [3, 3]);
}
