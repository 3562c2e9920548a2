//! Trees of pools: limits that hold whatever happens in between, who stands in whose way, and what a
//! failure leaves behind.

mod common;

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Wake, Waker},
    thread,
    time::Duration,
};

use common::{Factory, LIMIT, Object, block_on, poll, until};
use nebula_memory_core::{Account, MemoryError, MemoryUsage, PressureLevel, Reclaim};
use nebula_pool::{Growth, HierarchicalPool, OwnedGuard, PoolConfig};
use nebula_testing::{CountingAccount, InjectedPanic, catch, watchdog};

type Level = Arc<HierarchicalPool<Object, CountingAccount>>;

fn at_most(capacity: usize) -> PoolConfig {
    PoolConfig::builder().capacity(capacity).build().unwrap()
}

fn root_of(config: &PoolConfig) -> (Level, Factory, CountingAccount) {
    let (factory, account) = (Factory::of(100), CountingAccount::new());
    let make = factory.clone();
    let root = HierarchicalPool::try_new_in(config, account.clone(), move || make.make());
    (root.unwrap(), factory, account)
}

fn root(capacity: usize) -> Level {
    root_of(&at_most(capacity)).0
}

fn child(parent: &Level, capacity: usize) -> Level {
    parent.child(&at_most(capacity), CountingAccount::new()).unwrap()
}

#[test]
fn a_future_that_gives_up_does_not_put_a_level_over_its_capacity() {
    let root = root(3);
    let (a, b, c) = (child(&root, 1), child(&root, 3), child(&root, 3));
    let (first, second, third) = (a.try_get().unwrap(), c.try_get().unwrap(), c.try_get().unwrap());
    let mut waiting = Box::pin(b.get_async());
    assert!(poll(waiting.as_mut()).is_pending());
    // Handed to the one who waits, while it is still in the books of `a`.
    drop(first);
    drop(second);
    // `a` takes what is idle in `c`, and is full again.
    let other = a.try_get().unwrap();
    drop(waiting);
    assert_eq!((a.stats().lent, a.stats().idle, a.stats().surplus), (1, 0, 1));
    assert!(a.try_get().is_err());
    a.account().assert_balance(100);
    // There is room for it elsewhere.
    drop(b.try_get().unwrap());
    drop((other, third));
}

/// An account that runs something when it is charged, and may refuse after that.
#[derive(Default)]
struct Meddling {
    run: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    refuse: AtomicBool,
}

impl Account for Meddling {
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        let run = self.run.lock().unwrap().take();
        if let Some(run) = run {
            run();
        }
        if self.refuse.load(SeqCst) {
            return Err(MemoryError::PoolExhausted { in_use: bytes, capacity: 0 });
        }
        Ok(())
    }

    fn credit(&self, _bytes: usize) {}
}

#[test]
fn a_borrow_that_is_refused_does_not_put_a_level_over_its_capacity() {
    type Meddled = HierarchicalPool<Object, Arc<Meddling>>;
    let (factory, account) = (Factory::of(100), Arc::new(Meddling::default()));
    let make = factory.clone();
    let root = Meddled::try_new_in(&at_most(2), Arc::default(), move || make.make()).unwrap();
    let a = root.child(&at_most(1), Arc::default()).unwrap();
    let b = root.child(&at_most(2), Arc::clone(&account)).unwrap();
    let c = root.child(&at_most(2), Arc::default()).unwrap();
    drop((a.try_get().unwrap(), c.try_get().unwrap()));
    let held: Arc<Mutex<Vec<OwnedGuard<Meddled>>>> = Arc::default();
    // While `b` is charged for what it took from `a`, that gets another one.
    let (of_a, hold) = (Arc::clone(&a), Arc::clone(&held));
    let meddle = move || hold.lock().unwrap().push(of_a.try_get_owned().unwrap());
    *account.run.lock().unwrap() = Some(Box::new(meddle));
    account.refuse.store(true, SeqCst);
    assert!(b.try_get().is_err());
    assert!(a.try_get().is_err());
    assert_eq!((a.stats().lent, a.stats().idle, b.stats().lent), (1, 0, 0));
    held.lock().unwrap().clear();
    assert_eq!(a.stats().idle, 1);
}

