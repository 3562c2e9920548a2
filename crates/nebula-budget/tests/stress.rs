//! Many threads on one tree: capacities hold at every instant, and the books end at zero.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use nebula_budget::{Account, BudgetConfig, LocalBudget, MemoryBudget, Reservation};
use nebula_testing::watchdog;

/// A small generator of numbers, so that runs are the same.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below
    }
}

/// The ways to charge a budget.
enum Charger {
    Shared(MemoryBudget),
    Local(LocalBudget),
    Reserved(Reservation),
}

impl Charger {
    /// One of the three, by turns.
    fn new(budget: &MemoryBudget, turn: usize) -> Self {
        match turn % 3 {
            0 => Self::Shared(budget.clone()),
            1 => Self::Local(budget.local()),
            _ => Self::Reserved(budget.try_reserve(0).unwrap()),
        }
    }

    fn try_charge(&mut self, bytes: usize) -> bool {
        match self {
            Self::Shared(budget) => budget.try_charge(bytes).is_ok(),
            Self::Local(local) => local.try_charge(bytes).is_ok(),
            Self::Reserved(reservation) => reservation.try_grow(bytes).is_ok(),
        }
    }

    fn credit(&mut self, bytes: usize) {
        match self {
            Self::Shared(budget) => budget.credit(bytes),
            Self::Local(local) => local.credit(bytes),
            Self::Reserved(reservation) => assert_eq!(reservation.shrink(bytes), bytes),
        }
    }
}

fn chain(root: &MemoryBudget, depth: usize, capacity: usize, guaranteed: usize) -> MemoryBudget {
    let config =
        BudgetConfig::builder(capacity.into()).guaranteed(guaranteed.into()).build().unwrap();
    let mut budget = root.clone();
    for level in 0..depth {
        budget = budget.child_with(&format!("l{level}"), &config).unwrap();
    }
    budget
}

fn stress(threads: usize, depth: usize, capacity: usize, rounds: usize) {
    let root = MemoryBudget::root("root", capacity).unwrap();
    // Independent books: what the threads really hold at any moment.
    let held = AtomicUsize::new(0);
    let refused = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    let start = Barrier::new(threads);
    std::thread::scope(|s| {
        let observer = s.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(root.committed() <= capacity);
                assert!(root.used() <= capacity);
            }
        });
        let workers: Vec<_> = (0..threads)
            .map(|t| {
                let (root, held, refused, start) = (&root, &held, &refused, &start);
                s.spawn(move || {
                    let leaf = chain(root, depth, capacity, capacity / threads / 8);
                    let mut charger = Charger::new(&leaf, t);
                    let mut numbers = Numbers(t as u64);
                    let mut mine = vec![];
                    start.wait();
                    for _ in 0..rounds {
                        // More charges than credits, so that the limit is reached.
                        if mine.is_empty() || numbers.next(5) < 3 {
                            // Mostly small ones, which owners cover by themselves.
                            let most = [100, 100, 1000, capacity / 16][numbers.next(4)];
                            let bytes = numbers.next(most);
                            if charger.try_charge(bytes) {
                                let now = held.fetch_add(bytes, Ordering::SeqCst) + bytes;
                                assert!(now <= capacity, "{now} of {capacity} are held");
                                mine.push(bytes);
                            } else {
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                        } else {
                            let bytes = mine.swap_remove(numbers.next(mine.len()));
                            held.fetch_sub(bytes, Ordering::SeqCst);
                            charger.credit(bytes);
                        }
                    }
                    // However the threads were scheduled, the limit is reached now.
                    while charger.try_charge(capacity / 16) {
                        held.fetch_add(capacity / 16, Ordering::SeqCst);
                        mine.push(capacity / 16);
                    }
                    refused.fetch_add(1, Ordering::Relaxed);
                    for bytes in mine {
                        held.fetch_sub(bytes, Ordering::SeqCst);
                        charger.credit(bytes);
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        observer.join().unwrap();
    });
    assert!(refused.load(Ordering::Relaxed) >= threads);
    assert_eq!((root.used(), root.committed()), (0, 0), "{root}");
    assert!(root.peak() <= capacity);
}

#[test]
fn capacities_hold_under_many_threads_at_every_depth() {
    watchdog(Duration::from_secs(120), || {
        stress(100, 1, 1 << 20, 200);
        stress(32, 4, 10 << 20, 500);
        stress(16, 8, 100 << 20, 500);
    });
}

#[test]
fn a_charge_that_fits_is_never_refused_however_the_others_move() {
    // Each thread holds at most its share (and ten bytes), so that there is always room for everybody; what the
    // others have lying around unspent must not get in the way.
    const THREADS: usize = 16;
    const SHARE: usize = 100_000;
    watchdog(Duration::from_secs(120), || {
        let root = MemoryBudget::root("root", THREADS * (SHARE + 10)).unwrap();
        std::thread::scope(|s| {
            for t in 0..THREADS {
                let root = &root;
                s.spawn(move || {
                    let leaf = chain(root, 1 + t % 4, THREADS * (SHARE + 10), 0);
                    let mut charger = Charger::new(&leaf, t);
                    let mut numbers = Numbers(t as u64);
                    for _ in 0..300 {
                        let first = numbers.next(SHARE);
                        assert!(charger.try_charge(first));
                        for _ in 0..10 {
                            assert!(charger.try_charge(10));
                            charger.credit(10);
                        }
                        assert!(charger.try_charge(SHARE - first));
                        charger.credit(SHARE);
                    }
                });
            }
        });
        assert_eq!((root.used(), root.committed()), (0, 0), "{root}");
    });
}

#[test]
fn children_come_and_go_while_others_charge() {
    watchdog(Duration::from_secs(120), || {
        let root = MemoryBudget::root("root", 1 << 20).unwrap();
        std::thread::scope(|s| {
            for t in 0..8 {
                let root = &root;
                s.spawn(move || {
                    let mut numbers = Numbers(t);
                    for i in 0..200 {
                        let Ok(child) = root.child(&format!("c{i}"), 1 + numbers.next(200_000))
                        else {
                            continue;
                        };
                        let reservation = child.try_reserve(child.capacity()).unwrap();
                        let account = child.account();
                        drop(child);
                        assert!(account.try_charge(1).is_err());
                        drop(reservation);
                    }
                });
            }
        });
        assert_eq!((root.used(), root.committed()), (0, 0), "{root}");
        assert!(root.snapshot().children.is_empty());
    });
}
