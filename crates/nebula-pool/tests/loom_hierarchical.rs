//! The races of a tree of pools, under the model checker:
//! `RUSTFLAGS="--cfg nebula_loom" cargo test --release -p nebula-pool --test loom_hierarchical`
#![cfg(nebula_loom)]

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Waker},
};

use loom::{cell::UnsafeCell, future::block_on, model::Builder, thread};
use nebula_memory_core::{PressureLevel, Reclaim, Unlimited};
use nebula_pool::{Growth, HierarchicalPool, PoolConfig, PoolGuard, Poolable};

/// An object whose every use is seen by the checker, which fails if two uses are not ordered.
struct Watched(UnsafeCell<usize>);

impl Watched {
    fn touch(&mut self) {
        self.0.with_mut(|value| {
            // SAFETY: exclusive through `&mut self`; that this is true is what loom checks.
            unsafe { *value += 1 }
        });
    }
}

impl Poolable for Watched {
    fn reset(&mut self) {
        self.touch();
    }

    fn heap_size(&self) -> usize {
        10
    }
}

type Level = Arc<HierarchicalPool<Watched>>;

fn at_most(capacity: usize) -> PoolConfig {
    PoolConfig::builder().capacity(capacity).build().unwrap()
}

fn root(capacity: usize, warm_up: usize) -> Level {
    let config = PoolConfig::builder().capacity(capacity).warm_up(warm_up).build().unwrap();
    HierarchicalPool::new(&config, || Watched(UnsafeCell::new(0))).unwrap()
}

fn child(parent: &Level, capacity: usize) -> Level {
    parent.child(&at_most(capacity), Unlimited).unwrap()
}

fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(body);
}

/// Nothing is lent, nothing is lost, nobody waits, and the root can lend all that it may.
fn assert_whole(root: &Level) {
    let stats = root.tree_stats();
    assert_eq!((stats.lent, root.waiting()), (0, 0), "{stats}");
    assert_eq!(stats.created, stats.idle as u64 + stats.destroyed + stats.detached, "{stats}");
    let guards: Vec<_> = (0..root.capacity()).map(|_| root.try_get().unwrap()).collect();
    assert!(root.try_get().is_err());
    drop(guards);
}

fn use_once(mut guard: PoolGuard<'_, HierarchicalPool<Watched>>) {
    guard.touch();
}

/// A lost wake-up would leave a thread waiting for ever, which loom reports.
#[test]
fn two_levels_take_turns_with_one_object() {
    model(3, || {
        let root = root(1, 0);
        let users = [child(&root, 1), child(&root, 1)]
            .map(|level| thread::spawn(move || use_once(level.get().unwrap())));
        use_once(root.get().unwrap());
        users.into_iter().for_each(|user| user.join().unwrap());
        assert_whole(&root);
    });
}

#[test]
fn a_detach_serves_who_waits_at_another_level() {
    model(3, || {
        let root = root(1, 1);
        let (a, b) = (child(&root, 1), child(&root, 1));
        let held = a.try_get().unwrap();
        let user = thread::spawn(move || use_once(block_on(b.get_async()).unwrap()));
        drop(held.detach());
        user.join().unwrap();
        assert_whole(&root);
    });
}

#[test]
fn a_future_dropped_at_any_moment_loses_nothing() {
    model(2, || {
        let root = root(1, 1);
        let (a, b) = (child(&root, 1), child(&root, 1));
        let held = root.try_get().unwrap();
        let other = thread::spawn(move || use_once(block_on(b.get_async()).unwrap()));
        let returns = {
            let a = Arc::clone(&a);
            thread::spawn(move || {
                let mut mine = pin!(a.get_async());
                let _ = mine.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            })
        };
        drop(held);
        other.join().unwrap();
        returns.join().unwrap();
        assert_whole(&root);
    });
}

/// `b` is handed what `a` has lent, and gives up while `a` takes what is idle in `c`.
#[test]
fn a_future_that_gives_up_puts_no_level_over_its_capacity() {
    model(2, || {
        let root = root(2, 0);
        let (a, b, c) = (child(&root, 1), child(&root, 2), child(&root, 2));
        let (of_a, of_c) = (a.try_get().unwrap(), c.try_get_owned().unwrap());
        let mut waiting = Box::pin(b.clone().get_owned_async());
        assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(of_a);
        let gives_up = thread::spawn(move || drop(waiting));
        let returns = thread::spawn(move || drop(of_c));
        let again = a.try_get();
        for level in [&a, &b, &c] {
            let stats = level.stats();
            assert!(stats.lent + stats.idle <= level.capacity(), "{stats}");
        }
        gives_up.join().unwrap();
        returns.join().unwrap();
        let stats = a.stats();
        assert!(stats.lent + stats.idle <= 1, "{stats}");
        drop(again);
        assert_whole(&root);
    });
}

