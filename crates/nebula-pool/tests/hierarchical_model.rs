//! Random operations on a tree of pools, by one thread, with many futures in line at once. After every
//! step: no level holds more than its capacity, nobody waits who could be served, and the books are
//! exact.

mod common;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
};

use common::{Factory, Object};
use nebula_memory_core::{MemoryError, MemoryUsage, PressureLevel, Reclaim};
use nebula_pool::{Growth, HierarchicalPool, OwnedGuard, PoolConfig, Shrink};
use nebula_testing::CountingAccount;
use proptest::prelude::*;

type Level = Arc<HierarchicalPool<Object, CountingAccount>>;
type Guard = OwnedGuard<HierarchicalPool<Object, CountingAccount>>;

#[derive(Clone, Debug)]
enum Op {
    TryGet(usize),
    /// Begins to wait at that level.
    Wait(usize),
    Poll(usize),
    GiveUp(usize),
    /// Returns the i-th guard with this size and validity.
    Return(usize, usize, bool),
    Detach(usize),
    Trim(usize),
    Reclaim(usize, usize),
    Maintain(usize),
    /// Leaves room for so much more.
    Limit(usize, usize),
    /// The factory fails once.
    Fail,
    /// The next reset panics.
    Panic,
    /// Drops the handle of a level, and makes another in its place when there is none.
    Handle(usize),
    Close(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let level = 0..LEVELS;
    let any = 0..100_usize;
    prop_oneof![
        60 => level.clone().prop_map(Op::TryGet),
        60 => level.clone().prop_map(Op::Wait),
        20 => any.clone().prop_map(Op::Poll),
        40 => any.clone().prop_map(Op::GiveUp),
        60 => (any.clone(), 0..200_usize, prop::bool::weighted(0.8))
            .prop_map(|(i, size, valid)| Op::Return(i, size, valid)),
        10 => any.prop_map(Op::Detach),
        3 => level.clone().prop_map(Op::Trim),
        3 => (level.clone(), 0..300_usize).prop_map(|(l, wanted)| Op::Reclaim(l, wanted)),
        5 => level.clone().prop_map(Op::Maintain),
        3 => (level.clone(), 0..500_usize).prop_map(|(l, more)| Op::Limit(l, more)),
        5 => Just(Op::Fail),
        5 => Just(Op::Panic),
        1 => (1..LEVELS).prop_map(Op::Handle),
        1 => prop_oneof![20 => 1..LEVELS, 1 => Just(0)].prop_map(Op::Close),
    ]
}

/// The levels: which is above, how many objects, how many of them may be idle.
const SHAPE: [(usize, usize, Option<usize>); 6] =
    [(0, 5, None), (0, 4, Some(1)), (1, 2, None), (1, 3, Some(0)), (0, 3, Some(2)), (4, 1, None)];
const LEVELS: usize = SHAPE.len();

/// Who waits.
struct InLine {
    level: usize,
    future: Pin<Box<dyn Future<Output = Result<Guard, MemoryError>>>>,
    bell: Arc<Bell>,
    /// It was woken: because there is something for it, or because the level was closed.
    served: Option<bool>,
}

#[derive(Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        assert!(!self.0.swap(true, SeqCst), "woken twice");
    }
}

