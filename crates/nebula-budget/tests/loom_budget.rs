//! Models of the races that matter: charges against a limit, borrowing and draining, funds of local
//! accounts that are collected while they are spent, credits that meet a release or a waiter. Built
//! with `--cfg nebula_loom` only.
#![cfg(nebula_loom)]

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
};

use loom::thread;
use nebula_budget::{Account, BudgetConfig, LocalBudget, MemoryBudget, Reserve};
use nebula_memory_core::Throttle;

/// Explores all interleavings with at most four preemptions.
fn model(body: impl Fn() + Sync + Send + 'static) {
    bounded(4, body);
}

fn bounded(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(body);
}

/// Large enough for local accounts to get funds: 256 bytes to begin with.
const CAPACITY: usize = 8192;

/// A local account with 8 bytes charged, and 256 at hand.
fn local_with_funds(budget: &MemoryBudget) -> LocalBudget {
    let local = budget.local();
    local.try_charge(8).unwrap();
    let (committed, used) = (budget.committed(), budget.used());
    assert_eq!((committed, used), (8 + 256, 8));
    local
}

fn borrower(parent: &MemoryBudget, name: &str) -> MemoryBudget {
    let config = BudgetConfig::builder(parent.capacity().into()).guaranteed(0.into());
    parent.child_with(name, &config.build().unwrap()).unwrap()
}

#[test]
fn two_charges_that_do_not_both_fit_are_never_both_granted() {
    model(|| {
        let root = MemoryBudget::root("root", 100).unwrap();
        let (a, b) = (borrower(&root, "a"), borrower(&root, "b"));
        let other = {
            let b = b.clone();
            thread::spawn(move || b.try_charge(60).is_ok())
        };
        let mine = a.try_charge(60).is_ok();
        let theirs = other.join().unwrap();
        assert!(mine != theirs, "exactly one of the two fits");
        assert_eq!(root.used(), 60);
        if mine {
            a.credit(60)
        } else {
            b.credit(60)
        }
        assert_eq!(root.used(), 0);
    });
}

#[test]
fn charges_that_fit_together_are_never_refused() {
    model(|| {
        // Chunks are rounded: what one borrowed too much, the other drains.
        let root = MemoryBudget::root("root", 100).unwrap();
        let (a, b) = (borrower(&root, "a"), borrower(&root, "b"));
        let other = thread::spawn(move || {
            b.try_charge(50).unwrap();
            b.credit(50);
        });
        a.try_charge(50).unwrap();
        a.credit(50);
        other.join().unwrap();
        assert_eq!((root.used(), root.committed() <= 100), (0, true));
    });
}

#[test]
fn a_credit_that_meets_a_release_reaches_the_parent() {
    model(|| {
        let root = MemoryBudget::root("root", 100).unwrap();
        let child = root.child("child", 40).unwrap();
        child.try_charge(30).unwrap();
        let account = child.account();
        let other = thread::spawn(move || account.credit(30));
        drop(child);
        other.join().unwrap();
        assert_eq!((root.used(), root.committed()), (0, 0));
        assert!(root.snapshot().children.is_empty());
    });
}

#[test]
fn a_credit_that_meets_the_release_of_a_full_budget_reaches_the_parent() {
    model(|| {
        let root = MemoryBudget::root("root", 100).unwrap();
        let child = root.child("child", 40).unwrap();
        child.try_charge(40).unwrap();
        let account = child.account();
        let other = thread::spawn(move || account.credit(40));
        drop(child);
        other.join().unwrap();
        assert_eq!((root.used(), root.committed()), (0, 0));
        assert!(root.snapshot().children.is_empty());
    });
}

#[test]
fn a_charge_that_meets_a_release_is_granted_or_refused_but_not_lost() {
    model(|| {
        let root = MemoryBudget::root("root", 100).unwrap();
        let child = root.child("child", 40).unwrap();
        child.try_charge(1).unwrap();
        let account = Arc::new(child.account());
        let other = {
            let account = Arc::clone(&account);
            thread::spawn(move || account.try_charge(20).is_ok())
        };
        drop(child);
        let granted = other.join().unwrap();
        assert_eq!(root.committed(), if granted { 21 } else { 1 });
        account.credit(if granted { 21 } else { 1 });
        assert_eq!(root.committed(), 0);
    });
}

