//! This thread's scratch: nesting, keeping, charging, panics, and the end of a thread.

use std::{
    cell::RefCell,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use nebula_arena::{Arena, LocalArena, LocalChunks};
use nebula_memory_core::{
    Accounted, Allocator, ByteSize, MemoryError, allocator_api2::vec::Vec as AVec,
};
use nebula_testing::{
    CountingAccount, RefusingAccount, catch,
    conformance::{AllocatorOptions, allocator_conformance_with, shared_allocator_conformance},
};
use static_assertions::assert_impl_all;

assert_impl_all!(LocalChunks: Send, Sync, Copy, Allocator);

const FIRST: usize = 32 << 10;

#[test]
fn scopes_nest_through_functions_that_know_nothing_of_each_other() {
    fn count(depth: usize, outer: &[usize]) -> usize {
        LocalArena::scope(|scratch| {
            let mine = scratch.alloc_slice_fill(1000, depth);
            let below = if depth == 0 { 0 } else { count(depth - 1, mine) };
            assert!(outer.iter().all(|&value| value == depth + 1));
            assert!(mine.iter().all(|&value| value == depth));
            below + mine.len()
        })
    }
    assert_eq!(count(6, &[7]), 7000);
    assert_eq!(LocalArena::kept(), 7 * FIRST);
    assert_eq!(count(6, &[7]), 7000);
    let stats = LocalArena::stats();
    assert_eq!((stats.blocks, stats.served, stats.missed), (7, 7, 7));
    assert_eq!(LocalArena::trim(), 7 * FIRST);
    assert_eq!(LocalArena::kept(), 0);
}

#[test]
fn values_collections_and_scopes_inside() {
    let total = LocalArena::scope(|scratch| {
        let kept = scratch.alloc(1);
        let text = scratch.alloc_str("abc");
        let inner = scratch.scope(|inner| {
            let mut numbers = AVec::new_in(&*inner);
            numbers.extend(0..1000);
            *kept += 1;
            numbers.len()
        });
        let mut words = scratch.vec();
        words.extend(["x", "y"]);
        inner + *kept + text.len() + words.len()
    });
    assert_eq!(total, 1007);
}

#[test]
fn an_empty_scope_takes_nothing() {
    LocalArena::scope(|_| ());
    assert_eq!(LocalArena::stats(), nebula_arena::StoreStats::default());
}

#[test]
fn ordinary_scratch_takes_one_chunk_or_two() {
    let count = |bytes: usize| {
        LocalArena::scope(|scratch| {
            for _ in 0..bytes / 64 {
                scratch.alloc([0_u64; 8]);
            }
            scratch.usage().chunks
        })
    };
    assert_eq!((count(1000), count(30_000), count(90_000)), (1, 1, 2));
}

#[test]
fn a_panic_leaves_all_as_it_was() {
    LocalArena::scope(|outer| {
        let kept = outer.alloc(5);
        let panicked = catch(|| {
            LocalArena::scope(|scratch| {
                scratch.alloc_slice_fill(10_000, 1_u64);
                panic!("in a scope");
            })
        });
        assert_eq!(panicked.unwrap_err(), "in a scope");
        assert!(LocalArena::kept() >= 80_000);
        assert_eq!(*kept, 5);
    });
    let missed = LocalArena::stats().missed;
    LocalArena::scope(|scratch| *scratch.alloc(1));
    assert_eq!(LocalArena::stats().missed, missed);
}

#[test]
fn no_more_is_kept_than_was_set() {
    let work = || {
        LocalArena::scope(|scratch| {
            scratch.alloc_slice_fill(1000, 1_u8);
            LocalArena::scope(|scratch| *scratch.alloc(1));
        });
    };
    LocalArena::set_keep(ByteSize::new(FIRST));
    work();
    assert_eq!(LocalArena::kept(), FIRST);
    LocalArena::set_keep(ByteSize::new(FIRST - 1));
    assert_eq!(LocalArena::kept(), 0);
    work();
    assert_eq!(LocalArena::kept(), 0);
    LocalArena::set_keep(ByteSize::new(2 * FIRST));
    work();
    assert_eq!(LocalArena::kept(), 2 * FIRST);
    // Of other threads, nothing is said.
    thread::spawn(move || {
        work();
        work();
        assert_eq!(LocalArena::kept(), 2 * FIRST);
        LocalArena::scope(|scratch| scratch.alloc_slice_fill(200_000, 1_u8).len());
        assert!(LocalArena::kept() > 4 * FIRST);
    })
    .join()
    .unwrap();
}

#[test]
fn a_tenants_scratch_is_charged_while_it_runs() {
    let (outer, inner) = (CountingAccount::new(), CountingAccount::new());
    LocalArena::scope_in(outer.clone(), |scratch| {
        assert_eq!(outer.balance(), 0);
        scratch.alloc(1);
        assert_eq!(outer.balance(), FIRST);
        LocalArena::scope_in(inner.clone(), |scratch| {
            scratch.alloc_slice_fill(100_000, 1_u8);
            assert_eq!((outer.balance(), inner.balance()), (FIRST, scratch.usage().allocated));
        });
        inner.assert_settled();
        LocalArena::scope(|scratch| *scratch.alloc(2)); // nobody's
        assert_eq!(outer.balance(), FIRST);
    });
    outer.assert_settled();
    assert!(LocalArena::kept() > FIRST);
    let panicked = catch(|| {
        LocalArena::scope_in(&outer, |scratch| {
            scratch.alloc(1);
            panic!("in a scope");
        })
    });
    assert!(panicked.is_err());
    outer.assert_settled();
}

#[test]
fn what_the_account_refuses_is_refused_in_the_scope() {
    let account = CountingAccount::with_limit(10_000);
    let refused = LocalArena::scope_in(&account, |scratch| {
        // A smaller chunk is taken where the first does not fit.
        assert_eq!(*scratch.try_alloc(7)?, 7);
        assert!(account.balance() <= 10_000);
        let refused = scratch.try_alloc([1_u8; 12_000]).unwrap_err();
        assert_eq!(refused.value[11_999], 1);
        scratch.try_alloc_slice_fill(20_000, 1_u8).map(|_| ())
    });
    assert!(matches!(refused, Err(MemoryError::CapacityExceeded { .. })));
    account.assert_settled();
    for n in 0.. {
        let account = RefusingAccount::new(CountingAccount::new());
        account.refuse_at(n);
        LocalArena::scope_in(&account, |scratch| {
            for _ in 0..50 {
                _ = scratch.try_alloc([0_u8; 5000]);
            }
        });
        account.get_ref().assert_settled();
        if !account.tripped() {
            assert!(n > 1);
            break;
        }
    }
}

#[test]
fn an_allocator_like_any_other() {
    let settled = |_: &LocalChunks| {
        LocalArena::trim();
        assert_eq!(LocalArena::kept(), 0);
    };
    for keep in [0, 10_000, 1 << 20] {
        LocalArena::set_keep(ByteSize::new(keep));
        allocator_conformance_with(AllocatorOptions::default(), || LocalChunks, settled);
    }
    // Blocks may be freed on any thread.
    shared_allocator_conformance(AllocatorOptions::default(), || LocalChunks, settled);
}

#[test]
fn arenas_of_this_threads_chunks_may_move() {
    let arena = Arena::new_in(LocalChunks);
    arena.alloc(1);
    thread::spawn(move || {
        drop(arena);
        assert_eq!(LocalArena::kept(), 4096);
    })
    .join()
    .unwrap();
    assert_eq!(LocalArena::kept(), 0);
}

static ENDED: AtomicUsize = AtomicUsize::new(0);

/// Uses scratch memory when its thread ends.
struct AtTheEnd;

impl Drop for AtTheEnd {
    fn drop(&mut self) {
        let sum = LocalArena::scope(|scratch| {
            let numbers = scratch.alloc_slice_with(10_000, |i| i);
            LocalArena::scope(|scratch| *scratch.alloc(1)) + numbers.iter().sum::<usize>()
        });
        assert_eq!(sum, 49_995_001);
        LocalArena::trim();
        LocalArena::set_keep(ByteSize::kib(1));
        assert!(LocalArena::stats().bytes <= 1024);
        ENDED.fetch_add(1, SeqCst);
    }
}

thread_local! {
    static BEFORE: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
    static AFTER: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
    static HOLDS: RefCell<Option<Arena<LocalChunks>>> = const { RefCell::new(None) };
}

#[test]
fn scopes_work_while_the_thread_ends() {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _lock = ONE_AT_A_TIME.lock();
    for _ in 0..3 {
        thread::spawn(|| {
            // Destructors run in no particular order: one is registered on either side of the
            // store's own.
            BEFORE.set(Some(AtTheEnd));
            HOLDS.set(Some(Arena::new_in(LocalChunks)));
            LocalArena::scope(|scratch| *scratch.alloc(1));
            HOLDS.with_borrow(|arena| {
                assert!(arena.as_ref().is_some_and(|arena| *arena.alloc(1) == 1));
            });
            AFTER.set(Some(AtTheEnd));
        })
        .join()
        .unwrap();
    }
    assert_eq!(ENDED.load(SeqCst), 6);
}

#[test]
fn accounts_are_charged_for_nothing_that_is_kept() {
    let account = CountingAccount::new();
    for _ in 0..10 {
        let arena = Arena::new_in(Accounted::new(LocalChunks, account.clone()));
        arena.alloc(1);
    }
    account.assert_settled();
    assert_eq!((account.charges(), LocalArena::stats().missed), (10, 1));
}