#[test]
fn a_refused_growth_is_told_to_who_needs_it_and_holds_up_nobody() {
    let config = PoolConfig::builder().capacity(3).growth(Growth::Fixed(1)).build().unwrap();
    let (root, _, account) = root_of(&config);
    account.set_limit(account.balance());
    let (a, b) = (child(&root, 3), child(&root, 1));
    let held = b.try_get().unwrap();
    let mut first = Box::pin(b.get_async());
    assert!(poll(first.as_mut()).is_pending());
    // There is room, but no place, and none is to be had.
    let code = |error: MemoryError| error.code();
    assert_eq!(a.try_get().map(drop).map_err(code), Err("capacity_exceeded"));
    assert_eq!(a.get_timeout(LIMIT).map(drop).map_err(code), Err("capacity_exceeded"));
    assert_eq!(block_on(a.get_async()).map(drop).map_err(code), Err("capacity_exceeded"));
    assert_eq!(a.stats().lent, 0);
    drop(first);
    let mut second = Box::pin(b.get_async());
    assert!(poll(second.as_mut()).is_pending());
    drop(held);
    assert!(poll(second.as_mut()).is_ready());
}

#[test]
fn who_waits_at_one_level_does_not_stand_in_the_way_of_another() {
    let root = root(10);
    let (a, b) = (child(&root, 1), child(&root, 5));
    drop(b.try_get().unwrap());
    let held = a.try_get().unwrap();
    let mut waiting = Box::pin(a.get_async());
    assert!(poll(waiting.as_mut()).is_pending());
    // One of its own that is idle, others that have to be made.
    let crowd: Vec<_> = (0..5).map(|_| b.try_get().unwrap()).collect();
    assert!(poll(waiting.as_mut()).is_pending());
    drop((crowd, held));
    assert!(poll(waiting.as_mut()).is_ready());
}

#[test]
fn nobody_passes_who_waits_for_the_same() {
    let root = root(1);
    let (a, b) = (child(&root, 1), child(&root, 1));
    let held = a.try_get().unwrap();
    let mut waiting = Box::pin(b.get_async());
    assert!(poll(waiting.as_mut()).is_pending());
    drop(held);
    assert_eq!(a.try_get().unwrap_err().code(), "pool_exhausted");
    let guard = block_on(waiting).unwrap();
    assert!(a.try_get().is_err());
    drop(guard);
    assert!(a.try_get().is_ok());
}

#[test]
fn a_child_that_fails_leaves_nothing_charged_and_nothing_lost() {
    let warm = |n| PoolConfig::builder().capacity(8).warm_up(n).build().unwrap();
    let (root, factory, account) = root_of(&warm(1));
    let before = account.balance();
    let poor = CountingAccount::new();
    poor.set_limit(250);
    assert_eq!(root.child(&warm(4), poor.clone()).unwrap_err().code(), "capacity_exceeded");
    poor.assert_settled();
    account.assert_balance(before);
    // What it had borrowed is back.
    assert_eq!(root.stats().idle, 1);
    factory.counter.assert_live(1);
    factory.failures.store(1, SeqCst);
    assert_eq!(root.child(&warm(2), poor.clone()).unwrap_err().code(), "closed");
    poor.assert_settled();
    account.assert_balance(before);
    assert_eq!((root.stats().idle, root.tree_stats().lent), (1, 0));
}

#[test]
fn a_level_is_not_larger_than_the_one_above() {
    let root = root(2);
    let refused = root.child(&at_most(3), CountingAccount::new()).unwrap_err();
    assert!(refused.code() == "invalid_config" && refused.to_string().contains("capacity"));
    child(&root, 2);
}

#[test]
fn a_trim_waits_for_the_lock_and_a_reclaim_does_not() {
    watchdog(LIMIT, || {
        let config = PoolConfig::builder().capacity(32).warm_up(32).build().unwrap();
        let (root, ..) = root_of(&config);
        let stop = AtomicBool::new(false);
        thread::scope(|s| {
            s.spawn(|| {
                while !stop.load(SeqCst) {
                    root.stats();
                }
            });
            for _ in 0..if cfg!(miri) { 3 } else { 300 } {
                root.trim();
                let left = root.stats().idle;
                if left > 0 {
                    stop.store(true, SeqCst);
                    panic!("{left} objects are idle after a trim");
                }
                drop((0..32).map(|_| root.try_get().unwrap()).collect::<Vec<_>>());
                root.reclaim(usize::MAX, PressureLevel::Critical);
            }
            stop.store(true, SeqCst);
        });
    });
}

