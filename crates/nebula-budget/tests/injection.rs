//! Every charge of a workload is refused in turn: after each run the books are exactly zero, and
//! nothing that was allocated or made is left.

use hashbrown::HashMap;
use nebula_budget::{Account, BudgetAccount, BudgetConfig, BudgetState, MemoryBudget};
use nebula_memory_core::{
    Accounted, Charge, MemoryError,
    allocator_api2::{boxed::Box, collections::TryReserveError, vec::Vec},
};
use nebula_testing::{
    ClonePanics, CountingAllocator, DropCounter, DropProbe, PanicOn, RefusingAccount, catch,
};

/// A workload gave up, for whatever reason.
#[derive(Debug)]
struct Refused;

impl From<MemoryError> for Refused {
    fn from(_: MemoryError) -> Self {
        Self
    }
}

impl From<TryReserveError> for Refused {
    fn from(_: TryReserveError) -> Self {
        Self
    }
}

impl From<hashbrown::TryReserveError> for Refused {
    fn from(_: hashbrown::TryReserveError) -> Self {
        Self
    }
}

fn borrower(parent: &MemoryBudget, name: &str, guaranteed: usize) -> MemoryBudget {
    let config = BudgetConfig::builder(parent.capacity().into()).guaranteed(guaranteed.into());
    parent.child_with(name, &config.build().unwrap()).unwrap()
}

/// A vector, a map of boxes, and charges that grow, shrink, split and merge, on any account. Gives
/// up at the first refusal.
fn collections<C: Account + Clone>(
    account: &C,
    base: &CountingAllocator,
    probes: DropCounter,
) -> Result<(), Refused> {
    let allocator = || Accounted::new(base, account.clone());
    let mut list: Vec<DropProbe, _> = Vec::new_in(allocator());
    let mut map: HashMap<u64, Box<DropProbe, _>, _, _> =
        HashMap::with_hasher_in(hashbrown::DefaultHashBuilder::default(), allocator());
    let mut growing = Charge::try_new(account.clone(), 10)?;
    for i in 0..40_u64 {
        list.try_reserve(1)?;
        list.push(probes.probe(i));
        map.try_reserve(1)?;
        let boxed = Box::try_new_in(probes.probe(1000 + i), allocator()).map_err(|_| Refused)?;
        map.insert(i, boxed);
        growing.try_grow(7)?;
        if i % 5 == 4 {
            let part = growing.split(growing.bytes() / 2)?;
            growing.shrink(3);
            growing.merge(part).map_err(|_| Refused)?;
            list.truncate(20);
            list.shrink_to_fit();
            map.remove(&(i / 2));
        }
    }
    growing.try_resize(5)?;
    growing.try_resize(500)?;
    Ok(())
}

#[test]
fn an_account_that_refuses_any_one_charge_ends_with_settled_books() {
    let mut refusals = 0;
    for n in 0.. {
        let root = MemoryBudget::root("root", 1 << 20).unwrap();
        let tenant = borrower(&root, "tenant", 1000);
        let account = RefusingAccount::new(tenant.account());
        let (base, probes) = (CountingAllocator::new(), DropCounter::new());
        account.refuse_at(n);
        let outcome = collections(&account, &base, probes);
        assert_eq!(outcome.is_err(), account.tripped(), "charge {n}");
        base.assert_clean();
        probes.assert_all_dropped();
        assert_eq!((tenant.used(), root.used()), (0, 0), "charge {n}: {root}");
        assert_eq!(tenant.snapshot().over_credited, 0, "charge {n}");
        drop((account, tenant));
        assert_eq!(root.committed(), 0, "charge {n}: {root}");
        if outcome.is_ok() {
            break;
        }
        refusals += 1;
    }
    assert!(refusals > 50, "only {refusals} charges were made");
}

/// Panics of user code (here: `Clone`) in place of refusals.
#[test]
fn a_panic_at_any_clone_ends_with_settled_books() {
    for n in 0.. {
        let root = MemoryBudget::root("root", 1 << 20).unwrap();
        let tenant = borrower(&root, "tenant", 0);
        let (base, probes, panic) = (CountingAllocator::new(), DropCounter::new(), PanicOn::nth(n));
        let outcome = catch(|| {
            let local = tenant.local();
            let mut list = Vec::new_in(tenant.allocator_in(&base));
            list.push(ClonePanics { value: probes.probe(0), on: panic.clone() });
            let mut own = Vec::new_in(local.allocator_in(&base));
            own.push(list[0].clone());
            let _reservation = tenant.try_reserve(100).unwrap();
            for _ in 0..4 {
                let more = list.clone();
                own.extend(list.iter().cloned());
                list.extend(more);
            }
        });
        assert_eq!(outcome.is_err(), panic.fired(), "clone {n}");
        base.assert_clean();
        probes.assert_all_dropped();
        assert_eq!((tenant.used(), root.used()), (0, 0), "clone {n}: {root}");
        assert_eq!(tenant.snapshot().over_credited, 0, "clone {n}");
        drop(tenant);
        assert_eq!(root.committed(), 0, "clone {n}: {root}");
        if outcome.is_ok() {
            break;
        }
    }
}

