//! Waiting across the levels of a tree, and waits that could never end.

mod polled;

use std::{sync::mpsc, thread, time::Duration};

use nebula_budget::{Account, BudgetConfig, Enforcement, MemoryBudget};
use nebula_memory_core::allocator_api2::vec::Vec as AccountedVec;
use nebula_testing::watchdog;

use self::polled::{Polled, code, config, root};

const MIB: usize = 1 << 20;

/// Two tenants that may both have everything, the second of which has it.
fn full() -> (MemoryBudget, MemoryBudget, MemoryBudget) {
    let root = root(10 * MIB);
    let a = root.child_with("a", &config(10 * MIB, 0)).unwrap();
    let b = root.child_with("b", &config(10 * MIB, 0)).unwrap();
    (root, a, b)
}

#[test]
fn a_sibling_s_credit_serves_at_once_what_waits_at_the_parent() {
    let (root, a, b) = full();
    b.try_charge(10 * MIB).unwrap();
    let mut wait = Polled::pending(a.reserve(1000));
    assert_eq!((root.snapshot().waiting, a.snapshot().waiting), (1, 0));
    // Without anybody in line, it would keep as little for itself.
    b.credit(999);
    wait.waits();
    b.credit(1);
    drop(wait.ended().unwrap());
    b.credit(10 * MIB - 1000);
    assert_eq!(root.used(), 0);
}

#[test]
fn deep_below_as_well_and_with_unspent_chunks_on_the_way() {
    let (root, a, b) = full();
    let leaf = b.child_with("c", &config(10 * MIB, 0)).unwrap();
    let leaf = leaf.child_with("d", &config(10 * MIB, 0)).unwrap();
    for _ in 0..10 * MIB / 1024 {
        leaf.try_charge(1024).unwrap();
    }
    let mut wait = Polled::pending(a.reserve(1024));
    leaf.credit(1024);
    assert_eq!(wait.ended().unwrap().bytes(), 1024);
    leaf.credit(10 * MIB - 1024);
    assert_eq!(root.used(), 0);
}

#[test]
fn a_sibling_s_reservation_that_shrinks_serves_at_once() {
    let (root, a, b) = full();
    let mut buffer = b.try_reserve(10 * MIB - 2000).unwrap();
    // With funds of its own by now.
    (0..200).for_each(|_| buffer.try_grow(10).unwrap());
    let mut wait = Polled::pending(a.reserve(10));
    buffer.shrink(10);
    assert_eq!(wait.ended().unwrap().bytes(), 10);
    let mut wait = Polled::pending(a.reserve(11));
    drop(buffer);
    assert_eq!(wait.ended().unwrap().bytes(), 11);
    assert_eq!((root.used(), root.snapshot().waiting), (0, 0));
}

#[test]
fn a_local_account_on_another_thread_serves_with_its_next_credit() {
    watchdog(Duration::from_secs(60), || {
        let (root, a, b) = full();
        let (filled, is_filled) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        thread::scope(|s| {
            let of_b = &b;
            s.spawn(move || {
                let local = of_b.local();
                let mut charged = 0;
                while local.try_charge(100).is_ok() {
                    charged += 1;
                }
                filled.send(()).unwrap();
                may_go.recv().unwrap();
                local.credit(100);
                // It stays, and holds the rest, until the other one was served.
                may_go.recv().unwrap();
                (1..charged).for_each(|_| local.credit(100));
            });
            is_filled.recv().unwrap();
            let rest = root.try_reserve(root.capacity() - root.used()).unwrap();
            let blocked = s.spawn(|| a.reserve(100).wait().unwrap().bytes());
            go.send(()).unwrap();
            assert_eq!(blocked.join().unwrap(), 100);
            go.send(()).unwrap();
            drop(rest);
        });
        assert_eq!(root.used(), 0);
    });
}

#[test]
fn a_vector_in_a_sibling_s_allocator_serves_when_it_is_dropped() {
    let (root, a, b) = full();
    let mut rows = AccountedVec::new_in(b.allocator());
    rows.try_reserve_exact(10 * MIB).unwrap();
    rows.push(1_u8);
    let mut wait = Polled::pending(a.reserve(4 * MIB));
    rows.shrink_to(8 * MIB);
    wait.waits();
    drop(rows);
    assert_eq!(wait.ended().unwrap().bytes(), 4 * MIB);
    assert_eq!(root.used(), 0);
}

