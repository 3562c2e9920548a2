//! Waits that met each other's way: who may gather, who is told, who is woken.

mod polled;

use std::{
    future::Future,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use nebula_budget::{Account, BudgetConfig, Enforcement};

use self::polled::{Polled, code, config, root};

#[test]
fn the_firsts_of_two_levels_do_not_hold_what_each_other_needs() {
    // The sibling's guarantee leaves less than `c` may have.
    let root = root(100);
    let _sibling = root.child("s", 33).unwrap();
    let c = root.child_with("c", &config(71, 0)).unwrap();
    c.try_charge(10).unwrap();
    root.try_charge(57).unwrap();
    let mut first = Polled::pending(c.reserve(60));
    root.credit(30);
    let mut second = Polled::pending(c.reserve(65));
    c.credit(10);
    root.credit(27);
    drop(first.ended().unwrap());
    drop(second.ended().unwrap());
    assert_eq!(root.used(), 0);
}

#[test]
fn all_whose_wait_became_impossible_are_told() {
    let root = root(100);
    let c = root.child_with("c", &config(60, 0)).unwrap();
    root.try_charge(80).unwrap();
    let mut a = Polled::pending(c.reserve(50));
    let mut b = Polled::pending(c.reserve(60));
    root.set_capacity(45).unwrap();
    assert_eq!((code(a.ended()), code(b.ended())), ("budget_exceeded", "budget_exceeded"));
}

#[test]
fn enforcing_again_ends_waits_that_became_impossible() {
    let root = root(100);
    let observing = BudgetConfig { enforcement: Enforcement::Observe, ..config(50, 0) };
    let c = root.child_with("c", &observing).unwrap();
    root.try_charge(60).unwrap();
    let mut wait = Polled::pending(c.reserve(80));
    c.set_enforcement(Enforcement::Enforce);
    assert_eq!(code(wait.ended()), "budget_exceeded");
}

#[test]
fn a_transfer_is_counted_though_somebody_is_served_by_it() {
    let root = root(1000);
    let a = root.child_with("a", &config(250, 0)).unwrap();
    let observing = BudgetConfig { enforcement: Enforcement::Observe, ..config(100, 0) };
    let b = root.child_with("b", &observing).unwrap();
    let buffer = a.try_reserve(200).unwrap();
    a.try_charge(50).unwrap();
    let mut wait = Polled::pending(a.reserve(150));
    let buffer = buffer.transfer(&b).unwrap();
    assert_eq!(wait.ended().unwrap().bytes(), 150);
    assert_eq!((b.snapshot().excused, b.snapshot().excused_bytes), (1, 200));
    drop(buffer);
}

#[test]
fn a_waker_that_panics_does_not_keep_others_asleep() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("injected");
        }
    }
    let root = root(100);
    root.try_charge(100).unwrap();
    let mut first = Box::pin(root.reserve(50));
    let waker = Waker::from(Arc::new(Panics));
    assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let mut second = Polled::pending(root.reserve(50));
    // Nor does it get out: an allocator may be in the middle of its work.
    root.credit(100);
    assert_eq!(second.ended().unwrap().bytes(), 50);
    assert!(matches!(first.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Ready(Ok(_))));
}
