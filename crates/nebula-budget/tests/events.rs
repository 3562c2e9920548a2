//! What watches hear, and what is counted and reported.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use nebula_budget::{
    Account, BudgetConfig, BudgetEvent, BudgetState, Enforcement, MemoryBudget, Watch,
};
use nebula_memory_core::MemoryError;

fn root(capacity: usize) -> MemoryBudget {
    MemoryBudget::root("root", capacity).unwrap()
}

fn config(capacity: usize, guaranteed: usize) -> BudgetConfig {
    BudgetConfig::builder(capacity.into()).guaranteed(guaranteed.into()).build().unwrap()
}

fn code<T>(outcome: Result<T, MemoryError>) -> &'static str {
    outcome.map(drop).unwrap_err().code()
}

/// What was heard, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(String, u64, BudgetEvent)>>>);

impl Log {
    fn watch(budget: &MemoryBudget) -> (Self, Watch) {
        let log = Self::default();
        let heard = Arc::clone(&log.0);
        let watch = budget.watch(move |notice| {
            heard.lock().unwrap().push((notice.path.to_owned(), notice.sequence, notice.event));
        });
        (log, watch)
    }

    fn take(&self) -> Vec<(String, u64, BudgetEvent)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn events(&self) -> Vec<BudgetEvent> {
        self.take().into_iter().map(|(.., event)| event).collect()
    }
}

const fn moved(from: BudgetState, to: BudgetState) -> BudgetEvent {
    BudgetEvent::StateChanged { from, to }
}

const CREATED: BudgetState = BudgetState::Created;
const ACTIVE: BudgetState = BudgetState::Active;
const EXHAUSTED: BudgetState = BudgetState::Exhausted;
const RELEASED: BudgetState = BudgetState::Released;

#[test]
fn a_life_is_heard_from_the_first_charge_to_the_release() {
    let root = root(1000);
    let (log, _watch) = Log::watch(&root);
    assert_eq!(root.state(), CREATED);
    root.try_charge(1000).unwrap();
    assert_eq!(root.state(), ACTIVE);
    assert_eq!(code(root.try_charge(1)), "budget_exceeded");
    assert_eq!(code(root.try_charge(1)), "budget_exceeded");
    assert_eq!(root.state(), EXHAUSTED);
    root.credit(1);
    assert_eq!(root.state(), ACTIVE);
    assert_eq!(code(root.try_charge(2)), "budget_exceeded");
    root.credit(999);
    root.release().unwrap();
    root.release().unwrap();
    assert_eq!(root.state(), RELEASED);
    let heard = log.take();
    assert!(heard.iter().all(|(path, ..)| path == "root"));
    assert!(heard.windows(2).all(|pair| pair[0].1 < pair[1].1), "{heard:?}");
    assert_eq!(heard[0].1, 1);
    let events: Vec<_> = heard.into_iter().map(|(.., event)| event).collect();
    let expected = [
        moved(CREATED, ACTIVE),
        moved(ACTIVE, EXHAUSTED),
        moved(EXHAUSTED, ACTIVE),
        moved(ACTIVE, EXHAUSTED),
        moved(EXHAUSTED, ACTIVE),
        moved(ACTIVE, RELEASED),
    ];
    assert_eq!(events, expected);
}

