//! Random operations against a model that knows every object.

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{Factory, Object, block_on};
use nebula_memory_core::{ByteSize, MemoryUsage, PressureLevel, Reclaim};
use nebula_pool::{OwnedGuard, PoolConfig, PoolGuard, PoolStats, ThreadSafePool};
use nebula_testing::CountingAccount;
use proptest::prelude::*;

const RETAINED: usize = 900;

#[derive(Clone, Debug)]
enum Op {
    TryGet,
    Get,
    GetAsync,
    GetOwned,
    /// Returns the i-th guard with this size and validity.
    Return(usize, usize, bool),
    Detach(usize),
    Trim,
    Reclaim(usize),
    /// Leaves room for so much more.
    Limit(usize),
    /// The size of new objects.
    Size(usize),
    /// The factory fails once.
    Fail,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => Just(Op::TryGet),
        1 => Just(Op::Get),
        2 => Just(Op::GetAsync),
        2 => Just(Op::GetOwned),
        8 => (0..8_usize, 0..1000_usize, prop::bool::weighted(0.8))
            .prop_map(|(i, size, valid)| Op::Return(i, size, valid)),
        1 => (0..8_usize).prop_map(Op::Detach),
        1 => Just(Op::Trim),
        1 => (0..1500_usize).prop_map(Op::Reclaim),
        2 => (0..3000_usize).prop_map(Op::Limit),
        1 => (0..500_usize).prop_map(Op::Size),
        1 => Just(Op::Fail),
    ]
}

enum Guard<'p> {
    Borrowed(PoolGuard<'p, ThreadSafePool<Object, CountingAccount>>),
    Owned(OwnedGuard<ThreadSafePool<Object, CountingAccount>>),
}

impl Guard<'_> {
    fn object(&mut self) -> &mut Object {
        match self {
            Self::Borrowed(guard) => guard,
            Self::Owned(guard) => guard,
        }
    }

    fn detach(self) -> Object {
        match self {
            Self::Borrowed(guard) => guard.detach(),
            Self::Owned(guard) => guard.detach(),
        }
    }
}

/// What the model knows of an idle object.
#[derive(Clone, Copy, Debug)]
struct Idle {
    charged: usize,
    valid: bool,
}

/// By the objects' tags.
#[derive(Default)]
struct Model {
    capacity: usize,
    own: usize,
    idle: BTreeMap<u64, Idle>,
    /// What each lent object is charged.
    lent: BTreeMap<u64, usize>,
    stats: PoolStats,
    drops: usize,
}

impl Model {
    fn charged(&self) -> usize {
        let idle = self.idle.values().map(|idle| idle.charged).sum::<usize>();
        self.own + idle + self.lent.values().sum::<usize>()
    }

    /// What the pool has dropped since the last call.
    fn new_drops(&mut self, factory: &Factory) -> Vec<u64> {
        let dropped = factory.counter.dropped().split_off(self.drops);
        self.drops += dropped.len();
        dropped
    }

    /// An attempt to get, and what came of it.
    fn got(&mut self, result: Result<&mut Object, &'static str>, factory: &Factory, room: usize) {
        let full = self.lent.len() == self.capacity;
        let size = factory.bytes.load(std::sync::atomic::Ordering::SeqCst);
        let mut dropped = self.new_drops(factory);
        if full {
            assert!(result.is_err_and(|code| code == "pool_exhausted" || code == "timeout"));
            assert!(dropped.is_empty());
            return;
        }
        // An invalid idle object may have been found, and been dropped first.
        let mut credited = 0;
        let mut invalidated = false;
        dropped.retain(|tag| {
            let Some(idle) = self.idle.remove(tag) else { return true };
            assert!(!idle.valid && !invalidated, "{tag} was dropped for nothing");
            invalidated = true;
            credited = idle.charged;
            self.stats.invalidated += 1;
            self.stats.destroyed += 1;
            false
        });
        let may_make = invalidated || self.idle.is_empty();
        match result {
            Ok(object) => {
                assert!(!object.dirty && object.valid, "{object:?}");
                object.dirty = true;
                self.stats.gets += 1;
                let tag = object.probe.tag();
                assert!(!self.lent.contains_key(&tag), "{tag} is lent twice");
                if let Some(idle) = self.idle.remove(&tag) {
                    assert!(idle.valid && !invalidated);
                    self.stats.reuses += 1;
                    self.lent.insert(tag, idle.charged);
                } else {
                    assert!(may_make, "an object was made although others were idle");
                    assert!(size == 0 || size <= room + credited);
                    self.stats.created += 1;
                    self.lent.insert(tag, size);
                }
                assert!(dropped.is_empty());
            }
            Err("capacity_exceeded") => {
                assert!(may_make && size > room + credited);
                assert_eq!(dropped.len(), 1, "the object that could not be charged");
            }
            Err(code) => {
                assert_eq!(code, "closed");
                assert!(may_make && dropped.is_empty());
            }
        }
    }

