//! Reclaimers are asked before a budget refuses, in order, and never twice at once.

use std::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicUsize, Ordering},
};

use nebula_budget::{Account, BudgetConfig, MemoryBudget};
use nebula_memory_core::{PressureLevel, Reclaim, Registration};

/// Holds bytes charged to a budget, and gives them back when asked.
struct Spare {
    name: &'static str,
    budget: MemoryBudget,
    held: AtomicUsize,
    log: Arc<Mutex<Vec<&'static str>>>,
}

impl Reclaim for Spare {
    fn reclaimable(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        assert_eq!(urgency, PressureLevel::Critical);
        self.log.lock().unwrap().push(self.name);
        // A charge inside a reclaim is refused at once; it must not come back here.
        assert!(self.budget.try_charge(self.budget.capacity()).is_err());
        let given = wanted.min(self.reclaimable());
        self.held.fetch_sub(given, Ordering::Relaxed);
        self.budget.credit(given);
        given
    }
}

struct Fixture {
    root: MemoryBudget,
    log: Arc<Mutex<Vec<&'static str>>>,
}

impl Fixture {
    fn new(capacity: usize) -> Self {
        Self { root: MemoryBudget::root("root", capacity).unwrap(), log: Arc::default() }
    }

    fn borrower(&self, name: &str) -> MemoryBudget {
        let capacity = self.root.capacity();
        let config = BudgetConfig::builder(capacity.into()).guaranteed(0.into()).build().unwrap();
        self.root.child_with(name, &config).unwrap()
    }

    fn spare(
        &self,
        name: &'static str,
        budget: &MemoryBudget,
        bytes: usize,
    ) -> (Arc<Spare>, Registration) {
        budget.try_charge(bytes).unwrap();
        let spare = Arc::new(Spare {
            name,
            budget: budget.clone(),
            held: AtomicUsize::new(bytes),
            log: Arc::clone(&self.log),
        });
        let weak: Weak<dyn Reclaim> = Arc::downgrade(&spare) as _;
        let registration = budget.reclaimers().register(name, 0, weak);
        (spare, registration)
    }

    fn asked(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
}

#[test]
fn what_is_missing_is_reclaimed_and_the_charge_goes_through() {
    let f = Fixture::new(1000);
    let (cache, _registration) = f.spare("cache", &f.root, 800);
    let held = f.root.try_reserve(600).unwrap();
    assert_eq!((cache.reclaimable(), f.root.used()), (400, 1000));
    assert_eq!(f.asked(), ["cache"]);
    drop(held);
}

#[test]
fn own_reclaimers_are_asked_before_those_of_ancestors_and_siblings() {
    let f = Fixture::new(1000);
    let (a, b) = (f.borrower("a"), f.borrower("b"));
    let _sibling = f.spare("sibling", &b, 300);
    let _shared = f.spare("shared", &f.root, 100);
    let _own = f.spare("own", &a, 100);
    let held = a.try_reserve(900).unwrap();
    assert_eq!(f.asked(), ["own", "shared", "sibling"]);
    assert_eq!(f.root.used(), 1000);
    drop(held);
}

#[test]
fn each_level_that_is_short_is_asked_in_turn() {
    let f = Fixture::new(1000);
    let (a, b) = (f.borrower("a"), f.borrower("b"));
    let _sibling = f.spare("sibling", &b, 300);
    let _own = f.spare("own", &a, 300);
    // First `a` itself is short, by 300; then the root is.
    let held = a.try_reserve(1000).unwrap();
    assert_eq!(f.asked(), ["own", "own", "sibling"]);
    drop(held);
}

#[test]
fn only_the_subtree_of_the_level_that_is_short_is_asked() {
    let f = Fixture::new(10_000);
    let a = f.root.child("a", 1000).unwrap();
    let b = f.borrower("b");
    let _sibling = f.spare("sibling", &b, 300);
    let _shared = f.spare("shared", &f.root, 300);
    let _own = f.spare("own", &a, 300);
    // `a` is short because of its own capacity; nobody outside could help.
    a.try_reserve(1001).unwrap_err();
    assert_eq!(f.asked(), ["own"]);
}

#[test]
fn reclaiming_that_does_not_suffice_ends_in_a_refusal_with_exact_books() {
    let f = Fixture::new(1000);
    let fixed = f.root.try_reserve(500).unwrap();
    let (cache, _registration) = f.spare("cache", &f.root, 300);
    let error = f.root.try_reserve(501).unwrap_err();
    assert_eq!(error.code(), "budget_exceeded");
    // The cache gave what was missing as far as it could, and that was not charged to anybody.
    assert_eq!(f.root.used(), 500 + cache.reclaimable());
    drop(fixed);
}

#[test]
fn a_guarantee_is_made_room_for_by_reclaiming() {
    let f = Fixture::new(1000);
    let (_cache, _registration) = f.spare("cache", &f.root, 900);
    let child = f.root.child("child", 500).unwrap();
    assert_eq!((f.root.committed(), f.root.used()), (1000, 500));
    drop(child);
}

#[test]
fn a_dropped_reclaimer_is_not_asked() {
    let f = Fixture::new(1000);
    let (spare, registration) = f.spare("gone", &f.root, 100);
    f.root.credit(100);
    drop(spare);
    f.root.try_reserve(1001).unwrap_err();
    assert!(f.asked().is_empty());
    drop(registration);
}

#[test]
fn a_sibling_is_asked_for_no_more_than_it_has_borrowed() {
    let f = Fixture::new(1000);
    let config = BudgetConfig::builder(1000.into()).guaranteed(300.into()).build().unwrap();
    let sibling = f.root.child_with("sibling", &config).unwrap();
    // 500 charged: 300 are its own, 200 are borrowed.
    let (cache, _kept) = f.spare("sibling's", &sibling, 500);
    let tenant = f.borrower("tenant");
    assert!(tenant.try_charge(701).is_err());
    assert_eq!(cache.reclaimable(), 300, "it gave what it had borrowed, and kept what is its own");
    tenant.try_charge(700).unwrap();
    assert_eq!((f.root.used(), sibling.used()), (1000, 300));
}

#[test]
fn a_sibling_that_has_borrowed_nothing_is_not_asked() {
    let f = Fixture::new(1000);
    let sibling = f.root.child("sibling", 400).unwrap();
    let (cache, _kept) = f.spare("sibling's", &sibling, 400);
    let tenant = f.borrower("tenant");
    assert!(tenant.try_charge(601).is_err());
    assert_eq!((cache.reclaimable(), f.log.lock().unwrap().len()), (400, 0));
}

#[test]
fn what_is_idle_anywhere_goes_before_what_is_in_use() {
    let f = Fixture::new(1000);
    let (a, b, tenant) = (f.borrower("a"), f.borrower("b"), f.borrower("tenant"));
    let kept: Vec<_> = [("hot a", &a, 9), ("idle b", &b, 1), ("hot own", &tenant, 9)]
        .into_iter()
        .map(|(name, budget, priority)| {
            let (spare, registration) = f.spare(name, budget, 100);
            drop(registration);
            let weak: Weak<dyn Reclaim> = Arc::downgrade(&spare) as _;
            (budget.reclaimers().register(name, priority, weak), spare)
        })
        .collect();
    f.root.try_charge(700).unwrap();
    tenant.try_charge(300).unwrap();
    // One's own first; then, of the others, the idle before the hot.
    assert_eq!(*f.log.lock().unwrap(), ["hot own", "idle b", "hot a"]);
    drop(kept);
}
