//! Random operations on all six pools, against a model that knows every object.

mod common;

use std::collections::BTreeMap;

use common::{
    Factory,
    faces::{Face, Purse, for_all_faces},
};
use nebula_memory_core::ByteSize;
use nebula_pool::{Growth, OwnedGuard, PoolConfig, PoolGuard, Shrink};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

const RETAINED: usize = 900;
const CAPACITY: usize = 5;

#[derive(Clone, Debug)]
enum Op {
    Get,
    GetOwned,
    /// Returns the i-th guard with this size, validity and value.
    Return(usize, usize, bool, u64),
    Detach(usize),
    Leak(usize),
    Trim,
    Maintain,
    /// Leaves room for so much more.
    Limit(usize),
    /// The size of new objects.
    Size(usize),
    /// The factory fails once.
    Fail,
    /// The next reset panics.
    Panic,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => Just(Op::Get),
        2 => Just(Op::GetOwned),
        8 => (0..8_usize, 0..1000_usize, prop::bool::weighted(0.8), 0..3_u64)
            .prop_map(|(i, size, valid, value)| Op::Return(i, size, valid, value)),
        1 => (0..8_usize).prop_map(Op::Detach),
        1 => (0..40_usize).prop_map(Op::Leak),
        1 => Just(Op::Trim),
        2 => Just(Op::Maintain),
        2 => (0..3000_usize).prop_map(Op::Limit),
        1 => (0..500_usize).prop_map(Op::Size),
        1 => Just(Op::Fail),
        1 => Just(Op::Panic),
    ]
}

enum Guard<'p, P: Face> {
    Borrowed(PoolGuard<'p, P>),
    Owned(OwnedGuard<P>),
}

impl<P: Face> Guard<'_, P> {
    fn object(&mut self) -> &mut common::Object {
        match self {
            Self::Borrowed(guard) => guard,
            Self::Owned(guard) => guard,
        }
    }
}

/// What the model knows: the charges of the objects that are there, by their tags.
#[derive(Default)]
struct Model {
    idle: BTreeMap<u64, usize>,
    lent: BTreeMap<u64, usize>,
    leaked: usize,
    /// What the pool is charged beside its objects, by the number of its places.
    own: BTreeMap<usize, usize>,
    drops: usize,
}

impl Model {
    /// Forgets what the pool has dropped since the last call; only objects of `from` may have been.
    fn dropped(&mut self, factory: &Factory) -> Vec<u64> {
        let dropped = factory.counter.dropped().split_off(self.drops);
        self.drops += dropped.len();
        dropped
    }

    fn check<P: Face>(&mut self, pool: &P, account: &Purse) {
        let stats = pool.figures();
        assert_eq!((stats.lent, stats.idle), (self.lent.len(), self.idle.len()), "{stats}");
        assert_eq!(pool.used(), account.get_ref().balance());
        let charged = self.lent.values().chain(self.idle.values()).sum::<usize>();
        let own = pool.used() - charged;
        let known = *self.own.entry(stats.places).or_insert(own);
        assert_eq!(own, known, "{} places", stats.places);
    }
}