/// Reservations in a tree: they grow, shrink, split, merge, move between budgets, and go over into
/// charges and back. Gives up at the first refusal.
fn reservations(a: &MemoryBudget, b: &MemoryBudget) -> Result<(), Refused> {
    let mut of_a = a.try_reserve(100)?;
    let mut of_b = b.try_reserve(50)?;
    let local = a.local();
    // Enough changes for the reservations to get funds of their own.
    for i in 0..24 {
        of_a.try_grow(20 + i)?;
        of_b.try_grow(10)?;
        of_a.shrink(5);
        local.try_charge(8 + i)?;
        if i % 4 == 3 {
            let half = of_a.split(of_a.bytes() / 2)?;
            let moved = half.transfer(b).map_err(|refused| {
                assert_eq!(refused.value.path(), a.path(), "it is handed back as it was");
                Refused
            })?;
            of_b.merge(moved).map_err(|_| Refused)?;
            let back = of_b.split(of_b.bytes() / 3)?;
            of_a.merge(back).map_err(|_| Refused)?;
        }
        if i % 6 == 5 {
            let mut charge: Charge<BudgetAccount> = of_a.into();
            charge.try_grow(16)?;
            of_a = charge.into();
        }
    }
    of_a.try_resize(10)?;
    of_a.try_resize(2000)?;
    // Left charged by the local account, for the last to credit.
    let left = local.charged();
    drop(local);
    a.credit(left);
    Ok(())
}

/// Budgets so tight that the workload is refused, at each size one charge later or at another level,
/// until it goes through.
#[test]
fn budgets_that_are_tight_anywhere_end_with_settled_books() {
    let (mut refused, mut granted) = (0, 0);
    for capacity in (1..6000).step_by(13) {
        for (at_a, at_b) in [(0, 0), (capacity / 3, 0), (capacity / 4, capacity / 4)] {
            let root = MemoryBudget::root("root", capacity).unwrap();
            let group = borrower(&root, "group", 0);
            let (a, b) = (borrower(&group, "a", at_a), borrower(&group, "b", at_b));
            match reservations(&a, &b) {
                Ok(()) => granted += 1,
                Err(Refused) => refused += 1,
            }
            // A local account that ended early leaves its bytes charged at the budget.
            let left = a.used();
            a.credit(left);
            assert_eq!((a.used(), b.used(), root.used()), (0, 0, 0), "{capacity}: {root}");
            assert_eq!(a.snapshot().over_credited + b.snapshot().over_credited, 0, "{capacity}");
            // Nothing got lost: the budget can be used in full.
            let rest = capacity - at_b;
            assert_eq!(a.try_reserve(rest).unwrap().bytes(), rest, "{capacity}: {root}");
            assert!(root.peak() <= capacity);
            drop((a, b));
            assert_eq!(group.committed(), 0, "{capacity}: {root}");
            drop(group);
            assert_eq!(root.committed(), 0, "{capacity}: {root}");
            assert!(root.snapshot().children.is_empty());
        }
    }
    assert!(refused > 100 && granted > 100, "{refused} refused, {granted} granted");
}

/// As the first test, but it is a budget that refuses: its limit is drawn right below the n-th
/// charge, for every n.
#[test]
fn a_budget_that_is_full_at_any_one_charge_ends_with_settled_books() {
    /// Fills the budget up before charge `at`, and makes room again after it.
    #[derive(Clone)]
    struct FullAt<'b> {
        budget: &'b MemoryBudget,
        at: usize,
        calls: std::rc::Rc<std::cell::Cell<usize>>,
    }

    impl Account for FullAt<'_> {
        fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
            let call = self.calls.replace(self.calls.get() + 1);
            if call != self.at || bytes == 0 {
                return self.budget.try_charge(bytes);
            }
            let left = self.budget.capacity() - self.budget.used();
            // One byte too few for it.
            let filler = self.budget.try_reserve(left + 1 - bytes.min(left))?;
            let outcome = self.budget.try_charge(bytes);
            assert_eq!(self.budget.used() + bytes - 1, self.budget.capacity());
            assert_eq!(self.budget.state(), BudgetState::Exhausted);
            drop(filler);
            outcome
        }

        fn credit(&self, bytes: usize) {
            self.budget.credit(bytes);
        }

        fn books(&self) -> Option<usize> {
            self.budget.books()
        }
    }

    let mut refusals = 0;
    for n in 0.. {
        let root = MemoryBudget::root("root", 1 << 20).unwrap();
        let middle = borrower(&root, "middle", 0);
        let tenant = borrower(&middle, "tenant", 5000);
        let account =
            FullAt { budget: &tenant, at: n, calls: std::rc::Rc::new(std::cell::Cell::new(0)) };
        let (base, probes) = (CountingAllocator::new(), DropCounter::new());
        let outcome = collections(&account, &base, probes);
        base.assert_clean();
        probes.assert_all_dropped();
        assert_eq!((tenant.used(), root.used()), (0, 0), "charge {n}: {root}");
        assert_eq!(tenant.snapshot().over_credited, 0, "charge {n}");
        refusals += usize::from(outcome.is_err());
        let calls = account.calls.get();
        drop(tenant);
        drop(middle);
        assert_eq!(root.committed(), 0, "charge {n}: {root}");
        if n >= calls {
            assert!(outcome.is_ok());
            break;
        }
    }
    assert!(refusals > 50, "only {refusals} charges were refused");
}