#[test]
fn who_waits_at_a_level_that_is_closed_is_served_or_told() {
    model(3, || {
        let root = root(1, 1);
        let (a, aa) = {
            let a = child(&root, 1);
            (Arc::clone(&a), child(&a, 1))
        };
        let held = aa.try_get_owned().unwrap();
        let user = thread::spawn(move || match aa.get() {
            Ok(guard) => use_once(guard),
            Err(error) => assert_eq!(error.code(), "closed"),
        });
        let returns = thread::spawn(move || drop(held));
        a.close();
        user.join().unwrap();
        returns.join().unwrap();
        assert_eq!(a.stats().idle, 0);
        assert_whole(&root);
    });
}

/// What is on its way up when the levels above are closed finds nobody who keeps it.
#[test]
fn a_closed_tree_keeps_nothing() {
    model(3, || {
        let root = root(1, 1);
        let keeps_none = PoolConfig::builder().capacity(1).max_idle(0).build().unwrap();
        let a = root.child(&keeps_none, Unlimited).unwrap();
        let held = a.try_get_owned().unwrap();
        let returns = thread::spawn(move || drop(held));
        root.close();
        returns.join().unwrap();
        let stats = root.tree_stats();
        assert_eq!((stats.lent, stats.idle, stats.destroyed), (0, 0, 1), "{stats}");
        assert!(a.try_get().is_err_and(|error| error.code() == "closed"));
    });
}

#[test]
fn a_level_may_end_while_others_take_what_it_has() {
    model(2, || {
        let root = root(2, 0);
        let (a, b) = (child(&root, 2), child(&root, 2));
        drop((a.try_get().unwrap(), a.try_get().unwrap()));
        let ends = thread::spawn(move || drop(a));
        let (one, two) = (b.get().unwrap(), b.get().unwrap());
        assert!(b.try_get().is_err());
        drop((one, two));
        ends.join().unwrap();
        assert_whole(&root);
    });
}

/// What is too much goes up: on the way it is nobody's, but nobody who waits misses it.
#[test]
fn surplus_on_its_way_up_is_not_missed() {
    model(3, || {
        let root = root(1, 1);
        let keeps_none = PoolConfig::builder().capacity(1).max_idle(0).build().unwrap();
        let a = root.child(&keeps_none, Unlimited).unwrap();
        let b = child(&root, 1);
        let held = a.try_get_owned().unwrap();
        let user = thread::spawn(move || use_once(b.get().unwrap()));
        let returns = thread::spawn(move || drop(held));
        // (Not past one who waits; and not at all while it is on its way.)
        drop(a.try_get());
        user.join().unwrap();
        returns.join().unwrap();
        drop(a);
        assert_whole(&root);
    });
}

#[test]
fn reclaims_and_trims_take_nothing_from_who_waits() {
    model(2, || {
        let root = root(1, 1);
        let b = child(&root, 1);
        let held = root.try_get_owned().unwrap();
        let user = thread::spawn(move || use_once(b.get().unwrap()));
        let presses = {
            let root = Arc::clone(&root);
            thread::spawn(move || root.reclaim(10, PressureLevel::Critical))
        };
        drop(held);
        root.trim();
        user.join().unwrap();
        presses.join().unwrap();
        assert_whole(&root);
    });
}

#[test]
fn threads_that_grow_a_tree_at_once_each_get_a_place() {
    model(2, || {
        let config = PoolConfig::builder().capacity(3).growth(Growth::Fixed(1)).build().unwrap();
        let root = HierarchicalPool::new(&config, || Watched(UnsafeCell::new(0))).unwrap();
        let held = root.try_get().unwrap();
        let user = {
            let level = child(&root, 1);
            thread::spawn(move || use_once(level.try_get().unwrap()))
        };
        use_once(root.try_get().unwrap());
        user.join().unwrap();
        drop(held);
        assert_whole(&root);
    });
}