    /// A trim (which wants everything) or a reclaim, and what it says it has credited.
    fn reclaimed(&mut self, factory: &Factory, wanted: Option<usize>, credited: usize) {
        let (mut sum, mut last) = (0, 0);
        for tag in self.new_drops(factory) {
            last = self.idle.remove(&tag).expect("only idle objects").charged;
            sum += last;
            self.stats.destroyed += 1;
            self.stats.reclaimed += 1;
        }
        assert_eq!(credited, sum);
        let Some(wanted) = wanted else {
            assert!(self.idle.is_empty());
            return;
        };
        assert!(sum == 0 || sum - last < wanted, "it went on after enough");
        let left = self.idle.values().map(|idle| idle.charged).sum::<usize>();
        assert!(sum >= wanted || left == 0, "it stopped before enough");
    }

    fn check(&self, pool: &ThreadSafePool<Object, CountingAccount>, account: &CountingAccount) {
        let mut expected = self.stats;
        (expected.lent, expected.idle) = (self.lent.len(), self.idle.len());
        let stats = pool.stats();
        expected.wait_time = stats.wait_time;
        assert_eq!(stats, expected);
        account.assert_balance(self.charged());
        assert_eq!(pool.used(), self.charged());
        assert_eq!(pool.reclaimable(), self.idle.values().map(|idle| idle.charged).sum());
    }
}

fn run(capacity: usize, warm_up: usize, ops: Vec<Op>) {
    let config = PoolConfig::builder()
        .capacity(capacity)
        .warm_up(warm_up)
        .retained_size(ByteSize::new(RETAINED))
        .build()
        .unwrap();
    let (factory, account) = (Factory::of(100), CountingAccount::new());
    let pool = Arc::new(factory.pool_in(&config, account.clone()).unwrap());
    let mut model = Model { capacity, ..Model::default() };
    (model.stats.capacity, model.stats.places) = (capacity, capacity);
    model.own = account.balance() - 100 * warm_up;
    for tag in 0..warm_up as u64 {
        model.idle.insert(tag, Idle { charged: 100, valid: true });
        model.stats.created += 1;
    }
    let mut limit = usize::MAX;
    let mut guards: Vec<Guard<'_>> = Vec::new();
    model.check(&pool, &account);
    for op in ops {
        let room = limit.saturating_sub(account.balance());
        let at = |i: usize| (!guards.is_empty()).then(|| i % guards.len());
        match op {
            Op::TryGet | Op::Get | Op::GetAsync | Op::GetOwned => {
                let full = guards.len() == capacity;
                let result = match op {
                    Op::Get => {
                        let timeout = std::time::Duration::ZERO;
                        let got = if full { pool.get_timeout(timeout) } else { pool.get() };
                        model.stats.waited += u64::from(full);
                        got.map(Guard::Borrowed)
                    }
                    Op::GetAsync if !full => block_on(pool.get_async()).map(Guard::Borrowed),
                    Op::GetOwned => pool.try_get_owned().map(Guard::Owned),
                    _ => pool.try_get().map(Guard::Borrowed),
                };
                let mut result = result.map_err(|error| error.code());
                let seen = result.as_mut().map(Guard::object).map_err(|code| *code);
                model.got(seen, &factory, room);
                guards.extend(result);
            }
            Op::Return(i, size, valid) => {
                let Some(i) = at(i) else { continue };
                let mut guard = guards.swap_remove(i);
                let object = guard.object();
                (object.bytes, object.valid) = (size, valid);
                let tag = object.probe.tag();
                drop(guard);
                let charged = model.lent.remove(&tag).unwrap();
                let oversized = size > RETAINED;
                let unaffordable = !oversized && size > charged && size - charged > room;
                if oversized || unaffordable {
                    model.stats.destroyed += 1;
                    model.stats.oversized += u64::from(oversized);
                    model.stats.unaffordable += u64::from(unaffordable);
                    assert_eq!(model.new_drops(&factory), [tag]);
                } else {
                    model.idle.insert(tag, Idle { charged: size, valid });
                    assert_eq!(model.new_drops(&factory), []);
                }
            }
            Op::Detach(i) => {
                let Some(i) = at(i) else { continue };
                let object = guards.swap_remove(i).detach();
                assert!(object.dirty);
                model.lent.remove(&object.probe.tag()).unwrap();
                model.stats.detached += 1;
                assert_eq!(model.new_drops(&factory), []);
                drop(object);
                model.new_drops(&factory);
            }
            Op::Trim => model.reclaimed(&factory, None, pool.trim()),
            Op::Reclaim(wanted) => {
                let credited = pool.reclaim(wanted, PressureLevel::High);
                model.reclaimed(&factory, Some(wanted), credited);
            }
            Op::Limit(more) => {
                limit = account.balance() + more;
                account.set_limit(limit);
            }
            Op::Size(size) => factory.bytes.store(size, std::sync::atomic::Ordering::SeqCst),
            Op::Fail => factory.failures.store(1, std::sync::atomic::Ordering::SeqCst),
        }
        model.check(&pool, &account);
    }
    drop(guards);
    drop(pool);
    factory.counter.assert_all_dropped();
    account.assert_settled();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pool_does_what_the_model_does(
        (capacity, warm_up) in (1..6_usize).prop_flat_map(|c| (Just(c), 0..=c)),
        ops in prop::collection::vec(op(), 0..60),
    ) {
        run(capacity, warm_up, ops);
    }
}