#[test]
fn every_event_has_its_trigger_and_its_words() {
    let config = BudgetConfig { high: Some(500.into()), ..config(1000, 0) };
    let root = root(10_000);
    let a = root.child_with("a", &config).unwrap();
    let (log, _watch) = Log::watch(&a);
    let heard = |words: &str| {
        let events = log.events();
        let found = events.iter().find(|event| event.to_string().contains(words)).copied();
        found.unwrap_or_else(|| panic!("{words}: {events:?}"))
    };
    a.try_charge(600).unwrap();
    let passed = BudgetEvent::HighMarkPassed { committed: 600, high: 500 };
    assert_eq!(heard("above the mark of 500 B"), passed);
    a.credit(300);
    assert_eq!(heard("below the high mark again"), BudgetEvent::HighMarkLeft { committed: 300 });
    a.set_enforcement(Enforcement::Observe);
    a.try_charge(701).unwrap();
    assert_eq!(heard("would have been refused"), BudgetEvent::WouldRefuse { requested: 701 });
    a.set_enforcement(Enforcement::Enforce);
    a.try_charge(1).unwrap_err();
    assert_eq!(heard("active -> exhausted"), moved(ACTIVE, EXHAUSTED));
    a.credit(1000);
    a.credit(3);
    assert_eq!(heard("that nobody had charged"), BudgetEvent::OverCredited { excess: 2 });
    a.try_charge(70).unwrap();
    a.release().unwrap();
    assert_eq!(heard("released with 70 B still charged"), BudgetEvent::Leaked { bytes: 70 });
    a.credit(70);
    assert_eq!((root.used(), root.committed()), (0, 0));
}

#[test]
fn an_ancestor_hears_of_descendants_and_not_the_other_way() {
    let root = root(1000);
    let a = root.child("a", 500).unwrap();
    let b = a.child("b", 300).unwrap();
    let sibling = root.child("sibling", 100).unwrap();
    let (at_root, _r) = Log::watch(&root);
    let (at_a, _a) = Log::watch(&a);
    let (at_b, _b) = Log::watch(&b);
    b.try_charge(301).unwrap_err();
    let heard = at_b.take();
    assert_eq!(heard.len(), 2);
    assert!(heard.iter().all(|(path, ..)| path == "root/a/b"));
    assert_eq!((at_a.take(), at_root.take()), (heard.clone(), heard));
    a.try_charge(500).unwrap_err();
    assert!(at_b.take().is_empty());
    assert_eq!((at_a.take().len(), at_root.take().len()), (1, 1));
    sibling.try_charge(1).unwrap();
    assert!(at_a.take().is_empty());
    assert_eq!(at_root.take()[0].0, "root/sibling");
}

#[test]
fn a_dropped_watch_is_silent_and_a_detached_one_stays() {
    let root = root(10);
    let exhaust = || {
        root.try_charge(11).unwrap_err();
        root.credit(0);
        root.try_charge(10).unwrap();
        root.credit(10);
    };
    let (dropped, watch) = Log::watch(&root);
    let (detached, kept) = Log::watch(&root);
    assert!(format!("{watch:?}").contains("root"));
    kept.detach();
    exhaust();
    assert_eq!(dropped.events(), detached.events());
    drop(watch);
    exhaust();
    assert!(dropped.take().is_empty());
    assert_eq!(detached.events(), [moved(ACTIVE, EXHAUSTED), moved(EXHAUSTED, ACTIVE)]);
    // A watch may outlive its budget's last handle.
    let (late, watch) = Log::watch(&root);
    drop(root);
    assert_eq!(late.events(), [moved(ACTIVE, RELEASED)]);
    drop(watch);
}

#[test]
fn a_hook_may_use_the_tree_it_hears_of() {
    let root = root(1000);
    let a = root.child_with("a", &config(500, 0)).unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let (tree, counter) = (root.clone(), Arc::clone(&calls));
    let watch = a.watch(move |notice| {
        if notice.event != moved(ACTIVE, EXHAUSTED) {
            return;
        }
        counter.fetch_add(1, Ordering::SeqCst);
        let held = tree.try_reserve(10).unwrap();
        let child = tree.child("from-a-hook", 20).unwrap();
        child.try_charge(20).unwrap();
        child.credit(20);
        drop(tree.reserve(5).wait().unwrap());
        child.release().unwrap();
        let inner = tree.watch(|_| ());
        assert!(tree.snapshot().used >= held.bytes());
        tree.set_capacity(1000).unwrap();
        drop(inner);
    });
    let held = a.try_reserve(500).unwrap();
    assert_eq!(code(a.try_charge(1)), "budget_exceeded");
    drop(held);
    assert_eq!((calls.load(Ordering::SeqCst), root.used()), (1, 0));
    // Its hook holds the root.
    drop(watch);
    assert_eq!(root.charges(), 2);
}

