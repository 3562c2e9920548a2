//! The levels below level one, and the order in which they are told things.
//!
//! Everything that concerns one key and goes beyond level one happens within a flight of that key
//! (see `flight.rs`): lookups below, computations, insertions, removals, entries that level one
//! evicted. So for one key there is one thing at a time, none of which another can undo, and callers
//! who look for the same key share one lookup. No lock is held meanwhile.

use std::{
    hash::Hash,
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire},
    },
    time::Duration,
};

use nebula_memory_core::{Clock, panics::quietly, sync::Arc};

use super::{
    Demotion, WhenFull,
    limbo::Limbo,
    queue::{Op, Queue},
    rules::Promoter,
    stats::count,
    tier::{Look, Tier},
};
use crate::{flight::Flights, hooks::Demote, times::NEVER};

pub(crate) struct Lower<K, V> {
    pub(crate) tiers: Box<[Tier<K, V>]>,
    pub(crate) flights: Flights<K, V>,
    pub(crate) limbo: Limbo,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) promoter: Promoter,
    pub(crate) demotion: Demotion,
    pub(crate) queue: Option<Queue<K, V>>,
    pub(crate) when_full: WhenFull,
    /// How often everything has been cleared.
    clears: AtomicU64,
}

/// What was found below level one.
#[derive(Debug)]
pub(crate) struct Found<V> {
    pub(crate) value: V,
    /// On the clock: until when it lives.
    pub(crate) until: Option<Duration>,
    /// How many levels are between level one and it.
    pub(crate) above: usize,
}

/// A hash as flights and the queue use it.
pub(crate) const fn spread(hash: u32) -> u64 {
    // (A cast: this has to be const.)
    (hash as u64) << 32 | hash as u64
}

impl<K: Hash + Eq + Clone, V: Clone> Lower<K, V> {
    pub(crate) fn new(
        tiers: Box<[Tier<K, V>]>,
        stripes: usize,
        clock: Arc<dyn Clock>,
        promoter: Promoter,
        demotion: Demotion,
        queue: Option<(usize, WhenFull)>,
    ) -> Self {
        Self {
            tiers,
            flights: Flights::new(stripes),
            limbo: Limbo::new(),
            clock,
            promoter,
            demotion,
            queue: queue.map(|(capacity, _)| Queue::new(capacity)),
            when_full: queue.map(|(_, when_full)| when_full).unwrap_or_default(),
            clears: AtomicU64::new(0),
        }
    }

    /// Changes with each [`clear`](Self::clear).
    pub(crate) fn clears(&self) -> u64 {
        self.clears.load(Acquire)
    }

    /// Looks for `key` in each level, in their order. Within its flight.
    pub(crate) fn find(&self, hash: u32, key: &K) -> Option<Found<V>> {
        if let Some(queue) = &self.queue {
            match queue.find(spread(hash), key) {
                Some(Op::Put { value, until, .. }) => {
                    if until.is_some_and(|until| until <= self.clock.now()) {
                        return None;
                    }
                    queue.count_hit();
                    return Some(Found { value: V::clone(&value), until, above: 0 });
                }
                Some(Op::Remove) => return None,
                None => {}
            }
        }
        for (above, tier) in self.tiers.iter().enumerate() {
            if let Look::Found(hit) = tier.get(key) {
                let until = hit.ttl.map(|ttl| self.clock.now().saturating_add(ttl));
                return Some(Found { value: hit.value, until, above });
            }
        }
        None
    }

    /// Has the first `levels` levels hold `value`, now or soon. Within the key's flight. A value that
    /// is `fresh` makes what they hold wrong; others may be dropped without harm.
    pub(crate) fn put(
        &self,
        hash: u32,
        key: &K,
        value: &V,
        until: Option<Duration>,
        levels: usize,
        fresh: bool,
    ) {
        let Some(queue) = &self.queue else {
            self.put_now(key, value, until, levels);
            return;
        };
        let op = Op::Put { value: Arc::new(value.clone()), until, levels, cleared: false };
        if queue.push(spread(hash), key, op).is_err() {
            match self.when_full {
                WhenFull::Write => {
                    count(&queue.written);
                    self.put_now(key, value, until, levels);
                }
                WhenFull::Drop => {
                    count(&queue.dropped);
                    for tier in &self.tiers[..levels] {
                        count(&tier.counts.dropped);
                        if fresh {
                            tier.doubt(key);
                        }
                    }
                }
            }
        }
    }