#[test]
fn funds_are_spent_by_their_owner_or_by_their_collector_but_not_by_both() {
    model(|| {
        let root = MemoryBudget::root("root", CAPACITY).unwrap();
        let local = local_with_funds(&root);
        let owner = thread::spawn(move || {
            let charged = local.try_charge(64).is_ok();
            (local, charged)
        });
        // Needs all that is not charged.
        let mine = root.try_charge(CAPACITY - 8).is_ok();
        let (local, theirs) = owner.join().unwrap();
        assert!(mine != theirs, "exactly one of the two fits");
        assert_eq!(root.used(), if mine { CAPACITY } else { 8 + 64 });
        local.credit(if mine { 8 } else { 8 + 64 });
        drop(local);
        root.credit(if mine { CAPACITY - 8 } else { 0 });
        assert_eq!((root.used(), root.committed()), (0, 0));
    });
}

#[test]
fn what_an_owner_does_not_need_is_there_for_others() {
    bounded(3, || {
        let root = MemoryBudget::root("root", CAPACITY).unwrap();
        let local = local_with_funds(&root);
        let owner = thread::spawn(move || {
            local.try_charge(64).unwrap();
            local.credit(64);
            local.try_charge(64).unwrap();
            local
        });
        // There is room for both, but not for the owner's unspent funds.
        root.try_charge(CAPACITY - 8 - 64).unwrap();
        let local = owner.join().unwrap();
        assert_eq!((root.used(), local.charged()), (CAPACITY, 8 + 64));
        root.credit(CAPACITY - 8 - 64);
        local.credit(64 + 8);
        drop(local);
        assert_eq!((root.used(), root.committed()), (0, 0));
    });
}

#[test]
fn an_owner_below_a_borrower_is_found_too() {
    bounded(3, || {
        let root = MemoryBudget::root("root", CAPACITY).unwrap();
        let tenant = borrower(&root, "tenant");
        let local = local_with_funds(&tenant);
        let owner = thread::spawn(move || {
            local.credit(8);
            drop(local);
        });
        root.try_charge(CAPACITY - 8).unwrap();
        owner.join().unwrap();
        assert_eq!((root.used(), tenant.used()), (CAPACITY - 8, 0));
        root.credit(CAPACITY - 8);
        assert_eq!(root.used(), 0);
        drop(tenant);
        assert_eq!((root.used(), root.committed()), (0, 0));
    });
}

#[test]
fn an_owners_credit_reaches_who_waits() {
    bounded(3, || {
        let root = MemoryBudget::root("root", CAPACITY).unwrap();
        let local = local_with_funds(&root);
        let owner = thread::spawn(move || {
            local.credit(8);
            local
        });
        // Not there before that credit. A lost wake-up would be a deadlock.
        let all = root.reserve(CAPACITY).wait().unwrap();
        assert_eq!(all.bytes(), CAPACITY);
        drop((all, owner.join().unwrap()));
        assert_eq!((root.used(), root.committed()), (0, 0));
    });
}

#[test]
fn a_credit_below_reaches_who_waits_above() {
    bounded(3, || {
        let root = MemoryBudget::root("root", 100).unwrap();
        let (a, b) = (borrower(&root, "a"), borrower(&root, "b"));
        a.try_charge(60).unwrap();
        let other = {
            let a = a.clone();
            thread::spawn(move || a.credit(60))
        };
        let part = b.reserve(90).wait().unwrap();
        other.join().unwrap();
        assert_eq!((root.used(), part.bytes()), (90, 90));
        drop(part);
        assert_eq!(root.used(), 0);
    });
}

