//! A level with what the cache keeps of it: its breaker, its debts, its counters. Nothing that a level
//! does gets out of here but what it found.

use std::{hash::Hash, time::Duration};

use nebula_memory_core::{Clock, panics::quietly, sync::Arc};

use super::{
    Breaker, Hit, Level, LevelError, LevelStats,
    breaker::{Circuit, Leave},
    debts::{Debts, Due},
    stats::{Counts, count},
};

/// How many debts are paid by one operation.
pub(super) const PAID_AT_ONCE: usize = 4;

/// `L` is what it is called by: a [`Level`], or one whose calls are awaited.
pub(crate) struct Tier<K, L: ?Sized> {
    pub(super) level: Box<L>,
    pub(super) circuit: Circuit,
    pub(super) debts: Debts<K>,
    pub(crate) counts: Counts,
    pub(super) clock: Arc<dyn Clock>,
}

/// What came of a call; `None` if it was not made, because the level is bypassed.
pub(super) type Told<R> = Option<Result<R, LevelError>>;

/// What a level says of a key.
#[derive(Debug)]
pub(crate) enum Look<V> {
    Found(Hit<V>),
    /// It holds nothing.
    Missing,
    /// It can't be asked.
    Unknown,
}

impl<K: Hash + Eq + Clone, L: ?Sized> Tier<K, L> {
    pub(crate) fn new(level: Box<L>, rules: Breaker, clock: Arc<dyn Clock>) -> Self {
        let (circuit, debts) = (Circuit::new(rules), Debts::new());
        Self { level, circuit, debts, counts: Counts::default(), clock }
    }

    /// A call to the level that was begun at `start` has ended.
    pub(super) fn end<R>(
        &self,
        leave: Leave,
        start: Duration,
        result: Result<R, LevelError>,
    ) -> Result<R, LevelError> {
        let end = self.clock.now();
        let failed = result.as_ref().is_err_and(LevelError::is_failure);
        if failed {
            count(&self.counts.errors);
        }
        if self.circuit.note(leave, !failed, end.saturating_sub(start), end) {
            count(&self.counts.slow);
        }
        result
    }

    /// Whether the level is not to be asked about `key`, which counts.
    pub(super) fn doubts(&self, key: &K) -> bool {
        let doubts = self.debts.owes(key);
        if doubts {
            count(&self.counts.bypassed);
        }
        doubts
    }

    /// What the level said when it was asked for a key.
    pub(super) fn looked<V>(&self, told: Told<Option<Hit<V>>>) -> Look<V> {
        match told {
            None => {
                count(&self.counts.bypassed);
                Look::Unknown
            }
            Some(Ok(Some(hit))) => {
                count(&self.counts.hits);
                Look::Found(hit)
            }
            Some(Ok(None)) => {
                count(&self.counts.misses);
                Look::Missing
            }
            Some(Err(LevelError::Corrupt)) => {
                count(&self.counts.corrupt);
                count(&self.counts.misses);
                Look::Missing
            }
            Some(Err(_)) => Look::Unknown,
        }
    }

    /// What came of a write; whether the key is to be forgotten now.
    pub(super) fn wrote(&self, key: &K, told: Told<()>) -> bool {
        match told {
            None => {
                count(&self.counts.bypassed);
                self.debts.owe(key);
            }
            Some(Ok(())) => {
                count(&self.counts.writes);
                self.debts.settle(key);
            }
            Some(Err(error)) if error.is_failure() => self.debts.owe(key),
            Some(Err(_)) => {
                count(&self.counts.dropped);
                return true;
            }
        }
        false
    }

    /// What came of a removal.
    #[allow(clippy::needless_pass_by_value, reason = "as for the others")]
    pub(super) fn forgot(&self, key: &K, told: Told<()>) {
        match told {
            None => {
                count(&self.counts.bypassed);
                self.debts.owe(key);
            }
            Some(Ok(())) => {
                count(&self.counts.removals);
                self.debts.settle(key);
            }
            // What can't be put into bytes is not there.
            Some(Err(LevelError::Encode(_))) => self.debts.settle(key),
            Some(Err(_)) => self.debts.owe(key),
        }
    }

