//! Limits that move while budgets live, marks below them, and budgets that only observe.

use std::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicUsize, Ordering},
};

use nebula_budget::{Account, BudgetConfig, BudgetEvent, BudgetState, Enforcement, MemoryBudget};
use nebula_memory_core::{MemoryError, PressureLevel, Reclaim};

fn root(capacity: usize) -> MemoryBudget {
    MemoryBudget::root("root", capacity).unwrap()
}

fn config(capacity: usize, guaranteed: usize) -> BudgetConfig {
    BudgetConfig::builder(capacity.into()).guaranteed(guaranteed.into()).build().unwrap()
}

fn observing(capacity: usize, guaranteed: usize) -> BudgetConfig {
    BudgetConfig { enforcement: Enforcement::Observe, ..config(capacity, guaranteed) }
}

fn code<T>(outcome: Result<T, MemoryError>) -> &'static str {
    outcome.map(drop).unwrap_err().code()
}

/// Holds bytes of a budget, gives back what it is asked for, and notes how it was asked.
struct Cache {
    budget: MemoryBudget,
    held: AtomicUsize,
    asked: Mutex<Vec<(usize, PressureLevel)>>,
}

impl Cache {
    fn new(budget: &MemoryBudget, bytes: usize) -> Arc<Self> {
        budget.try_charge(bytes).unwrap();
        let (budget, held) = (budget.clone(), AtomicUsize::new(bytes));
        let cache = Arc::new(Self { budget, held, asked: Mutex::default() });
        let weak: Weak<dyn Reclaim> = Arc::downgrade(&cache) as _;
        cache.budget.reclaimers().register("cache", 0, weak).detach();
        cache
    }

