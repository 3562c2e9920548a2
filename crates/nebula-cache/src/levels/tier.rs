//! A level with what the cache keeps of it: its breaker, its debts, its counters. Nothing that a level
//! does gets out of here but what it found.

use std::{hash::Hash, time::Duration};

use nebula_memory_core::{Clock, panics::quietly, sync::Arc};

use super::{
    Breaker, Hit, Level, LevelError, LevelStats,
    breaker::Circuit,
    debts::{Debts, Due},
    stats::{Counts, count},
};

/// How many debts are paid by one operation.
const PAID_AT_ONCE: usize = 4;

pub(crate) struct Tier<K, V> {
    level: Box<dyn Level<K, V>>,
    circuit: Circuit,
    debts: Debts<K>,
    pub(crate) counts: Counts,
    clock: Arc<dyn Clock>,
}

/// What a level says of a key.
#[derive(Debug)]
pub(crate) enum Look<V> {
    Found(Hit<V>),
    /// It holds nothing.
    Missing,
    /// It can't be asked.
    Unknown,
}

impl<K: Hash + Eq + Clone, V> Tier<K, V> {
    pub(crate) fn new(level: Box<dyn Level<K, V>>, rules: Breaker, clock: Arc<dyn Clock>) -> Self {
        let (circuit, debts) = (Circuit::new(rules), Debts::new());
        Self { level, circuit, debts, counts: Counts::default(), clock }
    }

    /// Calls the level, if its breaker lets it.
    fn call<R>(
        &self,
        f: impl FnOnce(&dyn Level<K, V>) -> Result<R, LevelError>,
    ) -> Option<Result<R, LevelError>> {
        let start = self.clock.now();
        let leave = self.circuit.admit(start)?;
        let result = quietly(|| f(&*self.level)).unwrap_or(Err(LevelError::Panicked));
        let end = self.clock.now();
        let failed = result.as_ref().is_err_and(LevelError::is_failure);
        if failed {
            count(&self.counts.errors);
        }
        if self.circuit.note(leave, !failed, end.saturating_sub(start), end) {
            count(&self.counts.slow);
        }
        Some(result)
    }

    pub(crate) fn get(&self, key: &K) -> Look<V> {
        self.pay(PAID_AT_ONCE);
        if self.debts.owes(key) {
            count(&self.counts.bypassed);
            return Look::Unknown;
        }
        match self.call(|level| level.get(key)) {
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

    pub(crate) fn put(&self, key: &K, value: &V, ttl: Option<Duration>) {
        self.pay(PAID_AT_ONCE);
        match self.call(|level| level.put(key, value, ttl)) {
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
                self.forget(key);
            }
        }
    }

    pub(crate) fn remove(&self, key: &K) {
        self.pay(PAID_AT_ONCE);
        self.forget(key);
    }

    fn forget(&self, key: &K) {
        match self.call(|level| level.remove(key)) {
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

    /// A new value or a removal of `key` is not going to reach the level.
    pub(crate) fn doubt(&self, key: &K) {
        self.debts.owe(key);
    }

    /// Nothing of what the level holds is to be taken for true until it has been cleared.
    pub(crate) fn doubt_all(&self) {
        self.debts.owe_all();
    }

    pub(crate) fn clear(&self) {
        // Nothing is to be had of it until it is done, by whomever.
        self.debts.owe_all();
        self.pay(1);
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
            match done {
                Some(Ok(()) | Err(LevelError::Encode(_))) => self.debts.paid(due),
                // The others come first from now on, should it be this one that can't be paid.
                Some(Err(_)) => return self.debts.put_off(&due),
                None => return,
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

    pub(crate) fn stats(&self) -> LevelStats {
        let (breaker, opened) = self.circuit.state();
        let name = quietly(|| self.level.name().to_owned()).unwrap_or_default();
        let doubts = self.debts.len();
        LevelStats { opened, breaker, doubts, ..self.counts.stats(&name) }
    }
}