#[test]
fn what_is_kept_is_not_reclaimable() {
    let config = PoolConfig::builder().capacity(4).warm_up(4).min_idle(3).build().unwrap();
    let (root, ..) = root_of(&config);
    assert_eq!(root.reclaimable(), 100);
    assert_eq!(root.reclaim(usize::MAX, PressureLevel::High), 100);
    assert_eq!((root.reclaimable(), root.stats().idle), (0, 3));
    assert_eq!(root.reclaim(usize::MAX, PressureLevel::Critical), 300);
}

#[test]
fn within_one_account_nothing_is_charged_to_change_levels() {
    let (factory, account) = (Factory::of(100), Arc::new(CountingAccount::new()));
    let make = factory.clone();
    let config = PoolConfig::builder().capacity(4).warm_up(2).build().unwrap();
    let root = HierarchicalPool::try_new_in(&config, Arc::clone(&account), move || make.make());
    let root = root.unwrap();
    let keep = PoolConfig::builder().capacity(4).max_idle(0).build().unwrap();
    let a = root.child(&keep, Arc::clone(&account)).unwrap();
    let balance = account.balance();
    account.set_limit(0);
    drop(a.try_get().unwrap());
    assert_eq!((root.stats().idle, a.stats().idle, a.stats().borrowed), (2, 0, 1));
    assert_eq!(root.used() + a.used(), balance);
    account.assert_balance(balance);
}

/// (Not where leaks are looked for: this one leaks on purpose.)
#[cfg(not(any(miri, nebula_asan)))]
#[test]
fn a_forgotten_future_of_a_level_that_is_gone_takes_nothing() {
    let root = root(2);
    let a = child(&root, 2);
    let held = (root.try_get().unwrap(), root.try_get().unwrap());
    let mut forgotten = Box::pin(a.get_async());
    assert!(poll(forgotten.as_mut()).is_pending());
    std::mem::forget(forgotten);
    drop(a);
    assert_eq!(root.waiting(), 0);
    drop(held);
    let b = child(&root, 2);
    let objects = (b.try_get().unwrap(), b.try_get().unwrap());
    drop(objects);
    // One that had something in hand keeps an object until its level ends.
    let held = (root.try_get().unwrap(), root.try_get().unwrap());
    let mut forgotten = Box::pin(root.get_async());
    assert!(poll(forgotten.as_mut()).is_pending());
    drop(held);
    std::mem::forget(forgotten);
    assert_eq!((root.stats().lent, root.stats().idle), (1, 1));
}

#[test]
fn the_figures_of_the_tree_remember_levels_that_are_gone() {
    let root = root(4);
    let a = child(&root, 4);
    for _ in 0..10 {
        drop(a.try_get().unwrap());
    }
    std::mem::forget(a.try_get().unwrap());
    drop(a);
    let stats = root.tree_stats();
    assert_eq!((stats.gets, stats.created, stats.destroyed, stats.lent), (11, 1, 1, 0), "{stats}");
    assert_eq!((stats.capacity, root.stats().gets), (4, 0));
}

/// Panics when it is woken.
struct Broken;

impl Wake for Broken {
    fn wake(self: Arc<Self>) {
        std::panic::panic_any(InjectedPanic);
    }
}

#[test]
fn a_waker_that_panics_does_not_reach_who_returns_an_object() {
    let root = root(2);
    let held = (root.try_get().unwrap(), root.try_get().unwrap());
    let broken = Waker::from(Arc::new(Broken));
    let mut first = Box::pin(root.get_async());
    assert!(first.as_mut().poll(&mut Context::from_waker(&broken)).is_pending());
    let mut second = Box::pin(root.get_async());
    assert!(poll(second.as_mut()).is_pending());
    assert_eq!(catch(|| drop(held)), Ok(()));
    assert!(poll(first.as_mut()).is_ready() && poll(second.as_mut()).is_ready());
}

#[test]
fn owned_guards_can_be_waited_for_in_every_way() {
    watchdog(LIMIT, || {
        let root = root(1);
        let a = child(&root, 1);
        let held = a.get_owned().unwrap();
        let error = a.get_owned_timeout(Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.code(), "timeout");
        // The future keeps its level alive.
        let waiting = root.clone().get_owned_async();
        let other = Arc::clone(&root);
        drop(root);
        let served = thread::spawn(move || block_on(waiting).map(|guard| guard.probe.tag()));
        until(|| other.waiting() == 1);
        drop(held);
        assert_eq!(served.join().unwrap().unwrap(), 0);
        assert_eq!(other.get_owned_timeout(LIMIT).unwrap().probe.tag(), 0);
        assert_eq!(a.stats().passed, 1);
    });
}