    /// Has no level hold anything under `key`, now or soon. Within its flight.
    pub(crate) fn remove(&self, hash: u32, key: &K) {
        let Some(queue) = &self.queue else {
            self.remove_now(key);
            return;
        };
        if queue.push(spread(hash), key, Op::Remove).is_err() {
            match self.when_full {
                WhenFull::Write => {
                    count(&queue.written);
                    self.remove_now(key);
                }
                WhenFull::Drop => {
                    count(&queue.dropped);
                    self.tiers.iter().for_each(|tier| tier.doubt(key));
                }
            }
        }
    }

    /// No level is to be asked about `key` until it has been told to remove it. For when a panic has
    /// cut short what they were to be told; does not panic itself.
    #[cold]
    pub(crate) fn doubt(&self, hash: u32, key: &K) {
        if let Some(queue) = &self.queue {
            let _ = quietly(|| queue.cancel(spread(hash), key));
        }
        for tier in &self.tiers {
            if quietly(|| tier.doubt(key)).is_none() {
                // Not even the key can be cloned.
                let _ = quietly(|| tier.doubt_all());
            }
        }
    }

    fn put_now(&self, key: &K, value: &V, until: Option<Duration>, levels: usize) {
        for tier in &self.tiers[..levels] {
            match until.map(|until| until.saturating_sub(self.clock.now())) {
                // Too late for it; but what is there is older still.
                Some(Duration::ZERO) => tier.remove(key),
                ttl => tier.put(key, value, ttl),
            }
        }
    }

    fn remove_now(&self, key: &K) {
        self.tiers.iter().for_each(|tier| tier.remove(key));
    }

    /// Takes over an entry that level one evicted.
    fn demote(&self, hash: u32, key: &K, value: &V, deadline: u64) {
        let until = (deadline != NEVER).then(|| Duration::from_nanos(deadline));
        if until.is_some_and(|until| until <= self.clock.now()) {
            return;
        }
        let clears = self.clears();
        // Whoever is at it with the key is later than this.
        let lead = self.flights.try_lead(spread(hash), key);
        match lead.filter(|_| self.limbo.is_current(hash)) {
            Some(lead) => {
                self.put(hash, key, value, until, 1, false);
                if self.clears() == clears {
                    lead.land(|| value.clone());
                } else {
                    // It may have come in after the level was cleared.
                    self.remove(hash, key);
                }
            }
            None => count(&self.tiers[0].counts.dropped),
        }
    }

    /// Has nothing that waits be written, and all levels forget what they hold, as soon as they can.
    pub(crate) fn clear(&self) {
        // What level one has evicted and is on its way is not to arrive: neither what sees this, nor
        // what has been looked at before and then sees that there was a clear.
        self.limbo.touch_all();
        self.clears.fetch_add(1, AcqRel);
        if let Some(queue) = &self.queue {
            queue.clear();
        }
        self.tiers.iter().for_each(Tier::clear);
    }

    /// What the thread does that writes behind.
    pub(crate) fn serve(&self) {
        let Some(queue) = &self.queue else { return };
        while let Some(mut job) = queue.next() {
            loop {
                // (Levels are guarded; this is for `Hash` and `Clone` of keys.)
                let _ = quietly(|| match &job.op {
                    Op::Put { value, until, levels, cleared } => {
                        self.put_now(&job.key, value, *until, *levels);
                        if *cleared {
                            self.tiers[*levels..].iter().for_each(|tier| tier.remove(&job.key));
                        }
                    }
                    Op::Remove => self.remove_now(&job.key),
                });
                match queue.finish(job) {
                    Some(next) => job = next,
                    None => break,
                }
            }
        }
    }
}

/// Hands what level one evicts to the levels below.
pub(crate) struct Demoter<K, V>(pub(crate) Arc<Lower<K, V>>);

impl<K: Hash + Eq + Clone, V: Clone> Demote<K, V> for Demoter<K, V> {
    fn leaving(&self, hash: u32) {
        self.0.limbo.enter(hash);
    }

    fn left(&self, hash: u32, key: &K, value: &V, deadline: u64) {
        // If `Clone` panics, the value is lost to the levels below, and to nobody else.
        let _ = quietly(|| self.0.demote(hash, key, value, deadline));
        self.0.limbo.exit(hash);
    }
}