#[test]
fn who_gives_up_waiting_passes_on_what_it_was_handed() {
    bounded(2, || {
        let root = MemoryBudget::root("root", 100).unwrap();
        let held = root.try_reserve(80).unwrap();
        // In line before the second one, and gone at any moment.
        let mut first = Box::pin(root.reserve(50));
        assert!(first.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let leaver = thread::spawn(move || drop(first));
        let creditor = thread::spawn(move || drop(held));
        let second = root.reserve(60).wait().unwrap();
        leaver.join().unwrap();
        creditor.join().unwrap();
        assert_eq!((root.used(), second.bytes()), (60, 60));
    });
}

#[test]
fn a_release_ends_a_local_accounts_charges() {
    bounded(3, || {
        let root = MemoryBudget::root("root", 2 * CAPACITY).unwrap();
        let tenant = root.child("tenant", CAPACITY).unwrap();
        let local = local_with_funds(&tenant);
        let owner = thread::spawn(move || {
            let charged = local.try_charge(64).is_ok();
            (local, charged)
        });
        let leak = tenant.release().unwrap().expect("at least 8 bytes are charged");
        let (local, charged) = owner.join().unwrap();
        let bytes = if charged { 8 + 64 } else { 8 };
        assert_eq!((root.committed(), leak.bytes), (bytes, bytes));
        assert!(local.try_charge(1).is_err());
        local.credit(bytes);
        drop(local);
        assert_eq!((root.used(), root.committed()), (0, 0));
    });
}

#[test]
fn a_throttle_is_not_passed_by_unspent_funds() {
    bounded(3, || {
        let root = MemoryBudget::root("root", CAPACITY).unwrap();
        let local = local_with_funds(&root);
        let owner = thread::spawn(move || {
            let before = local.try_charge(64).is_ok();
            (local, before)
        });
        root.limit_single_charges(Some(10));
        let (local, before) = owner.join().unwrap();
        assert!(local.try_charge(64).is_err());
        local.try_charge(10).unwrap();
        local.credit(if before { 8 + 64 + 10 } else { 8 + 10 });
        drop(local);
        assert_eq!((root.used(), root.committed()), (0, 0));
    });
}

#[test]
fn a_limit_of_priorities_is_not_passed_by_unspent_funds() {
    bounded(3, || {
        let root = MemoryBudget::root("root", CAPACITY).unwrap();
        let config = BudgetConfig::builder(CAPACITY.into()).priority(10).build().unwrap();
        let low = root.child_with("low", &config).unwrap();
        let local = low.local();
        local.try_charge(8).unwrap();
        let owner = thread::spawn(move || {
            let before = local.try_charge(64).is_ok();
            (local, before)
        });
        root.limit_priority(Some(11));
        let (local, before) = owner.join().unwrap();
        assert!(local.try_charge(64).is_err() && local.try_charge(1).is_err());
        local.credit(if before { 8 + 64 } else { 8 });
        drop((local, low));
        assert_eq!((root.used(), root.committed()), (0, 0));
    });
}

/// Polls a wait once.
fn poll(wait: &mut Pin<Box<Reserve>>) -> bool {
    wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

#[test]
fn a_refused_charge_that_collects_a_credit_passes_it_on_to_who_waits() {
    bounded(3, || {
        let root = MemoryBudget::root("root", 100).unwrap();
        let child = borrower(&root, "child");
        child.try_charge(10).unwrap();
        root.try_charge(90).unwrap();
        let mut wait = Box::pin(root.reserve(10));
        assert!(!poll(&mut wait));
        let other = {
            let child = child.clone();
            thread::spawn(move || child.credit(10))
        };
        assert!(root.try_charge(100).is_err());
        other.join().unwrap();
        assert!(poll(&mut wait), "10 are free and it waits for 10");
    });
}

#[test]
fn who_comes_later_does_not_overtake_between_a_credit_and_its_settlement() {
    bounded(3, || {
        let root = MemoryBudget::root("root", 100).unwrap();
        root.try_charge(100).unwrap();
        let mut first = Box::pin(root.reserve(50));
        assert!(!poll(&mut first));
        let other = {
            let root = root.clone();
            thread::spawn(move || root.credit(50))
        };
        let mut second = Box::pin(root.reserve(50));
        let overtaken = poll(&mut second);
        other.join().unwrap();
        assert!(!overtaken || poll(&mut first));
    });
}

#[test]
fn used_is_never_more_than_was_charged() {
    bounded(3, || {
        let root = MemoryBudget::root("root", 64_000).unwrap();
        let child = borrower(&root, "child");
        child.try_charge(1).unwrap();
        // Takes the rest of the child's chunk away.
        let other = {
            let root = root.clone();
            thread::spawn(move || root.try_charge(63_999).unwrap())
        };
        let used = child.used();
        assert!(used <= 1, "{used} used, but only 1 was ever charged");
        other.join().unwrap();
    });
}

#[test]
fn a_refused_transfer_that_collects_a_credit_passes_it_on_to_who_waits_above() {
    bounded(3, || {
        let root = MemoryBudget::root("root", 100).unwrap();
        let config = BudgetConfig::builder(35.into()).guaranteed(0.into()).build().unwrap();
        let tenant = root.child_with("tenant", &config).unwrap();
        let (from, to) = (tenant.child("from", 20).unwrap(), borrower(&tenant, "to"));
        let part = borrower(&tenant, "part");
        let held = from.try_reserve(20).unwrap();
        part.try_charge(10).unwrap();
        root.try_charge(70).unwrap();
        let mut wait = Box::pin(root.reserve(10));
        assert!(!poll(&mut wait));
        let other = {
            let part = part.clone();
            thread::spawn(move || part.credit(10))
        };
        // The 20 stay guaranteed where they are, and the tenant has no room for as much again.
        let held = held.transfer(&to).unwrap_err();
        other.join().unwrap();
        assert!(poll(&mut wait), "10 are free and it waits for 10");
        drop(held);
    });
}