impl InLine {
    fn poll(&mut self) -> Poll<Result<Guard, MemoryError>> {
        let waker = Waker::from(Arc::clone(&self.bell));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

struct Model {
    factory: Factory,
    accounts: [CountingAccount; LEVELS],
    /// Levels whose handle was dropped are none; they may live on in futures and guards.
    levels: [Option<Level>; LEVELS],
    guards: Vec<(usize, Guard)>,
    line: Vec<InLine>,
}

impl Model {
    fn new(growth: Growth) -> Self {
        let (factory, accounts) = (Factory::of(100), [(); LEVELS].map(|()| CountingAccount::new()));
        let make = factory.clone();
        let config = PoolConfig::builder().capacity(SHAPE[0].1).growth(growth).build().unwrap();
        let root = HierarchicalPool::try_new_in(&config, accounts[0].clone(), move || make.make());
        let mut levels = [const { None }; LEVELS];
        levels[0] = Some(root.unwrap());
        let mut model = Self { factory, accounts, levels, guards: Vec::new(), line: Vec::new() };
        (1..LEVELS).for_each(|n| model.make_level(n));
        model
    }

    fn make_level(&mut self, n: usize) {
        let (above, capacity, max_idle) = SHAPE[n];
        let Some(parent) = &self.levels[above] else { return };
        let mut config = PoolConfig::builder().capacity(capacity).shrink(Shrink::HalfOfUnused);
        if let Some(max) = max_idle {
            config = config.max_idle(max);
        } else {
            config = config.min_idle(1);
        }
        let level = parent.child(&config.build().unwrap(), self.accounts[n].clone());
        assert_eq!(level.is_err(), parent.is_closed());
        self.levels[n] = level.ok();
    }

    /// All levels of the tree as there are handles for them.
    fn live(&self) -> impl Iterator<Item = &Level> {
        self.levels.iter().flatten()
    }

    /// What a level and all below it hold, and what is idle there.
    fn held(&self, top: &Level) -> (usize, usize) {
        let below = |level: &&Level| {
            let mut path = std::iter::successors(Some(*level), |level| level.parent());
            path.any(|level| Arc::ptr_eq(level, top))
        };
        let stats = self.live().filter(below).map(|level| level.stats());
        stats.fold((0, 0), |(held, idle), s| (held + s.lent + s.idle, idle + s.idle))
    }

    /// Whether a get of that level would find anything.
    fn can_be_served(&self, level: &Level) -> bool {
        if level.stats().idle > 0 {
            return true;
        }
        for above in std::iter::successors(Some(level), |level| level.parent()) {
            let (held, idle) = self.held(above);
            if above.stats().idle > 0 || held == above.capacity() {
                return idle > 0;
            }
        }
        true
    }

    /// Only if every level has its handle, so that the model sees them all.
    fn sees_all(&self) -> bool {
        self.levels.iter().all(Option::is_some)
    }

    fn check(&mut self) {
        for place in &mut self.line {
            if place.served.is_none() && place.bell.0.load(SeqCst) {
                let level = self.levels[place.level].as_ref();
                place.served = Some(level.is_none_or(|level| !level.is_closed()));
            }
        }
        for (n, level) in self.levels.iter().enumerate() {
            let Some(level) = level else { continue };
            let (held, _) = self.held(level);
            assert!(held <= level.capacity(), "level {n} holds {held} of {}", level.capacity());
            let stats = level.stats();
            assert!(!level.is_closed() || stats.idle == 0, "a closed level keeps objects");
            assert!(self.accounts[n].balance() >= level.used());
            let served = self.line.iter().filter(|p| p.level == n && p.served == Some(true));
            let lent = self.guards.iter().filter(|(of, _)| *of == n).count() + served.count();
            if self.sees_all() {
                assert_eq!(stats.lent, lent, "level {n}: {stats}");
                self.accounts[n].assert_balance(level.used());
            }
            if self.line.iter().all(|place| place.served.is_none()) {
                assert_eq!(
                    stats.created + stats.borrowed,
                    (stats.lent + stats.idle) as u64
                        + stats.destroyed
                        + stats.detached
                        + stats.passed,
                    "level {n}: {stats}"
                );
            }
        }
        assert!(self.factory.counter.live() <= SHAPE[0].1);
        if self.sees_all() {
            for place in self.line.iter().filter(|place| place.served.is_none()) {
                let level = self.levels[place.level].as_ref().unwrap();
                assert!(!level.is_closed(), "waits at a closed level");
                assert!(
                    !self.can_be_served(level),
                    "level {} has something for who waits",
                    place.level
                );
            }
            let waiting = self.line.iter().filter(|place| place.served.is_none()).count();
            assert_eq!(self.levels[0].as_ref().unwrap().waiting(), waiting);
        }
    }

    /// What a get came to.
    fn got(&mut self, n: usize, result: Result<Guard, MemoryError>) -> Result<(), &'static str> {
        let guard = result.map_err(|error| error.code())?;
        assert!(guard.valid && !guard.dirty);
        self.guards.push((n, guard));
        Ok(())
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each operation")]
    fn step(&mut self, op: &Op) {
        let level = |n: usize| self.levels[n].clone();
        match *op {
            Op::TryGet(n) => {
                let Some(level) = level(n) else { return };
                let (can, closed) = (self.can_be_served(&level), level.is_closed());
                let all = self.sees_all();
                let result = level.try_get_owned();
                match self.got(n, result) {
                    Ok(()) => assert!((can || !all) && !closed),
                    Err("pool_exhausted") => assert!(!closed && (!can || !all)),
                    // The level is, or the factory.
                    Err("closed") => assert!(closed || can || !all),
                    Err(code) => assert!(code == "capacity_exceeded" && !closed && (can || !all)),
                }
            }
            Op::Wait(n) if self.line.len() < 12 => {
                let Some(level) = level(n) else { return };
                let (can, closed) = (self.can_be_served(&level), level.is_closed());
                let all = self.sees_all();
                let future = Box::pin(level.get_owned_async());
                let mut place = InLine { level: n, future, bell: Arc::default(), served: None };
                match place.poll() {
                    Poll::Ready(result) => {
                        assert!(can || closed || !all);
                        let _ = self.got(n, result);
                    }
                    Poll::Pending => {
                        assert!((!can || !all) && !closed);
                        self.line.push(place);
                    }
                }
            }
            Op::Poll(i) if !self.line.is_empty() => {
                let i = i % self.line.len();
                let (n, served) = (self.line[i].level, self.line[i].served);
                if let Poll::Ready(result) = self.line[i].poll() {
                    drop(self.line.remove(i));
                    match self.got(n, result) {
                        Ok(()) => assert_eq!(served, Some(true)),
                        Err(code) => assert!(served.is_some() && code != "pool_exhausted"),
                    }
                } else {
                    assert_eq!(served, None);
                }
            }
            Op::GiveUp(i) if !self.line.is_empty() => {
                // Rather one that has something to pass on.
                let served = self.line.iter().position(|place| place.served.is_some());
                let i = served.filter(|_| i % 4 > 0).unwrap_or(i % self.line.len());
                drop(self.line.remove(i));
            }
            Op::Return(i, size, valid) if !self.guards.is_empty() => {
                let i = i % self.guards.len();
                let (_, mut guard) = self.guards.swap_remove(i);
                (guard.bytes, guard.valid, guard.dirty) = (size, valid, true);
            }
            Op::Detach(i) if !self.guards.is_empty() => {
                let i = i % self.guards.len();
                drop(self.guards.swap_remove(i).1.detach());
            }
            Op::Trim(n) => {
                if let Some(level) = level(n) {
                    level.trim();
                    assert_eq!(level.stats().idle, 0);
                }
            }
            Op::Reclaim(n, wanted) => {
                if let Some(level) = level(n) {
                    let idle = level.stats().idle;
                    let given = level.reclaim(wanted, PressureLevel::Critical);
                    assert!(given >= wanted || idle == 0 || level.reclaimable() == 0);
                }
            }
            Op::Maintain(n) => {
                if let Some(level) = level(n) {
                    let _ = level.maintain();
                }
            }
            Op::Limit(n, more) => {
                self.accounts[n].set_limit(self.accounts[n].balance() + more);
            }
            Op::Fail => self.factory.failures.store(1, SeqCst),
            Op::Panic => self.factory.panics.reset.arm(0),
            Op::Handle(n) => {
                if self.levels[n].is_some() {
                    // Those below go with it.
                    for below in (n..LEVELS).rev() {
                        if below == n || SHAPE[below].0 == n {
                            self.levels[below] = None;
                        }
                    }
                } else if self.accounts[n].balance() == 0
                    && self.line.iter().all(|place| place.level != n)
                    && self.guards.iter().all(|(of, _)| *of != n)
                {
                    // The one before has ended: nobody is about to borrow from it either.
                    self.make_level(n);
                }
            }
            Op::Close(n) => {
                if let Some(level) = level(n) {
                    level.close();
                    assert!(level.is_closed());
                }
            }
            Op::Wait(_) | Op::Poll(_) | Op::GiveUp(_) | Op::Return(..) | Op::Detach(_) => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 3 } else { 400 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_level_is_ever_over_its_capacity_and_nobody_waits_for_nothing(
        growth in prop_oneof![Just(Growth::None), Just(Growth::Fixed(2)), Just(Growth::Doubling(1))],
        ops in prop::collection::vec(op(), 0..150),
    ) {
        let mut model = Model::new(growth);
        model.check();
        for op in &ops {
            model.step(op);
            model.check();
        }
        let Model { factory, accounts, levels, guards, line } = model;
        drop((line, guards, levels));
        factory.counter.assert_all_dropped();
        accounts.iter().for_each(CountingAccount::assert_settled);
    }
}
