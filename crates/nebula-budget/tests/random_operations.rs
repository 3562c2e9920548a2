//! Random operations of every kind on one thread: no panic, no level above its capacity unless that
//! was wished for, nobody left waiting where nothing is held, and books at zero in the end.

mod polled;

use std::task::Poll;

use nebula_budget::{
    Account, BudgetConfig, BudgetSnapshot, Enforcement, LocalBudget, MemoryBudget, Reservation,
    Reserve,
};
use nebula_memory_core::Throttle;
use nebula_testing::Rng;
use polled::Polled;

/// What a run is made of.
#[derive(Clone, Copy)]
struct Mode {
    /// Budgets have guaranteed parts. Then waits may last until they are given up.
    guarantees: bool,
    /// Limits, enforcement, throttles and high marks change, and budgets are released.
    changes: bool,
    /// Small enough for every byte to matter, or large enough for chunks.
    unit: usize,
}

struct Run {
    mode: Mode,
    rng: Rng,
    budgets: Vec<MemoryBudget>,
    held: Vec<Reservation>,
    waits: Vec<Polled<Reserve>>,
    locals: Vec<LocalBudget>,
    /// Some capacity was lowered, or not enforced.
    excesses: bool,
}

impl Run {
    fn new(seed: u64, mode: Mode) -> Self {
        let mut rng = Rng::new(seed);
        let mut budgets = vec![MemoryBudget::root("root", 100 * mode.unit).unwrap()];
        for i in 0..5 {
            let parent = budgets[rng.below(budgets.len())].clone();
            let capacity = ((20 + rng.below(81)) * mode.unit).min(parent.capacity());
            let guaranteed = if mode.guarantees { rng.below(15) * mode.unit } else { 0 };
            let config = BudgetConfig::builder(capacity.into())
                .guaranteed(guaranteed.min(capacity).into())
                .priority(if rng.one_in(2) { 10 } else { 200 })
                .build()
                .unwrap();
            budgets.extend(parent.child_with(&format!("c{i}"), &config));
        }
        let (held, waits, locals) = (vec![], vec![], vec![]);
        Self { mode, rng, budgets, held, waits, locals, excesses: false }
    }

    fn root(&self) -> &MemoryBudget {
        &self.budgets[0]
    }

    fn budget(&mut self) -> MemoryBudget {
        let at = self.rng.below(self.budgets.len());
        self.budgets[at].clone()
    }

    /// Takes one out, if there is any.
    fn one<T>(rng: &mut Rng, of: &mut Vec<T>) -> Option<T> {
        if of.is_empty() { None } else { Some(of.swap_remove(rng.below(of.len()))) }
    }

    fn step(&mut self) {
        let budget = self.budget();
        let bytes = 1 + self.rng.below(60 * self.mode.unit);
        match self.rng.below(if self.mode.changes { 17 } else { 11 }) {
            0 | 1 => self.held.extend(budget.try_reserve(bytes)),
            2 | 3 => {
                let bytes = 1 + self.rng.below(budget.capacity());
                let priority = u8::try_from(self.rng.below(3)).unwrap();
                self.waits.push(Polled::new(budget.reserve(bytes).priority(priority)));
            }
            4 => drop(Self::one(&mut self.rng, &mut self.held)),
            5 if self.rng.one_in(3) => drop(Self::one(&mut self.rng, &mut self.waits)),
            6 | 7 => {
                if let Some(mut held) = Self::one(&mut self.rng, &mut self.held) {
                    for _ in 0..3 {
                        let _ = held.try_grow(1 + bytes / 9);
                        held.shrink(bytes / 10);
                    }
                    let held = if self.rng.one_in(2) {
                        held.transfer(&budget).unwrap_or_else(|refused| refused.value)
                    } else {
                        held
                    };
                    self.held.push(held);
                }
            }
            8 => self.locals.push(budget.local()),
            9 | 10 => {
                if let Some(local) = Self::one(&mut self.rng, &mut self.locals) {
                    if self.rng.one_in(2) {
                        let _ = local.try_charge(bytes / 4);
                    } else {
                        local.credit(bytes.min(local.charged()));
                    }
                    self.locals.push(local);
                }
            }
            11 => {
                let capacity = (20 + self.rng.below(81)) * self.mode.unit;
                self.excesses |= budget.set_capacity(capacity).is_ok();
            }
            12 if self.mode.guarantees => {
                let _ = budget.set_guaranteed(self.rng.below(20) * self.mode.unit);
            }
            13 => {
                let observe = self.rng.one_in(2);
                let enforcement = if observe { Enforcement::Observe } else { Enforcement::Enforce };
                budget.set_enforcement(enforcement);
                self.excesses = true;
            }
            14 => budget.set_high(Some(self.rng.below(budget.capacity()))).unwrap(),
            15 if self.rng.one_in(2) => {
                budget.limit_priority(self.rng.one_in(2).then_some(100));
            }
            15 => budget.limit_single_charges(self.rng.one_in(2).then_some(bytes)),
            16 if budget.parent().is_some() && self.rng.one_in(4) => drop(budget.release()),
            _ => {}
        }
        self.collect();
    }