#[test]
fn closing_a_level_ends_the_waiting_there_and_below_and_nowhere_else() {
    watchdog(LIMIT, || {
        let root = root(4);
        let (a, b) = (child(&root, 3), child(&root, 1));
        let aa = child(&a, 1);
        let (held_a, held_aa, held_b) =
            (a.try_get().unwrap(), aa.try_get_owned().unwrap(), b.try_get().unwrap());
        let idle = a.try_get().unwrap();
        let mut of_b = Box::pin(b.get_async());
        assert!(poll(of_b.as_mut()).is_pending());
        thread::scope(|s| {
            let blocked = s.spawn(|| aa.get().map(drop));
            let mut of_aa = Box::pin(aa.get_async());
            assert!(poll(of_aa.as_mut()).is_pending());
            drop(idle);
            until(|| root.waiting() == 3);
            a.close();
            assert_eq!(blocked.join().unwrap().unwrap_err().code(), "closed");
            assert_eq!(block_on(of_aa).unwrap_err().code(), "closed");
        });
        assert!(a.is_closed() && aa.is_closed() && !b.is_closed() && !root.is_closed());
        for level in [&a, &aa] {
            assert_eq!(level.try_get().unwrap_err().code(), "closed");
            assert_eq!(level.get().unwrap_err().code(), "closed");
            assert_eq!(
                level.child(&at_most(1), CountingAccount::new()).unwrap_err().code(),
                "closed"
            );
            assert_eq!(level.maintain().unwrap().made, 0);
        }
        // What was idle went up, and what is lent does so when it comes back.
        assert_eq!((a.stats().idle, root.stats().idle), (0, 1));
        drop((held_a, held_aa));
        assert_eq!((root.stats().idle, a.used(), aa.used()), (3, 0, 0));
        assert!(poll(of_b.as_mut()).is_pending());
        drop(held_b);
        assert!(poll(of_b.as_mut()).is_ready());
    });
}

#[test]
fn a_closed_tree_drops_what_comes_back() {
    let (root, factory, account) = root_of(&at_most(4));
    let a = child(&root, 2);
    let held = (root.try_get().unwrap(), a.try_get().unwrap(), a.try_get_owned().unwrap());
    drop(root.try_get().unwrap());
    let own = account.balance() - 200;
    root.close();
    factory.counter.assert_live(3);
    drop(held.0);
    drop(held.1);
    assert!(held.2.detach().valid);
    factory.counter.assert_all_dropped();
    account.assert_balance(own);
    assert_eq!((root.tree_stats().idle, root.tree_stats().lent), (0, 0));
    assert_eq!((a.used(), a.try_get().unwrap_err().code()), (0, "closed"));
    root.close();
}

#[test]
fn who_was_served_before_the_level_was_closed_gets_his_object() {
    let root = root(1);
    let held = root.try_get().unwrap();
    let mut waiting = Box::pin(root.get_async());
    assert!(poll(waiting.as_mut()).is_pending());
    drop(held);
    root.close();
    drop(block_on(waiting).unwrap());
    assert_eq!((root.stats().idle, root.stats().destroyed), (0, 1));
}

#[test]
fn a_tree_can_be_made_in_every_way() {
    let (config, account) = (at_most(2), CountingAccount::new());
    let root = HierarchicalPool::new_in(&config, account.clone(), || String::from("x")).unwrap();
    assert!(root.account().same_account(&account) && account.balance() > 0);
    let failing = || Err(MemoryError::Closed { what: "the factory" });
    let root = HierarchicalPool::<String>::try_new(&config, failing).unwrap();
    assert_eq!(root.try_get().unwrap_err().code(), "closed");
    assert!(!root.is_closed() && root.stats().lent == 0);
}

#[test]
fn futures_can_be_sent_to_other_threads() {
    fn assert_send<F: Send>(future: F) -> F {
        future
    }
    let root = root(1);
    drop(assert_send(root.get_async()));
    drop(assert_send(root.get_owned_async()));
}
