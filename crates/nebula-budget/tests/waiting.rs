//! Waiting for bytes at one budget: the line, its order, and how waits end.

mod polled;

use std::{
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Barrier, Mutex, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nebula_budget::{Account, Grow, MemoryBudget, Reservation, Reserve};
use nebula_memory_core::{MemoryError, PressureLevel, Reclaim, Throttle};
use nebula_testing::{Rng, watchdog};
use static_assertions::assert_impl_all;

use self::polled::{Polled, code, config, root};

assert_impl_all!(Reserve: Send, Unpin, Future<Output = Result<Reservation, MemoryError>>);
assert_impl_all!(Grow<'static>: Send, Unpin, Future<Output = Result<(), MemoryError>>);

/// It may be spawned: it borrows nothing.
const fn may_be_spawned<F: Future + Send + 'static>() {}
const _: () = may_be_spawned::<Reserve>();

#[test]
fn what_is_free_is_granted_with_the_first_poll() {
    let root = root(1000);
    let mut wait = Polled::new(root.reserve(1000));
    assert_eq!(root.used(), 0, "a wait begins with its first poll");
    let held = wait.outcome().unwrap();
    assert_eq!((held.bytes(), root.used(), wait.wakes.count()), (1000, 1000, 0));
    assert_eq!(held.path(), "root");
    drop(held);
    assert_eq!((root.used(), root.charges()), (0, 1));
}

#[test]
fn a_wait_is_woken_once_by_the_credit_that_completes_it() {
    let root = root(1000);
    root.try_charge(1000).unwrap();
    let mut wait = Polled::pending(root.reserve(300));
    assert_eq!(root.snapshot().waiting, 1);
    root.credit(200);
    wait.waits();
    root.credit(100);
    let held = wait.ended().unwrap();
    assert_eq!((held.bytes(), root.used(), root.snapshot().waiting), (300, 1000, 0));
    root.credit(700);
    assert_eq!(wait.wakes.count(), 1);
    drop(held);
    assert_eq!((root.used(), root.committed()), (0, 0));
}

#[test]
fn a_later_poll_s_waker_is_the_one_that_counts() {
    let root = root(100);
    let held = root.try_reserve(100).unwrap();
    let mut wait = Polled::pending(root.reserve(10));
    let first = std::mem::take(&mut wait.wakes);
    assert!(wait.poll().is_pending());
    drop(held);
    assert_eq!(first.count(), 0);
    assert_eq!(wait.ended().unwrap().bytes(), 10);
}

#[test]
fn a_wait_dropped_in_line_leaves_what_it_gathered_to_the_next() {
    let root = root(1000);
    root.try_charge(1000).unwrap();
    let mut large = Polled::pending(root.reserve(800));
    let mut small = Polled::pending(root.reserve(400));
    root.credit(400);
    large.waits();
    small.waits();
    drop(large);
    assert_eq!(small.ended().unwrap().bytes(), 400);
    assert_eq!((root.used(), root.snapshot().waiting), (600, 0));
    root.credit(600);
    assert_eq!(root.committed(), 0);
}

#[test]
fn a_wait_dropped_after_it_was_served_leaves_its_bytes_to_the_next() {
    let root = root(1000);
    root.try_charge(1000).unwrap();
    let first = Polled::pending(root.reserve(500));
    let mut second = Polled::pending(root.reserve(500));
    root.credit(500);
    assert_eq!(first.wakes.count(), 1);
    second.waits();
    drop(first);
    drop(second.ended().unwrap());
    assert_eq!(root.used(), 500);
    // The last in line, served and dropped: nothing stays charged.
    root.try_charge(500).unwrap();
    let last = Polled::pending(root.reserve(1000));
    root.credit(1000);
    assert_eq!(last.wakes.count(), 1);
    drop(last);
    assert_eq!((root.used(), root.committed()), (0, 0));
}

#[test]
fn a_wait_that_was_never_polled_is_no_wait() {
    let root = root(100);
    root.try_charge(100).unwrap();
    drop(root.reserve(50));
    let unpolled = root.reserve(50);
    assert_eq!(root.snapshot().waiting, 0);
    drop(unpolled);
    root.credit(100);
    assert_eq!((root.used(), root.charges()), (0, 1));
}

#[test]
fn who_came_first_is_served_first() {
    let root = root(1000);
    root.try_charge(1000).unwrap();
    let mut waits: Vec<_> = (0..10).map(|_| Polled::pending(root.reserve(100))).collect();
    for i in 0..10 {
        root.credit(100);
        for (j, wait) in waits.iter().enumerate() {
            assert_eq!(wait.wakes.count(), usize::from(j <= i));
        }
    }
    let held: Vec<_> = waits.iter_mut().map(|wait| wait.ended().unwrap()).collect();
    assert_eq!(root.used(), 1000);
    drop(held);
    assert_eq!(root.used(), 0);
}

#[test]
fn higher_priorities_are_served_first_and_equals_by_age() {
    let root = root(100);
    root.try_charge(100).unwrap();
    let priorities = [0, 7, 255, 7, 0, 255];
    let mut waits: Vec<_> =
        priorities.map(|p| Polled::pending(root.reserve(100).priority(p))).into();
    root.credit(100);
    for next in [2, 5, 1, 3, 0, 4] {
        let held = waits[next].ended().unwrap();
        assert_eq!(waits.iter().filter(|wait| wait.wakes.count() > 0).count(), 1);
        waits[next].wakes = Arc::default();
        drop(held);
    }
    assert_eq!(root.committed(), 0);
}

#[test]
fn who_comes_with_a_higher_priority_takes_over_what_the_first_has_gathered() {
    let root = root(1000);
    root.try_charge(1000).unwrap();
    let mut patient = Polled::pending(root.reserve(700));
    root.credit(600);
    patient.waits();
    let mut urgent = Polled::new(root.reserve(600).priority(1));
    let held = urgent.outcome().unwrap();
    patient.waits();
    drop(held);
    root.credit(100);
    assert_eq!(patient.ended().unwrap().bytes(), 700);
}

#[test]
fn a_large_request_is_not_starved_by_later_small_ones() {
    let root = root(1000);
    let mut held: Vec<_> = (0..10).map(|_| root.try_reserve(100).unwrap()).collect();
    let mut large = Polled::pending(root.reserve(1000));
    let mut small: Vec<_> = (0..10).map(|_| Polled::pending(root.reserve(100))).collect();
    // Each credit would be enough for one of the small ones; and for a charge that does not wait.
    while let Some(one) = held.pop() {
        large.waits();
        drop(one);
        assert_eq!(code(root.try_reserve(1)), "budget_exceeded");
        small.iter_mut().for_each(Polled::waits);
    }
    drop(large.ended().unwrap());
    for wait in &mut small {
        drop(wait.ended().unwrap());
    }
    assert_eq!((root.used(), root.committed()), (0, 0));
}

#[test]
fn what_a_capacity_on_the_way_can_never_hold_fails_at_once_for_good() {
    let root = root(1000);
    let a = root.child_with("a", &config(500, 0)).unwrap();
    let leaf = a.child_with("leaf", &config(300, 0)).unwrap();
    root.set_capacity(400).unwrap();
    for (budget, bytes, level) in
        [(&root, 401, "`root`"), (&a, 401, "`root`"), (&a, 501, "`root/a`"), (&leaf, 301, "/leaf`")]
    {
        let error = budget.reserve(bytes).wait().unwrap_err();
        assert!(!error.is_retryable() && error.code() == "budget_exceeded", "{error}");
        assert!(error.to_string().contains(level), "{error}");
    }
    assert_eq!(code(root.reserve(usize::MAX).wait()), "budget_exceeded");
    assert_eq!((root.used(), root.snapshot().waiting), (0, 0));
}

#[test]
fn a_blocked_thread_goes_on_when_the_bytes_are_there() {
    watchdog(Duration::from_secs(60), || {
        let root = root(1000);
        let held = root.try_reserve(1000).unwrap();
        thread::scope(|s| {
            let blocked = s.spawn(|| root.reserve(600).wait().unwrap());
            let patient = s.spawn(|| root.reserve(400).wait_timeout(Duration::MAX).unwrap());
            // Whether they wait already or come later, they get what they want.
            drop(held);
            let sum = blocked.join().unwrap().bytes() + patient.join().unwrap().bytes();
            assert_eq!(sum, 1000);
        });
        assert_eq!((root.used(), root.committed()), (0, 0));
    });
}

#[test]
fn a_time_out_leaves_nothing_charged_and_passes_on_what_was_gathered() {
    watchdog(Duration::from_secs(60), || {
        let root = root(1000);
        root.try_charge(1000).unwrap();
        let timeout = Duration::from_micros(1);
        let error = root.reserve(10).wait_timeout(timeout).unwrap_err();
        assert!(matches!(error, MemoryError::Timeout { waited } if waited == timeout), "{error}");
        assert_eq!((root.used(), root.snapshot().waiting), (1000, 0));
        root.credit(300);
        // It stands in front, takes all there is, and leaves it to the other when it gives up.
        let mut behind = None;
        let first = root.reserve(500).priority(1).wait_timeout(Duration::ZERO);
        assert_eq!(code(first), "timeout");
        assert_eq!(root.used(), 700);
        let mut polled = Polled::pending(root.reserve(400));
        assert_eq!(code(root.reserve(500).priority(1).wait_timeout(Duration::ZERO)), "timeout");
        polled.waits();
        root.credit(100);
        behind.replace(polled.ended().unwrap());
        assert_eq!((root.used(), root.snapshot().waiting), (1000, 0));
        // What is there is granted, whatever the time-out.
        drop(behind);
        assert_eq!(root.reserve(400).wait_timeout(Duration::ZERO).unwrap().bytes(), 400);
        root.credit(600);
        assert_eq!(root.committed(), 0);
    });
}

#[test]
fn a_released_budget_ends_the_waits_for_it() {
    let root = root(1000);
    let (a, b) = (root.child("a", 400).unwrap(), root.child("b", 400).unwrap());
    let held = (a.try_reserve(400).unwrap(), b.try_reserve(400).unwrap());
    let (mut of_a, mut of_b) = (Polled::pending(a.reserve(1)), Polled::pending(b.reserve(1)));
    let mut late = Polled::new(a.reserve(1));
    a.release().unwrap();
    assert_eq!(code(of_a.ended()), "closed");
    assert_eq!(code(late.outcome()), "closed");
    of_b.waits();
    // The last handle's drop releases just as well: a wait is no handle.
    drop(b);
    assert_eq!(code(of_b.ended()), "closed");
    drop(held);
    assert_eq!((root.used(), root.committed()), (0, 0));
}

#[test]
fn a_raised_capacity_serves_those_who_wait() {
    let root = root(1000);
    root.try_charge(1000).unwrap();
    let mut waits = [300, 300, 300].map(|bytes| Polled::pending(root.reserve(bytes)));
    root.set_capacity(1400).unwrap();
    let first = waits[0].ended().unwrap();
    waits[1].waits();
    root.set_capacity(2000).unwrap();
    let rest = (waits[1].ended().unwrap(), waits[2].ended().unwrap());
    assert_eq!(root.used(), 1900);
    drop((first, rest));
    root.credit(1000);
    assert_eq!(root.committed(), 0);
}

#[test]
fn a_capacity_lowered_below_a_request_ends_the_wait() {
    let root = root(1000);
    let a = root.child_with("a", &config(1000, 0)).unwrap();
    root.try_charge(900).unwrap();
    let mut too_much = Polled::pending(a.reserve(600));
    let mut enough = Polled::pending(a.reserve(300));
    a.set_capacity(500).unwrap();
    let error = too_much.ended().unwrap_err();
    assert!(error.code() == "budget_exceeded" && !error.is_retryable(), "{error}");
    assert!(error.to_string().contains("`root/a`"), "{error}");
    enough.waits();
    root.set_capacity(200).unwrap();
    let error = enough.ended().unwrap_err();
    assert!(error.to_string().contains("`root`"), "{error}");
    root.credit(900);
    assert_eq!((root.used(), root.committed(), root.snapshot().waiting), (0, 0, 0));
}

#[test]
fn a_reservation_waits_to_grow_and_is_unchanged_by_a_time_out() {
    watchdog(Duration::from_secs(60), || {
        let root = root(1000);
        let mut buffer = root.try_reserve(400).unwrap();
        let other = root.try_reserve(500).unwrap();
        assert_eq!(code(buffer.grow(200).wait_timeout(Duration::ZERO)), "timeout");
        assert_eq!((buffer.bytes(), root.used()), (400, 900));
        buffer.grow(100).wait().unwrap();
        let mut grow = Polled::pending(buffer.grow(500));
        drop(other);
        grow.ended().unwrap();
        drop(grow);
        assert_eq!((buffer.bytes(), root.used()), (1000, 1000));
        assert_eq!(code(buffer.grow(1001).wait()), "budget_exceeded");
        // One with funds of its own waits just as well.
        buffer.shrink(1000);
        (0..20).for_each(|_| buffer.try_grow(10).unwrap());
        buffer.grow(800).wait().unwrap();
        assert_eq!((buffer.bytes(), root.used()), (1000, 1000));
        drop(buffer);
        assert_eq!((root.used(), root.committed()), (0, 0));
    });
}

#[test]
fn a_throttled_wait_fails_at_once() {
    let root = root(1000);
    root.limit_single_charges(Some(100));
    assert_eq!(code(root.reserve(101).wait()), "throttled");
    let held = root.reserve(100).wait().unwrap();
    root.limit_single_charges(None);
    assert_eq!(root.reserve(900).wait().unwrap().bytes(), 900);
    drop(held);
}

/// Waits for its own budget while it is asked to give back.
struct Hopeless {
    budget: MemoryBudget,
    outcomes: Mutex<Vec<&'static str>>,
}

impl Reclaim for Hopeless {
    fn reclaimable(&self) -> usize {
        1
    }

    fn reclaim(&self, wanted: usize, _: PressureLevel) -> usize {
        let outcome = self.budget.reserve(wanted).wait();
        self.outcomes.lock().unwrap().push(code(outcome));
        0
    }
}

#[test]
fn a_wait_begun_inside_a_reclaim_is_refused_instead_of_hanging() {
    watchdog(Duration::from_secs(60), || {
        let root = root(1000);
        let hopeless = Arc::new(Hopeless { budget: root.clone(), outcomes: Mutex::default() });
        let weak: Weak<dyn Reclaim> = Arc::downgrade(&hopeless) as _;
        root.reclaimers().register("hopeless", 0, weak).detach();
        let held = root.try_reserve(1000).unwrap();
        let mut wait = Polled::pending(root.reserve(100));
        assert_eq!(*hopeless.outcomes.lock().unwrap(), ["budget_exceeded"]);
        drop(held);
        assert_eq!(wait.ended().unwrap().bytes(), 100);
    });
}

#[test]
fn a_wait_polled_after_its_end_panics() {
    let root = root(100);
    let mut wait = Polled::new(root.reserve(10));
    let held = wait.outcome().unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| drop(wait.poll()))).is_err());
    drop(wait);
    assert_eq!(root.used(), held.bytes());
}

