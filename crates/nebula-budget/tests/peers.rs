//! Defects that were reproduced in other budgets and memory pools, each as a test that this one
//! does not have it. What was seen elsewhere is told in the comment above each test.

use std::{
    alloc::Layout,
    ptr::NonNull,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use hashbrown::HashMap;
use nebula_budget::{Account, BudgetConfig, LocalBudget, MemoryBudget};
use nebula_memory_core::allocator_api2::{alloc::Allocator, boxed::Box, vec::Vec};
use nebula_testing::{Rng, watchdog};

const MIB: usize = 1 << 20;

/// A child that may have all that its parent has, and owns nothing.
fn borrower(parent: &MemoryBudget, name: &str) -> MemoryBudget {
    let config = BudgetConfig::builder(parent.capacity().into()).guaranteed(0.into());
    parent.child_with(name, &config.build().unwrap()).unwrap()
}

/// A fair pool of 100 MiB divides by the number of consumers at the moment of a request: the first
/// one takes all of it, and a late joiner is granted its half on top, so that 150 MiB are reserved.
#[test]
fn a_late_joiner_gets_what_is_left_and_the_pool_is_not_over_committed() {
    let pool = MemoryBudget::root("pool", 100 * MIB).unwrap();
    let early = borrower(&pool, "early");
    let all = early.try_reserve(100 * MIB).unwrap();
    let late = borrower(&pool, "late");
    assert!(late.try_reserve(50 * MIB).is_err());
    assert!(late.try_reserve(1).is_err());
    assert_eq!((pool.used(), pool.committed(), pool.peak()), (100 * MIB, 100 * MIB, 100 * MIB));
    drop(all);
    assert_eq!(late.try_reserve(100 * MIB).unwrap().bytes(), 100 * MIB);
    assert_eq!((pool.used(), pool.peak()), (0, 100 * MIB));
}

/// The same pool with several reservations of one consumer (siblings that share a share): each may
/// grow to the whole share, so that 200 MiB of 100 are reserved.
#[test]
fn siblings_share_one_capacity_in_whatever_order_they_come() {
    let pool = MemoryBudget::root("pool", 100 * MIB).unwrap();
    let mut rng = Rng::new(1);
    let consumers: std::vec::Vec<_> = (0..4).map(|i| borrower(&pool, &format!("c{i}"))).collect();
    let mut siblings: std::vec::Vec<_> =
        (0..16).map(|i| consumers[i % 4].try_reserve(0).unwrap()).collect();
    let mut granted = 0;
    for _ in 0..2000 {
        let sibling = &mut siblings[rng.below(16)];
        if rng.one_in(3) {
            granted -= sibling.shrink(rng.below(10 * MIB));
        } else {
            let more = rng.below(10 * MIB);
            let fits = granted + more <= 100 * MIB;
            assert_eq!(sibling.try_grow(more).is_ok(), fits, "{granted} + {more}");
            granted += if fits { more } else { 0 };
        }
        assert_eq!(pool.used(), granted);
        assert!(pool.committed() <= 100 * MIB);
    }
    drop(siblings);
    assert_eq!(pool.used(), 0);
}

/// A greedy pool adds without a check in release builds: growing a reservation of 10 bytes by
/// `usize::MAX - 5` returns `Ok`, and the counter has wrapped to 4.
// (On 32-bit targets a budget can hold all that a number can say.)
#[cfg(target_pointer_width = "64")]
#[test]
fn growing_by_nearly_all_of_usize_is_refused_and_the_counter_does_not_wrap() {
    for capacity in [1000, MIB, usize::MAX] {
        let root = MemoryBudget::root("root", capacity).unwrap();
        let child = borrower(&root, "child");
        let mut held = child.try_reserve(10).unwrap();
        for more in [usize::MAX, usize::MAX - 5, usize::MAX - 10, usize::MAX / 2 + 1] {
            assert!(held.try_grow(more).is_err(), "{more} of {capacity}");
            assert!(child.try_charge(more).is_err(), "{more} of {capacity}");
            assert!(root.try_reserve(more).is_err(), "{more} of {capacity}");
            assert_eq!((held.bytes(), child.used(), root.used()), (10, 10, 10));
        }
        // The same through funds of its own.
        let local = child.local();
        local.try_charge(10).unwrap();
        assert!(local.try_charge(usize::MAX - 5).is_err());
        assert_eq!((local.charged(), root.used()), (10, 20));
        local.credit(10);
        drop((held, local));
        assert_eq!((root.used(), root.snapshot().over_credited), (0, 0));
    }
}

/// A limit that is compared first and added to afterwards lets two threads through together: over
/// the limit millions of times within seconds. Here what is held is counted independently.
#[test]
fn two_threads_never_hold_more_than_the_limit_together() {
    const LIMIT: usize = 1000;
    const ROUNDS: usize = 30_000;

    /// Charges up to the limit and back; returns how often it was granted.
    fn race(account: &impl Account, held: &AtomicUsize, bytes: usize) -> usize {
        let mut granted = 0;
        for _ in 0..ROUNDS {
            if account.try_charge(bytes).is_ok() {
                // Counted after the charge and uncounted before the credit: never above what the
                // budget has granted.
                let now = held.fetch_add(bytes, SeqCst) + bytes;
                assert!(now <= LIMIT, "{now} of {LIMIT} are held");
                granted += 1;
                held.fetch_sub(bytes, SeqCst);
                account.credit(bytes);
            }
        }
        granted
    }

    watchdog(Duration::from_secs(120), || {
        // Each alone fits, both together never: the limit is reached all the time.
        let bytes = LIMIT / 2 + 1;
        let root = MemoryBudget::root("root", LIMIT).unwrap();
        let (a, b) = (borrower(&root, "a"), borrower(&root, "b"));
        for accounts in [[root.clone(), root.clone()], [a.clone(), a.clone()], [a.clone(), b]] {
            let (held, start) = (AtomicUsize::new(0), Barrier::new(2));
            let granted: usize = std::thread::scope(|s| {
                let race = |account: MemoryBudget| {
                    let (held, start) = (&held, &start);
                    s.spawn(move || {
                        start.wait();
                        race(&account, held, bytes)
                    })
                };
                accounts.map(race).into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert!(granted > 0);
            assert_eq!(root.used(), 0);
        }
        // Two owners with funds of their own.
        let (held, start) = (AtomicUsize::new(0), Barrier::new(2));
        std::thread::scope(|s| {
            for local in [a.local(), root.local()] {
                let (held, start) = (&held, &start);
                s.spawn(move || {
                    start.wait();
                    race(&local, held, bytes);
                });
            }
        });
        assert_eq!(root.used(), 0);
    });
}

/// A tracker that adds to itself first and then asks its parent forgets to take that back when the
/// parent refuses: each refusal makes the child's figure larger.
#[test]
fn a_refusal_by_the_parent_leaves_nothing_charged_at_the_child() {
    let root = MemoryBudget::root("root", 1000).unwrap();
    let middle = borrower(&root, "middle");
    let leaf = borrower(&middle, "leaf");
    let held = root.try_reserve(900).unwrap();
    let local = leaf.local();
    for _ in 0..1000 {
        assert!(leaf.try_charge(101).is_err());
        assert!(leaf.try_reserve(101).is_err());
        assert!(local.try_charge(101).is_err());
        assert!(middle.try_charge(101).is_err());
    }
    assert_eq!((leaf.used(), middle.used(), root.used()), (0, 0, 900));
    assert_eq!((leaf.charges(), middle.charges(), local.charged()), (0, 0, 0));
    assert!(leaf.peak() <= 100, "{} were charged to the leaf at one time", leaf.peak());
    assert_eq!((root.refusals(), leaf.refusals()), (4000, 0), "the level without room refuses");
    // All that is left is there to the byte, at the leaf.
    assert_eq!(leaf.try_reserve(100).unwrap().bytes(), 100);
    drop((held, local));
    assert_eq!((root.used(), root.snapshot().used), (0, 0));
}

/// Figures that threads flush with rounding, or that lose what a thread held when it ended, drift;
/// and a drift is never corrected, until a tenant without a byte is at its limit. Here threads come
/// and go, what one charges another credits, and the books are exact after each round.
#[test]
fn the_books_do_not_drift_however_threads_come_and_go() {
    watchdog(Duration::from_secs(120), || {
        let root = MemoryBudget::root("root", 10 * MIB).unwrap();
        let tenant = borrower(&root, "tenant");
        let mut expected = 0;
        let mut inherited = std::vec::Vec::new();
        for round in 0..60 {
            let charged: std::vec::Vec<usize> = std::thread::scope(|s| {
                let threads: std::vec::Vec<_> = (0..4_u64)
                    .map(|t| {
                        let tenant = &tenant;
                        s.spawn(move || {
                            let mut rng = Rng::new(round * 4 + t);
                            let local = tenant.local();
                            for _ in 0..200 {
                                let bytes = 1 + rng.below(3000);
                                if local.try_charge(bytes).is_ok() && !rng.one_in(50) {
                                    local.credit(bytes);
                                }
                            }
                            // The thread ends and leaves something charged.
                            local.charged()
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            expected += charged.iter().sum::<usize>();
            inherited.extend(charged);
            assert_eq!((tenant.used(), root.used()), (expected, expected), "round {round}");
            // What earlier threads left behind is credited by this one.
            if round % 3 == 0 {
                for bytes in inherited.drain(..) {
                    tenant.credit(bytes);
                    expected -= bytes;
                }
                assert_eq!((tenant.used(), root.used()), (expected, expected), "round {round}");
            }
        }
        for bytes in inherited {
            tenant.credit(bytes);
        }
        assert_eq!((tenant.used(), root.used()), (0, 0));
        // Nothing is missing: all of it can be had at once.
        assert_eq!(tenant.try_reserve(10 * MIB).unwrap().bytes(), 10 * MIB);
        assert_eq!(root.snapshot().over_credited, 0);
    });
}

/// With 4 MiB of unaccounted slack for each thread, 10,000 threads have 40 GiB that no limit sees.
/// Here the slack of all owners together is a fraction of the capacity, counts as committed, and is
/// there for whoever needs it.
#[test]
fn the_slack_of_ten_thousand_owners_is_a_fraction_of_the_capacity_and_can_be_collected() {
    const OWNERS: usize = 10_000;
    const CAPACITY: usize = 64 * MIB;
    watchdog(Duration::from_secs(120), || {
        let root = MemoryBudget::root("root", CAPACITY).unwrap();
        let owners: std::vec::Vec<LocalBudget> = (0..OWNERS).map(|_| root.local()).collect();
        let slack = || root.committed() - root.used();
        for _ in 0..3 {
            for owner in &owners {
                owner.try_charge(16).unwrap();
                owner.credit(16);
                owner.try_charge(16).unwrap();
            }
            assert!(slack() <= CAPACITY / 8, "{} of {CAPACITY} are slack", slack());
            assert!(root.committed() <= CAPACITY);
        }
        let used = 3 * 16 * OWNERS;
        assert_eq!(root.used(), used);
        // To the last byte.
        let rest = root.try_reserve(CAPACITY - used).unwrap();
        assert_eq!((slack(), root.committed()), (0, CAPACITY));
        assert!(owners[0].try_charge(1).is_err());
        drop(rest);
        owners[0].try_charge(1).unwrap();
        owners[0].credit(1);
        for owner in &owners {
            owner.credit(3 * 16);
        }
        assert_eq!(root.used(), 0);
        drop(owners);
        assert_eq!(root.committed(), 0);
    });
}

/// As above, with the owners spread over tenants that may each have everything.
#[test]
fn the_slack_of_owners_in_many_tenants_is_bounded_too() {
    const CAPACITY: usize = 64 * MIB;
    watchdog(Duration::from_secs(120), || {
        let root = MemoryBudget::root("root", CAPACITY).unwrap();
        let tenants: std::vec::Vec<_> =
            (0..100).map(|i| borrower(&root, &format!("t{i}"))).collect();
        let owners: std::vec::Vec<LocalBudget> =
            tenants.iter().flat_map(|tenant| (0..20).map(|_| tenant.local())).collect();
        for owner in &owners {
            owner.try_charge(16).unwrap();
        }
        assert_eq!(root.used(), 16 * owners.len());
        assert!(root.committed() <= CAPACITY);
        let rest = root.try_reserve(CAPACITY - 16 * owners.len()).unwrap();
        assert_eq!(root.committed(), CAPACITY);
        drop(rest);
        for owner in &owners {
            owner.credit(16);
        }
        drop(owners);
        assert_eq!(root.used(), 0);
        drop(tenants);
        assert_eq!(root.committed(), 0);
    });
}

/// An allocator that panics or aborts inside `alloc` when the limit is passed makes `try_reserve`
/// useless: the process ends where an error was asked for.
#[test]
fn a_refusal_inside_an_allocator_is_an_error_that_try_reserve_returns() {
    let root = MemoryBudget::root("root", 10_000).unwrap();
    let tenant = root.child("tenant", 5000).unwrap();
    let mut bytes: Vec<u8, _> = Vec::new_in(tenant.allocator());
    assert!(bytes.try_reserve_exact(5001).is_err());
    assert!(bytes.try_reserve(usize::MAX / 2).is_err());
    bytes.try_reserve_exact(4000).unwrap();
    assert!(bytes.try_reserve_exact(5001).is_err(), "growing is refused as well");
    assert_eq!((bytes.capacity(), tenant.used()), (4000, 4000));

    let mut map: HashMap<u64, u64, _, _> =
        HashMap::with_hasher_in(hashbrown::DefaultHashBuilder::default(), tenant.allocator());
    assert!(map.try_reserve(1000).is_err());
    assert_eq!((map.capacity(), tenant.used()), (0, 4000));

    let local = tenant.local();
    assert!(Box::try_new_in([0_u8; 1001], local.allocator()).is_err());
    assert!(Box::try_new_in([0_u8; 1000], local.allocator()).is_ok());
    assert_eq!(root.refusals(), 0, "the tenant's own limit was the one");
    drop((bytes, map, local));
    assert_eq!((tenant.used(), root.used()), (0, 0));
}

/// Tracking allocators without `alloc_zeroed` and `realloc` of their own zero by hand and copy on
/// each growth (20 times 32 MiB: half a second instead of none), and charge old and new block at
/// once. Here a growth charges the difference, so that it succeeds where both would not fit.
#[test]
fn growing_charges_the_difference_and_zeroed_blocks_are_charged_once() {
    let root = MemoryBudget::root("root", 1000).unwrap();
    let allocator = root.allocator();
    let layout = |size| Layout::from_size_align(size, 8).unwrap();

    let block: NonNull<u8> = allocator.allocate_zeroed(layout(600)).unwrap().cast();
    assert_eq!((root.used(), root.peak()), (600, 600));
    // SAFETY: the block is live and was allocated with this layout; the new one is larger.
    let block: NonNull<u8> =
        unsafe { allocator.grow_zeroed(block, layout(600), layout(1000)) }.unwrap().cast();
    assert_eq!((root.used(), root.peak()), (1000, 1000));
    // SAFETY: `grow_zeroed` returned 1000 bytes, all of them initialised.
    let contents = unsafe { std::slice::from_raw_parts(block.as_ptr(), 1000) };
    assert!(contents.iter().all(|byte| *byte == 0));
    // SAFETY: the block is live and has 1000 bytes; the new layout is larger.
    let refused = unsafe { allocator.grow(block, layout(1000), layout(1001)) };
    assert!(refused.is_err());
    assert_eq!(root.used(), 1000, "the block is as it was");
    // SAFETY: the refused growth left the block as it was; the new layout is smaller.
    let block: NonNull<u8> =
        unsafe { allocator.shrink(block, layout(1000), layout(100)) }.unwrap().cast();
    assert_eq!(root.used(), 100);
    // SAFETY: the block is live and has 100 bytes.
    unsafe { allocator.deallocate(block, layout(100)) };
    assert_eq!((root.used(), root.peak()), (0, 1000));
}

/// As above, seen from a vector that doubles: it needs its new size, never the sum of both.
#[test]
fn a_vector_may_grow_to_the_whole_budget() {
    let root = MemoryBudget::root("root", 64 * MIB).unwrap();
    let mut bytes: Vec<u8, _> = Vec::new_in(root.allocator());
    for size in [MIB, 33 * MIB, 64 * MIB] {
        bytes.try_reserve_exact(size).unwrap();
        assert_eq!((root.used(), root.peak()), (size, size));
    }
    assert!(bytes.try_reserve_exact(64 * MIB + 1).is_err());
    bytes.shrink_to(0);
    assert_eq!((root.used(), root.peak()), (0, 64 * MIB));
}