    /// What came of paying; whether there may be more to be paid.
    #[allow(clippy::needless_pass_by_value, reason = "as for the others")]
    pub(super) fn paid(&self, due: Due<K>, told: Told<()>) -> bool {
        match told {
            Some(Ok(()) | Err(LevelError::Encode(_))) => {
                self.debts.paid(due);
                return true;
            }
            // The others come first from now on, should it be this one that can't be paid.
            Some(Err(_)) => self.debts.put_off(&due),
            None => {}
        }
        false
    }

    /// A new value or a removal of `key` is not going to reach the level.
    pub(crate) fn doubt(&self, key: &K) {
        self.debts.owe(key);
    }

    /// Nothing is to be had of the level until it has been cleared, by whomever.
    pub(crate) fn doubt_all(&self) {
        self.debts.owe_all();
    }

    pub(super) fn stats(&self, name: impl FnOnce(&L) -> &str) -> LevelStats {
        let (breaker, opened) = self.circuit.state();
        let name = quietly(|| name(&self.level).to_owned()).unwrap_or_default();
        let doubts = self.debts.len();
        LevelStats { opened, breaker, doubts, ..self.counts.stats(&name) }
    }
}

impl<K: Hash + Eq + Clone, V> Tier<K, dyn Level<K, V>> {
    /// Calls the level, if its breaker lets it.
    fn call<R>(&self, f: impl FnOnce(&dyn Level<K, V>) -> Result<R, LevelError>) -> Told<R> {
        let start = self.clock.now();
        let leave = self.circuit.admit(start)?;
        let result = quietly(|| f(&*self.level)).unwrap_or(Err(LevelError::Panicked));
        Some(self.end(leave, start, result))
    }

    pub(crate) fn get(&self, key: &K) -> Look<V> {
        self.pay(PAID_AT_ONCE);
        if self.doubts(key) {
            return Look::Unknown;
        }
        self.looked(self.call(|level| level.get(key)))
    }

    pub(crate) fn put(&self, key: &K, value: &V, ttl: Option<Duration>) {
        self.pay(PAID_AT_ONCE);
        if self.wrote(key, self.call(|level| level.put(key, value, ttl))) {
            self.forget(key);
        }
    }

    pub(crate) fn remove(&self, key: &K) {
        self.pay(PAID_AT_ONCE);
        self.forget(key);
    }

    fn forget(&self, key: &K) {
        self.forgot(key, self.call(|level| level.remove(key)));
    }

    /// Pays some of what the level is owed, if it can be reached and nobody else is at it.
    pub(crate) fn pay(&self, most: usize) {
        if self.debts.any() {
            self.pay_some(most);
        }
    }

    #[cold]
    fn pay_some(&self, most: usize) {
        let Some(_paying) = self.debts.begin_paying() else { return };
        for _ in 0..most {
            let Some(due) = self.debts.due() else { break };
            let done = match &due {
                Due::Remove(key, _) => self.call(|level| level.remove(key)),
                Due::Clear(_) => self.call(|level| level.clear()),
            };
            if !self.paid(due, done) {
                break;
            }
        }
    }

    /// Has the level make durable what it was told.
    pub(crate) fn flush(&self) -> Result<(), LevelError> {
        quietly(|| self.level.flush()).unwrap_or(Err(LevelError::Panicked))
    }

    /// Has the level do what is due, if it is not bypassed.
    pub(crate) fn maintain(&self, work: usize) -> usize {
        self.pay(work);
        match self.call(|level| level.maintain(work)) {
            Some(Ok(done)) => done,
            _ => 0,
        }
    }
}