#[test]
fn tenants_that_are_short_at_different_levels_do_not_block_each_other() {
    let root = root(1000);
    let small = root.child_with("small", &config(100, 0)).unwrap();
    let large = root.child_with("large", &config(1000, 0)).unwrap();
    let other = root.child_with("other", &config(1000, 0)).unwrap();
    let of_small = small.try_reserve(60).unwrap();
    let of_other = other.try_reserve(940).unwrap();
    let mut at_small = Polled::pending(small.reserve(100));
    let mut at_root = Polled::pending(large.reserve(500));
    assert_eq!((small.snapshot().waiting, root.snapshot().waiting), (1, 1));
    // Memory of the whole tree is of no use to who is short of its own.
    drop(of_other);
    at_small.waits();
    let held = at_root.ended().unwrap();
    drop(of_small);
    assert_eq!(at_small.ended().unwrap().bytes(), 100);
    drop(held);
    assert_eq!((root.used(), root.snapshot().waiting), (0, 0));
}

#[test]
fn who_got_past_one_level_waits_at_the_next() {
    let root = root(1000);
    let a = root.child_with("a", &config(500, 0)).unwrap();
    let of_a = a.try_reserve(500).unwrap();
    let of_root = root.try_reserve(500).unwrap();
    let mut wait = Polled::pending(a.reserve(400));
    assert_eq!((root.snapshot().waiting, a.snapshot().waiting), (0, 1));
    a.set_capacity(850).unwrap();
    assert_eq!((root.snapshot().waiting, a.snapshot().waiting), (0, 1));
    // Its own level has room now; the root has not.
    a.set_capacity(900).unwrap();
    assert_eq!((root.snapshot().waiting, a.snapshot().waiting), (1, 0));
    wait.waits();
    drop(of_root);
    assert_eq!((wait.ended().unwrap().bytes(), root.snapshot().waiting), (400, 0));
    drop(of_a);
    assert_eq!(root.used(), 0);
}

#[test]
fn a_guaranteed_part_serves_its_own_waiter_wherever_that_stands() {
    let root = root(1000);
    let a = root.child_with("a", &config(1000, 500)).unwrap();
    let of_a = a.try_reserve(500).unwrap();
    let of_root = root.try_reserve(500).unwrap();
    // Somebody else stands in front, for whom it is of no use.
    let mut first = Polled::pending(root.reserve(400));
    let mut wait = Polled::pending(a.reserve(200));
    assert_eq!(root.snapshot().waiting, 2);
    drop(of_a);
    assert_eq!(wait.ended().unwrap().bytes(), 200);
    first.waits();
    drop(of_root);
    assert_eq!(first.ended().unwrap().bytes(), 400);
    assert_eq!((root.used(), root.snapshot().waiting), (0, 0));
}

#[test]
fn a_guaranteed_part_is_gathered_by_who_stands_first() {
    let root = root(1000);
    let a = root.child_with("a", &config(1000, 500)).unwrap();
    let b = a.child_with("b", &config(1000, 100)).unwrap();
    let local = b.local();
    (0..50).for_each(|_| local.try_charge(2).unwrap());
    let of_a = a.try_reserve(400).unwrap();
    let of_root = root.try_reserve(500).unwrap();
    let mut wait = Polled::pending(b.reserve(502));
    drop(of_a);
    local.credit(2);
    wait.waits();
    assert_eq!(code(b.try_reserve(1)), "budget_exceeded");
    local.credit(98);
    wait.waits();
    drop(of_root);
    assert_eq!(wait.ended().unwrap().bytes(), 502);
    assert_eq!((root.used(), root.snapshot().waiting), (0, 0));
}

#[test]
fn who_moves_to_the_front_of_another_line_gets_what_was_gathered_there() {
    let root = root(1000);
    let a = root.child_with("a", &config(1000, 0)).unwrap();
    let of_root = root.try_reserve(400).unwrap();
    let of_a = a.try_reserve(300).unwrap();
    let mut old = Polled::pending(a.reserve(700));
    let mut young = Polled::pending(a.reserve(500));
    assert_eq!((root.snapshot().waiting, a.snapshot().waiting), (1, 1));
    // Now the older one is short at `a`, too, but nobody has looked yet.
    a.set_capacity(950).unwrap();
    drop(of_a);
    young.waits();
    drop(of_root);
    let held = old.ended().unwrap();
    young.waits();
    drop(held);
    assert_eq!(young.ended().unwrap().bytes(), 500);
    assert_eq!((root.used(), root.snapshot().waiting), (0, 0));
}