#[allow(clippy::too_many_lines, reason = "one arm for each operation")]
fn run<P: Face>(growth: Growth, ops: Vec<Op>) {
    let config = PoolConfig::builder()
        .capacity(CAPACITY)
        .growth(growth)
        .min_idle(1)
        .max_idle(3)
        .shrink(Shrink::Unused)
        .retained_size(ByteSize::new(RETAINED))
        .build()
        .unwrap();
    let (factory, account) = (Factory::of(100), Purse::default());
    let pool = P::build(&config, &account, &factory).unwrap();
    let mut model = Model::default();
    let mut guards: Vec<Guard<'_, P>> = Vec::new();
    for op in ops {
        model.check::<P>(&pool, &account);
        match op {
            Op::Get | Op::GetOwned => {
                let made = factory.counter.made();
                let result = match op {
                    Op::Get => pool.lend().map(Guard::Borrowed),
                    _ => P::lend_owned(&pool).map(Guard::Owned),
                };
                let size = factory.bytes.load(std::sync::atomic::Ordering::SeqCst);
                let full = model.lent.len() == CAPACITY;
                // What was found to be invalid is gone.
                let dropped = model.dropped(&factory);
                for tag in &dropped {
                    model.idle.remove(tag);
                }
                match result {
                    Ok(mut guard) => {
                        assert!(!full);
                        let object = guard.object();
                        assert!(!object.dirty && object.valid, "{object:?}");
                        object.dirty = true;
                        let tag = object.probe.tag();
                        let charged = model.idle.remove(&tag).unwrap_or(size);
                        assert!(model.lent.insert(tag, charged).is_none(), "{tag} is lent twice");
                        guards.push(guard);
                    }
                    Err(error) if full => assert_eq!(error.code(), "pool_exhausted"),
                    Err(error) => {
                        // An object or places had to be made, and could not be.
                        let codes = ["closed", "capacity_exceeded"];
                        assert!(codes.contains(&error.code()), "{error}");
                    }
                }
                assert!(factory.counter.made() <= made + 1);
            }
            Op::Return(i, size, valid, value) => {
                if guards.is_empty() {
                    continue;
                }
                let mut guard = guards.swap_remove(i % guards.len());
                let object = guard.object();
                (object.bytes, object.valid, object.value) = (size, valid, value);
                let tag = object.probe.tag();
                drop(guard);
                model.lent.remove(&tag).unwrap();
                if model.dropped(&factory) != [tag] {
                    assert!(size <= RETAINED);
                    model.idle.insert(tag, size);
                }
            }
            Op::Detach(i) if !guards.is_empty() => {
                let object = match guards.swap_remove(i % guards.len()) {
                    Guard::Borrowed(guard) => guard.detach(),
                    Guard::Owned(guard) => guard.detach(),
                };
                model.lent.remove(&object.probe.tag()).unwrap();
                drop(object);
                model.drops += 1;
            }
            Op::Leak(i) if i < guards.len() && model.leaked < 2 => {
                if let Guard::Borrowed(_) = &guards[i] {
                    model.leaked += 1;
                    std::mem::forget(guards.swap_remove(i));
                }
            }
            Op::Trim => {
                pool.cut();
                for tag in model.dropped(&factory) {
                    model.idle.remove(&tag).expect("only idle objects");
                }
                assert!(model.idle.is_empty());
            }
            Op::Maintain => {
                let made = factory.counter.made() as u64;
                let result = pool.upkeep();
                let size = factory.bytes.load(std::sync::atomic::Ordering::SeqCst);
                let dropped = model.dropped(&factory);
                for tag in &dropped {
                    // One that was made, and could not be charged, was nobody's.
                    assert!(model.idle.remove(tag).is_some() || *tag >= made);
                }
                for tag in made..factory.counter.made() as u64 {
                    if !dropped.contains(&tag) {
                        model.idle.insert(tag, size);
                    }
                }
                assert!(model.idle.len() <= 3);
                let room = CAPACITY - model.lent.len();
                assert!(result.is_err() || model.idle.len() >= 1.min(room));
            }
            Op::Limit(room) => {
                account.get_ref().set_limit(account.get_ref().balance() + room);
            }
            Op::Size(size) => factory.bytes.store(size, std::sync::atomic::Ordering::SeqCst),
            Op::Fail => factory.failures.store(1, std::sync::atomic::Ordering::SeqCst),
            Op::Panic => factory.panics.reset.arm(0),
            Op::Detach(_) | Op::Leak(_) => {}
        }
    }
    drop(guards);
    for tag in model.dropped(&factory) {
        model.lent.remove(&tag);
    }
    drop(pool);
    factory.counter.assert_all_dropped();
    account.get_ref().assert_settled();
}

fn a_pool_does_what_the_model_does<P: Face>() {
    let growth = prop_oneof![Just(Growth::None), Just(Growth::Fixed(2)), Just(Growth::Doubling(1))];
    let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
    let ops = prop::collection::vec(op(), 1..60);
    TestRunner::new(config)
        .run(&(growth, ops), |(growth, ops)| {
            run::<P>(growth, ops);
            Ok(())
        })
        .unwrap();
}

for_all_faces!(a_pool_does_what_the_model_does);