    /// Takes over what those who wait were served.
    fn collect(&mut self) {
        let held = &mut self.held;
        self.waits.retain_mut(|wait| match wait.poll() {
            Poll::Ready(outcome) => {
                held.extend(outcome);
                false
            }
            Poll::Pending => true,
        });
    }

    fn check(&self) {
        let snapshot = self.root().snapshot();
        assert!(holds(&snapshot, self.excesses), "{snapshot}");
        if self.waits.is_empty() {
            let held: usize = self.held.iter().map(Reservation::bytes).sum();
            let charged: usize = self.locals.iter().map(LocalBudget::charged).sum();
            assert_eq!(snapshot.used, held + charged, "{snapshot}");
        }
    }

    /// Gives everything back. Whoever waits is served sooner or later, unless what it waits for is
    /// guaranteed to others.
    fn finish(mut self) {
        self.locals.drain(..).for_each(|local| local.credit(local.charged()));
        loop {
            let waiting = self.waits.len();
            self.held.clear();
            self.collect();
            if self.waits.len() == waiting && self.held.is_empty() {
                break;
            }
        }
        let root = self.root().clone();
        assert!(self.mode.guarantees || self.waits.is_empty(), "{} hang\n{root}", self.waits.len());
        drop(self);
        // What children keep against the next charge goes back with them.
        assert_eq!((root.used(), root.committed()), (0, 0), "{root}");
        assert_eq!(root.snapshot().over_credited, 0);
    }
}

fn holds(snapshot: &BudgetSnapshot, excesses: bool) -> bool {
    snapshot.used <= snapshot.committed
        && (excesses || snapshot.committed <= snapshot.capacity)
        && snapshot.over_credited == 0
        && snapshot.children.iter().all(|child| holds(child, excesses))
}

fn runs(mode: Mode) {
    for seed in 0..100 {
        let mut run = Run::new(seed, mode);
        for _ in 0..60 {
            run.step();
            run.check();
        }
        run.finish();
    }
}

#[test]
fn books_are_right_and_nobody_hangs_byte_by_byte() {
    runs(Mode { guarantees: false, changes: false, unit: 1 });
    runs(Mode { guarantees: false, changes: true, unit: 1 });
}

#[test]
fn books_are_right_and_nobody_hangs_with_chunks() {
    runs(Mode { guarantees: false, changes: false, unit: 10_000 });
    runs(Mode { guarantees: false, changes: true, unit: 10_000 });
}

#[test]
fn books_are_right_with_guarantees() {
    for unit in [1, 10_000] {
        runs(Mode { guarantees: true, changes: false, unit });
        runs(Mode { guarantees: true, changes: true, unit });
    }
}
