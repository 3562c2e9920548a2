//! Budgets under the suites that every account passes, and under allocators and collections.

use hashbrown::HashMap;
use nebula_budget::{
    Account, BudgetAccount, BudgetConfig, Grow, LocalBudget, MemoryBudget, Reservation, Reserve,
};
use nebula_memory_core::{Accounted, Charge, MemoryError, allocator_api2::vec::Vec};
use nebula_testing::{
    CountingAllocator,
    conformance::{account_conformance, allocator_conformance},
};
use static_assertions::{assert_impl_all, assert_not_impl_any};

assert_impl_all!(MemoryBudget: Send, Sync, Clone, std::fmt::Debug, std::fmt::Display);
assert_impl_all!(BudgetAccount: Send, Sync, Clone, std::fmt::Debug);
assert_impl_all!(Reservation: Send, Sync, std::fmt::Debug);
assert_impl_all!(LocalBudget: Send, std::fmt::Debug);
// Its charges are plain stores: for one thread at a time, and not for two handles.
assert_not_impl_any!(LocalBudget: Sync, Clone);
assert_impl_all!(Reserve: Send, std::fmt::Debug);
assert_impl_all!(Grow<'static>: Send, std::fmt::Debug);

#[test]
fn every_face_of_a_budget_is_a_proper_account() {
    const LIMIT: usize = 1 << 20;
    let root = || MemoryBudget::root("root", LIMIT).unwrap();
    account_conformance(root, Some(LIMIT));
    account_conformance(|| root().child("child", LIMIT).unwrap(), Some(LIMIT));
    let borrowing = BudgetConfig::builder(LIMIT.into()).guaranteed(0.into()).build().unwrap();
    account_conformance(|| root().child_with("child", &borrowing).unwrap(), Some(LIMIT));
    account_conformance(
        || root().child_with("a", &borrowing).unwrap().child_with("b", &borrowing).unwrap(),
        Some(LIMIT),
    );
    // An account does not keep its budget, so that the suite keeps it instead.
    let kept = std::cell::RefCell::new(vec![]);
    account_conformance(
        || {
            kept.borrow_mut().push(root());
            kept.borrow().last().unwrap().account()
        },
        Some(LIMIT),
    );
    account_conformance(
        || {
            kept.borrow_mut().push(root());
            kept.borrow().last().unwrap().local()
        },
        Some(LIMIT),
    );
    account_conformance(
        || {
            let child = root().child_with("child", &borrowing).unwrap();
            let local = std::rc::Rc::new(child.local());
            kept.borrow_mut().push(child);
            local
        },
        Some(LIMIT),
    );
}

#[test]
fn a_local_account_s_allocator_is_a_proper_allocator() {
    let root = MemoryBudget::root("root", 1 << 30).unwrap();
    let local = root.local();
    allocator_conformance(|| local.allocator());
    assert_eq!((root.used(), local.charged()), (0, 0));
}

#[test]
fn a_local_account_goes_from_thread_to_thread() {
    let root = MemoryBudget::root("root", 1 << 20).unwrap();
    let mut local = root.local();
    for _ in 0..4 {
        local = std::thread::scope(|s| {
            let worker = s.spawn(move || {
                for _ in 0..1000 {
                    local.try_charge(10).unwrap();
                    local.credit(9);
                }
                local
            });
            worker.join().unwrap()
        });
    }
    assert_eq!((local.charged(), root.used()), (4000, 4000));
    // What is charged when it goes stays charged, to be credited to the budget.
    drop(local);
    assert_eq!((root.used(), root.committed()), (4000, 4000));
    root.credit(4000);
    assert_eq!((root.used(), root.snapshot().over_credited), (0, 0));
}

#[test]
fn the_budget_s_allocator_is_a_proper_allocator() {
    let root = MemoryBudget::root("root", 1 << 30).unwrap();
    allocator_conformance(|| root.allocator());
    assert_eq!(root.used(), 0);
}

#[test]
fn books_equal_what_the_base_allocator_gave_out() {
    let root = MemoryBudget::root("root", 1 << 20).unwrap();
    let base = CountingAllocator::new();
    let tenant = root.child("tenant", 1 << 19).unwrap();
    {
        let mut map = HashMap::with_hasher_in(
            hashbrown::DefaultHashBuilder::default(),
            tenant.allocator_in(&base),
        );
        let mut lists = Vec::new_in(tenant.allocator_in(&base));
        for i in 0..2000_u64 {
            map.insert(i, i * i);
            if i % 10 == 0 {
                let mut list = Vec::new_in(tenant.allocator_in(&base));
                list.extend(0..i % 50);
                lists.push(list);
            }
            assert_eq!(tenant.used(), base.live_bytes());
        }
        lists.truncate(7);
        map.retain(|key, _| key % 3 == 0);
        map.shrink_to_fit();
        assert_eq!(tenant.used(), base.live_bytes());
        assert!(tenant.peak() >= tenant.used());
    }
    assert_eq!((tenant.used(), base.live_bytes()), (0, 0));
}

#[test]
fn a_vector_at_its_limit_fails_to_grow_and_keeps_what_it_has() {
    let root = MemoryBudget::root("root", 1000).unwrap();
    let mut rows: Vec<u8, Accounted<_, _>> = Vec::new_in(root.allocator());
    rows.try_reserve_exact(600).unwrap();
    rows.extend(std::iter::repeat_n(87, 600));
    assert!(rows.try_reserve_exact(600).is_err());
    assert_eq!((rows.len(), rows[599], root.used()), (600, 87, 600));
}

#[test]
fn a_reservation_splits_grows_and_shrinks() -> Result<(), MemoryError> {
    let root = MemoryBudget::root("root", 1000)?;
    let mut all = root.try_reserve(500)?;
    all.try_grow(500)?;
    assert_eq!(all.try_grow(1).unwrap_err().code(), "budget_exceeded");
    let part = all.split(300)?;
    drop(all);
    assert_eq!((part.bytes(), root.used()), (300, 300));
    let (account, bytes) = Charge::from(part).forget();
    assert_eq!(root.used(), 300);
    account.credit(bytes);
    assert_eq!(root.used(), 0);
    Ok(())
}