    fn asked(&self) -> Vec<(usize, PressureLevel)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Reclaim for Cache {
    fn reclaimable(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        self.asked.lock().unwrap().push((wanted, urgency));
        let given = wanted.min(self.reclaimable());
        self.held.fetch_sub(given, Ordering::Relaxed);
        self.budget.credit(given);
        given
    }
}

#[test]
fn a_root_s_capacity_moves_up_and_down_before_and_after_the_first_charge() {
    let root = root(1000);
    for capacity in [500, 2000, 1500] {
        root.set_capacity(capacity).unwrap();
        assert_eq!((root.capacity(), root.state()), (capacity, BudgetState::Created));
    }
    for capacity in [1500, 700, 3000, 1] {
        root.set_capacity(capacity).unwrap();
        let held = root.try_reserve(capacity).unwrap();
        assert_eq!(code(root.try_charge(1)), "budget_exceeded");
        assert_eq!(root.committed(), capacity);
        drop(held);
        assert_eq!(root.committed(), 0);
    }
}

#[test]
fn a_child_s_capacity_moves_between_its_guarantee_and_the_parent_s() {
    let root = root(1000);
    let a = root.child_with("a", &config(500, 200)).unwrap();
    for wrong in [0, 199, 1001, usize::MAX] {
        assert_eq!(code(a.set_capacity(wrong)), "invalid_config");
        assert_eq!((a.capacity(), a.guaranteed()), (500, 200));
    }
    assert_eq!(code(root.set_capacity(0)), "invalid_config");
    for capacity in [1000, 200, 600] {
        a.set_capacity(capacity).unwrap();
        let held = a.try_reserve(capacity).unwrap();
        assert_eq!(code(a.try_charge(1)), "budget_exceeded");
        drop(held);
    }
    // Its maximum stays; what the parent has not, it does not get.
    root.set_capacity(400).unwrap();
    assert_eq!(a.capacity(), 600);
    assert_eq!(code(a.try_charge(401)), "budget_exceeded");
    drop(a.try_reserve(400).unwrap());
    assert_eq!(root.used(), 0);
}

#[test]
fn below_what_is_committed_charges_are_refused_until_enough_is_credited() {
    let root = root(1000);
    let a = root.child_with("a", &config(1000, 0)).unwrap();
    for budget in [&root, &a] {
        budget.try_charge(800).unwrap();
        budget.set_capacity(300).unwrap();
        assert_eq!((budget.used(), budget.capacity()), (800, 300));
        for _ in 0..5 {
            assert_eq!(code(budget.try_charge(1)), "budget_exceeded");
            budget.credit(100);
        }
        assert_eq!(code(budget.try_charge(1)), "budget_exceeded");
        budget.credit(100);
        budget.try_charge(100).unwrap();
        assert_eq!(code(budget.try_charge(1)), "budget_exceeded");
        budget.credit(300);
        if budget.parent().is_none() {
            budget.set_capacity(1000).unwrap();
        }
    }
    // What the child had beyond is the parent's again, to the byte.
    root.try_charge(900).unwrap();
    assert_eq!(code(root.try_charge(101)), "budget_exceeded");
    a.try_charge(100).unwrap();
    assert_eq!((root.used(), root.committed()), (1000, 1000));
}

#[test]
fn a_capacity_lowered_and_raised_again_leaves_no_more_than_it_says() {
    let root = root(1000);
    root.try_charge(800).unwrap();
    root.set_capacity(500).unwrap();
    root.set_capacity(700).unwrap();
    root.credit(200);
    root.try_charge(100).unwrap();
    assert_eq!(code(root.try_charge(1)), "budget_exceeded");
    root.set_capacity(1000).unwrap();
    root.try_charge(300).unwrap();
    assert_eq!(code(root.try_charge(1)), "budget_exceeded");
    root.credit(1000);
    assert_eq!(root.committed(), 0);
}

#[test]
fn a_lowered_capacity_asks_reclaimers_for_the_difference_at_once() {
    let root = root(1000);
    let a = root.child_with("a", &config(1000, 0)).unwrap();
    let cache = Cache::new(&a, 600);
    a.set_capacity(450).unwrap();
    assert_eq!(cache.asked(), [(150, PressureLevel::High)]);
    assert_eq!(a.used(), 450);
    root.set_capacity(400).unwrap();
    assert_eq!(cache.asked(), [(50, PressureLevel::High)]);
    a.set_capacity(400).unwrap();
    assert!(cache.asked().is_empty());
    assert_eq!((root.used(), root.committed()), (400, 400));
}

#[test]
fn unspent_funds_of_children_and_accounts_are_not_in_the_way_of_a_lower_capacity() {
    let root = root(1 << 20);
    let a = root.child_with("a", &config(1 << 20, 0)).unwrap();
    let local = a.local();
    (0..100).for_each(|_| local.try_charge(10).unwrap());
    assert!(root.committed() > 1000);
    root.set_capacity(1000).unwrap();
    assert_eq!((root.committed(), root.used()), (1000, 1000));
    assert_eq!(code(local.try_charge(1)), "budget_exceeded");
    local.credit(10);
    local.try_charge(10).unwrap();
    local.credit(1000);
    drop(local);
    assert_eq!(root.used(), 0);
}

#[test]
fn a_guarantee_grows_out_of_the_parent_or_of_what_was_borrowed() {
    let root = root(1000);
    for charged in [0, 1, 400] {
        let a = root.child_with("a", &config(600, 100)).unwrap();
        a.try_charge(charged).unwrap();
        let committed = root.committed();
        a.set_guaranteed(300).unwrap();
        // What it held already is not taken twice.
        assert_eq!(root.committed(), committed.max(300));
        let rest = root.try_reserve(1000 - 300.max(charged)).unwrap();
        assert_eq!(root.committed(), 1000);
        a.try_charge(300_usize.saturating_sub(charged)).unwrap();
        assert_eq!(a.guaranteed(), 300);
        a.credit(300.max(charged));
        drop(rest);
        drop(a);
        assert_eq!(root.committed(), 0);
    }
}

#[test]
fn a_guarantee_that_shrinks_goes_back_as_far_as_it_is_not_used() {
    let root = root(1000);
    for charged in [0, 400] {
        let a = root.child_with("a", &config(1000, 1000)).unwrap();
        a.try_charge(charged).unwrap();
        a.set_guaranteed(200).unwrap();
        let rest = root.try_reserve(1000 - 200.max(charged)).unwrap();
        assert_eq!(code(root.try_charge(1)), "budget_exceeded");
        drop(rest);
        a.credit(charged);
        // The rest comes back with the credits; its own part stays.
        let rest = root.try_reserve(800).unwrap();
        assert_eq!(code(root.try_charge(1)), "budget_exceeded");
        a.try_charge(200).unwrap();
        a.credit(200);
        drop(rest);
        a.set_guaranteed(0).unwrap();
        drop(root.try_reserve(1000).unwrap());
    }
    assert_eq!(root.committed(), 0);
}

#[test]
fn a_refused_guarantee_changes_nothing() {
    let root = root(1000);
    assert_eq!(code(root.set_guaranteed(10)), "invalid_config");
    for charged in [0, 50] {
        let a = root.child_with("a", &config(900, 100)).unwrap();
        a.try_charge(charged).unwrap();
        let held = root.try_reserve(700).unwrap();
        let before = root.snapshot();
        assert_eq!(code(a.set_guaranteed(901)), "invalid_config");
        assert_eq!(code(a.set_guaranteed(301)), "budget_exceeded");
        let after = root.snapshot();
        assert_eq!((after.committed, after.used), (before.committed, before.used));
        assert_eq!(after.children, before.children);
        a.set_guaranteed(300).unwrap();
        a.release().unwrap();
        assert_eq!(code(a.set_guaranteed(10)), "closed");
        a.credit(charged);
        drop(held);
    }
    assert_eq!((root.used(), root.committed()), (0, 0));
}

/// The events of a budget and below, as they happen.
fn events(budget: &MemoryBudget) -> Arc<Mutex<Vec<BudgetEvent>>> {
    let events = Arc::<Mutex<Vec<_>>>::default();
    let log = Arc::clone(&events);
    budget.watch(move |notice| log.lock().unwrap().push(notice.event)).detach();
    events
}

#[test]
fn the_high_mark_is_passed_once_and_left_a_sixteenth_below() {
    let root = root(1000);
    root.set_high(Some(160)).unwrap();
    root.try_charge(1).unwrap();
    let events = events(&root);
    let taken = || std::mem::take(&mut *events.lock().unwrap());
    for _ in 0..2 {
        root.try_charge(159).unwrap();
        assert!(taken().is_empty());
        root.try_charge(10).unwrap();
        assert_eq!(taken(), [BudgetEvent::HighMarkPassed { committed: 170, high: 160 }]);
        root.credit(19);
        root.try_charge(600).unwrap();
        root.credit(600);
        assert!(taken().is_empty(), "151 are still committed");
        root.credit(1);
        assert_eq!(taken(), [BudgetEvent::HighMarkLeft { committed: 150 }]);
        root.credit(149);
    }
    assert!(taken().is_empty());
}

#[test]
fn reclaimers_are_asked_for_what_is_above_the_mark_and_nothing_is_refused() {
    let root = root(1000);
    let mark = BudgetConfig { high: Some(200.into()), ..config(1000, 0) };
    let a = root.child_with("a", &mark).unwrap();
    assert_eq!(a.high(), Some(200));
    let cache = Cache::new(&a, 150);
    a.try_charge(90).unwrap();
    assert_eq!(cache.asked(), [(40, PressureLevel::High)]);
    assert_eq!(a.used(), 200);
    let rest = a.try_reserve(800).unwrap();
    assert!(cache.asked().is_empty(), "the mark has not been left in between");
    drop(rest);
    a.credit(90);
    a.try_charge(300).unwrap();
    assert_eq!(cache.asked(), [(210, PressureLevel::High)]);
    assert_eq!((cache.reclaimable(), a.used()), (0, 300));
}

#[test]
fn a_mark_that_moves_is_passed_and_left_by_that() {
    let root = root(1000);
    root.try_charge(500).unwrap();
    let events = events(&root);
    let taken = || std::mem::take(&mut *events.lock().unwrap());
    assert_eq!(code(root.set_high(Some(1001))), "invalid_config");
    root.set_high(Some(400)).unwrap();
    assert_eq!(taken(), [BudgetEvent::HighMarkPassed { committed: 500, high: 400 }]);
    root.set_high(Some(510)).unwrap();
    assert!(taken().is_empty());
    root.set_high(None).unwrap();
    assert_eq!(taken(), [BudgetEvent::HighMarkLeft { committed: 500 }]);
    assert_eq!(root.high(), None);
    root.set_high(Some(500)).unwrap();
    assert!(taken().is_empty(), "on the mark is not above it");
    root.try_charge(1).unwrap();
    assert_eq!(taken(), [BudgetEvent::HighMarkPassed { committed: 501, high: 500 }]);
}

#[test]
fn a_root_that_observes_refuses_nothing_and_counts_what_it_let_through() {
    let root = MemoryBudget::root_with(
        "root",
        &BudgetConfig { enforcement: Enforcement::Observe, ..BudgetConfig::default() },
    );
    assert_eq!(code(root), "invalid_config");
    let config = BudgetConfig::builder(1000.into()).enforcement(Enforcement::Observe);
    let root = MemoryBudget::root_with("root", &config.build().unwrap()).unwrap();
    let cache = Cache::new(&root, 100);
    root.try_charge(900).unwrap();
    root.try_charge(50).unwrap();
    assert_eq!(cache.asked(), [(50, PressureLevel::Critical)], "as if it were enforced");
    assert_eq!(root.snapshot().excused, 0);
    root.try_charge(450).unwrap();
    let buffer = root.try_reserve(7).unwrap();
    let snapshot = root.snapshot();
    assert_eq!((snapshot.excused, snapshot.excused_bytes, snapshot.refusals), (2, 457, 0));
    assert_eq!((root.used(), root.committed(), root.state()), (1407, 1407, BudgetState::Active));
    drop(buffer);
    root.credit(1400);
    assert_eq!(root.committed(), 0);
    root.set_enforcement(Enforcement::Enforce);
    let held = root.try_reserve(1000).unwrap();
    assert_eq!(code(root.try_charge(1)), "budget_exceeded");
    drop(held);
    assert_eq!(root.snapshot().excused, 2);
}

#[test]
fn a_child_that_observes_is_still_limited_by_what_its_parent_enforces() {
    let root = root(1000);
    for guaranteed in [0, 100] {
        let a = root.child_with("a", &observing(100, guaranteed)).unwrap();
        let deep = a.child_with("deep", &observing(50, 0)).unwrap();
        let cache = Cache::new(&root, 400);
        // More than either has; and nothing to reclaim but at the root.
        deep.try_charge(700).unwrap();
        assert_eq!(cache.asked().last(), Some(&(100, PressureLevel::Critical)));
        assert_eq!((root.used(), cache.reclaimable()), (1000, 300));
        for budget in [&a, &deep] {
            let snapshot = budget.snapshot();
            assert_eq!((snapshot.excused, snapshot.excused_bytes), (1, 700), "{snapshot}");
        }
        // What the root refuses was let through by nobody.
        let error = deep.try_reserve(301).unwrap_err();
        assert!(error.to_string().contains("`root` has used"), "{error}");
        assert_eq!((a.snapshot().excused, deep.snapshot().excused), (1, 1));
        deep.credit(700);
        assert_eq!((a.used(), root.used()), (0, cache.reclaimable()));
        for budget in [&deep, &a] {
            budget.set_enforcement(Enforcement::Enforce);
            assert_eq!(budget.enforcement(), Enforcement::Enforce);
            assert_eq!(code(budget.try_charge(budget.capacity() + 1)), "budget_exceeded");
            drop(budget.try_reserve(budget.capacity()).unwrap());
        }
        root.credit(cache.held.swap(0, Ordering::Relaxed));
    }
    assert_eq!((root.used(), root.committed()), (0, 0));
}

#[test]
fn local_accounts_and_transfers_are_let_through_as_well() {
    let root = root(100_000);
    let (a, b) = (root.child("a", 1000).unwrap(), root.child("b", 5000).unwrap());
    a.set_enforcement(Enforcement::Observe);
    let local = a.local();
    (0..300).for_each(|_| local.try_charge(10).unwrap());
    assert_eq!((a.used(), a.snapshot().excused), (3000, 200));
    local.credit(3000);
    drop(local);
    let buffer = b.try_reserve(4000).unwrap().transfer(&a).unwrap();
    assert_eq!((a.used(), b.used(), a.snapshot().excused), (4000, 0, 201));
    assert_eq!(a.snapshot().excused_bytes, 6000);
    drop(buffer);
    assert_eq!((a.committed(), root.committed()), (0, 6000));
}

#[test]
fn what_was_let_through_stays_when_the_limit_is_enforced() {
    let root = root(1000);
    let a = root.child_with("a", &observing(100, 0)).unwrap();
    a.try_charge(300).unwrap();
    a.set_enforcement(Enforcement::Enforce);
    assert_eq!(code(a.try_charge(1)), "budget_exceeded");
    a.credit(250);
    a.try_charge(50).unwrap();
    assert_eq!(code(a.try_charge(1)), "budget_exceeded");
    a.credit(100);
    assert_eq!(root.used(), 0);
}

// On 32-bit targets a budget can hold all that a number can say.
#[cfg(target_pointer_width = "64")]
#[test]
fn huge_charges_are_errors_and_change_nothing() {
    for enforcement in [Enforcement::Enforce, Enforcement::Observe] {
        for capacity in [1000, usize::MAX] {
            let config = BudgetConfig::builder(capacity.into()).enforcement(enforcement);
            let root = MemoryBudget::root_with("root", &config.build().unwrap()).unwrap();
            let a = root.child_with("a", &observing(capacity, 0)).unwrap();
            for held in [0, 7] {
                let mut of_a = a.try_reserve(held).unwrap();
                (0..20).for_each(|_| of_a.try_grow(10).unwrap());
                of_a.shrink(200);
                let local = a.local();
                local.try_charge(held).unwrap();
                for bytes in [usize::MAX - 5, usize::MAX, usize::MAX / 2 + 1] {
                    for budget in [&root, &a] {
                        assert_eq!(code(budget.try_charge(bytes)), "budget_exceeded");
                        assert_eq!(code(budget.try_reserve(bytes)), "budget_exceeded");
                    }
                    assert_eq!(code(local.try_charge(bytes)), "budget_exceeded");
                    assert!(of_a.try_grow(bytes).is_err());
                }
                assert_eq!((of_a.bytes(), local.charged()), (held, held));
                assert_eq!((root.used(), a.used()), (2 * held, 2 * held));
                local.credit(held);
            }
            let (of_root, of_a) = (root.snapshot(), a.snapshot());
            assert_eq!((of_root.used, of_root.excused, of_a.excused), (0, 0, 0));
        }
    }
}

#[test]
fn capacities_of_all_there_is_work_like_any_other() {
    // Far more than there is, and far less than a number can say.
    let much = 1 << (usize::BITS * 5 / 8);
    let root = root(usize::MAX);
    let a = root.child_with("a", &config(usize::MAX, 0)).unwrap();
    let b = root.child_with("b", &config(usize::MAX, much)).unwrap();
    let held = [&root, &a, &b].map(|budget| budget.try_reserve(2 * much).unwrap());
    assert_eq!((root.used(), root.capacity()), (6 * much, usize::MAX));
    root.set_capacity(usize::MAX - 1).unwrap();
    drop(held);
    a.release().unwrap();
    b.release().unwrap();
    assert_eq!((root.used(), root.committed()), (0, 0));
    root.set_capacity(1000).unwrap();
    assert_eq!(code(root.try_charge(1001)), "budget_exceeded");
    root.set_capacity(usize::MAX).unwrap();
    root.try_charge(2 * much).unwrap();
}