#[test]
fn a_hook_may_end_its_own_watch() {
    let root = root(10);
    let own = Arc::<Mutex<Option<Watch>>>::default();
    let calls = Arc::new(AtomicUsize::new(0));
    let (watch, counter) = (Arc::clone(&own), Arc::clone(&calls));
    let made = root.watch(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        let watch = watch.lock().unwrap().take();
        drop(watch);
    });
    own.lock().unwrap().replace(made);
    root.try_charge(1).unwrap();
    root.try_charge(10).unwrap_err();
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[test]
fn a_hook_that_panics_changes_nothing() {
    let root = root(100);
    let panicking = root.watch(|_| panic!("a hook's own matter"));
    let (log, _watch) = Log::watch(&root);
    root.try_charge(100).unwrap();
    assert_eq!(code(root.try_charge(1)), "budget_exceeded");
    root.credit(100);
    drop(panicking);
    let expected = [moved(CREATED, ACTIVE), moved(ACTIVE, EXHAUSTED), moved(EXHAUSTED, ACTIVE)];
    assert_eq!(log.events(), expected);
    assert_eq!((root.used(), root.refusals()), (0, 1));
}

#[test]
fn what_is_credited_and_was_never_charged_is_ignored_and_counted() {
    let root = root(1000);
    let a = root.child("a", 400).unwrap();
    let borrowing = root.child_with("borrowing", &config(400, 0)).unwrap();
    let (log, _watch) = Log::watch(&root);
    for (budget, charged) in [(&a, 0), (&a, 100), (&borrowing, 0), (&borrowing, 100)] {
        let before = budget.snapshot().over_credited;
        log.take();
        budget.try_charge(charged).unwrap();
        budget.credit(budget.committed() + 7);
        assert_eq!(budget.snapshot().over_credited, before + 7);
        budget.account().credit(1000);
        assert_eq!(budget.snapshot().over_credited, before + 1007);
        let is_over = |event: &BudgetEvent| matches!(event, BudgetEvent::OverCredited { .. });
        let over: Vec<_> = log.events().into_iter().filter(is_over).collect();
        let expected = [7, 1000].map(|excess| BudgetEvent::OverCredited { excess });
        assert_eq!(over, expected);
        assert_eq!(budget.used(), 0);
        // No more is to be had than before.
        let all = budget.try_reserve(400).unwrap();
        assert_eq!(code(budget.try_charge(1)), "budget_exceeded");
        drop(all);
    }
    drop((a, borrowing));
    assert_eq!((root.used(), root.committed(), root.snapshot().over_credited), (0, 0, 0));
    root.credit(usize::MAX);
    let all = root.try_reserve(1000).unwrap();
    assert_eq!(code(root.try_charge(1)), "budget_exceeded");
    drop(all);
}

#[test]
fn a_local_account_credits_no_more_than_it_charged() {
    let root = root(1 << 20);
    root.try_charge(5000).unwrap();
    let (log, _watch) = Log::watch(&root);
    let local = root.local();
    for (charges, bytes) in [(0, 0), (1, 100), (50, 10), (1, 200_000)] {
        (0..charges).for_each(|_| local.try_charge(bytes).unwrap());
        log.take();
        let before = root.snapshot().over_credited;
        local.credit(charges * bytes + 40);
        assert_eq!(log.events(), [BudgetEvent::OverCredited { excess: 40 }]);
        assert_eq!(root.snapshot().over_credited, before + 40);
        // The others' bytes are not touched.
        assert_eq!((local.charged(), root.used()), (0, 5000));
    }
    local.credit(usize::MAX);
    assert_eq!((local.charged(), root.used()), (0, 5000));
    drop(local);
    root.credit(5000);
    assert_eq!(root.committed(), 0);
}

