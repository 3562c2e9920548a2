//! Trees of pools.

mod common;

use std::{
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use common::{Factory, LIMIT, Object, block_on, poll, until};
use nebula_memory_core::{Account, MemoryError, MemoryUsage, PressureLevel, Reclaim};
use nebula_pool::{Growth, HierarchicalPool, PoolConfig, Shrink};
use nebula_testing::{CountingAccount, Rng, watchdog};

type Level = Arc<HierarchicalPool<Object, CountingAccount>>;

/// What each thread of a crowd does.
const ROUNDS: usize = if cfg!(miri) { 8 } else { 300 };

fn at_most(capacity: usize) -> PoolConfig {
    PoolConfig::builder().capacity(capacity).build().unwrap()
}

fn root(capacity: usize) -> (Level, Factory, CountingAccount) {
    let (factory, account) = (Factory::of(100), CountingAccount::new());
    let make = factory.clone();
    let root =
        HierarchicalPool::try_new_in(&at_most(capacity), account.clone(), move || make.make());
    (root.unwrap(), factory, account)
}

fn child(parent: &Level, config: &PoolConfig) -> (Level, CountingAccount) {
    let account = CountingAccount::new();
    (parent.child(config, account.clone()).unwrap(), account)
}

#[track_caller]
fn assert_whole(level: &Level) {
    let stats = level.stats();
    assert_eq!(
        stats.created + stats.borrowed,
        (stats.lent + stats.idle) as u64 + stats.destroyed + stats.detached + stats.passed,
        "{stats}"
    );
    assert_eq!(level.used(), level.account().balance());
}

#[test]
fn every_level_has_its_limit_and_those_above_count() {
    let (root, ..) = root(5);
    let (a, _) = child(&root, &at_most(4));
    let (aa, _) = child(&a, &at_most(3));
    let (b, _) = child(&root, &at_most(3));
    let held: Vec<_> = (0..3).map(|_| aa.try_get().unwrap()).collect();
    assert_eq!(aa.try_get().unwrap_err().code(), "pool_exhausted");
    let more = a.try_get().unwrap();
    assert!(a.try_get().is_err(), "its own and its child's are four");
    let last = b.try_get().unwrap();
    assert!(b.try_get().is_err() && root.try_get().is_err());
    drop(held);
    assert!(a.try_get().is_ok() && b.try_get().is_ok());
    assert_eq!(root.tree_stats().created, 5);
    drop((more, last));
}

#[test]
fn places_are_the_roots_matter() {
    let (root, ..) = root(5);
    let config = PoolConfig::builder().growth(Growth::Fixed(1)).build().unwrap();
    let child = root.child(&config, CountingAccount::new());
    assert_eq!(child.unwrap_err().code(), "invalid_config");
}

#[test]
fn an_empty_child_borrows_from_the_nearest_above_before_it_makes_one() {
    let (root, factory, account) = root(10);
    let (a, _) = child(&root, &at_most(10));
    let (aa, account_aa) = child(&a, &at_most(10));
    let own = account.balance();
    drop(root.try_get().unwrap());
    account.assert_balance(own + 100);
    let object = aa.try_get().unwrap();
    assert_eq!((aa.stats().borrowed, root.stats().passed, a.stats().borrowed), (1, 1, 0));
    assert_eq!(factory.counter.made(), 1);
    account.assert_balance(own);
    account_aa.assert_balance(100);
    let second = aa.try_get().unwrap();
    assert_eq!((aa.stats().created, factory.counter.made()), (1, 2));
    drop((object, second));
    assert_eq!(aa.stats().idle, 2);
    [&root, &a, &aa].into_iter().for_each(assert_whole);
}

#[test]
fn surplus_goes_up_as_far_as_there_is_room_for_it() {
    let (root, ..) = root(10);
    let keep = |n| PoolConfig::builder().capacity(10).max_idle(n).build().unwrap();
    let (a, _) = child(&root, &keep(1));
    let (aa, account) = child(&a, &keep(1));
    let crowd: Vec<_> = (0..4).map(|_| aa.try_get().unwrap()).collect();
    account.assert_balance(400);
    drop(crowd);
    assert_eq!((aa.stats().idle, a.stats().idle, root.stats().idle), (1, 1, 2));
    account.assert_balance(100);
    [&root, &a, &aa].into_iter().for_each(assert_whole);
}

#[test]
fn maintain_gives_up_what_was_not_used_and_makes_what_is_missing() {
    let (root, ..) = root(10);
    let config = PoolConfig::builder().capacity(10).min_idle(1).shrink(Shrink::Unused);
    let (a, _) = child(&root, &config.build().unwrap());
    a.maintain().unwrap();
    assert_eq!(a.stats().idle, 1);
    drop([(); 3].map(|()| a.try_get().unwrap()));
    a.maintain().unwrap();
    assert_eq!(a.stats().idle, 3);
    a.maintain().unwrap();
    assert_eq!((a.stats().idle, root.stats().idle, root.tree_stats().destroyed), (1, 2, 0));
}

#[test]
fn a_child_that_ends_leaves_its_objects_to_the_one_above() {
    let (root, factory, _) = root(10);
    let (a, account) = child(&root, &at_most(10));
    drop([(); 3].map(|()| a.try_get().unwrap()));
    std::mem::forget(a.try_get().unwrap());
    let owned = a.try_get_owned().unwrap();
    drop(a);
    account.assert_balance(300);
    drop(owned);
    account.assert_settled();
    // The leaked one is gone.
    assert_eq!(root.stats().idle, 2);
    factory.counter.assert_live(2);
    // Its number is free for another.
    let (b, _) = child(&root, &at_most(10));
    drop([(); 10].map(|()| b.try_get().unwrap()));
    assert_eq!(factory.counter.live(), 10);
}

#[test]
fn children_keep_those_above_alive() {
    let (root, factory, account) = root(10);
    let (a, account_a) = child(&root, &at_most(10));
    assert!(Arc::ptr_eq(a.parent().unwrap(), &root) && root.parent().is_none());
    drop(root);
    drop(a.try_get().unwrap());
    drop(a);
    factory.counter.assert_all_dropped();
    account.assert_settled();
    account_a.assert_settled();
}

/// An account that drops a level when it is charged.
#[derive(Default)]
struct Ending(Mutex<Option<Arc<HierarchicalPool<Object, Ends>>>>);

type Ends = Arc<Ending>;

impl Account for Ending {
    fn try_charge(&self, _bytes: usize) -> Result<(), MemoryError> {
        let level = self.0.lock().unwrap().take();
        drop(level);
        Ok(())
    }

    fn credit(&self, _bytes: usize) {}
}

#[test]
fn a_level_may_end_while_an_object_of_its_is_borrowed() {
    let (factory, account) = (Factory::of(100), Arc::new(Ending::default()));
    let make = factory.clone();
    let root = HierarchicalPool::try_new_in(&at_most(1), Arc::default(), move || make.make());
    let root = root.unwrap();
    let a = root.child(&at_most(1), Arc::default()).unwrap();
    let b = root.child(&at_most(1), Arc::clone(&account)).unwrap();
    drop(a.try_get().unwrap());
    *account.0.lock().unwrap() = Some(a);
    let object = b.try_get().unwrap();
    assert_eq!((object.probe.tag(), b.stats().lent, root.tree_stats().lent), (0, 1, 1));
    factory.counter.assert_live(1);
    drop(object);
    assert_eq!((b.stats().idle, root.tree_stats().destroyed), (1, 0));
}

#[test]
fn who_cannot_afford_to_borrow_leaves_the_object_where_it_was() {
    let (root, factory, account) = root(10);
    let (a, account_a) = child(&root, &at_most(10));
    drop(root.try_get().unwrap());
    account_a.set_limit(99);
    assert_eq!(a.try_get().unwrap_err().code(), "capacity_exceeded");
    assert_eq!(root.stats().idle, 1);
    account_a.assert_settled();
    [&root, &a].into_iter().for_each(assert_whole);
    // Even if that one could not afford it any more: it was never credited.
    account.set_limit(0);
    assert_eq!(a.try_get().unwrap_err().code(), "capacity_exceeded");
    assert_eq!(root.stats().idle, 1);
    factory.counter.assert_live(1);
    [&root, &a].into_iter().for_each(assert_whole);
}

#[test]
fn surplus_that_those_above_cannot_afford_stays() {
    let (root, _, account) = root(10);
    let config = PoolConfig::builder().capacity(10).max_idle(0).build().unwrap();
    let (a, account_a) = child(&root, &config);
    account.set_limit(account.balance() + 50);
    drop(a.try_get().unwrap());
    assert_eq!((a.stats().idle, root.stats().idle), (1, 0));
    account_a.assert_balance(100);
    [&root, &a].into_iter().for_each(assert_whole);
    drop(a);
    account_a.assert_settled();
}

#[test]
fn reclaims_take_what_is_idle_on_that_level() {
    let (root, factory, _) = root(10);
    let (a, account) = child(&root, &at_most(10));
    drop(root.try_get().unwrap());
    drop([(); 3].map(|()| a.try_get().unwrap()));
    assert_eq!(a.reclaimable(), 300);
    assert_eq!(a.reclaim(150, PressureLevel::High), 200);
    account.assert_balance(100);
    factory.counter.assert_live(1);
    assert_whole(&a);
}

#[test]
fn who_waits_is_served_by_whatever_comes_free_in_the_tree() {
    watchdog(LIMIT, || {
        let (root, ..) = root(2);
        let (a, _) = child(&root, &at_most(2));
        let (b, _) = child(&root, &at_most(1));
        let first = a.try_get().unwrap();
        let second = a.try_get().unwrap();
        thread::scope(|s| {
            s.spawn(|| drop(b.get().unwrap()));
            until(|| root.waiting() == 1);
            assert!(root.try_get().is_err(), "not past who waits");
            drop(first);
        });
        assert_eq!(b.stats().borrowed, 1);
        // Async, and by a detach.
        let held = b.try_get().unwrap();
        let mut waiting = std::pin::pin!(a.get_async());
        assert!(poll(waiting.as_mut()).is_pending());
        drop(second.detach());
        assert!(poll(waiting.as_mut()).is_ready());
        drop(held);
        assert_eq!(b.stats().waited, 1);
    });
}

#[test]
fn the_first_who_can_be_served_is() {
    watchdog(LIMIT, || {
        let (root, ..) = root(4);
        let (a, _) = child(&root, &at_most(1));
        let (b, _) = child(&root, &at_most(1));
        let (held_a, held_b) = (a.try_get().unwrap(), b.try_get().unwrap());
        let mut of_a = std::pin::pin!(a.get_async());
        let mut of_b = std::pin::pin!(b.get_async());
        assert!(poll(of_a.as_mut()).is_pending() && poll(of_b.as_mut()).is_pending());
        drop(held_b);
        assert!(poll(of_a.as_mut()).is_pending(), "its level is full");
        assert!(poll(of_b.as_mut()).is_ready());
        drop(held_a);
        assert!(poll(of_a.as_mut()).is_ready());
    });
}

#[test]
fn giving_up_leaves_the_line_or_passes_on() {
    let (root, ..) = root(1);
    let (a, _) = child(&root, &at_most(1));
    let held = root.try_get().unwrap();
    assert_eq!(a.get_timeout(Duration::from_millis(1)).unwrap_err().code(), "timeout");
    assert_eq!(root.waiting(), 0);
    let mut first = Box::pin(a.get_async());
    let mut second = Box::pin(root.get_async());
    assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
    drop(held);
    // Handed to the first, which goes.
    drop(first);
    drop(block_on(second).unwrap());
    assert_eq!((root.waiting(), root.stats().lent), (0, 0));
    assert!(a.try_get().is_ok());
    [&root, &a].into_iter().for_each(assert_whole);
}

#[test]
fn a_crowd_on_a_tree_leaves_exact_books() {
    watchdog(LIMIT, || {
        let (root, factory, account) = root(6);
        let config = |n, keep| PoolConfig::builder().capacity(n).max_idle(keep).build().unwrap();
        let (a, account_a) = child(&root, &config(4, 1));
        let (b, account_b) = child(&root, &config(3, 2));
        let (aa, account_aa) = child(&a, &config(2, 0));
        account_b.set_limit(250);
        thread::scope(|s| {
            for n in 0..12_usize {
                let level = [&root, &a, &b, &aa][n % 4];
                s.spawn(move || {
                    let mut rng = Rng::new(n as u64 + 1);
                    for _ in 0..ROUNDS {
                        match rng.below(11) {
                            0 => drop(level.trim()),
                            1 => drop(level.maintain()),
                            2 => drop(level.reclaim(100, PressureLevel::High)),
                            3 => drop(level.try_get().map(nebula_pool::PoolGuard::detach)),
                            4 => drop(level.child(&at_most(1), CountingAccount::new()).map(|c| {
                                drop(c.try_get());
                                if rng.below(2) == 0 {
                                    c.close();
                                }
                            })),
                            5 => {
                                if let Ok(mut object) = level.get() {
                                    object.valid = rng.below(4) > 0;
                                    object.bytes = 50 + rng.below(3) * 50;
                                }
                            }
                            6 => {
                                let timeout = Duration::from_micros(rng.below(50) as u64);
                                drop(level.get_timeout(timeout));
                            }
                            // Given up, perhaps with something in hand.
                            7 => {
                                let mut waiting = Box::pin(level.get_async());
                                let _ = poll(waiting.as_mut());
                                thread::yield_now();
                            }
                            8 => drop(block_on(level.get_async())),
                            _ => drop(level.try_get()),
                        }
                        let stats = level.stats();
                        assert!(stats.lent + stats.idle <= level.capacity(), "{stats}");
                    }
                });
            }
        });
        for level in [&root, &a, &b, &aa] {
            assert_whole(level);
            assert_eq!(level.stats().lent, 0);
        }
        assert_eq!(root.waiting(), 0);
        drop((aa, a, b, root));
        factory.counter.assert_all_dropped();
        for account in [account, account_a, account_b, account_aa] {
            account.assert_settled();
        }
    });
}