#[test]
fn two_who_stand_first_at_different_levels_do_not_gather_each_other_s_bytes() {
    let root = root(1000);
    let a = root.child_with("a", &config(800, 0)).unwrap();
    let _own = root.child("own", 250).unwrap();
    let (of_a, of_root) = (a.try_reserve(300).unwrap(), root.try_reserve(200).unwrap());
    let mut at_root = Polled::pending(a.reserve(500));
    let mut at_a = Polled::pending(a.reserve(600));
    assert_eq!((root.snapshot().waiting, a.snapshot().waiting), (1, 1));
    // Shared between the two, it would be enough for neither.
    drop(of_a);
    let held = at_root.ended().unwrap();
    at_a.waits();
    drop(of_root);
    drop(held);
    assert_eq!(at_a.ended().unwrap().bytes(), 600);
    assert_eq!((root.used(), root.snapshot().waiting), (0, 0));
}

#[test]
fn a_wait_ended_by_a_limit_makes_way_for_who_stands_behind() {
    let root = root(1000);
    let a = root.child_with("a", &config(500, 0)).unwrap();
    let c = a.child_with("c", &config(500, 0)).unwrap();
    let of_a = a.try_reserve(450).unwrap();
    let mut first = Polled::pending(c.reserve(400));
    let mut second = Polled::pending(a.reserve(60));
    a.set_capacity(700).unwrap();
    first.waits();
    second.waits();
    c.set_capacity(399).unwrap();
    assert_eq!(code(first.ended()), "budget_exceeded");
    assert_eq!(second.ended().unwrap().bytes(), 60);
    drop(of_a);
    assert_eq!((root.used(), root.snapshot().waiting), (0, 0));
}

#[test]
fn bytes_that_are_transferred_away_serve_who_waits_for_their_place() {
    let root = root(1000);
    let (a, b) = (root.child("a", 500).unwrap(), root.child("b", 500).unwrap());
    let buffer = a.try_reserve(500).unwrap();
    let mut wait = Polled::pending(a.reserve(200));
    let buffer = buffer.transfer(&b).unwrap();
    assert_eq!(wait.ended().unwrap().bytes(), 200);
    drop(buffer);
    assert_eq!((root.used(), root.snapshot().waiting), (0, 0));
}

// On 32-bit targets a budget can hold all that a number can say.
#[cfg(target_pointer_width = "64")]
#[test]
fn a_wait_for_more_than_there_can_be_of_anything_fails_at_once() {
    watchdog(Duration::from_secs(60), || {
        for enforcement in [Enforcement::Enforce, Enforcement::Observe] {
            let config = BudgetConfig::builder(usize::MAX.into()).enforcement(enforcement);
            let root = MemoryBudget::root_with("root", &config.build().unwrap()).unwrap();
            for bytes in [usize::MAX, usize::MAX - 5, usize::MAX / 2] {
                assert_eq!(code(root.reserve(bytes).wait()), "budget_exceeded");
            }
            assert_eq!(root.used(), 0);
        }
    });
}

#[test]
fn a_budget_that_observes_keeps_nobody_waiting() {
    let root = root(1000);
    let observing =
        BudgetConfig::builder(100.into()).guaranteed(0.into()).enforcement(Enforcement::Observe);
    let a = root.child_with("a", &observing.build().unwrap()).unwrap();
    drop(Polled::new(a.reserve(1000)).outcome().unwrap());
    let held = root.try_reserve(900).unwrap();
    // The enforcing parent is short; `a` would refuse, and only observes.
    let mut wait = Polled::pending(a.reserve(200));
    drop(held);
    drop(wait.ended().unwrap());
    assert_eq!((root.used(), root.snapshot().waiting), (0, 0));
    let snapshot = a.snapshot();
    assert_eq!((snapshot.excused, snapshot.excused_bytes), (2, 1200));
}

#[test]
fn who_begins_to_observe_serves_those_who_wait() {
    let root = root(1000);
    let a = root.child_with("a", &config(500, 0)).unwrap();
    let held = (a.try_reserve(500).unwrap(), root.try_reserve(500).unwrap());
    let mut wait = Polled::pending(a.reserve(100));
    // Its own limit is in nobody's way any more; the root's is.
    a.set_enforcement(Enforcement::Observe);
    wait.waits();
    root.set_enforcement(Enforcement::Observe);
    let served = wait.ended().unwrap();
    assert_eq!((served.bytes(), root.used()), (100, 1100));
    assert_eq!((root.snapshot().excused, a.snapshot().excused), (1, 1));
    drop((held, served));
    assert_eq!(root.used(), 0);
}

