//! Models of the races that matter: charges against a limit, borrowing and draining, and credits
//! that meet a release. Built with `--cfg nebula_loom` only.
#![cfg(nebula_loom)]

use std::sync::Arc;

use loom::thread;
use nebula_budget::{Account, BudgetConfig, MemoryBudget};

/// Explores all interleavings with at most four preemptions.
fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(4);
    builder.check(body);
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