#[test]
fn a_tight_tree_serves_many_threads_and_ends_empty() {
    const CAPACITY: usize = 100_000;
    const THREADS: usize = 32;
    watchdog(Duration::from_secs(120), || {
        let root = root(CAPACITY);
        let tenants: Vec<_> = (0..4)
            .map(|i| root.child_with(&format!("t{i}"), &config(60_000, 4000 * (i % 2))).unwrap())
            .collect();
        let leaves: Vec<_> = (0..8)
            .map(|i| tenants[i % 4].child_with(&format!("q{i}"), &config(50_000, 0)).unwrap())
            .collect();
        let (held, start) = (AtomicUsize::new(0), Barrier::new(THREADS));
        thread::scope(|s| {
            for t in 0..THREADS {
                let (leaf, held, start) = (&leaves[t % 8], &held, &start);
                s.spawn(move || {
                    let mut rng = Rng::new(t as u64);
                    start.wait();
                    for _ in 0..200 {
                        let most = if rng.one_in(10) { 40_000 } else { 5000 };
                        let bytes = rng.between(1, most);
                        let priority = u8::from(rng.one_in(3));
                        let reservation = leaf.reserve(bytes).priority(priority).wait().unwrap();
                        let now = held.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        assert!(now <= CAPACITY, "{now} of {CAPACITY} are held");
                        if rng.one_in(4) {
                            thread::yield_now();
                        }
                        held.fetch_sub(bytes, Ordering::SeqCst);
                        drop(reservation);
                    }
                });
            }
        });
        drop((leaves, tenants));
        assert_eq!((root.used(), root.committed()), (0, 0), "{root}");
        assert!(root.peak() <= CAPACITY);
    });
}