#[test]
fn two_that_hold_half_each_and_grow_are_a_deadlock_of_the_second() {
    let root = root(1000);
    let (mut a, mut b) = (root.try_reserve(500).unwrap(), root.try_reserve(500).unwrap());
    let mut first = Polled::pending(a.grow(500));
    let error = Polled::new(b.grow(500)).outcome().unwrap_err();
    assert!(error.code() == "deadlock" && error.is_retryable(), "{error}");
    assert!(error.to_string().contains("`root`"), "{error}");
    assert_eq!((b.bytes(), root.used(), root.snapshot().waiting), (500, 1000, 1));
    first.waits();
    drop(b);
    first.ended().unwrap();
    drop(first);
    assert_eq!((a.bytes(), root.used()), (1000, 1000));
}

#[test]
fn what_is_said_to_be_held_counts_like_what_grows() {
    let root = root(1000);
    let mut a = root.try_reserve(500).unwrap();
    root.try_charge(500).unwrap();
    let first = Polled::pending(root.reserve(300).holding(500));
    assert_eq!(code(Polled::new(a.grow(1)).outcome()), "deadlock");
    drop(first);
    // With less in its hands, what the others can give is enough for it, and then for `a`.
    let mut first = Polled::pending(root.reserve(300).holding(200));
    let mut second = Polled::pending(a.grow(300));
    first.waits();
    root.credit(300);
    let held = first.ended().unwrap();
    second.waits();
    drop(held);
    second.ended().unwrap();
    drop(second);
    root.credit(200);
    assert_eq!((a.bytes(), root.used()), (800, 800));
}

#[test]
fn a_circle_may_go_through_several_levels() {
    let root = root(1000);
    let a = root.child_with("a", &config(600, 0)).unwrap();
    let b = root.child_with("b", &config(1000, 0)).unwrap();
    let (mut of_a, mut of_b) = (a.try_reserve(600).unwrap(), b.try_reserve(400).unwrap());
    let mut other = Polled::pending(of_b.grow(300));
    // Short at `a`, of what only it holds itself.
    assert_eq!(code(Polled::new(of_a.grow(100)).outcome()), "deadlock");
    assert_eq!(of_a.shrink(100), 100);
    // There is room at `a`; but at the root it would wait behind one that waits for it.
    assert_eq!(code(Polled::new(of_a.grow(100)).outcome()), "deadlock");
    other.waits();
    drop(of_a);
    other.ended().unwrap();
    drop(other);
    assert_eq!(of_b.bytes(), 700);
}

#[test]
fn one_who_does_not_wait_and_holds_enough_is_no_deadlock() {
    let root = root(1000);
    let mut a = root.try_reserve(300).unwrap();
    let mut b = root.try_reserve(300).unwrap();
    let idle = root.try_reserve(400).unwrap();
    let (mut of_a, mut of_b) = (Polled::pending(a.grow(400)), Polled::pending(b.grow(700)));
    drop(idle);
    of_a.ended().unwrap();
    of_b.waits();
    drop(of_a);
    drop(a);
    of_b.ended().unwrap();
    drop(of_b);
    assert_eq!((b.bytes(), root.used()), (1000, 1000));
}

#[test]
fn what_is_guaranteed_is_no_part_of_a_circle() {
    let root = root(1000);
    let a = root.child_with("a", &config(1000, 500)).unwrap();
    let idle = a.try_reserve(400).unwrap();
    let mut buffer = a.try_reserve(100).unwrap();
    let of_root = root.try_reserve(100).unwrap();
    // As long as the other holds something, this one has to wait.
    let mut all = Polled::pending(root.reserve(950));
    let mut grow = Polled::pending(buffer.grow(100));
    drop(idle);
    grow.ended().unwrap();
    all.waits();
    drop(grow);
    drop((buffer, of_root));
    all.waits();
    a.release().unwrap();
    assert_eq!(all.ended().unwrap().bytes(), 950);
}

#[test]
fn a_lowered_capacity_that_closes_a_circle_ends_the_latest_wait() {
    let root = root(1000);
    let (mut a, mut b) = (root.try_reserve(300).unwrap(), root.try_reserve(300).unwrap());
    root.try_charge(400).unwrap();
    let (mut of_a, mut of_b) = (Polled::pending(a.grow(300)), Polled::pending(b.grow(300)));
    root.set_capacity(800).unwrap();
    of_a.waits();
    assert_eq!(code(of_b.ended()), "deadlock");
    drop(of_b);
    drop(b);
    of_a.waits();
    root.credit(400);
    of_a.ended().unwrap();
    drop(of_a);
    drop(a);
    assert_eq!((root.used(), root.committed()), (0, 0));
}