#[test]
fn a_release_reports_what_is_still_charged_and_through_whom() {
    let root = root(10_000);
    let a = root.child("a", 5000).unwrap();
    assert!(root.child("empty", 10).unwrap().release().unwrap().is_none());
    let b = a.child("b", 1000).unwrap();
    let held = (a.try_reserve(300).unwrap(), b.try_reserve(70).unwrap());
    assert_eq!(code(a.release()), "live_children");
    let of_b = b.release().unwrap().unwrap();
    assert_eq!((of_b.path.as_str(), of_b.bytes, of_b.bytes_below), ("root/a/b", 70, 0));
    let local = a.local();
    local.try_charge(5).unwrap();
    let report = a.release().unwrap().unwrap();
    assert_eq!((report.path.as_str(), report.bytes, report.bytes_below), ("root/a", 375, 70));
    assert_eq!((report.owners, report.released_children.as_slice()), (1, &["b".to_owned()][..]));
    let words = report.to_string();
    assert!(words.contains("375 B") && words.contains("`b`"), "{words}");
    // Asked again, it tells what is left by now.
    drop(held);
    let report = a.release().unwrap().unwrap();
    assert_eq!((report.bytes, report.bytes_below, root.used()), (5, 0, 5));
    local.credit(5);
    drop(local);
    assert!(a.release().unwrap().is_none());
    assert_eq!((root.used(), root.committed()), (0, 0));
}

#[test]
fn the_last_handle_s_drop_tells_of_what_leaks() {
    let root = root(1000);
    let (log, _watch) = Log::watch(&root);
    let a = root.child("a", 500).unwrap();
    let (twin, held) = (a.clone(), a.try_reserve(42).unwrap());
    log.take();
    drop(a);
    assert!(log.take().is_empty());
    drop(twin);
    assert_eq!(log.events(), [moved(ACTIVE, RELEASED), BudgetEvent::Leaked { bytes: 42 }]);
    assert_eq!(root.used(), 42);
    drop(held);
    assert_eq!((root.used(), root.snapshot().children.len()), (0, 0));
}

#[test]
fn charges_and_refusals_are_counted_one_by_one() {
    let root = root(1 << 20);
    let a = root.child_with("a", &config(1 << 20, 0)).unwrap();
    let mut expected = 0;
    for _ in 0..10_000 {
        a.try_charge(1).unwrap();
    }
    a.credit(10_000);
    expected += 10_000;
    let (first, second) = (a.local(), a.local());
    for i in 0..6000 {
        first.try_charge(20).unwrap();
        second.try_charge(if i % 100 == 0 { 30_000 } else { 1 }).unwrap();
        second.credit(if i % 100 == 0 { 30_000 } else { 1 });
    }
    expected += 12_000;
    assert_eq!((a.charges(), a.snapshot().charges), (expected, expected));
    first.credit(6000 * 20);
    drop(first);
    assert_eq!(a.charges(), expected, "a closed account's charges stay counted");
    let mut buffer = a.try_reserve(10).unwrap();
    (0..50).for_each(|_| buffer.try_grow(1).unwrap());
    buffer.shrink(20);
    drop(buffer.split(5).unwrap());
    buffer.grow(3).wait().unwrap();
    expected += 52;
    assert_eq!(a.charges(), expected);
    drop((buffer, second));
    assert_eq!((a.charges(), root.charges(), a.refusals()), (expected, 0, 0));
    let held = root.try_reserve(1 << 20).unwrap();
    let local = a.local();
    for _ in 0..10 {
        a.try_charge(1).unwrap_err();
        local.try_charge(1).unwrap_err();
        a.try_charge((1 << 20) + 1).unwrap_err();
    }
    // Who refused is who is counted: the root for want of memory, `a` for its own limit.
    assert_eq!((root.refusals(), a.refusals()), (20, 10));
    assert_eq!((a.charges(), root.charges()), (expected, 1));
    drop(held);
}
